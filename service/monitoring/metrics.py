"""Every metric of the service.

Each application has its own registry: two in one process, as in tests, don't share counters. Label values are names
that the server knows (students, locales, routes), never data from a client.

With several processes, each counts in files of a shared folder (`shared`). A scrape of any process adds them up:
counters of all processes, gauges of the running ones.
"""

from __future__ import annotations

import collections
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from service.errors import ENDINGS, ServiceError, log_fault
from service.monitoring import shared

SECONDS_BUCKETS = tuple(round(50e-6 * 1.5**step, 9) for step in range(30))  # 50 µs to 6.4 s
CONFIDENCE_BUCKETS = tuple(step / 20 for step in range(1, 21))
TOKENS_BUCKETS = (2, 4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 256, 512)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096)
NONE = "none"
MAX_DEFERRED = 256
FLUSH_SECONDS = 0.25  # maximum delay of a deferred update
UPDATE_SECONDS = 5.0  # update interval of expensive gauges

disable_created_metrics()  # type: ignore[no-untyped-call]  # unused time stamps


class WorkerMetrics:
    """The metrics of the supervisor, in the shared folder of its workers."""

    def __init__(self, folder: str) -> None:
        self._files = shared.count_as("supervisor", folder)
        self._deaths = _worker_deaths(None)
        self._hangs = _worker_hangs(None)

    def count_death(self, process: str) -> None:
        """Record the death of a worker and drop its gauges; its counters stay."""
        self._deaths.inc()
        self._files.drop_gauges(process)

    def count_hang(self) -> None:
        """Record that a worker hung and was killed; its death is recorded, too."""
        self._hangs.inc()


def _worker_deaths(registry: CollectorRegistry | None) -> Counter:
    return Counter("nlu_worker_deaths", "Workers that died and were replaced.", registry=registry)


def _worker_hangs(registry: CollectorRegistry | None) -> Counter:
    return Counter("nlu_worker_hangs", "Workers that hung and were killed.", registry=registry)


class Tally:
    """Collects increments of counters and histograms: the locks of these cost more than the addition."""

    def __init__(self) -> None:
        self._sums: defaultdict[Counter, float] = defaultdict(float)
        self._values: defaultdict[Histogram, list[float]] = defaultdict(list)

    def add(self, counter: Counter, amount: float) -> None:
        """Increase a counter."""
        self._sums[counter] += amount

    def observe(self, histogram: Histogram, value: float) -> None:
        """Observe a value."""
        self._values[histogram].append(value)

    def apply(self) -> None:
        """Add everything to the metrics."""
        for counter, amount in self._sums.items():
            counter.inc(amount)
        for histogram, observed in self._values.items():
            # as `Histogram.observe`, for several values at once
            buckets = collections.Counter(bisect_left(histogram._upper_bounds, value) for value in observed)
            for bucket, number in buckets.items():
                histogram._buckets[bucket].inc(number)
            histogram._sum.inc(sum(observed))


class Metrics:
    """All metrics of one application, on a registry of its own."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        self.requests_in_flight = 0
        self._clock = clock
        self._finished: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._deferred: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._updates: list[Callable[[], None]] = []
        self._next_update = clock()
        self._add_request_metrics()
        self._add_process_metrics()
        self._add_text_metrics()
        self._add_experiment_metrics()

    def _add_request_metrics(self) -> None:
        counter, histogram = partial(Counter, registry=self.registry), partial(Histogram, registry=self.registry)
        self.request_seconds = histogram(
            "nlu_request_seconds",
            "From a request's arrival to its answer.",
            ["model", "endpoint"],
            buckets=SECONDS_BUCKETS,
        )
        self.phase_seconds = histogram(
            "nlu_phase_seconds",
            "Time of one text in each phase: queue, tokenize, inference, decode.",
            ["model", "phase"],
            buckets=SECONDS_BUCKETS,
        )
        self.requests = counter("nlu_requests", "Requests answered, by HTTP status.", ["model", "endpoint", "code"])
        self.rejected = counter(
            "nlu_rejected", "Requests or batch items answered with an error, by reason.", ["reason"]
        )
        self.batch_size = histogram("nlu_batch_size", "Items of a batch request.", ["model"], buckets=BATCH_BUCKETS)
        self.panics = counter("nlu_student_panics", "Panics of native libraries that ran a student.", ["model"])
        self.cache = counter("nlu_cache", "Look-ups in the answer cache, by outcome.", ["model", "outcome"])

    def _add_process_metrics(self) -> None:
        gauge = partial(Gauge, registry=self.registry)
        self.in_flight = gauge(
            "nlu_in_flight", "Requests that have arrived and are not answered.", multiprocess_mode="livesum"
        )
        self.ready = gauge("nlu_ready", "1 if every process is ready.", multiprocess_mode="livemin")
        self.workers = gauge("nlu_workers", "Worker processes.", multiprocess_mode="livesum")
        self.workers.set(1)
        self.worker_deaths = _worker_deaths(self.registry)
        self.worker_hangs = _worker_hangs(self.registry)
        self.model_info = gauge(
            "nlu_model_info",
            "1 for each loaded student, 0 for one that was replaced.",
            ["model", "precision", "digest", "size"],
            multiprocess_mode="livemax",
        )
        self.reloads = Counter(
            "nlu_reloads", "Reloads of the students folder, by outcome.", ["outcome"], registry=self.registry
        )
        for outcome in ("done", "refused"):  # start at zero, so that Prometheus sees the first one as an increase
            self.reloads.labels(outcome)

    def _add_text_metrics(self) -> None:
        counter, histogram = partial(Counter, registry=self.registry), partial(Histogram, registry=self.registry)
        place = ["model", "locale"]
        self.predictions = counter("nlu_predictions", "Texts answered, by domain.", [*place, "domain"])
        self.intents = counter("nlu_intents", "Texts answered, by intent.", [*place, "intent"])
        self.truncated = counter("nlu_truncated", "Texts longer than the student's maximum length.", place)
        self.unknown_tokens = counter("nlu_unknown_tokens", "Tokens that the tokenizer does not know.", place)
        self.out_of_scope = counter("nlu_out_of_scope", "Texts out of scope.", place)
        self.confidence = histogram(
            "nlu_confidence",
            "Confidence of the best label, if all labels were allowed.",
            [*place, "task"],
            buckets=CONFIDENCE_BUCKETS,
        )
        self.tokens = histogram(
            "nlu_text_pieces", "Length of a text in tokens, after truncation.", place, buckets=TOKENS_BUCKETS
        )
        self.drift = Gauge(
            "nlu_drift_psi",
            "Population stability index of recent traffic against the dev profile; the maximum over processes.",
            [*place, "of"],
            registry=self.registry,
            multiprocess_mode="livemax",
        )

    def _add_experiment_metrics(self) -> None:
        counter = partial(Counter, registry=self.registry)
        arm = ["experiment", "arm", "model"]
        self.turns = counter("nlu_turns", "Texts answered in an arm of an experiment.", arm)
        self.turn_seconds = Histogram(
            "nlu_turn_seconds",
            "From a request's arrival to its answer, for texts answered in an arm of an experiment.",
            arm,
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self.friction = counter("nlu_friction", "Turns with a sign of user dissatisfaction, by sign.", [*arm, "sign"])
        self.turn_errors = counter("nlu_turn_errors", "Requests of an arm that failed, by reason.", [*arm, "reason"])
        self.feedback = counter("nlu_feedback", "Feedback of clients, by outcome.", [*arm, "outcome"])
        self.session_moments = counter(
            "nlu_session_moments",
            "Sums over finished sessions of 1, turns t, turns with friction f, and t*t, f*f, t*f.",
            ["experiment", "arm", "moment"],
        )
        self.shadow = counter(
            "nlu_shadow",
            "Texts also answered by a shadow, by agreement with the primary student.",
            ["primary", "shadow", "task", "agreement"],
        )
        self.shadow_dropped = counter(
            "nlu_shadow_dropped", "Texts for a shadow dropped because the process was busy.", ["shadow"]
        )

    def defer(self, record: Callable[..., None], *arguments: Any) -> None:
        """Call `record` with a `Tally` and these arguments later, together with others.

        Inference fills the processor's caches, so counting after each run costs far more than counting many at once.
        """
        self._deferred.append((record, arguments))
        if len(self._deferred) >= MAX_DEFERRED:
            self.flush()

    def flush(self) -> None:
        """Run the deferred updates."""
        deferred, self._deferred = self._deferred, []
        tally = Tally()
        for record, arguments in deferred:
            _try(record, tally, *arguments)
        tally.apply()
        self.in_flight.set(self.requests_in_flight)
        if self._updates and self._clock() >= self._next_update:
            self._next_update = self._clock() + UPDATE_SECONDS
            for update in self._updates:
                _try(update)

    def start_updating(self, update: Callable[[], None]) -> None:
        """Call `update` every `UPDATE_SECONDS` from now on, after deferred updates. Repeated calls have no effect."""
        if update not in self._updates:
            self._updates.append(update)

    def stop_updating(self, update: Callable[[], None]) -> None:
        """Stop calling `update`."""
        if update in self._updates:
            self._updates.remove(update)

    def count_request(self, tally: Tally, model: str, endpoint: str, code: int, seconds: float) -> None:
        """Record a finished request. All arguments except `seconds` are from small known sets."""
        children = self._finished.get((model, endpoint, code))
        if children is None:
            counter = self.requests.labels(model, endpoint, str(code))
            children = self._finished[model, endpoint, code] = counter, self.request_seconds.labels(model, endpoint)
        tally.add(children[0], 1)
        tally.observe(children[1], seconds)

    def count_error(self, error: ServiceError) -> None:
        """Record a request or batch item that is answered with an error."""
        self.rejected.labels(error.row.label).inc()

    def exposition(self) -> bytes:
        """All metrics in the Prometheus text format, added up over all processes."""
        self.flush()
        return shared.exposition(self.registry)


def _try(work: Callable[..., None], *arguments: Any) -> None:
    try:
        work(*arguments)
    except ENDINGS:
        raise
    except BaseException as error:  # noqa: BLE001 - it must not affect the caller of `flush`
        log_fault(error, "(metrics)")
