"""One background event loop per process, on which everything asynchronous of the sessions runs.

It starts on first use, in the process that uses it: servers that fork their workers after loading the application are
safe. It stops when the process exits, once the engines are drained.
"""

import atexit
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager
from typing import TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from mongosession import StoreUnavailable

T = TypeVar("T")

TIMEOUT = 15.0
"""Seconds that a crossing into the loop may take: above the store's own deadline, so that that one speaks first."""


class Loop:
    """The event loop of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = 0
        self._portal: BlockingPortal | None = None
        self._running: AbstractContextManager[BlockingPortal] | None = None
        self._at_exit: list[Callable[[], Awaitable[None]]] = []

    def run(self, work: Callable[[], Awaitable[T]], timeout: float = TIMEOUT) -> T:
        """Run a coroutine function on the loop and wait for what it returns.

        Args:
            work: called on the loop.
            timeout: seconds, after which it is cancelled.

        Raises:
            StoreUnavailable: it did not end in time.
        """
        future = self._start().start_task_soon(work)
        try:
            return future.result(timeout)
        except TimeoutError:
            future.cancel()
            raise StoreUnavailable(f"the session's work did not end within {timeout} s") from None
        except CancelledError:
            raise StoreUnavailable("the process is shutting down") from None

    def at_exit(self, close: Callable[[], Awaitable[None]]) -> None:
        """Run a coroutine function before the loop stops."""
        self._at_exit.append(close)

    def _start(self) -> BlockingPortal:
        with self._lock:
            if self._portal is None or self._pid != os.getpid():  # after a fork the parent's thread is not here
                self._running = start_blocking_portal("asyncio")
                self._portal = self._running.__enter__()
                self._pid = os.getpid()
                self._at_exit.clear()
                atexit.register(self._stop, self._pid)
            return self._portal

    def _stop(self, pid: int) -> None:
        if pid != os.getpid() or self._running is None:
            return
        for close in self._at_exit:
            self.run(close)
        self._running.__exit__(None, None, None)
        self._running = self._portal = None


LOOP = Loop()


def wait(awaitable: Awaitable[T], timeout: float = TIMEOUT) -> T:
    """Wait for an asynchronous call of a session or an engine: ``wait(session.save())``.

    Args:
        awaitable: runs on the sessions' event loop.
        timeout: seconds, default 15.

    Raises:
        StoreUnavailable: it did not end in time.
    """

    async def work() -> T:
        return await awaitable

    return LOOP.run(work, timeout)
