"""WSGI middleware: ``environ["mongosession"]`` is the session, and it is committed before the response's headers leave.

``start_response`` is held back until the first chunk of the body is there: what a handler stores before it goes with
the headers. What it stores later, while streaming, is written at the end.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from mongosession import Session, SessionEngine, StoreUnavailable
from mongosession.http import Routes, large_body, predicate, prefetch
from mongosession_wsgi.loop import LOOP

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class SessionMiddleware:
    """Puts the session of each request into its environ.

    Args:
        app: the WSGI application.
        make_engine: makes the engine, and the database client with it. It is called once per process, on the session's
            event loop, at the first request: so it survives servers that fork their workers.
        environ_key: where in the environ the session stands. Default ``"mongosession"``.
        skip: routes for which no session is opened. Path prefixes, or a predicate of the environ. Default none.
        tokenless: routes (likewise) for which a session is opened, but nothing rotates and no token is sent: for back
            ends that forward a browser's cookie and drop ``Set-Cookie``. Default none.
        on_outage: where the database is away: ``"raise"`` (default) answers 503 with ``Retry-After``; ``"anonymous"``
            goes on with an empty session that stores nothing.
    """

    def __init__(
        self,
        app: "WSGIApplication",
        make_engine: Callable[[], SessionEngine],
        *,
        environ_key: str = "mongosession",
        skip: "Routes[WSGIEnvironment]" = (),
        tokenless: "Routes[WSGIEnvironment]" = (),
        on_outage: Literal["raise", "anonymous"] = "raise",
    ) -> None:
        self.app = app
        self.environ_key = environ_key
        self._make_engine = make_engine
        self._skips = predicate(skip, _path)
        self._tokenless = predicate(tokenless, _path)
        self._on_outage: Literal["raise", "anonymous"] = on_outage
        self._engines: dict[int, SessionEngine] = {}
        self._lock = threading.Lock()

    @property
    def engine(self) -> SessionEngine:
        """This process's engine; made, and set up to be drained at exit, on first use."""
        with self._lock:
            pid = os.getpid()
            if pid not in self._engines:
                engine = LOOP.run(self._make)
                LOOP.at_exit(engine.close)
                self._engines = {pid: engine}
            return self._engines[pid]

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Serve one request."""
        if self._skips(environ):
            return self.app(environ, start_response)
        try:
            session = LOOP.run(partial(self._open, self.engine, environ))
        except StoreUnavailable as error:
            return _unavailable(error, start_response)
        environ[self.environ_key] = session
        return _Response(self.engine, session, start_response).of(self.app, environ)

    async def _make(self) -> SessionEngine:
        return self._make_engine()

    async def _open(self, engine: SessionEngine, environ: "WSGIEnvironment") -> Session:
        chunked = environ.get("HTTP_TRANSFER_ENCODING")
        return await engine.open(
            environ.get("HTTP_COOKIE"),
            tokens=not (
                self._tokenless(environ) or prefetch(environ.get("HTTP_SEC_PURPOSE"), environ.get("HTTP_PURPOSE"))
            ),
            large_body=large_body(environ["REQUEST_METHOD"], environ.get("CONTENT_LENGTH") or None, chunked),
            on_outage=self._on_outage,
        )


class _Response:
    """One response on its way out."""

    def __init__(self, engine: SessionEngine, session: Session, start_response: "StartResponse") -> None:
        self._engine = engine
        self._session = session
        self._start_response = start_response
        self._held: tuple[str, list[tuple[str, str]], Any] | None = None
        self._status = 200
        self._write: Callable[[bytes], object] | None = None  # the server's; there once the headers are out
        self._replaced: list[bytes] | None = None  # by a 503: the application's own body is dropped

    def of(self, app: "WSGIApplication", environ: "WSGIEnvironment") -> Iterator[bytes]:
        """The body that the application makes of this request."""
        body = app(environ, self._start)
        try:
            for chunk in body:
                self._answer()
                if self._replaced is not None:
                    break
                yield chunk
            self._answer()
            yield from self._replaced or ()
        except GeneratorExit:  # the client went away: what was stored for it stays stored
            self._commit_rest()
            raise
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()
        self._commit_rest()

    def _start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        if exc_info and self._write is not None:
            raise exc_info[1].with_traceback(exc_info[2])
        self._held, self._status = (status, headers, exc_info), int(status.partition(" ")[0])
        return self._write_now

    def _write_now(self, data: bytes) -> None:
        """The imperative way of old applications: the headers leave with the first call."""
        self._answer()
        if self._write is not None and self._replaced is None:
            self._write(data)

    def _answer(self) -> None:
        """Commit, and let the headers go; once."""
        if self._held is None:
            return
        (status, headers, exc_info), self._held = self._held, None
        own = ", ".join(value for name, value in headers if name.lower() == "cache-control")
        try:
            added = LOOP.run(
                partial(self._engine.commit, self._session, status=self._status, cache_control=own or None)
            )
        except StoreUnavailable as error:
            self._replaced = _unavailable(error, self._start_response)
            return
        if any(name == "Cache-Control" for name, _ in added):
            headers = [(name, value) for name, value in headers if name.lower() != "cache-control"]
        self._write = self._start_response(status, [*headers, *added], exc_info)

    def _commit_rest(self) -> None:
        if self._replaced is None:
            LOOP.run(partial(self._engine.commit, self._session, status=self._status, sent=True))


def _unavailable(error: StoreUnavailable, start_response: "StartResponse") -> list[bytes]:
    """The database is away: 503. No cookie is touched."""
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Cache-Control", "no-store"),
        ("Retry-After", str(error.retry_after)),
    ]
    start_response("503 Service Unavailable", headers)
    return [b"Service Unavailable"]


def _path(environ: "WSGIEnvironment") -> str:
    return f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}"
