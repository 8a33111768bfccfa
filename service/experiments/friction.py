"""Friction: signs that an answer went wrong for the user, counted for the arms of an experiment without keeping a text.

As FitzGerald et al., "Alexa Teacher Model" (KDD 2022, arXiv:2206.07808), compare students online: by automatic
signs of dissatisfaction. A turn, which is one text answered, has friction where

- the student found it out of scope, or was not sure of its intent;
- the same client says something similar soon after: it said it again in other words;
- the client tells, through feedback, that its user gave up.

Each turn counts once, for its first sign. Turns of one user go wrong together, so what is compared is sessions: for
each that ends its turns t and turns with friction f go into sums of 1, t, f, tt, ff and tf. These are all that the
variance of the friction rate needs by the delta method with the session as unit (Deng, Knoblich and Lu, "Applying the
Delta Method in Metric Analytics", KDD 2018, arXiv:1803.06336).

What is kept of a text is a sketch: 512 bits, of which each of its character 3-grams sets one, by a hash that is secret
to the process. Of clients' keys and of request ids there are keyed digests. Nobody reads a text or a key off these;
only who has the process's memory, and so its secrets, can check a guess against them.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, Literal, NamedTuple, TypeVar, get_args

from prometheus_client import Counter, Histogram

from service.experiments.experiment import Experiment
from service.http.requests import Outcome
from service.monitoring.metrics import NONE, Metrics, Tally

MOST_SESSIONS = 50_000
MOST_REQUESTS = 20_000
REQUEST_SECONDS = 900.0  # for which a turn is remembered by its request's id
MOST_CHARS = 256  # of a text go into its sketch: more would fill it, and all long texts would look alike
BITS = [1 << place for place in range(512)]  # looked up faster than shifted
MOMENTS = ("sessions", "turns", "friction", "turns_squared", "friction_squared", "turns_friction")

Sign = Literal["out_of_scope", "low_confidence", "rephrase", "abandoned"]
Value = TypeVar("Value")


class Place(NamedTuple):
    """Where a turn, or what is told of it, counts: names of experiment, arm and student; "none" for lack of one."""

    experiment: str = NONE
    arm: str = NONE
    model: str = NONE


class Turn(NamedTuple):
    """One text answered in an arm.

    Attributes:
        experiment, arm: by which the student was chosen.
        model: the student that answered.
        request_id: by which feedback names it. Of several turns with the same id, feedback is on the last.
        client_key: None or empty where the client brought none; then the turn belongs to no session.
        text: as it was sent; not kept.
        confidence: of the best intent, 0 to 1; None where the student has none.
        in_scope: whether the student takes it for a request that it knows; None where it can't tell.
        seconds: from the request's arrival to the answer.
    """

    experiment: Experiment
    arm: str
    model: str
    request_id: str
    client_key: bytes | None
    text: str
    confidence: float | None
    in_scope: bool | None
    seconds: float


class Noted(NamedTuple):
    """What became of feedback.

    Attributes:
        place: where it counts.
        remembered: whether this process remembers the turn.
        repeated: whether there was feedback on the request before, so that this one was not counted.
    """

    place: Place
    remembered: bool
    repeated: bool


class Sessions:
    """The sessions and recent turns of one process; counts them in its metrics. Belongs on the event loop.

    Bounded whatever comes: the oldest sessions are closed, and the oldest turns forgotten.

    Usage::

        sessions = Sessions(metrics)
        metrics.defer(sessions.count, Turn(...))  # for each text that was answered
        sessions.feedback("4f2a", "abandoned", Place("trial", "control", "s"))
        sessions.close_idle()  # now and then
        sessions.close_all()  # in the end

    Args:
        metrics: in which is counted.
        clock: gives seconds that never go back.
        most_sessions: open at once.
        most_requests: remembered for feedback.
    """

    def __init__(
        self,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        *,
        most_sessions: int = MOST_SESSIONS,
        most_requests: int = MOST_REQUESTS,
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._most_sessions = most_sessions
        self._secret = secrets.token_bytes(16)
        self._salt = secrets.token_hex(8)
        self._meters: dict[Place, tuple[Counter, Histogram]] = {}
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()  # in order of their last turns
        self._answered: _Recent[_Turn] = _Recent(most_requests)
        self._told: _Recent[bool] = _Recent(most_requests)  # requests that there was feedback on

    def __len__(self) -> int:
        """How many sessions are open."""
        return len(self._sessions)

    def count(self, tally: Tally, turn: Turn) -> None:
        """Count a turn, and remember it for feedback."""
        now = self._clock()
        counted = _Turn(Place(turn.experiment.name, turn.arm, turn.model))
        self._answered.put(self._digest(turn.request_id.encode()), counted, now)
        meters = self._meters.get(counted.place)
        if meters is None:  # once, as the look-up of label children costs more than counting
            labels = counted.place
            meters = self._metrics.turns.labels(*labels), self._metrics.turn_seconds.labels(*labels)
            self._meters[labels] = meters
        tally.add(meters[0], 1)
        tally.observe(meters[1], turn.seconds)
        if turn.client_key:
            self._go_on(self._digest(turn.client_key), turn, counted, now)
        if turn.in_scope is False:
            self._go_wrong(counted, "out_of_scope")
        elif turn.confidence is not None and turn.confidence < turn.experiment.friction.confidence:
            self._go_wrong(counted, "low_confidence")

    def feedback(self, request_id: str, outcome: Outcome, elsewhere: Place) -> Noted:
        """Count what a client tells of a request; the first word counts.

        Where this process does not remember the turn, because it was in no arm, another process answered it, or it was
        long ago, the feedback counts `elsewhere`, and no friction is counted: nobody knows whether the turn has had its
        sign.
        """
        self._metrics.flush()  # the turn may still be deferred
        now = self._clock()
        digest = self._digest(request_id.encode())
        turn = self._answered.get(digest, now)
        place = elsewhere if turn is None else turn.place
        repeated = self._told.get(digest, now) is not None
        self._told.put(digest, True, now)
        if not repeated:
            self._metrics.feedback.labels(*place, outcome).inc()
            if turn is not None and outcome == "abandoned":
                self._go_wrong(turn, "abandoned")
        return Noted(place, turn is not None, repeated)

    def expect(self, place: Place) -> None:
        """Begin the series of an arm with zero: of one that begins with its first count, an increase is never seen."""
        self._metrics.turns.labels(*place)
        for sign in get_args(Sign):
            self._metrics.friction.labels(*place, sign)
        for outcome in get_args(Outcome):
            self._metrics.feedback.labels(*place, outcome)
        for moment in MOMENTS:
            self._metrics.session_moments.labels(place.experiment, place.arm, moment)

    def close_idle(self) -> None:
        """Close the sessions that are over, and forget turns of long ago. To be called now and then."""
        now = self._clock()
        while self._sessions:
            key, session = next(iter(self._sessions.items()))
            if now - session.seen <= session.idle_seconds:
                break
            self._close(key)
        self._answered.forget(now)
        self._told.forget(now)

    def close_all(self) -> None:
        """Close all sessions, those of deferred turns too: the process is about to stop."""
        self._metrics.flush()
        for key in list(self._sessions):
            self._close(key)

    def _go_on(self, key: bytes, turn: Turn, counted: _Turn, now: float) -> None:
        """Add a turn to the client's session, or begin one with it."""
        rules = turn.experiment.friction
        sketch = sketch_of(turn.text, self._salt)
        session = self._sessions.get(key)
        if session is not None and session.last is not None:
            silence = now - session.seen
            if silence < rules.rephrase_seconds and similarity(session.sketch, sketch) >= rules.similarity:
                self._go_wrong(session.last, "rephrase")
            moved = session.last.place[:2] != counted.place[:2]  # the weights have changed, or the whole experiment
            if moved or silence > rules.session_seconds:
                self._close(key)
                session = None
        if session is None:
            session = _Session()
            if len(self._sessions) >= self._most_sessions:
                self._close(next(iter(self._sessions)))
            self._sessions[key] = session
        self._sessions.move_to_end(key)
        session.turns += 1
        session.seen, session.idle_seconds, session.sketch, session.last = now, rules.session_seconds, sketch, counted
        counted.session = session

    def _go_wrong(self, turn: _Turn, sign: Sign) -> None:
        """Count friction, unless the turn has had its sign."""
        if turn.wrong:
            return
        turn.wrong = True
        self._metrics.friction.labels(*turn.place, sign).inc()
        if turn.session is None:
            return
        turns, before = turn.session.turns, turn.session.friction
        turn.session.friction += 1
        if turn.session.last is None:  # closed and summed up before: the sums grow to what they would have been
            self._add(turn.place, (0, 0, 1, 0, 2 * before + 1, turns))

    def _close(self, key: bytes) -> None:
        session = self._sessions.pop(key)
        t, f = session.turns, session.friction
        if session.last is not None:
            self._add(session.last.place, (1, t, f, t * t, f * f, t * f))
            session.last = None

    def _add(self, place: Place, amounts: tuple[int, ...]) -> None:
        for moment, amount in zip(MOMENTS, amounts, strict=True):
            self._metrics.session_moments.labels(place.experiment, place.arm, moment).inc(amount)

    def _digest(self, name: bytes) -> bytes:
        return hashlib.blake2b(name, digest_size=16, key=self._secret).digest()


class _Turn:
    """What is remembered of a turn: where it counts, and whether it went wrong."""

    __slots__ = ("place", "session", "wrong")

    def __init__(self, place: Place) -> None:
        self.place = place
        self.session: _Session | None = None
        self.wrong = False


class _Session:
    """The turns of one client in one arm, each soon after the one before. Closed once `last` is None.

    Its turns hold on to it, for feedback that comes late; it holds on to the last one, and only while it is open, so
    that all are freed without a collector.
    """

    __slots__ = ("friction", "idle_seconds", "last", "seen", "sketch", "turns")

    def __init__(self) -> None:
        self.turns = 0
        self.friction = 0
        self.seen = 0.0
        self.idle_seconds = 0.0
        self.sketch = 0
        self.last: _Turn | None = None


class _Recent(Generic[Value]):
    """The last so many things, by digest, and none that is older than `REQUEST_SECONDS`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: OrderedDict[bytes, tuple[float, Value]] = OrderedDict()

    def put(self, key: bytes, value: Value, now: float) -> None:
        self._entries[key] = now, value
        self._entries.move_to_end(key)
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)

    def get(self, key: bytes, now: float) -> Value | None:
        self.forget(now)
        entry = self._entries.get(key)
        return entry[1] if entry else None

    def forget(self, now: float) -> None:
        while self._entries and now - next(iter(self._entries.values()))[0] > REQUEST_SECONDS:
            self._entries.popitem(last=False)


def grams_of(text: str) -> Iterator[str]:
    """The character 3-grams of a text, with one space before and after it, regardless of case and white space."""
    spaced = f" {' '.join(text[:MOST_CHARS].casefold().split())} "
    return map("".join, zip(spaced, spaced[1:], spaced[2:], strict=False))


def sketch_of(text: str, salt: str) -> int:
    """A text as 512 bits, of which each of its 3-grams sets one. Those of one salt, in one process, compare."""
    sketch = 0
    for gram in grams_of(text):
        sketch |= BITS[hash(salt + gram) % len(BITS)]
    return sketch


def similarity(one: int, other: int) -> float:
    """Jaccard similarity of two sketches: common bits over all bits, 0 to 1; 0 where there are none."""
    either = (one | other).bit_count()
    return (one & other).bit_count() / either if either else 0.0
