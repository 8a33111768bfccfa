from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from training import datasets, finetune
from training.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from training.distillation import TeacherTargets, distillation_loss
from training.encoding import ExampleEncoder, collate
from training.labels import labels_of
from training.modeling import StudentModel, StudentOutput
from training.records import Utterance


@pytest.fixture(scope="module")
def teacher(checkpoint: Path) -> Checkpoint:
    return load_checkpoint(checkpoint)


@pytest.fixture(scope="module")
def utterances(sample: Path) -> list[Utterance]:
    return datasets.load(str(sample), ["de-DE"]).part("train")[:40]


def loss_of(student: Checkpoint, utterances: list[Utterance], targets: TeacherTargets, rows: list[int]) -> float:
    examples = ExampleEncoder(student.encoder, student.labels)
    batch = collate([examples.encode(u) for u in utterances], 0, np.array(rows))
    with torch.no_grad():
        output: StudentOutput = student.model(batch.input_ids, batch.attention_mask)
        return float(distillation_loss(output, batch, targets, slot_weight=2.0))


def test_targets_are_probabilities_a_word(teacher: Checkpoint, utterances: list[Utterance]) -> None:
    targets = TeacherTargets([teacher, teacher], teacher.labels, utterances, temperature=2.0)

    np.testing.assert_allclose(targets.intent.sum(axis=1), 1, atol=0.01)
    np.testing.assert_allclose(targets.domain.sum(axis=1), 1, atol=0.01)
    assert [len(slots) for slots in targets.slots] == [len(teacher.encoder.encode(u.text).words) for u in utterances]
    np.testing.assert_allclose(np.concatenate(targets.slots).sum(axis=1), 1, atol=0.01)


def test_the_teacher_itself_has_the_lowest_loss(teacher: Checkpoint, utterances: list[Utterance]) -> None:
    targets = TeacherTargets([teacher], teacher.labels, utterances, temperature=1.0)
    rows = list(range(len(utterances)))
    torch.manual_seed(0)
    stranger = Checkpoint(StudentModel(teacher.model.config).eval(), teacher.encoder, teacher.labels, {})

    assert loss_of(teacher, utterances, targets, rows) < loss_of(stranger, utterances, targets, rows)


def test_rewritten_utterances_do_not_count(teacher: Checkpoint, utterances: list[Utterance]) -> None:
    targets = TeacherTargets([teacher], teacher.labels, utterances, temperature=1.0)

    assert loss_of(teacher, utterances, targets, [-1] * len(utterances)) == 0
    one = loss_of(teacher, utterances[:1], targets, [0])
    both = loss_of(teacher, utterances[:2], targets, [0, -1])
    assert both == pytest.approx(one, rel=1e-3)


def test_a_teacher_with_other_labels_is_refused(teacher: Checkpoint, sample: Path, utterances: list[Utterance]) -> None:
    other = labels_of(datasets.load(str(sample), ["de-DE"]).part("train")[:3])

    with pytest.raises(CheckpointError, match="other labels for domain, intent, slots"):
        TeacherTargets([teacher], other, utterances, temperature=1.0)


def test_a_student_with_its_own_tokenizer_learns_from_a_teacher(checkpoint: Path, sample: Path, tmp_path: Path) -> None:
    arguments = ["--size", "xs", "--epochs", "2", "--batch-size", "16", "--vocabulary", "300", "--threads", "1"]
    teacher = ["--teacher", str(checkpoint), "--temperature", "2", "--augmented-share", "0"]
    source = ["--data", str(sample), "--locales", "de-DE"]
    assert finetune.main([*source, *arguments, *teacher, "--out", str(tmp_path / "student")]) == 0

    student, expected = load_checkpoint(tmp_path / "student"), load_checkpoint(checkpoint)
    assert student.training["settings"]["teacher"] == checkpoint.name
    assert student.encoder.tokenizer.get_vocab_size() != expected.encoder.tokenizer.get_vocab_size()
