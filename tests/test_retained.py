"""What a rollback took back, and which retained release a challenger is compared with."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from pairloom.storage.releases import Release, Training, kept_releases, release_log, stays_back, taken_back
from pairloom.tasks.evaluation.retained import best_measured, best_retained, headline
from pairloom.tasks.refs import Plan, Verdict


def release(number: int, model: str, *, recall: float | None = None, back_to: int | None = None) -> Release:
    """Release `number` of snapshot `sN` and config `cN`, or of what `back_to` had."""
    content, when = back_to or number, datetime(2026, 11, 1, tzinfo=UTC)
    return Release(
        number=number,
        files={},
        created_at=when,
        snapshot=content,
        snapshot_digest=f"s{content}",
        model_id=model,
        table=f"vectors/{model}.lance",
        table_version=1,
        rows=1,
        dimension=1,
        max_side=1,
        keep={},
        index=None,
        metrics={} if recall is None else {f"{way}_recall@10": recall for way in ("text_to_image", "image_to_text")},
        training=Training(config_digest=f"c{content}", items=1, trained_at=when, verdict="released"),
        reason="",
        rolled_back_to=back_to,
    )


def of(digest: str) -> Callable[[Release], bool]:
    """What tonight brings."""
    return lambda release: release.snapshot_digest == digest


def test_a_rollback_takes_back_what_lies_between_and_naming_it_again_brings_it_back() -> None:
    history = [release(number, "m") for number in (1, 2, 3)]
    assert taken_back(history) == set()
    history.append(release(4, "m", back_to=1))
    assert taken_back(history) == {2, 3}
    history.append(release(5, "m", back_to=3))
    assert taken_back(reversed(history)) == {2, 4}


def test_the_best_of_another_model_counts_but_not_what_was_taken_back() -> None:
    served = release(5, "e", recall=0.5)
    others = [release(4, "d", recall=0.6), release(3, "c"), release(2, "b", recall=0.7), release(1, "e", recall=0.9)]
    assert best_retained([served, *others]) == others[2]
    assert best_retained([served]) is None
    assert best_retained([served, others[1], others[3]]) is None
    rollback = release(5, "a", recall=0.5, back_to=1)
    assert best_retained([rollback, *others[:3], release(1, "a", recall=0.5)]) is None


def decayed(count: int, *, step: float) -> list[Release]:
    """Releases whose models are each a little worse, measured beside the one before and the best that it names."""
    found = [release(1, "m1", recall=0.5)]
    for number in range(2, count + 1):
        before = found[-1]
        kept = [*reversed(found[-3:]), *(each for each in found[:-3] if each.number == before.best)]
        best = best_retained(kept)
        metrics = {each.number: each.metrics for each in found}
        own = release(number, f"m{number}", recall=0.5 - step * (number - 1))
        said = Verdict(
            passed=True,
            model_id=own.model_id,
            metrics=own.metrics,
            champion_metrics=before.metrics,
            best_metrics=metrics[best.number] if best else {},
            reasons=(),
            comparisons=(),
        )
        plan = plan_of(before, best)
        found.append(own.model_copy(update={"best": best_measured(plan, before, said)}))
    return found


def plan_of(champion: Release, best: Release | None) -> Plan:
    return Plan(
        action="retrain",
        reason="",
        run_id="",
        training_digest="",
        snapshot=1,
        champion=champion.number,
        champion_model=champion.model_id,
        champion_rows=1,
        champion_metrics={},
        best=best.number if best else None,
        best_model=best.model_id if best else None,
        brings_rows=False,
    )


def test_the_best_stays_what_is_compared_with_however_slowly_and_long_quality_sinks() -> None:
    assert [each.best for each in decayed(12, step=0.001)] == [None, *[1] * 11]
    assert [each.best for each in decayed(12, step=-0.001)] == [None] * 12
    last = decayed(12, step=0.001)[-1]
    assert best_measured(plan_of(last, None), last, None) == 1, "a night of rows alone"


def test_a_release_that_is_named_as_the_best_is_kept_beyond_the_newest(tmp_path: Path) -> None:
    log = release_log(tmp_path)
    history = [release(1, "a"), *(release(number, f"m{number}") for number in range(2, 7))]
    for each in history[:5]:
        log.publish(each)
    log.publish(history[5].model_copy(update={"best": 1}))
    assert [each.number for each in kept_releases(log, 2)] == [6, 5, 1]
    assert best_retained(kept_releases(log, 2)) == history[0]


def test_the_headline_is_recall_at_ten_or_at_the_largest_k() -> None:
    both = {f"{way}_recall@{k}": k / 20 for way in ("text_to_image", "image_to_text") for k in (1, 10, 20)}
    assert headline(both | {"text_to_image_recall@10/colour=red": 0.0}) == 0.5
    assert headline({name: value for name, value in both.items() if not name.endswith("@10")}) == 1.0
    assert headline({"probe_colour_svm": 1.0}) is None


def test_only_what_a_rollback_took_back_stays_back_and_only_while_nothing_is_new(tmp_path: Path) -> None:
    log = release_log(tmp_path)
    history = [release(1, "a"), release(2, "a"), release(3, "b"), release(4, "a", back_to=2)]
    for each in history:
        log.publish(each)
    assert stays_back(log, history[3], of("s3"), "c3") == 3
    assert stays_back(log, history[3], of("s4"), "c3") is None, "the sources changed"
    assert stays_back(log, history[3], of("s3"), "c4") is None, "the configuration changed"
    assert stays_back(log, history[3], of("s1"), "c1") is None, "older than what is served"
    assert stays_back(log, history[2], of("s3"), "c3") is None, "no rollback"
    log.publish(further := release(5, "a", back_to=1))
    assert [stays_back(log, further, of(f"s{n}"), f"c{n}") for n in (3, 2)] == [3, 2]
    log.publish(again := release(6, "b", back_to=3))
    assert stays_back(log, again, of("s3"), "c3") is None
