"""The sources of a transfer set: plain sentences by language and source, and labelled data."""

from __future__ import annotations

import logging
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from training.data import datasets
from training.text import corpus
from training.text.budgets import Group, Kind, TransferSet, weights_of
from training.text.corpus import CorpusError, language_of

log = logging.getLogger("training.corpus")

LAYOUT = "LANGUAGE/SOURCE.txt[.gz] or corpus.LOCALE.txt[.gz] in it"


@dataclass(frozen=True)
class Source:
    """Text of one language and kind, and the place that it is read from."""

    language: str
    kind: Kind
    name: str
    lines: Callable[[], Iterable[str]] = field(repr=False)

    @property
    def group(self) -> Group:
        """The budget of its tokens."""
        return self.language, self.kind


def generic_sources(spec: TransferSet, groups: Iterable[Group]) -> list[Source]:
    """The sources of plain sentences that belong to a group.

    Raises CorpusError: there is no such folder, or it holds nothing in one of the languages.
    """
    root, asked, spoken = Path(spec.generic), weights_of(spec.locales), spoken_names(spec)
    chosen = {name.strip() for name in spec.sources.split(",") if name.strip()}
    found = texts_by_language(root)
    if missing := [language for language in asked if language not in found]:
        present = ", ".join(found) or f"none; allowed: {LAYOUT}"
        raise CorpusError(f"--locales: {spec.generic} has no text for {', '.join(missing)}; its languages: {present}")
    sources, known = [], set()
    for language in asked:
        for entry, file in [(x, file) for x in found[language] for file in corpus.find_files([str(x)])]:
            name = name_of(file) if entry.is_dir() else root.resolve().name
            known.add(name)
            if chosen and name not in chosen:
                continue
            kind: Kind = "generic" if spec.spoken_share is None else "spoken" if name in spoken else "written"
            if (language, kind) in groups:
                sources.append(Source(language, kind, name, partial(_text_of, file)))
    if unknown := sorted(chosen - known):
        raise CorpusError(f"--sources: unknown {', '.join(unknown)}; allowed: {', '.join(sorted(known))}")
    return sources


def texts_by_language(root: Path) -> dict[str, list[Path]]:
    """The files and folders of each language in a folder of plain sentences; none where there is no such folder."""
    found: dict[str, list[Path]] = {}
    for entry in sorted(root.iterdir()) if root.is_dir() else ():
        if corpus.LOCALE.fullmatch(name_of(entry)) and (entry.is_dir() or entry.name.endswith(corpus.SUFFIXES)):
            found.setdefault(language_of(name_of(entry)), []).append(entry)
    return found


def spoken_names(spec: TransferSet) -> frozenset[str]:
    """The names of the sources that hold spoken language."""
    return frozenset(name.strip() for name in spec.spoken.split(","))


def name_of(path: Path) -> str:
    """The name of a source: that of its file or folder, without suffixes."""
    return path.name.removesuffix(".gz").removesuffix(".txt")


def _text_of(file: Path) -> Iterator[str]:
    empty = True
    for line in corpus.lines_of_file(file):
        empty = empty and not line.strip()
        yield line
    if empty:
        raise CorpusError(f"{file}: holds no text; remove it or fill it")


def task_sources(spec: TransferSet, groups: Iterable[Group]) -> tuple[list[Source], frozenset[str]]:
    """The training texts of the labelled data by locale, and the dev and test utterances to exclude.

    Raises CorpusError, DatasetError: a language has a share of the task text but no texts, or they can't be read.
    """
    if not spec.data:
        return [], frozenset()
    asked = weights_of(spec.locales)
    locales = _locales_of_files(spec.data)
    chosen = None if locales is None else [locale for locale in locales if language_of(locale) in asked]
    utterances = () if chosen == [] else datasets.load(spec.data, chosen, spec.on_error).utterances
    texts: dict[str, list[str]] = {}
    held_out = set()
    for u in utterances:
        if language_of(u.locale) in asked and u.partition != "train":
            held_out.add(corpus.same_utterance(corpus.same_text(u.text)))
        elif spec.takes(u.locale):
            texts.setdefault(u.locale, []).append(u.text.encode("utf-8", "replace").decode())
    present = sorted({language_of(locale) for locale in locales or {u.locale for u in utterances}})
    for language in asked:
        if language not in map(language_of, texts):
            known = ", ".join(present) or "none"
            message = f"{spec.data} has no training texts for {language}; its languages: {known}"
            if (language, "task") in groups:
                raise CorpusError(f"--locales: {message}")
            log.warning("%s", message)
    sources = [Source(language_of(locale), "task", locale, partial(iter, lines)) for locale, lines in texts.items()]
    return [source for source in sources if source.group in groups], frozenset(held_out)


def _locales_of_files(source: str) -> list[str] | None:
    """The locales of a data set whose files are named by locale, so that no others are read; None for other ones."""
    path = Path(source)
    names: Iterable[str] = ()
    if path.is_dir():
        names = (f.name for f in path.rglob("*"))
    elif path.is_file() and tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            names = [Path(name).name for name in archive.getnames()]
    stems = {name.split(".")[0] for name in names if name.endswith((".jsonl", ".jsonl.gz", ".csv"))} - {""}
    named = stems and all(corpus.LOCALE.fullmatch(stem) and language_of(stem) != stem for stem in stems)
    return sorted(stems) if named else None
