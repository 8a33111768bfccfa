"""Reloads: students are replaced while others answer; an invalid one replaces none."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.http.schemas import ReloadReply
from service.models import reload as reloading
from service.student.student import Student

BODY = {"text": "weck mich am freitag um neun", "locale": "de-DE"}
KEY = {"x-api-key": "a-key-of-many-characters"}


@pytest.fixture
def serve(make_client: Any, folder: Path, tmp_path: Path) -> Any:
    """An application with `folder`'s student and keys, so that reloads are allowed."""
    (tmp_path / "keys").write_text(KEY["x-api-key"])

    def make(**settings: Any) -> Any:
        return make_client(folder.parent, api_keys_file=tmp_path / "keys", **settings)

    return make


def ask(client: Any, **more: Any) -> Any:
    return client.post("/v1/nlu", json={**BODY, **more}, headers=KEY)


def reload(client: Any) -> Any:
    return client.post("/v1/models/reload", headers=KEY)


def changed(folder: Path, edit: Any) -> None:
    """Write another version of a student, with renamed intents."""
    manifest = json.loads((folder / "manifest.json").read_text())
    intents = manifest["labels"]["intent"]
    edit(folder, "labels.intent", ["x_" + intent for intent in intents])


def test_new_version_serves_after_a_reload(serve: Any, folder: Path, edit: Any) -> None:
    client = serve()
    before = ask(client).json()["intent"]["name"]
    changed(folder, edit)

    outcome = ReloadReply.model_validate_json(reload(client).content)

    assert [(student.name, student.change) for student in outcome.students] == [("s", "loaded")]
    assert (before, ask(client).json()["intent"]["name"]) == ("alarm_set", "x_alarm_set")
    assert client.metric("nlu_reloads_total", outcome="done") == 1


def test_what_did_not_change_is_not_loaded_again(serve: Any) -> None:
    client = serve()
    loaded = client.app.state.registry.models["s"]

    outcome = reload(client).json()

    assert outcome["students"][0]["change"] == "unchanged"
    assert client.app.state.registry.models["s"] is loaded


def test_students_come_and_go(serve: Any, folder: Path, students: Path) -> None:
    client = serve()
    shutil.copytree(students / "german", folder.with_name("german"))
    came = reload(client).json()
    answered = ask(client, model="german").status_code
    shutil.rmtree(folder.with_name("german"))
    went = reload(client).json()

    assert [(student["name"], student["change"]) for student in came["students"]] == [
        ("german", "loaded"),
        ("s", "unchanged"),
    ]
    assert answered == 200
    assert {"name": "german", "digest": None, "change": "dropped"} in went["students"]
    assert ask(client, model="german").status_code == 404
    assert client.metric("nlu_model_info", model="german") == 0
    assert client.metric("nlu_model_info", model="s") == 1


def test_invalid_new_version_leaves_the_old_one(serve: Any, folder: Path) -> None:
    client = serve()
    (folder / "model.onnx").write_bytes(b"no graph")

    refused = reload(client)

    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "reload_refused")
    assert f"{folder}: model.onnx has sha256" in refused.json()["error"]["message"]
    assert ask(client).json()["intent"]["name"] == "alarm_set"
    assert client.get("/readyz").status_code == 200
    assert client.get("/v1/models", headers=KEY).json()["refused"]
    assert client.metric("nlu_reloads_total", outcome="refused") == 1


def test_service_still_answers_when_the_folder_is_removed(serve: Any, folder: Path) -> None:
    client = serve()
    shutil.rmtree(folder.parent)

    assert reload(client).status_code == 409
    assert ask(client).status_code == 200
    assert client.get("/readyz").status_code == 200


def test_invalid_folder_added_later_does_not_change_readiness(serve: Any, folder: Path) -> None:
    client = serve()
    folder.with_name("half-copied").mkdir()

    assert reload(client).status_code == 409
    assert client.get("/readyz").status_code == 200


def test_invalid_folder_at_the_start_is_waited_for(serve: Any, folder: Path, students: Path) -> None:
    folder.with_name("german").mkdir()
    client = serve()
    before = client.get("/readyz").status_code
    shutil.copytree(students / "german", folder.with_name("german"), dirs_exist_ok=True)

    assert before == 503
    assert reload(client).status_code == 200
    assert client.get("/readyz").status_code == 200


def test_reload_needs_keys_to_be_configured(client: Any) -> None:
    refused = client.post("/v1/models/reload")

    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")


def test_reload_reads_keys_and_experiment_again_at_once(
    make_client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.watched_file.CHECK_SECONDS", 3600)
    keys, experiment = tmp_path / "keys", tmp_path / "experiment.toml"
    keys.write_text(KEY["x-api-key"])
    experiment.write_text('[arms.a]\nmodel = "s"\nweight = 1\n')
    client = make_client(api_keys_file=keys, experiment_file=experiment)
    new = {"x-api-key": "another-key-of-many-characters"}
    keys.write_text(new["x-api-key"])
    experiment.write_text('[arms.other]\nmodel = "s"\nweight = 1\n')

    before = client.post("/v1/nlu", json=BODY, headers=new)
    client.call(client.app.state.reload)
    after = client.post("/v1/nlu", json=BODY, headers=new)

    assert before.status_code == 401
    assert (after.status_code, after.json()["arm"]) == (200, "other")
    assert ask(client).status_code == 401


def test_reload_empties_the_cache(serve: Any, folder: Path, edit: Any) -> None:
    client = serve(cache_entries=10)
    ask(client)
    changed(folder, edit)
    reload(client)

    answer = ask(client).json()

    assert (answer["cached"], answer["intent"]["name"]) == (False, "x_alarm_set")


def test_watched_folder_is_reloaded_when_it_changes(
    serve: Any, folder: Path, edit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloading, "WATCH_SECONDS", 0.01)
    client = serve(watch=True)

    changed(folder, edit)

    client.call(_until, lambda: "x_" in client.app.state.registry.by_name["default"].student.manifest.labels.intent[0])
    assert ask(client).json()["intent"]["name"] == "x_alarm_set"


def test_watcher_survives_a_bad_version(serve: Any, folder: Path, edit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloading, "WATCH_SECONDS", 0.01)
    client = serve(watch=True)
    graph = (folder / "model.onnx").read_bytes()

    (folder / "model.onnx").write_bytes(b"no graph")
    client.call(_until, lambda: bool(client.app.state.registry.refused))
    assert ask(client).json()["intent"]["name"] == "alarm_set"
    (folder / "model.onnx").write_bytes(graph)
    changed(folder, edit)

    client.call(_until, lambda: "x_" in client.app.state.registry.by_name["default"].student.manifest.labels.intent[0])
    assert client.app.state.registry.refused == []


def test_watched_folder_that_does_not_answer_is_logged_once(
    serve: Any, folder: Path, edit: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reloading, "WATCH_SECONDS", 0.001)
    monkeypatch.setattr(reloading, "MAX_THREADS", 2)
    client = serve(watch=True, load_seconds=0.5)
    answers, registry = threading.Event(), client.app.state.registry
    fingerprint = registry.fingerprint
    monkeypatch.setattr(registry, "fingerprint", lambda: (answers.wait(60), fingerprint())[1])

    client.call(_until, lambda: "2 earlier loads hang" in caplog.text)
    client.app.state.reloader.seconds = 20
    answers.set()
    changed(folder, edit)

    client.call(_until, lambda: "x_" in registry.by_name["default"].student.manifest.labels.intent[0])
    messages = [message for message in caplog.messages if "not noticed" in message]
    assert [f"{folder.parent}" in messages[0], "2 earlier loads hang" in messages[1]] == [True, True]
    assert len(messages) == 2


def test_fifty_reloads_under_load_lose_no_request_and_leak_nothing(serve: Any, folder: Path) -> None:
    client = serve()

    async def ask_until(stop: asyncio.Event, statuses: list[int]) -> None:
        while not stop.is_set():
            statuses.append((await client.http.post("/v1/nlu", json=BODY, headers=KEY)).status_code)

    async def reload_fifty_times() -> tuple[list[int], list[str], list[int]]:
        stop, statuses, changes, sizes = asyncio.Event(), [], [], []
        asking = [asyncio.create_task(ask_until(stop, statuses)) for _ in range(4)]
        for number in range(50):
            os.utime(folder / "manifest.json", ns=(number, number))  # looks new, so that it is loaded again
            outcome = (await client.http.post("/v1/models/reload", headers=KEY)).json()
            changes.append(outcome["students"][0]["change"])
            sizes.append(_resident_bytes())
        stop.set()
        await asyncio.gather(*asking)
        return statuses, changes, sizes

    statuses, changes, sizes = client.call(reload_fifty_times)

    assert changes == ["loaded"] * 50
    assert set(statuses) == {200}
    assert len(statuses) > 50
    assert sizes[-1] - sizes[9] < 16 << 20  # 40 reloads of a student that takes some MiB


def test_pipe_in_a_folder_is_refused_and_blocks_no_later_reload(serve: Any, folder: Path, edit: Any) -> None:
    client = serve()
    manifest = (folder / "manifest.json").read_text()
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")

    refused = reload(client)
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").write_text(manifest)

    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "reload_refused")
    assert "(not a regular file)" in refused.json()["error"]["message"]
    assert reload(client).status_code == 200


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Let students hang while they load, as if on a file system that does not answer, once the event is cleared."""
    answers, load = threading.Event(), Student.load
    answers.set()
    monkeypatch.setattr(Student, "load", lambda folder: (answers.wait(60), load(folder))[1])
    yield answers
    answers.set()


def test_load_that_hangs_is_given_up_and_later_ones_succeed(
    serve: Any, folder: Path, edit: Any, hanging: threading.Event
) -> None:
    client = serve(load_seconds=0.5)
    changed(folder, edit)
    hanging.clear()

    refused, ready, answered = reload(client), client.get("/readyz"), ask(client)
    hanging.set()

    assert refused.status_code == 409
    assert f"{folder}: not loaded within 0.5 s (--load-seconds)" in refused.json()["error"]["message"]
    assert (ready.status_code, answered.json()["intent"]["name"]) == (200, "alarm_set")
    assert client.metric("nlu_reloads_total", outcome="refused") == 1
    assert reload(client).status_code == 200
    assert ask(client).json()["intent"]["name"] == "x_alarm_set"


def test_number_of_loads_that_hang_is_bounded(
    serve: Any, folder: Path, edit: Any, hanging: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloading, "MAX_THREADS", 2)
    client = serve(load_seconds=0.5)
    changed(folder, edit)
    hanging.clear()
    client.app.state.reloader.seconds = 0.01

    messages = [reload(client).json()["error"]["message"] for _ in range(3)]

    assert ["not loaded within" in message for message in messages] == [True, True, False]
    assert "2 earlier loads hang; restart the service" in messages[2]


def test_load_that_hangs_at_the_start_is_named_and_tried_again(
    serve: Any, folder: Path, hanging: threading.Event
) -> None:
    hanging.clear()
    client = serve(load_seconds=0.1)

    before = client.get("/readyz")
    hanging.set()

    assert before.status_code == 503
    assert f"{folder}: not loaded within 0.1 s" in before.json()["error"]["message"]
    client.call(_until, lambda: not client.app.state.reloader.has_threads)
    client.app.state.reloader.seconds = 20
    assert reload(client).status_code == 200
    assert client.get("/readyz").status_code == 200


def test_load_is_given_up_when_the_service_stops(serve: Any, folder: Path, edit: Any, hanging: threading.Event) -> None:
    client = serve()
    changed(folder, edit)
    hanging.clear()

    async def reload_and_stop() -> Any:
        reloading = asyncio.create_task(client.http.post("/v1/models/reload", headers=KEY))
        while not client.app.state.reloader.has_threads:
            await asyncio.sleep(0)
        client.app.state.registry.draining = True
        client.app.state.reloader.stop()
        return await reloading

    refused = client.call(reload_and_stop)

    assert refused.status_code == 409
    assert "the service is about to stop" in refused.json()["error"]["message"]


async def _until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
