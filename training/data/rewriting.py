"""Rewriting of labelled text: slots stay on what they covered."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace

from training.data.utterances import Slot, Utterance

Edit = tuple[int, int, str]


def edit(utterance: Utterance, edits: Iterable[Edit]) -> Utterance:
    """Replace ``text[start:end]`` by another text, for each (start, end, text); in order, not overlapping.

    What is inserted at the edge of a slot stays outside the slot. An edit across a slot's edge is left out. The result
    is the utterance itself where nothing changes, and where a slot or all text would be blank.
    """
    edges = {edge for slot in utterance.slots for edge in (slot.start, slot.end)}
    kept = [(start, end, text) for start, end, text in edits if not any(start < edge < end for edge in edges)]
    written, position = "", 0
    for start, end, text in kept:
        written += utterance.text[position:start] + text
        position = end
    written += utterance.text[position:]

    def moved(edge: int, is_end: bool) -> int:
        before = [found for found in kept if found[1] <= edge and not (is_end and found[0] == edge)]
        return edge + sum(len(text) - (end - start) for start, end, text in before)

    slots = tuple(Slot(slot.name, moved(slot.start, False), moved(slot.end, True)) for slot in utterance.slots)
    blank = not written.strip() or not all(written[slot.start : slot.end].strip() for slot in slots)
    return utterance if blank or written == utterance.text else replace(utterance, text=written, slots=slots)


def rewrite(utterance: Utterance, change: Callable[[int, str, bool], tuple[str, str, str]]) -> Utterance:
    """Rewrite an utterance word by word (runs between white space).

    `change` maps (index, word, whether it is the last) to (text before it, word, text after it); the text before and
    after is not part of a slot. A word within which a slot begins or ends stays as it is.
    """
    edits: list[Edit] = []
    words = list(re.finditer(r"\S+", utterance.text))
    for i, word in enumerate(words):
        prefix, text, suffix = change(i, word[0], i == len(words) - 1)
        edits += [(word.start(), word.start(), prefix), (*word.span(), text), (word.end(), word.end(), suffix)]
    return edit(utterance, edits)


def substitute(utterance: Utterance, pattern: re.Pattern[str], text_of: Callable[[re.Match[str]], str]) -> Utterance:
    """Replace each match of a pattern."""
    return edit(utterance, [(*match.span(), text_of(match)) for match in pattern.finditer(utterance.text)])
