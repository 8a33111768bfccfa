"""``--track``: what a run reports, and what it says where a package is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from training import distill, finetune, pretrain
from training.data.files import read_json
from training.runs.flags import TRACKERS
from training.runs.tracking import EVERY


def reported(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The steps and values of each figure that was reported to TensorBoard."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events: Any = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {name: [(x.step, x.value) for x in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_fine_tuning_reports_losses_rates_and_dev_scores(sample: Path, tmp_path: Path) -> None:
    data = ["--data", str(sample), "--locales", "de-DE", "--vocabulary", "300"]
    flags = ["--size", "xs", "--epochs", "2", "--batch-size", "16", "--track", "tensorboard"]

    assert finetune.main([*data, *flags, "--out", str(tmp_path / "run")]) == 0

    training, found = read_json(tmp_path / "run" / "training.json"), reported(tmp_path / "run")
    steps, per_epoch = training["steps"], training["steps"] // 2
    assert [step for step, _ in found["loss"]] == [*range(EVERY, steps, EVERY), steps]
    assert found["learning_rate"][-1][1] < found["learning_rate"][0][1]
    scores = [epoch["dev"]["exact_match"] for epoch in training["history"]]
    assert found["dev_exact_match"] == [
        (per_epoch, pytest.approx(scores[0], abs=1e-3)),
        (steps, pytest.approx(scores[1], abs=1e-3)),
    ]


def test_pretraining_and_distillation_report_losses(sentences: list[str], tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n".join(sentences))
    short = ["--corpus", str(tmp_path / "text.txt"), "--size", "xs", "--steps", "3", "--batch-tokens", "256"]
    track = ["--track", "tensorboard"]

    assert pretrain.main([*short, *track, "--vocabulary", "300", "--out", str(tmp_path / "teacher")]) == 0
    teacher = ["--teacher", str(tmp_path / "teacher")]
    assert distill.main([*short, *track, *teacher, "--out", str(tmp_path / "student")]) == 0

    for folder in ("teacher", "student"):
        found = reported(tmp_path / folder)
        assert [step for step, _ in found["loss"]] == [3]
        assert [step for step, _ in found["held_out_loss"]] == [1, 2, 3]


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_named_before_anything_is_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("training.runs.tracking.find_spec", lambda _: None)

    assert finetune.main(["--data", "x", "--track", name, "--out", str(tmp_path / "run")]) == 2

    assert f"{name} is not installed; install it with: pip install {name}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
