"""Rates and weight decay of AdamW by weight."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from training.models.hub import HubConfig, HubModel
from training.models.student import StudentConfig, StudentModel
from training.runs.loop import parameter_groups
from training.runs.settings import FinetuneSettings, PretrainSettings

LABELS = {"intent": ["a", "b"], "slots": ["O", "B-t"]}
SHAPE = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 8}
SETTINGS = FinetuneSettings(layer_decay=0.5, head_rate=4.0, weight_decay=0.01)


def groups_of(model: nn.Module, settings: Any = SETTINGS) -> dict[str, tuple[float, float]]:
    """(share of the rate, weight decay) by weight."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, settings)
    found = {names[p]: (group["scale"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups) == len(names)
    return found


def student(norm: str, **kwargs: Any) -> StudentModel:
    return StudentModel(StudentConfig(**SHAPE, labels=LABELS, norm=norm, **kwargs))


@pytest.mark.parametrize(("norm", "scale"), [("pre", 1.0), ("post", 0.125)])
def test_rates_of_a_student_by_layer(norm: str, scale: float) -> None:
    found = groups_of(student(norm))

    assert found["token_embeddings.weight"] == found["positions.weight"] == (0.125, 0.01)
    assert [found[f"blocks.{layer}.qkv.weight"] for layer in range(3)] == [(0.25, 0.01), (0.5, 0.01), (1.0, 0.01)]
    assert found["heads.intent.weight"] == (4.0, 0.01)
    assert found["norm.weight"] == (scale, 0.0)  # behind the layers, or of the embeddings


def test_norms_and_biases_have_no_weight_decay() -> None:
    found = groups_of(student("pre", position_bias=True))

    without = {name for name, (_, decay) in found.items() if decay == 0}
    assert without == {name for name in found if name.endswith(".bias") or "norm" in name or "position_bias" in name}
    assert [found[f"blocks.{layer}.position_bias.weight"] for layer in range(3)] == [
        (0.25, 0.0),
        (0.5, 0.0),
        (1.0, 0.0),
    ]


@pytest.mark.parametrize(("kind", "masked"), [("bert", True), ("bert", False), ("xlm-roberta", False)])
def test_rates_of_a_hugging_face_encoder_by_layer(kind: str, masked: bool) -> None:
    wrapped = {"model_type": kind, **SHAPE, "max_position_embeddings": 12}
    found = groups_of(HubModel(HubConfig(wrapped=wrapped, labels=LABELS, masked=masked)))

    def scales(part: str) -> set[float]:
        return {scale for name, (scale, _) in found.items() if part in name}

    assert scales("embeddings.") == {0.125}
    assert [scales(f"encoder.layer.{layer}.") for layer in range(3)] == [{0.25}, {0.5}, {1.0}]
    assert scales("heads.") == {4.0}


def test_commands_without_these_settings_have_one_rate() -> None:
    assert {scale for scale, _ in groups_of(student("post"), PretrainSettings()).values()} == {1.0}
