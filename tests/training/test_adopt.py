from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from export import onnx
from training import adopt, evaluate, finetune
from training.models.checkpoint import load_checkpoint

LOCALES = "de-DE,fr-FR"


def test_an_adopted_encoder_is_fine_tuned_exported_and_answers(
    hub_xlm_roberta: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(sample), "--locales", LOCALES]
    adopted, tuned, student = (str(tmp_path / name) for name in ("adopted", "tuned", "student"))

    assert adopt.main(["--encoder", str(hub_xlm_roberta), "--tokens", "250", *data, "--out", adopted]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["tokens"] == 250 < facts["tokens_before"]
    assert load_checkpoint(adopted).training["encoder"] == "xlm-roberta"

    flags = ["--init", adopted, "--epochs", "1", "--layer-decay", "0.8", "--head-rate", "5", "--out", tuned]
    assert finetune.main([*data, *flags]) == 0
    assert load_checkpoint(tuned).model.config.norm == "post"

    exported = onnx.main(["--ckpt", tuned, "--data", str(sample), "--out", student])
    assert exported == 0
    assert evaluate.main(["--student", student, *data]) == 0
    model, read_back = load_checkpoint(tuned).model, load_checkpoint(student).model
    assert (read_back.config.norm, read_back.config.norm_eps) == ("post", model.config.norm_eps)
    ids = torch.tensor([[2, 7, 9]])
    with torch.no_grad():  # the student's weights are rounded to seven bits
        torch.testing.assert_close(read_back(ids).intent_logits, model(ids).intent_logits, atol=0.05, rtol=0)


def test_layers_are_numbers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        adopt.main(["--encoder", "x", "--layers", "2,four", "--out", str(tmp_path / "out")])
    assert "argument --layers: four; allowed: numbers of layers, such as 2,4,6" in capsys.readouterr().err


def test_tokens_need_texts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        adopt.main(["--encoder", "x", "--tokens", "100", "--out", str(tmp_path / "out")])
    assert "--tokens: needs --texts or --data" in capsys.readouterr().err
