"""What applications test with: the clock, the jar, the browser, the counters."""

import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from mongosession import Cookie, DataError, MemoryStore, MongoStore, SessionEngine, StoreUnavailable, Timeouts
from mongosession.store import Changes
from mongosession.testing import (
    Browser,
    CommandCounter,
    CountingStore,
    Events,
    HandClock,
    Jar,
    MemoryEngine,
    logged_in,
    seeded,
)

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
    await quick.answer()
    await slow.answer()
    assert quick.sends_cookie
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


# The engine on memory, events, and users who are logged in.


def test_a_synchronous_test_gets_a_cookie() -> None:
    engine = MemoryEngine()
    name, token = engine.logged_in("user:42").split("=")
    assert (name, len(token)) == ("__Host-session", 64)


@pytest.mark.parametrize("data", [None, {"basket": ["tea"], "visits": 3}])
async def test_an_asynchronous_test_gets_it_the_same_way(data: dict[str, Any] | None) -> None:
    engine = MemoryEngine()
    session = await engine.open(engine.logged_in("user:42", data))
    assert (session.subject, session, session.verdict) == ("user:42", data or {}, "current")


async def test_every_call_logs_in_anew() -> None:
    engine = MemoryEngine()
    ann, bob = [await engine.open(engine.logged_in(f"user:{name}", {"name": name})) for name in ("ann", "bob")]
    assert (ann["name"], bob["name"]) == ("ann", "bob")
    assert ann.id != bob.id


async def test_a_real_engine_makes_the_cookie_too(collection: Any) -> None:
    engine = SessionEngine(MongoStore(collection), keys=[KEY], cookie=Cookie(name="sid", secure=False))
    cookie = await logged_in(engine, "user:42", {"basket": ["tea"]})
    assert cookie.startswith("sid=")
    session = await engine.open(cookie)
    assert (session.subject, session) == ("user:42", {"basket": ["tea"]})
    assert [info.id async for info in engine.sessions("user:42")] == [session.id]


async def test_the_cookie_holds_for_every_server_of_the_application(clock: HandClock, engine: SessionEngine) -> None:
    other = SessionEngine(engine.store, keys=[KEY], clock=clock, random=seeded(2))
    assert (await other.open(await logged_in(engine, "user:42"))).subject == "user:42"


async def test_a_log_in_that_makes_no_sense_says_so() -> None:
    engine = MemoryEngine()
    with pytest.raises(ValueError, match="1 to 512"):
        engine.logged_in("")
    with pytest.raises(DataError, match="basket"):
        await logged_in(engine, "user:42", {"basket": object()})
    assert engine.store.take() == []


async def test_an_engine_on_memory_goes_by_hand() -> None:
    engine = MemoryEngine(timeouts=Timeouts(idle=900))
    cookie = engine.logged_in("user:42")
    assert engine.store.take() == ["create"]
    engine.clock.advance(899)
    assert (await engine.open(cookie)).subject == "user:42"
    engine.clock.advance(1)
    assert (await engine.open(cookie)).verdict == "ended"


async def test_an_engine_on_memory_takes_settings() -> None:
    clock = HandClock(1_800_000_000)
    one, same = [MemoryEngine(clock=clock, keys=["a" * 32], random=seeded(2)) for _ in range(2)]
    cookie = one.logged_in("user:42")
    assert one.clock is clock
    assert cookie == same.logged_in("user:42")  # chance repeats itself
    assert cookie != MemoryEngine(clock=clock, keys=["a" * 32]).logged_in("user:42")
    assert (await MemoryEngine(clock=clock).open(cookie)).verdict == "invalid"  # under another key
    assert (await same.open(cookie)).created_at == datetime.fromtimestamp(1_800_000_000, UTC)


def test_an_engine_tells_its_clock_and_its_chance() -> None:
    clock, chance = HandClock(), seeded(3)
    engine = SessionEngine(MemoryStore(), keys=[KEY], clock=clock, random=chance)
    assert (engine.clock, engine.random) == (clock, chance)
    ordinary = SessionEngine(MemoryStore(), keys=[KEY])
    assert (ordinary.clock, ordinary.random) == (time.time, os.urandom)


def test_every_run_of_a_test_has_the_same_chance() -> None:
    assert MemoryEngine().logged_in("user:42") == MemoryEngine().logged_in("user:42")


async def test_two_engines_on_memory_share_nothing() -> None:
    one, other = MemoryEngine(), MemoryEngine()
    one.clock.advance(60)
    assert (await other.open(one.logged_in("user:42"))).verdict == "ended"
    assert other.clock() == one.clock() - 60


async def test_an_engine_on_memory_has_bad_days() -> None:
    @asynccontextmanager
    async def away(call: str) -> AsyncGenerator[None]:
        raise StoreUnavailable("away")
        yield

    engine = MemoryEngine()
    cookie = engine.logged_in("user:42")
    engine.store.around = away
    with pytest.raises(StoreUnavailable):
        await engine.open(cookie)
    with pytest.raises(StoreUnavailable):
        engine.logged_in("user:43")


async def test_events_are_taken_down_in_their_order() -> None:
    events = Events()
    engine = MemoryEngine(on_event=events)
    browser = Browser(engine, engine.clock)
    async with browser.visit() as session:
        session.renew(subject="user:42")
    engine.clock.advance(5)
    async with browser.visit() as session:
        session.destroy()
    assert events.kinds == ["created", "destroyed"]
    assert {(event.session_id, event.subject) for event in events} == {(events[0].session_id, "user:42")}
    events.clear()
    assert events.kinds == []


async def test_the_counting_store_counts_what_happens_at_once() -> None:
    engine = MemoryEngine()
    cookie = engine.logged_in("user:42", {"flash": "saved"})
    one, other = await engine.open(cookie), await engine.open(cookie)
    assert engine.store.take() == ["create", "load", "load"]
    assert [await each.pop_once("flash") for each in (one, other)] == ["saved", None]
    assert [await each.set_default("csrf", text) for each, text in ((one, "1st"), (other, "2nd"))] == ["1st", "1st"]
    assert engine.store.take() == ["pop", "pop", "set_default", "set_default"]
