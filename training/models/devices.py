"""Processes, devices and precision that models run on."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from numpy.typing import NDArray

TIMEOUT = timedelta(days=1)  # for processes that wait while the main one tokenises or scores


@dataclass(frozen=True)
class Split:
    """The split of a step's rows among processes: this process takes every `count`-th row from `index` on."""

    index: int = 0
    count: int = 1

    def enough(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The rows of a step, repeated until each process has one."""
        return np.resize(rows, max(len(rows), self.count))

    def part_of(self, rows: NDArray[Any]) -> NDArray[Any]:
        """This process's part of the rows of a step."""
        return self.enough(rows)[self.index :: self.count]

    def scale(self, targets: int) -> float:
        """Factor of a process's sum over targets; with it the mean over processes is the mean over all `targets`."""
        return self.count / max(1, targets)


ALONE = Split()


def processes(**options: Any) -> Accelerator:
    """The processes and devices of `accelerate launch`; without it, one process on the GPU or the CPU.

    `options` are further arguments of `Accelerator`, such as trackers.
    """
    timeout = InitProcessGroupKwargs(timeout=TIMEOUT)
    # No encoder changes its buffers; broadcasting them before each forward call would break the backward pass
    parallel = DistributedDataParallelKwargs(broadcast_buffers=False)
    return Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[timeout, parallel], **options)


def split() -> Split:
    """The split of this process."""
    accelerator = processes()
    return Split(accelerator.process_index, accelerator.num_processes)


def leave() -> None:
    """End a command's processes together, once each has finished.

    A process that ends without closing the process group may abort the others. Do not call it after an error, where it
    may wait for the other processes forever.
    """
    processes().wait_for_everyone()
    processes().end_training()


def autocast_of(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """bf16 autocast with "bf16", or with "auto" where the hardware supports it natively."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported()
    if precision == "bf16" or (precision == "auto" and native):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()
