from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data import annotation, augmentation, datasets
from training.data.utterances import Slot, Utterance

tokens = st.text(
    st.characters(exclude_categories=["Cs", "Zs", "Cc", "Zl", "Zp"], exclude_characters="[]"), min_size=1, max_size=6
)
REWRITINGS = (
    augmentation.as_typed,
    lambda utterance, _: augmentation.with_digits(utterance),
    augmentation.without_accents,
    augmentation.augment,
)


@st.composite
def utterances(draw: st.DrawFn) -> Utterance:
    """Space-separated tokens with slots over whole tokens."""
    text, slots = "", []
    for token in draw(st.lists(tokens, min_size=1, max_size=6)):
        if token.isspace():
            continue
        text += " " if text else ""
        if draw(st.booleans()):
            slots.append(Slot("x", len(text), len(text) + len(token)))
        text += token
    if not text.strip():
        text = "a"
    locale = draw(st.sampled_from(["de-DE", "es-ES", "fr-FR", "ja-JP"]))
    return Utterance("1", text, locale, slots=tuple(slots))


@given(utterances(), st.integers(0, 100))
def test_rewriting_keeps_slots_on_their_words(utterance: Utterance, seed: int) -> None:
    for rewriting in REWRITINGS:
        variant = rewriting(utterance, random.Random(seed))

        assert [s.name for s in variant.slots] == [s.name for s in utterance.slots]
        for before, after in zip(utterance.slots, variant.slots, strict=True):
            assert variant.value(after).strip() == variant.value(after)
            old, new = utterance.value(before), variant.value(after)
            assert len(new.split()) == len(old.split()) or rewriting is augmentation.augment


def example(annotated: str, locale: str = "de-DE") -> Utterance:
    text, slots = annotation.parse(annotated)
    return Utterance("1", text, locale, slots=slots)


def rendered(utterance: Utterance) -> str:
    return annotation.render(utterance.text, utterance.slots)


def test_typed_text_is_capitalised_and_punctuated_outside_the_slot() -> None:
    typed = augmentation.as_typed(example("weck mich am [date : freitag]"), random.Random(3))

    assert typed.text[0] == "W"
    assert typed.text[-1] in ".!?"
    assert typed.value(typed.slots[0]).lower() == "freitag"


def test_digits_replace_number_words_in_slots() -> None:
    digits = augmentation.with_digits(example("um [time : neun uhr dreißig]"))

    assert rendered(digits) == "um [time : 9 uhr 30]"


@pytest.mark.parametrize(("seed", "expected"), [(0, "[time : funf] uhr fur dich"), (1, "[time : fuenf] uhr fuer dich")])
def test_accents_go_missing_in_both_german_ways(seed: int, expected: str) -> None:
    plain = {
        rendered(augmentation.without_accents(example("[time : fünf] uhr für dich"), random.Random(s)))
        for s in range(20)
    }

    assert expected in plain
    assert len(plain) == 2


def test_the_typed_copy_is_the_same_for_a_seed_and_keeps_every_slot(sample: Path) -> None:
    dev = datasets.load(str(sample)).part("dev")

    typed = augmentation.typed_copy(dev)

    assert typed == augmentation.typed_copy(dev)
    assert all(t.text != u.text for t, u in zip(typed, dev, strict=True))
    for t, u in zip(typed, dev, strict=True):
        assert [t.value(s).lower().replace(",", "") for s in t.slots] == [u.value(s).lower() for s in u.slots]


def test_nothing_changes_at_share_zero(sample: Path) -> None:
    rng = random.Random(0)

    assert all(augmentation.augment(u, rng, 0.0) is u for u in datasets.load(str(sample)).utterances[:50])


@given(st.lists(utterances(), min_size=1, max_size=4), st.integers(0, 100))
def test_other_values_keep_slots_and_what_stands_between_them(found: list[Utterance], seed: int) -> None:
    values = augmentation.SlotValues(found)
    for utterance in found:
        variant = values.substitute(utterance, random.Random(seed))

        assert [s.name for s in variant.slots] == [s.name for s in utterance.slots]
        assert [rest(variant), variant.locale] == [rest(utterance), utterance.locale]
        same_locale = [u for u in found if u.locale == utterance.locale]
        assert {variant.value(s) for s in variant.slots} <= {u.value(s) for u in same_locale for s in u.slots}


def rest(utterance: Utterance) -> list[str]:
    """The text between the slots."""
    edges = [0, *(edge for slot in utterance.slots for edge in (slot.start, slot.end)), len(utterance.text)]
    return [utterance.text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]


def test_values_come_from_the_same_slot_in_the_same_locale() -> None:
    texts = ["weck mich am [date : freitag] um [time : acht]", "am [date : ersten mai]"]
    values = augmentation.SlotValues([*map(example, texts), example("am [date : oggi]", "it-IT")])

    seen = {rendered(values.substitute(example(texts[0]), random.Random(seed))) for seed in range(20)}

    assert seen == {texts[0], "weck mich am [date : ersten mai] um [time : acht]"}
