"""Teachers' logits on disk: each text is read by a teacher once, and found again by all further runs.

A cache holds one folder for each teacher, named by the digest of the teacher's files, with one record for each text,
found by a hash of the text. The arrays are appended to and memory-mapped, so that any number of texts fits.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from service.student.manifest import MANIFEST_FILE, Labels, StudentError
from service.student.student import Student
from service.student.tokenization import Encoded
from training.models.batches import Rows
from training.models.checkpoint import Checkpoint, load_checkpoint, with_heads
from training.models.devices import autocast_of, processes
from training.models.errors import CheckpointError
from training.models.prediction import logits_of_model
from training.objectives.appended import append, cut, mapped

CHUNK = 8192  # texts that are read and written together, in order of length
BATCH = 128
DIGITS = 16  # of the digest that names a teacher's folder
POOLED = ("domain", "intent")  # heads with one row of logits a text; "slots" has one a word

Teacher = Checkpoint | Student
Keys = NDArray[np.uint64]


def open_teacher(folder: Path, device: torch.device) -> Teacher:
    """Open a fine-tuned checkpoint, or an exported student, which answers as in the service.

    Raises CheckpointError: the folder is neither, or can't be used.
    """
    if (folder / MANIFEST_FILE).is_file():
        try:
            return Student.load(folder)
        except StudentError as error:
            raise CheckpointError(str(error)) from error
    return with_heads(load_checkpoint(str(folder), device), folder)


def labels_of_teacher(teacher: Teacher) -> Labels:
    """The labels of a teacher's heads."""
    return teacher.manifest.labels if isinstance(teacher, Student) else teacher.labels


def digest_of(folder: Path) -> str:
    """A digest of a teacher's configuration, weights and tokenizer."""
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.iterdir() if file.suffix in (".json", ".safetensors", ".onnx")):
        if file.name != "training.json":  # says how it was made, not what it answers
            digest.update(f"{file.name} {file.stat().st_size}\n".encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:DIGITS]


def keys_of(texts: Sequence[str]) -> Keys:
    """64-bit hashes of texts: of a million texts, two are mistaken for one with a probability of 3e-8."""
    hashes = (hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(hashes), dtype=np.uint64)


class TeacherLogits:
    """The raw logits of one teacher, float16, with one record for each text that it has read.

    `domain` and `intent` are [records, labels], in the order of the teacher's `labels`. The words of record i are
    `ends[i - 1]` to `ends[i]` of `words` [words, 2], (start, end) in the text, and of `slots` [words, tags].
    """

    def __init__(self, folder: Path, labels: Labels) -> None:
        """Map the records in a folder, which need not exist."""
        self.labels = labels
        self._folder = folder
        self._map()

    def add(self, teacher: Teacher, texts: Sequence[str]) -> None:
        """Let the teacher read the texts that have no record.

        An interrupted call loses at most `CHUNK` texts. Other processes that add to the folder wait for each other.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self._folder / ".lock"):
            self._map()
            cut(self._folder, {name: getattr(self, name) for name in ("keys", "ends", "words", *POOLED, "slots")})
            known = set(self.keys.tolist())
            missing = []
            for text, key in zip(texts, keys_of(texts).tolist(), strict=True):
                if key not in known:
                    known.add(key)
                    missing.append(text)
            look: dict[str, Any] = {
                "desc": "asking a teacher",
                "unit": "text",
                "mininterval": 0.5 if sys.stderr.isatty() else 15,
                "delay": 2,  # not for what takes a moment
            }
            with tqdm(total=len(missing), disable=not missing, **look) as bar:
                for start in range(0, len(missing), CHUNK):
                    self._append(teacher, missing[start : start + CHUNK], bar)
        self._map()

    def _append(self, teacher: Teacher, texts: Sequence[str], bar: tqdm[Any]) -> None:
        """Write the records of texts. Their keys come last: a record without its key does not count."""
        encoded = [teacher.encoder.encode(text) for text in texts]
        pooled = {
            head: np.zeros((len(texts), len(getattr(self.labels, head))), dtype=np.float16)
            for head in POOLED
            if head in self.labels.heads
        }
        tags = [np.zeros((0, len(self.labels.slots)), dtype=np.float16)] * len(texts)
        for rows, logits in _logits_of(teacher, encoded):
            found = {head: values.float().cpu().numpy() for head, values in logits.items()}
            for head, values in pooled.items():
                values[rows] = found[head]
            for row, i in enumerate(rows if "slots" in found else ()):
                tags[i] = found["slots"][row, encoded[i].first_tokens].astype(np.float16)
            bar.update(len(rows))
        ends = self._array("ends", np.int64)
        before = int(ends[-1]) if len(ends) else 0
        ends = before + np.cumsum([len(e.words) for e in encoded], dtype=np.int64)
        words = [np.array(e.words, dtype=np.uint16).reshape(-1, 2) for e in encoded]
        parts: dict[str, NDArray[Any]] = {
            **pooled,
            "words": np.concatenate(words),
            "slots": np.concatenate(tags),
            "ends": ends,
        }
        append(self._folder, {**parts, "keys": keys_of(texts)})

    def _map(self) -> None:
        """Map the complete records."""
        self.keys: Keys = self._array("keys", np.uint64)
        count = len(self.keys)
        self.ends: NDArray[np.int64] = self._array("ends", np.int64)[:count]
        words = int(self.ends[-1]) if count else 0
        self.words: NDArray[np.uint16] = self._array("words", np.uint16, 2)[:words]
        self.domain, self.intent = (self._array(h, np.float16, len(getattr(self.labels, h)))[:count] for h in POOLED)
        self.slots: NDArray[np.float16] = self._array("slots", np.float16, len(self.labels.slots))[:words]

    def _array(self, name: str, kind: type[np.generic], *columns: int) -> NDArray[Any]:
        return mapped(self._folder / name, kind, *columns)


def read_by(folders: Sequence[Path], texts: Sequence[str], cache: Path) -> list[TeacherLogits]:
    """The logits of each teacher for the texts, read now or found in the cache.

    Raises CheckpointError: a folder is no teacher.
    """
    found = []
    for folder in folders:
        teacher = open_teacher(folder, processes().device)
        logits = TeacherLogits(cache / digest_of(folder), labels_of_teacher(teacher))
        logits.add(teacher, texts)
        found.append(logits)
    return found


def _logits_of(teacher: Teacher, encoded: Sequence[Encoded]) -> Iterator[tuple[Rows, dict[str, Tensor]]]:
    """Rows of the texts and their logits by head; a student answers one text at a time, as in the service."""
    if isinstance(teacher, Student):
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:  # onnxruntime releases Python's lock
            for i, answer in enumerate(threads.map(teacher.logits, encoded)):
                yield np.array([i]), {head: torch.from_numpy(x)[None] for head, x in answer.items()}
    else:
        with autocast_of("auto", teacher.model.device):
            for rows, logits in logits_of_model(teacher.model, teacher.encoder, encoded, BATCH):
                yield rows, {head: x for head, x in logits.items() if x is not None}
