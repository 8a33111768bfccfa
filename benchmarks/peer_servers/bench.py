"""Servers take turns: our service, the plain application and one peer in each of its settings."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

from benchmarks.floor import FLAGS, PLAIN, SERVICE, WARM_UP, RawModel, Subject
from benchmarks.peer_servers.answers import free_port
from benchmarks.peer_servers.catalogue import Peer
from benchmarks.peer_servers.processes import Server, running, wait_until
from benchmarks.peer_servers.wire import Answer, Wire, expected_answer, plain_json, problem_of
from loadtest.load.closed_loop import LoadError, Measured, measure
from loadtest.load.target import ROOT, TargetError, on_cores, running_server, running_service
from loadtest.load.texts import Text
from service.student.student import Student

OURS = plain_json("/v1/nlu")
CHECKED = 50  # answers that are compared before a server is measured
REPLY_SECONDS = 10.0
NO_REPLY = "no reply"
NOT_YET = (NO_REPLY, "HTTP")  # what a server says while it starts
HEAT = 4.0  # times a measurement's seconds, under load before the first round
SETTLE = 0.6  # times them, under load after having been frozen
RAW_SHARE = 0.25  # of a measurement's seconds, spent on the bare model in each round: is the core free?
RAW_EVERY = 10  # of the texts: a pass is quick, and only its share of the core counts
_opener = build_opener(ProxyHandler({}))

Turn = dict[str, Measured]  # by who was measured
Round = dict[int, Turn]  # by the number of connections


class Contender:
    """A server that is measured, and what it must answer.

    `check` says what is wrong with a reply to a text, or None; by default its answer must be the student's own.
    """

    def __init__(
        self, name: str, url: str, wire: Wire, expected: Mapping[Text, Answer], server: Server | None = None
    ) -> None:
        self.name = name
        self.url = url
        self.wire = wire
        self.server = server
        self.expected = expected
        self.asked = {wire.body(text): answer for text, answer in expected.items()}
        self.bodies = list(self.asked)

    def problem_of(self, body: bytes, status: int, content: bytes) -> str | None:
        """What is wrong with the reply to a request."""
        return problem_of(self.wire, self.asked[body], status, content)

    def check_answers(self) -> None:
        """Compare a sample of its answers.

        Raises:
            LoadError: one is wrong, or there is none.
        """
        step = max(1, len(self.bodies) // CHECKED)
        for body in self.bodies[::step]:
            if problem := self.ask(body):
                raise LoadError(f"{self.name}: {problem}")

    def missing(self) -> str | None:
        """What it lacks to be ready, or None: it is once it answers, if only wrongly."""
        problem = self.ask(self.bodies[0])
        return problem if problem and problem.startswith(NOT_YET) else None

    def ask(self, body: bytes) -> str | None:
        """What is wrong with the reply to one request, or None."""
        request = Request(self.url + self.wire.path, body, {"content-type": "application/json"})
        try:
            with _opener.open(request, timeout=REPLY_SECONDS) as reply:
                return self.problem_of(body, reply.status, reply.read())
        except HTTPError as error:
            with error:
                return f"HTTP {error.code}"
        except (URLError, OSError, ValueError) as error:
            return f"{NO_REPLY} ({getattr(error, 'reason', error)})"


@dataclass
class Found:
    """What was measured of a peer.

    Attributes:
        rounds: measurements side by side.
        failures: settings that could not be measured, and why.
        core_share: which part of the server's core the bare model had in between, 0 to 1.
    """

    rounds: list[Round] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    core_share: float = 1.0


@dataclass(frozen=True)
class Bench:
    """How it is measured.

    Attributes:
        rounds: how often; medians count.
        seconds: of each measurement.
        connections: numbers of connections, each a measurement.
        patience: seconds for a server to be ready.
        generator, server: the cores of each; empty where the system can't tie a process to a core.
        keeps_running: whether a peer's processes go on while others are measured.
    """

    rounds: int
    seconds: float
    connections: tuple[int, ...]
    patience: float
    generator: list[int]
    server: list[int]
    keeps_running: bool = False

    @contextmanager
    def baseline(self, subject: Subject) -> Iterator[list[Contender]]:
        """The service and the plain application, running."""
        expected = expected_of(subject)
        plain = ["benchmarks.plain", "--student", str(subject.folder.resolve())]
        with (
            running_service(subject.folder, self.patience, ["--workers", "1", *FLAGS], self.server) as service,
            running_server(PLAIN, plain, self.patience, self.server) as compared,
        ):
            contenders = [Contender(name, url, OURS, expected) for name, url in ((SERVICE, service), (PLAIN, compared))]
            for contender in contenders:
                contender.check_answers()
                self.heat(contender)
            yield contenders

    def measure_peer(self, peer: Peer, python: Path, subject: Subject, baseline: Sequence[Contender]) -> Found:
        """Start a peer in each of its settings, and let them take turns with service and plain application.

        A setting that fails ends there, and the others go on.
        """
        found = Found()
        expected = baseline[0].expected
        with ExitStack() as stack:
            started = []
            for setting, wire in peer.wires.items():
                start = partial(self.started, peer, setting, python, subject.folder, wire, expected)
                try:
                    started.append(stack.enter_context(start()))
                except (TargetError, LoadError) as error:
                    found.failures[setting] = str(error)
            self.take_turns(found, subject, baseline, started, peer.title)
        return found

    @contextmanager
    def started(
        self, peer: Peer, setting: str, python: Path, folder: Path, wire: Wire, expected: Mapping[Text, Answer]
    ) -> Iterator[Contender]:
        """A peer's server in one setting, once it answers as the student does."""
        port = free_port()
        title = f"{peer.title}, {setting}"
        with tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as scratch:
            command = [str(python), "-m", peer.module, "--student", str(folder.resolve()), "--setting", setting]
            command += ["--port", str(port), "--scratch", scratch]
            path = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "HOME": scratch, "TMPDIR": scratch}
            with running(title, command, self.server, Path(scratch), path) as server:
                contender = Contender(setting, f"http://127.0.0.1:{port}", wire, expected, server)
                wait_until(contender.missing, server, self.patience)
                contender.check_answers()
                yield contender

    def take_turns(
        self, found: Found, subject: Subject, baseline: Sequence[Contender], started: Sequence[Contender], title: str
    ) -> None:
        """Measure all of them in each round; those of `started` are frozen while others are measured."""
        raw = RawModel(subject.folder, Student.load(subject.folder), subject.selection.texts[::RAW_EVERY])
        for contender in started:
            self._freeze(contender)
        for contender in started:
            self._attempt(contender, found, partial(self.heat, contender))
        for number in range(1, self.rounds + 1):
            alive = [*baseline, *(contender for contender in started if contender.name not in found.failures)]
            if len(alive) == len(baseline):
                break
            began = time.perf_counter()
            with on_cores(self.server):
                raw.seconds(RAW_SHARE * self.seconds)
            turns: Round = {connections: {} for connections in self.connections}
            for contender in (*alive[number % len(alive) :], *alive[: number % len(alive)]):
                self._attempt(contender, found, partial(self._measure, contender, turns))
            found.rounds.append(turns)
            found.core_share = raw.core_share
            rates = ", ".join(f"{name} {got.per_second:.0f}/s" for name, got in turns[self.connections[-1]].items())
            took = f"round {number} of {self.rounds}, {time.perf_counter() - began:.0f} s"
            said = f"{title}: {took}; {self.connections[-1]} connections: {rates}"
            print(said, file=sys.stderr, flush=True)

    def heat(self, contender: Contender) -> None:
        """Load a server before the first round: just-in-time compilers, pools that grow, caches."""
        self.load(contender, max(self.connections), HEAT * self.seconds)

    def _measure(self, contender: Contender, turns: Round) -> None:
        """Measure one with each number of connections; first it settles, having been frozen."""
        self.load(contender, self.connections[0], SETTLE * self.seconds)
        for connections, turn in turns.items():
            turn[contender.name] = self.load(contender, connections, self.seconds)

    def _freeze(self, contender: Contender) -> None:
        if contender.server is not None and not self.keeps_running:
            contender.server.freeze()

    def _attempt(self, contender: Contender, found: Found, work: Callable[[], None]) -> None:
        """Let one run and work; a failure of a peer is noted, one of ours raised."""
        if contender.server is not None:
            contender.server.thaw()
        try:
            work()
        except LoadError as error:
            if contender.server is None:
                raise
            found.failures[contender.name] = str(error)
        finally:
            self._freeze(contender)

    def load(self, contender: Contender, connections: int, seconds: float) -> Measured:
        """Load one server.

        Raises:
            LoadError: it gave no answer, or a wrong one.
        """
        with on_cores(self.generator):
            try:
                got = measure(
                    contender.url,
                    contender.bodies,
                    connections=connections,
                    seconds=seconds,
                    warm_up=WARM_UP * seconds,
                    reply_timeout=REPLY_SECONDS,
                    path=contender.wire.path,
                    problem_of=contender.problem_of,
                )
            except LoadError as error:
                raise LoadError(f"{contender.name}: {error}") from None
        for problem, count in got.failures.most_common(1):
            raise LoadError(f"{contender.name} gave wrong replies, such as {count} times: {problem}")
        return got


def expected_of(subject: Subject) -> dict[Text, Answer]:
    """The student's own answer to each text."""
    student = Student.load(subject.folder)
    return {text: expected_answer(student, text.text) for text in subject.selection.texts}
