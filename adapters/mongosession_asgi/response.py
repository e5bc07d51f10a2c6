"""The messages of one response on their way out.

The first message of a response is held until the second: what a handler stores before its first byte goes with the
headers. What it stores later, while streaming or in a background task, is written at the end.
"""

from collections.abc import Sequence
from typing import Any

from mongosession import Session, SessionEngine, StoreUnavailable
from mongosession_asgi.types import Message, Scope, Send


class Response:
    """Commits a session before the headers leave, and what comes later at the end.

    Args:
        engine: where the session comes from.
        send: the server's.

    Attributes:
        session: the request's; to be set before the application runs.
    """

    session: Session

    _start = "http.response.start"
    _body = "http.response.body"
    _refusable = True  # with a response of ours
    _held: Message | None = None  # until it is known what the headers have to carry
    _status = 500  # the server's own, if the application does not answer
    _answered = False
    _replaced = False  # by a 503: the application's own messages are dropped

    def __init__(self, engine: SessionEngine, send: Send) -> None:
        self._engine = engine
        self._send = send

    async def send(self, message: Message) -> None:
        """Pass a message on, the session's headers and writes in their places."""
        kind = message["type"]
        if kind == self._start:
            if not self._replaced:
                self._held, self._status = message, message["status"]
            return
        if self._held is not None:
            await self._answer(self._held)
        elif self._answered and kind == self._body and not message.get("more_body", False):
            await self._engine.commit(self.session, status=self._status, sent=True)
        if not self._replaced:
            await self._send(message)

    async def finish(self) -> None:
        """The application has returned: what it stored since the last message is written."""
        if self._held is not None:
            await self._answer(self._held)
        elif not self._replaced:
            await self._engine.commit(self.session, status=self._status, sent=True)

    async def refuse(self, error: StoreUnavailable) -> None:
        """Answer that the database is away: 503 with ``Retry-After``. No cookie is touched."""
        self._replaced = True
        if not self._refusable:
            await self._send({"type": "websocket.close", "code": 1013, "reason": "Try Again Later"})  # IANA registry
            return
        body = b"Service Unavailable"
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(body)).encode("ascii")),
            (b"cache-control", b"no-store"),
            (b"retry-after", str(error.retry_after).encode("ascii")),
        ]
        await self._send({"type": self._start, "status": 503, "headers": headers})
        await self._send({"type": self._body, "body": body})

    async def _answer(self, message: Message) -> None:
        self._held = None
        own: str | None = None
        given = message.get("headers") or ()
        if not isinstance(given, _REPEATABLE):  # any iterable will do, and one may be of use but once
            given = list(given)
            message = {**message, "headers": given}
        for name, value in given:
            if len(name) == _LENGTH and name.lower() == b"cache-control":
                text = value.decode("latin-1")
                own = text if own is None else f"{own}, {text}"
        try:
            added = await self._engine.commit(self.session, status=self._status, cache_control=own)
        except StoreUnavailable as error:
            await self.refuse(error)
            return
        self._answered = True
        await self._send(_with_headers(message, added) if added else message)


_LENGTH = len("cache-control")
_REPEATABLE = (list, tuple)


def _with_headers(message: Message, added: Sequence[tuple[str, str]]) -> Message:
    """A message with more headers; a Cache-Control of ours replaces its own."""
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in added]
    given = message.get("headers") or ()
    if any(name == b"cache-control" for name, _ in headers):
        given = [(name, value) for name, value in given if name.lower() != b"cache-control"]
    return {**message, "headers": [*given, *headers]}


class Handshake(Response):
    """The same for a WebSocket: its handshake is the response, or the application's refusal.

    Args:
        engine: where the session comes from.
        send: the server's.
        scope: of the connection; says whether the server can send a response of ours in place of a handshake.
    """

    _start = "websocket.http.response.start"
    _body = "websocket.http.response.body"
    _status = 101

    def __init__(self, engine: SessionEngine, send: Send, scope: Scope) -> None:
        super().__init__(engine, send)
        extensions: dict[str, Any] = scope.get("extensions") or {}
        self._refusable = "websocket.http.response" in extensions

    async def send(self, message: Message) -> None:
        """Pass a message on, the session's headers and writes in their places."""
        if message["type"] != "websocket.accept":
            await super().send(message)
        elif not self._replaced:
            await self._answer(message)
