"""Texts in a form in which they are compared."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Hashable, Iterable
from functools import cache
from typing import TypeVar

from training.data.utterances import Utterance

Key = TypeVar("Key", bound=Hashable)


def key_of(text: str) -> str:
    """A text without case, white space, punctuation and control characters: equal for texts that say the same.

    Separators between two digits and a minus before a digit stay ("5.5" is not "55"). A text of nothing but such
    characters is its own key.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = [c for i, c in enumerate(folded) if not _is_separator(c) or _is_part_of_number(folded, i)]
    return "".join(kept) or folded.strip()


def words_of(text: str) -> list[str]:
    """The words of a text between white space, each as `key_of` gives it; without those of punctuation alone."""
    return [key_of(word) for word in text.split() if not all(map(_is_separator, word))]


def language_of(locale: str) -> str:
    """The language of a locale, such as "de" of "de-DE"."""
    return locale.split("-")[0].lower()


def labels_of(utterance: Utterance) -> dict[str, Hashable]:
    """The labels of an utterance by head; slots are names with the keys of their values."""
    slots = tuple((slot.name, key_of(utterance.value(slot))) for slot in utterance.slots)
    return {"intent": utterance.intent, "domain": utterance.domain, "slots": slots}


def shown(label: Hashable) -> str:
    """A label of `labels_of` as it is written in messages."""
    if isinstance(label, tuple):
        return ", ".join(f"{name}={value}" for name, value in label) or "none"
    return str(label)


def grouped(positions: Iterable[int], key: Callable[[int], Key]) -> dict[Key, list[int]]:
    """Positions by key, in their order."""
    groups: dict[Key, list[int]] = {}
    for position in positions:
        groups.setdefault(key(position), []).append(position)
    return groups


@cache
def _is_separator(character: str) -> bool:
    return unicodedata.category(character)[0] in "PZC"  # punctuation, spaces, control characters


def _is_part_of_number(text: str, place: int) -> bool:
    before, after = text[place - 1 : place], text[place + 1 : place + 2]
    return after.isdigit() and (before.isdigit() or (text[place] == "-" and not before.isalnum()))
