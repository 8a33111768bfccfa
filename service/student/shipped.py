"""The students that come with the package, and how a student is named."""

from __future__ import annotations

from pathlib import Path

from service.student.manifest import MANIFEST_FILE, StudentError

SHIPPED_STUDENTS = Path(__file__).parents[1] / "students"


def shipped_students() -> list[str]:
    """The names of the students that come with the package, in alphabetical order."""
    return sorted(manifest.parent.name for manifest in SHIPPED_STUDENTS.glob(f"*/{MANIFEST_FILE}"))


def named_folder(student: str | Path) -> Path:
    """The folder that a name or a path stands for; it may not exist.

    A string that is the name of a shipped student is that student; write ``./s`` for a folder of the same name.
    """
    return SHIPPED_STUDENTS / student if isinstance(student, str) and student in shipped_students() else Path(student)


def student_folder(student: str | Path) -> Path:
    """The folder of a student that is named as for `named_folder`.

    Raises:
        StudentError: there is neither such a shipped student nor such a folder.
    """
    folder = named_folder(student)
    if not folder.is_dir():
        raise StudentError(f"{student}: no such folder; shipped students: {', '.join(shipped_students())}")
    return folder
