"""What every training command shares: optimiser steps with schedule and clipping, a progress bar, exact resume."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from training.checkpoint import save_resume_state
from training.objective import rate_at

CLIP = 1.0


@dataclass
class Progress:
    """Where a run stands: optimiser steps done, seconds spent, the best score so far, and what was measured when."""

    step: int = 0
    seconds: float = 0.0
    best: float = float("-inf")
    best_epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


class Loop:
    """The optimiser's side of a run of `total` steps.

    Usage::

        loop = Loop(model, total=1000, learning_rate=1e-3, out=folder, facts={"settings": ...}, state=resumed_or_none)
        with loop.bar():
            while not loop.finished:
                loop.step(lambda: loss_of(next_batch))

    `facts` is saved with each resume state, for the command to set itself up again.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        total: int,
        learning_rate: float,
        weight_decay: float,
        out: Path,
        save_every: int,
        facts: dict[str, Any],
        average: float = 0.0,
        state: dict[str, Any] | None = None,
    ) -> None:
        """Set up the optimiser, or restore the one whose `state` is given.

        With `average` in (0, 1), an exponential moving average of the weights (Polyak and Juditsky 1992) is kept beside
        the model: the one to score and to save.
        """
        self.model, self.total, self.out, self.facts = model, total, out, facts
        self.progress = Progress()
        self._peak, self._save_every = learning_rate, save_every
        rule = get_ema_multi_avg_fn(average)  # type: ignore[no-untyped-call]
        self._average = AveragedModel(model, multi_avg_fn=rule) if average else None
        self._optimiser = torch.optim.AdamW(model.parameters(), weight_decay=weight_decay, fused=True)
        self._measured_from = time.monotonic()
        self._bar: tqdm[Any] | None = None
        if state is not None:
            model.load_state_dict(state["model"])
            self._optimiser.load_state_dict(state["optimiser"])
            if self._average is not None:
                self._average.load_state_dict(state["average"])
            torch.set_rng_state(state["random"])
            torch.cuda.set_rng_state_all(state["random_cuda"])
            self.progress = Progress(**state["progress"])

    @property
    def result(self) -> nn.Module:
        """The model to score and to save: the average of the weights where one is kept."""
        return self.model if self._average is None else self._average.module

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.progress.step >= self.total

    @contextmanager
    def bar(self) -> Iterator[None]:
        """Show progress on standard error: steps, rate, time left, loss."""
        pace = 0.5 if sys.stderr.isatty() else 15
        with tqdm(total=self.total, initial=self.progress.step, unit="step", mininterval=pace) as self._bar:
            yield

    def describe(self, text: str) -> None:
        """Say in the progress bar what is being done."""
        if self._bar is not None:
            self._bar.set_description(text, refresh=False)

    def step(self, loss_of: Callable[[], Tensor]) -> float:
        """One optimiser step on the loss that the function computes; saves the state when it is time. Returns the loss.

        Raises:
            FloatingPointError: the loss is not finite; the weights are still those of the step before.
        """
        rate = rate_at(self.progress.step, self.total, self._peak)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self.model.train()
        loss = loss_of()
        value = float(loss.item())
        if value != value or value in (float("inf"), float("-inf")):
            raise FloatingPointError(f"loss is {value} at step {self.progress.step}; try a lower learning rate")
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self._optimiser.step()
        if self._average is not None:
            self._average.update_parameters(self.model)
        self.progress.step += 1
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{value:.3f}", refresh=False)
            self._bar.update()
        if self.progress.step % self._save_every == 0:
            self.save_state()
        return value

    def save_state(self) -> None:
        """Write everything that is needed to continue exactly from here."""
        now = time.monotonic()
        self.progress.seconds += now - self._measured_from
        self._measured_from = now
        state = {
            **self.facts,
            "model": self.model.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "average": self._average.state_dict() if self._average is not None else None,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all(),
            "progress": asdict(self.progress),
        }
        save_resume_state(self.out, state)


def device_of_this_machine() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast_of(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """bf16 autocast where it was asked for or, with "auto", where the hardware computes it natively."""
    native = device.type == "cuda" or bool(torch.cpu._is_avx512_bf16_supported())
    if precision == "bf16" or (precision == "auto" and native):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def source_commit() -> str:
    """The commit that the code was run from, with "-dirty" where files differ; the version where it is installed."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return f"version {version('distilled-nlu')}"
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
