"""Several students on one text: where they agree, and their answers where they don't."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.http.context import Json
from service.student.student import Prediction

TASKS = ("domain", "intent", "slots")


def answer_for(prediction: Prediction, task: str) -> Any:
    """A student's answer for a task, to be compared: the best label, or the set of slots; None without that head."""
    if task == "slots":
        return None if prediction.slots is None else frozenset((s.name, s.start, s.end) for s in prediction.slots)
    ranked = getattr(prediction, task)
    return None if ranked is None else ranked[0].name


def agreement(predictions: Mapping[str, Prediction]) -> dict[str, bool | None]:
    """Whether all students with the head agree, by task, and in all these tasks ("exact").

    None where fewer than two have it.
    """
    same: dict[str, bool | None] = {}
    for task in TASKS:
        answers = [answer_for(prediction, task) for prediction in predictions.values()]
        found = [answer for answer in answers if answer is not None]
        same[task] = len(set(found)) == 1 if len(found) > 1 else None
    known = [value for value in same.values() if value is not None]
    return {**same, "exact": all(known) if known else None}


def differences(results: Mapping[str, Json], same: Mapping[str, bool | None]) -> Json:
    """The answers where students differ, from their replies; of slots, those that not all have found."""
    different: Json = {}
    for task in ("domain", "intent"):
        if same[task] is False:
            different[task] = {name: reply[task]["name"] for name, reply in results.items() if reply.get(task)}
    if same["slots"] is False:
        found = {name: reply["slots"] for name, reply in results.items() if reply.get("slots") is not None}
        marks = {name: {_mark(slot) for slot in slots} for name, slots in found.items()}
        common = set.intersection(*marks.values())
        different["slots"] = {
            name: [slot for slot in slots if _mark(slot) not in common] for name, slots in found.items()
        }
    return different


def _mark(slot: Json) -> tuple[str, int, int]:
    return slot["name"], slot["start"], slot["end"]
