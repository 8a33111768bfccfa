"""Text as tokens: tokenised once, kept on disk, and drawn in batches of about equal length.

Memory doesn't grow with the text: tokens and line starts are memory-mapped files, and a batch is drawn from a window of
lines.
"""

from __future__ import annotations

import shutil
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from tqdm import tqdm

from training.data.files import writing
from training.text.corpus import CorpusError

FOLDER = ".lines"  # in the run's folder; names with a dot in front are temporary
WINDOW = 1_000_000  # lines sorted by length together
HELD_OUT = 2000  # maximum number of lines, at most a tenth, that are scored instead of trained on
CHUNK = 10_000  # lines tokenised at once


class Lines:
    """Encoded lines, end to end: line i is `tokens[starts[i]:starts[i + 1]]`; `held_out` rows are not drawn."""

    def __init__(self, folder: Path, seed: int) -> None:
        """Map what `encode_lines` has written."""
        wide = np.uint32 if (folder / "pieces.32").is_file() else np.uint16
        self.tokens = np.memmap(folder / f"pieces.{8 * wide().itemsize}", dtype=wide, mode="r")
        self.starts: NDArray[np.int64] = np.memmap(folder / "starts.64", dtype=np.int64, mode="r")
        self.held_out = held_out_rows(len(self), seed)
        self._folder, self._seed = folder, seed

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def trained_tokens(self) -> int:
        """Tokens in one pass over the lines, without the held-out ones."""
        return len(self.tokens) - int((self.starts[self.held_out + 1] - self.starts[self.held_out]).sum())

    @property
    def checksum(self) -> int:
        """CRC-32 of all tokens in their order."""
        return zlib.crc32(self.tokens.data)

    def batch(self, rows: NDArray[np.int64], pad_id: int) -> tuple[Tensor, Tensor]:
        """input_ids and attention_mask, [rows, longest line], int64."""
        return padded([self.tokens[self.starts[i] : self.starts[i + 1]] for i in rows], pad_id)

    def batches(self, batch_tokens: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """The pass (from 0) and rows of batches of about `batch_tokens` tokens, without end, each pass in a new order.

        The order depends on the seed only. Lines are read at even distances into windows, so that a window covers the
        whole text; within a window, lines of about equal length form a batch.
        """
        windows = -(-len(self) // WINDOW)
        for epoch in range(sys.maxsize):
            rng = np.random.default_rng([self._seed, epoch])
            for window in rng.permutation(windows):
                rows = np.setdiff1d(np.arange(window, len(self), windows), self.held_out, assume_unique=True)
                lengths = self.starts[rows + 1] - self.starts[rows]
                order = np.argsort(lengths + rng.uniform(-1, 1, size=len(rows)), kind="stable")
                full = (np.cumsum(lengths[order]) - 1) // batch_tokens
                batches = np.split(rows[order], np.flatnonzero(np.diff(full)) + 1)
                for i in rng.permutation(len(batches)):
                    yield epoch, batches[i]

    def remove(self) -> None:
        """Delete the files."""
        shutil.rmtree(self._folder)


def padded(lines: Sequence[Any], pad_id: int) -> tuple[Tensor, Tensor]:
    """Lines of ids as input_ids and attention_mask, [lines, longest line], int64."""
    ids = np.full((len(lines), max(map(len, lines))), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, line in enumerate(lines):
        ids[row, : len(line)] = line
        mask[row, : len(line)] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


def held_out_rows(lines: int, seed: int) -> NDArray[np.int64]:
    """The held-out rows of so many lines in a run with that seed, in order."""
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(lines, min(HELD_OUT, lines // 10), replace=False))


def encode_lines(tokenizer: Tokenizer, texts: Iterable[str], max_length: int, folder: Path) -> None:
    """Write all texts as tokens, each cut at `max_length`, into a folder, replacing its content.

    Raises CorpusError: there is no text, or it can't be read; then the folder is removed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    try:
        folder.mkdir(parents=True)
        with writing(folder):
            tokens = _write_tokens(tokenizer, texts, folder)
        if not tokens:
            raise CorpusError("there is no text to train on: every source is empty")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        tokenizer.no_truncation()


def _write_tokens(tokenizer: Tokenizer, texts: Iterable[str], folder: Path) -> int:
    """Write tokens and line starts; returns how many tokens there are."""
    wide = np.uint16 if tokenizer.get_vocab_size() <= 1 << 16 else np.uint32
    end = 0
    iterator = iter(texts)
    with (
        (folder / f"pieces.{8 * wide().itemsize}").open("wb") as tokens,
        (folder / "starts.64").open("wb") as starts,
        tqdm(unit="line", desc="tokenising", mininterval=0.5 if sys.stderr.isatty() else 15) as bar,
    ):
        starts.write(np.int64(0).tobytes())
        while chunk := list(islice(iterator, CHUNK)):
            encodings = tokenizer.encode_batch_fast(chunk)
            ends = end + np.cumsum([len(e.ids) for e in encodings], dtype=np.int64)
            end = int(ends[-1])
            starts.write(ends.tobytes())
            tokens.write(np.fromiter(chain.from_iterable(e.ids for e in encodings), dtype=wide).tobytes())
            bar.update(len(chunk))
    return end
