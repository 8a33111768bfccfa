"""Put a student folder together: golden sentences, manifest, model card; written whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from service.student.manifest import (
    CARD_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    TOKENIZER_FILE,
    FileEntry,
    Golden,
    Manifest,
    sha256_of,
)
from service.student.student import Student, golden_answer
from training.data.utterances import Utterance

GOLDEN_PER_LOCALE = 4
GOLDEN_CONFIDENCE = 0.5


class ExportError(ValueError):
    """An export that can't be made or must not be used; the message says why."""


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its name when the block ends well, and vanishes when it doesn't.

    Raises:
        ExportError: `out` exists and is not an empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out}: exists and is not empty; choose another --out or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def file_entries(folder: Path) -> dict[str, FileEntry]:
    """Digest and size of the files that a manifest vouches for."""
    return {
        name: FileEntry(sha256=sha256_of(folder / name), bytes=(folder / name).stat().st_size)
        for name in (MODEL_FILE, TOKENIZER_FILE)
    }


def choose_golden(
    student: Student, utterances: Sequence[Utterance], per_locale: int = GOLDEN_PER_LOCALE
) -> tuple[Golden, ...]:
    """Golden sentences of each locale: answered rightly where there are such, and surely.

    Sure answers don't flip by rounding, but do on a CPU that computes the file wrongly. Different intents come first.
    """
    chosen: list[Golden] = []
    for locale in dict.fromkeys(u.locale for u in utterances):
        ranked = []
        intents: set[str | None] = set()
        for utterance in (u for u in utterances if u.locale == locale):
            answer = student.predict(utterance.text, locale=locale)
            sure = min(
                [r[0].confidence for r in (answer.domain, answer.intent) if r]
                + [s.confidence for s in answer.slots or ()],
                default=0.0,  # slots alone, and none found
            )
            found = golden_answer(student, utterance.text, locale)
            right = found.domain in (utterance.domain, None) and found.intent in (utterance.intent, None)
            ranked.append((sure >= GOLDEN_CONFIDENCE, right, found.intent not in intents, sure, found))
            intents.add(found.intent)
        ranked.sort(key=lambda entry: entry[:4], reverse=True)
        chosen += [entry[-1] for entry in ranked[:per_locale]]
    return tuple(chosen)


def write_manifest(folder: Path, manifest: Manifest, card: str) -> None:
    """Write manifest and model card, then load the folder as the service would.

    Raises:
        StudentError: the service would refuse it.
    """
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    Student.load(folder)
