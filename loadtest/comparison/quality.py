"""Answers of a running service to labelled utterances, in the form that `training.evaluation.scoring` scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from loadtest.load.client import Client, LoadError
from loadtest.load.replies import problem_of_reply
from training.data.utterances import Slot, Utterance
from training.evaluation.scoring import PredictedLabels

PATH = "/v1/nlu/batch"
BATCH = 32  # texts of a request; below the service's default limit
TIMEOUT = 60.0  # seconds for a batch


def answers_of_service(url: str, utterances: Sequence[Utterance]) -> Iterator[PredictedLabels]:
    """Send each utterance to a service, over one connection; yields the answers in the same order.

    Raises:
        LoadError: the service can't be reached, or a reply is invalid.
    """
    with Client(url, TIMEOUT) as client:
        for start in range(0, len(utterances), BATCH):
            batch = utterances[start : start + BATCH]
            items = [{"text": one.text, "locale": one.locale} for one in batch]
            reply = client.post(PATH, orjson.dumps({"items": items}))
            if problem := problem_of_reply([one.text for one in batch], True, reply.status, reply.content):
                raise LoadError(f"{url}{PATH}: {problem}")
            yield from map(answer_of, orjson.loads(reply.content)["results"])


def answer_of(result: dict[str, Any]) -> PredictedLabels:
    """The scored part of a reply."""
    domain, intent, slots = result["domain"], result["intent"], result["slots"]
    return PredictedLabels(
        domain and domain["name"],
        intent and intent["name"],
        None if slots is None else tuple(Slot(slot["name"], slot["start"], slot["end"]) for slot in slots),
    )
