"""Text to pieces and words, with offsets in code points of the raw text.

`tokenizer.json` alone decides what a word is: its pre-tokenizer's splits are the words that carry slot tags, so
training, evaluation and serving can't disagree.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

UNKNOWN = "[UNK]"
# The normaliser and word split that `training.tokenizer` makes. They look at each word between spaces by itself, so the
# pieces of a text are those of its words; of others that is not known, and they always read the whole text.
WORD_BY_WORD = "079a300e0f45"
PLAIN = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*(?: [^\W\d_]+(?:['-][^\W\d_]+)*)*")  # words of letters, single spaces
MAX_WORDS = 20_000  # that are remembered
MAX_WORD_LENGTH = 64
MAX_CHARACTERS_PER_PIECE = 16  # on the average of a text; what follows is cut off


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


class Pieces(NamedTuple):
    """The pieces of one word; none where it is not one word to the tokenizer."""

    ids: list[int]
    unknown: int


class TextEncoder:
    """A tokenizer configured once (no padding or truncation of its own) and never again, so threads may share it.

    Of plain texts (words of letters, single spaces) the pieces of each word are remembered: assistants hear few words
    that are new, and looking one up costs a fraction of tokenising it. The answer is the same.
    """

    def __init__(self, tokenizer: Tokenizer, max_length: int) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer = tokenizer
        self.max_length = max_length
        self._max_characters = MAX_CHARACTERS_PER_PIECE * max_length
        self.unknown_id: int | None = tokenizer.token_to_id(UNKNOWN)
        self._front: list[int] = tokenizer.encode("").ids
        self._remembered: dict[str, Pieces] | None = {} if pipeline_of(tokenizer) == WORD_BY_WORD else None

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
        if self._remembered is not None and len(text) <= self._max_characters and PLAIN.fullmatch(text):
            encoded = self._join_words(text, self._remembered)
            if encoded is not None:
                return encoded
        return self.encode_whole(text)

    def encode_whole(self, text: str) -> Encoded:
        """Tokenise one text as `encode`, without use of what is remembered.

        Of a text that is much longer than the student reads, only the beginning is looked at: some take a quarter of a
        second as a whole.
        """
        cut = len(text) > self._max_characters
        encoding = self.tokenizer.encode(text[: self._max_characters] if cut else text)
        ids = encoding.ids
        first_pieces: list[int] = []
        words: list[tuple[int, int]] = []
        current = -1
        limit = self.max_length
        truncated = cut or len(ids) > limit
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
        if len(ids) > limit:
            ids = ids[:limit]
        kept = [i for i, (start, end) in enumerate(words) if not text[start:end].isspace() and end > start]
        if len(kept) != len(words):  # a piece that stands for white space alone carries no word
            first_pieces = [first_pieces[i] for i in kept]
            words = [words[i] for i in kept]
        words = [_strip(text, start, end) for start, end in words]
        return Encoded(
            ids, first_pieces, words, truncated, ids.count(self.unknown_id) if self.unknown_id is not None else 0
        )

    def _join_words(self, text: str, remembered: dict[str, Pieces]) -> Encoded | None:
        """A plain text from the pieces of its words; None where they don't make it up or are too many."""
        ids = [*self._front]
        first_pieces: list[int] = []
        words: list[tuple[int, int]] = []
        start = unknown = 0
        for word in text.split(" "):
            pieces = remembered.get(word) or (len(word) <= MAX_WORD_LENGTH and self._remember(word, remembered))
            if not pieces or not pieces.ids:
                return None
            first_pieces.append(len(ids))
            ids += pieces.ids
            unknown += pieces.unknown
            end = start + len(word)
            words.append((start, end))
            start = end + 1
        if len(ids) > self.max_length:
            return None
        return Encoded(ids, first_pieces, words, False, unknown)

    def _remember(self, word: str, remembered: dict[str, Pieces]) -> Pieces:
        alone = self.encode_whole(word)
        front = len(self._front)
        whole = not alone.truncated and alone.words == [(0, len(word))] and alone.first_pieces == [front]
        if len(remembered) >= MAX_WORDS:
            remembered.clear()
        pieces = remembered[word] = Pieces(alone.ids[front:] if whole else [], alone.unknown)
        return pieces


def pipeline_of(tokenizer: Tokenizer) -> str:
    """Which normaliser and word split a tokenizer has, as 12 hex digits."""
    content = json.loads(tokenizer.to_str())
    parts = json.dumps([content["normalizer"], content["pre_tokenizer"]], sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()[:12]


def _strip(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without white space at its edges (a piece's offsets include the space before its word)."""
    word = text[start:end]
    return end - len(word.lstrip()), start + len(word.rstrip())
