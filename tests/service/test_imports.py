"""The service needs no training library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
import service, service.app, service.__main__
heavy = {"torch", "transformers", "optimum", "onnx", "datasets", "pandas"}
print(sorted(heavy & set(sys.modules)))
"""


def test_service_loads_no_training_library() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
