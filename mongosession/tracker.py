"""What stands behind a session: how its cookie was judged, what was read, what the handler did to it.

What changed is found at commit, key by key, against what was read: the same object of an immutable type is unchanged,
and so is a container that no method of the session has handed out; anything else is compared by its encoding. So no
way to change a session goes unnoticed, nested ones included. (Of a session that lives in its cookie, which is written
as a whole, the encoding of the whole is compared.) For the plan and the engine; applications use the ``Session``.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal, NamedTuple

from mongosession.errors import DataError
from mongosession.events import Verdict
from mongosession.rotation import AHEAD, NOBODY, Judgement
from mongosession.signed import Signed
from mongosession.store import Record
from mongosession.tokens import Token
from mongosession.values import (
    EMPTY,
    IMMUTABLE,
    Delta,
    element_size,
    encode,
    encode_name,
    load,
    plain_encoding,
    plainly_encoded,
    prepare,
)

FRESH = frozenset({Verdict.ANONYMOUS, Verdict.INVALID, Verdict.ENDED})
"""Verdicts under which storing something creates a session."""

_equal = dict.__eq__
_MISSING: Final = object()
_NOTHING: Final[dict[str, Any]] = {}  # stays so
_FRAME = len(EMPTY)  # a document of one element is longer than the element by this


class Renewal(NamedTuple):
    """A renewal that the request asked for; ``sets_subject`` where it named one."""

    subject: str | None
    sets_subject: bool

    @property
    def logs_in(self) -> bool:
        """Whether it may begin a session where none is left to renew. A kept subject may not: its session has ended."""
        return self.sets_subject and self.subject is not None


Intent = Renewal | Literal["destroy"] | None


class Life(NamedTuple):
    """How long the session lives, where it says so itself: what ``set_expiry`` asked for."""

    idle: float | None
    persistent: bool | None


class Kept(NamedTuple):
    """A session that goes into its cookie.

    Attributes:
        record: what a document would hold.
        signed: what the cookie holds.
        text: the cookie's text.
        deadline: the absolute end, seconds since 1970.
    """

    record: Record
    signed: Signed
    text: str
    deadline: float

    def __repr__(self) -> str:
        """Without the text: it is the credential."""
        return f"Kept({self.signed!r})"


Owed = Token | Kept | Literal["removal"] | None

Operator = Literal["increment", "append", "add_to_set", "remove_from"]


class Operation(NamedTuple):
    """An atomic operator that stands for a key, and the encoding of the value that it should lead to: where the
    mapping holds another by the time of the commit, a plain change came after it and replaces it."""

    operator: Operator
    operand: Any
    leads_to: bytes


class Calls:
    """What a session can ask of the engine while the handler runs."""

    def __init__(
        self,
        save: Callable[[Any], Awaitable[bool]],
        pop_once: Callable[[Any, str, Any], Awaitable[Any]],
        set_default: Callable[[Any, str, Any], Awaitable[Any]],
    ) -> None:
        self.save, self.pop_once, self.set_default = save, pop_once, set_default


State = tuple[
    dict[str, Any],  # base
    Mapping[str, bytes],  # encodings
    int,  # size
    Mapping[str, Operation],
    bool,  # replaced
    Intent,
    Life | None,
    Mapping[str, str] | None,  # description
    bool,  # protected
]
"""What a commit changes of a tracker: the base of the comparison, and what was asked for."""


class Difference(NamedTuple):
    """What a commit has to know of the data where they have changed.

    Attributes:
        delta: what changed.
        keys: the session keys that changed.
        size: bytes of the whole data, as this request sees them.
        grown: they are more than what was read.
        sizes: key -> bytes of its value's element, for those that were set.
        encodings: key -> encoding, where it had to be worked out, for the next comparison.
    """

    delta: Delta
    keys: tuple[str, ...]
    size: int
    grown: bool
    sizes: Mapping[str, int]
    encodings: Mapping[str, bytes]


def _setting(put: dict[str, Any]) -> Delta:
    """What most changes are; in fewer steps than the constructor takes."""
    return tuple.__new__(Delta, (None, put, (), _NOTHING, _NOTHING, _NOTHING, _NOTHING))


class Tracker:
    """The record of one request's session.

    Args:
        judgement: how the presented cookie was judged.
        record: the document, where the request holds the session; or what it would be of one that lives in its cookie.
        signed: what that cookie holds, or None.
        content: the data, where they are decoded already.
        token: the presented token, where one verified.
        resend: the token is under an old key, and has to be sent again.
        tokens: tokens may rotate and be sent.
        revoked: a copied session that this very request has revoked.
    """

    # What most requests leave as it is stands in the class: one is made for every request.
    judgement = NOBODY
    record: Record | None = None
    signed: Signed | None = None
    came = 0.0  # when the request did, seconds since 1970, where its session lives in its cookie
    token: Token | None = None
    resend = False
    tokens = True
    revoked = False
    lost: Record | None = None  # the session that the request held, where it has turned out to have gone
    accessed = False
    written = False  # a method has changed the dictionary
    lent = False  # a container may be in other hands than the session's: it can change without a method of the session
    asked = False  # for something besides data; or something is due: it says where to look closer
    answered = False  # the response's headers are gone
    owed: Owed = None  # what the headers have to bring, because it was written before them
    pending: Any = None  # the task of the last write: writes of one session keep their order
    calls: Calls | None = None  # bound by the engine
    intent: Intent = None
    life: Life | None = None  # asked for
    description: Mapping[str, str] | None = None  # asked for
    protected = False  # it has to live in the database
    replaced = False  # the data start anew: what was read is gone
    _raw = EMPTY
    _size = len(EMPTY)
    _seen: bytes | None = EMPTY  # the base as it is stored, where that is known
    _pristine: dict[str, Any] | None = None
    # Replaced when they change, never changed themselves.
    base: dict[str, Any] = _NOTHING  # the data as they were read or written last, for later comparisons
    operations: Mapping[str, Operation] = _NOTHING
    _encodings: Mapping[str, bytes] = _NOTHING

    def __init__(
        self,
        judgement: Judgement,
        *,
        record: Record | None = None,
        signed: Signed | None = None,
        content: dict[str, Any] | None = None,
        token: Token | None = None,
        resend: bool = False,
        tokens: bool = True,
        revoked: bool = False,
    ) -> None:
        self.judgement = judgement
        self.signed = signed
        self.token = token
        self.tokens = tokens
        self.revoked = revoked
        if resend:
            self.resend = self.asked = True
        if record is not None:
            self.hold(record, content)

    def hold(self, record: Record, content: dict[str, Any] | None = None) -> None:
        """The request holds this session; its data, where they are decoded already."""
        self.record = record
        self._raw = self._seen = raw = record.data
        self._size = len(raw)
        if content is None:
            content = load(raw) if raw != EMPTY else _NOTHING
        self.base = content

    @property
    def fresh(self) -> bool:
        """Whether storing something creates a session."""
        return self.record is None and (self.revoked or self.owed == "removal" or self.judgement.verdict in FRESH)

    @property
    def shut(self) -> bool:
        """Whether what is stored will be dropped."""
        return self.record is None and not self.fresh

    @property
    def reshapes_cookie(self) -> bool:
        """Whether the cookie that the browser holds has other attributes than was asked for."""
        return self.life is not None and self.record is not None and self.life.persistent != self.record.persistent

    def lose(self) -> None:
        """The session was renewed or has ended since the request read it: the request holds it no longer."""
        self.lost, self.record = self.record, None

    def compare(self, data: dict[str, Any]) -> Difference | None:
        """What changed since the base, or None.

        Raises:
            DataError: a key is no ``str``, or a value is none that BSON can hold.
        """
        if self.unchanged(data):
            return None
        base = _NOTHING if self.replaced else self.base
        size = _FRAME if self.replaced else self._size
        sizes: dict[str, int] = {}
        put: dict[str, Any] = {}
        encodings: dict[str, bytes] = {}
        operands: dict[Operator, dict[str, Any]] = {}
        new = 0
        lent, operations = self.lent, self.operations
        for key, value in dict.items(data):
            known = base.get(key, _MISSING)
            if value is known and key not in operations and (not lent or type(value) in IMMUTABLE):
                continue
            operation = operations.get(key)
            if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # a handler may not be typed
                raise DataError(f"the session holds the key {key!r}; keys must be str")
            name = encode_name(key)
            takes = element_size(name, value) if operation is None else None
            if takes is not None and value != known:  # the encoder is not needed to see that, nor how long it is
                put[name] = value
            elif takes is not None and type(value) is type(known):
                continue
            else:
                prepared = prepare(key, value)
                encoding = encodings[key] = encode(key, prepared)
                if operation is not None and operation.leads_to == encoding:
                    operands.setdefault(operation.operator, {})[name] = operation.operand
                elif known is _MISSING or encoding != self._before(key):
                    put[name] = prepared
                else:
                    continue
                takes = len(encoding) - _FRAME
            sizes[key] = takes
            size += takes
            if known is _MISSING:
                new += 1
            else:
                size -= self._size_before(key, name)
        gone: list[str] = []
        if dict.__len__(data) - new < len(base):
            gone = [key for key in base if not dict.__contains__(data, key)]
            size -= sum(self._size_before(key, encode_name(key)) for key in gone)
        if self.replaced:
            delta = Delta(replace=put)
        elif sizes or gone:
            delta = Delta(None, put, tuple(map(encode_name, gone)), **operands) if operands or gone else _setting(put)
        else:
            return None
        return tuple.__new__(Difference, (delta, (*sizes, *gone), size, size > self._size, sizes, encodings))

    def unchanged(self, data: dict[str, Any]) -> bool:
        """Whether nothing has changed, where that is seen at once: no method has written, what looks past the methods
        has left the dictionary equal, and where a container is in other hands, all of it is encoded as it was stored.
        (Both are done in C.)"""
        if self.written or not _equal(data, self.base):
            return False
        if not self.lent or all(map(IMMUTABLE.__contains__, map(type, self.base.values()))):
            return True
        seen = self._seen
        return seen is not None and plainly_encoded(seen) and plain_encoding(dict(dict.items(data))) == seen

    def operate(self, data: dict[str, Any], operator: Operator, key: str, operand: Any, result: Any) -> None:
        """Record an atomic operator and mirror its result in the mapping.

        On a key that the request has plainly changed it acts on the new value and is no operator any more; the same
        operator merges.

        Raises:
            DataError: another operator stands for the key already, or BSON cannot hold the operand.
        """
        leads_to = encode(key, prepare(key, result))
        self.protected = self.asked = self.written = True
        standing = self.operations.get(key)
        if self._plainly_changed(data, key, standing):
            self.forget(key)
        elif standing is not None and standing.operator != operator:
            raise DataError(
                f"{operator} on session[{key!r}] after {standing.operator} in the same request; one atomic operator a "
                "key can be written: assign the value plainly instead",
                key,
            )
        else:
            merged = operand if standing is None else standing.operand + operand
            encode(key, merged)  # it may be over 64 bits where the result is not
            self.operations = {**self.operations, key: Operation(operator, merged, leads_to)}
        dict.__setitem__(data, key, result)

    def forget(self, key: str) -> None:
        """A plain change of the key: no operator stands for it any more."""
        if key in self.operations:
            self.operations = {each: operation for each, operation in self.operations.items() if each != key}

    def differs(self, data: dict[str, Any], key: str) -> bool:
        """Whether the key's value is this request's own, not what the database held.

        Raises:
            DataError: an atomic operator stands for the key.
        """
        if key in self.operations:
            raise DataError(
                f"session[{key!r}] is asked for at once after {self.operations[key].operator} in the same request; "
                "await session.save() before",
                key,
            )
        return self._plainly_changed(data, key, None)

    def size_with(self, encoding: bytes) -> int:
        """Bytes of the whole data once there is one more value."""
        return self._size + len(encoding) - _FRAME

    def learn(self, data: dict[str, Any], key: str, present: bytes) -> None:
        """The database has been asked, and holds this of the key now (a document of one element, or an empty one): the
        mapping shows it, and it is no change; unless it was changed while the database was asked."""
        shows = key not in self.operations and not self._plainly_changed(data, key, None)
        before = len(self._before(key)) if key in self.base else _FRAME
        self.base = {each: value for each, value in self.base.items() if each != key} | (values := load(present))
        self._seen = None
        self._encodings = {each: encoding for each, encoding in self._encodings.items() if each != key}
        if key in values:
            self._encodings[key] = encode(key, prepare(key, values[key]))
        if shows:
            dict.pop(data, key, None)
            dict.update(data, values)
        self._size += len(self._encodings.get(key, EMPTY)) - before

    def start_empty(self, data: dict[str, Any]) -> None:
        """The data start anew: what was read, and what was set before this call, is gone."""
        dict.clear(data)
        self.replaced = self.written = True
        self.operations = _NOTHING

    def start_over(self, data: dict[str, Any], record: Record) -> None:
        """The request has begun another session than the one it held: the dictionary shows what that one holds."""
        self.lost, self.written, self._pristine, self._encodings = None, False, None, _NOTHING
        self.hold(record)
        dict.clear(data)
        dict.update(data, self.base)

    def revert(self, data: dict[str, Any]) -> None:
        """The changes are discarded: the dictionary shows again what was read or written last."""
        last = {
            key: value if type(value) in IMMUTABLE else load(self._before(key))[key] for key, value in self.base.items()
        }
        dict.clear(data)
        dict.update(data, last)
        self.base, self.operations, self.replaced, self.written = last.copy(), _NOTHING, False, False

    def settle(
        self,
        data: dict[str, Any],
        difference: Difference | None,
        *,
        kept: Kept | None = None,
        early: bool = False,
        writes: bool = True,
    ) -> None:
        """The commit is decided: what it does is not done again, and the present data are the base of the next
        comparison (they are written, or dropped with an event). An early one leaves the token to the commit that
        precedes the headers, unless it begins another epoch or has healed the document; and, where it writes no
        session, what was asked for the session to that one as well."""
        if early and self.reshapes_cookie:
            self.resend = self.asked = True
        if not early or self.intent is not None or self.judgement.verdict is AHEAD:
            self.resend = False
            if self.judgement.acts:
                self.judgement = self.judgement.done()
        self.intent = None
        if writes or not early:
            self.life = self.description = None
            self.protected = False
        self.asked = early
        if kept is not None and kept.record.data != self._raw:  # all of the data go into the cookie
            self._raw = self._seen = raw = kept.record.data
            self._size, self._pristine, self._encodings = len(raw), None, _NOTHING
            for key, value in dict.items(data):
                if type(value) not in IMMUTABLE and value is not self.base.get(key):
                    self.lent = True  # who has put it in still has it
        elif difference is not None:
            if self._encodings or difference.encodings:
                before = {key: encoding for key, encoding in self._encodings.items() if key not in difference.keys}
                self._encodings = {**before, **difference.encodings}
                self.lent = True  # likewise
            self._seen = None
            self._size = difference.size
        else:
            return
        self.base = dict(dict.items(data))
        self.operations = _NOTHING
        self.replaced = self.written = False

    def state(self) -> State:
        """What a commit will change of this record."""
        data = self.base, self._encodings, self._size, self.operations, self.replaced
        return *data, self.intent, self.life, self.description, self.protected

    def restore(self, data: dict[str, Any], state: State, *, repeat: bool = False) -> tuple[str, ...]:
        """A commit failed: its changes are to be done yet. What was asked for meanwhile counts more than what it asked.

        Args:
            data: the session's, as they are now.
            state: from before the commit was settled.
            repeat: nothing was applied, so operators are to be done yet, too; else they are not repeated.

        Returns:
            The keys of the operators that are not.
        """
        self.base, self._encodings, self._size, operations, replaced, intent, life, description, protected = state
        self._seen = None
        self.asked = self.written = True
        self.replaced = self.replaced or replaced
        self.protected = self.protected or protected
        self.intent = self.intent or intent
        self.life = self.life or life
        self.description = description if self.description is None else self.description
        if repeat:
            self.operations = _NOTHING if self.replaced else operations
            return ()
        self.operations = _NOTHING
        uncertain = tuple(key for key in operations if dict.__contains__(data, key))
        self.base = {**self.base, **{key: dict.__getitem__(data, key) for key in uncertain}}
        self._encodings = {**self._encodings, **{key: operations[key].leads_to for key in uncertain}}
        return uncertain

    def _plainly_changed(self, data: dict[str, Any], key: str, standing: Operation | None) -> bool:
        if self.replaced or (self.record is None and not self.base):  # nobody else can have written there
            return True
        value = dict.get(data, key, _MISSING)
        if standing is None and key not in self.base:
            return value is not _MISSING
        expected = self._before(key) if standing is None else standing.leads_to
        return value is _MISSING or encode(key, prepare(key, value)) != expected

    def _before(self, key: str) -> bytes:
        """The encoding of a key's value in the base."""
        if key in self._encodings:
            return self._encodings[key]
        value = self.base[key]
        if type(value) not in IMMUTABLE:  # the handler may have changed it: read it again
            if self._pristine is None:
                self._pristine = load(self._raw)
            value = self._pristine[key]
        encoding = encode(key, prepare(key, value))
        self._encodings = {**self._encodings, key: encoding}
        return encoding

    def _size_before(self, key: str, name: str) -> int:
        """Bytes of the element of a key of the base, whose encoded name this is."""
        takes = element_size(name, self.base[key])
        return len(self._before(key)) - _FRAME if takes is None else takes
