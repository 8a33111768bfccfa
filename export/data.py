"""What an export is given: its options, and the text that it is judged on."""

from __future__ import annotations

import gzip
import json
import logging
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from export.folder import ExportError
from training.data import datasets
from training.data.augmentation import typed_copy
from training.data.utterances import Partition, Utterance
from training.text.corpus import located_files, read_lines
from training.text.tokenizer import spread_lines, with_variants

log = logging.getLogger(__name__)

MAX_TRAINING_TEXTS = 3000  # of each locale, to which class means are fitted
MAX_TRIM_LINES = 200_000  # of --trim-text, evenly spread
MAX_GOLDEN_CANDIDATES = 200  # of a locale, where the evaluated data stands in for --golden
MIN_WORDS, MAX_WORDS = 3, 15  # of an out-of-scope sentence: as long as requests are
MAX_SENTENCES = 1000  # of an out-of-scope source
OWN_TEXT = datasets.SAMPLE / "out_of_scope"
_MARKS = re.compile(r"[^\w\s'-]|(?<!\w)['-]|['-](?!\w)|_")


@dataclass(frozen=True)
class Options:
    """The flags of `export.onnx`, under their names."""

    ckpt: Path
    out: Path
    data: str
    partition: Partition
    on_error: datasets.OnError
    golden: str
    notice: Path | None
    locales: str | None
    trim_text: str | None
    precision: Literal["int8", "fp32", "auto"]
    max_drop: float | None
    cpu: Literal["any", "vnni"]
    calibration: bool
    out_of_scope: list[str]
    false_rejection: float


@dataclass(frozen=True)
class ExportData:
    """What an export reads beside the checkpoint.

    `typed` is the copy of `utterances` with capitals and punctuation, `golden` are candidates for golden sentences,
    `train` some of the source's training partition, `out_of_scope` texts by locale and source. `vocabulary` are the
    texts whose pieces a trimmed vocabulary keeps.
    """

    source: str
    partition: str
    utterances: list[Utterance]
    typed: list[Utterance]
    golden: list[Utterance]
    train: list[Utterance]
    out_of_scope: dict[str, dict[str, list[str]]]
    vocabulary: list[str]


def read_data(options: Options, locales: Sequence[str]) -> ExportData:
    """Read the evaluated partition in the student's locales, and what else the options need.

    Raises:
        DatasetError: a locale is missing.
        ExportError, CorpusError: out-of-scope text can't be read.
    """
    out_of_scope = read_out_of_scope(options.out_of_scope, locales) if options.calibration else {}
    dataset = datasets.load(options.data, locales, options.on_error)
    utterances = dataset.part(options.partition, locales)
    golden: list[Utterance] = []
    train: list[Utterance] = []
    for locale, found in by_locale(utterances).items():
        of_locale = [u for u in dataset.utterances if u.partition == "train" and u.locale == locale]
        train += random.Random(0).sample(of_locale, min(MAX_TRAINING_TEXTS, len(of_locale)))
        try:
            golden += datasets.load(options.golden, [locale], options.on_error).part("dev", [locale])
        except datasets.DatasetError:
            golden += found[:MAX_GOLDEN_CANDIDATES]
            log.warning(
                "%s has no %s: golden sentences of %s will stand in the manifest", options.golden, locale, options.data
            )
    vocabulary = []
    if options.locales:
        vocabulary = with_variants([u for u in dataset.utterances if u.partition == "train"])
        vocabulary += spread_lines(options.trim_text.split(","), MAX_TRIM_LINES) if options.trim_text else []
    source, typed = Path(options.data).name, typed_copy(utterances)
    return ExportData(source, options.partition, utterances, typed, golden, train, out_of_scope, vocabulary)


def by_locale(utterances: Iterable[Utterance]) -> dict[str, list[Utterance]]:
    """Utterances by locale, in the order in which the locales come first."""
    found: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        found.setdefault(utterance.locale, []).append(utterance)
    return found


def read_out_of_scope(flags: Sequence[str], locales: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """Out-of-scope sentences by locale and source, from flags ``LOCALE=FILE,...``; without, those of the sample set.

    Raises:
        ExportError: a file without locale or of a locale that the student doesn't serve, a source named twice or
            without usable sentences.
        CorpusError: a file that is no text.
    """
    if not flags:
        own = {locale: OWN_TEXT / f"{locale}.txt" for locale in locales}
        return {locale: {"sample": _chosen(read_lines([str(path)]))} for locale, path in own.items() if path.is_file()}
    found: dict[str, dict[str, list[str]]] = {}
    for flag in flags:
        for locale, path in located_files(flag):
            if locale is None or locale not in locales:
                allowed = f"LOCALE=FILE,... with a locale of {', '.join(locales)}"
                raise ExportError(f"--out-of-scope {flag}: {path} has {locale or 'no locale'}; allowed: {allowed}")
            source, lines = _read_source(Path(path))
            if source in found.setdefault(locale, {}):
                raise ExportError(f"--out-of-scope {flag}: {source} is named twice for {locale}")
            found[locale][source] = _chosen(lines)
            if not found[locale][source]:
                raise ExportError(f"{path}: holds no sentence of {MIN_WORDS} to {MAX_WORDS} words without digits")
    return found


def _read_source(path: Path) -> tuple[str, Iterator[str]]:
    """Name and sentences of a file: text, or clinc150's `data_full.json`, of which the out-of-scope lists are read."""
    if not path.name.endswith((".json", ".json.gz")):
        return path.name.removesuffix(".gz").removesuffix(".txt"), read_lines([str(path)])
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            content = json.load(stream)
        return "clinc150", iter([text for name, rows in content.items() if name.startswith("oos_") for text, _ in rows])
    except (OSError, EOFError, ValueError, TypeError, AttributeError) as error:
        raise ExportError(f"{path}: is no data_full.json of clinc150: {error}") from error


def _chosen(lines: Iterable[str]) -> list[str]:
    """At most `MAX_SENTENCES` different sentences by a fixed seed, in lower case and without marks and digits.

    Requests in the data have neither capitals nor punctuation, so typography would tell the two apart.
    """
    spoken = (" ".join(_MARKS.sub(" ", line.lower().replace("’", "'")).split()) for line in lines)
    kept = [text for text in spoken if MIN_WORDS <= len(text.split()) <= MAX_WORDS and not re.search(r"\d", text)]
    sentences = list(dict.fromkeys(kept))
    random.Random(0).shuffle(sentences)
    return sentences[:MAX_SENTENCES]
