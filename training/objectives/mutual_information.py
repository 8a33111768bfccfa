"""A lower bound of the mutual information between the hidden states of student and teacher, to be maximised.

The interpolated bound of Poole et al. 2019 ("On variational bounds of mutual information", section 2.3), which He et
al. 2021 (Distiller) call MI-alpha. Information is in nats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

WIDTH = 128  # of the critic


def interpolated_bound(scores: Tensor, log_baseline: Tensor, alpha: float) -> Tensor:
    """The interpolated bound of K pairs (x_i, y_i), a scalar in nats.

    `scores` [K, K] are f(x_i, y_j), of which the diagonal are pairs from p(x, y) and the rest from p(x) p(y);
    `log_baseline` [K] is log q(y_j)::

        I = 1 + E_p(x,y)[log(exp f / m)] - E_p(x)p(y)[exp f / m],   m = alpha (batch mean of exp f) + (1 - alpha) q(y)

    The batch mean of y_j is over all K rows in the first expectation, where y_j's own row is among them. In the second
    it is over the K - 1 other rows, which are independent of y_j. So with alpha = 1 the second is 1, and the bound is
    InfoNCE (van den Oord et al. 2018), at most log K. With alpha = 0 it is the unnormalised bound (TUBA; Poole et al.,
    eq. 4), which has no such limit, but a high variance.

    Raises ValueError: alpha is not in 0 to 1, or there are fewer than two pairs.
    """
    count = len(scores)
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha {alpha} is out of range; allowed: 0 to 1")
    if count < 2:
        raise ValueError(f"{count} pairs; a bound of mutual information needs at least 2")
    scores, log_baseline = scores.float(), log_baseline.float()
    own = torch.eye(count, dtype=torch.bool, device=scores.device)
    others = scores.masked_fill(own, -math.inf)
    joint = scores.diagonal() - _interpolated(scores.logsumexp(0) - math.log(count), log_baseline, alpha)
    among_others = others.logsumexp(0) - math.log(count - 1)
    # exp f / m of the other rows, summed over them: their mean is exp(among_others) / m
    marginal = (among_others - _interpolated(among_others, log_baseline, alpha)).exp()
    return 1 + joint.mean() - marginal.mean()


def _interpolated(log_mean: Tensor, log_baseline: Tensor, alpha: float) -> Tensor:
    """log(alpha exp(log_mean) + (1 - alpha) exp(log_baseline))."""
    if alpha in (0, 1):
        return log_mean if alpha else log_baseline
    return torch.logaddexp(log_mean + math.log(alpha), log_baseline + math.log1p(-alpha))


class Critics(nn.Module):
    """The critics f(x, y) = g(x) h(y) and baselines q(y) between layers of a student and of its teacher.

    g of each student layer, h and log q of each teacher layer are networks with one hidden layer. They are trained
    together with the student, and are no part of it.
    """

    def __init__(self, student: Sequence[int], teacher: Sequence[int], widths: tuple[int, int]) -> None:
        """Networks for these layers; `widths` are those of student and teacher."""
        super().__init__()
        self.student = nn.ModuleDict({str(layer): _network(widths[0], WIDTH) for layer in student})
        self.teacher = nn.ModuleDict({str(layer): _network(widths[1], WIDTH) for layer in teacher})
        self.baseline = nn.ModuleDict({str(layer): _network(widths[1], 1) for layer in teacher})

    def bound(self, student: int, teacher: int, ours: Tensor, theirs: Tensor, alpha: float) -> Tensor:
        """The bound of the information between states [K, width] of a student layer and a teacher layer."""
        scores = self.student[str(student)](ours) @ self.teacher[str(teacher)](theirs).T * WIDTH**-0.5
        return interpolated_bound(scores, self.baseline[str(teacher)](theirs)[:, 0], alpha)


def _network(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, WIDTH), nn.GELU(), nn.Linear(WIDTH, outputs))
