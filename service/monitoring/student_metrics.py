"""Metrics of the texts that a student answers: names of labels and numbers, never the text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from prometheus_client import Counter, Histogram

from service.monitoring.drift import Drift, Window, confidence_bin
from service.monitoring.metrics import NONE, Metrics, Tally
from service.monitoring.timings import Timings
from service.student.decoding import Ranked
from service.student.manifest import Manifest
from service.student.student import Prediction


class StudentMetrics:
    """The metrics of one student. Children of labels are cached, since a look-up costs more than counting."""

    def __init__(self, metrics: Metrics, manifest: Manifest) -> None:
        name = manifest.name
        self._metrics = metrics
        self._manifest = manifest
        self._drift = Drift(metrics.drift, manifest)
        self._locales: dict[str, _LocaleMetrics] = {}
        self._phases = [metrics.phase_seconds.labels(name, phase) for phase in Timings._fields[:4]]
        self._look_ups = [metrics.cache.labels(name, outcome) for outcome in ("miss", "hit")]
        self._info = metrics.model_info.labels(name, manifest.precision, manifest.digest, manifest.size)
        self.batch_size = metrics.batch_size.labels(name)
        metrics.panics.labels(name)  # starts at zero, so that Prometheus sees the first one as an increase

    def set_loaded(self, loaded: bool) -> None:
        """Record that the student serves, or no longer serves."""
        self._info.set(int(loaded))
        if loaded:
            self._metrics.start_updating(self._drift.publish)
        else:
            self._metrics.stop_updating(self._drift.publish)
            self._drift.withdraw()

    def count_look_up(self, *, hit: bool) -> None:
        """Record a look-up in the answer cache."""
        self._look_ups[hit].inc()

    def count(self, tally: Tally, locale: str, prediction: Prediction, timings: Timings, cached: bool) -> None:
        """Record one answered text. A cached answer has no phases."""
        if not cached:
            for phase, seconds in zip(self._phases, timings, strict=False):
                tally.observe(phase, seconds)
        metrics = self._locales.get(locale)
        if metrics is None:
            metrics = self._locales[locale] = _LocaleMetrics(self._metrics, self._manifest, self._drift, locale)
        metrics.count(tally, prediction)


class _LocaleMetrics:
    """The metrics of one student in one locale, created at its first use: there may be many locales."""

    __slots__ = ("_domain", "_intent", "_out_of_scope", "_tokens", "_truncated", "_unknown", "_without_domain")

    def __init__(self, metrics: Metrics, manifest: Manifest, drift: Drift, locale: str) -> None:
        place = manifest.name, locale
        self._tokens = metrics.tokens.labels(*place)
        self._truncated = metrics.truncated.labels(*place)
        self._unknown = metrics.unknown_tokens.labels(*place)
        scope = manifest.calibration.scope if manifest.calibration else None
        has_threshold = scope is not None and locale in scope.thresholds
        self._out_of_scope = metrics.out_of_scope.labels(*place) if has_threshold else None  # 0 would be wrong
        domains, intents = manifest.labels.domain, manifest.labels.intent
        self._without_domain = None if domains else metrics.predictions.labels(*place, NONE)
        self._domain = self._intent = None
        confidence_window = drift.window_of_confidence(locale)  # of intents if the student has any, as in the profile
        if domains:
            confidence, label_window = metrics.confidence.labels(*place, "domain"), drift.window_of_domains(locale)
            counter = partial(metrics.predictions.labels, *place)
            self._domain = _LabelMetrics(
                domains, counter, confidence, label_window, None if intents else confidence_window
            )
        if intents:
            confidence = metrics.confidence.labels(*place, "intent")
            self._intent = _LabelMetrics(
                intents, partial(metrics.intents.labels, *place), confidence, None, confidence_window
            )

    def count(self, tally: Tally, prediction: Prediction) -> None:
        """Record one answered text."""
        tally.observe(self._tokens, prediction.tokens)
        if prediction.truncated:
            tally.add(self._truncated, 1)
        if prediction.unknown:
            tally.add(self._unknown, prediction.unknown)
        if prediction.in_scope is False and self._out_of_scope is not None:
            tally.add(self._out_of_scope, 1)
        if self._without_domain is not None:
            tally.add(self._without_domain, 1)
        if prediction.domain and self._domain is not None:
            self._domain.count(tally, prediction.domain[0], filtered=prediction.kept_domains is not None)
        if prediction.intent and self._intent is not None:
            self._intent.count(tally, prediction.intent[0], filtered=prediction.kept_intents is not None)


@dataclass(slots=True, eq=False)
class _LabelMetrics:
    """The metrics of the best label of one head, and its windows for drift, if any."""

    names: Sequence[str]
    counter: Callable[[str], Counter]
    confidence: Histogram
    label_window: Window | None
    confidence_window: Window | None
    known: dict[str, tuple[Counter, int]] = field(default_factory=dict)

    def count(self, tally: Tally, best: Ranked, *, filtered: bool) -> None:
        """Record a label. A filtered one counts neither in confidence, which is too high, nor in drift."""
        name, confidence = best
        known = self.known.get(name)
        if known is None:
            known = self.known[name] = self.counter(name), self.names.index(name)
        tally.add(known[0], 1)
        if filtered:
            return
        tally.observe(self.confidence, confidence)
        if self.label_window is not None:
            self.label_window.add(known[1])
        if self.confidence_window is not None:
            self.confidence_window.add(confidence_bin(confidence))
