"""The engine: ``open`` a session from the Cookie header, ``commit`` it to the response's headers.

The only room that awaits, and the only one that asks the clock and the source of chance. What to write and what to
send is decided by ``rotation.judge`` and ``plan.plan``; here it is carried out.
"""

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from math import floor
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeVar, Unpack

from mongosession import cookies
from mongosession.begun import Begun
from mongosession.errors import DataError, DeltaRefused, SessionError, StoreError, StoreUnavailable
from mongosession.events import Event, EventKind, Verdict
from mongosession.http import is_public
from mongosession.keys import OLD, KeyRing
from mongosession.logs import EventLog
from mongosession.plan import (
    NOTHING,
    SEEN,
    Creation,
    Offer,
    Plan,
    Terms,
    Update,
    ending,
    plan,
    too_large,
)
from mongosession.policy import Cookie, Rotation, Timeouts
from mongosession.rotation import CURRENT, FORGED, IN_COOKIE, Judgement, expiry, judge, touch_at
from mongosession.session import Session, begin, tracker
from mongosession.signed import Opened, SignedCodec
from mongosession.store import COPIED, REVOKED, SURPLUS, Record, Stamp, Store, changed
from mongosession.tokens import Presented, TokenCodec
from mongosession.tracker import Calls, Kept, Owed, State, Tracker
from mongosession.values import EMPTY, decode_name, encode, encode_name, load, prepare

if TYPE_CHECKING:
    from mongosession.settings import Settings

Headers = list[tuple[str, str]]

_Result = TypeVar("_Result")

MAX_DATA = 64 * 1024

_new = object.__new__
_ROTATED = EventKind.ROTATED

_SESSION_ID = "[0-9a-fA-F]{32}"

_AT_ONCE = 32  # sessions that end at a time where all of a subject do: less than a driver's pool of connections has


class SessionEngine:
    """Sessions over one store, under one cookie. One per application; any number of processes may share the store.

    Args:
        store: where the sessions live: ``MongoStore`` or ``MemoryStore``.
        keys: the secret keys: the primary one, then old ones. At least 32 random bytes each.
        next_keys: keys that other servers may already sign with; see the three steps of a key change.
        rotation: how tokens change.
        timeouts: how long sessions live.
        cookie: the cookie's name and attributes.
        max_data: bytes of BSON that a session's data may have, default 64 KiB. Every request reads them all; MongoDB
            itself ends at 16 MiB.
        max_sessions: how many sessions a subject may have; None (default): any number. Judged at each log-in: the
            oldest log-ins beyond it end. It costs a log-in one more read, and a write for each session that ends.
        anonymous: ``"database"`` (default), or ``"cookie"``: the sessions of visitors live in a signed cookie, without
            any database command, until they log in, are protected, use an atomic operator or no longer fit. Signed, not
            encrypted: visitors can read their data, and bring back an older cookie.
        write: ``"before_response"`` (default): what a request stored is in the database before its answer leaves, so
            the next request reads it. ``"after_response"``: writes whose response carries no token come after the
            headers: less latency, and a redirect may overtake its write; a write that fails then is an event only.
        on_event: called with each ``Event``, on the event loop: a plain function that does not block. What it raises is
            logged.
        clock: seconds since 1970; the engine's only source of time.
        random: how many bytes -> so many random bytes; the engine's only source of chance.

    Raises:
        ValueError: a setting makes no sense; the message names it, its value and the rule.
    """

    def __init__(
        self,
        store: Store,
        *,
        keys: Sequence[str | bytes],
        next_keys: Sequence[str | bytes] = (),
        rotation: Rotation = Rotation(),  # noqa: B008  # frozen values
        timeouts: Timeouts = Timeouts(),  # noqa: B008
        cookie: Cookie = Cookie(),  # noqa: B008
        max_data: int = MAX_DATA,
        max_sessions: int | None = None,
        anonymous: Literal["database", "cookie"] = "database",
        write: Literal["before_response", "after_response"] = "before_response",
        on_event: Callable[[Event], object] | None = None,
        clock: Callable[[], float] = time.time,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        if write not in ("before_response", "after_response"):
            raise ValueError(f'write is {write!r}; it must be "before_response" or "after_response"')
        if anonymous not in ("database", "cookie"):
            raise ValueError(f'anonymous is {anonymous!r}; it must be "database" or "cookie"')
        if not 0 < max_data <= 15 * 2**20:
            raise ValueError(
                f"max_data is {max_data!r}; it must be 1 to 15 MiB in bytes: a document of MongoDB ends at 16 MiB"
            )
        if max_sessions is not None and (type(max_sessions) is not int or max_sessions < 1):
            raise ValueError(f"max_sessions is {max_sessions!r}; it must be at least 1, or None for any number")
        self.store = store
        self.cookie = cookie
        self.keys = KeyRing(keys, next_keys)
        self._codec = TokenCodec(self.keys, cookie.name)
        self._signed = SignedCodec(self.keys, cookie.name, timeouts) if anonymous == "cookie" else None
        self.terms = Terms(rotation, timeouts, max_data, self._signed)
        self._max_sessions = max_sessions
        self._write = write
        self._log = EventLog(clock, on_event)
        self._clock = clock
        self._random = random
        self._under_way: set[asyncio.Task[Any]] = set()
        self._begun = Begun()
        self._calls = Calls(self._save, self._pop_once, self._set_default)

    @classmethod
    def from_env(cls, store: Store, environ: Mapping[str, str] | None = None, **settings: Unpack["Settings"]) -> Self:
        """An engine whose settings are environment variables: ``MONGOSESSION_KEYS``, ``MONGOSESSION_TTL``, and so on.

        Args:
            store: where the sessions live.
            environ: the variables; by default ``os.environ``.
            settings: arguments of the constructor. Each one wins over all variables that would make it up.

        Raises:
            ValueError: a variable is unknown, missing or makes no sense; the message names it, its value unless that is
                a key, and the rule.
        """
        from mongosession.settings import from_environ, in_variables  # noqa: PLC0415  # few need it

        read = from_environ(os.environ if environ is None else environ, settings.keys())
        merged: Settings = {**read, **settings}
        try:
            return cls(store, **merged)
        except ValueError as error:
            raise ValueError(in_variables(str(error), read.keys())) from error

    @property
    def clock(self) -> Callable[[], float]:
        """The engine's only source of time: seconds since 1970."""
        return self._clock

    @property
    def random(self) -> Callable[[int], bytes]:
        """The engine's only source of chance: how many bytes -> so many random bytes."""
        return self._random

    async def setup(self) -> None:
        """Make the store ready (indexes). Safe to call at every start, from every process.

        Raises:
            SetupError: what is there has other options; the message says what differs.
            StoreUnavailable: the database did not answer.
        """
        await self.store.setup()

    async def close(self) -> None:
        """Wait for the writes under way. Call it before the database client is closed."""
        while self._under_way:
            await asyncio.wait(self._under_way)
        self._log.close()

    async def open(
        self,
        cookie: str | Sequence[str] | None,
        *,
        tokens: bool = True,
        large_body: bool = False,
        on_outage: Literal["raise", "anonymous"] = "raise",
    ) -> Session:
        """The session of a request: at most one read, none for a cookie that does not verify.

        Args:
            cookie: the Cookie header, or all of them, or None.
            tokens: False rotates and sends nothing: for prefetches, assets, and back ends that forward a browser's
                cookie and drop ``Set-Cookie``.
            large_body: the request's body is over 64 KiB or of unknown length (``mongosession.http.large_body``).
            on_outage: where the database is away: ``"raise"``, or ``"anonymous"`` for an empty session that stores
                nothing (verdict ``unavailable``).

        Raises:
            StoreUnavailable: the database did not answer within the deadline.
        """
        opening = self.opening(cookie, tokens=tokens, large_body=large_body, on_outage=on_outage)
        return opening if isinstance(opening, Session) else await opening

    def opening(
        self,
        cookie: str | Sequence[str] | None,
        *,
        tokens: bool = True,
        large_body: bool = False,
        on_outage: Literal["raise", "anonymous"] = "raise",
    ) -> Session | Coroutine[Any, Any, Session]:
        """What ``open`` gives, at once where nothing has to be waited for: no cookie of ours, or a single one that does
        not verify, or that a session lives in; so that an adapter need not await it then. Else, also where there are
        several, the rest of ``open``, to be awaited.

        Args:
            cookie: see ``open``.
            tokens: see ``open``.
            large_body: see ``open``.
            on_outage: see ``open``.
        """
        about: Tracker = _new(Tracker)
        about.calls = self._calls
        # As in the class; but each of them is asked for more than once, and an object's own are found sooner.
        about.asked = about.accessed = about.written = about.lent = False
        about.record = about.signed = about.owed = about.pending = None
        if not tokens:
            about.tokens = False
        values = cookies.read(cookie, self.cookie.name) if cookie else None
        if not values:
            return begin(about)
        now = self._now()
        if len(values) > 1:
            return self._open_one_of(about, values, now, large_body, on_outage)
        presented = self._codec.read(values[0], now)
        if presented is not None:
            return self._load(about, presented, now, large_body, on_outage)
        return self._begin(about, self._kept(values[0], now), now)

    async def _open_one_of(
        self, about: Tracker, values: list[str], now: float, large_body: bool, on_outage: Literal["raise", "anonymous"]
    ) -> Session:
        """Of several cookies of ours, as a parent domain or a cookie jar that went wrong brings them. (A coroutine all
        the same, so that its event is raised on the event loop.)"""
        found = self._found(values, now)
        if isinstance(found, list):
            return await self._load(about, found[0], now, large_body, on_outage, found)
        return self._begin(about, found, now)

    async def _load(
        self,
        about: Tracker,
        presented: Presented,
        now: float,
        large_body: bool,
        on_outage: Literal["raise", "anonymous"],
        rivals: Sequence[Presented] = (),
    ) -> Session:
        """The session that a token names, if the store has it and the token opens it; or the best one of its rivals,
        which name the same."""
        token, role, session = presented
        try:
            record = await self.store.load(session)
        except StoreUnavailable as error:
            if on_outage == "raise":
                raise
            self._emit(Event(EventKind.STORE_FAILED, session.hex(), reason=str(error)))
            about.judgement, about.tokens = Judgement(Verdict.UNAVAILABLE, now), False
            return begin(about)
        if rivals:
            token, role, _ = max(rivals, key=lambda each: _preference(each, record))
        about.judgement = judged = judge(token, record, now, self.terms.rotation, self.terms.timeouts, large_body)
        about.token = token
        if record is not None and (judged.verdict is CURRENT or judged.opens):
            about.hold(record)
            if role is OLD:
                about.resend = about.asked = True
            elif judged.acts or now >= touch_at(record, self.terms.timeouts):
                about.asked = True
        if judged.verdict is not CURRENT and judged.odd:
            await self._note(about, judged, record)
        return begin(about)

    async def commit(
        self, session: Session, *, status: int = 200, cache_control: str | None = None, sent: bool = False
    ) -> Headers:
        """Write what changed, and say which headers the response has to carry. At most one write in general. A commit
        that began runs to its end even if the caller is cancelled.

        Args:
            session: from ``open``; may be committed again, with ``sent=True``, for what changes while streaming.
            status: the response's status; from 500 on data changes and a renewal are discarded.
            cache_control: the response's own Cache-Control header: ``public`` sends no token.
            sent: the response's headers are gone: data only, and nothing is returned.

        Returns:
            Header fields: ``Set-Cookie`` and ``Vary`` are to be appended, ``Cache-Control`` replaces the response's.

        Raises:
            DataError: the session holds what cannot be stored; nothing of its data was written.
            StoreUnavailable: the database did not answer within the deadline; the write may or may not have happened. A
                session that was to begin, or to move out of its cookie, does so with the next commit.
        """
        nothing = self.settled(session, status=status, sent=sent)
        if nothing is not None:
            return nothing
        about = tracker(session)
        public = cache_control is not None and is_public(cache_control)
        headers = await self._commit(session, about, status=status, public=public, sent=sent)
        about.answered = True
        return headers

    def settled(self, session: Session, *, status: int = 200, sent: bool = False) -> Headers | None:
        """What ``commit`` returns where it has nothing to write and no token to send, as for most requests; so that an
        adapter need not await it then. None where ``commit`` has to be called.

        Args:
            session: see ``commit``.
            status: see ``commit``.
            sent: see ``commit``.
        """
        about = tracker(session)
        # First of all: a write under way may begin the session, or fail and leave its changes to be done yet.
        if about.pending is not None and not about.pending.done():
            return None
        if about.asked or status >= 500 or about.owed is not None or not about.unchanged(session):
            return None
        if (
            sent
            and about.signed is None  # else no cookie can be moved any more
            and about.record is not None
            and self._clock() >= touch_at(about.record, self.terms.timeouts)
        ):
            return None
        about.answered = True
        return [("Vary", "Cookie")] if about.accessed and not sent else []

    async def sessions(self, subject: str) -> AsyncIterator["SessionInfo"]:
        """The live sessions of a subject ("your devices"), in no certain order.

        Raises:
            TypeError: the subject is no ``str``.
            StoreUnavailable: the database did not answer within the deadline.
        """
        _check_subject(subject)
        now = self._now()
        async for record in self.store.find(subject):
            if now < expiry(record, self.terms.timeouts):
                yield SessionInfo.of(record, self.terms.timeouts)

    async def revoke(self, session_id: str) -> bool:
        """End a session, whoever holds it.

        Args:
            session_id: as ``Session.id`` and ``SessionInfo.id`` give it.

        Returns:
            Whether there was one that had not ended.

        Raises:
            ValueError: this is no session id.
            TypeError: it is no ``str``.
            StoreUnavailable: the database did not answer within the deadline.
        """
        if not isinstance(session_id, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # a visitor has none: None
            raise TypeError(f"session_id is {session_id!r}; it must be a str")
        if not re.fullmatch(_SESSION_ID, session_id):
            raise ValueError(f"{session_id!r} is no session id: it must be 32 hexadecimal digits")
        return await self._revoke(bytes.fromhex(session_id), REVOKED)

    async def revoke_subject(self, subject: str, *, keep: Session | None = None) -> int:
        """End all sessions of a subject ("log out everywhere"), those too that begin meanwhile.

        Args:
            subject: whose.
            keep: a session that stays, usually the present one.

        Returns:
            How many were ended.

        Raises:
            TypeError: the subject is no ``str``, or ``keep`` no session.
            StoreUnavailable: the database did not answer within the deadline; some may have been ended.
        """
        _check_subject(subject)
        if not isinstance(keep, Session | None):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may be untyped
            raise TypeError(f"keep is of type {type(keep).__name__}; it must be a Session, not its id")
        kept = keep.id if keep is not None else None
        ended = 0
        while True:
            ids = [record.id async for record in self.store.find(subject) if record.id.hex() != kept]
            if not ids:
                return ended
            for first in range(0, len(ids), _AT_ONCE):
                revocations = (self._revoke(each, REVOKED, subject=subject) for each in ids[first : first + _AT_ONCE])
                for done in await asyncio.gather(*revocations, return_exceptions=True):  # none is left under way
                    if isinstance(done, BaseException):
                        raise done
                    ended += done

    async def _save(self, session: Session) -> bool:
        about = tracker(session)
        await self._quiet(about)  # it may be the commit after which no cookie can be sent any more
        await self._commit(session, about, sent=about.answered, early=not about.answered)
        return about.record is not None

    async def _pop_once(self, session: Session, key: str, default: Any) -> Any:
        about = tracker(session)
        if await self._is_own(session, about, key):
            about.protected, about.asked = about.protected or key in session, True
            return session.pop(key, default)
        record, present = about.record, None
        if record is not None:
            if not about.answered and key not in session:
                return default
            present = await self._at_once(about, self.store.pop(record.id, encode_name(key), epoch=record.epoch))
        if record is not None and present is None:
            about.lose()  # what was read may be somebody else's by now
        about.learn(session, key, EMPTY)
        return load(present or EMPTY).get(key, default)

    async def _set_default(self, session: Session, key: str, value: Any) -> Any:
        about = tracker(session)
        own, record = await self._is_own(session, about, key), about.record
        if own or record is None or (not about.answered and key in session):
            about.protected, about.asked = about.protected or key not in session, True
            return session.setdefault(key, value)
        prepared = prepare(key, value)
        encoding = encode(key, prepared)
        if (size := about.size_with(encoding)) > self.terms.max_data:
            raise too_large(key, len(encoding) - len(EMPTY), size, self.terms.max_data)
        call = self.store.set_default(record.id, encode_name(key), prepared, epoch=record.epoch)
        try:
            present = await self._at_once(about, call)
        except DeltaRefused as error:
            raise DataError(f"session[{key!r}] was not stored: {error}", key) from None
        if present is None:
            about.lose()  # the value is dropped at the commit, with an event
            session[key] = value
        else:
            about.learn(session, key, present)
        return session[key]

    async def _is_own(self, session: Session, about: Tracker, key: str) -> bool:
        """Whether this request's own value of the key counts, and the database is not to be asked."""
        session.mark_accessed()
        if about.answered and about.record is not None:
            await self._refresh(about, about.record, self._now())
        await self._quiet(about)
        return about.differs(session, key) or about.signed is not None

    async def _at_once(self, about: Tracker, call: Coroutine[Any, Any, bytes | None]) -> bytes | None:
        about.pending = task = self._start(call)
        await self._end_of(task)
        return task.result()

    async def _quiet(self, about: Tracker) -> None:
        """Wait until no write of the session is under way: they keep their order."""
        while about.pending is not None and not about.pending.done():
            await asyncio.wait({about.pending})

    async def _commit(
        self,
        session: Session,
        about: Tracker,
        *,
        status: int = 200,
        public: bool = False,
        sent: bool = False,
        early: bool = False,
    ) -> Headers:
        now = self._now()
        if sent and about.record is not None:
            await self._refresh(about, about.record, now)
        if about.pending is not None:
            await self._quiet(about)
        decided = plan(
            session, self.terms, now=now, random=self._random, status=status, public=public, sent=sent, early=early
        )
        if decided is NOTHING or decided is SEEN:
            return [("Vary", "Cookie")] if decided.vary else []
        if (update := decided.update) is not None and update.changes.raised:
            if decided.upkeep and self._begun.spares(update, about.judgement.now):
                decided = decided.spared()
            else:
                self._begun.begin(update, now)
        # These may be tried again.
        before = about.state() if early or sent or decided.create is not None else None
        if decided.revert:
            about.revert(session)
        about.settle(session, decided.difference, kept=decided.keep, early=early, writes=not early or decided.writes)
        for event in decided.events:
            self._emit(event)
        headers: Headers = [("Vary", "Cookie")] if decided.vary else []
        if decided.update is None and decided.idle:
            cookie = self._into_cookie(decided, about)
            about.owed = cookie or about.owed
        elif self._write == "after_response" and decided.postponable and not early:
            about.pending = self._start(self._postponed(decided, about))
            cookie = None
        else:
            cookie = await self._finish(self._see_through(session, decided, about, before), about, headers)
        if early:
            return []
        about.owed = None
        if sent:
            return []
        return headers if cookie is None else headers + self._cookie(cookie, about.record)

    async def _see_through(self, session: Session, decided: Plan, about: Tracker, before: State | None) -> Owed:
        """Do what was decided, and leave the session as that went: also where the caller is cancelled meanwhile."""
        try:
            cookie = await self._carry_out(decided, about)
        except SessionError as error:
            about.asked = True  # something may be due yet
            # Of a session that was perhaps created nobody has the token: the next one starts from the same data.
            repeat = isinstance(error, DataError) or decided.create is not None
            if before is not None and (uncertain := about.restore(session, before, repeat=repeat)):
                self._emit(Event(EventKind.DROPPED_WRITE, _hex(about.record), keys=uncertain, reason=str(error)))
            raise
        if about.lost is not None and about.record is not None:
            about.start_over(session, about.record)
        if self._max_sessions is not None and decided.logs_in and about.record is not None:
            await self._limit(about.record)
        about.owed = cookie or about.owed
        return cookie

    async def _limit(self, record: Record) -> None:
        """After a log-in: the oldest sessions of its subject beyond the limit end. All requests take the same order, so
        that log-ins at the same moment end the same sessions and not each other."""
        if self._max_sessions is None or record.subject is None:
            return
        now = self._now()
        try:
            found = [each async for each in self.store.find(record.subject)]
            living = [each for each in found if now < expiry(each, self.terms.timeouts)]
            for each in sorted(living, key=lambda each: _seniority(each, now))[: -self._max_sessions]:
                await self._revoke(each.id, SURPLUS, subject=record.subject)
        except StoreError as error:  # the log-in stands; the next one makes up for it
            self._emit(Event(EventKind.STORE_FAILED, record.id.hex(), record.subject, reason=str(error)))

    async def _finish(self, work: Coroutine[Any, Any, Owed], about: Tracker, headers: Headers) -> Owed:
        """Wait for a commit that runs to its end whatever happens to the caller."""
        try:
            if not self.store.waits:
                return await work
            about.pending = task = self._start(work)
            await self._end_of(task)
            return task.result()
        except DataError as error:
            error.headers = headers + error.headers
            raise

    async def _refresh(self, about: Tracker, record: Record, now: float) -> None:
        """A connection may have outlived what is known of its session: other requests may have prolonged it, or not."""
        if about.signed is not None or now < expiry(record, self.terms.timeouts):
            return
        present = await self.store.load(record.id)
        alive = present is not None and present.epoch == record.epoch and now < expiry(present, self.terms.timeouts)
        if alive:
            about.record = present
        else:
            about.lose()

    def _now(self) -> float:
        return floor(self._clock() * 1000) / 1000  # BSON keeps milliseconds

    def _found(self, values: list[str], now: float) -> list[Presented] | Opened | None:
        """The tokens that verify, or what lives in a cookie, if all of it is of one session; else None."""
        tokens: list[Presented] = []
        kept: list[Opened] = []
        for value in values:
            if (token := self._codec.read(value, now)) is not None:
                tokens.append(token)
            elif (opened := self._kept(value, now)) is not None:
                kept.append(opened)
        if len(tokens) + len(kept) == 1:
            return kept[0] if kept else tokens
        ids = {each.id for each in tokens} | {record.id for _, record, *_ in kept}
        if len(ids) > 1:
            listed = ", ".join(sorted(each.hex() for each in ids))
            self._emit(Event(EventKind.SEVERAL_COOKIES, reason=f"valid cookies of several sessions: {listed}"))
            return None
        return max(kept, key=lambda each: each[0].seen_at) if kept else tokens or None

    def _kept(self, value: str, now: float) -> Opened | None:
        """What lives in a cookie, where sessions may and it has not ended."""
        opened = self._signed.read(value) if self._signed is not None else None
        return opened if opened is not None and now < opened[1].expires_at else None

    def _begin(self, about: Tracker, opened: Opened | None, now: float) -> Session:
        """A session for which the database is not asked: it lives in its cookie, or no cookie opens one."""
        if opened is None:
            about.judgement = FORGED
            return begin(about)
        about.signed, record, due, content, role = opened
        about.judgement, about.came = IN_COOKIE, now
        about.hold(record, content)
        about.resend = role is OLD
        about.asked = about.resend or now >= due
        return begin(about)

    async def _note(self, about: Tracker, judged: Judgement, record: Record | None) -> None:
        """What is rare and raises an event; the revocation of a copied session among it."""
        assert record is not None  # noqa: S101  # for the type checkers: these verdicts come of a document
        kind = EventKind.FELL_BACK if judged.fell_back else EventKind(judged.verdict)
        self._emit(Event(kind, record.id.hex(), record.subject, judged.behind))
        if judged.verdict is Verdict.COPIED and self.terms.rotation.on_copied == "revoke":
            try:
                about.revoked = await self._revoke(record.id, COPIED, epoch=record.epoch)
            except StoreError as error:  # the request is refused all the same, and the next one revokes
                self._emit(Event(EventKind.STORE_FAILED, record.id.hex(), record.subject, reason=str(error)))

    async def _revoke(self, id: bytes, reason: str, *, epoch: int | None = None, subject: str | None = None) -> bool:
        changes = ending(reason, now=self._now(), rotation=self.terms.rotation)
        if not await self.store.update(id, changes, epoch=epoch, subject=subject):
            return False
        self._emit(Event(EventKind.REVOKED, id.hex(), subject, reason=reason))
        return True

    def _start(self, work: Coroutine[Any, Any, _Result]) -> asyncio.Task[_Result]:
        """Run in a task of its own: neither a disconnect nor a cancel scope around the request reaches it."""
        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def _end_of(self, task: asyncio.Task[Any]) -> None:
        """Wait for a task, and cancel nothing: as ``asyncio.wait`` does, in a third of the steps. (``asyncio.shield``
        would log errors that are handled elsewhere, from Python 3.14 on.)"""
        ended = asyncio.get_running_loop().create_future()
        task.add_done_callback(partial(_tell, ended))
        try:
            await ended
        except asyncio.CancelledError:
            task.add_done_callback(self._orphaned)
            raise

    def _orphaned(self, task: asyncio.Task[Any]) -> None:
        """The caller was cancelled: an error of its commit has nobody else to go to."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._emit(Event(EventKind.STORE_FAILED, reason=f"after the request was cancelled: {error}"))

    async def _postponed(self, decided: Plan, about: Tracker) -> Owed:
        try:
            return await self._carry_out(decided, about)
        except SessionError as error:
            keys = decided.difference.keys if decided.difference is not None else ()
            self._emit(Event(EventKind.DROPPED_WRITE, _hex(about.record), keys=keys, reason=str(error)))
            return None

    async def _carry_out(self, decided: Plan, about: Tracker) -> Owed:
        """Do what was decided.

        Returns:
            What the headers have to bring.
        """
        if decided.end is not None:
            ended = await self.store.update(decided.end.id, decided.end.changes, epoch=decided.end.epoch)
            record, about.record = about.record, None
            if ended:
                self._emit(Event(EventKind.DESTROYED, decided.end.id.hex(), record.subject if record else None))
            elif decided.create is None and decided.keep is None:
                return None  # it had ended already: since then the browser may have got a newer cookie
        if decided.create is not None:
            return await self._create(decided.create, about)
        if decided.update is not None:
            return await self._update(decided, decided.update, about)
        if decided.offer is not None and about.record is not None:
            return await self._look_again(decided.offer, about.record.id)
        return self._into_cookie(decided, about)

    def _into_cookie(self, decided: Plan, about: Tracker) -> Owed:
        """What the headers have to bring where the store has nothing to do with it."""
        if decided.keep is not None and self._signed is not None:
            about.record, about.signed = decided.keep.record, decided.keep.signed
            self._signed.remember(decided.keep.text, about.signed, about.record)
            return decided.keep
        if decided.forget:
            about.record = about.signed = None
            return "removal"
        return None

    async def _create(self, creation: Creation, about: Tracker) -> Owed:
        await self.store.create(creation.record)
        (about.record, about.token), about.signed = creation, None
        self._emit(Event(EventKind.CREATED, creation.record.id.hex(), creation.record.subject))
        return creation.token

    async def _update(self, decided: Plan, update: Update, about: Tracker) -> Owed:
        stamp: Stamp | bool = False
        try:
            stamp = await self.store.update(update.id, update.changes, epoch=update.epoch)
        except DeltaRefused as error:
            raise await self._refused(error, decided, update, about) from None
        except StoreError as error:
            if decided.essential:
                raise
            self._emit(Event(EventKind.STORE_FAILED, update.id.hex(), reason=str(error)))
            return None
        finally:
            if update.changes.raised:
                self._begun.end(update, self._now() if stamp else None)
        if not stamp:
            return await self._unmatched(decided, about)
        assert about.record is not None  # noqa: S101  # for the type checkers: an update is of a session that is held
        raised, put = update.changes.raised, update.changes.put
        if raised or put:
            about.record = changed(about.record, {**raised, **put})
        if put.get("epoch") is not None:
            self._emit(Event(EventKind.RENEWED, update.id.hex(), about.record.subject))
        elif "generation" in raised:
            kind = EventKind.HEALED if decided.offer is None else _ROTATED
            self._emit(Event(kind, update.id.hex(), about.record.subject))
        if decided.offer is None or stamp != decided.offer.if_then:
            return None
        about.token = decided.offer.token
        return about.token

    async def _refused(self, error: DeltaRefused, decided: Plan, update: Update, about: Tracker) -> DataError:
        """The server refused the data, and nothing was written: the rotation goes alone."""
        keys = [decode_name(name) for name in error.names]
        refusal = DataError(
            f"session[{' or '.join(map(repr, keys))}] was not stored: {error}", keys[0] if keys else None
        )
        rotation = ("generation", "rotated_at")
        raised, put = (
            {name: value for name, value in fields.items() if name in rotation}
            for fields in (update.changes.raised, update.changes.put)
        )
        changes = update.changes._replace(raised=raised, put=put, data=None)
        if raised and "epoch" not in update.changes.put:
            alone = decided._replace(essential=False, difference=None)
            refusal.headers = self._cookie(
                await self._update(alone, update._replace(changes=changes), about), about.record
            )
        return refusal

    async def _unmatched(self, decided: Plan, about: Tracker) -> Owed:
        """The session was renewed or has ended meanwhile. Nothing of it is continued."""
        record = about.record
        about.lose()
        if decided.instead is not None:
            return await self._create(decided.instead, about)
        renews = decided.update is not None and "epoch" in decided.update.changes.put
        kind = EventKind.DROPPED_RENEWAL if renews else EventKind.DROPPED_WRITE
        keys = decided.difference.keys if decided.difference is not None else ()
        reason = "the session was renewed or has ended while the request was handled"
        self._emit(Event(kind, _hex(record), record.subject if record else None, keys=keys, reason=reason))
        return None

    async def _look_again(self, offer: Offer, id: bytes) -> Owed:
        """A token that comes without a write: is the session still what it was?"""
        try:
            record = await self.store.load(id)
        except StoreError as error:
            self._emit(Event(EventKind.STORE_FAILED, id.hex(), reason=str(error)))
            return None
        if record is None or Stamp(record.epoch, record.generation) != offer.if_then:
            return None
        return offer.token

    def _cookie(self, owed: Owed, record: Record | None) -> Headers:
        if owed is None:
            return []
        if owed == "removal":
            value = cookies.remove(self.cookie)
        else:
            max_age = max(0, int(owed.deadline - self._clock()))
            persistent = None if record is None else record.persistent
            text = owed.text if isinstance(owed, Kept) else self._codec.write(owed)
            value = cookies.render(self.cookie, text, max_age, persistent)
        return [("Set-Cookie", value), ("Cache-Control", "no-store")]

    def _emit(self, event: Event) -> None:
        self._log.emit(event)


class SessionInfo(NamedTuple):
    """A session in a list, without its data.

    Attributes:
        id: the session id in hexadecimal; what ``revoke`` takes.
        subject: whom it belongs to.
        created_at: when it was created, or its subject last set (UTC).
        seen_at: when it was last used (UTC), exact to a tenth of the idle timeout.
        expires_at: when it ends if nobody uses it again (UTC).
        description: what ``Session.describe`` recorded. Some of it may come from the client: escape it in pages.
    """

    id: str
    subject: str | None
    created_at: datetime
    seen_at: datetime
    expires_at: datetime
    description: Mapping[str, str]

    @classmethod
    def of(cls, record: Record, timeouts: Timeouts) -> "SessionInfo":
        """What a record tells."""
        return cls(
            record.id.hex(),
            record.subject,
            datetime.fromtimestamp(record.created_at, UTC),
            datetime.fromtimestamp(record.seen_at, UTC),
            datetime.fromtimestamp(expiry(record, timeouts), UTC),
            dict(record.description or {}),
        )


def _tell(ended: asyncio.Future[None], _task: object) -> None:
    if not ended.done():  # the caller may have been cancelled
        ended.set_result(None)


def _check_subject(subject: object) -> None:
    if not isinstance(subject, str):  # to a store, None is everybody: a visitor's ``session.subject`` must not be that
        raise TypeError(f"subject is {subject!r}; it must be a str")


def _seniority(record: Record, now: float) -> tuple[float, bytes]:
    """The order in which the sessions of a subject end where there are too many. One from the future was created by a
    server whose clock is ahead, before the one that was created just now."""
    return (record.created_at if record.created_at <= now + 1 else 0, record.id)


def _preference(presented: Presented, record: Record | None) -> tuple[bool, int]:
    """Of several cookies of one session: one of the living epoch, and of those the newest."""
    return record is not None and presented.token.epoch == record.epoch, presented.token.generation


def _hex(record: Record | None) -> str | None:
    return None if record is None else record.id.hex()
