from __future__ import annotations

from pathlib import Path

import numpy as np

from export.quality import agreement, first_of_each_locale, logit_difference
from service.student.student import Student
from training.data import datasets
from training.data.utterances import Utterance
from training.evaluation.scoring import PredictedLabels
from training.models.checkpoint import load_checkpoint


def test_nan_fails_the_parity_check(checkpoint: Path, student_folder: Path) -> None:
    model, student = load_checkpoint(checkpoint).model, Student.load(student_folder)
    utterances = datasets.load(str(datasets.SAMPLE), ["de-DE"]).part("dev")
    assert 0 < logit_difference(model, student, utterances)["de-DE"] < 5

    model.heads["intent"].bias.data[0] = float("nan")

    assert np.isnan(logit_difference(model, student, utterances)["de-DE"])


def test_agreement_is_by_locale_and_head() -> None:
    utterances = [Utterance(str(i), "x", locale) for i, locale in enumerate(("de-DE", "de-DE", "fr-FR"))]
    one = [PredictedLabels("a", None, ()), PredictedLabels("a", None, ()), PredictedLabels("b", None, ())]
    other = [PredictedLabels("a", None, ()), PredictedLabels("b", None, ()), PredictedLabels("b", None, ())]

    assert agreement(utterances, one, other) == {
        "de-DE": {"domain": 50.0, "slots": 100.0},
        "fr-FR": {"domain": 100.0, "slots": 100.0},
    }
    assert [u.id for u in first_of_each_locale(utterances, 1)] == ["0", "2"]
