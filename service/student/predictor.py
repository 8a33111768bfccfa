"""Reads a graph: text in, domain, intent and slots out. The service, the export and the evaluation all read it so."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import onnxruntime as ort

from service.student.calibration import COMBINE, UNCALIBRATED, by_locale, is_in_scope
from service.student.decoding import FloatArray, Ranked, Span, best, decode_slots, rank, softmax
from service.student.manifest import Calibration, Golden, GoldenSlot, Labels, SessionOptions
from service.student.tokenization import Encoded, TextEncoder

Given = TypeVar("Given")
Result = TypeVar("Result")
DISTANCE_OUTPUT = "distance"
OUTPUT_OF_HEAD = {"domain": "domain_logits", "intent": "intent_logits", "slots": "slot_logits"}


class Question(NamedTuple):
    """A text, and how it is to be answered.

    `locale` is the one whose calibration is applied: one of the student's own. `domains` and `intents` are the numbers
    of the labels that may be answered (`Predictor.numbers_of`); all where None.
    """

    text: str
    locale: str | None = None
    top_k: int = 1
    domains: tuple[int, ...] | None = None
    intents: tuple[int, ...] | None = None


class Prediction(NamedTuple):
    """What a student says of one text. A head that it doesn't have is None.

    `domain` and `intent` are ranked, best first, as many as were asked for. `pieces` is the text's length as read, and
    `unknown` how many of them the tokenizer does not know. `in_scope` is None without a calibration.
    `kept_domains` and `kept_intents` are the shares of probability that the allowed labels had among all; None where
    all were allowed.
    `phases` are seconds spent in tokenize, inference and decode.
    """

    domain: list[Ranked] | None
    intent: list[Ranked] | None
    slots: list[Span] | None
    truncated: bool
    unknown: int
    pieces: int
    in_scope: bool | None
    kept_domains: float | None
    kept_intents: float | None
    phases: tuple[float, float, float]


def open_session(model: Path, options: SessionOptions) -> ort.InferenceSession:
    """An onnxruntime CPU session with one thread that doesn't spin, opened as the manifest asks."""
    session_options = ort.SessionOptions()
    session_options.intra_op_num_threads = options.intra_op_num_threads
    session_options.inter_op_num_threads = 1
    session_options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session_options.log_severity_level = 3
    return ort.InferenceSession(
        str(model),
        session_options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=list(options.disabled_optimizers),
    )


class Predictor:
    """A graph with its labels, tokenizer and calibration. `predict` may be called from several threads at once.

    Without a calibration, confidences are the softmax of plain logits. `further` names outputs that `logits` is to
    return as well.
    """

    def __init__(
        self,
        labels: Labels,
        encoder: TextEncoder,
        session: ort.InferenceSession,
        calibration: Calibration | None = None,
        further: Sequence[str] = (),
    ) -> None:
        self.labels = labels
        self.encoder = encoder
        self._session = session
        self._numbers = {
            head: {name: number for number, name in enumerate(getattr(labels, head))} for head in labels.heads
        }
        self._scope = calibration.scope if calibration else None
        self._calibrations = by_locale(calibration)
        self._combine = COMBINE[calibration.slot_confidence if calibration else "minimum"]
        distance = [DISTANCE_OUTPUT] if self._scope and self._scope.method == "class_means" else []
        self._results = [*labels.heads, *distance, *further]
        self._outputs = [OUTPUT_OF_HEAD.get(name, name) for name in self._results]

    def predict(self, text: str, top_k: int = 1, locale: str | None = None) -> Prediction:
        """Answer one text. Any str is answered; a blank one from its special pieces alone."""
        return self.predict_each([Question(text, locale, top_k)])[0]

    def predict_each(self, questions: Sequence[Question]) -> list[Prediction]:
        """Answer several texts, step by step together but each by a run of its own.

        A real batch would be faster still, but a dynamically quantised graph takes one activation scale for a whole
        batch: answers would move with their neighbours.
        """
        encoded = [_timed(self.encoder.encode, question.text) for question in questions]
        logits = [_timed(self.logits, found) for found, _ in encoded]
        return [
            self._decode(question, found, raw, tokenize, inference)
            for question, (found, tokenize), (raw, inference) in zip(questions, encoded, logits, strict=True)
        ]

    def logits(self, encoded: Encoded) -> dict[str, Any]:
        """Outputs of the graph, those it has: domain [1, D], intent [1, I], slots [1, pieces, tags], distance [1]."""
        results = self._session.run(self._outputs, {"input_ids": np.array([encoded.ids], dtype=np.int64)})
        return dict(zip(self._results, results, strict=True))

    def numbers_of(self, head: str, names: Collection[str]) -> tuple[int, ...]:
        """The numbers of labels for a `Question`, in their order.

        Raises:
            KeyError: the head has no such label.
        """
        known = self._numbers[head]
        return tuple(sorted({known[name] for name in names}))

    def warm_up(self) -> None:
        """Run every length once, so that no request pays for the runtime's first sight of a shape."""
        for length in range(1, self.encoder.max_length + 1):
            self.run_length(length)

    def run_length(self, pieces: int) -> None:
        """Run the graph once on a text of so many pieces, for warming up and timing."""
        self.logits(Encoded([0] * pieces, [], [], False, 0))

    def _decode(
        self, question: Question, encoded: Encoded, logits: Mapping[str, Any], tokenize: float, inference: float
    ) -> Prediction:
        began = time.perf_counter()
        labels = self.labels
        calibration = self._calibrations.get(question.locale or "", UNCALIBRATED)
        domain = intent = slots = in_scope = None
        if "domain" in logits:
            domain = _ranked(logits["domain"][0], labels.domain, calibration.domain, question.top_k)
        if "intent" in logits:
            intent = _ranked(logits["intent"][0], labels.intent, calibration.intent, question.top_k)
        if self._scope is not None and (judged := intent if self._scope.head == "intent" else domain):
            in_scope = is_in_scope(self._scope, calibration, logits, judged[0].confidence)
        of_domains = of_intents = None
        if question.domains is not None:
            domain, of_domains = _ranked_among(
                question.domains, logits["domain"][0], labels.domain, calibration.domain, question.top_k
            )
        if question.intents is not None:
            intent, of_intents = _ranked_among(
                question.intents, logits["intent"][0], labels.intent, calibration.intent, question.top_k
            )
        if "slots" in logits:
            slots = []
            if words := encoded.words:
                at_words = logits["slots"][0].take(encoded.first_pieces, 0)
                slots = decode_slots(question.text, words, at_words, labels.slots, calibration.slots, self._combine)
        phases = (tokenize, inference, time.perf_counter() - began)
        return Prediction(
            domain,
            intent,
            slots,
            encoded.truncated,
            encoded.unknown,
            len(encoded.ids),
            in_scope,
            of_domains,
            of_intents,
            phases,
        )


def golden_answer(predictor: Predictor, text: str, locale: str) -> Golden:
    """The answer to a text in the form of a golden sentence."""
    answer = predictor.predict(text, locale=locale)
    return Golden(
        text=text,
        locale=locale,
        domain=answer.domain[0].name if answer.domain else None,
        intent=answer.intent[0].name if answer.intent else None,
        slots=tuple(GoldenSlot(name=s.name, value=s.value, start=s.start, end=s.end) for s in answer.slots or ()),
    )


def _timed(work: Callable[[Given], Result], given: Given) -> tuple[Result, float]:
    began = time.perf_counter()
    return work(given), time.perf_counter() - began


def _ranked(logits: FloatArray, names: Sequence[str], scale: float, top_k: int) -> list[Ranked]:
    return [best(logits, names, scale)] if top_k == 1 else rank(logits, names, scale, top_k)


def _ranked_among(
    numbers: Sequence[int], logits: FloatArray, names: Sequence[str], scale: float, top_k: int
) -> tuple[list[Ranked], float]:
    """The best of some labels, as if there were no others, and the share of probability that they had among all."""
    kept = min(1.0, float(softmax(logits * scale).take(numbers).sum()))
    return rank(logits.take(numbers), [names[number] for number in numbers], scale, top_k), kept
