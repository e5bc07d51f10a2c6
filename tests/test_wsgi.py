"""The WSGI middleware, called as PEP 3333 says, between two of the standard library's validators; and its event loop in
processes of their own.

`mongosession.session` is the environ key here: the validator takes keys without a dot for CGI variables.
"""

import ast
import asyncio
import itertools
import os
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import anyio
import pymongo
import pytest

from mongosession import (
    DataError,
    Event,
    EventKind,
    MemoryStore,
    MongoStore,
    Rotation,
    Session,
    SessionEngine,
    StoreUnavailable,
)
from mongosession.testing import HandClock, Jar
from mongosession_wsgi import SessionMiddleware, wait
from mongosession_wsgi.loop import here

from .conftest import CLIENTS
from .world import KEY, World, away

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

SESSION = "mongosession.session"
TEXT = ("Content-Type", "text/plain")
SECONDS = 60.0  # that nothing here takes
TEA = {"basket": ["tea"]}  # what `World.begin` stores

Headers = list[tuple[str, str]]


class Reply:
    """What a server got, and did.

    Attributes:
        steps: in their order: statuses that the server was given, and chunks.
        sent: the headers are gone; they go with the first chunk that is not empty.
    """

    def __init__(self) -> None:
        self.steps: list[int | bytes] = []
        self.headers: Headers = []
        self.sent = False

    @property
    def status(self) -> int:
        (*_, status) = [step for step in self.steps if isinstance(step, int)]
        return status

    @property
    def body(self) -> bytes:
        return b"".join(step for step in self.steps if isinstance(step, bytes))

    def all(self, name: str) -> list[str]:
        """The values of one header."""
        return [value for key, value in self.headers if key.lower() == name]


def nothing(*_: object) -> None:
    """Neither looks at the session nor at anything else."""


def request(method: str = "GET", path: str = "/", **variables: str) -> "WSGIEnvironment":
    environ: WSGIEnvironment = {"REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": ""}
    environ.update(variables)
    setup_testing_defaults(environ)
    return environ


def serve(
    app: "WSGIApplication",
    environ: "WSGIEnvironment",
    *,
    take: int | None = None,
    on: Callable[[int | bytes], object] = nothing,
    reply: Reply | None = None,
) -> Reply:
    """One request, as a server of PEP 3333 handles it.

    Args:
        app: the application.
        environ: the request's.
        take: the client goes away after so many chunks.
        on: called with each step.
        reply: where to put it, for those who want to see it of a request that fails.
    """
    reply = Reply() if reply is None else reply

    def note(step: int | bytes) -> None:
        reply.steps.append(step)
        on(step)

    def write(chunk: bytes) -> None:
        assert reply.steps, "a chunk before start_response"
        reply.sent = reply.sent or chunk != b""
        note(chunk)

    def start_response(status: str, headers: Headers, exc_info: Any = None) -> Callable[[bytes], object]:
        if exc_info and reply.sent:
            raise exc_info[1].with_traceback(exc_info[2])
        assert exc_info or not reply.steps, "start_response was called twice"
        reply.headers = headers
        note(int(status[:3]))
        return write

    body = app(environ, start_response)
    try:
        for chunk in itertools.islice(body, take):
            write(chunk)
        if not reply.steps:
            raise AssertionError("start_response was not called")
    finally:
        getattr(body, "close", nothing)()
    return reply


def unreached(*_: object) -> Iterable[bytes]:
    """An application that must not be called."""
    raise AssertionError("the application was called")


class Body:
    """An iterable that counts how often it is closed."""

    def __init__(self, chunks: Iterable[bytes], on_close: Callable[[], object] = nothing) -> None:
        self.chunks = iter(chunks)
        self.on_close = on_close
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self.chunks)

    def close(self) -> None:
        self.closed += 1
        self.on_close()


class Site(World):
    """A site and a browser, with the middleware between."""

    def behind(self, app: "WSGIApplication", **options: Any) -> SessionMiddleware:
        """The application with the middleware in front."""
        options = {"environ_key": SESSION, "timeout": SECONDS, **options}
        return SessionMiddleware(validator(app), lambda: self.engine, **options)

    def request(self, method: str = "GET", path: str = "/", **variables: str) -> "WSGIEnvironment":
        """The browser's next request."""
        cookie = self.browser.jar.header()
        return request(method, path, **({"HTTP_COOKIE": cookie} if cookie else {}), **variables)

    def visit(
        self,
        app: "WSGIApplication",
        method: str = "GET",
        path: str = "/",
        *,
        variables: dict[str, str] | None = None,
        take: int | None = None,
        on: Callable[[int | bytes], object] = nothing,
        reply: Reply | None = None,
        **options: Any,
    ) -> Reply:
        """One request of the browser; its jar gets the answer."""
        environ = self.request(method, path, **(variables or {}))
        reply = serve(validator(self.behind(app, **options)), environ, take=take, on=on, reply=reply)
        self.browser.jar.receive(reply.headers)
        return reply

    def return_later(self) -> None:
        """The browser has a session, and its token is due for rotation."""
        wait(self.begin())
        self.clock.advance(6)
        self.store.take()

    def stored(self) -> dict[str, Any]:
        """What the browser's session holds; nothing is rotated."""
        return wait(self.engine.open(self.browser.jar.header(), tokens=False)).copy()


@pytest.fixture
def site() -> Site:
    return Site()


def answering(
    use: Callable[[Session], object], status: str = "200 OK", *headers: tuple[str, str], body: bytes = b"ok"
) -> "WSGIApplication":
    """An application that does something with the session and answers."""

    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        use(environ[SESSION])
        start_response(status, [TEXT, *headers])
        return [body]

    return app


def storing(key: str, value: object = True) -> Callable[[Session], None]:
    """Stores something."""

    def use(session: Session) -> None:
        session[key] = value

    return use


class Gate:
    """Holds the store's calls of one name until it is opened: `site.store.around = gate`."""

    def __init__(self, call: str) -> None:
        self.call = call
        self.opened = asyncio.Event()
        self.passed = threading.Event()

    @asynccontextmanager
    async def __call__(self, call: str) -> AsyncGenerator[None]:
        if call == self.call:
            await self.opened.wait()
        yield
        if call == self.call:
            self.passed.set()

    async def open(self) -> None:
        self.opened.set()


# ------------------------------------------------------------------------------------------------- holding the headers


def test_the_session_is_in_the_environ(site: Site) -> None:
    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        environ["mongosession"]["seen"] = True
        start_response("200 OK", [TEXT])
        return [b"ok"]

    reply = serve(SessionMiddleware(app, lambda: site.engine), request())
    site.browser.jar.receive(reply.headers)
    assert reply.steps == [200, b"ok"]
    assert [name for name, _ in reply.headers] == ["Content-Type", "Vary", "Set-Cookie", "Cache-Control"]
    assert site.stored() == {"seen": True}


def test_the_store_has_it_before_the_server_gets_the_headers(site: Site) -> None:
    wait(site.begin())

    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        start_response("201 Created", [TEXT])
        environ[SESSION]["after_start_response"] = True

        def chunks() -> Iterator[bytes]:
            environ[SESSION]["before_the_first_chunk"] = True
            yield b"a"
            environ[SESSION]["streaming"] = True
            yield b"b"
            environ[SESSION]["after_the_last_chunk"] = True

        return chunks()

    seen: dict[int | bytes, list[str]] = {}
    reply = site.visit(app, on=lambda step: seen.update({step: list(site.stored())}))
    assert reply.steps == [201, b"a", b"b"]
    early = ["basket", "after_start_response", "before_the_first_chunk"]
    assert seen == {201: early, b"a": early, b"b": early}
    assert list(site.stored()) == [*early, "streaming", "after_the_last_chunk"]


def test_what_was_streamed_is_written_before_the_client_sees_the_end(site: Site) -> None:
    wait(site.begin())

    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        start_response("200 OK", [TEXT])
        yield b"a"
        environ[SESSION]["streaming"] = True

    body = site.behind(app)(site.request(), lambda *_: nothing)
    assert list(body) == [b"a"]  # not closed yet
    assert site.stored() == {**TEA, "streaming": True}


def count_crossings(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What is run on the sessions' event loop from now on."""
    run, crossed = here().run, list[object]()

    def crossing(work: Callable[[], Awaitable[Any]], timeout: float) -> Any:
        crossed.append(work)
        return run(work, timeout)

    monkeypatch.setattr(here(), "run", crossing)
    return crossed


@pytest.mark.parametrize(
    ("use", "crossings"), [(nothing, 0), (lambda session: session["basket"][0], 0), (storing("seen"), 1)]
)
def test_only_what_is_to_be_written_crosses_into_the_loop(
    site: Site, monkeypatch: pytest.MonkeyPatch, use: Callable[[Session], object], crossings: int
) -> None:
    wait(site.begin())
    crossed = count_crossings(monkeypatch)
    middleware = SessionMiddleware(answering(use), lambda: site.engine, environ_key=SESSION)  # validators take a look
    reply = serve(middleware, site.request())
    making, opening = 1, 1
    assert (reply.status, len(crossed)) == (200, making + opening + crossings)


@pytest.mark.parametrize(
    ("cookie", "use", "crossings"),
    [
        (False, nothing, 0),
        (False, storing("seen"), 1),
        (True, nothing, 0),
        (True, lambda session: session["basket"][0], 0),
        (True, storing("seen"), 1),
    ],
)
def test_a_visitor_who_needs_no_database_waits_for_no_other_thread(
    monkeypatch: pytest.MonkeyPatch, cookie: bool, use: Callable[[Session], object], crossings: int
) -> None:
    world = World(anonymous="cookie")
    if cookie:
        wait(world.begin())
    world.store.take()
    crossed = count_crossings(monkeypatch)
    middleware = SessionMiddleware(answering(use), lambda: world.engine, environ_key=SESSION)
    environ = request(HTTP_COOKIE=world.browser.jar.header() or "")
    assert serve(middleware, environ).status == 200
    making = 1
    assert len(crossed) == making + crossings
    assert world.store.take() == []


def test_start_response_may_come_with_the_first_chunk(site: Site) -> None:
    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        environ[SESSION]["seen"] = True
        start_response("200 OK", [TEXT])
        yield b"a"

    reply = site.visit(app)
    assert (reply.steps, len(reply.all("set-cookie"))) == ([200, b"a"], 1)
    assert site.stored() == {"seen": True}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("body", [[], [b""], iter(())], ids=["list", "empty chunk", "iterator"])
def test_an_empty_body(site: Site, method: str, body: Iterable[bytes]) -> None:
    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        start_response("200 OK", [TEXT])
        environ[SESSION]["seen"] = True
        return body

    reply = site.visit(app, method)
    assert (reply.status, reply.body, len(reply.all("set-cookie"))) == (200, b"", 1)
    assert site.stored() == {"seen": True}


def test_an_application_that_does_not_answer_stores_nothing(site: Site) -> None:
    """The server answers 500 for it, and a 5xx discards data."""
    wait(site.begin())

    def app(environ: "WSGIEnvironment", _start_response: "StartResponse") -> Iterable[bytes]:
        environ[SESSION]["seen"] = True
        return []

    with pytest.raises(AssertionError, match="not called"):
        serve(site.behind(app), site.request())
    assert site.stored() == TEA


def test_write(site: Site) -> None:
    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        write = start_response("200 OK", [TEXT])
        environ[SESSION]["before"] = True
        write(b"a")
        environ[SESSION]["after"] = True
        write(b"b")
        return [b"c"]

    seen: list[list[str]] = []

    def on(step: int | bytes) -> None:
        seen.append([] if step == 200 else list(site.stored()))
        site.browser.jar.receive(reply.headers)

    reply = Reply()
    site.visit(app, on=on, reply=reply)
    assert reply.steps == [200, b"a", b"b", b"c"]
    assert seen == [[], ["before"], ["before"], ["before"]]
    assert site.stored() == {"before": True, "after": True}


def test_start_response_twice(site: Site) -> None:
    def app(_environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        start_response("200 OK", [TEXT])
        start_response("201 Created", [TEXT])
        return []

    def late(_environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        start_response("200 OK", [TEXT])
        yield b""
        start_response("201 Created", [TEXT])

    for each in (app, late):
        with pytest.raises(AssertionError, match="a second time without exc_info"):
            site.visit(each)


# ---------------------------------------------------------------------------------------------------------- exceptions


def failing(first: str) -> "WSGIApplication":
    """Fails where it says, having stored something."""

    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        session = environ[SESSION]
        session["first"] = True
        if first == "app":
            raise ZeroDivisionError
        start_response("200 OK", [TEXT])

        def chunks() -> Iterator[bytes]:
            if first == "first chunk":
                raise ZeroDivisionError
            yield b"a"
            session["later"] = True
            if first == "second chunk":
                raise ZeroDivisionError

        def close() -> None:
            raise ZeroDivisionError

        return Body(chunks(), close if first == "close" else nothing)

    return app


@pytest.mark.parametrize(
    ("first", "stored"),
    [("app", {}), ("first chunk", {}), ("second chunk", {"first": True}), ("close", {"first": True})],
)
def test_an_exception_commits_nothing(site: Site, first: str, stored: dict[str, bool]) -> None:
    wait(site.begin())
    with pytest.raises(ZeroDivisionError):
        site.visit(failing(first))
    assert site.stored() == {**TEA, **stored}


@pytest.mark.parametrize("end", ["complete", "taken", "nothing", "app", "server"])
def test_the_body_is_closed_once(site: Site, end: str) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"a"
        if end == "app":
            raise ZeroDivisionError
        yield b"b"

    def app(_environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        start_response("200 OK", [TEXT])
        return body

    def on(step: int | bytes) -> None:
        assert body.closed == 0
        if end == "server" and step == b"a":
            raise ConnectionResetError

    body = Body(chunks())
    try:
        site.visit(app, on=on, take={"taken": 1, "nothing": 0}.get(end))
    except (ZeroDivisionError, ConnectionResetError):
        assert end in ("app", "server")
    except AssertionError as error:
        assert (end, str(error)) == ("nothing", "start_response was not called")  # noqa: PT017  # for one end only
    assert body.closed == 1


@pytest.mark.parametrize("end", ["taken", "server"])
def test_what_was_stored_for_a_client_that_went_away_stays_stored(site: Site, end: str) -> None:
    wait(site.begin())

    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        environ[SESSION]["first"] = True
        start_response("200 OK", [TEXT])
        try:
            yield b"a"
            environ[SESSION]["streaming"] = True
            yield b"b"
            environ[SESSION]["never"] = True
        finally:
            environ[SESSION]["last"] = True

    def on(step: int | bytes) -> None:
        if end == "server" and step == b"b":
            raise ConnectionResetError

    try:
        site.visit(app, on=on, take=2)
    except ConnectionResetError:
        assert end == "server"
    assert site.stored() == {**TEA, "first": True, "streaming": True, "last": True}


def recovering(before: Iterable[bytes]) -> "WSGIApplication":
    """Answers its own failure."""

    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        environ[SESSION]["seen"] = True
        start_response("200 OK", [TEXT, ("X-First", "1")])
        yield from before
        environ[SESSION]["later"] = True
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            start_response("500 Sorry", [TEXT], sys.exc_info())
        yield b"sorry"

    return app


def test_an_error_page_before_the_headers_replaces_them(site: Site) -> None:
    """And discards what was stored: it is a 5xx."""
    site.return_later()
    reply = site.visit(recovering([]))
    assert reply.steps == [500, b"sorry"]
    assert reply.all("x-first") == []
    assert len(reply.all("set-cookie")) == 1  # the rotation
    assert site.stored() == TEA


def test_an_error_page_while_the_server_can_still_replace_the_headers(site: Site) -> None:
    """The empty chunk has committed: its cookie must not be lost."""
    reply = site.visit(recovering([b""]))
    assert reply.steps == [200, b"", 500, b"sorry"]
    assert reply.all("x-first") == []
    assert (len(reply.all("set-cookie")), reply.all("cache-control")) == (1, ["no-store"])
    assert site.stored() == {"seen": True}


def test_an_error_page_after_the_headers_is_too_late(site: Site) -> None:
    reply = Reply()
    with pytest.raises(ZeroDivisionError):
        site.visit(recovering([b"a"]), reply=reply)
    site.browser.jar.receive(reply.headers)
    assert reply.steps == [200, b"a"]
    assert site.stored() == {"seen": True}


def test_bad_data_is_an_error_before_the_headers(site: Site) -> None:
    reply = Reply()
    with pytest.raises(DataError, match="'bad'"):
        site.visit(answering(storing("bad", object())), reply=reply)
    assert reply.steps == []


def test_an_application_may_answer_bad_data_itself(site: Site) -> None:
    wait(site.begin())

    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        environ[SESSION]["bad"] = object()
        write = start_response("200 OK", [TEXT])
        try:
            write(b"ok")
        except DataError:
            start_response("500 Sorry", [TEXT], sys.exc_info())
        return [b"sorry"]

    assert site.visit(app).steps == [500, b"sorry"]
    assert site.stored() == TEA


# ------------------------------------------------------------------------------------------------------------- headers


def test_a_token_replaces_the_applications_cache_control(site: Site) -> None:
    caching = [("cache-control", "max-age=60"), ("Cache-Control", "private"), ("X-Other", "1")]
    reply = site.visit(answering(storing("seen"), "200 OK", *caching))
    assert reply.all("cache-control") == ["no-store"]
    assert (len(reply.all("set-cookie")), reply.all("x-other")) == (1, ["1"])

    reply = site.visit(answering(storing("more"), "200 OK", *caching))
    assert reply.all("cache-control") == ["max-age=60", "private"]
    assert reply.all("set-cookie") == []


def test_vary_is_for_responses_that_looked_at_the_session(site: Site) -> None:
    """No validator here: it looks at all of the environ."""
    looking, passing = (
        SessionMiddleware(answering(use, "200 OK", ("Vary", "Accept")), lambda: site.engine, environ_key=SESSION)
        for use in (len, nothing)
    )
    assert serve(looking, request()).all("vary") == ["Accept", "Cookie"]
    assert serve(passing, request()).all("vary") == ["Accept"]


@pytest.mark.parametrize("status", ["500 Sorry", "503 Later"])
def test_a_5xx_discards_data(site: Site, status: str) -> None:
    site.return_later()
    assert len(site.visit(answering(storing("seen"), status)).all("set-cookie")) == 1
    assert site.stored() == TEA


@pytest.mark.parametrize(
    "answer",
    [
        lambda site: site.visit(answering(len, "200 OK", ("Cache-Control", "public"), ("Cache-Control", "max-age=60"))),
        lambda site: site.visit(answering(len, "200 OK", ("Cache-Control", "max-age=60"), ("Cache-Control", "public"))),
        lambda site: site.visit(answering(len), variables={"HTTP_SEC_PURPOSE": "prefetch;prerender"}),
        lambda site: site.visit(answering(len), variables={"HTTP_PURPOSE": "prefetch"}),
        lambda site: site.visit(answering(len), path="/ssr/page", tokenless=["/ssr"]),
        lambda site: site.visit(answering(len), tokenless=lambda environ: environ["REQUEST_METHOD"] == "GET"),
    ],
    ids=["public", "public behind", "Sec-Purpose", "Purpose", "tokenless path", "tokenless predicate"],
)
def test_responses_without_tokens(site: Site, answer: Callable[[Site], Reply]) -> None:
    site.return_later()
    assert answer(site).all("set-cookie") == []
    assert len(site.visit(answering(len)).all("set-cookie")) == 1


@pytest.mark.parametrize(
    ("variables", "verdict"),
    [
        ({"CONTENT_LENGTH": ""}, "copied"),
        ({"CONTENT_LENGTH": "65536"}, "copied"),
        ({"CONTENT_LENGTH": "65537"}, "late"),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, "late"),
    ],
)
def test_a_large_body_is_late_where_a_small_one_is_copied(variables: dict[str, str], verdict: str) -> None:
    site = Site(rotation=Rotation(on_copied="refuse"))
    wait(site.begin())
    old = site.browser.jar.header() or ""
    wait(site.rotate(13))
    seen: list[str] = []
    variables = {"HTTP_COOKIE": old, **variables}
    app = site.behind(answering(lambda session: seen.append(session.verdict)))
    serve(app, request("DELETE", **variables))
    assert seen == [verdict]


@pytest.mark.parametrize("skip", [["/assets"], lambda environ: environ["PATH_INFO"].startswith("/assets")])
def test_skipped_routes_are_the_applications_own(site: Site, skip: Any) -> None:
    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        start_response("200 OK" if SESSION in environ else "404 No session", [TEXT])
        return body

    body = [b"ok"]
    skipping = SessionMiddleware(app, lambda: site.engine, environ_key=SESSION, skip=skip)
    assert skipping(site.request(path="/assets/a"), lambda *_: nothing) is body
    assert serve(skipping, site.request(path="/assets/a")).status == 404
    assert serve(skipping, site.request(path="/")).status == 200


def test_routes_count_from_the_root_of_the_site(site: Site) -> None:
    skips: list[bool] = []

    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        skips.append(SESSION not in environ)
        start_response("200 OK", [TEXT])
        return []

    site.visit(app, path="/assets/a", variables={"SCRIPT_NAME": "/app"}, skip=["/app/assets"])
    site.visit(app, path="/assets/a", variables={"SCRIPT_NAME": "/app"}, skip=["/assets"])
    assert skips == [True, False]


# ------------------------------------------------------------------------------------------------------------- outages


@pytest.mark.parametrize(("method", "body"), [("GET", b"Service Unavailable"), ("HEAD", b"")])
def test_an_outage_at_the_beginning(site: Site, method: str, body: bytes) -> None:
    site.return_later()
    site.store.around = away
    reply = site.visit(unreached, method)
    assert (reply.status, reply.body) == (503, body)
    assert reply.headers == [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", "19"),
        ("Cache-Control", "no-store"),
        ("Retry-After", "5"),
    ]


@pytest.mark.parametrize("on_outage", ["anonymous", lambda environ: "anonymous"])
def test_a_route_may_go_on_without_a_session(site: Site, on_outage: Any) -> None:
    site.return_later()
    site.store.around = away
    seen: list[str] = []
    reply = site.visit(answering(lambda session: seen.append(session.verdict)), on_outage=on_outage)
    assert (reply.status, seen, reply.all("set-cookie")) == (200, ["unavailable"], [])


@pytest.mark.parametrize("how", ["return", "write"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_outage_at_the_commit_replaces_the_answer(site: Site, how: str, method: str) -> None:
    site.return_later()

    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        site.store.around = away
        environ[SESSION]["seen"] = True
        write = start_response("200 OK", [TEXT])
        if how == "write":
            write(b"a")
            write(b"b")
        environ[SESSION]["more"] = True
        return body

    body = Body([b"c", b"d"])
    reply = site.visit(app, method)
    assert (reply.status, reply.body) == (503, b"Service Unavailable" if method == "GET" else b"")
    assert (reply.all("retry-after"), reply.all("set-cookie")) == (["5"], [])
    assert body.closed == 1
    site.recover()
    assert site.stored() == TEA


def test_an_error_page_does_not_undo_the_503(site: Site) -> None:
    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        site.store.around = away
        environ[SESSION]["seen"] = True
        write = start_response("200 OK", [TEXT])
        write(b"a")
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            start_response("500 Sorry", [TEXT], sys.exc_info())(b"sorry")
        return [b"sorry"]

    assert site.visit(app).steps == [503, b"Service Unavailable"]


def test_an_outage_while_streaming_breaks_the_stream_off(site: Site) -> None:
    wait(site.begin())

    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        start_response("200 OK", [TEXT])
        yield b"a"
        site.store.around = away
        environ[SESSION]["seen"] = True

    with pytest.raises(StoreUnavailable):
        site.visit(app)


def test_a_store_that_never_answers_frees_the_thread(site: Site) -> None:
    site.return_later()
    site.store.around = Gate("load")
    began = time.monotonic()
    assert site.visit(unreached, timeout=0.3).status == 503
    assert time.monotonic() - began < 10
    site.recover()
    assert site.visit(answering(len), timeout=SECONDS).status == 200


def test_a_commit_that_began_runs_to_its_end(site: Site) -> None:
    site.return_later()
    gate = Gate("update")
    site.store.around = gate
    reply = site.visit(answering(storing("seen")), timeout=0.3)
    assert (reply.status, reply.all("set-cookie")) == (503, [])
    assert site.stored() == TEA
    wait(gate.open())
    assert gate.passed.wait(SECONDS)
    assert site.stored() == {**TEA, "seen": True}
    assert site.visit(answering(len)).status == 200  # the browser kept the token before it


# -------------------------------------------------------------------------------------------------- asynchronous calls


def test_save_while_streaming(site: Site) -> None:
    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        session = environ[SESSION]
        session["n"] = 0
        start_response("200 OK", [TEXT])
        yield b"0"
        for n in range(1, 3):
            session["n"] = n
            assert wait(session.save())
            yield b"%d" % n

    def on(step: int | bytes) -> None:
        site.browser.jar.receive(reply.headers)
        if isinstance(step, bytes):
            seen.append(site.stored()["n"])

    reply, seen = Reply(), list[int]()
    assert site.visit(app, on=on, reply=reply).body == b"012"
    assert seen == [0, 1, 2]


def test_log_out_everywhere(site: Site) -> None:
    wait(site.begin(subject="user:1"))
    app = site.behind(answering(len))
    assert app.engine is site.engine
    assert wait(app.engine.revoke_subject("user:1")) == 1
    assert site.stored() == {}


def test_waiting_ends_at_the_deadline(site: Site) -> None:
    site.return_later()
    session = wait(site.engine.open(site.browser.jar.header()))
    session["seen"] = True
    gate = Gate("update")
    site.store.around = gate
    with pytest.raises(StoreUnavailable, match=r"within 0\.3 s"):
        wait(session.save(), 0.3)
    wait(gate.open())
    assert gate.passed.wait(SECONDS)
    assert site.stored() == {**TEA, "seen": True}


def test_what_takes_too_long_ends_where_it_runs() -> None:
    """On the loop, in its own time: nobody closes it from here."""
    released, ended = asyncio.Event(), list[str]()

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            with anyio.CancelScope(shield=True):
                await released.wait()
            ended.append(threading.current_thread().name)

    async def release() -> None:
        released.set()
        for _ in range(20):
            await asyncio.sleep(0)

    with pytest.raises(StoreUnavailable, match="did not end within"):
        wait(stubborn(), 0.05)
    assert ended == []
    wait(release())
    assert ended == ["mongosession"]


def test_a_timeout_of_the_awaitables_own_is_its_own() -> None:
    async def impatient() -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        wait(impatient())


def test_the_loops_own_thread_cannot_wait_for_itself() -> None:
    errors: list[str] = []

    def on_event(_event: Event) -> None:
        try:
            wait(asyncio.sleep(0))  # it is not begun, and nothing warns of that
        except RuntimeError as error:
            errors.append(str(error))

    engine = SessionEngine(MemoryStore(), keys=[KEY], on_event=on_event)
    app = SessionMiddleware(answering(storing("seen")), lambda: engine, environ_key=SESSION)
    assert serve(app, request()).status == 200
    assert errors == ["this code runs on the sessions' event loop, which cannot wait for itself"]


# ------------------------------------------------------------------------------------------------------ many at a time


def test_the_engine_is_made_once() -> None:
    made: list[SessionEngine] = []

    def make_engine() -> SessionEngine:
        made.append(SessionEngine(MemoryStore(), keys=[KEY]))
        return made[-1]

    app = SessionMiddleware(answering(len), make_engine, environ_key=SESSION)
    together = threading.Barrier(50)

    def one(_n: int) -> int:
        together.wait(SECONDS)
        return serve(app, request()).status

    with ThreadPoolExecutor(50) as pool:
        assert set(pool.map(one, range(50))) == {200}
    assert made == [app.engine]


def test_an_engine_that_cannot_be_made_is_tried_again(site: Site) -> None:
    settings: dict[str, SessionEngine] = {}
    app = SessionMiddleware(answering(len), lambda: settings["engine"], environ_key=SESSION)
    with pytest.raises(KeyError, match="engine"):
        serve(app, request())
    settings["engine"] = site.engine
    assert serve(app, request()).status == 200
    assert app.engine is site.engine


def test_200_threads_with_one_cookie(site: Site) -> None:
    site.return_later()
    together = threading.Barrier(200)

    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        together.wait(SECONDS)
        environ[SESSION][environ["PATH_INFO"]] = True
        start_response("200 OK", [TEXT])
        return [b"ok"]

    behind = site.behind(app)
    with ThreadPoolExecutor(200) as pool:
        replies = list(pool.map(lambda n: serve(behind, site.request(path=f"/{n}")), range(200)))
    assert {reply.status for reply in replies} == {200}
    assert len({cookie for reply in replies for cookie in reply.all("set-cookie")}) == 1
    assert site.stored() == {**TEA, **{f"/{n}": True for n in range(200)}}
    assert site.happened().count(EventKind.ROTATED) == 200  # one generation, confirmed to each


# -------------------------------------------------------------------------------------------------------- real drivers


def test_a_real_database(mongod_uri: str, driver: str) -> None:
    clock = HandClock()
    clients: list[Any] = []

    def make_engine() -> SessionEngine:
        clients.append(CLIENTS[driver](mongod_uri))
        return SessionEngine(MongoStore(clients[-1]["mongosession_test"][uuid4().hex]), keys=[KEY], clock=clock)

    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        session = environ[SESSION]
        session.increment("visits")
        start_response("200 OK", [TEXT])
        yield b"a"
        session["later"] = session.id
        assert wait(session.save())

    middleware = SessionMiddleware(validator(app), make_engine, environ_key=SESSION)
    wait(middleware.engine.setup())
    jar = Jar(clock)
    for rotates in (True, False, True):
        reply = serve(validator(middleware), request(HTTP_COOKIE=jar.header() or ""))
        assert len(reply.all("set-cookie")) == rotates
        jar.receive(reply.headers)
        clock.advance(0 if rotates else 6)
    session = wait(middleware.engine.open(jar.header()))
    assert session == {"visits": 3, "later": session.id}

    async def clean_up() -> None:
        (client,) = clients
        await client.drop_database("mongosession_test")
        closing = client.close()
        if closing is not None:
            await closing

    wait(clean_up())


# ---------------------------------------------------------------------------------------------------- whole processes

ROOT = Path(__file__).parent.parent

SITE = """
import asyncio, os, sys, threading
from contextlib import asynccontextmanager
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient
from mongosession import MemoryStore, MongoStore, SessionEngine
from mongosession.testing import CountingStore
from mongosession_wsgi import SessionMiddleware, wait
from mongosession_wsgi.loop import here

CLIENTS = {"pymongo": AsyncMongoClient, "motor": AsyncIOMotorClient}

def make_engine():
    uri, driver, collection = (os.environ.get(name) for name in ("MONGODB_URI", "DRIVER", "COLLECTION"))
    store = MongoStore(CLIENTS[driver](uri).mongosession_test[collection]) if driver else MemoryStore()
    return SessionEngine(CountingStore(store), keys=["k" * 32], write="after_response")

def page(environ, start_response):
    environ["mongosession"][environ["PATH_INFO"].strip("/")] = os.getpid()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [repr(environ["mongosession"].copy()).encode()]

app = SessionMiddleware(page, make_engine, timeout=float(os.environ.get("TIMEOUT", "15")))

def visit(path, cookie=""):
    cookies = []
    def start_response(status, headers, exc_info=None):
        assert status == "200 OK", status
        cookies.extend(value.partition(";")[0] for name, value in headers if name == "Set-Cookie")
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "HTTP_COOKIE": cookie}
    b"".join(app(environ, start_response))
    return cookies[0] if cookies else cookie

def store_later(cookie):
    session = wait(app.engine.open(cookie))
    session["second"] = True
    assert wait(app.engine.commit(session)) == [("Vary", "Cookie")]
"""


def environment(**variables: str) -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "adapters")])
    return {**os.environ, "PYTHONPATH": paths, **variables}


def run(program: str, **variables: str) -> list[str]:
    """Run a program to its end: promptly, with code 0 and nothing on its error stream. The lines that it printed."""
    command = [sys.executable, "-c", SITE + textwrap.dedent(program)]
    done = subprocess.run(
        command, env=environment(**variables), capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_a_fork_begins_anew_after_its_parent_has_begun() -> None:
    """While another thread of the parent's holds its loop's lock, which nobody releases in the child."""
    lines = run("""
        import gc
        from mongosession_wsgi.loop import here
        cookie = visit("/parent")
        engine = app.engine
        with here()._lock:
            child = os.fork()
        if child == 0:
            assert app.engine is not engine
            visit("/child", visit("/child"))
            grandchild = os.fork()
            if grandchild == 0:
                gc.collect()
                visit("/grandchild")
                print("grandchild", flush=True)
                sys.exit(0)
            assert os.waitpid(grandchild, 0)[1] == 0
            visit("/child")
            print("child", flush=True)
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert app.engine is engine
        visit("/parent", cookie)
        print("parent")
    """)
    assert lines == ["grandchild", "child", "parent"]


def test_a_fork_that_does_not_use_its_sessions_exits_too() -> None:
    assert run("""
        visit("/parent")
        child = os.fork()
        print("child" if child == 0 else os.waitpid(child, 0)[1], flush=True)
    """) == ["child", "0"]


def test_writes_under_way_are_drained_at_exit() -> None:
    lines = run("""
        @asynccontextmanager
        async def slow(call):
            if call == "update":
                await asyncio.sleep(0.2)
            yield
            print(call)

        cookie = visit("/first")
        app.engine.store.around = slow
        store_later(cookie)
        print("exit")
    """)
    assert lines == ["load", "exit", "update"]


def test_a_stuck_write_does_not_hold_up_the_exit_for_ever() -> None:
    lines = run(
        """
        import logging
        logging.basicConfig(stream=sys.stdout, format="%(message)s")

        @asynccontextmanager
        async def stuck(call):
            if call == "update":
                await asyncio.Event().wait()
            yield

        cookie = visit("/first")
        app.engine.store.around = stuck
        store_later(cookie)
        """,
        TIMEOUT="0.5",
    )
    assert lines == ["writes under way were not waited for: the session's work did not end within 0.5 s"]


def test_the_loop_does_not_begin_again_at_exit() -> None:
    """What runs after it has stopped is told so."""
    lines = run("""
        import atexit

        def last():
            try:
                visit("/last")
            except AssertionError as error:
                print(error)

        atexit.register(last)
        visit("/first")  # the loop begins after that, and so stops before it
        print("exit")
    """)
    assert lines == ["exit", "503 Service Unavailable"]


def test_a_process_that_exits_after_its_last_response_has_written(mongod_uri: str, driver: str) -> None:
    """Even where writes come after the response."""
    collection = uuid4().hex
    run(
        'visit("/second", visit("/first"))',
        MONGODB_URI=mongod_uri,
        DRIVER=driver,
        COLLECTION=collection,
    )
    with pymongo.MongoClient[dict[str, Any]](mongod_uri) as client:
        (document,) = client.mongosession_test[collection].find()
        client.mongosession_test[collection].drop()
    assert list(document["data"]) == ["first", "second"]


def test_a_server_that_forks_after_loading_the_application(mongod_uri: str, driver: str, tmp_path: Path) -> None:
    """Gunicorn with `--preload`, and an application that uses its sessions while it is loaded."""
    (tmp_path / "site_to_fork.py").write_text(SITE + "cookie = visit('/master')\nprint(cookie, flush=True)")
    collection = uuid4().hex
    command = f"-m gunicorn site_to_fork:app --preload --workers 2 --threads 2 --bind localhost:0 --chdir {tmp_path}"
    variables = environment(MONGODB_URI=mongod_uri, DRIVER=driver, COLLECTION=collection)
    process = subprocess.Popen(
        [sys.executable, *command.split(" ")],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        cookie = process.stdout.readline().strip()
        lines = iter(process.stderr.readline, "")
        address = next(line for line in lines if "Listening at" in line).split()[-2]
        pids: dict[str, int] = {}
        for n in range(8):
            wanted = urllib.request.Request(f"{address}/k{n}", headers={"Cookie": cookie})
            with urllib.request.urlopen(wanted, timeout=SECONDS) as answer:
                pids |= ast.literal_eval(answer.read().decode())
        process.terminate()
        rest = [*lines]
    assert process.returncode == 0
    assert [line for line in rest if "Traceback" in line or "rror" in line] == []
    with pymongo.MongoClient[dict[str, Any]](mongod_uri) as client:
        (document,) = client.mongosession_test[collection].find()
        client.mongosession_test[collection].drop()
    assert pids.pop("master") == process.pid
    assert process.pid not in pids.values()
    assert document["data"] == {"master": process.pid, **pids}
    assert len(pids) == 8
