"""Measure the choices behind the export recipe side by side, on this machine.

    python -m export.recipes --ckpt CKPT

Variants take turns in one run; the table shows the median time of a variant and its ratio to the recipe's. The last
line of standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.graph import SESSION, export_fp32, quantise_int8
from service.decoding import best, softmax
from service.manifest import SessionOptions
from service.student import open_session
from training.checkpoint import CheckpointError, load_checkpoint

Variant = Callable[[NDArray[np.int64]], None]

RECIPE = "recipe"
LENGTHS = (8, 16, 32)
ROUNDS, CALLS = 60, 20


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m export.recipes", description="Measure the export recipe's choices."
    )
    parser.add_argument("--ckpt", type=Path, required=True, help="checkpoint folder of training.finetune")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    try:
        checkpoint = load_checkpoint(args.ckpt)
    except CheckpointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        fp32, int8 = Path(scratch, "fp32.onnx"), Path(scratch, "int8.onnx")
        export_fp32(checkpoint.model, fp32)
        quantise_int8(fp32, int8)
        variants = build_variants(fp32, int8, Path(scratch))
        medians = measure(variants, checkpoint.encoder.tokenizer.get_vocab_size())
    print(f"{'':34}" + "".join(f"{f'{length} pieces':>18}" for length in LENGTHS))
    for name, times in medians.items():
        cells = (f"{t:6.0f} µs  x {t / medians[RECIPE][length]:.2f}" for length, t in times.items())
        print(f"{name:34}" + "".join(f"{cell:>18}" for cell in cells))
    print(json.dumps({"unit": "median microseconds of inference and decoding, by pieces", **medians}))
    return 0


def build_variants(fp32: Path, int8: Path, scratch: Path) -> dict[str, Variant]:
    """Each variant as a function from the piece ids of a sentence to its labels and confidences."""
    attention = scratch / "attention.onnx"
    quantise_int8(fp32, attention, attention=True)
    labels = with_labels_in_graph(int8, scratch / "labels.onnx")
    fused = SessionOptions(disabled_optimizers=())
    return {
        RECIPE: _decoding_outside(int8, SESSION),
        "fp32": _decoding_outside(fp32, SESSION),
        "attention quantised too": _decoding_outside(attention, SESSION),
        "skip + layer norm fused": _decoding_outside(int8, fused),
        "softmax and argmax in the graph": _decoding_inside(labels),
    }


def with_labels_in_graph(source: Path, path: Path) -> Path:
    """A copy of a graph that ends in probabilities and, for slots, in each piece's best tag and its probability."""
    model = onnx.load(str(source))
    graph = model.graph
    outputs = [output.name for output in graph.output]
    del graph.output[:]
    for name in outputs:
        graph.node.append(helper.make_node("Softmax", [name], [f"{name}_probabilities"], axis=-1))
        if name == "slot_logits":
            graph.node.append(helper.make_node("ArgMax", [name], ["slot_tags"], axis=-1, keepdims=0))
            graph.node.append(
                helper.make_node("ReduceMax", [f"{name}_probabilities", "last"], ["slot_confidence"], keepdims=0)
            )
            graph.initializer.append(helper.make_tensor("last", TensorProto.INT64, [1], [-1]))
            graph.output.append(helper.make_tensor_value_info("slot_tags", TensorProto.INT64, None))
            graph.output.append(helper.make_tensor_value_info("slot_confidence", TensorProto.FLOAT, None))
        else:
            graph.output.append(helper.make_tensor_value_info(f"{name}_probabilities", TensorProto.FLOAT, None))
    onnx.save(model, str(path))
    return path


def measure(variants: dict[str, Variant], vocabulary: int) -> dict[str, dict[int, float]]:
    """Median microseconds by variant and length; the variants take turns."""
    rng = np.random.default_rng(0)
    medians: dict[str, dict[int, float]] = {name: {} for name in variants}
    for length in LENGTHS:
        ids = rng.integers(4, vocabulary, size=(1, length))
        times: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(ROUNDS):
            for name, run in variants.items():
                began = time.perf_counter()
                for _ in range(CALLS):
                    run(ids)
                times[name].append((time.perf_counter() - began) / CALLS * 1e6)
        for name, values in times.items():
            medians[name][length] = round(float(np.median(values)), 1)
    return medians


def _decoding_outside(path: Path, options: SessionOptions) -> Variant:
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

    return run


def _decoding_inside(path: Path) -> Variant:
    session = open_session(path, SESSION)
    names = [output.name for output in session.get_outputs()]

    def run(ids: NDArray[np.int64]) -> None:
        results = dict(zip(names, session.run(names, {"input_ids": ids}), strict=True))
        for name, values in results.items():
            if name.endswith("_probabilities"):
                values[0].max(), values[0].argmax()

    return run


if __name__ == "__main__":
    sys.exit(main())
