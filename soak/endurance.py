"""Memory and descriptors over a million requests: flat.

Three legs, each in a process of its own: in process over a store in memory, where requests are cheap and most of them
are made; in process over a real mongod; and over sockets, behind uvicorn, on that mongod. Users come and go, their
tokens rotate; among them are visitors without a cookie, and cookies that are forged in all the ways there are.

Flat: per 100,000 requests no more than `BOUNDS` is gained, or no more than `NOISE` in all. The slope is the median of
the slopes between all pairs of samples, after a start in which pools and caches fill; each sample is taken after a full
garbage collection. Handlers that do leak, a small object or a descriptor now and then, are seen to leak: else the
measurement would be worth nothing.
"""

import asyncio
import gc
import json
import os
import random
import socket
import sys
import threading
import time
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from itertools import combinations
from multiprocessing import get_context, parent_process
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import uvicorn
from pymongo import AsyncMongoClient

from bench.load import Client
from mongosession import Cookie, MemoryStore, MongoStore, Rotation, Session, SessionEngine
from mongosession.mongod import Mongod
from mongosession.testing import HandClock
from mongosession_asgi import SessionMiddleware
from mongosession_asgi.types import Application, Message, Receive, Scope, Send

from .result import Result

REQUESTS = 1_000_000

USERS = 200
AT_ONCE = 20

SAMPLES = 30
"""How often a leg is measured, the start left out."""

START = 0.2
"""The part of a leg in which memory may still grow: pools, caches, the interpreter's own."""

COOKIE = "session"

KINDS = {"read": 40, "visitor": 20, "forged": 20, "change": 12, "count": 4, "begin": 3, "end": 1}
"""What is asked, and how often: of a hundred requests."""


class Sample(NamedTuple):
    """What a process holds.

    Attributes:
        requests: how many it has answered.
        resident: KiB in memory.
        blocks: blocks of memory that the interpreter has handed out: one at least for every object.
        descriptors: open ones.
    """

    requests: int
    resident: float
    blocks: float
    descriptors: float


BOUNDS = {"resident": 1024.0, "blocks": 2000.0, "descriptors": 0.5}
"""What may be gained per 100,000 requests: 10 bytes, or a fiftieth of an object, for each."""

NOISE = {"resident": 2048.0, "blocks": 2000.0, "descriptors": 3.0}
"""What a leg may gain in all: less says nothing. A connection more or less that is open has some hundred blocks."""

LEAKS: dict[str, tuple[int, Callable[[], object]]] = {
    "an object in 20 requests": (20, lambda: bytearray(100)),
    "a descriptor in 1,000 requests": (1000, lambda: os.open(os.devnull, os.O_RDONLY)),
}
"""Leaks made on purpose, by name: in one of how many requests, and what is kept for ever."""


class Leg(NamedTuple):
    """One leg's findings: how many requests of each kind, how many were answered wrongly, and the samples."""

    asked: Mapping[str, int]
    wrong: int
    samples: list[Sample]

    def slopes(self) -> dict[str, float]:
        """What was gained per 100,000 requests."""
        pairs = [(one, other) for one, other in combinations(self.samples, 2) if one.requests < other.requests]
        return {
            what: median(
                (getattr(later, what) - getattr(earlier, what)) / (later.requests - earlier.requests) * 100_000
                for earlier, later in pairs
            )
            for what in BOUNDS
        }

    def grows(self) -> list[str]:
        """What was not flat."""
        length = (self.samples[-1].requests - self.samples[0].requests) / 100_000
        slopes = self.slopes().items()
        return [what for what, slope in slopes if slope > BOUNDS[what] and slope * length > NOISE[what]]


def measure(requests: int) -> Sample:
    """This process, now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    descriptors = sum(1 for _ in Path("/proc/self/fd").iterdir())
    return Sample(requests, pages * os.sysconf("SC_PAGE_SIZE") / 1024, sys.getallocatedblocks(), descriptors)


# The application.


async def handle(session: Session, path: str) -> bytes:
    """What is asked for, and whose session it is."""
    match path:
        case "/begin":
            session.renew(subject="user")
            session["visits"] = 0
        case "/end":
            session.destroy()
        case "/change":
            session["visits"] = random.random()
        case "/count":
            session.increment("hits")
        case _:
            pass
    return b"user" if session.get("visits") is not None else b"nobody"


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """The same behind all servers."""
    if scope["type"] == "lifespan":
        await _live(receive, send)
        return
    path: str = scope["path"]
    body = json.dumps(measure(0)).encode() if path == "/measure" else await handle(scope["session"], path)
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _live(receive: Receive, send: Send) -> None:
    """The lifespan: the middleware sets the engine up, and closes it."""
    for state in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{state}.complete"})


def leaking(leak: str) -> Application:
    """The application with one of the `LEAKS`."""
    every, make = LEAKS[leak]
    kept: list[object] = []
    count = 0

    async def leaks(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal count
        count += 1
        if count % every == 0:
            kept.append(make())
        await application(scope, receive, send)

    return leaks


def middleware(engine: SessionEngine, app: Application = application) -> Application:
    """The application with sessions."""
    return SessionMiddleware(app, engine, lifespan=True, skip=["/measure"])


def over_mongod(client: AsyncMongoClient[dict[str, Any]]) -> SessionEngine:
    """An engine whose tokens rotate twice a second."""
    return SessionEngine(
        MongoStore(client.soak.sessions), keys=["k" * 32], rotation=Rotation(ttl=0.5), cookie=Cookie(name=COOKIE)
    )


# The load.


class Answer(NamedTuple):
    """The body, and the cookie that the jar holds afterwards."""

    body: bytes
    cookie: str


Ask = Callable[[str, str], Awaitable[Answer]]
"""Makes a request, by its path and the cookie's value ("" for none)."""


def directly(app: Application, clock: HandClock | None = None) -> Ask:
    """Asks an application in this very process; a clock moved by hand goes on by a fiftieth of a second each time."""

    async def ask(path: str, cookie: str) -> Answer:
        if clock is not None:
            clock.advance(0.02)
        headers = [(b"host", b"localhost"), (b"accept", b"*/*")]
        if cookie:
            headers.append((b"cookie", f"{COOKIE}={cookie}".encode("latin-1")))
        body = b""

        async def receive() -> Message:
            return {"type": "http.request", "body": b""}

        async def send(message: Message) -> None:
            nonlocal cookie, body
            body = message.get("body", body)
            for name, value in message.get("headers", ()):
                if name == b"set-cookie":
                    cookie = value.decode("latin-1").partition(";")[0].partition("=")[2]

        scope = {"type": "http", "method": "GET", "path": path, "headers": headers, "extensions": {}}
        await app(scope, receive, send)
        return Answer(body, cookie)

    return ask


def over(port: int, chance: random.Random) -> Ask:
    """Asks a server, over connections that live for a while."""
    idle: list[Client] = []

    async def ask(path: str, cookie: str) -> Answer:
        client = idle.pop() if idle else Client(port)
        client.cookies = {COOKIE: cookie} if cookie else {}
        body = await client.get(path)
        if chance.random() < 0.05 or path == "/measure":
            client.close()
        idle.append(client)
        return Answer(body.encode(), client.cookies.get(COOKIE, ""))

    return ask


class Load:
    """Users, visitors and forgers.

    Args:
        ask: how they ask.
        chance: source of chance.
        kinds: what they ask: kind -> weight.
        at_once: how many requests at a time.

    Attributes:
        asked: how many requests of each kind.
        wrong: how many answers were another's, or nobody's.
    """

    def __init__(self, ask: Ask, chance: random.Random, kinds: Mapping[str, int], at_once: int) -> None:
        self.asked: Counter[str] = Counter()
        self.wrong = 0
        self._ask = ask
        self._at_once = at_once
        self._chance = chance
        self._kinds = [kind for kind, weight in kinds.items() for _ in range(weight)]
        self._cookies = [""] * USERS
        self._last = ""

    @property
    def requests(self) -> int:
        """How many there were."""
        return self.asked.total()

    async def run(self, count: int, until: float) -> None:
        """Make so many requests, several at once, or as many as there is time for."""
        end = self.requests + count
        await asyncio.gather(*(self._worker(number, end, until) for number in range(self._at_once)))

    async def _worker(self, number: int, end: int, until: float) -> None:
        while self.requests < end and time.monotonic() < until:
            for user in range(number, USERS, self._at_once):
                await self._step(user, self._chance.choice(self._kinds))

    async def _step(self, user: int, kind: str) -> None:
        cookie = self._cookies[user]
        if kind not in ("visitor", "forged") and not cookie:
            kind = "begin"
        self.asked[kind] += 1
        if kind == "visitor":
            answer = await self._ask("/", "")
        elif kind == "forged":
            answer = await self._ask("/", self._forge())
        else:
            answer = await self._ask(f"/{kind}", cookie)
            self._cookies[user] = self._last = answer.cookie
        self.wrong += answer.body != (b"nobody" if kind in ("visitor", "forged", "end") else b"user")

    def _forge(self) -> str:
        """A cookie that is none of ours."""
        random_text = urlsafe_b64encode(self._chance.randbytes(48)).decode()
        match self._chance.randrange(5):
            case 0:
                return random_text
            case 1:
                return self._last[:40] + random_text[40:]
            case 2:
                return self._last[:-1] or "short"
            case 3:
                return self._last + random_text
            case _:
                return random_text * 40


# The legs.


async def endure(load: Load, requests: int, seconds: float, measure: Callable[[int], Awaitable[Sample]]) -> Leg:
    """Make so many requests, or as many as there is time for, and measure now and then."""
    batches = int(SAMPLES / (1 - START))
    began = time.monotonic()
    samples: list[Sample] = []
    for number in range(1, batches + 1):
        await load.run(requests // batches, began + seconds * number / batches)
        samples.append(await measure(load.requests))
    return Leg(load.asked, load.wrong, samples[-SAMPLES:])


async def _here(requests: int) -> Sample:
    return measure(requests)


def in_memory(requests: int, seconds: float, seed: int, leak: str | None = None) -> Leg:
    """The leg over a store in memory. It would keep what has ended, so nobody logs out."""
    clock, chance = HandClock(), random.Random(seed)
    engine = SessionEngine(MemoryStore(), keys=["k" * 32], cookie=Cookie(name=COOKIE), clock=clock)
    app = middleware(engine, application if leak is None else leaking(leak))
    kinds = {kind: weight for kind, weight in KINDS.items() if kind != "end"}
    return asyncio.run(endure(Load(directly(app, clock), chance, kinds, 1), requests, seconds, _here))


def on_mongod(uri: str, requests: int, seconds: float, seed: int) -> Leg:
    """The leg over a real mongod, in process."""

    async def leg() -> Leg:
        async with AsyncMongoClient[dict[str, Any]](uri) as client:
            engine = over_mongod(client)
            await engine.setup()
            load = Load(directly(middleware(engine)), random.Random(seed), KINDS, AT_ONCE)
            found = await endure(load, requests, seconds, _here)
            await engine.close()
            return found

    return asyncio.run(leg())


def over_sockets(uri: str, requests: int, seconds: float, seed: int) -> Leg:
    """The leg behind uvicorn, which is a process of its own. This one asks."""
    chance = random.Random(seed)
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        ask = over(listener.getsockname()[1], chance)
        server = get_context("spawn").Process(target=_serve, args=(uri, listener), daemon=True)
        server.start()

    async def there(requests: int) -> Sample:
        return Sample(*json.loads((await ask("/measure", "")).body))._replace(requests=requests)

    try:
        return asyncio.run(endure(Load(ask, chance, KINDS, AT_ONCE), requests, seconds, there))
    finally:
        server.terminate()
        server.join()


def _serve(uri: str, listener: socket.socket) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()

    async def serve() -> None:
        async with AsyncMongoClient[dict[str, Any]](uri) as client:
            config = uvicorn.Config(middleware(over_mongod(client)), log_level="error", lifespan="on")
            await uvicorn.Server(config).serve(sockets=[listener])

    asyncio.run(serve())


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def run(seconds: float, seed: int, *, requests: int = REQUESTS) -> Result:
    """Make a million requests, or as many as there is time for."""
    until = time.monotonic() + seconds

    def alone(leg: Callable[..., Leg], *args: Any) -> Leg:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            return pool.submit(leg, *args).result()

    leaks = {leak: alone(in_memory, requests // 20, seconds / 30, seed, leak) for leak in LEAKS}
    legs = {"in memory": alone(in_memory, requests * 4 // 5, seconds * 0.45, seed)}
    with Mongod() as mongod:
        left = until - time.monotonic()
        legs["on mongod"] = alone(on_mongod, mongod.uri, requests // 5, left / 2, seed)
        left = until - time.monotonic()
        legs["over sockets"] = over_sockets(mongod.uri, requests // 5, left * 0.9, seed)
    return _findings(legs, leaks)


def _findings(legs: Mapping[str, Leg], leaks: Mapping[str, Leg]) -> Result:
    did: dict[str, float] = {"requests": sum(sum(leg.asked.values()) for leg in legs.values())}
    did |= {f"requests {name}": sum(leg.asked.values()) for name, leg in legs.items()}
    for kind in ("forged", "visitor"):
        did[f"of them {kind}"] = sum(leg.asked[kind] for leg in legs.values())
    slopes = [
        f"{name} {found['resident']:+.0f} KiB, {found['blocks']:+.0f} blocks, {found['descriptors']:+.1f} descriptors"
        for name, found in ((name, leg.slopes()) for name, leg in {**legs, **leaks}.items())
    ]
    return Result(
        title="a million requests, and what they leave behind",
        did=did,
        faults={f"leak on purpose, seen: {name}": int(bool(leg.grows())) for name, leg in leaks.items()},
        losses={
            **{f"growth of {what}": sum(what in leg.grows() for leg in legs.values()) for what in BOUNDS},
            "wrong answers": sum(leg.wrong for leg in legs.values()),
        },
        notes=f"Gained per 100,000 requests: {'; '.join(slopes)}",
    )
