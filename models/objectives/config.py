"""What `objective:` of a pipeline says: one class a loss, and what each asks of a batch."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, Field, model_validator

from pairloom.models.batches.config import Positive, Side

if TYPE_CHECKING:
    from pairloom.models.objectives.batch import Setting, Term

Want = Literal[Side, "item_targets", "pairs"]
"""A side's embeddings, positives among the batch's items, or the given and mined pairs within the batch."""


class Objective(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """One entry of `objective:`."""

    weight: float = Field(default=1.0, gt=0)
    """Factor of this term in the sum."""

    @property
    def wants(self) -> frozenset[Want]:
        """What the term needs of a batch; nothing else is computed."""
        raise NotImplementedError

    @property
    def partners(self) -> frozenset[str]:
        """By which relations (`positive`, or one of the pairs' Parquet) batches must bring items together."""
        return frozenset()

    @property
    def looks_at_images(self) -> bool:
        """Whether it needs images themselves, or several views of them: one frozen trunk's output isn't enough."""
        return "image_view" in self.wants

    def build(self, setting: "Setting") -> "Term":
        """The term at work, its own weights initialised from `setting.seed`. ValueError where the setting lacks what it
        needs."""
        # Terms are made of torch: they are imported once one is built.
        from pairloom.models.objectives.terms import build

        return build(self, setting)


class ClipConfig(Objective):
    """Symmetric InfoNCE between images and texts, with a learned temperature and targets by group."""

    loss: Literal["clip"] = "clip"

    @property
    def wants(self) -> frozenset[Want]:
        """Both sides."""
        return frozenset({"image", "text"})


class SiglipConfig(Objective):
    """A sigmoid of each image and each text of a batch, with a learned scale and bias; positives by group. Needs no
    large batch."""

    loss: Literal["siglip"] = "siglip"

    @property
    def wants(self) -> frozenset[Want]:
        """Both sides."""
        return frozenset({"image", "text"})


Between = Literal["image_text", "image_image", "text_text"]


Positives = Literal["related", "views", "related_views"]


class Comparing(Objective):
    """An objective that compares embeddings of a batch."""

    between: Between = "image_text"
    """What is compared: images with texts, or images, or texts, with one another through their one tower."""
    positives: Positives = "related"
    """Which are positives: `related` items and texts (of a group, of equal text or pixels, or given as a pair); the two
    `views` of an item, whatever else is known of it: its image under two random changes, two of its texts, or image and
    text; or both, every view of an item being one of each related item's."""

    @model_validator(mode="after")
    def _has_views(self) -> Self:
        if self.between == "image_text" and self.positives == "related_views":
            raise ValueError(
                "positives: related_views needs between: image_image or text_text; between images and texts it is "
                "related, or views"
            )
        return self

    @property
    def sides(self) -> tuple[Side, ...]:
        """What is embedded."""
        if self.between == "image_text":
            return "image", "text"
        one: tuple[Side, Side] = ("image", "image_view") if self.between == "image_image" else ("text", "text_view")
        return one[:1] if self.positives == "related" else one

    @property
    def wants(self) -> frozenset[Want]:
        """The sides, and positives of items where items are compared."""
        if self.between == "image_text" or self.positives == "views":
            return frozenset(self.sides)
        return frozenset({*self.sides, "item_targets"})

    @property
    def partners(self) -> frozenset[str]:
        """Positives, where nothing but another item can be one."""
        return frozenset({Positive}) if "item_targets" in self.wants else frozenset()


class ContrastiveConfig(Comparing):
    """Hadsell, Chopra and LeCun's loss (2006): similar pairs are drawn together, distinct ones pushed apart until their
    Euclidean distance is the margin."""

    loss: Literal["contrastive"] = "contrastive"
    margin: float = Field(default=1.0, gt=0, le=2)
    """Euclidean distance beyond which distinct pairs are left in peace; embeddings are at most 2 apart."""
    negatives: Literal["batch", "pairs"] = "batch"
    """Which pairs are distinct: all of a batch that aren't similar, or those alone that are given or mined as
    negatives."""

    @property
    def wants(self) -> frozenset[Want]:
        """Pairs beside the sides, where they are asked for."""
        return super().wants | ({"pairs"} if self.negatives == "pairs" else frozenset())


Choice = Literal["all", "hardest", "semi_hard", "random"]


class TripletConfig(Comparing):
    """FaceNet's loss (Schroff et al. 2015): an anchor's positive is nearer than a negative by a margin of squared
    Euclidean distance. Needs the extra `objectives`."""

    loss: Literal["triplet"] = "triplet"
    margin: float = Field(default=0.2, ge=0, le=4)
    """How much further a negative shall be, in squared Euclidean distance, which is at most 4."""
    choose: Choice = "semi_hard"
    """Negatives of each anchor and positive: `all` (a sum of hinges), the `hardest` (the largest hinge), the nearest
    that is still further than the positive (`semi_hard`; none where there is none), or one at `random`."""
    negatives: Literal["batch", "pairs"] = "batch"
    """What they are chosen from: all of a batch that aren't positives, or those alone that are given or mined as
    negatives of the anchor."""
    temperature: float | None = Field(default=None, gt=0)
    """Of a soft-plus in place of the hinge, which it is the limit of; none for the hinge."""

    @property
    def wants(self) -> frozenset[Want]:
        """Pairs beside the sides, where they are asked for."""
        return super().wants | ({"pairs"} if self.negatives == "pairs" else frozenset())


class NPairConfig(Comparing):
    """Sohn's N-pair loss (2016): each positive of an anchor against all the negatives of a batch at once. With one
    positive an anchor it is InfoNCE."""

    loss: Literal["n_pair"] = "n_pair"
    temperature: float | None = Field(default=None, gt=0)
    """What cosines are divided by; none for the network's learned logit scale."""


class NtXentConfig(Comparing):
    """SimCLR's NT-Xent (Chen et al. 2020): the two views of an item find one another among all views of a batch. No
    label is read."""

    loss: Literal["nt_xent"] = "nt_xent"
    between: Between = "image_image"
    """What is compared: images, or texts, with one another through their one tower, or images with texts."""
    positives: Positives = "views"
    """The two views of an item: its image under two random changes, two of its texts, or image and text; `related`
    and `related_views` are those of sup_con."""
    temperature: float | None = Field(default=0.1, gt=0)
    """What cosines are divided by; none for the network's learned logit scale."""
    across_towers: bool = False
    """Whether images are compared with those of the other image tower alone; needs `model.second_image_tower`, and
    `positives: related`."""

    @model_validator(mode="after")
    def _towers_have_images(self) -> Self:
        if self.across_towers and (self.between, self.positives) != ("image_image", "related"):
            raise ValueError("across_towers: true needs between: image_image and positives: related")
        return self


class SupConConfig(NtXentConfig):
    """Supervised contrastive learning (Khosla et al. 2020): all views of all items that are known positives find one
    another."""

    loss: Literal["sup_con"] = "sup_con"  # type: ignore[assignment]  # another tag of the same fields
    positives: Positives = "related_views"
    """Every view of an item and of each `related` one (of a group, of equal text or pixels, or given as a pair); or
    without views: `related`; `views` alone make it nt_xent."""


Contrast = Literal["image_text", "image_image", "text_text"]


Key = Literal["image", "text"]
"""What the momentum towers embed, and queues hold."""


DIRECTIONS: Mapping[Contrast, tuple[tuple[Side, Key], ...]] = {
    "image_text": (("image", "text"), ("text", "image")),
    "image_image": (("image_view", "image"),),
    "text_text": (("text_view", "text"),),
}
"""Which embeddings look for their positives among which keys."""


class MomentumConfig(Objective):
    """InfoNCE against the batch's and many past batches' embeddings, all by a moving average of the towers."""

    loss: Literal["momentum"] = "momentum"
    contrasts: tuple[Contrast, ...] = Field(default=("image_text",), min_length=1)
    """Which embeddings are compared: images with texts both ways, or a second view of an image (text) with images
    (texts). The loss is the mean over all."""
    queue: int = Field(default=4096, ge=0)
    """Past embeddings of each kind that are kept as negatives. Those that are known positives are left out."""
    momentum: float = Field(default=0.99, ge=0, lt=1)
    """How much of the momentum towers' weights stays in each step. He et al. use 0.999, in trainings of many epochs."""
    temperature: float | None = Field(default=None, gt=0)
    """Cosine similarities are divided by it. None takes the learned logit scale. He et al. use 0.07."""

    @property
    def wants(self) -> frozenset[Want]:
        """The sides that look for keys; within a modality, positives among the batch's items too."""
        sides: set[Want] = {query for contrast in self.contrasts for query, _ in DIRECTIONS[contrast]}
        return frozenset(sides | ({"item_targets"} if set(self.contrasts) != {"image_text"} else set()))


class InstanceConfig(Objective):
    """Each item a class: no group and no text is read, only which item an image, randomly changed, came from."""

    loss: Literal["instance"] = "instance"
    classes: Literal["auto", "weights", "memory"] = "auto"
    """What an item's class is: a trained weight vector in a softmax over all items (`weights`), or the memory of its
    own past embeddings, told from sampled ones (`memory`). `auto`: weights up to `max_weights` items, memory for
    more."""
    max_weights: int = Field(default=10_000, ge=1)
    """Items up to which `auto` takes weights."""
    negatives: int = Field(default=4096, ge=1)
    """Memories that a batch is told from in a step; with `memory` alone."""
    memory_momentum: float = Field(default=0.5, ge=0, lt=1)
    """How much of an item's memory stays where a new embedding comes; with `memory` alone."""
    temperature: float = Field(default=0.1, gt=0)
    """Cosine similarities are divided by it. Wu et al. use 0.07."""

    @property
    def looks_at_images(self) -> bool:
        """What makes an item a class are its random changes."""
        return True

    @property
    def wants(self) -> frozenset[Want]:
        """Images."""
        return frozenset({"image"})


class ReconstructionConfig(Objective):
    """The images' own pixels, read off their embeddings by a decoder that is dropped after the training."""

    loss: Literal["reconstruction"] = "reconstruction"
    width: int = Field(default=256, ge=1)
    """Units of the decoder's hidden layer."""
    side: int = Field(default=32, ge=1)
    """Larger images are shrunk to this many pixels a side before they are compared."""

    @property
    def looks_at_images(self) -> bool:
        """They are what is drawn."""
        return True

    @property
    def wants(self) -> frozenset[Want]:
        """Images."""
        return frozenset({"image"})


class DistanceConfig(Objective):
    """Mean squared difference between the Euclidean distances of embeddings, times a learned scale, and the targets of
    given or mined pairs (Courty, Flamary and Ducoffe 2017)."""

    loss: Literal["distance"] = "distance"
    side: Literal["image", "text"] = "image"
    """What of the two items is compared."""
    decoder_weight: float = Field(default=0.0, ge=0)
    """Factor of a small decoder's loss: it draws the image's ink from the embedding, coarsely. 0 builds none."""
    decoder_side: int = Field(default=8, ge=2, le=64)
    """Cells a side of what the decoder draws."""

    @property
    def looks_at_images(self) -> bool:
        """Where they are drawn."""
        return self.decoder_weight > 0

    @property
    def wants(self) -> frozenset[Want]:
        """The side, and who is paired."""
        return frozenset({self.side, "pairs"})

    @property
    def partners(self) -> frozenset[str]:
        """The other of a pair with a target."""
        return frozenset({"target"})


class OrderedConfig(Objective):
    """Which label an ordered pair (anchor, other) has: cross-entropy of a classifier over its two embeddings."""

    loss: Literal["ordered"] = "ordered"
    side: Literal["image", "text"] = "image"
    """What of the two items is compared."""
    width: int = Field(default=64, ge=1)
    """Length of the left and the right projection."""

    @property
    def wants(self) -> frozenset[Want]:
        """The side, and who is paired."""
        return frozenset({self.side, "pairs"})

    @property
    def partners(self) -> frozenset[str]:
        """The other of a labelled pair."""
        return frozenset({"ordered"})


class CrossEncoderConfig(Objective):
    """A network of its own that reads an image and a text together and gives one score. It learns to tell each pair
    from those that the dual encoder takes for likely, and is kept beside the model for `pairloom search --rerank`."""

    loss: Literal["cross_encoder"] = "cross_encoder"
    towers: Literal["own", "shared"] = "own"
    """Whose tokens it reads: a copy of the towers, trained by this loss alone and whole (no lock, no adapters), whose
    mistakes are others than the dual encoder's; or `shared`, those of the dual encoder, which costs less."""
    anchors: int = Field(default=64, ge=1)
    """Texts, and as many images, of a batch that are compared with their hard negatives in a step."""
    negatives: int = Field(default=15, ge=1)
    """Hard negatives an anchor, drawn from the batch with the probabilities that the dual encoder gives them: any at
    first, the most alike later. Known positives are never among them."""
    width: int = Field(default=128, ge=8)
    """Of the network's layers."""
    heads: int = Field(default=4, ge=1)
    """Of the attention; they share its width."""

    cosine: float = Field(default=1.0, ge=0)
    """How much the dual encoder's own logit counts beside the network's score where hits are re-ranked."""

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> "CrossEncoderConfig":
        if self.width % self.heads:
            raise ValueError(f"cross_encoder: width {self.width} is no multiple of heads {self.heads}")
        return self

    @property
    def looks_at_images(self) -> bool:
        """It reads patches."""
        return True

    @property
    def wants(self) -> frozenset[Want]:
        """Both sides, to find hard negatives by."""
        return frozenset({"image", "text"})


ObjectiveConfig = Annotated[
    ClipConfig
    | ContrastiveConfig
    | CrossEncoderConfig
    | DistanceConfig
    | InstanceConfig
    | MomentumConfig
    | NPairConfig
    | NtXentConfig
    | OrderedConfig
    | ReconstructionConfig
    | SiglipConfig
    | SupConConfig
    | TripletConfig,
    Field(discriminator="loss"),
]
"""One entry of `objective:`; `loss` says which."""


def wants(objectives: Iterable[Objective]) -> frozenset[Want]:
    """All that the objectives need of a batch."""
    return frozenset().union(*(each.wants for each in objectives))


def partners(objectives: Iterable[Objective]) -> frozenset[str]:
    """All relations by which batches must bring items together."""
    return frozenset().union(*(each.partners for each in objectives))


def look_at_images(objectives: Iterable[Objective]) -> bool:
    """Whether one of the objectives needs more of an image than its features."""
    return any(each.looks_at_images for each in objectives)
