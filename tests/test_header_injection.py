"""Nothing that comes from outside gets into a header's syntax: every setting and value, through every adapter.

Values cannot: a cookie holds base64url and numbers, whatever the session holds. Settings can, so they are refused where
they are made, in code and in the environment alike. (`test_cookies.py` tries each place of each field.)
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import anyio.to_thread
import pytest
from tornado import netutil, web
from tornado.httpserver import HTTPServer

from mongosession import Cookie, MemoryStore, Session, SessionEngine, StoreUnavailable
from mongosession.testing import MemoryEngine
from mongosession_asgi import SessionMiddleware as AsgiMiddleware
from mongosession_asgi.types import Message, Receive, Scope, Send
from mongosession_tornado import with_session
from mongosession_wsgi import SessionMiddleware as WsgiMiddleware

from .servers import call

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

KEY = "k" * 32

BREAKS = (
    "\r\nSet-Cookie: evil=1",
    "\n",
    "\r",
    "\0",
    "\x0b",
    "\x1f",
    "\x7f",
    "\x85",
    "é",
    "ÿ",
    "\u010a",
    "\u2028",
    "日",
)
"""What ends a header somewhere, or is no ASCII. (The low byte of U+010A is a line feed.)"""

MARKS = (";", "; Domain=evil.example", ",", ", evil=1", '"', " ", "=", "%0d%0aSet-Cookie: evil=1")
"""What means something within Set-Cookie, or might to somebody who decodes it."""

Headers = list[tuple[str, str]]
Ask = Callable[[str | None], Awaitable[tuple[int, Headers]]]
"""One request with this Cookie header: status, and the answer's headers."""


# --------------------------------------------------------------------------------------------------------- the settings


@pytest.mark.parametrize("text", [*BREAKS, *MARKS])
@pytest.mark.parametrize("field", ["name", "domain", "same_site", "path"])
@pytest.mark.parametrize("place", ["{}", "a{}", "a{}z"])
def test_no_setting_takes_it(field: str, place: str, text: str) -> None:
    # Within a path, and there alone, browsers take any character but controls and ";" (RFC 6265, 4.1.1).
    value = ("/" if field == "path" else "") + place.format(text)
    if field == "path" and text in MARKS and ";" not in text:
        assert Cookie("session", path=value).path == value
        return
    settings: dict[str, Any] = {"name": "session", field: value}
    with pytest.raises(ValueError, match=rf"^Cookie\.{field} is "):
        Cookie(**settings)
    with pytest.raises(ValueError, match=rf"^Cookie\.{field} is "):
        replace(Cookie("session"), **settings)


@pytest.mark.parametrize("text", [*BREAKS, *MARKS])
@pytest.mark.parametrize("field", ["name", "domain", "same_site", "path"])
def test_no_variable_takes_it_either(field: str, text: str) -> None:
    variable = f"MONGOSESSION_COOKIE_{field.upper()}"
    value = f"/a{text}z" if field == "path" else f"a{text}z"
    environ = {"MONGOSESSION_KEYS": KEY, "MONGOSESSION_COOKIE_NAME": "session", variable: value}
    if field == "path" and text in MARKS and ";" not in text:
        assert SessionEngine.from_env(MemoryStore(), environ).cookie.path == value
        return
    with pytest.raises(ValueError, match=rf"^{variable} is "):
        SessionEngine.from_env(MemoryStore(), environ)


@pytest.mark.parametrize("field", ["secure", "persistent", "partitioned"])
def test_a_switch_is_a_switch(field: str) -> None:
    settings: dict[str, Any] = {field: "x; Domain=evil.example"}
    with pytest.raises(ValueError, match=rf"^Cookie\.{field} is "):
        Cookie(**settings)


# --------------------------------------------------------------------------------------------------------- the adapters


@asynccontextmanager
async def asgi(engine: SessionEngine, handle: Callable[[Session], object]) -> AsyncGenerator[Ask]:
    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        handle(scope["session"])
        start: Message = {"type": "http.response.start", "status": 200, "headers": []}
        await send(start)
        await send({"type": "http.response.body", "body": b"page"})

    async def ask(cookie: str | None) -> tuple[int, Headers]:
        answer = await call(AsgiMiddleware(page, engine), headers=[] if cookie is None else [("Cookie", cookie)])
        return answer.status, answer.headers

    yield ask


@asynccontextmanager
async def wsgi(engine: SessionEngine, handle: Callable[[Session], object]) -> AsyncGenerator[Ask]:
    def page(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        handle(environ["mongosession"])
        start_response("200 OK", [])
        return [b"page"]

    app = WsgiMiddleware(page, lambda: engine)

    def request(cookie: str | None) -> tuple[int, Headers]:
        got: list[tuple[int, Headers]] = []

        def start_response(status: str, headers: Headers, exc_info: object = None) -> Callable[[bytes], object]:
            got.append((int(status[:3]), headers))
            return lambda data: None

        environ: dict[str, Any] = {"REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": "/"}
        body = app(environ if cookie is None else environ | {"HTTP_COOKIE": cookie}, start_response)
        list(body)
        return got[-1]

    async def ask(cookie: str | None) -> tuple[int, Headers]:
        return await anyio.to_thread.run_sync(request, cookie)

    yield ask


@asynccontextmanager
async def tornado(engine: SessionEngine, handle: Callable[[Session], object]) -> AsyncGenerator[Ask]:
    class Page(web.RequestHandler):
        session: Session

        @with_session
        async def get(self) -> None:
            handle(self.session)
            self.write("page")

    server = HTTPServer(web.Application([("/", Page)], session_engine=engine, log_function=lambda handler: None))
    (listener,) = sockets = netutil.bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)

    async def ask(cookie: str | None) -> tuple[int, Headers]:
        reader, writer = await asyncio.open_connection(*listener.getsockname()[:2])
        line = "" if cookie is None else f"Cookie: {cookie}\r\n"
        writer.write(f"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{line}\r\n".encode("latin-1"))
        answer = (await reader.read()).decode("latin-1")
        writer.close()
        await writer.wait_closed()
        # Split as lenient clients do, at any line end: what was smuggled in would be a header of its own.
        status, *lines = re.split("\r\n|\r|\n", answer.partition("\r\n\r\n")[0])
        fields = [line.partition(": ") for line in lines]
        return int(status.split()[1]), [(name, value) for name, _, value in fields]

    yield ask
    server.stop()
    await server.close_all_connections()


WORLDS = {"asgi": asgi, "wsgi": wsgi, "tornado": tornado}


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> Any:
    return WORLDS[request.param]


def ours(headers: Headers) -> Headers:
    """Without what the server and the framework send of their own accord."""
    own = {"server", "date", "content-type", "content-length", "etag", "connection"}
    return sorted((name.lower(), value) for name, value in headers if name.lower() not in own)


TOKEN = re.compile(r"__Host-session=[\w-]{64,}; Max-Age=2592000; Path=/; HttpOnly; Secure; SameSite=Lax", re.ASCII)


@pytest.mark.parametrize("anonymous", ["database", "cookie"])
@pytest.mark.parametrize("text", [*BREAKS, *MARKS])
async def test_what_a_session_holds_reaches_no_header(
    world: Any, text: str, anonymous: Literal["database", "cookie"]
) -> None:
    def store(session: Session) -> None:
        session[text] = {text: [text, text.encode()]}
        session.describe(user_agent=text, address=text)

    def log_in(session: Session) -> None:
        store(session)
        session.renew(subject=f"user{text}".rstrip("\0"))  # NUL is refused there

    for handle in (store, log_in):
        async with world(MemoryEngine(anonymous=anonymous), handle) as ask:
            status, headers = await ask(None)
        assert status == 200
        (_, cache), (_, cookie), (_, vary) = ours(headers)
        assert [name for name, _ in ours(headers)] == ["cache-control", "set-cookie", "vary"]
        assert (cache, vary) == ("no-store", "Cookie")
        assert TOKEN.fullmatch(cookie)


@pytest.mark.parametrize("text", [*BREAKS, *MARKS])
async def test_a_cookie_that_came_goes_nowhere(world: Any, text: str) -> None:
    text = text.encode().decode("latin-1")  # its bytes, as servers hand them on
    engine = MemoryEngine()
    for cookie in (f"__Host-session={text}", f"__Host-session=A{text}z; __Host-session={text}", f"{text}=1", text):
        if world is tornado and re.search("[\r\n\0\x0b\x1f\x7f]", cookie):
            continue  # its server refuses such a request, before there is a session
        async with world(engine, dict) as ask:
            status, headers = await ask(cookie)
        assert status == 200
        assert not [value for name, value in ours(headers) if name != "vary"]
    assert engine.store.take() == []


async def test_odd_settings_make_one_header(world: Any) -> None:
    cookie = Cookie("!#$%&'*+-.^_`|~0", path="/a,b \"c' d=%0d%0aSet-Cookie: evil=1", domain="a.example")
    async with world(MemoryEngine(cookie=cookie), lambda session: session.update(a=1)) as ask:
        _, headers = await ask(None)
    (value,) = [value for name, value in ours(headers) if name == "set-cookie"]
    assert value.startswith(f"{cookie.name}=")
    assert (
        value.partition("; ")[2]
        == f"Max-Age=2592000; Path={cookie.path}; Domain=a.example; HttpOnly; Secure; SameSite=Lax"
    )


@pytest.mark.parametrize("text", [*BREAKS, *MARKS])
async def test_what_the_database_says_reaches_no_header(world: Any, text: str) -> None:
    @asynccontextmanager
    async def away(call: str) -> AsyncGenerator[None]:
        raise StoreUnavailable(f"away{text}", retry_after=7)
        yield

    engine = MemoryEngine()
    engine.store.around = away
    async with world(engine, lambda session: session.update(a=1)) as ask:
        status, headers = await ask(None)
    assert status == 503
    assert ours(headers) == [("cache-control", "no-store"), ("retry-after", "7")]
