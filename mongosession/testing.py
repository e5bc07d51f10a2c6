"""What applications test their sessions with, and what this library's own tests use.

Time stands until advanced, chance is seeded, sessions live in memory, and a cookie of a logged-in user is one line:

    engine = MemoryEngine(timeouts=Timeouts(idle=900))
    cookie = engine.logged_in("user:42")          # "__Host-session=A...", a Cookie header; no request was made
    engine.clock.advance(900)                     # it is 15 minutes later

A browser is a cookie jar whose requests can overtake each other:

    browser = Browser(engine, engine.clock)
    async with browser.visit() as session:        # one request, answered
        session["basket"] = ["tea"]

    slow, quick = browser.send(), browser.send()  # two at once, with the same cookie
    await quick.open()
    await slow.open()
    await slow.answer()
    slow.deliver()
    await quick.answer()                          # this answer is lost: it is never delivered
"""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any, Literal

from mongosession.engine import SessionEngine
from mongosession.events import Event, EventKind
from mongosession.memory import MemoryStore
from mongosession.mongo import CommandCounter
from mongosession.session import Session
from mongosession.store import Changes, Record, Stamp, Store

__all__ = [
    "Browser",
    "CommandCounter",
    "CountingStore",
    "Events",
    "Exchange",
    "HandClock",
    "Jar",
    "MemoryEngine",
    "logged_in",
    "seeded",
]

Around = Callable[[str], AbstractAsyncContextManager[object]]
"""What ``CountingStore`` enters around a call, by the call's name."""


class HandClock:
    """A clock that is moved by hand: ``SessionEngine(clock=HandClock())``.

    Args:
        now: seconds since 1970. The default is a day in 2096: MongoDB expires documents by its own clock, and should
            not do so under a test.
    """

    def __init__(self, now: float = 4_000_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """The present, seconds since 1970."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


def seeded(seed: int) -> Callable[[int], bytes]:
    """A source of bytes that repeats itself: ``SessionEngine(random=seeded(1))``. For tests alone."""
    return random.Random(seed).randbytes  # noqa: S311  # repeatable is what it is for


class Events(list[Event]):
    """What happened, in its order: ``SessionEngine(on_event=Events())``. A list, to be looked through or cleared."""

    def __call__(self, event: Event) -> None:
        """Take down an event."""
        self.append(event)

    @property
    def kinds(self) -> list[EventKind]:
        """The kinds alone; they equal their words: ``events.kinds == ["created", "rotated"]``."""
        return [event.kind for event in self]


async def logged_in(engine: SessionEngine, subject: str, data: Mapping[str, Any] | None = None) -> str:
    """A new session of a user who has just logged in, made past the application: no request, no password.

    Args:
        engine: the application's own, or one over the same store with the same keys and cookie.
        subject: whose session: what the application's log-in gives to ``renew``.
        data: what the session holds, None for nothing.

    Returns:
        The Cookie header that opens it: ``name=token``.

    Raises:
        DataError: the data cannot be stored.
        ValueError: the subject makes no sense; see ``Session.renew``.
        StoreUnavailable: the database did not answer within the deadline.
    """
    session = await engine.open(None)
    session.update(data or {})
    session.renew(subject=subject)
    headers = await engine.commit(session)
    return next(value for name, value in headers if name == "Set-Cookie").partition(";")[0]


class Jar:
    """The cookie jar of a browser that talks to one host over TLS. It takes what browsers take: no ``__Secure-`` cookie
    without ``Secure``, no ``__Host-`` cookie without ``Secure`` and the path ``/``. It forgets by ``Max-Age``.

    Args:
        clock: seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.cookies: dict[str, tuple[str, float]] = {}

    def header(self) -> str | None:
        """The Cookie header of a request that leaves now, or None."""
        now = self._clock()
        pairs = [f"{name}={value}" for name, (value, until) in self.cookies.items() if now < until]
        return "; ".join(pairs) or None

    def receive(self, headers: Iterable[tuple[str, str]]) -> None:
        """Take in a response's headers."""
        for field, line in headers:
            if field.lower() == "set-cookie":
                self._take(line)

    def copy(self) -> "Jar":
        """A jar with the same cookies: a thief's, or a browser's that was written to disk."""
        twin = Jar(self._clock)
        twin.cookies = dict(self.cookies)
        return twin

    def _take(self, line: str) -> None:
        pair, *rest = [part.strip() for part in line.split(";")]
        name, _, value = pair.partition("=")
        attributes: Mapping[str, str] = {key.lower(): text for key, _, text in (part.partition("=") for part in rest)}
        prefix = name.lower()  # browsers compare the prefixes without regard to case
        if prefix.startswith(("__host-", "__secure-")) and "secure" not in attributes:
            return
        if prefix.startswith("__host-") and (attributes.get("path") != "/" or "domain" in attributes):
            return
        age = float(attributes.get("max-age", "inf"))
        if age > 0:
            self.cookies[name] = (value, self._clock() + age)
        else:
            self.cookies.pop(name, None)


class Exchange:
    """One request of a browser and its answer. It carries the cookies that the jar held when it was sent.

    Attributes:
        cookie: the Cookie header that it was sent with.
        session: the session, once opened.
        headers: the answer's headers, once answered.
    """

    def __init__(self, engine: SessionEngine, jar: Jar) -> None:
        self._engine = engine
        self._jar = jar
        self.cookie = jar.header()
        self.session: Session | None = None
        self.headers: list[tuple[str, str]] = []

    async def open(
        self, *, tokens: bool = True, large_body: bool = False, on_outage: Literal["raise", "anonymous"] = "raise"
    ) -> Session:
        """The request arrives; see ``SessionEngine.open``."""
        self.session = await self._engine.open(self.cookie, tokens=tokens, large_body=large_body, on_outage=on_outage)
        return self.session

    async def answer(self, *, status: int = 200, cache_control: str | None = None) -> list[tuple[str, str]]:
        """The handler has finished; see ``SessionEngine.commit``. The answer is under way, not yet delivered."""
        if self.session is None:
            raise RuntimeError("the exchange was not opened: call open() first")
        self.headers = await self._engine.commit(self.session, status=status, cache_control=cache_control)
        return self.headers

    @property
    def sends_cookie(self) -> bool:
        """Whether the answer sets or deletes a cookie."""
        return any(field == "Set-Cookie" for field, _ in self.headers)

    def deliver(self) -> None:
        """The answer reaches the browser. An answer that is never delivered is lost."""
        self._jar.receive(self.headers)


class Browser:
    """A browser with one jar; each tab's request is an ``Exchange``.

    Args:
        engine: the server, or one of several: ``send`` takes another.
        clock: seconds since 1970; the engine's own as a rule.
    """

    def __init__(self, engine: SessionEngine, clock: Callable[[], float]) -> None:
        self.engine = engine
        self.jar = Jar(clock)

    def send(self, engine: SessionEngine | None = None) -> Exchange:
        """A request leaves, with the cookies that the jar holds now."""
        return Exchange(engine or self.engine, self.jar)

    @asynccontextmanager
    async def visit(self, *, status: int = 200, **how: Any) -> AsyncGenerator[Session, None]:
        """One request from beginning to end: sent, opened, handled in the ``with`` block, answered, delivered.

        Args:
            status: the response's status.
            how: arguments of ``SessionEngine.open``.
        """
        exchange = self.send()
        yield await exchange.open(**how)
        await exchange.answer(status=status)
        exchange.deliver()


class CountingStore:
    """A store that counts the calls of another one, and lets a test have its bad days:

        @asynccontextmanager
        async def away(call):
            raise StoreUnavailable("away")
            yield

        store = CountingStore(MemoryStore(), around=away)

    Args:
        store: the store that does the work.
        around: name of a call -> what to enter around it. It may wait before the call (a slow database) or after it (a
            slow answer), and raise before it (an outage) or after it (the answer was lost).

    Attributes:
        calls: names of the calls, in their order.
        around: see above; may be replaced at any time.
    """

    waits = True  # what is around the calls may

    def __init__(self, store: Store, around: Around = nullcontext) -> None:
        self._store = store
        self.calls: list[str] = []
        self.around = around

    def take(self) -> list[str]:
        """The calls since the last ``take``."""
        taken, self.calls = self.calls, []
        return taken

    async def setup(self) -> None:
        """See ``Store.setup``."""
        async with self._call("setup"):
            await self._store.setup()

    async def load(self, id: bytes) -> Record | None:
        """See ``Store.load``."""
        async with self._call("load"):
            return await self._store.load(id)

    async def create(self, record: Record) -> None:
        """See ``Store.create``."""
        async with self._call("create"):
            await self._store.create(record)

    async def update(
        self, id: bytes, changes: Changes, *, epoch: int | None = None, subject: str | None = None
    ) -> Stamp | bool:
        """See ``Store.update``."""
        async with self._call("update"):
            return await self._store.update(id, changes, epoch=epoch, subject=subject)

    async def pop(self, id: bytes, name: str, *, epoch: int) -> bytes | None:
        """See ``Store.pop``."""
        async with self._call("pop"):
            return await self._store.pop(id, name, epoch=epoch)

    async def set_default(self, id: bytes, name: str, value: Any, *, epoch: int) -> bytes | None:
        """See ``Store.set_default``."""
        async with self._call("set_default"):
            return await self._store.set_default(id, name, value, epoch=epoch)

    async def find(self, subject: str | None = None) -> AsyncIterator[Record]:
        """See ``Store.find``."""
        async with self._call("find"):
            found = [record async for record in self._store.find(subject)]
        for record in found:
            yield record

    def _call(self, name: str) -> AbstractAsyncContextManager[object]:
        self.calls.append(name)
        return self.around(name)


class MemoryEngine(SessionEngine):
    """An engine for tests: sessions in memory, a clock moved by hand, seeded chance, a key of its own. It belongs to no
    event loop: an application may use it on its own one while a synchronous test uses it too.

    Args:
        clock: default a new ``HandClock``.
        settings: arguments of ``SessionEngine``, apart from the store.

    Attributes:
        store: counts its calls and has bad days on request, see ``CountingStore``.
    """

    store: CountingStore

    def __init__(self, *, clock: HandClock | None = None, **settings: Any) -> None:
        self._hand_clock = clock or HandClock()
        defaults: dict[str, Any] = {"keys": ["k" * 32], "random": seeded(1)}
        super().__init__(CountingStore(MemoryStore()), clock=self._hand_clock, **(defaults | settings))

    @property
    def clock(self) -> HandClock:
        """Moved by hand: ``engine.clock.advance(60)``."""
        return self._hand_clock

    def logged_in(self, subject: str, data: Mapping[str, Any] | None = None) -> str:
        """As ``logged_in``, for synchronous and asynchronous tests alike: it waits."""
        with ThreadPoolExecutor(1) as pool:  # on a loop of its own: the caller's may be running, or there is none
            return pool.submit(asyncio.run, logged_in(self, subject, data)).result()
