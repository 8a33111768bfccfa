"""The shared unigram tokenizer.

Its file holds everything that the service needs: normaliser, the split into words that carry slot tags, the tokens, and
the [CLS] in front.
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
SPECIAL_TOKENS = (PAD, UNKNOWN, CLS, MASK)
VOCABULARY = 16_000
# Names of (padding, unknown, first, mask): this project's and BERT's, then RoBERTa's and XLM-R's
_NAMINGS = (SPECIAL_TOKENS, ("<pad>", "<unk>", "<s>", "<mask>"))

# A word is a run between spaces, less the punctuation at its edges: "Uhr!" is two words, "l'album" and "9:30" are one.
# The dot of an abbreviation ("p. m.", "b. b. c.") and a trailing apostrophe ("dell' amore") stay with their letter.
# Characters of scripts written without spaces are words of their own, as MASSIVE scores Japanese and Chinese.
# "▁" is the space in front of a word; it stays with what follows.
_LETTER = r"\p{L}\p{N}\p{M}"
_KEPT = rf"(?<=[^{_LETTER}]\p{{L}})\.(?![{_LETTER}])|(?<=\p{{L}})'(?![{_LETTER}])"
_EDGE = rf"▁?(?:(?<![{_LETTER}])[^{_LETTER}▁]|[^{_LETTER}▁](?![{_LETTER}]))"
WORD_SPLIT = rf"(?!{_KEPT}){_EDGE}|▁?[\p{{Han}}\p{{Hiragana}}\p{{Katakana}}ー]"

# Format characters (Unicode category Cf: soft hyphen, zero-width space, joiners, byte-order mark, marks of direction),
# variation selectors and fillers: nobody sees them, so they are no part of a word
_INVISIBLE = r"[\p{Cf}\p{Default_Ignorable_Code_Point}]"
_APOSTROPHES = "[’‘‛ʼ´`′]"
_QUOTES = "[“”„‟«»‹›‚❝❞「」『』〝〞〟]"
_HYPHENS = "[‐‑‒–—―−]"
# Between a mark in front of a word and the word: "¿qué" and "$5" have the tokens of "qué" and "5", as after a space
_AFTER_OPENING_MARK = rf"(?<=^[^{_LETTER}\s]|[^{_LETTER}][^{_LETTER}\s])(?=[\p{{L}}\p{{N}}])"


class SpecialIds(NamedTuple):
    """Ids of the special tokens; `protected` are all of them in order, including those that end a text."""

    pad: int
    unknown: int
    first: int
    mask: int
    protected: tuple[int, ...]


def special_ids(tokenizer: Tokenizer) -> SpecialIds:
    """The special tokens of a tokenizer of this project or of a Hugging Face encoder.

    Raises ValueError: one of them is missing.
    """
    for names in _NAMINGS:
        ids = [tokenizer.token_to_id(name) for name in names]
        if None not in ids:
            added = (i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special)
            closing = tokenizer.encode("").ids  # what the post-processor adds to every text
            return SpecialIds(ids[0], ids[1], ids[2], ids[3], tuple(sorted({*ids, *added, *closing})))
    allowed = " or ".join(", ".join(names) for names in _NAMINGS)
    raise ValueError(f"the tokenizer lacks special tokens; allowed: {allowed}")


def normaliser(*more: normalizers.Normalizer) -> normalizers.Normalizer:
    """The project's normaliser, then `more`: what can be typed in several ways becomes one.

    NFKC and lower case; no invisible characters, inside words either; one kind of apostrophe, quotation mark and
    hyphen; "…", "..." and "!!" as "." and "!"; single spaces, also after a mark in front of a word. MASSIVE's text has
    the same tokens as with NFKC, lower case and single spaces alone, but for about one utterance in a thousand.
    """
    first = {_INVISIBLE: "", _APOSTROPHES: "'", _QUOTES: '"'}  # before NFKC, which splits "´" into space and accent
    then = {_HYPHENS: "-", r"\.{2,}": ". ", r"([!?])(?=\1)": "", _AFTER_OPENING_MARK: " ", r"[\s\p{Cc}]+": " "}
    before, after = (
        [normalizers.Replace(Regex(pattern), content) for pattern, content in replaced.items()]
        for replaced in (first, then)
    )
    parts = [*before, normalizers.NFKC(), normalizers.Lowercase(), *after, normalizers.Strip(), *more]
    return normalizers.Sequence(parts)


def new_tokenizer() -> Tokenizer:
    """An untrained tokenizer with the project's normaliser and word split."""
    tokenizer = Tokenizer(tokenizer_models.Unigram())
    tokenizer.normalizer = normaliser()
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    words = pre_tokenizers.Split(Regex(WORD_SPLIT), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([metaspace, words])
    return tokenizer


def train_tokenizer(texts: Iterable[str], vocabulary: int = VOCABULARY) -> Tokenizer:
    """A unigram tokenizer (Kudo 2018) of at most `vocabulary` tokens; small corpora give fewer.

    The same texts give the same tokenizer.
    """
    tokenizer = new_tokenizer()
    special = {"special_tokens": list(SPECIAL_TOKENS), "unk_token": UNKNOWN}
    trainer = trainers.UnigramTrainer(vocab_size=vocabulary, show_progress=False, **special)
    tokenizer.train_from_iterator(texts, trainer)
    return with_first_token(_in_canonical_order(tokenizer))


def with_first_token(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer, which then puts [CLS] in front of each text."""
    first = [(CLS, tokenizer.token_to_id(CLS))]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{CLS} $A", special_tokens=first)
    return tokenizer


def _in_canonical_order(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokens with ids that depend on the texts alone.

    The trainer iterates over hash maps: sums differ in their last digits between runs, and characters that it pruned
    and adds again get the lowest scores in random order.
    """
    content = json.loads(tokenizer.to_str())
    vocabulary: list[tuple[str, float]] = content["model"]["vocab"]
    special, tokens = vocabulary[: len(SPECIAL_TOKENS)], dict(vocabulary[len(SPECIAL_TOKENS) :])
    floor = min((score for token, score in tokens.items() if len(token) > 1), default=0.0)
    put_back = sorted(token for token, score in tokens.items() if len(token) == 1 and score < floor)
    scores = sorted((tokens[token] for token in put_back), reverse=True)
    tokens.update(zip(put_back, scores, strict=True))
    rounded = ((token, round(score, 9)) for token, score in tokens.items())
    content["model"]["vocab"] = [*special, *sorted(rounded, key=lambda entry: (-entry[1], entry[0]))]
    return Tokenizer.from_str(json.dumps(content))


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a `tokenizer.json`. Raises ValueError, naming the file, when it is none."""
    return TextEncoder.from_file(path, sys.maxsize).tokenizer


def spread_lines(sources: Sequence[str], count: int) -> list[str]:
    """About `count` lines of a text, evenly spread over it."""
    if count < 1:
        return []
    step = max(1, sum(1 for _ in read_lines(sources)) // count)
    return list(islice(read_lines(sources), 0, None, step))


def with_variants(utterances: Sequence[Utterance], seed: int = 1) -> list[str]:
    """The texts of utterances, then a typed variant of each (for capitals, marks and digits)."""
    rng = random.Random(seed)
    return [u.text for u in utterances] + [augment(u, rng, 1.0).text for u in utterances]


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write a `tokenizer.json` atomically."""
    write_atomically(path, tokenizer.to_str(pretty=True).encode())
