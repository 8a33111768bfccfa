"""What metrics say of the arms of experiments: scraped off a service, saved before, or asked of a Prometheus server."""

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
    """The metrics can't be had, or tell nothing of an experiment; the message is one sentence."""


@dataclass
class ArmCounts:
    """What was counted of one arm.

    Attributes:
        models: that answered in it.
        turns: texts answered, those of sessions that are not over and of clients without a key included.
        unanswered: requests that got an error.
        moments: of its finished sessions.
        signs: turns with friction by their first sign.
        feedback: by outcome.
        buckets: turns that took no longer than so many seconds.
    """

    models: set[str] = field(default_factory=set)
    turns: float = 0.0
    unanswered: float = 0.0
    moments: Moments = field(default_factory=Moments)
    signs: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    feedback: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    buckets: defaultdict[float, float] = field(default_factory=lambda: defaultdict(float))

    def latency(self, share: float) -> float | None:
        """Seconds within which that share of the turns was answered, evenly spread in a bucket; None of no turns."""
        bounds = sorted(self.buckets)
        if not bounds or not self.buckets[bounds[-1]]:
            return None
        wanted = share * self.buckets[bounds[-1]]
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
    for (metric, (named, arm, *rest)), value in samples.items():
        if named != experiment:
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
    for arm, found in moments.items():
        arms[arm].moments = Moments(**{moment.name: found[moment.name] for moment in fields(Moments)})
    return dict(sorted(arms.items()))


def experiments_in(samples: Samples) -> list[str]:
    """The names of the experiments that are told of."""
    return sorted({labels[0] for _, labels in samples} - {NONE})


def scrape(host: str) -> Samples:
    """The metrics of a running service.

    Raises:
        LoadTestError: it can't be reached, or does not answer with metrics.
    """
    return parse(_get(f"{host.rstrip('/')}/metrics").decode(errors="replace"), host)


def read(path: Path) -> Samples:
    """Metrics that were saved before, such as by ``curl URL/metrics >FILE``.

    Raises:
        ArmsError: there is no such file, or it holds no metrics.
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
        ArmsError: they are in no such format; names the source.
    """
    samples: defaultdict[Key, float] = defaultdict(float)
    try:
        for family in text_string_to_metric_families(exposition):
            for sample in family.samples:
                if (names := LABELS.get(sample.name)) is not None:
                    samples[sample.name, tuple(sample.labels[name] for name in names)] += sample.value
    except (ValueError, KeyError, IndexError):
        raise ArmsError(f"{source}: is not in the Prometheus text format") from None
    return samples


def since(now: Samples, before: Samples) -> Samples:
    """What was counted between two looks at the same service.

    Raises:
        ArmsError: it began anew in between.
    """
    if any(value > now.get(key, 0.0) for key, value in before.items()):
        raise ArmsError("less is counted than in the earlier metrics: the service was restarted since they were saved")
    return {key: value - before.get(key, 0.0) for key, value in now.items()}


def ask_prometheus(server: str, window: str) -> Samples:
    """What a Prometheus server saw counted within a time such as "1d", summed over the services that it scrapes.

    These are estimates: ``increase`` extrapolates to the ends of the window, and misses what a service had counted
    before it was scraped for the first time.

    Raises:
        LoadTestError: it can't be reached, or does not answer as such a server does.
    """
    samples: dict[Key, float] = {}
    for metric, names in LABELS.items():
        query = f"sum by ({', '.join(names)}) (increase({metric}[{window}]))"
        reply = _get(f"{server.rstrip('/')}/api/v1/query?{urlencode({'query': query})}")
        try:
            for row in json.loads(reply)["data"]["result"]:
                samples[metric, tuple(str(row["metric"][name]) for name in names)] = float(row["value"][1])
        except (ValueError, KeyError, IndexError, TypeError):
            raise ArmsError(f"{server}: does not answer as a Prometheus server does") from None
    return samples


def _get(url: str) -> bytes:
    reply = fetch(url, TIMEOUT_SECONDS)
    if reply.status != OK:
        raise ArmsError(f"{url.split('?')[0]} answers {reply.status}{_error_of(reply.content)}")
    return reply.content


def _error_of(content: bytes) -> str:
    """What a Prometheus server says of a query that it refuses."""
    try:
        reply: dict[str, Any] = json.loads(content)
        return f" ({reply['error']})" if isinstance(reply["error"], str) else ""
    except (ValueError, KeyError, TypeError):
        return ""
