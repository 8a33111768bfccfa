"""The figures of ``python -m benchmarks.floor``: ratios from one run, their targets, and tables for people.

Each ratio is taken within a round, whose measurements lie side by side, and then the median of the rounds: what slows
a machine for a minute slows both sides of a ratio.
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
PHASES = ("tokenize", "inference", "decode")  # of a request; the queue is other requests' time
CORE_IS_FREE = 0.97  # of the server's core for the raw model; with less, other work disturbs the ratios


class Round(NamedTuple):
    """Measurements side by side.

    Attributes:
        raw: seconds of one run of the bare model, right before and right after the servers ran.
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
    """What a figure should reach: for each size of student, or for any ("*")."""

    figure: str
    bounds: Mapping[str, float]
    at_least: bool = True


TARGETS = (
    Target("fraction_of_floor", {"xs": 0.60, "s": 0.80, "m": 0.90}),
    Target("ratio_to_plain_fastapi", {"s": 1.3}),
    Target("p50_at_one_to_raw", {"s": 1.6}, at_least=False),
    Target("two_processes", {"*": 1.8}),
)


def figures_of_rounds(rounds: Sequence[Round]) -> Figures:
    """The figures of one student: times in microseconds, rates in requests a second, medians of the rounds."""
    each = [_figures_of_round(found) for found in rounds]
    return {
        **_rounded({name: median(one[name] for one in each) for name in each[0]}),
        **_rounded({"raw_us_before": rounds[0].raw[0] * MICRO, "raw_us_after": rounds[-1].raw[1] * MICRO}),
        "rounds": [_rounded(one) for one in each],
    }


def _figures_of_round(found: Round) -> dict[str, float]:
    raw, at_one = found.raw_seconds, found.service_at_one.percentile(50)
    return {
        "raw_us": raw * MICRO,
        "service_per_second": found.service.per_second,
        "fraction_of_floor": found.service.per_second * raw,
        "plain_fastapi_per_second": found.plain.per_second,
        "ratio_to_plain_fastapi": found.service.per_second / found.plain.per_second,
        "p50_at_one_us": at_one * MICRO,
        "p50_at_one_to_raw": at_one / raw,
        "plain_fastapi_p50_at_one_us": found.plain_at_one.percentile(50) * MICRO,
        "generator_share": found.service.cpu_share,
    }


def _rounded(figures: Mapping[str, float]) -> Figures:
    """Ratios with three digits, times and rates with one."""
    return {name: round(value, 1 if name.endswith(("_us", "_second")) else 3) for name, value in figures.items()}


def figures_of_processes(rounds: Sequence[tuple[Measured, Measured]], cores: int) -> Figures:
    """What a second process brings, from measurements of one and of two on `cores` cores.

    `generator_share` is the load generator's part of these cores while two processes ran, 0 to 1, and `at_most` the
    ratio that it leaves possible: with both cores busy, it takes its part from the servers.
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
    """Where the time of one request goes, in microseconds.

    Args:
        phases: milliseconds that the service says it spent in each phase, summed over the replies.
        measured: these replies; the service must have been busy all the time.
    """
    spent = {phase: 1000 * phases[phase] / len(measured.latencies) for phase in PHASES}
    whole = MICRO / measured.per_second
    rows = spent | {REST: whole - sum(spent.values()), "request": whole}
    return {name: round(value, 1) for name, value in rows.items()}


def verdicts_of(student: Figures) -> list[Figures]:
    """For each target that there is for a student: what was found and whether it was reached; None where unmeasured."""
    verdicts = []
    for target in TARGETS:
        bound = target.bounds.get(student["size"], target.bounds.get("*"))
        if bound is None:
            continue
        found = student[target.figure]
        found = found.get("ratio") if isinstance(found, dict) else found
        reached = None if found is None else found >= bound if target.at_least else found <= bound
        sign = ">=" if target.at_least else "<="
        verdicts.append({"figure": target.figure, "target": f"{sign} {bound:.2f}", "found": found, "reached": reached})
    return verdicts


def table_of(name: str, student: Figures) -> str:
    """The figures of one student for people; with the targets beside them where there are verdicts."""
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
    if (share := 1 - student["core_share"]) > 1 - CORE_IS_FREE:
        lines.append(f"NOISY: other work took {share:.1%} of the server's core; repeat when it is idle")
    return "\n".join(lines)


def _rows_of_processes(found: Figures, verdict: str) -> list[tuple[str, str, str]]:
    if "skipped" in found:
        return [("two processes to one", "-", f"{verdict}; {found['skipped']}".removeprefix("; "))]
    left = f"the load generator took {found['generator_share']:.1%}, which leaves at most x {found['at_most']:.2f}"
    return [
        ("one process, all cores", f"{found['one_per_second']:.1f} /s", ""),
        ("two processes, all cores", f"{found['two_per_second']:.1f} /s", left),
        ("  two processes to one", f"x {found['ratio']:.2f}", verdict),
    ]


def _rows_of_profile(profile: Mapping[str, float]) -> list[tuple[str, str, str]]:
    if not profile:
        return []
    rows = [(f"  {name}", f"{value:.1f} µs", f"{value / profile['request']:6.1%}") for name, value in profile.items()]
    return [("where the time of one request goes:", "", ""), *rows]


def _verdict(verdict: Figures) -> str:
    said = {True: "reached", False: "MISSED", None: "not measured"}[verdict["reached"]]
    return f"target {verdict['target']}: {said}"
