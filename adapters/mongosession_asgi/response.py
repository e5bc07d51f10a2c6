"""The messages of one response on their way out.

The first message of a response is held until the second: what a handler stores before its first byte goes with the
headers. What it stores later, while streaming or in a background task, is written at the end.
"""

from mongosession import Session, SessionEngine, StoreUnavailable
from mongosession_asgi.types import Message, Send


class Response:
    """Commits a session before the headers leave, and what comes later at the end.

    Args:
        engine: where the session comes from.
        session: the request's.
        send: the server's.
        websocket: the connection is a WebSocket: its handshake is the response, or a refusal.
        refusable: the server can send a response of ours in place of a handshake.
    """

    def __init__(
        self, engine: SessionEngine, session: Session, send: Send, *, websocket: bool = False, refusable: bool = False
    ) -> None:
        self._engine = engine
        self._session = session
        self._send = send
        self._prefix = "websocket." if websocket else ""
        self._refusable = refusable or not websocket
        self._held: Message | None = None  # until it is known what the headers have to carry
        self._status = 101 if websocket else 500  # the server's own, if the application does not answer
        self._answered = False
        self._replaced = False  # by a 503: the application's own messages are dropped

    async def send(self, message: Message) -> None:
        """Pass a message on, the session's headers and writes in their places."""
        kind = message["type"]
        if self._replaced:
            return
        if kind == f"{self._prefix}http.response.start":
            self._held, self._status = message, message["status"]
            return
        if kind == "websocket.accept":
            await self._answer(message, 101)
            return
        if self._held is not None:
            await self._answer(self._held, self._status)
            if self._replaced:
                return
        elif self._answered and kind.endswith("http.response.body") and not message.get("more_body", False):
            await self._engine.commit(self._session, status=self._status, sent=True)
        await self._send(message)

    async def finish(self) -> None:
        """The application has returned: what it stored since the last message is written."""
        if self._held is not None:
            await self._answer(self._held, self._status)
        elif not self._replaced:
            await self._engine.commit(self._session, status=self._status, sent=True)

    async def _answer(self, message: Message, status: int) -> None:
        self._held = None
        headers: list[tuple[bytes, bytes]] = list(message.get("headers") or ())
        own = [value.decode("latin-1") for name, value in headers if name.lower() == b"cache-control"]
        try:
            added = await self._engine.commit(
                self._session, status=status, cache_control=", ".join(own) if own else None
            )
        except StoreUnavailable as error:
            self._replaced = True
            await unavailable(self._send, error, prefix=self._prefix, refusable=self._refusable)
            return
        self._answered = True
        if added:
            if own and any(name == "Cache-Control" for name, _ in added):
                headers = [(name, value) for name, value in headers if name.lower() != b"cache-control"]
            headers += [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in added]
            message = {**message, "headers": headers}
        await self._send(message)


async def unavailable(send: Send, error: StoreUnavailable, *, prefix: str = "", refusable: bool = True) -> None:
    """Answer that the database is away: 503 with ``Retry-After``. No cookie is touched."""
    if not refusable:
        await send({"type": "websocket.close", "code": 1013, "reason": "Try Again Later"})  # RFC 6455, registry
        return
    body = b"Service Unavailable"
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode("ascii")),
        (b"cache-control", b"no-store"),
        (b"retry-after", str(error.retry_after).encode("ascii")),
    ]
    await send({"type": f"{prefix}http.response.start", "status": 503, "headers": headers})
    await send({"type": f"{prefix}http.response.body", "body": body})
