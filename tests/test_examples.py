"""The examples, run as they stand against a real MongoDB."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import flask
import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from mongosession import EventKind

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def environment(mongod_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGODB_URI", mongod_uri)
    monkeypatch.setenv("SESSION_KEY", "k" * 32)


def application(name: str) -> Any:
    sys.modules.pop(f"examples.{name}", None)  # each test's own client, on its own event loop
    return import_module(f"examples.{name}").app


def browse(name: str) -> TestClient:
    return TestClient(application(name), base_url="https://shop.example")


def test_starlette() -> None:
    with browse("starlette_app") as http:
        assert http.get("/").text == "visit 1 by nobody"
        assert http.post("/login/ann").text == "visit 2 by user:ann"
        assert http.post("/logout").text == "visit 1 by nobody"


def test_fastapi() -> None:
    with browse("fastapi_app") as http:
        assert http.get("/basket").json() == []
        assert http.post("/basket/tea").json() == ["tea"]
        assert http.post("/basket/milk").json() == ["tea", "milk"]
        assert http.get("/basket").json() == ["tea", "milk"]


def test_websocket_chat() -> None:
    with browse("websocket_chat") as http:
        assert http.get("/enter/ann").text == "you are ann"
        with http.websocket_connect("wss://shop.example/chat") as socket:
            socket.send_text("hello")
            assert socket.receive_text() == "ann (1): hello"
        with http.websocket_connect("wss://shop.example/chat") as socket:
            socket.send_text("again")
            assert socket.receive_text() == "ann (2): again"


def test_metrics() -> None:
    with browse("metrics") as http:
        assert http.get("/").text == "visit 1"
        assert http.post("/login/ann").text == "visit 2"
        answer = http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    samples = [sample for sample in families["mongosession_events"].samples if sample.name.endswith("_total")]
    assert {tuple(sample.labels) for sample in samples} == {("kind",)}
    counts = {sample.labels["kind"]: sample.value for sample in samples}
    assert counts.keys() == {*map(str, EventKind)}  # those that have not happened, too
    assert {kind: count for kind, count in counts.items() if count} == {"created": 1, "renewed": 1}


@asynccontextmanager
async def running(*command: str, announces: bytes) -> AsyncGenerator[str]:
    """Run an example that is a server of its own, until it prints where it listens."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env={**os.environ, "PORT": "0"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    try:
        while announces not in (line := await process.stdout.readline()):
            assert line, "the example ended before it listened"
        yield line.decode().strip()
    finally:
        process.terminate()
        await process.communicate()


async def test_flask() -> None:
    """Under Flask's own server, in a process of its own, as its users run it."""
    command = (sys.executable, "-m", "flask", "--app", "examples.flask_app", "run", "--port", "0")
    async with running(*command, announces=b"Running on") as line:
        address = line.split()[-1]
        async with httpx2.AsyncClient() as http:
            first = await http.get(address)
            assert first.text == "visit 1"
            cookie = {"Cookie": first.headers["set-cookie"].partition(";")[0]}
            assert (await http.get(address, headers=cookie)).text == "visit 2"
            assert "Set-Cookie" in (await http.post(f"{address}/login/ann", headers=cookie)).headers
            assert (await http.get(address, headers=cookie)).text == "visit 1"  # a token from before the log-in


def test_flask_without_a_session() -> None:
    """What a route sees that the middleware skips: Flask opens a session for every request, come what may."""
    app = application("flask_app")
    app.wsgi_app = app.wsgi_app.app
    app.add_url_rule("/health", view_func=lambda: f"session: {dict(flask.session)}", endpoint="health")
    answer = app.test_client().get("/health")
    assert (answer.status_code, answer.text) == (200, "session: {}")


async def test_own_framework() -> None:
    command = (sys.executable, "-m", "examples.own_framework")
    async with running(*command, announces=b"http://") as address, httpx2.AsyncClient() as http:
        first = await http.get(address)
        assert first.text == "visit 1"
        cookie = {"Cookie": first.headers["set-cookie"].partition(";")[0]}  # httpx2 keeps Secure cookies from http://
        assert (await http.get(address, headers=cookie)).text == "visit 2"
        assert "Max-Age=0" in (await http.get(f"{address}/logout", headers=cookie)).headers["set-cookie"]
