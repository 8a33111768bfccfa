"""Trials: one student trained with one pipeline. Data, teacher and what it has read are kept in memory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock

from service.student.shipped import named_folder, shipped_students
from training.data.files import read_json, write_json
from training.data.policy import CONTEXTUAL, KINDS, PARAPHRASED
from training.distiller.data_sets import DataSet, Loaded, load
from training.distiller.space import CONTROLS
from training.models.contextual import ContextualWords
from training.models.sizes import SIZES
from training.objectives.teacher_states import TeacherStates
from training.runs.finetuning import SELECTED_BY, Run
from training.runs.loop import Storage, source_commit
from training.runs.settings import FinetuneSettings
from training.studies.ladder_recipe import OWN_RATES, RANDOM_RATES, SHARED, TEACHER

COMMAND = "training.distiller"
ROWS = "trials.jsonl"
RANDOM = "random"
SMALLEST_SHIPPED = "xs"
MEMORY = 1 << 30  # bytes of hidden states of all data sets

Row = dict[str, Any]
AfterEpoch = Callable[[int, float], None]


@dataclass(frozen=True)
class Student:
    """A student of a search: "xs" from shipped first weights, or "xs:random" from random ones.

    A size that is not shipped takes layers of the smallest shipped student.
    """

    name: str
    size: str
    is_random: bool

    @classmethod
    def parse(cls, text: str) -> Student:
        """The student of a --student. Raises ValueError: unknown, or too large for a shipped student's layers."""
        size, _, start = text.partition(":")
        allowed = f"allowed: {', '.join(SIZES)}, and each with :{RANDOM}"
        if size not in SIZES or start not in ("", RANDOM):
            raise ValueError(f"student {text!r}; {allowed}")
        if not start and size not in shipped_students() and SIZES[size] > SIZES[SMALLEST_SHIPPED]:
            raise ValueError(f"student {text!r}: none of that size is shipped; write {text}:{RANDOM}")
        return cls(text, size, start == RANDOM)

    def settings(self) -> dict[str, Any]:
        """The settings of its first weights, and its rate."""
        shipped = str(named_folder(self.size if self.size in shipped_students() else SMALLEST_SHIPPED))
        if self.is_random:
            return {"size": self.size, "tokenizer": shipped, "learning_rate": RANDOM_RATES[self.size]}
        return {"size": self.size, "init": shipped, "learning_rate": OWN_RATES.get(self.size, OWN_RATES["xs"])}


@dataclass(frozen=True)
class Asked:
    """What all trials of a search share: the teacher's first weights, epochs, control seeds, masked language model."""

    out: Path
    teacher: str
    teacher_epochs: int
    epochs: int
    control_seeds: int
    masked_model: str = ""

    @property
    def augmentations(self) -> list[str]:
        """The rewritings that are available."""
        left_out = {PARAPHRASED} if self.masked_model else {PARAPHRASED, CONTEXTUAL}
        return [name for name in KINDS if name not in left_out]


@dataclass(frozen=True)
class Result:
    """The score of a trained student on dev in percent, which metric it is, its scores by epoch, and seconds."""

    score: float
    metric: str
    by_epoch: list[float]
    seconds: float


@dataclass(frozen=True)
class Controls:
    """Scores of the students without a teacher ("plain") and with its logits alone ("prediction"), one a seed.

    `by_epoch` are the means of the plain students.
    """

    teacher: float
    metric: str
    plain: list[float]
    prediction: list[float]
    by_epoch: list[float] = field(default_factory=list)

    @property
    def mean(self) -> float:
        """The mean score of the plain student."""
        return sum(self.plain) / len(self.plain)


class Workbench:
    """One data set of a search in one process: its utterances, its teacher, and the controls of each student."""

    def __init__(self, data_set: DataSet, asked: Asked, share_of_memory: float = 1.0) -> None:
        self._data_set, self._asked = data_set, asked
        self._limit = int(MEMORY * share_of_memory)
        self._controls: dict[str, Controls] = {}

    @cached_property
    def loaded(self) -> Loaded:
        """The data. Raises DatasetError: see `data_sets.load`."""
        return load(self._data_set)

    @cached_property
    def teacher(self) -> Path:
        """The fine-tuned teacher, trained by the first process that needs it."""
        folder = self._asked.out / "teachers" / self._data_set.name
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not (folder / "training.json").exists():
                given: dict[str, Any] = {**SHARED, **TEACHER, "init": self._asked.teacher}
                if self._asked.teacher in OWN_RATES:
                    given["learning_rate"] = OWN_RATES[self._asked.teacher]
                epochs = self._asked.teacher_epochs
                with TemporaryDirectory(dir=folder.parent, prefix=".") as scratch:
                    made = Path(scratch, "made")
                    self._train(FinetuneSettings(data=self._data_set.source, epochs=epochs, **given), made)
                    made.rename(folder)
        return folder

    @cached_property
    def _states(self) -> TeacherStates:
        return TeacherStates.of_folder(self.teacher, self._limit)

    @cached_property
    def _masked_model(self) -> ContextualWords | None:
        return ContextualWords.of(self._asked.masked_model) if self._asked.masked_model else None

    def run(
        self, student: Student, pipeline: Mapping[str, Any], seed: int, is_taught: bool, after_epoch: AfterEpoch
    ) -> Result:
        """Train a student with a pipeline, with or without the teacher, and score it on dev.

        `after_epoch` is told the number and score of each epoch, and may raise to end the run. Raises
        FloatingPointError: the run diverged.
        """
        given: dict[str, Any] = {**SHARED, **student.settings(), **pipeline, "epochs": self._asked.epochs, "seed": seed}
        del given["augmented_share"]  # the pipeline has a policy
        settings = FinetuneSettings(data=self._data_set.source, **given)
        if CONTEXTUAL in settings.augmentation:
            settings = replace(settings, masked_model=self._asked.masked_model)
        if is_taught:
            cache = str(self._asked.out / "logits" / self._data_set.name)
            settings = replace(settings, teacher=str(self.teacher), teacher_cache=cache)
        with TemporaryDirectory() as scratch:
            return self._train(settings, Path(scratch), after_epoch)

    def _train(self, settings: FinetuneSettings, out: Path, after_epoch: AfterEpoch = lambda *_: None) -> Result:
        began = time.monotonic()
        storage = Storage(COMMAND, out, save_every=1 << 30, quiet=True)
        states = self._states if settings.hidden_loss != "none" else None
        model = self._masked_model if settings.masked_model else None
        summary = Run(settings, self.loaded.data, storage, states, model).train(after_epoch)
        metric = next(name for name in SELECTED_BY if name in summary["dev"])
        history = read_json(out / "training.json")["history"]
        by_epoch = [round(entry["dev"][metric], 3) for entry in history]
        return Result(round(summary["dev"][metric], 3), metric, by_epoch, round(time.monotonic() - began, 2))

    def controls(self, student: Student, say: Callable[[str], None] = lambda _: None) -> Controls:
        """The controls of a student, trained by the first process that needs them; each is a row of the search."""
        if student.name in self._controls:
            return self._controls[student.name]
        name = f"{self._data_set.name}-{student.name.replace(':', '-')}"
        file = self._asked.out / "controls" / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            if not file.exists():
                say(f"{self._data_set.name}: teacher")
                of_teacher = read_json(self.teacher / "training.json")["dev"]["mean"]
                found: dict[str, list[Result]] = {kind: [] for kind in CONTROLS}
                for kind, pipeline in CONTROLS.items():
                    for seed in range(1, self._asked.control_seeds + 1):
                        say(f"{self._data_set.name}, {student.name}: control {kind}, seed {seed}")
                        found[kind].append(self.run(student, pipeline, seed, kind != "plain", lambda *_: None))
                plain = found["plain"]
                by_epoch = [sum(scores) / len(plain) for scores in zip(*(x.by_epoch for x in plain), strict=True)]
                scores = {kind: [x.score for x in results] for kind, results in found.items()}
                metric = plain[0].metric
                made = Controls(round(of_teacher[metric], 3), metric, **scores, by_epoch=by_epoch)
                for kind, results in found.items():
                    for seed, result in enumerate(results, start=1):
                        self.add_row(student, CONTROLS[kind], made, result, {"sampler": kind, "seed": seed})
                write_json(file, asdict(made))
        self._controls[student.name] = Controls(**read_json(file))
        return self._controls[student.name]

    def add_row(
        self, student: Student, pipeline: Mapping[str, Any], controls: Controls, result: Result | None, facts: Row
    ) -> Row:
        """Append a trial to the rows of the search; without a result it failed. Returns the row."""
        score = result.score if result is not None else None
        row = {
            "data": self._data_set.name,
            "student": student.name,
            **facts,
            "metric": controls.metric,
            "score": score,
            "plain": round(controls.mean, 3),
            "teacher": controls.teacher,
            "ratio": round(score / controls.teacher, 4) if score is not None and controls.teacher else None,
            "seconds": result.seconds if result is not None else None,
            "pipeline": dict(pipeline),
            "features": self.loaded.features,
            "epochs": self._asked.epochs,
            "teacher_from": Path(self._asked.teacher).name,
            "commit": source_commit(),
        }
        self._asked.out.mkdir(parents=True, exist_ok=True)
        with (
            FileLock(self._asked.out / f".{ROWS}.lock"),
            (self._asked.out / ROWS).open("a", encoding="utf-8") as stream,
        ):
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        return row
