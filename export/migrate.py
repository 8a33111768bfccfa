"""Rewrite a student folder of an older release, so that this release serves it.

    distilled-nlu migrate FOLDER

The graph, the tokenizer, the labels and all that was measured stay the same. A graph with a batch axis loses it; the
numbers that it computes do not change. Golden answers are recorded anew, with confidences, from the student's present
answers, after the old ones were compared with them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from export.folder import ExportError, new_folder
from export.golden import choose_golden, tolerance_of
from service.extras import require
from service.student.golden import golden_answer
from service.student.manifest import (
    CARD_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    SCHEMA_VERSION,
    TOKENIZER_FILE,
    FileEntry,
    Golden,
    SessionOptions,
    StudentError,
    check_files,
    read_json,
    validated,
)
from service.student.predictor import Predictor, open_session
from service.student.student import Student
from service.student.tokenization import TextEncoder
from training.data import datasets
from training.data.utterances import Utterance

MIGRATED = (1,)  # schema versions
ANY_CPU = "7-bit weights"  # in the recipe of graphs that give the same results with and without VNNI


class OldSlot(BaseModel):
    """A slot of `OldGolden`."""

    model_config = ConfigDict(frozen=True)

    name: str
    value: str
    start: int
    end: int


class OldGolden(BaseModel):
    """A golden sentence of schema version 1, which has no confidences."""

    text: str
    locale: str
    domain: str | None = None
    intent: str | None = None
    slots: tuple[OldSlot, ...] = ()


def parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = argparse.ArgumentParser(
        prog="distilled-nlu migrate",
        description="Rewrite a student folder of an older release, so that this release serves it.",
        allow_abbrev=False,
    )
    add, sample = flags.add_argument, str(datasets.SAMPLE)
    add("folder", metavar="FOLDER", type=Path, help="student folder")
    add("--out", type=Path, metavar="DIR", help="folder to write; FOLDER is kept (default: FOLDER is replaced)")
    add(
        "--golden",
        metavar="DATA",
        default=sample,
        help="labelled data for further golden sentences, which are published (default: the sample set)",
    )
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    args = parser().parse_args(argv)
    try:
        version = read_json(args.folder).get("schema_version")
        if version == SCHEMA_VERSION:
            print(f"{args.folder} has schema version {SCHEMA_VERSION} already; nothing was written", file=sys.stderr)
            out = args.folder
        else:
            out = migrate(args.folder, args.out, args.golden)
            print(f"{out}: schema version {version} -> {SCHEMA_VERSION}", file=sys.stderr)
        manifest = Student.load(out).manifest
    except (ExportError, StudentError, datasets.DatasetError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"student": str(out), "from": version, "to": SCHEMA_VERSION, "digest": manifest.digest}))
    return 0


def migrate(folder: Path, out: Path | None = None, golden: str = str(datasets.SAMPLE)) -> Path:
    """Write a student folder of an older schema version in the present one, and return the new folder.

    It appears when it is complete and the service would load it. Without `out`, it replaces `folder`.

    Raises:
        StudentError: the folder is damaged, its version is not one of `MIGRATED`, or its student answers its golden
            sentences differently here.
        ExportError: `out` exists already.
        DatasetError: `golden` can't be read.
    """
    content = read_json(folder)
    if content.get("schema_version") not in MIGRATED:
        known = ", ".join(map(str, MIGRATED))
        raise StudentError(
            f"{folder}: schema_version {content.get('schema_version')!r} can't be migrated, only {known}"
        )
    _check_old_files(folder, content)
    if out is not None:
        with new_folder(out) as temporary:
            _write(folder, content, temporary, golden)
        return out
    parent, name = folder.resolve().parent, folder.resolve().name
    temporary = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=parent))
    try:
        _write(folder, content, temporary, golden)
        temporary.chmod(folder.stat().st_mode & 0o7777)
        _replace(folder.resolve(), temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _check_old_files(folder: Path, content: Mapping[str, Any]) -> None:
    try:
        files = TypeAdapter(dict[str, FileEntry]).validate_python(content.get("files"))
    except ValidationError as error:
        raise StudentError(f"{folder}: {MANIFEST_FILE}: files: {error.errors()[0]['msg']}") from error
    check_files(folder, files)


def _write(folder: Path, content: dict[str, Any], target: Path, golden: str) -> None:
    """Write the migrated student of `folder` to the empty folder `target`."""
    shutil.copytree(folder, target, dirs_exist_ok=True)
    _rewrite_graph(target / MODEL_FILE)
    files = {name: FileEntry.of(target / name).model_dump() for name in content["files"]}
    old = _old_golden(folder, content)
    to_be_chosen = [Golden(text="", locale="", tokens=()).model_dump()]
    draft = {**content, "schema_version": SCHEMA_VERSION, "files": files, "golden": to_be_chosen}
    manifest = validated(folder, draft)
    encoder = TextEncoder.from_file(target / TOKENIZER_FILE, manifest.max_length)
    session = open_session(target / MODEL_FILE, manifest.graph.session)
    predictor = Predictor(manifest.labels, encoder, session, manifest.calibration)
    _compare(folder, predictor, old)
    tolerance = tolerance_of(manifest.precision, ANY_CPU in manifest.graph.quantisation)
    chosen = choose_golden(predictor, _sentences(old, golden, manifest.locales), tolerance, manifest.calibration)
    manifest = manifest.model_copy(update={"golden": chosen, "golden_tolerance": tolerance})
    (target / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    card = target / CARD_FILE
    if card.exists():
        old_digest = content["files"][MODEL_FILE]["sha256"][:12]
        card.write_text(card.read_text(encoding="utf-8").replace(old_digest, manifest.digest), encoding="utf-8")
    Student.load(target)  # the checks of the service


def _rewrite_graph(path: Path) -> None:
    """Remove the batch axis of a graph that has one."""
    try:
        session = open_session(path, SessionOptions())
    except Exception as error:  # onnxruntime raises a family of unrelated types
        raise StudentError(f"{path}: cannot open: {error}") from error
    if all(len(tensor.shape) == 1 for tensor in session.get_inputs()):
        return
    require("export", "onnx")
    import onnx

    from export.text_axis import with_text_axis_only  # needs onnx, which only old graphs need

    try:
        onnx.save(with_text_axis_only(onnx.load(str(path))), str(path))
    except ValueError as error:
        raise StudentError(f"{path}: {error}") from error


def _old_golden(folder: Path, content: Mapping[str, Any]) -> list[OldGolden]:
    try:
        return TypeAdapter(list[OldGolden]).validate_python(content.get("golden"))
    except ValidationError as error:
        raise StudentError(f"{folder}: {MANIFEST_FILE}: golden: {error.errors()[0]['msg']}") from error


def _compare(folder: Path, predictor: Predictor, old: Sequence[OldGolden]) -> None:
    """Check that the student gives the labels of the old golden answers."""
    for golden in old:
        try:
            found = golden_answer(predictor, golden.text, golden.locale)
        except FloatingPointError as error:
            raise StudentError(f"{folder}: {error}") from error
        slots = tuple(OldSlot(name=s.name, value=s.value, start=s.start, end=s.end) for s in found.slots)
        if (found.domain, found.intent, slots) != (golden.domain, golden.intent, golden.slots):
            raise StudentError(
                f"{folder}: a golden answer differs on this machine for a {golden.locale} sentence: expected "
                f"{golden.domain}/{golden.intent}, got {found.domain}/{found.intent}"
            )


def _sentences(old: Sequence[OldGolden], golden: str, locales: Sequence[str]) -> Iterator[Utterance]:
    """The candidates for golden sentences: the old ones, and those of `golden` in the student's locales."""
    for number, one in enumerate(old):
        yield Utterance(f"golden-{number}", one.text, one.locale, "dev", one.domain, one.intent)
    for locale in locales:
        with suppress(datasets.DatasetError):  # it lacks the locale
            yield from datasets.load(golden, [locale]).part("dev", [locale])


def _replace(folder: Path, new: Path) -> None:
    """Put `new` in the place of `folder`, which is deleted. If that fails, `folder` is back."""
    old = new.with_name(f"{new.name}.old")
    folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old)


if __name__ == "__main__":
    sys.exit(main())
