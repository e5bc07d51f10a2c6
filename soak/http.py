"""An HTTP client for many browsers: little work for each request, and it tells what is known from what is not."""

import asyncio
from collections import defaultdict
from typing import NamedTuple

DEADLINE = 30.0
"""Seconds. Longer than any deadline of the server: what is not answered by then hangs."""


class NotSentError(Exception):
    """There was no connection: the server has not heard of the request."""


class NoAnswerError(Exception):
    """The connection broke, or there was no answer in time: the request may have been carried out."""


class Answer(NamedTuple):
    """What a server said.

    Attributes:
        status: of HTTP.
        cookies: the values of its Set-Cookie headers.
        body: the content.
    """

    status: int
    cookies: list[str]
    body: bytes


class Client:
    """Connections to 127.0.0.1 that are kept alive and shared, as a proxy in front of the application does."""

    def __init__(self) -> None:
        self._idle: defaultdict[int, list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]] = defaultdict(list)

    async def get(self, port: int, target: str, cookie: str | None, *, hang_up: float | None = None) -> Answer:
        """One request.

        Args:
            port: of the server.
            target: path and query.
            cookie: the Cookie header, or None.
            hang_up: close the connection so many seconds after sending, without waiting for the answer.

        Raises:
            NotSentError: nothing was sent.
            NoAnswerError: no answer came.
        """
        reader, writer = await self._connection(port)
        try:
            header = f"Cookie: {cookie}\r\n" if cookie is not None else ""
            writer.write(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n".encode())
            if hang_up is not None:
                await asyncio.sleep(hang_up)
                raise NoAnswerError("hung up")
            async with asyncio.timeout(DEADLINE):
                answer, keep = await _answer(reader)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            writer.close()
            raise NoAnswerError(repr(error)) from error
        except BaseException:
            writer.close()
            raise
        if keep:
            self._idle[port].append((reader, writer))
        else:
            writer.close()
        return answer

    def close(self) -> None:
        """Hang up everywhere."""
        for streams in self._idle.values():
            for _, writer in streams:
                writer.close()
        self._idle.clear()

    async def _connection(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        idle = self._idle[port]
        while idle:
            reader, writer = idle.pop()
            if not (reader.at_eof() or writer.is_closing()):
                return reader, writer
            writer.close()
        try:
            return await asyncio.open_connection("127.0.0.1", port)
        except OSError as error:
            raise NotSentError(repr(error)) from error


async def _answer(reader: asyncio.StreamReader) -> tuple[Answer, bool]:
    """Read one answer, and whether the connection stays open."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status, *fields = head.split("\r\n")
    length, keep = 0, True
    cookies: list[str] = []
    for field in fields:
        name, _, value = field.partition(":")
        match name.lower():
            case "content-length":
                length = int(value)
            case "connection":
                keep = value.strip().lower() != "close"
            case "set-cookie":
                cookies.append(value.strip())
            case _:
                pass
    body = await reader.readexactly(length)
    return Answer(int(status.split(" ")[1]), cookies, body), keep
