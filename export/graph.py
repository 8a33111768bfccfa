"""The graphs: a checkpoint as fp32 ONNX, and that as int8.

The served graph takes one sentence without padding (batch size fixed at 1): dynamic int8 uses one activation scale for
a whole batch, so with other sentences beside it an answer would move.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from optimum import version as optimum_version
from optimum.exporters.onnx import export
from optimum.exporters.onnx.base import OnnxConfig
from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig
from optimum.utils import DummyTextInputGenerator, NormalizedTextConfig

from service.student.manifest import GraphRecipe, SessionOptions
from service.student.predictor import OUTPUT_OF_HEAD
from training.models.student import StudentModel

OPSET = 18
FEATURES = "features"
PARTS = {  # of a graph's file, by the modules whose weights they are
    "embeddings": ("pieces", "positions"),
    "encoder": ("blocks", "norm"),
    "heads": ("domain", "intent", "slots"),
}
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
    with _quiet():
        export(model.eval(), config, path, opset=OPSET, input_shapes={"batch_size": 1, "sequence_length": 12})


def quantise_int8(
    source: Path,
    path: Path,
    attention: bool = False,
    keep: Sequence[str] = (),
    only: Sequence[str] | None = None,
    any_cpu: bool = True,
) -> None:
    """Quantise the plain export: weights int8 per channel, activations uint8 with a scale found at run time.

    With `any_cpu` the products' weights have seven bits: then no sum of two products exceeds 16 bits, which is where
    x86-64 CPUs without VNNI cut them off (``2 * 255 * 64 < 2**15``).

    "Plain" matters: the runtime's own fusions work better on the quantised graph than quantisation does on an optimised
    one. Products of two activations stay fp32 unless `attention` is set: quantising both sides of them costs time. The
    nodes named in `keep` stay fp32 too, or all but those in `only`.
    """
    recipe = AutoQuantizationConfig.avx512_vnni(
        is_static=False,
        per_channel=True,
        nodes_to_quantize=[] if only is None else list(only),
        nodes_to_exclude=[*keep, *([] if attention else activation_products(source))],
    )
    recipe.reduce_range = any_cpu
    with tempfile.TemporaryDirectory(prefix=".quantising-", dir=path.parent) as scratch, _quiet():
        ORTQuantizer(source).quantize(recipe, scratch, file_suffix=None)
        Path(scratch, source.name).replace(path)


def quantisable_nodes(source: Path) -> list[str]:
    """The names of the nodes of a plain export that `quantise_int8` quantises: look-ups and products with weights."""
    return _nodes(source, ("MatMul", "Gather"), with_weights=True)


def activation_products(source: Path) -> list[str]:
    """The names of the nodes of a plain export that multiply two activations, which attention does."""
    return _nodes(source, ("MatMul",), with_weights=False)


def _nodes(source: Path, operators: Sequence[str], with_weights: bool) -> list[str]:
    graph = onnx.load(str(source), load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    return [
        node.name
        for node in graph.node
        if node.op_type in operators and bool(weights.intersection(node.input)) == with_weights
    ]


def part_sizes(path: Path) -> dict[str, int]:
    """The bytes of a graph's file by what they hold: embeddings, encoder, heads, scope, and the graph itself."""
    model = onnx.load(str(path))
    bytes_of = {tensor.name: len(numpy_helper.to_array(tensor).tobytes()) for tensor in model.graph.initializer}
    sizes = dict.fromkeys((*PARTS, "scope"), 0)
    for node in model.graph.node:
        module = node.name.strip("/").split("/")[0].split(".")[0]
        part = next((part for part, modules in PARTS.items() if module in modules), "scope")
        sizes[part] += sum(bytes_of.pop(name, 0) for name in node.input)
    return {**sizes, "graph": path.stat().st_size - sum(sizes.values())}


def recipe_of(
    precision: str, kept: Sequence[str] = (), session: SessionOptions = SESSION, any_cpu: bool = True
) -> GraphRecipe:
    """How `export_fp32` and `quantise_int8`, which kept those nodes in fp32, make a graph; for the manifest."""
    quantisation = "none"
    if precision == "int8":
        weights = "7-bit weights for any CPU" if any_cpu else "8-bit weights for CPUs with VNNI"
        quantisation = f"dynamic int8, per channel, {weights}, onnxruntime {onnxruntime.__version__}"
        quantisation += f"; in fp32: {', '.join(kept)}" if kept else ""
    return GraphRecipe(
        exporter=f"optimum {optimum_version.__version__}, torch {torch.__version__}",
        quantisation=quantisation,
        opset=OPSET,
        session=session,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the tracer's notes on shapes, which the parity check covers, and optimum's on the missing config."""
    optimum_log = logging.getLogger("optimum")
    level = optimum_log.level
    optimum_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optimum_log.setLevel(level)
