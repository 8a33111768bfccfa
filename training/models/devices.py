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

TIMEOUT = timedelta(days=1)  # of processes that wait while the main one tokenises or scores


@dataclass(frozen=True)
class Split:
    """How the rows of a step are shared out: this process takes every `count`-th row from `index` on."""

    index: int = 0
    count: int = 1

    def enough(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The rows of a step, some of them twice where there would be none for some process."""
        return np.resize(rows, max(len(rows), self.count))

    def part_of(self, rows: NDArray[Any]) -> NDArray[Any]:
        """This process's part of the rows of a step."""
        return self.enough(rows)[self.index :: self.count]

    def scale(self, targets: int) -> float:
        """Factor of each process's sum over targets, so that the mean over processes is that over all `targets`."""
        return self.count / max(1, targets)


ALONE = Split()


def processes() -> Accelerator:
    """The processes and devices that `accelerate launch` has set up: without it, one process on the GPU or the CPU."""
    timeout = InitProcessGroupKwargs(timeout=TIMEOUT)
    # No encoder changes its buffers; to send them around before each of a step's calls would disturb the backward pass
    parallel = DistributedDataParallelKwargs(broadcast_buffers=False)
    return Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[timeout, parallel])


def split() -> Split:
    """The split of this process."""
    accelerator = processes()
    return Split(accelerator.process_index, accelerator.num_processes)


def leave() -> None:
    """End a command's processes together, once each has done its work.

    A process that ends without closing the process group may abort and take the others along. Not to be called on the
    way out of an error, where the other processes may never arrive.
    """
    processes().wait_for_everyone()
    processes().end_training()


def autocast_of(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """bf16 autocast where it was asked for or, with "auto", where the hardware computes it natively."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported()
    if precision == "bf16" or (precision == "auto" and native):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()
