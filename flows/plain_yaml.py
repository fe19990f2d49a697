"""YAML that a stranger may have written: read as plain values, and no more of them than a person writes."""

import functools
from typing import Any

import yaml

LONGEST_NUMBER = 40
LONGEST = 2**20
"""Characters of a document."""
MOST_VALUES = 100_000
"""Values that a document may stand for once its aliases are followed: nine lines of them can stand for billions. A long
text counts for several."""


def plain_yaml(text: str) -> Any:
    """The values of one YAML document. ValueError, on one line, for one that isn't valid, tags that would make objects,
    and documents that are too long, nest too deeply or stand for too much."""
    if len(text) > LONGEST:
        raise ValueError(f"it has {len(text):,} characters, more than {LONGEST:,}")
    try:
        node = _composed(text)
        return None if node is None else yaml.SafeLoader("").construct_document(node)
    except RecursionError:
        raise ValueError("it nests too deeply") from None
    # A date or a number that Python can't hold is no YAMLError.
    except (yaml.YAMLError, ValueError, OverflowError, AttributeError, TypeError) as error:
        raise ValueError(" ".join(str(error).split())) from error


@functools.lru_cache(maxsize=1)
def _composed(text: str) -> yaml.Node | None:
    """A document's nodes: a command asks for the same file several times, and to parse it takes the longest."""
    node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    _count(node, {})
    return node


def _count(node: yaml.Node | None, counted: dict[int, int]) -> int:
    """How many values a node stands for. ValueError for more than `MOST_VALUES`, and for an alias inside its anchor."""
    if node is None:
        return 0
    if isinstance(node, yaml.ScalarNode) and node.tag.endswith(":int") and len(node.value) > LONGEST_NUMBER:
        raise ValueError(f"line {node.start_mark.line + 1} holds a number of {len(node.value):,} digits")
    if id(node) not in counted:
        counted[id(node)] = MOST_VALUES + 1  # while it is counted
        below: list[Any] = node.value if isinstance(node, yaml.CollectionNode) else []
        own = 1 + (len(node.value) // 100 if isinstance(node, yaml.ScalarNode) else 0)
        parts = [part for each in below for part in (each if isinstance(each, tuple) else (each,))]
        counted[id(node)] = own + sum(_count(part, counted) for part in parts)
    if counted[id(node)] > MOST_VALUES:
        raise ValueError(f"its aliases stand for more than {MOST_VALUES:,} values")
    return counted[id(node)]
