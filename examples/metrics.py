"""Prometheus: how often each kind of event happened, at /metrics.

    pip install "mongosession[starlette]" prometheus-client uvicorn
    SESSION_KEY=$(python -m mongosession key) uvicorn examples.metrics:app

It expects a MongoDB at MONGODB_URI, by default on this host. Let nobody but Prometheus reach /metrics. Where several
worker processes share a port, see "Multiprocess Mode" in the documentation of prometheus-client.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, generate_latest
from pymongo import AsyncMongoClient
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from mongosession import Event, EventKind, MongoStore, SessionEngine
from mongosession_asgi import SessionMiddleware, get_session

registry = CollectorRegistry()
events = Counter("mongosession_events", "What happened to sessions.", ["kind"], registry=registry)
for kind in EventKind:
    events.labels(kind)  # 0 from the start: an increase from nothing to 1 raises no alert


def count(event: Event) -> None:
    events.labels(event.kind).inc()  # the kind alone: with ids as labels, each session would be a time series


client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(os.environ.get("MONGODB_URI", "mongodb://localhost"))
engine = SessionEngine(MongoStore(client.examples.sessions), keys=[os.environ["SESSION_KEY"]], on_event=count)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[None]:
    await engine.setup()
    yield
    await engine.close()
    await client.close()


async def home(request: Request) -> Response:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return PlainTextResponse(f"visit {request.session['visits']}")


async def log_in(request: Request) -> Response:
    get_session(request).renew(subject=f"user:{request.path_params['name']}")
    return RedirectResponse("/", status_code=303)


async def metrics(request: Request) -> Response:
    return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


app = Starlette(
    routes=[Route("/", home), Route("/login/{name}", log_in, methods=["POST"]), Route("/metrics", metrics)],
    middleware=[Middleware(SessionMiddleware, engine=engine, skip=["/metrics"])],
    lifespan=lifespan,
)
