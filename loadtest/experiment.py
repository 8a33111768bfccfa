"""The command ``python -m loadtest.experiment``: which arm of an experiment serves its users better.

It reads the metrics of the arms, from a service (``--host``), a file (``--metrics``) or a Prometheus server, and
compares the friction rates of their finished sessions (`verdict`). Prints tables, a sentence for each comparison, and
as the last line one JSON object with the same figures. Exit code: 0 compared, 2 could not.

The chance of a false alarm, ``--alpha``, holds for one look, at a number of sessions that was set beforehand. Looking
again and again until a difference shows finds one in the end though there is none: decide on the sample first
(``--effect`` and ``--power`` say how large), and judge once it is there.
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
    ask_prometheus,
    experiments_in,
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
SHARES = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}
PEEKING = (
    "Decide on the number of sessions first, and judge once they are there: who looks again and again until a "
    "difference shows finds one in the end though there is none."
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
    there = experiments_in(samples)
    if not there:
        raise ArmsError(f"{source}: tells of no experiment; one begins with --experiment-file and the first text")
    if asked is None and len(there) == 1:
        return there[0]
    if asked not in there:
        problem = "tells of several experiments" if asked is None else f"tells of no experiment {asked!r}"
        raise ArmsError(f"{source}: {problem}; choose with --experiment: {', '.join(there)}")
    return asked


def figures_of(experiment: str, arms: dict[str, ArmCounts], baseline: str | None, plan: Plan) -> Figures:
    """What the arms of an experiment show. Rates and differences are in points, latencies in milliseconds.

    Args:
        experiment: its name.
        arms: what was counted of each.
        baseline: the arm that the others are compared with; "control" where None, or else the largest.
        plan: what is to be shown.

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
            _comparison_figures(name, baseline, found, plan) for name, found in zip(others, compared, strict=True)
        ],
    }


def _arm_figures(counts: ArmCounts, alpha: float) -> Figures:
    moments = counts.moments
    latencies = {name: counts.latency(share) for name, share in SHARES.items()}
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


def _comparison_figures(arm: str, baseline: str, found: Comparison, plan: Plan) -> Figures:
    return {
        "arm": arm,
        "difference_points": round(found.difference * POINTS, 4),
        "interval": _points(found.interval),
        "p_value": found.p_value,
        "relative_percent": None if found.relative is None else round(found.relative * 100, 2),
        "more_sessions": found.more_sessions,
        "is_enough": found.is_enough,
        "is_shown": found.is_shown,
        "verdict": verdict_of(arm, baseline, found, plan),
    }


def verdict_of(arm: str, baseline: str, found: Comparison, plan: Plan) -> str:
    """A comparison in one sentence."""
    if not found.is_enough:
        return (
            f"too little was seen to judge {arm} against {baseline}: it takes {MIN_SESSIONS} finished sessions in "
            f"each arm, and {MIN_FRICTION} turns with friction in both"
        )
    low, high = _points(found.interval) or (0.0, 0.0)
    p_value = f"p = {found.p_value:.3f}" if found.p_value >= 0.001 else "p < 0.001"
    relative = "" if found.relative is None else f", relative {found.relative * 100:+.1f} %"
    figures = f"{found.difference * POINTS:+.1f} points [{low:.1f}, {high:.1f}], {p_value}{relative}"
    if found.is_shown:
        return f"{arm} is {'worse' if found.difference > 0 else 'better'} than {baseline}: {figures}"
    points = round(plan.effect * POINTS, 6)
    size = f"{points:g} point{'s' * (points != 1)}"
    sample = (
        f"about {found.more_sessions:,} more sessions in each arm would show one of {size}"
        if found.more_sessions
        else f"there were enough sessions to show one of {size}"
    )
    return f"no difference shown between {arm} and {baseline}: {figures}; {sample}"


def _points(interval: Interval) -> list[float] | None:
    return [round(end * POINTS, 4) for end in interval] if all(map(math.isfinite, interval)) else None


def table_of(figures: Figures) -> str:
    """The figures for people to read."""
    arms: dict[str, Figures] = figures["arms"]
    level = f"{100 - 100 * figures['alpha']:g} % interval"
    rows = []
    for name, arm in arms.items():
        rate = "-" if arm["friction_points"] is None else f"{arm['friction_points']:.1f} %"
        interval = "-" if arm["interval"] is None else "{:.1f} to {:.1f}".format(*arm["interval"])
        times = ["-" if arm[share] is None else f"{arm[share]:.2f}" for share in SHARES]
        counts = [f"{arm[count]:,}" for count in ("sessions", "turns", "unanswered")]
        rows.append([name, *counts, rate, interval, *times, ", ".join(arm["models"])])
    tables = [Table(["arm", "sessions", "turns", "unanswered", "friction", level, *SHARES, "model"], rows)]
    for heading, field, columns in (("friction by sign", "signs", SIGNS), ("feedback", "feedback", OUTCOMES)):
        rows = [[name, *(f"{arm[field][column]:,}" for column in columns)] for name, arm in arms.items()]
        tables.append(Table([heading, *columns], rows))
    return "\n\n".join(
        [
            f"experiment {figures['experiment']}: friction is the share of turns in finished sessions that went wrong",
            *(table.plain() for table in tables),
            "\n".join(_sentences(figures)),
        ]
    )


def _sentences(figures: Figures) -> list[str]:
    lines = [found["verdict"] for found in figures["comparisons"]]
    if not lines:
        lines = [f"there is no other arm to compare {figures['baseline']} with"]
    if any(arm["turns"] and not arm["sessions"] for arm in figures["arms"].values()):
        lines.append(
            "An arm has no finished session: clients need to send x-client-key, and sessions end after a while."
        )
    return lines


def _samples(arguments: argparse.Namespace) -> tuple[Samples, str]:
    """The metrics, and where they are from."""
    if arguments.prometheus is not None:
        if arguments.since is not None:
            raise ArmsError("--since: goes with --host or --metrics; Prometheus looks back by --range")
        return ask_prometheus(arguments.prometheus, arguments.range or DAY), arguments.prometheus
    if arguments.range is not None:
        raise ArmsError("--range: goes with --prometheus; --host and --metrics take off what --since saved")
    source = arguments.host or str(arguments.metrics)
    now = scrape(arguments.host) if arguments.host is not None else read(arguments.metrics)
    return (since(now, read(arguments.since)) if arguments.since else now), source


def _window(value: str) -> str:
    if re.fullmatch(r"(\d+(ms|[smhdwy]))+", value):
        return value
    raise argparse.ArgumentTypeError(f"{value!r} should be a time such as 90m, 12h or 7d")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m loadtest.experiment",
        description="Say which arm of an experiment serves its users better, from the service's metrics.",
        epilog=PEEKING,
        allow_abbrev=False,
    )
    source = made.add_mutually_exclusive_group(required=True)
    source.add_argument("--host", metavar="URL", help="service whose /metrics are read")
    source.add_argument("--metrics", type=Path, metavar="FILE", help="metrics that were saved")
    source.add_argument("--prometheus", metavar="URL", help="Prometheus server that is asked; its counts are estimates")
    about = "metrics of the same service that were saved earlier, whose counts are taken off"
    add(made, "since", Path, "FILE", f"{about} (default: none)")
    add(made, "range", _window, "TIME", f"with --prometheus: how far to look back, such as 12h (default: {DAY})")
    add(made, "experiment", str, "NAME", "which one, where there are several (default: the only one)")
    add(made, "baseline", str, "ARM", "arm that the others are compared with (default: control, or the largest)")
    add(made, "alpha", chance, "P", "chance of showing a difference where there is none", 0.05)
    add(made, "power", chance, "P", "chance of showing one of --effect, for the sessions still needed", 0.8)
    add(made, "effect", positive, "POINTS", "smallest difference that matters, in points of 100", 1.0)
    return made


if __name__ == "__main__":
    sys.exit(main())
