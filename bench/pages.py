"""Writes a request under a browser's load: what rotation costs where nothing is stored. Virtual time, seeded chance."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from operator import itemgetter

from mongosession import MemoryStore, Rotation, SessionEngine
from mongosession.testing import Browser, CountingStore, Exchange, HandClock, seeded

from .results import Figure, Goal, Part

TITLE = "Writes under a browser's load"
DID = (
    "An hour of one browser in virtual time: a page every 3 s, whose six requests leave at once with the same "
    "cookie. A message takes 20 to 150 ms, a handler 10 to 100 ms, and stores nothing: every write is a rotation "
    'or a touch. "At once": all six are opened before the first is answered. "Processes": each request goes to '
    "any of them."
)

HOUR, PAGE, REQUESTS = 3600, 3, 6
NETWORK, HANDLER = (0.02, 0.15), (0.01, 0.1)
GOALS = {5: 0.12, 60: 0.02}

Step = Callable[[Exchange], Awaitable[object]]


async def _open(exchange: Exchange) -> None:
    session = await exchange.open()
    assert session["user"] == "anna"


async def _answer(exchange: Exchange) -> None:
    await exchange.answer()


async def _deliver(exchange: Exchange) -> None:
    exchange.deliver()


class Site:
    """Some processes with one store, and a browser.

    Args:
        ttl: of the rotation, in seconds.
        processes: how many.
        spread: requests take the times above; else all of a page do the same at the same moment.
    """

    def __init__(self, ttl: float, processes: int, *, spread: bool) -> None:
        self.clock = HandClock()
        self.store = CountingStore(MemoryStore())
        self.engines = [
            SessionEngine(
                self.store,
                keys=["k" * 32],
                rotation=Rotation(ttl=ttl),
                clock=self.clock,
                random=seeded(number),
            )
            for number in range(processes)
        ]
        self.browser = Browser(self.engines[0], self.clock)
        self.chance = random.Random(1)
        self.spread = spread

    async def hour(self) -> float:
        """Writes a request."""
        async with self.browser.visit() as session:
            session["user"] = "anna"
        self.store.take()
        start, pages = self.clock(), HOUR // PAGE
        for page in range(1, pages + 1):
            self.clock.now = start + page * PAGE
            await self._page()
        writes = [call for call in self.store.take() if call != "load"]
        return len(writes) / (pages * REQUESTS)

    async def _page(self) -> None:
        sent = [self.browser.send(self.chance.choice(self.engines)) for _ in range(REQUESTS)]
        steps = [step for exchange in sent for step in self._steps(exchange)]
        for when, do, exchange in sorted(steps, key=itemgetter(0)):
            self.clock.now = when
            await do(exchange)

    def _steps(self, exchange: Exchange) -> list[tuple[float, Step, Exchange]]:
        now = self.clock()
        arrives = now + self._takes(NETWORK)
        answered = arrives + self._takes(HANDLER)
        delivered = answered + self._takes(NETWORK)
        return [(arrives, _open, exchange), (answered, _answer, exchange), (delivered, _deliver, exchange)]

    def _takes(self, bounds: tuple[float, float]) -> float:
        return self.chance.uniform(*bounds) if self.spread else bounds[0]


async def _measure() -> list[Figure]:
    figures: list[Figure] = []
    for ttl, most in GOALS.items():
        for processes in (1, 2, 4):
            for spread in (True, False):
                share = await Site(ttl, processes, spread=spread).hour()
                words = f"{processes} process{'es' if processes > 1 else ''}{'' if spread else ', at once'}"
                aim: Goal | None = ("at most", most) if processes == 1 else None
                figures.append(Figure(f"ttl {ttl} s, {words}", share, "writes a request", aim))
    return figures


def run() -> Part:
    """The whole part."""
    return Part(TITLE, DID, asyncio.run(_measure()))
