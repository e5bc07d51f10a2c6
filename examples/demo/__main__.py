"""Serves the demo on this machine, with a MongoDB of its own that goes when the demo goes, or that of MONGODB_URI."""

import logging
import os
import secrets
import signal
import socket
import sys
from argparse import ArgumentParser
from contextlib import ExitStack

import uvicorn
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from examples.demo.stage import create_demo
from mongosession.mongod import Mongod, MongodError, find_mongod


def main() -> None:
    """Serve until interrupted. Nothing stays: neither the server nor its mongod."""
    parser = ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument(
        "--port", type=int, default=os.environ.get("PORT", "8000"), help="default: PORT or 8000; 0: any free one"
    )
    port: int = parser.parse_args().port
    logging.basicConfig(format="%(name)s: %(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # the blocks below are left in order, as after Ctrl-C
    try:
        with ExitStack() as stack:
            serve(stack.enter_context(listen(port)), stack)
    except KeyboardInterrupt:
        print("\nstopped")
    except (MongodError, PyMongoError) as error:
        sys.exit(f"The demo has no MongoDB: {error}")


def serve(listener: socket.socket, stack: ExitStack) -> None:
    """Serve on a socket; a mongod, if one is started, belongs to the stack."""
    uri, described = database(stack)
    key = os.environ.get("SESSION_KEY") or secrets.token_urlsafe(32)  # a new one at each start
    config = uvicorn.Config(
        create_demo(uri, key=key, described=described), log_level="warning", timeout_graceful_shutdown=5
    )
    url = f"http://localhost:{listener.getsockname()[1]}"
    server = Server(config, greeting=f"The demo is at  {url}\nSessions are in {described}\nCtrl-C stops it")
    server.run(sockets=[listener])
    if not server.started:
        sys.exit("The demo did not start.")


def database(stack: ExitStack) -> tuple[str | None, str]:
    """The connection string, None where there is no MongoDB, and where the sessions are in words."""
    uri, whose = os.environ.get("MONGODB_URI") or None, "the one of MONGODB_URI"
    if uri is None and find_mongod() is not None:
        uri, whose = stack.enter_context(Mongod()).uri, "the demo's own, deleted when it stops"
    if uri is None:
        return None, "this process's memory: there is no mongod here, and MONGODB_URI is not set"
    with MongoClient[dict[str, object]](uri, serverSelectionTimeoutMS=5000) as client:
        return uri, f"MongoDB {client.server_info()['version']}, {whose}"


class Server(uvicorn.Server):
    """Says so once it serves."""

    def __init__(self, config: uvicorn.Config, *, greeting: str) -> None:
        super().__init__(config)
        self.greeting = greeting

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn."""
        await super().startup(sockets)
        if self.started:
            print(self.greeting, flush=True)


def listen(port: int) -> socket.socket:
    """A socket on this machine's own address; what is wrong with the port ends the program in words."""
    try:
        return socket.create_server(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        sys.exit(f"Port {port} cannot be had ({error}). Try another: --port 8001, or PORT=8001 make demo")


if __name__ == "__main__":
    main()
