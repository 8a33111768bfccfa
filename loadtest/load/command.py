"""Exit codes and error handling of all load test commands."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec

from service.extras import MissingExtra

FAILED = 1  # a check failed
CANNOT_TEST = 2  # the test or measurement did not take place
INTERRUPTED = 130

P = ParamSpec("P")


class LoadTestError(Exception):
    """A test or measurement is not possible; the message is one sentence."""


def command(*errors: type[Exception]) -> Callable[[Callable[P, int]], Callable[P, int]]:
    """Decorate a command: print a `LoadTestError` or one of `errors`, and return `CANNOT_TEST`."""
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
