"""What holds at scale: every command of a request names the one document, and a clustered collection does as well."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bson.binary import Binary
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from mongosession import DataError, MongoStore, Rotation, Session, SessionEngine
from mongosession.inspection import gather
from mongosession.mongo import INDEXES
from mongosession.mongod import Mongod
from mongosession.store import Store
from mongosession.testing import Browser, Exchange, HandClock, seeded

from .conftest import CLIENTS, Connect
from .store_contract import StoreContract, a_record

KEY, OTHER_KEY = "k" * 32, "o" * 32

DOCUMENTATION = (Path(__file__).parent.parent / "docs" / "scale.md").read_text()

# The field of each command that says which documents it is about.
FILTERS: dict[str, Callable[[Mapping[str, Any]], list[Mapping[str, Any]]]] = {
    "find": lambda command: [command["filter"]],
    "findAndModify": lambda command: [command["query"]],
    "update": lambda command: [update["q"] for update in command["updates"]],
    "insert": lambda command: list(command["documents"]),
}


class Shards(CommandListener):
    """How many shards each command would have to ask, where the collection is sharded by `_id`."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name in FILTERS:
            (where,) = FILTERS[event.command_name](event.command)
            named = where.get("_id")
            whole = isinstance(named, bytes | Binary) and len(named) == 16  # the id itself: no range, no list
            self.asked.append(f"{event.command_name} {'one' if whole else 'all'}")
        elif event.command_name not in ("hello", "endSessions"):
            self.asked.append(f"{event.command_name} all")

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass


class Site:
    """A site whose commands are looked at, and a browser that is logged in."""

    def __init__(self, collection: Any, shards: Shards) -> None:
        self.collection = collection
        self.shards = shards
        self.clock = HandClock()
        self.chance = seeded(4)
        self.engine = self.serve()
        self.browser = Browser(self.engine, self.clock)

    def serve(self, *, keys: tuple[str, ...] = (KEY,), **options: Any) -> SessionEngine:
        store = MongoStore(self.collection)
        return SessionEngine(store, keys=keys, clock=self.clock, random=self.chance, **options)

    async def request(self, handle: Callable[[Session], object] = Session.copy) -> None:
        async with self.browser.visit() as session:
            done = handle(session)
            if isinstance(done, Awaitable):
                await done

    async def late(self) -> Exchange:
        """A request that another one overtook, a ttl ago."""
        slow = self.browser.send()
        self.clock.advance(5)
        await self.request()
        self.clock.advance(5)
        return slow

    async def finish(self, exchange: Exchange, handle: Callable[[Session], object] = Session.copy) -> None:
        self.shards.asked.clear()
        handle(await exchange.open())
        await exchange.answer()


def begin(session: Session) -> None:
    session.update(basket=["tea"], flash="saved")
    log_in(session)


def log_in(session: Session) -> None:
    session.renew(subject="user:42")


def buy(session: Session) -> None:
    session["basket"].append("milk")


async def open_(site: Site) -> None:
    await site.request()


async def create(site: Site) -> None:
    site.browser.jar.cookies.clear()
    await site.request(lambda session: session.update(basket=[]))


async def change(site: Site) -> None:
    await site.request(buy)


async def operators(site: Site) -> None:
    def operate(session: Session) -> None:
        session.increment("hits")
        session.append("log", "seen")

    await site.request(operate)


async def rotate(site: Site) -> None:
    site.clock.advance(5)
    await site.request()


async def rotate_and_change(site: Site) -> None:
    site.clock.advance(5)
    await site.request(buy)


async def touch(site: Site) -> None:
    site.browser.engine = site.serve(rotation=Rotation(ttl=None))
    site.clock.advance(720)
    await site.request()


async def heal(site: Site) -> None:
    await rotate(site)
    await site.collection.update_one({}, {"$inc": {"generation": -1}})
    site.shards.asked.clear()
    await site.request()


async def send_again(site: Site) -> None:
    await site.finish(await site.late())


async def send_again_and_change(site: Site) -> None:
    await site.finish(await site.late(), buy)


async def sign_again(site: Site) -> None:
    site.browser.engine = site.serve(keys=(OTHER_KEY, KEY))
    await site.request()


async def notice_a_copy(site: Site) -> None:
    await site.collection.update_one({}, {"$inc": {"generation": 13}})
    site.shards.asked.clear()
    await site.request()


async def renew(site: Site) -> None:
    await site.request(log_in)


async def renew_what_has_gone(site: Site) -> None:
    exchange = site.browser.send()
    session = await exchange.open()
    await site.request(Session.destroy)
    site.shards.asked.clear()
    log_in(session)
    await exchange.answer()


async def destroy(site: Site) -> None:
    await site.request(Session.destroy)


async def save(site: Site) -> None:
    async def store_now(session: Session) -> None:
        buy(session)
        await session.save()

    await site.request(store_now)


async def pop(site: Site) -> None:
    await site.request(lambda session: session.pop_once("flash"))


async def set_default(site: Site) -> None:
    await site.request(lambda session: session.set_default("winner", 1))


async def refuse(site: Site) -> None:
    site.clock.advance(5)
    exchange = site.browser.send()
    session = await exchange.open()
    await site.collection.update_one({}, {"$set": {"data.basket": "sold"}})
    site.shards.asked.clear()
    session.append("basket", "milk")
    with pytest.raises(DataError):
        await exchange.answer()


async def revoke(site: Site) -> None:
    found = await site.collection.find_one({})
    site.shards.asked.clear()
    assert await site.engine.revoke(bytes(found["_id"]).hex())


async def sessions(site: Site) -> None:
    assert [each async for each in site.engine.sessions("user:42")]


async def revoke_subject(site: Site) -> None:
    assert await site.engine.revoke_subject("user:42") == 1


async def log_in_with_a_limit(site: Site) -> None:
    site.browser = Browser(site.serve(max_sessions=1), site.clock)
    await site.request(log_in)


# A row of the documentation's table: the call, and what it costs.
CALLS: dict[str, Callable[[Site], Awaitable[None]]] = {
    "read": open_,
    "create": create,
    "change": change,
    "`increment`, `append`, ...": operators,
    "rotate": rotate,
    "rotate and change": rotate_and_change,
    "touch": touch,
    "heal": heal,
    "send a token again": send_again,
    "send a token again, and change": send_again_and_change,
    "sign again, after a change of keys": sign_again,
    "notice a copied token": notice_a_copy,
    "`renew`": renew,
    "`renew`, where the session has gone": renew_what_has_gone,
    "`destroy`": destroy,
    "`save`": save,
    "`pop_once`": pop,
    "`set_default`": set_default,
    "a change that the server refuses": refuse,
    "`revoke`": revoke,
    "`sessions`": sessions,
    "`revoke_subject`": revoke_subject,
    "log-in with `max_sessions`": log_in_with_a_limit,
}

BY_SUBJECT = {"`sessions`", "`revoke_subject`", "log-in with `max_sessions`"}


@pytest.fixture
def site(connect: Connect, driver: str) -> Site:
    shards = Shards()
    return Site(connect(driver, listeners=[shards]), shards)


@pytest.mark.parametrize("call", CALLS)
async def test_commands_and_shards_are_those_of_the_documentation(call: str, site: Site) -> None:
    await site.request(begin)
    site.shards.asked.clear()
    await CALLS[call](site)
    assert ", ".join(site.shards.asked) == documented()[call]
    if call not in BY_SUBJECT:
        assert {asked.split()[1] for asked in site.shards.asked} == {"one"}


def documented() -> dict[str, str]:
    """The table of calls: which commands each one sends, each with the shards it asks."""
    rows = re.findall(r"^\| (.+?) \| ((?:find|insert|update|findAndModify)\b.*?) \|$", DOCUMENTATION, re.MULTILINE)
    return dict(rows)


def test_the_documentation_knows_each_call() -> None:
    assert documented().keys() == CALLS.keys()


def test_the_documentation_lists_the_indexes() -> None:
    for name, keys, options in INDEXES:
        (row,) = re.findall(rf"^\| `{name}` \|.*$", DOCUMENTATION, re.MULTILINE)
        assert all(word in row for word in (keys[0][0], *options))


# Clustered.


class TestClusteredMongoStore(StoreContract):
    """The contract of a store, on a clustered collection."""

    @pytest.fixture
    async def store(self, connect: Connect) -> Store:
        store = MongoStore(connect("pymongo"), clustered=True)
        await store.setup()
        return store


@pytest.mark.parametrize("clustered", [False, True])
async def test_a_look_up_in_a_clustered_collection_reads_no_index(
    connect: Connect, driver: str, clustered: bool
) -> None:
    collection = connect(driver)
    store = MongoStore(collection, clustered=clustered)
    await store.setup()
    records = [a_record(id=bytes([i]) * 16, subject=f"user:{i}") for i in range(20)]
    for record in records:
        await store.create(record)
    query = {"find": collection.name, "filter": {"_id": records[7].id, "epoch": {"$ne": -1}}}
    explained: dict[str, Any] = await collection.database.command({"explain": query, "verbosity": "executionStats"})
    found = explained["executionStats"]
    assert found["nReturned"] == 1
    assert found["totalDocsExamined"] <= 2  # in order of their ids, the next one may be looked at
    assert found["totalKeysExamined"] == (0 if clustered else 1)
    assert ("CLUSTERED_IXSCAN" in str(explained)) is clustered
    assert {record async for record in store.find("user:7")} == {records[7]}


@pytest.mark.parametrize("driver", CLIENTS)
async def test_a_clustered_collection_expires_its_documents(driver: str) -> None:
    with Mongod(args=["--setParameter", "ttlMonitorSleepSecs=1"]) as mongod:
        client: Any = CLIENTS[driver](mongod.uri)
        store = MongoStore(client["mongosession_test"]["sessions"], clustered=True)
        await store.setup()
        assert (await gather(store)).index_faults == []
        now = datetime.now(UTC)
        past, future = (now + timedelta(minutes=minutes) for minutes in (-3, 3))
        gone, kept = (
            a_record(id=id_, expires_at=at.timestamp() // 1) for id_, at in ((b"g" * 16, past), (b"k" * 16, future))
        )
        await store.create(gone)
        await store.create(kept)
        deadline = time.monotonic() + 20  # the server looks each second
        while await store.load(gone.id) is not None:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        assert await store.load(kept.id) is not None
        closing = client.close()
        if closing is not None:
            await closing
