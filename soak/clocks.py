"""The clocks of the application servers differ, jump and leap: decisions stay sane, and nobody is logged out.

Hours of browsing in a time that is moved by hand, on a real mongod: two servers, one on each driver, with a clock each;
browsers whose pages are several requests at once, to either server, over a network of up to some seconds each way that
loses answers and lets others arrive late. Everything goes step by step, so what a request has to find is known exactly.
"""

import asyncio
import heapq
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import Any, NamedTuple
from uuid import uuid4

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient

from mongosession import Event, MongoStore, Session, SessionEngine, Timeouts, Verdict
from mongosession.events import EventKind
from mongosession.mongod import Mongod
from mongosession.testing import Exchange, HandClock, Jar
from mongosession.tokens import TokenCodec, session_id

from .result import Result

HOUR = 3600.0
DAY = 86400.0
LEAST_SECONDS = HOUR / 2  # the longest period of a clock below
NAME = "owner"
LOG_IN, VISIT, LOG_OUT = "log-in", "visit", "log-out"
TIMEOUTS = Timeouts(idle=3 * DAY, absolute=30 * DAY)
"""Longer than any clock here is wrong: one that is a day ahead takes a session that was idle for a day for expired."""

SERVED = frozenset({Verdict.CURRENT, Verdict.DUE, Verdict.BEHIND, Verdict.AHEAD})
STUCK_SECONDS = 600.0
"""A session that is used all the while, and has not rotated for so long, is stuck. Five minutes are what the clock that
is behind does not see as due; the pauses come on top.
"""

LOGGED_OUT = "requests of somebody who is logged in refused"
WRONG = "requests that found other data than were stored"
DELETED = "cookies deleted without a log-out"
ENDED = "sessions revoked"
STUCK = "sessions that had not rotated for ten minutes of use"
LOSSES = (LOGGED_OUT, WRONG, DELETED, ENDED, STUCK)


class Weather(NamedTuple):
    """How the second server's clock goes.

    Attributes:
        name: for the report.
        ahead: seconds that the clock is ahead at a time, given how far into the scenario.
        shows: whether a session shows it, by how many seconds its last rotation is ahead of the clock that judges it.
    """

    name: str
    ahead: Callable[[float], float]
    shows: Callable[[float], bool]


def _jumps(seconds: float) -> float:
    """Two minutes ahead, and every ten minutes back to the right time for five."""
    return 120.0 if seconds % 600 < 300 else 0.0


def _leaps(seconds: float) -> float:
    """A second is repeated every minute, and made up for in the next."""
    return -1.0 if seconds % 120 < 60 else 0.0


def _a_day(seconds: float) -> float:
    """Twenty-five hours ahead for two minutes in the middle of each half hour."""
    return 25 * HOUR if 900 <= seconds % 1800 < 1020 else 0.0


WEATHERS = (
    Weather("a clock two minutes ahead", lambda _: 120.0, lambda by: by > 100),
    Weather("a clock two minutes behind", lambda _: -120.0, lambda by: by > 100),
    Weather("a clock five minutes ahead", lambda _: 300.0, lambda by: by > 250),
    Weather("a clock that jumps back by two minutes", _jumps, lambda by: by > 60),
    Weather("a clock that repeats a second", _leaps, lambda by: 0 < by <= 1),
    Weather("a clock that was a day ahead for a while", _a_day, lambda by: by > DAY),
)


class Browser:
    """One browser and what its session has to hold.

    Attributes:
        jar: its cookies.
        data: what was stored and confirmed.
        subject: whom it is logged in as.
        flying: its requests that are under way.
        changing: a log-in or a log-out is under way.
        generation: its session's epoch and generation as they were last seen.
        rotated: when that was last seen to change.
    """

    def __init__(self, name: str, clock: HandClock) -> None:
        self.name = name
        self.jar = Jar(clock)
        self.data: dict[str, Any] = {}
        self.subject: str | None = None
        self.flying = 0
        self.changing = False
        self.generation: tuple[int, int] = (0, 0)
        self.rotated = clock()


class Visit(NamedTuple):
    """A request of a browser, and the value that it stores, if it is more than a look."""

    browser: Browser
    engine: SessionEngine
    exchange: Exchange
    what: str
    key: str
    value: int


class Site:
    """Two servers, their clocks, and the browsers.

    Args:
        collections: one on each driver.
        weather: how the second's clock goes.
        chance: of everything.
    """

    def __init__(self, collections: list[Any], weather: Weather, chance: Random) -> None:
        self.clock = HandClock()
        self.start = self.clock()
        self.weather = weather
        self.chance = chance
        self.did: Counter[str] = Counter()
        self.losses: Counter[str] = Counter()
        self.shown = 0
        clocks: tuple[Callable[[], float], ...] = (self.clock, self._drifting)
        self.engines = [
            SessionEngine(
                MongoStore(collection),
                keys=["k" * 32],
                timeouts=TIMEOUTS,
                clock=clock,
                random=chance.randbytes,
                on_event=self._note,
            )
            for collection, clock in zip(collections, clocks, strict=True)
        ]
        self.codec = TokenCodec(self.engines[0].keys, self.engines[0].cookie.name)
        self._steps: list[tuple[float, int, Callable[[], Awaitable[None]]]] = []
        self._order = itertools.count()
        self._values = itertools.count()

    async def browse(self, browsers: int, until: float) -> None:
        """Let so many browsers browse until then by the machine's clock, and half an hour by the site's at least; two
        or so pages a minute each."""

        def over() -> bool:
            return time.monotonic() > until and self.clock() - self.start > LEAST_SECONDS

        for number in range(browsers):
            browser = Browser(f"browser {number}", self.clock)
            self._later(self.chance.uniform(0, 60), partial(self._page, browser, over))
        while self._steps:
            moment, _, step = heapq.heappop(self._steps)
            self.clock.now = max(self.clock.now, moment)
            await step()
        self.did["hours of browsing"] += round(browsers * (self.clock() - self.start) / HOUR)

    def _later(self, seconds: float, step: Callable[[], Awaitable[None]]) -> None:
        heapq.heappush(self._steps, (self.clock() + seconds, next(self._order), step))

    def _drifting(self) -> float:
        return self.clock() + self.weather.ahead(self.clock() - self.start)

    def _network(self) -> float:
        return self.chance.expovariate(4)

    async def _page(self, browser: Browser, over: Callable[[], bool]) -> None:
        """Some requests at once, then the next page; a log-in and a log-out have a page of their own."""
        if over():
            return
        if not browser.changing:
            alone = browser.flying == 0
            if alone and (browser.subject is None or self.chance.random() < 0.01):
                browser.changing = True
                await self._send(browser, LOG_IN if browser.subject is None else LOG_OUT)
            elif browser.subject is not None:
                for _ in range(self.chance.randint(1, 6)):
                    self._later(self.chance.uniform(0, 0.3), lambda: self._send(browser, VISIT))
        pause = self.chance.choice([3.0, 20.0, 45.0]) * self.chance.uniform(0.5, 1.5)
        self._later(pause, lambda: self._page(browser, over))

    async def _send(self, browser: Browser, what: str) -> None:
        browser.flying += 1
        engine = self.chance.choice(self.engines)
        key = f"key {self.chance.randrange(40)}" if self.chance.random() < 0.5 else ""
        visit = Visit(browser, engine, Exchange(engine, browser.jar), what, key, next(self._values))
        self._later(self._network(), lambda: self._open(visit))

    async def _open(self, visit: Visit) -> None:
        session = await visit.exchange.open()
        self.did["requests"] += 1
        if visit.what == LOG_IN:
            session.renew(subject=visit.browser.name)
            session[NAME] = visit.browser.name
        else:
            await self._judge(visit, session)
            if visit.what == LOG_OUT:
                session.destroy()
            elif visit.key:
                session[visit.key] = visit.value
        self._later(self.chance.choice([0.02, 0.2, 2.0]), lambda: self._answer(visit))

    async def _judge(self, visit: Visit, session: Session) -> None:
        browser = visit.browser
        if session.verdict not in SERVED or session.subject != browser.name:
            self.losses[LOGGED_OUT] += 1
            return
        if session != browser.data:
            self.losses[WRONG] += 1
        value = (visit.exchange.cookie or "").partition("=")[2]
        presented = self.codec.read(value, self.clock())
        assert presented is not None
        record = await visit.engine.store.load(session_id(presented.token.sid))
        assert record is not None
        if self.weather.shows(record.rotated_at - visit.engine.clock()):
            self.shown += 1
        generation = record.epoch, record.generation
        if generation != browser.generation:
            self.did["rotations seen"] += 1
            browser.generation, browser.rotated = generation, self.clock()
        elif self.clock() - browser.rotated > STUCK_SECONDS:
            self.losses[STUCK] += 1
            browser.rotated = self.clock()

    async def _answer(self, visit: Visit) -> None:
        await visit.exchange.answer()
        if visit.what == VISIT and visit.key:
            visit.browser.data[visit.key] = visit.value
        fate = self.chance.random() if visit.what == VISIT else 1.0
        if fate < 0.02:
            self.did["answers lost"] += 1
            visit.browser.flying -= 1
        elif fate < 0.04:
            self.did["answers that came late"] += 1
            self._later(self.chance.uniform(2, 10), lambda: self._deliver(visit))
        else:
            self._later(self._network(), lambda: self._deliver(visit))

    async def _deliver(self, visit: Visit) -> None:
        browser, before = visit.browser, visit.browser.jar.header()
        visit.exchange.deliver()
        browser.flying -= 1
        if visit.what == LOG_IN:
            browser.subject, browser.data, browser.rotated = browser.name, {NAME: browser.name}, self.clock()
            self.did["log-ins"] += 1
        elif visit.what == LOG_OUT:
            browser.subject = None
            self.did["log-outs"] += 1
        if visit.what != VISIT:
            browser.changing = False
        if visit.what != LOG_OUT and before and not browser.jar.header():
            self.losses[DELETED] += 1

    def _note(self, event: Event) -> None:
        if event.kind in (EventKind.REVOKED, EventKind.COPIED):
            self.losses[ENDED] += 1


async def soak(uri: str, seed: int, *, browsers: int, seconds: float) -> Result:
    """All weathers, one after the other, for as many seconds each."""
    chance = Random(seed)
    did: Counter[str] = Counter()
    losses: Counter[str] = Counter(dict.fromkeys(LOSSES, 0))
    shown: dict[str, int] = {}
    async with AsyncMongoClient[dict[str, Any]](uri) as pymongo:
        motor: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(uri)
        try:
            for weather in WEATHERS:
                name = uuid4().hex
                site = Site([pymongo.soak[name], motor.soak[name]], weather, chance)
                await site.browse(browsers, time.monotonic() + seconds / len(WEATHERS))
                did += site.did
                losses.update(site.losses)
                shown[weather.name] = site.shown
        finally:
            motor.close()
    return Result(
        "two application servers whose clocks differ, jump and leap, for hours of a time that is moved by hand",
        did=dict(sorted(did.items())),
        faults={f"requests to which it showed: {name}": count for name, count in shown.items()},
        losses=losses,
    )


def run(seconds: float, seed: int, *, browsers: int = 12) -> Result:
    """As many hours as the machine gets done in so many seconds."""
    with Mongod() as mongod:
        return asyncio.run(soak(mongod.uri, seed, browsers=browsers, seconds=seconds))
