"""Report a run to TensorBoard, MLflow or Weights & Biases, through accelerate's trackers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from training.models.devices import processes
from training.runs.settings import RunSettings

PROJECT = "distilled-nlu"
EVERY = 10  # steps between reported losses


def require_tracker(name: str) -> None:
    """Raise ValueError where the package of a tracker is missing; "" is no tracker."""
    if name and find_spec(name) is None:
        raise ValueError(f"--track {name}: {name} is not installed; install it with: pip install {name}")


class Tracking:
    """Losses, rates and scores of a run, reported by its main process; does nothing without a tracker.

    TensorBoard's files are written to the folder `tensorboard` of the run. MLflow and Weights & Biases get a run of the
    folder's name in the project "distilled-nlu", by their own environment variables. A resumed run reports as another
    run to the latter two.
    """

    def __init__(self, name: str, out: Path, settings: RunSettings) -> None:
        """Start the tracker. Raises ValueError: its package is missing."""
        require_tracker(name)
        self._accelerator = None
        if not name:
            return
        run = {"mlflow": {"run_name": out.name}, "wandb": {"name": out.name, "dir": str(out)}}
        self._accelerator = processes(log_with=name, project_dir=out)
        project = name if name == "tensorboard" else PROJECT  # TensorBoard's is the name of a folder
        given = {key: value for key, value in asdict(settings).items() if value is not None}  # TensorBoard refuses None
        self._accelerator.init_trackers(project, given, {name: run[name]} if name in run else {})
        self._losses: list[float] = []

    def step(self, step: int, loss: float, rate: float, last: bool) -> None:
        """Take the loss and the rate of a step (from 1); they are reported every `EVERY` steps, losses as means."""
        if self._accelerator is None:
            return
        self._losses.append(loss)
        if step % EVERY == 0 or last:
            self._accelerator.log({"loss": sum(self._losses) / len(self._losses), "learning_rate": rate}, step=step)
            self._losses.clear()

    def scores(self, step: int, scores: Mapping[str, Any]) -> None:
        """Report scores after a step."""
        if self._accelerator is not None:
            self._accelerator.log({name: float(value) for name, value in scores.items()}, step=step)

    def end(self) -> None:
        """Close the tracker."""
        for tracker in self._accelerator.trackers if self._accelerator is not None else ():
            tracker.finish()
