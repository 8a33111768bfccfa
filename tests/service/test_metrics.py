"""What the metrics say after requests."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram

from service.metrics import SECONDS_BUCKETS, Tally, Timings

BODY = {"text": "weck mich am freitag um neun", "locale": "de-DE"}


def test_buckets_resolve_a_millisecond() -> None:
    below = [bound for bound in SECONDS_BUCKETS if bound <= 1e-3]

    assert SECONDS_BUCKETS[0] == 50e-6
    assert len(below) >= 8
    assert SECONDS_BUCKETS[-1] > 5


def test_answer_moves_counters_and_phases(make_client: Any) -> None:
    client = make_client()

    client.post("/v1/nlu", json=BODY)

    assert client.metric("nlu_requests_total", model="s", endpoint="/v1/nlu", code="200") == 1
    assert client.metric("nlu_request_seconds_count", model="s", endpoint="/v1/nlu") == 1
    assert client.metric("nlu_predictions_total", model="s", locale="de-DE", domain="alarm") == 1
    for phase in ("queue", "tokenize", "inference", "decode"):
        assert client.metric("nlu_phase_seconds_count", model="s", phase=phase) == 1
    for task in ("domain", "intent"):
        assert client.metric("nlu_confidence_count", model="s", task=task) == 1


def test_batch_counts_each_text(make_client: Any) -> None:
    client = make_client()

    client.post("/v1/nlu/batch", json={"items": [BODY, BODY, {}]})

    assert client.metric("nlu_batch_size_sum", model="s") == 3
    assert client.metric("nlu_phase_seconds_count", model="s", phase="inference") == 2
    assert client.metric("nlu_rejected_total", reason="invalid") == 1


def test_truncated_and_unknown_are_counted(make_client: Any) -> None:
    client = make_client()

    client.post("/v1/nlu", json={**BODY, "text": "wetter " * 100})
    client.post("/v1/nlu", json={**BODY, "text": "你 好"})

    assert client.metric("nlu_truncated_total", model="s") == 1
    assert client.metric("nlu_unknown_tokens_total", model="s", locale="de-DE") == 2


def test_loaded_students_are_listed(make_client: Any) -> None:
    assert make_client().metric("nlu_model_info", model="german", precision="fp32", size="xs") == 1


@pytest.mark.parametrize(("code", "reason", "body"), [("404", "model", {**BODY, "model": "q"}), ("422", "invalid", 3)])
def test_refusals_are_counted_by_reason(make_client: Any, code: str, reason: str, body: Any) -> None:
    client = make_client()

    client.post("/v1/nlu", json=body)

    assert client.metric("nlu_rejected_total", reason=reason) == 1
    assert client.metric("nlu_requests_total", model="none", endpoint="/v1/nlu", code=code) == 1


def test_unknown_paths_share_one_label(make_client: Any) -> None:
    client = make_client()

    for number in range(5):
        client.get(f"/nowhere/{number}")

    assert client.metric("nlu_requests_total", endpoint="other", code="404") == 5
    assert "nowhere" not in client.get("/metrics").text


def test_nothing_is_in_flight_but_the_request_for_metrics(make_client: Any) -> None:
    client = make_client()
    client.post("/v1/nlu", json=BODY)

    assert client.metric("nlu_in_flight") == 1


def test_applications_do_not_share_counters(make_client: Any) -> None:
    one, other = make_client(), make_client()

    one.post("/v1/nlu", json=BODY)

    assert other.metric("nlu_requests_total", endpoint="/v1/nlu") == 0


def test_header_reply_and_metrics_say_the_same(make_client: Any) -> None:
    client = make_client()

    response = client.post("/v1/nlu", json=BODY)

    timings = response.json()["timings_ms"]
    assert _durations(response) == timings
    assert client.metric("nlu_request_seconds_sum", endpoint="/v1/nlu") * 1000 == pytest.approx(
        timings["total"], abs=1e-3
    )
    for phase in ("queue", "tokenize", "inference", "decode"):
        assert client.metric("nlu_phase_seconds_sum", phase=phase) * 1000 == pytest.approx(timings[phase], abs=1e-3)


def test_phases_make_up_the_total(client: Any) -> None:
    timings = client.post("/v1/nlu", json=BODY).json()["timings_ms"]

    assert sum(timings[phase] for phase in ("queue", "tokenize", "inference", "decode")) <= timings["total"] + 0.002


def test_batch_header_sums_the_work(client: Any) -> None:
    response = client.post("/v1/nlu/batch", json={"items": [BODY, BODY]})

    first, second = (result["timings_ms"] for result in response.json()["results"])
    header = _durations(response)
    assert header["queue"] == first["queue"]
    assert header["inference"] == pytest.approx(first["inference"] + second["inference"], abs=2e-3)
    assert header["total"] == second["total"]


def test_batch_without_an_answer_has_no_timings() -> None:
    assert Timings.of_batch([]) is None


def _durations(response: Any) -> dict[str, float]:
    parts = (part.strip().split(";dur=") for part in response.headers["server-timing"].split(","))
    return {phase: float(duration) for phase, duration in parts}


@given(values=st.lists(st.floats(0, 10) | st.sampled_from(SECONDS_BUCKETS), max_size=20))
def test_tally_counts_as_one_by_one(values: list[float]) -> None:
    registries = CollectorRegistry(), CollectorRegistry()
    together, one_by_one = (Histogram("h", "", buckets=SECONDS_BUCKETS, registry=each) for each in registries)
    tally = Tally()

    for value in values:
        tally.observe(together, value)
        one_by_one.observe(value)
    tally.hand_over()

    samples = [
        {(sample.name, sample.labels.get("le")): sample.value for sample in next(iter(each.collect())).samples}
        for each in registries
    ]
    assert samples[0] == pytest.approx(samples[1])
