"""What each route does. Errors are raised, and answered by the boundary; parsing is done before, by `DirectRoute`."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from service.boundary import Call, call_of
from service.engine import Engine, Loaded
from service.errors import (
    BatchTooLarge,
    InvalidRequest,
    NotReady,
    ServiceError,
    TextTooLarge,
    error_body,
    error_response,
)
from service.metrics import Metrics, Timings
from service.page import Page
from service.replies import Json, model_summary, nlu_reply
from service.schemas import BatchRequest, ItemFault, NluItem, NluRequest
from service.settings import Settings


class Api:
    """The endpoints of one application."""

    def __init__(self, settings: Settings, engine: Engine, metrics: Metrics, page: Page) -> None:
        self.settings = settings
        self.engine = engine
        self.metrics = metrics
        self.page = page

    async def nlu(self, request: Request, body: NluRequest) -> Response:
        """Domain, intent and slots of one text.

        Offsets are code points of the text as it was sent: `text[start:end] == value`.
        """
        call = call_of(request.scope)
        chosen = self._choose(call, body.model)
        return _json(self._answer(call, chosen, body))

    async def batch(self, request: Request, body: BatchRequest) -> Response:
        """Several texts in one request; each gets the answer that it would get alone, or an error of its own.

        Texts run one at a time: a dynamically quantised graph takes one activation scale for a whole batch, so in a
        real batch an answer would move with its neighbours.
        """
        call = call_of(request.scope)
        if len(body.items) > self.settings.max_batch:
            raise BatchTooLarge(count=len(body.items), limit=self.settings.max_batch)
        chosen = self._choose(call, body.model)
        chosen.meters.batch_size.observe(len(body.items))
        results: list[Json] = []
        spent: list[Timings] = []
        for item in body.items:
            call.timings = None
            results.append(self._answer_or_error(call, chosen, item))
            spent.extend([call.timings] if call.timings else [])
            await asyncio.sleep(0)  # other requests need not wait for the whole batch
        call.timings = Timings.of_batch(spent)
        return _json({"results": results})

    async def models(self) -> Response:
        """The students that are loaded, with what their manifests say, and those that were refused."""
        default = self.engine.default
        summaries = [
            model_summary(loaded.student.manifest, default=loaded is default)
            for loaded in self.engine.students.values()
        ]
        return _json({"models": summaries, "refused": self.engine.refused})

    async def live(self) -> Response:
        """Yes, as long as the process answers at all."""
        return _json({"status": "live"})

    async def ready(self, request: Request) -> Response:
        """Yes, once every expected student is loaded, warm and self-tested; else 503 with the reasons."""
        reasons = self.engine.reasons_not_ready()
        if reasons:  # not raised: a probe is no rejected request
            return error_response(NotReady(reason="; ".join(reasons)), call_of(request.scope).request_id)
        return _json({"status": "ready"})

    async def expose(self) -> Response:
        """Metrics in the Prometheus text format."""
        return Response(self.metrics.exposition(), headers={"content-type": CONTENT_TYPE_LATEST})

    async def show_page(self) -> Response:
        """The web page."""
        return Response(self.page.body, headers=self.page.headers)

    def _choose(self, call: Call, model: str | None) -> Loaded:
        chosen = self.engine.choose(model)
        call.model = chosen.name
        return chosen

    def _answer(self, call: Call, chosen: Loaded, item: NluItem) -> Json:
        limit = self.settings.max_text_chars
        if len(item.text) > limit:
            raise TextTooLarge(count=len(item.text), limit=limit)
        chosen.check_locale(item.locale)
        began = time.perf_counter()
        prediction = chosen.student.predict(item.text, item.top_k or 1)
        timings = Timings(began - call.began, *prediction.phases, time.perf_counter() - call.began)
        call.timings = timings
        chosen.meters.count(item.locale, prediction, timings)
        return nlu_reply(
            prediction,
            chosen.student.manifest,
            locale=item.locale,
            ranked=item.top_k is not None,
            request_id=call.request_id,
            timings=timings,
        )

    def _answer_or_error(self, call: Call, chosen: Loaded, item: NluItem | ItemFault) -> Json:
        try:
            if isinstance(item, ItemFault):
                raise InvalidRequest(problem=item.problem)
            return self._answer(call, chosen, item)
        except ServiceError as error:
            self.metrics.count_error(error)
            return error_body(error, call.request_id)


def _json(body: Any) -> Response:
    return Response(orjson.dumps(body), media_type="application/json")
