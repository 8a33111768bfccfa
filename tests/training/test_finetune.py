from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from training import finetune
from training.checkpoint import CheckpointError, load_checkpoint, load_resume_state

SHORT = [
    "--size",
    "xs",
    "--epochs",
    "2",
    "--batch-size",
    "16",
    "--vocabulary",
    "300",
    "--threads",
    "1",
    "--average",
    "0.9",
]


def arguments(sample: Path, out: Path, *more: str) -> list[str]:
    return ["--data", str(sample), "--locales", "de-DE", *SHORT, "--save-every", "3", "--out", str(out), *more]


def interrupt(command: list[str], out: Path) -> None:
    """Start a run and kill it as soon as it has saved a state in the middle of an epoch."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (out / "resume.pt").exists():
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline, "no resume state within two minutes"
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert finetune.main(arguments(sample, out)) == 0
    return out


def test_a_killed_run_resumes_to_the_very_same_weights(uninterrupted: Path, sample: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    interrupt([sys.executable, "-m", "training.finetune", *arguments(sample, out)], out)
    stopped_at = load_resume_state(out)["progress"]["step"]

    assert finetune.main(["--out", str(out), "--resume", "--threads", "1"]) == 0

    assert 0 < stopped_at < 20
    assert (out / "model.safetensors").read_bytes() == (uninterrupted / "model.safetensors").read_bytes()
    scores = [json.loads((folder / "training.json").read_text())["dev"] for folder in (out, uninterrupted)]
    assert scores[0] == scores[1]
    assert not (out / "resume.pt").exists()


def test_the_same_seed_gives_the_same_student(uninterrupted: Path, sample: Path, tmp_path: Path) -> None:
    assert finetune.main(arguments(sample, tmp_path / "again")) == 0

    again = (tmp_path / "again" / "model.safetensors").read_bytes()
    assert again == (uninterrupted / "model.safetensors").read_bytes()


def test_another_seed_gives_another_student(uninterrupted: Path, sample: Path, tmp_path: Path) -> None:
    assert finetune.main(arguments(sample, tmp_path / "other", "--seed", "2")) == 0

    other = (tmp_path / "other" / "model.safetensors").read_bytes()
    assert other != (uninterrupted / "model.safetensors").read_bytes()


def test_the_checkpoint_explains_itself(uninterrupted: Path) -> None:
    training = json.loads((uninterrupted / "training.json").read_text())

    assert training["settings"]["size"] == "xs"
    assert training["settings"]["epochs"] == 2
    assert training["locales"] == ["de-DE"]
    assert training["utterances"] == {"train": 154, "dev": 33, "skipped": 0}
    assert [entry["epoch"] for entry in training["history"]] == [1, 2]
    assert set(training["dev"]) == set(training["dev_typed"]) == {"de-DE", "mean"}
    assert str(uninterrupted.parent) not in json.dumps(training)


def test_the_last_line_is_json_and_progress_goes_to_stderr(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune.main(arguments(sample, tmp_path / "out", "--epochs", "1")) == 0

    captured = capsys.readouterr()
    summary = json.loads(captured.out.splitlines()[-1])
    assert summary["checkpoint"] == str(tmp_path / "out")
    assert {"exact_match", "intent_accuracy", "slot_f1"} <= set(summary["dev"])
    assert "epochs           1 (given)" in captured.err
    assert "seed             1 (default)" in captured.err
    assert "epoch 1 (best so far)" in captured.err


def test_a_tiny_student_learns_the_sample(checkpoint: Path) -> None:
    training = json.loads((checkpoint / "training.json").read_text())

    assert training["dev"]["mean"]["domain_f1"] > 60
    assert training["history"][-1]["loss"] < training["history"][0]["loss"] / 1.3


def test_only_the_chosen_heads_are_trained(sample: Path, tmp_path: Path) -> None:
    assert finetune.main(arguments(sample, tmp_path / "dc", "--heads", "domain", "--epochs", "1")) == 0

    checkpoint = load_checkpoint(tmp_path / "dc")
    assert checkpoint.labels.heads == ("domain",)
    assert "intent_accuracy" not in checkpoint.training["dev"]["mean"]


def test_extra_locales_are_trained_on_but_not_served(sample: Path, tmp_path: Path) -> None:
    assert finetune.main(arguments(sample, tmp_path / "out", "--extra-locales", "fr-FR", "--epochs", "1")) == 0

    training = load_checkpoint(tmp_path / "out").training
    assert training["locales"] == ["de-DE"]
    assert training["utterances"]["train"] == 2 * 154
    assert training["utterances"]["dev"] == 33


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--heads", "domain,mood"], "--heads: mood; allowed: domain, intent, slots"),
        (["--dropout", "2"], "argument --dropout: 2.0 is out of range; allowed: 0 to 1"),
        (["--epochs", "many"], "argument --epochs: invalid int value: 'many'"),
        (["--size", "huge"], "--size: invalid choice: 'huge'"),
    ],
)
def test_bad_settings_are_named(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        finetune.main(arguments(sample, tmp_path / "out", *more))

    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--locales", "xx-XX"], "no utterances for xx-XX"),
        (["--data", "/nowhere"], "/nowhere: no such data"),
        (["--resume"], "nothing to resume"),
        (["--init", "/nowhere"], "/nowhere: no such checkpoint folder"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert finetune.main(arguments(sample, tmp_path / "out", *more)) == 2

    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_can_start_from_a_checkpoint(uninterrupted: Path, sample: Path, tmp_path: Path) -> None:
    more = ["--init", str(uninterrupted), "--epochs", "1", "--learning-rate", "0"]
    assert finetune.main(arguments(sample, tmp_path / "next", *more)) == 0

    first, second = load_checkpoint(uninterrupted), load_checkpoint(tmp_path / "next")
    assert second.encoder.tokenizer.to_str() == first.encoder.tokenizer.to_str()
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))
    assert second.training["init"]["settings"]["epochs"] == 2


def test_heads_with_other_labels_start_afresh(uninterrupted: Path, sample: Path, tmp_path: Path) -> None:
    more = ["--init", str(uninterrupted), "--epochs", "1", "--learning-rate", "0", "--heads", "domain"]
    assert finetune.main(arguments(sample, tmp_path / "dc", *more)) == 0

    assert load_checkpoint(tmp_path / "dc").labels.heads == ("domain",)


def test_starting_from_another_shape_is_refused(
    uninterrupted: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune.main(arguments(sample, tmp_path / "m", "--init", str(uninterrupted), "--size", "s")) == 2

    assert "--init has another shape than --size s" in capsys.readouterr().err


def test_a_finished_run_is_not_overwritten(
    uninterrupted: Path, sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune.main(arguments(sample, uninterrupted)) == 2

    assert "is not empty" in capsys.readouterr().err


def test_resuming_with_another_setting_is_refused(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "killed"
    interrupt([sys.executable, "-m", "training.finetune", *arguments(sample, out)], out)

    assert finetune.main(["--out", str(out), "--resume", "--seed", "7"]) == 2

    assert "--seed 7 differs from the interrupted run's 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 50), "cannot be loaded"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'), "model_type is 'bert'"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be loaded"),
    ],
)
def test_a_damaged_checkpoint_is_named(uninterrupted: Path, tmp_path: Path, damage: object, message: str) -> None:
    import shutil

    folder = tmp_path / "damaged"
    shutil.copytree(uninterrupted, folder)
    damage(folder)  # type: ignore[operator]

    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)
