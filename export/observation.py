"""What the graph that is served says of texts, one at a time as the service runs it: what calibration is fitted on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from tqdm import tqdm

from export.graph import FEATURES
from service.student.decoding import FloatArray, decode_slots
from service.student.student import OUTPUT_OF_HEAD
from service.student.tokenization import Encoded, TextEncoder
from training.data.utterances import Utterance


@dataclass(frozen=True)
class Texts:
    """The outputs of a graph for some texts, one row a text.

    `logits` are [texts, labels] by head, of domain and intent; `features` [texts, 2 width], None where the graph has no
    such output.
    """

    logits: dict[str, FloatArray]
    features: FloatArray | None


@dataclass(frozen=True)
class Slots:
    """The slots that a graph finds in some texts.

    `words` [words, tags] are the tag logits of their words, slot after slot; `begins` [slots] the row of each slot's
    first word; `right` [slots] whether a slot has name, start and end of one in the reference.
    """

    words: FloatArray
    begins: NDArray[np.int64]
    right: NDArray[np.bool_]


class Graph:
    """The served graph, read output by output."""

    def __init__(self, session: ort.InferenceSession, encoder: TextEncoder) -> None:
        self._session = session
        self._encoder = encoder
        self._outputs = {output.name for output in session.get_outputs()}

    def texts(self, texts: Sequence[str]) -> Texts:
        """Logits of domain and intent, as far as the graph has them, and features."""
        outputs = {head: OUTPUT_OF_HEAD[head] for head in ("domain", "intent")} | {FEATURES: FEATURES}
        outputs = {name: output for name, output in outputs.items() if output in self._outputs}
        if not outputs:
            return Texts({}, None)
        rows: dict[str, list[FloatArray]] = {name: [] for name in outputs}
        for text in _progress(texts):
            for name, row in zip(rows, self._run(list(outputs.values()), self._encoder.encode(text)), strict=True):
                rows[name].append(row[0])
        found = {name: np.array(values) for name, values in rows.items()}
        features = found.pop(FEATURES, None)
        return Texts(found, features)

    def slots(self, utterances: Sequence[Utterance], tags: Sequence[str]) -> Slots:
        """The slots found in utterances, compared with their own; `tags` are the names of the tag logits.

        A reference slot that the student's words can't express is found by none, so what is found there is wrong.
        """
        words: list[FloatArray] = []
        begins: list[int] = []
        right: list[bool] = []
        for utterance in _progress(utterances):
            encoded = self._encoder.encode(utterance.text)
            if not encoded.words:
                continue
            [logits] = self._run([OUTPUT_OF_HEAD["slots"]], encoded)
            at_words = logits[0][encoded.first_pieces]
            expected = {(slot.name, slot.start, slot.end) for slot in utterance.slots}
            for slot in decode_slots(utterance.text, encoded.words, at_words, tags):
                begins.append(len(words))
                right.append((slot.name, slot.start, slot.end) in expected)
                inside = (start < slot.end and end > slot.start for start, end in encoded.words)
                words += [row for row, belongs in zip(at_words, inside, strict=True) if belongs]
        return Slots(
            np.array(words, np.float32).reshape(-1, len(tags)), np.array(begins, np.int64), np.array(right, bool)
        )

    def _run(self, outputs: list[str], encoded: Encoded) -> list[Any]:
        results: list[Any] = self._session.run(outputs, {"input_ids": np.array([encoded.ids], dtype=np.int64)})
        return results


def _progress(items: Sequence[Any]) -> Iterable[Any]:
    return tqdm(items, desc="calibrating", unit="utt", leave=False, disable=None)
