"""Build a transfer set: the text on which a student imitates its teacher.

    python -m training.corpus build --generic DIR --data DIR --ratio 7:3 --locales de,fr,it,es --tokens N --out FILE

FILE (`.txt` or `.txt.gz`) holds one sentence a line, shuffled; `FILE.json` beside it is its manifest. Each language
and kind of text (task, spoken, written; or generic) has its own token budget. Tokens are words between white space,
where characters of Han and kana each count as one, or tokens of `--tokenizer`. Lines are unique without regard to case,
width and spacing. No line equals a dev or test utterance of the labelled data, without regard to punctuation either.
The same seed and text give the same bytes. Memory does not grow with the text or with the tokens: lines are sorted by
hashes on disk, in a temporary folder beside FILE.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import logging
import os
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

from training.data import datasets
from training.data.files import write_json
from training.text import corpus
from training.text.budgets import KINDS, Group, Kind, TransferSet, budgets_of, ratio_of
from training.text.corpus import CorpusError
from training.text.sources import Source, generic_sources, spoken_names, task_sources
from training.text.tokenizer import load_tokenizer

COMMAND = "training.corpus"

log = logging.getLogger(COMMAND)

_LINE = struct.Struct(">HI")  # source, tokens; the text follows
BATCH_LINES = 1000

CountTokens = Callable[[Sequence[str]], list[int]]


def token_counter(tokenizer: str) -> CountTokens:
    """Counts words, or the tokens of a `tokenizer.json` without special ones. Raises CorpusError: the file is none."""
    if not tokenizer:
        return corpus.count_words
    try:
        loaded = load_tokenizer(Path(tokenizer))
    except ValueError as error:
        raise CorpusError(f"{error}; allowed: a tokenizer.json") from error
    return lambda texts: [len(e.ids) for e in loaded.encode_batch_fast(texts, add_special_tokens=False)]


def build(spec: TransferSet, out: Path, force: bool = False) -> dict[str, Any]:
    """Write the transfer set to `out` and its manifest beside it, both atomically. Returns the manifest.

    Raises CorpusError, DatasetError: text that can't be read or doesn't suffice, a full disk, or `out` is there.
    """
    if not out.name.endswith(corpus.SUFFIXES):
        raise CorpusError(f"--out {out}: allowed: names that end in {' or '.join(corpus.SUFFIXES)}")
    manifest_file = manifest_of(out)
    if there := [str(file) for file in (out, manifest_file) if file.exists() and not force]:
        raise CorpusError(f"{' and '.join(there)}: exists already; choose another --out, or --force to overwrite")
    try:
        count = token_counter(spec.tokenizer)
        budgets = budgets_of(spec)
        sources, held_out = task_sources(spec, budgets)
        if ratio_of(spec.ratio)[0]:
            sources += generic_sources(spec, budgets)
        sources.sort(key=lambda s: (KINDS.index(s.kind), s.language, s.name))
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as name:
            mixer = Mixer(spec, budgets, sources, Path(name))
            mixer.read(count, held_out)
            mixer.settle()
            whole = mixer.mix(out.name)
            with whole.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            manifest = {**mixer.facts(), "file": out.name, "sha256": digest}
            write_json(manifest_file, manifest)  # first the manifest, so that the text never lacks it
            os.replace(whole, out)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            room = "sorting takes about twice the size of the unpacked text, beside --out"
            raise CorpusError(f"{out.parent}: the disk is full, nothing was written; {room}") from error
        raise CorpusError(f"{error.filename or out}: {error.strerror or error}") from error
    return manifest


def manifest_of(out: Path) -> Path:
    """The path of a transfer set's manifest."""
    return out.with_name(out.name + ".json")


class Mixer:
    """The passes of one build: read lines into buckets, remove duplicates, select the budgets' lines in a new order."""

    def __init__(self, spec: TransferSet, budgets: Mapping[Group, int], sources: list[Source], scratch: Path) -> None:
        self._spec, self._budgets, self._sources, self._scratch = spec, budgets, sources, scratch
        self._removed: dict[str, Counter[Kind]] = {why: Counter() for why in ("dev_or_test", "duplicate", "blank")}
        self._available: Counter[Group] = Counter()
        self._lines: Counter[int] = Counter()  # by source
        self._tokens: Counter[int] = Counter()
        self._unique = scratch / "unique"
        self._read = corpus.DiskShuffle(scratch / "read", unique=True)

    def _hash(self, data: bytes, person: bytes) -> int:
        seed = self._spec.seed.to_bytes(8, "big")
        return int.from_bytes(hashlib.blake2b(data, digest_size=8, key=seed, person=person).digest(), "big")

    def read(self, count: CountTokens, held_out: frozenset[str]) -> None:
        """Spill all allowed lines, keyed by the hash of their text."""
        with self._read, _bar("read") as bar:
            for index, source in enumerate(self._sources):
                lines = iter(source.lines())
                while batch := list(islice(lines, BATCH_LINES)):
                    kept = list(self._allowed(batch, source.kind, held_out))
                    for (form, text), tokens in zip(kept, count([text for _, text in kept]), strict=True):
                        if tokens:
                            key = self._hash(form.encode(), b"line")
                            self._read.add(key, _LINE.pack(index, tokens) + text.encode())
                            self._removed["duplicate"][source.kind] += 1  # `settle` subtracts the unique ones
                        else:
                            self._removed["blank"][source.kind] += 1
                    bar.update(len(batch))

    def _allowed(self, lines: Iterable[str], kind: Kind, held_out: frozenset[str]) -> Iterator[tuple[str, str]]:
        for line in lines:
            text = " ".join(line.split())
            form = corpus.same_text(text)
            if not form:
                self._removed["blank"][kind] += 1
            elif corpus.same_utterance(form) in held_out:
                self._removed["dev_or_test"][kind] += 1
            else:
                yield form, text

    def settle(self) -> None:
        """Keep one line of each text, in order of their hashes, and count the tokens available for each budget.

        Raises CorpusError: a budget has too little text and may not repeat it.
        """
        with self._unique.open("wb") as stream, _bar("settle") as bar:
            for key, line in self._read.drain():
                index, tokens = _LINE.unpack_from(line)
                source = self._sources[index]
                self._removed["duplicate"][source.kind] -= 1
                self._available[source.group] += tokens
                corpus.write_record(stream, key, line)
                bar.update()
        short = [
            f"{' '.join(group)}: {self._available[group]:,} tokens available, {asked:,} requested"
            for group, asked in self._budgets.items()
            if self._available[group] < (1 if self._spec.repeat else asked)
        ]
        if short:
            ways = "lower --tokens, change --ratio, --locales or --spoken-share"
            ways += "" if self._spec.repeat else ", or allow upsampling with --repeat"
            raise CorpusError(f"too little text: {'; '.join(short)}; {ways}")

    def mix(self, name: str) -> Path:
        """Select lines until the budgets are full, shuffle them, and write them to a file of that name in `scratch`."""
        out = self._scratch / name
        with corpus.DiskShuffle(self._scratch / "mixed") as mixed:
            with _bar("mix") as bar:
                for key, line in self._chosen():
                    mixed.add(key, line)
                    bar.update()
            self._unique.unlink()
            with (
                _bar("write", sum(self._lines.values())) as bar,
                out.open("wb") as raw,
                gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if name.endswith(".gz") else raw as stream,
            ):
                for _, line in mixed.drain():
                    stream.write(line[_LINE.size :] + b"\n")
                    bar.update()
        return out

    def _chosen(self) -> Iterator[tuple[int, bytes]]:
        """The selected lines, once for each copy, with keys that shuffle them again."""
        whole = {group: asked // self._available[group] for group, asked in self._budgets.items()}
        quotas = {group: corpus.Quota(asked % self._available[group]) for group, asked in self._budgets.items()}

        def copies() -> Iterator[tuple[bytes, int]]:
            for _, line in corpus.read_records(self._unique):
                index, tokens = _LINE.unpack_from(line)
                group = self._sources[index].group
                yield from ((line, number) for number in range(whole[group]))
                yield from ((taken, whole[group]) for taken in quotas[group].offer(tokens, line))
            for group, quota in quotas.items():
                yield from ((taken, whole[group]) for taken in quota.close())

        for line, number in copies():
            index, tokens = _LINE.unpack_from(line)
            self._lines[index] += 1
            self._tokens[index] += tokens
            yield self._hash(number.to_bytes(8, "big") + line[_LINE.size :], b"order"), line

    def facts(self) -> dict[str, Any]:
        """The manifest without the facts on the file."""
        got: Counter[Group] = Counter()
        lines: Counter[Group] = Counter()
        sources = []
        for index, source in enumerate(self._sources):
            taken = {"lines": self._lines[index], "tokens": self._tokens[index]}
            sources.append({"language": source.language, "kind": source.kind, "name": source.name, **taken})
            got[source.group] += taken["tokens"]
            lines[source.group] += taken["lines"]
        groups = []
        for group, asked in self._budgets.items():
            available, repeats = self._available[group], got[group] / self._available[group]
            taken = {"asked": asked, "tokens": got[group], "lines": lines[group], "available": available}
            groups.append({"language": group[0], "kind": group[1], **taken, "repeats": round(max(1.0, repeats), 3)})
        return {
            "command": f"{COMMAND} build",
            "arguments": arguments_of(self._spec),
            "seed": self._spec.seed,
            "ratio": self._spec.ratio,
            "unit": "pieces" if self._spec.tokenizer else "words",
            "asked": self._spec.tokens,
            "tokens": got.total(),
            "lines": lines.total(),
            "spoken_share": self._spoken_share(),
            "groups": groups,
            "sources": sources,
            "removed": {why: {kind: n for kind, n in by.items() if n} for why, by in self._removed.items()},
        }

    def _spoken_share(self) -> float | None:
        generic = [(self._tokens[i], s.name) for i, s in enumerate(self._sources) if s.kind != "task"]
        spoken, total = spoken_names(self._spec), sum(tokens for tokens, _ in generic)
        return round(sum(tokens for tokens, name in generic if name in spoken) / total, 4) if total else None


def arguments_of(spec: TransferSet) -> dict[str, Any]:
    """The flags; files and folders without their parent folders, which may name a person or a machine."""
    arguments = asdict(spec)
    for name in ("generic", "data", "tokenizer"):
        if (value := arguments[name]) and not value.startswith(datasets.HUB_PREFIX):
            arguments[name] = Path(value).resolve().name
    if spec.tokenizer:
        arguments["tokenizer_sha256"] = hashlib.sha256(Path(spec.tokenizer).read_bytes()).hexdigest()
    return arguments


def render(manifest: Mapping[str, Any]) -> str:
    """The budgets and the selected text, as a table."""
    rows = [f"{'':9}{'':9}{'asked':>13}{manifest['unit']:>13}{'lines':>11}{'available':>13}{'repeats':>9}"]
    rows += [
        f"{g['language']:9}{g['kind']:9}{g['asked']:13,}{g['tokens']:13,}{g['lines']:11,}{g['available']:13,}"
        f"{g['repeats']:9.2f}"
        for g in manifest["groups"]
    ]
    rows.append(f"{'all':18}{manifest['asked']:13,}{manifest['tokens']:13,}{manifest['lines']:11,}")
    for why, by in manifest["removed"].items():
        counts = ", ".join(f"{kind} {n:,}" for kind, n in by.items())
        rows.append(f"removed lines, {why.replace('_', ' ')}: {counts or 'none'}")
    return "\n".join(rows)


def _bar(title: str, total: int | None = None) -> tqdm[Any]:
    return tqdm(desc=title, total=total, unit="line", mininterval=0.5 if sys.stderr.isatty() else 15)
