from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import export_recipes as recipes
from benchmarks import export_variants
from benchmarks.export_variants import FP32, RECIPE
from training.data import datasets


def test_each_variant_is_a_row(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_variants, "ROUNDS", 2)
    monkeypatch.setattr(export_variants, "CALLS", 2)

    assert recipes.main(["--ckpt", str(checkpoint)]) == 0

    *table, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    rows = {name: row for name, row in found.items() if isinstance(row, dict)}
    assert len(rows) == 11
    assert [line[:34].strip() for line in table[1:-2]] == list(rows)
    assert all(row["times"].keys() == {"8", "16", "32"} for row in rows.values())
    assert rows[FP32]["as_fp32"] == 100
    assert rows[RECIPE]["megabytes"] < 0.5 * rows[FP32]["megabytes"]
    assert rows["trimmed to de-DE (time, size)"]["megabytes"] <= rows[RECIPE]["megabytes"]
    assert {name for name, row in rows.items() if row["as_fp32"] is None} == {
        "softmax and argmax in the graph",
        "relu (time alone)",
        "position bias (time alone)",
        "trimmed to de-DE (time, size)",
    }
    assert found["scored"] == len(datasets.load(str(datasets.SAMPLE), ["de-DE"]).part("dev"))
    assert f"of {found['pieces']:.1f} tokens" in table[-2]


def test_an_encoder_without_heads_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert recipes.main(["--ckpt", str(tmp_path / "none")]) == 2

    assert "no such checkpoint folder" in capsys.readouterr().err
