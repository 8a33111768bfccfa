"""The command ``python -m loadtest.population``: simulated users, some of whom an answer does not satisfy.

They give an experiment something to measure: how often a user is not satisfied depends on the arm that answers, as
``--friction control=0.10,candidate=0.20`` says, and `loadtest.experiment` should find out. A user who is not satisfied
says the same again in other words, or gives up and tells the service. Users differ, so the turns of one go wrong
together.

Prints as the last line one JSON object with what was done. Exit code: 0 each request had a valid reply, 1 some had
none, 2 could not simulate.
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

from loadtest.experiments.users import ArmAnswer, Played, Population, PopulationError, ReplyError, play_session
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


def play(host: str, population: Population, users: int, *, concurrency: int, timeout: float) -> Played:
    """Let users have a session each with the service at a URL, some at once.

    Each has one connection from begin to end, and so, where several processes serve, one process that remembers it.

    Args:
        host: URL of the service.
        population: the users.
        users: how many of them.
        concurrency: how many at once.
        timeout: seconds for a reply.

    Raises:
        LoadError: the service can't be reached.
        PopulationError: no reply names an arm, or users can't go on.
    """
    stop = threading.Event()
    numbers = iter(range(users))  # taking the next is one step of the interpreter, so threads may share it

    def play_some(_: int) -> Played:
        played = Played()
        try:
            with Client(host, timeout) as client:
                for number in numbers:
                    if stop.is_set():
                        break
                    play_session(population, number, NluService(client), played)
        except BaseException:
            stop.set()  # the others need not go on
            raise
        return played

    played = Played()
    with ThreadPoolExecutor(concurrency) as pool:
        for part in pool.map(play_some, range(concurrency)):
            played.add(part)
    if not played.turns and not played.failures:
        raise PopulationError(f"{host} names no arm in its replies: was it started with --experiment-file?")
    return played


class NluService:
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
    options = Options(texts=arguments.texts, locale=arguments.locale, locales=arguments.locales)
    host = arguments.host.rstrip("/")
    began = time.perf_counter()
    wait_until_ready(host, arguments.start_timeout)
    texts = texts_for(options, host).texts
    population = Population(texts, arguments.friction, turns=arguments.turns, seed=arguments.seed)
    how = {"concurrency": arguments.concurrency, "timeout": arguments.reply_timeout}
    played = play(host, population, arguments.clients, **how)
    print("sessions count once they are over: session_seconds in the experiment file says when", file=sys.stderr)
    asked = {"host": host, "clients": arguments.clients, "seed": arguments.seed, "friction": arguments.friction}
    print(json.dumps(asked | {"seconds": round(time.perf_counter() - began, 3)} | played.figures()))
    return FAILED if played.failures else 0


def _chances(value: str) -> dict[str, float]:
    """``control=0.1,candidate=0.2`` as a dictionary."""
    try:
        return {arm.strip(): share(chance) for arm, chance in (pair.split("=") for pair in value.split(","))}
    except (ValueError, argparse.ArgumentTypeError):
        allowed = "arms and numbers from 0 to 1 such as a=0.1,b=0.2"
        raise argparse.ArgumentTypeError(f"{value!r} should be {allowed}") from None


def parser() -> argparse.ArgumentParser:
    """The command line."""
    about = "Simulate users of a service that runs an experiment; some are not satisfied, by arm."
    made = argparse.ArgumentParser(prog="python -m loadtest.population", description=about, allow_abbrev=False)
    made.add_argument("--host", required=True, metavar="URL", help="service, such as http://127.0.0.1:8000")
    made.add_argument("--friction", required=True, type=_chances, metavar="A=P,B=P", help="for each arm, the chance "
                      "that an answer does not satisfy, such as control=0.10,candidate=0.20")  # fmt: skip
    add(made, "clients", positive_int, "CLIENTS", "users, each with a key and a session", 1000)
    add(made, "turns", positive, "TURNS", "mean turns of a session", 4.0)
    add(made, "seed", int, "SEED", "seed of everything random; another one makes other users", 0)
    add(made, "concurrency", positive_int, "SESSIONS", "sessions at once", 8)
    add(made, "locales", str, "A,B", "comma-separated locales of the users (default: those of the default student)")
    add_texts(made, str)
    add_start_timeout(made, 30.0)
    add_reply_timeout(made)
    return made


if __name__ == "__main__":
    sys.exit(main())
