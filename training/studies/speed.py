"""The speed of encoders on this machine: some optimiser steps, and some texts read."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from service.student.manifest import Labels
from training.models.devices import autocast_of, processes
from training.models.sizes import SIZES
from training.models.student import StudentConfig, StudentModel
from training.objectives.first_weights import require_smaller

STEPS = 8  # that are measured
READ = 128  # texts a batch


@dataclass(frozen=True)
class Speed:
    """Seconds of an optimiser step, of a text that a teacher reads, and of one that is read to be scored (in fp32)."""

    step: float
    text: float
    scored: float


def shape_of(size: str, teacher: StudentConfig) -> StudentConfig:
    """The shape of a student of `size` below a teacher: some of its layers, or a narrower encoder.

    Raises CheckpointError: the size is larger than the teacher.
    """
    require_smaller(size, teacher.num_hidden_layers, teacher.hidden_size, teacher.size)
    asked = SIZES[size]
    if asked.hidden == teacher.hidden_size:
        shape = copy.deepcopy(teacher)
        shape.num_hidden_layers = asked.layers
        return shape
    return StudentConfig.of_size(size, Labels(), vocab_size=teacher.vocab_size, dropout=teacher.dropout)


def measure(shape: StudentConfig, labels: Labels, lengths: Sequence[int], batch_size: int) -> Speed:
    """The speed of an encoder of this shape with random weights on texts of these lengths, in tokens."""
    device = processes().device
    config = copy.deepcopy(shape)
    config.labels = {head: list(getattr(labels, head)) for head in labels.heads}
    model = StudentModel(config).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)

    def step(ids: Tensor) -> None:
        model.train()
        with autocast_of("auto", device):
            loss = _loss(model, ids)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        loss.item()  # waits for the device

    def read(precision: str, ids: Tensor) -> None:
        model.eval()
        with torch.inference_mode(), autocast_of(precision, device):
            _loss(model, ids).item()

    batches = [batch.to(device) for batch in _batches(lengths, batch_size, config.vocab_size)]
    texts = [batch.to(device) for batch in _batches(lengths, READ, config.vocab_size)]
    a_batch = sum(map(len, texts)) / len(texts)
    read_, scored = (_seconds(partial(read, precision), texts) / a_batch for precision in ("auto", "fp32"))
    return Speed(_seconds(step, batches), read_, scored)


def _loss(model: StudentModel, ids: Tensor) -> Tensor:
    output = model(ids, torch.ones_like(ids))
    found = (output.domain_logits, output.intent_logits, output.slot_logits)
    return torch.stack([logits.float().square().mean() for logits in found if logits is not None]).sum()


def _batches(lengths: Sequence[int], size: int, vocabulary: int) -> list[Tensor]:
    """At most `STEPS` batches of random ids, [texts, tokens], of texts in order of length, evenly spread."""
    random, ordered = torch.Generator().manual_seed(0), sorted(lengths)
    starts = np.linspace(0, max(0, len(ordered) - size), num=min(STEPS, -(-len(ordered) // size))).astype(int)
    shapes = [(len(ordered[start : start + size]), ordered[start : start + size][-1]) for start in starts]
    return [torch.randint(vocabulary, shape, generator=random) for shape in shapes]


def _seconds(work: Callable[[Tensor], None], batches: Sequence[Tensor]) -> float:
    """Mean seconds of the work on a batch; the first one is also done before, unmeasured."""
    work(batches[-1])
    began = time.perf_counter()
    for batch in batches:
        work(batch)
    return (time.perf_counter() - began) / len(batches)
