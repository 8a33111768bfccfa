"""Simulated users: what they say, how they take the answers, and what they do about it. Sends nothing itself."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from loadtest.load.command import LoadTestError
from loadtest.load.texts import Text
from service.experiments.friction import grams_of

ALIKE = 0.6  # Jaccard similarity of 3-grams from which on a text is the other in other words; well above the service's
UNLIKE = 0.3  # and below which it is about something else
CONCENTRATION = 4.0  # of the beta distribution of users' chances; lower, and they differ more
GIVES_UP = 0.3  # of those not satisfied; the others try again
MAX_TRIES = 1000
POLITE = {"de": "bitte", "en": "please", "es": "por favor", "fr": "s'il te plaît", "it": "per favore"}


class PopulationError(LoadTestError):
    """The users can't be simulated; the message is one sentence."""


class Ask(NamedTuple):
    """A user says something; `again` if it is the text before in other words."""

    text: Text
    again: bool


class GiveUp(NamedTuple):
    """A user gives up on the last turn, and the client tells."""


Step = Ask | GiveUp


class Population:
    """Users, each of whom speaks one language and has a session of some turns. The same seed makes the same users.

    Usage::

        session = population.session(7)
        step = next(session)
        step = session.send(arm)  # of the answer to an `Ask`; None after a `GiveUp`

    Args:
        texts: what users say.
        friction: for each arm, the mean chance that an answer of it does not satisfy, 0 to 1.
        turns: mean of a session, geometric.
        seed: of everything random.
    """

    def __init__(self, texts: Sequence[Text], friction: Mapping[str, float], *, turns: float, seed: int) -> None:
        self._by_locale: defaultdict[str, list[str]] = defaultdict(list)
        for text in texts:
            self._by_locale[text.locale].append(text.text)
        self._friction = friction
        self._turns = turns
        self._seed = seed

    def key(self, number: int) -> str:
        """The key by which the service knows a user."""
        return f"user-{self._seed}-{number}"

    def session(self, number: int) -> Generator[Step, str | None, None]:
        """What a user does, step by step; to be sent the arm of each answer. None is an answer of no arm: it satisfies.

        Raises:
            PopulationError: an arm has no chance, or texts are too much alike to be told from each other.
        """
        dice = random.Random(f"{self._seed}/{number}")
        locale = dice.choice(sorted(self._by_locale))
        chances: dict[str | None, float] = {}
        text, again = self._other_goal(dice, locale, ""), False
        for left in reversed(range(self._length(dice))):
            arm = yield Ask(Text(text, locale), again)
            if arm not in chances:
                chances[arm] = self._chance(dice, arm)
            is_satisfied = dice.random() >= chances[arm]
            again = not is_satisfied and left > 0 and dice.random() >= GIVES_UP
            if not is_satisfied and not again:
                yield GiveUp()
            text = rewrite(dice, text, locale) if again else self._other_goal(dice, locale, text)

    def _length(self, dice: random.Random) -> int:
        if self._turns <= 1:
            return 1
        return 1 + int(math.log(1 - dice.random()) / math.log(1 - 1 / self._turns))

    def _chance(self, dice: random.Random, arm: str | None) -> float:
        if arm is None:
            return 0.0
        mean = self._friction.get(arm)
        if mean is None:
            raise PopulationError(f"arm {arm!r} answered, for which --friction gives no chance")
        if mean in (0, 1):
            return mean
        return dice.betavariate(mean * CONCENTRATION, (1 - mean) * CONCENTRATION)

    def _other_goal(self, dice: random.Random, locale: str, text: str) -> str:
        for _ in range(MAX_TRIES):
            other = dice.choice(self._by_locale[locale])
            if likeness(text, other) < UNLIKE:
                return other
        raise PopulationError(
            f"the texts in {locale} are too much alike for users who want something else; name others"
        )


def rewrite(dice: random.Random, text: str, locale: str) -> str:
    """A text in slightly other words: one more, one less, or two swapped. The same where that would change it much."""
    words = text.split()
    polite = POLITE.get(locale.partition("-")[0], "")
    ways: list[list[str]] = []
    if polite and polite not in text:
        place = dice.randint(0, len(words))
        ways.append([*words[:place], polite, *words[place:]])
    if len(words) > 2:
        place = dice.randrange(len(words))
        ways.append(words[:place] + words[place + 1 :])
    if len(words) > 1:
        place = dice.randrange(len(words) - 1)
        ways.append([*words[:place], words[place + 1], words[place], *words[place + 2 :]])
    dice.shuffle(ways)
    found = (" ".join(way) for way in ways)
    return next((other for other in found if other != text and likeness(other, text) >= ALIKE), text)


def likeness(one: str, other: str) -> float:
    """Jaccard similarity of the 3-grams of two texts, which the service's sketches estimate; 0 to 1."""
    grams, others = set(grams_of(one)), set(grams_of(other))
    either = len(grams | others)
    return len(grams & others) / either if either else 0.0


class ReplyError(Exception):
    """A reply that is not as it should be; says what is wrong, without a text."""


class ArmAnswer(NamedTuple):
    """What a client knows of an answer: the arm that gave it, None if none did, and the request's id."""

    arm: str | None
    request_id: str


class Service(Protocol):
    """The service that users ask. Both methods raise `ReplyError`."""

    def ask(self, key: str, text: Text) -> ArmAnswer:
        """The answer to a user's text."""

    def give_up(self, key: str, answer: ArmAnswer) -> None:
        """Tell that a user gave up on an answer."""


@dataclass
class Played:
    """What users did: sessions, turns, turns said again and given up, by arm; and replies that were not valid."""

    sessions: Counter[str] = field(default_factory=Counter)
    turns: Counter[str] = field(default_factory=Counter)
    said_again: Counter[str] = field(default_factory=Counter)
    gave_up: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    def add(self, other: Played) -> None:
        """Add what other users did."""
        for name, counts in vars(self).items():
            counts.update(getattr(other, name))

    def figures(self) -> dict[str, Any]:
        """What was done, for JSON. Friction, in points of 100, is what users felt; the service may see it otherwise."""
        arms = {
            arm: {
                "sessions": self.sessions[arm],
                "turns": turns,
                "said_again": self.said_again[arm],
                "gave_up": self.gave_up[arm],
                "friction_points": round(100 * (self.said_again[arm] + self.gave_up[arm]) / turns, 4),
            }
            for arm, turns in sorted(self.turns.items())
        }
        return {"arms": arms, "failures": self.failures.total(), "failure_reasons": dict(self.failures.most_common())}


def play_session(population: Population, number: int, service: Service, played: Played) -> None:
    """Let a user have a session with a service, and note what happened. A reply that is not valid ends it."""
    key, session = population.key(number), population.session(number)
    answer, met = ArmAnswer(None, ""), set[str]()
    try:
        step = next(session)
        while True:
            if isinstance(step, GiveUp):
                service.give_up(key, answer)
                played.gave_up.update([answer.arm] if answer.arm else [])
                step = session.send(None)
                continue
            before, answer = answer, service.ask(key, step.text)
            played.said_again.update([before.arm] if step.again and before.arm else [])
            played.turns.update([answer.arm] if answer.arm else [])
            met.update([answer.arm] if answer.arm else [])
            step = session.send(answer.arm)
    except StopIteration:
        pass
    except ReplyError as problem:
        played.failures[str(problem)] += 1
    played.sessions.update(met)
