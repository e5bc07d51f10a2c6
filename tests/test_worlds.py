"""The scenario suite, on real servers."""

import asyncio
import json
from collections.abc import Iterator

import anyio
import h2.connection
import h2.events
import httpx2
import pytest
from selenium import webdriver
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

from mongosession.testing import Jar

from .worlds.scenarios import SCENARIOS, Step
from .worlds.servers import SERVERS, Running, serving

MATRIX = [
    pytest.param((server, driver), id=f"{server}-{driver}", marks=[pytest.mark.matrix] if driver == "motor" else [])
    for server in SERVERS
    for driver in ("pymongo", "motor")
]


@pytest.fixture(scope="module", params=MATRIX)
def server(request: pytest.FixtureRequest, mongod_uri: str) -> Iterator[Running]:
    name, driver = request.param
    with serving(name, driver, mongod_uri) as running:
        yield running


async def take(step: Step, http: httpx2.AsyncClient, jar: Jar) -> None:
    """Take one step of a script, and compare."""
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
    jar.receive(answer.headers.multi_items())


@pytest.mark.parametrize("name", SCENARIOS)
async def test_scenario(name: str, server: Running) -> None:
    async with httpx2.AsyncClient(base_url=server.address) as http:
        jar = Jar(lambda: 0.0)
        for step in SCENARIOS[name]:
            server.advance(step.passed)
            await take(step, http, jar)


async def test_parallel_requests(server: Running) -> None:
    """200 at once with one cookie, each its own key: all survive, and nobody is refused."""
    limits = httpx2.Limits(max_connections=50)
    async with httpx2.AsyncClient(base_url=server.address, limits=limits, timeout=30) as http:
        jar = Jar(lambda: 0.0)
        await take(Step("/visit", cookie="set"), http, jar)
        server.advance(6)
        cookie = {"Cookie": jar.header() or ""}
        answers = await asyncio.gather(*(http.get(f"/set/k{n}", headers=cookie) for n in range(200)))
        assert {answer.status_code for answer in answers} == {200}
        assert all(answer.json()["n"] == 1 for answer in answers)
        held = (await http.get("/read", headers=cookie)).json()
        assert held == {"n": 1, **{f"k{n}": True for n in range(200)}}
        assert len({answer.headers["set-cookie"] for answer in answers if "set-cookie" in answer.headers}) == 1


def test_a_real_browser(server: Running, chromium: webdriver.Chrome) -> None:
    """The attributes as a browser sees them; tabs at once; the cookie goes with the log-out."""
    chromium.get("about:blank")
    chromium.execute_cdp_cmd("Network.clearBrowserCookies", {})
    chromium.get(f"{server.address}/visit")
    (cookie,) = chromium.get_cookies()
    assert cookie["name"] == "__Host-session"
    assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, True, "Lax", "/")
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


@pytest.mark.parametrize("name", ["uvicorn", "hypercorn", "tornado"])
async def test_websockets(name: str, mongod_uri: str) -> None:
    with serving(name, "pymongo", mongod_uri) as server:
        async with httpx2.AsyncClient(base_url=server.address) as http:
            jar = Jar(lambda: 0.0)
            await take(Step("/visit", cookie="set"), http, jar)
            server.advance(6)
            url = server.address.replace("http", "ws") + "/socket"
            socket = await websocket_connect(HTTPRequest(url, headers={"Cookie": jar.header() or ""}))
            assert socket.headers is not None
            jar.receive(socket.headers.get_all())
            await take(Step("/visit", {"n": 2}), http, jar)  # the token that came with the handshake
            for lines in (1, 2):
                await socket.write_message("lines")
                answer = json.loads(await socket.read_message() or "")
                assert answer == {"saved": True, "session": {"n": 1, "lines": lines}}
            await take(Step("/read", {"n": 2, "lines": 2}), http, jar)
            await take(Step("/logout", {}, cookie="removed"), http, jar)
            await socket.write_message("lines")
            assert json.loads(await socket.read_message() or "")["saved"] is False
            socket.close()

            await take(Step("/visit", {"n": 1}, cookie="set"), http, jar)
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
            await take(Step("/visit", cookie="set"), http, jar)
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
            await take(Step("/redirect", status=303, cookie="set" if hops == 1 else "kept"), http, jar)
            await take(Step("/read", {"hops": hops}), http, jar)
