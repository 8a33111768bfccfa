"""Adopt a pretrained encoder: the weights of a BERT-like model as a checkpoint of this project's own encoder.

Fine-tuning, distillation, export and service then treat it as any student. The result computes what the encoder
computes, on the same token ids; token type 0 is added to the positions, and positions that an architecture never reads
are left out.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

from training.models.errors import CheckpointError
from training.models.hub import HUB_NAME, ROBERTA
from training.models.sizes import ACTIVATIONS, SIZES
from training.models.student import POST_NORM, StudentConfig, StudentModel
from training.text.adopted_tokenizer import AdoptedTokenizer, adopted_tokenizer, most_used, tokens_per_word

log = logging.getLogger(__name__)

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SAMPLE = 10_000  # texts on which tokens per word are counted

# Our part of a layer: theirs. A fused part has several.
Parts = Mapping[str, Sequence[str]]
BERT_LAYER: Parts = {
    "qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention_out": ("attention.output.dense",),
    "norm_attention": ("attention.output.LayerNorm",),
    "up": ("intermediate.dense",),
    "down": ("output.dense",),
    "norm_feed_forward": ("output.LayerNorm",),
}
DISTILBERT_LAYER: Parts = {
    "qkv": ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    "attention_out": ("attention.out_lin",),
    "norm_attention": ("sa_layer_norm",),
    "up": ("ffn.lin1",),
    "down": ("ffn.lin2",),
    "norm_feed_forward": ("output_layer_norm",),
}


class Architecture(NamedTuple):
    """Names of weights: the layers' prefix and parts, and transform, norm and bias of the masked-language head."""

    layers: str
    parts: Parts
    head: tuple[str, str, str]
    decoder: str


_BERT_HEAD = ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias")
_ROBERTA_HEAD = ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias")
_ROBERTA = Architecture("encoder.layer", BERT_LAYER, _ROBERTA_HEAD, "lm_head.decoder.weight")
ARCHITECTURES = {
    "bert": Architecture("encoder.layer", BERT_LAYER, _BERT_HEAD, "cls.predictions.decoder.weight"),
    "camembert": _ROBERTA,
    "distilbert": Architecture(
        "transformer.layer",
        DISTILBERT_LAYER,
        ("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
        "vocab_projector.weight",
    ),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
}


class Adopted(NamedTuple):
    """The encoder, its tokenizer with the rows of its table, and facts for `training.json`."""

    model: StudentModel
    vocabulary: AdoptedTokenizer
    facts: dict[str, Any]


def adopt(
    encoder: str, revision: str = "", layers: Sequence[int] = (), tokens: int = 0, texts: Iterable[str] = ()
) -> Adopted:
    """Make a checkpoint's encoder of a pretrained one, a folder or a name on the hub.

    Args:
        encoder: the folder, or the name.
        revision: a commit, branch or tag on the hub; "": the newest.
        layers: numbers of the layers to keep, from 1; all if empty.
        tokens: vocabulary, in tokens, special ones included; 0 keeps all.
        texts: sentences whose tokens are kept.

    Raises:
        CheckpointError: the encoder can't be found, read or adopted.
    """
    folder = _folder_of(encoder, revision)
    config, whole = _opened(encoder, folder)
    sample: list[str] = []
    adopted = whole
    try:
        if tokens:
            adopted = most_used(whole, _sampled(texts, sample), tokens)
    except ValueError as error:
        raise CheckpointError(f"{encoder}: {error}") from error
    facts: dict[str, Any] = {"encoder": encoder, "revision": revision, "architecture": config.model_type}
    facts |= {"tokens": len(adopted.rows), "tokens_before": len(whole.rows)}
    if sample:
        ratios = [round(tokens_per_word(x.tokenizer, sample), 3) for x in (adopted, whole)]
        facts |= dict(zip(("tokens_per_word", "tokens_per_word_before"), ratios, strict=True))
    chosen = _layers(layers, config.num_hidden_layers)
    return Adopted(encoder_of(encoder, config, read_weights(encoder, folder), adopted.rows, chosen), adopted, facts)


def outline(encoder: str, revision: str = "") -> tuple[StudentConfig, Tokenizer]:
    """The configuration and the tokenizer, with all tokens, that `adopt` gives an encoder; its weights are not read.

    Raises CheckpointError: the encoder can't be found or adopted.
    """
    config, adopted = _opened(encoder, _folder_of(encoder, revision))
    shape = len(adopted.rows), config.max_position_embeddings, config.num_hidden_layers
    return _config_of(config, *shape, masked=False), adopted.tokenizer


def _opened(encoder: str, folder: Path) -> tuple[Any, AdoptedTokenizer]:
    """The configuration and the adopted tokenizer of an encoder's folder. Raises CheckpointError: see `outline`."""
    config = _read(encoder, "config.json", partial(AutoConfig.from_pretrained, folder))
    require_adoptable(encoder, config)
    fast = _read(encoder, "its tokenizer", partial(AutoTokenizer.from_pretrained, folder, use_fast=True))
    if not fast.is_fast:
        raise CheckpointError(f"{encoder}: has no fast tokenizer (tokenizer.json), only {type(fast).__name__}")
    try:
        return config, adopted_tokenizer(fast.backend_tokenizer)
    except ValueError as error:
        raise CheckpointError(f"{encoder}: {error}") from error


def require_adoptable(name: str, config: Any) -> None:
    """Raise CheckpointError where the project's own encoder can't compute what this one does."""
    reasons = []
    if config.model_type not in ARCHITECTURES:
        reasons.append(f"architecture {config.model_type}; allowed: {', '.join(ARCHITECTURES)}")
    elif (activation := _activation(config)) not in ACTIVATIONS:
        reasons.append(f"activation {activation}; allowed: {', '.join(ACTIVATIONS)}")
    if getattr(config, "position_embedding_type", "absolute") != "absolute":
        reasons.append(f"positions {config.position_embedding_type}; allowed: absolute")
    if getattr(config, "is_decoder", False):
        reasons.append("a decoder; allowed: encoders")
    if reasons:
        other = "training.finetune --init trains such an encoder as a teacher, which can't be exported"
        raise CheckpointError(f"{name}: can't be adopted: {'; '.join(reasons)}. {other}")


def encoder_of(
    name: str, config: Any, weights: Mapping[str, Tensor], rows: Sequence[int], layers: Sequence[int]
) -> StudentModel:
    """The project's encoder with these weights, token table `rows` and layers (from 1), in evaluation mode.

    It has a masked-language head if the weights have one that shares the token table.

    Raises CheckpointError, naming the weight, where one is missing.
    """
    kind = ARCHITECTURES[config.model_type]
    table = next((key for key in weights if key.endswith("embeddings.word_embeddings.weight")), None)
    if table is None:
        raise CheckpointError(f"{name}: its weights lack embeddings.word_embeddings.weight")
    prefix = table.removesuffix("embeddings.word_embeddings.weight")

    def of(*parts: str) -> Tensor:
        if lacking := [part for part in parts if part not in weights]:
            raise CheckpointError(f"{name}: its weights lack {', '.join(lacking)}")
        return torch.cat([weights[part].float() for part in parts])

    ours = {"token_embeddings.weight": of(table)[list(rows)]}
    positions = of(f"{prefix}embeddings.position_embeddings.weight")
    if config.model_type in ROBERTA:  # numbered from the padding token's id + 1
        positions = positions[config.pad_token_id + 1 :]
    types = weights.get(f"{prefix}embeddings.token_type_embeddings.weight")
    ours["positions.weight"] = positions if types is None else positions + types[0].float()
    masked = all(f"{part}.weight" in weights for part in kind.head[:2]) and kind.head[2] in weights
    decoder = weights.get(kind.decoder)
    if masked and decoder is not None and not torch.equal(decoder, weights[table]):
        log.warning("%s: the masked-language head has an output table of its own, and is left out", name)
        masked = False
    for end in ("weight", "bias"):
        ours[f"norm.{end}"] = of(f"{prefix}embeddings.LayerNorm.{end}")
        for number, layer in enumerate(layers):
            start = f"{prefix}{kind.layers}.{layer - 1}."
            for part, theirs in kind.parts.items():
                ours[f"blocks.{number}.{part}.{end}"] = of(*(f"{start}{their}.{end}" for their in theirs))
        if masked:
            ours[f"masked.transform.{end}"] = of(f"{kind.head[0]}.{end}")
            ours[f"masked.norm.{end}"] = of(f"{kind.head[1]}.{end}")
    if masked:
        ours["masked.bias"] = of(kind.head[2])[list(rows)]
    model = StudentModel(_config_of(config, len(rows), len(positions), len(layers), masked))
    model.load_state_dict(ours)
    model.eval()
    return model


def read_weights(name: str, folder: Path) -> dict[str, Tensor]:
    """All weights of a folder, one file or shards. Raises CheckpointError: there are none as safetensors."""
    files = [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        index = _read(name, INDEX, lambda: json.loads((folder / INDEX).read_text())["weight_map"])
        files = [folder / file for file in sorted(set(index.values()))]
    if not files[0].is_file():
        pickled = ", ".join(sorted(file.name for file in folder.glob("*.bin")))
        found = f", only {pickled}, which may run code when it is read" if pickled else ""
        raise CheckpointError(f"{name}: has no {files[0].name}{found}; allowed: safetensors")
    weights: dict[str, Tensor] = {}
    for file in files:
        weights |= _read(name, file.name, partial(load_file, file))
    # names of layer norms in BERT's first checkpoints
    return {key.replace(".gamma", ".weight").replace(".beta", ".bias"): value for key, value in weights.items()}


def _config_of(config: Any, tokens: int, positions: int, layers: int, masked: bool) -> StudentConfig:
    inner = getattr(config, "hidden_dim", None) or config.intermediate_size  # DistilBERT has names of its own
    shape = (layers, config.hidden_size)
    return StudentConfig(
        vocab_size=tokens,
        hidden_size=config.hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=inner,
        max_position_embeddings=positions,
        activation=_activation(config),
        dropout=0.1,
        size=next((size for size, known in SIZES.items() if known == shape), f"{layers}x{config.hidden_size}"),
        masked=masked,
        norm=POST_NORM,
        norm_eps=getattr(config, "layer_norm_eps", 1e-12),  # DistilBERT's is not in its configuration
    )


def _activation(config: Any) -> str:
    return str(getattr(config, "hidden_act", None) or getattr(config, "activation", ""))


def _layers(chosen: Sequence[int], count: int) -> list[int]:
    if wrong := [layer for layer in chosen if not 1 <= layer <= count]:
        raise CheckpointError(f"--layers: {', '.join(map(str, wrong))}; allowed: 1 to {count}")
    return list(chosen) or list(range(1, count + 1))


def _sampled(texts: Iterable[str], sample: list[str]) -> Iterable[str]:
    """The texts; a random part of them is put into `sample` as they pass (reservoir sampling, Vitter 1985)."""
    rng = Random(1)
    for count, text in enumerate(texts, start=1):
        if len(sample) < SAMPLE:
            sample.append(text)
        elif (place := rng.randrange(count)) < SAMPLE:
            sample[place] = text
        yield text


def _folder_of(encoder: str, revision: str) -> Path:
    """The folder of an encoder; files of one on the hub are downloaded, weights as safetensors only."""
    if Path(encoder).is_dir():
        if revision:
            raise CheckpointError(f"--revision {revision}: {encoder} is a folder; allowed: with a name on the hub")
        return Path(encoder)
    if not HUB_NAME.fullmatch(encoder):
        raise CheckpointError(f"{encoder}: no such folder")
    from huggingface_hub import snapshot_download

    allowed = ["*.json", "*.safetensors", "*.txt", "*.model"]
    download = partial(snapshot_download, encoder, revision=revision or None, allow_patterns=allowed)
    return Path(_read(encoder, "no such folder; from the hub it", download))


def _read(name: str, what: str, load: Any) -> Any:
    """Call `load`; any error becomes a CheckpointError."""
    try:
        return load()
    except CheckpointError:
        raise
    except Exception as error:  # the Rust sides raise bare Exception
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(f"{name}: {what} cannot be loaded: {reason}") from error
