"""Session fixation: a token of the attacker's own in the victim's jar, then the victim logs in.

Every order of the steps of both, through the real engine: each call to the store is a step of its own, each answer is
delivered at any later time or never. What is checked at each step:

- what the attacker is shown is never the victim's session, nor anything stored from the log-in on, and no token that he
  was ever given opens it;
- nothing of the attacker's gets into the victim's session once the victim has logged in, except that it may be ended;
- no request of the victim's that is opened after his log-in is in the attacker's session.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from enum import StrEnum
from functools import cache
from itertools import combinations, combinations_with_replacement
from random import Random
from typing import Any, Literal, NamedTuple

import pytest

from mongosession import MongoStore, Rotation, Session, SessionEngine, Verdict
from mongosession.keys import KeyRing
from mongosession.policy import Cookie
from mongosession.store import ENDED, Changes, Record
from mongosession.testing import CountingStore, HandClock
from mongosession.tokens import SID_BYTES, Token, TokenCodec, deadline, session_id
from mongosession.values import dump, load

from .interleavings import NOW, PAST, TIMEOUTS, Action, Search, document, drawn, find, own_key
from .replays import Met, Outcome, Replays

KEY = "k" * 32
COOKIE = Cookie(name="session")  # without the prefix: a neighbouring host can plant one
CODEC = TokenCodec(KeyRing([KEY]), COOKIE.name)
STRICT = Rotation(grace=0, on_copied="refuse")

ATTACKER, VICTIM = "attacker", "victim"

BEFORE, LOG_IN, AFTER = 0, 1, 2
VICTIMS = (Action(), Action(renews=True, subject=VICTIM), Action())
SECRET = {own_key(LOG_IN), own_key(AFTER)}
"""What is stored by the log-in and after it."""

READ = Action(writes=False)
WRITE = Action()
RENEW = Action(renews=True)
DESTROY = Action(destroys=True, writes=False)
LOG_IN_AS_HIMSELF = Action(renews=True, subject=ATTACKER)
ATTACKS = {
    "reads": READ,
    "writes": WRITE,
    "renews": RENEW,
    "destroys": DESTROY,
    "logs in as himself": LOG_IN_AS_HIMSELF,
}


def text(sid: bytes, epoch: int) -> str:
    return CODEC.write(Token(sid, epoch, 0, deadline(PAST, TIMEOUTS.absolute)))


PLANTED_SID, OWN_SID, EPOCH = b"x" * SID_BYTES, b"y" * SID_BYTES, 7
PLANTED, OWN = text(PLANTED_SID, EPOCH), text(OWN_SID, EPOCH)


class Request(NamedTuple):
    """A request on its way. Of one that is over nothing is kept but the victim's answer, until it is delivered.

    Attributes:
        cookie: the Cookie header.
        met: what its calls to the store have met.
        waits_for: the document that its next call concerns.
        answer: its answer's Set-Cookie.
    """

    stage: Literal["ready", "under way", "answered", "over"] = "ready"
    cookie: str | None = None
    met: Met = ()
    waits_for: bytes | None = None
    answer: str | None = None


class Scene(NamedTuple):
    """Everything there is.

    Attributes:
        documents: in the order of their ids.
        jar: the victim's token.
        hand: the tokens that the attacker has ever been given.
        logged_in: the victim's log-in has been carried out.
        welcomed: its answer has reached the victim's jar.
        requests: three of the victim's, then those of the attacker.
    """

    documents: tuple[Record, ...]
    jar: str | None
    hand: frozenset[str]
    requests: tuple[Request, ...]
    logged_in: bool = False
    welcomed: bool = False


class Step(StrEnum):
    LEAVES = "leaves"
    CALLS = "calls the store"
    DELIVERED = "answer delivered"


class Move(NamedTuple):
    """One step of one request.

    Attributes:
        cookie: the Cookie header, where the request leaves.
        outcome: how far the request has got then; None where its answer is delivered.
        before: for a call, the document that it met.
    """

    step: Step
    request: int
    cookie: str | None = None
    outcome: Outcome | None = None
    before: Record | None = None


class Plot:
    """What the attacker tries.

    Args:
        attacks: what each of his requests does.
        subject: whose the planted session is: nobody's, or the attacker's own.
        jar: what the victim's jar holds at first: the planted token, one of a session of his own, or nothing.
        tossed: the planted token is in every Cookie header of the victim's, beside what his jar holds.
        rotation: the rules; the newest token is always due.
        long_after: each step comes later than the lateness, so that old tokens are ended, not late.
    """

    def __init__(
        self,
        attacks: tuple[Action, ...],
        *,
        subject: str | None = None,
        jar: Literal["planted", "own", "empty"] = "planted",
        tossed: Literal["no", "first", "last"] = "no",
        rotation: Rotation = Rotation(),  # noqa: B008  # a frozen value
        long_after: bool = False,
    ) -> None:
        self.actions = (*VICTIMS, *attacks)
        self.tossed = tossed
        self.rotation = rotation
        self.times: dict[str, Any] = {"rotated_at": PAST}
        if long_after:
            self.times["renewed_at"] = NOW - 1 - rotation.lateness
        self.replays = Replays(keys=[KEY], cookie=COOKIE, rotation=rotation)
        self.subject = subject
        planted = document(PLANTED_SID, EPOCH, subject)._replace(data=dump({"bait": 1}))
        documents = sorted([planted, document(OWN_SID, EPOCH)] if jar == "own" else [planted])
        self.start = Scene(
            tuple(documents),
            {"planted": PLANTED, "own": OWN, "empty": None}[jar],
            frozenset({PLANTED}),
            (Request(),) * len(self.actions),
        )

    def header(self, jar: str | None) -> str | None:
        """The victim's Cookie header."""
        values = [] if jar is None else [jar]
        if self.tossed != "no":
            values.insert(0 if self.tossed == "first" else len(values), PLANTED)
        return "; ".join(f"{COOKIE.name}={value}" for value in values) or None

    def search(self, runner: asyncio.Runner) -> Search[Scene, Move]:
        """All orders."""

        def moves(scene: Scene) -> Iterator[tuple[Move, Scene]]:
            for index, request in enumerate(scene.requests):
                if request.stage == "ready":
                    for cookie in self._cookies(scene, index):
                        yield self._leave(scene, index, cookie, runner)
                elif request.stage == "under way":
                    yield self._call(scene, index, runner)
                elif request.stage == "answered":
                    assert request.answer is not None
                    after = put(scene, index, Request("over"))._replace(jar=token_of(request.answer))
                    if index == LOG_IN:
                        after = after._replace(welcomed=True)
                    yield Move(Step.DELIVERED, index), after

        return Search(self.start, moves)

    def _cookies(self, scene: Scene, index: int) -> Iterator[str | None]:
        """The Cookie headers with which a request may leave now."""
        if index >= len(VICTIMS):  # of equal requests the first one leaves first
            if (
                index == len(VICTIMS)
                or self.actions[index - 1] != self.actions[index]
                or scene.requests[index - 1].stage != "ready"
            ):
                for token in sorted(scene.hand):
                    yield f"{COOKIE.name}={token}"
        elif scene.logged_in if index == AFTER else scene.requests[LOG_IN].stage == "ready":
            yield self.header(scene.jar)

    def _leave(self, scene: Scene, index: int, cookie: str | None, runner: asyncio.Runner) -> tuple[Move, Scene]:
        outcome = self.replays.request(runner, index, self.handler(index), cookie, ())
        move = Move(Step.LEAVES, index, cookie, outcome)
        return move, self._after(scene, index, Request("under way", cookie), outcome)

    def _call(self, scene: Scene, index: int, runner: asyncio.Runner) -> tuple[Move, Scene]:
        request = scene.requests[index]
        assert request.waits_for is not None
        before = find(scene.documents, request.waits_for)
        request = request._replace(met=(*request.met, before))
        outcome = self.replays.request(runner, index, self.handler(index), request.cookie, request.met)
        after = self._after(scene, index, request, outcome)
        if outcome.document is not None:
            changed = outcome.document._replace(**self.times)  # due again at once
            rest = [each for each in scene.documents if each.id != changed.id]
            after = after._replace(documents=tuple(sorted([*rest, changed])))
            if index == LOG_IN and changed.subject == VICTIM:
                after = after._replace(logged_in=True)
        return Move(Step.CALLS, index, outcome=outcome, before=before), after

    def _after(self, scene: Scene, index: int, request: Request, outcome: Outcome) -> Scene:
        if outcome.waits_for is not None:
            return put(scene, index, request._replace(waits_for=outcome.waits_for))
        if outcome.set_cookie is None:
            return put(scene, index, Request("over"))
        if index < len(VICTIMS):
            return put(scene, index, Request("answered", answer=outcome.set_cookie))
        given = token_of(outcome.set_cookie)
        hand = scene.hand if given is None else scene.hand | {given}
        return put(scene, index, Request("over"))._replace(hand=hand)

    def handler(self, index: int) -> Callable[[Session], None]:
        """What a request does to its session."""
        return lambda session: self.actions[index].handle(session, own_key(index))


def put(scene: Scene, index: int, request: Request) -> Scene:
    requests = scene.requests
    return scene._replace(requests=(*requests[:index], request, *requests[index + 1 :]))


def token_of(set_cookie: str) -> str | None:
    """What a jar holds after an answer."""
    value = set_cookie.partition(";")[0].partition("=")[2]
    return value or None


@cache
def names(token: str) -> tuple[bytes, int]:
    """The session and the epoch of a token."""
    presented = CODEC.read(token, NOW)
    assert presented is not None
    return session_id(presented.token.sid), presented.token.epoch


@cache
def stored(data: bytes) -> frozenset[str]:
    """The keys of a document's data."""
    return frozenset(load(data))


def check(scene: Scene, move: Move, after: Scene, planted: str | None) -> None:
    """What has to hold at a step.

    Args:
        scene: before it.
        move: the step.
        after: after it.
        planted: whose the planted session was.
    """
    for held in after.hand:  # whatever the attacker holds opens nothing of the victim's
        name, epoch = names(held)
        named = find(after.documents, name)
        assert named is None or named.subject != VICTIM or named.epoch != epoch
    for each in after.documents:  # what the victim stored while logged in is in his session alone
        assert each.subject == VICTIM or own_key(LOG_IN) not in stored(each.data)
        assert each.subject != ATTACKER or own_key(AFTER) not in stored(each.data)
        if each.subject == VICTIM and each.id == session_id(PLANTED_SID) and planted == ATTACKER:
            assert stored(each.data) <= SECRET  # nothing that was the attacker's
    outcome = move.outcome
    if outcome is None:
        return
    if move.request >= len(VICTIMS):
        assert VICTIM not in (outcome.subject, outcome.became)
        assert not outcome.saw & SECRET
        if move.before is not None and move.before.subject == VICTIM:
            assert outcome.document is not None
            assert outcome.document.epoch == ENDED or outcome.document.data == move.before.data
            assert outcome.document.epoch in (ENDED, move.before.epoch)
            assert outcome.document.subject in (None, VICTIM)
        return
    opened = move.step is Step.CALLS and not scene.requests[move.request].met
    if opened and (scene.logged_in or move.request == AFTER):
        assert outcome.subject != ATTACKER
    if outcome.waits_for is None:
        if move.request == LOG_IN:  # whatever the attacker did
            assert outcome.became == VICTIM
            assert after.logged_in
        if move.request == AFTER:
            assert outcome.became != ATTACKER


class Seen(NamedTuple):
    """What came up in a search, so that none can pass by trying nothing.

    Attributes:
        scenes: how many states were reached.
        verdicts: how tokens of the attacker's were judged after the log-in.
        crossed: calls on the victim's session by requests of the attacker's that were opened before the log-in.
        lost: log-ins that found their session renewed or ended, and began another one.
        welcome: requests after the log-in's answer that hold the victim's session.
    """

    scenes: int
    verdicts: frozenset[Verdict]
    crossed: int
    lost: int
    welcome: int


def play(plot: Plot, runner: asyncio.Runner) -> Seen:
    """Check every step of all orders."""
    search = plot.search(runner)
    verdicts: set[Verdict] = set()
    crossed = lost = welcome = 0
    for scene, move, after in search:
        try:
            check(scene, move, after, plot.subject)
        except AssertionError as error:
            way = [*search.schedule(scene), move]
            error.add_note("\n".join(f"{each.request} {plot.actions[each.request]}: {each.step}" for each in way))
            raise
        if move.outcome is None or move.step is Step.LEAVES:
            continue
        opened = not scene.requests[move.request].met
        if move.request >= len(VICTIMS):
            if opened and scene.logged_in and move.outcome.verdict is not None:
                verdicts.add(move.outcome.verdict)
            crossed += not opened and move.before is not None and move.before.subject == VICTIM
        lost += move.request == LOG_IN and move.outcome.creates
        welcome += move.request == AFTER and opened and move.outcome.subject == VICTIM and scene.welcomed
    return Seen(search.states, frozenset(verdicts), crossed, lost, welcome)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Hundreds of thousands of requests, most of them with something to report."""
    caplog.set_level(logging.CRITICAL, "mongosession")


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


ONE = list(combinations_with_replacement(ATTACKS, 1))
TWO = list(combinations_with_replacement(ATTACKS, 2))
THREE = list(combinations(ATTACKS, 3))


def plot(attacks: tuple[str, ...], **how: Any) -> Plot:
    return Plot(tuple(ATTACKS[each] for each in attacks), **how)


@pytest.mark.parametrize("subject", [None, ATTACKER])
@pytest.mark.parametrize("attacks", TWO, ids=", ".join)
def test_a_planted_token(attacks: tuple[str, ...], subject: str | None, runner: asyncio.Runner) -> None:
    seen = play(plot(attacks, subject=subject), runner)
    print(f"{attacks}, {subject}: {seen}")
    assert seen.scenes > 2000
    assert Verdict.LATE in seen.verdicts
    assert seen.crossed > 500
    assert seen.welcome > 100
    assert (seen.lost > 0) is bool({"renews", "destroys", "logs in as himself"} & set(attacks))


@pytest.mark.parametrize("how", [{"rotation": STRICT}, {"long_after": True}], ids=["grace 0", "long after"])
@pytest.mark.parametrize("attacks", ONE, ids=", ".join)
def test_the_same_under_other_rules(attacks: tuple[str, ...], how: dict[str, Any], runner: asyncio.Runner) -> None:
    seen = play(plot(attacks, **how), runner)
    assert seen.scenes > 400
    assert seen.crossed >= 100
    assert ({Verdict.ENDED, Verdict.LATE} & seen.verdicts) == {Verdict.ENDED if "long_after" in how else Verdict.LATE}


TOSSED = [
    *[("planted", "first"), ("planted", "last")],
    *[("own", "first"), ("own", "last")],
    *[("empty", "first")],
]


@pytest.mark.parametrize("subject", [None, ATTACKER])
@pytest.mark.parametrize(("jar", "tossed"), TOSSED)
def test_a_cookie_tossed_beside_the_victims_own(
    jar: Any, tossed: Any, subject: str | None, runner: asyncio.Runner
) -> None:
    """It stays in every header, whatever the answers set. The victim may be kept out; he is not let in elsewhere."""
    welcome = 0
    for attacks in ONE:
        seen = play(plot(attacks, subject=subject, jar=jar, tossed=tossed), runner)
        assert seen.scenes > 50
        welcome += seen.welcome
    assert (welcome > 0) is (jar != "own")  # two cookies of one session: the living one counts; of two: none


@pytest.mark.search
@pytest.mark.parametrize("subject", [None, ATTACKER])
@pytest.mark.parametrize("attacks", THREE, ids=", ".join)
def test_three_requests_of_the_attacker(attacks: tuple[str, ...], subject: str | None, runner: asyncio.Runner) -> None:
    assert play(plot(attacks, subject=subject), runner).scenes > 10_000


# The same on MongoDB.

_serving: ContextVar[int | None] = ContextVar("_serving", default=None)


class RealThing:
    """Engines, one for each request as in processes of their own, and a database that take the steps of a plot.

    Args:
        plot: what the requests do.
        store: where the sessions live; empty.
    """

    def __init__(self, plot: Plot, store: MongoStore) -> None:
        self.plot = plot
        self.mongo = store
        self.engines = [
            SessionEngine(
                CountingStore(store, around=self._gate),
                keys=[KEY],
                cookie=COOKIE,
                rotation=plot.rotation,
                clock=HandClock(NOW),
                random=drawn(index),
            )
            for index, _ in enumerate(plot.actions)
        ]
        self.gates: dict[int, asyncio.Future[None]] = {}
        self.progress: asyncio.Queue[None] = asyncio.Queue()
        self.tasks: dict[int, asyncio.Task[tuple[Session, Verdict, str | None, frozenset[str], str | None]]] = {}

    async def take(self, move: Move) -> None:
        """One step, and what it led to: as in the plot."""
        if move.outcome is None:
            return  # the jar is the plot's own
        index = move.request
        if move.step is Step.LEAVES:
            task = self.tasks[index] = asyncio.create_task(self._serve(index, move.cookie))
            task.add_done_callback(lambda _: self.progress.put_nowait(None))
        else:
            self.gates.pop(index).set_result(None)
        await self.progress.get()
        if move.outcome.document is not None:
            stored = move.outcome.document
            assert await self.mongo.load(stored.id) == stored
            assert await self.mongo.update(stored.id, Changes(put=self.plot.times), epoch=stored.epoch)
        assert (index in self.gates) is (move.outcome.waits_for is not None)
        if index not in self.gates:
            session, *saw = self.tasks[index].result()
            assert saw == [move.outcome.verdict, move.outcome.subject, move.outcome.saw, move.outcome.set_cookie]
            assert session.subject == move.outcome.became

    async def _serve(
        self, index: int, cookie: str | None
    ) -> tuple[Session, Verdict, str | None, frozenset[str], str | None]:
        _serving.set(index)
        engine = self.engines[index]
        session = await engine.open(cookie)
        verdict, subject, saw = session.verdict, session.subject, frozenset(session)
        self.plot.handler(index)(session)
        headers = dict(await engine.commit(session))
        return session, verdict, subject, saw, headers.get("Set-Cookie")

    @asynccontextmanager
    async def _gate(self, call: str) -> AsyncGenerator[None]:
        index = _serving.get()
        assert index is not None
        gate = self.gates[index] = asyncio.get_running_loop().create_future()
        self.progress.put_nowait(None)
        await gate
        yield


def walk(plot: Plot, chance: Random) -> list[tuple[Scene, Move]]:
    """One order, drawn at random, to its end. It has a thread of its own, and so an event loop."""
    way: list[tuple[Scene, Move]] = []
    with asyncio.Runner() as runner:
        search, scene = plot.search(runner), plot.start
        while moves := list(search.moves(scene)):
            move, after = chance.choice(moves)
            check(scene, move, after, plot.subject)
            way.append((scene, move))
            scene = after
    return way


@pytest.mark.parametrize("tossed", ["no", "first"])
@pytest.mark.parametrize("subject", [None, ATTACKER])
async def test_schedules_on_mongodb(subject: str | None, tossed: Any, collection: Any) -> None:
    chance = Random(f"{subject} {tossed}")
    store = MongoStore(collection)
    attacked = 0
    for _ in range(25):
        drama = plot(tuple(chance.choices(list(ATTACKS), k=3)), subject=subject, tossed=tossed)
        way = await asyncio.to_thread(walk, drama, chance)
        await collection.delete_many({})
        for record in drama.start.documents:
            await store.create(record)
        real = RealThing(drama, store)
        for scene, move in way:
            await real.take(move)
            attacked += scene.logged_in and move.request >= len(VICTIMS)
    assert attacked > 20  # calls of his after the log-in
