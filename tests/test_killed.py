"""A process of the application is killed between any two steps of a request, and another one goes on.

The steps that the rest of the world can see are the calls of the store. So each kind of request is killed just before
each of its calls and just after it; nothing of it is answered. The browser comes back to another process: what it had
stored was written wholly or not at all, and it is logged out by nothing but a log-in or a log-out of its own.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal, NamedTuple

import pytest

from mongosession import DataError, Session
from mongosession.testing import Exchange

from .world import World

Handler = Callable[[Session], Awaitable[None]]
When = Literal["before", "after"]

BEFORE = {"basket": ["tea"], "hits": 1, "name": "Ann"}


class Killed(BaseException):
    """The process is no more."""


class Process:
    """One that is killed at a call of the store: ``world.store.around = Process(...)``.

    Args:
        cut: at which call, counted from 1; 0: at none.
        when: before the database heard of it, or after it had done it.
    """

    def __init__(self, cut: int, when: When) -> None:
        self.calls = 0
        self.dead = False
        self._cut = cut
        self._when = when

    @asynccontextmanager
    async def __call__(self, call: str) -> AsyncGenerator[None]:
        self.calls += 1
        self._die(when="before")
        try:
            yield
        finally:  # a call that is refused has been done, too
            self._die(when="after")

    def _die(self, when: When) -> None:
        self.dead = self.dead or (self.calls == self._cut and when == self._when)
        if self.dead:
            raise Killed


async def read(session: Session) -> None:
    assert session["name"] == "Ann"


async def write(session: Session) -> None:
    session["basket"].append("milk")
    session.increment("hits")


async def count(session: Session) -> None:
    session.increment("hits")


async def write_text(session: Session) -> None:
    session["hits"] = "many"


async def save(session: Session) -> None:
    session["basket"] = ["tea", "milk"]
    await session.save()
    session.increment("hits")


async def pop(session: Session) -> None:
    await session.pop_once("name")
    session.increment("hits")


async def renew(session: Session) -> None:
    session.increment("hits")
    session.renew()


async def log_in(session: Session) -> None:
    session.renew(subject="user:43")


async def log_out(session: Session) -> None:
    session.destroy()


async def log_out_and_store(session: Session) -> None:
    session.destroy()
    session["flash"] = "bye"


class Kind(NamedTuple):
    """A kind of request.

    Attributes:
        handler: what it does.
        stages: what the session may hold afterwards, besides what it held before.
        ends: a token from before it may be dead afterwards: it was a log-in, a renewal or a log-out.
        behind: how many newer tokens than the request's there are.
        meanwhile: what another request does between its look-up and its end.
    """

    handler: Handler
    stages: tuple[dict[str, Any], ...] = ()
    ends: bool = False
    behind: int = 0
    meanwhile: Handler | None = None


MILK = {**BEFORE, "basket": ["tea", "milk"]}
NAMELESS = {name: value for name, value in BEFORE.items() if name != "name"}

KINDS = {
    "a rotation": Kind(read),
    "a change and a rotation": Kind(write, ({**MILK, "hits": 2},)),
    # Nothing of it is applied; the rotation is written alone.
    "a change that the database refuses, and a rotation": Kind(
        count, ({**BEFORE, "hits": "many"},), meanwhile=write_text
    ),
    "the next token, which needs a second read": Kind(read, behind=1),
    "the newest token after a jar fell back": Kind(read, behind=4),
    "a change that is saved early, and another": Kind(save, (MILK, {**MILK, "hits": 2})),
    "a value that is popped at once, and a change": Kind(pop, (NAMELESS, {**NAMELESS, "hits": 2})),
    "a renewal": Kind(renew, ends=True),
    "a log-in as somebody else": Kind(log_in, ends=True),
    "a log-out": Kind(log_out, ends=True),
    "a log-out that stores something": Kind(log_out_and_store, ends=True),
}


async def request(world: World, kind: Kind, process: Process) -> Exchange:
    """The request, up to its answer, which is not delivered; or up to the end of its process."""
    await world.begin(BEFORE, subject="user:42")
    old = world.browser.jar.copy()
    await world.rotate(kind.behind)
    if kind.behind:
        world.browser.jar = old
    world.clock.advance(5)
    exchange = world.browser.send()
    world.store.take()
    world.store.around = process
    try:
        session = await exchange.open()
        if kind.meanwhile is not None:
            await elsewhere(world, kind.meanwhile)
        await kind.handler(session)
        await exchange.answer()
    except (Killed, DataError):
        pass
    world.recover()
    return exchange


async def elsewhere(world: World, handler: Handler) -> None:
    """Another process handles a request of the same browser."""
    engine = world.serve()
    engine.store = world.memory
    exchange = Exchange(engine, world.browser.jar.copy())
    await handler(await exchange.open(tokens=False))
    await exchange.answer()


async def comes_back(world: World, kind: Kind) -> None:
    """The browser is served by another process, again and again, and always finds the same."""
    world.browser.engine = world.serve()
    found: list[dict[str, Any] | None] = []
    for _ in range(20):
        async with world.browser.visit() as session:
            served = session.subject == "user:42"
            assert served or kind.ends, session.verdict
            assert served or (session == {} and session.subject is None)
            found.append(dict(session) if served else None)
        world.clock.advance(5)
    assert found == found[:1] * len(found)
    assert found[0] is None or found[0] in (BEFORE, *kind.stages)
    async with world.browser.visit() as session:
        session.renew(subject="user:42")
    async with world.browser.visit() as session:
        assert session.subject == "user:42"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", KINDS)
async def test_killed_between_any_two_steps(name: str, when: When) -> None:
    kind = KINDS[name]
    whole = Process(0, when)
    await request(World(), kind, whole)
    assert whole.calls >= 2
    for cut in range(1, whole.calls + 1):
        world, process = World(), Process(cut, when)
        exchange = await request(world, kind, process)
        assert process.dead
        assert not exchange.sends_cookie
        await comes_back(world, kind)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("handler", [write, log_in], ids=["stores something", "logs in"])
async def test_killed_while_a_session_begins(handler: Handler, when: When) -> None:
    """The browser has no cookie, so there is nothing that it could lose; it begins again."""

    async def begins(session: Session) -> None:
        session.update({"basket": [], "hits": 0})
        await handler(session)

    world, process = World(), Process(1, when)
    exchange = world.browser.send()
    world.store.around = process
    await begins(await exchange.open())
    with pytest.raises(Killed):
        await exchange.answer()
    world.recover()
    assert process.dead
    assert world.browser.jar.header() is None
    assert await world.living() == (when == "after")  # one that nobody has the token of, and that expires
    world.browser.engine = world.serve()
    async with world.browser.visit() as session:
        assert session == {}
        await begins(session)
    assert await world.read() == {"basket": ["milk"] if handler is write else [], "hits": handler is write}
