"""The data sets of a search: their names, size cuts and features."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from training.check.classifier import MAX_ITERATIONS, REGULARISATION, TOLERANCE, features_of
from training.data import datasets
from training.data.datasets import DatasetError
from training.data.labels import HEADS, labels_of
from training.data.utterances import Utterance
from training.runs.finetuning import Data, is_labelled
from training.text.held_out import HeldOut

MAX_DEV = 500  # utterances that a trial is scored on
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
LOCALE = re.compile(r"[a-z]{2,3}-[A-Z]{2}")
DOMAIN = "domain="
ALLOWED = "NAME=DATA[:LOCALE][:ROWS][:domain=DOMAIN]"


@dataclass(frozen=True)
class DataSet:
    """A data set by name: its source, and what is taken of it ("" and 0: everything).

    `rows` are training utterances, the same ones in each larger cut.
    """

    name: str
    source: str
    locale: str = ""
    rows: int = 0
    domain: str = ""

    @classmethod
    def parse(cls, text: str) -> DataSet:
        """The data set of a --data. Raises ValueError: it is not written as `ALLOWED`."""
        name, _, rest = text.partition("=")
        taken: dict[str, Any] = {}
        while ":" in rest:
            before, _, last = rest.rpartition(":")
            if last.isdecimal() and int(last) and "rows" not in taken:
                taken["rows"] = int(last)
            elif LOCALE.fullmatch(last) and "locale" not in taken:
                taken["locale"] = last
            elif last.startswith(DOMAIN) and last != DOMAIN and "domain" not in taken:
                taken["domain"] = last.removeprefix(DOMAIN)
            else:
                break
            rest = before
        if not NAME.fullmatch(name) or not rest:
            raise ValueError(f"{text!r}; allowed: {ALLOWED}, with a name of letters, digits, '.', '_' and '-'")
        return cls(name, rest, **taken)

    def facts(self) -> dict[str, Any]:
        """What identifies the data set in a study, without the place where it lies."""
        return {"source": Path(self.source).name, "locale": self.locale, "rows": self.rows, "domain": self.domain}


@dataclass(frozen=True)
class Loaded:
    """A data set in memory, with its features."""

    name: str
    data: Data
    features: dict[str, float | None]


def load(asked: DataSet) -> Loaded:
    """Read a data set and cut it. Labels are those of the training utterances that are left.

    Raises DatasetError: it can't be read, or nothing is left for training or dev.
    """
    dataset = datasets.load(asked.source, [asked.locale] if asked.locale else None)
    found = [u for u in dataset.utterances if not asked.domain or u.domain == asked.domain]
    parts = {}
    for partition, most in (("train", asked.rows), ("dev", MAX_DEV)):
        rows = [u for u in found if u.partition == partition and is_labelled(u, HEADS)]
        if len(rows) < max(1, asked.rows if partition == "train" else 1):
            there = f"{len(rows)} utterances of {partition}" + (f" in {asked.domain}" if asked.domain else "")
            raise DatasetError(f"{asked.name}: {asked.source} has {there}; asked: {asked.rows or 'one or more'}")
        order = random.Random(0).sample(range(len(rows)), len(rows))  # cuts of any size begin alike
        parts[partition] = [rows[i] for i in sorted(order[: most or None])]
    train, dev = parts["train"], parts["dev"]
    labels = labels_of(train, HEADS)
    if not labels.heads:
        raise DatasetError(f"{asked.name}: {asked.source} has no labels")
    served = sorted({u.locale for u in train} & {u.locale for u in dev})
    dev = [u for u in dev if u.locale in served]
    if not dev:
        raise DatasetError(f"{asked.name}: {asked.source} has no dev utterance in a locale of its training utterances")
    data = Data(train, dev, served, labels, dataset.skipped, HeldOut(found))
    return Loaded(asked.name, data, features(train, dev))


def features(train: Sequence[Utterance], dev: Sequence[Utterance]) -> dict[str, float | None]:
    """What a data set is like: sizes, entropy (nats), words, and the accuracy of a bag of words (percent).

    The latter is logistic regression on TF-IDF of words and character n-grams, on intents, or domains where there are
    no intents; None where there is nothing to classify.
    """
    intents = Counter(u.intent for u in train if u.intent)
    counts = np.array(list(intents.values()), dtype=float)
    shares = counts / counts.sum() if len(counts) else counts
    return {
        "rows": len(train),
        "locales": len({u.locale for u in train}),
        "domains": len({u.domain for u in train if u.domain}),
        "intents": len(intents),
        "slot_types": len({slot.name for u in train for slot in u.slots}),
        "rows_per_intent": round(len(train) / len(intents), 2) if intents else None,
        "intent_entropy": round(float(-(shares * np.log(shares)).sum()), 4) if intents else None,
        "slots_per_utterance": round(sum(len(u.slots) for u in train) / len(train), 4),
        "words": round(float(np.mean([len(u.text.split()) for u in train])), 3),
        "bag_of_words": bag_of_words(train, dev),
    }


def bag_of_words(train: Sequence[Utterance], dev: Sequence[Utterance]) -> float | None:
    """The accuracy of a simple classifier on dev, in percent; see `features`."""
    for head in ("intent", "domain"):
        ours, theirs = ([u for u in part if getattr(u, head)] for part in (train, dev))
        names = [getattr(u, head) for u in ours]
        if len(set(names)) < 2 or not theirs:
            continue
        matrix = features_of([u.text for u in (*ours, *theirs)])
        model = LogisticRegression(C=REGULARISATION, tol=TOLERANCE, max_iter=MAX_ITERATIONS)
        model.fit(matrix[: len(ours)], names)
        predicted = model.predict(matrix[len(ours) :])
        return round(100 * float(np.mean(predicted == np.array([getattr(u, head) for u in theirs]))), 2)
    return None
