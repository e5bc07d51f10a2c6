"""Real requests: httpx2 and raw sockets against uvicorn, over a real MongoDB, from many clients at once.

The log-ins run a second time in virtual time, where the network and the database are as slow as the test wants them.
"""

import asyncio
import base64
import gc
import itertools
import json
import logging
import random
import time
import tracemalloc
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from typing import Any, Literal, NamedTuple
from uuid import uuid4

import httpx2
import pytest
from pymongo import MongoClient
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from mongosession import Cookie, Event, EventKind, MemoryStore, MongoStore, Rotation, Session, SessionEngine, Verdict
from mongosession.testing import CommandCounter, CountingStore, HandClock, Jar, seeded
from mongosession_asgi import SessionMiddleware, get_session

from . import virtual
from .conftest import CLIENTS, Connect
from .servers import Answer, Headers, http_scope, serve

KEYS = ["k" * 32]
OPENED = {Verdict.CURRENT, Verdict.DUE, Verdict.BEHIND}
PARALLEL = 200
CLIENTS_OF_HTTPX = 20

Write = Literal["before_response", "after_response"]


# ------------------------------------------------------------------------------------------------------------- the site


def pages(engine: SessionEngine, **options: Any) -> Starlette:
    """An application. Each page takes as many seconds as `sleep` in its query says, as slow servers do."""

    async def show(request: Request) -> Response:
        """What the session holds."""
        return answer(await session_of(request), data=get_session(request).copy())

    async def store(request: Request) -> Response:
        """Set a key of the session."""
        session = await session_of(request)
        session[request.query_params["key"]] = True
        return answer(session)

    async def count(request: Request) -> Response:
        """Add one to a number."""
        session = await session_of(request)
        session.increment("hits")
        return answer(session)

    async def write(request: Request) -> Response:
        """Write, and redirect to where it is read."""
        request.session["value"] = request.query_params["value"]
        return RedirectResponse("/show", 303)

    async def log_in(request: Request) -> Response:
        """A new privilege."""
        session = await session_of(request)
        session.renew(request.query_params["subject"])
        return answer(session)

    async def poll(request: Request) -> Response:
        """What a page does in the background. Some requests write, whatever has become of the session meanwhile."""
        session = await session_of(request)
        if request.query_params["write"] == "1" and session.verdict is not Verdict.ANONYMOUS:
            session.increment("polls")
        return answer(session)

    async def session_of(request: Request) -> Session:
        """The session, after a while."""
        if seconds := float(request.query_params.get("sleep", 0)):
            await asyncio.sleep(seconds)
        return get_session(request)

    def answer(session: Session, **more: object) -> Response:
        return JSONResponse({"verdict": session.verdict, "subject": session.subject, **more})

    routes = [
        Route("/show", show),
        Route("/store", store),
        Route("/count", count),
        Route("/write", write),
        Route("/log-in", log_in),
        Route("/poll", poll),
    ]
    return Starlette(routes=routes, middleware=[Middleware(SessionMiddleware, engine=engine)], **options)


class Reply(NamedTuple):
    """An answer, whoever gave it."""

    status: int
    headers: Headers
    body: bytes

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)

    def json(self) -> Any:
        assert self.status == 200, self
        return json.loads(self.body)


Fetch = Callable[[str, Headers], Awaitable[Reply]]
"""A way to a server: path and query, headers -> the answer."""


class Browser:
    """A jar, and a way to a server. Answers reach the jar in the order in which they come in."""

    def __init__(self, fetch: Fetch, clock: Callable[[], float] = time.time) -> None:
        self._fetch = fetch
        self.jar = Jar(clock)

    async def get(self, page: str, **query: object) -> Reply:
        """One request, with the cookies that the jar holds now."""
        cookie = self.jar.header()
        reply = await self._fetch(
            f"/{page}?{httpx2.QueryParams({key: str(value) for key, value in query.items()})}",
            [("cookie", cookie)] if cookie else [],
        )
        self.jar.receive(reply.headers)
        return reply


class Site:
    """The application on uvicorn, over a collection of its own.

    Attributes:
        url: where it is.
        commands: what its client sends to the database.
        events: what happened to its sessions.
    """

    def __init__(self, uri: str, driver: str, settings: dict[str, Any]) -> None:
        self._uri = uri
        self._driver = driver
        self._settings = settings
        self._name = uuid4().hex
        self.url = ""
        self.commands = CommandCounter()
        self.events: list[Event] = []

    def application(self) -> Starlette:
        """Made in the server's own thread: the drivers' clients belong to one event loop."""
        client: Any = CLIENTS[self._driver](self._uri, event_listeners=[self.commands], maxPoolSize=10)
        collection = client["mongosession_test"][self._name]
        engine = SessionEngine(
            MongoStore(collection, timeout=30), keys=KEYS, on_event=self.events.append, **self._settings
        )

        @asynccontextmanager
        async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
            await engine.setup()
            yield
            await engine.close()
            await collection.drop()
            closing = client.close()
            if closing is not None:  # PyMongo's is a coroutine, Motor's is not
                await closing

        return pages(engine, lifespan=lifespan)

    def document(self) -> dict[str, Any]:
        """The one session that there is."""
        with MongoClient[dict[str, Any]](self._uri) as client:
            (document,) = client["mongosession_test"][self._name].find()
        return document

    @contextmanager
    def running(self) -> Generator["Site"]:
        with serve(self.application) as self.url:
            yield self

    @asynccontextmanager
    async def fetching(self) -> AsyncGenerator[Fetch]:
        """Ways to the server, as many connections as there are requests at a time. They are spread over several
        clients: the time that one takes to find a free connection grows with the square of their number."""
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        async with AsyncExitStack() as stack:
            clients = [
                httpx2.AsyncClient(base_url=self.url, limits=limits, timeout=60, trust_env=False, verify=False)
                for _ in range(CLIENTS_OF_HTTPX)
            ]
            turns = itertools.cycle([await stack.enter_async_context(client) for client in clients])

            async def fetch(path: str, headers: Headers) -> Reply:
                response = await next(turns).get(path, headers=list(headers))
                return Reply(response.status_code, response.headers.multi_items(), response.content)

            yield fetch


@pytest.fixture
def open_site(mongod_uri: str, caplog: pytest.LogCaptureFixture) -> Generator[Callable[..., Site]]:
    """Opens sites, with settings of the engine; closes them, and sees that no request ended in an error."""
    caplog.set_level(logging.ERROR, "mongosession")
    with ExitStack() as stack:
        yield lambda driver, **settings: stack.enter_context(Site(mongod_uri, driver, settings).running())
    assert [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR] == []


# -------------------------------------------------------------------------------------------- many requests, one cookie


@pytest.mark.parametrize("sleep", [0, 0.02])
async def test_parallel_requests_lose_nothing(open_site: Callable[..., Site], driver: str, sleep: float) -> None:
    clock = HandClock()
    site = open_site(driver, clock=clock)
    async with site.fetching() as fetch:
        browser = Browser(fetch, clock)
        await browser.get("store", key="first")

        for page, generation in (("store", 1), ("count", 2)):
            clock.advance(6)  # the token is due
            requests = [browser.get(page, key=f"key {each}", sleep=sleep) for each in range(PARALLEL)]
            replies = await asyncio.gather(*requests)
            assert {reply.json()["verdict"] for reply in replies} <= OPENED
            tokens = {reply.header("set-cookie") for reply in replies} - {None}
            assert len(tokens) == 1
            assert site.document()["generation"] == generation

        after = (await browser.get("show")).json()
    assert after["verdict"] == Verdict.CURRENT
    keys = {f"key {each}": True for each in range(PARALLEL)}
    assert after["data"] == {"first": True, **keys, "hits": PARALLEL}
    assert {event.kind for event in site.events} <= {EventKind.CREATED, EventKind.ROTATED}


async def load(site: Site, *, seconds: float, browsers: int, tabs: int) -> list[dict[str, Any]]:
    """Several browsers, each with several tabs that ask again as soon as they are answered."""

    async def tab(browser: Browser) -> None:
        for each in itertools.count():
            answers.append((await browser.get("poll", write=each % 2, sleep=0.01 * (each % 3))).json())
            if time.monotonic() > end:
                return

    answers: list[dict[str, Any]] = []
    async with site.fetching() as fetch:
        used = [Browser(fetch) for _ in range(browsers)]
        for number, browser in enumerate(used):
            await browser.get("store", key=f"browser {number}")
        end = time.monotonic() + seconds
        await asyncio.gather(*(tab(browser) for browser in used for _ in range(tabs)))
        for number, browser in enumerate(used):
            assert (await browser.get("show")).json()["data"][f"browser {number}"]
    return answers


@pytest.mark.parametrize(
    ("driver", "seconds"),
    [
        ("pymongo", 3.5),
        *(pytest.param(driver, 10, marks=pytest.mark.search) for driver in CLIENTS),
    ],
)
async def test_tokens_of_a_twentieth_of_a_second_refuse_nobody(
    open_site: Callable[..., Site], driver: str, seconds: float
) -> None:
    site = open_site(driver, rotation=Rotation(ttl=0.05))
    answers = await load(site, seconds=seconds, browsers=4, tabs=4)
    assert {answer["verdict"] for answer in answers} <= OPENED
    rotations = sum(event.kind is EventKind.ROTATED for event in site.events)
    print(f"{len(answers)} requests, {rotations} rotations")
    assert rotations > 20  # or else nothing was tried; a busy machine makes no more than a few in a second


async def test_a_redirect_reads_what_was_written(open_site: Callable[..., Site], driver: str) -> None:
    site = open_site(driver)
    read: list[str] = []
    async with site.fetching() as fetch:
        browser = Browser(fetch)
        for each in range(200):
            redirect = await browser.get("write", value=each)
            assert (redirect.status, redirect.header("location")) == (303, "/show")
            read.append((await browser.get("show")).json()["data"]["value"])
    assert read == [str(each) for each in range(200)]


# -------------------------------------------------------------------------------------------------- log-ins under fire

HANDLER_SECONDS = (0.05, 1.5)
TABS = 4
NETWORK_SECONDS = (0.01, 0.02)
DATABASE_SECONDS = (0.0005, 0.003)
LOST_SECONDS, AGAIN_SECONDS = 3, 8  # of every eight seconds, no answer to a poll arrives for three


async def log_in(browser: Browser, subject: str, chance: random.Random, patience: int) -> bool:
    """Log in on a page that has polled in several tabs, so many times at most, and goes on with it for a while. Does
    the log-in stick?"""

    async def tab() -> None:
        while not over:
            await browser.get("poll", write=chance.randrange(2), sleep=chance.uniform(*HANDLER_SECONDS))
            answered.put_nowait(None)

    async def polls(at_most: int) -> None:
        for _ in range(chance.randint(1, at_most)):
            await answered.get()

    over = False
    answered: asyncio.Queue[None] = asyncio.Queue()
    async with asyncio.TaskGroup() as group:
        for _ in range(TABS):
            group.create_task(tab())
        await polls(patience)
        await browser.get("log-in", subject=subject, sleep=chance.uniform(*HANDLER_SECONDS))
        await polls(2 * TABS)
        over = True
    return bool((await browser.get("show")).json()["subject"] == subject)


async def log_ins(
    fetch: Fetch, clock: Callable[[], float], chance: random.Random, *, browsers: int, times: int, patience: int
) -> list[bool]:
    """So many browsers, each of which logs in so many times, as somebody else each time. Half of them have a session
    before. Whether each log-in stuck."""

    async def one(number: int) -> list[bool]:
        own = random.Random(chance.random())
        browser = Browser(fetch, clock)
        if number % 2:
            await browser.get("store", key="visited")
        return [await log_in(browser, f"user:{number}.{each}", own, patience) for each in range(times)]

    return list(itertools.chain(*await asyncio.gather(*map(one, range(browsers)))))


WRITES: list[Write] = ["before_response", "after_response"]


@pytest.mark.parametrize(
    ("ways", "browsers", "times"),
    [
        pytest.param(list(zip(CLIENTS, WRITES, strict=True)), 20, 1, id="some"),
        *(
            pytest.param([way], 20, 15, id="-".join(way), marks=pytest.mark.search)
            for way in itertools.product(CLIENTS, WRITES)
        ),
    ],
)
async def test_log_ins_stick(
    open_site: Callable[..., Site], ways: list[tuple[str, Write]], browsers: int, times: int
) -> None:
    async def one_way(site: Site) -> list[bool]:
        async with site.fetching() as fetch:
            return await log_ins(fetch, time.time, random.Random(1), browsers=browsers, times=times, patience=12)

    sites = [open_site(driver, write=write) for driver, write in ways]
    every = await asyncio.gather(*map(one_way, sites))
    for way, stuck in zip(ways, every, strict=True):
        print(*way, f"{stuck.count(False)} of {len(stuck)} did not stick")
    at_most_one_in_300_does_not_stick(list(itertools.chain(*every)), browsers * times * len(ways))


def virtual_log_ins(write: Write, seed: int, *, browsers: int, times: int) -> list[bool]:
    """Log-ins over a slow network and a slow database, in virtual time."""

    async def scenario(clock: Callable[[], float]) -> list[bool]:
        chance = random.Random(seed)

        @asynccontextmanager
        async def slow_database(_call: str) -> AsyncGenerator[None]:
            await asyncio.sleep(chance.uniform(*DATABASE_SECONDS))
            yield
            await asyncio.sleep(chance.uniform(*DATABASE_SECONDS))

        async def fetch(path: str, headers: Headers) -> Reply:
            await asyncio.sleep(chance.uniform(*NETWORK_SECONDS))
            answer = Answer()
            serving.append(asyncio.create_task(app(http_scope(path, headers=headers), answer.receive, answer.send)))
            await answer.complete.wait()
            await asyncio.sleep(chance.uniform(*NETWORK_SECONDS))
            lost = path.startswith("/poll") and clock() % AGAIN_SECONDS < LOST_SECONDS
            return Reply(answer.status, [] if lost else answer.headers, answer.body)

        store = CountingStore(MemoryStore(), around=slow_database)
        engine = SessionEngine(
            store, keys=KEYS, clock=clock, random=seeded(seed), write=write, rotation=Rotation(ttl=2)
        )
        app = pages(engine)
        serving: list[asyncio.Task[None]] = []
        stuck = await log_ins(fetch, clock, chance, browsers=browsers, times=times, patience=40)
        await asyncio.gather(*serving)
        return stuck

    return virtual.run(scenario)


@pytest.mark.parametrize("write", WRITES)
def test_log_ins_stick_over_slow_networks(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "mongosession")  # polls that a log-in overtook drop their writes, with a warning
    stuck = virtual_log_ins(write, 1, browsers=100, times=3)
    print(f"{stuck.count(False)} of {len(stuck)} did not stick")
    at_most_one_in_300_does_not_stick(stuck, 300)


def at_most_one_in_300_does_not_stick(stuck: Sequence[bool], of: int) -> None:
    """An answer that left the server just before the log-in's may arrive just after it: nobody can help that."""
    assert len(stuck) == of
    assert stuck.count(False) <= max(1, of // 300)


# ------------------------------------------------------------------------------------------------------ forged cookies

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def forgeries(token: str, foreign: Sequence[str], chance: random.Random) -> Iterator[str]:
    """Texts that look more or less like the token, and are none; without end.

    Args:
        token: a valid one.
        foreign: tokens that are valid elsewhere: under another key, for another cookie.
        chance: what to draw from.
    """

    def flipped_character() -> str:
        at = chance.randrange(len(token))
        return token[:at] + chr(ord(token[at]) ^ 1 << chance.randrange(7)) + token[at + 1 :]

    def flipped_bit() -> str:
        raw = bytearray(base64.urlsafe_b64decode(token))
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        return base64.urlsafe_b64encode(raw).decode("ascii")

    def text(length: int, alphabet: str = ALPHABET) -> str:
        return "".join(chance.choices(alphabet, k=length))

    def not_ascii() -> str:
        at = chance.randrange(len(token))
        return token[:at] + chr(chance.randrange(0xA1, 0xD7FF)) + token[at + 1 :]

    kinds: list[Callable[[], str]] = [
        flipped_character,
        flipped_bit,
        not_ascii,
        lambda: token[: chance.randrange(len(token))],
        lambda: token[chance.randrange(1, len(token)) :],
        lambda: token + text(chance.randrange(1, 9)),
        lambda: token * chance.randrange(2, 10),
        lambda: text(len(token)),
        lambda: text(100) * chance.randrange(2, 500),
        lambda: text(len(token), "\u00fc\u2603\U0001f36a="),
        lambda: base64.urlsafe_b64encode(chance.randbytes(48)).decode("ascii"),
        lambda: base64.b64encode(base64.urlsafe_b64decode(token)).decode("ascii") + "=",
        lambda: chance.choice(foreign),
        lambda: chance.choice((f'"{token}"', f"{token}%00", token.swapcase(), token[::-1], "", "=" * len(token))),
    ]
    for kind in itertools.cycle(kinds):
        yield kind()


async def tokens_from_elsewhere(clock: Callable[[], float]) -> list[str]:
    """Tokens of an engine with another key, and of one with another cookie name."""
    tokens: list[str] = []
    for engine in (
        SessionEngine(MemoryStore(), keys=["x" * 32], clock=clock),
        SessionEngine(MemoryStore(), keys=KEYS, clock=clock, cookie=Cookie(name="__Host-other")),
    ):
        session = await engine.open(None)
        session["a"] = 1
        jar = Jar(clock)
        jar.receive(await engine.commit(session))
        tokens.append(str(jar.header()).partition("=")[2])
    return tokens


async def test_ten_thousand_forged_cookies_cost_nothing(connect: Connect) -> None:
    clock, commands = HandClock(), CommandCounter()
    engine = SessionEngine(MongoStore(connect("pymongo", listeners=[commands])), keys=KEYS, clock=clock)
    session = await engine.open(None)
    session["a"] = 1
    jar = Jar(clock)
    jar.receive(await engine.commit(session))
    cookie = str(jar.header())
    name, _, token = cookie.partition("=")
    forged = forgeries(token, await tokens_from_elsewhere(clock), random.Random(1))
    commands.take()

    async def try_out(texts: Iterable[str]) -> int:
        """Returns how many bytes there are more than before."""
        before = tracemalloc.get_traced_memory()[0]
        for text in texts:
            session = await engine.open(f"{name}={text}")
            assert session.verdict is Verdict.INVALID
            assert await engine.commit(session) == []
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before

    tracemalloc.start()
    try:
        await try_out(itertools.islice(forged, 1000))  # what is built once, is built
        grown = await try_out(itertools.islice(forged, 9000))
    finally:
        tracemalloc.stop()
    assert grown < 9000  # less than a byte each
    assert commands.take() == []
    assert (await engine.open(cookie)).verdict is Verdict.CURRENT
    assert commands.take() == ["find"]


async def test_forged_cookies_over_a_socket(open_site: Callable[..., Site]) -> None:
    async def ask(cookie: bytes) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(b"GET /show HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nCookie: " + cookie + b"\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), body

    clock = HandClock()
    site = open_site("pymongo", clock=clock)
    url = httpx2.URL(site.url)
    async with site.fetching() as fetch:
        browser = Browser(fetch, clock)
        await browser.get("store", key="a")
    cookie = str(browser.jar.header())
    name, _, token = cookie.partition("=")
    site.commands.take()

    forged = forgeries(token, await tokens_from_elsewhere(clock), random.Random(2))
    served = 0
    for text in itertools.islice(forged, 300):
        status, body = await ask(f"{name}={text}".encode())
        if status == 200:
            served += 1
            assert json.loads(body)["verdict"] == Verdict.INVALID
        else:
            assert status == 400  # the server refuses control characters
            assert any(character < " " or character == "\x7f" for character in text)
    assert served > 280
    assert site.commands.take() == []
    assert json.loads((await ask(cookie.encode()))[1])["verdict"] == Verdict.CURRENT
