"""Each check by itself, on a few utterances."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.student.shipped import student_folder
from training.check import confident, duplicates, labels, languages, lengths, slots
from training.check.findings import Finding
from training.check.texts import key_of
from training.data.utterances import Partition, Slot, Utterance

IDS = count()


def said(
    text: str,
    intent: str | None = "play",
    partition: Partition = "train",
    domain: str | None = "media",
    locale: str = "en-US",
    **values: str,
) -> Utterance:
    """An utterance; `values` are its slots by name."""
    spans = sorted((text.index(value), name, value) for name, value in values.items())
    found = tuple(Slot(name, start, start + len(value)) for start, name, value in spans)
    return Utterance(str(next(IDS)), text, locale, partition, domain, intent, found)


def rows(findings: Sequence[Finding]) -> list[set[int]]:
    return [set(finding.rows) for finding in findings]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Play  it!", "play it"),
        ("turn on the Wi-Fi", "turn on the wifi."),
        ("ＰＬＡＹ", "play"),
        ("spiel’s ab", "spiels ab"),
    ],
)
def test_texts_that_say_the_same_have_one_key(one: str, other: str) -> None:
    assert key_of(one) == key_of(other)


@pytest.mark.parametrize(
    ("one", "other"), [("5.5 grad", "55 grad"), ("-5 grad", "5 grad"), ("5 6", "56"), ("100 $", "100 €"), ("👍", "👎")]
)
def test_texts_that_say_something_else_have_other_keys(one: str, other: str) -> None:
    assert key_of(one) != key_of(other)


@settings(max_examples=40)
@given(st.text(min_size=1).filter(str.strip))
def test_a_key_is_its_own_key_and_never_empty(text: str) -> None:
    assert key_of(text)
    assert key_of(f" {text} ") == key_of(text)


def test_contradictions_name_what_differs_and_the_rarer_labelling_first() -> None:
    utterances = [
        said("play blue", song="blue"),
        said("Play blue!", song="blue"),
        said("play  blue", "lights", song="blue"),
        said("play red", song="red"),
        said("play red"),
        said("play green", domain="music"),
        said("play green", domain=None),
    ]

    found = duplicates.contradictions(utterances)

    assert [finding.rows for finding in found] == [(2, 0, 1), (3, 4)]
    assert [finding.details["differs"] for finding in found] == [["intent"], ["slots"]]
    assert found[0].message == "'play blue': intent play (2) / lights (1)"
    assert found[1].message == "'play red': slots song=red (1) / none (1)"


def test_the_same_text_in_two_locales_contradicts_nothing() -> None:
    assert not duplicates.contradictions([said("stop"), said("stop", "halt", locale="de-DE")])


def test_leaks_are_the_same_text_in_two_partitions_of_a_language() -> None:
    utterances = [
        said("stop it"),
        said("Stop it.", partition="test", locale="en-GB"),
        said("stop it", partition="train"),
    ]
    utterances += [said("stop it", partition="dev", locale="de-DE")]

    found = duplicates.leaks(utterances)

    assert rows(found) == [{0, 1, 2}]
    assert found[0].message == "'stop it': 2 in train, 1 in test"


@pytest.mark.parametrize(
    ("train", "test", "is_near"),
    [
        ("play the new song again", "play the new song again please", True),
        ("play the new song again please", "play the new song again", True),
        ("play the kitchen radio now", "play the kitchne radio now", True),
        ("play the kitchen radio now", "now play the kitchen radio", True),
        ("play the kitchen radio now", "play the kitchen radio today", False),
        ("wake me at seven thirty", "wake me at eleven thirty", False),
        ("wake me at 10000 thirty", "wake me at 10001 thirty", False),
        ("play it now", "play it", False),
        ("play the new song again", "Play the new song again!", False),  # a leak, not a near one
    ],
)
def test_near_leaks(train: str, test: str, is_near: bool) -> None:
    found = duplicates.near_leaks([said(train), said(test, partition="test")])

    assert rows(found) == ([{0, 1}] if is_near else [])


def test_near_leaks_have_the_same_labels() -> None:
    utterances = [said("play the new song again"), said("play the new song again please", "stop", "test")]

    assert not duplicates.near_leaks(utterances)


def test_repeated_texts_are_those_of_one_partition_with_the_same_labels() -> None:
    utterances = [said("stop"), said("Stop!"), said("stop", "halt"), said("stop", partition="dev")]

    assert rows(duplicates.repeated(utterances)) == [{0, 1}]


def test_spellings_of_a_label() -> None:
    utterances = [said("a", "play_music"), said("b", "PlayMusic"), said("c", "play music"), said("d", "play_radio")]
    utterances += [said("e f", "play_music", song="e"), said("g h", "play_music", Song="g")]

    found = labels.variants(utterances)

    assert [finding.details["spellings"] for finding in found] == [
        ["play_music", "PlayMusic", "play music"],
        ["song", "Song"],
    ]


def test_rare_intents_are_counted_in_train_by_locale() -> None:
    utterances = [said(f"a{i}", "often") for i in range(3)] + [said("b", "seldom"), said("c", "seldom", "dev")]
    utterances += [said("d", "often", locale="de-DE")]

    found = labels.rare_intents(utterances, minimum=3)

    assert [finding.message for finding in found] == ["often: 1 in de-DE", "seldom: 1 in en-US"]


def test_labels_that_train_lacks() -> None:
    utterances = [said("play"), said("stop", "halt", "dev"), said("stop now", "halt", "test", time="now")]

    assert [f.message for f in labels.unseen(utterances)] == [
        "intent 'halt': 1 in dev, 1 in test, none in train",
        "slot 'time': 1 in test, none in train",
    ]
    assert not labels.unseen([said("stop", "halt", "dev")])


def test_counts_by_locale_intent_slot_and_partition() -> None:
    found = labels.counts([said("play blue", song="blue"), said("play", partition="dev"), said("hm", intent=None)])

    assert found == {
        "locale": {"en-US": {"train": 2, "dev": 1}},
        "domain": {"media": {"train": 2, "dev": 1}},
        "intent": {"play": {"train": 1, "dev": 1}},
        "slot": {"song": {"train": 1}},
    }


def test_slots_that_share_values() -> None:
    cities = ["rome", "Paris", "bern"]
    utterances = [said(f"weather in {city}", city=city) for city in [*cities, "ulm", "graz"]]
    utterances += [said(f"call {name}", contact=name) for name in ["rome", "paris", "bern", "anna"]]
    utterances += [said(f"play {name}", song=name) for name in ["rome", "x", "y"]]

    found = slots.overlaps(utterances)

    assert [finding.details["slots"] for finding in found] == [["city", "contact"]]
    assert found[0].details["shared"] == 3
    assert found[0].details["share"] == 0.75


def test_texts_in_another_language_than_their_locale() -> None:
    utterances = [
        said("wecke mich bitte morgen früh um sieben uhr", locale="de-DE"),
        said("quel temps fera-t-il demain matin à la plage", locale="de-DE"),
        said("wake me up tomorrow at seven please"),
        said("jazz", locale="de-DE"),
        said("spiel one more cup of coffee for the road", locale="de-DE", song="one more cup of coffee for the road"),
    ]

    found = languages.wrong_languages(utterances)

    assert rows(found) == [{1}]
    assert found[0].details["language"] == "fr"
    assert languages.unknown_languages([*utterances, said("nuqneH", locale="tlh")]) == ["tlh"]


def test_lengths_and_unknown_tokens() -> None:
    utterances = [said("play some music"), said("play 𓀀𓀁 now"), said("word " * 100)]

    measured = lengths.measure(utterances, student_folder("s"))
    summary = lengths.summary(utterances, measured)

    assert measured.words[0] == 3
    assert rows(lengths.unknown_tokens(measured)) == [{1}]
    assert rows(lengths.too_long(measured)) == [{2}]
    assert summary["locales"]["en-US"]["truncated"] == 1
    assert summary["locales"]["en-US"]["unknown_rate"] > 0


def test_the_confident_joint_counts_rows_by_given_and_likely_label() -> None:
    given_labels = np.array([0] * 10 + [1] * 10)
    probabilities = np.array([[0.9, 0.1]] * 8 + [[0.1, 0.9]] * 2 + [[0.1, 0.9]] * 10, np.float32)

    joint = confident.confident_joint(given_labels, probabilities)

    assert joint.sum(axis=1) == pytest.approx([10, 10])
    assert joint[0, 1] == pytest.approx(2)
    assert joint[1, 0] == 0
