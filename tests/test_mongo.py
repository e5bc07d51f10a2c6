"""What only MongoDB does: indexes, write concerns, the primary, deadlines, limits, and what a command weighs."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import bson
import pytest
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from pymongo import MongoClient, WriteConcern
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from mongosession.engine import SessionEngine
from mongosession.errors import DeltaRefused, SetupError, StoreError, StoreUnavailable
from mongosession.mongo import TIMES, CommandCounter, MongoStore
from mongosession.mongod import Mongod
from mongosession.plan import ending
from mongosession.policy import Rotation
from mongosession.store import DESTROYED, Changes, Record, Stamp
from mongosession.values import Delta, load_names

from .conftest import CLIENTS, Connect, closed
from .store_contract import NOW, a_record, created, listed, reloaded

EXPIRY = {"key": {"expires_at": 1}, "expireAfterSeconds": 120}
SUBJECT = {"key": {"subject": 1}, "partialFilterExpression": {"subject": {"$exists": True}}}


class Sent(CommandListener):
    """The commands that a client sends."""

    def __init__(self) -> None:
        self.commands: list[Mapping[str, Any]] = []

    def started(self, event: CommandStartedEvent) -> None:
        self.commands.append(event.command)

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass

    async def by(self, call: Awaitable[object]) -> Mapping[str, Any]:
        """The one command that a call sends."""
        self.commands.clear()
        await call
        (command,) = self.commands
        return command


async def indexes(collection: Any) -> dict[str, dict[str, Any]]:
    """Our indexes as the server has them, by name: the key and the options."""
    found = {name: dict(index) for name, index in (await collection.index_information()).items() if name != "_id_"}
    for index in found.values():
        index["key"] = dict(index["key"])
        del index["v"]
    return found


# Setting up.


async def test_setup_creates_both_indexes_and_may_be_repeated(collection: Any) -> None:
    store = MongoStore(collection)
    for _ in range(2):
        await store.setup()
        assert await indexes(collection) == {"mongosession_expiry": EXPIRY, "mongosession_subject": SUBJECT}


async def test_many_may_set_up_at_once(connect: Connect, driver: str) -> None:
    first = connect(driver, replica=True)
    second = connect(driver, replica=True).database[first.name]  # another client, as of another process
    await asyncio.gather(*(MongoStore(each).setup() for each in [first, second] * 10))
    assert await indexes(first) == {"mongosession_expiry": EXPIRY, "mongosession_subject": SUBJECT}


async def test_setup_leaves_other_indexes_alone(collection: Any) -> None:
    await collection.create_index([("subject", 1), ("seen_at", -1)], name="mine")
    await MongoStore(collection).setup()
    assert set(await indexes(collection)) == {"mine", "mongosession_expiry", "mongosession_subject"}


@pytest.mark.parametrize(
    ("keys", "options", "told"),
    [
        ({"expires_at": 1}, {"name": "mongosession_expiry", "expireAfterSeconds": 5}, ["5", "120"]),
        ({"expires_at": 1}, {"name": "mongosession_expiry"}, ["expires_at", "expireAfterSeconds"]),
        ({"expires_at": 1}, {"name": "theirs", "expireAfterSeconds": 120}, ["theirs", "mongosession_expiry"]),
        ({"seen_at": 1}, {"name": "mongosession_expiry", "expireAfterSeconds": 120}, ["seen_at", "expires_at"]),
        ({"expires_at": 1, "a": 1}, {"name": "mongosession_expiry"}, ["expires_at", "'a'"]),
        ({"subject": 1}, {}, ["subject_1", "mongosession_subject"]),
        ({"subject": 1}, {"name": "mongosession_subject"}, ["partialFilterExpression"]),
        ({"subject": 1}, {"name": "mongosession_subject", "sparse": True}, ["sparse", "partialFilterExpression"]),
        ({"subject": -1}, {"name": "mongosession_subject"}, ["-1"]),
        (
            {"subject": 1},
            {"name": "mongosession_subject", "unique": True, "partialFilterExpression": {"subject": {"$exists": True}}},
            ["unique"],
        ),
    ],
)
async def test_setup_tells_what_is_in_its_way(
    collection: Any, keys: dict[str, int], options: dict[str, Any], told: list[str]
) -> None:
    await collection.create_index(list(keys.items()), **options)
    before = await indexes(collection)
    with pytest.raises(SetupError) as error:
        await MongoStore(collection).setup()
    assert all(word in str(error.value) for word in told), error.value
    assert await indexes(collection) == before


async def test_setup_refuses_a_collation(collection: Any) -> None:
    await collection.database.create_collection(collection.name, collation={"locale": "en", "strength": 2})
    with pytest.raises(SetupError, match=r"has the collation .*'strength': 2"):
        await MongoStore(collection).setup()
    assert await indexes(collection) == {}


PAST = datetime(2020, 1, 1, tzinfo=UTC)
SESSION: dict[str, Any] = {"_id": bytes(16), "epoch": 7, "generation": 3, **dict.fromkeys(TIMES, PAST)}

FOREIGN: list[dict[str, Any]] = [
    {"_id": 1, "expires_at": PAST, "coupon": "SUMMER"},
    {**SESSION, "_id": "theirs"},  # looks like one of ours, under an id that is no hash
    *({name: value for name, value in SESSION.items() if name != missing} for missing in SESSION if missing != "_id"),
    {**SESSION, "epoch": "7"},
    {**SESSION, "seen_at": 1.0},
]


@pytest.mark.parametrize("foreign", FOREIGN, ids=lambda each: ",".join(SESSION.keys() - each.keys()) or "all there")
async def test_setup_keeps_its_hands_off_the_documents_of_others(collection: Any, foreign: dict[str, Any]) -> None:
    await created(MongoStore(collection))  # a request was quicker than setup
    await collection.insert_one(foreign)
    with pytest.raises(SetupError, match=rf"{collection.name}.* holds documents that are no sessions"):
        await MongoStore(collection).setup()
    with pytest.raises(SetupError, match="no sessions"):
        await SessionEngine(MongoStore(collection), keys=["k" * 32]).setup()
    assert await indexes(collection) == {}
    assert await collection.count_documents({}) == 2


async def test_setup_puts_back_an_index_among_sessions(collection: Any) -> None:
    store = MongoStore(collection)
    await created(store)
    ended = await created(store, subject="s")
    await store.update(ended.id, ending(DESTROYED, now=NOW, rotation=Rotation()))
    await store.setup()
    assert await indexes(collection) == {"mongosession_expiry": EXPIRY, "mongosession_subject": SUBJECT}


async def test_a_start_where_all_is_there_reads_no_document(connect: Connect, driver: str) -> None:
    sent = Sent()
    store = MongoStore(connect(driver, listeners=[sent]))
    await store.setup()
    sent.commands.clear()
    await store.setup()
    assert [next(iter(command)) for command in sent.commands] == ["listCollections", "listIndexes"]


async def test_indexes_are_built_for_as_long_as_it_takes(connect: Connect, driver: str, replica_uri: str) -> None:
    sent = Sent()
    collection = connect(driver, listeners=[sent], replica=True)
    record = await created(MongoStore(collection, timeout=30))
    with MongoClient[dict[str, Any]](replica_uri) as client, client.start_session() as transaction:
        transaction.start_transaction()
        other = client[collection.database.name][collection.name]
        other.update_one({"_id": record.id}, {"$set": {"generation": 4}}, session=transaction)
        building = asyncio.create_task(MongoStore(collection, timeout=0.2).setup())  # waits for the transaction's lock
        await asyncio.sleep(1.4)  # more than that timeout and what the event loop adds
        assert not building.done()
        transaction.commit_transaction()
    await building
    assert await indexes(collection) == {"mongosession_expiry": EXPIRY, "mongosession_subject": SUBJECT}
    assert not [each for each in sent.commands if {"find", "createIndexes"} & each.keys() and "maxTimeMS" in each]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"viewOn": "other"}, "is a view"),
        ({"timeseries": {"timeField": "at"}}, "is a time series"),
        ({"capped": True, "size": 4096}, "is capped"),
    ],
)
@pytest.mark.parametrize("clustered", [False, True])
async def test_setup_wants_a_plain_collection(
    collection: Any, options: dict[str, Any], told: str, *, clustered: bool
) -> None:
    await collection.database.create_collection(collection.name, **options)
    with pytest.raises(SetupError, match=told):
        await MongoStore(collection, clustered=clustered).setup()


async def test_listings_pass_over_the_documents_of_others(collection: Any) -> None:
    store = MongoStore(collection)
    record = await created(store, subject="s")
    for number, foreign in enumerate(FOREIGN):
        own = number.to_bytes(16) if foreign["_id"] == SESSION["_id"] else foreign["_id"]
        await collection.insert_one({**foreign, "_id": own, "subject": "s"})
    assert [each.id for each in await listed(store)] == [record.id]
    assert [each.id for each in await listed(store, "s")] == [record.id]


async def test_a_clustered_collection(collection: Any) -> None:
    store = MongoStore(collection, clustered=True)
    for _ in range(2):
        await store.setup()
    assert (await collection.options())["clusteredIndex"]["key"] == {"_id": 1}
    assert {name for name in await indexes(collection) if name.startswith("mongosession")} == {
        "mongosession_expiry",
        "mongosession_subject",
    }
    record = await created(store, {"a": 1}, subject="s")
    assert await store.load(record.id) == record
    await MongoStore(collection).setup()  # which does not mind


async def test_many_may_set_up_a_clustered_collection_at_once(connect: Connect, driver: str) -> None:
    first = connect(driver, replica=True)
    second = connect(driver, replica=True).database[first.name]
    await asyncio.gather(*(MongoStore(each, clustered=True).setup() for each in [first, second] * 10))
    assert "clusteredIndex" in await first.options()


async def test_a_collection_that_exists_cannot_be_clustered(collection: Any) -> None:
    await MongoStore(collection).setup()
    with pytest.raises(SetupError, match=r"exists and is not clustered.*clustered=False"):
        await MongoStore(collection, clustered=True).setup()


async def test_a_subject_is_looked_up_in_its_index(connect: Connect, driver: str) -> None:
    sent = Sent()
    collection = connect(driver, listeners=[sent])
    store = MongoStore(collection)
    await store.setup()
    await store.create(a_record(subject="s"))
    command = await sent.by(listed(store, "s"))
    explained = await collection.database.command("explain", {"find": command["find"], "filter": command["filter"]})
    plan = explained["queryPlanner"]["winningPlan"]
    assert plan["inputStage"]["indexName"] == "mongosession_subject"


# What a document looks like.


async def test_the_document(collection: Any) -> None:
    store = MongoStore(collection)
    times = {"created_at": 1.001, "renewed_at": 2.002, "rotated_at": 3.003, "seen_at": 4.004, "expires_at": 5.005}
    record = await created(store, {"a%2Eb": 1}, **times)
    options: CodecOptions[dict[str, Any]] = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_MS)
    raw = collection.with_options(codec_options=options)
    document = {"_id": record.id, "epoch": 7, "generation": 3, "data": {"a%2Eb": 1}}
    document |= {name: DatetimeMS(round(value * 1000)) for name, value in times.items()}
    assert await raw.find_one({}) == document
    own = {"subject": "s", "idle": 60.5, "persistent": False, "description": {"address": "::1"}}
    assert await store.update(record.id, Changes(put=own))
    assert await raw.find_one({}) == document | own
    assert await store.update(record.id, ending(DESTROYED, now=8.0, rotation=Rotation()))
    document |= {"renewed_at": DatetimeMS(8000), "expires_at": DatetimeMS(488000), "data": {}}
    assert await raw.find_one({}) == document | {
        "epoch": -1,
        "reason": "destroyed",
        "idle": 60.5,
        "persistent": False,
    }


async def test_a_long_listing_is_read_to_its_end(collection: Any) -> None:
    store = MongoStore(collection)
    record = await created(store, subject="s")
    document = await collection.find_one({})
    ids = {b"other %10d" % number for number in range(1000)}
    await collection.insert_many([{**document, "_id": each} for each in ids])
    assert {each.id for each in await listed(store, "s")} == {record.id, *ids}


# How it writes and reads, whatever the client's defaults.

WRITES: dict[str, Changes] = {
    "data": Changes(data=Delta(set={"a": 1})),
    "rotation": Changes({"generation": 4}, confirm=True),
    "renewal": Changes(put={"epoch": 8}, durable=True, confirm=True),
    "ending": ending(DESTROYED, now=NOW, rotation=Rotation()),
}


@pytest.mark.parametrize(
    ("defaults", "ordinary"),
    [
        ({}, None),
        ({"w": 0}, {"w": 1}),
        ({"w": 1}, {"w": 1}),
        ({"w": 1, "journal": True}, {"w": 1, "j": True}),
        ({"w": "majority"}, {"w": "majority"}),
    ],
)
async def test_write_concerns(
    connect: Connect, driver: str, defaults: dict[str, Any], ordinary: dict[str, Any] | None
) -> None:
    sent = Sent()
    collection = connect(driver, replica=True, listeners=[sent], **defaults)
    store = MongoStore(collection)
    record = a_record()
    assert (await sent.by(store.create(record)))["writeConcern"]["w"] == "majority"
    for kind, changes in WRITES.items():
        command = await sent.by(store.update(record.id, changes))
        if changes.durable:
            assert command["writeConcern"]["w"] == "majority", kind
        else:
            assert command.get("writeConcern") == ordinary, kind
        assert "txnNumber" in command, kind  # the driver may retry it
    for call in (store.set_default(record.id, "a", 1, epoch=7), store.pop(record.id, "a", epoch=7)):
        command = await sent.by(call)
        assert command["writeConcern"]["w"] == "majority"
        assert "txnNumber" in command
    await store.update(record.id, ending(DESTROYED, now=NOW, rotation=Rotation()))
    assert (await reloaded(store, record)).reason == DESTROYED


async def test_the_server_knows_when_nobody_waits_any_more(connect: Connect, driver: str) -> None:
    """Else what waits for a majority that lags behind would pile up there, each with a connection."""
    sent = Sent()
    store = MongoStore(connect(driver, replica=True, listeners=[sent]), timeout=3)
    record = a_record()
    calls = [store.create(record), *(store.update(record.id, changes) for changes in WRITES.values())]
    for call in [*calls, store.pop(record.id, "a", epoch=7), store.load(record.id)]:
        assert 0 < (await sent.by(call))["maxTimeMS"] <= 3000


async def test_a_collection_of_unacknowledged_writes_will_do(connect: Connect, driver: str) -> None:
    store = MongoStore(connect(driver, w=0))
    await store.setup()
    assert set(await indexes(store.collection)) == {"mongosession_expiry", "mongosession_subject"}
    record = await created(store)
    with pytest.raises(StoreError):
        await store.create(record)
    assert await store.update(a_record().id, Changes({"generation": 4})) is False
    assert await store.update(record.id, Changes({"generation": 4})) is True
    assert await store.update(record.id, Changes({"generation": 3}, confirm=True)) == Stamp(7, 4)


async def test_the_collections_own_write_concern_counts(connect: Connect, driver: str) -> None:
    sent = Sent()
    collection = connect(driver, replica=True, listeners=[sent], w=0).with_options(
        write_concern=WriteConcern(w=1, j=True)
    )
    store = MongoStore(collection)
    record = await created(store)
    command = await sent.by(store.update(record.id, Changes({"generation": 4})))
    assert command["writeConcern"] == {"w": 1, "j": True}


@pytest.mark.parametrize("preference", ["secondary", "secondaryPreferred", "nearest"])
async def test_it_reads_from_the_primary_what_is_there(connect: Connect, driver: str, preference: str) -> None:
    sent = Sent()
    collection = connect(driver, replica=True, listeners=[sent], readPreference=preference, readConcernLevel="majority")
    store = MongoStore(collection)
    await store.setup()
    record = await created(store, subject="s")  # there is no secondary: what asks for one would wait in vain
    for call in (store.load(record.id), listed(store, "s"), listed(store)):
        command = await sent.by(call)
        assert command.get("$readPreference", {"mode": "primary"}) == {"mode": "primary"}
        assert command["readConcern"]["level"] == "local"


async def test_a_call_is_one_command(connect: Connect, driver: str) -> None:
    sent = Sent()
    store = MongoStore(connect(driver, listeners=[sent]))
    record = a_record(subject="s")
    assert "insert" in await sent.by(store.create(record))
    assert "find" in await sent.by(store.load(record.id))
    assert "find" in await sent.by(listed(store, "s"))
    assert "update" in await sent.by(store.update(record.id, Changes({"generation": 4})))
    assert "findAndModify" in await sent.by(store.update(record.id, Changes({"generation": 4}, confirm=True)))
    assert "findAndModify" in await sent.by(store.set_default(record.id, "a", 1, epoch=record.epoch))
    assert "findAndModify" in await sent.by(store.pop(record.id, "a", epoch=record.epoch))


@pytest.mark.parametrize(
    "garbled",
    [
        {"epoch": "one"},
        {"epoch": None},
        {"generation": float("inf")},
        {"created_at": float("nan")},
        {"rotated_at": []},
        {"data": []},
        {"description": "phone"},
    ],
    ids=str,
)
async def test_a_document_that_makes_no_sense_is_an_outage(collection: Any, garbled: dict[str, Any]) -> None:
    store = MongoStore(collection)
    record = a_record()
    await store.create(record)
    await collection.update_one({"_id": record.id}, {"$set": garbled})
    with pytest.raises(StoreUnavailable, match="makes no sense"):
        await store.load(record.id)


async def test_a_listing_leaves_no_deadline_to_who_reads_it(connect: Connect, driver: str) -> None:
    sent = Sent()
    collection = connect(driver, listeners=[sent])
    store = MongoStore(collection)
    await created(store, subject="s")
    async for _ in store.find("s"):
        assert "maxTimeMS" not in await sent.by(collection.find_one({}))
        break
    assert "maxTimeMS" not in await sent.by(collection.find_one({}))
    assert "maxTimeMS" in await sent.by(store.load(bytes(16)))


# Limits.


@pytest.mark.parametrize("confirm", [False, True])
async def test_a_document_that_grows_beyond_16_mib_is_refused(collection: Any, *, confirm: bool) -> None:
    store = MongoStore(collection, timeout=30)
    record = await created(store, {"list": ["x" * 9 * 2**20], "n": 0}, subject="s")
    changes = Changes({"generation": 9}, {"subject": "t"}, confirm=confirm)
    with pytest.raises(DeltaRefused) as server:
        await store.update(record.id, changes._replace(data=Delta(append={"list": ["x" * 9 * 2**20]})), epoch=7)
    assert server.value.names == ("list",)
    with pytest.raises(DeltaRefused) as driver:
        await store.update(record.id, changes._replace(data=Delta(set={"text": "x" * 17 * 2**20})), epoch=7)
    assert driver.value.names == ("text",)
    with pytest.raises(DeltaRefused) as at_once:
        await store.set_default(record.id, "text", "x" * 9 * 2**20, epoch=record.epoch)
    assert at_once.value.names == ("text",)
    assert await store.load(record.id) == record


@pytest.mark.parametrize(("confirm", "limit"), [(False, 200), (True, 300)], ids=["data alone", "with a rotation"])
async def test_a_changed_key_weighs_the_same_whatever_else_there_is(
    connect: Connect, driver: str, *, confirm: bool, limit: int
) -> None:
    sent = Sent()
    client = connect(driver, replica=True, listeners=[sent]).database.client
    store = MongoStore(client.shop.sessions)  # the names of database and collection are part of each command
    weights: list[tuple[int, int]] = []
    for size in (300, 2_000, 20_000):
        record = await created(store, {f"key{number}": "x" * 90 for number in range(size // 100)}, epoch=2**32 - 1)
        assert size <= len(record.data) <= 1.1 * size
        changes = Changes({"generation": 4, "rotated_at": NOW} if confirm else {}, data=Delta(set={"visits": 12345}))
        command = await sent.by(store.update(record.id, changes._replace(confirm=confirm), epoch=record.epoch))
        own = {name: value for name, value in command.items() if name not in {"lsid", "$clusterTime", "txnNumber"}}
        weights.append((len(bson.encode(own)), len(bson.encode(command))))
    await store.collection.drop()
    print(
        f"\n{driver}: {weights[0][0]} bytes, {weights[0][1]} with what the driver adds (lsid, $clusterTime, txnNumber)"
    )
    assert len(set(weights)) == 1
    assert weights[0][0] <= limit


# Bad days.


@pytest.fixture(params=["silent", "closed"])
def dead_uri(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server that connections can be made to and that never says a word, or a port where nobody listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if request.param == "silent":
            server.listen()  # the kernel answers for it, and nobody reads
        yield f"mongodb://127.0.0.1:{server.getsockname()[1]}/"


CALLS: dict[str, Callable[[MongoStore], Awaitable[object]]] = {
    "setup": lambda store: store.setup(),
    "load": lambda store: store.load(bytes(16)),
    "create": lambda store: store.create(a_record()),
    "update": lambda store: store.update(bytes(16), Changes({"generation": 4})),
    "confirmed": lambda store: store.update(bytes(16), Changes({"generation": 4}, confirm=True)),
    "find": listed,
}


@asynccontextmanager
async def connected(driver: str, uri: str, **options: Any) -> AsyncGenerator[Any, None]:
    """A client of this driver."""
    client: Any = CLIENTS[driver](uri, **options)
    yield client
    await closed(client)


async def assert_unavailable(store: MongoStore) -> None:
    """Every call says so, within the deadline and not a second later, when the event loop would have given up."""

    async def unavailable(name: str) -> float:
        started = time.monotonic()
        with pytest.raises(StoreUnavailable) as error:
            await CALLS[name](store)
        assert error.value.retry_after > 0, name
        return time.monotonic() - started

    longest: list[float] = []
    while not longest or longest[-1] >= store.timeout + 0.9:
        assert len(longest) < 3, longest  # a busy machine holds up some of them once, and not each time
        longest.append(max(await asyncio.gather(*map(unavailable, CALLS))))


async def test_a_server_that_does_not_answer(dead_uri: str, driver: str) -> None:
    async with connected(driver, dead_uri) as client:
        await assert_unavailable(MongoStore(client.test.sessions, timeout=0.3))


@pytest.fixture(scope="module")
def own_mongod() -> Iterator[Mongod]:
    """A server that may be stopped."""
    with Mongod() as mongod:
        yield mongod


async def test_a_server_that_stops_answering_and_comes_back(own_mongod: Mongod, driver: str) -> None:
    async with connected(driver, own_mongod.uri) as client:
        patient = MongoStore(client.test[driver], timeout=30)
        record = await created(patient, {"n": 0})
        os.kill(own_mongod.pid, signal.SIGSTOP)
        try:
            await assert_unavailable(MongoStore(client.test[driver], timeout=0.3))
        finally:
            os.kill(own_mongod.pid, signal.SIGCONT)
        assert await patient.update(record.id, Changes(data=Delta(increment={"n": 1})))
        assert load_names((await reloaded(patient, record)).data) == {"n": 1}


@pytest.fixture(scope="module")
def failing_uri() -> Iterator[str]:
    """A replica set that can be told to fail."""
    with Mongod(replica_set=True, args=["--setParameter", "enableTestCommands=1"]) as mongod:
        yield mongod.uri


AT_ONCE: dict[str, tuple[Callable[[MongoStore, Record], Awaitable[object]], object]] = {
    "confirmed": (lambda store, of: store.update(of.id, Changes({"generation": 4}, confirm=True)), Stamp(7, 4)),
    "pop": (lambda store, of: store.pop(of.id, "a", epoch=7), bson.encode({"a": 1})),
    "set_default": (lambda store, of: store.set_default(of.id, "a", 2, epoch=7), bson.encode({"a": 1})),
}


@pytest.mark.parametrize("call", AT_ONCE)
async def test_a_primary_that_steps_down_while_it_waits_for_the_majority(
    failing_uri: str, driver: str, call: str
) -> None:
    """It has written, and cannot say whether that stands. The driver asks again, and gets the same answer."""
    ask, answer = AT_ONCE[call]
    async with connected(driver, failing_uri) as client:

        async def fail(mode: object) -> None:
            # ExceededTimeLimit: after the codes of a real step-down the driver would look for another member first.
            error = {"code": 262, "codeName": "ExceededTimeLimit", "errmsg": "the primary steps down"}
            what = {"failCommands": ["findAndModify"], "errorLabels": ["RetryableWriteError"]}
            await client.admin.command(
                {
                    "configureFailPoint": "failCommand",
                    "mode": mode,
                    "data": what | {"writeConcernError": error},
                }
            )

        store = MongoStore(client.test[driver])
        record = await created(store, {"a": 1})
        await fail({"times": 1})
        assert await ask(store, record) == answer
        await fail("alwaysOn")
        with pytest.raises(StoreUnavailable):  # that error, or none but the end of its time
            await ask(MongoStore(client.test[driver], timeout=0.2), record)
        await fail("off")


@pytest.mark.parametrize("code", [134, 262, 9001], ids=["no-majority-yet", "time-exceeded", "socket"])
async def test_a_look_up_is_tried_again_where_the_driver_would(failing_uri: str, driver: str, code: int) -> None:
    async with connected(driver, failing_uri) as client:

        async def fail(mode: object) -> None:
            what = {"failCommands": ["find"], "errorCode": code}
            await client.admin.command({"configureFailPoint": "failCommand", "mode": mode, "data": what})

        store = MongoStore(client.test[driver], timeout=2)
        record = await created(store, {"a": 1})
        for times in (1, 4):
            await fail({"times": times})
            assert await store.load(record.id) == record
        await fail("alwaysOn")
        try:
            with pytest.raises(StoreUnavailable):  # it will pass
                await MongoStore(client.test[driver], timeout=0.3).load(record.id)
        finally:
            await fail("off")


async def test_connections_that_are_closed_one_after_the_other_are_no_outage(failing_uri: str, driver: str) -> None:
    async with connected(driver, failing_uri) as client:
        store = MongoStore(client.test[driver])
        record = await created(store, {"a": 1})
        what = {"failCommands": ["find"], "closeConnection": True}
        await client.admin.command({"configureFailPoint": "failCommand", "mode": {"times": 3}, "data": what})
        assert await store.load(record.id) == record


async def test_a_look_up_is_tried_once_where_the_client_says_so(failing_uri: str, driver: str) -> None:
    counter = CommandCounter()
    async with (
        connected(driver, failing_uri) as admin,
        connected(driver, failing_uri, retryReads=False, event_listeners=[counter]) as client,
    ):
        store = MongoStore(client.test[driver])
        record = await created(store, {"a": 1})
        counter.take()
        what = {"failCommands": ["find"], "errorCode": 9001}
        await admin.admin.command({"configureFailPoint": "failCommand", "mode": {"times": 1}, "data": what})
        with pytest.raises(StoreUnavailable):
            await store.load(record.id)
        assert counter.take() == ["find"]


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.load(b"x" * 16),
        lambda store: store.update(b"x" * 16, Changes(data=Delta(set={"n": 1})), epoch=1),
    ],
    ids=["load", "update"],
)
async def test_why_the_database_is_away(driver: str, call: Callable[[MongoStore], Awaitable[object]]) -> None:
    with socket.socket() as taken:  # bound, so that nobody else listens there
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        async with connected(driver, f"mongodb://127.0.0.1:{port}") as client:
            store = MongoStore(client.shop.sessions, timeout=0.5)
            with pytest.raises(StoreUnavailable, match=rf"the database is away: .*127\.0\.0\.1:{port}: .*111"):
                await call(store)


async def test_what_the_driver_adds_to_a_look_up_is_not_there_in_the_next(
    collection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a transaction that is bound to the context it adds the time of the cluster."""
    store, commands = MongoStore(collection), list[dict[str, Any]]()
    database = collection.database

    class Adding:
        client = database.client

        async def command(self, command: dict[str, Any], **options: Any) -> Any:
            commands.append(
                {name: dict(value) if isinstance(value, dict) else value for name, value in command.items()}
            )
            answer = await database.command(command, **options)
            command["readConcern"]["afterClusterTime"] = command["comment"] = "later"
            return answer

    monkeypatch.setattr(store, "_database", Adding())
    for _ in range(2):
        assert await store.load(b"x" * 16) is None
    assert commands[0] == commands[1]


# Construction.


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 86401])
async def test_a_timeout_that_makes_no_sense(collection: Any, seconds: float) -> None:
    with pytest.raises(ValueError, match=r"timeout=.*above 0"):
        MongoStore(collection, timeout=seconds)


async def test_only_asynchronous_collections(collection: Any, mongod_uri: str) -> None:
    with MongoClient[dict[str, Any]](mongod_uri) as client:
        for wrong in (None, "sessions", client.test.sessions, collection.database, collection.database.client):
            with pytest.raises(TypeError, match="must be a collection of"):
                MongoStore(wrong)
