"""Whether a Prefect server is configured, told without importing Prefect where nothing could configure one."""

import os
import sys
import tomllib
from pathlib import Path


def server_is_configured() -> bool:
    """Whether Prefect's own setting PREFECT_API_URL has a value.

    Prefect takes a second to import, and it alone knows the order of its sources: it is asked as soon as one of them
    could say something.
    """
    if "prefect" not in sys.modules and not _may_be_configured():
        return False
    from prefect.settings import PREFECT_API_URL

    return bool(PREFECT_API_URL.value())


def _may_be_configured() -> bool:
    """Whether one of the sources of `prefect.settings.sources` could name a server or a profile."""
    named = (name.upper() for name in os.environ)
    if any(name.startswith(("PREFECT_API", "PREFECT_PROFILE")) for name in named):
        return True
    if Path("prefect.toml").exists() or "PREFECT" in _text(Path(".env")).upper():
        return True
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    return "PREFECT_API" in _text(home / "profiles.toml") or _named_in_project(Path("pyproject.toml"))


def _named_in_project(file: Path) -> bool:
    try:
        return "prefect" in tomllib.loads(_text(file)).get("tool", {})
    except tomllib.TOMLDecodeError:
        return True


def _text(file: Path) -> str:
    """The file's text, of what is no UTF-8 too: empty where there is none."""
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
