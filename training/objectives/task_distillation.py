"""Task distillation: a student imitates fine-tuned teachers on every text that it reads (Hinton et al. 2015).

Slots are aligned by word, through character offsets, so that teacher and student may have different tokenizers. Several
teachers are an ensemble: the student imitates the mean of their logits, the normalised geometric mean of their
probabilities. Centred logits and probabilities at any temperature follow from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.student.manifest import Labels
from service.student.tokenization import TextEncoder
from training.models.batches import Batch, Rows
from training.models.errors import CheckpointError
from training.models.student import StudentOutput
from training.objectives.losses import PREDICTION_LOSSES
from training.objectives.teacher_logits import POOLED, Keys, TeacherLogits, keys_of

Word = tuple[int, int]
Logits = NDArray[np.float32]


class TeacherTargets:
    """The mean logits of the teachers for each of a student's texts, in the order of the student's labels.

    A text is a row. `paired` [rows] counts the student's words that a teacher has read.
    """

    def __init__(
        self, teachers: Sequence[TeacherLogits], labels: Labels, texts: Iterable[str], encoder: TextEncoder
    ) -> None:
        """Find the texts among those that the teachers have read; `encoder` is the student's.

        Raises CheckpointError: a teacher lacks a label of the student.
        """
        self._teachers = [_Teacher.of(teacher, labels) for teacher in teachers]
        unique = list(dict.fromkeys(texts))
        keys = keys_of(unique)
        self._order = np.argsort(keys)
        self._keys = keys[self._order]
        places = [place_of(teacher.logits.keys, keys) for teacher in self._teachers]
        words = [encoder.encode(text).words for text in unique]
        lengths = np.array([len(found) for found in words], dtype=np.int64)
        self._ends: Rows = np.cumsum(lengths)
        self._starts: Rows = self._ends - lengths
        known = np.zeros(int(self._ends[-1]) if unique else 0, dtype=bool)
        for teacher, rows in zip(self._teachers, places, strict=True):
            teacher.rows = rows
            teacher.words = np.concatenate([teacher.words_of(ours, row) for ours, row in zip(words, rows, strict=True)])
            known |= teacher.words >= 0
        until = np.concatenate([[0], np.cumsum(known)])
        self.paired: Rows = until[self._ends] - until[self._starts]

    def rows_of(self, texts: Sequence[str]) -> Rows:
        """The rows of texts. Raises KeyError: no teacher has read one of them."""
        return self._order[place_of(self._keys, keys_of(texts), is_sorted=True)]

    def of_texts(self, head: str, rows: Rows) -> Logits:
        """Logits [rows, labels] of the domain or intent head."""
        every = [teacher.pooled(head, rows) for teacher in self._teachers]
        mean: Logits = np.mean(every, axis=0, dtype=np.float32)
        return mean

    def of_words(self, rows: Rows) -> tuple[Logits, NDArray[np.bool_]]:
        """Slot logits [words, tags] of the student's words in these rows, and whether a teacher has read the word.

        Logits of a word are the mean over the teachers that have read it; 0 where none has.
        """
        lengths: Rows = self._ends[rows] - self._starts[rows]
        text = np.repeat(np.arange(len(rows)), lengths)
        word = np.arange(len(text)) + np.repeat(self._starts[rows] - (np.cumsum(lengths) - lengths), lengths)
        found = [teacher.tags(rows[text], word) for teacher in self._teachers]
        readers = np.sum([read for _, read in found], axis=0)
        total = np.sum([logits for logits, _ in found], axis=0, dtype=np.float32)
        return total / np.maximum(readers, 1)[:, None].astype(np.float32), readers > 0


@dataclass
class _Teacher:
    """A teacher's logits, read with the student's labels, rows and words.

    `columns` are the teacher's labels by the student's, for each head; `rows` its records by the student's rows;
    `words` its record of a word by the student's words, or -1; `continued` marks words that continue its word.
    """

    logits: TeacherLogits
    columns: dict[str, Rows]
    inside: list[tuple[int, int]]
    rows: Rows
    words: Rows

    @classmethod
    def of(cls, logits: TeacherLogits, labels: Labels) -> _Teacher:
        columns = {}
        for head in labels.heads:
            place = {name: i for i, name in enumerate(getattr(logits.labels, head))}
            if missing := [name for name in getattr(labels, head) if name not in place]:
                lacks = f"{head} {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}"
                raise CheckpointError(f"a teacher lacks labels of the training data: {lacks}; allowed: one with all")
            columns[head] = np.array([place[name] for name in getattr(labels, head)])
        tags = {name: i for i, name in enumerate(labels.slots)}
        inside = [
            (i, tags[f"I-{name[2:]}"]) for name, i in tags.items() if name[:2] == "B-" and f"I-{name[2:]}" in tags
        ]
        return cls(logits, columns, inside, np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))

    def words_of(self, ours: Sequence[Word], row: int) -> Rows:
        """The records of the student's words of a text, -1 where the teacher has read no such word."""
        end = int(self.logits.ends[row])
        start = int(self.logits.ends[row - 1]) if row else 0
        pairs = pair_words(ours, self.logits.words[start:end].tolist())
        return np.where(pairs >= 0, pairs + start, -1)

    def pooled(self, head: str, rows: Rows) -> Logits:
        """Logits [rows, labels] of the domain or intent head."""
        found: Logits = getattr(self.logits, head)[self.rows[rows]][:, self.columns[head]].astype(np.float32)
        return found

    def tags(self, rows: Rows, words: Rows) -> tuple[Logits, NDArray[np.bool_]]:
        """Slot logits [words, tags] of the student's words, 0 where the teacher has not read one, and where it has.

        `rows` [words] are those of the words' texts. Where several words are one word to the teacher, only the first
        may begin a slot: in the others, "B-" gives its probability to "I-".
        """
        records = self.words[words]
        read = records >= 0
        logits = self.logits.slots[np.maximum(records, 0)][:, self.columns["slots"]].astype(np.float32)
        logits[~read] = 0.0
        later = np.flatnonzero(read[1:] & (records[1:] == records[:-1]) & (rows[1:] == rows[:-1])) + 1
        if len(later) and self.inside:
            begin, inside = (np.array(column) for column in zip(*self.inside, strict=True))
            chosen = logits[later]
            chosen[:, inside] = np.logaddexp(chosen[:, inside], chosen[:, begin])
            chosen[:, begin] = chosen.min(axis=1, keepdims=True)
            logits[later] = chosen
        return logits, read


def place_of(known: Keys, keys: Keys, is_sorted: bool = False) -> Rows:
    """The places of keys among the known ones. Raises KeyError: one of them is not there."""
    order = np.arange(len(known)) if is_sorted else np.argsort(known)
    ranked = known[order]
    found = np.minimum(np.searchsorted(ranked, keys), len(known) - 1)
    if len(keys) and (not len(known) or (ranked[found] != keys).any()):
        raise KeyError("a text that the teachers have not read")
    return order[found]


def pair_words(ours: Sequence[Word], theirs: Sequence[Word]) -> Rows:
    """For each of our words the first of theirs that shares a character with it, -1 where none does.

    That is the one that covers our word's first character, if there is one. Words are (start, end), in order.
    """
    pairs = np.full(len(ours), -1, dtype=np.int64)
    place = 0
    for i, (start, end) in enumerate(ours):
        while place < len(theirs) and theirs[place][1] <= start:
            place += 1
        if place < len(theirs) and theirs[place][0] < end:
            pairs[i] = place
    return pairs


@dataclass(frozen=True)
class Imitation:
    """How a student's logits are compared with its teachers': the name of a prediction loss, and its temperature."""

    loss: str = "kl"
    temperature: float = 2.0
    slot_weight: float = 2.0

    def __call__(self, output: StudentOutput, batch: Batch, targets: TeacherTargets) -> Tensor:
        """The loss between the student's logits and its teachers', heads summed, slots times their weight; a scalar.

        Each head's is the mean over its targets: the texts, or their words that a teacher has read.
        """
        loss = torch.zeros((), device=batch.input_ids.device)
        compare, rows, whole = PREDICTION_LOSSES[self.loss], batch.rows, batch.whole
        for head, logits in zip(POOLED, (output.domain_logits, output.intent_logits), strict=True):
            if logits is not None:
                taught = torch.from_numpy(targets.of_texts(head, rows)).to(loss.device)
                share = len(rows) * whole.split.scale(len(whole.rows))
                loss = loss + share * compare(logits, taught, self.temperature)
        if output.slot_logits is not None:
            found, read = targets.of_words(rows)
            known = torch.from_numpy(read).to(loss.device)
            taught = torch.from_numpy(found).to(loss.device)[known]
            share = len(taught) * whole.split.scale(int(targets.paired[whole.rows].sum()))
            ours = output.slot_logits[batch.first][known]
            loss = loss + self.slot_weight * share * compare(ours, taught, self.temperature)
        return loss
