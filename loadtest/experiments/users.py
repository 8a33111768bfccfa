"""Simulated users: what they ask, and how they react to answers. Does no input or output itself."""

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

MIN_REPHRASED = 0.6  # trigram similarity of a rephrase and the text before; well above the service's threshold
MAX_OTHER = 0.3  # trigram similarity of texts about something else
CONCENTRATION = 4.0  # of the beta distribution of users' probabilities; a lower one makes users differ more
GIVE_UP_SHARE = 0.3  # of dissatisfied users; the others rephrase
MAX_TRIES = 1000
POLITE = {"de": "bitte", "en": "please", "es": "por favor", "fr": "s'il te plaît", "it": "per favore"}


class PopulationError(LoadTestError):
    """The users can't be simulated; the message is one sentence."""


class Ask(NamedTuple):
    """A user sends a text; `again` if it rephrases the previous one."""

    text: Text
    again: bool


class GiveUp(NamedTuple):
    """A user gives up on the last turn, and the client reports it."""


Step = Ask | GiveUp


class Population:
    """Users, each with one locale and one session of several turns. The same seed makes the same users.

    Usage::

        session = population.session(7)
        step = next(session)
        step = session.send(arm)  # of the answer to an `Ask`; None after a `GiveUp`

    Args:
        texts: requests to choose from.
        friction: by arm, the mean probability that its answer dissatisfies, 0 to 1.
        turns: mean number of turns of a session (geometric distribution).
        seed: random seed.
    """

    def __init__(self, texts: Sequence[Text], friction: Mapping[str, float], *, turns: float, seed: int) -> None:
        self._by_locale: defaultdict[str, list[str]] = defaultdict(list)
        for text in texts:
            self._by_locale[text.locale].append(text.text)
        self._friction = friction
        self._turns = turns
        self._seed = seed

    def key(self, number: int) -> str:
        """The client key of a user."""
        return f"user-{self._seed}-{number}"

    def session(self, number: int) -> Generator[Step, str | None, None]:
        """The steps of a user. Expects the arm of each answer; an answer without arm (None) always satisfies.

        Raises:
            PopulationError: an arm has no probability, or the texts are too similar to each other.
        """
        rng = random.Random(f"{self._seed}/{number}")
        locale = rng.choice(sorted(self._by_locale))
        probabilities: dict[str | None, float] = {}
        text, again = self._other_goal(rng, locale, ""), False
        for left in reversed(range(self._length(rng))):
            arm = yield Ask(Text(text, locale), again)
            if arm not in probabilities:
                probabilities[arm] = self._friction_probability(rng, arm)
            is_satisfied = rng.random() >= probabilities[arm]
            again = not is_satisfied and left > 0 and rng.random() >= GIVE_UP_SHARE
            if not is_satisfied and not again:
                yield GiveUp()
            text = rewrite(rng, text, locale) if again else self._other_goal(rng, locale, text)

    def _length(self, rng: random.Random) -> int:
        if self._turns <= 1:
            return 1
        return 1 + int(math.log(1 - rng.random()) / math.log(1 - 1 / self._turns))

    def _friction_probability(self, rng: random.Random, arm: str | None) -> float:
        if arm is None:
            return 0.0
        mean = self._friction.get(arm)
        if mean is None:
            raise PopulationError(f"--friction: no probability for arm {arm!r}, which answered")
        if mean in (0, 1):
            return mean
        return rng.betavariate(mean * CONCENTRATION, (1 - mean) * CONCENTRATION)

    def _other_goal(self, rng: random.Random, locale: str, text: str) -> str:
        for _ in range(MAX_TRIES):
            other = rng.choice(self._by_locale[locale])
            if jaccard(text, other) < MAX_OTHER:
                return other
        raise PopulationError(f"the texts in {locale} are too similar to each other; choose more varied --texts")


def rewrite(rng: random.Random, text: str, locale: str) -> str:
    """Rephrase a text: add, drop or swap a word. Returns the text itself where that would change it too much."""
    words = text.split()
    polite = POLITE.get(locale.partition("-")[0], "")
    ways: list[list[str]] = []
    if polite and polite not in text:
        place = rng.randint(0, len(words))
        ways.append([*words[:place], polite, *words[place:]])
    if len(words) > 2:
        place = rng.randrange(len(words))
        ways.append(words[:place] + words[place + 1 :])
    if len(words) > 1:
        place = rng.randrange(len(words) - 1)
        ways.append([*words[:place], words[place + 1], words[place], *words[place + 2 :]])
    rng.shuffle(ways)
    others = (other for way in ways if (other := " ".join(way)) != text)
    return next((one for one in others if jaccard(one, text) >= MIN_REPHRASED), text)


def jaccard(one: str, other: str) -> float:
    """Jaccard similarity of the character trigrams of two texts, 0 to 1; the service's sketches estimate it."""
    grams, others = set(grams_of(one)), set(grams_of(other))
    either = len(grams | others)
    return len(grams & others) / either if either else 0.0


class ReplyError(Exception):
    """An invalid reply; the message names the problem and holds no text."""


class ArmAnswer(NamedTuple):
    """The arm of an answer, None if it has none, and the request id."""

    arm: str | None
    request_id: str


class Service(Protocol):
    """A service that answers simulated users. Both methods raise `ReplyError`."""

    def ask(self, key: str, text: Text) -> ArmAnswer:
        """Answer a user's text."""

    def give_up(self, key: str, answer: ArmAnswer) -> None:
        """Report that a user gave up on an answer."""


@dataclass
class Simulation:
    """Sessions, turns, rephrased and abandoned turns by arm; and invalid replies by reason."""

    sessions: Counter[str] = field(default_factory=Counter)
    turns: Counter[str] = field(default_factory=Counter)
    said_again: Counter[str] = field(default_factory=Counter)
    gave_up: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    def add(self, other: Simulation) -> None:
        """Add the counts of other users."""
        for name, counts in vars(self).items():
            counts.update(getattr(other, name))

    def figures(self) -> dict[str, Any]:
        """The counts for JSON. Friction is that of the simulated users, in points of 100; the service may differ."""
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


def simulate_session(population: Population, number: int, service: Service, result: Simulation) -> None:
    """Run the session of one user with a service, and add to the result. An invalid reply ends the session."""
    key, session = population.key(number), population.session(number)
    answer, arms = ArmAnswer(None, ""), set[str]()
    try:
        step = next(session)
        while True:
            if isinstance(step, GiveUp):
                service.give_up(key, answer)
                result.gave_up.update([answer.arm] if answer.arm else [])
                step = session.send(None)
                continue
            before, answer = answer, service.ask(key, step.text)
            result.said_again.update([before.arm] if step.again and before.arm else [])
            result.turns.update([answer.arm] if answer.arm else [])
            arms.update([answer.arm] if answer.arm else [])
            step = session.send(answer.arm)
    except StopIteration:
        pass
    except ReplyError as problem:
        result.failures[str(problem)] += 1
    result.sessions.update(arms)
