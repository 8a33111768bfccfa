"""Work in threads that may hang in the system, such as reading from a network file system that does not answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

Result = TypeVar("Result")


def start_daemon_thread(function: Callable[[], Result], name: str) -> tuple[threading.Thread, asyncio.Future[Result]]:
    """Run a function in a thread of its own. The future gets what it returns or raises.

    A thread can't be stopped. As a daemon it does not keep the process from exiting; `asyncio.to_thread` would.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result, error: BaseException | None) -> None:
        if done.done():  # given up
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)

    def work() -> None:
        result: Result = None  # type: ignore[assignment]  # overwritten, or not used
        error = None
        try:
            result = function()
        except BaseException as raised:  # noqa: BLE001 - raised where it is awaited
            error = raised
        with suppress(RuntimeError):  # the event loop was closed
            loop.call_soon_threadsafe(settle, result, error)

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread, done
