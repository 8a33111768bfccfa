"""Lengths of texts in words and tokens, and what a student's tokenizer makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from service.student.manifest import TOKENIZER_FILE, StudentError, read_manifest
from service.student.tokenization import TextEncoder
from training.check.findings import Finding
from training.data.utterances import Utterance

QUANTILES = (0.5, 0.9, 0.99, 1.0)


class Lengths(NamedTuple):
    """For each utterance its words, tokens and unknown tokens, and whether the tokenizer cut it off."""

    student: str
    max_length: int
    words: list[int]
    tokens: list[int]
    unknown: list[int]
    truncated: list[bool]


def measure(utterances: Sequence[Utterance], student: Path) -> Lengths:
    """Count words and tokens with the tokenizer of a student folder.

    Raises StudentError: the folder holds no student.
    """
    manifest = read_manifest(student)
    try:
        encoder = TextEncoder.from_file(student / TOKENIZER_FILE, manifest.max_length)
    except ValueError as error:
        raise StudentError(str(error)) from error
    encoded = [encoder.encode(utterance.text) for utterance in utterances]
    return Lengths(
        manifest.name,
        manifest.max_length,
        [len(one.words) for one in encoded],
        [len(one.ids) for one in encoded],
        [one.unknown for one in encoded],
        [one.truncated for one in encoded],
    )


def summary(utterances: Sequence[Utterance], lengths: Lengths) -> dict[str, Any]:
    """By locale: quantiles of words and tokens, the share of unknown tokens and of truncated texts."""
    locales: dict[str, Any] = {}
    for locale in sorted({utterance.locale for utterance in utterances}):
        rows = [row for row, utterance in enumerate(utterances) if utterance.locale == locale]
        words, tokens = (np.array(values)[rows] for values in (lengths.words, lengths.tokens))
        locales[locale] = {
            "words": dict(zip(quantile_names(), np.quantile(words, QUANTILES).astype(int).tolist(), strict=True)),
            "tokens": dict(zip(quantile_names(), np.quantile(tokens, QUANTILES).astype(int).tolist(), strict=True)),
            "tokens_per_word": round(float(tokens.sum() / max(1, words.sum())), 3),
            "unknown_rate": round(sum(lengths.unknown[row] for row in rows) / max(1, int(tokens.sum())), 6),
            "truncated": sum(lengths.truncated[row] for row in rows),
        }
    return {"student": lengths.student, "max_length": lengths.max_length, "locales": locales}


def quantile_names() -> list[str]:
    """The quantiles of `summary`, such as "99%"."""
    return [f"{quantile:.0%}" for quantile in QUANTILES]


def too_long(lengths: Lengths) -> list[Finding]:
    """Texts that the tokenizer cuts off."""
    limit = lengths.max_length
    return [
        Finding(f"is cut off after {limit} tokens", (row,)) for row, is_cut in enumerate(lengths.truncated) if is_cut
    ]


def unknown_tokens(lengths: Lengths) -> list[Finding]:
    """Texts with unknown tokens, those with most of them first."""
    rows = sorted((row for row, count in enumerate(lengths.unknown) if count), key=lambda row: -lengths.unknown[row])
    return [
        Finding(
            f"{lengths.unknown[row]} of {lengths.tokens[row]} tokens are unknown",
            (row,),
            {"unknown": lengths.unknown[row]},
        )
        for row in rows
    ]
