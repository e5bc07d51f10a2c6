"""ASGI middleware: ``scope["session"]`` is the session, and it is committed before the response's headers leave."""

from collections.abc import Callable
from typing import Any, Literal

from mongosession import Session, SessionEngine, StoreUnavailable
from mongosession.http import Routes, large_body, predicate, prefetch
from mongosession_asgi.lifespan import Lifespan
from mongosession_asgi.response import Handshake, Response
from mongosession_asgi.types import Application, Receive, Scope, Send

OnOutage = Literal["raise", "anonymous"]

_KINDS = frozenset({"http", "websocket"})
_READ = frozenset({b"cookie", b"sec-purpose", b"purpose", b"content-length", b"transfer-encoding"})


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
        self._skips = predicate(skip, _path) if skip else None
        self._tokenless = predicate(tokenless, _path) if tokenless else None
        self._decides = on_outage if callable(on_outage) else None
        self._on_outage: OnOutage = "raise" if callable(on_outage) else on_outage
        self._lifespan = lifespan
        self._mark = f"mongosession.{scope_key}"  # which engine's session it is

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        kind, engine = scope["type"], self.engine
        if (
            kind not in _KINDS
            or scope.get(self._mark) is engine  # it is open already
            or (self._skips is not None and self._skips(scope))
        ):
            await self._pass(scope, receive, send)
            return
        cookies: list[str] = []
        telling: dict[bytes, str] = {}
        for name, value in scope["headers"]:
            if name in _READ:
                if name == b"cookie":
                    cookies.append(value.decode("latin-1"))
                else:
                    telling[name] = value.decode("latin-1")
        tokens, large = self._tokenless is None or not self._tokenless(scope), False
        if telling or scope.get("method", "GET") != "GET":
            tokens = tokens and not prefetch(telling.get(b"sec-purpose"), telling.get(b"purpose"))
            length, coding = telling.get(b"content-length"), telling.get(b"transfer-encoding")
            large = large_body(scope.get("method", "GET"), length, coding)
        on_outage = self._on_outage if self._decides is None else self._decides(scope)
        response = Response(engine, send) if kind == "http" else Handshake(engine, send, scope)
        try:
            opening = engine.opening(cookies, tokens=tokens, large_body=large, on_outage=on_outage)
            session = opening if isinstance(opening, Session) else await opening
        except StoreUnavailable as error:
            if kind == "websocket":
                await receive()  # the handshake: only then may it be refused
            await response.refuse(error)
            return
        scope[self.scope_key] = response.session = session
        scope[self._mark] = engine
        await self.app(scope, receive, response.send)
        rest = response.rest()
        if rest is not None:
            await rest

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve what has no session of its own here."""
        if scope["type"] == "lifespan" and self._lifespan:
            messages = Lifespan(self.engine, receive, send)
            receive, send = messages.receive, messages.send
        await self.app(scope, receive, send)


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
