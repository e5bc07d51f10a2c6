"""What a request costs, counted with the driver's own command listener on a real server, by both drivers."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from mongosession import DataError, Event, EventKind, MongoStore, Rotation, Session, SessionEngine
from mongosession.testing import Browser, CommandCounter, Exchange, HandClock, seeded

from .conftest import Connect

KEY = "k" * 32
OTHER_KEY = "o" * 32

# The commands as the server knows them.
READ, WRITE, CONFIRMED, INSERT = "find", "update", "findAndModify", "insert"


class Site:
    """A site over one collection, its clock, and the commands that its client sends."""

    def __init__(self, collection: Any, counter: CommandCounter) -> None:
        self.collection = collection
        self.counter = counter
        self.clock = HandClock()
        self.chance = seeded(1)
        self.events: list[EventKind] = []
        self.engine = self.serve()
        self.browser = Browser(self.engine, self.clock)

    def serve(self, *, keys: Sequence[str] = (KEY,), **options: Any) -> SessionEngine:
        """A server of this site."""

        def note(event: Event) -> None:
            self.events.append(event.kind)

        store = MongoStore(self.collection)
        return SessionEngine(store, keys=keys, clock=self.clock, random=self.chance, on_event=note, **options)

    async def begin(self, **data: Any) -> None:
        """A session exists, and the browser has its token."""
        async with self.browser.visit() as session:
            session.update({"basket": ["tea"]} | data)
        assert self.browser.jar.cookies

    async def rotate(self, times: int = 1) -> None:
        """The browser comes back as often, each time with a token that is due."""
        for _ in range(times):
            self.clock.advance(5)
            async with self.browser.visit() as session:
                assert session.verdict == "due"

    async def cost(
        self, handle: Callable[[Session], object] = Session.copy, exchange: Exchange | None = None, **how: Any
    ) -> list[str]:
        """The commands of one request, from the cookie to the answer."""
        exchange = exchange or self.browser.send()
        self.counter.take()
        handle(await exchange.open(**how))
        await exchange.answer()
        return self.counter.take()

    async def manipulate(self, update: dict[str, Any]) -> None:
        """Something happened to the document behind the site's back."""
        assert (await self.collection.update_one({}, update)).matched_count == 1


@pytest.fixture
def site(connect: Connect, driver: str) -> Site:
    counter = CommandCounter()
    return Site(connect(driver, listeners=[counter]), counter)


def buy(session: Session) -> None:
    session["basket"].append("milk")


def store(session: Session) -> None:
    session["basket"] = ["tea"]


def log_in(session: Session) -> None:
    session.renew(subject="user:42")


async def test_no_cookie_costs_nothing(site: Site) -> None:
    assert await site.cost() == []


async def test_a_cookie_that_does_not_verify_costs_nothing(site: Site) -> None:
    await site.begin()
    exchange = site.browser.send()
    assert exchange.cookie is not None
    exchange.cookie = exchange.cookie[:-4] + "AAAA"
    assert await site.cost(exchange=exchange) == []
    assert exchange.session is not None
    assert exchange.session.verdict == "invalid"


async def test_a_cookie_past_the_deadline_it_carries_costs_nothing(site: Site) -> None:
    await site.begin()
    exchange = site.browser.send()
    site.clock.advance(30 * 86400)
    assert await site.cost(exchange=exchange) == []
    assert exchange.session is not None
    assert exchange.session.verdict == "invalid"


async def test_cookies_of_two_sessions_cost_nothing(site: Site) -> None:
    await site.begin()
    one = site.browser.send()
    site.browser.jar.cookies.clear()
    await site.begin()
    two = site.browser.send()
    two.cookie = f"{one.cookie}; {two.cookie}"
    assert await site.cost(exchange=two) == []
    assert site.events[-1] == "several_cookies"


async def test_a_current_token_costs_a_read(site: Site) -> None:
    await site.begin()
    assert await site.cost() == [READ]


async def test_a_token_that_is_due_costs_a_read_and_a_confirmed_write(site: Site) -> None:
    await site.begin()
    site.clock.advance(5)
    assert await site.cost() == [READ, CONFIRMED]
    assert site.events[-1] == "rotated"


async def test_a_change_costs_a_read_and_a_write(site: Site) -> None:
    await site.begin()
    assert await site.cost(buy) == [READ, WRITE]


async def test_a_change_and_a_rotation_are_one_write(site: Site) -> None:
    await site.begin()
    site.clock.advance(5)
    assert await site.cost(buy) == [READ, CONFIRMED]
    async with site.browser.visit() as session:
        assert session["basket"] == ["tea", "milk"]


async def test_behind_with_nothing_to_send_costs_a_read(site: Site) -> None:
    await site.begin()
    slow = site.browser.send()
    await site.rotate()
    assert await site.cost(exchange=slow) == [READ]
    assert not slow.sends_cookie


async def test_behind_with_a_token_to_send_costs_two_reads(site: Site) -> None:
    await site.begin()
    slow = site.browser.send()
    await site.rotate()
    site.clock.advance(5)
    assert await site.cost(exchange=slow) == [READ, READ]
    assert slow.sends_cookie


async def test_behind_with_a_token_and_a_change_is_confirmed_by_the_write(site: Site) -> None:
    await site.begin()
    slow = site.browser.send()
    await site.rotate()
    site.clock.advance(5)
    assert await site.cost(buy, slow) == [READ, CONFIRMED]
    assert slow.sends_cookie


async def test_older_than_the_window_costs_two_reads(site: Site) -> None:
    await site.begin()
    fallen = site.browser.send()
    await site.rotate(3)
    assert await site.cost(exchange=fallen) == [READ, READ]
    assert fallen.sends_cookie
    assert site.events[-1] == "fell_back"


async def test_ahead_costs_a_read_and_the_healing(site: Site) -> None:
    await site.begin()
    await site.rotate()
    await site.manipulate({"$inc": {"generation": -1}})
    assert await site.cost() == [READ, WRITE]
    assert site.events[-1] == "healed"


async def test_a_copied_token_costs_a_read_and_the_revocation(site: Site) -> None:
    await site.begin()
    await site.manipulate({"$inc": {"generation": 13}})
    assert await site.cost() == [READ, WRITE]
    assert site.events[-2:] == ["copied", "revoked"]


async def test_an_ended_session_costs_a_read(site: Site) -> None:
    await site.begin()
    await site.collection.delete_many({})
    assert await site.cost() == [READ]


async def test_creation_is_one_insert(site: Site) -> None:
    assert await site.cost(store) == [INSERT]


async def test_creation_by_a_log_in_is_one_insert(site: Site) -> None:
    assert await site.cost(log_in) == [INSERT]


async def test_renewal_costs_a_read_and_a_confirmed_write(site: Site) -> None:
    await site.begin()
    site.clock.advance(5)  # due besides: the renewal is the rotation
    assert await site.cost(log_in) == [READ, CONFIRMED]


async def test_a_renewal_that_lost_its_session_creates_one(site: Site) -> None:
    await site.begin()
    slow = site.browser.send()
    session = await slow.open()
    async with site.browser.visit() as other:
        other.destroy()
    site.counter.take()
    session.renew(subject="user:42")
    await slow.answer()
    assert site.counter.take() == [CONFIRMED, INSERT]  # three with the read before


async def test_destroy_costs_a_read_and_a_write(site: Site) -> None:
    await site.begin()
    assert await site.cost(Session.destroy) == [READ, WRITE]


async def test_destroy_and_store_costs_a_read_a_write_and_an_insert(site: Site) -> None:
    def start_over(session: Session) -> None:
        session.destroy()
        store(session)

    await site.begin()
    assert await site.cost(start_over) == [READ, WRITE, INSERT]


async def test_a_refused_change_costs_one_write_more_for_the_rotation(site: Site) -> None:
    await site.begin(hits=1)
    site.clock.advance(5)
    exchange = site.browser.send()
    session = await exchange.open()
    await site.manipulate({"$set": {"data.hits": "many"}})
    site.counter.take()
    session.increment("hits")
    with pytest.raises(DataError, match="hits") as caught:
        await exchange.answer()
    assert caught.value.key == "hits"
    assert [field for field, _ in caught.value.headers] == ["Vary", "Set-Cookie", "Cache-Control"]
    assert site.counter.take() == [CONFIRMED, CONFIRMED]  # three with the read before
    exchange.headers = caught.value.headers
    exchange.deliver()
    async with site.browser.visit() as session:
        assert (session.verdict, session["hits"]) == ("current", "many")


async def test_a_refused_change_without_a_rotation_costs_no_second_write(site: Site) -> None:
    await site.begin(hits=1)
    exchange = site.browser.send()
    session = await exchange.open()
    await site.manipulate({"$set": {"data.hits": "many"}})
    site.counter.take()
    session.increment("hits")
    with pytest.raises(DataError, match="hits"):
        await exchange.answer()
    assert site.counter.take() == [WRITE]


async def test_a_token_under_an_old_key_costs_a_second_read(site: Site) -> None:
    await site.begin()
    site.browser.engine = site.serve(keys=[OTHER_KEY, KEY])
    exchange = site.browser.send()
    assert await site.cost(exchange=exchange) == [READ, READ]
    assert exchange.sends_cookie
    exchange.deliver()
    assert await site.cost() == [READ]


async def test_a_touch_costs_a_write(site: Site) -> None:
    site.browser.engine = site.serve(rotation=Rotation(ttl=None))
    await site.begin()
    site.clock.advance(719)
    assert await site.cost() == [READ]
    site.clock.advance(1)
    assert await site.cost() == [READ, WRITE]
    assert await site.cost() == [READ]


async def test_a_touch_rides_on_a_rotation(site: Site) -> None:
    await site.begin()
    site.clock.advance(720)
    assert await site.cost() == [READ, CONFIRMED]
    async with site.browser.visit() as session:
        assert session.seen_at is not None
        assert session.seen_at.timestamp() == site.clock()


async def test_without_tokens_a_due_token_costs_a_read(site: Site) -> None:
    await site.begin()
    site.clock.advance(5)
    assert await site.cost(tokens=False) == [READ]


async def test_a_page_that_changes_nothing_writes_nothing(site: Site) -> None:
    def same(session: Session) -> None:
        session["basket"] = ["tea"]
        session["basket"].append("milk")
        session["basket"].pop()
        session.setdefault("basket", [])

    await site.begin()
    assert await site.cost(same) == [READ]


async def test_listing_and_revoking(site: Site) -> None:
    async with site.browser.visit() as session:
        log_in(session)
    site.counter.take()
    (found,) = [each async for each in site.engine.sessions("user:42")]
    assert site.counter.take() == [READ]
    assert await site.engine.revoke(found.id)
    assert site.counter.take() == [WRITE]
    assert await site.engine.revoke_subject("user:42") == 0
    assert site.counter.take() == [READ]
