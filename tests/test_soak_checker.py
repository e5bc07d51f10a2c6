"""The judge of histories: it accepts whatever the engine really does, and rejects every broken promise by name."""

import asyncio
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mongosession import Rotation, StoreUnavailable, Verdict
from mongosession.keys import KeyRing
from mongosession.testing import Exchange
from mongosession.tokens import Token, TokenCodec
from soak.checker import Breach, Rule, describe, judge, losses, main
from soak.history import Kind, Operation, Outcome, dump, keep, load

from .world import KEY, World, lost

ROTATION = Rotation(ttl=1, window=3, grace=4)
SERVED = {Verdict.CURRENT, Verdict.DUE, Verdict.BEHIND, Verdict.AHEAD, Verdict.ANONYMOUS}


@dataclass(eq=False)
class Request:
    """What a browser has asked."""

    exchange: Exchange
    kind: Kind
    key: str
    value: int | str | None
    started: float
    presented: Token | None
    answered: bool = False


class Story:
    """One browser, its requests overtaking each other, and what it recorded. Its time is a count of moves."""

    def __init__(self) -> None:
        self.world = World(rotation=ROTATION)
        self.codec = TokenCodec(KeyRing([KEY]), self.world.engine.cookie.name)
        self.history: list[Operation] = []
        self.under_way: list[Request] = []
        self.moves = 0

    async def move(self, what: str, choice: int) -> None:
        """Go on by one step: send a request, take one a step further, lose its answer, let time pass."""
        self.moves += 1
        if what == "send":
            self.send(choice)
        elif what == "advance":
            self.world.clock.advance(choice % 3)
        elif what == "roll back":
            await self.roll_back()
        elif self.under_way:
            await self.step(self.under_way[choice % len(self.under_way)], what)

    def send(self, choice: int) -> None:
        kinds: tuple[Kind, ...] = ("read", "write", "increment", "read", "write", "increment", "read", "begin", "end")
        kind = kinds[choice % len(kinds)]
        key = {"write": "color", "increment": "hits"}.get(kind, ("color", "hits")[choice % 2])
        values: dict[str, int | str] = {"write": f"text {self.moves}", "increment": choice}
        exchange = self.world.browser.send()
        self.under_way.append(Request(exchange, kind, key, values.get(kind), self.moves, self.token(exchange.cookie)))

    async def step(self, request: Request, how: str) -> None:
        """It is opened; or handled and answered; or its answer comes, or is lost."""
        session = request.exchange.session
        if session is None:
            await request.exchange.open()
        elif request.answered:
            self.under_way.remove(request)
            if how != "lose":
                request.exchange.deliver()
            self.take_down(request, "unknown" if how == "lose" else "ok")
        else:
            self.handle(request)
            self.world.store.around = lost if how == "lose" else self.world.store.around
            try:
                await request.exchange.answer()
                request.answered = True
            except StoreUnavailable:
                self.under_way.remove(request)
                self.take_down(request, "unknown")
            self.world.recover()

    def handle(self, request: Request) -> None:
        session = request.exchange.session
        assert session is not None
        if request.kind == "begin":
            session.renew(subject="user")
        elif request.kind == "end":
            session.destroy()
        elif session.verdict in SERVED and request.kind == "write":
            session[request.key] = request.value
        elif session.verdict in SERVED and isinstance(request.value, int):
            session.increment(request.key, request.value)

    def take_down(self, request: Request, outcome: Outcome) -> None:
        """What the browser knows once its request is over."""
        session, presented = request.exchange.session, request.presented
        assert session is not None
        ended = float(self.moves) if outcome == "ok" else None
        line = next((line for name, line in request.exchange.headers if name == "Set-Cookie"), None)
        given = self.token(line) if ended else None
        served = session.verdict in SERVED
        before = self.name(presented)
        name = before or self.name(given)
        if request.kind == "begin":
            name = self.name(given) or f"never known {self.moves}"
            self.record(name, request, before if served else None, ended, outcome)
        elif name is not None and request.kind == "end":
            self.record(name, request, None, ended, outcome)
        elif name is not None and not served:
            self.record(name, request, request.value, self.moves, "refused")
        elif name is not None:
            value = session.get(request.key) if request.kind == "read" else request.value
            self.record(name, request, value, ended, outcome)
        if name is not None and given is not None:
            token = Operation(name, "token", "", given.generation, request.started, ended, "ok")
            self.history.append(token)

    def record(
        self, name: str, request: Request, value: int | str | None, ended: float | None, outcome: Outcome
    ) -> None:
        key = "" if request.kind in ("begin", "end") else request.key
        self.history.append(Operation(name, request.kind, key, value, request.started, ended, outcome))

    async def roll_back(self) -> None:
        """A failover takes back the last rotation."""
        for record in (await self.world.everything()).values():
            if record.generation > 0 and record.reason is None:
                await self.world.manipulate(record.id.hex(), generation=record.generation - 1)

    def token(self, line: str | None) -> Token | None:
        text = "" if line is None else line.partition(";")[0].partition("=")[2]
        presented = self.codec.read(text, self.world.clock())
        return None if presented is None else presented.token

    def name(self, token: Token | None) -> str | None:
        return None if token is None else f"{token.sid.hex()[:6]}.{token.epoch}"


MOVES = st.tuples(
    st.sampled_from(["send", "send", "step", "step", "step", "lose", "advance", "advance", "roll back"]),
    st.integers(0, 11),
)


def recorded(moves: Iterable[tuple[str, int]]) -> list[Operation]:
    """What a browser recorded of the engine's answers."""

    async def play() -> list[Operation]:
        story = Story()
        for what, choice in moves:
            await story.move(what, choice)
        while story.under_way:
            await story.move("step", 0)
        return story.history

    return asyncio.run(play())


HISTORIES = st.lists(MOVES, min_size=20, max_size=120).map(recorded)


@given(HISTORIES)
def test_whatever_the_engine_does_is_accepted(history: list[Operation]) -> None:
    assert not judge(history, accepted=ROTATION.accepted)


@given(HISTORIES, st.data())
def test_a_write_that_was_read_cannot_be_left_out(history: list[Operation], data: st.DataObject) -> None:
    reads = [each for each in history if each.kind == "read" and each.outcome == "ok" and isinstance(each.value, str)]
    read = data.draw(st.sampled_from(reads)) if reads else None
    mutated = [each for each in history if read is None or (each.kind, each.value) != ("write", read.value)]
    assert [each for each in found(mutated, Rule.FOREIGN) if each == read] == [each for each in reads if each is read]


# A visitor stores something, logs in, goes on, logs out, and comes back with each of the two old cookies.
QUIET = {
    "first token": Operation("b1", "token", "", 0, 0, 1, "ok"),
    "first write": Operation("b1", "write", "color", "b1 red", 2, 3, "ok"),
    "failed write": Operation("b1", "write", "color", "b1 grey", 4, 5, "failed"),
    "second token": Operation("b1", "token", "", 1, 4, 5, "ok"),
    "early read": Operation("b1", "read", "color", "b1 red", 4, 5, "ok"),
    "second write": Operation("b1", "write", "color", "b1 blue", 6, 7, "ok"),
    "unknown write": Operation("b1", "write", "shape", "b1 round", 6, None, "unknown"),
    "read": Operation("b1", "read", "color", "b1 blue", 8, 9, "ok"),
    "increment": Operation("b1", "increment", "hits", 3, 8, 9, "ok"),
    "another increment": Operation("b1", "increment", "hits", 4, 8, 9, "ok"),
    "unknown increment": Operation("b1", "increment", "hits", 50, 8, None, "unknown"),
    "sum": Operation("b1", "read", "hits", 7, 10, 11, "ok"),
    "third token": Operation("b1", "token", "", 2, 10, 11, "ok"),
    "log-in": Operation("b2", "begin", "", "b1", 12, 13, "ok"),
    "token of the log-in": Operation("b2", "token", "", 0, 12, 13, "ok"),
    "read after the log-in": Operation("b2", "read", "color", "b1 blue", 14, 15, "ok"),
    "sum after the log-in": Operation("b2", "read", "hits", 57, 14, 15, "ok"),
    "write after the log-in": Operation("b2", "write", "color", "b2 green", 16, 17, "ok"),
    "last read": Operation("b2", "read", "color", "b2 green", 18, 19, "ok"),
    "write too late": Operation("b2", "write", "color", "b2 late", 20, 22, "ok"),
    "log-out": Operation("b2", "end", "", None, 20, 23, "ok"),
    "straggler": Operation("b2", "read", "color", "b2 green", 21, 25, "ok"),
    "read after the end": Operation("b2", "read", "color", None, 24, 25, "refused"),
    "read with the visitor's cookie": Operation("b1", "read", "color", None, 24, 25, "refused"),
    "another's write": Operation("c1", "write", "color", "c1 white", 2, 3, "ok"),
}

BROKEN: dict[str, tuple[str, dict[str, Any], Rule]] = {
    "a write is lost, the one before it shows": ("read", {"value": "b1 red"}, Rule.LOST),
    "a write is lost, nothing shows": ("read", {"value": None}, Rule.LOST),
    "a write is lost by the log-in": ("read after the log-in", {"value": None}, Rule.LOST),
    "a write after the log-in is lost": ("last read", {"value": "b1 blue"}, Rule.LOST),
    "an increment is lost": ("sum", {"value": 4}, Rule.MISCOUNTED),
    "all increments are lost": ("sum", {"value": None}, Rule.MISCOUNTED),
    "an increment counts twice": ("sum", {"value": 61}, Rule.MISCOUNTED),
    "an increment is lost by the log-in": ("sum after the log-in", {"value": 4}, Rule.MISCOUNTED),
    "a generation goes back": ("third token", {"value": 0}, Rule.REVERTED),
    "a generation is skipped": ("third token", {"value": 3}, Rule.SKIPPED),
    "a log-out is undone": ("read after the end", {"value": "b2 green", "outcome": "ok"}, Rule.RESURRECTED),
    "an old cookie lives": ("read with the visitor's cookie", {"value": "b1 blue", "outcome": "ok"}, Rule.RESURRECTED),
    "an ended session gets a token": ("straggler", {"kind": "token", "value": 1, "started": 24}, Rule.RESURRECTED),
    "a session is forgotten": ("read", {"value": None, "outcome": "refused"}, Rule.REFUSED),
    "the log-in is forgotten": ("last read", {"value": None, "outcome": "refused"}, Rule.REFUSED),
    "another's value shows": ("read", {"value": "c1 white"}, Rule.FOREIGN),
    "nobody's value shows": ("read", {"value": "who knows"}, Rule.FOREIGN),
    "a number shows that nobody wrote": ("read", {"value": 1}, Rule.FOREIGN),
    "a text shows as a sum": ("sum", {"value": "seven"}, Rule.FOREIGN),
    "a later log-in's value shows": ("read", {"value": "b2 green"}, Rule.FOREIGN),
    "a write shows before it was sent": ("early read", {"value": "b1 blue"}, Rule.FOREIGN),
    "a write that failed shows": ("read", {"value": "b1 grey"}, Rule.FOREIGN),
}


def found(history: Iterable[Operation], rule: Rule) -> list[Operation]:
    """The operations that show this rule broken, and are named."""
    breaches = [breach for breach in judge(history, accepted=ROTATION.accepted) if breach.rule is rule]
    assert all(describe(breach.operation) in breach.message for breach in breaches)
    return [breach.operation for breach in breaches]


@pytest.mark.parametrize("what", BROKEN)
@settings(max_examples=5)
@given(history=HISTORIES)
def test_each_broken_promise_is_found_and_named(what: str, history: list[Operation]) -> None:
    name, changed, rule = BROKEN[what]
    mutated = QUIET | {name: QUIET[name]._replace(**changed)}
    assert found([*history, *mutated.values()], rule) == [mutated[name]]


def test_the_quiet_story_is_accepted() -> None:
    assert not judge(QUIET.values())


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("sum", {"value": 57}),  # the unknown increment has happened
        ("read", {"started": 6.5}),  # overlaps the write
        ("read", {"started": 6.5, "value": "b1 red"}),
        ("write too late", {"value": "b2 green"}),
        ("third token", {"value": 1}),  # the same again, under the primary key
        ("straggler", {"outcome": "refused"}),
        ("read after the end", {"started": 22}),
        ("read after the log-in", {"key": "shape", "value": "b1 round"}),
        ("read after the log-in", {"key": "shape", "value": None}),
        ("log-out", {"outcome": "unknown", "ended": None}),
    ],
)
def test_what_may_be_is_accepted(name: str, changed: dict[str, Any]) -> None:
    assert not judge((QUIET | {name: QUIET[name]._replace(**changed)}).values())


def test_a_log_in_that_lost_against_another_may_start_with_nothing() -> None:
    other = Operation("never known", "begin", "", "b1", 12, None, "unknown")
    read, total = (QUIET[name]._replace(value=None) for name in ("read after the log-in", "sum after the log-in"))
    assert not judge([*(QUIET | {"read after the log-in": read, "sum after the log-in": total}).values(), other])


def test_a_log_out_by_an_old_cookie_ends_what_came_of_it() -> None:
    end = Operation("b1", "end", "", None, 12.5, 14.5, "ok")
    assert not judge([*QUIET.values(), QUIET["last read"]._replace(value=None, outcome="refused"), end])
    early = end._replace(started=10, ended=11)  # before the log-in, which then began anew
    refused = QUIET["last read"]._replace(value=None, outcome="refused")
    assert found([*QUIET.values(), refused, early], Rule.REFUSED) == [refused]


def test_a_primary_that_was_cut_off_may_answer_from_the_past() -> None:
    stale: dict[str, dict[str, Any]] = {
        "read": {"value": "b1 red"},
        "sum": {"value": 3},
        "read after the end": {"value": "b2 green", "outcome": "ok"},
        "read after the log-in": {"value": None, "outcome": "refused"},
    }
    for name, changed in stale.items():
        mutated = (QUIET | {name: QUIET[name]._replace(**changed)}).values()
        assert judge(mutated)
        assert not judge(mutated, stale=5)
    assert judge((QUIET | {"last read": QUIET["last read"]._replace(value="b1 red")}).values(), stale=5)


def test_who_is_overtaken_by_too_many_tokens_is_refused_and_may_end_the_session() -> None:
    tokens = [Operation("b1", "token", "", n, 2 * n, 2 * n + 1, "ok") for n in range(6)]
    straggler = Operation("b1", "read", "color", None, 1.5, 12, "refused")
    after = Operation("b1", "read", "color", None, 13, 14, "refused")
    assert not judge([*tokens, straggler, after], accepted=6)
    assert found([*tokens, straggler, after], Rule.REFUSED) == []
    assert [breach.operation for breach in judge([*tokens, straggler, after], accepted=7)] == [straggler]


def test_a_history_that_is_none_is_refused() -> None:
    both = Operation("b1", "write", "hits", 1, 1, 2, "ok")
    with pytest.raises(ValueError, match="hits is written and incremented"):
        judge([*QUIET.values(), both])
    with pytest.raises(ValueError, match="cannot take over itself"):
        judge([*QUIET.values(), Operation("b1", "begin", "", "b2", 14, 15, "ok")])


def test_losses_are_counted_by_their_names() -> None:
    read = QUIET["read"]
    counts = losses([Breach(Rule.LOST, read, ""), Breach(Rule.LOST, read, "")])
    assert counts == {rule: 2 if rule is Rule.LOST else 0 for rule in Rule}
    assert all(type(name) is str for name in counts)


def test_a_history_survives_its_file(tmp_path: Path) -> None:
    operations = sorted(QUIET.values(), key=lambda each: each.started)
    dump(operations[::2], tmp_path / "one")
    dump(operations[1::2], tmp_path / "two")
    assert sorted(load(tmp_path / "one", tmp_path / "two"), key=str) == sorted(operations, key=str)


def test_of_each_part_the_last_history_is_kept(tmp_path: Path) -> None:
    keep(QUIET.values(), "faults", tmp_path / "new")
    path = keep([QUIET["read"]], "faults", tmp_path / "new")
    assert list(load(path)) == [QUIET["read"]]


def test_kept_histories_can_be_judged_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = keep(QUIET.values(), "good", tmp_path)
    foreign = QUIET["read"]._replace(value="nobody's")
    bad = keep([*QUIET.values(), foreign], "bad", tmp_path)
    monkeypatch.setattr(sys, "argv", ["checker", str(good)])
    assert main() == 0
    monkeypatch.setattr(sys, "argv", ["checker", str(good), str(bad)])
    assert main() == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == said[1] == f"{good}: {len(QUIET)} operations, 0 breaches"
    assert said[2] == f"{bad}: {len(QUIET) + 1} operations, 1 breaches"
    assert said[3].startswith(f"  {Rule.FOREIGN}: ")
