"""Measurements on this machine: latency of graphs, speed of a fused kernel, and saturation of int8 sums."""

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
CLEAR_WIN = 1.05  # minimum speed-up of the fused kernel at every length; less is within noise

OpenGraph = Callable[[Path, SessionOptions], Predictor]
Times = dict[str, dict[str, float]]  # median microseconds by name and number of tokens


def turns(
    runs: Mapping[str, Callable[[Encoded], Any]], vocabulary: int, max_length: int, rounds: int = 40, calls: int = 20
) -> Times:
    """Median microseconds of each of `runs` for sentences of 8, 16 and 32 random tokens of the first `vocabulary`.

    Sentences have at most `max_length` tokens, the most that the student reads. The runs alternate, so that a change in
    the machine's speed affects all of them.
    """
    rng = np.random.default_rng(0)
    medians: Times = {name: {} for name in runs}
    for length in sorted({min(length, max_length) for length in LENGTHS}):
        encoded = Encoded(rng.integers(min(4, vocabulary - 1), vocabulary, size=length).tolist(), [], [], False, 0)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                began = time.perf_counter()
                for _ in range(calls):
                    run(encoded)
                times[name].append((time.perf_counter() - began) / calls * 1e6)
        for name, measured in times.items():
            medians[name][str(length)] = round(float(np.median(measured)), 1)
    return medians


def latencies(predictors: Mapping[str, Predictor], rounds: int = 40) -> Times:
    """`turns` of the graphs alone, without tokenisation and decoding."""
    vocabulary = min(predictor.encoder.tokenizer.get_vocab_size() for predictor in predictors.values())
    max_length = min(predictor.encoder.max_length for predictor in predictors.values())
    return turns({name: predictor.logits for name, predictor in predictors.items()}, vocabulary, max_length, rounds)


def measure_latency(predictors: Mapping[str, Predictor]) -> dict[str, Any]:
    """Latency by precision and the ratio of fp32 to int8, for the manifest."""
    times: dict[str, Any] = dict(latencies(predictors))
    if len(times) == 2:
        times["fp32_over_int8"] = {n: round(times["fp32"][n] / times["int8"][n], 2) for n in times["int8"]}
    return {"unit": "median microseconds of one session run, by tokens", **times}


def fastest_session(graph: Path, open_graph: OpenGraph) -> tuple[SessionOptions, dict[str, float]]:
    """Choose the session options: skip connection and layer norm are fused if that is clearly faster here.

    Returns:
        The options, and the ratio of fused to separate latency by number of tokens.
    """
    times = latencies({"apart": open_graph(graph, SESSION), "fused": open_graph(graph, FUSED)}, rounds=15)
    ratios = {tokens: round(times["fused"][tokens] / apart, 3) for tokens, apart in times["apart"].items()}
    chosen = FUSED if all(ratio * CLEAR_WIN < 1 for ratio in ratios.values()) else SESSION
    by_length = ", ".join(f"{tokens} tokens x {ratio:.2f}" for tokens, ratio in ratios.items())
    log.info("skip + layer norm %s; fused / apart: %s", "fused" if chosen is FUSED else "apart", by_length)
    return chosen, ratios


@cache
def saturates() -> bool:
    """Whether this machine's int8 kernel saturates the sum of two products at 16 bits.

    AVX2 and AVX-512 without VNNI do: one instruction (VPMADDUBSW) multiplies unsigned activations by signed weights and
    adds neighbours in 16 bits, where ``255 * 127 + 255 * 127`` becomes 32767.
    """
    rows, depth, columns = 4, 64, 32  # full tiles of the kernel, so that no other kernel computes a remainder
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
