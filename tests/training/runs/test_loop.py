"""What goes wrong on the way: numbers, disks, texts, and what a run leaves behind then."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from training import pretrain
from training.data.files import write_atomically
from training.models.checkpoint import (
    is_finished,
    load_checkpoint,
    load_resume_state,
    save_checkpoint,
    save_resume_state,
)
from training.models.errors import CheckpointError
from training.runs import pretraining, text_run
from training.text.lines import encode_lines
from training.text.tokenizer import train_tokenizer

SHORT = ["--size", "xs", "--batch-tokens", "512", "--threads", "1", "--save-every", "1"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, sentences: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    train_tokenizer(sentences, 300).save(str(folder / "tokenizer.json"))
    (folder / "text.txt").write_text("\n".join(sentences[:200]))
    return folder / "text.txt"


def arguments(corpus: Path, out: Path, *more: str) -> list[str]:
    tokenizer = str(corpus.parent / "tokenizer.json")
    return ["--corpus", str(corpus), "--tokenizer", tokenizer, *SHORT, "--out", str(out), *more]


@pytest.fixture(scope="module")
def interrupted(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was interrupted when all but its checkpoint was done."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path_factory.mktemp("runs") / "interrupted"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_run, "save_checkpoint", stop)
        with pytest.raises(KeyboardInterrupt):
            pretrain.main(arguments(corpus, out, "--steps", "3"))
    return out


def copied(state: Path, out: Path) -> Path:
    out.mkdir()
    (out / "resume.pt").write_bytes((state / "resume.pt").read_bytes())
    return out


@contextmanager
def full_disk(left: int) -> Iterator[None]:
    """No file can grow beyond so many bytes: what a full disk does to whoever writes, but for the number."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_loss_that_is_no_number_stops_the_run_before_the_weights(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert pretrain.main(arguments(corpus, out, "--learning-rate", "1e30", "--steps", "10")) == 1

    state = load_resume_state(out)
    step = state["progress"]["step"]
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"at step {step}: stopped before it reached the weights" in error
    assert f"resume.pt holds step {step}" in error
    assert 0 < step < 10
    assert all(bool(torch.isfinite(weights).all()) for weights in state["model"].values())
    assert not is_finished(out)


def test_a_gradient_that_is_no_number_is_named(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = pretraining.masked_loss
    with monkeypatch.context() as wrong:
        wrong.setattr(pretraining, "masked_loss", lambda *a: exact(*a) + (exact(*a) * 0).sqrt())
        assert pretrain.main(arguments(corpus, tmp_path / "out")) == 1

    assert "gradient is nan at step 0" in capsys.readouterr().err
    assert load_resume_state(tmp_path / "out")["progress"]["step"] == 0
    assert pretrain.main(["--out", str(tmp_path / "out"), "--resume", "--learning-rate", "1e-4"]) == 0  # as it advises
    assert load_checkpoint(tmp_path / "out").training["settings"]["learning_rate"] == 1e-4


def test_a_full_disk_is_one_sentence_and_spares_the_last_state(
    interrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copied(interrupted, tmp_path / "out")
    with full_disk(500_000):
        assert pretrain.main(["--out", str(out), "--resume", "--threads", "1"]) == 1

    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(error) == 1
    assert error[0].startswith(f"error: {out / 'resume.pt'}: cannot be written: ")
    assert "File too large" in error[0]
    assert [name for name in names(out) if name != ".lines"] == ["resume.pt"]
    assert (out / "resume.pt").read_bytes() == (interrupted / "resume.pt").read_bytes()

    assert pretrain.main(["--out", str(out), "--resume", "--threads", "1"]) == 0
    assert is_finished(out)


@pytest.mark.parametrize("left", [0, 500_000])
def test_a_checkpoint_that_finds_no_room_is_named_and_leaves_nothing(
    checkpoint: Path, tmp_path: Path, left: int
) -> None:
    loaded = load_checkpoint(checkpoint)
    with full_disk(left), pytest.raises(OSError, match=r"out: cannot be written: .*File too large"):
        save_checkpoint(tmp_path / "out", loaded.model, loaded.encoder.tokenizer, {})

    assert names(tmp_path / "out") == []


def test_what_a_killed_save_left_is_removed(checkpoint: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(checkpoint)
    (tmp_path / ".saving-old").mkdir()
    (tmp_path / ".saving-old" / "model.safetensors").write_bytes(b"half")

    save_checkpoint(tmp_path, loaded.model, loaded.encoder.tokenizer, {})

    assert names(tmp_path) == ["config.json", "model.safetensors", "tokenizer.json", "training.json"]


def test_every_file_that_finds_no_room_is_named(tmp_path: Path, sentences: list[str], corpus: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(corpus.parent / "tokenizer.json"))
    with full_disk(100):
        with pytest.raises(OSError, match=r"a\.json: cannot be written: .*File too large"):
            write_atomically(tmp_path / "a.json", b"x" * 1000)
        with pytest.raises(OSError, match=r"resume\.pt: cannot be written: .*File too large"):
            save_resume_state(tmp_path, {"weights": torch.zeros(1000)})
        with pytest.raises(OSError, match=r"text: cannot be written: .*File too large"):
            encode_lines(tokenizer, sentences, 64, tmp_path / "text")

    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "there is no text to train on"),
        (b" \n\n", "there is no text to train on"),
        ("f\u00fcr\n".encode("latin-1"), "text.txt: cannot be read"),
    ],
)
def test_a_text_that_cannot_be_read_is_one_sentence(
    corpus: Path, tmp_path: Path, content: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_bytes(content)
    more = ["--corpus", str(tmp_path / "text.txt")]
    assert pretrain.main(arguments(corpus, tmp_path / "out", *more)) == 2

    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists() or names(tmp_path / "out") == []


@pytest.mark.parametrize("change", ["longer", "another order"])
def test_a_text_that_has_changed_since_the_run_began_is_refused(
    interrupted: Path, corpus: Path, tmp_path: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, whole = copied(interrupted, tmp_path / "out"), corpus.read_text()
    lines = whole.splitlines()
    corpus.write_text("\n".join([*lines, "noch eine"] if change == "longer" else reversed(lines)))
    try:
        assert pretrain.main(["--out", str(out), "--resume", "--threads", "1"]) == 2
    finally:
        corpus.write_text(whole)

    assert "the text has changed since the run began" in capsys.readouterr().err


def test_another_number_of_processes_is_refused(
    interrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copied(interrupted, tmp_path / "out")
    save_resume_state(out, {**load_resume_state(out), "processes": 2})

    assert pretrain.main(["--out", str(out), "--resume", "--threads", "1"]) == 2

    assert "the run began with 2 processes" in capsys.readouterr().err


def test_a_text_of_one_line_is_learned_without_scores(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("weck mich um neun\n")
    more = ["--corpus", str(tmp_path / "text.txt"), "--epochs", "3", "--batch-tokens", "1"]
    assert pretrain.main(arguments(corpus, tmp_path / "out", *more)) == 0

    training = json.loads((tmp_path / "out" / "training.json").read_text())
    assert training["lines"] == 1
    assert training["held_out"] == {}
    assert "held_out_loss" not in json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_finished_run_has_nothing_to_resume(
    interrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copied(interrupted, tmp_path / "out")
    assert not is_finished(out)
    assert pretrain.main(["--out", str(out), "--resume", "--threads", "1"]) == 0
    assert is_finished(out)

    assert pretrain.main(["--out", str(out), "--resume"]) == 2

    assert "nothing to resume: resume.pt is missing (a finished run removes it)" in capsys.readouterr().err


def test_a_state_that_is_cut_off_is_named(interrupted: Path, tmp_path: Path) -> None:
    out = copied(interrupted, tmp_path / "out")
    (out / "resume.pt").write_bytes((out / "resume.pt").read_bytes()[:-1000])

    with pytest.raises(CheckpointError, match=r"resume\.pt: cannot be read"):
        load_resume_state(out)


def test_a_missing_checkpoint_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(CheckpointError, match="no such checkpoint folder"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="owner/no-such-encoder: no such folder; from the hub it cannot be"):
        load_checkpoint("owner/no-such-encoder")
    assert not is_finished(tmp_path / "nowhere")
