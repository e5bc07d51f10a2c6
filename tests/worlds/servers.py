"""The site behind real servers, each in processes of its own."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

ROOT = Path(__file__).parent.parent.parent

# What follows `python -m`; `{port}` is where it listens. Connections are kept for longer than a client pauses on a busy
# machine: who asks just when one is closed gets no answer. (Tornado and waitress keep them for so long anyway.)
SERVERS = {
    "uvicorn": "uvicorn tests.worlds.asgi:app --port {port} --timeout-keep-alive 120 --log-level critical",
    "hypercorn": "hypercorn tests.worlds.asgi:app --bind localhost:{port} --keep-alive 120 --log-level critical",
    "tornado": "tests.worlds.tornado {port}",
    "gunicorn": "gunicorn tests.worlds.wsgi:app --bind localhost:{port} --workers 2 --threads 4 --keep-alive 120 "
    "--log-level critical",
    "waitress": "waitress --listen localhost:{port} tests.worlds.wsgi:app",
}

START_SECONDS = 30


class Running(NamedTuple):
    """A server under way.

    Attributes:
        address: `http://localhost:...`.
        clock: the file with its time, seconds since 1970.
        journal: the file with what it does.
        anonymous: where the sessions of visitors live.
        pid: the id of its first process.
    """

    address: str
    clock: Path
    journal: Path
    anonymous: str
    pid: int

    def advance(self, seconds: float) -> None:
        """Let time pass for the server. The file is replaced whole: its readers are other processes."""
        ahead = self.clock.with_suffix(".new")
        ahead.write_text(str(float(self.clock.read_text()) + seconds))
        ahead.replace(self.clock)

    def take(self) -> list[str]:
        """The commands and the events since the last ``take``."""
        taken = self.journal.read_text().split()
        os.truncate(self.journal, 0)  # its writers append
        return taken


@contextmanager
def serving(
    server: str, driver: str, mongodb_uri: str, *, anonymous: str = "database", deadline: float = 5
) -> Generator[Running, None, None]:
    """Run the site behind a server until the block ends.

    Args:
        server: a key of `SERVERS`.
        driver: a key of `CLIENTS`.
        mongodb_uri: of the database.
        anonymous: where the sessions of visitors live.
        deadline: seconds that the database has for each call.
    """
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
        probe.close()
        clock = Path(folder) / "clock"
        clock.write_text("4e9")
        journal = Path(folder) / "journal"
        journal.touch()
        environment = {
            **os.environ,
            "MONGODB_URI": mongodb_uri,
            "DRIVER": driver,
            "COLLECTION": f"{server}_{uuid4().hex}",
            "CLOCK": str(clock),
            "JOURNAL": str(journal),
            "DEADLINE": str(deadline),
            "MONGOSESSION_ANONYMOUS": anonymous,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "adapters")]),
        }
        command = [sys.executable, "-m", *SERVERS[server].format(port=port).split()]
        with (Path(folder) / "log").open("w+") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
            try:
                _await_listening(process, port, Path(folder) / "log")
                running = Running(f"http://localhost:{port}", clock, journal, anonymous, process.pid)
                running.take()  # its setting up
                yield running
            finally:
                process.terminate()
                process.wait(timeout=START_SECONDS)


def _await_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    pause = threading.Event()
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("localhost", port), timeout=1).close()
        except OSError:
            pause.wait(0.05)
        else:
            return
    raise RuntimeError(f"the server does not listen: {log.read_text()}")
