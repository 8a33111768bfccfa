from __future__ import annotations

import random
from pathlib import Path

import pytest

from training.data import datasets
from training.data.augmentation import words_outside_slots
from training.data.utterances import Slot, Utterance
from training.models.contextual import ContextualWords
from training.models.errors import CheckpointError


@pytest.fixture(scope="module")
def utterances(sample: Path) -> list[Utterance]:
    return datasets.load(str(sample), ["de-DE"]).part("train")[:60]


@pytest.mark.parametrize("architecture", ["hub_xlm_roberta", "hub_bert"])
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_words_outside_slots_become_others(
    architecture: str, strength: float, utterances: list[Utterance], request: pytest.FixtureRequest
) -> None:
    contextual = ContextualWords.of(str(request.getfixturevalue(architecture)))

    variants = contextual(utterances, strength, random.Random(0))

    assert variants == contextual(utterances, strength, random.Random(0))
    assert any(variant != original for variant, original in zip(variants, utterances, strict=True))
    for original, variant in zip(utterances, variants, strict=True):
        assert [(s.name, variant.value(s)) for s in variant.slots] == [
            (s.name, original.value(s)) for s in original.slots
        ]
        assert (variant.domain, variant.intent) == (original.domain, original.intent)
        before, after = original.text.split(), variant.text.split()
        assert len(before) == len(after)
        changed = sum(x != y for x, y in zip(before, after, strict=True))
        assert changed <= max(1, round(strength * len(words_outside_slots(original))))


def test_texts_that_leave_nothing_to_replace_stay(hub_bert: Path) -> None:
    contextual = ContextualWords.of(str(hub_bert))
    texts = ["9:30", "[MASK] [MASK] an", "licht " * 100]  # a mark that is no mask, and one that is too long
    utterances = [
        *(Utterance("1", text, "de-DE") for text in texts),
        Utterance("1", "licht", "de-DE", slots=(Slot("x", 0, 5),)),
    ]

    variants = contextual(utterances, 1.0, random.Random(0))

    assert variants == utterances
    assert contextual([], 1.0, random.Random(0)) == []


def test_a_model_without_masked_language_head_is_refused(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match=r"--masked-model .*no masked-language head; allowed: an encoder of"):
        ContextualWords.of(str(checkpoint))
