from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from service.student.manifest import Labels
from training import distill, pretrain
from training.models.checkpoint import is_finished, load_checkpoint
from training.models.student import StudentConfig, StudentModel
from training.objectives.layer_mapping import LAYER_MAPPINGS
from training.objectives.losses import HIDDEN_LOSSES
from training.objectives.masked_language import MaskedBatch, MaskedLanguageModel
from training.runs.distillation import Imitation
from training.runs.settings import DistillSettings
from training.runs.start import is_untouched

SHORT = ["--size", "xs", "--batch-tokens", "512", "--threads", "1"]
FILES = ["config.json", "model.safetensors", "tokenizer.json", "training.json"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, sentences: list[str]) -> Path:
    file = tmp_path_factory.mktemp("corpus") / "text.txt"
    file.write_text("\n".join(sentences))
    return file


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    out = tmp_path_factory.mktemp("teachers") / "xs"
    more = ["--vocabulary", "300", "--epochs", "4", "--learning-rate", "0.003", "--out", str(out)]
    assert pretrain.main(["--corpus", str(corpus), *SHORT, *more]) == 0
    return out


@pytest.fixture(scope="module")
def wide_teacher(tmp_path_factory: pytest.TempPathFactory, corpus: Path, teacher: Path) -> Path:
    """Of size s, with the tokenizer of the other one."""
    out = tmp_path_factory.mktemp("teachers") / "s"
    more = ["--tokenizer", str(teacher / "tokenizer.json"), "--steps", "4", "--threads", "1", "--out", str(out)]
    assert pretrain.main(["--corpus", str(corpus), "--size", "s", "--batch-tokens", "512", *more]) == 0
    return out


def arguments(teacher: Path, corpus: Path, out: Path, *more: str) -> list[str]:
    return ["--teacher", str(teacher), "--corpus", str(corpus), *SHORT, "--out", str(out), *more]


def training_of(folder: Path) -> dict[str, object]:
    training: dict[str, object] = json.loads((folder / "training.json").read_text())
    return training


def held_out_loss(folder: Path) -> float:
    return float(load_checkpoint(folder).training["held_out"]["held_out_loss"])


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in load_checkpoint(folder).training["history"]]


def test_a_student_learns_from_its_teacher(
    teacher: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for rate in ("0", "0.003"):
        assert distill.main(arguments(teacher, corpus, tmp_path / rate, "--learning-rate", rate)) == 0

    assert held_out_loss(tmp_path / "0.003") < held_out_loss(tmp_path / "0") - 0.1
    student = load_checkpoint(tmp_path / "0.003")
    assert student.training["teacher"]["command"] == "training.pretrain"
    assert student.training["settings"]["teacher"] == teacher.name
    assert student.encoder.tokenizer.to_str() == load_checkpoint(teacher).encoder.tokenizer.to_str()
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["held_out_loss"] == student.training["held_out"]["held_out_loss"]


def test_nothing_of_the_teacher_stays_on_disk(teacher: Path, corpus: Path, tmp_path: Path) -> None:
    more = ["--hidden-loss", "mse", "--steps", "3", "--save-every", "1"]
    assert distill.main(arguments(teacher, corpus, tmp_path / "out", *more)) == 0

    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == FILES
    weights = load_checkpoint(tmp_path / "out").model.state_dict()
    assert set(weights) == set(load_checkpoint(teacher).model.state_dict())


@pytest.mark.parametrize("prediction_loss", ["kl", "cross_entropy", "mse"])
def test_the_soft_loss_falls_as_the_student_imitates(
    teacher: Path, corpus: Path, tmp_path: Path, prediction_loss: str
) -> None:
    more = ["--hard-weight", "0", "--prediction-loss", prediction_loss, "--learning-rate", "0.003", "--epochs", "2"]
    assert distill.main(arguments(teacher, corpus, tmp_path / "out", *more)) == 0

    curve = losses(tmp_path / "out")
    assert sum(curve[-5:]) < 0.98 * sum(curve[:5])  # the least cross entropy is the teacher's entropy


def test_without_soft_and_hidden_losses_it_is_pretraining(teacher: Path, corpus: Path, tmp_path: Path) -> None:
    more = ["--soft-weight", "0", "--hard-weight", "1", "--precision", "fp32"]
    assert distill.main(arguments(teacher, corpus, tmp_path / "distilled", *more)) == 0
    more = ["--tokenizer", str(teacher / "tokenizer.json"), "--precision", "fp32", "--out", str(tmp_path / "plain")]
    assert pretrain.main(["--corpus", str(corpus), *SHORT, *more]) == 0

    assert losses(tmp_path / "distilled") == losses(tmp_path / "plain")
    assert held_out_loss(tmp_path / "distilled") == held_out_loss(tmp_path / "plain")


@pytest.mark.parametrize("hidden_loss", HIDDEN_LOSSES)
@pytest.mark.parametrize("mapping", LAYER_MAPPINGS)
def test_each_hidden_loss_reaches_the_student_through_each_mapping(hidden_loss: str, mapping: str) -> None:
    torch.manual_seed(0)
    narrow, wide = (
        StudentModel(StudentConfig.of_size(size, Labels(), vocab_size=50, masked=True, dropout=0.0)).eval()
        for size in ("xs", "s")
    )
    ids = torch.randint(4, 50, (3, 9))
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    targets = torch.full_like(ids, -100)
    targets[:, 2] = 7
    settings = DistillSettings(hidden_loss=hidden_loss, layer_mapping=mapping)
    imitation = Imitation(MaskedLanguageModel(narrow), wide, settings)
    with torch.no_grad():
        taught = wide(ids, mask, all_layers=True).hidden_states

    logits, hidden = imitation(MaskedBatch(ids, mask, targets, 3), taught)
    hidden.backward()

    assert logits.shape == (3, 50)
    assert math.isfinite(hidden.item())
    assert hidden.item() > 0
    assert narrow.token_embeddings.weight.grad is not None
    assert all(p.grad is not None for p in imitation.projections.parameters())


@pytest.mark.parametrize("hidden_loss", HIDDEN_LOSSES)
@pytest.mark.parametrize("architecture", ["hub_xlm_roberta", "hub_bert"])
def test_a_hugging_face_encoder_teaches(
    architecture: str, hidden_loss: str, request: pytest.FixtureRequest, sentences: list[str], tmp_path: Path
) -> None:
    folder: Path = request.getfixturevalue(architecture)
    (tmp_path / "text.txt").write_text("\n".join([*sentences[:100], " ".join(sentences[:20])]))  # one is too long
    more = ["--hidden-loss", hidden_loss, "--steps", "2"]
    assert distill.main(arguments(folder, tmp_path / "text.txt", tmp_path / "out", *more)) == 0

    student = load_checkpoint(tmp_path / "out")
    assert isinstance(student.model, StudentModel)
    assert student.model.config.vocab_size == load_checkpoint(folder).model.config.vocab_size
    assert student.encoder.encode("weck mich").ids == load_checkpoint(folder).encoder.encode("weck mich").ids


def test_a_student_starts_from_its_teachers_layers(
    teacher: Path, wide_teacher: Path, corpus: Path, tmp_path: Path
) -> None:
    for name, taught_by in (("same", teacher), ("narrower", wide_teacher)):
        more = ["--start", "teacher", "--learning-rate", "0", "--steps", "1"]
        assert distill.main(arguments(taught_by, corpus, tmp_path / name, *more)) == 0

    assert held_out_loss(tmp_path / "same") == pytest.approx(held_out_loss(teacher), abs=0.01)
    assert load_checkpoint(tmp_path / "narrower").model.config.hidden_size == 128


def test_states_of_plain_text_are_imitated_without_a_masked_language_head(
    sample: Path, corpus: Path, tmp_path: Path
) -> None:
    """A fine-tuned teacher will do, and the student has no such head either."""
    taught_by = finetuned(sample, tmp_path / "finetuned", "--size", "s", "--vocabulary", "300")
    plain = ["--masked-share", "0", "--hidden-loss", "mse", "--start", "teacher", "--learning-rate", "0.003"]
    for name, steps in (("untrained", "1"), ("trained", "30")):
        assert distill.main(arguments(taught_by, corpus, tmp_path / name, *plain, "--steps", steps)) == 0

    student = load_checkpoint(tmp_path / "trained")
    assert held_out_loss(tmp_path / "trained") < 0.8 * held_out_loss(tmp_path / "untrained")
    assert not student.model.config.masked
    assert not student.labels.heads
    assert student.encoder.encode("weck mich").ids == load_checkpoint(taught_by).encoder.encode("weck mich").ids


def test_a_student_starts_from_a_checkpoint(teacher: Path, wide_teacher: Path, corpus: Path, tmp_path: Path) -> None:
    more = ["--start", str(teacher), "--learning-rate", "0", "--steps", "1"]
    assert distill.main(arguments(wide_teacher, corpus, tmp_path / "out", *more)) == 0

    first, second = load_checkpoint(teacher), load_checkpoint(tmp_path / "out")
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))
    assert second.training["settings"]["start"] == teacher.name


def test_a_hugging_face_encoder_starts_under_a_teacher_with_its_tokenizer(
    hub_bert: Path, corpus: Path, tmp_path: Path
) -> None:
    assert distill.main(arguments(hub_bert, corpus, tmp_path / "out", "--start", str(hub_bert), "--steps", "2")) == 0

    student, first = load_checkpoint(tmp_path / "out").model, load_checkpoint(hub_bert).model
    assert type(student) is type(first)


def finetuned(sample: Path, folder: Path, *more: str) -> Path:
    from training import finetune

    brief = ["--locales", "de-DE", "--epochs", "1", "--threads", "1"]
    assert finetune.main(["--data", str(sample), *brief, *more, "--out", str(folder)]) == 0
    return folder


def test_what_cannot_be_distilled_is_one_sentence(
    teacher: Path,
    hub_bert: Path,
    corpus: Path,
    sample: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with_heads = finetuned(sample, tmp_path / "finetuned", "--size", "xs", "--vocabulary", "300")
    hub_with_heads = finetuned(sample, tmp_path / "hub", "--init", str(hub_bert))
    cases = [
        (with_heads, [], "has no masked-language head, which a teacher needs"),
        (teacher, ["--start", str(with_heads)], "its tokenizer is not the teacher's"),
        (teacher, ["--start", str(hub_bert)], "its tokenizer is not the teacher's"),
        (teacher, ["--start", str(teacher), "--size", "s"], "is of size xs, not s"),
        (teacher, ["--start", "teacher", "--size", "s"], "--size s: 4 x 256 is larger than 2 x 128 (xs)"),
        (teacher, ["--masked-share", "0"], "--masked-share 0: nothing to learn from; choose a --hidden-loss"),
        (hub_bert, ["--start", "teacher"], "not possible with a Hugging Face encoder as the teacher"),
        (Path("/nowhere"), [], "/nowhere: no such checkpoint folder"),
        (teacher, ["--corpus", "/nowhere.txt"], "/nowhere.txt: no text there"),
        (teacher, ["--corpus", ""], "--corpus is required"),
        (teacher, ["--chain", "xs", "--corpus", "/nowhere.txt"], "/nowhere.txt: no text there"),
        (teacher, ["--chain", "xs", "--start", "/nowhere"], "/nowhere: no such checkpoint folder"),
        (teacher, ["--chain", "s,xs", "--start", "teacher"], "--size s: 4 x 256 is larger than 2 x 128 (xs)"),
        (hub_with_heads, [], "was fine-tuned on a task; its masked-language head is out of date"),
    ]
    for taught_by, more, message in cases:
        assert distill.main(arguments(taught_by, corpus, tmp_path / "out", *more)) == 2, message
        assert message in capsys.readouterr().err
        assert is_untouched(tmp_path / "out")


def replaced(file: Path) -> Callable[[], bool]:
    """The condition that a file has been written again."""
    first = file.stat().st_mtime_ns
    return lambda: file.stat().st_mtime_ns != first


def test_a_chain_killed_at_each_stage_ends_with_the_same_weights(
    wide_teacher: Path, corpus: Path, tmp_path: Path, kill_when: Callable[..., bool]
) -> None:
    more = ["--chain", "s,xs", "--steps", "6", "--save-every", "2", "--start", "teacher", "--hidden-loss", "mse"]
    whole, out = tmp_path / "whole", tmp_path / "killed"
    assert distill.main(arguments(wide_teacher, corpus, whole, *more)) == 0

    first = arguments(wide_teacher, corpus, out, *more)
    assert kill_when(distill.main, first, (out / "via-s" / ".lines").exists)  # the next command starts it again
    assert kill_when(distill.main, first, (out / "via-s" / "resume.pt").exists)
    again = ["--out", str(out), "--resume", "--save-every", "2", "--threads", "1"]
    assert kill_when(distill.main, again, (out / "via-xs" / "resume.pt").exists)
    assert kill_when(distill.main, again, lambda: is_finished(out / "via-xs"))
    assert kill_when(distill.main, again, replaced(out / "resume.pt"))
    assert distill.main(again) == 0

    for folder in ("", "via-s", "via-xs"):
        assert sorted(f.name for f in (out / folder).iterdir() if f.is_file()) == FILES
        assert (out / folder / FILES[1]).read_bytes() == (whole / folder / FILES[1]).read_bytes()
        assert losses(out / folder) == losses(whole / folder)
    assert load_checkpoint(out / "via-s").model.config.size == "s"
    assert load_checkpoint(out).training["settings"]["chain"] == "s,xs"
    assert load_checkpoint(out).training["teacher"]["teacher"]["settings"]["size"] == "s"


def test_the_intermediates_of_a_chain_do_not_start_from_the_students_checkpoint(
    teacher: Path, corpus: Path, tmp_path: Path
) -> None:
    more = ["--chain", "s", "--start", str(teacher), "--steps", "1"]
    assert distill.main(arguments(teacher, corpus, tmp_path / "out", *more)) == 0

    assert load_checkpoint(tmp_path / "out" / "via-s").model.config.hidden_size == 256
    assert load_checkpoint(tmp_path / "out" / "via-s").training["settings"]["start"] == "random"


def launch(arguments: list[str], until: Callable[[], bool] = lambda: False) -> int:
    """Run the command in two processes; kill them all at the first sight of a moment. Returns the exit code."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = f"--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --main_process_port {port}"
    command = [sys.executable, "-m", "accelerate.commands.launch", *options.split(), "--dynamo_backend", "no"]
    process = subprocess.Popen(
        [*command, "-m", "training.distill", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    try:
        while process.poll() is None and not until():
            time.sleep(0.01)
    finally:
        if process.returncode is None:
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                one.kill()
    return process.wait()


@pytest.mark.slow
def test_two_processes_learn_what_one_does_also_when_they_are_killed(
    teacher: Path, corpus: Path, tmp_path: Path
) -> None:
    more = ["--hidden-loss", "cosine", "--precision", "fp32", "--steps", "15"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert distill.main(arguments(teacher, corpus, one, *more, "--batch-tokens", "1024")) == 0

    command = arguments(teacher, corpus, two, *more, "--save-every", "2")
    assert launch(command, until=(two / "resume.pt").exists) == -signal.SIGKILL
    assert launch(["--out", str(two), "--resume", "--threads", "1"]) == 0

    assert losses(two) == pytest.approx(losses(one), abs=0.02)
    assert held_out_loss(two) == pytest.approx(held_out_loss(one), abs=0.02)


def test_seeds_share_the_cached_predictions_of_a_teacher(teacher: Path, corpus: Path, tmp_path: Path) -> None:
    cached = ["--teacher-cache", str(tmp_path / "cache"), "--cached-tokens", "20", "--learning-rate", "0.003"]
    assert distill.main(arguments(teacher, corpus, tmp_path / "first", *cached, "--epochs", "2")) == 0
    files = {file: file.read_bytes() for file in (tmp_path / "cache").rglob("*") if file.is_file()}
    assert distill.main(arguments(teacher, corpus, tmp_path / "second", *cached, "--epochs", "2", "--seed", "2")) == 0

    assert {file: file.read_bytes() for file in files} == files
    first, second = (training_of(tmp_path / name) for name in ("first", "second"))
    assert first["cache"] == second["cache"] == {**first["cache"], "variants": 2, "tokens": 20}  # type: ignore[dict-item]
    assert first["held_out"] != second["held_out"]
    live = arguments(teacher, corpus, tmp_path / "live", "--learning-rate", "0.003", "--epochs", "2")
    assert distill.main(live) == 0
    assert held_out_loss(tmp_path / "first") == pytest.approx(held_out_loss(tmp_path / "live"), abs=0.2)


def test_a_cache_that_cannot_serve_the_loss_is_refused(
    teacher: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in (["--hidden-loss", "mse"], ["--prediction-loss", "mse"]):
        command = arguments(teacher, corpus, tmp_path / "out", "--teacher-cache", str(tmp_path / "cache"), *more)
        assert distill.main(command) == 2
        assert "--teacher-cache: holds the teacher's most probable tokens alone" in capsys.readouterr().err


def test_the_curve_of_held_out_text_and_its_unigram_entropy_are_recorded(teacher: Path) -> None:
    training = load_checkpoint(teacher).training

    curve = training["curve"]
    assert [point["step"] for point in curve] == sorted({point["step"] for point in curve})
    assert curve[-1] == {"step": training["steps"], **training["held_out"]}
    assert curve[-1]["held_out_loss"] < curve[0]["held_out_loss"]
    assert 2 < training["held_out"]["unigram_entropy"] < math.log(300)
