"""The site in Starlette."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from mongosession_asgi import SessionMiddleware, get_session

from .site import act, make_engine

engine = make_engine()


async def page(request: Request) -> Response:
    session = get_session(request) if request.path_params["page"] != "quiet" else request.scope["session"]
    reply = act(session, request.path_params["page"], request.path_params.get("argument", ""))
    body = json.dumps(session) if reply.body is None else reply.body
    return Response(body, reply.status, headers=dict(reply.headers))


async def stream(request: Request) -> Response:
    session = get_session(request)
    session["before"] = True
    if request.path_params:
        await session.save()

    async def chunks() -> AsyncIterator[str]:
        session["first"] = True
        yield "one "
        session["while"] = True
        yield "two"
        session["after"] = True

    return StreamingResponse(chunks())


async def save(request: Request) -> Response:
    session = get_session(request)
    session["early"] = True
    saved = await session.save()
    session["later"] = True
    return Response(json.dumps({"saved": saved}))


async def socket(socket: WebSocket) -> None:
    session = get_session(socket)
    if socket.path_params:
        await session.save()
    await socket.accept()
    async for key in socket.iter_text():
        session.increment(key)
        await socket.send_text(json.dumps({"saved": await session.save(), "session": session}))
    session["left"] = True


@asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncGenerator[None, None]:
    await engine.setup()
    yield
    await engine.close()


app = Starlette(
    routes=[
        Route("/stream", stream),
        Route("/stream/{saved}", stream),
        Route("/save", save),
        WebSocketRoute("/socket", socket),
        WebSocketRoute("/socket/{saved}", socket),
        Route("/{page}", page, methods=["GET", "POST"]),
        Route("/{page}/{argument}", page, methods=["GET", "POST"]),
    ],
    middleware=[Middleware(SessionMiddleware, engine=engine)],
    lifespan=lifespan,
)
