"""Distillation of an encoder from a masked-language-model teacher on a transfer set.

At the masked tokens the student learns from the text (hard loss) and from the teacher's distribution over the
vocabulary (soft loss: Hinton et al. 2015); another loss may compare hidden states. The teacher runs once per batch, and
none of its outputs are stored.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from service.student.manifest import Labels
from training.models.checkpoint import Checkpoint, is_finished, load_checkpoint, load_resume_state, save_resume_state
from training.models.devices import autocast_of, processes
from training.models.errors import CheckpointError
from training.models.student import StudentConfig, StudentModel
from training.objectives.inheritance import inherit_layers, require_part
from training.objectives.layer_mapping import LAYER_MAPPINGS
from training.objectives.losses import HIDDEN_LOSSES, PREDICTION_LOSSES
from training.objectives.masked_language import MaskedBatch, MaskedLanguageModel, masked_loss
from training.runs.flags import listed
from training.runs.loop import Storage
from training.runs.settings import INHERITED, RANDOM, DistillSettings
from training.runs.start import is_untouched
from training.runs.text_run import TextRun
from training.text.corpus import read_lines

PROBE_LINES = 256

log = logging.getLogger(__name__)


def distill(settings: DistillSettings, storage: Storage) -> dict[str, Any]:
    """Distil the intermediates that are not finished yet, then the student. Returns the student's summary.

    Raises ValueError: settings, text or teacher that can't be used.
    """
    for name in ("teacher", "corpus"):
        if not getattr(settings, name):
            raise ValueError(f"--{name} is required (unless --resume)")
    sizes, out, state = listed(settings.chain), storage.out, storage.state
    begun = state is not None and "model" in state
    if sizes and not begun:
        require_start(settings, sizes)

    def keep() -> None:  # a chain is resumed from this until its student has a state
        if state is None and processes().is_main_process:
            save_resume_state(out, {"command": storage.command, "settings": asdict(settings)})

    teacher = settings.teacher
    for size in sizes:
        folder = out / f"via-{size}"
        if not begun and not is_finished(folder):
            first = settings.start if settings.start in (RANDOM, INHERITED) else RANDOM
            via = replace(settings, size=size, teacher=teacher, start=first, chain="")
            left = None if is_untouched(folder) else load_resume_state(folder)
            distill_student(via, replace(storage, out=folder, state=left), before=keep)
        teacher = str(folder)
    last = replace(storage, state=state if begun else None)
    return distill_student(replace(settings, teacher=teacher), last, settings)


def require_start(settings: DistillSettings, sizes: Sequence[str]) -> None:
    """Raise ValueError where the last stage of a chain through these sizes could not start."""
    teacher = load_checkpoint(settings.teacher)
    start_of(settings, teacher)
    above = teacher.model.config
    for size in (*sizes, settings.size) if settings.start == INHERITED else ():
        config = config_of(replace(settings, size=size), above)
        require_part(above, config)
        above = config


def distill_student(
    settings: DistillSettings,
    storage: Storage,
    asked: DistillSettings | None = None,
    before: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """One run, from teacher and text to the student's checkpoint. Returns the summary.

    `asked` are the settings that a resumed run must match, where they differ (the teacher at the head of a chain).
    `before` is called after all checks, before the first state is saved. Raises CorpusError, CheckpointError: text,
    teacher or start that can't be used.
    """
    teacher = load_checkpoint(settings.teacher)
    if not teacher.model.config.masked:
        raise CheckpointError(f"{settings.teacher}: has no masked-language head, which a teacher needs")
    if teacher.labels.heads:  # a Hugging Face encoder keeps a masked-language head that fine-tuning does not update
        raise CheckpointError(f"{settings.teacher}: was fine-tuned on a task; its masked-language head is out of date")
    start = start_of(settings, teacher)
    readable = min(c.model.config.max_position_embeddings for c in (teacher, start or teacher))
    texts = read_lines(listed(settings.corpus))
    run = TextRun(asked or settings, teacher.encoder.tokenizer, texts, storage, readable)
    torch.manual_seed(settings.seed)  # after loading the teacher, which may draw random numbers
    first = start.encoder_alone(settings.dropout) if start else first_student(settings, teacher.model, run)
    student = MaskedLanguageModel(first)
    imitation = Imitation(student, teacher.model.to(processes().device), settings)
    before()
    run.begin(imitation, student)
    soft = PREDICTION_LOSSES[settings.prediction_loss]

    def loss_of(batch: MaskedBatch) -> Tensor:
        with autocast_of(settings.precision, batch.input_ids.device):
            with torch.no_grad():
                taught = teacher.model(batch.input_ids, batch.attention_mask, all_layers=True)
                expected = teacher.model.token_logits(taught.last_hidden_state[batch.chosen])
            logits, hidden = run.loop.model(batch, taught.hidden_states)
        share = len(expected) * run.split.scale(batch.total)
        loss = settings.hard_weight * masked_loss(logits, batch, run.split)
        loss = loss + settings.soft_weight * share * soft(logits, expected, settings.temperature)
        whole: Tensor = loss + settings.hidden_weight * hidden
        return whole

    run.train(loss_of)
    return run.finish({"teacher": teacher.training})


class Imitation(nn.Module):
    """The trained module: the student, and a projection to the teacher's width for each compared layer.

    The projections (Jiao et al. 2020, section 3.1) exist only where the hidden-state loss needs equal widths. They are
    not part of the saved student.
    """

    def __init__(self, student: MaskedLanguageModel, teacher: StudentModel, settings: DistillSettings) -> None:
        super().__init__()
        self.student = student
        self.loss = HIDDEN_LOSSES.get(settings.hidden_loss)
        ours, theirs = student.model.config, teacher.config
        layers, widths = (ours.num_hidden_layers, theirs.num_hidden_layers), (ours.hidden_size, theirs.hidden_size)
        self.pairs = LAYER_MAPPINGS[settings.layer_mapping](*layers) if self.loss else []
        unequal = self.loss is not None and self.loss.equal_widths and widths[0] != widths[1]
        self.projections = nn.ModuleList(nn.Linear(*widths) if unequal else nn.Identity() for _ in self.pairs)

    def forward(self, batch: MaskedBatch, taught: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Logits [chosen tokens, vocabulary], and the mean of the hidden-state losses of the pairs of layers."""
        logits, output = self.student(batch.input_ids, batch.attention_mask, batch.chosen, bool(self.pairs))
        hidden = torch.zeros((), device=logits.device)
        for (ours, theirs), projection in zip(self.pairs, self.projections, strict=True):
            states = projection(output.hidden_states[ours])
            hidden = hidden + self.loss.function(states, taught[theirs], batch.attention_mask) / len(self.pairs)  # type: ignore[union-attr]
        return logits, hidden


def start_of(settings: DistillSettings, teacher: Checkpoint) -> Checkpoint | None:
    """The checkpoint that the student starts from, if it starts from one.

    Raises CheckpointError: its tokenizer differs from the teacher's, or its size from the student's; or layers of this
    teacher can't be inherited.
    """
    if settings.start == INHERITED and not isinstance(teacher.model, StudentModel):
        raise CheckpointError(f"--start {INHERITED}: not possible with a Hugging Face encoder as the teacher")
    if settings.start in (RANDOM, INHERITED):
        return None
    start = load_checkpoint(settings.start)
    if start.encoder.tokenizer.to_str() != teacher.encoder.tokenizer.to_str():
        allowed = "losses compare the same tokens, so allowed are encoders that share the teacher's tokenizer"
        raise CheckpointError(f"--start {settings.start}: its tokenizer is not the teacher's; {allowed}")
    if isinstance(start.model, StudentModel) and start.model.config.size != settings.size:
        raise CheckpointError(f"--start {settings.start}: is of size {start.model.config.size}, not {settings.size}")
    return start


def first_student(settings: DistillSettings, teacher: StudentModel, run: TextRun) -> StudentModel:
    """A new student of the given size, with random weights or with its teacher's layers."""
    student = StudentModel(config_of(settings, teacher.config))
    if settings.start == INHERITED:
        done = inherit_layers(teacher, student, settings.layer_mapping, probe_of(run))
        log.info("inherited from the teacher: %s", done)
    return student


def config_of(settings: DistillSettings, teacher: StudentConfig) -> StudentConfig:
    """The configuration of a student of the given size with its teacher's vocabulary."""
    length = min(settings.max_length, teacher.max_position_embeddings)
    shape = {"vocab_size": teacher.vocab_size, "max_position_embeddings": length}
    return StudentConfig.of_size(settings.size, Labels(), dropout=settings.dropout, masked=True, **shape)


def probe_of(run: TextRun) -> Tensor:
    """Some lines of the text, [lines, tokens] without padding, from which layers are inherited."""
    lines = run.text.lines
    lengths = lines.starts[1:] - lines.starts[:-1]
    longest = (-lengths[: 64 * PROBE_LINES]).argsort(kind="stable")[:PROBE_LINES]
    width = int(lengths[longest].min())
    return lines.batch(longest, run.text.special.pad)[0][:, :width]
