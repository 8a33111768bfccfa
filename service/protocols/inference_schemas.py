"""Bodies, parameters and headers of the V2 Open Inference Protocol."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.http.context import Json
from service.http.requests import MAX_ITEMS

HEADER_LENGTH = b"inference-header-content-length"  # of the JSON before the binary data
MODEL: Json = {
    "name": "model",
    "in": "path",
    "required": True,
    "description": "name or alias of a loaded student",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]+$"},
}
HEADERS: tuple[Json, ...] = (
    {
        "name": HEADER_LENGTH.decode(),
        "in": "header",
        "required": False,
        "description": "bytes of the JSON in the body, if binary tensor data follows",
        "schema": {"type": "integer", "minimum": 0},
    },
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class InputParameters(_Strict):
    """Parameters of an input."""

    binary_data_size: Annotated[int | None, Field(ge=0, description="bytes of its data after the JSON")] = None


class InferInput(_Strict):
    """An input, of shape [N] or [N, 1]. A single `locale` is that of all texts."""

    name: Literal["text", "locale"]
    shape: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=2)]
    datatype: Literal["BYTES"]
    data: Annotated[
        Annotated[list[str] | list[list[str]], Field(max_length=MAX_ITEMS)] | None,
        Field(description="texts, flat or by row; not with binary data"),
    ] = None
    parameters: InputParameters = InputParameters()


class OutputParameters(_Strict):
    """Parameters of an output."""

    binary_data: Annotated[bool | None, Field(description="send its data after the JSON")] = None


OutputName = Literal["domain", "domain_confidence", "intent", "intent_confidence", "slots", "in_scope"]


class InferOutput(_Strict):
    """An output that is asked for."""

    name: OutputName
    parameters: OutputParameters = OutputParameters()


class InferParameters(_Strict):
    """Parameters of a request."""

    binary_data_output: Annotated[bool, Field(description="send the data of all outputs after the JSON")] = False
    timeout: Annotated[
        int | None,
        Field(ge=1, le=3_600_000_000, description="microseconds from arrival by which inference must start (504)"),
    ] = None


class InferRequest(_Strict):
    """Body of ``POST /v2/models/{model}/infer``."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "inputs": [
                        {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["weck mich um neun uhr"]},
                        {"name": "locale", "shape": [1], "datatype": "BYTES", "data": ["de-DE"]},
                    ]
                }
            ]
        }
    )

    id: Annotated[str | None, Field(max_length=256, description="repeated in the reply")] = None
    inputs: Annotated[list[InferInput], Field(min_length=1, max_length=2)]
    outputs: Annotated[list[InferOutput] | None, Field(max_length=6, description="default: all of the student")] = None
    parameters: InferParameters = InferParameters()


class Tensor(BaseModel):
    """Name, datatype and shape of a tensor; -1 stands for any number."""

    name: str
    datatype: Literal["BYTES", "FP32"]
    shape: list[int]


class OutputTensor(Tensor):
    """An output with its data; `slots` and `in_scope` are JSON texts."""

    data: list[str] | list[float] | None = None
    parameters: dict[str, int] | None = None


class InferReply(BaseModel):
    """Answers to N texts."""

    model_name: str
    model_version: Annotated[str, Field(description="first 12 hex digits of the graph's sha256")]
    id: str | None = None
    outputs: list[OutputTensor]


class MetadataReply(BaseModel):
    """A student, as the protocol describes a model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[Tensor]
    outputs: list[Tensor]


class ServerReply(BaseModel):
    """The server, as the protocol describes it."""

    name: str
    version: str
    extensions: list[str]


class ReadyReply(BaseModel):
    """The student is loaded and in service."""

    name: str
    ready: Literal[True]


class InferenceError(BaseModel):
    """An error in the protocol's format."""

    error: str
