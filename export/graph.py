"""The fp32 graph of a checkpoint.

The served graph takes one sentence without padding and has no batch axis. Dynamic int8 has one activation scale per
batch, so in a batch a prediction would depend on the other sentences. Without the axis, all shapes but the number of
tokens are constants, and the graph contains no arithmetic on shapes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from onnxruntime.quantization.onnx_model import ONNXModel
from optimum import version as optimum_version
from optimum.exporters.onnx import export
from optimum.exporters.onnx.base import OnnxConfig
from optimum.utils import NormalizedTextConfig

from service.student.manifest import GraphRecipe, SessionOptions
from service.student.predictor import OUTPUT_OF_HEAD
from training.models.student import StudentModel

OPSET = 18
TRACED_TOKENS = 12
# On the CPU, onnxruntime's fused skip + layer-norm kernel was slower than separate Add and LayerNormalization, so the
# fusion is off by default. The export measures both (`latency.fastest_session`).
SESSION = SessionOptions(intra_op_num_threads=1, disabled_optimizers=("SkipLayerNormFusion",))


class StudentOnnxConfig(OnnxConfig):  # type: ignore[misc]
    """Inputs and outputs for optimum's exporter: one input, and one output per head."""

    DEFAULT_ONNX_OPSET = OPSET
    NORMALIZED_CONFIG_CLASS = NormalizedTextConfig

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """The only axis is the number of tokens."""
        return {"input_ids": {0: "tokens"}}

    def generate_dummy_inputs(self, *_: Any, **__: Any) -> dict[str, torch.Tensor]:
        """A text to trace the model with, [tokens]."""
        length = min(TRACED_TOKENS, self._config.max_position_embeddings)
        return {"input_ids": torch.zeros(length, dtype=torch.int64)}

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        """Logits by head; those of slots have one row per token."""
        return {OUTPUT_OF_HEAD[head]: {0: "tokens"} if head == "slots" else {} for head in self._config.labels}


def export_fp32(model: StudentModel, path: Path) -> None:
    """Write the fp32 graph of a student with optimum's exporter."""
    with warnings.catch_warnings(action="ignore"):  # warnings of traced shapes; the parity check covers them
        export(model.eval(), StudentOnnxConfig(model.config), path, opset=OPSET)
    graph = ONNXModel(onnx.load(str(path)))
    graph.replace_gemm_with_matmul()  # the quantiser does the same, but then `keep` would not know the nodes' names
    onnx.save(graph.model, str(path))


def recipe_of(
    precision: str, kept: Sequence[str] = (), session: SessionOptions = SESSION, any_cpu: bool = True
) -> GraphRecipe:
    """The description of an exported graph, for the manifest. `kept` are the nodes that stay in fp32."""
    quantisation = "none"
    if precision == "int8":
        weights = "7-bit weights for any CPU" if any_cpu else "8-bit weights for CPUs with VNNI"
        quantisation = f"dynamic int8, per channel, {weights}, onnxruntime {onnxruntime.__version__}"
        quantisation += f"; in fp32: {', '.join(kept)}" if kept else ""
    exporter = f"optimum {optimum_version.__version__}, torch {torch.__version__}"
    return GraphRecipe(exporter=exporter, quantisation=quantisation, opset=OPSET, session=session)
