"""Events and their log records: for operators to read, and with nothing in them that opens a session."""

import json
import logging

import pytest

from mongosession.events import Event, EventKind, Verdict
from mongosession.logs import EventLog
from mongosession.testing import HandClock

NAME = "mongosession"

WARNINGS = {
    EventKind.COPIED,
    EventKind.SEVERAL_COOKIES,
    EventKind.DROPPED_WRITE,
    EventKind.DROPPED_RENEWAL,
    EventKind.DROPPED_DESTROY,
    EventKind.STORE_FAILED,
}


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def log(clock: HandClock) -> EventLog:
    return EventLog(clock)


def test_the_verdicts_are_the_words_of_the_protocol() -> None:
    words = "anonymous invalid ended late ahead current due behind copied unavailable"
    assert {*map(str, Verdict)} == {*words.split()}


def test_the_kinds_are_frozen() -> None:
    # People compare them in callbacks and search their logs for them.
    words = (
        "created rotated healed renewed destroyed revoked copied fell_back late several_cookies dropped_write "
        "dropped_renewal dropped_destroy forced_no_store store_failed"
    )
    assert {*map(str, EventKind)} == {*words.split()}


def test_an_event_is_a_value_of_plain_values() -> None:
    event = Event(EventKind.FELL_BACK, "0badcafe", "user:42", behind=4, keys=("a",), reason="why")
    assert event == Event(EventKind.FELL_BACK, "0badcafe", "user:42", 4, ("a",), "why")
    assert json.loads(json.dumps(event._asdict())) == {
        "kind": "fell_back",
        "session_id": "0badcafe",
        "subject": "user:42",
        "behind": 4,
        "keys": ["a"],
        "reason": "why",
    }
    assert Event(EventKind.LATE) == Event(EventKind.LATE, None, None, 0, (), "")


@pytest.mark.parametrize("kind", EventKind)
def test_each_event_is_one_record_with_the_event_in_it(
    kind: EventKind, log: EventLog, caplog: pytest.LogCaptureFixture
) -> None:
    event = Event(kind, "0badcafe", "user:42", behind=4, keys=("a", "b"), reason="the reason")
    with caplog.at_level(logging.DEBUG, NAME):
        log.emit(event)
    (record,) = caplog.records
    assert record.name == NAME
    assert record.levelno == (logging.WARNING if kind in WARNINGS else logging.DEBUG)
    assert record.__dict__["session_event"] is event
    assert record.getMessage() == (
        f"{kind} session_id='0badcafe' subject='user:42' behind=4 keys=('a', 'b') reason='the reason'"
    )


def test_what_an_event_does_not_say_is_left_out(log: EventLog, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, NAME):
        log.emit(Event(EventKind.ROTATED, "0badcafe"))
    assert caplog.messages == ["rotated session_id='0badcafe'"]


def test_a_record_is_one_line_whatever_is_in_it(log: EventLog, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, NAME):
        log.emit(
            Event(EventKind.DROPPED_WRITE, subject="a\nCRITICAL forged", keys=("k\r\n",), reason="because\x1b[31m")
        )
    (message,) = caplog.messages
    assert message.isprintable()


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING, logging.ERROR])
def test_the_level_decides_what_is_logged(level: int, log: EventLog, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(level, NAME):
        log.emit(Event(EventKind.ROTATED))
        log.emit(Event(EventKind.COPIED))
    assert [record.levelno for record in caplog.records] == ([logging.WARNING] if level <= logging.WARNING else [])
