"""Tiny Hugging Face folders with random weights, made offline as `save_pretrained` makes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

WIDTH, LAYERS, READABLE = 64, 2, 48


@pytest.fixture(scope="session")
def sentences(sample: Path) -> list[str]:
    """The sentences of the sample data, all locales."""
    files = sorted((sample / "1.1" / "data").glob("*.jsonl"))
    return [json.loads(line)["utt"] for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def shape(**kwargs: Any) -> dict[str, Any]:
    return {
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "intermediate_size": 2 * WIDTH,
        **kwargs,
    }


def save(folder: Path, model: Any, tokenizer: Tokenizer, **special: str) -> Path:
    from transformers import PreTrainedTokenizerFast

    for name, parameter in model.named_parameters():
        if "bias" in name:  # new ones are 0, which would hide one that is not saved
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def hub_xlm_roberta(tmp_path_factory: pytest.TempPathFactory, sentences: list[str]) -> Path:
    """An XLM-RoBERTa: words are what stands between spaces."""
    from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=names, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(sentences, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    config = XLMRobertaConfig(
        **shape(vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=READABLE + 2, type_vocab_size=1)
    )
    torch.manual_seed(0)
    special = {"cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    folder = tmp_path_factory.mktemp("hub") / "xlm-roberta"
    return save(folder, XLMRobertaForMaskedLM(config), tokenizer, mask_token="<mask>", **special)


@pytest.fixture(scope="session")
def hub_bert(tmp_path_factory: pytest.TempPathFactory, sentences: list[str]) -> Path:
    """A BERT: each punctuation mark is a word too. Its table has rows that no token uses, as some on the hub have."""
    from transformers import BertConfig, BertForMaskedLM

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        sentences, trainers.WordPieceTrainer(vocab_size=300, special_tokens=names, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    config = BertConfig(**shape(vocab_size=tokenizer.get_vocab_size() + 4, max_position_embeddings=READABLE))
    torch.manual_seed(0)
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]"}
    folder = tmp_path_factory.mktemp("hub") / "bert"
    return save(folder, BertForMaskedLM(config), tokenizer, mask_token="[MASK]", **special)
