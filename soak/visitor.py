"""A browser in this process, which asks an engine directly and takes down what came of it."""

import time
from collections import Counter

from mongosession import SessionEngine, StoreUnavailable, Verdict
from mongosession.session import Session
from mongosession.testing import Exchange, Jar
from mongosession.tokens import Token, TokenCodec

from .history import Kind, Operation, Outcome

SERVED = frozenset({Verdict.ANONYMOUS, Verdict.CURRENT, Verdict.DUE, Verdict.BEHIND, Verdict.AHEAD})
"""The verdicts with which a request sees the session of its cookie, if it has any."""

OWNER = "owner"
"""The key under which a session holds its own name, from its log-in on."""


class Shifted:
    """The real clock and a bit: what is due in an hour is due at once.

    Attributes:
        ahead: seconds.
    """

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        """Seconds since 1970."""
        return time.time() + self.ahead


class Visitor:
    """One browser: a jar, and as many requests at once as one likes.

    Args:
        name: whose: the subject of its log-ins, and the beginning of its sessions' names.
        engine: the server.
        history: where its operations are taken down.

    Attributes:
        jar: its cookies.
        verdicts: how its cookies were judged, and how often.
        endings: the Cookie headers that an acknowledged log-out or log-in has made worthless since `endings` was
            last emptied.
    """

    def __init__(self, name: str, engine: SessionEngine, history: list[Operation]) -> None:
        self.name = name
        self.engine = engine
        self.jar = Jar(engine.clock)
        self.verdicts: Counter[Verdict] = Counter()
        self.endings: list[str] = []
        self._history = history
        self._codec = TokenCodec(engine.keys, engine.cookie.name)
        self._sessions: dict[str, str] = {}  # by the Cookie header that opens them
        self._begun = 0

    @property
    def token(self) -> Token | None:
        """The one that the jar holds."""
        cookie = self.jar.header()
        presented = None if cookie is None else self._codec.read(cookie.partition("=")[2], self.engine.clock())
        return None if presented is None else presented.token

    async def ask(
        self, kind: Kind, key: str = "", value: int | str | None = None, *, cookie: str | None = None
    ) -> Outcome:
        """Make one request: read, write or increment a key, log in ("begin") or log out ("end").

        Args:
            kind: which.
            key: of the session's data.
            value: what is written or added.
            cookie: another Cookie header than the jar's: an old one.

        Returns:
            What came of it. A session without a log-in is not begun: the outcome is "failed" then.
        """
        exchange = Exchange(self.engine, self.jar)
        exchange.cookie = cookie or exchange.cookie
        before = self._sessions.get(exchange.cookie or "")
        if before is None and kind != "begin":
            return "failed"
        self._begun += kind == "begin"
        name = f"{self.name}.{self._begun}" if kind == "begin" or before is None else before
        started = time.monotonic()
        try:
            session = await exchange.open()
        except StoreUnavailable:
            return "failed"
        self.verdicts[session.verdict] += 1
        served = session.verdict in SERVED
        outcome: Outcome = "ok" if served or kind in ("begin", "end") else "refused"
        if kind == "begin":
            value = before if served else None
        elif kind == "read":
            value = None if outcome == "refused" else session.get(key)
        if outcome == "ok":
            _handle(session, kind, key, value, subject=self.name, name=name)
        try:
            await exchange.answer()
        except StoreUnavailable:
            outcome = "unknown" if outcome == "ok" else outcome
        exchange.deliver()
        ended = None if outcome == "unknown" else time.monotonic()
        self._history.append(Operation(name, kind, key, value, started, ended, outcome))
        if kind == "begin":
            self._history.append(Operation(name, "write", OWNER, name, started, ended, outcome))
        if ended is not None and exchange.sends_cookie and (token := self.token) is not None:
            self._sessions[self.jar.header() or ""] = name
            self._history.append(Operation(name, "token", "", token.generation, started, ended, "ok"))
        if kind in ("begin", "end") and outcome == "ok" and exchange.cookie is not None:
            self.endings.append(exchange.cookie)
        return outcome


def _handle(session: Session, kind: Kind, key: str, value: int | str | None, *, subject: str, name: str) -> None:
    """What the application does."""
    if kind == "begin":
        session.renew(subject=subject)
        session[OWNER] = name
    elif kind == "end":
        session.destroy()
    elif kind == "write":
        session[key] = value
    elif kind == "increment" and isinstance(value, int):
        session.increment(key, value)
