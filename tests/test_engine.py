"""The engine as its users see it, over the memory store: time is moved by hand, chance is seeded, nothing waits."""

import asyncio
import logging
from base64 import urlsafe_b64decode
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any, cast

import pytest

from mongosession import (
    Cookie,
    DataError,
    Event,
    EventKind,
    MemoryStore,
    Rotation,
    Session,
    SessionEngine,
    StoreUnavailable,
    Timeouts,
    Verdict,
)
from mongosession.store import ENDED
from mongosession.testing import Browser, Exchange, HandClock, seeded
from mongosession.values import EMPTY, dump

from .world import KEY, Held, World, away

NEW_KEY = "n" * 32


@pytest.fixture
def world() -> World:
    return World()


def token_of(exchange: Exchange) -> bytes:
    """The token that an answer sets, decoded."""
    (line,) = [value for field, value in exchange.headers if field == "Set-Cookie"]
    return urlsafe_b64decode(line.partition("=")[2].partition(";")[0])


def generation_of(exchange: Exchange) -> int:
    return int.from_bytes(token_of(exchange)[21:27])


# The life of a session.


async def test_times_are_whole_milliseconds_that_have_passed(world: World) -> None:
    """Those of BSON: what the engine compares is what the database keeps. And none is of the future."""
    world.clock.advance(0.0019)
    record = await world.record(await world.begin())
    times = (record.created_at, record.renewed_at, record.rotated_at, record.seen_at)
    assert times == ((world.clock() * 1000 // 1) / 1000,) * 4
    assert record.created_at == pytest.approx(world.clock() - 0.0009, abs=1e-6)


@pytest.mark.parametrize("renews", [False, True])
async def test_a_creation_that_failed_is_tried_again_by_the_next_commit(world: World, renews: bool) -> None:
    """Nobody has the token of the first one, so nothing can be done twice."""
    exchange = world.browser.send()
    session = await exchange.open()
    session["basket"] = ["tea"]
    session.increment("visits")
    if renews:
        session.renew(subject="user:42")
    await world.fail(session)
    world.recover()
    await exchange.answer()
    exchange.deliver()
    async with world.browser.visit() as session:
        assert session == {"basket": ["tea"], "visits": 1}
        assert session.subject == ("user:42" if renews else None)


async def test_a_creation_that_failed_is_dropped_with_an_event_once_the_headers_are_gone(world: World) -> None:
    exchange = world.browser.send()
    session = await exchange.open()
    session["basket"] = ["tea"]
    await world.fail(session)
    world.recover()
    await world.engine.commit(session, sent=True)
    assert [(event.kind, event.keys) for event in world.events()] == [(EventKind.DROPPED_WRITE, ("basket",))]
    assert await world.engine.commit(session, sent=True) == []
    assert world.events() == []


async def test_the_life_of_a_session(world: World) -> None:
    async with world.browser.visit() as session:
        assert (session.verdict, session.is_new, session.id, session.subject) == ("anonymous", True, None, None)
        session["basket"] = ["tea"]
    assert world.happened() == ["created"]
    session_id = session.id
    assert session_id is not None
    assert not session.is_new

    async with world.browser.visit() as session:
        assert (session.verdict, session.is_new, session.id) == ("current", False, session_id)
        session["basket"].append("milk")
    assert world.happened() == []

    world.clock.advance(5)
    async with world.browser.visit() as session:
        assert (session.verdict, session["basket"]) == ("due", ["tea", "milk"])
    assert world.happened() == ["rotated"]

    async with world.browser.visit() as session:
        session.renew(subject="user:42")
        assert session.subject == "user:42"
    assert world.happened() == ["renewed"]

    async with world.browser.visit() as session:
        assert (session.verdict, session.id, session.subject) == ("current", session_id, "user:42")
        assert session == {"basket": ["tea", "milk"]}
        session.destroy()
        assert session == {}
        assert session.subject is None
    assert world.happened() == ["destroyed"]
    assert world.browser.jar.header() is None
    assert await world.living() == 0


async def test_who_stores_nothing_gets_no_session(world: World) -> None:
    for handle in (lambda session: None, lambda session: session.pop("basket", None), Session.clear, Session.renew):
        exchange = world.browser.send()
        handle(await exchange.open())
        await exchange.answer()
        assert not exchange.sends_cookie
    async with world.browser.visit() as session:
        session["basket"] = []
        del session["basket"]
    assert world.store.take() == []
    assert world.happened() == []


async def test_the_headers_of_a_new_session(world: World) -> None:
    exchange = world.browser.send()
    session = await exchange.open()
    session["basket"] = ["tea"]
    vary, set_cookie, cache_control = await exchange.answer()
    assert vary == ("Vary", "Cookie")
    assert cache_control == ("Cache-Control", "no-store")
    name, value = set_cookie
    pair, _, attributes = value.partition("; ")
    assert name == "Set-Cookie"
    assert pair.startswith("__Host-session=")
    assert attributes == "Max-Age=2592000; Path=/; HttpOnly; Secure; SameSite=Lax"


async def test_the_headers_of_a_log_out(world: World) -> None:
    await world.begin()
    exchange = world.browser.send()
    (await exchange.open()).destroy()
    assert await exchange.answer() == [
        ("Vary", "Cookie"),
        (
            "Set-Cookie",
            "__Host-session=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/; HttpOnly; Secure; SameSite=Lax",
        ),
        ("Cache-Control", "no-store"),
    ]


async def test_max_age_is_what_remains_of_the_absolute_timeout(world: World) -> None:
    await world.begin()
    world.clock.advance(100)
    exchange = world.browser.send()
    await exchange.open()
    headers = dict(await exchange.answer())
    assert f"; Max-Age={30 * 86400 - 100};" in headers["Set-Cookie"]


@pytest.mark.parametrize(
    "look", [lambda s: "basket" in s, len, bool, list, lambda s: s.get("basket"), lambda s: s == {}, lambda s: {**s}]
)
async def test_who_looks_at_the_session_varies(world: World, look: Callable[[Session], object]) -> None:
    await world.begin()
    for _ in range(2):
        exchange = world.browser.send()
        look(await exchange.open())
        assert await exchange.answer() == [("Vary", "Cookie")]
        world.browser.jar.cookies.clear()  # true of those without a session, too


async def test_who_does_not_look_does_not_vary(world: World) -> None:
    await world.begin()
    exchange = world.browser.send()
    session = await exchange.open()
    assert (session.verdict, session.is_new, session.subject, session.late) == ("current", False, None, False)
    assert await exchange.answer() == []


async def test_other_cookies_do_not_matter(world: World) -> None:
    await world.begin()
    exchange = world.browser.send()
    assert exchange.cookie is not None
    ours = exchange.cookie
    for cookie in (f"theme=dark; {ours}", f'odd; ={ours}; x="{ours}"; {ours} ;', ["a=1", ours, "__host-session=x"]):
        assert await world.engine.open(cookie) == {"basket": ["tea"]}
    for cookie in ("", [], f"x{ours}", "theme=dark"):
        assert (await world.engine.open(cookie)).verdict == "anonymous"


async def test_what_a_session_tells_of_its_times(world: World) -> None:
    start = world.clock()
    await world.begin()
    world.clock.advance(100)
    async with world.browser.visit() as session:
        times = (session.created_at, session.seen_at, session.expires_at)
    assert [time and time.timestamp() for time in times] == [start, start, start + 7200]
    session = await world.engine.open(None)
    assert (session.created_at, session.seen_at, session.expires_at) == (None, None, None)


# Tokens.


async def test_a_token_rotates_once_its_ttl_has_passed(world: World) -> None:
    session_id = await world.begin()
    for seconds, sends in ((4.999, False), (0.001, True), (4.999, False), (3600, True)):
        world.clock.advance(seconds)
        exchange = world.browser.send()
        await exchange.open()
        await exchange.answer()
        exchange.deliver()
        assert exchange.sends_cookie is sends
    assert (await world.record(session_id)).generation == 2


async def test_parallel_requests_mint_one_successor(world: World) -> None:
    session_id = await world.begin()
    world.clock.advance(5)
    exchanges = [world.browser.send() for _ in range(200)]
    for exchange in exchanges:
        assert (await exchange.open()).verdict == "due"
    for exchange in exchanges:
        await exchange.answer()
    assert [exchange.sends_cookie for exchange in exchanges] == [True] + [False] * 199
    assert (await world.record(session_id)).generation == 1


async def test_parallel_requests_in_several_processes_mint_the_same_successor(world: World) -> None:
    session_id = await world.begin()
    world.clock.advance(5)
    exchanges = [world.browser.send(world.serve()) for _ in range(20)]
    for exchange in exchanges:
        assert (await exchange.open()).verdict == "due"
    for exchange in exchanges:
        await exchange.answer()
    assert len({token_of(exchange) for exchange in exchanges}) == 1
    assert (await world.record(session_id)).generation == 1


async def test_lost_answers_mint_nothing(world: World) -> None:
    session_id = await world.begin()
    exchanges = [world.browser.send() for _ in range(100)]
    for exchange in exchanges:
        world.clock.advance(5)
        assert await exchange.open() == {"basket": ["tea"]}
        await exchange.answer()  # and is lost
        assert generation_of(exchange) == 1
    assert (await world.record(session_id)).generation == 1
    exchanges[-1].deliver()
    async with world.browser.visit() as session:
        assert session.verdict == "due"


async def test_who_is_behind_moves_one_step_and_the_document_does_not(world: World) -> None:
    session_id = await world.begin()
    behind = world.browser.send()
    await world.rotate(2)
    world.clock.advance(5)
    assert await behind.open() == {"basket": ["tea"]}
    await behind.answer()
    assert generation_of(behind) == 1
    assert (await world.record(session_id)).generation == 2


async def test_who_fell_back_gets_the_newest_token(world: World) -> None:
    await world.begin()
    old_jar = world.browser.jar.copy()
    await world.rotate(12)
    world.browser.jar = old_jar
    exchange = world.browser.send()
    assert await exchange.open() == {"basket": ["tea"]}
    await exchange.answer()
    assert generation_of(exchange) == 12
    (event,) = world.events()
    assert (event.kind, event.behind) == ("fell_back", 12)


async def test_a_slow_answer_does_not_throw_the_browser_back(world: World) -> None:
    await world.begin()
    slow = world.browser.send()
    await world.rotate()
    world.clock.advance(5)
    assert (await slow.open()).verdict == "behind"  # token 1 is to be sent
    async with world.browser.visit() as session:
        assert session.verdict == "due"
    await slow.answer()  # and meanwhile the browser has token 2
    assert not slow.sends_cookie


@pytest.mark.parametrize("stores", [False, True])
@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_slow_rotation_does_not_throw_the_browser_back(world: World, elsewhere: bool, stores: bool) -> None:
    """In the process that has rotated meanwhile, it is spared its write unless it stores something; in another one it
    writes, and finds a newer generation there."""
    await world.begin()
    world.clock.advance(5)
    slow = world.browser.send(world.serve() if elsewhere else None)
    session = await slow.open()
    assert session.verdict == "due"
    if stores:
        session["slow"] = True
    for _ in range(2):
        async with world.browser.visit():
            world.clock.advance(5)
    await slow.answer()
    assert not slow.sends_cookie


async def test_a_slow_answer_does_not_undo_a_log_in(world: World) -> None:
    await world.begin()
    slow = world.browser.send()
    world.clock.advance(5)
    assert (await slow.open()).verdict == "due"
    async with world.browser.visit() as session:
        session.renew(subject="user:42")
    await slow.answer()
    assert not slow.sends_cookie
    async with world.browser.visit() as session:
        assert session.subject == "user:42"


@pytest.mark.parametrize("revoked", [False, True])
async def test_no_token_overtakes_the_end_of_its_session(world: World, revoked: bool) -> None:
    session_id = await world.begin()
    behind = world.browser.send()
    await world.rotate()
    world.clock.advance(5)
    due = world.browser.send()
    assert ((await behind.open()).verdict, (await due.open()).verdict) == ("behind", "due")
    if revoked:
        assert await world.engine.revoke(session_id)
    else:
        async with world.browser.visit() as session:
            session.destroy()
    for exchange in (behind, due):
        await exchange.answer()
        assert not exchange.sends_cookie


async def test_without_tokens_nothing_rotates_and_nothing_is_sent(world: World) -> None:
    session_id = await world.begin()
    world.clock.advance(5)
    exchange = world.browser.send()
    session = await exchange.open(tokens=False)
    assert session.verdict == "due"
    session["basket"].append("milk")
    await exchange.answer()
    assert not exchange.sends_cookie
    record = await world.record(session_id)
    assert record.generation == 0
    assert (await world.read())["basket"] == ["tea", "milk"]


async def test_a_back_end_that_drops_cookies_stays_behind_and_harms_nobody(world: World) -> None:
    await world.begin()
    for _ in range(100):
        world.clock.advance(5)
        forwarded = world.browser.send()  # the back end forwards the browser's cookie, and drops the answer's
        await forwarded.open()
        await forwarded.answer()
        async with world.browser.visit() as session:
            assert session == {"basket": ["tea"]}
    assert set(world.happened()) == {"rotated"}


async def test_a_public_response_carries_no_token(world: World) -> None:
    session_id = await world.begin()
    world.clock.advance(5)
    exchange = world.browser.send()
    (await exchange.open())["seen"] = True
    assert await exchange.answer(cache_control="max-age=60, Public") == [("Vary", "Cookie")]
    record = await world.record(session_id)
    assert record.generation == 0
    assert (await world.read())["seen"] is True


@pytest.mark.parametrize("how", [{"cache_control": "public"}, {"tokens": False}])
async def test_a_log_in_in_a_public_response_is_kept_from_caches(world: World, how: dict[str, Any]) -> None:
    exchange = world.browser.send()
    session = await exchange.open(tokens=how.get("tokens", True))
    session.renew(subject="user:42")
    headers = await exchange.answer(cache_control=how.get("cache_control"))
    assert ("Cache-Control", "no-store") in headers
    assert exchange.sends_cookie
    assert sorted(world.happened()) == ["created", "forced_no_store"]


async def test_a_cookie_of_another_name_does_not_verify() -> None:
    world = World()
    await world.begin()
    (token,) = [value for value, _ in world.browser.jar.cookies.values()]
    other = world.serve(cookie=Cookie(name="__Host-other"))
    assert (await other.open(f"__Host-other={token}")).verdict == "invalid"


# The epoch as a fence.


async def test_a_straggler_cannot_write_into_the_session_after_a_log_in(world: World) -> None:
    session_id = await world.begin()
    straggler = world.browser.send()
    session = await straggler.open()
    async with world.browser.visit() as other:
        other.renew(subject="user:42")
    world.events()
    session["basket"] = ["poison"]
    await straggler.answer()
    assert not straggler.sends_cookie
    (event,) = world.events()
    assert (event.kind, event.session_id, event.keys) == ("dropped_write", session_id, ("basket",))
    assert await world.read() == {"basket": ["tea"]}
    assert session.id is None
    assert session.late


@pytest.mark.parametrize("ending", ["destroy", "revoke", "expiry", "copied"])
async def test_no_write_resurrects_a_session(world: World, ending: str) -> None:
    session_id = await world.begin()
    stale = world.browser.jar.copy()
    straggler = world.browser.send()
    session = await straggler.open()
    if ending == "destroy":
        async with world.browser.visit() as other:
            other.destroy()
    elif ending == "revoke":
        assert await world.engine.revoke(session_id)
    elif ending == "expiry":
        world.lose_everything()
    else:
        await world.rotate(13)
        world.browser.jar = stale
        async with world.browser.visit() as other:
            assert other.verdict == "copied"
    world.events()
    session["basket"].append("milk")
    await straggler.answer()
    assert world.happened() == ["dropped_write"]
    assert not straggler.sends_cookie
    assert await world.living() == 0
    record = await world.memory.load(bytes.fromhex(session_id))
    assert record is None or (record.data, record.subject, record.epoch) == (EMPTY, None, ENDED)


async def test_a_straggler_renewing_with_a_subject_starts_a_session_of_its_own(world: World) -> None:
    session_id = await world.begin()
    straggler = world.browser.send()
    session = await straggler.open()
    async with world.browser.visit() as other:
        other.renew(subject="user:1")
    session["own"] = 1
    session.renew(subject="user:2")
    await straggler.answer()
    assert straggler.sends_cookie
    assert session.id != session_id
    straggler.deliver()
    async with world.browser.visit() as session:
        assert (session, session.subject) == ({"own": 1}, "user:2")  # no basket: nothing of the other is continued
    assert (await world.record(session_id)).subject == "user:1"


async def test_a_log_in_that_outlives_its_session_shows_only_what_it_set(world: World) -> None:
    """Nothing that ended is continued, by a later change of what the dictionary still showed neither."""
    ended = await world.begin({"basket": ["tea"]})
    exchange = world.browser.send()
    session = await exchange.open()
    await world.engine.revoke(ended)
    session.renew(subject="ann")
    session["own"] = 1
    await exchange.answer()
    exchange.deliver()
    assert session == {"own": 1}
    session["own"] = 2
    assert await session.save()
    assert await world.read() == {"own": 2}


async def test_what_is_stored_once_a_log_in_has_begun_another_session_is_compared_with_that_one(world: World) -> None:
    await world.begin({"n": 1, "list": [1]})
    winner, loser = world.browser.send(), world.browser.send()
    session = await loser.open()
    (await winner.open()).renew(subject="user:42")
    await winner.answer()
    session.renew(subject="user:43")
    assert await session.save()
    assert session == {}
    session["n"] = 1  # as the session held it that was there before
    session["list"] = [1]
    await loser.answer()
    loser.deliver()
    assert await world.read() == {"n": 1, "list": [1]}


async def test_a_save_that_failed_can_be_tried_again(world: World) -> None:
    await world.begin({"hits": 1, "basket": ["tea"]})
    exchange = world.browser.send()
    session = await exchange.open()
    await exchange.answer()
    session["name"] = "ann"
    session["basket"].append("milk")
    session.increment("hits")
    world.events()
    world.store.around = away
    with pytest.raises(StoreUnavailable):
        await session.save()
    dropped = Event(EventKind.DROPPED_WRITE, session.id, keys=("hits",), reason="away")
    assert world.events() == [dropped]  # it may have been applied: an increment is not repeated
    world.recover()
    assert await session.save()
    assert await world.read() == {"hits": 1, "basket": ["tea", "milk"], "name": "ann"}
    session.increment("hits")
    assert await session.save()
    assert (await world.read())["hits"] == 2


async def test_what_several_saves_did_not_manage_can_be_tried_again(world: World) -> None:
    session_id = await world.begin()
    exchange = world.browser.send()
    session = await exchange.open()
    await exchange.answer()
    session["first"] = 1
    world.store.around = held = Held(away=True)
    saves = [asyncio.create_task(session.save())]
    await held.asked.wait()
    session["second"] = 2
    saves.append(asyncio.create_task(session.save()))  # waits for the first
    await asyncio.sleep(0)
    held.answer.set()
    assert [type(result) for result in await asyncio.gather(*saves, return_exceptions=True)] == [StoreUnavailable] * 2
    world.recover()
    await session.save()
    assert (await world.record(session_id)).data == dump({"basket": ["tea"], "first": 1, "second": 2})


async def test_a_log_out_during_a_save_that_fails_is_not_lost(world: World) -> None:
    await world.begin(subject="ann")
    exchange = world.browser.send()
    session = await exchange.open()
    session["step"] = 1
    world.store.around = held = Held(away=True)
    save = asyncio.create_task(session.save())
    await held.asked.wait()
    session.destroy()
    held.answer.set()
    with pytest.raises(StoreUnavailable):
        await save
    world.recover()
    await exchange.answer()
    exchange.deliver()
    assert world.browser.jar.header() is None
    assert await world.living() == 0


async def test_clearing_during_a_save_that_fails_is_not_lost(world: World) -> None:
    session_id = await world.begin()
    exchange = world.browser.send()
    session = await exchange.open()
    session["step"] = 1
    world.store.around = held = Held(away=True)
    save = asyncio.create_task(session.save())
    await held.asked.wait()
    session.clear()
    held.answer.set()
    with pytest.raises(StoreUnavailable):
        await save
    world.recover()
    async with world.browser.visit() as other:
        other["parallel"] = True
    await exchange.answer()
    assert (await world.record(session_id)).data == EMPTY


@pytest.mark.parametrize("saves", [True, False], ids=["save", "commit"])
@pytest.mark.parametrize("begin", [True, False], ids=["renewed", "created"])
async def test_a_write_that_is_cancelled_owes_its_cookie_all_the_same(
    world: World, *, begin: bool, saves: bool
) -> None:
    if begin:
        await world.begin()
    exchange = world.browser.send()
    session = await exchange.open()
    session["name"] = "ann"
    session.renew(subject="ann")
    world.store.around = held = Held()
    save: asyncio.Task[object] = asyncio.create_task(session.save() if saves else world.engine.commit(session))
    await held.asked.wait()
    save.cancel()
    with pytest.raises(asyncio.CancelledError):
        await save
    held.answer.set()
    if not saves:
        await world.engine.close()  # the write has ended
    await exchange.answer()
    exchange.deliver()
    async with world.browser.visit() as session:
        assert (session.subject, session["name"]) == ("ann", "ann")


async def test_what_a_cancelled_save_did_not_manage_goes_with_the_end_of_the_stream(world: World) -> None:
    session_id = await world.begin()
    exchange = world.browser.send()
    session = await exchange.open()
    await exchange.answer()
    session["name"] = "ann"
    world.store.around = held = Held(away=True)
    save = asyncio.create_task(session.save())
    await held.asked.wait()
    save.cancel()
    with pytest.raises(asyncio.CancelledError):
        await save
    end = asyncio.create_task(world.engine.commit(session, sent=True))
    await asyncio.sleep(0)
    world.recover()
    held.answer.set()
    await end
    assert (await world.record(session_id)).data == dump({"basket": ["tea"], "name": "ann"})


async def test_what_a_refused_save_held_is_kept_until_it_can_be_stored(world: World) -> None:
    await world.begin({"n": 1, "hits": 1})
    exchange = world.browser.send()
    session = await exchange.open()
    async with world.browser.visit() as other:
        other["n"] = "text"
        other.increment("hits")
    session["name"] = "ann"
    session.increment("n")
    session.increment("hits")
    for _ in range(2):
        with pytest.raises(DataError, match=r"session\['n'\] was not stored"):
            await session.save()
    session["n"] = 7
    await session.save()
    assert await world.read() == {"n": 7, "hits": 3, "name": "ann"}


async def test_a_refused_save_repeats_no_operator_on_what_was_cleared_meanwhile(world: World) -> None:
    await world.begin({"n": 1})
    exchange = world.browser.send()
    session = await exchange.open()
    async with world.browser.visit() as other:
        other["n"] = "text"
    session.increment("n")
    world.store.around = held = Held()
    save = asyncio.create_task(session.save())
    await held.asked.wait()
    session.clear()
    session["n"] = 2
    held.answer.set()
    with pytest.raises(DataError):
        await save
    await exchange.answer()
    assert await world.read() == {"n": 2}


async def test_a_save_that_overlaps_the_answer_starts_no_epoch(world: World) -> None:
    await world.begin()
    exchange = world.browser.send()
    session = await exchange.open()
    session["step"] = 1
    world.store.around = held = Held()
    answer = asyncio.create_task(exchange.answer())
    await held.asked.wait()
    session.renew(subject="ann")
    save = asyncio.create_task(session.save())  # in a background task: the headers are as good as gone
    await asyncio.sleep(0)
    held.answer.set()
    await answer
    await save
    exchange.deliver()
    assert "dropped_renewal" in world.happened()
    async with world.browser.visit() as session:
        assert (session.verdict, session.subject, session["step"]) == ("current", None, 1)


async def test_what_a_failed_log_in_stored_does_not_reach_the_subject_before(world: World) -> None:
    await world.begin({"basket": ["tea"]}, subject="ann")
    exchange = world.browser.send()
    session = await exchange.open()
    session["basket"].append("milk")
    session.renew(subject="bob")
    session["x"] = ["bob"]
    await exchange.answer(status=500)
    assert session == {"basket": ["tea"]}
    assert session.subject == "ann"
    await session.save()
    session.renew(subject="bob")  # too late: the headers are gone
    session["x"] = ["bob"]
    await session.save()
    assert EventKind.DROPPED_RENEWAL in world.happened()
    assert session == {"basket": ["tea"]}
    session["basket"].append("jam")
    await session.save()
    assert await world.read() == {"basket": ["tea", "jam"]}


async def test_a_second_log_out_leaves_the_cookie_of_a_log_in_between_alone(world: World) -> None:
    await world.begin()
    first, second, log_in = world.browser.send(), world.browser.send(), world.browser.send()
    (await first.open()).destroy()
    await first.answer()  # lost
    (await log_in.open()).renew(subject="ann")
    await log_in.answer()
    log_in.deliver()
    late = await second.open()
    assert late.verdict == "late"
    late.destroy()
    await second.answer()
    second.deliver()
    async with world.browser.visit() as session:
        assert session.subject == "ann"


async def test_a_log_out_that_failed_can_be_tried_again(world: World) -> None:
    await world.begin()
    exchange = world.browser.send()
    session = await exchange.open()
    session.destroy()
    world.store.around = away
    with pytest.raises(StoreUnavailable):
        await session.save()
    world.recover()
    assert not await session.save()
    assert await world.living() == 0


@pytest.mark.parametrize("renew", [Session.renew, lambda session: session.renew(subject=None)])
@pytest.mark.parametrize("revoked", [False, True])
async def test_another_renewal_of_an_ended_session_is_dropped(
    world: World, renew: Callable[[Session], None], revoked: bool
) -> None:
    session_id = await world.begin(subject="user:1")
    straggler = world.browser.send()
    session = await straggler.open()
    if revoked:
        assert await world.engine.revoke_subject("user:1") == 1
    else:
        async with world.browser.visit() as other:
            other.destroy()
    world.events()
    renew(session)
    session["own"] = 1
    await straggler.answer()
    assert not straggler.sends_cookie  # the subject that it would have kept has been logged out
    (event,) = world.events()
    assert (event.kind, event.session_id, event.keys) == ("dropped_renewal", session_id, ("own",))
    assert await world.living() == 0


async def test_what_was_set_before_the_session_starts_empty_does_not_survive_a_lost_renewal(world: World) -> None:
    await world.begin(subject="user:1")
    straggler = world.browser.send()
    session = await straggler.open()
    async with world.browser.visit() as other:
        other.destroy()
    session["before"] = 1
    session.renew(subject="user:2")
    session["after"] = 2
    await straggler.answer()
    straggler.deliver()
    assert await world.read() == {"after": 2}


# Renewal.


async def test_a_renewal_kills_every_older_token_at_once(world: World) -> None:
    await world.begin()
    old_jar = world.browser.jar.copy()
    async with world.browser.visit() as session:
        session.renew(subject="user:42")
    world.browser.jar = old_jar
    async with world.browser.visit() as session:
        assert (session, session.verdict) == ({}, "late")


async def test_from_nobody_to_somebody_the_data_stay(world: World) -> None:
    session_id = await world.begin()
    async with world.browser.visit() as session:
        session["visits"] = 1
        session.renew(subject="user:42")
    async with world.browser.visit() as session:
        assert (session.id, session.subject) == (session_id, "user:42")
        assert session == {"basket": ["tea"], "visits": 1}


@pytest.mark.parametrize("subject", ["user:2", None])
async def test_from_somebody_to_another_or_nobody_the_session_starts_empty(world: World, subject: str | None) -> None:
    session_id = await world.begin(subject="user:1")
    async with world.browser.visit() as session:
        session["before"] = 1
        session.renew(subject=subject)
        assert session == {}
        session["after"] = 2
    async with world.browser.visit() as session:
        assert (session.id, session.subject) == (session_id, subject)
        assert session == {"after": 2}


@pytest.mark.parametrize("again", [Session.renew, lambda session: session.renew(subject="user:1")])
async def test_renewing_the_same_subject_keeps_the_data(world: World, again: Callable[[Session], None]) -> None:
    await world.begin(subject="user:1")
    async with world.browser.visit() as session:
        again(session)
    assert world.happened() == ["renewed"]
    async with world.browser.visit() as session:
        assert (session.subject, session) == ("user:1", {"basket": ["tea"]})


async def test_a_log_in_without_a_session_creates_one(world: World) -> None:
    async with world.browser.visit() as session:
        session.renew(subject="user:42")
    assert world.happened() == ["created"]
    async with world.browser.visit() as session:
        assert (session.subject, session) == ("user:42", {})


async def test_of_renew_and_destroy_the_last_one_counts(world: World) -> None:
    session_id = await world.begin()
    async with world.browser.visit() as session:
        session.renew(subject="user:42")
        session.destroy()
    assert world.happened() == ["destroyed"]
    assert world.browser.jar.header() is None

    session_id = await world.begin()
    async with world.browser.visit() as session:
        session.destroy()
        session.renew(subject="user:42")
    assert world.happened() == ["renewed"]
    async with world.browser.visit() as session:
        assert (session.id, session.subject, session) == (session_id, "user:42", {})  # destroy emptied it


async def test_storing_after_destroy_starts_a_new_session(world: World) -> None:
    session_id = await world.begin(subject="user:42")
    exchange = world.browser.send()
    session = await exchange.open()
    session.destroy()
    session["message"] = "good bye"
    headers = await exchange.answer()
    exchange.deliver()
    assert world.happened() == ["destroyed", "created"]
    assert [field for field, _ in headers].count("Set-Cookie") == 1
    async with world.browser.visit() as session:
        assert (session, session.subject) == ({"message": "good bye"}, None)
        assert session.id != session_id


# Late requests.


async def late(world: World, *, after: str = "log-in") -> Exchange:
    """A request from before a log-in or a log-out that arrives after it."""
    await world.begin()
    exchange = world.browser.send()
    async with world.browser.visit() as session:
        if after == "log-in":
            session.renew(subject="user:42")
        else:
            session.destroy()
    world.events()
    return exchange


@pytest.mark.parametrize("after", ["log-in", "log-out"])
async def test_what_a_late_request_stores_is_dropped(world: World, after: str) -> None:
    exchange = await late(world, after=after)
    world.clock.advance(179.999)
    session = await exchange.open()
    assert (session, session.verdict, session.late, session.is_new) == ({}, "late", True, True)
    assert world.happened() == ["late"]
    session["basket"] = ["poison"]
    await exchange.answer()
    assert not exchange.sends_cookie
    (event,) = world.events()
    assert (event.kind, event.keys) == ("dropped_write", ("basket",))
    if after == "log-in":
        assert await world.read() == {"basket": ["tea"]}


async def test_lateness_ends(world: World) -> None:
    exchange = await late(world)
    world.clock.advance(180)
    session = await exchange.open()
    assert (session.verdict, session.late) == ("ended", False)


async def test_lateness_covers_grace() -> None:
    world = World(rotation=Rotation(grace=300))
    exchange = await late(world)
    world.clock.advance(419)
    assert (await exchange.open()).verdict == "late"


async def test_after_a_revocation_stragglers_are_ended(world: World) -> None:
    session_id = await world.begin()
    exchange = world.browser.send()
    await world.engine.revoke(session_id)
    session = await exchange.open()
    assert (session.verdict, session.late) == ("ended", False)
    session["basket"] = ["new"]
    await exchange.answer()
    assert exchange.sends_cookie


@pytest.mark.parametrize("verdict", ["anonymous", "invalid", "ended", "current"])
async def test_who_may_store_is_not_late(world: World, verdict: str) -> None:
    await world.begin()
    exchange = world.browser.send()
    if verdict == "anonymous":
        exchange.cookie = None
    elif verdict == "invalid":
        exchange.cookie = "__Host-session=" + "A" * 64
    elif verdict == "ended":
        world.clock.advance(7200)
    session = await exchange.open()
    assert (session.verdict, session.late) == (verdict, False)
    session["basket"] = ["new"]
    await exchange.answer()
    assert exchange.sends_cookie is (verdict != "current")


async def test_a_late_log_in_starts_a_session_with_what_it_set(world: World) -> None:
    exchange = await late(world)
    session = await exchange.open()
    session["own"] = 1
    session.renew(subject="user:1")
    await exchange.answer()
    assert world.happened() == ["late", "created"]
    exchange.deliver()
    async with world.browser.visit() as session:
        assert (session, session.subject) == ({"own": 1}, "user:1")


@pytest.mark.parametrize("renew", [Session.renew, lambda session: session.renew(subject=None)])
async def test_another_late_renewal_is_dropped(world: World, renew: Callable[[Session], None]) -> None:
    exchange = await late(world)
    renew(await exchange.open())
    await exchange.answer()
    assert not exchange.sends_cookie
    assert world.happened() == ["late", "dropped_renewal"]


async def test_a_late_log_out_ends_the_session(world: World) -> None:
    exchange = await late(world)
    (await exchange.open()).destroy()
    await exchange.answer()
    exchange.deliver()
    assert world.happened() == ["late", "destroyed"]
    assert world.browser.jar.header() is None
    assert await world.living() == 0


async def test_a_log_out_wins_over_a_renewal(world: World) -> None:
    await world.begin(subject="user:42")
    log_out = world.browser.send()
    (await log_out.open()).destroy()
    async with world.browser.visit() as session:
        session.renew()
    await log_out.answer()
    log_out.deliver()
    assert await world.living() == 0
    assert world.browser.jar.header() is None


# Copied tokens.


async def copied(world: World) -> Exchange:
    """A thief's request: 13 newer tokens exist."""
    await world.begin(subject="user:42")
    exchange = world.browser.send()
    await world.rotate(13)
    return exchange


async def test_a_copied_token_ends_the_session_for_both(world: World) -> None:
    thief = await copied(world)
    session = await thief.open()
    assert (session, session.verdict, session.late) == ({}, "copied", False)
    seen, revoked = world.events()
    assert (seen.kind, seen.behind, seen.subject) == ("copied", 13, "user:42")
    assert (revoked.kind, revoked.reason) == ("revoked", "copied")
    await thief.answer()
    assert not thief.sends_cookie
    async with world.browser.visit() as session:
        assert (session, session.verdict) == ({}, "ended")
    assert await world.living() == 0


async def test_storing_after_the_revocation_creates_a_session(world: World) -> None:
    thief = await copied(world)
    (await thief.open())["basket"] = []
    await thief.answer()
    assert thief.sends_cookie
    assert await world.living() == 1


async def test_a_log_out_after_the_revocation_has_nothing_left_to_end(world: World) -> None:
    thief = await copied(world)
    world.store.take()
    (await thief.open()).destroy()
    await thief.answer()
    assert world.store.take() == ["load", "update"]
    thief.deliver()
    assert world.browser.jar.header() is None


async def test_a_copied_token_may_be_refused_only() -> None:
    world = World(rotation=Rotation(on_copied="refuse"))
    thief = await copied(world)
    session = await thief.open()
    assert (session, session.verdict, session.late) == ({}, "copied", True)
    session["basket"] = ["poison"]
    await thief.answer()
    assert not thief.sends_cookie
    assert world.happened() == ["copied", "dropped_write"]
    assert await world.read() == {"basket": ["tea"]}


async def test_a_refused_token_can_still_log_in_and_log_out() -> None:
    world = World(rotation=Rotation(on_copied="refuse"))
    thief = await copied(world)
    (await thief.open()).renew(subject="user:1")
    await thief.answer()
    assert thief.sends_cookie
    assert await world.living() == 2
    (await thief.open()).destroy()
    await thief.answer()
    assert await world.living() == 1


async def test_an_upload_that_took_long_is_late_and_not_copied(world: World) -> None:
    upload = await copied(world)
    session = await upload.open(large_body=True)
    assert (session.verdict, session.late) == ("late", True)
    assert await world.read() == {"basket": ["tea"]}


async def test_the_revocation_of_a_copy_does_not_hit_a_log_in(world: World) -> None:
    @asynccontextmanager
    async def log_in_meanwhile(call: str) -> AsyncGenerator[None]:
        if call == "update" and not renewed:
            renewed.append(True)
            async with world.browser.visit() as session:
                session.renew(subject="user:42")
        yield

    renewed: list[bool] = []
    thief = await copied(world)
    world.store.around = log_in_meanwhile
    session = await thief.open()
    assert (session.verdict, session.late) == ("copied", True)
    async with world.browser.visit() as session:
        assert (session, session.verdict) == ({"basket": ["tea"]}, "current")


async def test_the_plain_rule_of_2011() -> None:
    world = World(rotation=Rotation(grace=0, on_copied="refuse"))
    await world.begin()
    jars = [world.browser.jar.copy()]
    for _ in range(3):
        await world.rotate()
        jars.append(world.browser.jar.copy())
    verdicts: list[Verdict] = []
    for jar in jars:
        world.browser.jar = jar
        async with world.browser.visit() as session:
            verdicts.append(session.verdict)
    assert verdicts == ["copied", "behind", "behind", "current"]


# Several cookies of our name.


async def test_of_several_cookies_of_a_session_the_newest_counts(world: World) -> None:
    await world.begin()
    old = world.browser.send().cookie
    await world.rotate(2)
    new = world.browser.send().cookie
    for cookie in (f"{old}; {new}", f"{new}; {old}", [f"{old}", f"{new}"]):
        assert (await world.engine.open(cookie)).verdict == "current"
    assert world.happened() == []


async def test_of_several_cookies_the_living_epoch_counts(world: World) -> None:
    await world.begin()
    await world.rotate(5)
    before = world.browser.send().cookie
    async with world.browser.visit() as session:
        session.renew()
    after = world.browser.send().cookie
    for cookie in (f"{before}; {after}", f"{after}; {before}"):
        assert (await world.engine.open(cookie)).verdict == "current"


async def test_cookies_that_do_not_verify_do_not_count(world: World) -> None:
    await world.begin()
    ours = world.browser.send().cookie
    forged = "__Host-session=" + "A" * 64
    assert await world.engine.open(f"{forged}; {ours}; {forged}; __Host-session=") == {"basket": ["tea"]}


async def test_cookies_of_several_sessions_open_none(world: World) -> None:
    await world.begin()
    one = world.browser.send().cookie
    world.browser.jar.cookies.clear()
    await world.begin()
    two = world.browser.send().cookie
    world.store.take()
    session = await world.engine.open(f"{one}; {two}")
    assert (session, session.verdict) == ({}, "invalid")
    assert world.happened() == ["several_cookies"]
    assert world.store.take() == []


# Statuses, streams, saving.


@pytest.mark.parametrize("status", [500, 503, 599])
async def test_a_5xx_discards_data_and_renewals(world: World, status: int) -> None:
    session_id = await world.begin()
    before = await world.record(session_id)
    async with world.browser.visit(status=status) as session:
        session["basket"].append("milk")
        session.renew(subject="user:42")
    assert await world.record(session_id) == before
    assert world.happened() == []
    assert await world.read() == {"basket": ["tea"]}


async def test_a_5xx_creates_nothing(world: World) -> None:
    async with world.browser.visit(status=500) as session:
        session["basket"] = ["tea"]
        session.renew(subject="user:42")
    assert await world.living() == 0
    assert world.browser.jar.header() is None


async def test_a_5xx_does_not_fail_for_what_cannot_be_stored(world: World) -> None:
    async with world.browser.visit(status=500) as session:
        session["basket"] = object()


async def test_a_5xx_discards_neither_a_rotation_nor_a_log_out(world: World) -> None:
    await world.begin()
    world.clock.advance(5)
    async with world.browser.visit(status=500) as session:
        session["basket"].append("milk")
    assert world.happened() == ["rotated"]
    async with world.browser.visit(status=500) as session:
        assert session == {"basket": ["tea"]}
        session.destroy()
        session["message"] = "good bye"
    assert world.happened() == ["destroyed"]
    assert world.browser.jar.header() is None
    assert await world.living() == 0


@pytest.mark.parametrize("status", [200, 302, 404, 499])
async def test_other_statuses_store(world: World, status: int) -> None:
    async with world.browser.visit(status=status) as session:
        session["basket"] = ["tea"]
    assert await world.read() == {"basket": ["tea"]}


async def test_what_is_stored_while_streaming_is_written_at_the_end(world: World) -> None:
    await world.begin()
    world.clock.advance(5)
    exchange = world.browser.send()
    session = await exchange.open()
    session["one"] = 1
    await exchange.answer()
    assert generation_of(exchange) == 1
    session["two"] = 2
    session["basket"].append("milk")
    assert await world.engine.commit(session, sent=True) == []
    assert await world.engine.commit(session, sent=True) == []
    assert world.store.take()[-3:] == ["load", "update", "update"]
    exchange.deliver()
    assert await world.read() == {"basket": ["tea", "milk"], "one": 1, "two": 2}


async def test_a_new_session_can_be_streamed_into(world: World) -> None:
    exchange = world.browser.send()
    session = await exchange.open()
    session["one"] = 1
    await exchange.answer()
    exchange.deliver()
    session["two"] = [2]
    await world.engine.commit(session, sent=True)
    session["two"].append(3)
    await world.engine.commit(session, sent=True)
    assert await world.read() == {"one": 1, "two": [2, 3]}


async def test_a_renewed_session_can_be_streamed_into(world: World) -> None:
    await world.begin()
    exchange = world.browser.send()
    session = await exchange.open()
    session.renew(subject="user:42")
    await exchange.answer()
    exchange.deliver()
    session["two"] = 2
    await world.engine.commit(session, sent=True)
    assert await world.read() == {"basket": ["tea"], "two": 2}


async def test_what_needs_a_cookie_is_dropped_once_the_headers_are_gone(world: World) -> None:
    await world.begin()
    exchange = world.browser.send()
    session = await exchange.open()
    await exchange.answer()
    session["two"] = 2
    session.renew(subject="user:42")
    assert await world.engine.commit(session, sent=True) == []
    assert world.happened() == ["dropped_write", "dropped_renewal"]
    anonymous = await world.engine.open(None)
    await world.engine.commit(anonymous)
    anonymous["basket"] = []
    assert await world.engine.commit(anonymous, sent=True) == []
    assert world.happened() == ["dropped_write"]
    assert await world.read() == {"basket": ["tea"]}


async def test_a_log_out_counts_even_once_the_headers_are_gone(world: World) -> None:
    await world.begin()
    exchange = world.browser.send()
    session = await exchange.open()
    await exchange.answer()
    session.destroy()
    assert await world.engine.commit(session, sent=True) == []
    assert world.happened() == ["destroyed"]
    assert await world.living() == 0


async def test_saving_early_does_not_cost_the_rotation(world: World) -> None:
    session_id = await world.begin()
    world.clock.advance(5)
    exchange = world.browser.send()
    session = await exchange.open()
    session["step"] = 1
    assert await session.save()
    assert (await world.record(session_id)).generation == 0
    await exchange.answer()
    assert generation_of(exchange) == 1
    assert world.happened() == ["rotated"]


async def test_saving_early_does_not_cost_the_next_token(world: World) -> None:
    await world.begin()
    behind = world.browser.send()
    await world.rotate()
    world.clock.advance(5)
    session = await behind.open()
    session["step"] = 1
    assert await session.save()
    await behind.answer()
    assert generation_of(behind) == 1


async def test_a_session_that_is_saved_early_gets_its_cookie_with_the_headers(world: World) -> None:
    exchange = world.browser.send()
    session = await exchange.open()
    assert not await session.save()
    session["step"] = 1
    assert await session.save()
    assert await world.living() == 1
    session["step"] = 2
    await exchange.answer()
    exchange.deliver()
    assert await world.read() == {"step": 2}
    assert world.happened() == ["created"]


async def test_saving_early_again_costs_nothing(world: World) -> None:
    exchange = world.browser.send()
    session = await exchange.open()
    session["step"] = 1
    for _ in range(3):
        assert await session.save()
    await exchange.answer()
    assert exchange.sends_cookie
    assert world.store.take() == ["create", "load"]  # the token goes out only if it is still the newest


async def test_a_session_that_was_saved_early_and_revoked_gets_no_cookie(world: World) -> None:
    exchange = world.browser.send()
    session = await exchange.open()
    session["step"] = 1
    await session.save()
    assert session.id is not None
    await world.engine.revoke(session.id)
    await exchange.answer()
    assert not exchange.sends_cookie


async def test_a_renewal_that_is_saved_early_gets_its_cookie_with_the_headers(world: World) -> None:
    session_id = await world.begin()
    await world.rotate(3)
    world.clock.advance(5)  # due as well: the old epoch's generation must not get into the new one
    exchange = world.browser.send()
    session = await exchange.open()
    session.renew(subject="user:42")
    assert await session.save()
    session["step"] = 2
    await exchange.answer()
    exchange.deliver()
    assert (await world.record(session_id)).generation == 0
    async with world.browser.visit() as session:
        assert (session.verdict, session.subject, session) == ("current", "user:42", {"basket": ["tea"], "step": 2})


async def test_a_log_out_that_is_saved_early_deletes_the_cookie_with_the_headers(world: World) -> None:
    await world.begin()
    exchange = world.browser.send()
    session = await exchange.open()
    session.destroy()
    assert not await session.save()
    await exchange.answer()
    exchange.deliver()
    assert world.browser.jar.header() is None
    assert await world.living() == 0


@pytest.mark.parametrize("sent", [False, True])
async def test_a_log_out_counts_even_where_the_session_was_renewed_meanwhile(world: World, *, sent: bool) -> None:
    await world.begin()
    slow = world.browser.send()
    session = await slow.open()
    async with world.browser.visit() as other:
        other.renew()
    if sent:
        await slow.answer()
    session["n"] = 1
    assert not await session.save()
    session.destroy()
    if sent:
        assert not await session.save()
    else:
        await slow.answer()
    assert await world.living() == 0


async def test_saving_while_streaming_tells_whether_the_session_lives(world: World) -> None:
    session_id = await world.begin()
    exchange = world.browser.send()
    session = await exchange.open()
    await exchange.answer()
    session["step"] = 1
    assert await session.save()
    await world.engine.revoke(session_id)
    world.events()
    session["step"] = 2
    assert not await session.save()
    assert world.happened() == ["dropped_write"]


async def test_what_needs_a_cookie_cannot_be_saved_while_streaming(world: World) -> None:
    session_id = await world.begin()
    session = await world.browser.send().open()
    await world.engine.commit(session)
    session.renew(subject="user:42")
    assert await session.save()  # the session is still the one it was
    assert (session.id, session.subject) == (session_id, None)
    anonymous = await world.engine.open(None)
    await world.engine.commit(anonymous)
    anonymous["step"] = 1
    assert not await anonymous.save()
    assert world.happened() == ["dropped_renewal", "dropped_write"]
    assert await world.living() == 1


async def test_parallel_saves_of_one_session_keep_their_order(world: World) -> None:
    async def save(value: int) -> None:
        session["step"] = value
        await session.save()

    await world.begin()
    session = await world.browser.send().open()
    await world.engine.commit(session)
    await asyncio.gather(*map(save, range(20)))
    assert (await world.read())["step"] == 19


# A change of keys.


@pytest.mark.parametrize("seed", range(3))
async def test_a_change_of_keys_logs_nobody_out(world: World, seed: int) -> None:
    rings: list[dict[str, Any]] = [
        {"keys": [KEY]},
        {"keys": [KEY], "next_keys": [NEW_KEY]},
        {"keys": [NEW_KEY, KEY]},
        {"keys": [NEW_KEY]},
    ]
    chance = seeded(seed)
    await world.begin()
    for before, after in pairwise(rings):
        servers = [world.serve(**before), world.serve(**after)]  # half of them have the new configuration
        for step in range(60):
            if step == 50:
                servers = servers[1:]  # all have it, and the browser comes by
            world.clock.advance(chance(1)[0] % 4)
            exchanges = [world.browser.send(servers[chance(1)[0] % len(servers)]) for _ in range(1 + chance(1)[0] % 3)]
            for exchange in exchanges:
                assert await exchange.open() == {"basket": ["tea"]}
            for exchange in exchanges:
                await exchange.answer()
                if chance(1)[0] % 3:
                    exchange.deliver()
    assert set(world.happened()) == {"rotated"}


async def test_a_token_under_an_old_key_is_sent_again_under_the_primary(world: World) -> None:
    session_id = await world.begin()
    exchange = world.browser.send(world.serve(keys=[NEW_KEY, KEY]))
    assert (await exchange.open()).verdict == "current"
    await exchange.answer()
    exchange.deliver()
    assert generation_of(exchange) == (await world.record(session_id)).generation == 0
    world.browser.engine = world.serve(keys=[NEW_KEY])
    assert await world.read() == {"basket": ["tea"]}


async def test_who_is_behind_is_not_sent_his_token_again(world: World) -> None:
    await world.begin()
    behind = world.browser.send(world.serve(keys=[NEW_KEY, KEY]))
    await world.rotate()
    assert (await behind.open()).verdict == "behind"
    await behind.answer()
    assert not behind.sends_cookie


async def test_a_token_under_the_next_key_is_accepted_and_left_alone(world: World) -> None:
    world.browser.engine = world.serve(keys=[NEW_KEY])
    await world.begin()
    world.store.take()
    exchange = world.browser.send(world.serve(keys=[KEY], next_keys=[NEW_KEY]))
    assert (await exchange.open()).verdict == "current"
    await exchange.answer()
    assert not exchange.sends_cookie
    assert world.store.take() == ["load"]


async def test_a_withdrawn_key_opens_nothing(world: World) -> None:
    await world.begin()
    assert (await world.browser.send(world.serve(keys=[NEW_KEY])).open()).verdict == "invalid"


async def test_a_slow_answer_under_the_new_key_does_not_undo_a_log_in(world: World) -> None:
    await world.begin()
    server = world.serve(keys=[NEW_KEY, KEY])
    slow = world.browser.send(server)
    await slow.open()
    world.browser.engine = server
    async with world.browser.visit() as session:
        session.renew(subject="user:42")
    await slow.answer()
    assert not slow.sends_cookie


# Timeouts.


async def test_the_idle_timeout(world: World) -> None:
    await world.begin()
    for _ in range(3):
        world.clock.advance(7199)
        assert await world.read() == {"basket": ["tea"]}
    world.clock.advance(7200)
    async with world.browser.visit() as session:
        assert (session, session.verdict) == ({}, "ended")


async def test_the_idle_timeout_is_exact_to_a_tenth() -> None:
    world = World(rotation=Rotation(ttl=None))
    session_id = await world.begin()
    start = world.clock()
    for seconds, seen in ((719, 0), (1, 720), (719, 720), (1, 1440)):
        world.clock.advance(seconds)
        await world.read()
        record = await world.record(session_id)
        assert (record.seen_at, record.expires_at) == (start + seen, start + seen + 7200)


async def test_the_absolute_timeout_ends_an_active_session() -> None:
    world = World(timeouts=Timeouts(idle=600, absolute=3600))
    session_id = await world.begin()
    for _ in range(7):
        world.clock.advance(500)
        async with world.browser.visit() as session:
            assert session.verdict == "due"
    assert (await world.record(session_id)).expires_at == world.clock() + 100
    last = world.browser.send()
    world.clock.advance(100)
    assert world.browser.jar.header() is None  # Max-Age has run out
    assert (await last.open()).verdict == "invalid"


async def test_a_log_in_restarts_the_absolute_timeout_and_a_plain_renewal_does_not() -> None:
    world = World(timeouts=Timeouts(idle=3600, absolute=3600))
    session_id = await world.begin()
    start = world.clock()
    world.clock.advance(1000)
    async with world.browser.visit() as session:
        session.renew()
    assert (await world.record(session_id)).created_at == start
    world.clock.advance(1000)
    async with world.browser.visit() as session:
        session.renew(subject="user:42")
    assert (await world.record(session_id)).created_at == start + 2000
    world.clock.advance(3599)
    async with world.browser.visit() as session:
        assert session.subject == "user:42"
        session.renew(subject=None)
    assert (await world.record(session_id)).created_at == start + 2000


async def test_an_expired_session_cannot_be_revived_by_its_document(world: World) -> None:
    session_id = await world.begin()
    world.clock.advance(7200)  # the TTL monitor is stopped: the document is still there
    exchange = world.browser.send()
    session = await exchange.open()
    assert session.id is None
    session["basket"] = ["new"]
    await exchange.answer()
    exchange.deliver()
    assert session.id != session_id
    assert await world.read() == {"basket": ["new"]}


# What failovers and broken clocks leave behind.


async def test_a_rotation_that_was_rolled_back_heals(world: World) -> None:
    session_id = await world.begin()
    before = await world.record(session_id)
    await world.rotate(2)
    await world.manipulate(session_id, generation=before.generation, rotated_at=before.rotated_at)
    exchange = world.browser.send()
    session = await exchange.open()
    assert (session.verdict, session) == ("ahead", {"basket": ["tea"]})
    await exchange.answer()
    assert not exchange.sends_cookie
    assert world.happened() == ["healed"]
    assert (await world.record(session_id)).generation == 2
    async with world.browser.visit() as session:
        assert session.verdict == "current"


@pytest.mark.parametrize("how", [{"tokens": False}, {"cache_control": "public"}])
async def test_what_was_rolled_back_heals_even_where_no_token_is_sent(world: World, how: dict[str, Any]) -> None:
    session_id = await world.begin()
    await world.rotate(2)
    await world.manipulate(session_id, generation=0)
    exchange = world.browser.send()
    await exchange.open(tokens=how.get("tokens", True))
    await exchange.answer(cache_control=how.get("cache_control"))
    assert (await world.record(session_id)).generation == 2


@pytest.mark.parametrize("days", [2, 10_000])
async def test_a_clock_that_was_far_ahead_stops_no_rotation(world: World, days: int) -> None:
    session_id = await world.begin()
    await world.manipulate(session_id, rotated_at=world.clock() + days * 86400)
    await world.read()
    assert world.happened() == ["rotated"]
    record = await world.record(session_id)
    assert (record.generation, record.rotated_at) == (1, world.clock())
    await world.rotate()


# Writes after the response.


class Gate:
    """Holds every call of a store until it is opened."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.reached = asyncio.Event()

    @asynccontextmanager
    async def __call__(self, call: str) -> AsyncGenerator[None]:
        self.reached.set()
        await self.open.wait()
        yield


async def test_headers_do_not_wait_for_the_write() -> None:
    world = World(write="after_response")
    await world.begin()
    exchange = world.browser.send()
    session = await exchange.open()
    gate = world.store.around = Gate()
    session["basket"].append("milk")
    assert await exchange.answer() == [("Vary", "Cookie")]
    gate.open.set()
    await world.engine.close()
    assert await world.read() == {"basket": ["tea", "milk"]}


async def test_by_default_headers_wait_for_the_write(world: World) -> None:
    await world.begin()
    exchange = world.browser.send()
    session = await exchange.open()
    gate = world.store.around = Gate()
    session["basket"].append("milk")
    answer = asyncio.create_task(exchange.answer())
    await gate.reached.wait()
    assert not answer.done()
    gate.open.set()
    assert await answer == [("Vary", "Cookie")]
    assert await world.read() == {"basket": ["tea", "milk"]}


@pytest.mark.parametrize("what", ["creation", "rotation", "renewal", "destroy", "behind"])
async def test_what_brings_a_cookie_never_waits(what: str) -> None:
    world = World(write="after_response")
    exchange = world.browser.send()
    if what != "creation":
        await world.begin()
        exchange = world.browser.send()
    if what == "behind":
        await world.rotate()
    if what in ("rotation", "behind"):
        world.clock.advance(5)
    session = await exchange.open()
    session["basket"] = ["milk"]
    if what == "renewal":
        session.renew(subject="user:42")
    elif what == "destroy":
        session.destroy()
    gate = world.store.around = Gate()
    answer = asyncio.create_task(exchange.answer())
    await gate.reached.wait()
    assert not answer.done()
    gate.open.set()
    await answer
    assert exchange.sends_cookie


async def test_writes_of_one_session_keep_their_order() -> None:
    world = World(write="after_response")
    await world.begin()
    session = await world.browser.send().open()
    gate = world.store.around = Gate()
    session["step"] = 1
    await world.engine.commit(session)
    session["step"] = 2
    second = asyncio.create_task(world.engine.commit(session, sent=True))
    await gate.reached.wait()
    assert world.store.take()[-1] == "update"
    assert not second.done()
    gate.open.set()
    await second
    await world.engine.close()
    assert world.store.take() == ["update"]
    assert (await world.read())["step"] == 2


async def test_a_write_that_fails_after_the_response_is_an_event() -> None:
    world = World(write="after_response")
    session_id = await world.begin()
    session = await world.browser.send().open()
    world.store.around = away
    session["basket"] = ["milk"]
    assert await world.engine.commit(session) == [("Vary", "Cookie")]
    await world.engine.close()
    (event,) = world.events()
    assert (event.kind, event.session_id, event.keys, event.reason) == (
        "dropped_write",
        session_id,
        ("basket",),
        "away",
    )


async def test_a_change_that_is_refused_after_the_response_is_an_event() -> None:
    world = World(write="after_response")
    await world.begin({"hits": 1})
    exchange = world.browser.send()
    session = await exchange.open()
    async with world.browser.visit() as other:
        other["hits"] = "many"
    await world.engine.close()
    session.increment("hits")
    await exchange.answer()
    await world.engine.close()
    (event,) = world.events()
    assert (event.kind, event.keys) == ("dropped_write", ("hits",))


async def test_what_cannot_be_stored_is_an_error_even_then() -> None:
    world = World(write="after_response")
    await world.begin()
    with pytest.raises(DataError):
        async with world.browser.visit() as session:
            session["basket"] = object()


async def test_close_waits_for_all_writes() -> None:
    world = World(write="after_response")
    browsers = [Browser(world.engine, world.clock) for _ in range(10)]
    for browser in browsers:
        async with browser.visit() as session:
            session["step"] = 1
    sessions = [await browser.send().open() for browser in browsers]
    gate = world.store.around = Gate()
    for session in sessions:
        session["step"] = 2
        await world.engine.commit(session)
    closing = asyncio.create_task(world.engine.close())
    await gate.reached.wait()
    assert not closing.done()
    gate.open.set()
    await closing
    for browser in browsers:
        async with browser.visit() as session:
            assert session == {"step": 2}


async def test_close_with_nothing_under_way(world: World) -> None:
    await world.engine.close()
    await world.engine.close()


# Events.


async def test_a_callback_that_raises_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: Event) -> None:
        raise RuntimeError(f"cannot handle {event.kind}")

    clock = HandClock()
    engine = SessionEngine(MemoryStore(), keys=[KEY], on_event=broken, clock=clock, random=seeded(1))
    browser = Browser(engine, clock)
    async with browser.visit() as session:
        session["basket"] = ["tea"]
    async with browser.visit() as session:
        assert session == {"basket": ["tea"]}
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.getMessage() == "on_event raised for created"
    assert record.exc_info is not None


async def test_neither_events_nor_logs_hold_a_credential(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="mongosession")
    told: list[str] = []
    exchange = world.browser.send()
    (await exchange.open()).update(basket=["tea"])
    await exchange.answer()
    exchange.deliver()
    token = token_of(exchange)
    text = dict(exchange.headers)["Set-Cookie"].partition("=")[2].partition(";")[0]
    other = world.browser.send()
    world.browser.jar.cookies.clear()
    await world.begin()
    await world.engine.open(f"{other.cookie}; {world.browser.send().cookie}")
    for end in (lambda s: s.renew(subject="user:42"), Session.destroy):
        end(await other.open())
        await other.answer()
    told += [repr(event) for event in world.events()]
    told += [f"{record.getMessage()} {vars(record)}" for record in caplog.records]
    assert len(told) > 6
    for line in told:
        for secret in (text, token.hex(), token[1:17].hex(), str(token[1:17]), KEY):
            assert secret not in line


async def test_events_are_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    thief = await copied(world)
    await thief.open()
    records = [record for record in caplog.records if record.levelno == logging.WARNING]
    (event,) = [vars(record)["session_event"] for record in records]
    assert event.kind == "copied"
    assert event.session_id in records[0].getMessage()


# Listing and revoking.


async def devices(world: World, subject: str, count: int) -> list[Browser]:
    """Browsers that are logged in."""
    browsers = [Browser(world.engine, world.clock) for _ in range(count)]
    for browser in browsers:
        async with browser.visit() as session:
            session.renew(subject=subject)
        world.clock.advance(1)
    world.events()
    return browsers


async def who(browser: Browser) -> str | None:
    async with browser.visit() as session:
        return session.subject


async def test_the_sessions_of_a_subject_are_listed(world: World) -> None:
    start = world.clock()
    browsers = await devices(world, "user:1", 3)
    await devices(world, "user:2", 1)
    async with browsers[0].visit() as session:
        session.destroy()
    found = sorted([each async for each in world.engine.sessions("user:1")], key=lambda each: each.created_at)
    assert [each.subject for each in found] == ["user:1", "user:1"]
    assert [each.created_at.timestamp() - start for each in found] == [1, 2]
    assert [each.seen_at.timestamp() - start for each in found] == [1, 2]
    assert [each.expires_at.timestamp() - start for each in found] == [7201, 7202]
    world.clock.advance(7200 - 3)  # the second is over, whatever the TTL monitor says
    assert [each.id async for each in world.engine.sessions("user:1")] == [found[1].id]
    assert [each async for each in world.engine.sessions("user:3")] == []


async def test_a_session_can_be_revoked(world: World) -> None:
    one, two = await devices(world, "user:1", 2)
    async with one.visit() as session:
        session_id = session.id
    assert session_id is not None
    assert await world.engine.revoke(session_id)
    (event,) = world.events()
    assert (event.kind, event.session_id, event.reason) == ("revoked", session_id, "revoked")
    assert (await who(one), await who(two)) == (None, "user:1")
    assert not await world.engine.revoke(session_id)
    assert not await world.engine.revoke("00" * 16)
    assert world.happened() == []


@pytest.mark.parametrize("session_id", ["", "user:42", "0f", "0" * 31, "0" * 34, "zz" * 16])
async def test_what_is_no_session_id_cannot_be_revoked(world: World, session_id: str) -> None:
    with pytest.raises(ValueError, match="32 hexadecimal digits"):
        await world.engine.revoke(session_id)


@pytest.mark.parametrize("session_id", [None, b"0" * 32, 0])
async def test_a_session_id_is_a_text(world: World, session_id: Any) -> None:
    with pytest.raises(TypeError, match="it must be a str"):
        await world.engine.revoke(session_id)


async def test_a_subject_can_be_logged_out_everywhere(world: World) -> None:
    browsers = await devices(world, "user:1", 3)
    (other,) = await devices(world, "user:2", 1)
    assert await world.engine.revoke_subject("user:1") == 3
    assert [(event.kind, event.subject) for event in world.events()] == [("revoked", "user:1")] * 3
    assert [await who(browser) for browser in browsers] == [None] * 3
    assert await who(other) == "user:2"
    assert await world.engine.revoke_subject("user:1") == 0


@pytest.mark.parametrize("subject", [None, 42, b"user:1"])
async def test_nobody_is_not_everybody(world: World, subject: Any) -> None:
    (browser,) = await devices(world, "user:1", 1)
    with pytest.raises(TypeError, match="must be a str"):
        await world.engine.revoke_subject(subject)
    with pytest.raises(TypeError, match="must be a str"):
        await anext(world.engine.sessions(subject))
    assert await who(browser) == "user:1"


async def test_a_subject_can_be_logged_out_everywhere_but_here(world: World) -> None:
    browsers = await devices(world, "user:1", 3)
    async with browsers[1].visit() as session:
        assert await world.engine.revoke_subject("user:1", keep=session) == 2
        session["still"] = "here"
    assert [await who(browser) for browser in browsers] == [None, "user:1", None]


async def test_what_is_kept_is_a_session_and_not_its_id(world: World) -> None:
    (browser,) = await devices(world, "user:1", 1)
    async with browser.visit() as session:
        with pytest.raises(TypeError, match="keep is of type str; it must be a Session, not its id"):
            await world.engine.revoke_subject("user:1", keep=cast(Any, session.id))
    assert await who(browser) == "user:1"


async def test_sessions_that_begin_meanwhile_are_logged_out_too(world: World) -> None:
    @asynccontextmanager
    async def log_in_meanwhile(call: str) -> AsyncGenerator[None]:
        yield
        if call == "find" and len(begun) < 2:
            begun.extend(await devices(world, "user:1", 1))

    begun: list[Browser] = []
    (browser,) = await devices(world, "user:1", 1)
    world.store.around = log_in_meanwhile
    assert await world.engine.revoke_subject("user:1") == 3
    assert [await who(browser) for browser in (browser, *begun)] == [None] * 3


async def test_a_log_out_everywhere_does_not_wait_for_each_in_turn(world: World) -> None:
    under_way = most = 0

    @asynccontextmanager
    async def slow(call: str) -> AsyncGenerator[None]:
        nonlocal under_way, most
        under_way += call == "update"
        most = max(most, under_way)
        await asyncio.sleep(0)
        yield
        under_way -= call == "update"

    await devices(world, "user:1", 100)
    world.store.around = slow
    assert await world.engine.revoke_subject("user:1") == 100
    assert 10 < most <= 64  # no more than a pool of connections has


async def test_a_log_out_everywhere_that_fails_leaves_nothing_under_way(world: World) -> None:
    updates = 0

    @asynccontextmanager
    async def fail_once(call: str) -> AsyncGenerator[None]:
        nonlocal updates
        updates += call == "update"
        if updates == 40:
            raise StoreUnavailable("away")
        await asyncio.sleep(0)
        yield

    await devices(world, "user:1", 100)
    world.store.around = fail_once
    tasks = asyncio.all_tasks()
    with pytest.raises(StoreUnavailable, match="away"):
        await world.engine.revoke_subject("user:1")
    assert asyncio.all_tasks() == tasks
    assert world.happened() == ["revoked"] * (updates - 1)
    world.recover()
    assert await world.engine.revoke_subject("user:1") == 100 - (updates - 1)


async def test_who_changed_his_subject_meanwhile_is_not_logged_out(world: World) -> None:
    @asynccontextmanager
    async def change_meanwhile(call: str) -> AsyncGenerator[None]:
        yield
        if call == "find":
            world.store.around = plain
            async with browser.visit() as session:
                session.renew(subject="user:2")

    plain = world.store.around
    (browser,) = await devices(world, "user:1", 1)
    world.store.around = change_meanwhile
    assert await world.engine.revoke_subject("user:1") == 0
    assert await who(browser) == "user:2"


async def test_a_revocation_wins_over_a_renewal(world: World) -> None:
    session_id = await world.begin(subject="user:1")
    exchange = world.browser.send()
    session = await exchange.open()
    session.renew()
    await exchange.answer()
    exchange.deliver()
    assert await world.engine.revoke(session_id)
    assert (await world.browser.send().open()).verdict == "ended"


# Bad input.


@pytest.mark.parametrize(
    "value",
    [
        *("", "=", '"', "A" * 63, "A" * 64, "A" * 65, "A" * 10_000, "\x00" * 64, "ä" * 64, "\ud800" * 64, "%00" * 21),
        *("null", "../../etc/passwd", "A" * 32 + "=" * 32, "A" * 62 + "==", " " * 64, "_" * 64, "-" * 64),
    ],
)
async def test_garbage_costs_nothing(world: World, value: str) -> None:
    session = await world.engine.open([f"__Host-session={value}", "__Host-session", "=;=;", value])
    assert (session, session.verdict, session.late) == ({}, "invalid", False)
    assert await world.engine.commit(session) == [("Vary", "Cookie")]  # the comparison above looked at it
    assert world.store.take() == []
    assert world.happened() == []


async def test_an_id_that_was_not_issued_is_not_adopted(world: World) -> None:
    await world.begin()
    (planted,) = [value for value, _ in world.browser.jar.cookies.values()]
    stranger = Browser(world.engine, world.clock)
    exchange = stranger.send()
    exchange.cookie = f"__Host-session={planted}"
    session = await exchange.open()  # a token that an attacker planted
    session.renew(subject="user:42")
    await exchange.answer()
    exchange.deliver()
    assert (await world.engine.open(f"__Host-session={planted}")).subject is None
    assert await who(stranger) == "user:42"


@pytest.mark.parametrize(
    ("spoil", "key"),
    [
        (lambda session: session.update(spoilt=object()), "spoilt"),
        (lambda session: session.update(spoilt=2**63), "spoilt"),
        (lambda session: session.update(spoilt={1: 2}), "spoilt"),
        (lambda session: session["basket"].append({"deep": {1, 2}}), "basket"),
        (lambda session: session.update(spoilt="x" * 65_536), "spoilt"),
        (lambda session: session.update({1: 2}), None),
    ],
)
@pytest.mark.parametrize("renews", [False, True])
async def test_what_cannot_be_stored_is_an_error_and_nothing_is_written(
    world: World, spoil: Callable[[Session], None], key: str | None, renews: bool
) -> None:
    session_id = await world.begin()
    before = await world.record(session_id)
    world.clock.advance(5)
    exchange = world.browser.send()
    session = await exchange.open()
    session["good"] = 1
    spoil(session)
    if renews:
        session.renew(subject="user:42")
    with pytest.raises(DataError, match=key or "keys must be str") as caught:
        await exchange.answer()
    assert (caught.value.key, caught.value.headers) == (key, [])
    assert await world.record(session_id) == before
    assert world.happened() == []


async def test_the_limit_is_a_setting() -> None:
    world = World(max_data=100)
    async with world.browser.visit() as session:
        session["text"] = "x" * 80
    with pytest.raises(DataError, match=r"limit is 100 .*max_data"):
        async with world.browser.visit() as session:
            session["text"] += "x" * 20
    with pytest.raises(DataError, match="limit is 100"):
        async with world.browser.visit() as session:
            session["more"] = "xx"
    async with world.browser.visit() as session:
        session["text"] = ""


async def test_data_over_a_lowered_limit_can_still_be_read_and_reduced(world: World) -> None:
    await world.begin({"text": "x" * 1000, "more": "y" * 1000})
    world.browser.engine = world.serve(max_data=100)
    async with world.browser.visit() as session:
        assert len(session["text"]) == 1000
        del session["more"]
    assert set(await world.read()) == {"text"}


async def test_a_refused_change_rotates_alone_and_names_the_key(world: World) -> None:
    session_id = await world.begin({"a.b": 1})
    world.clock.advance(5)
    slow = world.browser.send()
    session = await slow.open()
    async with world.browser.visit() as other:
        other["a.b"] = "text"
    session.increment("a.b")
    session["good"] = 1
    with pytest.raises(DataError, match=r"session\['a\.b'\]") as caught:
        await slow.answer()
    assert caught.value.key == "a.b"
    assert [field for field, _ in caught.value.headers] == ["Vary", "Set-Cookie", "Cache-Control"]
    assert (await world.record(session_id)).generation == 1
    assert await world.read() == {"a.b": "text"}


async def test_requests_that_change_different_keys_both_win(world: World) -> None:
    await world.begin({"hits": 0, "log": []})
    exchanges = [world.browser.send() for _ in range(50)]
    sessions = [await exchange.open() for exchange in exchanges]
    for number, session in enumerate(sessions):
        session[f"key {number}"] = number
        session.increment("hits")
        session.append("log", number)
    for exchange in exchanges:
        await exchange.answer()
    expected = {f"key {number}": number for number in range(50)} | {"hits": 50, "log": [*range(50)]}
    assert await world.read() == expected


# Settings that make no sense.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keys": []}, "keys is empty"),
        ({"keys": ["short"]}, "primary key has 5 bytes; it must have at least 32"),
        ({"keys": [KEY, "short"]}, "old key has 5 bytes"),
        ({"keys": [KEY], "next_keys": ["short"]}, "next key has 5 bytes"),
        ({"keys": KEY}, "must be a list"),
        ({"keys": [KEY], "next_keys": NEW_KEY}, "must be a list"),
        ({"keys": [KEY, KEY]}, "twice"),
        ({"keys": [KEY], "next_keys": [KEY]}, "twice"),
        ({"keys": [KEY], "write": "later"}, r"write is 'later'; it must be"),
        ({"keys": [KEY], "max_data": 0}, "max_data is 0; it must be"),
        ({"keys": [KEY], "max_data": 2**24}, "max_data is 16777216; it must be"),
    ],
)
def test_engine_settings_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SessionEngine(MemoryStore(), **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rotation(window=0), r"Rotation\.window is 0"),
        (lambda: Rotation(ttl=0), r"Rotation\.ttl is 0"),
        (lambda: Rotation(grace=0), r"Rotation\.grace is 0 with on_copied='revoke'"),
        (lambda: Timeouts(idle=-1), r"Timeouts\.idle is -1"),
        (lambda: Timeouts(idle=10, absolute=5), r"Timeouts\.idle is 10 and Timeouts\.absolute 5"),
        (lambda: Cookie(name="session", same_site="none", secure=False), r"Cookie\.same_site"),
        (lambda: Cookie(domain="example.org"), r"Cookie\.domain"),
        (lambda: Cookie(path="/shop"), r"Cookie\.path"),
    ],
)
def test_other_settings_that_make_no_sense(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


async def test_real_time_and_chance_are_the_defaults() -> None:
    engine = SessionEngine(MemoryStore(), keys=[KEY])
    await engine.setup()
    first, second = await engine.open(None), await engine.open(None)
    first["a"] = second["a"] = 1
    headers = [dict(await engine.commit(session)) for session in (first, second)]
    assert first.id != second.id
    cookie = headers[0]["Set-Cookie"].partition(";")[0]
    assert await engine.open(cookie) == {"a": 1}


async def test_a_log_out_that_is_saved_at_once_and_repeated_deletes_the_cookie(world: World) -> None:
    await world.begin()
    async with world.browser.visit() as session:
        session.destroy()
        await session.save()
        session.destroy()
    assert world.browser.jar.header() is None
    assert world.store.take()[-2:] == ["load", "update"]
