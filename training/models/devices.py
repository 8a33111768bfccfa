"""Processes, devices and precision that models run on."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

PATIENCE = timedelta(days=1)  # of processes that wait while the main one tokenises or scores


def processes() -> Accelerator:
    """The processes and devices that `accelerate launch` has set up: without it, one process on the GPU or the CPU."""
    patience = InitProcessGroupKwargs(timeout=PATIENCE)
    # No encoder changes its buffers; to send them around before each of a step's calls would disturb the backward pass
    still = DistributedDataParallelKwargs(broadcast_buffers=False)
    return Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[patience, still])


def leave() -> None:
    """End a command's processes together, once each has done its work.

    What connects them has threads of its own: a process that ends without closing it may abort, and take the others
    along. Not to be called on the way out of an error, where the others may never come.
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
