"""Train the shared unigram tokenizer.

python -m training.tokenizer --data DIR --locales de-DE,en-US --corpus TEXTS --out tokenizer.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from training.data.datasets import DatasetError
from training.text.corpus import CorpusError
from training.text.tokenizer import VOCABULARY, save_tokenizer, spread_lines, task_texts, train_tokenizer


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m training.tokenizer", description="Train the shared unigram tokenizer."
    )
    parser.add_argument("--data", help="labelled data whose training texts are read: folder, tarball, file or hub:NAME")
    parser.add_argument("--locales", help="comma-separated locales of --data, all by default")
    parser.add_argument("--corpus", default="", help="comma-separated text files, folders of them or hub:NAME")
    parser.add_argument("--corpus-lines", type=int, default=300_000, help="evenly spread, that are read (%(default)s)")
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY, help="pieces at most (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="tokenizer.json to write")
    args = parser.parse_args(argv)
    if not args.data and not args.corpus:
        parser.error("no text: give --data, --corpus or both")
    try:
        texts = task_texts(args.data, args.locales) if args.data else []
        texts += spread_lines(args.corpus.split(","), args.corpus_lines) if args.corpus else []
        tokenizer = train_tokenizer(texts, args.vocabulary)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        save_tokenizer(tokenizer, args.out)
    except (DatasetError, CorpusError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    encodings = tokenizer.encode_batch_fast(texts)
    words = sum(len(text.split()) for text in texts)
    summary = {
        "tokenizer": str(args.out),
        "pieces": tokenizer.get_vocab_size(),
        "texts": len(texts),
        "pieces_per_word": round(sum(len(e.ids) - 1 for e in encodings) / max(1, words), 3),
    }
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
