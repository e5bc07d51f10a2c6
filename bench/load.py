"""Browsers that ask one server: keep-alive connections over asyncio's streams, each with a cookie jar of its own."""

import asyncio
import time
from collections.abc import Sequence
from typing import Self


class Client:
    """One browser. It takes every cookie that it is given, and sends all of them.

    Args:
        port: of the server, on 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.cookies: dict[str, str] = {}
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def twin(self) -> Self:
        """Another connection of the same browser, with the cookies of now."""
        other = type(self)(self.port)
        other.cookies = dict(self.cookies)
        return other

    async def get(self, target: str) -> str:
        """One request, and the text of its answer.

        Raises:
            RuntimeError: the answer was no 200.
        """
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self._streams
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        lines = [f"GET {target} HTTP/1.1", "Host: localhost", *([f"Cookie: {cookies}"] if cookies else []), "", ""]
        writer.write("\r\n".join(lines).encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status, *fields = head.split("\r\n")
        length, close = 0, False
        for field in fields:
            name, _, value = field.partition(":")
            match name.lower():
                case "content-length":
                    length = int(value)
                case "connection":
                    close = value.strip().lower() == "close"
                case "set-cookie":
                    cookie, _, content = value.partition(";")[0].strip().partition("=")
                    self.cookies[cookie] = content
                case _:
                    pass
        body = (await reader.readexactly(length)).decode()
        if close:
            self.close()
        if status.split(" ")[1] != "200":
            raise RuntimeError(f"{target}: {status}: {body[:200]}")
        return body

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def begun(port: int, count: int) -> list[Client]:
    """So many browsers, each with a session that holds data."""
    clients = [Client(port) for _ in range(count)]
    for client in clients:
        await client.get("/begin")
        client.close()
    return clients


async def rate(clients: Sequence[Client], target: str, seconds: float) -> float:
    """Requests a second, where each client asks again as soon as it is answered."""
    answered = 0
    began = time.perf_counter()

    async def ask(client: Client) -> None:
        nonlocal answered
        while time.perf_counter() < began + seconds:
            await client.get(target)
            answered += 1
        client.close()  # before the server does, which waits for seconds only

    await asyncio.gather(*(ask(client) for client in clients))
    return answered / (time.perf_counter() - began)
