"""One pipeline's whole configuration: every block is declared beside the code that reads it."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, Field, NonNegativeFloat, ValidationInfo, field_validator, model_validator

from pairloom.models.evaluation.config import NOVELTY, EvaluationConfig, GateConfig, measured
from pairloom.models.mining.config import MiningConfig
from pairloom.models.objectives.config import ClipConfig, ObjectiveConfig
from pairloom.models.towers.config import FITTED, HUBS, ModelConfig
from pairloom.models.training.config import TrainingConfig
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.objects import StoredPath
from pairloom.storage.pipeline_name import PATTERN
from pairloom.storage.retention import RetentionConfig
from pairloom.storage.sources.columns import ColumnsConfig
from pairloom.storage.sources.config import GivenPairsConfig, SourceConfig
from pairloom.storage.table.config import IndexConfig
from pairloom.tasks.engine.config import EngineConfig
from pairloom.tasks.nearest import nearest
from pairloom.tasks.notifying import NotifyConfig
from pairloom.tasks.retrain import RetrainConfig
from pairloom.tasks.searching import SearchConfig
from pairloom.tasks.tracking.config import TrackingConfig


class ScheduleConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """When the night runs."""

    cron: str = "30 2 * * *"
    """Five cron fields."""
    timezone: str = "UTC"
    """An IANA time zone, so that a night stays a night through the year; the day of a night is the one there."""

    def today(self) -> date:
        """The day that it is there. Raises ValueError where there is no such time zone."""
        try:
            return datetime.now(ZoneInfo(self.timezone)).date()
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"schedule.timezone: {self.timezone!r} is none that is known here") from error


class WorkersConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Which Prefect work pool runs what: docs/prefect.md. `pairloom run` needs none."""

    default: str = "cpu"
    """Work pool of the night and of every stage that names no other."""
    train: str | None = None
    """Work pool of training; the default pool's where it is not given."""
    embed: str | None = None
    """Work pool of embedding; the default pool's where it is not given."""
    evaluate: str | None = None
    """Work pool of evaluation; the default pool's where it is not given."""
    mine: str | None = None
    """Work pool of mining; the default pool's where it is not given."""
    wait_minutes: float = Field(default=10, gt=0)
    """How long a night waits for a stage whose work pool has no worker before it fails; busy workers it waits for."""

    @property
    def refit(self) -> str | None:
        """Work pool of training further: that of training."""
        return self.train


class CostConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What an hour of a work pool costs: `pairloom show` tells what each stage of a release did."""

    per_hour: dict[str, NonNegativeFloat] = {}
    """By the work pool's name, as in `workers`; a stage whose pool isn't named has no cost."""
    currency: str = "EUR"
    """What it is paid in; nothing is converted."""


class Pipeline(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """One collection, from its sources to its releases."""

    name: str = Field(pattern=PATTERN)
    """The pipeline's key in pipelines.yaml."""
    root: StoredPath
    """Folder that holds everything Pairloom stores: of this machine, or `s3://bucket/prefix`, `gs://…`, `az://…`."""
    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    """Where rows come from."""
    columns: ColumnsConfig = ColumnsConfig()
    """Which column of a row means what."""
    pairs: tuple[GivenPairsConfig, ...] = ()
    """Files of pairs of items that you know to be positives, negatives and so on, beside those that are mined."""
    ingest: IngestConfig = IngestConfig()
    """How rows become items."""
    model: ModelConfig = ModelConfig()
    """The network."""
    mining: MiningConfig = MiningConfig()
    """How hard negatives are found."""
    objective: tuple[ObjectiveConfig, ...] = Field(default=(ClipConfig(),), min_length=1)
    """Losses, added up with their weights."""
    training: TrainingConfig = TrainingConfig()
    """How the network learns."""
    retrain: RetrainConfig = RetrainConfig()
    """When a night trains a challenger."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """What is measured on the validation items."""
    gate: GateConfig = GateConfig()
    """When a challenger is released, and a night's rows are served."""
    index: IndexConfig = IndexConfig()
    """How the vector table is indexed."""
    search: SearchConfig = SearchConfig()
    """How the releases that follow are searched."""
    retention: RetentionConfig = RetentionConfig()
    """What is kept."""
    schedule: ScheduleConfig | None = None
    """When the night runs by itself; never where it is not given."""
    workers: WorkersConfig = WorkersConfig()
    """Where stages run."""
    engine: EngineConfig = EngineConfig()
    """Where the parts of a stage run: on its machine, or on a Ray cluster."""
    cost: CostConfig = CostConfig()
    """What an hour of a work pool costs, for the releases' lineage."""
    tracking: TrackingConfig = TrackingConfig()
    """Which experiment trackers are told of nights that measured a challenger."""
    as_of: date | None = None
    """The day whose files a night reads, where sources have dates in their paths; today where it is not given. Said of
    a run (`--as-of`, or in Prefect's form), not in the file."""
    notify: tuple[NotifyConfig, ...] = ()
    """Who hears what its nights came to."""

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, given: Any) -> Any:
        model = given.get("model") if isinstance(given, dict) else None
        if isinstance(model, dict) and model.get("architecture") in FITTED:
            training = given.get("training")
            if training is None or isinstance(training, dict):
                return {**given, "training": {**FITTED[model["architecture"]], **(training or {})}}
        return given

    @field_validator("columns")
    @classmethod
    def _defaults_are_not_said(cls, columns: ColumnsConfig) -> ColumnsConfig:
        # Prefect's form says all of them, a file some: the rows are the same rows.
        return ColumnsConfig.model_validate(columns.model_dump(mode="json", exclude_defaults=True))

    @field_validator("sources")
    @classmethod
    def _names_differ(cls, sources: tuple[SourceConfig, ...]) -> tuple[SourceConfig, ...]:
        labels = [source.label for source in sources]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"two sources are called {twice[0]!r}: give one of them a `name`")
        return sources

    @model_validator(mode="after")
    def _sources_keep_what_the_corpus_has(self) -> "Pipeline":
        types = self.columns.types
        if untyped := sorted(set(self.columns.keep) - set(types)):
            raise ValueError(f"columns.keep.{untyped[0]}: null is for a source's own `columns`; give it a type here")
        for source in self.sources:
            for name, kept in (source.columns.kept if source.columns else {}).items():
                where = f"source {source.label}: columns.keep.{name}"
                if name not in types:
                    kind = kept.type if kept else "string"
                    raise ValueError(
                        f"{where}: the corpus has no such column{nearest(name, types)}; add it to the pipeline's, "
                        f"columns.keep: {{{name}: {kind}}}"
                    )
                if kept and kept.type != types[name]:
                    raise ValueError(
                        f"{where}: the pipeline's `columns` keep it as {types[name]}, and one corpus has one type for "
                        f"it: say {{column: {kept.column}, type: {types[name]}}}"
                    )
        return self

    @model_validator(mode="after")
    def _a_refit_changes_something(self) -> "Pipeline":
        refit, starts_anew = self.training.refit, self.model.closed_form_start or self.model.architecture == "auto"
        if self.training.max_steps == 0 and refit and not starts_anew:
            raise ValueError(
                f"training.refit: {refit} of no steps leaves a model as it is: leave it out, or give training.max_steps"
            )
        return self

    @model_validator(mode="after")
    def _what_is_measured_exists(self) -> "Pipeline":
        columns = ("group", "split", "source", "width", "height", *self.columns.keep)
        for key, named in (("slices", self.evaluation.slices), ("probes", self.evaluation.probes)):
            for name in named:
                if name not in columns:
                    raise ValueError(
                        f"evaluation.{key}: the items have no {name!r}; add it to columns.keep "
                        f"(--set columns.keep.{name}=string){nearest(name, columns)}"
                    )
        metrics = measured(self.evaluation)
        for floor in self.gate.min:
            metric, slash, part = floor.partition("/")
            column, equals, _ = part.partition("=")
            if floor not in metrics and metric not in metrics:
                raise ValueError(
                    f"gate.min: {metric} isn't measured; measured are {', '.join(metrics)}{nearest(metric, metrics)}"
                )
            if floor not in metrics and slash and not (equals and column in (*NOVELTY, *self.evaluation.slices)):
                slices = ", ".join(f"/{name}=…" for name in (*NOVELTY, *self.evaluation.slices))
                raise ValueError(f"gate.min: {floor} isn't measured; slices are {slices}: see evaluation.slices")
        return self

    @field_validator("model")
    @classmethod
    def _columns_are_kept(cls, model: ModelConfig, info: ValidationInfo) -> ModelConfig:
        tower, columns = model.second_image_tower, info.data.get("columns")
        for key, name in (("second_image_tower.column", tower and tower.column), ("keywords", model.keywords)):
            if name and columns and name not in (*columns.keep, "group", "source", "split"):
                raise ValueError(f"{key}: the items have no {name!r}; add it to columns.keep")
        return model

    def accepting_removals(self) -> "Pipeline":
        """This pipeline for a night that lets all items go whose rows are gone."""
        sources = tuple(source.model_copy(update={"max_removed": None}) for source in self.sources)
        return self.model_copy(
            update={"sources": sources, "ingest": self.ingest.model_copy(update={"max_removed": 1.0})}
        )

    def accepting_changes(self) -> "Pipeline":
        """This pipeline for a night that lets its rows in whatever they are like."""
        rows = self.gate.rows.model_copy(update={"accept": True})
        return self.model_copy(update={"gate": self.gate.model_copy(update={"rows": rows})})

    def on(self, day: date | None) -> "Pipeline":
        """This pipeline for the night of a day; of today for None."""
        return self.model_copy(update={"as_of": day})

    def sources_of_the_night(self) -> tuple[SourceConfig, ...]:
        """The sources, with their dates those of the night's day.

        Raises ValueError where that lies ahead, or is given and no source has a date.
        """
        if not any(source.dated for source in self.sources):
            if self.as_of:
                raise ValueError(
                    f"pipeline {self.name!r} has no past days: no source has a date in its path, like {{date}}.jsonl"
                )
            return self.sources
        today = self.schedule.today() if self.schedule else datetime.now(UTC).date()
        if self.as_of and self.as_of > today:
            raise ValueError(f"{self.as_of} lies ahead: no night reads files of the future")
        return tuple(source.on(self.as_of or today) if source.dated else source for source in self.sources)

    @property
    def corrects_hubs(self) -> bool:
        """Whether releases order what texts find with the images' hubness taken off."""
        said = self.search.hubness
        return self.model.architecture in HUBS if said is None else said

    @property
    def parameters(self) -> dict[str, Any]:
        """This pipeline as the parameters of a flow run, in JSON."""
        return {"pipeline": self.model_dump(mode="json", by_alias=True)}

    @property
    def said(self) -> dict[str, Any]:
        """What isn't at its default, in JSON, and the kinds of sources and losses, and all that a source's columns say.

        A kind is its own block's default, and what columns of a source leave out is the pipeline's.
        """
        said = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        for source, block in zip(self.sources, said["sources"], strict=True):
            block["kind"] = source.kind
            if source.columns:
                block["columns"] = source.columns.model_dump(mode="json")
        if "objective" in said:
            for objective, block in zip(self.objective, said["objective"], strict=True):
                block["loss"] = objective.loss
        return said

    @property
    def folder(self) -> Path:
        """Where this pipeline stores everything."""
        return self.root / self.name
