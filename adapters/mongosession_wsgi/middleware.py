"""WSGI middleware: ``environ["mongosession"]`` is the session, committed before the response's headers leave."""

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal

from mongosession import Session, SessionEngine, StoreUnavailable
from mongosession.http import Routes, large_body, predicate, prefetch
from mongosession_wsgi.loop import TIMEOUT, here, wait
from mongosession_wsgi.response import Response, unavailable

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

OnOutage = Literal["raise", "anonymous"]


class SessionMiddleware:
    """Puts the session of each request into its environ.

    Args:
        app: the WSGI application.
        make_engine: makes the engine, and the database client with it. It is called once per process, on the sessions'
            event loop, at the first request: so it survives servers that fork their workers. What it raises is raised
            to that request, and the next one tries again. It must not block.
        environ_key: where in the environ the session stands. Default ``"mongosession"``.
        skip: routes for which no session is opened. Path prefixes, or a predicate of the environ. Default none.
        tokenless: routes (likewise) for which a session is opened, but nothing rotates and no token is sent: for back
            ends that forward a browser's cookie and drop ``Set-Cookie``. Default none.
        on_outage: where the database is away: ``"raise"`` (default) answers 503 with ``Retry-After``; ``"anonymous"``
            goes on with an empty session that stores nothing; or a function of the environ that says which.
        timeout: seconds that opening or committing a session may take, whatever the store does; after them the request
            is answered 503 and its thread is free, and a commit that began goes on in the background. At exit writes
            under way are waited for as long. Default 15: above the store's own deadline, so that that one speaks first.
    """

    def __init__(
        self,
        app: "WSGIApplication",
        make_engine: Callable[[], SessionEngine],
        *,
        environ_key: str = "mongosession",
        skip: "Routes[WSGIEnvironment]" = (),
        tokenless: "Routes[WSGIEnvironment]" = (),
        on_outage: "OnOutage | Callable[[WSGIEnvironment], OnOutage]" = "raise",
        timeout: float = TIMEOUT,
    ) -> None:
        self.app = app
        self.environ_key = environ_key
        self.timeout = timeout
        self._make_engine = make_engine
        self._skips = predicate(skip, _path)
        self._tokenless = predicate(tokenless, _path)
        self._on_outage: Callable[[WSGIEnvironment], OnOutage] = (
            on_outage if callable(on_outage) else lambda _environ: on_outage
        )
        self._engines: dict[int, SessionEngine] = {}  # by process id; a parent's stays, see `loop`

    @property
    def engine(self) -> SessionEngine:
        """This process's engine; made on first use, and drained at exit."""
        engine = self._engines.get(os.getpid())
        return here().run(self._make, self.timeout) if engine is None else engine

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Serve one request."""
        if self._skips(environ):
            return self.app(environ, start_response)
        tokens = not (
            self._tokenless(environ) or prefetch(environ.get("HTTP_SEC_PURPOSE"), environ.get("HTTP_PURPOSE"))
        )
        large = large_body(
            environ["REQUEST_METHOD"],
            environ.get("CONTENT_LENGTH") or None,  # empty where there is none
            environ.get("HTTP_TRANSFER_ENCODING"),
        )
        on_outage = self._on_outage(environ)
        try:
            engine = self.engine
            cookie = environ.get("HTTP_COOKIE")
            opening = engine.opening(cookie, tokens=tokens, large_body=large, on_outage=on_outage)
            session = opening if isinstance(opening, Session) else wait(opening, self.timeout)
        except StoreUnavailable as error:
            return unavailable(error, environ, start_response)
        environ[self.environ_key] = session
        response = Response(engine, session, environ, start_response, self.timeout)
        return response.of(self.app(environ, response.start))

    async def _make(self) -> SessionEngine:
        """On the loop, where one thing happens at a time: however many threads ask, it is made once."""
        engine = self._engines.get(os.getpid())
        if engine is None:
            engine = self._engines[os.getpid()] = self._make_engine()
            here().at_exit(engine.close, self.timeout)
        return engine


def _path(environ: "WSGIEnvironment") -> str:
    return f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}"
