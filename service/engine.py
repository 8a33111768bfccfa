"""The loaded students: which there are, which are refused and why, and which one answers a request."""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from service.errors import NotReady, UnknownLocale, UnknownModel
from service.manifest import MANIFEST_FILE, StudentError
from service.metrics import Metrics, StudentMeters
from service.student import Student

PREFERRED = "s"

log = logging.getLogger("service")


class Loaded(NamedTuple):
    """A student in service, with its meters and the locales that it knows."""

    student: Student
    meters: StudentMeters
    locales: frozenset[str]

    @property
    def name(self) -> str:
        """The name that clients ask for."""
        return self.student.manifest.name

    def check_locale(self, locale: str) -> None:
        """Raise `UnknownLocale` unless the student was trained for the locale."""
        if locale not in self.locales:
            raise UnknownLocale(model=self.name, known=", ".join(sorted(self.locales)))


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

        engine = Engine(find_folders(root), default_model=None, metrics=Metrics())
        engine.load()  # takes seconds; requests meanwhile are answered "not ready"
        engine.choose(None).student.predict("weck mich auf")
    """

    def __init__(self, folders: Sequence[Path], default_model: str | None, metrics: Metrics) -> None:
        self._folders = tuple(folders)
        self._wanted_default = default_model
        self._metrics = metrics
        self._loading = True
        self._default: Loaded | None = None
        self.students: dict[str, Loaded] = {}
        self.refused: list[str] = []

    def load(self) -> None:
        """Load, check, warm up and self-test every folder; one that can't be served is refused and the rest go on."""
        loaded: dict[str, Loaded] = {}
        for folder in self._folders:
            try:
                student = _open(folder)
                if student.manifest.name in loaded:
                    raise StudentError(f"{folder}: another folder holds a student named {student.manifest.name!r} too")
            except StudentError as error:
                log.error("student refused: %s", error)
                self.refused.append(str(error))
                continue
            manifest = student.manifest
            meters = StudentMeters(self._metrics, manifest)
            loaded[manifest.name] = Loaded(student, meters, frozenset(manifest.locales))
            log.info("student loaded: %s (%s, %s) from %s", manifest.name, manifest.precision, manifest.digest, folder)
        self.students = dict(sorted(loaded.items()))
        self._default = self._choose_default()
        gc.collect()
        gc.freeze()  # what is loaded lives as long as the process; the collector need not walk it under load
        self._loading = False

    def choose(self, name: str | None) -> Loaded:
        """The student of that name, or the default one.

        Raises:
            UnknownModel: none of that name is loaded.
            NotReady: nothing is loaded yet, or the default student could not be.
        """
        chosen = self._default if name is None else self.students.get(name)
        if chosen is not None:
            return chosen
        if self._loading or name is None:
            raise NotReady(reason="; ".join(self.reasons_not_ready()))
        raise UnknownModel(loaded=", ".join(self.students) or "none")

    @property
    def default(self) -> Loaded | None:
        """The student that answers when a request names none."""
        return self._default

    def reasons_not_ready(self) -> list[str]:
        """Why the service must get no traffic; empty when every expected student is loaded, warm and tested."""
        if self._loading:
            return ["students are loading"]
        reasons = list(self.refused)
        if self._default is None:
            wanted = f"the default student {self._wanted_default!r}" if self._wanted_default else "no student"
            reasons.append(f"{wanted} is {'not ' if self._wanted_default else ''}loaded")
        return reasons

    def _choose_default(self) -> Loaded | None:
        if self._wanted_default is not None:
            return self.students.get(self._wanted_default)
        return self.students.get(PREFERRED) or next(iter(self.students.values()), None)


def _open(folder: Path) -> Student:
    try:
        student = Student.load(folder)
        student.warm_up()
    except StudentError:
        raise
    except Exception as error:  # a graph may pass every check and still fail to run
        raise StudentError(f"{folder}: fails when run: {type(error).__name__}: {error}") from error
    return student
