from __future__ import annotations

import random
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data import annotation, augmentation, datasets
from training.data.rewriting import edit
from training.data.typed import HELD_OUT, TRAINING, TYPED, typed_pairs
from training.data.utterances import Slot, Utterance

tokens = st.text(
    st.characters(exclude_categories=["Cs", "Zs", "Cc", "Zl", "Zp"], exclude_characters="[]"), min_size=1, max_size=6
)
REWRITINGS = (augmentation.as_typed, lambda utterance, rng: augmentation.augment(utterance, rng, 1.0))


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
        assert all(variant.value(slot).strip() == variant.value(slot) for slot in variant.slots)


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


@pytest.mark.parametrize("name", TYPED)
@given(utterance=utterances(), seed=st.integers(0, 100))
def test_each_way_of_typing_keeps_its_slots(name: str, utterance: Utterance, seed: int) -> None:
    for wording in (TRAINING, HELD_OUT):
        typed = TYPED[name](utterance, random.Random(seed), wording)

        assert typed is utterance or typed.text != utterance.text
        assert [s.name for s in typed.slots] == [s.name for s in utterance.slots]
        for before, after in zip(utterance.slots, typed.slots, strict=True):
            value = utterance.value(before)
            if name == "ae oe ue ss" and utterance.locale == "de-DE":
                value = re.sub("[äöüÄÖÜ]", r"\g<0>e", value)
            assert letters(typed.value(after)) == letters(value)


def letters(value: str) -> str:
    """The visible letters and symbols of a value, without accents and case."""
    plain = unicodedata.normalize("NFKD", value.upper()).upper()
    return "".join(c for c in plain if unicodedata.category(c)[0] in "LSN")


@pytest.mark.parametrize(
    ("name", "locale", "plain", "typed"),
    [
        ("quotes", "de-DE", "spiel [song : jazz] laut", 'spiel "[song : jazz]" laut'),
        ("comma", "de-DE", "spiel [song : jazz] laut", "spiel, [song : jazz] laut"),
        ("comma", "en-US", "[place : new york] weather", "[place : new york] weather"),
        ("final …", "de-DE", "weck mich [time : morgen]", "weck mich [time : morgen]…"),
        ("final .", "en-US", "at nine [time : a. m.]", "at nine [time : a. m.]"),
        ("digits", "de-DE", "um [time : neun uhr dreißig]", "um [time : 9 uhr 30]"),
        ("digits", "de-DE", "eine von fünfundvierzig", "eine von 45"),
        ("digits", "en-US", "play forty five songs", "play 45 songs"),
        ("digits", "es-ES", "treinta y cinco minutos", "35 minutos"),
        ("digits", "it-IT", "ventuno o quarantotto", "21 o 48"),
        ("digits", "fr-FR", "un réveil dans vingt-deux minutes", "un réveil dans 22 minutes"),
        ("times", "de-DE", "um [time : neun uhr fünfundvierzig]", "um [time : 9:45]"),
        ("times", "fr-FR", "à [time : neuf heures trente]", "à [time : 9h30]"),
        ("times", "it-IT", "alle [time : nove e trenta]", "alle [time : 9:30]"),
        ("times", "es-ES", "a las [time : nueve y media]", "a las [time : nueve y media]"),
        ("times", "en-US", "at [time : nine thirty a. m.]", "at [time : 9:30 am]"),
        ("money, degrees", "en-US", "bill of [amount : five dollars]", "bill of [amount : $5]"),
        ("money, degrees", "de-DE", "mehr als [x : zwanzig] grad", "mehr als [x : 20]°"),
        ("title case", "fr-FR", "joue [song : le jazz]", "Joue [song : Le Jazz]"),
        ("all capitals", "de-DE", "eine [x : straße] weiter", "EINE [x : STRASSE] WEITER"),
        ("no accents", "de-DE", "[time : fünf] uhr für dich", "[time : funf] uhr fur dich"),
        ("ae oe ue ss", "de-DE", "[time : fünf] uhr für dich", "[time : fuenf] uhr fuer dich"),
        ("ae oe ue ss", "fr-FR", "[x : noël]", "[x : noël]"),
        ("no apostrophe", "fr-FR", "joue l'[song : album]", "joue l[song : album]"),
        ("’", "it-IT", "l'album [x : dell'anno]", "l’album [x : dell’anno]"),
        ("no-break space", "de-DE", "am [date : ersten mai]", "am\u00a0[date : ersten\u00a0mai]"),
        ("byte-order mark", "de-DE", "[x : jazz]", "\ufeff[x : jazz]"),
    ],
)
def test_ways_of_typing(name: str, locale: str, plain: str, typed: str) -> None:
    utterance = example(plain, locale)

    found = {rendered(TYPED[name](utterance, random.Random(seed), TRAINING)) for seed in range(30)}

    assert typed in found


def test_a_format_character_stands_within_a_word() -> None:
    typed = TYPED["soft hyphen"](example("am [date : ersten mai]"), random.Random(0), HELD_OUT)

    assert re.fullmatch(r"am e\w*\u00ad\w+ mai", typed.text)
    assert typed.value(typed.slots[0]) == typed.text[3:]


def test_an_edit_across_the_edge_of_a_slot_is_left_out() -> None:
    utterance = example("am [date : ersten mai] um neun")

    assert rendered(edit(utterance, [(0, 5, "x"), (14, 16, "gegen")])) == "am [date : ersten mai] gegen neun"
    assert edit(utterance, [(0, 5, "x")]) is utterance
    assert edit(utterance, [(3, 13, " ")]) is utterance


def test_the_suite_and_training_use_other_wordings() -> None:
    assert not set(TRAINING.emoji) & set(HELD_OUT.emoji)
    assert not set(TRAINING.wake_words) & set(HELD_OUT.wake_words)
    assert not {p for pairs in TRAINING.polite.values() for p in pairs} & {
        p for pairs in HELD_OUT.polite.values() for p in pairs
    }


def test_what_happens_to_an_utterance_depends_on_no_other(sample: Path) -> None:
    dev = datasets.load(str(sample)).part("dev")

    for name in TYPED:
        pairs = typed_pairs(name, dev)
        assert pairs == typed_pairs(name, dev)
        assert [typed for i, typed in pairs if i >= 40] == [typed for _, typed in typed_pairs(name, dev[40:])]
        assert all(typed.text != dev[i].text for i, typed in pairs)


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
