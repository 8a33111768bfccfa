"""A student behind an ordinary FastAPI application, the reference of `python -m benchmarks.floor`.

Typical code: a pydantic model in, a pydantic model out, uvicorn with uvloop and httptools. It has no access log and no
metrics, which would only cost time.

    python -m benchmarks.plain [--student DIR] [--host 127.0.0.1] [--port 8000]
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections.abc import Sequence
from typing import Any

import uvicorn
from fastapi import FastAPI

from loadtest.load.command import command
from loadtest.load.options import add
from loadtest.load.students import add_student
from service.http.requests import NluRequest
from service.http.schemas import HealthReply, Label, ModelIdentity, NluReply, PhaseTimes, Slot
from service.student.manifest import StudentError
from service.student.student import Student


def create_app(student: Student) -> FastAPI:
    """An application that answers ``POST /v1/nlu`` as the service does."""
    app = FastAPI()
    manifest = student.manifest
    identity = ModelIdentity(name=manifest.name, precision=manifest.precision, digest=manifest.digest)

    @app.post("/v1/nlu")
    async def nlu(body: NluRequest) -> NluReply:
        began = time.perf_counter()
        result = student.predict(body.text)
        tokenize, inference, decode = (1000 * seconds for seconds in result.phases)
        return NluReply(
            domain=Label(**result.domain[0]._asdict()) if result.domain else None,
            intent=Label(**result.intent[0]._asdict()) if result.intent else None,
            slots=None if result.slots is None else [Slot(**slot._asdict()) for slot in result.slots],
            in_scope=None,
            locale=body.locale,
            truncated=result.truncated,
            cached=False,
            model=identity,
            request_id=secrets.token_hex(8),
            timings_ms=PhaseTimes(
                queue=0,
                tokenize=tokenize,
                inference=inference,
                decode=decode,
                total=1000 * (time.perf_counter() - began),
            ),
        )

    @app.get("/readyz")
    async def ready() -> HealthReply:
        return HealthReply(status="ready")

    return app


@command(StudentError)
def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code."""
    arguments = parser().parse_args(argv)
    student = Student.load(arguments.student)
    student.warm_up()
    settings: dict[str, Any] = {
        "loop": "uvloop",
        "http": "httptools",
        "ws": "none",
        "log_level": "warning",
        "access_log": False,
    }
    uvicorn.run(create_app(student), host=arguments.host, port=arguments.port, **settings)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    about = "A student in a plain FastAPI application."
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plain", description=about, allow_abbrev=False)
    add_student(parser)
    add(parser, "host", str, "HOST", "address to listen on", "127.0.0.1")
    add(parser, "port", int, "PORT", "port to listen on", 8000)
    return parser


if __name__ == "__main__":
    sys.exit(main())
