"""Answers of an exported student as it is served, with the confidence of each intent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from service.student.manifest import StudentError
from service.student.student import Student
from training.data.utterances import Slot, Utterance
from training.evaluation.scoring import PredictedLabels
from training.models.errors import CheckpointError


@dataclass(frozen=True)
class Answer:
    """What a student answers to one utterance; `confidence` of the intent, 0 to 1, None without an intent head."""

    labels: PredictedLabels
    confidence: float | None


def served_answers(folder: Path, utterances: Sequence[Utterance]) -> list[Answer]:
    """The answers of the student in a folder. Raises CheckpointError: it can't be used."""
    try:
        student = Student.load(folder)
    except StudentError as error:
        raise CheckpointError(str(error)) from error
    known = set(student.manifest.locales)
    found = []
    for utterance in utterances:
        answer = student.predict(utterance.text, locale=utterance.locale if utterance.locale in known else None)
        domain, intent = (ranked[0] if ranked else None for ranked in (answer.domain, answer.intent))
        slots = None if answer.slots is None else tuple(Slot(s.name, s.start, s.end) for s in answer.slots)
        labels = PredictedLabels(domain.name if domain else None, intent.name if intent else None, slots)
        found.append(Answer(labels, intent.confidence if intent else None))
    return found


def values(utterance: Utterance, slots: Sequence[Slot]) -> list[tuple[str, str]]:
    """Names and values of slots of the utterance, in alphabetical order."""
    return sorted((slot.name, utterance.value(slot)) for slot in slots)
