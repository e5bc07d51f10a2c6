"""A real Chromium fills its session step by step, until that does not fit into a cookie and moves into the database."""

import json
import random
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from typing import Any

import pytest
from selenium import webdriver
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mongosession import MemoryStore, SessionEngine
from mongosession.testing import CountingStore
from mongosession_asgi import SessionMiddleware, get_session

from .servers import serve

NAME = "__Host-session"
IN_COOKIE, TOKEN = 2, 1  # the first byte of what a cookie holds


async def show(request: Request) -> Response:
    session = get_session(request)
    return JSONResponse({"subject": session.subject, "items": session.get("items", [])})


async def add(request: Request) -> Response:
    """One more item, of a text that cannot be compressed."""
    text = random.Random(request.path_params["number"]).randbytes(request.path_params["length"])
    get_session(request).setdefault("items", []).append(text.hex())
    return await show(request)


async def log_in(request: Request) -> Response:
    get_session(request).renew(subject="user:42")
    return await show(request)


async def log_out(request: Request) -> Response:
    get_session(request).destroy()
    return JSONResponse({})


async def plant(request: Request) -> Response:
    """A cookie of so many octets, name and value together, and nothing of ours."""
    name = request.path_params["name"]
    value = "x" * (request.path_params["octets"] - len(name))
    attributes = f"Path=/; Max-Age=34560000; Secure; HttpOnly; SameSite=Lax; Comment={'x' * 900}"  # which do not count
    return JSONResponse({}, headers={"Set-Cookie": f"{name}={value}; {attributes}"})


class Visitor:
    """A person in front of a browser without cookies."""

    def __init__(self, driver: webdriver.Chrome, address: str) -> None:
        self.driver = driver
        self.address = address

    def get(self, path: str) -> Any:
        self.driver.get(f"{self.address}/{path}")
        return json.loads(self.driver.find_element("tag name", "body").text)

    def cookies(self) -> dict[str, str]:
        """All cookies that the browser holds."""
        cookies = self.driver.execute_cdp_cmd("Storage.getCookies", {})["cookies"]
        return {cookie["name"]: cookie["value"] for cookie in cookies}

    def kind(self) -> int:
        """What the one cookie is that the browser holds."""
        ((name, value),) = self.cookies().items()
        assert name == NAME
        return urlsafe_b64decode(value[:4])[0]


STORE = CountingStore(MemoryStore())


def site() -> Starlette:
    engine = SessionEngine(STORE, keys=["k" * 32], anonymous="cookie")
    return Starlette(
        routes=[
            Route("/show", show),
            Route("/add/{number:int}/{length:int}", add),
            Route("/login", log_in),
            Route("/logout", log_out),
            Route("/plant/{name}/{octets:int}", plant),
        ],
        # A browser asks for an icon of its own accord, at a moment of its own.
        middleware=[Middleware(SessionMiddleware, engine=engine, skip=["/favicon.ico"])],
    )


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serve(site) as url:
        yield url.replace("127.0.0.1", "localhost")  # where a browser takes a Secure cookie without TLS


@pytest.fixture
def visitor(chromium: webdriver.Chrome, address: str) -> Visitor:
    STORE.take()
    return Visitor(chromium, address)


def item(number: int, length: int) -> str:
    return random.Random(number).randbytes(length).hex()


def test_it_fills_its_session_until_that_moves(visitor: Visitor) -> None:
    items: list[str] = []
    lengths: list[int] = []
    while not lengths or visitor.kind() == IN_COOKIE:
        assert STORE.take() == []
        number = len(items)
        items.append(item(number, 120))
        assert visitor.get(f"add/{number}/120")["items"] == items
        lengths.append(len(NAME) + len(visitor.cookies()[NAME]))
    assert STORE.take() == ["create"]
    assert visitor.kind() == TOKEN
    assert len(lengths) > 10
    assert lengths[:-1] == sorted(lengths[:-1])
    assert 3700 < lengths[-2] <= 4096
    assert visitor.get("show") == {"subject": None, "items": items}
    assert STORE.take() == ["load"]

    token = visitor.cookies()[NAME]
    assert visitor.get("login") == {"subject": "user:42", "items": items}
    assert visitor.cookies()[NAME] != token
    assert visitor.get("show") == {"subject": "user:42", "items": items}
    visitor.get("logout")
    assert visitor.cookies() == {}
    STORE.take()
    assert visitor.get("show") == {"subject": None, "items": []}
    assert visitor.get("add/0/120")["items"] == items[:1]
    assert visitor.kind() == IN_COOKIE
    assert STORE.take() == []


def test_a_log_in_moves_it_and_a_log_out_leaves_nothing(visitor: Visitor) -> None:
    visitor.get("add/1/10")
    assert visitor.kind() == IN_COOKIE
    assert visitor.get("login") == {"subject": "user:42", "items": [item(1, 10)]}
    assert visitor.kind() == TOKEN
    assert STORE.take() == ["create"]
    visitor.get("logout")
    assert visitor.cookies() == {}
    assert visitor.get("show") == {"subject": None, "items": []}


def test_scripts_do_not_see_it(visitor: Visitor) -> None:
    visitor.get("add/1/10")
    assert visitor.driver.execute_script("return document.cookie") == ""


@pytest.mark.parametrize("name", ["__Host-other", "x", "n" * 300])
def test_what_a_browser_takes(visitor: Visitor, name: str) -> None:
    """The limit is the browser's own: an octet more, and the cookie is dropped without a word."""
    visitor.get(f"plant/{name}/4096")
    assert len(visitor.cookies()[name]) == 4096 - len(name)
    visitor.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    visitor.get(f"plant/{name}/4097")
    assert visitor.cookies() == {}
