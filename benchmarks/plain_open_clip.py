"""A released model asked through plain `open_clip` and through Pairloom's search; what a catalogue's own texts find.

    python -m benchmarks.plain_open_clip .pairloom/emoji-drawings .pairloom/grocery --pictures ../shared/data

A folder is a pipeline's, with a release; `--pictures` is where its items' paths start (`base` of the source). The plain
way opens the release's model folder with `open_clip.create_model_from_pretrained("local-dir:…")` and
`open_clip.get_tokenizer`, and ranks by cosine: the validation items' picture files as PIL opens them, or the pictures
that the corpus stores, which are cut to their content box. Pairloom's way is `Index.search_many` over the validation
items of the released table (`where: split = 'val'`): their texts, with and without the images' hubness taken off, and
their picture files. *image → image* leaves the picture's own item out and asks for another of its group. An answer is
right where an item of the group of the query is.
"""

# Q = queries, N = items, T = unique texts, K = places, D = embedding

import argparse
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from PIL import Image

from benchmarks.served import Served, say
from pairloom.models.arrays import Embeddings, Mask
from pairloom.search.index import Index
from pairloom.search.query import Query
from pairloom.storage.corpus import Corpus

K = (1, 10)
BATCH = 64
VALIDATION = "split = 'val'"
Places = npt.NDArray[np.int64]


class PlainModel:
    """A released model's folder, as anybody opens it."""

    def __init__(self, folder: Path) -> None:
        name = f"local-dir:{folder.resolve()}"
        self._model, self._preprocess = open_clip.create_model_from_pretrained(name)
        self._tokenizer = open_clip.get_tokenizer(name)
        self._model.eval()

    def images(self, pictures: Iterable[Image.Image]) -> Embeddings:
        """Embeddings (N, D) of pictures."""
        prepared = [self._preprocess(picture) for picture in pictures]
        return self._embedded(self._model.encode_image, [torch.stack(list(own)) for own in _cut(prepared)])

    def texts(self, texts: Sequence[str]) -> Embeddings:
        """Embeddings (T, D) of texts."""
        return self._embedded(self._model.encode_text, [self._tokenizer(own) for own in _cut(texts)])

    def _embedded(self, encode: Any, batches: Iterable[torch.Tensor]) -> Embeddings:
        with torch.inference_mode():
            found: Embeddings = np.concatenate([encode(batch, normalize=True).numpy() for batch in batches])
        return found


def _cut(things: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (things[first : first + BATCH] for first in range(0, len(things), BATCH))


class Asked:
    """A release's validation items: their texts, and what is right for each."""

    def __init__(self, folder: Path, pictures: Path) -> None:
        self.served = Served(folder)
        self.index = Index.open(folder)
        own = self.served.split_N == "val"
        self.ids = [row["item_id"] for row, among in zip(self.served.rows, own, strict=True) if among]
        self.group_N = self.served.group_N[own]
        self.texts = self.served.texts("val")
        self.own_TN: Mask = self.served.asked(self.texts, most=len(self.texts)).own_QN[:, own]
        self.others_NN: Mask = (self.group_N[:, None] == self.group_N) & ~np.eye(len(self.ids), dtype=bool)
        corpus, release = Corpus(folder), self.served.release
        table = corpus.table(corpus.log.read(release.record.snapshot), ["item_id", "image"])
        wanted = set(self.ids)
        stored = {row["item_id"]: row["image"] for row in table.to_pylist() if row["item_id"] in wanted}
        self.files = [pictures / stored[item_id]["path"] for item_id in self.ids]
        self.stored = [Image.open(io.BytesIO(stored[item_id]["bytes"])) for item_id in self.ids]

    def plain(self, model: PlainModel, pictures: Sequence[Image.Image]) -> list[str]:
        """Cells of the plain way."""
        image_ND, text_TD = model.images(pictures), model.texts(self.texts)
        score_NN = image_ND @ image_ND.T
        np.fill_diagonal(score_NN, -1)
        lone_N = self.others_NN.any(axis=1)
        return [
            recalls(text_TD @ image_ND.T, self.own_TN),
            recalls(image_ND @ text_TD.T, self.own_TN.T),
            recalls(score_NN[lone_N], self.others_NN[lone_N]),
        ]

    def ours(self, *, hubness: bool) -> list[str]:
        """Cells of Pairloom's way. Texts of an item are one vector there; of equal ones the first is counted."""
        place = {item_id: number for number, item_id in enumerate(self.ids)}
        found = self.index.search_many(self.texts, k=K[-1], where=VALIDATION, hubness=hubness)
        texts = [
            hits([place[hit.item_id] for hit in own.hits], row_N) for own, row_N in zip(found, self.own_TN, strict=True)
        ]
        queries = [Query(image=file) for file in self.files]
        named, alike = [], []
        for row, own in enumerate(self.index.search_many(queries, k=len(self.ids), where=VALIDATION, target="text")):
            first = {tuple(hit.texts): place[hit.item_id] for hit in reversed(own.hits)}
            ranked = sorted(first.values(), key={place[hit.item_id]: at for at, hit in enumerate(own.hits)}.__getitem__)
            named.append(hits(ranked, self.group_N == self.group_N[row]))
        for row, own in enumerate(self.index.search_many(queries, k=K[-1] + 1, where=VALIDATION)):
            if self.others_NN[row].any():
                places = [place[hit.item_id] for hit in own.hits if hit.item_id != self.ids[row]]
                alike.append(hits(places, self.others_NN[row]))
        return [_cell(each) for each in (texts, named, alike)]


def hits(places: Sequence[int], right_N: Mask) -> list[bool]:
    """Whether one of the first is right, by K."""
    return [bool(right_N[list(places[:k])].any()) for k in K]


def recalls(score_QN: Embeddings, right_QN: Mask) -> str:
    """Recall @1 / @10 of scores."""
    best_QK = np.argsort(-score_QN, axis=1, kind="stable")[:, : K[-1]]
    return _cell([hits(best_K.tolist(), right_N) for best_K, right_N in zip(best_QK, right_QN, strict=True)])


def _cell(right: Sequence[Sequence[bool]] | npt.NDArray[np.bool_]) -> str:
    return " / ".join(f"{share:.3f}" for share in np.mean(np.asarray(right, float), axis=0))


def catalogue(served: Served, index: Index) -> Iterator[str]:
    """Lines: what all texts of a split's items find among all that is served, with and without hubness."""
    place = {row["item_id"]: number for number, row in enumerate(served.rows)}
    for split in served.splits:
        texts = served.texts(split)
        own_TN = served.asked(texts, most=len(texts)).own_QN
        cells = []
        for hubness in (False, True):
            found = index.search_many(texts, k=K[-1], hubness=hubness)
            right = [
                hits([place[hit.item_id] for hit in own.hits], row_N) for own, row_N in zip(found, own_TN, strict=True)
            ]
            cells.append(_cell(right))
        yield f"{split} | {len(texts):,} | {len(served.rows):,} | {' | '.join(cells)}"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--pictures", type=Path, required=True)
    options = parser.parse_args()
    say("| pipeline | asked through | text → image @1 / @10 | image → text | image → image |\n|" + " --- |" * 5)
    opened = {folder: Asked(folder, options.pictures) for folder in options.folders}
    for folder, asked in opened.items():
        model = PlainModel(folder / "models" / asked.served.release.record.model_id)
        files = [Image.open(file) for file in asked.files]
        usual = "on" if asked.served.release.record.hubness else "off"
        rows = {
            "plain open_clip, picture files": asked.plain(model, files),
            "plain open_clip, the corpus' pictures": asked.plain(model, asked.stored),
            "Pairloom, hubness off": asked.ours(hubness=False),
            "Pairloom, hubness on": asked.ours(hubness=True),
        }
        for title, cells in rows.items():
            shown = f"{title} (as shipped)" if title.endswith(f"hubness {usual}") else title
            say(f"| {folder.name} | {shown} | {' | '.join(cells)} |")
    say("\n| pipeline | texts of | texts | among items | hubness off: @1 / @10 | hubness on |\n|" + " --- |" * 6)
    for folder, asked in opened.items():
        for line in catalogue(asked.served, asked.index):
            say(f"| {folder.name} | {line} |")


if __name__ == "__main__":
    main()
