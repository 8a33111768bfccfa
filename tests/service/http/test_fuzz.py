"""Generated requests against a real server: replies match the documentation, and slots match the text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import schemathesis
from hypothesis import given, settings
from hypothesis import strategies as st
from requests import Session
from schemathesis import Case, CheckContext, Response

from service.app import create_app
from service.http.requests import MAX_TOP_K
from service.settings import Settings
from service.student.shipped import SHIPPED_STUDENTS
from tests.service.conftest import LOCALES, TAG_WORDS
from tests.service.server import PATIENCE, Server

KEY = "a-key-of-many-characters"
JSON = {"content-type": "application/json"}
QUICK = {"max-examples": 40, "deterministic": True, "database": "none", "no-shrink": True}
LONG = {"max-examples": 2000, "database": "none"}
OTHER_PROTOCOLS = re.compile(r"/v2(?!/health)|/model/|/status|/version")
UNREADABLE = ("text: must not hold NUL", "text: must hold at least one")  # not expressible in JSON Schema

Recognise = Callable[[str], dict[str, Any]]


def documented(generation: dict[str, Any], **more: Any) -> Any:
    """The service's OpenAPI document, from which requests are generated.

    It lacks the locales and students of a deployment; they are filled in, so that each valid request must be answered.
    """
    document = create_app(Settings(**more)).app.openapi()
    schemas = document["components"]["schemas"]
    known = {
        "locale": {"enum": list(LOCALES)},
        "top_k": {"enum": [None, *range(1, MAX_TOP_K + 1)]},  # 3.0 is an integer in theory
        "model": {"enum": ["s", "default", None]},
        "models": {"enum": [["s"], ["german", "s"], None]},
        "allowed_domains": {"enum": [["alarm"], ["music", "weather"], None]},
        "allowed_intents": {"enum": [["alarm_set", "alarm_set"], None]},
    }
    for name in ("NluItem", "NluRequest", "BatchRequest", "DomainRequest", "CompareRequest"):
        properties = schemas[name]["properties"]
        properties.update({field: known[field] for field in known.keys() & properties.keys()})
    for path, methods in document["paths"].items():
        for parameter in (each for one in methods.values() for each in one.get("parameters", ())):
            if parameter["name"] in ("model", "locale"):
                parameter["schema"] = {"enum": ["s", "german"] if parameter["name"] == "model" else ["de-DE"]}
                assert OTHER_PROTOCOLS.match(path)
    config = {
        "generation": {**generation, "allow-extra-parameters": False},  # unknown headers are ignored
        "checks": {
            "not_a_server_error": {"expected-statuses": ["2xx", "4xx", "504"]},  # a deadline of 1 ms may pass
            "positive_data_acceptance": {"enabled": False},  # see `accepts_what_fits`
        },
        # an item that doesn't fit gets an error in its place
        "operations": [{"include-path": "/v1/nlu/batch", "checks": {"negative_data_rejection": {"enabled": False}}}],
    }
    return schemathesis.openapi.from_dict(document, config=schemathesis.Config.from_dict(config))


def documented_with_keys(generation: dict[str, Any]) -> Any:
    """The document of a service with API keys."""
    with TemporaryDirectory() as folder:
        keys = Path(folder) / "keys"
        keys.write_text(KEY)
        return documented(generation, api_keys_file=keys)


def accepts_what_fits(_: CheckContext, response: Response, case: Case) -> None:
    """A request that is valid by the documentation is answered, unless its text is unreadable or too long."""
    assert case.meta is not None
    if case.meta.generation.mode.is_positive and response.status_code not in (200, 403, 413, 504):
        if case.path.startswith("/v2/"):  # shapes, and binary data after the JSON, can't be expressed
            assert response.status_code == 422
        elif OTHER_PROTOCOLS.match(case.path):
            assert response.json()["message"].startswith((*UNREADABLE, "locale: "))
        else:
            assert response.json()["error"]["message"].startswith(UNREADABLE)


def answers_each_item(_: CheckContext, response: Response, case: Case) -> None:
    """A batch has as many results as items."""
    if case.path == "/v1/nlu/batch" and response.status_code == 200:
        assert len(response.json()["results"]) == len(case.body["items"])


def names_the_request(_: CheckContext, response: Response, case: Case) -> None:
    """Every reply carries an id, and an error of the service's own protocol repeats it."""
    (request_id,) = response.headers["x-request-id"]
    if response.status_code >= 400 and not OTHER_PROTOCOLS.match(case.path):
        assert response.json()["error"]["request_id"] == request_id


def check(case: Case, server: Server, session: Session, headers: dict[str, str] | None = None) -> None:
    """Send a request, and check the reply by the documentation: status, content type, headers, schema."""
    case.call_and_validate(
        base_url=f"http://127.0.0.1:{server.port}",
        session=session,
        headers=headers,
        additional_checks=[accepts_what_fits, answers_each_item, names_the_request],
    )


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with Session() as session:
        session.trust_env = False  # no proxy stands between the tests and the loopback
        yield session


@pytest.fixture(scope="module")
def server(students: Path) -> Iterator[Server]:
    with Server("--students", str(students)) as server:
        yield server
        assert server.metric("nlu_requests_total", code="500") == 0


@pytest.fixture(scope="module")
def locked(students: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(KEY)
    with Server("--students", str(students), "--api-keys-file", str(keys)) as server:
        yield server
        assert server.metric("nlu_rejected_total", reason="key") > 0
        assert server.metric("nlu_requests_total", code="500") == 0


open_to_all = documented(QUICK)
with_keys = documented_with_keys(QUICK)
for_long = documented(LONG)


@open_to_all.parametrize()
def test_service_matches_its_documentation(case: Case, server: Server, session: Session) -> None:
    check(case, server, session)


@with_keys.parametrize()
def test_service_with_keys_matches_its_documentation(case: Case, locked: Server, session: Session) -> None:
    check(case, locked, session, {"Authorization": f"Bearer {KEY}"})


@pytest.mark.slow
@for_long.parametrize()
def test_service_matches_its_documentation_for_long(case: Case, server: Server, session: Session) -> None:
    check(case, server, session)


@pytest.fixture(scope="module", params=["tiny", "shipped"])
def recognise(request: pytest.FixtureRequest, students: Path) -> Iterator[Recognise]:
    """Ask a student over HTTP, on a connection that stays open; it must answer."""
    folder = students if request.param == "tiny" else SHIPPED_STUDENTS
    with (
        Server("--students", str(folder)) as server,
        closing(HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)) as connection,
    ):

        def ask(text: str) -> dict[str, Any]:
            connection.request("POST", "/v1/nlu", json.dumps({"text": text, "locale": "de-DE"}).encode(), JSON)
            response = connection.getresponse()
            content = response.read()
            assert response.status == 200, content
            answer: dict[str, Any] = json.loads(content)
            return answer

        yield ask


words = st.sampled_from([word for group in TAG_WORDS.values() for word in group])
tricky = st.sampled_from(
    [
        *("😀", "👩‍👩‍👧", "🇩🇪", "👍🏽", "❤️"),  # one grapheme, up to five code points
        *("e\u0301", "A\u030a", "\u1100\u1161\u11a8", "\u0301"),  # decomposed, and a mark without its letter
        *("שלום", "مرحبا", "\u202eabc\u202c", "\u200f"),  # from right to left
        *("\x01", "\x1f", "\x7f", "\x85", "\u2028", "\ufeff", "\u00ad", "\u200b", "\U000e0041"),  # invisible
        *("ß", "ﬁ", "½", "\ufdfa", "İ", "ŉ", "㎢", "𝐁𝐞𝐫𝐥𝐢𝐧"),  # other lengths once normalised
        *("l'", "dell’", "c.", "9:30", "-", "\u00a0", "\t", "\r\n", "\u3000", "漢字", "\U0010ffff"),
    ]
)
composed = st.lists(words | tricky | st.text(max_size=8), min_size=1, max_size=60)
typed = st.one_of(
    st.text(min_size=1, max_size=500),
    st.tuples(st.sampled_from(["", " "]), composed).map(lambda glue: glue[0].join(glue[1])),
).map(lambda text: text[:500])
readable = typed.filter(lambda text: text != "" and not text.isspace() and "\0" not in text)


def check_slots(answer: dict[str, Any], text: str) -> None:
    """Each slot's value is the text between its offsets, and slots don't overlap."""
    end = 0
    for slot in answer["slots"]:
        assert text[slot["start"] : slot["end"]] == slot["value"] != ""
        assert slot["start"] >= end
        end = slot["end"]


@settings(
    max_examples=400,
    derandomize=True,
    database=None,
)
@given(text=readable)
def test_any_text_is_answered_and_slots_are_parts_of_it(recognise: Recognise, text: str) -> None:
    check_slots(recognise(text), text)


@pytest.mark.slow
@settings(max_examples=10_000, database=None)
@given(text=readable)
def test_many_more_texts_are_answered(recognise: Recognise, text: str) -> None:
    check_slots(recognise(text), text)


def test_texts_made_for_this_do_have_slots(recognise: Recognise) -> None:
    """The tests above rely on it."""
    answer = recognise("😀 weck mich am freitag um neun uhr in e\u0301 berlin")

    assert len(answer["slots"]) >= 2


@pytest.mark.parametrize(
    ("path", "body", "problem"),
    [
        ("/v1/nlu", b"{" + b",".join(b'"%x":1' % number for number in range(90_000)) + b"}", "body: has more than"),
        ("/v1/nlu/batch", b'{"items":[' + b"1," * 500_000 + b"1]}", "items: List should have at most 4096"),
    ],
)
def test_costly_body_is_refused_early(server: Server, path: str, body: bytes, problem: str) -> None:
    refused = server.ask("POST", path, body)

    assert refused.status == 422
    assert json.loads(refused.content)["error"]["message"].startswith(problem)
