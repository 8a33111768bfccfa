"""Weights read back from exported graphs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest
import torch

from export.graph import export_fp32
from export.quantization import quantise_int8
from service.student.manifest import MANIFEST_FILE, MODEL_FILE, FileEntry
from service.student.shipped import shipped_students, student_folder
from service.student.student import Student
from training import finetune
from training.models.checkpoint import Checkpoint, load_checkpoint
from training.models.errors import CheckpointError
from training.objectives.first_weights import with_position_bias

HALF_A_STEP = 1 / 64 / 2  # of seven-bit weights, as a share of the largest


@pytest.fixture
def spoilt(student_folder: Path, tmp_path: Path) -> Path:
    """A copy of a student to spoil."""
    return shutil.copytree(student_folder, tmp_path / "spoilt")


def with_graph(folder: Path, graph: onnx.ModelProto) -> None:
    """Replace a student's graph, and the digest in its manifest."""
    onnx.save(graph, str(folder / MODEL_FILE))
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    manifest["files"][MODEL_FILE] = FileEntry.of(folder / MODEL_FILE).model_dump()
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))


def logits_of(checkpoint: Checkpoint, text: str) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        found = checkpoint.model(torch.tensor([checkpoint.encoder.encode(text).ids]))
    return {"domain": found.domain_logits[0], "intent": found.intent_logits[0], "slots": found.slot_logits[0]}


@pytest.mark.parametrize("position_bias", [False, True])
def test_an_fp32_student_has_the_weights_of_its_checkpoint(
    checkpoint: Path, spoilt: Path, tmp_path: Path, position_bias: bool
) -> None:
    original = with_position_bias(load_checkpoint(checkpoint), position_bias)
    export_fp32(original.model, tmp_path / "fp32.onnx")
    with_graph(spoilt, onnx.load(str(tmp_path / "fp32.onnx")))

    loaded = load_checkpoint(spoilt)

    expected, found = original.model.state_dict(), loaded.model.state_dict()
    assert expected.keys() == found.keys()
    for name, weights in expected.items():
        assert torch.equal(found[name], weights), name
    assert loaded.model.config.position_bias == position_bias
    assert loaded.labels == original.labels
    assert loaded.encoder.max_length == original.encoder.max_length
    assert loaded.training["locales"] == ["de-DE"]


def test_weights_of_an_int8_student_differ_by_half_a_step(checkpoint: Path, student_folder: Path) -> None:
    expected, found = (load_checkpoint(x).model.state_dict() for x in (checkpoint, student_folder))

    assert expected.keys() == found.keys()
    for name, weights in expected.items():
        assert (found[name] - weights).abs().max() <= 1.02 * HALF_A_STEP * weights.abs().max(), name


def test_an_int8_student_has_the_position_biases_of_its_checkpoint(
    checkpoint: Path, spoilt: Path, tmp_path: Path
) -> None:
    original = with_position_bias(load_checkpoint(checkpoint), True)
    expected = {name: value for name, value in original.model.named_parameters() if "position_bias" in name}
    for values in expected.values():
        torch.nn.init.normal_(values)
    export_fp32(original.model, tmp_path / "graph.onnx")
    quantise_int8(tmp_path / "graph.onnx", tmp_path / "graph.onnx")
    with_graph(spoilt, onnx.load(str(tmp_path / "graph.onnx")))

    found = load_checkpoint(spoilt).model.state_dict()

    assert expected
    for name, values in expected.items():
        assert torch.equal(found[name], values), name


@pytest.mark.parametrize("name", shipped_students())
def test_a_shipped_student_opens_by_its_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no folder of that name
    checkpoint, student = load_checkpoint(name), Student.load(student_folder(name))

    assert checkpoint.model.count_parameters()[0] == student.manifest.architecture.parameters
    for golden in student.manifest.golden:
        served = student.logits(student.encoder.encode(golden.text))
        for head, logits in logits_of(checkpoint, golden.text).items():
            # only the service rounds the activations
            torch.testing.assert_close(logits, torch.from_numpy(served[head]), atol=0.4, rtol=0)


def test_a_folder_comes_before_the_shipped_student_of_its_name(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = shipped_students()[0]
    shutil.copytree(checkpoint, tmp_path / name)
    monkeypatch.chdir(tmp_path)

    assert load_checkpoint(name).training["locales"] == ["de-DE"]


def test_fine_tuning_goes_on_from_a_student(student_folder: Path, sample: Path, tmp_path: Path) -> None:
    data = ["--data", str(sample), "--locales", "de-DE", "--epochs", "1", "--learning-rate", "1e-6", "--dropout", "0"]
    scores = []
    for more in (["--init", str(student_folder)], ["--size", "xs", "--vocabulary", "300"]):
        out = tmp_path / more[0]
        assert finetune.main([*data, *more, "--out", str(out)]) == 0
        scores.append(load_checkpoint(out).training["dev"]["mean"]["exact_match"])

    assert scores[0] > scores[1]


def test_an_encoder_for_pretraining_has_the_students_weights(student_folder: Path) -> None:
    loaded, ids = load_checkpoint(student_folder), torch.tensor([[2, 7, 9]])

    alone = loaded.encoder_alone(dropout=0.0).eval()

    hidden = alone(ids).last_hidden_state
    assert torch.equal(hidden, loaded.model(ids).last_hidden_state)
    assert alone.token_logits(hidden[0]).shape == (3, loaded.model.config.vocab_size)


def test_a_graph_of_another_exporter_is_refused(spoilt: Path) -> None:
    graph = onnx.load(str(spoilt / MODEL_FILE))
    for node in graph.graph.node:
        node.name = ""
    with_graph(spoilt, graph)

    problem = "spoilt: model.onnx was not exported by this project: no LayerNormalization of norm"
    with pytest.raises(CheckpointError, match=problem):
        load_checkpoint(spoilt)


def test_a_damaged_student_is_refused(spoilt: Path) -> None:
    (spoilt / MODEL_FILE).write_bytes(b"no graph")

    with pytest.raises(CheckpointError, match=r"spoilt: model.onnx has sha256"):
        load_checkpoint(spoilt)
