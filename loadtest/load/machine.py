"""What figures were measured on, and with what; and how much memory a process holds."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from loadtest.load.target import usable_cores

PACKAGES = ("onnxruntime", "numpy", "tokenizers", "fastapi", "pydantic", "uvicorn", "uvloop", "httptools", "orjson")


def machine() -> dict[str, Any]:
    """What it was measured on."""
    return {"cpu": _cpu(), "cores": len(usable_cores()) or os.cpu_count()}


def versions() -> dict[str, str]:
    """What it was measured with."""
    return {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}


def memory_of(process: int) -> int | None:
    """Bytes of a process and all below it; what they share counts once. None where the system does not tell."""
    try:
        top = psutil.Process(process)
        total: int = sum(one.memory_full_info().pss for one in (top, *top.children(recursive=True)))
        return total
    except (psutil.Error, AttributeError):  # one has just ended, or the system knows no proportional sizes
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
