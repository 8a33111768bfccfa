"""Counts of experiment arms, from a service's metrics, a file of saved metrics, or a Prometheus server."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from prometheus_client.parser import text_string_to_metric_families

from loadtest.experiments.verdict import Moments
from loadtest.load.client import OK, fetch
from loadtest.load.command import LoadTestError
from service.monitoring.metrics import NONE

TIMEOUT_SECONDS = 30.0
ARM = ("experiment", "arm", "model")
LABELS = {
    "nlu_turns_total": ARM,
    "nlu_turn_seconds_bucket": (*ARM, "le"),
    "nlu_turn_errors_total": (*ARM, "reason"),
    "nlu_friction_total": (*ARM, "sign"),
    "nlu_feedback_total": (*ARM, "outcome"),
    "nlu_session_moments_total": ("experiment", "arm", "moment"),
}

Key = tuple[str, tuple[str, ...]]  # a metric and the values of its `LABELS`
Samples = Mapping[Key, float]


class ArmsError(LoadTestError):
    """The metrics can't be read, or hold no experiment; the message is one sentence."""


@dataclass
class ArmCounts:
    """The counts of one arm.

    Attributes:
        models: students that answered.
        turns: answered texts, including those of open sessions and of clients without a key.
        unanswered: requests that ended in an error.
        moments: of the finished sessions.
        signs: turns with friction by their first sign.
        feedback: feedback by outcome.
        buckets: cumulative histogram of latency: turns by upper bound in seconds.
    """

    models: set[str] = field(default_factory=set)
    turns: float = 0.0
    unanswered: float = 0.0
    moments: Moments = field(default_factory=Moments)
    signs: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    feedback: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    buckets: defaultdict[float, float] = field(default_factory=lambda: defaultdict(float))

    def latency(self, quantile: float) -> float | None:
        """A quantile of latency in seconds, interpolated linearly within its bucket; None without turns."""
        bounds = sorted(self.buckets)
        if not bounds or not self.buckets[bounds[-1]]:
            return None
        wanted = quantile * self.buckets[bounds[-1]]
        low, below = 0.0, 0.0
        for bound in bounds:
            within = self.buckets[bound]
            if within >= wanted and within > below:
                return low if math.isinf(bound) else low + (bound - low) * (wanted - below) / (within - below)
            low, below = (low if math.isinf(bound) else bound), within
        return low


def arms_of(samples: Samples, experiment: str) -> dict[str, ArmCounts]:
    """The arms of an experiment, in order of name."""
    arms: dict[str, ArmCounts] = {}
    moments: dict[str, defaultdict[str, float]] = {}
    for (metric, (name, arm, *rest)), value in samples.items():
        if name != experiment:
            continue
        counts = arms.setdefault(arm, ArmCounts())
        if metric == "nlu_session_moments_total":
            moments.setdefault(arm, defaultdict(float))[rest[0]] += value
            continue
        counts.models.add(rest[0])
        if metric == "nlu_turns_total":
            counts.turns += value
        elif metric == "nlu_turn_errors_total":
            counts.unanswered += value
        elif metric == "nlu_friction_total":
            counts.signs[rest[1]] += value
        elif metric == "nlu_feedback_total":
            counts.feedback[rest[1]] += value
        else:
            counts.buckets[float(rest[1])] += value
    for arm, sums in moments.items():
        arms[arm].moments = Moments(**{moment.name: sums[moment.name] for moment in fields(Moments)})
    return dict(sorted(arms.items()))


def experiments_in(samples: Samples) -> list[str]:
    """The names of all experiments in the metrics."""
    return sorted({labels[0] for _, labels in samples} - {NONE})


def scrape(host: str) -> Samples:
    """The metrics of a running service.

    Raises:
        LoadTestError: it can't be reached, or its reply holds no metrics.
    """
    return parse(_get(f"{host.rstrip('/')}/metrics").decode(errors="replace"), host)


def read(path: Path) -> Samples:
    """Metrics of a file, such as one saved by ``curl URL/metrics >FILE``.

    Raises:
        ArmsError: the file can't be read, or holds no metrics.
    """
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ArmsError(f"{path}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ArmsError(f"{path}: is not UTF-8") from None


def parse(exposition: str, source: str) -> Samples:
    """Metrics in the Prometheus text format.

    Raises:
        ArmsError: the text is not in that format; names the source.
    """
    samples: defaultdict[Key, float] = defaultdict(float)
    try:
        for processes in text_string_to_metric_families(exposition):
            for sample in processes.samples:
                if (names := LABELS.get(sample.name)) is not None:
                    samples[sample.name, tuple(sample.labels[name] for name in names)] += sample.value
    except (ValueError, KeyError, IndexError):
        raise ArmsError(f"{source}: is not in the Prometheus text format") from None
    return samples


def since(now: Samples, before: Samples) -> Samples:
    """The increase between two scrapes of the same service.

    Raises:
        ArmsError: the service was restarted in between.
    """
    if any(value > now.get(key, 0.0) for key, value in before.items()):
        raise ArmsError("a count is lower than in the --since file: the service was restarted since it was saved")
    return {key: value - before.get(key, 0.0) for key, value in now.items()}


def query_prometheus(server: str, window: str) -> Samples:
    """The increase within a time such as "1d", summed over all services that a Prometheus server scrapes.

    These are estimates: ``increase`` extrapolates to the ends of the window, and misses counts before the first scrape.

    Raises:
        LoadTestError: it can't be reached, or its reply is not that of a Prometheus server.
    """
    samples: dict[Key, float] = {}
    for metric, names in LABELS.items():
        query = f"sum by ({', '.join(names)}) (increase({metric}[{window}]))"
        reply = _get(f"{server.rstrip('/')}/api/v1/query?{urlencode({'query': query})}")
        try:
            for row in json.loads(reply)["data"]["result"]:
                samples[metric, tuple(str(row["metric"][name]) for name in names)] = float(row["value"][1])
        except (ValueError, KeyError, IndexError, TypeError):
            raise ArmsError(f"{server}: the reply is not that of a Prometheus server") from None
    return samples


def _get(url: str) -> bytes:
    reply = fetch(url, TIMEOUT_SECONDS)
    if reply.status != OK:
        raise ArmsError(f"{url.split('?')[0]} answers {reply.status}{_error_of(reply.content)}")
    return reply.content


def _error_of(content: bytes) -> str:
    """The error message of a Prometheus server that rejects a query."""
    try:
        reply: dict[str, Any] = json.loads(content)
        return f" ({reply['error']})" if isinstance(reply["error"], str) else ""
    except (ValueError, KeyError, TypeError):
        return ""
