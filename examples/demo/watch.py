"""What the engine does for one request, told to the page in a header of the answer."""

import json
import time
from contextvars import ContextVar
from typing import Any, NamedTuple

from pymongo.monitoring import CommandStartedEvent
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mongosession import Event, EventKind, Session, SessionEngine
from mongosession.testing import CommandCounter
from mongosession.tokens import Token, TokenCodec, session_id

REPORT = "engine-report"


class Note(NamedTuple):
    """What has happened in one request so far."""

    commands: list[str]
    events: list[Event]


# Driver and engine call back in the context of the request that they work for, however many there are at a time.
_note: ContextVar[Note | None] = ContextVar("note", default=None)


class Commands(CommandCounter):
    """Notes the commands that the driver sends, each with the request that caused it."""

    def started(self, event: CommandStartedEvent) -> None:
        """Called by the driver."""
        super().started(event)
        sent = self.take()
        if (note := _note.get()) is not None:
            note.commands.extend(sent)


def note_event(event: Event) -> None:
    """Notes an event with the request that caused it: ``SessionEngine(on_event=note_event)``."""
    if (note := _note.get()) is not None:
        note.events.append(event)


def token_sent(headers: Headers) -> str:
    """The cookie's value that an answer sets; empty where it sets none, and where it deletes the cookie."""
    return headers.get("set-cookie", "").partition(";")[0].partition("=")[2]


class Watch:
    """ASGI middleware around an application with sessions: adds the header ``engine-report``, JSON.

    Attributes:
        engine: the engine of that application.
        codec: reads and writes tokens as the engine does.
        retired: session id -> the token that the last log-in retired.
    """

    def __init__(self, app: ASGIApp, engine: SessionEngine, codec: TokenCodec) -> None:
        self.app = app
        self.engine = engine
        self.codec = codec
        self.retired: dict[str, str] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        note = Note([], [])
        before = _note.set(note)

        async def send_with_report(message: Message) -> None:
            if message["type"] == "http.response.start" and "session" in scope:
                # The session middleware has committed by now: its cookie is among these headers.
                report = await self._report(scope, Headers(raw=message["headers"]), note)
                header = (REPORT.encode(), json.dumps(report).encode())
                message = {**message, "headers": [*message["headers"], header]}
            await send(message)

        try:
            await self.app(scope, receive, send_with_report)
        finally:
            _note.reset(before)

    async def _report(self, scope: Scope, headers: Headers, note: Note) -> dict[str, Any]:
        session: Session = scope["session"]
        cookie = HTTPConnection(scope).cookies.get(self.engine.cookie.name, "")
        presented, sent = self.token(cookie), self.token(token_sent(headers))
        kinds = [event.kind for event in note.events]
        commands = note.commands.copy()  # the look at the document below is not the engine's
        if session.id is not None and EventKind.RENEWED in kinds:
            self.retired[session.id] = cookie
        held = session.id or (session_id(presented.sid).hex() if presented else None)
        return {
            "request": f"{scope['method']} {scope['path']}",
            "verdict": session.verdict,
            "holds": session.id is not None,
            "presented": _shown(presented),
            "sent": _shown(sent),
            "deletes": "set-cookie" in headers and sent is None,
            "commands": commands,
            "events": kinds,
            "document": await self.document(held) if held else None,
        }

    async def document(self, id: str) -> dict[str, Any] | None:
        """What the document of a session says, apart from its data; None where there is none."""
        record = await self.engine.store.load(bytes.fromhex(id))
        return record and {
            "id": id,
            "subject": record.subject,
            "epoch": None if record.reason else f"{record.epoch:08x}",
            "generation": record.generation,
            "rotated_ago": time.time() - record.rotated_at,
            "ended": record.reason,
        }

    def token(self, text: str) -> Token | None:
        """The token of a cookie's value, or None where it does not verify."""
        read = self.codec.read(text, time.time())
        return read and read.token


def _shown(token: Token | None) -> dict[str, Any] | None:
    return token and {"epoch": f"{token.epoch:08x}", "generation": token.generation}
