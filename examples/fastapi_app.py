"""FastAPI: the session as a dependency, and a basket that no parallel request can spoil.

    pip install mongosession fastapi uvicorn
    SESSION_KEY=$(python -m mongosession key) uvicorn examples.fastapi_app:app

It expects a MongoDB at MONGODB_URI, by default on this host.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from pymongo import AsyncMongoClient

from mongosession import MongoStore, Session, SessionEngine
from mongosession_asgi import SessionMiddleware, get_session

client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(os.environ.get("MONGODB_URI", "mongodb://localhost"))
engine = SessionEngine(MongoStore(client.examples.sessions), keys=[os.environ["SESSION_KEY"]])


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    await engine.setup()  # indexes; safe at every start, from every process
    yield
    await engine.close()  # waits for writes under way
    await client.close()


app = FastAPI(lifespan=lifespan)
app.add_middleware(SessionMiddleware, engine=engine)


def current_session(request: Request) -> Session:
    """The session, or a 409 for a request from before a log-in or a log-out: the browser has a newer cookie already."""
    session = get_session(request)
    if session.late:
        raise HTTPException(409, "this page is from before your log-in; load it again")
    return session


CurrentSession = Annotated[Session, Depends(current_session)]


@app.get("/basket")
async def basket(session: CurrentSession) -> list[str]:
    """What the basket holds."""
    return list(session.get("basket", []))


@app.post("/basket/{item}")
async def add(item: str, session: CurrentSession) -> list[str]:
    """Put something into it: atomically, so that two tabs at once lose nothing."""
    session.append("basket", item)
    return list(session["basket"])
