"""Requests to one ASGI application in this very process, for ``bench.instructions`` to count what they cost.

    python -m bench.inprocess TARGET CASE REQUESTS

Each target does the same work on the same data. The driver below is the same for all of them, so that the difference
to the bare application is the target's own: it finds the Set-Cookie header, and sends what that said from then on.
Libraries are imported by the targets that need them: under valgrind that takes most of the time.
"""

import asyncio
import hashlib
import hmac
import sys
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

CASES = ("read", "change", "rotation", "none", "forged")

KEY = "k" * 32
DATA = {"user": "anna", "csrf": "x" * 40, "visits": 1, "basket": ["tea", "milk"]}
START: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
BODY: Message = {"type": "http.response.body", "body": b"ok"}
SCOPE: Scope = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "https",
    "path": "/",
    "raw_path": b"/",
    "query_string": b"",
    "root_path": "",
    "client": ("127.0.0.1", 50000),
    "server": ("localhost", 443),
}
HEADERS = [(b"host", b"localhost"), (b"accept", b"*/*")]


def handler(case: str) -> Application:
    """The application behind the sessions."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        session = scope.get("session")
        if session is not None:
            if case == "begin":
                session.update(DATA)
            elif case not in ("none", "forged"):
                session["user"]
                if case == "change":
                    session["visits"] = session["visits"] + 1
        await send({**START, "headers": list(START["headers"])})
        await send(BODY)

    return answer


class ByHand:
    """What nobody can do without: find a cookie, and check that its MAC is ours. It loads and stores nothing."""

    name = b"session"

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        for field, value in scope["headers"]:
            if field == b"cookie":
                for pair in value.split(b";"):
                    name, _, text = pair.strip().partition(b"=")
                    if name == self.name:
                        scope["token"] = self.verify(text)
        await self.app(scope, receive, send)

    @classmethod
    def verify(cls, text: bytes) -> bytes | None:
        """What the token says, or None."""
        raw = urlsafe_b64decode(text)
        said, mac = raw[:-16], raw[-16:]
        return said if hmac.compare_digest(mac, cls._mac(said)) else None

    @classmethod
    def cookie(cls) -> bytes:
        """A Cookie header that verifies."""
        said = bytes(40)
        return cls.name + b"=" + urlsafe_b64encode(said + cls._mac(said))

    @staticmethod
    def _mac(said: bytes) -> bytes:
        return hashlib.blake2b(said, key=KEY.encode(), digest_size=16).digest()


class Clock:
    """Seconds since 1970, moved by hand."""

    now = 4_000_000_000.0

    def __call__(self) -> float:
        """The present."""
        return self.now


def _ours(clock: Clock, **settings: Any) -> Any:
    library, adapter = import_module("mongosession"), import_module("mongosession_asgi")
    engine = library.SessionEngine(library.MemoryStore(), keys=[KEY], clock=clock, **settings)
    return lambda app: adapter.SessionMiddleware(app, engine=engine)


def _starlette(clock: Clock) -> Any:
    library = import_module("starlette.middleware.sessions")
    return lambda app: library.SessionMiddleware(app, secret_key=KEY)


def _starsessions(clock: Clock) -> Any:
    library = import_module("starsessions")
    store = library.InMemoryStore()
    return lambda app: library.SessionMiddleware(library.SessionAutoloadMiddleware(app), store=store)


TARGETS: dict[str, Callable[[Clock], Any]] = {
    "bare": lambda _: lambda app: app,
    "hand": lambda _: ByHand,
    "ours": _ours,
    "visitors": lambda clock: _ours(clock, anonymous="cookie"),
    "starlette": _starlette,
    "starsessions": _starsessions,
}
"""What puts sessions around an application."""


class Client:
    """Asks, and keeps the cookie that it was given."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.cookie = b""

    async def receive(self) -> Message:
        """The application's `receive`."""
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        """The application's `send`."""
        self.sent.append(message)

    async def ask(self, app: Application) -> None:
        """One request."""
        headers = [*HEADERS, (b"cookie", self.cookie)] if self.cookie else HEADERS
        await app({**SCOPE, "headers": headers}, self.receive, self.send)
        for name, value in self.sent[0]["headers"]:
            if name == b"set-cookie":
                self.cookie = value.partition(b";")[0]
        self.sent.clear()


async def run(target: str, case: str, requests: int) -> None:
    """So many requests of one case."""
    clock, client = Clock(), Client()
    around = TARGETS[target](clock)
    await client.ask(around(handler("begin")))
    if target == "hand":
        client.cookie = ByHand.cookie()
    if case == "none":
        client.cookie = b""
    elif case == "forged" and client.cookie:
        client.cookie = client.cookie[:-6] + b"AAAAAA"
    app = around(handler(case))
    step = 6 if case == "rotation" else 0
    for _ in range(requests):
        clock.now += step
        await client.ask(app)


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], sys.argv[2], int(sys.argv[3])))
