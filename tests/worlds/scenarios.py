"""The scenario suite: a browser's scripts, as data. Every adapter has to pass them, behind every server, wherever the
sessions of visitors live.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple


class Step(NamedTuple):
    """One request of the browser, and what it has to be answered.

    Attributes:
        path: where it goes.
        shows: the JSON of the answer, or None where it does not matter.
        status: of the answer.
        cookie: what becomes of the cookie: "set", "removed", "kept" (the answer has no Set-Cookie).
        vary: whether the answer says ``Vary: Cookie``; None where it does not matter.
        passed: seconds that pass before the request leaves.
        method: of the request.
        headers: of the request, besides its cookie.
        forgets: the browser has lost its cookies.
        does: the commands that it costs and the events that it raises, in their order; None where it does not matter.
        visitor: what differs where the sessions of visitors live in their cookies; there a step does nothing, unless
            stated.
    """

    path: str
    shows: Any = None
    status: int = 200
    cookie: Literal["set", "removed", "kept"] = "kept"
    vary: bool | None = None
    passed: float = 0
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    forgets: bool = False
    does: tuple[str, ...] | None = None
    visitor: Mapping[str, Any] = MappingProxyType({})

    def where(self, anonymous: str) -> "Step":
        """The step as it is where the sessions of visitors live in the ``"database"``, or in the ``"cookie"``."""
        return self._replace(**{"does": (), **self.visitor}) if anonymous == "cookie" else self


# What requests cost and raise.
READ = ("find",)
WRITE = ("find", "update")
MOVE = ("insert", "created")
IN_COOKIE = {"cookie": "set"}
MOVES = {"cookie": "set", "does": MOVE}
READS = {"does": READ}
WRITES = {"does": WRITE}
ROTATES = {"does": ("find", "findAndModify", "rotated")}
RENEWS = {"does": ("find", "findAndModify", "renewed")}
ENDS = {"does": (*WRITE, "destroyed")}
DROPS = {"does": ("dropped_write",)}

SCENARIOS: dict[str, tuple[Step, ...]] = {
    "a visitor who stores nothing": (
        Step("/read", {}, vary=True),
        Step("/quiet", {}, vary=False),
        Step("/protect", {}),
        Step("/nowhere", status=404, method="HEAD"),
    ),
    "a counter, and the token rotates": (
        Step("/visit", {"n": 1}, cookie="set", vary=True),
        Step("/visit", {"n": 2}, visitor=IN_COOKIE),
        Step("/quiet", vary=False),
        Step("/visit", {"n": 3}, cookie="set", passed=6),
        Step("/quiet", cookie="set", passed=6, visitor={"cookie": "kept"}),
        Step("/read", {"n": 3}),
    ),
    "a protected counter, and the token rotates": (
        Step("/visit", {"n": 1}, cookie="set"),
        Step("/protect", {"n": 1}, visitor=MOVES),
        Step("/visit", {"n": 2}, visitor=WRITES),
        Step("/visit", {"n": 3}, cookie="set", passed=6, visitor=ROTATES),
        Step("/quiet", cookie="set", passed=6, visitor=ROTATES),
        Step("/read", {"n": 3}, visitor=READS),
        Step("/logout", {}, cookie="removed", method="POST", visitor=ENDS),
        Step("/visit", {"n": 1}, cookie="set"),
    ),
    "keys of every kind, nested changes, operators": (
        Step("/set/a.b$", {"a.b$": True}, cookie="set"),
        Step("/nest/tea", {"a.b$": True, "list": ["tea"]}, visitor=IN_COOKIE),
        Step("/nest/milk", {"a.b$": True, "list": ["tea", "milk"]}, visitor=IN_COOKIE),
        Step("/increment/hits", {"a.b$": True, "list": ["tea", "milk"], "hits": 1}, visitor=MOVES),
        Step("/increment/hits", visitor=WRITES),
        Step("/read", {"a.b$": True, "list": ["tea", "milk"], "hits": 2}, visitor=READS),
        Step("/clear", {}, visitor=WRITES),
        Step("/read", {}, visitor=READS),
    ),
    "a visitor clears": (
        Step("/set/a.b$", {"a.b$": True}, cookie="set"),
        Step("/clear", {}, visitor=IN_COOKIE),
        Step("/read", {}),
        Step("/visit", {"n": 1}, visitor=IN_COOKIE),
        Step("/read", {"n": 1}),
    ),
    "more than fits": (
        Step("/visit", {"n": 1}, cookie="set"),
        Step("/grow/2000", cookie="kept", visitor=IN_COOKIE),
        Step("/grow/8000", cookie="kept", visitor=MOVES),
        Step("/visit", visitor=WRITES),
        Step("/drop/noise", {"n": 2}, visitor=WRITES),
    ),
    "log-in and log-out": (
        Step("/visit", {"n": 1}, cookie="set"),
        Step("/login/ann", {"n": 1}, cookie="set", method="POST", visitor=MOVES),
        Step("/who", {"who": "ann"}, visitor=READS),
        Step("/login/bob", {}, cookie="set", method="POST", visitor=RENEWS),
        Step("/who", {"who": "bob"}, visitor=READS),
        Step("/visit", {"n": 1}, visitor=WRITES),
        Step("/logout", {}, cookie="removed", method="POST", visitor=ENDS),
        Step("/who", {"who": ""}),
    ),
    "the redirect reads what was written": (
        Step("/redirect", status=303, cookie="set"),
        Step("/read", {"hops": 1}),
        Step("/redirect", status=303, visitor=IN_COOKIE),
        Step("/read", {"hops": 2}),
    ),
    "failures store nothing": (
        Step("/visit", {"n": 1}, cookie="set"),
        Step("/status/404", status=404, visitor=IN_COOKIE),
        Step("/read", {"n": 1, "failed": "404"}),
        Step("/status/503", status=503),
        Step("/boom", status=500),
        Step("/read", {"n": 1, "failed": "404"}),
    ),
    "streams": (
        Step("/stream", cookie="set", visitor=DROPS),
        Step(
            "/read",
            {"before": True, "first": True, "while": True, "after": True},
            visitor={"shows": {"before": True, "first": True}},
        ),
        Step("/stream", cookie="set", passed=6, visitor={"cookie": "kept", **DROPS}),
    ),
    "streams that save before their headers": (
        Step("/stream/saved", cookie="set", visitor={"does": (*MOVE, "findAndModify", "update")}),
        Step("/read", {"before": True, "first": True, "while": True, "after": True}, visitor=READS),
        Step("/stream/saved", cookie="set", passed=6, visitor=ROTATES),
    ),
    "saving at once": (
        Step("/save", {"saved": True}, cookie="set", visitor={"does": (*MOVE, "findAndModify")}),
        Step("/read", {"early": True, "later": True}, visitor=READS),
    ),
    "prefetches and public answers carry no token": (
        Step("/visit", {"n": 1}, cookie="set"),
        Step("/read", {"n": 1}, passed=800, headers=(("Sec-Purpose", "prefetch"),)),
        Step("/public", {"n": 1}),
        Step("/read", {"n": 1}, cookie="set"),
    ),
    "it ends when idle": (
        Step("/visit", {"n": 1}, cookie="set"),
        Step("/read", {"n": 1}, cookie="set", passed=7000),
        Step("/read", {"n": 1}, cookie="set", passed=7000),
        Step("/read", {}, passed=7300),
        Step("/visit", {"n": 1}, cookie="set"),
    ),
    "somebody else": (
        Step("/visit", {"n": 1}, cookie="set"),
        Step("/read", {}, forgets=True),
        Step("/read", {}, headers=(("Cookie", "__Host-session=" + "A" * 64),)),
        Step("/read", {}, headers=(("Cookie", "__Host-session=" + "Ag" * 2000),)),
        Step("/read", {}, headers=(("Cookie", "__Host-session=" + "x" * 4000),)),
    ),
}
