from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from export import onnx, trimming
from export.folder import ExportError
from export.graph import SESSION, export_fp32
from export.trimming import chosen_locales, compare, needed, trim, with_rows, with_tokens
from service.student.manifest import Labels
from service.student.predictor import open_session
from service.student.student import Student
from service.student.tokenization import UNKNOWN, TextEncoder
from training.data import datasets
from training.models.checkpoint import Checkpoint, load_checkpoint
from training.models.prediction import answers_of_model
from training.models.student import StudentConfig, StudentModel
from training.text.tokenizer import SPECIAL_TOKENS, special_ids, train_tokenizer

SAMPLE = datasets.SAMPLE
GERMAN, FRENCH = ([u.text for u in datasets.load(str(SAMPLE), [locale]).utterances] for locale in ("de-DE", "fr-FR"))
WHOLE = TextEncoder(train_tokenizer([*GERMAN, *FRENCH], 700), 64)
KEPT = needed(WHOLE.tokenizer, GERMAN[: len(GERMAN) // 2])
TRIMMED = TextEncoder(with_tokens(WHOLE.tokenizer, KEPT), 64)

words = st.sampled_from(sorted({word for text in [*GERMAN, *FRENCH] for word in text.split()}))
texts = st.one_of(
    st.lists(words, max_size=12).map(" ".join),
    st.text(max_size=30),
    st.lists(st.one_of(words, st.text(alphabet="abeißéж語! ", max_size=6)), max_size=8).map(" ".join),
)


@given(texts)
@settings(max_examples=400)
def test_a_text_whose_tokens_are_kept_is_unchanged_and_any_other_keeps_its_words(text: str) -> None:
    whole, trimmed = WHOLE.encode_whole(text), TRIMMED.encode_whole(text)

    if set(WHOLE.tokenizer.encode(text).ids) <= set(KEPT):
        assert [KEPT[number] for number in trimmed.ids] == whole.ids
        assert trimmed[1:] == whole[1:]
    elif not trimmed.truncated:
        assert trimmed.words == whole.words
        assert trimmed.unknown == whole.unknown


def test_the_trimmed_vocabulary_is_smaller_and_needs_more_tokens_for_other_text() -> None:
    assert len(KEPT) < 0.8 * WHOLE.tokenizer.get_vocab_size()
    assert any(len(TRIMMED.encode(text).ids) > len(WHOLE.encode(text).ids) for text in FRENCH)


def test_special_tokens_keep_their_meaning_at_any_id() -> None:
    content = json.loads(WHOLE.tokenizer.to_str())
    vocabulary = content["model"]["vocab"]
    moved = [*vocabulary[4:], *reversed(vocabulary[:4])]
    content["model"]["vocab"] = moved
    places = {piece: number for number, (piece, _) in enumerate(moved)}
    content["model"]["unk_id"] = places[UNKNOWN]
    for added in content["added_tokens"]:
        added["id"] = places[added["content"]]
    content["post_processor"]["special_tokens"]["[CLS]"]["ids"] = [places["[CLS]"]]
    tokenizer = Tokenizer.from_str(json.dumps(content))

    kept = needed(tokenizer, ["weck mich"])
    trimmed = with_tokens(tokenizer, kept)

    assert [kept[number] for number in special_ids(trimmed)[:4]] == list(special_ids(tokenizer)[:4])
    assert all(trimmed.token_to_id(piece) is not None for piece in SPECIAL_TOKENS)
    assert [kept[n] for n in trimmed.encode("weck mich ж").ids] == tokenizer.encode("weck mich ж").ids


def test_embeddings_follow_their_tokens_and_the_masked_head_is_dropped() -> None:
    config = StudentConfig.of_size("xs", Labels(domain=("a",)), vocab_size=9, masked=True)
    model = StudentModel(config)

    smaller = with_rows(model, [0, 3, 8])

    torch.testing.assert_close(smaller.token_embeddings.weight, model.token_embeddings.weight[[0, 3, 8]])
    torch.testing.assert_close(smaller.heads["domain"].weight, model.heads["domain"].weight)
    assert smaller.config.vocab_size == 3
    assert smaller.masked is None
    assert not smaller.training
    assert model.config.vocab_size == 9


def test_logits_are_bit_identical_where_the_tokens_are_kept(checkpoint: Path, tmp_path: Path) -> None:
    whole = load_checkpoint(checkpoint)
    trimmed = trim(whole, GERMAN[:120], ["de-DE"])
    graphs = []
    for name, found in (("whole", whole), ("trimmed", trimmed.checkpoint)):
        export_fp32(found.model, tmp_path / f"{name}.onnx")
        graphs.append(open_session(tmp_path / f"{name}.onnx", SESSION))

    same = 0
    for text in GERMAN:
        ids = [np.array(found.encoder.encode(text).ids) for found in (whole, trimmed.checkpoint)]
        if not set(ids[0].tolist()) <= set(trimmed.kept):
            continue
        same += 1
        for one, other in zip(*(g.run(None, {"input_ids": i}) for g, i in zip(graphs, ids, strict=True)), strict=True):
            np.testing.assert_array_equal(one, other)
    assert 120 <= same < len(GERMAN)


def test_the_comparison_counts_what_changed(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trimming, "MIN_SAME_ANSWERS", 0)
    whole = load_checkpoint(checkpoint)
    utterances = datasets.load(str(SAMPLE), ["de-DE"]).part("dev")
    trimmed = trim(whole, [], ["de-DE"])  # single characters alone

    found = compare(whole, trimmed, utterances)

    one, other = (answers_of_model(c.model, c.encoder, c.labels, utterances) for c in (whole, trimmed.checkpoint))
    expected = 100 * float(np.mean([a == b for a, b in zip(one, other, strict=True)]))
    assert found["same_answers"] == {"de-DE": pytest.approx(expected, abs=0.01)}
    assert found["same_pieces"]["de-DE"] < 10
    assert found["pieces"] == len(trimmed.kept) < found["pieces_before"] == whole.encoder.tokenizer.get_vocab_size()
    monkeypatch.setattr(trimming, "MIN_SAME_ANSWERS", 99.0)
    with pytest.raises(
        ExportError, match=r"of the answers in de-DE are unchanged; allowed: at least 99 %.*--trim-text"
    ):
        compare(whole, trimmed, utterances)


def test_a_trimmed_student_is_exported_and_served(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "de.txt"
    corpus.write_text("\n".join(u.text for u in datasets.load(str(SAMPLE), ["de-DE"]).part("dev")))
    out = tmp_path / "student"

    flags = ["--locales", "de-DE", "--trim-text", str(corpus)]
    assert onnx.main(["--ckpt", str(checkpoint), "--out", str(out), *flags]) == 0

    student, whole = Student.load(out), load_checkpoint(checkpoint)
    found = student.manifest.parity["trimming"]
    assert found["same_pieces"] == found["same_answers"] == {"de-DE": 100.0}
    assert student.manifest.architecture.vocabulary == found["pieces"] < whole.model.config.vocab_size
    assert student.encoder.tokenizer.get_vocab_size() == found["pieces"]
    assert student.manifest.locales == ("de-DE",)
    card = (out / "MODEL_CARD.md").read_text()
    assert f"to {found['pieces']} of {found['pieces_before']} tokens of a student of de-DE." in card
    captured = capsys.readouterr()
    assert json.loads(captured.out.splitlines()[-1])["trimming"] == found
    assert "tokens kept" in captured.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--locales", "pt-PT"], "--locales: pt-PT; allowed: de-DE"),
        (["--trim-text", "x.txt"], "only with --locales"),
        (["--locales", "de-DE", "--trim-text", "none.txt"], "none.txt"),
    ],
)
def test_invalid_flags_are_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    try:
        code = onnx.main(["--ckpt", str(checkpoint), "--out", str(tmp_path / "s"), *flags])
    except SystemExit as error:
        code = int(error.code or 0)

    assert code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_locales_keep_the_students_order() -> None:
    assert chosen_locales("fr-FR, de-DE", ["de-DE", "en-US", "fr-FR"]) == ["de-DE", "fr-FR"]
    assert chosen_locales(None, ["de-DE", "en-US"]) == ["de-DE", "en-US"]


@pytest.mark.parametrize(("part", "kind"), [("model", "BPE"), ("post_processor", "BertProcessing")])
def test_other_tokenizers_are_refused(part: str, kind: str) -> None:
    content = json.loads(WHOLE.tokenizer.to_str())
    if part == "model":
        content["model"] = {"type": kind, "vocab": {"[UNK]": 1, "[PAD]": 0, "[CLS]": 2, "[MASK]": 3}, "merges": []}
    else:
        content["post_processor"] = {"type": kind, "sep": ["[CLS]", 2], "cls": ["[CLS]", 2]}
    model = StudentModel(StudentConfig.of_size("xs", Labels(domain=("a",)), vocab_size=700))
    other = TextEncoder(Tokenizer.from_str(json.dumps(content)), 64)

    with pytest.raises(ExportError, match="trimmed"):
        trim(Checkpoint(model, other, Labels(domain=("a",)), {}), ["weck mich"], ["de-DE"])
