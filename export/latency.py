"""What this machine makes of a graph: its latency, whether a fused kernel pays, and whether int8 sums saturate."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from export.graph import SESSION
from service.student.manifest import SessionOptions
from service.student.predictor import Predictor
from service.student.tokenization import Encoded

log = logging.getLogger(__name__)

LENGTHS = (8, 16, 32)
FUSED = SessionOptions(intra_op_num_threads=1, disabled_optimizers=())
CLEAR_WIN = 1.05  # by how much the fused kernel must be faster at every length: less may be chance

OpenGraph = Callable[[Path, SessionOptions], Predictor]
Times = dict[str, dict[str, float]]  # median microseconds by name and number of pieces


def turns(runs: Mapping[str, Callable[[Encoded], Any]], vocabulary: int, rounds: int = 40, calls: int = 20) -> Times:
    """Median microseconds of each of `runs` for sentences of 8, 16 and 32 pieces, out of the first `vocabulary`.

    They take turns, so that a machine that slows down slows them all.
    """
    rng = np.random.default_rng(0)
    medians: Times = {name: {} for name in runs}
    for length in LENGTHS:
        encoded = Encoded(rng.integers(min(4, vocabulary - 1), vocabulary, size=length).tolist(), [], [], False, 0)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                began = time.perf_counter()
                for _ in range(calls):
                    run(encoded)
                times[name].append((time.perf_counter() - began) / calls * 1e6)
        for name, found in times.items():
            medians[name][str(length)] = round(float(np.median(found)), 1)
    return medians


def latencies(predictors: Mapping[str, Predictor], rounds: int = 40) -> Times:
    """`turns` of the graphs alone, without tokenizer and decoding."""
    vocabulary = min(predictor.encoder.tokenizer.get_vocab_size() for predictor in predictors.values())
    return turns({name: predictor.logits for name, predictor in predictors.items()}, vocabulary, rounds)


def measure_latency(predictors: Mapping[str, Predictor]) -> dict[str, Any]:
    """What the manifest says of latency, by precision, and what fp32 takes in multiples of int8."""
    times: dict[str, Any] = dict(latencies(predictors))
    if len(times) == 2:
        times["fp32_over_int8"] = {n: round(times["fp32"][n] / times["int8"][n], 2) for n in times["int8"]}
    return {"unit": "median microseconds of one session run, by pieces", **times}


def fastest_session(graph: Path, open_graph: OpenGraph) -> tuple[SessionOptions, dict[str, float]]:
    """How to open a graph: with skip connection and layer norm apart, unless their fused kernel is clearly faster here.

    Returns:
        The options, and what the fused kernel takes in multiples of the two apart, by pieces.
    """
    times = latencies({"apart": open_graph(graph, SESSION), "fused": open_graph(graph, FUSED)}, rounds=15)
    ratios = {pieces: round(times["fused"][pieces] / apart, 3) for pieces, apart in times["apart"].items()}
    chosen = FUSED if all(ratio * CLEAR_WIN < 1 for ratio in ratios.values()) else SESSION
    found = ", ".join(f"{pieces} pieces x {ratio:.2f}" for pieces, ratio in ratios.items())
    log.info("skip + layer norm %s; fused / apart: %s", "fused" if chosen is FUSED else "apart", found)
    return chosen, ratios


@cache
def saturates() -> bool:
    """Whether this machine's int8 kernel loses what exceeds 16 bits in the sum of two products.

    AVX2 and AVX-512 without VNNI do: one instruction (VPMADDUBSW) multiplies unsigned activations by signed weights and
    adds neighbours in 16 bits, where ``255 * 127 + 255 * 127`` is 32767.
    """
    rows, depth, columns = 4, 64, 32  # as many as a kernel takes at a time, so that no other one is used for the rest
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["activations", "weights"], ["sums"])],
        "saturation",
        [helper.make_tensor_value_info("activations", TensorProto.UINT8, [rows, depth])],
        [helper.make_tensor_value_info("sums", TensorProto.INT32, [rows, columns])],
        [helper.make_tensor("weights", TensorProto.INT8, [depth, columns], [127] * (depth * columns))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session: Any = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    [sums] = session.run(["sums"], {"activations": np.full((rows, depth), 255, np.uint8)})
    return bool((sums != 255 * 127 * depth).any())
