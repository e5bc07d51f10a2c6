"""aiohttp-session with its Mongo storage: ``python -m bench.apps.aiohttp_site PORT MONGODB_URI``."""

import asyncio
import sys
from importlib import import_module
from typing import Any

from motor.motor_asyncio import AsyncIOMotorClient

from .common import Asked, act


async def make(uri: str) -> Any:
    """The application."""
    web: Any = import_module("aiohttp.web")
    library: Any = import_module("aiohttp_session")
    storage: Any = import_module("aiohttp_session_mongo")

    async def serve(request: Any) -> Any:
        asked = Asked.of(request.path_qs)
        session = await library.get_session(request)
        if asked.wait:
            await asyncio.sleep(asked.wait)
        return web.Response(text=act(asked, session))

    client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(uri)
    app = web.Application()
    library.setup(app, storage.MongoStorage(client.bench.aiohttp, max_age=7200))
    app.router.add_get("/{path}", serve)
    return app


if __name__ == "__main__":
    # On uvloop, as the ASGI applications.
    loop = import_module("uvloop").new_event_loop()
    run_app = import_module("aiohttp.web").run_app
    run_app(make(sys.argv[2]), host="127.0.0.1", port=int(sys.argv[1]), print=None, loop=loop)
