"""The Python interface: load a student and understand texts in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distilled_nlu.results import Label, Result, Slot
from service.student.manifest import Manifest
from service.student.shipped import student_folder
from service.student.student import Prediction, Question
from service.student.student import Student as LoadedStudent


class Student:
    """A student in this process. It is thread-safe.

    Usage:

        student = Student.load("s")  # a shipped one by its name, or a folder
        result = student("weck mich um neun uhr", locale="de-DE")
        results = student.batch(["wie wird das wetter", "spiel musik"], locale="de-DE")
    """

    def __init__(self, loaded: LoadedStudent) -> None:
        self._loaded = loaded

    @classmethod
    def load(cls, student: str | Path) -> Student:
        """Load a student by the name of a shipped one (`shipped_students`), from a folder, or from a hub.

        A student of the Hugging Face hub is named ``hub:OWNER/NAME@REVISION``, and needs the extra ``[hub]``.

        The folder's digests, schema, graph and golden answers are checked.

        Raises:
            StudentError: there is no such student, or its folder is invalid; the message says why.
        """
        return cls(LoadedStudent.load(student_folder(student)))

    @property
    def manifest(self) -> Manifest:
        """The manifest: labels, locales, accuracy, latency, calibration, provenance."""
        return self._loaded.manifest

    @property
    def name(self) -> str:
        """The student's name."""
        return self.manifest.name

    @property
    def locales(self) -> tuple[str, ...]:
        """The locales that the student was trained on, as BCP-47 tags."""
        return tuple(self.manifest.locales)

    def __call__(self, text: str, *, locale: str | None = None, top_k: int = 1) -> Result:
        """Understand one text.

        Args:
            text: a user's request, spoken or typed.
            locale: its locale, one of `locales`. Without one, confidences are not calibrated and `in_scope` is None.
            top_k: how many domains and intents to rank.

        Raises:
            ValueError: the student does not know the locale, or `top_k` is below 1.
        """
        return self.batch([text], locale=locale, top_k=top_k)[0]

    def batch(self, texts: Sequence[str], *, locale: str | Sequence[str] | None = None, top_k: int = 1) -> list[Result]:
        """Understand several texts; each answer is the same as for the text alone.

        Args:
            texts: users' requests, spoken or typed.
            locale: one for all texts, or one for each.
            top_k: how many domains and intents to rank.

        Raises:
            ValueError: the student does not know a locale, there is not one for each text, or `top_k` is below 1.
            TypeError: `texts` is a single string.
        """
        if isinstance(texts, str):
            raise TypeError("texts is a string; batch takes several texts, student(text) takes one")
        if top_k < 1:
            raise ValueError(f"top_k is {top_k}; allowed: 1 or more")
        locales = [locale] * len(texts) if locale is None or isinstance(locale, str) else list(locale)
        if len(locales) != len(texts):
            raise ValueError(f"{len(locales)} locales for {len(texts)} texts; give one locale, or one for each text")
        for unknown in (each for each in locales if each is not None and each not in self.locales):
            raise ValueError(f"locale {unknown!r} is unknown to student {self.name}; known: {', '.join(self.locales)}")
        questions = [Question(text, each, top_k) for text, each in zip(texts, locales, strict=True)]
        answers = self._loaded.predict_each(questions)
        return [_result(question, answer) for question, answer in zip(questions, answers, strict=True)]

    def __repr__(self) -> str:
        heads = ", ".join(self.manifest.labels.heads)
        return f"<Student {self.name}: {heads}; {', '.join(self.locales)}>"


def _result(question: Question, answer: Prediction) -> Result:
    return Result(
        text=question.text,
        locale=question.locale,
        domains=tuple(Label(*ranked) for ranked in answer.domain or ()),
        intents=tuple(Label(*ranked) for ranked in answer.intent or ()),
        slots=None if answer.slots is None else tuple(Slot(*span) for span in answer.slots),
        in_scope=answer.in_scope,
        truncated=answer.truncated,
    )
