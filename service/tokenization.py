"""Text to pieces and words, with offsets in code points of the raw text.

`tokenizer.json` alone decides what a word is: its pre-tokenizer's splits are the words that carry slot tags, so
training, evaluation and serving can't disagree.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

UNKNOWN = "[UNK]"


class Encoded(NamedTuple):
    """One tokenised text.

    Attributes:
        ids: piece ids with special pieces, at most `max_length` of them.
        first_pieces: for each word, the position in `ids` of its first piece.
        words: for each word, its (start, end) in the raw text: code points, end exclusive, never empty.
        truncated: whether pieces were cut off at `max_length`.
        unknown: how many of `ids` are the unknown piece.
    """

    ids: list[int]
    first_pieces: list[int]
    words: list[tuple[int, int]]
    truncated: bool
    unknown: int


class TextEncoder:
    """A tokenizer configured once (no padding or truncation of its own) and then only read, so threads may share it."""

    def __init__(self, tokenizer: Tokenizer, max_length: int) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.unknown_id: int | None = tokenizer.token_to_id(UNKNOWN)

    @classmethod
    def from_file(cls, path: Path, max_length: int) -> TextEncoder:
        """Load a `tokenizer.json`. Raises ValueError, naming the file, when it is none."""
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust side raises bare Exception
            raise ValueError(f"{path}: not a tokenizer file: {error}") from error
        return cls(tokenizer, max_length)

    def encode(self, text: str) -> Encoded:
        """Tokenise one text. Never fails on a valid str: an empty or blank one gives the special pieces only."""
        encoding = self.tokenizer.encode(text)
        ids = encoding.ids
        first_pieces: list[int] = []
        words: list[tuple[int, int]] = []
        current = -1
        limit = self.max_length
        truncated = len(ids) > limit
        for position, (word, (start, end)) in enumerate(zip(encoding.word_ids, encoding.offsets, strict=True)):
            if word is None:
                continue
            if position >= limit:
                break
            if word != current:
                current = word
                first_pieces.append(position)
                words.append((start, end))
            elif end > words[-1][1]:
                words[-1] = (words[-1][0], end)
        if truncated:
            ids = ids[:limit]
        kept = [i for i, (start, end) in enumerate(words) if not text[start:end].isspace() and end > start]
        if len(kept) != len(words):  # a piece that stands for white space alone carries no word
            first_pieces = [first_pieces[i] for i in kept]
            words = [words[i] for i in kept]
        words = [_strip(text, start, end) for start, end in words]
        return Encoded(
            ids, first_pieces, words, truncated, ids.count(self.unknown_id) if self.unknown_id is not None else 0
        )


def _strip(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without white space at its edges (a piece's offsets include the space before its word)."""
    while text[start].isspace():
        start += 1
    while text[end - 1].isspace():
        end -= 1
    return start, end
