"""What a commit writes and what it sends, decided for each case: the plans are values, and compared as such."""

from collections.abc import Callable
from typing import Any

import pytest

from mongosession.errors import DataError
from mongosession.events import Event, EventKind, Verdict
from mongosession.plan import Creation, Offer, Plan, Terms, Update, ending, plan
from mongosession.policy import Rotation, Timeouts
from mongosession.session import Session, tracker
from mongosession.store import COPIED, DESTROYED, ENDED, REVOKED, Changes, Record, Stamp
from mongosession.tokens import Token, deadline, session_id
from mongosession.values import EMPTY, Delta

from .building import (
    AGE,
    EPOCH,
    GENERATION,
    NOW,
    SID,
    Change,
    a_record,
    a_session,
    a_token,
    always,
    do,
    no_session,
    stored,
)

G = GENERATION
LATER = NOW + 2
"""When the handler has finished."""

IDLE, ABSOLUTE = 7200, 30 * 86400
TERMS = Terms(Rotation(), Timeouts(), max_data=64 * 1024)
ID = session_id(SID)

DRAWN = always(b"\x11")
NEW_SID, NEW_EPOCH = b"\x11" * 16, 0x11111111


def undrawn(length: int) -> bytes:
    raise AssertionError("chance is asked for nothing")


def decide(
    session: Session, terms: Terms = TERMS, *, random: Callable[[int], bytes] = undrawn, now: float = LATER, **how: Any
) -> Plan:
    """The plan, without the difference of the data: that is the tracker's, and tested there. That a 5xx takes the data
    back holds for all plans, and is tested here."""
    decided = plan(session, terms, now=now, random=random, **how)._replace(difference=None)
    if how.get("status", 200) < 500 or tracker(session).intent == "destroy":
        return decided
    assert decided.revert
    return decided._replace(revert=False)


def write(
    raised: dict[str, float] | None = None, data: Delta | None = None, *, confirm: bool = False, **put: Any
) -> Update:
    """The fenced write."""
    return Update(ID, EPOCH, Changes(raised or {}, put, data, confirm=confirm))


def offered(generation: int, stamp: int = G, **fields: Any) -> Offer:
    """The token of a generation, if the document is at `stamp` then."""
    return Offer(a_token(generation=generation, **fields), Stamp(EPOCH, stamp))


def creation(data: dict[str, Any] | None = None, subject: str | None = None) -> Creation:
    """A new session."""
    record = Record(
        id=session_id(NEW_SID),
        epoch=NEW_EPOCH,
        generation=0,
        created_at=LATER,
        renewed_at=LATER,
        rotated_at=LATER,
        seen_at=LATER,
        expires_at=LATER + IDLE,
        data=stored(data or {}),
        subject=subject,
    )
    return Creation(record, Token(NEW_SID, NEW_EPOCH, 0, deadline(LATER, ABSOLUTE)))


def due(data: dict[str, Any] | None = None, **about: Any) -> Session:
    """The session of the newest token, old enough to be rotated."""
    return a_session(record=a_record(data, rotated_at=NOW - 5), **about)


def behind(d: int, *, age: float = 5, **about: Any) -> Session:
    """The session of a token `d` generations behind."""
    return a_session(record=a_record(rotated_at=NOW - age), token=a_token(generation=G - d), **about)


def ahead(**about: Any) -> Session:
    return a_session(token=a_token(generation=G + 2), **about)


def late(**about: Any) -> Session:
    return a_session(token=a_token(epoch=EPOCH + 1), **about)


def copied(**about: Any) -> Session:
    return a_session(token=a_token(generation=0), **about)


ROTATION = {"generation": G + 1, "rotated_at": NOW}
HEALING = {"generation": G + 2, "rotated_at": NOW}
SILENT: list[dict[str, Any]] = [{"public": True}, {"sent": True}]
"""Responses that can or should bring no token."""

FORCED = Event(EventKind.FORCED_NO_STORE, reason="a cookie in a public or prefetched response")


# -------------------------------------------------------------------------------------------------------- nothing to do


@pytest.mark.parametrize(
    "session",
    [
        *(no_session(verdict) for verdict in Verdict),
        a_session({"n": 1}),
        late(),
        copied(),
        copied(revoked=True),
        behind(1, age=0),
        due(tokens=False),
        behind(1, tokens=False),
        behind(5, tokens=False),
        a_session(record=a_record(rotated_at=NOW - 3600), rotation=Rotation(ttl=None)),
    ],
    ids=lambda session: session.verdict,
)
@pytest.mark.parametrize("status", [200, 302, 404, 500, 503])
def test_nothing_due_and_nothing_done_is_nothing(session: Session, status: int) -> None:
    assert decide(session, status=status) == Plan()
    assert decide(session, status=status).idle


def test_a_look_is_told_to_caches() -> None:
    for session in (a_session({"n": 1}), no_session()):
        session.get("n")
        assert decide(session) == Plan(vary=True)
        assert decide(session, status=500) == Plan(vary=True)
        assert decide(session, public=True) == Plan(vary=True)
        assert decide(session, sent=True) == Plan()


def test_a_change_behind_its_back_is_told_to_caches_as_well() -> None:
    session = a_session({"n": 1})
    dict.__setitem__(session, "n", 2)
    assert decide(session) == Plan(update=write(data=Delta(set={"n": 2})), essential=True, vary=True)


def test_what_changed_and_was_taken_back_is_nothing() -> None:
    session, new = a_session({"n": 1}), no_session()
    session["n"] = 2
    session["n"] = 1
    new["n"] = 1
    del new["n"]
    assert decide(session) == decide(new) == Plan(vary=True)


# ------------------------------------------------------------------------------------------------------------- rotation


def test_a_rotation_is_written_and_then_sent() -> None:
    # Its time is that of the decision, not of the write.
    assert decide(due()) == Plan(update=write(ROTATION, confirm=True), offer=offered(G + 1, G + 1))


@pytest.mark.parametrize("status", [500, 503, 599])
def test_a_rotation_is_written_with_a_5xx_too(status: int) -> None:
    session = due({"n": 1})
    session["n"] = 2
    expected = Plan(update=write(ROTATION, confirm=True), offer=offered(G + 1, G + 1), vary=True)
    assert decide(session, status=status) == expected


def test_data_ride_on_a_rotation() -> None:
    session = due({"n": 1})
    session["n"] = 2
    assert decide(session) == Plan(
        update=write(ROTATION, Delta(set={"n": 2}), confirm=True),
        offer=offered(G + 1, G + 1),
        essential=True,
        vary=True,
    )


@pytest.mark.parametrize("how", SILENT, ids=str)
def test_a_response_that_can_bring_no_token_rotates_nothing(how: dict[str, Any]) -> None:
    for session in (due(), behind(1), behind(5), a_session(resend=True), due(resend=True)):
        assert decide(session, **how) == Plan()
    session = due({"n": 1})
    session["n"] = 2
    vary = "sent" not in how
    assert decide(session, **how) == Plan(update=write(data=Delta(set={"n": 2})), essential=True, vary=vary)


def test_where_no_tokens_are_wanted_data_are_written_alone() -> None:
    for session in (due({"n": 1}, tokens=False), behind(1, tokens=False), behind(5, tokens=False)):
        session["n"] = 2
        assert decide(session) == Plan(update=write(data=Delta(set={"n": 2})), essential=True, vary=True)


def test_a_broken_clock_is_set_plainly() -> None:
    session = a_session(record=a_record(rotated_at=NOW + 86401))
    assert decide(session) == Plan(
        update=write({"generation": G + 1}, confirm=True, rotated_at=NOW), offer=offered(G + 1, G + 1)
    )


@pytest.mark.parametrize("how", [{}, *SILENT, {"status": 500}], ids=str)
@pytest.mark.parametrize("about", [{}, {"tokens": False}, {"resend": True}], ids=str)
def test_healing_sends_nothing_and_is_done_in_any_case(how: dict[str, Any], about: dict[str, Any]) -> None:
    assert decide(ahead(**about), **how) == Plan(update=write(HEALING))


def test_data_ride_on_healing() -> None:
    session = ahead()
    session.increment("n")
    assert decide(session) == Plan(update=write(HEALING, Delta(increment={"n": 1})), essential=True, vary=True)


# --------------------------------------------------------------------------------------------- behind, and signed again


@pytest.mark.parametrize(("d", "sent"), [(1, G), (2, G - 1), (3, G), (12, G)])
def test_a_token_that_comes_without_a_write_is_confirmed_by_a_second_read(d: int, sent: int) -> None:
    decided = decide(behind(d))
    assert decided == Plan(offer=offered(sent))
    assert not decided.idle


@pytest.mark.parametrize(("d", "sent"), [(1, G), (2, G - 1), (3, G)])
def test_or_by_the_write_that_happens_anyway(d: int, sent: int) -> None:
    session = behind(d)
    session["n"] = 2
    assert decide(session) == Plan(
        update=write(data=Delta(set={"n": 2}), confirm=True), offer=offered(sent), essential=True, vary=True
    )


def test_a_token_under_an_old_key_is_signed_again() -> None:
    assert decide(a_session(resend=True)) == Plan(offer=offered(G))
    session = a_session(resend=True)
    session["n"] = 2
    assert decide(session) == Plan(
        update=write(data=Delta(set={"n": 2}), confirm=True), offer=offered(G), essential=True, vary=True
    )


def test_a_rotation_signs_again_by_itself() -> None:
    assert decide(due(resend=True)) == decide(due())


def test_only_the_newest_token_is_signed_again() -> None:
    assert decide(behind(1, age=0, resend=True)) == Plan()
    assert decide(behind(1, resend=True)) == decide(behind(1))
    assert decide(a_session(resend=True, tokens=False)) == Plan()


def test_a_token_sent_carries_the_deadline_of_the_present_settings() -> None:
    terms = TERMS._replace(timeouts=Timeouts(absolute=86400))
    until = deadline(NOW - AGE, 86400)
    assert decide(due(), terms).offer == offered(G + 1, G + 1, deadline=until)
    assert decide(behind(1), terms).offer == offered(G, deadline=until)
    assert decide(a_session(resend=True), terms).offer == offered(G, deadline=until)


# ---------------------------------------------------------------------------------------------------------------- touch

TOUCH = {"seen_at": NOW, "expires_at": NOW + IDLE}


@pytest.mark.parametrize(
    ("seen", "idle", "touched"),
    [
        (NOW - 719.999, None, None),
        (NOW - 720, None, IDLE),
        (NOW - 7199, None, IDLE),
        (NOW + 60, None, None),  # seen by a server whose clock is ahead
        (NOW - 5.999, 60, None),
        (NOW - 6, 60, 60),
    ],
)
@pytest.mark.parametrize("how", [{}, {"status": 500}, {"public": True}], ids=str)
def test_a_tenth_of_the_idle_timeout_is_worth_a_write(
    seen: float, idle: float | None, touched: float | None, how: dict[str, Any]
) -> None:
    session = a_session(record=a_record(seen_at=seen, idle=idle))
    expected = None if touched is None else write({"seen_at": NOW, "expires_at": NOW + touched})
    assert decide(session, **how) == Plan(update=expected)


def test_a_touch_does_not_outlive_the_absolute_timeout() -> None:
    session = a_session(record=a_record(seen_at=NOW - 720, created_at=NOW - ABSOLUTE + 100))
    assert decide(session) == Plan(update=write({"seen_at": NOW, "expires_at": NOW + 100}))


def test_a_connection_that_lives_on_is_seen_when_it_writes() -> None:
    session = a_session()
    session["n"] = 1
    decided = decide(session, now=NOW + 1000, sent=True)
    touch: dict[str, float] = {"seen_at": NOW + 1000, "expires_at": NOW + 1000 + IDLE}
    assert decided == Plan(update=write(touch, Delta(set={"n": 1})), essential=True)


def test_a_touch_rides_on_what_is_written_anyway() -> None:
    session = a_session(record=a_record(seen_at=NOW - 720, rotated_at=NOW - 720))
    session["n"] = 1
    assert decide(session) == Plan(
        update=write({**ROTATION, **TOUCH}, Delta(set={"n": 1}), confirm=True),
        offer=offered(G + 1, G + 1),
        essential=True,
        vary=True,
    )
    session = a_session(record=a_record(seen_at=NOW - 720, rotated_at=NOW - 5), token=a_token(generation=G - 1))
    assert decide(session) == Plan(update=write(TOUCH, confirm=True), offer=offered(G))


# ----------------------------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize(
    ("change", "delta"),
    [
        (do.update({"a.b": {"$c": 1}}), Delta(set={"a%2Eb": {"%24c": 1}})),
        (do.pop("n"), Delta(unset=("n",))),
        (do.increment("n"), Delta(increment={"n": 1})),
        (do.append("list", 1), Delta(append={"list": [1]})),
        (do.clear(), Delta(replace={})),
    ],
)
def test_a_change_is_one_write(change: Change, delta: Delta) -> None:
    session = a_session({"n": 1})
    change(session)
    assert decide(session) == Plan(update=write(data=delta), essential=True, vary=True)
    assert decide(session, status=499).update == write(data=delta)
    assert decide(session, status=500) == Plan(vary=True)
    assert decide(session, sent=True) == Plan(update=write(data=delta), essential=True)


LARGE = TERMS._replace(max_data=100)


@pytest.mark.parametrize("make", [no_session, a_session, due])
def test_data_over_the_limit_are_an_error_that_names_the_largest_key(make: Callable[[], Session]) -> None:
    session = make()
    session.update(small=1, large="x" * 60, medium=[1])
    with pytest.raises(DataError, match=r"the limit is 100") as caught:
        decide(session, LARGE, random=DRAWN)
    assert caught.value.key == "large"
    assert f"take {len(stored(session))} bytes, {len(stored({'large': 'x' * 60})) - 5} of them session['large']" in str(
        caught.value
    )
    session.pop("medium")
    assert len(stored(session)) <= 100
    assert decide(session, LARGE, random=DRAWN).essential


def test_the_limit_is_the_last_size_that_is_taken() -> None:
    session = no_session()
    session["x"] = "x" * 80
    size = len(stored(session))
    assert decide(session, TERMS._replace(max_data=size), random=DRAWN).create == creation({"x": "x" * 80})
    with pytest.raises(DataError, match="limit"):
        decide(session, TERMS._replace(max_data=size - 1), random=DRAWN)


def test_data_over_the_limit_may_shrink() -> None:
    # The limit was lowered, or parallel appends went past it: nobody is locked in, or out.
    session = a_session({"large": "x" * 200, "n": 1})
    assert decide(session, LARGE) == Plan()
    session["n"] = 2  # of the same size
    assert decide(session, LARGE).update == write(data=Delta(set={"n": 2}))
    session["large"] = "y" * 199
    assert decide(session, LARGE).essential
    session["more"] = 1
    with pytest.raises(DataError, match="limit"):
        decide(session, LARGE)
    del session["more"], session["large"]
    assert decide(session, LARGE).essential


@pytest.mark.parametrize("make", [no_session, a_session, due, late, copied])
def test_what_cannot_be_stored_is_an_error_unless_it_is_discarded(make: Callable[[], Session]) -> None:
    session = make()
    session["key"] = object()
    with pytest.raises(DataError, match="session\\['key'\\]"):
        decide(session)
    assert decide(session, status=500).essential is False


# ------------------------------------------------------------------------------------------------------------- creation

BEGINS = [
    *(lambda verdict=verdict: no_session(verdict) for verdict in (Verdict.ANONYMOUS, Verdict.INVALID, Verdict.ENDED)),
    lambda: copied(revoked=True),
]
DROPS = [late, copied, lambda: no_session(Verdict.UNAVAILABLE, tokens=False)]


@pytest.mark.parametrize("make", BEGINS)
def test_storing_something_creates_a_session(make: Callable[[], Session]) -> None:
    session = make()
    session["n"] = 1
    session.increment("n")
    session.append("list", {"a.b": 1})
    expected = creation({"n": 2, "list": [{"a.b": 1}]})
    assert decide(session, random=DRAWN) == Plan(create=expected, essential=True, vary=True)
    assert decide(session, random=DRAWN, status=500) == Plan(vary=True)


@pytest.mark.parametrize("make", BEGINS)
def test_storing_nothing_creates_nothing(make: Callable[[], Session]) -> None:
    for change in (
        do.clear(),
        do.get("n"),
        do.remove_from("list", 1),
        do.renew(),
        do.renew(subject=None),
    ):
        session = make()
        change(session)
        assert decide(session) == Plan(vary=True)


@pytest.mark.parametrize("make", BEGINS)
def test_a_log_in_creates_a_session(make: Callable[[], Session]) -> None:
    session = make()
    session["n"] = 1
    session.renew(subject="user:42")
    assert decide(session, random=DRAWN) == Plan(create=creation({"n": 1}, "user:42"), essential=True, vary=True)
    del session["n"]
    assert decide(session, random=DRAWN) == Plan(create=creation({}, "user:42"), essential=True, vary=True)
    created = decide(session, random=DRAWN).create
    assert created is not None
    assert created.record.data == EMPTY
    assert decide(session, status=500) == Plan(vary=True)


def test_a_renewal_without_a_subject_creates_what_was_stored() -> None:
    session = no_session()
    session["n"] = 1
    session.renew()
    assert decide(session, random=DRAWN).create == creation({"n": 1})


def test_chance_is_asked_for_a_sid_and_an_epoch() -> None:
    drawn: list[int] = []

    def random(length: int) -> bytes:
        drawn.append(length)
        return DRAWN(length)

    session = no_session()
    session["n"] = 1
    decide(session, random=random)
    assert drawn == [16, 4]


@pytest.mark.parametrize(("about", "how"), [({"tokens": False}, {}), ({}, {"public": True})], ids=str)
def test_a_session_that_has_to_begin_is_kept_from_caches(about: dict[str, Any], how: dict[str, Any]) -> None:
    session = no_session(**about)
    session["n"] = 1
    expected = Plan(create=creation({"n": 1}), essential=True, vary=True, events=(FORCED,))
    assert decide(session, random=DRAWN, **how) == expected


def test_no_session_begins_once_the_headers_are_gone() -> None:
    session = no_session()
    session["n"] = 1
    reason = "stored when the headers were gone, and there is no session yet"
    dropped = Event(EventKind.DROPPED_WRITE, keys=("n",), reason=reason)
    assert decide(session, sent=True) == Plan(events=(dropped,))
    session.renew(subject="user:42")
    renewal = Event(EventKind.DROPPED_RENEWAL, subject="user:42", reason=reason)
    assert decide(session, sent=True) == Plan(events=(dropped, renewal))


@pytest.mark.parametrize("make", DROPS)
@pytest.mark.parametrize("how", [{}, {"public": True}, {"sent": True}], ids=str)
def test_where_nothing_can_be_stored_it_is_dropped_with_an_event(
    make: Callable[[], Session], how: dict[str, Any]
) -> None:
    session = make()
    session.update(a=1, b=2)
    vary, reason = "sent" not in how, f"the request holds no session (judged {session.verdict})"
    dropped = Event(EventKind.DROPPED_WRITE, keys=("a", "b"), reason=reason)
    assert decide(session, **how) == Plan(vary=vary, events=(dropped,))
    session.renew()
    assert decide(session, **how) == Plan(vary=vary, events=(dropped, Event(EventKind.DROPPED_RENEWAL, reason=reason)))
    assert decide(session, status=500) == Plan(vary=True)


@pytest.mark.parametrize("make", DROPS)
@pytest.mark.parametrize("call", [do.renew(), do.renew(subject=None)])
def test_a_renewal_alone_is_dropped_with_an_event(make: Callable[[], Session], call: Change) -> None:
    session = make()
    call(session)
    assert [event.kind for event in decide(session).events] == [EventKind.DROPPED_RENEWAL]
    assert decide(session).idle


@pytest.mark.parametrize("make", [late, copied])
def test_a_log_in_begins_a_session_even_so(make: Callable[[], Session]) -> None:
    session = make()
    session["n"] = 1
    session.renew(subject="user:42")
    assert decide(session, random=DRAWN) == Plan(create=creation({"n": 1}, "user:42"), essential=True, vary=True)


def test_no_log_in_without_a_database() -> None:
    session = no_session(Verdict.UNAVAILABLE, tokens=False)
    session["n"] = 1
    session.renew(subject="user:42")
    decided = decide(session)
    assert decided.idle
    assert [event.kind for event in decided.events] == [EventKind.DROPPED_WRITE, EventKind.DROPPED_RENEWAL]


# -------------------------------------------------------------------------------------------------------------- renewal


def holding(subject: str | None = None, **about: Any) -> Session:
    return a_session(record=a_record({"n": 1}, subject=subject), **about)


def renewal(
    subject: str | None, data: Delta | None = None, *, created_at: float = LATER, epoch: int = NEW_EPOCH, **put: Any
) -> Update:
    put = {
        "epoch": epoch,
        "generation": 0,
        "created_at": created_at,
        "renewed_at": LATER,
        "rotated_at": LATER,
        "seen_at": LATER,
        "expires_at": LATER + IDLE,
        "subject": subject,
        **put,
    }
    return Update(ID, EPOCH, Changes(put=put, data=data, durable=True, confirm=True))


def renewed(created_at: float = LATER, epoch: int = NEW_EPOCH) -> Offer:
    return Offer(Token(SID, epoch, 0, deadline(created_at, ABSOLUTE)), Stamp(epoch, 0))


def test_a_log_in_keeps_the_data_and_restarts_the_absolute_timeout() -> None:
    session = holding()
    session["m"] = 2
    session.renew(subject="user:42")
    session.increment("n")
    assert decide(session, random=DRAWN) == Plan(
        update=renewal("user:42", Delta(set={"m": 2}, increment={"n": 1})),
        # Should the session be gone: only what this request itself has set.
        instead=creation({"m": 2, "n": 1}, "user:42"),
        offer=renewed(),
        essential=True,
        vary=True,
    )


def test_the_same_subject_again_restarts_the_absolute_timeout() -> None:
    session = holding("user:42")
    session.renew(subject="user:42")
    assert decide(session, random=DRAWN) == Plan(
        update=renewal("user:42"), instead=creation({}, "user:42"), offer=renewed(), essential=True, vary=True
    )


def test_another_subject_starts_with_what_was_set_after_the_call() -> None:
    session = holding("user:42")
    session["before"] = 1
    session.renew(subject="user:43")
    session["after"] = 2
    assert decide(session, random=DRAWN) == Plan(
        update=renewal("user:43", Delta(replace={"after": 2})),
        instead=creation({"after": 2}, "user:43"),
        offer=renewed(),
        essential=True,
        vary=True,
    )


def test_from_a_subject_to_none_the_session_starts_empty() -> None:
    session = holding("user:42")
    session.renew(subject=None)
    assert decide(session, random=DRAWN) == Plan(
        update=renewal(None, Delta(replace={}), created_at=NOW - AGE),
        offer=renewed(NOW - AGE),
        essential=True,
        vary=True,
    )


@pytest.mark.parametrize("subject", [None, "user:42"])
def test_a_renewal_that_keeps_the_subject_keeps_the_absolute_timeout(subject: str | None) -> None:
    session = holding(subject)
    session.renew()
    assert decide(session, random=DRAWN) == Plan(
        update=renewal(subject, created_at=NOW - AGE), offer=renewed(NOW - AGE), essential=True, vary=True
    )


@pytest.mark.parametrize(
    ("fields", "expires_at"),
    [
        ({"idle": 60.0}, LATER + 60),
        ({"created_at": NOW - ABSOLUTE + 100}, NOW + 100),
    ],
)
def test_a_renewed_session_expires_by_its_own_timeouts(fields: dict[str, Any], expires_at: float) -> None:
    record = a_record(**fields)
    session = a_session(record=record)
    session.renew()
    assert decide(session, random=DRAWN).update == renewal(None, created_at=record.created_at, expires_at=expires_at)


def test_an_epoch_is_never_followed_by_itself() -> None:
    session = a_session(record=a_record(epoch=NEW_EPOCH), token=a_token(epoch=NEW_EPOCH))
    session.renew()
    decided = decide(session, random=DRAWN)
    assert decided.update == renewal(None, created_at=NOW - AGE, epoch=NEW_EPOCH ^ 1)._replace(epoch=NEW_EPOCH)
    assert decided.offer == renewed(NOW - AGE, NEW_EPOCH ^ 1)


@pytest.mark.parametrize(
    "make", [due, ahead, lambda: behind(1), lambda: behind(5), lambda: a_session(resend=True)], ids=str
)
def test_a_renewal_takes_the_place_of_whatever_was_due(make: Callable[[], Session]) -> None:
    session = make()
    session.renew()
    assert decide(session, random=DRAWN) == Plan(
        update=renewal(None, created_at=NOW - AGE), offer=renewed(NOW - AGE), essential=True, vary=True
    )


@pytest.mark.parametrize(("about", "how"), [({"tokens": False}, {}), ({}, {"public": True})], ids=str)
def test_a_renewal_is_kept_from_caches(about: dict[str, Any], how: dict[str, Any]) -> None:
    session = holding(**about)
    session.renew()
    decided = decide(session, random=DRAWN, **how)
    assert decided.events == (FORCED,)
    assert decided.offer == renewed(NOW - AGE)


def test_a_5xx_discards_a_renewal_and_not_the_rotation() -> None:
    session = due({"n": 1})
    session["n"] = 2
    session.renew(subject="user:42")
    assert decide(session, status=500) == Plan(
        update=write(ROTATION, confirm=True), offer=offered(G + 1, G + 1), vary=True
    )


def test_a_renewal_once_the_headers_are_gone_is_dropped_with_its_data() -> None:
    session = holding()
    session["m"] = 2
    session.renew(subject="user:42")
    reason = "renewed when the headers were gone"
    assert decide(session, sent=True) == Plan(
        events=(
            Event(EventKind.DROPPED_WRITE, ID.hex(), keys=("m",), reason=reason),
            Event(EventKind.DROPPED_RENEWAL, ID.hex(), "user:42", reason=reason),
        ),
        revert=True,
    )


# --------------------------------------------------------------------------------------------------------------- ending

LAST = Changes(
    put={
        "epoch": ENDED,
        "renewed_at": LATER,
        "expires_at": LATER + 180 + 300,
        "subject": None,
        "description": None,
        "reason": DESTROYED,
    },
    data=Delta(replace={}),
    durable=True,
)
END = Update(ID, None, LAST)


def test_the_last_state_of_a_document() -> None:
    assert ending(DESTROYED, now=LATER, rotation=Rotation()) == LAST
    for reason in (REVOKED, COPIED):
        revoked = ending(reason, now=LATER, rotation=Rotation(grace=600))
        assert revoked == LAST._replace(put={**LAST.put, "reason": reason, "expires_at": LATER + 720 + 300})
    assert not 0 <= ENDED < 2**32  # no token's epoch


@pytest.mark.parametrize(
    "make", [holding, due, ahead, lambda: behind(1), lambda: behind(5), late, copied, lambda: holding(tokens=False)]
)
@pytest.mark.parametrize("status", [200, 500])
def test_a_log_out_ends_the_session_and_deletes_the_cookie(make: Callable[[], Session], status: int) -> None:
    session = make()
    session["before"] = 1
    session.destroy()
    assert decide(session, status=status) == Plan(end=END, essential=True, forget=True, vary=True)
    assert decide(session, public=True) == Plan(end=END, essential=True, forget=True, vary=True)


@pytest.mark.parametrize(
    "make", [lambda: no_session(Verdict.INVALID), lambda: no_session(Verdict.ENDED), lambda: copied(revoked=True)]
)
def test_a_log_out_of_a_session_that_has_ended_deletes_the_cookie(make: Callable[[], Session]) -> None:
    session = make()
    session.destroy()
    assert decide(session) == Plan(essential=True, forget=True, vary=True)
    assert decide(session).idle


def test_a_log_out_of_nobody_is_nothing() -> None:
    session = no_session()
    session.destroy()
    decided = decide(session)
    assert decided.idle
    assert not decided.forget
    assert not decided.events


def test_a_log_out_without_a_database_touches_no_cookie() -> None:
    session = no_session(Verdict.UNAVAILABLE, tokens=False)
    session.destroy()
    lost = Event(EventKind.DROPPED_DESTROY, reason="the database is away")
    assert decide(session) == Plan(vary=True, events=(lost,))
    session["after"] = 1
    dropped = Event(EventKind.DROPPED_WRITE, keys=("after",), reason="the database is away")
    assert decide(session) == Plan(vary=True, events=(lost, dropped))


@pytest.mark.parametrize(("make", "end"), [(holding, END), (no_session, None), (late, END)])
def test_storing_after_a_log_out_starts_a_new_session(make: Callable[[], Session], end: Update | None) -> None:
    session = make()
    session["before"] = 1
    session.destroy()
    session["after"] = 2
    # One Set-Cookie: the new one takes the place of the deletion.
    assert decide(session, random=DRAWN) == Plan(end=end, create=creation({"after": 2}), essential=True, vary=True)
    assert decide(session, random=DRAWN, public=True).events == (FORCED,)
    assert decide(session, status=500) == Plan(end=end, essential=True, forget=end is not None, vary=True)


def test_a_log_out_once_the_headers_are_gone_still_ends_the_session() -> None:
    session = holding()
    session.destroy()
    assert decide(session, sent=True) == Plan(end=END, essential=True)
    session["after"] = 2
    dropped = Event(
        EventKind.DROPPED_WRITE, ID.hex(), keys=("after",), reason="stored after destroy, and the headers are gone"
    )
    assert decide(session, sent=True) == Plan(end=END, essential=True, events=(dropped,))


def test_of_renewal_and_log_out_the_last_one_counts() -> None:
    session = holding("user:42")
    session.renew(subject="user:43")
    session.destroy()
    assert decide(session) == Plan(end=END, essential=True, forget=True, vary=True)
    session.renew(subject="user:44")
    assert decide(session, random=DRAWN) == Plan(
        update=renewal("user:44", Delta(replace={})),
        instead=creation({}, "user:44"),
        offer=renewed(),
        essential=True,
        vary=True,
    )


@pytest.mark.parametrize(
    "change", [do.update(n=1), do.update(basket=["tea"]), do.clear(), lambda session: session.pop("x")]
)
@pytest.mark.parametrize("how", [{}, {"early": True}, {"sent": True}, {"public": True}])
@pytest.mark.parametrize("about", [{}, {"token": a_token(generation=G - 1)}, {"tokens": False}])
def test_the_short_way_of_data_decides_as_the_long_one(
    about: dict[str, Any], how: dict[str, Any], change: Change
) -> None:
    plans: list[Plan] = []
    for asked in (False, True):  # there may be something besides data: the long way
        session = a_session({"n": 0, "x": 1}, **about)
        tracker(session).asked = asked
        change(session)
        plans.append(plan(session, TERMS, now=NOW, random=DRAWN, **how))
    assert plans[0] == plans[1]
    assert plans[0].update is not None


# -------------------------------------------------------------------------------------------------- when it may be done


@pytest.mark.parametrize(
    ("make", "change", "postponable"),
    [
        (a_session, do.update(n=1), True),
        (lambda: a_session(record=a_record(seen_at=NOW - 720)), bool, True),
        (ahead, bool, True),
        (a_session, bool, False),  # nothing to postpone
        (due, bool, False),
        (due, do.update(n=1), False),
        (lambda: behind(1), do.update(n=1), False),
        (no_session, do.update(n=1), False),
        (a_session, do.renew(), False),
        (a_session, do.destroy(), False),
    ],
)
def test_what_brings_no_token_may_wait_until_the_response_is_gone(
    make: Callable[[], Session], change: Change, postponable: bool
) -> None:
    session = make()
    change(session)
    assert decide(session, random=DRAWN).postponable is postponable


def test_an_early_write_leaves_rotation_and_caches_to_the_commit_that_precedes_the_headers() -> None:
    session = due({"n": 1})
    session["n"] = 2
    assert decide(session, early=True) == Plan(update=write(data=Delta(set={"n": 2})), essential=True)
    assert decide(behind(1), early=True) == decide(a_session(resend=True), early=True) == Plan()
    # Nothing is known yet of the response that will bring the cookie.
    new = no_session(tokens=False)
    new["n"] = 1
    assert decide(new, early=True, random=DRAWN) == Plan(create=creation({"n": 1}), essential=True)


def test_what_was_written_early_is_owed_to_the_headers() -> None:
    # A session that began, or was renewed, before: its token goes out if it still is the newest.
    session = a_session()
    tracker(session).owed = a_token()
    assert decide(session) == Plan(offer=offered(G))
    assert decide(session, public=True) == Plan(offer=offered(G), events=(FORCED,))
    assert decide(session, early=True) == decide(session, sent=True) == Plan()
    # A log-out before: so does the deletion.
    session = no_session(Verdict.CURRENT)
    tracker(session).owed = "removal"
    assert decide(session) == Plan(forget=True)
    assert decide(session, early=True) == decide(session, sent=True) == Plan()


def test_events_hold_no_credential() -> None:
    for make in (late, copied, holding, due):
        for sent, public in ((False, False), (True, False), (False, True)):
            session = make()
            session["n"] = 2
            session.renew(subject="user:42")
            shown = repr(decide(session, random=DRAWN, sent=sent, public=public).events)
            for secret in (SID, NEW_SID):
                assert secret.hex() not in shown
                assert repr(secret) not in shown
