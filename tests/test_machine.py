"""Random histories of a site, compared step by step with a small model of what the protocol promises.

Two browsers with any number of requests under way, two servers whose clocks differ by up to two minutes and whose
keys change under way, one store that may forget what no majority has confirmed. Answers are lost, or overtake each
other; jars fall back; sessions are renewed, destroyed, revoked, and run into their timeouts while a handler is at work.

The model (`Known`) is told what each request did and was answered, and says of each cookie how it has to be judged. So
a browser is logged out only for a reason that the model knows: the session was destroyed, revoked or renewed, it
expired, its key was withdrawn, or K newer tokens exist.
"""

import asyncio
import math
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from mongosession.engine import SessionEngine
from mongosession.events import Event, EventKind, Verdict
from mongosession.keys import KeyRing
from mongosession.memory import MemoryStore
from mongosession.mongo import MongoStore
from mongosession.policy import SKEW, Rotation, Timeouts
from mongosession.session import Session
from mongosession.store import COPIED, DESTROYED, ENDED, REVOKED, Changes, Record, Store
from mongosession.testing import Browser, CountingStore, Exchange, HandClock, seeded
from mongosession.tokens import Token, TokenCodec, session_id
from mongosession.values import Delta, load

from .conftest import CLIENTS

COOKIE = "__Host-session"
TIMEOUTS = Timeouts(idle=2400, absolute=3600)
ROTATIONS = [
    Rotation(ttl=5, window=3, grace=20),  # K is 5
    Rotation(ttl=5, window=2, grace=0, on_copied="refuse"),
    Rotation(ttl=30, window=3, grace=60),
    Rotation(ttl=1, window=2, grace=2, on_copied="refuse"),
    Rotation(ttl=5),
    Rotation(ttl=None),
]
FAST = 300.0  # a clock that is five minutes ahead does no harm either
HELD = {Verdict.AHEAD, Verdict.CURRENT, Verdict.DUE, Verdict.BEHIND}


def key(number: int) -> str:
    """The secret key of this number; each change brings the next one."""
    return f"key number {number}".ljust(32, "x")


@cache
def codec(number: int) -> TokenCodec:
    """Reads the tokens of one key alone."""
    return TokenCodec(KeyRing([key(number)]), COOKIE)


class Server(NamedTuple):
    """A server process. Its keys change in three steps: stage 3n has key n; 3n + 1 has n + 1 as next; in 3n + 2 that is
    primary, and n old."""

    number: int
    stage: int
    ahead: float
    engine: SessionEngine

    @property
    def primary(self) -> int:
        """The number of the key that it signs with."""
        return (self.stage + 1) // 3

    @property
    def ring(self) -> set[int]:
        """The numbers of the keys that it knows."""
        return {self.stage // 3, (self.stage + 2) // 3}


class Moment(NamedTuple):
    """What a session is at one moment, as far as a failover may roll it back."""

    newest: int
    rotated_at: float
    seen_at: float
    data: dict[str, Any]


@dataclass
class Known:
    """A session as the model knows it: its epoch is None once it has ended."""

    id: bytes
    epoch: int | None
    created_at: float
    renewed_at: float
    subject: str | None
    now: Moment
    reason: str | None = None
    past_epochs: set[int] = field(default_factory=set)
    history: list[Moment] = field(default_factory=list)

    @property
    def expires_at(self) -> float:
        return min(self.now.seen_at + TIMEOUTS.idle, self.created_at + TIMEOUTS.absolute)

    def end(self, reason: str, at: float) -> None:
        assert self.epoch is not None
        self.past_epochs.add(self.epoch)
        self.epoch, self.reason, self.renewed_at, self.subject = None, reason, at, None
        self.now, self.history = self.now._replace(data={}), []

    def renew(self, epoch: int, at: float, subject: str | None, data: dict[str, Any], *, logs_in: bool) -> None:
        assert self.epoch is not None
        self.past_epochs.add(self.epoch)
        assert epoch not in self.past_epochs
        self.epoch, self.renewed_at, self.subject = epoch, at, subject
        self.created_at = at if logs_in else self.created_at
        self.now, self.history = Moment(0, at, at, data), []

    def write(self, now: Moment) -> None:
        if now != self.now:
            self.history.append(self.now)
            self.now = now


class Asked(NamedTuple):
    """A renewal that a handler asked for."""

    subject: str | None
    logs_in: bool


class Doings:
    """What a handler did to the data, as far as other requests see it: per key, last write wins, operators add up.

    Keys `a` and `b` are set and deleted, `n` is incremented, `l` appended to, `o` set and popped at once. No value is
    set twice.
    """

    def __init__(self, base: dict[str, Any], subject: str | None) -> None:
        self.base = base
        self.whose = subject  # whose data they are
        self.renewal: Asked | None = None
        self.destroyed = False
        self.start_empty(replaced=False)

    def start_empty(self, *, replaced: bool = True) -> None:
        self.replaced = replaced
        self.put: dict[str, Any] = {}
        self.gone: set[str] = set()
        self.added = 0
        self.appended: list[str] = []

    def do(self, deed: str, session: Session, mark: str) -> None:
        """Do it to the session, and note it. `mark` is like no other value and tells the subject of the moment."""
        match deed.split():
            case ["set", name]:
                session[name] = self.put[name] = mark
                self.gone.discard(name)
            case ["delete", name]:
                if name in session:
                    del session[name]
                self.put.pop(name, None)
                if name in self.base and not self.replaced:
                    self.gone.add(name)
            case ["increment"]:
                session.increment("n")
                self.added += 1
            case ["append"]:
                session.append("l", mark)
                self.appended.append(mark)
            case ["clear"]:
                session.clear()
                self.start_empty()
            case ["renew", "keep"]:
                self.renewal = Asked(session.subject, logs_in=False)
                session.renew()
            case ["renew", name]:
                subject = None if name == "nobody" else name
                if self.whose not in (None, subject):
                    self.start_empty()
                self.whose = subject
                self.renewal = Asked(subject, logs_in=subject is not None)
                session.renew(subject=subject)
            case ["destroy"]:
                session.destroy()
                self.start_empty()
                self.whose = None
                self.destroyed = True
            case _:
                raise AssertionError(deed)

    @property
    def keys(self) -> bool:
        """Whether keys were changed."""
        return bool(self.put or self.gone or self.added or self.appended)

    def applied(self, data: dict[str, Any]) -> dict[str, Any]:
        """The data after these doings."""
        before = {} if self.replaced else {name: value for name, value in data.items() if name not in self.gone}
        after = before | self.put
        if self.added:
            after["n"] = after.get("n", 0) + self.added
        if self.appended:
            after["l"] = [*after.get("l", []), *self.appended]
        return after


@dataclass(eq=False)
class Request:
    """A request under way."""

    browser: int
    server: Server
    exchange: Exchange
    token: Token | None
    signed_with: int
    tokens: bool = True
    judged_at: float = 0
    verdict: Verdict = Verdict.ANONYMOUS
    known: Known | None = None  # the session that the token names
    epoch: int | None = None
    then: Moment | None = None  # what the lookup saw
    due: bool = False
    revoked: bool = False
    answered: bool = False


class Move(NamedTuple):
    """After a pause, the next step of a request: it is opened (`tokens`, `large_body`), answered (`deeds`, `status`),
    or its answer is delivered. `quick` takes the first two at once."""

    pause: float
    number: int
    quick: bool
    tokens: bool
    large_body: bool
    deeds: list[str]
    status: int


class Site(RuleBasedStateMachine):
    """The site and its model.

    Args:
        run: runs a coroutine to its end.
        store: an empty one.
    """

    browsers = st.integers(0, 1)
    servers = st.integers(0, 1)
    numbers = st.integers(0, 1000)
    data_deeds = st.lists(
        st.sampled_from(["set a", "set a", "set b", "delete a", "increment", "append", "clear", "give", "take"]),
        max_size=3,
    )
    intents = st.sampled_from(
        [*[[]] * 14, ["renew alice"], ["renew bob"], *[["renew keep"]] * 2, ["renew nobody"], ["destroy"]]
    )
    deeds = st.builds(lambda first, intent, last: first + intent + last, data_deeds, intents, data_deeds)
    moves = st.builds(
        Move,
        pause=st.sampled_from([0, 0, 0.5, 1, 5, 5, 30]),
        number=numbers,
        quick=st.booleans(),
        tokens=st.sampled_from([True, True, True, False]),
        large_body=st.booleans(),
        deeds=deeds,
        status=st.sampled_from([200, 200, 302, 404, 500]),
    )

    def __init__(self, run: Callable[[Any], Any], store: Store) -> None:
        super().__init__()
        self.run = run
        self.store = CountingStore(store)
        self.begun: dict[tuple[object, ...], float] = {}  # what each server has written of late, and when
        self.clock = HandClock()
        self.chance = seeded(1)
        self.events: list[Event] = []
        self.known: dict[bytes, Known] = {}
        self.under_way: list[Request] = []
        self.marks = 0

    @initialize(rotation=st.sampled_from(ROTATIONS), ahead=st.sampled_from([0, 1, 60, SKEW, -SKEW, FAST]))
    def open_the_site(self, rotation: Rotation, ahead: float) -> None:
        self.rotation = rotation
        self.servers_now = [self.serve(0, 0, 0.0), self.serve(1, 0, ahead)]
        self.browsers_now = [Browser(self.servers_now[0].engine, self.clock) for _ in range(2)]
        self.jars: list[list[dict[str, tuple[str, float]]]] = [[], []]  # what they held after each answer
        self.visit(0, 0, ["set a", "renew alice"])
        self.visit(1, 0, ["set a"])

    def serve(self, number: int, stage: int, ahead: float) -> Server:
        primary = (stage + 1) // 3
        engine = SessionEngine(
            self.store,
            keys=[key(primary), key(primary - 1)] if stage % 3 == 2 else [key(primary)],
            next_keys=[key(primary + 1)] if stage % 3 == 1 else [],
            rotation=self.rotation,
            timeouts=TIMEOUTS,
            clock=lambda: self.clock() + ahead,
            random=self.chance,
            on_event=self.events.append,
        )
        return Server(number, stage, ahead, engine)

    # What happens.

    @rule(seconds=st.sampled_from([1, 2, 5, 5, 6, 20, 30, 60, 190]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(browser=browsers, server=servers, tabs=st.integers(1, 3), moves=st.lists(moves, max_size=8))
    def traffic(self, browser: int, server: int, tabs: int, moves: list[Move]) -> None:
        """Requests leave with the cookie of the moment; those under way proceed in any order, or never."""
        self.under_way += [self.send(browser, server) for _ in range(tabs)]
        for move in moves:
            self.clock.advance(move.pause)
            if self.under_way:
                self.move(self.under_way[move.number % len(self.under_way)], move)

    @rule(
        browser=browsers,
        where=st.lists(servers, min_size=2, max_size=6),
        pauses=st.tuples(st.sampled_from([0, 5, 720]), st.sampled_from([0, 0.5, 6]), st.sampled_from([0, 0, 1])),
        deeds=st.lists(st.sampled_from([*[[]] * 4, ["set b"], ["renew keep"], ["destroy"]]), min_size=6, max_size=6),
        arrives=st.lists(st.booleans(), min_size=6, max_size=6),
    )
    def page(
        self,
        browser: int,
        where: list[int],
        pauses: tuple[float, float, float],
        deeds: list[list[str]],
        arrives: list[bool],
    ) -> None:
        """The requests of a page leave at once, are all opened before the first of them is answered, and most of them
        store nothing. Some of the answers arrive."""
        self.clock.advance(pauses[0])
        requests = [self.send(browser, server) for server in where]
        for request in requests:
            self.arriving(request)
        self.clock.advance(pauses[1])
        for request, done in zip(requests, deeds, strict=False):
            self.answering(request, done)
            self.clock.advance(pauses[2])
        for request, delivered in zip(requests, arrives, strict=False):
            if delivered:
                self.deliver(request)

    @rule(browser=browsers, server=servers, deeds=deeds)
    def visit(self, browser: int, server: int, deeds: list[str]) -> None:
        """One request from beginning to end. Who has no session, or none any more, begins one."""
        request = self.send(browser, server)
        self.arriving(request)
        self.answering(request, deeds if request.verdict in HELD else [*deeds, "set a"])
        self.deliver(request)

    @rule(
        browser=browsers,
        servers=st.tuples(servers, servers),
        age=st.sampled_from([0, 0, 1, 2]),
        held_up=st.integers(0, 2),
        times=st.integers(1, 4),
        deeds=deeds,
        move=moves,
    )
    def stay(
        self,
        browser: int,
        servers: tuple[int, int],
        age: int,
        held_up: int,
        times: int,
        deeds: list[str],
        move: Move,
    ) -> None:
        """The browser is used for a while, and overtakes a request of its own that is held up on its way (0), while it
        is handled (1), or as its answer (2). The request left `age` cookies ago."""
        jar, jars = self.browsers_now[browser].jar, self.jars[browser]
        present, jar.cookies = jar.cookies, dict(jars[-1 - min(age, len(jars) - 1)])
        request = self.send(browser, servers[0])
        jar.cookies = present
        self.under_way.append(request)
        self.wait(self.rotation.ttl or 1)
        for _ in range(held_up):
            self.move(request, move._replace(quick=False))
        for _ in range(times):
            self.visit(browser, servers[1], deeds)
            self.wait(self.rotation.ttl or 1)
        while request in self.under_way:
            self.move(request, move)

    @rule(
        what=st.sampled_from(
            [*["change keys"] * 3, *["fall back"] * 3, *["roll back"] * 3, "revoke", "log out elsewhere", "sleep"]
        ),
        browser=browsers,
        server=servers,
        number=numbers,
    )
    def misfortune(self, what: str, browser: int, server: int, number: int) -> None:
        """What is no browser's own doing."""
        match what:
            case "change keys":
                self.change_keys(1 + number % 4)
            case "fall back":
                self.fall_back(browser, number)
            case "roll back":
                self.roll_back(number)
            case "revoke":
                self.revoke(server, number)
            case "log out elsewhere":
                self.log_out_elsewhere(browser, server)
            case _:
                self.wait(TIMEOUTS.idle - number % 100)

    def change_keys(self, steps: int) -> None:
        """One server after the other takes the next of the three steps."""
        for _ in range(steps):
            number, stage, ahead, _ = min(self.servers_now, key=lambda server: server.stage)
            self.servers_now[number] = self.serve(number, stage + 1, ahead)

    def fall_back(self, browser: int, number: int) -> None:
        """The browser was killed before it wrote its cookies."""
        jars = self.jars[browser]
        self.browsers_now[browser].jar.cookies = dict(jars[-1 - number % min(len(jars), 12)])

    def roll_back(self, number: int) -> None:
        """A failover: what no majority has confirmed is gone. A creation, a renewal, an ending, and what came before
        them stay."""
        candidates = [known for known in self.known.values() if known.history]
        if not candidates:
            return
        known = candidates[-1 - number % len(candidates)]
        for _ in range(min(1 + number % 5, len(known.history))):
            known.now = known.history.pop()
        put = {"generation": known.now.newest, "rotated_at": known.now.rotated_at}
        put |= {"seen_at": known.now.seen_at, "expires_at": known.expires_at}
        changes = Changes(put=put, data=Delta(replace=known.now.data))
        assert self.run(self.store.update(known.id, changes, epoch=known.epoch))

    def revoke(self, server: int, number: int) -> None:
        known = list(self.known.values())[number % len(self.known)]
        ended = self.run(self.servers_now[server].engine.revoke(known.id.hex()))
        assert ended == (known.reason is None)
        if ended:
            known.end(REVOKED, self.now(server))
        self.compare(known)

    def log_out_elsewhere(self, browser: int, server: int) -> None:
        request = self.send(browser, server)
        session = self.arriving(request)
        engine, now, subject = request.server.engine, self.now(server), session.subject or "alice"
        mine = [known for known in self.known.values() if known.subject == subject]
        assert self.run(listed(engine, subject)) == {known.id.hex() for known in mine if now < known.expires_at}
        others = [known for known in mine if known.id.hex() != session.id]
        assert self.run(engine.revoke_subject(subject, keep=session)) == len(others)
        for known in others:
            known.end(REVOKED, now)
            self.compare(known)
        self.answering(request, [])
        self.deliver(request)

    def teardown(self) -> None:
        """In the end, once it is calm, every browser that holds a session comes to hold its newest token."""
        if sys.exc_info()[0] is not None or not self.known:  # a step has failed, or none was taken: that is the result
            return
        for browser in range(2):
            for _ in range(self.rotation.window + 1):
                self.clock.advance((self.rotation.ttl or 0) + FAST)
                self.visit(browser, 0, [])
            request = self.send(browser, 0)
            self.arriving(request)
            if self.rotation.ttl is not None and request.verdict in HELD:
                assert request.verdict is Verdict.CURRENT

    def move(self, request: Request, move: Move) -> None:
        """A request gets one step further."""
        if request.exchange.session is None:
            self.arriving(request, tokens=move.tokens, large_body=move.large_body)
            if move.quick:
                self.answering(request, move.deeds, move.status)
        elif not request.answered:
            self.answering(request, move.deeds, move.status)
        else:
            self.deliver(request)
            self.under_way.remove(request)

    def send(self, browser: int, server: int) -> Request:
        exchange = self.browsers_now[browser].send(self.servers_now[server].engine)
        _, _, text = (exchange.cookie or "").partition("=")
        return Request(browser, self.servers_now[server], exchange, *self.read(text))

    def deliver(self, request: Request) -> None:
        request.exchange.deliver()
        cookies = dict(self.browsers_now[request.browser].jar.cookies)
        if cookies not in self.jars[request.browser][-1:]:
            self.jars[request.browser].append(cookies)

    # What has to be so.

    def now(self, server: int) -> float:
        return self.clock() + self.servers_now[server].ahead

    def read(self, text: str) -> tuple[Token | None, int]:
        """A cookie's token, and the number of the key that it is signed with."""
        for number in range(max(server.stage for server in self.servers_now) // 3 + 2):
            if presented := codec(number).read(text, 0):
                return presented.token, number
        assert not text
        return None, -1

    def judged(self, request: Request, now: float, *, large_body: bool) -> Verdict:
        """The table of the protocol: the only reasons for which a browser does not get its session."""
        token, known = request.token, request.known
        if token is None or known is None:
            return Verdict.ANONYMOUS
        if request.signed_with not in request.server.ring or now >= token.deadline:
            return Verdict.INVALID
        if known.reason in (REVOKED, COPIED) or now >= known.expires_at:
            return Verdict.ENDED
        if token.epoch != known.epoch:
            lateness = max(self.rotation.grace, 60) + SKEW
            return Verdict.LATE if now - known.renewed_at < lateness else Verdict.ENDED
        behind, rotation = known.now.newest - token.generation, self.rotation
        forgiven = 0 if rotation.ttl is None else 1 + math.ceil(rotation.grace / rotation.ttl)
        if behind < 0:
            return Verdict.AHEAD
        if behind >= max(rotation.window, forgiven):
            return Verdict.LATE if large_body else Verdict.COPIED
        return Verdict.BEHIND if behind else Verdict.DUE if request.due else Verdict.CURRENT

    def arriving(self, request: Request, *, tokens: bool = True, large_body: bool = False) -> Session:
        """The request is opened, and judged as the model says."""
        now = request.judged_at = self.clock() + request.server.ahead
        request.tokens = tokens
        if request.token is not None:
            known = request.known = self.known[request.token.sid]
            request.epoch, request.then = known.epoch, known.now
            request.due = self.rotation.ttl is not None and now - known.now.rotated_at >= self.rotation.ttl
        self.events.clear()
        session: Session = self.run(request.exchange.open(tokens=tokens, large_body=large_body))
        request.verdict = self.judged(request, now, large_body=large_body)
        assert session.verdict is request.verdict
        kinds = [event.kind for event in self.events]
        assert (EventKind.COPIED in kinds) == (request.verdict is Verdict.COPIED)
        if request.verdict not in HELD:
            assert session.id is None
            assert session == {}
        if request.known is not None and request.verdict is Verdict.COPIED and self.rotation.on_copied == "revoke":
            request.revoked = True
            request.known.end(COPIED, now)
            self.compare(request.known)
        if request.known is not None and request.token is not None and request.verdict in HELD:
            assert request.token.epoch not in request.known.past_epochs
            assert session.id == request.known.id.hex()
            assert session.subject == request.known.subject
            assert session == request.known.now.data
            assert owners(session) <= {"None", str(session.subject)}
        return session

    def answering(self, request: Request, deeds: list[str], status: int = 200) -> None:
        """The handler has finished: what it did is written, or the model knows why not; what is sent is alive."""
        session, now = request.exchange.session, self.clock() + request.server.ahead
        assert session is not None
        done = Doings(session.copy(), session.subject)
        for deed in deeds:
            self.marks += 1
            subject = deed.split()[-1] if deed.startswith("renew") else session.subject
            if deed in ("give", "take"):
                self.at_once(request, session, done, deed, f"{subject} {self.marks}")
            else:
                done.do(deed, session, f"{subject} {self.marks}")
        request.answered = True
        self.events.clear()
        self.store.take()
        self.run(request.exchange.answer(status=status))
        kinds = {event.kind for event in self.events}
        cookies = [line for name, line in request.exchange.headers if name == "Set-Cookie"]
        token, signed_with = self.read(cookies[0].partition(";")[0].partition("=")[2]) if cookies else (None, -1)
        assert len(cookies) <= 1
        assert token is None or signed_with == request.server.primary
        assert token is not None or not cookies or done.destroyed  # nothing else deletes the cookie

        kept = self.carried_out(request, done, token, now, discards=status >= 500)
        if status < 500 and done.keys:  # nothing is lost without a word
            dropped = kinds & {EventKind.DROPPED_WRITE, EventKind.DROPPED_RENEWAL}
            assert bool(dropped) != kept
        if token is not None:
            known = self.known[token.sid]
            assert token.epoch == known.epoch
            assert token.generation <= known.now.newest
            assert token.deadline == math.ceil(known.created_at + TIMEOUTS.absolute)
            self.compare(known)
        if request.known is not None:
            self.compare(request.known)

    def at_once(self, request: Request, session: Session, done: Doings, deed: str, mark: str) -> None:
        """`set_default` or `pop_once` on the key `o`: it is done now, and whatever becomes of the request."""
        known, seen = request.known, session.get("o")
        own = done.replaced or "o" in done.put or (session.id is None and "o" not in done.base)
        asks = not own and session.id is not None and (seen is None) == (deed == "give")
        alive = known is not None and known.epoch is not None and known.epoch == request.epoch
        present = known.now.data.get("o") if asks and alive and known is not None else None
        if asks and alive and known is not None:  # the session that it is put into may not be renewed in the end
            mark = f"{known.subject} {self.marks}"
        if deed == "give":
            expected = seen or present or mark
            assert self.run(session.set_default("o", mark)) == session["o"] == expected
        else:
            expected = seen if own else present
            assert self.run(session.pop_once("o")) == expected
            assert "o" not in session
        if not asks or not alive or known is None:
            if deed == "take":
                done.put.pop("o", None)
            if deed == "give" and seen is None:
                done.put["o"] = expected
            elif deed == "take" and not own:
                done.base.pop("o", None)
            return
        data = {name: value for name, value in known.now.data.items() if name != "o"}
        done.base.pop("o", None)
        if deed == "give":
            data["o"] = done.base["o"] = expected
        known.now, known.history = known.now._replace(data=data), []  # a majority has confirmed it

    def carried_out(self, request: Request, done: Doings, token: Token | None, now: float, *, discards: bool) -> bool:
        """What becomes of a request's doings. Returns whether the changes of data were kept."""
        known, verdict = request.known, request.verdict
        alive = known is not None and known.epoch is not None and known.epoch == request.epoch
        logs_in = done.renewal is not None and done.renewal.logs_in
        shut = verdict is Verdict.LATE or (verdict is Verdict.COPIED and not request.revoked)
        own = done.applied({})
        if done.destroyed:
            if known is not None and known.reason is None and (verdict in HELD or shut):
                known.end(DESTROYED, now)
            if own and not discards:
                return self.began(token, now, None, own)
            assert token is None
            return True
        if verdict not in HELD or known is None or request.token is None or request.then is None:
            if not discards and (logs_in or (own and not shut)):
                return self.began(token, now, done.renewal.subject if done.renewal and logs_in else None, own)
            assert token is None
            return not shut
        if done.renewal is not None and not discards:
            if alive:
                assert token is not None
                assert (token.sid, token.generation) == (request.token.sid, 0)
                known.renew(token.epoch, now, done.renewal.subject, done.applied(known.now.data), logs_in=logs_in)
                return True
            if logs_in:
                return self.began(token, now, done.renewal.subject, own)
            assert token is None
            return False
        if not alive:
            assert token is None
            return False
        g, newest, rotated_at, seen_at = request.token.generation, *known.now[:3]
        offer: int | None = None
        mints = verdict is Verdict.DUE and request.tokens
        touches = request.judged_at - request.then.seen_at >= TIMEOUTS.idle / 10
        upkeep = (request.server, known.id, known.epoch, g + 1 if mints else None, touches)
        if "update" in self.store.take():
            self.begun[upkeep] = now
        elif mints or touches:  # it is spared: the same server has written the same since the request was opened
            assert request.judged_at <= self.begun[upkeep]
            assert verdict is not Verdict.AHEAD
            assert token is None
            assert discards or done.applied(known.now.data) == known.now.data
            return True
        if verdict is Verdict.AHEAD:
            newest, rotated_at = max(newest, g), max(rotated_at, request.judged_at)
        elif request.tokens:
            if mints:
                newest, rotated_at = max(newest, g + 1), max(rotated_at, request.judged_at)
                offer = g + 1 if newest == g + 1 else None
            elif newest == request.then.newest:  # nobody has moved it since
                offer = self.next_step(request, newest - g)
        if touches:
            seen_at = max(seen_at, request.judged_at)
        data = known.now.data if discards else done.applied(known.now.data)
        known.write(Moment(newest, rotated_at, seen_at, data))
        assert (None if token is None else token.generation) == offer
        return True

    def next_step(self, request: Request, behind: int) -> int | None:
        """The generation that a browser is given without a rotation."""
        assert request.token is not None
        assert request.then is not None
        if behind >= self.rotation.window:
            return request.then.newest
        if behind > 0:
            return request.token.generation + 1 if request.due else None
        return request.token.generation if request.signed_with < request.server.primary else None

    def began(self, token: Token | None, now: float, subject: str | None, data: dict[str, Any]) -> bool:
        """A session was created."""
        assert token is not None
        assert token.sid not in self.known
        assert token.generation == 0
        first = Moment(0, now, now, data)
        self.known[token.sid] = Known(session_id(token.sid), token.epoch, now, now, subject, first)
        return True

    def compare(self, known: Known) -> None:
        """The store holds what the model knows."""
        record: Record | None = self.run(self.store.load(known.id))
        assert record is not None
        assert record.epoch == (ENDED if known.epoch is None else known.epoch)
        assert (record.reason, record.subject) == (known.reason, known.subject)
        assert (record.created_at, record.renewed_at) == (known.created_at, known.renewed_at)
        if known.reason is None:
            assert record.expires_at == known.expires_at
        assert Moment(record.generation, record.rotated_at, record.seen_at, load(record.data)) == known.now


def owners(session: Session) -> set[str]:
    """Under which subjects the session's texts were written."""
    texts = [value for value in session.values() if isinstance(value, str)] + session.get("l", [])
    return {text.split()[0] for text in texts}


async def listed(engine: SessionEngine, subject: str) -> set[str]:
    """The ids of a subject's sessions."""
    return {info.id async for info in engine.sessions(subject)}


def over(run: Callable[[Any], Any], new_store: Callable[[], Store]) -> type[Site]:
    """Sites over new stores of a kind, which `run` reaches."""

    class OverStore(Site):
        def __init__(self) -> None:
            super().__init__(run, new_store())

    return OverStore


@contextmanager
def over_memory() -> Generator[type[Site], None, None]:
    with asyncio.Runner() as runner:
        yield over(runner.run, MemoryStore)


@contextmanager
def over_mongo(uri: str, driver: str) -> Generator[type[Site], None, None]:
    """The client lives on an event loop that is this thread's own, and works while a step of the machine waits."""

    async def connect() -> Any:
        return CLIENTS[driver](uri)

    async def close() -> None:
        await client.drop_database("mongosession_machine")
        closing = client.close()
        if closing is not None:  # PyMongo's is a coroutine, Motor's is not
            await closing

    with asyncio.Runner() as runner:
        client = runner.run(connect())
        store = MongoStore(client.mongosession_machine.sessions, timeout=30)

        def emptied() -> Store:
            runner.run(empty())
            return store

        async def empty() -> None:
            await store.collection.delete_many({})

        yield over(runner.run, emptied)
        runner.run(close())


STEADY = settings(deadline=None, derandomize=True, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow])
AT_LENGTH = settings(STEADY, derandomize=False, stateful_step_count=100, print_blob=True)


def test_over_memory() -> None:
    with over_memory() as site:
        run_state_machine_as_test(site, settings=settings(STEADY, max_examples=200))


def test_over_mongodb(mongod_uri: str, driver: str) -> None:
    with over_mongo(mongod_uri, driver) as site:
        run_state_machine_as_test(site, settings=settings(STEADY, max_examples=15))


@pytest.mark.search
def test_over_memory_at_length() -> None:
    with over_memory() as site:
        run_state_machine_as_test(site, settings=settings(AT_LENGTH, max_examples=2000))


@pytest.mark.search
def test_over_mongodb_at_length(replica_uri: str, driver: str) -> None:
    with over_mongo(replica_uri, driver) as site:
        run_state_machine_as_test(site, settings=settings(AT_LENGTH, max_examples=150))
