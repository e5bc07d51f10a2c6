"""The ASGI middleware as an ASGI callable, in process: which messages it holds, adds to, replaces and lets pass."""

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from mongosession import Cookie, DataError, EventKind, Rotation, Session, StoreUnavailable, Verdict
from mongosession_asgi import SessionMiddleware, get_session
from mongosession_asgi.types import Application, Message, Receive, Scope, Send

from .servers import Answer, Headers, call, http_scope
from .world import World, away

NO_STORE = ["no-store"]


class Site(World):
    """A site and a browser, with the middleware between."""

    def behind(self, app: Application, **options: Any) -> SessionMiddleware:
        """The application with the middleware in front."""
        return SessionMiddleware(app, self.engine, **options)

    def headers(self, *more: tuple[str, str]) -> Headers:
        """Those of the browser's next request."""
        cookie = self.browser.jar.header()
        return [*([("cookie", cookie)] if cookie else []), *more]

    def request(self, method: str = "GET") -> Scope:
        """The scope of the browser's next request."""
        return http_scope(method=method, headers=self.headers())

    async def visit(self, app: Application, *more: tuple[str, str], method: str = "GET", **options: Any) -> Answer:
        """One request of the browser, handled by the application behind the middleware; the jar gets the answer."""
        answer = await call(self.behind(app, **options), method=method, headers=self.headers(*more))
        self.browser.jar.receive(answer.headers)
        return answer

    async def return_later(self) -> None:
        """The browser has a session, and its token is due for rotation."""
        await self.begin()
        self.clock.advance(6)
        self.store.take()

    async def stored(self) -> dict[str, Any]:
        """What the browser's session holds; nothing is rotated."""
        return (await self.engine.open(self.browser.jar.header(), tokens=False)).copy()


@pytest.fixture
def site() -> Site:
    return Site()


class Gate:
    """Holds the store's calls of one name until it is opened: `store.around = gate`."""

    def __init__(self, call: str) -> None:
        self.call = call
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    @asynccontextmanager
    async def __call__(self, call: str) -> AsyncGenerator[None]:
        if call == self.call:
            self.reached.set()
            await self.opened.wait()
        yield


async def start(send: Send, status: int = 200, *headers: tuple[str, str]) -> None:
    fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": fields})


async def body(send: Send, text: bytes = b"", *, more: bool = False) -> None:
    await send({"type": "http.response.body", "body": text, "more_body": more})


def answering(use: Callable[[Session], object], status: int = 200, *headers: tuple[str, str]) -> Application:
    """An application that does something with the session and answers."""

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        use(scope["session"])
        await start(send, status, *headers)
        await body(send, b"ok")

    return app


def nothing(_session: Session) -> None:
    """A handler that does not look at the session."""


# ------------------------------------------------------------------------------------------------- holding the headers


async def test_the_headers_wait_for_the_first_byte_of_the_body(site: Site) -> None:
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send, 201, ("x-first", "1"), ("x-second", "2"))
        assert answer.messages == []
        scope["session"]["late"] = "but in time"
        await body(send, b"a", more=True)
        assert answer.types == ["start", "body"]
        await body(send, b"b")

    answer = Answer()
    await site.behind(app)(http_scope(), answer.receive, answer.send)
    site.browser.jar.receive(answer.headers)

    assert answer.types == ["start", "body", "body"]
    assert answer.status == 201
    assert [name for name, _ in answer.headers] == ["x-first", "x-second", "vary", "set-cookie", "cache-control"]
    assert answer.body == b"ab"
    assert await site.stored() == {"late": "but in time"}


async def test_a_response_without_a_body_is_started_when_the_application_returns(site: Site) -> None:
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send, 204)
        scope["session"]["seen"] = True

    answer = await site.visit(app)
    assert answer.types == ["start"]
    assert await site.stored() == {"seen": True}


@pytest.mark.parametrize("stores", [True, False])
async def test_messages_may_be_made_before_the_first_is_awaited(site: Site, *, stores: bool) -> None:
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        if stores:
            scope["session"]["seen"] = True
        messages: list[dict[str, Any]] = [
            {"type": "http.response.start", "status": 200, "headers": []},
            {"type": "http.response.body", "body": b"a", "more_body": True},
            {"type": "http.response.body", "body": b"b", "more_body": True},
            {"type": "http.response.body", "body": b"c"},
        ]
        for sending in [send(message) for message in messages]:
            await sending

    answer = await site.visit(app)
    assert answer.types == ["start", "body", "body", "body"]
    assert answer.body == b"abc"


async def test_send_is_marked_as_asynchronous(site: Site) -> None:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        assert inspect.iscoroutinefunction(send)
        await start(send)
        await body(send)

    await site.visit(app)


async def test_headers_may_be_left_out(site: Site) -> None:
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        scope["session"]["seen"] = True
        await send({"type": "http.response.start", "status": 200})
        await body(send)

    assert len((await site.visit(app)).all("set-cookie")) == 1


@pytest.mark.parametrize("status", [200, 500], ids=["with-a-token", "without"])
async def test_headers_may_come_from_a_generator(site: Site, status: int) -> None:
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        scope["session"]["seen"] = True
        headers = (field for field in [(b"x-first", b"1"), (b"cache-control", b"private"), (b"x-last", b"2")])
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await body(send)

    answer = await site.visit(app)
    assert (answer.all("x-first"), answer.all("x-last")) == (["1"], ["2"])


async def test_a_generator_of_headers_reaches_the_server_where_there_is_no_session(site: Site) -> None:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        headers = (field for field in [(b"x-first", b"1"), (b"x-last", b"2")])
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await body(send)

    assert (await site.visit(app)).headers == [("x-first", "1"), ("x-last", "2")]


async def test_after_a_503_of_ours_the_application_starts_no_second_response(site: Site) -> None:
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        scope["session"]["seen"] = True
        for _ in range(2):
            await start(send)
            await body(send)
        await start(send)

    site.store.around = away
    assert (await site.visit(app)).status == 503
    assert site.store.take() == ["create"]


async def test_an_application_that_does_not_answer_stores_nothing(site: Site) -> None:
    """The server answers 500 for it, and a 5xx discards data."""

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        scope["session"]["seen"] = True

    await site.return_later()
    answer = Answer()
    await site.behind(app)(site.request(), answer.receive, answer.send)
    assert answer.messages == []
    assert await site.stored() == {"basket": ["tea"]}


BEFORE: list[Message] = [
    {"type": "http.response.debug", "info": {"template": "home.html"}},
    {"type": "http.response.early_hint", "links": [b"</style.css>; rel=preload"]},
    {"type": "http.response.push", "path": "/style.css", "headers": []},
]
PATHSEND: list[Message] = [{"type": "http.response.pathsend", "path": "/var/www/film.mp4"}]
ZEROCOPY: list[Message] = [
    {"type": "http.response.zerocopysend", "file": 3, "more_body": True},
    {"type": "http.response.body", "body": b"", "more_body": False},
]
TRAILERS: list[Message] = [
    {"type": "http.response.body", "body": b"ok", "more_body": False},
    {"type": "http.response.trailers", "headers": [(b"x-digest", b"1")], "more_trailers": True},
    {"type": "http.response.trailers", "headers": [(b"x-digest", b"2")], "more_trailers": False},
]


@pytest.mark.parametrize("rest", [PATHSEND, ZEROCOPY, TRAILERS], ids=["pathsend", "zerocopysend", "trailers"])
async def test_other_messages_pass_in_their_place(site: Site, rest: list[Message]) -> None:
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        for message in BEFORE:
            await send(message)
        scope["session"]["seen"] = True
        await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
        for message in rest:
            await send(message)

    answer = await site.visit(app)
    at = len(BEFORE)
    assert answer.messages[:at] == BEFORE
    assert answer.messages[at] == answer.start
    assert answer.start["trailers"] is True
    assert answer.messages[at + 1 :] == rest
    assert len(answer.all("set-cookie")) == 1
    assert site.store.take() == ["create"]


# -------------------------------------------------------------------------------------------------------------- options


async def test_the_place_in_the_scope_may_be_chosen(site: Site) -> None:
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        assert "session" not in scope
        scope["visitor"]["seen"] = True
        await start(send)
        await body(send)

    await site.visit(app, scope_key="visitor")
    assert await site.stored() == {"seen": True}


@pytest.mark.parametrize(
    "skip", [["/static", "/health/"], lambda scope: scope["path"].count("/") > 1 or "h" in scope["path"]]
)
async def test_routes_may_have_no_session(site: Site, skip: Any) -> None:
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        opened[scope["path"]] = "session" in scope
        await start(send)
        await body(send)

    opened: dict[str, bool] = {}
    middleware = site.behind(app, skip=skip)
    for path in ("/static/a.css", "/health", "/statics", "/"):
        await call(middleware, path, headers=[("cookie", "__Host-session=x")])
    assert opened == {"/static/a.css": False, "/health": False, "/statics": True, "/": True}


async def test_routes_may_be_tokenless(site: Site) -> None:
    await site.return_later()
    app = answering(lambda session: session["basket"])
    assert (await site.visit(app, tokenless=["/"])).all("set-cookie") == []
    assert site.store.take() == ["load"]
    assert len((await site.visit(app, tokenless=["/other"])).all("set-cookie")) == 1


async def test_nested_in_itself_it_passes_through(site: Site) -> None:
    await site.return_later()
    answer = await site.visit(site.behind(answering(lambda session: session["basket"])))
    assert len(answer.all("set-cookie")) == 1
    assert answer.all("vary") == ["Cookie"]
    assert site.store.take() == ["load", "update"]


async def test_of_two_engines_under_one_key_the_inner_one_counts() -> None:
    site, admin = Site(), Site(cookie=Cookie(name="__Host-admin"))
    answer = await site.visit(admin.behind(answering(lambda session: session.update(a=1))))
    assert [cookie.partition("=")[0] for cookie in answer.all("set-cookie")] == ["__Host-admin"]


async def test_two_engines_stand_under_two_keys() -> None:
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        scope["session"]["basket"] = ["tea"]
        scope["admin"]["basket"] = ["coffee"]
        await start(send)
        await body(send)

    site, admin = Site(), Site(cookie=Cookie(name="__Host-admin"))
    answer = await site.visit(admin.behind(app, scope_key="admin"))
    assert len(answer.all("set-cookie")) == 2
    assert answer.all("cache-control") == NO_STORE
    admin.browser.jar.receive(answer.headers)
    assert (await site.stored(), await admin.stored()) == ({"basket": ["tea"]}, {"basket": ["coffee"]})


async def test_the_session_typed(site: Site) -> None:
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        assert get_session(scope) is get_session(Request(scope)) is scope["session"]
        with pytest.raises(LookupError, match="visitor"):
            get_session(scope, "visitor")
        await start(send)
        await body(send)

    assert (await site.visit(app)).all("vary") == ["Cookie"]


# ----------------------------------------------------------------------------------------------------- caches and vary


async def test_a_token_replaces_the_responses_own_cache_control(site: Site) -> None:
    own = [("X-First", "1"), ("Cache-Control", "max-age=60"), ("cache-CONTROL", "private"), ("x-last", "2")]
    answer = await site.visit(answering(lambda session: session.update(a=1), 200, *own))
    assert [field for field in answer.headers if field[0] != "set-cookie"] == [
        ("X-First", "1"),
        ("x-last", "2"),
        ("vary", "Cookie"),
        ("cache-control", "no-store"),
    ]


async def test_without_a_token_the_response_keeps_its_own_cache_control(site: Site) -> None:
    await site.visit(answering(lambda session: session.update(a=1)))
    answer = await site.visit(answering(lambda session: session["a"], 200, ("Cache-Control", "max-age=60")))
    assert answer.headers == [("Cache-Control", "max-age=60"), ("vary", "Cookie")]


async def test_a_log_out_is_no_store(site: Site) -> None:
    await site.return_later()
    answer = await site.visit(answering(Session.destroy, 200, ("cache-control", "max-age=60")))
    assert answer.all("cache-control") == NO_STORE
    assert site.browser.jar.header() is None


LOOKS: dict[str, Callable[[Session], object]] = {
    "in": lambda session: "a" in session,
    "len": len,
    "bool": bool,
    "get": lambda session: session.get("a"),
    "list": list,
    "==": lambda session: session == {},
    "set": lambda session: session.update(a=1),
    "renew": lambda session: session.renew("user:1"),
}


@pytest.mark.parametrize("look", LOOKS)
async def test_a_response_whose_session_was_looked_at_varies(site: Site, look: str) -> None:
    answer = await site.visit(answering(LOOKS[look], 200, ("vary", "Accept-Encoding")))
    assert answer.all("vary") == ["Accept-Encoding", "Cookie"]


async def test_a_response_whose_session_was_not_looked_at_does_not_vary(site: Site) -> None:
    await site.visit(answering(lambda session: session.update(a=1)))
    answer = await site.visit(answering(nothing, 200, ("vary", "Accept-Encoding")))
    assert answer.headers == [("vary", "Accept-Encoding")]


PREFETCHES = [
    ("sec-purpose", "prefetch"),
    ("sec-purpose", "prefetch;prerender"),
    ("purpose", "prefetch"),
]


@pytest.mark.parametrize("header", PREFETCHES)
async def test_a_prefetch_rotates_nothing_and_gets_no_token(site: Site, header: tuple[str, str]) -> None:
    await site.return_later()
    answer = await site.visit(answering(lambda session: session["basket"]), header)
    assert answer.headers == [("vary", "Cookie")]
    assert site.store.take() == ["load"]
    answer = await site.visit(answering(nothing))
    assert len(answer.all("set-cookie")) == 1  # it was due all the time


PUBLIC = [
    [("cache-control", "public")],
    [("Cache-Control", "max-age=60, Public")],
    [("cache-control", "max-age=60"), ("cache-control", "public")],
]


@pytest.mark.parametrize("own", PUBLIC)
async def test_a_public_response_rotates_nothing_and_carries_no_token(site: Site, own: Headers) -> None:
    await site.return_later()
    answer = await site.visit(answering(nothing, 200, *own))
    assert answer.headers == own
    assert site.store.take() == ["load"]
    assert site.happened() == []


async def test_what_a_public_response_stores_is_stored_all_the_same(site: Site) -> None:
    await site.return_later()
    answer = await site.visit(answering(lambda session: session.update(a=1), 200, ("cache-control", "public")))
    assert answer.all("set-cookie") == []
    assert (await site.stored())["a"] == 1


async def test_a_session_that_begins_in_a_public_response_makes_it_no_store(site: Site) -> None:
    answer = await site.visit(answering(lambda session: session.update(a=1), 200, ("cache-control", "public")))
    assert answer.all("cache-control") == NO_STORE
    assert len(answer.all("set-cookie")) == 1
    assert EventKind.FORCED_NO_STORE in site.happened()


async def test_a_session_that_begins_in_a_prefetch_makes_it_no_store(site: Site) -> None:
    answer = await site.visit(answering(lambda session: session.update(a=1)), PREFETCHES[0])
    assert answer.all("cache-control") == NO_STORE
    assert EventKind.FORCED_NO_STORE in site.happened()


# ------------------------------------------------------------------------------------------------- errors and outcomes


@pytest.mark.parametrize("status", [500, 503, 599])
async def test_a_5xx_discards_data_and_rotates(site: Site, status: int) -> None:
    await site.return_later()
    answer = await site.visit(answering(lambda session: session.update(a=1), status))
    assert answer.status == status
    assert len(answer.all("set-cookie")) == 1
    assert await site.stored() == {"basket": ["tea"]}


async def test_a_5xx_discards_what_comes_while_streaming_too(site: Site) -> None:
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send, 500)
        await body(send, b"a", more=True)
        scope["session"]["a"] = 1
        await body(send, b"b")
        scope["session"]["b"] = 1

    await site.begin()
    await site.visit(app)
    assert await site.stored() == {"basket": ["tea"]}


@pytest.mark.parametrize("looks", [False, True])
async def test_what_is_stored_while_streaming_is_written_before_the_client_sees_the_end(
    site: Site, looks: bool
) -> None:
    """Also where nothing was to be committed when the headers left."""
    await site.begin()
    stored: dict[bytes, dict[str, Any]] = {}

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        if looks:
            scope["session"].get("basket")
        await start(send)
        await body(send, b"a", more=True)
        scope["session"]["seen"] = True
        await body(send, b"b")

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            stored[message["body"]] = await site.stored()

    await site.behind(app)(site.request(), Answer().receive, send)
    assert stored == {b"a": {"basket": ["tea"]}, b"b": {"basket": ["tea"], "seen": True}}


async def test_a_5xx_does_not_discard_a_log_out(site: Site) -> None:
    await site.return_later()
    thief = site.browser.jar.copy()
    answer = await site.visit(answering(Session.destroy, 500))
    assert len(answer.all("set-cookie")) == 1
    assert site.browser.jar.header() is None
    assert (await site.engine.open(thief.header())).verdict is Verdict.LATE


@pytest.mark.parametrize("status", [400, 404, 499])
async def test_a_4xx_stores(site: Site, status: int) -> None:
    await site.visit(answering(lambda session: session.update(a=1), status))
    assert await site.stored() == {"a": 1}


@pytest.mark.parametrize("started", [False, True])
async def test_an_exception_commits_nothing_and_rotates_nothing(site: Site, started: bool) -> None:
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        scope["session"]["a"] = 1
        scope["session"].renew("user:1")
        if started:
            await start(send)
        raise ZeroDivisionError

    await site.return_later()
    answer = Answer()
    with pytest.raises(ZeroDivisionError):
        await site.behind(app)(site.request(), answer.receive, answer.send)
    assert answer.messages == []  # so that the server, or a middleware in front, can answer with an error page
    assert site.store.take() == ["load"]


async def test_an_exception_after_the_first_byte_discards_what_came_after_it(site: Site) -> None:
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        scope["session"]["early"] = True
        await start(send)
        await body(send, b"a", more=True)
        scope["session"]["later"] = True
        raise ZeroDivisionError

    answer = Answer()
    with pytest.raises(ZeroDivisionError):
        await site.behind(app)(http_scope(), answer.receive, answer.send)
    site.browser.jar.receive(answer.headers)
    assert await site.stored() == {"early": True}


async def test_what_cannot_be_stored_raises_and_nothing_is_sent(site: Site) -> None:
    answer = Answer()
    app = answering(lambda session: session.update(thing=object()))
    with pytest.raises(DataError, match="thing"):
        await site.behind(app)(http_scope(), answer.receive, answer.send)
    assert answer.messages == []
    assert site.store.calls == []


async def test_an_application_may_answer_an_error_of_the_commit(site: Site) -> None:
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        scope["session"]["thing"] = object()
        try:
            await start(send)
            await body(send, b"ok")
        except DataError:
            await start(send, 500)
            await body(send, b"sorry")

    await site.return_later()
    answer = await site.visit(app)
    assert (answer.status, answer.body) == (500, b"sorry")
    assert len(answer.all("set-cookie")) == 1  # the rotation is not lost with the data


async def test_in_starlette_what_cannot_be_stored_is_a_500(site: Site) -> None:
    async def home(request: Request) -> Response:
        request.session["thing"] = object()
        return Response("ok")

    app = starlette(site, home)
    answer = Answer()
    with pytest.raises(DataError):  # its error page is sent, then the error goes on to the server's log
        await app(http_scope(), answer.receive, answer.send)
    assert answer.status == 500
    assert answer.all("set-cookie") == []


async def test_what_cannot_be_stored_while_streaming_ends_the_stream(site: Site) -> None:
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send)
        await body(send, b"a", more=True)
        scope["session"]["thing"] = object()
        await body(send, b"b", more=True)
        await body(send)

    await site.return_later()
    answer = Answer()
    with pytest.raises(DataError):
        await site.behind(app)(site.request(), answer.receive, answer.send)
    assert answer.body == b"ab"
    assert answer.messages[-1]["more_body"]  # the client sees that the end is missing


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_head_gets_the_headers_of_get(site: Site, method: str) -> None:
    await site.return_later()
    answer = await site.visit(answering(nothing), method=method)
    assert len(answer.all("set-cookie")) == 1
    assert answer.all("cache-control") == NO_STORE


@pytest.mark.parametrize("status", [301, 302, 303, 304, 307])
async def test_redirects_and_304_store_and_carry_the_token(site: Site, status: int) -> None:
    await site.return_later()
    answer = await site.visit(answering(lambda session: session.update(a=1), status, ("location", "/next")))
    assert answer.status == status
    assert answer.all("location") == ["/next"]
    assert len(answer.all("set-cookie")) == 1
    assert await site.stored() == {"basket": ["tea"], "a": 1}


# --------------------------------------------------------------------------------------------------- streams, Starlette


def starlette(site: Site, *endpoints: Callable[[Request], Any]) -> Starlette:
    """An application with a route per function, under its name."""
    routes = [Route(f"/{endpoint.__name__}" if index else "/", endpoint) for index, endpoint in enumerate(endpoints)]
    return Starlette(routes=routes, middleware=[Middleware(SessionMiddleware, engine=site.engine)])


@pytest.mark.parametrize("new", [False, True])
async def test_a_stream_stores_before_during_and_after(site: Site, new: bool) -> None:
    async def home(request: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            request.session["before"] = True
            yield b"a"
            site.browser.jar.receive(answer.headers)
            seen.append(await site.stored())
            request.session["during"] = True
            yield b"b"

        async def background() -> None:
            assert not answer.messages[-1]["more_body"]
            seen.append(await site.stored())
            request.session["after"] = True

        return StreamingResponse(chunks(), background=BackgroundTask(background))

    seen: list[dict[str, Any]] = []
    before: dict[str, Any] = {}
    if not new:
        await site.return_later()
        before = await site.stored()
    answer = Answer()
    await starlette(site, home)(site.request(), answer.receive, answer.send)

    assert answer.body == b"ab"
    assert seen == [before | {"before": True}, before | {"before": True, "during": True}]
    assert await site.stored() == before | {"before": True, "during": True, "after": True}


async def test_a_log_in_cannot_come_after_the_headers(site: Site) -> None:
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send)
        await body(send, b"a", more=True)
        scope["session"].renew("user:1")
        await body(send)

    await site.return_later()
    await site.visit(app)
    assert EventKind.DROPPED_RENEWAL in site.happened()
    assert (await site.engine.open(site.browser.jar.header())).subject is None


async def test_the_session_of_a_starlette_request(site: Site) -> None:
    async def home(request: Request) -> Response:
        request.session["visits"] = request.session.get("visits", 0) + 1
        return JSONResponse(request.session)

    async def leave(request: Request) -> Response:
        assert isinstance(request.session, Session)
        request.session.destroy()
        return RedirectResponse("/", 303)

    app = starlette(site, home, leave)
    bodies: list[bytes] = []
    for path in ("/", "/", "/leave", "/"):
        answer = await call(app, path, headers=site.headers())
        site.browser.jar.receive(answer.headers)
        assert answer.all("vary") == ["Cookie"]
        bodies.append(answer.body)
    assert bodies == [b'{"visits":1}', b'{"visits":2}', b"", b'{"visits":1}']


# ----------------------------------------------------------------------------------------------------- reading requests


async def test_cookie_headers_that_http2_has_split(site: Site) -> None:
    await site.return_later()
    cookie = site.browser.jar.header()
    assert cookie is not None
    app = site.behind(answering(lambda session: seen.append(session.copy())))
    seen: list[dict[str, Any]] = []
    for headers in (
        [("cookie", "theme=dark"), ("cookie", cookie), ("cookie", "lang=de")],
        [("cookie", f"theme=dark; {cookie}"), ("cookie", "caf\xe9=\xfc")],
        [("cookie", cookie), ("cookie", cookie)],
        [("cookie", "__Host-session=forged"), ("cookie", cookie)],
    ):
        await call(app, headers=headers)
    assert seen == [{"basket": ["tea"]}] * 4


LARGE = [
    ("POST", [("content-length", "65537")], Verdict.LATE),
    ("POST", [("transfer-encoding", "chunked")], Verdict.LATE),
    ("POST", [], Verdict.LATE),
    ("GET", [("transfer-encoding", "chunked")], Verdict.LATE),
    ("PUT", [("content-length", "9" * 30)], Verdict.LATE),
    ("POST", [("content-length", "65536")], Verdict.COPIED),
    ("GET", [], Verdict.COPIED),
    ("HEAD", [], Verdict.COPIED),
]


@pytest.mark.parametrize(("method", "headers", "verdict"), LARGE)
async def test_an_upload_that_was_overtaken_is_late_not_copied(method: str, headers: Headers, verdict: Verdict) -> None:
    site = Site(rotation=Rotation(ttl=5, window=2, grace=5))
    await site.return_later()
    overtaken = site.browser.jar.copy()
    for _ in range(site.engine.terms.rotation.accepted):
        await site.visit(answering(nothing))
        site.clock.advance(6)
    cookie = overtaken.header()
    assert cookie is not None
    seen: list[Verdict] = []
    app = site.behind(answering(lambda session: seen.append(session.verdict)))
    answer = await call(app, method=method, headers=[("cookie", cookie), *headers])
    assert seen == [verdict]
    assert answer.all("set-cookie") == []


# -------------------------------------------------------------------------------------------------------------- outages


async def test_an_outage_before_the_application(site: Site) -> None:
    async def app(*_given: object) -> None:
        raise AssertionError("it must not be asked")

    await site.return_later()
    site.store.around = away
    answer = await site.visit(app)
    assert answer.status == 503
    assert answer.all("retry-after") == ["5"]
    assert answer.all("cache-control") == NO_STORE
    assert answer.all("set-cookie") == []
    assert answer.all("content-length") == [str(len(answer.body))]
    assert answer.types == ["start", "body"]


async def test_routes_may_go_on_without_a_session(site: Site) -> None:
    def handler(session: Session) -> None:
        seen.append((session.verdict, session.copy()))
        session["a"] = 1

    seen: list[tuple[Verdict, dict[str, Any]]] = []
    await site.begin()
    site.store.around = away
    for on_outage in ("anonymous", lambda _scope: "anonymous"):
        answer = await site.visit(answering(handler), on_outage=on_outage)
        assert (answer.status, answer.all("set-cookie")) == (200, [])
    assert (await site.visit(answering(handler), on_outage=lambda _scope: "raise")).status == 503
    assert seen == [(Verdict.UNAVAILABLE, {})] * 2
    assert site.happened() == [EventKind.STORE_FAILED, EventKind.DROPPED_WRITE] * 2


async def test_without_a_cookie_an_outage_goes_unnoticed(site: Site) -> None:
    site.store.around = away
    assert (await site.visit(answering(len))).status == 200


async def test_an_outage_at_the_commit_replaces_the_response(site: Site) -> None:
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        scope["session"]["a"] = 1
        site.store.around = away
        await start(send, 200, ("content-length", "2"), ("set-cookie", "theme=dark"))
        await body(send, b"a", more=True)
        scope["session"]["b"] = 2
        await body(send, b"b")
        scope["session"]["c"] = 3

    await site.return_later()
    cookie = site.browser.jar.header()
    answer = await site.visit(app)
    assert answer.status == 503
    assert answer.all("retry-after") == ["5"]
    assert answer.all("set-cookie") == []
    assert answer.types == ["start", "body"]
    assert b"a" != answer.body != b"ab"
    assert site.store.take() == ["load", "update"]
    assert site.browser.jar.header() == cookie


async def test_a_rotation_that_fails_is_no_outage(site: Site) -> None:
    def handler(session: Session) -> None:
        assert session["basket"] == ["tea"]
        site.store.around = away

    await site.return_later()
    answer = await site.visit(answering(handler))
    assert answer.status == 200
    assert answer.all("set-cookie") == []
    assert site.happened() == [EventKind.STORE_FAILED]


async def test_an_outage_while_streaming_ends_the_stream(site: Site) -> None:
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        await start(send)
        await body(send, b"a", more=True)
        site.store.around = away
        scope["session"]["a"] = 1
        await body(send)

    await site.return_later()
    answer = Answer()
    with pytest.raises(StoreUnavailable):
        await site.behind(app)(site.request(), answer.receive, answer.send)
    assert answer.types == ["start", "body"]
    assert answer.messages[-1]["more_body"]


# -------------------------------------------------------------------------------------------------- cancelled requests


async def test_a_commit_outlives_its_cancelled_request(site: Site) -> None:
    await site.return_later()
    gate = site.store.around = Gate("update")
    answer = Answer()
    app = site.behind(answering(lambda session: session.update(a=1)))
    request = asyncio.create_task(app(site.request(), answer.receive, answer.send))
    await gate.reached.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    await it_ends_when_the_gate_opens(site, gate)
    assert answer.messages == []


async def test_a_commit_outlives_a_cancel_scope(site: Site) -> None:
    async def time_out(scope: anyio.CancelScope) -> None:
        await gate.reached.wait()
        scope.deadline = anyio.current_time()

    await site.return_later()
    gate = site.store.around = Gate("update")
    answer = Answer()
    app = site.behind(answering(lambda session: session.update(a=1)))
    async with anyio.create_task_group() as group:
        with anyio.move_on_after(60) as scope:
            group.start_soon(time_out, scope)
            await app(site.request(), answer.receive, answer.send)
        assert scope.cancelled_caught
        await it_ends_when_the_gate_opens(site, gate)
    assert answer.messages == []


async def it_ends_when_the_gate_opens(site: Site, gate: Gate) -> None:
    closing = asyncio.create_task(site.engine.close())
    assert (await asyncio.wait([closing], timeout=0))[0] == set()  # it waits for the commit
    gate.opened.set()
    await closing
    assert await site.stored() == {"basket": ["tea"], "a": 1}


@pytest.mark.parametrize("new", [False, True])
async def test_a_client_that_leaves_during_the_commit_takes_nothing_with_it(site: Site, new: bool) -> None:
    """Starlette ends a stream whose client has gone, and then runs the background task."""

    async def home(request: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            request.session["before"] = True
            yield b"a"
            raise AssertionError("nobody reads it any more")

        async def background() -> None:
            request.session["after"] = True
            gate.opened.set()

        return StreamingResponse(chunks(), background=BackgroundTask(background))

    async def leave() -> None:
        await gate.reached.wait()
        answer.gone.set()

    if not new:
        await site.return_later()
    gate = site.store.around = Gate("create" if new else "update")
    answer = Answer()
    async with asyncio.TaskGroup() as group:
        group.create_task(leave())
        await starlette(site, home)(site.request(), answer.receive, answer.send)

    (record,) = [record async for record in site.store.find()]
    stored = await site.store.load(record.id)
    assert stored is not None
    assert b"before" in stored.data
    assert b"after" in stored.data


async def test_a_request_cancelled_before_the_commit_stores_nothing(site: Site) -> None:
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        scope["session"]["a"] = 1
        await start(send)
        waiting.set()
        await asyncio.Event().wait()

    await site.return_later()
    waiting = asyncio.Event()
    answer = Answer()
    request = asyncio.create_task(site.behind(app)(site.request(), answer.receive, answer.send))
    await waiting.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert answer.messages == []
    assert site.store.take() == ["load"]


# ---------------------------------------------------------------------------------------------- after the answer


async def test_after_response_the_write_is_over_when_the_application_has_returned() -> None:
    site = Site(write="after_response")
    await site.begin()
    site.store.around = gate = Gate("update")
    visit = asyncio.create_task(site.visit(answering(lambda session: session.update(a=1))))
    await gate.reached.wait()
    for _ in range(20):  # steps, in which it could return
        await asyncio.sleep(0)
    assert not visit.done()  # the response is gone; whoever ends the event loop now would lose what it stored
    gate.opened.set()
    await visit
    assert (await site.stored())["a"] == 1


async def test_after_response_the_write_is_over_when_the_engine_is_closed() -> None:
    site = Site(write="after_response")
    await site.begin()
    gate = site.store.around = Gate("update")
    answer = Answer()
    app = site.behind(answering(lambda session: session.update(a=1)))
    request = asyncio.create_task(app(site.request(), answer.receive, answer.send))
    await gate.reached.wait()
    assert answer.types == ["start", "body"]
    await it_ends_when_the_gate_opens(site, gate)
    await request


# ----------------------------------------------------------------------------------------------------------- WebSockets


class Socket(Answer):
    """A browser's end of a WebSocket.

    Args:
        site: whose.
        refusable: the server can refuse a handshake with a response.
        texts: what the browser sends before it leaves.
    """

    def __init__(self, site: Site, *, refusable: bool = False, texts: int = 1) -> None:
        super().__init__()
        text: Message = {"type": "websocket.receive", "text": "hello"}
        self.requests = [{"type": "websocket.connect"}, *[text] * texts, {"type": "websocket.disconnect", "code": 1001}]
        self.scope: Scope = {
            **http_scope(headers=site.headers()),
            "type": "websocket",
            "scheme": "wss",
            "extensions": {"websocket.http.response": {}} if refusable else None,
        }
        del self.scope["method"]

    async def talk(self, app: Application) -> None:
        """The connection, from the handshake to its end."""
        await app(self.scope, self.receive, self.send)

    def tokens(self, kind: str = "websocket.accept") -> int:
        """How many cookies the handshake's answer sets."""
        (message,) = [message for message in self.messages if message["type"] == kind]
        return sum(name == b"set-cookie" for name, _ in message["headers"])


def chatting(use: Callable[[Session], object]) -> Application:
    """An application that does something with the session at each message, and saves it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        while (await receive())["type"] == "websocket.receive":
            use(scope["session"])
            saved = await scope["session"].save()
            await send({"type": "websocket.send", "text": str(saved)})

    return app


async def test_a_handshake_carries_the_token_and_messages_are_saved(site: Site) -> None:
    await site.return_later()
    socket = Socket(site, texts=3)
    await socket.talk(site.behind(chatting(lambda session: session.increment("lines"))))
    assert socket.tokens() == 1
    assert [message["text"] for message in socket.messages[1:]] == ["True"] * 3
    assert site.store.take() == ["load", "update", "update", "update", "update"]
    assert (await site.stored())["lines"] == 3


async def test_what_a_socket_has_not_saved_is_written_at_its_end(site: Site) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept", "headers": [(b"x-own", b"1")]})
        while (await receive())["type"] != "websocket.disconnect":
            scope["session"].increment("lines")

    await site.begin()
    socket = Socket(site, texts=3)
    await socket.talk(site.behind(app))
    assert socket.messages == [{"type": "websocket.accept", "headers": [(b"x-own", b"1")]}]
    assert (await site.stored())["lines"] == 4  # the first message is the handshake


async def test_a_session_that_begins_with_the_handshake(site: Site) -> None:
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        scope["session"]["name"] = "ann"
        await send({"type": "websocket.accept"})

    socket = Socket(site)
    await socket.talk(site.behind(app))
    assert socket.tokens() == 1


async def test_a_socket_notices_that_its_session_has_ended(site: Site) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        await site.engine.revoke(scope["session"].id)
        scope["session"]["a"] = 1
        saved.append(await scope["session"].save())

    saved: list[bool] = []
    await site.begin()
    await Socket(site).talk(site.behind(app))
    assert saved == [False]
    assert EventKind.DROPPED_WRITE in site.happened()


@pytest.mark.parametrize("refusable", [True, False])
async def test_an_outage_before_the_handshake(site: Site, refusable: bool) -> None:
    await site.begin()
    site.store.around = away
    socket = Socket(site, refusable=refusable)
    await socket.talk(site.behind(chatting(nothing)))
    assert socket.requests[0]["type"] == "websocket.receive"  # the handshake was taken before it was refused
    if refusable:
        assert [message["type"] for message in socket.messages] == [
            "websocket.http.response.start",
            "websocket.http.response.body",
        ]
        assert socket.messages[0]["status"] == 503
        assert (b"retry-after", b"5") in socket.messages[0]["headers"]
    else:
        assert [(message["type"], message["code"]) for message in socket.messages] == [("websocket.close", 1013)]


async def test_an_outage_at_the_handshake(site: Site) -> None:
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        site.store.around = away
        scope["session"]["name"] = "ann"
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "hello"})

    socket = Socket(site)
    await socket.talk(site.behind(app))
    assert [message["type"] for message in socket.messages] == ["websocket.close"]


async def test_a_refused_handshake_carries_the_token_too(site: Site) -> None:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "websocket.http.response.start", "status": 403, "headers": []})
        assert socket.messages == []
        await send({"type": "websocket.http.response.body", "body": b"no"})

    await site.return_later()
    socket = Socket(site, refusable=True)
    await socket.talk(site.behind(app))
    assert socket.tokens("websocket.http.response.start") == 1
    assert len(socket.messages) == 2


async def test_an_exception_on_a_socket_stores_nothing_more(site: Site) -> None:
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        scope["session"]["a"] = 1
        raise ZeroDivisionError

    await site.begin()
    with pytest.raises(ZeroDivisionError):
        await Socket(site).talk(site.behind(app))
    assert await site.stored() == {"basket": ["tea"]}


# ------------------------------------------------------------------------------------------------------------- lifespan


class Process(Answer):
    """A server process, from its start to its end."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
        self.scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}


async def test_the_lifespan_passes_untouched(site: Site) -> None:
    async def app(*given: object) -> None:
        seen.append(given)

    seen: list[tuple[object, ...]] = []
    process = Process()
    scope, receive, send = process.scope, process.receive, process.send
    before = dict(scope)
    await site.behind(app)(scope, receive, send)
    assert seen == [(scope, receive, send)]
    assert scope == before


@pytest.mark.parametrize("outcome", ["complete", "failed"])
async def test_the_engine_is_set_up_before_the_application_and_drained_after_it(outcome: str) -> None:
    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        assert site.store.take() == ["setup"]
        await send({"type": "lifespan.startup.complete"})
        site.store.around = gate
        await visit(site.behind(answering(lambda session: session.update(a=1))))
        await receive()
        stopped.set()
        await send({"type": f"lifespan.shutdown.{outcome}"})

    async def visit(app: SessionMiddleware) -> None:
        """A request that is answered, and whose write is still under way."""
        answer = Answer()
        running.append(asyncio.create_task(app(site.request(), answer.receive, answer.send)))
        await gate.reached.wait()

    site = Site(write="after_response")
    await site.begin()
    site.store.take()
    gate = Gate("update")
    stopped = asyncio.Event()
    running: list[asyncio.Task[None]] = []
    process = Process()
    serving = asyncio.create_task(site.behind(app, lifespan=True)(process.scope, process.receive, process.send))
    await stopped.wait()
    assert process.messages == [{"type": "lifespan.startup.complete"}]
    gate.opened.set()
    await serving
    await running[0]
    assert process.messages[1:] == [{"type": f"lifespan.shutdown.{outcome}"}]
    assert (await site.stored())["a"] == 1


async def test_a_set_up_that_fails_is_raised_in_the_applications_start_up(site: Site) -> None:
    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        await receive()
        raise AssertionError("it must not start")

    site.store.around = away
    process = Process()
    with pytest.raises(StoreUnavailable):
        await site.behind(app, lifespan=True)(process.scope, process.receive, process.send)
