"""The attacks that docs/security.md lists, one test each, and the two weaknesses that are there by design.

Where an attack has a file or a test of its own elsewhere, the page names that; a test here sees that all of them exist.
"""

import ast
import hmac
import inspect
import pickle
import re
import textwrap
import time
import tracemalloc
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from mongosession import Cookie, MemoryStore, SessionEngine, Verdict
from mongosession.keys import MAC_BYTES, KeyRing, Signer
from mongosession.signed import Signed, SignedCodec
from mongosession.tokens import Token, TokenCodec
from mongosession_asgi import SessionMiddleware, get_session

from .building import stored
from .servers import serve
from .world import KEY, World

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "security.md"

NAME = "__Host-session"


@pytest.fixture
def world() -> World:
    return World()


def test_every_test_that_the_page_names_exists() -> None:
    named = re.findall(r"`(test_\w+)\.py(?:::(\w+))?`", PAGE.read_text())
    assert len(named) > 20
    for file, test in named:
        tree = ast.parse((ROOT / f"tests/{file}.py").read_text())
        functions = {each.name for each in tree.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert not test or test in functions, f"{file}::{test}"


def test_the_page_names_every_test_of_this_file() -> None:
    tree = ast.parse(Path(__file__).read_text())
    tests = {each.name for each in tree.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
    tests = {name for name in tests if name.startswith("test_") and "the_page" not in name}
    assert tests == set(re.findall(r"`test_attacks\.py::(\w+)`", PAGE.read_text()))


# --------------------------------------------------------------------------------------------------------------- tokens


async def test_an_id_of_his_own(world: World) -> None:
    """Ids that the server did not issue are not adopted: whoever stores something gets one that the server drew."""
    await world.begin()
    for made_up in ("A" * 64, "mine", "0" * 32, world.memory.ids[0].hex()):
        session = await world.engine.open(f"{NAME}={made_up}")
        assert (session, session.verdict) == ({}, "invalid")
        session["a"] = 1
        headers = dict(await world.engine.commit(session))
        assert made_up not in headers["Set-Cookie"]
        assert session.id != made_up
        assert await world.engine.open(f"{NAME}={made_up}") == {}


@pytest.mark.parametrize("distance", range(16))
async def test_replay_at_each_distance(world: World, distance: int) -> None:
    """A copied token, used after the victim was given so many newer ones; at the defaults."""
    session_id = await world.begin(subject="user:42")
    thief = world.browser.send()
    await world.rotate(distance)
    newest = str(world.browser.jar.header())
    session = await thief.open()
    headers = dict(await world.engine.commit(session))
    if distance < 13:  # what he has opens the session
        assert (session.id, session.subject) == (session_id, "user:42")
        assert session.verdict == ("current" if distance == 0 else "behind")
        # Within the window he is given nothing; one who fell back gets the newest token, and an event says so.
        assert headers.get("Set-Cookie", "").startswith(newest if distance >= 3 else "")
        assert ("Set-Cookie" in headers) is (distance >= 3)
        assert world.happened() == (["fell_back"] if distance >= 3 else [])
        assert (await world.engine.open(newest)).subject == "user:42"
    else:  # both are out
        assert (session, session.subject, session.verdict) == ({}, None, "copied")
        assert "Set-Cookie" not in headers
        assert world.happened() == ["copied", "revoked"]
        assert (await world.engine.open(newest)).verdict == "ended"


@pytest.mark.parametrize("distance", [1, 2])
async def test_a_thief_who_polls(world: World, distance: int) -> None:
    """Within the window, once the newest token is due, he is given the one after his own and never the newest."""
    await world.begin()
    codec = TokenCodec(world.engine.keys, NAME)
    thief = world.browser.send()
    await world.rotate(distance)
    world.clock.advance(5)
    await thief.open()
    await thief.answer()
    _, _, token = dict(thief.headers)["Set-Cookie"].partition(";")[0].partition("=")
    presented = codec.read(token, world.clock())
    assert presented is not None
    assert presented.token.generation == 1
    (record,) = (await world.everything()).values()
    assert record.generation == distance


@pytest.mark.parametrize("after", ["a renewal", "a log-out", "a revocation", "the idle timeout", "the deadline"])
async def test_replay_of_a_token_that_is_over(world: World, after: str) -> None:
    """It opens nothing, whatever the distance; past the deadline that it carries the database is not even asked."""
    session_id = await world.begin(subject="user:42")
    copy = str(world.browser.jar.header())
    match after:
        case "a renewal":
            async with world.browser.visit() as session:
                session.renew()
        case "a log-out":
            async with world.browser.visit() as session:
                session.destroy()
        case "a revocation":
            await world.engine.revoke(session_id)
        case "the idle timeout":
            world.clock.advance(7200)
        case _:
            world.clock.advance(30 * 86400)
    world.store.take()
    session = await world.engine.open(copy)
    expected = {"a renewal": "late", "a log-out": "late", "the deadline": "invalid"}.get(after, "ended")
    assert (session, session.subject, session.verdict) == ({}, None, expected)
    assert world.store.take() == ([] if after == "the deadline" else ["load"])


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"cookie": Cookie(name="__Host-other")},
        {"cookie": Cookie(name="session")},
        {"keys": ["o" * 32]},
    ],
    ids=["another name", "another prefix", "another key"],
)
async def test_a_token_of_another_application(world: World, elsewhere: dict[str, Any]) -> None:
    """Under the same key in a cookie of another name, or under another key: it does not verify. No command."""
    other = World(**elsewhere)
    await other.begin(subject="user:42")
    _, _, token = str(other.browser.jar.header()).partition("=")
    await world.begin()
    world.store.take()
    session = await world.engine.open(f"{NAME}={token}")
    assert (session, session.verdict) == ({}, "invalid")
    assert world.store.take() == []


async def test_a_token_of_another_collection(world: World) -> None:
    """Under the same key and the same name it verifies, and opens what its own collection holds, which is not here."""
    other = World()
    await other.begin(subject="user:42")
    session = await world.engine.open(other.browser.jar.header())
    assert (session, session.subject, session.verdict) == ({}, None, "ended")


@pytest.mark.parametrize("anonymous", ["database", "cookie"])
async def test_what_was_signed_for_another_purpose(anonymous: str) -> None:
    """A token under the MAC of data, data under that of a token: neither verifies, whichever sessions there are."""
    world = World(anonymous=anonymous)
    await world.begin(subject="user:42")
    _, _, token = str(world.browser.jar.header()).partition("=")
    data = SignedCodec(world.engine.keys, NAME, world.engine.terms.timeouts).write(
        Signed(bytes(16), world.clock(), world.clock(), stored({"a": 1}))
    )
    world.store.take()
    for text, purpose in ((token, "data"), (str(data), "token"), (token, "mail"), (str(data), "mail")):
        payload = urlsafe_b64decode(text + "=" * (-len(text) % 4))[:-MAC_BYTES]
        other = urlsafe_b64encode(payload + world.engine.keys.signer(purpose, NAME).sign(payload)).decode().rstrip("=")
        session = await world.engine.open(f"{NAME}={other}")
        assert (session, session.verdict) == ({}, "invalid")
    assert world.store.take() == []
    assert (await world.engine.open(f"{NAME}={token}")).subject == "user:42"
    assert (await world.engine.open(f"{NAME}={data}")) == ({"a": 1} if anonymous == "cookie" else {})


async def test_a_leaked_database_or_key(world: World) -> None:
    """Who has all documents can make no token; who has the key as well lacks 128 bits that the cookie alone holds."""
    await world.begin(subject="user:42")
    (record,) = (await world.everything()).values()
    codec = TokenCodec(world.engine.keys, NAME)
    _, _, true = str(world.browser.jar.header()).partition("=")
    presented = codec.read(true, world.clock())
    assert presented is not None
    assert presented.token.sid not in pickle.dumps(record)
    assert record.id in pickle.dumps(record)
    made_up = codec.write(Token(record.id, record.epoch, record.generation, presented.token.deadline))
    unsigned = TokenCodec(KeyRing(["g" * 32]), NAME).write(presented.token)
    for text, verdict in ((made_up, "ended"), (unsigned, "invalid"), (true, "current")):
        assert (await world.engine.open(f"{NAME}={text}")).verdict == verdict


# -------------------------------------------------------------------------------------------------------------- cookies


class Tossed(NamedTuple):
    """Two cookies of our name in one request.

    Attributes:
        planted: the attacker's, beside the victim's newest token; ``{other}``: a valid one of a session of his own.
        opens: whether the victim's session is opened.
        events: what the engine tells.
    """

    planted: str
    opens: bool = True
    events: tuple[str, ...] = ()


TOSSED = {
    "a forged one": Tossed(f"{NAME}=" + "A" * 64),
    "an empty one": Tossed(f"{NAME}="),
    "an older one of the same session": Tossed("{older}"),
    "a valid one of another session": Tossed("{other}", opens=False, events=("several_cookies",)),
    "one with quotation marks": Tossed('a="{other}"'),
    "one that opens a quotation": Tossed('$Version=1; a="b; c'),
    "one whose name only looks alike": Tossed(
        "__host-session={token}; __Host-session\x85={token}; x__Host-session={token}"
    ),
}


@pytest.mark.parametrize("where", ["before", "behind", "in a header of its own"])
@pytest.mark.parametrize("name", TOSSED)
async def test_cookie_tossing(world: World, name: str, where: str) -> None:
    """A neighbouring host plants a cookie of our name beside ours. What does not verify does not count; of two sessions
    neither is opened, so nobody works in an attacker's: not even the database is asked."""
    tossed = TOSSED[name]
    await world.begin({"whose": "attacker"})
    other = str(world.browser.jar.header())
    world.browser.jar.cookies.clear()
    await world.begin({"whose": "victim"})
    older = str(world.browser.jar.header())
    await world.rotate()
    own = str(world.browser.jar.header())
    planted = tossed.planted.format(other=other, older=older, token=other.partition("=")[2])
    headers = {"before": f"{planted}; {own}", "behind": f"{own}; {planted}"}
    world.store.take()
    session = await world.engine.open(headers.get(where, [planted, own]))
    assert session == ({"whose": "victim"} if tossed.opens else {})
    assert session.verdict == ("current" if tossed.opens else "invalid")
    assert world.happened() == list(tossed.events)
    assert world.store.take() == (["load"] if tossed.opens else [])


async def test_oversize(world: World) -> None:
    """Long cookies, long names, very many cookies of our name: no command, no event, no memory that stays."""
    await world.begin()
    own = str(world.browser.jar.header())
    world.store.take()
    valid_length = f"{NAME}={'A' * 64}"
    huge = [
        f"{NAME}={'A' * 2_000_000}",
        f"{own}{'A' * 2_000_000}",
        f"{'x' * 2_000_000}=1",
        "; " * 500_000,
        "=" * 1_000_000,
        "; ".join([valid_length] * 15_000),  # a megabyte, each with a MAC to be checked
        [valid_length] * 15_000,
    ]
    for anonymous in ("database", "cookie"):
        engine = world.serve(anonymous=anonymous)
        for header in huge:
            tracemalloc.start()
            session = await engine.open(header)
            assert session.verdict in ("invalid", "anonymous")
            assert await engine.commit(session) == []
            del session
            left, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert left < 100_000
            assert peak < 40 * sum(map(len, [header] if isinstance(header, str) else header))
        assert (await engine.open([*huge[-1], own])) == {"basket": ["tea"]}  # the one that verifies still counts
    assert world.store.take() == ["load", "load"]
    assert world.happened() == []


# ------------------------------------------------------------------------------------------------- the MAC's comparison


def test_macs_are_compared_in_constant_time() -> None:
    """The one place where a MAC is judged calls `hmac.compare_digest`, and compares nothing in any other way."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(Signer.verify)))
    calls = [ast.unparse(each.func) for each in ast.walk(tree) if isinstance(each, ast.Call)]
    assert Signer.verify.__globals__["compare_digest"] is hmac.compare_digest
    assert calls.count("compare_digest") == 1
    assert not [each for each in ast.walk(tree) if isinstance(each, ast.Compare)]
    assert not {"startswith", "endswith", "find", "index", "__eq__"} & {call.rpartition(".")[2] for call in calls}
    for path in (ROOT / "mongosession").glob("*.py"):  # and no other room makes a MAC to compare with
        digests = [
            each
            for each in ast.walk(ast.parse(path.read_text()))
            if isinstance(each, ast.Compare) and re.search(r"\bsign\(|digest\(", ast.unparse(each))
        ]
        assert not digests, path.name


ROUNDS, AT_ONCE = 400, 200


def nanoseconds(work: Callable[[], object]) -> float:
    """How long one call takes, on an average of some."""
    began = time.perf_counter_ns()
    for _ in range(AT_ONCE):
        work()
    return (time.perf_counter_ns() - began) / AT_ONCE


@pytest.mark.search
def test_timing_of_the_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    """Measured, and printed; no time decides whether it passes. MACs that are wrong in the first byte, in the last, and
    in all of them, interleaved; the same for `==`, so that one sees what would be seen."""
    signer = KeyRing([KEY]).signer("token", NAME)
    payload = bytes(32)
    right = signer.sign(payload)
    wrong = {
        "first byte": bytes([right[0] ^ 1]) + right[1:],
        "first byte, again": bytes([right[0] ^ 2]) + right[1:],
        "last byte": right[:-1] + bytes([right[-1] ^ 1]),
        "all": bytes(each ^ 0xFF for each in right),
    }
    assert not [mac for mac in wrong.values() if signer.verify(payload, mac) is not None]
    long, longer = right * 64, {name: right * 63 + mac for name, mac in wrong.items()}
    longer["first byte"] = wrong["first byte"] + right * 63
    works: dict[tuple[str, str], Callable[[], object]] = {}
    for name, mac in wrong.items():
        works["verify", name] = partial(signer.verify, payload, mac)
        works["compare_digest of 1 KiB", name] = partial(hmac.compare_digest, long, longer[name])
        works["== of 1 KiB", name] = partial(long.__eq__, longer[name])
    times: dict[tuple[str, str], list[float]] = {key: [] for key in works}
    for _ in range(ROUNDS):
        for key, work in works.items():
            times[key].append(nanoseconds(work))
    with capsys.disabled():
        for (what, name), taken in times.items():
            print(f"\n{what:24} wrong in {name:18} {median(taken):8.1f} ns", end="")
        print()


# ------------------------------------------------------------------------------------------------------- a real browser


def login(request: Request) -> Response:
    """A log-in form's target that asks nothing but the name: no check of who sent it."""
    get_session(request).renew(subject=request.query_params["name"])
    return PlainTextResponse("in")


def guarded(request: Request) -> Response:
    """The same with the check that docs/login.md shows."""
    if request.headers.get("Sec-Fetch-Site") not in (None, "same-origin", "none"):
        return PlainTextResponse("sent by another site", 403)
    return login(request)


def pay(request: Request) -> Response:
    """Something that only who is logged in may do."""
    subject = get_session(request).subject
    return PlainTextResponse(f"paid by {subject}" if subject else "log in first")


def write(request: Request) -> Response:
    get_session(request)["note"] = request.query_params["note"]
    return PlainTextResponse("written")


def who(request: Request) -> Response:
    session = get_session(request)
    return PlainTextResponse(f"{session.subject or 'nobody'} {session.verdict} {session.get('note', '')}".strip())


def form(request: Request) -> Response:
    """A page of the attacker's that posts to where its query says."""
    return HTMLResponse(
        f'<form method="post" action="{request.query_params["to"]}"></form><script>document.forms[0].submit()</script>'
    )


def plant(request: Request) -> Response:
    """A neighbouring host sets the cookies that its query names."""
    answer = PlainTextResponse("planted")
    for line in request.query_params.getlist("cookie"):
        answer.headers.append("Set-Cookie", line)
    return answer


NAMES = {"host": NAME, "plain": "session"}


def site() -> Starlette:
    routes = [Route(f"/{page.__name__}", page, methods=["GET", "POST"]) for page in (login, guarded, pay, write, who)]
    mounts = [
        Mount(
            f"/{kind}",
            routes=routes,
            middleware=[
                Middleware(
                    SessionMiddleware,
                    engine=SessionEngine(MemoryStore(), keys=[KEY], cookie=Cookie(name=name)),
                )
            ],
        )
        for kind, name in NAMES.items()
    ]
    return Starlette(routes=[*mounts, Route("/form", form), Route("/plant", plant)])


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serve(site) as url:
        port = urlsplit(url).port
        assert port is not None
        yield port


class Person:
    """Somebody in front of a browser without cookies."""

    def __init__(self, driver: webdriver.Chrome, port: int) -> None:
        self.driver = driver
        self.port = port

    def url(self, host: str, path: str) -> str:
        return f"http://{host}.localhost:{self.port}/{path}"

    def get(self, host: str, path: str) -> str:
        """Open a page; its text."""
        self.driver.get(self.url(host, path))
        return self.text()

    def lured(self, path: str) -> str:
        """Open a page of another site that posts to this path of ours; what comes of it."""
        self.driver.get(self.url("evil", f"form?to={self.url('shop', path)}"))
        WebDriverWait(self.driver, 30).until(lambda driver: "//shop." in driver.current_url and self.text())
        return self.text()

    def text(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "body").text

    def cookies(self) -> list[dict[str, Any]]:
        """All cookies there are, of every host."""
        cookies: list[dict[str, Any]] = self.driver.execute_cdp_cmd("Storage.getCookies", {})["cookies"]
        return cookies


@pytest.fixture
def person(chromium: webdriver.Chrome, port: int) -> Person:
    return Person(chromium, port)


def test_a_domain_cookie_beside_a_host_cookie(person: Person) -> None:
    """A subdomain plants its own valid token for the whole domain. Under the default name the browser refuses it; under
    a name without the prefix both are sent, and neither session is opened until the planted cookie is gone."""
    for kind, name in NAMES.items():
        person.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
        person.get("shop", f"{kind}/login?name=mallory")
        (cookie,) = person.cookies()
        person.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
        person.get("shop", f"{kind}/login?name=ann")
        token = f"{name}={cookie['value']}"
        lines = [f"{token}; Domain=shop.localhost; Path=/; Secure", f"={token}; Domain=shop.localhost; Path=/; Secure"]
        for line in lines:
            person.driver.get(person.url("www.shop", "plant?cookie=" + line.replace("=", "%3D").replace(";", "%3B")))
            assert person.text() == "planted"
        seen = person.get("shop", f"{kind}/who")
        if kind == "host":
            assert [each["domain"] for each in person.cookies()] == ["shop.localhost"]
            assert seen == "ann current"
        else:
            assert {".shop.localhost", "shop.localhost"} <= {each["domain"] for each in person.cookies()}
            assert seen == "nobody invalid"
            person.get("shop", f"{kind}/login?name=ann")
            assert person.get("shop", f"{kind}/who") == "nobody invalid"  # locked out, and not in mallory's session


def test_a_request_that_another_site_sends(person: Person) -> None:
    """Cross-site request forgery: `SameSite=Lax` keeps the cookie at home."""
    person.get("shop", "host/login?name=ann")
    assert person.get("shop", "host/pay") == "paid by ann"
    assert person.lured("host/pay") == "log in first"
    assert person.get("shop", "host/who") == "ann current"


def test_login_csrf(person: Person) -> None:
    """Another site logs the browser in as the attacker. That needs no cookie, so the application has to refuse it;
    where it does not, the session that begins is empty: nothing of the victim's is in it."""
    person.get("shop", "host/login?name=ann")
    person.get("shop", "host/write?note=secret")
    assert person.lured("host/guarded?name=mallory") == "sent by another site"
    assert person.get("shop", "host/who") == "ann current secret"
    assert person.lured("host/login?name=mallory") == "in"
    assert person.get("shop", "host/who") == "mallory current"  # by design: the browser takes the cookie that comes


# ------------------------------------------------------------------------------------------------------------ by design


@pytest.mark.parametrize("how", ["noticed", "logs out"])
async def test_whoever_holds_any_token_of_the_epoch_can_end_the_session(world: World, how: str) -> None:
    """By design: he is noticed, or logs out with a token that still opens it. Nothing more: an overtaken token shows
    nothing, and what is stored with it begins a session of nobody's."""
    victims = await world.begin(subject="user:42")
    copy = str(world.browser.jar.header())
    await world.rotate(20 if how == "noticed" else 5)
    session = await world.engine.open(copy)
    if how == "noticed":
        assert (session, session.subject, session.verdict) == ({}, None, "copied")
        session["basket"] = "poisoned"
    else:
        session.destroy()
    await world.engine.commit(session)
    assert session.id != victims
    async with world.browser.visit() as session:
        assert (session, session.subject) == ({}, None)
        assert session.verdict in (Verdict.ENDED, Verdict.LATE)


@pytest.mark.parametrize(("later", "ends"), [(0, True), (179, True), (180, False), (3600, False)])
async def test_a_token_from_before_a_renewal_can_still_log_out_while_late(
    world: World, later: float, ends: bool
) -> None:
    """By design: a log-out that was under way during a renewal must not be lost. It is all that such a token can do."""
    await world.begin(subject="user:42")
    copy = str(world.browser.jar.header())
    async with world.browser.visit() as session:
        session.renew()
    world.clock.advance(later)
    session = await world.engine.open(copy)
    assert (session, session.subject, session.verdict) == ({}, None, "late" if ends else "ended")
    session.destroy()
    await world.engine.commit(session)
    async with world.browser.visit() as session:
        assert session.subject == (None if ends else "user:42")


@pytest.mark.parametrize("last", ["the log-in", "the straggler"])
async def test_a_tie_between_an_anonymous_straggler_and_a_log_in(world: World, last: str) -> None:
    """By design: two requests without a cookie are under way, one logs in, the other stores something. Each begins a
    session; the browser has the one whose answer comes last. Nobody is in anybody else's, and the log-in can be done
    again."""
    straggler, log_in = world.browser.send(), world.browser.send()
    (await straggler.open())["basket"] = ["tea"]
    (await log_in.open()).renew(subject="user:42")
    await log_in.answer()
    await straggler.answer()
    for answer in (straggler, log_in) if last == "the log-in" else (log_in, straggler):
        answer.deliver()
    async with world.browser.visit() as session:
        assert session.subject == ("user:42" if last == "the log-in" else None)
        assert session == ({} if last == "the log-in" else {"basket": ["tea"]})
    async with world.browser.visit() as session:
        session.renew(subject="user:42")
    async with world.browser.visit() as session:
        assert session.subject == "user:42"


@pytest.mark.parametrize("straggler_is_opened", ["before", "after"])
async def test_a_first_page_that_stores_something_leaves_no_tie(world: World, straggler_is_opened: str) -> None:
    """The way out: with a session from the first page on, the straggler has its token, and leaves the cookie alone."""
    await world.begin({"first": "page"})
    straggler, log_in = world.browser.send(), world.browser.send()
    if straggler_is_opened == "before":
        (await straggler.open())["basket"] = ["tea"]
    (await log_in.open()).renew(subject="user:42")
    await log_in.answer()
    if straggler_is_opened == "after":
        (await straggler.open())["basket"] = ["tea"]
    await straggler.answer()
    assert log_in.sends_cookie
    assert not straggler.sends_cookie
    log_in.deliver()
    straggler.deliver()
    async with world.browser.visit() as session:
        assert (session, session.subject) == ({"first": "page"}, "user:42")
