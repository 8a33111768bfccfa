"""The locust user: real utterances of all locales, single and in batches, each reply checked.

Usage::

    locust -f loadtest/locustfile.py --host http://127.0.0.1:8000  # web page on port 8089
    locust -f loadtest/locustfile.py --host http://127.0.0.1:8000 --headless --users 8 --run-time 30s --rate 200
    locust -f loadtest/locustfile.py,loadtest/load/step_load.py --host http://127.0.0.1:8000 --rate 800 --steps 4

Locust's own tables round to 1 ms; when a test stops, the project's table with the service's own phases is printed.
"""

# mypy: disable-error-code="no-untyped-call, untyped-decorator"
# (locust's event hooks and session carry no annotations)

from __future__ import annotations

import itertools
import logging
import pickle
import random
import sys
import time
from argparse import ArgumentParser
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

import gevent
from locust import FastHttpUser, events, task
from locust.env import Environment
from locust.exception import CatchResponseError, StopUser
from locust.runners import LocalRunner

from loadtest.load.options import Options, add_options
from loadtest.load.pacing import Pace
from loadtest.load.recorder import BATCH, CLIENT, SINCE_DUE, SINGLE, Recorder
from loadtest.load.replies import phases_of, problem_of_reply
from loadtest.load.report import figures_of, table_of, table_of_steps
from loadtest.load.target import TargetError, known_locales, texts_for
from loadtest.load.texts import Selection, Text, TextsError, load_texts, select

log = logging.getLogger("loadtest")
MEAN_SESSION_TEXTS = 5  # requests of a client before the locust user simulates another client
KIND = "kind"  # key of the request kind in the context; None for a warm-up, whose time is not recorded
DRAIN_SECONDS = 1.0
BAD_START = 2


class Step(NamedTuple):
    """The part of a test with a constant number of users."""

    users: int
    recorder: Recorder


class RunState:
    """The state of the running test; locust runs one at a time."""

    def __init__(self) -> None:
        self.draw = random.Random()
        self.start(Options(), Selection([], []))

    def start(self, options: Options, selection: Selection) -> None:
        """Reset the state for a new test."""
        self.options = options
        self.selection = selection
        self.recorder = Recorder()
        self.users = 0
        self.steps: list[Step] = []
        self.slots = itertools.count()
        self.by_locale: dict[str, list[Text]] = {}
        for text in selection.texts:
            self.by_locale.setdefault(text.locale, []).append(text)
        weights = options.locale_weights
        self.weights = [weights.get(locale, 1.0) for locale in self.by_locale]

    def new_locale(self) -> str:
        """Draw the locale of a new client."""
        return self.draw.choices([*self.by_locale], self.weights)[0]

    def choose(self, locale: str, count: int) -> list[Text]:
        """Draw texts to send."""
        return self.draw.choices(self.by_locale[locale], k=count)


run = RunState()


class NluUser(FastHttpUser):
    """A user that sends single texts and batches for a sequence of simulated clients."""

    def __init__(self, environment: Environment) -> None:
        self.network_timeout = self.connection_timeout = run.options.reply_timeout
        super().__init__(environment)
        self.pace = Pace(0.0)
        self.client_key = self.locale = ""

    def on_start(self) -> None:
        """Open the connection, then take a slot in the common schedule."""
        if not run.selection.texts:
            return
        self._send(1, kind=None)
        if run.options.rate:
            offset = next(run.slots) / run.options.rate
            self.pace = Pace(time.perf_counter() + offset)
            gevent.sleep(offset)

    def wait_time(self) -> float:
        """Seconds until the next request is due."""
        if not run.options.rate:
            return 0.0
        return self.pace.next(time.perf_counter(), _full_rate_users(self.environment) / run.options.rate)

    @task
    def ask(self) -> None:
        """Send a single text or, with the configured probability, a batch."""
        if not run.selection.texts:
            raise StopUser  # the test failed to start
        if run.draw.random() < run.options.batch_share:
            self._send(run.options.batch_size, kind=BATCH)
        else:
            self._send(1, kind=SINGLE)

    def _send(self, count: int, kind: str | None) -> None:
        if not self.client_key or run.draw.random() < 1 / MEAN_SESSION_TEXTS:
            self.client_key, self.locale = f"{run.draw.getrandbits(64):016x}", run.new_locale()
        texts = run.choose(self.locale, count)
        items = [text._asdict() for text in texts]
        body: dict[str, Any] = {"items": items} if kind == BATCH else dict(items[0])
        if run.options.model:
            body["model"] = run.options.model
        path = "/v1/nlu/batch" if kind == BATCH else "/v1/nlu"
        name = path if kind else f"{path} (warm-up)"
        headers = {"x-client-key": self.client_key}
        context = {KIND: kind, "texts": len(texts), "late_ms": self.pace.lateness * 1000}
        with self.client.post(
            path, name=name, json=body, headers=headers, context=context, catch_response=True
        ) as response:
            error = response.request_meta["exception"]
            if error is not None and response.status_code in (0, HTTPStatus.OK):
                response.failure(error)  # the connection failed before or during the reply
                return
            sent = [text.text for text in texts]
            problem = problem_of_reply(sent, kind == BATCH, response.status_code, response.content or b"")
            if problem:
                response.failure(problem)
            else:
                response.success()


@events.init_command_line_parser.add_listener
def _add_options(parser: ArgumentParser) -> None:
    add_options(parser)
    about = "file for the pickled recorder, instead of a table (default: none)"
    parser.add_argument("--record", metavar="FILE", help=about, include_in_web_ui=False)


@events.init.add_listener
def _prepare(environment: Environment, **_: Any) -> None:
    """Refuse invalid options before the test starts."""
    options = Options.of(environment.parsed_options)
    try:
        if not isinstance(environment.runner, LocalRunner):
            raise TargetError("locust's workers are not supported; use python -m loadtest --processes N")
        texts = load_texts(options.texts_path, options.locale)
        if environment.host:
            select(texts, options.locale_names, known_locales(environment.host, options.model))
    except (TextsError, TargetError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(BAD_START)
    # Requests in flight when the test stops may end, so that one without a reply counts as a failure.
    environment.stop_timeout = max(environment.stop_timeout, options.reply_timeout + DRAIN_SECONDS)


@events.test_start.add_listener
def _start(environment: Environment, **_: Any) -> None:
    options = Options.of(environment.parsed_options)
    run.start(options, Selection([], []))
    try:
        run.start(options, texts_for(options, environment.host or ""))
    except (TextsError, TargetError) as error:  # locust's web page has changed host or options since `_prepare`
        log.error("%s", error)
        gevent.spawn(_runner(environment).stop)


@events.spawning_complete.add_listener
def _measure(user_count: int, **_: Any) -> None:
    """Start to record once all users of a step have started."""
    if run.users:  # a further step of a step load
        run.recorder.stop(time.perf_counter())
        run.steps.append(Step(run.users, run.recorder))
        run.recorder = Recorder()
    run.recorder.restart()
    run.users = user_count


@events.request.add_listener
def _record(context: dict[str, Any], response: Any, response_time: float, exception: Any, **_: Any) -> None:
    ended = time.perf_counter()
    if exception is not None:
        is_own = isinstance(exception, CatchResponseError)  # by `response.failure` above
        reason = str(exception) if is_own else f"{type(exception).__name__}: {exception}"
        run.recorder.record_failure(reason, response_time, ended=ended)
    elif kind := context.get(KIND):
        durations = {CLIENT: response_time}
        if run.options.rate:
            durations[SINCE_DUE] = response_time + context["late_ms"]
        durations |= phases_of(response.headers.get("server-timing") or "")
        run.recorder.record_valid(kind, durations, texts=context["texts"], ended=ended)


@events.user_error.add_listener
def _count_fault(exception: Exception, **_: Any) -> None:
    """Count an exception in this file as a failure."""
    run.recorder.record_failure(f"load test: {type(exception).__name__}: {exception}", 0.0, ended=time.perf_counter())


@events.test_stopping.add_listener
def _stop(**_: Any) -> None:
    run.recorder.stop(time.perf_counter())


@events.test_stop.add_listener
def _report(environment: Environment, **_: Any) -> None:
    if record := getattr(environment.parsed_options, "record", None):
        Path(record).write_bytes(pickle.dumps(run.recorder))
    elif run.selection.texts:
        steps, host = [], environment.host or ""
        for users, recorder in [*run.steps, Step(run.users or _total_users(environment), run.recorder)]:
            asked = run.options.rate * users / _full_rate_users(environment)
            steps.append(figures_of(recorder, run.selection, host=host, users=users, asked_rate=asked))
        if run.steps:
            print(f"\n{table_of_steps(steps)}", flush=True)
        print(f"\n{table_of(steps[-1])}\n", flush=True)


def _runner(environment: Environment) -> LocalRunner:
    assert isinstance(environment.runner, LocalRunner)  # `_prepare` refuses others
    return environment.runner


def _full_rate_users(environment: Environment) -> int:
    """The number of users that share the full rate; in earlier steps of a step load fewer users share a part of it."""
    if environment.shape_class is None:
        return _total_users(environment)
    return getattr(environment.parsed_options, "num_users", None) or 1


def _total_users(environment: Environment) -> int:
    """The number of users of the test; the runner knows it only once all have started."""
    return _runner(environment).target_user_count or getattr(environment.parsed_options, "num_users", None) or 1
