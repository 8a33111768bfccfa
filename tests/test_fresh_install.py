"""The Dockerfile's steps in a fresh virtual environment: build, install the base only, serve."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_base_install_serves_the_shipped_student_without_torch(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), str(ROOT)]
    subprocess.run(install, check=True, cwd=tmp_path)

    installed = subprocess.run([str(python), "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    server = subprocess.Popen(
        [str(python), "-m", "service", "--port", "0", "--drain-delay", "0"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ},
    )
    try:
        assert server.stdout is not None
        lines = {
            line.split(":", 1)[0]: line.split(":", 1)[-1].strip() for line in (next(server.stdout) for _ in range(5))
        }
        request = urllib.request.Request(
            lines["Address"] + "/v1/nlu",
            json.dumps({"text": "weck mich am freitag um neun uhr auf", "locale": "de-DE"}).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as reply:
            answer = json.load(reply)
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(timeout=30)
        if server.stdout:
            server.stdout.close()

    assert not {"torch", "transformers", "optimum", "onnx"} & set(installed.split())
    assert answer["intent"]["name"] == "alarm_set"
    assert code == 0
