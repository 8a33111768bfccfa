"""Sentences that are no requests, in training."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from service.student.tokenization import TextEncoder
from training import finetune
from training.data.utterances import Utterance
from training.models.checkpoint import load_checkpoint
from training.models.student import StudentOutput
from training.objectives.plain_text import PlainText, outlier_exposure_loss
from training.text.corpus import CorpusError
from training.text.held_out import HeldOut
from training.text.tokenizer import train_tokenizer

SENTENCES = [f"der alte mann ging {word} über die brücke und schwieg" for word in ("gestern", "langsam", "oft", "nie")]


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    file = tmp_path / "plain.txt.gz"
    file.write_bytes(gzip.compress("\n".join([*SENTENCES * 10, "Wort", " ".join(["lang"] * 30)]).encode()))
    return str(file)


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(train_tokenizer(SENTENCES * 5, 200), 64)


def test_batches_depend_on_seed_and_step_only(corpus: str, encoder: TextEncoder) -> None:
    one, other = (PlainText.out_of_scope([corpus], encoder, 8, seed=3) for _ in range(2))

    assert torch.equal(one.batch(5, 0).input_ids, other.batch(5, 0).input_ids)
    assert not torch.equal(one.batch(5, 0).input_ids, one.batch(6, 0).input_ids)
    assert one.batch(5, 0).input_ids.shape[0] == 8
    assert bool((one.batch(5, 0).slots == -100).all())


def test_too_few_sentences_are_refused(corpus: str, encoder: TextEncoder) -> None:
    with pytest.raises(CorpusError, match="40 sentences of 2 to 16 words; a step needs 41"):
        PlainText.out_of_scope([corpus], encoder, 41, seed=1)


def test_dev_and_test_utterances_are_removed(tmp_path: Path, encoder: TextEncoder) -> None:
    lines = ["Der alte Mann ging oft über die Brücke, und schwieg!", "gestern war  er da", "Heute war er da."]
    (tmp_path / "plain.txt").write_text("\n".join(lines))
    held_out = HeldOut(
        [
            Utterance("1", SENTENCES[2], "de-DE", "dev"),
            Utterance("2", "gestern war er da", "de-DE", "test"),
            Utterance("3", "heute war er da", "de-DE", "train"),
        ]
    )

    imitated = PlainText.to_imitate([str(tmp_path / "plain.txt")], encoder, 1, 1, held_out)
    outside = PlainText.out_of_scope([str(tmp_path / "plain.txt")], encoder, 1, 1, held_out)

    assert imitated.texts == ["Heute war er da."]
    assert [text.lower().strip(".") for text in outside.texts] == ["heute war er da"]
    assert held_out.facts() == {"unlabelled": 2, "out_of_scope": 2}


def test_loss_is_least_where_the_student_is_unsure() -> None:
    sure = StudentOutput(domain_logits=torch.tensor([[9.0, 0.0]]), intent_logits=torch.tensor([[9.0, 0.0, 0.0]]))
    unsure = StudentOutput(domain_logits=torch.zeros(1, 2), intent_logits=torch.zeros(1, 3))

    assert float(outlier_exposure_loss(unsure)) == pytest.approx(torch.tensor([2.0, 3.0]).log().sum().item())
    assert float(outlier_exposure_loss(sure)) > float(outlier_exposure_loss(unsure))


def test_student_learns_to_be_unsure(sample: Path, corpus: str, tmp_path: Path) -> None:
    flags = ["--data", str(sample), "--locales", "de-DE", "--size", "xs", "--epochs", "12", "--batch-size", "16"]
    flags += ["--learning-rate", "0.003", "--vocabulary", "600", "--label-smoothing", "0"]
    exposed = ["--out-of-scope", f"de-DE={corpus}", "--out-of-scope-share", "0.5"]
    surest = {}
    for name, more in (("plain", []), ("exposed", exposed)):
        assert finetune.main([*flags, *more, "--out", str(tmp_path / name)]) == 0
        checkpoint = load_checkpoint(tmp_path / name)
        ids = torch.tensor([checkpoint.encoder.encode(SENTENCES[0]).ids])
        with torch.inference_mode():
            surest[name] = float(checkpoint.model.eval()(ids).domain_logits.softmax(-1).max())

    assert surest["exposed"] < surest["plain"]
    training = json.loads((tmp_path / "exposed" / "training.json").read_text())
    assert training["dev_or_test_removed"] == {"out_of_scope": 0}
    settings = training["settings"]
    assert settings["out_of_scope"] == "de-DE=plain.txt.gz"


def test_slots_alone_can_not_be_unsure(
    sample: Path, corpus: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flags = ["--data", str(sample), "--locales", "de-DE", "--size", "xs", "--vocabulary", "300", "--heads", "slots"]
    assert finetune.main([*flags, "--out-of-scope", corpus, "--out", str(tmp_path / "out")]) == 2

    assert "needs a domain or intent head" in capsys.readouterr().err
