"""Publish a student folder on the Hugging Face hub, where ``hub:OWNER/NAME@COMMIT`` names it.

    distilled-nlu push --student runs/students/mine --to OWNER/NAME

The student is loaded and checked first. Its manifest, the files that this lists and the model card are uploaded in one
commit; the card is the page of the repository, too. Other files are refused. The token is that of `hf auth login`, or
HF_TOKEN. The last line of standard output is a JSON object with the name of this version.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from service.extras import require
from service.student.hub import PREFIX, SOURCE
from service.student.manifest import CARD_FILE, MANIFEST_FILE, Manifest, StudentError, unknown_files
from service.student.shipped import student_folder
from service.student.student import Student

PAGE_FILE = "README.md"  # of a repository on the hub


def parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = argparse.ArgumentParser(
        prog="distilled-nlu push", description="Publish a student folder on the Hugging Face hub.", allow_abbrev=False
    )
    add = flags.add_argument
    add("--student", required=True, metavar="DIR", help="student folder, or the name of a shipped student")
    add("--to", required=True, metavar="OWNER/NAME", help="repository on the hub; it is created if there is none")
    add("--branch", default="main", help="branch to commit to, which must exist (default: %(default)s)")
    add("--message", help="message of the commit (default: name and digest of the student)")
    add("--private", action="store_true", help="make the repository private, if it is created")
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    args = parser().parse_args(argv)
    require("hub")
    try:
        source = push(
            student_folder(args.student), args.to, branch=args.branch, message=args.message, private=args.private
        )
    except StudentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"published: {source}", file=sys.stderr)
    print(json.dumps({"student": source, "repository": args.to, "revision": source.partition("@")[2]}))
    return 0


def push(
    folder: Path, repository: str, *, branch: str = "main", message: str | None = None, private: bool = False
) -> str:
    """Upload a student folder in one commit. Returns its name there: ``hub:OWNER/NAME@COMMIT``.

    Raises:
        StudentError: the student is invalid, the folder has other files, the name is malformed, or the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    if SOURCE.fullmatch(f"{PREFIX}{repository}") is None:
        raise StudentError(f"{repository}: should be OWNER/NAME")
    manifest = Student.load(folder).manifest
    if unknown := unknown_files(folder, manifest):
        raise StudentError(f"{folder}: not published: the manifest does not list {', '.join(unknown)}")
    card = folder / CARD_FILE
    names = [MANIFEST_FILE, *manifest.files, *([CARD_FILE] if card.is_file() else [])]
    operations = [CommitOperationAdd(name, (folder / name).read_bytes()) for name in names]
    page = _front_matter(manifest) + (card.read_text(encoding="utf-8") if card.is_file() else f"# {manifest.name}\n")
    operations.append(CommitOperationAdd(PAGE_FILE, page.encode()))
    api = HfApi(library_name="distilled-nlu")
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        said = message or f"Student {manifest.name}, {manifest.digest}"
        commit = api.create_commit(repository, operations, commit_message=said, revision=branch)
    except Exception as error:  # the library raises a family of unrelated types
        lines = str(error).strip().splitlines() or [""]
        raise StudentError(f"{repository}: the hub refuses: {type(error).__name__}: {lines[0]}") from error
    return f"{PREFIX}{repository}@{commit.oid}"


def _front_matter(manifest: Manifest) -> str:
    """What the hub reads of a page: languages and what the model is for."""
    languages = sorted({locale.split("-")[0] for locale in manifest.locales})
    tags = ["intent-classification", "slot-filling", "distillation"]
    lines = ["library_name: distilled-nlu", "pipeline_tag: text-classification"]
    for name, values in (("language", languages), ("tags", tags)):
        lines += [f"{name}:", *(f"  - {json.dumps(value)}" for value in values)]
    return "\n".join(["---", *lines, "---", "", ""])


if __name__ == "__main__":
    sys.exit(main())
