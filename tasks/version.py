"""Which Pairloom this is: its version and, where that is known, its commit."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path


def version() -> str:
    """Like `0.1.0 (commit abc1234)`; the version alone where nothing tells the commit."""
    # What people import stands above all else: it is looked at, not imported.
    package = sys.modules["pairloom"]
    home = Path(str(package.__file__)).resolve().parents[1]
    commit = _checked_out(home) if (home / ".git").exists() else _installed(home)
    return f"{package.__version__} (commit {commit})" if commit else str(package.__version__)


def _checked_out(home: Path) -> str | None:
    """The commit of a checkout, with `-dirty` where its files differ from it; None without git."""
    # Both are named: inside of a hook, git's environment means another repository.
    git = ["git", f"--git-dir={home / '.git'}", f"--work-tree={home}"]
    describe = ["describe", "--always", "--dirty", "--exclude=*", "--abbrev=7"]
    try:
        done = subprocess.run([*git, *describe], capture_output=True, text=True, check=True, cwd=home)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _installed(home: Path) -> str | None:
    """The commit that pip installed from a repository; None for a wheel from an index or a file."""
    try:
        installed = importlib.metadata.distribution("pairloom")
    except importlib.metadata.PackageNotFoundError:
        return None
    if Path(str(installed.locate_file(""))).resolve() != home:
        return None
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    commit = origin.get("vcs_info", {}).get("commit_id")
    return str(commit)[:7] if commit else None
