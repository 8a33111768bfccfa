"""Minutes of load below the capacity: neither memory nor latency may drift.

`SOAK_MINUTES` is the duration, set by `make soak`; ``SOAK_MINUTES=0.5`` is enough to try it.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest

from loadtest.load.target import on_cores
from tests.service.server import Load, LoadResult, Server, core_wait, needs_proc, percentile, run, two_cores

pytestmark = [pytest.mark.soak, needs_proc]

MINUTES = float(os.environ.get("SOAK_MINUTES") or 10)
MAX_WORDS = 500
SHARE = 0.7  # of the capacity
CONNECTIONS = 32
WARM_UP_SECONDS = 5
MAX_BYTES_A_REQUEST = 20  # of growth: a leak of one small object a request would be five times that
MAX_NOISE = 2 << 20  # bytes of growth that allocators may cause in a short run
MAX_DRIFT = 1.2
MAX_CORE_WAIT = 0.02  # seconds in a second, for it to count as quiet
SYLLABLES = ["we", "cker", "mor", "gen", "um", "neun", "uhr", "mu", "sik", "é", "ß", "ü", "ter", "😀", "ro", "ma"]


def texts(count: int) -> list[bytes]:
    """Bodies of 1 to 500 words, without repeated texts."""
    dice = random.Random(0)
    bodies = []
    for _ in range(count):
        words = ["".join(dice.choices(SYLLABLES, k=dice.randint(1, 4))) for _ in range(dice.randint(1, MAX_WORDS))]
        bodies.append(json.dumps({"text": " ".join(words), "locale": dice.choice(["de-DE", "it-IT"])}).encode())
    return bodies


class Second(NamedTuple):
    """A measurement, about once a second: bytes of memory, and seconds of waiting for a core so far."""

    resident: int
    core_wait: float


def test_memory_and_latency_do_not_drift() -> None:
    load_core, service_core = two_cores()
    with Server(cores=[service_core]) as server, on_cores([load_core]):
        capacity, result, seen = run(_soak(server))
        code = server.stop()

    answered, increase = len(result.latencies[200]), growth([second.resident for second in seen])
    print(f"capacity {capacity.per_second:.0f}/s; {answered} answers in {result.seconds:.0f} s")
    print(f"memory {seen[0].resident / 1e6:.1f} MB, then {seen[-1].resident / 1e6:.1f}; trend {increase / 1e6:+.2f} MB")
    print(f"waited for a core for {seen[-1].core_wait - seen[0].core_wait:.1f} s")
    assert code == 0
    assert result.latencies.keys() == {200}
    assert answered == result.sent
    assert increase < MAX_NOISE + MAX_BYTES_A_REQUEST * answered

    first, last = (percentile(part, 99) * 1000 for part in first_and_last(result, quiet(seen)))
    print(f"p99 {first:.1f} ms in the first minute, {last:.1f} ms in the last: x {last / first:.2f}")
    assert last < MAX_DRIFT * first


async def _soak(server: Server) -> tuple[LoadResult, LoadResult, list[Second]]:
    seen: list[Second] = []
    bodies = texts(5000)
    async with Load(server.port, bodies, CONNECTIONS) as some:
        await some.closed(WARM_UP_SECONDS)
        capacity = await some.closed(WARM_UP_SECONDS)
    async with Load(server.port, bodies, 4 * CONNECTIONS) as many:
        result = await many.open(
            SHARE * capacity.per_second,
            60 * MINUTES,
            lambda: seen.append(Second(server.resident(), server.core_wait() + core_wait())),
        )
    return capacity, result, seen


def growth(resident: Sequence[float]) -> float:
    """By how much memory has increase, by a straight line through all measurements after the first fifth."""
    settled = np.asarray(resident[len(resident) // 5 :])
    slope = np.polyfit(np.arange(len(settled)), settled, 1)[0]
    return float(slope * len(settled))


def quiet(seen: Sequence[Second]) -> set[int]:
    """The seconds without waiting for a core, nor in the one before: a queue lasts longer than its cause."""
    noisy = {at for at, (one, next_) in enumerate(pairwise(seen)) if next_.core_wait - one.core_wait > MAX_CORE_WAIT}
    return {at for at in range(1, len(seen) - 1) if at not in noisy and at - 1 not in noisy}


def first_and_last(result: LoadResult, quiet: set[int]) -> tuple[Sequence[float], Sequence[float]]:
    """Latencies of the first and last minute of quiet seconds; of the first and last fifth of a short run."""
    minute = max(1, round(min(60, 60 * MINUTES / 5)))
    if len(quiet) < 2 * minute:
        pytest.skip("other work had the cores for most of the time; repeat when they are idle")
    seconds = np.asarray(result.moments[200]).astype(int)
    latencies, ordered = np.asarray(result.latencies[200]), sorted(quiet)
    return latencies[np.isin(seconds, ordered[:minute])], latencies[np.isin(seconds, ordered[-minute:])]
