"""Logits to labels: softmax, ranking, slot spans from BIO tags, and whether a text is in scope.

The export measures with these functions, too.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.student.calibration import LocaleCalibration
from service.student.manifest import OUTSIDE, Scope

FloatArray = NDArray[np.float32]

MIN_CONFIDENCE = 1e-12  # lower bound of a confidence of which the logarithm is taken

_APOSTROPHES = "'’‘ʼ"
_QUOTES = '"“”„‟«»‹›'
_OPENING, _CLOSING = "([{", ")]}"


class Ranked(NamedTuple):
    """A label and its probability in 0..1."""

    name: str
    confidence: float


class Span(NamedTuple):
    """A slot: `text[start:end] == value`, in code points of the raw text; confidence in 0..1."""

    name: str
    value: str
    start: int
    end: int
    confidence: float


def softmax(logits: FloatArray) -> FloatArray:
    """Softmax over the last axis, any shape, stable for large logits."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: FloatArray = shifted / shifted.sum(axis=-1, keepdims=True)
    return result


def best(logits: FloatArray, names: Sequence[str], scale: float = 1.0) -> Ranked:
    """The most probable label of logits [labels] with its probability in ``softmax(logits * scale)``.

    Equal to the first result of `rank`, but cheaper.
    """
    top = int(logits.argmax())
    return Ranked(names[top], 1.0 / float(np.add.reduce(np.exp((logits - logits[top]) * scale))))


def rank(logits: FloatArray, names: Sequence[str], scale: float, top_k: int) -> list[Ranked]:
    """The `top_k` most probable labels of logits [labels], best first, with their probabilities; see `best`."""
    order = np.argsort(-logits, kind="stable")[:top_k]
    shares = np.exp((logits - logits[order[0]]) * scale)
    total = float(np.add.reduce(shares))
    return [Ranked(names[i], float(shares[i]) / total) for i in order]


def scope_score(method: str, logits: FloatArray, scale: float, confidence: float) -> float:
    """The score of a text from its logits [labels], by "max_softmax" or "energy" of `Scope`; higher is more in scope.

    `confidence` is that of the best label of ``softmax(logits * scale)``. The energy is the scaled logit of the best
    label minus the logarithm of its confidence.
    """
    if method == "max_softmax":
        return confidence
    return float(logits.max()) * scale - math.log(max(confidence, MIN_CONFIDENCE))


def is_in_scope(
    scope: Scope, calibration: LocaleCalibration, logits: Mapping[str, Any], confidence: float
) -> bool | None:
    """Whether a text is in scope; None in a locale without a threshold.

    Args:
        scope: the method and its head.
        calibration: the calibration of the text's locale.
        logits: by head, as `Predictor.logits` returns them.
        confidence: confidence of the best label of the scope's head, before any filter.
    """
    if calibration.threshold is None:
        return None
    scale = calibration.intent if scope.head == "intent" else calibration.domain
    return scope_score(scope.method, logits[scope.head], scale, confidence) >= calibration.threshold


def spans_of_tags(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Slot spans as (name, first word, word after the last) from one BIO tag per word.

    An "I-x" that does not continue an "x" begins a new span, as in conlleval.
    """
    spans: list[tuple[str, int, int]] = []
    name, begin = "", 0
    for i, tag in enumerate([*tags, OUTSIDE]):
        if name and (tag == OUTSIDE or tag[0] == "B" or tag[2:] != name):
            spans.append((name, begin, i))
            name = ""
        if tag != OUTSIDE and not name:
            name, begin = tag[2:], i
    return spans


def decode_slots(
    text: str,
    words: Sequence[tuple[int, int]],
    logits: FloatArray,
    tags: Sequence[str],
    scale: float = 1.0,
    combine: Callable[[Iterable[float]], float] = min,
) -> list[Span]:
    """Slots of a text from the tag logits of its words.

    Args:
        text: the raw text.
        words: (start, end) of each word in `text`.
        logits: [words, tags], read at each word's first token.
        tags: tag names in the order of the logits.
        scale: factor of the logits for confidences.
        combine: computes a slot's confidence from those of its words.

    Returns:
        Spans in order of `start`, not overlapping, without marks at their edges (`trim`); each has a letter or digit.
    """
    chosen = logits.argmax(axis=-1).tolist()
    if not any(chosen):  # tag 0 is O
        return []
    spans = []
    last_end = 0
    for name, first, after in spans_of_tags([tags[i] for i in chosen]):
        start, end = max(words[first][0], last_end), words[after - 1][1]
        while start < end and text[start].isspace():  # the last span ended within this word's first character
            start += 1
        last_end = max(end, last_end)
        if start >= end:  # two words from one raw character, such as a fraction sign
            continue
        if not (text[start].isalnum() and text[end - 1].isalnum()):
            start, end = trim(text, start, end)
            if start == end:
                continue
        confidence = combine(best(logits[word], tags, scale).confidence for word in range(first, after))
        spans.append(Span(name, text[start:end], start, end, confidence))
    return spans


def trim(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without white space, punctuation and emoji at its edges; empty where it has no letter or digit.

    What belongs to a value stays: "5 €", "$5", "50%", "20°", "-5", "c++", "#1", "p. m.", "dell'", "hallo (live)".
    """
    if not any(map(str.isalnum, text[start:end])):
        return start, start
    is_quoted = text[max(start - 1, 0)] in _APOSTROPHES or text[start] in _APOSTROPHES
    before = start, -1
    while (start, end) != before:  # an edge may depend on the other one
        before = start, end
        while not _ends_value(text, start, end, is_quoted):
            end -= 1
        while not _begins_value(text, start, end):
            start += 1
    return start, end


def _begins_value(text: str, start: int, end: int) -> bool:
    """Whether the first character of a span is a part of its value."""
    first, following = text[start], text[start + 1 : end].lstrip()[:1]
    if first.isalnum():
        return True
    if first in "+-−.#@":
        return text[start + 1].isdigit() or (first in "#@" and text[start + 1].isalnum())
    if first in _OPENING or first in _QUOTES:
        return _is_balanced(text[start:end]) and text[end - 1] not in _CLOSING + _QUOTES
    return unicodedata.category(first) == "Sc" and following.isdigit()


def _ends_value(text: str, start: int, end: int, is_quoted: bool) -> bool:
    """Whether the last character of a span is a part of its value; `is_quoted` if an apostrophe stands before it."""
    last, before = text[end - 1], text[start : end - 1]
    if last.isalnum():
        return True
    if last == ".":  # of an abbreviation: one letter, with no letter before it
        return before[-1:].isalpha() and not before[-2:-1].isalnum()
    if last in _APOSTROPHES:
        return before[-1:].isalpha() and not is_quoted
    if last in "+#":
        return before.rstrip("+#")[-1:].isalnum()
    if last in _CLOSING or last in _QUOTES:
        return _is_balanced(text[start:end]) and text[start] not in _OPENING + _QUOTES
    if unicodedata.category(last) in ("Mn", "Mc") and not unicodedata.name(last, "").startswith("VARIATION SELECTOR"):
        base = next((c for c in reversed(before) if unicodedata.category(c)[0] != "M"), "")
        return base.isalnum()  # an accent or vowel sign of its letter
    return (unicodedata.category(last) == "Sc" or last in "%‰°") and before.rstrip()[-1:].isdigit()


def _is_balanced(value: str) -> bool:
    """Whether a value has as many opening as closing brackets and an even number of quotation marks."""
    opening, closing, quotes = (sum(map(value.count, marks)) for marks in (_OPENING, _CLOSING, _QUOTES))
    return opening == closing and quotes % 2 == 0
