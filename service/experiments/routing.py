"""Who answers whom: the student that a request names, the arm of an experiment, and a shadow beside either."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

from service.errors import InternalError, InvalidRequest, MissingHead, ServiceError
from service.experiments.experiment import Experiment, ExperimentFile, split_key
from service.experiments.friction import Noted, Place, Sessions, Turn
from service.experiments.shadow import Shadow
from service.http.context import Call
from service.http.replies import Answer
from service.http.requests import CompareRequest, DomainRequest, FeedbackRequest, NluItem, NluRequest
from service.models.registry import Engine, Loaded
from service.monitoring.metrics import Metrics
from service.student.student import Question

NOWHERE = Place()

log = logging.getLogger("service")


class Route(NamedTuple):
    """The student that answers a request; where an experiment chose it, that, the arm, and the client's key."""

    student: Loaded
    experiment: Experiment | None = None
    arm: str | None = None
    client_key: bytes | None = None


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
        self._experiment = experiment
        self._field: _Field | None = None
        self._sessions = Sessions(metrics)
        self._shadow = Shadow(engine, metrics)
        self._random = random.Random()

    def route(self, call: Call, body: NluRequest) -> Route:
        """Who answers a request. One that names no model may be in an experiment.

        Where any arm could not answer, because its student is not loaded or does not know the locale or the allowed
        labels, the default one answers outside of the experiment: left out of that arm alone, such requests would make
        the arms' users differ.

        Raises:
            UnknownModel, NotReady: as `Engine.choose`.
            InvalidRequest: the client's key is too long.
        """
        client_key = call.client_key  # refused in any case where it is too long, not only while an experiment runs
        if self._experiment is None or body.model is not None:
            return Route(self._engine.choose(body.model))
        field = self._look_at(self._experiment)
        if not field.takes(body):
            return Route(self._engine.choose(None))
        arm = field.experiment.arm_of(split_key(client_key, call.request_id))
        assert arm is not None  # a field without arms takes nothing
        return Route(field.arms[arm], field.experiment, arm, client_key)

    def answered(self, call: Call, route: Route, answer: Answer) -> None:
        """Count the turn of an arm, and have the answer shadowed by chance."""
        if self._experiment is None:
            return
        prediction, question = answer.prediction, answer.question
        if route.experiment is not None and route.arm is not None:
            unfiltered = prediction.intent if prediction.kept_intents is None else None
            turn = Turn(
                experiment=route.experiment,
                arm=route.arm,
                model=route.student.name,
                request_id=call.request_id,
                client_key=route.client_key,
                text=question.text,
                confidence=unfiltered[0].confidence if unfiltered else None,
                in_scope=prediction.in_scope,
                seconds=answer.timings.total,
            )
            self._metrics.defer(self._sessions.count, turn)
        field = self._look_at(self._experiment)
        if field.shadow is not None and self._random.random() < field.share:
            call.afterwards = partial(self._shadow.offer, route.student, field.shadow, question, prediction)

    def failed(self, route: Route, error: Exception) -> None:
        """Count a request of an arm that gets no answer."""
        if route.experiment is not None and route.arm is not None:
            row = (error if isinstance(error, ServiceError) else InternalError).row
            place = route.experiment.name, route.arm, route.student.name
            self._metrics.turn_errors.labels(*place, row.label).inc()

    def told(self, body: FeedbackRequest) -> Noted:
        """Count feedback."""
        place = NOWHERE
        if self._experiment is not None and body.arm is not None:
            field = self._look_at(self._experiment)
            if (student := field.arms.get(body.arm)) is not None:
                place = Place(field.experiment.name, body.arm, student.name)
        return self._sessions.feedback(body.request_id, body.outcome, place)

    def look_around(self) -> None:
        """Look at the experiment file, and close the sessions that are over. To be called now and then."""
        if self._experiment is not None and self._engine.students:
            self._look_at(self._experiment)
        if self._engine.draining:  # there may still be somebody who asks for the metrics
            self._sessions.close_all()
        else:
            self._sessions.close_idle()

    def close(self) -> None:
        """Begin nothing any more."""
        self._shadow.close()

    def _look_at(self, file: ExperimentFile) -> _Field:
        """The experiment as it can be run now; worked out anew when the file or the students have changed."""
        experiment, students = file.current, self._engine.students
        field = self._field
        if field is None or field.experiment is not experiment or field.students is not students:
            field = self._field = _Field.of(experiment, self._engine)
            for arm, student in field.arms.items():
                self._sessions.expect(Place(experiment.name, arm, student.name))
                log.info(
                    "experiment %s: %s is %s, weight %g",
                    experiment.name,
                    arm,
                    student.name,
                    experiment.arms[arm].weight,
                )
            if field.shadow is not None:
                log.info("experiment %s: %s shadows %g of the texts", experiment.name, field.shadow.name, field.share)
                for primary in students.values():
                    self._shadow.expect(primary, field.shadow)
        return field


class _Field(NamedTuple):
    """An experiment as far as it can be run with the students that are loaded.

    `arms` is empty where the student of one is not there. `locales`, `domains` and `intents` are those that all arms
    know.
    """

    experiment: Experiment
    students: Mapping[str, Loaded]
    arms: dict[str, Loaded]
    locales: frozenset[str]
    domains: frozenset[str]
    intents: frozenset[str]
    shadow: Loaded | None
    share: float

    @classmethod
    def of(cls, experiment: Experiment, engine: Engine) -> _Field:
        """What can be run; a warning says what can't."""
        wanted = {name: arm.model for name, arm in experiment.arms.items() if arm.weight}
        found = {name: student for name, model in wanted.items() if (student := engine.find(model))}
        shadow = engine.find(experiment.shadow.model) if experiment.shadow else None
        missing = {model for name, model in wanted.items() if name not in found}
        if missing:
            log.warning(
                "experiment %s splits nothing: no student %s is loaded", experiment.name, ", ".join(sorted(missing))
            )
        if experiment.shadow and shadow is None:
            log.warning("experiment %s has no shadow: %s is not loaded", experiment.name, experiment.shadow.model)
        arms = {} if missing else found
        labels = [student.student.manifest.labels for student in arms.values()]
        return cls(
            experiment=experiment,
            students=engine.students,
            arms=arms,
            locales=_common([frozenset(student.locales) for student in arms.values()]),
            domains=_common([frozenset(known.domain) for known in labels]),
            intents=_common([frozenset(known.intent) for known in labels]),
            shadow=shadow,
            share=experiment.shadow.share if experiment.shadow else 0.0,
        )

    def takes(self, body: NluRequest) -> bool:
        """Whether each arm could answer a request."""
        return (
            body.locale in self.locales
            and (body.allowed_domains is None or self.domains.issuperset(body.allowed_domains))
            and (body.allowed_intents is None or self.intents.issuperset(body.allowed_intents))
        )


def _common(sets: list[frozenset[str]]) -> frozenset[str]:
    return frozenset.intersection(*sets) if sets else frozenset()


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


def check_head(chosen: Loaded, head: str, field: str) -> None:
    """See to it that a student has a head; `field` is what asks for it, for the error.

    Raises:
        MissingHead: it has not.
    """
    heads = chosen.student.manifest.labels.heads
    if head not in heads:
        raise MissingHead(field=field, model=chosen.name, head=head, heads=", ".join(heads))


def _numbers(chosen: Loaded, head: str, field: str, names: list[str] | None) -> tuple[int, ...] | None:
    if names is None:
        return None
    check_head(chosen, head, field)
    try:
        return chosen.student.numbers_of(head, names)
    except KeyError:
        problem = f"{field}: holds a name that student {chosen.name} does not know; GET /v1/models lists those it does"
        raise InvalidRequest(problem=problem) from None
