"""A student behind TorchServe; started by ``python -m benchmarks.peers``. Needs Java."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.peer_servers.answers import BATCH, WAIT_SECONDS, Told, free_port, told

NAME = "nlu"
HANDLER = Path(__file__).with_name("torchserve_handler.py")


def pack(given: Told) -> None:
    """Make the model archive and the server's configuration."""
    bin_folder = Path(sys.executable).parent
    store = given.scratch / "store"
    store.mkdir()
    archive = [str(bin_folder / "torch-model-archiver"), "--model-name", NAME, "--version", "1.0"]
    more = []
    if given.is_batched:
        config = given.scratch / "model-config.yaml"
        config.write_text(f"batchSize: {BATCH}\nmaxBatchDelay: {max(1, round(1000 * WAIT_SECONDS))}\n")
        more = ["--config-file", str(config)]
    subprocess.run([*archive, "--handler", str(HANDLER), "--export-path", str(store), *more], check=True)
    addresses = {
        "inference_address": given.port,
        "management_address": free_port(),
        "metrics_address": free_port(),
        "grpc_inference_port": None,
        "grpc_management_port": None,
    }
    lines = [f"{key}={free_port() if port is None else f'http://127.0.0.1:{port}'}" for key, port in addresses.items()]
    (given.scratch / "config.properties").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Become ``torchserve --foreground``."""
    given = told()
    pack(given)
    command = [sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--ncs", "--disable-token-auth"]
    files = ["--model-store", str(given.scratch / "store"), "--ts-config", str(given.scratch / "config.properties")]
    os.chdir(given.scratch)  # where it writes its logs
    os.execv(sys.executable, [*command, *files, "--models", f"{NAME}={NAME}.mar"])


if __name__ == "__main__":
    main()
