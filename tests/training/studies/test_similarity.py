from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional

from service.student.tokenization import TextEncoder
from training.data import datasets
from training.studies.similarity import divergence, masked_word_accuracy, token_counts
from training.text.tokenizer import special_ids, train_tokenizer

TEXTS = ["weck mich am freitag um neun uhr auf", "wie wird das wetter", "licht"]
UNREADABLE = "licht ☺"  # its last word has no token
counts = st.lists(st.integers(0, 50), min_size=6, max_size=6).filter(any).map(np.array)


@pytest.fixture(scope="module")
def encoder(sample: Path) -> TextEncoder:
    texts = [u.text for u in datasets.load(str(sample), ["de-DE"]).part("train")]
    return TextEncoder(train_tokenizer(texts, 300), 64)


@given(counts, counts)
def test_divergence_is_symmetric_between_0_and_1_bit(first: NDArray[np.int64], second: NDArray[np.int64]) -> None:
    assert divergence(first, second) == pytest.approx(divergence(second, first))
    assert -1e-9 <= divergence(first, second) <= 1 + 1e-9
    assert divergence(first, 3 * first) == pytest.approx(0)


def test_divergence_of_a_hand_computed_case() -> None:
    # p = (1/2, 1/2), q = (1, 0): middle (3/4, 1/4)
    expected = (0.5 * math.log2(0.5 / 0.75) + 0.5 * math.log2(0.5 / 0.25) + math.log2(1 / 0.75)) / 2

    assert divergence(np.array([1, 1]), np.array([5, 0])) == pytest.approx(expected)
    assert divergence(np.array([1, 0]), np.array([0, 1])) == pytest.approx(1)


def test_a_text_without_tokens_has_no_distribution() -> None:
    with pytest.raises(ValueError, match="no distribution"):
        divergence(np.zeros(3), np.ones(3))


def test_tokens_are_counted_without_special_ones(encoder: TextEncoder) -> None:
    found = token_counts(encoder.tokenizer, TEXTS)

    assert found.sum() == sum(len(encoder.encode(text).ids) - 1 for text in TEXTS)
    assert found[list(special_ids(encoder.tokenizer).protected)].sum() <= found[1]  # unknown tokens alone


def test_a_model_that_knows_everything_finds_every_word(encoder: TextEncoder) -> None:
    class Knowing(torch.nn.Module):
        """Answers with what was hidden, which it was told before."""

        def __init__(self, wrong: int | None = None) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))
            self.wrong = wrong

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> object:
            known = [encoder.encode(text).ids for text in (*TEXTS, UNREADABLE)]
            rows = []
            for ids, there in zip(input_ids.tolist(), attention_mask.tolist(), strict=True):
                shown = ids[: sum(there)]
                fitting = [
                    k for k in known if len(k) == len(shown) and all(a in (b, 3) for a, b in zip(shown, k, strict=True))
                ]
                rows.append(fitting[0] + [0] * (len(ids) - len(shown)))
            states = torch.tensor(rows)[:, :, None].float()
            return type("Output", (), {"last_hidden_state": states})

        def token_logits(self, hidden: torch.Tensor) -> torch.Tensor:
            ids = hidden[:, 0].long()
            if self.wrong is not None:
                ids = torch.where(ids == self.wrong, ids + 1, ids)
            return functional.one_hot(ids, encoder.tokenizer.get_vocab_size() + 1).float()

    right, asked = masked_word_accuracy(Knowing(), encoder, TEXTS, share=1.0)
    assert right == asked == sum(len(text.split()) for text in TEXTS)

    unknown = special_ids(encoder.tokenizer).unknown
    assert masked_word_accuracy(Knowing(unknown), encoder, [UNREADABLE], share=1.0) == (1, 2)

    some_token = encoder.encode("licht").ids[-1]
    right, asked = masked_word_accuracy(Knowing(some_token), encoder, TEXTS, share=1.0)
    holding = sum(some_token in encoder.encode(word).ids for text in TEXTS for word in text.split())
    assert right == asked - holding
