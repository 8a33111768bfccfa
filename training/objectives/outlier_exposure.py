"""Outlier exposure: sentences that are no requests, on which a student learns to be unsure (Hendrycks et al. 2019).

Hendrycks, Mazeika and Dietterich, "Deep Anomaly Detection with Outlier Exposure", ICLR 2019. A student that has seen
nothing but requests takes every sentence for one of them, and is sure of it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from service.student.tokenization import TextEncoder
from training.models.batches import IGNORED, Batch, Example, Rows, collate
from training.models.student import StudentOutput
from training.objectives.task_text import neighbours, sampled
from training.text.corpus import CorpusError, read_lines

WEIGHT = 0.5  # of the loss on outliers beside that on requests, as in the paper
WORDS = range(2, 17)  # that a sentence may have: those of requests


class Outliers:
    """Sentences of a corpus in batches: a function of seed and step only, so that a resumed run sees the same."""

    def __init__(self, sources: Sequence[str], encoder: TextEncoder, batch_size: int, seed: int) -> None:
        """Read the sources, some sentences of each; half of them without capitals and punctuation, like speech.

        Raises:
            CorpusError: a source can't be read, or all hold fewer sentences of 2 to 16 words than a batch.
        """
        rng = random.Random(seed)
        sentences: list[list[int]] = []
        for source in sources:
            for text in sampled((line for line in read_lines([source]) if len(line.split()) in WORDS), rng):
                spoken = re.sub(r"[^\w\s']", "", text.lower()) if rng.random() < 0.5 else text
                sentences.append(encoder.encode(spoken).ids)
        if len(sentences) < batch_size:
            raise CorpusError(
                f"{', '.join(sources)}: {len(sentences)} sentences of {WORDS[0]} to {WORDS[-1]} words; "
                f"a step needs {batch_size}"
            )
        self._sentences = sorted(sentences, key=len)
        self._batch_size, self._seed = batch_size, seed

    def batch(self, step: int, pad_id: int, part_of: Callable[[Rows], Rows] = np.copy) -> Batch:
        """The sentences of a step (from 0), of about equal length and without any target: this process's part."""
        rows = neighbours(len(self._sentences), self._batch_size, np.random.default_rng([self._seed, step]))
        chosen = [self._sentences[i] for i in part_of(rows)]
        return collate([Example(ids, IGNORED, IGNORED, [IGNORED] * len(ids)) for ids in chosen], pad_id)


def unsureness_loss(output: StudentOutput) -> Tensor:
    """Cross entropy between the uniform distribution and the student's, mean over the batch; domain and intent summed.

    A scalar. Slots are left alone: words of a sentence that is no request may well be a date or a place.
    """
    heads = [logits for logits in (output.domain_logits, output.intent_logits) if logits is not None]
    return -torch.stack([logits.float().log_softmax(-1).mean() for logits in heads]).sum()
