"""User dissatisfaction ("friction" in metrics), counted for the arms of an experiment without storing text.

Students are compared online by automatic signs of dissatisfaction, as in FitzGerald et al., "Alexa Teacher Model" (KDD
2022, arXiv:2206.07808). A turn is one text answered. It has friction if

- the student found it out of scope, or had a low confidence in its intent;
- the same client soon sends a similar text: a rephrase;
- the client reports, through feedback, that its user gave up.

Each turn counts once, for its first sign. The turns of one user are correlated, so sessions are compared: for each
finished session with t turns, f of them with friction, the terms 1, t, f, tt, ff and tf are added to sums. From these
follows the variance of the friction rate, by the delta method with the session as unit (Deng, Knoblich and Lu,
"Applying the Delta Method in Metric Analytics", KDD 2018, arXiv:1803.06336).

A text is stored as a sketch: 512 bits, of which each of its character 3-grams sets one, by a hash with a secret of the
process. Client keys and request ids are stored as keyed digests. Texts and keys can't be recovered from these; with
access to the process's memory, which has the secrets, a guess can be checked.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, TypeVar, get_args

from prometheus_client import Counter, Histogram

from service.experiments.experiment import FrictionRules
from service.http.requests import Outcome
from service.monitoring.metrics import NONE, Metrics, Tally

MAX_SESSIONS = 50_000
MAX_REQUESTS = 20_000
REMEMBER_SECONDS = 900.0  # how long a turn is stored by its request id
MAX_CHARS = 256  # of a text in its sketch: with more, most bits would be set, and all long texts similar
BITS = [1 << number for number in range(512)]  # a look-up is faster than a shift
MOMENTS = ("sessions", "turns", "friction", "turns_squared", "friction_squared", "turns_friction")

Sign = Literal["out_of_scope", "low_confidence", "rephrase", "abandoned"]
Value = TypeVar("Value")


class ArmLabels(NamedTuple):
    """Labels of the metrics of a turn or its feedback: experiment, arm and student; "none" if there is none."""

    experiment: str = NONE
    arm: str = NONE
    model: str = NONE


class Turn(NamedTuple):
    """One text answered in an arm.

    Attributes:
        labels: the experiment and arm that chose the student, and the student.
        rules: of the experiment.
        request_id: identifies the turn for feedback. If several turns have the same id, it is the last.
        client_key: None or empty if the client sent none; then the turn belongs to no session.
        text: as it was sent; not stored.
        confidence: of the best intent, 0 to 1; None without one.
        in_scope: the student's decision; None if it is not calibrated.
        seconds: from the request's arrival to the answer.
    """

    labels: ArmLabels
    rules: FrictionRules
    request_id: str
    client_key: bytes | None
    text: str
    confidence: float | None
    in_scope: bool | None
    seconds: float


class FeedbackResult(NamedTuple):
    """How feedback was counted: for which labels, whether the turn is remembered, and whether it is repeated."""

    labels: ArmLabels
    remembered: bool
    repeated: bool


class Sessions:
    """The sessions and recent turns of one process; counts them in its metrics. Not thread-safe.

    At most `max_sessions` are open and `max_requests` turns remembered for feedback; the oldest are dropped.
    """

    def __init__(
        self,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        *,
        max_sessions: int = MAX_SESSIONS,
        max_requests: int = MAX_REQUESTS,
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._max_sessions = max_sessions
        self._secret = secrets.token_bytes(16)
        self._salt = secrets.token_hex(8)
        self._metrics_of: dict[ArmLabels, tuple[Counter, Histogram]] = {}
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()  # in order of their last turns
        self._answered: _RecentItems[_Turn] = _RecentItems(max_requests)
        self._with_feedback: _RecentItems[bool] = _RecentItems(max_requests)  # requests with feedback

    def __len__(self) -> int:
        """How many sessions are open."""
        return len(self._sessions)

    def count(self, tally: Tally, turn: Turn) -> None:
        """Count a turn, and remember it for feedback."""
        now = self._clock()
        counted = _Turn(turn.labels)
        self._answered.put(self._digest(turn.request_id.encode()), counted, now)
        labels = turn.labels
        metrics = self._metrics_of.get(labels)
        if metrics is None:  # looking up label children costs more than counting
            metrics = self._metrics.turns.labels(*labels), self._metrics.turn_seconds.labels(*labels)
            self._metrics_of[labels] = metrics
        tally.add(metrics[0], 1)
        tally.observe(metrics[1], turn.seconds)
        if turn.client_key:
            self._add_to_session(self._digest(turn.client_key), turn, counted, now)
        if turn.in_scope is False:
            self._record_sign(counted, "out_of_scope")
        elif turn.confidence is not None and turn.confidence < turn.rules.confidence:
            self._record_sign(counted, "low_confidence")

    def record_feedback(self, request_id: str, outcome: Outcome, fallback: ArmLabels) -> FeedbackResult:
        """Count feedback on a request; only the first one counts.

        If this process does not remember the turn, because it was in no arm, in another process, or long ago, the
        feedback counts for `fallback`, and no friction is counted: the turn may have had a sign already.
        """
        self._metrics.flush()  # the turn may still be deferred
        now = self._clock()
        digest = self._digest(request_id.encode())
        turn = self._answered.get(digest, now)
        labels = fallback if turn is None else turn.labels
        repeated = self._with_feedback.get(digest, now) is not None
        self._with_feedback.put(digest, True, now)
        if not repeated:
            self._metrics.feedback.labels(*labels, outcome).inc()
            if turn is not None and outcome == "abandoned":
                self._record_sign(turn, "abandoned")
        return FeedbackResult(labels, turn is not None, repeated)

    def start_series(self, labels: ArmLabels) -> None:
        """Start the series of an arm at zero, so that their first count is seen as an increase."""
        self._metrics.turns.labels(*labels)
        for sign in get_args(Sign):
            self._metrics.friction.labels(*labels, sign)
        for outcome in get_args(Outcome):
            self._metrics.feedback.labels(*labels, outcome)
        for moment in MOMENTS:
            self._metrics.session_moments.labels(labels.experiment, labels.arm, moment)

    def close_idle(self) -> None:
        """Close the sessions that have ended, and forget old turns. Call it regularly."""
        now = self._clock()
        while self._sessions:
            key, session = next(iter(self._sessions.items()))
            if now - session.seen <= session.idle_seconds:
                break
            self._close(key)
        self._answered.forget(now)
        self._with_feedback.forget(now)

    def close_all(self) -> None:
        """Close all sessions, also of deferred turns: the process is about to stop."""
        self._metrics.flush()
        for key in list(self._sessions):
            self._close(key)

    def _add_to_session(self, key: bytes, turn: Turn, counted: _Turn, now: float) -> None:
        """Add a turn to the client's session, or begin a session with it."""
        rules = turn.rules
        sketch = sketch_of(turn.text, self._salt)
        session = self._sessions.get(key)
        if session is not None and session.last is not None:
            silence = now - session.seen
            if silence < rules.rephrase_seconds and similarity(session.sketch, sketch) >= rules.similarity:
                self._record_sign(session.last, "rephrase")
            moved = session.last.labels[:2] != counted.labels[:2]  # after a change of the weights or the experiment
            if moved or silence > rules.session_seconds:
                self._close(key)
                session = None
        if session is None:
            session = _Session()
            if len(self._sessions) >= self._max_sessions:
                self._close(next(iter(self._sessions)))
            self._sessions[key] = session
        self._sessions.move_to_end(key)
        session.turns += 1
        session.seen, session.idle_seconds, session.sketch, session.last = now, rules.session_seconds, sketch, counted
        counted.session = session

    def _record_sign(self, turn: _Turn, sign: Sign) -> None:
        """Count friction, unless the turn had a sign before."""
        if turn.has_sign:
            return
        turn.has_sign = True
        self._metrics.friction.labels(*turn.labels, sign).inc()
        if turn.session is None:
            return
        turns, before = turn.session.turns, turn.session.friction
        turn.session.friction += 1
        if turn.session.last is None:  # closed: correct the sums, which lack this sign
            self._add(turn.labels, (0, 0, 1, 0, 2 * before + 1, turns))

    def _close(self, key: bytes) -> None:
        session = self._sessions.pop(key)
        t, f = session.turns, session.friction
        if session.last is not None:
            self._add(session.last.labels, (1, t, f, t * t, f * f, t * f))
            session.last = None

    def _add(self, labels: ArmLabels, amounts: tuple[int, ...]) -> None:
        for moment, amount in zip(MOMENTS, amounts, strict=True):
            self._metrics.session_moments.labels(labels.experiment, labels.arm, moment).inc(amount)

    def _digest(self, name: bytes) -> bytes:
        return hashlib.blake2b(name, digest_size=16, key=self._secret).digest()


@dataclass(slots=True, eq=False)
class _Turn:
    """The stored part of a turn: its labels, its session, and whether it had a sign."""

    labels: ArmLabels
    session: _Session | None = None
    has_sign: bool = False


@dataclass(slots=True, eq=False)
class _Session:
    """The turns of one client in one arm, without long pauses. Closed once `last` is None.

    Its turns refer to it, for late feedback. It refers to the last one only while it is open, so that no reference
    cycle is left for the garbage collector.
    """

    turns: int = 0
    friction: int = 0
    seen: float = 0.0
    idle_seconds: float = 0.0
    sketch: int = 0
    last: _Turn | None = None


class _RecentItems(Generic[Value]):
    """The last items by digest, none older than `REMEMBER_SECONDS`."""

    def __init__(self, max_items: int) -> None:
        self._max_items = max_items
        self._entries: OrderedDict[bytes, tuple[float, Value]] = OrderedDict()

    def put(self, key: bytes, value: Value, now: float) -> None:
        self._entries[key] = now, value
        self._entries.move_to_end(key)
        if len(self._entries) > self._max_items:
            self._entries.popitem(last=False)

    def get(self, key: bytes, now: float) -> Value | None:
        self.forget(now)
        entry = self._entries.get(key)
        return entry[1] if entry else None

    def forget(self, now: float) -> None:
        while self._entries and now - next(iter(self._entries.values()))[0] > REMEMBER_SECONDS:
            self._entries.popitem(last=False)


def grams_of(text: str) -> Iterator[str]:
    """The character 3-grams of a text, case-folded, with white space normalised and a space before and after it."""
    spaced = f" {' '.join(text[:MAX_CHARS].casefold().split())} "
    return map("".join, zip(spaced, spaced[1:], spaced[2:], strict=False))


def sketch_of(text: str, salt: str) -> int:
    """A text as 512 bits, of which each of its 3-grams sets one. Sketches with equal salts in one process compare."""
    sketch = 0
    for gram in grams_of(text):
        sketch |= BITS[hash(salt + gram) % len(BITS)]
    return sketch


def similarity(one: int, other: int) -> float:
    """Jaccard similarity of two sketches: common bits over all bits, 0 to 1; 0 if no bit is set."""
    either = (one | other).bit_count()
    return (one & other).bit_count() / either if either else 0.0
