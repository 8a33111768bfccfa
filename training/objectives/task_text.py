"""Plain sentences beside the labelled utterances of a step: which are read, and which of them a step takes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from service.student.tokenization import MAX_CHARACTERS_PER_PIECE, TextEncoder
from training.models.batches import Batch, Example, Rows, collate, whole_of
from training.text.corpus import CorpusError, read_lines

MOST_SENTENCES = 60_000  # of a source
NEIGHBOURS = 8  # batches' worth of sentences of about equal length, of which one batch is drawn


class Unlabelled:
    """Sentences on which the student only imitates its teachers, in batches.

    A batch is a function of seed and step only, so that a resumed run sees the same. `texts` are in order of length; in
    the batches' `rows`, `first_row` is the first of them.
    """

    def __init__(
        self,
        sources: Sequence[str],
        encoder: TextEncoder,
        batch_size: int,
        seed: int,
        first_row: int,
        processes: int = 1,
    ) -> None:
        """Read the sources, some sentences of each; a step takes `batch_size` of them for each of the processes.

        Raises:
            CorpusError: a source can't be read, or all hold fewer sentences than a step takes.
        """
        rng = random.Random(seed)
        longest = MAX_CHARACTERS_PER_PIECE * encoder.max_length  # what lies beyond is read by nobody
        texts = [text[:longest] for source in sources for text in sampled(read_lines([source]), rng)]
        encoded = sorted(((encoder.encode(text), text) for text in texts), key=lambda pair: len(pair[0].ids))
        self._a_step, self._processes = batch_size * processes, processes
        if len(texts) < self._a_step:
            raise CorpusError(f"{', '.join(sources)}: {len(texts)} sentences; a step needs {self._a_step}")
        self.texts = [text for _, text in encoded]
        self._examples = [Example.of_text(pieces) for pieces, _ in encoded]
        self._seed, self._first_row = seed, first_row

    def batch(self, step: int, pad_id: int, part_of: Callable[[Rows], Rows] = np.copy) -> Batch:
        """The sentences of a step (from 0), of about equal length and without any label: this process's part."""
        chosen = neighbours(len(self.texts), self._a_step, np.random.default_rng([self._seed, step, 1]))
        part = part_of(chosen)
        whole = whole_of([], self._first_row + chosen, self._processes)
        return collate([self._examples[i] for i in part], pad_id, self._first_row + part, whole)


def sampled(lines: Iterable[str], rng: random.Random) -> list[str]:
    """`MOST_SENTENCES` of the lines, each as likely as any other (Vitter 1985); all where there are no more."""
    kept: list[str] = []
    for seen, line in enumerate(lines):
        if len(kept) < MOST_SENTENCES:
            kept.append(line)
        elif (place := rng.randrange(seen + 1)) < MOST_SENTENCES:
            kept[place] = line
    return kept


def neighbours(count: int, batch_size: int, rng: np.random.Generator) -> Rows:
    """`batch_size` of `count` places that lie near each other, in random order."""
    room = min(count, NEIGHBOURS * batch_size)
    first = int(rng.integers(0, count - room + 1))
    chosen: Rows = first + rng.choice(room, batch_size, replace=False)
    return chosen
