"""Servers take turns: our service, the plain application and one peer in each of its settings."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.floor import PLAIN, MeasuredStudent, RawModel, plain_application
from benchmarks.peer_servers.answers import answer_of as student_answer
from benchmarks.peer_servers.catalogue import Peer
from benchmarks.peer_servers.processes import Server, running
from benchmarks.peer_servers.wire import Wire, plain_json
from loadtest.comparison.quality import answer_of
from loadtest.load import closed_loop
from loadtest.load.benchmark import SERVICE, Benchmark
from loadtest.load.client import LoadError, fetch
from loadtest.load.closed_loop import Measured
from loadtest.load.target import ROOT, TargetError, free_port, on_cores
from loadtest.load.texts import Text
from training.evaluation.scoring import Answer

OURS = plain_json("/v1/nlu")
CHECKED = 50  # answers that are compared before a server is measured
REPLY_SECONDS = 10.0
NOT_YET = ("no reply", "HTTP")  # what a server says while it starts
HEAT = 4.0  # times a measurement's seconds, under load before the first round
SETTLE = 0.6  # times them, under load after having been frozen
RAW_SHARE = 0.25  # of a measurement's seconds, spent on the bare model in each round: is the core free?
RAW_EVERY = 10  # of the texts: a pass is quick, and only its share of the core counts

Turn = dict[str, Measured]  # by who was measured
Round = dict[int, Turn]  # by the number of connections


class Contender:
    """A server that is measured, and the student's own answers, which it must give."""

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
        return self.wire.problem_of(self.asked[body], status, content)

    def check_answers(self) -> None:
        """Compare a sample of its answers.

        Raises:
            LoadError: one is wrong, or there is none.
        """
        for body in self.bodies[:: max(1, len(self.bodies) // CHECKED)]:
            if problem := self.ask(body):
                raise LoadError(f"{self.name}: {problem}")

    def missing(self) -> str | None:
        """What it lacks to be ready, or None: it is once it answers, if only wrongly."""
        problem = self.ask(self.bodies[0])
        return problem if problem and problem.startswith(NOT_YET) else None

    def ask(self, body: bytes) -> str | None:
        """What is wrong with the reply to one request, or None."""
        try:
            reply = fetch(self.url + self.wire.path, REPLY_SECONDS, body)
        except LoadError as error:
            return f"no reply: {error}"
        return self.problem_of(body, reply.status, reply.content)


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
class PeerBenchmark(Benchmark):
    """Measures peers beside service and plain application.

    Attributes:
        connections: numbers of connections, each a measurement.
        keeps_running: whether a peer's processes go on while others are measured.
    """

    connections: tuple[int, ...]
    keeps_running: bool = False

    @contextmanager
    def baseline(self, student: MeasuredStudent) -> Iterator[list[Contender]]:
        """The service and the plain application, running."""
        expected = expected_of(student)
        with self.service(student.folder) as service, plain_application(self, student.folder) as plain:
            servers = (SERVICE, service.url), (PLAIN, plain.url)
            contenders = [Contender(name, url, OURS, expected) for name, url in servers]
            for contender in contenders:
                contender.check_answers()
                self.heat(contender)
            yield contenders

    def measure_peer(self, peer: Peer, python: Path, student: MeasuredStudent, baseline: Sequence[Contender]) -> Found:
        """Start a peer in each of its settings, and let them take turns with service and plain application.

        A setting that fails ends there, and the others go on.
        """
        found = Found()
        with ExitStack() as stack:
            started = []
            for setting in peer.settings:
                try:
                    server = self.started(peer, setting, python, student.folder, baseline[0].expected)
                    started.append(stack.enter_context(server))
                except (TargetError, LoadError) as error:
                    found.failures[setting] = str(error)
            self.take_turns(found, student, baseline, started, peer.title)
        return found

    @contextmanager
    def started(
        self, peer: Peer, setting: str, python: Path, folder: Path, expected: Mapping[Text, Answer]
    ) -> Iterator[Contender]:
        """A peer's server in one setting, once it answers as the student does."""
        port = free_port()
        with tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as scratch:
            command = [str(python), "-m", "benchmarks.peer_servers.serve", peer.name, "--setting", setting]
            command += ["--student", str(folder.resolve()), "--port", str(port), "--scratch", scratch]
            path = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "HOME": scratch, "TMPDIR": scratch}
            with running(f"{peer.title}, {setting}", command, self.server, Path(scratch), path) as server:
                wire = peer.settings[setting].wire
                contender = Contender(setting, f"http://127.0.0.1:{port}", wire, expected, server)
                server.wait_until(contender.missing, self.start_timeout)
                contender.check_answers()
                yield contender

    def take_turns(
        self,
        found: Found,
        student: MeasuredStudent,
        baseline: Sequence[Contender],
        started: Sequence[Contender],
        title: str,
    ) -> None:
        """Measure all of them in each round; those of `started` are frozen while others are measured."""
        raw = RawModel(student.folder, student.student, student.selection.texts[::RAW_EVERY])
        for contender in started:
            if contender.server and not self.keeps_running:
                contender.server.freeze()
        for contender in started:
            self.attempt(contender, found, partial(self.heat, contender))
        for number in range(1, self.rounds + 1):
            alive = [*baseline, *(contender for contender in started if contender.name not in found.failures)]
            if len(alive) == len(baseline):
                break
            began = time.perf_counter()
            with on_cores(self.server):
                raw.seconds(RAW_SHARE * self.seconds)
            turns: Round = {connections: {} for connections in self.connections}
            for contender in (*alive[number % len(alive) :], *alive[: number % len(alive)]):
                self.attempt(contender, found, partial(self._measure, contender, turns))
            found.rounds.append(turns)
            found.core_share = raw.core_share
            most = self.connections[-1]
            rates = ", ".join(f"{name} {got.per_second:.0f}/s" for name, got in turns[most].items())
            self.say(title, number, f"{time.perf_counter() - began:.0f} s; {most} connections: {rates}")

    def heat(self, contender: Contender) -> None:
        """Load a server before the first round: just-in-time compilers, pools that grow, caches."""
        self.ask(contender, max(self.connections), HEAT * self.seconds)

    def _measure(self, contender: Contender, turns: Round) -> None:
        """Measure one with each number of connections; first it settles, having been frozen."""
        self.ask(contender, self.connections[0], SETTLE * self.seconds)
        for connections, turn in turns.items():
            turn[contender.name] = self.ask(contender, connections, self.seconds)

    def attempt(self, contender: Contender, found: Found, work: Callable[[], None]) -> None:
        """Let one run and work; a failure of a peer is noted, one of ours raised."""
        server = contender.server
        with server.awake() if server and not self.keeps_running else nullcontext():
            try:
                work()
            except LoadError as error:
                if server is None:
                    raise
                found.failures[contender.name] = str(error)

    def ask(self, contender: Contender, connections: int, seconds: float) -> Measured:
        """Load one server.

        Raises:
            LoadError: it gave no answer, or a wrong one.
        """
        measure = partial(
            closed_loop.measure,
            contender.url,
            contender.bodies,
            connections=connections,
            reply_timeout=REPLY_SECONDS,
            path=contender.wire.path,
            problem_of=contender.problem_of,
        )
        return self.load(contender.name, measure, seconds)


def expected_of(student: MeasuredStudent) -> dict[Text, Answer]:
    """The student's own answer to each text."""
    texts = student.selection.texts
    return {text: answer_of(student_answer(student.student, text.text, text.locale)) for text in texts}
