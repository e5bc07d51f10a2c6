"""The site in Tornado."""

import asyncio
import json
import sys

import tornado.web
from tornado.websocket import WebSocketHandler

from mongosession import Session
from mongosession_tornado import with_session

from .site import act, make_engine


class Page(tornado.web.RequestHandler):
    session: Session

    @with_session
    async def get(self, page: str, argument: str = "") -> None:
        reply = act(self.session, page, argument)
        self.set_status(reply.status, "Whatever")
        for name, value in reply.headers:
            self.set_header(name, value)
        await self.finish(json.dumps(self.session) if reply.body is None else reply.body)

    post = head = get


class Stream(tornado.web.RequestHandler):
    session: Session

    @with_session
    async def get(self, saved: str = "") -> None:
        self.session["before"] = True
        if saved:
            await self.session.save()
        self.session["first"] = True
        self.write("one ")
        await self.flush()
        self.session["while"] = True
        self.write("two")
        await self.flush()
        self.session["after"] = True


class Save(tornado.web.RequestHandler):
    session: Session

    @with_session
    async def get(self) -> None:
        self.session["early"] = True
        saved = await self.session.save()
        self.session["later"] = True
        self.write(json.dumps({"saved": saved}))


@with_session
class Socket(WebSocketHandler):
    session: Session

    async def prepare(self) -> None:
        if self.path_args:
            await self.session.save()

    async def on_message(self, message: str | bytes) -> None:
        assert isinstance(message, str)
        self.session.increment(message)
        await self.write_message(json.dumps({"saved": await self.session.save(), "session": self.session}))

    def on_close(self) -> None:
        self.session["left"] = True


async def main(port: int) -> None:
    engine = make_engine()
    await engine.setup()
    application = tornado.web.Application(
        [
            ("/stream", Stream),
            ("/stream/(.*)", Stream),
            ("/save", Save),
            ("/socket", Socket),
            ("/socket/(.*)", Socket),
            ("/([^/]+)", Page),
            ("/([^/]+)/(.*)", Page),
        ],
        session_engine=engine,
    )
    application.listen(port, "localhost")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
