"""How long a session lives, what it says of itself, and how many of them a subject may have."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mongosession import Cookie, DataError, EventKind, MongoStore, Rotation, SessionEngine, StoreUnavailable, Timeouts
from mongosession.testing import Browser, CommandCounter, HandClock, seeded

from .building import Change, a_session
from .conftest import Connect
from .world import KEY, World, away

DAY = 86400.0


class Site:
    """A site over one collection, with a clock and the commands that it sends; every session of it is short."""

    def __init__(self, collection: Any, counter: CommandCounter) -> None:
        self.counter = counter
        self.clock = HandClock()
        self.chance = seeded(7)
        self.store = MongoStore(collection)
        self.events: list[tuple[EventKind, str]] = []
        self.engine = self.serve()
        self.browser = Browser(self.engine, self.clock)

    def serve(self, **options: Any) -> SessionEngine:
        """A server of this site."""
        options = {"timeouts": Timeouts(idle=600, absolute=30 * DAY)} | options
        return SessionEngine(
            self.store,
            keys=[KEY],
            clock=self.clock,
            random=self.chance,
            on_event=lambda event: self.events.append((event.kind, event.reason)),
            **options,
        )

    async def log_in(self, browser: Browser, subject: str = "user:42", **life: Any) -> str:
        """Somebody logs in. Returns the session's id."""
        async with browser.visit() as session:
            session["at"] = "home"
            session.renew(subject=subject)
            if life:
                session.set_expiry(**life)
        assert session.id is not None
        return session.id

    async def lives(self, browser: Browser) -> bool:
        """Whether the browser's cookie opens a session."""
        async with browser.visit() as session:
            return not session.is_new

    async def devices(self, subject: str = "user:42") -> list[dict[str, str]]:
        """The descriptions of a subject's sessions."""
        return [dict(each.description) async for each in self.engine.sessions(subject)]


@pytest.fixture
def site(connect: Connect, driver: str) -> Site:
    counter = CommandCounter()
    return Site(connect(driver, listeners=[counter]), counter)


@pytest.fixture
def world() -> World:
    return World(timeouts=Timeouts(idle=600, absolute=30 * DAY))


def age_of(headers: list[tuple[str, str]]) -> int | None:
    """Max-Age of the cookie that an answer sets; None: until the browser is closed."""
    [line] = [value for field, value in headers if field == "Set-Cookie"]
    ages = [part.strip().removeprefix("Max-Age=") for part in line.split(";") if part.strip().startswith("Max-Age=")]
    return int(ages[0]) if ages else None


# Idle and absolute timeout, and a life of its own.


async def test_both_timeouts_hold_at_once(site: Site) -> None:
    await site.log_in(site.browser)
    for _ in range(3):
        site.clock.advance(590)
        assert await site.lives(site.browser)
    site.clock.advance(601)
    assert not await site.lives(site.browser)


async def test_remember_me_outlives_the_idle_timeout_and_not_the_absolute_one(site: Site) -> None:
    remembered, plain = site.browser, Browser(site.engine, site.clock)
    await site.log_in(remembered, idle=20 * DAY)
    await site.log_in(plain)
    site.clock.advance(19 * DAY)
    assert await site.lives(remembered)
    assert not await site.lives(plain)
    site.clock.advance(12 * DAY)  # 31 days after the log-in
    assert not await site.lives(remembered)


async def test_a_shorter_life(site: Site) -> None:
    await site.log_in(site.browser, idle=60)
    site.clock.advance(59)
    assert await site.lives(site.browser)
    site.clock.advance(61)
    assert not await site.lives(site.browser)


@pytest.mark.parametrize(("before", "after"), [(600, 60), (60, 600)])
async def test_a_life_can_be_changed_and_taken_back(site: Site, before: float, after: float) -> None:
    await site.log_in(site.browser, idle=before)
    async with site.browser.visit() as session:
        session.set_expiry(idle=after)
    assert session.expires_at is not None
    assert session.expires_at.timestamp() == site.clock() + after
    site.clock.advance(after - 1)
    assert await site.lives(site.browser)
    async with site.browser.visit() as session:
        session.set_expiry()
    site.clock.advance(599)
    assert await site.lives(site.browser)
    site.clock.advance(601)
    assert not await site.lives(site.browser)


async def test_the_database_may_delete_it_no_sooner_and_not_much_later(site: Site) -> None:
    its_id = await site.log_in(site.browser, idle=60)
    for idle in (5 * DAY, 300.0):
        site.clock.advance(20)
        async with site.browser.visit() as session:
            session.set_expiry(idle=idle)
        record = await site.store.load(bytes.fromhex(its_id))
        assert record is not None
        assert (record.idle, record.expires_at, record.seen_at) == (idle, site.clock() + idle, site.clock())


async def test_the_life_of_a_new_session(world: World) -> None:
    async with world.browser.visit() as session:
        session["n"] = 1
        session.set_expiry(idle=60)
    assert session.expires_at is not None
    assert session.expires_at.timestamp() == world.clock() + 60
    world.clock.advance(61)
    assert await world.read() == {}


async def test_a_life_beyond_the_absolute_timeout_ends_with_it(world: World) -> None:
    async with world.browser.visit() as session:
        session["n"] = 1
        session.set_expiry(idle=400 * DAY)
    assert session.expires_at is not None
    assert session.expires_at.timestamp() == world.clock() + 30 * DAY


async def test_the_next_subject_is_not_bound_by_the_choice_of_the_last(world: World) -> None:
    await world.begin()
    async with world.browser.visit() as session:
        session.renew(subject="a")
        session.set_expiry(idle=20 * DAY, persistent=False)
    its_id = session.id or ""
    async with world.browser.visit() as session:
        session.renew(subject="a")
    assert ((await world.record(its_id)).idle, (await world.record(its_id)).persistent) == (20 * DAY, False)
    async with world.browser.visit() as session:
        session.renew()
    assert ((await world.record(its_id)).idle, (await world.record(its_id)).persistent) == (20 * DAY, False)
    async with world.browser.visit() as session:
        session.renew(subject="b")
    record = await world.record(its_id)
    assert (record.subject, record.idle, record.persistent) == ("b", None, None)
    assert record.expires_at == world.clock() + 600


async def test_a_life_alone_begins_no_session(world: World) -> None:
    exchange = world.browser.send()
    session = await exchange.open()
    session.set_expiry(idle=60, persistent=False)
    session.describe(address="::1")
    assert await exchange.answer() == []
    assert world.store.take() == []
    assert world.happened() == []


async def test_the_same_life_again_costs_no_write(world: World) -> None:
    await world.begin()
    for _ in range(2):
        async with world.browser.visit() as session:
            session.set_expiry(idle=60, persistent=True)
            session.describe(address="::1")
    assert world.store.take()[-1:] == ["load"]


async def test_a_5xx_discards_a_life(world: World) -> None:
    its_id = await world.begin()
    async with world.browser.visit(status=500) as session:
        session.set_expiry(idle=60, persistent=False)
        session.describe(address="::1")
    record = await world.record(its_id)
    assert (record.idle, record.persistent, record.description) == (None, None, None)


async def test_a_life_that_cannot_be_written_is_no_secret(world: World) -> None:
    await world.begin()
    exchange = world.browser.send()
    session = await exchange.open()
    session.set_expiry(idle=60)
    world.store.around = away
    with pytest.raises(StoreUnavailable):
        await exchange.answer()


async def test_a_failed_save_is_made_up_for(world: World) -> None:
    its_id = await world.begin()
    exchange = world.browser.send()
    session = await exchange.open()
    session.set_expiry(idle=60, persistent=False)
    session.describe(address="::1")
    world.store.around = away
    with pytest.raises(StoreUnavailable):
        await session.save()
    session.describe(address="::2")
    world.recover()
    headers = await exchange.answer()
    record = await world.record(its_id)
    assert (record.idle, record.persistent, record.description) == (60, False, {"address": "::2"})
    assert age_of(headers) is None


async def test_what_is_said_during_a_save_that_fails_counts_more(world: World) -> None:
    its_id = await world.begin()
    exchange = world.browser.send()
    session = await exchange.open()
    session.set_expiry(idle=60)
    session.describe(address="::1")

    @asynccontextmanager
    async def meanwhile(call: str) -> AsyncGenerator[None]:
        session.set_expiry(idle=70)
        session.describe(address="::2")
        raise StoreUnavailable("away")
        yield

    world.store.around = meanwhile
    with pytest.raises(StoreUnavailable):
        await session.save()
    world.recover()
    await exchange.answer()
    record = await world.record(its_id)
    assert (record.idle, record.description) == (70, {"address": "::2"})


async def test_a_save_that_writes_nothing_forgets_nothing(world: World) -> None:
    exchange = world.browser.send()
    session = await exchange.open()
    session.set_expiry(idle=300, persistent=False)
    session.describe(address="::1")
    assert not await session.save()
    session["n"] = 1
    assert age_of(await exchange.answer()) is None
    record = await world.record(session.id or "")
    assert (record.idle, record.persistent, record.description) == (300, False, {"address": "::1"})


async def test_a_save_that_ends_the_session_keeps_them_for_the_next(world: World) -> None:
    await world.begin()
    exchange = world.browser.send()
    session = await exchange.open()
    session.destroy()
    session.set_expiry(idle=300)
    assert not await session.save()
    session["n"] = 1
    await exchange.answer()
    assert (await world.record(session.id or "")).idle == 300


@pytest.mark.parametrize("ask", [lambda s: s.set_expiry(idle=300), lambda s: s.describe(address="::1")])
async def test_what_a_late_request_says_of_its_session_is_dropped_with_an_event(world: World, ask: Change) -> None:
    await world.begin()
    late = world.browser.send()
    async with world.browser.visit() as session:
        session.renew()
    ask(await late.open())
    world.events()
    await late.answer()
    assert world.happened() == ["dropped_write"]


async def test_a_life_that_comes_with_a_refused_change_is_not_written(site: Site) -> None:
    await site.log_in(site.browser)
    async with site.browser.visit() as session:
        session["n"] = 1
    site.clock.advance(5)
    exchange = site.browser.send()
    session = await exchange.open()
    async with site.browser.visit() as other:
        other["n"] = "text"
    session.increment("n")
    session.set_expiry(idle=60)
    session.describe(address="::1")
    with pytest.raises(DataError):
        await exchange.answer()
    record = await site.store.load(bytes.fromhex(session.id or ""))
    assert record is not None
    assert (record.idle, record.description) == (None, None)


async def test_a_session_begun_by_a_save_was_seen_when_it_began_though_it_gets_a_life_afterwards(world: World) -> None:
    exchange = world.browser.send()
    session = await exchange.open()
    session["at"] = "home"
    await session.save()
    began = session.seen_at
    session.set_expiry(idle=550)
    await exchange.answer()
    assert session.seen_at == began
    world.store.take()
    session["at"] = "shop"
    assert await session.save()
    assert world.store.take() == ["update"]  # it is known to live


async def test_the_answer_to_a_failed_commit_says_yet_that_the_session_was_seen(world: World) -> None:
    its_id = await world.begin()
    world.clock.advance(100)
    session = await world.browser.send().open()
    session["at"] = "shop"
    world.store.around = away
    with pytest.raises(StoreUnavailable):
        await world.engine.commit(session)
    world.recover()
    await world.engine.commit(session, status=409)
    assert (await world.record(its_id)).seen_at == world.clock()


async def test_a_slow_request_that_sets_a_life_sees_itself_as_the_last(world: World) -> None:
    its_id = await world.begin()
    slow = world.browser.send()
    session = await slow.open()
    world.clock.advance(500)
    await world.read()  # which is written: the session was last seen now
    session.set_expiry(idle=550)
    await slow.answer()
    record = await world.record(its_id)
    assert record.expires_at == record.seen_at + 550


@pytest.mark.parametrize("idle", [0, -1, float("nan"), float("inf"), pytest.param(10**400, id="huge"), True, "60"])
def test_a_life_that_makes_no_sense(idle: Any) -> None:
    with pytest.raises(ValueError, match=r"set_expiry\(idle=.*above 0 .*, or None"):
        a_session().set_expiry(idle=idle)


@pytest.mark.parametrize("persistent", [0, 1, "yes"])
def test_a_persistence_that_makes_no_sense(persistent: Any) -> None:
    with pytest.raises(TypeError, match=r"set_expiry\(persistent=.*True, False or None"):
        a_session().set_expiry(persistent=persistent)


# Cookies that outlive the browser, or not.


@pytest.mark.parametrize("default", [True, False])
async def test_a_session_says_whether_its_cookie_outlives_the_browser(*, default: bool) -> None:
    world = World(cookie=Cookie(persistent=default))
    exchange = world.browser.send()
    session = await exchange.open()
    session["n"] = 1
    session.set_expiry(persistent=not default)
    headers = await exchange.answer()
    assert (age_of(headers) is None) is default
    exchange.deliver()
    for _ in range(2):  # each rotation says so again
        world.clock.advance(5)
        exchange = world.browser.send()
        await exchange.open()
        assert (age_of(await exchange.answer()) is None) is default
        exchange.deliver()


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("ttl", [5, None])
async def test_a_change_of_mind_is_told_to_the_browser_at_once(ttl: float | None, *, early: bool) -> None:
    world = World(rotation=Rotation(ttl=ttl))
    await world.begin()
    token = world.browser.jar.header()
    exchange = world.browser.send()
    session = await exchange.open()
    session.set_expiry(persistent=False)
    if early:
        assert await session.save()
    assert age_of(await exchange.answer()) is None
    exchange.deliver()
    assert world.browser.jar.header() == token  # nothing was rotated
    async with world.browser.visit() as session:
        assert session.verdict == "current"
        session.set_expiry(persistent=False)
    assert world.store.take()[-1] == "load"


async def test_who_is_behind_is_told_with_the_next_token(world: World) -> None:
    await world.begin()
    world.clock.advance(5)
    slow, quick = world.browser.send(), world.browser.send()
    await quick.open()
    await quick.answer()
    session = await slow.open()
    assert session.verdict == "behind"
    session.set_expiry(persistent=False)
    assert not any(field == "Set-Cookie" for field, _ in await slow.answer())
    quick.deliver()
    world.clock.advance(5)
    exchange = world.browser.send()
    await exchange.open()
    assert age_of(await exchange.answer()) is None


async def test_a_renewal_tells_it_too(world: World) -> None:
    await world.begin()
    exchange = world.browser.send()
    session = await exchange.open()
    session.renew(subject="a")
    session.set_expiry(persistent=False)
    assert age_of(await exchange.answer()) is None


# Descriptions.


async def test_devices_are_described(site: Site) -> None:
    phone, laptop = site.browser, Browser(site.engine, site.clock)
    for browser, agent in ((phone, "Phone"), (laptop, "Laptop")):
        async with browser.visit() as session:
            session.describe(user_agent=agent, address="::1", nothing=None, empty="")
            session.renew(subject="user:42")
    assert sorted(await site.devices(), key=str) == [
        {"user_agent": "Laptop", "address": "::1"},
        {"user_agent": "Phone", "address": "::1"},
    ]
    async with phone.visit() as session:
        session.describe(address="::2")
    assert {"address": "::2"} in await site.devices()
    async with phone.visit() as session:
        session.describe()
    assert {} in await site.devices()


async def test_a_list_of_devices(site: Site) -> None:
    its_id = await site.log_in(site.browser)
    begun = site.clock()
    site.clock.advance(100)
    assert await site.lives(site.browser)
    [info] = [each async for each in site.engine.sessions("user:42")]
    assert (info.id, info.subject, info.description) == (its_id, "user:42", {})
    info.description["user_agent"] = "changed"  # type: ignore[index]  # at least nobody else sees it
    assert await site.devices() == [{}]
    times = (info.created_at, info.seen_at, info.expires_at)
    assert [time.timestamp() for time in times] == [begun, site.clock(), site.clock() + 600]


async def test_a_description_survives_a_log_in_and_ends_with_the_session(world: World) -> None:
    its_id = await world.begin()
    async with world.browser.visit() as session:
        session.describe(user_agent="Phone", self="a name like any other")
    async with world.browser.visit() as session:
        session.renew(subject="a")
    assert (await world.record(its_id)).description == {"user_agent": "Phone", "self": "a name like any other"}
    async with world.browser.visit() as session:
        session.renew(subject="b")
    assert (await world.record(its_id)).description is None
    async with world.browser.visit() as session:
        session.describe(user_agent="Phone")
    async with world.browser.visit() as session:
        session.destroy()
    assert (await world.record(its_id)).description is None


@pytest.mark.parametrize("again", [lambda s: s.describe(address="::1"), lambda s: s.set_expiry(idle=300)])
async def test_a_rotation_may_fail_where_a_session_is_told_what_it_has_already(world: World, again: Change) -> None:
    await world.begin()
    async with world.browser.visit() as session:
        again(session)
    world.clock.advance(100)
    async with world.browser.visit() as session:
        again(session)
        world.store.around = away
    assert world.happened()[-1] is EventKind.STORE_FAILED


async def test_parallel_requests_that_describe_a_session_as_it_is_rotate_it_once(world: World) -> None:
    await world.begin()
    async with world.browser.visit() as session:
        session.describe(address="::1")
    world.clock.advance(100)
    exchanges = [world.browser.send() for _ in range(3)]
    for exchange in exchanges:
        (await exchange.open()).describe(address="::1")
    world.store.take()
    for exchange in exchanges:
        await exchange.answer()
    assert world.store.take() == ["update"]


async def test_what_a_client_says_of_itself_is_cut(world: World) -> None:
    await world.begin()
    async with world.browser.visit() as session:
        session.describe(user_agent="x" * 10_000, odd="\ud800\0é")
    record = await world.record(session.id or "")
    assert record.description == {"user_agent": "x" * 256, "odd": "\N{REPLACEMENT CHARACTER}\0é"}


async def test_a_description_on_a_real_server_may_hold_anything(site: Site) -> None:
    await site.log_in(site.browser)
    async with site.browser.visit() as session:
        session.describe(**{"user agent": "\0$set", "é": "\udfff.", "_id": "1"})
    assert await site.devices() == [{"user agent": "\0$set", "é": "\N{REPLACEMENT CHARACTER}.", "_id": "1"}]


async def test_a_connection_keeps_a_session_alive_that_has_taken_the_place_of_a_longer_one(world: World) -> None:
    async with world.browser.visit() as session:
        session["at"] = "home"
        session.set_expiry(idle=20 * DAY)
    exchange = world.browser.send()
    session = await exchange.open()
    assert session.id is not None
    await world.engine.revoke(session.id)
    session.renew(subject="user:42")  # the session has ended: it begins another, that lives as all do
    await exchange.answer()
    for _ in range(4):
        world.clock.advance(400)
        await world.engine.commit(session, sent=True)
    exchange.deliver()
    async with world.browser.visit() as later:
        assert (later.subject, later.id) == ("user:42", session.id)


async def test_a_connection_notices_the_absolute_end_of_a_session_that_it_leaves_as_it_is() -> None:
    world = World(timeouts=Timeouts(idle=20 * DAY, absolute=30 * DAY))
    await world.begin()
    exchange = world.browser.send()
    session = await exchange.open()
    session.set_expiry(idle=400 * DAY)
    await exchange.answer()
    world.clock.advance(30 * DAY)
    await world.engine.commit(session, sent=True)
    assert session.is_new


async def test_a_description_may_be_recorded_while_streaming(world: World) -> None:
    its_id = await world.begin()
    exchange = world.browser.send()
    session = await exchange.open()
    await exchange.answer()
    session.describe(user_agent="Phone")
    session.set_expiry(idle=60)
    assert await session.save()
    record = await world.record(its_id)
    assert (record.description, record.idle) == ({"user_agent": "Phone"}, 60)


@pytest.mark.parametrize(
    ("details", "error", "message"),
    [
        ({str(number): "x" for number in range(9)}, ValueError, "9 details.*at most 8"),
        ({"a.b": "x"}, ValueError, r"describe\('a.b'=...\)"),
        ({"$a": "x"}, ValueError, "without"),
        ({"a\0": "x"}, ValueError, "NUL"),
        ({"\ud800": "x"}, ValueError, "name"),
        ({"": "x"}, ValueError, "1 to 64"),
        ({"x" * 65: "x"}, ValueError, "1 to 64"),
        ({"a": 1}, TypeError, r"describe\(a=1\)"),
    ],
)
def test_descriptions_that_make_no_sense(details: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        a_session().describe(**details)


# How many.


async def test_the_oldest_log_ins_beyond_the_limit_end(site: Site) -> None:
    engine = site.serve(max_sessions=2)
    browsers = [Browser(engine, site.clock) for _ in range(4)]
    ids: list[str] = []
    for browser in browsers:
        site.clock.advance(1)
        ids.append(await site.log_in(browser))
        assert await site.lives(browsers[0]) is (len(ids) <= 2)
    assert [await site.lives(browser) for browser in browsers] == [False, False, True, True]
    assert site.events.count((EventKind.REVOKED, "surplus")) == 2
    assert {each.id async for each in engine.sessions("user:42")} == set(ids[2:])


async def test_others_are_left_alone(site: Site) -> None:
    engine = site.serve(max_sessions=1)
    another, visitor, browser = (Browser(engine, site.clock) for _ in range(3))
    await site.log_in(another, "user:43")
    async with visitor.visit() as session:
        session["n"] = 1
    for _ in range(3):
        await site.log_in(browser)  # the same session, logged in again
    assert [await site.lives(each) for each in (another, visitor, browser)] == [True] * 3
    assert site.events.count((EventKind.REVOKED, "surplus")) == 0


async def test_who_logs_in_again_counts_as_new(site: Site) -> None:
    engine = site.serve(max_sessions=2)
    browsers = [Browser(engine, site.clock) for _ in range(3)]
    for browser in (browsers[0], browsers[1], browsers[0], browsers[2]):
        site.clock.advance(1)
        await site.log_in(browser)
    assert [await site.lives(browser) for browser in browsers] == [True, False, True]


async def test_expired_ones_do_not_count(site: Site) -> None:
    engine = site.serve(max_sessions=2)
    browsers = [Browser(engine, site.clock) for _ in range(3)]
    await site.log_in(browsers[0], idle=60)
    await site.log_in(browsers[1])
    site.clock.advance(100)
    await site.log_in(browsers[2])
    assert site.events.count((EventKind.REVOKED, "surplus")) == 0
    assert [await site.lives(browser) for browser in browsers] == [False, True, True]


async def test_it_costs_a_log_in_one_more_read_and_others_nothing(site: Site) -> None:
    browser = Browser(site.serve(max_sessions=2), site.clock)
    async with browser.visit() as session:
        session["n"] = 1
    assert site.counter.take() == ["insert"]
    await site.log_in(browser)
    assert site.counter.take() == ["find", "findAndModify", "find"]
    async with browser.visit() as session:
        session["n"] = 2
        session.renew()
    assert site.counter.take() == ["find", "findAndModify"]


async def test_log_ins_at_the_same_moment_leave_as_many_as_the_limit(world: World) -> None:
    engine = world.serve(max_sessions=2)
    exchanges = [Browser(engine, world.clock).send() for _ in range(5)]
    for exchange in exchanges:
        (await exchange.open()).renew(subject="a")
    arrived = 0
    all_written = asyncio.Event()

    @asynccontextmanager
    async def together(call: str) -> AsyncGenerator[None]:
        """Nobody counts before all have logged in; and no two find them in the same order."""
        nonlocal arrived
        if call == "find":
            arrived += 1
            world.memory.shuffle(arrived)
            if arrived == len(exchanges):
                all_written.set()
            await all_written.wait()
        yield

    world.store.around = together
    await asyncio.gather(*(exchange.answer() for exchange in exchanges))
    assert await world.living() == 2


async def test_a_server_whose_clock_is_behind_does_not_end_the_log_in_of_the_moment(world: World) -> None:
    ahead, right = world.serve(max_sessions=1, ahead=60), world.serve(max_sessions=1)
    first, second = Browser(ahead, world.clock), Browser(right, world.clock)
    async with first.visit() as session:
        session.renew(subject="a")
    world.clock.advance(30)
    async with second.visit() as session:
        session.renew(subject="a")
    async with second.visit() as session:
        assert session.subject == "a"
    assert await world.living() == 1


async def test_a_log_in_stands_where_the_count_fails(world: World) -> None:
    @asynccontextmanager
    async def uncounted(call: str) -> AsyncGenerator[None]:
        if call == "find":
            raise StoreUnavailable("away")
        yield

    browser = Browser(world.serve(max_sessions=1), world.clock)
    world.store.around = uncounted
    async with browser.visit() as session:
        session.renew(subject="a")
    assert world.happened() == ["created", "store_failed"]
    async with browser.visit() as session:
        assert session.subject == "a"


@pytest.mark.parametrize("limit", [0, -1, True, float("nan"), 2.5, float("inf")])
def test_a_limit_that_makes_no_sense(world: World, limit: Any) -> None:
    with pytest.raises(ValueError, match="at least 1, or None for any number"):
        world.serve(max_sessions=limit)
