"""A stand-in server that answers in the service's format, or wrongly in a way that a test chooses."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

SERVER_TIMING = "queue;dur=0.012, tokenize;dur=0.021, inference;dur=0.41, decode;dur=0.02, total;dur=0.47"
LOCALES = ["de-DE", "fr-FR"]

Reply = dict[str, Any]
Tamper = Callable[[Reply], Reply | Response]
Serve = Callable[..., str]


def answer_to(text: str) -> Reply:
    """A valid answer, which marks the text's first word."""
    word = text.split()[0]
    start = text.index(word)
    slot = {"name": "word", "value": word, "start": start, "end": start + len(word), "confidence": 0.9}
    label = {"name": "alarm", "confidence": 0.9}
    return {"domain": label, "intent": None, "slots": [slot], "timings_ms": {"total": 0.47}}


def build_app(tamper: Tamper, pause: float) -> Starlette:
    """The stand-in. `tamper` gets each answer, single or batch, and returns what is sent instead."""

    async def nlu(request: Request) -> Response:
        return await reply(answer_to((await request.json())["text"]))

    async def batch(request: Request) -> Response:
        return await reply({"results": [answer_to(item["text"]) for item in (await request.json())["items"]]})

    async def ready(request: Request) -> Response:
        return JSONResponse({"status": "ready"})

    async def models(request: Request) -> Response:
        return JSONResponse({"models": [{"name": "s", "default": True, "locales": LOCALES}]})

    async def reply(answer: Reply) -> Response:
        await asyncio.sleep(pause)
        sent = tamper(answer)
        return sent if isinstance(sent, Response) else JSONResponse(sent, headers={"server-timing": SERVER_TIMING})

    return Starlette(
        routes=[
            Route("/v1/nlu", nlu, methods=["POST"]),
            Route("/v1/nlu/batch", batch, methods=["POST"]),
            Route("/v1/models", models),
            Route("/readyz", ready),
        ]
    )


@contextmanager
def running(app: Starlette) -> Iterator[str]:
    """Serve an application from a thread on a free port; yields its URL."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a stand-in server: `serve(tamper=..., pause=...)` returns its URL."""
    with ExitStack() as stack:

        def start(tamper: Tamper = lambda answer: answer, pause: float = 0.0) -> str:
            return stack.enter_context(running(build_app(tamper, pause)))

        yield start
