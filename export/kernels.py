"""What this machine's kernels make of a graph: whether a fusion pays, and whether int8 sums saturate."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from export.comparison import latencies
from export.graph import SESSION
from service.student.manifest import SessionOptions
from service.student.student import Student

log = logging.getLogger("export.onnx")

FUSED = SessionOptions(intra_op_num_threads=1, disabled_optimizers=())
CLEAR_WIN = 1.05  # by how much the fused kernel must be faster at every length: less may be chance
ROUNDS = 15

Opener = Callable[[Path, SessionOptions], Student]


def fastest_session(graph: Path, open_student: Opener) -> tuple[SessionOptions, dict[str, float]]:
    """How to open a graph: with skip connection and layer norm apart, unless their fused kernel is clearly faster here.

    Returns:
        The options, and what the fused kernel takes in multiples of the two apart, by pieces.
    """
    times = latencies({"apart": open_student(graph, SESSION), "fused": open_student(graph, FUSED)}, rounds=ROUNDS)
    ratios = {pieces: round(times["fused"][pieces] / apart, 3) for pieces, apart in times["apart"].items()}
    chosen = FUSED if all(ratio * CLEAR_WIN < 1 for ratio in ratios.values()) else SESSION
    found = ", ".join(f"{pieces} pieces x {ratio:.2f}" for pieces, ratio in ratios.items())
    log.info("skip + layer norm %s; fused / apart: %s", "fused" if chosen is FUSED else "apart", found)
    return chosen, ratios


@cache
def saturates() -> bool:
    """Whether this machine's int8 kernel loses what exceeds 16 bits in the sum of two products.

    So it is with AVX2 and AVX-512 without VNNI, where one instruction (VPMADDUBSW) multiplies unsigned activations by
    signed weights and adds neighbours in 16 bits: ``255 * 127 + 255 * 127`` is 32767 there.
    """
    rows, depth, columns = 4, 64, 32  # as many as a kernel takes at a time, so that no other one is used for the rest
    node = helper.make_node("MatMulInteger", ["activations", "weights"], ["sums"])
    graph = helper.make_graph(
        [node],
        "saturation",
        [helper.make_tensor_value_info("activations", TensorProto.UINT8, [rows, depth])],
        [helper.make_tensor_value_info("sums", TensorProto.INT32, [rows, columns])],
        [helper.make_tensor("weights", TensorProto.INT8, [depth, columns], [127] * (depth * columns))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session: Any = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    [sums] = session.run(["sums"], {"activations": np.full((rows, depth), 255, np.uint8)})
    return bool((sums != 255 * 127 * depth).any())
