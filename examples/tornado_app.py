"""Tornado: members only, log-in, log-out, and a WebSocket that counts.

    pip install "mongosession[tornado]"
    SESSION_KEY=$(python -m mongosession key) python -m examples.tornado_app

It expects a MongoDB at MONGODB_URI, by default on this host.
"""

import asyncio
import os
from typing import Any

from pymongo import AsyncMongoClient
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler, authenticated
from tornado.websocket import WebSocketHandler

from mongosession import MongoStore, Session, SessionEngine
from mongosession_tornado import with_session


@with_session  # on the class: open before prepare and get_current_user, here and in every subclass
class Page(RequestHandler):
    session: Session  # for type checkers

    def get_current_user(self) -> str | None:
        return self.session.subject


class Home(Page):
    @authenticated
    def get(self) -> None:
        self.session["visits"] = self.session.get("visits", 0) + 1
        self.write(f"visit {self.session['visits']} by {self.current_user}")


class LogIn(Page):
    def get(self) -> None:
        self.write('<form method="post"><input name="name" placeholder="your name"><button>log in</button></form>')

    def post(self) -> None:
        self.session.renew(subject=f"user:{self.get_argument('name')}")  # every older token is dead at once
        self.redirect("/", status=303)


class LogOut(Page):
    def post(self) -> None:
        self.session.destroy()
        self.redirect("/login", status=303)


class Counter(WebSocketHandler):
    session: Session

    @with_session  # on a method, as its outermost decorator: here the handshake, and with it the whole connection
    async def get(self, *args: Any, **kwargs: Any) -> None:
        await super().get(*args, **kwargs)

    async def on_message(self, message: str | bytes) -> None:
        self.session.increment("messages")
        if await self.session.save():
            await self.write_message(f"message {self.session['messages']}")
        else:
            self.close(4401, "logged out, or in, elsewhere in the meantime")


async def main() -> None:
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(os.environ.get("MONGODB_URI", "mongodb://localhost"))
    engine = SessionEngine(MongoStore(client.examples.sessions), keys=[os.environ["SESSION_KEY"]])
    await engine.setup()  # indexes; safe at every start, from every process
    rules: list[Any] = [("/", Home), ("/login", LogIn), ("/logout", LogOut), ("/counter", Counter)]
    server = HTTPServer(Application(rules, session_engine=engine, login_url="/login"))
    sockets = bind_sockets(int(os.environ.get("PORT", "8888")), "localhost")
    server.add_sockets(sockets)
    print(f"http://localhost:{sockets[0].getsockname()[1]}", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await engine.close()  # waits for writes under way
        await client.close()


if __name__ == "__main__":
    asyncio.run(main())
