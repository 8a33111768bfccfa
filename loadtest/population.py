"""The command ``python -m loadtest.population``: simulated users of an experiment.

Each answer dissatisfies a user with a probability that depends on the arm, as set by ``--friction
control=0.10,candidate=0.20``; `loadtest.experiment` should find this difference. A dissatisfied user rephrases the
request, or gives up and sends feedback. Users differ, so that turns of one user are correlated.

Prints as the last line one JSON object. Exit code: 0 if each request had a valid reply, 1 if some had none, 2 on an
error.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson

from loadtest.experiments.users import (
    ArmAnswer,
    Population,
    PopulationError,
    ReplyError,
    SimulationResult,
    simulate_session,
)
from loadtest.load.client import OK, Client, Reply
from loadtest.load.command import FAILED, command
from loadtest.load.options import (
    Options,
    add,
    add_reply_timeout,
    add_start_timeout,
    add_texts,
    positive,
    positive_int,
    share,
)
from loadtest.load.replies import problem_of_reply
from loadtest.load.target import texts_for, wait_until_ready
from loadtest.load.texts import Text


def simulate(host: str, population: Population, users: int, *, concurrency: int, timeout: float) -> SimulationResult:
    """Simulate one session of each user with the service.

    A session uses one connection throughout, so that one process of the service sees all of it.

    Args:
        host: URL of the service.
        population: the users.
        users: number of users.
        concurrency: number of sessions at the same time.
        timeout: maximum time for a reply, in seconds.

    Raises:
        LoadError: the service can't be reached.
        PopulationError: no reply names an arm, or a session can't continue.
    """
    stop = threading.Event()
    numbers = iter(range(users))  # next() on it is atomic, so threads may share it

    def simulate_some(_: int) -> SimulationResult:
        result = SimulationResult()
        try:
            with Client(host, timeout) as client:
                for number in numbers:
                    if stop.is_set():
                        break
                    simulate_session(population, number, HttpService(client), result)
        except BaseException:
            stop.set()  # ends the other threads
            raise
        return result

    total = SimulationResult()
    with ThreadPoolExecutor(concurrency) as pool:
        for part in pool.map(simulate_some, range(concurrency)):
            total.add(part)
    if not total.turns and not total.failures:
        raise PopulationError(f"{host}: no reply names an arm; start the service with --experiment-file")
    return total


class HttpService:
    """The service over one connection, as `users.Service`.

    Raises:
        LoadError: from each method: the service can't be reached.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def ask(self, key: str, text: Text) -> ArmAnswer:
        """As `Service`."""
        reply = self._post("/v1/nlu", key, text._asdict())
        if problem := problem_of_reply([text.text], False, reply.status, reply.content):
            raise ReplyError(problem)
        return ArmAnswer(orjson.loads(reply.content).get("arm"), reply.headers.get("x-request-id", ""))

    def give_up(self, key: str, answer: ArmAnswer) -> None:
        """As `Service`."""
        reply = self._post("/v1/feedback", key, answer._asdict() | {"outcome": "abandoned"})
        if reply.status != OK:
            raise ReplyError(f"feedback: HTTP {reply.status}")

    def _post(self, path: str, key: str, body: dict[str, Any]) -> Reply:
        return self._client.post(path, orjson.dumps(body), {"x-client-key": key})


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Simulate users of a service. Returns the exit code."""
    arguments = parser().parse_args(argv)
    text_options = Options(texts=arguments.texts, locale=arguments.locale, locales=arguments.locales)
    host = arguments.host.rstrip("/")
    began = time.perf_counter()
    wait_until_ready(host, arguments.start_timeout)
    texts = texts_for(text_options, host).texts
    population = Population(texts, arguments.friction, turns=arguments.turns, seed=arguments.seed)
    limits = {"concurrency": arguments.concurrency, "timeout": arguments.reply_timeout}
    result = simulate(host, population, arguments.clients, **limits)
    print("sessions are counted when they end, after session_seconds of the experiment file", file=sys.stderr)
    options = {"host": host, "clients": arguments.clients, "seed": arguments.seed, "friction": arguments.friction}
    print(json.dumps(options | {"seconds": round(time.perf_counter() - began, 3)} | result.figures()))
    return FAILED if result.failures else 0


def _probabilities(value: str) -> dict[str, float]:
    """Parse ``control=0.1,candidate=0.2``."""
    try:
        return {arm.strip(): share(number) for arm, number in (pair.split("=") for pair in value.split(","))}
    except (ValueError, argparse.ArgumentTypeError):
        allowed = "arms and numbers from 0 to 1 such as a=0.1,b=0.2"
        raise argparse.ArgumentTypeError(f"{value!r} should be {allowed}") from None


def parser() -> argparse.ArgumentParser:
    """The command line."""
    about = "Simulate users of a service that runs an experiment; how many are dissatisfied depends on the arm."
    parser = argparse.ArgumentParser(prog="python -m loadtest.population", description=about, allow_abbrev=False)
    parser.add_argument("--host", required=True, metavar="URL", help="service, such as http://127.0.0.1:8000")
    about = "probability by arm that an answer dissatisfies, such as control=0.10,candidate=0.20"
    parser.add_argument("--friction", required=True, type=_probabilities, metavar="A=P,B=P", help=about)
    add(parser, "clients", positive_int, "CLIENTS", "users, each with a key and a session", 1000)
    add(parser, "turns", positive, "TURNS", "mean number of turns of a session", 4.0)
    add(parser, "seed", int, "SEED", "random seed; each seed makes different users", 0)
    add(parser, "concurrency", positive_int, "SESSIONS", "sessions at the same time", 8)
    add(parser, "locales", str, "A,B", "comma-separated locales of the users (default: those of the default student)")
    add_texts(parser, str)
    add_start_timeout(parser, 30.0)
    add_reply_timeout(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
