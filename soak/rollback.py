"""Rollbacks made to happen: what a primary acknowledged alone is taken back when it returns to its set.

In each round both secondaries are killed, the primary goes on alone for a moment, is killed, and comes back once the
other two have elected one of them. What it had written alone is then rolled back: that is seen in its rollback id, and
in a document that it had acknowledged and that no member has any more.

Two sets of users suffer it. Those of the one collection, with w=1, are given tokens whose generations are rolled back.
Those of the other, with w=majority, do all they can at every moment of it. The history of both is judged.
"""

import asyncio
import random
import time
from collections import Counter
from contextlib import ExitStack
from typing import Any

from bson import Timestamp
from pymongo import AsyncMongoClient, ReadPreference, WriteConcern
from pymongo.errors import PyMongoError

from mongosession import MongoStore, Rotation, SessionEngine, Verdict
from mongosession.tokens import session_id

from .checker import judge, losses
from .history import Kind, Operation, keep
from .replicaset import Member, ReplicaSet, wait
from .result import Result
from .visitor import OWNER, Shifted, Visitor

ROLLBACKS = 20
"""After so many verified rollbacks the run is over."""

VISITORS = 12
"""Users of each collection."""

TTL = 5.0

DEADLINE = 1.5
"""Seconds that the database has for each call: while it has no majority, writes that need one take as long."""

# The primary notices after a heartbeat that it is alone, and steps down. It has to write something before that.
SETTINGS = {"electionTimeoutMillis": 2000, "heartbeatIntervalMillis": 2000}

REJOIN_SECONDS = 60.0

ROLLED_BACK = "rotations rolled back"
VERIFIED = "rollbacks, seen in the member's rollback id and in what it lost"

SHOWN = 10
"""Breaches that are printed."""


class Site:
    """An application over a replica set, with users of both kinds.

    Args:
        uri: the set.
        seed: of all chance.

    Attributes:
        clock: of the application.
        rotating: users whose tokens are written with w=1.
        durable: users of whom everything is written with w=majority.
        history: what they did.
        faults: what was seen of the faults, by name.
    """

    def __init__(self, uri: str, seed: int) -> None:
        self.clock = Shifted()
        self.chance = random.Random(seed)
        self.history: list[Operation] = []
        self.faults = Counter({ROLLED_BACK: 0})
        self._client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(uri, heartbeatFrequencyMS=500)
        self._database = self._client.soak
        self.rotating = self._users("rotating", w=1)
        self.durable = self._users("durable", w="majority")

    def _users(self, name: str, w: int | str) -> list[Visitor]:
        collection = self._database.get_collection(name, write_concern=WriteConcern(w=w))
        engine = SessionEngine(
            MongoStore(collection, timeout=DEADLINE),
            keys=["k" * 32],
            rotation=Rotation(ttl=TTL),
            clock=self.clock,
            random=self.chance.randbytes,
        )
        return [Visitor(f"{name} {number}", engine, self.history) for number in range(VISITORS)]

    async def set_up(self) -> None:
        """The indexes, and something that every member has."""
        for users in (self.rotating, self.durable):
            await users[0].engine.setup()
        await self._database.get_collection("marks", write_concern=WriteConcern(w=3)).insert_one({})

    async def close(self) -> None:
        """Disconnect."""
        for users in (self.rotating, self.durable):
            await users[0].engine.close()
        await self._client.close()

    async def log_in(self) -> None:
        """Whoever is logged out logs in."""
        await asyncio.gather(*(self._log_in(user) for user in (*self.rotating, *self.durable)))

    async def _log_in(self, user: Visitor) -> None:
        if await user.ask("read", OWNER) != "ok":
            await user.ask("begin")

    async def visit(self, users: list[Visitor]) -> None:
        """Each of them looks at the session, with three tabs at once."""
        await asyncio.gather(*(user.ask("read", OWNER) for user in users for _ in range(3)))

    async def live(self, over: asyncio.Event) -> None:
        """The durable users do this and that, with two tabs each, until it is over."""
        await asyncio.gather(*(self._tab(user, over) for user in self.durable for _ in range(2)))

    async def _tab(self, user: Visitor, over: asyncio.Event) -> None:
        kinds: list[Kind] = ["read", "read", "read", "write", "write", "increment", "increment", "begin", "end"]
        while not over.is_set():
            kind = self.chance.choice(kinds) if user.token is not None else "begin"
            match kind:
                case "increment":
                    await user.ask(kind, "hits", 1)
                case "write":
                    await user.ask(kind, self.chance.choice("ab"), f"{user.name}: {self.chance.randbytes(6).hex()}")
                case "read":
                    await user.ask(kind, self.chance.choice(["a", "b", "hits", OWNER]))
                case _:
                    await user.ask(kind)
            await asyncio.sleep(self.chance.uniform(0, 0.1))

    async def leave_alone(self, primary: Member, secondaries: list[Member]) -> str | None:
        """The secondaries die, tokens rotate, and the primary dies, while the durable users go on.

        Returns:
            What the primary has acknowledged last, and alone: the ``_id`` of a document; None if it did not.
        """
        over = asyncio.Event()
        living = asyncio.create_task(self.live(over))
        await asyncio.sleep(self.chance.uniform(0, 0.2))
        leaving = [user.ask("end") for user in self.chance.sample(self.rotating, 2)]
        await asyncio.gather(*leaving, *(asyncio.to_thread(member.kill) for member in secondaries))
        mark = None
        for _ in range(2):
            self.clock.ahead += TTL
            await self.visit(self.rotating)
            mark = await self._mark() or mark  # on a busy machine it steps down before the second
        await asyncio.to_thread(primary.kill)
        over.set()
        await living
        return mark

    async def _mark(self) -> str | None:
        """A document that the primary alone has, on its disk, as everything before it."""
        marks = self._database.get_collection("marks", write_concern=WriteConcern(w=1, j=True))
        mark = self.chance.randbytes(8).hex()
        try:
            await marks.insert_one({"_id": mark})
        except PyMongoError:  # it has stepped down already
            return None
        return mark

    async def count_rolled_back(self) -> None:
        """How many of the generations that users hold tokens of are unknown to the new primary."""
        for user in self.rotating:
            if (token := user.token) is not None:
                record = await user.engine.store.load(session_id(token.sid))
                if record is not None and record.epoch == token.epoch:
                    self.faults[ROLLED_BACK] += max(0, token.generation - record.generation)

    async def come_back(self, users: list[Visitor]) -> None:
        """Everybody comes back, the durable users for a moment, and old cookies of ended sessions are tried."""
        over = asyncio.Event()
        living = asyncio.create_task(self.live(over))
        await self.visit(users)
        self.clock.ahead += TTL
        await self.visit(users)
        over.set()
        await living
        await self.look_through()

    async def look_through(self) -> None:
        """Read everything that should be there, and try what should not be."""
        for user in (*self.rotating, *self.durable):
            endings, user.endings = user.endings, []
            for cookie in endings:
                await user.ask("read", OWNER, cookie=cookie)
            for key in (OWNER, "a", "b", "hits"):
                await user.ask("read", key)


def run(seconds: float, seed: int, *, rollbacks: int = ROLLBACKS) -> Result:
    """Make rollbacks happen, for so many seconds, or until there were enough of them."""
    until = time.monotonic() + seconds
    with ExitStack() as stack:
        replicas = stack.enter_context(ReplicaSet(settings=SETTINGS))
        runner = stack.enter_context(asyncio.Runner())
        site = Site(replicas.uri, seed)
        runner.run(site.set_up())
        stack.callback(lambda: runner.run(site.close()))
        verified = rounds = 0
        while verified < rollbacks and time.monotonic() < until:
            rounds += 1
            verified += roll_back(replicas, site, runner)
    site.faults[VERIFIED] = verified
    return _findings(site, rounds)


def roll_back(replicas: ReplicaSet, site: Site, runner: asyncio.Runner) -> bool:
    """One round. Returns whether there was a rollback."""
    primary = replicas.wait_until_whole()
    secondaries = [member for member in replicas.members if member is not primary]
    wait(lambda: all(_recoverable(member) for member in replicas.members), REJOIN_SECONDS)
    before = _rollback_id(primary)
    runner.run(site.log_in())
    mark = runner.run(site.leave_alone(primary, secondaries))
    for member in secondaries:
        member.start()
    replicas.wait_for_primary(other_than=primary)
    runner.run(site.count_rolled_back())
    half = len(site.rotating) // 2
    runner.run(site.come_back(site.rotating[:half]))
    primary.start()
    if mark is not None:  # its rollback id rises by one when it starts, and by one more when it rolls back
        wait(lambda: _rollback_id(primary) >= before + 2, REJOIN_SECONDS)
    replicas.wait_until_whole()
    runner.run(site.come_back(site.rotating))
    return mark is not None and not any(_has(member, mark) for member in replicas.members)


def _recoverable(member: Member) -> bool:
    """Whether it has a checkpoint to start from: without one, and nobody to copy from, it would never come back."""
    member.ask("fsync", REJOIN_SECONDS)
    return bool(member.status().get("lastStableRecoveryTimestamp", Timestamp(0, 0)).time)


def _rollback_id(member: Member) -> int:
    return int((member.ask("replSetGetRBID") or {}).get("rbid", 0))


def _has(member: Member, mark: str) -> bool:
    marks = member.client.soak.get_collection("marks", read_preference=ReadPreference.SECONDARY_PREFERRED)
    return marks.find_one({"_id": mark}) is not None


def _findings(site: Site, rounds: int) -> Result:
    keep(site.history, "rollback")
    breaches = judge(site.history, accepted=Rotation(ttl=TTL).accepted)
    for breach in breaches[:SHOWN]:
        print(f"{breach.rule}: {breach.message}")
    outcomes = Counter((each.kind, each.outcome) for each in site.history)
    unknown = sum(outcomes[kind, "unknown"] for kind in ("begin", "end", "write", "increment"))
    return Result(
        title="a set of three whose primary goes on alone, dies and is rolled back",
        did={
            "rounds": rounds,
            "operations": len(site.history),
            "log-ins acknowledged": outcomes["begin", "ok"],
            "log-outs acknowledged": outcomes["end", "ok"],
            "writes acknowledged by a majority": outcomes["write", "ok"] + outcomes["increment", "ok"],
            "requests with a token ahead of its session": sum(
                user.verdicts[Verdict.AHEAD] for user in (*site.rotating, *site.durable)
            ),
            "requests with a cookie of an ended session": outcomes["read", "refused"],
        },
        faults={**site.faults, "writes that no majority acknowledged": unknown},
        losses=losses(breaches),
    )
