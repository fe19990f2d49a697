"""What `training:` of a pipeline says."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from pairloom.models.batches.config import AugmentationConfig

REFIT_RATE, REFIT_WARMUP = 0.3, 0.05
"""Highest rate of a refit, as a share of the training's, and the share of its steps over which it rises."""


class TrainingConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """How long and how to train. The first budget that is used up ends the training."""

    max_minutes: float | None = Field(default=3, gt=0)
    """Training time. A resumed run goes on with what is left of it."""
    max_steps: int | None = Field(default=None, ge=0)
    """Optimizer steps; where it isn't given, 100 with architectures that start in closed form (`drawings`,
    `photographs`, `photographs-plain`), and 0, which leaves the start as it is, with `drawings-pretrained`. With
    steps alone (`max_minutes: null`) the weights are the same to the last bit."""
    batch_size: int = Field(default=256, ge=2)
    """Items in a batch."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Highest learning rate, reached after the warm-up; a cosine brings it to 0."""
    weight_decay: float = Field(default=0.2, ge=0)
    """AdamW's decay of all weights of two or more dimensions."""
    max_grad_norm: float | None = Field(default=None, gt=0)
    """Longest gradient, over all weights; a longer one is scaled down to it. None scales nothing."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Where given, the weights that are kept are a moving average of the trained ones, with at most this decay a step:
    0.99 averages about 100 steps. Early steps weigh less, so that a short training doesn't keep its start."""
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of the budget over which the learning rate rises."""
    hard_fraction: float = Field(default=0.25, ge=0, lt=1)
    """Share of a batch that is there as a mined hard negative of another item."""
    partner_fraction: float = Field(default=0.5, ge=0, le=0.5)
    """Share of a batch that is there as a partner of another item, where an objective compares items: a known positive,
    or the other item of a pair. Objectives of images and texts alone need none, and get none."""
    augmentation: AugmentationConfig | None = AugmentationConfig()
    """Random changes to the images; `null` for none. Drawings want less than photographs: benchmarks/towers.md."""
    seed: int = Field(default=0, ge=0)
    """Of initial weights, batches, text choice and augmentation."""
    micro_batch: int | None = Field(default=None, ge=1)
    """Images, or texts, that pass through a tower at once; a batch of more takes two passes and little more memory than
    one of these (GradCache). None passes all at once."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the towers. `auto` is bfloat16 on a GPU and float32 on a CPU, where small towers gain nothing."""
    refit: float | None = Field(default=None, ge=0, le=2)
    """Share of the training's steps that a challenger which passed the gate goes on for, at a lower rate, on all items:
    those of the validation and test splits as well, which are searched like any other. That model then serves, and the
    one that was measured stays beside it for all comparisons. 0 trains no further, and so does no value, but with
    architectures that start in closed form (`drawings`, `photographs` and their likes), where it means 0.3."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of torch; none leaves torch's own choice."""
    processes: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Processes on this machine that share every batch; `auto` is one for each GPU, and one without any."""
    rank_timeout_minutes: float = Field(default=10, gt=0)
    """How long processes wait for one of them before the training is started again from its last checkpoint."""
    pixels: Literal["auto", "file", "stream"] = "auto"
    """`file`: pictures are decoded once, into a file of the run that is as large as all pixels. `stream`: each batch's
    are read from the corpus and decoded, which takes no disk and more CPU. `auto` streams where the file would take
    more than half of the free disk. The weights are the same."""
    tensorboard: Path | None = None
    """Folder for TensorBoard to read; none writes nothing for it."""
    checkpoint_seconds: float = Field(default=20, gt=0)
    """Training time between two checkpoints."""

    @model_validator(mode="after")
    def _has_a_budget(self) -> "TrainingConfig":
        if self.max_minutes is None and self.max_steps is None:
            raise ValueError("training needs max_minutes or max_steps")
        return self

    @property
    def shape(self) -> dict[str, Any]:
        """What of this decides how the model comes out; the rest is where and how it is made."""
        elsewhere = {"processes", "pixels", "rank_timeout_minutes", "tensorboard", "checkpoint_seconds"}
        # Roots that are older than the refit were shaped by none.
        return self.model_dump(mode="json", exclude=elsewhere if self.refit else elsewhere | {"refit"})

    def further(self, steps: int) -> "TrainingConfig":
        """How a model that was trained for `steps` is trained on: for `refit` of these, and briefly warmed up to
        `REFIT_RATE` of the learning rate, since its weights are no start."""
        return self.model_copy(
            update={
                "max_minutes": None,
                "max_steps": max(1, round((self.refit or 0) * steps)) if steps else 0,
                "learning_rate": REFIT_RATE * self.learning_rate,
                "warmup_fraction": min(self.warmup_fraction, REFIT_WARMUP),
                "refit": None,
            }
        )
