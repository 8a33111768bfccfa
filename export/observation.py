"""What a graph says of texts, one at a time as the service runs it: calibration and scope are fitted to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from export.data import ExportData, by_locale
from export.graph import FEATURES
from service.student.decoding import FloatArray, decode_slots
from service.student.manifest import Labels
from service.student.predictor import Predictor
from training.data.utterances import Utterance

MIN_TEXTS = 50  # labelled texts or slots; nothing is fitted to fewer


@dataclass(frozen=True)
class Texts:
    """The outputs of a graph for some texts, one row per text.

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


@dataclass(frozen=True)
class Observations:
    """Everything that calibration and scope are fitted to; all but `train` by locale.

    `utterances` are the labelled ones and `requests` what the graph says of them, `typed` of their copies with capitals
    and punctuation. `out_of_scope` is by source as well. `train` are features and classes of training texts, None
    without such.
    """

    utterances: dict[str, list[Utterance]]
    requests: dict[str, Texts]
    slots: dict[str, Slots]
    typed: dict[str, Texts]
    out_of_scope: dict[str, dict[str, Texts]]
    train: tuple[FloatArray, NDArray[np.int64]] | None


def halves(count: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Two halves of so many, by a fixed seed."""
    first: NDArray[np.bool_] = np.random.default_rng(0).permutation(count) < count // 2
    return first, ~first


def scope_head(labels: Labels) -> Literal["domain", "intent"] | None:
    """The head that scope and drift are judged by: the intents, the domains where there are none."""
    return "intent" if labels.intent else "domain" if labels.domain else None


def observe(predictor: Predictor, data: ExportData) -> Observations:
    """Run the graph on all texts; those that only scope needs are left out where nothing judges it."""
    labels, utterances = predictor.labels, by_locale(data.utterances)
    texts = {locale: read_texts(predictor, [u.text for u in found]) for locale, found in utterances.items()}
    slots = {locale: read_slots(predictor, found) for locale, found in utterances.items()} if labels.slots else {}
    if not (head := scope_head(labels)):
        return Observations(utterances, texts, slots, {}, {}, None)
    typed = {locale: read_texts(predictor, [u.text for u in found]) for locale, found in by_locale(data.typed).items()}
    out_of_scope = {
        locale: {source: read_texts(predictor, found) for source, found in sources.items()}
        for locale, sources in data.out_of_scope.items()
    }
    classes = {name: number for number, name in enumerate(getattr(labels, head))}
    known = [u for u in data.train if getattr(u, head) in classes]
    features = read_texts(predictor, [u.text for u in known]).features if known else None
    numbers = np.array([classes[getattr(u, head)] for u in known], np.int64)
    return Observations(
        utterances, texts, slots, typed, out_of_scope, None if features is None else (features, numbers)
    )


def read_texts(predictor: Predictor, texts: Sequence[str]) -> Texts:
    """Logits of domain and intent, as far as the graph has them, and features."""
    rows: dict[str, list[FloatArray]] = {}
    for text in _progress(texts):
        for name, row in predictor.logits(predictor.encoder.encode(text)).items():
            if name != "slots":
                rows.setdefault(name, []).append(row[0])
    found = {name: np.array(values) for name, values in rows.items()}
    features = found.pop(FEATURES, None)
    return Texts(found, features)


def read_slots(predictor: Predictor, utterances: Sequence[Utterance]) -> Slots:
    """The slots found in utterances, compared with their own.

    A reference slot that the student's words can't express is found by none, so what is found there is wrong.
    """
    tags = predictor.labels.slots
    words: list[FloatArray] = []
    begins: list[int] = []
    right: list[bool] = []
    for utterance in _progress(utterances):
        encoded = predictor.encoder.encode(utterance.text)
        if not encoded.words:
            continue
        at_words = predictor.logits(encoded)["slots"][0][encoded.first_pieces]
        expected = {(slot.name, slot.start, slot.end) for slot in utterance.slots}
        for slot in decode_slots(utterance.text, encoded.words, at_words, tags):
            begins.append(len(words))
            right.append((slot.name, slot.start, slot.end) in expected)
            inside = (start < slot.end and end > slot.start for start, end in encoded.words)
            words += [row for row, belongs in zip(at_words, inside, strict=True) if belongs]
    return Slots(np.array(words, np.float32).reshape(-1, len(tags)), np.array(begins, np.int64), np.array(right, bool))


def _progress(items: Sequence[Any]) -> Iterable[Any]:
    return tqdm(items, desc="calibrating", unit="utt", leave=False, disable=None)
