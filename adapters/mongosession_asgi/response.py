"""The messages of one response on their way out.

The first message of a response is held until the second: what a handler stores before its first byte goes with the
headers. What it stores later, while streaming or in a background task, is written at the end.
"""

from collections.abc import Awaitable, Iterable
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

    def __init__(self, engine: SessionEngine, send: Send) -> None:
        self._engine = engine
        self._send = send
        self._held: Message | None = None  # until it is known what the headers have to carry
        self._status = 500  # the server's own, if the application does not answer
        self._answered = False
        self._replaced = False  # by a 503: the application's own messages are dropped

    async def send(self, message: Message) -> None:
        """Pass a message on, the session's headers and writes in their places."""
        held, kind = self._held, message["type"]
        if kind == self._start:
            if not self._replaced:
                self._held, self._status = message, message["status"]
            return
        if held is not None:
            settled = self._settled(held)
            await (self._answer(held) if settled is None else self._send(settled))
        elif self._answered and kind == self._body and not message.get("more_body", False):
            rest = self.rest()
            if rest is not None:
                await rest
        if not self._replaced:
            await self._send(message)

    def rest(self) -> Awaitable[object] | None:
        """What the application stored since the last message, to be awaited: at the end of its body, and when it has
        returned. None where there is nothing to write."""
        if self._held is not None:
            return self._answer(self._held)
        if self._replaced or self._engine.settled(self.session, status=self._status, sent=True) is not None:
            return None
        return self._engine.commit(self.session, status=self._status, sent=True)

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

    def _settled(self, message: Message) -> Message | None:
        """The start of a response as it may leave at once, or None where the session has to be committed before."""
        added = self._engine.settled(self.session, status=self._status)
        if added is None:
            return None
        self._held, self._answered = None, True
        return _with_headers(message, added) if added else message

    async def _answer(self, message: Message) -> None:
        """Commit, and let the headers go."""
        self._held = None
        given = message.get("headers") or ()
        if not isinstance(given, _REPEATABLE):  # any iterable will do, and one may be of use but once
            given = list(given)
            message = {**message, "headers": given}
        own = _cache_control(given)
        try:
            added = await self._engine.commit(self.session, status=self._status, cache_control=own)
        except StoreUnavailable as error:
            await self.refuse(error)
            return
        self._answered = True
        await self._send(_with_headers(message, added) if added else message)


def _cache_control(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """What a response says of caches itself."""
    found = [value.decode("latin-1") for name, value in headers if name.lower() == b"cache-control"]
    return ", ".join(found) if found else None


_REPEATABLE = (list, tuple)
_NO_STORE = (b"cache-control", b"no-store")
_NAMES = {"Vary": b"vary", "Set-Cookie": b"set-cookie", "Cache-Control": b"cache-control"}  # all that a commit returns
# What it says again and again.
_FIXED = {("Vary", "Cookie"): (b"vary", b"Cookie"), ("Cache-Control", "no-store"): _NO_STORE}


def _with_headers(message: Message, added: Iterable[tuple[str, str]]) -> Message:
    """A message with more headers; a Cache-Control of ours replaces its own."""
    headers: Iterable[tuple[bytes, bytes]] = message.get("headers") or ()
    more = [_FIXED.get(field) or (_NAMES[field[0]], field[1].encode("latin-1")) for field in added]
    if _NO_STORE in more:
        headers = [each for each in headers if each[0].lower() != b"cache-control"]
    return {**message, "headers": [*headers, *more]}


class Handshake(Response):
    """The same for a WebSocket: its handshake is the response, or the application's refusal.

    Args:
        engine: where the session comes from.
        send: the server's.
        scope: of the connection; says whether the server can send a response of ours in place of a handshake.
    """

    _start = "websocket.http.response.start"
    _body = "websocket.http.response.body"

    def __init__(self, engine: SessionEngine, send: Send, scope: Scope) -> None:
        super().__init__(engine, send)
        self._status = 101
        extensions: dict[str, Any] = scope.get("extensions") or {}
        self._refusable = "websocket.http.response" in extensions

    async def send(self, message: Message) -> None:
        """Pass a message on, the session's headers and writes in their places."""
        if message["type"] != "websocket.accept":
            await super().send(message)
        elif not self._replaced:
            await self._answer(message)
