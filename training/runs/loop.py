"""The training loop of all commands: optimiser steps with schedule and clipping, progress bar, exact resume."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from training.models.checkpoint import RESUME_FILE, save_resume_state
from training.models.devices import processes
from training.models.student import POSITION_BIAS, POST_NORM
from training.runs.settings import RunSettings
from training.runs.tracking import Tracking

State = dict[str, Any]

LAYER = re.compile(r"\b(?:blocks|layers?)\.(\d+)\.")  # of this project's encoder, and of Hugging Face ones
EMBEDDINGS = re.compile(r"embedding|positions")


def rate_at(step: int, total: int, peak: float, warm_up_share: float = 0.05) -> float:
    """Learning rate of a step (from 0): linear warm-up over a share of the steps, then linear decay to 0."""
    warm_up = max(1, int(total * warm_up_share + 1e-9))  # 1e-9: 0.05 is not exact
    return peak * min((step + 1) / warm_up, (total - step) / max(1, total - warm_up))


def parameter_groups(model: nn.Module, settings: RunSettings) -> list[dict[str, Any]]:
    """AdamW's parameter groups: no weight decay of norms and biases; rates by layer, and of the heads.

    A group's "scale" is its rate as a share of the run's rate: `layer_decay`^(layers above), for embeddings that of a
    layer below the first (Howard and Ruder 2018), and `head_rate` for the heads. Both are 1 where a command lacks them.
    """
    decay, heads = getattr(settings, "layer_decay", 1.0), getattr(settings, "head_rate", 1.0)
    layers = max(
        (int(found[1]) + 1 for name, _ in model.named_parameters() if (found := LAYER.search(name))), default=0
    )
    post_norm = getattr(getattr(model, "config", None), "norm", "") == POST_NORM
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        # the one norm outside the layers is that of the embeddings in a post-layer-norm encoder
        below = post_norm and name.startswith("norm.")
        layer = 0 if below else _layer_of(name, layers)
        scale = heads if name.startswith("heads.") else decay ** (layers - layer)
        of_norm_or_bias = parameter.ndim < 2 or POSITION_BIAS in name
        groups.setdefault((scale, 0.0 if of_norm_or_bias else settings.weight_decay), []).append(parameter)
    return [{"params": found, "scale": scale, "weight_decay": rate} for (scale, rate), found in groups.items()]


def _layer_of(name: str, layers: int) -> int:
    """The layer of a weight, from 1; 0 for embeddings, the last one for what follows the layers."""
    if found := LAYER.search(name):
        return int(found[1]) + 1
    return 0 if EMBEDDINGS.search(name) else layers


@dataclass(frozen=True)
class Storage:
    """The folder of a run, the steps between two saved states, the state of the interrupted run, and a tracker."""

    command: str
    out: Path
    save_every: int
    state: State | None = None
    track: str = ""  # one of TRACKERS, or ""
    quiet: bool = False  # a short run within another command: no progress bar, no tables, no resume state


@dataclass
class Progress:
    """Progress of a run: optimiser steps, seconds, the best score so far, and the history of scores and losses.

    `summed_loss` is the sum over the steps since the last reset; commands reset it after each epoch. `curve` are scores
    of held-out text by step.
    """

    step: int = 0
    seconds: float = 0.0
    summed_loss: float = 0.0
    best: float = float("-inf")
    best_epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    curve: list[dict[str, float]] = field(default_factory=list)


class Loop:
    """The steps of a run of `total` steps, on one device or, with `accelerate launch`, on several.

    `model` is called by a step; `bare` is the same without the wrapper for several processes. `facts` and the settings
    are saved with each resume state. All random numbers of a step depend on (seed, step, process) only, so a run that
    is killed and resumed takes the same steps.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: RunSettings,
        storage: Storage,
        total: int,
        facts: State,
        average: float = 0.0,
        helper: nn.Module | None = None,
    ) -> None:
        """Set up the optimiser, or restore that of an interrupted run; then save the first state.

        With `average` in (0, 1), an exponential moving average of the weights (Polyak and Juditsky 1992) is kept: the
        model to score and to save. A `helper` is trained beside the model, at the rate of its heads, and thrown away.
        """
        self.total, self.out, self.save_every, state = total, storage.out, storage.save_every, storage.state
        self.facts = {"command": storage.command, "settings": asdict(settings), **facts}
        self.progress = Progress()
        self.bare, self._settings, self._quiet = model, settings, storage.quiet
        rule = get_ema_multi_avg_fn(average)  # type: ignore[no-untyped-call]
        self._average = AveragedModel(model, multi_avg_fn=rule) if average else None
        groups = parameter_groups(model, settings)
        helped = [*helper.parameters()] if helper is not None else []
        if helped:
            groups.append({"params": helped, "scale": getattr(settings, "head_rate", 1.0), "weight_decay": 0.0})
        optimiser = torch.optim.AdamW(groups, fused=True)
        self._measured_from = time.monotonic()
        self._bar: tqdm[Any] | None = None
        if state is not None:
            model.load_state_dict(state["model"])
            optimiser.load_state_dict(state["optimiser"])
            if self._average is not None:
                self._average.load_state_dict(state["average"])
            if helper is not None:
                helper.load_state_dict(state["helper"])
            self.progress = Progress(**state["progress"])
        self._accelerator = processes()
        self.model, self._optimiser = self._accelerator.prepare(model, optimiser)
        self._bare_helper = helper
        self.helper = self._accelerator.prepare(helper) if helped else helper  # without weights it can't be wrapped
        self._trained = [*self.model.parameters(), *helped]
        self._saved_step = self.progress.step
        if state is None:
            self.save_state()
        self._tracking = Tracking(storage.track, storage.out, settings)

    @property
    def result(self) -> nn.Module:
        """The model to score and to save: the average of the weights where one is kept."""
        return self.bare if self._average is None else self._average.module

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.progress.step >= self.total

    @property
    def _shows(self) -> bool:
        return self.is_main and not self._quiet

    @property
    def is_main(self) -> bool:
        """Whether this is the process that scores, saves and reports."""
        return bool(self._accelerator.is_main_process)

    @contextmanager
    def bar(self) -> Iterator[None]:
        """Show progress on standard error: steps, rate, time left, loss."""
        pace, done = 0.5 if sys.stderr.isatty() else 15, self.progress.step
        with tqdm(total=self.total, initial=done, unit="step", mininterval=pace, disable=not self._shows) as self._bar:
            yield

    def describe(self, text: str) -> None:
        """Set the description of the progress bar."""
        if self._bar is not None:
            self._bar.set_description(text, refresh=False)

    def say(self, text_of: Callable[[], str]) -> None:
        """Print a line above the progress bar; the function is called by the main process alone."""
        if self._shows:
            tqdm.write(text_of(), file=sys.stderr)

    def report(self, scores: Mapping[str, Any]) -> None:
        """Report scores of the present step to the tracker."""
        self._tracking.scores(self.progress.step, scores)

    def step(self, loss_of: Callable[[], Tensor], record_every: int = 0) -> float:
        """One optimiser step on the loss of the function; saves the state every `save_every` steps. Returns the loss.

        The loss is the mean over the processes. With `record_every`, it goes into the history every so many steps.
        Raises FloatingPointError: loss or gradient is not finite; the weights are still those of the step before.
        """
        step, process = self.progress.step, self._accelerator.process_index
        torch.manual_seed(int(np.random.SeedSequence([self._settings.seed, step, process]).generate_state(1)[0]))
        rate = rate_at(step, self.total, self._settings.learning_rate, self._settings.warm_up)
        for group in self._optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        self.model.train()
        if self.helper is not None:
            self.helper.train()
        loss = loss_of()
        value = float(self._accelerator.reduce(loss.detach(), "mean").item())
        self._require_finite("loss", value)
        self._optimiser.zero_grad(set_to_none=True)
        self._accelerator.backward(loss)
        longest = self._settings.max_grad_norm or math.inf
        norm = self._accelerator.clip_grad_norm_(self._trained, longest)
        self._require_finite("gradient", float(norm))
        self._optimiser.step()
        if self._average is not None:
            self._average.update_parameters(self.bare)
        self.progress.step += 1
        self.progress.summed_loss += value
        self._tracking.step(self.progress.step, value, rate, self.finished)
        if record_every and self.progress.step % record_every == 0:
            self.progress.history.append({"step": self.progress.step, "loss": round(value, 4)})
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{value:.3f}", refresh=False)
            self._bar.update()
        if self.progress.step % self.save_every == 0:
            self.save_state()
        return value

    def _require_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            stopped = f"{what} is {value} at step {self.progress.step}: stopped before it reached the weights"
            saved = f"{self.out / RESUME_FILE} holds step {self._saved_step}"
            advice = "continue from there with --resume and a lower --learning-rate, or --precision fp32"
            raise FloatingPointError(f"{stopped}; {saved}; {advice}")

    def save_state(self) -> None:
        """Write the state from which the run can be resumed exactly."""
        now = time.monotonic()
        self.progress.seconds += now - self._measured_from
        self._measured_from = now
        self._saved_step = self.progress.step
        if self.is_main and not self._quiet:
            average = self._average.state_dict() if self._average is not None else None
            weights = {"model": self.bare.state_dict(), "optimiser": self._optimiser.state_dict(), "average": average}
            if self._bare_helper is not None:
                weights["helper"] = self._bare_helper.state_dict()
            save_resume_state(self.out, {**self.facts, **weights, "progress": asdict(self.progress)})

    def end(self) -> None:
        """Close the tracker, and delete the resume state of the finished run."""
        self._tracking.end()
        if self.is_main:
            (self.out / RESUME_FILE).unlink(missing_ok=self._quiet)
        self._accelerator.wait_for_everyone()


def source_commit() -> str:
    """The commit of the code, with "-dirty" where files differ; the version of an installed package."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return f"version {version('distilled-nlu')}"
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
