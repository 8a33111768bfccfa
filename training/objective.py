"""Losses and learning-rate schedule of fine-tuning: pure functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from training.encoding import Batch
from training.modeling import StudentOutput


def multitask_loss(output: StudentOutput, batch: Batch, slot_weight: float, smoothing: float) -> Tensor:
    """Sum of the heads' cross entropies with label smoothing (Szegedy et al. 2016), the slots' times `slot_weight`.

    Each is the mean over its targets: utterances for domain and intent, first pieces of words for slots. A batch
    without any target for a head leaves that head out. Returns a scalar.
    """
    loss = torch.zeros((), device=batch.input_ids.device)
    for logits, target, weight in (
        (output.domain_logits, batch.domain, 1.0),
        (output.intent_logits, batch.intent, 1.0),
        (output.slot_logits, batch.slots, slot_weight),
    ):
        if logits is not None and bool((target >= 0).any()):
            flat = logits.float().flatten(0, -2)
            loss = loss + weight * functional.cross_entropy(flat, target.flatten(), label_smoothing=smoothing)
    return loss


def hide_pieces(batch: Batch, share: float, unknown_id: int, protected_id: int) -> Tensor:
    """The batch's input_ids [batch, pieces] with a random share replaced by [UNK]: word dropout (Iyyer et al. 2015)."""
    chosen = torch.rand(batch.input_ids.shape, device=batch.input_ids.device) < share
    chosen &= (batch.attention_mask == 1) & (batch.input_ids != protected_id)
    return batch.input_ids.masked_fill(chosen, unknown_id)


def rate_at(step: int, total: int, peak: float) -> float:
    """Learning rate of a step (from 0): linear warm-up over the first 5 % of the steps, then linear decay to 0."""
    warm_up = max(1, total // 20)
    return peak * min((step + 1) / warm_up, (total - step) / max(1, total - warm_up))
