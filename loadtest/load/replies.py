"""Validation of replies, and the service's phases in the ``Server-Timing`` header."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import orjson

from loadtest.load.recorder import SERVER_PHASES

_TIMING = re.compile(r'([^\s;,=]+)[^,]*?;\s*dur\s*=\s*"?([0-9]+(?:\.[0-9]+)?)"?\s*(?=[;,]|$)', re.IGNORECASE)


def phases_of(header: str) -> dict[str, float]:
    """The service's phases in a ``Server-Timing`` header, in milliseconds; missing phases are absent."""
    durations = parse_server_timing(header)
    return {phase: durations[phase] for phase in SERVER_PHASES if phase in durations}


def parse_server_timing(header: str) -> dict[str, float]:
    """The durations of a ``Server-Timing`` header by name, in milliseconds; entries without a valid one are ignored.

    ``queue;dur=0.012, cache;desc="hit, warm"`` gives ``{"queue": 0.012}``. Commas in quoted strings split an entry into
    parts without ``dur``, which are ignored as well.
    """
    return {name: float(duration) for name, duration in _TIMING.findall(header)}


def problem_of_reply(texts: Sequence[str], batch: bool, status: int, content: bytes) -> str | None:
    """The problem of a reply, or None. Contains no text, so that there are few different problems."""
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        body = None
    if status != 200:
        return f"HTTP {status}{_code(body)}"
    if body is None:
        return "reply is not JSON"
    return problem_of_batch(texts, body) if batch else problem_of_answer(texts[0], body)


def problem_of_batch(texts: Sequence[str], body: Any) -> str | None:
    """The problem of a reply to a batch, or None."""
    results = body.get("results") if isinstance(body, dict) else None
    if not isinstance(results, list):
        return "batch: reply has no list of results"
    if len(results) != len(texts):
        return "batch: number of results differs from number of items"
    for text, result in zip(texts, results, strict=True):
        if isinstance(result, dict) and "error" in result:
            return f"batch: item answered with an error{_code(result)}"
        if problem := problem_of_answer(text, result):
            return f"batch: {problem}"
    return None


def problem_of_answer(text: str, answer: Any) -> str | None:
    """The problem of the answer to one text, or None."""
    if not isinstance(answer, dict):
        return "answer is not a JSON object"
    slots = answer.get("slots")
    if slots is None and not any(_is_label(answer.get(head)) for head in ("domain", "intent")):
        return "answer has neither domain nor intent nor slots"
    if slots is not None and not isinstance(slots, list):
        return "slots are not a list"
    if not all(_is_span(text, slot) for slot in slots or ()):
        return "slot value differs from text[start:end]"
    return None


def _is_label(label: Any) -> bool:
    return isinstance(label, dict) and isinstance(label.get("name"), str) and bool(label["name"])


def _is_span(text: str, slot: Any) -> bool:
    if not isinstance(slot, dict):
        return False
    start, end = slot.get("start"), slot.get("end")
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= len(text):
        return False
    return text[start:end] == slot.get("value")


def _code(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return f" ({code})" if isinstance(code, str) else ""
