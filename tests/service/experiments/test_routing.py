"""Experiments in a running service: routing, feedback, and what is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.app import create_app
from service.experiments.experiment import ExperimentError
from service.http.schemas import FeedbackReply, NluReply
from service.settings import Settings
from tests.service.conftest import Client, write_student
from tests.service.server import until

TEXT = "weck mich am freitag um neun uhr auf"
BODY = {"text": TEXT, "locale": "de-DE"}
SPLIT = """
name = "trial"
[arms.control]
model = "s"
weight = {control}
[arms.candidate]
model = "{candidate}"
weight = {weight}
"""
SHADOW = """
[shadow]
model = "german"
share = 1.0
"""

StartTrial = Callable[..., Client]


def write(file: Path, control: float = 50, weight: float = 50, candidate: str = "german", more: str = "") -> None:
    file.write_text(SPLIT.format(control=control, weight=weight, candidate=candidate) + more)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "experiment.toml"


@pytest.fixture
def trial(make_client: Callable[..., Client], file: Path) -> StartTrial:
    """Start a service with an experiment."""

    def start(**more: Any) -> Client:
        write(file, **more)
        return make_client(experiment_file=file)

    return start


def ask(client: Client, key: str | None = None, **more: Any) -> Any:
    headers = {"x-client-key": key} if key is not None else {}
    response = client.post("/v1/nlu", json={**BODY, **more}, headers=headers)
    assert response.status_code == 200, response.text
    return response.json()


def send_feedback(client: Client, request_id: str, outcome: str = "accepted", **more: str) -> Any:
    response = client.post("/v1/feedback", json={"request_id": request_id, "outcome": outcome, **more})
    assert response.status_code == 200, response.text
    FeedbackReply.model_validate(response.json())
    return response.json()


def test_clients_stay_in_their_arms(trial: StartTrial) -> None:
    client = trial()
    keys = [f"client-{number}" for number in range(60)]

    first, second = ([ask(client, key) for key in keys] for _ in range(2))

    assert [reply["arm"] for reply in first] == [reply["arm"] for reply in second]
    assert {(reply["arm"], reply["model"]["name"]) for reply in first} == {
        ("control", "s"),
        ("candidate", "german"),
    }
    for reply in first:
        NluReply.model_validate(reply)


def test_clients_without_a_key_are_split_by_weight(trial: StartTrial) -> None:
    client = trial(control=90, weight=10)

    arms = Counter(ask(client)["arm"] for _ in range(400))

    assert 15 <= arms["candidate"] <= 75
    assert client.metric("nlu_turns_total", experiment="trial", arm="candidate") == arms["candidate"]
    assert client.metric("nlu_turn_seconds_count", arm="control", model="s") == arms["control"]


def test_request_that_names_a_student_takes_no_part(trial: StartTrial) -> None:
    client = trial(control=0, weight=1)

    assert "arm" not in ask(client, "me", model="s")
    assert "arm" not in client.post("/v1/nlu/batch", json={"items": [BODY]}).json()["results"][0]
    assert client.metric("nlu_turns_total") == 0


@pytest.mark.parametrize("more", [{"candidate": "huge"}, {}])
def test_request_that_one_arm_can_not_answer_takes_no_part(trial: StartTrial, more: dict[str, str]) -> None:
    client = trial(**more)

    replies = [ask(client, f"client-{number}", locale="it-IT") for number in range(20)]

    assert not any("arm" in reply for reply in replies)
    assert {reply["model"]["name"] for reply in replies} == {"s"}


def test_weights_change_without_a_restart(
    trial: StartTrial, file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.watched_file.CHECK_SECONDS", 0.0)
    client = trial(control=1, weight=0)
    assert ask(client, "me")["arm"] == "control"

    write(file, control=0, weight=1)
    until(lambda: ask(client, "me")["arm"] == "candidate")

    file.write_text("[arms]")
    until(lambda: ask(client, "me") and "the experiment continues unchanged" in caplog.text)
    assert ask(client, "me")["arm"] == "candidate"


def test_bad_experiment_refuses_to_start(students: Path, file: Path) -> None:
    write(file, candidate="a/b")

    with pytest.raises(ExperimentError, match=r"arms\.candidate\.model"):
        create_app(Settings(students=students, experiment_file=file))


def test_rephrase_and_feedback_count_for_their_arms(trial: StartTrial) -> None:
    client = trial(control=0, weight=1)

    first = ask(client, "me", text="spiel musik in berlin")
    again = ask(client, "me", text="spiel bitte musik in berlin")
    other = ask(client, "you", text="wetter in berlin")
    assert send_feedback(client, again["request_id"]) == {
        "request_id": again["request_id"],
        "outcome": "accepted",
        "arm": "candidate",
        "counted": True,
        "remembered": True,
    }
    send_feedback(client, other["request_id"], "abandoned")

    assert client.metric("nlu_friction_total", arm="candidate", sign="rephrase") == 1
    assert client.metric("nlu_friction_total", arm="candidate", sign="abandoned", model="german") == 1
    assert client.metric("nlu_feedback_total", arm="candidate", outcome="accepted") == 1
    assert not send_feedback(client, again["request_id"], "corrected")["counted"]
    assert first["arm"] == "candidate"


def test_feedback_without_experiment_counts_for_no_arm(make_client: Callable[..., Client]) -> None:
    client = make_client()

    reply = send_feedback(client, ask(client)["request_id"], "corrected", arm="control")

    assert (reply["arm"], reply["counted"]) == (None, True)
    assert client.metric("nlu_feedback_total", experiment="none", arm="none", outcome="corrected") == 1


def test_feedback_on_a_turn_of_another_process_counts_for_the_arm_that_it_names(trial: StartTrial) -> None:
    client = trial()

    reply = send_feedback(client, "answered-elsewhere", arm="candidate")
    unknown = send_feedback(client, "answered-elsewhere-too", arm="no-such-arm")

    assert (reply["arm"], reply["remembered"], reply["counted"]) == ("candidate", False, True)
    assert client.metric("nlu_feedback_total", arm="candidate", model="german") == 1
    assert unknown["arm"] is None
    assert client.metric("nlu_friction_total") == 0


def test_request_with_labels_that_one_arm_does_not_know_takes_no_part(
    make_client: Callable[..., Client], tmp_path: Path, file: Path
) -> None:
    write_student(tmp_path / "students" / "s")
    write_student(tmp_path / "students" / "router", "router", heads=("domain",))
    write(file, candidate="router")
    client = make_client(tmp_path / "students", experiment_file=file)

    filtered = [ask(client, f"client-{number}", allowed_intents=["alarm_set"]) for number in range(20)]
    known = ask(client, "me", allowed_domains=["alarm"])

    assert not any("arm" in reply for reply in filtered)
    assert {reply["model"]["name"] for reply in filtered} == {"s"}
    assert "arm" in known


def test_request_that_an_arm_does_not_answer_is_counted(trial: StartTrial) -> None:
    client = trial(control=0, weight=1)
    with client.app.state.registry.models["german"].queue.admit(128):
        response = client.post("/v1/nlu", json=BODY)

    assert response.status_code == 429
    assert client.metric("nlu_turn_errors_total", arm="candidate", model="german", reason="overload") == 1


def test_experiment_that_cannot_run_is_logged(trial: StartTrial, caplog: pytest.LogCaptureFixture) -> None:
    client = trial(candidate="huge")

    assert "arm" not in ask(client)
    assert "experiment trial is not split: student huge is not loaded" in caplog.text


def test_arm_without_weight_needs_no_student(trial: StartTrial) -> None:
    assert ask(trial(control=1, weight=0, candidate="huge"))["arm"] == "control"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"request_id": "a b", "outcome": "accepted"}, "request_id: should match pattern"),
        ({"request_id": "a", "outcome": "liked"}, "outcome: should be 'accepted', 'corrected' or 'abandoned'"),
        ({"request_id": "a"}, "outcome: is required"),
    ],
)
def test_bad_feedback_is_refused(client: Client, body: dict[str, str], problem: str) -> None:
    response = client.post("/v1/feedback", json=body)

    assert response.status_code == 422
    assert response.json()["error"]["message"].startswith(problem)


def test_client_key_that_is_too_long_is_refused(client: Client) -> None:
    response = client.post("/v1/nlu", json=BODY, headers={"x-client-key": "k" * 257})

    assert response.status_code == 422
    assert response.json()["error"]["message"] == "x-client-key: should have at most 256 bytes"


def test_shadow_agreement_is_counted(trial: StartTrial) -> None:
    client = trial(control=1, weight=0, more=SHADOW)

    replies = [ask(client) for _ in range(5)]
    labels = {"primary": "s", "shadow": "german", "agreement": "same"}
    until(lambda: client.metric("nlu_shadow_total", task="exact", **labels) == 5)

    assert {reply["model"]["name"] for reply in replies} == {"s"}
    assert [client.metric("nlu_shadow_total", task=task, **labels) for task in ("domain", "intent", "slots")] == [5] * 3


def test_sessions_are_counted_when_the_service_begins_to_stop(trial: StartTrial) -> None:
    client = trial(control=1, weight=0)
    for key in ("me", "you"):
        ask(client, key)
    assert client.metric("nlu_session_moments_total", moment="sessions") == 0

    client.app.state.registry.draining = True

    until(lambda: client.metric("nlu_session_moments_total", moment="sessions") == 2)
