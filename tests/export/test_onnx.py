from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx as onnx_library
import pytest
import torch

from export import onnx, pipeline
from export.calibration import MIN_TEXTS
from export.data import read_out_of_scope
from export.report import render_card
from service.student.manifest import GOLDEN_TOLERANCE, Labels, read_manifest
from service.student.predictor import OUTPUT_OF_HEAD
from service.student.student import Student
from service.student.tokenization import Encoded
from training.data import datasets
from training.data.utterances import Utterance
from training.models.checkpoint import load_checkpoint, save_checkpoint
from training.models.student import StudentConfig, StudentModel


def write_rows(file: Path, utterances: Iterable[Utterance]) -> Path:
    """Write a data set in the format of MASSIVE."""
    file.write_text("\n".join(json.dumps(datasets.row_of(u)) for u in utterances))
    return file


def test_the_folder_is_what_the_service_loads(student_folder: Path) -> None:
    assert sorted(f.name for f in student_folder.iterdir()) == [
        "MODEL_CARD.md",
        "manifest.json",
        "model.onnx",
        "tokenizer.json",
    ]
    student = Student.load(student_folder)
    assert student.manifest.name == "tiny"
    assert student.manifest.precision == "int8"
    assert student.manifest.locales == ("de-DE",)


def test_the_manifest_contains_the_measurements(student_folder: Path, sample: Path) -> None:
    manifest = read_manifest(student_folder)

    assert manifest.parity["fp32_max_abs_logit_difference"]["de-DE"] < 1e-4
    assert manifest.parity["sentences"]["de-DE"] == len(datasets.load(str(sample), ["de-DE"]).part("dev"))
    assert set(manifest.parity["agreement_with_fp32"]["de-DE"]) == {"domain", "intent", "slots"}
    assert set(manifest.accuracy) == {"data", "partition", "slots_annotated", "fp32", "int8", "typed", "typed_drops"}
    assert {"quotes", "emoji", "soft hyphen"} <= set(manifest.accuracy["typed_drops"]["drops"])
    assert set(manifest.latency["int8"]) == {"8", "16", "32"}
    assert manifest.training["settings"]["size"] == "xs"
    assert "/" not in json.dumps(manifest.training["settings"])  # a path could name a person or a machine
    assert manifest.architecture.non_embedding_parameters == 396_800
    assert len(manifest.golden) == 7
    assert len({len(golden.tokens) for golden in manifest.golden}) > 2
    assert manifest.golden_tolerance == GOLDEN_TOLERANCE
    assert {golden.text for golden in manifest.golden} <= {u.text for u in datasets.load(str(sample)).utterances}


def test_int8_weights_are_int8_and_there_is_no_batch_axis(student_folder: Path) -> None:
    graph = onnx_library.load(str(student_folder / "model.onnx")).graph

    by_type: dict[int, int] = {}
    for tensor in graph.initializer:
        by_type[tensor.data_type] = by_type.get(tensor.data_type, 0) + int(np.prod(tensor.dims))
    int8 = by_type.get(onnx_library.TensorProto.INT8, 0) + by_type.get(onnx_library.TensorProto.UINT8, 0)
    assert int8 > 0.95 * sum(by_type.values())
    assert [d.dim_value or d.dim_param for d in graph.input[0].type.tensor_type.shape.dim] == ["tokens"]


def test_fp32_computes_what_pytorch_does_at_every_length(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "exact"
    assert onnx.main(["--ckpt", str(checkpoint), "--out", str(out), "--precision", "fp32"]) == 0
    student, loaded = Student.load(out), load_checkpoint(checkpoint)

    for length in range(1, 65):
        ids = [2] + [5 + i for i in range(length - 1)]
        logits = student.logits(Encoded(ids, [], [], False, 0))
        with torch.no_grad():
            expected = loaded.model(torch.tensor([ids]))
        for head, output in OUTPUT_OF_HEAD.items():
            np.testing.assert_allclose(logits[head], getattr(expected, output)[0].numpy(), atol=1e-4)
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["precision"] == "fp32"
    sizes, config = summary["bytes"], loaded.model.config
    assert sum(sizes.values()) == sum(file.bytes for file in student.manifest.files.values())
    assert sizes["embeddings"] == 4 * config.hidden_size * (config.vocab_size + config.max_position_embeddings)
    outside = student.manifest.architecture.non_embedding_parameters
    assert sizes["encoder"] == 4 * outside
    assert sizes["heads"] > 0


@pytest.fixture(scope="session")
def requests(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The German sample with its test partition as more dev: enough for a fit."""
    utterances = datasets.load(str(sample), ["de-DE"]).utterances
    moved = [replace(u, partition="dev" if u.partition == "test" else u.partition) for u in utterances]
    return write_rows(tmp_path_factory.mktemp("requests") / "de-DE.jsonl", moved)


@pytest.fixture(scope="session")
def calibrated(checkpoint: Path, requests: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("students") / "calibrated"
    assert onnx.main(["--ckpt", str(checkpoint), "--out", str(folder), "--data", str(requests)]) == 0
    return folder


def test_a_calibrated_student_is_served_with_confidence_and_scope(calibrated: Path) -> None:
    student = Student.load(calibrated)
    fitted = student.manifest.calibration

    assert fitted is not None
    assert {"domain", "intent"} <= set(fitted.temperatures)
    assert fitted.scope is not None
    assert set(fitted.measured["scope"]) == {"max_softmax", "energy"}
    assert fitted.profile["de-DE"].texts == 66
    assert sum(fitted.profile["de-DE"].confidence) == pytest.approx(1, abs=1e-4)
    assert sum(fitted.profile["de-DE"].domains.values()) == pytest.approx(1, abs=1e-4)
    answer, plain = student.predict("weck mich auf", locale="de-DE"), student.predict("weck mich auf")
    assert answer.in_scope is not None
    assert plain.in_scope is None
    assert answer.intent is not None
    assert plain.intent is not None
    assert answer.intent[0].name == plain.intent[0].name
    assert (answer.intent[0].confidence != plain.intent[0].confidence) == (fitted.temperatures["intent"]["de-DE"] != 1)


def test_the_served_student_rejects_the_measured_share(calibrated: Path, requests: Path) -> None:
    student = Student.load(calibrated)
    scope = student.manifest.calibration and student.manifest.calibration.scope
    assert scope is not None
    dev = datasets.load(str(requests), ["de-DE"]).part("dev")
    outside = read_out_of_scope([], ["de-DE"])["de-DE"]["sample"]

    rejected = sum(student.predict(u.text, locale="de-DE").in_scope is False for u in dev)
    passed = sum(student.predict(text, locale="de-DE").in_scope is True for text in outside)

    assert rejected == 1  # two percent of 66
    measured = student.manifest.calibration.measured["scope"][scope.method]["de-DE"]["sample"]  # type: ignore[union-attr]
    assert passed / len(outside) == pytest.approx(measured["false_acceptance"], abs=1e-4)


def test_the_graph_returns_logits_alone(calibrated: Path, student_folder: Path) -> None:
    for folder in (calibrated, student_folder):
        outputs = [output.name for output in onnx_library.load(str(folder / "model.onnx")).graph.output]
        assert outputs == ["domain_logits", "intent_logits", "slot_logits"]


def test_card_and_summary_report_the_calibration_and_the_notice(
    checkpoint: Path, requests: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "novels.txt").write_text("Der Hund schlief.\nSie sah aus dem Fenster.\n")
    (tmp_path / "notice.md").write_text("Trained on texts by Jane Doe, CC BY 4.0.")
    arguments = ["--ckpt", str(checkpoint), "--data", str(requests), "--false-rejection", "0.1", "--precision", "fp32"]
    files = ["--out-of-scope", f"de-DE={tmp_path}/novels.txt", "--notice", f"{tmp_path}/notice.md"]

    assert onnx.main([*arguments, *files, "--out", str(tmp_path / "s")]) == 0

    captured = capsys.readouterr()
    found = json.loads(captured.out.splitlines()[-1])["calibration"]
    assert {"domain", "intent"} <= set(found["expected_calibration_error"])
    assert set(found["methods"]) == {"max_softmax", "energy"}
    assert "calibration error: domain" in captured.err
    card = (tmp_path / "s" / "MODEL_CARD.md").read_text()
    assert "| de-DE  | novels    |" in card
    assert "10 % of requests" in card
    assert "Ways of typing that cost most, in points of exact match" in card
    assert "Ways of typing that cost most" in captured.err
    assert "confidences hold for texts like those it was scored on" in card
    assert "Jane Doe, CC BY 4.0" in card
    assert "\n| de-DE " in card
    assert Student.load(tmp_path / "s").predict("weck mich auf", locale="de-DE").in_scope is not None


def test_a_card_has_a_column_for_each_method_that_was_measured(calibrated: Path) -> None:
    manifest = read_manifest(calibrated)
    assert manifest.calibration is not None
    tables = manifest.calibration.measured["scope"]
    measured = {**manifest.calibration.measured, "scope": {**tables, "another": tables["energy"]}}
    calibration = manifest.calibration.model_copy(update={"measured": measured})

    card = render_card(manifest.model_copy(update={"calibration": calibration}), "")

    header, _, row = (line.split("|")[1:-1] for line in card[card.index("| locale | sentences ") :].splitlines()[:3])
    assert [name.strip() for name in header] == ["locale", "sentences", "max_softmax", "energy", "another"]
    assert row[-1].strip() == row[-2].strip()


def test_a_small_partition_and_a_flag_leave_calibration_out(
    student_folder: Path, checkpoint: Path, sample: Path, tmp_path: Path
) -> None:
    german = datasets.load(str(sample), ["de-DE"])
    dev = german.part("dev")[:5]
    assert sum(len(u.text.split()) for u in dev) < MIN_TEXTS  # so there are fewer slots, whatever the student finds
    few = write_rows(tmp_path / "de-DE.jsonl", [*german.part("train")[:20], *dev])
    assert onnx.main(["--ckpt", str(checkpoint), "--out", str(tmp_path / "s"), "--data", str(few)]) == 0

    for folder in (tmp_path / "s", student_folder):  # exported with --no-calibration
        student = Student.load(folder)
        assert student.manifest.calibration is None
        assert student.predict("weck mich auf", locale="de-DE").in_scope is None
        assert "confidences are not calibrated" in (folder / "MODEL_CARD.md").read_text()


@pytest.mark.parametrize("heads", [("domain",), ("intent", "slots"), ("slots",)])
def test_a_student_with_some_of_the_heads_exports(
    checkpoint: Path, requests: Path, tmp_path: Path, heads: tuple[str, ...]
) -> None:
    whole = load_checkpoint(checkpoint)
    labels = Labels(**{head: getattr(whole.labels, head) for head in heads})
    model = StudentModel(StudentConfig.of_size("xs", labels, vocab_size=whole.model.config.vocab_size))
    save_checkpoint(tmp_path / "ckpt", model, whole.encoder.tokenizer, whole.training)
    out = tmp_path / "part"

    assert onnx.main(["--ckpt", str(tmp_path / "ckpt"), "--out", str(out), "--data", str(requests)]) == 0

    student = Student.load(out)
    answer = student.predict("weck mich auf", locale="de-DE")
    assert (answer.domain is not None) == ("domain" in heads)
    assert (answer.intent is not None) == ("intent" in heads)
    assert (answer.slots is not None) == ("slots" in heads)
    assert (answer.in_scope is not None) == (heads != ("slots",))
    fitted = student.manifest.calibration
    assert (fitted.profile.keys() if fitted else set()) == (set() if heads == ("slots",) else {"de-DE"})


def test_an_invalid_false_rejection_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for value in ("0", "1.5", "two"):
        with pytest.raises(SystemExit):
            onnx.main(["--ckpt", "x", "--out", str(tmp_path / "s"), "--false-rejection", value])
        assert f"{value}: allowed: a share between 0 and 1" in capsys.readouterr().err


def test_golden_sentences_come_from_the_evaluated_data_where_the_sample_lacks_the_locale(
    checkpoint: Path, sample: Path, tmp_path: Path
) -> None:
    french = write_rows(tmp_path / "fr-FR.jsonl", datasets.load(str(sample), ["fr-FR"]).utterances)
    command = ["--ckpt", str(checkpoint), "--golden", str(french), "--precision", "fp32", "--no-calibration"]

    assert onnx.main([*command, "--out", str(tmp_path / "student")]) == 0

    assert {g.locale for g in read_manifest(tmp_path / "student").golden} == {"de-DE"}


@pytest.mark.parametrize("missing", ["tokenizer.json", "model.safetensors", "config.json"])
def test_an_incomplete_checkpoint_leaves_nothing_behind(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
    (broken / missing).unlink()

    assert onnx.main(["--ckpt", str(broken), "--out", str(tmp_path / "students" / "s")]) == 2

    assert f"{missing} is missing" in capsys.readouterr().err
    assert not (tmp_path / "students").exists()


def test_a_graph_that_differs_from_pytorch_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(model: torch.nn.Module, path: Path) -> None:
        other = load_checkpoint(checkpoint).model
        torch.nn.init.normal_(other.heads["intent"].weight)
        export_fp32(other, path)

    export_fp32 = pipeline.export_fp32
    monkeypatch.setattr(pipeline, "export_fp32", wrong)

    assert onnx.main(["--ckpt", str(checkpoint), "--out", str(tmp_path / "students" / "s")]) == 2

    assert "fp32 graph differs from PyTorch" in capsys.readouterr().err
    assert list((tmp_path / "students").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [("full", "exists and is not empty"), ("bad name", "name: 'bad name'")],
)
def test_an_invalid_output_folder_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")

    assert onnx.main(["--ckpt", str(checkpoint), "--out", str(tmp_path / name)]) == 2

    assert message in capsys.readouterr().err
    assert [f.name for f in tmp_path.iterdir()] == ["full"]
    assert (tmp_path / "full" / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize("command", ["export.onnx", "benchmarks.export_recipes"])
def test_the_flags_need_neither_torch_nor_onnx(command: str) -> None:
    script = (
        f"import sys; from {command} import parser; parser(); "
        "assert not {'torch', 'transformers', 'optimum', 'onnx', 'scipy'} & set(sys.modules)"
    )

    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])
