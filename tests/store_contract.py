"""What every store has to do, whatever it is made of: the docstrings of ``mongosession/store.py``, executed.

A new store is tested by a class with a fixture that gives one:

    class TestRedisStore(StoreContract):
        @pytest.fixture
        def store(self) -> Store:
            return RedisStore(...)
"""

import asyncio
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from bson.binary import Binary
from bson.code import Code
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.objectid import ObjectId
from bson.regex import Regex
from bson.timestamp import Timestamp
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mongosession.errors import DeltaRefused, StoreError
from mongosession.memory import apply
from mongosession.plan import ending
from mongosession.policy import Rotation
from mongosession.store import COPIED, DESTROYED, ENDED, REVOKED, Changes, Record, Stamp, Store
from mongosession.values import EMPTY, Delta, dump, encode, encode_name, load, load_names, prepare

NOW = 4_000_000_000.0  # the year 2096: a database that expires documents by its own clock leaves these alone

NOW_AS_DATETIME = datetime.fromtimestamp(NOW, UTC)

NAN, INF = float("nan"), float("inf")

REGISTERS = ("generation", "rotated_at", "seen_at", "expires_at")

# A value of every type that BSON holds, and of every shape.
EVERY_TYPE: dict[str, Any] = {
    "text": "grün 🍏\0",
    "empty text": "",
    "int32": -(2**31),
    "int64": 2**63 - 1,
    "small int64": Int64(1),
    "double": 0.1,
    "negative zero": -0.0,
    "infinity": -INF,
    "not a number": NAN,
    "decimal": Decimal128("1.10"),
    "true": True,
    "false": False,
    "null": None,
    "bytes": bytes(range(256)),
    "binary": Binary(b"x", 5),
    "uuid": UUID(int=1),
    "objectid": ObjectId("0123456789abcdef01234567"),
    "datetime": datetime(2001, 2, 3, 4, 5, 6, 789000, tzinfo=UTC),
    "far datetime": DatetimeMS(2**60),
    "regex": Regex("^a", re.IGNORECASE),
    "code": Code("f()"),
    "code with scope": Code("f()", {"a": 1}),
    "timestamp": Timestamp(1, 2),
    "empty timestamp": Timestamp(0, 0),  # MongoDB replaces it by the present, but at the top level only
    "min": MinKey(),
    "max": MaxKey(),
    "list": [1, [2, [3, []]], {"a": []}],
    "document": {"b": 1, "a": {"": {"x.y": {"$z": None}}}},
    "empty document": {},
}

# Keys that a database would take for an operator, a path, a position or the end of a text, or that look alike.
ODD_KEYS = [
    *(
        "",
        ".",
        "..",
        "a.b",
        "a",
        ".a",
        "a.",
        "$",
        "$set",
        "a$",
        "$[]",
        "$[x]",
        "data.$",
        "\0",
        "a\0b",
        "%",
        "%%",
        "%2E",
    ),
    *(
        "0",
        "00",
        "-1",
        "_id",
        "data",
        "epoch",
        "__proto__",
        " ",
        "'",
        '"',
        "c'd",
        "\n",
        "ü",
        "u\u0308",
        "🍏",
        "\ud800",
        "%uD800",
    ),
]

# What looks alike, for MongoDB's array operators to tell apart or not.
ALIKE: list[Any] = [
    *(0, 0.0, -0.0, False, None, "", b"", [], {}, Decimal128("0"), Decimal128("-0E+3"), "0"),
    *(
        1,
        1.0,
        True,
        Int64(1),
        Decimal128("1"),
        Decimal128("1.00"),
        "1",
        b"1",
        Binary(b"1", 0),
        Binary(b"1", 5),
        [1],
        [True],
    ),
    *(
        {"a": 1},
        {"a": 1.0},
        {"a": True},
        {"a": 1, "b": 2},
        {"b": 2, "a": 1},
        {"0": 1},
        [[1]],
        [{"a": 1}],
        [{"a": Int64(1)}],
    ),
    *(0.5, Decimal128("0.5"), 0.1, Decimal128("0.1"), Decimal128("0.1000000000000000055511151231257827")),
    *(2**53, 2.0**53, 2**53 + 1, 2**63 - 1, 2.0**63, -(2**63), -(2.0**63)),
    *(INF, -INF, NAN, -NAN, Decimal128("Infinity"), Decimal128("-Infinity"), Decimal128("NaN"), Decimal128("sNaN")),
    *([NAN], [Decimal128("NaN")], {"a": NAN}),
    *(UUID(int=1), Binary(UUID(int=1).bytes, 4), UUID(int=1).bytes),
    *(datetime(2001, 2, 3, tzinfo=UTC), datetime(2001, 2, 3), DatetimeMS(981158400000), 981158400000, Timestamp(1, 2)),  # noqa: DTZ001
    *("x", Code("x"), Code("x", {}), Regex("x"), Regex("x", "i"), re.compile("x"), MinKey(), MaxKey()),
    *(ObjectId("0" * 24), "0" * 24),
]

NAMES = ["a", "b", "c", encode_name("d.e"), encode_name(""), "0"]

values = (
    st.sampled_from(ALIKE)
    | st.lists(st.sampled_from(ALIKE), max_size=2)
    | st.dictionaries(st.sampled_from(NAMES), st.sampled_from(ALIKE), max_size=2)
)
arrays = st.lists(values, max_size=4)
numbers = (
    st.sampled_from([0, 1, -1, 0.5, 2**31 - 1, -(2**31), 2**53, 2.0**53, 2**63 - 1, -(2**63), INF, NAN])
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
)
contents = st.dictionaries(st.sampled_from(NAMES), values | arrays | numbers, max_size=4)


@st.composite
def deltas(draw: st.DrawFn) -> Delta:
    """A change of data: at most one entry of all stands for a name."""
    if draw(st.integers(0, 9)) == 0:
        return Delta(replace=draw(contents))
    fields: dict[str, Any] = {}
    operands: dict[str, st.SearchStrategy[Any]] = {"set": values, "unset": st.none(), "increment": numbers}
    operands |= {"append": arrays, "add_to_set": arrays, "remove_from": arrays}
    for name in draw(st.sets(st.sampled_from(NAMES), min_size=1, max_size=4)):
        operator = draw(st.sampled_from(sorted(operands)))
        fields.setdefault(operator, {})[name] = draw(operands[operator])
    unset = tuple(fields.pop("unset", ()))
    return Delta(unset=unset, **fields)


# The store is the same for all examples of a test; their sessions are not.
with_store = settings(
    max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

_ids = count(1)


def a_record(data: Mapping[str, Any] | None = None, **fields: Any) -> Record:
    """A record like no other, holding this data (names encoded)."""
    raw = EMPTY if data is None else dump(data)
    return Record(next(_ids).to_bytes(16), 7, 3, NOW, NOW, NOW, NOW, NOW + 7200, raw)._replace(**fields)


def seen(data: bytes) -> dict[str, object]:
    """Data in a form to be compared: to the bit, with the order within documents. The order of the session's keys, the
    width of an integer and the sign of zero are no part of the contract."""
    return {name: _form(value) for name, value in load_names(data).items()}


def _form(value: Any) -> object:
    finite = isinstance(value, int | float) and not isinstance(value, bool) and value == value  # noqa: PLR0124
    return (isinstance(value, float), value + 0) if finite else encode("", value)


async def created(store: Store, data: Mapping[str, Any] | None = None, **fields: Any) -> Record:
    """A new session in the store."""
    record = a_record(data, **fields)
    await store.create(record)
    return record


async def reloaded(store: Store, record: Record) -> Record:
    """A session as the store has it now."""
    loaded = await store.load(record.id)
    assert loaded is not None
    return loaded


async def listed(store: Store, subject: str | None = None) -> set[Record]:
    """What `find` gives."""
    found = [record async for record in store.find(subject)]
    assert len(found) == len(set(found))
    return set(found)


def an_ending(reason: str, *, at: float = NOW) -> Changes:
    """What the engine makes of a session at its end."""
    return ending(reason, now=at, rotation=Rotation())


# The data, a change of them, the data afterwards.
OPERATORS: list[tuple[dict[str, Any], Delta, dict[str, Any]]] = [
    ({"a": 1}, Delta(set={"a": 2, "b": [1]}), {"a": 2, "b": [1]}),
    ({"a": 1}, Delta(set={"a": {"b": 1}}), {"a": {"b": 1}}),
    ({"a": 1, "b": 2}, Delta(unset=("a", "c")), {"b": 2}),
    ({"a": 1}, Delta(unset=("a",)), {}),
    ({"a": 1, "b": 2}, Delta(replace={"c": 3}), {"c": 3}),
    ({"a": 1}, Delta(replace={}), {}),
    ({}, Delta(replace={}), {}),
    ({"a": 1}, Delta(increment={"a": 2, "b": -3}), {"a": 3, "b": -3}),
    ({"a": 1, "b": 1.5}, Delta(increment={"a": 0.5, "b": 1}), {"a": 1.5, "b": 2.5}),
    ({"a": 2**31 - 1, "b": 2**40}, Delta(increment={"a": 1, "b": -(2**40)}), {"a": 2**31, "b": 0}),
    ({"a": 2**63 - 1}, Delta(increment={"a": 1.0}), {"a": 2.0**63}),
    ({"a": 1e308}, Delta(increment={"a": 1e308}), {"a": INF}),
    ({"a": [1]}, Delta(append={"a": [1, [2], None], "b": [3, 3]}), {"a": [1, 1, [2], None], "b": [3, 3]}),
    ({"a": [1, 1]}, Delta(add_to_set={"a": [1, 2, 2], "b": [3, 3]}), {"a": [1, 1, 2], "b": [3]}),
    ({"a": [1, 2, 1, 3], "b": []}, Delta(remove_from={"a": [1, 3, 5], "b": [1], "c": [1]}), {"a": [2], "b": []}),
    ({"a": [1]}, Delta(append={"a": [], "b": []}, add_to_set={"c": []}), {"a": [1], "b": [], "c": []}),
    ({"a": [1]}, Delta(remove_from={"a": [], "b": []}), {"a": [1]}),
    (
        {"b": 2, "c": 3, "d": [4], "e": [5], "f": [6]},
        Delta(None, {"a": 1}, ("b",), {"c": 1}, {"d": [0]}, {"e": [0]}, {"f": [6]}),
        {"a": 1, "c": 4, "d": [4, 0], "e": [5, 0], "f": []},
    ),
]

# A list, values, the list with them added as to a set, the list with them removed.
SAMENESS: list[tuple[list[Any], list[Any], list[Any], list[Any]]] = [
    ([1], [1.0, Int64(1), Decimal128("1.00")], [1], []),
    ([1], [True, "1", b"1", [1]], [1, True, "1", b"1", [1]], [1]),
    ([0.0], [-0.0, False, None], [0.0, False, None], []),
    ([2**53], [2.0**53, 2**53 + 1], [2**53, 2**53 + 1], []),
    ([NAN], [NAN, Decimal128("NaN"), Decimal128("sNaN")], [NAN], []),
    ([0.5], [Decimal128("0.50")], [0.5], []),
    ([0.1], [Decimal128("0.1")], [0.1, Decimal128("0.1")], [0.1]),
    ([{"a": 1, "b": 2}], [{"b": 2, "a": 1}], [{"a": 1, "b": 2}, {"b": 2, "a": 1}], [{"a": 1, "b": 2}]),
    ([{"a": [1]}], [{"a": [1.0]}], [{"a": [1]}], []),
    ([{"a": 1}], [{"a": True}, {}], [{"a": 1}, {"a": True}, {}], [{"a": 1}]),
    ([[1]], [1, {"0": 1}], [[1], 1, {"0": 1}], [[1]]),
    (["ab", "b"], [Regex("b")], ["ab", "b", Regex("b")], ["ab", "b"]),
    ([b"x"], [Binary(b"x", 0), Binary(b"x", 5)], [b"x", Binary(b"x", 5)], []),
    ([UUID(int=1)], [Binary(UUID(int=1).bytes, 4)], [UUID(int=1)], []),
]


class StoreContract:
    """Subclass it with a fixture `store`."""

    # Creating and loading.

    async def test_there_is_nothing_at_first(self, store: Store) -> None:
        assert await store.load(a_record().id) is None
        assert await listed(store) == set()

    async def test_every_field_comes_back(self, store: Store) -> None:
        fields: list[dict[str, Any]] = [
            {},
            {"epoch": 0, "generation": 0},
            {"epoch": 2**32 - 1, "generation": 2**48 - 1},
            {
                "created_at": 0.001,
                "renewed_at": 1.001,
                "rotated_at": 2.002,
                "seen_at": 0.999,
                "expires_at": 2**40 / 1000,
            },
            {"subject": "user:ü$.\n", "idle": 300.25, "reason": REVOKED},
            {"subject": "x" * 512, "idle": 1, "reason": DESTROYED, "epoch": ENDED},
            {"persistent": True, "description": {"user_agent": "Ünïx 🍏", "address": "::1", "a b": "c"}},
            {"persistent": False},
        ]
        for each in fields:
            record = await created(store, {"a": 1}, **each)
            assert await store.load(record.id) == record

    @with_store
    @given(st.lists(st.integers(0, 2**43), min_size=5, max_size=5))
    async def test_times_come_back_to_the_millisecond(self, store: Store, times: list[int]) -> None:
        created_at, renewed_at, rotated_at, seen_at, expires_at = (time / 1000 for time in times)
        record = await created(
            store,
            created_at=created_at,
            renewed_at=renewed_at,
            rotated_at=rotated_at,
            seen_at=seen_at,
            expires_at=expires_at,
        )
        assert await store.load(record.id) == record

    async def test_a_value_of_every_type_comes_back(self, store: Store) -> None:
        for name, value in EVERY_TYPE.items():
            prepared = prepare(name, value)
            whole, replaced = await created(store, {"v": prepared}), await created(store)
            changed = await created(store, {"v": 0})
            assert await store.load(whole.id) == whole, name
            assert await store.update(changed.id, Changes(data=Delta(set={"v": prepared})))
            assert await store.update(replaced.id, Changes(data=Delta(replace={"v": prepared}), confirm=True))
            assert (await reloaded(store, changed)).data == (await reloaded(store, replaced)).data == whole.data, name

    async def test_odd_keys_come_back(self, store: Store) -> None:
        data = {key: {key: number} for number, key in enumerate(ODD_KEYS)}
        prepared: dict[str, Any] = {encode_name(key): prepare(key, value) for key, value in data.items()}
        whole, changed, replaced = await created(store, prepared), await created(store), await created(store, {"x": 1})
        assert await store.update(changed.id, Changes(data=Delta(set=prepared)))
        assert await store.update(replaced.id, Changes(data=Delta(replace=prepared)))
        for record in (whole, changed, replaced):
            assert load((await reloaded(store, record)).data) == data

    async def test_creating_is_insert_only(self, store: Store) -> None:
        record = await created(store, {"a": 1})
        for other in (record, record._replace(epoch=8, data=EMPTY)):
            with pytest.raises(StoreError):
                await store.create(other)
        assert await store.load(record.id) == record

    async def test_an_ended_session_is_not_created_again(self, store: Store) -> None:
        record = await created(store)
        assert await store.update(record.id, an_ending(REVOKED))
        ended = await reloaded(store, record)
        with pytest.raises(StoreError):
            await store.create(record)
        assert await store.load(record.id) == ended

    async def test_one_of_many_parallel_creations_wins(self, store: Store) -> None:
        records = [a_record(id=b"i" * 16, epoch=epoch) for epoch in range(10)]
        results = await asyncio.gather(*map(store.create, records), return_exceptions=True)
        assert results.count(None) == 1
        assert all(result is None or isinstance(result, StoreError) for result in results)
        assert await store.load(b"i" * 16) == records[results.index(None)]

    async def test_setting_up_again_changes_nothing(self, store: Store) -> None:
        await store.setup()
        record = await created(store, {"a": 1})
        await store.setup()
        assert await store.load(record.id) == record

    async def test_a_record_does_not_change_once_loaded(self, store: Store) -> None:
        record = await created(store, {"list": [1]})
        loaded = await reloaded(store, record)
        values = [{"x": 1}]
        assert await store.update(record.id, Changes({"generation": 9}, data=Delta(set={"list": values})))
        values[0]["x"] = 2
        assert loaded == record
        assert load_names((await reloaded(store, record)).data) == {"list": [{"x": 1}]}

    # Which sessions an update matches.

    @pytest.mark.parametrize("confirm", [False, True])
    @pytest.mark.parametrize("durable", [False, True])
    async def test_an_update_never_inserts(self, store: Store, *, confirm: bool, durable: bool) -> None:
        record = a_record()
        changes = Changes(
            {"generation": 9}, {"epoch": 8, "seen_at": NOW}, Delta(set={"a": 1}), durable=durable, confirm=confirm
        )
        for epoch, subject in [(7, None), (None, None), (None, "s"), (7, "s"), (ENDED, None)]:
            assert await store.update(record.id, changes, epoch=epoch, subject=subject) is False
        assert await store.load(record.id) is None
        assert await listed(store) == set()

    @pytest.mark.parametrize("confirm", [False, True])
    async def test_epoch_and_subject_fence(self, store: Store, *, confirm: bool) -> None:
        changes = Changes({"generation": 4}, {"idle": 60.5}, Delta(increment={"a": 1}), confirm=confirm)
        record, bystander = await created(store, {"a": 1}, subject="s"), await created(store, {"a": 1}, subject="s")
        misses = [(8, None), (0, None), (ENDED, None), (8, "s"), (None, "t"), (7, "t"), (7, ""), (None, "S")]
        for epoch, subject in misses:
            assert await store.update(record.id, changes, epoch=epoch, subject=subject) is False
            assert await store.load(record.id) == record
        for times, (epoch, subject) in enumerate([(7, None), (None, None), (None, "s"), (7, "s")], 1):
            result = await store.update(record.id, changes, epoch=epoch, subject=subject)
            assert result == Stamp(7, 4) if confirm else result is True
            expected = record._replace(generation=4, idle=60.5, data=dump({"a": 1 + times}))
            assert await store.load(record.id) == expected
        assert await store.load(bystander.id) == bystander

    async def test_no_subject_is_not_any_subject(self, store: Store) -> None:
        record = await created(store)
        for subject in ("", "None", "s"):
            assert await store.update(record.id, Changes({"generation": 4}), subject=subject) is False
        assert await store.load(record.id) == record

    @pytest.mark.parametrize("reason", [DESTROYED, REVOKED, COPIED])
    async def test_what_has_ended_never_changes_again(self, store: Store, reason: str) -> None:
        record = await created(store, {"a": 1}, subject="s", idle=60.5)
        assert await store.update(record.id, an_ending(reason, at=NOW + 10)) is True
        ended = await reloaded(store, record)
        assert ended == record._replace(
            epoch=ENDED, renewed_at=NOW + 10, expires_at=NOW + 490, subject=None, reason=reason, data=EMPTY
        )
        changes = Changes({"generation": 9}, {"epoch": 7, "reason": None}, Delta(set={"a": 1}), confirm=True)
        for epoch, subject in [(7, None), (None, None), (None, "s"), (7, "s")]:
            assert await store.update(record.id, changes, epoch=epoch, subject=subject) is False
        assert await store.update(record.id, an_ending(REVOKED, at=NOW + 20)) is False
        assert await store.load(record.id) == ended

    async def test_an_ending_that_no_longer_fits_ends_nothing(self, store: Store) -> None:
        record = await created(store, subject="s")
        assert await store.update(record.id, an_ending(COPIED), epoch=6) is False
        assert await store.update(record.id, an_ending(REVOKED), subject="t") is False
        assert await store.load(record.id) == record

    # What the session keeps about itself.

    @with_store
    @given(
        st.lists(
            st.dictionaries(st.sampled_from(REGISTERS), st.integers(-3, 3), min_size=1), min_size=1, max_size=4
        ).flatmap(lambda updates: st.tuples(st.just(updates), st.permutations(updates * 2)))
    )
    async def test_registers_only_rise_whatever_the_order(
        self, store: Store, orders: tuple[list[dict[str, int]], list[dict[str, int]]]
    ) -> None:
        record = a_record()
        highest = {name: max(0, *(raised.get(name, 0) for raised in orders[0]), 0) for name in REGISTERS}
        for order in orders:
            twin = await created(store)
            for raised in order:
                changes = Changes({name: getattr(record, name) + by for name, by in raised.items()})
                assert await store.update(twin.id, changes, epoch=7)
            expected = {name: getattr(record, name) + by for name, by in highest.items()}
            assert await store.load(twin.id) == twin._replace(**expected)

    async def test_parallel_raises_leave_the_highest(self, store: Store) -> None:
        record = await created(store, generation=0)
        order = [17, 3, 30, 29, 1, 30, 12, 28]
        changes = [Changes({"generation": number, "rotated_at": NOW + number}, confirm=True) for number in order]
        stamps = await asyncio.gather(*(store.update(record.id, change, epoch=7) for change in changes))
        for stamp, number in zip(stamps, order, strict=True):
            assert isinstance(stamp, Stamp)
            assert stamp.generation >= number
        assert await store.load(record.id) == record._replace(generation=30, rotated_at=NOW + 30)

    async def test_put_sets_plainly(self, store: Store) -> None:
        record = await created(store, idle=60.5, reason="r", subject="s")
        put: dict[str, Any] = {"epoch": 0, "generation": 0, "subject": "t", "idle": 30.5, "reason": "q"}
        put |= {"created_at": 1.5, "renewed_at": 2.5, "rotated_at": 3.5, "seen_at": 4.5, "expires_at": NOW - 7.875}
        assert await store.update(record.id, Changes(put=put), epoch=7)
        assert await store.load(record.id) == record._replace(**put)

    async def test_put_removes(self, store: Store) -> None:
        for record in (await created(store, idle=60.5, reason="r", subject="s"), await created(store)):
            assert await store.update(record.id, Changes(put={"idle": None, "reason": None, "subject": None}))
            assert await store.load(record.id) == record._replace(idle=None, reason=None, subject=None)

    async def test_put_beside_raised(self, store: Store) -> None:
        record = await created(store, rotated_at=NOW + 10 * 86400)
        assert await store.update(record.id, Changes({"generation": 4}, {"rotated_at": NOW + 5}), epoch=7)
        assert await store.load(record.id) == record._replace(generation=4, rotated_at=NOW + 5)

    @pytest.mark.parametrize("durable", [False, True])
    async def test_confirmation_tells_what_is_there_after_the_update(self, store: Store, *, durable: bool) -> None:
        record = await created(store, generation=5)

        async def confirmed(changes: Changes) -> object:
            return await store.update(record.id, changes._replace(durable=durable, confirm=True))

        assert await confirmed(Changes({"generation": 6})) == Stamp(7, 6)
        assert await confirmed(Changes({"generation": 2})) == Stamp(7, 6)
        assert await confirmed(Changes(data=Delta(set={"a": 1}))) == Stamp(7, 6)
        assert await confirmed(Changes(put={"generation": 1})) == Stamp(7, 1)
        assert await confirmed(Changes(put={"epoch": 2**32 - 1, "generation": 0})) == Stamp(2**32 - 1, 0)
        assert await confirmed(an_ending(REVOKED)) == Stamp(ENDED, 0)
        assert await confirmed(Changes({"generation": 6})) is False

    # Data.

    @pytest.mark.parametrize("confirm", [False, True])
    async def test_each_operator(self, store: Store, *, confirm: bool) -> None:
        for before, delta, after in OPERATORS:
            record = await created(store, before)
            changes = Changes({"generation": 4}, data=delta, confirm=confirm)
            result = await store.update(record.id, changes, epoch=7)
            assert result == Stamp(7, 4) if confirm else result is True
            loaded = await reloaded(store, record)
            assert loaded._replace(data=EMPTY) == record._replace(data=EMPTY, generation=4)
            assert seen(loaded.data) == seen(dump(after)), delta

    @pytest.mark.parametrize("operator", ["set", "unset", "increment", "append", "add_to_set", "remove_from"])
    async def test_an_operator_on_an_odd_key_reaches_that_key_alone(self, store: Store, operator: str) -> None:
        before: Any = 0 if operator in ("set", "unset", "increment") else [0]
        operand: Any = {"set": 1, "increment": 1, "remove_from": [0]}.get(operator, [1])
        after: Any = {"set": 1, "increment": 1, "remove_from": []}.get(operator, [0, 1])
        data = {encode_name(key): before for key in ODD_KEYS}
        record = await created(store, data)
        for name in data:
            fields: dict[str, Any] = {operator: (name,) if operator == "unset" else {name: operand}}
            assert await store.update(record.id, Changes(data=Delta(**fields)))
        expected = {} if operator == "unset" else dict.fromkeys(data, after)
        assert load_names((await reloaded(store, record)).data) == expected

    @pytest.mark.parametrize("confirm", [False, True])
    @pytest.mark.parametrize("operator", ["increment", "append", "add_to_set", "remove_from"])
    async def test_a_value_of_another_type_is_refused_and_nothing_applied(
        self, store: Store, operator: str, *, confirm: bool
    ) -> None:
        operand: Any = 1 if operator == "increment" else [1]
        fitting: Any = 0 if operator == "increment" else []
        # Words of the servers' messages are keys as well, and not at fault.
        words = dict.fromkeys(["a", "field", "type", "array", "value", "_id", "code", "index", "errmsg"], fitting)
        refused: list[Any] = ["text", "7", None, True, False, {}, {"0": 1}, b"x", UUID(int=1), NOW_AS_DATETIME]
        refused += [[], [1]] if operator == "increment" else [0, 1.5]
        for name, value in [*(("x", value) for value in refused), ("c'd", None), ("a%2Eb", None), ("%", None)]:
            record = await created(store, {**words, "old": 1, name: value}, idle=60.5)
            operands: dict[str, Any] = {operator: dict.fromkeys([*words, name], operand)}
            delta = Delta(set={"new": 1, "array 2": 2}, unset=("old",), **operands)
            changes = Changes({"generation": 9, "seen_at": NOW + 9}, {"idle": None}, delta, confirm=confirm)
            with pytest.raises(DeltaRefused) as caught:
                await store.update(record.id, changes, epoch=7)
            assert name in caught.value.names, value
            # MongoDB does not say which list it could not remove from.
            assert operator == "remove_from" or caught.value.names == (name,)
            assert await store.load(record.id) == record

    @pytest.mark.parametrize("confirm", [False, True])
    async def test_an_increment_beyond_64_bits_is_refused_and_nothing_applied(
        self, store: Store, *, confirm: bool
    ) -> None:
        top, bottom = 2**63 - 1, -(2**63)
        for value, by in [(top, 1), (bottom, -1), (1, top), (-1, bottom), (2**62, 2**62), (-(2**62), bottom)]:
            record = await created(store, {"n": value})
            changes = Changes(
                {"generation": 9}, {"idle": 1}, Delta(set={"new": 1}, increment={"n": by}), confirm=confirm
            )
            with pytest.raises(DeltaRefused) as caught:
                await store.update(record.id, changes, epoch=7)
            assert caught.value.names == ("n",)
            assert await store.load(record.id) == record
        for value, by in [(top - 1, 1), (bottom + 1, -1), (top, bottom), (bottom, top), (0, bottom)]:
            record = await created(store, {"n": value})
            assert await store.update(record.id, Changes(data=Delta(increment={"n": by}), confirm=confirm))
            assert load_names((await reloaded(store, record)).data) == {"n": value + by}

    async def test_a_delta_is_refused_only_where_the_fence_lets_it_through(self, store: Store) -> None:
        record = await created(store, {"a": "text"})
        assert await store.update(record.id, Changes(data=Delta(increment={"a": 1})), epoch=6) is False

    async def test_what_is_the_same_value_to_a_set(self, store: Store) -> None:
        for array, values, added, left in SAMENESS:
            record = await created(store, {"s": array, "r": array})
            delta = Delta(add_to_set={"s": values}, remove_from={"r": values})
            assert await store.update(record.id, Changes(data=delta))
            data = (await reloaded(store, record)).data
            assert seen(data) == seen(dump({"s": added, "r": left})), (array, values)

    @settings(with_store, max_examples=150)
    @given(contents, deltas(), st.booleans())
    async def test_a_change_does_what_the_pure_function_does(
        self, store: Store, before: dict[str, Any], delta: Delta, confirm: bool
    ) -> None:
        # No session increments a Decimal128; a store may refuse it, or do it.
        assume(not any(isinstance(before.get(name), Decimal128) for name in delta.increment))
        record = await created(store, before)
        changes = Changes({"generation": 9}, {"idle": 60.5}, delta, confirm=confirm)
        try:
            expected = apply(record, changes)
        except DeltaRefused:
            expected = record
            with pytest.raises(DeltaRefused) as refused:
                await store.update(record.id, changes, epoch=7)
            assert set() < set(refused.value.names) <= set(delta.names())
        else:
            assert await store.update(record.id, changes, epoch=7)
        loaded = await reloaded(store, record)
        assert loaded._replace(data=EMPTY) == expected._replace(data=EMPTY)
        assert seen(loaded.data) == seen(expected.data)

    async def test_parallel_updates_lose_nothing(self, store: Store) -> None:
        record = await created(store, {"n": 0, "list": []})

        async def request(number: int) -> None:
            delta = Delta(
                None, {f"key{number}": number}, (), {"n": 1}, {"list": [number]}, {"set": [number, number % 5]}
            )
            changes = Changes({"generation": number}, data=delta, confirm=bool(number % 2))
            assert await store.update(record.id, changes, epoch=7)

        await asyncio.gather(*map(request, range(100)))
        loaded = await reloaded(store, record)
        assert loaded.generation == 99
        data = load_names(loaded.data)
        assert data.pop("n") == 100
        assert sorted(data.pop("list")) == list(range(100))
        assert sorted(data.pop("set")) == list(range(100))
        assert data == {f"key{number}": number for number in range(100)}

    async def test_one_of_many_parallel_renewals_wins(self, store: Store) -> None:
        record = await created(store, {"n": 0})

        async def renew(epoch: int) -> Stamp | bool:
            put, delta = {"epoch": epoch, "generation": 0}, Delta(increment={"n": 1})
            return await store.update(record.id, Changes({}, put, delta, durable=True, confirm=True), epoch=7)

        stamps = await asyncio.gather(*map(renew, range(100, 120)))
        (winner,) = (stamp for stamp in stamps if stamp)
        assert stamps.count(False) == 19
        loaded = await reloaded(store, record)
        assert (Stamp(loaded.epoch, loaded.generation), load_names(loaded.data)) == (winner, {"n": 1})

    # One value at once.

    async def test_a_value_is_taken_out_once(self, store: Store) -> None:
        record = await created(store, {"a": [1, {"b": 2}], "c": 3})
        taken = await store.pop(record.id, "a", epoch=record.epoch)
        assert taken is not None
        assert load_names(taken) == {"a": [1, {"b": 2}]}
        assert await store.pop(record.id, "a", epoch=record.epoch) == EMPTY
        assert await reloaded(store, record) == record._replace(data=dump({"c": 3}))

    async def test_the_first_value_stays(self, store: Store) -> None:
        record = await created(store, {"a": 1})
        for value in ([2], [3]):
            there = await store.set_default(record.id, "b", value, epoch=record.epoch)
            assert there is not None
            assert load_names(there) == {"b": [2]}
        assert seen((await reloaded(store, record)).data) == seen(dump({"a": 1, "b": [2]}))

    async def test_of_many_calls_at_once_one_wins(self, store: Store) -> None:
        record = await created(store)
        calls = (store.set_default(record.id, "a", number, epoch=record.epoch) for number in range(20))
        there = {load_names(each)["a"] for each in await asyncio.gather(*calls) if each is not None}
        assert len(there) == 1
        taken = await asyncio.gather(*(store.pop(record.id, "a", epoch=record.epoch) for _ in range(20)))
        assert taken.count(EMPTY) == 19
        assert {value for each in taken if each is not None for value in load_names(each).values()} == there

    async def test_null_is_a_value(self, store: Store) -> None:
        record = await created(store, {"a": None})
        assert await store.set_default(record.id, "a", 1, epoch=record.epoch) == dump({"a": None})
        assert await store.pop(record.id, "a", epoch=record.epoch) == dump({"a": None})

    async def test_one_value_of_another_epoch_or_of_nobody_is_left(self, store: Store) -> None:
        record = await created(store, {"a": 1})
        ended = await created(store, {"a": 1})
        await store.update(ended.id, an_ending(REVOKED))
        for which, epoch in ((record.id, record.epoch + 1), (a_record().id, 7), (ended.id, ended.epoch)):
            assert await store.pop(which, "a", epoch=epoch) is None
            assert await store.set_default(which, "b", 1, epoch=epoch) is None
        assert await reloaded(store, record) == record
        assert (await reloaded(store, ended)).data == EMPTY

    @pytest.mark.parametrize("key", ODD_KEYS)
    async def test_one_value_under_any_key(self, store: Store, key: str) -> None:
        name, other = encode_name(key), {"a": 1, "": {"b": 1}, "x": [1, 2]}
        record = await created(store, {encode_name(each): value for each, value in other.items() if each != key})
        for value in ({"0": {"$literal": "$a"}}, 2):
            there = await store.set_default(record.id, name, value, epoch=record.epoch)
            assert there == dump({name: {"0": {"$literal": "$a"}}})
        assert await store.pop(record.id, name, epoch=record.epoch) == dump({name: {"0": {"$literal": "$a"}}})
        assert seen((await reloaded(store, record)).data) == seen(record.data)

    async def test_one_value_of_every_type(self, store: Store) -> None:
        record = await created(store)
        for kind, value in EVERY_TYPE.items():
            name, prepared = encode_name(kind), prepare(kind, value)
            there = await store.set_default(record.id, name, prepared, epoch=record.epoch)
            assert there is not None
            assert seen(there) == seen(dump({name: prepared})), kind
            taken = await store.pop(record.id, name, epoch=record.epoch)
            assert taken == there, kind

    # Finding.

    async def test_finding_lists_what_has_not_ended_without_its_data(self, store: Store) -> None:
        mine = {
            await created(store, {"a": 1}, subject="s", idle=60.5),
            await created(store, {"a": 2}, subject="s", expires_at=1.0, seen_at=0.5),
        }
        other, nobodys = await created(store, {"a": 1}, subject="S"), await created(store, {"a": 1})
        ended = await created(store, {"a": 1}, subject="s")
        assert await store.update(ended.id, an_ending(DESTROYED))
        assert await listed(store, "s") == {record._replace(data=EMPTY) for record in mine}
        assert await listed(store, "S") == {other._replace(data=EMPTY)}
        assert await listed(store, "") == await listed(store, "t") == set()
        assert await listed(store) == {record._replace(data=EMPTY) for record in (*mine, other, nobodys)}

    async def test_finding_follows_the_subject(self, store: Store) -> None:
        record = await created(store, subject="s")
        assert await store.update(record.id, Changes(put={"subject": "t"}))
        assert await listed(store, "s") == set()
        assert await listed(store, "t") == {record._replace(subject="t")}
        assert await store.update(record.id, Changes(put={"subject": None}))
        assert await listed(store, "t") == set()
        assert await listed(store) == {record._replace(subject=None)}

    async def test_many_are_found_while_they_are_being_ended(self, store: Store) -> None:
        records = [a_record(subject="s") for _ in range(120)]  # more than a database sends at once
        await asyncio.gather(*map(store.create, records))
        ended = [record.id async for record in store.find("s") if await store.update(record.id, an_ending(REVOKED))]
        assert sorted(ended) == sorted(record.id for record in records)
        assert await listed(store, "s") == set()
