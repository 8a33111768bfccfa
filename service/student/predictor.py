"""Inference with a student's graph: text in, domain, intent and slots out; for service, export and evaluation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import onnxruntime as ort

from service.student.calibration import COMBINE, UNCALIBRATED, by_locale
from service.student.decoding import FloatArray, Ranked, Span, best, decode_slots, is_in_scope, rank, softmax
from service.student.manifest import Calibration, Labels, SessionOptions
from service.student.tokenization import Encoded, TextEncoder

Argument = TypeVar("Argument")
Result = TypeVar("Result")
NOT_FINITE = "the student's graph computed NaN or infinite logits"
OUTPUT_OF_HEAD = {"domain": "domain_logits", "intent": "intent_logits", "slots": "slot_logits"}


class Question(NamedTuple):
    """A text and the options of its prediction.

    `locale`, one of the student's, selects the calibration. `domains` and `intents` are the numbers of the allowed
    labels (`Predictor.numbers_of`); None allows all.
    """

    text: str
    locale: str | None = None
    top_k: int = 1
    domains: tuple[int, ...] | None = None
    intents: tuple[int, ...] | None = None


class Prediction(NamedTuple):
    """The prediction for one text; a head that the student does not have is None.

    `domain` and `intent` are the `top_k` labels, best first. `tokens` is the number of tokens read, `unknown` the
    number of unknown ones. `in_scope` is None without a fitted scope. `kept_domains` and `kept_intents` are the
    probability mass of the allowed labels; None if all are allowed. `phases` are the seconds of tokenize, inference
    and decode.
    """

    domain: list[Ranked] | None
    intent: list[Ranked] | None
    slots: list[Span] | None
    truncated: bool
    unknown: int
    tokens: int
    in_scope: bool | None
    kept_domains: float | None
    kept_intents: float | None
    phases: tuple[float, float, float]


def open_session(model: Path, options: SessionOptions) -> ort.InferenceSession:
    """Open an onnxruntime CPU session with the manifest's options, without spinning."""
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
    """A graph with its labels, tokenizer and calibration; threads may share it.

    Without a calibration, confidences are the softmax of the raw logits.
    """

    def __init__(
        self,
        labels: Labels,
        encoder: TextEncoder,
        session: ort.InferenceSession,
        calibration: Calibration | None = None,
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
        self._heads = labels.heads
        self._outputs = [OUTPUT_OF_HEAD[head] for head in labels.heads]

    def predict(self, text: str, top_k: int = 1, locale: str | None = None) -> Prediction:
        """Predict one text. Every str has a prediction; that of a blank one comes from the special tokens alone.

        Raises:
            FloatingPointError: the graph computed NaN or infinite logits.
        """
        return self.predict_each([Question(text, locale, top_k)])[0]

    def predict_each(self, questions: Sequence[Question]) -> list[Prediction]:
        """Predict several texts, each in a graph run of its own.

        Batched runs would be faster, but a dynamically quantised graph has one activation scale per batch, so a
        prediction would depend on the other texts in its batch. Raises FloatingPointError as `predict` does.
        """
        encoded = [_timed(self.encoder.encode, question.text) for question in questions]
        logits = [_timed(self.logits, found) for found, _ in encoded]
        return [
            self._decode(question, found, raw, tokenize, inference)
            for question, (found, tokenize), (raw, inference) in zip(questions, encoded, logits, strict=True)
        ]

    def logits(self, encoded: Encoded) -> dict[str, Any]:
        """The logits of the heads that the student has: domain [D], intent [I], slots [tokens, tags]."""
        results = self._session.run(self._outputs, {"input_ids": np.array(encoded.ids, dtype=np.int64)})
        return dict(zip(self._heads, results, strict=True))

    def numbers_of(self, head: str, names: Collection[str]) -> tuple[int, ...]:
        """The sorted numbers of labels, for a `Question`.

        Raises:
            KeyError: the head does not have one of the labels.
        """
        known = self._numbers[head]
        return tuple(sorted({known[name] for name in names}))

    def warm_up(self) -> None:
        """Run every length once: the runtime is slower the first time that it meets an input shape."""
        for length in range(1, self.encoder.max_length + 1):
            self.run_length(length)

    def run_length(self, tokens: int) -> None:
        """Run the graph once on a text of `tokens` tokens, for warm-up and timing."""
        self.logits(Encoded([0] * tokens, [], [], False, 0))

    def _decode(
        self, question: Question, encoded: Encoded, logits: Mapping[str, Any], tokenize: float, inference: float
    ) -> Prediction:
        began = time.perf_counter()
        labels = self.labels
        calibration = self._calibrations.get(question.locale or "", UNCALIBRATED)
        domain = intent = slots = in_scope = None
        if "domain" in logits:
            domain = _ranked(logits["domain"], labels.domain, calibration.domain, question.top_k)
        if "intent" in logits:
            intent = _ranked(logits["intent"], labels.intent, calibration.intent, question.top_k)
        for ranked in (domain, intent):
            if ranked and not ranked[0].confidence > 0:  # the softmax of NaN or infinite logits is NaN
                raise FloatingPointError(NOT_FINITE)
        if self._scope is not None and (ranked := intent if self._scope.head == "intent" else domain):
            in_scope = is_in_scope(self._scope, calibration, logits, ranked[0].confidence)
        kept_domains = kept_intents = None
        if question.domains is not None:
            domain, kept_domains = _ranked_among(
                question.domains, logits["domain"], labels.domain, calibration.domain, question.top_k
            )
        if question.intents is not None:
            intent, kept_intents = _ranked_among(
                question.intents, logits["intent"], labels.intent, calibration.intent, question.top_k
            )
        if "slots" in logits:
            slots = []
            if words := encoded.words:
                at_words = logits["slots"].take(encoded.first_tokens, 0)
                if not math.isfinite(at_words.item(0)):  # one of them: attention spreads NaN to all tokens
                    raise FloatingPointError(NOT_FINITE)
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
            kept_domains,
            kept_intents,
            phases,
        )


def _timed(function: Callable[[Argument], Result], argument: Argument) -> tuple[Result, float]:
    began = time.perf_counter()
    return function(argument), time.perf_counter() - began


def _ranked(logits: FloatArray, names: Sequence[str], scale: float, top_k: int) -> list[Ranked]:
    return [best(logits, names, scale)] if top_k == 1 else rank(logits, names, scale, top_k)


def _ranked_among(
    numbers: Sequence[int], logits: FloatArray, names: Sequence[str], scale: float, top_k: int
) -> tuple[list[Ranked], float]:
    """The ranking among some labels only, and their probability mass among all labels."""
    kept = min(1.0, float(softmax(logits * scale).take(numbers).sum()))
    return rank(logits.take(numbers), [names[number] for number in numbers], scale, top_k), kept
