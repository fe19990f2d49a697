"""The page that an operator follows: its commands run, on a pipeline that has what they name."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

from typer.testing import CliRunner

from pairloom.flows.cli import app

PAGE = Path(__file__).parents[1] / "docs" / "trouble.md"
BLOCKS = [block.splitlines() for block in re.findall(r"```\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)]
COMMANDS = sorted({line.partition("#")[0].strip() for block in BLOCKS for line in block})


def test_every_command_of_the_page_runs(tmp_path: Path, shapes: Path, write_pipelines: Callable[..., Path]) -> None:
    file = write_pipelines(tmp_path, shapes)
    for _ in range(2):
        run("run", "--file", str(file), "--set", f"training.seed={_}", "--set", "gate.max_regression=1")
    numbers = {"41": "1", "42": "2", "shop": "shapes"}
    for line in COMMANDS:
        program, *arguments = [numbers.get(word, word) for word in shlex.split(line)]
        assert program == "pairloom"
        run(*arguments, "--file", str(file))


def run(*arguments: str) -> None:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code in (0, 3), f"{arguments}: {result.output}"
