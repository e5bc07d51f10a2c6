"""The scenario suite, on real servers."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Literal

import anyio
import h2.connection
import h2.events
import httpx2
import pytest
from selenium import webdriver
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

from mongosession.mongod import Mongod
from mongosession.testing import Jar

from .worlds.scenarios import ENDS, IN_COOKIE, MOVE, MOVES, READ, READS, SCENARIOS, Step
from .worlds.servers import SERVERS, Running, serving

ONE_OF_EACH_WORLD = ("uvicorn", "tornado", "gunicorn")

MATRIX = [
    pytest.param(
        (server, driver, anonymous),
        id=f"{server}-{driver}-{anonymous}",
        marks=[pytest.mark.matrix]
        if driver == "motor" or (anonymous == "cookie" and server not in ONE_OF_EACH_WORLD)
        else [],
    )
    for server in SERVERS
    for driver in ("pymongo", "motor")
    for anonymous in ("database", "cookie")
]


@pytest.fixture(scope="module", params=MATRIX)
def server(request: pytest.FixtureRequest, mongod_uri: str) -> Iterator[Running]:
    name, driver, anonymous = request.param
    with serving(name, driver, mongod_uri, anonymous=anonymous) as running:
        yield running


async def take(step: Step, server: Running, http: httpx2.AsyncClient, jar: Jar) -> None:
    """Take one step of a script, and compare."""
    step = step.where(server.anonymous)
    server.advance(step.passed)
    server.take()
    if step.forgets:
        jar.cookies.clear()
    cookie = jar.header()
    headers = {**({"Cookie": cookie} if cookie else {}), **dict(step.headers)}
    answer = await http.request(step.method, step.path, headers=headers)
    assert answer.status_code == step.status, answer.text
    set_cookie = answer.headers.get("set-cookie", "")
    became = "kept" if not set_cookie else "removed" if "Max-Age=0" in set_cookie else "set"
    assert became == step.cookie, (step, set_cookie)
    assert ("no-store" in answer.headers.get("cache-control", "")) == (became != "kept")
    if step.vary is not None:
        assert ("Cookie" in answer.headers.get("vary", "")) == step.vary
    if step.shows is not None:
        assert json.loads(answer.text) == step.shows
    if step.does is not None:
        assert server.take() == list(step.does)
    jar.receive(answer.headers.multi_items())


@pytest.mark.parametrize("name", SCENARIOS)
async def test_scenario(name: str, server: Running) -> None:
    async with httpx2.AsyncClient(base_url=server.address) as http:
        jar = Jar(lambda: 0.0)
        for step in SCENARIOS[name]:
            await take(step, server, http, jar)


async def test_parallel_requests(server: Running) -> None:
    """200 at once with one cookie, each its own key: all survive, and nobody is refused."""
    limits = httpx2.Limits(max_connections=50)
    async with httpx2.AsyncClient(base_url=server.address, limits=limits, timeout=30) as http:
        jar = Jar(lambda: 0.0)
        await take(Step("/visit", cookie="set"), server, http, jar)
        await take(Step("/protect", visitor=MOVES), server, http, jar)
        server.advance(6)
        cookie = {"Cookie": jar.header() or ""}
        answers = await asyncio.gather(*(http.get(f"/set/k{n}", headers=cookie) for n in range(200)))
        assert {answer.status_code for answer in answers} == {200}
        assert all(answer.json()["n"] == 1 for answer in answers)
        held = (await http.get("/read", headers=cookie)).json()
        assert held == {"n": 1, **{f"k{n}": True for n in range(200)}}
        assert len({answer.headers["set-cookie"] for answer in answers if "set-cookie" in answer.headers}) == 1


async def test_parallel_requests_of_a_visitor(server: Running) -> None:
    """Twenty at once with one cookie, each its own key: in the database all survive, of cookies the last one wins."""
    async with httpx2.AsyncClient(base_url=server.address, timeout=30) as http:
        jar = Jar(lambda: 0.0)
        await take(Step("/visit", cookie="set"), server, http, jar)
        cookie = {"Cookie": jar.header() or ""}
        server.take()
        answers = await asyncio.gather(*(http.get(f"/set/k{n}", headers=cookie) for n in range(20)))
        assert all(answer.json()["n"] == 1 for answer in answers)
        for answer in answers:
            jar.receive(answer.headers.multi_items())
        if server.anonymous == "cookie":
            assert server.take() == []
            await take(Step("/read", {"n": 1, "k19": True}), server, http, jar)
        else:
            assert sorted(server.take()) == [*["find"] * 20, *["update"] * 20]
            await take(Step("/read", {"n": 1, **{f"k{n}": True for n in range(20)}}), server, http, jar)


async def test_a_whole_visit_and_a_log_in(server: Running) -> None:
    """In the cookie: not a command for all of a visit, and one insert for the log-in."""
    async with httpx2.AsyncClient(base_url=server.address) as http:
        jar = Jar(lambda: 0.0)
        for page in range(1, 21):
            await take(
                Step("/visit", {"n": page}, cookie="set", passed=800, visitor=IN_COOKIE),
                server,
                http,
                jar,
            )
            await take(Step("/quiet"), server, http, jar)
            await take(Step("/read", {"n": page}), server, http, jar)
        await take(Step("/login/ann", {"n": 20}, cookie="set", method="POST", visitor=MOVES), server, http, jar)
        await take(Step("/who", {"who": "ann"}, visitor=READS), server, http, jar)
        await take(Step("/logout", {}, cookie="removed", method="POST", visitor=ENDS), server, http, jar)
        await take(Step("/visit", {"n": 1}, cookie="set"), server, http, jar)


def test_a_real_browser(server: Running, chromium: webdriver.Chrome) -> None:
    """The attributes as a browser sees them; tabs at once; the cookie goes with the log-out."""
    chromium.get(f"{server.address}/visit")
    (cookie,) = chromium.get_cookies()
    assert cookie["name"] == "__Host-session"
    assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, True, "Lax", "/")
    chromium.get(f"{server.address}/protect")
    (cookie,) = chromium.get_cookies()
    server.advance(6)
    statuses = chromium.execute_async_script(
        "const done = arguments[0];"
        "Promise.all([...Array(30).keys()].map(n => fetch(`/set/k${n}`))).then(all => done(all.map(one => one.status)))"
    )
    assert statuses == [200] * 30
    (rotated,) = chromium.get_cookies()
    assert rotated["value"] != cookie["value"]
    chromium.get(f"{server.address}/read")
    held = json.loads(chromium.find_element("tag name", "body").text)
    assert held == {"n": 1, **{f"k{n}": True for n in range(30)}}
    chromium.get(f"{server.address}/logout")
    assert chromium.get_cookies() == []


async def talk(server: Running, jar: Jar, path: str, *answers: dict[str, object]) -> None:
    """A WebSocket that says as much as is answered."""
    url = server.address.replace("http", "ws") + path
    socket = await websocket_connect(HTTPRequest(url, headers={"Cookie": jar.header() or ""}))
    assert socket.headers is not None
    jar.receive(socket.headers.get_all())
    for answer in answers:
        await socket.write_message("lines")
        assert json.loads(await socket.read_message() or "") == answer
    socket.close()


@pytest.mark.parametrize("name", ["uvicorn", pytest.param("hypercorn", marks=pytest.mark.matrix), "tornado"])
async def test_websockets_of_a_visitor(name: str, mongod_uri: str) -> None:
    """What they store is dropped, with an event, unless the session moved before."""
    with serving(name, "pymongo", mongod_uri, anonymous="cookie") as server:
        async with httpx2.AsyncClient(base_url=server.address) as http:
            jar = Jar(lambda: 0.0)
            await take(Step("/visit", cookie="set"), server, http, jar)
            lines: list[dict[str, object]] = [{"saved": True, "session": {"n": 1, "lines": n}} for n in (1, 2)]
            server.take()
            await talk(server, jar, "/socket", *lines)
            with anyio.fail_after(10):  # it has something to drop at its end, too
                while len(done := server.journal.read_text().split()) < 3:
                    await http.get("/nowhere")
            assert done == ["dropped_write"] * 3
            await take(Step("/read", {"n": 1}), server, http, jar)
            await talk(server, jar, "/socket/saved", *lines)
            with anyio.fail_after(10):
                while server.journal.read_text().count("update") < 3:
                    await http.get("/nowhere")
            assert server.take() == [*MOVE, *READ, "update", "update", "update"]
            await take(Step("/read", {"n": 1, "lines": 2, "left": True}, visitor=READS), server, http, jar)


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(ONE_OF_EACH_WORLD, id="one of each world"),
        pytest.param(tuple(SERVERS.keys() - ONE_OF_EACH_WORLD), id="the others", marks=pytest.mark.matrix),
    ],
)
async def test_an_outage_does_not_touch_visitors(names: tuple[str, ...]) -> None:
    async with AsyncExitStack() as stack:
        mongod = stack.enter_context(Mongod())
        servers = [
            stack.enter_context(serving(name, "pymongo", mongod.uri, anonymous="cookie", deadline=2)) for name in names
        ]
        clients = [
            await stack.enter_async_context(httpx2.AsyncClient(base_url=each.address, timeout=30)) for each in servers
        ]
        for server, http in zip(servers, clients, strict=True):
            await take(Step("/login/ann", cookie="set", visitor={"does": MOVE}), server, http, Jar(lambda: 0.0))
        os.kill(mongod.pid, signal.SIGKILL)

        async def visit(server: Running, http: httpx2.AsyncClient) -> None:
            jar = Jar(lambda: 0.0)
            await take(Step("/visit", {"n": 1}, cookie="set"), server, http, jar)
            before = jar.header()
            answer = await http.get("/login/ann", headers={"Cookie": before or ""})
            assert (answer.status_code, answer.headers.get("set-cookie")) == (503, None)
            assert int(answer.headers["retry-after"]) > 0
            await take(Step("/visit", {"n": 2}, visitor=IN_COOKIE), server, http, jar)

        await asyncio.gather(*(visit(*each) for each in zip(servers, clients, strict=True)))


@pytest.mark.parametrize("name", ["uvicorn", "hypercorn", "tornado"])
async def test_websockets(name: str, mongod_uri: str) -> None:
    with serving(name, "pymongo", mongod_uri) as server:
        async with httpx2.AsyncClient(base_url=server.address) as http:
            jar = Jar(lambda: 0.0)
            await take(Step("/visit", cookie="set"), server, http, jar)
            server.advance(6)
            url = server.address.replace("http", "ws") + "/socket"
            socket = await websocket_connect(HTTPRequest(url, headers={"Cookie": jar.header() or ""}))
            assert socket.headers is not None
            jar.receive(socket.headers.get_all())
            await take(Step("/visit", {"n": 2}), server, http, jar)  # the token that came with the handshake
            for lines in (1, 2):
                await socket.write_message("lines")
                answer = json.loads(await socket.read_message() or "")
                assert answer == {"saved": True, "session": {"n": 1, "lines": lines}}
            await take(Step("/read", {"n": 2, "lines": 2}), server, http, jar)
            await take(Step("/logout", {}, cookie="removed"), server, http, jar)
            await socket.write_message("lines")
            assert json.loads(await socket.read_message() or "")["saved"] is False
            socket.close()

            await take(Step("/visit", {"n": 1}, cookie="set"), server, http, jar)
            socket = await websocket_connect(HTTPRequest(url, headers={"Cookie": jar.header() or ""}))
            socket.close()
            with anyio.fail_after(10):  # what it left behind is written once it has ended
                while (await http.get("/read", headers={"Cookie": jar.header() or ""})).json() != {
                    "n": 1,
                    "left": True,
                }:
                    pass


async def test_split_cookie_headers(mongod_uri: str) -> None:
    """A request of HTTP/2, made by hand, whose cookies come in fields of their own (RFC 9113, 8.2.3)."""
    with serving("hypercorn", "pymongo", mongod_uri) as server:
        async with httpx2.AsyncClient(base_url=server.address) as http:
            jar = Jar(lambda: 0.0)
            await take(Step("/visit", cookie="set"), server, http, jar)
        port = int(server.address.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("localhost", port)
        connection = h2.connection.H2Connection()
        connection.initiate_connection()
        fields = [(":method", "GET"), (":scheme", "http"), (":authority", "localhost"), (":path", "/visit")]
        cookies = [("cookie", "theme=dark"), ("cookie", jar.header() or ""), ("cookie", "__Host-other=1")]
        connection.send_headers(1, [*fields, *cookies], end_stream=True)
        writer.write(connection.data_to_send())
        body = b""
        while not body.endswith(b"}"):
            for event in connection.receive_data(await reader.read(65536)):
                body += event.data if isinstance(event, h2.events.DataReceived) else b""
        assert json.loads(body) == {"n": 2}
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("times", [100, pytest.param(1000, marks=pytest.mark.matrix)])
async def test_the_redirect_reads_what_was_written(server: Running, times: int) -> None:
    async with httpx2.AsyncClient(base_url=server.address) as http:
        jar = Jar(lambda: 0.0)
        for hops in range(1, times + 1):
            cookie: Literal["set", "kept"] = "set" if hops == 1 else "kept"
            await take(Step("/redirect", status=303, cookie=cookie, visitor=IN_COOKIE), server, http, jar)
            await take(Step("/read", {"hops": hops}), server, http, jar)
