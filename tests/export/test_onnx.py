from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx as onnx_library
import pytest
import torch

from export import onnx
from service.manifest import Manifest, read_manifest
from service.student import Student
from training import datasets, finetune
from training.checkpoint import load_checkpoint


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


def test_the_manifest_holds_what_was_measured(student_folder: Path) -> None:
    manifest = read_manifest(student_folder)

    assert manifest.parity["fp32_max_abs_logit_difference"]["de-DE"] < 1e-4
    assert set(manifest.parity["agreement_with_fp32"]["de-DE"]) == {"domain", "intent", "slots"}
    assert set(manifest.accuracy) == {"data", "partition", "fp32", "int8", "typed"}
    assert set(manifest.latency["int8"]) == {"8", "16", "32"}
    assert manifest.training["settings"]["size"] == "xs"
    assert manifest.architecture.non_embedding_parameters == 396_800
    assert len(manifest.golden) == 4


def test_int8_weights_are_int8_and_the_batch_is_one(student_folder: Path) -> None:
    graph = onnx_library.load(str(student_folder / "model.onnx")).graph

    by_type: dict[int, int] = {}
    for tensor in graph.initializer:
        by_type[tensor.data_type] = by_type.get(tensor.data_type, 0) + int(np.prod(tensor.dims))
    int8 = by_type.get(onnx_library.TensorProto.INT8, 0) + by_type.get(onnx_library.TensorProto.UINT8, 0)
    assert int8 > 0.95 * sum(by_type.values())
    assert [d.dim_value or d.dim_param for d in graph.input[0].type.tensor_type.shape.dim] == [1, "pieces"]


def test_fp32_computes_what_pytorch_does_at_every_length(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "exact"
    assert onnx.main(["--ckpt", str(checkpoint), "--out", str(out), "--precision", "fp32"]) == 0
    student, loaded = Student.load(out), load_checkpoint(checkpoint)

    for length in (1, 2, 31, 64):
        ids = [2] + [5 + i for i in range(length - 1)]
        logits = student._session.run(None, {"input_ids": np.array([ids])})
        with torch.no_grad():
            expected = loaded.model(torch.tensor([ids]))
        for found, wanted in zip(
            logits, (expected.domain_logits, expected.intent_logits, expected.slot_logits), strict=True
        ):
            np.testing.assert_allclose(found, wanted.numpy(), atol=1e-4)
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["precision"] == "fp32"


def test_a_student_with_a_part_of_the_heads_exports(sample: Path, tmp_path: Path) -> None:
    more = ["--size", "xs", "--epochs", "1", "--vocabulary", "300", "--heads", "intent,slots", "--locales", "de-DE"]
    assert finetune.main(["--data", str(sample), *more, "--out", str(tmp_path / "ckpt")]) == 0

    assert onnx.main(["--ckpt", str(tmp_path / "ckpt"), "--out", str(tmp_path / "icner")]) == 0

    answer = Student.load(tmp_path / "icner").predict("weck mich auf")
    assert answer.domain is None
    assert answer.intent is not None
    assert answer.slots is not None


def test_golden_sentences_come_from_the_evaluated_data_where_the_sample_lacks_the_locale(
    checkpoint: Path, sample: Path, tmp_path: Path
) -> None:
    rows = [datasets.row_of(u) for u in datasets.load(str(sample), ["fr-FR"]).utterances]
    (tmp_path / "fr-FR.jsonl").write_text("\n".join(json.dumps(row) for row in rows))

    out = tmp_path / "student"
    golden = ["--golden", str(tmp_path / "fr-FR.jsonl")]  # no German in it
    assert onnx.main(["--ckpt", str(checkpoint), "--out", str(out), *golden]) == 0

    assert {g.locale for g in read_manifest(out).golden} == {"de-DE"}


def test_the_notice_stands_in_the_model_card(checkpoint: Path, tmp_path: Path) -> None:
    notice = tmp_path / "notice.md"
    notice.write_text("Trained on texts by Jane Doe, CC BY 4.0.")

    assert onnx.main(["--ckpt", str(checkpoint), "--out", str(tmp_path / "s"), "--notice", str(notice)]) == 0

    card = (tmp_path / "s" / "MODEL_CARD.md").read_text()
    assert "Jane Doe, CC BY 4.0" in card
    assert "| de-DE |" in card


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

    export_fp32 = onnx.export_fp32
    monkeypatch.setattr(onnx, "export_fp32", wrong)

    assert onnx.main(["--ckpt", str(checkpoint), "--out", str(tmp_path / "students" / "s")]) == 2

    assert "fp32 graph differs from PyTorch" in capsys.readouterr().err
    assert list((tmp_path / "students").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [("full", "exists and is not empty"), ("bad name", "name: 'bad name'")],
)
def test_output_that_cannot_be_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")

    assert onnx.main(["--ckpt", str(checkpoint), "--out", str(tmp_path / name)]) == 2

    assert message in capsys.readouterr().err
    assert [f.name for f in tmp_path.iterdir()] == ["full"]
    assert (tmp_path / "full" / "mine.txt").read_text() == "keep"


def test_an_exported_student_is_read_by_the_schema(student_folder: Path) -> None:
    manifest = Manifest.model_validate_json((student_folder / "manifest.json").read_bytes())

    assert manifest == read_manifest(student_folder)


def test_ask_answers_without_torch(student_folder: Path) -> None:
    script = (
        "import sys; from service.ask import main; code = main(sys.argv[1:]); "
        "assert not {'torch', 'transformers', 'optimum', 'onnx'} & set(sys.modules); sys.exit(code)"
    )
    arguments = ["--student", str(student_folder), "--locale", "de-DE", "weck mich am freitag um neun uhr auf"]

    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True, env={**os.environ}
    )

    answer = json.loads(done.stdout)
    assert answer["domain"]["name"] == "alarm"
    for slot in answer["slots"]:
        assert answer["text"][slot["start"] : slot["end"]] == slot["value"]
