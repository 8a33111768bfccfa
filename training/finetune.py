"""Train a student on labelled utterances.

    python -m training.finetune --data DIR --locales de-DE,fr-FR,it-IT,es-ES,en-US --size s --out CKPT

Reads top to bottom: settings, data, tokenizer, model, loop, summary. Progress and a table per epoch go to standard
error; the last line of standard output is one JSON object. `--resume` continues an interrupted run exactly.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tqdm import tqdm

from service.manifest import Labels
from service.tokenization import UNKNOWN, TextEncoder
from training import datasets
from training.augmentation import augment, typed_copy
from training.checkpoint import (
    RESUME_FILE,
    CheckpointError,
    load_checkpoint,
    load_resume_state,
    save_checkpoint,
    save_resume_state,
)
from training.encoding import EpochData, ExampleEncoder
from training.labels import HEADS, labels_of
from training.modeling import ACTIVATIONS, StudentConfig, StudentModel
from training.objective import hide_pieces, multitask_loss, rate_at
from training.prediction import answers_of_model
from training.records import Utterance
from training.scoring import score_by_locale
from training.settings import add_flags, setting, settle
from training.sizes import SIZES
from training.tokenizer import CLS, PAD, VOCABULARY, train_tokenizer

log = logging.getLogger("training.finetune")


@dataclass(frozen=True)
class Settings:
    """Everything that decides the outcome of a run; each is a flag, and `--resume` inherits them all."""

    data: str = setting("", "labelled data: folder, tarball, file or hub:NAME")
    locales: str = setting("", "comma-separated locales that the student serves and is scored on; all by default")
    extra_locales: str = setting("", "further locales to train on only: related languages help the served ones")
    init: str = setting("", "checkpoint to start from: its tokenizer, encoder, and heads with the same labels")
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
    dropout: float = setting(0.2, "dropout in the encoder", low=0, high=1)
    unknown_share: float = setting(0.1, "share of training pieces replaced by [UNK]", low=0, high=1)
    augmented_share: float = setting(0.5, "share of training utterances rewritten as typed text", low=0, high=1)
    label_smoothing: float = setting(0.1, "share of the target that is spread over all labels", low=0, high=1)
    slot_weight: float = setting(2.0, "weight of the slot loss beside domain and intent", low=0)
    seed: int = setting(1, "decides weights, order and augmentation", low=0)
    precision: str = setting("auto", "auto takes bf16 where the hardware computes it", choices=("auto", "bf16", "fp32"))
    on_error: str = setting("raise", "what to do with a bad row", choices=("raise", "skip"))


@dataclass
class Progress:
    """Where a run stands. `step` counts optimiser steps of the whole run, `best` is the best selection score."""

    step: int = 0
    best: float = -1.0
    best_epoch: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


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
    parser = argparse.ArgumentParser(
        prog="python -m training.finetune", description="Train a student on labelled utterances."
    )
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument(
        "--resume", action="store_true", help="continue the interrupted run in --out exactly where it stopped"
    )
    parser.add_argument(
        "--save-every", type=int, default=200, metavar="STEPS", help="steps between resume states (%(default)s)"
    )
    parser.add_argument("--threads", type=int, help="CPU threads (all)")
    add_flags(parser, Settings)
    args = parser.parse_args(argv)
    if not args.resume and not getattr(args, "data", ""):
        parser.error("--data is required (unless --resume)")
    unknown = set(getattr(args, "heads", HEADS[0]).split(",")) - set(HEADS)
    if unknown:
        parser.error(f"--heads: {', '.join(sorted(unknown))}; allowed: {', '.join(HEADS)}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    args = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    try:
        state = load_resume_state(args.out) if args.resume else None
        if state is None and args.out.exists() and any(args.out.iterdir()):
            raise CheckpointError(f"{args.out}: is not empty; choose another --out, empty it, or --resume")
        settings = settle(Settings, args, state["settings"] if state else None)
        if args.threads:
            torch.set_num_threads(args.threads)
        run = Run(settings, read_data(settings), args.out, args.save_every, state)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(run.train(), ensure_ascii=False))
    return 0


def read_data(settings: Settings) -> Data:
    """Training and dev utterances; labels are those of the training partition.

    Raises:
        DatasetError: the data can't be used.
    """
    served = _listed(settings.locales)
    extra = [x for x in _listed(settings.extra_locales) if x not in served]
    dataset = datasets.load(settings.data, served + extra if served else None, settings.on_error)  # type: ignore[arg-type]
    served = served or sorted({u.locale for u in dataset.utterances} - set(extra))
    utterances = dataset.part("train", served + extra)
    return Data(
        utterances, dataset.part("dev", served), served, labels_of(utterances, _listed(settings.heads)), dataset.skipped
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
        self.settings, self.data, self.out, self.save_every = settings, data, out, save_every
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.progress = Progress()
        self._measured_from = time.monotonic()
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
        self.optimiser = torch.optim.AdamW(self.model.parameters(), weight_decay=settings.weight_decay, fused=True)
        if state is not None:
            self._restore(state)

    def train(self) -> dict[str, Any]:
        """Train to the end. Returns the summary."""
        settings, data = self.settings, self.data
        self.epochs = EpochData(
            data.train,
            ExampleEncoder(self.encoder, data.labels),
            settings.batch_size,
            settings.augmented_share,
            settings.seed,
        )
        self.total = settings.epochs * self.epochs.steps
        log.info(
            "%s: %d parameters, %d of them outside embeddings and heads", settings.size, *self.model.count_parameters()
        )
        log.info("%d utterances to train on, %d to score on, on %s", len(data.train), len(data.dev), self.device)
        pace = 0.5 if sys.stderr.isatty() else 15
        with tqdm(total=self.total, initial=self.progress.step, unit="step", mininterval=pace, disable=None) as bar:
            while self.progress.step < self.total:
                loss = self._train_epoch(bar)
                self._score_epoch(loss)
        return self._finish()

    def _train_epoch(self, bar: tqdm[Any]) -> float:
        """The rest of the epoch that the run stands in. Returns the mean loss of its steps."""
        settings, progress, model = self.settings, self.progress, self.model
        vocabulary = self.encoder.tokenizer
        pad, cls, unknown = (vocabulary.token_to_id(name) for name in (PAD, CLS, UNKNOWN))
        epoch, done = divmod(progress.step, self.epochs.steps)
        bar.set_description(f"epoch {epoch + 1}/{settings.epochs}")
        model.train()
        losses: list[float] = []
        for batch in self.epochs.batches(epoch, pad, skip=done):
            batch = batch.to(self.device)
            for group in self.optimiser.param_groups:
                group["lr"] = rate_at(progress.step, self.total, settings.learning_rate)
            with autocast_of(settings.precision, self.device):
                output = model(hide_pieces(batch, settings.unknown_share, unknown, cls), batch.attention_mask)
            loss = multitask_loss(output, batch, settings.slot_weight, settings.label_smoothing)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            self.optimiser.step()
            losses.append(loss.item())
            progress.step += 1
            bar.update()
            bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
            if progress.step % self.save_every == 0 and progress.step % self.epochs.steps:
                self._save_state()
        return sum(losses) / len(losses)

    def _score_epoch(self, loss: float) -> None:
        """Score on dev, keep the checkpoint if it is the best so far, and save the state."""
        data, progress = self.data, self.progress
        epoch = progress.step // self.epochs.steps
        scores = score_by_locale(data.dev, answers_of_model(self.model, self.encoder, data.labels, data.dev))
        progress.history.append({"epoch": epoch, "loss": round(loss, 4), "dev": _rounded(scores["mean"])})
        better = selection_score(scores) > progress.best
        if better:
            progress.best, progress.best_epoch = selection_score(scores), epoch
            save_checkpoint(self.out, self.model, self.encoder.tokenizer, self._provenance())
        self._save_state()
        tqdm.write(f"epoch {epoch}{' (best so far)' if better else ''}\n{table(scores)}", file=sys.stderr)

    def _finish(self) -> dict[str, Any]:
        """Score the best epoch on the typed copy of dev too, complete `training.json`, and drop the resume state."""
        best, dev, progress = load_checkpoint(self.out), self.data.dev, self.progress
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

    def _save_state(self) -> None:
        now = time.monotonic()
        self.progress.seconds += now - self._measured_from
        self._measured_from = now
        state = {
            "settings": asdict(self.settings),
            "tokenizer": self.encoder.tokenizer.to_str(),
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all(),
            "progress": asdict(self.progress),
            "lineage": self.lineage,
        }
        save_resume_state(self.out, state)

    def _provenance(self) -> dict[str, Any]:
        """What `training.json` says of the run, so that the checkpoint explains itself."""
        settings, data, progress = self.settings, self.data, self.progress
        return {
            "command": "training.finetune",
            "settings": {**asdict(settings), "data": Path(settings.data).name, "init": Path(settings.init).name},
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

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["random"])
        torch.cuda.set_rng_state_all(state["random_cuda"])
        self.progress = Progress(**state["progress"])


def first_encoder(settings: Settings, data: Data) -> TextEncoder:
    """A tokenizer trained on the training texts and a typed variant of each (for capitals, marks and digits)."""
    rng = random.Random(settings.seed)
    texts = [u.text for u in data.train] + [augment(u, rng, 1.0).text for u in data.train]
    log.info("training the tokenizer on %d texts", len(texts))
    return TextEncoder(train_tokenizer(texts, settings.vocabulary), settings.max_length)


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


def source_commit() -> str:
    """The commit that the code was run from, with "-dirty" where files differ from it."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


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


def autocast_of(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """bf16 autocast where it was asked for or, with "auto", where the hardware computes it natively."""
    native = device.type == "cuda" or bool(torch.cpu._is_avx512_bf16_supported())
    if precision == "bf16" or (precision == "auto" and native):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}


if __name__ == "__main__":
    sys.exit(main())
