"""The scenario suite, on real servers."""

import asyncio
import json
from collections.abc import Iterator

import httpx2
import pytest

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
    with serving(*request.param, mongod_uri) as running:
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


async def test_the_redirect_reads_what_was_written(server: Running) -> None:
    async with httpx2.AsyncClient(base_url=server.address) as http:
        jar = Jar(lambda: 0.0)
        for hops in range(1, 101):
            await take(Step("/redirect", status=303, cookie="set" if hops == 1 else "kept"), http, jar)
            await take(Step("/read", {"hops": hops}), http, jar)
