"""The machine and the package versions of a measurement."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from loadtest.load.target import usable_cores

PACKAGES = ("onnxruntime", "numpy", "tokenizers", "fastapi", "pydantic", "uvicorn", "uvloop", "httptools", "orjson")


def machine() -> dict[str, Any]:
    """CPU model and number of usable cores."""
    return {"cpu": _cpu(), "cores": len(usable_cores()) or os.cpu_count()}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that serve."""
    return {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
