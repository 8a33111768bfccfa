"""Measure the choices behind the export recipe side by side, on this machine.

    python -m benchmarks.export_recipes --ckpt CKPT --data DATA

Variants take turns in one run; the table shows the median time of a variant and its ratio to the recipe's, the size of
its graph, and its exact match on some of `--data`, with the share of its answers that are those of fp32. The last line
of standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.export_variants import quantise_static, with_labels_in_graph
from export.comparison import LENGTHS, sample_of_each_locale
from export.conversion import draft_manifest, require_student
from export.folder import ExportError
from export.graph import SESSION, export_fp32, quantise_int8
from export.kernels import FUSED, saturates
from export.trimming import trim
from service.student.decoding import best, softmax
from service.student.manifest import MODEL_FILE, TOKENIZER_FILE, SessionOptions
from service.student.student import Student, open_session
from service.student.tokenization import TextEncoder
from training.data import datasets
from training.data.utterances import Utterance
from training.evaluation.scoring import Answer, score_by_locale
from training.models.checkpoint import Checkpoint, load_checkpoint, with_heads
from training.models.errors import CheckpointError
from training.models.prediction import answers_of_student
from training.text.tokenizer import with_variants

RECIPE, FP32 = "recipe: int8, 7-bit weights", "fp32"
ROUNDS, CALLS = 60, 20
SCORED = 500  # utterances of each locale
CALIBRATED = 100  # texts of each locale that static ranges are found on

Run = Callable[[NDArray[np.int64]], None]


@dataclass(frozen=True)
class Variant:
    """A way to export: its graph, what answers a sentence of piece ids, and the session to score (None: time alone)."""

    graph: Path
    run: Run
    scored: SessionOptions | None


@dataclass(frozen=True)
class Row:
    """Median microseconds by pieces, megabytes, and in percent exact match and answers that are those of fp32."""

    times: dict[int, float]
    megabytes: float
    exact_match: float | None
    as_fp32: float | None


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.export_recipes", description="Measure the export recipe's choices."
    )
    parser.add_argument("--ckpt", type=Path, required=True, help="checkpoint folder of training.finetune")
    parser.add_argument("--data", default=str(datasets.SAMPLE), help="labelled data to score on (the sample set)")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    try:
        checkpoint = with_heads(load_checkpoint(args.ckpt), args.ckpt)
        require_student(checkpoint)
        data = datasets.load(args.data, checkpoint.training["locales"])
        dev = sample_of_each_locale(data.part("dev"), SCORED)
        with tempfile.TemporaryDirectory() as scratch:
            rows = compare(checkpoint, data, dev, Path(scratch))
    except (CheckpointError, datasets.DatasetError, ExportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    lengths = length_of(checkpoint.encoder, dev)
    print(render(rows, lengths, len(dev)))
    unit = "median microseconds of inference and decoding, by pieces"
    found = {"unit": unit, "scored": len(dev), "sums_cut_off": saturates(), **lengths}
    print(json.dumps({**found, **{name: asdict(row) for name, row in rows.items()}}))
    return 0


def compare(checkpoint: Checkpoint, data: datasets.Dataset, dev: Sequence[Utterance], folder: Path) -> dict[str, Row]:
    """Measure all variants, whose graphs are made in `folder`."""
    variants = build_variants(checkpoint, data, folder)
    times = measure({name: variant.run for name, variant in variants.items()}, smallest_table(checkpoint))
    shutil.copyfile(variants[FP32].graph, folder / MODEL_FILE)
    checkpoint.encoder.tokenizer.save(str(folder / TOKENIZER_FILE))
    draft = draft_manifest(checkpoint, folder, "recipe")
    answers: dict[str, list[Answer]] = {
        name: answers_of_student(Student(draft, checkpoint.encoder, open_session(variant.graph, variant.scored)), dev)
        for name, variant in variants.items()
        if variant.scored is not None
    }
    rows = {}
    for name, variant in variants.items():
        match = same = None
        if name in answers:
            match = score_by_locale(dev, answers[name])["mean"].get("exact_match")
            same = 100 * float(np.mean([a == b for a, b in zip(answers[name], answers[FP32], strict=True)]))
        rows[name] = Row(times[name], round(variant.graph.stat().st_size / 1e6, 2), *map(_rounded, (match, same)))
    return rows


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def build_variants(checkpoint: Checkpoint, data: datasets.Dataset, folder: Path) -> dict[str, Variant]:
    """Each variant by name. ReLU keeps the weights that were trained with GELU, so only its time means something."""
    locales = checkpoint.training["locales"]
    graphs = {name: folder / f"{number}.onnx" for number, name in enumerate(("fp32", "int8", "vnni", "attention"))}
    fp32, int8 = graphs["fp32"], graphs["int8"]
    export_fp32(checkpoint.model, fp32)
    quantise_int8(fp32, int8)
    quantise_int8(fp32, graphs["vnni"], any_cpu=False)
    quantise_int8(fp32, graphs["attention"], attention=True)
    calibrating = sample_of_each_locale(data.part("train"), CALIBRATED)
    ids = [checkpoint.encoder.encode(u.text).ids for u in calibrating]
    variants = {
        RECIPE: _outside(int8),
        FP32: _outside(fp32),
        "8-bit weights (VNNI)": _outside(graphs["vnni"]),
        "attention quantised too": _outside(graphs["attention"]),
        "skip + layer norm fused": _outside(int8, FUSED),
        "static, QDQ": _outside(quantise_static(fp32, folder / "qdq.onnx", ids, operators=False)),
        "static, QOperator": _outside(quantise_static(fp32, folder / "qop.onnx", ids, operators=True)),
        "softmax and argmax in the graph": _inside(with_labels_in_graph(int8, folder / "labels.onnx")),
    }
    other = "relu" if checkpoint.model.config.activation == "gelu" else "gelu"
    variants[f"{other} (time alone)"] = _of_model(with_activation(checkpoint, other), folder / "activation.onnx")
    own = with_variants([u for u in data.part("train") if u.locale == locales[0]])
    smaller = trim(checkpoint, own, locales[:1]).checkpoint
    variants[f"trimmed to {locales[0]} (time, size)"] = _of_model(smaller, folder / "trimmed.onnx")
    return variants


def with_activation(checkpoint: Checkpoint, activation: str) -> Checkpoint:
    """The checkpoint's shape and weights with another activation."""
    config = copy.deepcopy(checkpoint.model.config)
    config.activation = activation
    model = type(checkpoint.model)(config)
    model.load_state_dict(checkpoint.model.state_dict())
    return Checkpoint(model.eval(), checkpoint.encoder, checkpoint.labels, checkpoint.training)


def smallest_table(checkpoint: Checkpoint) -> int:
    """How many pieces every variant has, special pieces and single characters among them."""
    content = json.loads(checkpoint.encoder.tokenizer.to_str())
    return sum(len(piece) == 1 for piece, _ in content["model"]["vocab"])


def measure(runs: dict[str, Run], pieces: int) -> dict[str, dict[int, float]]:
    """Median microseconds by variant and length, of sentences of the first so many pieces; the variants take turns."""
    rng = np.random.default_rng(0)
    medians: dict[str, dict[int, float]] = {name: {} for name in runs}
    for length in LENGTHS:
        ids = rng.integers(min(4, pieces - 1), pieces, size=(1, length))
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(ROUNDS):
            for name, run in runs.items():
                began = time.perf_counter()
                for _ in range(CALLS):
                    run(ids)
                times[name].append((time.perf_counter() - began) / CALLS * 1e6)
        for name, values in times.items():
            medians[name][length] = round(float(np.median(values)), 1)
    return medians


def length_of(encoder: TextEncoder, utterances: Sequence[Utterance]) -> dict[str, float]:
    """Mean pieces, the first one included, and mean words of a text."""
    encoded = [encoder.encode(u.text) for u in utterances]
    return {
        "pieces": round(float(np.mean([len(e.ids) for e in encoded])), 2),
        "words": round(float(np.mean([len(e.words) for e in encoded])), 2),
    }


def render(rows: dict[str, Row], lengths: dict[str, float], scored: int) -> str:
    """The table, and what fewer pieces a word could save at most."""
    lines = [
        f"{'':34}" + "".join(f"{f'{length} pieces':>18}" for length in LENGTHS) + f"{'MB':>7}{'exact':>7}{'as fp32':>9}"
    ]
    recipe = rows[RECIPE].times
    for name, row in rows.items():
        cells = (f"{t:6.0f} µs  x {t / recipe[length]:.2f}" for length, t in row.times.items())
        quality = (f"{'-' if value is None else f'{value:.1f}'}" for value in (row.exact_match, row.as_fp32))
        exact, same = quality
        lines.append(f"{name:34}" + "".join(f"{c:>18}" for c in cells) + f"{row.megabytes:7.2f}{exact:>7}{same:>9}")
    slope, start = np.polyfit(list(recipe), list(recipe.values()), 1)
    now, least = (start + slope * count for count in (lengths["pieces"], lengths["words"] + 1))
    lines.append(
        f"{scored} texts scored, of {lengths['pieces']:.1f} pieces and {lengths['words']:.1f} words on average. "
        f"The recipe takes {start:.0f} + {slope:.1f} x pieces µs: with one piece a word x {least / now:.2f}"
    )
    lines.append(f"This CPU {'cuts off' if saturates() else 'computes'} the int8 sums of 8-bit weights.")
    return "\n".join(lines)


def _of_model(checkpoint: Checkpoint, path: Path) -> Variant:
    """The recipe of another model than the rows are scored with."""
    fp32 = path.with_name(f"fp32-{path.name}")
    export_fp32(checkpoint.model, fp32)
    quantise_int8(fp32, path)
    return Variant(path, _outside(path).run, None)


def _outside(path: Path, options: SessionOptions = SESSION) -> Variant:
    """A graph that ends in logits, which are decoded as the service does."""
    session = open_session(path, options)
    names = [output.name for output in session.get_outputs()]

    def run(ids: NDArray[np.int64]) -> None:
        logits = dict(zip(names, session.run(names, {"input_ids": ids}), strict=True))
        for name, values in logits.items():
            if name == "slot_logits":
                tags = values[0].argmax(axis=-1)
                if tags.any():  # as `decode_slots`: confidences only of words in slots
                    softmax(values[0][tags > 0]).max(axis=-1)
            else:
                best(values[0], range(values.shape[-1]))  # type: ignore[arg-type]

    return Variant(path, run, options)


def _inside(path: Path) -> Variant:
    """A graph that ends in probabilities and labels."""
    session = open_session(path, SESSION)
    names = [output.name for output in session.get_outputs()]

    def run(ids: NDArray[np.int64]) -> None:
        results = dict(zip(names, session.run(names, {"input_ids": ids}), strict=True))
        for name, values in results.items():
            if name.endswith("_probabilities"):
                values[0].max(), values[0].argmax()

    return Variant(path, run, None)


if __name__ == "__main__":
    sys.exit(main())
