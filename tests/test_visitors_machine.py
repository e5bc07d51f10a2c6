"""Random visits, compared step by step with plain dictionaries: where the sessions of visitors live in their cookies,
and where they live in the database. One model says what both have in common, and where they differ.

A visitor sets, deletes and nests; uses operators; logs in, changes, and logs out; saves before the headers and stores
after them; runs into errors, outages and timeouts; and now and then an answer is lost, so that he comes back with what
he had before.
"""

import asyncio
from base64 import urlsafe_b64decode
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from mongosession import Rotation, Session, StoreUnavailable, Timeouts
from mongosession.signed import MAX_COOKIE
from mongosession.testing import seeded

from .world import World, away

IDLE, ABSOLUTE = 600.0, 3600.0
LATENESS = Rotation().lateness
TOUCHES = 10
NOISE = seeded(5)(MAX_COOKIE)

Kind = Literal["early", "final", "sent"]


@dataclass
class Lived:
    """A session, as the model knows it."""

    data: dict[str, Any]
    created: float
    seen: float
    idle: float | None

    @property
    def idleness(self) -> float:
        return IDLE if self.idle is None else self.idle

    @property
    def expiry(self) -> float:
        return min(self.created + ABSOLUTE, self.seen + self.idleness)


@dataclass(eq=False)
class InCookie(Lived):
    """What a signed cookie holds. It never changes: there are newer ones."""


@dataclass(eq=False)
class Document(Lived):
    """What the database holds."""

    subject: str | None = None
    renewed: float = 0
    epoch: int = 0
    alive: bool = True


class Ticket(NamedTuple):
    """A token in the jar."""

    document: Document
    epoch: int
    deadline: float


class Renewal(NamedTuple):
    subject: str | None
    sets: bool


Owed = InCookie | Document | Literal["removal"] | None


@dataclass
class Handling:
    """What becomes of one request."""

    in_cookies: bool
    now: float
    tokens: bool
    held: InCookie | Document | None
    named: Document | None  # whom the token names
    shut: bool
    new: bool  # there was no cookie at all
    documents: list[Document]
    owed: Owed = None
    creates: int = 0
    base: dict[str, Any] = field(init=False)
    data: dict[str, Any] = field(init=False)
    intent: Renewal | Literal["destroy"] | None = None
    touched: bool = False  # a change, whatever the data are
    protect: bool = False
    life: tuple[float | None] | None = None

    def __post_init__(self) -> None:
        self.base = deepcopy(self.held.data) if self.held else {}
        self.data = deepcopy(self.base)

    @property
    def subject(self) -> str | None:
        if isinstance(self.intent, Renewal):
            return self.intent.subject
        return self.held.subject if isinstance(self.held, Document) and self.intent is None else None

    def do(self, deed: str, session: Session, mark: int) -> None:
        """Do it to the session and to the model."""
        match deed.split():
            case ["set", key]:
                session[key] = self.data[key] = mark
            case ["delete", key]:
                assert session.pop(key, None) == self.data.pop(key, None)
            case ["nest"]:
                session.setdefault("deep", {}).setdefault("list", []).append(mark)
                self.data.setdefault("deep", {}).setdefault("list", []).append(mark)
            case ["grow"]:
                session["noise"] = self.data["noise"] = NOISE
            case ["increment"]:
                session.increment("n", 2)
                self.data["n"] = self.data.get("n", 0) + 2
                self.protect = self.touched = True
            case ["append"]:
                session.append("l", mark)
                self.data["l"] = [*self.data.get("l", []), mark]
                self.protect = self.touched = True
            case ["add"]:
                session.add_to_set("s", 1, 2)
                self.data["s"] = [1, 2]
                self.protect = self.touched = True
            case ["protect"]:
                session.protect()
                self.protect = True
            case ["clear"]:
                session.clear()
                self.data, self.touched = {}, True
            case ["live", seconds]:
                idle = float(seconds) if seconds != "default" else None
                session.set_expiry(idle=idle)
                self.life = (idle,)
            case ["renew", "keep"]:
                sets = self.intent is not None and (self.intent == "destroy" or self.intent.sets)
                self.intent = Renewal(self.subject, sets)
                session.renew()
            case ["renew", name]:
                subject = None if name == "nobody" else name
                if self.subject not in (None, subject):
                    self.data, self.touched = {}, True
                self.intent = Renewal(subject, sets=True)
                session.renew(subject=subject)
            case ["destroy"]:
                session.destroy()
                self.data, self.touched, self.intent = {}, True, "destroy"
            case _:
                raise AssertionError(deed)
        assert session == self.data
        assert session.subject == self.subject

    def commit(self, kind: Kind, *, fails: bool = False) -> None:
        changed = not fails and (self.touched or self.data != self.base)
        renewal = self.intent if isinstance(self.intent, Renewal) and not fails else None
        writes = True
        if self.intent == "destroy":
            writes = self._end(kind, {} if fails else self.data)
        elif isinstance(self.held, InCookie):
            changed = not fails and self.data != self.base  # the same again is no change: nobody else writes there
            self._in_cookie(self.held, kind, renewal, changed=changed, fails=fails)
        elif isinstance(self.held, Document):
            self._document(self.held, kind, renewal, changed=changed, fails=fails)
        else:
            writes = self._begin(kind, {} if fails else self.data, renewal)
        self.intent, self.touched, self.base = None, False, deepcopy(self.data)
        if kind != "early" or writes:
            self.protect, self.life = False, None

    def _end(self, kind: Kind, data: dict[str, Any]) -> bool:
        if isinstance(self.held, InCookie) and kind == "sent":
            return False
        ended = None
        if self.named is not None and (self.held or self.shut):
            ended = self.named.alive
            if ended:
                self.named.alive, self.named.renewed = False, self.now
        self.held = None
        if data and kind != "sent":
            self._start(kind, data, None)
        elif kind != "sent" and ended is not False:
            self.owed = None if self.new else "removal"
        return bool(data) and kind != "sent"

    def _begin(self, kind: Kind, data: dict[str, Any], renewal: Renewal | None) -> bool:
        logs_in = renewal is not None and renewal.sets and renewal.subject is not None
        if kind == "sent" or (self.shut and not logs_in) or not (data or logs_in):
            return False
        self._start(kind, data, renewal)
        return True

    def _start(self, kind: Kind, data: dict[str, Any], renewal: Renewal | None) -> None:
        idle = self.life[0] if self.life else None
        stays = self.in_cookies and renewal is None and not self.protect and kind == "final" and "noise" not in data
        if stays:
            self.held = self.owed = InCookie(deepcopy(data), self.now, self.now, idle)
        else:
            self._create(data, self.now, renewal.subject if renewal and renewal.sets else None, idle)

    def _create(self, data: dict[str, Any], created: float, subject: str | None, idle: float | None) -> None:
        document = Document(deepcopy(data), created, self.now, idle, subject, self.now)
        self.documents.append(document)
        self.held = self.owed = self.named = document
        self.creates += 1

    def _in_cookie(self, held: InCookie, kind: Kind, renewal: Renewal | None, *, changed: bool, fails: bool) -> None:
        if kind == "sent":
            return
        idle = self.life[0] if self.life and not fails else held.idle
        moves = renewal is not None or (self.protect and not fails) or kind == "early"
        due = self.tokens and self.now - held.seen >= held.idleness / TOUCHES
        if not (moves or changed or due or idle != held.idle):
            return
        data = self.data if changed else held.data
        if not moves and "noise" not in data:
            self.held = self.owed = InCookie(deepcopy(data), held.created, self.now, idle)
        else:
            subject = renewal.subject if renewal else None
            self._create(data, self.now if subject else held.created, subject, idle)

    def _document(self, held: Document, kind: Kind, renewal: Renewal | None, *, changed: bool, fails: bool) -> None:
        if renewal is not None and kind == "sent":
            self.data = deepcopy(held.data)  # neither of them is kept
            return
        before = held.idle
        if renewal is not None:
            held.created = self.now if renewal.subject and renewal.sets else held.created
            held.idle = held.idle if held.subject in (None, renewal.subject) else None
            held.subject, held.renewed, held.seen = renewal.subject, self.now, self.now
            held.epoch += 1
            self.owed = held
        if self.life and not fails:
            held.idle = self.life[0]
        if changed:
            held.data = deepcopy(self.data)
        idleness = IDLE if before is None else before
        if self.now - held.seen >= idleness / TOUCHES or held.idle != before:
            held.seen = self.now


DEEDS = st.lists(
    st.sampled_from(
        [
            *["set a", "set a", "set b", "set c.d$", "delete a", "delete b", "nest", "nest", "clear"],
            *["increment", "append", "add", "protect", "grow", "delete noise", "live 60", "live default"],
            *["renew keep", "renew alice", "renew bob", "renew nobody", "destroy"],
        ]
    ),
    max_size=3,
)
HARMLESS = st.lists(st.sampled_from(["set a", "set b", "delete a", "nest", "live 60"]), max_size=2)


class Visits(RuleBasedStateMachine):
    """One browser and its model.

    Args:
        run: runs a coroutine to its end.
        anonymous: where the sessions of visitors live.
    """

    def __init__(self, run: Callable[[Any], Any], anonymous: str) -> None:
        super().__init__()
        self.run = run
        self.in_cookies = anonymous == "cookie"
        self.world = World(
            anonymous=anonymous, rotation=Rotation(ttl=None), timeouts=Timeouts(idle=IDLE, absolute=ABSOLUTE)
        )
        self.jar: InCookie | Ticket | None = None
        self.documents: list[Document] = []
        self.marks = 0

    @rule(seconds=st.sampled_from([1, 5, 30, 59, 60, 61, 179, 180, 300, 541, 599, 600]))
    def wait(self, seconds: float) -> None:
        self.world.clock.advance(seconds)

    @rule(deeds=HARMLESS)
    def visit(self, deeds: list[str]) -> None:
        """A plain request."""
        self.request(deeds, [], [], 200, saves=False, tokens=True, lost=False, outage=False)

    @rule(seconds=st.sampled_from([0, 59, 60, 300]), status=st.sampled_from([200, 500]), tokens=st.booleans())
    def read(self, seconds: float, status: int, *, tokens: bool) -> None:
        """A request that does nothing."""
        self.world.clock.advance(seconds)
        self.request([], [], [], status, saves=False, tokens=tokens, lost=False, outage=False)

    @rule(deeds=DEEDS)
    def stream(self, deeds: list[str]) -> None:
        """A request that does what it does when its headers have gone."""
        self.request([], [], deeds, 200, saves=False, tokens=True, lost=False, outage=False)

    @rule(
        deeds=DEEDS,
        more=DEEDS,
        streamed=DEEDS,
        status=st.sampled_from([200, 200, 200, 303, 404, 500]),
        saves=st.sampled_from([False, False, False, True]),
        tokens=st.sampled_from([True, True, True, False]),
        lost=st.sampled_from([False, False, False, True]),
        outage=st.sampled_from([False, False, False, False, True]),
    )
    def request(
        self,
        deeds: list[str],
        more: list[str],
        streamed: list[str],
        status: int,
        *,
        saves: bool,
        tokens: bool,
        lost: bool,
        outage: bool,
    ) -> None:
        """Any request: what it does, saves, does, answers, and does after its headers have gone."""
        self.world.store.take()
        self.world.store.around = away if outage else nullcontext
        before = self.jar, deepcopy(self.documents)
        handling = self.arriving(tokens=tokens)
        away_from_the_start = outage and isinstance(self.jar, Ticket) and self.now < self.jar.deadline
        work = self.handle(handling, deeds, more, streamed, status, saves=saves, lost=lost)
        if away_from_the_start:
            work.close()
            with pytest.raises(StoreUnavailable):
                self.run(self.world.browser.send().open())
            self.jar = before[0]
        elif outage:
            self.run(self.failing(work, handling, before))
        else:
            self.run(work)
        self.world.recover()
        self.look(handling)

    async def failing(
        self, work: Any, handling: Handling, before: tuple[InCookie | Ticket | None, list[Document]]
    ) -> None:
        """Without the database: all that needs none is done, and of all else nothing."""
        jar = self.world.browser.jar.copy().cookies
        try:
            await work
        except StoreUnavailable:
            assert self.world.browser.jar.cookies == jar
            self.jar, self.documents = before
            handling.creates = self.world.store.calls.count("create")
        else:
            assert handling.creates == 0
        assert set(self.world.store.calls) <= {"create"}

    @property
    def now(self) -> float:
        return self.world.clock()

    def arriving(self, *, tokens: bool) -> Handling:
        """How the cookie has to be judged."""
        held: InCookie | Document | None = None
        named, shut = None, False
        if isinstance(self.jar, InCookie):
            held = self.jar if self.now < self.jar.expiry else None
        elif isinstance(self.jar, Ticket) and self.now < self.jar.deadline:
            named = self.jar.document
            if self.now < named.expiry and named.alive and named.epoch == self.jar.epoch:
                held = named
            elif self.now < named.expiry:
                shut = self.now - named.renewed < LATENESS
        new = self.world.browser.jar.header() is None
        return Handling(self.in_cookies, self.now, tokens, held, named, shut, new, self.documents)

    async def handle(
        self,
        handling: Handling,
        deeds: list[str],
        more: list[str],
        streamed: list[str],
        status: int,
        *,
        saves: bool,
        lost: bool,
    ) -> None:
        exchange = self.world.browser.send()
        session = await exchange.open(tokens=handling.tokens)
        self.compare(session, handling)
        self.do(deeds, session, handling)
        if saves and not handling.shut:
            handling.commit("early")
            assert await session.save() == (handling.held is not None)
            self.compare(session, handling)
            self.do(more, session, handling)
        handling.commit("final", fails=status >= 500)
        await exchange.answer(status=status)
        assert exchange.sends_cookie == (handling.owed is not None)
        owed = handling.owed
        if status < 500 and not handling.shut:
            self.do(streamed, session, handling)
            handling.commit("sent")
            await self.world.engine.commit(session, sent=True)
        if lost or owed is None:
            return
        exchange.deliver()
        if isinstance(owed, Document):
            self.jar = Ticket(owed, owed.epoch, owed.created + ABSOLUTE)
        else:
            self.jar = None if owed == "removal" else owed

    def do(self, deeds: list[str], session: Session, handling: Handling) -> None:
        for deed in deeds:
            self.marks += 1
            handling.do(deed, session, self.marks)

    def compare(self, session: Session, handling: Handling) -> None:
        held = handling.held
        assert session == handling.data
        assert session.subject == handling.subject
        assert session.late == handling.shut
        assert session.is_new == (held is None)
        if held is not None:
            assert session.created_at is not None
            assert session.created_at.timestamp() == held.created
            assert session.expires_at is not None
            assert session.expires_at.timestamp() == held.expiry

    def look(self, handling: Handling) -> None:
        """At the store, and into the jar."""
        calls = self.world.store.take()
        assert calls.count("create") == handling.creates
        if self.in_cookies and handling.named is None:
            assert calls == []
        assert self.run(self.world.living()) == sum(document.alive for document in self.documents)
        (value, _) = self.world.browser.jar.cookies.get("__Host-session", ("", 0))
        expected = None if self.jar is None else 2 if isinstance(self.jar, InCookie) else 1
        assert (urlsafe_b64decode(value[:4])[0] if value else None) == expected


@contextmanager
def visiting(anonymous: str) -> Generator[Any]:
    """Makes machines; Hypothesis says that it wants a class, and calls it."""
    with asyncio.Runner() as runner:
        yield lambda: Visits(runner.run, anonymous)


STEADY = settings(deadline=None, derandomize=True, stateful_step_count=20, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("anonymous", ["cookie", "database"])
def test_visits(anonymous: str) -> None:
    with visiting(anonymous) as machine:
        run_state_machine_as_test(machine, settings=settings(STEADY, max_examples=200))


@pytest.mark.search
@pytest.mark.parametrize("anonymous", ["cookie", "database"])
def test_visits_at_length(anonymous: str) -> None:
    with visiting(anonymous) as machine:
        how = settings(STEADY, derandomize=False, stateful_step_count=50, print_blob=True, max_examples=5000)
        run_state_machine_as_test(machine, settings=how)
