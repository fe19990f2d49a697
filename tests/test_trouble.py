"""The page that an operator follows: its commands run, on a pipeline that has what they name."""

import re
import shlex
from pathlib import Path

from typer.testing import CliRunner

from benchmarks.tiny_nights import Nights
from pairloom.flows.cli import app

PAGE = Path(__file__).parents[1] / "docs" / "trouble.md"
BLOCKS = re.findall(r"```\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
COMMANDS = dict.fromkeys(line.partition("#")[0].strip() for block in BLOCKS for line in block.splitlines())


def test_every_command_of_the_page_runs(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    for number in (1, 2):
        nights.prepare(number)
        nights.run()
    named = {"shop": "tiny", "41": "1", "42": "2"}
    assert len(COMMANDS) > 10
    for line in COMMANDS:
        program, *arguments = [named.get(word, word) for word in shlex.split(line)]
        assert program == "pairloom"
        result = CliRunner().invoke(app, [*arguments, "--file", str(nights.file)])
        assert result.exit_code == 0, f"{line}: {result.output}"
