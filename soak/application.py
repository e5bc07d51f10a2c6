"""The application under test: ``python -m soak.application SETTINGS``, one process of it, on uvicorn.

Five routes, each by GET: ``/read``, ``/write?key=K&value=V``, ``/increment?key=K&by=N``, ``/logout``, and
``/login?subject=S&key=K&value=V``; with ``account=1`` a request is refused with 401 where nobody is logged in, as the
pages of an account are. The answer is JSON: verdict, subject and data of the session as the request saw or left it.
"""

import asyncio
import ctypes
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import uvicorn
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient

from mongosession import MongoStore, Rotation, Session, SessionEngine
from mongosession_asgi import SessionMiddleware
from mongosession_asgi.types import Receive, Scope, Send

from .replicaset import free_port, wait
from .result import ROOT

DRIVERS: dict[str, Any] = {"pymongo": AsyncMongoClient, "motor": AsyncIOMotorClient}
DATABASE, COLLECTION = "soak", "sessions"
START_SECONDS = 60.0
STOP_SECONDS = 30.0


class Settings(NamedTuple):
    """What a process is started with.

    Attributes:
        uri: of the database.
        port: on 127.0.0.1.
        driver: a key of `DRIVERS`.
        keys: the ring: primary and old keys.
        next_keys: those that others may sign with already.
        ttl: of the tokens, in seconds.
    """

    uri: str
    port: int
    driver: str
    keys: Sequence[str]
    next_keys: Sequence[str] = ()
    ttl: float = 1.0


async def serve(scope: Scope, receive: Receive, send: Send) -> None:
    """The routes."""
    if scope["type"] != "http":
        return
    session: Session = scope["session"]
    asked = dict(parse_qsl(scope["query_string"].decode()))
    status = _act(scope["path"], asked, session)
    body = json.dumps({"verdict": session.verdict, "subject": session.subject, "data": session}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _act(path: str, asked: dict[str, str], session: Session) -> int:
    """Do what was asked for, and say with which status."""
    if "account" in asked and session.subject is None:
        return 401
    if session.late and path in ("/write", "/increment"):
        return 409  # it would not be stored
    match path:
        case "/read":
            return 200
        case "/write":
            session[asked["key"]] = asked["value"]
        case "/increment":
            session.increment(asked["key"], int(asked["by"]))
        case "/login":
            session[asked["key"]] = asked["value"]
            session.renew(subject=asked["subject"])
        case "/logout":
            session.destroy()
        case _:
            return 404
    return 200


class Application:
    """A process of the application, to be started, killed and started again on the same port.

    Args:
        settings: to start it with; may be changed for the next start.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def on(cls, uri: str, driver: str, keys: Sequence[str]) -> "Application":
        """One on a free port."""
        return cls(Settings(uri, free_port("127.0.0.1"), driver, keys))

    def start(self) -> None:
        """Start it and wait until it listens."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "soak.application", json.dumps(self.settings), str(os.getpid())],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "adapters")])},
            stdin=subprocess.DEVNULL,
        )
        wait(self._listens, START_SECONDS)

    def kill(self) -> int:
        """Kill it with SIGKILL; returns the process's status: -9."""
        return self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Let it finish its requests and end; returns the process's status."""
        return self._end(signal.SIGTERM)

    def close(self) -> None:
        """Kill it if it runs."""
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def _end(self, number: signal.Signals) -> int:
        process = self._process
        if process is None:
            raise ValueError("it was not started")
        process.send_signal(number)
        return process.wait(STOP_SECONDS)

    def _listens(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"the application ended with status {self._process and self._process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", self.settings.port), timeout=1).close()
        except OSError:
            return False
        return True


def die_with(parent: int) -> None:
    """Let the kernel kill this process once the thread that started it has ended (PR_SET_PDEATHSIG of prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("whoever started this has ended")


async def run(settings: Settings) -> None:
    """Serve until SIGTERM."""
    client = DRIVERS[settings.driver](settings.uri, w="majority")
    engine = SessionEngine(
        MongoStore(client[DATABASE][COLLECTION]),
        keys=settings.keys,
        next_keys=settings.next_keys,
        rotation=Rotation(ttl=settings.ttl),
    )
    config = uvicorn.Config(
        SessionMiddleware(serve, engine),
        port=settings.port,
        log_level="error",
        access_log=False,
        lifespan="off",
        timeout_keep_alive=600,  # who asks just when it is closed cannot know what became of that
        timeout_graceful_shutdown=10,
    )
    await uvicorn.Server(config).serve()
    await engine.close()


def main() -> None:
    """Serve with the settings of the command line."""
    die_with(int(sys.argv[2]))
    logging.getLogger("mongosession").setLevel(logging.CRITICAL)  # an outage is what is asked for here
    settings = Settings(*json.loads(sys.argv[1]))
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
