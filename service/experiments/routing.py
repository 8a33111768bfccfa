"""Routing, A/B splits and shadow traffic: which student answers a request, and what is recorded of the answer."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from typing import NamedTuple

from service.errors import InternalError, InvalidRequest, ServiceError
from service.experiments.experiment import Experiment, ExperimentFile, split_key
from service.experiments.friction import ArmLabels, FeedbackResult, Sessions, Turn
from service.experiments.shadow import ShadowRunner
from service.http.context import RequestContext
from service.http.requests import FeedbackRequest, NluRequest
from service.models.queue import Answer, LoadedModel
from service.models.registry import DEFAULT, ModelRegistry
from service.monitoring.metrics import Metrics

MAX_CLIENT_KEY_BYTES = 256

log = logging.getLogger("service")


class Route(NamedTuple):
    """The student that answers a request; if an experiment chose it, also experiment, arm and client key."""

    model: LoadedModel
    experiment: Experiment | None = None
    arm: str | None = None
    client_key: bytes | None = None


class Router:
    """Chooses the students of requests in one process, and records what happens in experiments.

    Batches, ``/v1/domain`` and comparisons take no part in experiments: they are not turns of a user.

    Args:
        registry: of the students.
        metrics: of the process.
        file: the experiment file; without one, requests that name no model get the default student.
    """

    def __init__(self, registry: ModelRegistry, metrics: Metrics, file: ExperimentFile | None = None) -> None:
        self._registry = registry
        self._metrics = metrics
        self._file = file
        self._active: _ActiveExperiment | None = None
        self._sessions = Sessions(metrics)
        self._shadow = ShadowRunner(registry, metrics)
        self._random = random.Random()

    def route(self, context: RequestContext, body: NluRequest) -> Route:
        """Choose the student for a request. One that names no model may be part of an experiment.

        If any arm could not answer, because its student is not loaded or lacks the locale or the allowed labels, the
        default student answers outside of the experiment: else the arms would have different kinds of users.

        Raises:
            UnknownModel, NotReady: as `ModelRegistry.choose`.
            InvalidRequest: the client's key is too long.
        """
        client_key = context.headers.get(b"x-client-key")
        if client_key is not None and len(client_key) > MAX_CLIENT_KEY_BYTES:  # also without an experiment
            raise InvalidRequest(problem=f"x-client-key: should have at most {MAX_CLIENT_KEY_BYTES} bytes")
        if self._file is not None and body.model is None:
            active = self._active_experiment(self._file)
            if active.accepts(body):
                experiment = active.experiment
                arm = experiment.arm_of(split_key(client_key, context.request_id))
                assert arm is not None  # an experiment without arms accepts nothing
                return Route(active.arms[arm], experiment, arm, client_key)
        name = DEFAULT if body.model is None else body.model
        return Route(self._registry.by_name.get(name) or self._registry.choose(name))

    def record_answer(self, context: RequestContext, route: Route, answer: Answer) -> None:
        """Count the turn of an arm, and submit a random share of the texts to the shadow. Call it after the reply."""
        if self._file is None:
            return
        question, prediction, _, timings = answer
        if route.experiment is not None and route.arm is not None:
            unfiltered = prediction.intent if prediction.kept_intents is None else None
            turn = Turn(
                labels=ArmLabels(route.experiment.name, route.arm, route.model.name),
                rules=route.experiment.friction,
                request_id=context.request_id,
                client_key=route.client_key,
                text=question.text,
                confidence=unfiltered[0].confidence if unfiltered else None,
                in_scope=prediction.in_scope,
                seconds=timings.total,
            )
            self._metrics.defer(self._sessions.count, turn)
        active = self._active_experiment(self._file)
        if active.shadow is not None and self._random.random() < active.share:
            self._shadow.submit(route.model, active.shadow, question, prediction)

    def record_failure(self, route: Route, error: Exception) -> None:
        """Count a request of an arm that failed."""
        if route.experiment is not None and route.arm is not None:
            row = (error if isinstance(error, ServiceError) else InternalError).row
            labels = route.experiment.name, route.arm, route.model.name
            self._metrics.turn_errors.labels(*labels, row.label).inc()

    def record_feedback(self, body: FeedbackRequest) -> FeedbackResult:
        """Count feedback."""
        labels = ArmLabels()
        if self._file is not None and body.arm is not None:
            active = self._active_experiment(self._file)
            if (model := active.arms.get(body.arm)) is not None:
                labels = ArmLabels(active.experiment.name, body.arm, model.name)
        return self._sessions.record_feedback(body.request_id, body.outcome, labels)

    def tick(self) -> None:
        """Check the experiment file, and close the sessions that have ended. Call it regularly."""
        if self._file is not None and self._registry.models:
            self._active_experiment(self._file)
        if self._registry.draining:  # the metrics may still be scraped
            self._sessions.close_all()
        else:
            self._sessions.close_idle()

    def close(self) -> None:
        """Stop accepting work."""
        self._shadow.close()

    def _active_experiment(self, file: ExperimentFile) -> _ActiveExperiment:
        """The experiment with its loaded students; resolved again when the file or the students have changed."""
        experiment, models = file.current, self._registry.models
        active = self._active
        if active is None or active.experiment is not experiment or active.models is not models:
            active = self._active = _ActiveExperiment.of(experiment, self._registry)
            name = experiment.name
            for arm, model in active.arms.items():
                self._sessions.start_series(ArmLabels(name, arm, model.name))
                log.info("experiment %s: %s is %s, weight %g", name, arm, model.name, experiment.arms[arm].weight)
            if active.shadow is not None:
                log.info("experiment %s: %s shadows %g of the texts", name, active.shadow.name, active.share)
                for primary in models.values():
                    self._shadow.start_series(primary, active.shadow)
        return active


class _ActiveExperiment(NamedTuple):
    """An experiment with the students that are loaded.

    `arms` is empty if the student of any arm is not loaded. `locales`, `domains` and `intents` are those that all arms
    have in common.
    """

    experiment: Experiment
    models: Mapping[str, LoadedModel]
    arms: dict[str, LoadedModel]
    locales: frozenset[str]
    domains: frozenset[str]
    intents: frozenset[str]
    shadow: LoadedModel | None
    share: float

    @classmethod
    def of(cls, experiment: Experiment, registry: ModelRegistry) -> _ActiveExperiment:
        """Resolve the students' names; log a warning for each that is not loaded."""
        by_name, shadow_spec = registry.by_name, experiment.shadow
        arms = {name: by_name.get(arm.model) for name, arm in experiment.arms.items() if arm.weight}
        missing = sorted({experiment.arms[name].model for name, model in arms.items() if model is None})
        if missing:
            log.warning("experiment %s is not split: student %s is not loaded", experiment.name, ", ".join(missing))
        shadow = by_name.get(shadow_spec.model) if shadow_spec else None
        if shadow_spec and shadow is None:
            log.warning("experiment %s has no shadow: student %s is not loaded", experiment.name, shadow_spec.model)
        loaded = {} if missing else {name: model for name, model in arms.items() if model is not None}
        labels = [model.student.manifest.labels for model in loaded.values()]
        return cls(
            experiment=experiment,
            models=registry.models,
            arms=loaded,
            locales=_common([frozenset(model.locales) for model in loaded.values()]),
            domains=_common([frozenset(known.domain) for known in labels]),
            intents=_common([frozenset(known.intent) for known in labels]),
            shadow=shadow,
            share=shadow_spec.share if shadow_spec else 0.0,
        )

    def accepts(self, body: NluRequest) -> bool:
        """Whether every arm could answer a request."""
        return (
            body.locale in self.locales
            and (body.allowed_domains is None or self.domains.issuperset(body.allowed_domains))
            and (body.allowed_intents is None or self.intents.issuperset(body.allowed_intents))
        )


def _common(sets: list[frozenset[str]]) -> frozenset[str]:
    return frozenset.intersection(*sets) if sets else frozenset()
