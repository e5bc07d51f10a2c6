"""The sites that uvicorn serves: ``python -m bench.apps.asgi TARGET PORT MONGODB_URI``.

All are bare ASGI applications, so that the difference between them is the sessions'.
"""

import asyncio
import itertools
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import uvicorn
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient
from starlette.middleware.sessions import SessionMiddleware as StarletteMiddleware

from mongosession import MongoStore, Rotation, SessionEngine
from mongosession_asgi import SessionMiddleware
from mongosession_asgi.types import Application, Receive, Scope, Send

from .common import DATA, KEY, Asked, act

DRIVERS: dict[str, Any] = {"pymongo": AsyncMongoClient, "motor": AsyncIOMotorClient}


async def reply(send: Send, text: str) -> None:
    """Answer."""
    body = text.encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def asked(scope: Scope) -> Asked:
    """What the request asks for."""
    if not scope["query_string"]:
        return Asked(scope["path"], "", 0)
    return Asked.of(f"{scope['path']}?{scope['query_string'].decode()}")


def site(count: Callable[[Any], str] | None = None) -> Application:
    """A site over ``scope["session"]``; ``count`` does it where the library has a way of its own."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        request, session = asked(scope), scope["session"]
        if request.wait:
            await asyncio.sleep(request.wait)
        text = count(session) if count is not None and request.path == "/count" else act(request, session)
        await reply(send, text)

    return serve


def increment(session: Any) -> str:
    """Count one more with mongosession."""
    session.increment("counter")
    return "ok"


def floor(collection: Any) -> Application:
    """One ``find_one`` by ``_id``, or that and one update, and nothing else."""
    sessions = [b"%016d" % number for number in range(64)]
    turn = itertools.cycle(sessions)
    ready = False

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal ready
        if not ready and scope["path"] == "/begin":
            ready = True
            for each in sessions:
                await collection.replace_one({"_id": each}, {"_id": each, "data": DATA}, upsert=True)
        where = {"_id": next(turn)}
        document = await collection.find_one(where)
        if scope["path"] == "/change":
            await collection.update_one(where, {"$set": {"data.visits": document["data"]["visits"] + 1}})
        await reply(send, document["data"]["user"])

    return serve


def ours(collection: Any, **settings: Any) -> Application:
    """mongosession."""
    engine = SessionEngine(MongoStore(collection), keys=[KEY], **settings)
    sessions = SessionMiddleware(site(increment), engine=engine)
    ready = False

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal ready
        if not ready:
            await engine.setup()
            ready = True
        await sessions(scope, receive, send)

    return serve


def starsessions(collection: Any) -> Application:
    """starsessions, with a store that does one command a call."""
    library: Any = import_module("starsessions")
    stores: Any = import_module("starsessions.stores.base")

    class Store(stores.SessionStore):  # type: ignore[misc]
        """Whole documents by id."""

        async def read(self, session_id: str, lifetime: int) -> bytes:
            found = await collection.find_one({"_id": session_id})
            return b"" if found is None else bytes(found["data"])

        async def write(self, session_id: str, data: bytes, lifetime: int, ttl: int) -> str:
            await collection.update_one({"_id": session_id}, {"$set": {"data": data}}, upsert=True)
            return session_id

        async def remove(self, session_id: str) -> None:
            await collection.delete_one({"_id": session_id})

    inner = library.SessionAutoloadMiddleware(site())
    wrapped: Application = library.SessionMiddleware(inner, store=Store())
    return wrapped


def make(target: str, uri: str) -> Application:
    """The application called so: what it is, and the driver where it has one.

    Raises:
        ValueError: there is none.
    """
    kind, _, driver = target.partition("-")
    if kind == "starlette":
        return StarletteMiddleware(site(), secret_key=KEY)
    collection = DRIVERS[driver](uri).bench[target]
    match kind:
        case "floor":
            return floor(collection)
        case "ours":
            return ours(collection)
        case "seed":  # the rule of 2011: three tokens, each valid until three newer ones exist
            return ours(collection, rotation=Rotation(ttl=5, window=3, grace=0, on_copied="refuse"))
        case "starsessions":
            return starsessions(collection)
        case _:
            raise ValueError(f"no site is called {target!r}")


async def main(target: str, port: str, uri: str) -> None:
    """Serve until terminated."""
    application = make(target, uri)  # in the loop, as Motor wants it
    config = uvicorn.Config(application, port=int(port), lifespan="off", log_config=None, access_log=False, ws="none")
    await uvicorn.Server(config).serve()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=import_module("uvloop").new_event_loop) as runner:  # as uvicorn's own command does
        runner.run(main(*sys.argv[1:]))
