from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from service.student.manifest import Labels
from service.student.student import Student
from service.student.tokenization import TextEncoder
from training import finetune
from training.data import datasets
from training.data.utterances import Utterance
from training.models.batches import EpochData, Example, ExampleEncoder, collate
from training.models.checkpoint import Checkpoint, load_checkpoint, load_resume_state
from training.models.errors import CheckpointError
from training.models.student import StudentModel, StudentOutput
from training.objectives.losses import PREDICTION_LOSSES
from training.objectives.plain_text import PlainText
from training.objectives.task_distillation import Imitation, TeacherTargets, pair_words
from training.objectives.teacher_logits import TeacherLogits, digest_of, labels_of_teacher, open_teacher
from training.text.tokenizer import new_tokenizer


@pytest.fixture(scope="module")
def teacher(checkpoint: Path) -> Checkpoint:
    return load_checkpoint(checkpoint)


@pytest.fixture(scope="module")
def utterances(sample: Path) -> list[Utterance]:
    return datasets.load(str(sample), ["de-DE"]).part("train")[:40]


KL = Imitation("kl")


def loss_of(
    student: Checkpoint, utterances: list[Utterance], targets: TeacherTargets, imitation: Imitation = KL
) -> float:
    examples = ExampleEncoder(student.encoder, student.labels)
    rows = targets.rows_of([u.text for u in utterances])
    batch = collate([examples.encode(u) for u in utterances], 0, rows)
    with torch.no_grad():
        output: StudentOutput = student.model(batch.input_ids, batch.attention_mask)
        return float(imitation(output, batch, targets))


def targets_of(
    teachers: list[Checkpoint] | list[Student],
    texts: list[str],
    folder: Path,
    encoder: TextEncoder | None = None,
    labels: Labels | None = None,
) -> TeacherTargets:
    logits = [TeacherLogits(folder / str(i), labels_of_teacher(teacher)) for i, teacher in enumerate(teachers)]
    for read, teacher in zip(logits, teachers, strict=True):
        read.add(teacher, texts)
    return TeacherTargets(logits, labels or logits[0].labels, texts, encoder or teachers[0].encoder)


@pytest.fixture
def texts(utterances: list[Utterance]) -> list[str]:
    return [u.text for u in utterances]


def test_an_exported_student_teaches_what_its_checkpoint_would(
    checkpoint: Path, student_folder: Path, texts: list[str], tmp_path: Path
) -> None:
    exported, original = (open_teacher(folder, torch.device("cpu")) for folder in (student_folder, checkpoint))
    assert isinstance(exported, Student)
    assert isinstance(original, Checkpoint)

    found, expected = (
        targets_of([x], texts, tmp_path / type(x).__name__, original.encoder, original.labels)  # type: ignore[list-item]
        for x in (exported, original)
    )

    rows = found.rows_of(texts)
    np.testing.assert_allclose(found.of_texts("intent", rows), expected.of_texts("intent", rows), atol=1)  # int8
    np.testing.assert_allclose(found.of_words(rows)[0], expected.of_words(rows)[0], atol=1)
    assert (found.of_texts("intent", rows) != expected.of_texts("intent", rows)).any()


def test_a_broken_student_is_refused_as_a_teacher(student_folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(student_folder, tmp_path / "broken")
    (broken / "model.onnx").write_bytes(b"")

    with pytest.raises(CheckpointError, match="broken"):
        open_teacher(broken, torch.device("cpu"))


def test_targets_are_the_teachers_mean_logits(
    teacher: Checkpoint, utterances: list[Utterance], texts: list[str], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    other = Checkpoint(StudentModel(teacher.model.config).eval(), teacher.encoder, teacher.labels, {})
    targets = targets_of([teacher, other], texts, tmp_path)
    batch = collate([Example.of_text(teacher.encoder.encode(text)) for text in texts], 0)
    with torch.inference_mode():
        outputs = [x.model(batch.input_ids, batch.attention_mask) for x in (teacher, other)]

    rows = targets.rows_of(texts)
    for head, name in (("domain", "domain_logits"), ("intent", "intent_logits")):
        mean = torch.stack([output[name] for output in outputs]).mean(dim=0)
        np.testing.assert_allclose(targets.of_texts(head, rows), mean.numpy(), atol=0.05)
    found, read = targets.of_words(rows)
    mean = torch.stack([output.slot_logits[batch.first] for output in outputs]).mean(dim=0)
    np.testing.assert_allclose(found, mean.numpy(), atol=0.05)
    assert read.all()
    assert targets.paired[rows].sum() == len(read) == int(batch.first.sum())


@pytest.mark.parametrize("loss", PREDICTION_LOSSES)
def test_the_teacher_itself_has_the_lowest_loss(
    teacher: Checkpoint, utterances: list[Utterance], texts: list[str], tmp_path: Path, loss: str
) -> None:
    targets = targets_of([teacher], texts, tmp_path)
    torch.manual_seed(0)
    stranger = Checkpoint(StudentModel(teacher.model.config).eval(), teacher.encoder, teacher.labels, {})
    imitation = Imitation(loss, temperature=2.0)

    assert loss_of(teacher, utterances, targets, imitation) < loss_of(stranger, utterances, targets, imitation)


def test_the_loss_of_a_text_does_not_depend_on_the_order(
    teacher: Checkpoint, utterances: list[Utterance], texts: list[str], tmp_path: Path
) -> None:
    targets = targets_of([teacher], [*texts, *texts[::-1]], tmp_path)
    torch.manual_seed(0)
    stranger = Checkpoint(StudentModel(teacher.model.config).eval(), teacher.encoder, teacher.labels, {})

    forward, backward = (loss_of(stranger, order, targets) for order in (utterances, utterances[::-1]))

    assert forward == pytest.approx(backward, rel=1e-5)


def test_a_text_that_no_teacher_has_read_has_no_row(teacher: Checkpoint, texts: list[str], tmp_path: Path) -> None:
    targets = targets_of([teacher], texts, tmp_path)

    with pytest.raises(KeyError):
        targets.rows_of([texts[0], "something else"])


def test_a_student_with_fewer_labels_in_another_order_learns_those(
    teacher: Checkpoint, texts: list[str], tmp_path: Path
) -> None:
    has = teacher.labels
    fewer = Labels(domain=has.domain[::-1], intent=has.intent[1:], slots=has.slots[:3])
    targets, whole = (targets_of([teacher], texts, tmp_path, labels=labels) for labels in (fewer, has))
    rows = whole.rows_of(texts)

    np.testing.assert_array_equal(targets.of_texts("domain", rows), whole.of_texts("domain", rows)[:, ::-1])
    np.testing.assert_array_equal(targets.of_texts("intent", rows), whole.of_texts("intent", rows)[:, 1:])
    np.testing.assert_array_equal(targets.of_words(rows)[0], whole.of_words(rows)[0][:, :3])


def test_a_teacher_that_lacks_a_label_is_refused(teacher: Checkpoint, texts: list[str], tmp_path: Path) -> None:
    more = teacher.labels.model_copy(update={"intent": (*teacher.labels.intent, "new_intent")})

    with pytest.raises(CheckpointError, match="lacks labels of the training data: intent new_intent"):
        targets_of([teacher], texts, tmp_path, labels=more)


def test_a_teacher_reads_a_text_once(teacher: Checkpoint, texts: list[str], tmp_path: Path) -> None:
    logits = TeacherLogits(tmp_path, teacher.labels)
    logits.add(teacher, [*texts[:30], *texts[:10]])
    before = logits.intent.tobytes()
    assert len(logits.keys) == len(set(texts[:30]))

    logits.add(teacher, texts[:30])
    assert logits.intent.tobytes() == before

    logits.add(teacher, texts)
    assert len(logits.keys) == len(set(texts))
    assert logits.intent.tobytes().startswith(before)


def test_records_that_an_interrupted_call_left_incomplete_are_made_again(
    teacher: Checkpoint, texts: list[str], tmp_path: Path
) -> None:
    whole, broken = (TeacherLogits(tmp_path / name, teacher.labels) for name in ("whole", "broken"))
    for logits in (whole, broken):
        logits.add(teacher, texts[:20])
        logits.add(teacher, texts)
    keys = tmp_path / "broken" / "keys"
    keys.write_bytes(keys.read_bytes()[: 8 * 20 + 3])

    again = TeacherLogits(tmp_path / "broken", teacher.labels)
    assert len(again.keys) == 20
    again.add(teacher, texts)

    for file in ("keys", "ends", "words", "domain", "intent", "slots"):
        assert (tmp_path / "broken" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_the_digest_is_of_what_decides_the_answers(checkpoint: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(checkpoint, tmp_path / "copied")
    (copied / "training.json").write_text("{}")
    assert digest_of(copied) == digest_of(checkpoint)

    (copied / "tokenizer.json").write_text("{}")
    assert digest_of(copied) != digest_of(checkpoint)


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
    teacher: Checkpoint, tmp_path: Path
) -> None:
    texts = ["wecke mich um 9:30 Uhr!", "l'album d'après, bitte"]
    finer = word_encoder(pre_tokenizers.BertPreTokenizer())
    labels = teacher.labels.slots
    expected, found = (targets_of([teacher], texts, tmp_path, encoder) for encoder in (teacher.encoder, finer))

    theirs, ours = (x.encode(texts[1]).words for x in (teacher.encoder, finer))
    assert [texts[1][a:b] for a, b in theirs] == ["l'album", "d'après", ",", "bitte"]
    assert [texts[1][a:b] for a, b in ours] == ["l", "'", "album", "d", "'", "après", ",", "bitte"]
    (given, _), (taught, read) = expected.of_words(np.array([1])), found.of_words(np.array([1]))
    assert read.all()
    for mine, yours in ((0, 0), (3, 1), (6, 2), (7, 3)):
        np.testing.assert_array_equal(taught[mine], given[yours])
    begin = [i for i, tag in enumerate(labels) if tag[0] == "B"]
    inside = [i for i, tag in enumerate(labels) if tag[0] == "I"]
    for mine, yours in ((1, 0), (2, 0), (4, 1), (5, 1)):  # they continue what the teacher's word begins
        before, after = (np.exp(x) / np.exp(x).sum() for x in (given[yours], taught[mine]))
        assert (taught[mine][begin] == taught[mine].min()).all()
        assert after[inside].sum() == pytest.approx(before[begin].sum() + before[inside].sum(), abs=0.05)
        assert after[0] == pytest.approx(before[0], abs=0.05)
    rows = np.arange(2)
    np.testing.assert_array_equal(found.paired[rows], [len(finer.encode(text).words) for text in texts])


def test_words_that_the_teacher_did_not_read_are_left_out(
    teacher: Checkpoint, utterances: list[Utterance], texts: list[str], tmp_path: Path
) -> None:
    short = Checkpoint(teacher.model, TextEncoder(teacher.encoder.tokenizer, 4), teacher.labels, {})
    lengths = [len(teacher.encoder.encode(text).words) for text in texts]

    targets = targets_of([short], texts, tmp_path, teacher.encoder)

    logits, read = targets.of_words(targets.rows_of(texts))
    assert len(read) == sum(lengths)
    assert not logits[~read].any()
    assert 0 < targets.paired[targets.rows_of(texts)].sum() == read.sum() < sum(lengths)
    assert loss_of(teacher, utterances, targets) > 0


def test_padding_and_unknown_tags_move_no_word(
    teacher: Checkpoint, utterances: list[Utterance], texts: list[str], tmp_path: Path
) -> None:
    targets = targets_of([teacher], texts, tmp_path)
    strangers = copy.copy(teacher.labels)
    untagged = ExampleEncoder(teacher.encoder, strangers.model_copy(update={"slots": ("O",)}))
    batch = collate([untagged.encode(u) for u in utterances], 0, targets.rows_of(texts))
    with torch.no_grad():
        output = teacher.model(batch.input_ids, batch.attention_mask)
        loss = float(Imitation("kl")(output, batch, targets))

    assert loss == pytest.approx(loss_of(teacher, utterances, targets))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    file = tmp_path / "plain.txt"
    file.write_text("\n".join(f"spiele lied {i} von der {'langen ' * (i % 3)}liste" for i in range(40)))
    return file


def test_unlabelled_batches_depend_on_seed_and_step_only(teacher: Checkpoint, plain: Path) -> None:
    one, other = (PlainText.to_imitate([str(plain)], teacher.encoder, 8, 3) for _ in range(2))
    for each in (one, other):
        each.set_rows(np.arange(100, 140))

    batch, again, later = one.batch(5, 0), other.batch(5, 0), one.batch(6, 0)
    assert torch.equal(batch.input_ids, again.input_ids)
    assert sorted(batch.rows) != sorted(later.rows)
    assert [one.texts[i - 100] for i in batch.rows] == [other.texts[i - 100] for i in again.rows]
    assert bool((batch.slots == -100).all())
    assert batch.first.sum(dim=1).tolist() == [len(one.texts[i - 100].split()) for i in batch.rows]
    expected = [teacher.encoder.encode(one.texts[i - 100]).ids for i in batch.rows]
    assert [row[: len(ids)].tolist() for row, ids in zip(batch.input_ids, expected, strict=True)] == expected


def test_the_teachers_read_every_variant_of_every_epoch(checkpoint: Path, sample: Path, tmp_path: Path) -> None:
    teacher = load_checkpoint(checkpoint)
    utterances = datasets.load(str(sample), ["de-DE"]).part("train")
    encoder = ExampleEncoder(teacher.encoder, teacher.labels)
    epochs = EpochData(utterances, encoder, 16, 0.5, seed=1, substituted_share=0.5, views=2)
    views = [[variant.text for variant in epochs.variants(view)] for view in range(2)]
    targets = targets_of([teacher], [text for view in views for text in view], tmp_path)

    assert views[0] != views[1]
    for epoch in range(4):
        rows = np.concatenate([batch.rows for batch in epochs.batches(epoch, 0, rows_of=targets.rows_of)])
        assert sorted(rows) == sorted(targets.rows_of(views[epoch % 2]))


def test_a_cache_of_logits_serves_further_runs(checkpoint: Path, sample: Path, plain: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    more = ["--teacher-cache", str(cache), "--teacher-weight", "1", "--views", "1"]
    assert finetune.main(unlabelled_run(checkpoint, sample, plain, tmp_path / "first", *more)) == 0
    file = cache / digest_of(checkpoint) / "keys"
    read = file.read_bytes()

    assert finetune.main(unlabelled_run(checkpoint, sample, plain, tmp_path / "second", *more)) == 0

    assert file.read_bytes() == read
    assert len(read) > 8 * 40
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second")]
    assert weights[0] == weights[1]
    assert not (tmp_path / "first" / ".teacher").exists()


def unlabelled_run(checkpoint: Path, sample: Path, plain: Path, out: Path, *more: str) -> list[str]:
    arguments = ["--locales", "de-DE", "--size", "xs", "--epochs", "2", "--batch-size", "16"]
    arguments += ["--vocabulary", "300", "--threads", "1", "--save-every", "3"]
    imitated = ["--teacher", str(checkpoint), "--unlabelled", str(plain), "--out", str(out)]
    return ["--data", str(sample), *arguments, *imitated, *more]


def test_a_run_on_unlabelled_text_resumes_to_the_same_weights(
    checkpoint: Path, sample: Path, plain: Path, tmp_path: Path, kill_when: Callable[..., bool]
) -> None:
    whole, killed, without = (tmp_path / name for name in ("whole", "killed", "without"))
    assert finetune.main(unlabelled_run(checkpoint, sample, plain, whole)) == 0
    assert finetune.main(unlabelled_run(checkpoint, sample, plain, without, "--unlabelled", "")) == 0

    def has_saved_a_step() -> bool:
        return (killed / "resume.pt").exists() and load_resume_state(killed)["progress"]["step"] > 0

    assert kill_when(finetune.main, unlabelled_run(checkpoint, sample, plain, killed), has_saved_a_step)
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
