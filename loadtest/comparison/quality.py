"""What a running service answers to labelled utterances, as `training.evaluation.scoring` scores it."""

from __future__ import annotations

import http.client
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import orjson

from loadtest.load.closed_loop import LoadError
from loadtest.load.replies import problem_of_reply
from training.data.utterances import Slot, Utterance
from training.evaluation.scoring import Answer

PATH = "/v1/nlu/batch"
BATCH = 32  # texts of a request; fewer than a service allows by default
TIMEOUT = 60.0  # seconds for a batch


def answers_of_service(url: str, utterances: Sequence[Utterance]) -> Iterator[Answer]:
    """Ask a service about each utterance, over one connection; yields the answers in their order.

    Raises:
        LoadError: it can't be reached, or a reply is not as it should be.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT)
    try:
        for start in range(0, len(utterances), BATCH):
            yield from _ask(connection, url, utterances[start : start + BATCH])
    finally:
        connection.close()


def _ask(connection: http.client.HTTPConnection, url: str, utterances: Sequence[Utterance]) -> list[Answer]:
    body = orjson.dumps({"items": [{"text": found.text, "locale": found.locale} for found in utterances]})
    try:
        connection.request("POST", PATH, body, {"content-type": "application/json"})
        reply = connection.getresponse()
        content = reply.read()
    except (OSError, http.client.HTTPException) as error:
        raise LoadError(f"{url}{PATH} can't be asked ({error or type(error).__name__})") from None
    if problem := problem_of_reply([found.text for found in utterances], True, reply.status, content):
        raise LoadError(f"{url}{PATH}: {problem}")
    return [_answer(result) for result in orjson.loads(content)["results"]]


def _answer(result: dict[str, Any]) -> Answer:
    domain, intent, slots = result["domain"], result["intent"], result["slots"]
    return Answer(
        domain and domain["name"],
        intent and intent["name"],
        None if slots is None else tuple(Slot(slot["name"], slot["start"], slot["end"]) for slot in slots),
    )
