"""An ordinary Starlette application with sessions. What makes them visible is around it, in ``stage.py``."""

import asyncio
import random

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from mongosession import Session, SessionEngine
from mongosession_asgi import SessionMiddleware


async def look(request: Request) -> JSONResponse:
    return held(request)


async def visit(request: Request) -> JSONResponse:
    session: Session = request.scope["session"]
    session.increment("visits")  # atomic: two tabs at once count two visits
    return held(request)


async def basket(request: Request) -> JSONResponse:
    session: Session = request.scope["session"]
    session.append("basket", await text(request))
    return held(request)


async def mark(request: Request) -> JSONResponse:
    session: Session = request.scope["session"]
    await asyncio.sleep(random.uniform(0, 0.2))  # so that requests and answers overtake each other
    session[f"mark {request.path_params['number']}"] = await text(request)
    session.increment("marks")
    return held(request)


async def log_in(request: Request) -> JSONResponse:
    session: Session = request.scope["session"]
    session.renew(subject="user:ada")
    return held(request)


async def log_out(request: Request) -> JSONResponse:
    session: Session = request.scope["session"]
    session.destroy()
    return held(request)


async def text(request: Request) -> str:
    return (await request.body()).decode(errors="replace")[:40]


def held(request: Request) -> JSONResponse:
    """What the session holds. 409 where nothing can be stored any more: the browser has a newer cookie by now."""
    session: Session = request.scope["session"]
    return JSONResponse(session, status_code=409 if session.late else 200)


def create_app(engine: SessionEngine) -> Starlette:
    """The application over an engine."""
    return Starlette(
        routes=[
            Route("/look", look),
            Route("/visit", visit, methods=["POST"]),
            Route("/basket", basket, methods=["POST"]),
            Route("/mark/{number:int}", mark, methods=["POST"]),
            Route("/log-in", log_in, methods=["POST"]),
            Route("/log-out", log_out, methods=["POST"]),
        ],
        middleware=[Middleware(SessionMiddleware, engine=engine)],
    )
