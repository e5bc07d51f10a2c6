"""One background event loop per process, on which everything asynchronous of the sessions runs.

It starts on first use, in the process that uses it: servers that fork their workers after loading the application are
safe, even where the application has used its sessions before. It stops when the process exits, once the engines are
drained.
"""

import atexit
import inspect
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from typing import TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from mongosession import StoreUnavailable

T = TypeVar("T")

TIMEOUT = 15.0
"""Seconds that a crossing into the loop may take: above the store's own deadline, so that that one speaks first."""


class Loop:
    """The event loop of one process, on a thread of its own."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._portal: BlockingPortal | None = None
        self._thread: threading.Thread | None = None
        self._closers: list[tuple[Callable[[], Awaitable[None]], float]] = []
        self._stopped = False

    def run(self, work: Callable[[], Awaitable[T]], timeout: float = TIMEOUT) -> T:
        """Run a coroutine function on the loop and wait for what it returns.

        Args:
            work: called on the loop.
            timeout: seconds, after which it is cancelled.

        Raises:
            StoreUnavailable: it did not end in time, or the process is shutting down.
            RuntimeError: this is the loop's own thread, which must not wait for itself.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("this code runs on the sessions' event loop, which cannot wait for itself")
        future = self._start(timeout).start_task_soon(work)
        try:
            return future.result(timeout)
        except TimeoutError:
            if not future.cancel():  # it has ended: at this very moment, or with a TimeoutError of its own
                return future.result()
            raise StoreUnavailable(f"the session's work did not end within {timeout} s") from None
        except CancelledError:
            raise StoreUnavailable("the process is shutting down") from None

    def at_exit(self, close: Callable[[], Awaitable[None]], timeout: float = TIMEOUT) -> None:
        """Run a coroutine function before the loop stops, for so many seconds at most."""
        self._closers.append((close, timeout))

    def _start(self, timeout: float) -> BlockingPortal:
        with self._lock:
            if self._stopped:
                raise StoreUnavailable("the process is shutting down")
            if self._portal is None:
                started: Future[BlockingPortal] = Future()
                # Not `start_blocking_portal`: a child process that frees that generator waits for its parent's loop.
                self._thread = threading.Thread(target=_serve, args=(started,), name="mongosession", daemon=True)
                self._thread.start()
                try:
                    self._portal = started.result(timeout)
                except TimeoutError:
                    raise StoreUnavailable("no thread runs beside the request's: does the server allow any?") from None
                atexit.register(self._stop)
            return self._portal

    def _stop(self) -> None:
        if self._pid != os.getpid() or self._portal is None or self._thread is None:
            return  # registered by the parent
        for close, timeout in self._closers:
            try:
                self.run(close, timeout)
            except StoreUnavailable as error:
                logging.getLogger("mongosession").warning("writes under way were not waited for: %s", error)
        with self._lock:
            self._stopped = True
        self._portal.start_task_soon(self._portal.stop, True)
        self._thread.join(TIMEOUT)


def _serve(started: "Future[BlockingPortal]") -> None:
    async def main() -> None:
        async with BlockingPortal() as portal:
            started.set_result(portal)
            await portal.sleep_until_stopped()

    anyio.run(main)


# By process id. A child begins anew, and never frees what it has of its parent: that would close the parent's
# connections under its feet.
_LOOPS: dict[int, Loop] = {}


def here() -> Loop:
    """The loop of this process; every thread gets the same."""
    return _LOOPS.get(os.getpid()) or _LOOPS.setdefault(os.getpid(), Loop())


def wait(awaitable: Awaitable[T], timeout: float = TIMEOUT) -> T:
    """Wait for an asynchronous call of a session or an engine: ``wait(session.save())``.

    Args:
        awaitable: runs on the sessions' event loop.
        timeout: seconds, default 15.

    Raises:
        StoreUnavailable: it did not end in time, or the process is shutting down.
        RuntimeError: called on the event loop itself, by ``make_engine`` or ``on_event``: it cannot wait for itself.
    """

    async def work() -> T:
        return await awaitable

    try:
        return here().run(work, timeout)
    finally:
        if inspect.iscoroutine(awaitable) and inspect.getcoroutinestate(awaitable) == inspect.CORO_CREATED:
            awaitable.close()  # it was not begun, and the error says so: Python need not warn of it
