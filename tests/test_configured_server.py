"""Whether a Prefect server is configured, told without Prefect, against Prefect's own word."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import prefect_environment

API = "http://127.0.0.1:4200/api"
# Asked before anything has imported Prefect; Prefect's own answer afterwards.
ASK = """
import sys
from pairloom.flows.configured_server import server_is_configured
ours, asked = server_is_configured(), "prefect" in sys.modules
from prefect.settings import PREFECT_API_URL
print(ours, asked, bool(PREFECT_API_URL.value()))
"""
PROFILES = 'active = "{active}"\n[profiles.far]\nPREFECT_API_URL = "' + API + '"\n[profiles.near]\n'


def answers(folder: Path, **settings: str) -> list[str]:
    environment = prefect_environment(folder / "home", **settings) | {"HOME": str(folder)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-c", ASK]
    done = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    return done.stdout.split()


def test_where_nothing_says_anything_prefect_is_not_even_asked(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\ndependencies = ["prefect"]\n')
    assert answers(tmp_path) == ["False", "False", "False"]


@pytest.mark.parametrize(
    ("configured", "settings"),
    [
        (True, {"PREFECT_API_URL": API}),
        (True, {"prefect_api_url": API}),
        (False, {"PREFECT_API_URL": ""}),
        (False, {"PREFECT_PROFILE": "local"}),  # there is no file of profiles
    ],
)
def test_the_environment_is_understood_as_prefect_understands_it(
    configured: bool, settings: dict[str, str], tmp_path: Path
) -> None:
    assert answers(tmp_path, **settings) == [str(configured), "True", str(configured)]


@pytest.mark.parametrize(
    ("configured", "file", "text"),
    [
        (True, "home/profiles.toml", PROFILES.format(active="far")),
        (False, "home/profiles.toml", PROFILES.format(active="near")),
        (True, ".env", f"PREFECT_API_URL={API}\n"),
        (True, ".env", f"prefect_api_url={API}\n"),
        (True, "prefect.toml", f'[api]\nurl = "{API}"\n'),
        (True, "pyproject.toml", f'[tool.prefect.api]\nurl = "{API}"\n'),
        (False, "pyproject.toml", "[tool.prefect.logging]\nlevel = 'INFO'\n"),
    ],
)
def test_files_are_understood_as_prefect_understands_them(
    configured: bool, file: str, text: str, tmp_path: Path
) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)
    assert answers(tmp_path) == [str(configured), "True", str(configured)]


def test_profiles_elsewhere_are_found(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(PROFILES.format(active="far"))
    path = str(tmp_path / "mine.toml")
    assert answers(tmp_path, PREFECT_PROFILES_PATH=path) == ["True", "True", "True"]
    (tmp_path / "prefect.toml").write_text(f'profiles_path = "{path}"\n')
    assert answers(tmp_path)[0] == answers(tmp_path)[2]
