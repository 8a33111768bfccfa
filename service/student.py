"""A student loaded from its folder: text in, domain, intent and slots out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import onnxruntime as ort

from service.decoding import FloatArray, Ranked, Span, best, decode_slots, rank, softmax
from service.manifest import (
    MODEL_FILE,
    TOKENIZER_FILE,
    Golden,
    GoldenSlot,
    Manifest,
    SessionOptions,
    StudentError,
    read_manifest,
)
from service.tokenization import Encoded, TextEncoder

Given = TypeVar("Given")
Result = TypeVar("Result")
OUTPUT_OF_HEAD = {"domain": "domain_logits", "intent": "intent_logits", "slots": "slot_logits"}


class Prediction(NamedTuple):
    """What a student says of one text. A head that it doesn't have is None.

    `domain` and `intent` are ranked, best first, as many as were asked for. `phases` are
    seconds spent in tokenize, inference and decode.
    """

    domain: list[Ranked] | None
    intent: list[Ranked] | None
    slots: list[Span] | None
    truncated: bool
    unknown: int
    phases: tuple[float, float, float]


def open_session(model: Path | bytes, options: SessionOptions) -> ort.InferenceSession:
    """An onnxruntime CPU session with one thread that doesn't spin, opened as the manifest asks."""
    session_options = ort.SessionOptions()
    session_options.intra_op_num_threads = options.intra_op_num_threads
    session_options.inter_op_num_threads = 1
    session_options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session_options.log_severity_level = 3
    return ort.InferenceSession(
        str(model) if isinstance(model, Path) else model,
        session_options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=list(options.disabled_optimizers),
    )


class Student:
    """One loaded student. `predict` may be called from several threads at once."""

    def __init__(self, manifest: Manifest, encoder: TextEncoder, session: ort.InferenceSession) -> None:
        self.manifest = manifest
        self.encoder = encoder
        self._session = session
        self._heads = manifest.labels.heads
        self._outputs = [OUTPUT_OF_HEAD[head] for head in self._heads]

    @classmethod
    def load(cls, folder: Path) -> Student:
        """Load a student folder and check it: digests, schema, graph signature and golden answers.

        Raises:
            StudentError: the folder can't be served; the message names it and says why.
        """
        manifest = read_manifest(folder)
        try:
            encoder = TextEncoder.from_file(folder / TOKENIZER_FILE, manifest.max_length)
            session = open_session(folder / MODEL_FILE, manifest.graph.session)
        except Exception as error:  # onnxruntime raises a family of unrelated types
            raise StudentError(f"{folder}: cannot open: {error}") from error
        student = cls(manifest, encoder, session)
        student._check_signature(folder)
        student.check_golden(str(folder))
        return student

    def predict(self, text: str, top_k: int = 1) -> Prediction:
        """Answer one text. Any str is answered; a blank one from its special pieces alone."""
        return self.predict_each([(text, top_k)])[0]

    def predict_each(self, texts: Sequence[tuple[str, int]]) -> list[Prediction]:
        """Answer several texts, each with its `top_k`, step by step together but each by a run of its own.

        A real batch would be faster still, but a dynamically quantised graph takes one activation scale for a whole
        batch: answers would move with their neighbours.
        """
        encoded = [_timed(self.encoder.encode, text) for text, _ in texts]
        logits = [_timed(self.logits, found) for found, _ in encoded]
        return [
            self._decode(text, top_k, found, raw, tokenize, inference)
            for (text, top_k), (found, tokenize), (raw, inference) in zip(texts, encoded, logits, strict=True)
        ]

    def _decode(
        self, text: str, top_k: int, encoded: Encoded, logits: Mapping[str, Any], tokenize: float, inference: float
    ) -> Prediction:
        began = time.perf_counter()
        labels = self.manifest.labels
        domain = _ranked(logits["domain"][0], labels.domain, top_k) if "domain" in logits else None
        intent = _ranked(logits["intent"][0], labels.intent, top_k) if "intent" in logits else None
        slots = None
        if "slots" in logits:
            slots = []
            if words := encoded.words:
                slots = decode_slots(text, words, logits["slots"][0].take(encoded.first_pieces, 0), labels.slots)
        phases = (tokenize, inference, time.perf_counter() - began)
        return Prediction(domain, intent, slots, encoded.truncated, encoded.unknown, phases)

    def logits(self, encoded: Encoded) -> dict[str, Any]:
        """Raw outputs of the graph by head: domain [1, D], intent [1, I], slots [1, pieces, tags]."""
        results = self._session.run(self._outputs, {"input_ids": np.array([encoded.ids], dtype=np.int64)})
        return dict(zip(self._heads, results, strict=True))

    def warm_up(self) -> None:
        """Run every length once, so that no request pays for the runtime's first sight of a shape."""
        for length in range(1, self.manifest.max_length + 1):
            self.run_length(length)

    def run_length(self, pieces: int) -> None:
        """Run the graph once on a text of so many pieces, for warming up and timing."""
        self.logits(Encoded([0] * pieces, [], [], False, 0))

    def check_golden(self, where: str) -> None:
        """Compare the answers to the manifest's golden sentences with the recorded ones.

        Raises:
            StudentError: an answer differs: the file is damaged or this CPU computes it wrongly.
        """
        for golden in self.manifest.golden:
            found = golden_answer(self, golden.text, golden.locale)
            if found != golden:
                raise StudentError(
                    f"{where}: golden answer differs on this machine for a {golden.locale} sentence: "
                    f"expected {golden.domain}/{golden.intent} {[s.name for s in golden.slots]}, "
                    f"got {found.domain}/{found.intent} {[s.name for s in found.slots]}"
                )

    def _check_signature(self, folder: Path) -> None:
        inputs = [i.name for i in self._session.get_inputs()]
        if inputs != ["input_ids"]:
            raise StudentError(f"{folder}: {MODEL_FILE} takes {inputs}, expected ['input_ids']")
        shapes = {o.name: o.shape for o in self._session.get_outputs()}
        for head, output in zip(self._heads, self._outputs, strict=True):
            if output not in shapes:
                raise StudentError(f"{folder}: {MODEL_FILE} has no output {output!r} for the head {head!r}")
            expected, found = len(getattr(self.manifest.labels, head)), shapes[output][-1]
            if found != expected:
                raise StudentError(
                    f"{folder}: output {output!r} has {found} columns, the manifest names {expected} labels"
                )


def _timed(work: Callable[[Given], Result], given: Given) -> tuple[Result, float]:
    began = time.perf_counter()
    return work(given), time.perf_counter() - began


def _ranked(logits: FloatArray, names: Sequence[str], top_k: int) -> list[Ranked]:
    return [best(logits, names)] if top_k == 1 else rank(softmax(logits), names, top_k)


def golden_answer(student: Student, text: str, locale: str) -> Golden:
    """The answer of a student in the form of a golden sentence."""
    answer = student.predict(text)
    return Golden(
        text=text,
        locale=locale,
        domain=answer.domain[0].name if answer.domain else None,
        intent=answer.intent[0].name if answer.intent else None,
        slots=tuple(GoldenSlot(name=s.name, value=s.value, start=s.start, end=s.end) for s in answer.slots or ()),
    )
