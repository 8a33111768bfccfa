"""The part that pretraining and distillation share: a run over masked text, from settings to checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from itertools import islice
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from training.models.checkpoint import save_checkpoint
from training.models.devices import processes, split
from training.objectives.masked_language import (
    MaskedLanguageModel,
    MaskedText,
    held_out_scores,
    unigram_entropy,
)
from training.runs.flags import file_names
from training.runs.loop import Loop, Storage, source_commit
from training.runs.settings import TextSettings
from training.text.lines import FOLDER, Lines, encode_lines
from training.text.tokenizer import special_ids

log = logging.getLogger(__name__)

CURVE = 20  # scores of the held-out lines in a run, evenly spread
REPLAY = ".replay"  # in the run's folder, as FOLDER
NAMED = (  # settings that name files or folders
    "corpus",
    "replay",
    "data",
    "init",
    "tokenizer",
    "teacher",
    "teacher_cache",
    "start",
)


class TextRun:
    """One run: encodes the text; `begin` sets up the steps, `train` takes them, `finish` saves the checkpoint."""

    def __init__(
        self,
        settings: TextSettings,
        tokenizer: Tokenizer,
        texts: Iterator[str],
        storage: Storage,
        readable: int,
        replay: Iterator[str] | None = None,
        replay_share: float = 0.0,
    ) -> None:
        """Encode the texts: the main process writes them into the run's folder, from which all processes draw batches.

        Lines are cut at `max_length`, or at `readable`, the maximum length of the encoders, in tokens. A share of the
        steps reads `replay`. Raises CorpusError, DatasetError: there is no text, or it can't be read.
        """
        self.settings, self.tokenizer, self.storage = settings, tokenizer, storage
        self._readable = min(settings.max_length, readable)
        self.text = self._encoded(texts, FOLDER)
        self.replay = None if replay is None else self._encoded(replay, REPLAY)
        self._replay_share = replay_share if replay is not None else 0.0
        self.split = split()
        self._a_step = settings.batch_tokens * self.split.count
        of_text = settings.epochs * self.text.lines.trained_tokens / self._a_step
        self.steps = settings.steps or max(1, round(of_text / (1 - self._replay_share)))

    def _encoded(self, texts: Iterator[str], name: str) -> MaskedText:
        folder, settings = self.storage.out / name, self.settings
        if processes().is_main_process:
            encode_lines(self.tokenizer, texts, self._readable, folder)
        processes().wait_for_everyone()
        lines, vocabulary = Lines(folder, settings.seed), self.tokenizer.get_vocab_size()
        log.info("%d lines, %d tokens, vocabulary %d", len(lines), len(lines.tokens), vocabulary)
        return MaskedText(lines, special_ids(self.tokenizer), vocabulary, settings.masked_share, settings.seed)

    @property
    def passes(self) -> float:
        """How often all steps read the text."""
        return self.steps * (1 - self._replay_share) * self._a_step / max(1, self.text.lines.trained_tokens)

    def begin(
        self, model: nn.Module, student: MaskedLanguageModel, scores: Callable[[], dict[str, float]] | None = None
    ) -> None:
        """Set up the loop for the model that is trained and the student in it, or restore it.

        `scores` are those of the held-out lines; None: of the masked-language head.
        """
        self.student = student
        self._scores = scores or self._masked_scores
        settings, count, state = self.settings, self.split.count, self.storage.state
        read = [self.text.lines, *([self.replay.lines] if self.replay else [])]
        text = [number for lines in read for number in (len(lines), len(lines.tokens), lines.checksum)]
        facts = {"tokenizer": self.tokenizer.to_str(), "text": text, "processes": count}
        if state is not None and (before := state["processes"]) != count:
            raise ValueError(f"the run began with {before} processes, now there are {count}; resume it with {before}")
        if state is not None and (before := state["text"]) != text:
            changed = f"lines, tokens, checksum {before}, now {text}"
            raise ValueError(f"the text has changed since the run began: {changed}")
        self.loop = Loop(model.to(processes().device), settings, self.storage, self.steps, facts)

    def train(
        self,
        loss_of: Callable[[Any], Tensor],
        batch_of: Callable[[NDArray[np.int64], int], Any] | None = None,
    ) -> None:
        """Take the remaining steps. Raises FloatingPointError when loss or gradient is not finite.

        `batch_of` makes the batch of a step from its rows and the number of the pass over the text; None: a masked
        batch, with new masks in each step.
        """
        loop, device = self.loop, processes().device
        score_every = ceil(loop.total / CURVE)

        def loss_of_rows(text: MaskedText, number: int, rows: NDArray[np.int64]) -> Tensor:
            batch = batch_of(rows, number) if batch_of else text.batch(rows, loop.progress.step, self.split)
            return loss_of(batch.to(device))

        with loop.bar():
            step, scored = loop.progress.step, {point["step"] for point in loop.progress.curve}
            if step and step % score_every == 0 and not loop.finished and step not in scored:
                self._score()  # the interrupted run stopped between the step and its scores
            for drawn in self._draws():
                loop.step(partial(loss_of_rows, *drawn), record_every=max(1, loop.total // 100))
                if loop.progress.step % score_every == 0 and not loop.finished:
                    self._score()

    def _draws(self) -> Iterator[tuple[MaskedText, int, NDArray[np.int64]]]:
        """The text, number of the pass and rows of each remaining step."""
        step = self.loop.progress.step
        replayed = self._replayed(step)
        own = islice(self.text.lines.batches(self._a_step), step - replayed, None)
        others = islice(self.replay.lines.batches(self._a_step), replayed, None) if self.replay else own
        for i in range(step, self.loop.total):
            if self.replay and self._replayed(i + 1) > self._replayed(i):
                yield (self.replay, *next(others))
            else:
                yield (self.text, *next(own))

    def _replayed(self, steps: int) -> int:
        """How many of the first steps read the replayed text: evenly spread."""
        return int(steps * self._replay_share + 1e-9)  # 1e-9: 0.3 is not exact

    def finish(self, training: dict[str, Any]) -> dict[str, Any]:
        """Score the held-out lines and save the student's checkpoint. Returns the summary."""
        loop, lines, settings = self.loop, self.text.lines, asdict(self.settings)
        loop.save_state()
        scores = self._score()
        replayed = {"replay_lines": len(self.replay.lines)} if self.replay else {}
        training = {
            "command": self.storage.command,
            "settings": {**settings, **{name: file_names(settings[name]) for name in NAMED if name in settings}},
            **training,
            "lines": len(lines) - len(lines.held_out),
            **replayed,
            "passes": round(self.passes, 3),
            "pieces": lines.trained_tokens,
            "pieces_seen": loop.total * self._a_step,
            "parameters": list(self.student.model.count_parameters()),
            "steps": loop.progress.step,
            "seconds": round(loop.progress.seconds, 1),
            "held_out": scores,
            "curve": loop.progress.curve,
            "history": loop.progress.history,
            "commit": source_commit(),
        }
        if loop.is_main:
            save_checkpoint(loop.out, self.student.model, self.tokenizer, training)
            lines.remove()
            if self.replay:
                self.replay.lines.remove()
        loop.end()
        minutes = round(loop.progress.seconds / 60, 1)
        return {"checkpoint": str(loop.out), "steps": loop.progress.step, "minutes": minutes, **scores}

    def _score(self) -> dict[str, float]:
        """Score the held-out lines, report that, and record it in the curve of the run."""
        loop, scores = self.loop, self._scores()
        loop.report(scores)
        if scores:
            loop.progress.curve.append({"step": loop.progress.step, **scores})
        loop.say(lambda: f"step {loop.progress.step}: {scores}")
        return scores

    def _masked_scores(self) -> dict[str, float]:
        """Loss and accuracy on the held-out lines, their unigram entropy, and the loss on those of the replay."""
        precision = self.settings.precision
        scores = held_out_scores(self.student, self.text, precision)
        if scores:
            scores["unigram_entropy"] = round(unigram_entropy(self.text), 4)
        if self.replay and (others := held_out_scores(self.student, self.replay, precision)):
            scores["replay_held_out_loss"] = others["held_out_loss"]
        return scores
