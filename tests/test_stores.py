"""The stores keep their contract."""

import pytest

from mongosession.memory import MemoryStore
from mongosession.mongo import MongoStore
from mongosession.store import Store

from .conftest import Connect
from .store_contract import StoreContract


class TestMemoryStore(StoreContract):
    """In memory."""

    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()


class TestMongoStore(StoreContract):
    """In MongoDB: each driver on each kind of server."""

    @pytest.fixture(params=[False, True], ids=["standalone", "replica_set"])
    def store(self, request: pytest.FixtureRequest, connect: Connect, driver: str) -> Store:
        return MongoStore(connect(driver, replica=request.param))
