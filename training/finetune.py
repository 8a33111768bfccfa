"""Train a student on labelled utterances.

    python -m training.finetune --data DIR --locales de-DE,fr-FR,it-IT,es-ES,en-US --size s --out CKPT

Reads top to bottom: settings, data, tokenizer, model, loop, summary. Progress and a table per epoch go to standard
error; the last line of standard output is one JSON object. `--resume` continues an interrupted run exactly.
`accelerate launch -m training.finetune ...` runs it on several devices.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import training.models  # noqa: F401 # isort: skip - before all else: names a missing extra

import torch
from accelerate.utils import broadcast_object_list
from tokenizers import Tokenizer
from torch import Tensor

from service.student.manifest import Labels
from training.data import datasets
from training.data.augmentation import typed_copy
from training.data.labels import HEADS, labels_of
from training.data.utterances import Utterance, checksum_of
from training.evaluation.scoring import score_by_locale
from training.models.batches import Batch, EpochData, ExampleEncoder
from training.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.models.devices import autocast_of, processes
from training.models.prediction import answers_of_model
from training.models.sizes import SIZES
from training.models.student import ACTIVATIONS, StudentModel, StudentOutput
from training.models.task_model import DEFAULT, encoder_of, model_of, shape_of
from training.objectives.multitask import hide_pieces, multitask_loss
from training.objectives.outlier_exposure import WEIGHT, Outliers, unsureness_loss
from training.objectives.task_distillation import TeacherTargets, distillation_loss, open_teacher
from training.objectives.task_text import Unlabelled
from training.runs.loop import Loop, source_commit
from training.runs.settings import begin, file_names, listed, parser_of, report, setting
from training.text.tokenizer import VOCABULARY, special_ids, train_tokenizer, with_variants

COMMAND = "training.finetune"

log = logging.getLogger(COMMAND)


@dataclass(frozen=True)
class Settings:
    """Everything that decides the outcome of a run; each is a flag, and `--resume` inherits them all."""

    data: str = setting("", "labelled data: folder, tarball, file or hub:NAME")
    locales: str = setting("", "comma-separated locales that the student serves and is scored on; all by default")
    extra_locales: str = setting("", "further locales to train on only: related languages help the served ones")
    init: str = setting(
        "",
        "checkpoint, Hugging Face folder or hub name to start from: tokenizer, encoder, and heads with the same labels",
    )
    teacher: str = setting(
        "", "comma-separated fine-tuned checkpoints or exported students to imitate on the training utterances"
    )
    unlabelled: str = setting(
        "", "comma-separated files of plain sentences on which the student only imitates the teachers"
    )
    unlabelled_share: float = setting(0.5, "such sentences a step, as a share of batch_size", low=0.01, high=16)
    teacher_weight: float = setting(
        0.7, "share of the loss that imitates the teachers; the rest is labels", low=0, high=1
    )
    temperature: float = setting(1.0, "softens the teachers' probabilities", low=0.1)
    size: str = setting("", f"encoder size: that of --init, else {DEFAULT.size}", choices=tuple(SIZES))
    heads: str = setting(",".join(HEADS), "comma-separated heads")
    activation: str = setting(
        "", f"feed-forward activation: that of --init, else {DEFAULT.activation}", choices=tuple(ACTIVATIONS)
    )
    vocabulary: int = setting(VOCABULARY, "tokenizer pieces at most", low=100)
    max_length: int = setting(64, "pieces of a text that the student reads at most", low=2)
    epochs: int = setting(12, "passes over the training data", low=1)
    batch_size: int = setting(128, "utterances a step and process", low=1)
    learning_rate: float = setting(
        1e-3, "peak of AdamW's rate: linear warm-up over the first steps, then linear decay", low=0
    )
    weight_decay: float = setting(0.01, "decay of AdamW", low=0)
    average: float = setting(
        0.0, "decay of the average of the weights that is scored and kept (0: none)", low=0, high=1
    )
    dropout: float = setting(0.2, "dropout in the encoder; of a Hugging Face one before its heads", low=0, high=1)
    unknown_share: float = setting(0.1, "share of training pieces replaced by [UNK]", low=0, high=1)
    augmented_share: float = setting(0.5, "share of training utterances rewritten as typed text", low=0, high=1)
    substituted_share: float = setting(
        0.0, "share of training utterances with slots that get other values of their kind", low=0, high=1
    )
    label_smoothing: float = setting(0.1, "share of the target that is spread over all labels", low=0, high=1)
    out_of_scope: str = setting(
        "", "comma-separated files of plain sentences that are no requests, of which the student learns to be unsure"
    )
    out_of_scope_share: float = setting(0.25, "such sentences a step, as a share of batch_size", low=0.01, high=1)
    slot_weight: float = setting(2.0, "weight of the slot loss beside domain and intent", low=0)
    seed: int = setting(1, "decides weights, order and augmentation", low=0)
    precision: str = setting("auto", "auto takes bf16 where the hardware computes it", choices=("auto", "bf16", "fp32"))
    on_error: str = setting("raise", "what to do with a bad row", choices=("raise", "skip"))


@dataclass(frozen=True)
class Data:
    """What a run trains and is scored on, and which locales the student serves."""

    train: list[Utterance]
    dev: list[Utterance]
    served: list[str]
    labels: Labels
    skipped: int


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Flags of the command; settings that were not given are absent from the namespace."""
    parser = parser_of(COMMAND, "Train a student on labelled utterances.", Settings)
    args = parser.parse_args(argv)
    if not args.resume and not getattr(args, "data", ""):
        parser.error("--data is required (unless --resume)")
    unknown = set(getattr(args, "heads", HEADS[0]).split(",")) - set(HEADS)
    if unknown:
        parser.error(f"--heads: {', '.join(sorted(unknown))}; allowed: {', '.join(HEADS)}")
    if getattr(args, "out_of_scope", "") and getattr(args, "heads", "") == "slots":
        parser.error("--out-of-scope: needs a domain or intent head, which could be unsure")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    args = parse_arguments(argv)

    def run() -> dict[str, Any]:
        settings, state = begin(COMMAND, Settings, args)
        if not settings.data:
            raise ValueError("--data is required (unless --resume)")
        if settings.unlabelled and not settings.teacher:
            raise ValueError("--unlabelled: needs a --teacher, whose answers are all that there is to learn from it")
        return Run(settings, read_data(settings), args.out, args.save_every, state).train()

    return report(run)


def read_data(settings: Settings) -> Data:
    """Training and dev utterances; labels are those of the training partition.

    Raises:
        DatasetError: the data can't be used.
    """
    served = listed(settings.locales)
    extra = [x for x in listed(settings.extra_locales) if x not in served]
    dataset = datasets.load(settings.data, served + extra if served else None, settings.on_error)  # type: ignore[arg-type]
    served = served or sorted({u.locale for u in dataset.utterances} - set(extra))
    heads = listed(settings.heads)
    utterances = [u for u in dataset.part("train", served + extra) if is_labelled(u, heads)]
    if not utterances:
        raise datasets.DatasetError(f"{settings.data}: no training utterance has a label for {', '.join(heads)}")
    return Data(
        utterances, dataset.part("dev", served), served, labels_of(utterances, listed(settings.heads)), dataset.skipped
    )


class Run:
    """One training run, from the first weights, or the resumed ones, to the checkpoint of the best epoch."""

    def __init__(
        self, settings: Settings, data: Data, out: Path, save_every: int, state: dict[str, Any] | None = None
    ) -> None:
        """Set up a new run, one from `settings.init`, or the interrupted one whose `state` is given.

        Raises:
            CheckpointError: `settings.init` or a teacher is no checkpoint, or doesn't fit the other settings.
            CorpusError: plain text can't be read, or holds too little.
            ValueError: the data is not that of the interrupted run.
        """
        start = load_checkpoint(settings.init) if settings.init else None
        shape = shape_of(settings.size, settings.activation, start)
        self.settings = settings = replace(settings, size=shape.size, activation=shape.activation)
        self.data, self.out, self.device, count = data, out, processes().device, processes().num_processes
        torch.manual_seed(settings.seed)
        tokenizer = Tokenizer.from_str(state["tokenizer"]) if state else first_tokenizer(settings, data, start)
        self.encoder = encoder_of(tokenizer, start, settings.max_length)
        self.special = special_ids(tokenizer)
        self.lineage = start.training if start else None
        self.model = model_of(shape, start, data.labels, self.encoder, settings.dropout).to(self.device)
        self.epochs = EpochData(
            data.train,
            ExampleEncoder(self.encoder, data.labels),
            settings.batch_size,
            settings.augmented_share,
            settings.seed,
            count,
            settings.substituted_share,
        )
        checksum = checksum_of(data.train)
        if state and state.get("data", checksum) != checksum:
            raise ValueError(f"{settings.data}: its training utterances have changed since the run began")
        before = state.get("steps", self.epochs.steps) if state else self.epochs.steps
        if before != self.epochs.steps:
            raise ValueError(
                f"the data or the number of processes has changed since the run began: {before} steps an epoch, "
                f"now {self.epochs.steps}"
            )
        self._read_plain_text(count)
        self.loop = Loop(
            self.model,
            total=settings.epochs * self.epochs.steps,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            seed=settings.seed,
            out=out,
            save_every=save_every,
            facts={
                "command": COMMAND,
                "settings": asdict(settings),
                "tokenizer": tokenizer.to_str(),
                "steps": self.epochs.steps,
                "data": checksum,
            },
            average=settings.average,
            state=state,
        )

    def _read_plain_text(self, count: int) -> None:
        """Read what has no labels, for so many processes, and ask the teachers about all that they are to teach."""
        settings, texts = self.settings, [u.text for u in self.data.train]
        self.unlabelled: Unlabelled | None = None
        self.outliers: Outliers | None = None
        self.targets: TeacherTargets | None = None
        if others := listed(settings.unlabelled):
            a_process = math.ceil(settings.batch_size * settings.unlabelled_share)
            self.unlabelled = Unlabelled(others, self.encoder, a_process, settings.seed, len(texts), count)
            texts += self.unlabelled.texts
        if others := listed(settings.out_of_scope):
            a_process = math.ceil(settings.batch_size * settings.out_of_scope_share)
            self.outliers = Outliers(others, self.encoder, a_process * count, settings.seed)
        if folders := listed(settings.teacher):
            teachers = [open_teacher(Path(folder), self.device) for folder in folders]
            self.targets = TeacherTargets(teachers, self.data.labels, texts, self.encoder, settings.temperature)

    def train(self) -> dict[str, Any]:
        """Train to the end. Returns the summary."""
        total, outside = self.model.count_parameters()
        log.info("%s: %d parameters, %d of them outside embeddings and heads", self.settings.size, total, outside)
        log.info(
            "%d utterances to train on, %d to score on, on %s", len(self.data.train), len(self.data.dev), self.device
        )
        with self.loop.bar():
            if self._ended_unscored():
                self._score_epoch()
            while not self.loop.finished:
                self._train_epoch()
                self._score_epoch()
        return self._finish()

    def _ended_unscored(self) -> bool:
        """Whether the interrupted run stopped between the last step of an epoch and its scores."""
        epoch, done = divmod(self.loop.progress.step, self.epochs.steps)
        return done == 0 and epoch > len(self.loop.progress.history)

    def _train_epoch(self) -> None:
        """The rest of the epoch that the run stands in."""
        epoch, done = divmod(self.loop.progress.step, self.epochs.steps)
        self.loop.describe(f"epoch {epoch + 1}/{self.settings.epochs}")
        for batch in self.epochs.batches(epoch, self.special.pad, done, self.loop.part_of):
            self.loop.step(partial(self._loss_of, batch.to(self.device)))

    def _loss_of(self, batch: Batch) -> Tensor:
        """The loss of this process's part of a step."""
        settings, loop, pad = self.settings, self.loop, self.special.pad
        output = self._read(batch, settings.unknown_share)
        loss = multitask_loss(output, batch, settings.slot_weight, settings.label_smoothing)
        if self.targets is not None and (batch.whole.rows >= 0).any():
            imitation = distillation_loss(output, batch, self.targets, settings.slot_weight)
            loss = torch.lerp(loss, imitation, settings.teacher_weight)
        if self.targets is not None and self.unlabelled is not None:
            others = self.unlabelled.batch(loop.progress.step, pad, loop.part_of).to(self.device)
            found = self._read(others, settings.unknown_share)
            imitation = distillation_loss(found, others, self.targets, settings.slot_weight)
            # so that a sentence counts as much here as there
            loss = loss + settings.teacher_weight * settings.unlabelled_share * imitation
        if self.outliers is not None:
            others = self.outliers.batch(loop.progress.step, pad, loop.part_of).to(self.device)
            loss = loss + WEIGHT * unsureness_loss(self._read(others, 0.0))
        return loss

    def _read(self, batch: Batch, unknown_share: float) -> StudentOutput:
        """The student's output for a batch of which a share of the pieces is hidden."""
        special, pieces = self.special, batch.input_ids
        if unknown_share:
            pieces = hide_pieces(batch, unknown_share, special.unknown, special.protected)
        with autocast_of(self.settings.precision, self.device):
            output: StudentOutput = self.loop.model(pieces, batch.attention_mask)
        return output

    def _score_epoch(self) -> None:
        """Score on dev, keep the checkpoint if it is the best so far, and save the state."""
        data, loop, progress = self.data, self.loop, self.loop.progress
        epoch = progress.step // self.epochs.steps
        model = cast(StudentModel, loop.result)
        held: list[Any] = [None]
        if loop.is_main:
            held = [score_by_locale(data.dev, answers_of_model(model, self.encoder, data.labels, data.dev))]
        scores = broadcast_object_list(held)[0]  # so that all processes agree on which epoch is the best
        loss = round(progress.summed_loss / self.epochs.steps, 4)
        progress.history.append({"epoch": epoch, "loss": loss, "dev": _rounded(scores["mean"])})
        progress.summed_loss = 0.0
        better = selection_score(scores) > progress.best
        if better:
            progress.best, progress.best_epoch = selection_score(scores), epoch
            if loop.is_main:
                save_checkpoint(self.out, model, self.encoder.tokenizer, self._provenance())
        loop.save_state()
        loop.say(lambda: f"epoch {epoch}{' (best so far)' if better else ''}\n{table(scores)}")

    def _finish(self) -> dict[str, Any]:
        """Score the best epoch on the typed copy of dev too, complete `training.json`, and drop the resume state."""
        dev, progress = self.data.dev, self.loop.progress
        scores = {}
        if self.loop.is_main:
            best = load_checkpoint(self.out, self.device)
            for name, utterances in (("dev", dev), ("dev_typed", typed_copy(dev))):
                answers = answers_of_model(best.model, best.encoder, best.labels, utterances)
                by_locale = score_by_locale(utterances, answers)
                scores[name] = {locale: _rounded(values) for locale, values in by_locale.items()}
            save_checkpoint(self.out, best.model, best.encoder.tokenizer, {**self._provenance(), **scores})
        self.loop.end()
        return {
            "checkpoint": str(self.out),
            "best_epoch": progress.best_epoch,
            "steps": progress.step,
            "minutes": round(progress.seconds / 60, 1),
            **{name: by_locale["mean"] for name, by_locale in scores.items()},
        }

    def _provenance(self) -> dict[str, Any]:
        """What `training.json` says of the run, so that the checkpoint explains itself."""
        settings, data, progress = self.settings, self.data, self.loop.progress
        return {
            "command": COMMAND,
            "settings": {
                **asdict(settings),
                "data": Path(settings.data).name,
                "init": file_names(settings.init),
                "teacher": file_names(settings.teacher),
                "unlabelled": file_names(settings.unlabelled),
                "out_of_scope": file_names(settings.out_of_scope),
            },
            "init": self.lineage,
            "locales": data.served,
            "utterances": {"train": len(data.train), "dev": len(data.dev), "skipped": data.skipped},
            "steps": progress.step,
            "seconds": round(progress.seconds, 1),
            "best_epoch": progress.best_epoch,
            "history": progress.history,
            "commit": source_commit(),
            "torch": str(torch.__version__),
        }


def first_tokenizer(settings: Settings, data: Data, start: Checkpoint | None) -> Tokenizer:
    """That of `start`, or one trained on the training texts and a typed variant of each (capitals, marks, digits)."""
    if start is not None:
        return start.encoder.tokenizer
    texts = with_variants(data.train, settings.seed)
    log.info("training the tokenizer on %d texts", len(texts))
    return train_tokenizer(texts, settings.vocabulary)


def is_labelled(utterance: Utterance, heads: Sequence[str]) -> bool:
    """Whether an utterance has something to teach one of the heads (having no slot is a label too)."""
    return "slots" in heads or any(getattr(utterance, head) for head in heads)


def selection_score(scores: dict[str, dict[str, float]]) -> float:
    """What the best epoch is chosen by: mean exact match, or what comes nearest with the heads that there are."""
    return next(
        float(scores["mean"][name])
        for name in ("exact_match", "slot_f1", "intent_accuracy", "domain_f1")
        if name in scores["mean"]
    )


def table(scores: dict[str, dict[str, float]]) -> str:
    """Scores by locale as lines of text."""
    names = [n for n in ("domain_f1", "intent_accuracy", "slot_f1", "exact_match", "semer") if n in scores["mean"]]
    lines = ["".join([f"{'':8}", *(f"{name:>17}" for name in names)])]
    lines += [
        "".join([f"{locale:8}", *(f"{values[name]:17.2f}" for name in names)]) for locale, values in scores.items()
    ]
    return "\n".join(lines)


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(float(value), 3) for name, value in values.items()}  # a resume state holds no NumPy scalars


if __name__ == "__main__":
    sys.exit(main())
