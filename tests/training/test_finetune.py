from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModel

from export import onnx
from training import evaluate, finetune
from training.data import datasets
from training.models.checkpoint import load_checkpoint, load_resume_state, save_resume_state
from training.models.errors import CheckpointError
from training.models.hub import HubModel
from training.runs import task_loss

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


def steps_saved(out: Path) -> int:
    return int(load_resume_state(out)["progress"]["step"]) if (out / "resume.pt").exists() else 0


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, sample: Path, kill_when: Callable[..., bool]) -> Path:
    """A run that was killed as soon as it had saved a state in the middle of an epoch; for copies."""
    out = tmp_path_factory.mktemp("runs") / "killed"
    assert kill_when(finetune.main, arguments(sample, out), lambda: steps_saved(out) > 0)
    return out


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert finetune.main(arguments(sample, out)) == 0
    return out


def test_a_killed_run_resumes_to_the_same_weights(uninterrupted: Path, interrupted: Path, tmp_path: Path) -> None:
    out = shutil.copytree(interrupted, tmp_path / "killed")
    stopped_at = load_resume_state(out)["progress"]["step"]

    assert finetune.main(["--out", str(out), "--resume", "--threads", "1"]) == 0

    assert 0 < stopped_at < 20
    assert (out / "model.safetensors").read_bytes() == (uninterrupted / "model.safetensors").read_bytes()
    resumed, whole = [json.loads((folder / "training.json").read_text()) for folder in (out, uninterrupted)]
    assert resumed["dev"] == whole["dev"]
    assert resumed["history"] == whole["history"]
    assert not (out / "resume.pt").exists()


def test_a_run_without_a_newer_setting_is_resumed_with_its_default(
    uninterrupted: Path, interrupted: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(interrupted, tmp_path / "killed")
    state = load_resume_state(out)
    del state["settings"]["substituted_share"]
    save_resume_state(out, state)

    assert finetune.main(["--out", str(out), "--resume", "--threads", "1"]) == 0

    assert (out / "model.safetensors").read_bytes() == (uninterrupted / "model.safetensors").read_bytes()


def test_other_slot_values_are_learnt_from_where_asked_for(uninterrupted: Path, sample: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    assert finetune.main(arguments(sample, out, "--substituted-share", "0.5")) == 0

    histories = [json.loads((folder / "training.json").read_text())["history"] for folder in (out, uninterrupted)]
    assert histories[0][0]["loss"] != histories[1][0]["loss"]


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


@pytest.fixture(scope="module")
def intents_alone(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> tuple[Path, Path]:
    """Data without slots and domains, and a student of it."""
    folder = tmp_path_factory.mktemp("intents")
    rows = [
        {"text": u.text, "locale": u.locale, "partition": u.partition, "intent": u.intent, "id": u.id}
        for u in datasets.load(str(sample), ["de-DE"]).utterances
    ]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert finetune.main(arguments(folder / "data.jsonl", folder / "ckpt", "--epochs", "1")) == 0
    return folder / "data.jsonl", folder / "ckpt"


def test_data_of_intents_alone_gives_a_student_whose_exact_match_is_the_intent(
    intents_alone: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data, ckpt = intents_alone

    assert load_checkpoint(ckpt).labels.heads == ("intent",)
    scores = json.loads((ckpt / "training.json").read_text())["dev"]["mean"]
    assert scores["exact_match"] == scores["intent_accuracy"]
    assert "slot_f1" not in scores
    assert evaluate.main(["--ckpt", str(ckpt), "--data", str(data)]) == 0
    assert "no slots are annotated: slot metrics are not measured, exact match is" in capsys.readouterr().err


def test_slots_are_not_scored_on_data_without_annotated_ones(
    intents_alone: tuple[Path, Path], checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main(["--ckpt", str(checkpoint), "--data", str(intents_alone[0])]) == 0

    output = capsys.readouterr()
    mean = json.loads(output.out.splitlines()[-1])["mean"]
    assert mean["slot_f1"] is mean["semer"] is mean["domain_f1"] is None
    assert mean["exact_match"] == mean["intent_accuracy"]
    assert "–" in output.err


@pytest.mark.slow
def test_a_student_of_intents_alone_is_exported(intents_alone: tuple[Path, Path], tmp_path: Path) -> None:
    data, ckpt = intents_alone
    out = tmp_path / "intents"

    assert onnx.main(["--ckpt", str(ckpt), "--out", str(out), "--data", str(data), "--no-calibration"]) == 0

    accuracy = json.loads((out / "manifest.json").read_text())["accuracy"]
    assert accuracy["slots_annotated"] == {"de-DE": 0}
    assert accuracy["int8"]["mean"]["exact_match"] == accuracy["int8"]["mean"]["intent_accuracy"]
    assert "In this data no slots are annotated" in (out / "MODEL_CARD.md").read_text()


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
        (["--unlabelled", "/nowhere.txt"], "--unlabelled: needs a --teacher"),
        (["--init", "/nowhere"], "/nowhere: no such checkpoint folder"),
        (["--tokenizer", "/nowhere.json"], "/nowhere.json"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert finetune.main(arguments(sample, tmp_path / "out", *more)) == 2

    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_share_of_the_utterances_keeps_the_labels_and_the_tokenizer_of_all(
    uninterrupted: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    share = ["--train-share", "0.25", "--tokenizer", str(uninterrupted)]

    assert finetune.main(arguments(sample, tmp_path / "part", *share)) == 0

    whole, part = load_checkpoint(uninterrupted), load_checkpoint(tmp_path / "part")
    assert part.training["utterances"]["train"] == round(whole.training["utterances"]["train"] / 4)
    assert part.labels == whole.labels
    assert part.encoder.tokenizer.to_str() == whole.encoder.tokenizer.to_str()
    both = ["--tokenizer", str(uninterrupted), "--init", str(uninterrupted)]
    assert finetune.main(arguments(sample, tmp_path / "both", *both)) == 2
    assert "--tokenizer and --init exclude each other" in capsys.readouterr().err


def test_a_run_can_start_from_a_checkpoint(uninterrupted: Path, sample: Path, tmp_path: Path) -> None:
    flags = arguments(sample, tmp_path / "next", "--init", str(uninterrupted), "--epochs", "1", "--learning-rate", "0")
    del flags[flags.index("--size") : flags.index("--size") + 2]
    assert finetune.main(flags) == 0

    first, second = load_checkpoint(uninterrupted), load_checkpoint(tmp_path / "next")
    assert second.encoder.tokenizer.to_str() == first.encoder.tokenizer.to_str()
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))
    assert second.training["init"]["settings"]["epochs"] == 2
    assert second.training["settings"]["size"] == "xs"


def test_labels_that_the_checkpoint_has_keep_their_weights(uninterrupted: Path, sample: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.jsonl"
    rows = [datasets.row_of(u) for u in datasets.load(str(sample), ["de-DE"]).utterances]
    kept = sorted({row["intent"] for row in rows})[1:]
    few.write_text("\n".join(json.dumps(row) for row in rows if row["intent"] in kept))
    more = ["--init", str(uninterrupted), "--epochs", "1", "--learning-rate", "0", "--data", str(few)]
    assert finetune.main(arguments(sample, tmp_path / "few", *more)) == 0

    first, second = (load_checkpoint(folder) for folder in (uninterrupted, tmp_path / "few"))
    assert set(second.labels.intent) < set(first.labels.intent)
    for name in second.labels.intent:
        ours, theirs = second.labels.intent.index(name), first.labels.intent.index(name)
        weights = (x.model.heads["intent"].weight[i] for x, i in ((second, ours), (first, theirs)))
        assert torch.equal(*weights)


def test_a_checkpoint_may_start_a_student_with_fewer_heads(uninterrupted: Path, sample: Path, tmp_path: Path) -> None:
    more = ["--init", str(uninterrupted), "--epochs", "1", "--learning-rate", "0", "--heads", "domain"]
    assert finetune.main(arguments(sample, tmp_path / "dc", *more)) == 0

    assert load_checkpoint(tmp_path / "dc").labels.heads == ("domain",)


def test_starting_a_larger_student_is_refused(
    uninterrupted: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune.main(arguments(sample, tmp_path / "m", "--init", str(uninterrupted), "--size", "s")) == 2

    assert "--size s: 4 x 256 is larger than 2 x 128 (xs), from which it should start" in capsys.readouterr().err


def test_a_finished_run_is_not_overwritten(
    uninterrupted: Path, sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune.main(arguments(sample, uninterrupted)) == 2

    assert "is not empty" in capsys.readouterr().err


def test_resuming_with_another_setting_is_refused(
    interrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(interrupted, tmp_path / "killed")

    assert finetune.main(["--out", str(out), "--resume", "--seed", "7"]) == 2

    assert "--seed 7 differs from the interrupted run's 1" in capsys.readouterr().err


def test_resuming_on_other_utterances_is_refused(
    sample: Path, interrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, data = shutil.copytree(interrupted, tmp_path / "killed"), shutil.copytree(sample, tmp_path / "data")
    state = load_resume_state(out)
    state["settings"]["data"] = str(data)
    save_resume_state(out, state)
    for file in data.rglob("*.jsonl"):
        file.write_text(file.read_text().replace('"alarm_set"', '"alarm_other"'))

    assert finetune.main(["--out", str(out), "--resume"]) == 2

    assert "its training utterances have changed since the run began" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 50), "cannot be loaded"),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "gpt2"}'),
            "'gpt2' is no supported",
        ),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be loaded"),
    ],
)
def test_a_damaged_checkpoint_is_named(uninterrupted: Path, tmp_path: Path, damage: object, message: str) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(uninterrupted, folder)
    damage(folder)  # type: ignore[operator]

    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def test_resume_starts_a_run_where_nothing_was_saved(
    uninterrupted: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune.main(["--out", str(tmp_path / "out"), "--resume"]) == 2
    assert "--data is required" in capsys.readouterr().err

    assert finetune.main(arguments(sample, tmp_path / "out", "--resume")) == 0

    again = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert again == (uninterrupted / "model.safetensors").read_bytes()


def test_a_loss_that_is_no_number_stops_the_run_and_the_best_epoch_stays(
    uninterrupted: Path,
    sample: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, healthy, calls = tmp_path / "out", task_loss.multitask_loss, []

    def failing(*args: object) -> Tensor:
        calls.append(args)
        return healthy(*args) * (float("nan") if len(calls) > 14 else 1.0)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(task_loss, "multitask_loss", failing)
        assert finetune.main(arguments(sample, out)) == 1

    assert "loss is nan at step 14" in capsys.readouterr().err
    assert load_checkpoint(out).training["best_epoch"] == 1
    assert finetune.main(["--out", str(out), "--resume", "--threads", "1"]) == 0
    assert (out / "model.safetensors").read_bytes() == (uninterrupted / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["hub_bert", "hub_xlm_roberta"])
def test_a_hugging_face_encoder_becomes_a_task_model_and_a_teacher(
    name: str, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    source, out = request.getfixturevalue(name), tmp_path / "tuned"
    data = ["--data", str(sample), "--locales", "de-DE", "--batch-size", "32", "--epochs", "2", "--threads", "1"]
    assert finetune.main([*data, "--init", str(source), "--learning-rate", "0.005", "--out", str(out)]) == 0

    tuned = load_checkpoint(out)
    assert isinstance(tuned.model, HubModel)
    assert tuned.labels.heads == ("domain", "intent", "slots")
    assert tuned.encoder.max_length == 48
    assert tuned.training["history"][1]["loss"] < tuned.training["history"][0]["loss"]
    capsys.readouterr()
    assert evaluate.main(["--ckpt", str(out), "--data", str(sample)]) == 0
    scores = json.loads(capsys.readouterr().out)["mean"]
    assert scores["exact_match"][0] == pytest.approx(tuned.training["dev"]["mean"]["exact_match"], abs=0.01)
    student = [*data, "--size", "xs", "--vocabulary", "300", "--teacher", str(out), "--out", str(tmp_path / "student")]
    assert finetune.main(student) == 0
    capsys.readouterr()
    assert onnx.main(["--ckpt", str(out), "--out", str(tmp_path / "exported")]) == 2
    assert "a Hugging Face encoder (" in capsys.readouterr().err
    assert not isinstance(load_checkpoint(tmp_path / "student").model, HubModel)


def test_an_encoder_without_masked_language_head_is_fine_tuned(
    hub_bert: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = shutil.copytree(hub_bert, tmp_path / "source")
    AutoModel.from_pretrained(hub_bert).save_pretrained(source)
    data = ["--data", str(sample), "--locales", "de-DE", "--epochs", "1", "--threads", "1"]

    assert finetune.main([*data, "--init", str(source), "--out", str(tmp_path / "out")]) == 0

    assert "bert, 2 x 64 keeps its own architecture" in (said := capsys.readouterr().err)
    assert said.index("can't be exported or served. training.adopt makes") < said.index("epoch 1")
    assert not load_checkpoint(tmp_path / "out").model.config.masked


def test_a_hugging_face_encoder_has_its_own_size(
    hub_bert: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune.main(arguments(sample, tmp_path / "out", "--init", str(hub_bert))) == 2

    assert "--init has another size than --size xs: bert, 2 x 64" in capsys.readouterr().err


def test_two_processes_train_as_one_with_twice_the_batch(sample: Path, tmp_path: Path) -> None:
    text = tmp_path / "plain.txt"
    text.write_text("\n".join(f"spiele lied {i} von der liste" for i in range(64)))
    even = ["--dropout", "0", "--unknown-share", "0", "--augmented-share", "0", "--precision", "fp32"]
    histories = []
    teacher = tmp_path / "teacher"
    assert finetune.main(arguments(sample, teacher, "--epochs", "1")) == 0
    plain = ["--teacher", str(teacher), "--unlabelled", str(text), "--out-of-scope", str(text)]
    for processes, size in ((1, 32), (2, 16)):
        out = tmp_path / f"{processes}"
        flags = arguments(sample, out, *even, *plain, "--batch-size", str(size))
        launch = f"--num_processes {processes} --num_machines 1 --mixed_precision no --dynamo_backend no".split()
        several = ["accelerate.commands.launch", "--multi_gpu", *launch, "-m", "training.finetune"]
        module = several if processes > 1 else ["training.finetune"]
        done = subprocess.run(
            [sys.executable, "-m", *module, *flags],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["steps"] == 2 * 5
        assert done.stderr.count("epoch 1 (best so far)") == 1
        assert not (out / "resume.pt").exists()
        histories.append(json.loads((out / "training.json").read_text())["history"])

    one, two = ([entry["loss"] for entry in history] for history in histories)
    assert two == pytest.approx(one, rel=2e-3)
