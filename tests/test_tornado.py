"""The Tornado adapter, on Tornado's own server over real sockets."""

import asyncio
import gc
import os
import sys
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tornado import gen, httputil, netutil, web
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.httpserver import HTTPServer
from tornado.iostream import StreamClosedError
from tornado.template import DictLoader
from tornado.websocket import WebSocketClientConnection, WebSocketHandler, websocket_connect

from mongosession import Event, EventKind, MemoryStore, MongoStore, Session, SessionEngine, StoreUnavailable
from mongosession.testing import CountingStore, HandClock, Jar, seeded
from mongosession_tornado import with_session


class Handler(web.RequestHandler):
    """What an application's base class declares, for type checkers."""

    session: Session


class Page(Handler):
    """The session as a page, and whatever key the query names set to its value."""

    @with_session
    async def get(self) -> None:
        for key in self.request.arguments:
            self.session[key] = self.get_argument(key)
        self.write(dict(sorted(self.session.items())))


class World:
    """One engine over a store whose calls are counted, and applications that it serves."""

    def __init__(self, store: Any = None) -> None:
        self.store = CountingStore(store or MemoryStore())
        self.clock = HandClock()
        self.events: list[Event] = []
        self.opened: list[tuple[Any, dict[str, Any]]] = []
        self.log: list[tuple[int, str]] = []
        self.engine = _Spy(self)
        self._servers: list[HTTPServer] = []
        self._visitors: list[Visitor] = []

    def serve(self, *rules: Any, **settings: Any) -> "Visitor":
        """Start an application with these rules; ``/`` is always ``Page``. A visitor of it."""
        settings = {"session_engine": self.engine, "log_function": self._logged, **settings}
        server = HTTPServer(web.Application([*rules, ("/", Page)], **settings))
        (socket,) = sockets = netutil.bind_sockets(0, "127.0.0.1")
        server.add_sockets(sockets)
        self._servers.append(server)
        self._visitors.append(Visitor(f"127.0.0.1:{socket.getsockname()[1]}", self.clock))
        return self._visitors[-1]

    async def stop(self) -> None:
        for visitor in self._visitors:
            await visitor.leave()
        for server in self._servers:
            server.stop()
            await server.close_all_connections()

    def kinds(self) -> set[EventKind]:
        return {event.kind for event in self.events}

    def fail(self, *calls: str) -> None:
        """From now on the database does not answer these calls."""

        @asynccontextmanager
        async def around(call: str) -> AsyncGenerator[None]:
            if call in calls:
                raise StoreUnavailable("no primary", retry_after=7)
            yield

        self.store.around = around

    def hold(self, call: str) -> tuple[asyncio.Event, asyncio.Event]:
        """From now on this call waits. What is set when it began, and what to set so that it goes on."""
        began, goes_on = asyncio.Event(), asyncio.Event()

        @asynccontextmanager
        async def around(name: str) -> AsyncGenerator[None]:
            if name == call:
                began.set()
                await goes_on.wait()
            yield

        self.store.around = around
        return began, goes_on

    def _logged(self, handler: web.RequestHandler) -> None:
        self.log.append((handler.get_status(), handler.request.uri or ""))


class _Spy(SessionEngine):
    def __init__(self, world: World) -> None:
        super().__init__(
            world.store, keys=["k" * 32], clock=world.clock, random=seeded(1), on_event=world.events.append
        )
        self._opened = world.opened

    async def open(self, cookie: Any, **how: Any) -> Session:
        self._opened.append((cookie, how))
        return await super().open(cookie, **how)


class Visitor:
    """A browser: a jar, and requests that carry what it holds."""

    def __init__(self, address: str, clock: Callable[[], float]) -> None:
        self.address = address
        self.jar = Jar(clock)
        self._sockets: list[WebSocketClientConnection] = []

    async def ask(self, path: str = "/", method: str = "GET", **options: Any) -> httpx2.Response:
        headers = [*self.cookie(), *options.pop("headers", {}).items()]
        async with httpx2.AsyncClient(base_url=f"http://{self.address}", verify=False) as http:  # loads no certificates
            answer = await http.request(method, path, headers=headers, **options)
        self.jar.receive(answer.headers.multi_items())
        return answer

    async def read(self) -> Any:
        """What the session holds now."""
        answer = await self.ask()
        assert answer.status_code == 200
        return answer.json()

    def cookie(self) -> list[tuple[str, str]]:
        header = self.jar.header()
        return [] if header is None else [("Cookie", header)]

    async def connect(self, path: str) -> WebSocketClientConnection:
        request = HTTPRequest(f"ws://{self.address}{path}", headers=httputil.HTTPHeaders(dict(self.cookie())))
        self._sockets.append(await websocket_connect(request))
        return self._sockets[-1]

    async def leave(self) -> None:
        """Close what is open."""
        for socket in self._sockets:
            protocol = socket.protocol
            socket.close()
            if protocol is not None and not protocol.client_terminated:
                while await socket.read_message() is not None:
                    ...

    @asynccontextmanager
    async def raw(self, text: str) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection on which this has been sent, with the cookie in place of COOKIE."""
        host, _, port = self.address.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        cookie = "".join(f"{name}: {value}\n" for name, value in self.cookie())
        writer.write(text.replace("COOKIE\n", f"Host: x\n{cookie}\n").replace("\n", "\r\n").encode())
        try:
            yield reader, writer
        finally:
            writer.close()
            await writer.wait_closed()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.stop()


# ---------------------------------------------------------------------------------------------- where it may stand


class OnAsync(Handler):
    @with_session
    async def get(self, name: str) -> None:
        self.session[name] = 1


class OnPlain(Handler):
    @with_session()
    def get(self, name: str) -> None:
        self.session[name] = 1


class OnCoroutine(Handler):
    @with_session(tokens=True, on_outage="raise")
    @gen.coroutine
    def get(self, name: str) -> Any:
        yield gen.moment
        self.session[name] = 1


@with_session
class OnClass(Handler):
    def get(self, name: str) -> None:
        self.session[name] = 1


@pytest.mark.parametrize("handler", [OnAsync, OnPlain, OnCoroutine, OnClass])
async def test_it_stands_on_methods_and_classes(world: World, handler: type[Handler]) -> None:
    visitor = world.serve(("/set/(.*)", handler))
    answer = await visitor.ask("/set/tea")
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    await visitor.ask("/set/milk")
    assert await visitor.read() == {"tea": 1, "milk": 1}


async def test_a_class_is_open_to_current_user_and_authenticated(world: World) -> None:
    @with_session
    class Members(Handler):
        def get_current_user(self) -> str | None:
            return self.session.subject

        def prepare(self) -> None:
            assert self.current_user == self.session.subject

        @web.authenticated
        def get(self) -> None:
            self.write(self.current_user)

        def post(self) -> None:
            self.session.renew(subject="user:ann")

    visitor = world.serve(("/members", Members), login_url="/login")
    answer = await visitor.ask("/members")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/login?next=%2Fmembers")
    await visitor.ask("/members", "POST")
    assert (await visitor.ask("/members")).text == "user:ann"


async def test_a_method_needs_it_outermost(world: World, caplog: pytest.LogCaptureFixture) -> None:
    class Wrong(Handler):
        def get_current_user(self) -> str | None:
            return self.session.subject

        @web.authenticated
        @with_session
        def get(self) -> None: ...

        @with_session
        @web.authenticated
        def post(self) -> None: ...

    visitor = world.serve(("/wrong", Wrong))
    assert (await visitor.ask("/wrong")).status_code == 500
    assert "Wrong.session is not open" in caplog.text
    assert "outermost decorator, above @authenticated" in caplog.text
    assert (await visitor.ask("/wrong", "POST")).status_code == 403


async def test_the_engine_may_be_named(world: World) -> None:
    class Named(Handler):
        @with_session(engine=world.engine)
        def get(self) -> None:
            self.session["named"] = True

    visitor = world.serve(("/named", Named), session_engine=None)
    assert "Set-Cookie" in (await visitor.ask("/named")).headers


async def test_no_engine_is_an_error_that_says_how_to_name_one(world: World, caplog: pytest.LogCaptureFixture) -> None:
    visitor = world.serve(session_engine=None)
    assert (await visitor.ask()).status_code == 500
    assert "session_engine=" in caplog.text
    assert "@with_session(engine=...)" in caplog.text


@pytest.mark.parametrize("target", [None, int, "text", MemoryStore(), lambda self: (yield)])
def test_it_stands_on_nothing_else(target: Any) -> None:
    with pytest.raises(TypeError, match="with_session"):
        with_session()(target)


async def test_other_handlers_are_untouched(world: World) -> None:
    class Plain(Handler):
        def get(self) -> None:
            assert not hasattr(self, "session")
            assert type(self.request.connection).__module__.startswith("tornado.")
            self.write("plain")

    visitor = world.serve(("/plain", Plain))
    await visitor.ask("/?tea=1")
    world.store.take()
    answer = await visitor.ask("/plain")
    assert answer.text == "plain"
    assert not {"Set-Cookie", "Vary", "Cache-Control"} & {name.title() for name in answer.headers}
    assert world.store.take() == []


class Base(Handler):
    @with_session
    def get(self) -> None:
        self.session["base"] = True

    @with_session
    async def post(self) -> None:
        self.session["base"] = True


class Child(Base):
    @with_session
    def get(self) -> None:
        super().get()
        self.session["child"] = True

    @with_session
    async def post(self) -> None:
        await super().post()
        self.session["child"] = True

    @with_session
    async def put(self) -> None:
        await super().get()  # type: ignore[misc]  # a plain one, whose caller takes it for decorated
        await self.helper()

    @with_session
    async def helper(self) -> None:
        self.session["child"] = True


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
async def test_decorated_methods_that_call_each_other_open_once(world: World, method: str) -> None:
    visitor = world.serve(("/child", Child))
    await visitor.ask("/?tea=1")
    world.opened.clear()
    assert (await visitor.ask("/child", method)).status_code == 200
    assert len(world.opened) == 1
    assert await visitor.read() == {"tea": "1", "base": True, "child": True}


async def test_a_subclass_of_a_decorated_class_may_override_anything(world: World) -> None:
    subclasses: list[str] = []

    class Mixin(Handler):
        def post(self) -> None:
            self.session["mixin"] = self.session.get("prepared")

    @with_session
    class Above(Handler):
        def __init_subclass__(cls, **kwargs: Any) -> None:
            super().__init_subclass__(**kwargs)
            subclasses.append(cls.__name__)

        async def get(self) -> None:
            self.session["above"] = True

    class Below(Mixin, Above):
        def prepare(self) -> None:  # without super().prepare()
            self.session["prepared"] = True

        async def get(self) -> None:
            await super().get()
            await self.finish()
            self.session["below"] = True

    class Left(Below): ...

    class Right(Below):
        def put(self) -> None:
            self.session["right"] = True

    class Both(Left, Right): ...

    assert subclasses == ["Below", "Left", "Right", "Both"]
    visitor = world.serve(("/below", Below), ("/both", Both))
    await visitor.ask("/below")
    await visitor.ask("/below", "POST")
    assert (await visitor.ask("/below", "PUT")).status_code == 405
    await visitor.ask("/both", "PUT")
    assert await visitor.read() == {"above": True, "below": True, "mixin": True, "prepared": True, "right": True}


# -------------------------------------------------------------------------------------- the write precedes the answer


def ends_with(end: Callable[[Handler], Awaitable[None] | None]) -> type[Handler]:
    """A handler that stores something, and ends its response in this way."""

    class Ending(Handler):
        @with_session
        async def get(self) -> None:
            self.session["stored"] = True
            result = end(self)
            if result is not None:
                await result

    return Ending


def raises(error: Exception) -> Callable[[Handler], None]:
    def end(_handler: Handler) -> None:
        raise error

    return end


def forgets(how: Callable[[Handler], Awaitable[None]]) -> Callable[[Handler], None]:
    def end(handler: Handler) -> None:
        _ = how(handler)

    return end


ENDS: dict[str, tuple[int, Callable[[Handler], Any]]] = {
    "nothing": (200, lambda handler: None),
    "write": (200, lambda handler: handler.write({"a": 1})),
    "finish": (200, forgets(lambda handler: handler.finish("bye"))),
    "await finish": (200, lambda handler: handler.finish("bye")),
    "render": (200, lambda handler: handler.render("page.html", session=handler.session)),
    "redirect": (302, lambda handler: handler.redirect("/")),
    "send_error": (404, lambda handler: handler.send_error(404)),
    "raise Finish": (200, raises(web.Finish("bye"))),
    "raise HTTPError": (403, raises(web.HTTPError(403))),
    "flush": (200, lambda handler: handler.flush()),
    "forgotten flush": (200, forgets(lambda handler: handler.flush())),
}


@pytest.mark.parametrize("end", ENDS)
async def test_the_write_precedes_the_answer(world: World, tmp_path: Path, end: str) -> None:
    (tmp_path / "page.html").write_text("{{ session['stored'] }}")
    status, how = ENDS[end]
    visitor = world.serve(("/end", ends_with(how)), template_path=str(tmp_path))
    began, goes_on = world.hold("create")
    request = asyncio.create_task(visitor.ask("/end"))
    await began.wait()
    for _ in range(3):  # the server has time for others
        await Visitor(visitor.address, world.clock).ask()
    assert not request.done()
    assert world.log == [(200, "/")] * 3
    goes_on.set()
    answer = await request
    assert answer.status_code == status
    assert (answer.headers["Vary"], answer.headers["Cache-Control"]) == ("Cookie", "no-store")
    assert await visitor.read() == {"stored": True}
    assert world.log[3] == (status, "/end")


async def test_headers_of_the_handler_stay(world: World) -> None:
    class Own(Handler):
        @with_session
        def get(self) -> None:
            self.set_cookie("colour", "green")
            self.set_header("Vary", "Accept")
            self.set_header("Cache-Control", "max-age=60")
            self.session["stored"] = True
            self.write("x" * 2000)

    visitor = world.serve(("/own", Own), compress_response=True)
    answer = await visitor.ask("/own", headers={"Accept-Encoding": "gzip"})
    assert answer.text == "x" * 2000
    assert answer.headers.get_list("Cache-Control") == ["no-store"]
    assert set(answer.headers["Vary"].replace(" ", "").split(",")) == {"Accept", "Accept-Encoding", "Cookie"}
    assert {line.partition("=")[0] for line in answer.headers.get_list("Set-Cookie")} == {"colour", "__Host-session"}
    assert (await visitor.ask("/own")).headers.get_list("Cache-Control") == ["max-age=60"]


async def test_a_public_answer_carries_no_token(world: World) -> None:
    class Public(Handler):
        @with_session
        def get(self) -> None:
            self.set_header("Cache-Control", "public, max-age=60")

    visitor = world.serve(("/public", Public))
    await visitor.ask("/?tea=1")
    world.clock.advance(6)
    answer = await visitor.ask("/public")
    assert answer.headers["Cache-Control"] == "public, max-age=60"
    assert "Set-Cookie" not in answer.headers


async def test_a_response_may_go_on_and_end_while_its_commit_is_under_way(world: World) -> None:
    class Hasty(Handler):
        @with_session
        async def get(self) -> None:
            self.session["first"] = True
            self.write("one,")
            _ = self.flush()
            await began.wait()
            self.session["second"] = True
            self.write("two,")
            _ = self.flush()
            _ = self.finish("three")
            went_on.set()

    went_on = asyncio.Event()
    visitor = world.serve(("/hasty", Hasty))
    began, goes_on = world.hold("create")
    request = asyncio.create_task(visitor.ask("/hasty"))
    await went_on.wait()
    await Visitor(visitor.address, world.clock).ask()
    goes_on.set()
    answer = await request
    assert answer.text == "one,two,three"
    assert "Set-Cookie" in answer.headers
    assert await visitor.read() == {"first": True, "second": True}


@with_session
class Stream(Handler):
    steps: asyncio.Queue[str]  # what the test lets the handler do next
    at: asyncio.Queue[str]  # where the handler is

    def initialize(self, **queues: Any) -> None:
        self.__dict__.update(queues)

    async def get(self) -> None:
        self.session["first"] = True
        self.write("one,")
        await self.flush()
        with pytest.raises(Exception, match="Cannot redirect"):
            self.redirect("/")
        self.session["second"] = True
        while (step := await self.steps.get()) != "end":
            self.write(f"{step},")
            await self.flush()
            self.at.put_nowait(step)
        self.write("end")

    def on_connection_close(self) -> None:
        self.at.put_nowait("closed")


def streaming() -> tuple[Any, asyncio.Queue[str], asyncio.Queue[str]]:
    queues: tuple[asyncio.Queue[str], asyncio.Queue[str]] = (asyncio.Queue(), asyncio.Queue())
    return ("/stream", Stream, {"steps": queues[0], "at": queues[1]}), *queues


async def test_a_stream_sends_the_cookie_first_and_writes_the_rest_at_its_end(world: World) -> None:
    rule, steps, _ = streaming()
    visitor = world.serve(rule)
    async with visitor.raw("GET /stream HTTP/1.1\nCOOKIE\n") as (reader, _):
        head = await reader.readuntil(b"\r\n\r\n")
        fields = [(line.partition(": ")[0], line.partition(": ")[2]) for line in head.decode().splitlines()[1:]]
        visitor.jar.receive(fields)
        assert ("Transfer-Encoding", "chunked") in fields
        assert await reader.readuntil(b"one,\r\n")
        assert await visitor.read() == {"first": True}
        for step in ("two", "end"):
            steps.put_nowait(step)
        rest = await reader.readuntil(b"0\r\n\r\n")
        assert rest == b"4\r\ntwo,\r\n3\r\nend\r\n0\r\n\r\n"
    assert await visitor.read() == {"first": True, "second": True}


@pytest.mark.parametrize(
    ("error", "kept"),
    [(ValueError(), False), (web.HTTPError(502), False), (web.HTTPError(404), True), (web.Finish(), True)],
)
async def test_what_came_after_the_headers_is_discarded_as_before_them(
    world: World, error: Exception, kept: bool
) -> None:
    class Breaking(Handler):
        @with_session
        async def get(self) -> None:
            self.session["first"] = True
            await self.flush()
            self.session["second"] = True
            raise error

    visitor = world.serve(("/breaking", Breaking))
    assert (await visitor.ask("/breaking")).status_code == 200
    assert await visitor.read() == {"first": True, **({"second": True} if kept else {})}


async def test_headers_set_after_a_flush_are_too_late(world: World) -> None:
    class Late(Handler):
        @with_session
        def get(self) -> None:
            self.session["stored"] = True
            _ = self.flush()
            self.set_header("X-Late", "1")

    visitor = world.serve(("/late", Late))
    answer = await visitor.ask("/late")
    assert "Set-Cookie" in answer.headers
    assert "X-Late" not in answer.headers


async def test_a_client_that_leaves_a_stream_loses_nothing(world: World) -> None:
    rule, steps, at = streaming()
    visitor = world.serve(rule)
    await visitor.ask("/?tea=1")
    async with visitor.raw("GET /stream HTTP/1.1\nCOOKIE\n") as (reader, _):
        await reader.readuntil(b"one,\r\n")
    assert await at.get() == "closed"
    began, goes_on = world.hold("update")
    steps.put_nowait("two")  # flush() raises StreamClosedError
    await began.wait()
    goes_on.set()
    await world.engine.close()
    assert await visitor.read() == {"tea": "1", "first": True, "second": True}


async def test_a_session_that_begins_after_the_headers_is_dropped_with_an_event(world: World) -> None:
    class Late(Handler):
        @with_session
        async def get(self) -> None:
            await self.flush()
            self.session["stored"] = True

    visitor = world.serve(("/late", Late))
    assert (await visitor.ask("/late")).status_code == 200
    assert world.kinds() == {EventKind.DROPPED_WRITE}


async def test_work_after_finish_is_written(world: World) -> None:
    class Early(Handler):
        @with_session
        async def get(self) -> None:
            self.session["before"] = True
            await self.finish("bye")
            self.session["after"] = True

    visitor = world.serve(("/early", Early))
    began, goes_on = world.hold("update")
    assert (await visitor.ask("/early")).text == "bye"
    await began.wait()
    goes_on.set()
    await world.engine.close()
    assert await visitor.read() == {"before": True, "after": True}


@pytest.mark.parametrize("streams", [False, True])
async def test_on_finish_may_store_something(world: World, streams: bool) -> None:
    class Counted(Handler):
        @with_session
        async def get(self) -> None:
            self.session["got"] = True
            if streams:
                await self.flush()

        def on_finish(self) -> None:
            self.session["finished"] = True

    visitor = world.serve(("/counted", Counted))
    await visitor.ask("/counted")
    assert await visitor.read() == {"got": True, "finished": True}


async def test_what_follows_finish_is_as_in_tornado(world: World) -> None:
    class Twice(Handler):
        @with_session
        async def get(self) -> None:
            self.session["stored"] = True
            _ = self.finish("once")
            for again in (self.finish, lambda: self.write("more"), lambda: self.render("page.html")):
                with pytest.raises(RuntimeError, match=r"after finish|called twice"):
                    again()
            with pytest.raises(Exception, match="Cannot redirect"):
                self.redirect("/")
            passed.set()

    passed = asyncio.Event()
    visitor = world.serve(("/twice", Twice))
    assert (await visitor.ask("/twice")).text == "once"
    assert passed.is_set()
    assert await visitor.read() == {"stored": True}


async def test_the_connection_keeps_alive_and_answers_in_order(world: World) -> None:
    visitor = world.serve()
    await visitor.ask("/?tea=1")
    request = "GET /?n={} HTTP/1.1\nCOOKIE\n"
    async with visitor.raw("".join(request.format(n) for n in "123")) as (reader, _):
        for n in "123":
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK")
            assert f'"n": "{n}"'.encode() in await reader.readuntil(b"}")


async def test_a_fallback_that_writes_to_the_connection_itself(world: World) -> None:
    @with_session
    class Fallback(web.FallbackHandler):
        session: Session

        def prepare(self) -> None:
            self.session["stored"] = True
            super().prepare()

    def fallback(request: httputil.HTTPServerRequest) -> None:
        assert request.connection is not None
        headers = httputil.HTTPHeaders({"Content-Length": "2"})
        _ = request.connection.write_headers(httputil.ResponseStartLine("", 200, "OK"), headers, b"hi")
        request.connection.finish()

    visitor = world.serve(("/fallback", Fallback, {"fallback": fallback}))
    assert (await visitor.ask("/fallback")).text == "hi"
    assert await visitor.read() == {"stored": True}
    assert world.log == [(200, "/")]  # the fallback logs for itself


# --------------------------------------------------------------------------------------------------- when things fail


async def test_an_exception_is_a_500_that_stores_nothing(world: World) -> None:
    class Broken(Handler):
        @with_session
        def get(self) -> None:
            self.session["stored"] = True
            raise ValueError("broken")

    visitor = world.serve(("/broken", Broken))
    await visitor.ask("/?tea=1")
    answer = await visitor.ask("/broken")
    assert (answer.status_code, answer.headers["Vary"]) == (500, "Cookie")
    assert "500: Internal Server Error" in answer.text
    assert await visitor.read() == {"tea": "1"}


class Own503(Handler):
    """Has an error page and default headers of its own."""

    def set_default_headers(self) -> None:
        self.set_header("Access-Control-Allow-Origin", "*")

    def write_error(self, status_code: int, **_: Any) -> None:
        self.write(f"sorry, {status_code}")


class MethodOf503(Own503):
    @with_session
    def get(self) -> None:
        self.write("never seen")


@with_session
class ClassOf503(Own503):
    def get(self) -> None:
        self.write("never seen")


@pytest.mark.parametrize("handler", [MethodOf503, ClassOf503])
async def test_an_outage_at_the_opening_is_a_503(
    world: World, handler: type[Handler], caplog: pytest.LogCaptureFixture
) -> None:
    visitor = world.serve(("/503", handler))
    await visitor.ask("/?tea=1")
    world.fail("load")
    answer = await visitor.ask("/503")
    assert (answer.status_code, answer.text, answer.headers["Retry-After"]) == (503, "sorry, 503", "7")
    assert (answer.headers["Cache-Control"], answer.headers["Access-Control-Allow-Origin"]) == ("no-store", "*")
    assert "Set-Cookie" not in answer.headers
    assert "no primary" in caplog.text
    world.fail()
    assert await visitor.read() == {"tea": "1"}


@with_session
class ErrorPage(Handler):
    """A template always asks who the current user is."""

    def get_current_user(self) -> str | None:
        session = getattr(self, "session", None)
        return None if session is None else session.subject

    def write_error(self, status_code: int, **_: Any) -> None:
        self.write(self.render_string("error.html", status=status_code))

    def get(self) -> None:
        self.session.renew(subject="ann")
        raise web.HTTPError(404)


async def test_an_error_page_may_come_before_the_session(world: World) -> None:
    """That of an unknown method, of a failed XSRF check, of an outage."""
    templates = DictLoader({"error.html": "sorry, {{ status }}, {{ current_user or 'whoever you are' }}"})
    visitor = world.serve(("/page", ErrorPage), template_loader=templates, xsrf_cookies=True)
    assert (await visitor.ask("/page")).text == "sorry, 404, ann"
    pages = [(await visitor.ask("/page", method)).text for method in ("POST", "OPTIONS")]
    world.fail("load")
    pages.append((await visitor.ask("/page")).text)
    assert pages == [f"sorry, {status}, whoever you are" for status in (403, 405, 503)]


async def test_a_route_may_go_on_without_the_database(world: World) -> None:
    class Degraded(Handler):
        @with_session(on_outage="anonymous")
        def get(self) -> None:
            self.session["lost"] = True
            self.write(self.session.verdict)

    visitor = world.serve(("/degraded", Degraded))
    await visitor.ask("/?tea=1")
    world.fail("load", "update", "create")
    answer = await visitor.ask("/degraded")
    assert (answer.status_code, answer.text) == (200, "unavailable")
    assert "Set-Cookie" not in answer.headers


class Storing(Own503):
    """Stores what the test asks for, and ends in one of the ways."""

    @with_session
    async def get(self, end: str) -> None:
        self.set_cookie("colour", "green")
        self.set_header("X-Own", "1")
        self.session["value"] = object() if "object" in self.request.arguments else "text"
        self.write("never seen")
        if end == "finish":
            _ = self.finish()
        if end == "stream":
            await self.flush()
            if self.request.method == "GET":  # as if the client had gone: there is nobody to stream to
                self.write("more")
                with pytest.raises(StreamClosedError):
                    await self.flush()

    head = get


@pytest.mark.parametrize("end", ["return", "finish", "stream"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_an_outage_at_the_commit_is_a_503(
    world: World, method: str, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    visitor = world.serve(("/storing/(.*)", Storing))
    await visitor.ask("/?tea=1")
    world.log.clear()
    world.fail("update")
    answer = await visitor.ask(f"/storing/{end}", method)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "7")
    assert answer.text == ("" if method == "HEAD" else "503: Service Unavailable")
    assert answer.headers["Content-Type"] == "text/plain; charset=UTF-8"
    assert (answer.headers["Cache-Control"], answer.headers["Access-Control-Allow-Origin"]) == ("no-store", "*")
    assert not {"set-cookie", "x-own"} & set(answer.headers)
    world.fail()
    assert await visitor.read() == {"tea": "1"}
    assert world.log[0] == (503, f"/storing/{end}")
    assert "no primary" in caplog.text


async def test_a_503_in_place_of_a_stream_leaves_the_connection_sound(world: World) -> None:
    visitor = world.serve(("/storing/(.*)", Storing))
    await visitor.ask("/?tea=1")
    world.fail("update")
    request = "GET /storing/stream HTTP/1.1\nCOOKIE\n"
    async with visitor.raw(request + request) as (reader, _):
        for _ in range(2):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            assert await reader.readexactly(24) == b"503: Service Unavailable"


async def test_after_a_503_nothing_is_stored_but_a_log_out_counts(world: World) -> None:
    class Going(Handler):
        @with_session
        async def get(self, on: str) -> None:
            self.session["stored"] = True
            await self.flush()
            world.fail()  # the database is back
            self.session["stored"] = "later"
            if on == "wrong":
                raise web.HTTPError(404)
            if on == "out":
                self.session.destroy()

        def on_finish(self) -> None:
            finished.set()

    finished = asyncio.Event()
    visitor = world.serve(("/going/(.*)", Going))
    await visitor.ask("/?tea=1")
    for on, left in (("on", {"tea": "1"}), ("wrong", {"tea": "1"}), ("out", {})):
        world.fail("update")
        assert (await visitor.ask(f"/going/{on}")).status_code == 503
        await finished.wait()
        finished.clear()
        assert await visitor.read() == left


async def test_an_error_that_cannot_be_answered_closes_the_connection(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    class Hopeless(Handler):
        def set_default_headers(self) -> None:
            if hasattr(self, "session"):
                raise ValueError("no headers")

        @with_session
        async def get(self) -> None:
            self.session["stored"] = True
            with pytest.raises(StreamClosedError):
                await self.flush()

    visitor = world.serve(("/hopeless", Hopeless))
    world.fail("create")
    with pytest.raises(httpx2.RemoteProtocolError):
        await visitor.ask("/hopeless")
    assert "ValueError: no headers" in caplog.text


@pytest.mark.parametrize("end", ["return", "finish"])
async def test_what_cannot_be_stored_is_a_500_that_names_the_key(
    world: World, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    visitor = world.serve(("/storing/(.*)", Storing))
    answer = await visitor.ask(f"/storing/{end}?object=1")
    assert (answer.status_code, answer.text) == (500, "500: Internal Server Error")
    assert "session['value']" in caplog.text
    assert "Set-Cookie" not in answer.headers
    assert world.log == [(500, f"/storing/{end}?object=1")]


async def test_a_rotation_survives_what_the_server_refuses(world: World) -> None:
    class Counting(Handler):
        @with_session
        async def get(self) -> None:
            self.session.increment("n")
            began.set()
            await goes_on.wait()

    began, goes_on = asyncio.Event(), asyncio.Event()
    visitor = world.serve(("/counting", Counting))
    await visitor.ask("/?tea=1")
    world.clock.advance(6)
    request = asyncio.create_task(visitor.ask("/counting"))
    await began.wait()
    other = Visitor(visitor.address, world.clock)
    other.jar = visitor.jar.copy()
    await other.ask("/?n=text")  # meanwhile the key becomes a text
    goes_on.set()
    answer = await request
    assert (answer.status_code, len(answer.headers.get_list("Set-Cookie"))) == (500, 1)
    assert await visitor.read() == {"tea": "1", "n": "text"}


async def test_an_outage_after_the_headers_is_logged_and_the_answer_complete(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    rule, steps, at = streaming()
    visitor = world.serve(rule)
    await visitor.ask("/?first=1")
    steps.put_nowait("two")
    request = asyncio.create_task(visitor.ask("/stream"))
    assert await at.get() == "two"
    world.fail("update")
    steps.put_nowait("end")
    answer = await request
    assert (answer.status_code, answer.text) == (200, "one,two,end")
    assert "no primary" in caplog.text


async def test_a_body_that_breaks_its_promise_is_logged_and_the_connection_closed(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    class Short(Handler):
        @with_session
        async def get(self, length: str) -> None:
            self.set_header("Content-Length", length)
            self.write("four")
            await self.flush()

    visitor = world.serve(("/length/(.*)", Short))
    for length in ("3", "5"):
        with pytest.raises(httpx2.RemoteProtocolError):
            await visitor.ask(f"/length/{length}")
    assert "more data than Content-Length" in caplog.text
    assert "less than Content-Length" in caplog.text


# -------------------------------------------------------------------------------------- what a request says of itself


async def test_head_options_and_not_modified(world: World) -> None:
    @with_session
    class Tagged(Handler):
        def get(self) -> None:
            self.session["seen"] = True
            self.write("tagged")

        head = get

        def options(self) -> None:
            self.set_status(204)

    visitor = world.serve(("/tagged", Tagged))
    first = await visitor.ask("/tagged")
    again = await visitor.ask("/tagged", headers={"If-None-Match": first.headers["Etag"]})
    assert (again.status_code, again.content, again.headers["Vary"]) == (304, b"", "Cookie")
    head = await visitor.ask("/tagged", "HEAD")
    assert (head.status_code, head.content, head.headers["Content-Length"]) == (200, b"", "6")
    options = await visitor.ask("/tagged", "OPTIONS")
    assert (options.status_code, options.content) == (204, b"")
    assert "Vary" not in options.headers  # the session was not looked at


async def test_a_not_modified_answer_may_carry_a_token(world: World) -> None:
    visitor = world.serve()
    first = await visitor.ask("/?tea=1")
    world.clock.advance(6)
    again = await visitor.ask("/", headers={"If-None-Match": first.headers["Etag"]})
    assert (again.status_code, again.headers["Cache-Control"]) == (304, "no-store")
    assert "Set-Cookie" in again.headers


async def test_the_engine_is_told_what_the_request_says(world: World) -> None:
    class Upload(Handler):
        @with_session
        def post(self) -> None: ...

        @with_session(tokens=False, on_outage="anonymous")
        def put(self) -> None: ...

    async def told(method: str, **options: Any) -> dict[str, Any]:
        await visitor.ask("/upload", method, **options)
        return world.opened.pop()[1]

    async def chunks() -> AsyncIterator[bytes]:
        yield b"of unknown length"

    visitor = world.serve(("/upload", Upload))
    plain = {"tokens": True, "large_body": False, "on_outage": "raise"}
    assert await told("POST", content=b"x") == plain
    assert await told("POST", content=b"x" * 70_000) == {**plain, "large_body": True}
    assert await told("POST", content=chunks()) == {**plain, "large_body": True}
    assert await told("POST", headers={"Sec-Purpose": "prefetch;prerender"}) == {**plain, "tokens": False}
    assert await told("POST", headers={"Purpose": "prefetch"}) == {**plain, "tokens": False}
    assert await told("PUT", content=b"x") == {**plain, "tokens": False, "on_outage": "anonymous"}


async def test_every_cookie_header_counts(world: World) -> None:
    visitor = world.serve()
    await visitor.ask("/?tea=1")
    ((_, ours),) = visitor.cookie()
    async with visitor.raw(f"GET / HTTP/1.1\nHost: x\nCookie: a=1\nCookie: {ours}\n\n") as (reader, _):
        await reader.readuntil(b'{"tea": "1"}')
    assert world.opened[-1][0] == ["a=1", ours]


# ------------------------------------------------------------------------------------------------- bodies that stream


@with_session
@web.stream_request_body
class Upload(Handler):
    async def prepare(self) -> None:
        connection: Any = self.request.connection
        connection.set_max_body_size(10 * 2**20)  # Tornado's own connection hears it
        self.session["sizes"] = []
        if "refuse" in self.request.arguments:
            self.send_error(413)

    def data_received(self, chunk: bytes) -> None:
        self.session["sizes"].append(len(chunk))

    def post(self) -> None:
        self.write({"received": sum(self.session["sizes"])})


async def test_a_streamed_body_meets_an_open_session(world: World) -> None:
    visitor = world.serve(("/upload", Upload))
    body = b"x" * 300_000
    answer = await visitor.ask("/upload", "POST", content=body)
    assert answer.json() == {"received": len(body)}
    assert sum((await visitor.read())["sizes"]) == len(body)
    assert len(world.opened) == 2


@pytest.mark.parametrize("where", ["prepare", "data_received"])
async def test_a_body_refused_early_is_not_read_on(world: World, where: str) -> None:
    chunks: list[int] = []

    @with_session
    @web.stream_request_body
    class Refusing(Handler):
        def prepare(self) -> None:
            if where == "prepare":
                self.refuse()

        def data_received(self, chunk: bytes) -> None:
            chunks.append(len(chunk))
            self.refuse()

        def refuse(self) -> None:
            self.session["refused"] = True
            self.send_error(413)

    visitor = world.serve(("/upload", Refusing))
    began, goes_on = world.hold("create")
    request = f"POST /upload HTTP/1.1\nContent-Length: 1000000\nCOOKIE\n{'x' * 300_000}"
    with suppress(ConnectionResetError):  # by the server, which closes and leaves what it has not read
        async with visitor.raw(request) as (reader, _):
            await began.wait()
            for _ in range(3):  # the server has time to read on
                await Visitor(visitor.address, world.clock).ask()
            goes_on.set()
            await reader.read()
    assert world.log[-1] == (413, "/upload")
    assert len(chunks) == (where == "data_received")


async def test_data_received_alone_opens_a_session(world: World) -> None:
    @with_session
    @web.stream_request_body
    class Counting(Handler):
        def data_received(self, chunk: bytes) -> None:
            self.session["n"] = self.session.get("n", 0) + len(chunk)

        def put(self) -> None: ...

    visitor = world.serve(("/counting", Counting))
    assert (await visitor.ask("/counting", "PUT", content=b"x" * 100_000)).status_code == 200
    assert await visitor.read() == {"n": 100_000}


# --------------------------------------------------------------------------------------------------------- WebSockets


@with_session
class Socket(Handler, WebSocketHandler):
    notes: "asyncio.Queue[Any]"

    def initialize(self, notes: "asyncio.Queue[Any]") -> None:
        self.notes = notes

    def prepare(self) -> None:
        if "prepare" in self.request.arguments:
            self.session["prepared"] = True
        if "forbid" in self.request.arguments:
            raise web.HTTPError(403)

    async def open(self, *_: str, **__: str) -> None:
        self.notes.put_nowait("open")
        await self.write_message(dict(self.session))

    async def on_message(self, message: str | bytes) -> None:
        self.session["last"] = message
        if message == "wait":
            self.notes.put_nowait("waiting")
            await gone.wait()
        elif message != "keep":
            await self.write_message({"saved": await self.session.save()})

    def on_close(self) -> None:
        gone.set()
        if "leave" in self.request.arguments:
            self.session["left"] = self.close_code
        self.notes.put_nowait("close")


gone = asyncio.Event()


@pytest.fixture
def notes() -> "asyncio.Queue[Any]":
    gone.clear()
    return asyncio.Queue()


def sockets(notes: "asyncio.Queue[Any]") -> Any:
    return ("/socket", Socket, {"notes": notes})


async def test_a_handshake_brings_the_cookie(world: World, notes: "asyncio.Queue[Any]") -> None:
    visitor = world.serve(sockets(notes))
    socket = await visitor.connect("/socket?prepare=1")
    assert socket.headers is not None
    visitor.jar.receive(socket.headers.get_all())
    assert await socket.read_message() == '{"prepared": true}'
    assert await visitor.read() == {"prepared": True}
    world.clock.advance(6)
    rotated = await visitor.connect("/socket")
    assert rotated.headers is not None
    assert len(rotated.headers.get_list("Set-Cookie")) == 1
    assert rotated.headers["Cache-Control"] == "no-store"
    assert EventKind.ROTATED in world.kinds()


async def test_a_socket_saves_and_its_end_writes_the_rest(world: World, notes: "asyncio.Queue[Any]") -> None:
    visitor = world.serve(sockets(notes))
    await visitor.ask("/?tea=1")
    world.store.take()
    socket = await visitor.connect("/socket?leave=1")
    await socket.read_message()
    assert world.store.take() == ["load"]
    await socket.write_message("now")
    assert await socket.read_message() == '{"saved": true}'
    assert world.store.take() == ["update"]
    assert await visitor.read() == {"tea": "1", "last": "now"}
    await socket.write_message("keep")
    began, goes_on = world.hold("update")
    socket.close(1000)
    await began.wait()
    goes_on.set()
    await world.engine.close()
    assert await visitor.read() == {"tea": "1", "last": "keep", "left": 1000}


async def test_a_socket_whose_client_vanishes_loses_nothing(world: World, notes: "asyncio.Queue[Any]") -> None:
    visitor = world.serve(sockets(notes))
    await visitor.ask("/?tea=1")
    socket = await visitor.connect("/socket")
    await socket.write_message("wait")
    assert [await notes.get(), await notes.get()] == ["open", "waiting"]
    began, goes_on = world.hold("update")
    assert socket.protocol is not None
    assert socket.protocol.stream is not None
    socket.protocol.stream.close()  # without a closing handshake, in the midst of on_message
    gone.set()
    await began.wait()
    goes_on.set()
    await world.engine.close()
    assert await visitor.read() == {"tea": "1", "last": "wait"}


@pytest.mark.parametrize("how", ["renew", "destroy"])
async def test_a_socket_notices_on_save_that_its_session_changed_hands(
    world: World, notes: "asyncio.Queue[Any]", how: str
) -> None:
    class Other(Handler):
        @with_session
        def post(self) -> None:
            getattr(self.session, how)()

    visitor = world.serve(sockets(notes), ("/other", Other))
    await visitor.ask("/?tea=1")
    socket = await visitor.connect("/socket")
    await socket.read_message()
    await visitor.ask("/other", "POST")
    await socket.write_message("now")
    assert await socket.read_message() == '{"saved": false}'
    assert EventKind.DROPPED_WRITE in world.kinds()


async def test_a_request_that_is_no_handshake_is_answered(world: World, notes: "asyncio.Queue[Any]") -> None:
    visitor = world.serve(sockets(notes))
    answer = await visitor.ask("/socket?prepare=1")
    assert (answer.status_code, answer.text) == (400, 'Can "Upgrade" only to "WebSocket".')
    assert await visitor.read() == {"prepared": True}
    with pytest.raises(HTTPClientError, match="403"):
        await visitor.connect("/socket?forbid=1")
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    assert (await visitor.ask("/socket", headers=upgrade)).status_code == 400  # no key: refused while accepting
    assert (await visitor.ask("/socket", headers={**upgrade, "Sec-WebSocket-Version": "7"})).status_code in (400, 426)
    assert notes.empty()


@pytest.mark.parametrize("call", ["load", "update"])
async def test_an_outage_at_the_handshake_is_a_503(world: World, notes: "asyncio.Queue[Any]", call: str) -> None:
    visitor = world.serve(sockets(notes))
    await visitor.ask("/?tea=1")
    world.clock.advance(6)  # a rotation is due, too
    world.fail(call)
    world.store.take()
    with pytest.raises(HTTPClientError) as caught:
        await visitor.connect("/socket?prepare=1")
    assert caught.value.code == 503
    assert caught.value.response is not None
    assert caught.value.response.headers["Retry-After"] == "7"
    assert "Set-Cookie" not in caught.value.response.headers
    assert world.store.take().count(call) == 1  # the answer does not try again
    assert notes.empty()


async def test_a_client_that_leaves_during_the_handshake_is_not_opened(
    world: World, notes: "asyncio.Queue[Any]"
) -> None:
    visitor = world.serve(sockets(notes))
    await visitor.ask("/?tea=1")
    began, goes_on = world.hold("update")
    handshake = (
        "GET /socket?prepare=1 HTTP/1.1\nUpgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Version: 13\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nCOOKIE\n"
    )
    async with visitor.raw(handshake):
        await began.wait()
    assert await notes.get() == "close"
    goes_on.set()
    await world.engine.close()
    assert await visitor.read() == {"tea": "1", "prepared": True}
    assert notes.empty()


async def test_a_decorated_get_of_a_socket(world: World) -> None:
    class Method(Handler, WebSocketHandler):
        @with_session
        async def get(self, *args: Any, **kwargs: Any) -> None:
            self.session["got"] = True
            await super().get(*args, **kwargs)
            self.session["over"] = True
            over.set()

    over = asyncio.Event()
    visitor = world.serve(("/method", Method))
    socket = await visitor.connect("/method")
    assert socket.headers is not None
    visitor.jar.receive(socket.headers.get_all())
    assert await visitor.read() == {"got": True}
    began, goes_on = world.hold("update")
    socket.close()
    await began.wait()
    goes_on.set()
    await world.engine.close()
    assert await visitor.read() == {"got": True, "over": True}


# ------------------------------------------------------------------------------------------------------------- at large


async def test_a_handler_is_freed_with_its_response(world: World) -> None:
    freed: list[weakref.ref[Any]] = []

    class Freed(Handler):
        @with_session
        def get(self) -> None:
            self.session["n"] = 1
            freed.append(weakref.ref(self))

    visitor = world.serve(("/freed", Freed))
    await visitor.ask("/freed")
    gc.collect()
    gc.disable()  # no cycle may hold it, or a large body would stay until the collector runs
    try:
        await visitor.ask("/freed")
        await visitor.ask()
        assert freed[1]() is None
    finally:
        gc.enable()


class Form(Handler):
    @with_session
    def post(self) -> None:
        self.session["n"] = self.get_argument("n")
        self.redirect("/")


@pytest.fixture
async def real(collection: Any) -> AsyncIterator[World]:
    world = World(MongoStore(collection))
    await world.engine.setup()
    yield world
    await world.stop()
    await world.engine.close()


async def test_of_200_parallel_requests_no_write_is_lost(real: World) -> None:
    visitor = real.serve()
    await visitor.ask("/?start=1")
    real.clock.advance(6)  # the token is due as well
    async with httpx2.AsyncClient(base_url=f"http://{visitor.address}", timeout=60, verify=False) as http:
        headers = dict(visitor.cookie())
        answers = await asyncio.gather(*(http.get(f"/?k{n}=1", headers=headers) for n in range(200)))
    assert {answer.status_code for answer in answers} == {200}
    for answer in answers:
        visitor.jar.receive(answer.headers.multi_items())
    assert (await visitor.read()).keys() == {"start", *(f"k{n}" for n in range(200))}


async def test_200_redirects_read_what_was_written(real: World) -> None:
    visitor = real.serve(("/form", Form))
    read: list[str] = []
    async with httpx2.AsyncClient(base_url=f"http://{visitor.address}") as http:
        for n in range(200):
            answer = await http.post("/form", data={"n": str(n)}, headers=dict(visitor.cookie()))
            visitor.jar.receive(answer.headers.multi_items())
            read.append((await http.get(answer.headers["Location"], headers=dict(visitor.cookie()))).json()["n"])
    assert read == [str(n) for n in range(200)]


# -------------------------------------------------------------------------------------------------------- the examples


@asynccontextmanager
async def example(name: str, uri: str) -> AsyncGenerator[Visitor]:
    """Run an example in a process of its own, as its users do."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        f"examples.{name}",
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "MONGODB_URI": uri, "SESSION_KEY": "k" * 32, "PORT": "0"},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        line = (await process.stdout.readline()).decode()
        assert line.startswith("http://localhost:")
        visitor = Visitor(line.strip().removeprefix("http://"), time.time)
        yield visitor
        await visitor.leave()
    finally:
        process.terminate()
        await process.communicate()


async def test_the_example_of_today(mongod_uri: str) -> None:
    async with example("tornado_app", mongod_uri) as visitor:
        outside = await visitor.ask()
        assert (outside.status_code, outside.headers["Location"]) == (302, "/login?next=%2F")
        assert '<form method="post">' in (await visitor.ask("/login")).text
        assert (await visitor.ask("/login", "POST", data={"name": "ann"})).status_code == 303
        assert [(await visitor.ask()).text for _ in range(2)] == ["visit 1 by user:ann", "visit 2 by user:ann"]
        socket = await visitor.connect("/counter")
        await socket.write_message("hello")
        assert await socket.read_message() == "message 1"
        assert "Max-Age=0" in (await visitor.ask("/logout", "POST")).headers["Set-Cookie"]
        await socket.write_message("again")
        assert await socket.read_message() is None
        assert socket.close_code == 4401
        assert (await visitor.ask()).status_code == 302


async def test_the_example_of_2011(mongod_uri: str) -> None:
    async with example("tornado_2011", mongod_uri) as visitor:
        assert "<p>visit 1</p>" in (await visitor.ask()).text
        assert "<p>visit 2</p>" in (await visitor.ask()).text
        assert (await visitor.ask("/", "POST", data={"name": "ann"})).status_code == 303
        assert "<p>visit 3 by ann</p>" in (await visitor.ask()).text
        assert (await visitor.ask("/logout", "POST")).status_code == 303
        assert "<p>visit 1</p>" in (await visitor.ask()).text
