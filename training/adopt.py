"""Adopt a pretrained encoder: a BERT, RoBERTa, XLM-R, DistilBERT or CamemBERT becomes a checkpoint of this project.

    python -m training.adopt --encoder intfloat/multilingual-e5-small --out CKPT
    python -m training.adopt --encoder FOLDER --tokens 16000 --data MASSIVE --texts TEXT --out CKPT

`training.finetune`, `training.pretrain` and `training.distill` take the checkpoint like any other. The last line of
standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from service.extras import require
from training.runs.flags import file_names, listed, new_parser

COMMAND = "training.adopt"


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = new_parser(COMMAND, "A pretrained encoder becomes a checkpoint of this project.")
    add = parser.add_argument
    add("--encoder", required=True, metavar="NAME", help="folder of a Hugging Face encoder, or its name on the hub")
    add("--revision", default="", metavar="SHA", help="commit, branch or tag on the hub (default: the newest)")
    add("--layers", type=_numbers, default=[], metavar="NUMBERS", help="comma-separated, from 1 (default: all)")
    add("--tokens", type=int, default=0, metavar="TOKENS", help="vocabulary to keep, in tokens (default: all)")
    add(
        "--texts",
        default="",
        metavar="FILES",
        help="plain text in which --tokens are counted (default: none)",
    )
    add(
        "--data",
        default="",
        metavar="DATA",
        help="labelled data in whose training texts, too (default: none)",
    )
    add("--locales", default="", metavar="LOCALES", help="comma-separated locales of --data (default: all)")
    add("--out", type=Path, required=True, metavar="CKPT", help="checkpoint folder to write")
    add("--force", action="store_true", help="overwrite --out")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    flags = parser()
    args = flags.parse_args(argv)
    if bool(args.tokens) != bool(args.texts or args.data):
        flags.error("--tokens: needs --texts or --data, in which the tokens are counted, and they need --tokens")
    require("training")
    from training.models.adoption import adopt  # PyTorch is not needed for --help
    from training.models.checkpoint import save_checkpoint
    from training.runs.loop import source_commit
    from training.runs.start import is_untouched, report

    def run() -> dict[str, object]:
        if not is_untouched(args.out) and not args.force:
            raise ValueError(f"{args.out}: is not empty; choose another --out, empty it, or --force")
        found = adopt(args.encoder, args.revision, args.layers, args.tokens, _texts(args))
        total, outside = found.model.count_parameters()
        facts = {"command": COMMAND, **found.facts, "parameters": total, "outside_embeddings": outside}
        settings = {
            "encoder": Path(args.encoder).resolve().name if Path(args.encoder).is_dir() else args.encoder,
            "revision": args.revision,
            "layers": ",".join(map(str, args.layers)),
            "tokens": args.tokens or "",
            "texts": file_names(args.texts),
            "data": Path(args.data).name,
            "locales": args.locales,
        }
        training = {**facts, "encoder": settings["encoder"], "settings": settings, "commit": source_commit()}
        save_checkpoint(args.out, found.model, found.vocabulary.tokenizer, training)
        return {"checkpoint": str(args.out), **facts}

    return report(run)


def _texts(args: argparse.Namespace) -> Iterator[str]:
    """The training texts of --data, and the lines of --texts."""
    from training.data.datasets import load
    from training.text.corpus import read_lines

    if args.data:
        locales = listed(args.locales) or None
        yield from (utterance.text for utterance in load(args.data, locales).part("train", locales))
    if args.texts:
        yield from read_lines(listed(args.texts))


def _numbers(text: str) -> list[int]:
    parts = listed(text)
    if wrong := [part for part in parts if not part.isdecimal()]:
        raise argparse.ArgumentTypeError(f"{', '.join(wrong)}; allowed: numbers of layers, such as 2,4,6")
    return [int(part) for part in parts]


if __name__ == "__main__":
    sys.exit(main())
