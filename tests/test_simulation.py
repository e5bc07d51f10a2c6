"""The protocol over hours of use: whom it refuses, and which thief it notices.

The seeds are fixed, so every figure is the same each time. ``docs/simulation.md`` tells what the figures mean.
"""

import random
from collections.abc import Sequence
from statistics import mean
from typing import Any

import pytest

from mongosession import Cookie, MemoryStore, Rotation, SessionEngine, Verdict
from mongosession.keys import KeyRing
from mongosession.session import Session
from mongosession.testing import CountingStore, HandClock, seeded
from mongosession.tokens import Token, TokenCodec

from .simulation import (
    CAREFUL_THIEVES,
    COMPARED,
    DAYBREAK,
    DAYS,
    HONEST,
    OVER_GRACE,
    PROTOCOL,
    THIEVES,
    OneProcess,
    Outcome,
    Sent,
    Server,
    Situation,
    Thief,
    simulate,
)

KEYS = ["k" * 32]
CODEC = TokenCodec(KeyRing(KEYS), Cookie().name)

RULES = {name: rotation for name, (rotation, _) in PROTOCOL.items()}

AFTER_A_COPY = Thief(3, pause=600)


def noticed(outcomes: Sequence[Outcome]) -> float:
    """Share of the sessions that were revoked."""
    return mean(outcome.revoked is not None for outcome in outcomes)


def minutes(outcomes: Sequence[Outcome]) -> float:
    """From the copy to the revocation, on average."""
    return mean(outcome.revoked for outcome in outcomes if outcome.revoked is not None) / 60


# ----------------------------------------------------------------------------------------- the server that is simulated


@pytest.mark.parametrize("kind", [Server, OneProcess])
@pytest.mark.parametrize("seed", range(5))
async def test_the_simulated_server_agrees_with_the_engine(seed: int, kind: type[Server]) -> None:
    """One schedule for both, call by call: the same verdicts, data and cookies, and as many commands."""
    chance = random.Random(seed)
    rotation = Rotation(ttl=3, grace=24, on_copied="revoke" if seed % 2 else "refuse")  # K is 9
    clock = HandClock(DAYBREAK)
    store = CountingStore(MemoryStore())
    draw = seeded(seed)

    def started() -> SessionEngine:
        return SessionEngine(store, keys=KEYS, rotation=rotation, clock=clock, random=draw)

    one = started()
    server = kind(rotation, seeded(seed))
    jars: list[Token | None] = [None, None]  # a browser's and a thief's
    under_way: list[tuple[int, SessionEngine, Session, Session]] = []
    verdicts: set[Verdict] = set()
    for step in range(3000):
        clock.advance(8000 if chance.random() < 0.001 else chance.choice([0, 0.3, 3, 9]))
        if not under_way or (len(under_way) < 12 and chance.random() < 0.5):
            who = int(chance.random() < 0.1)
            if chance.random() < 0.01:
                jars[1] = jars[0]
            how: dict[str, Any] = {"tokens": chance.random() < 0.9, "large_body": chance.random() < 0.2}
            engine = one if kind is OneProcess else started()
            real = await engine.open(header(jars[who]), **how)
            simulated = server.open(jars[who], clock(), **how)
            assert told(simulated) == told(real)
            verdicts.add(real.verdict)
            under_way.append((who, engine, real, simulated))
        else:
            who, engine, real, simulated = under_way.pop(chance.randrange(len(under_way)))
            use(real, step, seed)
            use(simulated, step, seed)
            answer = sent(await engine.commit(real), clock())
            assert server.commit(simulated, clock()) == answer
            if answer is not None and chance.random() < 0.8:
                jars[who] = answer.token
    calls = store.take()
    assert (server.reads, server.writes) == (calls.count("load"), calls.count("create") + calls.count("update"))
    assert verdicts == set(Verdict) - {Verdict.INVALID, Verdict.AHEAD, Verdict.UNAVAILABLE}
    assert server.fell_back > 0
    assert (server.revoked > 0) == (rotation.on_copied == "revoke")


def header(token: Token | None) -> str | None:
    """The Cookie header that presents a token."""
    return None if token is None else f"{Cookie().name}={CODEC.write(token)}"


def sent(headers: list[tuple[str, str]], now: float) -> Sent | None:
    """The Set-Cookie among a response's headers."""
    for field, line in headers:
        if field == "Set-Cookie":
            presented = CODEC.read(line.partition(";")[0].partition("=")[2], now)
            return Sent(None if presented is None else presented.token)
    return None


def told(session: Session) -> tuple[object, ...]:
    """What a session says of itself."""
    return session.verdict, session.id, session.subject, session.late, session.expires_at, session.copy()


def use(session: Session, step: int, seed: int) -> None:
    """What a handler does: the same to either session."""
    chance = random.Random(step * 1000 + seed)
    drawn = chance.random()
    if drawn < 0.2:
        session["seen"] = step
    elif drawn < 0.3:
        session.increment("hits")
    elif drawn < 0.305:
        session.renew(subject=chance.choice(["user:1", "user:2"]))
    elif drawn < 0.306:
        session.destroy()


# ------------------------------------------------------------------------------------------------------ honest browsers


@pytest.mark.parametrize("server", [Server, OneProcess])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", HONEST)
def test_an_honest_browser_is_never_refused(name: str, rule: str, server: type[Server]) -> None:
    for outcome in simulate(HONEST[name], RULES[rule], runs=1, name=name, server=server):
        assert (outcome.refused, outcome.revoked) == (0, None)
        assert outcome.requests > 400


def test_what_is_late_by_more_than_grace_may_be_taken_for_a_copy() -> None:
    for name, situation in OVER_GRACE.items():
        assert noticed(simulate(situation, RULES["5 s"], runs=5, name=name)) <= 0.2
        assert noticed(simulate(situation, RULES["60 s"], runs=3, name=name)) == 0


@pytest.mark.parametrize(
    ("answer", "request_", "verdict"),
    [(30, 30, Verdict.BEHIND), (55, 5, Verdict.BEHIND), (55, 10, Verdict.COPIED), (40, 25, Verdict.COPIED)],
)
def test_two_late_messages_in_a_row_are_forgiven_up_to_grace(answer: float, request_: float, verdict: Verdict) -> None:
    """The shortest schedule that ends an honest session. An answer with a new token takes `answer` seconds; it throws
    the jar back, and the request that leaves at once takes `request_` seconds. Others rotate every ttl meanwhile."""
    server, newest = logged_in(Rotation())
    oldest: Token | None = None
    for second in range(5, 5 + int(answer + request_) + 1, 5):
        newest = turn(server, newest, second)
        oldest = oldest or newest
    session = server.open(oldest, DAYBREAK + 5 + answer + request_)
    assert session.verdict is verdict
    assert session.is_new == (verdict is Verdict.COPIED)


def test_a_step_may_hand_out_a_token_that_is_old_already() -> None:
    """No message takes more than 25 s here, no two more than 50 s, and still K = 4 newer tokens overtake a request:
    the one that it carries was two generations old when it was sent. So a ttl of 20 to 40 s asks for a larger grace."""
    server, token = logged_in(Rotation(ttl=20))
    first = turn(
        server, token, 20
    )  # two answers of one page bring it: one at once, one at 45 s, which throws the jar back
    second = turn(server, first, 40)
    newest = turn(server, second, 60)  # left at 44 s
    step = turn(server, first, 85)  # left at 60 s, and is answered at 110 s, with
    assert step == second
    for now in (86, 106, 126):  # each left while the jar held the newest
        newest = turn(server, newest, now)
    assert newest.generation - step.generation == 4
    assert server.open(step, DAYBREAK + 135).verdict is Verdict.COPIED  # left at 110 s


def logged_in(rotation: Rotation) -> tuple[Server, Token]:
    """A server and the first token of a session."""
    server = Server(rotation, seeded(1))
    session = server.open(None, DAYBREAK)
    session.renew(subject="user:1")
    answer = server.commit(session, DAYBREAK)
    assert answer is not None
    assert answer.token is not None
    return server, answer.token


def turn(server: Server, token: Token, second: float) -> Token:
    """A request at that second, which is answered with a newer token."""
    answer = server.commit(server.open(token, DAYBREAK + second), DAYBREAK + second)
    assert answer is not None
    assert answer.token is not None
    return answer.token


@pytest.mark.parametrize("name", ["browser killed, jar 25 s old", "40 % of answers lost"])
def test_other_rules_do_refuse_honest_browsers(name: str) -> None:
    """What the zeros above are worth: the same hours, under the rules compared with."""
    rotation, careless = COMPARED["careless, `refuse`"]
    outcomes = simulate(HONEST[name], rotation, runs=2, name=name, server=careless)
    assert sum(outcome.refused for outcome in outcomes) > 0.2 * sum(outcome.requests for outcome in outcomes)
    rotation, careless = COMPARED["careless, older than 3 = theft"]
    assert noticed(simulate(HONEST[name], rotation, runs=2, name=name, server=careless)) > 0.5


# -------------------------------------------------------------------------------------------------------------- thieves


@pytest.mark.parametrize(
    ("name", "rule", "at_least", "at_most", "after"),
    [
        ("thief polls every 3 s", "5 s", 0, 0, None),
        ("thief polls every 20 s", "5 s", 0.4, 1, None),
        ("thief polls every 60 s", "5 s", 0.9, 1, (2, 7)),
        ("thief polls every 3 s", "60 s", 0.9, 1, (3, 8)),
        ("thief polls every 20 s", "60 s", 1, 1, (2, 5)),
        ("thief polls every 60 s", "60 s", 1, 1, (2, 6)),
        ("thief uses the copy while the victim pauses", "5 s", 1, 1, (10, 10.1)),
        ("thief uses the copy while the victim pauses", "60 s", 1, 1, (10, 10.1)),
    ],
)
def test_which_thief_is_noticed(
    name: str, rule: str, at_least: float, at_most: float, after: tuple[float, float] | None
) -> None:
    outcomes = simulate(THIEVES[name], RULES[rule], runs=6, name=name)
    assert at_least <= noticed(outcomes) <= at_most
    if after is not None:
        assert after[0] <= minutes(outcomes) <= after[1]
    if "pauses" in name:
        assert {outcome.betrayed for outcome in outcomes} == {"victim"}


def test_a_thief_who_keeps_up_is_not_noticed_while_tokens_are_forgiven() -> None:
    """K is 13 and the window 3: whoever is 3 to 12 behind is given the newest token. Regular requests suffice then,
    and an event each is all that is seen of them. With a window of K he falls behind for good."""
    regular = CAREFUL_THIEVES["thief polls every 20 s to the second"]
    unnoticed = simulate(regular, Rotation(), runs=3, name="regular")
    assert noticed(unnoticed) == 0
    assert min(outcome.fell_back for outcome in unnoticed) > 20
    assert noticed(simulate(regular, Rotation(window=13), runs=3, name="regular")) == 1


def test_a_thief_of_large_bodies_is_locked_out_unnoticed() -> None:
    for outcome in simulate(Situation(thief=Thief(60, large_body=True)), RULES["60 s"], runs=3, name="large"):
        assert (outcome.revoked, outcome.refused) == (None, 0)
        assert outcome.thief_served < 10
        assert outcome.thief_served_last < 3000


# ---------------------------------------------------------------------------------------------------- unusual customers


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dropped", [1.0, 0.8])
def test_a_back_end_that_drops_cookies_is_never_refused(dropped: float, rule: str) -> None:
    for outcome in simulate(Situation(lost=dropped, stores=0), RULES[rule], runs=2, name="back end"):
        assert (outcome.refused, outcome.revoked) == (0, None)
        second_reads = outcome.reads - outcome.requests
        if dropped == 1:  # one behind for ever: a second read each time
            assert second_reads > 0.95 * outcome.requests
        else:
            assert second_reads < 0.5 * outcome.requests


@pytest.mark.parametrize("rule", RULES)
def test_with_its_switch_a_back_end_costs_one_command_a_request(rule: str) -> None:
    for outcome in simulate(Situation(lost=1, stores=0, tokens=False), RULES[rule], runs=2, name="switch"):
        assert (outcome.refused, outcome.revoked) == (0, None)
        assert outcome.reads == outcome.requests
        # The creation, and a touch by each request of the pages that are the first after a tenth of the idle timeout:
        # no two of them come to the same process.
        assert 1 + 4 <= outcome.writes <= 1 + 4 * 6


def test_a_thief_beside_a_client_of_large_bodies_is_noticed() -> None:
    for every in (20, 60):
        outcomes = simulate(Situation(large_body=True, thief=Thief(every)), RULES["60 s"], runs=3, name="posts")
        assert noticed(outcomes) == 1
        assert {outcome.betrayed for outcome in outcomes} == {"thief"}  # its own tokens are late, never copied
        assert {outcome.refused for outcome in outcomes} == {0}


@pytest.mark.parametrize("rule", RULES)
def test_a_client_of_large_bodies_that_was_overtaken_logs_out_all_the_same(rule: str) -> None:
    """The thief overtook it in a pause: it is late from then on, and nobody notices. Its log-out counts even so."""
    overtaken = Situation(large_body=True, thief=AFTER_A_COPY, logs_out=3300)
    for outcome in simulate(overtaken, RULES[rule], runs=3, name="overtaken"):
        assert outcome.refused > 0
        assert (outcome.revoked, outcome.reason) == (None, "destroyed")


@pytest.mark.parametrize("rule", RULES)
def test_a_log_out_ends_a_thief_whom_nothing_betrays(rule: str) -> None:
    beside = Situation(large_body=True, thief=Thief(3, large_body=True), logs_out=2500)
    for outcome in simulate(beside, RULES[rule], runs=3, name="log-out"):
        assert (outcome.revoked, outcome.reason) == (None, "destroyed")
        assert outcome.thief_served > 0
        assert outcome.thief_served_last < 2501


# -------------------------------------------------------------------------------------------------------- the long runs


@pytest.mark.search
@pytest.mark.parametrize("server", [Server, OneProcess])
@pytest.mark.parametrize("rule", RULES)
def test_the_table_for_honest_browsers(rule: str, server: type[Server]) -> None:
    found = {
        name: refusals(simulate(situation, RULES[rule], runs=20, name=name, server=server))
        for name, situation in HONEST.items()
    }
    assert found == dict.fromkeys(HONEST, (0, 0))


@pytest.mark.search
def test_the_table_over_grace() -> None:
    """Given: 5 % of the hours. Of 600 of them, 10 %."""
    for name, situation in OVER_GRACE.items():
        assert 0.02 < noticed(simulate(situation, RULES["5 s"], runs=200, name=name)) < 0.16
        assert refusals(simulate(situation, RULES["60 s"], runs=200, name=name)) == (0, 0)


@pytest.mark.search
@pytest.mark.parametrize(
    ("name", "at_5", "at_60"),
    [
        ("thief polls every 3 s", 0, 1),
        ("thief polls every 20 s", 0.7, 1),
        ("thief polls every 60 s", 1, 1),
        ("thief uses the copy while the victim pauses", 1, 1),
    ],
)
def test_the_table_for_thieves(name: str, at_5: float, at_60: float) -> None:
    """The given figures, to ten points."""
    for rule, given in ("5 s", at_5), ("60 s", at_60):
        share = noticed(simulate(THIEVES[name], RULES[rule], runs=100, name=name))
        assert share == pytest.approx(given, abs=0.1), rule


@pytest.mark.search
@pytest.mark.parametrize("rule", RULES)
def test_the_rest_of_the_table(rule: str) -> None:
    """Careful thieves: those of large bodies and of short pauses are not noticed, whatever the ttl."""
    for name, situation in CAREFUL_THIEVES.items():
        share = noticed(simulate(situation, RULES[rule], runs=20, name=name))
        if "every 60 s with large bodies" in name or "pause of 1 min" in name or "only, pauses" in name:
            assert share == 0, name
        if "pause of 4 min" in name:
            assert share == 1, name


@pytest.mark.search
@pytest.mark.parametrize(
    ("name", "days", "at_5"), [("a page about every 12 s", 1000, 0.001), ("a page about every 3 s", 250, 0.03)]
)
def test_honest_days(name: str, days: int, at_5: float) -> None:
    """Given, of 1,000 days: none at 60 s, 1 at 5 s."""
    assert refusals(simulate(DAYS[name], RULES["60 s"], runs=days, name=name)) == (0, 0)
    assert noticed(simulate(DAYS[name], RULES["5 s"], runs=days, name=name)) <= at_5


def refusals(outcomes: Sequence[Outcome]) -> tuple[int, int]:
    """How many sessions were revoked, and how many requests refused."""
    return sum(outcome.revoked is not None for outcome in outcomes), sum(outcome.refused for outcome in outcomes)
