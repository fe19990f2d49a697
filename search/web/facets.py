"""What items can be filtered by: the values of each column with how many items have them, as things are chosen now."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from fastapi import APIRouter, Request
from fastapi import Query as Parameter
from pydantic import BaseModel

from pairloom.search.filters import bad_filter, lance_filter
from pairloom.search.query import check_filter
from pairloom.search.web.choice import Choice, chosen, facet_columns, parameters
from pairloom.search.web.served import ServedRelease
from pairloom.search.web.service import Service

# N = items, V = values

SHOWN = 60
"""Most values of a column that are told."""
MANY = 20_000
"""A column of more different values than this, or nearly one an item, is no facet."""
BINS = 24

Mask = npt.NDArray[np.bool_]


class Value(BaseModel, frozen=True):
    """A value, and how many items have it."""

    value: str
    items: int


class Bin(BaseModel, frozen=True):
    """Items from one number or time to another."""

    low: str
    high: str
    items: int


class Facet(BaseModel, frozen=True, use_attribute_docstrings=True):
    """One column."""

    column: str
    kind: str
    chosen: list[str]
    values: list[Value]
    """The most frequent ones, and all that are chosen; empty for numbers and times."""
    different: int
    """How many values there are."""
    bins: list[Bin]
    """Of numbers and times; empty for all others."""


class FacetCounts(BaseModel, frozen=True, use_attribute_docstrings=True):
    """Counts as things are chosen. Of each column all items count that the choices of the other columns leave."""

    release: int
    model_id: str
    items: int
    """Items that fulfil all that is chosen."""
    of: int
    """Items of the release."""
    facets: list[Facet]


@dataclass(frozen=True)
class _Values:
    """A column of texts by number: `code` of an item, or of each of its texts with `owner` saying whose."""

    names: list[str]
    code: npt.NDArray[np.int32]
    owner: npt.NDArray[np.int64] | None
    position: dict[str, int]

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> "_Values":
        owner = None
        whole = column.combine_chunks()
        if isinstance(whole, pa.ChunkedArray):
            whole = whole.chunk(0) if whole.num_chunks else pa.concat_arrays([])
        if pa.types.is_list(whole.type):
            owner = pc.list_parent_indices(whole).to_numpy(zero_copy_only=False).astype(np.int64)
            whole = pc.list_flatten(whole)
        elif pa.types.is_boolean(whole.type):
            whole = pc.if_else(whole, "true", "false")
        encoded = pc.dictionary_encode(pc.fill_null(whole.cast(pa.string()), ""))
        names = encoded.dictionary.to_pylist()
        code = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32)
        return cls(names, code, owner, {name: place for place, name in enumerate(names)})

    def mask(self, choice: Choice, rows: int) -> Mask:
        codes = [self.position[value] for value in choice.values if value in self.position]
        hit = np.isin(self.code, codes)
        if self.owner is None:
            return hit
        found = np.zeros(rows, bool)
        found[self.owner[hit]] = True
        return found

    def counts(self, among: Mask) -> npt.NDArray[np.int64]:
        own = among if self.owner is None else among[self.owner]
        return np.bincount(self.code[own], minlength=len(self.names))


@dataclass(frozen=True)
class _Numbers:
    """A column of numbers, or of times in microseconds; NaN where there is none."""

    value: npt.NDArray[np.float64]
    edges: npt.NDArray[np.float64]

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> "_Numbers":
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.int64())
        value = pc.fill_null(column.cast(pa.float64()), float("nan")).to_numpy()
        finite = value[np.isfinite(value)]
        if not len(finite):
            return cls(value, np.zeros(0))
        low, high = float(finite.min()), float(finite.max())
        return cls(value, np.linspace(low, high, BINS + 1) if high > low else np.array([low, high]))

    def mask(self, low: float | None, high: float | None) -> Mask:
        found: Mask = np.isfinite(self.value)
        if low is not None:
            found &= self.value >= low
        if high is not None:
            found &= self.value <= high
        return found

    def counts(self, among: Mask) -> npt.NDArray[np.int64]:
        own = self.value[among & np.isfinite(self.value)]
        if len(self.edges) < 2 or self.edges[0] == self.edges[-1]:
            return np.array([len(own)] if len(self.edges) else [], np.int64)
        return np.histogram(own, self.edges)[0].astype(np.int64)


class ReleaseFacets:
    """The columns of one release by number, so that counting takes milliseconds."""

    def __init__(self, release: ServedRelease) -> None:
        """Read the columns once."""
        self.kinds = dict(facet_columns(release))
        table = release.dataset.scanner(columns=list(self.kinds), with_row_id=True).to_table()
        self.rows = len(table)
        self.row_ids = table["_rowid"].to_numpy().astype(np.int64)
        self._order = np.argsort(self.row_ids, kind="stable")
        self._columns: dict[str, _Values | _Numbers] = {}
        for name, kind in self.kinds.items():
            made = _Numbers.of(table[name]) if kind in ("int64", "float64", "timestamp") else _Values.of(table[name])
            if self.rows and _tells(made, self.rows, always=name in release.record.keep):
                self._columns[name] = made

    def counted(self, release: ServedRelease, choices: Sequence[Choice], where: str | None) -> FacetCounts:
        """What is left of every column. ValueError for a `where` that is no condition."""
        masks = {choice.column: self._mask(release, choice) for choice in choices}
        beside = None if where is None else self._where(release, where)

        def among(besides: str | None) -> Mask:
            left = np.ones(self.rows, bool) if beside is None else beside.copy()
            for column, mask in masks.items():
                if column != besides:
                    left &= mask
            return left

        whole = among(None)
        own = {choice.column: choice for choice in choices}
        facets = [
            self._facet(name, among(name) if name in masks else whole, own[name].values if name in own else ())
            for name in self._columns
        ]
        return FacetCounts(
            release=release.record.number,
            model_id=release.record.model_id,
            items=int(whole.sum()),
            of=self.rows,
            facets=facets,
        )

    def _mask(self, release: ServedRelease, choice: Choice) -> Mask:
        column = self._columns.get(choice.column)
        if isinstance(column, _Values):
            return column.mask(choice, self.rows)
        if isinstance(column, _Numbers) and choice.kind != "timestamp":
            low, high = (None if end is None else float(end) for end in choice.ends)
            return column.mask(low, high)
        return self._where(release, choice.condition)

    def _where(self, release: ServedRelease, where: str) -> Mask:
        check_filter(release, where)
        try:
            found = release.dataset.scanner(
                columns=["item_id"], filter=lance_filter(where, release.columns, release.times), with_row_id=True
            ).to_table()
        except (ValueError, OSError, RuntimeError) as error:
            raise bad_filter(where, str(error), release.columns) from error
        sorted_ids = self.row_ids[self._order]
        left = np.zeros(self.rows, bool)
        left[self._order[np.searchsorted(sorted_ids, found["_rowid"].to_numpy().astype(np.int64))]] = True
        return left

    def _facet(self, name: str, among: Mask, values: Sequence[str]) -> Facet:
        column, kind = self._columns[name], self.kinds[name]
        counts = column.counts(among)
        told: list[Value] = []
        bins: list[Bin] = []
        if isinstance(column, _Values):
            order = np.lexsort((np.arange(len(counts)), -counts))[:SHOWN].tolist()
            order += [column.position[value] for value in values if value in column.position]
            told = [
                Value(value=column.names[at], items=int(counts[at]))
                for at in dict.fromkeys(order)
                if counts[at] or column.names[at] in values
            ]
        else:
            edges = [_shown(edge, kind) for edge in column.edges]
            bins = [
                Bin(low=low, high=high, items=int(each))
                for low, high, each in zip(edges, edges[1:], counts, strict=False)
            ]
        different = len(column.names) if isinstance(column, _Values) else len(bins)
        return Facet(column=name, kind=kind, chosen=list(values), values=told, different=different, bins=bins)


def _tells(column: _Values | _Numbers, rows: int, *, always: bool) -> bool:
    """Whether a column helps to choose: several values, and not nearly another one for each item."""
    if isinstance(column, _Numbers):
        return len(column.edges) > 1 and (always or column.edges[0] < column.edges[-1])
    return len(column.names) > (0 if always else 1) and len(column.names) <= min(MANY, max(12, rows // 2))


def _shown(edge: float, kind: str) -> str:
    if kind == "timestamp":
        return datetime.datetime.fromtimestamp(edge / 1e6, datetime.UTC).isoformat()
    return str(round(edge)) if kind == "int64" else f"{edge:.6g}"


def router(service: Service) -> APIRouter:
    """Where the counts are had."""
    routes = APIRouter(tags=["search"])
    held = service.cache("facets", 3)
    counted = service.cache("counts", 256)

    def columns(release: ServedRelease) -> ReleaseFacets:
        own: ReleaseFacets = held.get(release.key, lambda: ReleaseFacets(release))
        return own

    service.ahead.append(columns)

    @routes.get("/api/facets")
    def facets(
        request: Request,
        where: Annotated[str | None, Parameter(max_length=4_096, description="A SQL condition on columns.")] = None,
        release: Annotated[int | None, Parameter(ge=1, le=10**9)] = None,
    ) -> FacetCounts:
        """How many items have which value, as things are chosen by `f.COLUMN=VALUE` and `where`."""
        with service.reading(release) as opened:
            choices = chosen(opened, parameters(request.query_params.multi_items()))
            condition = where if where and where.strip() else None
            own = columns(opened)
            key: Any = (opened.key, choices, condition)
            found: FacetCounts = counted.get(key, lambda: own.counted(opened, choices, condition))
            return found

    return routes
