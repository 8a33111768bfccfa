r"""Step load for locust: users, and with them the rate, grow in equal steps; each is reported by itself.

Usage, beside the locustfile::

    locust -f loadtest/locustfile.py,loadtest/load/step_load.py --host http://127.0.0.1:8000 --headless \
        --users 32 --rate 800 --steps 4 --step-seconds 30

asks for 200, 400, 600 and 800 requests a second, from 8, 16, 24 and 32 users.
"""

# mypy: disable-error-code="no-untyped-call, untyped-decorator"
# (locust's event hooks carry no annotations)

from __future__ import annotations

import math
from argparse import ArgumentParser

from locust import LoadTestShape, events

from loadtest.load.options import positive, positive_int


class StepLoad(LoadTestShape):
    """So many steps of so many seconds each; then the test ends."""

    use_common_options = True  # else locust ignores --users

    def tick(self) -> tuple[int, float] | None:
        """The users of this moment, all of whom come at once; None in the end."""
        assert self.runner is not None  # locust sets both before it asks
        assert self.runner.environment.parsed_options is not None
        options = self.runner.environment.parsed_options
        users = options.num_users or options.steps
        step = int(self.get_run_time() / options.step_seconds) + 1
        return (math.ceil(users * step / options.steps), users) if step <= options.steps else None


@events.init_command_line_parser.add_listener
def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--steps", type=positive_int, default=4, metavar="STEPS", help="steps (default: 4)")
    parser.add_argument("--step-seconds", type=positive, default=30.0, metavar="SECONDS", help="time of each step, in "
                        "seconds (default: 30)")  # fmt: skip
