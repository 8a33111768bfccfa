"""What all commands of the load tests share: exit codes, and errors as one sentence."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec

from service.extras import MissingExtra

FAILED = 1  # something was tested, and a check failed
CANNOT_TEST = 2
INTERRUPTED = 130

P = ParamSpec("P")


class LoadTestError(Exception):
    """Something can't be tested or measured; the message is one sentence for the person who asked for it."""


def command(*errors: type[Exception]) -> Callable[[Callable[P, int]], Callable[P, int]]:
    """Decorate a command: a `LoadTestError`, or one of `errors`, is printed, and the exit code is `CANNOT_TEST`."""
    expected: tuple[type[Exception], ...] = (LoadTestError, MissingExtra, *errors)

    def decorate(main: Callable[P, int]) -> Callable[P, int]:
        @functools.wraps(main)
        def run(*args: P.args, **kwargs: P.kwargs) -> int:
            try:
                return main(*args, **kwargs)
            except expected as error:
                print(f"error: {error}", file=sys.stderr)
                return CANNOT_TEST
            except KeyboardInterrupt:
                return INTERRUPTED

        return run

    return decorate
