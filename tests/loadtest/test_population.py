"""Simulated users, and ``python -m loadtest.population`` against a stand-in and the real service."""

from __future__ import annotations

import itertools
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from loadtest.experiment import main as compare_arms
from loadtest.experiments.users import (
    MAX_OTHER,
    MIN_REPHRASED,
    Ask,
    GiveUp,
    Population,
    PopulationError,
    jaccard,
    rewrite,
)
from loadtest.load.texts import Text, load_texts
from loadtest.population import main
from service.experiments.friction import similarity, sketch_of
from tests.loadtest.conftest import answer_to, running
from tests.service.conftest import write_student
from tests.service.server import Server

TEXTS = load_texts()
FRICTION = {"control": 0.1, "candidate": 0.4}
Served = tuple[str, "Stand"]


def users(seed: int = 0, turns: float = 4.0, texts: list[Text] = TEXTS) -> Population:
    return Population(texts, FRICTION, turns=turns, seed=seed)


def play(population: Population, number: int, arm: str | None = "control") -> list[Ask | GiveUp]:
    """The steps of a user whose answers all come from one arm."""
    session = population.session(number)
    steps = [next(session)]
    for _ in range(10_000):
        try:
            steps.append(session.send(arm if isinstance(steps[-1], Ask) else None))
        except StopIteration:
            return steps
    raise AssertionError("the session has no end")


def asked(steps: list[Ask | GiveUp]) -> list[Ask]:
    return [step for step in steps if isinstance(step, Ask)]


def friction(steps: list[Ask | GiveUp]) -> int:
    return sum(isinstance(step, GiveUp) or step.again for step in steps)


# Users.


def test_the_same_seed_makes_the_same_users_and_another_one_others() -> None:
    first, again, other = ([play(users(seed), number) for number in range(20)] for seed in (1, 1, 2))

    assert first == again
    assert first != other
    assert users(1).key(3) == users(1).key(3) != users(2).key(3)
    assert users(1).key(3) != users(1).key(4)


@pytest.mark.parametrize("turns", [1.0, 2.5, 6.0])
def test_sessions_have_so_many_turns_in_the_mean(turns: float) -> None:
    lengths = [len(asked(play(users(turns=turns), number))) for number in range(1500)]

    assert min(lengths) == 1
    assert statistics.mean(lengths) == pytest.approx(turns, rel=0.1)


@pytest.mark.parametrize("arm", FRICTION)
def test_the_share_of_friction_is_that_of_the_arm(arm: str) -> None:
    played = [play(users(), number, arm) for number in range(2500)]

    shares = [(friction(steps), len(asked(steps))) for steps in played]
    rate = sum(wrong for wrong, _ in shares) / sum(turns for _, turns in shares)
    assert rate == pytest.approx(FRICTION[arm], abs=0.025)
    long = [wrong / turns for wrong, turns in shares if turns >= 8]
    by_chance = statistics.mean([rate * (1 - rate) / turns for _, turns in shares if turns >= 8])
    assert statistics.pvariance(long) > 1.5 * by_chance  # users differ


def test_an_answer_of_no_arm_satisfies() -> None:
    assert not any(friction(play(users(), number, None)) for number in range(200))


def test_a_user_speaks_one_language_and_says_the_same_or_something_else() -> None:
    for number in range(300):
        steps = asked(play(users(), number, "candidate"))
        assert len({step.text.locale for step in steps}) == 1
        assert not steps[0].again
        for before, step in itertools.pairwise(steps):
            alike = jaccard(before.text.text, step.text.text)
            assert alike >= MIN_REPHRASED if step.again else alike < MAX_OTHER


@pytest.mark.parametrize("salt", ["0123456789abcdef", "another"])
def test_the_services_sketches_tell_a_rewrite_from_another_goal(salt: str) -> None:
    rng = random.Random(4)
    changed = 0
    for text, locale in TEXTS:
        other = rewrite(rng, text, locale)
        changed += other != text
        assert similarity(sketch_of(text, salt), sketch_of(other, salt)) >= 0.5
    assert changed > 0.9 * len(TEXTS)
    for number in range(200):
        steps = asked(play(users(), number))
        for before, step in itertools.pairwise(steps):
            found = similarity(sketch_of(before.text.text, salt), sketch_of(step.text.text, salt))
            assert (found >= 0.5) == step.again


def test_words_that_do_not_bear_a_change_are_said_again() -> None:
    assert {rewrite(random.Random(seed), "ja", "xx-XX") for seed in range(20)} == {"ja"}


def test_an_arm_without_a_probability_and_similar_texts_are_refused() -> None:
    with pytest.raises(PopulationError, match="--friction: no probability for arm 'third'"):
        play(users(), 0, "third")
    with pytest.raises(PopulationError, match="the texts in de-DE are too similar to each other"):
        play(users(texts=[Text("mach das licht aus", "de-DE")]), 0)


# The command.


class Stand:
    """A stand-in service that splits clients by arm and counts turns and feedback."""

    def __init__(self, arms: tuple[str | None, ...] = ("control", "candidate"), failing: str | None = None) -> None:
        self.arms = arms
        self.failing = failing
        self.turns: Counter[str | None] = Counter()
        self.feedbacks: Counter[str | None] = Counter()
        self.answered: dict[str, tuple[str, str | None]] = {}
        self.connections: dict[str, set[Any]] = {}

    async def nlu(self, request: Request) -> Response:
        body, key = await request.json(), request.headers["x-client-key"]
        if self.failing == "nlu":
            return JSONResponse({"error": {"code": "overloaded"}}, status_code=429)
        arm = self.arms[sum(key.encode()) % len(self.arms)]
        self.turns[arm] += 1
        self.connections.setdefault(key, set()).add(request.client)
        request_id = f"id-{len(self.answered)}"
        self.answered[request_id] = key, arm
        answer = answer_to(body["text"]) | ({"arm": arm} if arm else {})
        return JSONResponse(answer, headers={"x-request-id": request_id})

    async def feedback(self, request: Request) -> Response:
        body = await request.json()
        key, arm = self.answered[body["request_id"]]
        assert request.headers["x-client-key"] == key
        assert body["outcome"] == "abandoned"
        self.feedbacks[arm] += 1
        return JSONResponse({}, status_code=404 if self.failing == "feedback" else 200)

    @property
    def app(self) -> Starlette:
        models = {"models": [{"name": "s", "default": True, "locales": ["de-DE", "fr-FR"]}]}
        return Starlette(
            routes=[
                Route("/v1/nlu", self.nlu, methods=["POST"]),
                Route("/v1/feedback", self.feedback, methods=["POST"]),
                Route("/v1/models", lambda _: JSONResponse(models)),
                Route("/readyz", lambda _: JSONResponse({})),
            ]
        )


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    with ExitStack() as stack:

        def start(**how: Any) -> Served:
            stand = Stand(**how)
            return stack.enter_context(running(stand.app)), stand

        yield start


def run(capsys: pytest.CaptureFixture[str], host: str, *flags: str) -> tuple[int, str, dict[str, Any]]:
    """Exit code, what went to standard error, and the figures."""
    code = main(["--host", host, "--friction", "control=0.1, candidate=0.4", "--clients", "60", *flags])
    output = capsys.readouterr()
    return code, output.err, json.loads(output.out.splitlines()[-1]) if output.out else {}


def test_the_service_gets_what_the_command_says(
    serve: Callable[..., Served], capsys: pytest.CaptureFixture[str]
) -> None:
    host, stand = serve()

    code, _, figures = run(capsys, host, "--concurrency", "4")

    assert code == 0
    assert figures["failures"] == 0
    arms = figures["arms"]
    assert {arm: found["turns"] for arm, found in arms.items()} == stand.turns
    assert {arm: found["gave_up"] for arm, found in arms.items()} == stand.feedbacks
    assert sum(found["sessions"] for found in arms.values()) == len(stand.connections) == 60
    assert arms["candidate"]["friction_points"] > arms["control"]["friction_points"]
    assert all(len(used) == 1 for used in stand.connections.values())  # each user kept to one connection
    assert figures["friction"] == FRICTION


def test_the_same_seed_does_the_same(serve: Callable[..., Served], capsys: pytest.CaptureFixture[str]) -> None:
    (one, _), (other, _) = serve(), serve()

    first, second = (run(capsys, host, "--seed", "5")[2]["arms"] for host in (one, other))

    assert first == second != run(capsys, one, "--seed", "6")[2]["arms"]


@pytest.mark.parametrize(("failing", "problem"), [("nlu", "HTTP 429 (overloaded)"), ("feedback", "feedback: HTTP 404")])
def test_replies_that_are_not_valid_fail(
    serve: Callable[..., Served], capsys: pytest.CaptureFixture[str], failing: str, problem: str
) -> None:
    code, _, figures = run(capsys, serve(failing=failing)[0])

    assert code == 1
    assert figures["failure_reasons"].keys() == {problem}
    assert figures["failures"] == figures["failure_reasons"][problem] > 0


def test_a_service_without_an_experiment_is_one_sentence(
    serve: Callable[..., Served], capsys: pytest.CaptureFixture[str]
) -> None:
    host, _ = serve(arms=(None,))

    assert run(capsys, host)[:2] == (
        2,
        f"error: {host}: no reply names an arm; start the service with --experiment-file\n",
    )


def test_an_arm_of_which_nothing_was_said_is_one_sentence(
    serve: Callable[..., Served], capsys: pytest.CaptureFixture[str]
) -> None:
    code, error, _ = run(capsys, serve(arms=("third",))[0])

    assert (code, error) == (2, "error: --friction: no probability for arm 'third', which answered\n")


def test_a_service_that_is_not_there_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    code, error, _ = run(capsys, "http://127.0.0.1:9", "--start-timeout", "0.1")

    assert code == 2
    assert "http://127.0.0.1:9/readyz can't be reached" in error


@pytest.mark.parametrize("chances", ["control", "control=2", "control=a", "a=0.1=0.2", ""])
def test_chances_that_make_no_sense_are_refused(chances: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--host", "http://127.0.0.1:9", "--friction", chances])

    assert stopped.value.code == 2
    assert "should be arms and numbers from 0 to 1 such as a=0.1,b=0.2" in capsys.readouterr().err


# The real service.

EXPERIMENT = """
name = "trial"
[arms.control]
model = "s"
weight = 1
[arms.candidate]
model = "xs"
weight = 1
[friction]
rephrase_seconds = 3
session_seconds = 3
confidence = 0
"""


def test_the_real_service_counts_the_friction_of_the_users(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, root = tmp_path / "experiment.toml", tmp_path / "students"
    file.write_text(EXPERIMENT)
    for name in ("s", "xs"):
        write_student(root / name, name=name)
    with Server("--students", str(root), "--workers", "2", "--experiment-file", str(file)) as server:
        host = f"http://127.0.0.1:{server.port}"
        code, _, figures = run(capsys, host, "--clients", "140")
        deadline = time.monotonic() + 20
        while True:
            assert compare_arms(["--host", host]) == 0
            seen = json.loads(capsys.readouterr().out.splitlines()[-1])
            if sum(arm["sessions"] for arm in seen["arms"].values()) == 140 or time.monotonic() > deadline:
                break

    assert (code, figures["failure_reasons"]) == (0, {})
    for name, felt in figures["arms"].items():
        arm = seen["arms"][name]
        assert arm["models"] == [{"control": "s", "candidate": "xs"}[name]]
        assert (arm["sessions"], arm["turns"], arm["session_turns"]) == (felt["sessions"], felt["turns"], felt["turns"])
        assert arm["signs"]["rephrase"] == felt["said_again"]
        assert arm["signs"]["abandoned"] == arm["feedback"]["abandoned"] == felt["gave_up"]
        assert arm["friction_points"] == felt["friction_points"]
    assert seen["comparisons"][0]["verdict"].startswith("candidate is worse than control")
