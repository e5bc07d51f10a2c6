"""Events and their log records: for operators to read, and with nothing in them that opens a session."""

import json
import logging
import re
import sys
import tracemalloc
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from mongosession import MemoryStore, Rotation, Session, SessionEngine
from mongosession.events import Event, EventKind, Verdict
from mongosession.logs import LIMIT, SECONDS, EventLog
from mongosession.testing import HandClock, Jar

from .world import KEY, World, away

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


# Floods.

COPIED = Event(EventKind.COPIED, "0badcafe")


def flood(log: EventLog, times: int, event: Event = COPIED) -> None:
    for _ in range(times):
        log.emit(event)


def test_a_flood_is_cut_and_summed_up(log: EventLog, clock: HandClock, caplog: pytest.LogCaptureFixture) -> None:
    flood(log, LIMIT + 123)
    assert caplog.messages == ["copied session_id='0badcafe'"] * LIMIT
    caplog.clear()
    clock.advance(SECONDS - 0.001)
    flood(log, 1)
    assert caplog.messages == []
    clock.advance(0.001)
    flood(log, 1)
    assert caplog.messages == ["124 more `copied` events were not logged", "copied session_id='0badcafe'"]
    summary = caplog.records[0]
    assert summary.levelno == logging.WARNING
    assert vars(summary)["session_event_kind"] == "copied"
    assert vars(summary)["session_events_held_back"] == 124
    caplog.clear()
    flood(log, LIMIT - 1)
    clock.advance(SECONDS)
    flood(log, 1)
    assert len(caplog.messages) == LIMIT  # exactly as many as are allowed: nothing to sum up


def test_a_slow_drip_is_logged_in_full(log: EventLog, clock: HandClock, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(5 * LIMIT):
        flood(log, 1)
        clock.advance(SECONDS / LIMIT)
    assert caplog.messages == ["copied session_id='0badcafe'"] * 5 * LIMIT


def test_a_flood_of_one_kind_hides_no_other(log: EventLog, clock: HandClock, caplog: pytest.LogCaptureFixture) -> None:
    flood(log, 2 * LIMIT)
    caplog.clear()
    log.emit(Event(EventKind.STORE_FAILED))
    assert caplog.messages == ["store_failed "]
    clock.advance(SECONDS)
    log.emit(Event(EventKind.STORE_FAILED))  # an event of any kind brings what is to be told
    assert caplog.messages[1:] == [f"{LIMIT} more `copied` events were not logged", "store_failed "]


def test_engines_do_not_share_a_limit(log: EventLog, clock: HandClock, caplog: pytest.LogCaptureFixture) -> None:
    flood(log, 2 * LIMIT)
    flood(EventLog(clock), 1)
    assert len(caplog.messages) == LIMIT + 1


def test_a_clock_that_is_set_back_silences_nothing(
    log: EventLog, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    flood(log, LIMIT + 1)
    caplog.clear()
    clock.advance(-3600)
    flood(log, 1)
    assert caplog.messages == ["1 more `copied` events were not logged", "copied session_id='0badcafe'"]


async def test_close_tells_what_was_held_back(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    await copied_often(world, LIMIT + 2)
    caplog.clear()
    await world.engine.close()
    assert caplog.messages == ["2 more `copied` events were not logged"]
    await world.engine.close()
    assert len(caplog.messages) == 1


async def test_the_callback_gets_every_event() -> None:
    world = World()
    await copied_often(world, 5 * LIMIT)
    assert world.happened().count(EventKind.COPIED) == 5 * LIMIT


async def copied_often(world: World, times: int) -> None:
    """Somebody keeps presenting a copy of a token, which opens nothing."""
    world.engine = world.browser.engine = world.serve(rotation=Rotation(on_copied="refuse"))
    await world.begin()
    thief = world.browser.send()
    await world.rotate(13)
    for _ in range(times):
        assert (await thief.open()).verdict == "copied"


def test_what_is_not_logged_does_not_count(caplog: pytest.LogCaptureFixture) -> None:
    def clock() -> float:
        asked.append(1)
        return 0.0

    asked: list[int] = []
    log = EventLog(clock)
    caplog.set_level(logging.WARNING, NAME)
    flood(log, 10 * LIMIT, Event(EventKind.ROTATED))
    assert not asked  # it costs a comparison
    caplog.set_level(logging.DEBUG, NAME)
    flood(log, LIMIT, Event(EventKind.ROTATED))
    log.close()
    assert caplog.messages == ["rotated "] * LIMIT


def test_memory_is_bounded(log: EventLog) -> None:
    def emit(times: int) -> None:
        for n in range(times):
            for kind in EventKind:
                log.emit(Event(kind, f"{n:032x}", f"user:{n}"))

    emit(LIMIT)
    tracemalloc.start()
    emit(500)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 8192


class Broken(logging.Handler):
    """A handler that lacks what those of the standard library have: it raises."""

    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError("cannot write")


@pytest.mark.parametrize("told", [True, False])
async def test_a_log_handler_that_raises_hurts_nobody(
    told: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", told)
    caplog.set_level(logging.DEBUG, NAME)
    logger, handler = logging.getLogger(NAME), Broken()
    logger.addHandler(handler)
    try:
        world = World()
        async with world.browser.visit() as session:
            session.renew(subject="user:1")
        for _ in range(LIMIT + 1):
            async with world.browser.visit() as session:
                session.renew()
        await world.engine.close()  # what was held back
    finally:
        logger.removeHandler(handler)
    async with world.browser.visit() as session:
        assert session.subject == "user:1"
    assert len(world.happened()) == 1 + LIMIT + 1
    assert ("RuntimeError: cannot write" in capsys.readouterr().err) is told


# The callback.


def test_failures_of_the_callback_are_cut_too(clock: HandClock, caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: Event) -> None:
        got.append(event)
        raise RuntimeError("cannot count")

    got: list[Event] = []
    log = EventLog(clock, broken)
    flood(log, LIMIT + 7, Event(EventKind.ROTATED, "0badcafe"))
    assert len(got) == LIMIT + 7
    assert caplog.messages == ["on_event raised for rotated"] * LIMIT
    assert all(record.exc_info for record in caplog.records)
    assert vars(caplog.records[0])["session_event"] == got[0]
    log.close()
    assert caplog.messages[LIMIT:] == ["7 more `on_event raised` events were not logged"]
    assert caplog.records[-1].levelno == logging.ERROR


async def asynchronous(event: Event) -> None:
    """Nobody would await it."""


class Asynchronous:
    async def __call__(self, event: Event) -> None:
        """Nobody would await it."""


@pytest.mark.parametrize("on_event", [asynchronous, partial(asynchronous), Asynchronous(), Asynchronous().__call__])
def test_an_asynchronous_callback_is_refused(on_event: Callable[[Event], object]) -> None:
    with pytest.raises(ValueError, match=r"on_event is .* async function; .*plain one"):
        SessionEngine(MemoryStore(), keys=[KEY], on_event=on_event)


def test_an_asynchronous_callback_in_disguise_is_an_error_in_the_log(
    clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def later(event: Event) -> None:
        raise AssertionError("nobody awaits it")

    def disguised(event: Event) -> object:
        return later(event)

    EventLog(clock, disguised).emit(Event(EventKind.CREATED))
    assert "on_event raised for created" in caplog.text
    assert "returned a coroutine" in caplog.text


def test_a_callback_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(ValueError, match="on_event is 'log'; it must be a function"):
        SessionEngine(MemoryStore(), keys=[KEY], on_event="log")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Plain:
    def __call__(self, event: Event) -> None:
        """Called at once."""


@pytest.mark.parametrize(
    "on_event", [None, [].append, Plain(), Plain().__call__, partial(print), str, lambda event: None]
)
def test_plain_callbacks_are_taken(on_event: Callable[[Event], object] | None) -> None:
    SessionEngine(MemoryStore(), keys=[KEY], on_event=on_event)


# Every kind, as it comes about, and nothing in it that opens a session.


class Watched(Jar):
    """A jar that remembers each cookie that it was ever given."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.tokens: list[str] = []

    def receive(self, headers: Iterable[tuple[str, str]]) -> None:
        headers = list(headers)
        values = [line.partition("=")[2].partition(";")[0] for name, line in headers if name == "Set-Cookie"]
        self.tokens += filter(None, values)
        super().receive(headers)


async def visit(world: World, handle: Callable[[Session], object] = Session.copy, **how: Any) -> None:
    async with world.browser.visit(**how) as session:
        handle(session)


def store(session: Session) -> None:
    session["n"] = 1


def log_in(session: Session) -> None:
    session.renew(subject="user:42")


async def create(world: World) -> None:
    await visit(world, store)


async def rotate(world: World) -> None:
    await world.begin()
    world.clock.advance(5)
    await visit(world)


async def heal(world: World) -> None:
    session_id = await world.begin()
    before = await world.record(session_id)
    await world.rotate()
    await world.manipulate(session_id, generation=before.generation, rotated_at=before.rotated_at)
    await visit(world)


async def renew(world: World) -> None:
    await world.begin()
    await visit(world, log_in)


async def destroy(world: World) -> None:
    await world.begin()
    await visit(world, Session.destroy)


async def revoke(world: World) -> None:
    await world.engine.revoke(await world.begin())


async def copy(world: World) -> None:
    await world.begin()
    thief = world.browser.send()
    await world.rotate(13)
    await thief.open()


async def fall_back(world: World) -> None:
    await world.begin()
    old = world.browser.send()
    await world.rotate(4)
    await old.open()


async def come_late(world: World) -> None:
    await world.begin()
    old = world.browser.send()
    await visit(world, log_in)
    store(await old.open())
    await old.answer()


async def renew_late(world: World) -> None:
    await world.begin()
    old = world.browser.send()
    await visit(world, log_in)
    (await old.open()).renew()
    await old.answer()


async def plant(world: World) -> None:
    await world.begin()
    first = world.browser.send().cookie
    world.browser.jar.cookies.clear()
    await world.begin()
    await world.engine.open(f"{first}; {world.browser.send().cookie}")


async def write_too_late(world: World) -> None:
    session_id = await world.begin()
    exchange = world.browser.send()
    store(await exchange.open())
    await world.engine.revoke(session_id)
    await exchange.answer()


async def log_out_in_an_outage(world: World) -> None:
    await world.begin()
    world.store.around = away
    await visit(world, Session.destroy, on_outage="anonymous")


async def publish(world: World) -> None:
    exchange = world.browser.send()
    store(await exchange.open())
    log_in(await exchange.open())
    await exchange.answer(cache_control="public")
    exchange.deliver()


async def fail_to_rotate(world: World) -> None:
    await world.begin()
    world.clock.advance(5)
    exchange = world.browser.send()
    await exchange.open()
    world.store.around = away
    await exchange.answer()


SCENES: dict[EventKind, Callable[[World], Awaitable[None]]] = {
    EventKind.CREATED: create,
    EventKind.ROTATED: rotate,
    EventKind.HEALED: heal,
    EventKind.RENEWED: renew,
    EventKind.DESTROYED: destroy,
    EventKind.REVOKED: revoke,
    EventKind.COPIED: copy,
    EventKind.FELL_BACK: fall_back,
    EventKind.LATE: come_late,
    EventKind.SEVERAL_COOKIES: plant,
    EventKind.DROPPED_WRITE: write_too_late,
    EventKind.DROPPED_RENEWAL: renew_late,
    EventKind.DROPPED_DESTROY: log_out_in_an_outage,
    EventKind.FORCED_NO_STORE: publish,
    EventKind.STORE_FAILED: fail_to_rotate,
}


@pytest.mark.parametrize("kind", EventKind)
async def test_no_event_and_no_record_holds_a_credential(kind: EventKind, caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: Event) -> None:
        events.append(event)
        raise RuntimeError("cannot count")

    events: list[Event] = []
    world = World()
    caplog.set_level(logging.DEBUG, NAME)
    world.engine = world.browser.engine = SessionEngine(
        world.store, keys=[KEY], on_event=broken, clock=world.clock, random=world.chance
    )
    world.browser.jar = jar = Watched(world.clock)
    await SCENES[kind](world)
    await world.engine.close()

    assert kind in [event.kind for event in events]
    assert kind in [vars(record)["session_event"].kind for record in caplog.records if "session_event" in vars(record)]
    secrets = {KEY}
    for token in jar.tokens:
        sid = urlsafe_b64decode(token + "==")[1:17]
        secrets |= {token, token[:20], sid.hex(), repr(sid)[2:-1], urlsafe_b64encode(sid).decode().rstrip("=")}
    assert len(secrets) > 5
    told = [repr(event) for event in events]
    told += [logging.Formatter().format(record) + repr(vars(record)) for record in caplog.records]
    assert not [secret for line in told for secret in secrets if secret in line]


# The page about all of this.

PAGE = (Path(__file__).parent.parent / "docs" / "events.md").read_text()


def block(word: str) -> dict[str, Any]:
    """What the page's block with this word in it defines, after the page's first one."""
    namespace: dict[str, Any] = {}
    first, *others = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (code,) = [each for each in others if word in each]
    exec(compile(first + code, "events.md", "exec"), namespace)
    return namespace


def test_the_table_of_the_documentation_is_true() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (debug|warning) \| .{10,} \| .{7,} \|$", PAGE, re.MULTILINE)
    levels = {kind: "warning" if kind in WARNINGS else "debug" for kind in EventKind}
    assert dict(rows) == levels
    assert len(rows) == len(levels)
    described = re.findall(r"^\| `(\w+)` \| [^|]+ \|$", PAGE, re.MULTILINE)
    assert described == [*Event._fields]


def test_the_limit_of_the_documentation_is_true() -> None:
    assert f"an engine logs {LIMIT} records in {SECONDS:.0f} seconds" in PAGE


def test_the_json_formatter_of_the_documentation(clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(event: Event) -> None:
        raise RuntimeError("cannot count")

    written = StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    handler: logging.Handler = block("JsonFormatter")["handler"]
    logger = logging.getLogger(NAME)
    logger.addHandler(handler)
    try:
        log = EventLog(clock)
        flood(log, LIMIT + 3, Event(EventKind.DROPPED_WRITE, "0badcafe", keys=("a",), reason='"quoted"\n'))
        log.close()
        EventLog(clock, broken).emit(COPIED)
    finally:
        logger.removeHandler(handler)
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert len(lines) == LIMIT + 3
    assert lines[0]["level"] == "WARNING"
    assert lines[0].items() >= {"kind": "dropped_write", "session_id": "0badcafe", "reason": '"quoted"\n'}.items()
    assert lines[LIMIT].items() >= {"kind": "dropped_write", "held_back": 3}.items()
    assert lines[LIMIT + 2]["kind"] == "copied"
    assert "RuntimeError: cannot count" in lines[LIMIT + 2]["exception"]


async def test_the_opentelemetry_counter_of_the_documentation() -> None:
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))
    engine: SessionEngine = block("opentelemetry")["engine"]
    for _ in range(3):
        session = await engine.open(None)
        session["basket"] = ["tea"]
        await engine.commit(session)
    data = reader.get_metrics_data()
    assert data is not None
    (metric,) = data.resource_metrics[0].scope_metrics[0].metrics
    assert metric.name == "mongosession.events"
    points: list[Any] = list(metric.data.data_points)
    assert [(dict(point.attributes), point.value) for point in points] == [({"kind": "created"}, 3)]
