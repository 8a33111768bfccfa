r"""Statements that hold words of the domain, as out-of-scope text: "yesterday i repaired the alarm clock".

    python -m training.corpus statements --data DATA --locales de-DE,en-US --generic FOLDER --out STATEMENTS

A student that has seen requests and unrelated sentences alone takes every sentence with a keyword for a request. OUT
holds `LOCALE.txt.gz`, for `training.finetune --out-of-scope`, and `manifest.json`. A sentence of the spoken sources is
taken if

- it has a keyword: a word most of whose training utterances are of one domain (without domains: intent);
- it does not begin like a request: no training text begins with its first two words, few with its first one;
- it is no question and no exclamation, and equals no dev or test utterance.

Some requests remain ("be so kind and ..."): look at the files.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data import datasets
from training.data.utterances import Utterance
from training.text.budgets import SPOKEN
from training.text.corpus import CorpusError, find_files, language_of, lines_of_file, sampled
from training.text.held_out import held_out_forms
from training.text.line_folder import Lines, public_arguments, require_absent
from training.text.sources import name_of, texts_by_language

PART = "statements"
WORDS = range(4, 17)  # number of words of a statement
MIN_LETTERS, MIN_UTTERANCES = 4, 8  # of a keyword
MIN_SHARE, MIN_LIFT = 0.7, 5.0  # of a keyword's utterances that are of one label; by which that exceeds its share
MAX_FIRST = 0.004  # share of the training texts that may begin with a statement's first word


@dataclass(frozen=True)
class Statements:
    """What is asked for; each field is a flag of the command."""

    data: str
    locales: str
    generic: str
    spoken: str = SPOKEN
    maximum: int = 60_000
    seed: int = 1
    on_error: datasets.OnError = "raise"


def build(spec: Statements, out: Path, force: bool = False) -> dict[str, Any]:
    """Write the folder `out`, which is complete or absent. Returns the manifest.

    Raises CorpusError, DatasetError: text or data that can't be used, or `out` exists.
    """
    require_absent(out, force)
    locales = [part.strip() for part in spec.locales.split(",") if part.strip()]
    spoken = {part.strip() for part in spec.spoken.split(",")}
    utterances = datasets.load(spec.data, locales, spec.on_error).utterances
    found, lines = texts_by_language(Path(spec.generic)), Lines(held_out_forms(utterances))
    for locale in locales:
        files = find_files([str(entry) for entry in found.get(language_of(locale), ())])
        if not files:
            raise CorpusError(f"--generic {spec.generic}: holds no text for {locale}")
        train = [u for u in utterances if u.locale == locale and u.partition == "train"]
        plain = (line for file in files if name_of(file) in spoken for line in lines_of_file(file))
        chosen = statements_in(plain, keywords_of(train), [u.text for u in train])
        for line in sampled(chosen, random.Random(f"{spec.seed}:{locale}"), spec.maximum):
            lines.add(locale, PART, line)
    head = {"command": "training.corpus statements", "arguments": public_arguments(spec)}
    return lines.write(out, locales, spec.seed, head)


def keywords_of(utterances: Sequence[Utterance]) -> set[str]:
    """Words that occur mostly in utterances of one domain; of one intent where there are no domains."""
    labels = [u.domain or u.intent or "" for u in utterances]
    by_word: dict[str, Counter[str]] = {}
    for utterance, label in zip(utterances, labels, strict=True):
        for word in set(_words(utterance.text)):
            by_word.setdefault(word, Counter())[label] += 1
    sizes, keywords = Counter(labels), set[str]()
    for word, counts in by_word.items():
        label, count = counts.most_common(1)[0]
        share = count / counts.total()
        often = counts.total() >= MIN_UTTERANCES and len(word) >= MIN_LETTERS
        if often and share >= MIN_SHARE and share >= MIN_LIFT * sizes[label] / len(utterances):
            keywords.add(word)
    return keywords


def statements_in(lines: Iterable[str], keywords: Collection[str], requests: Sequence[str]) -> Iterator[str]:
    """The lines that hold a keyword and don't begin like one of the requests."""
    beginnings = [tuple(_words(text)[:2]) for text in requests]
    first, known = Counter(words[0] for words in beginnings if words), set(beginnings)
    for line in lines:
        words = _words(line)
        if (
            len(words) in WORDS
            and not re.search("[?!]", line)
            and not set(words).isdisjoint(keywords)
            and tuple(words[:2]) not in known
            and first[words[0]] <= MAX_FIRST * len(requests)
        ):
            yield line.strip()


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
