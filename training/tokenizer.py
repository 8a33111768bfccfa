"""Train the shared unigram tokenizer.

    python -m training.tokenizer --data DIR --locales de-DE,en-US --out tokenizer.json

Its file holds everything that the service needs: normaliser (NFKC, lower case, single spaces), the split into words
that carry slot tags, the pieces, and the [CLS] in front.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors, trainers
from tokenizers import models as tokenizer_models

from service.tokenization import UNKNOWN
from training import datasets

PAD, CLS, MASK = "[PAD]", "[CLS]", "[MASK]"
SPECIAL_PIECES = (PAD, UNKNOWN, CLS, MASK)
VOCABULARY = 16_000

# A word is a run between spaces, less the punctuation at its edges: "Uhr!" is two words, "l'album" and "9:30" are one.
# The dot of an abbreviation ("p. m.", "b. b. c.") and a trailing apostrophe ("dell' amore") stay with their letter.
# Characters of scripts written without spaces are words of their own, as MASSIVE scores Japanese and Chinese.
# "▁" is the space in front of a word; it stays with what follows.
_LETTER = r"\p{L}\p{N}\p{M}"
_KEPT = rf"(?<=[^{_LETTER}]\p{{L}})\.(?![{_LETTER}])|(?<=\p{{L}})'(?![{_LETTER}])"
_EDGE = rf"▁?(?:(?<![{_LETTER}])[^{_LETTER}▁]|[^{_LETTER}▁](?![{_LETTER}]))"
WORD_SPLIT = rf"(?!{_KEPT}){_EDGE}|▁?[\p{{Han}}\p{{Hiragana}}\p{{Katakana}}ー]"


def new_tokenizer() -> Tokenizer:
    """An untrained tokenizer with the project's normaliser and word split."""
    tokenizer = Tokenizer(tokenizer_models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex("[’‘ʼ]"), "'"),
            normalizers.Replace(Regex(r"[\s\p{Cc}\u200b]+"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always"),
            pre_tokenizers.Split(Regex(WORD_SPLIT), "isolated"),
        ]
    )
    return tokenizer


def train_tokenizer(texts: Iterable[str], vocabulary: int = VOCABULARY) -> Tokenizer:
    """A unigram tokenizer (Kudo 2018) of at most `vocabulary` pieces; small corpora give fewer.

    The same texts give the same tokenizer.
    """
    tokenizer = new_tokenizer()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIAL_PIECES), unk_token=UNKNOWN, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer = _in_canonical_order(tokenizer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A", special_tokens=[(CLS, tokenizer.token_to_id(CLS))]
    )
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


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m training.tokenizer", description="Train the shared unigram tokenizer."
    )
    parser.add_argument("--data", required=True, help="data set: folder, tarball, file or hub:NAME")
    parser.add_argument("--locales", help="comma-separated, all by default")
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY, help="pieces at most (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="tokenizer.json to write")
    args = parser.parse_args(argv)
    locales = args.locales.split(",") if args.locales else None
    try:
        texts = [u.text for u in datasets.load(args.data, locales).part("train", locales)]
    except datasets.DatasetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    tokenizer = train_tokenizer(texts, args.vocabulary)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(args.out))
    encodings = tokenizer.encode_batch(texts)
    words = sum(len(text.split()) for text in texts)
    print(
        json.dumps(
            {
                "tokenizer": str(args.out),
                "pieces": tokenizer.get_vocab_size(),
                "texts": len(texts),
                "pieces_per_word": round(sum(len(e.ids) - 1 for e in encodings) / words, 3),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
