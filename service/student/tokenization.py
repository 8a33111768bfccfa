"""Text to tokens and words, with offsets in code points of the raw text.

The pre-tokenizer of `tokenizer.json` splits a text into the words that carry slot tags. Training, evaluation and
serving all use these words.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

UNKNOWN = "[UNK]"
# Digests of normalisers and pre-tokenizers that treat each word between spaces by itself, so the tokens of a text are
# those of its words. With any other tokenizer, no word is cached.
WORD_BY_WORD = frozenset(
    {
        "8ed7b43fc75e",  # of `training.tokenizer`, and of adopted encoders with a SentencePiece vocabulary
        "99f5f9047800",  # of adopted encoders with a WordPiece vocabulary
        "d56616c1a807",  # of those that strip accents
        "0fd029d50040",  # of adopted encoders with a byte-level vocabulary
        "079a300e0f45",  # of the first shipped students
    }
)
_WORD = r"[^\W\d_]+(?:['’-][^\W\d_]+)*"
PLAIN = re.compile(f"{_WORD}(?: {_WORD})*")  # words of letters, single spaces
MAX_CACHED_WORDS = 20_000
MAX_WORD_LENGTH = 64
MAX_CHARACTERS_PER_TOKEN = 16  # average over a text; the rest is truncated


class Encoded(NamedTuple):
    """One tokenised text.

    Attributes:
        ids: token ids with special tokens, at most `max_length` of them.
        first_tokens: for each word, the position in `ids` of its first token.
        words: for each word, its (start, end) in the raw text: code points, end exclusive, never empty.
        truncated: whether tokens were cut off at `max_length`.
        unknown: how many of `ids` are the unknown token.
    """

    ids: list[int]
    first_tokens: list[int]
    words: list[tuple[int, int]]
    truncated: bool
    unknown: int


class WordTokens(NamedTuple):
    """The tokens of one word; none if the tokenizer splits it into several words."""

    ids: list[int]
    unknown: int


class TextEncoder:
    """A tokenizer that is configured once (no padding, no truncation), so that threads may share it.

    `word_cache` holds the tokens of words from plain texts (words of letters, single spaces). Requests repeat most
    words, and a look-up is much cheaper than tokenising. The result is the same. None if the tokenizer does not treat
    each word by itself.
    """

    def __init__(self, tokenizer: Tokenizer, max_length: int) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer = tokenizer
        self.max_length = max_length
        self._max_characters = MAX_CHARACTERS_PER_TOKEN * max_length
        self.unknown_id: int | None = tokenizer.token_to_id(UNKNOWN)
        self._front: list[int] = tokenizer.encode("").ids
        self.word_cache: dict[str, WordTokens] | None = {} if pipeline_of(tokenizer) in WORD_BY_WORD else None

    @classmethod
    def from_file(cls, path: Path, max_length: int) -> TextEncoder:
        """Load a `tokenizer.json`. Raises ValueError, naming the file, if it is not a tokenizer file."""
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust side raises bare Exception
            raise ValueError(f"{path}: not a tokenizer file: {error}") from error
        return cls(tokenizer, max_length)

    def encode(self, text: str) -> Encoded:
        """Tokenise one text. An empty or blank text gives the special tokens only."""
        if self.word_cache is not None and len(text) <= self._max_characters and PLAIN.fullmatch(text):
            encoded = self._join_words(text, self.word_cache)
            if encoded is not None:
                return encoded
        return self.encode_whole(text)

    def encode_whole(self, text: str) -> Encoded:
        """Tokenise one text without the word cache.

        If a text is much longer than `max_length` tokens, only its beginning is tokenised: a whole long text can take a
        quarter of a second.
        """
        cut = len(text) > self._max_characters
        encoding = self.tokenizer.encode(text[: self._max_characters] if cut else text)
        ids = encoding.ids
        first_tokens: list[int] = []
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
                first_tokens.append(position)
                words.append((start, end))
            elif end > words[-1][1]:
                words[-1] = (words[-1][0], end)
        if len(ids) > limit:
            ids = ids[:limit]
        kept = [i for i, (start, end) in enumerate(words) if not text[start:end].isspace() and end > start]
        if len(kept) != len(words):  # tokens of white space alone are not words
            first_tokens = [first_tokens[i] for i in kept]
            words = [words[i] for i in kept]
        words = _trimmed(text, words)
        return Encoded(
            ids, first_tokens, words, truncated, ids.count(self.unknown_id) if self.unknown_id is not None else 0
        )

    def _join_words(self, text: str, cache: dict[str, WordTokens]) -> Encoded | None:
        """Encode a plain text from the tokens of its words; None if a word can't be cached or the text is too long."""
        ids = [*self._front]
        first_tokens: list[int] = []
        words: list[tuple[int, int]] = []
        start = unknown = 0
        for word in text.split(" "):
            tokens = cache.get(word) or (len(word) <= MAX_WORD_LENGTH and self._cache_word(word, cache))
            if not tokens or not tokens.ids:
                return None
            first_tokens.append(len(ids))
            ids += tokens.ids
            unknown += tokens.unknown
            end = start + len(word)
            words.append((start, end))
            start = end + 1
        if len(ids) > self.max_length:
            return None
        return Encoded(ids, first_tokens, words, False, unknown)

    def _cache_word(self, word: str, cache: dict[str, WordTokens]) -> WordTokens:
        alone = self.encode_whole(word)
        front = len(self._front)
        whole = not alone.truncated and alone.words == [(0, len(word))] and alone.first_tokens == [front]
        if len(cache) >= MAX_CACHED_WORDS:
            cache.clear()
        tokens = cache[word] = WordTokens(alone.ids[front:] if whole else [], alone.unknown)
        return tokens


def pipeline_of(tokenizer: Tokenizer) -> str:
    """Digest of a tokenizer's normaliser and pre-tokenizer, as 12 hex digits."""
    content = json.loads(tokenizer.to_str())
    parts = json.dumps([content["normalizer"], content["pre_tokenizer"]], sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()[:12]


def _trimmed(text: str, words: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The words without white space at their edges, each from the end of the last one on.

    A token's offsets include the space before its word, or the mark after which the normaliser put a space.
    """
    trimmed = []
    last = 0
    for start, end in words:
        if start < last < end:
            start = last
        word = text[start:end]
        start, last = end - len(word.lstrip()), start + len(word.rstrip())
        trimmed.append((start, last))
    return trimmed
