"""Whether a night's rows are believed: measures against slow answers, made-up vectors, whole histories of nights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binom  # type: ignore[import-untyped]  # SciPy publishes no type information
from typer.testing import CliRunner, Result

from pairloom.flows.cli import app
from pairloom.flows.config import load_pipeline
from pairloom.flows.nightly import nightly
from pairloom.flows.outcome import Night
from pairloom.flows.show.report import markdown
from pairloom.models.evaluation.agreement import Contrasts, Vectors, agreement, contrasts, own_contrasts
from pairloom.models.evaluation.config import GateConfig, RowsGateConfig
from pairloom.models.evaluation.findings import Finding
from pairloom.models.evaluation.row_agreement import (
    agreeing,
    at_most,
    beyond,
    concentrated,
    implausible,
    kept,
    recall,
    related,
    telling,
)
from pairloom.models.evaluation.row_shares import Equals, changed, emptied, equal, shrunk
from pairloom.search.release import OpenRelease
from pairloom.storage.corpus import EMPTY, Corpus, Snapshot
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.files import DamagedError
from pairloom.storage.releases import roll_back
from pairloom.storage.schema import item_schema
from pairloom.tasks.admission.champion import Champion
from pairloom.tasks.admission.evidence import gathered
from pairloom.tasks.admission.sharing import judged_columns, judged_shares
from pairloom.tasks.admission.validation import judged_recall
from pairloom.tasks.pipeline import Pipeline

D = 12
GATE = GateConfig()
ROWS = RowsGateConfig()
Row = dict[str, Any]


def unit(random: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = random.normal(size=(*shape, D)).astype(np.float32)
    return normal(vectors)


def normal(vector_ND: np.ndarray) -> np.ndarray:
    found: np.ndarray = vector_ND / np.linalg.norm(vector_ND, axis=-1, keepdims=True)
    return found


def paired(random: np.random.Generator, count: int) -> Vectors:
    """Images near their texts."""
    text_ND = unit(random, count)
    image_ND = text_ND + 0.8 * unit(random, count)
    return Vectors(normal(image_ND), text_ND)


def alone(value_N: np.ndarray) -> Contrasts:
    """Rows of a text each."""
    return Contrasts(value_N.astype(float), np.arange(len(value_N)))


def test_contrasts_match_nested_loops() -> None:
    random = np.random.default_rng(0)
    rows, others = paired(random, 4), paired(random, 7)
    for row, found in enumerate(contrasts(rows, others)):
        near = [float(rows.image_ND[row] @ other_D) for other_D in others.text_ND]
        near += [float(rows.text_ND[row] @ other_D) for other_D in others.image_ND]
        assert found == pytest.approx(float(rows.image_ND[row] @ rows.text_ND[row]) - np.mean(near), abs=1e-6)
    for row, found in enumerate(own_contrasts(others)):
        rest = others.take(np.array([each for each in range(7) if each != row]))
        assert found == pytest.approx(contrasts(others.take(np.array([row])), rest)[0], abs=1e-6)


def test_agreement_is_one_for_more_of_the_same_and_nothing_for_mismatched_pairs_though_all_are_alike() -> None:
    random = np.random.default_rng(1)
    common_D = unit(random, 1)
    held, rows = (
        Vectors(each.image_ND + common_D, each.text_ND + common_D)
        for each in (paired(random, 300), paired(random, 200))
    )
    own = alone(own_contrasts(held))
    good = agreement([(alone(contrasts(rows, held)), own)], confidence=0.95, seed=0)
    mixed = Vectors(rows.image_ND, np.roll(rows.text_ND, 1, axis=0))
    bad = agreement([(alone(contrasts(mixed, held)), own)], confidence=0.95, seed=0)
    assert (good.value, bad.value) == pytest.approx((1, 0), abs=0.15)
    assert good.low < good.value < good.high < good.low + 0.3
    both = agreement(
        [(alone(contrasts(rows, held)), own), (alone(contrasts(mixed, held)), own)], confidence=0.95, seed=0
    )
    assert both.value == pytest.approx((good.value + bad.value) / 2)


def test_a_text_of_many_rows_tells_no_more_than_one_of_few() -> None:
    random = np.random.default_rng(2)
    of_text = random.normal(1, 1, 12)
    held = alone(random.normal(1, 0.1, 500))
    few = agreement([(alone(of_text), held)], confidence=0.95, seed=0)
    many = agreement([(Contrasts(np.tile(of_text, 50), np.tile(np.arange(12), 50)), held)], confidence=0.95, seed=0)
    assert (many.value, many.low, many.high) == pytest.approx((few.value, few.low, few.high), abs=1e-9)


def test_what_is_called_implausible_is_so_by_the_exact_binomial_tail() -> None:
    for rows, commonest, released in ((200, 2, 1000), (60, 30, 100), (5, 0, 10)):
        count_V = np.arange(1, rows + 1)
        often_V = implausible(count_V, rows, commonest, released, GATE)
        usual = (commonest + 1) / (released + 2)
        exact_V = binom.sf(count_V - 1, rows, usual)
        assert (exact_V[often_V] < 0.05 / rows).all()
        # Chernoff's bound is no looser than this.
        assert often_V[exact_V < 0.05 / rows / (20 * np.sqrt(rows))].all()
    assert not implausible(np.array([1, 2]), 3, 50, 100, GATE).any()


def test_the_chance_of_few_hits_matches_the_binomial_distribution() -> None:
    for hits, tries, share in ((0, 0, 0.4), (0, 5, 0.4), (3, 9, 0.5), (9, 9, 0.1)):
        assert at_most(hits, tries, share) == pytest.approx(binom.cdf(hits, tries, share))


def test_rows_of_one_value_are_related_by_it_or_by_one_another() -> None:
    random = np.random.default_rng(3)
    held_HD, text_D = unit(random, 300), unit(random, 1)[0]

    def about(centre_D: np.ndarray) -> np.ndarray:
        return normal(centre_D + unit(random, 20))

    assert related(text_D, about(text_D), [held_HD], 0)
    assert related(text_D, about(unit(random, 1)[0]), [held_HD], 0)
    assert not related(text_D, unit(random, 20), [held_HD], 0)
    # Where all of the night's rows are like that, it is nothing special.
    assert not related(text_D, about(text_D), [held_HD, about(text_D)], 0)


def test_rows_of_clearly_fewer_groups_than_others_have_something_in_common() -> None:
    of_eight, alone_N = np.arange(400) % 8, np.arange(400)
    assert concentrated(np.zeros(12, int), of_eight, 0)
    assert not concentrated(np.arange(12) % 8, of_eight, 0)
    assert not concentrated(np.arange(12), alone_N, 0)
    assert not concentrated(np.zeros(12, int), np.zeros(400, int), 0)


def test_recall_matches_a_count_of_what_comes_before() -> None:
    random = np.random.default_rng(5)
    query, candidate = paired(random, 40).text_ND, unit(random, 40)
    candidate[7] = candidate[8]
    positive = np.eye(40, dtype=bool) | (random.random((40, 40)) < 0.02)
    for row, found in enumerate(recall(query, candidate, positive)):
        scores = [float(query[row] @ each) for each in candidate]
        best = max(score for score, is_one in zip(scores, positive[row], strict=True) if is_one)
        before = sum(s >= best - 1e-7 for s, is_one in zip(scores, positive[row], strict=True) if not is_one)
        assert found == (before < 10)


def test_shares_hold_above_what_may_change_and_not_for_a_few_rows() -> None:
    assert changed("captions", 50, 100, ROWS).verdict == "passed"
    held = changed("captions", 51, 100, ROWS)
    assert (held.verdict, held.reason) == (
        "held",
        "51 of 100 released items have changed captions (51%), more than gate.rows.max_changed (50%)",
    )
    poured, single = Equals(released=0.1, among=0.7, anywhere=0.7), Equals(released=0.9, among=0.1, anywhere=0.3)
    assert [equal("captions", each, 20, 100, ROWS).verdict for each in (poured, single)] == ["held", "held"]
    # A second picture of every item has the texts of the first ones, and not of one another.
    assert equal("captions", Equals(released=0.0, among=0.0, anywhere=1.0), 20, 100, ROWS).verdict == "passed"
    assert equal("captions", poured, 9, 100, ROWS).verdict == "passed"
    assert equal("captions", poured, 20, 10_000, ROWS).verdict == "passed"
    assert [emptied("price of shop", share, 12, 20, ROWS).verdict for share in (0.05, 0.2)] == ["held", "passed"]
    assert [shrunk(rows, [100, 90, 1000], ROWS).verdict for rows in (50, 49)] == ["passed", "held"]


def test_rows_are_held_where_they_agree_less_than_the_floor_and_not_where_too_few_tell() -> None:
    random = np.random.default_rng(4)
    held = alone(random.normal(1, 1, 300))
    bad, good = alone(random.normal(0, 1, 80)), alone(random.normal(0.9, 1, 80))
    assert [agreeing("new items", [(each, held)], 1000, GATE).verdict for each in (bad, good)] == ["held", "passed"]
    assert "80 rows of 80 texts" in agreeing("new items", [(bad, held)], 1000, GATE).reason
    assert agreeing("new items", [(bad.take(np.arange(9)), held)], 1000, GATE).verdict == "passed"
    assert agreeing("new items", [(bad, held)], 100_000, GATE).verdict == "passed"
    weak = alone(random.normal(0.25, 0.2, 80))
    assert [agreeing("x", [(weak, held)], 1000, GATE, chance=chance).verdict for chance in (True, False)] == [
        "passed",
        "held",
    ]
    assert [beyond("new items", count, 1000, GATE).verdict for count in (9, 10)] == ["passed", "unsure"]
    assert [telling(alone(random.normal(mean, 1, 300)), GATE).verdict for mean in (1, 0)] == ["passed", "unsure"]
    assert telling(alone(np.ones(9)), GATE).verdict == "unsure"


def test_recall_that_is_lost_holds_only_where_the_changed_items_lost_it_and_not_by_chance() -> None:
    before = np.ones(200)
    changed_Q = np.arange(200) < 20

    def verdict(lost: int, changed: np.ndarray = changed_Q, gate: GateConfig = GATE) -> str:
        after = before.copy()
        after[:lost] = 0
        return kept("recall", before, after, changed, gate).verdict

    assert [verdict(lost) for lost in (0, 9, 20)] == ["passed", "passed", "held"]
    assert verdict(20, gate=GateConfig(max_regression=0.2)) == "passed"
    assert verdict(4, np.arange(200) < 4) == "passed"


def test_changed_items_need_be_found_no_more_often_than_any_other() -> None:
    before, changed_Q = np.zeros(160), np.arange(160) < 25
    before[:48] = 1

    def verdict(left: int) -> str:
        after = before.copy()
        after[left:25] = 0
        return kept("recall", before, after, changed_Q, GATE).verdict

    # A third of the items are found, so about eight of 25 other captions.
    assert [verdict(left) for left in (8, 3, 0)] == ["passed", "passed", "held"]


class Collection:
    """A corpus with made-up embeddings: what a caption and a picture say is the direction that they name."""

    def __init__(self, folder: Path, count: int = 300, classes: int | None = None) -> None:
        self.corpus, self.store = Corpus(folder), EmbeddingStore(folder, "model")
        self.items = {f"i{number}": self.item(number, classes) for number in range(count)}
        self.snapshot = self.write(self.items, EMPTY)

    def item(self, number: int, classes: int | None = None) -> Row:
        about = number % classes if classes else number
        split = ("train", "train", "val", "test")[number % 4 if classes is None else number // classes % 4]
        return {
            "item_id": f"i{number}", "image": {"bytes": b"", "path": ""}, "texts": [f"about {about}"], "split": split,
            "pixel_hash": f"{about}/{number}", "group": str(about), "source": "s", "price": 1.0,
        }  # fmt: skip

    def write(self, items: dict[str, Row], before: Snapshot) -> Snapshot:
        """A snapshot of which what differs from the first one is a part of its own, embedded."""
        fresh = [row for row in items.values() if before is EMPTY or self.items.get(row["item_id"]) != row]
        gone = [each for each in self.items if items.get(each) != self.items[each]] if before is not EMPTY else []
        number = before.model_copy(update={"number": self.corpus.log.next_number()})
        if not fresh:
            return self.corpus.commit(
                number.model_copy(update={"tombstones": {before.parts[0].digest: tuple(gone)}}), {}
            )
        part = self.corpus.write_items(pa.Table.from_pylist(fresh, item_schema({"price": "float64"})), number)
        rows = self.corpus.table(EMPTY.model_copy(update={"parts": (part,)}), ["item_id", "texts", "pixel_hash"])
        sides = [[self.vector(row, side) for row in rows.to_pylist()] for side in ("pixel_hash", "texts")]
        self.store.write(part, rows["item_id"].to_pylist(), *(np.array(side) for side in sides))
        dead = {before.parts[0].digest: tuple(gone)} if gone else {}
        update = {"parts": (*before.parts, part), "tombstones": dead, "keep": {"price": "float64"}}
        return self.corpus.commit(number.model_copy(update=update), {})

    def vector(self, row: Row, side: str) -> np.ndarray:
        """The image of `7/31` is somewhere near the text `about 7`, as are `image` and `x` near nothing."""
        said = row["pixel_hash"] if side == "pixel_hash" else row["texts"][0]
        about, own = said.removeprefix("about ").partition("/")[::2]
        centre_D, noise_D = (unit(np.random.default_rng([2, *each.encode()]), 1)[0] for each in (about, f"own {own}"))
        return normal(centre_D + (noise_D if side == "pixel_hash" else 0))

    def judged(self, items: dict[str, Row], gate: GateConfig = GATE) -> dict[str, Finding]:
        tonight = self.write(items, self.snapshot)
        evidence = gathered(self.corpus, self.snapshot, tonight)
        findings = [
            *judged_shares(evidence, gate.rows),
            *judged_columns(self.corpus, self.snapshot, evidence, gate.rows),
            *Champion(self.store, evidence, gate).judged(),
            *judged_recall(self.store, evidence, gate),
        ]
        return {each.measure: each for each in findings}

    def edited(self, chosen: range, **values: Callable[[int], Any]) -> dict[str, Row]:
        edits = {f"i{n}": {**self.items[f"i{n}"], **{key: said(n) for key, said in values.items()}} for n in chosen}
        return {**self.items, **edits}

    def with_new(self, chosen: range, **values: Callable[[int], Any]) -> dict[str, Row]:
        more = {f"i{n}": {**self.item(n), **{key: said(n) for key, said in values.items()}} for n in chosen}
        return {**self.items, **more}


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    return Collection(tmp_path)


def held_by(findings: dict[str, Finding]) -> set[str]:
    return {name for name, each in findings.items() if each.verdict == "held"}


def next_of(number: int) -> list[str]:
    return [f"about {(number + 7) % 300}"]


def test_healthy_rows_pass_every_measure(collection: Collection) -> None:
    for items in (
        collection.with_new(range(300, 360)),
        collection.edited(range(40), group=lambda _: "other", price=lambda _: 2.0),
        {name: row for name, row in collection.items.items() if int(name[1:]) % 9},
        # A second picture of the same things, under their captions.
        collection.with_new(
            range(300, 380), texts=lambda n: [f"about {n - 300}"], pixel_hash=lambda n: f"{n - 300}/{n}"
        ),
    ):
        findings = collection.judged(items)
        assert {each.verdict for each in findings.values()} == {"passed"}, findings


def test_captions_and_pictures_that_went_to_other_ids_are_held(collection: Collection) -> None:
    captions = collection.judged(collection.edited(range(60), texts=next_of))
    assert "agreement of changed captions" in held_by(captions)
    pictures = collection.judged(collection.edited(range(60), pixel_hash=lambda n: f"{(n + 7) % 300}/{n}"))
    assert "agreement of changed pictures" in held_by(pictures)
    new = collection.judged(collection.with_new(range(300, 360), texts=lambda n: [f"about {n + 60}"]))
    assert held_by(new) == {"agreement of new items"}


def test_one_caption_or_picture_poured_over_few_rows_is_held(collection: Collection) -> None:
    def poison(number: int) -> list[str]:
        return ["buy this"] if number % 4 == 0 else [f"about {number}"]

    among_new = collection.judged(collection.with_new(range(300, 360), texts=poison))
    assert held_by(among_new) == {"commonest of the captions"}
    assert among_new["commonest of the captions"].reason.startswith(
        "15 of 60 new or changed rows have the same captions"
    )
    picture = collection.judged(
        collection.with_new(range(300, 360), pixel_hash=lambda n: "none/" if n % 4 == 0 else f"{n}/{n}")
    )
    assert "commonest of the pictures" in held_by(picture)


def test_a_caption_poured_over_a_few_items_is_held_among_many_honest_new_rows(tmp_path: Path) -> None:
    collection = Collection(tmp_path, 320, classes=16)
    new = collection.with_new(
        range(1000, 1060),
        texts=lambda n: [f"about {n % 16}"],
        pixel_hash=lambda n: f"{n % 16}/{n}",
        group=lambda n: str(n % 16),
    )
    assert held_by(collection.judged(new)) == set()
    changed = collection.edited(range(12), texts=lambda _: ["x"])
    assert "commonest of the captions" in held_by(collection.judged({**new, **changed}))


def test_new_classes_pass_and_say_that_nothing_can_be_told_of_their_captions(tmp_path: Path) -> None:
    collection = Collection(tmp_path, 320, classes=16)
    classes = range(1000, 1040)
    new = collection.with_new(
        classes, texts=lambda n: [f"class {n % 2}"], pixel_hash=lambda n: f"new {n % 2}/{n}", group=lambda n: str(n % 2)
    )
    findings = collection.judged(new)
    assert held_by(findings) == set()
    assert findings["agreement of new items with unknown texts"].verdict == "unsure"
    known = collection.judged(
        collection.with_new(classes, texts=lambda n: [f"about {n % 16}"], pixel_hash=lambda n: f"{(n + 3) % 16}/{n}")
    )
    assert held_by(known) == {"agreement of new items"}


def test_a_column_that_most_new_rows_of_a_source_lack_is_held_and_not_one_that_a_new_source_lacks(
    collection: Collection,
) -> None:
    lacking = collection.judged(collection.with_new(range(300, 320), price=lambda _: None))
    assert held_by(lacking) == {"empty price of s"}
    assert (
        "price of s is empty in 20 of 20 new or changed rows, and in 0% of the released"
        in lacking["empty price of s"].reason
    )
    other = collection.with_new(range(320, 340), price=lambda _: None, source=lambda _: "another")
    assert held_by(collection.judged(other)) == set()


def test_a_column_that_most_released_items_lose_is_held_though_nothing_else_changes(collection: Collection) -> None:
    sold = collection.judged(collection.edited(range(140), price=lambda _: None))
    assert held_by(sold) == set()
    emptied = collection.judged(collection.edited(range(160), price=lambda _: None))
    assert held_by(emptied) == {"empty price of s"}
    assert "price of s is empty in 160 of 300 released items" in emptied["empty price of s"].reason


def test_vectors_that_are_not_there_are_named(collection: Collection) -> None:
    (part,) = collection.snapshot.parts
    with pytest.raises(DamagedError, match="lacks 1 of 2 items"):
        collection.store.vectors(part, pa.array(["i3", "absent"]))
    with pytest.raises(DamagedError, match="lacks 1 of 1 items"):
        collection.store.vectors(part, pa.array(["absent"]))
    image_ND, text_ND = collection.store.vectors(part, pa.array(["i8", "i3"]))
    np.testing.assert_allclose(image_ND[0], collection.vector(collection.items["i8"], "pixel_hash"), atol=1e-7)
    np.testing.assert_allclose(text_ND[1], collection.vector(collection.items["i3"], "texts"), atol=1e-7)


@pytest.fixture
def file(tmp_path: Path, first_night: Path, write_pipelines: Callable[..., Path]) -> Path:
    shutil.copytree(first_night, tmp_path / "own")
    captions = {"kind": "jsonl", "path": str(tmp_path / "own" / "shapes" / "captions.jsonl"), "name": "shapes/captions"}
    return write_pipelines(tmp_path / "own", tmp_path / "own" / "shapes", sources=[captions])


def rows_of(file: Path) -> list[Row]:
    return [json.loads(line) for line in (file.parent / "shapes" / "captions.jsonl").read_text("utf-8").splitlines()]


def write_rows(file: Path, rows: list[Row]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (file.parent / "shapes" / "captions.jsonl").write_text(text, encoding="utf-8")


def shuffled(rows: list[Row]) -> list[Row]:
    return [{**row, "text": rows[(at + 17) % len(rows)]["text"]} for at, row in enumerate(rows)]


def copied(file: Path, row: Row, name: str) -> Row:
    """A row with the same picture but for a pixel."""
    from PIL import Image

    picture = Image.open(file.parent / "shapes" / row["image"]).convert("RGB")
    picture.putpixel((0, 0), (1, 2, 3))
    picture.save(file.parent / "shapes" / f"{name}.png")
    return {**row, "id": name, "image": f"{name}.png"}


def night(file: Path, *overrides: str) -> Night:
    return nightly(load_pipeline(file, overrides=["retrain.min_new_fraction=9", *overrides]))


def served(pipeline: Pipeline) -> dict[str, str]:
    rows = OpenRelease.open(pipeline.folder).dataset.to_table(columns=["item_id", "texts"]).to_pylist()
    return {row["item_id"]: row["texts"][0] for row in rows}


def test_rows_are_held_until_the_sources_are_mended_and_nothing_of_them_is_lost(file: Path) -> None:
    pipeline, good = load_pipeline(file), rows_of(file)
    before = served(pipeline)
    write_rows(file, shuffled(good))
    held = night(file, "retrain.min_new_fraction=0.02")
    assert (held.outcome, held.release, "train" in held.seconds, served(pipeline)) == ("held", 1, False, before)
    assert "60 of 60 released items have changed captions (100%)" in held.reason
    assert "--accept-changes" in held.reason
    more = copied(file, good[0], "more")
    write_rows(file, [*shuffled(good), more])
    again = night(file)
    snapshots = len(Corpus(pipeline.folder).log.numbers())
    assert (night(file).reason, len(Corpus(pipeline.folder).log.numbers())) == (again.reason, snapshots)
    assert (again.outcome, again.rows["new"], again.rows["updated"], served(pipeline)) == ("held", 1, 60, before)
    write_rows(file, [*good, more])
    mended = night(file)
    assert (mended.outcome, mended.reason) == ("released", "new rows, too few to retrain")
    assert served(pipeline) == {**before, "more": more["text"]}
    unchanged = night(file)
    assert (unchanged.outcome, "admit" in unchanged.seconds, unchanged.findings) == ("unchanged", False, ())


def command(file: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--file", str(file), "--set", "retrain.min_new_fraction=9"])


def test_held_rows_exit_3_and_the_night_after_accepted_changes_is_judged_beside_them(file: Path) -> None:
    pipeline, good = load_pipeline(file), rows_of(file)
    write_rows(file, shuffled(good))
    held = command(file, "run", "--json")
    assert (held.exit_code, json.loads(held.stdout)["outcome"]) == (3, "held")
    refused = command(file, "publish")
    assert refused.exit_code == 3
    assert "the rows are held: 60 of 60 released items" in refused.stderr
    accepted = command(file, "run", "--json", "--accept-changes")
    assert accepted.exit_code == 0, accepted.stderr
    night_of = json.loads(accepted.stdout)
    assert (night_of["outcome"], night_of["release"]) == ("released", 2)
    assert "accepted although 60 of 60 released items have changed captions" in night_of["reason"]
    assert served(pipeline)["large-red-circle"] != next(row["text"] for row in good if row["id"] == "large-red-circle")
    write_rows(file, good)
    assert night(file).outcome == "held"
    write_rows(file, shuffled(good))
    assert night(file).outcome == "unchanged"


def test_held_rows_are_judged_beside_the_release_that_a_rollback_brought_back(file: Path) -> None:
    pipeline, good = load_pipeline(file), rows_of(file)
    more = [*good, copied(file, good[0], "more")]
    write_rows(file, more)
    assert night(file).release == 2
    write_rows(file, shuffled(more))
    assert night(file).outcome == "held"
    assert roll_back(pipeline.folder, 1).number == 3
    assert (night(file).outcome, len(served(pipeline))) == ("held", 60)
    write_rows(file, more)
    for _ in range(2):
        back = night(file)
        assert back.outcome == "unchanged"
        assert "release 2 was rolled back" in back.reason
    write_rows(file, [*more, copied(file, good[1], "another")])
    assert (night(file).outcome, len(served(pipeline))) == ("released", 62)


def test_the_report_has_a_section_on_the_rows_and_escapes_what_it_shows() -> None:
    findings = (Finding("empty <b>", "0.0%", "9 of 9 rows", "held", "a | b <i>"), Finding("items", "60", "61"))
    quiet = Night.failed("shapes", "reason")
    assert "## Rows" not in markdown(quiet, [])
    shown = markdown(quiet.model_copy(update={"findings": findings}), [])
    assert "## Rows" in shown
    assert "| items | 60 | 61 | passed |" in shown
    assert "<b>" not in shown
    assert "<i>" not in shown
