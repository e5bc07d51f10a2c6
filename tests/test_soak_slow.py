"""The soak's slow databases in short, and that it sees what it is there to see."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mongosession.testing import Jar
from soak.checker import Rule
from soak.slow import BAD, LOSSES, OVERDUE, WAITED, Setup, Site, Tally, run

from .worlds.servers import Running


def test_a_database_that_hangs_or_talks_nonsense() -> None:
    setups = (Setup("uvicorn", "pymongo", "cookie"), Setup("gunicorn", "motor", "database"))
    bad = [each for each in BAD if each.fault in {"hang", "mute", "garble"}]
    result = run(0, 1, setups=setups, bad=bad, deadline=0.5, phase=0.5)
    assert result.failures == []
    assert result.faults == {each.name: 1 for each in bad}
    assert set(result.losses) == {*LOSSES, *map(str, Rule)}
    assert result.did["operations in the history"] > 50
    assert result.did["requests"] > 50


DEADLINE = 0.5


class Fake(Site):
    """A site that answers as it is told."""

    def __init__(
        self, status: int = 200, body: Mapping[str, Any] | None = None, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        running = Running("http://localhost", Path(), Path(), "cookie", 0)
        super().__init__(0, Setup("uvicorn", "pymongo", "cookie"), running, Tally(DEADLINE))
        answer = httpx2.Response(status, headers=list(headers), text=json.dumps(body or {}))
        self.http = httpx2.AsyncClient(base_url="http://localhost", transport=httpx2.MockTransport(lambda _: answer))

    def seen(self) -> set[str]:
        """The losses that were."""
        return {name for name, count in self.tally.losses.items() if count}


class Page(random.Random):
    """Chance that chooses one page."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def choice(self, seq: Any) -> Any:
        return seq[self.number]


READ, WHO, INCREMENT, SET = (Page(number) for number in range(4))
GONE = ("Set-Cookie", "__Host-session=; Path=/; Secure; Max-Age=0")
NEWER = ("Set-Cookie", "__Host-session=AAAA; Path=/; Secure")
LATER = ("Retry-After", "5")


@pytest.mark.parametrize(
    ("site", "losses"),
    [
        (Fake(200), set[str]()),
        (Fake(503, headers=(LATER,)), set[str]()),
        (Fake(503), {"errors other than the documented one"}),
        (Fake(500, headers=(LATER,)), {"errors other than the documented one"}),
        (Fake(503, headers=(LATER, NEWER)), {"cookies sent with an error"}),
        (Fake(503, headers=(LATER, GONE)), {"cookies sent with an error", "cookies deleted"}),
        (Fake(200, headers=(GONE,)), {"cookies deleted"}),
    ],
)
async def test_what_an_answer_may_be(site: Fake, losses: set[str]) -> None:
    await site.people[0].act(READ)
    assert site.seen() == losses


@pytest.mark.parametrize(
    ("pages", "body", "losses"),
    [
        ((WHO,), {"who": "user:0.0"}, set[str]()),
        ((WHO,), {"who": ""}, {"people logged out"}),
        ((WHO,), {"who": "user:0.1"}, {"people logged out"}),
        ((INCREMENT,), {"hits": 1}, set[str]()),
        ((INCREMENT,), {"hits": 2}, {"increments off"}),
        ((INCREMENT, INCREMENT), {"hits": 1}, {"increments off"}),
        ((SET, READ), {"k1": True}, set[str]()),
        ((SET, READ), {}, {"acknowledged writes lost"}),
    ],
)
async def test_what_a_session_may_hold(pages: tuple[Page, ...], body: Mapping[str, Any], losses: set[str]) -> None:
    site = Fake(200, body)
    for page in pages:
        await site.people[0].act(page)
    assert site.seen() == losses


async def test_an_increment_that_was_not_acknowledged_may_have_happened() -> None:
    site = Fake(503, headers=(LATER,))
    person = site.people[0]
    await person.act(INCREMENT)
    for hits in (0, 1):
        site.http = Fake(200, {"hits": hits}).http
        await person.act(READ)
    assert site.seen() == set()


async def test_whoever_has_no_session_is_served() -> None:
    for site, losses in (
        (Fake(200), set[str]()),
        (Fake(200, {"somebody": "else's"}), {"errors other than the documented one"}),
        (Fake(503, headers=(LATER,)), {"errors other than the documented one"}),
    ):
        await site.nobody(Jar(lambda: 0.0))
        assert site.seen() == losses
    for body, losses in (({"n": 2}, set[str]()), ({"n": 1}, {"visitors whose cookie did not do"})):
        site = Fake(200, body)
        await site.visitor(Jar(lambda: 0.0), 2)
        assert site.seen() == losses


@pytest.mark.parametrize(("late", "of", "lost"), [(0, 9, 0), (2, 9, 0), (3, 9, 3), (9, 9, 9)])
def test_who_waits_on_a_busy_machine_waits_for_no_database(late: int, of: int, lost: int) -> None:
    """A server whose workers are used up keeps a good part of those waiting who need no database."""
    tally = Tally(DEADLINE)
    tally.late[0] = [False] * 9
    tally.late[1] = [number < late for number in range(of)]
    tally.judge_times()
    assert tally.losses[WAITED] == lost
    assert not tally.late


@pytest.mark.parametrize(("overdue", "of", "lost"), [(0, 40, 0), (2, 40, 0), (3, 40, 3), (40, 40, 40)])
def test_a_deadline_that_does_not_hold_is_missed_by_many(overdue: int, of: int, lost: int) -> None:
    tally = Tally(DEADLINE)
    tally.overdue[0] = [number < overdue for number in range(of)]
    tally.judge_times()
    assert tally.losses[OVERDUE] == lost
    assert not tally.overdue


async def test_whether_an_answer_is_overdue_is_noted() -> None:
    site = Fake(200)
    for deadline, overdue in ((DEADLINE, False), (-2.0, True)):
        site.tally.deadline = deadline
        await site.nobody(Jar(lambda: 0.0))
        assert site.tally.overdue[0][-1] is overdue


async def test_who_waits_is_noted() -> None:
    site = Fake(200)
    for deadline, late in ((DEADLINE, False), (0.0, True)):
        site.tally.deadline = deadline
        await site.nobody(Jar(lambda: 0.0))
        assert site.tally.late[0][-1] is late
