"""Log-out in a real Chromium: the cookie that a session set is gone, whatever its attributes were.

A browser deletes a cookie only if the answer has the same name, domain and path (RFC 6265bis, 5.7), `Secure` where the
prefix asks for it, and is of the same partition. So each kind is set, seen, and deleted.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from mongosession import Cookie, MemoryStore, SessionEngine
from mongosession_asgi import SessionMiddleware, get_session

from .servers import serve


class Kind(NamedTuple):
    """A cookie, the host that sets it, and what a browser shows of it.

    Attributes:
        cookie: its name and attributes.
        shown: the domain and the path that the browser keeps it under; a dot in front: subdomains get it too.
        host: where the page is; the names under localhost need no TLS, and are sites of their own.
        also: another host that gets the cookie, and may log out as well.
    """

    cookie: Cookie
    shown: tuple[str, str]
    host: str = "shop.localhost"
    also: str | None = None


KINDS = {
    "default": Kind(Cookie(), ("shop.localhost", "/")),
    "partitioned": Kind(Cookie(same_site="none", partitioned=True), ("shop.localhost", "/")),
    "domain": Kind(
        Cookie(name="__Secure-shop", domain="shop.localhost"),
        (".shop.localhost", "/"),
        host="www.shop.localhost",
        also="pay.shop.localhost",
    ),
    "path": Kind(Cookie(name="__Secure-session", path="/path"), ("shop.localhost", "/path")),
    "insecure": Kind(Cookie(name="session", secure=False), ("shop.localhost", "/")),
    "none": Kind(Cookie(same_site="none"), ("shop.localhost", "/")),
    "strict": Kind(Cookie(same_site="strict"), ("shop.localhost", "/")),
    "browser-session": Kind(Cookie(persistent=False), ("shop.localhost", "/")),
}


async def login(request: Request) -> Response:
    get_session(request).renew(subject="user:42")
    return PlainTextResponse("in")


async def logout(request: Request) -> Response:
    get_session(request).destroy()
    return PlainTextResponse("out")


async def who(request: Request) -> Response:
    return PlainTextResponse(get_session(request).subject or "nobody")


async def clumsy(request: Request) -> Response:
    """Deletes the cookie by its name alone, as one does who forgets the attributes."""
    return PlainTextResponse("?", headers={"Set-Cookie": f"{request.query_params['name']}=; Max-Age=0"})


async def frame(request: Request) -> Response:
    """A page of another site, with ours in a frame."""
    return HTMLResponse(f'<iframe src="{request.query_params["src"]}"></iframe>')


def site() -> Starlette:
    mounts = [
        Mount(
            f"/{name}",
            routes=[Route("/login", login), Route("/logout", logout), Route("/who", who)],
            middleware=[
                Middleware(
                    SessionMiddleware,
                    engine=SessionEngine(MemoryStore(), keys=["k" * 32], cookie=kind.cookie),
                )
            ],
        )
        for name, kind in KINDS.items()
    ]
    return Starlette(routes=[*mounts, Route("/clumsy", clumsy), Route("/clumsy/here", clumsy), Route("/frame", frame)])


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serve(site) as url:
        port = urlsplit(url).port
        assert port is not None
        yield port


class Visitor:
    """A person in front of a browser without cookies."""

    def __init__(self, driver: webdriver.Chrome, port: int) -> None:
        self.driver = driver
        self.port = port

    def url(self, host: str, path: str) -> str:
        return f"http://{host}:{self.port}/{path}"

    def get(self, host: str, path: str) -> str:
        """Open a page; its text."""
        self.driver.get(self.url(host, path))
        return self.driver.find_element("tag name", "body").text

    def framed(self, host: str, path: str) -> str:
        """Open a page of another site that has ours in a frame; the frame's text."""
        self.driver.get(self.url("news.localhost", "frame?src=" + self.url(host, path)))
        self.driver.switch_to.frame(self.driver.find_element("tag name", "iframe"))
        text = self.driver.find_element("tag name", "body").text
        self.driver.switch_to.default_content()
        return text

    def cookies(self) -> list[dict[str, Any]]:
        """All cookies there are, of every host, path and partition."""
        cookies: list[dict[str, Any]] = self.driver.execute_cdp_cmd("Storage.getCookies", {})["cookies"]
        return cookies


@pytest.fixture
def visitor(chromium: webdriver.Chrome, port: int) -> Visitor:
    return Visitor(chromium, port)


@pytest.mark.parametrize("name", KINDS)
def test_the_cookie_goes_with_the_log_out(name: str, visitor: Visitor) -> None:
    kind = KINDS[name]
    assert visitor.get(kind.host, f"{name}/login") == "in"
    (cookie,) = visitor.cookies()
    assert (cookie["name"], cookie["domain"], cookie["path"]) == (kind.cookie.name, *kind.shown)
    assert (cookie["secure"], cookie["httpOnly"]) == (kind.cookie.secure, True)
    assert cookie["sameSite"] == kind.cookie.same_site.capitalize()
    assert cookie["session"] is not kind.cookie.persistent
    assert ("partitionKey" in cookie) is kind.cookie.partitioned
    assert visitor.get(kind.host, f"{name}/who") == "user:42"
    assert visitor.get(kind.also or kind.host, f"{name}/who") == "user:42"
    assert visitor.get(kind.also or kind.host, f"{name}/logout") == "out"
    assert visitor.cookies() == []
    assert visitor.get(kind.host, f"{name}/who") == "nobody"


def test_in_a_frame_of_another_site_the_cookie_goes_from_its_partition(visitor: Visitor) -> None:
    assert visitor.framed("shop.localhost", "partitioned/login") == "in"
    assert visitor.get("shop.localhost", "partitioned/login") == "in"  # another partition, another session
    assert len({cookie["value"] for cookie in visitor.cookies()}) == 2
    assert visitor.framed("shop.localhost", "partitioned/who") == "user:42"
    assert visitor.framed("shop.localhost", "partitioned/logout") == "out"
    (left,) = visitor.cookies()
    assert left["partitionKey"]["topLevelSite"] == "http://shop.localhost"
    assert visitor.get("shop.localhost", "partitioned/who") == "user:42"


@pytest.mark.parametrize("name", ["default", "partitioned", "domain", "path"])
def test_a_browser_minds_the_attributes(name: str, visitor: Visitor) -> None:
    """What makes the test above a test: by its name alone none of these cookies goes."""
    kind = KINDS[name]
    visitor.get(kind.host, f"{name}/login")
    visitor.get(kind.host, f"clumsy?name={kind.cookie.name}")
    assert len(visitor.cookies()) == 1
