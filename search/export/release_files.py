"""A release written into a new folder: as Parquet, as usearch indexes, or as a page that needs no server."""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from pairloom.search.export.page import MAX_ITEMS, write_page
from pairloom.search.export.table import Selection, write_table
from pairloom.search.export.usearch_indexes import require_usearch, write_indexes
from pairloom.search.filters import lance_filter
from pairloom.search.nearest import check_filter
from pairloom.search.release import OpenRelease, Reader

Format = Literal["parquet", "usearch", "page"]

Progress = Callable[[int, int], None]


class Exported(BaseModel, frozen=True, extra="forbid"):
    """What was written."""

    release: int
    model_id: str
    folder: str
    items: int
    files: int
    bytes: int


def export_release(
    reader: Reader, out: Path, *, kind: Format, where: str | None = None, progress: Progress = lambda _done, _of: None
) -> Exported:
    """Write the items that fulfil `where` into the folder `out`, whole or not at all, with `about.json` beside them.

    Raises ValueError, in one line, where `out` holds something, nothing fulfils `where`, there are too many items for a
    page, or the extra that is needed isn't there.
    """
    release = reader.current
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there and not an empty folder: name another with --out")
    if kind == "usearch":
        require_usearch()
    if where is not None:
        check_filter(release, where)
    condition = None if where is None else lance_filter(where, release.columns, release.times)
    selection = Selection(release, condition, release.dataset.count_rows(condition), progress)
    if not selection.count:
        raise ValueError(
            f"release {release.record.number} has no item to export" + (f" where {where}" if where else "")
        )
    if kind == "page" and selection.count > MAX_ITEMS:
        raise ValueError(f"a page holds at most {MAX_ITEMS:,} items, not {selection.count:,}: choose some with --where")
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        match kind:
            case "parquet":
                write_table(selection, aside / "items.parquet", vectors=True)
            case "usearch":
                write_indexes(selection, aside)
            case "page":
                write_page(selection, aside)
        (aside / "about.json").write_text(json.dumps(_about(release, selection, where), indent=2), encoding="utf-8")
        aside.chmod(0o755)
        aside.replace(out)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    files = [path for path in out.rglob("*") if path.is_file()]
    return Exported(
        release=release.record.number,
        model_id=release.record.model_id,
        folder=str(out),
        items=selection.count,
        files=len(files),
        bytes=sum(path.stat().st_size for path in files),
    )


def _about(release: OpenRelease, selection: Selection, where: str | None) -> dict[str, Any]:
    record = release.record
    return {
        "pipeline": release.folder.name,
        "release": record.number,
        "created_at": record.created_at.isoformat(),
        "model_id": record.model_id,
        "dimension": record.dimension,
        "metric": "cosine",
        "items": selection.count,
        "where": where,
    }
