"""What a store keeps, and the few things that it must be able to do. Every store passes ``tests/store_contract.py``.

Times are seconds since 1970 and whole milliseconds: that is what BSON keeps.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple, Protocol

from mongosession.values import EMPTY, Delta

ENDED = -1
"""The epoch of a session that has ended: no token carries it, so nothing fenced by an epoch matches again."""

# Why a session ended.
DESTROYED = "destroyed"
REVOKED = "revoked"
COPIED = "copied"
SURPLUS = "surplus"


class Record(NamedTuple):
    """One session as the database holds it: neither sid nor token.

    Attributes:
        id: the hash of the sid, 16 bytes; the document's ``_id``.
        epoch: drawn anew at creation and at each renewal; ``ENDED`` at the end.
        generation: the newest token's number within the epoch.
        created_at: start of the absolute timeout: the creation, or the last time that a subject was set.
        renewed_at: when the epoch began; when the session ended, where it has.
        rotated_at: when the newest generation was minted.
        seen_at: the last request, exact to a tenth of the idle timeout.
        expires_at: when the database may delete it; feeds the TTL index and nothing else.
        data: the session's data as BSON, names encoded.
        subject: whom it belongs to, or None.
        idle: an idle timeout of its own in seconds, or None.
        persistent: whether its cookie outlives the browser, or None: as the engine's cookie says.
        description: what the application recorded of the device; never longer than a few hundred characters.
        reason: why it ended (``DESTROYED``, ``REVOKED``, ``COPIED`` or ``SURPLUS``), or None while it lives.
    """

    id: bytes
    epoch: int
    generation: int
    created_at: float
    renewed_at: float
    rotated_at: float
    seen_at: float
    expires_at: float
    data: bytes = EMPTY
    subject: str | None = None
    idle: float | None = None
    persistent: bool | None = None
    description: Mapping[str, str] | None = None
    reason: str | None = None


_PLACES = {name: place for place, name in enumerate(Record._fields)}


def changed(record: Record, fields: Mapping[str, Any]) -> Record:
    """A record with other values of these fields: what its ``_replace`` does, in a quarter of the steps."""
    values = list(record)
    for name, value in fields.items():
        values[_PLACES[name]] = value
    return tuple.__new__(Record, values)


class Stamp(NamedTuple):
    """Epoch and generation of a document at one moment."""

    epoch: int
    generation: int


class Changes(NamedTuple):
    """One update of one document.

    Attributes:
        raised: max-registers: field of ``Record`` -> value below which it must not be afterwards.
        put: field of ``Record`` -> value that it gets plainly (None removes it).
        data: the change of data, or None.
        durable: acknowledged by a majority before the call returns.
        confirm: the call returns epoch and generation as they are after the update.
    """

    raised: Mapping[str, float] = {}
    put: Mapping[str, Any] = {}
    data: Delta | None = None
    durable: bool = False
    confirm: bool = False


class Store(Protocol):
    """Where sessions live. A call that the database does not answer in time raises ``StoreUnavailable``."""

    waits: bool
    """Whether calls may wait for something. Where they never do, a commit needs no task of its own to run to its end
    although its request is cancelled: nothing can be cancelled before it has ended."""

    async def setup(self) -> None:
        """Make ready: indexes and the like. Safe to call at every start, from every process."""
        ...

    async def load(self, id: bytes) -> Record | None:
        """The session with this id, ended or expired ones too, as the primary knows it; None where there is none."""
        ...

    async def create(self, record: Record) -> None:
        """Insert a new session, durably; an existing one of the same id is an error."""
        ...

    async def update(
        self, id: bytes, changes: Changes, *, epoch: int | None = None, subject: str | None = None
    ) -> Stamp | bool:
        """Change a session, atomically, if it is there and has this epoch (None: any but ``ENDED``), and this subject
        (None: any). Never inserts, and applies all of it or nothing.

        Returns:
            Epoch and generation after the update where ``changes.confirm`` asks for them, else True; False where
            nothing matched.

        Raises:
            DeltaRefused: the change of data cannot be applied to what is there.
        """
        ...

    async def pop(self, id: bytes, name: str, *, epoch: int) -> bytes | None:
        """Take one value out of the data of a session that has this epoch, atomically and durably: of any number of
        calls one gets it.

        Args:
            id: the session's.
            name: the encoded name.
            epoch: the session's.

        Returns:
            A document of one element, the value under its name; an empty one where there was none; None where nothing
            matched.
        """
        ...

    async def set_default(self, id: bytes, name: str, value: Any, *, epoch: int) -> bytes | None:
        """Set one value in the data of a session that has this epoch unless it is there, atomically and durably: the
        first call wins.

        Args:
            id: the session's.
            name: the encoded name.
            value: the prepared value.
            epoch: the session's.

        Returns:
            A document of one element, the value that is there now under its name; None where nothing matched.

        Raises:
            DeltaRefused: the value cannot be stored.
        """
        ...

    def find(self, subject: str | None = None) -> AsyncIterator[Record]:
        """The sessions that have not ended, of one subject or all, without their data, in no certain order."""
        ...
