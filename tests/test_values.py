"""Values and their names: every key has a field name of its own, and what BSON holds comes back as it was."""

import re
from collections import OrderedDict
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any, NamedTuple
from uuid import UUID

import bson
import pytest
from bson.binary import Binary
from bson.code import Code
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.objectid import ObjectId
from bson.regex import Regex
from bson.son import SON
from bson.timestamp import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from mongosession.errors import DataError
from mongosession.values import (
    EMPTY,
    IMMUTABLE,
    MAX_DEPTH,
    Delta,
    decode_name,
    dump,
    encode,
    encode_name,
    load,
    load_names,
    load_safely,
    plain_encoding,
    prepare,
    without,
    without_twins,
)

from .building import ANY_TEXT, alike, fuzz, stored

# ------------------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("plain", "plain"),
        ("ünïcödé 🍵", "ünïcödé 🍵"),
        ("with space", "with space"),
        ("", "%"),
        ("%", "%25"),
        ("%%", "%25%25"),
        ("%25", "%2525"),
        ("%2E", "%252E"),
        ("%uD800", "%25uD800"),
        (".", "%2E"),
        ("a.b", "a%2Eb"),
        ("$set", "%24set"),
        ("a$", "a%24"),
        ("\0", "%00"),
        ("\ud800", "%uD800"),
        ("\udfff", "%uDFFF"),
        ("\ud83d\ude00", "%uD83D%uDE00"),  # two halves, which Python does not take for the one character
        ("_id", "_id"),
        ("__proto__", "__proto__"),
    ],
)
def test_names_are_frozen(key: str, name: str) -> None:
    assert encode_name(key) == name
    assert decode_name(name) == key


class Key(str, Enum):  # noqa: UP042  # the old idiom: unlike a StrEnum's, its members format themselves as "Key.BASKET"
    BASKET = "basket"
    ODD = "a.b"


@pytest.mark.parametrize(("key", "name"), [(Key.BASKET, "basket"), (Key.ODD, "a%2Eb")])
def test_a_name_formats_as_itself_whatever_the_key_does(key: str, name: str) -> None:
    assert f"data.{encode_name(key)}" == f"data.{name}"
    (inner,) = prepare("key", {key: 1})
    assert f"{inner}" == name


@fuzz
@given(ANY_TEXT)
def test_a_name_is_one_that_mongodb_takes_and_leads_back(key: str) -> None:
    name = encode_name(key)
    assert name
    assert not name.startswith("$")
    assert not set(name) & {".", "$", "\0"}
    assert name.encode("utf-8")
    assert decode_name(name) == key


@fuzz
@given(st.lists(ANY_TEXT | st.text("%uD80.$2E", max_size=6), unique=True))
def test_two_keys_never_have_one_name(keys: list[str]) -> None:
    assert len({encode_name(key) for key in keys}) == len(keys)


# ----------------------------------------------------------------------------------------------------------- values

TIMES = st.datetimes(timezones=st.just(UTC)).map(
    lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)
)
TEXT = st.text()
NUL_FREE = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
DECIMALS = st.builds(
    lambda digits, exponent: Decimal128(f"{digits}E{exponent}"),
    st.integers(-(10**34) + 1, 10**34 - 1),
    st.integers(-99, 99),
)
SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(-(2**63), 2**63 - 1).map(Int64),
    st.floats(allow_nan=False),
    TEXT,
    st.binary(),
    TIMES,
    st.uuids(),
    DECIMALS,
    st.binary(min_size=12, max_size=12).map(ObjectId),
    st.builds(Regex, NUL_FREE, st.sampled_from([0, re.UNICODE, re.IGNORECASE | re.MULTILINE | re.DOTALL | re.VERBOSE])),
    st.builds(Code, TEXT),
    st.builds(Code, TEXT, st.dictionaries(NUL_FREE, st.integers(0, 9), max_size=3)),
    st.builds(Binary, st.binary(), st.sampled_from([1, 2, 5, 6, 128])),
    st.builds(Timestamp, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    st.just(MinKey()),
    st.just(MaxKey()),
    st.builds(DBRef, TEXT, st.integers(0, 9) | TEXT, st.none() | TEXT),
)
KEYS = ANY_TEXT | st.sampled_from(["$ref", "$id", "$db", "a.b", "$set", "_id", "", "%", "%2E", "\0"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


def back(value: Any) -> Any:
    """A value as the next request reads it."""
    return load(stored({"key": value}))["key"]


@fuzz
@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_what_is_stored_is_read(data: dict[str, Any]) -> None:
    raw = stored(data)
    bson.decode(raw)  # it is BSON
    read = load(raw)
    assert read == load_safely(raw) == data
    assert alike(read) == alike(data)  # not only ==: True is not 1, and 1 is not 1.0
    assert stored(read) == raw


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, type(None)),
        (True, bool),
        (2**31 - 1, int),
        (2**31, Int64),
        (-(2**63), Int64),
        (Int64(1), Int64),
        (-0.0, float),
        (float("inf"), float),
        ("a\0b", str),
        (b"", bytes),
        (datetime(1, 1, 1, tzinfo=UTC), datetime),
        (datetime(9999, 12, 31, 23, 59, 59, 999000, UTC), datetime),
        (DatetimeMS(2**62), DatetimeMS),  # beyond the year 9999
        (UUID(int=1), UUID),
        (Decimal128("NaN"), Decimal128),
        (Decimal128("1.10"), Decimal128),
        (Regex("^a", "im"), Regex),
        (Code("f"), Code),
        (Code("f", {"a.b": 1}), Code),
        (Binary(b"x", 128), Binary),
        (MinKey(), MinKey),
        (DBRef("c", 1), DBRef),
        ({}, dict),
        ([], list),
        ([[[]]], list),
        ({"$ref": "c", "$id": 1}, dict),  # no DBRef is made of a dictionary
        ([{"$ref": "c", "$id": 1}], list),
        ({"$numberLong": "1"}, dict),
        ({"a.b": {"": {"$": 1, "%": 2}}}, dict),
        ({"0": 1, "1": 2}, dict),
    ],
    ids=repr,
)
def test_values_keep_their_kind(value: Any, kind: type) -> None:
    read = back(value)
    assert type(read) is kind
    assert alike({"": read}) == alike({"": value})


class Pair(NamedTuple):
    a: int
    b: int


class Word(StrEnum):
    YES = "yes"


class Number(IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ((1, (2, 3)), [1, [2, 3]]),
        (Pair(1, 2), [1, 2]),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (SON([("$a", SON(b=1))]), {"$a": {"b": 1}}),
        (Word.YES, "yes"),
        ({Word.YES: Word.YES}, {"yes": "yes"}),
        (Number.ONE, 1),
        (datetime(2030, 1, 1, 12, tzinfo=UTC).replace(tzinfo=None), datetime(2030, 1, 1, 12, tzinfo=UTC)),
        (datetime(2030, 1, 1, 14, tzinfo=timezone(timedelta(hours=2))), datetime(2030, 1, 1, 12, tzinfo=UTC)),
        (datetime(2030, 1, 1, 12, 0, 0, 123999, UTC), datetime(2030, 1, 1, 12, 0, 0, 123000, UTC)),
        (re.compile("^a", re.IGNORECASE), Regex("^a", re.IGNORECASE | re.UNICODE)),
        (Binary(b"plain", 0), b"plain"),
        (Binary(bytes(16), 4), UUID(int=0)),
    ],
    ids=repr,
)
def test_what_looks_like_a_value_becomes_it(value: Any, read: Any) -> None:
    assert back(value) == read
    assert type(back(value)) is type(read)


def test_reading_gives_new_objects_each_time() -> None:
    raw = stored({"list": [{}], "a.b": [1]})
    one, other = load(raw), load(raw)
    one["list"][0]["x"] = one["a.b"][0] = 2
    assert other == {"list": [{}], "a.b": [1]}


@pytest.mark.parametrize("key", ["", "%", ".", "$", "\0", "\ud800"])
@pytest.mark.parametrize(
    "value",
    [
        *(1.5, "", {}, [], b"", ObjectId("0" * 24), False, datetime(2030, 1, 1, tzinfo=UTC), None, Regex("a")),
        *(Code("f"), Code("f", {}), 1, Timestamp(1, 1), Int64(1), Decimal128("1"), MinKey(), MaxKey()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_escape_alone_is_enough_to_be_decoded(key: str, value: Any) -> None:
    for data in ({key: value}, {"a": 1, key: value}, {"a": [{key: value}]}):
        assert load(stored(data)) == load_safely(stored(data)) == data


@pytest.mark.parametrize("number", [0x25, 0x2525, 0x0025_1000, 0x3225, 0x2510, 0x7525])
def test_a_percent_sign_that_is_no_name_changes_nothing(number: int) -> None:
    # Lengths, numbers and texts hold the byte of "%" too.
    data = {"number": number, "text": "x" * number, "texts": ["%25", "%2E", "%", "%uD800"], "": {"": number}}
    assert load(stored(data)) == data
    assert load_safely(stored(data)) == data


def test_preparing_leaves_the_value_alone() -> None:
    value = {"a.b": [{"$": (1,)}]}
    assert prepare("key", value) == {"a%2Eb": [{"%24": [1]}]}
    assert value == {"a.b": [{"$": (1,)}]}


def test_the_stored_names_can_be_had_as_they_are() -> None:
    assert load_names(stored({"a.b": {"$c": 1}})) == {"a%2Eb": {"%24c": 1}}


def test_the_encoding_of_a_value_is_a_document_of_one_element() -> None:
    assert encode("a.b", 1) == bson.encode({"a%2Eb": 1})
    assert encode("a", prepare("a", [True])) != encode("a", prepare("a", [1]))
    assert dump({}) == EMPTY


def looped() -> list[Any]:
    value: list[Any] = []
    value.append({"self": value})
    return value


def nested(levels: int) -> Any:
    value: Any = "leaf"
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


UNSTORABLE = [
    {1},
    frozenset({1}),
    object(),
    object,
    2**63,
    -(2**63) - 1,
    2**64,
    1j,
    Decimal(1),
    range(3),
    bytearray(b"x"),
    iter([1]),
    len,
    "\ud800",
    "fine, then \udfff",
    timedelta(1),
    datetime(2030, 1, 1, tzinfo=UTC).date(),
    Regex("nul\0"),
    Code("f", {"a": object()}),
    DBRef("c", object()),
    {5: 1},
    {None: 1},
    {b"bytes": 1},
    {("a", "b"): 1},
    looped(),
    nested(MAX_DEPTH + 1),
    nested(5000),
    *(Code("f", {"a": nested(levels)}) for levels in (MAX_DEPTH, 5000)),
    *(DBRef("c", nested(levels)) for levels in (MAX_DEPTH, 5000)),
    DBRef("c", looped()),
    Binary(b"short", 4),  # BSON takes it for a UUID when it is read, and fails
    Code("f", {"a": Binary(b"short", 4)}),
    DBRef("c", Binary(bytes(17), 4)),
    Binary(b"short", 3),  # PyMongo 4.13 fails at that of old, too
]


def test_a_driver_that_stumbles_is_an_error_that_names_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyMongo 4.13 raises that for a Binary of subtype 255."""

    def stumble(*_: Any, **__: Any) -> bytes:
        raise SystemError("returned NULL without setting an exception")

    monkeypatch.setattr("bson.encode", stumble)
    with pytest.raises(DataError, match=r"session\['the\.key'\] holds a value that BSON cannot: returned NULL"):
        encode("the.key", Binary(b"x", 255))
    assert plain_encoding({"the.key": Binary(b"x", 255)}) is None


@pytest.mark.parametrize("value", UNSTORABLE, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("wrap", [lambda it: it, lambda it: [it], lambda it: {"deep": [{"er": it}]}])
def test_what_bson_cannot_hold_is_an_error_that_names_the_key(value: Any, wrap: Any) -> None:
    with pytest.raises(DataError, match=r"session\['the\.key'\]") as caught:
        encode("the.key", prepare("the.key", wrap(value)))
    assert caught.value.key == "the.key"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({1}, "set"),
        (2**64, "64 bits"),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=1))), "date that is beyond the calendar in UTC"),
        ("\ud800", "surrogate"),
        ([{5: 1}], "the key 5; keys must be str"),
        (looped(), f"more than {MAX_DEPTH} levels"),
        (Binary(b"short", 4), "Binary of 5 bytes that says it is a UUID"),
        (Binary(bytes(17), 3), "Binary of 17 bytes that says it is a UUID"),
    ],
    ids=["set", "integer", "date", "text", "key", "loop", "uuid", "old uuid"],
)
def test_the_error_says_why(value: Any, why: str) -> None:
    with pytest.raises(DataError, match=why):
        encode("key", prepare("key", value))


def test_the_deepest_value_that_is_taken_comes_back() -> None:
    value = nested(MAX_DEPTH)
    assert back(value) == value
    # MongoDB takes 100 levels for the whole document; the value lies two levels deep in it.
    assert MAX_DEPTH + 2 <= 100


def test_containers_and_what_holds_one_are_not_taken_for_immutable() -> None:
    mutable: list[Any] = [[], {}, (), Code("f", {}), DBRef("c", {}), bytearray(), DatetimeMS(1), Word.YES]
    for value in mutable:
        assert type(value) not in IMMUTABLE


@pytest.mark.parametrize("levels", [0, MAX_DEPTH, MAX_DEPTH + 1, 300, 5000])
def test_bytes_of_any_origin_are_read_up_to_the_depth_that_is_taken(levels: int) -> None:
    raw = EMPTY
    for _ in range(levels):
        raw = (len(raw) + 8).to_bytes(4, "little") + b"\x03a\0" + raw + b"\0"
    assert (load_safely(raw) is not None) == (levels <= MAX_DEPTH)


@pytest.mark.parametrize("raw", [b"", b"\0", EMPTY[:-1], EMPTY + b"\0", b"\x05\0\0\0a", b"\xff" * 100], ids=repr)
def test_bytes_of_any_origin_may_be_no_bson(raw: bytes) -> None:
    assert load_safely(raw) is None


# ------------------------------------------------------------------------------------ what arrays take for the same

SAME = [
    (1, 1.0),
    (1, Int64(1)),
    (1, Decimal128("1.00")),
    (0.5, Decimal128("0.5")),
    (0.0, -0.0),
    (float("nan"), float("nan")),
    (float("nan"), Decimal128("NaN")),
    (Decimal128("sNaN"), Decimal128("-NaN")),
    (float("inf"), Decimal128("Infinity")),
    ([1], [1.0]),
    ([1], (1,)),
    ({"a": 1}, {"a": 1.0}),
    ("yes", Word.YES),
    (b"x", Binary(b"x", 0)),
    (re.compile("a"), Regex("a", re.UNICODE)),
    (datetime(2030, 1, 1, tzinfo=UTC).replace(tzinfo=None), datetime(2030, 1, 1, tzinfo=UTC)),  # naive counts as UTC
    (None, None),
]
DIFFERENT = [
    (1, True),
    (0, False),
    (0, None),
    (1, "1"),
    ("a", b"a"),
    (b"x", Binary(b"x", 5)),
    (0.1, Decimal128("0.1")),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ({"a": 1}, {"a": True}),
    ([1, 2], [2, 1]),
    ([], {}),
    ([1], 1),
    ("f", Code("f")),
    ("a", Regex("a")),
]


@pytest.mark.parametrize(("one", "other"), SAME, ids=repr)
def test_values_that_an_array_takes_for_the_same(one: Any, other: Any) -> None:
    assert len(without_twins([one], [other])) == len(without_twins([other], [one])) == 1
    assert without([one, "x", one], [other]) == ["x"]


@pytest.mark.parametrize(("one", "other"), DIFFERENT, ids=repr)
def test_values_that_an_array_tells_apart(one: Any, other: Any) -> None:
    assert len(without_twins([one], [other])) == len(without_twins([other], [one])) == 2
    assert len(without([one, one], [other])) == 2


def test_sets_and_removals_keep_the_order_and_the_twins_that_were_there() -> None:
    assert without_twins([2, 2, 1], [1, 3, 3, 2, 4]) == [2, 2, 1, 3, 4]
    assert without([2, 1, 2, 3], [2, 9]) == [1, 3]


# ----------------------------------------------------------------------------------------------------------- deltas


def test_a_delta_knows_its_names_and_what_it_makes_of_nothing() -> None:
    delta = Delta(
        set={"a": 1},
        unset=("b",),
        increment={"c": 2},
        append={"d": [3, 3]},
        add_to_set={"e": [4, 4.0, 5]},
        remove_from={"f": [6]},
    )
    assert sorted(delta.names()) == ["a", "b", "c", "d", "e", "f"]
    assert delta.from_nothing() == {"a": 1, "c": 2, "d": [3, 3], "e": [4, 5]}
    assert Delta(replace={"g": 7}).names() == ("g",)
    assert Delta(replace={"g": 7}).from_nothing() == {"g": 7}
    assert Delta(replace={}).from_nothing() == Delta().from_nothing() == {}
