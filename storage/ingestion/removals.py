"""Which items leave with their rows, and which are held because too many would leave at once."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pairloom.storage.sources.config import SourceConfig


@dataclass(frozen=True, slots=True)
class Gone:
    """An item that no row of tonight is."""

    item_id: str
    source: str
    path: str
    """The image's path as the source wrote it."""
    served_elsewhere: bool
    """Whether another row of tonight shows the same picture under the same texts, or a row has its id but is above a
    cap or a near-duplicate: it is no loss."""


@dataclass(frozen=True)
class Removals:
    """What becomes of the items that are gone."""

    stay: frozenset[str]
    """Ids of those that stay in the corpus."""
    held: int
    """How many of them stay only because too many would leave."""
    warnings: tuple[str, ...]
    """A sentence a source whose removals are held."""


def judge_removals(
    gone: Sequence[Gone],
    items: Mapping[str, int],
    new: Iterable[tuple[str, str]],
    sources: Sequence[SourceConfig],
    max_removed: float,
) -> Removals:
    """Which gone items stay. `items`: how many each source had; `new`: source and image path of tonight's new items.

    An item whose content another one serves leaves. So does one that a new item of the same image file replaces, as a
    corrected text without an id does: these are edits, not losses. Of the others a source may lose its `max_removed`.
    """
    rules = {source.label: source for source in sources}
    replacing = Counter(new)
    losses = [each for each in gone if not each.served_elsewhere]
    per_file = Counter((each.source, each.path) for each in losses)
    stay: set[str] = set()
    lost: dict[str, list[str]] = {}
    for each in losses:
        place = (each.source, each.path)
        rule = rules.get(each.source)
        if rule and rule.mode == "append":
            stay.add(each.item_id)
        elif replacing[place] < per_file[place]:
            lost.setdefault(each.source, []).append(each.item_id)
    warnings, held = [], 0
    for source, item_ids in lost.items():
        rule = rules.get(source)
        share = max_removed if rule is None or rule.max_removed is None else rule.max_removed
        if len(item_ids) > share * items[source]:
            stay.update(item_ids)
            held += len(item_ids)
            left = "" if rule else ", which is no source of the pipeline any more,"
            warnings.append(
                f"{len(item_ids):,} of {items[source]:,} items of {source}{left} would leave, more than "
                f"max_removed allows ({share:.0%}): they stay until a night runs with --accept-removals"
            )
    return Removals(frozenset(stay), held, tuple(warnings))
