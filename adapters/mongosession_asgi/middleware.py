"""ASGI middleware: ``scope["session"]`` is the session, and it is committed before the response's headers leave."""

from collections.abc import Callable
from typing import Any, Literal

from mongosession import Session, SessionEngine, StoreUnavailable
from mongosession.http import Routes, large_body, predicate, prefetch
from mongosession_asgi.lifespan import Lifespan
from mongosession_asgi.response import Response, unavailable
from mongosession_asgi.types import Application, Receive, Scope, Send

OnOutage = Literal["raise", "anonymous"]

_TELLING = frozenset({b"sec-purpose", b"purpose", b"content-length", b"transfer-encoding"})


class SessionMiddleware:
    """Puts the session of each HTTP request and WebSocket into its scope. Nested in itself it passes through.

    Args:
        app: the ASGI application.
        engine: where the sessions come from.
        scope_key: where in the scope the session stands. Default ``"session"``: ``request.session`` in Starlette. Two
            engines with different cookie names may stand under two keys.
        skip: routes for which no session is opened: health checks, assets. Path prefixes, or a predicate of the scope.
            Default none.
        tokenless: routes (likewise) for which a session is opened, but nothing rotates and no token is sent: for back
            ends that forward a browser's cookie and drop ``Set-Cookie``. Elsewhere it makes tokens live longer. None by
            default.
        on_outage: where the database is away: ``"raise"`` (default) answers 503 with ``Retry-After``; ``"anonymous"``
            goes on with an empty session that stores nothing; or a function of the scope that says which.
        lifespan: call ``engine.setup()`` at start-up and ``engine.close()`` at shutdown. Default False.
    """

    def __init__(
        self,
        app: Application,
        engine: SessionEngine,
        *,
        scope_key: str = "session",
        skip: Routes[Scope] = (),
        tokenless: Routes[Scope] = (),
        on_outage: OnOutage | Callable[[Scope], OnOutage] = "raise",
        lifespan: bool = False,
    ) -> None:
        self.app = app
        self.engine = engine
        self.scope_key = scope_key
        self._skips = predicate(skip, _path)
        self._tokenless = predicate(tokenless, _path)
        self._on_outage: Callable[[Scope], OnOutage] = on_outage if callable(on_outage) else lambda _scope: on_outage
        self._lifespan = lifespan
        self._mark = f"mongosession.{scope_key}"  # which engine's session it is

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        kind = scope["type"]
        if kind == "lifespan" and self._lifespan:
            messages = Lifespan(self.engine, receive, send)
            await self.app(scope, messages.receive, messages.send)
        elif (
            kind not in ("http", "websocket")
            or scope.get(self._mark) is self.engine  # it is open already
            or self._skips(scope)
        ):
            await self.app(scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        websocket = scope["type"] == "websocket"
        refusable = "websocket.http.response" in (scope.get("extensions") or {})
        try:
            session = await self._open(scope)
        except StoreUnavailable as error:
            if websocket:
                await receive()  # the handshake: only then may it be refused
            prefix = "websocket." if websocket else ""
            await unavailable(send, error, prefix=prefix, refusable=refusable or not websocket)
            return
        scope[self.scope_key] = session
        scope[self._mark] = self.engine
        response = Response(self.engine, session, send, websocket=websocket, refusable=refusable)
        await self.app(scope, receive, response.send)
        await response.finish()

    async def _open(self, scope: Scope) -> Session:
        headers: dict[bytes, str] = {}
        cookies: list[str] = []
        for name, value in scope["headers"]:
            if name == b"cookie":
                cookies.append(value.decode("latin-1"))
            elif name in _TELLING:
                headers[name] = value.decode("latin-1")
        return await self.engine.open(
            cookies,
            tokens=not (self._tokenless(scope) or prefetch(headers.get(b"sec-purpose"), headers.get(b"purpose"))),
            large_body=large_body(
                scope.get("method", "GET"), headers.get(b"content-length"), headers.get(b"transfer-encoding")
            ),
            on_outage=self._on_outage(scope),
        )


def get_session(connection: Any, scope_key: str = "session") -> Session:
    """The session of a request, typed.

    Args:
        connection: a request or WebSocket of Starlette or FastAPI (anything with a ``scope``), or a scope itself.
        scope_key: where in the scope the middleware put it.

    Raises:
        LookupError: no session was opened for this request.
    """
    session = getattr(connection, "scope", connection).get(scope_key)
    if not isinstance(session, Session):
        raise LookupError(
            f"no session under scope[{scope_key!r}]: is SessionMiddleware installed, and the route not skipped?"
        )
    session.mark_accessed()
    return session


def _path(scope: Scope) -> str:
    return str(scope["path"])
