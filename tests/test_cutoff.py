"""The score below which nothing fits: measured, released, asked for."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, cast

import numpy as np
import pytest
from released_pipeline import NAMES, publish
from test_hubness import units
from typer.testing import CliRunner

from pairloom.flows.cli import app
from pairloom.flows.config import load_pipeline
from pairloom.flows.nightly import nightly
from pairloom.models.evaluation import cutoff as module
from pairloom.models.evaluation.cutoff import Calibration, Candidates, calibrated, margin, reach
from pairloom.models.towers.words import known_words
from pairloom.search.index import Index
from pairloom.search.options import Options
from pairloom.search.query import Query, search
from pairloom.search.release import OpenRelease
from pairloom.search.sheet import contact_sheet
from pairloom.search.sql import run_sql
from pairloom.search.web.ranking import rank, rows_of
from pairloom.search.web.served import ServedRelease
from pairloom.storage.corpus import Corpus
from pairloom.storage.releases import Cutoff, Release, release_log, roll_back
from pairloom.storage.table.vectors import VectorTable
from pairloom.tasks.calibrate import calibrate
from pairloom.tasks.refs import CutoffsRef, TableRef

QUERIES, ITEMS = 40, 90


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> OpenRelease:
    """One with cut-offs between its items' scores."""
    folder = tmp_path_factory.mktemp("pipeline")
    publish(folder, hubness=True)
    plain = OpenRelease.open(folder)
    text = _middle(list(corrected_scores(plain).values()))
    image = _middle([hit.score for hit in search(plain, Query(like=NAMES[0]), k=45).hits])
    made = {"max_false_finds": 0.05, "queries": 40, "true_finds": 0.5, "false_finds": 0.05}
    cutoffs = {
        "text_to_image": Cutoff(score=text, corrected=True, **made),
        "image_to_image": Cutoff(score=image, corrected=False, **made),
    }
    release_log(folder).publish(plain.record.model_copy(update={"number": 2, "cutoffs": cutoffs}))
    return OpenRelease.open(folder)


def corrected_scores(release: OpenRelease) -> dict[str, float]:
    """2 · cosine - hubness of every item for a text."""
    rows = run_sql(
        release, "SELECT item_id, 2 * score - hubness AS told FROM search('red apple', k := 100)"
    ).to_pylist()
    return {row["item_id"]: row["told"] for row in rows}


def _middle(values: list[float]) -> float:
    """Between the two in the middle."""
    place = len(values) // 2
    return sum(sorted(values)[place - 1 : place + 1]) / 2


def test_a_cut_off_is_the_lowest_that_so_many_queries_without_their_concept_do_not_reach() -> None:
    query_QD, image_ND, hubness_N = units(0, QUERIES), units(1, ITEMS), np.abs(units(2, ITEMS)[:, 0])
    own_QN = np.random.default_rng(3).random((QUERIES, ITEMS)) < 0.03
    out_QN = np.random.default_rng(4).random((QUERIES, ITEMS)) < 0.03
    halves = (slice(0, 31), slice(31, ITEMS))
    parts = [Candidates(image_ND[each], own_QN[:, each], out_QN[:, each], hubness_N[each]) for each in halves]
    found = calibrated(query_QD, iter(parts), 0.1)
    assert isinstance(found, Calibration)

    score = 2 * query_QD.astype(np.float64) @ image_ND.astype(np.float64).T - hubness_N
    score[out_QN] = -np.inf
    tops = [(max(score[q][own_QN[q]], default=-np.inf), score[q][~own_QN[q]].max()) for q in range(QUERIES)]
    asked = [(own, other) for own, other in tops if np.isfinite(own)]
    allowed = int((len(asked) + 1) * 0.1) - 1
    assert found.queries == len(asked) < QUERIES
    assert sum(other >= found.score for _, other in asked) == allowed
    assert sum(other >= found.score - 2e-6 for _, other in asked) == allowed + 1
    assert found.false_finds == pytest.approx(allowed / len(asked))
    assert found.true_finds == pytest.approx(np.mean([own >= found.score for own, _ in asked]))


def test_a_margin_is_weighed_where_that_tells_finds_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    # Concepts have many pictures each: those of a query are all as near, and of an absent one a stray is nearest.
    draw = np.random.default_rng(0)
    concept_CD = units(1, 60, 24)
    own_N = np.repeat(np.arange(60), 15)
    image_ND = concept_CD[own_N] + draw.normal(0, 0.02, (len(own_N), 24)).astype(np.float32)
    image_ND /= np.linalg.norm(image_ND, axis=1, keepdims=True)
    query_QD = concept_CD + draw.normal(0, draw.uniform(0.02, 0.5, (60, 1)), (60, 24)).astype(np.float32)
    query_QD /= np.linalg.norm(query_QD, axis=1, keepdims=True)
    stray_ND = units(2, 200, 24)
    items_ND = np.concatenate([image_ND, stray_ND]).astype(np.float32)
    own_QN = np.concatenate([own_N, np.full(200, -1)])[None] == np.arange(60)[:, None]
    learned_Q = np.arange(60) % 3 == 0
    halves = (slice(0, 401), slice(401, None))
    parts = [Candidates(items_ND[each], own_QN[:, each]) for each in halves]

    score = query_QD.astype(np.float64) @ items_ND.astype(np.float64).T
    reached = reach(query_QD, parts)
    for query in range(60):
        for left_out, found in ((False, reached.margin_Q), (True, reached.margin_without_Q)):
            seen = sorted(score[query][~own_QN[query]] if left_out else score[query], reverse=True)
            assert found[query] == pytest.approx(seen[0] - np.mean(seen[1:11]), abs=1e-6)
        nearest = np.argsort(-score[query])[:10]
        assert reached.right_Q[query] == own_QN[query][nearest].any()

    made = calibrated(query_QD, parts, 0.1, learned_Q=learned_Q)
    assert isinstance(made, Calibration)
    weighed_Q = reached.own_Q + made.margin_weight * reached.margin_Q
    assert made.true_finds == pytest.approx((weighed_Q[~learned_Q] >= made.score).mean())
    same = calibrated(query_QD[~learned_Q], [Candidates(items_ND, own_QN[~learned_Q])], 0.1)
    assert isinstance(same, Calibration)
    assert (made.queries, same.queries) == (40, 40)
    assert made.margin_weight < 0 == same.margin_weight
    assert made.true_finds > same.true_finds
    # A large margin that speaks for a find would call whatever follows it one.
    monkeypatch.setattr(module, "weighed", lambda *_: 0.0)
    assert calibrated(query_QD, parts, 0.1, learned_Q=learned_Q) == same


@pytest.mark.parametrize(("scores", "expected"), [([0.5], 0.0), ([0.5, 0.3], 0.2), ([0.1] + [0.9] * 11, 0.0)])
def test_a_margin_is_to_as_many_as_there_are(scores: list[float], expected: float) -> None:
    assert margin(np.array([scores]))[0] == pytest.approx(expected)


def test_every_way_of_asking_weighs_the_margin_of_the_query_among_all_items(release: OpenRelease) -> None:
    told = corrected_scores(release)
    ordered = sorted((hit.score for hit in search(release, Query(text="red apple"), k=46).hits), reverse=True)
    ahead = ordered[0] - sum(ordered[1:11]) / 10
    assert ahead > 0.001
    plain = release.record.cutoffs["text_to_image"]
    weighed = plain.model_copy(update={"margin_weight": -2.0, "score": round(plain.score - 2 * ahead + 0.01, 6)})
    record = release.record.model_copy(update={"cutoffs": {"text_to_image": weighed}})
    other = OpenRelease(release.folder, record)
    fits = {item_id: score - 2 * ahead >= weighed.score for item_id, score in told.items()}
    assert {*fits.values()} == {True, False}
    where = "subgroup = 'Fig'"
    statements = {
        None: "SELECT item_id, fits FROM search('red apple', k := 46)",
        where: "SELECT item_id, fits FROM search('red apple', k := 46, \"where\" := 'subgroup = ''Fig''')",
    }
    for condition in statements:
        for k in (1, 46):
            hits = search(other, Query(text="red apple"), k=k, where=condition).hits
            assert hits
            assert all(hit.fits == fits[hit.item_id] for hit in hits)
            (batch,) = Index(other).search_many(["red apple"], k=k, where=condition)
            assert [(hit.item_id, hit.fits) for hit in batch.hits] == [(hit.item_id, hit.fits) for hit in hits]
        rows = run_sql(other, statements[condition]).to_pylist()
        assert {row["item_id"]: row["fits"] for row in rows} == {hit.item_id: hit.fits for hit in hits}
        ranking = rank(cast(ServedRelease, other), Query(text="red apple"), Options(where=condition), 20)
        names = [row["item_id"] for row in rows_of(cast(ServedRelease, other), ranking.row_ids.tolist(), ["item_id"])]
        assert list(ranking.fits) == [fits[name] for name in names]


def test_too_few_queries_give_no_cut_off() -> None:
    some = Candidates(units(1, 9), np.eye(9, dtype=bool))
    assert calibrated(units(0, 9), [some], 0.1) == 9
    assert isinstance(calibrated(units(0, 9), [some], 0.2), Calibration)


def test_hits_below_the_cut_off_are_marked_and_can_be_left_out(release: OpenRelease) -> None:
    hits = search(release, Query(text="red apple"), k=46).hits
    assert {hit.fits for hit in hits} == {True, False}
    cutoff = release.record.cutoffs["text_to_image"].score
    told = corrected_scores(release)
    assert all(hit.fits == (told[hit.item_id] >= cutoff) for hit in hits)
    fitting = search(release, Query(text="red apple"), k=46, only_fitting=True).hits
    assert [hit.item_id for hit in fitting] == [hit.item_id for hit in hits if hit.fits]
    rows = run_sql(release, "SELECT item_id FROM search('red apple', k := 46) WHERE fits").to_pylist()
    assert {row["item_id"] for row in rows} == {hit.item_id for hit in fitting}

    like = search(release, Query(like=NAMES[0]), k=45).hits
    assert [hit.fits for hit in like] == [hit.score >= release.record.cutoffs["image_to_image"].score for hit in like]
    euclidean = search(release, Query(text="red apple"), k=46, metric="euclidean").hits
    assert [hit.fits for hit in euclidean] == [hit.fits for hit in hits]


def test_of_sums_and_of_releases_without_a_cut_off_it_is_not_known_what_fits(
    release: OpenRelease, tmp_path: Path
) -> None:
    for query in (Query(text="red", plus=("apple",)), Query(text="red", minus=("apple",)), Query("red", like=NAMES[0])):
        assert {hit.fits for hit in search(release, query).hits} == {None}
        with pytest.raises(ValueError, match="no cut-off for such a query"):
            search(release, query, only_fitting=True)
    publish(tmp_path)
    old = json.loads((tmp_path / "releases" / "000001.json").read_text())
    del old["format"], old["cutoffs"], old["too_few"], old["hubness"], old["sha256"]
    assert Release.model_validate(old).cutoffs == {}
    before = release.record.cutoffs["text_to_image"].model_dump(exclude={"margin_weight"})
    assert Release.model_validate(old | {"cutoffs": {"text_to_image": before}}).cutoffs["text_to_image"].score
    plain = OpenRelease.open(tmp_path)
    found = search(plain, Query(text="red apple qwertyuiop"))
    assert ({hit.fits for hit in found.hits}, found.unmet_words, found.notes) == ({None}, (), [])


def test_a_cut_off_that_hardly_finds_anything_says_of_nothing_that_it_does_not_fit(release: OpenRelease) -> None:
    cutoffs = {
        name: each.model_copy(update={"true_finds": 0.19, "score": 9.0})
        for name, each in release.record.cutoffs.items()
    }
    weak = OpenRelease(release.folder, release.record.model_copy(update={"cutoffs": cutoffs}))
    found = search(weak, Query("red apple"), k=5)
    assert (found.cutoff, [hit.fits for hit in found.hits]) == (None, [None] * 5)
    assert "nothing fits" not in found.notes
    with pytest.raises(ValueError, match="20% of what is there is found"):
        search(weak, Query("red apple"), only_fitting=True)


def test_words_that_no_training_text_has_are_named(release: OpenRelease) -> None:
    found = search(release, Query(text="Red qwertyuiop, zzz", plus=("apple zzz",), minus=("yonder",)))
    assert found.unmet_words == ("qwertyuiop", "zzz", "yonder")
    assert found.to_json()["unmet_words"] == ["qwertyuiop", "zzz", "yonder"]
    assert "no training text has 'qwertyuiop', 'zzz', 'yonder'" in found.notes[0]
    assert search(release, Query(text="the red APPLE")).unmet_words == ("the",)
    assert search(release, Query(like=NAMES[0])).unmet_words == ()
    assert known_words("红色的 shoe №5") == ["红", "色", "的", "shoe", "no", "5"]


def test_a_page_says_what_does_not_fit(release: OpenRelease) -> None:
    found = search(release, Query(text="red apple"), k=46)
    page = contact_sheet([("red", found)])
    unfit = sum(hit.fits is False for hit in found.hits)
    assert page.count("doesn’t fit") == unfit
    assert f"{unfit} of 46 hits don" in page
    none = search(release, Query(text="<b>zzz"), k=1)
    assert "&lt;b&gt;zzz" in contact_sheet([("<b>zzz", none)])


def test_a_release_carries_the_cut_offs_of_its_model_which_are_measured_once(
    tmp_path: Path, shapes: Path, write_pipelines: Callable[..., Path]
) -> None:
    shutil.copytree(shapes, tmp_path / "shapes")
    captions = tmp_path / "shapes" / "captions.jsonl"
    lines = captions.read_text("utf-8").splitlines(keepends=True)
    captions.write_text("".join(lines[1:]), encoding="utf-8")
    search_ = {"max_false_finds": 0.25, "hubness": True}
    file = write_pipelines(tmp_path, tmp_path / "shapes", retrain={"min_new_fraction": 0.9}, search=search_)
    nightly(load_pipeline(file))
    captions.write_text("".join(lines), encoding="utf-8")
    nightly(load_pipeline(file))
    pipeline = load_pipeline(file)
    one, two = (release_log(pipeline.folder).read(number) for number in (1, 2))
    assert one.model_id == two.model_id
    assert one.cutoffs == two.cutoffs
    found = one.cutoffs["text_to_image"]
    assert found.corrected
    assert found.false_finds <= 0.25
    # Beside words every cut-off tells something, however few a tiny model finds.
    options = ["--file", str(file), "--hybrid", "--only-fitting", "--json"]
    done = CliRunner().invoke(app, ["search", "a red circle", *options])
    assert done.exit_code == 0, done.output
    assert all(hit["fits"] for hit in json.loads(done.stdout)["hits"])
    shown = CliRunner().invoke(app, ["search", "zzz", "--file", str(file)])
    assert "no training text has 'zzz'" in " ".join(shown.stdout.split())
    strange = Query(text="zzz", like="large-red-circle")
    assert search(OpenRelease.open(pipeline.folder), strange).hits[0].fits is None
    queries_that_are_too_few_are_remembered(file, captions)


def queries_that_are_too_few_are_remembered(file: Path, captions: Path) -> None:
    """More nights over the collection of the test above: measured again once there are enough."""
    strict = load_pipeline(file, overrides=["search.max_false_finds=0.04"])
    log, corpus = release_log(strict.folder), Corpus(strict.folder)
    rows = corpus.table(corpus.current(), ["split", "group", "texts"]).to_pylist()
    groups = {split: next(row["group"] for row in rows if row["split"] == split) for split in ("train", "val")}
    asked = {text for row in rows if row["split"] == "val" for text in row["texts"]}
    assert 4 <= len(asked) < 20
    shown = [json.loads(line) for line in captions.read_text("utf-8").splitlines()]

    def night(split: str, count: int, name: str) -> Release:
        about = {"group": groups[split], "colour": "red", "size": 4}
        with captions.open("a", encoding="utf-8") as lines:
            for row, seen in zip(range(count), shown, strict=False):
                own = {"id": f"{name} {row}", "image": seen["image"], "text": f"{seen['text']} {name} {row}"}
                lines.write(json.dumps(own | about) + "\n")
        ended = nightly(strict)
        assert ended.outcome == "released", ended.reason
        current = log.current()
        assert current is not None
        return current

    def known(release: Release) -> CutoffsRef:
        table = TableRef(
            **{name: getattr(release, name) for name in ("model_id", "snapshot", "rows", "dimension")},
            path=release.table,
            version=release.table_version,
            index=None,
            ann_recall=None,
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(VectorTable, "batches", refuse)
            return calibrate(strict, table, release.measured)

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("the table is read")

    few = night("train", 1, "more to learn")
    assert not few.cutoffs
    assert few.too_few == {"text_to_image": len(asked), "image_to_image": few.too_few["image_to_image"]}
    assert known(few).too_few == few.too_few
    enough = night("val", 25, "more to ask")
    assert enough.cutoffs["text_to_image"].queries == len(asked) + 25
    assert "text_to_image" not in enough.too_few
    back = roll_back(strict.folder, few.number)
    assert known(back) == CutoffsRef(cutoffs={}, too_few=few.too_few)
    with pytest.raises(AssertionError, match="the table is read"):
        known(enough)


def test_many_queries_at_once_say_what_fits_as_one_by_one(release: OpenRelease) -> None:
    index = Index(release)
    texts = ["red apple", "a green pear"]
    for hubness, only in ((None, False), (True, False), (None, True)):
        together = index.search_many(texts, k=9, hubness=hubness, only_fitting=only)
        alone = [index.search(text, k=9, hubness=hubness, only_fitting=only) for text in texts]
        told = [[[(hit.item_id, hit.fits) for hit in each.hits] for each in some] for some in (together, alone)]
        assert told[0] == told[1]
        assert {hit.fits for each in together for hit in each.hits} <= {True, False}
