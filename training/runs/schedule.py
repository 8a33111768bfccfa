"""Learning-rate schedule of a run."""

from __future__ import annotations


def rate_at(step: int, total: int, peak: float) -> float:
    """Learning rate of a step (from 0): linear warm-up over the first 5 % of the steps, then linear decay to 0."""
    warm_up = max(1, total // 20)
    return peak * min((step + 1) / warm_up, (total - step) / max(1, total - warm_up))
