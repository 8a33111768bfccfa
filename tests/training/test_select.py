"""``distilled-nlu select``: the texts of a log that are most worth labelling."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from training import select
from training.data import datasets
from training.data.formats.base import ReadOptions

TEXTS = ["weck mich um neun uhr", "Weck mich um neun Uhr!", "spiel musik von jonas", "qwrtz bfgh", "stopp", "licht an"]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    file = tmp_path / "log.txt"
    file.write_text("\n".join(TEXTS) + "\n")
    return file


def run(capsys: pytest.CaptureFixture[str], *flags: object) -> dict[str, Any]:
    assert select.main([str(flag) for flag in flags]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


@pytest.mark.parametrize("to", ["jsonl", "csv", "rasa", "clu"])
def test_chosen_texts_are_written_with_answers_as_labels(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str
) -> None:
    out = tmp_path / f"more.{to}"

    summary = run(capsys, log, "--student", "xs", "--locales", "de-DE", "--count", 3, "--to", to, "--out", out)

    assert (summary["texts"], summary["repeated"], summary["selected"]) == (6, 1, 3)
    found = datasets.load(str(out), options=ReadOptions(dev_share=0)).utterances
    assert len(found) == 3
    assert {u.text for u in found} <= set(TEXTS)
    assert all(u.intent and u.partition == "train" for u in found)


def test_labelled_texts_are_not_chosen_and_give_the_format(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "labelled.csv"
    data.write_text("text,intent,locale\nstopp,stop,de-DE\nlicht an,light,de-DE\n")

    summary = run(capsys, log, "--student", "xs", "--locales", "de-DE", "--data", data)

    assert (summary["labelled"], summary["selected"], summary["format"], summary["out"]) == (2, 3, "csv", None)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--student", "xs"], "log.txt:1: locale: is missing"),
        (["--student", "xs", "--locales", "de-DE", "--out", "."], "exists already; choose another --out"),
        (["--student", "/nowhere"], "/nowhere: no such folder"),
        (["--student", "xs", "--locales", "de-DE", "--data", "/nowhere"], "/nowhere: no such data"),
    ],
)
def test_what_cannot_be_chosen_from_is_one_sentence(
    log: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert select.main([str(log), *flags]) == 2

    assert message in capsys.readouterr().err


def test_no_torch_is_loaded(log: Path) -> None:
    script = (
        "import sys; from training import select; "
        f"select.main([{str(log)!r}, '--student', 'xs', '--locales', 'de-DE']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
