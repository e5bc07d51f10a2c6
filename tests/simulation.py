"""Hours of use in virtual time: browsers, bad networks and thieves in front of the real rules.

``python -m tests.simulation`` prints tables of ``docs/simulation.md``; ``--days 1000`` adds the honest days.
``tests.theft`` compares settings.

A ``Server`` does what the engine does with a request, through the real ``judge``, ``plan`` and ``MemoryStore``; only
tasks, MACs and header texts are left out, so that an hour of use takes a tenth of a second. A test holds it against
the real engine. Everything else here is the world: when requests leave, how long messages take, which of them are
lost, who copied what. Chance is seeded: a run can be repeated.
"""

import argparse
import heapq
import random
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from statistics import mean
from typing import Any, NamedTuple, TypeVar

from mongosession.begun import Begun
from mongosession.engine import MAX_DATA
from mongosession.events import Verdict
from mongosession.memory import MemoryStore
from mongosession.plan import Creation, Terms, Update, ending, plan
from mongosession.policy import Rotation, Timeouts
from mongosession.rotation import Judgement, judge
from mongosession.session import Session, tracker
from mongosession.store import COPIED, Record, Stamp
from mongosession.tokens import Token, session_id
from mongosession.tracker import Tracker

HOUR = 3600.0
DAYBREAK = 4_000_000_000.0
"""When every simulation begins, seconds since 1970."""

Range = tuple[float, float]
T = TypeVar("T")

# ----------------------------------------------------------------------------------------------------------- the server


class Sent(NamedTuple):
    """The Set-Cookie of an answer: a token, or (None) the removal of the cookie."""

    token: Token | None


class Server:
    """What ``SessionEngine`` does with a request, at once and with tokens that are no text. One store behind it.

    Args:
        rotation: how tokens change.
        random_bytes: how many bytes -> so many random bytes.

    Attributes:
        reads: commands that the store got: look-ups.
        writes: the same: creations and updates.
        fell_back: requests whose token was older than the window but opened the session: an event each.
        revoked: sessions ended because an overtaken token was presented.
        remembers: the rotations that it has begun, so that parallel requests leave them to one.
    """

    remembers = False

    def __init__(self, rotation: Rotation, random_bytes: Callable[[int], bytes]) -> None:
        self._terms = Terms(rotation, Timeouts(), MAX_DATA)
        self._random = random_bytes
        self._store = MemoryStore()
        self._begun = Begun()
        self.reads = 0
        self.writes = 0
        self.fell_back = 0
        self.revoked = 0

    def load(self, token: Token) -> Record | None:
        """The document that a token names."""
        return self._load(session_id(token.sid))

    def open(self, token: Token | None, now: float, *, tokens: bool = True, large_body: bool = False) -> Session:
        """See ``SessionEngine.open``."""
        now = _milliseconds(now)
        if token is None or now >= token.deadline:
            return Session(Tracker(Judgement(Verdict.ANONYMOUS if token is None else Verdict.INVALID, now)))
        record = self.load(token)
        rotation, timeouts = self._terms.rotation, self._terms.timeouts
        judged = judge(token, record, now=now, rotation=rotation, timeouts=timeouts, large_body=large_body)
        self.fell_back += judged.fell_back
        refused = judged.verdict in (Verdict.ENDED, Verdict.LATE, Verdict.COPIED)
        revoked = False
        if record is not None and judged.verdict is Verdict.COPIED and rotation.on_copied == "revoke":
            revoked = bool(self._update(Update(record.id, record.epoch, ending(COPIED, now=now, rotation=rotation))))
            self.revoked += revoked
        held = None if refused else record
        return Session(Tracker(judged, record=held, token=token, tokens=tokens, revoked=revoked))

    def commit(self, session: Session, now: float) -> Sent | None:
        """See ``SessionEngine.commit``."""
        now = _milliseconds(now)
        decided = plan(session, self._terms, now=now, random=self._random)
        if decided.update is not None and self.remembers:
            if decided.upkeep and self._begun.spares(decided.update, tracker(session).judgement.now):
                return None
            self._begun.begin(decided.update, now)
        if decided.end is not None and not self._update(decided.end) and decided.create is None:
            return None
        if decided.create is not None:
            return self._create(decided.create)
        offer = decided.offer
        if decided.update is not None:
            stamp = self._update(decided.update)
            self._begun.end(decided.update, now if stamp else None)
            if not stamp:
                return None if decided.instead is None else self._create(decided.instead)
        elif offer is not None:
            again = self.load(offer.token)
            stamp = again is not None and Stamp(again.epoch, again.generation)
        else:
            return Sent(None) if decided.forget else None
        return Sent(offer.token) if offer is not None and stamp == offer.if_then else None

    def _create(self, creation: Creation) -> Sent:
        self.writes += 1
        _at_once(self._store.create(creation.record))
        return Sent(creation.token)

    def _update(self, update: Update) -> Stamp | bool:
        self.writes += 1
        return _at_once(self._store.update(update.id, update.changes, epoch=update.epoch))

    def _load(self, id: bytes) -> Record | None:
        self.reads += 1
        return _at_once(self._store.load(id))


class OneProcess(Server):
    """The same where all requests come to one process; a ``Server`` is so many that no two of a page do."""

    remembers = True


class Careless(Server):
    """Habits of 2011, put together to compare with; nobody's code. Whoever holds one of the newest tokens gets a newer
    one, the rotation is written as the request comes in, and its token is sent when the handler has finished, whatever
    happened meanwhile.
    """

    def __init__(self, rotation: Rotation, random_bytes: Callable[[int], bytes]) -> None:
        super().__init__(rotation, random_bytes)
        self._answers: dict[int, Sent | None] = {}

    def open(self, token: Token | None, now: float, *, tokens: bool = True, large_body: bool = False) -> Session:
        session = super().open(token, now, tokens=tokens, large_body=large_body)
        about = tracker(session)
        if about.record is not None:
            judged = about.judgement
            if judged.verdict is Verdict.BEHIND and judged.offer is not None:
                newest = about.record.generation + 1
                about.judgement = judged._replace(mint=newest, offer=newest)
            self._answers[id(session)] = super().commit(session, now)
            about.settle(session, None)
        return session

    def commit(self, session: Session, now: float) -> Sent | None:
        early = self._answers.pop(id(session), None)
        return super().commit(session, now) or early


def _at_once(call: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits; the calls of ``MemoryStore`` are such."""
    try:
        call.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("the store waited")


def _milliseconds(now: float) -> float:
    return int(now * 1000) / 1000  # as the engine does


# ------------------------------------------------------------------------------------------------------------ the world


class Thief(NamedTuple):
    """Copies the browser's jar once, between the 20th and the 40th minute, and keeps a jar of his own from then on.

    Attributes:
        every: seconds between his requests, on average.
        regular: they are exactly that far apart; otherwise each wait is drawn from the exponential distribution.
        pause: seconds for which the victim falls silent as he copies; he goes on until then. None: they go on together.
        large_body: his requests have one.
    """

    every: float
    regular: bool = False
    pause: float | None = None
    large_body: bool = False


class Situation(NamedTuple):
    """What happens to one browser. All ranges are of seconds, drawn evenly; all shares are of 1.

    Attributes:
        hours: for how long.
        requests: how many a page has, from 1 up; they leave at once, with the same cookie.
        page: from one page to the next.
        use: how long a spell of use lasts; None: there is no pause.
        silence: between two spells.
        network: each way.
        late: share of messages, each way, that take 5 to 55 s instead.
        lost: share of answers that never arrive.
        slow: share of handlers that take 10 to 40 s instead of 10 to 100 ms.
        queued: share of requests that wait 10 to 40 s in front of the application, before their cookie is judged.
        kills: how often the browser is killed; it comes back with the cookie jar of 25 s ago.
        pause: after a kill.
        stores: share of requests that store something.
        large_body: the requests have one.
        tokens: False where the route rotates and sends nothing.
        logs_out: when, in seconds from the beginning.
    """

    hours: float = 1
    requests: int = 6
    page: Range = (1, 5)
    use: Range | None = None
    silence: Range = (60, 600)
    network: Range = (0.02, 0.15)
    late: float = 0
    lost: float = 0
    slow: float = 0
    queued: float = 0
    kills: int = 0
    pause: Range = (0, 0)
    stores: float = 0.05
    large_body: bool = False
    tokens: bool = True
    logs_out: float | None = None
    thief: Thief | None = None


class Outcome(NamedTuple):
    """What came of it.

    Attributes:
        requests: of the browser, judged.
        refused: how many of them found no session.
        revoked: seconds from the copy (without a thief: from the beginning) until the session was revoked; or None.
        betrayed: who presented the overtaken token: "victim" or "thief"; or None.
        reason: why the session ended, or None.
        thief_served: requests of the thief that found the session.
        thief_served_last: when the last of them did, seconds from the beginning.
        reads: commands that the store got: look-ups.
        writes: the same: creations and updates.
        fell_back: events of that name.
    """

    requests: int
    refused: int
    revoked: float | None
    betrayed: str | None
    reason: str | None
    thief_served: int
    thief_served_last: float
    reads: int
    writes: int
    fell_back: int


DELAYED: Range = (5, 55)
SLOW: Range = (10, 40)
HANDLER: Range = (0.01, 0.1)
JAR_AGE = 25.0
"""Seconds. Chromium writes its cookies to the disk every 30 s."""


class Party:
    """Somebody with a cookie jar.

    Attributes:
        token: what the jar holds.
        life: counts the kills: no answer reaches a browser that was killed after it had asked.
        held: (when, token), the newest last: what the jar held.
    """

    __slots__ = ("held", "large_body", "last", "life", "name", "refused", "requests", "token")

    def __init__(self, name: str, token: Token | None, large_body: bool) -> None:
        self.name = name
        self.token = token
        self.large_body = large_body
        self.life = 0
        self.held: list[tuple[float, Token | None]] = [(0.0, token)]
        self.requests = 0
        self.refused = 0
        self.last = 0.0

    def take(self, now: float, sent: Sent) -> None:
        """An answer's Set-Cookie."""
        self.token = sent.token
        self.held.append((now, sent.token))

    def fall_back(self, now: float) -> None:
        """Killed, and started again with the jar that is on the disk."""
        self.life += 1
        while len(self.held) > 1 and self.held[-1][0] > now - JAR_AGE:
            self.held.pop()
        self.token = self.held[-1][1]


class Request(NamedTuple):
    """A request under way, with the cookie that the jar held when it left."""

    party: Party
    life: int
    token: Token | None
    logs_out: bool = False


class Simulation:
    """One browser, perhaps one thief, one server.

    Args:
        situation: what happens.
        rotation: the server's rule.
        seed: of everything that is drawn.
        server: another server than the real rules.
    """

    def __init__(self, situation: Situation, rotation: Rotation, seed: str, server: type[Server] = Server) -> None:
        self.situation = situation
        self.chance = random.Random(seed)
        self.server = server(rotation, self.chance.randbytes)
        self.now = 0.0
        self.thief: Party | None = None
        self.copied_at = 0.0
        self.betrayed: str | None = None
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._number = 0
        self._silent_until = 0.0
        self._spell_ends = 0.0 if situation.use is None else self._between(situation.use)
        self.browser = Party("victim", self._log_in(), situation.large_body)

    def run(self) -> Outcome:
        """Let it happen, until the time is over or the session revoked."""
        situation, end = self.situation, self.situation.hours * HOUR
        self._at(self._between((0, 3)), self._page, None)
        for _ in range(situation.kills):
            self._at(self._between((60, end)), self._kill, None)
        if situation.thief is not None:
            self._at(self._between((1200, 2400)), self._copy, situation.thief)
        if situation.logs_out is not None:
            self._at(situation.logs_out, self._log_out, None)
        events, server = self._events, self.server
        while events and events[0][0] < end and not server.revoked:
            self.now, _, action, argument = heapq.heappop(events)
            action(argument)
        return self._outcome()

    def _outcome(self) -> Outcome:
        browser, thief, server = self.browser, self.thief, self.server
        reads, writes = server.reads, server.writes
        token = browser.held[0][1]
        record = None if token is None else server.load(token)
        return Outcome(
            requests=browser.requests,
            refused=browser.refused,
            revoked=self.now - self.copied_at if server.revoked else None,
            betrayed=self.betrayed,
            reason=None if record is None else record.reason,
            thief_served=0 if thief is None else thief.requests - thief.refused,
            thief_served_last=0 if thief is None else thief.last,
            reads=reads,
            writes=writes,
            fell_back=server.fell_back,
        )

    # What the browser and the thief do.

    def _log_in(self) -> Token | None:
        session = self.server.open(None, DAYBREAK)
        session.renew(subject="user:1")
        sent = self.server.commit(session, DAYBREAK)
        return None if sent is None else sent.token

    def _page(self, _: None) -> None:
        situation, now = self.situation, self.now
        if now < self._silent_until:
            self._at(self._silent_until, self._page, None)
            return
        for _each in range(self.chance.randint(1, situation.requests)):
            self._send(self.browser)
        then = now + self._between(situation.page)
        if situation.use is not None and then > self._spell_ends:
            then += self._between(situation.silence)
            self._spell_ends = then + self._between(situation.use)
        self._at(then, self._page, None)

    def _kill(self, _: None) -> None:
        self.browser.fall_back(self.now)
        self._silent_until = self.now + self._between(self.situation.pause)

    def _log_out(self, _: None) -> None:
        self._send(self.browser, logs_out=True)

    def _copy(self, thief: Thief) -> None:
        self.thief = Party("thief", self.browser.token, thief.large_body)
        self.copied_at = self.now
        if thief.pause is not None:
            self._silent_until = self.now + thief.pause
        self._poll(thief)

    def _poll(self, thief: Thief) -> None:
        if self.thief is None or (thief.pause is not None and self.now >= self._silent_until):
            return
        self._send(self.thief)
        wait = thief.every if thief.regular else self.chance.expovariate(1 / thief.every)
        self._at(self.now + wait, self._poll, thief)

    # The way of a request.

    def _send(self, party: Party, *, logs_out: bool = False) -> None:
        arrives = self.now + self._travel()
        if self.situation.queued and self.chance.random() < self.situation.queued:
            arrives += self._between(SLOW)
        self._at(arrives, self._arrive, Request(party, party.life, party.token, logs_out))

    def _arrive(self, request: Request) -> None:
        situation, party = self.situation, request.party
        session = self.server.open(
            request.token, DAYBREAK + self.now, tokens=situation.tokens, large_body=party.large_body
        )
        party.requests += 1
        if session.is_new:
            party.refused += 1
            if self.server.revoked and self.betrayed is None:
                self.betrayed = party.name
        else:
            party.last = self.now
            if self.chance.random() < situation.stores:
                session["seen"] = self.now
        if request.logs_out:
            session.destroy()
        slow = situation.slow and self.chance.random() < situation.slow
        self._at(self.now + self._between(SLOW if slow else HANDLER), self._answer, (request, session))

    def _answer(self, handled: tuple[Request, Session]) -> None:
        request, session = handled
        sent = self.server.commit(session, DAYBREAK + self.now)
        if sent is not None and not (self.situation.lost and self.chance.random() < self.situation.lost):
            self._at(self.now + self._travel(), self._deliver, (request, sent))

    def _deliver(self, answer: tuple[Request, Sent]) -> None:
        request, sent = answer
        if request.life == request.party.life:
            request.party.take(self.now, sent)

    def _travel(self) -> float:
        late = self.situation.late
        return self._between(DELAYED if late and self.chance.random() < late else self.situation.network)

    def _between(self, bounds: Range) -> float:
        low, high = bounds
        return low + (high - low) * self.chance.random()

    def _at(self, when: float, action: Callable[[Any], None], argument: Any) -> None:
        self._number += 1  # what is due at the same time happens in the order in which it was arranged
        heapq.heappush(self._events, (when, self._number, action, argument))


def simulate(
    situation: Situation, rotation: Rotation, *, runs: int, name: str, server: type[Server] = Server
) -> list[Outcome]:
    """Several runs of one situation; the seeds are made of the name and the run's number."""
    return [Simulation(situation, rotation, f"{name}/{run}", server).run() for run in range(runs)]


# ----------------------------------------------------------------------------------------------------------- the tables

MINUTE: Range = (60, 60)

HONEST = {
    "normal": Situation(),
    "40 % of answers lost": Situation(lost=0.4),
    "40 % of answers lost, in spells": Situation(lost=0.4, use=MINUTE),
    "1 % of handlers take 10-40 s": Situation(slow=0.01),
    "1 % of handlers take 10-40 s, in spells": Situation(slow=0.01, use=MINUTE),
    "1 % of requests wait 10-40 s before they are judged": Situation(queued=0.01),
    "1 % of requests wait 10-40 s before they are judged, in spells": Situation(queued=0.01, use=MINUTE),
    "network 0.5-6 s each way": Situation(network=(0.5, 6)),
    "network 2-25 s each way": Situation(network=(2, 25)),
    "network 2-25 s each way, in spells": Situation(network=(2, 25), use=MINUTE),
    "browser killed, jar 25 s old": Situation(kills=2),
    "browser killed, jar 25 s old, then a pause": Situation(kills=2, pause=(60, 600)),
    "spells, 2 % of messages 5-55 s late, 20 % lost, slow handlers": Situation(
        late=0.02, lost=0.2, slow=0.01, use=MINUTE
    ),
}
"""Nobody copied anything: none of this should be refused. (The last can exceed ``grace``: 9 of 8,000 hours, at 5 s.)"""

OVER_GRACE = {"2 % of messages 5-55 s late each way, always active": Situation(late=0.02)}
"""Two late messages in a row are up to 110 s of activity: more than ``grace``."""

THIEVES = {
    "thief polls every 3 s": Situation(thief=Thief(3)),
    "thief polls every 20 s": Situation(thief=Thief(20)),
    "thief polls every 60 s": Situation(thief=Thief(60)),
    "thief uses the copy while the victim pauses": Situation(thief=Thief(3, pause=600)),
}

CAREFUL_THIEVES = {
    "thief polls every 3 s to the second": Situation(thief=Thief(3, regular=True)),
    "thief polls every 20 s to the second": Situation(thief=Thief(20, regular=True)),
    "thief polls every 60 s to the second": Situation(thief=Thief(60, regular=True)),
    "thief polls every 3 s with large bodies": Situation(thief=Thief(3, large_body=True)),
    "thief polls every 60 s with large bodies": Situation(thief=Thief(60, large_body=True)),
    "thief uses the copy in a pause of 1 min": Situation(thief=Thief(3, pause=60)),
    "thief uses the copy in a pause of 2 min": Situation(thief=Thief(3, pause=120)),
    "thief uses the copy in a pause of 4 min": Situation(thief=Thief(3, pause=240)),
    "victim sends large bodies only, thief polls every 3 s": Situation(large_body=True, thief=Thief(3)),
    "victim sends large bodies only, thief polls every 60 s": Situation(large_body=True, thief=Thief(60)),
    "victim sends large bodies only, pauses": Situation(large_body=True, thief=Thief(3, pause=600)),
}

DAYS = {
    "a page about every 12 s": Situation(16, page=(4, 20), use=(60, 900), silence=(60, 900), late=0.005),
    "a page about every 3 s": Situation(16, use=(60, 900), silence=(600, 6000), late=0.005),
}
"""16 hours of about 8,500 requests, in spells of 1 to 15 minutes, with silences that make them as many."""


class Theft(Rotation):
    """What no application can set: a token that is not among the newest three ends the session."""

    __slots__ = ()

    def __post_init__(self) -> None:
        """Everything goes."""


Column = tuple[Rotation, type[Server]]

PROTOCOL: dict[str, Column] = {"5 s": (Rotation(), Server), "60 s": (Rotation(ttl=60), Server)}
COMPARED: dict[str, Column] = {
    "`grace=0`, `refuse`": (Rotation(grace=0, on_copied="refuse"), Server),
    "older than 3 = theft": (Theft(grace=0), Server),
    "careless, `refuse`": (Rotation(grace=0, on_copied="refuse"), Careless),
    "careless, older than 3 = theft": (Theft(grace=0), Careless),
}


def percent(share: float) -> str:
    """A share of 1 as the tables print it."""
    return "0" if share == 0 else f"{100 * share:.{0 if share >= 0.01 else 2}f} %"


def revoked(outcomes: Sequence[Outcome]) -> str:
    """How many sessions were revoked, and after how long on average."""
    after = [outcome.revoked for outcome in outcomes if outcome.revoked is not None]
    return f"{percent(len(after) / len(outcomes))}, after {mean(after) / 60:.1f} min" if after else "0"


def refused(outcomes: Sequence[Outcome]) -> str:
    """How many sessions were revoked / which share of the browser's requests was refused."""
    ended = sum(outcome.revoked is not None for outcome in outcomes) / len(outcomes)
    share = sum(outcome.refused for outcome in outcomes) / sum(outcome.requests for outcome in outcomes)
    return f"{percent(ended)} / {percent(share)}"


def table(situations: Mapping[str, Situation], columns: Mapping[str, Column], runs: int) -> Iterator[str]:
    """Lines of Markdown: one row per situation, one column per rule."""
    yield from _line("", *columns)
    yield from _line(*["---"] * (len(columns) + 1))
    for name, situation in situations.items():
        shown = refused if situation.thief is None else revoked
        yield from _line(
            name,
            *(shown(simulate(situation, rule, runs=runs, name=name, server=kind)) for rule, kind in columns.values()),
        )


def _line(*cells: str) -> Iterator[str]:
    yield f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the tables."""
    options = argparse.ArgumentParser(prog="python -m tests.simulation", description="Print the tables as Markdown.")
    options.add_argument("--runs", type=int, default=20, help="simulated hours a cell (20)")
    options.add_argument("--days", type=int, default=0, help="honest days a cell (none)")
    chosen = options.parse_args()
    for situations, columns in (
        (HONEST | OVER_GRACE | THIEVES | CAREFUL_THIEVES, PROTOCOL),
        (HONEST | OVER_GRACE | THIEVES, COMPARED),
    ):
        for line in table(situations, columns, chosen.runs):
            print(line, flush=True)
        print()
    if chosen.days:
        for line in table(DAYS, PROTOCOL, chosen.days):
            print(line, flush=True)


if __name__ == "__main__":
    main()
