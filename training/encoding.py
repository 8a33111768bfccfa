"""Utterances to padded batches of ids and label targets, with batches of similar length."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.manifest import Labels
from service.tokenization import Encoded, TextEncoder
from training.augmentation import augment
from training.labels import tags_of
from training.records import Utterance

IGNORED = -100  # the index that torch's cross entropy skips


@dataclass(frozen=True, slots=True)
class Example:
    """One encoded utterance: piece ids, and the target index of each head (IGNORED where there is none).

    `slots` has one entry a piece: the word's tag at its first piece, IGNORED elsewhere.
    """

    ids: list[int]
    domain: int
    intent: int
    slots: list[int]


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors of a batch: input_ids, attention_mask and slots [batch, pieces]; domain and intent [batch].

    `rows` [batch] says which training utterance each is, or -1 where it was rewritten.
    """

    input_ids: Tensor
    attention_mask: Tensor
    domain: Tensor
    intent: Tensor
    slots: Tensor
    rows: NDArray[np.int64]

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        names = ("input_ids", "attention_mask", "domain", "intent", "slots")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})


class ExampleEncoder:
    """Encodes utterances for one set of labels."""

    def __init__(self, encoder: TextEncoder, labels: Labels) -> None:
        self.encoder = encoder
        self._domain = {name: i for i, name in enumerate(labels.domain)}
        self._intent = {name: i for i, name in enumerate(labels.intent)}
        self._tags = {name: i for i, name in enumerate(labels.slots)}

    def encode(self, utterance: Utterance) -> Example:
        """One utterance; a label that the student doesn't know becomes IGNORED."""
        encoded: Encoded = self.encoder.encode(utterance.text)
        slots = [IGNORED] * len(encoded.ids)
        if self._tags:
            for position, tag in zip(encoded.first_pieces, tags_of(encoded.words, utterance.slots), strict=True):
                slots[position] = self._tags.get(tag, IGNORED)
        return Example(
            encoded.ids,
            self._domain.get(utterance.domain or "", IGNORED),
            self._intent.get(utterance.intent or "", IGNORED),
            slots,
        )


def collate(examples: Sequence[Example], pad_id: int, rows: NDArray[np.int64] | None = None) -> Batch:
    """Pad to the longest of the batch. `rows` says which utterances they are, if that matters."""
    width = max(len(e.ids) for e in examples)
    ids = np.full((len(examples), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(examples), width), dtype=np.int64)
    slots = np.full((len(examples), width), IGNORED, dtype=np.int64)
    for row, example in enumerate(examples):
        length = len(example.ids)
        ids[row, :length] = example.ids
        mask[row, :length] = 1
        slots[row, :length] = example.slots
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(mask),
        torch.tensor([e.domain for e in examples]),
        torch.tensor([e.intent for e in examples]),
        torch.from_numpy(slots),
        np.full(len(examples), -1) if rows is None else rows,
    )


def length_buckets(
    lengths: Sequence[int] | NDArray[np.int64], batch_size: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Indices of batches of about equal length, in random order; each index once.

    Lengths are jittered before sorting, so that the batches differ between epochs.
    """
    order = np.argsort(np.asarray(lengths) + rng.uniform(-1, 1, size=len(lengths)), kind="stable")
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


class EpochData:
    """The training batches of each epoch: a function of seed and epoch only, so that a resumed run sees the same."""

    def __init__(
        self,
        utterances: Sequence[Utterance],
        encoder: ExampleEncoder,
        batch_size: int,
        augmented_share: float,
        seed: int,
    ) -> None:
        self.steps = -(-len(utterances) // batch_size)
        self._utterances = utterances
        self._encoder = encoder
        self._plain = [encoder.encode(u) for u in utterances]
        self._batch_size, self._augmented_share, self._seed = batch_size, augmented_share, seed

    def batches(self, epoch: int, pad_id: int, skip: int = 0) -> Iterator[Batch]:
        """The `steps` batches of an epoch (from 0), less the first `skip`."""
        rng = random.Random(f"{self._seed}:{epoch}")
        examples = []
        rewritten = np.zeros(len(self._utterances), dtype=bool)
        for i, (utterance, plain) in enumerate(zip(self._utterances, self._plain, strict=True)):
            variant = augment(utterance, rng, self._augmented_share)
            rewritten[i] = variant is not utterance
            examples.append(self._encoder.encode(variant) if rewritten[i] else plain)
        order = length_buckets(
            [len(e.ids) for e in examples], self._batch_size, np.random.default_rng([self._seed, epoch])
        )
        for rows in order[skip:]:
            yield collate([examples[i] for i in rows], pad_id, np.where(rewritten[rows], -1, rows))


def in_length_order(lengths: Sequence[int], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Indices of batches in order of length, for evaluation."""
    order = np.argsort(np.asarray(lengths), kind="stable")
    for i in range(0, len(order), batch_size):
        yield order[i : i + batch_size]
