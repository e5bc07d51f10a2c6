"""A replica set of real servers, whose members can be killed, paused and brought back.

The members are ordinary processes of this machine; on Linux the kernel kills them when the program ends, however it
ends. Everything here blocks, and belongs in the main thread.
"""

import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import pymongo
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from mongosession.mongod import MongodError, spawn_mongod

NAME = "rs0"
START_SECONDS = 60.0
POLL_SECONDS = 0.05
COMMAND_SECONDS = 2.0

# A primary that is asked to end lets its clients go on for 15 s by default, in which no other one is elected.
ARGS = ["--setParameter", "shutdownTimeoutMillisForSignaledShutdown=1000"]

Document = dict[str, Any]
Found = TypeVar("Found")


class Place(NamedTuple):
    """Where a member runs.

    Attributes:
        host: the address that it listens on, and that everybody reaches it by.
        directory: for its data; None for one of the set's own, which is deleted in the end.
        through: a command that starts it, with an absolute path, such as ``ip netns exec NAME``.
    """

    host: str = "127.0.0.1"
    directory: Path | None = None
    through: Sequence[str] = ()


class Member:
    """One server of the set.

    Attributes:
        number: from 0; its ``_id`` in the set's configuration.
        address: ``host:port``, as the set's configuration has it.
        log: its log, that of earlier processes included.
        client: a direct connection, for commands of any kind.
        paused: whether it is stopped by `pause`.
    """

    def __init__(self, number: int, place: Place, directory: Path, log: Path, args: Sequence[str]) -> None:
        self.number = number
        self.port = _port(place.host) if not place.through else 27017
        self.address = f"{place.host}:{self.port}"
        self.log = log
        self.paused = False
        self._place = place
        self._directory = directory
        self._args = args
        self._process: subprocess.Popen[bytes] | None = None
        self.client: MongoClient[Document] = MongoClient(
            place.host,
            self.port,
            directConnection=True,
            connect=False,
            connectTimeoutMS=1000,
            serverSelectionTimeoutMS=1000,
        )

    def __repr__(self) -> str:
        return f"<member {self.number}, {self.address}>"

    @property
    def pid(self) -> int:
        """The id of its process, the last one if it has ended."""
        return self._started().pid

    @property
    def is_running(self) -> bool:
        """Whether there is a process, paused or not."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, args: Sequence[str] = ()) -> None:
        """Start it, with the data that it has, and wait until it answers. It may not be a member in good standing yet.

        Args:
            args: further arguments of mongod, for this time.

        Raises:
            MongodError: it ended, or did not answer within a minute.
        """
        if self.is_running:
            raise ValueError(f"{self!r} runs")
        self.paused = False
        self._process = spawn_mongod(
            self._directory,
            self.port,
            [*("--replSet", NAME), *ARGS, *self._args, *args],
            log=self.log,
            host=self._place.host,
            through=self._place.through,
        )
        wait(lambda: self._process is None or not self.is_running or self.ask("ping") is not None, START_SECONDS)
        if not self.is_running:
            last = self.log.read_text(errors="replace").splitlines()[-5:]
            raise MongodError("\n".join([f"{self!r} ended with status {self.ended()}. From its log:", *last]))

    def kill(self) -> int:
        """Kill it with SIGKILL and wait until it is gone. Returns the process's status: -9."""
        return self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ask it to shut down and wait until it has; as a primary it steps down first. Returns the process's status."""
        return self._end(signal.SIGTERM)

    def ended(self, *, within: float = 30.0) -> int:
        """Wait until its process has ended by itself, and return its status.

        Raises:
            subprocess.TimeoutExpired: it has not.
        """
        return self._started().wait(within)

    def pause(self) -> None:
        """Stop it with SIGSTOP: it holds its connections, and answers nothing."""
        self._started().send_signal(signal.SIGSTOP)
        self.paused = True

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self._started().send_signal(signal.SIGCONT)
        self.paused = False

    def ask(self, command: str, seconds: float = COMMAND_SECONDS, **arguments: Any) -> Document | None:
        """What the server answers to a command of the database "admin"; None if there is no answer, or an error."""
        if not self.is_running or self.paused:
            return None
        try:
            with pymongo.timeout(seconds):
                answer: Document = self.client.admin.command(command, **arguments)
                return answer
        except PyMongoError:
            return None

    def status(self) -> Document:
        """Its ``replSetGetStatus``, empty while it answers none."""
        return self.ask("replSetGetStatus") or {}

    def close(self) -> None:
        """Disconnect, and kill it if it runs."""
        if self.paused:
            self.resume()  # a client takes leave of its server
        self.client.close()
        if self.is_running:
            self.kill()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ValueError(f"{self!r} was not started")
        return self._process

    def _end(self, number: signal.Signals) -> int:
        process = self._started()
        process.send_signal(number)
        if self.paused:
            process.send_signal(signal.SIGCONT)  # SIGTERM waits until then
            self.paused = False
        return process.wait(START_SECONDS)


class ReplicaSet:
    """A replica set, with empty databases that are deleted when the block is left.

        with ReplicaSet() as replicas:
            client = AsyncMongoClient(replicas.uri)
            replicas.wait_for_primary().kill()

    Args:
        places: where its members run, one for each.
        args: further arguments of each mongod, such as ``["--setParameter", "ttlMonitorEnabled=false"]``.
        settings: of the set's configuration; by default elections are fast: a primary that is not heard of for a second
            is replaced.

    Enter it in the main thread. Entering raises ``MongodError`` if there is no mongod, or if the set has no primary
    within a minute.
    """

    def __init__(
        self,
        places: Sequence[Place] = (Place(),) * 3,
        *,
        args: Sequence[str] = (),
        settings: Document | None = None,
    ) -> None:
        self._places = places
        self._args = args
        self._settings: Document = {"electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 500, **(settings or {})}
        self.members: list[Member] = []

    @property
    def uri(self) -> str:
        """The connection string, with all members in it."""
        return f"mongodb://{','.join(member.address for member in self.members)}/?replicaSet={NAME}"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            directory = Path(stack.enter_context(TemporaryDirectory(prefix="mongosession-set-")))
            for number, place in enumerate(self._places):
                data = place.directory or directory / f"data{number}"
                data.mkdir(exist_ok=True)
                member = Member(number, place, data, directory / f"mongod{number}.log", self._args)
                self.members.append(member)
                stack.callback(member.close)
                member.start()
            self._initiate()
            self._cleanup = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def primary(self) -> Member | None:
        """The member that accepts writes now. Of two, one of which has not noticed yet, the one elected last."""
        hellos = [(member.ask("hello", 1), member) for member in self.members]
        found = [(hello["electionId"], member) for hello, member in hellos if hello and hello["isWritablePrimary"]]
        return max(found, key=lambda each: each[0])[1] if found else None

    def secondaries(self) -> list[Member]:
        """The members that are in state SECONDARY by their own account."""
        return [member for member in self.members if (member.ask("hello", 1) or {}).get("secondary")]

    def wait_for_primary(self, seconds: float = START_SECONDS, *, other_than: Member | None = None) -> Member:
        """Wait until a member accepts writes.

        Args:
            seconds: for how long.
            other_than: a member that is not meant: the one that was primary.

        Raises:
            TimeoutError: none did.
        """

        def found() -> Member | None:
            primary = self.primary()
            return primary if primary is not other_than else None

        return wait(found, seconds)

    def wait_until_whole(self, seconds: float = START_SECONDS) -> Member:
        """Wait until one member is primary and all the others are secondaries; returns the primary.

        Raises:
            TimeoutError: it did not come to that.
        """

        def found() -> Member | None:
            primary = self.primary()
            return primary if len(self.secondaries()) == len(self.members) - 1 else None

        return wait(found, seconds)

    def step_down(self, seconds: float = START_SECONDS) -> Member:
        """Let the primary step down in favour of another member, and wait for that; returns the new primary.

        Raises:
            TimeoutError: there was no other primary in time.
        """
        before = self.wait_for_primary(seconds)
        deadline = time.monotonic() + seconds

        def stepped_down() -> Member | None:
            # Refused while no secondary has caught up, so it may take more than one attempt. Not for longer: it cannot
            # be elected meanwhile, and the next fault may leave only it.
            before.ask("replSetStepDown", 5, value=3, secondaryCatchUpPeriodSecs=2)
            primary = self.primary()
            return primary if primary is not before else None

        return wait(stepped_down, deadline - time.monotonic())

    def term(self) -> int:
        """The number of the last election that any member knows of."""
        return max(int(member.status().get("term", -1)) for member in self.members)

    def _initiate(self) -> None:
        members = [{"_id": member.number, "host": member.address} for member in self.members]
        config = {"_id": NAME, "members": members, "settings": self._settings}
        with pymongo.timeout(START_SECONDS):
            self.members[0].client.admin.command("replSetInitiate", config)
        self.wait_until_whole()


def wait(condition: Callable[[], Found | None], seconds: float) -> Found:
    """Ask until the answer is something (not None, not False); returns it.

    Raises:
        TimeoutError: it was nothing for so many seconds.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {condition.__qualname__}")
        time.sleep(POLL_SECONDS)
    return found


def _port(host: str) -> int:
    """A free port below those that the kernel gives to clients: no client takes it while its member is away."""
    chance = random.SystemRandom()
    while True:
        port = chance.randrange(20000, 32000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
