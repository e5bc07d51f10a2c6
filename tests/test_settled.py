"""``settled``: where it says that there is nothing to commit, a commit would do nothing, and say the same."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from mongosession import Rotation, Session
from mongosession.session import tracker

from .world import KEY, Held, World

DATA = {"n": 1, "basket": ["tea"]}


def past_the_methods(session: Session) -> None:
    """As an extension in C may write."""
    dict.__setitem__(session, "n", 2)


def changed_inside(session: Session) -> None:
    session["basket"].append("milk")


def removed(session: Session) -> None:
    del session["n"]


def set_anew(session: Session) -> None:
    session["n"] = 1


def another_type(session: Session) -> None:
    session["n"] = True


def cleared_past_the_methods(session: Session) -> None:
    dict.clear(session)


USES: dict[str, Callable[[Session], object]] = {
    "nothing": lambda session: None,
    "a look": lambda session: session.get("n"),
    "a look inside": lambda session: session.get("basket"),
    "all of it": lambda session: session.copy(),
    "a value": lambda session: session.update(n=2),
    "a container": lambda session: session.update(basket=[]),
    "changed inside": lambda session: changed_inside(session) if "basket" in session else None,
    "removed": lambda session: removed(session) if "n" in session else None,
    "set anew": set_anew,
    "another type": another_type,
    "past the methods": past_the_methods,
    "cleared past the methods": cleared_past_the_methods,
    "cleared": lambda session: session.clear(),
    "an operator": lambda session: session.increment("n"),
    "renewed": lambda session: session.renew(),
    "logged in": lambda session: session.renew(subject="user:42"),
    "logged out": lambda session: session.destroy(),
    "a life of its own": lambda session: session.set_expiry(idle=60),
    "described": lambda session: session.describe(device="phone"),
    "protected": lambda session: session.protect(),
}


async def nobody(world: World) -> str | None:
    return None


async def forged(world: World) -> str | None:
    return f"__Host-session={'A' * 64}"


async def a_visitor(world: World) -> str | None:
    await world.begin(DATA)
    return world.browser.jar.header()


async def somebody(world: World) -> str | None:
    await world.begin(DATA, subject="user:1")
    return world.browser.jar.header()


async def due(world: World) -> str | None:
    cookie = await somebody(world)
    world.clock.advance(5)
    return cookie


async def a_tenth_idle(world: World) -> str | None:
    cookie = await somebody(world)
    world.clock.advance(720)
    return cookie


async def behind(world: World) -> str | None:
    cookie = await somebody(world)
    await world.rotate()
    return cookie


async def ahead(world: World) -> str | None:
    session_id = await world.begin(DATA, subject="user:1")
    await world.rotate()
    await world.manipulate(session_id, generation=0)
    return world.browser.jar.header()


async def late(world: World) -> str | None:
    cookie = await a_visitor(world)
    async with world.browser.visit() as session:
        session.renew(subject="user:2")
    return cookie


async def under_an_old_key(world: World) -> str | None:
    cookie = await a_visitor(world)
    world.engine = world.serve(keys=["n" * 32, KEY])
    return cookie


STATES = (nobody, forged, a_visitor, somebody, due, a_tenth_idle, behind, ahead, late, under_an_old_key)
QUIET = {"nothing", "a look", "a look inside", "all of it"}

WAYS: dict[str, dict[str, Any]] = {
    "": {},
    "not found": {"status": 404},
    "failed": {"status": 500},
    "sent": {"sent": True},
    "sent and failed": {"status": 500, "sent": True},
}


async def opened(
    state: Callable[[World], Any], use: str, anonymous: str, *, lost: bool, repeated: bool
) -> tuple[World, Session]:
    """A request in a world of its own; all that are made alike are alike."""
    world = World(anonymous=anonymous)
    cookie = await state(world)
    session = await world.engine.open(cookie)
    if repeated:
        await world.engine.commit(session)
    if lost:
        tracker(session).lose()
    USES[use](session)
    world.store.take()
    world.events()
    return world, session


@pytest.mark.parametrize("anonymous", ["database", "cookie"])
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
async def test_a_commit_would_do_nothing_and_say_the_same(
    state: Callable[[World], Any], use: str, anonymous: str
) -> None:
    for options in (
        {"lost": False, "repeated": False},
        {"lost": True, "repeated": False},
        {"lost": False, "repeated": True},
    ):
        for how in WAYS.values():
            world, session = await opened(state, use, anonymous, **options)
            said = world.engine.settled(session, **how)
            if said is None:
                continue
            assert tracker(session).answered
            before = vars(tracker(session)).copy()
            headers = await world.engine._commit(session, tracker(session), **how)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
            assert (headers, world.store.take(), world.events()) == (said, [], [])
            assert vars(tracker(session)) == before


@pytest.mark.parametrize("state", [nobody, forged, a_visitor, somebody, late], ids=lambda state: state.__name__)
@pytest.mark.parametrize("use", sorted(QUIET))
async def test_most_requests_are_settled(state: Callable[[World], Any], use: str) -> None:
    world, session = await opened(state, use, "database", lost=False, repeated=False)
    assert world.engine.settled(session) == ([] if use == "nothing" else [("Vary", "Cookie")])
    assert world.engine.settled(session, sent=True) == []


@pytest.mark.parametrize("state", [nobody, forged, a_visitor, late], ids=lambda state: state.__name__)
@pytest.mark.parametrize("use", ["a value", "logged in", "logged out"])
async def test_nothing_is_settled_while_a_write_is_under_way(state: Callable[[World], Any], use: str) -> None:
    world, session = await opened(state, use, "database", lost=False, repeated=False)
    world.store.around = held = Held()
    commit = asyncio.create_task(world.engine.commit(session))
    await asyncio.wait({commit, asyncio.create_task(held.asked.wait())}, return_when=asyncio.FIRST_COMPLETED)
    if commit.done():  # nothing is written, so nothing is under way
        return
    commit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await commit
    for how in WAYS.values():
        assert world.engine.settled(session, **how) is None
    held.answer.set()
    again = await world.engine.commit(session)
    assert ("Set-Cookie" in dict(again)) is (use != "a value" or state is not a_visitor)


async def test_a_write_that_fails_while_it_is_asked_leaves_something_to_do() -> None:
    """Under WSGI the question and the write are on different threads."""
    world, session = await opened(a_visitor, "nothing", "database", lost=False, repeated=False)

    class Failing:
        def done(self) -> bool:
            session["n"] = 2  # what it wrote is to be done again
            return True

    tracker(session).pending = Failing()
    assert world.engine.settled(session) is None


async def test_a_connection_that_lives_on_is_not_settled_once_it_should_be_seen_again() -> None:
    world = World(rotation=Rotation(ttl=None))
    session = await world.engine.open(await a_visitor(world))
    assert world.engine.settled(session, sent=True) == []
    world.clock.advance(719)
    assert world.engine.settled(session, sent=True) == []
    world.clock.advance(1)
    assert world.engine.settled(session, sent=True) is None
    assert world.engine.settled(session) == []  # a request was seen when it came
