"""A student behind MLServer, in the V2 inference protocol: text and answer are tensors of bytes, the answer as JSON."""

from __future__ import annotations

import json

from mlserver import MLModel  # type: ignore[import-not-found]
from mlserver.codecs import StringCodec  # type: ignore[import-not-found]
from mlserver.types import InferenceRequest, InferenceResponse  # type: ignore[import-not-found]

from benchmarks.peer_servers.answers import BATCH, WAIT_SECONDS, answer, load_student
from benchmarks.peer_servers.serve import ServeOptions
from loadtest.load.target import free_port


class Nlu(MLModel):  # type: ignore[misc]
    """The student as an MLServer runtime."""

    async def load(self) -> bool:
        """Load it, once in each worker."""
        load_student()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The answers to one text, or to those of a batch."""
        asked = zip(*(StringCodec.decode_input(tensor) for tensor in payload.inputs), strict=True)
        answers = [json.dumps(answer(text, locale), ensure_ascii=False) for text, locale in asked]
        return InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("answer", answers)])


def serve(options: ServeOptions) -> list[str]:
    """The command ``mlserver start``, and the two files that it reads."""
    ports = {"http_port": options.port, "grpc_port": free_port(), "metrics_port": free_port()}
    model = {"name": "nlu", "implementation": f"{__name__}.Nlu"}
    batching = {"max_batch_size": BATCH, "max_batch_time": WAIT_SECONDS} if options.is_batched else {}
    (options.scratch / "settings.json").write_text(json.dumps({"host": "127.0.0.1", **ports}))
    (options.scratch / "model-settings.json").write_text(json.dumps(model | batching))
    return ["-m", "mlserver.cli.main", "start", str(options.scratch)]
