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
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from loadtest.experiments.users import Answer, Played, Population, PopulationError, ReplyError, play_session
from loadtest.load.replies import problem_of_reply
from loadtest.load.target import TargetError, texts_for, wait_until_ready
from loadtest.load.texts import Text, TextsError
from loadtest.options import Options, positive, positive_int, share

FAILED = 1
CANNOT_TEST = 2
INTERRUPTED = 130
OK = 200


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
        PopulationError: the service can't be reached, no reply names an arm, or users can't go on.
    """
    stop = threading.Event()
    numbers = iter(range(users))  # taking the next is one step of the interpreter, so threads may share it

    def play_some(_: int) -> Played:
        played, line = Played(), Line(host, timeout)
        try:
            for number in numbers:
                if stop.is_set():
                    break
                play_session(population, number, line, played)
        except BaseException:
            stop.set()  # the others need not go on
            raise
        finally:
            line.close()
        return played

    played = Played()
    with ThreadPoolExecutor(concurrency) as pool:
        for part in pool.map(play_some, range(concurrency)):
            played.add(part)
    if not played.turns and not played.failures:
        raise PopulationError(f"{host} names no arm in its replies: was it started with --experiment-file?")
    return played


class Line:
    """A connection to a service, kept open.

    Raises:
        PopulationError: from each method: the service can't be reached.
    """

    def __init__(self, host: str, timeout: float) -> None:
        parts = urlsplit(host)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._host = host
        self._connection = kind(parts.hostname or "", parts.port, timeout=timeout)

    def ask(self, key: str, text: Text) -> Answer:
        """As `Service`."""
        status, request_id, content = self._post("/v1/nlu", key, text._asdict())
        if problem := problem_of_reply([text.text], False, status, content):
            raise ReplyError(problem)
        return Answer(json.loads(content).get("arm"), request_id)

    def give_up(self, key: str, answer: Answer) -> None:
        """As `Service`."""
        status, *_ = self._post("/v1/feedback", key, answer._asdict() | {"outcome": "abandoned"})
        if status != OK:
            raise ReplyError(f"feedback: HTTP {status}")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _post(self, path: str, key: str, body: dict[str, Any]) -> tuple[int, str, bytes]:
        headers = {"content-type": "application/json", "x-client-key": key}
        try:
            self._connection.request("POST", path, json.dumps(body), headers)
            reply = self._connection.getresponse()
            return reply.status, reply.headers.get("x-request-id", ""), reply.read()
        except (OSError, HTTPException) as error:
            raise PopulationError(f"{self._host} can't be reached ({error or type(error).__name__})") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Let users loose on a service. Returns the exit code."""
    arguments = _parser().parse_args(argv)
    options = Options(texts=arguments.texts, texts_locale=arguments.texts_locale, locales=arguments.locales)
    host = arguments.host.rstrip("/")
    began = time.perf_counter()
    try:
        wait_until_ready(host, arguments.patience)
        texts = texts_for(options, host).texts
        population = Population(texts, arguments.friction, turns=arguments.turns, seed=arguments.seed)
        played = play(
            host, population, arguments.clients, concurrency=arguments.concurrency, timeout=arguments.reply_timeout
        )
    except (TextsError, TargetError, PopulationError) as error:
        print(f"error: {error}", file=sys.stderr)
        return CANNOT_TEST
    except KeyboardInterrupt:
        return INTERRUPTED
    print("sessions count once they are over: session_seconds in the experiment file says when", file=sys.stderr)
    asked = {"host": host, "clients": arguments.clients, "seed": arguments.seed, "friction": arguments.friction}
    print(json.dumps(asked | {"seconds": round(time.perf_counter() - began, 3)} | played.figures()))
    return FAILED if played.failures else 0


def _chances(value: str) -> dict[str, float]:
    """``control=0.1,candidate=0.2`` as a dictionary."""
    try:
        found = {arm.strip(): share(chance) for arm, chance in (pair.split("=") for pair in value.split(","))}
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(
            f"{value!r} should be arms and numbers from 0 to 1 such as a=0.1,b=0.2"
        ) from None
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.population",
        description="Simulate users of a service that runs an experiment; some are not satisfied, by arm.",
    )
    parser.add_argument("--host", required=True, metavar="URL", help="service, such as http://127.0.0.1:8000")
    parser.add_argument("--friction", required=True, type=_chances, metavar="A=P,B=P", help="for each arm, the chance "
                        "that an answer does not satisfy, such as control=0.10,candidate=0.20")  # fmt: skip

    def add(name: str, type_: Callable[[str], Any], metavar: str, help_: str, default: Any = None) -> None:
        shown = "" if default is None else f" (default: {default:g})"
        parser.add_argument(name, type=type_, metavar=metavar, help=help_ + shown, default=default)

    add("--clients", positive_int, "N", "users, each with a key and a session", 1000)
    add("--turns", positive, "N", "mean turns of a session", 4.0)
    add("--seed", int, "N", "of everything random; another one makes other users", 0)
    add("--concurrency", positive_int, "N", "sessions at once", 8)
    add("--texts", str, "PATH", "what users say, as of python -m loadtest (default: the project's sample)")
    add("--texts-locale", str, "LOCALE", "locale of texts that come without one")
    add("--locales", str, "A,B", "users speak only these (default: those that the default student knows)")
    add("--patience", positive, "S", "seconds for the service to be ready", 30.0)
    add("--reply-timeout", positive, "S", "seconds for a reply", 5.0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
