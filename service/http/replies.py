"""Replies as plain dicts: a prediction, a student's summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from service.monitoring.timings import Timings
from service.student.decoding import Ranked, Span
from service.student.manifest import Manifest
from service.student.student import Prediction, Question

Json = dict[str, Any]
DIGITS = 6  # of a confidence; more would only be noise of the softmax


class Answer(NamedTuple):
    """A text's answer and all that goes with it.

    `model` names the student, as `schemas.ModelIdentity`; `asked_locale` is the client's, `question.locale` the
    student's; `ranked` says whether a ranking was asked for.
    """

    model: Json
    question: Question
    asked_locale: str
    ranked: bool
    prediction: Prediction
    cached: bool
    timings: Timings


def nlu_reply(answer: Answer, request_id: str, arm: str | None = None) -> Json:
    """The body of `schemas.NluReply`."""
    prediction = answer.prediction
    domain, intent = _labels(prediction.domain), _labels(prediction.intent)
    reply = {
        "domain": domain[0] if domain else None,
        "intent": intent[0] if intent else None,
        "slots": _slots(prediction.slots),
        **_circumstances(answer, request_id),
    }
    if answer.ranked:
        reply["ranking"] = {"domain": domain, "intent": intent}
    if answer.question.domains is not None or answer.question.intents is not None:
        reply["kept"] = {"domain": _rounded(prediction.kept_domains), "intent": _rounded(prediction.kept_intents)}
    if arm is not None:
        reply["arm"] = arm
    return reply


def domain_reply(answer: Answer, request_id: str) -> Json:
    """The body of `schemas.DomainReply`, of a student that has domains."""
    domain = _labels(answer.prediction.domain) or []
    reply = {"domain": domain[0], **_circumstances(answer, request_id)}
    if answer.ranked:
        reply["ranking"] = domain
    if answer.question.domains is not None:
        reply["kept"] = _rounded(answer.prediction.kept_domains)
    return reply


def _circumstances(answer: Answer, request_id: str) -> Json:
    """What every answer tells beside its labels."""
    prediction, locale = answer.prediction, answer.question.locale
    told: Json = {
        "in_scope": prediction.in_scope,
        "locale": locale,
        "truncated": prediction.truncated,
        "cached": answer.cached,
        "model": answer.model,
        "request_id": request_id,
        "timings_ms": answer.timings.milliseconds(),
    }
    if answer.asked_locale != locale:
        told["fallback_from"] = answer.asked_locale
    return told


def model_summary(manifest: Manifest, aliases: Sequence[str]) -> Json:
    """The body of `schemas.ModelSummary`."""
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


def _labels(ranked: Sequence[Ranked] | None) -> list[Json] | None:
    if ranked is None:
        return None
    return [{"name": name, "confidence": round(confidence, DIGITS)} for name, confidence in ranked]


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, DIGITS)


def _slots(spans: Sequence[Span] | None) -> list[Json] | None:
    if spans is None:
        return None
    return [
        {"name": name, "value": value, "start": start, "end": end, "confidence": round(confidence, DIGITS)}
        for name, value, start, end, confidence in spans
    ]
