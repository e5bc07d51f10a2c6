"""Visitors whose sessions live in a signed cookie, on the days that are not plain: several commits of one request,
log-outs and renewals, requests in parallel, cancelled ones, servers that differ, and cookies that are none of ours.
"""

from typing import Any

import pytest

from mongosession import EventKind, Session, StoreUnavailable, Timeouts

from .world import World, away

IDLE = 600.0


@pytest.fixture
def world() -> World:
    return World(anonymous="cookie", timeouts=Timeouts(idle=IDLE, absolute=86400))


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
