"""Memory of sessions that stay open, as behind WebSockets that wait."""

import asyncio
import gc
import os
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pymongo import AsyncMongoClient

from mongosession import MongoStore, SessionEngine
from mongosession.mongod import Mongod
from mongosession.testing import HandClock, logged_in, seeded

from .results import Figure, Part

TITLE = "Memory of an open session"
DID = (
    "10,000 sessions of 300 bytes of data, opened from a real MongoDB and held, as by WebSockets that wait; each "
    "in a process of its own. What Python has allocated (tracemalloc), and by how much the process has grown "
    "(resident set)."
)

SESSIONS, AT_ONCE = 10_000, 50
DATA = {"csrf": "x" * 40, "visits": 1, "basket": ["tea", "milk"], "filler": "x" * 150}


def _resident() -> int:
    """Bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _allocated() -> int:
    if not tracemalloc.is_tracing():
        tracemalloc.start()
    return tracemalloc.get_traced_memory()[0]


async def _hold(uri: str, look: bool, used: Callable[[], int]) -> float:
    async with AsyncMongoClient[dict[str, Any]](uri) as client:
        engine = SessionEngine(MongoStore(client.shop.sessions), keys=["k" * 32], clock=HandClock(), random=seeded(1))
        cookie = await logged_in(engine, "user:42", DATA)
        try:
            return await _grown(engine, cookie, look, used)
        finally:
            await client.drop_database("shop")


async def _grown(engine: SessionEngine, cookie: str, look: bool, used: Callable[[], int]) -> float:
    held: list[Any] = []

    async def opened(times: int) -> None:
        for _ in range(0, times, AT_ONCE):
            sessions = await asyncio.gather(*(engine.open(cookie) for _ in range(AT_ONCE)))
            if look:
                for session in sessions:
                    assert session["visits"] == 1
            held.extend(sessions)

    await opened(SESSIONS // 10)  # what is allocated once: connections, caches, arenas
    held.clear()
    gc.collect()
    before = used()
    await opened(SESSIONS)
    gc.collect()
    return (used() - before) / SESSIONS


def held(uri: str, look: bool, traced: bool) -> float:
    """Bytes by which a process grew, by session."""
    return asyncio.run(_hold(uri, look, _allocated if traced else _resident))


def run() -> Part:
    """The whole part."""
    figures: list[Figure] = []
    with Mongod() as mongod:
        for look in (True, False):
            for traced in (True, False):
                with ProcessPoolExecutor(1, get_context("spawn")) as process:
                    bytes_ = process.submit(held, mongod.uri, look, traced).result()
                words = f"{'one key read' if look else 'not looked at'}, {'allocated' if traced else 'resident'}"
                figures.append(Figure(words, bytes_, "bytes", ("at most", 4096)))
    return Part(TITLE, DID, figures)
