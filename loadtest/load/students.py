"""Which students are measured: folders, folders that hold some, and the shipped ones by name."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from service.student.manifest import MANIFEST_FILE, Manifest, StudentError, read_manifest
from service.student.shipped import named_folder


def add_student(parser: argparse.ArgumentParser) -> None:
    """Add the flag that names exactly one student."""
    parser.add_argument("--student", type=named_folder, default=named_folder("s"), metavar="DIR", help="student "
                        "folder, or a shipped student by name (default: s)")  # fmt: skip


def add_students(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add the flag that names students, of which ratios are taken to the first; required without a default."""
    shown = f" (default: {default})" if default else ""
    parser.add_argument(
        "--students",
        type=named_folder,
        nargs="+",
        default=[named_folder(default)] if default else None,
        required=default is None,
        metavar="DIR",
        help=f"student folders, folders that hold some, or shipped students by name, such as xs{shown}",
    )


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
