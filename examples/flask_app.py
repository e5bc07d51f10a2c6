"""Flask: ``flask.session`` itself, kept in MongoDB.

    pip install mongosession flask
    SESSION_KEY=$(python -m mongosession key) flask --app examples.flask_app run

It expects a MongoDB at MONGODB_URI, by default on this host.
"""

import os
from typing import Any

import flask
from flask.sessions import SessionInterface, SessionMixin
from flask.typing import ResponseReturnValue
from pymongo import AsyncMongoClient

from mongosession import MongoStore, SessionEngine
from mongosession_wsgi import SessionMiddleware


class MongoSessions(SessionInterface):
    """Hands Flask the session that the middleware opened; the middleware commits it."""

    def open_session(self, app: flask.Flask, request: flask.Request) -> SessionMixin | None:
        session: SessionMixin | None = request.environ.get("mongosession")  # None on skipped routes: empty, read-only
        return session

    def save_session(self, app: flask.Flask, session: SessionMixin, response: flask.Response) -> None:
        pass


def make_engine() -> SessionEngine:
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(os.environ.get("MONGODB_URI", "mongodb://localhost"))
    return SessionEngine(MongoStore(client.examples.sessions), keys=[os.environ["SESSION_KEY"]])


app = flask.Flask(__name__)
app.session_interface = MongoSessions()
app.wsgi_app = SessionMiddleware(app.wsgi_app, make_engine)  # type: ignore[method-assign]


@app.get("/")
def home() -> str:
    flask.session["visits"] = flask.session.get("visits", 0) + 1
    return f"visit {flask.session['visits']}"


@app.post("/login/<name>")
def log_in(name: str) -> ResponseReturnValue:
    flask.request.environ["mongosession"].renew(subject=f"user:{name}")
    return flask.redirect("/", 303)
