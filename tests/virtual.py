"""Virtual time: an event loop that leaps to the next timer as soon as nothing else is to be done.

Slow handlers and slow networks cost no time then, deadlines are exact, and two runs of one seed are alike.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

START = 4_000_000_000.0
"""When every run begins, seconds since 1970."""


class _Leap(selectors.SelectSelector):
    """Waits for nothing: time passes instead."""

    now = 0.0  # the loop adds nanoseconds to it: they have to count

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("every task waits, and no timer is set: this would hang for ever")
        self.now += max(timeout, 0)
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._leap = _Leap()
        super().__init__(self._leap)

    def time(self) -> float:
        return self._leap.now


def run(scenario: Callable[[Callable[[], float]], Coroutine[Any, Any, Result]]) -> Result:
    """Run `scenario(clock)` in virtual time, where `clock()` gives the seconds since 1970."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        loop = runner.get_loop()
        return runner.run(scenario(lambda: START + loop.time()))
