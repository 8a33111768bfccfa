"""Answers as typed results, the same from a student in this process and from a service."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Label:
    """A domain or an intent with its probability, 0 to 1."""

    name: str
    confidence: float


@dataclass(frozen=True)
class Slot:
    """A slot: ``text[start:end] == value``, in code points of the original text; confidence 0 to 1."""

    name: str
    value: str
    start: int
    end: int
    confidence: float


@dataclass(frozen=True)
class Result:
    """The answer of a student to one text.

    Attributes:
        text: the text.
        locale: the locale of the text, if it was passed.
        domains: the most probable domains, best first, at most `top_k`; empty without a domain head.
        intents: the same for intents.
        slots: in order of `start`, not overlapping; None without a slot head.
        in_scope: whether the text is in scope: a request of a kind that the student was trained on. None without a
            locale, or if the student has no threshold for it.
        truncated: whether the text is longer than the student's `max_length`; the rest of it was ignored.
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
