"""Every recipe of docs/sql-cookbook.md, asked of a small release that holds what the recipes look for."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from released_pipeline import COLOURS, FRUITS, D, picture, publish

from pairloom.search.release import OpenRelease
from pairloom.search.sql import Attached, json_rows, run_sql
from pairloom.search.sql.export import export_sql

PAGE = (Path(__file__).parents[1] / "docs" / "sql-cookbook.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## (.+?)\n.*?```sql\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))
NAMES = [f"{colour} {fruit}" for colour in COLOURS for fruit in FRUITS]
WRONG, COPY, STRANGE = "red lemon", "blue plum", "black fig"
Row = dict[str, Any]


def normalised(vectors: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    found: np.ndarray[Any, Any] = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return found.astype(np.float32)


def telling(rows: pa.Table) -> pa.Table:
    """Images near their group's direction, but for one of another group, a copy, and one that is like nothing."""
    generator = np.random.default_rng(0)
    centres = dict(zip(FRUITS, np.eye(len(FRUITS), D), strict=True))
    names = rows["item_id"].to_pylist()
    fruit = ["pear" if name == WRONG else name.split()[-1] for name in names]
    images = normalised(np.stack([centres[each] for each in fruit]) + 0.1 * generator.normal(size=(len(names), D)))
    images[names.index(COPY)] = normalised(images[names.index("red plum")] + 1e-3)
    images[names.index(STRANGE)] = np.eye(D)[-1]
    return rows.set_column(rows.column_names.index("image_vector"), "image_vector", pa.array(list(images)))


def later(rows: pa.Table) -> pa.Table:
    """The second night's: one row corrected, one more expensive."""
    changed = rows.to_pylist()
    for row in changed:
        if row["item_id"] == "grey pear":
            row |= {"content_digest": "another digest", "price": 999.0}
    return telling(pa.Table.from_pylist(changed, rows.schema))


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> OpenRelease:
    folder = tmp_path_factory.mktemp("pipeline")
    slice_ = "text_to_image_recall@10/subgroup=Fig"
    publish(folder, names=NAMES[:-1], change=telling, metrics={"text_to_image_recall@10": 0.5, slice_: 0.25})
    publish(folder, names=NAMES, number=2, change=later, metrics={"text_to_image_recall@10": 0.5, slice_: 0.75})
    return OpenRelease.open(folder)


@pytest.fixture(scope="module")
def attached(tmp_path_factory: pytest.TempPathFactory) -> Attached:
    folder = tmp_path_factory.mktemp("lent")
    stock = "".join(f"{name},{number % 3}\n" for number, name in enumerate(NAMES))
    (folder / "stock.csv").write_text(f"item_id,stock\n{stock}")
    (folder / "photo.png").write_bytes(picture(0))
    return Attached({"stock": folder / "stock.csv"}, folder)


def scores(release: OpenRelease, text: str) -> dict[str, float]:
    """Similarity of each item's image with a text, computed apart."""
    rows = release.dataset.to_table(columns=["item_id", "image_vector"]).to_pylist()
    text_D = release.embed_texts([text])[0]
    return {row["item_id"]: float(np.asarray(row["image_vector"]) @ text_D) for row in rows}


def best(found: dict[str, float]) -> list[str]:
    return sorted(found, key=lambda name: (-round(found[name], 6), name))


def cheap(release: OpenRelease, rows: list[Row]) -> None:
    affordable = {row["item_id"] for row in items(release) if row["price"] < 20}
    expected = [name for name in best(scores(release, "red apple")) if name in affordable][:10]
    assert [row["item_id"] for row in rows] == expected


def mislabelled(_: OpenRelease, rows: list[Row]) -> None:
    assert rows[0] | {"lead": 0} == {"item_id": WRONG, "given": "lemon", "likeliest": "pear", "lead": 0}
    assert {row["item_id"] for row in rows} <= {WRONG, STRANGE}


def near(_: OpenRelease, rows: list[Row]) -> None:
    assert (rows[0]["item_id"], rows[0]["other_id"], rows[0]["one_group"]) == (COPY, "red plum", True)
    assert {rows[0]["split"], rows[0]["other_split"]} <= {"train", "val"}
    assert all(row["score"] >= 0.98 for row in rows)


def coverage(_: OpenRelease, rows: list[Row]) -> None:
    assert [row["subgroup"] for row in rows] == sorted(fruit.capitalize() for fruit in FRUITS)
    assert {(row["items"], row["texts_each"]) for row in rows} == {(len(COLOURS), 2.0)}
    assert sum(row["priced"] for row in rows) == sum(number % 7 > 0 for number in range(len(NAMES)))


def changed(_: OpenRelease, rows: list[Row]) -> None:
    assert {row["item_id"]: row["what"] for row in rows} == {NAMES[-1]: "added", "grey pear": "changed"}
    assert next(row["price_after"] for row in rows if row["what"] == "changed") == 999


def labels(release: OpenRelease, rows: list[Row]) -> None:
    by_label = {fruit: scores(release, f"a {fruit}") for fruit in FRUITS}
    assert len(rows) == len(NAMES)
    for row in rows:
        assert row["score"] == pytest.approx(max(found[row["item_id"]] for found in by_label.values()), abs=1e-5)
        assert row["score"] == pytest.approx(by_label[row["label"]][row["item_id"]], abs=1e-5)


def stocked(release: OpenRelease, rows: list[Row]) -> None:
    expected = [name for name in best(scores(release, "red apple")) if NAMES.index(name) % 3][:5]
    assert [row["item_id"] for row in rows] == expected


def outlying(_: OpenRelease, rows: list[Row]) -> None:
    assert len(rows) == 5
    assert (rows[0]["item_id"], rows[0]["text"]) == (STRANGE, STRANGE)
    assert [row["score"] for row in rows] == sorted(row["score"] for row in rows)


def balanced(_: OpenRelease, rows: list[Row]) -> None:
    for split in ("train", "val"):
        own = [row for row in rows if row["split"] == split]
        assert sum(row["share"] for row in own) == pytest.approx(1)
        assert sum(row["items"] for row in own) == sum((number % 3 > 0) == (split == "train") for number in range(40))


def captions(release: OpenRelease, rows: list[Row]) -> None:
    known = sorted({text for row in items(release) for text in row["texts"]})
    [image_D] = release.encoder.embed_images([Image.open(io.BytesIO(picture(0))).convert("RGB")])
    by_text = dict(zip(known, (release.embed_texts(known) @ image_D).tolist(), strict=True))
    assert [row["score"] for row in rows] == pytest.approx(sorted(by_text.values(), reverse=True)[:5], abs=1e-4)


def like_a_set(_: OpenRelease, rows: list[Row]) -> None:
    assert {row["item_id"] for row in rows[:8]} == {name for name in NAMES if name.endswith("apple")}


def drift(_: OpenRelease, rows: list[Row]) -> None:
    told = [(row["release"], row["value"], row["change"]) for row in rows]
    assert told == [(1, 0.25, None), (2, 0.75, 0.5)]


def hybrid(release: OpenRelease, rows: list[Row]) -> None:
    place = {name: number for number, name in enumerate(best(scores(release, "brown fig")), start=1)}
    words = {name: len({"brown", "fig"} & set(name.split())) for name in NAMES}
    said = sorted((name for name in NAMES if words[name]), key=lambda name: (-words[name], name))
    expected = {name: 1 / (60 + place[name]) + (1 / (61 + said.index(name)) if words[name] else 0) for name in NAMES}
    assert [row["item_id"] for row in rows] == sorted(expected, key=lambda name: (-expected[name], name))[:10]


def diverse(release: OpenRelease, rows: list[Row]) -> None:
    first: dict[str, str] = {}
    for name in best(scores(release, "red apple")):
        first.setdefault(name.split()[-1], name)
    assert [row["item_id"] for row in rows] == list(first.values())


def exported(_: OpenRelease, rows: list[Row]) -> None:
    assert [row["item_id"] for row in rows] == sorted(name for at, name in enumerate(NAMES) if at % 3)
    assert {len(row["image_vector"]) for row in rows} == {D}


def items(release: OpenRelease) -> list[Row]:
    found: list[Row] = release.dataset.to_table().to_pylist()
    return found


CHECKS: dict[str, Callable[[OpenRelease, list[Row]], None]] = {
    "Nearest under a price": cheap,
    "Mislabelled items": mislabelled,
    "Near-duplicates": near,
    "Coverage by group": coverage,
    "What changed between two releases": changed,
    "Zero-shot labels": labels,
    "Hits that are in stock": stocked,
    "Outliers": outlying,
    "Balance": balanced,
    "The best caption for an image": captions,
    "What resembles a set of items": like_a_set,
    "How a slice drifts over the releases": drift,
    "Hybrid: by meaning and by word": hybrid,
    "Diverse hits": diverse,
    "Export": exported,
}


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_finds_what_is_there(release: OpenRelease, attached: Attached, title: str) -> None:
    CHECKS[title](release, json_rows(run_sql(release, RECIPES[title], attached)))


def test_there_are_fifteen_recipes_and_each_is_checked() -> None:
    assert RECIPES.keys() == CHECKS.keys()
    assert len(RECIPES) == 15


def test_what_is_exported_is_what_was_asked(release: OpenRelease, tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    assert export_sql(release, RECIPES["Export"], path) == len(pq.read_table(path))
    assert json_rows(pq.read_table(path)) == json_rows(run_sql(release, RECIPES["Export"]))
