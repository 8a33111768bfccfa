"""The loss of fine-tuning: labels, teachers' answers, unlabelled and out-of-scope text."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from service.student.manifest import Labels
from service.student.tokenization import TextEncoder
from training.models.batches import Batch
from training.models.checkpoint import existing_folder
from training.models.devices import autocast_of, processes
from training.models.student import StudentOutput
from training.objectives.intermediate import IntermediateLoss, Shape
from training.objectives.multitask import mixed_pairs, multitask_loss, word_dropout
from training.objectives.plain_text import OUT_OF_SCOPE_WEIGHT, PlainText, outlier_exposure_loss
from training.objectives.task_distillation import Imitation, TeacherTargets
from training.objectives.teacher_logits import read_by
from training.objectives.teacher_states import TeacherStates
from training.runs.flags import listed
from training.runs.settings import NONE, FinetuneSettings
from training.text.corpus import located_files
from training.text.held_out import HeldOut
from training.text.tokenizer import special_ids

log = logging.getLogger(__name__)


class TaskLoss:
    """The loss of a step of fine-tuning, for this process's part of the step."""

    def __init__(
        self,
        settings: FinetuneSettings,
        texts: Callable[[], Iterable[str]],
        labels: Labels,
        encoder: TextEncoder,
        cache: Path,
        held_out: HeldOut,
        shape: Shape,
        states: TeacherStates | None = None,
    ) -> None:
        """Read unlabelled and out-of-scope text, and let the teachers read it and the training `texts`.

        What equals a dev or test utterance is removed (`held_out`). `cache` is the folder of the teachers' logits.
        `shape` is the student's; `states` are the teacher's hidden states, where it has been opened already.
        Raises ValueError: teachers or text that can't be used, or settings that exclude each other.
        """
        out_of_scope = [file for _, file in located_files(settings.out_of_scope)]
        if settings.unlabelled and not settings.teacher:
            raise ValueError("--unlabelled: needs a --teacher, whose answers are its only targets")
        if out_of_scope and not (labels.domain or labels.intent):
            raise ValueError("--out-of-scope: needs a domain or intent head, whose confidence it lowers")
        if settings.mixup and not (labels.domain or labels.intent):
            raise ValueError("--mixup: needs a domain or intent head, whose inputs it mixes")
        if settings.hidden_loss != NONE and len(listed(settings.teacher)) != 1:
            found = len(listed(settings.teacher)) or "none"
            raise ValueError(f"--hidden-loss {settings.hidden_loss}: needs one --teacher; given: {found}")
        self._settings, self._special, self._device = settings, special_ids(encoder.tokenizer), processes().device
        self._imitation = Imitation(settings.prediction_loss, settings.temperature, settings.slot_weight)
        self._unlabelled: PlainText | None = None
        self._out_of_scope: PlainText | None = None
        self._encoder = encoder
        self.targets: TeacherTargets | None = None
        self.helper: IntermediateLoss | None = None  # trained beside the student
        if sources := listed(settings.unlabelled):
            size = math.ceil(settings.batch_size * settings.unlabelled_share)
            self._unlabelled = PlainText.to_imitate(sources, encoder, size, settings.seed, held_out)
        if out_of_scope:
            size = math.ceil(settings.batch_size * settings.out_of_scope_share)
            self._out_of_scope = PlainText.out_of_scope(out_of_scope, encoder, size, settings.seed, held_out)
        for setting, count in held_out.facts().items():
            log.info("--%s: removed %d lines that equal dev or test utterances", setting.replace("_", "-"), count)
        if folders := [existing_folder(folder) for folder in listed(settings.teacher)]:
            taught = list(dict.fromkeys(texts()))
            if self._unlabelled is not None:
                taught += self._unlabelled.texts
            self.targets = TeacherTargets(read_by(folders, taught, cache), labels, taught, encoder)
            self._taught = list(dict.fromkeys(taught))  # a text's place is its row among the targets
            if self._unlabelled is not None:
                self._unlabelled.set_rows(self.targets.rows_of(self._unlabelled.texts))

        if settings.hidden_loss != NONE:
            self._states = states or TeacherStates.of_folder(existing_folder(listed(settings.teacher)[0]))
            kind = (settings.hidden_loss, settings.layer_mapping, settings.mi_alpha)
            self.helper = IntermediateLoss(*kind, shape, self._states.shape).to(self._device)

    def __call__(self, model: Any, batch: Batch, step: int, helper: Any = None) -> Tensor:
        """The loss of a batch in a step (from 0), a scalar; `helper` is this object's, prepared for the run."""
        settings, pad = self._settings, self._special.pad
        batch = batch.to(self._device)
        output = self._read(model, batch, settings.unknown_share)
        if settings.mixup:
            mixed = mixed_pairs(output, batch, settings.mixup)
            loss = self._of_targets(mixed.slots, batch)
            loss = loss + mixed.share * self._of_targets(mixed.output, batch)
            loss = loss + (1 - mixed.share) * self._of_targets(mixed.output, mixed.partners)
        else:
            loss = self._of_targets(output, batch)
        loss = loss + self._of_states(output, batch, helper)
        if self.targets is not None and self._unlabelled is not None:
            others = self._unlabelled.batch(step, pad).to(self._device)
            found = self._read(model, others, settings.unknown_share)
            # so that a sentence has the same weight as one of the labelled batch
            imitated = self._imitation(found, others, self.targets) + self._of_states(found, others, helper)
            loss = loss + settings.unlabelled_share * imitated
        if self._out_of_scope is not None:
            others = self._out_of_scope.batch(step, pad).to(self._device)
            loss = loss + OUT_OF_SCOPE_WEIGHT * outlier_exposure_loss(self._read(model, others, 0.0))
        return loss

    def _of_targets(self, output: StudentOutput, batch: Batch) -> Tensor:
        """The loss between the output and the batch's labels and teachers' answers."""
        settings, loss = self._settings, torch.zeros((), device=self._device)
        weight = settings.teacher_weight if self.targets is not None else 0.0
        if weight < 1:
            loss = (1 - weight) * multitask_loss(output, batch, settings.slot_weight, settings.label_smoothing)
        if self.targets is not None:
            loss = loss + weight * self._imitation(output, batch, self.targets)
        return loss

    def _of_states(self, output: StudentOutput, batch: Batch, helper: Any) -> Tensor:
        """The weighted loss between hidden states; 0 without one."""
        if self.helper is None or output.hidden_states is None:
            return torch.zeros((), device=self._device)
        aligned = self._states.aligned(self._encoder, [self._taught[row] for row in batch.rows])
        compare = self.helper if helper is None else helper
        found: Tensor = compare(aligned.chosen(output.hidden_states), aligned.states, aligned.mask)
        return self._settings.hidden_weight * found

    def _read(self, model: Any, batch: Batch, unknown_share: float) -> StudentOutput:
        """The student's output for a batch, with word dropout."""
        tokens = batch.input_ids
        if unknown_share:
            tokens = word_dropout(batch, unknown_share, self._special.unknown, self._special.protected)
        with autocast_of(self._settings.precision, self._device):
            output: StudentOutput = model(tokens, batch.attention_mask, all_layers=self.helper is not None)
        return output
