"""The V2 Open Inference Protocol, as KServe, Triton and MLServer speak it: metadata and ``infer`` of each student.

A student has the inputs `text` and `locale`, and the outputs `domain`, `domain_confidence`, `intent`,
`intent_confidence`, `slots` and `in_scope`, without those of heads that it lacks. Tensors have the shape [N] or [N, 1],
as JSON or by Triton's extension for binary tensor data.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import orjson
from pydantic import ValidationError
from starlette.types import Receive

from service import errors
from service.endpoints import DIGITS, Endpoints, json_reply, slots_body
from service.errors import InvalidRequest, ServiceError, UnsupportedMediaType
from service.http.context import Context, Json, Reply
from service.http.requests import TextRequest, describe, media_type, parse_body, read_bytes
from service.models.queue import Answer, LoadedModel
from service.monitoring.timings import Timings
from service.protocols.inference_schemas import HEADER_LENGTH, InferRequest
from service.protocols.query import locale_of
from service.student.predictor import Prediction

MEDIA_TYPES = (b"application/json", b"application/octet-stream")
LENGTH = struct.Struct("<I")  # before each element of a binary BYTES tensor
INPUTS = ("text", "locale")


class _Output(NamedTuple):
    """An output of a student: its datatype, the head that it needs, and its element for a prediction."""

    datatype: str
    head: str | None
    element: Callable[[Prediction], Any]


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


OUTPUTS: Mapping[str, _Output] = {
    "domain": _Output("BYTES", "domain", lambda answer: answer.domain[0].name if answer.domain else ""),
    "domain_confidence": _Output(
        "FP32", "domain", lambda answer: round(answer.domain[0].confidence, DIGITS) if answer.domain else 0.0
    ),
    "intent": _Output("BYTES", "intent", lambda answer: answer.intent[0].name if answer.intent else ""),
    "intent_confidence": _Output(
        "FP32", "intent", lambda answer: round(answer.intent[0].confidence, DIGITS) if answer.intent else 0.0
    ),
    "slots": _Output("BYTES", "slots", lambda answer: _json(slots_body(answer.slots))),
    "in_scope": _Output("BYTES", None, lambda answer: _json(answer.in_scope)),
}


@dataclass(frozen=True, eq=False)
class InferenceEndpoints:
    """The protocol's endpoints of one application, beside ``/v2/health``."""

    own: Endpoints

    async def server(self, _: Context) -> Reply:
        """Name, version and extensions of the server."""
        return json_reply(
            {"name": "distilled-nlu", "version": self.own.app.version, "extensions": ["binary_tensor_data"]}
        )

    async def metadata(self, context: Context) -> Reply:
        """Inputs and outputs of a student."""
        model = self._model(context)
        identity = model.student.identity
        outputs = [_tensor(name, output.datatype) for name, output in _outputs_of(model).items()]
        return json_reply(
            {
                "name": identity["name"],
                "versions": [identity["digest"]],
                "platform": "onnxruntime_onnx",
                "inputs": [_tensor(name, "BYTES") for name in INPUTS],
                "outputs": outputs,
            }
        )

    async def ready(self, context: Context) -> Reply:
        """200 if the student is loaded and in service, else 404 or 503."""
        model = self._model(context)
        if model.queue.problem is not None:
            raise errors.NotReady(reason=model.queue.problem)
        return json_reply({"name": model.name, "ready": True})

    async def infer(self, context: Context, body: InferRequest) -> Reply:
        """Answers to N texts; one that can't be answered fails the request, since the protocol has no error per text.

        Texts run one at a time, as in `/v1/nlu/batch`, and each gets the answer that it gets alone. All are checked
        before the first runs.
        """
        own, model = self.own, self._model(context)
        asked = _asked_outputs(model, body)
        items, shape = _items_of(body, own.settings.default_locale, model, own.settings.max_batch)
        for item in items:
            model.question_of(item)
        if body.parameters.timeout is not None:
            deadline = context.began + body.parameters.timeout / 1e6
            context.deadline = deadline if context.deadline is None else min(deadline, context.deadline)
        answers: list[Answer] = []
        with await model.queue.admit_in_turn(context, len(items)) as permits:
            model.metrics.batch_size.observe(len(items))
            context.after_reply = partial(own.record, model, answers)
            for item in items:
                answers.append(await model.answer_admitted(context, item))
                permits.give_back(1)
        context.timings = Timings.of_batch([answer.timings for answer in answers])
        return _infer_reply(model, body, asked, shape, [answer.prediction for answer in answers])

    def _model(self, context: Context) -> LoadedModel:
        model = self.own.registry.choose(context.scope["path"].split("/")[3])
        context.model = model.name
        return model


def inference_error(error: ServiceError, _: str) -> Json:
    """The body of `InferenceError`."""
    return {"error": error.message}


async def read_request(
    receive: Receive, headers: Mapping[bytes, bytes], model: type[InferRequest], max_bytes: int, seconds: float
) -> InferRequest:
    """Read a request, with binary tensor data or without.

    Clients of the protocol often declare no media type. A request of a web page, which has the header `origin`, must
    declare one that browsers send for another website only with its consent.

    Raises:
        ServiceError: as `service.http.requests.read_body`.
    """
    if b"origin" in headers and media_type(headers) not in MEDIA_TYPES:
        raise UnsupportedMediaType
    raw = await read_bytes(receive, headers, max_bytes, seconds)
    declared = headers.get(HEADER_LENGTH)
    if declared is None:
        return _with_data(parse_body(raw, model), b"")
    if not (declared.isdigit() and len(declared) <= 10 and int(declared) <= len(raw)):
        raise InvalidRequest(problem=f"{HEADER_LENGTH.decode()}: should be the bytes of the JSON, at most the body's")
    return _with_data(parse_body(raw[: int(declared)], model), raw[int(declared) :])


def _with_data(request: InferRequest, binary: bytes) -> InferRequest:
    """The request with the binary data of its inputs, in their order, as flat lists of texts."""
    inputs = []
    for each in request.inputs:
        size = each.parameters.binary_data_size
        if (size is None) is (each.data is None):
            raise InvalidRequest(problem=f"inputs.{each.name}: should have either data or binary_data_size")
        if size is None:
            data = [text for row in each.data or () for text in ([row] if isinstance(row, str) else row)]
        else:
            if size > len(binary):
                raise InvalidRequest(problem=f"inputs.{each.name}: binary_data_size is more than the body holds")
            data = _texts_of(each.name, binary[:size])
            binary = binary[size:]
        count = math.prod(each.shape)
        if len(data) != count:
            raise InvalidRequest(problem=f"inputs.{each.name}: {len(data)} elements given, the shape has {count}")
        inputs.append(each.model_copy(update={"data": data}))
    if binary:
        raise InvalidRequest(problem="body: has binary data of no input")
    return request.model_copy(update={"inputs": inputs})


def _texts_of(name: str, binary: bytes) -> list[str]:
    """The elements of a binary BYTES tensor."""
    texts = []
    place = 0
    while place < len(binary):
        start = place + LENGTH.size
        if start > len(binary) or (place := start + LENGTH.unpack_from(binary, place)[0]) > len(binary):
            raise InvalidRequest(problem=f"inputs.{name}: the binary data ends within an element")
        try:
            texts.append(binary[start:place].decode())
        except UnicodeDecodeError:
            raise InvalidRequest(problem=f"inputs.{name}: is not UTF-8") from None
    return texts


def _items_of(
    request: InferRequest, default: str | None, model: LoadedModel, max_items: int
) -> tuple[list[TextRequest], list[int]]:
    """The texts with their locales, and the shape of each output."""
    given = {each.name: each for each in request.inputs}
    if len(given) != len(request.inputs) or "text" not in given:
        raise InvalidRequest(problem="inputs: should be text and, unless the server has a default, locale, each once")
    texts: Sequence[Any] = given["text"].data or ()
    shape = given["text"].shape
    if len(texts) > max_items:
        raise errors.BatchTooLarge(count=len(texts), limit=max_items)
    if not texts or len(texts) != shape[0]:
        raise InvalidRequest(problem="inputs.text: should have the shape [N] or [N, 1], with N of 1 or more")
    if "locale" in given:
        locales: Sequence[Any] = given["locale"].data or ()
        if len(locales) == 1:
            locales = [locales[0]] * len(texts)
        if len(locales) != len(texts):
            raise InvalidRequest(
                problem=f"inputs.locale: {len(locales)} given for {len(texts)} texts; give 1 or {len(texts)}"
            )
    else:
        locales = [locale_of(None, default, model)] * len(texts)
    return [_item(number, *pair) for number, pair in enumerate(zip(texts, locales, strict=True))], shape


def _item(number: int, text: str, locale: str) -> TextRequest:
    try:
        return TextRequest(text=text, locale=locale)
    except ValidationError as error:
        raise InvalidRequest(problem=f"inputs, element {number}: {describe(error, TextRequest)}") from None


def _outputs_of(model: LoadedModel) -> dict[str, _Output]:
    heads = model.student.manifest.labels.heads
    return {name: output for name, output in OUTPUTS.items() if output.head is None or output.head in heads}


def _asked_outputs(model: LoadedModel, request: InferRequest) -> dict[str, bool]:
    """The outputs of the reply, and whether each is sent as binary data.

    Raises:
        MissingHead: the student lacks the head of one.
        InvalidRequest: one is asked for twice.
    """
    default = request.parameters.binary_data_output
    if not request.outputs:
        return dict.fromkeys(_outputs_of(model), default)
    asked: dict[str, bool] = {}
    for each in request.outputs:
        head = OUTPUTS[each.name].head
        if head is not None:
            model.require_head(head, f"outputs.{each.name}")
        binary = each.parameters.binary_data
        asked[each.name] = default if binary is None else binary
    if len(asked) != len(request.outputs):
        raise InvalidRequest(problem="outputs: should have no name twice")
    return asked


def _infer_reply(
    model: LoadedModel,
    request: InferRequest,
    asked: Mapping[str, bool],
    shape: Sequence[int],
    predictions: Sequence[Prediction],
) -> Reply:
    """The body of `InferReply`, followed by the data of binary outputs."""
    identity = model.student.identity
    body: Json = {"model_name": identity["name"], "model_version": identity["digest"]}
    if request.id is not None:
        body["id"] = request.id
    outputs: list[Json] = []
    parts: list[bytes] = []
    for name, is_binary in asked.items():
        output = OUTPUTS[name]
        elements = [output.element(prediction) for prediction in predictions]
        tensor: Json = {"name": name, "datatype": output.datatype, "shape": shape}
        if is_binary:
            parts.append(_binary(output.datatype, elements))
            tensor["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            tensor["data"] = elements
        outputs.append(tensor)
    body["outputs"] = outputs
    if not parts:
        return json_reply(body)
    header = orjson.dumps(body)
    headers = ((b"content-type", b"application/octet-stream"), (HEADER_LENGTH, b"%d" % len(header)))
    return Reply(b"".join((header, *parts)), headers)


def _binary(datatype: str, elements: Sequence[Any]) -> bytes:
    if datatype == "FP32":
        return np.asarray(elements, "<f4").tobytes()
    encoded = [element.encode() for element in elements]
    return b"".join(LENGTH.pack(len(element)) + element for element in encoded)


def _tensor(name: str, datatype: str) -> Json:
    return {"name": name, "datatype": datatype, "shape": [-1]}
