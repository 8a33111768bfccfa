r"""A transfer pool: in-domain plain sentences by locale, on which students imitate a fine-tuned teacher.

    python -m training.corpus pool --data DATA --locales de-DE,fr-FR --extra-locales nl-NL --generic FOLDER \
        --teacher CKPT --out POOL

POOL holds `LOCALE.txt.gz`, a sentence a line, shuffled, for `training.finetune --unlabelled POOL`, and `manifest.json`:
arguments, and lines by locale and part. The parts of a locale:

- `train`: the training texts of the labelled data; `typed`: variants of them as people type.
- `reworded`: with other words in some places, which occur in the same contexts (`training.text.rewording`).
- `substituted`: with other values in their slots, from other utterances of the locale; only those for which the teacher
  gives the utterance's own intent.
- `voice_prompts`: the source of that name in the folder of plain sentences.
- `nearest`: those sentences of its spoken sources that are nearest to an intent: by the cosine between the teacher's
  sentence embedding and the mean embedding of an intent's training texts. Intents take turns.

A line occurs once in a locale. None equals a dev or test utterance of the labelled data, in any of the locales, without
regard to case, spacing and punctuation; nor is one made from a training text that does.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from training.data import datasets
from training.data.augmentation import SlotValues, augment
from training.data.utterances import Utterance
from training.text.budgets import SPOKEN
from training.text.corpus import CorpusError, find_files, language_of, lines_of_file, sampled
from training.text.held_out import held_out_forms
from training.text.line_folder import Lines, public_arguments, require_absent
from training.text.rewording import Neighbours
from training.text.sources import name_of, texts_by_language

PROMPTS = "voice_prompts"
WORDS = range(2, 21)  # number of words of a generic sentence that may be a request
MAX_PLAIN = 300_000  # sentences of a language from which neighbours of words are learned
PER_INTENT = 50  # training texts of an intent and locale whose mean embedding stands for it

Embeddings = NDArray[np.float32]


class Teacher(Protocol):
    """What a pool asks a teacher."""

    def intents(self, texts: Sequence[str]) -> list[str]:
        """The intent of each text."""

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """Sentence embeddings [texts, width]."""


@dataclass(frozen=True)
class Pool:
    """The specification of a pool; each field is a flag of the command."""

    data: str
    locales: str
    extra_locales: str = ""
    generic: str = ""
    spoken: str = SPOKEN
    views: int = 2
    substitutions: int = 2
    rewordings: int = 2
    candidates: int = 30_000
    nearest: int = 10_000
    seed: int = 1
    on_error: datasets.OnError = "raise"


def build(
    spec: Pool, teacher: Teacher, out: Path, force: bool = False, facts: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write the pool to the folder `out`, which is complete or absent. Returns the manifest, with the given `facts`.

    Raises CorpusError, DatasetError: text or data that can't be used, or `out` exists.
    """
    require_absent(out, force)
    served, extra = (_listed(text) for text in (spec.locales, spec.extra_locales))
    locales = list(dict.fromkeys([*served, *extra]))
    utterances = datasets.load(spec.data, locales, spec.on_error).utterances
    pool = Lines(held_out_forms(utterances))
    train = [u for u in utterances if u.partition == "train"]
    kept = [u for u in train if pool.add(u.locale, "train", u.text)]
    add_typed(spec, kept, pool)
    add_substituted(spec, kept, teacher, pool)
    add_reworded(spec, locales, kept, pool)
    if spec.generic:
        add_generic(spec, served, kept, teacher, pool)
    head = {"command": "training.corpus pool", "arguments": public_arguments(spec), **(facts or {})}
    return pool.write(out, locales, spec.seed, head)


def add_typed(spec: Pool, utterances: Sequence[Utterance], pool: Lines) -> None:
    """Add typed variants of the utterances."""
    rng = random.Random(f"{spec.seed}:typed")
    for _ in range(spec.views):
        for utterance in utterances:
            pool.add(utterance.locale, "typed", augment(utterance, rng, 1.0).text)


def add_substituted(spec: Pool, utterances: Sequence[Utterance], teacher: Teacher, pool: Lines) -> None:
    """Add variants with other slot values, half of them typed, where the teacher gives the utterance's intent."""
    rng, values = random.Random(f"{spec.seed}:substituted"), SlotValues(utterances)
    found: dict[tuple[str, str], Utterance] = {}
    for _ in range(spec.substitutions):
        for utterance in utterances:
            if utterance.slots and utterance.intent:
                variant = augment(values.substitute(utterance, rng), rng, 0.5)
                if pool.is_new(variant.locale, variant.text):
                    found[variant.locale, variant.text] = variant
    variants = list(found.values())
    for variant, intent in zip(variants, teacher.intents([v.text for v in variants]), strict=True):
        if intent == variant.intent:
            pool.add(variant.locale, "substituted", variant.text)
        else:
            pool.removed["teacher_disagrees"] += 1


def add_reworded(spec: Pool, locales: Sequence[str], utterances: Sequence[Utterance], pool: Lines) -> None:
    """Add variants with other words. The words are learned from the texts and the spoken sentences of the language."""
    found = texts_by_language(Path(spec.generic)) if spec.generic else {}
    for locale in locales if spec.rewordings else ():
        rng = random.Random(f"{spec.seed}:reworded:{locale}")
        files = find_files([str(entry) for entry in found.get(language_of(locale), ())])
        plain = (line for file in files if name_of(file) in _listed(spec.spoken) for line in lines_of_file(file))
        texts = [u.text for u in utterances if u.locale == locale]
        neighbours = Neighbours.of(texts, sampled(plain, rng, MAX_PLAIN))
        for _ in range(spec.rewordings):
            for text in texts:
                pool.add(locale, "reworded", neighbours.reword(text, rng))


def add_generic(spec: Pool, served: Sequence[str], train: Sequence[Utterance], teacher: Teacher, pool: Lines) -> None:
    """Add voice prompts, and the spoken sentences nearest to the domain, in the languages of the served locales.

    Raises CorpusError: the folder holds no text in any of them.
    """
    found = texts_by_language(Path(spec.generic))
    by_language = {language_of(locale): locale for locale in reversed(served)}
    if not any(language in found for language in by_language):
        raise CorpusError(f"--generic {spec.generic}: holds no text in {', '.join(by_language)}")
    candidates: list[tuple[str, str]] = []  # locale and text
    for language, locale in sorted(by_language.items()):
        spoken: list[str] = []
        for file in find_files([str(entry) for entry in found.get(language, ())]) if language in found else ():
            if (name := name_of(file)) == PROMPTS:
                for line in lines_of_file(file):
                    if line.strip():
                        pool.add(locale, PROMPTS, line)
            elif name in _listed(spec.spoken):
                spoken += _requests(lines_of_file(file))
        rng = random.Random(f"{spec.seed}:{language}")
        rng.shuffle(spoken)
        candidates += [(locale, text) for text in spoken[: spec.candidates] if pool.is_new(locale, text)]
    if not candidates or not spec.nearest:
        return
    intents, scores = nearest_intents(
        teacher.embed([text for _, text in candidates]), intent_embeddings(train, teacher)
    )
    for locale in by_language.values():
        rows = np.array([i for i, (of, _) in enumerate(candidates) if of == locale], dtype=np.int64)
        for i in rows[in_turns(intents[rows], scores[rows])[: spec.nearest]]:
            pool.add(locale, "nearest", candidates[i][1])


def _requests(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        if len(words := line.split()) in WORDS:
            yield " ".join(words)


def intent_embeddings(utterances: Sequence[Utterance], teacher: Teacher) -> Embeddings:
    """The mean embedding of each intent, over some training texts of each locale, [intents, width]."""
    chosen: dict[tuple[str, str], list[str]] = {}
    for utterance in utterances:
        texts = chosen.setdefault((utterance.intent or "", utterance.locale), [])
        if len(texts) < PER_INTENT:
            texts.append(utterance.text)
    intents = [intent for (intent, _), texts in chosen.items() for _ in texts]
    embedded = teacher.embed([text for texts in chosen.values() for text in texts])
    rows: dict[str, list[int]] = {}
    for i, intent in enumerate(intents):
        rows.setdefault(intent, []).append(i)
    return np.stack([embedded[places].mean(axis=0) for places in rows.values()])


def nearest_intents(texts: Embeddings, intents: Embeddings) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The intent nearest to each text, [texts], and the cosine between them.

    The mean of the texts is taken off first, as sentence embeddings share most of their direction.
    """
    mean = texts.mean(axis=0)
    ours, theirs = (
        x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9) for x in (texts - mean, intents - mean)
    )
    cosines = ours @ theirs.T
    return cosines.argmax(axis=1), cosines.max(axis=1)


def in_turns(intents: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """The order of texts in which intents take turns, each with its nearest text that is left.

    Else an intent of small talk, to which much text is near, would take most places.
    """
    ranked = np.argsort(-scores, kind="stable")
    seen: Counter[int] = Counter()
    turns = np.zeros(len(scores), dtype=np.int64)
    for i in ranked:
        turns[i] = seen[int(intents[i])]
        seen[int(intents[i])] += 1
    return np.lexsort((-scores, turns))


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
