"""Log-out and revocation in the midst of 200 requests of the same subject, on a real MongoDB."""

import asyncio
from collections import Counter
from collections.abc import Awaitable
from random import Random
from typing import Any, NamedTuple, TypeVar

import pytest

from mongosession import Event, EventKind, MongoStore, Session, SessionEngine
from mongosession.testing import Browser, HandClock, seeded

SUBJECT = "user:42"
REQUESTS = 200
AT_A_TIME = 25
DEVICES = 10
SEEDS = range(3)

T = TypeVar("T")


class Site:
    """A site whose subject is logged in on some devices, each with a token that is due.

    Attributes:
        cookies: every Cookie header that a jar could hold: of all tokens that were ever handed out.
        stored: the keys that each browser's requests have set, dropped ones included.
        renewing: renewals that are being committed at the moment, by browser.
        midway: set when many requests have been answered, many are under way, and a renewal is being committed.
    """

    def __init__(self, collection: Any, seed: int) -> None:
        self.clock = HandClock()
        self.chance = Random(seed)
        self.events: list[Event] = []
        self.engine = SessionEngine(
            MongoStore(collection),
            keys=["k" * 32],
            clock=self.clock,
            random=seeded(seed),
            on_event=self.events.append,
        )
        self.cookies: set[str] = set()
        self.stored: dict[Browser, set[str]] = {}
        self.renewing: dict[Browser, set[asyncio.Future[None]]] = {}
        self.midway = asyncio.Event()

    async def log_in(self, devices: int) -> list[Browser]:
        browsers = [Browser(self.engine, self.clock) for _ in range(devices)]
        for browser in browsers:
            async with browser.visit() as session:
                session.renew(subject=SUBJECT)
                session["device"] = True
            self.cookies.add(browser.jar.header() or "")
        self.clock.advance(5)
        self.events.clear()
        return browsers

    async def requests(self, browsers: list[Browser]) -> None:
        """All of them, some dozens at a time."""
        numbers = iter(range(REQUESTS))

        async def tab() -> None:
            for number in numbers:
                await self.request(browsers[number % len(browsers)], number)

        await asyncio.gather(*(tab() for _ in range(AT_A_TIME)))

    async def request(self, browser: Browser, number: int) -> None:
        """It reads, writes, increments, or renews."""
        exchange = browser.send()
        session = await exchange.open()
        for _ in range(self.chance.randrange(20)):
            await asyncio.sleep(0)  # a handler that waits for something
        renews = self.chance.random() < 0.25
        if renews:
            session.renew()
        elif number % 3 and not session.is_new:  # or else it would begin a session of nobody's
            session[f"key{number}"] = True
            session.increment("requests")
            self.stored.setdefault(browser, set()).add(f"key{number}")
        renewing = self.renewing.setdefault(browser, set())
        answered = asyncio.get_running_loop().create_future()
        if renews:
            renewing.add(answered)
        if renews and not session.late and number > REQUESTS / 3:
            self.midway.set()
        await exchange.answer()
        renewing.discard(answered)
        answered.set_result(None)
        if renews or browser.jar.header() == exchange.cookie:  # else the answer is lost: the jar has a newer one
            exchange.deliver()
        if (cookie := browser.jar.header()) is not None:
            self.cookies.add(cookie)
        if session.late and renewing:  # as a page that repeats its request: or a renewal that takes long makes all late
            await asyncio.wait(renewing)

    def acknowledged(self, browser: Browser) -> set[str]:
        """The keys of a browser's that no event says were dropped."""
        dropped = {key for event in self.events if event.kind == EventKind.DROPPED_WRITE for key in event.keys}
        return self.stored.get(browser, set()) - dropped

    async def served(self) -> list[Session]:
        """The sessions that any of the tokens opens; and each tries to bring it back by a write and a renewal."""
        held: list[Session] = []
        for cookie in sorted(self.cookies):
            session = await self.engine.open(cookie)
            if not session.is_new:
                held.append(session)
            elif session.late:
                session["late"] = True
                session.renew()
                await self.engine.commit(session)
        return held


class Race(NamedTuple):
    """What happened.

    Attributes:
        tokens: how many were handed out.
        in_flight: renewals under way when the ending began.
        events: how often each kind was seen.
    """

    tokens: int
    in_flight: int
    events: Counter[EventKind]


async def race(site: Site, browsers: list[Browser], ending: Awaitable[T]) -> tuple[Race, T]:
    """The requests of these browsers, and the ending in their midst; what it gave."""
    requests = asyncio.create_task(site.requests(browsers))
    midway = asyncio.create_task(site.midway.wait())
    await asyncio.wait({requests, midway}, return_when=asyncio.FIRST_COMPLETED)
    if requests.done():
        requests.result()  # what went wrong, if something did
    assert midway.done()
    in_flight = sum(map(len, site.renewing.values()))
    ended = await ending
    await requests
    return Race(len(site.cookies), in_flight, Counter(event.kind for event in site.events)), ended


def check(races: list[Race]) -> None:
    """That these were races: renewals won before the ending, others were under way when it began, and lost."""
    for each in races:
        print(each)
    assert all(each.tokens > 1 for each in races)
    assert sum(each.in_flight for each in races) >= len(races)
    events = sum((each.events for each in races), Counter[EventKind]())
    for kind in (EventKind.RENEWED, EventKind.DROPPED_RENEWAL, EventKind.DROPPED_WRITE):
        assert events[kind] > 0, kind


async def test_a_log_out_amid_requests_and_renewals_of_its_session(collection: Any) -> None:
    races: list[Race] = []
    for seed in SEEDS:
        site = Site(collection, seed)
        (browser,) = await site.log_in(1)
        leaving = browser.send()
        (await leaving.open()).destroy()
        ran, headers = await race(site, [browser], leaving.answer())
        races.append(ran)
        assert "Max-Age=0" in dict(headers)["Set-Cookie"]
        assert ran.events[EventKind.DESTROYED] == 1
        assert await site.served() == []
        assert [info async for info in site.engine.sessions(SUBJECT)] == []
        assert await collection.count_documents({"epoch": {"$ne": -1}}) == 0
        assert await collection.count_documents({"data": {"$ne": {}}}) == 0
    check(races)


@pytest.mark.parametrize("keep", [False, True], ids=["all", "all but one"])
async def test_logging_out_everywhere_amid_requests_and_renewals(collection: Any, keep: bool) -> None:
    races: list[Race] = []
    kept = 0
    for seed in SEEDS:
        site = Site(collection, seed)
        *others, mine = await site.log_in(DEVICES)
        present = await mine.send().open()
        everywhere = site.engine.revoke_subject(SUBJECT, keep=present if keep else None)
        ran, ended = await race(site, [*others, mine], everywhere)
        races.append(ran)
        assert ended == DEVICES - keep
        assert ran.events[EventKind.REVOKED] == DEVICES - keep
        assert {session.id for session in await site.served()} == ({present.id} if keep else set())
        assert [info.id async for info in site.engine.sessions(SUBJECT)] == ([present.id] if keep else [])
        async with mine.visit() as session:  # the one that stays has lost nothing, whatever it did meanwhile
            assert session.is_new is not keep
            if keep:
                acknowledged = site.acknowledged(mine)
                assert session.keys() - {"device", "requests"} == acknowledged
                assert session.get("requests", 0) == len(acknowledged)
                kept += len(acknowledged)
        assert await collection.count_documents({"epoch": {"$ne": -1}}) == keep
        await collection.delete_many({})
    check(races)
    assert (kept > 0) is keep


async def test_log_ins_amid_logging_out_everywhere(collection: Any) -> None:
    """Who logged in before it began is out; who logs in after it ended is in; nobody is half of either."""
    site = Site(collection, 1)
    before = await site.log_in(DEVICES)
    beside = [Browser(site.engine, site.clock) for _ in range(50)]
    after = [Browser(site.engine, site.clock) for _ in range(5)]

    async def log_in(browser: Browser) -> None:
        for _ in range(site.chance.randrange(100)):
            await asyncio.sleep(0)
        async with browser.visit() as session:
            session.renew(subject=SUBJECT)

    log_ins = [asyncio.create_task(log_in(browser)) for browser in beside]
    ended = await site.engine.revoke_subject(SUBJECT)
    await asyncio.gather(*log_ins, *map(log_in, after))
    for browser in before:
        assert (await browser.send().open()).is_new
    inside = {session.id for browser in [*beside, *after] if not (session := await browser.send().open()).is_new}
    assert {info.id async for info in site.engine.sessions(SUBJECT)} == inside
    print(f"{ended} ended, {len(inside) - len(after)} of {len(beside)} log-ins came after the last look")
    assert ended == len(before) + len(beside) + len(after) - len(inside)
    assert ended > len(before)


async def test_of_a_log_out_and_a_renewal_at_the_same_moment_the_log_out_wins(collection: Any) -> None:
    """Both have read the session; their writes leave together, in either order."""
    first: Counter[str] = Counter()
    for seed in range(40):
        site = Site(collection, seed)
        (browser,) = await site.log_in(1)
        renewing, leaving = browser.send(), browser.send()
        (await renewing.open()).renew()
        (await leaving.open()).destroy()
        answers = [renewing.answer(), leaving.answer()]
        await asyncio.gather(*(answers if seed % 2 else reversed(answers)))
        first["renewal" if EventKind.RENEWED in {event.kind for event in site.events} else "log-out"] += 1
        for exchange in (leaving, renewing):  # the slow answer of the renewal arrives last
            exchange.deliver()
            site.cookies.add(browser.jar.header() or "")
        assert await site.served() == []
    print(first)
    assert len(first) == 2
