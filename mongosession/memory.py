"""Sessions in this process's memory: for tests, for trying things out, for a single process that may forget."""

from collections.abc import AsyncIterator
from typing import Any

from mongosession.errors import DeltaRefused, StoreError
from mongosession.store import ENDED, Changes, Record, Stamp, changed
from mongosession.values import EMPTY, Delta, dump, load_names, without, without_twins

_SWEEP = 1024


class MemoryStore:
    """A store that keeps the same contract as MongoDB's, in a dictionary. Its calls never wait; a subclass whose calls
    do says ``waits = True``.

    What nobody can open any more is dropped now and then, by the times of the sessions created meanwhile.
    """

    waits = False

    def __init__(self) -> None:
        self._records: dict[bytes, Record] = {}
        self._created = 0

    async def setup(self) -> None:
        """Nothing to do."""

    async def load(self, id: bytes) -> Record | None:
        """See ``Store.load``."""
        return self._records.get(id)

    async def create(self, record: Record) -> None:
        """See ``Store.create``."""
        if record.id in self._records:
            raise StoreError(f"a session {record.id.hex()} exists already")
        self._records[record.id] = record
        self._created += 1
        if self._created % _SWEEP == 0:
            self._records = {each.id: each for each in self._records.values() if each.expires_at > record.created_at}

    async def update(
        self, id: bytes, changes: Changes, *, epoch: int | None = None, subject: str | None = None
    ) -> Stamp | bool:
        """See ``Store.update``."""
        record = self._records.get(id)
        if record is None or (record.epoch == ENDED if epoch is None else record.epoch != epoch):
            return False
        if subject is not None and record.subject != subject:
            return False
        updated = apply(record, changes)
        self._records[id] = updated
        return Stamp(updated.epoch, updated.generation) if changes.confirm else True

    async def pop(self, id: bytes, name: str, *, epoch: int) -> bytes | None:
        """See ``Store.pop``."""
        record = self._records.get(id)
        if record is None or record.epoch != epoch:
            return None
        data = load_names(record.data)
        if name not in data:
            return EMPTY
        value = data.pop(name)
        self._records[id] = record._replace(data=dump(data))
        return dump({name: value})

    async def set_default(self, id: bytes, name: str, value: Any, *, epoch: int) -> bytes | None:
        """See ``Store.set_default``."""
        record = self._records.get(id)
        if record is None or record.epoch != epoch:
            return None
        data = load_names(record.data)
        if name not in data:
            data[name] = value
            self._records[id] = record._replace(data=dump(data))
        return dump({name: data[name]})

    async def find(self, subject: str | None = None) -> AsyncIterator[Record]:
        """See ``Store.find``."""
        for record in list(self._records.values()):
            if record.epoch != ENDED and (subject is None or record.subject == subject):
                yield record._replace(data=Record._field_defaults["data"])


def apply(record: Record, changes: Changes) -> Record:
    """The record after an update: what MongoDB's operators do, as a pure function.

    Raises:
        DeltaRefused: the change of data cannot be applied to what is there.
    """
    fields: dict[str, Any] = {name: max(value, getattr(record, name)) for name, value in changes.raised.items()}
    fields |= changes.put
    if changes.data is not None:
        fields["data"] = dump(_apply(load_names(record.data), changes.data))
    return changed(record, fields)


def _apply(data: dict[str, Any], delta: Delta) -> dict[str, Any]:
    if delta.replace is not None:
        return dict(delta.replace)
    data |= delta.set
    for name in delta.unset:
        data.pop(name, None)
    for name, by in delta.increment.items():
        value = data.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DeltaRefused(f"increment of a value of type {type(value).__name__}", [name])
        if isinstance(value + by, int) and not -(2**63) <= value + by < 2**63:
            raise DeltaRefused("increment beyond 64 bits", [name])
        data[name] = value + by
    for name, values in delta.append.items():
        data[name] = [*_array(data, name), *values]
    for name, values in delta.add_to_set.items():
        data[name] = without_twins(_array(data, name), values)
    for name, values in delta.remove_from.items():
        if name in data:
            data[name] = without(_array(data, name), values)
    return data


def _array(data: dict[str, Any], name: str) -> list[Any]:
    value = data.get(name, [])
    if not isinstance(value, list):
        raise DeltaRefused(f"a list operator on a value of type {type(value).__name__}", [name])
    return value  # pyright: ignore[reportUnknownVariableType]
