"""Utterances to padded batches of ids and label targets, with batches of similar length."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.student.manifest import Labels
from service.student.tokenization import Encoded, TextEncoder
from training.data.augmentation import SlotValues, augment
from training.data.labels import tags_of
from training.data.policy import Policy
from training.data.utterances import Utterance
from training.models.devices import ALONE, Split, split
from training.text.lines import padded

IGNORED = -100  # the index that torch's cross entropy skips

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Example:
    """One encoded utterance: token ids, and the target index of each head (IGNORED where there is none).

    `slots` has one entry a token: the word's tag at its first token, IGNORED elsewhere. `first_tokens` are the
    positions of the words' first tokens, with and without tags.
    """

    ids: list[int]
    domain: int
    intent: int
    slots: list[int]
    first_tokens: Sequence[int] = ()

    @classmethod
    def of_text(cls, encoded: Encoded) -> Example:
        """An unlabelled text."""
        return cls(encoded.ids, IGNORED, IGNORED, [IGNORED] * len(encoded.ids), encoded.first_tokens)


@dataclass(frozen=True, slots=True)
class Whole:
    """A step's batch before it is split among processes: the number of targets of each head, and `rows`."""

    domain: int
    intent: int
    slots: int
    rows: Rows
    split: Split = ALONE


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors of a batch: input_ids, attention_mask, slots and first [batch, tokens]; domain and intent [batch].

    `first` is true at the first tokens of words. `rows` [batch] are the texts' rows in the teachers' targets, -1
    without teachers. `whole` is the step's batch, of which this is one process's part.
    """

    input_ids: Tensor
    attention_mask: Tensor
    domain: Tensor
    intent: Tensor
    slots: Tensor
    first: Tensor
    rows: Rows
    whole: Whole

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        names = ("input_ids", "attention_mask", "domain", "intent", "slots", "first")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})


class ExampleEncoder:
    """Encodes utterances for one set of labels."""

    def __init__(self, encoder: TextEncoder, labels: Labels) -> None:
        self.encoder = encoder
        self._domain = {name: i for i, name in enumerate(labels.domain)}
        self._intent = {name: i for i, name in enumerate(labels.intent)}
        self._tags = {name: i for i, name in enumerate(labels.slots)}

    def encode(self, utterance: Utterance) -> Example:
        """One utterance; a label that the student lacks, and slots that are not annotated, become IGNORED."""
        encoded: Encoded = self.encoder.encode(utterance.text)
        slots = [IGNORED] * len(encoded.ids)
        if self._tags and utterance.slots_annotated:
            for position, tag in zip(encoded.first_tokens, tags_of(encoded.words, utterance.slots), strict=True):
                slots[position] = self._tags.get(tag, IGNORED)
        domain = self._domain.get(utterance.domain or "", IGNORED)
        intent = self._intent.get(utterance.intent or "", IGNORED)
        return Example(encoded.ids, domain, intent, slots, encoded.first_tokens)


def whole_of(examples: Sequence[Example], rows: Rows, split: Split = ALONE) -> Whole:
    """Count the targets of all examples of a step."""
    domain, intent = (sum(getattr(e, head) != IGNORED for e in examples) for head in ("domain", "intent"))
    return Whole(domain, intent, sum(len(e.slots) - e.slots.count(IGNORED) for e in examples), rows, split)


def collate(examples: Sequence[Example], pad_id: int, rows: Rows | None = None, whole: Whole | None = None) -> Batch:
    """Pad examples to the longest; `rows` and `whole` are those of `Batch`."""
    rows = np.full(len(examples), -1) if rows is None else rows
    input_ids, mask = padded([e.ids for e in examples], pad_id)
    slots, _ = padded([e.slots for e in examples], IGNORED)
    first = torch.zeros(input_ids.shape, dtype=torch.bool)
    for row, example in enumerate(examples):
        first[row, list(example.first_tokens)] = True
    domain, intent = (torch.tensor([getattr(e, head) for e in examples]) for head in ("domain", "intent"))
    return Batch(input_ids, mask, domain, intent, slots, first, rows, whole or whole_of(examples, rows))


def length_buckets(lengths: Sequence[int] | Rows, batch_size: int, rng: np.random.Generator) -> list[Rows]:
    """Indices of batches of about equal length, in random order; each index once.

    Lengths are jittered before sorting, so that the batches differ between epochs.
    """
    order = np.argsort(np.asarray(lengths) + rng.uniform(-1, 1, size=len(lengths)), kind="stable")
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


class EpochData:
    """The training batches of each epoch: they depend on seed and epoch only, so that a resumed run sees the same.

    A step takes `batch_size` utterances for each process. A view is a variant of each utterance; epochs take turns with
    the `views`, or, with 0, each epoch has one of its own. A `policy` makes the variants in place of the two shares.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        encoder: ExampleEncoder,
        batch_size: int,
        augmented_share: float,
        seed: int,
        substituted_share: float = 0.0,
        views: int = 0,
        policy: Policy | None = None,
    ) -> None:
        self._split = split()
        self._a_step = batch_size * self._split.count
        self.steps = -(-len(utterances) // self._a_step)
        self._utterances = utterances
        self._encoder = encoder
        self._plain = [encoder.encode(u) for u in utterances]
        self._augmented_share, self._substituted_share, self._seed = augmented_share, substituted_share, seed
        self._views, self._policy = views, policy
        self._kept: dict[int, list[Utterance]] = {}  # of a policy, which may run a model
        self._values = SlotValues(utterances)

    def variants(self, view: int) -> list[Utterance]:
        """The variants of a view, in the order of the utterances; the utterance itself where it was not rewritten."""
        rng = random.Random(f"{self._seed}:{view}")
        if self._policy is not None:
            if view not in self._kept:
                self._kept = self._kept if self._views else {}
                self._kept[view] = self._policy.variants(self._utterances, rng)
            return self._kept[view]
        found = []
        for utterance in self._utterances:
            variant = utterance
            if self._substituted_share and utterance.slots and rng.random() < self._substituted_share:
                variant = self._values.substitute(utterance, rng)
            found.append(augment(variant, rng, self._augmented_share))
        return found

    def batches(
        self, epoch: int, pad_id: int, skip: int = 0, rows_of: Callable[[Sequence[str]], Rows] | None = None
    ) -> Iterator[Batch]:
        """This process's part of the batches of an epoch (from 0), without the first `skip`.

        `rows_of` gives the rows of the texts among the teachers' targets.
        """
        variants = self.variants(epoch % self._views if self._views else epoch)
        known = np.full(len(variants), -1) if rows_of is None else rows_of([variant.text for variant in variants])
        examples = [
            plain if variant is utterance else self._encoder.encode(variant)
            for variant, utterance, plain in zip(variants, self._utterances, self._plain, strict=True)
        ]
        order = length_buckets([len(e.ids) for e in examples], self._a_step, np.random.default_rng([self._seed, epoch]))
        for chosen in order[skip:]:
            rows = self._split.enough(chosen)
            part = self._split.part_of(rows)
            whole = whole_of([examples[i] for i in rows], known[rows], self._split)
            yield collate([examples[i] for i in part], pad_id, known[part], whole)


def in_length_order(lengths: Sequence[int], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Indices of batches in order of length, for evaluation."""
    order = np.argsort(np.asarray(lengths), kind="stable")
    for i in range(0, len(order), batch_size):
        yield order[i : i + batch_size]
