"""The loss of fine-tuning on labels, mixup and word dropout: pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from training.models.batches import Batch
from training.models.student import StudentOutput


def multitask_loss(output: StudentOutput, batch: Batch, slot_weight: float, smoothing: float) -> Tensor:
    """Sum of the heads' cross entropies with label smoothing (Szegedy et al. 2016), the slots' times `slot_weight`.

    Each is the mean over its targets: utterances for domain and intent, first tokens of words for slots. Where
    a batch is one process's part, the mean over the processes is the mean over all targets. Returns a scalar.
    """
    loss, whole, scale = torch.zeros((), device=batch.input_ids.device), batch.whole, batch.whole.split.scale
    for logits, target, weight in (
        (output.domain_logits, batch.domain, scale(whole.domain)),
        (output.intent_logits, batch.intent, scale(whole.intent)),
        (output.slot_logits, batch.slots, slot_weight * scale(whole.slots)),
    ):
        if logits is not None:
            # a sum is 0 without targets, so that each process has a gradient for every head
            rows = logits.float().flatten(0, -2)
            total = functional.cross_entropy(rows, target.flatten(), reduction="sum", label_smoothing=smoothing)
            loss = loss + weight * total
    return loss


class Mixed(NamedTuple):
    """A batch whose sentence representations are mixed in pairs.

    `output` has the domain and intent logits of the mixed texts, `slots` the slot logits of the unmixed ones. `share`
    is that of a text's own targets, the rest is that of its partner, whose targets stand in `partners`.
    """

    output: StudentOutput
    slots: StudentOutput
    partners: Batch
    share: float


def mixed_pairs(output: StudentOutput, batch: Batch, alpha: float) -> Mixed:
    """Mixup of sentence representations (Zhang et al. 2018), with a share of one batch drawn from Beta(alpha, alpha).

    The heads are linear, so their mixed logits are those of mixed representations. The loss on both targets, weighted
    by their shares, has the gradient of the loss on mixed soft targets. All random numbers are torch's.
    """
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    order = torch.randperm(len(batch.input_ids), device=batch.input_ids.device)

    def mix(logits: Tensor | None) -> Tensor | None:
        return None if logits is None else share * logits + (1 - share) * logits[order]

    mixed = StudentOutput(domain_logits=mix(output.domain_logits), intent_logits=mix(output.intent_logits))
    slots = StudentOutput(slot_logits=output.slot_logits)
    targets = {"domain": batch.domain[order], "intent": batch.intent[order], "rows": batch.rows[order.cpu().numpy()]}
    return Mixed(mixed, slots, replace(batch, **targets), share)


def word_dropout(batch: Batch, share: float, unknown_id: int, protected_id: int | Sequence[int]) -> Tensor:
    """The batch's input_ids [batch, tokens] with a random share replaced by [UNK] (Iyyer et al. 2015).

    Padding and the protected tokens stay.
    """
    protected = torch.tensor(protected_id, device=batch.input_ids.device)
    chosen = torch.rand(batch.input_ids.shape, device=batch.input_ids.device) < share
    chosen &= (batch.attention_mask == 1) & ~torch.isin(batch.input_ids, protected)
    return batch.input_ids.masked_fill(chosen, unknown_id)
