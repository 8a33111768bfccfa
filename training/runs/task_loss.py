"""The loss of fine-tuning: labels, teachers' answers, unlabelled and out-of-scope text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from service.student.manifest import Labels
from service.student.tokenization import TextEncoder
from training.models.batches import Batch
from training.models.devices import autocast_of, processes
from training.models.student import StudentOutput
from training.objectives.multitask import multitask_loss, word_dropout
from training.objectives.plain_text import OUT_OF_SCOPE_WEIGHT, PlainText, outlier_exposure_loss
from training.objectives.task_distillation import TeacherTargets, distillation_loss, open_teacher
from training.runs.flags import listed
from training.runs.settings import FinetuneSettings
from training.text.corpus import located_files
from training.text.tokenizer import special_ids


class TaskLoss:
    """The loss of a step of fine-tuning, for this process's part of the step."""

    def __init__(self, settings: FinetuneSettings, texts: Sequence[str], labels: Labels, encoder: TextEncoder) -> None:
        """Read unlabelled and out-of-scope text, and compute the teachers' targets for it and for the training `texts`.

        Raises ValueError: teachers or text that can't be used, or settings that exclude each other.
        """
        out_of_scope = [file for _, file in located_files(settings.out_of_scope)]
        if settings.unlabelled and not settings.teacher:
            raise ValueError("--unlabelled: needs a --teacher, whose answers are its only targets")
        if out_of_scope and not (labels.domain or labels.intent):
            raise ValueError("--out-of-scope: needs a domain or intent head, whose confidence it lowers")
        self._settings, self._special, self._device = settings, special_ids(encoder.tokenizer), processes().device
        self._unlabelled: PlainText | None = None
        self._out_of_scope: PlainText | None = None
        self._targets: TeacherTargets | None = None
        taught = list(texts)
        if sources := listed(settings.unlabelled):
            size = math.ceil(settings.batch_size * settings.unlabelled_share)
            self._unlabelled = PlainText.to_imitate(sources, encoder, size, settings.seed, len(texts))
            taught += self._unlabelled.texts
        if out_of_scope:
            size = math.ceil(settings.batch_size * settings.out_of_scope_share)
            self._out_of_scope = PlainText.out_of_scope(out_of_scope, encoder, size, settings.seed)
        if folders := listed(settings.teacher):
            teachers = [open_teacher(Path(folder), self._device) for folder in folders]
            self._targets = TeacherTargets(teachers, labels, taught, encoder, settings.temperature)

    def __call__(self, model: Any, batch: Batch, step: int) -> Tensor:
        """The loss of a batch in a step (from 0), a scalar."""
        settings, pad = self._settings, self._special.pad
        batch = batch.to(self._device)
        output = self._read(model, batch, settings.unknown_share)
        loss = multitask_loss(output, batch, settings.slot_weight, settings.label_smoothing)
        if self._targets is not None and (batch.whole.rows >= 0).any():
            imitation = distillation_loss(output, batch, self._targets, settings.slot_weight)
            loss = torch.lerp(loss, imitation, settings.teacher_weight)
        if self._targets is not None and self._unlabelled is not None:
            others = self._unlabelled.batch(step, pad).to(self._device)
            found = self._read(model, others, settings.unknown_share)
            imitation = distillation_loss(found, others, self._targets, settings.slot_weight)
            # so that a sentence has the same weight as one of the labelled batch
            loss = loss + settings.teacher_weight * settings.unlabelled_share * imitation
        if self._out_of_scope is not None:
            others = self._out_of_scope.batch(step, pad).to(self._device)
            loss = loss + OUT_OF_SCOPE_WEIGHT * outlier_exposure_loss(self._read(model, others, 0.0))
        return loss

    def _read(self, model: Any, batch: Batch, unknown_share: float) -> StudentOutput:
        """The student's output for a batch, with word dropout."""
        tokens = batch.input_ids
        if unknown_share:
            tokens = word_dropout(batch, unknown_share, self._special.unknown, self._special.protected)
        with autocast_of(self._settings.precision, self._device):
            output: StudentOutput = model(tokens, batch.attention_mask)
        return output
