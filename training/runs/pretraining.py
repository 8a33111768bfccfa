"""Pretraining: masked language modelling on plain text, from random weights or from another encoder."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from service.student.manifest import Labels
from training.data import datasets
from training.data.utterances import Utterance
from training.models.checkpoint import Checkpoint, load_checkpoint
from training.models.devices import autocast_of
from training.models.hub import NO_EXPORT, HubModel
from training.models.student import StudentConfig, StudentModel
from training.models.task_model import shape_of
from training.objectives.first_weights import with_position_bias
from training.objectives.masked_language import MaskedBatch, MaskedLanguageModel, masked_loss
from training.runs.flags import listed
from training.runs.loop import Storage
from training.runs.settings import PretrainSettings
from training.runs.text_run import TextRun
from training.text.corpus import read_lines
from training.text.held_out import HeldOut
from training.text.tokenizer import load_tokenizer, spread_lines, train_tokenizer, with_variants

log = logging.getLogger(__name__)


def pretrain(settings: PretrainSettings, storage: Storage) -> dict[str, Any]:
    """One run, from text to checkpoint. Returns the summary. Raises ValueError: no text, or what can't be read."""
    if not settings.corpus and not settings.data:
        raise ValueError("no text: give --corpus, --data or both")
    start = load_checkpoint(settings.init) if settings.init else None
    if start is not None:
        start = with_position_bias(start, settings.position_bias)
    shape = shape_of(settings.size, "", settings.position_bias, start)
    settings = replace(settings, size=shape.size, position_bias=shape.position_bias)
    task, held_out = task_text(settings)
    tokenizer = tokenizer_of(settings, start, storage, task, held_out)
    readable = start.model.config.max_position_embeddings if start else settings.max_length
    replay = held_out.without(read_lines(listed(settings.replay)), "replay") if settings.replay else None
    texts = texts_of(settings, task, held_out)
    run = TextRun(settings, tokenizer, texts, storage, readable, replay, settings.replay_share)
    torch.manual_seed(settings.seed)  # after loading an encoder, which may draw random numbers
    model = MaskedLanguageModel(first_model(settings, tokenizer, start))
    log.info("--corpus: removed %d lines that equal dev or test utterances", held_out.removed["corpus"])
    run.begin(model, model)

    def loss_of(batch: MaskedBatch) -> Tensor:
        with autocast_of(settings.precision, batch.input_ids.device):
            logits, _ = run.loop.model(batch.input_ids, batch.attention_mask, batch.chosen)
        return masked_loss(logits, batch, run.split)

    run.train(loss_of)
    lineage = {"init": start.training} if start else {}
    return run.finish({**lineage, "dev_or_test_removed": held_out.facts()})


def first_model(settings: PretrainSettings, tokenizer: Tokenizer, start: Checkpoint | None) -> Any:
    """The encoder to start from, without its heads, or one of the given size with random weights."""
    if start is not None:
        if isinstance(start.model, HubModel):
            log.info(NO_EXPORT.format(name=start.model.config.size))
        return start.encoder_alone(settings.dropout)
    shape: dict[str, Any] = {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": settings.max_length}
    shape |= {"dropout": settings.dropout, "position_bias": settings.position_bias, "masked": True}
    return StudentModel(StudentConfig.of_size(settings.size, Labels(), **shape))


def texts_of(settings: PretrainSettings, task: Sequence[Utterance], held_out: HeldOut) -> Iterator[str]:
    """All lines of the run: the labelled data's training texts, then the corpus without dev and test utterances."""
    texts = (utterance.text for utterance in task)
    lines = read_lines(listed(settings.corpus)) if settings.corpus else ()
    return chain(texts, held_out.without(lines, "corpus"))


def task_text(settings: PretrainSettings) -> tuple[list[Utterance], HeldOut]:
    """The training partition of the labelled data, and what its dev and test partitions hold out."""
    if not settings.data:
        return [], HeldOut()
    locales = listed(settings.locales) or None
    dataset = datasets.load(settings.data, locales, settings.on_error)  # type: ignore[arg-type]
    return dataset.part("train", locales), HeldOut(dataset.utterances)


def tokenizer_of(
    settings: PretrainSettings,
    start: Checkpoint | None,
    storage: Storage,
    task: Sequence[Utterance],
    held_out: HeldOut,
) -> Tokenizer:
    """The tokenizer of the interrupted run, of the initial encoder, of --tokenizer, or one trained on the text."""
    if storage.state:
        return Tokenizer.from_str(storage.state["tokenizer"])
    if start is not None:
        if settings.tokenizer:
            raise ValueError("--tokenizer and --init exclude each other: an encoder keeps its own tokenizer")
        return start.encoder.tokenizer
    if settings.tokenizer:
        return load_tokenizer(Path(settings.tokenizer))
    texts = with_variants(task, settings.seed)
    if settings.corpus and settings.tokenizer_lines:
        texts += held_out.without(spread_lines(listed(settings.corpus), settings.tokenizer_lines), "tokenizer_lines")
    log.info("training the tokenizer on %d texts", len(texts))
    return train_tokenizer(texts, settings.vocabulary)
