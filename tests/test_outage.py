"""Bad days: requests that are cancelled, a database that is away or hangs, clocks that differ."""

import asyncio
import gc
import os
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest

from mongosession import (
    DataError,
    EventKind,
    MongoStore,
    Rotation,
    Session,
    SessionEngine,
    StoreError,
    StoreUnavailable,
)
from mongosession.mongod import Mongod
from mongosession.store import Record
from mongosession.testing import Browser, Exchange, HandClock, seeded
from soak.proxy import Fault, Proxy

from .conftest import CLIENTS
from .world import KEY, World, away, lost


@pytest.fixture(autouse=True, scope="module")
def cheap_collections() -> Iterator[None]:
    """Leave what other modules hold out of the collections below."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
async def no_noise() -> AsyncIterator[None]:
    """No task ends with an error that nobody hears of."""
    loop = asyncio.get_running_loop()
    before, noise = loop.get_exception_handler(), list[dict[str, Any]]()
    loop.set_exception_handler(lambda loop, context: noise.append(context))
    yield
    await asyncio.sleep(0)
    gc.collect()
    await asyncio.sleep(0)
    loop.set_exception_handler(before)
    assert noise == []


# What a request may be about to commit. Each is the exchange of a request that has been handled.


async def creation(world: World) -> Exchange:
    exchange = world.browser.send()
    (await exchange.open())["basket"] = ["tea"]
    return exchange


async def change(world: World) -> Exchange:
    await world.begin()
    exchange = world.browser.send()
    (await exchange.open())["basket"].append("milk")
    return exchange


async def rotation(world: World) -> Exchange:
    await world.begin()
    world.clock.advance(5)
    exchange = world.browser.send()
    assert (await exchange.open()).verdict == "due"
    return exchange


async def change_and_rotation(world: World) -> Exchange:
    exchange = await rotation(world)
    assert exchange.session is not None
    exchange.session["basket"].append("milk")
    return exchange


async def next_token(world: World) -> Exchange:
    await world.begin()
    exchange = world.browser.send()
    await world.rotate()
    world.clock.advance(5)
    assert (await exchange.open()).verdict == "behind"
    return exchange


async def healing(world: World) -> Exchange:
    session_id = await world.begin()
    await world.rotate()
    await world.manipulate(session_id, generation=0)
    exchange = world.browser.send()
    assert (await exchange.open()).verdict == "ahead"
    return exchange


async def touch(world: World) -> Exchange:
    await world.begin()
    world.clock.advance(1000)
    exchange = world.browser.send()
    await exchange.open(tokens=False)
    return exchange


async def renewal(world: World) -> Exchange:
    exchange = await change(world)
    assert exchange.session is not None
    exchange.session.renew(subject="user:42")
    return exchange


async def lost_renewal(world: World) -> Exchange:
    exchange = await renewal(world)
    async with world.browser.visit() as session:
        session.destroy()
    return exchange


async def destroy(world: World) -> Exchange:
    exchange = await change(world)
    assert exchange.session is not None
    exchange.session.destroy()
    return exchange


async def destroy_and_store(world: World) -> Exchange:
    exchange = await destroy(world)
    assert exchange.session is not None
    exchange.session["message"] = "good bye"
    return exchange


async def refused_change(world: World) -> Exchange:
    await world.begin({"hits": 1})
    world.clock.advance(5)
    exchange = world.browser.send()
    session = await exchange.open()
    async with world.browser.visit(tokens=False) as other:
        other["hits"] = "many"
    session.increment("hits")
    return exchange


Prepare = Callable[[World], Awaitable[Exchange]]

ESSENTIAL: list[Prepare] = [creation, change, change_and_rotation, renewal, lost_renewal, destroy, destroy_and_store]
"""The request fails if they do."""

DISPENSABLE: list[Prepare] = [rotation, next_token, healing, touch]
"""The request goes on without."""

COMMITS = [*ESSENTIAL, *DISPENSABLE, refused_change]


def named(function: object) -> str:
    return str(getattr(function, "__name__", function))


# Cancellation: at each point where a commit or an opening waits for the store.


class Steps:
    """Counts the points before and after each call of a store, and holds one of them until it is released."""

    def __init__(self, held: int = 0, reach: Callable[[], object] = lambda: None) -> None:
        self.count = 0
        self.held = held
        self.reach = reach
        self.reached = asyncio.Event()
        self.released = asyncio.Event()

    @asynccontextmanager
    async def __call__(self, call: str) -> AsyncGenerator[None]:
        await self.step()
        yield
        await self.step()

    async def step(self) -> None:
        self.count += 1
        if self.count == self.held:
            self.reached.set()
            self.reach()
            await self.released.wait()


async def points(prepare: Prepare, action: Callable[[Exchange], Awaitable[object]]) -> int:
    """At how many points an action waits for the store."""
    world = World()
    exchange = await prepare(world)
    steps = world.store.around = Steps()
    with suppress(DataError):
        await action(exchange)
    return steps.count


async def finished(prepare: Prepare) -> dict[bytes, Record]:
    """What the store holds once a commit was left alone."""
    world = World()
    exchange = await prepare(world)
    with suppress(DataError):
        await exchange.answer()
    return await world.everything()


@pytest.mark.parametrize("prepare", COMMITS, ids=named)
async def test_a_cancelled_commit_runs_to_its_end(prepare: Prepare) -> None:
    complete = await finished(prepare)
    count = await points(prepare, Exchange.answer)
    assert count >= 2
    for point in range(1, count + 1):
        world = World()
        exchange = await prepare(world)
        steps = world.store.around = Steps(point)
        commit = asyncio.create_task(exchange.answer())
        await steps.reached.wait()
        commit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await commit
        closing = asyncio.create_task(world.engine.close())
        await asyncio.sleep(0)
        assert not closing.done()
        steps.released.set()
        await closing
        assert await world.everything() == complete


@pytest.mark.parametrize("prepare", COMMITS, ids=named)
async def test_a_commit_in_a_cancelled_scope_runs_to_its_end(prepare: Prepare) -> None:
    complete = await finished(prepare)
    for point in range(1, await points(prepare, Exchange.answer) + 1):
        world = World()
        exchange = await prepare(world)
        scope = anyio.CancelScope()
        steps = world.store.around = Steps(point, reach=scope.cancel)
        with scope:
            await exchange.answer()
        assert scope.cancelled_caught
        steps.released.set()
        await world.engine.close()
        assert await world.everything() == complete


@pytest.mark.parametrize("prepare", COMMITS, ids=named)
async def test_a_commit_that_begins_in_a_cancelled_scope_runs_to_its_end(prepare: Prepare) -> None:
    complete = await finished(prepare)
    world = World()
    exchange = await prepare(world)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await exchange.answer()
    assert scope.cancelled_caught
    await world.engine.close()
    assert await world.everything() == complete


@pytest.mark.parametrize("prepare", COMMITS, ids=named)
async def test_a_commit_that_never_began_writes_nothing(prepare: Prepare) -> None:
    world = World()
    exchange = await prepare(world)
    before = await world.everything()
    commit = asyncio.create_task(exchange.answer())
    commit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await commit
    await world.engine.close()
    assert await world.everything() == before


@pytest.mark.parametrize("prepare", COMMITS, ids=named)
async def test_a_cancelled_commit_that_fails_is_an_event(prepare: Prepare) -> None:
    world = World()
    exchange = await prepare(world)

    @asynccontextmanager
    async def away_in_the_end(call: str) -> AsyncGenerator[None]:
        await steps.step()
        raise StoreUnavailable("away")
        yield

    steps = Steps(1)
    world.store.around = away_in_the_end
    commit = asyncio.create_task(exchange.answer())
    await steps.reached.wait()
    commit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await commit
    world.events()
    steps.released.set()
    await world.engine.close()
    await asyncio.sleep(0)  # the news of it
    (event,) = world.events()
    assert event.kind == "store_failed"
    assert "away" in event.reason


@pytest.mark.parametrize("rounds", range(1, 6))
@pytest.mark.parametrize("prepare", [change, refused_change], ids=named)
async def test_cancelling_while_the_answer_is_on_its_way(prepare: Prepare, rounds: int) -> None:
    complete = await finished(prepare)
    world = World()
    exchange = await prepare(world)
    commit = asyncio.create_task(exchange.answer())
    for _ in range(rounds):  # of the event loop: the store has answered, and the commit may not know yet
        await asyncio.sleep(0)
    commit.cancel()
    await asyncio.wait([commit])
    assert commit.cancelled() or isinstance(commit.exception(), DataError | None)
    await world.engine.close()
    assert await world.everything() == complete


async def test_a_commit_that_waits_for_the_one_before_has_not_begun() -> None:
    world = World(write="after_response")
    exchange = await change(world)
    session = exchange.session
    assert session is not None
    steps = world.store.around = Steps(1)
    await exchange.answer()
    session["second"] = 2
    second = asyncio.create_task(world.engine.commit(session, sent=True))
    await steps.reached.wait()
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    steps.released.set()
    await world.engine.close()
    assert await world.read() == {"basket": ["tea", "milk"]}


async def open_copied(world: World) -> Exchange:
    await world.begin()
    exchange = world.browser.send()
    await world.rotate(13)
    return exchange


async def test_an_opening_can_be_cancelled() -> None:
    assert await points(open_current, Exchange.open) == 2
    for point in (1, 2):
        world = World()
        exchange = await open_current(world)
        before = await world.everything()
        steps = world.store.around = Steps(point)
        opening = asyncio.create_task(exchange.open())
        await steps.reached.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert await world.everything() == before
        assert await world.read() == {"basket": ["tea"]}


async def open_current(world: World) -> Exchange:
    await world.begin()
    return world.browser.send()


async def test_the_opening_of_a_copied_session_can_be_cancelled() -> None:
    assert await points(open_copied, Exchange.open) == 4
    for point, revoked in ((1, False), (2, False), (3, False), (4, True)):
        world = World()
        exchange = await open_copied(world)
        steps = world.store.around = Steps(point)
        opening = asyncio.create_task(exchange.open())
        await steps.reached.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert await world.living() == (0 if revoked else 1)
        again = await exchange.open()
        assert (again, again.verdict) == ({}, "ended" if revoked else "copied")
        assert await world.living() == 0


# The database is away.


async def test_an_opening_without_a_database_is_an_error() -> None:
    world = World()
    await world.begin()
    world.store.around = away
    with pytest.raises(StoreUnavailable) as caught:
        await world.browser.send().open()
    assert caught.value.retry_after > 0
    assert world.happened() == []


async def test_who_has_no_cookie_needs_no_database() -> None:
    world = World()
    world.store.around = away
    for cookie in (None, "theme=dark", "__Host-session=garbage"):
        session = await world.engine.open(cookie)
        assert await world.engine.commit(session) == []


def store(session: Session) -> None:
    session["basket"] = ["milk"]


def renew(session: Session) -> None:
    session.renew()


def log_in(session: Session) -> None:
    session["basket"] = ["milk"]
    session.renew(subject="user:42")


def log_out(session: Session) -> None:
    session.destroy()


def start_over(session: Session) -> None:
    session.destroy()
    session["message"] = "good bye"


@pytest.mark.parametrize(
    ("handle", "events"),
    [
        (Session.copy, []),
        (store, ["dropped_write"]),
        (renew, ["dropped_renewal"]),
        (log_in, ["dropped_write", "dropped_renewal"]),
        (log_out, ["dropped_destroy"]),
        (start_over, ["dropped_destroy", "dropped_write"]),
    ],
)
async def test_a_route_may_go_on_without_a_session(handle: Callable[[Session], object], events: list[str]) -> None:
    world = World()
    await world.begin()
    world.clock.advance(5)
    world.store.around = away
    exchange = world.browser.send()
    session = await exchange.open(on_outage="anonymous")
    assert (session, session.verdict, session.is_new, session.late) == ({}, "unavailable", True, True)
    assert world.happened() == ["store_failed"]
    world.store.take()
    handle(session)
    assert await exchange.answer() == [("Vary", "Cookie")]  # no cookie is touched
    assert world.happened() == events
    assert not await session.save()
    assert world.store.take() == []
    world.recover()
    assert await world.read() == {"basket": ["tea"]}


@pytest.mark.parametrize("prepare", ESSENTIAL, ids=named)
async def test_a_request_fails_with_what_it_had_to_write(prepare: Prepare) -> None:
    world = World()
    exchange = await prepare(world)
    before = await world.everything()
    world.store.around = away
    with pytest.raises(StoreUnavailable):
        await exchange.answer()
    assert await world.everything() == before
    assert world.happened().count(EventKind.STORE_FAILED) == 0


@pytest.mark.parametrize("prepare", DISPENSABLE, ids=named)
@pytest.mark.parametrize("bad_day", [away, lost], ids=named)
async def test_a_request_goes_on_without_what_it_can_do_without(
    prepare: Prepare, bad_day: Callable[[str], Any]
) -> None:
    world = World()
    exchange = await prepare(world)
    world.happened()
    world.store.around = bad_day
    assert await exchange.answer() == []
    assert world.happened() == ["store_failed"]
    world.recover()
    exchange.deliver()
    assert await world.read() == {"basket": ["tea"]}


@pytest.mark.parametrize("prepare", [change, *DISPENSABLE, change_and_rotation, next_token, touch], ids=named)
@pytest.mark.parametrize("bad_day", [away, lost], ids=named)
async def test_when_the_outage_is_over_everyone_is_still_logged_in(
    prepare: Prepare, bad_day: Callable[[str], Any]
) -> None:
    world = World()
    exchange = await prepare(world)
    world.store.around = bad_day
    for _ in range(20):  # the browser tries again and again
        try:
            await exchange.answer()
        except StoreUnavailable:
            pass
        else:
            exchange.deliver()
        world.clock.advance(5)
        exchange = world.browser.send()
        with pytest.raises(StoreUnavailable):
            await exchange.open()
        session = await exchange.open(on_outage="anonymous")
        session["basket"] = []
    world.recover()
    for _ in range(20):
        world.clock.advance(5)
        async with world.browser.visit() as session:
            assert session["basket"][0] == "tea"


async def test_a_lost_answer_to_a_change_does_not_undo_it() -> None:
    world = World()
    exchange = await change_and_rotation(world)
    world.store.around = lost
    with pytest.raises(StoreUnavailable):
        await exchange.answer()
    world.recover()
    assert await world.read() == {"basket": ["tea", "milk"]}


async def test_a_copied_session_is_refused_even_if_it_cannot_be_revoked() -> None:
    @asynccontextmanager
    async def no_writes(call: str) -> AsyncGenerator[None]:
        if call == "update":
            raise StoreUnavailable("no primary")
        yield

    world = World()
    exchange = await open_copied(world)
    world.store.around = no_writes
    session = await exchange.open()
    assert (session, session.verdict, session.late) == ({}, "copied", True)
    assert world.happened() == ["copied", "store_failed"]
    world.recover()
    await exchange.open()
    assert world.happened() == ["copied", "revoked"]


async def test_other_errors_of_a_database_are_not_taken_for_an_outage() -> None:
    @asynccontextmanager
    async def forbidden(call: str) -> AsyncGenerator[None]:
        raise StoreError("not authorized")
        yield

    world = World()
    changed, due = await change(world), await rotation(world)
    world.events()
    world.store.around = forbidden
    with pytest.raises(StoreError, match="not authorized"):
        await world.browser.send().open(on_outage="anonymous")
    with pytest.raises(StoreError, match="not authorized"):
        await changed.answer()
    assert await due.answer() == []
    assert world.happened() == ["store_failed"]


async def test_listing_and_revoking_without_a_database_are_errors() -> None:
    world = World()
    session_id = await world.begin(subject="user:42")
    world.store.around = away
    with pytest.raises(StoreUnavailable):
        await anext(world.engine.sessions("user:42"))
    with pytest.raises(StoreUnavailable):
        await world.engine.revoke(session_id)
    with pytest.raises(StoreUnavailable):
        await world.engine.revoke_subject("user:42")
    with pytest.raises(StoreUnavailable):
        await world.engine.setup()


# A real server that hangs, or is gone.


@pytest.fixture(scope="module")
def mongod() -> Iterator[Mongod]:
    with Mongod() as server:
        yield server


@asynccontextmanager
async def collection_on(driver: str, uri: str) -> AsyncGenerator[Any]:
    client: Any = CLIENTS[driver](uri)
    try:
        yield client["mongosession_test"][driver]
    finally:
        closing = client.close()
        if closing is not None:
            await closing


DEADLINE = 0.5


async def outcomes(calls: Sequence[Awaitable[Any]]) -> list[Any]:
    """What calls return or raise, which are made at once and have to end in time."""
    start = time.monotonic()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert time.monotonic() - start < DEADLINE + 5  # of themselves the drivers would wait for 20 s and more
    return results


async def test_a_server_that_hangs(driver: str, mongod: Mongod) -> None:
    clock = HandClock()
    events: list[EventKind] = []
    async with collection_on(driver, mongod.uri) as collection:
        engine = SessionEngine(
            MongoStore(collection, timeout=DEADLINE),
            keys=[KEY],
            clock=clock,
            random=seeded(1),
            on_event=lambda event: events.append(event.kind),
        )
        browser = Browser(engine, clock)
        async with browser.visit() as session:
            session["basket"] = ["tea"]
            session.renew(subject="user:42")
        changing, due = browser.send(), browser.send()
        (await changing.open())["basket"] = ["milk"]
        clock.advance(5)
        await due.open()
        anonymous = browser.send()
        events.clear()
        os.kill(mongod.pid, signal.SIGSTOP)
        try:
            results = await outcomes(
                [
                    browser.send().open(),
                    changing.answer(),
                    anext(engine.sessions("user:42")),
                    engine.revoke_subject("user:42"),
                    anonymous.open(on_outage="anonymous"),
                    due.answer(),
                ]
            )
            assert [type(result) for result in results[:4]] == [StoreUnavailable] * 4
            assert results[4].verdict == "unavailable"
            assert not due.sends_cookie
            assert [*events] == ["store_failed", "store_failed"]
        finally:
            os.kill(mongod.pid, signal.SIGCONT)
        clock.advance(5)
        async with browser.visit() as session:
            assert session.subject == "user:42"
            assert session["basket"] in (["tea"], ["milk"])  # it may or may not have been written
            session["basket"] = ["milk"]
        clock.advance(5)
        async with browser.visit() as session:
            assert (session.subject, session) == ("user:42", {"basket": ["milk"]})


async def test_a_server_that_is_gone(driver: str) -> None:
    clock = HandClock()
    with Mongod() as mongod:
        async with collection_on(driver, mongod.uri) as collection:
            engine = SessionEngine(MongoStore(collection, timeout=DEADLINE), keys=[KEY], clock=clock)
            browser = Browser(engine, clock)
            async with browser.visit() as session:
                session["basket"] = ["tea"]
            changing = browser.send()
            (await changing.open())["basket"].append("milk")
            os.kill(mongod.pid, signal.SIGKILL)
            results = await outcomes([changing.answer(), browser.send().open(), engine.setup()])
            assert [type(result) for result in results] == [StoreUnavailable] * 3


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fault", ["garbage", "garble"])
async def test_answers_that_make_no_sense(driver: str, mongod: Mongod, fault: Fault, seed: int) -> None:
    clock = HandClock()
    address = urlsplit(mongod.uri)
    assert address.port is not None
    with Proxy(address.port, seed=seed) as proxy:
        async with collection_on(driver, f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true") as collection:
            engine = SessionEngine(MongoStore(collection, timeout=DEADLINE), keys=[KEY], clock=clock)
            browser = Browser(engine, clock)
            async with browser.visit() as session:
                session["basket"] = ["tea"]
            changing = browser.send()
            (await changing.open())["basket"].append("milk")
            proxy.be(fault)
            results = await outcomes([changing.answer(), browser.send().open(), engine.setup()])
            assert [type(result) for result in results] == [StoreUnavailable] * 3
            assert proxy.counts[fault] > 0
            proxy.heal()
            async with browser.visit() as session:
                assert session["basket"] in (["tea"], ["tea", "milk"])


# Clocks that differ.


@pytest.mark.parametrize("ahead", [-120, 120, 300])
@pytest.mark.parametrize("ttl", [5, 60])
async def test_servers_whose_clocks_differ_log_nobody_out(ahead: float, ttl: float) -> None:
    world = World(rotation=Rotation(ttl=ttl))
    servers = [world.engine, world.serve(rotation=Rotation(ttl=ttl), ahead=ahead)]
    chance = seeded(round(ahead))

    def pick(count: int) -> int:
        return chance(1)[0] % count

    await world.begin(subject="user:42")
    active, pauses = 0, 0
    for _ in range(1500):
        if pick(50):
            active += (seconds := pick(6))
            world.clock.advance(seconds)
        else:  # almost the idle timeout (which is exact to a tenth), by the clock that is ahead
            pauses += 1
            world.clock.advance(7200 * 0.9 - abs(ahead) - 1)
        exchanges = [world.browser.send(servers[pick(2)]) for _ in range(1 + pick(3))]
        for exchange in exchanges:
            session = await exchange.open()
            assert (session.subject, session) == ("user:42", {"basket": ["tea"]})
        for exchange in exchanges:
            await exchange.answer()
            if pick(4):
                exchange.deliver()
    assert set(world.happened()) <= {"rotated", "fell_back"}
    (record,) = [record async for record in world.memory.find()]
    # The clock that is ahead sees every rotation of the other as long past: one more, each time that they take turns.
    turns = pauses + active / abs(ahead) + 1
    assert active / ttl / 3 < record.generation < active / ttl + 2 * turns


@pytest.mark.parametrize("ahead", [-120, 120])
@pytest.mark.parametrize("there_and_back", [(0, 1), (1, 0)])
async def test_stragglers_are_late_on_either_server(ahead: float, there_and_back: tuple[int, int]) -> None:
    for end in (log_in, log_out):
        for delay in (0, 59.9):
            world = World()
            servers = [world.engine, world.serve(ahead=ahead)]
            one, two = (servers[index] for index in there_and_back)
            await world.begin()
            straggler = world.browser.send(two)
            decisive = world.browser.send(one)
            end(await decisive.open())
            await decisive.answer()
            decisive.deliver()
            world.clock.advance(delay)
            session = await straggler.open()
            assert session.verdict == "late"
            session["basket"] = ["poison"]
            await straggler.answer()
            assert not straggler.sends_cookie
            if end is log_in:
                for server in (one, two, one):
                    session = await world.browser.send(server).open()
                    assert (session.subject, session) == ("user:42", {"basket": ["milk"]})


@pytest.mark.parametrize("ahead", [-120, 120, 300])
async def test_rotation_goes_on_after_a_clock_was_ahead(ahead: float) -> None:
    world = World()
    await world.begin()
    world.clock.advance(5)
    first = world.browser.send(world.serve(ahead=ahead))
    await first.open()
    await first.answer()
    first.deliver()
    world.events()
    world.clock.advance(max(ahead, 0) + 5)
    async with world.browser.visit() as session:
        assert session.verdict == "due"
    assert world.happened() == ["rotated"]


async def test_what_one_server_ends_no_other_opens() -> None:
    for ahead in (-120, 120):
        world = World()
        other = world.serve(ahead=ahead)
        session_id = await world.begin(subject="user:42")
        exchange = world.browser.send()
        assert [each.id async for each in other.sessions("user:42")] == [session_id]
        assert await other.revoke_subject("user:42") == 1
        assert (await exchange.open()).verdict == "ended"
        assert [each async for each in world.engine.sessions("user:42")] == []
