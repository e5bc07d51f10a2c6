"""Growth: a thousand to a million sessions in a collection, and 100,000 that expire under load."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from statistics import quantiles
from typing import Any, NamedTuple

from bson.datetime_ms import DatetimeMS
from pymongo import AsyncMongoClient

from mongosession import MongoStore
from mongosession.mongo import TIMES
from mongosession.mongod import Mongod
from mongosession.store import Changes, Record
from mongosession.values import Delta

from .results import Figure, Part

TITLE = "Growth"
DID = (
    "Collections of sessions that hold nothing and have no subject, inserted in bulk with random ids, both "
    "indexes in place. Then 2,000 look-ups and 2,000 changes of one key in each, of sessions drawn at random, the "
    "collections in turn, one call after the other through `MongoStore`. The server's cache has 0.25 GB. The "
    "bytes are those on the disk after a checkpoint, before the changes. Expiry: 100,000 sessions become due at "
    "once, the TTL monitor runs every second, and four tasks look up and change others meanwhile; then for as "
    "long without; three rounds in turn."
)

SIZES = (1_000, 10_000, 100_000, 1_000_000)
WORDS = {1_000: "1 thousand", 10_000: "10 thousand", 100_000: "100 thousand", 1_000_000: "1 million"}
CALLS = 2000
BATCH = 5_000
LIVE, EXPIRING, TASKS, ROUNDS = 1_000, 100_000, 4, 3
IDLE, DAY = 7200, 86400
INDEX_DELAY = 120
"""Seconds after ``expires_at`` from which on the index lets a document expire."""

Call = Callable[[MongoStore, bytes], Awaitable[object]]


def epoch(id: bytes) -> int:
    """The epoch of a session that was made here."""
    return int.from_bytes(id[:4])


async def load(store: MongoStore, id: bytes) -> None:
    """Look a session up."""
    assert await store.load(id) is not None


async def change(store: MongoStore, id: bytes) -> None:
    """Change one key of a session."""
    assert await store.update(id, Changes(data=Delta(set={"visits": 2})), epoch=epoch(id))


async def insert(store: MongoStore, count: int, expires_at: float, spread: float) -> AsyncIterator[bytes]:
    """Insert so many sessions, made like one that the store itself writes, and give their ids.

    Args:
        store: on which collection.
        count: how many.
        expires_at: when the last of them does, seconds since 1970.
        spread: seconds; each one's times are drawn from as long before.
    """
    chance = random.Random(count)
    start = expires_at - IDLE
    await store.create(Record(bytes(16), 1, 0, start, start, start, start, expires_at))
    template = await store.collection.find_one_and_delete({"_id": bytes(16)})
    for first in range(0, count, BATCH):
        documents: list[dict[str, Any]] = []
        for _ in range(min(BATCH, count - first)):
            key, earlier = chance.randbytes(16), spread * chance.random()
            times = dict.fromkeys(TIMES, DatetimeMS(int(1000 * (start - earlier))))
            times["expires_at"] = DatetimeMS(int(1000 * (expires_at - earlier)))
            documents.append(template | times | {"_id": key, "epoch": epoch(key)})
        await store.collection.insert_many(documents, ordered=False)
        for document in documents:
            yield document["_id"]


class Grown(NamedTuple):
    """A collection that has its size."""

    size: int
    store: MongoStore
    ids: list[bytes]


async def grow(client: AsyncMongoClient[dict[str, Any]], size: int) -> Grown:
    """A new collection of so many sessions. Of the largest ones, some ids are kept."""
    store = MongoStore(client.bench[f"sessions{size}"])
    await store.setup()
    ids = [key async for key in insert(store, size, time.time() + 2 * DAY, DAY)]
    return Grown(size, store, random.Random(1).choices(ids, k=CALLS))


async def bytes_a_session(grown: Grown) -> tuple[float, float]:
    """Of the documents and of the indexes, on the disk."""
    database = grown.store.collection.database
    await database.client.admin.command("fsync")
    told = await database.command("collStats", grown.store.collection.name)
    return told["storageSize"] / grown.size, told["totalIndexSize"] / grown.size


async def clocked(collections: list[Grown], call: Call) -> dict[int, list[float]]:
    """Milliseconds of each call, by the collection's size; the collections in turn."""
    took: dict[int, list[float]] = {grown.size: [] for grown in collections}
    for turn in range(CALLS):
        for size, store, ids in collections:
            began = time.perf_counter()
            await call(store, ids[turn])
            took[size].append(1000 * (time.perf_counter() - began))
    return took


async def growth(uri: str) -> list[Figure]:
    """From the smallest to the largest collection."""
    async with AsyncMongoClient[dict[str, Any]](uri) as client:
        collections = [await grow(client, size) for size in SIZES]
        figures: list[Figure] = []
        for grown in collections[2:]:
            documents, indexes = await bytes_a_session(grown)
            words = f"of {WORDS[grown.size]}, an empty session on the disk"
            figures += [
                Figure(f"{words}: document", documents, "bytes"),
                Figure(f"{words}: its entries in three indexes", indexes, "bytes"),
                Figure(f"{words}: all in all", documents + indexes, "bytes", ("at most", 250)),
            ]
        await clocked(collections, load)  # what is read for the first time comes from the disk
        for name, call in {"look-up": load, "change": change}.items():
            took = await clocked(collections, call)
            figures += [Figure.of(f"{name} among {WORDS[size]}", each, "ms") for size, each in took.items()]
            rounds = [large / small for small, large in zip(took[SIZES[0]], took[SIZES[-1]], strict=True)]
            figures.append(Figure.of(f"{name}, among 1 million to among 1 thousand", rounds, goal=("at most", 1.2)))
        return figures


async def worked(store: MongoStore, ids: list[bytes], until: Callable[[], Awaitable[bool]]) -> list[float]:
    """Milliseconds of each request of some tasks that go on until it is time."""
    took: list[float] = []
    over = asyncio.Event()

    async def work(number: int) -> None:
        chance = random.Random(number)
        while not over.is_set():
            key = chance.choice(ids)
            began = time.perf_counter()
            await load(store, key)
            await change(store, key)
            took.append(1000 * (time.perf_counter() - began))

    async with asyncio.TaskGroup() as group:
        for number in range(TASKS):
            group.create_task(work(number))
        while not await until():  # noqa: ASYNC110  # it is the database that is asked
            await asyncio.sleep(0.2)
        over.set()
    return took


def p99(values: list[float]) -> float:
    """The 99th percentile."""
    return quantiles(values, n=100)[98]


async def expiry(uri: str) -> list[Figure]:
    """Foreground requests with and without expiry behind them."""
    rounds: list[tuple[float, float, float]] = []
    async with AsyncMongoClient[dict[str, Any]](uri) as client:
        store = MongoStore(client.bench.expiring)
        await store.setup()
        live = [key async for key in insert(store, LIVE, time.time() + DAY, 1)]

        async def gone() -> bool:
            return bool(await store.collection.estimated_document_count() <= LIVE)

        for _ in range(ROUNDS):
            due = time.time() + 15  # when they have all been inserted
            async for _id in insert(store, EXPIRING, due - INDEX_DELAY, 1):
                pass
            await asyncio.sleep(due - time.time())
            began = time.monotonic()
            busy = await worked(store, live, gone)
            lasted = time.monotonic() - began

            async def later(end: float = time.monotonic() + lasted) -> bool:
                return time.monotonic() > end

            rounds.append((p99(busy), p99(await worked(store, live, later)), lasted))
    busy_p99, quiet_p99, lasted_s = zip(*rounds, strict=True)
    return [
        Figure.of("expiry of 100,000: until they were gone", lasted_s, "s"),
        Figure.of("look-up and change meanwhile, 99th percentile", busy_p99, "ms"),
        Figure.of("the same without expiry", quiet_p99, "ms"),
        Figure.of("the ratio", [busy / quiet for busy, quiet, _ in rounds]),
    ]


def run() -> Part:
    """The whole part."""
    with Mongod() as mongod:
        figures = asyncio.run(growth(mongod.uri))
    with Mongod(args=["--setParameter", "ttlMonitorSleepSecs=1"]) as mongod:
        figures += asyncio.run(expiry(mongod.uri))
    return Part(TITLE, DID, figures)
