"""The whole demo: the page, the application, the same application under other rules, and a store for all of them."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pymongo import AsyncMongoClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from examples.demo.app import create_app
from examples.demo.older import FEW, QUICK_TTL, Older
from examples.demo.watch import Commands, Watch, note_event
from mongosession import Cookie, MemoryStore, MongoStore, Rotation, SessionEngine
from mongosession.keys import KeyRing
from mongosession.store import Store
from mongosession.tokens import TokenCodec


def create_demo(uri: str | None, *, key: str, described: str) -> Starlette:
    """The demo as one ASGI application.

    Args:
        uri: the connection string of a MongoDB; None: sessions live in this process's memory.
        key: the secret key.
        described: where the sessions live, in words for the page.
    """
    client: AsyncMongoClient[dict[str, Any]] | None = None
    store: Store = MemoryStore()
    if uri is not None:
        client = AsyncMongoClient(uri, event_listeners=[Commands()])
        store = MongoStore(client.get_default_database("mongosession_demo").sessions)
    cookie, rotation = Cookie(), Rotation()  # the defaults, which the page shows
    codec = TokenCodec(KeyRing([key]), cookie.name)

    def site(rotation: Rotation) -> Watch:
        engine = SessionEngine(store, keys=[key], rotation=rotation, cookie=cookie, on_event=note_event)
        return Watch(create_app(engine), engine, codec)

    usual = site(rotation)
    older = Older(usual=usual, strict=site(Rotation(grace=0, on_copied="refuse")), quick=site(Rotation(ttl=QUICK_TTL)))
    settings = {
        "store": described,
        "mongodb": uri is not None,
        "cookie": cookie.name,
        "ttl": rotation.ttl,
        "window": rotation.window,
        "grace": rotation.grace,
        "accepted": rotation.accepted,
        "few": FEW,
    }

    async def show_settings(request: Request) -> JSONResponse:
        return JSONResponse(settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        await usual.engine.setup()
        yield
        await usual.engine.close()
        if client is not None:
            await client.close()

    return Starlette(
        routes=[
            Route("/settings", show_settings),
            Route("/older/before-log-in", older.before_log_in, methods=["POST"]),
            Route("/older/{trial}", older.generations_back, methods=["POST"]),
            Mount("/session", usual),
            Mount("/", StaticFiles(directory=Path(__file__).with_name("page"), html=True)),
        ],
        lifespan=lifespan,
    )
