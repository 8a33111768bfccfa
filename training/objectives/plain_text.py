"""Plain sentences beside the labelled utterances of a step: text for imitating teachers, and out-of-scope text.

Out-of-scope text serves outlier exposure (Hendrycks, Mazeika and Dietterich, "Deep Anomaly Detection with Outlier
Exposure", ICLR 2019): a student trained on requests alone takes every sentence for a request, with high confidence.
"""

from __future__ import annotations

import random
import re
from array import array
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from service.student.tokenization import MAX_CHARACTERS_PER_TOKEN, TextEncoder
from training.models.batches import IGNORED, Batch, Example, Rows, collate, whole_of
from training.models.devices import split
from training.models.student import StudentOutput
from training.text.corpus import CorpusError, read_lines, sampled
from training.text.held_out import HeldOut

MAX_SENTENCES = 60_000  # of a source of out-of-scope text
NEIGHBOURS = 8  # a batch is drawn from the sentences of so many batches, of about equal length
OUT_OF_SCOPE_WEIGHT = 0.5  # of the loss on out-of-scope text beside that on requests, as in the paper
WORDS = range(2, 17)  # number of words of an out-of-scope sentence: as in requests


class PlainText:
    """Sentences without labels, in batches of about equal length.

    A batch depends on seed and step only, so that a resumed run sees the same. `texts` are in order of length.
    """

    def __init__(self, texts: Sequence[str], encoder: TextEncoder, batch_size: int, seed: tuple[int, ...]) -> None:
        """Encode at least as many texts as a step takes: `batch_size` for each process."""
        encoded = EncodedTexts(texts, encoder)
        self._order = np.argsort(encoded.lengths, kind="stable")
        self.texts = [texts[i] for i in self._order]
        self._encoded = encoded
        self._rows: Rows = np.full(len(texts), -1)
        self._seed, self._split = seed, split()
        self._a_step = batch_size * self._split.count

    @classmethod
    def to_imitate(
        cls, sources: Sequence[str], encoder: TextEncoder, batch_size: int, seed: int, held_out: HeldOut | None = None
    ) -> PlainText:
        """Sentences on which the student only imitates its teachers: each of the sources' once, but for those held out.

        Raises CorpusError: a source can't be read, or all hold fewer sentences than a step takes.
        """
        longest = MAX_CHARACTERS_PER_TOKEN * encoder.max_length  # the encoder cuts texts there
        texts = list(dict.fromkeys(text[:longest] for text in _allowed(sources, "unlabelled", held_out)))
        _require(sources, texts, "sentences", batch_size)
        return cls(texts, encoder, batch_size, (seed, 1))

    @classmethod
    def out_of_scope(
        cls, sources: Sequence[str], encoder: TextEncoder, batch_size: int, seed: int, held_out: HeldOut | None = None
    ) -> PlainText:
        """Out-of-scope sentences of 2 to 16 words, without those held out.

        Half of them have no capitals and punctuation, like speech.

        Raises CorpusError: a source can't be read, or all hold fewer such sentences than a step takes.
        """
        rng = random.Random(seed)
        texts: list[str] = []
        for source in sources:
            allowed = _allowed([source], "out_of_scope", held_out)
            lines = sampled((line for line in allowed if len(line.split()) in WORDS), rng, MAX_SENTENCES)
            texts += [re.sub(r"[^\w\s']", "", text.lower()) if rng.random() < 0.5 else text for text in lines]
        _require(sources, texts, f"sentences of {WORDS[0]} to {WORDS[-1]} words", batch_size)
        return cls(texts, encoder, batch_size, (seed,))

    def set_rows(self, rows: Rows) -> None:
        """Set the rows of `texts` among the teachers' targets."""
        self._rows = rows

    def batch(self, step: int, pad_id: int) -> Batch:
        """This process's part of the sentences of a step (from 0)."""
        seed = [self._seed[0], step, *self._seed[1:]]
        chosen = neighbours(len(self.texts), self._a_step, np.random.default_rng(seed))
        part = self._split.part_of(chosen)
        whole = whole_of([], self._rows[chosen], self._split)
        return collate([self._encoded.example(self._order[i]) for i in part], pad_id, self._rows[part], whole)


class EncodedTexts:
    """Encoded texts end to end in arrays: lists of Python numbers would take ten times the memory."""

    def __init__(self, texts: Iterable[str], encoder: TextEncoder) -> None:
        ids, first, lengths, words = array("i"), array("H"), array("i"), array("i")
        for text in texts:
            encoded = encoder.encode(text)
            ids.extend(encoded.ids)
            first.extend(encoded.first_tokens)
            lengths.append(len(encoded.ids))
            words.append(len(encoded.words))
        self._ids, self._first, self.lengths = (np.array(values, dtype=np.int32) for values in (ids, first, lengths))
        self._ends, self._word_ends = np.cumsum(self.lengths, dtype=np.int64), np.cumsum(words, dtype=np.int64)

    def example(self, i: int) -> Example:
        """Text i, without labels."""
        start, word = (int(ends[i - 1]) if i else 0 for ends in (self._ends, self._word_ends))
        ids = self._ids[start : self._ends[i]].tolist()
        return Example(ids, IGNORED, IGNORED, [IGNORED] * len(ids), self._first[word : self._word_ends[i]].tolist())


def _allowed(sources: Sequence[str], setting: str, held_out: HeldOut | None) -> Iterable[str]:
    lines = read_lines(sources)
    return held_out.without(lines, setting) if held_out else lines


def _require(sources: Sequence[str], texts: Sequence[str], what: str, batch_size: int) -> None:
    if len(texts) < (a_step := batch_size * split().count):
        raise CorpusError(f"{', '.join(sources)}: {len(texts)} {what}; a step needs {a_step}")


def neighbours(count: int, batch_size: int, rng: np.random.Generator) -> Rows:
    """`batch_size` of `count` places that lie near each other, in random order."""
    room = min(count, NEIGHBOURS * batch_size)
    first = int(rng.integers(0, count - room + 1))
    chosen: Rows = first + rng.choice(room, batch_size, replace=False)
    return chosen


def outlier_exposure_loss(output: StudentOutput) -> Tensor:
    """Cross entropy between the uniform distribution and the student's, mean over the batch; domain and intent summed.

    A scalar. Slots have no such loss: an out-of-scope sentence may well contain a date or a place.
    """
    heads = [logits for logits in (output.domain_logits, output.intent_logits) if logits is not None]
    return -torch.stack([logits.float().log_softmax(-1).mean() for logits in heads]).sum()
