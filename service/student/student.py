"""A student loaded from its folder: a `Predictor` with its manifest, checked when it is loaded."""

from __future__ import annotations

import logging
from pathlib import Path

import onnxruntime as ort

from service.student.golden import mismatch
from service.student.manifest import (
    MODEL_FILE,
    TOKENIZER_FILE,
    Manifest,
    StudentError,
    read_manifest,
    unknown_files,
)
from service.student.predictor import OUTPUT_OF_HEAD, Prediction, Predictor, Question, open_session
from service.student.tokenization import TextEncoder

__all__ = ["OUTPUT_OF_HEAD", "Prediction", "Question", "Student", "open_session"]

log = logging.getLogger("service")


class Student(Predictor):
    """A predictor with its manifest. `identity` is what replies say of it: name, precision and digest."""

    def __init__(self, manifest: Manifest, encoder: TextEncoder, session: ort.InferenceSession) -> None:
        super().__init__(manifest.labels, encoder, session, manifest.calibration)
        self.manifest = manifest
        self.identity = {"name": manifest.name, "precision": manifest.precision, "digest": manifest.digest}

    @classmethod
    def load(cls, folder: Path) -> Student:
        """Load a student folder and check it: digests, schema, graph signature and golden answers.

        Raises:
            StudentError: a check fails; the message names the folder and the reason.
        """
        manifest = read_manifest(folder)
        try:
            encoder = TextEncoder.from_file(folder / TOKENIZER_FILE, manifest.max_length)
            session = open_session(folder / MODEL_FILE, manifest.graph.session)
        except Exception as error:  # onnxruntime raises a family of unrelated types
            raise StudentError(f"{folder}: cannot open: {error}") from error
        student = cls(manifest, encoder, session)
        student._check_signature(folder)
        student.check_golden(folder)
        if unknown := unknown_files(folder, manifest):
            log.warning("%s: unknown files, which nothing reads: %s", folder, ", ".join(unknown))
        return student

    def _check_signature(self, folder: Path) -> None:
        inputs = {i.name: i.shape for i in self._session.get_inputs()}
        if list(inputs) != ["input_ids"] or len(inputs["input_ids"]) != 1:
            hint = "; export the student again" if list(inputs) == ["input_ids"] else ""
            raise StudentError(f"{folder}: {MODEL_FILE} takes {inputs}, expected input_ids [tokens]{hint}")
        shapes = {o.name: o.shape for o in self._session.get_outputs()}
        for head in self.labels.heads:
            output = OUTPUT_OF_HEAD[head]
            if output not in shapes:
                raise StudentError(f"{folder}: {MODEL_FILE} has no output {output!r} for the head {head!r}")
            expected, found = len(getattr(self.labels, head)), shapes[output][-1]
            if found != expected:
                raise StudentError(
                    f"{folder}: output {output!r} has {found} columns, the manifest names {expected} labels"
                )

    def check_golden(self, folder: Path) -> None:
        """Raise StudentError if a golden answer differs: a file is another one, or this CPU computes other results."""
        for golden in self.manifest.golden:
            if difference := mismatch(self, golden, self.manifest.golden_tolerance):
                raise StudentError(f"{folder}: {difference}")
