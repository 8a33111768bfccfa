from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from training import finetune
from training.data import datasets
from training.models.batches import Batch, Example, collate
from training.models.checkpoint import load_checkpoint
from training.models.student import StudentOutput
from training.objectives.multitask import mixed_pairs, multitask_loss
from training.runs.pipeline import PIPELINE, PipelineError, as_toml, pipeline_of, policy_of, read_pipeline
from training.runs.settings import FinetuneSettings

SHORT = ["--size", "xs", "--epochs", "1", "--batch-size", "32", "--views", "1", "--threads", "1", "--precision", "fp32"]


def trained(sample: Path, out: Path, *more: str) -> int:
    return finetune.main(["--data", str(sample), "--locales", "de-DE", *SHORT, "--out", str(out), *more])


@pytest.fixture(scope="module")
def teacher(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wider teacher with a tokenizer of its own."""
    out = tmp_path_factory.mktemp("teacher") / "s"
    assert trained(sample, out, "--size", "s", "--vocabulary", "300") == 0
    return out


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def losses(out: Path) -> list[float]:
    return [entry["loss"] for entry in json.loads((out / "training.json").read_text())["history"]]


PARTS = {
    "plain": [],
    "mi": ["--hidden-loss", "mi", "--layer-mapping", "emd"],
    "mse": ["--hidden-loss", "mse", "--unlabelled", "plain.txt"],
    "mixup": ["--mixup", "0.4"],
    "policy": ["--augmentation", "random:0.5:0.3,substituted:0.5"],
}


def test_each_part_changes_the_loss_and_nothing_of_it_is_saved(
    teacher: Path, cache: Path, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [u.text for u in datasets.load(str(sample), ["de-DE"]).part("train")[:30]]
    (tmp_path / "plain.txt").write_text("\n".join([*texts, "ein satz ohne label"]))  # some occur twice, then
    monkeypatch.chdir(tmp_path)
    shared = ["--teacher", str(teacher), "--teacher-cache", str(cache), "--vocabulary", "600"]
    found = {}
    for name, flags in PARTS.items():
        assert trained(sample, tmp_path / name, *shared, *flags) == 0
        found[name] = losses(tmp_path / name)[0]

    assert len(set(found.values())) == len(PARTS)
    states = [set(load_checkpoint(tmp_path / name).model.state_dict()) for name in ("plain", "mi", "mse")]
    assert states[0] == states[1] == states[2]


def test_contextual_words_and_paraphrases_are_taught(
    teacher: Path, cache: Path, hub_bert: Path, sample: Path, tmp_path: Path
) -> None:
    known = datasets.load(str(sample), ["de-DE"]).part("train")[0]
    (tmp_path / "paraphrases.tsv").write_text(f"{known.text}\t{known.text} bitte\n")

    flags = ["--augmentation", "paraphrased:1,contextual:0.5:0.5", "--masked-model", str(hub_bert)]
    flags += ["--paraphrases", str(tmp_path / "paraphrases.tsv"), "--views", "2", "--epochs", "2"]
    flags += ["--teacher", str(teacher), "--teacher-cache", str(cache), "--vocabulary", "600"]
    assert trained(sample, tmp_path / "out", *flags) == 0

    training = json.loads((tmp_path / "out" / "training.json").read_text())
    assert training["pipeline"]["augmentation"] == "paraphrased:1,contextual:0.5:0.5"
    assert (training["settings"]["masked_model"], training["settings"]["paraphrases"]) == ("bert", "paraphrases.tsv")
    assert str(tmp_path) not in json.dumps(training)


def test_a_run_with_projections_is_resumed_to_the_same_weights(
    teacher: Path, cache: Path, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--teacher", str(teacher), "--teacher-cache", str(cache), "--vocabulary", "600", "--save-every", "2"]
    flags += ["--hidden-loss", "mi", "--mixup", "0.4"]
    assert trained(sample, tmp_path / "whole", *flags) == 0
    from training.runs import task_loss

    count, compare = 0, task_loss.TaskLoss.__call__

    def stopped(*arguments: object) -> object:
        nonlocal count
        count += 1
        if count == 4:
            raise FloatingPointError("stopped")
        return compare(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(task_loss.TaskLoss, "__call__", stopped)
        assert trained(sample, tmp_path / "killed", *flags) == 1
    assert finetune.main(["--out", str(tmp_path / "killed"), "--resume", "--threads", "1"]) == 0

    whole, resumed = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed"))
    assert whole == resumed


def test_a_pipeline_is_read_printed_and_stored(
    teacher: Path, cache: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pipeline.toml"
    file.write_text('hidden_loss = "cosine"\nmixup = 0.2\nteacher_weight = 0.5\n')

    flags = ["--pipeline", str(file), "--teacher", str(teacher), "--teacher-cache", str(cache), "--mixup", "0.3"]
    assert trained(sample, tmp_path / "out", *flags) == 0

    shown = capsys.readouterr().err
    assert "hidden_loss      cosine (pipeline)" in shown
    assert "mixup            0.3 (given, 0.2 in the pipeline)" in shown
    stored = json.loads((tmp_path / "out" / "training.json").read_text())["pipeline"]
    assert stored == {
        **pipeline_of(FinetuneSettings()),
        "hidden_loss": "cosine",
        "mixup": 0.3,
        "teacher_weight": 0.5,
        "views": 1,
    }
    (tmp_path / "stored.toml").write_text(as_toml(stored))
    assert read_pipeline(tmp_path / "stored.toml") == stored
    assert set(stored) == set(PIPELINE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('teacher = "s"', "pipeline.toml: unknown teacher; allowed: teacher_weight, prediction_loss"),
        ("mixup = -1", "pipeline.toml: argument --mixup: -1.0 is out of range; allowed: 0 or more"),
        ('hidden_loss = "cka"', "--hidden-loss: invalid choice: 'cka'"),
        ('augmentation = "eda:1"', "augmentation 'eda'; allowed"),
        ("mixup = ", "cannot be read"),
    ],
)
def test_a_wrong_entry_of_a_pipeline_is_named(
    content: str, message: str, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pipeline.toml"
    file.write_text(content)

    assert trained(sample, tmp_path / "out", "--pipeline", str(file)) == 2

    assert message in capsys.readouterr().err
    with pytest.raises(PipelineError):
        read_pipeline(file)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--hidden-loss", "mi"], "--hidden-loss mi: needs one --teacher; given: none"),
        (["--mixup", "1", "--heads", "slots"], "--mixup: needs a domain or intent head"),
        (["--augmentation", "contextual:0.5"], "--augmentation contextual: needs --masked-model"),
        (["--paraphrases", "x.tsv"], "--paraphrases: is used by --augmentation paraphrased:SHARE alone"),
        (
            ["--augmentation", "typed:0.5", "--augmented-share", "0.2"],
            "--augmentation and --augmented-share exclude each other",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    flags: list[str], message: str, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained(sample, tmp_path / "out", "--vocabulary", "300", *flags) == 2

    assert message in capsys.readouterr().err


def test_a_policy_needs_no_model_for_words_and_slots() -> None:
    assert policy_of(FinetuneSettings(), []) is None
    assert policy_of(FinetuneSettings(augmentation="none"), []) is not None


def test_mixed_pairs_have_the_loss_of_mixed_soft_targets() -> None:
    torch.manual_seed(0)
    batch: Batch = collate([Example([1, 2], i % 3, i % 2, [-100, 0]) for i in range(6)], 0)
    output = StudentOutput(
        domain_logits=torch.randn(6, 3), intent_logits=torch.randn(6, 2), slot_logits=torch.randn(6, 2, 4)
    )

    mixed = mixed_pairs(output, batch, 0.4)

    assert mixed.slots.slot_logits is output.slot_logits
    assert mixed.output.slot_logits is None
    loss = mixed.share * multitask_loss(mixed.output, batch, 1.0, 0.0)
    loss = loss + (1 - mixed.share) * multitask_loss(mixed.output, mixed.partners, 1.0, 0.0)
    wanted = torch.zeros(())
    for name, count in (("domain", 3), ("intent", 2)):
        own, other = (torch.nn.functional.one_hot(getattr(x, name), count) for x in (batch, mixed.partners))
        targets = mixed.share * own + (1 - mixed.share) * other
        logits = getattr(mixed.output, f"{name}_logits")
        wanted = wanted - (targets * logits.log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(sorted(mixed.partners.domain.tolist()), sorted(batch.domain.tolist()))
