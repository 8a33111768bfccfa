"""Friction: what counts as a sign, for which turn, and that neither text nor key is stored."""

from __future__ import annotations

import gc
import itertools
import timeit
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.load.texts import load_texts
from service.experiments.experiment import Experiment
from service.experiments.friction import (
    MOMENTS,
    REMEMBER_SECONDS,
    ArmLabels,
    FeedbackResult,
    Sessions,
    Turn,
    grams_of,
    similarity,
    sketch_of,
)
from service.monitoring.metrics import Metrics, Tally
from tests.service.conftest import Clock

LIGHT, LIGHT_AGAIN, WEATHER = "mach das licht aus", "mach bitte das licht aus", "wie wird morgen das wetter"
SALT = "0123456789abcdef"


def experiment_of(name: str = "test", **rules: float) -> Experiment:
    arms = {"control": {"model": "s", "weight": 1}, "candidate": {"model": "xs", "weight": 1}}
    return Experiment.model_validate({"name": name, "arms": arms, "friction": rules})


EXPERIMENT = experiment_of()
CONTROL = ArmLabels("test", "control", "s")
NOWHERE = ArmLabels()


class SessionsBench:
    """Sessions with their own metrics and clock, and turns with defaults."""

    def __init__(self, **limits: int) -> None:
        self.clock = Clock()
        self.metrics = Metrics()
        self.sessions = Sessions(self.metrics, self.clock, **limits)
        self.ids = (f"request-{number}" for number in itertools.count())

    def say(self, text: str = WEATHER, key: bytes | None = b"me", arm: str = "control", **more: Any) -> str:
        request_id = more.pop("request_id", None) or next(self.ids)
        experiment = more.pop("experiment", EXPERIMENT)
        labels = ArmLabels(experiment.name, arm, experiment.arms[arm].model)
        answer = {"confidence": 0.9, "in_scope": True, "seconds": 0.001} | more
        tally = Tally()
        self.sessions.count(tally, Turn(labels, experiment.friction, request_id, key, text, **answer))
        tally.apply()
        return request_id

    def feed_back(self, request_id: str, outcome: Any = "abandoned", elsewhere: ArmLabels = NOWHERE) -> FeedbackResult:
        return self.sessions.record_feedback(request_id, outcome, elsewhere)

    def signs(self, arm: str = "control") -> dict[str, float]:
        return {labels["sign"]: value for labels, value in self.samples("nlu_friction_total") if labels["arm"] == arm}

    def moments(self, arm: str = "control", experiment: str = "test") -> tuple[float, ...]:
        moments = {
            labels["moment"]: value
            for labels, value in self.samples("nlu_session_moments_total")
            if (labels["arm"], labels["experiment"]) == (arm, experiment)
        }
        return tuple(moments.get(moment, 0.0) for moment in MOMENTS)

    def samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        return [
            (sample.labels, sample.value)
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == name
        ]


@pytest.fixture
def bench() -> SessionsBench:
    return SessionsBench()


def test_a_turn_counts_for_its_arm_and_model(bench: SessionsBench) -> None:
    bench.say(key=None)
    bench.say(arm="candidate", seconds=0.5)

    assert bench.samples("nlu_turns_total") == [
        ({"experiment": "test", "arm": "control", "model": "s"}, 1),
        ({"experiment": "test", "arm": "candidate", "model": "xs"}, 1),
    ]
    assert {labels["arm"]: value for labels, value in bench.samples("nlu_turn_seconds_sum")} == {
        "control": 0.001,
        "candidate": 0.5,
    }
    assert bench.signs() == {}


@pytest.mark.parametrize(
    ("answer", "signs"),
    [
        ({}, {}),
        ({"in_scope": False}, {"out_of_scope": 1}),
        ({"in_scope": False, "confidence": 0.1}, {"out_of_scope": 1}),
        ({"confidence": 0.29}, {"low_confidence": 1}),
        ({"in_scope": None, "confidence": 0.29}, {"low_confidence": 1}),
        ({"confidence": 0.3}, {}),
        ({"confidence": None, "in_scope": None}, {}),
    ],
)
def test_an_unsure_answer_is_a_sign_at_once(
    bench: SessionsBench, answer: dict[str, Any], signs: dict[str, int]
) -> None:
    bench.say(key=None, **answer)

    assert bench.signs() == signs


def test_rephrase_is_a_sign_for_the_turn_before(bench: SessionsBench) -> None:
    bench.say(LIGHT)
    bench.clock.now += 29.9
    bench.say(LIGHT_AGAIN)
    bench.say(WEATHER)
    bench.sessions.close_all()

    assert bench.signs() == {"rephrase": 1}
    assert bench.moments() == (1, 3, 1, 9, 1, 3)


def test_other_text_later_text_or_other_user_is_no_rephrase(bench: SessionsBench) -> None:
    bench.say(LIGHT)
    bench.say(WEATHER)
    bench.say(LIGHT)
    bench.clock.now += 30
    bench.say(LIGHT)
    bench.say(LIGHT, key=b"other")
    bench.say(LIGHT, key=None)
    bench.say(LIGHT, key=None)
    bench.say(LIGHT, key=b"")

    assert bench.signs() == {}
    assert len(bench.sessions) == 2


def test_the_rules_are_the_experiments(bench: SessionsBench) -> None:
    strict = experiment_of(similarity=0.99, confidence=0.95, rephrase_seconds=5, session_seconds=10)
    bench.say(LIGHT, experiment=strict, confidence=0.96)
    bench.say(LIGHT_AGAIN, experiment=strict, confidence=0.96)
    assert bench.signs() == {}
    bench.say(WEATHER, experiment=strict, confidence=0.94)
    assert bench.signs() == {"low_confidence": 1}

    bench.clock.now += 10.1
    bench.sessions.close_idle()
    assert bench.moments() == (1, 3, 1, 9, 1, 3)


def test_a_turn_counts_once(bench: SessionsBench) -> None:
    bench.say(LIGHT, in_scope=False, confidence=0.1)
    second = bench.say(LIGHT)  # a rephrase of the first
    bench.feed_back(second)
    bench.say(LIGHT)

    assert bench.signs() == {"out_of_scope": 1, "abandoned": 1}


def test_a_session_ends_after_silence(bench: SessionsBench) -> None:
    bench.say()
    bench.clock.now += 300
    bench.sessions.close_idle()
    assert len(bench.sessions) == 1
    bench.say()

    bench.clock.now += 300.1
    bench.sessions.close_idle()
    assert len(bench.sessions) == 0
    assert bench.moments() == (1, 2, 0, 4, 0, 0)

    bench.say()
    bench.clock.now += 300.1
    bench.say()  # the session before is still open
    assert bench.moments() == (2, 3, 0, 5, 0, 0)


def test_a_client_that_changes_its_arm_begins_a_new_session(bench: SessionsBench) -> None:
    bench.say(LIGHT)
    bench.say(LIGHT_AGAIN, arm="candidate")  # a rephrase of the turn before
    bench.say(WEATHER, arm="candidate", experiment=experiment_of("next"))
    bench.sessions.close_all()

    assert bench.moments() == (1, 1, 1, 1, 1, 1)
    assert bench.moments("candidate") == (1, 1, 0, 1, 0, 0)
    assert bench.moments("candidate", "next") == (1, 1, 0, 1, 0, 0)
    assert bench.signs() == {"rephrase": 1}


def test_the_oldest_session_closes_for_a_new_one() -> None:
    bench = SessionsBench(max_sessions=2)
    for key in (b"a", b"b", b"a", b"c"):
        bench.say(key=key)

    assert len(bench.sessions) == 2
    assert bench.moments() == (1, 1, 0, 1, 0, 0)  # of b, the least recent
    bench.sessions.close_all()
    assert bench.moments() == (3, 4, 1, 6, 1, 2)  # a has repeated its text


def test_feedback_counts_for_the_turn_that_is_remembered(bench: SessionsBench) -> None:
    asked = bench.say(arm="candidate")

    result = bench.feed_back(asked, "accepted", CONTROL)

    assert result == FeedbackResult(ArmLabels("test", "candidate", "xs"), remembered=True, repeated=False)
    assert bench.samples("nlu_feedback_total") == [
        ({"experiment": "test", "arm": "candidate", "model": "xs", "outcome": "accepted"}, 1)
    ]
    assert bench.signs("candidate") == {}


def test_the_first_feedback_counts(bench: SessionsBench) -> None:
    asked = bench.say()

    assert not bench.feed_back(asked, "corrected").repeated
    assert bench.feed_back(asked, "abandoned") == FeedbackResult(CONTROL, remembered=True, repeated=True)
    assert [value for _, value in bench.samples("nlu_feedback_total")] == [1]
    assert bench.signs() == {}


def test_abandoning_is_a_sign_even_after_the_session(bench: SessionsBench) -> None:
    first, second = bench.say(LIGHT), bench.say(WEATHER)
    bench.feed_back(first)
    bench.sessions.close_all()
    assert bench.moments() == (1, 2, 1, 4, 1, 2)

    bench.feed_back(second)

    assert bench.signs() == {"abandoned": 2}
    assert bench.moments() == (1, 2, 2, 4, 4, 4)


def test_feedback_on_a_turn_that_is_still_deferred_finds_it(bench: SessionsBench) -> None:
    turn = Turn(CONTROL, EXPERIMENT.friction, "late", None, LIGHT, 0.9, True, 0.001)
    bench.metrics.defer(bench.sessions.count, turn)

    assert bench.feed_back("late").remembered
    assert bench.signs() == {"abandoned": 1}


def test_sessions_of_deferred_turns_are_closed_in_the_end(bench: SessionsBench) -> None:
    bench.metrics.defer(bench.sessions.count, Turn(CONTROL, EXPERIMENT.friction, "x", b"me", LIGHT, 0.9, True, 0.001))
    bench.sessions.close_all()

    assert bench.moments() == (1, 1, 0, 1, 0, 0)


@pytest.mark.parametrize("place", [ArmLabels("test", "control", "s"), ArmLabels()])
def test_feedback_on_a_turn_of_another_process_counts_for_its_arm(bench: SessionsBench, place: ArmLabels) -> None:
    assert bench.feed_back("elsewhere", elsewhere=place) == FeedbackResult(place, remembered=False, repeated=False)
    assert bench.feed_back("elsewhere", elsewhere=place) == FeedbackResult(place, remembered=False, repeated=True)
    assert bench.samples("nlu_feedback_total") == [({**place._asdict(), "outcome": "abandoned"}, 1)]
    assert bench.signs("control") == bench.signs("candidate") == {}


def test_series_of_an_expected_arm_begin_with_zero(bench: SessionsBench) -> None:
    bench.sessions.start_series(CONTROL)

    for name in ("turns", "friction", "feedback", "session_moments"):
        found = bench.samples(f"nlu_{name}_total")
        assert found
        assert {value for _, value in found} == {0}
    assert bench.moments() == (0,) * len(MOMENTS)


def test_turns_are_forgotten_by_number_and_by_time() -> None:
    bench = SessionsBench(max_requests=2)
    first, second, third = bench.say(), bench.say(), bench.say()
    assert [bench.feed_back(asked).remembered for asked in (first, second, third)] == [False, True, True]

    bench.clock.now += REMEMBER_SECONDS + 1
    assert bench.feed_back(third) == FeedbackResult(NOWHERE, remembered=False, repeated=False)


def test_rephrases_are_similar_and_other_requests_are_not() -> None:
    for one, other in [
        (LIGHT, LIGHT_AGAIN),
        (LIGHT, f"  {LIGHT.upper()}\n"),
        ("spiel musik", "spiel bitte musik"),
        ("weck mich um neun", "weck mich um neun uhr"),
        ("stell den wecker auf sieben uhr morgen", "stell den wecker morgen auf sieben uhr"),
        ("joue de la musique", "joue de la musique s'il te plaît"),
    ]:
        assert similarity(sketch_of(one, SALT), sketch_of(other, SALT)) >= 0.5
    texts = [text.text for text in load_texts()]
    pairs = [(sketch_of(one, SALT), sketch_of(other, SALT)) for one, other in zip(texts, texts[7:], strict=False)]
    assert sum(similarity(*pair) >= 0.5 for pair in pairs) <= len(pairs) / 200


def test_long_texts_are_not_all_similar() -> None:
    words = [text.text for text in load_texts()]
    one, other = " ".join(words[:200]), " ".join(words[300:500])

    assert similarity(sketch_of(one, SALT), sketch_of(other, SALT)) < 0.4


@given(text=st.text(max_size=60), other=st.text(max_size=60))
def test_a_sketch_depends_on_its_grams(text: str, other: str) -> None:
    one, two = sketch_of(text, SALT), sketch_of(other, SALT)

    assert one.bit_length() <= 512
    assert one.bit_count() <= len(set(grams_of(text)))
    assert similarity(one, one) == (1.0 if text.split() else 0.0)
    assert similarity(one, two) == similarity(two, one)
    assert 0 <= similarity(one, two) <= 1
    assert sketch_of(f"\t{text.upper()} ", SALT) == sketch_of(f" {text.upper()}", SALT)


@pytest.mark.slow
def test_a_sketch_costs_microseconds() -> None:
    text = "mach bitte das licht in der küche aus, x"

    seconds = min(timeit.repeat(lambda: sketch_of(text, SALT), number=500, repeat=9)) / 500

    assert seconds < 100e-6  # of a machine that is busy; idle it takes less than ten


def test_neither_text_nor_key_nor_request_id_is_stored(bench: SessionsBench) -> None:
    marker, key = "geheimnis vom zahnarzt", b"client-of-anna-0815"
    asked = bench.say(marker, key=key, request_id="id-0123456789abcdef")
    bench.say(f"{marker} bitte", key=key)
    bench.feed_back(asked)
    bench.feed_back("elsewhere-0815")

    stored = [*_strings_reachable_from(bench.sessions), bench.metrics.exposition()]
    for secret in (marker, "zahnarzt", key.decode(), asked, "elsewhere-0815"):
        assert not any(secret.encode() in each for each in stored)
    assert len(_digests(bench)) == 6  # of a session, two turns, feedback on two requests, and the secret


def test_two_processes_share_no_digest(bench: SessionsBench) -> None:
    other = SessionsBench()
    bench.say(request_id="same")
    other.say(request_id="same")

    assert _digests(bench)
    assert not set(_digests(bench)) & set(_digests(other))


def _digests(bench: SessionsBench) -> list[bytes]:
    """The digests that the sessions store, and the secret of the process."""
    return [each for each in _reachable_from(bench.sessions) if isinstance(each, bytes) and len(each) == 16]


def _strings_reachable_from(root: object) -> Iterator[bytes]:
    for each in _reachable_from(root):
        if isinstance(each, (str, bytes)):
            yield each if isinstance(each, bytes) else each.encode(errors="surrogatepass")


def _reachable_from(root: object) -> Iterator[object]:
    """Everything that an object refers to, without code and metrics."""
    waiting, seen = [root], set()
    while waiting:
        each = waiting.pop()
        code = isinstance(each, type | ModuleType) or callable(each) or type(each).__module__.startswith("prometheus")
        if id(each) not in seen and not code:
            seen.add(id(each))
            yield each
            waiting.extend(gc.get_referents(each))


# The same counts, computed from a log of all turns.

KEYS = (b"anna", b"ben", None)
TEXTS = (LIGHT, LIGHT_AGAIN, WEATHER, "spiel etwas von bach")
GROUPS = (0, 0, 1, 2)  # which of the texts are similar


@dataclass
class Logged:
    """A turn in the log."""

    time: float
    key: bytes | None
    arm: str
    group: int
    sign: str | None
    session: int | None = None


@dataclass
class Recount:
    """Sessions and friction by the plain rules, over a log of everything."""

    log: list[Logged] = field(default_factory=list)
    sessions: int = 0

    def say(self, turn: Logged) -> None:
        before = next((old for old in reversed(self.log) if turn.key and old.key == turn.key), None)
        if before is not None:
            silence = turn.time - before.time
            if silence < 30 and before.group == turn.group:
                before.sign = before.sign or "rephrase"
            if silence <= 300 and before.arm == turn.arm:
                turn.session = before.session
        if turn.key and turn.session is None:
            self.sessions += 1
            turn.session = self.sessions
        self.log.append(turn)

    def moments(self, arm: str) -> tuple[int, ...]:
        found = {turn.session for turn in self.log if turn.arm == arm and turn.session}
        sizes = [[turn for turn in self.log if turn.session == session] for session in found]
        pairs = [(len(turns), sum(turn.sign is not None for turn in turns)) for turns in sizes]
        terms = [(1, t, f, t * t, f * f, t * f) for t, f in pairs]
        return tuple(sum(column) for column in zip(*terms, strict=True)) or (0,) * 6

    def signs(self, arm: str) -> Counter[str]:
        return Counter(turn.sign for turn in self.log if turn.arm == arm and turn.sign)


says = st.tuples(
    st.just("say"),
    st.integers(0, len(KEYS) - 1),
    st.integers(0, len(TEXTS) - 1),
    st.sampled_from(["control", "control", "candidate"]),
    st.sampled_from([None, None, None, "out_of_scope", "low_confidence"]),
)
tells = st.tuples(st.just("tell"), st.integers(0, 50), st.sampled_from(["accepted", "abandoned"]))
waits = st.tuples(st.just("wait"), st.sampled_from([0.0, 5.0, 29.0, 31.0, 299.0, 301.0]))
events = st.lists(st.one_of(says, says, tells, waits, st.just(("close idle",))), max_size=40)


@settings(max_examples=200)
@given(events=events)
def test_moments_and_signs_are_those_of_a_recount(events: list[tuple[Any, ...]]) -> None:
    bench, recount = SessionsBench(), Recount()
    asked: list[tuple[str, float]] = []
    with_feedback: set[int] = set()
    for kind, *details in events:
        if kind == "wait":
            bench.clock.now += details[0]
        elif kind == "close idle":
            bench.sessions.close_idle()
        elif kind == "say":
            key, text, arm, sign = details
            answer = {"in_scope": sign != "out_of_scope", "confidence": 0.1 if sign == "low_confidence" else 0.9}
            recount.say(Logged(bench.clock.now, KEYS[key], arm, GROUPS[text], sign))
            asked.append((bench.say(TEXTS[text], key=KEYS[key], arm=arm, **answer), bench.clock.now))
        elif asked:
            place = details[0] % len(asked)
            request_id, when = asked[place]
            result = bench.feed_back(request_id, details[1])
            assert result.remembered == (bench.clock.now - when <= REMEMBER_SECONDS)
            if result.remembered and place not in with_feedback and details[1] == "abandoned":
                recount.log[place].sign = recount.log[place].sign or "abandoned"
            with_feedback.add(place)
    bench.sessions.close_all()

    for arm in ("control", "candidate"):
        assert bench.moments(arm) == recount.moments(arm)
        assert bench.signs(arm) == recount.signs(arm)


@given(
    turns=st.lists(st.tuples(st.binary(max_size=3), st.text(max_size=6), st.floats(0, 400)), max_size=60),
    most=st.integers(1, 5),
)
def test_memory_is_bounded(turns: list[tuple[bytes, str, float]], most: int) -> None:
    bench = SessionsBench(max_sessions=most, max_requests=most)
    for key, text, silence in turns:
        bench.clock.now += silence
        bench.feed_back(bench.say(text, key=key))
        bench.feed_back(f"elsewhere {text}")
        assert len(bench.sessions) <= most
    assert len(_digests(bench)) <= 3 * most + 1  # of sessions, turns and feedback, and the secret
    bench.sessions.close_all()

    assert len(bench.sessions) == 0
    assert bench.moments()[1] == sum(bool(key) for key, *_ in turns)
