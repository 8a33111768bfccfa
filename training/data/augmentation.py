"""Data augmentation: variants of training utterances with the same labels and adjusted slots.

Typed variants have capitals, punctuation, digits and missing accents: text such as MASSIVE is lower-case spoken form
("weck mich um neun uhr"), but users type "Weck mich um 9 Uhr!". Other variants have other slot values.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from training.data.utterances import Slot, Utterance

# 0 to 20, then 30, 40, 50
_NUMBERS = {
    "de": """null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn
        siebzehn achtzehn neunzehn zwanzig dreißig vierzig fünfzig""",
    "fr": """zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize dix-sept
        dix-huit dix-neuf vingt trente quarante cinquante""",
    "it": """zero uno due tre quattro cinque sei sette otto nove dieci undici dodici tredici quattordici quindici sedici
        diciassette diciotto diciannove venti trenta quaranta cinquanta""",
    "es": """cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciséis
        diecisiete dieciocho diecinueve veinte treinta cuarenta cincuenta""",
    "en": """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
        seventeen eighteen nineteen twenty thirty forty fifty""",
}
_ARTICLES = {"un", "uno"}  # also "a": left as words
_VALUES = [*range(21), 30, 40, 50]
DIGITS: dict[str, dict[str, str]] = {
    language: {w: str(n) for w, n in zip(words.split(), _VALUES, strict=True) if w not in _ARTICLES}
    for language, words in _NUMBERS.items()
}
_GERMAN = {"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"}
_QUESTION = re.compile(
    r"(was|wer|wie|wo|wann|welch\w*|ist|gibt|hat|habe|kannst|qu\S*|est|comment|où|combien|c'est|chi|che|come|dove|quando|"
    r"quant\w*|cosa|qual\w*|cuál\w*|cómo|dónde|cuándo|cuánt\w*|hay|what\S*|who\S*|how|where|when|which|is|are|do|does|can)\b"
)


def rewrite(utterance: Utterance, change: Callable[[int, str, bool], tuple[str, str, str]]) -> Utterance:
    """Rewrite an utterance word by word (runs between white space) and keep its slots on the same words.

    `change` maps (index, word, whether it is the last) to (text before it, word, text after it); the text before and
    after is not part of a slot. A slot that begins or ends inside a word leaves the utterance unchanged.
    """
    words = list(re.finditer(r"\S+", utterance.text))
    edges = {word.start() for word in words}, {word.end() for word in words}
    if any(slot.start not in edges[0] or slot.end not in edges[1] for slot in utterance.slots):
        return utterance
    written, position = "", 0
    starts: dict[int, int] = {}  # new offset of each word by its old one
    ends: dict[int, int] = {}
    for i, word in enumerate(words):
        prefix, text, suffix = change(i, word[0], i == len(words) - 1)
        written += utterance.text[position : word.start()] + prefix
        starts[word.start()], ends[word.end()] = len(written), len(written) + len(text)
        written, position = written + text + suffix, word.end()
    slots = tuple(Slot(slot.name, starts[slot.start], ends[slot.end]) for slot in utterance.slots)
    return replace(utterance, text=written, slots=slots)


def as_typed(utterance: Utterance, rng: random.Random) -> Utterance:
    """A capitalised and punctuated copy: "Weck mich am Freitag um neun Uhr auf!".

    The first word, and each other word with probability 0.3, get a capital; the end gets ".", "!" or "?" (Spanish
    questions and exclamations both marks); with probability 0.15 a comma follows an inner word.
    """
    question = bool(_QUESTION.match(utterance.text))
    mark = "?" if question else rng.choice(".!")
    opening = {"?": "¿", "!": "¡"}.get(mark, "") if utterance.locale.startswith("es") and rng.random() < 0.5 else ""
    comma = rng.random() < 0.15

    def change(index: int, word: str, last: bool) -> tuple[str, str, str]:
        nonlocal comma
        if index == 0 or rng.random() < 0.3:
            word = word[0].upper() + word[1:]
        if last:
            return opening if index == 0 else "", word, "" if word.endswith(".") and mark == "." else mark
        if comma and index > 0 and rng.random() < 0.4:
            comma = False
            return "", word, ","
        return opening if index == 0 else "", word, ""

    return rewrite(utterance, change)


def with_digits(utterance: Utterance) -> Utterance:
    """Number words as digits: "um neun uhr" becomes "um 9 uhr"; in languages without a table nothing changes."""
    table = DIGITS.get(utterance.locale[:2], {})
    return rewrite(utterance, lambda _i, word, _last: ("", table.get(word.lower(), word), ""))


def without_accents(utterance: Utterance, rng: random.Random) -> Utterance:
    """Accents missing as on a foreign keyboard: "für" becomes "fur" or "fuer", "à" becomes "a"."""
    spelled_out = utterance.locale.startswith("de") and rng.random() < 0.5

    def plain(word: str) -> str:
        if spelled_out:
            word = "".join(_GERMAN.get(c, c) for c in word)
        kept = [c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c)]
        return "".join(kept) or word

    return rewrite(utterance, lambda _i, word, _last: ("", plain(word), ""))


def augment(utterance: Utterance, rng: random.Random, share: float = 0.5) -> Utterance:
    """A training variant: unchanged with probability 1 - `share`, else a mix of the rewritings above."""
    if rng.random() >= share:
        return utterance
    if rng.random() < 0.5:
        utterance = with_digits(utterance)
    if rng.random() < 0.25:
        utterance = without_accents(utterance, rng)
    if rng.random() < 0.7:
        utterance = as_typed(utterance, rng)
    return utterance


class SlotValues:
    """Substitution of slot values by others from the same data."""

    def __init__(self, utterances: Iterable[Utterance]) -> None:
        found: dict[tuple[str, str], dict[str, None]] = {}
        for utterance in utterances:
            for slot in utterance.slots:
                found.setdefault((utterance.locale, slot.name), {})[utterance.value(slot)] = None
        self._values = {key: list(values) for key, values in found.items()}

    def substitute(self, utterance: Utterance, rng: random.Random) -> Utterance:
        """Each slot with probability 0.5 gets a value that it has elsewhere in the locale, each value equally likely.

        "weck mich am [date : freitag]" becomes "weck mich am [date : nächsten montag]": most sentences stay plausible,
        but not always grammatical.
        """
        text, slots, position = "", [], 0
        for slot in utterance.slots:
            text += utterance.text[position : slot.start]
            known = self._values.get((utterance.locale, slot.name), ()) if rng.random() < 0.5 else ()
            value = rng.choice(known) if known else utterance.value(slot)
            slots.append(Slot(slot.name, len(text), len(text) + len(value)))
            text, position = text + value, slot.end
        return replace(utterance, text=text + utterance.text[position:], slots=tuple(slots))


def typed_copy(utterances: Sequence[Utterance], seed: int = 0) -> list[Utterance]:
    """The typed copy of a partition, on which robustness is reported; deterministic for a seed."""
    rng = random.Random(seed)
    return [as_typed(u, rng) for u in utterances]
