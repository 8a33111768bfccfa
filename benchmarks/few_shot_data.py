"""Three published NLU sets in their official layouts, as a training pool and an evaluation partition."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.data import datasets
from training.data.utterances import DatasetError, RecordError, Slot, Utterance

Parts = tuple[list[Utterance], list[Utterance]]  # to train on, to score on


def snips(folder: Path) -> Parts:
    """SNIPS 2017, `train_*_full.json` and `validate_*.json`: 7 intents with slots, English."""
    dataset = datasets.load(str(folder), ["en-US"], "skip")  # its files have some bytes of another encoding
    scored = [u for u in dataset.utterances if u.partition != "train"]
    return dataset.part("train"), scored


def clinc150(folder: Path) -> Parts:
    """CLINC150's `data_full.json`, its test part; 150 intents, English, without the out-of-scope questions."""
    found = json.loads(_text(_only(folder, "data_full.json")))

    def part(name: str, partition: Any) -> list[Utterance]:
        rows = enumerate(found[name])
        return [
            Utterance(f"{name}-{i}", text, "en-US", partition, intent=intent, slots_annotated=False)
            for i, (text, intent) in rows
        ]

    return part("train", "train"), part("test", "dev")


def fb_multilingual(folder: Path) -> Parts:
    """Facebook's multilingual task-oriented data, Spanish: `train-es.tsv` and `test-es.tsv`, with slots."""
    return _fb(folder, "train"), _fb(folder, "test")


def _fb(folder: Path, name: str) -> list[Utterance]:
    """The rows but a few whose offsets lie outside their text."""
    file, found = _only(folder, f"{name}-es.tsv"), []
    partition: Any = "train" if name == "train" else "dev"
    for i, row in enumerate(csv.reader(_text(file).splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE), start=1):
        if len(row) < len(("intent", "slots", "text")):
            raise DatasetError(f"{file}:{i}: {len(row)} columns; expected: intent, start:end:slot marks, text")
        intent, marks, text = row[:3]
        spans = [mark.split(":", 2) for mark in marks.split(",") if mark]
        slots = sorted((Slot(name, int(start), int(end)) for start, end, name in spans), key=lambda slot: slot.start)
        with contextlib.suppress(RecordError):
            domain = intent.split("/")[0]
            found.append(Utterance(f"{name}-{i}", text, "es-ES", partition, domain, intent, tuple(slots)))
    return found


SETS: Mapping[str, Callable[[Path], Parts]] = {
    "snips": snips,
    "clinc150": clinc150,
    "fb_multilingual": fb_multilingual,
}


def draw(utterances: Sequence[Utterance], per_intent: int, seed: int) -> list[Utterance]:
    """`per_intent` random utterances of each intent, in random order; 0: all of them."""
    by_intent = defaultdict(list)
    for utterance in utterances:
        by_intent[utterance.intent].append(utterance)
    rng, chosen = random.Random(seed), []
    for _, rows in sorted(by_intent.items(), key=lambda item: str(item[0])):
        chosen += rng.sample(rows, min(per_intent, len(rows)) if per_intent else len(rows))
    rng.shuffle(chosen)
    return chosen


def _only(folder: Path, name: str) -> Path:
    for file in (folder / name, folder / f"{name}.gz"):
        if file.is_file():
            return file
    raise DatasetError(f"{folder}: has no {name} or {name}.gz")


def _text(file: Path) -> str:
    content = file.read_bytes()
    return (gzip.decompress(content) if file.suffix == ".gz" else content).decode("utf-8")
