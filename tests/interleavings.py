"""Every order in which the requests of a browser and their answers can overtake each other.

All is decided by the real `judge` and `plan`. Each request takes these steps; those of others may come between any two:

    leaves       with the cookie that the jar holds at that moment
    looked up    the document is read, the cookie judged, the handler runs
    carried out  what the plan asks of the store, one call a step; the last one makes the answer
    delivered    the jar takes in the answer's cookie

A request or an answer that is lost takes no further step. Nothing waits for it, and what holds is checked at every
step, not at the end: so all losses are among the orders. Time stands: a token is due because it is said to be.

`Search` walks the states, `Rotating` is one session whose token rotates, `Renewing` adds data, log-ins and log-outs;
what has to hold at each step is said by the tests.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from hashlib import blake2b
from typing import Generic, Literal, NamedTuple, TypeVar

from mongosession.events import Verdict
from mongosession.memory import apply
from mongosession.plan import Plan, Terms, Update, plan
from mongosession.policy import Rotation, Timeouts
from mongosession.rotation import Judgement, judge
from mongosession.session import Session
from mongosession.store import ENDED, Record, Stamp
from mongosession.tokens import SID_BYTES, Token, deadline, session_id
from mongosession.tracker import Owed, Tracker
from mongosession.values import load

NOW = 4_000_000_000.0
PAST = NOW - 30.0
"""When a token was rotated that is due now, whatever the ttl of the tests."""

TIMEOUTS = Timeouts()
OPENS = frozenset({Verdict.AHEAD, Verdict.CURRENT, Verdict.DUE, Verdict.BEHIND})
"""Verdicts under which the request sees the session."""

State = TypeVar("State", bound=Hashable)
Move = TypeVar("Move")


class Search(Generic[State, Move]):
    """All states that can be reached, each visited once, the nearest first. Iterating gives every step: the state
    before, the move, the state after.

    Args:
        start: the first state.
        moves: state -> the moves that are possible, with the states that they lead to.
    """

    def __init__(self, start: State, moves: Callable[[State], Iterator[tuple[Move, State]]]) -> None:
        self.moves = moves
        self._came_from: dict[State, State | None] = {start: None}
        self.start = start

    def __iter__(self) -> Iterator[tuple[State, Move, State]]:
        queue = deque([self.start])
        while queue:
            before = queue.popleft()
            for move, after in self.moves(before):
                yield before, move, after
                if after not in self._came_from:
                    self._came_from[after] = before
                    queue.append(after)

    @property
    def states(self) -> int:
        """How many have been reached."""
        return len(self._came_from)

    def schedule(self, state: State) -> list[Move]:
        """A shortest way to a state: what to show where something does not hold."""
        way: list[Move] = []
        while (before := self._came_from[state]) is not None:
            way.append(next(move for move, after in self.moves(before) if after == state))
            state = before
        return way[::-1]


# What the engine does, without its awaiting; a test drives both through the same schedules.


class Call(StrEnum):
    """A call to the store that a plan makes at its commit."""

    END = "end"
    CREATE = "create"
    UPDATE = "update"
    INSTEAD = "create instead"
    LOOK_AGAIN = "look again"


class Done(NamedTuple):
    """What one call led to: the document, the next call, and (after the last one) the answer."""

    record: Record | None
    then: Call | None
    answer: Owed


def open_session(token: Token | None, record: Record | None, rotation: Rotation) -> Session:
    """The session of a request, as `SessionEngine.open` makes it (without the revocation of a copied one)."""
    if token is None:
        return Session(Tracker(Judgement(Verdict.ANONYMOUS, NOW)))
    judged = judge(token, record, now=NOW, rotation=rotation, timeouts=TIMEOUTS)
    return Session(Tracker(judged, record=record if judged.verdict in OPENS else None, token=token))


def first_call(decided: Plan) -> Call | None:
    """Where `SessionEngine._carry_out` begins; None where there is nothing to ask of the store."""
    return Call.END if decided.end is not None else _after_end(decided)


def _after_end(decided: Plan) -> Call | None:
    if decided.create is not None:
        return Call.CREATE
    if decided.update is not None:
        return Call.UPDATE
    return Call.LOOK_AGAIN if decided.offer is not None else None


def concerned(decided: Plan, call: Call) -> bytes:
    """The id of the document that a call concerns."""
    created = decided.instead if call is Call.INSTEAD else decided.create
    if call in (Call.CREATE, Call.INSTEAD):
        assert created is not None
        return created.record.id
    update = decided.end if call is Call.END else decided.update
    if update is not None:
        return update.id
    assert decided.offer is not None
    return session_id(decided.offer.token.sid)


def perform(decided: Plan, call: Call, record: Record | None) -> Done:
    """One call of a plan, on the document that it concerns."""
    if call is Call.END:
        assert decided.end is not None
        then, ended = _after_end(decided), _updated(record, decided.end)
        return Done(ended or record, then, closing(decided) if then is None and ended is not None else None)
    if call in (Call.CREATE, Call.INSTEAD):
        creation = decided.create if call is Call.CREATE else decided.instead
        assert creation is not None
        assert record is None
        return Done(creation.record, None, creation.token)
    confirmed: Stamp | bool = record is not None and Stamp(record.epoch, record.generation)
    if call is Call.UPDATE:
        assert decided.update is not None
        updated = _updated(record, decided.update)
        if updated is None:
            return Done(record, None if decided.instead is None else Call.INSTEAD, None)
        record = updated
        confirmed = not decided.update.changes.confirm or Stamp(record.epoch, record.generation)
    offer = decided.offer
    return Done(record, None, offer.token if offer is not None and confirmed == offer.if_then else None)


def closing(decided: Plan) -> Owed:
    """The answer where there is no token to send."""
    return "removal" if decided.forget else None


def _updated(record: Record | None, update: Update) -> Record | None:
    """The document after an update, or None where the update matches nothing."""
    if record is None or (record.epoch == ENDED if update.epoch is None else record.epoch != update.epoch):
        return None
    return apply(record, update.changes)


# One session whose token rotates.


class Request(NamedTuple):
    """A request under way, in numbers, so that requests that are alike can change places.

    Attributes:
        stage: where it is.
        token: the generation of its cookie; of its answer's where it is answered.
        known: sent: the newest generation that the browser had held when it left; looked up: the document's then.
        due: looked up: whether the newest token was due.
    """

    stage: Literal["sent", "looked up", "answered"]
    token: int
    known: int = 0
    due: bool = False


class Rotating(NamedTuple):
    """One session and one browser.

    Attributes:
        ready: how many requests have not left yet.
        newest: the document's generation.
        jar: the generation that the jar holds.
        held: the newest generation that it has ever held.
        requests: those under way, in order of their values: who is who does not matter.
    """

    ready: int
    newest: int = 0
    jar: int = 0
    held: int = 0
    requests: tuple[Request, ...] = ()


class Turn(NamedTuple):
    """One move: the step, the request that takes it, and what came of a plan that was carried out: the generation of
    the token sent, and whether the document changed at all."""

    step: Literal["leaves", "looked up", "refused", "carried out", "spared", "delivered"]
    request: Request
    sent: int | None = None
    wrote: bool = False


class Rule(NamedTuple):
    """A rule of rotation.

    Attributes:
        opens: cookie, newest, due -> whether the request gets the session.
        ends: cookie, newest and due at the lookup, newest now -> newest afterwards, the generation sent, whether the
            document changed.
    """

    opens: Callable[[int, int, bool], bool]
    ends: Callable[[int, int, bool, int], tuple[int, int | None, bool]]


_SID, _EPOCH = b"s" * SID_BYTES, 1


def protocol(rotation: Rotation) -> Rule:
    """The rule of this library: its `judge` and `plan`, for requests that store nothing."""

    @cache
    def look_up(cookie: int, newest: int, due: bool) -> tuple[bool, Plan]:
        record = _document(newest, due)
        session = open_session(_token(cookie), record, rotation)
        decided = plan(session, Terms(rotation, TIMEOUTS, 1024), now=NOW, random=drawn(0))
        assert not decided.forget
        return not session.is_new, decided

    def opens(cookie: int, newest: int, due: bool) -> bool:
        return look_up(cookie, newest, due)[0]

    @cache
    def ends(cookie: int, seen: int, due: bool, newest: int) -> tuple[int, int | None, bool]:
        decided = look_up(cookie, seen, due)[1]
        before = _document(newest, due)
        call = first_call(decided)
        if call is None:
            return newest, None, False
        record, then, answer = perform(decided, call, before)
        assert record is not None
        assert then is None
        return record.generation, answer.generation if isinstance(answer, Token) else None, record != before

    return Rule(opens, ends)


def plain(window: int) -> Rule:
    """The rule of 2011: whoever presents one of the newest tokens when it is due gets a new one, drawn on the spot."""
    return Rule(
        lambda cookie, newest, due: newest - cookie < window,
        lambda cookie, seen, due, newest: (newest + 1, newest + 1, True) if due else (newest, None, False),
    )


def _document(newest: int, due: bool) -> Record:
    return document(_SID, _EPOCH)._replace(generation=newest, rotated_at=PAST if due else NOW)


def _token(generation: int) -> Token:
    return Token(_SID, _EPOCH, generation, deadline(PAST, TIMEOUTS.absolute))


def rotations(
    rule: Rule, requests: int, due: tuple[bool, ...] = (True,), *, spares: bool = False
) -> Search[Rotating, Turn]:
    """All orders of some requests of one browser.

    Args:
        rule: what is done to them.
        requests: how many.
        due: whether the newest token can be due at a lookup, or not, or either.
        spares: any request that would rotate the token may be spared that, whether another one does it or not: more
            than any memory of what has begun can bring about.
    """

    def moves(state: Rotating) -> Iterator[tuple[Turn, Rotating]]:
        ready, newest, jar, held, under_way = state
        if ready:
            leaving = Request("sent", jar, held)
            yield Turn("leaves", leaving), Rotating(ready - 1, newest, jar, held, _with(under_way, leaving))
        for index, request in enumerate(under_way):
            if index and under_way[index - 1] == request:
                continue  # the other way round it is the same
            others = under_way[:index] + under_way[index + 1 :]
            if request.stage == "sent":
                for now_due in due:
                    if not rule.opens(request.token, newest, now_due):
                        yield Turn("refused", request), state._replace(requests=others)
                    else:
                        looked = Request("looked up", request.token, newest, now_due)
                        yield Turn("looked up", request), state._replace(requests=_with(others, looked))
            elif request.stage == "looked up":
                after, sent, wrote = rule.ends(request.token, request.known, request.due, newest)
                left = others if sent is None else _with(others, Request("answered", sent))
                yield Turn("carried out", request, sent, wrote), Rotating(ready, after, jar, held, left)
                if spares and request.due and request.token == request.known:
                    yield Turn("spared", request), state._replace(requests=others)
            else:
                yield (
                    Turn("delivered", request),
                    Rotating(ready, newest, request.token, max(held, request.token), others),
                )

    return Search(Rotating(requests), moves)


def _with(requests: tuple[Request, ...], another: Request) -> tuple[Request, ...]:
    return tuple(sorted((*requests, another)))


# Sessions that are written to, renewed and ended.


class Action(NamedTuple):
    """What a request's handler does. Each request that writes has a key of its own.

    Attributes:
        destroys: log-out.
        renews: a new epoch for the session.
        subject: log-in: whom the renewed session belongs to; None keeps the subject.
        writes: it stores something under its key, after all the rest.
    """

    destroys: bool = False
    renews: bool = False
    subject: str | None = None
    writes: bool = True

    def handle(self, session: Session, key: str) -> None:
        """The handler."""
        if self.destroys:
            session.destroy()
        if self.subject is not None:
            session.renew(subject=self.subject)
        elif self.renews:
            session.renew()
        if self.writes:
            session[key] = 1


@dataclass(frozen=True, eq=False, slots=True)
class Case:
    """A request whose handler has run. Equal ones are one object, so they are compared as such, which is fast.

    Attributes:
        token: what it presented.
        verdict: how that was judged.
        behind: how many generations it was behind the document.
        saw: the keys that the handler saw.
        plan: what its commit will do.
    """

    token: Token | None
    verdict: Verdict
    behind: int
    saw: frozenset[str]
    plan: Plan


class Errand(NamedTuple):
    """A request of `Renewing`, on its way."""

    stage: Literal["ready", "sent", "looked up", "answered", "over"] = "ready"
    token: Token | None = None
    case: Case | None = None
    call: Call | None = None
    answer: Owed = None


class Renewing(NamedTuple):
    """Some sessions and one browser: the documents in the order of their ids, the jar's cookie, the requests."""

    documents: tuple[Record, ...]
    jar: Token | None
    requests: tuple[Errand, ...]

    def document(self, token: Token | None) -> Record | None:
        """The document that a token names."""
        return None if token is None else find(self.documents, session_id(token.sid))


class Deed(NamedTuple):
    """One move: which request takes which step; from the lookup on its case, and the call that was carried out."""

    step: Literal["leaves", "looked up", "carried out", "delivered"]
    request: int
    case: Case | None = None
    call: Call | None = None


def renewals(
    actions: tuple[Action, ...], rotation: Rotation, *, document: Record | None, jar: Token | None
) -> Search[Renewing, Deed]:
    """All orders of some requests of one browser that do various things. Those of equal actions leave in their order:
    the other orders are the same but for the names.

    Args:
        actions: what each request does.
        rotation: the rules; the newest token is always due.
        document: the session that there is, or None.
        jar: the cookie that the browser holds at first, or None.
    """
    terms = Terms(rotation, TIMEOUTS, 1024)

    @cache
    def look_up(index: int, token: Token | None, record: Record | None) -> Case:
        session = open_session(token, record, rotation)
        saw = frozenset(session)
        actions[index].handle(session, own_key(index))
        lag = 0 if token is None or record is None else record.generation - token.generation
        return Case(token, session.verdict, lag, saw, plan(session, terms, now=NOW, random=drawn(index)))

    @cache
    def carry_out(case: Case, call: Call, record: Record | None) -> Done:
        done = perform(case.plan, call, record)
        if done.record is None:
            return done
        return done._replace(record=done.record._replace(rotated_at=PAST))  # due again at once

    def moves(state: Renewing) -> Iterator[tuple[Deed, Renewing]]:
        for index, request in enumerate(state.requests):
            if request.stage == "ready":
                if any(
                    earlier.stage == "ready" and actions[number] == actions[index]
                    for number, earlier in enumerate(state.requests[:index])
                ):
                    continue
                yield Deed("leaves", index), _put(state, index, Errand("sent", state.jar))
            elif request.stage == "sent":
                case = look_up(index, request.token, state.document(request.token))
                call = first_call(case.plan)
                after = Errand("looked up", request.token, case, call)
                if call is None:
                    after = _answered(after, closing(case.plan))
                yield Deed("looked up", index, case), _put(state, index, after)
            elif request.stage == "looked up":
                handled, asked = request.case, request.call
                assert handled is not None
                assert asked is not None
                name = concerned(handled.plan, asked)
                done = carry_out(handled, asked, find(state.documents, name))
                after = request._replace(call=done.then) if done.then is not None else _answered(request, done.answer)
                stored = _put(state, index, after)
                if done.record is not None:
                    rest = [each for each in state.documents if each.id != name]
                    stored = stored._replace(documents=tuple(sorted([*rest, done.record])))
                yield Deed("carried out", index, handled, asked), stored
            elif request.stage == "answered":
                kept = request.answer if isinstance(request.answer, Token) else None
                yield Deed("delivered", index), _put(state, index, Errand("over"))._replace(jar=kept)

    documents = () if document is None else (document,)
    return Search(Renewing(documents, jar, (Errand(),) * len(actions)), moves)


def _answered(request: Errand, answer: Owed) -> Errand:
    """After the last call; an answer that leaves the cookie alone need not arrive."""
    return Errand("over") if answer is None else request._replace(stage="answered", call=None, answer=answer)


def _put(state: Renewing, index: int, request: Errand) -> Renewing:
    requests = state.requests
    return state._replace(requests=(*requests[:index], request, *requests[index + 1 :]))


def find(documents: tuple[Record, ...], id: bytes) -> Record | None:
    """The document with this id."""
    return next((each for each in documents if each.id == id), None)


def document(sid: bytes, epoch: int, subject: str | None = None) -> Record:
    """A session that was created a moment ago, whose token is due."""
    return Record(
        id=session_id(sid),
        epoch=epoch,
        generation=0,
        created_at=PAST,
        renewed_at=PAST,
        rotated_at=PAST,
        seen_at=NOW,
        expires_at=NOW + TIMEOUTS.idle,
        subject=subject,
    )


def own_key(index: int) -> str:
    """The key that a request writes."""
    return f"key{index}"


def keys(record: Record) -> set[str]:
    """The keys that a document holds."""
    return set(load(record.data))


def drawn(index: int) -> Callable[[int], bytes]:
    """The source of chance of one request: no two requests draw the same."""
    count = 0

    def draw(size: int) -> bytes:
        nonlocal count
        count += 1
        return blake2b(f"{index} {count}".encode(), digest_size=size).digest()

    return draw
