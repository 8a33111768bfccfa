"""Text as pieces: tokenised once, kept on disk, and drawn in batches of about equal length.

Memory doesn't grow with the text: pieces and line starts are files that are mapped, and a batch is drawn from a window
of lines.
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

FOLDER = ".lines"  # in the run's folder; a dot in front, as for all that a finished run doesn't hold
WINDOW = 1_000_000  # lines that are sorted by length together
HELD_OUT = 2000  # lines at most, and at most a tenth, that are scored instead of trained on
CHUNK = 10_000  # lines that are tokenised at once


class Lines:
    """Encoded lines, end to end: line i is `pieces[starts[i]:starts[i + 1]]`; `held_out` are rows that aren't drawn."""

    def __init__(self, folder: Path, seed: int) -> None:
        """Map what `encode_lines` has written."""
        wide = np.uint32 if (folder / "pieces.32").is_file() else np.uint16
        self.pieces = np.memmap(folder / f"pieces.{8 * wide().itemsize}", dtype=wide, mode="r")
        self.starts: NDArray[np.int64] = np.memmap(folder / "starts.64", dtype=np.int64, mode="r")
        self.held_out = held_out_rows(len(self), seed)
        self._folder, self._seed = folder, seed

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def trained_pieces(self) -> int:
        """How many pieces one pass over the lines holds, without those held out."""
        return len(self.pieces) - int((self.starts[self.held_out + 1] - self.starts[self.held_out]).sum())

    @property
    def checksum(self) -> int:
        """CRC-32 of all pieces in their order."""
        return zlib.crc32(self.pieces.data)

    def batch(self, rows: NDArray[np.int64], pad_id: int) -> tuple[Tensor, Tensor]:
        """input_ids and attention_mask, [rows, longest line], int64."""
        return padded([self.pieces[self.starts[i] : self.starts[i + 1]] for i in rows], pad_id)

    def batches(self, batch_pieces: int) -> Iterator[NDArray[np.int64]]:
        """Rows of batches of about `batch_pieces` pieces, without end: pass after pass, each in another order.

        The order is a function of the seed alone. Lines are read at even distances into windows, so that a window holds
        something of every part of the text; within one, lines of about equal length go together.
        """
        windows = -(-len(self) // WINDOW)
        for epoch in range(sys.maxsize):
            rng = np.random.default_rng([self._seed, epoch])
            for window in rng.permutation(windows):
                rows = np.setdiff1d(np.arange(window, len(self), windows), self.held_out, assume_unique=True)
                lengths = self.starts[rows + 1] - self.starts[rows]
                order = np.argsort(lengths + rng.uniform(-1, 1, size=len(rows)), kind="stable")
                full = (np.cumsum(lengths[order]) - 1) // batch_pieces
                batches = np.split(rows[order], np.flatnonzero(np.diff(full)) + 1)
                for i in rng.permutation(len(batches)):
                    yield batches[i]

    def remove(self) -> None:
        """Delete the files; nothing can be drawn any more."""
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
    """Which of so many lines a run with that seed holds out, in order."""
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(lines, min(HELD_OUT, lines // 10), replace=False))


def encode_lines(tokenizer: Tokenizer, texts: Iterable[str], max_length: int, folder: Path) -> None:
    """Write all texts as pieces, each cut at `max_length`, into a folder, in place of what stands there.

    Raises CorpusError: there is no text, or it can't be read; then nothing stays in the folder.
    """
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    try:
        folder.mkdir(parents=True)
        with writing(folder):
            pieces = _write_pieces(tokenizer, texts, folder)
        if not pieces:
            raise CorpusError("there is no text to train on: every source is empty")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        tokenizer.no_truncation()


def _write_pieces(tokenizer: Tokenizer, texts: Iterable[str], folder: Path) -> int:
    """Write pieces and line starts; returns how many pieces there are."""
    wide = np.uint16 if tokenizer.get_vocab_size() <= 1 << 16 else np.uint32
    end = 0
    iterator = iter(texts)
    with (
        (folder / f"pieces.{8 * wide().itemsize}").open("wb") as pieces,
        (folder / "starts.64").open("wb") as starts,
        tqdm(unit="line", desc="tokenising", mininterval=0.5 if sys.stderr.isatty() else 15) as bar,
    ):
        starts.write(np.int64(0).tobytes())
        while chunk := list(islice(iterator, CHUNK)):
            encodings = tokenizer.encode_batch_fast(chunk)
            ends = end + np.cumsum([len(e.ids) for e in encodings], dtype=np.int64)
            end = int(ends[-1])
            starts.write(ends.tobytes())
            pieces.write(np.fromiter(chain.from_iterable(e.ids for e in encodings), dtype=wide).tobytes())
            bar.update(len(chunk))
    return end
