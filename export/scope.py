"""Out-of-scope detection: scores, and thresholds for a given rate of false rejection.

Three scores are compared on requests and out-of-scope text: the confidence of the best label (Hendrycks and Gimpel
2017), the energy of the logits (Liu et al. 2020), and the distance to the nearest class mean (Lee et al. 2018).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from scipy.stats import rankdata  # type: ignore[import-untyped]

from export.calibration import MIN_TEXTS, Observations, TextHead, Texts, halves, scope_head
from export.graph import FEATURES
from service.student.decoding import FloatArray, best, scope_score
from service.student.manifest import Head, Labels, Scope
from service.student.predictor import DISTANCE_OUTPUT

log = logging.getLogger(__name__)

Method = Literal["max_softmax", "energy", "class_means"]
DEFAULT_METHOD: Final[Method] = "energy"  # without out-of-scope text to compare the methods
DIRECTIONS = (32, 64, 128)
MIN_GAIN = 0.005  # of AUROC, for more directions
SHRINKAGE = 1e-3

Values = NDArray[np.float64]
Score = Callable[[Texts, str], Values]  # scores [texts] in a locale; higher is more in scope
Cells = dict[str, dict[str, dict[str, float]]]  # by locale, source and metric


@dataclass(frozen=True)
class ClassMeans:
    """Class means in the whitened directions of least within-class variance.

    The squared distance to them is the squared Mahalanobis distance with one covariance for all classes, restricted to
    the directions of least variance, which detect out-of-scope text best (Kamoi and Kobayashi 2020, "Why is the
    Mahalanobis Distance Effective for Anomaly Detection?"). `centre` [features] is subtracted before `projection`
    [features, directions]; `means` are [classes, directions].
    """

    centre: Values
    projection: Values
    means: Values

    @classmethod
    def fit(cls, features: FloatArray, classes: NDArray[np.int64], directions: int) -> ClassMeans:
        """Fit to features [texts, features] and their classes [texts], with shrinkage of the covariance."""
        values = features.astype(np.float64)
        centre = values.mean(axis=0)
        values -= centre
        present, numbers = np.unique(classes, return_inverse=True)
        means = np.stack([values[numbers == number].mean(axis=0) for number in range(len(present))])
        within = values - means[numbers]
        covariance = within.T @ within / len(within)
        covariance += SHRINKAGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        variances, axes = np.linalg.eigh(covariance)
        projection = axes[:, :directions] / np.sqrt(variances[:directions])
        return cls(centre, projection, means @ projection)

    def distances(self, features: FloatArray) -> Values:
        """The squared distance of each text's features [texts, features] to the nearest mean, [texts]."""
        at = (features - self.centre) @ self.projection
        to_means = (self.means**2).sum(axis=1) - 2 * at @ self.means.T
        nearest: Values = (at**2).sum(axis=1) + to_means.min(axis=1)
        return nearest

    def score(self, texts: Texts, _locale: str) -> Values:
        """The negative distance of each text, [texts]; the locale does not matter."""
        return -self.distances(texts[FEATURES])


def write_served(source: Path, target: Path, means: ClassMeans | None) -> None:
    """Copy a graph without the output `FEATURES`; with class means, add the distance to the nearest one.

    The output is a number, the squared distance ``|z|² + min(|m|² - 2 z·m)`` over the means m, where z is the
    projection of the features. It is computed in fp32, as directions of low variance are sensitive to rounding.
    """
    model = onnx.load(str(source))
    graph = model.graph
    kept = [output for output in graph.output if output.name != FEATURES]
    del graph.output[:]
    graph.output.extend(kept)
    if means is not None:
        constants = {
            "scope_projection": means.projection,
            "scope_origin": -means.centre @ means.projection,
            "scope_means": -2 * means.means.T,
            "scope_lengths": (means.means**2).sum(axis=1),
        }
        graph.initializer.extend(numpy_helper.from_array(a.astype(np.float32), n) for n, a in constants.items())
        graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "scope_axis"))
        graph.node.extend(
            [
                helper.make_node("MatMul", [FEATURES, "scope_projection"], ["scope_projected"]),
                helper.make_node("Add", ["scope_projected", "scope_origin"], ["scope_at"]),
                helper.make_node("MatMul", ["scope_at", "scope_means"], ["scope_products"]),
                helper.make_node("Add", ["scope_products", "scope_lengths"], ["scope_to_means"]),
                helper.make_node("ReduceMin", ["scope_to_means", "scope_axis"], ["scope_nearest"], keepdims=0),
                helper.make_node("ReduceSumSquare", ["scope_at", "scope_axis"], ["scope_square"], keepdims=0),
                helper.make_node("Add", ["scope_square", "scope_nearest"], [DISTANCE_OUTPUT]),
            ]
        )
        graph.output.append(helper.make_tensor_value_info(DISTANCE_OUTPUT, TensorProto.FLOAT, []))
    onnx.save(model, str(target))


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


def by_logits(method: Literal["max_softmax", "energy"], head: TextHead, temperatures: Mapping[str, float]) -> Score:
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
) -> tuple[Scope | None, ClassMeans | None, dict[str, Any]]:
    """Choose the method that accepts the smallest mean share of the sources, and fit its thresholds.

    What counts is the share at the rate of rejected requests that is served: two methods of equal AUROC differ there.

    Without out-of-scope text the method is `DEFAULT_METHOD`.

    Args:
        labels: Labels of the student.
        observed: Outputs of its graph.
        temperatures: Temperatures by head and locale.
        rate: The share of requests that may be rejected.

    Returns:
        The scope (None if no locale has enough requests for a threshold), its class means (None for other methods), and
        the measurements for the manifest.
    """
    if not (head := scope_head(labels)):
        return None, None, {}
    counts = {locale: len(found[head]) for locale, found in observed.requests.items()}
    if few := [f"{locale} ({count})" for locale, count in counts.items() if count < MIN_TEXTS]:
        log.warning("scope: no threshold with fewer than %d requests: %s", MIN_TEXTS, ", ".join(few))
    if not (locales := [locale for locale, count in counts.items() if count >= MIN_TEXTS]):
        return None, None, {}
    of_head = temperatures.get(head, {})
    methods: dict[Method, Score] = {x: by_logits(x, head, of_head) for x in ("max_softmax", "energy")}
    if means := _class_means(observed, locales, rate):
        methods["class_means"] = means.score
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
    measured: dict[str, Any] = {"scope": tables, "false_rejection": rejected}
    if not means or chosen != "class_means":
        return scope, None, measured
    return scope, means, {**measured, "directions": means.projection.shape[1]}


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


def _class_means(observed: Observations, locales: Sequence[str], rate: float) -> ClassMeans | None:
    """Class means in the fewest `DIRECTIONS` within `MIN_GAIN` of the best; None if they can't be compared."""
    if observed.train is None:
        log.warning("scope: class_means is left out: no training texts to fit it to")
        return None
    if not any(observed.out_of_scope.get(locale) for locale in locales):
        return None
    options = [ClassMeans.fit(*observed.train, count) for count in DIRECTIONS]
    reached = [mean_of(compare(option.score, observed, locales, rate), "auroc") for option in options]
    return options[next(i for i, found in enumerate(reached) if found >= max(reached) - MIN_GAIN)]
