"""A transfer pool with a teacher: see `training.text.pool`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from service.student.student import Student
from training.models.batches import Example, collate, in_length_order
from training.models.checkpoint import load_checkpoint
from training.models.devices import autocast_of, processes
from training.models.errors import CheckpointError
from training.objectives.task_distillation import place_of
from training.objectives.teacher_logits import (
    BATCH,
    TeacherLogits,
    digest_of,
    keys_of,
    labels_of_teacher,
    open_teacher,
)
from training.text import pool
from training.text.pool import Embeddings, Pool
from training.text.tokenizer import special_ids


def build(spec: Pool, teacher: Path, cache: str, out: Path, force: bool = False) -> dict[str, Any]:
    """Write a pool; what the teacher says of its sentences is kept in `cache`, if one is named. Returns the manifest.

    Raises CheckpointError: the teacher can't be used; CorpusError, DatasetError: text or data can't be.
    """
    with TemporaryDirectory() as scratch:
        asked = PoolTeacher(teacher, Path(cache or scratch))
        facts = {"teacher": {"name": teacher.resolve().name, "digest": digest_of(teacher)}}
        return pool.build(spec, asked, out, force, facts)


class PoolTeacher:
    """A fine-tuned checkpoint, or an exported student, whose embeddings come from the weights of its graph."""

    def __init__(self, folder: Path, cache: Path) -> None:
        """Open the teacher. Raises CheckpointError: it is none, or has no intents."""
        self._teacher, self._folder = open_teacher(folder, processes().device), folder
        labels = labels_of_teacher(self._teacher)
        if not labels.intent:
            raise CheckpointError(f"{folder}: has no intent head, which tells whether a sentence keeps its intent")
        self._logits = TeacherLogits(cache / digest_of(folder), labels)

    def intents(self, texts: Sequence[str]) -> list[str]:
        """The intent of each text."""
        self._logits.add(self._teacher, texts)
        best = self._logits.intent[place_of(self._logits.keys, keys_of(texts))].argmax(axis=1)
        return [self._logits.labels.intent[i] for i in best]

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """Mean last hidden state of each text, [texts, width]. Raises CheckpointError: the weights can't be read."""
        teacher = self._teacher
        source = load_checkpoint(self._folder, processes().device) if isinstance(teacher, Student) else teacher
        model, encoder = source.model, source.encoder
        pad, encoded = special_ids(encoder.tokenizer).pad, [encoder.encode(text) for text in texts]
        found = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
        with tqdm(total=len(texts), desc="embedding", unit="text", mininterval=1) as bar:
            for rows in in_length_order([len(e.ids) for e in encoded], BATCH):
                batch = collate([Example.of_text(encoded[i]) for i in rows], pad).to(model.device)
                with torch.inference_mode(), autocast_of("auto", model.device):
                    features = model(batch.input_ids, batch.attention_mask).features
                found[rows] = features[:, : found.shape[1]].float().cpu().numpy()
                bar.update(len(rows))
        return found
