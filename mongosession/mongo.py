"""Sessions in MongoDB, over Motor's or PyMongo's own async collection. The only room that imports the driver.

One document a session:

    {_id: <hash of the sid>, epoch, generation, created_at, renewed_at, rotated_at, seen_at, expires_at,
     subject?, idle?, persistent?, description?, reason?, data: {<name>: <value>, ...}}

Every call of a request is one command on one ``_id``. Lookups read from the primary. Creations, renewals and endings
are written with ``w: majority``, whatever the client's defaults; the rest with the collection's own write concern, or
with ``w: 1`` where that is unacknowledged.
"""

import asyncio
from collections.abc import AsyncIterator, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Any, cast

import pymongo
from bson import encode
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.errors import InvalidBSON
from bson.raw_bson import RawBSONDocument
from pymongo import ReadPreference, ReturnDocument, WriteConcern, monitoring
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.collection import Collection
from pymongo.errors import (
    ConnectionFailure,
    DocumentTooLarge,
    ExecutionTimeout,
    OperationFailure,
    ProtocolError,
    PyMongoError,
    ServerSelectionTimeoutError,
    WriteConcernError,
    WTimeoutError,
)
from pymongo.read_concern import ReadConcern

from mongosession.deadline import Deadlines
from mongosession.errors import DeltaRefused, SetupError, StoreError, StoreUnavailable
from mongosession.policy import SKEW
from mongosession.store import ENDED, Changes, Record, Stamp
from mongosession.values import EMPTY, Delta

TIMES = frozenset({"created_at", "renewed_at", "rotated_at", "seen_at", "expires_at"})

SHAPE = {"_id": "binData", "epoch": "number", "generation": "number", **dict.fromkeys(sorted(TIMES), "date")}
"""What every session has, ended ones too: field -> its type, as MongoDB calls it. All other documents are foreign."""

FOREIGN = {"$nor": [{field: {"$type": type_} for field, type_ in SHAPE.items()}]}
"""The filter of documents that are no sessions."""

_TYPES: dict[str, type | tuple[type, ...]] = {"binData": bytes, "number": (int, float), "date": datetime}

_UNSUITABLE = {  # options of collections that cannot hold sessions
    "viewOn": "is a view",
    "timeseries": "is a time series",
    "capped": "is capped: it would drop the oldest sessions",
}

_RAW = CodecOptions(
    document_class=RawBSONDocument,
    uuid_representation=UuidRepresentation.STANDARD,  # as in `values.OPTIONS`: deltas are encoded by the driver
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,  # and naive: those are made in a quarter of the steps
)

# For find-and-modify: of a primary that steps down meanwhile, the driver writes into the answer, which has to be a
# dictionary then, or it neither repeats the command nor raises an error of its own.
_DECODED = _RAW.with_options(document_class=dict)

# TypeMismatch, BadValue (an operator on a value of another type, 64 bits overrun), and a document beyond 16 MiB.
_REFUSALS = frozenset({2, 14, 10334, 17419, 17420})

# Of these an operation is worth a second try, if it only reads (the drivers' specification of retryable reads).
_RETRYABLE_READS = frozenset({6, 7, 89, 91, 134, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436})

_LONGEST = 86400.0  # seconds that a call may be given: MongoDB counts milliseconds in 31 bits

_PAUSE = 0.05  # seconds between further tries

_EXISTS = 48  # NamespaceExists

_BATCH = 500  # documents that a listing reads at a time

INDEXES: tuple[tuple[str, list[tuple[str, int]], dict[str, Any]], ...] = (
    ("mongosession_expiry", [("expires_at", 1)], {"expireAfterSeconds": int(SKEW)}),
    ("mongosession_subject", [("subject", 1)], {"partialFilterExpression": {"subject": {"$exists": True}}}),
)
"""Name, keys and options of the indexes that ``MongoStore.setup`` creates."""


class MongoStore:
    """A store over one collection.

    Args:
        collection: Motor's ``AsyncIOMotorCollection`` or PyMongo's ``AsyncCollection``.
        timeout: seconds within which the database has to answer each call, default 5, a day at most. The server is told
            as well, so that nothing piles up there, and Motor's driver, since its threads cannot be cancelled. Shorter
            than an election (about 10 s by default) means that a failover is seen as 503s; longer means that requests
            pile up meanwhile.
        clustered: ``setup`` creates the collection clustered by ``_id`` (MongoDB 5.3): no index of its own for ids, one
            look-up less a command. A collection that exists is not changed. Default False.

    Raises:
        ValueError: the timeout makes no sense.
        TypeError: this is no asynchronous collection.
    """

    waits = True

    def __init__(self, collection: Any, *, timeout: float = 5.0, clustered: bool = False) -> None:
        if not 0 < timeout <= _LONGEST:
            raise ValueError(
                f"MongoStore(timeout={timeout!r}): it must be a number of seconds above 0, of a day at most"
            )
        # Of the class, since databases and clients make a collection of any attribute they are asked for.
        if not hasattr(type(collection), "find_one_and_update") or isinstance(collection, Collection):
            raise TypeError(
                f"MongoStore({type(collection).__name__}): it must be a collection of PyMongo's AsyncMongoClient or of "
                "Motor's AsyncIOMotorClient"
            )
        concern = cast(WriteConcern, collection.write_concern)
        ordinary = concern if concern.acknowledged else WriteConcern(w=1)
        self.collection = collection
        self.timeout = timeout
        self.clustered = clustered
        self._cancellable = isinstance(collection, AsyncCollection)  # Motor's threads are not
        self._deadlines = Deadlines(timeout)
        self._later = Deadlines(timeout + 1)  # for calls that the driver itself should end before
        self._ordinary = collection.with_options(
            codec_options=_RAW,
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("local"),
            write_concern=ordinary,
        )
        self._database = collection.database
        self._find = {
            "find": collection.name,
            "filter": None,
            "limit": 1,
            "singleBatch": True,
            "maxTimeMS": max(1, int(timeout * 1000)),
        }
        # A look-up tells the server its deadline itself: a call that can be cancelled needs none of the driver's beside
        # ours, and that takes a tenth of a look-up's time. (Not so a write: the server has to be told when to stop
        # waiting for a majority.)
        self._lean = _Translated(timeout, None, collection.database.client) if self._cancellable else None
        self._durable = self._ordinary.with_options(write_concern=WriteConcern(w="majority"))
        self._ordinary_answering = self._ordinary.with_options(codec_options=_DECODED)
        self._durable_answering = self._durable.with_options(codec_options=_DECODED)

    async def setup(self) -> None:
        """Create the two indexes: one expires documents (two minutes late, so that no server's clock is ahead of the
        application's), the other finds the sessions of a subject.

        Where both are there, two commands say so. An index that is missing is built for as long as it takes, without
        the store's deadline: a large collection needs minutes, and a build that was given up would begin anew at the
        next start. Before that all documents are looked through for foreign ones, which the first index would delete.

        Raises:
            SetupError: an index on one of these fields exists with other options, or under another name; or the
                collection holds documents that are no sessions; or it is a view, a time series or capped; or it has a
                collation of its own, to which one subject could be another; or it should be clustered and is not.
            StoreUnavailable: the database did not answer.
        """
        with self._errors():
            async with asyncio.timeout(self.timeout + 1):
                if self.clustered:
                    await self._create_clustered()
                check_options(self.collection.name, await self.collection.options(), clustered=self.clustered)
                existing = cast("dict[str, dict[str, Any]]", await self.collection.index_information())
        for name, keys, options in INDEXES:
            check_index(existing, name, keys, options)
        missing = [index for index in INDEXES if index[0] not in existing]
        with self._within(None):
            if INDEXES[0] in missing and await self.holds_foreign():
                raise SetupError(
                    f"the collection {self.collection.name!r} holds documents that are no sessions, and those with a "
                    "time in expires_at would be deleted: use a collection of its own for sessions"
                )
            for name, keys, options in missing:
                await self.collection.create_index(keys, name=name, **options)

    async def holds_foreign(self) -> bool:
        """Whether a document of the collection is no session; where none is, all are read. Errors are the driver's."""
        return await self._ordinary.find_one(FOREIGN, projection={"_id": True}) is not None

    async def _create_clustered(self) -> None:
        try:
            await self.collection.database.command(
                {"create": self.collection.name, "clusteredIndex": {"key": {"_id": 1}, "unique": True}}
            )
        except OperationFailure as error:
            if error.code != _EXISTS:
                raise

    async def load(self, id: bytes) -> Record | None:
        """See ``Store.load``."""
        # The driver may write into the command: of what holds others each has its own.
        command = {**self._find, "filter": {"_id": id}, "readConcern": {"level": "local"}}
        with self._lean or self._errors():
            with (self._deadlines if self._cancellable else self._later).next():
                answer = await self._look_up(command)
            try:
                found = _found(answer)
                return None if found is None else _record(found)
            except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
                raise InvalidBSON(str(error)) from error

    async def _look_up(self, command: dict[str, Any]) -> RawBSONDocument:
        """What ``find_one`` does with the primary, in four fifths of the time; its further tries until the deadline
        included."""
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + self.timeout, 0.0
        while True:
            try:
                return cast(RawBSONDocument, await self._database.command(command, codec_options=_RAW))
            except ServerSelectionTimeoutError:
                raise
            except (ConnectionFailure, OperationFailure) as error:
                if isinstance(error, OperationFailure) and error.code not in _RETRYABLE_READS:
                    raise
                if loop.time() >= deadline or not self._database.client.options.retry_reads:
                    raise
            await asyncio.sleep(pause)
            pause = _PAUSE  # the second try is made at once; whom that did not help would only keep everybody busy

    async def create(self, record: Record) -> None:
        """See ``Store.create``."""
        with self._errors(), self._later.next():
            await self._durable.insert_one(_document(record))

    async def update(
        self, id: bytes, changes: Changes, *, epoch: int | None = None, subject: str | None = None
    ) -> Stamp | bool:
        """See ``Store.update``."""
        where: dict[str, Any] = {"_id": id, "epoch": {"$ne": ENDED} if epoch is None else epoch}
        if subject is not None:
            where["subject"] = subject
        update = _update(changes)
        with self._errors(changes.data), self._later.next():
            if not changes.confirm:
                collection = self._durable if changes.durable else self._ordinary
                return bool((await collection.update_one(where, update)).matched_count)
            collection = self._durable_answering if changes.durable else self._ordinary_answering
            after = await collection.find_one_and_update(
                where,
                update,
                projection={"_id": False, "epoch": True, "generation": True},
                return_document=ReturnDocument.AFTER,
            )
        return False if after is None else Stamp(int(after["epoch"]), int(after["generation"]))

    async def pop(self, id: bytes, name: str, *, epoch: int) -> bytes | None:
        """See ``Store.pop``."""
        path = f"data.{name}"
        return await self._exchange(id, epoch, path, {"$unset": {path: ""}}, ReturnDocument.BEFORE)

    async def set_default(self, id: bytes, name: str, value: Any, *, epoch: int) -> bytes | None:
        """See ``Store.set_default``."""
        path = f"data.{name}"
        missing = {"$eq": [{"$type": f"${path}"}, "missing"]}
        update = [{"$set": {path: {"$cond": [missing, {"$literal": value}, f"${path}"]}}}]
        return await self._exchange(id, epoch, path, update, ReturnDocument.AFTER, Delta(set={name: value}))

    async def _exchange(
        self, id: bytes, epoch: int, path: str, update: Any, which: bool, delta: Delta | None = None
    ) -> bytes | None:
        """Change one value and say what it was or is: durably, or a failover could give it to two requests."""
        with self._errors(delta), self._later.next():
            found = await self._durable_answering.find_one_and_update(
                {"_id": id, "epoch": epoch},
                update,
                projection={"_id": False, path: True},
                return_document=which,
            )
        return None if found is None else encode(found["data"], codec_options=_DECODED)

    async def find(self, subject: str | None = None) -> AsyncIterator[Record]:
        """See ``Store.find``."""
        where: dict[str, Any] = {"epoch": {"$ne": ENDED}}
        if subject is not None:
            where["subject"] = subject
        cursor = self._ordinary.find(where, projection={"data": False}, batch_size=_BATCH)
        while True:
            with self._errors(), self._later.next():  # for each batch: who iterates may take his time
                documents = await cursor.to_list(_BATCH)
            if not documents:
                return
            for document in documents:
                if _is_session(document):  # not asked of the server: it might choose another index for it
                    yield _record(document)

    def _errors(self, delta: Delta | None = None) -> AbstractContextManager[None]:
        """The deadline for the driver, and its errors in our words."""
        return self._within(self.timeout, delta)

    @contextmanager
    def _within(self, timeout: float | None, delta: Delta | None = None) -> Generator[None, None, None]:
        with _Translated(self.timeout, delta), pymongo.timeout(timeout):
            yield


class _Translated:
    """The driver's errors in our words.

    Args:
        timeout: seconds, the deadline that may have passed.
        delta: the change of data that the server may have refused.
        client: knows why, where the deadline passed before the driver said so.
    """

    __slots__ = ("_client", "_delta", "_timeout")

    def __init__(self, timeout: float, delta: Delta | None, client: Any = None) -> None:
        self._timeout = timeout
        self._delta = delta
        self._client = client

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and (translated := self._translation(error)) is not None:
            raise translated from error

    def _translation(self, error: BaseException) -> StoreError | None:
        delta = self._delta
        if isinstance(error, TimeoutError):
            if self._client is not None:
                servers = self._client.topology_description.server_descriptions().values()
                if away := [str(server.error) for server in servers if server.error is not None]:
                    return StoreUnavailable(f"the database is away: {', '.join(away)}")
            return StoreUnavailable(f"the database did not answer within {self._timeout} s")
        if isinstance(error, InvalidBSON | LookupError):
            return StoreUnavailable(f"the database's answer makes no sense: {error}")
        if isinstance(error, DocumentTooLarge):
            return DeltaRefused(str(error), delta.names() if delta is not None else ())
        if not isinstance(error, PyMongoError):
            return None
        if delta is not None and isinstance(error, OperationFailure) and error.code in _REFUSALS:
            message = str(error.details["errmsg"] if error.details else error)
            return DeltaRefused(message, _at_fault(message, delta))
        passes = isinstance(error, OperationFailure) and error.code in _RETRYABLE_READS
        if passes or error.timeout or isinstance(error, _AWAY) or error.has_error_label("RetryableWriteError"):
            return StoreUnavailable(f"the database is away: {error}")
        return StoreError(f"the database refused: {error}")


class CommandCounter(monitoring.CommandListener):
    """Counts the commands that a client sends: ``AsyncMongoClient(event_listeners=[CommandCounter()])``.

    Attributes:
        commands: the commands sent, by name, in their order; those of the driver's own housekeeping are left out.
    """

    _HOUSEKEEPING = frozenset({"hello", "ismaster", "ping", "endSessions", "getMore", "saslStart", "saslContinue"})

    def __init__(self) -> None:
        self.commands: list[str] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Called by the driver."""
        if event.command_name not in self._HOUSEKEEPING:
            self.commands.append(event.command_name)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Called by the driver."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Called by the driver."""

    def take(self) -> list[str]:
        """The commands since the last call."""
        taken, self.commands = self.commands, []
        return taken


_AWAY = (ConnectionFailure, ExecutionTimeout, ProtocolError, WriteConcernError, WTimeoutError)


def check_options(name: str, options: Mapping[str, Any], *, clustered: bool = False) -> None:
    """Whether a collection, by the options that it was created with, can hold sessions.

    Args:
        name: the collection's.
        options: none, where it is not there yet.
        clustered: whether it has to be clustered.

    Raises:
        SetupError: it cannot.
    """
    for option, what in _UNSUITABLE.items():
        if options.get(option):
            raise SetupError(f"the collection {name!r} {what}; use a collection of its own for sessions")
    if (collation := options.get("collation")) is not None:  # "user:a" may be "user:A" to it; indexes would inherit it
        raise SetupError(
            f"the collection {name!r} has the collation {_plain(collation)}; wanted is none, so that texts compare as "
            "they are: use a collection of its own for sessions"
        )
    if clustered and "clusteredIndex" not in options:
        raise SetupError(
            f"the collection {name!r} exists and is not clustered, and MongoDB cannot change that: use a new "
            "collection for sessions (those of the old one are logged out), or MongoStore(clustered=False)"
        )


def check_index(
    existing: Mapping[str, Mapping[str, Any]], name: str, keys: list[tuple[str, int]], options: dict[str, Any]
) -> None:
    """Whether an index may be made, or is there as it should be.

    Raises:
        SetupError: another one of this name or on these keys is there.
    """
    for found, information in existing.items():
        if found != name and list(information["key"]) != keys:
            continue
        plain = {
            option: value for option, value in information.items() if option not in ("key", "v", "ns", "background")
        }
        wanted = dict(options)
        if found == name and list(information["key"]) == keys and _plain(plain) == wanted:
            continue
        raise SetupError(
            f"the index {found!r} on {dict(information['key'])} has the options {_plain(plain)}; wanted is {name!r} on "
            f"{dict(keys)} with {wanted}: drop it, or use a collection of its own for sessions"
        )


def _plain(value: Any) -> Any:
    """Mappings of the driver's own types as dictionaries, so that they compare and print as such."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  # as naive as what the driver reads


def _seconds(time: datetime) -> float:
    """Seconds since 1970; what ``timedelta`` offers for it takes twice as long, or rounds otherwise than ``/ 1000``."""
    since = time - _EPOCH
    return ((since.days * 86400 + since.seconds) * 1000 + since.microseconds // 1000) / 1000


def _datetime(seconds: float) -> DatetimeMS:
    return DatetimeMS(round(seconds * 1000))


def _fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _datetime(value) if name in TIMES else value for name, value in fields.items()}


def _document(record: Record) -> dict[str, Any]:
    document = {"_id" if name == "id" else name: value for name, value in record._asdict().items() if value is not None}
    document = _fields(document)
    document["data"] = RawBSONDocument(record.data)
    return document


def _is_session(document: Mapping[str, Any]) -> bool:
    return all(isinstance(document.get(field), _TYPES[type_]) for field, type_ in SHAPE.items())


def _found(answer: RawBSONDocument) -> Mapping[str, Any] | None:
    """The document in the answer to a look-up. It stands at its beginning, so the two documents around it need not be
    taken apart, which would take as long as the decoding of all that is in it."""
    raw = answer.raw
    if raw[4:12] == b"\x03cursor\0" and raw[16:28] == b"\x04firstBatch\0" and raw[32:35] == b"\x030\0":
        return RawBSONDocument(raw[35 : 35 + int.from_bytes(raw[35:39], "little")], _RAW)
    found = answer["cursor"]["firstBatch"]
    return found[0] if found else None


def _record(document: Mapping[str, Any]) -> Record:
    known = dict(document.items())  # looks into the raw document are slow
    data, description = known.get("data"), known.get("description")
    fields = (  # in their order: fewer steps than the constructor takes
        bytes(known["_id"]),
        int(known["epoch"]),
        int(known["generation"]),
        _seconds(known["created_at"]),
        _seconds(known["renewed_at"]),
        _seconds(known["rotated_at"]),
        _seconds(known["seen_at"]),
        _seconds(known["expires_at"]),
        EMPTY if data is None else bytes(data.raw),
        known.get("subject"),
        known.get("idle"),
        known.get("persistent"),
        None if description is None else dict(description),
        known.get("reason"),
    )
    return tuple.__new__(Record, fields)


def _update(changes: Changes) -> dict[str, Any]:
    """The update document. Operators are left out where they have nothing to do: most of them have, mostly."""
    operators: dict[str, dict[str, Any]] = {}
    set_: dict[str, Any] = {}
    unset: dict[str, str] = {}
    if changes.raised:
        operators["$max"] = _fields(changes.raised)
    if changes.put:
        set_ = _fields({name: value for name, value in changes.put.items() if value is not None})
        unset = dict.fromkeys((name for name, value in changes.put.items() if value is None), "")
    delta = changes.data
    if delta is not None:
        if delta.replace is not None:
            set_["data"] = delta.replace
        if delta.set:
            set_ |= _paths(delta.set)
        if delta.unset:
            unset |= dict.fromkeys((f"data.{name}" for name in delta.unset), "")
        if delta.increment:
            operators["$inc"] = _paths(delta.increment)
        if delta.append:
            operators["$push"] = {path: {"$each": values} for path, values in _paths(delta.append).items()}
        if delta.add_to_set:
            operators["$addToSet"] = {path: {"$each": values} for path, values in _paths(delta.add_to_set).items()}
        if delta.remove_from:
            operators["$pullAll"] = _paths(delta.remove_from)
    if set_:
        operators["$set"] = set_
    if unset:
        operators["$unset"] = unset
    return operators


def _paths(named: Mapping[str, Any]) -> dict[str, Any]:
    return {f"data.{name}": value for name, value in named.items()}


def _at_fault(message: str, delta: Delta) -> list[str]:
    """The names that the server's message quotes, else all that an operator stood for."""
    operated = [*delta.increment, *delta.append, *delta.add_to_set, *delta.remove_from] or list(delta.names())
    quoted = [name for name in operated if f"'{name}'" in message or f"'data.{name}'" in message]
    return quoted or operated
