"""Who answers whom: the student that a request names, the arm of an experiment, and a shadow beside either."""

from __future__ import annotations

import random
from functools import partial
from typing import NamedTuple

from service.call import Call
from service.engine import Engine, Loaded
from service.errors import InvalidRequest, MissingHead
from service.experiment import Experiment, ExperimentFile, split_key
from service.friction import Noted, Sessions, Turn
from service.metrics import Metrics
from service.replies import Answer
from service.requests import CompareRequest, DomainRequest, FeedbackRequest, NluItem, NluRequest
from service.shadow import Shadow
from service.student import Question


class Route(NamedTuple):
    """The student that answers a request; where an experiment chose it, the experiment's and the arm's name."""

    student: Loaded
    experiment: Experiment | None = None
    arm: str | None = None


class Traffic:
    """The way of requests to students in one process, and what is learned from them.

    Batches, domains and comparisons take no part in experiments: they are not what a user waits for and reacts to.

    Args:
        engine: the students.
        metrics: in which is counted.
        experiment: splits and shadows requests; without one, requests that name no model get the default student.
    """

    def __init__(self, engine: Engine, metrics: Metrics, experiment: ExperimentFile | None = None) -> None:
        self._engine = engine
        self._metrics = metrics
        self.experiment = experiment
        self._sessions = Sessions(metrics)
        self._shadow = Shadow(engine, metrics)
        self._random = random.Random()

    def route(self, call: Call, body: NluRequest) -> Route:
        """Who answers a request. One that names no model may be in an experiment.

        Where the student of any arm is not loaded or does not know the locale, the default one answers outside of the
        experiment: left out of that arm alone, such requests would make the arms' users differ.

        Raises:
            UnknownModel, NotReady: as `Engine.choose`.
            InvalidRequest: the client's key is too long.
        """
        client_key = call.client_key  # refused in any case where it is too long, not only while an experiment runs
        if self.experiment is None or body.model is not None:
            return Route(self._engine.choose(body.model))
        experiment = self.experiment.current
        arm = experiment.arm_of(split_key(client_key, call.request_id))
        students = {name: self._engine.find(each.model) for name, each in experiment.arms.items()}
        if arm is None or not all(student and body.locale in student.locales for student in students.values()):
            return Route(self._engine.choose(None))
        chosen = students[arm]
        assert chosen is not None
        return Route(chosen, experiment, arm)

    def answered(self, call: Call, route: Route, answer: Answer) -> None:
        """Remember an answer for feedback, count the turn of its arm, and have it shadowed by chance."""
        prediction, question = answer.prediction, answer.question
        sure = prediction.intent[0].confidence if prediction.intent and prediction.kept_intents is None else None
        turn = Turn(
            experiment=route.experiment,
            arm=route.arm,
            model=route.student.name,
            request_id=call.request_id,
            client_key=call.client_key if route.arm is not None else None,
            text=question.text if route.arm is not None else "",
            confidence=sure,
            in_scope=prediction.in_scope,
            seconds=answer.timings.total,
        )
        self._metrics.defer(self._sessions.count, turn)
        if self.experiment is None or (wanted := self.experiment.current.shadow) is None:
            return
        shadow = self._engine.find(wanted.model)
        if shadow is not None and shadow is not route.student and self._random.random() < wanted.share:
            call.afterwards = partial(self._shadow.offer, route.student, shadow, question, prediction)

    def told(self, call: Call, body: FeedbackRequest) -> Noted:
        """Count feedback.

        Raises:
            InvalidRequest: the client's key is too long.
        """
        experiment = self.experiment.current if self.experiment else None
        return self._sessions.feedback(body.request_id, body.outcome, call.client_key, experiment)

    def look_around(self) -> None:
        """Close sessions that are over. To be called now and then."""
        self._sessions.close_idle()

    def close(self) -> None:
        """Count the sessions that are open; the process is about to end."""
        self._sessions.close_all()
        self._shadow.close()


def question_of(item: NluItem | DomainRequest | CompareRequest, chosen: Loaded) -> Question:
    """What a student is asked.

    Raises:
        UnknownLocale: it does not know the locale.
        MissingHead: labels are to be filtered that it has no head for.
        InvalidRequest: it knows no such label.
    """
    return Question(
        item.text,
        chosen.locale_for(item.locale),
        item.top_k or 1,
        _numbers(chosen, "domain", "allowed_domains", getattr(item, "allowed_domains", None)),
        _numbers(chosen, "intent", "allowed_intents", getattr(item, "allowed_intents", None)),
    )


def _numbers(chosen: Loaded, head: str, field: str, names: list[str] | None) -> tuple[int, ...] | None:
    if names is None:
        return None
    heads = chosen.student.manifest.labels.heads
    if head not in heads:
        raise MissingHead(field=field, model=chosen.name, head=head, heads=", ".join(heads))
    try:
        return chosen.student.numbers_of(head, names)
    except KeyError:
        problem = f"{field}: holds a name that student {chosen.name} does not know; GET /v1/models lists those it does"
        raise InvalidRequest(problem=problem) from None
