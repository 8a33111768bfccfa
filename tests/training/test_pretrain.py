from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from export import onnx
from training import datasets, finetune, pretrain
from training.checkpoint import load_checkpoint, load_resume_state
from training.corpus import CorpusError, read_lines

IDS = {"[PAD]": 0, "[CLS]": 2, "[MASK]": 3}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    texts = [u.text for u in datasets.load(str(sample)).utterances]
    (folder / "one.txt").write_text("\n\n".join(texts[:600]))
    with gzip.open(folder / "two.txt.gz", "wt") as stream:
        stream.write("\n".join(texts[600:]))
    return folder


def arguments(corpus: Path, out: Path, *more: str) -> list[str]:
    sizes = ["--size", "xs", "--vocabulary", "500", "--epochs", "2", "--batch-size", "64", "--threads", "1"]
    return ["--corpus", str(corpus), *sizes, "--out", str(out), *more]


@pytest.fixture(scope="module")
def encoder(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pretrained") / "encoder"
    assert pretrain.main(arguments(corpus, out)) == 0
    return out


def test_lines_are_read_from_folders_and_files_without_blanks(corpus: Path) -> None:
    assert len(list(read_lines([str(corpus)]))) == 1100
    assert len(list(read_lines([str(corpus / "one.txt"), str(corpus / "two.txt.gz")]))) == 1100


@pytest.mark.parametrize("name", ["nowhere", "wrong.csv", "latin.txt", "cut.txt.gz"])
def test_unreadable_text_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "wrong.csv").write_text("a")
    (tmp_path / "latin.txt").write_bytes("für\n".encode("latin-1"))
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"text\n" * 1000)[:30])

    with pytest.raises(CorpusError, match=name):
        list(read_lines([str(tmp_path / name)]))


@given(st.integers(0, 1000), st.floats(0.05, 0.9))
def test_masks_spare_padding_and_cls_and_keep_what_is_not_predicted(seed: int, share: float) -> None:
    torch.manual_seed(seed)
    input_ids = torch.randint(4, 50, (8, 20))
    input_ids[:, 0], input_ids[:, 15:] = 2, 0
    mask = (input_ids != 0).long()

    corrupted, targets = pretrain.mask_pieces(input_ids, mask, share, IDS, 50)

    chosen = targets != pretrain.IGNORED
    assert bool(chosen.any())
    assert not bool(chosen[:, 0].any())
    assert not bool(chosen[:, 15:].any())
    assert torch.equal(targets[chosen], input_ids[chosen])
    assert torch.equal(corrupted[~chosen], input_ids[~chosen])


def test_four_fifths_of_the_chosen_are_masked() -> None:
    torch.manual_seed(0)
    input_ids = torch.full((100, 100), 7)

    corrupted, targets = pretrain.mask_pieces(input_ids, torch.ones_like(input_ids), 0.15, IDS, 50)

    chosen = targets != pretrain.IGNORED
    assert chosen.float().mean().item() == pytest.approx(0.15, abs=0.02)
    assert (corrupted[chosen] == 3).float().mean().item() == pytest.approx(0.8, abs=0.04)
    assert (corrupted[chosen] == 7).float().mean().item() == pytest.approx(0.1, abs=0.04)


def test_it_learns_and_says_what_it_did(encoder: Path, corpus: Path, tmp_path: Path) -> None:
    more = ["--learning-rate", "0", "--epochs", "1"]
    assert pretrain.main(arguments(corpus, tmp_path / "untrained", *more)) == 0

    training = json.loads((encoder / "training.json").read_text())
    untrained = json.loads((tmp_path / "untrained" / "training.json").read_text())
    assert training["held_out"]["held_out_loss"] < untrained["held_out"]["held_out_loss"] - 0.1
    assert training["lines"] == 1100 - 110
    assert training["settings"]["corpus"].endswith(corpus.name)


def test_finetuning_goes_on_from_it(encoder: Path, sample: Path, tmp_path: Path) -> None:
    more = ["--size", "xs", "--locales", "de-DE", "--epochs", "1", "--learning-rate", "0", "--threads", "1"]
    assert finetune.main(["--data", str(sample), "--init", str(encoder), *more, "--out", str(tmp_path / "next")]) == 0

    first, second = load_checkpoint(encoder), load_checkpoint(tmp_path / "next")
    assert torch.equal(first.model.pieces.weight, second.model.pieces.weight)
    assert second.labels.heads == ("domain", "intent", "slots")
    assert second.training["init"]["command"] == "training.pretrain"


def test_an_interrupted_run_resumes_to_the_very_same_weights(
    encoder: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "killed"
    with monkeypatch.context() as patch:  # stop in the middle of an epoch, just after a state was saved
        patch.setattr(pretrain.tqdm, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            pretrain.main(arguments(corpus, out, "--save-every", "5"))
    assert load_resume_state(out)["progress"]["step"] == 20

    assert pretrain.main(["--out", str(out), "--resume", "--threads", "1"]) == 0

    assert (out / "model.safetensors").read_bytes() == (encoder / "model.safetensors").read_bytes()


def test_a_student_trained_on_top_of_it_exports_with_both_stages_on_its_card(
    encoder: Path, sample: Path, tmp_path: Path
) -> None:
    more = ["--size", "xs", "--locales", "de-DE", "--epochs", "1", "--threads", "1"]
    assert finetune.main(["--data", str(sample), "--init", str(encoder), *more, "--out", str(tmp_path / "ckpt")]) == 0

    assert onnx.main(["--ckpt", str(tmp_path / "ckpt"), "--out", str(tmp_path / "student")]) == 0

    card = (tmp_path / "student" / "MODEL_CARD.md").read_text()
    assert card.index("python -m training.pretrain") < card.index("python -m training.finetune")


def test_an_encoder_without_heads_is_not_exported(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert onnx.main(["--ckpt", str(encoder), "--out", str(tmp_path / "student")]) == 2

    assert "is an encoder without heads" in capsys.readouterr().err


def test_a_run_of_another_command_is_not_resumed(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain, "save_checkpoint", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pretrain.main(arguments(corpus, tmp_path / "out", "--epochs", "1"))

    assert finetune.main(["--out", str(tmp_path / "out"), "--resume"]) == 2

    assert "holds an interrupted run of training.pretrain, not of training.finetune" in capsys.readouterr().err


def test_no_text_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrain.main(["--out", str(tmp_path / "out")]) == 2

    assert "no text: give --corpus, --data or both" in capsys.readouterr().err
