"""The command ``distilled-nlu``."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from distilled_nlu.cli import COMMANDS, main

ROOT = Path(__file__).parents[2]
STARTED = ("serve", "ask", "train", "pretrain", "distill", "evaluate", "export", "compare", "loadtest", "study")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_command(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([flag]) == 0

    shown = capsys.readouterr().out
    assert set(STARTED) <= COMMANDS.keys()
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.summary)}$", shown, re.MULTILINE)


def test_without_a_command_help_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: distilled-nlu COMMAND" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"distilled-nlu \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("evalute", "error: unknown command 'evalute'; did you mean evaluate?"),
        ("data", "error: unknown command 'data'; did you mean data check?"),
        ("xyzzy", "error: unknown command 'xyzzy'; allowed: serve, ask, "),
    ],
)
def test_a_wrong_command_is_one_sentence(typed: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([typed]) == 2
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize("command", COMMANDS.values())
def test_every_command_stands_for_a_module(command: tuple[str, str]) -> None:
    assert find_spec(command[0]) is not None


def test_ask_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "--locale", "de-DE", "weck mich um neun uhr"]) == 0

    assert json.loads(capsys.readouterr().out)["intent"]["name"] == "alarm_set"


def test_help_loads_no_command() -> None:
    program = (
        "import sys; from distilled_nlu.cli import main; main(['--help']); print(sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    for heavy in ("numpy", "onnxruntime", "pydantic", "fastapi", "torch", "service", "training", "argparse"):
        assert f"'{heavy}'" not in done.stderr
