"""Data and its BSON: which bytes a value becomes, which field name a key becomes, and whether it has changed.

Keys may be any ``str``. A field name of MongoDB may not: a dot is a path, a dollar sign an operator, and NUL and the
empty name are refused. So names are encoded injectively, at every level:

    %  ->  %25      .  ->  %2E      $  ->  %24      NUL  ->  %00      the empty key  ->  %
    a surrogate that is half of nothing (not valid in UTF-8)  ->  %uD800 ... %uDFFF

A value has changed when its encoding has: ``True == 1`` and ``1 == 1.0`` to Python, and to MongoDB they differ.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, cast
from uuid import UUID

import bson
import bson.errors
from bson.binary import ALL_UUID_SUBTYPES, Binary, UuidRepresentation
from bson.code import Code
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.objectid import ObjectId
from bson.timestamp import Timestamp

from mongosession.errors import DataError

OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(
    tz_aware=True,  # aware in, aware out, always UTC
    uuid_representation=UuidRepresentation.STANDARD,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,  # a date beyond the year 9999 is no reason to fail
)

MAX_DEPTH = 90
"""Levels of nesting. MongoDB takes 100 for a whole document; the session's own two come on top."""

EMPTY = bson.encode({})

IMMUTABLE = frozenset(
    {
        str,
        int,
        float,
        bool,
        type(None),
        bytes,
        datetime,
        Int64,
        ObjectId,
        Decimal128,
        Timestamp,
        UUID,
        MinKey,
        MaxKey,
    }
)
"""Types whose values cannot change under our hands, and need no look inside: the same object is the same value."""

_PERCENT, _DOLLAR = b"%$"  # a byte is found sooner as a number
_UNSAFE = "[%.$\0\ud800-\udfff]"  # compiled where it is asked for: that takes long, and most keys are identifiers
# What encode_name writes, the empty key's name behind its type; lengths and numbers hold a % by chance.
_ESCAPED = rb"%(?:2[45E]|00|u|(?<=[\x01-\x13\x7f\xff]%)\0)"
_OPENINGS = b"\x03\x04\x0f"  # the types that hold others: document, array, code with scope
_LEVEL = 7  # bytes that a level of nesting takes at least: type, NUL of the name, length, NUL of the end
_LISTS = (list, tuple)
_ESCAPE = "%(u[0-9A-F]{4}|[0-9A-F]{2})"


class Delta(NamedTuple):
    """A change of data, key by key. Names are encoded; at most one entry of all stands for a name.

    Attributes:
        replace: the whole new data, or None; the others are empty where it is given.
        set: name -> new value.
        unset: names that go.
        increment: name -> number to add, atomically.
        append: name -> values to append to a list, atomically.
        add_to_set: name -> values to append where the list does not hold them, atomically.
        remove_from: name -> values to take out of a list, atomically.
    """

    replace: Mapping[str, Any] | None = None
    set: Mapping[str, Any] = {}
    unset: tuple[str, ...] = ()
    increment: Mapping[str, int | float] = {}
    append: Mapping[str, Sequence[Any]] = {}
    add_to_set: Mapping[str, Sequence[Any]] = {}
    remove_from: Mapping[str, Sequence[Any]] = {}

    def names(self) -> tuple[str, ...]:
        """The encoded names of all keys that it touches."""
        return (
            *(self.replace or ()),
            *self.set,
            *self.unset,
            *self.increment,
            *self.append,
            *self.add_to_set,
            *self.remove_from,
        )

    def from_nothing(self) -> dict[str, Any]:
        """The data that this change makes of an empty session (encoded names, prepared values)."""
        if self.replace is not None:
            return dict(self.replace)
        return {
            **self.set,
            **self.increment,
            **self.append,
            **{name: without_twins([], values) for name, values in self.add_to_set.items()},
        }


def encode_name(key: str) -> str:
    """The field name of a key. A plain ``str`` even where the key is of a subclass: those may format themselves as
    something else (a member of ``class Key(str, Enum)`` does), and names become parts of paths."""
    if type(key) is str and key.isidentifier():  # as most are, and none of these has anything to escape
        return key
    if key and not re.search(_UNSAFE, key):
        return str.__str__(key)
    return re.sub(_UNSAFE, lambda match: _escape(match[0]), key) or "%"


def decode_name(name: str) -> str:
    """The key of a field name."""
    if "%" not in name:
        return name
    return "" if name == "%" else re.sub(_ESCAPE, lambda match: chr(int(match[1].lstrip("u"), 16)), name)


def prepare(key: str, value: Any) -> Any:
    """A value ready for BSON: the names in it encoded, tuples as lists.

    Raises:
        DataError: a key in it is no ``str``, it is nested too deeply (or within itself), or it would be written and
            never read again.
    """
    return value if type(value) in IMMUTABLE else _prepare(key, value, 1)


def encode(key: str, value: Any) -> bytes:
    """The BSON of a prepared value, as a document of one element under the key's name.

    Raises:
        DataError: BSON cannot hold it.
    """
    try:
        return bson.encode({encode_name(key): value}, codec_options=OPTIONS)
    except OverflowError:
        raise DataError(
            f"session[{key!r}] holds an integer of more than 64 bits (store it as text or Decimal128), or a date "
            "that is beyond the calendar in UTC",
            key,
        ) from None
    except UnicodeEncodeError:
        raise DataError(
            f"session[{key!r}] holds text that is not valid Unicode (a lone surrogate); store it as bytes", key
        ) from None
    except (bson.errors.BSONError, ValueError, TypeError, RecursionError, SystemError) as error:
        raise DataError(f"session[{key!r}] holds a value that BSON cannot: {error}", key) from None


def dump(prepared: Mapping[str, Any]) -> bytes:
    """The BSON of whole data: encoded names, prepared values."""
    return bson.encode(prepared, codec_options=OPTIONS)


def plain_encoding(data: Mapping[str, Any]) -> bytes | None:
    """The BSON of data as they stand, nothing prepared: of use to see whether they change. None where there is none."""
    try:
        return bson.encode(data, codec_options=OPTIONS)
    except (bson.errors.BSONError, ValueError, TypeError, OverflowError, RecursionError, SystemError):
        return None


def plainly_encoded(raw: bytes) -> bool:
    """Whether nothing but the same data has these bytes as its plain encoding. Not so where names in them are escaped,
    or there is a ``DBRef``, which is written as a dictionary of its parts."""
    return not ((_PERCENT in raw and re.search(_ESCAPED, raw)) or (_DOLLAR in raw and b"$ref\0" in raw))


def element_size(name: str, value: Any) -> int | None:
    """Bytes that a value and its (encoded) name take in a document, for the plainest types; None where it takes the
    encoder to say so, or to refuse it. Two values of one of these types are one in BSON where they are equal."""
    kind = type(value)
    if kind is str and value.isascii():
        size = len(value) + 5
    elif kind is int and -(2**63) <= value < 2**63:
        size = 4 if -(2**31) <= value < 2**31 else 8
    elif kind is bool:
        size = 1
    elif value is None:
        size = 0
    else:
        return None
    return size + len(name if name.isascii() else name.encode()) + 2


def load(raw: bytes) -> dict[str, Any]:
    """The data of a BSON document, names decoded. New objects each time."""
    data = bson.decode(raw, OPTIONS)
    return _decoded(data, raw) if _PERCENT in raw else data


def load_safely(raw: bytes) -> dict[str, Any] | None:
    """The data of bytes that need not come from ``dump``, names decoded, or None where it would not write them so: they
    are no BSON, a name stands twice in them, or they are nested beyond ``MAX_DEPTH``. Never raises."""
    try:
        data = load_names(raw)
        # Where the bytes that begin a level are fewer than that, none is too deep.
        if len(raw) > MAX_DEPTH * _LEVEL and len(raw) - len(raw.translate(None, _OPENINGS)) > MAX_DEPTH:
            for name, value in data.items():
                prepare(name, value)
        content = _decoded(data, raw)
        if content is not data:  # two names may be of one key
            data = {encode_name(key): prepare(key, value) for key, value in content.items()}
        return content if dump(data) == raw else None
    except Exception:  # noqa: BLE001  # whatever a decoder raises for bytes that are no BSON
        return None


def load_names(raw: bytes) -> dict[str, Any]:
    """The data of a BSON document with its names as they are stored."""
    return bson.decode(raw, OPTIONS)


def canonical(value: Any) -> Any:
    """A form in which two (prepared) values are equal exactly where MongoDB's array operators take them as equal.

    Numbers compare by value whatever their type, a truth value is no number, documents compare with their order.
    """
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value).items()
        return ("document", tuple((name, canonical(item)) for name, item in items))
    if isinstance(value, list | tuple):
        return ("array", tuple(canonical(item) for item in cast("Sequence[Any]", value)))
    if isinstance(value, Decimal128):
        number = value.to_decimal()
        return ("number", "nan" if number.is_nan() else number)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return ("number", value if value == value else "nan")  # noqa: PLR0124  # NaN is no number to Python, and one to BSON
    return ("value", bson.encode({"": value}, codec_options=OPTIONS))


def without_twins(array: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    """An array with those values appended that it does not hold yet: what ``$addToSet`` makes of it."""
    result, forms = list(array), [canonical(item) for item in array]
    for value in values:
        form = canonical(value)
        if form not in forms:
            result.append(value)
            forms.append(form)
    return result


def without(array: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    """An array without any of these values: what ``$pullAll`` leaves of it."""
    forms = [canonical(value) for value in values]
    return [item for item in array if canonical(item) not in forms]


def _escape(character: str) -> str:
    code = ord(character)
    return f"%{code:02X}" if code < 0x80 else f"%u{code:04X}"


def _prepare(key: str, value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise DataError(f"session[{key!r}] is nested more than {MAX_DEPTH} levels deep, or contains itself", key)
    if isinstance(value, _LISTS):
        return [
            item if type(item) in IMMUTABLE else _prepare(key, item, depth + 1) for item in cast("Sequence[Any]", value)
        ]
    if isinstance(value, Mapping):
        prepared: dict[str, Any] = {}
        for name, item in value.items():
            if not isinstance(name, str):
                raise DataError(f"session[{key!r}] holds a dictionary with the key {name!r}; keys must be str", key)
            prepared[encode_name(name)] = item if type(item) in IMMUTABLE else _prepare(key, item, depth + 1)
        return prepared
    if isinstance(
        value, Code | DBRef
    ):  # written as they are, but what they hold counts: MongoDB refuses what is too deep
        _prepare(key, value.scope if isinstance(value, Code) else value.as_doc(), depth + 1)
    if isinstance(value, Binary) and value.subtype in ALL_UUID_SUBTYPES and len(value) != 16:
        raise DataError(f"session[{key!r}] holds a Binary of {len(value)} bytes that says it is a UUID", key)
    return value


def _decoded(data: dict[str, Any], raw: bytes) -> dict[str, Any]:
    """The data with their names decoded; most have none to decode, which the bytes tell at less cost."""
    return cast("dict[str, Any]", _restore(data)) if _PERCENT in raw and re.search(_ESCAPED, raw) else data


def _restore(value: Any) -> Any:
    if isinstance(value, dict):
        return {decode_name(name): _restore(item) for name, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_restore(item) for item in value]
    return value
