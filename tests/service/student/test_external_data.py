"""Files that a graph reads besides its own have to stand in the manifest; others are logged."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from service.student.external_data import external_files
from service.student.manifest import FileEntry, StudentError
from service.student.shipped import SHIPPED_STUDENTS
from service.student.student import Student
from tests.service.conftest import build_graph

DATA = "weights.bin"


@pytest.fixture
def with_external_data(folder: Path, replace_graph: Any) -> Path:
    """A student whose weights lie in another file."""
    path = folder / "model.onnx"
    onnx.save(onnx.load(str(path)), str(path), save_as_external_data=True, location=DATA, size_threshold=100)
    replace_graph(folder, path.read_bytes())
    return folder


def vouch(folder: Path, edit: Any, name: str) -> None:
    files = json.loads((folder / "manifest.json").read_text())["files"]
    edit(folder, "files", {**files, name: FileEntry.of(folder / name).model_dump()})


def external(name: str, location: str) -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("offset", "0"), ("location", location), ("length", "12")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def model_of(**parts: Any) -> onnx.ModelProto:
    """A model with some parts of its graph; it need not be valid."""
    graph = onnx.GraphProto(name="g", **parts)
    return onnx.ModelProto(ir_version=10, graph=graph)


def written(model: onnx.ModelProto, folder: Path) -> Path:
    (folder / "graph.onnx").write_bytes(model.SerializeToString())
    return folder / "graph.onnx"


def test_external_data_without_a_digest_is_refused_by_its_name(with_external_data: Path) -> None:
    with pytest.raises(StudentError, match=rf"model\.onnx reads '{DATA}', for which the manifest has no digest"):
        Student.load(with_external_data)


def test_external_data_with_a_digest_is_served_while_it_matches(with_external_data: Path, edit: Any) -> None:
    vouch(with_external_data, edit, DATA)
    Student.load(with_external_data)

    data = bytearray((with_external_data / DATA).read_bytes())
    data[100] ^= 4
    (with_external_data / DATA).write_bytes(data)

    with pytest.raises(StudentError, match=f"{DATA} has sha256"):
        Student.load(with_external_data)


@pytest.mark.parametrize("location", ["../secret", "sub/weights", "*/_ORT_MEM_ADDR_/*"])
def test_data_outside_of_the_folder_is_refused(folder: Path, replace_graph: Any, location: str) -> None:
    model = onnx.load_from_string(build_graph())
    model.graph.initializer.append(external("more", location))
    replace_graph(folder, model.SerializeToString())

    with pytest.raises(StudentError, match="for which the manifest has no digest"):
        Student.load(folder)


def test_tensors_are_found_wherever_they_stand(tmp_path: Path) -> None:
    def holding(location: str) -> onnx.GraphProto:
        return onnx.GraphProto(name="inner", initializer=[external("x", location)])

    constant = onnx.NodeProto(op_type="Constant", attribute=[helper.make_attribute("value", external("c", "constant"))])
    branch = onnx.NodeProto(op_type="If", attribute=[helper.make_attribute("then_branch", holding("branch"))])
    several = onnx.NodeProto(op_type="Own", attribute=[helper.make_attribute("graphs", [holding("a"), holding("b")])])
    lists = onnx.NodeProto(op_type="Own", attribute=[helper.make_attribute("tensors", [external("l", "list")])])
    sparse = onnx.SparseTensorProto(values=external("v", "values"), indices=external("i", "indices"), dims=[3])
    model = model_of(node=[constant, branch, several, lists], initializer=[external("w", "weights")])
    model.graph.sparse_initializer.append(sparse)
    model.functions.append(onnx.FunctionProto(name="f", node=[constant]))
    constant.attribute[0].t.external_data[1].value = "function"
    model.functions[0].node[0].CopyFrom(constant)

    found = external_files(written(model, tmp_path))

    assert found == ["a", "b", "branch", "constant", "function", "indices", "list", "values", "weights"]


@pytest.mark.parametrize("name", ["s", "xs"])
def test_shipped_graphs_read_no_other_file(name: str) -> None:
    assert external_files(SHIPPED_STUDENTS / name / "model.onnx") == []


@given(content=st.binary(max_size=200) | st.builds(lambda cut: build_graph()[:cut], st.integers(0, 5000)))
def test_any_bytes_are_a_graph_or_an_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    path.write_bytes(content)

    with suppress(ValueError):
        assert all(isinstance(name, str) for name in external_files(path))


def test_deeply_nested_graphs_end_in_an_error(tmp_path: Path) -> None:
    content = b""
    for field in [7, *(1, 5, 6) * 60][::-1]:  # a graph with a node with an attribute with a graph with ...
        size = len(content)
        content = bytes([field << 3 | 2, size & 127 | 128, size >> 7]) + content
    (tmp_path / "graph.onnx").write_bytes(content)

    with pytest.raises(ValueError, match="nested more than 100 times"):
        external_files(tmp_path / "graph.onnx")


def test_unknown_files_are_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    Student.load(folder)
    assert not caplog.records
    (folder / "model_fp16.onnx").write_bytes(b"x")
    (folder / ".gitattributes").write_bytes(b"x")

    with caplog.at_level(logging.WARNING, "service"):
        Student.load(folder)

    assert caplog.messages == [f"{folder}: unknown files, which nothing reads: model_fp16.onnx"]
