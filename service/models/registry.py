"""The loaded students: which there are, which are refused and why, which one answers, and how they are replaced."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from service.errors import NotReady, UnknownLocale, UnknownModel
from service.http.context import Call
from service.models.cache import AnswerCache
from service.models.queue import Lane, place
from service.monitoring.metrics import Metrics
from service.monitoring.student_metrics import StudentMeters
from service.settings import Settings
from service.student.manifest import MANIFEST_FILE, StudentError
from service.student.student import Prediction, Question, Student

PREFERRED = "s"
DEFAULT = "default"
ROUTER = "domain"
TYPICAL_PIECES = 12
MOST_YOUNG = 20_000  # objects made and not freed before the collector looks for cycles
Fingerprint = tuple[tuple[str, int, int, int], ...]
Outcome = dict[str, Any]

log = logging.getLogger("service")


class Loaded(NamedTuple):
    """A student in service: where it came from, its meters, its lane, its remembered answers, the locales it answers.

    `locales` are those that clients may ask for, each with the one that the student was trained on.
    """

    student: Student
    folder: Path
    fingerprint: Fingerprint
    meters: StudentMeters
    lane: Lane
    cache: AnswerCache | None
    locales: Mapping[str, str]

    @property
    def name(self) -> str:
        """The name that clients ask for."""
        return self.student.manifest.name

    def locale_for(self, asked: str) -> str:
        """The locale in which the student answers a request for another or the same.

        Raises:
            UnknownLocale: it does not know it, and no fallback is configured.
        """
        locale = self.locales.get(asked)
        if locale is None:
            raise UnknownLocale(model=self.name, known=", ".join(sorted(self.locales)))
        return locale

    async def answer(self, call: Call, question: Question) -> tuple[Prediction, bool]:
        """The answer to a question, and whether it was remembered.

        Raises:
            DeadlinePassed, ClientLeft: as `Lane.predict`.
        """
        if self.cache is None:
            return await self.lane.predict(call, question), False
        key = self.cache.key(question)
        remembered = self.cache.get(key, question.text)
        self.meters.count_look_up(hit=remembered is not None)
        if remembered is not None:
            return remembered, True
        prediction = await self.lane.predict(call, question)
        self.cache.put(key, prediction)
        return prediction, False


class Generation(NamedTuple):
    """Students that serve together, folders that are refused with the reason, and what was done with each student."""

    students: dict[str, Loaded]
    refused: dict[Path, str]
    changes: dict[str, str]

    @property
    def outcome(self) -> Outcome:
        """What a reload did, for JSON."""
        digests = {name: loaded.student.manifest.digest for name, loaded in self.students.items()}
        students = [{"name": name, "digest": digests.get(name), "change": how} for name, how in self.changes.items()]
        return {"students": students, "refused": list(self.refused.values())}


def find_folders(root: Path) -> list[Path]:
    """The student folders that `root` stands for: itself, or its sub-folders in order of name.

    Names that begin with "." or "_" are passed over: half-written folders and caches.

    Raises:
        StudentError: there is no such folder, or nothing in it.
    """
    if not root.is_dir():
        raise StudentError(f"{root}: no such folder; a students folder holds one student folder per sub-folder")
    if (root / MANIFEST_FILE).exists():
        return [root]
    found = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] not in "._")
    if not found:
        raise StudentError(f"{root}: no student in this folder; export one there first")
    return found


class Engine:
    """The students of one process.

    Usage::

        engine = Engine(settings, Metrics())
        engine.adopt(engine.prepare())  # takes seconds; requests meanwhile are answered "not ready"
        engine.choose(None).student.predict("weck mich auf")

    `prepare` may run in a thread while others serve; `adopt` belongs on the event loop, between two requests.

    Raises:
        StudentError: the students folder is missing or empty.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        find_folders(settings.students)
        self._settings = settings
        self._metrics = metrics
        self._serving = Generation({}, {}, {})
        self._default: Loaded | None = None
        self._loading = True
        self._missing: set[Path] = set()
        self._unmet: dict[str, str] = {}
        self.draining = False

    @property
    def students(self) -> Mapping[str, Loaded]:
        """The students in service, by name."""
        return self._serving.students

    @property
    def refused(self) -> list[str]:
        """Why folders are not served."""
        return list(self._serving.refused.values())

    @property
    def default(self) -> Loaded | None:
        """The student that answers when a request names none."""
        return self._default

    def prepare(self) -> Generation:
        """Load, check, warm up and self-test every folder that is new or changed.

        One that can't be served is refused, and the student that came from there before, if any, is kept.
        """
        serving = {loaded.folder: loaded for loaded in self.students.values()}
        made = Generation({}, {}, {})
        try:
            folders = find_folders(self._settings.students)
        except StudentError as error:  # on a reload only
            return Generation(
                dict(self.students), {self._settings.students: str(error)}, dict.fromkeys(self.students, "kept")
            )
        for folder in folders:
            before = serving.get(folder)
            try:
                loaded = self._open(folder, before)
                if loaded.name in made.students:
                    raise StudentError(f"{folder}: another folder holds a student named {loaded.name!r} too")
                change = "unchanged" if loaded is before else "loaded"
            except StudentError as error:
                log.error("student refused: %s", error)
                made.refused[folder] = str(error)
                if before is None or before.name in made.students:
                    continue
                loaded, change = before, "kept"
            made.students[loaded.name] = loaded
            made.changes[loaded.name] = change
        made.changes.update(dict.fromkeys(self.students.keys() - made.students.keys(), "dropped"))
        return made

    def adopt(self, made: Generation) -> Outcome:
        """Let these students serve from now on. Those of before finish what they have begun."""
        self._missing = set(made.refused) if self._loading else self._missing & set(made.refused)
        gone = [old for name, old in self.students.items() if made.students.get(name) is not old]
        self._serving = made._replace(students=dict(sorted(made.students.items())))
        self._default = self._choose_default()
        self._look_at_aliases()
        place([loaded.lane for loaded in self.students.values()])
        for loaded in gone:
            loaded.meters.is_loaded(False)
        for loaded in self.students.values():
            loaded.meters.is_loaded(True)
            log.info(
                "serving %s: %.2f ms a text, %s",
                *(loaded.name, loaded.lane.seconds_per_text * 1000),
                "in a thread of its own" if loaded.lane.in_thread else "on the event loop",
            )
        self._loading = False
        del gone
        gc.collect()
        gc.freeze()  # what is loaded stays; the collector need not walk it under load
        gc.set_threshold(MOST_YOUNG)  # what a request leaves behind is freed by counting references
        return made.outcome

    def choose(self, name: str | None) -> Loaded:
        """The student of that name or alias, or the default one.

        Raises:
            UnknownModel: none of that name is loaded.
            NotReady: nothing is loaded yet, or the default student could not be.
        """
        chosen = self.find(DEFAULT if name is None else name)
        if chosen is not None:
            return chosen
        if self._loading or name in (None, DEFAULT):
            raise NotReady(reason="; ".join(self.reasons_not_ready()))
        loaded = [" or ".join((known, *self.aliases_of(known))) for known in self.students]
        raise UnknownModel(loaded=", ".join(loaded) or "none")

    def find(self, name: str) -> Loaded | None:
        """The student of that name or alias, if it is loaded."""
        if name == DEFAULT:
            return self._default
        return self.students.get(name) or self.students.get(self._settings.aliases.get(name, name))

    def router(self) -> Loaded:
        """The student that answers with domains alone: that of the alias "domain" if there is one, else the default.

        Raises:
            NotReady: as `choose`.
        """
        return self.find(ROUTER) or self.choose(None)

    def aliases_of(self, name: str) -> list[str]:
        """The further names that a student answers to."""
        aliases = self._settings.aliases.items()
        given = [alias for alias, student in aliases if student == name and alias not in (DEFAULT, *self.students)]
        return sorted([DEFAULT, *given] if self._default is not None and self._default.name == name else given)

    def reasons_not_ready(self) -> list[str]:
        """Why the service must get no traffic; empty when every expected student is loaded, warm and tested.

        A folder that goes bad, or comes and is bad, while others serve is no reason: what served before serves on.
        """
        if self.draining:
            return ["draining: the service is about to stop"]
        if self._loading:
            return ["students are loading"]
        reasons = [reason for folder, reason in self._serving.refused.items() if folder in self._missing]
        missing = dict(self._unmet)
        if self._default is None:
            missing[DEFAULT] = self._settings.aliases.get(DEFAULT, "")
        reasons += [
            f"the {alias} student {name!r} is not loaded" if name else "no student is loaded"
            for alias, name in missing.items()
        ]
        return reasons

    def fingerprint(self) -> dict[Path, Fingerprint]:
        """What the students folder looks like; another answer means that something in it was changed."""
        try:
            return {folder: _fingerprint(folder) for folder in find_folders(self._settings.students)}
        except (StudentError, OSError):
            return {}

    def _open(self, folder: Path, before: Loaded | None) -> Loaded:
        fingerprint = _fingerprint(folder)
        if before is not None and before.fingerprint == fingerprint:
            return before
        student, seconds = _open_student(folder)
        manifest, settings = student.manifest, self._settings
        if manifest.name == DEFAULT:
            raise StudentError(
                f"{folder}: no student can be named {DEFAULT!r}: requests call so the one that it stands for"
            )
        known = {locale: locale for locale in manifest.locales}
        others = {asked: known[other] for asked, other in settings.locale_fallback.items() if other in known}
        log.info("student loaded: %s (%s, %s) from %s", manifest.name, manifest.precision, manifest.digest, folder)
        return Loaded(
            student=student,
            folder=folder,
            fingerprint=fingerprint,
            meters=StudentMeters(self._metrics, manifest),
            lane=Lane(student, settings.permits, seconds),
            cache=AnswerCache(settings.cache_entries) if settings.cache_entries else None,
            locales=others | known,
        )

    def _look_at_aliases(self) -> None:
        """Find those that stand for no student. Like folders, they are expected from the start or not at all."""
        unmet = {alias: name for alias, name in self._settings.aliases.items() if name not in self.students}
        self._unmet = unmet if self._loading else {alias: unmet[alias] for alias in self._unmet if alias in unmet}
        for alias in self._settings.aliases.keys() & self.students.keys():
            log.warning("the alias %r is also the name of a student, which answers to it", alias)

    def _choose_default(self) -> Loaded | None:
        wanted = self._settings.aliases.get(DEFAULT)
        if wanted is not None:
            return self.students.get(wanted)
        return self.students.get(PREFERRED) or next(iter(self.students.values()), None)


def _open_student(folder: Path) -> tuple[Student, float]:
    """A student, warm, and the seconds that it takes for a text of typical length."""
    try:
        student = Student.load(folder)
        student.warm_up()
        return student, min(_seconds_of(student, TYPICAL_PIECES) for _ in range(9))  # other workers start, too
    except StudentError:
        raise
    except Exception as error:  # a graph may pass every check and still fail to run
        raise StudentError(f"{folder}: fails when run: {type(error).__name__}: {error}") from error


def _seconds_of(student: Student, pieces: int) -> float:
    began = time.perf_counter()
    student.run_length(min(pieces, student.manifest.max_length))
    return time.perf_counter() - began


def _fingerprint(folder: Path) -> Fingerprint:
    try:
        return tuple(sorted(_file_mark(file) for file in folder.iterdir()))
    except OSError as error:
        raise StudentError(f"{folder}: cannot be read: {error.strerror}") from error


def _file_mark(file: Path) -> tuple[str, int, int, int]:
    found = file.stat()
    return file.name, found.st_mtime_ns, found.st_size, found.st_ino
