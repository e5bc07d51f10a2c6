"""``asyncio.timeout`` for many calls that may all take equally long, in a fifth of its steps: one timer is for all of
them, so that a call which ends in time, as all but a few do, costs no timer of its own."""

import asyncio
from types import TracebackType


class Deadlines:
    """Deadlines of one length. ``with deadlines.next(): await ...`` raises ``TimeoutError`` where that takes longer.

    For one event loop, as a database client is; one after the other are no harm. (Where several take turns, the timers
    of each stay until they are due.)

    Args:
        seconds: how long.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._watch: _Watch | None = None

    def next(self) -> "_Deadline":
        """One that begins now; for the task that asks.

        Raises:
            RuntimeError: no task asks.
        """
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline is for a task, and there is none")
        loop = task.get_loop()
        watch = self._watch
        if watch is None or watch.loop is not loop:
            watch = self._watch = _Watch(loop)  # what began on another loop is watched there
        return _Deadline(watch, task, loop.time() + self._seconds)


class _Watch:
    """The deadlines on one loop that have not come yet, the next one first."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.waiting: dict[_Deadline, None] = {}
        self.armed = False

    def look(self) -> None:
        """Cancel those whose time has come; and look again when that of the next one has."""
        now = self.loop.time()
        while self.waiting:
            first = next(iter(self.waiting))
            if first.when > now:
                break
            del self.waiting[first]
            first.task.cancel()
        self.armed = bool(self.waiting)
        if self.armed:
            self.loop.call_at(next(iter(self.waiting)).when, self.look)


class _Deadline:
    """One deadline; what ``asyncio.Timeout`` says of cancellation holds of it."""

    __slots__ = ("_cancelling", "_watch", "task", "when")

    def __init__(self, watch: _Watch, task: "asyncio.Task[object]", when: float) -> None:
        self._watch = watch
        self.task = task
        self.when = when

    def __enter__(self) -> None:
        self._cancelling = self.task.cancelling()
        watch = self._watch
        watch.waiting[self] = None
        if not watch.armed:
            watch.armed = True
            watch.loop.call_at(self.when, watch.look)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self in self._watch.waiting:
            del self._watch.waiting[self]
        elif self.task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error
