"""A student behind NVIDIA's Triton through pytriton; started by ``python -m benchmarks.peers``.

It speaks the V2 inference protocol: text and answer are tensors of bytes, the answer's JSON a string within the
protocol's JSON.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from pytriton.decorators import batch  # type: ignore[import-not-found]
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor  # type: ignore[import-not-found]
from pytriton.triton import Triton, TritonConfig  # type: ignore[import-not-found]

from benchmarks.peer_servers.answers import BATCH, WAIT_SECONDS, answer_of, free_port, load_student, told

NAME = "nlu"
MICRO = 1_000_000


def main() -> None:
    """Serve until SIGTERM."""
    given = told()
    student = load_student()

    @batch  # type: ignore[untyped-decorator]
    def infer(text: Any, locale: Any) -> list[Any]:
        """The answers of a batch, text by text."""
        asked = zip(text[:, 0], locale[:, 0], strict=True)
        answers = [json.dumps(answer_of(student, t.decode(), place.decode()), ensure_ascii=False) for t, place in asked]
        return [np.char.encode(np.array(answers)[:, None], "utf-8")]

    batcher = DynamicBatcher(max_queue_delay_microseconds=round(MICRO * WAIT_SECONDS))
    config = ModelConfig(max_batch_size=BATCH, batcher=batcher) if given.is_batched else ModelConfig()
    ports = TritonConfig(
        http_address="127.0.0.1",
        http_port=given.port,
        grpc_address="127.0.0.1",
        grpc_port=free_port(),
        metrics_address="127.0.0.1",
        metrics_port=free_port(),
    )
    with Triton(config=ports, workspace=str(given.scratch / "triton")) as triton:
        triton.bind(
            model_name=NAME,
            infer_func=infer,
            inputs=[Tensor(name="text", dtype=bytes, shape=(1,)), Tensor(name="locale", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="answer", dtype=bytes, shape=(1,))],
            config=config,
        )
        triton.serve()


if __name__ == "__main__":
    main()
