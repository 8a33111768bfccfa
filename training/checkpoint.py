"""Checkpoint folders: `config.json`, `model.safetensors`, `tokenizer.json`, `training.json`; and the resume state.

Each file is written beside its place and renamed, so that a file that stands under its name is whole.
"""

from __future__ import annotations

import json
import os
import pickle
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer

from service.manifest import TOKENIZER_FILE, Labels
from service.tokenization import TextEncoder
from training.modeling import StudentConfig, StudentModel

TRAINING_FILE = "training.json"
RESUME_FILE = "resume.pt"


class CheckpointError(ValueError):
    """A folder that is no usable checkpoint; the message names it and what is missing or wrong."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: model in evaluation mode, text encoder, labels, and what `training.json` says."""

    model: StudentModel
    encoder: TextEncoder
    labels: Labels
    training: dict[str, Any]


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is either whole or absent under its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def save_checkpoint(folder: Path, model: StudentModel, tokenizer: Tokenizer, training: Mapping[str, Any]) -> None:
    """Write a checkpoint into `folder`, file by file, `training.json` last."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as scratch:
        model.save_pretrained(scratch)
        tokenizer.save(str(Path(scratch, TOKENIZER_FILE)))
        for file in sorted(Path(scratch).iterdir()):
            file.chmod(0o644)  # safetensors writes files that only their owner can read
            os.replace(file, folder / file.name)
    write_atomically(folder / TRAINING_FILE, (json.dumps(training, indent=1, ensure_ascii=False) + "\n").encode())


def load_checkpoint(folder: Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Load a checkpoint folder.

    Raises:
        CheckpointError: no folder, a file missing, another architecture, or weights that do not fit.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such checkpoint folder")
    for name in ("config.json", "model.safetensors", TOKENIZER_FILE):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: no checkpoint of training.finetune: {name} is missing")
    try:
        kind = json.loads((folder / "config.json").read_text()).get("model_type")
        if kind != StudentConfig.model_type:
            raise CheckpointError(f"{folder}: model_type is {kind!r}; allowed: {StudentConfig.model_type!r}")
        config = StudentConfig.from_pretrained(folder)
        model = StudentModel.from_pretrained(folder, config=config).to(device).eval()
        encoder = TextEncoder.from_file(folder / TOKENIZER_FILE, config.max_position_embeddings)
        labels = Labels.model_validate(config.labels)
        file = folder / TRAINING_FILE
        training = json.loads(file.read_text()) if file.is_file() else {}
    except CheckpointError:
        raise
    except (ValueError, RuntimeError, OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot be loaded: {error}") from error
    pieces = encoder.tokenizer.get_vocab_size()
    if pieces != config.vocab_size:
        raise CheckpointError(f"{folder}: {TOKENIZER_FILE} has {pieces} pieces, config.json says {config.vocab_size}")
    return Checkpoint(model, encoder, labels, training)


def with_heads(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """The checkpoint, if it can answer.

    Raises:
        CheckpointError: it is an encoder without heads, or doesn't say which locales it serves.
    """
    if not checkpoint.labels.heads:
        raise CheckpointError(f"{folder}: is an encoder without heads; train them with training.finetune --init")
    if not checkpoint.training.get("locales"):
        raise CheckpointError(f"{folder}: {TRAINING_FILE} names no locales")
    return checkpoint


def save_resume_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write everything that an interrupted run needs to continue exactly."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{RESUME_FILE}.partial"
    torch.save(dict(state), temporary)
    os.replace(temporary, folder / RESUME_FILE)


def load_resume_state(folder: Path) -> dict[str, Any]:
    """Read the resume state.

    Raises:
        CheckpointError: there is none, or it can't be read.
    """
    path = folder / RESUME_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder}: nothing to resume: {RESUME_FILE} is missing (a finished run removes it)")
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    return state
