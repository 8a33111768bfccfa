"""The command ``python -m loadtest.shadow [--students DIR] [--primary s] [--shadow xs] [--share 0.1] [--rate R] ...``.

What a shadow costs the clients of the primary student: one service, on a core of its own, is measured alternately with
the shadow off and on, at moderate load (random arrivals) and at saturation. Each round sends the same requests at the
same times with the shadow off and on, and gives one ratio; the median of the rounds is reported. Prints a table, and as
the last line one JSON object with the same figures. Exit code: 0, 1 if the p99 ratio misses the target (only with
``--check``), 2 on an error.
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

import orjson
from prometheus_client.parser import text_string_to_metric_families

from loadtest.experiments.shadow_report import TARGET, Figures, ShadowRound, figures_of_rounds, has_reached, table_of
from loadtest.load import closed_loop, open_loop
from loadtest.load.benchmark import CONNECTIONS, SERVICE, Benchmark
from loadtest.load.client import LoadError, fetch
from loadtest.load.closed_loop import Measured
from loadtest.load.command import FAILED, command
from loadtest.load.options import add, add_measurement, add_texts, positive, share
from loadtest.load.students import student_argument
from loadtest.load.target import TargetError, known_locales, usable_cores
from loadtest.load.texts import Text, load_texts, select
from service.student.shipped import SHIPPED_STUDENTS

WARM_UP = 1.25  # seconds; the service checks its experiment file once a second
CAPACITY_SECONDS = 2.0
MODERATE, SATURATION = "moderate", "saturation"


@dataclass(frozen=True)
class ShadowBenchmark(Benchmark):
    """Measures a running service without and with a shadow.

    Attributes:
        url: of the service.
        experiment: its experiment file.
        primary, shadow: names of the students.
        share: share of the texts that the shadow also answers while it is on.
    """

    url: str
    experiment: Path
    primary: str
    shadow: str
    share: float

    def bodies(self, texts: Sequence[Text]) -> list[bytes]:
        """Requests to the primary student, in locales that both students support.

        Raises:
            TargetError: one of the students is not loaded.
            TextsError: there are no texts in a locale that both support.
        """
        first, second = (set(known_locales(self.url, name) or ()) for name in (self.primary, self.shadow))
        selected = select(texts, None, first & second).texts
        return [orjson.dumps({**text._asdict(), "model": self.primary}) for text in selected]

    def measure(self, bodies: Sequence[bytes], rate: float) -> Figures:
        """What the shadow costs, by load. `rate` is the moderate load, as in ``--rate``.

        Raises:
            LoadError: the service gave wrong answers or none, or the shadow got no text.
        """
        saturation = partial(closed_loop.measure, self.url, bodies, connections=CONNECTIONS)
        set_shadow_share(self.experiment, self.shadow, 0.0)
        capacity = self.load(SERVICE, saturation, CAPACITY_SECONDS, warm_up=WARM_UP).per_second
        per_second = rate * capacity if rate < 1 else rate
        moderate = partial(open_loop.measure, self.url, bodies, rate=per_second, connections=CONNECTIONS)
        rounds: dict[str, list[ShadowRound]] = {MODERATE: [], SATURATION: []}
        for number in range(1, self.rounds + 1):
            rounds[MODERATE].append(self._round(MODERATE, number, partial(moderate, seed=number)))
            rounds[SATURATION].append(self._round(SATURATION, number, saturation))
        loads = {name: figures_of_rounds(of_load) for name, of_load in rounds.items()}
        return {"capacity_per_second": round(capacity, 1), "moderate_per_second": round(per_second, 1), "loads": loads}

    def _round(self, name: str, number: int, load: Callable[..., Measured]) -> ShadowRound:
        """The same load without and with the shadow; the order alternates between rounds."""
        sides: dict[bool, Measured] = {}
        for on in (False, True) if number % 2 else (True, False):
            before = self._shadow_counts()
            set_shadow_share(self.experiment, self.shadow, self.share if on else 0.0)
            sides[on] = self.load(SERVICE, load, warm_up=WARM_UP)
            if on:
                done, dropped = (now - then for now, then in zip(self._shadow_counts(), before, strict=True))
        if not done + dropped:
            raise LoadError(f"{self.url}: the shadow got no texts; choose a larger --share")
        result = ShadowRound(sides[False], sides[True], done, dropped)
        self.report_progress(name, number, result)
        return result

    def _shadow_counts(self) -> tuple[int, int]:
        """Texts that the shadow has answered so far, and texts that were dropped."""
        done = dropped = 0.0
        for processes in text_string_to_metric_families(fetch(f"{self.url}/metrics", timeout=5).content.decode()):
            for sample in processes.samples:
                if sample.name == "nlu_shadow_total" and sample.labels["task"] == "exact":
                    done += sample.value
                dropped += sample.value if sample.name == "nlu_shadow_dropped_total" else 0
        return round(done), round(dropped)


@command(OSError)
def main(argv: Sequence[str] | None = None) -> int:
    """Measure the cost of a shadow. Returns the exit code."""
    arguments = parser().parse_args(argv)
    figures = _figures(arguments)
    if arguments.check:
        figures |= {"target": TARGET, "reached": has_reached(figures)}
    print(table_of(figures), end="\n\n")
    print(json.dumps(figures))
    return FAILED if figures.get("reached") is False else 0


def _figures(arguments: argparse.Namespace) -> Figures:
    texts = load_texts(arguments.texts, arguments.locale)
    if len(usable_cores()) == 1:
        raise TargetError("this process may use only one core; service and load generator need one each")
    names = {name: getattr(arguments, name) for name in ("primary", "shadow", "share")}
    with tempfile.TemporaryDirectory() as folder:
        experiment = Path(folder) / "experiment.toml"
        set_shadow_share(experiment, arguments.shadow, 0.0)
        with Benchmark.of(arguments).service(arguments.students, "--experiment-file", str(experiment)) as server:
            benchmark = ShadowBenchmark.of(arguments, url=server.url, experiment=experiment, **names)
            measured = benchmark.measure(benchmark.bodies(texts), arguments.rate)
    return names | measured | benchmark.setup(connections=CONNECTIONS)


def set_shadow_share(experiment: Path, shadow: str, share: float) -> None:
    """Write an experiment file in which a student shadows this share of the texts."""
    new = experiment.with_suffix(".new")
    new.write_text(f'[shadow]\nmodel = "{shadow}"\nshare = {share}\n')
    new.replace(experiment)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    about = "What a shadow costs the clients of the primary student."
    parser = argparse.ArgumentParser(prog="python -m loadtest.shadow", description=about, allow_abbrev=False)
    about = "folder that holds both students (default: the shipped students)"
    parser.add_argument("--students", type=student_argument, default=SHIPPED_STUDENTS, metavar="DIR", help=about)
    add(parser, "primary", str, "NAME", "student that answers clients", "s")
    add(parser, "shadow", str, "NAME", "student that answers the same texts in the background", "xs")
    add(parser, "share", share, "SHARE", "share of the texts that the shadow answers, 0 to 1", 0.1)
    about = "moderate load, in requests per second; below 1 a share of the service's capacity"
    add(parser, "rate", positive, "RATE", about, 0.4)
    add_measurement(parser, rounds=9, seconds=4.0, start_timeout=60.0)
    add_texts(parser)
    about = f"exit with code 1 if the p99 with the shadow is more than {TARGET:g} times that without"
    parser.add_argument("--check", action="store_true", help=about)
    return parser


if __name__ == "__main__":
    sys.exit(main())
