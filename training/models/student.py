"""The student: a lean transformer encoder with up to three heads, as a Hugging Face `PreTrainedModel`.

Pre-layer-norm (Xiong et al. 2020), or post-layer-norm with a layer norm of the embeddings, as BERT has it (Devlin et
al. 2019), for adopted encoders. One fused matrix for query, key and value, learned positions, no token types; on
request a learned bias of the attention scores by relative position (as in T5: Raffel et al. 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from service.student.manifest import Labels
from training.models.sizes import ACTIVATIONS, DEFAULT_ACTIVATION, SIZES

PRE_NORM, POST_NORM = NORMS = ("pre", "post")
POSITION_BIAS = "position_bias"  # a layer's module of that name, by which the export and its reader know the weights
MAX_OFFSET = 16  # tokens that are further apart share a bias
LOCALITY = 3.0  # first bias of the heads that prefer a neighbour


class StudentConfig(PretrainedConfig):  # type: ignore[misc]
    """Configuration of a student; `labels` is {"domain": [...], "intent": [...], "slots": [...]} or a subset.

    `masked`: whether the model has a masked-language head, for pretraining and distillation. `norm` is "pre" or "post",
    the place of the layer norms; `norm_eps` their epsilon. `position_bias`: whether attention has a `PositionBias`.
    """

    model_type = "distilled_nlu_student"

    def __init__(
        self,
        vocab_size: int = 16_000,
        hidden_size: int = 256,
        num_hidden_layers: int = 4,
        num_attention_heads: int = 4,
        intermediate_size: int = 1024,
        max_position_embeddings: int = 64,
        activation: str = DEFAULT_ACTIVATION,
        dropout: float = 0.2,
        labels: dict[str, list[str]] | None = None,
        size: str = "custom",
        masked: bool = False,
        norm: str = PRE_NORM,
        norm_eps: float = 1e-5,
        position_bias: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if hidden_size % num_attention_heads:
            raise ValueError(f"hidden_size {hidden_size} is no multiple of num_attention_heads {num_attention_heads}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation {activation!r}; allowed: {', '.join(ACTIVATIONS)}")
        if norm not in NORMS:
            raise ValueError(f"norm {norm!r}; allowed: {', '.join(NORMS)}")
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.max_position_embeddings = max_position_embeddings
        self.activation = activation
        self.dropout = dropout
        self.labels = labels or {}
        self.size = size
        self.masked = masked
        self.norm = norm
        self.norm_eps = norm_eps
        self.position_bias = position_bias

    @classmethod
    def of_size(cls, size: str, labels: Labels, **kwargs: Any) -> StudentConfig:
        """The configuration of a named size. Raises ValueError, naming the allowed sizes, for an unknown one."""
        if size not in SIZES:
            raise ValueError(f"size {size!r}; allowed: {', '.join(SIZES)}")
        shape = SIZES[size]
        return cls(
            hidden_size=shape.hidden,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.hidden // 64,
            intermediate_size=4 * shape.hidden,
            labels={head: list(getattr(labels, head)) for head in labels.heads},
            size=size,
            **kwargs,
        )


@dataclass
class StudentOutput(ModelOutput):  # type: ignore[misc]
    """Logits by head (None without that head), named as in the exported graph, and the heads' inputs.

    Shapes: domain_logits [batch, domains], intent_logits [batch, intents], slot_logits [batch, tokens, tags]; features,
    the input of the domain and intent heads, [batch, 2 width]; last_hidden_state [batch, tokens, width]; hidden_states,
    on request, the input of the first layer and the output of each layer, each [batch, tokens, width].
    """

    domain_logits: Tensor | None = None
    intent_logits: Tensor | None = None
    slot_logits: Tensor | None = None
    features: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class TaskHeads(nn.ModuleDict):
    """A linear layer for each head: domain and intent read `features`, slots read each token."""

    def __init__(self, width: int, labels: Mapping[str, Sequence[str]]) -> None:
        widths = {"domain": 2 * width, "intent": 2 * width, "slots": width}
        super().__init__({head: nn.Linear(widths[head], len(names)) for head, names in labels.items()})

    def read(self, hidden: Tensor, mean: Tensor, dropout: float) -> StudentOutput:
        """Logits of last hidden states [batch, tokens, width] and their mean over the tokens, [batch, width]."""
        features = torch.cat([mean, hidden[..., 0, :]], dim=-1)
        pooled = functional.dropout(features, dropout, self.training)
        tokens = functional.dropout(hidden, dropout, self.training)
        logits = {name: head(tokens if name == "slots" else pooled) for name, head in self.items()}
        return StudentOutput(logits.get("domain"), logits.get("intent"), logits.get("slots"), features, hidden)


class PositionBias(nn.Embedding):
    """What the heads of a layer add to attention scores, by the offset from query to key: weight [offsets, heads].

    Offsets are clipped to `MAX_OFFSET`; row `MAX_OFFSET` is offset 0. At first a quarter of the heads, at least one,
    prefers the previous token, as many the next one, and the others none.
    """

    def __init__(self, heads: int) -> None:
        super().__init__(2 * MAX_OFFSET + 1, heads)

    def reset_parameters(self) -> None:
        """Set the first weights, the locality prior."""
        local = max(1, self.embedding_dim // 4)
        nn.init.zeros_(self.weight)
        with torch.no_grad():
            self.weight[MAX_OFFSET - 1, :local] = LOCALITY
            self.weight[MAX_OFFSET + 1, local : 2 * local] = LOCALITY


class Block(nn.Module):
    """One transformer layer, with layer norms in front of its two parts or, with post-layer-norm, after their sums."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.head_width = config.hidden_size // config.num_attention_heads
        self.dropout = config.dropout
        self.activation: Callable[[Tensor], Tensor] = getattr(functional, config.activation)
        self.post_norm = config.norm == POST_NORM
        self.norm_attention = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.attention_out = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm_feed_forward = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)
        self.position_bias = PositionBias(self.heads) if config.position_bias else None

    def forward(self, hidden: Tensor, bias: Tensor | None) -> Tensor:
        """`hidden` is [batch, tokens, width]; `bias`, added to the scores, [batch, heads, tokens, tokens].

        The batch axis may be left out. Then all shapes but the number of tokens are constants in an exported graph.
        """
        if self.post_norm:
            hidden = self.norm_attention(hidden + self._attend(hidden, bias))
            return cast(Tensor, self.norm_feed_forward(hidden + self._feed_forward(hidden)))
        hidden = hidden + self._attend(self.norm_attention(hidden), bias)
        return hidden + self._feed_forward(self.norm_feed_forward(hidden))

    def _attend(self, hidden: Tensor, bias: Tensor | None) -> Tensor:
        batch = hidden.shape[:-2]
        qkv = self.qkv(hidden).view(*batch, -1, 3 * self.heads, self.head_width)
        query, key, value = qkv.transpose(-2, -3).split([self.heads] * 3, dim=-3)
        scores = query @ key.transpose(-1, -2) * self.head_width**-0.5
        if bias is not None:
            scores = scores + bias
        weights = functional.dropout(scores.softmax(dim=-1), self.dropout / 2, self.training)
        context = (weights @ value).transpose(-2, -3).reshape(*batch, -1, self.heads * self.head_width)
        return functional.dropout(self.attention_out(context), self.dropout, self.training)

    def _feed_forward(self, hidden: Tensor) -> Tensor:
        inner = self.down(self.activation(self.up(hidden)))
        return functional.dropout(inner, self.dropout, self.training)


class MaskedHead(nn.Module):
    """Predicts tokens: a transform, then the token embeddings as output layer (Devlin et al. 2019)."""

    def __init__(self, width: int, vocabulary: int, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.transform = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, hidden: Tensor, embeddings: Tensor) -> Tensor:
        """Logits [positions, vocabulary] of hidden [positions, width] and embeddings [vocabulary, width]."""
        return functional.linear(self.norm(functional.gelu(self.transform(hidden))), embeddings, self.bias)


class StudentModel(PreTrainedModel):  # type: ignore[misc]
    """Encoder with the heads that `config.labels` names.

    Domain and intent read the mean over the tokens and the first token, concatenated; slots read each token (the tag of
    a word is that of its first token).
    """

    config_class = StudentConfig
    base_model_prefix = "student"

    def __init__(self, config: StudentConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.token_embeddings = nn.Embedding(config.vocab_size, width)
        self.positions = nn.Embedding(config.max_position_embeddings, width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        # of the last layer's output; with post-layer-norm of the embeddings
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.heads = TaskHeads(width, config.labels)
        self.masked = MaskedHead(width, config.vocab_size, config.norm_eps) if config.masked else None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, PositionBias):
            module.reset_parameters()
        elif isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, all_layers: bool = False
    ) -> StudentOutput:
        """Logits of a batch of input_ids [batch, tokens], int64; with `all_layers` also the hidden states.

        attention_mask: [batch, tokens], 1 for tokens and 0 for padding; None without padding. Without the batch axis,
        input_ids [tokens] is one text, and no output has a batch axis: the export traces the model so.
        """
        positions = torch.arange(input_ids.shape[-1], device=input_ids.device)
        read = self.token_embeddings(input_ids) + self.positions(positions)
        post_norm = self.config.norm == POST_NORM
        hidden = functional.dropout(self.norm(read) if post_norm else read, self.config.dropout, self.training)
        mask_bias = None
        if attention_mask is not None:
            mask_bias = (1.0 - attention_mask[..., None, None, :].to(hidden.dtype)) * torch.finfo(hidden.dtype).min
        states = [hidden]
        biases = self._attention_biases(input_ids.shape[-1], mask_bias)
        for block, bias in zip(self.blocks, biases, strict=True):
            hidden = block(hidden, bias)
            states.append(hidden)
        if not post_norm:
            hidden = states[-1] = self.norm(hidden)
        if attention_mask is None:
            mean = hidden.mean(dim=-2)
        else:
            mask = attention_mask[..., None].to(hidden.dtype)
            mean = (hidden * mask).sum(dim=-2) / mask.sum(dim=-2)
        output = self.heads.read(hidden, mean, self.config.dropout)
        output.hidden_states = tuple(states) if all_layers else None
        return output

    def _attention_biases(self, tokens: int, mask: Tensor | None) -> Sequence[Tensor | None]:
        """What each layer adds to its scores: the bias of padding, [batch, 1, 1, tokens], and that of positions.

        Positions are looked up for the maximum length, then cut to `tokens` for all layers at once. So onnxruntime does
        the look-up when it loads the exported graph, and a text needs only the cut.
        """
        if not self.config.position_bias:
            return [mask] * len(self.blocks)
        places = np.arange(self.config.max_position_embeddings)
        offsets = np.clip(places - places[:, None], -MAX_OFFSET, MAX_OFFSET) + MAX_OFFSET
        rows = torch.from_numpy(offsets).to(self.positions.weight.device)
        looked_up = [cast(PositionBias, cast(Block, block).position_bias)(rows) for block in self.blocks]
        whole = torch.cat(looked_up, dim=-1).permute(2, 0, 1)[:, :tokens, :tokens]
        by_layer = torch.split(whole, self.config.num_attention_heads)
        return by_layer if mask is None else [mask + bias for bias in by_layer]

    def token_logits(self, hidden: Tensor) -> Tensor:
        """Logits of the masked-language head, [positions, vocabulary], of last hidden states [positions, width]."""
        if self.masked is None:
            raise ValueError("the model has no masked-language head")
        logits: Tensor = self.masked(hidden, self.token_embeddings.weight)
        return logits

    def count_parameters(self) -> tuple[int, int]:
        """All weights, and those outside the token and position tables and the heads."""
        total = sum(p.numel() for p in self.parameters())
        parts = [self.token_embeddings, self.positions, self.heads, *([self.masked] if self.masked is not None else [])]
        return total, total - sum(p.numel() for part in parts for p in part.parameters())
