"""Labels of ordered pairs, which no order of single items need explain: rock, paper and scissors."""

# N = items, B = batch, M = pairs, D = embedding, W = projection, C = labels

from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from pairloom.models.arrays import Indices
from pairloom.models.objectives.batch import EmbeddedBatch, Setting, Term
from pairloom.models.objectives.config import OrderedConfig
from pairloom.models.objectives.kept import read_kept

MAX_LABELS = 100


def build(config: OrderedConfig, setting: Setting) -> Term:
    """A term with a classifier of the labels that the pairs have. ValueError for too many of them, or too few."""
    label_C = np.unique(_labels(torch.from_numpy(setting.pairs_of("ordered").targets_M)).numpy())
    if not 2 <= len(label_C) <= MAX_LABELS:
        raise ValueError(
            f"objective: loss: ordered classifies pairs, and the targets of the ordered pairs have {len(label_C)} "
            f"different values: give them labels, 2 to {MAX_LABELS} numbers such as 1, 0 and -1 (docs/pairs.md)"
        )
    return OrderedTerm(config.side, OrderedClassifier(setting.dimension, config.width, label_C.tolist()))


class OrderedClassifier(nn.Module):
    """Labels of ordered pairs of embeddings: a projection of the one and another of the other, and a layer over their
    rectified sum."""

    label_C: torch.Tensor

    def __init__(self, dimension: int, width: int, labels: list[float]) -> None:
        super().__init__()
        # Young embeddings all but agree: without this, they collapse into what predicts the labels' frequencies.
        self.standardise = nn.BatchNorm1d(dimension, eps=1e-8, affine=False)
        self.left = nn.Linear(dimension, width)
        self.right = nn.Linear(dimension, width, bias=False)
        self.classifier = nn.Linear(width, len(labels))
        self.register_buffer("label_C", torch.tensor(labels))
        self.register_load_state_dict_pre_hook(_leave_other_labels)  # type: ignore[no-untyped-call]  # torch's own

    @classmethod
    def load(cls, model: Path, term: str = "ordered") -> Self:
        """What a model's training kept. `term` is numbered where the loss stands several times: `ordered_1`.

        ValueError where the model's training had no such term.
        """
        start = f"{term}.pairs."
        state = {key.removeprefix(start): each for key, each in read_kept(model).items() if key.startswith(start)}
        if not state:
            raise ValueError(f"{model}: its training had no objective {term!r}; add {{loss: ordered}} to `objective:`")
        width, dimension = state["left.weight"].shape
        classifier = cls(dimension, width, state["label_C"].tolist())
        classifier.load_state_dict(state)
        return classifier.eval()

    def forward(self, embedding_BD: torch.Tensor, first_M: torch.Tensor, second_M: torch.Tensor) -> torch.Tensor:
        """Logits (M, C) of pairs, given by their rows."""
        standard_BD = self.standardise(embedding_BD)
        hidden_MW = F.relu(self.left(standard_BD)[first_M] + self.right(standard_BD)[second_M])
        logits_MC: torch.Tensor = self.classifier(hidden_MW)
        return logits_MC

    @torch.no_grad()
    def labels(
        self, embedding_ND: npt.NDArray[np.float32], firsts_M: Indices, seconds_M: Indices
    ) -> npt.NDArray[np.float32]:
        """The likeliest label (M,) of each pair of rows, as the pairs' `target` has it."""
        logits_MC = self(*(torch.from_numpy(each) for each in (embedding_ND, firsts_M, seconds_M)))
        label_M: npt.NDArray[np.float32] = self.label_C[logits_MC.argmax(dim=1)].numpy()
        return label_M


class OrderedTerm(Term):
    """`ordered_loss` of the labelled pairs within a batch."""

    kept = ("pairs.",)

    def __init__(self, side: Literal["image", "text"], pairs: OrderedClassifier) -> None:
        super().__init__()
        self.side = side
        self.pairs = pairs

    def forward(self, batch: EmbeddedBatch) -> torch.Tensor:
        """The loss of the whole batch; 0 where it holds no labelled pair."""
        embedding_BD, pairs = batch.sides[self.side], batch.ready.pairs["ordered"]
        logits_MC = self.pairs(embedding_BD, pairs.first_M, pairs.second_M)
        place_M = torch.searchsorted(self.pairs.label_C, _labels(pairs.target_M))
        return ordered_loss(logits_MC, place_M, pairs.weight_M)


def ordered_loss(logits_MC: torch.Tensor, place_M: torch.Tensor, weight_M: torch.Tensor) -> torch.Tensor:
    """Weighted mean cross-entropy of the pairs' labels; `place_M` says which of the C labels is a pair's."""
    value_M = F.cross_entropy(logits_MC, place_M, reduction="none")
    return (weight_M * value_M).sum() / weight_M.sum().clamp(min=1e-12)


def _labels(target_M: torch.Tensor) -> torch.Tensor:
    """A pair without a label says that the anchor comes first, which is label 1."""
    return target_M.nan_to_num(nan=1.0)


def _leave_other_labels(classifier: OrderedClassifier, state: dict[str, Any], start: str, *_rest: Any) -> None:
    """What a champion learned of other labels, though as many, is not taken over."""
    kept = state.get(f"{start}label_C")
    if kept is not None and not torch.equal(kept.cpu(), classifier.label_C.cpu()):
        for key in [key for key in state if key.startswith(start)]:
            del state[key]
