"""``opening``: a session at once where nothing has to be waited for, and it is the one that ``open`` gives."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from mongosession import EventKind, Session, StoreUnavailable
from mongosession.session import tracker

from .test_settled import STATES, a_visitor, forged, late, nobody, under_an_old_key
from .world import World, away

# The late one has logged in since, and shows his old cookie.
AT_ONCE = {"database": {nobody, forged}, "cookie": {nobody, forged, a_visitor, under_an_old_key, late}}

ASKED: list[dict[str, Any]] = [
    {},
    {"tokens": False},
    {"large_body": True},
    {"on_outage": "anonymous"},
]


async def shown(world: World, session: Session) -> Any:
    """All that a session is and has behind it."""
    about = {name: value for name, value in vars(tracker(session)).items() if name != "calls"}
    return dict(session), about, world.store.take(), world.events()


@pytest.mark.parametrize("anonymous", ["database", "cookie"])
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
async def test_it_is_what_open_gives_and_at_once_where_no_store_is_asked(
    state: Callable[[World], Any], anonymous: str
) -> None:
    for asked in ASKED:
        found: list[Any] = []
        for at_once in (True, False):
            world = World(anonymous=anonymous)  # what is alike from the start is alike in the end
            cookie = await state(world)
            world.store.take()
            world.events()
            opening = world.engine.opening(cookie, **asked) if at_once else world.engine.open(cookie, **asked)
            if at_once:
                assert isinstance(opening, Session) == (state in AT_ONCE[anonymous])
                assert world.store.take() == []
            found.append(await shown(world, opening if isinstance(opening, Session) else await opening))
        assert found[0] == found[1]


async def test_a_visitor_whose_idle_timeout_is_to_be_moved_waits_for_nothing() -> None:
    world = World(anonymous="cookie")
    await a_visitor(world)
    world.clock.advance(720)
    session = world.engine.opening(world.browser.jar.header())
    assert isinstance(session, Session)
    assert world.engine.settled(session) is None
    assert "Set-Cookie" in dict(await world.engine.commit(session))
    assert world.store.take() == []


async def test_several_cookies_are_judged_on_the_event_loop_where_their_event_belongs() -> None:
    world = World(anonymous="cookie")
    first = await a_visitor(world)
    other = World(anonymous="cookie")
    other.chance(1)  # or both would draw the same
    second = await a_visitor(other)
    assert first != second
    opening = world.engine.opening(f"{first}; {second}")
    assert inspect.iscoroutine(opening)
    assert world.events() == []
    assert (await opening).verdict == "invalid"
    assert world.happened() == [EventKind.SEVERAL_COOKIES]
    opening = world.engine.opening(f"{first}; {first}; a=b")
    assert not isinstance(opening, Session)
    assert await opening == {"n": 1, "basket": ["tea"]}


async def test_an_outage_is_met_where_the_rest_is_awaited() -> None:
    world = World()
    cookie = await a_visitor(world)
    world.store.around = away
    opening = world.engine.opening(cookie)
    assert not isinstance(opening, Session)
    with pytest.raises(StoreUnavailable):
        await opening
    calm = world.engine.opening(cookie, on_outage="anonymous")
    assert not isinstance(calm, Session)
    assert (await asyncio.wait_for(calm, 60)).verdict == "unavailable"
