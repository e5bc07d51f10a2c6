"""flask-session with its MongoDB backend, for gunicorn: ``bench.apps.flask_site:make(uri, best)``."""

import time
from importlib import import_module
from typing import Any

from flask import Flask, request, session
from pymongo import MongoClient

from .common import KEY, Asked, act


def make(uri: str, best: bool) -> Flask:
    """The application.

    Args:
        uri: of the server.
        best: write only what changed, and with an index on the field that its look-ups ask for.
    """
    client: MongoClient[dict[str, Any]] = MongoClient(uri)
    collection = f"flask-{best}"
    app = Flask(__name__)
    app.secret_key = KEY
    app.config.update(
        SESSION_TYPE="mongodb",
        SESSION_MONGODB=client,
        SESSION_MONGODB_DB="bench",
        SESSION_MONGODB_COLLECT=collection,
    )
    if best:
        client.bench[collection].create_index("id")
        app.config["SESSION_REFRESH_EACH_REQUEST"] = False
    import_module("flask_session").Session(app)

    @app.get("/<path>")
    def serve(path: str) -> str:
        asked = Asked.of(request.full_path)
        if asked.wait:
            time.sleep(asked.wait)
        return act(asked, session)

    return app
