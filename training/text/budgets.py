"""The specification of a transfer set, and its token budgets by language and kind of text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from training.data import datasets
from training.text.corpus import CorpusError, language_of

SPOKEN = "tatoeba,common_voice,xed,voice_prompts,thorsten,gerdracor,commonvoice_fr-libretheatre"

Kind = Literal["task", "spoken", "written", "generic"]
KINDS: tuple[Kind, ...] = get_args(Kind)  # a line that occurs in two kinds belongs to the first
Group = tuple[str, Kind]  # language and kind of text


@dataclass(frozen=True)
class TransferSet:
    """The specification of a transfer set; each field is a flag of the command.

    Raises CorpusError: a field is out of range, or the source of a kind of text is missing.
    """

    locales: str
    tokens: int
    ratio: str = "7:3"
    generic: str = ""
    sources: str = ""
    data: str = ""
    spoken_share: float | None = None
    spoken: str = SPOKEN
    tokenizer: str = ""
    seed: int = 1
    repeat: bool = False
    on_error: datasets.OnError = "raise"

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise CorpusError(f"--tokens is {self.tokens}; allowed: 1 or more")
        if not 0 <= self.seed < 1 << 64:
            raise CorpusError(f"--seed is {self.seed}; allowed: 0 to 2**64 - 1")
        if self.spoken_share is not None and not 0 <= self.spoken_share <= 1:
            raise CorpusError(f"--spoken-share is {self.spoken_share}; allowed: 0 to 1")
        weights_of(self.locales)
        for share, kind, name in zip(ratio_of(self.ratio), ("generic", "task"), ("generic", "data"), strict=True):
            if share and not getattr(self, name):
                raise CorpusError(f"--ratio {self.ratio} asks for {kind} text; give --{name}")

    def takes(self, locale: str) -> bool:
        """Whether `locales` includes a locale, by its own tag or by its language alone."""
        asked = [part.strip().partition("=")[0] for part in self.locales.split(",")]
        return locale in asked or language_of(locale) in asked


def ratio_of(text: str) -> tuple[Fraction, Fraction]:
    """Generic and task share of a ratio such as "7:3". Raises CorpusError: it is none."""
    generic, *rest = [_share(part) for part in text.split(":")]
    if len(rest) != 1 or generic is None or rest[0] is None or not generic + rest[0]:
        raise CorpusError(f"--ratio is {text!r}; allowed: GENERIC:TASK, two numbers from 0 up, such as 1:0, 7:3 or 0:1")
    return generic, rest[0]


def weights_of(text: str) -> dict[str, Fraction]:
    """The languages of "de,fr-FR" or "de=2,fr-FR=1" and their weights, in order of name.

    Raises CorpusError: none is named, a language is named twice, or a weight is not above 0.
    """
    weights: dict[str, Fraction] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        locale, _, weight = part.partition("=")
        share, language = _share(weight or "1"), language_of(locale)
        if not share or language in weights:
            raise CorpusError(f"--locales: {part!r}; allowed: each language once, alone or with a weight above 0, de=2")
        weights[language] = share
    if not weights:
        raise CorpusError("--locales names none; allowed: comma-separated tags such as de,fr-FR or de=2,fr-FR=1")
    return dict(sorted(weights.items()))


def _share(text: str) -> Fraction | None:
    try:
        share = Fraction(text.strip())
    except (ValueError, ZeroDivisionError):
        return None
    return share if share >= 0 else None


def apportion(total: int, weights: Sequence[Fraction]) -> list[int]:
    """Whole numbers in proportion to the weights that sum up to `total` (largest remainders)."""
    exact = [total * weight / sum(weights) for weight in weights]
    parts = [math.floor(x) for x in exact]
    nearest = sorted(range(len(parts)), key=lambda i: parts[i] - exact[i])
    for i in nearest[: total - sum(parts)]:
        parts[i] += 1
    return parts


def budgets_of(spec: TransferSet) -> dict[Group, int]:
    """The token budget of each group; groups without any are left out."""
    generic, task = apportion(spec.tokens, ratio_of(spec.ratio))
    kinds: dict[Kind, int] = {"task": task, "generic": generic}
    if spec.spoken_share is not None:
        share = Fraction(str(spec.spoken_share))
        spoken, written = apportion(generic, [share, 1 - share])
        kinds = {"task": task, "spoken": spoken, "written": written}
    weights = weights_of(spec.locales)
    parts = {kind: apportion(total, list(weights.values())) for kind, total in kinds.items()}
    return {(language, kind): parts[kind][i] for kind in kinds for i, language in enumerate(weights) if parts[kind][i]}
