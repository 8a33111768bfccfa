"""What figures were measured on, and with what."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from loadtest.load.target import usable_cores

PACKAGES = ("onnxruntime", "numpy", "tokenizers", "fastapi", "pydantic", "uvicorn", "uvloop", "httptools", "orjson")


def machine() -> dict[str, Any]:
    """What it was measured on."""
    return {"cpu": _cpu(), "cores": len(usable_cores()) or os.cpu_count()}


def versions() -> dict[str, str]:
    """What it was measured with."""
    return {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
