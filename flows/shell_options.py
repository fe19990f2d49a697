"""What holds for the questions of `pairloom shell`: what a line changes, and in words."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar, get_args

from pairloom.models.evaluation.similarity import Metric
from pairloom.search.exact import Side
from pairloom.search.options import Options
from pairloom.search.rerank import CANDIDATES

_TARGETS: Mapping[str, Side] = {each: each for each in get_args(Side)}
_METRICS: Mapping[str, Metric] = {each: each for each in get_args(Metric)}
_HUBNESS = {"on": True, "off": False}
C = TypeVar("C")


def changed(options: Options, command: str, rest: str) -> Options:
    """The options after a command. Raises ValueError, in one line, where it says nothing that can be."""
    match command, rest:
        case ":k", _:
            return replace(options, k=number(command, rest))
        case ":where", _:
            return replace(options, where=rest or None)
        case ":columns", _:
            names = tuple(rest.replace(",", " ").split())
            return replace(options, columns=names or None)
        case ":target", _:
            return replace(options, target=_one_of(command, _TARGETS, rest))
        case ":metric", _:
            return replace(options, metric=_one_of(command, _METRICS, rest))
        case ":hybrid", _:
            return replace(options, hybrid=not options.hybrid)
        case ":rerank", "off":
            return replace(options, rerank=None)
        case ":rerank", _:
            return replace(options, rerank=number(command, rest) if rest else CANDIDATES)
        case ":diversity", _:
            return replace(options, diversity=_share(rest))
        case ":collapse", _:
            return replace(options, collapse_duplicates=not options.collapse_duplicates)
        case ":hubness", _:
            return replace(options, hubness=_one_of(command, _HUBNESS, rest) if rest else None)
        case ":fitting", _:
            return replace(options, only_fitting=not options.only_fitting)
        case _:
            raise ValueError(f"no command {command}; :help lists them")


def said_of(options: Options, *, every: bool = False) -> list[str]:
    """What holds, in words; what is usual only where `every` option is asked for."""
    usual = Options()
    said = {
        f"k {options.k}": options.k != usual.k,
        f"where {options.where or 'anything'}": options.where is not None,
        f"columns {', '.join(options.columns or ['as the pipeline keeps'])}": options.columns is not None,
        f"target {options.target}": options.target != usual.target,
        f"metric {options.metric}": options.metric != usual.metric,
        "hybrid" if options.hybrid else "not hybrid": options.hybrid,
        "not reranked" if options.rerank is None else f"rerank {options.rerank}": options.rerank is not None,
        f"diversity {options.diversity:g}": options.diversity != usual.diversity,
        "collapsed" if options.collapse_duplicates else "all copies": options.collapse_duplicates,
        f"hubness {'as the release says' if options.hubness is None else 'on' if options.hubness else 'off'}": (
            options.hubness is not None
        ),
        "only fitting" if options.only_fitting else "also unfitting": options.only_fitting,
    }
    return [words for words, told in said.items() if told or every]


def given(command: str, rest: str, what: str) -> str:
    """What stands behind a command; ValueError where nothing does."""
    if not rest:
        raise ValueError(f"{command} wants {what}")
    return rest


def number(command: str, text: str) -> int:
    """A whole number behind a command."""
    if not text.isdecimal():
        raise ValueError(f"{command} wants a number, not {text!r}")
    return int(text)


def _share(text: str) -> float:
    try:
        return float(text or 0)
    except ValueError:
        raise ValueError(f":diversity wants a number from 0 to 1, not {text!r}") from None


def _one_of(command: str, choices: Mapping[str, C], text: str) -> C:
    if text not in choices:
        raise ValueError(f"{command} is {' or '.join(choices)}, not {text!r}")
    return choices[text]
