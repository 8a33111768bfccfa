from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from service.student.manifest import Labels
from training.models.devices import ALONE, Split
from training.models.student import StudentConfig, StudentModel
from training.objectives import masked_teacher
from training.objectives.losses import kl
from training.objectives.masked_language import MaskedText
from training.objectives.masked_teacher import Kept, MaskedTeacher
from training.text.lines import Lines, encode_lines
from training.text.tokenizer import special_ids

ROWS = np.array([3, 170, 40, 41, 5])
TEMPERATURE = 2.0


@pytest.fixture(scope="module")
def text(hub_xlm_roberta: Path, sentences: list[str], tmp_path_factory: pytest.TempPathFactory) -> MaskedText:
    tokenizer = Tokenizer.from_file(str(hub_xlm_roberta / "tokenizer.json"))
    folder = tmp_path_factory.mktemp("masked") / "text"
    encode_lines(tokenizer, sentences[:200], 32, folder)
    return MaskedText(Lines(folder, 1), special_ids(tokenizer), tokenizer.get_vocab_size(), 0.15, seed=1)


def model_of(text: MaskedText, seed: int) -> StudentModel:
    torch.manual_seed(seed)
    model = StudentModel(StudentConfig.of_size("xs", Labels(), vocab_size=text.vocabulary, masked=True)).eval()
    torch.nn.init.normal_(model.token_embeddings.weight, std=0.3)  # predictions that are not all alike
    return model


@pytest.fixture(scope="module")
def teacher(text: MaskedText) -> StudentModel:
    return model_of(text, 0)


def cache_of(folder: Path, text: MaskedText, k: int, digest: str = "teacher") -> MaskedTeacher:
    return MaskedTeacher(folder, digest, text, Kept(0.15, k, TEMPERATURE))


def filled(folder: Path, text: MaskedText, teacher: StudentModel, k: int, variants: int = 1) -> MaskedTeacher:
    cache = cache_of(folder, text, k)
    cache.add(teacher, variants, "fp32")
    return cache


def logits_of(model: StudentModel, batch: masked_teacher.TaughtBatch) -> torch.Tensor:
    masked = batch.masked
    with torch.inference_mode():
        return model.token_logits(model(masked.input_ids, masked.attention_mask).last_hidden_state[masked.chosen])


def test_with_the_whole_vocabulary_the_loss_is_the_live_one(
    text: MaskedText, teacher: StudentModel, tmp_path: Path
) -> None:
    cache, student = filled(tmp_path, text, teacher, k=10**6), model_of(text, 1)

    batch = cache.batch(ROWS, 0, ALONE)

    live = kl(logits_of(student, batch), logits_of(teacher, batch), TEMPERATURE)
    assert cache.k == text.vocabulary
    assert batch.soft_loss(logits_of(student, batch), TEMPERATURE).item() == pytest.approx(live.item(), rel=2e-3)
    assert live.item() > 0.1


def test_with_some_tokens_the_others_count_as_one(text: MaskedText, teacher: StudentModel, tmp_path: Path) -> None:
    cache, student = filled(tmp_path, text, teacher, k=5), model_of(text, 1)

    batch = cache.batch(ROWS, 0, ALONE)

    p, q = ((logits_of(model, batch) / TEMPERATURE).softmax(-1) for model in (teacher, student))
    expected = 0.0
    for theirs, ours in zip(p, q, strict=True):
        best = theirs.topk(5).indices
        pairs = [*zip(theirs[best], ours[best], strict=True), (1 - theirs[best].sum(), 1 - ours[best].sum())]
        expected += sum(float(a * (a / b).log()) for a, b in pairs)
    expected *= TEMPERATURE**2 / len(p)
    found = batch.soft_loss(logits_of(student, batch), TEMPERATURE).item()
    assert found == pytest.approx(expected, rel=5e-3)
    assert found <= kl(logits_of(student, batch), logits_of(teacher, batch), TEMPERATURE).item()
    assert 0 < cache.mass < 1


def test_masks_are_those_of_the_lines_and_differ_between_variants(
    text: MaskedText, teacher: StudentModel, tmp_path: Path
) -> None:
    cache = filled(tmp_path, text, teacher, k=2, variants=2)

    first, again, other = (cache.batch(ROWS, variant, ALONE).masked for variant in (0, 0, 1))

    plain, attention = text.lines.batch(ROWS, text.special.pad)
    assert torch.equal(first.attention_mask, attention)
    assert torch.equal(first.targets[first.chosen], plain[first.chosen])
    assert torch.equal(first.input_ids[~first.chosen], plain[~first.chosen])
    assert torch.equal(first.input_ids, again.input_ids)
    assert not torch.equal(first.chosen, other.chosen)
    everything = cache.batch(np.arange(len(text.lines)), 1, ALONE).masked
    assert everything.chosen.sum() / everything.attention_mask.sum() == pytest.approx(0.15, abs=0.03)
    with pytest.raises(IndexError, match="variant 2; there are 2"):
        cache.batch(ROWS, 2, ALONE)


def test_the_parts_of_processes_add_up_to_the_whole(text: MaskedText, teacher: StudentModel, tmp_path: Path) -> None:
    cache = filled(tmp_path, text, teacher, k=2)

    whole, parts = cache.batch(ROWS, 0, ALONE), [cache.batch(ROWS, 0, Split(i, 2)) for i in (0, 1)]

    assert sum(len(part.tokens) for part in parts) == len(whole.tokens) == whole.masked.total
    assert {part.masked.total for part in parts} == {whole.masked.total}


def test_an_interrupted_cache_is_continued_and_a_finished_one_reads_nothing(
    text: MaskedText, teacher: StudentModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masked_teacher, "PART", 64)
    whole = filled(tmp_path / "whole", text, teacher, k=3, variants=2)
    cut = filled(tmp_path / "cut", text, teacher, k=3, variants=2)
    (folder,) = (tmp_path / "cut").iterdir()
    for name, lost in (("ends", 8 * 100 + 3), ("tokens", 5), ("shown", 1)):  # as a killed run may leave them
        with (folder / name).open("r+b") as stream:
            stream.truncate((folder / name).stat().st_size - lost)

    again = cache_of(tmp_path / "cut", text, 3)
    assert again.variants == 1
    again.add(teacher, 2, "fp32")

    for name in ("shown", "chosen", "tokens", "log_p", "ends"):
        assert np.array_equal(getattr(again, name), getattr(whole, name)), name
    again.add(None, 2)  # no teacher is asked
    assert cut.k == 3


def test_another_teacher_text_or_setting_has_a_cache_of_its_own(
    text: MaskedText, teacher: StudentModel, tmp_path: Path
) -> None:
    filled(tmp_path, text, teacher, k=3)

    assert cache_of(tmp_path, text, 3).variants == 1
    assert cache_of(tmp_path, text, 3, "another").variants == 0
    assert cache_of(tmp_path, text, 4).variants == 0
    other = MaskedTeacher(tmp_path, "teacher", text, Kept(0.15, 3, 1.0))
    assert other.variants == 0
