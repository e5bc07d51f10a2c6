"""What has to hold in whatever order the requests of a browser and their answers overtake each other."""

import asyncio
import random
from collections import Counter
from contextvars import ContextVar
from itertools import combinations_with_replacement
from typing import NamedTuple

import pytest

from mongosession.cookies import read
from mongosession.engine import SessionEngine
from mongosession.events import Verdict
from mongosession.keys import KeyRing
from mongosession.memory import MemoryStore
from mongosession.policy import Rotation
from mongosession.store import DESTROYED, ENDED, Changes, Record, Stamp
from mongosession.testing import Browser, Exchange, HandClock
from mongosession.tokens import SID_BYTES, Token, TokenCodec, deadline
from mongosession.tracker import Owed
from mongosession.values import EMPTY

from .interleavings import (
    NOW,
    OPENS,
    PAST,
    TIMEOUTS,
    Action,
    Call,
    Case,
    Deed,
    Renewing,
    Rotating,
    Search,
    Turn,
    concerned,
    document,
    drawn,
    find,
    keys,
    own_key,
    plain,
    protocol,
    renewals,
    rotations,
)

STRICT = Rotation(ttl=5, window=3, grace=0, on_copied="refuse")
BRIEF = Rotation(ttl=20, window=2, grace=60)  # tokens 2 and 3 behind are older than the window, and still open
DEFAULT = Rotation()

EITHER = (True, False)
ALWAYS = (True,)


class Overtaken(NamedTuple):
    """How a refused request came to be.

    Attributes:
        answer: how many newer tokens the browser had had when the answer came that brought the presented one: they
            overtook that answer, which threw the browser back.
        request: how many rotations were confirmed until the request was judged whose tokens the browser had not had
            when it left: they overtook the request.
        held: how many tokens newer than the presented one the browser had had when it was judged.
    """

    answer: int
    request: int
    held: int


# One session whose token rotates.


@pytest.mark.parametrize("due", [ALWAYS, EITHER], ids=["always due", "due or not"])
@pytest.mark.parametrize("rotation", [STRICT, BRIEF], ids=["grace 0", "K 4"])
def test_a_browser_is_refused_only_where_confirmed_rotations_overtook_it(
    rotation: Rotation, due: tuple[bool, ...]
) -> None:
    for requests in range(1, 7):
        _check_rotations(rotation, requests, due)


def test_up_to_five_requests_all_rotations_overtook_the_refused_request_itself() -> None:
    refusals = {requests: _check_rotations(STRICT, requests, ALWAYS) for requests in range(1, 6)}
    assert [len(refusals[requests]) for requests in (1, 2, 3)] == [0, 0, 0]
    assert {(each.answer, each.request) for each in refusals[4]} == {(0, 3)}
    assert {(each.answer, each.request) for each in refusals[5]} == {(0, 3), (0, 4)}


def test_six_requests_can_overtake_an_answer_and_the_request_that_carries_its_token_by_three_together() -> None:
    refusals = _check_rotations(STRICT, 6, ALWAYS)
    assert {(each.answer, each.request) for each in refusals} == {(0, 3), (0, 4), (0, 5), (1, 2), (2, 1), (3, 0)}


async def test_no_single_message_of_these_six_requests_is_overtaken_by_three() -> None:
    clock = HandClock()
    engine = SessionEngine(MemoryStore(), keys=["k" * 32], rotation=STRICT, clock=clock)
    browser = Browser(engine, clock)
    async with browser.visit() as session:
        session["basket"] = ["tea"]

    async def finish(exchange: Exchange) -> None:
        clock.advance(STRICT.ttl or 0)
        await exchange.open()
        await exchange.answer()
        assert exchange.sends_cookie

    first, twin = browser.send(), browser.send()
    await finish(first)
    await finish(twin)  # generation 1 for both of them
    first.deliver()
    second = browser.send()
    await finish(second)  # generation 2 overtakes the twin's answer
    second.deliver()
    third = browser.send()
    twin.deliver()
    refused = browser.send()  # with generation 1
    await finish(third)  # generation 3 overtakes this request
    third.deliver()
    fourth = browser.send()
    await finish(fourth)  # and generation 4
    assert (await refused.open()).verdict is Verdict.COPIED


@pytest.mark.parametrize("due", [ALWAYS, EITHER], ids=["always due", "due or not"])
@pytest.mark.parametrize("rotation", [STRICT, BRIEF], ids=["grace 0", "K 4"])
def test_whoever_is_spared_a_rotation_nothing_else_comes_of_it(rotation: Rotation, due: tuple[bool, ...]) -> None:
    """A request that is spared is one that was lost after its lookup: no way to be refused is new."""
    for requests in range(1, 7):
        assert _check_rotations(rotation, requests, due, spares=True).keys() == (
            _check_rotations(rotation, requests, due).keys()
        )


def test_a_browser_that_is_behind_catches_up_one_step_a_request() -> None:
    rule = protocol(STRICT)
    for cookie in (8, 9, 10):
        assert rule.opens(cookie, 10, True)
        assert rule.ends(cookie, 10, True, 10) == (max(10, cookie + 1), cookie + 1, cookie == 10)
        assert rule.ends(cookie, 10, False, 10) == (10, None, False)


def test_a_browser_that_is_older_than_the_window_catches_up_at_once() -> None:
    rule = protocol(BRIEF)
    for lag in range(BRIEF.window, BRIEF.accepted):
        for due in EITHER:
            assert rule.ends(10 - lag, 10, due, 10) == (10, 10, False)
            assert rule.ends(10 - lag, 10, due, 11) == (11, None, False)  # it moved meanwhile


def test_the_rule_of_2011_lets_parallel_requests_and_lost_answers_refuse_each_other() -> None:
    search = rotations(plain(3), 4)
    held = {before.held - turn.request.token for before, turn, _ in search if turn.step == "refused"}
    assert held == {0, 1, 2, 3}  # 0: refused with the newest token that it had ever been given


@pytest.mark.search
@pytest.mark.parametrize("requests", [7, 8])
@pytest.mark.parametrize("due", [ALWAYS, EITHER], ids=["always due", "due or not"])
@pytest.mark.parametrize("rotation", [STRICT, BRIEF], ids=["grace 0", "K 4"])
def test_seven_and_eight_requests(rotation: Rotation, due: tuple[bool, ...], requests: int) -> None:
    _check_rotations(rotation, requests, due)


def _check_rotations(
    rotation: Rotation, requests: int, due: tuple[bool, ...], *, spares: bool = False
) -> Counter[Overtaken]:
    """What has to hold at each step of all orders.

    Returns:
        The refusals: how often each kind was met.
    """
    search = rotations(protocol(rotation), requests, due, spares=spares)
    refusals: Counter[Overtaken] = Counter()
    for before, turn, after in search:
        assert before.newest <= after.newest <= before.newest + 1, search.schedule(before)
        # A rotation is confirmed before the next one: the browser has held all generations but the newest.
        assert after.newest <= after.held + 1, search.schedule(before)
        cookie = turn.request.token
        if turn.step == "looked up":
            assert before.newest - cookie < rotation.accepted, search.schedule(before)
        elif turn.step == "refused":
            overtaken = Overtaken(turn.request.known - cookie, before.newest - turn.request.known, before.held - cookie)
            refusals[overtaken] += 1
            assert overtaken.answer + overtaken.request >= rotation.accepted, search.schedule(before)
            assert overtaken.held >= rotation.accepted - 1, search.schedule(before)
        elif turn.step == "carried out":
            _check_answer(rotation, before, turn, after, search)
    return refusals


def _check_answer(
    rotation: Rotation, before: Rotating, turn: Turn, after: Rotating, search: Search[Rotating, Turn]
) -> None:
    cookie, seen, due, sent = turn.request.token, turn.request.known, turn.request.due, turn.sent
    behind = seen - cookie
    if behind or not due:
        assert not turn.wrote, search.schedule(before)
    if after.newest > before.newest:  # minted for whom the newest token was, and once
        assert cookie == seen == before.newest, search.schedule(before)
    offered = seen if behind >= rotation.window else cookie + 1 if due else None
    stands = after.newest == (seen + 1 if behind == 0 else seen)  # the document is what it was when this was offered
    assert sent == (offered if stands else None), search.schedule(before)
    if sent is not None:  # nothing that the database has not confirmed, nothing older than a client behind has to take
        assert sent <= after.newest, search.schedule(before)
        assert after.newest - sent <= max(0, behind - 1), search.schedule(before)


# Sessions that are written to, renewed and ended.

READ = Action(writes=False)
WRITE = Action()
RENEW = Action(renews=True)
LOG_IN = Action(renews=True, subject="ann")
LOG_IN_AS_ANOTHER = Action(renews=True, subject="bob")
LOG_OUT = Action(destroys=True, writes=False)
LOG_OUT_AND_GO_ON = Action(destroys=True)
NAMES = {
    READ: "read",
    WRITE: "write",
    RENEW: "renew",
    LOG_IN: "log in",
    LOG_IN_AS_ANOTHER: "log in as another",
    LOG_OUT: "log out",
    LOG_OUT_AND_GO_ON: "log out and go on",
}

SID, EPOCH = b"x" * SID_BYTES, 7
JAR = Token(SID, EPOCH, 0, deadline(PAST, TIMEOUTS.absolute))
PAIRS = list(combinations_with_replacement((RENEW, LOG_IN, LOG_IN_AS_ANOTHER, LOG_OUT, LOG_OUT_AND_GO_ON), 2))


def _named(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(NAMES[each] for each in value)
    return str(value)


@pytest.mark.parametrize("subject", [None, "ann"])
@pytest.mark.parametrize("pair", PAIRS, ids=_named)
def test_what_two_of_four_requests_renew_or_end(pair: tuple[Action, Action], subject: str | None) -> None:
    _check_renewals((*pair, WRITE, WRITE), DEFAULT, document(SID, EPOCH, subject), JAR)


@pytest.mark.parametrize("pair", [(RENEW, RENEW), (RENEW, LOG_OUT), (LOG_OUT, LOG_OUT), (LOG_IN, WRITE)], ids=_named)
def test_the_same_without_grace(pair: tuple[Action, Action]) -> None:
    _check_renewals((*pair, WRITE, READ), STRICT, document(SID, EPOCH), JAR)


@pytest.mark.parametrize("pair", [(LOG_IN, LOG_IN), (LOG_IN, WRITE), (LOG_IN, LOG_OUT), (WRITE, WRITE)], ids=_named)
def test_the_same_where_nobody_had_a_session(pair: tuple[Action, Action]) -> None:
    _check_renewals((*pair, WRITE, READ), DEFAULT, None, None)


@pytest.mark.search
@pytest.mark.parametrize("subject", [None, "ann"])
@pytest.mark.parametrize("pair", PAIRS, ids=_named)
def test_what_two_of_five_requests_renew_or_end(pair: tuple[Action, Action], subject: str | None) -> None:
    """Without grace, so that refused requests renew and end sessions too."""
    _check_renewals((*pair, WRITE, WRITE, READ), STRICT, document(SID, EPOCH, subject), JAR)


def _check_renewals(
    actions: tuple[Action, ...], rotation: Rotation, document: Record | None, jar: Token | None
) -> None:
    """What has to hold at each step of all orders."""
    search = renewals(actions, rotation, document=document, jar=jar)
    for before, deed, after in search:
        case, action = deed.case, actions[deed.request]
        if case is None:
            continue
        try:
            if deed.call is None:
                _check_lookup(case, before.document(case.token), rotation)
            else:
                _check_call(deed, case, action, before, after)
            request = after.requests[deed.request]
            if request.stage != "looked up":
                _check_outcome(case, action, rotation, request.answer, after)
        except AssertionError as error:
            error.add_note("\n".join(f"{each.request} {each.step}" for each in [*search.schedule(before), deed]))
            raise


def _check_lookup(case: Case, record: Record | None, rotation: Rotation) -> None:
    """A token opens the session while it is of the present epoch and not overtaken, and shows nothing otherwise."""
    lives = case.token is not None and record is not None and record.epoch == case.token.epoch
    opens = lives and case.behind < rotation.accepted
    assert (case.verdict in OPENS) is opens
    assert case.saw == (keys(record) if opens and record is not None else set())


def _check_call(deed: Deed, case: Case, action: Action, before: Renewing, after: Renewing) -> None:
    """What one call may do to the documents."""
    assert deed.call is not None
    name = concerned(case.plan, deed.call)
    old, new = find(before.documents, name), find(after.documents, name)
    untouched = set(after.documents) - {new}
    assert untouched == set(before.documents) - {old}
    own = {own_key(deed.request)} if action.writes else set[str]()
    if deed.call in (Call.CREATE, Call.INSTEAD):  # nothing that ended is continued
        assert old is None
        assert new is not None
        assert (keys(new), new.subject, new.generation) == (own, action.subject, 0)
    elif deed.call is Call.LOOK_AGAIN or old is None or old.epoch == ENDED:
        assert new == old  # no upsert, no resurrection
    elif deed.call is Call.END:
        assert action.destroys
        assert new is not None
        assert (new.epoch, new.data, new.subject, new.reason) == (ENDED, EMPTY, None, DESTROYED)
    elif case.token is None or case.token.epoch != old.epoch:
        assert new == old  # no write crosses an epoch
    else:
        assert new is not None
        assert new.reason is None
        starts_empty = action.subject is not None and old.subject not in (None, action.subject)
        assert keys(new) == (own if starts_empty else keys(old) | own)
        assert new.subject == (action.subject or old.subject)
        if action.renews:
            assert new.epoch not in (old.epoch, ENDED)
            assert new.generation == 0
        else:
            minted = old.generation == case.token.generation
            assert (new.epoch, new.generation) == (old.epoch, old.generation + minted)


def _check_outcome(case: Case, action: Action, rotation: Rotation, answer: Owed, after: Renewing) -> None:
    """What is sent once all calls are done."""
    token, record = case.token, after.document(case.token)
    named = after.document(answer) if isinstance(answer, Token) else None
    goes_on = isinstance(answer, Token) and token is not None and answer.sid == token.sid
    if isinstance(answer, Token):  # the database has just confirmed it
        assert named is not None
        assert answer.epoch == named.epoch
        if token is not None and goes_on and not action.renews:
            assert answer.epoch == token.epoch
            assert named.generation == token.generation + max(1, case.behind)
            assert answer.generation == token.generation + (case.behind if case.behind >= rotation.window else 1)
        else:
            assert answer.generation == named.generation == 0
    if action.subject is not None:  # no log-in is lost
        assert named is not None
        assert named.subject == action.subject
    elif action.destroys:  # no log-out is lost, nothing else deletes a cookie
        assert token is None or (record is not None and record.epoch == ENDED)
    else:
        assert answer != "removal"
        overruled = token is not None and (record is None or record.epoch != token.epoch or case.verdict not in OPENS)
        assert answer is None or not overruled or (action.renews and goes_on)  # it sends nothing over a newer cookie


# The explorer does what the engine does.

_serving: ContextVar[int] = ContextVar("_serving")


class GatedStore(MemoryStore):
    """A store whose calls wait until the test lets them through.

    Attributes:
        gates: request -> the call at which it waits.
        progress: has an item more whenever a request has come to a call or to its end.
    """

    waits = True

    def __init__(self) -> None:
        super().__init__()
        self.gates: dict[int, asyncio.Future[None]] = {}
        self.progress: asyncio.Queue[None] = asyncio.Queue()

    async def open_gate(self, request: int) -> None:
        """Let one call of a request through, and see it to the next or to its end."""
        self.gates.pop(request).set_result(None)
        await self.progress.get()

    async def load(self, id: bytes) -> Record | None:
        await self._wait()
        return await super().load(id)

    async def create(self, record: Record) -> None:
        await self._wait()
        await super().create(record)

    async def update(
        self, id: bytes, changes: Changes, *, epoch: int | None = None, subject: str | None = None
    ) -> Stamp | bool:
        await self._wait()
        return await super().update(id, changes, epoch=epoch, subject=subject)

    async def _wait(self) -> None:
        gate = self.gates[_serving.get()] = asyncio.get_running_loop().create_future()
        self.progress.put_nowait(None)
        await gate


class RealThing:
    """A browser, an engine and a store that take the same steps as the explorer's.

    Args:
        actions: what each request does.
        rotation: the rules.
        record: the session that there is, or None.
        jar: the cookie that the browser holds at first, or None.
    """

    def __init__(
        self, actions: tuple[Action, ...], rotation: Rotation, record: Record | None, jar: Token | None
    ) -> None:
        chance = [drawn(index) for index in range(len(actions))]

        def draw(size: int) -> bytes:
            return chance[_serving.get()](size)

        self.actions = actions
        self.clock = HandClock(NOW)
        self.store = GatedStore()
        self.engine = SessionEngine(
            self.store,
            keys=["k" * 32],
            rotation=rotation,
            clock=self.clock,
            random=draw,
        )
        self.browser = Browser(self.engine, self.clock)
        self.codec = TokenCodec(KeyRing(["k" * 32]), self.engine.cookie.name)
        self.exchanges: dict[int, Exchange] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.record = record
        if jar is not None:
            self.browser.jar.receive([("Set-Cookie", f"__Host-session={self.codec.write(jar)}; Path=/; Secure")])

    async def begin(self) -> None:
        """Store the session that there is."""
        if self.record is not None:
            await MemoryStore.create(self.store, self.record)

    async def take(self, deed: Deed) -> None:
        """One step. More than any ttl passes before it, and all of them together are less than the lateness."""
        self.clock.advance(6)
        index = deed.request
        if deed.step == "leaves":
            self.exchanges[index] = self.browser.send()
        elif deed.step == "looked up":
            task = self.tasks[index] = asyncio.create_task(self._serve(index))
            task.add_done_callback(lambda _: self.store.progress.put_nowait(None))
            await self.store.progress.get()
            if self.exchanges[index].cookie is not None:
                await self.store.open_gate(index)
        elif deed.step == "carried out":
            await self.store.open_gate(index)
        else:
            self.exchanges[index].deliver()

    async def _serve(self, index: int) -> None:
        _serving.set(index)
        exchange = self.exchanges[index]
        self.actions[index].handle(await exchange.open(), own_key(index))
        await exchange.answer()

    async def agree(self, deed: Deed, state: Renewing) -> None:
        """After the step everything is as in the explorer's state, but for the times."""
        for each in state.documents:
            stored = await MemoryStore.load(self.store, each.id)
            assert stored is not None
            assert _without_times(stored) == _without_times(each)
        alive = {each.id for each in state.documents if each.epoch != ENDED}
        assert {each.id async for each in self.store.find()} == alive
        assert self._token(self.browser.jar.header()) == _name(state.jar)
        request = state.requests[deed.request]
        assert (deed.request in self.store.gates) is (request.stage == "looked up")
        if deed.step in ("looked up", "carried out") and request.stage != "looked up":
            self.tasks[deed.request].result()
            cookies = [line for field, line in self.exchanges[deed.request].headers if field == "Set-Cookie"]
            assert len(cookies) == (request.answer is not None)
            for line in cookies:
                assert isinstance(request.answer, Token) is ("Max-Age=0" not in line)
                assert self._token(line) == _name(request.answer)

    def _token(self, header: str | None) -> tuple[bytes, int, int] | None:
        values = read(header, self.engine.cookie.name)
        presented = self.codec.read(values[0], self.clock()) if values else None
        return None if presented is None else _name(presented.token)


def _name(answer: Owed) -> tuple[bytes, int, int] | None:
    return (answer.sid, answer.epoch, answer.generation) if isinstance(answer, Token) else None


def _without_times(record: Record) -> Record:
    return record._replace(created_at=0, renewed_at=0, rotated_at=0, seen_at=0, expires_at=0)


@pytest.mark.parametrize("seed", range(10))
async def test_the_engine_takes_the_steps_of_the_explorer(seed: int) -> None:
    """One request runs until it is held up at random: so some are overtaken by all the others together."""
    chance = random.Random(seed)
    for _ in range(50):
        actions = tuple(chance.choices(list(NAMES), k=2)) + tuple(chance.choices([READ, WRITE], k=3))
        rotation = chance.choice([STRICT, DEFAULT])
        jar = chance.choice([None, JAR, JAR])
        record = None if jar is None else document(SID, EPOCH, chance.choice([None, "ann"]))
        search = renewals(actions, rotation, document=record, jar=jar)
        real = RealThing(actions, rotation, record, jar)
        await real.begin()
        state, order, hold_up = search.start, list(range(5)), chance.choice([0.1, 0.3, 0.6])
        chance.shuffle(order)
        while moves := list(search.moves(state)):
            deed, state = min(moves, key=lambda move: order.index(move[0].request))
            if chance.random() < hold_up:
                order.append(order.pop(order.index(deed.request)))
            await real.take(deed)
            await real.agree(deed, state)
