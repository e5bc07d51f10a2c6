"""A change of keys while two servers run: at each step one of them already has the new ring and the other has not.

Every order is tried of: which server a request goes to, when its calls to the store take place, when its answer arrives
or that it never does, when the token becomes due, when a server takes the next step. (A request under way keeps the
ring that it began with.)
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from random import Random
from typing import Any, Literal, NamedTuple

import pytest

from mongosession import MongoStore, Session, SessionEngine, Verdict
from mongosession.keys import KeyRing
from mongosession.store import Record
from mongosession.testing import Browser, CommandCounter, HandClock, seeded
from mongosession.tokens import SID_BYTES, Token, TokenCodec, deadline
from mongosession.values import dump

from .conftest import Connect
from .interleavings import NOW, OPENS, PAST, TIMEOUTS, Search, document
from .replays import Met, Outcome, Replays

OLD, NEW = "o" * 32, "n" * 32
NAME = "__Host-session"

BEFORE: dict[str, Any] = {"keys": [OLD]}
ANNOUNCED: dict[str, Any] = {"keys": [OLD], "next_keys": [NEW]}
SWITCHED: dict[str, Any] = {"keys": [NEW, OLD]}
WITHDRAWN: dict[str, Any] = {"keys": [NEW]}
RINGS = (BEFORE, ANNOUNCED, SWITCHED, WITHDRAWN)

THREE_STEPS = ((0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (3, 2), (3, 3))
"""The rings of the two servers, one change after the other."""

MADE_BY = {key: TokenCodec(KeyRing([key]), NAME) for key in (OLD, NEW)}
FIRST = MADE_BY[OLD].write(Token(b"x" * SID_BYTES, 7, 0, deadline(PAST, TIMEOUTS.absolute)))


@cache
def key_of(token: str) -> str:
    """The key that a token is under."""
    (key,) = [key for key, codec in MADE_BY.items() if codec.read(token, NOW) is not None]
    return key


def token_of(cookie: str) -> str:
    return cookie.partition(";")[0].partition("=")[2]


class Request(NamedTuple):
    """A request on its way; one that is over is gone.

    Attributes:
        ring: of the server that it went to.
        token: what it presents; of its answer where it is answered.
        met: what its calls to the store have met.
    """

    stage: Literal["under way", "answered"]
    ring: int
    token: str
    met: Met = ()


class Scene(NamedTuple):
    """One session, one browser, two servers; the requests in any order, since who is who does not matter."""

    step: int
    left: int
    document: Record
    jar: str
    requests: tuple[Request, ...] = ()


class Move(NamedTuple):
    """One step; where a request takes it, the request and how far it got."""

    what: Literal["step", "time", "leaves", "calls", "delivered", "lost"]
    request: Request | None = None
    outcome: Outcome | None = None


def search(
    steps: Sequence[tuple[int, int]], runner: asyncio.Runner, *, requests: int, hasty: bool = False
) -> Search[Scene, Move]:
    """All orders.

    Args:
        steps: the rings of both servers, one change after the other.
        runner: where the engines run.
        requests: how many the browser sends; two at most at the same time.
        hasty: the old key is withdrawn without waiting until no token under it is left.
    """
    replays = [Replays(**ring) for ring in RINGS]

    def look(session: Session) -> None:
        assert session.is_new or session == {"basket": "tea"}

    def go_on(scene: Scene, request: Request) -> tuple[Outcome, Scene]:
        """The next call of a request; a document that is changed was so just now."""
        cookie = f"{NAME}={request.token}"
        outcome = replays[request.ring].request(runner, 0, look, cookie, request.met)
        if outcome.document is not None:
            scene = scene._replace(document=outcome.document)
        if outcome.waits_for is not None:
            return outcome, put(scene, request)
        if outcome.set_cookie is None:
            return outcome, scene
        return outcome, put(scene, Request("answered", request.ring, token_of(outcome.set_cookie)))

    def moves(scene: Scene) -> Iterator[tuple[Move, Scene]]:
        if scene.step + 1 < len(steps) and (hasty or 3 not in steps[scene.step + 1] or old_key_is_gone(scene)):
            yield Move("step"), scene._replace(step=scene.step + 1)
        if scene.document.rotated_at > PAST:
            yield Move("time"), scene._replace(document=scene.document._replace(rotated_at=PAST))
        if scene.left and len(scene.requests) < 2:
            for ring in sorted(set(steps[scene.step])):
                request = Request("under way", ring, scene.jar)
                outcome, after = go_on(scene._replace(left=scene.left - 1), request)
                yield Move("leaves", request, outcome), after
        for number, request in enumerate(scene.requests):
            rest = scene._replace(requests=(*scene.requests[:number], *scene.requests[number + 1 :]))
            if request.stage == "under way":
                called = request._replace(met=(*request.met, scene.document))
                outcome, after = go_on(rest, called)
                yield Move("calls", called, outcome), after
            else:
                yield Move("delivered", request), rest._replace(jar=request.token)
                yield Move("lost", request), rest

    start = document(b"x" * SID_BYTES, 7)._replace(data=dump({"basket": "tea"}), rotated_at=NOW)
    return Search(Scene(0, requests, start, FIRST), moves)


def old_key_is_gone(scene: Scene) -> bool:
    """Whether no token is under it, and none will be: no request is left at a server that signs with it."""
    tokens = [scene.jar, *(request.token for request in scene.requests)]
    return all(key_of(token) == NEW for token in tokens) and all(request.ring >= 2 for request in scene.requests)


def put(scene: Scene, request: Request) -> Scene:
    return scene._replace(requests=tuple(sorted([*scene.requests, request], key=repr)))


def refused(move: Move) -> bool:
    """Whether a request was not given its session."""
    outcome = move.outcome
    return outcome is not None and (
        outcome.waits_for is None if move.what == "leaves" else outcome.verdict not in OPENS
    )


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "mongosession")


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def test_nobody_is_logged_out_at_any_step(runner: asyncio.Runner) -> None:
    orders = search(THREE_STEPS, runner, requests=5)
    sent: Counter[tuple[int, str, str, Verdict]] = Counter()
    arrived: set[int] = set()
    for scene, move, after in orders:
        assert not refused(move), orders.schedule(scene)
        arrived.add(after.step)
        request, outcome = move.request, move.outcome
        if move.what == "calls" and outcome is not None and outcome.set_cookie is not None:
            assert request is not None
            assert outcome.verdict is not None
            sent[request.ring, key_of(request.token), key_of(token_of(outcome.set_cookie)), outcome.verdict] += 1
    print(f"{orders.states} states; tokens sent (ring, under, now under, verdict): {dict(sent)}")
    assert orders.states > 10_000
    assert arrived == set(range(len(THREE_STEPS)))
    for ring, presented, given, verdict in sent:
        assert given == (OLD if ring < 2 else NEW)  # under the sender's primary
        if verdict is Verdict.CURRENT:  # sent again: under an old key, never under a next one
            assert (ring, presented) == (2, OLD)
    assert sent[2, OLD, NEW, Verdict.CURRENT] > 0
    assert sent[2, OLD, NEW, Verdict.DUE] > 0
    assert sent[1, NEW, OLD, Verdict.DUE] > 0  # there and back, while the servers differ


WRONG = {
    "primary before it is next everywhere": ((0, 0), (2, 0), (2, 2)),
    "next on one server only": ((0, 0), (1, 0), (2, 0), (2, 2)),
    "replaced at once": ((0, 0), (3, 0), (3, 3)),
}


@pytest.mark.parametrize("steps", WRONG.values(), ids=WRONG)
def test_a_wrong_order_logs_people_out(steps: tuple[tuple[int, int], ...], runner: asyncio.Runner) -> None:
    assert any(refused(move) for _, move, _ in search(steps, runner, requests=3, hasty=True))


def test_withdrawing_too_early_logs_people_out(runner: asyncio.Runner) -> None:
    orders = search(THREE_STEPS, runner, requests=3, hasty=True)
    losses = {
        (move.request.ring, key_of(move.request.token)) for _, move, _ in orders if refused(move) and move.request
    }
    assert losses == {(3, OLD)}


def test_a_token_under_a_withdrawn_key_is_refused_without_a_command(runner: asyncio.Runner) -> None:
    outcome = Replays(**WITHDRAWN).request(runner, 0, lambda _: None, f"{NAME}={FIRST}", ())
    assert (outcome.verdict, outcome.waits_for) == (Verdict.INVALID, None)


# Two servers on a real MongoDB, each with a client of its own.


class Site:
    """Two servers with the rings of a step, and some browsers."""

    def __init__(self, connect: Connect, driver: str) -> None:
        self.counter = CommandCounter()
        first = connect(driver, listeners=[self.counter])
        second = connect(driver, listeners=[self.counter])
        self.stores = [MongoStore(first), MongoStore(second.database[first.name])]
        self.clock = HandClock()
        self.random = seeded(1)
        self.browsers = [Browser(self.servers(BEFORE, BEFORE)[0], self.clock) for _ in range(8)]

    def servers(self, *rings: dict[str, Any]) -> list[SessionEngine]:
        return [
            SessionEngine(store, **ring, clock=self.clock, random=self.random)
            for store, ring in zip(self.stores, rings, strict=True)
        ]

    async def log_in(self) -> None:
        for number, browser in enumerate(self.browsers):
            async with browser.visit() as session:
                session.renew(subject=f"user:{number}")

    async def visit(self, number: int, servers: list[SessionEngine], chance: Random) -> None:
        """Some requests at once, each to either server; a third of the answers are lost."""
        exchanges = [self.browsers[number].send(chance.choice(servers)) for _ in range(chance.randint(1, 3))]
        for session in await asyncio.gather(*(exchange.open() for exchange in exchanges)):
            assert session.subject == f"user:{number}", session.verdict
            session.increment("requests")
        await asyncio.gather(*(exchange.answer() for exchange in exchanges))
        for exchange in exchanges:
            if chance.random() < 0.67:
                exchange.deliver()

    def keys(self) -> Counter[str]:
        """The keys that the browsers' tokens are under."""
        return Counter(key_of(token_of(browser.jar.header() or "")) for browser in self.browsers)


@pytest.mark.parametrize("seed", range(3))
async def test_two_servers_on_mongodb(connect: Connect, driver: str, seed: int) -> None:
    chance = Random(seed)
    site = Site(connect, driver)
    await site.log_in()
    first = [browser.jar.copy() for browser in site.browsers]
    for step in THREE_STEPS:
        servers = site.servers(*(RINGS[ring] for ring in step))
        if step == (3, 2):  # waited until everybody had come by and got the answer
            site.clock.advance(5)
            for browser in site.browsers:
                browser.engine = chance.choice(site.servers(SWITCHED, SWITCHED))
                async with browser.visit() as session:
                    assert session.subject is not None
            assert site.keys() == {NEW: len(site.browsers)}
        for _ in range(4):
            site.clock.advance(chance.choice([1, 6]))
            await asyncio.gather(*(site.visit(number, servers, chance) for number in range(len(site.browsers))))
    site.counter.take()
    for jar in first:
        for server in site.servers(WITHDRAWN, WITHDRAWN):
            assert (await server.open(jar.header())).verdict is Verdict.INVALID
    assert site.counter.take() == []


async def test_a_compromised_key_is_withdrawn_at_once(connect: Connect, driver: str) -> None:
    """Every token under it is dead, without a command; the documents stay, and can be ended by an administrator."""
    site = Site(connect, driver)
    await site.log_in()
    site.counter.take()
    servers = site.servers(WITHDRAWN, WITHDRAWN)
    for browser in site.browsers:
        for server in servers:
            session = await browser.send(server).open()
            assert (session.verdict, session.subject, dict(session)) == (Verdict.INVALID, None, {})
    assert site.counter.take() == []
    for number, browser in enumerate(site.browsers):  # everybody logs in again
        browser.engine = servers[number % 2]
        async with browser.visit() as session:
            session.renew(subject=f"user:{number}")
    assert site.keys() == {NEW: len(site.browsers)}
    assert len([info async for info in servers[0].sessions("user:0")]) == 2
