"""The peers: versions, request formats and settings of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.peer_servers.answers import BATCH, WAIT_SECONDS
from benchmarks.peer_servers.serve import BATCHED, DEFAULTS
from benchmarks.peer_servers.wire import WireFormat, list_json, plain_json, v2

BATCH_LIMITS = f"up to {BATCH} requests, {1000 * WAIT_SECONDS:g} ms"
BASE = ("numpy", "onnxruntime", "tokenizers", "pydantic", "orjson")  # requirements of the student


class Setting(NamedTuple):
    """A setting of a framework: its request format, and what is configured."""

    wire: WireFormat
    configured: str


@dataclass(frozen=True)
class Peer:
    """A framework that serves the same student.

    Attributes:
        name: name on the command line, of the module and of the environment's folder.
        title: name in reports.
        distribution: package whose version is reported, and whose presence shows that the peer is installed.
        requirements: pip requirements beside `base`; their versions take precedence.
        settings: settings to measure.
        programs: other required programs, and what provides them.
        base: packages that it needs in the versions installed here.
    """

    name: str
    title: str
    distribution: str
    requirements: tuple[str, ...] = ()
    settings: Mapping[str, Setting] = field(default_factory=dict)
    programs: Mapping[str, str] = field(default_factory=dict)
    base: tuple[str, ...] = BASE


def _settings(
    wire: WireFormat, defaults: str, batched: str, batched_wire: WireFormat | None = None
) -> dict[str, Setting]:
    return {DEFAULTS: Setting(wire, defaults), BATCHED: Setting(batched_wire or wire, batched)}


_CONTROL = {DEFAULTS: Setting(plain_json("/v1/nlu"), "as the plain one")}
_JSON, _V2 = plain_json("/predict"), v2("nlu")
_LITSERVE = _settings(_JSON, "LitServer(api, accelerator='cpu')", f"and max_batch_size, batch_timeout: {BATCH_LIMITS}")
_BATCHABLE = f"batchable=True, max_batch_size={BATCH}; its own latency target"
_BENTOML = _settings(_JSON, "bentoml serve", _BATCHABLE, list_json("/predict", "items"))
_MLSERVER = _settings(_V2, "mlserver start", f"max_batch_size, max_batch_time: {BATCH_LIMITS}")
_RAY_BATCH = f"@serve.batch: {BATCH_LIMITS}; max_ongoing_requests={2 * BATCH}"
_RAY = _settings(plain_json("/"), "@serve.deployment, one replica", _RAY_BATCH)
_TORCH_JSON, _TORCH_BATCH = plain_json("/predictions/nlu"), f"batchSize, maxBatchDelay: {BATCH_LIMITS}"
_TORCHSERVE = _settings(_TORCH_JSON, "torchserve --foreground", _TORCH_BATCH)
_TRITON = _settings(_V2, "ModelConfig()", f"max_batch_size, max_queue_delay_microseconds: {BATCH_LIMITS}")
_JAVA = {"java": "Debian's openjdk-17-jre-headless"}
_TORCH = ("torchserve==0.12.0", "torch-model-archiver==0.12.0", "torch==2.13.0")

_ALL = (
    Peer("fastapi", "plain FastAPI (control)", "fastapi", settings=_CONTROL),
    Peer("litserve", "LitServe", "litserve", ("litserve==0.2.19",), _LITSERVE),
    Peer("bentoml", "BentoML", "bentoml", ("bentoml==1.4.39",), _BENTOML),
    Peer("mlserver", "MLServer", "mlserver", ("mlserver==1.7.1", "uvloop==0.21.0"), _MLSERVER),
    Peer("ray", "Ray Serve", "ray", ("ray[serve]==2.60.0",), _RAY),
    Peer("torchserve", "TorchServe", "torchserve", _TORCH, _TORCHSERVE, _JAVA),
    Peer("triton", "Triton (pytriton)", "nvidia-pytriton", ("nvidia-pytriton==0.7.0", "numpy==1.26.4"), _TRITON),
)
PEERS = {peer.name: peer for peer in _ALL}

# For `python -m benchmarks.rasa`. It has a model of its own, and runs on Python 3.8 to 3.10.
RASA = Peer("rasa", "Rasa", "rasa", ("rasa==3.6.21",), base=())
