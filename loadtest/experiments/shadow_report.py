"""The figures of ``python -m loadtest.shadow``: latencies without and with the shadow, and their ratios."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from loadtest.load.closed_loop import Measured
from loadtest.load.open_loop import Scheduled
from loadtest.load.tables import Table

Figures = dict[str, Any]

TARGET = 1.05  # of the p99 with the shadow to that without
PERCENTS = (50, 99)
RESAMPLES = 10_000
MAX_LATENESS_SECONDS = 0.25e-3  # p99 of the load generator's delay; above it other work disturbs the measurement
MICRO = 1e6


class ShadowRound(NamedTuple):
    """Two measurements of one load, without and with the shadow; and the texts that the shadow answered and dropped.

    These counts include the warm-up.
    """

    off: Measured
    on: Measured
    done: int
    dropped: int

    def ratio(self, percent: float) -> float:
        """The latency with the shadow over the latency without it."""
        return self.on.percentile(percent) / self.off.percentile(percent)

    def __str__(self) -> str:
        off, on = (MICRO * side.percentile(99) for side in (self.off, self.on))
        ratio = f"p99 {off:.0f} µs without, {on:.0f} µs with it: x {self.ratio(99):.3f}"
        return f"{ratio}; {self.done} done, {self.dropped} dropped"


def figures_of_rounds(rounds: Sequence[ShadowRound]) -> Figures:
    """The figures of one load: times in microseconds, ratios as medians of the rounds with 95 % intervals."""
    figures: Figures = {
        "per_second": round(median(one.off.per_second for one in rounds), 1),
        "done": sum(one.done for one in rounds),
        "dropped": sum(one.dropped for one in rounds),
    }
    for percent in PERCENTS:
        ratios = [one.ratio(percent) for one in rounds]
        figures |= {
            f"p{percent}_off_us": round(MICRO * median(one.off.percentile(percent) for one in rounds), 1),
            f"p{percent}_on_us": round(MICRO * median(one.on.percentile(percent) for one in rounds), 1),
            f"p{percent}_ratio": round(median(ratios), 4),
            f"p{percent}_interval": interval_of(ratios),
            f"p{percent}_ratios": [round(ratio, 4) for ratio in ratios],
        }
    late = [np.percentile(side.lateness, 99) for one in rounds for side in one[:2] if isinstance(side, Scheduled)]
    return figures | ({"late_us": round(MICRO * float(median(late)), 1)} if late else {})


def interval_of(ratios: Sequence[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the median of the rounds."""
    samples = np.random.default_rng(0).choice(np.asarray(ratios), (RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(samples, 1), (2.5, 97.5))
    return round(float(low), 4), round(float(high), 4)


def has_reached(figures: Figures) -> bool:
    """Whether the p99 ratio is within the target at each load."""
    return all(load["p99_ratio"] <= TARGET for load in figures["loads"].values())


def table_of(figures: Figures) -> str:
    """The figures as a table."""
    measured = figures["measured"]
    rows, noisy = [], []
    for name, load in figures["loads"].items():
        counts = f"{load['done']} done", f"{load['dropped']} dropped"
        rows.append([f"{name}, {load['per_second']:.0f} /s", *counts, "", "", ""])
        for percent in PERCENTS:
            off, on, ratio = (load[f"p{percent}_{of}"] for of in ("off_us", "on_us", "ratio"))
            low, high = load[f"p{percent}_interval"]
            verdict = _verdict(figures, ratio) if percent == 99 else ""
            times = f"{off:.1f} µs", f"{on:.1f} µs", f"x {ratio:.3f}"
            rows.append([f"  p{percent}", *times, f"{low:.3f} to {high:.3f}", verdict])
        if (late := load.get("late_us", 0)) > MICRO * MAX_LATENESS_SECONDS:
            noisy.append(
                f"NOISY: other work delayed the load generator by {late:.0f} µs ({name}); repeat on an idle machine"
            )
    return "\n".join(
        [
            f"{figures['primary']}, shadowed by {figures['shadow']}, {figures['share']:.3g} of the texts; "
            f"{measured['rounds']} rounds of {measured['seconds']:g} s",
            Table(["", "off", "on", "ratio", "95 %", ""], rows).plain(),
            *noisy,
        ]
    )


def _verdict(figures: Figures, ratio: float) -> str:
    return f"target <= {TARGET:.2f}: {'reached' if ratio <= TARGET else 'MISSED'}" if "target" in figures else ""
