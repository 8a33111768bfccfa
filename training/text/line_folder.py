"""A folder of plain sentences by locale, `LOCALE.txt.gz`, with a manifest: what pools and statements are written as."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from training.data.datasets import HUB_PREFIX
from training.data.files import write_atomically, write_json
from training.text.corpus import CorpusError, same_text, same_utterance

MANIFEST = "manifest.json"


def require_absent(out: Path, force: bool) -> None:
    """Raise CorpusError if the folder exists and is not to be overwritten."""
    if out.exists() and not force:
        raise CorpusError(f"{out}: exists already; choose another --out, or --force to overwrite")


def public_arguments(spec: Any) -> dict[str, Any]:
    """The flags in a data class; files and folders without their parents, which may name a person or a machine."""
    arguments: dict[str, Any] = asdict(spec)
    for name in ("generic", "data"):
        if (value := arguments[name]) and not value.startswith(HUB_PREFIX):
            arguments[name] = Path(value).resolve().name
    return arguments


def render(manifest: Mapping[str, Any]) -> str:
    """Lines by locale and part, as a table."""
    parts = list(dict.fromkeys(part for counts in manifest["locales"].values() for part in counts))
    rows = [f"{'':9}" + "".join(f"{part:>15}" for part in parts)]
    for locale, counts in manifest["locales"].items():
        rows.append(f"{locale:9}" + "".join(f"{counts.get(part, 0):15,}" for part in parts))
    removed = ", ".join(f"{reason.replace('_', ' ')} {count:,}" for reason, count in manifest["removed"].items())
    return "\n".join([*rows, f"{manifest['lines']:,} lines; removed: {removed or 'none'}"])


class Lines:
    """The lines of each locale, each once, with counts by part; without those held out."""

    def __init__(self, held_out: frozenset[str]) -> None:
        """`held_out` are forms as of `held_out_forms`."""
        self._held_out = held_out
        self._lines: dict[str, dict[str, None]] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self.removed: Counter[str] = Counter()

    def is_new(self, locale: str, text: str) -> bool:
        """Whether a line may be added; if not, it is counted as removed."""
        reason = ""
        if same_utterance(same_text(text)) in self._held_out:
            reason = "dev_or_test"
        elif text in self._lines.get(locale, {}):
            reason = "duplicate"
        if reason:
            self.removed[reason] += 1
        return not reason

    def add(self, locale: str, part: str, text: str) -> bool:
        """Add a line, unless it is held out. Returns whether it was not; a line that is there already counts once."""
        text = " ".join(text.encode("utf-8", "replace").decode().split())
        if self.is_new(locale, text):
            self._lines.setdefault(locale, {})[text] = None
            self._counts[locale, part] += 1
        return text in self._lines.get(locale, {})

    def of(self, locale: str) -> list[str]:
        """The lines of a locale, in the order in which they were added."""
        return list(self._lines.get(locale, {}))

    def facts(self, locales: Sequence[str]) -> dict[str, Any]:
        """Counts for the manifest."""
        parts: dict[str, dict[str, int]] = {locale: {} for locale in locales}
        for (locale, part), count in self._counts.items():
            parts[locale][part] = count
        return {"lines": self._counts.total(), "locales": parts, "removed": dict(sorted(self.removed.items()))}

    def write(self, out: Path, locales: Sequence[str], seed: int, head: Mapping[str, Any]) -> dict[str, Any]:
        """Write the folder `out`, which is complete or absent; an older one is replaced. Returns the manifest.

        The manifest has `head`, lines by locale and part, and for each file lines and digest.
        """
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            files = {locale: _write(scratch / f"{locale}.txt.gz", self.of(locale), seed) for locale in locales}
            manifest = {**head, **self.facts(locales), "files": files}
            write_json(scratch / MANIFEST, manifest)
            scratch.chmod(0o755)
            if out.exists():
                shutil.rmtree(out)
            os.replace(scratch, out)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return manifest


def _write(path: Path, lines: list[str], seed: int) -> dict[str, Any]:
    random.Random(seed).shuffle(lines)
    data = gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)
    write_atomically(path, data)
    return {"lines": len(lines), "sha256": hashlib.sha256(data).hexdigest()}
