"""The command ``python -m loadtest.shadow [--students DIR] [--primary s] [--shadow xs] [--share 0.1] [--rate R] ...``.

What a shadow costs those who wait for the primary student: one service, on a core of its own, is measured with the
shadow off and on by turns, at moderate load (requests at random moments) and at as much as it can take. Each round
sends the same requests at the same moments with the shadow off as with it on, and gives one ratio; the median of the
rounds counts. Prints a table, and as the last line one JSON object with the same figures. Exit code: 0 measured, 1 the
p99 moves further than the target allows (only with ``--target``), 2 could not measure.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import orjson
from prometheus_client.parser import text_string_to_metric_families

from loadtest.experiments.shadow_report import TARGET, Figures, Round, figures_of_rounds, has_reached, table_of
from loadtest.load import closed_loop, open_loop
from loadtest.load.closed_loop import LoadError, Measured
from loadtest.load.machine import machine, versions
from loadtest.load.target import TargetError, known_locales, on_cores, running_service, usable_cores
from loadtest.load.texts import Text, TextsError, load_texts, select
from loadtest.options import positive, positive_int, share
from service.student.shipped import SHIPPED_STUDENTS

MISSED = 1
CANNOT_MEASURE = 2
INTERRUPTED = 130
CONNECTIONS = 32
WARM_UP = 1.25  # seconds: the service looks at its experiment file once a second
CAPACITY_SECONDS = 2.0
FLAGS = ("--workers", "1", "--drain-delay", "0", "--cache-entries", "0")
MODERATE, SATURATION = "moderate", "saturation"

_opener = build_opener(ProxyHandler({}))


@dataclass(frozen=True)
class Bench:
    """A running service, and how it is measured.

    Attributes:
        url: of the service.
        experiment: its experiment file.
        primary, shadow: names of the students.
        share: of the texts that the shadow answers, too, while it is on.
        rounds: how often; medians count.
        seconds: of each measurement.
        cores: of the load generator; empty where the system can't tie a process to a core.
    """

    url: str
    experiment: Path
    primary: str
    shadow: str
    share: float
    rounds: int
    seconds: float
    cores: list[int]

    def bodies(self, texts: Sequence[Text]) -> list[bytes]:
        """Requests to the primary student, in locales that both know.

        Raises:
            TargetError: one of the students is not loaded.
            TextsError: there are no texts that both know.
        """
        known = [set(known_locales(self.url, name) or ()) for name in (self.primary, self.shadow)]
        chosen = select(texts, None, known[0] & known[1]).texts
        return [orjson.dumps({**text._asdict(), "model": self.primary}) for text in chosen]

    def measure(self, bodies: Sequence[bytes], rate: float) -> Figures:
        """What the shadow costs, by load. `rate` is that of moderate load, as the flag.

        Raises:
            LoadError: the service gave wrong answers or none, or no text to the shadow.
        """
        closed = partial(closed_loop.measure, self.url, bodies, connections=CONNECTIONS, warm_up=WARM_UP)
        switch(self.experiment, self.shadow, 0.0)
        capacity = self._load(partial(closed, seconds=CAPACITY_SECONDS)).per_second
        per_second = rate * capacity if rate < 1 else rate

        def moderate(number: int) -> Measured:
            return open_loop.measure(
                self.url,
                bodies,
                rate=per_second,
                connections=CONNECTIONS,
                seconds=self.seconds,
                warm_up=WARM_UP,
                seed=number,
            )

        def saturation(_: int) -> Measured:
            return closed(seconds=self.seconds)

        found: dict[str, list[Round]] = {MODERATE: [], SATURATION: []}
        for number in range(1, self.rounds + 1):
            for name, load in ((MODERATE, moderate), (SATURATION, saturation)):
                found[name].append(self._round(name, number, load))
        loads = {name: figures_of_rounds(rounds) for name, rounds in found.items()}
        return {"capacity_per_second": round(capacity, 1), "moderate_per_second": round(per_second, 1), "loads": loads}

    def _round(self, name: str, number: int, load: Callable[[int], Measured]) -> Round:
        """The same load without and with the shadow; which comes first alternates."""
        found: dict[bool, Measured] = {}
        for on in (False, True) if number % 2 else (True, False):
            before = self._counted()
            switch(self.experiment, self.shadow, self.share if on else 0.0)
            found[on] = self._load(partial(load, number))
            if on:
                done, dropped = (now - then for now, then in zip(self._counted(), before, strict=True))
        if not done + dropped:
            raise LoadError(f"{self.url} gave the shadow nothing to do")
        made = Round(found[False], found[True], done, dropped)
        print(f"{name}: round {number} of {self.rounds}: {made}", file=sys.stderr, flush=True)
        return made

    def _load(self, load: Callable[[], Measured]) -> Measured:
        with on_cores(self.cores):
            found = load()
        for problem, count in found.failures.most_common(1):
            raise LoadError(f"{self.url} gave wrong replies, such as {count} times: {problem}")
        return found

    def _counted(self) -> tuple[int, int]:
        """Texts that the shadow has answered so far, and those that were dropped."""
        done = dropped = 0.0
        with _opener.open(f"{self.url}/metrics", timeout=5) as reply:
            for family in text_string_to_metric_families(reply.read().decode()):
                for sample in family.samples:
                    if sample.name == "nlu_shadow_total" and sample.labels["task"] == "exact":
                        done += sample.value
                    dropped += sample.value if sample.name == "nlu_shadow_dropped_total" else 0
        return round(done), round(dropped)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure. Returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        figures = _figures(arguments)
    except (TextsError, TargetError, LoadError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return CANNOT_MEASURE
    except KeyboardInterrupt:
        return INTERRUPTED
    if arguments.target:
        figures |= {"target": TARGET, "reached": has_reached(figures)}
    print(table_of(figures), end="\n\n")
    print(json.dumps(figures))
    return MISSED if figures.get("reached") is False else 0


def _figures(arguments: argparse.Namespace) -> Figures:
    texts = load_texts(arguments.texts, arguments.texts_locale)
    cores = usable_cores()
    if len(cores) == 1:
        raise TargetError("this process may use only one core, and service and load generator need one each")
    with tempfile.TemporaryDirectory() as folder:
        experiment = Path(folder) / "experiment.toml"
        names = arguments.primary, arguments.shadow, arguments.share
        switch(experiment, arguments.shadow, 0.0)
        flags = [*FLAGS, "--experiment-file", str(experiment)]
        with running_service(arguments.students, arguments.patience, flags, cores[-1:]) as url:
            bench = Bench(url, experiment, *names, arguments.rounds, arguments.seconds, cores[:1])
            measured = bench.measure(bench.bodies(texts), arguments.rate)
    return {
        "primary": bench.primary,
        "shadow": bench.shadow,
        "share": bench.share,
        **measured,
        "measured": {"rounds": bench.rounds, "seconds": bench.seconds, "connections": CONNECTIONS},
        "machine": machine() | {"server_cores": cores[-1:], "generator_cores": cores[:1]},
        "versions": versions(),
    }


def switch(experiment: Path, shadow: str, to: float) -> None:
    """Write an experiment file that lets a student shadow this share of the texts."""
    new = experiment.with_suffix(".new")
    new.write_text(f'[shadow]\nmodel = "{shadow}"\nshare = {to}\n')
    new.replace(experiment)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.shadow", description="What a shadow costs those who wait for the primary student."
    )
    parser.add_argument("--students", type=Path, default=SHIPPED_STUDENTS, metavar="DIR", help="folder that holds both "
                        "students (default: the shipped ones)")  # fmt: skip
    parser.add_argument("--primary", default="s", metavar="NAME", help="student that answers (default: s)")
    parser.add_argument("--shadow", default="xs", metavar="NAME", help="student that answers, too, unheard (default: "
                        "xs)")  # fmt: skip
    parser.add_argument("--share", type=share, default=0.1, metavar="SHARE", help="share of the texts that the shadow "
                        "answers, 0 to 1 (default: 0.1)")  # fmt: skip
    parser.add_argument("--rate", type=positive, default=0.4, metavar="R", help="moderate load: requests a second, or "
                        "below 1 the part of what the service can take (default: 0.4)")  # fmt: skip
    parser.add_argument("--rounds", type=positive_int, default=9, metavar="N", help="rounds, whose median counts "
                        "(default: 9)")  # fmt: skip
    parser.add_argument("--seconds", type=positive, default=4.0, metavar="S", help="duration of each measurement "
                        "(default: 4)")  # fmt: skip
    parser.add_argument("--texts", type=Path, metavar="PATH", help="texts to send, as for python -m loadtest (default: "
                        "the project's sample)")  # fmt: skip
    parser.add_argument("--texts-locale", metavar="LOCALE", help="locale of texts that come without one")
    parser.add_argument("--patience", type=positive, default=60.0, metavar="S", help="seconds for the service to be "
                        "ready (default: 60)")  # fmt: skip
    parser.add_argument("--target", action="store_true", help=f"exit with 1 when the p99 with the shadow is more than "
                        f"{TARGET:g} times that without")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
