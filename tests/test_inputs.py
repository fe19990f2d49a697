from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from pairloom.flows.config import load_pipeline
from pairloom.models.batches.pixels import StreamedPixels
from pairloom.storage.corpus import Corpus
from pairloom.storage.image_places import StoredImages, write_places
from pairloom.storage.runs import Run
from pairloom.tasks.items import read_items, split_images
from pairloom.tasks.training import inputs
from pairloom.tasks.training.challenger import starting_point
from pairloom.tasks.training.inputs import Inputs


@pytest.fixture(scope="module")
def named(first_night: Path, tmp_path_factory: pytest.TempPathFactory) -> "Named":
    return Named(first_night, tmp_path_factory.mktemp("runs"))


class Named:
    """Inputs of trainings over one night's training items, each in a run of its own."""

    def __init__(self, night: Path, runs: Path) -> None:
        self.pipeline, self.runs = load_pipeline(night / "pipelines.yaml"), runs
        corpus = Corpus(self.pipeline.folder)
        self.snapshot = corpus.current()
        self.items = read_items(corpus, self.snapshot, "train")
        self.start = starting_point(self.pipeline, None, self.items, self.snapshot)

    def __call__(self, name: str) -> Inputs:
        return Inputs.of(self.pipeline, Run(self.runs, name), self.snapshot, "train", self.items, self.start)


def test_streamed_pixels_are_those_of_the_file(named: Named) -> None:
    kept, streamed = named("kept"), named("streamed")
    kept.write("file")
    streamed.write("stream")
    rows = np.random.default_rng(0).permutation(len(named.items.item_ids))
    pixels, made = kept.open(), streamed.open()
    assert isinstance(made, StreamedPixels)
    np.testing.assert_array_equal(made[rows], pixels[rows])
    np.testing.assert_array_equal(made[1:4], pixels[1:4])


def test_pixels_that_do_not_fit_on_the_disk_are_streamed(named: Named, monkeypatch: pytest.MonkeyPatch) -> None:
    roomy, tight = named("roomy"), named("tight")
    roomy.write("auto")
    monkeypatch.setattr(inputs, "ROOM", 0)
    tight.write("auto")
    assert not isinstance(roomy.open(), StreamedPixels)
    assert isinstance(tight.open(), StreamedPixels)


def test_a_rank_waits_for_what_another_makes(named: Named) -> None:
    waiting = Thread(target=named("shared").wait)
    waiting.start()
    named("shared").write("file")
    waiting.join()
    assert named("shared").run.pixels.exists()


@pytest.mark.parametrize("split", ["train", "val", None])
def test_each_stored_image_is_read_by_itself(named: Named, split: str | None, tmp_path: Path) -> None:
    corpus, heard = Corpus(named.pipeline.folder), list[int]()
    # One of them is no item any more.
    part = named.snapshot.parts[0]
    gone = corpus.part_ids(named.snapshot, part)[1].as_py()
    snapshot = named.snapshot.model_copy(update={"tombstones": {part.digest: (gone,)}})
    write_places(corpus, snapshot, split, tmp_path / "places.npy", heard.append)
    stored = StoredImages(tmp_path / "places.npy", [corpus.part_path(part) for part in snapshot.parts])
    expected = [picture for batch in split_images(corpus, snapshot, split) for picture in batch]
    assert len(stored) == len(expected) == heard[-1]
    for row, picture in enumerate(expected):
        assert stored.read(row) == picture.args[0]  # type: ignore[union-attr]  # a partial of its bytes
