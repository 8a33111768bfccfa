"""The figures of ``python -m benchmarks.peers``: ratios within rounds, the table, and the report in Markdown.

Each ratio is taken within a round, where the measurements lie side by side, and then the median of the rounds.
"""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

from benchmarks.floor import PLAIN
from benchmarks.floor_report import CORE_IS_FREE, Figures
from benchmarks.peer_servers.bench import Found, Round
from benchmarks.peer_servers.catalogue import Peer
from loadtest.load.benchmark import SERVICE
from loadtest.load.closed_loop import Measured
from loadtest.load.machine import machine
from loadtest.load.tables import Table

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
FLAGS = {"avx512_vnni": "AVX512-VNNI", "avx_vnni": "AVX-VNNI", "avx512f": "AVX512", "avx2": "AVX2", "asimddp": "NEON"}
PERCENTS = (50, 99)
WAVERS = 1.15  # the plain application's highest rate to its lowest; with more, ratios of different rounds differ too
MICRO = 1e6
CAVEATS = """\
- One machine, one core for the servers, one for the load generator. All processes of a framework share the server's
  core, also of those that are made for many (BentoML, Ray Serve, TorchServe, Triton): this is what a request costs,
  not how they grow.
- One small student, whose run takes a fraction of a millisecond, so the framework's own work shows. With a large model
  they would all be near 1.
- Batches bring no gain in the model: a dynamically quantised graph takes one activation scale for a whole batch, so
  that answers would move with their neighbours. In a framework's batch the texts still run one by one.
- MLServer and Triton are asked in their V2 protocol, where the answer is a string in a tensor; BentoML with batching
  takes a list of one text. All other requests are the same JSON, and the answers hold the same domain, intent and
  slots. Plain FastAPI and the service also report identity and times in each answer, which the others leave out.
- Nobody tuned a framework here: documented defaults, and its own batching with the settings below.
- Ray Serve gives its workers a low priority, its own default, so other work on the core takes more from it.
- The control is the plain application, started and measured like a peer: its distance from 1 is the measurement's."""


def figures_of_rounds(found: Found, settings: Iterable[str]) -> Figures:
    """The figures of a peer: for each setting its ratios to the plain application, or why there are none."""
    return {
        setting: {"failed": found.failures[setting]} if setting in found.failures else figures_of(found.rounds, setting)
        for setting in settings
    }


def figures_of(rounds: Sequence[Round], name: str) -> Figures:
    """The figures of one server: rates and latencies, and their ratios to the plain application."""
    figures: Figures = {"connections": {}}
    for number in rounds[0]:
        rates = _ratios(rounds, number, name, lambda found: found.per_second)
        figures["connections"][str(number)] = {
            "ratio": round(median(rates), 3),
            "ratios": [round(rate, 3) for rate in rates],
            "per_second": round(median(r[number][name].per_second for r in rounds), 1),
            "generator_share": round(median(r[number][name].cpu_share for r in rounds), 3),
        }
    for percent in PERCENTS if 1 in rounds[0] else ():

        def at(found: Measured, percent: float = percent) -> float:
            return found.percentile(percent)

        figures[f"p{percent}_us"] = round(median(at(r[1][name]) for r in rounds) * MICRO, 1)
        figures[f"p{percent}_ratio"] = round(median(_ratios(rounds, 1, name, at)), 3)
    return figures


def _ratios(rounds: Sequence[Round], connections: int, name: str, figure: Callable[[Measured], float]) -> list[float]:
    """A server's figure to that of the plain application, in each round."""
    return [figure(found[connections][name]) / figure(found[connections][PLAIN]) for found in rounds]


def summary_of(rounds: Sequence[Round]) -> Figures:
    """The service's and the plain application's own figures, over the rounds of all peers."""
    return {"service": figures_of(rounds, SERVICE), "plain_fastapi": figures_of(rounds, PLAIN)}


def plain_rates(rounds: Sequence[Round]) -> list[float]:
    """Requests a second of the plain application in each round, with the most connections."""
    return [round(found[max(found)][PLAIN].per_second, 1) for found in rounds]


def machine_class() -> str:
    """What kind of machine it is, without its name: cores, architecture, and the widest instructions for int8."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text(errors="replace").split())
    except OSError:
        flags = set()
    best = next((f" with {name}" for flag, name in FLAGS.items() if flag in flags), "")
    return f"{machine()['cores']} cores, {platform.machine()}{best}"


def _table(figures: Figures, rate: Callable[[Figures], str]) -> Table:
    """Ratios to plain FastAPI, a line for each server; a setting without figures is left out."""
    lines = [("this service", figures["service"]), ("plain FastAPI", figures["plain_fastapi"])]
    for peer in figures["peers"].values():
        for setting, found in peer["settings"].items():
            if "connections" in found:
                lines.append((peer["title"] + (f", {setting}" if len(peer["settings"]) > 1 else ""), found))
    numbers = [str(number) for number in figures["measured"]["connections"]]
    latencies = [f"p{percent}" for percent in PERCENTS] if "1" in numbers else []
    header = [f"{number} connection{'s' * (number != '1')}" for number in numbers]
    rows = [
        [label, *(rate(found["connections"][n]) for n in numbers), *(f"{found[f'{p}_ratio']:.2f}" for p in latencies)]
        for label, found in lines
    ]
    return Table(["", *header, *(f"{name}, 1 connection" for name in latencies)], rows)


def table_of(figures: Figures) -> str:
    """The table for people."""
    table = _table(figures, lambda found: f"{found['ratio']:.2f}")
    return "\n".join(
        [
            "to plain FastAPI: requests a second by number of connections, latency",
            table.plain(),
            f"plain FastAPI itself: {_plain_rates(figures)}",
            *noise_of(figures),
            *problems_of(figures),
        ]
    )


def noise_of(figures: Figures) -> list[str]:
    """A line for each peer while whose turns other work ran on the server's core, or the plain application wavered."""
    peers = figures["peers"].values()
    wavered = [
        f"NOISY: plain FastAPI itself made {min(rates):.0f} to {max(rates):.0f} requests a second around "
        f"{peer['title']}; repeat"
        for peer in peers
        if (rates := peer["plain_fastapi_per_second"]) and max(rates) > WAVERS * min(rates)
    ]
    return wavered + [
        f"NOISY: other work took {1 - peer['core_share']:.1%} of the server's core around {peer['title']}; repeat"
        for peer in peers
        if peer["core_share"] < CORE_IS_FREE
    ]


def problems_of(figures: Figures) -> list[str]:
    """A line for each peer or setting that was not measured."""
    failed = [
        f"not measured: {peer['title']}, {setting}: {found['failed']}"
        for peer in figures["peers"].values()
        for setting, found in peer["settings"].items()
        if "failed" in found
    ]
    return [*failed, *(f"not measured: {reason}" for reason in figures["not_measured"].values())]


def report_of(figures: Figures, peers: Mapping[str, Peer], command: str, today: datetime.date) -> str:
    """The report in Markdown."""
    measured, student = figures["measured"], figures["student"]
    notes = "\n".join(f"- {line}" for line in [*noise_of(figures), *problems_of(figures)])
    header = ["", "version", "Python", "onnxruntime", "numpy", "defaults", "batching"]
    configured = Table(header, [_configuration(peers[name], found) for name, found in figures["peers"].items()])
    blocks = [
        f"Measured on {today.isoformat()} by `{command}` on {figures['machine']['class']}: student "
        f"`{student['name']}` ({student['precision']}, {student['digest']}), {student['texts']} texts in "
        f"{', '.join(student['locales'])}, {measured['rounds']} rounds of {measured['seconds']:g} s for each figure.",
        _table(figures, _with_range).markdown(),
        "Requests a second, by the number of connections, and latency, both to those of plain FastAPI; each ratio is "
        "taken within a round; shown are the median of the rounds, and in brackets the lowest and the highest. More is "
        f"better for requests, less for latency.\nPlain FastAPI itself: {_plain_rates(figures)}.",
        notes,
        configured.markdown(),
        f"The service and plain FastAPI ran with {', '.join(' '.join(item) for item in figures['versions'].items())}.",
        CAVEATS,
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"


def _with_range(found: Figures) -> str:
    low, high = min(found["ratios"]), max(found["ratios"])
    return f"{found['ratio']:.2f}" + (f" ({low:.2f} to {high:.2f})" if high > low else "")


def _plain_rates(figures: Figures) -> str:
    rates = (f"{found['per_second']:.0f}" for found in figures["plain_fastapi"]["connections"].values())
    return f"{' / '.join(rates)} requests a second"


def _configuration(peer: Peer, found: Figures) -> list[str]:
    versions = [found["versions"].get(name, "-") for name in (peer.distribution, "python", "onnxruntime", "numpy")]
    defaults, *batched = (setting.configured for setting in peer.settings.values())
    return [peer.title, *versions, f"`{defaults}`", *(batched or ["-"])]


def write_report(path: Path, report: str, marks: tuple[str, str] = (BEGIN, END)) -> None:
    """Write the report between its marks, and leave what else stands in the file; a new file holds nothing else."""
    begin, end = marks
    before, after = "", ""
    if path.exists():
        text = path.read_text(encoding="utf-8")
        if begin in text and end in text:
            before, after = text.partition(begin)[0], text.partition(end)[2].lstrip("\n")
            after = f"\n{after}" if after else ""
    path.write_text(f"{before}{begin}\n\n{report}\n{end}\n{after}", encoding="utf-8")
