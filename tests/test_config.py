from pathlib import Path
from textwrap import dedent

import pytest

from pairloom.flows.config import load_pipeline, pipeline_folder, pipeline_names
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
        ("sources.0.kind=jsnl", "sources.0: "),
        ("training.max_minutes=abc", "training.max_minutes: Input should be a valid number"),
        ("training.batch_size=1", "training.batch_size: Input should be greater than or equal to 2, not 1"),
        ("columns.keep.texts=string", "texts is the name of a column of Pairloom's own"),
        ("columns.keep.price=decimal", "columns.keep.price"),
        ("sources=[]", "sources: "),
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
