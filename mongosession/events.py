"""What a session is judged to be, and what happens to it: plain words and frozen values.

``Verdict`` holds the words of the protocol's table. An ``Event`` goes to the callback that the application gave
(``SessionEngine(on_event=...)``) and to the log. Neither ever carries a token or a sid: the session id is a hash.
"""

from enum import StrEnum
from typing import NamedTuple


class Verdict(StrEnum):
    """How a presented cookie was judged."""

    ANONYMOUS = "anonymous"  # no cookie of ours
    INVALID = "invalid"  # it does not verify, or is past the deadline it carries
    ENDED = "ended"  # no such session any more, or a token from before a renewal long past
    LATE = "late"  # from before a renewal or a log-out a moment ago: the browser was answered with a newer cookie
    AHEAD = "ahead"  # newer than the document: the write behind it was rolled back
    CURRENT = "current"  # the newest token
    DUE = "due"  # the newest token, old enough to be rotated
    BEHIND = "behind"  # one of the K newest tokens
    COPIED = "copied"  # overtaken by K newer ones: two parties hold the session
    UNAVAILABLE = "unavailable"  # the database is away and the route goes on without a session


class EventKind(StrEnum):
    """What happened."""

    CREATED = "created"
    ROTATED = "rotated"
    HEALED = "healed"  # a token ahead of the document: the generation was written again
    RENEWED = "renewed"
    DESTROYED = "destroyed"  # log-out
    REVOKED = "revoked"  # ended by an administrator, or because a token was copied
    COPIED = "copied"  # a token overtaken by K newer ones was presented
    FELL_BACK = "fell_back"  # a token older than the window but younger than K: the cookie jar fell back
    LATE = "late"  # a request from before a renewal or a log-out came in
    SEVERAL_COOKIES = "several_cookies"  # valid cookies of several sessions in one request: none was opened
    DROPPED_WRITE = "dropped_write"  # data that could not be kept; ``reason`` says why
    DROPPED_RENEWAL = "dropped_renewal"  # a renewal that could not be done; ``reason`` says why
    DROPPED_DESTROY = "dropped_destroy"  # a log-out while the database is away; the cookie stays
    FORCED_NO_STORE = "forced_no_store"  # a public or prefetched response had to carry a new cookie
    STORE_FAILED = "store_failed"  # a write failed that the request could do without, or whose request was cancelled


class Event(NamedTuple):
    """One thing that happened to one session.

    Attributes:
        kind: what happened.
        session_id: the session's id in hexadecimal (a hash, no credential), or None where there is none.
        subject: whom the session belonged to, or None.
        behind: how many generations the presented token was behind the newest one.
        keys: the session keys concerned.
        reason: why, in words.
    """

    kind: EventKind
    session_id: str | None = None
    subject: str | None = None
    behind: int = 0
    keys: tuple[str, ...] = ()
    reason: str = ""
