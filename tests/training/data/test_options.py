"""The flags that say how labelled data is read, on the commands that read it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from export.data import Options
from export.data import read_data as read_export_data
from export.onnx import parser as export_parser
from training import evaluate
from training.check import __main__ as check
from training.data import datasets
from training.runs import finetuning
from training.runs.settings import FinetuneSettings

FLAGS = ["--columns", "text=2,intent=1", "--dev-share", "0.5", "--split-seed", "3"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table without a header, a dev, or a locale: it can't be read without flags."""
    rows = [
        f"{intent};{verb} {intent} {i}" for intent in ("licht", "musik") for verb in ("an", "aus") for i in range(5)
    ]
    (tmp_path / "data.csv").write_text("\n".join(rows))
    return tmp_path / "data.csv"


def test_training_and_evaluation_read_the_same_split(
    table: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = FinetuneSettings(
        data=str(table), locales="de-DE", columns="text=2,intent=1", dev_share=0.5, split_seed=3
    )
    data = finetuning.read_data(settings)

    assert {u.intent for u in data.train} == {"licht", "musik"}
    assert evaluate.main(["--ckpt", str(checkpoint), "--data", str(table), "--locales", "de-DE", *FLAGS]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["utterances"] == {"de-DE": len(data.dev)} == {"de-DE": 10}
    assert report["slots_annotated"] == {"de-DE": 0}


def test_the_data_check_reads_with_flags(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main([str(table), "--locales", "de-DE", "--student", "xs", *FLAGS]) == 0

    assert json.loads(capsys.readouterr().out.splitlines()[-1])["utterances"] == 20


def test_the_export_reads_its_data_with_flags(table: Path, tmp_path: Path) -> None:
    arguments = ["--ckpt", "none", "--out", str(tmp_path / "out"), "--data", str(table), "--no-calibration", *FLAGS]
    options = Options(**vars(export_parser().parse_args(arguments)))

    data = read_export_data(options, ["de-DE"])

    assert len(data.utterances) == 10
    assert {u.intent for u in data.golden} != {"licht", "musik"}  # those of the sample set are read without flags


def test_columns_of_another_form_are_named() -> None:
    settings = FinetuneSettings(data="data.csv", columns="utt=1")

    with pytest.raises(datasets.DatasetError, match="--columns: 'utt=1'; allowed: FIELD=COLUMN"):
        finetuning.read_data(settings)
