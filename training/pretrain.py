"""Pretrain an encoder by masked language modelling on plain text, from scratch or on from another encoder.

    python -m training.pretrain --corpus TEXT --size m --out CKPT                  # Stage 1
    python -m training.pretrain --corpus TASK_TEXT --init CKPT --out ADAPTED       # Stage 2: teacher adaptation

`--init` takes a checkpoint of this project, a folder of a Hugging Face encoder, or the name of one on the hub. Without
`--tokenizer` one is trained on the text (and on that of `--data`, labelled data whose training texts are read as well).
Progress goes to standard error; the last line of standard output is one JSON object. `--resume` continues an
interrupted run exactly. `accelerate launch -m training.pretrain ...` runs it on several devices.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import training.models  # noqa: F401 # isort: skip - before all else: names a missing extra

import torch
from tokenizers import Tokenizer
from torch import Tensor

from service.student.manifest import Labels
from training.data import datasets
from training.data.utterances import Utterance
from training.models.checkpoint import Checkpoint, load_checkpoint
from training.models.devices import autocast_of
from training.models.sizes import SIZES
from training.models.student import StudentConfig, StudentModel
from training.models.task_model import DEFAULT, shape_of
from training.objectives.masked_language import MaskedBatch, MaskedLanguageModel, masked_loss
from training.runs.settings import begin, listed, parser_of, report, setting
from training.runs.text_run import TextRun, TextSettings
from training.text.corpus import read_lines
from training.text.tokenizer import VOCABULARY, load_tokenizer, spread_lines, train_tokenizer, with_variants

COMMAND = "training.pretrain"

log = logging.getLogger(COMMAND)


@dataclass(frozen=True)
class Settings(TextSettings):
    """Everything that decides the outcome of a run; each is a flag, and `--resume` inherits them all."""

    data: str = setting("", "labelled data whose training texts are read too: folder, tarball, file or hub:NAME")
    locales: str = setting("", "comma-separated locales of --data; all by default")
    init: str = setting("", "encoder to go on from, with its tokenizer: checkpoint, Hugging Face folder or hub name")
    tokenizer: str = setting("", "tokenizer.json to use; by default that of --init, or one trained on the text")
    size: str = setting("", f"encoder size: that of --init, else {DEFAULT.size}", choices=tuple(SIZES))
    vocabulary: int = setting(VOCABULARY, "pieces at most of a tokenizer that is trained", low=100)
    tokenizer_lines: int = setting(300_000, "corpus lines, evenly spread, that it is trained on", low=0)
    on_error: str = setting("raise", "what to do with a bad row of --data", choices=("raise", "skip"))


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    args = parser_of(COMMAND, "Masked language modelling.", Settings).parse_args(argv)

    def run() -> dict[str, Any]:
        settings, state = begin(COMMAND, Settings, args)
        if not settings.corpus and not settings.data:
            raise ValueError("no text: give --corpus, --data or both")
        return pretrain(settings, args.out, args.save_every, state)

    return report(run)


def pretrain(settings: Settings, out: Path, save_every: int, state: dict[str, Any] | None) -> dict[str, Any]:
    """One run, from text to checkpoint. Returns the summary.

    Raises:
        CorpusError, DatasetError, CheckpointError: text or an encoder that can't be read.
        FloatingPointError: loss or gradient is not finite.
    """
    start = load_checkpoint(settings.init) if settings.init else None
    settings = replace(settings, size=shape_of(settings.size, "", start).size)
    tokenizer = Tokenizer.from_str(state["tokenizer"]) if state else tokenizer_of(settings, start)
    readable = start.model.config.max_position_embeddings if start else settings.max_length
    run = TextRun(COMMAND, settings, tokenizer, texts_of(settings), out, readable)
    torch.manual_seed(settings.seed)  # here, as loading an encoder may draw numbers too
    model = MaskedLanguageModel(first_model(settings, tokenizer, start))
    run.begin(model, model, save_every, state)

    def loss_of(batch: MaskedBatch) -> Tensor:
        with autocast_of(settings.precision, batch.input_ids.device):
            logits, _ = run.loop.model(batch.input_ids, batch.attention_mask, batch.chosen)
        return masked_loss(logits, batch, run.loop)

    run.train(loss_of)
    return run.finish({"init": start.training} if start else {})


def first_model(settings: Settings, tokenizer: Tokenizer, start: Checkpoint | None) -> Any:
    """The encoder to go on from, its heads left behind, or one of the asked size with random weights."""
    if start is not None:
        return start.encoder_alone(settings.dropout)
    config = StudentConfig.of_size(
        settings.size,
        Labels(),
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=settings.max_length,
        dropout=settings.dropout,
        masked=True,
    )
    return StudentModel(config)


def texts_of(settings: Settings) -> Iterator[str]:
    """All lines that are trained on: the labelled data's training texts, then the corpus."""
    task = (utterance.text for utterance in task_utterances(settings))
    return chain(task, read_lines(listed(settings.corpus))) if settings.corpus else task


def task_utterances(settings: Settings) -> list[Utterance]:
    """The training partition of the labelled data."""
    if not settings.data:
        return []
    locales = listed(settings.locales) or None
    return datasets.load(settings.data, locales, settings.on_error).part("train", locales)  # type: ignore[arg-type]


def tokenizer_of(settings: Settings, start: Checkpoint | None) -> Tokenizer:
    """The tokenizer that is given, that of the encoder to go on from, or one that is trained on the text."""
    if start is not None:
        if settings.tokenizer:
            raise ValueError("--tokenizer and --init exclude each other: an encoder is read with its own tokenizer")
        return start.encoder.tokenizer
    if settings.tokenizer:
        return load_tokenizer(Path(settings.tokenizer))
    texts = with_variants(task_utterances(settings), settings.seed)
    if settings.corpus and settings.tokenizer_lines:
        texts += spread_lines(listed(settings.corpus), settings.tokenizer_lines)
    log.info("training the tokenizer on %d texts", len(texts))
    return train_tokenizer(texts, settings.vocabulary)


if __name__ == "__main__":
    sys.exit(main())
