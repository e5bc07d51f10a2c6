"""A framework of one's own: HTTP over asyncio's streams with h11, and a session per request in two calls.

    pip install mongosession h11
    SESSION_KEY=$(python -m mongosession key) python -m examples.own_framework

It expects a MongoDB at MONGODB_URI, by default on this host.
"""

import asyncio
import os
from typing import Any

import h11
from pymongo import AsyncMongoClient

from mongosession import MongoStore, Session, SessionEngine, StoreUnavailable
from mongosession.http import large_body


async def handler(path: str, session: Session) -> tuple[int, str]:
    """The application."""
    if path == "/logout":
        session.destroy()
        return 200, "bye"
    session["visits"] = session.get("visits", 0) + 1
    return 200, f"visit {session['visits']}"


async def serve(engine: SessionEngine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request, one response."""
    connection = h11.Connection(h11.SERVER)
    request: h11.Request | None = None
    while not isinstance(event := connection.next_event(), h11.EndOfMessage | h11.ConnectionClosed):
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Request):
            request = event
    if request is not None:
        status, headers, text = await respond(engine, request)
        body = text.encode()
        fields = [*headers, ("Content-Length", str(len(body))), ("Connection", "close")]
        for part in (h11.Response(status_code=status, headers=fields), h11.Data(data=body), h11.EndOfMessage()):
            writer.write(connection.send(part) or b"")
    writer.close()
    await writer.wait_closed()


async def respond(engine: SessionEngine, request: h11.Request) -> tuple[int, list[tuple[str, str]], str]:
    """All that a framework has to do for its sessions: open, handle, commit, and only then answer."""
    headers = {name.decode(): value.decode("latin-1") for name, value in request.headers if name != b"cookie"}
    cookies = [value.decode("latin-1") for name, value in request.headers if name == b"cookie"]
    large = large_body(request.method.decode(), headers.get("content-length"), headers.get("transfer-encoding"))
    try:
        session = await engine.open(cookies, large_body=large)
        status, text = await handler(request.target.decode(), session)
        return status, await engine.commit(session, status=status), text
    except StoreUnavailable as error:
        return 503, [("Retry-After", str(error.retry_after))], "try again later"


async def main() -> None:
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(os.environ.get("MONGODB_URI", "mongodb://localhost"))
    engine = SessionEngine(MongoStore(client.examples.sessions), keys=[os.environ["SESSION_KEY"]])
    await engine.setup()
    port = int(os.environ.get("PORT", "8080"))
    server = await asyncio.start_server(lambda reader, writer: serve(engine, reader, writer), "localhost", port)
    print(f"http://localhost:{server.sockets[0].getsockname()[1]}", flush=True)
    try:
        await server.serve_forever()
    finally:
        await engine.close()
        await client.close()


if __name__ == "__main__":
    asyncio.run(main())
