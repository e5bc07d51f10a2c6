"""What the sites have in common: the data, and what a request asks for."""

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

KEY = "k" * 32

DATA = {"user": "anna", "csrf": "x" * 40, "visits": 1, "basket": ["tea", "milk"], "filler": "x" * 150}


class Asked(NamedTuple):
    """A request.

    Attributes:
        path: the route.
        key: what to set.
        wait: seconds.
    """

    path: str
    key: str
    wait: float

    @classmethod
    def of(cls, target: str) -> "Asked":
        """Read it off the request's target."""
        parts = urlsplit(target)
        asked = parse_qs(parts.query)
        return cls(parts.path, asked.get("key", [""])[0], int(asked.get("wait", ["0"])[0]) / 1000)


def act(asked: Asked, session: Any) -> str:
    """Do what was asked for with a session that is a mapping; the waiting is over."""
    match asked.path:
        case "/begin":
            session.update(DATA)
        case "/read":
            return str(session["user"])
        case "/change":
            session["visits"] = session["visits"] + 1
        case "/set":
            session[asked.key] = 1
        case "/count":
            session["counter"] = session.get("counter", 0) + 1
        case "/kept":
            return kept(session)
        case _:
            pass
    return "ok"


def kept(session: Mapping[str, Any]) -> str:
    """What survived."""
    return f"{sum(key.startswith('own') for key in session)} {session.get('counter', 0)}"
