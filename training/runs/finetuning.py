"""Fine-tuning on labelled utterances: data, initial weights, epochs of steps with scores, summary."""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import broadcast_object_list
from tokenizers import Tokenizer

from service.student.hub import is_hub_source, pinned
from service.student.manifest import TOKENIZER_FILE, Labels
from training.data import datasets
from training.data.augmentation import typed_copy
from training.data.labels import labels_of
from training.data.options import read_options
from training.data.splitting import is_chosen
from training.data.utterances import Utterance, checksum_of
from training.evaluation.scoring import NOT_MEASURED, SLOTS_NOT_ANNOTATED, score_by_locale
from training.models.batches import EpochData, ExampleEncoder
from training.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.models.contextual import ContextualWords
from training.models.devices import processes
from training.models.prediction import answers_of_model
from training.models.student import StudentModel
from training.models.task_model import encoder_of, model_of, shape_of
from training.objectives.first_weights import reduced
from training.objectives.intermediate import Shape
from training.objectives.teacher_states import TeacherStates
from training.runs.flags import file_names, listed
from training.runs.loop import Loop, Storage, source_commit
from training.runs.pipeline import pipeline_of, policy_of
from training.runs.settings import FinetuneSettings
from training.runs.task_loss import TaskLoss
from training.text.held_out import HeldOut
from training.text.tokenizer import load_tokenizer, special_ids, train_tokenizer, with_variants

TEACHER_CACHE = ".teacher"  # in the run's folder; names with a dot in front are temporary
FILES = (
    "init",
    "tokenizer",
    "teacher",
    "teacher_cache",
    "unlabelled",
    "out_of_scope",
    "masked_model",
    "paraphrases",
)  # settings that name files or folders
SELECTED_BY = ("exact_match", "slot_f1", "intent_accuracy", "domain_f1")  # the first one that the heads have

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """The data of a run: utterances, labels, and the locales that the student serves."""

    train: list[Utterance]
    dev: list[Utterance]
    served: list[str]
    labels: Labels
    skipped: int
    held_out: HeldOut


def finetune(settings: FinetuneSettings, storage: Storage) -> dict[str, Any]:
    """One run, from labelled data to the checkpoint of the best epoch. Returns the summary.

    Raises ValueError: settings, data, checkpoints or text that can't be used, or not those of the interrupted run.
    """
    if not settings.data:
        raise ValueError("--data is required (unless --resume)")
    return Run(settings, read_data(settings), storage).train()


def read_data(settings: FinetuneSettings) -> Data:
    """Training and dev utterances; labels are those of the whole training partition.

    Raises DatasetError: the data can't be used.
    """
    served = listed(settings.locales)
    extra = [x for x in listed(settings.extra_locales) if x not in served]
    locales, options = served + extra if served else None, read_options(settings)
    dataset = datasets.load(settings.data, locales, settings.on_error, options)  # type: ignore[arg-type]
    served = served or sorted({u.locale for u in dataset.utterances} - set(extra))
    heads = listed(settings.heads)
    train = [u for u in dataset.part("train", served + extra) if is_labelled(u, heads)]
    if not train:
        raise datasets.DatasetError(f"{settings.data}: no training utterance has a label for {', '.join(heads)}")
    labels = labels_of(train, heads)
    if settings.train_share < 1:
        chosen = random.Random(settings.seed).sample(
            range(len(train)), max(1, round(settings.train_share * len(train)))
        )
        train = [train[i] for i in sorted(chosen)]
    dev, held_out = dataset.part("dev", served), HeldOut(dataset.utterances)
    dev = [u for u in dev if is_chosen(u.id, settings.selection_share)]
    if not any(is_labelled(u, heads) for u in dev):
        raise datasets.DatasetError(f"{settings.data}: no dev utterance has a label for {', '.join(heads)}")
    return Data(train, dev, served, labels, dataset.skipped, held_out)


def is_labelled(utterance: Utterance, heads: Sequence[str]) -> bool:
    """Whether an utterance has a label for one of the heads (annotated as having no slots is a label, too)."""
    if "slots" in heads and utterance.slots_annotated:
        return True
    return any(getattr(utterance, head) for head in heads)


class Run:
    """One training run, from the first weights, or the resumed ones, to the checkpoint of the best epoch."""

    def __init__(
        self,
        settings: FinetuneSettings,
        data: Data,
        storage: Storage,
        states: TeacherStates | None = None,
        masked_model: ContextualWords | None = None,
    ) -> None:
        """Set up a new run, one from `settings.init`, or the interrupted one of the storage.

        `states` are the teacher's hidden states, and `masked_model` the one of contextual augmentation, where they have
        been opened already.
        """
        start = load_checkpoint(settings.init) if settings.init else None
        torch.manual_seed(settings.seed)  # after loading, which may draw random numbers
        if start is not None:
            more = (settings.activation, settings.position_bias)
            start = reduced(start, settings.size, settings.init_layers, *more)
        elif settings.init_layers:
            raise ValueError("--init-layers: needs an --init, whose layers it chooses")
        shape = shape_of(settings.size, settings.activation, settings.position_bias, start)
        self.settings = settings = replace(settings, **shape._asdict())
        self.data, self.device, state = data, processes().device, storage.state
        torch.manual_seed(settings.seed)
        tokenizer = Tokenizer.from_str(state["tokenizer"]) if state else first_tokenizer(settings, data, start)
        self.encoder = encoder_of(tokenizer, start, settings.max_length)
        self.lineage = start.training if start else None
        # students of the hub, by commit: a branch may be another student tomorrow
        named = {name: str(getattr(settings, name) or "") for name in ("init", "teacher")}
        self.of_hub = {name: pinned(source) for name, source in named.items() if is_hub_source(source)}
        self.model = model_of(shape, start, data.labels, self.encoder, settings.dropout).to(self.device)
        self.epochs = EpochData(
            data.train,
            ExampleEncoder(self.encoder, data.labels),
            settings.batch_size,
            settings.augmented_share,
            settings.seed,
            settings.substituted_share,
            min(settings.views, settings.epochs) if settings.teacher else 0,
            policy_of(settings, data.train, masked_model),
        )
        facts = {"tokenizer": tokenizer.to_str(), "steps": self.epochs.steps, "data": checksum_of(data.train)}
        if state and state["data"] != facts["data"]:
            raise ValueError(f"{settings.data}: its training utterances have changed since the run began")
        if state and state["steps"] != facts["steps"]:
            counts = f"{state['steps']} steps an epoch, now {facts['steps']}"
            raise ValueError(f"the data or the number of processes has changed since the run began: {counts}")
        cache = Path(settings.teacher_cache or storage.out / TEACHER_CACHE)
        config = self.model.config
        width = Shape(config.num_hidden_layers, config.hidden_size)
        self.loss = TaskLoss(settings, self._texts, data.labels, self.encoder, cache, data.held_out, width, states)
        total = settings.epochs * self.epochs.steps
        self.loop = Loop(self.model, settings, storage, total, facts, settings.average, self.loss.helper)

    def _texts(self) -> Iterator[str]:
        """The texts of all views, which teachers read."""
        for view in range(min(self.settings.views, self.settings.epochs)):
            yield from (variant.text for variant in self.epochs.variants(view))

    def train(self, after_epoch: Callable[[int, float], None] = lambda _epoch, _score: None) -> dict[str, Any]:
        """Train to the end. Returns the summary.

        `after_epoch` is called with the number of each finished epoch and its score, and may raise to end the run.
        """
        total, outside = self.model.count_parameters()
        log.info("%s: %d parameters, %d of them outside embeddings and heads", self.settings.size, total, outside)
        log.info("%d utterances to train on, %d to score on, %s", len(self.data.train), len(self.data.dev), self.device)
        if not any(utterance.slots_annotated for utterance in self.data.dev):
            log.info("dev: %s", SLOTS_NOT_ANNOTATED)
        with self.loop.bar():
            if self._ended_unscored():
                self._score_epoch()
            while not self.loop.finished:
                self._train_epoch()
                after_epoch(*self._score_epoch())
        return self._finish()

    def _ended_unscored(self) -> bool:
        """Whether the interrupted run stopped between the last step of an epoch and its scores."""
        epoch, done = divmod(self.loop.progress.step, self.epochs.steps)
        return done == 0 and epoch > len(self.loop.progress.history)

    def _train_epoch(self) -> None:
        """The rest of the current epoch."""
        loop = self.loop
        epoch, done = divmod(loop.progress.step, self.epochs.steps)
        loop.describe(f"epoch {epoch + 1}/{self.settings.epochs}")
        pad, targets = special_ids(self.encoder.tokenizer).pad, self.loss.targets
        for batch in self.epochs.batches(epoch, pad, done, targets.rows_of if targets is not None else None):
            loop.step(lambda batch=batch: self.loss(loop.model, batch, loop.progress.step, loop.helper))  # type: ignore[misc]

    def _score_epoch(self) -> tuple[int, float]:
        """Score on dev, keep the checkpoint if it is the best so far, and save the state. Returns epoch and score."""
        data, loop, progress = self.data, self.loop, self.loop.progress
        epoch = progress.step // self.epochs.steps
        model = cast(StudentModel, loop.result)
        by_process: list[Any] = [None]
        if loop.is_main:
            by_process = [score_by_locale(data.dev, answers_of_model(model, self.encoder, data.labels, data.dev))]
        scores = broadcast_object_list(by_process)[0]  # so that all processes agree on the best epoch
        loss = round(progress.summed_loss / self.epochs.steps, 4)
        progress.history.append({"epoch": epoch, "loss": loss, "dev": _rounded(scores["mean"])})
        progress.summed_loss = 0.0
        mean = {name: value for name, value in scores["mean"].items() if value is not None}
        loop.report({f"dev_{name}": value for name, value in mean.items()})
        score = next((mean[name] for name in SELECTED_BY if name in mean), 0.0)
        better = score > progress.best
        if better:
            progress.best, progress.best_epoch = score, epoch
            if loop.is_main:
                dev = {locale: _rounded(values) for locale, values in scores.items()}
                save_checkpoint(self.loop.out, model, self.encoder.tokenizer, {**self._provenance(), "dev": dev})
        loop.save_state()
        loop.say(lambda: f"epoch {epoch}{' (best so far)' if better else ''}\n{table(scores)}")
        return epoch, score

    def _finish(self) -> dict[str, Any]:
        """Score the best epoch on the typed copy of dev, complete `training.json`, and drop the resume state."""
        dev, progress = self.data.dev, self.loop.progress
        scores = {}
        if self.loop.is_main:
            best = load_checkpoint(self.loop.out, self.device)
            for name, utterances in (("dev", dev), ("dev_typed", typed_copy(dev))):
                if name in best.training:  # saved with the epoch
                    scores[name] = best.training[name]
                    continue
                answers = answers_of_model(best.model, best.encoder, best.labels, utterances)
                by_locale = score_by_locale(utterances, answers)
                scores[name] = {locale: _rounded(values) for locale, values in by_locale.items()}
            save_checkpoint(self.loop.out, best.model, best.encoder.tokenizer, {**self._provenance(), **scores})
        self.loop.end()
        shutil.rmtree(self.loop.out / TEACHER_CACHE, ignore_errors=True)
        facts = {"steps": progress.step, "minutes": round(progress.seconds / 60, 1)}
        means = {name: by_locale["mean"] for name, by_locale in scores.items()}
        return {"checkpoint": str(self.loop.out), "best_epoch": progress.best_epoch, **facts, **means}

    def _provenance(self) -> dict[str, Any]:
        """The content of `training.json`."""
        settings, data, progress = self.settings, self.data, self.loop.progress
        files = {name: file_names(getattr(settings, name)) for name in FILES}
        return {
            "command": self.loop.facts["command"],
            "settings": {**asdict(settings), "data": Path(settings.data).name, **files, **self.of_hub},
            "pipeline": pipeline_of(settings),
            "init": self.lineage,
            "locales": data.served,
            "utterances": {"train": len(data.train), "dev": len(data.dev), "skipped": data.skipped},
            "dev_or_test_removed": data.held_out.facts(),
            "steps": progress.step,
            "seconds": round(progress.seconds, 1),
            "best_epoch": progress.best_epoch,
            "history": progress.history,
            "commit": source_commit(),
            "torch": str(torch.__version__),
        }


def first_tokenizer(settings: FinetuneSettings, data: Data, start: Checkpoint | None) -> Tokenizer:
    """The tokenizer of `start`, the given one, or one trained on the training texts and a typed variant of each.

    Raises ValueError: one is given beside `start`, or can't be read.
    """
    if start is not None:
        if settings.tokenizer:
            raise ValueError("--tokenizer and --init exclude each other: an encoder keeps its own tokenizer")
        return start.encoder.tokenizer
    if settings.tokenizer:
        file = Path(settings.tokenizer)
        return load_tokenizer(file / TOKENIZER_FILE if file.is_dir() else file)
    texts = with_variants(data.train, settings.seed)
    log.info("training the tokenizer on %d texts", len(texts))
    return train_tokenizer(texts, settings.vocabulary)


def table(scores: dict[str, dict[str, float | None]]) -> str:
    """Scores by locale as lines of text."""
    names = [n for n in ("domain_f1", "intent_accuracy", "slot_f1", "exact_match", "semer") if n in scores["mean"]]
    lines = [f"{'':8}" + "".join(f"{name:>17}" for name in names)]
    for locale, values in scores.items():
        cells = (NOT_MEASURED if (value := values[name]) is None else f"{value:.2f}" for name in names)
        lines.append(f"{locale:8}" + "".join(f"{cell:>17}" for cell in cells))
    return "\n".join(lines)


def _rounded(values: dict[str, float | None]) -> dict[str, float | None]:
    """Plain numbers; a resume state holds no NumPy scalars."""
    return {name: None if value is None else round(float(value), 3) for name, value in values.items()}
