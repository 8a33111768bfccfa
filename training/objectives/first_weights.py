"""First weights of a student from a larger checkpoint: some of its layers with its heads, or its token table alone.

A student as wide as the checkpoint takes layers, as DistilBERT does (Sanh et al. 2019), and everything else as it is. A
narrower one takes the token table, reduced to its principal directions; its blocks are random.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from service.student.manifest import Labels
from training.models.checkpoint import Checkpoint
from training.models.errors import CheckpointError
from training.models.sizes import DEFAULT_ACTIVATION, SIZES
from training.models.student import POSITION_BIAS, StudentConfig, StudentModel
from training.objectives.layer_mapping import LAYER_MAPPINGS

TABLE_SCALE = 0.02  # standard deviation of a reduced token table: that of a random one

log = logging.getLogger(__name__)


def reduced(
    start: Checkpoint, size: str, layers: str, activation: str = "", position_bias: bool | None = None
) -> Checkpoint:
    """The checkpoint, or a smaller one of the given size with weights of it; a Hugging Face encoder as it is.

    `layers` are comma-separated numbers of its layers, from 1, or the name of a mapping ("": uniform). Random blocks
    have that activation. `position_bias`: whether the result has one (None: as the checkpoint). Raises CheckpointError:
    the checkpoint is smaller than the size, has no such layers, or can't get or lose a position bias.
    """
    config = start.model.config
    if size in ("", config.size) or not isinstance(start.model, StudentModel):
        if layers:
            raise CheckpointError(f"--init-layers {layers}: needs a --size with fewer layers than a student in --init")
        return with_position_bias(start, position_bias)
    shape = SIZES[size]
    require_smaller(size, config.num_hidden_layers, config.hidden_size, config.size)
    if shape.hidden == config.hidden_size:
        model, facts = _with_layers(start.model, size, chosen_layers(layers, shape.layers, config.num_hidden_layers))
    else:
        model, facts = _with_table(start.model, size, activation, position_bias)
    log.info("first weights of %s: %s", size, ", ".join(f"{name} {value}" for name, value in facts.items()))
    smaller = replace(start, model=model.eval(), training={**start.training, "first_weights": facts})
    return with_position_bias(smaller, position_bias)


def with_position_bias(start: Checkpoint, wanted: bool | None) -> Checkpoint:
    """The checkpoint; where a position bias is `wanted` and it lacks one, with biases of 0: it computes the same.

    Raises CheckpointError: it has one that is not wanted (None: as it is), or keeps its own architecture.
    """
    if wanted in (None, getattr(start.model.config, POSITION_BIAS, False)):
        return start
    if not wanted:
        raise CheckpointError("--no-position-bias: the checkpoint to start from has one; leave the flag out to keep it")
    if not hasattr(start.model.config, POSITION_BIAS):
        own = start.model.config.size
        raise CheckpointError(f"--position-bias: the checkpoint to start from keeps its own architecture ({own})")
    config = copy.deepcopy(start.model.config)
    config.position_bias = True
    model = StudentModel(config)
    biases = (name for name in model.state_dict() if f".{POSITION_BIAS}." in name)
    zeros = {name: torch.zeros_like(model.get_parameter(name)) for name in biases}
    model.load_state_dict({**start.model.state_dict(), **zeros})
    return replace(start, model=model.to(start.model.device).eval())


def require_smaller(size: str, layers: int, hidden: int, name: str) -> None:
    """Raise CheckpointError where a size is wider, or as wide and deeper, than a checkpoint of this shape and name."""
    shape = SIZES[size]
    if (shape.hidden, shape.layers) > (hidden, layers):
        asked = f"--size {size}: {shape.layers} x {shape.hidden} is larger than {layers} x {hidden} ({name})"
        raise CheckpointError(f"{asked}, from which it should start; allowed: that size or a smaller one")


def chosen_layers(text: str, count: int, available: int) -> list[int]:
    """`count` of the `available` layers, from 1: listed numbers, or those of a mapping. Raises CheckpointError."""
    if not text or text in LAYER_MAPPINGS:
        layers = [theirs for _, theirs in LAYER_MAPPINGS[text or "uniform"](count, available)]
    else:
        layers = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if len(layers) != count or not all(1 <= layer <= available for layer in layers):
        allowed = f"{count} numbers from 1 to {available}, or the name of a mapping with a layer for each"
        raise CheckpointError(f"--init-layers {text}; allowed: {allowed}")
    return layers


def _with_layers(source: StudentModel, size: str, layers: Sequence[int]) -> tuple[StudentModel, dict[str, Any]]:
    """A model of these layers, with all other weights of the source."""
    config: StudentConfig = copy.deepcopy(source.config)
    config.num_hidden_layers, config.size = len(layers), size
    model = StudentModel(config)
    weights = source.state_dict()
    kept = {name: value for name, value in weights.items() if not name.startswith("blocks.")}
    for ours, theirs in enumerate(layers):
        begin = f"blocks.{theirs - 1}."
        kept |= {
            f"blocks.{ours}.{name.removeprefix(begin)}": value
            for name, value in weights.items()
            if name.startswith(begin)
        }
    model.load_state_dict(kept)
    return model, {"layers": list(layers), "of": source.config.num_hidden_layers}


def _with_table(
    source: StudentModel, size: str, activation: str, position_bias: bool | None
) -> tuple[StudentModel, dict[str, Any]]:
    """A model with a reduced token table, without heads."""
    shape = {"vocab_size": source.config.vocab_size, "max_position_embeddings": source.config.max_position_embeddings}
    shape["position_bias"] = source.config.position_bias if position_bias is None else position_bias
    config = StudentConfig.of_size(size, Labels(), activation=activation or DEFAULT_ACTIVATION, **shape)
    model = StudentModel(config)
    table, kept = reduced_table(source.token_embeddings.weight.detach(), config.hidden_size)
    with torch.no_grad():
        model.token_embeddings.weight.copy_(table)
    facts = {"token_table": [source.config.hidden_size, config.hidden_size], "kept_variance": round(kept, 3)}
    return model, {**facts, "blocks": "random"}


def reduced_table(table: Tensor, width: int) -> tuple[Tensor, float]:
    """A token table [tokens, D] in its `width` principal directions, [tokens, width], and the share of variance kept.

    Within them it is rotated at random: units that are principal directions would differ a hundredfold in scale, which
    is bad for Adam and for int8.
    """
    centred = table.double() - table.double().mean(dim=0)
    variances, directions = torch.linalg.eigh(centred.T @ centred)
    random = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(width, width, generator=random, dtype=torch.float64)).Q
    found = centred @ directions[:, -width:] @ rotation
    return (TABLE_SCALE * found / found.std()).float(), float(variances[-width:].sum() / variances.sum())
