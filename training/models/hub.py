"""Any Hugging Face encoder with a masked-language head, behind the same interface as our student.

`xlm-roberta-base`, or a folder that `save_pretrained` made, can then be pretrained further, distilled from, fine-tuned
and saved as one of our checkpoints.
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
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer, PretrainedConfig, PreTrainedModel

from training.models.errors import CheckpointError
from training.models.student import StudentConfig, StudentOutput, TaskHeads
from training.text.tokenizer import special_ids

T = TypeVar("T")

# These count positions from the one after the padding piece's id, so the first rows of their table are never read, and
# they find padding by its id.
ROBERTA = ("camembert", "roberta", "xlm-roberta", "xlm-roberta-xl")
# How each architecture turns last hidden states into logits over its pieces. Its own forward would do so at every
# position, which with 250,000 pieces is most of the work; masked ones are one in seven.
PIECE_LOGITS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    **dict.fromkeys(("bert", "rembert"), lambda model, hidden: model.cls(hidden)),
    **dict.fromkeys(ROBERTA, lambda model, hidden: model.lm_head(hidden)),
    "distilbert": lambda model, hidden: model.vocab_projector(
        model.vocab_layer_norm(model.activation(model.vocab_transform(hidden)))
    ),
    "electra": lambda model, hidden: model.generator_lm_head(model.generator_predictions(hidden)),
    "modernbert": lambda model, hidden: model.decoder(model.head(hidden)),
}

HUB_NAME = re.compile(r"(?:\w[\w.-]*/)?\w[\w.-]*")  # model or owner/model

# Of the wrapped configuration, what says where it came from or how its file was stored, not what the encoder is.
NOT_KEPT = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")


class HubConfig(PretrainedConfig):  # type: ignore[misc]
    """Configuration of a wrapped encoder: its own as a dict, `labels` of our heads, and the dropout before them.

    `max_position_embeddings` is how many pieces are read at most, special ones included; as many as the encoder can
    unless a smaller number is given. `size` is a name to show. Raises ValueError for an architecture that isn't known.
    """

    model_type = "distilled_nlu_hub"

    def __init__(
        self,
        wrapped: dict[str, Any] | None = None,
        labels: dict[str, list[str]] | None = None,
        dropout: float = 0.1,
        max_position_embeddings: int | None = None,
        size: str = "",
        **kwargs: Any,
    ) -> None:
        wrapped = {"model_type": "bert"} if wrapped is None else wrapped  # transformers asks for a default instance
        wrapped = {key: value for key, value in wrapped.items() if key not in NOT_KEPT}
        inner = inner_config(wrapped)
        # before Transformers 5 the outer model ties the embeddings that it is told of
        super().__init__(**{**kwargs, "tie_word_embeddings": bool(getattr(inner, "tie_word_embeddings", True))})
        readable = readable_pieces(inner)
        self.wrapped = wrapped
        self.labels = labels or {}
        self.dropout = dropout
        self.masked = True  # there is no other kind
        self.max_position_embeddings = min(max_position_embeddings or readable, readable)
        self.vocab_size: int = inner.vocab_size
        self.hidden_size: int = inner.hidden_size
        self.num_hidden_layers: int = inner.num_hidden_layers
        self.size = size or f"{inner.model_type}, {inner.num_hidden_layers} x {inner.hidden_size}"


class HubModel(PreTrainedModel):  # type: ignore[misc]
    """A wrapped `AutoModelForMaskedLM` with the heads that `config.labels` names, read as `StudentModel` reads them."""

    config_class = HubConfig
    base_model_prefix = "hub"

    def __init__(self, config: HubConfig) -> None:
        super().__init__(config)
        self.wrapped = AutoModelForMaskedLM.from_config(inner_config(config.wrapped))
        self.heads = TaskHeads(config.hidden_size, config.labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):  # only our heads: the wrapped model sees to its own modules
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)

    @property
    def _dynamic_tied_weights_keys(self) -> list[str]:
        """Second names of shared weights, which are not saved: Transformers 4 misses BERT's in a wrapped model."""
        every = [name for name, _ in self.named_parameters(remove_duplicate=False)]
        first = {name for name, _ in self.named_parameters()}
        return [name for name in every if name not in first]

    def get_input_embeddings(self) -> nn.Module:
        """The table of pieces."""
        embeddings: nn.Module = self.wrapped.get_input_embeddings()
        return embeddings

    def get_output_embeddings(self) -> nn.Module | None:
        """The last layer of the masked-language head, which mostly shares its weights with the table of pieces."""
        embeddings: nn.Module | None = self.wrapped.get_output_embeddings()
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
        # the last layer's output as the heads see it: some architectures normalise it once more
        output.hidden_states = (*found.hidden_states[:-1], hidden) if all_layers else None
        return output

    def piece_logits(self, hidden: Tensor) -> Tensor:
        """Logits of the masked-language head, [positions, vocabulary], of last hidden states [positions, width]."""
        return PIECE_LOGITS[self.wrapped.config.model_type](self.wrapped, hidden)

    def count_parameters(self) -> tuple[int, int]:
        """All weights, and those outside the embedding tables and all heads."""
        encoder = self.wrapped.base_model
        tables = [module for module in encoder.modules() if isinstance(module, nn.Embedding)]
        total, outside = (sum(p.numel() for p in module.parameters()) for module in (self, encoder))
        return total, outside - sum(p.numel() for table in tables for p in table.parameters())


def inner_config(wrapped: dict[str, Any]) -> Any:
    """The Transformers configuration of a wrapped encoder. Raises ValueError for an architecture that isn't known."""
    kind = wrapped.get("model_type")
    if kind not in PIECE_LOGITS:
        allowed = ", ".join(sorted(PIECE_LOGITS))
        raise ValueError(f"model_type {kind!r} is no encoder whose masked-language head is known; allowed: {allowed}")
    if wrapped.get("is_decoder"):
        raise ValueError(f"a {kind!r} that is configured as a decoder; an encoder is needed")
    config = AutoConfig.for_model(**wrapped)
    if hasattr(config, "reference_compile"):
        config.reference_compile = False  # ModernBERT compiles itself where it sees Triton, for minutes
    return config


def readable_pieces(inner: Any) -> int:
    """How many pieces, special ones included, an encoder with this configuration can read."""
    positions: int = inner.max_position_embeddings
    return positions - inner.pad_token_id - 1 if inner.model_type in ROBERTA else positions


def is_hub_folder(path: Path) -> bool:
    """Whether a folder holds a Hugging Face model that is no checkpoint of ours."""
    try:
        kind = json.loads((path / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return False
    return isinstance(kind, str) and kind not in (StudentConfig.model_type, HubConfig.model_type)


def is_hub_source(source: str | Path) -> bool:
    """Whether `source` is to be opened by `open_hub`: a Hugging Face model's folder, or what can be a name on the hub.

    A name of something that exists here is never one on the hub.
    """
    folder = Path(source)
    return is_hub_folder(folder) if folder.exists() else bool(HUB_NAME.fullmatch(str(source)))


def open_hub(name: str, device: str | torch.device = "cpu") -> tuple[HubModel, Tokenizer]:
    """An encoder and its tokenizer, from a local folder or by its name on the hub; in evaluation mode and float32.

    Raises CheckpointError: neither can be found or reached, or it lacks a masked-language head that is known, a fast
    tokenizer or a special piece.
    """
    found = Path(name).is_dir()
    if not found and not HUB_NAME.fullmatch(name):
        raise CheckpointError(f"{name}: no such folder")
    inner = _attempt(name, "the folder" if found else "no such folder; from the hub it", AutoConfig.from_pretrained)
    try:
        config = HubConfig(wrapped=inner.to_diff_dict())
    except ValueError as error:
        raise CheckpointError(f"{name}: {error}") from error
    tokenizer = _open_tokenizer(name, config)
    load, options = AutoModelForMaskedLM.from_pretrained, {"output_loading_info": True}
    wrapped, loading = _attempt(name, "its weights", load, config=inner_config(config.wrapped), **options)
    if missing := sorted(loading["missing_keys"]):
        lacks = ", ".join(missing[:3])
        raise CheckpointError(f"{name}: is no encoder with a masked-language head: its weights lack {lacks}")
    with torch.device("meta"):  # no second set of weights
        model = HubModel(config)
    model.wrapped = wrapped.float()
    return model.to(device).eval(), tokenizer


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
        raise CheckpointError(f"{name}: the tokenizer has a piece {largest}, the encoder only {config.vocab_size}")
    kind, padding = config.wrapped["model_type"], inner_config(config.wrapped).pad_token_id
    if kind in ROBERTA and ids.pad != padding:
        raise CheckpointError(f"{name}: padding is piece {ids.pad} to the tokenizer, {padding} to the encoder")
    return tokenizer


def _attempt(name: str, what: str, load: Callable[..., T], **kwargs: Any) -> T:
    """What `load` makes of a name or folder, never running code from there; its many errors as CheckpointError."""
    try:
        return load(name, trust_remote_code=False, **kwargs)
    except Exception as error:  # the Rust sides raise bare Exception
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(f"{name}: {what} cannot be loaded: {reason}") from error
