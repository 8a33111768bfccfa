"""The figures of ``python -m benchmarks.peers``: ratios within rounds, the table, and the report in Markdown.

Each ratio is taken within a round, and the median of the rounds is reported.
"""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

from benchmarks.floor import PLAIN
from benchmarks.floor_report import MIN_CORE_SHARE, Figures
from benchmarks.peer_servers.bench import PeerMeasurements, PeerRound
from benchmarks.peer_servers.catalogue import Peer
from loadtest.load.benchmark import SERVICE
from loadtest.load.closed_loop import Measured
from loadtest.load.machine import machine
from loadtest.load.tables import Table

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
FLAGS = {"avx512_vnni": "AVX512-VNNI", "avx_vnni": "AVX-VNNI", "avx512f": "AVX512", "avx2": "AVX2", "asimddp": "NEON"}
PERCENTS = (50, 99)
MAX_PLAIN_VARIATION = 1.15  # highest over lowest rate of the plain application; above it ratios vary between rounds
MICRO = 1e6
CAVEATS = """\
- One machine, one core for the servers, one for the load generator. All processes of a framework share the server's
  core, also of frameworks that are made for many cores (BentoML, Ray Serve, TorchServe, Triton): the figures show the
  cost of a request, not how the frameworks scale.
- One small student with an inference time below a millisecond, so the overhead of the framework dominates. With a large
  model all ratios would be near 1.
- Batching does not speed up the model: a dynamically quantised graph uses one activation scale for a whole batch, so
  that answers would depend on the other texts. In a framework's batch the texts still run one by one.
- MLServer and Triton use their V2 protocol, where the answer is a string in a tensor; BentoML with batching takes a
  list of one text. All other requests are the same JSON, and the answers contain the same domain, intent and slots.
  Plain FastAPI and the service also report identity and times in each answer, which the others omit.
- No framework is tuned: documented defaults, and its own batching with the settings in the table.
- Ray Serve gives its workers a low priority by default, so other work on the core slows it down more.
- The control is the plain application, started and measured like a peer: its deviation from 1 is measurement error."""


def figures_of_rounds(peer: PeerMeasurements, settings: Iterable[str]) -> Figures:
    """The figures of a peer: for each setting its ratios to the plain application, or why it failed."""
    return {
        setting: {"failed": peer.failures[setting]} if setting in peer.failures else figures_of(peer.rounds, setting)
        for setting in settings
    }


def figures_of(rounds: Sequence[PeerRound], name: str) -> Figures:
    """The figures of one server: rates and latencies, and their ratios to the plain application."""
    figures: Figures = {"connections": {}}
    for number in rounds[0]:
        rates = _ratios(rounds, number, name, lambda measured: measured.per_second)
        figures["connections"][str(number)] = {
            "ratio": round(median(rates), 3),
            "ratios": [round(rate, 3) for rate in rates],
            "per_second": round(median(r[number][name].per_second for r in rounds), 1),
            "generator_share": round(median(r[number][name].cpu_share for r in rounds), 3),
        }
    for percent in PERCENTS if 1 in rounds[0] else ():

        def at(measured: Measured, percent: float = percent) -> float:
            return measured.percentile(percent)

        figures[f"p{percent}_us"] = round(median(at(r[1][name]) for r in rounds) * MICRO, 1)
        figures[f"p{percent}_ratio"] = round(median(_ratios(rounds, 1, name, at)), 3)
    return figures


def _ratios(
    rounds: Sequence[PeerRound], connections: int, name: str, figure: Callable[[Measured], float]
) -> list[float]:
    """A server's figure to that of the plain application, in each round."""
    return [figure(one[connections][name]) / figure(one[connections][PLAIN]) for one in rounds]


def summary_of(rounds: Sequence[PeerRound]) -> Figures:
    """The service's and the plain application's own figures, over the rounds of all peers."""
    return {"service": figures_of(rounds, SERVICE), "plain_fastapi": figures_of(rounds, PLAIN)}


def plain_rates(rounds: Sequence[PeerRound]) -> list[float]:
    """Requests per second of the plain application in each round, at the highest number of connections."""
    return [round(one[max(one)][PLAIN].per_second, 1) for one in rounds]


def machine_class() -> str:
    """The kind of machine, without its name: cores, architecture, and the widest int8 instructions."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text(errors="replace").split())
    except OSError:
        flags = set()
    best = next((f" with {name}" for flag, name in FLAGS.items() if flag in flags), "")
    return f"{machine()['cores']} cores, {platform.machine()}{best}"


def _table(figures: Figures, rate: Callable[[Figures], str]) -> Table:
    """Ratios to plain FastAPI, one row per server; settings without figures are omitted."""
    lines = [("this service", figures["service"]), ("plain FastAPI", figures["plain_fastapi"])]
    for peer in figures["peers"].values():
        for setting, ratios in peer["settings"].items():
            if "connections" in ratios:
                lines.append((peer["title"] + (f", {setting}" if len(peer["settings"]) > 1 else ""), ratios))
    numbers = [str(number) for number in figures["measured"]["connections"]]
    latencies = [f"p{percent}" for percent in PERCENTS] if "1" in numbers else []
    header = [f"{number} connection{'s' * (number != '1')}" for number in numbers]
    rows = [
        [label, *(rate(ratios["connections"][n]) for n in numbers), *(f"{ratios[f'{p}_ratio']:.2f}" for p in latencies)]
        for label, ratios in lines
    ]
    return Table(["", *header, *(f"{name}, 1 connection" for name in latencies)], rows)


def table_of(figures: Figures) -> str:
    """The figures as a table."""
    table = _table(figures, lambda ratios: f"{ratios['ratio']:.2f}")
    return "\n".join(
        [
            "relative to plain FastAPI: requests per second by number of connections, latency",
            table.plain(),
            f"plain FastAPI itself: {_plain_rates(figures)}",
            *noise_of(figures),
            *problems_of(figures),
        ]
    )


def noise_of(figures: Figures) -> list[str]:
    """A line for each peer whose measurement was disturbed: the plain application varied, or other work ran."""
    peers = figures["peers"].values()
    varied = [
        f"NOISY: plain FastAPI itself varied from {min(rates):.0f} to {max(rates):.0f} requests per second around "
        f"{peer['title']}; repeat"
        for peer in peers
        if (rates := peer["plain_fastapi_per_second"]) and max(rates) > MAX_PLAIN_VARIATION * min(rates)
    ]
    return varied + [
        f"NOISY: other work took {1 - peer['core_share']:.1%} of the server's core around {peer['title']}; repeat"
        for peer in peers
        if peer["core_share"] < MIN_CORE_SHARE
    ]


def problems_of(figures: Figures) -> list[str]:
    """A line for each peer or setting that was not measured."""
    failed = [
        f"not measured: {peer['title']}, {setting}: {result['failed']}"
        for peer in figures["peers"].values()
        for setting, result in peer["settings"].items()
        if "failed" in result
    ]
    return [*failed, *(f"not measured: {reason}" for reason in figures["not_measured"].values())]


def report_of(figures: Figures, peers: Mapping[str, Peer], command: str, today: datetime.date) -> str:
    """The report in Markdown."""
    measured, student = figures["measured"], figures["student"]
    notes = "\n".join(f"- {line}" for line in [*noise_of(figures), *problems_of(figures)])
    header = ["", "version", "Python", "onnxruntime", "numpy", "defaults", "batching"]
    configured = Table(header, [_configuration(peers[name], one) for name, one in figures["peers"].items()])
    blocks = [
        f"Measured on {today.isoformat()} by `{command}` on {figures['machine']['class']}: student "
        f"`{student['name']}` ({student['precision']}, {student['digest']}), {student['texts']} texts in "
        f"{', '.join(student['locales'])}, {measured['rounds']} rounds of {measured['seconds']:g} s for each figure.",
        _table(figures, _with_range).markdown(),
        "Requests per second, by the number of connections, and latency, both relative to plain FastAPI. Each ratio is "
        "taken within a round; the table shows the median of the rounds, and in brackets the lowest and the highest. "
        "Higher is better for requests, lower for latency.\n"
        f"Plain FastAPI itself: {_plain_rates(figures)}.",
        notes,
        configured.markdown(),
        f"The service and plain FastAPI ran with {', '.join(' '.join(item) for item in figures['versions'].items())}.",
        CAVEATS,
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"


def _with_range(figures: Figures) -> str:
    low, high = min(figures["ratios"]), max(figures["ratios"])
    return f"{figures['ratio']:.2f}" + (f" ({low:.2f} to {high:.2f})" if high > low else "")


def _plain_rates(figures: Figures) -> str:
    rates = (f"{one['per_second']:.0f}" for one in figures["plain_fastapi"]["connections"].values())
    return f"{' / '.join(rates)} requests per second"


def _configuration(peer: Peer, figures: Figures) -> list[str]:
    versions = [figures["versions"].get(name, "-") for name in (peer.distribution, "python", "onnxruntime", "numpy")]
    defaults, *batched = (setting.configured for setting in peer.settings.values())
    return [peer.title, *versions, f"`{defaults}`", *(batched or ["-"])]


def write_report(path: Path, report: str, marks: tuple[str, str] = (BEGIN, END)) -> None:
    """Write the report between its marks, and keep the rest of the file; a new file contains only the report."""
    begin, end = marks
    before, after = "", ""
    if path.exists():
        text = path.read_text(encoding="utf-8")
        if begin in text and end in text:
            before, after = text.partition(begin)[0], text.partition(end)[2].lstrip("\n")
            after = f"\n{after}" if after else ""
    path.write_text(f"{before}{begin}\n\n{report}\n{end}\n{after}", encoding="utf-8")
