from pathlib import Path
from textwrap import dedent
from typing import Any

import lance
import pyarrow as pa
import pytest
import yaml

from pairloom.flows.config import load_pipeline, located, pipeline_folder, pipeline_names, written_pipeline
from pairloom.flows.stamp import Stamp, differing
from pairloom.storage.column_names import STORED, UNSTORABLE_NAMES
from pairloom.storage.schema import HUBNESS, ITEM_FIELDS, VECTOR_COLUMNS, VECTOR_FIELDS
from pairloom.storage.sources.rows import Source
from pairloom.tasks.lineage import lineage
from pairloom.tasks.pipeline import Pipeline

PROJECT = Path(__file__).parents[1]

# The example of the design document, word for word but for its comments.
DESIGNED = """
    root: .pairloom
    pipelines:
      grocery:
        sources:
          - {kind: jsonl, path: ../../shared/data/grocery/captions.jsonl, base: ../../shared/data}
        columns: {id: image_id, image: image, texts: [texts], group: concept_id, split: split, keep: {subgroup: string, bytes: int64}}
        ingest:   {max_side: 96, min_side: 16}
        model:    {architecture: tiny-64, pretrained: null}
        mining:   {num_negatives: 4, relative_margin: 0.05}
        objective: [{loss: clip, weight: 1.0}]
        training: {max_minutes: 3, batch_size: 256, learning_rate: 1.0e-3, seed: 0}
        retrain:  {min_new_fraction: 0.02, every_nights: 7}
        evaluation: {k: [1, 5, 10], slices: [subgroup]}
        gate:     {min: {text_to_image_recall@10: 0.2}, max_regression: 0.01, confidence: 0.95}
        index:    {kind: ivf_rq, min_ann_recall@10: 0.95}
        retention: {releases: 7}
        schedule: {cron: "30 2 * * *", timezone: Europe/Berlin}
        workers:  {default: cpu, train: gpu, embed: gpu}
"""  # noqa: E501


def write(folder: Path, text: str) -> Path:
    file = folder / "pipelines.yaml"
    file.write_text(dedent(text), encoding="utf-8")
    return file


def written(folder: Path, **blocks: Any) -> Pipeline:
    """A pipeline as a file says it."""
    block = {"sources": [{"kind": "jsonl", "path": "a.jsonl"}], **blocks}
    written = written_pipeline(write(folder, yaml.safe_dump({"pipelines": {"a": block}})), "a")
    return located(written, folder)


def fault(file: Path, name: str | None = None, *overrides: str) -> str:
    with pytest.raises(ValueError, match=str(file.name)) as caught:
        load_pipeline(file, name, overrides=overrides)
    return str(caught.value)


def test_the_designed_example_is_valid_and_its_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    pipeline = load_pipeline(write(tmp_path, DESIGNED))
    assert pipeline.sources[0].path == (tmp_path / "../../shared/data/grocery/captions.jsonl").resolve()
    assert pipeline.folder == tmp_path / ".pairloom" / "grocery"
    assert pipeline.index.min_ann_recall == 0.95
    assert pipeline.workers.train == "gpu"


def test_a_weights_file_is_relative_to_the_file_and_a_tag_stays_a_tag(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").touch()
    text = "pipelines: {{a: {{sources: [{{kind: folder, path: b}}], model: {{pretrained: {}}}}}}}"
    assert load_pipeline(write(tmp_path, text.format("openai"))).model.pretrained == "openai"
    loaded = load_pipeline(write(tmp_path, text.format("weights.safetensors")))
    assert loaded.model.pretrained == str(tmp_path / "weights.safetensors")


def test_a_pipeline_survives_the_way_through_json(tmp_path: Path) -> None:
    pipeline = load_pipeline(write(tmp_path, DESIGNED))
    assert Pipeline.model_validate_json(pipeline.model_dump_json(by_alias=True)) == pipeline


def test_a_column_that_is_said_by_its_default_is_no_other_column(tmp_path: Path) -> None:
    defaults: dict[str, Any] = {"image": "image", "texts": ["text"], "group": None, "split": None, "keep": {}}
    few, every = (written(tmp_path, columns={"id": "id"} | more) for more in ({}, defaults))
    assert Stamp.of(few) == Stamp.of(every)
    assert differing(few, every) == []
    (tmp_path / "a.jsonl").write_text('{"id": "1", "image": "a.png", "text": "a"}\n')
    read = [Source(each.sources[0], each.columns).identity for each in (few, every)]
    assert read[0] == read[1], "or every row is read anew by a night of the form"


@pytest.mark.parametrize(
    ("before", "after", "keys"),
    [
        ({"objective": [{"loss": "n_pair"}]}, {"objective": [{"loss": "siglip"}]}, ["objective"]),
        ({"sources": [{"kind": "csv", "path": "a"}]}, {"sources": [{"kind": "tsv", "path": "a"}]}, ["sources"]),
        (
            {"columns": {"image": "photo"}, "sources": [{"kind": "csv", "path": "a", "columns": {"id": "id"}}]},
            {
                "columns": {"image": "photo"},
                "sources": [{"kind": "csv", "path": "a", "columns": {"id": "id", "image": "image"}}],
            },
            ["sources"],
        ),
        ({}, {"gate": {"min": {"text_to_image_recall@10": 0.5}}}, ["gate.min.text_to_image_recall@10"]),
        ({}, {"columns": {"keep": {"colour": "string"}}}, ["columns.keep.colour"]),
        ({}, {"mining": {"num_negatives": 3}}, ["mining.num_negatives"]),
    ],
)
def test_an_edit_is_seen_and_named(
    before: dict[str, Any], after: dict[str, Any], keys: list[str], tmp_path: Path
) -> None:
    one, other = written(tmp_path, **before), written(tmp_path, **after)
    assert Stamp.of(one) != Stamp.of(other)
    assert differing(one, other) == keys


def test_a_lineage_tells_which_loss_it_was_with_nothing_else_said_of_it(tmp_path: Path) -> None:
    assert lineage(written(tmp_path, objective=[{"loss": "n_pair"}])).config["objective.0.loss"] == "n_pair"


@pytest.mark.parametrize("file", ["pipelines.yaml", "benchmarks/pipelines.yaml"])
def test_every_shipped_pipeline_is_valid(file: str) -> None:
    for name in pipeline_names(PROJECT / file):
        assert load_pipeline(PROJECT / file, name).name == name


def test_root_and_overrides_come_from_the_command_line(tmp_path: Path) -> None:
    file = write(tmp_path, DESIGNED)
    overrides = ["training.max_minutes=1", "gate.min.text_to_image_recall@10=0.5", "objective.0.weight=2", "model={}"]
    pipeline = load_pipeline(file, root=tmp_path / "other", overrides=overrides)
    assert pipeline.folder == tmp_path / "other" / "grocery"
    assert pipeline.training.max_minutes == 1
    assert pipeline.gate.min == {"text_to_image_recall@10": 0.5}
    assert pipeline.objective[0].weight == 2
    assert pipeline_folder(file, root=tmp_path / "other") == pipeline.folder


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainign.max_minutes=1", "unknown key 'trainign'; did you mean 'training'?"),
        ("training.max_minuts=1", "unknown key 'training.max_minuts'; did you mean 'max_minutes'?"),
        ("training.augmentation.shfit=0", "unknown key 'training.augmentation.shfit'; did you mean 'shift'?"),
        ("sources.0.pth=x", "unknown key 'sources.0.pth'; did you mean 'path'?"),
        (
            "sources.0.kind=jsnl",
            "sources.0.kind: 'jsnl' is none of jsonl, csv, tsv, folder, parquet, webdataset, lance; did you mean",
        ),
        ("training.max_minutes=abc", "training.max_minutes: Input should be a valid number"),
        ("training.batch_size=1", "training.batch_size: Input should be greater than or equal to 2, not 1"),
        ("columns.keep.texts=string", "texts is the name of a column of Pairloom's own"),
        ("columns.keep.price=decimal", "columns.keep.price"),
        ("sources=[]", "sources: "),
        ("sources.0.columns.keep.subgrup=string", "no such column; did you mean 'subgroup'?"),
        ("sources.0.columns.keep.bytes=string", "keep it as int64, and one corpus has one type for it: say {column: "),
        ("columns.keep.bytes=null", "columns.keep.bytes: null is for a source's own `columns`"),
        ("name=other", "unknown key 'name'"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_file_and_pipeline(tmp_path: Path, override: str, said: str) -> None:
    message = fault(write(tmp_path, DESIGNED), None, override)
    assert said in message
    assert "pipelines.yaml: pipeline 'grocery': " in message


@pytest.mark.parametrize("override", ["training", "=1", "sources.7.path=x", "training.max_minutes.more=1", "a=[1"])
def test_an_override_that_cannot_be_applied_is_named(tmp_path: Path, override: str) -> None:
    with pytest.raises(ValueError, match="--set") as caught:
        load_pipeline(write(tmp_path, DESIGNED), overrides=[override])
    assert repr(override) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pipelines: [", "no valid YAML"),
        ("- a", "must be a mapping"),
        ("pipeline: {}", "unknown key 'pipeline'; did you mean 'pipelines'?"),
        ("root: x", "'pipelines' must hold at least one pipeline"),
        ("pipelines: {mine: 3}", "must be a mapping of keys, not 3"),
        ("pipelines: {'../mine': {sources: [{kind: folder, path: x}]}}", "a pipeline can't be called '../mine'"),
        ("pipelines: {mine: {}}", "sources: Field required"),
        ("a: &a [*a]", "no valid YAML"),
        ("pipelines: !!python/object/apply:os.system ['true']", "no valid YAML"),
    ],
)
def test_a_file_that_is_no_pipelines_file_is_one_clear_line(tmp_path: Path, text: str, said: str) -> None:
    message = fault(write(tmp_path, text))
    assert said in message
    assert "\n" not in message


def test_a_missing_file_or_pipeline_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no file .*absent\.yaml"):
        load_pipeline(tmp_path / "absent.yaml")
    assert "no pipeline 'grosery'; did you mean 'grocery'?" in fault(write(tmp_path, DESIGNED), "grosery")


def test_of_several_pipelines_one_must_be_chosen(tmp_path: Path) -> None:
    block = "{sources: [{kind: folder, path: x}]}"
    assert "choose one with -p (a, b)" in fault(write(tmp_path, f"pipelines: {{a: {block}, b: {block}}}"))


def test_two_sources_of_one_name_are_refused(tmp_path: Path) -> None:
    source = "{kind: folder, path: x/y}"
    assert "two sources are called" in fault(write(tmp_path, f"pipelines: {{a: {{sources: [{source}, {source}]}}}}"))


def test_patterns_and_lists_of_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    text = "pipelines: {a: {sources: [{kind: jsonl, path: ['x/*.jsonl', y.jsonl], base: pics}]}}"
    source = load_pipeline(write(tmp_path, text)).sources[0]
    assert source.paths == (tmp_path / "x/*.jsonl", tmp_path / "y.jsonl")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sources.0.path=3", "sources.0.path: Input is not a valid path"),
        ("sources.0.path=[a, 3]", "sources.0.path.1: Input is not a valid path"),
        ("sources.0.kind=null", "sources.0.kind: 'None' is none of"),
        ("sources.0={path: x}", "sources.0.kind: Field required"),
        ("columns.keep.price=decimal", "columns.keep.price: Input should be 'string', 'int64'"),
        ("columns.keep.price={column: cost}", "columns.keep.price.type: Field required"),
        ("objective.0.loss=clipp", "objective.0.loss: 'clipp' is none of clip, "),
        ("sources.0.encoding=utf-99", "sources.0.encoding: no encoding of texts that Python knows"),
        ("sources.0={kind: csv, path: x, quote: ','}", "cells can't be told apart"),
    ],
)
def test_one_wrong_value_is_one_line(tmp_path: Path, override: str, said: str) -> None:
    message = fault(write(tmp_path, DESIGNED), None, override)
    assert f"pipeline 'grocery': {said}" in message.replace("sources.0: cells", "cells")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("override", "said"),
    [
        *(
            (f"columns.keep={{{name}: string}}", f"{name!r}; keep yours under another one: my_{plain}: {{column: ")
            for name, plain in [("size.cm", "size_cm"), ("a`b", "a_b"), ("_rowid", "rowid"), ("_rowaddr", "rowaddr")]
        ),
        ("columns.keep={_rowoffset: string}", "can't have a column called '_rowoffset'"),
        ("columns.keep={_row_created_at_version: string}", "can't have a column called"),
        ("columns.keep={_row_last_updated_at_version: string}", "can't have a column called"),
        ("columns.keep={'': string}", "can't have a column called ''"),
        (
            "columns.keep={Group: string}",
            "SQL can't tell from group; keep yours under another one: my_Group: {column: ",
        ),
        ("columns.keep={size: string, Size: int64}", "SQL can't tell Size from size; keep yours under another"),
        ("gate.min.recall@10=0.5", "did you mean 'text_to_image_recall@10'?"),
        ("gate.min.text_to_image_recall@20=0.5", "gate.min: text_to_image_recall@20 isn't measured"),
        ("gate.min.probe_subgroup_svm=0.5", "gate.min: probe_subgroup_svm isn't measured"),
        ("gate.min={text_to_image_map@r/group=x: 0.5}", "slices are /novel_text=…, /novel_group=…, /subgroup=…"),
        ("evaluation.slices=[subgrup]", "the items have no 'subgrup'; add it to columns.keep"),
        ("evaluation.slices=[subgrup]", "did you mean 'subgroup'?"),
        ("evaluation.probes=[colour]", "evaluation.probes: the items have no 'colour'"),
    ],
)
def test_names_that_a_later_stage_would_refuse_are_refused_when_the_file_is_read(
    tmp_path: Path, override: str, said: str
) -> None:
    message = fault(write(tmp_path, DESIGNED), None, override)
    assert said in message
    assert "\n" not in message


def test_floors_can_stand_on_slices_and_probes(tmp_path: Path) -> None:
    floors = (
        "gate.min={text_to_image_map@r/novel_text=yes: 0, image_to_text_ndcg@10/subgroup=a=b: 0, probe_group_knn: 0}"
    )
    overrides = ["evaluation.probes=[group]", floors]
    assert len(load_pipeline(write(tmp_path, DESIGNED), overrides=overrides).gate.min) == 3


@pytest.mark.parametrize("character", [*'ö日#%?[]*{}~"`|^<>\\', "\t", "\u0301"])
def test_a_root_that_lance_writes_beside_is_refused_before_any_work(tmp_path: Path, character: str) -> None:
    root = tmp_path / f"a{character}b" / "root"
    with pytest.raises(ValueError, match=r"Lance can't keep a table below a folder with .* in its name: name another"):
        load_pipeline(write(tmp_path, DESIGNED), root=root)


@pytest.mark.parametrize("name", ["a'b c&d+e=f;g$h@i!j,k(l):m-n_o.p", "ö#"])
def test_roots_that_are_not_refused_are_ones_that_lance_keeps_its_tags_in(tmp_path: Path, name: str) -> None:
    table = tmp_path / name / "t.lance"
    table.parent.mkdir()
    dataset = lance.write_dataset(pa.table({"item_id": ["1"]}), str(table))
    dataset.tags.create("release-1", dataset.version)
    beside = [each.name for each in tmp_path.iterdir() if each.name != name]
    assert beside == (["%C3%B6%23"] if name == "ö#" else [])
    if name != "ö#":
        assert load_pipeline(write(tmp_path, DESIGNED), root=tmp_path / name).root == tmp_path / name


@pytest.mark.parametrize("root", ["ftp://host/root", "file:///tmp/x"])
def test_an_address_of_anything_but_object_storage_is_no_root(tmp_path: Path, root: str) -> None:
    text = dedent(DESIGNED).replace("root: .pairloom", f"root: {root}")
    assert "it can be a folder of this machine, s3://" in fault(write(tmp_path, text))
    with pytest.raises(ValueError, match="it can be a folder of this machine"):
        load_pipeline(write(tmp_path, DESIGNED), root=Path(root))
    with pytest.raises(ValueError, match="it can be a folder of this machine"):
        pipeline_folder(write(tmp_path, text))


@pytest.mark.parametrize("root", ["s3://bucket/root", "gs://bucket", "az://container/a/b"])
def test_a_root_on_object_storage_is_the_same_wherever_it_is_named(tmp_path: Path, root: str) -> None:
    file = write(tmp_path, dedent(DESIGNED).replace("root: .pairloom", f"root: {root}"))
    pipeline = load_pipeline(file)
    assert str(pipeline.folder) == f"{root}/grocery"
    assert str(pipeline_folder(file)) == f"{root}/grocery"
    written = written_pipeline(file, "grocery").model_dump_json()
    assert located(Pipeline.model_validate_json(written), tmp_path) == pipeline
    file = write(tmp_path, DESIGNED)
    # A command line's option is a path, in which pathlib keeps one of the slashes.
    assert load_pipeline(file, root=Path(root)) == pipeline
    assert located(written_pipeline(file, "grocery"), tmp_path, root=Path(root)) == pipeline


def test_no_column_of_ours_can_be_taken() -> None:
    assert set(STORED) == {field.name for field in (*ITEM_FIELDS, *VECTOR_FIELDS)} | {*VECTOR_COLUMNS, HUBNESS}


@pytest.mark.parametrize("name", [*sorted(UNSTORABLE_NAMES), "a.b", "a`b", ""])
def test_names_that_are_refused_are_ones_that_lance_cannot_write(tmp_path: Path, name: str) -> None:
    def upserted(name: str) -> int:
        rows = pa.table({"item_id": ["1"], name: ["x"]})
        table = lance.write_dataset(rows.schema.empty_table(), str(tmp_path / f"{name == 'plain'}.lance"))
        merge = table.merge_insert("item_id").when_matched_update_all().when_not_matched_insert_all()
        return int(merge.execute(rows)["num_inserted_rows"])

    assert upserted("plain") == 1
    with pytest.raises(OSError, match=r"reserved name|cannot contain|not found"):
        upserted(name)
