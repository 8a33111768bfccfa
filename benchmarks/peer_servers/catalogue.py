"""The peers: what each needs, how it is asked, and what its two settings are. The one table of versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.peer_servers.answers import BATCH, BATCHED, DEFAULTS, WAIT_SECONDS
from benchmarks.peer_servers.wire import Wire, list_json, plain_json, v2

GATHERED = f"up to {BATCH} requests, {1000 * WAIT_SECONDS:g} ms"
BASE = ("numpy", "onnxruntime", "tokenizers", "pydantic", "orjson")  # the student's; in the versions that run here


@dataclass(frozen=True)
class Peer:
    """A framework that serves the same student.

    Attributes:
        name: on the command line, and of its environment's folder.
        title: what people call it.
        distribution: whose version is reported; it is there if this is installed.
        requirements: what pip installs for it beside `base`; a version of one of these goes before ours.
        module: its server, behind ``python -m``.
        wires: for each setting, how it is asked.
        configured: for each setting, what it is.
        programs: what else must be on the path, and what provides it.
        base: what it needs in the versions that are installed here.
    """

    name: str
    title: str
    distribution: str
    requirements: tuple[str, ...]
    wires: Mapping[str, Wire]
    configured: Mapping[str, str]
    programs: Mapping[str, str]
    base: tuple[str, ...] = BASE

    @property
    def module(self) -> str:
        """Its server, behind ``python -m``."""
        return f"benchmarks.peer_servers.{self.name}_app"


def _peer(
    name: str,
    title: str,
    distribution: str,
    requirements: tuple[str, ...],
    wires: tuple[Wire, ...],
    configured: tuple[str, ...],
    programs: Mapping[str, str] | None = None,
) -> Peer:
    settings = (DEFAULTS, BATCHED)[: len(configured)]
    each = wires * len(settings) if len(wires) == 1 else wires
    return Peer(
        name,
        title,
        distribution,
        requirements,
        dict(zip(settings, each, strict=True)),
        dict(zip(settings, configured, strict=True)),
        programs or {},
    )


PEERS = {
    peer.name: peer
    for peer in (
        _peer("fastapi", "plain FastAPI (control)", "fastapi", (), (plain_json("/v1/nlu"),), ("as the plain one",)),
        _peer(
            "litserve",
            "LitServe",
            "litserve",
            ("litserve==0.2.19",),
            (plain_json("/predict"),),
            ("LitServer(api, accelerator='cpu')", f"and max_batch_size, batch_timeout: {GATHERED}"),
        ),
        _peer(
            "bentoml",
            "BentoML",
            "bentoml",
            ("bentoml==1.4.39",),
            (plain_json("/predict"), list_json("/predict", "items")),
            ("bentoml serve", f"batchable=True, max_batch_size={BATCH}; its own latency target"),
        ),
        _peer(
            "mlserver",
            "MLServer",
            "mlserver",
            ("mlserver==1.7.1", "uvloop==0.21.0"),
            (v2("nlu"),),
            ("mlserver start", f"max_batch_size, max_batch_time: {GATHERED}"),
        ),
        _peer(
            "ray",
            "Ray Serve",
            "ray",
            ("ray[serve]==2.60.0",),
            (plain_json("/"),),
            ("@serve.deployment, one replica", f"@serve.batch: {GATHERED}; max_ongoing_requests={2 * BATCH}"),
        ),
        _peer(
            "torchserve",
            "TorchServe",
            "torchserve",
            ("torchserve==0.12.0", "torch-model-archiver==0.12.0", "torch==2.13.0"),
            (plain_json("/predictions/nlu"),),
            ("torchserve --foreground", f"batchSize, maxBatchDelay: {GATHERED}"),
            {"java": "Debian's openjdk-17-jre-headless"},
        ),
        _peer(
            "triton",
            "Triton (pytriton)",
            "nvidia-pytriton",
            ("nvidia-pytriton==0.7.0", "numpy==1.26.4"),
            (v2("nlu"),),
            ("ModelConfig()", f"max_batch_size, max_queue_delay_microseconds: {GATHERED}"),
        ),
    )
}

# A product of its own, with a model of its own: `python -m benchmarks.rasa`. It runs on Python 3.8 to 3.10
RASA = Peer("rasa", "Rasa", "rasa", ("rasa==3.6.21",), {}, {}, {}, base=())
