"""A server of one's own starts, answers, and leaves nothing behind."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from pymongo import MongoClient, monitoring

from mongosession.mongod import Mongod, MongodError, find_mongod

from .conftest import CLIENTS, Connect

# Starts a server, says its process id, and waits for a line before it dies without any cleaning up.
KILLED_PROGRAM = """
import os, signal
from mongosession.mongod import Mongod
with Mongod() as mongod:
    print(mongod.pid, flush=True)
    input()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def has_ended(process: int, *, within: float) -> bool:
    """Whether the process that this pidfd stands for ends within so many seconds; true for one not yet reaped."""
    return bool(select.select([process], [], [], within)[0])


@pytest.mark.parametrize("replica_set", [False, True])
def test_it_answers_and_is_gone_afterwards(replica_set: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Mongod(replica_set=replica_set) as mongod:
        process = os.pidfd_open(mongod.pid)
        with MongoClient[dict[str, object]](mongod.uri) as client:
            assert client.admin.command("ping")["ok"] == 1
            assert client.admin.command("hello").get("setName") == ("rs0" if replica_set else None)
            client.db.things.insert_one({})
        assert not has_ended(process, within=0)
        assert list(tmp_path.iterdir())
    assert has_ended(process, within=0)
    os.close(process)
    assert not list(tmp_path.iterdir())


def test_it_dies_with_a_killed_program(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED_PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        process = os.pidfd_open(int(program.stdout.readline()))
        assert not has_ended(process, within=0)
        program.communicate(b"\n")
    assert program.returncode == -signal.SIGKILL
    assert has_ended(process, within=10)
    os.close(process)


def test_arguments_reach_the_server() -> None:
    with (
        Mongod(args=["--setParameter", "ttlMonitorEnabled=false"]) as mongod,
        MongoClient[dict[str, object]](mongod.uri) as client,
    ):
        assert client.admin.command("getParameter", ttlMonitorEnabled=True)["ttlMonitorEnabled"] is False


def test_a_failed_start_shows_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(MongodError, match=r"(?s)ended at start with status \d+\..*noSuchParameter"):
        Mongod(args=["--setParameter", "noSuchParameter=1"]).__enter__()
    assert not list(tmp_path.iterdir())


def test_a_missing_library_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linker = "mongod: error while loading shared libraries: libcurl.so.4: cannot open shared object file"
    broken = tmp_path / "mongod"
    broken.write_text(f"#!/bin/sh\necho '{linker}' >&2\nexit 127\n")
    broken.chmod(0o755)
    monkeypatch.setenv("MONGOD", str(broken))
    with pytest.raises(
        MongodError, match=r"(?s)ended at start with status 127; `make system` installs it.*libcurl\.so\.4"
    ):
        Mongod().__enter__()


def test_the_environment_names_the_mongod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = tmp_path / "mongod"
    given.touch()
    monkeypatch.setenv("MONGOD", str(given))
    assert find_mongod() == given


def test_a_wrong_name_in_the_environment_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGOD", str(tmp_path / "absent"))
    with pytest.raises(MongodError, match=r"MONGOD=.*absent"):
        find_mongod()


def test_another_thread_may_not_start_it() -> None:
    errors: list[BaseException] = []

    def start() -> None:
        try:
            Mongod().__enter__()
        except MongodError as error:
            errors.append(error)

    thread = Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(errors[0])


class Commands(monitoring.CommandListener):
    """The names of the commands that a client sent."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.names.append(event.command_name)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        pass

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass


@pytest.mark.parametrize("replica", [False, True])
@pytest.mark.parametrize("driver", CLIENTS)
async def test_the_commands_of_a_client_can_be_counted(connect: Connect, driver: str, replica: bool) -> None:
    commands = Commands()
    collection = connect(driver, replica=replica, listeners=[commands])
    await collection.insert_one({"_id": 1})
    assert await collection.find_one() == {"_id": 1}
    assert commands.names == ["insert", "find"]


async def test_every_collection_is_new(collection: Any, replica_collection: Any) -> None:
    for one in (collection, replica_collection):
        assert await one.count_documents({}) == 0
