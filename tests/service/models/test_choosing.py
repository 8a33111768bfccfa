"""Choosing among several students: by name, alias and head; comparing them; filtering labels; calibrated answers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtest.load.replies import parse_server_timing
from service.app import create_app
from service.http.schemas import CompareReply, DomainReply, ModelsReply, NluReply
from service.settings import Settings
from service.student.manifest import StudentError
from service.student.student import Student
from tests.service.conftest import DOMAINS, LOCALES, Client, write_student

TEXT = "weck mich am freitag um neun uhr auf"
BODY = {"text": TEXT, "locale": "de-DE"}
CALIBRATION = {
    "temperatures": {"domain": {"de-DE": 2.0}, "intent": {"de-DE": 2.0}, "slots": {"de-DE": 2.0}},
    "slot_confidence": "product",
    "scope": {
        "method": "max_softmax",
        "head": "intent",
        "false_rejection_rate": 0.02,
        "thresholds": {"de-DE": 0.5, "fr-FR": 0.99},
    },
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Students with all heads, with some, for some locales, calibrated and not."""
    root = tmp_path_factory.mktemp("several")
    write_student(root / "s")
    write_student(root / "german", "german", ("de-DE",))
    write_student(root / "router", "router", heads=("domain",))
    write_student(root / "icner", "icner", heads=("intent", "slots"))
    write_student(root / "sure", "sure", calibration=CALIBRATION)
    return root


@pytest.fixture(scope="module")
def client(root: Path) -> Iterator[Client]:
    aliases = {"fast": "german", "domain": "router"}
    with Client(create_app(Settings(students=root, aliases=aliases))) as client:
        yield client


def ask(client: Client, path: str = "/v1/nlu", status: int = 200, **more: Any) -> Any:
    response = client.post(path, json={**BODY, **more})
    assert response.status_code == status, response.text
    return response.json()


@pytest.mark.parametrize(("asked", "answers"), [("default", "s"), ("fast", "german"), ("sure", "sure")])
def test_names_and_aliases_choose(client: Client, asked: str, answers: str) -> None:
    assert ask(client, model=asked)["model"]["name"] == answers


def test_empty_name_is_no_name(client: Client) -> None:
    assert ask(client, status=404, model="")["error"]["code"] == "unknown_model"


def test_unknown_name_lists_students_and_aliases(client: Client) -> None:
    error = ask(client, status=404, model="huge")["error"]

    assert error["message"].endswith("loaded: german or fast, icner, router or domain, s or default, sure")
    assert "huge" not in error["message"]


def test_models_lists_heads_aliases_and_calibration(client: Client) -> None:
    models = {model.name: model for model in ModelsReply.model_validate(client.get("/v1/models").json()).models}

    assert models["german"].aliases == ["fast"]
    assert models["s"].aliases == ["default"]
    assert models["icner"].heads == ["intent", "slots"]
    assert models["s"].calibration is None
    assert models["sure"].calibrated
    assert models["sure"].calibration["scope"]["thresholds"] == {"de-DE": 0.5, "fr-FR": 0.99}  # type: ignore[index]


def test_student_answers_null_where_it_has_no_head(client: Client) -> None:
    router, icner = ask(client, model="router"), ask(client, model="icner", top_k=2)

    assert router["domain"]["name"] == "alarm"
    assert router["intent"] is router["slots"] is None
    assert icner["domain"] is icner["ranking"]["domain"] is None
    assert icner["intent"]["name"] == "alarm_set"
    NluReply.model_validate(router)
    NluReply.model_validate(icner)


def test_router_answers_with_domains(client: Client) -> None:
    reply = ask(client, "/v1/domain", top_k=3)

    assert reply["model"]["name"] == "router"
    assert reply["ranking"][0]["name"] == reply["domain"]["name"] == "alarm"
    assert "intent" not in reply
    DomainReply.model_validate(reply)


@pytest.mark.parametrize("aliases", [{}, {"domain": "gone"}])
def test_default_student_answers_with_domains_where_no_router_is(root: Path, aliases: dict[str, str]) -> None:
    with Client(create_app(Settings(students=root, aliases=aliases))) as client:
        assert ask(client, "/v1/domain")["model"]["name"] == "s"


def test_domain_of_a_student_without_is_refused_plainly(client: Client) -> None:
    error = ask(client, "/v1/domain", status=422, model="icner")["error"]

    assert error["code"] == "missing_head"
    assert error["message"] == "domain: student icner has no domain head; it has intent, slots"


def test_all_students_are_compared(client: Client) -> None:
    reply = ask(client, "/v1/compare")

    assert list(reply["results"]) == ["s", "german", "icner", "router", "sure"]
    assert reply["agreement"] == {"domain": True, "intent": True, "slots": True, "exact": True}
    assert reply["differences"] == {}
    CompareReply.model_validate(reply)


def test_comparison_takes_as_long_as_all_its_answers(client: Client) -> None:
    response = client.post("/v1/compare", json=BODY)

    timings = [result["timings_ms"] for result in response.json()["results"].values()]
    spent = parse_server_timing(response.headers["server-timing"])
    assert spent["inference"] == pytest.approx(sum(each["inference"] for each in timings), abs=0.01)
    assert spent["total"] >= sum(each["total"] for each in timings) - 0.01


def test_named_students_are_compared_once_each(client: Client) -> None:
    assert list(ask(client, "/v1/compare", models=["fast", "german", "default"])["results"]) == ["german", "s"]


def test_single_student_has_no_agreement(client: Client) -> None:
    reply = ask(client, "/v1/compare", models=["s"])

    assert reply["agreement"] == {"domain": None, "intent": None, "slots": None, "exact": None}


def test_student_that_does_not_know_the_locale_gets_an_error_in_its_place(client: Client) -> None:
    reply = ask(client, "/v1/compare", locale="it-IT", models=["s", "german"])

    assert reply["results"]["german"]["error"]["code"] == "unknown_locale"
    assert reply["results"]["s"]["domain"]["name"] == "alarm"
    CompareReply.model_validate(reply)


def test_locale_that_no_student_knows_is_refused(client: Client) -> None:
    assert ask(client, "/v1/compare", status=422, locale="sv-SE")["error"]["code"] == "unknown_locale"


def test_unknown_student_is_not_compared(client: Client) -> None:
    assert ask(client, "/v1/compare", status=404, models=["s", "huge"])["error"]["code"] == "unknown_model"


def test_differences_are_listed(root: Path, tmp_path: Path, edit: Any) -> None:
    write_student(tmp_path / "s")
    other = write_student(tmp_path / "other", "other")
    edit(other, "labels.domain", ["music", "alarm", "weather"])
    edit(other, "labels.slots", ["O", "B-day", "I-day", "B-time", "I-time", "B-place_name", "I-place_name"])
    with Client(create_app(Settings(students=tmp_path))) as client:
        reply = ask(client, "/v1/compare")

    assert reply["agreement"] == {"domain": False, "intent": True, "slots": False, "exact": False}
    assert reply["differences"]["domain"] == {"s": "alarm", "other": "music"}
    assert {name: [slot["name"] for slot in slots] for name, slots in reply["differences"]["slots"].items()} == {
        "s": ["date"],
        "other": ["day"],
    }
    CompareReply.model_validate(reply)


def test_filter_renormalises_and_reports_the_share(client: Client) -> None:
    plain = ask(client, top_k=3)
    reply = ask(client, top_k=3, allowed_domains=["weather", "music"], allowed_intents=["alarm_set"])

    shares = {label["name"]: label["confidence"] for label in plain["ranking"]["domain"]}
    kept = shares["weather"] + shares["music"]
    assert {label["name"] for label in reply["ranking"]["domain"]} == {"weather", "music"}
    assert sum(label["confidence"] for label in reply["ranking"]["domain"]) == pytest.approx(1, abs=1e-5)
    assert reply["kept"]["domain"] == pytest.approx(kept, abs=1e-5)
    assert reply["intent"] == {"name": "alarm_set", "confidence": 1.0}
    assert reply["slots"] == plain["slots"]
    assert "kept" not in plain
    NluReply.model_validate(reply)


def test_filter_of_domains_alone(client: Client) -> None:
    assert ask(client, "/v1/domain", allowed_domains=["music"])["domain"] == {"name": "music", "confidence": 1.0}


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"allowed_domains": ["alarm", "zebra"]}, "invalid_request"),
        ({"allowed_domains": []}, "invalid_request"),
        ({"allowed_domains": ["alarm"], "model": "icner"}, "missing_head"),
        ({"allowed_intents": ["alarm_set"], "model": "router"}, "missing_head"),
    ],
)
def test_invalid_filter_is_refused(client: Client, more: dict[str, Any], code: str) -> None:
    error = ask(client, status=422, **more)["error"]

    assert error["code"] == code
    assert next(iter(more)) in error["message"]
    assert "zebra" not in error["message"]


def test_filtered_and_unfiltered_are_cached_separately(root: Path) -> None:
    with Client(create_app(Settings(students=root, cache_entries=10))) as client:
        plain, filtered = ask(client), ask(client, allowed_domains=["music"])
        again = ask(client, allowed_domains=["music"])

    assert (plain["domain"]["name"], filtered["domain"]["name"]) == ("alarm", "music")
    assert [reply["cached"] for reply in (plain, filtered, again)] == [False, False, True]


def test_temperature_softens_confidences_of_its_locale_only(root: Path) -> None:
    plain, calibrated = Student.load(root / "s"), Student.load(root / "sure")
    before = plain.predict(TEXT, len(DOMAINS), "de-DE").domain or []
    after = calibrated.predict(TEXT, len(DOMAINS), "de-DE").domain or []

    softened = {name: math.sqrt(confidence) for name, confidence in before}
    total = sum(softened.values())
    assert dict(after) == pytest.approx({name: share / total for name, share in softened.items()})
    for locale in (*LOCALES[1:], None):
        assert calibrated.predict(TEXT, 2, locale)[:2] == plain.predict(TEXT, 2, locale)[:2]
    best = calibrated.predict(TEXT, 1, "de-DE").domain or []
    assert best[0].confidence == pytest.approx(after[0].confidence)


def test_slot_confidence_is_the_product_of_its_words(root: Path) -> None:
    plain, calibrated = Student.load(root / "s"), Student.load(root / "sure")
    one = {slot.name: slot.confidence for slot in calibrated.predict(TEXT, locale="fr-FR").slots or ()}
    other = {slot.name: slot.confidence for slot in plain.predict(TEXT, locale="fr-FR").slots or ()}

    assert one["date"] == other["date"]
    assert one["time"] == pytest.approx(other["time"] ** 2)


def test_scope_does_not_replace_the_ranking(client: Client) -> None:
    known = ask(client, model="sure", top_k=3)
    strange = ask(client, model="sure", text="der himmel ist blau", top_k=3)

    assert (known["in_scope"], strange["in_scope"]) == (True, False)
    assert len(strange["ranking"]["domain"]) == 3
    assert ask(client, model="sure", locale="es-ES")["in_scope"] is None
    assert ask(client)["in_scope"] is None


def test_scope_is_judged_before_the_filter(client: Client) -> None:
    strange = ask(client, model="sure", text="der himmel ist blau", allowed_intents=["alarm_set"])

    assert strange["intent"]["confidence"] == 1
    assert strange["in_scope"] is False


@pytest.mark.parametrize(
    ("method", "threshold"),
    [("max_softmax", 0.5), ("energy", 3.0)],
)
def test_each_method_separates_requests_from_other_text(tmp_path: Path, method: str, threshold: float) -> None:
    scope = {"method": method, "head": "domain", "false_rejection_rate": 0.02, "thresholds": {"de-DE": threshold}}
    student = Student.load(write_student(tmp_path / "s", calibration={"scope": scope}))

    assert student.predict(TEXT, 1, "de-DE").in_scope is True
    assert student.predict("der himmel ist blau", 1, "de-DE").in_scope is False
    assert student.predict(TEXT, 1, "fr-FR").in_scope is None
    assert student.predict(TEXT, 3, "de-DE").in_scope is True


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("calibration.scope.head", "slots", "scope.head"),
        ("calibration.scope.thresholds", {"sv-SE": 0.5}, "scope: sv-SE is not among"),
        ("calibration.temperatures", {"domain": {"sv-SE": 1.0}}, "temperatures.domain: sv-SE is not among"),
        ("calibration.temperatures", {"domain": {"de-DE": 1e-320}}, "temperatures.domain.de-DE"),
    ],
)
def test_calibration_that_does_not_fit_the_student_is_refused(
    tmp_path: Path, edit: Any, path: str, value: Any, problem: str
) -> None:
    folder = write_student(tmp_path / "s", calibration=CALIBRATION)
    edit(folder, path, value)

    with pytest.raises(StudentError, match=problem):
        Student.load(folder)


def test_scope_by_a_head_that_the_student_lacks_is_refused(tmp_path: Path, edit: Any) -> None:
    scope = {**CALIBRATION["scope"], "head": "domain"}  # type: ignore[dict-item]
    folder = write_student(tmp_path / "s", heads=("domain",), calibration={"scope": scope})
    edit(folder, "calibration.scope.head", "intent")

    with pytest.raises(StudentError, match=r"scope\.head: intent is not among domain"):
        Student.load(folder)


def test_no_student_is_named_default(tmp_path: Path) -> None:
    write_student(tmp_path / "other", "default")
    write_student(tmp_path / "s")
    with Client(create_app(Settings(students=tmp_path))) as client:
        assert "a student can't be named 'default'" in client.get("/v1/models").json()["refused"][0]
