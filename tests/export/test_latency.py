from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import onnx as onnx_library
import pytest
from onnx import numpy_helper

from export import latency, onnx, pipeline
from export.graph import SESSION, export_fp32
from export.latency import FUSED, fastest_session, saturates
from export.quantization import quantise_int8
from service.student.manifest import SessionOptions, read_manifest
from service.student.student import Student
from training.models.checkpoint import load_checkpoint, save_checkpoint
from training.models.student import StudentConfig, StudentModel


def timed(ratio: dict[str, float]) -> Any:
    def latencies(predictors: dict[str, Any], rounds: int = 40) -> dict[str, dict[str, float]]:
        apart = dict.fromkeys(ratio, 100.0)
        times = {"apart": apart, "fused": {pieces: 100 * found for pieces, found in ratio.items()}}
        return {name: times.get(name, apart) for name in predictors}

    return latencies


@pytest.mark.parametrize(
    ("ratio", "chosen"),
    [
        ({"8": 0.9, "16": 0.9, "32": 0.92}, FUSED),
        ({"8": 0.97, "16": 0.96, "32": 0.97}, SESSION),
        ({"8": 0.8, "16": 0.8, "32": 1.0}, SESSION),
        ({"8": 7.0, "16": 7.0, "32": 7.0}, SESSION),
    ],
)
def test_kernels_are_fused_only_for_a_clear_win_at_every_length(
    monkeypatch: pytest.MonkeyPatch, ratio: dict[str, float], chosen: SessionOptions
) -> None:
    monkeypatch.setattr(latency, "latencies", timed(ratio))
    opened: list[SessionOptions] = []

    def open_graph(path: Path, options: SessionOptions) -> Any:
        opened.append(options)
        return path

    assert fastest_session(Path("graph"), open_graph) == (chosen, ratio)
    assert opened == [SESSION, FUSED]


def test_the_chosen_kernels_are_recorded_and_served(
    checkpoint: Path, student_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = read_manifest(student_folder)
    assert set(plain.latency["fused_over_apart"]) == {"8", "16", "32"}
    assert all(ratio > 0 for ratio in plain.latency["fused_over_apart"].values())
    monkeypatch.setattr(latency, "latencies", timed({"8": 0.5, "16": 0.5, "32": 0.5}))

    assert onnx.main(["--ckpt", str(checkpoint), "--out", str(tmp_path / "s"), "--precision", "fp32"]) == 0

    found = Student.load(tmp_path / "s").manifest
    assert found.graph.session == FUSED
    assert found.latency["fused_over_apart"] == {"8": 0.5, "16": 0.5, "32": 0.5}
    assert found.parity["fp32_max_abs_logit_difference"]["de-DE"] < 1e-4


def extremes(graph: Path) -> list[int]:
    weights = (x for x in onnx_library.load(str(graph)).graph.initializer if x.name.endswith("_quantized"))
    products = (numpy_helper.to_array(x) for x in weights if x.data_type == onnx_library.TensorProto.INT8)
    return [int(np.abs(values.astype(int)).max()) for values in products]


def test_weights_for_any_cpu_leave_room_for_the_sum_of_two_products(
    checkpoint: Path, student_folder: Path, tmp_path: Path
) -> None:
    export_fp32(load_checkpoint(checkpoint).model, tmp_path / "fp32.onnx")
    quantise_int8(tmp_path / "fp32.onnx", tmp_path / "vnni.onnx", any_cpu=False)

    for weight in extremes(student_folder / "model.onnx"):
        assert 2 * 255 * weight < 2**15
    assert min(extremes(tmp_path / "vnni.onnx")) == 127
    assert "7-bit weights" in read_manifest(student_folder).graph.quantisation


def test_a_cpu_with_vnni_or_of_another_architecture_does_not_saturate() -> None:
    flags = Path("/proc/cpuinfo")
    known = flags.is_file() and "vnni" in flags.read_text()
    if not known and platform.machine() in ("x86_64", "AMD64"):
        pytest.skip("an x86-64 CPU that is not known to have VNNI")

    assert not saturates()


def test_int8_for_vnni_is_refused_on_a_cpu_that_saturates(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pipeline, "saturates", lambda: True)

    assert onnx.main(["--ckpt", str(checkpoint), "--out", str(tmp_path / "s"), "--cpu", "vnni"]) == 2

    assert "--cpu vnni: this CPU saturates the sums" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("max_length", "measured"), [(24, {"8", "16", "24"}), (6, {"6"})])
def test_lengths_that_the_student_cannot_read_are_not_measured(
    checkpoint: Path, sample: Path, tmp_path: Path, max_length: int, measured: set[str]
) -> None:
    whole = load_checkpoint(checkpoint)
    tokens = {"vocab_size": whole.model.config.vocab_size, "max_position_embeddings": max_length}
    model = StudentModel(StudentConfig.of_size("xs", whole.labels, **tokens))
    training = {**whole.training, "settings": {**whole.training["settings"], "max_length": max_length}}
    save_checkpoint(tmp_path / "ckpt", model, whole.encoder.tokenizer, training)

    assert onnx.main(["--ckpt", str(tmp_path / "ckpt"), "--out", str(tmp_path / "s"), "--data", str(sample)]) == 0

    found = Student.load(tmp_path / "s").manifest
    assert found.max_length == max_length
    assert set(found.latency["int8"]) == set(found.latency["fused_over_apart"]) == measured
