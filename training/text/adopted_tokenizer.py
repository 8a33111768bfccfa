"""The tokenizer of an adopted encoder: its tokens, behind the project's normaliser and word split.

A hub tokenizer keeps "Uhr!" together, so slot values would carry punctuation. Here the project's normaliser and split
stand in front of the encoder's tokens, special tokens have the project's names, and a text ends without a closing
token. The vocabulary can be cut to the tokens that chosen texts use most.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

from service.student.tokenization import UNKNOWN
from training.text.tokenizer import (
    SPECIAL_TOKENS,
    WORD_SPLIT,
    new_tokenizer,
    normaliser,
    special_ids,
    with_first_token,
)

UNIGRAM, WORDPIECE, BYTE_BPE = "Unigram", "WordPiece", "BPE"
# Single characters of these code points, Latin letters, marks and digits, are kept although the texts lack them
LATIN = range(0x250)
CHUNK = 10_000  # texts tokenised at a time

# WordPiece marks what continues a word, not where it begins, so words come without a space in front, and the beginning
# of a word is that of the text
_WORDS_ALONE = WORD_SPLIT.replace(r"(?<=[^\p{L}\p{N}\p{M}]\p{L})", r"(?<=^\p{L}|[^\p{L}\p{N}\p{M}]\p{L})")
_WORDS_WITH_SPACE = WORD_SPLIT.replace("▁", " ")


class AdoptedTokenizer(NamedTuple):
    """A tokenizer, and for each of its ids the encoder's own id: the row of its token table."""

    tokenizer: Tokenizer
    rows: list[int]


def adopted_tokenizer(source: Tokenizer) -> AdoptedTokenizer:
    """The tokens of a hub tokenizer behind the project's normaliser and word split.

    Raises ValueError: it is of another kind than Unigram (SentencePiece), WordPiece and byte-level BPE, or lacks a
    special token.
    """
    content = json.loads(source.to_str())
    kind = content["model"]["type"]
    if kind not in (UNIGRAM, WORDPIECE, BYTE_BPE) or (kind == BYTE_BPE and "ByteLevel" not in json.dumps(content)):
        raise ValueError(f"a tokenizer of kind {kind}; allowed: {UNIGRAM}, {WORDPIECE}, byte-level {BYTE_BPE}")
    special = special_ids(source)
    added = {token.content for token in source.get_added_tokens_decoder().values() if token.special}
    names = _names(content["model"])
    tokens = [(name, old) for old, name in names if name not in added]
    rows = [special.pad, special.unknown, special.first, special.mask, *(old for _, old in tokens)]
    base = json.loads(_pipeline(kind, source).to_str())
    model = _model_of(content["model"], [name for name, _ in tokens])
    tokenizer = Tokenizer.from_str(json.dumps({**base, "model": model}))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return AdoptedTokenizer(with_first_token(tokenizer), rows)


def most_used(adopted: AdoptedTokenizer, texts: Iterable[str], count: int) -> AdoptedTokenizer:
    """The tokenizer with `count` tokens: the special ones, single characters, and those that the texts use most.

    Single characters are those of the texts, and Latin ones.

    Raises ValueError: a byte-level BPE vocabulary, whose merges depend on each other, can't be cut.
    """
    content = json.loads(adopted.tokenizer.to_str())
    if content["model"]["type"] == BYTE_BPE:
        raise ValueError("a byte-level BPE vocabulary can't be cut; leave --tokens out")
    uses: Counter[int] = Counter()
    rest = iter(texts)
    while chunk := list(islice(rest, CHUNK)):
        for encoding in adopted.tokenizer.encode_batch_fast(chunk):
            uses.update(encoding.ids)
    ids = range(len(SPECIAL_TOKENS), len(adopted.rows))
    names = [adopted.tokenizer.id_to_token(number) for number in range(len(adopted.rows))]
    single = {number for number in ids if _is_single(names[number]) and (uses[number] or _is_latin(names[number]))}
    ranked = sorted((number for number in ids if number not in single), key=lambda number: (-uses[number], number))
    kept = sorted({*single, *ranked[: _room(count, len(single))]})
    rows = [adopted.rows[number] for number in (*range(len(SPECIAL_TOKENS)), *kept)]
    content["model"] = _model_of(content["model"], [names[number] for number in kept])
    return AdoptedTokenizer(Tokenizer.from_str(json.dumps(content)), rows)


def tokens_per_word(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """Tokens of a text's words, without the first token, for each word."""
    tokens = words = 0
    for encoding in tokenizer.encode_batch(list(texts)):
        found = [word for word in encoding.word_ids if word is not None]
        tokens, words = tokens + len(found), words + len(set(found))
    return tokens / max(1, words)


def _room(count: int, single: int) -> int:
    room = count - len(SPECIAL_TOKENS) - single
    if room < 0:
        least = len(SPECIAL_TOKENS) + single
        raise ValueError(f"--tokens {count}: special tokens and single characters alone are {least}; allowed: more")
    return room


def _is_single(name: str) -> bool:
    return len(name.removeprefix("##")) == 1 or name == "▁"


def _is_latin(name: str) -> bool:
    return name == "▁" or ord(name.removeprefix("##")) in LATIN


def _names(model: dict[str, Any]) -> list[tuple[int, str]]:
    """(id, token) of a tokenizer's model, by id."""
    if model["type"] == UNIGRAM:
        return [(number, name) for number, (name, _) in enumerate(model["vocab"])]
    return sorted((number, name) for name, number in model["vocab"].items())


def _model_of(model: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The tokenizer's model with the special tokens and these."""
    if model["type"] == UNIGRAM:
        scores = dict(map(tuple, model["vocab"]))
        scored = [*((name, 0.0) for name in SPECIAL_TOKENS), *((name, scores[name]) for name in names)]
        return {**model, "vocab": scored, "unk_id": SPECIAL_TOKENS.index(UNKNOWN)}
    numbered = {name: number for number, name in enumerate((*SPECIAL_TOKENS, *names))}
    return {**model, "vocab": numbered, "unk_token": UNKNOWN}


def _pipeline(kind: str, source: Tokenizer) -> Tokenizer:
    """An empty tokenizer with the project's normaliser and word split, as tokens of a kind need them."""
    tokenizer = new_tokenizer()
    if kind == WORDPIECE:
        stripped = '"strip_accents": true' in json.dumps(json.loads(source.to_str())["normalizer"])
        more = [normalizers.NFD(), normalizers.StripAccents()] if stripped or _is_uncased(source) else []
        tokenizer.normalizer = normaliser(*more)
        words = pre_tokenizers.Split(Regex(_WORDS_ALONE), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), words])
    elif kind == BYTE_BPE:
        tokenizer.normalizer = normaliser(normalizers.Prepend(" "))
        spaces = pre_tokenizers.Split(" ", "merged_with_next")
        words = pre_tokenizers.Split(Regex(_WORDS_WITH_SPACE), "isolated")
        in_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([spaces, words, in_bytes])
    return tokenizer


def _is_uncased(source: Tokenizer) -> bool:
    """Whether a BERT normaliser lowers the case, and so strips accents unless told otherwise."""
    found = json.loads(source.to_str())["normalizer"] or {}
    parts = found.get("normalizers", [found])
    return any(part.get("lowercase") and part.get("strip_accents") in (None, True) for part in parts)
