"""Out-of-scope detection: scores, and thresholds for a given rate of false rejection.

Two scores are compared on requests and out-of-scope text: the confidence of the best label (Hendrycks and Gimpel
2017) and the energy of the logits (Liu et al. 2020).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata  # type: ignore[import-untyped]

from export.calibration import MIN_TEXTS, Observations, TextHead, Texts, halves, scope_head
from service.student.decoding import best, scope_score
from service.student.manifest import Head, Labels, Scope

log = logging.getLogger(__name__)

Method = Literal["max_softmax", "energy"]
METHODS: Final[tuple[Method, ...]] = ("max_softmax", "energy")
DEFAULT_METHOD: Final[Method] = "energy"  # without out-of-scope text to compare the methods

Values = NDArray[np.float64]
Score = Callable[[Texts, str], Values]  # scores [texts] in a locale; higher is more in scope
Cells = dict[str, dict[str, dict[str, float]]]  # by locale, source and metric


def auroc(inside: Values, outside: Values) -> float:
    """The probability that a score of `inside` exceeds one of `outside`, ties counted half (Mann and Whitney 1947).

    Both are [texts], at least one; the result is in 0..1.
    """
    wins = rankdata(np.concatenate([inside, outside]))[: len(inside)].sum() - len(inside) * (len(inside) + 1) / 2
    return float(wins / (len(inside) * len(outside)))


def threshold_of(scores: Values, rate: float) -> float:
    """The highest threshold below which at most the share `rate` of `scores` [texts] lies.

    It is the mean of two neighbouring scores if possible, so that rounding does not decide about a text.
    """
    ordered, place = np.sort(scores), int(rate * len(scores))
    return float(ordered[max(0, place - 1) : place + 1].mean())


def false_rejection(scores: Values, tested: Values, rate: float) -> float:
    """The share of texts that a threshold rejects, by two-fold cross-fitting.

    Thresholds are fitted to `scores` [texts] of one half and applied to `tested` [texts] of the other: the scores of
    the same texts or of copies of them.
    """
    first, second = halves(len(scores))
    rejected = [tested[other] < threshold_of(scores[one], rate) for one, other in ((first, second), (second, first))]
    return float(np.concatenate(rejected).mean())


def by_logits(method: Method, head: TextHead, temperatures: Mapping[str, float]) -> Score:
    """Scores from calibrated logits, with the function of the service."""

    def scores(texts: Texts, locale: str) -> Values:
        scale, logits = 1 / temperatures.get(locale, 1.0), texts[head]
        names = [""] * logits.shape[-1]
        return np.array([scope_score(method, x, scale, best(x, names, scale).confidence) for x in logits])

    return scores


def compare(score: Score, observed: Observations, locales: Sequence[str], rate: float) -> Cells:
    """AUROC of requests against each source, and the share of the source that the threshold accepts."""
    table: Cells = {}
    for locale in locales:
        inside = score(observed.requests[locale], locale)
        threshold = threshold_of(inside, rate)
        for source, texts in observed.out_of_scope.get(locale, {}).items():
            outside = score(texts, locale)
            accepted = float((outside >= threshold).mean())
            figures = {"auroc": round(auroc(inside, outside), 4), "false_acceptance": round(accepted, 4)}
            table.setdefault(locale, {})[source] = figures
    return table


def fit_scope(
    labels: Labels, observed: Observations, temperatures: Mapping[Head, Mapping[str, float]], rate: float
) -> tuple[Scope | None, dict[str, Any]]:
    """Choose the method that accepts the smallest mean share of the sources, and fit its thresholds.

    What counts is the share at the rate of rejected requests that is served: two methods of equal AUROC differ there.

    Without out-of-scope text the method is `DEFAULT_METHOD`.

    Args:
        labels: Labels of the student.
        observed: Outputs of its graph.
        temperatures: Temperatures by head and locale.
        rate: The share of requests that may be rejected.

    Returns:
        The scope (None if no locale has enough requests for a threshold), and the measurements for the manifest.
    """
    if not (head := scope_head(labels)):
        return None, {}
    counts = {locale: len(found[head]) for locale, found in observed.requests.items()}
    if few := [f"{locale} ({count})" for locale, count in counts.items() if count < MIN_TEXTS]:
        log.warning("scope: no threshold with fewer than %d requests: %s", MIN_TEXTS, ", ".join(few))
    if not (locales := [locale for locale, count in counts.items() if count >= MIN_TEXTS]):
        return None, {}
    of_head = temperatures.get(head, {})
    methods: dict[Method, Score] = {method: by_logits(method, head, of_head) for method in METHODS}
    tables = {method: compare(score, observed, locales, rate) for method, score in methods.items()}
    chosen = DEFAULT_METHOD
    if any(tables.values()):
        chosen = min(methods, key=lambda method: mean_of(tables[method], "false_acceptance"))
    else:
        log.warning("scope: no out-of-scope text to compare methods on; the method is %s", DEFAULT_METHOD)
    thresholds, rejected = {}, {}
    for locale in locales:
        plain, typed = (methods[chosen](texts[locale], locale) for texts in (observed.requests, observed.typed))
        thresholds[locale] = threshold_of(plain, rate)
        rejected[locale] = {
            "plain": round(false_rejection(plain, plain, rate), 4),
            "typed": round(false_rejection(plain, typed, rate), 4),
        }
    scope = Scope(method=chosen, head=head, false_rejection_rate=rate, thresholds=thresholds)
    return scope, {"scope": tables, "false_rejection": rejected}


def mean_of(table: Cells, figure: str) -> float:
    """The mean of a metric over locales and sources."""
    return float(np.mean([figures[figure] for sources in table.values() for figures in sources.values()]))


def means_by_method(tables: Mapping[str, Cells]) -> dict[str, dict[str, float]]:
    """The means of AUROC and false acceptance by method, without methods that were not compared."""
    return {
        method: {figure: round(mean_of(table, figure), 4) for figure in ("auroc", "false_acceptance")}
        for method, table in tables.items()
        if table
    }
