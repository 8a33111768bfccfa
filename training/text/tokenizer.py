"""The shared unigram tokenizer.

Its file holds everything that the service needs: normaliser (NFKC, lower case, single spaces), the split into words
that carry slot tags, the pieces, and the [CLS] in front.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors, trainers
from tokenizers import models as tokenizer_models

from service.student.tokenization import UNKNOWN, TextEncoder
from training.data.augmentation import augment
from training.data.files import write_atomically
from training.data.utterances import Utterance
from training.text.corpus import read_lines

PAD, CLS, MASK = "[PAD]", "[CLS]", "[MASK]"
SPECIAL_PIECES = (PAD, UNKNOWN, CLS, MASK)
VOCABULARY = 16_000
# Names of (padding, unknown, first, mask): this project's and BERT's, then RoBERTa's and XLM-R's
_NAMINGS = (SPECIAL_PIECES, ("<pad>", "<unk>", "<s>", "<mask>"))

# A word is a run between spaces, less the punctuation at its edges: "Uhr!" is two words, "l'album" and "9:30" are one.
# The dot of an abbreviation ("p. m.", "b. b. c.") and a trailing apostrophe ("dell' amore") stay with their letter.
# Characters of scripts written without spaces are words of their own, as MASSIVE scores Japanese and Chinese.
# "▁" is the space in front of a word; it stays with what follows.
_LETTER = r"\p{L}\p{N}\p{M}"
_KEPT = rf"(?<=[^{_LETTER}]\p{{L}})\.(?![{_LETTER}])|(?<=\p{{L}})'(?![{_LETTER}])"
_EDGE = rf"▁?(?:(?<![{_LETTER}])[^{_LETTER}▁]|[^{_LETTER}▁](?![{_LETTER}]))"
WORD_SPLIT = rf"(?!{_KEPT}){_EDGE}|▁?[\p{{Han}}\p{{Hiragana}}\p{{Katakana}}ー]"


class SpecialIds(NamedTuple):
    """Ids of the special pieces; `protected` are all of them, those that close a text as well, in order."""

    pad: int
    unknown: int
    first: int
    mask: int
    protected: tuple[int, ...]


def special_ids(tokenizer: Tokenizer) -> SpecialIds:
    """The special pieces of a tokenizer of this project or of a Hugging Face encoder.

    Raises ValueError: one of them is missing.
    """
    for names in _NAMINGS:
        ids = [tokenizer.token_to_id(name) for name in names]
        if None not in ids:
            added = (i for i, piece in tokenizer.get_added_tokens_decoder().items() if piece.special)
            closing = tokenizer.encode("").ids  # what the post-processor puts around every text
            return SpecialIds(ids[0], ids[1], ids[2], ids[3], tuple(sorted({*ids, *added, *closing})))
    allowed = " or ".join(", ".join(names) for names in _NAMINGS)
    raise ValueError(f"the tokenizer lacks special pieces; allowed: {allowed}")


def new_tokenizer() -> Tokenizer:
    """An untrained tokenizer with the project's normaliser and word split."""
    tokenizer = Tokenizer(tokenizer_models.Unigram())
    apostrophes = normalizers.Replace(Regex("[’‘ʼ]"), "'")
    spaces = normalizers.Replace(Regex(r"[\s\p{Cc}\u200b]+"), " ")
    lower = normalizers.Lowercase()
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), lower, apostrophes, spaces, normalizers.Strip()])
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    words = pre_tokenizers.Split(Regex(WORD_SPLIT), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([metaspace, words])
    return tokenizer


def train_tokenizer(texts: Iterable[str], vocabulary: int = VOCABULARY) -> Tokenizer:
    """A unigram tokenizer (Kudo 2018) of at most `vocabulary` pieces; small corpora give fewer.

    The same texts give the same tokenizer.
    """
    tokenizer = new_tokenizer()
    special = {"special_tokens": list(SPECIAL_PIECES), "unk_token": UNKNOWN}
    trainer = trainers.UnigramTrainer(vocab_size=vocabulary, show_progress=False, **special)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer = _in_canonical_order(tokenizer)
    first = [(CLS, tokenizer.token_to_id(CLS))]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{CLS} $A", special_tokens=first)
    return tokenizer


def _in_canonical_order(tokenizer: Tokenizer) -> Tokenizer:
    """The same pieces with ids that depend on the texts alone.

    The trainer walks hash maps: sums differ in their last digits from run to run, and characters that it pruned and
    must put back get the lowest scores in random order.
    """
    content = json.loads(tokenizer.to_str())
    vocabulary: list[tuple[str, float]] = content["model"]["vocab"]
    special, pieces = vocabulary[: len(SPECIAL_PIECES)], dict(vocabulary[len(SPECIAL_PIECES) :])
    floor = min((score for piece, score in pieces.items() if len(piece) > 1), default=0.0)
    put_back = sorted(piece for piece, score in pieces.items() if len(piece) == 1 and score < floor)
    scores = sorted((pieces[piece] for piece in put_back), reverse=True)
    pieces.update(zip(put_back, scores, strict=True))
    rounded = ((piece, round(score, 9)) for piece, score in pieces.items())
    content["model"]["vocab"] = [*special, *sorted(rounded, key=lambda entry: (-entry[1], entry[0]))]
    return Tokenizer.from_str(json.dumps(content))


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a `tokenizer.json`. Raises ValueError, naming the file, when it is none."""
    return TextEncoder.from_file(path, sys.maxsize).tokenizer


def spread_lines(sources: Sequence[str], most: int) -> list[str]:
    """About `most` lines of a text, evenly spread over it: a tokenizer's training needs no more."""
    if most < 1:
        return []
    step = max(1, sum(1 for _ in read_lines(sources)) // most)
    return list(islice(read_lines(sources), 0, None, step))


def with_variants(utterances: Sequence[Utterance], seed: int = 1) -> list[str]:
    """The texts of utterances, then a typed variant of each (for capitals, marks and digits)."""
    rng = random.Random(seed)
    return [u.text for u in utterances] + [augment(u, rng, 1.0).text for u in utterances]


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write a `tokenizer.json`, whole or not at all."""
    write_atomically(path, tokenizer.to_str(pretty=True).encode())
