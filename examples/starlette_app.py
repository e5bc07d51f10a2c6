"""Starlette: a visit counter, log-in, log-out.

    pip install "mongosession[starlette]" uvicorn
    SESSION_KEY=$(python -m mongosession key) uvicorn examples.starlette_app:app

It expects a MongoDB at MONGODB_URI, by default on this host.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from pymongo import AsyncMongoClient
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from mongosession import MongoStore, SessionEngine
from mongosession_asgi import SessionMiddleware, get_session

client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(os.environ.get("MONGODB_URI", "mongodb://localhost"))
engine = SessionEngine(MongoStore(client.examples.sessions), keys=[os.environ["SESSION_KEY"]])


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[None]:
    await engine.setup()  # indexes; safe at every start, from every process
    yield
    await engine.close()  # waits for writes under way
    await client.close()


async def home(request: Request) -> Response:
    request.session["visits"] = request.session.get("visits", 0) + 1
    who = get_session(request).subject or "nobody"
    return PlainTextResponse(f"visit {request.session['visits']} by {who}")


async def log_in(request: Request) -> Response:
    session = get_session(request)
    session.renew(subject=f"user:{request.path_params['name']}")  # every older token is dead at once
    return RedirectResponse("/", status_code=303)


async def log_out(request: Request) -> Response:
    get_session(request).destroy()
    return RedirectResponse("/", status_code=303)


app = Starlette(
    routes=[
        Route("/", home),
        Route("/login/{name}", log_in, methods=["POST"]),
        Route("/logout", log_out, methods=["POST"]),
    ],
    middleware=[Middleware(SessionMiddleware, engine=engine)],
    lifespan=lifespan,
)
