"""Real browsers, killed at random moments and started again with their profiles: they are still logged in.

Chromium writes its cookie jar every half a minute or so. After a kill it goes on with the jar that it wrote last, whose
token is overtaken by as many as were minted since: with a ttl of five seconds by up to six, if the jar was written in
this life, by more if it was not. Below K, 13 by default, the session goes on. Browsers that are killed again and again
before they write it come to more in the end, and are taken for a copy, as the protocol says; so one that has been used
for nearly a minute since writes its jar in its next life. Where that comes too late, it is counted by itself.
"""

import os
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from pymongo import AsyncMongoClient
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from mongosession import MongoStore, SessionEngine, Verdict
from mongosession.mongod import Mongod
from mongosession_asgi import SessionMiddleware, get_session
from tests.chromium import CHROMIUM, FLAGS
from tests.servers import serve

from .result import Result

BROWSERS = 5
KILLS = 4
COOKIE = "__Host-session"
TTL = 5.0
ACCEPTED = 13
PATIENCE = 120.0
SHORTEST = 1.0
LONGEST = 45.0
START_SECONDS = 3.0  # that a browser needs until it shows a page
USE_SECONDS = 50.0  # since the jar was written: ten tokens, and two for chance

PAGE = """<!doctype html><title>soak</title><script>
    setInterval(() => fetch("/poll"), 1000)
    // Chromium writes its jar every 30 seconds, or once 512 changes are to be written.
    if (location.search === "?write") for (let n = 0; n < 600; n++) document.cookie = `other${n}=1; max-age=600`
</script>"""

IN = "restarts that were still logged in"
OUT = "browsers logged out although their jar had been written"
ELSEWHERE = "browsers in another's session"
KILLED = "browsers killed with SIGKILL"
WRITTEN = "kills after which the jar held the session's cookie"


class Seen(NamedTuple):
    """The first request of a browser's life: how it was judged, and whose session it had."""

    verdict: Verdict
    subject: str | None


class Site:
    """The application: a page that asks again every second. Who comes without a session is logged in.

    Attributes:
        seen: browser and life -> its first request.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._arrived = threading.Condition()
        self.seen: dict[tuple[str, int], Seen] = {}

    def application(self) -> Starlette:
        """What is served."""
        client = AsyncMongoClient[dict[str, Any]](self._uri)
        engine = SessionEngine(MongoStore(client.soak.browsers), keys=["k" * 32])

        @asynccontextmanager
        async def live(_: Starlette) -> AsyncGenerator[None]:
            yield
            await client.close()

        return Starlette(
            routes=[Route("/page/{browser}/{life:int}", self._page), Route("/poll", self._poll)],
            middleware=[Middleware(SessionMiddleware, engine=engine, lifespan=True)],
            lifespan=live,
        )

    def wait(self, browser: str, life: int) -> Seen:
        """What the page's request of this life found."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: (browser, life) in self.seen, PATIENCE):
                raise TimeoutError(f"{browser} did not come in its life {life}")
            return self.seen[browser, life]

    async def _page(self, request: Request) -> Response:
        session, browser = get_session(request), request.path_params["browser"]
        with self._arrived:
            self.seen.setdefault((browser, request.path_params["life"]), Seen(session.verdict, session.subject))
            self._arrived.notify_all()
        if session.subject is None:
            session.renew(subject=browser)
        return HTMLResponse(PAGE)

    async def _poll(self, request: Request) -> Response:
        return Response(str(get_session(request).subject))


class Browser:
    """One browser with its profile, and the lives that it leads.

    Args:
        name: whom it is logged in as.
        profile: its directory.
        url: of the site.
        site: what the site saw.
        chance: how long its lives are.

    Attributes:
        used: seconds of use since its jar was written, or more.
    """

    def __init__(self, name: str, profile: Path, url: str, site: Site, chance: Random) -> None:
        self.name = name
        self.did: Counter[str] = Counter()
        self.faults: Counter[str] = Counter({KILLED: 0, WRITTEN: 0})
        self.losses: Counter[str] = Counter({OUT: 0, ELSEWHERE: 0})
        self._profile = profile
        self._url = url
        self._site = site
        self._chance = chance
        self._life = 0
        self._written: int | None = None  # when its jar was, by the jar
        self._over: int | None = None  # the jar of a session that has ended
        self.used = 0.0

    def live(self, seconds: float, *, write: bool = False) -> None:
        """Start, be looked at, live for so long, and be killed.

        Args:
            seconds: how long, from its first request on.
            write: the page makes it write its jar at once, and it lives until then.
        """
        page = f"{self._url}/page/{self.name}/{self._life}{'?write' * write}"
        life = [CHROMIUM, *FLAGS, f"--user-data-dir={self._profile}", page]
        process = subprocess.Popen(life, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            self._judge(self._site.wait(self.name, self._life))
            until = time.monotonic() + PATIENCE * write
            while time.monotonic() < until and self.jar() == self._written:
                time.sleep(0.1)
            time.sleep(seconds)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
        self._life += 1
        self.used += seconds + START_SECONDS
        written = self.jar()
        if written == self._over:
            written = None
        if written != self._written:
            self._written, self.used = written, seconds + START_SECONDS
            self.did["jars written"] += 1
        self.faults[KILLED] += status == -signal.SIGKILL
        self.faults[WRITTEN] += written is not None
        self.did["seconds lived"] += round(seconds)

    def jar(self) -> int | None:
        """When the session's cookie was written to the disk last, by the browser's clock; None if it is not there."""
        kept = self._profile / "Default" / "Cookies"
        if not kept.exists():
            return None
        with TemporaryDirectory() as copies:
            for file in kept.parent.glob("Cookies*"):  # with the journal, which may have to be played back
                shutil.copy(file, copies)
            jar = sqlite3.connect(Path(copies) / "Cookies")
            try:
                (moment,) = jar.execute("SELECT max(last_update_utc) FROM cookies WHERE name = ?", [COOKIE]).fetchone()
            except sqlite3.OperationalError:  # no table yet
                return None
            finally:
                jar.close()
        return None if moment is None else int(moment)

    def _judge(self, seen: Seen) -> None:
        if seen.subject == self.name:
            self.did[IN] += 1
            self.did["of them with a token that others had overtaken"] += seen.verdict is Verdict.BEHIND
        elif seen.subject is not None:
            self.losses[ELSEWHERE] += 1
        elif self._written is None:
            self.did["starts without a jar, so logged out"] += 1
        elif seen.verdict is Verdict.COPIED and self.used / TTL + 2 > ACCEPTED:
            self.did["jars overtaken by 13 tokens or more, refused as the protocol says"] += 1
            self._over, self._written = self._written, None
        else:
            self.losses[OUT] += 1


def soak(seconds: float, seed: int, lives: Callable[[Browser, Random], None], *, browsers: int) -> Result:
    """Let so many browsers lead their lives at the same time."""
    began = time.monotonic()
    with (
        Mongod() as mongod,
        TemporaryDirectory(ignore_cleanup_errors=True) as profiles,
        ThreadPoolExecutor(browsers) as pool,
    ):
        site = Site(mongod.uri)
        with serve(site.application) as address:
            url = address.replace("127.0.0.1", "localhost")  # where a browser takes a Secure cookie without TLS
            everybody = [
                Browser(f"browser-{n}", Path(profiles) / str(n), url, site, Random(seed + n)) for n in range(browsers)
            ]
            for done in [pool.submit(lives, each, Random(seed * 100 + n)) for n, each in enumerate(everybody)]:
                done.result()
    return Result(
        f"real browsers killed after {SHORTEST:.0f} to {LONGEST:.0f} s and started again, at a ttl of {TTL:.0f} s",
        did=_sum([each.did for each in everybody]),
        faults=_sum([each.faults for each in everybody]),
        losses=_sum([each.losses for each in everybody]),
        took=time.monotonic() - began,
    )


def _sum(counters: Sequence[Counter[str]]) -> dict[str, int]:
    """Zeros stay."""
    return {name: sum(counter[name] for counter in counters) for counter in counters for name in counter}


def run(seconds: float, seed: int) -> Result:
    """Twenty kills at random, of five browsers that live at the same time, each once its jar has been written."""
    longest = min(LONGEST, seconds / KILLS)

    def lives(browser: Browser, chance: Random) -> None:
        browser.live(0, write=True)
        for _ in range(KILLS):
            seconds = chance.uniform(SHORTEST, longest)
            browser.live(seconds, write=browser.used + seconds + START_SECONDS > USE_SECONDS)
        browser.live(0)  # to see what the last kill left

    return soak(seconds, seed, lives, browsers=BROWSERS)
