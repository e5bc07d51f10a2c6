"""A network that can be had bad: a TCP proxy in front of a server that does, on command, what networks do.

    with Proxy(mongod_port) as proxy:
        client = AsyncMongoClient("127.0.0.1", proxy.port, directConnection=True)
        proxy.be("hang")
        ...
        proxy.heal()
        assert proxy.counts["hang"]

It has a thread and an event loop of its own; all of its methods may be called from any thread.
"""

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self, get_args

Fault = Literal["cut", "hang", "swallow", "mute", "delay", "drip", "midway", "garbage", "garble"]
"""What the proxy does to every connection, old ones and new ones, from now on:

- "cut": they are reset, and new ones too, once accepted.
- "hang": no byte goes on, either way, until healed; then all of them do, as with a server that was stopped.
- "swallow": bytes disappear, either way: a black hole. Healed, the connections that lost any are reset.
- "mute": the same with answers alone: the server does what it is asked, and nobody hears of it.
- "delay": each chunk goes on after `seconds`, either way.
- "drip": answers go on byte by byte, `seconds` apart.
- "midway": the first half of an answer goes on, then the connection is closed.
- "garbage": answers are replaced by as many random bytes. Healed, the connections that had any are reset.
- "garble": answers keep their first 25 bytes, and are random from there: in MongoDB's protocol the frame stands.
"""

FAULTS: tuple[Fault, ...] = get_args(Fault)

_CHUNK = 64 * 1024
_FRAME = 25  # of OP_MSG: the header of 16 bytes, the flags, the kind of the section, the length of its document
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time to linger


class _Connection:
    """One client's, and ours to the server on its behalf."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self.writers = writers
        self.incomplete = False  # bytes of it were lost: it cannot go on

    def reset(self) -> None:
        for writer in self.writers:
            peer: socket.socket | None = writer.get_extra_info("socket")
            with suppress(OSError):  # it has gone by itself
                if peer is not None:
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()


class Proxy:
    """A proxy that listens on 127.0.0.1 until the block is left. The server may come and go.

    Args:
        upstream: the port of the server, on 127.0.0.1.
        port: where to listen; 0, the default, for any free port.
        seed: of the garbage.

    Attributes:
        port: where it listens, once entered.
        counts: how often each fault happened to a connection or to a chunk of bytes, by its name. "through" counts the
            chunks that went on unharmed.
    """

    def __init__(self, upstream: int, *, port: int = 0, seed: int = 0) -> None:
        self.port = port
        self.counts: Counter[str] = Counter()
        self._upstream = upstream
        self._random = random.Random(seed)
        self._fault: Fault | None = None
        self._seconds = 0.0
        self._connections: set[_Connection] = set()
        self._handlers: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._stopped = asyncio.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._started.wait(30) or not self.port:
            raise RuntimeError("the proxy did not start; its thread says why")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    def be(self, fault: Fault, seconds: float = 0.0) -> None:
        """Do something bad from now on, instead of what was done so far.

        Args:
            fault: see `Fault`.
            seconds: of "delay" and "drip".
        """
        self._call(fault, seconds)

    def heal(self) -> None:
        """Be a good network again."""
        self._call(None, 0.0)

    def _call(self, fault: Fault | None, seconds: float) -> None:
        """Returns once it is so."""
        asyncio.run_coroutine_threadsafe(self._become(fault, seconds), self._loop).result(30)

    async def _become(self, fault: Fault | None, seconds: float) -> None:
        self._fault, self._seconds = fault, seconds
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        for connection in list(self._connections):
            if fault == "cut" or connection.incomplete:
                self.counts["cut"] += fault == "cut"
                connection.reset()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            # A large backlog: a driver whose connections were cut opens all of them at once.
            server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=1024)
            self.port = server.sockets[0].getsockname()[1]
        except OSError:
            self.port = 0
            raise
        finally:
            self._started.set()
        await self._stopped.wait()
        server.close()
        for connection in list(self._connections):
            connection.reset()
        await self._become(None, 0.0)
        if self._handlers:
            await asyncio.wait(self._handlers, timeout=10)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Not a coroutine: its task would be asyncio's, which complains if it is cancelled in the end."""
        handler = asyncio.create_task(self._handle(reader, writer))
        self._handlers.add(handler)
        handler.add_done_callback(self._handlers.discard)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._fault == "cut":
            self.counts["cut"] += 1
            _Connection(writer).reset()
            return
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:  # the server is away
            _Connection(writer).reset()
            return
        connection = _Connection(writer, server_writer)
        self._connections.add(connection)
        pumps = [
            asyncio.create_task(self._pump(reader, server_writer, connection, answers=False)),
            asyncio.create_task(self._pump(server_reader, writer, connection, answers=True)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)  # who hangs up does so for both
        finally:
            for pump in pumps:
                pump.cancel()
            self._connections.discard(connection)
            for each in connection.writers:
                each.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: _Connection, *, answers: bool
    ) -> None:
        with suppress(OSError):  # reset by either side
            while chunk := await reader.read(_CHUNK):
                await self._pass(chunk, writer, connection, answers=answers)

    async def _pass(
        self, chunk: bytes, writer: asyncio.StreamWriter, connection: _Connection, *, answers: bool
    ) -> None:
        while (fault := self._fault) in ("hang", "delay"):
            self.counts[fault] += 1
            if await self._pause(self._seconds if fault == "delay" else None):
                break
        fault = self._fault
        if fault == "swallow" or (fault == "mute" and answers):
            self.counts[fault] += 1
            connection.incomplete = True
            return
        if answers and fault in ("drip", "midway", "garbage", "garble"):
            self.counts[fault] += 1
        elif fault is None:
            self.counts["through"] += 1
        if answers and fault == "drip":
            chunk = await self._drip(chunk, writer)
        elif answers and fault in ("midway", "garbage", "garble"):
            connection.incomplete = fault == "garbage"  # who takes its first bytes for a length may wait for ever
            kept = {"midway": len(chunk) // 2, "garbage": 0, "garble": _FRAME}[fault]
            chunk = chunk[:kept] + (b"" if fault == "midway" else self._random.randbytes(len(chunk) - kept))
        writer.write(chunk)
        await writer.drain()
        if answers and fault == "midway":
            writer.close()  # a reset could take back the half that was sent
            raise ConnectionAbortedError

    async def _pause(self, seconds: float | None) -> bool:
        """Wait so long, or until another fault is the case.

        Returns:
            Whether it was so long.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return True
        return False

    async def _drip(self, chunk: bytes, writer: asyncio.StreamWriter) -> bytes:
        """Byte by byte, as long as that is the fault; the rest."""
        for sent in range(len(chunk)):
            if self._fault != "drip":
                return chunk[sent:]
            writer.write(chunk[sent : sent + 1])
            await writer.drain()
            await self._pause(self._seconds)
        return b""
