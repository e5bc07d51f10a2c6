"""Many browsers, each with a cookie jar, several tabs, and a record of what it was told.

A browser visits for some seconds: it stores, counts and reads in several tabs at once, logs in, logs out, comes back
later. Some of its answers are lost, some arrive late, after those that were sent later. Everything that it asked and
was told goes into a history, for `soak.checker` to judge; what a history cannot tell is judged here.
"""

import asyncio
import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any, Literal, NamedTuple
from urllib.parse import urlencode

from mongosession import Cookie
from mongosession.keys import KeyRing
from mongosession.tokens import Token, TokenCodec

from .history import Kind, Operation, Outcome
from .http import Answer, Client, NoAnswerError, NotSentError

Fate = Literal["whole", "held", "dropped", "hung up"]
Effect = tuple[Literal["write", "increment"], str, str | int]

OPENS = frozenset({"current", "due", "behind", "ahead"})
MEAN_SECONDS = 25.0  # that a browser visits
PATIENCE = 60.0  # for an answer that it cannot do without
TABS = 6
KEY = "the-number-of-visits"


class Reply(NamedTuple):
    """What a browser was told.

    Attributes:
        status: of HTTP, 0 where there was no answer.
        served: whether it was the session of the request's cookie.
    """

    status: int
    served: bool = False


class Crowd:
    """So many browsers at a time, in a thread of their own, each followed by another when its visit is over.

    Args:
        ports: of the application's processes; each request goes to any of them.
        keys: with which tokens may be signed; to be added to as they change.
        size: how many browsers at a time.
        seed: of their chance.
        think: seconds on average between what a browser does.

    Attributes:
        history: what they did and were told.
        did: how much of it.
        losses: promises that were broken, as far as a browser itself can tell.
        remarks: what exactly was, for people.
    """

    def __init__(self, ports: Sequence[int], keys: Sequence[str], *, size: int, seed: int, think: float = 1.0) -> None:
        self.ports = ports
        self.cookie = Cookie().name
        self.history: list[Operation] = []
        self.did: Counter[str] = Counter()
        self.losses: Counter[str] = Counter(dict.fromkeys(LOSSES, 0))
        self.remarks: list[str] = []
        self.client = Client()
        self.think = think
        self.stopping = False
        self.browsers: set[Browser] = set()
        self.add_keys(keys)
        self._size = size
        self._seed = seed
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="browsers", daemon=True)

    def start(self) -> None:
        """Let them come."""
        self._thread.start()

    def stop(self, seconds: float = 120.0) -> None:
        """Let them finish, each with a last look at its session.

        Raises:
            TimeoutError: they did not.
        """
        self.stopping = True
        self._thread.join(seconds)
        if self._thread.is_alive():
            raise TimeoutError(f"{len(self.browsers)} browsers are still there after {seconds:.0f} s")

    def add_keys(self, keys: Sequence[str]) -> None:
        """Tokens may be signed with these from now on, and with no others."""
        self._codec = TokenCodec(KeyRing(keys), self.cookie)

    def token(self, value: str) -> Token | None:
        """What a cookie's value says."""
        presented = self._codec.read(value, time.time())
        return presented and presented.token

    def holding(self, key: str) -> list["Browser"]:
        """The browsers that hold, or have on its way, a token under this key."""
        codec = TokenCodec(KeyRing([key]), self.cookie)
        now = time.time()
        return [
            browser
            for browser in list(self.browsers)
            if any(value is not None and codec.read(value, now) for value in [browser.jar, *list(browser.under_way)])
        ]

    def lose(self, what: str, remark: str) -> None:
        """Take down a broken promise."""
        self.losses[what] += 1
        self.remarks.append(f"{what}: {remark}")

    async def _run(self) -> None:
        await asyncio.gather(*(self._one_after_the_other(place) for place in range(self._size)))
        self.client.close()

    async def _one_after_the_other(self, place: int) -> None:
        chance = Random(f"{self._seed} {place}")
        number = 0
        await asyncio.sleep(chance.random() * min(2.0, self.think * 2))
        while not self.stopping:
            number += 1
            browser = Browser(self, f"b{place}-{number}", chance)
            self.browsers.add(browser)
            try:
                await browser.visit()
            finally:
                self.browsers.discard(browser)
            self.did["browsers"] += 1


FOREIGN = "answers with somebody else's session"
DELETED = "cookies deleted without a log-out"
TOUCHED = "cookies set or deleted by an error"
REPLACED = "live sessions replaced by new ones"
UNDOCUMENTED = "errors other than the documented 503"
HUNG = "requests that were never answered"
GAVE_UP = "browsers that never saw their session again"
LOSSES = (FOREIGN, DELETED, TOUCHED, REPLACED, UNDOCUMENTED, HUNG, GAVE_UP)


class Browser:
    """One browser.

    Attributes:
        name: for the history; nobody else has it.
        jar: the cookie's value, None if there is none.
        under_way: the cookies of requests that are not yet answered.
        leaving: it ends its visit, and is not asked about its session any more.
    """

    def __init__(self, crowd: Crowd, name: str, chance: Random) -> None:
        self.name = name
        self.jar: str | None = None
        self.under_way: Counter[str] = Counter()
        self.leaving = False
        self._crowd = crowd
        self._chance = chance
        self._user = f"user:{name}"
        self._sessions: dict[tuple[bytes, int], str] = {}  # sid and epoch -> the session's name
        self._ending: set[str] = set()  # sessions that a log-in or a log-out may have ended
        self._keys: defaultdict[bytes, set[str]] = defaultdict(set)  # sid -> what was stored under it
        self._written = 0
        self._lost_log_ins = 0
        self._logged_in = False
        self._lost = False  # it was told that it has no session
        self._late: set[asyncio.Task[Reply]] = set()  # whose answers are still to come

    async def visit(self) -> None:
        """Come, do things for a while, and leave; maybe log out."""
        until = time.monotonic() + min(3 + self._chance.expovariate(1 / MEAN_SECONDS), 4 * MEAN_SECONDS)
        await self._first()
        while time.monotonic() < until and not self._crowd.stopping and not self.leaving:
            match self._chance.random():
                case chance if chance < 0.12 or self._lost:
                    await self._log_in()
                case chance if chance < 0.15 and self._logged_in:
                    await self._log_out()
                    await self._first()
                case _:
                    await self._page()
            await self._think()
        if not self.leaving:
            await self._last()

    async def _first(self) -> None:
        """Get a session: with none of its own, the browser tries until it is told that something was stored."""
        await self._until(self._store)

    async def _page(self) -> None:
        """Several tabs at once. Of each the answer may be lost or late; nobody waits for the late ones."""
        for _ in range(self._chance.choice((1, 1, 2, 3, 4)) if len(self._late) < TABS else 0):
            fate: Fate = self._chance.choices(("whole", "held", "dropped", "hung up"), (84, 8, 4, 4))[0]
            match self._chance.randrange(3):
                case 0:
                    tab = self._store(fate)
                case 1:
                    tab = self._count_up(fate)
                case _:
                    tab = self._read(fate)
            self._late.add(task := asyncio.create_task(tab))
            task.add_done_callback(self._late.discard)
            if fate == "held":
                self._crowd.did["answers that were overtaken"] += 1
        if self._late:
            await asyncio.wait(set(self._late), timeout=1.5)

    async def _log_in(self) -> None:
        """Log in, or again. Mostly alone; sometimes while other tabs are at it."""
        if self._chance.random() < 0.7:
            await self._rest()
        before = self.jar
        if not await self._until(self._begin):
            return
        self._logged_in, self._lost = True, False
        if before is not None and self._chance.random() < 0.2:
            await self._look_with(before)

    async def _log_out(self) -> None:
        """Log out; sometimes a cookie from before is tried once more."""
        if self._chance.random() < 0.8:
            await self._rest()
        before = self.jar
        self._logged_in = False
        if await self._until(self._end):
            if self._chance.random() < 0.8:
                await self._rest()
                self.jar = None  # a token of an answer that had been on its way is no session
            if before is not None:
                await self._look_with(before)

    async def _last(self) -> None:
        """Look at everything, perhaps after a pause, until it is shown; maybe log out."""
        await self._rest()
        if self._chance.random() < 0.3:
            back = time.monotonic() + self._chance.uniform(10, 20)
            while time.monotonic() < back and not self._crowd.stopping:
                await self._think()
        if self.leaving:
            return
        if not await self._until(lambda: self._read(every=True)) and not self.leaving:
            self._crowd.lose(GAVE_UP, f"{self.name} asked for {PATIENCE:.0f} s")
        if self._logged_in and self._chance.random() < 0.5:
            await self._log_out()

    async def _until(self, what: Callable[[], Awaitable[Reply]]) -> bool:
        """Do it again until it is acknowledged. False if that was in vain."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and not self.leaving:
            reply = await what()
            if reply.status == 200:
                return True
            if reply.status in (401, 409):  # no session any more, or not yet: as people do then
                self._logged_in = False
                if (await self._begin()).status == 200:
                    self._logged_in, self._lost = True, False
            await asyncio.sleep(self._chance.uniform(0.2, 1.0) * min(1.0, self._crowd.think))
        return False

    async def _rest(self) -> None:
        """Wait until every tab has its answer."""
        if self._late:
            await asyncio.wait(set(self._late))

    async def _think(self) -> None:
        await asyncio.sleep(min(self._chance.expovariate(1 / self._crowd.think), 5 * self._crowd.think))

    async def _store(self, fate: Fate = "whole") -> Reply:
        key, value = self._new()
        return await self._ask("/write", {"key": key, "value": value}, [("write", key, value)], fate=fate)

    async def _count_up(self, fate: Fate) -> Reply:
        amount = self._chance.randint(1, 9)
        effect: Effect = ("increment", KEY, amount)
        return await self._ask("/increment", {"key": KEY, "by": str(amount)}, [effect], fate=fate)

    async def _read(self, fate: Fate = "whole", *, every: bool = False) -> Reply:
        return await self._ask("/read", {}, fate=fate, reads=1000 if every else 3)

    async def _begin(self) -> Reply:
        key, value = self._new()
        asked = {"subject": self._user, "key": key, "value": value}
        return await self._ask("/login", asked, [("write", key, value)], what="begin")

    async def _end(self) -> Reply:
        return await self._ask("/logout", {}, what="end")

    async def _look_with(self, cookie: str) -> None:
        """Ask with a cookie that should be dead by now."""
        self._crowd.did["old cookies tried"] += 1
        await self._ask("/read", {}, beside=cookie, reads=3)

    def _new(self) -> tuple[str, str]:
        """A key that was never written, and a text that was never written."""
        self._written += 1
        return f"k{self._written}", f"{self.name}:{self._written}"

    async def _ask(
        self,
        path: str,
        asked: dict[str, str],
        effects: Sequence[Effect] = (),
        *,
        what: Literal["begin", "end"] | None = None,
        fate: Fate = "whole",
        beside: str | None = None,
        reads: int = 0,
    ) -> Reply:
        """One request, its answer, and what the history has to say about it.

        Args:
            path: of the application.
            asked: the query.
            effects: what it changes.
            what: whether it is a log-in or a log-out.
            fate: what becomes of the answer: "dropped" comes and is not looked at, for "hung up" nobody waits.
            beside: a cookie to ask with instead of the one in the jar, which then stays as it is.
            reads: how many keys of the answer are taken down.
        """
        crowd = self._crowd
        presented = self.jar if beside is None else beside
        request = _Request(self._name(presented), what, effects, time.monotonic())
        ending = request.carried is None or request.carried in self._ending
        if self._logged_in and what is None and beside is None:
            asked = {**asked, "account": "1"}
        if what is not None and request.carried is not None:
            self._ending.add(request.carried)
        token = crowd.token(presented) if presented else None
        if token:
            self._keys[token.sid].update(key for kind, key, _ in effects if kind == "write")
        answer, outcome = await self._exchange(f"{path}?{urlencode(asked)}", presented, fate)
        if answer is None or answer.status >= 500:
            self._record(request, None, outcome)
            return Reply(answer.status if answer else 0)
        told: dict[str, Any] = json.loads(answer.body)
        served = told["verdict"] in OPENS
        if told["subject"] not in (None, self._user):
            crowd.lose(FOREIGN, f"{self.name} was shown that of {told['subject']}")
        if any(_is_removal(cookie) for cookie in answer.cookies) and what != "end":
            crowd.lose(DELETED, f"{self.name} {path}: {told['verdict']}")
        given = None
        if beside is None and fate != "dropped":
            given = self._take(answer)
            if given and token and given.sid != token.sid and not (ending or (what == "begin" and not served)):
                crowd.lose(REPLACED, f"{request.carried} {path}: {told['verdict']} {given} for {token}")
        ended = time.monotonic()
        refused = request.carried is not None and not served and what is None
        if refused and not (self.leaving and told["verdict"] == "invalid"):
            crowd.did["requests refused"] += 1
            kind, key, value = effects[0] if effects else _LOOK
            self._note(request.carried, kind, key, value, request.started, ended, "refused")
            self._lost = self._lost or presented == self.jar
        if given is not None:
            self._note(self._name_of(given), "token", "", given.generation, request.started, ended, "ok")
            crowd.did["tokens given"] += 1
        if answer.status == 200:
            acknowledged: Outcome = "unknown" if fate == "dropped" and beside is None else "ok"
            if what == "begin":
                if given is None:
                    crowd.lose(UNDOCUMENTED, f"{self.name}: a log-in ({told['verdict']}) without a token")
                stays = given is not None and token and given.sid == token.sid
                request = request._replace(carried=request.carried if stays else None)
            elif refused or request.carried is None:
                request = request._replace(carried=self._name_of(given) if given else None)
            self._record(request, ended, acknowledged, given)
            if reads and served and acknowledged == "ok":
                self._read_from(told["data"], token, request, ended, reads)
        return Reply(answer.status, served)

    async def _exchange(self, target: str, presented: str | None, fate: Fate) -> tuple[Answer | None, Outcome]:
        """Send and wait; the outcome is that of a request without an answer, or with an error for one."""
        crowd = self._crowd
        crowd.did["requests"] += 1
        self.under_way[presented or ""] += 1
        try:
            answer = await crowd.client.get(
                self._chance.choice(crowd.ports),
                target,
                f"{crowd.cookie}={presented}" if presented else None,
                hang_up=self._chance.uniform(0, 0.05) if fate == "hung up" else None,
            )
            if fate == "held":
                await asyncio.sleep(self._chance.uniform(0, 2) * min(1.0, crowd.think))
        except NotSentError:
            crowd.did["requests that found no server"] += 1
            return None, "failed"
        except NoAnswerError as error:
            if isinstance(error.__cause__, TimeoutError):
                crowd.lose(HUNG, f"{self.name} {target}")
            crowd.did["answers lost on purpose" if fate == "hung up" else "connections that broke"] += 1
            return None, "unknown"
        finally:
            self.under_way[presented or ""] -= 1
        crowd.did[f"answers {answer.status}"] += 1
        if fate == "dropped":
            crowd.did["answers lost on purpose"] += 1
        if answer.status >= 500 and answer.cookies:
            crowd.lose(TOUCHED, f"{self.name} {target}: {answer.status} {answer.cookies}")
        if answer.status not in (200, 401, 409, 503):
            crowd.lose(UNDOCUMENTED, f"{self.name} {target}: {answer.status} {answer.body[:200]!r}")
        return answer, "unknown"

    def _take(self, answer: Answer) -> Token | None:
        """Put the answer's cookie into the jar; returns what it says."""
        given = None
        for cookie in answer.cookies:
            value = cookie.partition(";")[0].partition("=")[2]
            self.jar = None if _is_removal(cookie) else value
            given = self._crowd.token(value)
        return given

    def _name(self, cookie: str | None) -> str | None:
        """The session of a cookie that we were given."""
        token = cookie and self._crowd.token(cookie)
        return self._name_of(token) if token else None

    def _name_of(self, token: Token) -> str:
        return self._sessions.setdefault((token.sid, token.epoch), f"{self.name}/{len(self._sessions)}")

    def _record(self, request: "_Request", ended: float | None, outcome: Outcome, given: Token | None = None) -> None:
        """Take down what a request did."""
        carried, what, effects, started = request
        session = carried
        if what == "begin":
            # Without a token of its own it is a session that nobody will ever ask for.
            self._lost_log_ins += given is None
            session = self._name_of(given) if given else f"{self.name}/lost-{self._lost_log_ins}"
            self._note(session, "begin", "", carried, started, ended, outcome)
        elif what == "end":
            self._note(session, "end", "", None, started, ended, outcome)
        for kind, key, value in effects:
            self._note(session, kind, key, value, started, ended, outcome)
        if given:
            self._keys[given.sid].update(key for kind, key, _ in effects if kind == "write")
        if outcome == "ok":
            self._crowd.did.update(DONE[kind] for kind in ([what] if what else [kind for kind, _, _ in effects]))

    def _read_from(
        self, data: dict[str, Any], token: Token | None, request: "_Request", ended: float, count: int
    ) -> None:
        """Take down some of what the session showed."""
        keys = sorted(self._keys[token.sid]) if token else []
        for key in {KEY, *self._chance.sample(keys, min(count, len(keys)))}:
            self._note(request.carried, "read", key, data.get(key), request.started, ended, "ok")
            self._crowd.did["values read"] += 1

    def _note(
        self,
        session: str | None,
        kind: Kind,
        key: str,
        value: str | int | None,
        started: float,
        ended: float | None,
        outcome: Outcome,
    ) -> None:
        if session is not None:
            self._crowd.history.append(Operation(session, kind, key, value, started, ended, outcome))


_LOOK: tuple[Kind, str, None] = ("read", KEY, None)

DONE = {"write": "writes acknowledged", "increment": "increments acknowledged", "begin": "log-ins", "end": "log-outs"}


class _Request(NamedTuple):
    """A request under way.

    Attributes:
        carried: the session of its cookie; once it is answered, that which it took over.
        what: whether it is a log-in or a log-out.
        effects: what it changes.
        started: when it was sent.
    """

    carried: str | None
    what: Literal["begin", "end"] | None
    effects: Sequence[Effect]
    started: float


def _is_removal(cookie: str) -> bool:
    return "Max-Age=0" in cookie
