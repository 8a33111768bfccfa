"""A student loaded from its folder: text in, domain, intent and slots out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort

from service.decoding import Ranked, Span, decode_slots, rank, softmax
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

OUTPUT_OF_HEAD = {"domain": "domain_logits", "intent": "intent_logits", "slots": "slot_logits"}


class Prediction(NamedTuple):
    """What a student says of one text. A head that it doesn't have is None.

    `domain` and `intent` are ranked, best first, as many as were asked for. `phases` are seconds spent in
    tokenize, inference and decode.
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
        began = time.perf_counter()
        encoded = self.encoder.encode(text)
        tokenized = time.perf_counter()
        logits = self.logits(encoded)
        inferred = time.perf_counter()
        labels = self.manifest.labels
        domain = rank(softmax(logits["domain"][0]), labels.domain, top_k) if "domain" in logits else None
        intent = rank(softmax(logits["intent"][0]), labels.intent, top_k) if "intent" in logits else None
        slots = None
        if "slots" in logits:
            slots = []
            if encoded.words:
                slots = decode_slots(text, encoded.words, logits["slots"][0, encoded.first_pieces], labels.slots)
        decoded = time.perf_counter()
        phases = (tokenized - began, inferred - tokenized, decoded - inferred)
        return Prediction(domain, intent, slots, encoded.truncated, encoded.unknown, phases)

    def logits(self, encoded: Encoded) -> dict[str, Any]:
        """Raw outputs of the graph by head: domain [1, D], intent [1, I], slots [1, pieces, tags]."""
        results = self._session.run(self._outputs, {"input_ids": np.array([encoded.ids], dtype=np.int64)})
        return dict(zip(self._heads, results, strict=True))

    def warm_up(self) -> None:
        """Run every length once, so that no request pays for the runtime's first sight of a shape."""
        for length in range(1, self.manifest.max_length + 1):
            self.logits(Encoded([0] * length, [], [], False, 0))

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
