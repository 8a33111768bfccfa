"""The fp32 graph of a checkpoint.

The served graph takes one sentence without padding (batch size fixed at 1): dynamic int8 uses one activation scale for
a whole batch, so with other sentences beside it an answer would move.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import onnxruntime
import torch
from optimum import version as optimum_version
from optimum.exporters.onnx import export
from optimum.exporters.onnx.base import OnnxConfig
from optimum.utils import DummyTextInputGenerator, NormalizedTextConfig

from service.student.manifest import GraphRecipe, SessionOptions
from service.student.predictor import OUTPUT_OF_HEAD
from training.models.student import StudentModel

OPSET = 18
FEATURES = "features"
# onnxruntime's fused skip + layer-norm kernel was slower on the CPU provider than Add and LayerNormalization apart, so
# those are the default; the export measures both (`latency.fastest_session`).
SESSION = SessionOptions(intra_op_num_threads=1, disabled_optimizers=("SkipLayerNormFusion",))


class StudentOnnxConfig(OnnxConfig):  # type: ignore[misc]
    """What optimum's exporter must know of a student: one input, one output per head, and `FEATURES` if asked for."""

    DEFAULT_ONNX_OPSET = OPSET
    NORMALIZED_CONFIG_CLASS = NormalizedTextConfig
    DUMMY_INPUT_GENERATOR_CLASSES = (DummyTextInputGenerator,)

    with_features = False

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """Only the pieces vary in number; the batch is one sentence."""
        return {"input_ids": {1: "pieces"}}

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        """Logits by head; only the slots' have one row per piece."""
        logits = {OUTPUT_OF_HEAD[head]: {1: "pieces"} if head == "slots" else {} for head in self._config.labels}
        return {**logits, FEATURES: {}} if self.with_features else logits


def export_fp32(model: StudentModel, path: Path, with_features: bool = False) -> None:
    """Write the fp32 graph of a student through optimum's exporter.

    With the output `FEATURES` [1, 2 width], what domain and intent are read from, if asked for.
    """
    config = StudentOnnxConfig(model.config)
    config.with_features = with_features
    with warnings.catch_warnings(action="ignore"):  # of shapes that are traced; the parity check covers them
        export(model.eval(), config, path, opset=OPSET, input_shapes={"batch_size": 1, "sequence_length": 12})


def recipe_of(
    precision: str, kept: Sequence[str] = (), session: SessionOptions = SESSION, any_cpu: bool = True
) -> GraphRecipe:
    """How `export_fp32` and `quantise_int8`, which kept those nodes in fp32, make a graph; for the manifest."""
    quantisation = "none"
    if precision == "int8":
        weights = "7-bit weights for any CPU" if any_cpu else "8-bit weights for CPUs with VNNI"
        quantisation = f"dynamic int8, per channel, {weights}, onnxruntime {onnxruntime.__version__}"
        quantisation += f"; in fp32: {', '.join(kept)}" if kept else ""
    exporter = f"optimum {optimum_version.__version__}, torch {torch.__version__}"
    return GraphRecipe(exporter=exporter, quantisation=quantisation, opset=OPSET, session=session)
