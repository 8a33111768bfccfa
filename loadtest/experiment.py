"""The command ``python -m loadtest.experiment``: which arm of an experiment serves its users better.

It reads the metrics of the arms from a service (``--host``), a file (``--metrics``) or a Prometheus server, and
compares the friction rates of their finished sessions (`verdict`). Prints tables, a sentence for each comparison, and
as the last line one JSON object with the same figures. Exit code: 0, or 2 on an error.

The false-alarm rate ``--alpha`` holds for one look at a sample size that was fixed beforehand. Repeated looks until a
difference shows ("peeking") raise it. Fix the sample size first (``--effect`` and ``--power`` determine it), and judge
once it is reached.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from loadtest.experiments.arms import (
    ArmCounts,
    ArmsError,
    Samples,
    arms_of,
    experiments_in,
    query_prometheus,
    read,
    scrape,
    since,
)
from loadtest.experiments.verdict import MIN_FRICTION, MIN_SESSIONS, Comparison, Interval, Plan, compare
from loadtest.load.command import command
from loadtest.load.options import add, chance, positive
from loadtest.load.tables import Table
from service.experiments.friction import Sign
from service.http.requests import Outcome

Figures = dict[str, Any]

CONTROL = "control"
POINTS = 100  # in 1
DAY = "1d"
SIGNS: tuple[str, ...] = get_args(Sign)
OUTCOMES: tuple[str, ...] = get_args(Outcome)
QUANTILES = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}
PEEKING_WARNING = (
    "Fix the number of sessions first, and judge once it is reached: repeated looks until a difference shows find one "
    "even where there is none."
)


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Compare the arms of an experiment. Returns the exit code."""
    arguments = parser().parse_args(argv)
    samples, source = _samples(arguments)
    name = choose_experiment(samples, arguments.experiment, source)
    plan = Plan(arguments.alpha, arguments.power, arguments.effect / POINTS)
    figures = figures_of(name, arms_of(samples, name), arguments.baseline, plan)
    print(table_of(figures))
    print(json.dumps(figures))
    return 0


def choose_experiment(samples: Samples, asked: str | None, source: str) -> str:
    """The experiment asked for, or the only one.

    Raises:
        ArmsError: there is none, or not that one, or several and none was asked for.
    """
    names = experiments_in(samples)
    if not names:
        raise ArmsError(f"{source}: no experiment in these metrics; start the service with --experiment-file")
    if asked is None and len(names) == 1:
        return names[0]
    if asked not in names:
        problem = "several experiments in these metrics" if asked is None else f"no experiment {asked!r}"
        raise ArmsError(f"{source}: {problem}; choose with --experiment: {', '.join(names)}")
    return asked


def figures_of(experiment: str, arms: dict[str, ArmCounts], baseline: str | None, plan: Plan) -> Figures:
    """The figures of an experiment. Rates and differences are in points, latencies in milliseconds.

    Args:
        experiment: its name.
        arms: the counts of each arm.
        baseline: the arm that the others are compared with; if None, "control", or else the arm with most sessions.
        plan: level, power and effect size.

    Raises:
        ArmsError: no arm has the baseline's name.
    """
    if baseline is None:
        baseline = CONTROL if CONTROL in arms else max(arms, key=lambda name: arms[name].moments.sessions)
    if baseline not in arms:
        raise ArmsError(f"experiment {experiment} has no arm {baseline!r}; its arms: {', '.join(arms)}")
    others = [name for name in arms if name != baseline]
    compared = compare(arms[baseline].moments, [arms[name].moments for name in others], plan)
    return {
        "experiment": experiment,
        "baseline": baseline,
        "alpha": plan.alpha,
        "power": plan.power,
        "effect_points": round(plan.effect * POINTS, 6),
        "arms": {name: _arm_figures(counts, plan.alpha) for name, counts in arms.items()},
        "comparisons": [
            _comparison_figures(name, baseline, result, plan) for name, result in zip(others, compared, strict=True)
        ],
    }


def _arm_figures(counts: ArmCounts, alpha: float) -> Figures:
    moments = counts.moments
    latencies = {name: counts.latency(share) for name, share in QUANTILES.items()}
    return {
        "models": sorted(counts.models),
        "sessions": round(moments.sessions),
        "session_turns": round(moments.turns),
        "turns": round(counts.turns),
        "unanswered": round(counts.unanswered),
        "friction_points": round(moments.rate * POINTS, 4) if moments.turns else None,
        "interval": _points(moments.interval(alpha)) if moments.turns else None,
        "signs": {sign: round(counts.signs[sign]) for sign in SIGNS},
        "feedback": {outcome: round(counts.feedback[outcome]) for outcome in OUTCOMES},
        **{name: None if seconds is None else round(seconds * 1000, 4) for name, seconds in latencies.items()},
    }


def _comparison_figures(arm: str, baseline: str, result: Comparison, plan: Plan) -> Figures:
    return {
        "arm": arm,
        "difference_points": round(result.difference * POINTS, 4),
        "interval": _points(result.interval),
        "p_value": result.p_value,
        "relative_percent": None if result.relative is None else round(result.relative * 100, 2),
        "more_sessions": result.more_sessions,
        "is_enough": result.is_enough,
        "is_shown": result.is_shown,
        "verdict": verdict_of(arm, baseline, result, plan),
    }


def verdict_of(arm: str, baseline: str, result: Comparison, plan: Plan) -> str:
    """A comparison in one sentence."""
    if not result.is_enough:
        return (
            f"not enough data to compare {arm} with {baseline}: needs {MIN_SESSIONS} finished sessions in each arm "
            f"and {MIN_FRICTION} turns with friction in the two together"
        )
    low, high = _points(result.interval) or (0.0, 0.0)
    p_value = f"p = {result.p_value:.3f}" if result.p_value >= 0.001 else "p < 0.001"
    relative = "" if result.relative is None else f", relative {result.relative * 100:+.1f} %"
    figures = f"{result.difference * POINTS:+.1f} points [{low:.1f}, {high:.1f}], {p_value}{relative}"
    if result.is_shown:
        return f"{arm} is {'worse' if result.difference > 0 else 'better'} than {baseline}: {figures}"
    points = round(plan.effect * POINTS, 6)
    size = f"{points:g} point{'s' * (points != 1)}"
    sample = (
        f"about {result.more_sessions:,} more sessions in each arm would show one of {size}"
        if result.more_sessions
        else f"there were enough sessions to show one of {size}"
    )
    return f"no difference shown between {arm} and {baseline}: {figures}; {sample}"


def _points(interval: Interval) -> list[float] | None:
    return [round(end * POINTS, 4) for end in interval] if all(map(math.isfinite, interval)) else None


def table_of(figures: Figures) -> str:
    """The figures as tables and sentences."""
    arms: dict[str, Figures] = figures["arms"]
    level = f"{100 - 100 * figures['alpha']:g} % interval"
    rows = []
    for name, arm in arms.items():
        rate = "-" if arm["friction_points"] is None else f"{arm['friction_points']:.1f} %"
        interval = "-" if arm["interval"] is None else "{:.1f} to {:.1f}".format(*arm["interval"])
        times = ["-" if arm[share] is None else f"{arm[share]:.2f}" for share in QUANTILES]
        counts = [f"{arm[count]:,}" for count in ("sessions", "turns", "unanswered")]
        rows.append([name, *counts, rate, interval, *times, ", ".join(arm["models"])])
    tables = [Table(["arm", "sessions", "turns", "unanswered", "friction", level, *QUANTILES, "model"], rows)]
    for heading, field, columns in (("friction by sign", "signs", SIGNS), ("feedback", "feedback", OUTCOMES)):
        rows = [[name, *(f"{arm[field][column]:,}" for column in columns)] for name, arm in arms.items()]
        tables.append(Table([heading, *columns], rows))
    return "\n\n".join(
        [
            f"experiment {figures['experiment']}: friction is the share of turns with friction in finished sessions",
            *(table.plain() for table in tables),
            "\n".join(_sentences(figures)),
        ]
    )


def _sentences(figures: Figures) -> list[str]:
    lines = [comparison["verdict"] for comparison in figures["comparisons"]]
    if not lines:
        lines = [f"there is no other arm to compare {figures['baseline']} with"]
    if any(arm["turns"] and not arm["sessions"] for arm in figures["arms"].values()):
        lines.append(
            "An arm has no finished session: clients must send x-client-key, and sessions end after session_seconds."
        )
    return lines


def _samples(arguments: argparse.Namespace) -> tuple[Samples, str]:
    """The metrics, and their source."""
    if arguments.prometheus is not None:
        if arguments.since is not None:
            raise ArmsError("--since: only allowed with --host or --metrics; use --range with --prometheus")
        return query_prometheus(arguments.prometheus, arguments.range or DAY), arguments.prometheus
    if arguments.range is not None:
        raise ArmsError("--range: only allowed with --prometheus; use --since with --host or --metrics")
    source = arguments.host or str(arguments.metrics)
    now = scrape(arguments.host) if arguments.host is not None else read(arguments.metrics)
    return (since(now, read(arguments.since)) if arguments.since else now), source


def _window(value: str) -> str:
    if re.fullmatch(r"(\d+(ms|[smhdwy]))+", value):
        return value
    raise argparse.ArgumentTypeError(f"{value!r} should be a time such as 90m, 12h or 7d")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.experiment",
        description="Compare the arms of an experiment by the service's metrics.",
        epilog=PEEKING_WARNING,
        allow_abbrev=False,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--host", metavar="URL", help="service whose /metrics are read")
    source.add_argument("--metrics", type=Path, metavar="FILE", help="file of saved metrics")
    source.add_argument("--prometheus", metavar="URL", help="Prometheus server to query; its counts are estimates")
    about = "earlier metrics of the same service, whose counts are subtracted"
    add(parser, "since", Path, "FILE", f"{about} (default: none)")
    add(parser, "range", _window, "TIME", f"with --prometheus: how far to look back, such as 12h (default: {DAY})")
    add(parser, "experiment", str, "NAME", "experiment to compare, if there are several (default: the only one)")
    add(parser, "baseline", str, "ARM", "arm that the others are compared with (default: control, or the largest)")
    add(parser, "alpha", chance, "P", "probability of showing a difference where there is none", 0.05)
    add(parser, "power", chance, "P", "probability of showing a difference of --effect, for the sample size", 0.8)
    add(parser, "effect", positive, "POINTS", "smallest difference that matters, in points of 100", 1.0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
