"""Number words as people type them: digits, times of day, amounts of money and degrees."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from itertools import product

from training.data.rewriting import Edit, edit, substitute
from training.data.utterances import Utterance

_UP_TO_TWENTY = {
    "de": """null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn
        siebzehn achtzehn neunzehn zwanzig""",
    "fr": """zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize dix-sept
        dix-huit dix-neuf vingt""",
    "it": """zero uno due tre quattro cinque sei sette otto nove dieci undici dodici tredici quattordici quindici sedici
        diciassette diciotto diciannove venti""",
    "es": """cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciséis
        diecisiete dieciocho diecinueve veinte""",
    "en": """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
        seventeen eighteen nineteen twenty""",
}
_TENS = {  # from 20 on, in front of a unit
    "de": "zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig",
    "fr": "vingt trente quarante cinquante soixante",
    "it": "venti trenta quaranta cinquanta sessanta settanta ottanta novanta",
    "es": "veinte treinta cuarenta cincuenta sesenta setenta ochenta noventa",
    "en": "twenty thirty forty fifty sixty seventy eighty ninety",
}
_ARTICLES = {"un", "uno"}  # stay words
# What stands before, between and after hour and minutes, and how the time is typed
_TIMES = {
    "de": (r"", r" uhr(?: {})?", ("{h} uhr", "{h}uhr", "{h}h", "{h}:00"), ("{h}:{m}", "{h}:{m} uhr", "{h}.{m} uhr")),
    "fr": (r"", r" heures?(?: {})?", ("{h}h", "{h} h", "{h}h00", "{h}:00"), ("{h}h{m}", "{h} h {m}", "{h}:{m}")),
    "it": (r"(?<=\balle )|(?<=\bore )", r"(?: e {})?(?! e\b)", ("{h}", "{h}:00"), ("{h}:{m}", "{h}.{m}")),
    "es": (r"(?<=\blas )", r"(?: y {})?(?! y\b)", ("{h}", "{h}:00", "{h}h"), ("{h}:{m}", "{h}.{m}")),
    "en": (r"", r"(?: {})? (?:(a)|p)\.? ?m\b\.?", ("{h} {x}m", "{h}{x}m"), ("{h}:{m} {x}m", "{h}:{m}{x}m")),
}
_UNITS: Mapping[
    str, Mapping[str, tuple[str, ...]]
] = {  # by language: pattern of a unit, and how an amount of it is typed
    "de": {"euro": ("{}€", "{} €"), "dollar": ("${}", "{}$"), "grad": ("{}°", "{} °"), "prozent": ("{}%", "{} %")},
    "fr": {
        "euros?": ("{}€", "{} €"),
        "dollars?": ("${}", "{}$"),
        "degrés?": ("{}°", "{} °"),
        "pour ?cent": ("{}%", "{} %"),
    },
    "it": {"euro": ("{}€", "{} €"), "dollar[oi]": ("${}", "{}$"), "gradi": ("{}°", "{} °"), "per ?cento": ("{}%",)},
    "es": {
        "euros?": ("{}€", "{} €"),
        "dólar(?:es)?": ("${}", "{}$"),
        "grados": ("{}°", "{} °"),
        "por ciento": ("{}%",),
    },
    "en": {
        "dollars?|bucks": ("${}",),
        "euros?": ("€{}", "{}€"),
        "pounds": ("£{}",),
        "degrees": ("{}°",),
        "percent": ("{}%",),
    },
}


def _numbers(language: str) -> dict[str, int]:
    """0 to 99 by the words for them (French: to 69, and 70, 80 and 90)."""
    small = {word: number for number, word in enumerate(_UP_TO_TWENTY[language].split())}
    found = dict(small)
    units = {word: number for word, number in small.items() if 1 <= number <= 9}
    for (ten, word), (unit, number) in product(enumerate(_TENS[language].split(), 2), units.items()):
        found[word] = 10 * ten
        one = "ein" if unit == "eins" else unit
        compounds = {
            "de": [f"{one}und{word}"],
            "fr": [f"{word} et un"] if number == 1 else [f"{word}-{unit}", f"{word} {unit}"],
            "it": [(word[:-1] if number in (1, 8) else word) + (unit.replace("tre", "tré") if number == 3 else unit)],
            "es": [f"{word} y {unit}"] if ten > 2 else [f"veinti{unit}"],
            "en": [f"{word} {unit}", f"{word}-{unit}"],
        }
        found.update(dict.fromkeys(compounds[language], 10 * ten + number))
    if language == "fr":
        found.update({"soixante-dix": 70, "quatre-vingts": 80, "quatre-vingt-dix": 90})
    return found


NUMBERS: Mapping[str, dict[str, int]] = {language: _numbers(language) for language in _UP_TO_TWENTY}
_WORDS = {
    language: "|".join(sorted(map(re.escape, numbers), key=len, reverse=True)) for language, numbers in NUMBERS.items()
}
_NUMBER = {language: re.compile(rf"(?<![\w'’-])({words})(?![\w'’-])") for language, words in _WORDS.items()}
_TIME = {
    language: re.compile(rf"(?:{_TIMES[language][0]})(?<![\w'’-])({words})" + _TIMES[language][1].format(f"({words})"))
    for language, words in _WORDS.items()
}
_UNIT = {
    language: [
        (re.compile(rf"(?<![\w'’-])({words}) (?:{unit})(?!\w)"), forms) for unit, forms in _UNITS[language].items()
    ]
    for language, words in _WORDS.items()
}


def with_digits(utterance: Utterance) -> Utterance:
    """Number words as digits: "um neun uhr" becomes "um 9 uhr"; in languages without a table nothing changes."""
    language = utterance.locale[:2]
    if language not in NUMBERS:
        return utterance

    def digits(match: re.Match[str]) -> str:
        return match[0] if match[0] in _ARTICLES else str(NUMBERS[language][match[0]])

    return substitute(utterance, _NUMBER[language], digits)


def with_times(utterance: Utterance, rng: random.Random) -> Utterance:
    """Times of day: "um neun uhr dreißig" becomes "um 9:30", "at nine a. m." becomes "at 9 am"."""
    language = utterance.locale[:2]
    if language not in NUMBERS:
        return utterance
    numbers, (_, _, hours, minutes) = NUMBERS[language], _TIMES[language]

    def typed(match: re.Match[str]) -> str:
        hour, minute = numbers[match[1]], numbers.get(match[2] or "", 0)
        if hour > 24 or minute > 59 or _NUMBER[language].match(match.string, match.end() + 1):
            return match[0]
        forms = minutes if match[2] else hours
        half = "a" if language == "en" and match[3] else "p"
        return rng.choice(forms).format(h=hour, m=f"{minute:02}", x=half)

    return substitute(utterance, _TIME[language], typed)


def with_symbols(utterance: Utterance, rng: random.Random) -> Utterance:
    """Money, degrees and percent: "five dollars" becomes "$5", "zwanzig grad" becomes "20°"."""
    language = utterance.locale[:2]
    edits: list[Edit] = []
    for pattern, forms in _UNIT.get(language, ()):
        for match in pattern.finditer(utterance.text):
            form, amount = rng.choice(forms), str(NUMBERS[language][match[1]])
            if form.startswith("{}"):  # two edits, since a slot may end between amount and unit
                edits += [(*match.span(1), amount), (match.end(1), match.end(), form.removeprefix("{}"))]
            else:
                edits.append((*match.span(), form.format(amount)))
    return edit(utterance, sorted(edits))
