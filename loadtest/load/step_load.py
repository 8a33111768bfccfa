r"""Step load for locust: users and rate grow in equal steps, and each step is reported separately.

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
    """Steps of equal duration; the test ends after the last one."""

    use_common_options = True  # else locust ignores --users

    def tick(self) -> tuple[int, float] | None:
        """The number of users now, and the spawn rate (all at once); None at the end."""
        assert self.runner is not None  # locust sets both before the first call
        assert self.runner.environment.parsed_options is not None
        options = self.runner.environment.parsed_options
        users = options.num_users or options.steps
        step = int(self.get_run_time() / options.step_seconds) + 1
        return (math.ceil(users * step / options.steps), users) if step <= options.steps else None


@events.init_command_line_parser.add_listener
def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--steps", type=positive_int, default=4, metavar="STEPS", help="steps (default: 4)")
    about = "duration of each step, in seconds (default: 30)"
    parser.add_argument("--step-seconds", type=positive, default=30.0, metavar="SECONDS", help=about)
