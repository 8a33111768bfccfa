"""The students that ship with the package, and how a name or path is resolved to a student folder."""

from __future__ import annotations

from pathlib import Path

from service.student.hub import download, is_hub_source
from service.student.manifest import MANIFEST_FILE, StudentError

SHIPPED_STUDENTS = Path(__file__).parents[1] / "students"


def shipped_students() -> list[str]:
    """The names of the students that ship with the package, in alphabetical order."""
    return sorted(manifest.parent.name for manifest in SHIPPED_STUDENTS.glob(f"*/{MANIFEST_FILE}"))


def named_folder(student: str | Path) -> Path:
    """The folder of a shipped student's name, of a student of the hub or of a path; it may not exist.

    Write ``./s`` for a folder that has the same name as a shipped student. ``hub:OWNER/NAME[@REVISION]`` is downloaded.

    Raises:
        StudentError: a student of the hub can't be downloaded.
    """
    if is_hub_source(student):
        return download(str(student))
    return SHIPPED_STUDENTS / student if isinstance(student, str) and student in shipped_students() else Path(student)


def student_folder(student: str | Path) -> Path:
    """The existing folder of a shipped student's name, of a student of the hub or of a path; see `named_folder`.

    Raises:
        StudentError: there is no shipped student and no folder of that name, or it can't be downloaded.
    """
    folder = named_folder(student)
    if not folder.is_dir():
        raise StudentError(f"{student}: no such folder; shipped students: {', '.join(shipped_students())}")
    return folder
