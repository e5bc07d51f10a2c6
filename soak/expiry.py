"""The database does not delete what has expired, or does so late: expired sessions are refused all the same.

First the TTL monitor is off: sessions expire, and stay. Late requests come in by the dozen, with everything that a
request can ask of a session; none is served, and no document changes. Then the monitor comes back, and they go.

After that it lags, with application servers whose clocks are two minutes behind the database's, as far as they may be:
what has expired is deleted at any moment from then on, also between the look-up and the write of a request.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import pairwise
from math import inf
from typing import Any

from pymongo import AsyncMongoClient

from mongosession import MongoStore, SessionEngine, Timeouts, Verdict
from mongosession.mongod import Mongod
from mongosession.policy import SKEW
from mongosession.session import Session, tracker
from mongosession.testing import Exchange, HandClock, Jar

from .result import Result

MONITOR_SECONDS = 1
"""Between two rounds of the TTL monitor, where it runs."""

DAY = 86400.0

IDLE = 60.0
"""Idle timeout in seconds while the monitor is off; the time of that is moved by hand."""

LATE = 5.0
"""Seconds that a slow answer takes: less than what is too little to be written, a tenth of the idle timeout."""

USERS = 20
"""Who come and go while it lags."""

GONE_SECONDS = 30.0
POLL_SECONDS = 0.1

Database = Any
Handler = Callable[[Session], Awaitable[object]]

EXPIRED_SERVED = "expired sessions served"
REVIVED = "documents of expired sessions changed"
LIVING_REFUSED = "living sessions refused"
LEFT = "documents left by a monitor that runs"

STAYED = "documents that expired and stayed, the TTL monitor being off"
STILL_THERE = "late requests to documents that a lagging monitor had not deleted"
GONE = "late requests to documents that it had deleted"


def run(seconds: float, seed: int, *, idle: float = 3.0) -> Result:
    """Let sessions expire for so many seconds; the idle timeout while the monitor lags is in real seconds, too."""
    until = time.monotonic() + seconds
    with ExitStack() as stack:
        parameters = ("ttlMonitorEnabled=false", f"ttlMonitorSleepSecs={MONITOR_SECONDS}")
        mongod = stack.enter_context(Mongod(args=[part for each in parameters for part in ("--setParameter", each)]))
        return asyncio.run(_run(mongod.uri, until, seed, idle))


async def _run(uri: str, until: float, seed: int, idle: float) -> Result:
    chance = random.Random(seed)
    did: Counter[str] = Counter()
    faults: Counter[str] = Counter(dict.fromkeys((STAYED, STILL_THERE, GONE), 0))
    losses: dict[str, int] = dict.fromkeys((EXPIRED_SERVED, REVIVED, LIVING_REFUSED, LEFT), 0)
    async with AsyncMongoClient[dict[str, Any]](uri) as client:
        left = until - time.monotonic()
        off = Off(client.soak, chance, did, faults, losses)
        await off.run(time.monotonic() + left / 3)
        await off.turn_on()
        await Lagging(idle, client.soak, chance, did, faults, losses).run(until)
    return Result(
        title="expired sessions that the database has not deleted",
        did=did,
        faults=faults,
        losses=losses,
        notes="A request that came in time and is answered late prolongs its session, from when it came; until it is "
        "answered, others may be refused already.",
    )


class _Part:
    """What both parts have: an engine over a collection of its own, chance, and where the figures go."""

    def __init__(
        self,
        database: Database,
        chance: random.Random,
        did: Counter[str],
        faults: Counter[str],
        losses: dict[str, int],
    ) -> None:
        self.database = database
        self.chance = chance
        self.did = did
        self.faults = faults
        self.losses = losses

    def serve(self, name: str, clock: Callable[[], float], idle: float) -> SessionEngine:
        """An application server."""
        store = MongoStore(self.database[name])
        timeouts = Timeouts(idle=idle, absolute=DAY)
        return SessionEngine(store, keys=["k" * 32], timeouts=timeouts, clock=clock, random=self.chance.randbytes)

    async def rounds(self) -> int:
        """How often the TTL monitor has run."""
        status = await self.database.command("serverStatus")
        return int(status["metrics"]["ttl"]["passes"])

    async def late(self, engine: SessionEngine, jar: Jar, handle: Handler) -> None:
        """One request to a session that has expired."""
        exchange = Exchange(engine, jar)
        session = await exchange.open()
        self.did["late requests"] += 1
        self.losses[EXPIRED_SERVED] += session.verdict is not Verdict.ENDED
        await handle(session)
        await exchange.answer()


class Off(_Part):
    """The TTL monitor does not run. The time of the application is moved by hand, a day in the past: the database would
    delete everything at once if it could."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.clock = HandClock(time.time() - DAY)
        self.engine = self.serve("off", self.clock, IDLE)
        self.collection = self.database["off"]

    async def run(self, until: float) -> None:
        """Let sessions expire, again and again, at least once."""
        await self.engine.setup()
        passes = await self.rounds()
        while True:
            await self.expire()
            if time.monotonic() > until:
                break
        if await self.rounds() == passes:  # it was off indeed
            self.faults[STAYED] = await self.collection.count_documents({})

    async def expire(self) -> None:
        """Sessions begin, are used now and then, and expire; late requests come to each of them. Some requests come in
        time, and are answered when their session would have expired without them."""
        jars = await asyncio.gather(*(self.begin(number) for number in range(50)))
        for _ in range(3):
            self.clock.advance(IDLE - 1)
            await asyncio.gather(*(self.use(jar) for jar in jars))
        self.clock.advance(IDLE - 1)
        slow = [Exchange(self.engine, jar) for jar in jars[::5]]
        for exchange in slow:
            (await exchange.open())["late"] = "answer"
        self.clock.advance(1)
        await self.be_late([jar for number, jar in enumerate(jars) if number % 5])
        self.clock.advance(LATE - 1)
        for exchange in slow:
            await exchange.answer()
            exchange.deliver()
        await asyncio.gather(*(self.use(jar) for jar in jars[::5]))
        self.clock.advance(IDLE - LATE)  # it counts when they came, and not when they were answered
        await self.be_late(jars)
        self.did["expired sessions"] += len(jars)
        self.did["requests that came in time and were answered late"] += len(slow)

    async def be_late(self, jars: list[Jar]) -> None:
        """All kinds of requests at once, to sessions that have expired; no document is what it should not be."""
        before = await self.expired()
        await asyncio.gather(*(self.late(self.engine, jar, handle) for jar in jars for handle in HANDLERS))
        after = await self.expired()
        self.losses[REVIVED] += sum(after.get(key) != document for key, document in before.items())

    async def begin(self, number: int) -> Jar:
        """A session begins: of a visitor, of a user, or of one who wants to be remembered."""
        jar = Jar(self.clock)
        exchange = Exchange(self.engine, jar)
        session = await exchange.open()
        session["number"] = number
        if number % 3:
            session.renew(subject=f"user {number}")
        await exchange.answer()
        exchange.deliver()
        return jar

    async def use(self, jar: Jar) -> None:
        """A request in time."""
        exchange = Exchange(self.engine, jar)
        session = await exchange.open()
        self.losses[LIVING_REFUSED] += session.id is None
        await exchange.answer()
        exchange.deliver()
        self.did["requests in time"] += 1

    async def expired(self) -> dict[bytes, Any]:
        """The documents of sessions that have expired by the application's time."""
        now = datetime.fromtimestamp(self.clock(), UTC)
        return {each["_id"]: each async for each in self.collection.find({"expires_at": {"$lte": now}})}

    async def turn_on(self) -> None:
        """The monitor comes back, and what has expired goes."""
        before = await self.collection.count_documents({})
        await self.database.client.admin.command("setParameter", 1, ttlMonitorEnabled=True)
        for _ in range(int(GONE_SECONDS / POLL_SECONDS)):
            await asyncio.sleep(POLL_SECONDS)
            if not await self.collection.count_documents({}):
                break
        left = await self.collection.count_documents({})
        self.losses[LEFT] += left
        self.did["documents deleted when the monitor came back"] = before - left


async def _read(session: Session) -> None:
    session.get("number")


async def _write(session: Session) -> None:
    session["number"] = "another"


async def _increment(session: Session) -> None:
    session.increment("hits")


async def _renew(session: Session) -> None:
    session.renew()


async def _log_in(session: Session) -> None:
    session.renew(subject="another user")


async def _log_out(session: Session) -> None:
    session.destroy()


async def _save(session: Session) -> None:
    session["number"] = "saved"
    await session.save()


async def _pop(session: Session) -> None:
    await session.pop_once("number")


async def _set_default(session: Session) -> None:
    await session.set_default("number", "another")


HANDLERS = (_read, _write, _increment, _renew, _log_in, _log_out, _save, _pop, _set_default)
"""Everything that a late request may ask."""


class Lagging(_Part):
    """The TTL monitor runs every `MONITOR_SECONDS`. The clocks of the application are so far behind the database's that
    a document may be deleted as soon as its session has expired."""

    def __init__(self, idle: float, *args: Any) -> None:
        super().__init__(*args)
        self.engine = self.serve("lagging", lambda: time.time() - SKEW, idle)
        self.collection = self.database["lagging"]

    async def run(self, until: float) -> None:
        """Users come and go, at least once each."""
        await self.engine.setup()
        passes = await self.rounds()
        await asyncio.gather(*(self.come_and_go(number, until) for number in range(USERS)))
        self.did["rounds of the TTL monitor"] = await self.rounds() - passes

    async def come_and_go(self, number: int, until: float) -> None:
        """One user: logs in, stays for a while, is away for too long, and comes back late with several tabs at once."""
        idle = self.engine.terms.timeouts.idle
        while True:
            user = User(self.engine)
            await user.ask(_log_in)
            for _ in range(self.chance.randrange(1, 5)):
                await asyncio.sleep(self.chance.uniform(0, idle / 2))
                await user.ask(_write)
            # From just before it expires on, so that some requests come just as it is deleted.
            away = idle + self.chance.uniform(-0.1, MONITOR_SECONDS + 0.5)
            await asyncio.sleep(max(0.0, max(user.served) + away - self.engine.clock()))
            for _ in range(2):
                gone = await self.engine.store.load(user.id) is None
                if self.engine.clock() > max(user.served) + idle:
                    self.faults[GONE if gone else STILL_THERE] += len(HANDLERS)
                await asyncio.gather(*(user.ask(handle, deliver=False) for handle in HANDLERS))
                self.did["late requests"] += len(HANDLERS)
                self.losses[REVIVED] += gone and await self.engine.store.load(user.id) is not None
            self.did["requests in time"] += len(user.served)
            self.losses[LIVING_REFUSED] += user.refused_in_time
            self.losses[EXPIRED_SERVED] += user.served_too_late()
            self.did["expired sessions"] += 1
            if time.monotonic() > until:
                break


class User:
    """Somebody with one session.

    Args:
        engine: the server.

    Attributes:
        id: the document's.
        served: when requests came in that were served, in seconds of the server's clock.
        refused_in_time: how many were refused, though one before them had been answered early enough to prolong the
            session until after their own answer. (A machine that is busy may take longer for that than sessions live.)
    """

    def __init__(self, engine: SessionEngine) -> None:
        self.engine = engine
        self.id = b""
        self.served: list[float] = []
        self.refused_in_time = 0
        self._jar = Jar(engine.clock)
        self._lives_until = inf

    async def ask(self, handle: Handler, *, deliver: bool = True) -> None:
        """Make a request."""
        exchange = Exchange(self.engine, self._jar)
        session = await exchange.open()
        served = session.id is not None or exchange.cookie is None
        came = tracker(session).judgement.now
        await handle(session)
        await exchange.answer()
        if exchange.cookie is None:  # nothing was judged; the session began with the answer
            assert session.created_at is not None
            came = session.created_at.timestamp()
        if deliver:
            exchange.deliver()
        if not self.id and session.id is not None:
            self.id = bytes.fromhex(session.id)
        in_time = self.engine.clock() < self._lives_until
        if served:
            self.served.append(came)
        elif in_time:
            self.refused_in_time += 1
        if served and in_time:  # exact to a tenth
            self._lives_until = came + self.engine.terms.timeouts.idle * 0.9

    def served_too_late(self) -> int:
        """How many were served though none before them had been for as long as the idle timeout."""
        idle = self.engine.terms.timeouts.idle
        return sum(later - earlier >= idle for earlier, later in pairwise(sorted(self.served)))
