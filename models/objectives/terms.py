"""All objectives of a pipeline at work: the weighted sum of their terms, and the state that the terms keep."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pairloom.models.objectives import (
    clip,
    contrastive,
    cross_encoder,
    distance,
    instance,
    momentum,
    n_pair,
    nt_xent,
    ordered,
    reconstruction,
    siglip,
    triplet,
)
from pairloom.models.objectives import config as configs
from pairloom.models.objectives.batch import EmbeddedBatch, Setting, Term
from pairloom.models.objectives.kept import read_kept, write_kept

BUILDERS: Mapping[type[configs.Objective], Callable[[Any, Setting], Term]] = {
    configs.ClipConfig: clip.build,
    configs.ContrastiveConfig: contrastive.build,
    configs.CrossEncoderConfig: cross_encoder.build,
    configs.DistanceConfig: distance.build,
    configs.InstanceConfig: instance.build,
    configs.MomentumConfig: momentum.build,
    configs.NPairConfig: n_pair.build,
    configs.NtXentConfig: nt_xent.build,
    configs.OrderedConfig: ordered.build,
    configs.ReconstructionConfig: reconstruction.build,
    configs.SiglipConfig: siglip.build,
    configs.SupConConfig: nt_xent.build,
    configs.TripletConfig: triplet.build,
}


def build(config: configs.Objective, setting: Setting) -> Term:
    """The term of one objective."""
    return BUILDERS[type(config)](config, setting)


class Objectives(nn.Module):
    """The weighted sum of the terms. Called with a batch, it gives this rank's share of it."""

    def __init__(self, objectives: Sequence[configs.Objective], setting: Setting) -> None:
        super().__init__()
        self.configs = list(objectives)
        self.weights = [each.weight for each in objectives]
        names = [str(getattr(each, "loss", "")) for each in objectives]
        self.names = [
            f"{name}_{names[:place].count(name) + 1}" if names.count(name) > 1 else name
            for place, name in enumerate(names)
        ]
        """Of the terms, numbered where a loss stands several times."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setting.seed)
            self.terms = nn.ModuleDict(
                {name: each.build(setting) for name, each in zip(self.names, objectives, strict=True)}
            )
        self.to(setting.encoder.device)

    def forward(self, batch: EmbeddedBatch, ranks: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum (0-d, with gradients), and each term's own value before its weight (without)."""
        values = []
        for term in self._terms():
            value = term(batch)
            values.append(value if term.splits else value / ranks)
        value_T = torch.stack(values)
        return (value_T * value_T.new_tensor(self.weights)).sum(), value_T.detach()

    def after_step(self, batch: EmbeddedBatch) -> None:
        """Lets the terms follow a step that the optimizer has taken."""
        with torch.no_grad():
            for term in self._terms():
                term.after_step(batch)

    def save_kept(self, model: Path) -> None:
        """Writes what terms keep, and their configuration, into `objectives/` of a model's folder.

        Nothing where none keeps any.
        """
        kept = {
            f"{name}.{key}": tensor.detach().cpu().contiguous()
            for name, term in zip(self.names, self._terms(), strict=True)
            for key, tensor in term.state_dict().items()
            if key.startswith(term.kept)
        }
        configs = {
            name: config.model_dump(mode="json")
            for name, config, term in zip(self.names, self.configs, self._terms(), strict=True)
            if term.kept
        }
        write_kept(kept, configs, model)

    def load_kept(self, model: Path) -> None:
        """Takes over what the same terms kept in a model's folder, where shapes agree."""
        kept = read_kept(model)
        state = self.terms.state_dict()
        fitting = {key: kept[key] for key in state if key in kept and kept[key].shape == state[key].shape}
        self.terms.load_state_dict(fitting, strict=False)

    def _terms(self) -> Iterable[Term]:
        return self.terms.values()  # type: ignore[return-value]  # a ModuleDict of terms
