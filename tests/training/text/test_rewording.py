from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.text.rewording import Neighbours

DAYS = ("montag", "dienstag", "mittwoch", "donnerstag", "freitag", "samstag")
HOURS = ("zwei", "drei", "vier", "sechs", "sieben", "acht")
TEXTS = [f"wecke mich am {day} um {hour} uhr" for day in DAYS for hour in HOURS]
TEXTS += [f"spiele {hour} lieder" for hour in HOURS]


@pytest.fixture(scope="module")
def neighbours() -> Neighbours:
    return Neighbours.of(TEXTS, [f"wecke mich am sonntag um {hour} uhr" for hour in HOURS] * 10)


def test_neighbours_occur_in_the_same_contexts(neighbours: Neighbours) -> None:
    assert set(neighbours.by_word["freitag"][0]) <= {*DAYS, "sonntag"} - {"freitag"}
    assert set(neighbours.by_word["drei"][0]) <= {*HOURS, "neun"} - {"drei"}


def test_texts_are_reworded(neighbours: Neighbours) -> None:
    found = {neighbours.reword("Wecke mich am Freitag um drei Uhr!", random.Random(seed)) for seed in range(60)}

    assert any(re.fullmatch(f"Wecke mich am ({'|'.join(DAYS)}) um drei Uhr!", text) for text in found)
    assert any(len(text.split()) == 6 for text in found)
    assert any("sonntag" in text for text in found)


@given(st.text(max_size=40), st.integers())
def test_any_text_is_reworded(neighbours: Neighbours, text: str, seed: int) -> None:
    found = neighbours.reword(text, random.Random(seed))

    assert found == neighbours.reword(text, random.Random(seed))
    assert bool(found) == bool(text.split())


@pytest.mark.parametrize("texts", [[], ["licht"], ["licht an", "licht aus"], ["?!"]])
def test_few_texts_have_few_neighbours(texts: list[str]) -> None:
    assert Neighbours.of(texts).reword("licht an", random.Random(1)) == "licht an"
