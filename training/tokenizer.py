"""Train the shared unigram tokenizer.

python -m training.tokenizer --data DIR --locales de-DE,en-US --corpus TEXTS --out tokenizer.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from training.data import datasets
from training.runs.flags import listed, new_parser
from training.text.corpus import CorpusError
from training.text.tokenizer import VOCABULARY, save_tokenizer, spread_lines, train_tokenizer, with_variants


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    whole = new_parser("training.tokenizer", "Train the shared unigram tokenizer.")
    add = whole.add_argument
    add("--data", help="labelled data whose training texts are read: folder, tarball, file or hub:NAME (default: none)")
    add("--locales", default="", help="comma-separated locales of --data (default: all)")
    corpus = "plain text: comma-separated files, folders or hub:NAME (default: none)"
    add("--corpus", default="", metavar="FILES", help=corpus)
    lines = "lines of --corpus that are read, evenly spread (default: %(default)s)"
    add("--tokenizer-lines", type=int, default=300_000, metavar="LINES", help=lines)
    size = "maximum size, in tokens (default: %(default)s)"
    add("--vocabulary", type=int, default=VOCABULARY, metavar="TOKENS", help=size)
    add("--out", type=Path, required=True, metavar="FILE", help="tokenizer.json to write")
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    args = parser().parse_args(argv)
    try:
        if not args.data and not args.corpus:
            raise CorpusError("no text: give --data, --corpus or both")
        locales = listed(args.locales) or None
        texts = with_variants(datasets.load(args.data, locales).part("train", locales)) if args.data else []
        texts += spread_lines(listed(args.corpus), args.tokenizer_lines) if args.corpus else []
        tokenizer = train_tokenizer(texts, args.vocabulary)
        save_tokenizer(tokenizer, args.out)
    except (datasets.DatasetError, CorpusError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    tokens = sum(len(encoding.ids) - 1 for encoding in tokenizer.encode_batch_fast(texts))
    ratio = round(tokens / max(1, sum(len(text.split()) for text in texts)), 3)
    summary = {"pieces": tokenizer.get_vocab_size(), "texts": len(texts), "pieces_per_word": ratio}
    print(json.dumps({"tokenizer": str(args.out), **summary}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
