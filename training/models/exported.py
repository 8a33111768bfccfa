"""The weights of an exported student, read back from its graph, as a model of this project.

The graph's nodes are named after the modules that they were traced from. Weights that dynamic int8 rounded are
multiplied by their scales again, so they differ from those of the checkpoint by at most half a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from service.extras import require
from service.student.manifest import MODEL_FILE, TOKENIZER_FILE, Manifest, StudentError, read_manifest
from service.student.tokenization import TextEncoder
from training.models.errors import CheckpointError
from training.models.student import POSITION_BIAS, POST_NORM, PRE_NORM, PositionBias, StudentConfig, StudentModel

PRODUCTS, NORM, LOOK_UP, SUM = ("MatMul", "MatMulInteger"), ("LayerNormalization",), ("Gather",), ("Add",)
QUANTISED = "_quantized"  # the quantiser's name of a weight, beside `_scale` and `_zero_point`
EARLIER = {"token_embeddings": "pieces"}  # modules with another name in older exports
DROPOUT = 0.1  # the graph does not say with which it was trained


class Exported(NamedTuple):
    """A student's model in evaluation mode and float32, without masked-language head; its text encoder and manifest."""

    model: StudentModel
    encoder: TextEncoder
    manifest: Manifest


def open_exported(folder: Path) -> Exported:
    """Read a student folder.

    Raises:
        CheckpointError: the folder is damaged, or its graph was not exported by this project.
        MissingExtra: onnx is not installed.
    """
    require("export", "onnx")
    import onnx  # of the extra `export`

    try:
        manifest = read_manifest(folder)
        encoder = TextEncoder.from_file(folder / TOKENIZER_FILE, manifest.max_length)
        graph = _Graph(onnx.load(str(folder / MODEL_FILE)).graph)
    except (StudentError, ValueError) as error:
        raise CheckpointError(str(error)) from error
    except Exception as error:  # protobuf's errors differ from version to version
        raise CheckpointError(f"{folder}: {MODEL_FILE} cannot be read: {error}") from error
    try:
        return Exported(_model_of(graph, manifest), encoder, manifest)
    except (LookupError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{folder}: {MODEL_FILE} was not exported by this project: {error}") from error


class _Graph:
    """The weights of a graph by node: `nodes` in the order of computation, `tables` the stored tensors by name."""

    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self.nodes: list[Any] = list(graph.node)
        self.tables: dict[str, NDArray[Any]] = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        for node in self.nodes:  # of equal tensors only one is stored
            if node.op_type == "Identity" and node.input[0] in self.tables:
                self.tables[node.output[0]] = self.tables[node.input[0]]

    def place(self, module: str, operators: Sequence[str]) -> int:
        """The place of the first node of a module with one of these operators. Raises LookupError: there is none."""
        prefixes = tuple(f"/{name.replace('.', '/')}/" for name in (module, EARLIER.get(module, module)))
        for place, node in enumerate(self.nodes):
            if node.op_type in operators and node.name.replace(".", "/").startswith(prefixes):
                return place
        raise LookupError(f"no {' or '.join(operators)} of {module}")

    def weights(self, module: str, operators: Sequence[str]) -> list[Tensor]:
        """The stored inputs of that node, in float32; of a quantised one without its zero point."""
        node = self.nodes[self.place(module, operators)]
        stored = [name for name in node.input if name in self.tables and not name.endswith("_zero_point")]
        if not stored:
            raise LookupError(f"{node.name} has no weights")
        return [torch.from_numpy(self.table(name)) for name in stored]

    def table(self, name: str) -> NDArray[np.float32]:
        """A stored tensor in float32, of a quantised one the product with its scale. Raises KeyError: there is none."""
        table = self.tables[name]
        if not name.endswith(QUANTISED):
            return table.astype(np.float32)
        origin = name.removesuffix(QUANTISED)
        scale, zero = self.tables[f"{origin}_scale"], self.tables[f"{origin}_zero_point"]
        # per tensor, or by output, which is the last axis of a product's weights
        found: NDArray[np.float32] = (table.astype(np.int32) - zero.astype(np.int32)).astype(np.float32) * scale
        return found


def _model_of(graph: _Graph, manifest: Manifest) -> StudentModel:
    shape = manifest.architecture
    norm = graph.nodes[graph.place("norm", NORM)]
    epsilon = next(attribute.f for attribute in norm.attribute if attribute.name == "epsilon")
    # a pre-layer-norm encoder has it behind the last layer, a post-layer-norm one before the first
    is_first = graph.place("norm", NORM) < graph.place("blocks.0.qkv", PRODUCTS)
    config = StudentConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.attention_heads,
        intermediate_size=shape.feed_forward,
        max_position_embeddings=len(graph.weights("positions", LOOK_UP)[0]),
        activation=shape.activation,
        dropout=DROPOUT,
        labels={head: list(getattr(manifest.labels, head)) for head in manifest.labels.heads},
        size=manifest.size,
        norm=POST_NORM if is_first else PRE_NORM,
        norm_eps=float(f"{epsilon:.6g}"),  # float32 in the graph
        position_bias=f"blocks.0.{POSITION_BIAS}.weight" in graph.tables,
    )
    model = StudentModel(config)
    weights: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        traced = name.removeprefix("heads.")
        if isinstance(module, PositionBias):
            weights[f"{name}.weight"] = torch.from_numpy(graph.table(f"{name}.weight"))
        elif isinstance(module, nn.Embedding):
            weights[f"{name}.weight"] = graph.weights(traced, LOOK_UP)[0]
        elif isinstance(module, nn.LayerNorm):
            weights[f"{name}.weight"], weights[f"{name}.bias"] = graph.weights(traced, NORM)
        elif isinstance(module, nn.Linear):
            weights[f"{name}.weight"] = graph.weights(traced, PRODUCTS)[0].T.contiguous()
            weights[f"{name}.bias"] = graph.weights(traced, SUM)[0]
    model.load_state_dict(weights)
    model.eval()
    return model
