"""What conversion and quantisation change: logits, labels, quality, and time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from service.student.student import Student
from service.student.tokenization import Encoded
from training.data.utterances import Utterance
from training.evaluation.scoring import Answer
from training.models.student import StudentModel

PARITY_SENTENCES = 500  # of each locale, at most
LENGTHS = (8, 16, 32)


def sample_of_each_locale(utterances: Sequence[Utterance], count: int) -> list[Utterance]:
    """The first `count` utterances of each locale."""
    chosen: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        of_locale = chosen.setdefault(utterance.locale, [])
        if len(of_locale) < count:
            of_locale.append(utterance)
    return [utterance for of_locale in chosen.values() for utterance in of_locale]


def logit_difference(model: StudentModel, student: Student, utterances: Sequence[Utterance]) -> dict[str, float]:
    """Largest absolute difference of any logit between PyTorch and the graph, per locale; NaN where there is one.

    PyTorch reads sentences of one length together, which needs no padding and takes a fraction of the time.
    """
    same_length: dict[int, list[tuple[str, Encoded]]] = {}
    for utterance in utterances:
        encoded = student.encoder.encode(utterance.text)
        same_length.setdefault(len(encoded.ids), []).append((utterance.locale, encoded))
    largest: dict[str, float] = {}
    for rows in same_length.values():
        with torch.inference_mode():
            output = model(torch.tensor([encoded.ids for _, encoded in rows]))
        expected = {"domain": output.domain_logits, "intent": output.intent_logits, "slots": output.slot_logits}
        for row, (locale, encoded) in enumerate(rows):
            differences = [
                np.abs(expected[head][row].numpy() - x[0]).max() for head, x in student.logits(encoded).items()
            ]
            largest[locale] = float(np.max([largest.get(locale, 0.0), *differences]))
    return dict(sorted(largest.items()))


def agreement(
    utterances: Sequence[Utterance], one: Sequence[Answer], other: Sequence[Answer]
) -> dict[str, dict[str, float]]:
    """Share of utterances, in percent, on which two students give the same label; per locale and head."""
    result: dict[str, dict[str, float]] = {}
    for locale in dict.fromkeys(u.locale for u in utterances):
        pairs = [(a, b) for u, a, b in zip(utterances, one, other, strict=True) if u.locale == locale]
        heads = [head for head in ("domain", "intent", "slots") if getattr(pairs[0][0], head) is not None]
        result[locale] = {
            head: round(100 * sum(getattr(a, head) == getattr(b, head) for a, b in pairs) / len(pairs), 2)
            for head in heads
        }
    return result


def latencies(students: dict[str, Student], rounds: int = 40, calls: int = 20) -> dict[str, dict[str, float]]:
    """Median microseconds of one session run for sentences of 8, 16 and 32 pieces, by student.

    The students take turns, so that a machine that slows down slows them all.
    """
    rng = np.random.default_rng(0)
    times: dict[tuple[str, int], list[float]] = {}
    for length in LENGTHS:
        shared = min(student.encoder.tokenizer.get_vocab_size() for student in students.values())
        encoded = Encoded(rng.integers(4, shared, size=length).tolist(), [], [], False, 0)
        for _ in range(rounds):
            for name, student in students.items():
                began = time.perf_counter()
                for _ in range(calls):
                    student.logits(encoded)
                times.setdefault((name, length), []).append((time.perf_counter() - began) / calls * 1e6)
    return {
        name: {str(length): round(float(np.median(times[name, length])), 1) for length in LENGTHS} for name in students
    }


def rounded(scores: dict[str, dict[str, float]], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Chosen metrics per locale, rounded to hundredths of a percent."""
    return {locale: {n: round(values[n], 2) for n in names if n in values} for locale, values in scores.items()}
