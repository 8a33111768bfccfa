"""Texts whose language does not match their locale, by py3langid (naive Bayes over byte n-grams).

Requests are short, so a language counts only if its probability is high. Among all languages the threshold is lower
than among those of the data set: with few candidates one of them easily gets a high probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from training.check.findings import Finding
from training.check.texts import language_of
from training.data.utterances import Utterance

MIN_PROBABILITY = 0.8  # among all languages that are known
MIN_PROBABILITY_AMONG_OWN = 0.95  # among those of the data set
SAME = {"nb": "no", "nn": "no", "iw": "he", "in": "id", "fil": "tl"}  # other codes, as the identifier has them


def wrong_languages(utterances: Sequence[Utterance]) -> list[Finding]:
    """Texts in another language than their locale's, the surest first; locales of unknown languages are left out.

    Values of slots are not looked at: titles and names are often in another language.
    """
    identifier, known = _identifier()
    own = sorted({_code(u.locale) for u in utterances} & known)
    texts = [_without_values(utterance) for utterance in utterances]
    suspects: dict[int, tuple[str, float]] = {}
    for candidates, threshold in ((None, MIN_PROBABILITY), (own, MIN_PROBABILITY_AMONG_OWN)):
        if candidates is not None and len(candidates) < 2:
            continue
        identifier.set_languages(candidates)
        for row, utterance in enumerate(utterances):
            if _code(utterance.locale) in own and texts[row]:
                language, probability = identifier.classify(texts[row])
                is_other = SAME.get(language, language) != _code(utterance.locale)
                if is_other and probability >= threshold and row not in suspects:
                    suspects[row] = (language, float(probability))
    ordered = sorted(suspects, key=lambda row: (-suspects[row][1], row))
    return [_finding(utterances[row], row, *suspects[row]) for row in ordered]


def unknown_languages(utterances: Sequence[Utterance]) -> list[str]:
    """The locales whose language the identifier does not know."""
    _, known = _identifier()
    return sorted({u.locale for u in utterances if _code(u.locale) not in known})


@cache
def _identifier() -> tuple[Any, frozenset[str]]:
    """The identifier, and all languages that it knows."""
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    return identifier, frozenset(identifier.labels)


def _finding(utterance: Utterance, row: int, language: str, probability: float) -> Finding:
    details = {"language": language, "probability": round(probability, 4)}
    return Finding(
        f"locale {utterance.locale}, but the text looks like {language!r} ({probability:.0%})", (row,), details
    )


def _without_values(utterance: Utterance) -> str:
    """The text without the values of slots."""
    parts, end = [], 0
    for slot in utterance.slots:
        parts.append(utterance.text[end : slot.start])
        end = slot.end
    return " ".join("".join([*parts, utterance.text[end:]]).split())


def _code(locale: str) -> str:
    language = language_of(locale)
    return SAME.get(language, language)
