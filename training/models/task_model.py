"""The initial model of fine-tuning: a new student, or the encoder of a checkpoint with heads for the task."""

from __future__ import annotations

import copy
import logging
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer

from service.student.manifest import Labels
from service.student.tokenization import TextEncoder
from training.models.checkpoint import Checkpoint
from training.models.errors import CheckpointError
from training.models.hub import NO_EXPORT, HubModel
from training.models.sizes import DEFAULT_ACTIVATION, DEFAULT_SIZE
from training.models.student import POSITION_BIAS, StudentConfig, StudentModel

log = logging.getLogger(__name__)


class Shape(NamedTuple):
    """The settings of a model's shape; of a Hugging Face encoder, size is only a name, and its activation is fixed."""

    size: str
    activation: str
    position_bias: bool


DEFAULT = Shape(DEFAULT_SIZE, DEFAULT_ACTIVATION, position_bias=False)


def shape_of(size: str, activation: str, position_bias: bool | None, start: Checkpoint | None) -> Shape:
    """The shape of the checkpoint to start from, else that of the settings ("" and None: the default).

    Raises CheckpointError: size or activation differ from the checkpoint.
    """
    if start is None:
        default = DEFAULT.position_bias if position_bias is None else position_bias
        return Shape(size or DEFAULT.size, activation or DEFAULT.activation, default)
    config = start.model.config
    has = Shape(config.size, getattr(config, "activation", ""), getattr(config, POSITION_BIAS, False))
    for name, asked, value in (("size", size, has.size), ("activation", activation, has.activation)):
        if asked not in ("", value):
            other = f"--init has another {name} than --{name} {asked}: {value or 'one of its own architecture'}"
            raise CheckpointError(f"{other}; leave --{name} out to inherit it")
    return has


def encoder_of(tokenizer: Tokenizer, start: Checkpoint | None, max_length: int) -> TextEncoder:
    """The text encoder, with at most `max_length` tokens and no more than the checkpoint to start from can read."""
    return TextEncoder(tokenizer, min(max_length, start.encoder.max_length) if start is not None else max_length)


def model_of(
    shape: Shape, start: Checkpoint | None, labels: Labels, encoder: TextEncoder, dropout: float
) -> StudentModel:
    """The initial model: a new one of the given shape, or the encoder of `start` with heads for `labels`."""
    length = encoder.max_length
    if start is None:
        options = {"activation": shape.activation, "position_bias": shape.position_bias, "dropout": dropout}
        options |= {"max_position_embeddings": length}
        tokens = encoder.tokenizer.get_vocab_size()
        return StudentModel(StudentConfig.of_size(shape.size, labels, vocab_size=tokens, **options))
    config = copy.deepcopy(start.model.config)
    config.labels = {head: list(getattr(labels, head)) for head in labels.heads}
    config.dropout, config.max_position_embeddings = dropout, length
    config.masked = config.masked and isinstance(start.model, HubModel)
    model = type(start.model)(config)
    _copy_weights(start.model, model)
    if isinstance(model, HubModel):
        log.info(NO_EXPORT.format(name=config.size))
        # the masked-language head has no gradient in fine-tuning, for which several processes would wait
        model.requires_grad_(False)
        model.wrapped.base_model.requires_grad_(True)
        model.heads.requires_grad_(True)
    return model


def _copy_weights(source: Any, target: Any) -> None:
    """Copy the weights of `source` to `target`; of its heads, those of the labels that both have."""
    weights = {name: value for name, value in source.state_dict().items() if not name.startswith("heads.")}
    if "positions.weight" in weights:  # the maximum length may be smaller than before
        weights["positions.weight"] = weights["positions.weight"][: target.config.max_position_embeddings]
    target.load_state_dict(weights, strict=False)
    copied = ""
    for head, labels in target.config.labels.items():
        places = {label: place for place, label in enumerate(source.config.labels.get(head, ()))}
        pairs = [(ours, places[label]) for ours, label in enumerate(labels) if label in places]
        if pairs:
            ours, theirs = (torch.tensor(column) for column in zip(*pairs, strict=True))
            for name, values in target.heads[head].named_parameters():
                values.data[ours] = source.heads[head].get_parameter(name).data[theirs]
            copied += f", {head} head" if len(pairs) == len(labels) else f", {len(pairs)} labels of the {head} head"
    log.info("starting from a checkpoint: encoder%s", copied)
