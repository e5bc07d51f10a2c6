"""The settings: frozen values, checked when they are constructed, each with its default, its why and its risk."""

import math
import re
from dataclasses import dataclass
from typing import Literal

SKEW = 120.0
"""Seconds that the clocks of two application servers may differ."""

MAX_COOKIE_AGE = 400 * 86400
"""Seconds. Browsers cap ``Max-Age`` here (RFC 6265bis, 5.5)."""

DAY = 86400.0

_LONGEST = 1000 * 366 * DAY  # the token's deadline has five bytes, and a datetime ends with the year 9999

_LONGEST_NAME, _LONGEST_PATH = 4096 - 64, 1024  # RFC 6265bis, 5.6

_COOKIE_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2: token
_COOKIE_PATH = re.compile(r"/[\x20-\x3a\x3c-\x7e]*")  # RFC 6265, 4.1.1: any character but controls and ";"
_COOKIE_DOMAIN = r"[A-Za-z0-9]([A-Za-z0-9.\-]*[A-Za-z0-9])?"  # compiled where there is one


def _seconds(owner: str, field: str, value: object, *, zero: bool = False) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= _LONGEST or (value == 0 and not zero):  # type: ignore[operator]  # a number by then
        raise ValueError(
            f"{owner}.{field} is {value!r}; it must be a number of seconds {'not below' if zero else 'above'} 0 "
            "and at most 1000 years"
        )


def _matches(pattern: str | re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


@dataclass(frozen=True, slots=True)
class Rotation:
    """How often tokens change, how many of them open the session, and what happens when an older one turns up.

    Attributes:
        ttl: seconds after which the newest token is rotated; None: never. Default 5. Short: a token caught on the
            wire is soon overtaken, and each active session costs a write every ttl. Long or None: few writes, for
            sites that are on TLS throughout. From half of ``grace`` on, a thief as active as his victim is noticed.
            Not 15 to 50 with window and grace left alone: on networks of 2-25 s each way nearly every honest hour ended
            in a log-out at 20 and 30 (docs/simulation.md). There, ``grace=120``, or ``window=10`` at 20 and 7 at 30.
        window: how many of the newest tokens are valid, at least 2. Default 3. It is what holds with ``grace=0``;
            smaller means that parallel requests and lost answers are refused sooner.
        grace: seconds' worth of rotations that are forgiven on top. Default 60: slow handlers, phone networks and
            browsers that were killed before they wrote their cookies present tokens that old. 0 is the plain rule
            of 2011, which refuses honest people too; it needs ``on_copied="refuse"``.
        on_copied: what happens to a session whose overtaken token is presented: ``"revoke"`` (default) ends it, for
            both who hold it (RFC 9700, 4.14.2); ``"refuse"`` only refuses the request and raises the event.

    Raises:
        ValueError: a value makes no sense; the message names the field, the value and the rule.
    """

    ttl: float | None = 5
    window: int = 3
    grace: float = 60
    on_copied: Literal["revoke", "refuse"] = "revoke"

    def __post_init__(self) -> None:
        if self.ttl is not None:
            _seconds("Rotation", "ttl", self.ttl)
        _seconds("Rotation", "grace", self.grace, zero=True)
        if not isinstance(self.window, int) or isinstance(self.window, bool) or self.window < 2:
            raise ValueError(
                f"Rotation.window is {self.window!r}; it must be a whole number of at least 2: with 1, two parallel "
                "requests would refuse each other"
            )
        if self.on_copied not in ("revoke", "refuse"):
            raise ValueError(f'Rotation.on_copied is {self.on_copied!r}; it must be "revoke" or "refuse"')
        if self.grace == 0 and self.on_copied == "revoke":
            raise ValueError(
                "Rotation.grace is 0 with on_copied='revoke'; without grace honest people present overtaken tokens too "
                'and would be logged out: set on_copied="refuse", or leave grace at 60'
            )

    @property
    def accepted(self) -> int:
        """K of the protocol: how many of the newest tokens open the session."""
        if self.ttl is None:
            return self.window
        return max(self.window, 1 + math.ceil(min(self.grace / self.ttl, 2.0**48)))  # that many there are

    @property
    def lateness(self) -> float:
        """Seconds after a renewal or a log-out during which a request from before it may still come in."""
        return max(self.grace, 60.0) + SKEW


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a session lives. Both are judged by the server at each request, never left to the browser.

    Attributes:
        idle: seconds without a request after which the session has ended. Default 7200 (two hours). OWASP: 15 to 30
            minutes for low risk, 2 to 5 for high value. The longer, the longer a forgotten browser stays logged in.
            The time of the last request is written once a tenth of this has passed, so it is exact to a tenth.
        absolute: seconds after creation, or after the last log-in, at which the session ends however active it is.
            Default 30 days. OWASP: 4 to 8 hours for an office day; NIST 800-63B, AAL2: 24 hours. The token carries
            this deadline, so an older cookie costs no database command.

    Raises:
        ValueError: a value makes no sense; the message names the field, the value and the rule.
    """

    idle: float = 7200
    absolute: float = 30 * DAY

    def __post_init__(self) -> None:
        _seconds("Timeouts", "idle", self.idle)
        _seconds("Timeouts", "absolute", self.absolute)
        if self.idle > self.absolute:
            raise ValueError(
                f"Timeouts.idle is {self.idle!r} and Timeouts.absolute {self.absolute!r}; idle must not be above it"
            )


@dataclass(frozen=True, slots=True)
class Cookie:
    """The cookie's name and attributes. It is always ``HttpOnly``: no script needs the token.

    Attributes:
        name: default ``__Host-session``. The prefix makes browsers insist on ``Secure``, ``Path=/`` and no domain,
            so that no subdomain and no unencrypted page can plant one (RFC 6265bis, 4.1.3).
        secure: send over TLS only. Default True. Without it anybody on the network reads the token. Browsers make an
            exception for http://localhost.
        same_site: ``"lax"`` (default), ``"strict"`` or ``"none"``; "none" sends the cookie with requests from foreign
            pages and takes protection from cross-site requests away.
        path: default ``/``.
        domain: default None: this host alone. With a domain every subdomain gets the token.
        persistent: True (default) sends ``Max-Age``, the rest of the absolute timeout (at most 400 days); False makes
            it a cookie of the browser session.
        partitioned: keyed to the top-level page (CHIPS), for embedded pages. Default False.

    Raises:
        ValueError: a value makes no sense; the message names the field, the value and the rule.
    """

    name: str = "__Host-session"
    secure: bool = True
    same_site: Literal["lax", "strict", "none"] = "lax"
    path: str = "/"
    domain: str | None = None
    persistent: bool = True
    partitioned: bool = False

    def __post_init__(self) -> None:
        if not _matches(_COOKIE_NAME, self.name):
            raise ValueError(
                f"Cookie.name is {self.name!r}; it must be a token of RFC 9110 (letters, digits, !#$%&'*+-.^_`|~)"
            )
        if self.same_site not in ("lax", "strict", "none"):
            raise ValueError(f'Cookie.same_site is {self.same_site!r}; it must be "lax", "strict" or "none"')
        if not _matches(_COOKIE_PATH, self.path):
            raise ValueError(
                f"Cookie.path is {self.path!r}; it must begin with / and hold neither ; nor control characters"
            )
        if len(self.name) > _LONGEST_NAME:
            raise ValueError(
                f"Cookie.name is {self.name!r}; it must have at most {_LONGEST_NAME} characters: a token has 64, and "
                "browsers drop a cookie whose name and value are over 4096"
            )
        if len(self.path) > _LONGEST_PATH:
            raise ValueError(
                f"Cookie.path is {self.path!r}; it must have at most {_LONGEST_PATH} characters: browsers ignore an "
                "attribute that is longer"
            )
        if self.domain is not None and not _matches(_COOKIE_DOMAIN, self.domain):
            raise ValueError(f"Cookie.domain is {self.domain!r}; it must be a host name such as example.org, or None")
        for field in ("secure", "persistent", "partitioned"):
            if not isinstance(getattr(self, field), bool):
                raise ValueError(f"Cookie.{field} is {getattr(self, field)!r}; it must be True or False")
        prefix = self.name.lower()  # browsers compare the prefixes without regard to case
        if prefix.startswith(("__host-", "__secure-", "__http-")) and not self.secure:
            raise ValueError(
                f"Cookie.secure is False and Cookie.name {self.name!r}; browsers take a cookie of that prefix only "
                'with Secure: name it "session" where there is no TLS'
            )
        if prefix.startswith("__host-") and (self.path != "/" or self.domain is not None):
            raise ValueError(
                f"Cookie.path is {self.path!r} and Cookie.domain {self.domain!r} with the name {self.name!r}; browsers "
                "take a __Host- cookie only with the path / and no domain"
            )
        if self.same_site == "none" and not self.secure:
            raise ValueError(
                "Cookie.same_site is 'none' and Cookie.secure False; browsers take SameSite=None only with Secure"
            )
        if self.partitioned and not self.secure:
            raise ValueError(
                "Cookie.partitioned is True and Cookie.secure False; browsers take Partitioned only with Secure"
            )
