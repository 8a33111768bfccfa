"""The application: students, routes and error handling put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from service.api import Api
from service.bodies import DirectRoute
from service.boundary import Boundary
from service.engine import Engine, find_folders
from service.errors import (
    BatchTooLarge,
    BodyTooLarge,
    InternalError,
    InvalidRequest,
    NotReady,
    ServiceError,
    TextTooLarge,
    UnknownLocale,
    UnknownModel,
    UnknownPath,
    WrongMethod,
    log_fault,
)
from service.metrics import Metrics
from service.page import load_page
from service.schemas import BatchReply, ErrorReply, HealthReply, ModelsReply, NluReply
from service.settings import Settings

Endpoint = Callable[..., Awaitable[Response]]
Errors = tuple[type[ServiceError], ...]

DESCRIPTION = (
    "Domain, intent and slots of short requests in several languages. Every error has the shape of `ErrorReply`; every "
    "reply carries `x-request-id`, and an answered text its phases in `Server-Timing`."
)


def create_app(settings: Settings) -> FastAPI:
    """The service as an ASGI application. Students load in the background once it starts.

    Raises:
        StudentError: the students folder is missing or empty. A student that can't be served does not raise: it is
            logged, named by ``/readyz``, and its neighbours are served.
    """
    metrics = Metrics()
    engine = Engine(find_folders(settings.students), settings.default_model, metrics)
    app = FastAPI(
        title="distilled-nlu",
        description=DESCRIPTION,
        version="1",
        lifespan=_lifespan,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={HTTPException: _translate, RequestValidationError: _translate},
    )
    app.state.settings = settings
    app.state.engine = engine
    app.state.loaded = asyncio.Event()
    _add_routes(app, Api(settings, engine, metrics, load_page()))
    endpoints = {path for route in app.routes if (path := getattr(route, "path", None))}
    app.add_middleware(Boundary, metrics=metrics, endpoints=endpoints)
    return app


def _add_routes(app: FastAPI, api: Api) -> None:
    app.router.route_class = DirectRoute

    def add(method: str, paths: str, endpoint: Endpoint, reply: Any, errors: Errors = (), **more: Any) -> None:
        responses = _documented(errors)
        for path in paths.split():
            app.add_api_route(path, endpoint, methods=[method], response_model=reply, responses=responses, **more)

    refusals = (InvalidRequest, UnknownLocale, UnknownModel, BodyTooLarge, TextTooLarge, NotReady, InternalError)
    add("POST", "/v1/nlu", api.nlu, NluReply, refusals, tags=["nlu"])
    add("POST", "/v1/nlu/batch", api.batch, BatchReply, (*refusals, BatchTooLarge), tags=["nlu"])
    add("GET", "/v1/models", api.models, ModelsReply, tags=["nlu"])
    add("GET", "/livez /v2/health/live", api.live, HealthReply, tags=["operation"])
    add("GET", "/readyz /v2/health/ready", api.ready, HealthReply, (NotReady,), tags=["operation"])
    add("GET", "/metrics", api.expose, None, response_class=PlainTextResponse, tags=["operation"])
    add("GET", "/", api.show_page, None, include_in_schema=False)


def _documented(errors: Errors) -> dict[int | str, dict[str, Any]]:
    """The error replies of a route for OpenAPI: for each status, the codes that it stands for."""
    codes: dict[int | str, list[str]] = {}
    for error in errors:
        codes.setdefault(error.row.status, []).append(f"`{error.row.code}`")
    return {status: {"model": ErrorReply, "description": ", ".join(names)} for status, names in codes.items()}


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the students in a thread, so that ``/livez`` answers meanwhile."""
    loading = asyncio.create_task(_load(app))
    yield
    await loading


async def _load(app: FastAPI) -> None:
    try:
        await asyncio.to_thread(app.state.engine.load)
    except Exception as error:  # noqa: BLE001 - whatever it is, the process lives on, not ready
        log_fault(error, "(start)")
    finally:
        app.state.loaded.set()


def _translate(_: Request, error: Exception) -> NoReturn:
    """Turn the framework's own errors into ours; the boundary answers them."""
    status = error.status_code if isinstance(error, HTTPException) else 422
    if status == 404:
        raise UnknownPath from None
    if status == 405:
        headers = getattr(error, "headers", None) or {}
        raise WrongMethod(headers, allowed=headers.get("allow") or headers.get("Allow")) from None
    if status == 422:
        raise InvalidRequest(problem="the request does not fit; GET /docs shows what does") from None
    raise InternalError from None
