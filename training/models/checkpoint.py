"""Checkpoint folders: `config.json`, `model.safetensors`, `tokenizer.json`, `training.json`; and the resume state.

Each file is written under a temporary name and renamed, so that no file is ever incomplete.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer

from service.student.manifest import MANIFEST_FILE, TOKENIZER_FILE, Labels, StudentError
from service.student.shipped import named_folder
from service.student.tokenization import TextEncoder
from training.data.files import write_json, writing
from training.models import hub
from training.models.errors import CheckpointError
from training.models.exported import open_exported
from training.models.student import StudentConfig, StudentModel

TRAINING_FILE = "training.json"
RESUME_FILE = "resume.pt"
SCRATCH = ".saving-"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: model in evaluation mode, text encoder, labels, and the content of `training.json`.

    The model is a `StudentModel`, or a `training.models.hub.HubModel`, which has the same interface.
    """

    model: StudentModel
    encoder: TextEncoder
    labels: Labels
    training: dict[str, Any]

    def encoder_alone(self, dropout: float, masked: bool = True) -> StudentModel:
        """A copy of the model without heads, and with a masked-language head if `masked`: a new one if it has none.

        Raises CheckpointError: a Hugging Face encoder whose masked-language head is not supported.
        """
        config = copy.deepcopy(self.model.config)
        config.labels, config.dropout = {}, dropout
        if config.masked != masked:
            config.masked = masked
            if masked and isinstance(self.model, hub.HubModel):
                return self.model.with_new_head(config)
        alone = type(self.model)(config)
        weights = {name: value for name, value in self.model.state_dict().items() if not name.startswith("heads.")}
        alone.load_state_dict(weights, strict=False)
        return alone


def save_checkpoint(folder: Path, model: StudentModel, tokenizer: Tokenizer, training: Mapping[str, Any]) -> None:
    """Write a checkpoint into `folder`, file by file, `training.json` last."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{SCRATCH}*"):  # by a run that was killed while saving
        shutil.rmtree(left)
    with writing(folder, SafetensorError), tempfile.TemporaryDirectory(prefix=SCRATCH, dir=folder) as scratch:
        model.save_pretrained(scratch)
        Path(scratch, TOKENIZER_FILE).write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
        for file in sorted(Path(scratch).iterdir()):
            file.chmod(0o644)  # safetensors makes files readable for their owner alone
            os.replace(file, folder / file.name)
    write_json(folder / TRAINING_FILE, training)


def existing_folder(source: str | Path) -> Path:
    """The path if it exists, else the folder of the shipped student or of the student of the hub, else the path.

    Raises CheckpointError: a student of the hub can't be downloaded.
    """
    try:
        return Path(source) if Path(source).exists() else named_folder(source)
    except StudentError as error:
        raise CheckpointError(str(error)) from error


def is_own(source: str | Path) -> bool:
    """Whether a path or shipped name is an encoder of this project: a checkpoint or an exported student."""
    folder = existing_folder(source)
    if (folder / MANIFEST_FILE).is_file():
        return True
    try:
        kind = json.loads((folder / "config.json").read_text()).get("model_type")
    except (OSError, ValueError):
        return False
    return bool(kind == StudentConfig.model_type)


def load_checkpoint(source: str | Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Load a checkpoint folder, an exported student, a Hugging Face encoder's folder, or one from the hub by its name.

    A student is read back from its graph, and has no masked-language head.

    Raises CheckpointError: no such folder or name, a file missing, another architecture, or weights that do not fit.
    """
    folder = existing_folder(source)
    if (folder / MANIFEST_FILE).is_file():
        model, encoder, manifest = open_exported(folder)
        return Checkpoint(model.to(device), encoder, manifest.labels, manifest.training)
    if hub.is_hub_source(source):
        model, tokenizer = hub.open_hub(str(source), device)
        return Checkpoint(model, TextEncoder(tokenizer, model.config.max_position_embeddings), Labels(), {})
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such checkpoint folder")
    for name in ("config.json", "model.safetensors", TOKENIZER_FILE):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: no checkpoint of training: {name} is missing")
    try:
        kind = json.loads((folder / "config.json").read_text()).get("model_type")
        architecture = StudentModel if kind == StudentConfig.model_type else hub.HubModel
        model = architecture.from_pretrained(folder).to(device).eval()
        encoder = TextEncoder.from_file(folder / TOKENIZER_FILE, model.config.max_position_embeddings)
        labels = Labels.model_validate(model.config.labels)
        file = folder / TRAINING_FILE
        training = json.loads(file.read_text()) if file.is_file() else {}
    except (ValueError, RuntimeError, OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot be loaded: {error}") from error
    tokens, rows = encoder.tokenizer.get_vocab_size(), model.config.vocab_size
    if tokens > rows:
        raise CheckpointError(f"{folder}: {TOKENIZER_FILE} has {tokens} tokens, config.json only {rows}")
    return Checkpoint(model, encoder, labels, training)


def is_finished(folder: Path) -> bool:
    """Whether a folder holds the checkpoint of a finished run."""
    return (folder / TRAINING_FILE).is_file() and not (folder / RESUME_FILE).exists()


def with_heads(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """The checkpoint, checked for heads.

    Raises CheckpointError: it is an encoder without heads, or names no locales.
    """
    if not checkpoint.labels.heads:
        raise CheckpointError(f"{folder}: is an encoder without heads; train them with training.finetune --init")
    if not checkpoint.training.get("locales"):
        raise CheckpointError(f"{folder}: {TRAINING_FILE} names no locales")
    return checkpoint


def save_resume_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the state from which an interrupted run can be resumed exactly."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{RESUME_FILE}.partial"
    try:
        with writing(folder / RESUME_FILE), temporary.open("wb") as stream:
            torch.save(dict(state), stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, folder / RESUME_FILE)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_resume_state(folder: Path) -> dict[str, Any]:
    """Read the resume state. Raises CheckpointError: there is none, or it can't be read."""
    path = folder / RESUME_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder}: nothing to resume: {RESUME_FILE} is missing (a finished run removes it)")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    return state
