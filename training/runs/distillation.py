"""Distillation of an encoder from a masked-language-model teacher on a transfer set.

At the masked tokens the student learns from the text (hard loss) and from the teacher's distribution over the
vocabulary (soft loss: Hinton et al. 2015); another loss may compare hidden states. With a masked share of 0, both read
plain text and hidden states are compared alone, so any encoder can teach, a fine-tuned one included. The teacher runs
once per batch, or once per text: with `--teacher-cache` its predictions are stored for further runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from service.student.manifest import Labels
from training.models.checkpoint import (
    Checkpoint,
    existing_folder,
    is_finished,
    load_checkpoint,
    load_resume_state,
    save_resume_state,
)
from training.models.devices import autocast_of, processes
from training.models.errors import CheckpointError
from training.models.sizes import SIZES
from training.models.student import POSITION_BIAS, StudentConfig, StudentModel
from training.objectives.first_weights import reduced, require_smaller, with_position_bias
from training.objectives.layer_mapping import LAYER_MAPPINGS
from training.objectives.losses import HIDDEN_LOSSES, PREDICTION_LOSSES
from training.objectives.masked_language import MaskedBatch, MaskedLanguageModel, MaskedText, masked_loss
from training.objectives.masked_teacher import Kept, MaskedTeacher, TaughtBatch
from training.objectives.teacher_logits import digest_of
from training.runs.flags import listed
from training.runs.loop import Storage
from training.runs.settings import INHERITED, NONE, RANDOM, DistillSettings
from training.runs.start import is_untouched
from training.runs.text_run import TextRun
from training.text.corpus import read_lines

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
    config = teacher.model.config
    layers, hidden, above = config.num_hidden_layers, config.hidden_size, config.size
    for size in (*sizes, settings.size) if settings.start == INHERITED else ():
        require_smaller(size, layers, hidden, above)
        layers, hidden, above = SIZES[size].layers, SIZES[size].hidden, size


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
    require_teacher(settings, teacher)
    start = start_of(settings, teacher)
    readable = min(c.model.config.max_position_embeddings for c in (teacher, start or teacher))
    texts = read_lines(listed(settings.corpus))
    run = TextRun(asked or settings, teacher.encoder.tokenizer, texts, storage, readable)
    torch.manual_seed(settings.seed)  # after loading the teacher, which may draw random numbers
    masked = settings.masked_share > 0
    first = start.encoder_alone(settings.dropout, masked) if start else random_student(settings, teacher.model.config)
    student = MaskedLanguageModel(first)
    imitation = Imitation(student, teacher.model.to(processes().device), settings)
    cached = cached_predictions(settings, teacher, run) if settings.teacher_cache else None
    before()
    run.begin(imitation, student, None if masked else lambda: imitation.held_out_loss(run.text, settings.precision))
    soft = PREDICTION_LOSSES[settings.prediction_loss]

    def loss_of(batch: MaskedBatch) -> Tensor:
        with autocast_of(settings.precision, batch.input_ids.device):
            with torch.no_grad():
                taught = teacher.model(batch.input_ids, batch.attention_mask, all_layers=True)
                expected = teacher.model.token_logits(taught.last_hidden_state[batch.chosen]) if masked else None
            logits, hidden = run.loop.model(batch, taught.hidden_states)
        if expected is None:
            compared: Tensor = hidden
            return compared
        share = len(expected) * run.split.scale(batch.total)
        loss = settings.hard_weight * masked_loss(logits, batch, run.split)
        loss = loss + settings.soft_weight * share * soft(logits, expected, settings.temperature)
        whole: Tensor = loss + settings.hidden_weight * hidden
        return whole

    def loss_of_cached(batch: TaughtBatch) -> Tensor:
        with autocast_of(settings.precision, batch.tokens.device):
            logits, _ = run.loop.model(batch.masked, ())
        share = len(batch.tokens) * run.split.scale(batch.masked.total)
        loss = settings.hard_weight * masked_loss(logits, batch.masked, run.split)
        return loss + settings.soft_weight * share * batch.soft_loss(logits, settings.temperature)

    if cached is None:
        run.train(loss_of)
        return run.finish({"teacher": teacher.training})
    variants = variants_of(settings, run)
    run.train(loss_of_cached, lambda rows, number: cached.batch(rows, number % variants, run.split))
    facts = {"variants": variants, "tokens": cached.k, "mass": round(cached.mass, 4)}
    return run.finish({"teacher": teacher.training, "cache": facts})


def variants_of(settings: DistillSettings, run: TextRun) -> int:
    """The masks of each line: as many as asked for, else one for each pass over the text."""
    return settings.mask_variants or max(1, round(run.passes))


def cached_predictions(settings: DistillSettings, teacher: Checkpoint, run: TextRun) -> MaskedTeacher:
    """The teacher's predictions for the text of a run, read now or found in the cache."""
    kept = Kept(settings.masked_share, settings.cached_tokens, settings.temperature)
    digest = digest_of(existing_folder(settings.teacher))
    cached = MaskedTeacher(Path(settings.teacher_cache), digest, run.text, kept)
    cached.add(teacher.model, variants_of(settings, run), settings.precision)
    log.info("--teacher-cache: %d tokens hold %.1f %% of the teacher's mass", cached.k, 100 * cached.mass)
    return cached


class Imitation(nn.Module):
    """The trained module: the student, its teacher, and a projection to its width for each compared layer.

    The projections (Jiao et al. 2020, section 3.1) exist only where the hidden-state loss needs equal widths. They are
    not part of the saved student.
    """

    def __init__(self, student: MaskedLanguageModel, teacher: StudentModel, settings: DistillSettings) -> None:
        super().__init__()
        self.student = student
        self.teacher = (teacher,)  # in a tuple, so that its weights are no parameters of this module
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

    def held_out_loss(self, text: MaskedText, precision: str) -> dict[str, float]:
        """The mean hidden-state loss over the batches of held-out lines; empty without such lines."""
        was_training, device = self.training, next(self.parameters()).device
        self.eval()
        losses = []
        with torch.inference_mode(), autocast_of(precision, device):
            for batch in (held_out.to(device) for held_out in text.held_out()):
                taught = self.teacher[0](batch.input_ids, batch.attention_mask, all_layers=True)
                losses.append(float(self(batch, taught.hidden_states)[1]))
        self.train(was_training)
        return {"held_out_loss": round(sum(losses) / len(losses), 4)} if losses else {}


def require_teacher(settings: DistillSettings, teacher: Checkpoint) -> None:
    """Raise ValueError where a teacher can't be imitated with these settings."""
    if settings.teacher_cache:
        if settings.hidden_loss != NONE or settings.masked_share == 0 or settings.prediction_loss != "kl":
            needed = "needs --prediction-loss kl, --hidden-loss none and a --masked-share above 0"
            raise ValueError(f"--teacher-cache: holds the teacher's most probable tokens alone; {needed}")
        if not existing_folder(settings.teacher).is_dir():
            raise CheckpointError(f"--teacher {settings.teacher}: is no folder, which --teacher-cache needs")
    if settings.masked_share == 0:
        if settings.hidden_loss == NONE:
            raise ValueError("--masked-share 0: nothing to learn from; choose a --hidden-loss")
        return
    allowed = "allowed: a pretrained encoder with one, or --masked-share 0 with a --hidden-loss"
    if not teacher.model.config.masked:
        raise CheckpointError(f"{settings.teacher}: has no masked-language head, which a teacher needs; {allowed}")
    if teacher.labels.heads:  # a Hugging Face encoder keeps a masked-language head that fine-tuning does not update
        stale = "was fine-tuned on a task; its masked-language head is out of date"
        raise CheckpointError(f"{settings.teacher}: {stale}; {allowed}")


def start_of(settings: DistillSettings, teacher: Checkpoint) -> Checkpoint | None:
    """The checkpoint that the student starts from, of its size; None: from random weights.

    Raises CheckpointError: its tokenizer differs from the teacher's, or its size from the student's; or the student
    can't start from this teacher.
    """
    if settings.start == INHERITED and not isinstance(teacher.model, StudentModel):
        raise CheckpointError(f"--start {INHERITED}: not possible with a Hugging Face encoder as the teacher")
    if settings.start == INHERITED:
        same = settings.size == teacher.model.config.size
        mapping = "" if same else settings.layer_mapping
        return reduced(teacher, settings.size, mapping, position_bias=settings.position_bias)
    if settings.start == RANDOM:
        return None
    start = load_checkpoint(settings.start)
    if start.encoder.tokenizer.to_str() != teacher.encoder.tokenizer.to_str():
        allowed = "losses compare the same tokens, so allowed are encoders that share the teacher's tokenizer"
        raise CheckpointError(f"--start {settings.start}: its tokenizer is not the teacher's; {allowed}")
    if isinstance(start.model, StudentModel) and start.model.config.size != settings.size:
        raise CheckpointError(f"--start {settings.start}: is of size {start.model.config.size}, not {settings.size}")
    return with_position_bias(start, settings.position_bias)


def random_student(settings: DistillSettings, teacher: StudentConfig) -> StudentModel:
    """A new student of the given size with its teacher's vocabulary and, unless set otherwise, kind of positions."""
    length = min(settings.max_length, teacher.max_position_embeddings)
    shape = {"vocab_size": teacher.vocab_size, "max_position_embeddings": length, "dropout": settings.dropout}
    bias = getattr(teacher, POSITION_BIAS, False) if settings.position_bias is None else settings.position_bias
    shape |= {"masked": settings.masked_share > 0, "position_bias": bias}
    return StudentModel(StudentConfig.of_size(settings.size, Labels(), **shape))
