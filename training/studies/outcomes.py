"""What fine-tuned models got right, utterance by utterance: the small files that a study's report is made of."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.data.files import write_atomically
from training.data.utterances import Utterance
from training.evaluation.scoring import semantic_errors
from training.evaluation.tails import TAILS, tail_of
from training.models.checkpoint import load_checkpoint, with_heads
from training.models.prediction import answers_of_model

REFERENCES_FILE = "references.json.gz"


def write_json(path: Path, content: Any) -> None:
    """Write JSON, compressed where the name ends in .gz; the same content gives the same bytes."""
    text = json.dumps(content, ensure_ascii=False, indent=None if path.suffix == ".gz" else 1)
    data = (text + "\n").encode()
    write_atomically(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote."""
    data = path.read_bytes()
    return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)


def by_locale(utterances: Sequence[Utterance], locales: Sequence[str]) -> dict[str, list[Utterance]]:
    """The utterances of each locale in order of id, the order of all files."""
    return {x: sorted((u for u in utterances if u.locale == x), key=lambda u: u.id) for x in locales}


def references_of(evaluated: dict[str, list[Utterance]], train: Sequence[Utterance], partition: str) -> dict[str, Any]:
    """What is asked: ids, domains, number of slots, and which rows belong to which tail."""
    domains = sorted({u.domain for rows in evaluated.values() for u in rows if u.domain})
    locales = {}
    for locale, rows in evaluated.items():
        place = {u.id: i for i, u in enumerate(rows)}
        seen = [u for u in train if u.locale == locale]
        locales[locale] = {
            "ids": [u.id for u in rows],
            "domain": [domains.index(u.domain) if u.domain else -1 for u in rows],
            "slots": [len(u.slots) for u in rows],
            "tails": {name: [place[u.id] for u in tail_of(name, rows, seen)] for name in TAILS},
        }
    return {"partition": partition, "domains": domains, "locales": locales}


def outcomes_of(folder: Path, evaluated: dict[str, list[Utterance]], domains: Sequence[str]) -> dict[str, Any]:
    """What a fine-tuned checkpoint answers, per locale; which lists there are depends on its heads.

    `domain`: index of the domain, -1 for one that no reference has. `intent_errors`: 0 or 1. `slot_errors`:
    substitutions, deletions and insertions.

    Raises:
        CheckpointError: it can't be loaded, or has no heads.
    """
    checkpoint = with_heads(load_checkpoint(folder), folder)
    found: dict[str, Any] = {}
    for locale, rows in evaluated.items():
        answers = answers_of_model(checkpoint.model, checkpoint.encoder, checkpoint.labels, rows)
        found[locale] = {}
        if checkpoint.labels.domain:
            index = {name: i for i, name in enumerate(domains)}
            found[locale]["domain"] = [index.get(answer.domain or "", -1) for answer in answers]
        if checkpoint.labels.intent:
            wrong = [int(answer.intent != row.intent) for row, answer in zip(rows, answers, strict=True)]
            errors = [semantic_errors(row, answer)[0] for row, answer in zip(rows, answers, strict=True)]
            found[locale]["intent_errors"] = wrong
            found[locale]["slot_errors"] = [e - w for e, w in zip(errors, wrong, strict=True)]
    return found
