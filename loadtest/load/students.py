"""Which students are measured: folders, folders that hold some, and the shipped ones by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from service.settings import SHIPPED_STUDENTS
from service.student.manifest import MANIFEST_FILE, Manifest, StudentError, read_manifest


def student_folder(value: str) -> Path:
    """The folder that a flag names: a path, or the name of a shipped student."""
    shipped = SHIPPED_STUDENTS / value
    return shipped if not Path(value).exists() and (shipped / MANIFEST_FILE).is_file() else Path(value)


def manifests_of(folders: Sequence[Path]) -> dict[Path, Manifest]:
    """The students of some folders: student folders, or folders that hold some.

    Raises:
        StudentError: a folder is no student and holds none, or was given before.
    """
    found: dict[Path, Manifest] = {}
    for folder in folders:
        inside = sorted(path.parent for path in folder.glob(f"*/{MANIFEST_FILE}"))
        for one in [folder] if (folder / MANIFEST_FILE).is_file() or not inside else inside:
            if one.resolve() in found:
                raise StudentError(f"{one}: was given before")
            found[one.resolve()] = read_manifest(one)
    return found
