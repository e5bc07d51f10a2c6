"""A site over the memory store, its clock, its events and a browser: what tests of the engine begin with."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from random import Random
from types import MappingProxyType
from typing import Any

import pytest

from mongosession import Event, EventKind, MemoryStore, Session, SessionEngine, StoreUnavailable
from mongosession.store import Changes, Record
from mongosession.testing import Browser, CountingStore, HandClock, seeded

KEY = "k" * 32

BASKET: Mapping[str, Any] = MappingProxyType({"basket": ("tea",)})


class Memory(MemoryStore):
    """A memory store that knows which sessions it was ever given."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[bytes] = []

    async def create(self, record: Record) -> None:
        await super().create(record)
        self.ids.append(record.id)

    def shuffle(self, seed: int) -> None:
        """From now on, the order in which sessions are found is another one."""
        records = list(self._records.items())
        Random(seed).shuffle(records)
        self._records = dict(records)


class Held:
    """A database that answers when it is told to: ``world.store.around = Held()``.

    Args:
        away: whether it turns out to be away then.
    """

    def __init__(self, *, away: bool = False) -> None:
        self.asked, self.answer = asyncio.Event(), asyncio.Event()
        self._away = away

    @asynccontextmanager
    async def __call__(self, call: str) -> AsyncGenerator[None]:
        self.asked.set()
        await self.answer.wait()
        if self._away:
            raise StoreUnavailable("away")
        yield


class World:
    """A site, its clock, its events and a browser."""

    def __init__(self, **options: Any) -> None:
        self.clock = HandClock()
        self.memory = Memory()
        self.store = CountingStore(self.memory)
        self.chance = seeded(1)
        self._events: list[Event] = []
        self.engine = self.serve(**options)
        self.browser = Browser(self.engine, self.clock)

    def serve(self, *, keys: Sequence[str] = (KEY,), ahead: float = 0, **options: Any) -> SessionEngine:
        """A server of this site, whose clock is so many seconds ahead."""
        return SessionEngine(
            self.store,
            keys=keys,
            clock=lambda: self.clock() + ahead,
            random=self.chance,
            on_event=self._events.append,
            **options,
        )

    def events(self) -> list[Event]:
        """The events since the last call."""
        taken = self._events[:]
        self._events.clear()
        return taken

    def happened(self) -> list[EventKind]:
        """What happened since the last call."""
        return [event.kind for event in self.events()]

    async def begin(self, data: Mapping[str, Any] = BASKET, *, subject: str | None = None) -> str:
        """A session exists, and the browser has its token. Returns its id."""
        async with self.browser.visit() as session:
            session.update(data)
            if subject is not None:
                session.renew(subject=subject)
        self.events()
        assert session.id is not None
        return session.id

    async def fail(self, session: Session) -> None:
        """The session is committed while the database is away, and that stays so."""
        self.store.around = away
        with pytest.raises(StoreUnavailable):
            await self.engine.commit(session)

    async def rotate(self, times: int = 1) -> None:
        """The browser comes back as often, each time with a token that is due."""
        for _ in range(times):
            self.clock.advance(5)
            async with self.browser.visit() as session:
                assert session.verdict == "due"
        self.events()

    async def read(self) -> dict[str, Any]:
        """What the session of the browser holds now."""
        async with self.browser.visit() as session:
            return dict(session)

    async def record(self, id: str) -> Record:
        """The document."""
        record = await self.memory.load(bytes.fromhex(id))
        assert record is not None
        return record

    async def manipulate(self, id: str, **fields: Any) -> None:
        """Something happened to the document behind the site's back."""
        assert await self.memory.update(bytes.fromhex(id), Changes(put=fields))

    def lose_everything(self) -> None:
        """The documents are gone, as after the TTL monitor's round."""
        self.memory = Memory()
        self.engine.store = self.store = CountingStore(self.memory)

    def recover(self) -> None:
        """The bad days of the store are over."""
        self.store.around = nullcontext

    async def everything(self) -> dict[bytes, Record]:
        """All documents, those of ended sessions too."""
        loaded = [await self.memory.load(each) for each in self.memory.ids]
        return {record.id: record for record in loaded if record is not None}

    async def living(self) -> int:
        """How many sessions live."""
        return len([record async for record in self.memory.find()])


@asynccontextmanager
async def away(call: str) -> AsyncGenerator[None]:
    """The database is away: ``world.store.around = away``."""
    raise StoreUnavailable("away")
    yield


@asynccontextmanager
async def lost(call: str) -> AsyncGenerator[None]:
    """The database does what it is asked, and its answer is lost: ``world.store.around = lost``."""
    yield
    raise StoreUnavailable("no answer")
