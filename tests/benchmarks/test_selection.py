from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import selection


def test_each_choice_is_scored(sample: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape = ["--labelled", "20", "--count", "5", "--pool", "30", "--scored", "40", "--runs", "1", "--epochs", "1"]

    code = selection.main(["--data", str(sample), "--locales", "de-DE", "--init", str(checkpoint), *shape])

    *table, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert code == 0
    assert list(found["means"]) == ["none", "random", "uncertainty", "select"]
    assert [line.split(" | ")[0] for line in table[2:]] == [f"| {choice}" for choice in found["means"]]
    assert all(0 <= value <= 100 for means in found["means"].values() for value in means.values())


def test_too_little_data(sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert selection.main(["--data", str(sample), "--locales", "de-DE"]) == 2

    assert "different texts; needed: 3150" in capsys.readouterr().err
