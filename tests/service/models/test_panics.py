"""A panic of a native library: every request ends, and the student comes back or is out of service."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer
from tokenizers.pre_tokenizers import Sequence, Split

from service.student.manifest import MANIFEST_FILE, TOKENIZER_FILE, FileEntry, StudentError
from service.student.student import Student

BODY = {"text": "weck mich am freitag um neun", "locale": "de-DE"}
POISON = {"text": "a" * 40, "locale": "de-DE"}
KEY = {"x-api-key": "a-key-of-many-characters"}


def poison(folder: Path) -> None:
    """Give a student a tokenizer that panics on the text of `POISON`: its regex backtracks too often."""
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    tokenizer.pre_tokenizer = Sequence([Split(Regex("(a+)+b"), "isolated"), tokenizer.pre_tokenizer])
    tokenizer.save(str(folder / TOKENIZER_FILE))
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    manifest["files"][TOKENIZER_FILE] = FileEntry.of(folder / TOKENIZER_FILE).model_dump()
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))


@pytest.fixture
def poisoned(folder: Path, students: Path) -> Path:
    """A folder of students: `s`, which panics, and `german`."""
    poison(folder)
    shutil.copytree(students / "german", folder.with_name("german"))
    return folder.parent


@pytest.fixture
def client(make_client: Any, poisoned: Path, tmp_path: Path) -> Any:
    (tmp_path / "keys").write_text(KEY["x-api-key"])
    return make_client(poisoned, api_keys_file=tmp_path / "keys")


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Hold the tests of students until the event is set."""
    released, check = threading.Event(), Student.check_golden
    monkeypatch.setattr(Student, "check_golden", lambda *arguments: (released.wait(20), check(*arguments)))
    yield released
    released.set()


def ask(client: Any, path: str = "/v1/nlu", body: Any = BODY) -> Any:
    return client.post(path, json=body, headers=KEY)


def until(client: Any, condition: Any) -> None:
    async def wait() -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.005)

    client.call(wait)


def registry_of(client: Any) -> Any:
    return client.app.state.registry


def is_back(client: Any) -> bool:
    queue = registry_of(client).models["s"].queue
    return queue.problem is None and not queue.has_panicked


@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize("path", ["/v1/nlu", "/v1/domain"])
def test_text_that_panics_is_500_and_the_student_answers_again(client: Any, path: str, in_thread: bool) -> None:
    registry_of(client).models["s"].queue.run_in_thread(in_thread)

    failed = ask(client, path, POISON)
    until(client, lambda: is_back(client))

    assert (failed.status_code, failed.json()["error"]["code"]) == (500, "internal_error")
    assert ask(client, path).json()["domain"]["name"] == "alarm"
    assert client.get("/readyz").status_code == 200
    assert client.metric("nlu_student_panics_total", model="s") == 1


@pytest.mark.parametrize("in_thread", [False, True])
def test_requests_beside_one_that_panics_all_end_and_give_back_their_permits(client: Any, in_thread: bool) -> None:
    queue = registry_of(client).models["s"].queue
    queue.run_in_thread(in_thread)

    async def ask_together() -> list[int]:
        bodies = [BODY, BODY, POISON, BODY, BODY]
        asking = [client.http.post("/v1/nlu", json=body, headers=KEY) for body in bodies]
        return [reply.status_code for reply in await asyncio.gather(*asking)]

    statuses = client.call(ask_together)

    assert statuses[2] == 500
    assert set(statuses) <= {200, 500, 503}
    assert queue.free == 128
    until(client, lambda: is_back(client))
    assert client.call(ask_together)[0] == 200


def test_item_of_a_batch_that_panics_has_an_error_of_its_own(client: Any) -> None:
    queue = registry_of(client).models["s"].queue

    results = ask(client, "/v1/nlu/batch", {"items": [BODY, POISON, BODY]}).json()["results"]

    assert results[0]["intent"]["name"] == "alarm_set"
    assert [result["error"]["code"] for result in results[1:]] == ["internal_error", "not_ready"]
    assert queue.free == 128


def test_text_that_panics_is_not_cached(make_client: Any, poisoned: Path) -> None:
    client = make_client(poisoned, cache_entries=10)

    statuses = [client.post("/v1/nlu", json=POISON).status_code]
    until(client, lambda: is_back(client))
    statuses += [client.post("/v1/nlu", json=body).status_code for body in (BODY, BODY, POISON)]

    assert statuses == [500, 200, 200, 500]


def test_comparison_with_a_student_that_panics_has_the_others_answers(client: Any) -> None:
    results = ask(client, "/v1/compare", POISON).json()["results"]

    assert results["s"]["error"]["code"] == "internal_error"
    assert results["german"]["model"]["name"] == "german"


def test_student_is_out_of_service_until_it_is_tested(client: Any, held: threading.Event) -> None:
    ask(client, body=POISON)

    batch = ask(client, "/v1/nlu/batch", {"items": [BODY, BODY]})
    refused, other, ready = ask(client), ask(client, body={**BODY, "model": "german"}), client.get("/readyz")

    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert (batch.status_code, batch.headers["retry-after"]) == (503, "1")
    assert (
        refused.json()["error"]["message"] == "not ready: student s is tested again after a panic of a native library"
    )
    assert ready.status_code == 503
    assert other.status_code == 200
    assert client.get("/v1/models", headers=KEY).json()["refused"] == [
        "student s is tested again after a panic of a native library"
    ]
    held.set()
    until(client, lambda: is_back(client))
    assert ask(client).status_code == 200


def test_student_that_panicked_is_loaded_again_but_not_each_time(client: Any) -> None:
    before = registry_of(client).models["s"]
    ask(client, body=POISON)
    until(client, lambda: registry_of(client).models["s"] is not before)
    again = registry_of(client).models["s"]

    for number in range(2, 5):
        ask(client, body=POISON)
        until(client, lambda: registry_of(client).models["s"].queue.problem is None)
        assert client.metric("nlu_student_panics_total", model="s") == number

    assert registry_of(client).models["s"] is again
    assert ask(client).status_code == 200


def test_student_that_can_not_be_loaded_again_stays_out_until_a_reload(
    client: Any, poisoned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(student: Student, folder: Path) -> None:
        raise StudentError("answers wrongly")

    with monkeypatch.context() as broken:
        broken.setattr(Student, "check_golden", fail)
        ask(client, body=POISON)
        until(client, lambda: not client.app.state.reloader.is_busy)
    out = ask(client), client.get("/readyz"), ask(client, body={**BODY, "model": "german"})

    outcome = client.post("/v1/models/reload", headers=KEY).json()

    assert [reply.status_code for reply in out] == [503, 503, 200]
    assert [(student["name"], student["change"]) for student in outcome["students"]] == [
        ("german", "unchanged"),
        ("s", "loaded"),
    ]
    assert (ask(client).status_code, client.get("/readyz").status_code) == (200, 200)


def test_student_that_panics_when_it_is_loaded_is_refused(client: Any, poisoned: Path, edit: Any) -> None:
    golden = json.loads((poisoned / "s" / MANIFEST_FILE).read_text())["golden"]
    edit(poisoned / "s", "golden", [{**golden[0], "text": POISON["text"]}])

    refused = client.post("/v1/models/reload", headers=KEY)

    assert refused.status_code == 409
    assert f"{poisoned / 's'}: fails when run: PanicException" in refused.json()["error"]["message"]
    assert ask(client).status_code == 200


def test_other_students_start_beside_one_that_panics_when_it_is_loaded(
    make_client: Any, poisoned: Path, edit: Any
) -> None:
    golden = json.loads((poisoned / "s" / MANIFEST_FILE).read_text())["golden"]
    edit(poisoned / "s", "golden", [{**golden[0], "text": POISON["text"]}])

    client = make_client(poisoned)

    assert f"{poisoned / 's'}: fails when run: PanicException" in client.get("/readyz").json()["error"]["message"]
    assert client.post("/v1/nlu", json={**BODY, "model": "german"}).status_code == 200


def test_shadow_that_panics_is_taken_out_and_the_primary_answers(
    make_client: Any, poisoned: Path, tmp_path: Path
) -> None:
    (tmp_path / "experiment.toml").write_text('[shadow]\nmodel = "s"\nshare = 1.0\n')
    client = make_client(poisoned, experiment_file=tmp_path / "experiment.toml", aliases="default=german")

    answer = client.post("/v1/nlu", json=POISON)
    until(client, lambda: registry_of(client).models["s"].queue.free == 128)
    until(client, lambda: client.app.metrics.registry.get_sample_value("nlu_student_panics_total", {"model": "s"}) == 1)
    until(client, lambda: is_back(client))

    assert answer.status_code == 200
    assert client.get("/readyz").status_code == 200
    assert client.post("/v1/nlu", json={**BODY, "model": "s"}).status_code == 200
