"""Latency and size of students of each size beside encoders of published shape, all as this project serves them.

    python -m benchmarks.sizes [--sizes xs,s,m,l,distilbert,xlm-roberta-base]

Weights are random: shape, vocabulary and heads decide latency and size. Each shape gets MASSIVE's number of labels,
becomes the int8 graph of an export, and is timed in turns with the others on one thread. The last line of standard
output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from service.extras import require
from service.student.tokenization import Encoded
from training.models.sizes import SIZES, Size

if TYPE_CHECKING:
    from training.models.student import StudentConfig

PUBLISHED = {"distilbert": Size(6, 768), "xlm-roberta-base": Size(12, 768)}  # DistilBERT's shape; that of BERT Base too
SHAPES = {**{name: SIZES[name] for name in ("xs", "s", "m", "l")}, **PUBLISHED}
ALLOWED = {**SIZES, **PUBLISHED}
LABELS = {"domain": 18, "intent": 60, "slots": 111}  # MASSIVE: 55 slots, B and I of each, and O
MAX_LENGTH = 64  # tokens
ROUNDS, CALLS = 20, 10


@dataclass(frozen=True)
class Row:
    """Layers, width, parameters in the layers, bytes of the int8 graph, and median microseconds by number of tokens."""

    layers: int
    hidden: int
    body: int
    bytes: int
    times: dict[str, float]


def parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = argparse.ArgumentParser(
        prog="python -m benchmarks.sizes",
        description="Measure latency and size of encoder shapes.",
        allow_abbrev=False,
    )
    flags.add_argument(
        "--sizes", default=",".join(SHAPES), help=f"comma-separated: {', '.join(ALLOWED)} (default: {','.join(SHAPES)})"
    )
    flags.add_argument(
        "--vocabulary", type=int, default=16_000, metavar="TOKENS", help="tokens of each vocabulary (default: 16000)"
    )
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    args = parser().parse_args(argv)
    require("export")
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    names = [name.strip() for name in args.sizes.split(",") if name.strip()]
    if unknown := [name for name in names if name not in ALLOWED]:
        print(f"error: --sizes: {', '.join(unknown)}; allowed: {', '.join(ALLOWED)}", file=sys.stderr)
        return 2
    if not names or args.vocabulary < 100:
        print("error: --sizes names at least one shape, --vocabulary at least 100 tokens", file=sys.stderr)
        return 2
    rows = measure(names, args.vocabulary)
    print(render(rows))
    print(json.dumps({"vocabulary": args.vocabulary, **{name: asdict(row) for name, row in rows.items()}}))
    return 0


def measure(names: Sequence[str], vocabulary: int) -> dict[str, Row]:
    """Export and time the named shapes."""
    import torch  # here, so that --help does not need it

    from export.graph import SESSION, export_fp32
    from export.latency import turns
    from export.quantization import quantise_int8
    from service.student.predictor import open_session
    from training.models.student import StudentModel

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        graphs, bodies, runs = {}, {}, {}
        for name in names:
            model = StudentModel(_config(ALLOWED[name], vocabulary))
            bodies[name] = sum(p.numel() for p in model.blocks.parameters())
            fp32, graphs[name] = Path(scratch, f"{name}-fp32.onnx"), Path(scratch, f"{name}.onnx")
            export_fp32(model, fp32)
            quantise_int8(fp32, graphs[name])
            fp32.unlink()
            runs[name] = partial(_run, open_session(graphs[name], SESSION))
        times = turns(runs, vocabulary, MAX_LENGTH, ROUNDS, CALLS)
        return {name: Row(*ALLOWED[name], bodies[name], graphs[name].stat().st_size, times[name]) for name in names}


def _config(size: Size, vocabulary: int) -> StudentConfig:
    from training.models.student import StudentConfig

    return StudentConfig(
        vocabulary,
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.hidden // 64,
        intermediate_size=4 * size.hidden,
        max_position_embeddings=MAX_LENGTH,
        labels={head: [str(i) for i in range(count)] for head, count in LABELS.items()},
    )


def _run(session: Any, encoded: Encoded) -> None:
    session.run(None, {"input_ids": np.array(encoded.ids, dtype=np.int64)})


def render(rows: dict[str, Row]) -> str:
    """A Markdown table; latency also as a multiple of the first row's, at the same number of tokens."""
    lengths, [first, *_] = list(next(iter(rows.values())).times), rows.values()
    lines = [
        "| size | layers x hidden | parameters in the layers | int8 graph | "
        + " | ".join(f"{length} tokens" for length in lengths)
        + " |",
        "|---|---|---|---|" + "---|" * len(lengths),
    ]
    for name, row in rows.items():
        times = [f"{row.times[n] / 1000:.2f} ms (x {row.times[n] / first.times[n]:.1f})" for n in lengths]
        shape = f"{row.layers} x {row.hidden} | {row.body / 1e6:.1f} M | {row.bytes / 1e6:.1f} MB"
        lines.append(f"| {name} | {shape} | {' | '.join(times)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
