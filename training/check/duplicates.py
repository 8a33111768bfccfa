"""Texts that occur more than once: with other labels, in two partitions, or simply repeated."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence

from training.check.findings import Finding
from training.check.texts import grouped, key_of, labels_of, language_of, shown, words_of
from training.data.utterances import Utterance

MIN_WORDS = 4  # shorter texts that differ in a word are different requests
MIN_TYPO_LENGTH = 5  # characters of a word in which a typo is assumed
HEADS = ("intent", "domain", "slots")

Words = tuple[str, ...]


def contradictions(utterances: Sequence[Utterance]) -> list[Finding]:
    """Texts of a locale, equal up to case, space and punctuation, whose labels differ; other intents first.

    The rows with the rarest labels of a text stand first. A missing intent or domain contradicts nothing.
    """
    found = []
    for rows in _same_texts(utterances):
        labels = {row: labels_of(utterances[row]) for row in rows}
        differing = [head for head in HEADS if len({labels[row][head] for row in rows} - {None}) > 1]
        if not differing:
            continue
        counts = Counter(tuple(labels[row][head] for head in differing) for row in rows)
        ordered = sorted(rows, key=lambda row: counts[tuple(labels[row][head] for head in differing)])
        differences = "; ".join(f"{head} {_counted([labels[row][head] for row in rows])}" for head in differing)
        found.append(Finding(f"{utterances[rows[0]].text!r}: {differences}", tuple(ordered), {"differs": differing}))
    return sorted(found, key=lambda one: (HEADS.index(one.details["differs"][0]), -len(one.rows)))


def leaks(utterances: Sequence[Utterance]) -> list[Finding]:
    """Texts of a language, equal up to case, space and punctuation, that stand in several partitions."""
    found = []
    keys = [(language_of(u.locale), key_of(u.text)) for u in utterances]
    for rows in grouped(range(len(utterances)), keys.__getitem__).values():
        partitions = Counter(utterances[row].partition for row in rows)
        if len(partitions) > 1:
            where = ", ".join(f"{count} in {name}" for name, count in sorted(partitions.items(), reverse=True))
            found.append(Finding(f"{utterances[rows[0]].text!r}: {where}", tuple(rows)))
    return sorted(found, key=lambda one: -len(one.rows))


def near_leaks(utterances: Sequence[Utterance]) -> list[Finding]:
    """Texts with the same labels in two partitions that differ in word order, one word more, or a typo in one word.

    Texts of fewer than four words between spaces are left out, and so are languages written without spaces.
    """
    found = []
    for rows in grouped(range(len(utterances)), lambda row: _kind_of(utterances[row])).values():
        if len({utterances[row].partition for row in rows}) < 2:
            continue
        words = {row: tuple(words_of(utterances[row].text)) for row in rows}
        pairs: dict[int, int] = {}
        keys = {row: "".join(words[row]) for row in rows}
        for a, b in _near_pairs({row: found for row, found in words.items() if len(found) >= MIN_WORDS}):
            if utterances[a].partition != utterances[b].partition and keys[a] != keys[b]:
                is_train = utterances[a].partition == "train"
                held_out, other = (b, a) if is_train else (a, b)
                pairs.setdefault(held_out, other)
        for held_out, other in pairs.items():
            one, two = utterances[held_out], utterances[other]
            message = f"{one.partition} {one.text!r} is almost {two.partition} {two.text!r}"
            found.append(Finding(message, (held_out, other), pairs=((held_out, other),)))
    return sorted(found, key=lambda one: one.rows)


def repeated(utterances: Sequence[Utterance]) -> list[Finding]:
    """Texts that occur more than once in a partition of a locale, with the same labels; the most frequent first."""
    found = []
    for same in _same_texts(utterances):
        for rows in grouped(
            same, lambda row: (utterances[row].partition, *labels_of(utterances[row]).values())
        ).values():
            if len(rows) > 1:
                first = utterances[rows[0]]
                found.append(Finding(f"{first.text!r}: {len(rows)} times in {first.partition}", tuple(rows)))
    return sorted(found, key=lambda one: -len(one.rows))


def _same_texts(utterances: Sequence[Utterance]) -> Iterator[list[int]]:
    keys = [(u.locale, key_of(u.text)) for u in utterances]
    groups = grouped(range(len(utterances)), keys.__getitem__).values()
    return (rows for rows in groups if len(rows) > 1)


def _counted(labels: Sequence[Hashable]) -> str:
    counts = Counter(label for label in labels if label is not None)
    return " / ".join(f"{shown(label)} ({count})" for label, count in counts.most_common())


def _kind_of(utterance: Utterance) -> Hashable:
    slots = tuple(sorted(slot.name for slot in utterance.slots))
    return language_of(utterance.locale), utterance.domain, utterance.intent, slots


def _near_pairs(words: dict[int, Words]) -> Iterator[tuple[int, int]]:
    """Pairs of texts that share their words, all but one of the longer's, or all but one with a typo.

    Texts that are equal once a word is left out are found by look-up, so no text is compared with all others.
    """
    by_order: dict[Words, list[int]] = defaultdict(list)
    whole: dict[Words, list[int]] = defaultdict(list)
    without: dict[tuple[Words, int, str], list[int]] = defaultdict(list)  # by the other words and the first letter
    for row, text in words.items():
        shorter = [text[:place] + text[place + 1 :] for place in range(len(text))]
        ordered = tuple(sorted(text))
        yield from ((other, row) for other in by_order[ordered])
        yield from ((other, row) for one in dict.fromkeys(shorter) for other in whole.get(one, ()))
        for place, one in enumerate(shorter):
            if len(text[place]) < MIN_TYPO_LENGTH:
                continue
            same = without[one, place, text[place][0]]
            yield from ((other, row) for other in same if _is_typo(words[other][place], text[place]))
            same.append(row)
        by_order[ordered].append(row)
        whole[text].append(row)
    for row, text in words.items():  # those whose longer variant came first
        for place in range(len(text)):
            one = text[:place] + text[place + 1 :]
            yield from ((row, other) for other in whole.get(one, ()) if other > row)


def _is_typo(one: str, other: str) -> bool:
    """Whether two long words of letters with the same beginning differ in one edit: a letter more, other or swapped."""
    if min(len(one), len(other)) < MIN_TYPO_LENGTH or one[0] != other[0] or not (one + other).isalpha():
        return False
    short, long = sorted((one, other), key=len)
    start = next((i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    if len(short) < len(long):
        return short[start:] == long[start + 1 :]
    is_swapped = short[start : start + 2] == long[start : start + 2][::-1] and short[start + 2 :] == long[start + 2 :]
    return short[start + 1 :] == long[start + 1 :] or is_swapped
