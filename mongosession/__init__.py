"""Web sessions in MongoDB whose cookie token rotates, for any framework."""

from mongosession.engine import SessionEngine, SessionInfo
from mongosession.errors import DataError, SessionError, SetupError, StoreError, StoreUnavailable
from mongosession.events import Event, EventKind, Verdict
from mongosession.memory import MemoryStore
from mongosession.mongo import MongoStore
from mongosession.policy import Cookie, Rotation, Timeouts
from mongosession.session import KEEP, Session

__all__ = [
    "KEEP",
    "Cookie",
    "DataError",
    "Event",
    "EventKind",
    "MemoryStore",
    "MongoStore",
    "Rotation",
    "Session",
    "SessionEngine",
    "SessionError",
    "SessionInfo",
    "SetupError",
    "StoreError",
    "StoreUnavailable",
    "Timeouts",
    "Verdict",
]
