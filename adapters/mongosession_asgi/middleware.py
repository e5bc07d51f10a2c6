"""ASGI middleware: ``scope["session"]`` is the session, and it is committed before the response's headers leave.

The first message of a response is held until the second: what a handler stores before its first byte goes with the
headers. What it stores later, while streaming or in a background task, is written at the end.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from mongosession import Session, SessionEngine, StoreUnavailable
from mongosession.http import large_body, prefetch

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class SessionMiddleware:
    """Puts the session of each HTTP request into its scope.

    Args:
        app: the ASGI application.
        engine: where the sessions come from.
        scope_key: where in the scope the session stands. Default ``"session"``: ``request.session`` in Starlette.
    """

    def __init__(self, app: Application, engine: SessionEngine, *, scope_key: str = "session") -> None:
        self.app = app
        self.engine = engine
        self.scope_key = scope_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; all but HTTP passes through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            session = await self._open(scope)
        except StoreUnavailable as error:
            await _unavailable(send, error)
            return
        scope[self.scope_key] = session
        response = _Response(self.engine, session, send)
        await self.app(scope, receive, response.send)
        await response.finish()

    async def _open(self, scope: Scope) -> Session:
        headers: dict[bytes, bytes] = {}
        cookies: list[str] = []
        for name, value in scope["headers"]:
            if name == b"cookie":
                cookies.append(value.decode("latin-1"))
            else:
                headers[name] = value
        return await self.engine.open(
            cookies,
            tokens=not prefetch(_text(headers, b"sec-purpose"), _text(headers, b"purpose")),
            large_body=large_body(
                scope["method"], _text(headers, b"content-length"), _text(headers, b"transfer-encoding")
            ),
        )


class _Response:
    """The messages of one response on their way out."""

    def __init__(self, engine: SessionEngine, session: Session, send: Send) -> None:
        self._engine = engine
        self._session = session
        self._send = send
        self._start: Message | None = None  # held until it is known what the headers have to carry
        self._status = 200
        self._started = False
        self._replaced = False  # by a 503: the application's own messages are dropped

    async def send(self, message: Message) -> None:
        if self._replaced:
            return
        if message["type"] == "http.response.start":
            self._start, self._status = message, message["status"]
            return
        if self._start is not None:
            await self._commit_headers(self._start)
            if self._replaced:
                return
        elif self._started and not message.get("more_body", False):
            await self._commit_rest()
        await self._send(message)

    async def finish(self) -> None:
        """The application has returned: what it stored since the last byte is written."""
        if self._start is not None:  # it sent no body at all
            await self._commit_headers(self._start)
        elif self._started and not self._replaced:
            await self._commit_rest()

    async def _commit_headers(self, start: Message) -> None:
        self._start = None
        headers: list[tuple[bytes, bytes]] = list(start.get("headers", ()))
        own = [value.decode("latin-1") for name, value in headers if name.lower() == b"cache-control"]
        try:
            added = await self._engine.commit(self._session, status=self._status, cache_control=", ".join(own) or None)
        except StoreUnavailable as error:
            self._replaced = True
            await _unavailable(self._send, error)
            return
        if any(name == "Cache-Control" for name, _ in added):
            headers = [(name, value) for name, value in headers if name.lower() != b"cache-control"]
        headers += [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in added]
        self._started = True
        await self._send({**start, "headers": headers})

    async def _commit_rest(self) -> None:
        await self._engine.commit(self._session, status=self._status, sent=True)


async def _unavailable(send: Send, error: StoreUnavailable) -> None:
    """The database is away. No cookie is touched."""
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"cache-control", b"no-store"),
        (b"retry-after", str(error.retry_after).encode("ascii")),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": b"Service Unavailable"})


def _text(headers: dict[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")
