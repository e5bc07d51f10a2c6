"""The scenario suite: a browser's scripts, as data. Every adapter has to pass them, behind every server."""

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


SCENARIOS: dict[str, tuple[Step, ...]] = {
    "a visitor who stores nothing": (
        Step("/read", {}, vary=True),
        Step("/quiet", {}, vary=False),
        Step("/nowhere", status=404, method="HEAD"),
    ),
    "a counter, and the token rotates": (
        Step("/visit", {"n": 1}, cookie="set", vary=True),
        Step("/visit", {"n": 2}),
        Step("/quiet", vary=False),
        Step("/visit", {"n": 3}, cookie="set", passed=6),
        Step("/quiet", cookie="set", passed=6),
        Step("/read", {"n": 3}),
    ),
    "keys of every kind, nested changes, operators": (
        Step("/set/a.b$", {"a.b$": True}, cookie="set"),
        Step("/nest/tea", {"a.b$": True, "list": ["tea"]}),
        Step("/nest/milk", {"a.b$": True, "list": ["tea", "milk"]}),
        Step("/increment/hits", {"a.b$": True, "list": ["tea", "milk"], "hits": 1}),
        Step("/increment/hits"),
        Step("/read", {"a.b$": True, "list": ["tea", "milk"], "hits": 2}),
        Step("/clear", {}),
        Step("/read", {}),
    ),
    "log-in and log-out": (
        Step("/visit", {"n": 1}, cookie="set"),
        Step("/login/ann", {"n": 1}, cookie="set", method="POST"),
        Step("/who", {"who": "ann"}),
        Step("/login/bob", {}, cookie="set", method="POST"),
        Step("/who", {"who": "bob"}),
        Step("/visit", {"n": 1}),
        Step("/logout", {}, cookie="removed", method="POST"),
        Step("/who", {"who": ""}),
    ),
    "the redirect reads what was written": (
        Step("/redirect", status=303, cookie="set"),
        Step("/read", {"hops": 1}),
        Step("/redirect", status=303),
        Step("/read", {"hops": 2}),
    ),
    "failures store nothing": (
        Step("/visit", {"n": 1}, cookie="set"),
        Step("/status/404", status=404),
        Step("/read", {"n": 1, "failed": "404"}),
        Step("/status/503", status=503),
        Step("/boom", status=500),
        Step("/read", {"n": 1, "failed": "404"}),
    ),
    "streams": (
        Step("/stream", cookie="set"),
        Step("/read", {"before": True, "first": True, "while": True, "after": True}),
        Step("/stream", cookie="set", passed=6),
    ),
    "saving at once": (
        Step("/save", {"saved": True}, cookie="set"),
        Step("/read", {"early": True, "later": True}),
    ),
    "prefetches and public answers carry no token": (
        Step("/visit", {"n": 1}, cookie="set"),
        Step("/read", {"n": 1}, passed=6, headers=(("Sec-Purpose", "prefetch"),)),
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
        Step("/read", {}, headers=(("Cookie", "__Host-session=" + "x" * 4000),)),
    ),
}
