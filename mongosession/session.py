"""The dictionary that a handler sees.

A ``Session`` is a real ``dict``, with every one of its methods overridden to note that the session was looked at: a
response that depends on it must say ``Vary: Cookie``. Those that hand values out note, too, where that may be a
container, which can be changed without any method of the session. ``tracker.py`` finds at commit what has changed.
(Extensions in C may look past the methods: ``json.dumps`` does so for an empty dictionary, and for no other.)
"""

import re
from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
from datetime import UTC, datetime
from enum import Enum
from operator import attrgetter
from typing import Any, Final, NoReturn, Self

from mongosession.errors import DataError
from mongosession.events import Verdict
from mongosession.tracker import Calls, Life, Operator, Renewal, Tracker
from mongosession.values import IMMUTABLE, encode, prepare, without, without_twins

MAX_SUBJECT = 512
"""Characters of a subject: it is an identifier, and indexed."""

MAX_IDLE = 1000 * 366 * 86400.0
"""Seconds; the absolute timeout is no longer either."""

MAX_DETAILS = 8
MAX_DETAIL = 256
MAX_DETAIL_NAME = 64
"""Limits of ``describe``: some of it comes from the client, and it is not for him to say how large a document is."""

# Compiled where they are asked for: importing the package should take no time.
_NO_UTF8 = "[\ud800-\udfff]"
_NO_DETAIL = "[.$\0\ud800-\udfff]"
_NO_SUBJECT = "[\0\ud800-\udfff]"  # what UTF-8 cannot hold would fail at the commit only


class Keep(Enum):
    """The type of ``KEEP``."""

    KEEP = "keep"


KEEP: Final = Keep.KEEP
"""``renew()`` without a subject: the one that the session has stays."""


class Session(dict[str, Any]):
    """A visitor's session: a dictionary whose changes are written when the request completes.

    Keys are ``str`` of any kind, values whatever BSON holds; datetimes come back aware, in UTC. Nested changes are
    noticed. Sessions come from ``SessionEngine.open`` or from an adapter; nobody constructs one.
    """

    __slots__ = ("_tracker",)

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        super().__init__(tracker.base)

    # What it tells of itself. None of it depends on the session's data, so none of it counts as a look at them.

    @property
    def verdict(self) -> Verdict:
        """How the cookie of this request was judged: a word of the protocol."""
        return self._tracker.judgement.verdict

    @property
    def id(self) -> str | None:
        """The session id in hexadecimal, or None while the request holds no stored session. A hash: safe to log."""
        record = self._tracker.record
        return None if record is None else record.id.hex()

    @property
    def is_new(self) -> bool:
        """Whether the request holds no stored session (yet)."""
        return self._tracker.record is None

    @property
    def late(self) -> bool:
        """Whether what is stored will be dropped, with an event: the browser has been answered with a newer cookie
        already, or the token is refused. An application answers 409 or 503 then, not 401."""
        return self._tracker.shut

    @property
    def subject(self) -> str | None:
        """Whom the session belongs to: what ``renew(subject=...)`` set, or None."""
        intent, record = self._tracker.intent, self._tracker.record
        if isinstance(intent, Renewal):
            return intent.subject
        return None if record is None or intent == "destroy" else record.subject

    @property
    def created_at(self) -> datetime | None:
        """When it was created, or a subject last set (UTC); None while it is not stored."""
        record = self._tracker.record
        return None if record is None else datetime.fromtimestamp(record.created_at, UTC)

    @property
    def seen_at(self) -> datetime | None:
        """When it was last used (UTC), exact to a tenth of the idle timeout; None while it is not stored."""
        record = self._tracker.record
        return None if record is None else datetime.fromtimestamp(record.seen_at, UTC)

    @property
    def expires_at(self) -> datetime | None:
        """When it ends if nobody uses it again (UTC), exact to a tenth of the idle timeout; None while not stored."""
        record = self._tracker.record
        return None if record is None else datetime.fromtimestamp(record.expires_at, UTC)

    # Log-in and log-out.

    def renew(self, subject: str | Keep | None = KEEP) -> None:
        """Log-in, or any change of privilege (OWASP; ASVS 7.2.4): at commit the session gets a new token, and every
        older one is dead at once. Its id stays.

        From no subject to a subject the data stay (``clear()`` drops what was stored before the log-in, by whomever).
        From one subject to another, or to none, the session starts empty, at this call. Setting a subject restarts
        the absolute timeout. Of ``renew`` and ``destroy`` in one request the last one called counts.

        Args:
            subject: whom the session belongs to from now on, None for nobody; left out, it keeps its subject.

        Raises:
            TypeError: the subject is no ``str``.
            ValueError: the subject is empty, longer than 512 characters, or holds NUL or a lone surrogate.
        """
        tracker = self._tracker
        tracker.accessed = True
        before = self.subject
        if subject is KEEP:
            sets = tracker.intent is not None and (tracker.intent == "destroy" or tracker.intent.sets_subject)
            tracker.intent, tracker.asked = Renewal(before, sets), True
            return
        if subject is not None:
            if not isinstance(subject, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may not be typed
                raise TypeError(f"renew(subject={subject!r}): a subject must be a str, for instance 'user:{subject}'")
            if not 0 < len(subject) <= MAX_SUBJECT or re.search(_NO_SUBJECT, subject):
                raise ValueError(
                    f"renew(subject=...) of {len(subject)} characters; it must be 1 to {MAX_SUBJECT}, without NUL and "
                    "lone surrogates"
                )
        if tracker.lost is not None and tracker.intent is None:
            before = tracker.lost.subject  # whose data the dictionary still shows
        if before is not None and subject != before:
            tracker.start_empty(self)
        tracker.intent, tracker.asked = Renewal(subject, sets_subject=True), True

    def destroy(self) -> None:
        """Log-out: at commit the session ends and the cookie is deleted. The dictionary is emptied now; what is stored
        afterwards starts a new session. ``clear()`` is no log-out: it only empties the data."""
        self._tracker.accessed = self._tracker.asked = True
        self._tracker.start_empty(self)
        self._tracker.intent = "destroy"

    # What the session keeps about itself, beside the data. Alone it begins no session.

    def set_expiry(self, *, idle: float | None = None, persistent: bool | None = None) -> None:
        """Give this session a life of its own: "remember me", or a short one for a terminal in a public place. The
        absolute timeout holds as well. It stays until it is set anew, or the session goes over to another subject.
        The browser learns of ``persistent`` with the next token: in this response as a rule, and certainly with
        ``renew()``; not in one to a prefetch, nor once the headers are gone.

        Args:
            idle: seconds without a request after which it ends; None: ``Timeouts.idle``.
            persistent: whether its cookie outlives the browser; None: ``Cookie.persistent``.

        Raises:
            ValueError: idle is no number of seconds above 0.
            TypeError: persistent is none of True, False and None.
        """
        if idle is not None and (
            isinstance(idle, bool) or not isinstance(idle, int | float) or not 0 < idle < MAX_IDLE
        ):
            raise ValueError(
                f"set_expiry(idle={idle!r}): it must be a number of seconds above 0 (and below 1000 years), or None"
            )
        if not isinstance(persistent, bool | None):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"set_expiry(persistent={persistent!r}): it must be True, False or None")
        self._tracker.asked = True
        self._tracker.life = Life(None if idle is None else float(idle), persistent)

    def describe(self, /, **details: str | None) -> None:
        """Record what tells this session from the others of its subject, for a list of "your devices"; it replaces what
        was recorded before, and costs a write only where it differs. Another subject starts without, and a session that
        lives in its cookie keeps none::

            session.describe(user_agent=request.headers.get("user-agent"), address=request.client.host)

        Args:
            details: up to 8 short texts. Each is cut after 256 characters; None and empty ones are left out.

        Raises:
            ValueError: more than 8 details, or a name of over 64 characters or with one of ``.``, ``$`` and NUL.
            TypeError: a detail is no text.
        """
        if len(details) > MAX_DETAILS:
            raise ValueError(f"describe() with {len(details)} details; it takes at most {MAX_DETAILS}")
        for name, text in details.items():
            if not 0 < len(name) <= MAX_DETAIL_NAME or re.search(_NO_DETAIL, name):
                raise ValueError(
                    f"describe({name!r}=...): a name must have 1 to {MAX_DETAIL_NAME} characters, without . $ and NUL"
                )
            if text is not None and not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"describe({name}={text!r}): a detail must be a str")
        self._tracker.asked = True
        self._tracker.description = {
            name: re.sub(_NO_UTF8, "\N{REPLACEMENT CHARACTER}", str.__str__(text[:MAX_DETAIL]))
            for name, text in details.items()
            if text
        }

    async def save(self) -> bool:
        """Write now what has changed: in streams, on WebSockets, in background work, as often as needed. Nothing
        changed, nothing is written. Before the response's headers are gone, a session that begins or is renewed here
        gets its cookie with them; afterwards that cannot be done any more, and is dropped with an event.

        Returns:
            Whether the request still holds a session: False once it was renewed or has ended elsewhere (what was
            stored is dropped then, with an event), or where there is none.

        Raises:
            DataError: the session holds what cannot be stored; nothing of it was written.
            StoreUnavailable: the database did not answer within the deadline.
        """
        return await self._calls().save(self)

    def protect(self) -> None:
        """Move a session that lives in its cookie into the database, when the request completes: before data that must
        be secret, that must be handed out once, or that must not be brought back by an old cookie. A session of the
        database, and one that stores nothing, is left as it is."""
        self._tracker.protected = self._tracker.asked = True

    async def pop_once(self, key: str, default: Any = None) -> Any:
        """Take a value out of the session at once, so that exactly one of many parallel requests gets it: a one-time
        token, a flash message. One command, acknowledged by a majority; none where the request read no such value. A
        value that this request itself has set is simply popped.

        Unlike other changes it is done now, and stays done whatever becomes of the response. Where the database does
        not answer, it may have been done (and nobody gets the value), or not. None of this holds of a session that
        lives in its cookie: ``protect()`` it before such a value is stored.

        Returns:
            The value, or the default: there was none, another request got it, or the session has ended.

        Raises:
            DataError: an atomic operator was used on the key in this request.
            StoreUnavailable: the database did not answer within the deadline.
        """
        return await self._calls().pop_once(self, key, default)

    async def set_default(self, key: str, value: Any = None) -> Any:
        """Set a value at once unless there is one: of many parallel requests the first one wins, and all get its value.
        One command, acknowledged by a majority; none where the request read a value already. Where the request holds no
        stored session it is ``setdefault``: nobody else can have written there.

        Returns:
            The value that the session holds.

        Raises:
            DataError: the value cannot be stored, or an atomic operator was used on the key in this request.
            StoreUnavailable: the database did not answer within the deadline.
        """
        return await self._calls().set_default(self, key, value)

    def _calls(self) -> Calls:
        calls = self._tracker.calls
        if calls is None:
            raise RuntimeError("this session does not come from SessionEngine.open")
        return calls

    # Atomic operators: written as such, so that parallel requests lose nothing; mirrored at once in the dictionary.

    def increment(self, key: str, by: float = 1) -> None:
        """Add to a number, atomically; a missing key counts as 0.

        Raises:
            DataError: the value is no number, or another operator was used on the key in this request.
        """
        value = self.get(key, 0)
        for number in (value, by):
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise DataError(f"increment of session[{key!r}]: {number!r} is no number", key)
        self._tracker.operate(self, "increment", key, by, value + by)

    def append(self, key: str, *values: Any) -> None:
        """Append to a list, atomically; a missing key counts as an empty list.

        Raises:
            DataError: the value is no list, or another operator was used on the key in this request.
        """
        array, operand = self._list("append", key, values)
        self._tracker.operate(self, "append", key, operand, [*array, *values])

    def add_to_set(self, key: str, *values: Any) -> None:
        """Append to a list what it does not hold yet, atomically; a missing key counts as an empty list.

        Raises:
            DataError: the value is no list, or another operator was used on the key in this request.
        """
        array, operand = self._list("add_to_set", key, values)
        self._tracker.operate(self, "add_to_set", key, operand, without_twins(array, values))

    def remove_from(self, key: str, *values: Any) -> None:
        """Take every occurrence of the values out of a list, atomically; a missing key stays missing.

        Raises:
            DataError: the value is no list, or another operator was used on the key in this request.
        """
        if key in self:
            array, operand = self._list("remove_from", key, values)
            self._tracker.operate(self, "remove_from", key, operand, without(array, values))

    def _list(self, operator: Operator, key: str, values: tuple[Any, ...]) -> tuple[list[Any], list[Any]]:
        """The list that an operator acts on, and the values as they are written."""
        array = self.get(key, [])
        if not isinstance(array, list):
            raise DataError(f"{operator} on session[{key!r}]: it is no list but {type(array).__name__}", key)
        operand: list[Any] = prepare(key, values)
        encode(key, [prepare(key, array), operand])  # what BSON cannot hold cannot be compared either
        return array, operand  # pyright: ignore[reportUnknownVariableType]

    # The dictionary. Looks are noted; plain changes of a key take back an operator on it.

    @property
    def accessed(self) -> bool:
        """Whether the session was looked at, so that the response depends on it. Flask sets it."""
        return self._tracker.accessed

    @accessed.setter
    def accessed(self, accessed: bool) -> None:
        self._tracker.accessed = accessed or self._tracker.accessed

    def mark_accessed(self) -> None:
        """Note that the response depends on the session. Starlette calls it for ``request.session``."""
        self._tracker.accessed = True

    def __getitem__(self, key: str, /) -> Any:
        tracker = self._tracker
        tracker.accessed = True
        value = dict.__getitem__(self, key)
        if type(value) not in IMMUTABLE:
            tracker.lent = True
        return value

    def get(self, key: str, default: Any = None, /) -> Any:
        tracker = self._tracker
        tracker.accessed = True
        value = dict.get(self, key, default)
        if type(value) not in IMMUTABLE:
            tracker.lent = True
        return value

    def __contains__(self, key: object, /) -> bool:
        self._tracker.accessed = True
        return dict.__contains__(self, key)

    def __iter__(self) -> Iterator[str]:
        self._tracker.accessed = True
        return dict.__iter__(self)

    def __reversed__(self) -> Iterator[str]:
        self._tracker.accessed = True
        return dict.__reversed__(self)

    def __len__(self) -> int:
        self._tracker.accessed = True
        return dict.__len__(self)

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        self._tracker.accessed = self._tracker.lent = True
        return dict.keys(self)

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        self._tracker.accessed = self._tracker.lent = True
        return dict.values(self)

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        self._tracker.accessed = self._tracker.lent = True
        return dict.items(self)

    def __eq__(self, other: object, /) -> bool:
        self._tracker.accessed = self._tracker.lent = True
        return dict.__eq__(self, other)

    def __ne__(self, other: object, /) -> bool:
        self._tracker.accessed = self._tracker.lent = True
        return dict.__ne__(self, other)

    __hash__ = None

    def __repr__(self) -> str:
        self._tracker.accessed = self._tracker.lent = True
        return dict.__repr__(self)

    def copy(self) -> dict[str, Any]:
        """The data as a plain dictionary."""
        self._tracker.accessed = self._tracker.lent = True
        return dict(dict.items(self))

    def __or__(self, other: dict[str, Any], /) -> dict[str, Any]:  # type: ignore[override]
        return self.copy() | other

    def __ror__(self, other: dict[str, Any], /) -> dict[str, Any]:  # type: ignore[override]
        return other | self.copy()

    def __reduce_ex__(self, protocol: Any, /) -> tuple[Any, ...]:
        return dict, (self.copy(),)  # copied or pickled, it is a plain dictionary

    def __setitem__(self, key: str, value: Any, /) -> None:
        tracker = self._tracker
        tracker.accessed = tracker.written = True
        if tracker.operations:
            tracker.forget(key)
        dict.__setitem__(self, key, value)

    def __delitem__(self, key: str, /) -> None:
        self._tracker.accessed = self._tracker.written = True
        dict.__delitem__(self, key)
        self._tracker.forget(key)

    def setdefault(self, key: str, default: Any = None, /) -> Any:
        self._tracker.accessed = self._tracker.written = self._tracker.lent = True
        return dict.setdefault(self, key, default)

    def pop(self, key: str, /, *default: Any) -> Any:
        self._tracker.accessed = self._tracker.written = self._tracker.lent = True
        self._tracker.forget(key)
        return dict.pop(self, key, *default)

    def popitem(self) -> tuple[str, Any]:
        self._tracker.accessed = self._tracker.written = self._tracker.lent = True
        key, value = dict.popitem(self)
        self._tracker.forget(key)
        return key, value

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value
        self._tracker.accessed = True

    def __ior__(self, other: Any, /) -> Self:  # type: ignore[override,misc]
        self.update(other)
        return self

    def clear(self) -> None:
        """Empty the data: whatever the session holds when this is written, keys of parallel requests too."""
        self._tracker.accessed = True
        self._tracker.start_empty(self)

    @classmethod
    def fromkeys(cls, *args: Any) -> NoReturn:
        """Not offered: a session belongs to a request. Use ``dict.fromkeys``."""
        raise TypeError("a Session belongs to a request; use dict.fromkeys")


def begin(about: Tracker) -> Session:
    """The session of a request: what ``Session(about)`` makes, with fewer steps."""
    session: Session = _new(Session)
    session._tracker = about  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    if about.record is not None:
        _update(session, about.base)
    return session


_new, _update = dict.__new__, dict.update

tracker: Callable[[Session], Tracker] = attrgetter("_tracker")
"""What stands behind a session; for the plan and the engine."""
