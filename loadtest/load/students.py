"""Flags that choose students: student folders, folders of students, and shipped students by name."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from service.student.manifest import MANIFEST_FILE, Manifest, StudentError, read_manifest
from service.student.shipped import named_folder


def student_argument(name: str) -> Path:
    """The folder of a student that a flag names; an error of the hub becomes one of the command line."""
    try:
        return named_folder(name)
    except StudentError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_student(parser: argparse.ArgumentParser) -> None:
    """Add the flag that names exactly one student."""
    about = "student folder, hub:OWNER/NAME@REVISION, or a shipped student by name (default: s)"
    parser.add_argument("--student", type=student_argument, default=named_folder("s"), metavar="DIR", help=about)


def add_students(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add the flag that names students; ratios are relative to the first. Required if there is no default."""
    shown = f" (default: {default})" if default else ""
    parser.add_argument(
        "--students",
        type=student_argument,
        nargs="+",
        default=[named_folder(default)] if default else None,
        required=default is None,
        metavar="DIR",
        help=f"student folders, folders of students, or shipped students by name, such as xs{shown}",
    )


def manifests_of(folders: Sequence[Path]) -> dict[Path, Manifest]:
    """The manifests of students by folder; each path is a student folder or a folder of students.

    Raises:
        StudentError: a folder is not a student and contains none, or occurs twice.
    """
    manifests: dict[Path, Manifest] = {}
    for folder in folders:
        inside = sorted(path.parent for path in folder.glob(f"*/{MANIFEST_FILE}"))
        for one in [folder] if (folder / MANIFEST_FILE).is_file() or not inside else inside:
            if one.resolve() in manifests:
                raise StudentError(f"{one}: given twice")
            manifests[one.resolve()] = read_manifest(one)
    return manifests
