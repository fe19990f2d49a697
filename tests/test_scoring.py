"""`pairloom evaluate --model … --data …`: any model on any source."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from test_cli import document, error, invoke
from tiny import tiny_encoder

from pairloom.flows.show.metrics_table import metrics_grid, slices_grid
from pairloom.models.evaluation.config import EvaluationConfig
from pairloom.models.evaluation.slices import overall
from pairloom.storage.corpus import Corpus
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.ingest import Ingest
from pairloom.storage.sources.columns import ColumnsConfig
from pairloom.storage.sources.config import JsonlSource
from pairloom.tasks.evaluation.probing import read_probe_items
from pairloom.tasks.items import read_items


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An OpenCLIP folder of an untrained network."""
    folder = tmp_path_factory.mktemp("model")
    tiny_encoder(folder).save(folder / "openclip")
    return str(folder / "openclip")


def captions(shapes: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (shapes / "captions.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_model_folder_is_scored_on_a_captions_file(shapes: Path, model: str) -> None:
    asked = ("--model", model, "--data", str(shapes / "captions.jsonl"), "--column", "group=group")
    scores = document("evaluate", *asked, "--k", "3", "--slices", "colour")
    assert list(scores) == [
        "model", "data", "split", "rows", "rejected", "queries",
        "metrics", "probes", "intervals", "confidence", "seconds",
    ]  # fmt: skip
    assert scores["rows"] | {"seen": 60, "new": 60, "quarantined": 0, "scored": 60} == scores["rows"]
    assert scores["queries"] == {"text_to_image": 60, "image_to_text": 60, "image_to_image": 60}
    assert "text_to_image_recall@3/colour=red" in scores["metrics"]
    assert "text_to_image_recall@10" not in scores["metrics"]
    assert scores["intervals"].keys() == scores["metrics"].keys()
    assert document("evaluate", *asked, "--k", "3", "--slices", "colour")["metrics"] == scores["metrics"]


def test_the_same_items_as_csv_and_as_a_folder_score_the_same(shapes: Path, model: str, tmp_path: Path) -> None:
    rows = captions(shapes)
    with (tmp_path / "items.csv").open("w", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["picture", "caption"])
        writer.writeheader()
        writer.writerows({"picture": row["image"], "caption": row["text"]} for row in rows)
    shutil.copytree(shapes, tmp_path / "pictures")
    for row in rows:
        (tmp_path / "pictures" / str(row["image"])).with_suffix(".txt").write_text(str(row["text"]))
    read = [
        [str(shapes / "captions.jsonl")],
        [str(tmp_path / "items.csv"), "--base", str(shapes), "--column", "image=picture", "--column", "texts=caption"],
        [str(tmp_path / "pictures")],
    ]
    jsonl, table, folder = (document("evaluate", "--model", model, "--data", *each)["metrics"] for each in read)
    assert jsonl == table
    # The folder's pictures come in another order, so that the last bits of their embeddings may be others.
    assert folder == pytest.approx(jsonl, abs=1e-3)


def test_the_champion_scores_as_in_its_night(
    shapes: Path, tmp_path: Path, write_pipelines: Callable[..., Path]
) -> None:
    of = ("--file", str(write_pipelines(tmp_path, shapes)), "-p", "shapes")
    night = document("run", *of)
    data = ("--data", str(shapes / "captions.jsonl"), "--split", "val")
    scores = document("evaluate", "--model", night["model_id"], *data, *of)
    assert overall(scores["metrics"]) == pytest.approx(night["metrics"])
    assert any("/colour=" in name for name in scores["metrics"])
    assert document("status", *of)[0]["release"] == 1


def test_labels_are_read_off_the_embeddings(shapes: Path, model: str) -> None:
    asked = ("evaluate", "--model", model, "--data", str(shapes / "captions.jsonl"), "--probe", "colour")
    scores = document(*asked, "--split", "val")
    assert list(scores["probes"]) == ["probe_colour_logistic", "probe_colour_svm", "probe_colour_knn"]
    assert scores["probes"].keys() | scores["metrics"].keys() == scores["intervals"].keys()
    scores = document(*asked)
    assert scores["probes"]["probe_colour_logistic"] > 0.9
    assert any(line.startswith("probe  ") for line in invoke(*asked).stdout.splitlines())


def test_what_probes_learn_from_does_not_depend_on_the_order_of_items(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pairloom.models.evaluation.probes.MAX_TRAINING_ITEMS", 20)
    columns = ColumnsConfig(id="id", texts=["text"], group="group", keep={"colour": "string"})
    found = []
    for order in (1, -1):
        file = tmp_path / f"{order}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in captions(shapes)[::order]), encoding="utf-8")
        corpus = Corpus(tmp_path / str(order))
        source = JsonlSource(path=file, base=shapes)
        snapshot, _ = Ingest(corpus, columns.types, IngestConfig(workers=1)).run([source], columns)
        evaluated = read_items(corpus, snapshot, None).item_ids
        asked = read_probe_items(corpus, snapshot, evaluated, EvaluationConfig(probes=("colour",)))
        labels = asked.columns["colour"]
        learned = [asked.train_ids[row] for row in labels.train_rows]
        found.append((learned, labels.train, [evaluated[row] for row in asked.test_rows], labels.test))
    assert found[0] == found[1]
    assert (len(found[0][0]), sorted(found[0][0])) == (20, found[0][0])


def test_a_column_without_common_labels_is_not_probed_and_that_is_said(shapes: Path, model: str) -> None:
    data = ("--data", str(shapes / "captions.jsonl"), "--column", "group=group", "--probe", "group")
    result = invoke("evaluate", "--model", model, *data)
    assert result.exit_code == 0
    assert "column 'group' can't be probed" in result.stderr


def test_rows_that_are_lost_are_counted_with_their_reasons(shapes: Path, model: str, tmp_path: Path) -> None:
    rows = captions(shapes)
    file = tmp_path / "some.jsonl"
    spoilt: list[dict[str, object]] = [{**rows[0], "image": "absent.png"}, {**rows[1], "text": ""}]
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows[2:], *spoilt]) + "{\n", encoding="utf-8")
    asked = ("evaluate", "--model", model, "--data", str(file), "--base", str(shapes), "--where", "colour <> 'red'")
    scores = document(*asked)
    assert (scores["rows"]["seen"], scores["rows"]["filtered"], scores["rows"]["quarantined"]) == (61, 10, 1)
    assert scores["rejected"] == {"malformed-row": 1}
    shown = invoke(*asked).stdout
    assert "61 seen" in shown
    assert "1 malformed-row" in shown


def test_a_person_reads_tables_that_fit_the_terminal(shapes: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pairloom.flows.show.console.out.width", 80)
    data = ("--data", str(shapes / "captions.jsonl"), "--column", "group=group", "--slices", "colour")
    lines = invoke("evaluate", "--model", model, *data).stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("median rank") for line in lines)
    assert any(line.startswith("colour=red") for line in lines)


@pytest.mark.parametrize(
    ("said", "arguments"),
    [
        ("takes both --model and --data", ["--model", "tiny-32"]),
        ("takes both --model and --data", ["--data", "CAPTIONS"]),
        ("takes both --model and --data", ["--k", "3"]),
        ("nothing is called 'tiny-23'; nearest: tiny-32", ["--model", "tiny-23", "--data", "CAPTIONS"]),
        ("there is no file or folder absent.jsonl", ["--model", "MODEL", "--data", "absent.jsonl"]),
        ("brings its own weights", ["--model", "MODEL", "--data", "CAPTIONS", "--pretrained", "openai"]),
        ("not of the form KEY=COLUMN", ["--model", "MODEL", "--data", "CAPTIONS", "--column", "caption"]),
        ("unknown key 'columns.grup'; did you mean 'group'?", [
            "--model", "MODEL", "--data", "CAPTIONS", "--column", "grup=group"]),
        ("novel_text is a slice of Pairloom's own", [
            "--model", "MODEL", "--data", "CAPTIONS", "--slices", "novel_text"]),
        ("source shapes/captions: no row has the column shade", [
            "--model", "MODEL", "--data", "CAPTIONS", "--slices", "shade"]),
        ("none of 60 rows became an item: 60 filtered", [
            "--model", "MODEL", "--data", "CAPTIONS", "--where", "colour = 'pink'"]),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_one_clear_line(
    said: str, arguments: list[str], shapes: Path, model: str, tmp_path: Path
) -> None:
    shutil.copytree(shapes, tmp_path / "shapes")
    names = {"CAPTIONS": str(tmp_path / "shapes" / "captions.jsonl"), "MODEL": model}
    assert said in error(2, "evaluate", *(names.get(each, each) for each in arguments))


def test_a_table_holds_every_measure_of_all_queries_by_rising_k() -> None:
    metrics = {"text_to_image_recall@10": 0.5, "text_to_image_recall@5": 0.25, "image_to_text_median_rank": 7.0}
    grid = metrics_grid({**metrics, "text_to_image_recall@5/a=b": 1.0}, {"image_to_text_median_rank": (6.0, 9.0)})
    assert grid.columns == ("metric", "text → image", "image → text")
    assert grid.rows == (("recall@5", "0.250", "–"), ("recall@10", "0.500", "–"), ("median rank", "–", "7 (6–9)"))


def test_the_slices_with_most_to_do_come_first() -> None:
    metrics = {f"text_to_image_recall@1/n={number}": number / 10 for number in range(5)}
    grid = slices_grid(metrics, limit=2)
    assert grid.columns[0] == "recall@1, lowest 2 of 5 slices"
    assert [row[0] for row in grid.rows] == ["n=0", "n=1"]
