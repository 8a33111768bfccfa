"""Every metric of the service, and the measured durations that feed them.

One registry per application: two in one process, as in tests, don't share counters. Label values are names that the
server knows (students, locales, routes), never anything that a client sent.

Where several processes serve, the variable `SHARED_FOLDER` names a folder in which each of them counts, in files under
its name. Whichever is asked adds them up: counters of the dead and the living, gauges of the living.
"""

from __future__ import annotations

import collections
import os
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from service.errors import ServiceError, log_fault

if TYPE_CHECKING:  # a supervisor counts, too, but loads no student
    pass

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
SECONDS_BUCKETS = tuple(round(50e-6 * 1.5**step, 9) for step in range(30))  # 50 µs to 6.4 s
CONFIDENCE_BUCKETS = tuple(step / 20 for step in range(1, 21))
PIECES_BUCKETS = (2, 4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 256, 512)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096)
NONE = "none"
MOST_DEFERRED = 256
FLUSH_SECONDS = 0.25  # so late may what was deferred be
UPDATE_SECONDS = 5.0  # so late may a gauge be that costs something to set

disable_created_metrics()  # type: ignore[no-untyped-call]  # a time stamp beside each series, which nothing reads


def count_as(process: str) -> None:
    """Count in the shared folder under this name, going on where a dead process of the same name left off.

    To be called before the first metric is made. By default files are named by process id, so those of the dead would
    pile up, to be read at every scrape.
    """
    values.ValueClass = values.MultiProcessValue(lambda: process)  # type: ignore[no-untyped-call]


class Deaths:
    """What the supervisor counts."""

    def __init__(self) -> None:
        count_as("supervisor")
        self._deaths = _worker_deaths(None)

    def count(self, process: str) -> None:
        """Record the death of a worker and drop its gauges; its counters keep counting."""
        self._deaths.inc()
        mark_process_dead(process)  # type: ignore[no-untyped-call]


def _worker_deaths(registry: CollectorRegistry | None) -> Counter:
    return Counter("nlu_worker_deaths", "Workers that died and were replaced.", registry=registry)


class Tally:
    """What is to be added to counters and histograms, summed up before it is: their locks and look-ups cost most."""

    def __init__(self) -> None:
        self._sums: defaultdict[Counter, float] = defaultdict(float)
        self._values: defaultdict[Histogram, list[float]] = defaultdict(list)

    def add(self, counter: Counter, amount: float) -> None:
        """Count."""
        self._sums[counter] += amount

    def observe(self, histogram: Histogram, value: float) -> None:
        """Observe a value."""
        self._values[histogram].append(value)

    def hand_over(self) -> None:
        """Add all of it."""
        for counter, amount in self._sums.items():
            counter.inc(amount)
        for histogram, observed in self._values.items():
            # as `Histogram.observe` does for one value; it has nothing for several
            found = collections.Counter(bisect_left(histogram._upper_bounds, value) for value in observed)
            for bucket, number in found.items():
                histogram._buckets[bucket].inc(number)
            histogram._sum.inc(sum(observed))


class Metrics:
    """All metrics of one application, on a registry of its own."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = registry = CollectorRegistry()
        self.request_seconds = Histogram(
            "nlu_request_seconds",
            "From a request's arrival to its answer.",
            ["model", "endpoint"],
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self.phase_seconds = Histogram(
            "nlu_phase_seconds",
            "Time of one text in each phase: queue, tokenize, inference, decode.",
            ["model", "phase"],
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self.requests = Counter(
            "nlu_requests", "Requests answered, by HTTP status.", ["model", "endpoint", "code"], registry=registry
        )
        self.in_flight = Gauge(
            "nlu_in_flight", "Requests being worked on.", registry=registry, multiprocess_mode="livesum"
        )
        self.rejected = Counter(
            "nlu_rejected", "Requests or batch items answered with an error, by reason.", ["reason"], registry=registry
        )
        self.batch_size = Histogram(
            "nlu_batch_size", "Items of a batch request.", ["model"], buckets=BATCH_BUCKETS, registry=registry
        )
        self.cache = Counter(
            "nlu_cache", "Answers sought among the remembered ones.", ["model", "outcome"], registry=registry
        )
        self.reloads = Counter(
            "nlu_reloads", "Reloads of the students folder, by what came of them.", ["outcome"], registry=registry
        )
        for outcome in ("done", "refused"):  # from zero on, so that the first is seen as an increase
            self.reloads.labels(outcome)
        self.model_info = Gauge(
            "nlu_model_info",
            "1 for each loaded student, 0 for one that was replaced.",
            ["model", "precision", "digest", "size"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.ready = Gauge(
            "nlu_ready", "1 where every process may get traffic.", registry=registry, multiprocess_mode="livemin"
        )
        self.workers = Gauge("nlu_workers", "Processes that serve.", registry=registry, multiprocess_mode="livesum")
        self.workers.set(1)
        self.worker_deaths = _worker_deaths(registry)
        self.requests_in_flight = 0
        self._finished: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._deferred: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._watch_texts(registry)
        self._compare_students(registry)
        self._clock = clock
        self._updates: list[Callable[[], None]] = []
        self._next_update = clock()

    def _watch_texts(self, registry: CollectorRegistry) -> None:
        """What is counted of texts."""
        self.predictions = Counter(
            "nlu_predictions", "Texts answered, by domain.", ["model", "locale", "domain"], registry=registry
        )
        self.truncated = Counter(
            "nlu_truncated", "Texts longer than the student reads.", ["model", "locale"], registry=registry
        )
        self.unknown_tokens = Counter(
            "nlu_unknown_tokens", "Pieces that the tokenizer does not know.", ["model", "locale"], registry=registry
        )
        self.confidence = Histogram(
            "nlu_confidence",
            "Confidence of the best label, where all labels were allowed.",
            ["model", "locale", "task"],
            buckets=CONFIDENCE_BUCKETS,
            registry=registry,
        )
        self.intents = Counter(
            "nlu_intents", "Texts answered, by intent.", ["model", "locale", "intent"], registry=registry
        )
        self.out_of_scope = Counter(
            "nlu_out_of_scope", "Texts that are no request for the student.", ["model", "locale"], registry=registry
        )
        self.pieces = Histogram(
            "nlu_text_pieces",
            "Length of a text as the student reads it.",
            ["model", "locale"],
            buckets=PIECES_BUCKETS,
            registry=registry,
        )
        self.drift = Gauge(
            "nlu_drift_psi",
            "Population stability index of recent traffic against the dev profile, in the process where it is worst.",
            ["model", "locale", "of"],
            registry=registry,
            multiprocess_mode="livemax",
        )

    def _compare_students(self, registry: CollectorRegistry) -> None:
        """What is counted of experiments and shadows."""
        arm = ["experiment", "arm", "model"]
        self.turns = Counter("nlu_turns", "Texts answered in an arm of an experiment.", arm, registry=registry)
        self.turn_seconds = Histogram(
            "nlu_turn_seconds",
            "From a request's arrival to its answer, for texts answered in an arm of an experiment.",
            arm,
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self.friction = Counter(
            "nlu_friction", "Turns that went wrong for the user, by first sign.", [*arm, "sign"], registry=registry
        )
        self.turn_errors = Counter(
            "nlu_turn_errors", "Requests of an arm that got no answer, by reason.", [*arm, "reason"], registry=registry
        )
        self.feedback = Counter(
            "nlu_feedback", "What clients told of their requests.", [*arm, "outcome"], registry=registry
        )
        self.session_moments = Counter(
            "nlu_session_moments",
            "Sums over finished sessions of their number, their turns t, turns with friction f, and t*t, f*f, t*f.",
            ["experiment", "arm", "moment"],
            registry=registry,
        )
        self.shadow = Counter(
            "nlu_shadow",
            "Texts answered by a second student, too, by whether it said the same.",
            ["primary", "shadow", "task", "agreement"],
            registry=registry,
        )
        self.shadow_dropped = Counter(
            "nlu_shadow_dropped", "Texts chosen for a shadow that had no time for them.", ["shadow"], registry=registry
        )

    def defer(self, record: Callable[..., None], *arguments: Any) -> None:
        """Call `record` with a `Tally` and these arguments soon, together with others.

        Between two texts a model run has swept the processor's caches: to count each for itself costs far more
        than many in one go.
        """
        self._deferred.append((record, arguments))
        if len(self._deferred) >= MOST_DEFERRED:
            self.flush()

    def flush(self) -> None:
        """Record what was deferred."""
        deferred, self._deferred = self._deferred, []
        tally = Tally()
        for record, arguments in deferred:
            _try(record, tally, *arguments)
        tally.hand_over()
        self.in_flight.set(self.requests_in_flight)
        if self._updates and self._clock() >= self._next_update:
            self._next_update = self._clock() + UPDATE_SECONDS
            for update in self._updates:
                _try(update)

    def start_updating(self, update: Callable[[], None]) -> None:
        """Call `update` every few seconds from now on, with what was deferred recorded; once, if told so twice."""
        if update not in self._updates:
            self._updates.append(update)

    def stop_updating(self, update: Callable[[], None]) -> None:
        """Call `update` no more."""
        if update in self._updates:
            self._updates.remove(update)

    def count_request(self, tally: Tally, model: str, endpoint: str, code: int, seconds: float) -> None:
        """Record a request that is over. Each argument but `seconds` comes from a small known set."""
        children = self._finished.get((model, endpoint, code))
        if children is None:
            counter = self.requests.labels(model, endpoint, str(code))
            children = self._finished[model, endpoint, code] = counter, self.request_seconds.labels(model, endpoint)
        tally.add(children[0], 1)
        tally.observe(children[1], seconds)

    def count_error(self, error: ServiceError) -> None:
        """Record a request or an item of a batch that is answered with an error."""
        self.rejected.labels(error.row.label).inc()

    def exposition(self) -> bytes:
        """All metrics in the Prometheus text format, added up over all processes."""
        self.flush()
        if SHARED_FOLDER not in os.environ:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


def _try(work: Callable[..., None], *arguments: Any) -> None:
    try:
        work(*arguments)
    except Exception as error:  # noqa: BLE001 - whoever happens to flush is not to blame
        log_fault(error, "(metrics)")
