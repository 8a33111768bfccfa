"""A student behind TorchServe. Needs Java."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.peer_servers.answers import BATCH, WAIT_SECONDS
from benchmarks.peer_servers.serve import ServeOptions
from loadtest.load.target import free_port

NAME = "nlu"
HANDLER = Path(__file__).with_name("torchserve_handler.py")


def serve(options: ServeOptions) -> list[str]:
    """The command ``torchserve --foreground``, and the model archive and configuration that it reads."""
    store, config = options.scratch / "store", options.scratch / "config.properties"
    store.mkdir()
    archive = [str(Path(sys.executable).parent / "torch-model-archiver"), "--model-name", NAME, "--version", "1.0"]
    if options.is_batched:
        batching = options.scratch / "model-config.yaml"
        batching.write_text(f"batchSize: {BATCH}\nmaxBatchDelay: {max(1, round(1000 * WAIT_SECONDS))}\n")
        archive += ["--config-file", str(batching)]
    subprocess.run([*archive, "--handler", str(HANDLER), "--export-path", str(store)], check=True)
    addresses = {"inference": options.port, "management": free_port(), "metrics": free_port()}
    lines = [f"{name}_address=http://127.0.0.1:{port}" for name, port in addresses.items()]
    lines += [f"grpc_{name}_port={free_port()}" for name in ("inference", "management")]
    config.write_text("\n".join(lines) + "\n")
    os.chdir(options.scratch)  # where it writes its logs
    command = ["-m", "ts.model_server", "--start", "--foreground", "--ncs", "--disable-token-auth"]
    return [*command, "--model-store", str(store), "--ts-config", str(config), "--models", f"{NAME}={NAME}.mar"]
