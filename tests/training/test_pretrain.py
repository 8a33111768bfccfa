from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from export import onnx
from training import finetune, pretrain
from training.data import datasets
from training.models.checkpoint import Checkpoint, load_checkpoint, load_resume_state
from training.runs import text_run
from training.text.corpus import CorpusError, read_lines, same_text, same_utterance

SHORT = ["--batch-tokens", "512", "--threads", "1"]
LAUNCH = f"""{sys.executable} -m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1
--mixed_precision no --dynamo_backend no --main_process_port 0""".split()


def steps_saved(out: Path) -> int:
    return int(load_resume_state(out)["progress"]["step"]) if (out / "resume.pt").exists() else 0


def same_files(folder: Path, other: Path) -> bool:
    """Whether two checkpoints are the same, byte for byte, but for how long they took; nothing else lies there."""
    trainings = [json.loads((f / "training.json").read_text()) for f in (folder, other)]
    names = {"config.json", "model.safetensors", "tokenizer.json", "training.json"}
    return (
        {f.name for f in folder.iterdir()} == names
        and all((folder / n).read_bytes() == (other / n).read_bytes() for n in names - {"training.json"})
        and all(trainings[0][key] == trainings[1][key] for key in ("history", "held_out", "steps", "lines", "pieces"))
    )


def logits(checkpoint: Checkpoint, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return checkpoint.model.token_logits(checkpoint.model(ids).last_hidden_state)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    texts = [u.text for u in datasets.load(str(sample)).utterances]
    (folder / "one.txt").write_text("\n\n".join(texts[:600]))
    with gzip.open(folder / "two.txt.gz", "wt") as stream:
        stream.write("\n".join(texts[600:]))
    return folder


def arguments(corpus: Path, out: Path, *more: str) -> list[str]:
    return ["--corpus", str(corpus), "--size", "xs", "--vocabulary", "500", *SHORT, "--out", str(out), *more]


@pytest.fixture(scope="module")
def encoder(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pretrained") / "encoder"
    assert pretrain.main(arguments(corpus, out)) == 0
    return out


def test_lines_are_read_from_folders_and_files_without_blanks(corpus: Path) -> None:
    assert len(list(read_lines([str(corpus)]))) == 1100
    assert len(list(read_lines([str(corpus / "one.txt"), str(corpus / "two.txt.gz")]))) == 1100


@pytest.mark.parametrize("name", ["nowhere", "wrong.csv", "latin.txt", "cut.txt.gz"])
def test_unreadable_text_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "wrong.csv").write_text("a")
    (tmp_path / "latin.txt").write_bytes("für\n".encode("latin-1"))
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"text\n" * 1000)[:30])

    with pytest.raises(CorpusError, match=name):
        list(read_lines([str(tmp_path / name)]))


def test_it_learns_and_says_what_it_did(encoder: Path, corpus: Path, tmp_path: Path) -> None:
    more = ["--learning-rate", "0"]
    assert pretrain.main(arguments(corpus, tmp_path / "untrained", *more)) == 0

    training = json.loads((encoder / "training.json").read_text())
    untrained = json.loads((tmp_path / "untrained" / "training.json").read_text())
    assert training["held_out"]["held_out_loss"] < untrained["held_out"]["held_out_loss"] - 0.1
    assert training["lines"] == 1100 - 110
    assert training["settings"]["corpus"].endswith(corpus.name)


def test_dev_and_test_texts_of_the_labelled_data_are_removed(
    corpus: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = datasets.load(str(sample))
    held_out = {same_utterance(same_text(u.text)) for u in data.utterances if u.partition != "train"}
    equal = sum(same_utterance(same_text(u.text)) in held_out for u in data.utterances)

    more = ["--data", str(sample), "--steps", "1", "--tokenizer-lines", "0"]
    assert pretrain.main(arguments(corpus, tmp_path / "out", *more)) == 0

    training = json.loads((tmp_path / "out" / "training.json").read_text())
    assert training["dev_or_test_removed"] == {"corpus": equal}
    lines = len(data.part("train")) + len(data.utterances) - equal
    assert training["lines"] == lines - lines // 10
    assert f"--corpus: removed {equal} lines that equal dev or test utterances" in capsys.readouterr().err


def test_finetuning_goes_on_from_it(encoder: Path, sample: Path, tmp_path: Path) -> None:
    more = ["--size", "xs", "--locales", "de-DE", "--epochs", "1", "--learning-rate", "0", "--threads", "1"]
    assert finetune.main(["--data", str(sample), "--init", str(encoder), *more, "--out", str(tmp_path / "next")]) == 0

    first, second = load_checkpoint(encoder), load_checkpoint(tmp_path / "next")
    assert torch.equal(first.model.token_embeddings.weight, second.model.token_embeddings.weight)
    assert second.labels.heads == ("domain", "intent", "slots")
    assert second.training["init"]["command"] == "training.pretrain"


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    encoder: Path, corpus: Path, tmp_path: Path
) -> None:
    assert pretrain.main(arguments(corpus, tmp_path / "again")) == 0
    assert pretrain.main(arguments(corpus, tmp_path / "other", "--seed", "2")) == 0

    assert same_files(tmp_path / "again", encoder)
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != (encoder / "model.safetensors").read_bytes()


def test_a_run_killed_several_times_ends_with_the_same_weights(
    encoder: Path, corpus: Path, tmp_path: Path, kill_when: Callable[..., bool]
) -> None:
    out, steps = tmp_path / "killed", []
    conditions: list[Callable[[], bool]] = [
        (out / ".lines").exists,  # before the first state
        (out / "resume.pt").exists,
        lambda: steps_saved(out) >= 3,
        lambda: steps_saved(out) >= 6,
    ]
    for condition in conditions:
        assert kill_when(pretrain.main, arguments(corpus, out, "--save-every", "3", "--resume"), condition)
        steps.append(steps_saved(out))

    assert pretrain.main(["--out", str(out), "--resume", "--threads", "1"]) == 0

    assert steps == sorted(steps)
    assert 0 < steps[-1] < json.loads((out / "training.json").read_text())["steps"]
    assert same_files(out, encoder)


def test_a_given_tokenizer_is_used_as_it_is(encoder: Path, corpus: Path, tmp_path: Path) -> None:
    given = ["--tokenizer", str(encoder / "tokenizer.json")]
    assert pretrain.main(arguments(corpus, tmp_path / "out", *given)) == 0

    assert same_files(tmp_path / "out", encoder)


def test_a_teacher_adapts_to_the_text_of_the_task(encoder: Path, sentences: list[str], tmp_path: Path) -> None:
    (tmp_path / "task.txt").write_text("\n".join(sentences[:300]))
    losses = {}
    for rate in ("0", "0.002"):
        more = ["--corpus", str(tmp_path / "task.txt"), "--learning-rate", rate, "--epochs", "4"]
        out = tmp_path / rate
        assert pretrain.main(["--init", str(encoder), *more, *SHORT, "--out", str(out)]) == 0
        losses[rate] = load_checkpoint(out).training["held_out"]["held_out_loss"]

    adapted = load_checkpoint(tmp_path / "0.002")
    assert losses["0.002"] < losses["0"] - 0.05
    assert adapted.encoder.tokenizer.to_str() == load_checkpoint(encoder).encoder.tokenizer.to_str()
    assert adapted.training["init"]["command"] == "training.pretrain"
    assert adapted.training["settings"]["init"] == encoder.name


@pytest.mark.parametrize("architecture", ["hub_xlm_roberta", "hub_bert"])
def test_a_hugging_face_encoder_is_pretrained_further(
    architecture: str, request: pytest.FixtureRequest, sentences: list[str], tmp_path: Path
) -> None:
    folder: Path = request.getfixturevalue(architecture)
    long = " ".join(sentences[:20])  # more tokens than it can read
    (tmp_path / "task.txt").write_text("\n".join([*sentences[:200], long]))
    for name, init, rate in (("same", folder, "0"), ("next", folder, "0.003"), ("last", tmp_path / "next", "0")):
        more = ["--corpus", str(tmp_path / "task.txt"), "--learning-rate", rate, "--epochs", "4"]
        assert pretrain.main(["--init", str(init), *more, *SHORT, "--out", str(tmp_path / name)]) == 0

    first, same, second, last = (
        load_checkpoint(f) for f in (folder, *(tmp_path / n for n in ("same", "next", "last")))
    )
    ids = torch.tensor([second.encoder.encode(sentences[0]).ids])
    assert torch.equal(logits(first, ids), logits(same, ids))
    assert torch.equal(logits(second, ids), logits(last, ids))
    assert second.training["held_out"] == last.training["held_out"]
    assert second.training["held_out"]["held_out_loss"] < same.training["held_out"]["held_out_loss"] - 0.1


def test_tokenizer_and_init_exclude_each_other(
    encoder: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--init", str(encoder), "--tokenizer", str(encoder / "tokenizer.json")]
    assert pretrain.main(arguments(corpus, tmp_path / "out", *more)) == 2

    assert "--tokenizer and --init exclude each other" in capsys.readouterr().err


def test_labelled_data_is_text_too(sample: Path, tmp_path: Path) -> None:
    more = ["--data", str(sample), "--locales", "de-DE", "--steps", "2", "--vocabulary", "300", "--out"]
    assert pretrain.main([*SHORT, "--size", "xs", *more, str(tmp_path / "out")]) == 0

    training = json.loads((tmp_path / "out" / "training.json").read_text())
    assert training["lines"] == 154 - 15
    assert training["steps"] == 2


@pytest.mark.slow
def test_two_processes_learn_what_one_does(encoder: Path, corpus: Path, tmp_path: Path) -> None:
    more = ["--tokenizer", str(encoder / "tokenizer.json"), "--size", "xs", "--precision", "fp32", "--threads", "1"]
    common = ["--corpus", str(corpus), *more]
    assert pretrain.main([*common, "--batch-tokens", "1024", "--out", str(tmp_path / "one")]) == 0

    arguments = ["-m", "training.pretrain", *common, "--batch-tokens", "512", "--out", str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*LAUNCH, *arguments], env=environment, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / name / "training.json").read_text()) for name in ("one", "two"))
    assert [entry["step"] for entry in two["history"]] == [entry["step"] for entry in one["history"]]
    assert [entry["loss"] for entry in two["history"]] == pytest.approx([e["loss"] for e in one["history"]], abs=0.01)
    assert two["held_out"]["held_out_loss"] == pytest.approx(one["held_out"]["held_out_loss"], abs=0.01)
    assert two["pieces_seen"] == one["pieces_seen"]
    assert json.loads(done.stdout.splitlines()[-1])["checkpoint"] == str(tmp_path / "two")


def test_a_student_trained_on_top_of_it_exports_with_both_stages_on_its_card(
    encoder: Path, sample: Path, tmp_path: Path
) -> None:
    more = ["--size", "xs", "--locales", "de-DE", "--epochs", "1", "--threads", "1"]
    assert finetune.main(["--data", str(sample), "--init", str(encoder), *more, "--out", str(tmp_path / "ckpt")]) == 0

    assert onnx.main(["--ckpt", str(tmp_path / "ckpt"), "--out", str(tmp_path / "student")]) == 0

    card = (tmp_path / "student" / "MODEL_CARD.md").read_text()
    assert card.index("python -m training.pretrain") < card.index("python -m training.finetune")


def test_an_encoder_without_heads_is_not_exported(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert onnx.main(["--ckpt", str(encoder), "--out", str(tmp_path / "student")]) == 2

    assert "is an encoder without heads" in capsys.readouterr().err


def test_a_run_of_another_command_is_not_resumed(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_run, "save_checkpoint", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pretrain.main(arguments(corpus, tmp_path / "out"))

    assert finetune.main(["--out", str(tmp_path / "out"), "--resume"]) == 2

    assert "holds an interrupted run of training.pretrain, not of training.finetune" in capsys.readouterr().err


def test_no_text_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrain.main(["--out", str(tmp_path / "out")]) == 2

    assert "no text: give --corpus, --data or both" in capsys.readouterr().err


def test_a_share_of_the_steps_replays_another_text(encoder: Path, corpus: Path, tmp_path: Path) -> None:
    words = sorted({word for text in read_lines([str(corpus)]) for word in text.split()})
    (tmp_path / "other.txt").write_text(
        "\n".join(f"{a} {b} {c}" for a, b, c in zip(words, words[1:], words[2:], strict=False))
    )
    task = ["--corpus", str(tmp_path / "other.txt"), "--init", str(encoder), *SHORT, "--steps", "30"]
    replay = ["--replay", str(corpus), "--replay-share", "0.5"]
    assert pretrain.main([*task, *replay, "--out", str(tmp_path / "replayed")]) == 0

    training = json.loads((tmp_path / "replayed" / "training.json").read_text())
    tokens = training["pieces"]
    assert training["passes"] == pytest.approx(30 * 512 * 0.5 / tokens, abs=0.001)
    assert training["replay_lines"] == 1100
    assert training["curve"][-1]["replay_held_out_loss"] > 0
    assert sorted(file.name for file in (tmp_path / "replayed").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "training.json",
    ]


def test_a_killed_run_with_replay_ends_with_the_same_weights(
    encoder: Path, corpus: Path, tmp_path: Path, kill_when: Callable[..., bool]
) -> None:
    one = ["--corpus", str(corpus / "one.txt"), "--replay", str(corpus / "two.txt.gz"), "--init", str(encoder)]
    command = [*one, *SHORT, "--steps", "12", "--save-every", "3"]
    assert pretrain.main([*command, "--out", str(tmp_path / "whole")]) == 0

    killed = tmp_path / "killed"
    assert kill_when(pretrain.main, [*command, "--out", str(killed)], lambda: steps_saved(killed) >= 3)
    assert pretrain.main(["--resume", "--out", str(killed), "--save-every", "3", "--threads", "1"]) == 0

    assert same_files(tmp_path / "whole", killed)
