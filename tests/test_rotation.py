"""The verdicts, row by row, with the edges of every comparison."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mongosession.events import EventKind, Verdict
from mongosession.policy import Rotation, Timeouts
from mongosession.rotation import Judgement, expiry, judge
from mongosession.store import COPIED, DESTROYED, ENDED, REVOKED, Record
from mongosession.tokens import Token

from .building import EPOCH, GENERATION, NOW, a_record, a_token, fuzz

G = GENERATION
TTL, WINDOW, K = 5, 3, 13
LATENESS, IDLE, ABSOLUTE, DAY = 180, 7200, 30 * 86400, 86400
TICK = 0.001  # what BSON keeps of a second

OVERTAKEN = a_token(epoch=EPOCH + 1)
"""A token from before a renewal."""


def verdict(
    record: Record | None,
    token: Token | None = None,
    *,
    rotation: Rotation = Rotation(),  # noqa: B008  # frozen values
    timeouts: Timeouts = Timeouts(),  # noqa: B008
    large_body: bool = False,
) -> Judgement:
    return judge(token or a_token(), record, now=NOW, rotation=rotation, timeouts=timeouts, large_body=large_body)


def behind(d: int, *, age: float = 0, large_body: bool = False, rotation: Rotation = Rotation()) -> Judgement:  # noqa: B008
    """The judgement of a token `d` generations behind a document that was rotated `age` seconds ago."""
    record = a_record(rotated_at=NOW - age)
    return verdict(record, a_token(generation=G - d), rotation=rotation, large_body=large_body)


def test_the_settings_are_those_of_the_tests() -> None:
    assert (Rotation().ttl, Rotation().window, Rotation().accepted, Rotation().lateness) == (TTL, WINDOW, K, LATENESS)
    assert (Timeouts().idle, Timeouts().absolute) == (IDLE, ABSOLUTE)


# --------------------------------------------------------------------------------- no document, timed out, or revoked


def test_no_document() -> None:
    assert verdict(None) == Judgement(Verdict.ENDED, NOW)


@pytest.mark.parametrize(
    ("fields", "lives"),
    [
        ({"seen_at": NOW - IDLE + TICK}, True),
        ({"seen_at": NOW - IDLE}, False),
        ({"seen_at": NOW - IDLE - TICK}, False),
        ({"seen_at": NOW + 300}, True),  # seen by a server whose clock is five minutes ahead
        # An idle timeout of its own.
        ({"seen_at": NOW - 60 + TICK, "idle": 60}, True),
        ({"seen_at": NOW - 60, "idle": 60}, False),
        ({"seen_at": NOW - 60, "idle": 60.5}, True),
        # The absolute timeout, however active.
        ({"created_at": NOW - ABSOLUTE + TICK}, True),
        ({"created_at": NOW - ABSOLUTE}, False),
        ({"created_at": NOW - ABSOLUTE, "idle": 10 * ABSOLUTE}, False),
        # What the TTL index reads decides nothing.
        ({"expires_at": NOW - DAY}, True),
        ({"expires_at": NOW + DAY, "seen_at": NOW - IDLE}, False),
    ],
)
def test_timeouts(fields: dict[str, Any], lives: bool) -> None:
    expected = Verdict.CURRENT if lives else Verdict.ENDED
    assert verdict(a_record(**fields)) == Judgement(expected, NOW)


def test_a_session_past_its_time_is_ended_whatever_the_token() -> None:
    gone = a_record(seen_at=NOW - IDLE, renewed_at=NOW - 1)
    for token in (a_token(), OVERTAKEN, a_token(generation=G + 1), a_token(generation=0)):
        assert verdict(gone, token) == Judgement(Verdict.ENDED, NOW)


@pytest.mark.parametrize(
    ("timeouts", "fields", "expected"),
    [
        (Timeouts(), {}, NOW - 1 + IDLE),
        (Timeouts(), {"idle": 60.0}, NOW - 1 + 60),
        (Timeouts(), {"created_at": NOW - ABSOLUTE + 5}, NOW + 5),
        (Timeouts(idle=60, absolute=60), {"created_at": NOW - 50, "seen_at": NOW - 2}, NOW + 10),
    ],
)
def test_a_session_ends_at_the_earlier_of_its_timeouts(
    timeouts: Timeouts, fields: dict[str, Any], expected: float
) -> None:
    assert expiry(a_record(**fields), timeouts) == expected


@pytest.mark.parametrize("reason", [REVOKED, COPIED])
@pytest.mark.parametrize("epoch", [EPOCH, EPOCH + 1, ENDED])
def test_a_revoked_session_has_ended_at_once(reason: str, epoch: int) -> None:
    for renewed_at in (NOW, NOW - 1, NOW - LATENESS, NOW + 60):
        record = a_record(epoch=epoch, reason=reason, renewed_at=renewed_at)
        assert verdict(record) == Judgement(Verdict.ENDED, NOW)


# ------------------------------------------------------------------------------------------------------- another epoch


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (0, Verdict.LATE),
        (LATENESS - TICK, Verdict.LATE),
        (LATENESS, Verdict.ENDED),
        (LATENESS + TICK, Verdict.ENDED),
        (-120, Verdict.LATE),  # renewed by a server whose clock is ahead
    ],
)
@pytest.mark.parametrize("large_body", [False, True])
@pytest.mark.parametrize("generation", [0, G - K, G, G + 1, G + 100])
def test_a_token_from_before_a_renewal(age: float, expected: Verdict, generation: int, large_body: bool) -> None:
    renewed = a_record(renewed_at=NOW - age, rotated_at=NOW - age)
    token = OVERTAKEN._replace(generation=generation)
    assert verdict(renewed, token, large_body=large_body) == Judgement(expected, NOW)
    # After a log-out it is just the same: no token carries the last epoch.
    destroyed = renewed._replace(epoch=ENDED, reason=DESTROYED)
    assert verdict(destroyed, token, large_body=large_body) == Judgement(expected, NOW)


def test_lateness_grows_with_the_grace() -> None:
    rotation = Rotation(grace=600)
    assert verdict(a_record(renewed_at=NOW - 720 + TICK), OVERTAKEN, rotation=rotation).verdict is Verdict.LATE
    assert verdict(a_record(renewed_at=NOW - 720), OVERTAKEN, rotation=rotation).verdict is Verdict.ENDED


def test_epochs_have_no_order() -> None:
    for epoch in (0, EPOCH - 1, EPOCH + 1, 2**32 - 1):
        assert verdict(a_record(), a_token(epoch=epoch)).verdict is Verdict.LATE


# ------------------------------------------------------------------------------------------------ the newest, and newer


@pytest.mark.parametrize("ahead", [1, 2, 100])
@pytest.mark.parametrize("age", [0, TTL, 1000, -2 * DAY])
@pytest.mark.parametrize("large_body", [False, True])
def test_a_token_ahead_heals_the_document(ahead: int, age: float, large_body: bool) -> None:
    expected = Judgement(Verdict.AHEAD, NOW, behind=-ahead, mint=G + ahead)
    assert behind(-ahead, age=age, large_body=large_body) == expected


@pytest.mark.parametrize(
    ("age", "due"),
    [
        (0, False),
        (TTL - TICK, False),
        (TTL, True),
        (TTL + TICK, True),
        (IDLE - 1, True),
        (-1, False),  # rotated by a server whose clock is ahead
        (-300, False),
        (-DAY, False),
    ],
)
@pytest.mark.parametrize("large_body", [False, True])
def test_the_newest_token_is_rotated_from_ttl_on(age: float, due: bool, large_body: bool) -> None:
    expected = Judgement(Verdict.DUE, NOW, mint=G + 1, offer=G + 1) if due else Judgement(Verdict.CURRENT, NOW)
    assert behind(0, age=age, large_body=large_body) == expected


def test_a_rotation_more_than_a_day_ahead_is_set_plainly() -> None:
    expected = Judgement(Verdict.DUE, NOW, mint=G + 1, offer=G + 1, clock_broken=True)
    assert behind(0, age=-DAY - TICK) == behind(0, age=-10_000 * DAY) == expected


@pytest.mark.parametrize("age", [0, TTL, IDLE - 1, -2 * DAY])
def test_without_a_ttl_nothing_is_ever_due(age: float) -> None:
    never = Rotation(ttl=None)
    assert behind(0, age=age, rotation=never) == Judgement(Verdict.CURRENT, NOW)
    assert behind(1, age=age, rotation=never) == Judgement(Verdict.BEHIND, NOW, 1)
    # The window is all that opens it.
    assert behind(2, age=age, rotation=never) == Judgement(Verdict.BEHIND, NOW, 2)
    assert behind(3, age=age, rotation=never) == Judgement(Verdict.COPIED, NOW, 3)


# --------------------------------------------------------------------------------------------------------------- behind


@pytest.mark.parametrize("d", [1, WINDOW - 1])
def test_within_the_window_a_token_moves_one_step_once_that_is_due(d: int) -> None:
    assert behind(d, age=0) == Judgement(Verdict.BEHIND, NOW, d)
    assert behind(d, age=TTL - TICK) == Judgement(Verdict.BEHIND, NOW, d)
    # One step, wherever the document is: not to its newest. And the document does not move.
    assert behind(d, age=TTL) == Judgement(Verdict.BEHIND, NOW, d, offer=G - d + 1)
    assert behind(d, age=-DAY - TICK) == Judgement(Verdict.BEHIND, NOW, d, offer=G - d + 1)


@pytest.mark.parametrize("d", [WINDOW, WINDOW + 1, K - 2, K - 1])
@pytest.mark.parametrize("age", [0, TTL, IDLE - 1])
def test_within_the_grace_a_fallen_jar_gets_the_newest(d: int, age: float) -> None:
    assert behind(d, age=age) == Judgement(Verdict.BEHIND, NOW, d, offer=G, fell_back=True)


@pytest.mark.parametrize("d", [K, K + 1, G])
@pytest.mark.parametrize("age", [0, TTL, IDLE - 1])
def test_beyond_the_grace_a_token_is_a_copy(d: int, age: float) -> None:
    assert behind(d, age=age) == Judgement(Verdict.COPIED, NOW, d)
    # Unless a proxy may have held the request back for as long as its upload took.
    assert behind(d, age=age, large_body=True) == Judgement(Verdict.LATE, NOW, d)


@pytest.mark.parametrize("d", range(K))
def test_a_large_body_makes_no_difference_before(d: int) -> None:
    assert behind(d, large_body=True) == behind(d)


def test_the_plain_rule_knows_no_grace() -> None:
    plain = Rotation(grace=0, on_copied="refuse")
    assert [behind(d, rotation=plain).verdict for d in range(5)] == ["current", "behind", "behind", "copied", "copied"]
    assert not any(behind(d, rotation=plain).fell_back for d in range(5))


def test_a_wider_window_swallows_the_grace() -> None:
    wide = Rotation(window=20)
    assert behind(19, age=TTL, rotation=wide) == Judgement(Verdict.BEHIND, NOW, 19, offer=G - 18)
    assert behind(20, age=TTL, rotation=wide) == Judgement(Verdict.COPIED, NOW, 20)


def test_the_smallest_window() -> None:
    small = Rotation(ttl=60, window=2)
    assert [behind(d, rotation=small).verdict for d in range(3)] == ["current", "behind", "copied"]


# ------------------------------------------------------------------------------------------------------- in any case


def milliseconds(low: float, high: float) -> st.SearchStrategy[float]:
    return st.integers(math.ceil(low * 1000), math.floor(high * 1000)).map(lambda number: number / 1000)


@fuzz
@given(
    record=st.none()
    | st.builds(
        a_record,
        epoch=st.sampled_from([*[EPOCH] * 6, ENDED, 7]),
        generation=st.integers(0, 40),
        created_at=milliseconds(NOW - 1.1 * ABSOLUTE, NOW + DAY),
        renewed_at=milliseconds(NOW - 400, NOW + 400),
        rotated_at=milliseconds(NOW - 20, NOW + 20) | milliseconds(NOW - 3 * DAY, NOW + 3 * DAY),
        seen_at=milliseconds(NOW - 1.1 * IDLE, NOW + DAY),
        idle=st.sampled_from([None, None, IDLE / 2]),
        reason=st.sampled_from([*[None] * 9, DESTROYED, REVOKED, COPIED]),
    ),
    generation=st.integers(0, 40),
    ttl=st.none() | milliseconds(0.001, 120),
    window=st.integers(2, 20),
    grace=milliseconds(0, 120),
    large_body=st.booleans(),
)
def test_whatever_comes(
    record: Record | None, generation: int, ttl: float | None, window: int, grace: float, large_body: bool
) -> None:
    token, rotation = a_token(generation=generation), Rotation(ttl, window, grace, "refuse")
    judged = verdict(record, token, rotation=rotation, large_body=large_body)
    opens = judged.verdict in {Verdict.AHEAD, Verdict.CURRENT, Verdict.DUE, Verdict.BEHIND}
    assert opens or judged.verdict in {Verdict.ENDED, Verdict.LATE, Verdict.COPIED}
    assert judged.now == NOW
    if record is None or record.epoch != token.epoch or record.reason in {REVOKED, COPIED}:
        assert not opens
    if not opens:
        assert (judged.mint, judged.offer, judged.fell_back, judged.clock_broken) == (None, None, False, False)
        return
    assert record is not None
    # A generation is minted for who presents the newest token, and nobody else moves the document.
    assert (judged.mint is not None) == (judged.verdict in {Verdict.AHEAD, Verdict.DUE})
    assert judged.mint in {None, token.generation, token.generation + 1}
    # No token goes further than the document does, or back.
    if judged.offer is not None:
        assert token.generation < judged.offer <= max(record.generation, judged.mint or 0)
    # A verdict depends on nobody's clock but for being due.
    later = verdict(record._replace(rotated_at=NOW), token, rotation=rotation, large_body=large_body)
    assert later.behind == judged.behind
    assert {later.verdict, judged.verdict} <= {Verdict.CURRENT, Verdict.DUE} or later.verdict is judged.verdict


def test_the_engine_finds_an_event_for_each_verdict_that_has_one() -> None:
    assert EventKind(Verdict.LATE) is EventKind.LATE
    assert EventKind(Verdict.COPIED) is EventKind.COPIED
