"""Golden sentences: a student's answers on the exporting machine, and their comparison with those of this machine.

Confidences are compared as log odds, which also move where a confidence is close to 1. Between healthy machines they
differ by rounding: an activation falls on the other side of a quantisation step. `manifest.GOLDEN_TOLERANCE` is four
times the largest difference that other versions of onnxruntime, levels of graph optimisation and CPUs without VNNI
showed for any of 165 sentences (0.035).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from service.student.manifest import Golden, GoldenSlot
from service.student.predictor import Predictor

MIN_ODDS_PROBABILITY = 1e-4  # lower bound of p and 1 - p in log odds, as float32 resolves no more
DIGITS = 6  # of a recorded confidence


def golden_answer(predictor: Predictor, text: str, locale: str) -> Golden:
    """The prediction for a text, as a golden sentence.

    Raises:
        FloatingPointError: an output of the graph is NaN or infinite.
    """
    encoded = predictor.encoder.encode(text)
    for head, values in predictor.logits(encoded).items():
        if not np.isfinite(values).all():
            raise FloatingPointError(f"the graph's output for {head} is NaN or infinite")
    answer = predictor.predict(text, locale=locale)
    domain, intent = (found[0] if found else None for found in (answer.domain, answer.intent))
    return Golden(
        text=text,
        locale=locale,
        tokens=tuple(encoded.ids),
        domain=domain.name if domain else None,
        domain_confidence=round(domain.confidence, DIGITS) if domain else None,
        intent=intent.name if intent else None,
        intent_confidence=round(intent.confidence, DIGITS) if intent else None,
        slots=tuple(
            GoldenSlot(name=s.name, value=s.value, start=s.start, end=s.end, confidence=round(s.confidence, DIGITS))
            for s in answer.slots or ()
        ),
    )


def mismatch(predictor: Predictor, golden: Golden, tolerance: float) -> str | None:
    """How this machine's answer differs from a golden one; None if it is the same within `tolerance` (log odds)."""
    sentence = f"a {golden.locale} sentence"
    ids = predictor.encoder.encode(golden.text).ids
    if (*ids,) != golden.tokens:
        return f"the tokenizer is not the student's: it gives {sentence} other token ids than at export"
    try:
        found = golden_answer(predictor, golden.text, golden.locale)
    except FloatingPointError as error:
        return f"{error} for {sentence}"
    if _labels(found) != _labels(golden):
        return f"golden answer differs on this machine for {sentence}: expected {_shown(golden)}, got {_shown(found)}"
    for name, (expected, got) in _numbers(golden, found).items():
        if not abs(expected - got) <= tolerance:
            return (
                f"golden answer differs on this machine for {sentence}: {name} is {abs(expected - got):.2f} away from "
                f"that at export; allowed: {tolerance:g}"
            )
    return None


def log_odds(probability: float) -> float:
    """``ln(p / (1 - p))``, for p between `MIN_ODDS_PROBABILITY` and 1 minus it."""
    bounded = min(max(probability, MIN_ODDS_PROBABILITY), 1 - MIN_ODDS_PROBABILITY)
    return math.log(bounded / (1 - bounded))


def _labels(golden: Golden) -> tuple[object, ...]:
    return golden.domain, golden.intent, [(s.name, s.value, s.start, s.end) for s in golden.slots]


def _shown(golden: Golden) -> str:
    return f"{golden.domain}/{golden.intent} {[slot.name for slot in golden.slots]}"


def _numbers(golden: Golden, found: Golden) -> dict[str, tuple[float, float]]:
    """What is compared with a tolerance, by name: expected and found, on a logarithmic scale."""
    both = (golden, found)
    numbers = {
        f"the {head} confidence (log odds)": _pair(getattr(one, f"{head}_confidence") for one in both)
        for head in ("domain", "intent")
        if getattr(golden, f"{head}_confidence") is not None
    }
    for slot, other in zip(golden.slots, found.slots, strict=True):
        name = f"the confidence of the slot {slot.name} (log odds)"
        numbers[f"{name} at {slot.start}"] = _pair((slot.confidence, other.confidence))
    return numbers


def _pair(confidences: Iterable[float]) -> tuple[float, float]:
    expected, found = map(log_odds, confidences)
    return expected, found
