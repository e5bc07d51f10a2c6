"""Visitors whose sessions live in a signed cookie, on the days that are not plain: several commits of one request,
log-outs and renewals, requests in parallel, cancelled ones, servers that differ, and cookies that are none of ours.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import pytest

from mongosession import DataError, EventKind, Session, StoreUnavailable, Timeouts
from mongosession.session import tracker
from mongosession.testing import Browser, seeded

from .building import Change, do
from .world import KEY, World, away, lost

IDLE = 600.0
TIMEOUTS = Timeouts(idle=IDLE, absolute=86400)


@pytest.fixture
def world() -> World:
    return World(anonymous="cookie", timeouts=TIMEOUTS)


async def visit(world: World, **data: Any) -> Session:
    """One request that stores something."""
    async with world.browser.visit() as session:
        session.update(data)
    return session


def text(world: World) -> str:
    """The text of the browser's cookie."""
    return (world.browser.jar.header() or "").partition("=")[2]


# Several commits of one request.


@pytest.mark.parametrize("passed", [0, IDLE / 2])
async def test_a_log_out_that_is_saved_at_once_is_one(world: World, passed: float) -> None:
    await visit(world, n=1)
    world.clock.advance(passed)
    async with world.browser.visit() as session:
        session.destroy()
        assert not await session.save()
        assert session.id is None
    assert text(world) == ""
    assert await world.read() == {}
    assert world.store.take() == []


async def test_what_is_stored_after_a_saved_log_out_is_another_session(world: World) -> None:
    before = await visit(world, n=1)
    world.clock.advance(10)
    async with world.browser.visit() as session:
        session.destroy()
        await session.save()
        session["m"] = 1
    assert session.id not in (None, before.id)
    assert session.created_at is not None
    assert session.created_at.timestamp() == world.clock()
    assert await world.read() == {"m": 1}
    assert world.store.take() == []


async def test_a_first_request_that_renews_goes_into_the_database(world: World) -> None:
    """A privilege without a subject: no old cookie may bring it back."""
    async with world.browser.visit() as session:
        session["admin"] = True
        session.renew()
    assert world.store.take() == ["create"]


async def test_an_operator_whose_move_failed_is_done_by_the_next_one(world: World) -> None:
    """A session that was not created is nobody's: nothing can be done twice."""
    await visit(world, hits=1)
    async with world.browser.visit() as session:
        session.increment("hits")
        world.store.around = away
        with pytest.raises(StoreUnavailable):
            await session.save()
        world.recover()
    assert world.events()[-1].kind == EventKind.CREATED
    assert session == {"hits": 2}
    assert await world.read() == {"hits": 2}


async def test_a_save_that_fails_leaves_everything_for_the_next_commit(world: World) -> None:
    await visit(world, n=1)
    async with world.browser.visit() as session:
        session["m"] = 1
        session.set_expiry(idle=3600)
        world.store.around = away
        with pytest.raises(StoreUnavailable):
            await session.save()
    assert world.events() == []  # it stays in its cookie after all
    world.clock.advance(3000)
    assert await world.read() == {"n": 1, "m": 1}


async def test_a_first_save_that_fails_does_so_too(world: World) -> None:
    world.store.around = away
    async with world.browser.visit() as session:
        session["m"] = 1
        with pytest.raises(StoreUnavailable):
            await session.save()
    assert await world.read() == {"m": 1}


async def test_a_protection_that_fails_with_a_save_is_asked_for_still(world: World) -> None:
    await visit(world, n=1)
    async with world.browser.visit() as session:
        session.protect()
        world.store.around = away
        with pytest.raises(StoreUnavailable):
            await session.save()
        world.recover()
    assert world.store.take() == ["create", "create"]
    assert await world.living() == 1


async def test_once_it_has_moved_a_log_out_in_the_same_request_ends_it(world: World) -> None:
    await visit(world, n=1)
    async with world.browser.visit() as session:
        await session.save()
        session.destroy()
    assert text(world) == ""
    assert await world.living() == 0
    assert world.happened() == [EventKind.CREATED, EventKind.DESTROYED]


async def test_nothing_of_a_destroyed_session_is_stored_after_the_headers(world: World) -> None:
    await visit(world, n=1)
    exchange = world.browser.send()
    session = await exchange.open()
    session.destroy()
    await exchange.answer()
    exchange.deliver()
    session["late"] = True
    assert not await session.save()
    assert world.happened() == [EventKind.DROPPED_WRITE]
    assert text(world) == ""


async def test_a_second_log_out_after_the_headers_has_nothing_to_drop(world: World) -> None:
    await visit(world, n=1)
    exchange = world.browser.send()
    session = await exchange.open()
    session.destroy()
    await exchange.answer()
    exchange.deliver()
    session.destroy()
    assert not await session.save()
    assert world.happened() == []
    assert text(world) == ""


async def test_changes_after_the_headers_are_told_once_each(world: World) -> None:
    await visit(world, n=1)
    exchange = world.browser.send()
    session = await exchange.open()
    await exchange.answer()
    for n in (1, 2, 2, 3):
        session["m"] = n
        await world.engine.commit(session, sent=True)
    assert [event.keys for event in world.events()] == [("m",)] * 3
    session.increment("n")
    session.set_expiry(idle=60)
    await world.engine.commit(session, sent=True)
    assert [(event.kind, event.keys) for event in world.events()] == [(EventKind.DROPPED_WRITE, ("n",))]
    await world.engine.commit(session, sent=True)
    assert world.events() == []


PUTS: dict[str, Any] = {
    "set": lambda session, value: session.__setitem__("x", value),
    "updated": lambda session, value: session.update(x=value),
    "merged": lambda session, value: session.__ior__({"x": value}),
    "set where there was none": lambda session, value: session.setdefault("x", value),
    "put in past the methods": lambda session, value: dict.__setitem__(session, "x", value),
}


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("put", PUTS.values(), ids=PUTS)
async def test_who_has_put_a_container_in_still_has_it_when_the_headers_are_gone(
    world: World, put: Any, inner: bool
) -> None:
    await visit(world, n=1)
    exchange = world.browser.send()
    session = await exchange.open()
    held: list[Any] = []
    put(session, [held] if inner else held)
    await exchange.answer()
    exchange.deliver()
    await world.engine.commit(session, sent=True)
    assert world.events() == []
    held.append("late")
    await world.engine.commit(session, sent=True)
    assert [(event.kind, event.keys) for event in world.events()] == [(EventKind.DROPPED_WRITE, ("x",))]
    assert await world.read() == {"n": 1, "x": [[]] if inner else []}


async def test_keys_of_any_kind_stay_in_the_cookie(world: World) -> None:
    class Key(StrEnum):
        COLOUR = "colour"

    data = {"n": 1, "a.b": 2, "$": [3], "": {"": 4, "%2E": (5,)}, "%": None, "ключ": b"6"}
    await visit(world, **data, **{Key.COLOUR: "red"})
    assert await world.read() == {**data, "": {"": 4, "%2E": [5]}, "colour": "red"}
    async with world.browser.visit() as session:
        del session["n"]
        session["a.b"] = 7
    assert list(await world.read()) == ["a.b", "$", "", "%", "ключ", "colour"]
    assert world.store.take() == []


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("x", object(), r"session\['x'\] holds a value that BSON cannot"),
        ("x", [2**64], r"session\['x'\] holds an integer of more than 64 bits"),
        ("x", {"deep": {1: 2}}, r"session\['x'\] holds a dictionary with the key 1"),
        (5, "x", "the session holds the key 5"),
        ("\ud800" * 2, "\ud800", "lone surrogate"),
    ],
)
async def test_what_is_refused_is_named_and_the_cookie_stays(world: World, key: Any, value: Any, said: str) -> None:
    await visit(world, n=1)
    before = text(world)
    exchange = world.browser.send()
    session = await exchange.open()
    session["n"] = 2
    session[key] = value
    with pytest.raises(DataError, match=said):
        await exchange.answer()
    assert text(world) == before
    assert await world.read() == {"n": 1}


async def test_a_cookie_that_was_sent_is_read_by_the_process_that_sent_it_as_by_every_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await visit(world, basket=["tea"], seen=datetime(2026, 1, 2, tzinfo=UTC))
    cookie, other = world.browser.jar.header(), world.serve(anonymous="cookie", timeouts=TIMEOUTS)
    read = tracker(await other.open(cookie))
    monkeypatch.setattr("mongosession.signed.a2b_base64", None)  # from here on nobody can read it anew
    sent = tracker(await world.engine.open(cookie))
    assert (sent.record, sent.signed, sent.base) == (read.record, read.signed, read.base)
    assert (sent.resend, sent.asked) == (read.resend, read.asked)
    for engine in (world.engine, other):
        session = await engine.open(cookie)
        assert session == {"basket": ["tea"], "seen": datetime(2026, 1, 2, tzinfo=UTC)}
        session["basket"].append("milk")  # nobody else's


async def test_what_is_remembered_of_a_cookie_ends_with_its_session(world: World) -> None:
    await visit(world, n=1)
    cookie = world.browser.jar.header()
    world.clock.advance(IDLE / 10 - 0.001)
    assert not tracker(await world.engine.open(cookie)).asked
    world.clock.advance(0.001)
    assert tracker(await world.engine.open(cookie)).asked
    world.clock.advance(IDLE * 9 / 10 - 0.001)
    assert await world.engine.open(cookie) == {"n": 1}
    world.clock.advance(0.001)
    assert (await world.engine.open(cookie)).verdict == "invalid"


MOVES: dict[str, Any] = {
    "protected": lambda session: (session.update(secret=["1234"]), session.protect()),
    "logged in": lambda session: (session.update(secret=["1234"]), session.renew(subject="user:42")),
    "an operator": lambda session: session.append("secret", "1234"),
    "too long": lambda session: session.update(secret=["1234"], noise=seeded(1)(3500)),
}


@pytest.mark.parametrize("visited", [False, True], ids=["new", "visitor"])
@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
async def test_a_move_that_failed_is_tried_again_by_the_next_commit(world: World, move: Any, visited: bool) -> None:
    """And never are its data left in a cookie that everybody can read."""
    if visited:
        await visit(world, n=1)
    exchange = world.browser.send()
    session = await exchange.open()
    move(session)
    await world.fail(session)
    world.recover()
    session["m"] = 2
    await exchange.answer()
    exchange.deliver()
    assert world.store.take() == ["create", "create"]
    assert await world.living() == 1
    found = await world.read()
    assert (found["secret"], found["m"], found.get("n")) == (["1234"], 2, 1 if visited else None)
    assert world.store.take() == ["load"]
    session["secret"] = "late"
    assert await session.save()
    assert (await world.read())["secret"] == "late"


@pytest.mark.parametrize("touched", [False, True])
@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
async def test_a_move_that_failed_leaves_nothing_in_the_answer_that_says_so(
    world: World, move: Any, touched: bool
) -> None:
    await visit(world, n=1)
    world.clock.advance(IDLE / 2 if touched else 0)
    exchange = world.browser.send()
    session = await exchange.open()
    move(session)
    await world.fail(session)
    await exchange.answer(status=503)
    exchange.deliver()
    assert await world.engine.commit(session, status=503, sent=True) == []
    assert (session, world.events()) == ({"n": 1}, [])
    assert (await world.read(), world.store.take()) == ({"n": 1}, ["create"])


@pytest.mark.parametrize("touched", [False, True])
async def test_what_is_cleared_and_filled_again_is_neither_written_nor_dropped(world: World, touched: bool) -> None:
    await visit(world, n=1, basket=["tea"])
    world.clock.advance(IDLE / 2 if touched else 0)
    exchange = world.browser.send()
    session = await exchange.open()
    before = session.copy()
    session.clear()
    session.update(before)
    headers = dict(await exchange.answer())
    exchange.deliver()
    assert ("Set-Cookie" in headers) is touched
    await world.engine.commit(session, sent=True)
    assert world.events() == []
    session["late"] = 1
    await world.engine.commit(session, sent=True)
    assert [event.keys for event in world.events()] == [("late",)]


async def test_what_a_5xx_discards_is_gone_from_the_dictionary_too(world: World) -> None:
    await visit(world, n=1, basket=["tea"])
    world.clock.advance(IDLE / 2)
    exchange = world.browser.send()
    session = await exchange.open()
    session["n"] = 2
    session["basket"].append("milk")
    assert "Set-Cookie" in dict(await exchange.answer(status=500))
    exchange.deliver()
    assert session == {"n": 1, "basket": ["tea"]}
    await world.engine.commit(session, status=500, sent=True)
    session["basket"].append("late")
    await world.engine.commit(session, sent=True)
    assert [event.keys for event in world.events()] == [("basket",)]
    assert await world.read() == {"n": 1, "basket": ["tea"]}


async def test_a_life_of_its_own_alone_does_not_make_the_answer_depend_on_the_session(world: World) -> None:
    await visit(world, n=1)
    exchange = world.browser.send()
    (await exchange.open()).set_expiry(idle=60)
    assert [name for name, _ in await exchange.answer()] == ["Set-Cookie", "Cache-Control"]


async def test_a_touch_that_cannot_be_sent_is_not_asked_for_again(world: World) -> None:
    await visit(world, n=1)
    world.clock.advance(IDLE / 2)
    session = await world.engine.open(world.browser.jar.header(), tokens=False)
    assert world.engine.settled(session) is None
    assert await world.engine.commit(session) == []
    assert world.engine.settled(session, sent=True) == []


async def test_what_was_taken_out_at_once_is_compared_anew_once_it_is_in_the_cookie(world: World) -> None:
    await visit(world, flash=["saved"], basket=["tea"], n=1)
    exchange = world.browser.send()
    session = await exchange.open()
    assert await session.set_default("basket", []) == ["tea"]
    session["basket"] = ["tea", "milk"]
    session["n"] = 10**12
    del session["flash"]
    await exchange.answer()
    exchange.deliver()
    late: list[tuple[dict[str, Any], list[tuple[str, ...]]]] = [
        ({"basket": ["tea", "milk"]}, []),
        ({"basket": ["tea"]}, [("basket",)]),
        ({"flash": ["saved"]}, [("flash",)]),
    ]
    for data, told in late:
        session.update(data)
        await world.engine.commit(session, sent=True)
        assert [event.keys for event in world.events()] == told


async def test_the_limit_is_of_what_the_cookie_holds_now() -> None:
    world = World(anonymous="cookie", max_data=100)
    await visit(world, a="x" * 60)
    exchange = world.browser.send()
    session = await exchange.open()
    session["a"] = "x" * 20
    await exchange.answer()
    session["b"] = "y" * 40
    await world.engine.commit(session, sent=True)
    assert [event.keys for event in world.events()] == [("b",)]  # dropped, but not too much


async def test_data_over_a_limit_that_was_lowered_may_shrink_in_the_cookie() -> None:
    world = World(anonymous="cookie", max_data=1000)
    await visit(world, a="x" * 500)
    world.browser.engine = world.engine = world.serve(anonymous="cookie", max_data=100)
    async with world.browser.visit() as session:
        session["a"] = "x" * 400
    assert await world.read() == {"a": "x" * 400}
    assert world.store.take() == []


async def test_keys_that_are_equal_by_rules_of_their_own_are_written_once(world: World) -> None:
    class Key(str):
        __slots__ = ()

        def __hash__(self) -> int:
            return 1

        def __eq__(self, other: object) -> bool:
            return self is other

    await visit(world, n=1)
    async with world.browser.visit() as session:
        session[Key("m")] = 1
        session[Key("m")] = 2
    cookie = world.browser.jar.header()
    for engine in (world.engine, world.serve(anonymous="cookie", timeouts=TIMEOUTS)):
        assert await engine.open(cookie) == {"n": 1, "m": 2}


async def test_a_log_in_after_the_headers_takes_back_what_was_stored_with_it(world: World) -> None:
    """It may belong to a subject that the session does not have."""
    await visit(world, n=1)
    exchange = world.browser.send()
    session = await exchange.open()
    await exchange.answer()
    session["card"] = "secret"
    session.renew(subject="user:42")
    await session.save()
    assert (session, session.subject) == ({"n": 1}, None)
    assert world.happened() == [EventKind.DROPPED_WRITE, EventKind.DROPPED_RENEWAL]
    assert world.store.take() == []


async def test_a_stream_that_outlives_its_session_asks_nobody(world: World) -> None:
    await visit(world, n=1)
    exchange = world.browser.send()
    session = await exchange.open()
    await exchange.answer()
    world.clock.advance(IDLE)
    session["m"] = 1
    await session.save()
    assert world.happened() == [EventKind.DROPPED_WRITE]
    assert world.store.take() == []


@pytest.mark.parametrize("protects", [False, True])
async def test_a_5xx_discards_a_move_and_a_log_out_stands(world: World, protects: bool) -> None:
    await visit(world, n=1)
    async with world.browser.visit(status=503) as session:
        if protects:
            session.protect()
        session.set_expiry(persistent=False)
        session.destroy()
        session["m"] = 1
    assert text(world) == ""
    assert world.store.take() == []


async def test_a_log_out_that_stores_what_has_to_be_protected(world: World) -> None:
    await visit(world, n=1)
    async with world.browser.visit() as session:
        session.destroy()
        session["m"] = 1
        session.protect()
        session.set_expiry(idle=3600, persistent=False)
        session.describe(user_agent="Firefox")
    assert world.store.take() == ["create"]
    record = await world.record(session.id or "")
    assert (record.idle, record.persistent, record.description) == (3600, False, {"user_agent": "Firefox"})
    assert await world.read() == {"m": 1}


async def test_a_log_out_of_what_had_ended_meanwhile_stores_all_the_same(world: World) -> None:
    async with world.browser.visit() as session:
        session.renew(subject="user:42")
    async with world.browser.visit() as session:
        assert await world.engine.revoke_subject("user:42") == 1
        session.destroy()
        session["bye"] = True
    world.store.take()
    assert await world.read() == {"bye": True}
    assert world.store.take() == []


async def test_a_life_of_its_own_ends_with_the_session(world: World) -> None:
    async with world.browser.visit() as session:
        session["n"] = 1
        session.set_expiry(idle=60, persistent=False)
    async with world.browser.visit() as session:
        session.destroy()
        session["n"] = 2
    world.clock.advance(500)
    assert await world.read() == {"n": 2}


async def test_a_cookie_that_is_due_goes_out_with_a_5xx_and_its_data_as_they_were(world: World) -> None:
    await visit(world, n=1)
    world.clock.advance(IDLE / 2)
    before = text(world)
    async with world.browser.visit(status=500) as session:
        session["n"] = 2
    assert text(world) != before
    world.clock.advance(IDLE / 2 + 1)
    assert await world.read() == {"n": 1}


async def test_a_visitor_was_seen_when_the_request_came_and_not_when_it_was_answered(world: World) -> None:
    await visit(world, n=1)
    world.clock.advance(IDLE / 2)
    exchange = world.browser.send()
    (await exchange.open())["n"] = 2
    came = world.clock()
    world.clock.advance(IDLE / 2)
    await exchange.answer()
    exchange.deliver()
    async with world.browser.visit(tokens=False) as session:
        assert session == {"n": 2}
        assert session.seen_at is not None
        assert session.seen_at.timestamp() == came
    world.clock.advance(IDLE / 2)
    assert await world.read() == {}


async def test_a_move_without_tokens_goes_out_all_the_same(world: World) -> None:
    """A prefetch, or a public answer, that stores: the event says so, and no cache keeps it."""
    await visit(world, n=1)
    for tokens, cache_control in ((False, None), (True, "public")):
        exchange = world.browser.send()
        session = await exchange.open(tokens=tokens)
        session.increment("n")
        headers = dict(await exchange.answer(cache_control=cache_control))
        assert headers["Cache-Control"] == "no-store"
        exchange.deliver()
        assert world.happened()[:1] == [EventKind.FORCED_NO_STORE]
        assert (await world.read())["n"] == 2
        world.browser.jar.cookies.clear()
        await visit(world, n=1)


async def test_what_begins_in_a_request_and_is_committed_again_does_not_expire_at_once() -> None:
    world = World(anonymous="cookie")
    session = await world.engine.open(None)
    session["first"] = 1
    await world.engine.commit(session)
    session["second"] = 2
    [cookie] = [value for name, value in await world.engine.commit(session) if name == "Set-Cookie"]
    assert await world.engine.open(cookie.partition(";")[0]) == {"first": 1, "second": 2}


async def test_writing_after_the_response_does_not_postpone_a_move() -> None:
    world = World(anonymous="cookie", write="after_response")
    await visit(world, n=1)
    world.store.around = away
    with pytest.raises(StoreUnavailable):
        async with world.browser.visit() as session:
            session.protect()
    world.recover()
    async with world.browser.visit() as session:
        session.protect()
        session["m"] = 1
    async with world.browser.visit() as session:
        session["k"] = 1
    await world.engine.close()
    assert await world.read() == {"n": 1, "m": 1, "k": 1}


async def test_a_limit_of_the_data_holds_in_the_cookie_too() -> None:
    world = World(anonymous="cookie", max_data=100)
    await visit(world, a="x" * 50)
    exchange = world.browser.send()
    session = await exchange.open()
    session["b"] = "y" * 50
    with pytest.raises(DataError, match=r"session\['b'\]; the limit is 100"):
        await exchange.answer()
    assert world.store.take() == []


async def test_an_outage_leaves_a_visitors_cookie_and_a_users_token(world: World) -> None:
    """A route that does without the database when that is away: what is stored begins no session of a visitor, whose
    cookie would replace the token."""
    async with world.browser.visit() as session:
        session.renew(subject="user:42")
    world.events()
    before = text(world)
    world.store.around = away
    async with world.browser.visit(on_outage="anonymous") as session:
        assert session.verdict == "unavailable"
        session["n"] = 1
    assert text(world) == before
    assert world.happened() == [EventKind.STORE_FAILED, EventKind.DROPPED_WRITE]
    world.browser.jar.cookies.clear()
    async with world.browser.visit(on_outage="anonymous") as session:
        session["n"] = 1
    assert await world.read() == {"n": 1}


@pytest.mark.parametrize("saves", [False, True])
async def test_a_cookie_under_an_old_key_is_signed_anew_as_soon_as_it_can(world: World, saves: bool) -> None:
    await visit(world, n=1)
    before = text(world)
    world.browser.engine = world.serve(keys=["b" * 32, KEY], anonymous="cookie")
    async with world.browser.visit(tokens=False) as session:
        assert session == {"n": 1}
    assert text(world) == before
    async with world.browser.visit() as session:
        if saves:
            await session.save()
    assert text(world) != before
    world.browser.engine = world.serve(keys=["b" * 32], anonymous="cookie")
    assert await world.read() == {"n": 1}
    assert world.store.take() == (["create", "load", "load"] if saves else [])


async def test_a_cookie_under_the_next_key_is_accepted_and_left_alone(world: World) -> None:
    """Else servers with either ring would sign it to and fro."""
    world.browser.engine = world.serve(keys=["b" * 32, KEY], anonymous="cookie")
    await visit(world, n=1)
    before = text(world)
    world.browser.engine = world.serve(keys=[KEY], next_keys=["b" * 32], anonymous="cookie")
    assert await world.read() == {"n": 1}
    assert text(world) == before


async def test_servers_whose_clocks_differ_share_a_visitor(world: World) -> None:
    ahead = world.serve(ahead=120, anonymous="cookie", timeouts=TIMEOUTS)
    for n, engine in enumerate([world.engine, ahead] * 5):
        world.browser.engine = engine
        async with world.browser.visit() as session:
            assert session.get("n", 0) == n
            session["n"] = n + 1
        world.clock.advance(IDLE - 121)
    world.clock.advance(121)
    assert await world.read() == {}


# Cancellation.


@pytest.mark.parametrize("reason", [do.protect(), do.renew(subject="user:42"), do.increment("n")])
@pytest.mark.parametrize("at", ["before", "after"])
async def test_a_cancelled_move_runs_to_its_end_and_the_cookie_stays_good(
    world: World, reason: Change, at: str
) -> None:
    await visit(world, n=1)
    reached, released = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def hold(call: str) -> AsyncGenerator[None]:
        if at == "after":
            yield
        reached.set()
        await released.wait()
        if at == "before":
            yield

    world.store.around = hold
    exchange = world.browser.send()
    reason(await exchange.open())
    commit = asyncio.create_task(exchange.answer())
    await reached.wait()
    commit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await commit
    released.set()
    await world.engine.close()
    assert await world.living() == 1
    assert world.happened() == [EventKind.CREATED]
    assert await world.read() == {"n": 1}  # the browser has not been answered
    assert world.store.take() == ["create"]


async def test_a_move_whose_answer_is_lost_leaves_a_session_that_nobody_can_open(world: World) -> None:
    await visit(world, n=1)
    world.store.around = lost
    with pytest.raises(StoreUnavailable):
        async with world.browser.visit() as session:
            session.protect()
    world.recover()
    assert await world.read() == {"n": 1}
    async with world.browser.visit() as session:
        session.protect()
    assert await world.living() == 2
    assert await world.read() == {"n": 1}


# Old cookies that come back.


def thief_of(world: World) -> Browser:
    """A browser with the cookies that the other one holds now."""
    thief = Browser(world.engine, world.clock)
    thief.jar = world.browser.jar.copy()
    return thief


async def holds(browser: Browser) -> tuple[dict[str, Any], str | None]:
    """The data and the subject of a browser's session."""
    async with browser.visit() as session:
        return session.copy(), session.subject


async def test_a_replay_opens_the_data_as_they_were_until_it_times_out(world: World) -> None:
    await visit(world, voucher="SPRING", basket=["tea"])
    thief = thief_of(world)
    async with world.browser.visit() as session:
        assert session.pop("voucher") == "SPRING"
        session["basket"].clear()
    assert await holds(thief) == ({"voucher": "SPRING", "basket": ["tea"]}, None)
    thief = thief_of(world)  # of the newer one
    assert await holds(thief) == ({"basket": []}, None)
    world.clock.advance(IDLE)
    assert await holds(thief) == ({}, None)


async def test_a_replay_that_is_used_lives_until_the_absolute_timeout_and_no_longer(world: World) -> None:
    await visit(world, n=1)
    thief = thief_of(world)
    begun = world.clock()
    while world.clock() + IDLE / 2 < begun + 86400:
        world.clock.advance(IDLE / 2)
        async with thief.visit() as session:
            assert session["n"] == 1
            session["used"] = world.clock()
            session.set_expiry(idle=10**9)
    world.clock.advance(IDLE / 2)
    assert await holds(thief) == ({}, None)


async def test_a_replay_that_moves_keeps_its_age(world: World) -> None:
    await visit(world, n=1)
    begun = world.clock()
    thief = thief_of(world)
    world.clock.advance(IDLE / 2)
    async with thief.visit() as session:
        session.protect()
    assert (await world.record(session.id or "")).created_at == begun


async def test_a_replay_changes_and_moves_as_a_session_of_its_own_each_time(world: World) -> None:
    await visit(world, n=1)
    thieves = [thief_of(world) for _ in range(3)]
    async with world.browser.visit() as session:
        session["mine"] = "secret"
        session.renew(subject="user:42")
    ids = {session.id}
    for number, thief in enumerate(thieves):
        async with thief.visit() as session:
            session["thief"] = number
            session.protect()
        ids.add(session.id)
        assert await holds(thief) == ({"n": 1, "thief": number}, None)
    assert len(ids) == 4
    assert await holds(world.browser) == ({"n": 1, "mine": "secret"}, "user:42")
    assert len([info async for info in world.engine.sessions("user:42")]) == 1


async def test_a_replay_does_not_end_what_has_moved(world: World) -> None:
    await visit(world, n=1)
    thieves = [thief_of(world) for _ in range(2)]
    async with world.browser.visit() as session:
        session.renew(subject="user:42")
    world.store.take()
    async with thieves[0].visit() as session:
        session.destroy()
    async with thieves[1].visit() as session:
        session.clear()
    assert world.store.take() == []
    async with thieves[1].visit() as session:
        assert session.id is not None
        assert not await world.engine.revoke(session.id)
    assert await holds(world.browser) == ({"n": 1}, "user:42")


@pytest.mark.parametrize("how", ["log-out", "revoked", "everywhere"])
async def test_a_replay_does_not_undo_an_ending(world: World, how: str) -> None:
    await visit(world, n=1)
    thief = thief_of(world)
    async with world.browser.visit() as session:
        session["mine"] = "secret"
        session.renew(subject="user:42")
    user = thief_of(world)
    match how:
        case "log-out":
            async with world.browser.visit() as ending:
                ending.destroy()
        case "revoked":
            assert await world.engine.revoke(session.id or "")
        case _:
            assert await world.engine.revoke_subject("user:42") == 1
    assert await holds(thief) == ({"n": 1}, None)
    assert await holds(user) == ({}, None)
    assert await world.living() == 0
    async with thief.visit() as session:
        session.protect()
    assert await holds(thief) == ({"n": 1}, None)


async def test_what_is_protected_before_it_is_stored_is_in_no_cookie(world: World) -> None:
    await visit(world, n=1)
    thieves = [thief_of(world)]
    async with world.browser.visit() as session:
        session.protect()
        session["voucher"] = "SPRING"
    thieves.append(thief_of(world))
    async with world.browser.visit() as session:
        assert await session.pop_once("voucher") == "SPRING"
    assert [await holds(thief) for thief in thieves] == [({"n": 1}, None)] * 2
    assert await world.read() == {"n": 1}


async def test_two_requests_of_a_visitor_may_both_pop_once_what_one_of_the_database_pops(world: World) -> None:
    await visit(world, flash="hi")
    for expected in (["hi", "hi"], ["hi", None]):
        exchanges = [world.browser.send(), world.browser.send()]
        sessions = [await each.open() for each in exchanges]
        assert [await each.pop_once("flash") for each in sessions] == expected
        for each in exchanges:
            await each.answer()
            each.deliver()
        async with world.browser.visit() as session:
            session["flash"] = "hi"


async def test_who_plants_his_cookie_shares_nothing_after_the_log_in(world: World) -> None:
    """He puts his visitor's session into the victim's browser. Data from before a log-in stay, and so may be his."""
    await visit(world, basket=["planted"])
    planter = thief_of(world)
    async with world.browser.visit() as session:
        session["card"] = "secret"
        session.renew(subject="victim")
    assert await holds(world.browser) == ({"basket": ["planted"], "card": "secret"}, "victim")
    assert await holds(planter) == ({"basket": ["planted"]}, None)


async def test_withdrawing_the_key_ends_all_of_them(world: World) -> None:
    await visit(world, n=1)
    thief = thief_of(world)
    thief.engine = world.serve(keys=["b" * 32], anonymous="cookie")
    assert await holds(thief) == ({}, None)


# Requests in parallel, over the move.


@pytest.mark.parametrize("last", [0, 1])
async def test_two_log_ins_at_once_are_two_sessions_and_the_last_answer_wins(world: World, last: int) -> None:
    await visit(world, basket=["tea"])
    exchanges = [world.browser.send(), world.browser.send()]
    names = ["alice", "bob"]
    for exchange, name in zip(exchanges, names, strict=True):
        session = await exchange.open()
        session["whose"] = name
        session.renew(subject=name)
    for exchange in exchanges:
        await exchange.answer()
    for number in (1 - last, last):
        exchanges[number].deliver()
    assert await holds(world.browser) == ({"basket": ["tea"], "whose": names[last]}, names[last])
    assert await world.living() == 2
    other = Browser(world.engine, world.clock)
    other.jar.receive(exchanges[1 - last].headers)
    assert await holds(other) == ({"basket": ["tea"], "whose": names[1 - last]}, names[1 - last])


async def test_two_log_ins_at_once_count_against_the_limit() -> None:
    world = World(anonymous="cookie", max_sessions=1)
    await visit(world, n=1)
    exchanges = [world.browser.send(), world.browser.send()]
    for exchange in exchanges:
        (await exchange.open()).renew(subject="user:42")
    for exchange in exchanges:
        await exchange.answer()
    assert len([info async for info in world.engine.sessions("user:42")]) == 1


@pytest.mark.parametrize("overtakes", [False, True])
async def test_a_visitors_request_beside_the_log_in(world: World, overtakes: bool) -> None:
    """Whose answer comes last wins. The one that stores leads back to the visitor, and holds nothing of the user's."""
    await visit(world, basket=["tea"])
    storing, entering = world.browser.send(), world.browser.send()
    (await storing.open())["theme"] = "dark"
    session = await entering.open()
    session["card"] = "secret"
    session.renew(subject="user:42")
    for exchange in (entering, storing):
        await exchange.answer()
    for exchange in (entering, storing) if overtakes else (storing, entering):
        exchange.deliver()
    if overtakes:
        assert await holds(world.browser) == ({"basket": ["tea"], "theme": "dark"}, None)
    else:
        assert await holds(world.browser) == ({"basket": ["tea"], "card": "secret"}, "user:42")
    assert await world.living() == 1


@pytest.mark.parametrize(("passed", "subject"), [(0, "user:42"), (IDLE / 10 - 1, "user:42"), (IDLE / 10, None)])
async def test_a_visitors_request_that_only_reads_replaces_no_token_unless_it_is_due(
    world: World, passed: float, subject: str | None
) -> None:
    await visit(world, n=1)
    world.clock.advance(passed)
    reading, entering = world.browser.send(), world.browser.send()
    await reading.open()
    (await entering.open()).renew(subject="user:42")
    for exchange in (entering, reading):
        await exchange.answer()
        exchange.deliver()
    assert await holds(world.browser) == ({"n": 1}, subject)


async def test_a_log_out_beside_a_request_that_stores(world: World) -> None:
    """A cookie cannot know that it was deleted: the last answer wins, here too."""
    await visit(world, n=1)
    leaving, storing = world.browser.send(), world.browser.send()
    (await leaving.open()).destroy()
    (await storing.open())["m"] = 1
    for exchange in (leaving, storing):
        await exchange.answer()
        exchange.deliver()
    assert await holds(world.browser) == ({"n": 1, "m": 1}, None)


async def test_a_log_out_of_a_user_beside_what_he_was_as_a_visitor(world: World) -> None:
    await visit(world, n=1)
    straggler = world.browser.send()
    async with world.browser.visit() as session:
        session["card"] = "secret"
        session.renew(subject="user:42")
    async with world.browser.visit() as session:
        session.destroy()
    (await straggler.open())["m"] = 1
    await straggler.answer()
    straggler.deliver()
    assert await holds(world.browser) == ({"n": 1, "m": 1}, None)
    assert await world.living() == 0
