"""Train a student on labelled utterances.

    python -m training.finetune --data DIR --locales de-DE,fr-FR,it-IT,es-ES,en-US --size s --out CKPT

Reads top to bottom: settings, data, tokenizer, model, loop, summary. Progress and a table per epoch go to standard
error; the last line of standard output is one JSON object. `--resume` continues an interrupted run exactly.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import Tokenizer
from torch import Tensor
from tqdm import tqdm

from service.manifest import Labels
from service.tokenization import UNKNOWN, TextEncoder
from training import datasets
from training.augmentation import augment, typed_copy
from training.checkpoint import (
    RESUME_FILE,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from training.distillation import TeacherTargets, distillation_loss
from training.encoding import Batch, EpochData, ExampleEncoder
from training.labels import HEADS, labels_of
from training.loop import Loop, autocast_of, device_of_this_machine, source_commit
from training.modeling import ACTIVATIONS, StudentConfig, StudentModel
from training.objective import hide_pieces, multitask_loss
from training.outliers import WEIGHT, Outliers, unsureness_loss
from training.prediction import answers_of_model
from training.records import Utterance
from training.scoring import score_by_locale
from training.settings import begin, file_names, listed, parser_of, setting
from training.sizes import SIZES
from training.tokenizer import CLS, PAD, VOCABULARY, train_tokenizer

COMMAND = "training.finetune"

log = logging.getLogger(COMMAND)


@dataclass(frozen=True)
class Settings:
    """Everything that decides the outcome of a run; each is a flag, and `--resume` inherits them all."""

    data: str = setting("", "labelled data: folder, tarball, file or hub:NAME")
    locales: str = setting("", "comma-separated locales that the student serves and is scored on; all by default")
    extra_locales: str = setting("", "further locales to train on only: related languages help the served ones")
    init: str = setting("", "checkpoint to start from: its tokenizer, encoder, and heads with the same labels")
    teacher: str = setting("", "comma-separated fine-tuned checkpoints to imitate on the training utterances")
    teacher_weight: float = setting(
        0.7, "share of the loss that imitates the teachers; the rest is labels", low=0, high=1
    )
    temperature: float = setting(1.0, "softens the teachers' probabilities", low=0.1)
    size: str = setting("s", "encoder size", choices=tuple(SIZES))
    heads: str = setting(",".join(HEADS), "comma-separated heads")
    activation: str = setting("gelu", "feed-forward activation", choices=tuple(ACTIVATIONS))
    vocabulary: int = setting(VOCABULARY, "tokenizer pieces at most", low=100)
    max_length: int = setting(64, "pieces of a text that the student reads at most", low=2)
    epochs: int = setting(12, "passes over the training data", low=1)
    batch_size: int = setting(128, "utterances a step", low=1)
    learning_rate: float = setting(
        1e-3, "peak of AdamW's rate: linear warm-up over the first steps, then linear decay", low=0
    )
    weight_decay: float = setting(0.01, "decay of AdamW", low=0)
    average: float = setting(
        0.0, "decay of the average of the weights that is scored and kept (0: none)", low=0, high=1
    )
    dropout: float = setting(0.2, "dropout in the encoder", low=0, high=1)
    unknown_share: float = setting(0.1, "share of training pieces replaced by [UNK]", low=0, high=1)
    augmented_share: float = setting(0.5, "share of training utterances rewritten as typed text", low=0, high=1)
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
    try:
        settings, state = begin(COMMAND, Settings, args)
        run = Run(settings, read_data(settings), args.out, args.save_every, state)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        summary = run.train()
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(summary, ensure_ascii=False))
    return 0


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
            CheckpointError: `settings.init` is no checkpoint, or has another shape.
        """
        self.settings, self.data, self.out = settings, data, out
        self.device = device_of_this_machine()
        torch.manual_seed(settings.seed)
        start = load_checkpoint(Path(settings.init)) if settings.init and state is None else None
        if state is not None:
            self.encoder = TextEncoder(Tokenizer.from_str(state["tokenizer"]), settings.max_length)
        else:
            self.encoder = first_encoder(settings, data) if start is None else start.encoder
        self.lineage: dict[str, Any] | None = start.training if start else state["lineage"] if state else None
        self.model = StudentModel(config_of(settings, data.labels, self.encoder)).to(self.device)
        if start is not None:
            copy_weights(start.model, self.model)
        teachers = [load_checkpoint(Path(folder), self.device) for folder in listed(settings.teacher)]
        self.targets = TeacherTargets(teachers, data.labels, data.train, settings.temperature) if teachers else None
        examples = ExampleEncoder(self.encoder, data.labels)
        self.epochs = EpochData(data.train, examples, settings.batch_size, settings.augmented_share, settings.seed)
        others, count = listed(settings.out_of_scope), math.ceil(settings.batch_size * settings.out_of_scope_share)
        self.outliers = Outliers(others, self.encoder, count, settings.seed) if others else None
        facts = {
            "command": COMMAND,
            "settings": asdict(settings),
            "tokenizer": self.encoder.tokenizer.to_str(),
            "lineage": self.lineage,
        }
        self.loop = Loop(
            self.model,
            total=settings.epochs * self.epochs.steps,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            out=out,
            save_every=save_every,
            facts=facts,
            average=settings.average,
            state=state,
        )

    def train(self) -> dict[str, Any]:
        """Train to the end. Returns the summary."""
        total, outside = self.model.count_parameters()
        log.info("%s: %d parameters, %d of them outside embeddings and heads", self.settings.size, total, outside)
        log.info(
            "%d utterances to train on, %d to score on, on %s", len(self.data.train), len(self.data.dev), self.device
        )
        with self.loop.bar():
            if self._ended_unscored():
                self._score_epoch(None)
            while not self.loop.finished:
                self._score_epoch(self._train_epoch())
        return self._finish()

    def _ended_unscored(self) -> bool:
        """Whether the interrupted run stopped between the last step of an epoch and its scores."""
        epoch, done = divmod(self.loop.progress.step, self.epochs.steps)
        return done == 0 and epoch > len(self.loop.progress.history)

    def _train_epoch(self) -> float:
        """The rest of the epoch that the run stands in. Returns the mean loss of the steps that it took."""
        settings, model = self.settings, self.model
        pad, cls, unknown = (self.encoder.tokenizer.token_to_id(name) for name in (PAD, CLS, UNKNOWN))

        def loss_of(batch: Batch) -> Tensor:
            with autocast_of(settings.precision, self.device):
                output = model(hide_pieces(batch, settings.unknown_share, unknown, cls), batch.attention_mask)
            loss = multitask_loss(output, batch, settings.slot_weight, settings.label_smoothing)
            if self.targets is not None:
                imitation = distillation_loss(output, batch, self.targets, settings.slot_weight)
                loss = torch.lerp(loss, imitation, settings.teacher_weight) if bool(imitation > 0) else loss
            return loss if self.outliers is None else loss + WEIGHT * self._loss_of_outliers(self.outliers, pad)

        epoch, done = divmod(self.loop.progress.step, self.epochs.steps)
        self.loop.describe(f"epoch {epoch + 1}/{settings.epochs}")
        losses = [
            self.loop.step(partial(loss_of, batch.to(self.device)))
            for batch in self.epochs.batches(epoch, pad, skip=done)
        ]
        return sum(losses) / len(losses)

    def _loss_of_outliers(self, outliers: Outliers, pad: int) -> Tensor:
        batch = outliers.batch(self.loop.progress.step, pad).to(self.device)
        with autocast_of(self.settings.precision, self.device):
            output = self.model(batch.input_ids, batch.attention_mask)
        return unsureness_loss(output)

    def _score_epoch(self, loss: float | None) -> None:
        """Score on dev, keep the checkpoint if it is the best so far, and save the state."""
        data, progress = self.data, self.loop.progress
        epoch = progress.step // self.epochs.steps
        model = cast(StudentModel, self.loop.result)
        scores = score_by_locale(data.dev, answers_of_model(model, self.encoder, data.labels, data.dev))
        progress.history.append(
            {"epoch": epoch, "loss": None if loss is None else round(loss, 4), "dev": _rounded(scores["mean"])}
        )
        better = selection_score(scores) > progress.best
        if better:
            progress.best, progress.best_epoch = selection_score(scores), epoch
            save_checkpoint(self.out, model, self.encoder.tokenizer, self._provenance())
        self.loop.save_state()
        tqdm.write(f"epoch {epoch}{' (best so far)' if better else ''}\n{table(scores)}", file=sys.stderr)

    def _finish(self) -> dict[str, Any]:
        """Score the best epoch on the typed copy of dev too, complete `training.json`, and drop the resume state."""
        best, dev, progress = load_checkpoint(self.out), self.data.dev, self.loop.progress
        scores = {}
        for name, utterances in (("dev", dev), ("dev_typed", typed_copy(dev))):
            answers = answers_of_model(best.model, best.encoder, best.labels, utterances)
            by_locale = score_by_locale(utterances, answers)
            scores[name] = {locale: _rounded(values) for locale, values in by_locale.items()}
        save_checkpoint(self.out, best.model, best.encoder.tokenizer, {**self._provenance(), **scores})
        (self.out / RESUME_FILE).unlink()
        return {
            "checkpoint": str(self.out),
            "best_epoch": progress.best_epoch,
            "steps": progress.step,
            "minutes": round(progress.seconds / 60, 1),
            "dev": scores["dev"]["mean"],
            "dev_typed": scores["dev_typed"]["mean"],
        }

    def _provenance(self) -> dict[str, Any]:
        """What `training.json` says of the run, so that the checkpoint explains itself."""
        settings, data, progress = self.settings, self.data, self.loop.progress
        return {
            "command": COMMAND,
            "settings": {
                **asdict(settings),
                "data": Path(settings.data).name,
                "init": Path(settings.init).name,
                "teacher": file_names(settings.teacher),
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


def first_encoder(settings: Settings, data: Data) -> TextEncoder:
    """A tokenizer trained on the training texts and a typed variant of each (for capitals, marks and digits)."""
    rng = random.Random(settings.seed)
    texts = [u.text for u in data.train] + [augment(u, rng, 1.0).text for u in data.train]
    log.info("training the tokenizer on %d texts", len(texts))
    return TextEncoder(train_tokenizer(texts, settings.vocabulary), settings.max_length)


def is_labelled(utterance: Utterance, heads: Sequence[str]) -> bool:
    """Whether an utterance has something to teach one of the heads (having no slot is a label too)."""
    return "slots" in heads or any(getattr(utterance, head) for head in heads)


def copy_weights(source: StudentModel, target: StudentModel) -> None:
    """Start `target` from `source`: everything but heads whose labels differ.

    Raises:
        CheckpointError: the encoders have different shapes.
    """
    kept = {name for name, labels in target.config.labels.items() if source.config.labels.get(name) == labels}
    log.info("starting from a checkpoint: encoder%s", "".join(f", {head} head" for head in sorted(kept)))
    weights = {k: v for k, v in source.state_dict().items() if not k.startswith("heads.") or k.split(".")[1] in kept}
    try:
        target.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"--init has another shape than --size {target.config.size}: {error}") from error


def config_of(settings: Settings, labels: Labels, encoder: TextEncoder) -> StudentConfig:
    """The configuration of the student that the settings ask for."""
    return StudentConfig.of_size(
        settings.size,
        labels,
        vocab_size=encoder.tokenizer.get_vocab_size(),
        max_position_embeddings=settings.max_length,
        activation=settings.activation,
        dropout=settings.dropout,
    )


def selection_score(scores: dict[str, dict[str, float]]) -> float:
    """What the best epoch is chosen by: mean exact match, or what comes nearest with the heads that there are."""
    return next(
        scores["mean"][name]
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
    return {name: round(value, 3) for name, value in values.items()}


if __name__ == "__main__":
    sys.exit(main())
