"""The command ``python -m loadtest.shadow [--students DIR] [--primary s] [--shadow xs] [--share 0.1] [--rate R] ...``.

What a shadow costs the clients of the primary student: one service, on a core of its own, is measured with the shadow
off and on by turns, at moderate load (requests at random moments) and at as much as it can take. Each round sends the
same requests at the same moments with the shadow off as with it on, and gives one ratio; the median of the rounds
counts. Prints a table, and as the last line one JSON object with the same figures. Exit code: 0 measured, 1 the p99
moves further than the target allows (only with ``--check``), 2 could not measure.
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

from loadtest.experiments.shadow_report import TARGET, Figures, Round, figures_of_rounds, has_reached, table_of
from loadtest.load import closed_loop, open_loop
from loadtest.load.benchmark import CONNECTIONS, SERVICE, Benchmark
from loadtest.load.client import LoadError, fetch
from loadtest.load.closed_loop import Measured
from loadtest.load.command import FAILED, command
from loadtest.load.options import add, add_measurement, add_texts, positive, share
from loadtest.load.target import TargetError, known_locales, usable_cores
from loadtest.load.texts import Text, load_texts, select
from service.student.shipped import SHIPPED_STUDENTS, named_folder

WARM_UP = 1.25  # seconds: the service looks at its experiment file once a second
CAPACITY_SECONDS = 2.0
MODERATE, SATURATION = "moderate", "saturation"


@dataclass(frozen=True)
class ShadowBenchmark(Benchmark):
    """Measures a running service without and with a shadow.

    Attributes:
        url: of the service.
        experiment: its experiment file.
        primary, shadow: names of the students.
        share: of the texts that the shadow answers, too, while it is on.
    """

    url: str
    experiment: Path
    primary: str
    shadow: str
    share: float

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
        saturation = partial(closed_loop.measure, self.url, bodies, connections=CONNECTIONS)
        switch(self.experiment, self.shadow, 0.0)
        capacity = self.load(SERVICE, saturation, CAPACITY_SECONDS, warm_up=WARM_UP).per_second
        per_second = rate * capacity if rate < 1 else rate
        moderate = partial(open_loop.measure, self.url, bodies, rate=per_second, connections=CONNECTIONS)
        found: dict[str, list[Round]] = {MODERATE: [], SATURATION: []}
        for number in range(1, self.rounds + 1):
            found[MODERATE].append(self._round(MODERATE, number, partial(moderate, seed=number)))
            found[SATURATION].append(self._round(SATURATION, number, saturation))
        loads = {name: figures_of_rounds(rounds) for name, rounds in found.items()}
        return {"capacity_per_second": round(capacity, 1), "moderate_per_second": round(per_second, 1), "loads": loads}

    def _round(self, name: str, number: int, load: Callable[..., Measured]) -> Round:
        """The same load without and with the shadow; which comes first alternates."""
        found: dict[bool, Measured] = {}
        for on in (False, True) if number % 2 else (True, False):
            before = self._counted()
            switch(self.experiment, self.shadow, self.share if on else 0.0)
            found[on] = self.load(SERVICE, load, warm_up=WARM_UP)
            if on:
                done, dropped = (now - then for now, then in zip(self._counted(), before, strict=True))
        if not done + dropped:
            raise LoadError(f"{self.url} gave the shadow nothing to do")
        made = Round(found[False], found[True], done, dropped)
        self.say(name, number, made)
        return made

    def _counted(self) -> tuple[int, int]:
        """Texts that the shadow has answered so far, and those that were dropped."""
        done = dropped = 0.0
        for family in text_string_to_metric_families(fetch(f"{self.url}/metrics", timeout=5).content.decode()):
            for sample in family.samples:
                if sample.name == "nlu_shadow_total" and sample.labels["task"] == "exact":
                    done += sample.value
                dropped += sample.value if sample.name == "nlu_shadow_dropped_total" else 0
        return round(done), round(dropped)


@command(OSError)
def main(argv: Sequence[str] | None = None) -> int:
    """Measure. Returns the exit code."""
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
        raise TargetError("this process may use only one core, and service and load generator need one each")
    names = {name: getattr(arguments, name) for name in ("primary", "shadow", "share")}
    with tempfile.TemporaryDirectory() as folder:
        experiment = Path(folder) / "experiment.toml"
        switch(experiment, arguments.shadow, 0.0)
        with Benchmark.of(arguments).service(arguments.students, "--experiment-file", str(experiment)) as server:
            benchmark = ShadowBenchmark.of(arguments, url=server.url, experiment=experiment, **names)
            measured = benchmark.measure(benchmark.bodies(texts), arguments.rate)
    return names | measured | benchmark.circumstances(connections=CONNECTIONS)


def switch(experiment: Path, shadow: str, to: float) -> None:
    """Write an experiment file that lets a student shadow this share of the texts."""
    new = experiment.with_suffix(".new")
    new.write_text(f'[shadow]\nmodel = "{shadow}"\nshare = {to}\n')
    new.replace(experiment)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    about = "What a shadow costs the clients of the primary student."
    made = argparse.ArgumentParser(prog="python -m loadtest.shadow", description=about, allow_abbrev=False)
    made.add_argument("--students", type=named_folder, default=SHIPPED_STUDENTS, metavar="DIR", help="folder that "
                      "holds both students (default: the shipped ones)")  # fmt: skip
    add(made, "primary", str, "NAME", "student that answers", "s")
    add(made, "shadow", str, "NAME", "student that answers the same texts, and whose answers are only counted", "xs")
    add(made, "share", share, "SHARE", "share of the texts that the shadow answers, 0 to 1", 0.1)
    about = "moderate load: requests per second, or below 1 the part of what the service can take"
    add(made, "rate", positive, "RATE", about, 0.4)
    add_measurement(made, rounds=9, seconds=4.0, start_timeout=60.0)
    add_texts(made)
    made.add_argument("--check", action="store_true", help=f"exit with code 1 if the p99 with the shadow is more than "
                      f"{TARGET:g} times that without")  # fmt: skip
    return made


if __name__ == "__main__":
    sys.exit(main())
