"""Measures the service, the plain application and one peer in each of its settings, in turns."""

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
from benchmarks.peer_servers.processes import ProcessTree, running
from benchmarks.peer_servers.wire import WireFormat, plain_json
from loadtest.comparison.quality import answer_of
from loadtest.load import closed_loop
from loadtest.load.benchmark import SERVICE, Benchmark
from loadtest.load.client import LoadError, fetch
from loadtest.load.closed_loop import Measured
from loadtest.load.target import ROOT, TargetError, free_port, on_cores
from loadtest.load.texts import Text
from training.evaluation.scoring import PredictedLabels

OURS = plain_json("/v1/nlu")
CHECKED_ANSWERS = 50  # compared before a server is measured
REPLY_SECONDS = 10.0
STARTING = ("no reply", "HTTP")  # problems of a server that is still starting
WARM_UP_FACTOR = 4.0  # warm-up before the first round, relative to the duration of a measurement
SETTLE_FACTOR = 0.6  # warm-up after a suspension, relative to the duration of a measurement
RAW_SHARE = 0.25  # time of the bare model in each round, which shows whether the core is free; likewise
RAW_EVERY = 10  # every tenth text is enough for the bare model, of which only the core share counts

Turn = dict[str, Measured]  # by server
PeerRound = dict[int, Turn]  # by the number of connections


class Contender:
    """A measured server, and the student's own answers, with which its answers must agree."""

    def __init__(
        self,
        name: str,
        url: str,
        wire: WireFormat,
        expected: Mapping[Text, PredictedLabels],
        server: ProcessTree | None = None,
    ) -> None:
        self.name = name
        self.url = url
        self.wire = wire
        self.server = server
        self.expected = expected
        self.asked = {wire.body(text): answer for text, answer in expected.items()}
        self.bodies = list(self.asked)

    def problem_of(self, body: bytes, status: int, content: bytes) -> str | None:
        """The problem of a reply, or None."""
        return self.wire.problem_of(self.asked[body], status, content)

    def check_answers(self) -> None:
        """Check a sample of its answers.

        Raises:
            LoadError: an answer is wrong, or missing.
        """
        for body in self.bodies[:: max(1, len(self.bodies) // CHECKED_ANSWERS)]:
            if problem := self.ask(body):
                raise LoadError(f"{self.name}: {problem}")

    def missing(self) -> str | None:
        """Why it is not ready, or None once it answers, even wrongly."""
        problem = self.ask(self.bodies[0])
        return problem if problem and problem.startswith(STARTING) else None

    def ask(self, body: bytes) -> str | None:
        """Send one request; returns the problem of its reply, or None."""
        try:
            reply = fetch(self.url + self.wire.path, REPLY_SECONDS, body)
        except LoadError as error:
            return f"no reply: {error}"
        return self.problem_of(body, reply.status, reply.content)


@dataclass
class PeerMeasurements:
    """The measurements of a peer.

    Attributes:
        rounds: the measurements of each round.
        failures: reasons of settings that could not be measured.
        core_share: share of the server's core that the bare model had in between, 0 to 1.
    """

    rounds: list[PeerRound] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    core_share: float = 1.0


@dataclass(frozen=True)
class PeerBenchmark(Benchmark):
    """Measures peers beside service and plain application.

    Attributes:
        connections: numbers of connections to measure with.
        keeps_running: whether a peer's processes keep running while others are measured.
    """

    connections: tuple[int, ...]
    keeps_running: bool = False

    @contextmanager
    def baseline(self, student: MeasuredStudent) -> Iterator[list[Contender]]:
        """Run the service and the plain application."""
        expected = expected_of(student)
        with self.service(student.folder) as service, plain_application(self, student.folder) as plain:
            servers = (SERVICE, service.url), (PLAIN, plain.url)
            contenders = [Contender(name, url, OURS, expected) for name, url in servers]
            for contender in contenders:
                contender.check_answers()
                self.warm_up(contender)
            yield contenders

    def measure_peer(
        self, peer: Peer, python: Path, student: MeasuredStudent, baseline: Sequence[Contender]
    ) -> PeerMeasurements:
        """Start a peer in each of its settings, and measure them in turns with service and plain application.

        A setting that fails is dropped; the others continue.
        """
        results = PeerMeasurements()
        with ExitStack() as stack:
            started = []
            for setting in peer.settings:
                try:
                    server = self.started(peer, setting, python, student.folder, baseline[0].expected)
                    started.append(stack.enter_context(server))
                except (TargetError, LoadError) as error:
                    results.failures[setting] = str(error)
            self.take_turns(results, student, baseline, started, peer.title)
        return results

    @contextmanager
    def started(
        self, peer: Peer, setting: str, python: Path, folder: Path, expected: Mapping[Text, PredictedLabels]
    ) -> Iterator[Contender]:
        """Run a peer's server in one setting; yields it once its answers agree with the student's."""
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
        results: PeerMeasurements,
        student: MeasuredStudent,
        baseline: Sequence[Contender],
        started: Sequence[Contender],
        title: str,
    ) -> None:
        """Measure all servers in each round; those of `started` are suspended while others are measured."""
        raw = RawModel(student.folder, student.student, student.selection.texts[::RAW_EVERY])
        for contender in started:
            if contender.server and not self.keeps_running:
                contender.server.suspend()
        for contender in started:
            self.attempt(contender, results, partial(self.warm_up, contender))
        for number in range(1, self.rounds + 1):
            alive = [*baseline, *(contender for contender in started if contender.name not in results.failures)]
            if len(alive) == len(baseline):
                break
            began = time.perf_counter()
            with on_cores(self.server):
                raw.seconds(RAW_SHARE * self.seconds)
            turns: PeerRound = {connections: {} for connections in self.connections}
            for contender in (*alive[number % len(alive) :], *alive[: number % len(alive)]):
                self.attempt(contender, results, partial(self._measure, contender, turns))
            results.rounds.append(turns)
            results.core_share = raw.core_share
            last = self.connections[-1]
            rates = ", ".join(f"{name} {measured.per_second:.0f}/s" for name, measured in turns[last].items())
            self.report_progress(title, number, f"{time.perf_counter() - began:.0f} s; {last} connections: {rates}")

    def warm_up(self, contender: Contender) -> None:
        """Load a server before the first round, for just-in-time compilers, growing pools and caches."""
        self.ask(contender, max(self.connections), WARM_UP_FACTOR * self.seconds)

    def _measure(self, contender: Contender, turns: PeerRound) -> None:
        """Measure a server with each number of connections, after a warm-up that follows its suspension."""
        self.ask(contender, self.connections[0], SETTLE_FACTOR * self.seconds)
        for connections, turn in turns.items():
            turn[contender.name] = self.ask(contender, connections, self.seconds)

    def attempt(self, contender: Contender, results: PeerMeasurements, work: Callable[[], None]) -> None:
        """Call `work` while a server runs; a failure of a peer is recorded, one of the baseline raised."""
        server = contender.server
        with server.resumed() if server and not self.keeps_running else nullcontext():
            try:
                work()
            except LoadError as error:
                if server is None:
                    raise
                results.failures[contender.name] = str(error)

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


def expected_of(student: MeasuredStudent) -> dict[Text, PredictedLabels]:
    """The student's own answer to each text."""
    texts = student.selection.texts
    return {text: answer_of(student_answer(student.student, text.text, text.locale)) for text in texts}
