"""The figures of ``python -m benchmarks.peers``: ratios within rounds, the table, and the report in Markdown.

Each ratio is taken within a round, where the measurements lie side by side, and then the median of the rounds.
"""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.floor import PLAIN, SERVICE
from benchmarks.floor_report import CORE_IS_FREE, Figures
from benchmarks.peer_servers.bench import Found, Round
from benchmarks.peer_servers.catalogue import Peer
from loadtest.load.closed_loop import Measured
from loadtest.load.machine import machine

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
FLAGS = {"avx512_vnni": "AVX512-VNNI", "avx_vnni": "AVX-VNNI", "avx512f": "AVX512", "avx2": "AVX2", "asimddp": "NEON"}
PERCENTS = (50, 99)
WIDTH = 40
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
    connections = list(rounds[0])
    figures: Figures = {
        str(number): {
            "ratio": _ratio(rounds, number, name, lambda found: found.per_second),
            "ratios": [round(_of(r, number, name, lambda f: f.per_second), 3) for r in rounds],
            "per_second": round(median(r[number][name].per_second for r in rounds), 1),
            "generator_share": round(median(r[number][name].cpu_share for r in rounds), 3),
        }
        for number in connections
    }
    return {"connections": figures} | (_latencies(rounds, name) if 1 in connections else {})


def _latencies(rounds: Sequence[Round], name: str) -> Figures:
    figures: Figures = {}
    for percent in PERCENTS:

        def at(found: Measured, percent: float = percent) -> float:
            return found.percentile(percent)

        figures[f"p{percent}_us"] = round(median(at(r[1][name]) for r in rounds) * MICRO, 1)
        figures[f"p{percent}_ratio"] = _ratio(rounds, 1, name, at)
    return figures


def _of(found: Round, connections: int, name: str, figure: Callable[[Measured], float]) -> float:
    return figure(found[connections][name]) / figure(found[connections][PLAIN])


def _ratio(rounds: Sequence[Round], connections: int, name: str, figure: Callable[[Measured], float]) -> float:
    return round(median(_of(found, connections, name, figure) for found in rounds), 3)


def machine_class() -> str:
    """What kind of machine it is, without its name: cores, architecture, and the widest instructions for int8."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text(errors="replace").split())
    except OSError:
        flags = set()
    best = next((name for flag, name in FLAGS.items() if flag in flags), "")
    return f"{machine()['cores']} cores, {platform.machine()}{f' with {best}' if best else ''}"


def rows_of(figures: Figures) -> list[tuple[str, Figures]]:
    """Label and figures of each line of the table; a setting without figures is left out."""
    rows = [("this service", figures["service"]), ("plain FastAPI", figures["plain_fastapi"])]
    for peer in figures["peers"].values():
        measured = {name: found for name, found in peer["settings"].items() if "connections" in found}
        for setting, found in measured.items():
            more = f", {setting}" if len(peer["settings"]) > 1 else ""
            rows.append((f"{peer['title']}{more}", found))
    return rows


def table_of(figures: Figures) -> str:
    """The table for people."""
    numbers = [str(number) for number in figures["measured"]["connections"]]
    latencies = [f"p{percent}" for percent in PERCENTS] if "1" in numbers else []
    head = "".join(f"{number:>9}" for number in numbers) + "".join(f"{name + ' at 1':>11}" for name in latencies)
    lines = ["to plain FastAPI: requests a second by number of connections, latency", f"{'':<{WIDTH}}{head}"]
    for label, found in rows_of(figures):
        rates = "".join(f"{found['connections'][number]['ratio']:>9.2f}" for number in numbers)
        times = "".join(f"{found[f'{name}_ratio']:>11.2f}" for name in latencies)
        lines.append(f"{label:<{WIDTH}}{rates}{times}")
    plain = figures["plain_fastapi"]
    rates = ", ".join(f"{plain['connections'][number]['per_second']:.0f}/s" for number in numbers)
    lines += [f"plain FastAPI itself: {rates}", *noise_of(figures), *problems_of(figures)]
    return "\n".join(lines)


def plain_rates(rounds: Sequence[Round]) -> list[float]:
    """Requests a second of the plain application in each round, with the most connections."""
    return [round(found[max(found)][PLAIN].per_second, 1) for found in rounds]


def noise_of(figures: Figures) -> list[str]:
    """A line for each peer while whose turns other work ran on the server's core, or the plain application wavered."""
    wavered = [
        f"NOISY: plain FastAPI itself made {min(rates):.0f} to {max(rates):.0f} requests a second around "
        f"{peer['title']}; repeat"
        for peer in figures["peers"].values()
        if (rates := peer["plain_fastapi_per_second"]) and max(rates) > WAVERS * min(rates)
    ]
    return wavered + [
        f"NOISY: other work took {1 - peer['core_share']:.1%} of the server's core around {peer['title']}; repeat"
        for peer in figures["peers"].values()
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
    measured = figures["measured"]
    numbers = [str(number) for number in measured["connections"]]
    student = figures["student"]
    lines = [
        f"Measured on {today.isoformat()} by `{command}` on {figures['machine']['class']}: student "
        f"`{student['name']}` ({student['precision']}, {student['digest']}), {student['texts']} texts in "
        f"{', '.join(student['locales'])}, {measured['rounds']} rounds of {measured['seconds']:g} s for each figure.",
        "",
        *_markdown_table(figures, numbers),
        "",
        "Requests a second, by the number of connections, and latency, both to those of plain FastAPI; each ratio is "
        "taken within a round; shown are the median of the rounds, and in brackets the lowest and the highest. More is "
        "better for requests, less for latency.",
        f"Plain FastAPI itself: {_plain_rates(figures, numbers)}.",
        "",
        *_list([*noise_of(figures), *problems_of(figures)]),
        "| | version | Python | onnxruntime | numpy | defaults | batching |",
        "|---|---|---|---|---|---|---|",
        *(_configuration_row(peers[name], found) for name, found in figures["peers"].items()),
        "",
        f"The service and plain FastAPI ran with {_versions(figures['versions'])}.",
        "",
        CAVEATS,
    ]
    return "\n".join(lines) + "\n"


def _markdown_table(figures: Figures, numbers: Sequence[str]) -> list[str]:
    latencies = [f"p{percent}" for percent in PERCENTS] if "1" in numbers else []
    head = [f"{number} connection{'s' * (number != '1')}" for number in numbers]
    head += [f"{name}, 1 connection" for name in latencies]
    lines = [f"| | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for label, found in rows_of(figures):
        cells = [_with_range(found["connections"][number]) for number in numbers]
        cells += [f"{found[f'{name}_ratio']:.2f}" for name in latencies]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


def _with_range(found: Figures) -> str:
    low, high = min(found["ratios"]), max(found["ratios"])
    return f"{found['ratio']:.2f}" + (f" ({low:.2f} to {high:.2f})" if high > low else "")


def _plain_rates(figures: Figures, numbers: Sequence[str]) -> str:
    plain = figures["plain_fastapi"]
    rates = [f"{plain['connections'][number]['per_second']:.0f}" for number in numbers]
    return f"{' / '.join(rates)} requests a second"


def _configuration_row(peer: Peer, found: Figures) -> str:
    versions = found["versions"]
    cells = [versions.get(name, "-") for name in (peer.distribution, "python", "onnxruntime", "numpy")]
    configured = list(peer.configured.values())
    cells += [f"`{configured[0]}`", configured[1] if len(configured) > 1 else "-"]
    return f"| {peer.title} | {' | '.join(cells)} |"


def _versions(versions: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def _list(lines: Sequence[str]) -> list[str]:
    return [*(f"- {line}" for line in lines), ""] if lines else []


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


def summary_of(rounds: Sequence[Round]) -> Figures:
    """The service's and the plain application's own figures, over the rounds of all peers."""
    return {"service": figures_of(rounds, SERVICE), "plain_fastapi": figures_of(rounds, PLAIN)}
