"""One visible decision of what a commit writes and what it sends. Pure: the engine carries it out.

The rules are those of the protocol's "Writing", "Renewal" and "Ending":

- At most one write, all of it in one update fenced by the epoch; nothing where nothing is due.
- No token without confirmation: each ``Offer`` names the epoch and generation that the document must have, as the
  write itself returns them or, where there is none, a second read just before the headers leave.
- A 5xx discards data and renewals, never an ending, a rotation or a touch.
- The cookie is deleted by ``destroy`` alone.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mongosession.errors import DataError
from mongosession.events import Event, EventKind, Verdict
from mongosession.policy import Rotation, Timeouts
from mongosession.rotation import AHEAD, CURRENT, expiry, touch_at
from mongosession.session import Session, tracker
from mongosession.signed import Signed, SignedCodec, in_cookie
from mongosession.store import DESTROYED, ENDED, Changes, Record, Stamp
from mongosession.tokens import EPOCH_BYTES, SID_BYTES, Token, deadline, session_id
from mongosession.tracker import FRESH, Difference, Kept, Life, Renewal, Tracker
from mongosession.values import IMMUTABLE, Delta, dump, encode_name, prepare

AFTER_LATENESS = 300.0
"""Seconds for which an ended document is kept once no straggler can be late any more."""

_IN_COOKIE = "the session lives in its cookie, and the headers are gone"
_PLAIN = {str}
_FORCED = (Event(EventKind.FORCED_NO_STORE, reason="a cookie in a public or prefetched response"),)


class Terms(NamedTuple):
    """The settings that a plan depends on; ``signed`` where sessions of nobody live in their cookies."""

    rotation: Rotation
    timeouts: Timeouts
    max_data: int
    signed: SignedCodec | None = None


class Creation(NamedTuple):
    """A new session and its first token."""

    record: Record
    token: Token


class Update(NamedTuple):
    """One write: fenced by the epoch, or (None) by nothing: an ending wins over everything."""

    id: bytes
    epoch: int | None
    changes: Changes


class Offer(NamedTuple):
    """A token that may be sent if epoch and generation are then these."""

    token: Token
    if_then: Stamp


class Plan(NamedTuple):
    """What a commit does, in this order.

    Attributes:
        end: the ending, or None.
        update: the fenced write, or None.
        create: a session to insert, or None.
        keep: a session that goes into its cookie, or None.
        instead: a session to insert if the update, a renewal, matches nothing; or None.
        offer: the token to send once confirmed, or None; by a second read where there is no update.
        essential: whether the request fails if the update does: it carries more than a rotation or a touch.
        forget: delete the cookie.
        revert: the data changes are discarded: the dictionary shows again what was read or written last.
        vary: the response depends on the session.
        difference: how the data changed, or None where nobody looked.
        events: what happened besides, decided already.
    """

    end: Update | None = None
    update: Update | None = None
    create: Creation | None = None
    keep: Kept | None = None
    instead: Creation | None = None
    offer: Offer | None = None
    essential: bool = False
    forget: bool = False
    revert: bool = False
    vary: bool = False
    difference: Difference | None = None
    events: tuple[Event, ...] = ()

    @property
    def idle(self) -> bool:
        """Whether the store is not needed."""
        return self.update is None and self.offer is None and self.end is None and self.create is None

    @property
    def upkeep(self) -> bool:
        """Whether it is a rotation or a touch and nothing else: what another request may have begun as well."""
        if self.update is None or self.essential or self.update.changes.put:
            return False
        offered = None if self.offer is None else self.offer.token.generation
        return self.update.changes.raised.get("generation") == offered

    def spared(self) -> "Plan":
        """The same without its write: another request makes it, and sends its token."""
        return self._replace(update=None, offer=None)

    @property
    def writes(self) -> bool:
        """Whether it writes a session, and not only the end of one."""
        return self.update is not None or self.create is not None or self.keep is not None

    @property
    def logs_in(self) -> bool:
        """Whether it gives a session to a subject."""
        return self.instead is not None or (self.create is not None and self.create.record.subject is not None)

    @property
    def postponable(self) -> bool:
        """Whether it may wait until the response is gone: a write of data or a touch that brings no token."""
        return self.update is not None and self.offer is None and self.end is None and self.create is None


def plan(
    session: Session,
    terms: Terms,
    *,
    now: float,
    random: Callable[[int], bytes],
    status: int = 200,
    public: bool = False,
    sent: bool = False,
    early: bool = False,
) -> Plan:
    """Decide what to write and what to send.

    Args:
        session: as the handler left it.
        terms: the settings.
        now: seconds since 1970.
        random: how many random bytes -> so many random bytes; called only where a session or an epoch begins.
        status: the response's status; from 500 on data and renewals are discarded.
        public: shared caches may keep the response: it should carry no cookie.
        sent: the response's headers are gone: no token can be sent.
        early: they are not written yet, and this is not the commit that precedes them: no rotation.

    Raises:
        DataError: the session holds what cannot be stored, or more than the limit.
    """
    about = tracker(session)
    if about.signed is not None and not sent and not early:
        decided = _stay(about, session, terms, succeeds=status < 500, may_send=about.tokens and not public)
        if decided is not None:
            return decided
    difference = _measured(about, session, terms.max_data) if status < 500 else None
    if status < 500 and not _due(about, terms, now, sent=sent, early=early):
        if difference is None:
            return SEEN if about.accessed and not sent and not early else NOTHING
        if about.record is not None and about.signed is None:
            return _data_alone(about.record, difference, vary=not sent and not early)
    delta = difference.delta if difference is not None else None
    succeeds = status < 500
    case = _Case()
    case.session = session
    case.terms = terms
    case.now = now
    case.random = random
    case.sent = sent
    case.early = early
    case.may_send = about.tokens and not public and not sent and not early
    case.vary = (about.accessed or delta is not None) and not sent and not early
    case.delta = delta
    case.difference = difference
    case.renewal = about.intent if succeeds and isinstance(about.intent, Renewal) else None
    case.life = about.life if succeeds else None
    case.description = about.description if succeeds else None
    case.protected = succeeds and about.protected
    if about.intent == "destroy":
        decided = _end(about, case)
    elif about.signed is not None and about.record is not None:
        decided = _move(about, about.record, case)
    elif about.record is not None and case.renewal is not None:
        decided = _renew(about, about.record, case, case.renewal)
    elif about.record is not None:
        decided = _write(about, about.record, case)
        if succeeds:  # as most do: it is complete
            return decided
    else:
        decided = _begin(about, case)
    revert = decided.revert or (not succeeds and about.intent != "destroy")
    # All of it up to `forget` stays; fewer steps than `_replace` takes.
    rest = (revert, case.vary, None if revert else difference, decided.events)
    return tuple.__new__(Plan, (*decided[:8], *rest))


def _data_alone(record: Record, difference: Difference, *, vary: bool) -> Plan:
    """What most writes are; as ``_write`` decides it, which all others need."""
    changes = tuple.__new__(Changes, (_NOTHING, _NOTHING, difference.delta, False, False))
    update = tuple.__new__(Update, (record.id, record.epoch, changes))
    # Fewer steps than the constructor takes; the fields in their order.
    return tuple.__new__(Plan, (None, update, None, None, None, None, True, False, False, vary, difference, ()))


_NOTHING: dict[str, Any] = {}  # stays so
NOTHING = Plan()
SEEN = Plan(vary=True)


def _due(about: Tracker, terms: Terms, now: float, *, sent: bool, early: bool) -> bool:
    """Whether there may be something to write or to send besides data."""
    judged, record = about.judgement, about.record
    if about.asked or about.owed is not None or judged.acts:
        return True
    if record is None:
        return False
    seen_at = now if sent else judged.now
    return seen_at >= touch_at(record, terms.timeouts) or (early and about.signed is not None)


class _Case:
    """What all the cases below have to know; nobody changes it once it is filled in."""

    __slots__ = (
        *("session", "terms", "now", "random", "sent", "early", "may_send", "vary"),
        *("delta", "difference", "renewal", "life", "description", "protected"),
    )

    session: Session
    terms: Terms
    now: float
    random: Callable[[int], bytes]
    sent: bool
    early: bool
    may_send: bool
    vary: bool
    delta: Delta | None
    difference: Difference | None
    renewal: Renewal | None
    life: Life | None
    description: Mapping[str, str] | None
    protected: bool

    @property
    def keys(self) -> tuple[str, ...]:
        """The session keys that changed."""
        return self.difference.keys if self.difference is not None else ()

    @property
    def forced(self) -> tuple[Event, ...]:
        """A new cookie has to go out, whatever the response says of itself: it is kept from caches, with an event."""
        return () if self.may_send or self.early else _FORCED


def _measured(about: Tracker, session: Session, max_data: int) -> Difference | None:
    difference = about.compare(session)
    if difference is not None and difference.grown and difference.size > max_data:
        key = max(difference.sizes, key=lambda key: difference.sizes[key])
        raise too_large(key, difference.sizes[key], difference.size, max_data)
    return difference


def too_large(key: str, takes: int, size: int, max_data: int) -> DataError:
    """What is raised where a value would take the data over the limit."""
    return DataError(
        f"the session's data would take {size} bytes, {takes} of them session[{key!r}]; the limit is "
        f"{max_data} (SessionEngine(max_data=...))",
        key,
    )


def _end(about: Tracker, case: _Case) -> Plan:
    """Log-out. Also a late or refused request ends the session it names, and one whose session was renewed while it was
    handled: a log-out must not be lost."""
    if about.judgement.verdict is Verdict.UNAVAILABLE:  # the session goes on, so its cookie must
        reason = "the database is away"
        return Plan(events=(Event(EventKind.DROPPED_DESTROY, reason=reason), *_dropped(case, about, reason)))
    if about.signed is not None and case.sent:
        return Plan(events=(Event(EventKind.DROPPED_DESTROY, reason=_IN_COOKIE), *_dropped(case, about, _IN_COOKIE)))
    holds = about.record is not None or about.judgement.verdict not in FRESH
    end = None
    if about.token is not None and holds and not about.revoked and about.owed != "removal":
        end = Update(session_id(about.token.sid), None, ending(DESTROYED, now=case.now, rotation=case.terms.rotation))
    data = case.delta.from_nothing() if case.delta is not None else {}
    if case.sent:
        return Plan(
            end=end, essential=True, events=_dropped(case, about, "stored after destroy, and the headers are gone")
        )
    begins = _beginning(case, data, None) if data else Plan()
    forget = not data and about.judgement.verdict is not Verdict.ANONYMOUS
    return begins._replace(end=end, essential=True, forget=forget)


def _renew(about: Tracker, record: Record, case: _Case, renewal: Renewal) -> Plan:
    """A new epoch for the session that the request holds: every older token is dead at once."""
    if case.sent:
        # Its data go as well: they may belong to a subject that the session does not have.
        return Plan(events=_dropped(case, about, "renewed when the headers were gone"), revert=True)
    created_at = case.now if renewal.logs_in else record.created_at
    epoch = _epoch(case.random, other_than=record.epoch)
    renewed = record._replace(created_at=created_at, seen_at=case.now)
    if record.subject not in (None, renewal.subject):  # what one subject chose does not bind the next
        renewed = renewed._replace(idle=None, persistent=None, description=None)
    renewed = _shaped(renewed, case)
    put = {
        **_differing(renewed, record),
        "epoch": epoch,
        "generation": 0,
        "created_at": created_at,
        "renewed_at": case.now,
        "rotated_at": case.now,
        "seen_at": case.now,
        "expires_at": expiry(renewed, case.terms.timeouts),
        "subject": renewal.subject,
    }
    assert about.token is not None  # noqa: S101  # for the type checkers: who holds a session presented its token
    token = Token(about.token.sid, epoch, 0, deadline(created_at, case.terms.timeouts.absolute))
    own = case.delta.from_nothing() if case.delta is not None else {}
    return Plan(
        update=Update(record.id, record.epoch, Changes(put=put, data=case.delta, durable=True, confirm=True)),
        instead=_creation(case, dump(own), renewal.subject) if renewal.logs_in else None,
        offer=Offer(token, Stamp(epoch, 0)),
        essential=True,
        events=case.forced,
    )


def _write(about: Tracker, record: Record, case: _Case) -> Plan:
    """Data, rotation, healing and touch: one update, or none."""
    judged, terms = about.judgement, case.terms
    raised: dict[str, float] = {}
    put: dict[str, Any] = {}
    offer: Offer | None = None
    heals = judged.verdict is AHEAD
    if judged.mint is not None and (heals or case.may_send):
        raised["generation"] = judged.mint
        (put if judged.clock_broken else raised)["rotated_at"] = judged.now
    events: tuple[Event, ...] = ()
    if isinstance(about.owed, Token) and not case.early and not case.sent:
        offer = Offer(about.owed, Stamp(record.epoch, record.generation))
        events = case.forced
    elif case.may_send and about.token is not None:
        generation = judged.offer
        if generation is None and (about.resend or about.reshapes_cookie) and judged.verdict is CURRENT:
            generation = about.token.generation
        if generation is not None:
            until = deadline(record.created_at, terms.timeouts.absolute)
            token = tuple.__new__(Token, (about.token.sid, about.token.epoch, generation, until))
            stamp = Stamp(record.epoch, record.generation if judged.mint is None else judged.mint)
            offer = tuple.__new__(Offer, (token, stamp))
    # A request was seen when it came; a connection that lives on is seen whenever it writes.
    seen_at = case.now if case.sent else judged.now
    if seen_at >= touch_at(record, terms.timeouts):
        raised["seen_at"] = seen_at
        raised["expires_at"] = expiry(record._replace(seen_at=seen_at), terms.timeouts)
    shaped, essential = record, case.delta is not None
    if case.life is not None or case.description is not None:
        shaped = _shaped(record, case)
        put |= (differing := _differing(shaped, record))
        essential = essential or bool(differing)
    if shaped.idle != record.idle:  # it may be shorter than before
        raised["seen_at"] = max(seen_at, record.seen_at)  # it may have begun in this request
        raised.pop("expires_at", None)
        put["expires_at"] = expiry(shaped._replace(seen_at=max(case.now, record.seen_at)), terms.timeouts)
    update = None
    if raised or put or case.delta is not None:
        changes = tuple.__new__(Changes, (raised, put, case.delta, False, offer is not None))
        update = tuple.__new__(Update, (record.id, record.epoch, changes))
    # Fewer steps than the constructor takes; the fields in their order.
    fields = (None, update, None, None, None, offer, essential, False, False, case.vary, case.difference, events)
    return tuple.__new__(Plan, fields)


def _begin(about: Tracker, case: _Case) -> Plan:
    """No session is held: one begins if something is stored, unless the browser has a newer cookie already."""
    data = case.delta.from_nothing() if case.delta is not None else {}
    subject = case.renewal.subject if case.renewal is not None and case.renewal.logs_in else None
    # A log-in begins a session even where the cookie is late or refused, or else nobody could log in.
    logs_in = subject is not None and about.judgement.verdict is not Verdict.UNAVAILABLE
    if about.shut and not logs_in:
        return Plan(events=_dropped(case, about, f"the request holds no session (judged {about.judgement.verdict})"))
    if not data and subject is None:
        return Plan(forget=about.owed == "removal" and not case.early and not case.sent)
    if case.sent:
        return Plan(events=_dropped(case, about, "stored when the headers were gone, and there is no session yet"))
    return _beginning(case, data, subject)


def _beginning(case: _Case, data: dict[str, Any], subject: str | None) -> Plan:
    """A session begins: in the database, or in its cookie where that is wanted, possible and enough."""
    if case.terms.signed is not None and case.renewal is None and not case.protected and not case.early:
        life, whole = case.life or Life(None, None), _whole(case.session)
        signed = Signed(case.random(SID_BYTES), case.now, case.now, whole, life.idle, life.persistent)
        if (kept := _kept(case.terms.signed, signed, case.terms)) is not None:
            return Plan(keep=kept, events=case.forced)
    return Plan(create=_creation(case, dump(data), subject), essential=True, events=case.forced)


def _stay(about: Tracker, session: Session, terms: Terms, *, succeeds: bool, may_send: bool) -> Plan | None:
    """A session stays in its cookie, which is written anew where something has changed or is due: all of it, so what
    changed of the data need not be known. None where it ends, moves or no longer fits, or the data are refused."""
    record, signed, codec = about.record, about.signed, terms.signed
    if record is None or signed is None or codec is None or about.intent == "destroy":
        return None
    sid, created_at, seen_at, before, idle, persistent = signed
    data = before
    if succeeds:
        if about.intent is not None or about.protected:
            return None
        if about.life is not None:
            idle, persistent = about.life
        if not about.unchanged(session):
            try:
                data = _whole(session)
            except Exception:  # noqa: BLE001  # whatever it is: it takes the long way to say of which key
                return None
            if len(data) > terms.max_data and len(data) > len(before):
                return None
    vary = data != before or about.accessed
    # Cleared and filled again, it has not changed; but that it was cleared is settled by this.
    same = Difference(Delta(), (), len(data), False, {}, {}) if succeeds and about.replaced else None
    changes = data != before or idle != signed.idle or persistent != signed.persistent
    if not changes and not (may_send and (about.resend or about.came >= touch_at(record, terms.timeouts))):
        if succeeds and same is None and not about.asked:
            return SEEN if vary else NOTHING
        return Plan(vary=vary, revert=not succeeds, difference=same)
    seen_at = max(seen_at, about.came)  # it may have begun in this request
    kept = _kept(codec, tuple.__new__(Signed, (sid, created_at, seen_at, data, idle, persistent)), terms, record.id)
    if kept is None:
        return None
    rest = (False, False, not succeeds, vary, same, () if may_send else _FORCED)
    return tuple.__new__(Plan, (None, None, None, kept, None, None, *rest))


def _move(about: Tracker, record: Record, case: _Case) -> Plan:
    """A session that lives in its cookie, and does not stay there, moves into the database."""
    if case.sent:
        return Plan(events=_dropped(case, about, _IN_COOKIE), revert=case.renewal is not None)
    data = record.data if case.delta is None else _whole(case.session)
    subject = case.renewal.subject if case.renewal is not None else None
    return Plan(create=_creation(case, data, subject, moved=record), essential=True, events=case.forced)


def _whole(session: Session) -> bytes:
    """All of the data, as they are written."""
    data = dict(dict.items(session))
    for key, value in data.items():
        if type(value) not in IMMUTABLE:
            data[key] = prepare(key, value)
    # As most are, and none of these has anything to escape. (Keys of a subclass may be equal by rules of their own.)
    if not (all(map(str.isidentifier, data)) and set(map(type, data)) <= _PLAIN):
        data = {encode_name(key): value for key, value in data.items()}
    return dump(data)


def _kept(codec: SignedCodec, signed: Signed, terms: Terms, id: bytes | None = None) -> Kept | None:
    """A session in its cookie, or None where it does not fit; with its id, where that is known."""
    text = codec.write(signed)
    if text is None:
        return None
    until = deadline(signed.created_at, terms.timeouts.absolute)
    return tuple.__new__(Kept, (in_cookie(signed, terms.timeouts, id), signed, text, until))


def _creation(case: _Case, data: bytes, subject: str | None, *, moved: Record | None = None) -> Creation:
    """A new session. One that has lived in a cookie brings its life along, and, unless somebody logs in, its age."""
    sid, now, timeouts = case.random(SID_BYTES), case.now, case.terms.timeouts
    created_at = moved.created_at if moved is not None and subject is None else now
    record = Record(
        id=session_id(sid),
        epoch=_epoch(case.random),
        generation=0,
        created_at=created_at,
        renewed_at=now,
        rotated_at=now,
        seen_at=now,
        expires_at=now,
        data=data,
        subject=subject,
        idle=moved.idle if moved is not None else None,
        persistent=moved.persistent if moved is not None else None,
    )
    record = _shaped(record, case)
    record = record._replace(expires_at=expiry(record, timeouts))
    return Creation(record, Token(sid, record.epoch, 0, deadline(created_at, timeouts.absolute)))


def _shaped(record: Record, case: _Case) -> Record:
    """A session with the life and the description that the handler asked for."""
    if case.life is not None:
        record = record._replace(idle=case.life.idle, persistent=case.life.persistent)
    if case.description is not None:
        record = record._replace(description=case.description or None)
    return record


def _differing(record: Record, before: Record) -> dict[str, Any]:
    """Those of these fields that are not as they were."""
    fields = {"idle": record.idle, "persistent": record.persistent, "description": record.description}
    return {name: value for name, value in fields.items() if value != getattr(before, name)}


def ending(reason: str, *, now: float, rotation: Rotation) -> Changes:
    """What becomes of a document at its end: no token's epoch, no data, no subject; time and reason stay for as long
    as a straggler may come in.

    Args:
        reason: ``DESTROYED`` (stragglers are late) or another word (they are ended).
        now: seconds since 1970.
        rotation: its lateness counts.
    """
    expires_at = now + rotation.lateness + AFTER_LATENESS
    put = {"epoch": ENDED, "renewed_at": now, "expires_at": expires_at, "reason": reason}
    put |= {"subject": None, "description": None}
    return Changes(put=put, data=Delta(replace={}), durable=True)


def _epoch(random: Callable[[int], bytes], other_than: int | None = None) -> int:
    drawn = int.from_bytes(random(EPOCH_BYTES))
    return drawn if drawn != other_than else drawn ^ 1


def _dropped(case: _Case, about: Tracker, reason: str) -> tuple[Event, ...]:
    session = about.record.id.hex() if about.record is not None else None
    events: list[Event] = []
    if case.keys or case.life is not None or case.description is not None:
        events.append(Event(EventKind.DROPPED_WRITE, session, keys=case.keys, reason=reason))
    if case.renewal is not None:
        events.append(Event(EventKind.DROPPED_RENEWAL, session, case.renewal.subject, reason=reason))
    return tuple(events)
