"""A student behind NVIDIA's Triton through pytriton, in the V2 inference protocol: the answer is JSON in a tensor."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from pytriton.decorators import batch  # type: ignore[import-not-found]
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor  # type: ignore[import-not-found]
from pytriton.triton import Triton, TritonConfig  # type: ignore[import-not-found]

from benchmarks.peer_servers.answers import BATCH, WAIT_SECONDS, answer, load_student
from benchmarks.peer_servers.serve import ServeOptions
from loadtest.load.target import free_port

HOST = "127.0.0.1"
MICRO = 1_000_000


@batch  # type: ignore[untyped-decorator]
def infer(text: Any, locale: Any) -> list[Any]:
    """The answers of a batch."""
    asked = zip(text[:, 0], locale[:, 0], strict=True)
    answers = [json.dumps(answer(t.decode(), place.decode()), ensure_ascii=False) for t, place in asked]
    return [np.char.encode(np.array(answers)[:, None], "utf-8")]


def serve(options: ServeOptions) -> None:
    """Serve until SIGTERM."""
    load_student()
    batcher = DynamicBatcher(max_queue_delay_microseconds=round(MICRO * WAIT_SECONDS))
    config = ModelConfig(max_batch_size=BATCH, batcher=batcher) if options.is_batched else ModelConfig()
    ports = {"http_port": options.port, "grpc_port": free_port(), "metrics_port": free_port()}
    addresses = {"http_address": HOST, "grpc_address": HOST, "metrics_address": HOST}
    with Triton(config=TritonConfig(**addresses, **ports), workspace=str(options.scratch / "triton")) as triton:
        triton.bind(
            model_name="nlu",
            infer_func=infer,
            inputs=[Tensor(name="text", dtype=bytes, shape=(1,)), Tensor(name="locale", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="answer", dtype=bytes, shape=(1,))],
            config=config,
        )
        triton.serve()
