"""The students that come with the package, and how a student is named."""

from __future__ import annotations

from pathlib import Path

from service.student.manifest import MANIFEST_FILE, StudentError

SHIPPED_STUDENTS = Path(__file__).parents[1] / "students"


def shipped_students() -> list[str]:
    """The names of the students that come with the package, in alphabetical order."""
    return sorted(manifest.parent.name for manifest in SHIPPED_STUDENTS.glob(f"*/{MANIFEST_FILE}"))


def student_folder(student: str | Path) -> Path:
    """The folder of a student that is named by a shipped name or by its folder.

    A string that is the name of a shipped student is that student; write ``./s`` for a folder of the same name.

    Raises:
        StudentError: there is neither such a shipped student nor such a folder.
    """
    if isinstance(student, str) and student in shipped_students():
        return SHIPPED_STUDENTS / student
    folder = Path(student)
    if not folder.is_dir():
        raise StudentError(f"{student}: no such folder; shipped students: {', '.join(shipped_students())}")
    return folder
