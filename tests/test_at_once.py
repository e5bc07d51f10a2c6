"""What is done at once: ``pop_once`` and ``set_default``, alone and in races, in memory and on a real MongoDB."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mongosession import DataError, EventKind, MemoryStore, MongoStore, SessionEngine, StoreUnavailable
from mongosession.store import Store
from mongosession.testing import Browser, CommandCounter, Exchange, HandClock, seeded

from .building import Change, do
from .conftest import CLIENTS, Connect
from .world import KEY, World, away, lost


class Shop:
    """A site, its commands, and a browser with a session that holds a flash message."""

    def __init__(self, store: Store) -> None:
        self.clock = HandClock()
        self.events: list[EventKind] = []
        self.engine = SessionEngine(
            store,
            keys=[KEY],
            clock=self.clock,
            random=seeded(3),
            max_data=2000,
            on_event=lambda event: self.events.append(event.kind),
        )
        self.browser = Browser(self.engine, self.clock)

    async def begin(self, **data: Any) -> None:
        """The session is stored, and nothing has happened since."""
        async with self.browser.visit() as session:
            session.update(data or {"flash": ["saved"]})
        self.events.clear()

    async def holds(self) -> dict[str, Any]:
        """What is stored."""
        async with self.browser.visit() as session:
            return session.copy()


@pytest.fixture(params=["memory", *CLIENTS])
def shop(request: pytest.FixtureRequest, connect: Connect) -> Shop:
    return Shop(MemoryStore() if request.param == "memory" else MongoStore(connect(request.param)))


@pytest.fixture
def world() -> World:
    return World(max_data=2000)


async def opened(browser: Browser, times: int) -> list[Exchange]:
    """So many requests with the same cookie, all of which have read their session."""
    exchanges = [browser.send() for _ in range(times)]
    await asyncio.gather(*(exchange.open() for exchange in exchanges))
    return exchanges


# One request.


async def test_a_value_is_popped_and_gone(shop: Shop) -> None:
    await shop.begin(flash=["saved"], n=1)
    async with shop.browser.visit() as session:
        assert await session.pop_once("flash") == ["saved"]
        assert session == {"n": 1}
        assert await session.pop_once("flash") is None
        assert await session.pop_once("flash", "nothing") == "nothing"
    assert await shop.holds() == {"n": 1}
    assert shop.events == []


async def test_a_default_is_set_and_stays(shop: Shop) -> None:
    await shop.begin(n=1)
    async with shop.browser.visit() as session:
        value: list[int] = [1]
        assert await session.set_default("a", value) == [1]
        assert await session.set_default("a", [2]) == [1]
        assert await session.set_default("n", 2) == 1
        assert await session.set_default("nothing") is None
        assert session == {"n": 1, "a": [1], "nothing": None}
    assert await shop.holds() == {"n": 1, "a": [1], "nothing": None}


@pytest.mark.parametrize("key", ["", ".", "a.b", "$set", "\0", "%", "0", "data", "ü", "\ud800"])
async def test_any_key_will_do(shop: Shop, key: str) -> None:
    await shop.begin(n=1)
    async with shop.browser.visit() as session:
        assert await session.set_default(key, {"a.b": {"$c": (1,)}}) == {"a.b": {"$c": [1]}}
    async with shop.browser.visit() as session:
        assert await session.pop_once(key) == {"a.b": {"$c": [1]}}
    assert await shop.holds() == {"n": 1}


async def test_what_was_done_at_once_is_no_change_and_other_changes_are(shop: Shop) -> None:
    await shop.begin(flash=1, n=1, nested={"a": []})
    async with shop.browser.visit() as session:
        session["n"] += 1
        assert await session.pop_once("flash") == 1
        session["nested"]["a"].append(1)
        assert await session.set_default("first", []) == []
        session["m"] = 1
    assert await shop.holds() == {"n": 2, "nested": {"a": [1]}, "first": [], "m": 1}


async def test_what_comes_after_counts(shop: Shop) -> None:
    await shop.begin(flash=1)
    async with shop.browser.visit() as session:
        await session.pop_once("flash")
        session["flash"] = 2
        (await session.set_default("list", [])).append("nested")
        await session.set_default("gone", 1)
        del session["gone"]
        await session.set_default("n", 1)
        session.increment("n")
    assert await shop.holds() == {"flash": 2, "list": ["nested"], "n": 2}


async def test_a_value_of_this_very_request_is_simply_popped(world: World) -> None:
    await world.begin({"flash": 1, "list": [1]})
    world.store.take()
    async with world.browser.visit() as session:
        session["flash"] = 2
        session["new"] = 3
        session["list"].append(2)
        popped = [await session.pop_once(key) for key in ("flash", "new", "list")]
        assert popped == [2, 3, [1, 2]]
        assert await session.set_default("flash", 4) == 4
    assert world.store.take() == ["load", "update"]
    assert await world.read() == {"flash": 4}


async def test_what_this_request_has_deleted_is_not_asked_for(world: World) -> None:
    await world.begin({"flash": 1})
    world.store.take()
    async with world.browser.visit() as session:
        del session["flash"]
        assert await session.pop_once("flash") is None
        session.clear()
        session["a"] = 1
        assert await session.pop_once("a") == 1
    assert world.store.take() == ["load", "update"]


async def test_after_an_operator_it_is_an_error(world: World) -> None:
    await world.begin({"hits": 1})
    async with world.browser.visit() as session:
        session.increment("hits")
        for call in (session.pop_once("hits"), session.set_default("hits", 1)):
            with pytest.raises(DataError, match=r"session\['hits'\] is asked for at once after increment.*save\(\)"):
                await call
        assert await session.save()
        assert await session.pop_once("hits") == 2
    assert await world.read() == {}


async def test_where_there_is_no_session_yet_nobody_else_can_have_written(world: World) -> None:
    async with world.browser.visit() as session:
        assert await session.pop_once("flash", "none") == "none"
        assert await session.set_default("csrf", "x") == "x"
        assert await session.set_default("csrf", "y") == "x"
    assert world.store.take() == ["create"]
    assert await world.read() == {"csrf": "x"}


async def test_no_value_was_read_and_nothing_is_asked(world: World) -> None:
    await world.begin({"n": 1})
    world.store.take()
    async with world.browser.visit() as session:
        assert await session.pop_once("flash") is None
        assert await session.set_default("n", 2) == 1
    assert world.store.take() == ["load"]


async def test_while_streaming_the_database_is_asked(world: World) -> None:
    await world.begin({"n": 1})
    exchange = world.browser.send()
    session = await exchange.open()
    await exchange.answer()
    async with world.browser.visit() as other:
        other["ticket"] = "t"
        other["n"] = 2
    assert await session.pop_once("ticket") == "t"
    assert await session.set_default("n", 3) == 2
    assert session == {"n": 2}
    assert await world.read() == {"n": 2}


@pytest.mark.parametrize("kept_alive", [False, True])
async def test_a_connection_that_outlives_the_session_gets_nothing_of_it(world: World, *, kept_alive: bool) -> None:
    await world.begin({"ticket": "t"})
    exchange = world.browser.send()
    session = await exchange.open()
    await exchange.answer()
    for _ in range(3):
        world.clock.advance(2500)
        if kept_alive:
            await world.read()
    assert await session.set_default("n", 1) == 1
    assert await session.pop_once("ticket", "gone") == ("t" if kept_alive else "gone")  # somebody else may have it
    assert session.late is not kept_alive
    assert world.store.take().count("pop") == int(kept_alive)
    assert await world.read() == ({"n": 1} if kept_alive else {})


async def test_a_response_depends_on_it(world: World) -> None:
    await world.begin({"n": 1})
    for call in ("pop_once", "set_default"):
        exchange = world.browser.send()
        await getattr(await exchange.open(), call)("n")
        assert ("Vary", "Cookie") in await exchange.answer()


# What cannot be stored.


async def test_a_default_that_bson_cannot_hold(shop: Shop) -> None:
    await shop.begin(n=1)
    async with shop.browser.visit() as session:
        for value in (object(), 2**64, {1: 2}, "\ud800"):
            with pytest.raises(DataError, match=r"session\['a'\]") as refused:
                await session.set_default("a", value)
            assert refused.value.key == "a"
    assert await shop.holds() == {"n": 1}


async def test_a_default_over_the_limit(shop: Shop) -> None:
    await shop.begin(n="x" * 1000)
    async with shop.browser.visit() as session:
        assert await session.set_default("a", "x" * 500) == "x" * 500
        with pytest.raises(DataError, match=r"session\['b'\]; the limit is 2000"):
            await session.set_default("b", "x" * 500)
        assert await session.pop_once("n") == "x" * 1000
        assert await session.set_default("b", "x" * 500) == "x" * 500
        session["c"] = "x" * 500
    assert set(await shop.holds()) == {"a", "b", "c"}


# Races.


@pytest.mark.parametrize("driver", CLIENTS)
@pytest.mark.parametrize("replica", [False, True], ids=["standalone", "replica_set"])
async def test_of_50_parallel_requests_one_gets_it_100_times(connect: Connect, driver: str, *, replica: bool) -> None:
    shop = Shop(MongoStore(connect(driver, replica=replica)))
    for attempt in range(100 if not replica else 20):
        await shop.begin(flash=attempt)
        exchanges = await opened(shop.browser, 50)
        sessions = [exchange.session for exchange in exchanges if exchange.session is not None]
        assert all(session["flash"] == attempt for session in sessions)  # all of them have read it
        got = await asyncio.gather(*(session.pop_once("flash", "none") for session in sessions))
        assert sorted(got, key=str) == [attempt] + ["none"] * 49
        for exchange in exchanges[:2]:
            await exchange.answer()
    assert await shop.holds() == {}


async def test_of_50_parallel_requests_the_first_one_sets_it(shop: Shop) -> None:
    await shop.begin(n=1)
    for attempt in range(10):
        exchanges = await opened(shop.browser, 50)
        sessions = [exchange.session for exchange in exchanges if exchange.session is not None]
        got = await asyncio.gather(
            *(session.set_default(f"key{attempt}", number) for number, session in enumerate(sessions))
        )
        assert len(set(got)) == 1
        assert {session[f"key{attempt}"] for session in sessions} == set(got)
        assert (await shop.holds())[f"key{attempt}"] == got[0]


# A session that is renewed or ends meanwhile.


@pytest.mark.parametrize("end", ["renew", "destroy", "revoke"])
async def test_a_session_that_has_gone_gives_nothing_and_takes_nothing(shop: Shop, end: str) -> None:
    await shop.begin(flash=1)
    popping, setting = await opened(shop.browser, 2)
    assert popping.session is not None
    assert setting.session is not None
    async with shop.browser.visit() as session:
        if end == "revoke":
            await shop.engine.revoke(session.id or "")
        else:
            getattr(session, end)()
    shop.events.clear()
    assert await popping.session.pop_once("flash", "none") == "none"
    assert popping.session == {}
    assert popping.session.late
    assert popping.session.id is None
    assert await popping.answer() == [("Vary", "Cookie")]
    assert shop.events == []
    assert await setting.session.set_default("a", 1) == 1
    assert setting.session.late
    assert await setting.answer() == [("Vary", "Cookie")]
    assert shop.events == [EventKind.DROPPED_WRITE]
    assert await shop.holds() == ({"flash": 1} if end == "renew" else {})


@pytest.mark.parametrize("found_out_by", ["pop_once", "set_default", "save"])
@pytest.mark.parametrize("subject", [None, "alice"])
async def test_nothing_of_a_session_that_has_gone_gets_into_the_next(
    shop: Shop, subject: str | None, found_out_by: str
) -> None:
    async with shop.browser.visit() as session:
        session.renew(subject=subject)
        session.update({"cart": ["hers"], "once": "x"})
    slow = shop.browser.send()
    session = await slow.open()
    async with shop.browser.visit() as other:
        other.renew(subject="carol")
    session["own"] = 1
    if found_out_by == "pop_once":
        await session.pop_once("once")
    elif found_out_by == "set_default":
        await session.set_default("csrf", "v")
    else:
        await session.save()
    session.renew(subject="bob")
    session.setdefault("cart", []).append("his")
    await slow.answer()
    slow.deliver()
    stored = await shop.holds()
    assert session == stored
    if subject == "alice":
        assert stored == {"cart": ["his"]}
    else:
        assert "once" not in stored
        assert stored.get("own", 1) == 1


async def test_a_session_that_begins_after_one_that_has_gone_can_be_streamed_into(world: World) -> None:
    await world.begin({"a": 1})
    slow = world.browser.send()
    session = await slow.open()
    async with world.browser.visit() as other:
        other.destroy()
    assert await session.pop_once("a") is None
    session.renew(subject="bob")
    await slow.answer()
    slow.deliver()
    for n in range(3):
        session["n"] = n
        assert await session.save()
    assert session == {"n": 2}
    assert await world.read() == {"n": 2}


@pytest.mark.parametrize("change", [do.__setitem__("a", 6), do.increment("a", 5)], ids=["set", "increment"])
async def test_what_another_task_does_meanwhile_stays(world: World, change: Change) -> None:
    await world.begin({"a": 1})
    exchange = world.browser.send()
    session = await exchange.open()

    @asynccontextmanager
    async def meanwhile(call: str) -> AsyncGenerator[None]:
        change(session)
        yield

    world.store.around = meanwhile
    assert await session.pop_once("a") == 1
    world.recover()
    await exchange.answer()
    assert session == {"a": 6}
    assert (await world.read())["a"] in (5, 6)  # an increment is of what the database holds by then


async def test_what_is_asked_at_once_waits_for_a_save_that_began_before(world: World) -> None:
    await world.begin({"a": 1, "b": 1})
    exchange = world.browser.send()
    session = await exchange.open()
    await exchange.answer()
    world.clock.advance(4000)
    await world.read()  # the session lives on
    world.clock.advance(4000)  # and what this connection knows of it has expired
    under_way: list[str] = []

    @asynccontextmanager
    async def alone(call: str) -> AsyncGenerator[None]:
        await asyncio.sleep(0)
        assert call == "load" or not under_way
        under_way.append(call)
        await asyncio.sleep(0)
        yield
        under_way.remove(call)

    world.store.around = alone
    session["c"] = 1
    assert [*await asyncio.gather(session.save(), session.pop_once("a"), session.pop_once("b"))] == [True, 1, 1]
    world.recover()
    assert await world.read() == {"c": 1}


# Bad days.


async def test_an_outage_is_an_error_and_takes_nothing_back(world: World) -> None:
    await world.begin({"flash": 1})
    exchange = world.browser.send()
    session = await exchange.open()
    world.store.around = away
    for call in (session.pop_once("flash"), session.set_default("a", 1)):
        with pytest.raises(StoreUnavailable):
            await call
    world.recover()
    assert session == {"flash": 1}
    assert await session.pop_once("flash") == 1


async def test_an_answer_that_was_lost_is_not_repeated(world: World) -> None:
    await world.begin({"flash": 1})
    exchange = world.browser.send()
    session = await exchange.open()
    world.store.around = lost
    with pytest.raises(StoreUnavailable):
        await session.pop_once("flash")
    world.recover()
    assert await session.pop_once("flash", "gone") == "gone"


async def test_it_stays_done_whatever_becomes_of_the_response(world: World) -> None:
    await world.begin({"flash": 1, "n": 1})
    async with world.browser.visit(status=500) as session:
        assert await session.pop_once("flash") == 1
        assert await session.set_default("a", [1]) == [1]
        session["n"] = 2
    assert session == {"n": 1, "a": [1]}
    assert await world.read() == {"n": 1, "a": [1]}


@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancelled_request_takes_it_all_the_same(world: World, *, fails: bool) -> None:
    await world.begin({"flash": 1})
    session = await world.browser.send().open()
    begun, go_on = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def slow(call: str) -> AsyncGenerator[None]:
        begun.set()
        await go_on.wait()
        if fails:
            raise StoreUnavailable("away")
        yield

    world.store.around = slow
    popping = asyncio.create_task(session.pop_once("flash"))
    await begun.wait()
    popping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await popping
    go_on.set()
    await world.engine.close()
    world.recover()
    assert world.happened() == ([EventKind.STORE_FAILED] if fails else [])  # an error has nobody else to go to
    assert await world.read() == ({"flash": 1} if fails else {})


# What it costs.


@pytest.mark.parametrize("driver", CLIENTS)
async def test_each_is_one_command(connect: Connect, driver: str) -> None:
    counter = CommandCounter()
    shop = Shop(MongoStore(connect(driver, listeners=[counter])))
    await shop.begin(flash=1)
    counter.take()
    async with shop.browser.visit() as session:
        await session.pop_once("flash")
        await session.set_default("a", 1)
    assert counter.take() == ["find", "findAndModify", "findAndModify"]
