"""A chat over WebSockets: the session is opened at the handshake, and saved while the connection lives.

    pip install "mongosession[starlette]" "uvicorn[standard]"
    SESSION_KEY=$(python -m mongosession key) uvicorn examples.websocket_chat:app

It expects a MongoDB at MONGODB_URI, by default on this host. A socket that only waits costs no database command.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from pymongo import AsyncMongoClient
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from mongosession import MongoStore, SessionEngine
from mongosession_asgi import SessionMiddleware, get_session

client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(os.environ.get("MONGODB_URI", "mongodb://localhost"))
engine = SessionEngine(MongoStore(client.examples.sessions), keys=[os.environ["SESSION_KEY"]])
room: set[WebSocket] = set()


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[None]:
    await engine.setup()  # indexes; safe at every start, from every process
    yield
    await engine.close()  # waits for writes under way
    await client.close()


async def enter(request: WebSocket) -> PlainTextResponse:
    request.session["name"] = request.path_params["name"]
    return PlainTextResponse(f"you are {request.session['name']}")


async def chat(socket: WebSocket) -> None:
    session = get_session(socket)
    name = session.get("name")
    if name is None:
        await socket.close(4401, "enter first: /enter/your-name")
        return
    await socket.accept()  # a new token, if one is due, goes out with this
    room.add(socket)
    try:
        async for text in socket.iter_text():
            session.increment("lines")
            if not await session.save():  # logged out, or in, elsewhere in the meantime
                await socket.close(4401, "your session has changed; connect again")
                return
            for each in room:
                await each.send_text(f"{name} ({session['lines']}): {text}")
    except WebSocketDisconnect:
        pass
    finally:
        room.discard(socket)


app = Starlette(
    routes=[Route("/enter/{name}", enter), WebSocketRoute("/chat", chat)],
    middleware=[Middleware(SessionMiddleware, engine=engine)],
    lifespan=lifespan,
)
