"""Write a student folder atomically, and choose its golden sentences."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from service.student.manifest import NAME_PATTERN, Golden
from service.student.predictor import Predictor, golden_answer
from training.data.utterances import Utterance

GOLDEN_PER_LOCALE = 4
GOLDEN_CONFIDENCE = 0.5


class ExportError(ValueError):
    """The export is impossible or its result must not be used; the message says why."""


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that is renamed to `out` at the end, or deleted if the block raises.

    Raises:
        ExportError: `out` exists and is not an empty folder, or its name is not a valid student name.
    """
    if not re.fullmatch(NAME_PATTERN, out.name):
        raise ExportError(f"name: {out.name!r}; allowed: 1 to 64 of A-Z a-z 0-9 . _ -, a letter or digit first")
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


def choose_golden(predictor: Predictor, utterances: Sequence[Utterance]) -> tuple[Golden, ...]:
    """Choose golden sentences for each locale: confident and right predictions if possible, of different intents first.

    Confident predictions do not change by rounding, but change on a CPU that computes wrong results.
    """
    chosen: list[Golden] = []
    for locale in dict.fromkeys(u.locale for u in utterances):
        ranked = []
        intents: set[str | None] = set()
        for utterance in (u for u in utterances if u.locale == locale):
            answer = predictor.predict(utterance.text, locale=locale)
            confidence = min(
                [r[0].confidence for r in (answer.domain, answer.intent) if r]
                + [s.confidence for s in answer.slots or ()],
                default=0.0,  # a student with slots only, and no slot found
            )
            found = golden_answer(predictor, utterance.text, locale)
            right = found.domain in (utterance.domain, None) and found.intent in (utterance.intent, None)
            ranked.append((confidence >= GOLDEN_CONFIDENCE, right, found.intent not in intents, confidence, found))
            intents.add(found.intent)
        ranked.sort(key=lambda entry: entry[:4], reverse=True)
        chosen += [entry[-1] for entry in ranked[:GOLDEN_PER_LOCALE]]
    return tuple(chosen)
