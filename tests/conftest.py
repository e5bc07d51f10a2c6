"""What the tests share: the event loop, two MongoDB servers, and collections of either driver on them."""

import gc
import os
import shutil
import warnings
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Protocol
from uuid import uuid4

import pytest
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient
from pymongo.monitoring import CommandListener
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from mongosession.mongod import Mongod

from .chromium import CHROMIUM, FLAGS, clean

CLIENTS = {"pymongo": AsyncMongoClient, "motor": AsyncIOMotorClient}


pytest.register_assert_rewrite("tests.store_contract")  # its failures tell values, as those of a test file do


class Connect(Protocol):
    """What the fixture `connect` gives."""

    def __call__(
        self, driver: str, *, replica: bool = False, listeners: Sequence[CommandListener] = (), **options: Any
    ) -> Any:
        """A collection that does not exist yet, on a client of its own, which `options` go to.

        `driver` is a key of `CLIENTS`; `replica` asks for the replica set instead of the standalone server; `listeners`
        see the commands of this client only.
        """


async def closed(client: Any) -> None:
    """Close a client of either driver whose server is away."""
    closing = client.close()
    if closing is not None:  # PyMongo's is a coroutine, Motor's is not
        await closing
    with warnings.catch_warnings():  # where its monitor is just connecting, PyMongo drops the socket without closing it
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The library runs where its drivers do: on asyncio."""
    return "asyncio"


@pytest.fixture(scope="session")
def mongod_uri() -> Iterator[str]:
    """A standalone server, or the one of `MONGODB_URI`."""
    yield from _server(replica_set=False)


@pytest.fixture(scope="session")
def replica_uri() -> Iterator[str]:
    """A replica set of one node, or the server of `MONGODB_URI`."""
    yield from _server(replica_set=True)


def _server(*, replica_set: bool) -> Iterator[str]:
    if given := os.environ.get("MONGODB_URI"):
        yield given
    else:
        with Mongod(replica_set=replica_set) as mongod:
            yield mongod.uri


@pytest.fixture
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """Makes collections; drops them and closes their clients when the test has ended."""
    made: list[Any] = []

    def make(driver: str, *, replica: bool = False, listeners: Sequence[CommandListener] = (), **options: Any) -> Any:
        uri = request.getfixturevalue("replica_uri" if replica else "mongod_uri")
        client: Any = CLIENTS[driver](uri, event_listeners=listeners, **options)
        made.append(client["mongosession_test"][uuid4().hex])
        return made[-1]

    yield make
    for collection in made:
        await collection.drop()
        closing = collection.database.client.close()
        if closing is not None:  # PyMongo's is a coroutine, Motor's is not
            await closing


@pytest.fixture(params=CLIENTS)
def driver(request: pytest.FixtureRequest) -> str:
    """Runs the test once with each driver."""
    name: str = request.param
    return name


@pytest.fixture
def collection(connect: Connect, driver: str) -> Any:
    """A new collection of either driver on the standalone server."""
    return connect(driver)


@pytest.fixture
def replica_collection(connect: Connect, driver: str) -> Any:
    """A new collection of either driver on the replica set."""
    return connect(driver, replica=True)


@pytest.fixture(scope="session")
def started_chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """The browser that `chromium` hands out. Starting one takes seconds, so there is one."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def chromium(started_chromium: webdriver.Chrome) -> webdriver.Chrome:
    """A real browser, headless, on an empty page, without cookies and with an empty log: nothing of an earlier test."""
    clean(started_chromium)
    return started_chromium
