"""``engine.sessions(subject)``: 10,000 sessions of one subject listed on a real MongoDB while they change."""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncGenerator
from random import Random
from typing import Any

import anyio
import pytest
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from mongosession import MongoStore, SessionEngine, SessionInfo
from mongosession.store import Changes
from mongosession.testing import Browser, HandClock, seeded

from .conftest import Connect

SUBJECT, OTHER = "user:42", "user:43"
MANY = 10_000


class Batches(CommandListener):
    """The commands of a listing, how many documents each answer held, and the filters."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.killed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.sizes: list[int] = []
        self.wheres: list[Any] = []

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name == "find" and "limit" not in event.command:
            self.wheres.append(event.command["filter"])

    def succeeded(self, event: CommandSucceededEvent) -> None:
        if event.command_name in ("find", "getMore"):
            cursor = event.reply["cursor"]
            self.sizes.append(len(cursor.get("firstBatch", cursor.get("nextBatch", ()))))
        elif event.command_name == "killCursors":
            self._loop.call_soon_threadsafe(self.killed.set)  # Motor's commands run in threads

    def failed(self, event: CommandFailedEvent) -> None:
        pass


class Site:
    """Many sessions of one subject, a few of another, and what may happen to them.

    Attributes:
        steady: the ids of those that live throughout.
        deeds: how often each thing happened.
    """

    def __init__(self, collection: Any) -> None:
        self.collection = collection
        self.clock = HandClock()
        self.engine = SessionEngine(MongoStore(collection), keys=["k" * 32], clock=self.clock, random=seeded(1))
        self.steady: set[str] = set()
        self.browsers: list[Browser] = []
        self.deeds: Counter[str] = Counter()
        self.awaited, self.enough = 0, asyncio.Event()
        self.over = False

    async def fill(self, many: int = MANY) -> None:
        """Some sessions by log-ins, the rest as copies of such a document."""
        await self.engine.setup()
        self.browsers = [await self.log_in(SUBJECT) for _ in range(60)]
        for _ in range(20):
            await self.log_in(OTHER)
        document = await self.collection.find_one({"subject": SUBJECT})
        chance = seeded(2)
        copies = [{**document, "_id": chance(16)} for _ in range(many - len(self.browsers))]
        await self.collection.insert_many(copies)
        self.steady = {copy["_id"].hex() for copy in copies}
        self.deeds.clear()

    async def log_in(self, subject: str) -> Browser:
        browser = Browser(self.engine, self.clock)
        async with browser.visit() as session:
            session.renew(subject=subject)
        return browser

    async def deeds_to_come(self, many: int) -> None:
        """Wait until so many more things have happened."""
        self.awaited, self.enough = self.deeds.total() + many, asyncio.Event()
        await self.enough.wait()

    async def unrest(self, seed: int) -> None:
        """Sessions are touched, rotated, renewed and begun, until it is over; of the first ones most end."""
        chance = Random(seed)
        ending = self.browsers[seed::8]
        steady = sorted(self.steady)
        while not self.over:
            self.clock.advance(1)
            deed = chance.choice(["visits", "visits", "renews", "begins", "ends", "changes hands", "touched"])
            if deed == "begins":
                await self.log_in(chance.choice([SUBJECT, OTHER]))
            elif deed == "touched":  # of those that live throughout, as by requests with their tokens
                one = bytes.fromhex(chance.choice(steady))
                raised = {"generation": 1, "seen_at": self.clock(), "rotated_at": self.clock()}
                renewed = {"epoch": chance.getrandbits(32), "generation": 0, "subject": SUBJECT}
                changes = chance.choice([Changes(raised=raised), Changes(put=renewed, durable=True)])
                assert await self.engine.store.update(one, changes)
            elif deed in ("ends", "changes hands") and len(ending) > 1:
                async with ending.pop().visit() as session:
                    session.destroy() if deed == "ends" else session.renew(subject=OTHER)
            else:
                async with chance.choice(ending).visit() as session:
                    session["visits"] = chance.random()
                    if deed == "renews":
                        session.renew()
            self.deeds[deed] += 1
            if self.deeds.total() >= self.awaited:
                self.enough.set()


@pytest.fixture
async def site(connect: Connect, driver: str) -> Site:
    site = Site(connect(driver))
    await site.fill()
    return site


async def test_ten_thousand_are_listed_while_they_change(site: Site) -> None:
    infos: list[SessionInfo] = []
    async with asyncio.TaskGroup() as group:
        for seed in range(4):
            group.create_task(site.unrest(seed))
        async for info in site.engine.sessions(SUBJECT):
            infos.append(info)
            if len(infos) % 500 == 250:  # who reads takes his time
                await site.deeds_to_come(20)
        site.over = True
    print(site.deeds)
    assert set(site.deeds) == {"visits", "renews", "begins", "ends", "changes hands", "touched"}
    listed = Counter(info.id for info in infos)
    assert {info.subject for info in infos} == {SUBJECT}
    assert set(listed) >= site.steady
    assert max(listed.values()) == 1
    await site.engine.close()


async def test_a_listing_reads_bounded_batches_by_the_index(connect: Connect, driver: str) -> None:
    batches = Batches()
    site = Site(connect(driver, listeners=[batches]))
    await site.fill()
    batches.clear()
    assert len([info async for info in site.engine.sessions(SUBJECT)]) == MANY
    (where,) = batches.wheres
    assert max(batches.sizes) <= 500
    assert sum(batches.sizes) == MANY
    explained = await site.collection.database.command(
        {"explain": {"find": site.collection.name, "filter": where}, "verbosity": "executionStats"}
    )
    assert explained["queryPlanner"]["winningPlan"]["inputStage"]["indexName"] == "mongosession_subject"
    assert explained["executionStats"]["totalDocsExamined"] == MANY  # none of another subject


async def test_a_slow_reader_loses_nothing_and_holds_no_more_than_a_batch(connect: Connect, driver: str) -> None:
    batches = Batches()
    site = Site(connect(driver, listeners=[batches]))
    await site.fill(2000)
    batches.clear()
    seen = 0
    async for _ in site.engine.sessions(SUBJECT):
        seen += 1
        await asyncio.sleep(0)
        assert sum(batches.sizes) <= seen + 500
    assert seen == 2000


@pytest.mark.parametrize("way", ["closed", "dropped", "cancelled"])
async def test_a_listing_that_is_abandoned_leaves_nothing_behind(connect: Connect, driver: str, way: str) -> None:
    batches = Batches()
    site = Site(connect(driver, listeners=[batches]))
    await site.fill(2000)
    batches.clear()
    tasks = asyncio.all_tasks()
    reading = asyncio.Event()

    async def read() -> None:
        infos = site.engine.sessions(SUBJECT)
        async for _ in infos:
            if way == "cancelled":
                reading.set()
                await asyncio.Event().wait()
            break
        if way == "closed":
            assert isinstance(infos, AsyncGenerator)
            await infos.aclose()

    if way == "cancelled":
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(read())
            await reading.wait()
            reader.cancel()
        del reader
    else:
        await read()
    gc.collect()
    with anyio.fail_after(10):
        await batches.killed.wait()
        while leftover := asyncio.all_tasks() - tasks:
            await asyncio.wait(leftover)
