"""The inputs of an export: its options and its texts."""

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
from training.data.options import read_options
from training.data.utterances import Partition, Utterance
from training.text.corpus import located_files, read_lines
from training.text.tokenizer import spread_lines, with_variants

log = logging.getLogger(__name__)

MAX_TRIM_LINES = 200_000  # of --trim-text, evenly spread
MAX_GOLDEN_CANDIDATES = 200  # of a locale that --golden lacks, from the evaluated data
MIN_WORDS, MAX_WORDS = 3, 15  # of an out-of-scope sentence, like requests
MEASURED = ("oos_val", "oos_test")  # of clinc150; students may learn from its third list, oos_train
MAX_SENTENCES = 1000  # of an out-of-scope source
DEFAULT_MAX_DROP = 0.5  # points of percent
SAMPLE_TEXT = datasets.SAMPLE / "out_of_scope"
_PUNCTUATION = re.compile(r"[^\w\s'-]|(?<!\w)['-]|['-](?!\w)|_")


@dataclass(frozen=True)
class Options:
    """The flags of `export.onnx`, with the same names; those from `columns` on say how `data` is read."""

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
    columns: str
    offsets: datasets.Offsets
    format: str
    dev_share: float
    split_seed: int


@dataclass(frozen=True)
class ExportData:
    """The texts of an export.

    `utterances` are the evaluated partition, `typed` its copy with capitals and punctuation, `golden` the candidates
    for golden sentences, `out_of_scope` texts by locale and source. `vocabulary` are the texts whose tokens a trimmed
    vocabulary keeps.
    """

    source: str
    partition: str
    utterances: list[Utterance]
    typed: list[Utterance]
    golden: list[Utterance]
    out_of_scope: dict[str, dict[str, list[str]]]
    vocabulary: list[str]


def read_data(options: Options, locales: Sequence[str]) -> ExportData:
    """Read the evaluated partition in the student's locales, and the other texts that the options need.

    Raises:
        DatasetError: a locale is missing.
        ExportError, CorpusError: out-of-scope text can't be read.
    """
    out_of_scope = read_out_of_scope(options.out_of_scope, locales) if options.calibration else {}
    dataset = datasets.load(options.data, locales, options.on_error, read_options(options))
    utterances = dataset.part(options.partition, locales)
    golden: list[Utterance] = []
    for locale, found in by_locale(utterances).items():
        try:
            reading = read_options(options) if options.golden == options.data else None
            golden += datasets.load(options.golden, [locale], options.on_error, reading).part("dev", [locale])
        except datasets.DatasetError:
            golden += found[:MAX_GOLDEN_CANDIDATES]
            log.warning(
                "%s has no %s: the manifest will contain golden sentences of %s", options.golden, locale, options.data
            )
    vocabulary = []
    if options.locales:
        vocabulary = with_variants([u for u in dataset.utterances if u.partition == "train"])
        vocabulary += spread_lines(options.trim_text.split(","), MAX_TRIM_LINES) if options.trim_text else []
    source, typed = Path(options.data).name, typed_copy(utterances)
    return ExportData(source, options.partition, utterances, typed, golden, out_of_scope, vocabulary)


def by_locale(utterances: Iterable[Utterance]) -> dict[str, list[Utterance]]:
    """Utterances by locale, in the order of their first occurrence."""
    found: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        found.setdefault(utterance.locale, []).append(utterance)
    return found


def read_out_of_scope(flags: Sequence[str], locales: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """Out-of-scope sentences by locale and source, from flags ``LOCALE=FILE,...``, by default those of the sample set.

    Raises:
        ExportError: a file has no locale or one that the student does not serve, or a source is named twice or has no
            usable sentences.
        CorpusError: a file is not text.
    """
    if not flags:
        own = {locale: SAMPLE_TEXT / f"{locale}.txt" for locale in locales}
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
                raise ExportError(f"{path}: contains no sentence of {MIN_WORDS} to {MAX_WORDS} words without digits")
    return found


def _read_source(path: Path) -> tuple[str, Iterator[str]]:
    """Name and sentences of a text file, or of the lists `MEASURED` in clinc150's `data_full.json`."""
    if not path.name.endswith((".json", ".json.gz")):
        return path.name.removesuffix(".gz").removesuffix(".txt"), read_lines([str(path)])
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            content = json.load(stream)
        return "clinc150", iter([text for name, rows in content.items() if name in MEASURED for text, _ in rows])
    except (OSError, EOFError, ValueError, TypeError, AttributeError) as error:
        raise ExportError(f"{path}: is not a data_full.json of clinc150: {error}") from error


def _chosen(lines: Iterable[str]) -> list[str]:
    """At most `MAX_SENTENCES` different sentences without digits, in lower case and without punctuation; fixed seed.

    Requests in the data have no capitals and no punctuation, so these would give out-of-scope text away.
    """
    spoken = (" ".join(_PUNCTUATION.sub(" ", line.lower().replace("’", "'")).split()) for line in lines)
    kept = [text for text in spoken if MIN_WORDS <= len(text.split()) <= MAX_WORDS and not re.search(r"\d", text)]
    sentences = list(dict.fromkeys(kept))
    random.Random(0).shuffle(sentences)
    return sentences[:MAX_SENTENCES]
