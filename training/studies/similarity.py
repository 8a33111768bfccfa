"""Similarity of two texts, and accuracy of a masked language model on a text."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import rel_entr  # type: ignore[import-untyped,unused-ignore]
from tokenizers import Tokenizer

from service.student.tokenization import TextEncoder
from training.models.devices import autocast_of
from training.text.lines import padded
from training.text.tokenizer import special_ids

ROWS = 256  # of a batch

Question = tuple[list[int], list[int]]  # token ids, and the masked positions


def token_counts(tokenizer: Tokenizer, texts: Iterable[str]) -> NDArray[np.int64]:
    """Counts of the vocabulary's tokens in the texts, [vocabulary]; special tokens are not counted."""
    counts = np.zeros(tokenizer.get_vocab_size(), dtype=np.int64)
    iterator = iter(texts)
    while chunk := list(islice(iterator, 10_000)):
        for encoding in tokenizer.encode_batch_fast(chunk, add_special_tokens=False):
            np.add.at(counts, encoding.ids, 1)
    return counts


def divergence(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Jensen-Shannon divergence (Lin 1991) of two distributions given by counts [outcomes]; bits, 0 (equal) to 1.

    Raises ValueError: all counts of one are 0.
    """
    if not first.sum() or not second.sum():
        raise ValueError("a text without tokens has no distribution")
    p, q = first / first.sum(), second / second.sum()
    return float((rel_entr(p, (p + q) / 2).sum() + rel_entr(q, (p + q) / 2).sum()) / (2 * math.log(2)))


def masked_word_accuracy(
    model: Any, encoder: TextEncoder, texts: Sequence[str], share: float = 0.15, seed: int = 0
) -> tuple[int, int]:
    """The number of masked words that the model predicts right (all their tokens), and of masked words.

    Of each text a `share` of the words is masked, at least one.
    """
    rng = random.Random(seed)
    closing = len(encoder.encode("").ids) > 1  # whether a special token ends every text

    def questions() -> Iterator[Question]:
        for text in texts:
            encoded = encoder.encode(text)
            count = len(encoded.first_tokens)
            ends = [*encoded.first_tokens[1:], len(encoded.ids) - closing]
            for word in rng.sample(range(count), max(1, round(share * count))) if count else ():
                yield encoded.ids, list(range(encoded.first_tokens[word], ends[word]))

    found = list(_predicted(model, encoder, questions()))
    return sum(found), len(found)


def _predicted(model: Any, encoder: TextEncoder, questions: Iterator[Question]) -> Iterator[bool]:
    """Whether all predictions at the masked positions of each question are right."""
    special, device = special_ids(encoder.tokenizer), next(model.parameters()).device
    model.eval()
    while chunk := list(islice(questions, ROWS)):
        input_ids, mask = padded([ids for ids, _ in chunk], special.pad)
        hidden = torch.zeros(input_ids.shape, dtype=torch.bool)
        for row, (_, positions) in enumerate(chunk):
            hidden[row, positions] = True
        shown = input_ids.masked_fill(hidden, special.mask)
        with torch.inference_mode(), autocast_of("auto", device):
            states = model(shown.to(device), mask.to(device)).last_hidden_state
            logits = model.token_logits(states[hidden.to(device)]).float()
        targets = input_ids[hidden].to(device)
        right = (logits.argmax(-1) == targets).cpu()
        rows = hidden.nonzero()[:, 0]
        for row in range(len(chunk)):
            yield bool(right[rows == row].all())
