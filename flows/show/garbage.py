"""What goes, or went, as people read it: how much of which kind, and why."""

from pairloom.flows.show.console import out, show_grid
from pairloom.flows.show.line import Line
from pairloom.flows.show.metrics_table import Grid
from pairloom.storage.garbage import Found

MEBIBYTE = 2**20


def show_garbage(found: Found, *, dry_run: bool) -> None:
    """A row for each kind and reason, and what stays because something can't be read."""
    groups: dict[tuple[str, str], tuple[int, int]] = {}
    for each in found.garbage:
        files, size = groups.get((each.kind, each.why), (0, 0))
        groups[each.kind, each.why] = (files + each.files, size + each.bytes)
    files, size = (sum(getattr(each, name) for each in found.garbage) for name in ("files", "bytes"))
    if groups:
        rows = [(kind, f"{files:,}", f"{size / MEBIBYTE:,.2f}", why) for (kind, why), (files, size) in groups.items()]
        show_grid(Grid(("what", "files", "MiB", "why"), tuple(rows)))
        out.print(Line(f"{files:,} files, {size / MEBIBYTE:,.2f} MiB {'would go' if dry_run else 'deleted'}"))
    else:
        out.print(Line(f"nothing {'would go' if dry_run else 'to delete'}"))
    for sentence in found.kept:
        out.print(Line(f"what it may have named is kept: {sentence}"), overflow="fold")
