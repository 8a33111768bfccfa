"""Hugging Face encoders in their own architecture, with the interface of `StudentModel`.

`xlm-roberta-base`, or a folder that `save_pretrained` made, can be fine-tuned, imitated and saved as a checkpoint, but
not exported. To be distilled from on plain text, it needs a masked-language head.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
)

from training.models.errors import CheckpointError
from training.models.student import StudentConfig, StudentOutput, TaskHeads
from training.text.tokenizer import special_ids

T = TypeVar("T")

# These number positions from the padding token's id + 1, so the first rows of their position table are never read. They
# find padding by its id.
ROBERTA = ("camembert", "roberta", "xlm-roberta", "xlm-roberta-xl")
# Logits over the vocabulary from last hidden states, by architecture. The models' own forward computes them at every
# position, which with a vocabulary of 250,000 tokens is most of the work; one position in seven is masked.
TOKEN_LOGITS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    **dict.fromkeys(("bert", "rembert"), lambda model, hidden: model.cls(hidden)),
    **dict.fromkeys(ROBERTA, lambda model, hidden: model.lm_head(hidden)),
    "distilbert": lambda model, hidden: model.vocab_projector(
        model.vocab_layer_norm(model.activation(model.vocab_transform(hidden)))
    ),
    "electra": lambda model, hidden: model.generator_lm_head(model.generator_predictions(hidden)),
    "modernbert": lambda model, hidden: model.decoder(model.head(hidden)),
}
# Encoders whose masked-language heads are not read: they can be fine-tuned.
WITHOUT_HEAD = ("deberta", "deberta-v2")
ENCODERS = sorted((*TOKEN_LOGITS, *WITHOUT_HEAD))
NO_EXPORT = (
    "{name} keeps its own architecture: it can teach (--teacher) and be evaluated, but it can't be exported or served. "
    "training.adopt makes a checkpoint that can be, of a BERT, RoBERTa, XLM-R, DistilBERT or CamemBERT encoder"
)

HUB_NAME = re.compile(r"(?:\w[\w.-]*/)?\w[\w.-]*")  # model or owner/model

# Keys of the wrapped configuration that describe its origin or storage, not the encoder.
NOT_KEPT = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")


class HubConfig(PretrainedConfig):  # type: ignore[misc]
    """Configuration of a wrapped encoder: its own as a dict, `labels` of our heads, and the dropout before them.

    `max_position_embeddings` is the maximum length of a text in tokens, special ones included; by default that of the
    encoder. `size` is a name to show. `masked`: whether the encoder has its masked-language head; never for those of
    `WITHOUT_HEAD`. Raises ValueError for an unknown architecture.
    """

    model_type = "distilled_nlu_hub"

    def __init__(
        self,
        wrapped: dict[str, Any] | None = None,
        labels: dict[str, list[str]] | None = None,
        dropout: float = 0.1,
        max_position_embeddings: int | None = None,
        size: str = "",
        masked: bool = True,
        **kwargs: Any,
    ) -> None:
        wrapped = {"model_type": "bert"} if wrapped is None else wrapped  # transformers creates a default instance
        wrapped = {key: value for key, value in wrapped.items() if key not in NOT_KEPT}
        inner = inner_config(wrapped)
        # before Transformers 5 the outer model ties the embeddings
        super().__init__(**{**kwargs, "tie_word_embeddings": bool(getattr(inner, "tie_word_embeddings", True))})
        readable = readable_tokens(inner)
        self.wrapped = wrapped
        self.labels = labels or {}
        self.dropout = dropout
        self.masked = masked and inner.model_type in TOKEN_LOGITS
        self.max_position_embeddings = min(max_position_embeddings or readable, readable)
        self.vocab_size: int = inner.vocab_size
        self.hidden_size: int = inner.hidden_size
        self.num_hidden_layers: int = inner.num_hidden_layers
        self.size = size or f"{inner.model_type}, {inner.num_hidden_layers} x {inner.hidden_size}"


class HubModel(PreTrainedModel):  # type: ignore[misc]
    """A wrapped encoder with the heads that `config.labels` names, read as `StudentModel` reads them.

    `wrapped` is an `AutoModelForMaskedLM`, or the encoder of one if it has no masked-language head.
    """

    config_class = HubConfig
    base_model_prefix = "hub"

    def __init__(self, config: HubConfig) -> None:
        super().__init__(config)
        self.wrapped = _without_pooler(architecture_of(config).from_config(inner_config(config.wrapped)))
        if not config.masked:
            self.wrapped = self.wrapped.base_model
        self.heads = TaskHeads(config.hidden_size, config.labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):  # only the task heads: the wrapped model initialises its own modules
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)

    @property
    def _dynamic_tied_weights_keys(self) -> list[str]:
        """Further names of shared weights, which are not saved: Transformers 4 misses those of a wrapped BERT."""
        every = [name for name, _ in self.named_parameters(remove_duplicate=False)]
        first = {name for name, _ in self.named_parameters()}
        return [name for name in every if name not in first]

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings."""
        embeddings: nn.Module = self.wrapped.get_input_embeddings()
        return embeddings

    def get_output_embeddings(self) -> nn.Module | None:
        """The last layer of the masked-language head, which usually shares its weights with the token embeddings."""
        embeddings: nn.Module | None = self.wrapped.get_output_embeddings() if self.config.masked else None
        return embeddings

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, all_layers: bool = False
    ) -> StudentOutput:
        """Logits of a batch, with the arguments of `StudentModel.forward`."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        read = {"input_ids": input_ids, "attention_mask": mask}
        found = self.wrapped.base_model(**read, output_hidden_states=all_layers, return_dict=True)
        hidden: Tensor = found.last_hidden_state
        weights = mask[:, :, None].to(hidden.dtype)
        mean = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
        output = self.heads.read(hidden, mean, self.config.dropout)
        # the heads' input as the last state: some architectures normalise it once more
        output.hidden_states = (*found.hidden_states[:-1], hidden) if all_layers else None
        return output

    def token_logits(self, hidden: Tensor) -> Tensor:
        """Logits of the masked-language head, [positions, vocabulary], of last hidden states [positions, width].

        Raises ValueError: the encoder has no such head.
        """
        if not self.config.masked:
            raise ValueError("the encoder has no masked-language head")
        return TOKEN_LOGITS[self.wrapped.config.model_type](self.wrapped, hidden)

    def with_new_head(self, config: HubConfig) -> HubModel:
        """A model of `config` with this one's encoder and a new masked-language head.

        Raises CheckpointError: such a head is not supported for the architecture.
        """
        kind = config.wrapped["model_type"]
        if kind not in TOKEN_LOGITS:
            allowed = ", ".join(sorted(TOKEN_LOGITS))
            raise CheckpointError(f"{kind}: its masked-language head is not supported; allowed: {allowed}")
        model = HubModel(config)
        model.wrapped.base_model.load_state_dict(self.wrapped.base_model.state_dict())
        return model

    def count_parameters(self) -> tuple[int, int]:
        """All weights, and those outside the embedding tables and all heads."""
        encoder = self.wrapped.base_model
        tables = [module for module in encoder.modules() if isinstance(module, nn.Embedding)]
        total, outside = (sum(p.numel() for p in module.parameters()) for module in (self, encoder))
        return total, outside - sum(p.numel() for table in tables for p in table.parameters())


def architecture_of(config: HubConfig) -> Any:
    """The class that builds and loads a wrapped encoder: with masked-language head where that can be read."""
    return AutoModelForMaskedLM if config.wrapped["model_type"] in TOKEN_LOGITS else AutoModel


def inner_config(wrapped: dict[str, Any]) -> Any:
    """The Transformers configuration of a wrapped encoder. Raises ValueError for an unknown architecture."""
    kind = wrapped.get("model_type")
    if kind not in ENCODERS:
        raise ValueError(f"model_type {kind!r} is no supported encoder; allowed: {', '.join(ENCODERS)}")
    if wrapped.get("is_decoder"):
        raise ValueError(f"{kind!r} is configured as a decoder; allowed: encoders")
    config = AutoConfig.for_model(**wrapped)
    if hasattr(config, "reference_compile"):
        config.reference_compile = False  # with Triton, ModernBERT would compile itself, which takes minutes
    return config


def readable_tokens(inner: Any) -> int:
    """The maximum length of a text for an encoder, in tokens, special ones included."""
    positions: int = inner.max_position_embeddings
    return positions - inner.pad_token_id - 1 if inner.model_type in ROBERTA else positions


def is_hub_folder(path: Path) -> bool:
    """Whether a folder holds a Hugging Face model that is no checkpoint of this project."""
    try:
        kind = json.loads((path / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return False
    return isinstance(kind, str) and kind not in (StudentConfig.model_type, HubConfig.model_type)


def is_hub_source(source: str | Path) -> bool:
    """Whether `open_hub` opens `source`: a Hugging Face model's folder, or a possible name on the hub.

    The name of an existing file or folder is never one on the hub.
    """
    folder = Path(source)
    return is_hub_folder(folder) if folder.exists() else bool(HUB_NAME.fullmatch(str(source)))


def open_hub(name: str, device: str | torch.device = "cpu") -> tuple[HubModel, Tokenizer]:
    """An encoder and its tokenizer, from a local folder or by its name on the hub; in evaluation mode and float32.

    The masked-language head may be missing. Raises CheckpointError: neither can be found or reached, or the model is of
    an unknown architecture, or lacks weights, a fast tokenizer or a special token.
    """
    is_folder = Path(name).is_dir()
    if not is_folder and not HUB_NAME.fullmatch(name):
        raise CheckpointError(f"{name}: no such folder")
    inner = _attempt(name, "the folder" if is_folder else "no such folder; from the hub it", AutoConfig.from_pretrained)
    try:
        config = HubConfig(wrapped=inner.to_diff_dict())
    except ValueError as error:
        raise CheckpointError(f"{name}: {error}") from error
    tokenizer = _open_tokenizer(name, config)
    load, options = architecture_of(config).from_pretrained, {"output_loading_info": True}
    wrapped, loading = _attempt(name, "its weights", load, config=inner_config(config.wrapped), **options)
    encoder = wrapped.base_model
    inside = {f"{place}{key}" for key in encoder.state_dict() for place in ("", f"{wrapped.base_model_prefix}.")}
    missing = [key for key in sorted(loading["missing_keys"]) if "pooler." not in key]
    if lacking := [key for key in missing if key in inside]:
        raise CheckpointError(f"{name}: its weights lack {', '.join(lacking[:3])}")
    config.masked = config.masked and not missing
    with torch.device("meta"):  # allocates no second set of weights
        model = HubModel(config)
    model.wrapped = _without_pooler(wrapped if config.masked else encoder).float()
    return model.to(device).eval(), tokenizer


def _without_pooler(encoder: Any) -> Any:
    """The encoder without the layer behind its first token, which nothing here reads."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    return encoder


def _open_tokenizer(name: str, config: HubConfig) -> Tokenizer:
    """The Rust tokenizer behind an encoder's fast tokenizer, checked to fit the encoder."""
    fast = _attempt(name, "its tokenizer", AutoTokenizer.from_pretrained, use_fast=True)
    if not fast.is_fast:
        raise CheckpointError(f"{name}: has no fast tokenizer (tokenizer.json), only {type(fast).__name__}")
    tokenizer: Tokenizer = fast.backend_tokenizer
    try:
        ids = special_ids(tokenizer)
    except ValueError as error:
        raise CheckpointError(f"{name}: {error}") from error
    largest = max(tokenizer.get_vocab().values())
    if largest >= config.vocab_size:
        raise CheckpointError(f"{name}: the tokenizer has a token {largest}, the encoder only {config.vocab_size}")
    kind, padding = config.wrapped["model_type"], inner_config(config.wrapped).pad_token_id
    if kind in ROBERTA and ids.pad != padding:
        raise CheckpointError(f"{name}: padding is token {ids.pad} to the tokenizer, {padding} to the encoder")
    return tokenizer


def _attempt(name: str, what: str, load: Callable[..., T], **kwargs: Any) -> T:
    """Call `load` on a name or folder without running code from there; any error becomes a CheckpointError."""
    try:
        return load(name, trust_remote_code=False, **kwargs)
    except Exception as error:  # the Rust sides raise bare Exception
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(f"{name}: {what} cannot be loaded: {reason}") from error
