"""The asynchronous session of 2011 (AsyncMongo-Sessions, for Tornado and bit.ly's asyncmongo), as one writes it today.

A decorator puts a dictionary at ``self.session``; the token in the cookie is replaced every five seconds.

    pip install "mongosession[tornado]"
    SESSION_KEY=$(python -m mongosession key) python -m examples.tornado_2011

It expects a MongoDB at MONGODB_URI, by default on this host.
"""

import asyncio
import os
from typing import Any

from pymongo import AsyncMongoClient
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.template import DictLoader
from tornado.web import Application, RequestHandler

from mongosession import Cookie, MongoStore, Rotation, Session, SessionEngine, Timeouts
from mongosession_tornado import with_session

INDEX = """
<p>visit {{ session["test"] }}{% if "name" in session %} by {{ session["name"] }}{% end %}</p>
<form method="post"><input name="name"><button>log in</button></form>
<form method="post" action="/logout"><button>log out</button></form>
"""


class Index(RequestHandler):
    session: Session  # for type checkers

    @with_session  # was: @asyncmongosession
    async def get(self) -> None:
        if "test" in self.session:  # was: self.session.has_key("test")
            self.session["test"] += 1
        else:
            self.session["test"] = 1
        await self.render("index.html", session=self.session)

    @with_session
    def post(self) -> None:
        self.session.renew()  # new: whatever token was known before the log-in is dead
        self.session["name"] = self.get_argument("name")
        self.redirect("/", status=303)


class LogOut(RequestHandler):
    session: Session

    @with_session
    def post(self) -> None:
        self.session.destroy()  # was: self.session.delete()
        self.redirect("/", status=303)


async def main() -> None:
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(os.environ.get("MONGODB_URI", "mongodb://localhost"))
    engine = SessionEngine(
        MongoStore(client.examples.sessions),  # MONGO_COLLECTION
        keys=[os.environ["SESSION_KEY"]],  # new: tokens are signed, and none is in the database
        cookie=Cookie(name="__Host-asyncmongo", path="/", persistent=True),  # COOKIE_NAME, _PATH, SET_COOKIE_EXPIRES
        timeouts=Timeouts(idle=7200),  # SESSION_EXPIRE_TIME
        rotation=Rotation(ttl=5, window=3, grace=0, on_copied="refuse"),  # SESSION_TOKEN_TTL, the three newest tokens
    )  # without grace and on_copied: the same, and kinder to slow networks
    await engine.setup()
    templates = DictLoader({"index.html": INDEX})
    server = HTTPServer(
        Application([("/", Index), ("/logout", LogOut)], session_engine=engine, template_loader=templates)
    )
    sockets = bind_sockets(int(os.environ.get("PORT", "8888")), "localhost")
    server.add_sockets(sockets)
    print(f"http://localhost:{sockets[0].getsockname()[1]}", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await engine.close()
        await client.close()


if __name__ == "__main__":
    asyncio.run(main())
