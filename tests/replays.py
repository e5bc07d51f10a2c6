"""The real engine, one call to the store at a time: what an explorer of schedules needs to try every order.

Requests that are under way cannot be copied. So a request is told by the documents that its calls to the store have met
so far, and done again from its beginning for each further call: `open`, the handler, `commit`, all of the engine's own.
"""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from mongosession import Session, SessionEngine, StoreUnavailable, Verdict
from mongosession.memory import MemoryStore
from mongosession.store import Changes, Record, Stamp

from .interleavings import NOW, drawn

Met = tuple[Record | None, ...]
"""What the calls of a request met, each the document that it concerned."""


class Outcome(NamedTuple):
    """How far a request got.

    Attributes:
        verdict: how its cookie was judged; None where that call is yet to come.
        subject: whose session the handler was given.
        saw: the keys that the handler was given.
        became: whose session the request holds once it is over.
        waits_for: the document that its next call concerns, or None where it is over.
        document: what the last call left of the document that it concerned.
        creates: its next call inserts a document.
        set_cookie: the answer's Set-Cookie, once it is over.
    """

    verdict: Verdict | None
    subject: str | None
    saw: frozenset[str]
    became: str | None
    waits_for: bytes | None
    document: Record | None
    creates: bool
    set_cookie: str | None


class Replays:
    """Requests that are done again and again, each by an engine of its own, which remembers nothing of others.

    Args:
        settings: of the engines: `keys`, `rotation`, `cookie`.
    """

    def __init__(self, **settings: Any) -> None:
        self._settings = settings
        self._done: dict[tuple[int, str | None, Met], Outcome] = {}

    def request(
        self, runner: asyncio.Runner, index: int, handle: Callable[[Session], object], cookie: str | None, met: Met
    ) -> Outcome:
        """A request, until its next call to the store.

        Args:
            runner: where the engine runs.
            index: which request; its source of chance is its own. It always has the same handler.
            handle: what the handler does.
            cookie: the Cookie header.
            met: the documents that its calls have met; the last one is carried out now.
        """
        key = index, cookie, met
        if key not in self._done:
            self._done[key] = runner.run(self._request(index, handle, cookie, met))
        return self._done[key]

    async def _request(self, index: int, handle: Callable[[Session], object], cookie: str | None, met: Met) -> Outcome:
        store = _Script(met)
        engine = SessionEngine(store, clock=lambda: NOW, random=drawn(index), **self._settings)
        verdict, subject, saw, became = None, None, frozenset[str](), None
        headers: list[tuple[str, str]] = []
        try:
            session = await engine.open(cookie)
            verdict, subject, saw = session.verdict, session.subject, frozenset(session)
            handle(session)
            headers = await engine.commit(session)
            became = session.subject
        except _NotYet:
            pass
        over = store.waits_for is None
        lines = [value for field, value in headers if field == "Set-Cookie"]
        return Outcome(
            verdict,
            subject,
            saw,
            became if over else None,
            store.waits_for,
            await store.document(),
            store.creates,
            lines[0] if over and lines else None,
        )


class _NotYet(StoreUnavailable):
    """The call is the first that has not had its turn."""


class _Script(MemoryStore):
    """Each call meets the document that it is told to meet; the first one beyond is not carried out."""

    def __init__(self, met: Met) -> None:
        super().__init__()
        self.met = list(met)
        self.waits_for: bytes | None = None
        self.creates = False
        self._last: bytes | None = None

    async def document(self) -> Record | None:
        """What the last call left."""
        return None if self._last is None else await super().load(self._last)

    async def load(self, id: bytes) -> Record | None:
        await self._turn(id)
        return await super().load(id)

    async def create(self, record: Record) -> None:
        await self._turn(record.id, creates=True)
        await super().create(record)

    async def update(
        self, id: bytes, changes: Changes, *, epoch: int | None = None, subject: str | None = None
    ) -> Stamp | bool:
        await self._turn(id)
        return await super().update(id, changes, epoch=epoch, subject=subject)

    async def _turn(self, id: bytes, *, creates: bool = False) -> None:
        if not self.met:
            if self.waits_for is None:
                self.waits_for, self.creates = id, creates
            raise _NotYet("not yet")
        self._records.clear()
        self._last, met = id, self.met.pop(0)
        if met is not None:
            await super().create(met)
