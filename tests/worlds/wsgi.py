"""The site in plain WSGI."""

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from mongosession import Session
from mongosession_wsgi import SessionMiddleware, wait

from .site import act, make_engine

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def site(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    session: Session = environ["mongosession"]
    _, page, *rest = environ["PATH_INFO"].split("/")
    if page == "stream":
        return stream(session, start_response, saved=bool(rest))
    if page == "save":
        return save(session, start_response)
    reply = act(session, page, rest[0] if rest else "")
    body = json.dumps(session) if reply.body is None else reply.body
    start_response(f"{reply.status} Whatever", [("Content-Length", str(len(body))), *reply.headers])
    return [body.encode()]


def stream(session: Session, start_response: "StartResponse", *, saved: bool) -> Iterator[bytes]:
    session["before"] = True
    if saved:
        wait(session.save())
    start_response("200 OK", [])
    session["first"] = True
    yield b"one "
    session["while"] = True
    yield b"two"
    session["after"] = True


def save(session: Session, start_response: "StartResponse") -> Iterable[bytes]:
    session["early"] = True
    saved = wait(session.save())
    session["later"] = True
    start_response("200 OK", [])
    return [json.dumps({"saved": saved}).encode()]


app = SessionMiddleware(site, make_engine)
