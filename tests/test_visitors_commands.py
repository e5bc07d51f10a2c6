"""What visitors cost whose sessions live in a signed cookie, counted with the driver's own listener on a real server;
and what cookies cost that nobody should have sent.
"""

import gc
import itertools
import random
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from inspect import isawaitable
from typing import Any

import pytest

from mongosession import Cookie, MongoStore, Session, SessionEngine, StoreUnavailable, Verdict
from mongosession.signed import MAX_COOKIE
from mongosession.testing import Browser, CommandCounter, HandClock, seeded

from .building import do
from .conftest import CLIENTS, Connect, closed
from .test_commands import INSERT, READ, WRITE, Site
from .test_signed import (
    ALPHABET,
    FOREIGN,
    KEY,
    NAME,
    TEXTS,
    deflate,
    document,
    holding,
    holding_data,
    nested,
    raw_of,
    spelled,
    text_of,
)

Reason = Callable[[Session], object]

REASONS: dict[str, Reason] = {
    "log-in": do.renew(subject="user:42"),
    "renewal": do.renew(),
    "renewal of nobody": do.renew(subject=None),
    "protect": do.protect(),
    "increment": do.increment("hits"),
    "append": do.append("list", 1),
    "add_to_set": do.add_to_set("list", 1),
    "remove_from": do.remove_from("basket", "tea"),
    "pop_once": do.pop_once("basket"),
    "set_default": do.set_default("other", 1),
    "overflow": do.update(noise=seeded(5)(MAX_COOKIE)),
}


async def handle(session: Session, reason: Reason) -> None:
    result = reason(session)
    if isawaitable(result):
        await result


@pytest.fixture
def site(connect: Connect, driver: str) -> Site:
    counter = CommandCounter()
    site = Site(connect(driver, listeners=[counter]), counter)
    site.browser.engine = site.engine = site.serve(anonymous="cookie")
    return site


async def test_a_whole_visit_costs_nothing(site: Site) -> None:
    for page in range(50):
        site.clock.advance(400)
        async with site.browser.visit() as session:
            assert session.get("visits", 0) == page
            session["visits"] = page + 1
            session.setdefault("seen", []).append(page)
        async with site.browser.visit(tokens=False) as session:
            assert session["seen"] == list(range(page + 1))
        async with site.browser.visit(status=404):
            pass
        async with site.browser.visit(status=500) as session:
            session.clear()
    async with site.browser.visit() as session:
        session.destroy()
    assert site.browser.jar.header() is None
    assert site.counter.take() == []
    assert site.events == []


@pytest.mark.parametrize("name", REASONS)
async def test_each_reason_to_move_costs_one_insert(site: Site, name: str) -> None:
    await site.begin(hits=1)
    async with site.browser.visit() as session:
        session["more"] = True
        await handle(session, REASONS[name])
        expected = session.copy()
    assert site.counter.take() == [INSERT]
    async with site.browser.visit() as session:
        assert session == expected
        session.destroy()
    assert site.counter.take() == [READ, WRITE]
    assert site.browser.jar.header() is None
    await site.begin()
    async with site.browser.visit() as session:
        assert session == {"basket": ["tea"]}
    assert site.counter.take() == []


@pytest.mark.parametrize("name", sorted(REASONS.keys() - {"pop_once"}))
async def test_a_first_request_with_a_reason_costs_one_insert(site: Site, name: str) -> None:
    async with site.browser.visit() as session:
        session["basket"] = ["tea"]
        await handle(session, REASONS[name])
        expected = session.copy()
    assert site.counter.take() == [INSERT]
    async with site.browser.visit() as session:
        assert session == expected


async def test_saving_costs_one_insert_and_a_second_look(site: Site) -> None:
    """The token waits for the headers, and may be outdated by then."""
    await site.begin()
    async with site.browser.visit() as session:
        assert await session.save()
        assert await session.save()
    assert site.counter.take() == [INSERT, READ]


async def test_nothing_moves_with_a_5xx(site: Site) -> None:
    await site.begin(hits=1)
    before = site.browser.jar.header()
    for reason in REASONS.values():
        async with site.browser.visit(status=500) as session:
            await handle(session, reason)
    assert site.browser.jar.header() == before
    assert site.counter.take() == []


@pytest.fixture
async def dead(driver: str) -> AsyncIterator[Any]:
    """A collection on a server that is not there."""
    client: Any = CLIENTS[driver]("mongodb://127.0.0.1:9/?directConnection=true", serverSelectionTimeoutMS=50)
    yield client["mongosession_test"]["dead"]
    await closed(client)


async def test_a_move_that_fails_leaves_the_cookie(dead: Any) -> None:
    site = Site(dead, CommandCounter())
    site.browser.engine = engine = site.serve(anonymous="cookie")
    engine.store = MongoStore(dead, timeout=0.05)
    await site.begin(hits=1)
    before = site.browser.jar.header()
    for reason in (REASONS["log-in"], REASONS["increment"], Session.save):  # the driver looks twice a second at most
        with pytest.raises(StoreUnavailable):
            async with site.browser.visit() as session:
                await handle(session, reason)
        assert site.browser.jar.header() == before
    async with site.browser.visit() as session:
        assert session == {"basket": ["tea"], "hits": 1}
        session["visits"] = 1
    async with site.browser.visit() as session:
        assert session == {"basket": ["tea"], "hits": 1, "visits": 1}


# What is no session of ours.


class Gate:
    """An engine that takes signed cookies, over a real server, and the commands that it sends."""

    def __init__(self, collection: Any, counter: CommandCounter) -> None:
        self.counter = counter
        self.clock = HandClock()
        self.engine = SessionEngine(MongoStore(collection), keys=[KEY], clock=self.clock, anonymous="cookie")

    async def refuse(self, *texts: str) -> None:
        """These open nothing, by themselves, twice, and behind others; and nothing is answered to them."""
        for text in texts:
            for header in (f"{NAME}={text}", f"{NAME}={text}; {NAME}={text}", f"theme=dark; {NAME}={text}; {NAME}=x"):
                session = await self.engine.open(header)
                assert session.verdict == "invalid", text
                assert await self.engine.commit(session) == []
                assert session == {}
        assert self.counter.take() == []


@pytest.fixture
def gate(connect: Connect) -> Gate:
    counter = CommandCounter()
    return Gate(connect("pymongo", listeners=[counter]), counter)


async def test_samples_open(gate: Gate) -> None:
    for text in TEXTS:
        session = await gate.engine.open(f"{NAME}={text}")
        assert session.verdict == "current"
        assert session
    assert gate.counter.take() == []


async def test_what_is_cut_short_opens_nothing_at_any_length(gate: Gate) -> None:
    for text in TEXTS:
        await gate.refuse(*(text[:length] for length in range(len(text))), *(text[1:], text + "A", text * 2))


async def test_each_changed_bit_is_noticed(gate: Gate) -> None:
    for text in TEXTS:
        raw = raw_of(text)
        for bit in range(len(raw) * 8):
            changed = bytearray(raw)
            changed[bit // 8] ^= 1 << bit % 8
            session = await gate.engine.open(f"{NAME}={spelled(bytes(changed))}")
            assert session.verdict == "invalid"
    assert gate.counter.take() == []


async def test_what_another_key_purpose_or_cookie_signed_opens_nothing(gate: Gate) -> None:
    payload = raw_of(TEXTS[0])[:-16]
    await gate.refuse(
        text_of(payload, key=b"o" * 32), text_of(payload, purpose="token"), text_of(payload, name="__Host-other")
    )


async def test_what_verifies_and_is_no_session_opens_nothing(gate: Gate) -> None:
    """Only who has the key can make these: bombs, what is nested too deeply, what is no BSON, flags of the future."""
    await gate.refuse(
        holding(deflate(bytes(10**7))[:3000], 1),
        holding(deflate(bytes(2**20)), 1),
        holding(deflate(b"\x0aa\0") + b"\0", 1),
        holding(b"\x0aa\0", 1),
        holding_data(nested(400)),
        holding_data(nested(400, b"\x04")),
        holding(deflate(nested(1200)[4:-1]), 1),
        holding(b"\xff"),
        holding(b"\x02a\0\xff\xff\xff\x7f"),
        holding_data(document(b"\x02a\0\x02\0\0\0\xff\0")),
        holding_data(document(b"\x08a\0\x00\x08a\0\x01")),  # a name that stands twice
        holding_data(document(b"\x03a\0" + document(b"\x08b\0\x00\x08b\0\x01"))),
        holding(b"", 64),
        text_of(b"\x03" + raw_of(TEXTS[0])[1:-16]),
        text_of(raw_of(TEXTS[0])[:20]),
        text_of(b""),
    )


async def test_a_token_is_no_data_and_data_are_no_token(gate: Gate) -> None:
    browser = Browser(gate.engine, gate.clock)
    async with browser.visit() as session:
        session.renew(subject="user:42")
    _, _, text = (browser.jar.header() or "").partition("=")
    gate.counter.take()
    payload = raw_of(text)[:-16]
    await gate.refuse(
        text_of(payload),  # a token's bytes, signed as data
        text_of(b"\x02" + payload[1:]),
        text_of(b"\x01" + raw_of(TEXTS[0])[1:-16], purpose="token"),
        text_of(raw_of(TEXTS[0])[:32], purpose="token"),  # data of a token's length, signed as a token
    )


async def test_data_that_are_as_long_as_a_token(gate: Gate) -> None:
    """64 characters are what tokens have."""
    text = text_of(raw_of(TEXTS[0])[:30] + b"\x0a\0")  # null, under no name: which the library writes otherwise
    assert len(text) == 64
    session = await gate.engine.open(f"{NAME}={text}")
    assert (session, session.verdict) == ({"": None}, "current")
    assert gate.counter.take() == []


async def test_cookies_of_several_sessions_open_nothing(gate: Gate) -> None:
    payload = raw_of(TEXTS[0])[:-16]
    other = text_of(payload[:2] + b"o" * 16 + payload[18:])
    session = await gate.engine.open(f"{NAME}={TEXTS[0]}; {NAME}={other}")
    assert session.verdict == "invalid"
    session = await gate.engine.open([f"{NAME}={TEXTS[0]}", f"{NAME}={TEXTS[0][:-1]}", f"{NAME}={TEXTS[0]}"])
    assert session.verdict == "current"
    assert gate.counter.take() == []


def forgeries(chance: random.Random) -> Iterator[str]:
    """Texts that look more or less like a signed session, and are none; without end."""
    noise = "".join(chance.choices(ALPHABET, k=4096))
    foreign = text_of(raw_of(TEXTS[0])[:-16], key=b"o" * 32)
    for text in itertools.cycle(TEXTS):
        at = chance.randrange(len(text))
        character = chance.choice(ALPHABET.replace(text[at], ""))
        yield text[:at] + character + text[at + 1 :]
        yield text[:at] + chance.choice(FOREIGN) + text[at + 1 :]
        yield text[:at]
        yield text + noise[: chance.randrange(1, 4096)]
        yield "Ag" + noise[: chance.randrange(4096)]
        yield noise + "A"
        yield spelled(b"\x02\x01" + chance.randbytes(chance.randrange(3000)))
        yield foreign
        yield text.swapcase()


async def test_ten_thousand_forgeries_cost_nothing(gate: Gate) -> None:
    forged = (text for text in forgeries(random.Random(1)) if text not in TEXTS)

    async def try_out(texts: Iterable[str]) -> int:
        """Returns how many bytes there are more than before."""
        before = tracemalloc.get_traced_memory()[0]
        for text in texts:
            session = await gate.engine.open(f"{NAME}={text}")
            assert session.verdict is Verdict.INVALID
            assert await gate.engine.commit(session) == []
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before

    tracemalloc.start()
    try:
        await try_out(itertools.islice(forged, 1000))  # what is built once, is built
        grown = await try_out(itertools.islice(forged, 9000))
    finally:
        tracemalloc.stop()
    assert grown < 9000  # less than a byte each
    assert gate.counter.take() == []


async def test_a_header_full_of_cookies(gate: Gate) -> None:
    """As many as a server lets through."""
    forged = itertools.islice((text for text in forgeries(random.Random(2)) if ";" not in text), 300)
    session = await gate.engine.open("; ".join(f"{NAME}={text}" for text in [*forged, *TEXTS]))
    assert session.verdict == "current"
    assert gate.counter.take() == []


async def test_another_name_of_the_cookie_is_another_domain(gate: Gate) -> None:
    other = SessionEngine(
        gate.engine.store, keys=[KEY], clock=gate.clock, anonymous="cookie", cookie=Cookie(name="__Host-other")
    )
    assert (await other.open(f"__Host-other={TEXTS[0]}")).verdict == "invalid"
