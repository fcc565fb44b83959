"""The README's two commands are what continuous integration runs and what the command line offers."""

import re
import shlex
import textwrap
from pathlib import Path

from typer.testing import CliRunner

from flashlight.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [block.strip() for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)]


def test_there_are_two_commands_of_one_line():
    assert len(COMMANDS) == 2
    assert all("\n" not in command for command in COMMANDS)


def test_continuous_integration_runs_the_second():
    assert COMMANDS[1] in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_the_first_names_commands_and_options_that_exist():
    for part in COMMANDS[0].split("&&"):
        program, *words = shlex.split(part)
        if program.endswith("/flashlight"):
            help_text = CliRunner().invoke(app, [words[0], "--help"], env={"COLUMNS": "200"}).output
            for option in (word for word in words if word.startswith("-")):
                assert option in help_text


def test_folders_exist():
    folders = {
        name for row in re.findall(r"^\| (`.*?) \|", README.split("## Folders")[1], re.M) for name in row.split(", ")
    }
    assert len(folders) >= 9
    for folder in folders:
        assert (ROOT / folder.strip("`")).is_dir(), folder


def test_the_kernel_shown_is_the_generated_one():
    shown = re.search(r"## To this.*?```python\n(.*?)```", README, re.DOTALL)
    assert shown is not None
    kernels = (ROOT / "generated" / "causal_triton.py").read_text(encoding="utf-8")
    assert textwrap.indent(shown[1], "    ") in kernels, "copy the loop of causal_kernel into README.md"
