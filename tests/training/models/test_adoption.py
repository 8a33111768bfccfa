"""Encoders of five architectures, adopted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PreTrainedTokenizerFast

from service.student.tokenization import TextEncoder
from training.models.adoption import Adopted, adopt
from training.models.errors import CheckpointError
from training.text.tokenizer import special_ids

KINDS = ["bert", "camembert", "distilbert", "roberta", "xlm-roberta"]
TEXTS = ["Weck mich um 9:30 Uhr!", "spiel l'album di Mina", "", "¿Qué tiempo hace, p. m.?", "straße \U0001f600 ok"]


def byte_level(sentences: list[str]) -> Tokenizer:
    """A tokenizer as RoBERTa has it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(sentences, trainer)
    ends = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return tokenizer


def made(folder: Path, kind: str, tokenizer: Tokenizer, with_head: bool = True, **changes: Any) -> Path:
    """A folder with a tiny model of the architecture and random weights, every bias of which is something."""
    shape = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    if kind == "distilbert":
        shape = {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48}
    pad = special_ids(tokenizer).pad
    options = {"vocab_size": tokenizer.get_vocab_size() + 2, "max_position_embeddings": 40, "pad_token_id": pad}
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **shape, **options, **changes)
    model = (AutoModelForMaskedLM if with_head else AutoModel).from_config(config)
    for name, parameter in model.named_parameters():
        if "bias" in name or "norm" in name.lower():
            torch.nn.init.normal_(parameter, mean=0.5, std=0.1)
    model.save_pretrained(folder)
    content = json.loads(tokenizer.to_str())
    named = ("[CLS]", "[SEP]", "[UNK]", "[PAD]", "[MASK]") if "[CLS]" in str(content["added_tokens"]) else None
    cls, sep, unknown, padding, mask = named or ("<s>", "</s>", "<unk>", "<pad>", "<mask>")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token=cls,
        sep_token=sep,
        unk_token=unknown,
        pad_token=padding,
        mask_token=mask,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path, sentences: list[str]) -> Path:
    kind: str = request.param
    if kind == "roberta":
        tokenizer = byte_level(sentences)
    else:
        name = "hub_bert" if kind in ("bert", "distilbert") else "hub_xlm_roberta"
        tokenizer = Tokenizer.from_file(str(request.getfixturevalue(name) / "tokenizer.json"))
    return made(tmp_path / kind, kind, tokenizer)


@pytest.fixture
def unigram(hub_xlm_roberta: Path) -> Tokenizer:
    return Tokenizer.from_file(str(hub_xlm_roberta / "tokenizer.json"))


def ids_of(found: Adopted, text: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of a text, ours and the encoder's own."""
    ours = found.vocabulary.tokenizer.encode(text).ids
    return torch.tensor([ours]), torch.tensor([[found.vocabulary.rows[number] for number in ours]])


@pytest.mark.parametrize("text", TEXTS)
def test_an_adopted_encoder_computes_what_transformers_computes(folder: Path, text: str) -> None:
    theirs = AutoModelForMaskedLM.from_pretrained(folder).eval()
    found = adopt(str(folder))

    ours, own = ids_of(found, text)
    with torch.no_grad():
        output = found.model(ours)
        hidden = theirs.base_model(own).last_hidden_state
        tokens = found.model.token_logits(output.last_hidden_state[0]).softmax(-1)
        expected = theirs(own).logits[0][:, found.vocabulary.rows].softmax(-1)

    torch.testing.assert_close(output.last_hidden_state, hidden, atol=1e-4, rtol=0)
    torch.testing.assert_close(tokens, expected, atol=1e-4, rtol=0)


def test_padding_and_the_text_without_batch_axis_change_nothing(folder: Path) -> None:
    found = adopt(str(folder))
    ours, _ = ids_of(found, TEXTS[0])
    padded = torch.cat([ours, torch.zeros(1, 3, dtype=torch.int64)], dim=1)
    mask = (torch.arange(padded.shape[1]) < ours.shape[1]).long()[None]

    with torch.no_grad():
        alone, beside, one = found.model(ours), found.model(padded, mask), found.model(ours[0])

    torch.testing.assert_close(beside.last_hidden_state[:, : ours.shape[1]], alone.last_hidden_state)
    torch.testing.assert_close(one.last_hidden_state, alone.last_hidden_state[0])


def test_words_are_those_of_the_project(folder: Path) -> None:
    encoder = TextEncoder(adopt(str(folder)).vocabulary.tokenizer, 40)
    text = "Spiel l'album, um 9:30 p. m. (bitte)!"

    words = [text[start:end] for start, end in encoder.encode(text).words]

    assert words == ["Spiel", "l'album", ",", "um", "9:30", "p.", "m.", "(", "bitte", ")", "!"]


def test_the_word_cache_is_used_and_changes_nothing(folder: Path) -> None:
    encoder = TextEncoder(adopt(str(folder)).vocabulary.tokenizer, 40)
    text = "weck mich um neun uhr auf"

    assert encoder.encode(text) == encoder.encode_whole(text)
    assert encoder.word_cache


def test_an_unknown_character_counts_as_unknown(tmp_path: Path, unigram: Tokenizer) -> None:
    encoder = TextEncoder(adopt(str(made(tmp_path / "x", "xlm-roberta", unigram))).vocabulary.tokenizer, 40)

    assert encoder.encode("weck 朝").unknown == 1


def test_chosen_layers_are_kept(tmp_path: Path, unigram: Tokenizer) -> None:
    source = str(made(tmp_path / "x", "xlm-roberta", unigram))
    whole, part = adopt(source).model, adopt(source, layers=[1, 3]).model

    assert len(part.blocks) == 2
    torch.testing.assert_close(part.blocks[1].qkv.weight, whole.blocks[2].qkv.weight)


def test_the_vocabulary_keeps_the_tokens_that_the_texts_use_most(
    tmp_path: Path, unigram: Tokenizer, sentences: list[str]
) -> None:
    source = str(made(tmp_path / "x", "xlm-roberta", unigram))
    whole, cut = adopt(source), adopt(source, tokens=120, texts=sentences)

    assert cut.vocabulary.tokenizer.get_vocab_size() == cut.model.config.vocab_size == 120
    assert cut.facts["tokens_before"] == len(whole.vocabulary.rows)
    assert cut.facts["tokens_per_word"] >= cut.facts["tokens_per_word_before"] > 1
    assert sum(cut.vocabulary.tokenizer.encode(text).ids.count(1) for text in sentences) == 0
    ours, own = ids_of(cut, sentences[0])
    table = whole.model.token_embeddings.weight
    places = [whole.vocabulary.rows.index(number) for number in own[0].tolist()]
    torch.testing.assert_close(cut.model.token_embeddings(ours[0]), table[places])


def test_an_encoder_without_masked_language_head_is_adopted(tmp_path: Path, unigram: Tokenizer) -> None:
    found = adopt(str(made(tmp_path / "x", "bert", unigram, with_head=False)))

    assert found.model.masked is None
    assert not found.model.config.masked


@pytest.mark.parametrize(
    ("kind", "changes", "problem"),
    [
        ("electra", {}, "architecture electra; allowed: bert, camembert, distilbert, roberta, xlm-roberta"),
        ("bert", {"hidden_act": "gelu_new"}, "activation gelu_new; allowed: gelu, relu"),
        ("bert", {"position_embedding_type": "relative_key"}, "positions relative_key; allowed: absolute"),
    ],
)
def test_what_cannot_be_adopted_is_said(
    tmp_path: Path, unigram: Tokenizer, kind: str, changes: dict[str, Any], problem: str
) -> None:
    source = made(tmp_path / "x", kind, unigram, **changes)

    with pytest.raises(CheckpointError, match=r"x: can't be adopted: .*training.finetune --init") as caught:
        adopt(str(source))
    assert problem in str(caught.value)


def test_pickled_weights_are_refused(tmp_path: Path, unigram: Tokenizer) -> None:
    source = made(tmp_path / "x", "bert", unigram)
    (source / "model.safetensors").rename(source / "pytorch_model.bin")

    with pytest.raises(CheckpointError, match=r"no model.safetensors, only pytorch_model.bin.*allowed: safetensors"):
        adopt(str(source))


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ({"layers": [0, 4]}, "--layers: 0, 4; allowed: 1 to 3"),
        ({"tokens": 20, "texts": ["weck mich"]}, "--tokens 20: special tokens and single characters alone are"),
        ({"revision": "main"}, "--revision main: .* is a folder"),
    ],
)
def test_wrong_choices_are_errors(tmp_path: Path, unigram: Tokenizer, flags: dict[str, Any], problem: str) -> None:
    source = made(tmp_path / "x", "bert", unigram)

    with pytest.raises(CheckpointError, match=problem):
        adopt(str(source), **flags)
