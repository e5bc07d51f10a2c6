"""Visitors whose sessions live in a signed cookie, and move into the database when it matters."""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pytest
from bson.binary import Binary
from hypothesis import given
from hypothesis import strategies as st

from mongosession import Cookie, DataError, EventKind, MemoryStore, Session, SessionEngine, StoreUnavailable, Timeouts
from mongosession.signed import MAX_COOKIE
from mongosession.testing import Browser, seeded

from .building import alike, fuzz
from .test_values import KEYS, VALUES
from .world import KEY, World, away


@pytest.fixture
def world() -> World:
    return World(anonymous="cookie", timeouts=Timeouts(idle=600, absolute=86400))


async def visit(world: World, **data: Any) -> Session:
    """One request that stores something."""
    async with world.browser.visit() as session:
        session.update(data)
    return session


def text(world: World) -> str:
    """The text of the browser's cookie."""
    return (world.browser.jar.header() or "").partition("=")[2]


def protect(session: Session) -> None:
    session.protect()


def log_in(session: Session) -> None:
    session.renew(subject="user:42")


def renew(session: Session) -> None:
    session.renew()


def count(session: Session) -> None:
    session.increment("hits")


def grow(session: Session) -> None:
    session["noise"] = seeded(5)(MAX_COOKIE)  # which cannot be compressed


async def test_a_whole_visit_costs_no_command(world: World) -> None:
    for page in range(20):
        world.clock.advance(100)
        async with world.browser.visit() as session:
            assert session.get("visits", 0) == page
            assert session.verdict == ("current" if page else "anonymous")
            assert session.is_new == (page == 0)
            session["visits"] = page + 1
    assert world.store.take() == []
    assert world.events() == []


async def test_a_session_tells_of_itself(world: World) -> None:
    begun = world.clock()
    await visit(world, basket=["tea"])
    world.clock.advance(100)
    async with world.browser.visit() as session:
        assert session == {"basket": ["tea"]}
        assert session.subject is None
        assert not session.late
        assert len(session.id or "") == 32
        times = [session.created_at, session.seen_at, session.expires_at]
    assert [time and time.timestamp() for time in times] == [begun, begun, begun + 600]


async def test_what_was_stored_comes_back_as_it_was(world: World) -> None:
    data = {"": b"\0", "a.b$": [1, {"%": None}], "when": datetime(2001, 2, 3, 4, 5, 6, 789000, tzinfo=UTC), "n": 2**40}
    await visit(world, **data)
    assert await world.read() == data


NONE_OF_BSON = st.sampled_from(
    [2**63, -(2**63) - 1, {1}, {1: 2}, "\ud800", object(), 1j, date(2030, 1, 1), Binary(b"x", 4), [(), {"a": set()}]]
)


@fuzz
@given(data=st.dictionaries(KEYS, VALUES | st.floats() | NONE_OF_BSON, max_size=4))
async def test_values_are_taken_and_come_back_as_in_the_database(data: dict[str, Any]) -> None:
    told: list[Any] = []
    for anonymous in ("cookie", "database"):
        world = World(anonymous=anonymous)
        try:
            await visit(world, **data)
        except DataError as error:
            told.append(re.sub("0x[0-9a-f]+", "", str(error)))
            continue
        exchange = world.browser.send()
        session = await exchange.open()
        told.append((list(session), alike(session)))
        assert await exchange.answer() == [("Vary", "Cookie")]
    assert told[0] == told[1]


async def test_set_cookie_only_when_something_changed_or_the_timeout_has_to_move(world: World) -> None:
    await visit(world, n=1)
    for seconds, changes, sent in ((0, False, False), (59, False, False), (1, False, True), (1, True, True)):
        world.clock.advance(seconds)
        exchange = world.browser.send()
        session = await exchange.open()
        session["n"] = 2 if changes else session["n"]
        headers = dict(await exchange.answer())
        exchange.deliver()
        assert ("Set-Cookie" in headers) is sent
        assert headers.get("Cache-Control") == ("no-store" if sent else None)
        assert headers["Vary"] == "Cookie"


async def test_what_is_stored_again_as_it_was_is_no_change(world: World) -> None:
    await visit(world, n=1, basket=["tea"])
    exchange = world.browser.send()
    session = await exchange.open()
    session.clear()
    session.update(n=1, basket=["tea"])
    assert await exchange.answer() == [("Vary", "Cookie")]


async def test_nested_changes_are_noticed(world: World) -> None:
    await visit(world, basket={"tea": [1]})
    async with world.browser.visit() as session:
        session["basket"]["tea"].append(2)
    assert await world.read() == {"basket": {"tea": [1, 2]}}


async def test_both_timeouts(world: World) -> None:
    await visit(world, n=1)
    world.clock.advance(590)
    assert await world.read() == {"n": 1}
    world.clock.advance(601)
    assert await world.read() == {}
    await visit(world, n=1)
    for _ in range(1 + 86400 // 500):
        world.clock.advance(500)
        await world.read()
    assert await world.read() == {}
    assert world.store.take() == []


async def test_the_cookie_itself_ends_with_the_absolute_timeout(world: World) -> None:
    await visit(world, n=1)
    world.clock.advance(500)
    exchange = world.browser.send()
    await exchange.open()
    assert f"Max-Age={86400 - 500};" in dict(await exchange.answer())["Set-Cookie"]


async def test_a_life_of_its_own(world: World) -> None:
    async with world.browser.visit() as session:
        session["n"] = 1
        session.set_expiry(idle=3600, persistent=False)
    world.clock.advance(3000)
    exchange = world.browser.send()
    session = await exchange.open()
    assert session == {"n": 1}
    assert "Max-Age" not in dict(await exchange.answer())["Set-Cookie"]
    exchange.deliver()
    async with world.browser.visit() as session:
        session.set_expiry()
    world.clock.advance(601)
    assert await world.read() == {}


async def test_whether_the_cookie_outlives_the_browser_can_change_alone(world: World) -> None:
    await visit(world, n=1)
    for persistent, aged in ((False, False), (True, True), (None, True)):
        for sent in (True, False):
            exchange = world.browser.send()
            (await exchange.open()).set_expiry(persistent=persistent)
            line = dict(await exchange.answer()).get("Set-Cookie", "")
            exchange.deliver()
            assert bool(line) is sent
            assert ("Max-Age" in line) is (sent and aged)


async def test_a_log_out_deletes_the_cookie(world: World) -> None:
    await visit(world, n=1)
    async with world.browser.visit() as session:
        session.destroy()
        assert session == {}
    assert text(world) == ""
    assert world.store.take() == []


async def test_what_is_stored_after_a_log_out_is_another_session(world: World) -> None:
    before = await visit(world, n=1)
    async with world.browser.visit() as session:
        session.destroy()
        session["m"] = 1
    assert session.id != before.id
    assert await world.read() == {"m": 1}
    assert world.store.take() == []


async def test_a_5xx_discards_changes(world: World) -> None:
    await visit(world, n=1)
    for change in (protect, log_in, count, grow):
        async with world.browser.visit(status=500) as session:
            session["n"] = 2
            change(session)
        assert session == {"n": 1}
        assert await world.read() == {"n": 1}
    assert world.store.take() == []


async def test_prefetches_and_public_responses_send_nothing_by_themselves(world: World) -> None:
    await visit(world, n=1)
    world.clock.advance(100)
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [({"tokens": False}, {}), ({}, {"cache_control": "public"})]
    for opening, answering in cases:
        exchange = world.browser.send()
        assert await exchange.open(**opening) == {"n": 1}
        assert not exchange.sends_cookie
        assert "Set-Cookie" not in dict(await exchange.answer(**answering))
        exchange = world.browser.send()
        (await exchange.open(**opening))["n"] = 2
        assert dict(await exchange.answer(**answering))["Cache-Control"] == "no-store"
        assert world.happened() == [EventKind.FORCED_NO_STORE]


async def test_a_first_cookie_in_a_prefetch_or_a_public_response_is_kept_from_caches(world: World) -> None:
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [({"tokens": False}, {}), ({}, {"cache_control": "public"})]
    for opening, answering in cases:
        exchange = world.browser.send()
        (await exchange.open(**opening))["n"] = 1
        headers = dict(await exchange.answer(**answering))
        assert "Set-Cookie" in headers
        assert headers["Cache-Control"] == "no-store"
        assert world.happened() == [EventKind.FORCED_NO_STORE]


# It moves into the database.


@pytest.mark.parametrize("why", [protect, log_in, renew, count, grow])
async def test_it_moves_with_one_insert_and_nothing_is_lost(world: World, why: Callable[[Session], None]) -> None:
    before = await visit(world, basket=["tea"], hits=1)
    created_at = world.clock()
    old = text(world)
    world.clock.advance(50)
    async with world.browser.visit() as session:
        session["basket"].append("milk")
        why(session)
        expected = session.copy()
    assert world.store.take() == ["create"]
    assert [(event.kind, event.session_id) for event in world.events()] == [(EventKind.CREATED, session.id)]
    assert session.id != before.id
    assert text(world) != old
    assert await world.read() == expected
    assert world.store.take() == ["load"]
    record = await world.record(session.id or "")
    assert record.created_at == (world.clock() if why is log_in else created_at)
    assert record.subject == ("user:42" if why is log_in else None)
    async with world.browser.visit() as session:
        session["after"] = 1
    assert world.store.take() == ["load", "update"]


@pytest.mark.parametrize("why", [protect, log_in, count, grow])
async def test_a_first_request_may_go_straight_into_the_database(world: World, why: Callable[[Session], None]) -> None:
    async with world.browser.visit() as session:
        session["n"] = 1
        why(session)
    assert world.store.take() == ["create"]
    assert (await world.read())["n"] == 1


async def test_protecting_nothing_is_nothing(world: World) -> None:
    async with world.browser.visit() as session:
        session.protect()
    assert text(world) == ""
    assert world.store.take() == []


async def test_a_life_of_its_own_moves_along(world: World) -> None:
    async with world.browser.visit() as session:
        session["n"] = 1
        session.set_expiry(idle=3600, persistent=False)
    async with world.browser.visit() as session:
        session.describe(user_agent="Firefox")
        log_in(session)
    record = await world.record(session.id or "")
    assert (record.idle, record.persistent, record.description) == (3600, False, {"user_agent": "Firefox"})
    assert record.expires_at == world.clock() + 3600


@pytest.mark.parametrize(
    "cookie",
    [
        Cookie(),
        Cookie(name="s"),
        Cookie(name="n" * 300, persistent=False),
        Cookie(
            name="__Secure-shop", domain="shop.example.org", path="/" + "p" * 900, same_site="none", partitioned=True
        ),
    ],
    ids=lambda cookie: cookie.name[:13],
)
async def test_it_moves_just_before_the_cookie_is_too_long(cookie: Cookie) -> None:
    """Browsers count name and value: not the = between them, nor the attributes."""
    world = World(anonymous="cookie", cookie=cookie)
    longest = 0
    for length in range(2750, 3050):
        exchange = world.browser.send()
        (await exchange.open())["x"] = seeded(length)(length)
        [line] = [value for field, value in await exchange.answer() if field == "Set-Cookie"]
        name, _, value = line.partition(";")[0].partition("=")
        assert name == cookie.name
        assert len(name) + len(value) <= MAX_COOKIE
        if world.store.take() == ["create"]:
            assert len(value) == 64  # a token
            break
        assert (await world.engine.open(f"{name}={value}"))["x"] == seeded(length)(length)
        longest = len(name) + len(value)
    assert MAX_COOKIE - 2 <= longest <= MAX_COOKIE  # three bytes are four characters
    assert world.happened() == [EventKind.CREATED]


async def test_after_a_log_out_a_visitor_is_a_visitor_again(world: World) -> None:
    await visit(world, n=1)
    async with world.browser.visit() as session:
        log_in(session)
    async with world.browser.visit() as session:
        session.destroy()
    assert text(world) == ""
    world.store.take()
    await visit(world, m=1)
    assert await world.read() == {"m": 1}
    assert world.store.take() == []


async def test_one_cookie_goes_out_where_a_log_out_stores_something(world: World) -> None:
    async with world.browser.visit() as session:
        log_in(session)
    world.store.take()
    exchange = world.browser.send()
    session = await exchange.open()
    session.destroy()
    session["bye"] = True
    headers = await exchange.answer()
    exchange.deliver()
    assert [field for field, _ in headers].count("Set-Cookie") == 1
    assert world.store.take() == ["load", "update"]
    assert await world.read() == {"bye": True}
    assert world.store.take() == []
    assert await world.living() == 0


async def test_it_cannot_move_while_the_database_is_away_and_stays_where_it_is(world: World) -> None:
    await visit(world, n=1)
    world.store.around = away
    for why in (protect, log_in, count, grow):
        exchange = world.browser.send()
        why(await exchange.open())
        with pytest.raises(StoreUnavailable):
            await exchange.answer()
    await visit(world, n=2)  # which needs no database
    assert await world.read() == {"n": 2}


async def test_flash_messages_and_defaults(world: World) -> None:
    await visit(world, flash="hi", n=1)
    async with world.browser.visit() as session:
        assert await session.pop_once("none", "default") == "default"
        assert await session.set_default("n", 2) == 1
    assert world.store.take() == []
    stays = world.browser.jar.copy()
    async with world.browser.visit() as session:
        assert await session.pop_once("flash") == "hi"
    assert world.store.take() == ["create"]
    assert await world.read() == {"n": 1}
    world.browser.jar = stays
    world.store.take()
    async with world.browser.visit() as session:
        assert await session.set_default("m", 3) == 3
    assert world.store.take() == ["create"]
    assert await world.read() == {"flash": "hi", "n": 1, "m": 3}


# Once the headers have gone.


async def test_changes_after_the_headers_are_dropped_with_an_event(world: World) -> None:
    await visit(world, n=1)
    exchange = world.browser.send()
    session = await exchange.open()
    await exchange.answer()
    session["n"] = 2
    assert await session.save()
    [event] = world.events()
    assert (event.kind, event.keys, event.session_id) == (EventKind.DROPPED_WRITE, ("n",), session.id)
    assert await world.read() == {"n": 1}
    assert world.store.take() == []


async def test_save_before_the_headers_moves_it(world: World) -> None:
    await visit(world, n=1)
    exchange = world.browser.send()
    session = await exchange.open()
    assert await session.save()
    assert world.store.take() == ["create"]
    await exchange.answer()
    exchange.deliver()
    session["n"] = 2
    assert await session.save()
    assert world.store.take() == ["load", "update"]
    assert await world.read() == {"n": 2}


async def test_a_new_session_that_is_saved_is_in_the_database(world: World) -> None:
    exchange = world.browser.send()
    session = await exchange.open()
    session["n"] = 1
    assert await session.save()
    await exchange.answer()
    exchange.deliver()
    assert world.store.take() == ["create", "load"]
    assert await world.read() == {"n": 1}


async def test_neither_a_log_in_nor_a_log_out_can_be_had_then(world: World) -> None:
    await visit(world, n=1)
    for what, dropped in (
        (log_in, [EventKind.DROPPED_RENEWAL]),
        (Session.destroy, [EventKind.DROPPED_DESTROY]),
    ):
        exchange = world.browser.send()
        session = await exchange.open()
        await exchange.answer()
        what(session)
        await session.save()
        assert world.happened() == dropped
    assert await world.read() == {"n": 1}
    assert world.store.take() == []


# Keys.


async def test_a_change_of_keys_loses_nothing(world: World) -> None:
    await visit(world, n=1)
    texts = [text(world)]
    for keys, next_keys in (([KEY], ["b" * 32]), (["b" * 32, KEY], []), (["b" * 32], [])):
        world.browser.engine = world.serve(keys=keys, next_keys=next_keys, anonymous="cookie")
        assert await world.read() == {"n": 1}
        texts.append(text(world))
    assert texts[0] == texts[1] != texts[2] == texts[3]
    world.browser.engine = world.serve(keys=["c" * 32], anonymous="cookie")
    assert await world.read() == {}
    assert world.store.take() == []


# What is no session of ours.


async def test_whoever_turns_it_off_starts_anew(world: World) -> None:
    await visit(world, n=1)
    world.browser.engine = world.serve()
    assert await world.read() == {}
    assert world.store.take() == []


async def test_whoever_turns_it_on_leaves_in_the_database_what_is_there(world: World) -> None:
    world.browser.engine = world.serve()
    await visit(world, n=1)
    world.browser.engine = world.engine
    world.store.take()
    await visit(world, n=2)
    assert world.store.take() == ["load", "update"]
    async with world.browser.visit() as session:
        assert (session, session.subject) == ({"n": 2}, None)
        session.destroy()
    world.store.take()
    await visit(world, n=3)
    assert await world.read() == {"n": 3}
    assert world.store.take() == []


async def test_servers_with_and_without_it_side_by_side(world: World) -> None:
    """The ones without leave a visitor's cookie alone, unless they store something: all of them take a token."""
    without = world.serve()
    await visit(world, n=1)
    before = text(world)
    world.browser.engine = without
    assert await world.read() == {}
    world.clock.advance(300)
    assert await world.read() == {}
    assert text(world) == before
    world.browser.engine = world.engine
    assert await world.read() == {"n": 1}
    world.browser.engine = without
    await visit(world, n=5)
    assert world.store.take() == ["create"]
    for engine in (world.engine, without, world.engine):
        world.browser.engine = engine
        assert await world.read() == {"n": 5}
        assert world.store.take() == ["load"]


async def test_a_signed_cookie_beside_a_token_opens_nothing(world: World) -> None:
    await visit(world, n=1)
    visitor = text(world)
    world.browser.jar.cookies.clear()
    async with world.browser.visit() as session:
        log_in(session)
    world.store.take()
    world.events()
    name = world.engine.cookie.name
    session = await world.engine.open(f"{name}={visitor}; {name}={text(world)}")
    assert session.verdict == "invalid"
    assert world.happened() == [EventKind.SEVERAL_COOKIES]
    assert world.store.take() == []


async def test_of_two_cookies_of_one_session_the_newer_counts(world: World) -> None:
    await visit(world, n=1)
    old = text(world)
    world.clock.advance(1)
    await visit(world, n=2)
    name = world.engine.cookie.name
    for header in (f"{name}={old}; {name}={text(world)}", f"{name}={text(world)}; {name}={old}"):
        assert (await world.engine.open(header))["n"] == 2


async def test_a_replay_brings_back_a_visitors_data_and_no_more(world: World) -> None:
    await visit(world, basket=["tea"])
    stolen = world.browser.jar.copy()
    async with world.browser.visit() as session:
        session["basket"].append("milk")
        log_in(session)
    thief = Browser(world.engine, world.clock)
    thief.jar = stolen
    async with thief.visit() as session:
        assert session == {"basket": ["tea"]}
        assert session.subject is None
        session["basket"] = ["stolen"]
        session.protect()  # a session of his own
    assert await world.read() == {"basket": ["tea", "milk"]}
    assert await world.living() == 2
    async with world.browser.visit() as session:
        assert session.subject == "user:42"
        session.destroy()
    thief.jar = stolen
    world.clock.advance(601)
    async with thief.visit() as session:
        assert session.subject is None


async def test_a_replay_takes_the_data_along_into_the_account_that_it_logs_in_to(world: World) -> None:
    await visit(world, basket=["tea"])
    thief = Browser(world.engine, world.clock)
    thief.jar = world.browser.jar.copy()
    async with thief.visit() as session:
        session.renew(subject="thief")
    async with thief.visit() as session:
        assert (session, session.subject) == ({"basket": ["tea"]}, "thief")
    assert await world.read() == {"basket": ["tea"]}


async def test_who_has_the_key_and_the_cookies_name_makes_sessions_of_visitors_and_of_no_user(world: World) -> None:
    other = World(anonymous="cookie", timeouts=Timeouts(idle=600, absolute=86400))  # staging, with production's key
    await visit(other, role="admin")
    world.browser.jar = other.browser.jar.copy()
    async with world.browser.visit() as session:
        assert (session, session.subject) == ({"role": "admin"}, None)
    async with other.browser.visit() as session:
        log_in(session)
    world.browser.jar = other.browser.jar.copy()
    async with world.browser.visit() as session:
        assert (session, session.subject) == ({}, None)


async def test_data_over_the_limit_are_an_error_here_too(world: World) -> None:
    exchange = world.browser.send()
    (await exchange.open())["x"] = "y" * 70_000
    with pytest.raises(DataError, match=r"session\['x'\]; the limit is 65536"):
        await exchange.answer()


def test_a_setting_that_makes_no_sense() -> None:
    with pytest.raises(ValueError, match='anonymous is \'redis\'; it must be "database" or "cookie"'):
        SessionEngine(MemoryStore(), keys=[KEY], anonymous="redis")  # type: ignore[arg-type]


async def test_another_cookie_name_is_another_site(world: World) -> None:
    await visit(world, n=1)
    other = world.serve(anonymous="cookie", cookie=Cookie(name="__Host-other"))
    assert await other.open(f"__Host-other={text(world)}") == {}
