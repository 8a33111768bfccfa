"""The figures of ``python -m benchmarks.floor``: ratios from one run, their targets, and the tables.

Each ratio is taken within a round, and the median of the rounds is reported: a temporary slowdown of the machine
affects both sides of a ratio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, median
from typing import Any, NamedTuple

from loadtest.load.closed_loop import Measured
from loadtest.load.tables import Table

Figures = dict[str, Any]

MICRO = 1e6
REST = "HTTP, parsing, JSON, metrics"
PHASES = ("tokenize", "inference", "decode")  # of a request; its time in the queue is the time of other requests
MIN_CORE_SHARE = 0.97  # of the server's core for the raw model; below it other work disturbs the ratios


class FloorRound(NamedTuple):
    """The measurements of one round.

    Attributes:
        raw: seconds of one run of the bare model, before and after the servers were measured.
        service, plain: the two servers with many connections.
        service_at_one, plain_at_one: with a single one.
    """

    raw: tuple[float, float]
    service: Measured
    plain: Measured
    service_at_one: Measured
    plain_at_one: Measured

    @property
    def raw_seconds(self) -> float:
        """Seconds of one run of the bare model."""
        return mean(self.raw)


class Target(NamedTuple):
    """The target of a figure by student size, or for any size ("*")."""

    figure: str
    bounds: Mapping[str, float]
    at_least: bool = True


TARGETS = (
    Target("fraction_of_floor", {"xs": 0.60, "s": 0.80, "m": 0.90}),
    Target("ratio_to_plain_fastapi", {"s": 1.3}),
    Target("p50_at_one_to_raw", {"s": 1.6}, at_least=False),
    Target("two_processes", {"*": 1.8}),
)


def figures_of_rounds(rounds: Sequence[FloorRound]) -> Figures:
    """The figures of one student: times in microseconds, rates in requests per second, medians of the rounds."""
    each = [_figures_of_round(one) for one in rounds]
    return {
        **_rounded({name: median(one[name] for one in each) for name in each[0]}),
        **_rounded({"raw_us_before": rounds[0].raw[0] * MICRO, "raw_us_after": rounds[-1].raw[1] * MICRO}),
        "rounds": [_rounded(one) for one in each],
    }


def _figures_of_round(one: FloorRound) -> dict[str, float]:
    raw, at_one = one.raw_seconds, one.service_at_one.percentile(50)
    return {
        "raw_us": raw * MICRO,
        "service_per_second": one.service.per_second,
        "fraction_of_floor": one.service.per_second * raw,
        "plain_fastapi_per_second": one.plain.per_second,
        "ratio_to_plain_fastapi": one.service.per_second / one.plain.per_second,
        "p50_at_one_us": at_one * MICRO,
        "p50_at_one_to_raw": at_one / raw,
        "plain_fastapi_p50_at_one_us": one.plain_at_one.percentile(50) * MICRO,
        "generator_share": one.service.cpu_share,
    }


def _rounded(figures: Mapping[str, float]) -> Figures:
    """Ratios with three digits, times and rates with one."""
    return {name: round(value, 1 if name.endswith(("_us", "_second")) else 3) for name, value in figures.items()}


def figures_of_processes(rounds: Sequence[tuple[Measured, Measured]], cores: int) -> Figures:
    """The gain of a second process, from measurements of one and of two on `cores` cores.

    `generator_share` is the load generator's share of these cores while two processes ran, 0 to 1. `at_most` is the
    highest ratio that this share permits.
    """
    share = median(two.cpu_share / cores for _, two in rounds)
    return {
        "ratio": round(median(two.per_second / one.per_second for one, two in rounds), 3),
        "one_per_second": round(median(one.per_second for one, _ in rounds), 1),
        "two_per_second": round(median(two.per_second for _, two in rounds), 1),
        "generator_share": round(share, 3),
        "at_most": round(2 * (1 - share), 3),
    }


def figures_of_profile(phases: Mapping[str, float], measured: Measured) -> Figures:
    """The time of one request by phase, in microseconds.

    Args:
        phases: milliseconds by phase as the service reports them, summed over the replies.
        measured: these replies; the service must have been saturated.
    """
    spent = {phase: 1000 * phases[phase] / len(measured.latencies) for phase in PHASES}
    whole = MICRO / measured.per_second
    rows = spent | {REST: whole - sum(spent.values()), "request": whole}
    return {name: round(value, 1) for name, value in rows.items()}


def verdicts_of(student: Figures) -> list[Figures]:
    """For each target of a student: the figure, and whether it reaches the target (None if not measured)."""
    verdicts = []
    for target in TARGETS:
        bound = target.bounds.get(student["size"], target.bounds.get("*"))
        if bound is None:
            continue
        value = student[target.figure]
        value = value.get("ratio") if isinstance(value, dict) else value
        reached = None if value is None else value >= bound if target.at_least else value <= bound
        sign = ">=" if target.at_least else "<="
        verdicts.append({"figure": target.figure, "target": f"{sign} {bound:.2f}", "found": value, "reached": reached})
    return verdicts


def table_of(name: str, student: Figures) -> str:
    """The figures of one student as a table, with their targets if there are verdicts."""
    beside = {verdict["figure"]: _verdict(verdict) for verdict in student.get("targets", ())}
    drift = f"before {student['raw_us_before']:.1f}, after {student['raw_us_after']:.1f}"
    many = f"{student['connections']} connections"
    shown = (
        ("raw model, a text", "raw_us", "{:.1f} µs"),
        (f"service, {many}", "service_per_second", "{:.1f} /s"),
        ("  fraction of the raw model's rate", "fraction_of_floor", "{:.3f}"),
        (f"plain FastAPI, {many}", "plain_fastapi_per_second", "{:.1f} /s"),
        ("  service to plain FastAPI", "ratio_to_plain_fastapi", "x {:.2f}"),
        ("service, 1 connection, p50", "p50_at_one_us", "{:.1f} µs"),
        ("  to the raw model", "p50_at_one_to_raw", "x {:.2f}"),
        ("plain FastAPI, 1 connection, p50", "plain_fastapi_p50_at_one_us", "{:.1f} µs"),
        ("load generator's share of its core", "generator_share", "{:.3f}"),
    )
    notes = {"raw_us": drift, **beside}
    rows = [(label, form.format(student[figure]), notes.get(figure, "")) for label, figure, form in shown]
    rows += _rows_of_processes(student["two_processes"], beside.get("two_processes", ""))
    rows += _rows_of_profile(student.get("profile_us", {}))
    lines = [
        f"{name} ({student['precision']}, {student['digest']}): {student['texts']} texts in "
        f"{', '.join(student['locales'])}",
        Table(["", "measured", ""], rows).plain(),
    ]
    if (share := 1 - student["core_share"]) > 1 - MIN_CORE_SHARE:
        lines.append(f"NOISY: other work took {share:.1%} of the server's core; repeat on an idle machine")
    return "\n".join(lines)


def _rows_of_processes(figures: Figures, verdict: str) -> list[tuple[str, str, str]]:
    if "skipped" in figures:
        return [("two processes to one", "-", f"{verdict}; {figures['skipped']}".removeprefix("; "))]
    left = f"the load generator took {figures['generator_share']:.1%}, which leaves at most x {figures['at_most']:.2f}"
    return [
        ("one process, all cores", f"{figures['one_per_second']:.1f} /s", ""),
        ("two processes, all cores", f"{figures['two_per_second']:.1f} /s", left),
        ("  two processes to one", f"x {figures['ratio']:.2f}", verdict),
    ]


def _rows_of_profile(profile: Mapping[str, float]) -> list[tuple[str, str, str]]:
    if not profile:
        return []
    rows = [(f"  {name}", f"{value:.1f} µs", f"{value / profile['request']:6.1%}") for name, value in profile.items()]
    return [("where the time of one request goes:", "", ""), *rows]


def _verdict(verdict: Figures) -> str:
    result = {True: "reached", False: "MISSED", None: "not measured"}[verdict["reached"]]
    return f"target {verdict['target']}: {result}"
