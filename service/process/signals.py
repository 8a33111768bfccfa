"""What the signals do to the processes of the service. Imports nothing heavy: it is needed before the settings."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
RELOAD = signal.SIGHUP
IGNORED = (signal.SIGUSR1, signal.SIGUSR2)


def on_stop(handler: Callable[..., Any] | signal.Handlers) -> None:
    """Handle the signals to stop, until the event loop does."""
    for number in STOP:
        signal.signal(number, handler)


def ignore_others() -> None:
    """Ignore the other signals, which would end the process; that to reload until the event loop handles it."""
    for number in (RELOAD, *IGNORED):
        signal.signal(number, signal.SIG_IGN)
