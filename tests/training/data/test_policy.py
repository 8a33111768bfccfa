from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data import annotation
from training.data.augmentation import shortened, swapped, words_outside_slots
from training.data.paraphrases import Paraphrases, paraphrased
from training.data.policy import KINDS, Policy, Step, parse_policy
from training.data.utterances import DatasetError, Slot, Utterance

FEW = settings(max_examples=60)
WORDS = st.text(st.sampled_from("abcdeéßİ'9,."), min_size=1, max_size=5)
PLAIN = [name for name in KINDS if name not in ("contextual", "paraphrased")]


@st.composite
def utterances(draw: st.DrawFn) -> Utterance:
    """Words with slots over some of them, one word or two."""
    text, slots = draw(st.sampled_from(["", " "])), []
    for words in draw(st.lists(st.lists(WORDS, min_size=1, max_size=2), min_size=1, max_size=6)):
        span = " ".join(words)
        if draw(st.booleans()):
            slots.append(Slot(draw(st.sampled_from("xy")), len(text), len(text) + len(span)))
        text += span + draw(st.sampled_from([" ", "  "]))
    return Utterance("1", text, "de-DE", domain="d", intent="i", slots=tuple(slots))


def example(annotated: str) -> Utterance:
    text, slots = annotation.parse(annotated)
    return Utterance("1", text, "de-DE", domain="d", intent="i", slots=slots)


def values(utterance: Utterance) -> list[tuple[str, str]]:
    return [(slot.name, utterance.value(slot)) for slot in utterance.slots]


@FEW
@given(utterances(), st.integers(0, 100), st.floats(0, 1))
def test_random_changes_keep_slots_and_labels(utterance: Utterance, seed: int, share: float) -> None:
    for rewriting in (swapped, shortened):
        variant = rewriting(utterance, random.Random(seed), share)

        assert values(variant) == values(utterance)
        assert (variant.id, variant.domain, variant.intent) == ("1", "d", "i")
        assert variant.text.strip()


@FEW
@given(utterances(), st.integers(0, 100), st.floats(0, 1))
def test_swapping_keeps_the_words(utterance: Utterance, seed: int, share: float) -> None:
    variant = swapped(utterance, random.Random(seed), share)

    assert sorted(variant.text.split()) == sorted(utterance.text.split())


@FEW
@given(utterances(), st.integers(0, 100), st.floats(0, 1))
def test_deletion_leaves_words_out_and_their_order(utterance: Utterance, seed: int, share: float) -> None:
    variant = shortened(utterance, random.Random(seed), share)

    left = iter(utterance.text.split())
    assert all(word in left for word in variant.text.split())
    if words_outside_slots(utterance) and len(utterance.text.split()) > 1:
        assert len(variant.text.split()) < len(utterance.text.split())


def test_words_that_touch_a_slot_are_not_outside() -> None:
    utterance = Utterance("1", "die küchenlampe ist an", "de-DE", slots=(Slot("room", 4, 9),))

    assert [utterance.text[start:end] for start, end in words_outside_slots(utterance)] == ["die", "ist", "an"]


@FEW
@given(
    st.lists(utterances(), max_size=5),
    st.integers(0, 100),
    st.lists(st.sampled_from(PLAIN), unique=True, max_size=3),
    st.floats(0, 1),
)
def test_a_policy_keeps_labels_and_slot_names(
    originals: list[Utterance], seed: int, names: list[str], share: float
) -> None:
    policy = Policy([Step(name, share, 0.5) for name in names], originals, {})

    variants = policy.variants(originals, random.Random(seed))

    assert policy.variants(originals, random.Random(seed)) == variants
    for original, variant in zip(originals, variants, strict=True):
        assert [slot.name for slot in variant.slots] == [slot.name for slot in original.slots]
        assert (variant.domain, variant.intent) == (original.domain, original.intent)
        assert variant is original or variant != original
    if share == 0:
        assert all(v is o for v, o in zip(variants, originals, strict=True))


def test_steps_are_in_order() -> None:
    """Each step rewrites what the one before it has made."""

    def appended(mark: str) -> Policy:
        def rewriter(found: list[Utterance], _strength: float, _rng: random.Random) -> list[Utterance]:
            return [Utterance(u.id, f"{u.text}{mark}", u.locale) for u in found]

        return rewriter  # type: ignore[return-value]

    more = {"contextual": appended("1"), "paraphrased": appended("2")}
    policy = Policy(parse_policy("paraphrased:1,contextual:1"), [], more)  # type: ignore[arg-type]

    assert policy.variants([Utterance("1", "a", "de-DE")], random.Random(0))[0].text == "a21"


def test_policies_are_read_with_defaults() -> None:
    assert parse_policy("random:0.3, typed:1") == (Step("random", 0.3, 0.15), Step("typed", 1.0, 0.0))
    assert parse_policy("substituted:.5:1") == (Step("substituted", 0.5, 1.0),)
    assert parse_policy("none") == parse_policy("") == ()
    assert [str(step) for step in parse_policy("random:0.3:0.2,typed:0.5")] == ["random:0.3:0.2", "typed:0.5"]


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("eda:0.1", "augmentation 'eda'; allowed: contextual, random, substituted, typed, paraphrased, or none alone"),
        ("random:0.1,none", "'none'"),
        ("random:2", r"'random:2' is out of range; allowed: random:SHARE\[:STRENGTH\], numbers from 0 to 1"),
        ("random", r"'random'; allowed: random:SHARE\[:STRENGTH\]"),
        ("random:x", "'random:x'"),
        ("typed:0.5:0.5", "'typed:0.5:0.5'; allowed: typed:SHARE, numbers"),
        ("random:0.1,random:0.2", "given twice"),
    ],
)
def test_what_is_no_policy_is_refused(policy: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_policy(policy)


def test_a_step_without_a_rewriter_is_refused() -> None:
    with pytest.raises(ValueError, match="contextual: is not available; available: random, substituted, typed"):
        Policy(parse_policy("contextual:0.5"), [], {})


def test_a_paraphrase_has_the_values_of_the_slots() -> None:
    original = example("weck mich am [date : freitag] um [time : neun uhr]")

    found = paraphrased(original, "Um neun Uhr am Freitag bitte wecken")
    assert found is not None
    assert values(found) == [("time", "neun Uhr"), ("date", "Freitag")]
    assert found.intent == "i"
    assert paraphrased(original, "um zehn uhr am freitag wecken") is None
    assert paraphrased(original, "neun uhr, neun uhr am freitag") is None


@FEW
@given(utterances(), st.randoms(use_true_random=False))
def test_paraphrased_slots_cover_their_values(utterance: Utterance, rng: random.Random) -> None:
    words = utterance.text.split()
    rng.shuffle(words)

    found = paraphrased(utterance, " ".join(words))

    if found is not None:
        wanted = sorted((name, value.casefold().strip()) for name, value in values(utterance))
        assert sorted((name, value.casefold()) for name, value in values(found)) == wanted


def test_paraphrases_are_drawn_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "file.tsv").write_text("licht aus\tlampe aus\nlicht aus\tmach es dunkel\nx\ty\n")
    known, other = example("licht aus"), example("licht an")

    found = Paraphrases(tmp_path / "file.tsv", [known, other])([known, other, known], 0.0, random.Random(0))

    assert {found[0].text, found[2].text} <= {"lampe aus", "mach es dunkel"}
    assert found[1] is other


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tb\nlicht aus\n", "file.tsv:2: 'licht aus'; allowed: a text, a tab"),
        ("x\ty\n", "no paraphrase of a training"),
    ],
)
def test_a_file_without_paraphrases_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file.tsv").write_text(content)
    with pytest.raises(DatasetError, match=message):
        Paraphrases(tmp_path / "file.tsv", [example("licht aus")])
    with pytest.raises(DatasetError, match="cannot be read"):
        Paraphrases(tmp_path / "missing.tsv", [])
