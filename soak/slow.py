"""The database slow, hanging, cut off or talking nonsense, behind real servers with people at them.

Several servers (uvicorn, Tornado, gunicorn with threads), with either driver, share one database behind a bad network.
At each are people who are logged in, people without a session, somebody with a forged cookie, and, where visitors live
in their cookies, a visitor. The site's clock is faster than ours, so that tokens rotate all the time. What people asked
and were told is judged as it comes, and once more as a history.
"""

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from http.cookiejar import CookieJar, DefaultCookiePolicy
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx2

from mongosession import Cookie, Rotation
from mongosession.keys import KeyRing
from mongosession.mongod import Mongod
from mongosession.testing import Jar
from mongosession.tokens import TokenCodec
from tests.worlds.servers import Running, serving

from . import checker
from .history import Kind, Operation, Outcome, keep
from .proxy import Fault, Proxy
from .result import Result


class Setup(NamedTuple):
    """A server, its driver, and where the sessions of its visitors live."""

    server: str
    driver: str
    anonymous: str


SETUPS = (
    Setup("uvicorn", "pymongo", "cookie"),
    Setup("uvicorn", "motor", "database"),
    Setup("tornado", "pymongo", "database"),
    Setup("tornado", "motor", "cookie"),
    Setup("gunicorn", "pymongo", "database"),
    Setup("gunicorn", "motor", "cookie"),
)


class Bad(NamedTuple):
    """A bad network.

    Attributes:
        name: what the result calls it.
        fault: what the proxy does.
        share: of the deadline, that its delay takes, each way; or a byte of an answer.
        fails: whether requests that need the database fail; else they are slow.
    """

    name: str
    fault: Fault
    share: float = 0.0
    fails: bool = True


BAD = (
    Bad("hanging", "hang"),
    Bad("connections cut", "cut"),
    Bad("a black hole", "swallow"),
    Bad("answers lost", "mute"),
    Bad("slow, within the deadline", "delay", 0.2, fails=False),
    Bad("slow, beyond the deadline", "delay", 0.6),
    Bad("dripping", "drip", 0.05),
    Bad("ending midway", "midway"),
    Bad("garbage", "garbage"),
    Bad("garbage in a good frame", "garble"),
)

PEOPLE = 3  # at each server: fewer than a process of gunicorn has threads
THREADS = 4  # of each process of gunicorn
BURST = {"uvicorn": 60, "tornado": 60, "gunicorn": 16}
FAST = 10  # seconds on the site's clock a second of ours
SLACK_SECONDS = 1.0  # for a machine that has other things to do
RECOVERY_SECONDS = 2.0  # after the network: the drivers look for a lost server every half second
MOST_GROWTH = 16 * 2**20  # bytes of a server's memory, all its processes together
TOKENS = TokenCodec(KeyRing(["k" * 32]), Cookie().name)  # as the servers of tests.worlds make them
SHOWN = 10  # breaches, and errors, that are printed
MOST_DESCRIPTORS = 32  # more than at the start, of all processes together: the drivers keep connections

UNDOCUMENTED = "errors other than the documented one"
OVERDUE = "answers after their deadline"
WAITED = "requests without a session that waited for the database"
LOSSES = (
    "people logged out",
    "acknowledged writes lost",
    "increments off",
    "cookies deleted",
    "cookies sent with an error",
    UNDOCUMENTED,
    OVERDUE,
    WAITED,
    "visitors whose cookie did not do",
    "recoveries slower than 2 s",
    "sessions revoked",
    "servers whose memory grew",
    "servers that left descriptors open",
)


class Tally:
    """What was done and what was lost, at all servers."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.did: Counter[str] = Counter()
        self.losses: Counter[str] = Counter(dict.fromkeys(LOSSES, 0))
        self.history: list[Operation] = []
        self.bad = False  # whether the network is
        self.burst = False  # whether more requests come than gunicorn has threads
        self.failed: Counter[int] = Counter()  # by the number of the server, since this network
        self.slow: Counter[int] = Counter()
        self.late: defaultdict[int, list[bool]] = defaultdict(list)  # without a session: whether each one waited
        self.overdue: defaultdict[int, list[bool]] = defaultdict(list)  # whether each answer came after its deadline
        self.waited: dict[bool, list[float]] = {False: [], True: []}  # without a session, by whether the network is bad

    @property
    def latest(self) -> float:
        """Seconds that a request may take: a read and a write, each within its deadline; the last resort of either is
        one second above it."""
        return 2 * self.deadline + 1 + SLACK_SECONDS

    def undocumented(self, remark: str) -> None:
        """Take down an answer, or none, that should not be."""
        self.losses[UNDOCUMENTED] += 1
        if self.losses[UNDOCUMENTED] <= SHOWN:
            print(remark, flush=True)

    def judge_times(self) -> None:
        """Where a third of the requests without a session waited, they waited for the database, or for a thread that
        does. Where a few did, the machine was busy: that happens on a good network just as often."""
        for late in self.late.values():
            self.losses[WAITED] += sum(late) if 3 * sum(late) >= len(late) else 0
        self.late.clear()
        # A deadline that does not hold is missed by all who need the database; a busy machine makes a few late.
        for overdue in self.overdue.values():
            self.losses[OVERDUE] += sum(overdue) if 20 * sum(overdue) > len(overdue) else 0
        self.overdue.clear()

    def queueing(self, server: str) -> float:
        """Seconds that a request may have to wait for a thread."""
        return ceil(BURST[server] / THREADS) * self.deadline if self.burst and server == "gunicorn" else 0


class Reply(NamedTuple):
    """What came back. `status` is 0 if nothing did."""

    status: int
    session: dict[str, Any]
    seconds: float


class Site:
    """A server under load."""

    def __init__(self, number: int, setup: Setup, running: Running, tally: Tally) -> None:
        self.number = number
        self.setup = setup
        self.running = running
        self.tally = tally
        self.http = httpx2.AsyncClient(
            base_url=running.address,
            timeout=60,
            limits=httpx2.Limits(max_connections=None),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # people have jars of their own
        )
        self.people = [Person(self, f"user:{number}.{each}") for each in range(PEOPLE)]

    async def get(self, path: str, jar: Jar, person: str = "") -> Reply:
        """One request, whatever it meets; its cookies are taken in, and a person's token is taken down."""
        tally = self.tally
        cookie = jar.header()
        queueing = tally.queueing(self.setup.server)
        start = time.monotonic()
        try:
            answer = await self.http.get(path, headers={"Cookie": cookie} if cookie else {})
        except httpx2.HTTPError as error:
            tally.undocumented(f"{self.setup} {path}: {error!r} after {time.monotonic() - start:.1f} s")
            return Reply(0, {}, time.monotonic() - start)
        seconds = time.monotonic() - start
        tally.did["requests"] += 1
        tally.overdue[self.number].append(seconds > tally.latest + queueing)
        lines = answer.headers.get_list("set-cookie")
        tally.losses["cookies deleted"] += any("max-age=0" in line.lower() for line in lines)
        if answer.status_code == 200:
            jar.receive([("Set-Cookie", line) for line in lines])
            tally.did["tokens taken"] += bool(lines)
            given = TOKENS.read((jar.header() or "").partition("=")[2], 0) if lines and person else None
            if given is not None:
                generation = given.token.generation
                tally.history.append(Operation(person, "token", "", generation, start, time.monotonic(), "ok"))
            return Reply(200, answer.json(), seconds)
        tally.losses["cookies sent with an error"] += bool(lines)
        documented = answer.status_code == 503 and answer.headers.get("retry-after", "").isdigit()
        if not documented:
            tally.undocumented(f"{self.setup} {path}: {answer.status_code} {answer.text[:200]!r}")
        tally.did["answers 503 with Retry-After"] += documented
        return Reply(answer.status_code, {}, seconds)

    async def nobody(self, jar: Jar) -> None:
        """Somebody without a session: he has no cookie, or none that verifies, and needs no database."""
        tally = self.tally
        bad, queueing = tally.bad, tally.queueing(self.setup.server)
        reply = await self.get("/read", jar)
        if not queueing:
            tally.waited[bad or tally.bad].append(reply.seconds)
        if reply.status == 503 or reply.session:
            tally.undocumented(f"{self.setup} /read, without a session: {reply}")
        tally.late[self.number].append(reply.seconds >= 0.75 * tally.deadline + (queueing and queueing + tally.latest))

    async def visitor(self, jar: Jar, visits: int) -> None:
        """A visitor whose session lives in his cookie needs no database either."""
        reply = await self.get("/visit", jar)
        self.tally.losses["visitors whose cookie did not do"] += reply.session != {"n": visits}

    async def burst(self) -> None:
        """More requests at once than there are threads; all of them need the database."""
        person = self.people[0]
        asked = [self.get("/who", person.jar, person.name) for _ in range(BURST[self.setup.server])]
        await asyncio.gather(*asked)

    async def recover(self) -> float:
        """Seconds until somebody who is logged in is served."""
        start = time.monotonic()
        person = self.people[0]
        while True:
            reply = await self.get("/who", person.jar, person.name)
            if reply.status == 200:
                break
            await asyncio.sleep(0.05)
        self.tally.losses["people logged out"] += reply.session != {"who": person.name}
        return time.monotonic() - start

    def weigh(self) -> tuple[int, int]:
        """Memory in bytes, and descriptors, of all its processes."""
        memory = descriptors = 0
        for process in _family(self.running.pid):
            status = (process / "status").read_text().split()
            memory += int(status[status.index("VmRSS:") + 1]) * 1024
            descriptors += len(list((process / "fd").iterdir()))
        return memory, descriptors


class Person:
    """Somebody who is logged in, with a jar and a ledger of what was acknowledged."""

    def __init__(self, site: Site, name: str) -> None:
        self.site = site
        self.name = name
        self.jar = Jar(time.monotonic)
        self.hits = [0, 0]  # acknowledged, and sent
        self.keys: set[str] = set()
        self.pages = 0

    async def log_in(self) -> None:
        """Before the network becomes bad."""
        began = time.monotonic()
        reply = await self.site.get(f"/login/{self.name}", self.jar, self.name)
        if reply.status != 200:
            raise RuntimeError(f"{self.site.setup}: no log-in, but {reply}")
        self._note("begin", "", None, began, "ok")

    async def act(self, chance: random.Random) -> None:
        """One page. The next one is asked for when this one is there."""
        tally, failed = self.site.tally, self.site.tally.failed
        self.pages += 1
        page = chance.choice(["read", "who", "increment/hits", f"set/k{self.pages}"])
        self.hits[1] += page == "increment/hits"
        asked = time.monotonic()
        reply = await self.site.get(f"/{page}", self.jar, self.name)
        failed[self.site.number] += reply.status == 503
        outcome: Outcome = "ok" if reply.status == 200 else "unknown"
        if page == "increment/hits":
            self._note("increment", "hits", 1, asked, outcome)
        elif page.startswith("set/"):
            self._note("write", page.removeprefix("set/"), 1, asked, outcome)
        if reply.status != 200:
            return
        if page == "who":
            served = reply.session == {"who": self.name}
            tally.losses["people logged out"] += not served
            self._note("read", "hits", None, asked, "unknown" if served else "refused")
            return
        for key in ("hits", *chance.sample(sorted(self.keys), min(3, len(self.keys)))):
            self._note("read", key, reply.session.get(key), asked, "ok")
        if tally.bad:
            tally.slow[self.site.number] += reply.seconds >= 2 * 0.2 * tally.deadline
        self.hits[0] += page == "increment/hits"
        if page.startswith("set/"):
            self.keys.add(page.removeprefix("set/"))
            tally.did["writes acknowledged"] += 1
        low, high = self.hits
        tally.losses["increments off"] += not low <= reply.session.get("hits", 0) <= high
        tally.losses["acknowledged writes lost"] += len(self.keys - reply.session.keys())

    def _note(self, kind: Kind, key: str, value: int | None, asked: float, outcome: Outcome) -> None:
        ended = None if outcome == "unknown" else time.monotonic()
        self.site.tally.history.append(Operation(self.name, kind, key, value, asked, ended, outcome))


def _family(pid: int) -> list[Path]:
    """The directories under /proc of a process and of all that descend from it."""
    process = Path(f"/proc/{pid}")
    children = (process / "task" / str(pid) / "children").read_text().split()
    return [process, *(each for child in children for each in _family(int(child)))]


class Load:
    """All sites under load, and a network that becomes bad in one way after the other."""

    def __init__(self, sites: Sequence[Site], proxy: Proxy, tally: Tally, chance: random.Random) -> None:
        self.sites = sites
        self.proxy = proxy
        self.tally = tally
        self.chance = chance
        self.happened: Counter[str] = Counter()
        self.recoveries: list[float] = []

    async def run(self, bad: Sequence[Bad], end: float, phase: float) -> None:
        """Each bad network at least once, each for `phase` seconds at least, until `end` of the monotonic clock."""
        self.happened.update(dict.fromkeys((each.name for each in bad), 0))
        async with AsyncExitStack() as clients, asyncio.TaskGroup() as group:
            for site in self.sites:
                await clients.enter_async_context(site.http)
                for person in site.people:
                    await person.log_in()
            tasks = [group.create_task(self._people(site)) for site in self.sites]
            tasks.append(group.create_task(self._time()))
            await asyncio.sleep(phase)
            before: list[tuple[int, int]] = []
            while not before or time.monotonic() < end:
                for each in self.chance.sample(bad, len(bad)):
                    if not before or time.monotonic() < end:
                        await self._suffer(each, phase)
                before = before or [site.weigh() for site in self.sites]  # now that all code has run once
            self._compare(before)
            for task in tasks:
                task.cancel()

    def _compare(self, before: Sequence[tuple[int, int]]) -> None:
        """What the servers hold, with what they held, and what they did."""
        tally = self.tally
        growth = "KiB, by which a server's memory grew at most"
        for site, (memory, descriptors) in zip(self.sites, before, strict=True):
            memory_now, descriptors_now = site.weigh()
            tally.did[growth] = max(tally.did[growth], (memory_now - memory) // 1024)
            tally.losses["servers whose memory grew"] += memory_now - memory > MOST_GROWTH
            tally.losses["servers that left descriptors open"] += descriptors_now - descriptors > MOST_DESCRIPTORS
            journal = Counter(site.running.take())
            tally.losses["sessions revoked"] += journal["copied"] + journal["revoked"] + journal["destroyed"]
            tally.did["rotations"] += journal["rotated"]

    async def _suffer(self, bad: Bad, phase: float) -> None:
        """One bad network, and back."""
        tally = self.tally
        tally.failed.clear()
        tally.slow.clear()
        tally.late.clear()
        before = self.proxy.counts[bad.fault]
        tally.bad = True
        self.proxy.be(bad.fault, bad.share * tally.deadline)
        if bad.fault == "hang":
            tally.burst = True
            await asyncio.gather(*(site.burst() for site in self.sites))
            tally.burst = False
        await asyncio.sleep(phase)
        effect = tally.failed if bad.fails else tally.slow
        for _ in range(100):  # until every server has felt it, which a busy machine may put off
            if self.proxy.counts[bad.fault] > before and all(effect[site.number] for site in self.sites):
                self.happened[bad.name] += 1
                break
            await asyncio.sleep(0.1)
        tally.judge_times()
        self.proxy.heal()
        for seconds in await asyncio.gather(*(site.recover() for site in self.sites)):
            self.recoveries.append(seconds)
            tally.losses["recoveries slower than 2 s"] += seconds > RECOVERY_SECONDS
        tally.bad = False
        await asyncio.sleep(phase / 3)

    async def _people(self, site: Site) -> None:
        """All who are at one site, until cancelled."""
        chance = random.Random(self.chance.random())
        forger, visitor = Jar(time.monotonic), Jar(time.monotonic)
        forger.cookies["__Host-session"] = ("A" * 64, float("inf"))

        async def again(what: Any) -> None:
            while True:
                await what()
                await asyncio.sleep(chance.uniform(0.1, 0.4))

        visits = 0

        async def visit() -> None:
            nonlocal visits
            visits += 1
            await site.visitor(visitor, visits)

        async with asyncio.TaskGroup() as group:
            for person in site.people:
                group.create_task(again(lambda person=person: person.act(chance)))
            for jar in (Jar(time.monotonic), forger):
                group.create_task(again(lambda jar=jar: site.nobody(jar)))
            if site.setup.anonymous == "cookie":
                group.create_task(again(visit))

    async def _time(self) -> None:
        """The sites' clock, until cancelled."""
        while True:
            await asyncio.sleep(0.25)
            for site in self.sites:
                site.running.advance(0.25 * FAST)


def run(
    seconds: float,
    seed: int,
    *,
    setups: Sequence[Setup] = SETUPS,
    bad: Sequence[Bad] = BAD,
    deadline: float = 1.0,
    phase: float = 2.5,
) -> Result:
    """A slow database, or none.

    Args:
        seconds: how long; but each bad network comes at least once.
        seed: of the order and of the pages.
        setups: the servers.
        bad: the networks.
        deadline: seconds that the database has for each call (`MongoStore.timeout`).
        phase: seconds of each bad network, and more until it has been felt.
    """
    end = time.monotonic() + seconds
    tally = Tally(deadline)
    chance = random.Random(seed)
    with ExitStack() as stack:
        mongod = stack.enter_context(Mongod(replica_set=True))
        proxy = stack.enter_context(Proxy(urlsplit(mongod.uri).port or 0, seed=seed))
        uri = f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true"
        servers = [
            stack.enter_context(serving(server, driver, uri, anonymous=anonymous, deadline=deadline))
            for server, driver, anonymous in setups
        ]
        sites = [
            Site(number, setup, running, tally)
            for number, (setup, running) in enumerate(zip(setups, servers, strict=True))
        ]
        load = Load(sites, proxy, tally, chance)
        asyncio.run(load.run(bad, end, phase))
    keep(tally.history, "slow")
    breaches = checker.judge(tally.history, accepted=Rotation().accepted)
    tally.losses.update(checker.losses(breaches))
    for breach in breaches[:SHOWN]:
        print(f"{breach.rule}: {breach.message}")
    good, ill = (sorted(tally.waited[each]) for each in (False, True))
    return Result(
        title="the database slow, hanging, cut off or talking nonsense, behind real servers",
        did={
            "servers": len(setups),
            **tally.did,
            "operations in the history": len(tally.history),
            "ms for 99 % of the requests without a session, on a good network": _percentile(good),
            "ms for 99 % of the requests without a session, on a bad network": _percentile(ill),
            "ms for the slowest recovery": round(1000 * max(load.recoveries)),
        },
        faults=load.happened,
        losses=tally.losses,
        notes=f"Each call of the database has a deadline of {deadline:g} s. A fault counts if requests at every server "
        "felt it.",
    )


def _percentile(seconds: Sequence[float]) -> int:
    """99 of 100, in milliseconds; 0 if there are none."""
    return round(1000 * seconds[len(seconds) * 99 // 100]) if seconds else 0
