from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from training.data.policy import KINDS, parse_policy
from training.distiller.space import CONTROLS, suggest
from training.objectives.losses import PREDICTION_LOSSES
from training.runs.pipeline import checked


class Drawn:
    """A trial whose choices hypothesis makes."""

    def __init__(self, data: st.DataObject) -> None:
        self.data, self.params = data, dict[str, Any]()

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self.params[name] = self.data.draw(st.sampled_from(list(choices)), label=name)
        return self.params[name]


@given(st.data(), st.lists(st.sampled_from([name for name in KINDS if name != "paraphrased"]), unique=True))
def test_each_trial_is_a_valid_pipeline(data: st.DataObject, augmentations: list[str]) -> None:
    trial = Drawn(data)

    pipeline = suggest(trial, augmentations)

    assert checked(pipeline, "pipeline") == pipeline
    steps = parse_policy(pipeline["augmentation"])
    assert {step.name for step in steps} == {name for name in augmentations if trial.params[name]}
    assert ("mi_alpha" in pipeline) == (pipeline["hidden_loss"] == "mi")
    assert ("layer_mapping" in pipeline) == (pipeline["hidden_loss"] != "none")
    assert pipeline["prediction_loss"] in PREDICTION_LOSSES


def test_controls_are_valid_pipelines() -> None:
    for pipeline in CONTROLS.values():
        assert checked(pipeline, "control") == pipeline
