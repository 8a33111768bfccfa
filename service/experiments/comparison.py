"""Compare several students' answers to one text: where they agree, and their answers where they differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.http.context import Json
from service.student.student import Prediction

TASKS = ("domain", "intent", "slots")


def answer_for(prediction: Prediction, task: str) -> Any:
    """A student's comparable answer for a task: the best label, or the set of slots; None without that head."""
    if task == "slots":
        return None if prediction.slots is None else frozenset((s.name, s.start, s.end) for s in prediction.slots)
    ranked = getattr(prediction, task)
    return None if ranked is None else ranked[0].name


def agreement(predictions: Mapping[str, Prediction]) -> dict[str, bool | None]:
    """Whether all students with the head agree, by task, and in all of these tasks ("exact").

    None if fewer than two have it.
    """
    same: dict[str, bool | None] = {}
    for task in TASKS:
        answers = [answer_for(prediction, task) for prediction in predictions.values()]
        comparable = [answer for answer in answers if answer is not None]
        same[task] = len(set(comparable)) == 1 if len(comparable) > 1 else None
    known = [value for value in same.values() if value is not None]
    return {**same, "exact": all(known) if known else None}


def differences(results: Mapping[str, Json], same: Mapping[str, bool | None]) -> Json:
    """The answers in tasks where students differ, from their replies; for slots, those that not all students found."""
    different: Json = {}
    for task in ("domain", "intent"):
        if same[task] is False:
            different[task] = {name: reply[task]["name"] for name, reply in results.items() if reply.get(task)}
    if same["slots"] is False:
        by_student = {name: reply["slots"] for name, reply in results.items() if reply.get("slots") is not None}
        keys = {name: {_key(slot) for slot in slots} for name, slots in by_student.items()}
        common = set.intersection(*keys.values())
        different["slots"] = {
            name: [slot for slot in slots if _key(slot) not in common] for name, slots in by_student.items()
        }
    return different


def _key(slot: Json) -> tuple[str, int, int]:
    return slot["name"], slot["start"], slot["end"]
