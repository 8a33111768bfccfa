"""Experiments: A/B splits and shadows, as an experiment file describes them.

The file is TOML, and read again when it changes, so weights change without a restart::

    name = "xs-for-s"             # another name assigns clients anew
    [arms.control]
    model = "s"
    weight = 90
    [arms.candidate]
    model = "xs"
    weight = 10
    [shadow]                      # optional: a second student, whose answers are compared but not sent
    model = "m"
    share = 0.1                   # of the texts answered, 0 to 1
    [friction]                    # optional: what counts as a sign of dissatisfaction; these are the defaults
    rephrase_seconds = 30         # a similar text of the session within this time is a rephrase
    similarity = 0.5              # minimum similarity of two texts (`friction.similarity`) for that
    confidence = 0.3              # an intent with a lower confidence is a sign
    session_seconds = 300         # a session ends after this time without a text

A client stays in its arm: the arm is a pure function of the experiment's name, its weights and the client's key. It is
the same in each process and after a restart, and nothing is stored.
"""

from __future__ import annotations

import hashlib
import time
import tomllib
from bisect import bisect_right
from collections.abc import Callable
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from service.monitoring.metrics import NONE
from service.watched_file import WatchedFile

MAX_BYTES = 1 << 14
MAX_LINE_LENGTH = 256  # in code points: the time to parse a key grows with the square of the number of its parts
MAX_WEIGHT = 1e6
MAX_SECONDS = 86_400
BITS = 53  # of a digest that make a number in [0, 1); a float represents that many exactly


class ExperimentError(ValueError):
    """An invalid experiment file; the message is one sentence that names file, field and what is allowed."""


def _allowed(what: str) -> WrapValidator:
    """Report what is allowed, instead of pydantic's message."""

    def check(value: Any, fits: ValidatorFunctionWrapHandler) -> Any:
        try:
            return fits(value)
        except ValidationError:
            raise ValueError(f"should be {what}") from None

    return WrapValidator(check)


def _between(low: float, high: float) -> tuple[Any, WrapValidator]:
    return Field(ge=low, le=high, allow_inf_nan=False), _allowed(f"a number from {low:g} to {high:.10g}")


Name = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"),
    _allowed("1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit"),
]
Weight = Annotated[float, *_between(0, MAX_WEIGHT)]
Share = Annotated[float, *_between(0, 1)]
Seconds = Annotated[float, *_between(1, MAX_SECONDS)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Arm(_Strict):
    """An arm of an experiment: the student that answers, and its weight relative to the other arms."""

    model: Name
    weight: Weight


class Shadow(_Strict):
    """A student that also answers a share of the texts, without replying to clients."""

    model: Name
    share: Share


class FrictionRules(_Strict):
    """What counts as a sign of dissatisfaction."""

    rephrase_seconds: Seconds = 30.0
    similarity: Share = 0.5
    confidence: Share = 0.3
    session_seconds: Seconds = 300.0


class Experiment(_Strict):
    """An experiment: arms, a shadow, or both."""

    name: Name = "experiment"
    arms: dict[Name, Arm] = {}
    shadow: Shadow | None = None
    friction: FrictionRules = FrictionRules()

    @model_validator(mode="after")
    def _check_arms(self) -> Self:
        if not self.arms and self.shadow is None:
            raise ValueError("has neither arms nor a shadow; it should have a table [arms.NAME], [shadow], or both")
        if NONE in self.arms or self.name == NONE:
            raise ValueError(
                f"an experiment or arm should not be named {NONE!r}: it is the label of requests in no arm"
            )
        if self.arms and not any(arm.weight for arm in self.arms.values()):
            raise ValueError("arms: the weights are all 0; one of them should be above 0")
        return self

    def arm_of(self, key: bytes) -> str | None:
        """The name of the arm of a client, None without arms. Never raises, and takes about a microsecond.

        The digest of experiment and key is a number in [0, 1). The arms divide this interval in the order of the file,
        in proportion to their weights. So when weight moves from one arm to the next, only clients between the old and
        the new border change arms. An arm of weight 0 gets no clients. For `key` see `split_key`.
        """
        if not self.arms:
            return None
        salt, names, borders = self._split
        digest = hashlib.blake2b(salt + key, digest_size=8).digest()
        place = (int.from_bytes(digest) >> (64 - BITS)) / (1 << BITS)
        return names[bisect_right(borders, place)]

    @cached_property
    def _split(self) -> tuple[bytes, list[str], list[float]]:
        """The digests' prefix, the names of the arms, and the upper border of each but the last."""
        ends = list(accumulate(arm.weight for arm in self.arms.values()))
        return self.name.encode() + b"\0", list(self.arms), [end / ends[-1] for end in ends[:-1]]


NO_EXPERIMENT = Experiment.model_construct()  # neither arms nor a shadow, which is invalid in a file


def split_key(client_key: bytes | None, request_id: str) -> bytes:
    """The key that determines the arm: the client's, or the request id if that is missing or empty."""
    return client_key or request_id.encode()


class ExperimentFile(WatchedFile[Experiment]):
    """The experiment of a file. If `patient`, it is `NO_EXPERIMENT` until the file is valid.

    Raises:
        ExperimentError: the file is invalid, and `patient` is not set.
    """

    kind = "experiment file"
    error = ExperimentError
    kept = "the experiment continues unchanged"
    max_bytes = MAX_BYTES

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic, *, patient: bool = False) -> None:
        super().__init__(path, clock, meanwhile=NO_EXPERIMENT if patient else None)

    @staticmethod
    def parse(text: str, named: str) -> Experiment:
        """The experiment that a text describes."""
        for number, line in enumerate(text.split("\n"), start=1):
            if len(line) > MAX_LINE_LENGTH:
                raise ExperimentError(f"{named}, line {number}: a line may have at most {MAX_LINE_LENGTH} characters")
        try:
            return Experiment.model_validate(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise ExperimentError(f"{named} is not TOML: {' '.join(str(error).split())}") from None
        except RecursionError:
            raise ExperimentError(f"{named} is nested too deeply") from None
        except ValidationError as error:
            raise ExperimentError(f"{named}{_problem(error)}") from None

    @staticmethod
    def summary(content: Experiment) -> str:
        """Arms and shadow in a line."""
        arms = ", ".join(f"{name} {arm.model} {arm.weight:g}" for name, arm in content.arms.items()) or "none"
        shadow = f"{content.shadow.model} {content.shadow.share:g}" if content.shadow else "none"
        return f"experiment {content.name}, arms: {arms}; shadow: {shadow}"


def _problem(error: ValidationError) -> str:
    """The first problem, to follow the name of the file."""
    first = error.errors(include_url=False)[0]
    place = [part for part in first["loc"] if part != "[key]"]
    where = ".".join(part if isinstance(part, str) and part.isprintable() else repr(part) for part in place)
    if first["type"] == "extra_forbidden":
        *parents, _ = place
        return f": {where} is unknown; allowed are {', '.join(_fields_at(parents))}"
    if first["type"] == "missing":
        return f": {where} is missing"
    if first["type"] in ("model_type", "dict_type"):
        return f": {where} should be a table"
    message = str(first["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    return f": {where}{' ' if message.startswith('should') else ': '}{message}" if where else f": {message}"


def _fields_at(parents: list[Any]) -> list[str]:
    tables: dict[str, type[BaseModel]] = {"arms": Arm, "shadow": Shadow, "friction": FrictionRules}
    return list((tables[parents[0]] if parents else Experiment).model_fields)
