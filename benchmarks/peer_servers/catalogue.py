"""The peers: what each needs, how it is asked, and what its two settings are. The one table of versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.peer_servers.answers import BATCH, WAIT_SECONDS
from benchmarks.peer_servers.serve import BATCHED, DEFAULTS
from benchmarks.peer_servers.wire import Wire, list_json, plain_json, v2

GATHERED = f"up to {BATCH} requests, {1000 * WAIT_SECONDS:g} ms"
BASE = ("numpy", "onnxruntime", "tokenizers", "pydantic", "orjson")  # the student's; in the versions that run here


class Setting(NamedTuple):
    """A setting of a framework: how it is asked, and what is configured."""

    wire: Wire
    configured: str


@dataclass(frozen=True)
class Peer:
    """A framework that serves the same student.

    Attributes:
        name: on the command line, of its module and of its environment's folder.
        title: what people call it.
        distribution: whose version is reported; it is there if this is installed.
        requirements: what pip installs for it beside `base`; a version of one of these goes before ours.
        settings: that are measured.
        programs: what else must be on the path, and what provides it.
        base: what it needs in the versions that are installed here.
    """

    name: str
    title: str
    distribution: str
    requirements: tuple[str, ...] = ()
    settings: Mapping[str, Setting] = field(default_factory=dict)
    programs: Mapping[str, str] = field(default_factory=dict)
    base: tuple[str, ...] = BASE


def _settings(wire: Wire, defaults: str, batched: str, batched_wire: Wire | None = None) -> dict[str, Setting]:
    return {DEFAULTS: Setting(wire, defaults), BATCHED: Setting(batched_wire or wire, batched)}


_ALL = (
    Peer("fastapi", "plain FastAPI (control)", "fastapi",
         settings={DEFAULTS: Setting(plain_json("/v1/nlu"), "as the plain one")}),
    Peer("litserve", "LitServe", "litserve", ("litserve==0.2.19",),
         _settings(plain_json("/predict"), "LitServer(api, accelerator='cpu')",
                   f"and max_batch_size, batch_timeout: {GATHERED}")),
    Peer("bentoml", "BentoML", "bentoml", ("bentoml==1.4.39",),
         _settings(plain_json("/predict"), "bentoml serve",
                   f"batchable=True, max_batch_size={BATCH}; its own latency target", list_json("/predict", "items"))),
    Peer("mlserver", "MLServer", "mlserver", ("mlserver==1.7.1", "uvloop==0.21.0"),
         _settings(v2("nlu"), "mlserver start", f"max_batch_size, max_batch_time: {GATHERED}")),
    Peer("ray", "Ray Serve", "ray", ("ray[serve]==2.60.0",),
         _settings(plain_json("/"), "@serve.deployment, one replica",
                   f"@serve.batch: {GATHERED}; max_ongoing_requests={2 * BATCH}")),
    Peer("torchserve", "TorchServe", "torchserve",
         ("torchserve==0.12.0", "torch-model-archiver==0.12.0", "torch==2.13.0"),
         _settings(plain_json("/predictions/nlu"), "torchserve --foreground", f"batchSize, maxBatchDelay: {GATHERED}"),
         {"java": "Debian's openjdk-17-jre-headless"}),
    Peer("triton", "Triton (pytriton)", "nvidia-pytriton", ("nvidia-pytriton==0.7.0", "numpy==1.26.4"),
         _settings(v2("nlu"), "ModelConfig()", f"max_batch_size, max_queue_delay_microseconds: {GATHERED}")),
)  # fmt: skip
PEERS = {peer.name: peer for peer in _ALL}

# A product of its own, with a model of its own: `python -m benchmarks.rasa`. It runs on Python 3.8 to 3.10
RASA = Peer("rasa", "Rasa", "rasa", ("rasa==3.6.21",), base=())
