"""Presents older tokens of a visitor, as a slow network, an old cookie jar or a thief would.

A page cannot do that by itself: the cookie is ``HttpOnly``. Nothing is made up, though. The older token is byte for
byte one that was the newest before, derived again with the demo's key, and it goes through a whole application in this
process. Where the session is too young to have tokens that old, an engine on the same store that rotates every
millisecond ages it first, token by token, and the visitor gets the newest one.
"""

import asyncio
import json
from typing import Any, NamedTuple

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Message, Scope

from examples.demo.watch import REPORT, Watch, token_sent

FEW = 5
"""Generations: beyond the window of 3, and within the 13 that open the session."""

QUICK_TTL = 0.001
"""Seconds."""


class Answer(NamedTuple):
    """What came of a token that was presented."""

    report: dict[str, Any]
    headers: Headers


class Older:
    """The endpoints that present older tokens.

    Args:
        usual: the application, as browsers know it.
        strict: the same with ``grace=0``.
        quick: the same with ``ttl=QUICK_TTL``.
    """

    def __init__(self, *, usual: Watch, strict: Watch, quick: Watch) -> None:
        self.usual = usual
        self.quick = quick
        self.trials = {
            "few": (usual, FEW),
            "strict": (strict, FEW),
            "copied": (usual, usual.engine.terms.rotation.accepted),
        }

    async def generations_back(self, request: Request) -> JSONResponse:
        """Present the token that was the newest some generations ago."""
        trial = request.path_params["trial"]
        if trial not in self.trials:
            raise HTTPException(404)
        site, back = self.trials[trial]
        cookie, document = await self._visitor(request)
        aged: list[Answer] = []
        while document["generation"] < back:
            await asyncio.sleep(5 * QUICK_TTL)
            aged.append(await present(self.quick, cookie))
            cookie = token_sent(aged[-1].headers)
            document = aged[-1].report["document"]
        newest = self.usual.token(cookie)
        if newest is None:
            raise HTTPException(409, "The session ended meanwhile.")
        old = self.usual.codec.write(newest._replace(generation=document["generation"] - back))
        presented = await present(site, old)
        return JSONResponse(
            {"aged": [answer.report for answer in aged], "presented": presented.report},
            headers={"set-cookie": aged[-1].headers["set-cookie"]} if aged else None,
        )

    async def before_log_in(self, request: Request) -> JSONResponse:
        """Present the token that the last log-in retired."""
        _, document = await self._visitor(request)
        retired = self.usual.retired.get(document["id"])
        if retired is None:
            raise HTTPException(409, "Log in first: there is no token from before a log-in yet.")
        presented = await present(self.usual, retired)
        return JSONResponse({"aged": [], "presented": presented.report})

    async def _visitor(self, request: Request) -> tuple[str, dict[str, Any]]:
        """The token that the browser sent with this request, and the document of its session."""
        engine = self.usual.engine
        session = await engine.open(request.headers.get("cookie"), tokens=False)
        document = await self.usual.document(session.id) if session.id else None
        if document is None:
            raise HTTPException(409, "This browser holds no session: visit first.")
        return request.cookies[engine.cookie.name], document


async def present(site: Watch, token: str) -> Answer:
    """Serve ``GET /session/look`` in this process to somebody who presents this token."""
    cookie = f"{site.engine.cookie.name}={token}".encode()
    scope: Scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": "/session/look",
        "root_path": "/session",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"cookie", cookie)],
    }
    messages: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        messages.append(message)

    await site(scope, receive, send)
    headers = Headers(raw=messages[0]["headers"])
    return Answer(json.loads(headers[REPORT]), headers)
