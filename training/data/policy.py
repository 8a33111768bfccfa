"""Augmentation policies: which rewritings training utterances get, in which order, how often and how strongly.

A policy is written ``NAME:SHARE[:STRENGTH],...``: "contextual:0.3:0.15,typed:0.5" first replaces 15 % of the words
outside slots in 30 % of the utterances, then rewrites half of the results as typed text. "none" changes nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from training.data.augmentation import SlotValues, augment, shortened, swapped
from training.data.utterances import Utterance

NONE = "none"
CONTEXTUAL, PARAPHRASED = "contextual", "paraphrased"  # they need a masked language model, or paraphrases

Rewriter = Callable[[Sequence[Utterance], float, random.Random], list[Utterance]]
"""(utterances, strength, rng) -> a variant of each with the same labels: the utterance itself where nothing changes."""


class Kind(NamedTuple):
    """A rewriting: what it does, and its default strength, or None where it has none."""

    title: str
    strength: float | None


KINDS = {
    CONTEXTUAL: Kind("words outside slots become those that a masked language model expects", 0.15),
    "random": Kind("words outside slots change places or are left out", 0.15),
    "substituted": Kind("slots get other values that they have elsewhere in the locale", 0.5),
    "typed": Kind("capitals, punctuation, digits, wake words, polite phrases", None),
    PARAPHRASED: Kind("given paraphrases", None),
}


@dataclass(frozen=True)
class Step:
    """One rewriting of a policy: the share of the utterances that get it, and the share of the words or slots."""

    name: str
    share: float
    strength: float

    def __str__(self) -> str:
        return f"{self.name}:{self.share:g}" + (f":{self.strength:g}" if KINDS[self.name].strength is not None else "")


def parse_policy(text: str) -> tuple[Step, ...]:
    """The steps of a policy, in order. Raises ValueError: an unknown name, one twice, or a number out of range."""
    steps: list[Step] = []
    for part in text.split(",") if text.strip() not in ("", NONE) else ():
        name, *numbers = (x.strip() for x in part.split(":"))
        if name not in KINDS:
            raise ValueError(f"augmentation {name!r}; allowed: {', '.join(KINDS)}, or {NONE} alone")
        if name in (step.name for step in steps):
            raise ValueError(f"augmentation {name}: is given twice; allowed: once")
        default = KINDS[name].strength
        written = f"{name}:SHARE" + ("" if default is None else "[:STRENGTH]")
        try:
            share, *more = (float(number) for number in numbers)
            (strength,) = more if more and default is not None else [default or 0.0, *more]
        except ValueError:
            raise ValueError(f"augmentation {part.strip()!r}; allowed: {written}, numbers from 0 to 1") from None
        if not (0 <= share <= 1 and 0 <= strength <= 1):
            raise ValueError(f"augmentation {part.strip()!r} is out of range; allowed: {written}, numbers from 0 to 1")
        steps.append(Step(name, share, strength))
    return tuple(steps)


class Policy:
    """The steps of a policy with their rewriters."""

    def __init__(self, steps: Sequence[Step], utterances: Sequence[Utterance], more: Mapping[str, Rewriter]) -> None:
        """Slot values are those of the utterances; `more` are rewriters that need something else.

        Raises ValueError: a step has no rewriter.
        """
        values = SlotValues(utterances)
        rewriters: dict[str, Rewriter] = {
            "random": _each(lambda u, share, rng: (swapped if rng.random() < 0.5 else shortened)(u, rng, share)),
            "substituted": _each(lambda u, share, rng: values.substitute(u, rng, share)),
            "typed": _each(lambda u, _, rng: augment(u, rng, 1.0)),
            **more,
        }
        if missing := [step.name for step in steps if step.name not in rewriters]:
            raise ValueError(f"augmentation {', '.join(missing)}: is not available; available: {', '.join(rewriters)}")
        self._steps = [(step, rewriters[step.name]) for step in steps]

    def variants(self, utterances: Sequence[Utterance], rng: random.Random) -> list[Utterance]:
        """A variant of each utterance: the utterance itself where it was not rewritten."""
        found = list(utterances)
        for step, rewriter in self._steps:
            chosen = [i for i in range(len(found)) if rng.random() < step.share]
            variants = rewriter([found[i] for i in chosen], step.strength, rng)
            for i, variant in zip(chosen, variants, strict=True):
                found[i] = variant
        return [u if variant == u else variant for u, variant in zip(utterances, found, strict=True)]


def _each(rewrite: Callable[[Utterance, float, random.Random], Utterance]) -> Rewriter:
    return lambda utterances, strength, rng: [rewrite(utterance, strength, rng) for utterance in utterances]
