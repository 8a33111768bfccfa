from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.data.utterances import DatasetError
from training.distiller.__main__ import main
from training.distiller.recommend import Recommender
from training.distiller.space import suggest
from training.runs.pipeline import read_pipeline


class Drawn:
    def __init__(self, rng: random.Random) -> None:
        self.rng, self.params = rng, dict[str, Any]()

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.params[name] = self.rng.choice(choices)
        return self.params[name]


def rows(count: int, sets: int = 4) -> list[dict[str, Any]]:
    """Trials in which "mi" helps small data, and "mse" large data."""
    rng, noise = random.Random(0), np.random.default_rng(0)
    found = []
    for i in range(count):
        trial = Drawn(rng)
        pipeline = suggest(trial, ["random", "typed"])
        size = (100, 3000)[i % sets % 2]
        good = trial.params["hidden_loss"] == ("mi" if size == 100 else "mse")
        ratio = 0.8 + 0.1 * good + float(noise.normal(scale=0.005))
        facts = {"data": f"set {i % sets}", "student": "xs", "sampler": "random", "state": "complete", "ratio": ratio}
        found.append({**facts, "choices": trial.params, "pipeline": pipeline, "features": {"rows": size, "words": 5.0}})
    return found


@pytest.fixture(scope="module")
def recommender() -> Recommender:
    return Recommender(rows(240))


@pytest.mark.parametrize(("size", "best"), [(120, "mi"), (2500, "mse")])
def test_what_helps_on_such_data_comes_first(size: int, best: str, recommender: Recommender) -> None:
    found = recommender.recommend({"rows": size, "words": 5.0}, "xs", 3)

    assert [one.pipeline["hidden_loss"] for one in found] == [best] * 3
    assert found[0].ratio == max(one.ratio for one in found) == pytest.approx(0.9, abs=0.03)
    assert all(one.low <= one.ratio <= one.high for one in found)
    assert not any("contextual" in one.pipeline["augmentation"] for one in found)
    near = recommender.nearest({"rows": size, "words": 5.0}, "xs")
    assert {x.data for x in near[:2]} == ({"set 0", "set 2"} if size == 120 else {"set 1", "set 3"})
    assert near[0].pipeline["hidden_loss"] == best


def test_pipelines_are_written_for_finetune(sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "trials.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows(60)))
    flags = ["--data", f"{sample}:de-DE", "--rows", str(tmp_path), "--top", "2", "--out", str(tmp_path / "out")]

    assert main(["recommend", *flags]) == 0

    captured = capsys.readouterr()
    summary = json.loads(captured.out.splitlines()[-1])
    assert "pipeline-1.toml: predicted ratio" in captured.err
    assert "near: set" in captured.err
    assert summary["features"]["locales"] == 1
    written = [read_pipeline(tmp_path / "out" / f"pipeline-{i}.toml") for i in (1, 2)]
    assert written == [one["pipeline"] for one in summary["pipelines"]]


def test_too_few_rows_and_unknown_students_are_refused(recommender: Recommender) -> None:
    with pytest.raises(DatasetError, match="10 finished trials on 1 data sets; a recommendation needs at least 2"):
        Recommender(rows(10, sets=1))
    with pytest.raises(DatasetError, match="student 's': the rows have none; allowed: xs"):
        recommender.recommend({"rows": 100}, "s", 1)
