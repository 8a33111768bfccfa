"""Shadow traffic: what is counted, what is dropped, and that it does not delay replies."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import service.experiments.shadow as shadowing
from service.experiments.shadow import MAX_WAITING, ShadowRunner
from service.models.queue import LoadedModel
from service.models.registry import ModelRegistry
from service.monitoring.metrics import Metrics
from service.settings import Settings
from service.student.decoding import Ranked, Span
from service.student.student import Prediction, Question, Student
from tests.service import server

TEXT = "weck mich am freitag um neun"
BODY = {"text": TEXT, "locale": "de-DE"}
TASKS = ("domain", "intent", "slots")
PATIENCE = 10.0
Scenario = Callable[[ShadowRunner], Coroutine[Any, Any, Any]]


class Text(str):
    """A text that can be weakly referenced."""

    __slots__ = ("__weakref__",)


class Second(Student):
    """A student that records its questions, and can be made to answer as wanted, fail, or wait."""

    def __init__(self, student: Student) -> None:
        self.__dict__.update(student.__dict__)
        self.asked: list[Question] = []
        self.threads: set[str] = set()
        self.answer: Prediction | None = None
        self.fails_on = ""
        self.may_continue = threading.Event()
        self.may_continue.set()

    def predict_each(self, questions: Any) -> Any:
        self.asked += [question._replace(text=str(question.text)) for question in questions]
        self.threads.add(threading.current_thread().name)
        self.may_continue.wait(PATIENCE)
        if any(question.text == self.fails_on for question in questions):
            raise RuntimeError(questions[0].text)
        return super().predict_each(questions) if self.answer is None else [self.answer for _ in questions]


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLLECT_SECONDS", "CHECK_SECONDS", "FAULT_SECONDS"):
        monkeypatch.setattr(shadowing, name, 0.001)


@pytest.fixture(scope="module")
def registry(students: Path) -> ModelRegistry:
    registry = ModelRegistry(Settings(students=students), Metrics())
    registry.adopt(registry.prepare())
    return registry


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def primary(registry: ModelRegistry) -> LoadedModel:
    return registry.models["s"]


@pytest.fixture
def second(registry: ModelRegistry) -> Second:
    return Second(registry.models["german"].student)


@pytest.fixture
def loaded(registry: ModelRegistry, second: Second) -> LoadedModel:
    return replace(registry.models["german"], student=second)


def run(registry: Any, metrics: Metrics, scenario: Scenario) -> Any:
    async def act() -> Any:
        shadow = ShadowRunner(registry, metrics)
        try:
            return await scenario(shadow)
        finally:
            shadow.close()
            metrics.flush()

    return asyncio.run(act())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


def counted(metrics: Metrics) -> dict[tuple[str, str], float]:
    """How many texts were counted, by task and agreement; it must be those of `s` and `german`."""
    metrics.flush()
    found = {}
    for sample in next(iter(metrics.shadow.collect())).samples:
        assert (sample.labels["primary"], sample.labels["shadow"]) == ("s", "german")
        found[sample.labels["task"], sample.labels["agreement"]] = sample.value
    return found


def dropped(metrics: Metrics) -> float:
    metrics.flush()
    return metrics.registry.get_sample_value("nlu_shadow_dropped_total", {"shadow": "german"}) or 0.0


def done(metrics: Metrics) -> float:
    return sum(value for (task, _), value in counted(metrics).items() if task == "exact")


def test_agreement_is_counted_by_task(
    registry: Any, metrics: Metrics, primary: LoadedModel, second: Second, loaded: LoadedModel
) -> None:
    question = Question(TEXT, "de-DE", top_k=3)

    async def scenario(shadow: ShadowRunner) -> None:
        shadow.submit(primary, loaded, question, primary.student.predict_each([question])[0])
        await until(lambda: done(metrics) == 1)

    run(registry, metrics, scenario)

    assert counted(metrics) == {(task, "same"): 1 for task in (*TASKS, "exact")}
    assert second.asked == [Question(TEXT, "de-DE", top_k=1)]
    assert "MainThread" not in second.threads
    assert dropped(metrics) == 0


def label(names: str) -> st.SearchStrategy[list[Ranked] | None]:
    ranked = st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)
    return st.none() | ranked.map(lambda found: [Ranked(name, 0.5) for name in found])


SPANS = st.builds(
    lambda name, start, length, sure: Span(name, "x" * length, start, start + length, sure),
    st.sampled_from("ab"),
    st.integers(0, 2),
    st.integers(1, 2),
    st.floats(0, 1),
)
PREDICTIONS = st.builds(
    lambda domain, intent, slots: Prediction(domain, intent, slots, False, 0, 3, None, None, None, (0.0, 0.0, 0.0)),
    label("ab"),
    label("cd"),
    st.none() | st.lists(SPANS, max_size=3),
)


@settings(max_examples=60)
@given(pairs=st.lists(st.tuples(PREDICTIONS, PREDICTIONS), min_size=1, max_size=5))
def test_any_two_predictions_are_compared_in_the_tasks_that_both_have(
    registry: Any, primary: LoadedModel, pairs: list[tuple[Prediction, Prediction]]
) -> None:
    metrics = Metrics()
    seconds = [Second(registry.models["german"].student) for _ in pairs]

    async def scenario(shadow: ShadowRunner) -> None:
        for (first, other), second in zip(pairs, seconds, strict=True):
            second.answer = other
            shadow.submit(primary, replace(registry.models["german"], student=second), Question(TEXT), first)
        await until(lambda: len(shadow) == 0)

    run(registry, metrics, scenario)

    expected: dict[tuple[str, str], float] = {}
    for first, other in pairs:
        common = [task for task in TASKS if None not in (getattr(first, task), getattr(other, task))]
        agree = {task: _answer(first, task) == _answer(other, task) for task in common}
        if agree:
            agree["exact"] = all(agree.values())
        for task, same in agree.items():
            key = (task, "same" if same else "different")
            expected[key] = expected.get(key, 0) + 1
    assert counted(metrics) == expected


def _answer(prediction: Prediction, task: str) -> Any:
    if task == "slots":
        return sorted({(slot.name, slot.start, slot.end) for slot in prediction.slots or ()})
    return getattr(prediction, task)[0].name


@pytest.mark.parametrize(
    "question",
    [Question(TEXT, "de-DE", domains=(0,)), Question(TEXT, "de-DE", intents=(0, 1)), Question(TEXT, "it-IT")],
)
def test_incomparable_texts_are_neither_run_nor_counted(
    registry: Any, metrics: Metrics, primary: LoadedModel, second: Second, loaded: LoadedModel, question: Question
) -> None:
    async def scenario(shadow: ShadowRunner) -> None:
        shadow.submit(primary, loaded, question, primary.student.predict(TEXT))
        assert len(shadow) == 0
        await asyncio.sleep(0.02)

    run(registry, metrics, scenario)

    assert (second.asked, counted(metrics), dropped(metrics)) == ([], {}, 0)


def test_student_is_not_compared_with_itself(registry: Any, metrics: Metrics, primary: LoadedModel) -> None:
    async def scenario(shadow: ShadowRunner) -> int:
        shadow.submit(primary, primary, Question(TEXT, "de-DE"), primary.student.predict(TEXT))
        return len(shadow)

    assert run(registry, metrics, scenario) == 0


def test_students_without_a_head_in_common_are_not_compared(
    registry: Any, metrics: Metrics, primary: LoadedModel, second: Second, loaded: LoadedModel
) -> None:
    def with_labels(of: Any, **kept: Any) -> Any:
        none = dict.fromkeys(("domain", "intent", "slots"), ())
        labels = of.manifest.labels.model_copy(update={**none, **kept})
        of.manifest = of.manifest.model_copy(update={"labels": labels})
        return of

    router = replace(primary, student=with_labels(Second(primary.student), domain=("alarm",)))
    with_labels(second, intent=("alarm_set",))

    async def scenario(shadow: ShadowRunner) -> int:
        shadow.submit(router, loaded, Question(TEXT, "de-DE"), primary.student.predict(TEXT))
        return len(shadow)

    assert run(registry, metrics, scenario) == 0
    assert dropped(metrics) == 0


def submit(shadow: ShadowRunner, primary: LoadedModel, loaded: LoadedModel, number: int = 1, text: str = TEXT) -> None:
    prediction = primary.student.predict(TEXT)
    for _ in range(number):
        shadow.submit(primary, loaded, Question(text, "de-DE"), prediction)


@pytest.mark.parametrize("busy", ["s", "german"])
def test_nothing_runs_while_any_student_is_busy(
    registry: Any, metrics: Metrics, primary: LoadedModel, second: Second, loaded: LoadedModel, busy: str
) -> None:
    async def scenario(shadow: ShadowRunner) -> None:
        with registry.models[busy].queue.admit(1):
            submit(shadow, primary, loaded, 3)
            await asyncio.sleep(0.05)
            assert second.asked == []
        await until(lambda: done(metrics) == 3)

    run(registry, metrics, scenario)

    assert dropped(metrics) == 0


def test_shadow_stops_at_the_first_request(
    registry: Any, metrics: Metrics, primary: LoadedModel, second: Second, loaded: LoadedModel
) -> None:
    second.may_continue.clear()

    async def scenario(shadow: ShadowRunner) -> None:
        submit(shadow, primary, loaded, 3)
        await until(lambda: len(second.asked) == 1)
        with registry.models["s"].queue.admit(1):  # a request arrives
            second.may_continue.set()
            await until(lambda: done(metrics) == 1)
            await asyncio.sleep(0.05)
            assert len(second.asked) == 1
        await until(lambda: done(metrics) == 3)

    run(registry, metrics, scenario)


def test_thread_checks_again_before_it_starts(
    registry: Any, metrics: Metrics, primary: LoadedModel, second: Second, loaded: LoadedModel
) -> None:
    checks: list[str] = []

    class SometimesIdle:
        @property
        def is_idle(self) -> bool:
            checks.append(threading.current_thread().name)
            return checks[-1] == "MainThread" or checks.count(checks[-1]) > 3

    sometimes_idle = SimpleNamespace(models={"s": replace(primary, queue=SometimesIdle())})  # type: ignore[arg-type]

    async def scenario(shadow: ShadowRunner) -> None:
        submit(shadow, primary, loaded)
        await until(lambda: done(metrics) == 1)

    run(sometimes_idle, metrics, scenario)

    assert checks[:2] == ["MainThread", "shadow_0"]
    assert checks.count("shadow_0") == 4
    assert len(second.asked) == 1


def test_texts_are_dropped_and_counted_while_the_process_is_busy(
    registry: Any,
    metrics: Metrics,
    primary: LoadedModel,
    second: Second,
    loaded: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shadowing, "MAX_WAIT_SECONDS", 0.03)

    async def scenario(shadow: ShadowRunner) -> None:
        with registry.models["s"].queue.admit(1):
            submit(shadow, primary, loaded, 3)
            await until(lambda: len(shadow) == 0)

    run(registry, metrics, scenario)

    assert (second.asked, counted(metrics), dropped(metrics)) == ([], {}, 3)


def test_waiting_texts_are_bounded(registry: Any, metrics: Metrics, primary: LoadedModel, loaded: LoadedModel) -> None:
    async def scenario(shadow: ShadowRunner) -> None:
        with registry.models["s"].queue.admit(1):
            submit(shadow, primary, loaded, MAX_WAITING + 5)
            assert len(shadow) == MAX_WAITING
            assert dropped(metrics) == 5
        await until(lambda: len(shadow) == 0)

    run(registry, metrics, scenario)

    assert (done(metrics), dropped(metrics)) == (MAX_WAITING, 5)


def test_failure_is_logged_without_the_text_and_the_next_one_is_tried(
    registry: Any,
    metrics: Metrics,
    primary: LoadedModel,
    second: Second,
    loaded: LoadedModel,
    caplog: pytest.LogCaptureFixture,
) -> None:
    second.fails_on = marked = "zebra im wetter"

    async def scenario(shadow: ShadowRunner) -> None:
        for text in (TEXT, marked, TEXT):
            submit(shadow, primary, loaded, text=text)
        await until(lambda: len(shadow) == 0)

    run(registry, metrics, scenario)

    assert [question.text for question in second.asked] == [TEXT, marked, TEXT]
    assert (done(metrics), dropped(metrics)) == (2, 0)
    assert "request (shadow) failed: RuntimeError at " in caplog.text
    assert "zebra" not in caplog.text


def test_close_does_not_wait_for_a_text_that_runs(
    registry: Any,
    metrics: Metrics,
    primary: LoadedModel,
    second: Second,
    loaded: LoadedModel,
    caplog: pytest.LogCaptureFixture,
) -> None:
    second.may_continue.clear()

    async def scenario(shadow: ShadowRunner) -> None:
        submit(shadow, primary, loaded, 3)
        await until(lambda: len(second.asked) == 1)
        shadow.close()
        submit(shadow, primary, loaded)

    run(registry, metrics, scenario)
    running = [thread for thread in threading.enumerate() if thread.name.startswith("shadow")]
    second.may_continue.set()
    for thread in running:
        thread.join(PATIENCE)

    assert running  # the text still ran when the loop had been closed
    assert len(second.asked) == 1
    assert (counted(metrics), dropped(metrics)) == ({}, 3)
    assert caplog.text == ""


@pytest.mark.parametrize("end", ["done", "dropped", "failed", "closed"])
def test_text_is_not_referenced_afterwards(
    registry: Any,
    metrics: Metrics,
    primary: LoadedModel,
    second: Second,
    loaded: LoadedModel,
    end: str,
    monkeypatch: Any,
) -> None:
    text = Text("wetter in berlin am freitag")
    reference = weakref.ref(text)
    question = Question(text, "de-DE")
    prediction = primary.student.predict(str(text))
    second.fails_on = str(text) if end == "failed" else ""
    monkeypatch.setattr(shadowing, "MAX_WAIT_SECONDS", 0.01 if end == "dropped" else PATIENCE)
    del text

    async def scenario(shadow: ShadowRunner) -> None:
        nonlocal question
        with registry.models["s"].queue.admit(1):
            shadow.submit(primary, loaded, question, prediction)
            del question
            assert reference() is not None
            await asyncio.sleep(0.05)
        if end == "closed":
            shadow.close()
        await until(lambda: len(shadow) == 0)
        await until(lambda: gc.collect() >= 0 and reference() is None)

    run(registry, metrics, scenario)


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    file = tmp_path / "experiment.toml"
    file.write_text('[shadow]\nmodel = "german"\nshare = 1.0\n')
    return file


def test_service_shadows_what_it_has_answered(make_client: Any, experiment: Path) -> None:
    client = make_client(experiment_file=experiment)

    replies = [client.post("/v1/nlu", json=BODY).json() for _ in range(5)]
    client.post("/v1/nlu", json={**BODY, "locale": "it-IT"})  # not a locale of the shadow
    client.post("/v1/nlu", json={**BODY, "model": "german"})
    server.until(lambda: client.metric("nlu_shadow_total", task="exact") >= 5)

    assert {reply["model"]["name"] for reply in replies} == {"s"}
    assert client.metric("nlu_shadow_total", primary="s", shadow="german", task="intent", agreement="same") == 5
    assert client.metric("nlu_shadow_total", agreement="different") == 0
    assert client.metric("nlu_shadow_dropped_total") == 0
    assert client.metric("nlu_predictions_total", model="german") == 1  # only its replies
    assert client.metric("nlu_phase_seconds_count", model="german", phase="inference") == 1


def test_replies_do_not_wait_for_a_shadow_that_hangs_or_fails(
    make_client: Any, experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client(experiment_file=experiment)
    registry = client.app.state.registry
    second = Second(registry.models["german"].student)
    second.may_continue.clear()
    monkeypatch.setitem(registry.by_name, "german", replace(registry.models["german"], student=second))

    statuses = [client.post("/v1/nlu", json=BODY).status_code]
    server.until(lambda: len(second.asked) == 1)
    statuses += [client.post("/v1/nlu", json=BODY).status_code for _ in range(3)]
    assert len(second.asked) == 1
    second.fails_on = TEXT
    second.may_continue.set()
    server.until(lambda: len(second.asked) > 1)
    statuses.append(client.post("/v1/nlu", json=BODY).status_code)

    assert statuses == [200] * 5
    assert client.metric("nlu_shadow_total") == 0
