"""Deadlines, in virtual time: what ``asyncio.timeout`` says of cancellation holds of them, and one timer is for all."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

from mongosession.deadline import Deadlines

from . import virtual

Ways = Callable[[float], Callable[[Awaitable[object]], Coroutine[Any, Any, None]]]


def ours(seconds: float) -> Callable[[Awaitable[object]], Coroutine[Any, Any, None]]:
    """Wait for something with a deadline of ours."""
    deadlines = Deadlines(seconds)

    async def within(work: Awaitable[object]) -> None:
        with deadlines.next():
            await work

    return within


def theirs(seconds: float) -> Callable[[Awaitable[object]], Coroutine[Any, Any, None]]:
    """The same with asyncio's."""

    async def within(work: Awaitable[object]) -> None:
        async with asyncio.timeout(seconds):
            await work

    return within


async def shielded(seconds: float) -> None:
    """Takes so long, and a cancellation makes no difference."""
    end = asyncio.get_running_loop().time() + seconds
    while (left := end - asyncio.get_running_loop().time()) > 0:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(left)


async def failing(seconds: float) -> None:
    """Fails once it is cancelled."""
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        raise LookupError from None


async def outcome(task: "asyncio.Task[None]") -> tuple[str, float, int]:
    """How it ended, when, and how many cancellations are left."""
    await asyncio.wait({task})
    error = asyncio.CancelledError() if task.cancelled() else task.exception()
    return type(error).__name__, round(asyncio.get_running_loop().time(), 6), task.cancelling()


def history(way: Ways, seed: int) -> list[tuple[str, float, int]]:
    """Many calls of one length of deadline, some of them slow, some cancelled from outside, some nested in others."""
    chance = random.Random(seed)

    async def scenario(_clock: object) -> list[tuple[str, float, int]]:
        within, outer = way(5.0), way(7.0)
        tasks: list[asyncio.Task[None]] = []
        for _ in range(100):
            await asyncio.sleep(chance.choice([0, 0, 0.5, 1.25]))
            takes = chance.choice([0, 1, 4.75, 5.5, 9.25])
            works: list[Callable[[float], Awaitable[object]]] = [asyncio.sleep, shielded, failing]
            work = within(chance.choice(works)(takes))
            if chance.random() < 0.3:
                work = outer(work)
            tasks.append(asyncio.create_task(work))
            if chance.random() < 0.3:
                asyncio.get_running_loop().call_later(chance.choice([0, 2.125, 5.125]), tasks[-1].cancel)
        return [await outcome(task) for task in tasks]

    return virtual.run(scenario)


@pytest.mark.parametrize("seed", range(20))
def test_all_ends_as_with_the_timeouts_of_asyncio(seed: int) -> None:
    found = history(ours, seed)
    assert found == history(theirs, seed)
    assert {"NoneType", "TimeoutError", "CancelledError", "LookupError"} == {name for name, _, _ in found}


def test_what_ends_in_time_costs_no_timer_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[float] = []

    async def scenario(clock: Callable[[], float]) -> None:
        loop, deadlines = asyncio.get_running_loop(), Deadlines(5)
        call_at = loop.call_at

        def counted(when: float, *arguments: Any, **how: Any) -> asyncio.TimerHandle:
            timers.append(when)
            return call_at(when, *arguments, **how)

        for _ in range(1000):
            monkeypatch.setattr(loop, "call_at", counted)
            with deadlines.next():
                monkeypatch.undo()
                await asyncio.sleep(0.01)
        assert clock() == pytest.approx(virtual.START + 10)

    virtual.run(scenario)
    assert len(timers) <= 3  # it lasts 10 s


def test_the_timer_goes_once_nothing_is_under_way() -> None:
    async def scenario(_clock: object) -> None:
        with Deadlines(5).next():
            await asyncio.sleep(1)
        await asyncio.sleep(10)
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="no timer is set"):
        virtual.run(scenario)


def test_each_event_loop_has_its_own() -> None:
    deadlines = Deadlines(5)

    async def scenario(_clock: object) -> str:
        with pytest.raises(TimeoutError), deadlines.next():
            await asyncio.sleep(9)
        with deadlines.next():
            await asyncio.sleep(1)
        return "ended"

    assert [virtual.run(scenario) for _ in range(3)] == ["ended"] * 3


def test_it_takes_a_task() -> None:
    with asyncio.Runner() as runner:
        failures: list[BaseException] = []

        def outside() -> None:
            with pytest.raises(RuntimeError, match="a deadline is for a task"):
                Deadlines(5).next()
            failures.clear()

        runner.get_loop().call_soon(outside)
        failures.append(AssertionError())
        runner.run(asyncio.sleep(0))
        assert failures == []
