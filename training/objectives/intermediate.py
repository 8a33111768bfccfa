"""The loss between hidden states of a student and a fine-tuned teacher: which loss, between which layers.

States are compared at a text's first token and at the first token of each word, so student and teacher may have
different tokenizers. Projections and critics are trained with the student, and are no part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog  # type: ignore[import-untyped,unused-ignore]
from torch import Tensor, nn
from torch.nn import functional

from training.objectives.layer_mapping import LAYER_MAPPINGS
from training.objectives.losses import HIDDEN_LOSSES, choose
from training.objectives.mutual_information import Critics

EMD = "emd"  # all pairs of layers, weighted by a transport plan
MI = "mi"  # the negative bound of mutual information
MAX_PAIRS = 256  # states of a batch between which mutual information is estimated


class Shape(NamedTuple):
    """Layers and width of an encoder."""

    layers: int
    width: int


def transport_plan(costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The plan [S, T] of least total cost between S student layers and T teacher layers of equal weights.

    Each row sums to 1 / S, each column to 1 / T (the earth mover's distance, as in BERT-EMD: Li et al. 2020, section
    3.2, whose learned layer weights are left out). Raises ValueError: a cost is not finite.
    """
    students, teachers = costs.shape
    if not np.isfinite(costs).all():
        raise ValueError("a cost of the transport plan is not finite")
    rows = np.kron(np.eye(students), np.ones(teachers))
    columns = np.kron(np.ones(students), np.eye(teachers))
    marginals = np.concatenate([np.full(students, 1 / students), np.full(teachers, 1 / teachers)])
    found = linprog(costs.ravel(), A_eq=np.concatenate([rows, columns]), b_eq=marginals, method="highs")
    plan: NDArray[np.float64] = found.x.reshape(costs.shape)
    return plan


class IntermediateLoss(nn.Module):
    """A hidden-state loss with its layer mapping: the mean over the pairs of layers, or the plan's sum with `EMD`.

    Where widths differ and the loss needs equal ones, each layer of the student has a linear projection to the
    teacher's width (Jiao et al. 2020, section 3.1).
    """

    def __init__(self, loss: str, mapping: str, alpha: float, student: Shape, teacher: Shape) -> None:
        """Raises ValueError: unknown loss or mapping, or an alpha out of range."""
        super().__init__()
        self.is_plan, self._alpha = mapping == EMD, alpha
        if self.is_plan:
            layers, theirs = range(1, student.layers + 1), range(1, teacher.layers + 1)
            self.pairs = [(i, j) for i in layers for j in theirs]
        else:
            allowed = {**LAYER_MAPPINGS, EMD: None}
            mapped = choose(allowed, mapping, "layer mapping")
            assert mapped is not None
            self.pairs = mapped(student.layers, teacher.layers)
        ours = sorted({i for i, _ in self.pairs})
        widths = (student.width, teacher.width)
        self._loss = None if loss == MI else choose({**HIDDEN_LOSSES}, loss, "hidden loss")
        self.critics = Critics(ours, sorted({j for _, j in self.pairs}), widths) if self._loss is None else None
        unequal = self._loss is not None and self._loss.equal_widths and student.width != teacher.width
        self.projections = nn.ModuleDict({str(i): nn.Linear(*widths) for i in ours if unequal})

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
        """The loss of states [texts, words, width] by layer, the embeddings first; `mask` is [texts, words]; a scalar.

        With `MI`, it is the negative bound in nats; 0 where there are fewer than two states.
        """
        costs = (
            self._information(student, teacher, mask) if self._loss is None else self._losses(student, teacher, mask)
        )
        if not self.is_plan:
            return torch.stack(costs).mean()
        found = torch.stack(costs)
        shape = (len({i for i, _ in self.pairs}), -1)
        plan = transport_plan(found.detach().double().reshape(shape).cpu().numpy())
        return (found * torch.from_numpy(plan.ravel()).to(found)).sum()

    def _information(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> list[Tensor]:
        """The negative bound of each pair of layers."""
        assert self.critics is not None
        there = mask.bool().flatten().nonzero()[:, 0]
        if len(there) < 2:
            return [student[i].float().sum() * 0 for i, _ in self.pairs]
        # time grows with the square of the number of states
        there = there[torch.randperm(len(there), device=there.device)[:MAX_PAIRS]]
        ours = {i: _chosen(student[i], there) for i, _ in self.pairs}
        theirs = {j: _chosen(teacher[j], there) for _, j in self.pairs}
        return [-self.critics.bound(i, j, ours[i], theirs[j], self._alpha) for i, j in self.pairs]

    def _losses(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> list[Tensor]:
        """The loss of each pair of layers."""
        assert self._loss is not None
        projected = {i: self._projected(i, student[i]) for i, _ in self.pairs}
        return [self._loss.function(projected[i], teacher[j], mask) for i, j in self.pairs]

    def _projected(self, layer: int, states: Tensor) -> Tensor:
        name = str(layer)
        return self.projections[name](states) if name in self.projections else states


def _chosen(states: Tensor, places: Tensor) -> Tensor:
    """The states at these places of the flattened words, normalised, as layers differ in scale."""
    chosen = states.flatten(0, 1)[places].float()
    return functional.layer_norm(chosen, chosen.shape[-1:])
