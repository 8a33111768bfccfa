"""The application: students, endpoints and what surrounds them put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, get_type_hints

import orjson
from fastapi import FastAPI, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from service.endpoints import Api
from service.errors import (
    BatchTooLarge,
    BodyTimeout,
    BodyTooLarge,
    DeadlinePassed,
    Forbidden,
    InternalError,
    InvalidRequest,
    MissingHead,
    NotReady,
    Overloaded,
    ReloadRefused,
    ServiceError,
    TextTooLarge,
    Unauthorized,
    UnknownLocale,
    UnknownModel,
    UnknownPath,
    WrongMethod,
    error_body,
    log_fault,
)
from service.experiments.experiment import ExperimentFile
from service.experiments.routing import Traffic
from service.http.context import CALL, Reply
from service.http.keys import ApiKeys
from service.http.middleware import GUARDED, Boundary, Endpoint
from service.http.schemas import (
    BatchReply,
    CompareReply,
    DomainReply,
    ErrorReply,
    FeedbackReply,
    HealthReply,
    ModelsReply,
    NluReply,
    ReloadReply,
)
from service.models.registry import Engine
from service.models.reload import Reloader
from service.monitoring.metrics import FLUSH_SECONDS, Metrics
from service.monitoring.tracing import Tracer
from service.page import load_page
from service.settings import Settings

Answer = Callable[..., Awaitable[Reply]]
Errors = tuple[type[ServiceError], ...]

DESCRIPTION = (
    "Domain, intent and slots of short requests in several languages. Every error has the shape of `ErrorReply`; every "
    "reply carries `x-request-id`, and an answered text its phases in `Server-Timing`."
)


def create_app(settings: Settings, *, patient: bool = False) -> Boundary:
    """The service as an ASGI application. Students load in the background once it starts.

    A `patient` one, which takes a dead one's place, begins without an experiment where its file can't be used.

    Raises:
        StudentError: the students folder is missing or empty. A student that can't be served does not raise: it is
            logged, named by ``/readyz``, and its neighbours are served.
        KeysError: there is something wrong with the file of API keys.
        ExperimentError: there is something wrong with the experiment file.
        TracingError: tracing is asked for and can't start.
    """
    metrics = Metrics()
    engine = Engine(settings, metrics)
    keys = ApiKeys.from_file(settings.api_keys_file) if settings.api_keys_file else None
    experiment = ExperimentFile(settings.experiment_file, patient=patient) if settings.experiment_file else None
    app = FastAPI(
        title="distilled-nlu",
        description=DESCRIPTION,
        version="1",
        lifespan=_lifespan,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},  # it tells raw paths
        exception_handlers={HTTPException: _translate, RequestValidationError: _translate},
    )
    documents = {route.path for route in app.routes if hasattr(route, "path")}
    app.state.engine = engine
    app.state.metrics = metrics
    app.state.reloader = Reloader(engine, metrics)
    app.state.reload = app.state.reloader.reload
    app.state.watch = settings.watch
    app.state.tracer = Tracer.start() if settings.tracing else None
    app.state.loaded = asyncio.Event()
    app.state.traffic = traffic = Traffic(engine, metrics, experiment)
    api = Api(settings, engine, metrics, traffic, load_page(), app.state)
    endpoints = _add_endpoints(app, api, guarded=keys is not None)
    return Boundary(app, endpoints, documents, settings, engine, metrics, keys, app.state.tracer)


def _add_endpoints(app: FastAPI, api: Api, *, guarded: bool) -> dict[str, dict[str, Endpoint]]:
    """Document the endpoints with FastAPI, and return them for the boundary, which calls them without it.

    FastAPI's dependency solving would cost more than all the rest of a request but the model.
    """
    endpoints: dict[str, dict[str, Endpoint]] = {}
    bearer = [Security(HTTPBearer(auto_error=False, description="an API key"))]

    def add(method: str, paths: str, answer: Answer, reply: Any, errors: Errors = (), **more: Any) -> None:
        for path in paths.split():
            locked = guarded and path.startswith(GUARDED)
            responses = _documented((*errors, *((Unauthorized,) if locked else ()), InternalError))
            app.add_api_route(
                path,
                answer,
                methods=[method],
                response_model=reply,
                responses=responses,
                dependencies=bearer if locked else [],
                **more,
            )
            endpoints.setdefault(path, {})[method] = Endpoint(answer, get_type_hints(answer).get("body"))

    body = (InvalidRequest, BodyTooLarge, BodyTimeout)
    text = (*body, UnknownLocale, UnknownModel, TextTooLarge, Overloaded, DeadlinePassed, NotReady)
    headed = (*text, MissingHead)
    add("POST", "/v1/nlu", api.nlu, NluReply, headed, tags=["nlu"])
    add("POST", "/v1/nlu/batch", api.batch, BatchReply, (*headed, BatchTooLarge), tags=["nlu"])
    add("POST", "/v1/domain", api.domain, DomainReply, headed, tags=["nlu"])
    add("POST", "/v1/compare", api.compare, CompareReply, text, tags=["comparison"])
    add("POST", "/v1/feedback", api.feedback, FeedbackReply, body, tags=["comparison"])
    add("GET", "/v1/models", api.models, ModelsReply, tags=["nlu"])
    add("POST", "/v1/models/reload", api.reload, ReloadReply, (Forbidden, ReloadRefused), tags=["operation"])
    add("GET", "/livez /v2/health/live", api.live, HealthReply, tags=["operation"])
    add("GET", "/readyz /v2/health/ready", api.ready, HealthReply, (NotReady,), tags=["operation"])
    add("GET", "/metrics", api.expose, None, response_class=PlainTextResponse, tags=["operation"])
    add("GET", "/", api.show_page, None, include_in_schema=False)
    return endpoints


def _documented(errors: Errors) -> dict[int | str, dict[str, Any]]:
    """The error replies of an endpoint for OpenAPI: for each status, the codes that it stands for."""
    codes: dict[int | str, list[str]] = {}
    for error in errors:
        codes.setdefault(error.row.status, []).append(f"`{error.row.code}`")
    return {status: {"model": ErrorReply, "description": ", ".join(names)} for status, names in codes.items()}


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the students in a thread, so that ``/livez`` answers meanwhile; then watch them if that is asked for."""
    working = [asyncio.create_task(_load_and_watch(app)), asyncio.create_task(_keep_flushing(app))]
    yield
    for task in working:
        task.cancel()
    await asyncio.gather(*working, return_exceptions=True)
    app.state.traffic.close()
    if app.state.tracer is not None:
        await asyncio.to_thread(app.state.tracer.shutdown)


async def _load_and_watch(app: FastAPI) -> None:
    reloader: Reloader = app.state.reloader
    try:
        await reloader.load()
    except Exception as error:  # noqa: BLE001 - whatever it is, the process lives on, not ready
        log_fault(error, "(start)")
    finally:
        app.state.loaded.set()
    if app.state.watch:
        await reloader.watch()


async def _keep_flushing(app: FastAPI) -> None:
    while True:
        await asyncio.sleep(FLUSH_SECONDS)
        app.state.metrics.ready.set(not app.state.engine.reasons_not_ready())
        app.state.metrics.flush()
        app.state.traffic.look_around()


async def _translate(request: Request, error: Exception) -> Response:
    """What FastAPI itself refuses, in our one shape."""
    status = error.status_code if isinstance(error, HTTPException) else 422
    headers = dict(getattr(error, "headers", None) or {})
    refusal: ServiceError = InternalError()
    if status == 404:
        refusal = UnknownPath()
    if status == 405:
        refusal = WrongMethod(headers, allowed=headers.get("allow") or headers.get("Allow"))
    if status == 422:
        refusal = InvalidRequest(problem="the request does not fit; GET /docs shows what does")
    metrics: Metrics = request.app.state.metrics
    metrics.count_error(refusal)
    body = orjson.dumps(error_body(refusal, request.scope[CALL].request_id))
    return Response(body, refusal.row.status, refusal.headers, "application/json")
