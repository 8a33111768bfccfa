"""The part that pretraining and distillation share: a run over masked text, from settings to checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from training.models.checkpoint import save_checkpoint
from training.models.devices import processes, split
from training.objectives.masked_language import MaskedBatch, MaskedLanguageModel, MaskedText, held_out_scores
from training.runs.flags import file_names
from training.runs.loop import Loop, Storage, source_commit
from training.runs.settings import TextSettings
from training.text.lines import FOLDER, Lines, encode_lines
from training.text.tokenizer import special_ids

log = logging.getLogger(__name__)

SCORED_EVERY = 4  # resume states
NAMED = ("corpus", "data", "init", "tokenizer", "teacher", "start")  # settings that name files or folders


class TextRun:
    """One run: encodes the text; `begin` sets up the steps, `train` takes them, `finish` saves the checkpoint."""

    def __init__(
        self, settings: TextSettings, tokenizer: Tokenizer, texts: Iterator[str], storage: Storage, readable: int
    ) -> None:
        """Encode the texts: the main process writes them into the run's folder, from which all processes draw batches.

        Lines are cut at `max_length`, or at `readable`, the maximum length of the encoders, in tokens. Raises
        CorpusError, DatasetError: there is no text, or it can't be read.
        """
        self.settings, self.tokenizer, self.storage = settings, tokenizer, storage
        folder = storage.out / FOLDER
        if processes().is_main_process:
            encode_lines(tokenizer, texts, min(settings.max_length, readable), folder)
        processes().wait_for_everyone()
        lines = Lines(folder, settings.seed)
        vocabulary = tokenizer.get_vocab_size()
        log.info("%d lines, %d tokens, vocabulary %d", len(lines), len(lines.tokens), vocabulary)
        self.text = MaskedText(lines, special_ids(tokenizer), vocabulary, settings.masked_share, settings.seed)
        self.split = split()
        self._a_step = settings.batch_tokens * self.split.count

    def begin(
        self, model: nn.Module, student: MaskedLanguageModel, scores: Callable[[], dict[str, float]] | None = None
    ) -> None:
        """Set up the loop for the model that is trained and the student in it, or restore it.

        `scores` are those of the held-out lines; None: of the masked-language head.
        """
        self.student = student
        self._scores = scores or partial(held_out_scores, student, self.text, self.settings.precision)
        settings, lines, count, state = self.settings, self.text.lines, self.split.count, self.storage.state
        text = [len(lines), len(lines.tokens), lines.checksum]
        facts = {"tokenizer": self.tokenizer.to_str(), "text": text, "processes": count}
        if state is not None and (before := state["processes"]) != count:
            raise ValueError(f"the run began with {before} processes, now there are {count}; resume it with {before}")
        if state is not None and (before := state["text"]) != text:
            changed = f"lines, tokens, checksum {before}, now {text}"
            raise ValueError(f"the text has changed since the run began: {changed}")
        steps = settings.steps or max(1, round(settings.epochs * lines.trained_tokens / self._a_step))
        self.loop = Loop(model.to(processes().device), settings, self.storage, steps, facts)

    def train(self, loss_of: Callable[[MaskedBatch], Tensor]) -> None:
        """Take the remaining steps. Raises FloatingPointError when loss or gradient is not finite."""
        loop, device = self.loop, processes().device

        def loss_of_rows(rows: NDArray[np.int64]) -> Tensor:
            return loss_of(self.text.batch(rows, loop.progress.step, self.split).to(device))

        with loop.bar():
            for rows in islice(self.text.lines.batches(self._a_step), loop.progress.step, loop.total):
                loop.step(partial(loss_of_rows, rows), record_every=max(1, loop.total // 100))
                step = loop.progress.step
                if step % (SCORED_EVERY * loop.save_every) == 0 and step < loop.total:
                    loop.say(lambda step=step: f"step {step}: {self._score()}")  # type: ignore[misc]

    def finish(self, training: dict[str, Any]) -> dict[str, Any]:
        """Score the held-out lines and save the student's checkpoint. Returns the summary."""
        loop, lines, settings = self.loop, self.text.lines, asdict(self.settings)
        loop.save_state()
        scores = self._score()
        training = {
            "command": self.storage.command,
            "settings": {**settings, **{name: file_names(settings[name]) for name in NAMED if name in settings}},
            **training,
            "lines": len(lines) - len(lines.held_out),
            "pieces": lines.trained_tokens,
            "pieces_seen": loop.total * self._a_step,
            "parameters": list(self.student.model.count_parameters()),
            "steps": loop.progress.step,
            "seconds": round(loop.progress.seconds, 1),
            "held_out": scores,
            "history": loop.progress.history,
            "commit": source_commit(),
        }
        if loop.is_main:
            save_checkpoint(loop.out, self.student.model, self.tokenizer, training)
            lines.remove()
        loop.end()
        minutes = round(loop.progress.seconds / 60, 1)
        return {"checkpoint": str(loop.out), "steps": loop.progress.step, "minutes": minutes, **scores}

    def _score(self) -> dict[str, float]:
        """Score the held-out lines, and report that."""
        scores = self._scores()
        self.loop.report(scores)
        return scores
