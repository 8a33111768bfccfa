from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from service.student.student import Student
from service.student.tokenization import TextEncoder
from training import finetune
from training.data import datasets
from training.data.labels import labels_of
from training.data.utterances import Utterance
from training.models.batches import ExampleEncoder, collate
from training.models.checkpoint import Checkpoint, load_checkpoint, load_resume_state
from training.models.errors import CheckpointError
from training.models.student import StudentModel, StudentOutput
from training.objectives.plain_text import PlainText
from training.objectives.task_distillation import TeacherTargets, distillation_loss, open_teacher, pair_words
from training.text.tokenizer import new_tokenizer


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


def targets_of(
    teachers: list[Checkpoint],
    utterances: list[Utterance],
    temperature: float = 1.0,
    encoder: TextEncoder | None = None,
) -> TeacherTargets:
    texts = [u.text for u in utterances]
    return TeacherTargets(teachers, teachers[0].labels, texts, encoder or teachers[0].encoder, temperature)


def test_an_exported_student_teaches_what_its_checkpoint_would(
    checkpoint: Path, student_folder: Path, utterances: list[Utterance]
) -> None:
    exported, original = (open_teacher(folder, torch.device("cpu")) for folder in (student_folder, checkpoint))
    assert isinstance(exported, Student)
    assert isinstance(original, Checkpoint)
    texts = [u.text for u in utterances]

    found, expected = (TeacherTargets([x], original.labels, texts, original.encoder, 1.0) for x in (exported, original))

    np.testing.assert_allclose(found.intent, expected.intent, atol=0.1)  # int8
    np.testing.assert_allclose(np.concatenate(found.slots), np.concatenate(expected.slots), atol=0.15)
    assert (found.intent != expected.intent).any()


def test_a_broken_student_is_refused_as_a_teacher(student_folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(student_folder, tmp_path / "broken")
    (broken / "model.onnx").write_bytes(b"")

    with pytest.raises(CheckpointError, match="broken"):
        open_teacher(broken, torch.device("cpu"))


def test_targets_are_probabilities_a_word(teacher: Checkpoint, utterances: list[Utterance]) -> None:
    targets = targets_of([teacher, teacher], utterances, 2.0)

    np.testing.assert_allclose(targets.intent.sum(axis=1), 1, atol=0.01)
    np.testing.assert_allclose(targets.domain.sum(axis=1), 1, atol=0.01)
    assert [len(slots) for slots in targets.slots] == [len(teacher.encoder.encode(u.text).words) for u in utterances]
    np.testing.assert_allclose(np.concatenate(targets.slots).sum(axis=1), 1, atol=0.01)


def test_the_teacher_itself_has_the_lowest_loss(teacher: Checkpoint, utterances: list[Utterance]) -> None:
    targets = targets_of([teacher], utterances)
    rows = list(range(len(utterances)))
    torch.manual_seed(0)
    stranger = Checkpoint(StudentModel(teacher.model.config).eval(), teacher.encoder, teacher.labels, {})

    assert loss_of(teacher, utterances, targets, rows) < loss_of(stranger, utterances, targets, rows)


def test_rewritten_utterances_do_not_count(teacher: Checkpoint, utterances: list[Utterance]) -> None:
    targets = targets_of([teacher], utterances)

    assert loss_of(teacher, utterances, targets, [-1] * len(utterances)) == 0
    one = loss_of(teacher, utterances[:1], targets, [0])
    both = loss_of(teacher, utterances[:2], targets, [0, -1])
    assert both == pytest.approx(one, rel=1e-3)


def test_a_teacher_with_other_labels_is_refused(teacher: Checkpoint, sample: Path, utterances: list[Utterance]) -> None:
    other = labels_of(datasets.load(str(sample), ["de-DE"]).part("train")[:3])

    with pytest.raises(CheckpointError, match="other labels for domain, intent, slots"):
        TeacherTargets([teacher], other, [u.text for u in utterances], teacher.encoder, 1.0)


def test_a_student_with_its_own_tokenizer_learns_from_a_teacher(checkpoint: Path, sample: Path, tmp_path: Path) -> None:
    arguments = ["--size", "xs", "--epochs", "2", "--batch-size", "16", "--vocabulary", "300", "--threads", "1"]
    teacher = ["--teacher", str(checkpoint), "--temperature", "2", "--augmented-share", "0"]
    source = ["--data", str(sample), "--locales", "de-DE"]
    assert finetune.main([*source, *arguments, *teacher, "--out", str(tmp_path / "student")]) == 0

    student, expected = load_checkpoint(tmp_path / "student"), load_checkpoint(checkpoint)
    assert student.training["settings"]["teacher"] == checkpoint.name
    assert student.encoder.tokenizer.get_vocab_size() != expected.encoder.tokenizer.get_vocab_size()


def word_encoder(pre_tokenizer: object, max_length: int = 64) -> TextEncoder:
    """Every word is one unknown token, so that only the split into words matters."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizer
    return TextEncoder(tokenizer, max_length)


SPLITS = st.sampled_from(
    [
        pre_tokenizers.WhitespaceSplit(),
        pre_tokenizers.BertPreTokenizer(),
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]),
        pre_tokenizers.Split("a", "isolated"),
        new_tokenizer().pre_tokenizer,
    ]
)
TEXTS = st.text("ab'!.,  é你9", max_size=30)


@given(TEXTS, SPLITS, SPLITS, st.integers(1, 20), st.integers(1, 20))
def test_words_of_any_two_tokenizers_pair_where_they_overlap(
    text: str, ours: object, theirs: object, our_length: int, their_length: int
) -> None:
    words = word_encoder(ours, our_length).encode(text).words
    others = word_encoder(theirs, their_length).encode(text).words

    for (start, end), pair in zip(words, pair_words(words, others), strict=True):
        overlapping = [i for i, (first, last) in enumerate(others) if first < end and start < last]
        covering = [i for i in overlapping if others[i][0] <= start]
        assert ([pair] if pair >= 0 else []) == (covering or overlapping)[:1]


def test_a_word_takes_what_the_teacher_says_of_the_word_that_covers_its_start(
    teacher: Checkpoint, utterances: list[Utterance]
) -> None:
    texts = ["wecke mich um 9:30 Uhr!", "l'album d'après, bitte"]
    finer = word_encoder(pre_tokenizers.BertPreTokenizer())
    labels = teacher.labels.slots
    expected = TeacherTargets([teacher], teacher.labels, texts, teacher.encoder, 1.0)

    found = TeacherTargets([teacher], teacher.labels, texts, finer, 1.0)

    theirs, ours = (x.encode(texts[1]).words for x in (teacher.encoder, finer))
    assert [texts[1][a:b] for a, b in theirs] == ["l'album", "d'après", ",", "bitte"]
    assert [texts[1][a:b] for a, b in ours] == ["l", "'", "album", "d", "'", "après", ",", "bitte"]
    for mine, yours in ((0, 0), (3, 1), (6, 2), (7, 3)):
        np.testing.assert_allclose(found.slots[1][mine], expected.slots[1][yours], atol=2e-3)
    for mine, yours in ((1, 0), (2, 0), (4, 1), (5, 1)):  # they continue what the teacher's word begins
        assert found.slots[1][mine][[i for i, tag in enumerate(labels) if tag[0] == "B"]].sum() == 0
        assert found.slots[1][mine][0] == pytest.approx(expected.slots[1][yours][0], abs=2e-3)
    np.testing.assert_array_equal(found.paired, [len(finer.encode(text).words) for text in texts])


def test_words_that_the_teacher_did_not_read_are_left_out(teacher: Checkpoint, utterances: list[Utterance]) -> None:
    short = Checkpoint(teacher.model, TextEncoder(teacher.encoder.tokenizer, 4), teacher.labels, {})
    lengths = [len(teacher.encoder.encode(u.text).words) for u in utterances]

    targets = targets_of([short], utterances, encoder=teacher.encoder)

    assert [len(slots) for slots in targets.slots] == lengths
    assert 0 < targets.paired.sum() < sum(lengths)
    assert loss_of(teacher, utterances, targets, list(range(len(utterances)))) > 0


def test_padding_and_unknown_tags_move_no_word(teacher: Checkpoint, utterances: list[Utterance]) -> None:
    targets = targets_of([teacher], utterances)
    strangers = copy.copy(teacher.labels)
    untagged = ExampleEncoder(teacher.encoder, strangers.model_copy(update={"slots": ("O",)}))
    rows = np.arange(len(utterances))
    batch = collate([untagged.encode(u) for u in utterances], 0, rows)
    with torch.no_grad():
        output = teacher.model(batch.input_ids, batch.attention_mask)
        loss = float(distillation_loss(output, batch, targets, slot_weight=2.0))

    assert loss == pytest.approx(loss_of(teacher, utterances, targets, list(rows)))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    file = tmp_path / "plain.txt"
    file.write_text("\n".join(f"spiele lied {i} von der {'langen ' * (i % 3)}liste" for i in range(40)))
    return file


def test_unlabelled_batches_depend_on_seed_and_step_only(teacher: Checkpoint, plain: Path) -> None:
    one, other = (PlainText.to_imitate([str(plain)], teacher.encoder, 8, 3, first_row=100) for _ in range(2))

    batch, again, later = one.batch(5, 0), other.batch(5, 0), one.batch(6, 0)
    assert torch.equal(batch.input_ids, again.input_ids)
    assert sorted(batch.rows) != sorted(later.rows)
    assert batch.rows.min() >= 100
    assert [one.texts[i - 100] for i in batch.rows] == [other.texts[i - 100] for i in again.rows]
    assert bool((batch.slots == -100).all())
    assert batch.first.sum(dim=1).tolist() == [len(one.texts[i - 100].split()) for i in batch.rows]


def unlabelled_run(checkpoint: Path, sample: Path, plain: Path, out: Path, *more: str) -> list[str]:
    arguments = ["--locales", "de-DE", "--size", "xs", "--epochs", "2", "--batch-size", "16"]
    arguments += ["--vocabulary", "300", "--threads", "1", "--save-every", "3"]
    imitated = ["--teacher", str(checkpoint), "--unlabelled", str(plain), "--out", str(out)]
    return ["--data", str(sample), *arguments, *imitated, *more]


def test_a_run_on_unlabelled_text_resumes_to_the_same_weights(
    checkpoint: Path, sample: Path, plain: Path, tmp_path: Path
) -> None:
    whole, killed, without = (tmp_path / name for name in ("whole", "killed", "without"))
    assert finetune.main(unlabelled_run(checkpoint, sample, plain, whole)) == 0
    assert finetune.main(unlabelled_run(checkpoint, sample, plain, without, "--unlabelled", "")) == 0
    command = [sys.executable, "-m", "training.finetune", *unlabelled_run(checkpoint, sample, plain, killed)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (killed / "resume.pt").exists() or not load_resume_state(killed)["progress"]["step"]:
            assert process.poll() is None, "the run ended before it could be killed"
    finally:
        process.kill()
        process.wait()

    assert finetune.main(["--out", str(killed), "--resume", "--threads", "1"]) == 0

    weights = [(folder / "model.safetensors").read_bytes() for folder in (whole, killed, without)]
    assert weights[0] == weights[1] != weights[2]
    assert json.loads((whole / "training.json").read_text())["settings"]["unlabelled"] == plain.name


def test_too_little_unlabelled_text_is_refused(
    checkpoint: Path, sample: Path, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--unlabelled-share", "4"]
    assert finetune.main(unlabelled_run(checkpoint, sample, plain, tmp_path / "out", *more)) == 2

    assert "40 sentences; a step needs 64" in capsys.readouterr().err
