"""Fit all of a student's calibration to what its graph says of the evaluated text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from export.calibration import fit_confidences, profiles, scope_head
from export.class_means import ClassMeans
from export.evaluated import Evaluated
from export.observation import Graph, Texts
from export.scope import Evidence, judge
from service.student.manifest import Calibration, Labels
from training.data.augmentation import typed_copy
from training.data.utterances import Utterance


def calibrate(
    graph: Graph, labels: Labels, data: Evaluated, rate: float
) -> tuple[Calibration | None, ClassMeans | None]:
    """Confidences, scope and profiles, and the class means that the graph must be given for them.

    None where there is too little text for any of it. `rate` is the share of requests that scope may reject.
    """
    utterances: dict[str, list[Utterance]] = {}
    for utterance in data.utterances:
        utterances.setdefault(utterance.locale, []).append(utterance)
    texts = {locale: graph.texts([u.text for u in found]) for locale, found in utterances.items()}
    slots = {locale: graph.slots(found, labels.slots) for locale, found in utterances.items()} if labels.slots else {}
    confidences = fit_confidences(labels, utterances, texts, slots)
    head, judged = scope_head(labels), None
    if head:
        judged = judge(_evidence(graph, labels, head, data, texts, confidences.temperatures.get(head, {})), rate)
    if not confidences.temperatures and judged is None:
        return None, None
    measured = {
        "expected_calibration_error": confidences.errors,
        "slot_confidence": confidences.combinations,
        **(judged.measured if judged else {}),
    }
    calibration = Calibration(
        data=data.source,
        partition=data.partition,
        temperatures=confidences.temperatures,
        slot_confidence=confidences.slot_confidence,
        scope=judged.scope if judged else None,
        profile=profiles(labels, texts, confidences),
        measured=measured,
    )
    return calibration, judged.means if judged else None


def _evidence(
    graph: Graph,
    labels: Labels,
    head: Literal["domain", "intent"],
    data: Evaluated,
    requests: Mapping[str, Texts],
    temperatures: Mapping[str, float],
) -> Evidence:
    names = getattr(labels, head)
    typed = typed_copy(data.utterances)
    outside = {
        locale: {source: graph.texts(found) for source, found in sources.items()}
        for locale, sources in data.outside.items()
    }
    known = [u for u in data.train if getattr(u, head) in names]
    features = graph.texts([u.text for u in known]).features if known else None
    classes = np.array([names.index(getattr(u, head)) for u in known], np.int64)
    return Evidence(
        head=head,
        names=names,
        temperatures=temperatures,
        requests=requests,
        typed={locale: graph.texts([u.text for u in typed if u.locale == locale]) for locale in requests},
        outside=outside,
        train=None if features is None else (features, classes),
    )
