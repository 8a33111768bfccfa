"""Replies as plain dicts: a prediction, a student's summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.decoding import Ranked, Span
from service.manifest import Manifest
from service.metrics import Timings
from service.student import Prediction

Json = dict[str, Any]
DIGITS = 6  # of a confidence; more would only be noise of the softmax


def nlu_reply(
    prediction: Prediction,
    manifest: Manifest,
    *,
    asked_locale: str,
    locale: str,
    ranked: bool,
    cached: bool,
    request_id: str,
    timings: Timings,
) -> Json:
    """The body of `schemas.NluReply`."""
    domain, intent = _labels(prediction.domain), _labels(prediction.intent)
    reply: Json = {
        "domain": domain[0] if domain else None,
        "intent": intent[0] if intent else None,
        "slots": _slots(prediction.slots),
        "in_scope": None,  # until a manifest brings a calibration
        "locale": locale,
        "truncated": prediction.truncated,
        "cached": cached,
        "model": {"name": manifest.name, "precision": manifest.precision, "digest": manifest.digest},
        "request_id": request_id,
        "timings_ms": timings.milliseconds(),
    }
    if asked_locale != locale:
        reply["fallback_from"] = asked_locale
    if ranked:
        reply["ranking"] = {"domain": domain, "intent": intent}
    return reply


def model_summary(manifest: Manifest, *, default: bool) -> Json:
    """The body of `schemas.ModelSummary`."""
    labels = manifest.labels
    return {
        "name": manifest.name,
        "default": default,
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
    }


def _labels(ranked: Sequence[Ranked] | None) -> list[Json] | None:
    if ranked is None:
        return None
    return [{"name": name, "confidence": round(confidence, DIGITS)} for name, confidence in ranked]


def _slots(spans: Sequence[Span] | None) -> list[Json] | None:
    if spans is None:
        return None
    return [
        {"name": name, "value": value, "start": start, "end": end, "confidence": round(confidence, DIGITS)}
        for name, value, start, end, confidence in spans
    ]
