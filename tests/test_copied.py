"""A copied token on a real server, by both drivers: what the events say, and what becomes of the victim."""

from typing import Any

import pytest

from mongosession import EventKind, MongoStore, Rotation, SessionEngine
from mongosession.testing import Browser, Events, Exchange, HandClock, seeded


class Home:
    """A victim who is logged in, on a real server, and whatever the engine tells."""

    def __init__(self, collection: Any, **rotation: Any) -> None:
        self.collection = collection
        self.clock = HandClock()
        self.events = Events()
        self.engine = SessionEngine(
            MongoStore(collection),
            keys=["k" * 32],
            rotation=Rotation(**rotation),
            clock=self.clock,
            random=seeded(1),
            on_event=self.events,
        )
        self.victim = Browser(self.engine, self.clock)
        self.id = ""

    async def robbed(self, overtaken: int) -> Exchange:
        """The request of a thief who copied the jar before the victim's tokens were rotated so many times."""
        async with self.victim.visit() as session:
            session["basket"] = ["tea"]
            session.renew(subject="user:42")
        assert session.id is not None
        self.id = session.id
        thief = Browser(self.engine, self.clock)
        thief.jar = self.victim.jar.copy()
        for _ in range(overtaken):
            self.clock.advance(5)
            async with self.victim.visit() as session:
                assert session.verdict == "due"
        self.events.clear()
        return thief.send()

    async def document(self) -> Any:
        """The victim's, as the server holds it."""
        return await self.collection.find_one({})


async def test_the_event_of_a_copy_names_the_session_and_how_far_it_is_behind(collection: Any) -> None:
    home = Home(collection)
    thief = await home.robbed(14)
    assert await thief.open() == {}
    copied, revoked = home.events
    assert (copied.kind, copied.session_id, copied.subject, copied.behind) == ("copied", home.id, "user:42", 14)
    assert (revoked.kind, revoked.session_id, revoked.reason) == ("revoked", home.id, "copied")
    async with home.victim.visit() as session:
        assert (session, session.verdict) == ({}, "ended")


@pytest.mark.parametrize("overtaken", [3, 12])
async def test_the_event_of_a_jar_that_fell_back_does_so_too(collection: Any, overtaken: int) -> None:
    home = Home(collection)
    fallen = await home.robbed(overtaken)
    assert (await fallen.open())["basket"] == ["tea"]
    (event,) = home.events
    assert (event.kind, event.session_id, event.subject, event.behind) == ("fell_back", home.id, "user:42", overtaken)


async def test_where_copies_are_only_refused_the_victim_goes_on_untouched(collection: Any) -> None:
    home = Home(collection, on_copied="refuse")
    thief = await home.robbed(13)
    before = await home.document()
    for _ in range(3):  # he may ask as often as he likes
        session = await thief.open()
        assert (session, session.verdict, session.late) == ({}, "copied", True)
        session["basket"] = ["poison"]
        session.increment("hits")
        await thief.answer()
        assert not thief.sends_cookie
    assert await home.document() == before
    assert home.events.kinds == ["copied", "dropped_write"] * 3
    assert {(event.session_id, event.behind) for event in home.events if event.kind is EventKind.COPIED} == {
        (home.id, 13)
    }
    async with home.victim.visit() as session:
        assert (session, session.subject, session.verdict) == ({"basket": ["tea"]}, "user:42", "current")
    home.clock.advance(5)
    async with home.victim.visit() as session:
        assert (session, session.verdict) == ({"basket": ["tea"]}, "due")
