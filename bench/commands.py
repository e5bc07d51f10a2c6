"""What a request costs the database: commands, bytes of the command that changes one key, bytes of its oplog entry.

Exact, and the same each time: ``tests/test_bench_commands.py`` asserts it.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import bson
from pymongo import AsyncMongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from mongosession import MongoStore, Session, SessionEngine
from mongosession.mongod import Mongod
from mongosession.testing import Browser, Exchange, HandClock, seeded

from .results import Figure, Part

TITLE = "Database commands and bytes"
DID = (
    "Counted with the driver's command listener on a replica set of one node, whose oplog is read; PyMongo's "
    "async client. The bytes are those of the command's BSON in a collection `shop.sessions`, without what the "
    "driver adds for retries (`lsid`, `txnNumber`, `$clusterTime`). `make test` asserts these figures."
)

SIZES = (300, 2_000, 20_000)
"""Bytes of data beside the key that changes."""

ADDED = {"lsid", "txnNumber", "$clusterTime"}
WIDE = 2**32 - 1
"""An epoch that takes 8 bytes; of the drawn ones every other does."""

COMMANDS = {
    "read-only": 1,
    "change": 2,
    "change and rotation": 2,
    "visitor without a cookie": 0,
    "forged cookie": 0,
    "ended by its deadline": 0,
}
"""What each kind of request may cost."""


class Commands(CommandListener):
    """The commands of one client, as they were sent."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def started(self, event: CommandStartedEvent) -> None:
        """Called by the driver."""
        if event.command_name not in ("hello", "endSessions"):
            self.sent.append(dict(event.command))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Called by the driver."""

    def failed(self, event: CommandFailedEvent) -> None:
        """Called by the driver."""


class Weight(NamedTuple):
    """Bytes of one change.

    Attributes:
        command: of the update command, without what the driver adds.
        oplog: of its oplog entry.
        fields: of each field of the command.
    """

    command: int
    oplog: int
    fields: Mapping[str, int]


async def request(browser: Browser, handle: Callable[[Session], object]) -> None:
    """One request, answered."""
    async with browser.visit() as session:
        handle(session)


def change(session: Session) -> None:
    """Change the one key."""
    session["visits"] += 1


async def weigh(collection: Any, commands: Commands, size: int) -> Weight:
    """What one changed key weighs beside so many bytes of others.

    Args:
        collection: on a replica set.
        commands: listens to the collection's client.
        size: bytes of data that do not change.
    """
    clock = HandClock()
    engine = SessionEngine(MongoStore(collection), keys=["k" * 32], clock=clock, random=seeded(size))
    browser = Browser(engine, clock)
    await request(browser, lambda session: session.update(visits=1, **{f"k{n}": "x" * 90 for n in range(size // 100)}))
    commands.sent.clear()
    await request(browser, change)
    sent = commands.sent[-1]
    sent["updates"][0]["q"]["epoch"] = WIDE
    own = {name: value for name, value in sent.items() if name not in ADDED}
    own |= {"update": "sessions", "$db": "shop"}
    database = collection.database
    oplog = database.client.local["oplog.rs"]
    entry = await oplog.find_one({"ns": f"{database.name}.{collection.name}", "op": "u"}, sort=[("$natural", -1)])
    entry["ns"] = "shop.sessions"
    fields = {name: len(bson.encode({name: value})) - 5 for name, value in own.items()}
    return Weight(len(bson.encode(own)), len(bson.encode(entry)), fields)


async def costs(collection: Any, commands: Commands) -> dict[str, int]:
    """Commands of each kind of request."""
    clock = HandClock()
    engine = SessionEngine(MongoStore(collection), keys=["k" * 32], clock=clock, random=seeded(1))
    browser = Browser(engine, clock)
    await request(browser, lambda session: session.update(visits=1))

    async def cost(handle: Callable[[Session], object], exchange: Exchange | None = None) -> int:
        commands.sent.clear()
        exchange = exchange or browser.send()
        handle(await exchange.open())
        await exchange.answer()
        exchange.deliver()
        return len(commands.sent)

    found = {"read-only": await cost(Session.copy), "change": await cost(change)}
    clock.advance(5)
    found["change and rotation"] = await cost(change)
    forged, overdue = browser.send(), browser.send()
    forged.cookie = f"{forged.cookie}"[:-4] + "AAAA"
    found["visitor without a cookie"] = await cost(Session.copy, Browser(engine, clock).send())
    found["forged cookie"] = await cost(Session.copy, forged)
    clock.advance(30 * 86400)
    found["ended by its deadline"] = await cost(Session.copy, overdue)
    return found


async def _measure(uri: str) -> list[Figure]:
    commands = Commands()
    async with AsyncMongoClient[dict[str, Any]](uri, event_listeners=[commands]) as client:
        collection = client.shop.sessions
        counted = await costs(collection, commands)
        weights = {size: await weigh(collection, commands, size) for size in SIZES}
    figures = [Figure(f"commands: {kind}", counted[kind], goal=("exactly", most)) for kind, most in COMMANDS.items()]
    for size, weight in weights.items():
        made_of = ", ".join(f"`{name}` {bytes_}" for name, bytes_ in weight.fields.items()) if size == SIZES[0] else ""
        figures += [
            Figure(f"update command, {size:,} B of data", weight.command, "bytes", ("at most", 150), note=made_of),
            Figure(f"its oplog entry, {size:,} B of data", weight.oplog, "bytes", ("at most", 420)),
        ]
    return figures


def run() -> Part:
    """The whole part."""
    with Mongod(replica_set=True) as mongod:
        return Part(TITLE, DID, asyncio.run(_measure(mongod.uri)))
