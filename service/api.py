"""What each endpoint does. Errors are raised, and answered by the boundary, which also reads and parses bodies."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.datastructures import State

from service.boundary import json_reply
from service.call import Call, Reply, ThisCall, TimedCall
from service.engine import Engine, Loaded
from service.errors import (
    BatchTooLarge,
    ClientLeft,
    Forbidden,
    InvalidRequest,
    NotReady,
    ReloadRefused,
    ServiceError,
    TextTooLarge,
    error_body,
)
from service.metrics import Metrics, Timings
from service.page import Page
from service.replies import Json, model_summary, nlu_reply
from service.schemas import BatchRequest, ItemFault, NluItem, NluRequest
from service.settings import Settings


class Api:
    """The endpoints of one application. `state.reload` reloads the students of every process."""

    def __init__(self, settings: Settings, engine: Engine, metrics: Metrics, page: Page, state: State) -> None:
        self.settings = settings
        self.engine = engine
        self.metrics = metrics
        self.page = page
        self.state = state

    async def nlu(self, call: TimedCall, body: NluRequest) -> Reply:
        """Domain, intent and slots of one text.

        Offsets are code points of the text as it was sent: `text[start:end] == value`.
        """
        chosen = self._choose(call, body.model)
        with chosen.lane.admit(1):
            return json_reply(await self._answer(call, chosen, body))

    async def batch(self, call: TimedCall, body: BatchRequest) -> Reply:
        """Several texts in one request; each gets the answer that it would get alone, or an error of its own.

        Texts run one at a time: a dynamically quantised graph takes one activation scale for a whole batch, so in a
        real batch an answer would move with its neighbours.
        """
        if len(body.items) > self.settings.max_batch:
            raise BatchTooLarge(count=len(body.items), limit=self.settings.max_batch)
        chosen = self._choose(call, body.model)
        results: list[Json] = []
        spent: list[Timings] = []
        with chosen.lane.admit(len(body.items)) as permits:
            chosen.meters.batch_size.observe(len(body.items))
            for item in body.items:
                call.timings = None
                results.append(await self._answer_or_error(call, chosen, item))
                spent.extend([call.timings] if call.timings else [])
                permits.give_back(1)
        call.timings = Timings.of_batch(spent)
        return json_reply({"results": results})

    async def models(self, _: ThisCall) -> Reply:
        """The students that are loaded, with what their manifests say, and those that were refused."""
        default = self.engine.default
        summaries = [
            model_summary(loaded.student.manifest, default=loaded is default)
            for loaded in self.engine.students.values()
        ]
        return json_reply({"models": summaries, "refused": self.engine.refused})

    async def reload(self, _: ThisCall) -> Reply:
        """Load what is new or changed in the students folder, and let it serve once it is warm and self-tested.

        A student whose new version can't be served goes on as it is. Needs an API key.
        """
        if self.settings.api_keys_file is None:
            raise Forbidden(problem="a reload needs an API key, and none is configured (--api-keys-file)")
        outcome: Json = await self.state.reload()
        if outcome["refused"]:
            raise ReloadRefused(problems="; ".join(outcome["refused"]))
        return json_reply(outcome)

    async def live(self, _: ThisCall) -> Reply:
        """Yes, as long as the process answers at all."""
        return json_reply({"status": "live"})

    async def ready(self, call: ThisCall) -> Reply:
        """Yes, once every expected student is loaded, warm and self-tested; else 503 with the reasons."""
        reasons = self.engine.reasons_not_ready()
        if not reasons:
            return json_reply({"status": "ready"})
        error = NotReady(reason="; ".join(reasons))  # not raised: a probe is no rejected request
        return json_reply(error_body(error, call.request_id))._replace(status=error.row.status)

    async def expose(self, _: ThisCall) -> Reply:
        """Metrics in the Prometheus text format."""
        return Reply(self.metrics.exposition(), ((b"content-type", CONTENT_TYPE_LATEST.encode()),))

    async def show_page(self, _: ThisCall) -> Reply:
        """The web page."""
        return Reply(self.page.body, self.page.headers)

    def _choose(self, call: Call, model: str | None) -> Loaded:
        chosen = self.engine.choose(model)
        call.model = chosen.name
        return chosen

    async def _answer(self, call: Call, chosen: Loaded, item: NluItem) -> Json:
        limit = self.settings.max_text_chars
        if len(item.text) > limit:
            raise TextTooLarge(count=len(item.text), limit=limit)
        locale = chosen.locale_for(item.locale)
        prediction, cached = await chosen.answer(call, item.text, locale, item.top_k or 1)
        call.timings = timings = Timings.of(call.began, prediction, remembered=cached)
        self.metrics.defer(chosen.meters.count, locale, prediction, timings, cached)
        return nlu_reply(
            prediction,
            chosen.student.manifest,
            asked_locale=item.locale,
            locale=locale,
            ranked=item.top_k is not None,
            cached=cached,
            request_id=call.request_id,
            timings=timings,
        )

    async def _answer_or_error(self, call: Call, chosen: Loaded, item: NluItem | ItemFault) -> Json:
        try:
            if isinstance(item, ItemFault):
                raise InvalidRequest(problem=item.problem)
            return await self._answer(call, chosen, item)
        except ClientLeft:
            raise
        except ServiceError as error:
            self.metrics.count_error(error)
            return error_body(error, call.request_id)
