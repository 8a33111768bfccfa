"""A student behind MLServer, which speaks the V2 inference protocol; started by ``python -m benchmarks.peers``.

Text and answer are tensors of bytes: the answer's JSON is a string within the protocol's JSON.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from mlserver import MLModel  # type: ignore[import-not-found]
from mlserver.codecs import StringCodec  # type: ignore[import-not-found]
from mlserver.types import InferenceRequest, InferenceResponse  # type: ignore[import-not-found]

from benchmarks.peer_servers.answers import BATCH, WAIT_SECONDS, Told, answer_of, free_port, load_student, told

NAME = "nlu"


class Nlu(MLModel):  # type: ignore[misc]
    """The student as an MLServer runtime."""

    async def load(self) -> bool:
        """Load it, once in each worker."""
        self.student = load_student()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The answers to one text, or to those of a batch, text by text."""
        texts, locales = (StringCodec.decode_input(tensor) for tensor in payload.inputs)
        answers = [
            json.dumps(answer_of(self.student, text, locale), ensure_ascii=False)
            for text, locale in zip(texts, locales, strict=True)
        ]
        return InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("answer", answers)])


def write_settings(folder: Path, given: Told) -> None:
    """The two files that ``mlserver start`` reads."""
    server = {
        "host": "127.0.0.1",
        "http_port": given.port,
        "grpc_port": free_port(),
        "metrics_port": free_port(),
    }
    model = {"name": NAME, "implementation": "benchmarks.peer_servers.mlserver_app.Nlu"}
    batching = {"max_batch_size": BATCH, "max_batch_time": WAIT_SECONDS} if given.is_batched else {}
    (folder / "settings.json").write_text(json.dumps(server))
    (folder / "model-settings.json").write_text(json.dumps(model | batching))


def main() -> None:
    """Become ``mlserver start``."""
    given = told()
    write_settings(given.scratch, given)
    os.execv(sys.executable, [sys.executable, "-m", "mlserver.cli.main", "start", str(given.scratch)])


if __name__ == "__main__":
    main()
