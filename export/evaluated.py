"""The text that an export is judged on: labelled utterances, candidates for golden sentences, and text for scope."""

from __future__ import annotations

import argparse
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from export.scope import read_outside
from training.data import datasets
from training.data.utterances import Utterance
from training.text.tokenizer import spread_lines, with_variants

log = logging.getLogger("export.onnx")

TRAINING_TEXTS = 3000  # of each locale, that class means are fitted on
TRIM_LINES = 200_000  # of --trim-text, evenly spread


@dataclass(frozen=True)
class Evaluated:
    """The utterances that the export is judged on, and where golden sentences come from.

    `train` are some of the source's training partition, `outside` texts that are no requests, by locale and source.
    `vocabulary` are the texts that a trimmed vocabulary must do for: none unless one is asked for.
    """

    source: str
    partition: str
    utterances: list[Utterance]
    golden: list[Utterance]
    train: list[Utterance]
    outside: dict[str, dict[str, list[str]]]
    vocabulary: list[str] = field(default_factory=list)


def read_data(args: argparse.Namespace, locales: Sequence[str]) -> Evaluated:
    """The evaluation partition in the student's locales, candidates for golden sentences, and text for scope.

    Raises:
        DatasetError: a locale is missing.
        ExportError, CorpusError: text that is no request can't be read.
    """
    outside = read_outside(args.out_of_scope, locales) if args.calibration else {}
    dataset = datasets.load(args.data, locales, args.on_error)
    utterances = dataset.part(args.partition, locales)
    golden: list[Utterance] = []
    train: list[Utterance] = []
    for locale in dict.fromkeys(u.locale for u in utterances):
        of_locale = [u for u in dataset.utterances if u.partition == "train" and u.locale == locale]
        train += random.Random(0).sample(of_locale, min(TRAINING_TEXTS, len(of_locale)))
        try:
            golden += datasets.load(args.golden, [locale], args.on_error).part("dev", [locale])
        except datasets.DatasetError:
            log.warning(
                "%s has no %s: golden sentences of %s will stand in the manifest", args.golden, locale, args.data
            )
            golden += [u for u in utterances if u.locale == locale][:200]
    vocabulary: list[str] = []
    if args.locales:
        vocabulary = with_variants([u for u in dataset.utterances if u.partition == "train"])
        vocabulary += spread_lines(args.trim_text.split(","), TRIM_LINES) if args.trim_text else []
    return Evaluated(Path(args.data).name, args.partition, utterances, golden, train, outside, vocabulary)
