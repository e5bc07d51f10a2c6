"""What applications test with: the clock, the jar, the browser, the counters."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mongosession import Cookie, MemoryStore, SessionEngine, StoreUnavailable
from mongosession.store import Changes
from mongosession.testing import Browser, CommandCounter, CountingStore, HandClock, Jar, seeded

from .conftest import CLIENTS, Connect

KEY = "k" * 32
FLAGS = "; Path=/; HttpOnly; Secure; SameSite=Lax"


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def engine(clock: HandClock) -> SessionEngine:
    return SessionEngine(MemoryStore(), keys=[KEY], clock=clock, random=seeded(1))


def test_the_clock_stands_until_it_is_moved(clock: HandClock) -> None:
    before = clock()
    assert clock() == before
    clock.advance(1.5)
    assert clock() == before + 1.5
    assert HandClock(7)() == 7


def test_seeded_chance_repeats_itself() -> None:
    one, same, other = seeded(1), seeded(1), seeded(2)
    drawn = [one(16), one(4)]
    assert [same(16), same(4)] == drawn
    assert [len(each) for each in drawn] == [16, 4]
    assert other(16) != drawn[0]


# The jar.


def test_an_empty_jar_sends_no_header(clock: HandClock) -> None:
    assert Jar(clock).header() is None


def test_the_jar_sends_what_it_was_given(clock: HandClock) -> None:
    jar = Jar(clock)
    jar.receive([("Set-Cookie", f"__Host-session=one{FLAGS}"), ("set-cookie", "theme=dark"), ("Vary", "Cookie")])
    assert jar.header() == "__Host-session=one; theme=dark"
    jar.receive([("Set-Cookie", f"__Host-session=two{FLAGS}")])
    assert jar.header() == "__Host-session=two; theme=dark"


@pytest.mark.parametrize(
    "attributes", ["", "; Path=/", "; Secure", "; Secure; Path=/shop", "; Secure; Path=/; Domain=example.org"]
)
@pytest.mark.parametrize("name", ["__Host-session", "__host-session"])
def test_the_jar_refuses_what_a_browser_refuses(clock: HandClock, name: str, attributes: str) -> None:
    jar = Jar(clock)
    jar.receive([("Set-Cookie", f"{name}=token{attributes}")])
    assert jar.header() is None


@pytest.mark.parametrize("name", ["__Secure-session", "__secure-session"])
def test_the_jar_takes_secure_names_with_secure_alone(clock: HandClock, name: str) -> None:
    jar = Jar(clock)
    jar.receive([("Set-Cookie", f"{name}=plain; Path=/shop")])
    assert jar.header() is None
    jar.receive([("Set-Cookie", f"{name}=safe; Path=/shop; Secure")])
    assert jar.header() == f"{name}=safe"


def test_the_jar_forgets_what_has_run_out(clock: HandClock) -> None:
    jar = Jar(clock)
    jar.receive([("Set-Cookie", "short=1; Max-Age=10"), ("Set-Cookie", "long=1")])
    clock.advance(9.9)
    assert jar.header() == "short=1; long=1"
    clock.advance(0.1)
    assert jar.header() == "long=1"


def test_the_jar_drops_a_cookie_that_is_deleted(clock: HandClock) -> None:
    jar = Jar(clock)
    jar.receive([("Set-Cookie", f"__Host-session=one; Max-Age=100{FLAGS}")])
    jar.receive([("Set-Cookie", f"__Host-session=; Max-Age=0{FLAGS}")])
    jar.receive([("Set-Cookie", f"__Host-session=; Max-Age=-1{FLAGS}")])
    assert jar.header() is None


def test_a_copied_jar_goes_its_own_way(clock: HandClock) -> None:
    jar = Jar(clock)
    jar.receive([("Set-Cookie", "a=1")])
    copy = jar.copy()
    jar.receive([("Set-Cookie", "a=2")])
    assert (jar.header(), copy.header()) == ("a=2", "a=1")


# The browser.


async def test_a_visit_is_one_request_answered(engine: SessionEngine, clock: HandClock) -> None:
    browser = Browser(engine, clock)
    async with browser.visit() as session:
        session["basket"] = ["tea"]
    async with browser.visit() as session:
        assert session == {"basket": ["tea"]}


async def test_a_visit_passes_its_arguments_on(engine: SessionEngine, clock: HandClock) -> None:
    browser = Browser(engine, clock)
    async with browser.visit(status=500) as session:
        session["basket"] = ["tea"]
    assert browser.jar.header() is None
    async with browser.visit() as session:
        session["basket"] = ["tea"]
    before = browser.jar.header()
    clock.advance(5)
    async with browser.visit(tokens=False) as session:
        assert session.verdict == "due"
    assert browser.jar.header() == before


async def test_an_exception_in_a_visit_commits_nothing(engine: SessionEngine, clock: HandClock) -> None:
    browser = Browser(engine, clock)
    with pytest.raises(ZeroDivisionError):
        async with browser.visit() as session:
            session["basket"] = [1 // 0]
    assert browser.jar.header() is None


async def test_requests_overtake_each_other_and_answers_are_lost(engine: SessionEngine, clock: HandClock) -> None:
    browser = Browser(engine, clock)
    async with browser.visit() as session:
        session["visits"] = 1
    slow, quick = browser.send(), browser.send()
    assert slow.cookie == quick.cookie == browser.jar.header()
    clock.advance(5)
    assert (await quick.open()).verdict == "due"
    assert (await slow.open()).verdict == "due"
    assert not slow.sends_cookie
    await slow.answer()
    await quick.answer()
    assert slow.sends_cookie
    assert browser.jar.header() == slow.cookie  # neither was delivered
    quick.deliver()
    assert browser.jar.header() != slow.cookie


async def test_an_exchange_has_to_be_opened_before_it_is_answered(engine: SessionEngine, clock: HandClock) -> None:
    with pytest.raises(RuntimeError, match=r"call open\(\) first"):
        await Browser(engine, clock).send().answer()


async def test_a_browser_visits_several_servers(engine: SessionEngine, clock: HandClock) -> None:
    other = SessionEngine(engine.store, keys=[KEY], clock=clock, random=seeded(2))
    browser = Browser(engine, clock)
    async with browser.visit() as session:
        session["basket"] = ["tea"]
    assert await browser.send(other).open() == {"basket": ["tea"]}


async def test_it_works_with_other_cookies(clock: HandClock) -> None:
    engine = SessionEngine(
        MemoryStore(), keys=[KEY], cookie=Cookie(name="sid", secure=False, persistent=False), clock=clock
    )
    browser = Browser(engine, clock)
    async with browser.visit() as session:
        session["basket"] = ["tea"]
    async with browser.visit() as session:
        assert session == {"basket": ["tea"]}
        session.destroy()
    assert browser.jar.header() is None


# The counters.


async def test_the_counting_store_counts(clock: HandClock) -> None:
    store = CountingStore(MemoryStore())
    engine = SessionEngine(store, keys=[KEY], clock=clock, random=seeded(1))
    browser = Browser(engine, clock)
    await engine.setup()
    async with browser.visit() as session:
        session.renew(subject="user:42")
    assert store.take() == ["setup", "create"]
    async with browser.visit() as session:
        session["basket"] = ["tea"]
    assert [each.id async for each in engine.sessions("user:42")] == [session.id]
    assert store.take() == ["load", "update", "find"]
    assert store.take() == []


async def test_the_counting_store_has_bad_days(clock: HandClock) -> None:
    reached: list[str] = []

    @asynccontextmanager
    async def away(call: str) -> AsyncGenerator[None]:
        reached.append(call)
        raise StoreUnavailable("away")
        yield

    store = CountingStore(MemoryStore(), around=away)
    with pytest.raises(StoreUnavailable):
        await store.setup()
    with pytest.raises(StoreUnavailable):
        await store.load(b"")
    with pytest.raises(StoreUnavailable):
        await store.update(b"", Changes())
    with pytest.raises(StoreUnavailable):
        assert [each async for each in store.find()]
    browser = Browser(SessionEngine(store, keys=[KEY], clock=clock, random=seeded(1)), clock)
    with pytest.raises(StoreUnavailable):
        async with browser.visit() as session:
            session["basket"] = ["tea"]
    assert reached == store.take() == ["setup", "load", "update", "find", "create"]


async def test_the_counting_store_loses_answers(clock: HandClock) -> None:
    @asynccontextmanager
    async def lost(call: str) -> AsyncGenerator[None]:
        yield
        raise StoreUnavailable("no answer")

    memory = MemoryStore()
    browser = Browser(SessionEngine(CountingStore(memory, lost), keys=[KEY], clock=clock), clock)
    with pytest.raises(StoreUnavailable):
        async with browser.visit() as session:
            session["basket"] = ["tea"]
    assert len([each async for each in memory.find()]) == 1


async def test_the_command_counter_counts(connect: Connect, driver: str) -> None:
    assert driver in CLIENTS
    counter = CommandCounter()
    collection: Any = connect(driver, listeners=[counter])
    await collection.insert_one({"_id": 1})
    await collection.find_one()
    assert counter.take() == ["insert", "find"]
    assert counter.take() == []
