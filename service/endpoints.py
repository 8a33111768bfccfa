"""The endpoints, and the bodies of their replies. The middleware parses requests and answers the errors raised here.

Replies are built as plain dicts, which is faster than with models; a test checks them against `http.schemas`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import orjson
from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST

from service import errors
from service.errors import ServiceError, error_body
from service.experiments.comparison import agreement, differences
from service.experiments.routing import Route, Router
from service.http import requests
from service.http.context import Context, Json, Reply, RequestContext
from service.http.requests import TextRequest
from service.models.queue import Answer, LoadedModel
from service.models.registry import ModelRegistry
from service.monitoring.metrics import NONE, Metrics
from service.monitoring.timings import Timings
from service.page import load_reference
from service.settings import Settings
from service.student.decoding import Ranked, Span

DIGITS = 6  # after the decimal point of a confidence; more would be numerical noise


@dataclass(frozen=True, eq=False)
class Endpoints:
    """The endpoints of one application. `app.state.reload` reloads the students of every process."""

    settings: Settings
    registry: ModelRegistry
    metrics: Metrics
    router: Router
    page: Reply
    app: FastAPI

    async def nlu(self, context: Context, body: requests.NluRequest) -> Reply:
        """Domain, intent and slots of one text.

        Offsets are code points of the original text: `text[start:end] == value`. A field is null if the student lacks
        its head. If an experiment chose the student, the reply names the arm.
        """
        route = self.router.route(context, body)
        context.model = route.model.name
        try:
            answer = await route.model.answer(context, body)
        except Exception as error:
            self.router.record_failure(route, error)
            raise
        context.timings = answer.timings
        context.after_reply = partial(self.record_turn, route, answer)
        return json_reply(nlu_body(route.model, body, answer, context.request_id, route.arm))

    async def domain(self, context: Context, body: requests.DomainRequest) -> Reply:
        """The domain alone, from the student with the alias `domain` if there is one, else from the default student."""
        model = self.registry.choose_for_domains() if body.model is None else self.registry.choose(body.model)
        context.model = model.name
        model.require_head("domain", "domain")
        answer = await model.answer(context, body)
        context.timings = answer.timings
        context.after_reply = partial(self.record, model, [answer])
        return json_reply(_domain_body(model, body, answer, context.request_id))

    async def compare(self, context: Context, body: requests.CompareRequest) -> Reply:
        """The answers of several students to one text, with their timings and differences.

        The students run one after the other. One that can't answer gets an error in its place; if none can, the request
        fails with the first error.
        """
        names = body.models or [self.registry.choose(None).name, *self.registry.models]
        models = {model.name: model for model in map(self.registry.choose, names)}
        results: Json = {}
        answers: dict[str, Answer] = {}
        problems: list[ServiceError] = []
        for name, model in models.items():
            try:
                answers[name] = await model.answer(context, body, began=time.perf_counter())
                results[name] = nlu_body(model, body, answers[name], context.request_id)
            except errors.ClientLeft:
                raise
            except Exception as error:  # noqa: BLE001 - the other students answer
                problems.append(errors.reported(error, context.request_id))
                results[name] = error_body(problems[-1], context.request_id)
        if not answers:
            raise problems[0]
        for problem in problems:
            self.metrics.count_error(problem)
        context.timings = Timings.of_several([answer.timings for answer in answers.values()], context.began)
        same = agreement({name: answer.prediction for name, answer in answers.items()})
        return json_reply(
            {
                "results": results,
                "agreement": same,
                "differences": differences(results, same),
                "request_id": context.request_id,
            }
        )

    async def feedback(self, context: Context, body: requests.FeedbackRequest) -> Reply:
        """The outcome of an answer, counted for its arm of the experiment. Only the first feedback on a request counts.

        Send the `arm` of the answer, too: a process that did not answer the request itself counts it there.
        """
        result = self.router.record_feedback(body)
        labels = result.labels
        context.model = labels.model
        return json_reply(
            {
                "request_id": body.request_id,
                "outcome": body.outcome,
                "arm": None if labels.arm == NONE else labels.arm,
                "counted": not result.repeated,
                "remembered": result.remembered,
            }
        )

    async def batch(self, context: Context, body: requests.BatchRequest) -> Reply:
        """Several texts in one request; each gets the same answer as alone, or an error of its own.

        Texts run one at a time: a dynamically quantised graph computes one activation scale for a whole batch, so in a
        batched run an answer would depend on its neighbours.
        """
        if len(body.items) > self.settings.max_batch:
            raise errors.BatchTooLarge(count=len(body.items), limit=self.settings.max_batch)
        model = self.registry.choose(body.model)
        context.model = model.name
        results: list[Json] = []
        answers: list[Answer] = []
        with await model.queue.admit_in_turn(context, len(body.items)) as permits:
            model.metrics.batch_size.observe(len(body.items))
            context.after_reply = partial(self.record, model, answers)
            for item in body.items:
                try:
                    if isinstance(item, errors.InvalidRequest):
                        raise item
                    answer = await model.answer_admitted(context, item)
                    answers.append(answer)
                    results.append(nlu_body(model, item, answer, context.request_id))
                except errors.ClientLeft:
                    raise
                except Exception as error:  # noqa: BLE001 - the other items are answered
                    problem = errors.reported(error, context.request_id)
                    self.metrics.count_error(problem)
                    results.append(error_body(problem, context.request_id))
                permits.give_back(1)
        context.timings = Timings.of_batch([answer.timings for answer in answers])
        return json_reply({"results": results})

    async def models(self, _: Context) -> Reply:
        """The loaded students, as described by their manifests, and the folders that were refused."""
        models = [_model_body(model, self.registry.aliases_of(name)) for name, model in self.registry.models.items()]
        return json_reply({"models": models, "refused": self.registry.refused})

    async def reload(self, _: Context) -> Reply:
        """Load new and changed students from the students folder; they serve once they are warm and self-tested.

        If a new version is invalid, the old one still serves. Needs an API key.
        """
        if self.settings.api_keys_file is None:
            raise errors.Forbidden(problem="a reload needs an API key, and none is configured (--api-keys-file)")
        outcome: Json = await self.app.state.reload()
        if outcome["refused"]:
            raise errors.ReloadRefused(problems="; ".join(outcome["refused"]))
        return json_reply(outcome)

    async def live(self, _: Context) -> Reply:
        """200 as long as the process can answer."""
        return json_reply({"status": "live"})

    async def ready(self, context: Context) -> Reply:
        """200 once every expected student is loaded, warm and self-tested; else 503 with the reasons."""
        reasons = self.registry.reasons_not_ready()
        if not reasons:
            return json_reply({"status": "ready"})
        error = errors.NotReady(reason="; ".join(reasons))  # not raised: a health check is not a rejected request
        return json_reply(error_body(error, context.request_id))._replace(status=error.row.status)

    async def expose(self, _: Context) -> Reply:
        """Metrics in the Prometheus text format."""
        return Reply(self.metrics.exposition(), ((b"content-type", CONTENT_TYPE_LATEST.encode()),))

    async def show_page(self, _: Context) -> Reply:
        """The web page."""
        return self.page

    async def show_reference(self, _: Context) -> Reply:
        """The OpenAPI document as a page."""
        return self._reference

    async def openapi(self, _: Context) -> Reply:
        """The OpenAPI document."""
        return json_reply(self.app.openapi())

    @cached_property
    def _reference(self) -> Reply:
        return load_reference(self.app.openapi())

    def record_turn(self, route: Route, answer: Answer, context: RequestContext) -> None:
        """Count the answer to a user's turn, and record it in the experiment. Call it after the reply."""
        self.record(route.model, [answer], context)
        self.router.record_answer(context, route, answer)

    def record(self, model: LoadedModel, answers: Sequence[Answer], _: RequestContext) -> None:
        """Count answers of a student. Call it after the reply."""
        for question, prediction, cached, timings in answers:
            self.metrics.defer(model.metrics.count, question.locale, prediction, timings, cached)


def json_reply(body: Json) -> Reply:
    """A reply of status 200 with a JSON body."""
    return Reply(orjson.dumps(body))


def nlu_body(model: LoadedModel, item: TextRequest, answer: Answer, request_id: str, arm: str | None = None) -> Json:
    """The body of `schemas.NluReply`."""
    question, prediction, _, _ = answer
    domain, intent = _labels(prediction.domain), _labels(prediction.intent)
    body = {
        "domain": domain[0] if domain else None,
        "intent": intent[0] if intent else None,
        "slots": slots_body(prediction.slots),
        **_common(model, item, answer, request_id),
    }
    if item.top_k is not None:
        body["ranking"] = {"domain": domain, "intent": intent}
    if question.domains is not None or question.intents is not None:
        body["kept"] = {"domain": _rounded(prediction.kept_domains), "intent": _rounded(prediction.kept_intents)}
    if arm is not None:
        body["arm"] = arm
    return body


def _domain_body(model: LoadedModel, item: TextRequest, answer: Answer, request_id: str) -> Json:
    """The body of `schemas.DomainReply`; the student must have domains."""
    domain = _labels(answer.prediction.domain) or []
    body = {"domain": domain[0], **_common(model, item, answer, request_id)}
    if item.top_k is not None:
        body["ranking"] = domain
    if answer.question.domains is not None:
        body["kept"] = _rounded(answer.prediction.kept_domains)
    return body


def _common(model: LoadedModel, item: TextRequest, answer: Answer, request_id: str) -> Json:
    """The fields that all answers share."""
    question, prediction, cached, timings = answer
    body: Json = {
        "in_scope": prediction.in_scope,
        "locale": question.locale,
        "truncated": prediction.truncated,
        "cached": cached,
        "model": model.student.identity,
        "request_id": request_id,
        "timings_ms": {
            phase: round(seconds * 1000, 3) for phase, seconds in zip(timings._fields, timings, strict=True)
        },
    }
    if item.locale != question.locale:
        body["fallback_from"] = item.locale
    return body


def _labels(ranked: Sequence[Ranked] | None) -> list[Json] | None:
    if ranked is None:
        return None
    return [{"name": name, "confidence": round(confidence, DIGITS)} for name, confidence in ranked]


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, DIGITS)


def slots_body(spans: Sequence[Span] | None) -> list[Json] | None:
    """The bodies of `schemas.Slot`; None without a slot head."""
    if spans is None:
        return None
    return [
        {"name": name, "value": value, "start": start, "end": end, "confidence": round(confidence, DIGITS)}
        for name, value, start, end, confidence in spans
    ]


def _model_body(model: LoadedModel, aliases: Sequence[str]) -> Json:
    """The body of `schemas.ModelSummary`."""
    manifest = model.student.manifest
    labels = manifest.labels
    return {
        "name": manifest.name,
        "default": "default" in aliases,
        "aliases": aliases,
        "size": manifest.size,
        "precision": manifest.precision,
        "digest": manifest.digest,
        "heads": labels.heads,
        "locales": manifest.locales,
        "max_length": manifest.max_length,
        "runs_on": "thread" if model.queue.in_thread else "event_loop",
        "calibrated": manifest.calibration is not None,
        "parameters": manifest.architecture.parameters,
        "domains": labels.domain,
        "intents": labels.intent,
        "slots": sorted({tag[2:] for tag in labels.slots[1:]}),
        "accuracy": manifest.accuracy,
        "latency": manifest.latency,
        "parity": manifest.parity,
        "calibration": manifest.calibration.model_dump() if manifest.calibration else None,
    }
