"""The search: random pipelines first, then Bayesian ones (TPE), in one Optuna study that any number of workers share.

All data sets and students take turns, trial by trial. What is maximised is the gain over the plain student of the same
data set, in points. Random trials are never pruned, so that a report may rest on them.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.pruners import MedianPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import TrialState
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from tqdm import tqdm

from training.distiller.data_sets import DataSet
from training.distiller.space import suggest
from training.distiller.trials import ROWS, Asked, Student, Workbench

STUDY = "distiller"
ASKED = "asked"
SQLITE, POSTGRESQL = "sqlite:///", "postgresql://"
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
MAX_TRIALS = 1_000_000  # of a study, so that its seeds differ from those of another one
ATTEMPTS = 5  # to create the tables
MIN_RANDOM = 10  # finished trials before one is pruned

Summary = dict[str, Any]


class SearchError(ValueError):
    """A search that can't be run; the message says why, and what is allowed."""


@dataclass(frozen=True)
class Plan:
    """What a search is asked for: data sets, students, trials in total and random ones, minutes (0: no limit)."""

    data: Sequence[DataSet]
    students: Sequence[Student]
    trials: int
    random: int
    minutes: float
    seed: int

    def facts(self, asked: Asked) -> dict[str, Any]:
        """What all workers of a study must agree on."""
        return {
            "data": {x.name: x.facts() for x in self.data},
            "students": [x.name for x in self.students],
            "random": self.random,
            "epochs": asked.epochs,
            "teacher_epochs": asked.teacher_epochs,
            "augmentations": asked.augmentations,
        }


@contextmanager
def opened(url: str) -> Iterator[RDBStorage]:
    """The storage of a study, whose connections are closed at the end. Raises SearchError: see `open_storage`."""
    storage = open_storage(url)
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def open_storage(url: str) -> RDBStorage:
    """Open the storage of a study: "sqlite:///FILE" or "postgresql://HOST/DATABASE", which needs psycopg.

    Raises SearchError: it can't be opened.
    """
    if url.startswith(POSTGRESQL):
        url = f"postgresql+psycopg://{url.removeprefix(POSTGRESQL)}"
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    for attempt in range(ATTEMPTS):
        try:
            return RDBStorage(url, engine_kwargs=options)
        except (SQLAlchemyError, ImportError, ValueError) as error:
            reason = str(error).strip().split("\n")[0]
            # workers that start together may create the same tables
            if attempt + 1 < ATTEMPTS and (isinstance(error, IntegrityError) or "already exists" in str(error)):
                time.sleep(1)
                continue
            shown, allowed = url.split("@")[-1], f"{SQLITE}FILE or {POSTGRESQL}HOST/DATABASE"  # without the password
            raise SearchError(f"--storage {shown}: {reason}; allowed: {allowed}") from error
    raise AssertionError


def sampler_of(kind: str, seed: int) -> BaseSampler:
    """The sampler of a phase, which draws each part when it is asked for: parts depend on one another."""
    return RandomSampler(seed) if kind == "random" else TPESampler(n_startup_trials=0, multivariate=False, seed=seed)


class Search:
    """One worker of a search."""

    def __init__(self, plan: Plan, asked: Asked, storage: BaseStorage) -> None:
        """Create or join the study. Raises SearchError: it belongs to a search with other settings."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._plan, self._asked = plan, asked
        self._longest = 0.0  # seconds of a trial
        self._benches = {x.name: Workbench(x, asked, 1 / len(plan.data)) for x in plan.data}
        self._cells = [(x.name, student) for x in plan.data for student in plan.students]
        pruner = MedianPruner(n_startup_trials=MIN_RANDOM, n_warmup_steps=max(1, asked.epochs // 3))
        self._study = optuna.create_study(
            study_name=STUDY, storage=storage, direction="maximize", load_if_exists=True, pruner=pruner
        )
        facts = plan.facts(asked)
        before = self._study.user_attrs.get(ASKED)
        if before is None:
            self._study.set_user_attr(ASKED, facts)
        elif different := [name for name, value in facts.items() if before.get(name) != json.loads(json.dumps(value))]:
            changed = "; ".join(f"{name} {before.get(name)}, now {facts[name]}" for name in different)
            raise SearchError(f"--storage holds a search with other settings: {changed}; choose another --storage")

    @property
    def finished(self) -> int:
        """How many trials have ended, of all workers."""
        return len(self._study.get_trials(deepcopy=False, states=FINISHED))

    def run(self) -> Summary:
        """Take trials until all are finished, or the minutes are over. Returns the summary.

        Raises DatasetError: a data set can't be read; all are, before anything is trained.
        """
        began = time.monotonic()
        for bench in self._benches.values() if self.finished < self._plan.trials else ():
            _ = bench.loaded
        with tqdm(total=self._plan.trials, initial=self.finished, unit="trial", smoothing=0.1) as bar:
            while (count := self.finished) < self._plan.trials:
                bar.update(count - bar.n)
                used = time.monotonic() - began
                if self._plan.minutes and used + self._longest > 60 * self._plan.minutes:
                    break
                is_random = count < self._plan.random
                kind = "random" if is_random else "tpe"
                self._study.sampler = sampler_of(kind, 0)
                objective = self._objective(kind, bar.set_description)
                self._study.optimize(objective, n_trials=1, catch=(FloatingPointError,))
            bar.update(self.finished - bar.n)
        return self._summary()

    def _objective(self, sampler: str, say: Callable[[str], None]) -> Callable[[optuna.Trial], float]:
        """A function from a trial to its gain, which adds the trial's row."""

        def objective(trial: optuna.Trial) -> float:
            # seeded by the trial, so that no two workers draw the same pipelines
            trial.study.sampler = sampler_of(sampler, self._plan.seed * MAX_TRIALS + trial.number)
            name, student = self._cells[trial.number % len(self._cells)]
            bench = self._benches[name]
            controls = bench.controls(student, say)
            say(f"{name}, {student.name}, {sampler}")
            pipeline = suggest(trial, self._asked.augmentations)
            trial.set_user_attr("data", name)
            trial.set_user_attr("student", student.name)
            facts = {"trial": trial.number, "sampler": sampler, "seed": 1, "choices": trial.params}
            began, scores = time.monotonic(), list[float]()

            def after_epoch(epoch: int, score: float) -> None:
                scores.append(score)
                trial.report(score - controls.by_epoch[epoch - 1], epoch)
                if sampler == "tpe" and trial.should_prune():
                    raise optuna.TrialPruned

            try:
                result = bench.run(student, pipeline, 1, True, after_epoch)
            except optuna.TrialPruned:
                seconds = round(time.monotonic() - began, 2)
                ended = {"state": "pruned", "best_epoch_score": max(scores), "pruned_after": seconds}
                bench.add_row(student, pipeline, controls, None, {**facts, **ended})
                raise
            except FloatingPointError:
                bench.add_row(student, pipeline, controls, None, {**facts, "state": "failed"})
                raise
            bench.add_row(student, pipeline, controls, result, {**facts, "state": "complete"})
            self._longest = max(self._longest, result.seconds)
            return result.score - controls.mean

        return objective

    def _summary(self) -> Summary:
        trials = self._study.get_trials(deepcopy=False, states=FINISHED)
        states = {state.name.lower(): sum(t.state == state for t in trials) for state in FINISHED}
        complete = [t for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
        best: dict[str, Any] = {}
        for trial in sorted(complete, key=lambda t: t.value or 0.0):
            attributes = trial.user_attrs
            cell = f"{attributes['data']}, {attributes['student']}"
            best[cell] = {"gain": round(trial.value or 0.0, 2), "trial": trial.number, "choices": trial.params}
        return {"trials": self._plan.trials, **states, "rows": str(self._asked.out / ROWS), "best": best}


@contextmanager
def quiet_logs() -> Iterator[None]:
    """Show warnings of this package alone: a trial is one of hundreds."""
    log = logging.getLogger("training")
    before = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(before)
