"""The servers that are compared, each started as its users start it: one process, on a core of its own."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import NamedTuple

from .load import Client
from .results import ROOT

THREADS = ("--worker-class", "gthread", "--threads", "16")
NODE = ROOT / "bench" / "peers" / "node"
START_SECONDS = 60


class Server(NamedTuple):
    """One of the compared.

    Attributes:
        name: what tables call it.
        command: port, URI of the MongoDB server -> what is run.
        needs: a module, or a program, without which it is left out.
    """

    name: str
    command: Callable[[int, str], list[str]]
    needs: str = ""


def _asgi(target: str) -> Callable[[int, str], list[str]]:
    return lambda port, uri: [sys.executable, "-m", "bench.apps.asgi", target, str(port), uri]


def _wsgi(factory: str, *options: str) -> Callable[[int, str], list[str]]:
    def command(port: int, uri: str) -> list[str]:
        gunicorn = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--log-level", "error"]
        return [*gunicorn, *options, f"bench.apps.{factory.format(repr(uri))}"]

    return command


def _node(setting: str) -> Callable[[int, str], list[str]]:
    return lambda port, uri: ["node", str(NODE / "server.js"), str(port), uri, setting]


def _aiohttp(port: int, uri: str) -> list[str]:
    return [sys.executable, "-m", "bench.apps.aiohttp_site", str(port), uri]


OURS = {
    "ours-pymongo": Server("mongosession, PyMongo async", _asgi("ours-pymongo")),
    "ours-motor": Server("mongosession, Motor", _asgi("ours-motor")),
    "seed-pymongo": Server("mongosession as the rule of 2011, PyMongo async", _asgi("seed-pymongo")),
}
FLOORS = {
    "floor-pymongo": Server("the floor, PyMongo async", _asgi("floor-pymongo")),
    "floor-motor": Server("the floor, Motor", _asgi("floor-motor")),
}
PEERS = {
    "starlette": Server("Starlette's SessionMiddleware (a cookie, no database)", _asgi("starlette")),
    "starsessions-motor": Server("starsessions, a store on Motor", _asgi("starsessions-motor"), "starsessions"),
    "aiohttp": Server("aiohttp-session, Mongo storage on Motor", _aiohttp, "aiohttp_session_mongo"),
    "flask": Server("flask-session, MongoDB, default", _wsgi("flask_site:make({}, False)"), "flask_session"),
    "flask-best": Server(
        "flask-session, MongoDB, at its best: indexed, writes changes only, 16 threads",
        _wsgi("flask_site:make({}, True)", *THREADS),
        "flask_session",
    ),
    "django": Server(
        "Django's database sessions, MongoDB, 16 threads",
        _wsgi("django_site:make({})", *THREADS),
        "django_mongodb_backend",
    ),
    "express": Server("express-session, connect-mongo, default", _node("default"), "node"),
    "express-best": Server(
        "express-session, connect-mongo, at its best: no resave, touched daily", _node("best"), "node"
    ),
}


def available(servers: Mapping[str, Server]) -> dict[str, Server]:
    """Those whose libraries are installed."""
    return {key: server for key, server in servers.items() if _installed(server.needs)}


def _installed(needs: str) -> bool:
    if needs == "node":
        return shutil.which("node") is not None and (NODE / "node_modules").exists()
    return not needs or find_spec(needs) is not None


@contextmanager
def placed() -> Generator[int]:
    """Gives the core for the server under test; this process and what it starts meanwhile keep to the others."""
    before = os.sched_getaffinity(0)
    first, *others = sorted(before)
    os.sched_setaffinity(0, others or before)
    try:
        yield first
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def running(servers: Mapping[str, Server], uri: str, core: int) -> Generator[dict[str, int]]:
    """Start all of them on one core, and give their ports; they are stopped when the block is left."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "adapters")])  # this very tree, whatever is installed
    with ExitStack() as stack:
        ports: dict[str, int] = {}
        for key, server in servers.items():
            ports[key] = _free_port()
            process = subprocess.Popen(
                ["taskset", "--cpu-list", str(core), *server.command(ports[key], uri)],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": path, "NODE_ENV": "production"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(_stop, process)
        yield ports


async def ready(ports: Iterable[int]) -> None:
    """Wait until each server has answered.

    Raises:
        RuntimeError: one of them did not in time.
    """
    for port in ports:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                await Client(port).get("/begin")
                break
            except (OSError, asyncio.IncompleteReadError) as error:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the server on port {port} did not start") from error
                await asyncio.sleep(0.1)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
