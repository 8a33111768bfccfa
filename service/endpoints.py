"""What each endpoint does. Errors are raised, and answered by the boundary, which also reads and parses bodies."""

from __future__ import annotations

import time

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.datastructures import State

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
from service.experiments.comparison import agreement, differences
from service.experiments.routing import Traffic, check_head, question_of
from service.http.context import Call, ClientCall, Reply, ThisCall, TimedCall, json_reply
from service.http.replies import Answer, Json, domain_reply, model_summary, nlu_reply
from service.http.requests import (
    BatchRequest,
    CompareRequest,
    DomainRequest,
    FeedbackRequest,
    ItemFault,
    NluItem,
    NluRequest,
)
from service.models.registry import Engine, Loaded
from service.monitoring.metrics import NONE, Metrics
from service.monitoring.timings import Timings
from service.page import Page
from service.settings import Settings
from service.student.student import Prediction


class Api:
    """The endpoints of one application. `state.reload` reloads the students of every process."""

    def __init__(
        self, settings: Settings, engine: Engine, metrics: Metrics, traffic: Traffic, page: Page, state: State
    ) -> None:
        self.settings = settings
        self.engine = engine
        self.metrics = metrics
        self.traffic = traffic
        self.page = page
        self.state = state

    async def nlu(self, call: ClientCall, body: NluRequest) -> Reply:
        """Domain, intent and slots of one text.

        Offsets are code points of the text as it was sent: `text[start:end] == value`. What the student has no head for
        is null. Where an experiment splits the requests that name no model, the reply names the arm.
        """
        route = self.traffic.route(call, body)
        call.model = route.student.name
        try:
            with route.student.lane.admit(1):
                answer = await self._answer(call, route.student, body)
        except Exception as error:
            self.traffic.failed(route, error)
            raise
        self._count(call, route.student, answer)
        self.traffic.answered(call, route, answer)
        return json_reply(nlu_reply(answer, call.request_id, route.arm))

    async def domain(self, call: TimedCall, body: DomainRequest) -> Reply:
        """The domain alone: of a first-stage router where one is configured, else of the default student."""
        chosen = self.engine.router() if body.model is None else self.engine.choose(body.model)
        call.model = chosen.name
        check_head(chosen, "domain", "domain")
        with chosen.lane.admit(1):
            answer = await self._answer(call, chosen, body)
        self._count(call, chosen, answer)
        return json_reply(domain_reply(answer, call.request_id))

    async def compare(self, call: TimedCall, body: CompareRequest) -> Reply:
        """One text through several students, side by side, with their timings and where they differ.

        They run one after the other. One that can't answer gets an error in its place; if none can, the first one's is
        that of the request.
        """
        names = body.models or [self.engine.choose(None).name, *self.engine.students]
        students = {chosen.name: chosen for chosen in map(self.engine.choose, names)}
        results: Json = {}
        predictions: dict[str, Prediction] = {}
        spent: list[Timings] = []
        problems: list[ServiceError] = []
        for name, chosen in students.items():
            try:
                with chosen.lane.admit(1):
                    answer = await self._answer(call, chosen, body, began=time.perf_counter())
                predictions[name] = answer.prediction
                spent.append(answer.timings)
                results[name] = nlu_reply(answer, call.request_id)
            except ClientLeft:
                raise
            except ServiceError as error:
                problems.append(error)
                results[name] = error_body(error, call.request_id)
        if len(problems) == len(students):
            raise problems[0]
        for problem in problems:
            self.metrics.count_error(problem)
        call.timings = Timings.of_several(spent, call.began)
        same = agreement(predictions)
        return json_reply(
            {
                "results": results,
                "agreement": same,
                "differences": differences(results, same),
                "request_id": call.request_id,
            }
        )

    async def feedback(self, call: ThisCall, body: FeedbackRequest) -> Reply:
        """What became of an answer: counted for the arm of the experiment that gave it. The first word counts.

        Send the `arm` of the answer, too: it tells a process that did not answer itself where to count.
        """
        noted = self.traffic.told(body)
        call.model = noted.place.model
        return json_reply(
            {
                "request_id": body.request_id,
                "outcome": body.outcome,
                "arm": None if noted.place.arm == NONE else noted.place.arm,
                "counted": not noted.repeated,
                "remembered": noted.remembered,
            }
        )

    async def batch(self, call: TimedCall, body: BatchRequest) -> Reply:
        """Several texts in one request; each gets the answer that it would get alone, or an error of its own.

        Texts run one at a time: a dynamically quantised graph takes one activation scale for a whole batch, so in a
        real batch an answer would move with its neighbours.
        """
        if len(body.items) > self.settings.max_batch:
            raise BatchTooLarge(count=len(body.items), limit=self.settings.max_batch)
        chosen = self.engine.choose(body.model)
        call.model = chosen.name
        results: list[Json] = []
        spent: list[Timings] = []
        with chosen.lane.admit(len(body.items)) as permits:
            chosen.meters.batch_size.observe(len(body.items))
            for item in body.items:
                try:
                    if isinstance(item, ItemFault):
                        raise InvalidRequest(problem=item.problem)
                    answer = await self._answer(call, chosen, item)
                    self._count(call, chosen, answer)
                    spent.append(answer.timings)
                    results.append(nlu_reply(answer, call.request_id))
                except ClientLeft:
                    raise
                except ServiceError as error:
                    self.metrics.count_error(error)
                    results.append(error_body(error, call.request_id))
                permits.give_back(1)
        call.timings = Timings.of_batch(spent)
        return json_reply({"results": results})

    async def models(self, _: ThisCall) -> Reply:
        """The students that are loaded, with what their manifests say, and those that were refused."""
        summaries = [
            model_summary(loaded.student.manifest, self.engine.aliases_of(name))
            for name, loaded in self.engine.students.items()
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

    async def _answer(
        self, call: Call, chosen: Loaded, item: NluItem | DomainRequest | CompareRequest, began: float | None = None
    ) -> Answer:
        """A student's answer to a text; `began` is when it was asked, if not by the call alone."""
        limit = self.settings.max_text_chars
        if len(item.text) > limit:
            raise TextTooLarge(count=len(item.text), limit=limit)
        question = question_of(item, chosen)
        prediction, cached = await chosen.answer(call, question)
        timings = Timings.of(call.began if began is None else began, prediction, remembered=cached)
        return Answer(
            chosen.student.identity, question, item.locale, item.top_k is not None, prediction, cached, timings
        )

    def _count(self, call: Call, chosen: Loaded, answer: Answer) -> None:
        call.timings = answer.timings
        locale = answer.question.locale
        self.metrics.defer(chosen.meters.count, locale, answer.prediction, answer.timings, answer.cached)
