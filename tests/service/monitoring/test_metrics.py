"""The metrics after requests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.monitoring.metrics import SECONDS_BUCKETS, UPDATE_SECONDS, Metrics, Tally
from service.monitoring.student_metrics import StudentMetrics
from service.monitoring.timings import Timings
from service.student.student import Question, Student

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
    assert client.metric("nlu_intents_total", model="s", locale="de-DE", intent="alarm_set") == 1
    assert client.metric("nlu_text_pieces_sum", model="s", locale="de-DE") > 6
    for task in ("domain", "intent"):
        assert client.metric("nlu_confidence_count", model="s", locale="de-DE", task=task) == 1


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

    assert client.metric("nlu_truncated_total", model="s", locale="de-DE") == 1
    assert client.metric("nlu_unknown_tokens_total", model="s", locale="de-DE") == 2


def test_each_locale_is_counted_for_itself(make_client: Any) -> None:
    client = make_client(locale_fallback={"de-AT": "de-DE"})

    for locale in ("de-DE", "de-AT", "it-IT"):
        client.post("/v1/nlu", json={**BODY, "locale": locale})

    for name in ("nlu_predictions_total", "nlu_intents_total", "nlu_text_pieces_count"):
        assert client.metric(name, model="s", locale="de-DE") == 2, name
        assert client.metric(name, model="s", locale="it-IT") == 1, name
    assert client.metric("nlu_confidence_count", task="intent", locale="it-IT") == 1
    assert "de-AT" not in client.get("/metrics").text


def test_cached_answers_count_too(make_client: Any) -> None:
    client = make_client(cache_entries=10)

    for _ in range(3):
        client.post("/v1/nlu", json=BODY)

    assert client.metric("nlu_cache_total", outcome="hit") == 2
    assert client.metric("nlu_intents_total") == 3
    assert client.metric("nlu_confidence_count", task="intent") == 3
    assert client.metric("nlu_phase_seconds_count", phase="inference") == 1


def test_texts_out_of_scope_are_counted(folder: Path, edit: Any, make_client: Any) -> None:
    scope = {"method": "max_softmax", "head": "intent", "false_rejection_rate": 0.05, "thresholds": {"de-DE": 0.9}}
    edit(folder, "calibration", {"data": "none", "partition": "dev", "temperatures": {}, "scope": scope})
    client = make_client(folder)

    for text in ("weck mich", "hm", "was"):
        client.post("/v1/nlu", json={**BODY, "text": text})

    assert client.metric("nlu_out_of_scope_total", model="s", locale="de-DE") == 2
    assert client.metric("nlu_predictions_total", model="s", locale="de-DE") == 3


def test_student_without_a_scope_threshold_reports_none(make_client: Any) -> None:
    client = make_client()
    client.post("/v1/nlu", json=BODY)

    assert "nlu_out_of_scope_total{" not in client.get("/metrics").text


@pytest.mark.parametrize(
    ("filtered", "task", "other"), [("domains", "domain", "intent"), ("intents", "intent", "domain")]
)
def test_a_filtered_answer_does_not_count_in_confidence(student: Student, filtered: str, task: str, other: str) -> None:
    allowed = student.numbers_of(task, student.manifest.labels.model_dump()[task][:2])
    metrics = Metrics()
    student_metrics = StudentMetrics(metrics, student.manifest)
    question = Question("weck mich", "de-DE")._replace(**{filtered: allowed})
    prediction = student.predict_each([question])[0]

    metrics.defer(student_metrics.count, "de-DE", prediction, Timings(0, 0, 0, 0, 0), False)
    metrics.flush()

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, {"model": "s", "locale": "de-DE", **labels})

    assert value("nlu_confidence_count", task=task) == 0
    assert value("nlu_confidence_count", task=other) == 1
    assert value("nlu_predictions_total", domain="alarm") == 1
    assert value("nlu_intents_total", intent="alarm_set") == 1


def test_student_without_a_domain_head_counts_none(folder: Path, edit: Any, make_client: Any) -> None:
    edit(folder, "labels.domain", [])
    client = make_client(folder)

    client.post("/v1/nlu", json=BODY)

    assert client.metric("nlu_predictions_total", model="s", locale="de-DE", domain="none") == 1
    assert client.metric("nlu_intents_total", model="s", locale="de-DE", intent="alarm_set") == 1
    assert 'task="domain"' not in client.get("/metrics").text


def test_updates_run_at_intervals() -> None:
    now = [0.0]
    metrics = Metrics(lambda: now[0])
    calls: list[float] = []

    def fail() -> None:
        raise ZeroDivisionError

    def update() -> None:
        calls.append(now[0])

    for each in (fail, update, update):
        metrics.start_updating(each)
    for _ in range(5):
        metrics.flush()
        now[0] += UPDATE_SECONDS / 2
    metrics.stop_updating(update)
    metrics.stop_updating(update)
    now[0] += UPDATE_SECONDS
    metrics.flush()

    assert calls == [0, UPDATE_SECONDS, 2 * UPDATE_SECONDS]


def test_every_metric_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
    documented = dict(re.findall(r"`(nlu_\w+)(?:\{([a-z_,]+)\})?`", page)[::-1])

    for metric in vars(Metrics()).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            (family,) = metric.collect()
            labels = documented[f"{family.name}_total" if family.type == "counter" else family.name]
            if labels:
                metric.labels(**dict.fromkeys(labels.split(","), "some"))  # raises ValueError for other labels
            else:
                assert family.samples, family.name  # only a metric without labels has samples at once


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


def test_header_reply_and_metrics_agree(make_client: Any) -> None:
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
    tally.apply()

    samples = [
        {(sample.name, sample.labels.get("le")): sample.value for sample in next(iter(each.collect())).samples}
        for each in registries
    ]
    assert samples[0] == pytest.approx(samples[1])
