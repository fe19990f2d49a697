"""A few of the faults that benchmarks/faults.py tries by the hundred, and others that a test can make."""

import pytest

from benchmarks.faults import Undisturbed, raise_at
from benchmarks.tiny_nights import Nights


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Three nights as they ought to end."""
    return Undisturbed(Nights(tmp_path_factory.mktemp("nights")))


def test_a_night_that_fails_at_any_kind_of_step_serves_one_release_whole_and_ends_as_undisturbed_when_run_again(
    undisturbed: Undisturbed,
) -> None:
    # Each kind once: in the second night, which trains nothing, where it has one.
    tried = set()
    for number in (2, 3):
        for at, point in enumerate(undisturbed.points[number]):
            if point[0] not in tried:
                tried.add(point[0])
                raise_at(undisturbed, number, at)
    assert {step.partition(".")[0] for step in tried} >= {
        "write", "rename", "record", "checkpoint", "adopt", "upsert", "delete", "index", "tag",
    }  # fmt: skip


def test_a_killed_retraining_goes_on_though_items_have_gone_that_its_model_never_embedded(
    undisturbed: Undisturbed,
) -> None:
    embedded = [
        at for at, (step, name) in enumerate(undisturbed.points[3]) if step == "write.before" and "embeddings/" in name
    ]
    # Its last part but one is written; the item that the second night changed is in none of them.
    raise_at(undisturbed, 3, embedded[-1])
