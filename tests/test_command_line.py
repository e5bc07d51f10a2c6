"""The command line as its operator meets it: what it prints, what it asks, which code it exits with."""

import asyncio
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import click
import pytest
from bson import ObjectId
from click.testing import CliRunner, Result
from pymongo import MongoClient
from pymongo.collection import Collection

from mongosession import MongoStore, Session, SessionEngine, commands
from mongosession.commands import cli
from mongosession.inspection import close, connect, gather, measure
from mongosession.mongo import FOREIGN
from mongosession.store import ENDED

from .conftest import CLIENTS, Connect

ROOT = Path(__file__).parent.parent
KEY = "GmmWcE-PPqJ29tkYNYYKAuhyflknjMxwaHa0gAWjZPg"

APPLICATION = """\
from {module} import {client}
from mongosession import Cookie, MongoStore, SessionEngine

events = []
engine = SessionEngine(
    MongoStore({client}({uri!r}).mongosession_test[{name!r}], timeout={timeout}),
    keys=[{key!r}],
    cookie=Cookie(name="shop"),
    on_event=events.append,
)

def make():
    return engine

async def make_soon():
    return engine
"""


class Shop:
    """A collection with sessions in it, and the command line for it."""

    def __init__(self, uri: str, documents: Collection[dict[str, Any]]) -> None:
        self.uri = uri
        self.documents = documents
        self.place = ["--uri", uri, "--collection", documents.full_name]

    def run(self, *arguments: str, keys: str = KEY, **environment: str) -> Result:
        """A command on this collection, in a clean environment."""
        return run(*arguments, *self.place, MONGOSESSION_KEYS=keys, **environment)

    def fill(self, count: int, subject: str | None = None, **details: str) -> None:
        """Sessions begin, as a request begins them."""

        async def begin() -> None:
            collection = connect(self.uri, self.documents.full_name)
            engine = SessionEngine(MongoStore(collection), keys=[KEY])

            async def one() -> None:
                session: Session = await engine.open(None)
                session["basket"] = ["tea"]
                if subject is not None:
                    session.renew(subject=subject)
                session.describe(**details)
                await engine.commit(session)

            await asyncio.gather(*(one() for _ in range(count)))
            await close(collection)

        asyncio.run(begin())

    def living(self) -> int:
        return self.documents.count_documents({"epoch": {"$ne": ENDED}})


def application(folder: Path, uri: str, name: str, *, driver: str = "pymongo", timeout: float = 5) -> str:
    """A module with an engine of its own; its name."""
    module, client = {
        "pymongo": ("pymongo", "AsyncMongoClient"),
        "motor": ("motor.motor_asyncio", "AsyncIOMotorClient"),
    }[driver]
    made = f"shop_{uuid4().hex}"
    source = APPLICATION.format(module=module, client=client, uri=uri, name=name, key=KEY, timeout=timeout)
    (folder / f"{made}.py").write_text(source)
    return made


def run(*arguments: str, **environment: str) -> Result:
    """A command. Its standard input is no terminal."""
    clean = {name: None for name in os.environ if name.startswith("MONGOSESSION_")}
    return CliRunner().invoke(cli, arguments, env={**clean, **environment}, catch_exceptions=False)


def process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    command = [sys.executable, "-m", "mongosession", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30, **options)


def complaint(result: Result) -> str:
    """The one line of an error; nothing else was printed."""
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line.removeprefix("Error: ")


@pytest.fixture
def shop(mongod_uri: str) -> Iterator[Shop]:
    with MongoClient[dict[str, Any]](mongod_uri) as client:
        documents = client["mongosession_test"][uuid4().hex]
        yield Shop(mongod_uri, documents)
        documents.drop()


# key, help, and what is missing.


def test_a_key_is_256_random_bits() -> None:
    first, second = run("key").stdout, run("key").stdout
    assert re.fullmatch(r"[\w-]{43}\n", first)
    assert first != second
    assert re.fullmatch(r"[\w-]{43}", json.loads(run("key", "--json").stdout)["key"])


def test_the_help_names_every_command_and_the_exit_codes() -> None:
    shown = process("--help")
    assert shown.returncode == 0
    assert shown.stdout.startswith("Usage: python -m mongosession ")
    for word in ("check", "key", "list", "revoke", "setup", "stats", "Exit codes", "--engine shop.app:engine"):
        assert word in shown.stdout
    assert "..." not in shown.stdout.partition("Commands:")[2]  # no sentence is cut


def test_the_console_script_is_the_same() -> None:
    script = Path(sys.executable).with_name("mongosession")
    shown = subprocess.run([script, "--help"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("Usage: mongosession ")


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_there_are_keys_and_one_line_says_what_to_install(missing: str, tmp_path: Path) -> None:
    hide = (
        f"import importlib.util as u; find = u.find_spec; u.find_spec = lambda name: name != {missing!r} and find(name)"
    )
    (tmp_path / "sitecustomize.py").write_text(hide)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    shown = process("stats", env=environment)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr == 'the command line is an extra: pip install "mongosession[cli]"\n'
    keys = [process("key", env=environment) for _ in range(2)]
    assert {(each.returncode, len(each.stdout), each.stderr) for each in keys} == {(0, 44, "")}
    assert keys[0].stdout != keys[1].stdout


def test_the_library_never_imports_what_the_command_line_needs() -> None:
    code = "import sys, mongosession, mongosession_asgi, mongosession_wsgi, mongosession_tornado, mongosession.testing"
    asked = f"{code}; print(sorted({{'click', 'rich'}} & sys.modules.keys()))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "adapters")}
    shown = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, check=True, cwd=ROOT, env=environment
    )
    assert shown.stdout == "[]\n"


# Where the output goes.


@pytest.mark.parametrize("command", [["list", "user:\u0418"], ["list", "user:1"], ["stats"], ["check"]], ids=" ".join)
@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_whatever_the_output_can_hold_no_command_fails_of_it(command: list[str], encoding: str, shop: Shop) -> None:
    shop.fill(1, "user:1", user_agent="\u0418\u0432\u0430\u043d \xe9")
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "MONGOSESSION_KEYS": KEY}
    shown = subprocess.run(
        [sys.executable, "-m", "mongosession", *command, *shop.place],
        capture_output=True,
        check=False,
        timeout=30,
        env=environment,
    )
    assert shown.stderr == b""
    assert shown.returncode == int(command == ["check"])
    assert shown.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full disk to write to")
@pytest.mark.parametrize("command", [["key"], ["stats"], ["stats", "--json"], ["list", "user:1"]], ids=" ".join)
def test_a_full_disk_is_one_line(command: list[str], shop: Shop) -> None:
    shop.fill(1, "user:1")
    with Path("/dev/full").open("w") as full:
        place = [] if command == ["key"] else shop.place
        result = subprocess.run(
            [sys.executable, "-m", "mongosession", *command, *place],
            stdout=full,
            stderr=subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
            text=True,
            check=False,
            timeout=30,
        )
    assert (result.returncode, result.stderr) == (1, "Error: [Errno 28] No space left on device\n")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-"])
def test_streams_may_be_closed(closed: str, shop: Shop) -> None:
    shop.fill(1, "user:1")
    command = shlex.join([sys.executable, "-m", "mongosession", "list", "user:1", *shop.place])
    result = subprocess.run(["/bin/sh", "-c", f"{command} {closed}"], capture_output=True, check=False, timeout=30)
    assert (result.returncode, result.stderr) == (0, b"")
    command = shlex.join([sys.executable, "-m", "mongosession", "revoke", "--all", *shop.place])
    result = subprocess.run(["/bin/sh", "-c", f"{command} {closed}"], capture_output=True, check=False, timeout=30)
    assert result.returncode == 2  # nobody can be asked
    assert shop.living() == 1


# Which sessions.


@pytest.mark.parametrize(
    "command", [["setup"], ["stats"], ["list", "x"], ["revoke", "--all", "--yes"], ["check"]], ids=" ".join
)
def test_each_command_wants_to_know_which_sessions(command: list[str]) -> None:
    result = run(*command)
    assert result.exit_code == 2
    assert "--engine MODULE:NAME (MONGOSESSION_ENGINE)" in complaint(result)
    assert run(*command, "--uri", "mongodb://localhost").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--engine", "shop"], "it must be MODULE:NAME"),
        (["--engine", "no_such_module:engine"], "No module named 'no_such_module'"),
        (["--engine", "mongosession:no_such_name"], "no_such_name"),
        (["--engine", "mongosession:__doc__"], "of type str; it must be a SessionEngine or make one"),
        (["--engine", "mongosession:MemoryStore"], "of type MemoryStore; it must be a SessionEngine or make one"),
        (["--engine", "mongosession:SessionEngine"], "TypeError"),
        (["--engine", "a:b", "--uri", "mongodb://localhost"], "leave --uri and --collection away"),
        (["--uri", "mongodb://localhost", "--collection", "sessions"], "it must be database.collection"),
        (["--uri", "http://localhost", "--collection", "a.b"], "connection string"),
        (["--uri", "mongodb://localhost", "--collection", "a b.c"], "the collection 'a b.c' makes no sense"),
        (["--uri", "mongodb+srv://shop.invalid.example", "--collection", "a.b"], "connection string makes no sense"),
    ],
)
def test_what_makes_no_sense_is_one_line(arguments: list[str], expected: str) -> None:
    result = run("stats", *arguments)
    assert result.exit_code == 2
    assert expected in complaint(result)


@pytest.mark.parametrize("password", ["S3c/ret", "S3c@ret", "S3c:ret", "S3c%ret", "S3c?ret", "S3c#ret", "S3c[ret"])
def test_no_part_of_a_password_is_shown(password: str) -> None:
    result = run("stats", "--uri", f"mongodb://user:{password}@localhost:port/", "--collection", "a.b")
    assert result.exit_code == 2
    said = complaint(result)
    assert "percent-encoded?" in said
    assert not re.search("S3c|ret", said)


@pytest.mark.parametrize("code", ["0", "1", "'bye'", ""])
def test_a_module_that_leaves_is_an_error(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"shop_{uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(f"import sys\nsys.exit({code})")
    result = run("check", "--engine", f"{name}:engine")
    assert result.exit_code == 2
    assert complaint(result).startswith(f"{name}:engine: SystemExit")


CHATTER = """
print("imported")

def chatter():
    print("made")
    return SessionEngine(engine.store, keys=[{key!r}], on_event=print)
"""


def test_what_an_application_prints_is_no_part_of_the_json(shop: Shop, tmp_path: Path) -> None:
    shop.fill(1, "user:1")
    name = application(tmp_path, shop.uri, shop.documents.name)
    with (tmp_path / f"{name}.py").open("a") as module:
        module.write(CHATTER.format(key=KEY))
    shown = process("revoke", "--all", "--yes", "--json", "--engine", f"{name}:chatter", cwd=tmp_path)
    assert json.loads(shown.stdout) == {"ended": 1}
    assert shown.stderr.startswith("imported\nmade\nEvent(kind=<EventKind.REVOKED")


def test_an_engine_on_memory_has_nothing_to_look_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    source = (
        f"from mongosession import MemoryStore, SessionEngine\nengine = SessionEngine(MemoryStore(), keys=[{KEY!r}])"
    )
    (tmp_path / "on_memory.py").write_text(source)
    result = run("stats", "--engine", "on_memory:engine")
    assert result.exit_code == 2
    assert complaint(result) == "on_memory:engine keeps its sessions in a MemoryStore; it must be a MongoStore"


def test_a_setting_that_makes_no_sense_is_one_line(shop: Shop) -> None:
    for command in (["stats"], ["check"]):
        result = shop.run(*command, MONGOSESSION_TTL="soon")
        assert result.exit_code == 2
        assert complaint(result).startswith("MONGOSESSION_TTL is 'soon'")


@pytest.mark.parametrize("driver", CLIENTS)
@pytest.mark.parametrize("name", ["engine", "make", "make_soon"])
def test_the_engine_of_an_application(
    shop: Shop, driver: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    shop.fill(3, "user:1")
    spec = f"{application(tmp_path, shop.uri, shop.documents.name, driver=driver)}:{name}"
    result = run(
        "stats", "--json", "--engine", spec, MONGOSESSION_ENGINE="other:engine", MONGOSESSION_URI="mongodb://x"
    )
    assert json.loads(result.stdout)["living"] == 3


def test_an_application_that_the_environment_names(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    shop.fill(1)
    spec = f"{application(tmp_path, shop.uri, shop.documents.name)}:engine"
    assert json.loads(run("stats", "--json", MONGOSESSION_ENGINE=spec).stdout)["living"] == 1


@pytest.mark.parametrize("driver", CLIENTS)
def test_an_application_in_the_current_directory(shop: Shop, driver: str, tmp_path: Path) -> None:
    shop.fill(2, "user:1")
    name = application(tmp_path, shop.uri, shop.documents.name, driver=driver)
    ended = process("revoke", "--subject", "user:1", "--yes", "--engine", f"{name}:engine", cwd=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ended: 2\n", "")
    checked = process("check", "--json", "--engine", f"{name}:engine", cwd=tmp_path)
    assert checked.returncode == 1
    assert checked.stderr == ""  # no warning of a client that was not closed
    shown = json.loads(checked.stdout)
    assert shown["checked"].endswith(f"settings of {name}:engine")
    assert {"severity": "warning", "about": "cookie"}.items() <= next(
        each for each in shown["findings"] if "shop has no prefix" in each["what"]
    ).items()


def test_what_was_typed_counts_before_the_environment(shop: Shop) -> None:
    shop.fill(1)
    assert shop.run("revoke", "--all", "--yes", MONGOSESSION_ENGINE="production:engine").stdout == "ended: 1\n"


def test_the_environment_may_say_it_all(shop: Shop) -> None:
    shop.fill(1)
    place = {"MONGOSESSION_URI": shop.uri, "MONGOSESSION_COLLECTION": shop.documents.full_name}
    assert json.loads(run("stats", "--json", **place).stdout)["living"] == 1


@pytest.mark.parametrize(
    "command", [["setup"], ["stats"], ["list", "x"], ["revoke", "--all", "--yes"], ["check"]], ids=" ".join
)
@pytest.mark.parametrize("driver", CLIENTS)
def test_a_database_that_is_away_is_one_line(
    command: list[str], driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = f"{application(tmp_path, 'mongodb://127.0.0.1:9', 'sessions', driver=driver, timeout=0.2)}:engine"
    result = run(*command, "--engine", spec)
    assert result.exit_code == 3
    said = complaint(result)
    assert said.startswith("the database is away: 127.0.0.1:9: ")
    assert said.endswith("does the server run, and is its address right?")
    assert len(said) < 200


@pytest.mark.parametrize(
    "command", [["setup"], ["stats"], ["list", "user:1"], ["revoke", "--all", "--yes"]], ids=" ".join
)
def test_keys_are_needed_by_none_but_check(command: list[str], shop: Shop) -> None:
    shop.fill(1, "user:1")
    assert shop.run(*command, keys="").exit_code == 0
    checked = shop.run("check", "--json", keys="")
    assert checked.exit_code == 1
    assert "MONGOSESSION_KEYS is not set" in checked.stdout


# setup and check.


def test_setup_makes_the_collection_ready_and_may_be_repeated(shop: Shop) -> None:
    for _ in range(2):
        result = shop.run("setup")
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout.splitlines() == [
            f"{shop.documents.full_name} is ready",
            "indexes: _id_, mongosession_expiry, mongosession_subject",
        ]
    refused = shop.run("setup", "--clustered")
    assert refused.exit_code == 1
    assert "is not clustered" in complaint(refused)


def test_setup_can_cluster_the_collection(shop: Shop) -> None:
    assert shop.run("setup", "--clustered").stdout.startswith(
        f"{shop.documents.full_name} is ready, clustered by _id\n"
    )
    assert json.loads(shop.run("setup", "--json").stdout) == {
        "collection": shop.documents.full_name,
        "indexes": ["_id_", "mongosession_expiry", "mongosession_subject"],
        "clustered": True,
    }


def test_check_before_and_after_setup(shop: Shop) -> None:
    before = shop.run("check")
    assert (before.exit_code, before.stderr) == (1, "")
    assert f"{shop.documents.full_name} is not there" in before.stdout
    shop.documents.create_index("expires_at")
    half = json.loads(shop.run("check", "--json").stdout)
    assert [each["what"][:40] for each in half["findings"] if each["severity"] == "failure"] == [
        "the index 'expires_at_1' on {'expires_at",
        "the index mongosession_subject on subjec",
    ]
    shop.documents.drop()
    shop.run("setup")
    after = json.loads(shop.run("check", "--json").stdout)
    assert after["worst"] == "warning"
    assert [each["about"] for each in after["findings"] if each["severity"] == "warning"] == ["topology"]
    assert all(each.keys() == {"severity", "about", "what", "why", "source", "way_out"} for each in after["findings"])


def test_check_tells_of_visitors_whose_sessions_live_in_cookies(shop: Shop) -> None:
    shop.run("setup")
    for anonymous, severities in (("cookie", ["note"]), ("database", [])):
        found = json.loads(shop.run("check", "--json", MONGOSESSION_ANONYMOUS=anonymous).stdout)["findings"]
        assert [each["severity"] for each in found if each["about"] == "visitors"] == severities


def test_check_exits_with_0_where_all_is_well(replica_uri: str) -> None:
    name = uuid4().hex
    place = ["--uri", replica_uri, "--collection", f"mongosession_test.{name}"]
    run("setup", *place)
    result = run("check", *place, MONGOSESSION_KEYS=KEY)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "a replica set, and the driver repeats writes" in result.stdout
    assert "w=majority" in result.stdout
    assert KEY not in result.stdout
    assert [*result.stdout.splitlines()][-1].endswith(" ok")
    with MongoClient[dict[str, Any]](replica_uri) as client:
        client["mongosession_test"].drop_collection(name)


def test_check_tells_of_documents_of_others(shop: Shop) -> None:
    shop.run("setup")
    shop.fill(1)
    assert "no sessions" not in shop.run("check").stdout
    shop.documents.insert_one({"coupon": "SUMMER"})
    result = shop.run("check")
    assert result.exit_code == 1
    assert re.search(r"failure +collection +\S+ holds documents that are no sessions", result.stdout)


def test_setup_leaves_a_collection_of_others_as_it_is(shop: Shop) -> None:
    shop.documents.insert_one({"coupon": "SUMMER", "expires_at": datetime(2020, 1, 1, tzinfo=UTC)})
    result = shop.run("setup")
    assert result.exit_code == 1
    assert "holds documents that are no sessions" in complaint(result)
    assert set(shop.documents.index_information()) == {"_id_"}


def test_check_looks_at_the_engines_own_clock_and_chance(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    shop.run("setup")
    name, sound = (application(tmp_path, shop.uri, shop.documents.name) for _ in range(2))
    with (tmp_path / f"{name}.py").open("a") as module:
        module.write(
            "from mongosession.testing import HandClock, seeded\n"
            f"left = SessionEngine(engine.store, keys=[{KEY!r}], clock=HandClock(), random=seeded(1))"
        )
    found = json.loads(run("check", "--json", "--engine", f"{name}:left").stdout)["findings"]
    failed = {each["about"]: each["what"] for each in found if each["severity"] == "failure"}
    assert set(failed) == {"clock", "random"}
    assert failed["clock"].endswith(" s ahead of the server's")
    found = json.loads(run("check", "--json", "--engine", f"{sound}:engine").stdout)["findings"]
    assert [each for each in found if each["severity"] == "failure"] == []


async def test_facts_are_the_same_by_either_driver(connect: Connect, driver: str) -> None:
    collection = connect(driver, replica=True, w=1, retryWrites=False, tz_aware=True)
    await MongoStore(collection, clustered=True).setup()
    facts = await gather(MongoStore(collection))
    assert facts.exists
    assert facts.holds_foreign is False
    assert (facts.direct, facts.open_to_all) == (False, False)
    assert "clusteredIndex" in facts.options
    assert set(facts.indexes) == {"_id_", "mongosession_expiry", "mongosession_subject"}
    assert facts.index_faults == []
    assert facts.version >= (4, 4)
    assert facts.topology == "replica set"
    assert (facts.write_concern, facts.retry_writes, facts.ttl_monitor) == ({"w": 1}, False, True)
    assert abs(facts.clock_ahead) <= facts.clock_error + 0.1


async def test_a_client_that_knows_one_server_alone(replica_uri: str, driver: str) -> None:
    client: Any = CLIENTS[driver](replica_uri.replace("replicaSet=", "directConnection=true&appName="))
    facts = await gather(MongoStore(client.test.sessions))
    assert (facts.topology, facts.direct) == ("replica set", True)
    await close(client.test.sessions)


@pytest.mark.parametrize(("name", "expected"), [("127.0.0.1", False), ("localhost", False), ("127.1", True)])
async def test_a_server_elsewhere_that_serves_anybody(mongod_uri: str, driver: str, name: str, expected: bool) -> None:
    client: Any = CLIENTS[driver](mongod_uri.replace("127.0.0.1", name))  # 127.1 stands for any name but those of here
    assert (await gather(MongoStore(client.test.sessions))).open_to_all is expected
    await close(client.test.sessions)


async def test_a_clock_that_is_ahead_is_measured(connect: Connect, driver: str) -> None:
    def fast() -> float:
        return datetime.now(UTC).timestamp() + 300

    facts = await gather(MongoStore(connect(driver)), clock=fast)
    assert 299.9 < facts.clock_ahead < 300.1


# stats.


def a_document(now: datetime, **fields: Any) -> dict[str, Any]:
    """A session that began now and lives for two hours, as the database has it, apart from these fields."""
    times = dict.fromkeys(("created_at", "renewed_at", "rotated_at", "seen_at"), now)
    own = {"_id": uuid4().bytes, "epoch": 7, "generation": 3, "expires_at": now + timedelta(hours=2), "data": {}}
    return times | own | fields


async def test_stats_tell_states_ages_and_sizes(connect: Connect, driver: str) -> None:
    collection = connect(driver)
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)

    def a(created: timedelta, seen: timedelta, size: int = 0, **fields: Any) -> dict[str, Any]:
        times = {"created_at": now - created, "seen_at": now - seen}
        return a_document(now, **{"data": {"text": "x" * size}} | times | fields)

    hour, day, minute, moment = timedelta(hours=1), timedelta(days=1), timedelta(minutes=1), timedelta(milliseconds=1)
    await collection.insert_many(
        [
            *(a(minute, minute, 1000, subject="user:1") for _ in range(18)),
            a(3 * hour, 1.5 * hour, 5000),
            a(19 * day, minute, 40_000),
            a(25 * hour, 25 * hour, 70, expires_at=now + moment),  # whatever this shell's timeouts are
            a(minute, minute, 70, expires_at=now),
            a(25 * day, 25 * day, 70, expires_at=now - day, idle=90.0 * 86400),
            a(minute, minute, epoch=ENDED, reason="revoked"),
        ]
    )
    found = await measure(MongoStore(collection), now.timestamp())
    assert (found.living, found.with_subject, found.expired, found.ended, found.foreign) == (21, 18, 2, 1, 0)
    assert found.created == {"1h": 18, "1d": 1, "7d": 1, "30d": 1, "longer": 0}
    assert found.seen == {"1h": 19, "1d": 1, "7d": 1, "30d": 0, "longer": 0}
    overhead = len(b"\x00\x00\x00\x00\x02text\x00\x00\x00\x00\x00\x00\x00")  # of {"text": ""} as BSON
    assert found.data.median == 1000 + overhead
    assert found.data.p95 == 5000 + overhead
    assert found.data.largest == 40_000 + overhead
    assert found.data.total == 18 * 1000 + 5000 + 40_000 + 70 + 21 * overhead
    assert found.storage.documents == 24
    assert found.storage.bytes > found.data.total
    assert set(found.storage.indexes) == {"_id_"}
    assert found.storage.per_document > 0


async def test_stats_count_what_is_foreign_and_look_at_nothing_else_of_it(connect: Connect, driver: str) -> None:
    collection = connect(driver)
    now = datetime.now(UTC)
    await collection.insert_many(
        [
            a_document(now, data={"a": 1}),
            a_document(now, data=b"not an object"),  # a session, by all that is asked for
            {"_id": "theirs", "data": b"binary", "expires_at": now},
            {"_id": 1, "created_at": "yesterday", "seen_at": [1], "expires_at": "soon"},
            a_document(now, _id=ObjectId()),
            a_document(now, epoch="-1"),
            *({**a_document(now), name: None} for name in ("generation", "renewed_at", "rotated_at", "seen_at")),
        ]
    )
    found = await measure(MongoStore(collection), now.timestamp())
    assert (found.living, found.expired, found.ended, found.foreign) == (2, 0, 0, 8)
    assert sum(found.created.values()) == sum(found.seen.values()) == 2
    assert await collection.count_documents(FOREIGN) == 8  # what `setup` and `check` go by


async def test_the_sizes_of_many_sessions_are_told_within_5_percent(connect: Connect, driver: str) -> None:
    collection = connect(driver)
    now = datetime.now(UTC)
    await collection.insert_many(a_document(now, data={"text": "x" * (i % 3000)}) for i in range(6000))
    found = await measure(MongoStore(collection), now.timestamp())
    assert found.living == 6000
    assert abs(found.data.median - 1516) < 0.05 * 1516
    assert abs(found.data.p95 - 2866) < 0.05 * 2866


async def test_stats_of_nothing(connect: Connect, driver: str) -> None:
    found = await measure(MongoStore(connect(driver)), 0.0)
    assert (found.living, found.data.median, found.storage.documents, found.storage.per_document) == (0, 0, 0, 0)


def test_stats_are_printed(shop: Shop) -> None:
    shop.fill(2, "user:1")
    shop.fill(1)
    result = shop.run("stats")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines[0].startswith(f"{shop.documents.full_name} at 127.0.0.1:")
    for line in ("living 3", "of a subject 2", "expired, still there 0", "under 1h 3 3"):
        assert line in lines
    assert "foreign" not in result.stdout
    shop.documents.insert_one({"coupon": "SUMMER"})
    assert "foreign, no sessions 1" in [" ".join(line.split()) for line in shop.run("stats").stdout.splitlines()]
    assert json.loads(shop.run("stats", "--json").stdout)["foreign"] == 1


# list.


def test_a_subjects_sessions_are_listed_the_last_used_first(shop: Shop) -> None:
    shop.fill(1, "user:1", user_agent="Firefox")
    shop.fill(1, "user:1", user_agent="Chromium", address="192.0.2.1")
    shop.fill(1, "user:2")
    result = shop.run("list", "user:1")
    assert (result.exit_code, result.stderr) == (0, "")
    head, chromium, firefox = result.stdout.splitlines()
    assert head.split() == ["id", "created", "last", "seen", "expires", "description"]
    assert re.fullmatch(r"[0-9a-f]{32}  \d s ago +\d s ago +in 120 min  .*user_agent: 'Chromium'.*", chromium)
    assert firefox.endswith("user_agent: 'Firefox'")
    listed = json.loads(shop.run("list", "user:1", "--json").stdout)
    assert [each["id"] for each in listed] == [line[:32] for line in (chromium, firefox)]
    assert listed[0]["description"] == {"user_agent": "Chromium", "address": "192.0.2.1"}
    assert datetime.fromisoformat(listed[0]["expires_at"]) > datetime.now(UTC)


def test_a_session_lives_for_as_long_as_its_application_says(shop: Shop) -> None:
    """A shell knows nothing of the application's timeouts: the defaults, or what it has itself, must not count."""
    now = datetime.now(UTC)
    seen, hour = now - timedelta(hours=20), timedelta(hours=1)
    kept, gone = uuid4().bytes, uuid4().bytes
    shop.documents.insert_many(
        [
            a_document(seen, _id=kept, subject="user:1", expires_at=now + 28 * hour),  # its idle timeout is two days
            a_document(now, _id=gone, subject="user:1", expires_at=now - hour),
        ]
    )
    for environment in ({}, {"MONGOSESSION_IDLE": "60"}):
        (listed,) = json.loads(shop.run("list", "user:1", "--json", **environment).stdout)
        assert listed["id"] == kept.hex()
        assert datetime.fromisoformat(listed["expires_at"]) - now - 28 * hour < timedelta(milliseconds=1)
        counted = json.loads(shop.run("stats", "--json", **environment).stdout)
        assert (counted["living"], counted["expired"]) == (1, 1)
    asked = Terminal(["revoke", "--subject", "user:1", *shop.place], b"n\n")
    assert "(living now: 1)" in asked.seen


@pytest.mark.parametrize("columns", [20, 40, 80, 110])
def test_no_word_of_a_session_is_lost_on_a_narrow_terminal(columns: int, shop: Shop) -> None:
    agent = "Mozilla/5.0(X11;Linuxx86_64;rv:140.0)Gecko/20100101Firefox/140.0"
    shop.fill(2, "user:1", user_agent=agent, address="192.0.2.1")
    lines = on_a_terminal(columns, "list", "user:1", *shop.place)
    assert max(map(len, lines)) <= columns
    if "description" in lines[0]:  # a table
        at = lines[0].index("description")
        described = "".join(line[at:].strip() for line in lines)
    else:
        described = "".join(line.strip() for line in lines)
    assert described.count(agent) == 2
    assert described.count("192.0.2.1") == 2
    told = "".join(lines).replace(" ", "")
    assert all(each["id"] in told for each in json.loads(shop.run("list", "user:1", "--json").stdout))
    assert told.count("in120min") == 2


@pytest.mark.parametrize("columns", [40, 80])
def test_no_figure_is_lost_on_a_narrow_terminal(columns: int, shop: Shop) -> None:
    shop.fill(3, "user:1")
    lines = on_a_terminal(columns, "stats", *shop.place)
    assert max(map(len, lines)) <= columns
    assert "\N{HORIZONTAL ELLIPSIS}" not in "".join(lines)
    wide = on_a_terminal(160, "stats", *shop.place)
    assert re.findall(r"\d[\d.,]* (?:[KMG]i)?B", "\n".join(lines)) == re.findall(
        r"\d[\d.,]* (?:[KMG]i)?B", "\n".join(wide)
    )


def test_no_word_of_a_finding_is_lost_on_a_narrow_terminal(shop: Shop) -> None:
    lines = on_a_terminal(40, "check", *shop.place)
    assert max(map(len, lines)) <= 40
    said = "".join("".join(lines).split())
    assert "\N{HORIZONTAL ELLIPSIS}" not in said
    assert "session.set_expiry(persistent=True)" in said


def test_a_user_agent_cannot_pass_for_an_address(shop: Shop) -> None:
    shop.fill(1, "user:1", user_agent="Firefox, address: 192.0.2.1", address="198.51.100.7")
    shown = " ".join(shop.run("list", "user:1").stdout.split())
    assert "user_agent: 'Firefox, address: 192.0.2.1', address: '198.51.100.7'" in shown


def test_nobodys_sessions_are_an_empty_list(shop: Shop) -> None:
    shop.run("setup")
    assert shop.run("list", "user:1").stdout == "user:1 has no living sessions\n"
    assert json.loads(shop.run("list", "user:1", "--json").stdout) == []


def test_what_users_wrote_gives_the_terminal_no_orders(shop: Shop) -> None:
    shop.fill(1, "user:\x1b[31m", user_agent="[red]\x1b]0;title\x07 \u202eevil [/]")
    shown = shop.run("list", "user:\x1b[31m").stdout
    assert "[red]\\x1b]0;title\\x07 \\u202eevil [/]" in shown
    assert shown.isascii()
    assert shop.run("list", "\x1b[2J").stdout == "\\x1b[2J has no living sessions\n"


# revoke.


def test_one_session_ends(shop: Shop) -> None:
    shop.fill(2, "user:1")
    one = json.loads(shop.run("list", "user:1", "--json").stdout)[0]["id"]
    assert shop.run("revoke", one, "--yes").stdout == "ended: 1\n"
    assert shop.living() == 1
    again = shop.run("revoke", one, "--yes", "--json")
    assert (again.exit_code, json.loads(again.stdout)) == (1, {"ended": 0})
    assert again.stderr == "Error: there is no session of that id, or it had ended already\n"


def test_a_subjects_sessions_end(shop: Shop) -> None:
    shop.fill(3, "user:1")
    shop.fill(1, "user:2")
    assert json.loads(shop.run("revoke", "--subject", "user:1", "--yes", "--json").stdout) == {"ended": 3}
    assert shop.living() == 1
    assert shop.run("revoke", "--subject", "user:1", "--yes").stdout == "ended: 0\n"


def test_all_sessions_end(shop: Shop) -> None:
    shop.fill(150, "user:1")
    shop.fill(50)
    result = shop.run("revoke", "--all", "--yes")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "ended: 200\n", "")
    assert shop.living() == 0


def test_documents_of_others_are_left_alone(shop: Shop) -> None:
    shop.fill(70, "user:1")
    now = datetime.now(UTC)
    foreign = [{"_id": 1, "subject": "user:1"}, a_document(now, _id="theirs", subject="user:1"), {"epoch": 1}]
    shop.documents.insert_many(foreign)
    assert len(json.loads(shop.run("list", "user:1", "--json").stdout)) == 70
    one = json.loads(shop.run("list", "user:1", "--json").stdout)[0]["id"]
    assert shop.run("revoke", one, "--yes").stdout == "ended: 1\n"
    assert shop.run("revoke", "--subject", "user:1", "--yes").stdout == "ended: 69\n"
    shop.fill(70)
    assert shop.run("revoke", "--all", "--yes").stdout == "ended: 70\n"
    assert json.loads(shop.run("stats", "--json").stdout)["foreign"] == 3
    assert shop.documents.count_documents({"_id": {"$in": [1, "theirs"]}, "subject": "user:1"}) == 2


def test_a_dry_run_counts_and_ends_nothing(shop: Shop) -> None:
    shop.fill(3, "user:1")
    shop.fill(2)
    one = json.loads(shop.run("list", "user:1", "--json").stdout)[0]["id"]
    for what, count in ([one], 1), (["--subject", "user:1"], 3), (["--subject", "user:2"], 0), (["--all"], 5):
        assert shop.run("revoke", *what, "--dry-run").stdout == f"would end: {count}\n"  # nobody is asked
        assert json.loads(shop.run("revoke", *what, "--dry-run", "--yes", "--json").stdout) == {"would_end": count}
    assert shop.living() == 5
    shop.run("revoke", one, "--yes")
    for gone in (one, "0" * 32):
        again = shop.run("revoke", gone, "--dry-run")
        assert (again.exit_code, again.stdout) == (1, "would end: 0\n")
        assert "there is no session of that id" in again.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["stats"],
        ["list", "x"],
        ["revoke", "--all", "--yes"],
        ["revoke", "--subject", "x", "--yes"],
        ["revoke", "0" * 32, "--yes"],
        ["revoke", "--all", "--dry-run"],
    ],
    ids=" ".join,
)
def test_a_collection_that_is_not_there_is_no_empty_one(command: list[str], shop: Shop) -> None:
    place = ["--uri", shop.uri, "--collection", f"{shop.documents.full_name}_typo"]
    result = run(*command, *place)
    assert result.exit_code == 1
    assert complaint(result) == (
        f"the collection {shop.documents.full_name}_typo is not there: is its name right? (setup creates it)"
    )


@pytest.mark.parametrize("options", [{"viewOn": "other"}, {"timeseries": {"timeField": "at"}}], ids=str)
@pytest.mark.parametrize("command", [["setup"], ["stats"], ["list", "x"], ["revoke", "--all", "--yes"]], ids=" ".join)
def test_a_view_or_a_time_series_is_told_by_name(command: list[str], options: dict[str, Any], shop: Shop) -> None:
    shop.documents.database.create_collection(shop.documents.name, **options)
    result = shop.run(*command)
    assert result.exit_code == 1
    assert "is a view" in (said := complaint(result)) or "is a time series" in said


ODD_STORE = """
import asyncio, sys
from mongosession import StoreUnavailable

async def never():
    print("waiting", file=sys.stderr, flush=True)
    await asyncio.Event().wait()

class OddStore(MongoStore):
    looks = writes = 0

    async def find(self, subject=None):
        self.looks += 1
        count = 0
        async for record in super().find(subject):
            count += 1
            if {overlooks} and self.looks == 1 and count > 100:
                return
            yield record

    async def update(self, *arguments, **options):
        self.writes += 1
        if self.writes > {writes}:
            {then}
        return await super().update(*arguments, **options)

engine = SessionEngine(OddStore(engine.store.collection), keys=["k" * 32])
"""


AWAY = 'raise StoreUnavailable("the database is away")'


def odd(shop: Shop, folder: Path, *, overlooks: bool, writes: int, then: str = AWAY) -> str:
    """An application whose store has bad days; its engine."""
    name = application(folder, shop.uri, shop.documents.name)
    with (folder / f"{name}.py").open("a") as module:
        module.write(ODD_STORE.format(overlooks=overlooks, writes=writes, then=then))
    return f"{name}:engine"


def test_what_the_first_look_missed_ends_as_well(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    shop.fill(130)
    result = run("revoke", "--all", "--yes", "--engine", odd(shop, tmp_path, overlooks=True, writes=1000))
    assert result.stdout == "ended: 130\n"
    assert shop.living() == 0


def test_a_database_that_goes_away_in_between_is_said_with_how_far_it_got(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    shop.fill(130)
    result = run("revoke", "--all", "--yes", "--engine", odd(shop, tmp_path, overlooks=False, writes=100))
    assert result.exit_code == 3
    assert complaint(result) == "the database is away; 100 were ended before: run it again"
    assert shop.living() == 30
    assert shop.run("revoke", "--all", "--yes").exit_code == 0
    assert shop.living() == 0
    shop.fill(130, "user:1")
    spec = odd(shop, tmp_path, overlooks=False, writes=100)
    result = run("revoke", "--subject", "user:1", "--yes", "--engine", spec)
    assert result.exit_code == 3
    assert complaint(result) == "the database is away; some may have ended before: run it again"
    assert shop.living() == 30


def test_a_subject_that_is_no_utf_8_is_one_line(shop: Shop) -> None:
    shop.run("setup")
    for arguments in (["list", b"\xff"], ["revoke", "--yes", "--subject", b"\xff"]):
        result = process(*arguments, *shop.place)  # type: ignore[arg-type]  # bytes, as a shell may pass them
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr == "Error: what was typed is no UTF-8, which every subject is\n"


@pytest.mark.parametrize("arguments", [["list", ""], ["revoke", "--yes", "--subject", ""]], ids=" ".join)
def test_an_empty_subject_is_a_variable_that_was_not_set(arguments: list[str], shop: Shop) -> None:
    shop.fill(1, "user:1")
    result = shop.run(*arguments)
    assert result.exit_code == 2
    assert complaint(result) == "the subject is empty, which no session has"
    assert shop.living() == 1


@pytest.mark.parametrize(
    "arguments", [[], ["--all", "--subject", "x"], ["0" * 32, "--all"], ["0" * 32, "--subject", "x"]]
)
def test_revoke_wants_one_of_three(arguments: list[str], shop: Shop) -> None:
    result = shop.run("revoke", *arguments, "--yes")
    assert result.exit_code == 2
    assert complaint(result) == "what should end? Give one of: ID, --subject SUBJECT, --all"


@pytest.mark.parametrize("id", ["12", "x" * 32, "00 " * 15 + "00", "0" * 34])
def test_what_is_no_session_id_is_said(id: str, shop: Shop) -> None:
    result = shop.run("revoke", id, "--yes")
    assert result.exit_code == 2
    assert complaint(result) == f"{id} is no session id: it must be 32 hexadecimal digits"


@pytest.mark.parametrize("what", [["0" * 32], ["--subject", "user:1"], ["--all"]], ids=" ".join)
def test_where_nobody_can_be_asked_nothing_ends(what: list[str], shop: Shop) -> None:
    shop.fill(1, "user:1")
    result = shop.run("revoke", *what)
    assert result.exit_code == 2
    assert complaint(result).endswith("here is no terminal to ask: add --yes")
    assert shop.living() == 1


OWN_TERMINAL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # Ctrl-C is a signal to whom the terminal belongs
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, it is inherited: tests may run in the background
sys.path.insert(0, os.getcwd())
sys.argv[0] = "__main__.py"
from mongosession.__main__ import main
main()
"""


class Terminal:
    """A command at a terminal, and the keys that its operator presses.

    `answer` is typed at once, or when the terminal shows `once`; `to_terminal` sends the standard output there, too.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        answer: bytes,
        *,
        once: bytes = b"",
        columns: int = 100,
        to_terminal: bool = False,
        **options: Any,
    ) -> None:
        master, slave = pty.openpty()
        environment = {**os.environ, "MONGOSESSION_KEYS": KEY, "COLUMNS": str(columns), "TERM": "xterm"}
        command = [sys.executable, "-c", OWN_TERMINAL, *arguments]
        child = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave if to_terminal else subprocess.PIPE,
            stderr=slave,
            env=environment,
            start_new_session=True,
            **options,
        )
        os.close(slave)
        shown = b""
        typed = False
        try:
            while True:
                if not typed and once in shown:
                    os.write(master, answer)
                    typed = True
                if not (part := os.read(master, 4096)):
                    break
                shown += part
        except OSError:  # how Linux says that the other side is closed
            pass
        os.close(master)
        self.stdout = ""
        if child.stdout is not None:
            self.stdout = child.stdout.read().decode()
            child.stdout.close()
        self.exit_code = child.wait(30)
        self.seen = shown.decode()


def on_a_terminal(columns: int, *arguments: str) -> list[str]:
    """The lines that a command shows on a terminal of this width, without their colours."""
    shown = Terminal(arguments, b"", columns=columns, to_terminal=True).seen
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown)
    return [line.rpartition("\r")[2].rstrip() for line in plain.replace("\r\n", "\n").splitlines()]


def test_ctrl_c_counts_even_where_the_question_swallows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """``input()`` drops what is raised while it flushes the standard error."""

    def confirm(*_: object, **__: object) -> bool:
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        return True

    monkeypatch.setattr("click.confirm", confirm)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(click.Abort):
        commands._confirm(yes=False, question="End it?")  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_operator_is_asked_and_may_say_no(shop: Shop) -> None:
    shop.fill(2, "user:1")
    declined = Terminal(["revoke", "--all", *shop.place], b"n\n")
    assert (declined.exit_code, declined.stdout) == (1, "")
    assert f"End ALL sessions in {shop.documents.full_name} at 127.0.0.1:" in declined.seen
    assert "(about 2)? Everybody has to log in again. [y/N]:" in declined.seen
    assert declined.seen.endswith("Error: nothing was done\r\n")
    assert shop.living() == 2


@pytest.mark.parametrize(
    ("what", "question"),
    [
        (["--subject", "user:1"], "End the sessions of user:1 (living now: 2) in "),
        (["--all"], "Everybody has to log in again. [y/N]:"),
        (["ID"], "of user:1, last seen "),
    ],
)
def test_an_operator_says_yes(what: list[str], question: str, shop: Shop) -> None:
    shop.fill(2, "user:1")
    one = json.loads(shop.run("list", "user:1", "--json").stdout)[0]["id"]
    agreed = Terminal(["revoke", *(one if each == "ID" else each for each in what), "--json", *shop.place], b"y\n")
    ended = 1 if what == ["ID"] else 2
    assert (agreed.exit_code, json.loads(agreed.stdout)) == (0, {"ended": ended})
    assert question in agreed.seen
    assert shop.living() == 2 - ended


@pytest.mark.parametrize("what", [["--subject", "user:1"], ["--all"], ["ID"]], ids=" ".join)
def test_ctrl_c_at_the_question_is_a_no(what: list[str], shop: Shop) -> None:
    shop.fill(2, "user:1")
    one = json.loads(shop.run("list", "user:1", "--json").stdout)[0]["id"]
    arguments = ["revoke", *(one if each == "ID" else each for each in what), *shop.place]
    stopped = Terminal(arguments, b"\x03y\n", once=b"[y/N]:")
    assert (stopped.exit_code, stopped.stdout) == (1, "")
    assert stopped.seen.endswith("Aborted!\r\n")
    assert shop.living() == 2


def test_ctrl_c_in_the_middle_tells_how_many_have_ended(shop: Shop, tmp_path: Path) -> None:
    shop.fill(130)
    spec = odd(shop, tmp_path, overlooks=False, writes=64, then="await never()")
    stopped = Terminal(["revoke", "--all", "--yes", "--engine", spec], b"\x03", once=b"waiting", cwd=tmp_path)
    assert (stopped.exit_code, stopped.stdout) == (1, "")
    assert "Error: interrupted; 64 were ended before: run it again\r\n" in stopped.seen
    assert shop.living() == 66


def test_long_work_shows_how_far_it_is(shop: Shop) -> None:
    shop.fill(130)
    shown = Terminal(["revoke", "--all", "--yes", *shop.place], b"")
    assert (shown.exit_code, shown.stdout) == (0, "ended: 130\n")
    assert "130/130" in shown.seen


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (["stats"], "reading about 3 documents"),
        (["setup"], "looking at what is there, building what is missing"),
        (["revoke", "--subject", "user:1", "--yes"], "ending the sessions of user:1"),
    ],
)
def test_what_may_take_long_says_so_at_a_terminal_alone(command: list[str], shown: str, shop: Shop) -> None:
    shop.fill(3, "user:1")
    seen = Terminal([*command, *shop.place], b"")
    assert seen.exit_code == 0
    assert f"{shown} 0:00:0" in re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", seen.seen)
    assert shop.run(*command).stderr == ""


# The documentation.


def shape(shown: str) -> list[str]:
    """What was printed, without what differs from run to run: figures, ids, keys, addresses, widths."""
    for pattern, instead in (
        (r"\S+ at 127\.0\.0\.1:\d+", "PLACE"),
        (r'"collection": "[^"]+"', '"collection": PLACE'),
        (r"mongosession_test\.\w+|shop\.sessions", "NAME"),
        (r"\b[0-9a-f]{32}\b", "ID"),
        (r"(?m)^[\w-]{43}$", "KEY"),
        (r"(ahead of|behind) the", "off the"),
        (r"\d[\d,.]*( (B|[KMG]iB|s|min|h|d)\b)?", "N"),
        (r"\s+", " "),
    ):
        shown = re.sub(pattern, instead, shown)
    return shown.split()


def test_the_documentation_shows_what_the_commands_print(replica_uri: str) -> None:
    blocks = re.findall(
        r"^```console\n(.*?)^```", (ROOT / "docs" / "command-line.md").read_text(), re.DOTALL | re.MULTILINE
    )
    shown = [
        part for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE) if "-m mongosession" in part
    ]
    assert {shlex.split(part.partition("\n")[0])[3] for part in shown} == set(cli.commands)
    with MongoClient[dict[str, Any]](replica_uri) as client:
        shop = Shop(replica_uri, client["mongosession_test"][uuid4().hex])
        for part in shown:
            line, _, expected = part.partition("\n")
            arguments = shlex.split(line)[3:]
            if arguments[0] == "list":
                shop.documents.delete_many({})
                shop.fill(1, "user:42", user_agent="Firefox on Linux", address="192.0.2.1")
                shop.fill(1, "user:42", user_agent="Safari on iPhone", address="198.51.100.7")
                shop.fill(1)
            elif arguments[0] == "revoke":
                living = json.loads(shop.run("list", "user:42", "--json").stdout)
                arguments = [living[0]["id"] if re.fullmatch("[0-9a-f]{32}", each) else each for each in arguments]
            result = run(*arguments, *([] if arguments == ["key"] else shop.place), MONGOSESSION_KEYS=KEY)
            assert (result.exit_code, result.stderr) == (0, ""), line
            assert shape(result.stdout) == shape(expected), line
        shop.documents.drop()
