"""The registry of loaded students: loading, refusals, names and aliases, readiness, replacement."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from service.errors import ENDINGS, NotReady, UnknownModel
from service.http.context import Json
from service.models.cache import AnswerCache
from service.models.placement import TYPICAL_TOKENS, choose_threads
from service.models.queue import LoadedModel, ModelQueue
from service.monitoring.metrics import Metrics
from service.monitoring.student_metrics import StudentMetrics
from service.settings import Settings
from service.student.manifest import MANIFEST_FILE, StudentError
from service.student.student import Student

PREFERRED = "s"
DEFAULT = "default"
DOMAIN = "domain"
GC_THRESHOLD = 20_000  # objects allocated and not freed before the collector looks for cycles
Fingerprint = tuple[tuple[str, int, int, int], ...]

log = logging.getLogger("service")


class ModelSet(NamedTuple):
    """Students that serve together, the reasons of refused folders, and the change of each student."""

    models: dict[str, LoadedModel]
    refused: dict[Path, str]
    changes: dict[str, str]

    @property
    def outcome(self) -> Json:
        """The result of a reload, for JSON."""
        digests = {name: model.student.manifest.digest for name, model in self.models.items()}
        students = [{"name": name, "digest": digests.get(name), "change": how} for name, how in self.changes.items()]
        return {"students": students, "refused": list(self.refused.values())}


def find_folders(root: Path) -> list[Path]:
    """The student folders of `root`: itself, or its sub-folders in order of name.

    Names that begin with "." or "_" are ignored: half-written folders and caches.

    Raises:
        StudentError: the folder does not exist or is empty.
    """
    if not root.is_dir():
        raise StudentError(f"{root}: no such folder; a students folder holds one student folder per sub-folder")
    if (root / MANIFEST_FILE).exists():
        return [root]
    folders = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] not in "._")
    if not folders:
        raise StudentError(f"{root}: no student in this folder; export one there first")
    return folders


class ModelRegistry:
    """The students of one process: ``registry.adopt(registry.prepare())`` loads them.

    `prepare` takes seconds, and may run in a thread while others serve; `adopt` must run on the event loop.

    Attributes:
        models: the students that serve, by the name in their manifest; replaced by `adopt`.
        by_name: the same by each name and alias, "default" included.
        draining: the service is about to stop.
        opening: the folder that `prepare` loads at present, for messages.
        on_panic: called on the event loop with a student in which a native library panicked.

    Raises:
        StudentError: the students folder is missing or empty.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        find_folders(settings.students)
        self.models: dict[str, LoadedModel] = {}
        self.by_name: dict[str, LoadedModel] = {}
        self.draining = False
        self.opening = settings.students
        self.on_panic: Callable[[LoadedModel], None] = lambda _: None
        self._settings = settings
        self._metrics = metrics
        self._refused: dict[Path, str] = {}
        self._loading = True
        self._load_problem: str | None = None
        self._missing: set[Path] = set()
        self._unmet: dict[str, str] = {}

    @property
    def refused(self) -> list[str]:
        """The reasons why folders are refused and students are out of service."""
        problems = [model.queue.problem for model in self.models.values() if model.queue.problem is not None]
        return [*self._refused.values(), *problems]

    def prepare(self) -> ModelSet:
        """Load, check, warm up and self-test every folder that is new or changed.

        An invalid one is refused, and the student loaded from it before, if any, is kept.
        """
        serving = {model.folder: model for model in self.models.values()}
        prepared = ModelSet({}, {}, {})
        self.opening = self._settings.students
        try:
            folders = find_folders(self._settings.students)
        except StudentError as error:  # on a reload only
            return self._unchanged(str(error))
        for folder in folders:
            self.opening = folder
            before = serving.get(folder)
            try:
                model = self._open(folder, before)
                if model.name in prepared.models:
                    raise StudentError(f"{folder}: another folder has a student named {model.name!r}, too")
                change = "unchanged" if model is before else "loaded"
            except StudentError as error:
                log.error("student refused: %s", error)
                prepared.refused[folder] = str(error)
                if before is None or before.name in prepared.models:
                    continue
                model, change = before, "kept"
            prepared.models[model.name] = model
            prepared.changes[model.name] = change
        prepared.changes.update(dict.fromkeys(self.models.keys() - prepared.models.keys(), "dropped"))
        return prepared

    def prepare_again(self, model: LoadedModel) -> ModelSet:
        """Load one student again, from its folder; the others stay.

        Raises:
            StudentError: it is invalid, or the folder now has another student.
        """
        self.opening = model.folder
        again = self._open(model.folder, None)
        if again.name != model.name:
            raise StudentError(f"{model.folder}: now has the student {again.name!r}, not {model.name!r}")
        return ModelSet({**self.models, model.name: again}, self._refused, {model.name: "loaded"})

    def give_up(self, reason: str) -> Json:
        """Keep the students after a load that did not end. Returns the change of each, for JSON."""
        if not self.draining:
            log.error("students not loaded: %s", reason)
        self._load_problem = reason
        return self._unchanged(reason).outcome

    def adopt(self, prepared: ModelSet) -> Json:
        """Serve these students from now on; replaced ones finish the texts that are running.

        Returns the change of each student, for JSON.
        """
        self._missing = set(prepared.refused) if self._loading else self._missing & set(prepared.refused)
        replaced = [old for name, old in self.models.items() if prepared.models.get(name) is not old]
        self.models, self._refused = dict(sorted(prepared.models.items())), prepared.refused
        self._resolve_aliases()
        in_threads = choose_threads({name: model.student.manifest for name, model in self.models.items()})
        for name, model in self.models.items():
            model.queue.run_in_thread(name in in_threads)
        for model in replaced:
            model.metrics.set_loaded(False)
        for model in self.models.values():
            model.metrics.set_loaded(True)
            log.info(
                "serving %s: %.2f ms a text, %s",
                *(model.name, model.queue.seconds_per_text * 1000),
                "in a thread of its own" if model.queue.in_thread else "on the event loop",
            )
        self._loading = False
        del replaced
        gc.collect()
        gc.freeze()  # loaded students stay; the collector need not visit them under load
        gc.set_threshold(GC_THRESHOLD)  # requests leave no reference cycles
        return prepared.outcome

    def choose(self, name: str | None) -> LoadedModel:
        """The student with that name or alias, or the default one.

        Raises:
            UnknownModel: no student with that name is loaded.
            NotReady: no student is loaded yet, or the default student was refused.
        """
        chosen = self.by_name.get(DEFAULT if name is None else name)
        if chosen is not None:
            return chosen
        if self._loading or name in (None, DEFAULT):
            raise NotReady(reason="; ".join(self.reasons_not_ready()))
        loaded = [" or ".join((known, *self.aliases_of(known))) for known in self.models]
        raise UnknownModel(loaded=", ".join(loaded) or "none")

    def choose_for_domains(self) -> LoadedModel:
        """The student for ``/v1/domain``: that with the alias "domain" if there is one, else the default.

        Raises:
            NotReady: as `choose`.
        """
        return self.by_name.get(DOMAIN) or self.choose(None)

    def aliases_of(self, name: str) -> list[str]:
        """The aliases of a student."""
        return sorted(alias for alias, model in self.by_name.items() if model.name == name and alias != name)

    def reasons_not_ready(self) -> list[str]:
        """Why the service is not ready; empty once every expected student is loaded, warm and tested.

        A folder that becomes invalid after the start, or is added later, is not a reason: the others still serve.
        """
        if self.draining:
            return ["draining: the service is about to stop"]
        if self._loading:
            return [self._load_problem or "students are loading"]
        reasons = [reason for folder, reason in self._refused.items() if folder in self._missing]
        missing = dict(self._unmet)
        if DEFAULT not in self.by_name:
            missing[DEFAULT] = self._settings.aliases.get(DEFAULT, "")
        reasons += [
            f"the {alias} student {name!r} is not loaded" if name else "no student is loaded"
            for alias, name in missing.items()
        ]
        default = self.by_name.get(DEFAULT)
        if default is not None and default.queue.problem is not None:
            reasons.append(default.queue.problem)
        return reasons

    def is_stuck(self, seconds: float) -> bool:
        """Whether a student's thread has been running the same group of texts for longer than this."""
        return any(model.queue.thread_seconds > seconds for model in self.models.values())

    def fingerprint(self) -> dict[Path, Fingerprint]:
        """A fingerprint of the students folder, which differs after any change in it."""
        try:
            return {folder: _fingerprint(folder) for folder in find_folders(self._settings.students)}
        except (StudentError, OSError):
            return {}

    def _open(self, folder: Path, before: LoadedModel | None) -> LoadedModel:
        fingerprint = _fingerprint(folder)
        if before is not None and before.fingerprint == fingerprint and not before.queue.has_panicked:
            return before
        student, seconds = _open_student(folder)
        manifest, settings = student.manifest, self._settings
        if manifest.name == DEFAULT:
            raise StudentError(f"{folder}: a student can't be named {DEFAULT!r}, the alias of the default student")
        known = {locale: locale for locale in manifest.locales}
        fallbacks = {each: known[used] for each, used in settings.locale_fallback.items() if used in known}
        log.info("student loaded: %s (%s, %s) from %s", manifest.name, manifest.precision, manifest.digest, folder)
        model = LoadedModel(
            name=manifest.name,
            student=student,
            queue=ModelQueue(student, settings.permits, seconds),
            metrics=StudentMetrics(self._metrics, manifest),
            locales=fallbacks | known,
            cache=AnswerCache(settings.cache_entries) if settings.cache_entries else None,
            max_text_chars=settings.max_text_chars,
            folder=folder,
            fingerprint=fingerprint,
        )
        model.queue.on_panic = partial(self._panicked, model.name)  # not the model: a cycle would never be freed
        return model

    def _panicked(self, name: str) -> None:
        self._metrics.panics.labels(name).inc()
        model = self.models.get(name)
        if model is not None and model.queue.problem is not None:  # else an earlier version of it has panicked
            self.on_panic(model)

    def _unchanged(self, reason: str) -> ModelSet:
        return ModelSet(dict(self.models), {self._settings.students: reason}, dict.fromkeys(self.models, "kept"))

    def _resolve_aliases(self) -> None:
        """Set `by_name`, and find aliases of missing students: those at the start make the service not ready."""
        models, aliases = self.models, self._settings.aliases
        self.by_name = {**{alias: models[name] for alias, name in aliases.items() if name in models}, **models}
        if DEFAULT not in aliases and models:
            self.by_name[DEFAULT] = models.get(PREFERRED) or next(iter(models.values()))
        unmet = {alias: name for alias, name in aliases.items() if name not in models}
        self._unmet = unmet if self._loading else {alias: unmet[alias] for alias in self._unmet if alias in unmet}
        for alias in aliases.keys() & models.keys():
            log.warning("the alias %r is ignored: it is also the name of a student", alias)


def _open_student(folder: Path) -> tuple[Student, float]:
    """Load and warm up a student, and measure its seconds for a text of typical length."""
    try:
        student = Student.load(folder)
        student.warm_up()
        return student, min(
            _seconds_of(student, TYPICAL_TOKENS) for _ in range(9)
        )  # the minimum: other workers start at the same time
    except (StudentError, *ENDINGS):
        raise
    except BaseException as error:  # a graph may pass every check and fail when run; the libraries raise more
        raise StudentError(f"{folder}: fails when run: {type(error).__name__}: {error}") from error


def _seconds_of(student: Student, tokens: int) -> float:
    began = time.perf_counter()
    student.run_length(min(tokens, student.manifest.max_length))
    return time.perf_counter() - began


def _fingerprint(folder: Path) -> Fingerprint:
    try:
        files = [(file.name, file.stat()) for file in folder.iterdir()]
    except OSError as error:
        raise StudentError(f"{folder}: cannot be read: {error.strerror}") from error
    return tuple(sorted((name, status.st_mtime_ns, status.st_size, status.st_ino) for name, status in files))
