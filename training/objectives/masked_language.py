"""Masked language modelling: masking, the trained module, loss and scores (Devlin et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from training.models.batches import IGNORED
from training.models.devices import Split, autocast_of
from training.models.student import StudentOutput
from training.text.lines import Lines
from training.text.tokenizer import SpecialIds


class MaskedLanguageModel(nn.Module):
    """A model, called once a step, as distributed training requires; no logits without a masked-language head."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, chosen: Tensor, all_layers: bool = False
    ) -> tuple[Tensor, StudentOutput]:
        """Logits [chosen tokens, vocabulary] where `chosen` [batch, tokens] is true, and the encoder's output."""
        output = self.model(input_ids, attention_mask, all_layers=all_layers)
        if not self.model.config.masked:
            return output.last_hidden_state.new_zeros(0), output
        return self.model.token_logits(output.last_hidden_state[chosen]), output


@dataclass(frozen=True)
class MaskedBatch:
    """Lines with masked tokens: input_ids, attention_mask, targets (IGNORED: no prediction), [lines, tokens].

    `total` counts the targets of the step over all processes.
    """

    input_ids: Tensor
    attention_mask: Tensor
    targets: Tensor
    total: int

    @property
    def chosen(self) -> Tensor:
        """The positions to be predicted, [lines, tokens]."""
        return self.targets != IGNORED

    def to(self, device: torch.device) -> MaskedBatch:
        """The batch on a device."""
        return replace(self, **{x: getattr(self, x).to(device) for x in ("input_ids", "attention_mask", "targets")})


@dataclass(frozen=True)
class MaskedText:
    """A text whose batches get new masks in each step, which depend on seed and step only; a share of 0: no masks."""

    lines: Lines
    special: SpecialIds
    vocabulary: int
    share: float
    seed: int

    def batch(self, rows: NDArray[np.int64], step: int, split: Split) -> MaskedBatch:
        """This process's part of the rows of a step."""
        whole = self._masked(split.enough(rows), [self.seed, step])
        part = torch.from_numpy(split.part_of(np.arange(len(whole.input_ids))))
        return MaskedBatch(whole.input_ids[part], whole.attention_mask[part], whole.targets[part], whole.total)

    def held_out(self) -> list[MaskedBatch]:
        """The held-out lines, always with the same masks."""
        parts = np.array_split(self.lines.held_out, max(1, len(self.lines.held_out) // 64))
        return [self._masked(rows, [0, i]) for i, rows in enumerate(parts) if len(rows)]

    def _masked(self, rows: NDArray[np.int64], seed: list[int]) -> MaskedBatch:
        input_ids, mask = self.lines.batch(rows, self.special.pad)
        if not self.share:
            return MaskedBatch(input_ids, mask, torch.full_like(input_ids, IGNORED), 0)
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        corrupted, targets = mask_tokens(input_ids, self.share, self.special, self.vocabulary, generator)
        return MaskedBatch(corrupted, mask, targets, int((targets != IGNORED).sum()))


def mask_tokens(
    input_ids: Tensor, share: float, special: SpecialIds, vocabulary: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Corrupted input_ids, and targets (IGNORED where there is no prediction), both [batch, tokens].

    Of a `share` of the tokens, at least one in a batch, 80 % become the mask, 10 % a random token, 10 % stay (Devlin et
    al. 2019). Special tokens, padding among them, are never chosen nor drawn.
    """
    protected = torch.tensor(special.protected)
    candidates = ~torch.isin(input_ids, protected)
    drawn = torch.rand(input_ids.shape, generator=generator).masked_fill(~candidates, 1.0)
    chosen = candidates & ((drawn < share) | (drawn == drawn.min()))
    fate = torch.rand(input_ids.shape, generator=generator)
    anything = torch.randint(vocabulary, input_ids.shape, generator=generator)
    anything = torch.where(torch.isin(anything, protected), input_ids, anything)
    corrupted = torch.where(chosen & (fate < 0.8), torch.full_like(input_ids, special.mask), input_ids)
    corrupted = torch.where(chosen & (fate >= 0.8) & (fate < 0.9), anything, corrupted)
    return corrupted, torch.where(chosen, input_ids, torch.full_like(input_ids, IGNORED))


def masked_loss(logits: Tensor, batch: MaskedBatch, split: Split) -> Tensor:
    """Cross entropy (nats) of this process's targets, scaled to its part of the mean over all targets of the step."""
    total = functional.cross_entropy(logits.float(), batch.targets[batch.chosen], reduction="sum")
    return total * split.scale(batch.total)


def unigram_entropy(text: MaskedText) -> float:
    """The entropy (nats a token) of the held-out lines' tokens, without special ones; 0 without such lines.

    No model that only knows how frequent tokens are has a lower loss on these tokens: a student above it has learned
    nothing about their context.
    """
    lines = text.lines
    counts = np.zeros(text.vocabulary, dtype=np.int64)
    for row in lines.held_out:
        np.add.at(counts, np.asarray(lines.tokens[lines.starts[row] : lines.starts[row + 1]], dtype=np.int64), 1)
    counts[list(text.special.protected)] = 0
    share = counts[counts > 0] / max(1, counts.sum())
    return float(-(share * np.log(share)).sum())


def held_out_scores(model: MaskedLanguageModel, text: MaskedText, precision: str) -> dict[str, float]:
    """`held_out_loss` (nats a token) and `held_out_accuracy` (percent of masked tokens) on the held-out lines.

    Empty where the text is too short to hold out lines.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    loss, right, total = 0.0, 0, 0
    with torch.inference_mode(), autocast_of(precision, device):
        for batch in (held_out.to(device) for held_out in text.held_out()):
            logits, _ = model(batch.input_ids, batch.attention_mask, batch.chosen)
            targets = batch.targets[batch.chosen]
            loss += float(functional.cross_entropy(logits.float(), targets, reduction="sum"))
            right += int((logits.argmax(-1) == targets).sum())
            total += batch.total
    model.train(was_training)
    if not total:
        return {}
    return {"held_out_loss": round(loss / total, 4), "held_out_accuracy": round(100 * right / total, 2)}
