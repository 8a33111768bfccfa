"""Whether a text is a request at all: scores, thresholds for a stated rate of false rejection, and how well they tell.

Three scores are compared on requests and on text that is none: the confidence of the best label (Hendrycks and Gimpel
2017), the energy of the logits (Liu et al. 2020), and the distance to the nearest class mean (Lee et al. 2018).
"""

from __future__ import annotations

import gzip
import json
import logging
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from export.calibration import LEAST, halves
from export.class_means import ClassMeans
from export.folder import ExportError
from export.observation import Texts
from service.student.calibration import distance_score, scope_score
from service.student.decoding import FloatArray, best
from service.student.manifest import Scope
from training.data.datasets import SAMPLE
from training.text.corpus import read_lines

log = logging.getLogger("export.onnx")

Method = Literal["max_softmax", "energy", "class_means"]
UNMEASURED: Final[Method] = "energy"  # where there is no text to compare the methods on
DIRECTIONS = (32, 64, 128)
WORTHWHILE = 0.005  # of AUROC, for which more directions are taken
FEWEST_WORDS, MOST_WORDS = 3, 15
MOST_SENTENCES = 1000
OWN_TEXT = SAMPLE / "out_of_scope"
_MARKS = re.compile(r"[^\w\s'-]|(?<!\w)['-]|['-](?!\w)|_")

Values = NDArray[np.float64]
Cells = dict[str, dict[str, dict[str, float]]]  # by locale, source, and name of the figure


@dataclass(frozen=True)
class Judged:
    """The scope that is served, the class means that it needs (None for other methods), and figures for people."""

    scope: Scope
    means: ClassMeans | None
    measured: dict[str, Any]


@dataclass(frozen=True)
class Evidence:
    """What scope is fitted and measured on; all but `train` by locale.

    `requests` are labelled texts, `typed` their copies with capitals and punctuation, `outside` texts that are no
    requests, by source. `train` are features and classes of training texts, None without such. `temperatures` are those
    of `head`, whose labels are `names`.
    """

    head: Literal["domain", "intent"]
    names: tuple[str, ...]
    temperatures: Mapping[str, float]
    requests: Mapping[str, Texts]
    typed: Mapping[str, Texts]
    outside: Mapping[str, Mapping[str, Texts]]
    train: tuple[FloatArray, NDArray[np.int64]] | None


def auroc(inside: Values, outside: Values) -> float:
    """The probability that a score of `inside` exceeds one of `outside`, ties counted half (Mann and Whitney 1947).

    Both are [texts], at least one; the result is in 0..1.
    """
    _, ranks, counts = np.unique(np.concatenate([inside, outside]), return_inverse=True, return_counts=True)
    mean_ranks = (np.cumsum(counts) - (counts - 1) / 2)[ranks]
    wins = mean_ranks[: len(inside)].sum() - len(inside) * (len(inside) + 1) / 2
    return float(wins / (len(inside) * len(outside)))


def threshold_of(scores: Values, rate: float) -> float:
    """A score below which at most the share `rate` of `scores` [texts] lies, as near to that share as can be.

    It lies between two scores where it can: at one of them, a rounding would decide whether its text passes.
    """
    ordered, place = np.sort(scores), int(rate * len(scores))
    return float(ordered[max(0, place - 1) : place + 1].mean())


def false_rejection(scores: Values, judged: Values, rate: float) -> float:
    """The share of texts that a threshold rejects, each half by the threshold of the other.

    Thresholds are those of `scores` [texts]; `judged` [texts] are the scores of the same texts, or of copies of them.
    """
    first, second = halves(len(scores))
    rejected = [judged[other] < threshold_of(scores[one], rate) for one, other in ((first, second), (second, first))]
    return float(np.concatenate(rejected).mean())


@dataclass(frozen=True)
class Candidate:
    """A method that could judge scope; `means` are for ``class_means`` alone."""

    method: Method
    evidence: Evidence
    means: ClassMeans | None = None

    def scores(self, texts: Texts, locale: str) -> Values:
        """The score of each text, [texts], by the functions that the service uses."""
        if self.means is not None and texts.features is not None:
            return np.array([distance_score(distance) for distance in self.means.distances(texts.features)])
        scale, names = 1 / self.evidence.temperatures.get(locale, 1.0), self.evidence.names
        return np.array(
            [
                scope_score(self.method, logits, scale, best(logits, names, scale).confidence)
                for logits in texts.logits[self.evidence.head]
            ]
        )

    def compare(self, locales: Sequence[str], rate: float) -> Cells:
        """AUROC of requests against each source, and the share of the source that passes at the threshold."""
        table: Cells = {}
        for locale in locales:
            inside = self.scores(self.evidence.requests[locale], locale)
            threshold = threshold_of(inside, rate)
            for source, texts in self.evidence.outside.get(locale, {}).items():
                outside = self.scores(texts, locale)
                passed = float((outside >= threshold).mean())
                figures = {"auroc": round(auroc(inside, outside), 4), "false_acceptance": round(passed, 4)}
                table.setdefault(locale, {})[source] = figures
        return table


def judge(evidence: Evidence, rate: float) -> Judged | None:
    """Compare the methods, keep the one of highest mean AUROC over locales and sources, and fit its thresholds.

    None where no locale has enough requests for a threshold. Without text that is no request nothing can be compared,
    and `UNMEASURED` is taken.
    """
    few = {x: n for x, found in evidence.requests.items() if (n := len(found.logits[evidence.head])) < LEAST}
    if few:
        log.warning(
            "scope: not judged, fewer than %d requests: %s", LEAST, ", ".join(f"{x} ({n})" for x, n in few.items())
        )
    locales = [locale for locale in evidence.requests if locale not in few]
    if not locales:
        return None
    candidates = _candidates(evidence, locales, rate)
    tables = {method: candidate.compare(locales, rate) for method, candidate in candidates.items()}
    chosen = candidates[UNMEASURED]
    if any(tables.values()):
        chosen = max(candidates.values(), key=lambda candidate: mean_of(tables[candidate.method], "auroc"))
    else:
        log.warning("scope: no text that is no request to compare methods on: judged by %s", UNMEASURED)
    requests = {locale: chosen.scores(evidence.requests[locale], locale) for locale in locales}
    typed = {locale: chosen.scores(evidence.typed[locale], locale) for locale in locales}
    thresholds = {locale: threshold_of(scores, rate) for locale, scores in requests.items()}
    rejected = {
        locale: {
            "plain": round(false_rejection(scores, scores, rate), 4),
            "typed": round(false_rejection(scores, typed[locale], rate), 4),
        }
        for locale, scores in requests.items()
    }
    scope = Scope(method=chosen.method, head=evidence.head, false_rejection_rate=rate, thresholds=thresholds)
    measured: dict[str, Any] = {"scope": tables, "false_rejection": rejected}
    if chosen.means is not None:
        measured["directions"] = chosen.means.projection.shape[1]
    return Judged(scope, chosen.means, measured)


def mean_of(table: Cells, figure: str) -> float:
    """The mean of a figure over locales and sources."""
    return float(np.mean([figures[figure] for sources in table.values() for figures in sources.values()]))


def means_by_method(tables: Mapping[str, Cells]) -> dict[str, dict[str, float]]:
    """The means of AUROC and false acceptance by method; nothing of methods that were not compared."""
    return {
        method: {figure: round(mean_of(table, figure), 4) for figure in ("auroc", "false_acceptance")}
        for method, table in tables.items()
        if table
    }


def _candidates(evidence: Evidence, locales: Sequence[str], rate: float) -> dict[Method, Candidate]:
    """The methods that can be compared; class means in the fewest `DIRECTIONS` that more hardly better."""
    candidates: dict[Method, Candidate] = {
        "max_softmax": Candidate("max_softmax", evidence),
        "energy": Candidate("energy", evidence),
    }
    if evidence.train is None:
        log.warning("scope: no training texts to fit class means on: that method is left out")
    elif any(evidence.outside.get(locale) for locale in locales):
        options = [Candidate("class_means", evidence, ClassMeans.fit(*evidence.train, count)) for count in DIRECTIONS]
        reached = [mean_of(option.compare(locales, rate), "auroc") for option in options]
        candidates["class_means"] = next(
            option for option, found in zip(options, reached, strict=True) if found >= max(reached) - WORTHWHILE
        )
    return candidates


def read_outside(flags: Sequence[str], locales: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """Texts that are no requests, by locale and source, from flags LOCALE=PATH[,PATH...]; the project's own without.

    Raises:
        ExportError: a flag of another form, a locale that the student doesn't serve, a source named twice or without
            usable sentences.
        CorpusError: a file that is no text.
    """
    if not flags:
        own = {locale: OWN_TEXT / f"{locale}.txt" for locale in locales}
        return {locale: {"sample": _chosen(read_lines([str(path)]))} for locale, path in own.items() if path.is_file()}
    outside: dict[str, dict[str, list[str]]] = {}
    for flag in flags:
        locale, _, paths = flag.partition("=")
        if not paths or locale not in locales:
            raise ExportError(
                f"--out-of-scope {flag}: allowed: LOCALE=PATH[,PATH...] with a locale of {', '.join(locales)}"
            )
        for path in paths.split(","):
            source, lines = _read_source(Path(path))
            if source in outside.setdefault(locale, {}):
                raise ExportError(f"--out-of-scope {flag}: {source} is named twice for {locale}")
            outside[locale][source] = _chosen(lines)
            if not outside[locale][source]:
                raise ExportError(f"{path}: holds no sentence of {FEWEST_WORDS} to {MOST_WORDS} words without digits")
    return outside


def _read_source(path: Path) -> tuple[str, Iterator[str]]:
    """Name and sentences of a file: text, or clinc150's `data_full.json`, of which the out-of-scope lists are read."""
    if not path.name.endswith((".json", ".json.gz")):
        return path.name.removesuffix(".gz").removesuffix(".txt"), read_lines([str(path)])
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            content = json.load(stream)
        return "clinc150", iter([text for name, rows in content.items() if name.startswith("oos_") for text, _ in rows])
    except (OSError, EOFError, ValueError, TypeError, AttributeError) as error:
        raise ExportError(f"{path}: is no data_full.json of clinc150: {error}") from error


def _chosen(lines: Iterator[str]) -> list[str]:
    """At most `MOST_SENTENCES` different sentences by a fixed seed, in spoken form, so that typography tells nothing.

    Lower case, no punctuation, no digits, of so many words as requests have.
    """
    spoken = (" ".join(_MARKS.sub(" ", line.lower().replace("’", "'")).split()) for line in lines)
    kept = [text for text in spoken if FEWEST_WORDS <= len(text.split()) <= MOST_WORDS and not re.search(r"\d", text)]
    sentences = list(dict.fromkeys(kept))
    random.Random(0).shuffle(sentences)
    return sentences[:MOST_SENTENCES]
