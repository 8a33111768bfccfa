"""The application: creates students, endpoints and middleware, and connects them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NamedTuple, get_type_hints

from fastapi import FastAPI, Security
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from starlette.responses import PlainTextResponse

from service import errors
from service.endpoints import Endpoints
from service.errors import ENDINGS, ServiceError, log_fault
from service.experiments.experiment import ExperimentFile
from service.experiments.routing import MAX_CLIENT_KEY_BYTES, Router
from service.http import schemas
from service.http.context import Json, Reply
from service.http.keys import ApiKeys
from service.http.middleware import GUARDED, MAX_DEADLINE_MS, Endpoint, RequestMiddleware
from service.models.registry import ModelRegistry
from service.models.reload import Reloader
from service.models.threads import start_daemon_thread
from service.monitoring.metrics import FLUSH_SECONDS, Metrics
from service.monitoring.tracing import Tracer
from service.page import load_page
from service.protocols import inference, inference_schemas, rasa
from service.settings import Settings
from service.watched_file import WatchedFile

Handler = Callable[..., Awaitable[Reply]]
Errors = tuple[type[ServiceError], ...]


class Protocol(NamedTuple):
    """How a protocol reads bodies and shapes errors; see `Endpoint`."""

    error: type[BaseModel]
    error_body: Callable[[ServiceError, str], Json]
    read: Callable[..., Awaitable[BaseModel]] | None = None


OWN = Protocol(schemas.ErrorReply, errors.error_body)
RASA = Protocol(rasa.RasaError, rasa.rasa_error)
V2 = Protocol(inference_schemas.InferenceError, inference.inference_error, inference.read_request)

DESCRIPTION = (
    "Domain, intent and slots of short requests in several languages. Errors have the shape of `ErrorReply`, and on "
    "the routes of Rasa's API and of the V2 Open Inference Protocol the shape of that protocol. Every reply carries "
    "`x-request-id`, and an answered text its phases in `Server-Timing`."
)


def _header(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


TIMED = (
    _header("x-request-id", "repeated in the reply if it is well formed; else a new one is generated", type="string"),
    _header(
        "x-deadline-ms",
        "milliseconds from arrival; a text whose inference has not started by then is answered 504",
        type="integer",
        minimum=1,
        maximum=MAX_DEADLINE_MS,
    ),
)
KEYED = _header(
    "x-client-key",
    "an opaque, stable key of the user, device or session: keeps it in one arm of an experiment",
    type="string",
    maxLength=MAX_CLIENT_KEY_BYTES,
)


def create_app(settings: Settings, *, patient: bool = False) -> RequestMiddleware:
    """The service as an ASGI application. Students load in the background once it starts.

    If `patient`, as for a worker that replaces a dead one, an invalid experiment file does not raise: there is no
    experiment then.

    Raises:
        StudentError: the students folder is missing or empty. An invalid student does not raise: it is logged and
            named by ``/readyz``, and the others are served.
        KeysError: the file of API keys is invalid.
        ExperimentError: the experiment file is invalid.
        TracingError: tracing is on and can't start.
    """
    metrics = Metrics()
    registry = ModelRegistry(settings, metrics)
    keys = ApiKeys(settings.api_keys_file) if settings.api_keys_file else None
    experiment = ExperimentFile(settings.experiment_file, patient=patient) if settings.experiment_file else None
    app = FastAPI(
        title="distilled-nlu",
        description=DESCRIPTION,
        version="1",
        lifespan=_lifespan,
        openapi_url=None,  # without it, FastAPI has no pages either
        redirect_slashes=False,
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,
            "auto_configure": False,
        },  # else: raw paths are exported
    )
    app.state.registry = registry
    app.state.metrics = metrics
    app.state.reloader = Reloader(registry, metrics, settings.load_seconds)
    app.state.reload = partial(_reload, app.state.reloader, [file for file in (keys, experiment) if file is not None])
    app.state.watch = settings.watch
    app.state.tracer = Tracer.start() if settings.tracing else None
    app.state.loaded = asyncio.Event()
    app.state.router = router = Router(registry, metrics, experiment)
    endpoints = Endpoints(settings, registry, metrics, router, load_page(), app)
    table = _add_endpoints(app, endpoints, guarded=keys is not None)
    return RequestMiddleware(app, table, settings, registry, metrics, keys, app.state.tracer)


def _add_endpoints(app: FastAPI, endpoints: Endpoints, *, guarded: bool) -> dict[str, dict[str, Endpoint]]:
    """Document the endpoints with FastAPI, and return them for the middleware, which calls them without it.

    FastAPI's dependency solving would cost more than the rest of a request without the model.
    """
    table: dict[str, dict[str, Endpoint]] = {}
    bearer = [Security(HTTPBearer(auto_error=False, description="an API key"))]

    def add(
        method: str,
        paths: str,
        handler: Handler,
        reply: Any,
        raised: Errors = (),
        *,
        protocol: Protocol = OWN,
        **more: Any,
    ) -> None:
        for path in paths.split():
            locked = guarded and path.startswith(GUARDED)
            listed = (*raised, *((errors.Unauthorized,) if locked else ()), errors.InternalError)
            responses = _documented(listed, protocol.error)
            app.add_api_route(
                path,
                handler,
                methods=[method],
                response_model=reply,
                responses=responses,
                dependencies=bearer if locked else [],
                **more,
            )
            model = get_type_hints(handler).get("body")
            table.setdefault(path, {})[method] = Endpoint(handler, model, protocol.read, protocol.error_body)

    body = (errors.InvalidRequest, errors.UnsupportedMediaType, errors.BodyTooLarge, errors.BodyTimeout)
    busy = (errors.Overloaded, errors.DeadlinePassed, errors.NotReady)
    text = (*body, errors.UnknownLocale, errors.UnknownModel, errors.TextTooLarge, *busy)
    headed = (*text, errors.MissingHead)
    batch = (*headed, errors.BatchTooLarge)
    reload = (errors.Forbidden, errors.ReloadRefused)
    timed: Any = {"openapi_extra": {"parameters": [*TIMED]}}
    keyed: Any = {"openapi_extra": {"parameters": [*TIMED, KEYED]}}
    add("POST", "/v1/nlu", endpoints.nlu, schemas.NluReply, headed, tags=["nlu"], **keyed)
    add("POST", "/v1/nlu/batch", endpoints.batch, schemas.BatchReply, batch, tags=["nlu"], **timed)
    add("POST", "/v1/domain", endpoints.domain, schemas.DomainReply, headed, tags=["nlu"], **timed)
    add("POST", "/v1/compare", endpoints.compare, schemas.CompareReply, text, tags=["comparison"], **timed)
    add("POST", "/v1/feedback", endpoints.feedback, schemas.FeedbackReply, body, tags=["comparison"])
    add("GET", "/v1/models", endpoints.models, schemas.ModelsReply, tags=["nlu"])
    add("POST", "/v1/models/reload", endpoints.reload, schemas.ReloadReply, reload, tags=["operation"])
    add("GET", "/livez /v2/health/live", endpoints.live, schemas.HealthReply, tags=["operation"])
    add("GET", "/readyz /v2/health/ready", endpoints.ready, schemas.HealthReply, (errors.NotReady,), tags=["operation"])
    add("GET", "/metrics", endpoints.expose, None, response_class=PlainTextResponse, tags=["operation"])
    _add_protocols(add, endpoints, text, batch)
    add("GET", "/", endpoints.show_page, None, include_in_schema=False)
    add("GET", "/docs", endpoints.show_reference, None, include_in_schema=False)
    add("GET", "/openapi.json", endpoints.openapi, None, include_in_schema=False)
    return table


def _add_protocols(add: Callable[..., None], endpoints: Endpoints, text: Errors, batch: Errors) -> None:
    """Add the endpoints of the protocols of other servers."""
    parse: Any = {"openapi_extra": {"parameters": [*TIMED, KEYED, *rasa.QUERY]}}
    status: Any = {"openapi_extra": {"parameters": [rasa.TOKEN]}}
    like_rasa = {"protocol": RASA, "tags": ["rasa"]}
    spoken = rasa.RasaEndpoints(endpoints)
    add("POST", "/model/parse", spoken.parse, rasa.ParseReply, text, **like_rasa, **parse)
    add(
        "GET",
        "/status",
        spoken.status,
        rasa.StatusReply,
        (errors.NotReady, errors.InvalidRequest),
        **like_rasa,
        **status,
    )
    add("GET", "/version", spoken.version, rasa.VersionReply, **like_rasa)

    named: Any = {"openapi_extra": {"parameters": [inference_schemas.MODEL]}}
    inferred: Any = {"openapi_extra": {"parameters": [inference_schemas.MODEL, *inference_schemas.HEADERS, *TIMED]}}
    known = (errors.UnknownModel, errors.NotReady)
    v2 = {"protocol": V2, "tags": ["v2"]}
    of_v2 = inference.InferenceEndpoints(endpoints)
    model = "/v2/models/{model}"
    add("GET", "/v2", of_v2.server, inference_schemas.ServerReply, **v2)
    add("GET", model, of_v2.metadata, inference_schemas.MetadataReply, known, **v2, **named)
    add("GET", f"{model}/ready", of_v2.ready, inference_schemas.ReadyReply, known, **v2, **named)
    add("POST", f"{model}/infer", of_v2.infer, inference_schemas.InferReply, batch, **v2, **inferred)


def _documented(raised: Errors, model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """The error replies of an endpoint for OpenAPI: for each status, the codes that it stands for."""
    codes: dict[int | str, list[str]] = {}
    for error in raised:
        codes.setdefault(error.row.status, []).append(f"`{error.row.code}`")
    return {status: {"model": model, "description": ", ".join(names)} for status, names in codes.items()}


async def _reload(reloader: Reloader, files: Sequence[WatchedFile[Any]]) -> Json:
    """Read the files of keys and experiments again, and load new and changed students."""
    checks = {start_daemon_thread(file.check, "check")[1] for file in files}
    if checks:
        await asyncio.wait(checks, timeout=reloader.seconds)
    return await reloader.reload()


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the students in a thread, so that signals are handled meanwhile; then watch their folder, if set."""
    tasks = [asyncio.create_task(_load_and_watch(app)), asyncio.create_task(_keep_flushing(app))]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    app.state.router.close()
    if app.state.tracer is not None:
        await asyncio.to_thread(app.state.tracer.shutdown)


async def _load_and_watch(app: FastAPI) -> None:
    reloader: Reloader = app.state.reloader
    await reloader.load()
    app.state.loaded.set()
    if app.state.watch:
        await reloader.watch()


async def _keep_flushing(app: FastAPI) -> None:
    while True:
        await asyncio.sleep(FLUSH_SECONDS)
        try:
            app.state.metrics.ready.set(not app.state.registry.reasons_not_ready())
            app.state.metrics.flush()
            app.state.router.tick()
        except ENDINGS:
            raise
        except BaseException as error:  # noqa: BLE001 - continue
            log_fault(error, "(metrics)")
