"""The utterances that a load test sends."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from loadtest.load.command import LoadTestError

SAMPLE = Path(__file__).parents[2] / "training" / "sample" / "1.1" / "data"
TABULAR = (".jsonl", ".json")
PLAIN = (".txt",)
FIELDS = ("utt", "text")  # MASSIVE's name for the text, then the project's


class TextsError(LoadTestError):
    """There are no texts to send; the message is one sentence."""


class Text(NamedTuple):
    """A text to send and its language."""

    text: str
    locale: str


class Selection(NamedTuple):
    """The texts of some locales, and which locales were left out."""

    texts: list[Text]
    left_out: list[str]

    @property
    def locales(self) -> list[str]:
        """The locales of the texts."""
        return sorted({text.locale for text in self.texts})


def load_texts(path: Path | None = None, locale: str | None = None) -> list[Text]:
    """All texts of a file or folder.

    Args:
        path: a ``.jsonl`` file with ``utt`` or ``text``, and ``locale``, in each row; a text file with one text per
            line; or a folder of ``.jsonl`` and ``.txt`` files (default: the packaged sample).
        locale: locale of texts without one.

    Raises:
        TextsError: there are no texts, or one is invalid; names file and line.
    """
    source = path or SAMPLE
    if path is None and not source.is_dir():
        raise TextsError(f"{source}: the sample texts are missing; choose others with --texts")
    texts = [text for file in _files(source) for text in _texts_of(file, locale)]
    if not texts:
        raise TextsError(f"{source}: contains no texts")
    return texts


def select(texts: Sequence[Text], asked: Collection[str] | None, known: Collection[str] | None) -> Selection:
    """The texts in the locales `asked` for, else in those that the model knows, else all.

    Raises:
        TextsError: there are no texts in a locale that was asked for, or in any that the model knows.
    """
    available = {text.locale for text in texts}
    if missing := sorted(set(asked or ()) - available):
        raise TextsError(f"no texts in {', '.join(missing)}; there are texts in {', '.join(sorted(available))}")
    wanted = asked if asked is not None else known if known is not None else available
    selected = [text for text in texts if text.locale in wanted]
    if not selected:
        raise TextsError(
            f"no texts in {', '.join(sorted(wanted))}, the locales of the student; choose others with --texts"
        )
    return Selection(selected, sorted(available - set(wanted)))


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise TextsError(f"{source}: no such file or folder")
    files = sorted(file for file in source.iterdir() if file.suffix in TABULAR + PLAIN and file.is_file())
    if not files:
        raise TextsError(f"{source}: contains no {' or '.join(TABULAR + PLAIN)} file")
    return files


def _texts_of(file: Path, locale: str | None) -> Iterator[Text]:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        raise TextsError(f"{file}: not UTF-8") from None
    except OSError as error:
        raise TextsError(f"{file}: can't be read: {error.strerror}") from None
    if file.suffix not in TABULAR and locale is None:
        raise TextsError(f"{file}: plain texts have no locale; set it with --locale")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if file.suffix in TABULAR:
            yield _text_of_row(line, locale, f"{file}:{number}")
        elif locale is not None:
            yield Text(line.strip(), locale)


def _text_of_row(line: str, locale: str | None, where: str) -> Text:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise TextsError(f"{where}: not JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(row, dict):
        raise TextsError(f"{where}: should be a JSON object with {' or '.join(FIELDS)}, and locale")
    text = next((row[field] for field in FIELDS if field in row), None)
    if not isinstance(text, str) or not text.strip():
        raise TextsError(f"{where}: has no text; expected in the field {' or '.join(FIELDS)}")
    language = row.get("locale") or locale
    if not isinstance(language, str):
        raise TextsError(f"{where}: has no locale; add the field, or set --locale")
    return Text(text, language)
