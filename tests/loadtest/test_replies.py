"""What counts as a valid reply, and the Server-Timing header."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.load.recorder import SERVER_PHASES
from loadtest.load.replies import parse_server_timing, phases_of, problem_of_answer, problem_of_batch, problem_of_reply

TEXT = "füge 👍 hinzu"
LABEL = {"name": "lists", "confidence": 0.9}
GOOD = {"domain": LABEL, "intent": None, "slots": [{"name": "item", "value": "👍", "start": 5, "end": 6}]}


def with_slot(**changes: Any) -> dict[str, Any]:
    return GOOD | {"slots": [GOOD["slots"][0] | changes]}  # type: ignore[index, operator]


@pytest.mark.parametrize("answer", [GOOD, {"intent": LABEL}, {"domain": LABEL, "slots": None}])
def test_valid_answers(answer: dict[str, Any]) -> None:
    assert problem_of_answer(TEXT, answer) is None


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (None, "not a JSON object"),
        ({}, "neither domain nor intent"),
        ({"domain": {"name": ""}, "intent": "x"}, "neither domain nor intent"),
        (GOOD | {"slots": "x"}, "slots are not a list"),
        (with_slot(start=4), "slot value differs"),
        (with_slot(value="x"), "slot value differs"),
        (with_slot(end=99), "slot value differs"),
        (with_slot(start=-8, end=-7), "slot value differs"),
        (with_slot(start=5.0), "slot value differs"),
        (with_slot(start=6, end=6, value=""), "slot value differs"),
        (GOOD | {"slots": [None]}, "slot value differs"),
    ],
)
def test_invalid_answers(answer: Any, problem: str) -> None:
    assert problem in (problem_of_answer(TEXT, answer) or "")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"results": [GOOD, GOOD]}, None),
        ([], "no list of results"),
        ({"results": [GOOD]}, "number of results differs"),
        ({"results": [GOOD, {"error": {"code": "unknown_locale"}}]}, "answered with an error (unknown_locale)"),
        ({"results": [GOOD, {}]}, "neither domain nor intent"),
    ],
)
def test_batches(body: Any, problem: str | None) -> None:
    found = problem_of_batch([TEXT, TEXT], body)

    assert found is None if problem is None else problem in (found or "")


def test_status_comes_first_and_names_the_code() -> None:
    error = json.dumps({"error": {"code": "not_ready"}}).encode()

    assert problem_of_reply([TEXT], False, 503, error) == "HTTP 503 (not_ready)"
    assert problem_of_reply([TEXT], False, 502, b"<html>") == "HTTP 502"
    assert problem_of_reply([TEXT], False, 200, b"<html>") == "reply is not JSON"
    assert problem_of_reply([TEXT], False, 200, json.dumps(GOOD).encode()) is None
    assert problem_of_reply([TEXT], True, 200, json.dumps({"results": [GOOD]}).encode()) is None


@pytest.mark.parametrize(
    ("header", "durations"),
    [
        ("queue;dur=0.012, total;dur=0.47", {"queue": 0.012, "total": 0.47}),
        ('cache;desc="Cache Read";dur=23.2,db', {"cache": 23.2}),
        ('a; DUR = "1.5" ,b;dur=x,c;dur=-1,d;dur=inf,e;dur=nan,f;dur', {"a": 1.5}),
        ("", {}),
        (";;,=,;dur=3", {}),
    ],
)
def test_server_timing(header: str, durations: dict[str, float]) -> None:
    assert parse_server_timing(header) == durations


@given(st.text())
def test_no_header_breaks_the_test(header: str) -> None:
    assert all(duration >= 0 for duration in parse_server_timing(header).values())


def test_only_the_services_phases_become_rows() -> None:
    header = ", ".join(f"{phase};dur=1.5" for phase in (*SERVER_PHASES, "client", "cdn"))

    assert phases_of(header) == dict.fromkeys(SERVER_PHASES, 1.5)
