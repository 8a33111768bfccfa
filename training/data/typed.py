"""How people type: rewritings of utterances by name, for training variants and for the typed suite.

Each rewriting keeps the labels and moves the slots. An utterance that it can't change is returned itself. Where wording
matters (quotation marks, emoji, wake words, politeness), training draws from `TRAINING` and the suite from `HELD_OUT`,
so that the suite measures whether a student copes with ways of typing that it has not seen. Format characters are used
by the suite alone: the normaliser drops them.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from training.data.numbers import with_digits, with_symbols, with_times
from training.data.rewriting import edit, rewrite, substitute
from training.data.utterances import Utterance

_GERMAN = {"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue"}
_BASE = {chr(code): unicodedata.normalize("NFD", chr(code))[0] for code in range(0xC0, 0x250)}  # without the accent
_LONG_WORD = re.compile(r"\w{4,}")


@dataclass(frozen=True)
class Wording:
    """What is typed around a request: pairs of quotation marks, emoji, wake words, polite (prefix, suffix) pairs."""

    quotes: tuple[tuple[str, str], ...]
    emoji: tuple[str, ...]
    wake_words: tuple[str, ...]
    polite: Mapping[str, tuple[tuple[str, str], ...]]


_NAMES = "anna bruno clara emma felix hugo ida kira leo lucia marco marvin max mia nina nova otto pablo rosie sam zoe"
TRAINING = Wording(
    quotes=(('"', '"'), ("“", "”"), ("„", "“"), ("«", "»"), ("'", "'")),
    emoji=("😀", "👍", "🙏", "😂", "❤️", "☀️", "⏰", ":)"),
    wake_words=(
        "hey google",
        "ok google",
        "siri",
        "hey siri",
        "computer",
        "hallo computer",
        "bixby",
        "hi bixby",
        "hey mycroft",
        "ok nabu",
        "hallo magenta",
        "hey mercedes",
        "celia",
        "olly",
        # A name after a greeting is not the artist of a song
        *(f"hey {name}" for name in _NAMES.split()),
    ),
    polite={
        "de": (
            ("bitte ", ""),
            ("", " bitte"),
            ("", " danke"),
            ("", ", bitte"),
            ("", " vielen dank"),
            ("könntest du bitte ", ""),
            ("sei bitte so lieb und ", ""),
            ("", " wenn möglich"),
        ),
        "fr": (
            ("s'il te plaît ", ""),
            ("", " s'il te plaît"),
            ("", " merci"),
            ("s'il te plaît, ", ""),
            ("", " merci beaucoup"),
            ("peux-tu ", " s'il te plaît"),
            ("", " si possible"),
            ("", " je te prie"),
        ),
        "it": (
            ("per favore ", ""),
            ("", " per favore"),
            ("", " grazie"),
            ("per favore, ", ""),
            ("", " ti ringrazio"),
            ("potresti per favore ", ""),
            ("", " se possibile"),
            ("ti prego ", ""),
        ),
        "es": (
            ("por favor ", ""),
            ("", " por favor"),
            ("", " gracias"),
            ("por favor, ", ""),
            ("", " te lo agradezco"),
            ("podrías por favor ", ""),
            ("", " si es posible"),
            ("te pido por favor, ", ""),
        ),
        "en": (
            ("please ", ""),
            ("", " please"),
            ("", " thanks"),
            ("", ", please"),
            ("", " thank you so much"),
            ("would you ", " please"),
            ("", " if possible"),
            ("i'd like you to ", ""),
        ),
    },
)
HELD_OUT = Wording(
    quotes=(
        ('"', '"'),
        ("“", "”"),
        ("„", "“"),
        ("«", "»"),
        ("« ", " »"),
        ("‘", "’"),
        ("”", "”"),
        ("‹", "›"),
        ("'", "'"),
    ),
    emoji=("🎶", "😊", "🤔", "🥰", "👨‍👩‍👧", "✌🏽", "☔️", "🇩🇪", ";-)"),
    wake_words=("alexa", "cortana", "hey jarvis", "echo"),
    polite={
        "de": (("sei so nett und ", ""), ("", " wenn es geht"), ("", ", danke dir"), ("bitte, bitte ", "")),
        "fr": (("s'il vous plaît, ", ""), ("", " s'il vous plaît"), ("", " stp"), ("", ", merci d'avance")),
        "it": (("per piacere ", ""), ("", " per piacere"), ("", ", grazie mille"), ("per cortesia, ", "")),
        "es": (("porfa ", ""), ("", " porfa"), ("", ", muchas gracias"), ("si no te importa, ", "")),
        "en": (("could you please ", ""), ("", " if you can"), ("", ", thank you"), ("kindly ", "")),
    },
)

Rewriting = Callable[[Utterance, random.Random, Wording], Utterance]


def quoted(utterance: Utterance, rng: random.Random, wording: Wording) -> Utterance:
    """Quotation marks around one of the slots."""
    if not utterance.slots:
        return utterance
    slot, (opening, closing) = rng.choice(utterance.slots), rng.choice(wording.quotes)
    return edit(utterance, [(slot.start, slot.start, opening), (slot.end, slot.end, closing)])


def with_emoji(utterance: Utterance, rng: random.Random, wording: Wording) -> Utterance:
    """An emoji at the end, with or without a space before it."""
    end = len(utterance.text)
    return edit(utterance, [(end, end, rng.choice((" ", "")) + rng.choice(wording.emoji))])


def appended(utterance: Utterance, mark: str) -> Utterance:
    """The utterance with a mark at its end; one that ends in a mark stays as it is."""
    end = len(utterance.text)
    return edit(utterance, [(end, end, mark)]) if utterance.text[-1].isalnum() else utterance


def with_comma(utterance: Utterance, _rng: random.Random, _wording: Wording) -> Utterance:
    """A comma after the first word, unless a slot goes on there."""
    word = re.match(r"\w+(?= )", utterance.text)
    if word is None or any(slot.start < word.end() < slot.end for slot in utterance.slots):
        return utterance
    return edit(utterance, [(word.end(), word.end(), ",")])


def with_wake_word(utterance: Utterance, rng: random.Random, wording: Wording) -> Utterance:
    """A wake word in front: "Alexa, ..."."""
    word = rng.choice(wording.wake_words)
    word = word[0].upper() + word[1:] if rng.random() < 0.5 else word
    return edit(utterance, [(0, 0, word + rng.choice((", ", ", ", " ")))])


def polite(utterance: Utterance, rng: random.Random, wording: Wording) -> Utterance:
    """A polite phrase in front or at the end, in the languages that have some."""
    phrases = wording.polite.get(utterance.locale[:2])
    if not phrases:
        return utterance
    (before, after), end = rng.choice(phrases), len(utterance.text)
    return edit(utterance, [(0, 0, before), (end, end, after)])


def capitalised(utterance: Utterance, words: str) -> Utterance:
    """A capital in the first word, in each word ("title"), or all letters in capitals ("all")."""

    def change(index: int, word: str, _last: bool) -> tuple[str, str, str]:
        if words == "all":
            return "", word.upper(), ""
        return "", word[0].upper() + word[1:] if index == 0 or words == "title" else word, ""

    return rewrite(utterance, change)


def without_accents(utterance: Utterance) -> Utterance:
    """Accents of Latin letters missing as on a foreign keyboard: "für" becomes "fur", "à" becomes "a"."""
    return substitute(utterance, re.compile("[À-ɏ]"), lambda match: _BASE[match[0]])


def spelled_out(utterance: Utterance) -> Utterance:
    """German umlauts as two letters: "für" becomes "fuer"."""
    if not utterance.locale.startswith("de"):
        return utterance
    return substitute(utterance, re.compile("[äöüßÄÖÜ]"), lambda match: _GERMAN[match[0]])


def with_apostrophes(utterance: Utterance, apostrophe: str) -> Utterance:
    """Another apostrophe within words, or none ("")."""
    return substitute(utterance, re.compile(r"(?<=\w)'(?=\w)"), lambda _: apostrophe)


def with_spaces(utterance: Utterance, space: str) -> Utterance:
    """Another character for single spaces."""
    return substitute(utterance, re.compile(r"(?<=\S) (?=\S)"), lambda _: space)


def broken(utterance: Utterance, rng: random.Random, character: str) -> Utterance:
    """A format character within a word of four letters or more."""
    words = list(_LONG_WORD.finditer(utterance.text))
    if not words:
        return utterance
    word = rng.choice(words)
    place = rng.randrange(word.start() + 1, word.end())
    return edit(utterance, [(place, place, character)])


TYPED: Mapping[str, Rewriting] = {
    "quotes": quoted,
    "emoji": with_emoji,
    "final .": lambda u, _rng, _w: appended(u, "."),
    "final …": lambda u, _rng, _w: appended(u, "…"),
    "final !": lambda u, _rng, _w: appended(u, "!"),
    "final ?": lambda u, _rng, _w: appended(u, "?"),
    "comma": with_comma,
    "wake word": with_wake_word,
    "politeness": polite,
    "digits": lambda u, _rng, _w: with_digits(u),
    "times": lambda u, rng, _w: with_times(u, rng),
    "money, degrees": lambda u, rng, _w: with_symbols(u, rng),
    "first capital": lambda u, _rng, _w: capitalised(u, "first"),
    "title case": lambda u, _rng, _w: capitalised(u, "title"),
    "all capitals": lambda u, _rng, _w: capitalised(u, "all"),
    "no accents": lambda u, _rng, _w: without_accents(u),
    "ae oe ue ss": lambda u, _rng, _w: spelled_out(u),
    "no apostrophe": lambda u, _rng, _w: with_apostrophes(u, ""),
    "’": lambda u, _rng, _w: with_apostrophes(u, "’"),
    "no-break space": lambda u, _rng, _w: with_spaces(u, "\u00a0"),
    "soft hyphen": lambda u, rng, _w: broken(u, rng, "\u00ad"),
    "zero-width space": lambda u, rng, _w: broken(u, rng, "\u200b"),
    "byte-order mark": lambda u, _rng, _w: edit(u, [(0, 0, "\ufeff")]),
}


def typed_pairs(name: str, utterances: Sequence[Utterance], seed: int = 0) -> list[tuple[int, Utterance]]:
    """The utterances that a rewriting of `TYPED` changes: their index and the typed copy; deterministic for a seed.

    What happens to an utterance depends on its own text and locale, not on the others.
    """
    found = []
    for i, utterance in enumerate(utterances):
        rng = random.Random(f"{seed}:{name}:{utterance.locale}:{utterance.text}")
        typed = TYPED[name](utterance, rng, HELD_OUT)
        if typed is not utterance:
            found.append((i, typed))
    return found
