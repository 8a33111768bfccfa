"""The figures of a load test, as one JSON object and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loadtest.load.recorder import CLIENT, SERVER_PHASES, SINCE_DUE, SINGLE, Recorder
from loadtest.load.tables import Table
from loadtest.load.texts import Selection

Figures = dict[str, Any]

HEADINGS = ("", "count", "req/s", "mean", "p50", "p90", "p95", "p99", "max ms")
ROWS = (CLIENT, SINCE_DUE, *SERVER_PHASES)
MIN_ACHIEVED_SHARE = 0.98  # of the asked rate; below it the service or the load generator was too slow


def figures_of(recorder: Recorder, selection: Selection, *, host: str, users: int, asked_rate: float) -> Figures:
    """The figures of a load test. Durations are in milliseconds; the achieved rate counts valid replies only."""
    seconds, failures = recorder.seconds, recorder.failures.total()
    achieved = (recorder.requests - failures) / seconds if seconds else 0.0
    rows: dict[str, dict[str, float]] = {}
    for name in sorted(recorder.rows, key=_row_order):
        histogram = recorder.rows[name]
        rows[name] = {
            "count": len(histogram),
            "per_second": round(len(histogram) / seconds, 2) if seconds else 0.0,
            **{column: round(value, 3) for column, value in histogram.summary().items()},
        }
    return {
        "host": host,
        "users": users,
        "locales": selection.locales,
        "locales_left_out": selection.left_out,
        "seconds": round(seconds, 3),
        "requests": recorder.requests,
        "failures": failures,
        "failure_reasons": dict(recorder.failures.most_common()),
        "texts_per_second": round(recorder.texts / seconds, 2) if seconds else 0.0,
        "asked_rate": asked_rate or None,
        "achieved_rate": round(achieved, 2),
        "kept_up": achieved >= MIN_ACHIEVED_SHARE * asked_rate if asked_rate else None,
        "rows": rows,
    }


def is_success(figures: Figures) -> bool:
    """Whether there were requests, and each had a valid reply."""
    return bool(figures["requests"] > 0 and figures["failures"] == 0)


def table_of(figures: Figures) -> str:
    """The figures as a table."""
    left_out = ", ".join(figures["locales_left_out"])
    lines = [
        f"{figures['host']}: {figures['users']} users, {figures['seconds']:.1f} s, texts in "
        f"{', '.join(figures['locales'])}" + (f" (left out: {left_out})" if left_out else ""),
        "",
    ]
    if figures["rows"]:
        rows = [
            [name, f"{row['count']}", *(f"{row[column]:.2f}" for column in row if column != "count")]
            for name, row in figures["rows"].items()
        ]
        lines += [Table(HEADINGS, rows).plain(), ""]
    return "\n".join([*lines, *_summary(figures)])


def table_of_steps(steps: Sequence[Figures]) -> str:
    """The steps of a step load, one per line: rates and client latency, and whether the service kept up."""
    rows = []
    for step in steps:
        latency = step["rows"].get(f"{SINGLE} {SINCE_DUE}") or step["rows"].get(f"{SINGLE} {CLIENT}")
        asked = "-" if step["asked_rate"] is None else f"{step['asked_rate']:.1f}"
        times = [f"{latency[name]:.2f}" if latency else "-" for name in ("p50", "p99")]
        late = "" if step["kept_up"] in (True, None) else "not kept up"
        rows.append([f"{step['users']}", asked, f"{step['achieved_rate']:.1f}", f"{step['failures']}", *times, late])
    return Table(["users", "asked/s", "achieved/s", "failures", "p50 ms", "p99 ms", ""], rows).plain()


def _summary(figures: Figures) -> list[str]:
    lines = [f"failures: {figures['failures']} of {figures['requests']} requests"]
    lines += [f"  {count} x {reason}" for reason, count in figures["failure_reasons"].items()]
    achieved, texts = f"{figures['achieved_rate']:.2f}/s", f"{figures['texts_per_second']:.2f} texts/s"
    asked = figures["asked_rate"]
    if asked is None:
        return [*lines, f"rate: {achieved} ({texts}), as fast as replies came"]
    share = figures["achieved_rate"] / asked
    lines.append(f"rate: asked {asked:.2f}/s, achieved {achieved}, {share:.1%} of it ({texts})")
    if not figures["kept_up"] and not figures["failures"]:
        lines.append("The asked rate was not reached: add users, or the service or this machine is saturated.")
    return lines


def _row_order(name: str) -> tuple[bool, int, str]:
    """Sort key: single before batch, then the phases in the order of time."""
    kind, _, row = name.partition(" ")
    return kind != SINGLE, ROWS.index(row) if row in ROWS else len(ROWS), name
