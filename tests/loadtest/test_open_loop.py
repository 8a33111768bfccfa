"""The load by a schedule, against a stand-in server."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from starlette.responses import JSONResponse, Response

from loadtest.load.client import LoadError
from loadtest.load.open_loop import Scheduled, arrival_times, measure
from tests.loadtest.conftest import Reply, Serve

BODIES = [orjson.dumps({"text": f"text{number} hallo", "locale": "de-DE"}) for number in range(50)]


def load(url: str, **more: Any) -> Scheduled:
    """A short load."""
    return measure(url, BODIES, **({"rate": 200.0, "connections": 16, "seconds": 0.5} | more))


def test_requests_come_at_the_rate(serve: Serve) -> None:
    found = load(serve(), warm_up=0.1)

    scheduled = len(arrival_times(200.0, 0.6, seed=0))
    assert not found.failures
    assert 0 < len(found.lateness) <= scheduled
    assert 0 < len(found.latencies) <= scheduled
    assert min(found.lateness) >= 0


@pytest.mark.parametrize("rate", [3.0, 500.0])
def test_arrival_times_are_random_but_for_the_seed(rate: float) -> None:
    found = arrival_times(rate, 10.0, seed=1)

    assert found == sorted(found) == arrival_times(rate, 10.0, seed=1) != arrival_times(rate, 10.0, seed=2)
    assert found[0] >= 0
    assert found[-1] <= 10
    assert len(found) == pytest.approx(10 * rate, abs=4 * (10 * rate) ** 0.5)
    gaps = np.diff(found)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.5)  # of evenly spaced ones it would be 0


def test_what_waits_for_a_connection_counts_from_when_it_was_due(serve: Serve) -> None:
    """One connection and 20 ms a reply: of 100 requests a second, half pile up."""
    found = load(serve(pause=0.02), rate=100.0, connections=1)

    assert found.per_second < 60
    assert found.percentile(90) > 0.1
    assert np.median(found.lateness) < found.percentile(90)  # the delay by the server is no lateness


def test_wrong_replies_are_counted(serve: Serve) -> None:
    def refuse(answer: Reply) -> Response:
        return JSONResponse({"error": {"code": "overloaded"}}, 429)

    found = load(serve(tamper=refuse), seconds=0.2)

    assert sum(found.failures.values()) >= len(found.latencies)


def test_server_that_does_not_answer_ends_it(serve: Serve) -> None:
    with pytest.raises(LoadError, match=r"gave no reply within 0\.2 s"):
        load(serve(pause=0.8), seconds=3.0, reply_timeout=0.2)


def test_an_absent_server_is_named() -> None:
    with pytest.raises(LoadError, match="can't be reached"):
        load("http://127.0.0.1:9")
