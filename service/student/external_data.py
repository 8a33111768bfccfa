"""The files that an ONNX graph reads besides its own: external data of tensors.

onnxruntime opens them without a check, so the manifest must have their digests. The package `onnx` is not part of the
base install, so this module walks the protobuf encoding (https://protobuf.dev/programming-guides/encoding/) down to the
tensors; the numbers of the fields are those of onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from service.student.files import open_regular_file

MAX_DEPTH = 100  # of nested graphs and messages, as in protobuf's own parsers
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
# For each message, the fields with messages that may contain tensors.
FIELDS: Final = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
KEY, VALUE = 1, 2  # fields of an entry of `TensorProto.external_data`


def external_files(graph: Path) -> list[str]:
    """The locations of a graph's external data, sorted; they are relative to the graph's folder.

    Raises:
        ValueError: the file is not an ONNX graph.
        OSError: it can't be read.
    """
    with open_regular_file(graph) as stream:
        try:
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return sorted(set(_locations(content, 0, len(content), "model", 0)))
        except (IndexError, UnicodeDecodeError) as error:
            raise ValueError("not an ONNX graph") from error


def _locations(content: mmap.mmap, begin: int, end: int, message: str, depth: int) -> Iterator[str]:
    if depth > MAX_DEPTH:
        raise ValueError(f"not an ONNX graph: nested more than {MAX_DEPTH} times")
    for field, start, stop in _fields(content, begin, end):
        inner = FIELDS[message].get(field)
        if inner == "entry":
            entry = {number: content[a:b] for number, a, b in _fields(content, start, stop)}
            if entry.get(KEY) == b"location":
                yield entry.get(VALUE, b"").decode()
        elif inner is not None:
            yield from _locations(content, start, stop, inner, depth + 1)


def _fields(content: mmap.mmap, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The number, begin and end of each length-delimited field of a message."""
    while position < end:
        key, position = _varint(content, position)
        wire_type = key & 7
        start = position
        if wire_type == BYTES:
            length, start = _varint(content, position)
            position = start + length
        elif wire_type == VARINT:
            _, position = _varint(content, position)
        elif wire_type in (FIXED64, FIXED32):
            position += 8 if wire_type == FIXED64 else 4
        else:
            raise ValueError("not an ONNX graph")
        if position > end:
            raise ValueError("not an ONNX graph: cut off")
        if wire_type == BYTES:
            yield key >> 3, start, position


def _varint(content: mmap.mmap, position: int) -> tuple[int, int]:
    """The number at a position, and the position after it."""
    value = shift = 0
    while True:
        byte = content[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position
        if shift > 63:
            raise ValueError("not an ONNX graph")
