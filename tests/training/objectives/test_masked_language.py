from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from torch import Tensor, nn

from service.student.manifest import Labels
from training.models.devices import ALONE, Split
from training.models.student import StudentConfig, StudentModel
from training.objectives.masked_language import (
    IGNORED,
    MaskedBatch,
    MaskedLanguageModel,
    MaskedText,
    held_out_scores,
    mask_tokens,
    masked_loss,
)
from training.text.lines import Lines, encode_lines
from training.text.tokenizer import SpecialIds, special_ids

CLOSING = 4
SPECIAL = SpecialIds(pad=0, unknown=1, first=2, mask=3, protected=(0, 1, 2, 3, CLOSING))
VOCABULARY = 50


def masked(input_ids: Tensor, share: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    return mask_tokens(input_ids, share, SPECIAL, VOCABULARY, torch.Generator().manual_seed(seed))


@given(st.integers(0, 1000), st.floats(0, 1))
def test_special_tokens_are_neither_chosen_nor_drawn(seed: int, share: float) -> None:
    torch.manual_seed(seed)
    input_ids = torch.randint(5, VOCABULARY, (8, 20))
    input_ids[:, 0], input_ids[:, 14], input_ids[:, 15:] = SPECIAL.first, CLOSING, SPECIAL.pad

    corrupted, targets = masked(input_ids, share, seed)

    chosen = targets != IGNORED
    assert bool(chosen.any())
    assert not bool(chosen[:, [0, *range(14, 20)]].any())
    assert torch.equal(targets[chosen], input_ids[chosen])
    assert torch.equal(corrupted[~chosen], input_ids[~chosen])
    assert set(corrupted[chosen].tolist()) <= {SPECIAL.mask, *range(5, VOCABULARY)}


def test_a_share_is_chosen_and_four_fifths_of_it_masked() -> None:
    corrupted, targets = masked(torch.full((200, 200), 7), 0.15)

    chosen = targets != IGNORED
    assert chosen.float().mean().item() == pytest.approx(0.15, abs=0.01)
    fates = corrupted[chosen]
    assert (fates == SPECIAL.mask).float().mean().item() == pytest.approx(0.8, abs=0.02)
    assert (fates == 7).float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert len(set(fates.tolist())) > 40


def test_one_token_is_chosen_where_the_share_gives_none() -> None:
    assert int((masked(torch.full((3, 9), 7), 0.0)[1] != IGNORED).sum()) == 1
    assert int((masked(torch.full((3, 9), 7), 1.0)[1] != IGNORED).sum()) == 27
    assert int((masked(torch.full((3, 9), SPECIAL.first), 0.5)[1] != IGNORED).sum()) == 0


@pytest.fixture(scope="module")
def text(hub_xlm_roberta: Path, sentences: list[str], tmp_path_factory: pytest.TempPathFactory) -> MaskedText:
    tokenizer = Tokenizer.from_file(str(hub_xlm_roberta / "tokenizer.json"))
    folder = tmp_path_factory.mktemp("masked") / "text"
    encode_lines(tokenizer, sentences, 32, folder)
    return MaskedText(Lines(folder, 1), special_ids(tokenizer), tokenizer.get_vocab_size(), 0.15, seed=1)


def test_a_batch_is_a_function_of_seed_and_step(text: MaskedText) -> None:
    rows = np.arange(20)
    first, again, next_one = (text.batch(rows, step, ALONE) for step in (7, 7, 8))

    assert torch.equal(first.input_ids, again.input_ids)
    assert torch.equal(first.targets, again.targets)
    assert not torch.equal(first.targets, next_one.targets)
    other = MaskedText(text.lines, text.special, text.vocabulary, text.share, seed=2).batch(rows, 7, ALONE)
    assert not torch.equal(first.targets, other.targets)


def test_what_closes_a_text_is_left_alone(text: MaskedText) -> None:
    batch = text.batch(np.arange(100), 0, ALONE)

    closing = batch.attention_mask.sum(dim=1) - 1
    rows = torch.arange(100)
    assert set(batch.input_ids[rows, closing].tolist()) == {2}  # </s>
    assert not bool(batch.chosen[rows, closing].any())
    assert not bool(batch.chosen[batch.attention_mask == 0].any())


@pytest.mark.parametrize("count", [2, 3])
def test_the_parts_of_processes_add_up_to_the_whole(text: MaskedText, count: int) -> None:
    rows = np.arange(20)
    whole = text.batch(rows, 3, ALONE)
    parts = [text.batch(rows, 3, Split(index, count)) for index in range(count)]

    table = torch.randn(text.vocabulary, text.vocabulary, generator=torch.Generator().manual_seed(0))

    def loss(batch: MaskedBatch, index: int, of: int) -> float:
        return float(masked_loss(table[batch.targets[batch.chosen]], batch, Split(index, of)))

    assert sorted(map(tuple, torch.cat([p.input_ids for p in parts]).tolist())) == sorted(
        map(tuple, whole.input_ids.tolist())
    )
    assert sum(int(p.chosen.sum()) for p in parts) == whole.total == parts[0].total
    mean = sum(loss(part, index, count) for index, part in enumerate(parts)) / count
    assert mean == pytest.approx(loss(whole, 0, 1), rel=1e-5)


def test_each_process_has_something_where_rows_are_few(text: MaskedText) -> None:
    parts = [text.batch(np.array([5]), 0, Split(index, 2)) for index in (0, 1)]

    assert [len(part.input_ids) for part in parts] == [1, 1]
    assert [part.total for part in parts] == [sum(int(part.chosen.sum()) for part in parts)] * 2


def test_held_out_lines_have_the_same_masks_each_time(text: MaskedText) -> None:
    first, again = text.held_out(), text.held_out()

    assert sum(len(batch.input_ids) for batch in first) == len(text.lines.held_out) == 110
    assert all(torch.equal(a.input_ids, b.input_ids) for a, b in zip(first, again, strict=True))


def test_scores_are_of_the_lines_held_out(text: MaskedText) -> None:
    torch.manual_seed(0)
    config = StudentConfig.of_size("xs", Labels(), vocab_size=text.vocabulary, masked=True)
    model = MaskedLanguageModel(StudentModel(config)).train()

    scores = held_out_scores(model, text, "fp32")

    assert scores["held_out_loss"] == pytest.approx(np.log(text.vocabulary), abs=0.4)
    assert model.training


def test_a_text_too_short_to_hold_anything_out_has_no_scores(text: MaskedText, tmp_path: Path) -> None:
    encode_lines(
        Tokenizer.from_str('{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}'),
        ["a"],
        9,
        tmp_path / "x",
    )
    short = MaskedText(Lines(tmp_path / "x", 1), text.special, text.vocabulary, 0.15, 1)

    assert held_out_scores(MaskedLanguageModel(nn.Linear(1, 1)), short, "fp32") == {}
