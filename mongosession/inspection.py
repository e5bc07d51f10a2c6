"""What the command line asks the database, through a store's own collection, of either driver.

Beside the store's own commands: a look at the collection and the server, one aggregation for the figures. A session
lives until its document's ``expires_at``, which the application stored by its own timeouts: this shell may have others.
"""

import inspect
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from math import log
from typing import Any, NamedTuple

import pymongo
from pymongo import AsyncMongoClient
from pymongo.errors import ConfigurationError, ConnectionFailure, OperationFailure, PyMongoError

from mongosession.check import Facts
from mongosession.errors import SetupError, StoreError, StoreUnavailable
from mongosession.mongo import INDEXES, SHAPE, MongoStore, check_index
from mongosession.policy import DAY
from mongosession.store import ENDED

AGES = {"1h": 3600.0, "1d": DAY, "7d": 7 * DAY, "30d": 30 * DAY}
"""The classes of ages: name -> seconds below which an age belongs to it; beyond the last one is "longer"."""

_LOCAL = ("localhost", "127.0.0.1", "::1")

_SIZE_STEP = 1.1  # sizes are counted in classes that are 10 % wide: exact enough, and few, however many sessions


class Sizes(NamedTuple):
    """How many bytes of BSON the data of the living sessions have. Median and p95 are within 5 %."""

    total: int
    median: int
    p95: int
    largest: int


class Storage(NamedTuple):
    """What the collection takes on disk.

    Attributes:
        documents: how many there are, ended ones included.
        bytes: of all documents, as BSON.
        disk: bytes of the collection's file as of the last checkpoint (one a minute): compressed, with free space.
        indexes: bytes of each index.
    """

    documents: int
    bytes: int
    disk: int
    indexes: Mapping[str, int]

    @property
    def per_document(self) -> int:
        """Bytes on disk a document, indexes included; 0 where there is none."""
        return round((self.disk + sum(self.indexes.values())) / self.documents) if self.documents else 0


class Stats(NamedTuple):
    """The figures of a collection.

    Attributes:
        living: sessions that a request could open.
        with_subject: those of them that belong to somebody.
        expired: sessions past their timeout that the database has not removed yet.
        ended: sessions that were destroyed or revoked, kept for some minutes.
        foreign: documents that are no sessions.
        data: sizes of the living sessions' data.
        created: living sessions by the time since they began or their subject was last set.
        seen: living sessions by the time since the last request.
        storage: what all of them take.
    """

    living: int
    with_subject: int
    expired: int
    ended: int
    foreign: int
    data: Sizes
    created: Mapping[str, int]
    seen: Mapping[str, int]
    storage: Storage


def connect(uri: str, namespace: str) -> Any:
    """The collection ``namespace`` (``database.collection``), on a client of PyMongo's own.

    Raises:
        ValueError: either makes no sense.
    """
    database, _, collection = namespace.partition(".")
    if not database or not collection:
        raise ValueError(f"the collection is {namespace!r}; it must be database.collection, such as shop.sessions")
    try:
        client = AsyncMongoClient[dict[str, Any]](uri)
    except (PyMongoError, ValueError) as error:
        told: object = error
        if "@" in uri:  # the driver's message may quote a part of the password
            told = "is each of / ? # [ ] @ : % in the user name and the password percent-encoded?"
        raise ValueError(f"the connection string makes no sense: {told}") from None
    try:
        return client[database][collection]
    except PyMongoError as error:
        raise ValueError(f"the collection {namespace!r} makes no sense: {error}") from None


async def close(collection: Any) -> None:
    """Close the client that a collection belongs to."""
    closing = collection.database.client.close()
    if inspect.isawaitable(closing):  # PyMongo's is, Motor's is not
        await closing


@contextmanager
def driver_errors() -> Generator[None, None, None]:
    """The driver's errors in the library's words."""
    try:
        yield
    except PyMongoError as error:
        if error.timeout or isinstance(error, ConnectionFailure):
            raise StoreUnavailable(f"the database is away: {error}") from error
        raise StoreError(f"the database refused: {error}") from error


async def greet(store: MongoStore) -> None:
    """See that the database answers, within the store's deadline.

    Raises:
        ValueError: the connection string leads nowhere: the resolver does not know its name, for one.
        StoreError: the database is away or refuses.
    """
    try:
        await store.load(bytes(16))  # nobody's
    except StoreError as error:
        if isinstance(error.__cause__, ConfigurationError):
            raise ValueError(f"the connection string makes no sense: {error.__cause__}") from error
        raise


async def require(store: MongoStore) -> None:
    """See that there is a collection with documents of its own.

    Raises:
        SetupError: it is not there, or is a view or a time series.
    """
    collection = store.collection
    if not await _exists(collection):
        raise SetupError(f"the collection {collection.full_name} is not there: is its name right? (setup creates it)")
    options = dict(await collection.options())
    for option, what in (("viewOn", "a view"), ("timeseries", "a time series")):
        if option in options:
            raise SetupError(f"the collection {collection.full_name} is {what}: is its name right?")


async def gather(store: MongoStore, clock: Callable[[], float] = time.time) -> Facts:
    """What ``check.findings`` judges about a database.

    Args:
        store: whose collection is looked at.
        clock: the engine's: seconds since 1970.
    """
    collection = store.collection
    client = collection.database.client
    admin = client["admin"]
    hello, ahead, error = await _compare_clocks(admin, clock)
    version = tuple((await admin.command("buildInfo"))["versionArray"][:3])
    topology = _topology(hello)
    exists = await _exists(collection)
    options = dict(await collection.options())
    plain = exists and not {"viewOn", "timeseries"} & options.keys()
    indexes = dict(await collection.index_information()) if plain else {}
    return Facts(
        collection=collection.full_name,
        exists=exists,
        options=options,
        indexes=indexes,
        index_faults=list(_index_faults(indexes)) if plain else [],
        holds_foreign=await _holds_foreign(store) if plain else False,
        version=version,
        topology=topology,
        write_concern=collection.write_concern.document or await _default_concern(admin, topology, version),
        retry_writes=bool(client.options.retry_writes),
        direct=client.topology_description.topology_type_name == "Single",
        open_to_all=await _open_to_all(client),
        ttl_monitor=await _ttl_monitor(admin),
        clock_ahead=ahead,
        clock_error=error,
    )


async def measure(store: MongoStore, now: float) -> Stats:
    """The figures of a collection. Reads every document once, on the server; what is kept there meanwhile is small.

    Args:
        store: whose collection is measured.
        now: seconds since 1970.
    """
    collection = store.collection
    groups = await _aggregate(collection, _pipeline(now))
    living = [group for group in groups if group["_id"]["state"] == "living"]
    states = {
        state: sum(int(group["count"]) for group in groups if group["_id"]["state"] == state)
        for state in ("living", "expired", "ended", "foreign")
    }
    return Stats(
        **states,
        with_subject=sum(int(group["count"]) for group in living if group["_id"]["subject"]),
        data=_sizes(living),
        created=_by_age(living, "created"),
        seen=_by_age(living, "seen"),
        storage=await _storage(collection),
    )


async def _compare_clocks(admin: Any, clock: Callable[[], float]) -> tuple[Mapping[str, Any], float, float]:
    """The server's greeting, how far ahead of it this machine's clock is, and how wrong that may be, in seconds."""
    tried: list[tuple[float, float, Mapping[str, Any]]] = []
    for _ in range(3):
        before = clock()
        hello = await admin.command("hello")
        after = clock()
        server = hello["localTime"].replace(tzinfo=UTC).timestamp()
        tried.append(((after - before) / 2, (before + after) / 2 - server, hello))
    error, ahead, hello = min(tried, key=lambda each: each[0])  # the quickest answer is the most exact
    return hello, ahead, error


async def _exists(collection: Any) -> bool:
    return bool(await collection.database.list_collection_names(filter={"name": collection.name}))


async def _holds_foreign(store: MongoStore) -> bool | None:
    try:
        with pymongo.timeout(store.timeout):  # a large collection is not read for longer than that
            return await store.holds_foreign()
    except PyMongoError as error:
        if error.timeout:
            return None
        raise


async def _open_to_all(client: Any) -> bool:
    """Whether the server is elsewhere, and the client is nobody to it."""
    local = all(host in _LOCAL or host.startswith("/") for host, _ in client.nodes)
    return not local and not (await client["admin"].command("connectionStatus"))["authInfo"]["authenticatedUsers"]


def _topology(hello: Mapping[str, Any]) -> str:
    if hello.get("msg") == "isdbgrid":
        return "sharded cluster"
    return "replica set" if "setName" in hello else "standalone"


def _index_faults(indexes: Mapping[str, Mapping[str, Any]]) -> Generator[str, None, None]:
    for name, keys, options in INDEXES:
        try:
            check_index(indexes, name, keys, options)
        except SetupError as error:
            yield str(error)
        else:
            if name not in indexes:
                yield f"the index {name} on {keys[0][0]} is missing"


async def _default_concern(admin: Any, topology: str, version: tuple[int, ...]) -> Mapping[str, Any]:
    if topology == "standalone":
        return {"w": 1}
    try:
        found: Mapping[str, Any] = (await admin.command("getDefaultRWConcern")).get("defaultWriteConcern", {})
    except OperationFailure:  # not for this user, or not known to this server
        found = {}
    return found or {"w": "majority" if version >= (5,) else 1}


async def _ttl_monitor(admin: Any) -> bool | None:
    try:
        return bool((await admin.command({"getParameter": 1, "ttlMonitorEnabled": 1}))["ttlMonitorEnabled"])
    except OperationFailure:  # not for this user, or not on a router
        return None


def _pipeline(now: float) -> list[dict[str, Any]]:
    """Counts of sessions that agree in everything that is asked for: at most some thousand rows, and one for all that
    is foreign, of which nothing else is looked at: its fields may be of any type.
    """
    present = datetime.fromtimestamp(now, UTC)
    session = {"$and": [_has_type(field, type_) for field, type_ in SHAPE.items()]}
    state = {
        "$switch": {
            "branches": [
                {"case": {"$eq": ["$epoch", ENDED]}, "then": "ended"},
                {"case": {"$lte": ["$expires_at", present]}, "then": "expired"},
            ],
            "default": "living",
        }
    }
    fields = {
        "state": (state, "foreign"),
        "subject": ({"$ne": [{"$type": "$subject"}, "missing"]}, False),
        "bytes": ({"$bsonSize": {"$cond": [{"$eq": [{"$type": "$data"}, "object"]}, "$data", {}]}}, 5),
        "created": (_age_class("$created_at", present), ""),
        "seen": (_age_class("$seen_at", present), ""),
    }
    return [
        {"$project": {"_id": False} | {name: {"$cond": [session, *either]} for name, either in fields.items()}},
        {
            "$group": {
                "_id": {
                    **{field: f"${field}" for field in ("state", "subject", "created", "seen")},
                    "size": {"$floor": {"$divide": [{"$ln": "$bytes"}, log(_SIZE_STEP)]}},
                },
                "count": {"$sum": 1},
                "bytes": {"$sum": "$bytes"},
                "largest": {"$max": "$bytes"},
            }
        },
    ]


def _has_type(field: str, type_: str) -> dict[str, Any]:
    return {"$isNumber": f"${field}"} if type_ == "number" else {"$eq": [{"$type": f"${field}"}, type_]}


def _age_class(field: str, now: datetime) -> dict[str, Any]:
    age = {"$subtract": [now, field]}
    branches = [{"case": {"$lt": [age, seconds * 1000]}, "then": name} for name, seconds in AGES.items()]
    return {"$switch": {"branches": branches, "default": "longer"}}


def _sizes(groups: Sequence[Mapping[str, Any]]) -> Sizes:
    count: dict[float, int] = {}
    total: dict[float, int] = {}
    for group in groups:
        size = float(group["_id"]["size"])
        count[size] = count.get(size, 0) + int(group["count"])
        total[size] = total.get(size, 0) + int(group["bytes"])

    def percentile(share: float) -> int:
        """The mean of the class that the session at this share of the way belongs to."""
        left = share * sum(count.values())
        for size in sorted(count):
            left -= count[size]
            if left <= 0:
                return round(total[size] / count[size])
        return 0

    largest = max((int(group["largest"]) for group in groups), default=0)
    return Sizes(sum(total.values()), percentile(0.5), percentile(0.95), largest)


def _by_age(groups: Sequence[Mapping[str, Any]], which: str) -> dict[str, int]:
    return {
        name: sum(int(group["count"]) for group in groups if group["_id"][which] == name) for name in (*AGES, "longer")
    }


async def _storage(collection: Any) -> Storage:
    if not await _exists(collection):
        return Storage(0, 0, 0, {})
    shards = [row["storageStats"] for row in await _aggregate(collection, [{"$collStats": {"storageStats": {}}}])]
    indexes: dict[str, int] = {}
    for shard in shards:
        for name, size in shard["indexSizes"].items():
            indexes[name] = indexes.get(name, 0) + int(size)
    count, size, disk = (sum(int(shard[field]) for shard in shards) for field in ("count", "size", "storageSize"))
    return Storage(count, size, disk, indexes)


async def _aggregate(collection: Any, pipeline: list[dict[str, Any]]) -> list[Mapping[str, Any]]:
    cursor = collection.aggregate(pipeline, allowDiskUse=True)
    if inspect.isawaitable(cursor):  # PyMongo's call is, Motor's is not
        cursor = await cursor
    found: list[Mapping[str, Any]] = await cursor.to_list(None)
    return found
