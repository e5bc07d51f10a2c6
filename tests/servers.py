"""ASGI applications, served: by uvicorn over real sockets, or called in this very task without any server."""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn

from mongosession_asgi.types import Application, Message

Headers = Sequence[tuple[str, str]]

START_SECONDS = 30


class Answer:
    """What an application sent.

    Attributes:
        messages: the ASGI messages, in their order.
        requests: the messages that it may receive before the client waits; after them none comes.
        complete: set once the client has all of the response; the application may still be at work.
        gone: set once the client has disconnected.
    """

    def __init__(self, body: bytes = b"") -> None:
        self.messages: list[Message] = []
        self.requests: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        self.complete = asyncio.Event()
        self.gone = asyncio.Event()

    async def send(self, message: Message) -> None:
        """The server's `send`, which reads the headers once."""
        if "headers" in message:
            message = {**message, "headers": list(message["headers"])}
        self.messages.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.complete.set()

    async def receive(self) -> Message:
        """The server's `receive`."""
        if self.requests:
            return self.requests.pop(0)
        await self.gone.wait()
        return {"type": "http.disconnect"}

    @property
    def types(self) -> list[str]:
        """The messages' types, without the prefix that all of them have."""
        return [message["type"].removeprefix("http.response.") for message in self.messages]

    @property
    def start(self) -> Message:
        """The one message that starts the response."""
        (start,) = [message for message in self.messages if message["type"] == "http.response.start"]
        return start

    @property
    def status(self) -> int:
        status: int = self.start["status"]
        return status

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The response's headers as text, in their order."""
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self.start["headers"]]

    def all(self, name: str) -> list[str]:
        """The values of one header."""
        return [value for key, value in self.headers if key == name]

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)


def http_scope(path: str = "/", method: str = "GET", headers: Headers = ()) -> dict[str, Any]:
    """The scope of one HTTP request, as uvicorn makes it."""
    path, _, query = path.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "https",
        "path": path,
        "raw_path": path.encode("ascii"),
        "query_string": query.encode("ascii"),
        "root_path": "",
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers],
        "client": ("127.0.0.1", 50000),
        "server": ("localhost", 443),
    }


async def call(app: Application, path: str = "/", *, method: str = "GET", headers: Headers = ()) -> Answer:
    """One request, handled by the application in this task."""
    answer = Answer()
    await app(http_scope(path, method, headers), answer.receive, answer.send)
    return answer


class _Server(uvicorn.Server):
    """Says when it is ready."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            super().run(sockets)
        finally:
            self.ready.set()


@contextmanager
def serve(make_app: Callable[[], Application]) -> Generator[str]:
    """Runs an application on uvicorn until the block is left; gives its URL, without a slash at the end.

    The server has a thread and an event loop of its own, and a free port of 127.0.0.1. `make_app` is called in that
    loop. The application's lifespan is run. Leaving the block waits for the requests under way.
    """
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    config = uvicorn.Config(
        make_app,
        factory=True,
        lifespan="on",
        log_config=None,
        access_log=False,
        ws="none",
        timeout_keep_alive=120,  # the clients of a test may pause on a busy machine
        timeout_graceful_shutdown=10,
    )
    server = _Server(config)
    listener = socket.create_server(("127.0.0.1", 0), backlog=config.backlog)
    port = listener.getsockname()[1]
    thread = threading.Thread(target=server.run, args=([listener],), name=f"uvicorn on {port}")
    thread.start()
    try:
        if not server.ready.wait(START_SECONDS) or not server.started:
            raise RuntimeError("the application did not start; its log says why")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
