"""Ask a student from Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from service.student.manifest import Manifest
from service.student.shipped import student_folder
from service.student.student import Prediction, Question
from service.student.student import Student as LoadedStudent


@dataclass(frozen=True)
class Label:
    """A domain or an intent with its probability, 0 to 1."""

    name: str
    confidence: float


@dataclass(frozen=True)
class Slot:
    """A slot: ``text[start:end] == value``, in code points of the text as it was given; confidence 0 to 1."""

    name: str
    value: str
    start: int
    end: int
    confidence: float


@dataclass(frozen=True)
class Result:
    """What a student says of one text.

    Attributes:
        text: the text that was asked.
        locale: the locale that it was asked in, if any.
        domains: the most probable domains, best first, as many as `top_k` asked for; empty without a domain head.
        intents: likewise.
        slots: in order of `start`, not overlapping; None without a slot head.
        in_scope: whether the text is a request that the student may know; None where no locale was given, or the
            student has no threshold for it.
        truncated: whether the end of the text was not read, because it is longer than the student's `max_length`.
    """

    text: str
    locale: str | None
    domains: tuple[Label, ...]
    intents: tuple[Label, ...]
    slots: tuple[Slot, ...] | None
    in_scope: bool | None
    truncated: bool

    @property
    def domain(self) -> Label | None:
        """The most probable domain; None without a domain head."""
        return self.domains[0] if self.domains else None

    @property
    def intent(self) -> Label | None:
        """The most probable intent; None without an intent head."""
        return self.intents[0] if self.intents else None


class Student:
    """A student that answers in this process. Threads may share it.

    Usage::

        student = Student.load("s")  # a shipped one by its name, or a folder
        result = student("weck mich um neun uhr", locale="de-DE")
        results = student.batch(["wie wird das wetter", "spiel musik"], locale="de-DE")
    """

    def __init__(self, loaded: LoadedStudent) -> None:
        self._loaded = loaded

    @classmethod
    def load(cls, student: str | Path) -> Student:
        """Load a student by the name of a shipped one (`shipped_students`), or from a folder.

        The folder's digests, schema and graph are checked, and its golden sentences answered.

        Raises:
            StudentError: there is no such student, or its folder can't be used; the message says why.
        """
        return cls(LoadedStudent.load(student_folder(student)))

    @property
    def manifest(self) -> Manifest:
        """What the student folder says of itself: labels, locales, accuracy, latency, calibration, provenance."""
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
        """Answer one text.

        Args:
            text: what the user said or typed.
            locale: of the text, one of `locales`. Without one, confidences are not calibrated and `in_scope` is None.
            top_k: how many domains and intents to rank.

        Raises:
            ValueError: the student does not know the locale, or `top_k` is below 1.
        """
        return self.batch([text], locale=locale, top_k=top_k)[0]

    def batch(self, texts: Sequence[str], *, locale: str | Sequence[str] | None = None, top_k: int = 1) -> list[Result]:
        """Answer several texts; each gets the answer that it would get alone.

        Args:
            texts: what users said or typed.
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
        for unknown in (asked for asked in locales if asked is not None and asked not in self.locales):
            raise ValueError(f"locale {unknown!r} is unknown to student {self.name}; known: {', '.join(self.locales)}")
        questions = [Question(text, asked, top_k) for text, asked in zip(texts, locales, strict=True)]
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
