"""The rejected export variants beside the recipe: their graphs, their latency and their quality."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
from onnxruntime.quantization import quantize_static as ort_quantise_static

from export.graph import SESSION, export_fp32
from export.latency import FUSED, turns
from export.quality import first_of_each_locale
from export.quantization import activation_products, quantise_int8
from export.trimming import trim
from service.student.decoding import best, softmax
from service.student.manifest import SessionOptions
from service.student.predictor import Predictor, open_session
from service.student.tokenization import Encoded
from training.data import datasets
from training.data.utterances import Utterance
from training.evaluation.scoring import score_by_locale
from training.models.checkpoint import Checkpoint
from training.models.prediction import answers_of_student
from training.objectives.first_weights import with_position_bias
from training.text.tokenizer import with_variants

RECIPE, FP32 = "recipe: int8, 7-bit weights", "fp32"
ROUNDS, CALLS = 60, 20
CALIBRATED = 100  # texts of each locale on which static ranges are measured


class Variant(NamedTuple):
    """An export variant: its graph, the function that is timed, and the predictor that is scored, if any."""

    graph: Path
    run: Callable[[Encoded], Any]
    scored: Predictor | None


@dataclass(frozen=True)
class Row:
    """Median microseconds by number of tokens, megabytes, and in percent exact match and answers equal to fp32."""

    times: dict[str, float]
    megabytes: float
    exact_match: float | None
    as_fp32: float | None


def compare(checkpoint: Checkpoint, data: datasets.Dataset, dev: Sequence[Utterance], folder: Path) -> dict[str, Row]:
    """Measure all variants, with their graphs in `folder`. The first row is the recipe."""
    variants = build_variants(checkpoint, data, folder)
    vocabulary = json.loads(checkpoint.encoder.tokenizer.to_str())["model"]["vocab"]
    shared = sum(len(token) == 1 for token, _ in vocabulary)  # every trimmed vocabulary has these
    runs = {name: variant.run for name, variant in variants.items()}
    times = turns(runs, shared, checkpoint.encoder.max_length, ROUNDS, CALLS)
    answers = {name: answers_of_student(v.scored, dev) for name, v in variants.items() if v.scored}
    rows = {}
    for name, variant in variants.items():
        match = same = None
        if own := answers.get(name):
            match = score_by_locale(dev, own)["mean"].get("exact_match")
            same = round(100 * float(np.mean([a == b for a, b in zip(own, answers[FP32], strict=True)])), 2)
        megabytes = round(variant.graph.stat().st_size / 1e6, 2)
        rows[name] = Row(times[name], megabytes, None if match is None else round(match, 2), same)
    return rows


def build_variants(checkpoint: Checkpoint, data: datasets.Dataset, folder: Path) -> dict[str, Variant]:
    """The variants by name. Those that would have to be trained, activation and position bias, are only timed."""
    locales = checkpoint.training["locales"]
    fp32, int8, vnni, attention = (folder / f"{name}.onnx" for name in ("fp32", "int8", "vnni", "attention"))
    export_fp32(checkpoint.model, fp32)
    quantise_int8(fp32, int8)
    quantise_int8(fp32, vnni, any_cpu=False)
    quantise_int8(fp32, attention, attention=True)
    ids = [checkpoint.encoder.encode(u.text).ids for u in first_of_each_locale(data.part("train"), CALIBRATED)]
    qdq, qoperator = (quantise_static(fp32, folder / f"{kind}.onnx", ids, kind == "qop") for kind in ("qdq", "qop"))
    in_graph = with_labels_in_graph(int8, folder / "labels.onnx")
    other = "relu" if checkpoint.model.config.activation == "gelu" else "gelu"
    own = with_variants([u for u in data.part("train") if u.locale == locales[0]])
    trimmed = trim(checkpoint, own, locales[:1]).checkpoint

    def scored(graph: Path, session: SessionOptions = SESSION) -> Variant:
        predictor = Predictor(checkpoint.labels, checkpoint.encoder, open_session(graph, session))
        return Variant(graph, partial(decode, predictor), predictor)

    def timed(changed: Checkpoint, graph: Path) -> Variant:
        export_fp32(changed.model, graph)
        quantise_int8(graph, graph)
        predictor = Predictor(changed.labels, changed.encoder, open_session(graph, SESSION))
        return Variant(graph, partial(decode, predictor), None)

    return {
        RECIPE: scored(int8),
        FP32: scored(fp32),
        "8-bit weights (VNNI)": scored(vnni),
        "attention quantised too": scored(attention),
        "skip + layer norm fused": scored(int8, FUSED),
        "static, QDQ": scored(qdq),
        "static, QOperator": scored(qoperator),
        "softmax and argmax in the graph": Variant(in_graph, read_labels(in_graph), None),
        f"{other} (time alone)": timed(with_activation(checkpoint, other), folder / "activation.onnx"),
        "position bias (time alone)": timed(with_position_bias(checkpoint, True), folder / "positions.onnx"),
        f"trimmed to {locales[0]} (time, size)": timed(trimmed, folder / "trimmed.onnx"),
    }


def with_activation(checkpoint: Checkpoint, activation: str) -> Checkpoint:
    """The checkpoint's shape and weights with another activation."""
    config = copy.deepcopy(checkpoint.model.config)
    config.activation = activation
    model = type(checkpoint.model)(config)
    model.load_state_dict(checkpoint.model.state_dict())
    return Checkpoint(model.eval(), checkpoint.encoder, checkpoint.labels, checkpoint.training)


def decode(predictor: Predictor, encoded: Encoded) -> None:
    """Run a graph that returns logits and decode them like the service."""
    for head, logits in predictor.logits(encoded).items():
        if head == "slots":
            tags = logits.argmax(axis=-1)
            if tags.any():  # like `decode_slots`: confidences of words in slots only
                softmax(logits[tags > 0]).max(axis=-1)
        else:
            best(logits, getattr(predictor.labels, head))


class Sentences(CalibrationDataReader):  # type: ignore[misc]
    """Sentences of token ids, one at a time."""

    def __init__(self, sentences: Sequence[Sequence[int]]) -> None:
        self._rest = ({"input_ids": np.array(ids, np.int64)} for ids in sentences)

    def get_next(self) -> dict[str, Any] | None:
        """The next input of the graph, None after the last."""
        return next(self._rest, None)


def quantise_static(source: Path, path: Path, sentences: Sequence[Sequence[int]], operators: bool) -> Path:
    """Write an int8 graph with static activation ranges, measured on `sentences`.

    With `operators` in QOperator format, else in QDQ format, whose pairs of nodes the runtime fuses.
    """
    ort_quantise_static(
        source,
        path,
        Sentences(sentences),
        quant_format=QuantFormat.QOperator if operators else QuantFormat.QDQ,
        op_types_to_quantize=["MatMul", "Gemm", "Gather"],
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=activation_products(source),
    )
    return path


def with_labels_in_graph(source: Path, path: Path) -> Path:
    """A copy of a graph that returns probabilities and, for slots, each token's best tag and its probability."""
    model = onnx.load(str(source))
    graph = model.graph
    outputs = [output.name for output in graph.output]
    del graph.output[:]
    graph.initializer.append(helper.make_tensor("last", TensorProto.INT64, [1], [-1]))
    for name in outputs:
        probabilities = f"{name}_probabilities"
        graph.node.append(helper.make_node("Softmax", [name], [probabilities], axis=-1))
        ends = {probabilities: TensorProto.FLOAT}
        if name == "slot_logits":
            graph.node.append(helper.make_node("ArgMax", [name], ["slot_tags"], axis=-1, keepdims=0))
            graph.node.append(helper.make_node("ReduceMax", [probabilities, "last"], ["slot_confidence"], keepdims=0))
            ends = {"slot_tags": TensorProto.INT64, "slot_confidence": TensorProto.FLOAT}
        graph.output.extend(helper.make_tensor_value_info(end, kind, None) for end, kind in ends.items())
    onnx.save(model, str(path))
    return path


def read_labels(graph: Path) -> Callable[[Encoded], Any]:
    """A function that runs a graph of `with_labels_in_graph` and reads its labels."""
    session = open_session(graph, SESSION)

    def run(encoded: Encoded) -> None:
        for values in session.run(None, {"input_ids": np.array(encoded.ids)}):
            if values.dtype == np.float32 and values.ndim == 1:  # probabilities of a text's labels, or of its tags
                values.max(), values.argmax()

    return run
