"""Signed sessions: their bytes are frozen here, what is written is read, and nothing else is read, raises, or grows."""

import struct
import tracemalloc
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime
from hashlib import blake2b
from math import inf, nan
from random import Random
from string import ascii_letters, digits
from typing import Any
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
from bson.timestamp import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from mongosession.keys import KeyRing, Role
from mongosession.policy import Timeouts
from mongosession.recent import Recent
from mongosession.rotation import expiry, touch_at
from mongosession.signed import MAX_COOKIE, MAX_DATA, ROOM, Signed, SignedCodec, in_cookie
from mongosession.tokens import Token, TokenCodec
from mongosession.values import MAX_DEPTH, load

from .building import ANY_TEXT, NOW, SID, alike, fuzz, stored
from .test_values import KEYS, VALUES

KEY = bytes(range(32))
RING = KeyRing([KEY])
NAME = "__Host-session"
TIMEOUTS = Timeouts()
CODEC = SignedCodec(RING, NAME, TIMEOUTS)
ALPHABET = ascii_letters + digits + "-_"
FOREIGN = '+/= \t\n\0.,;%"\\~é٣\ud800'

MOMENTS = st.integers(0, 2**48 - 1).map(lambda milliseconds: milliseconds / 1000)
SIGNED = st.builds(
    Signed,
    sid=st.binary(min_size=16, max_size=16),
    created_at=MOMENTS,
    seen_at=MOMENTS,
    data=st.dictionaries(KEYS, VALUES | st.floats(), max_size=4).map(stored),
    idle=st.none() | st.floats(0.001, 1e12),
    persistent=st.none() | st.booleans(),
)

PLAIN = Signed(SID, 3_999_999_999.25, 4_000_000_000.001, stored({"visits": 3, "theme": "dark"}))
DEFLATED = PLAIN._replace(data=stored({"cart": [{"sku": f"T-{n}", "quantity": n} for n in range(3)]}), persistent=True)
OWN_LIFE = PLAIN._replace(idle=90.5, persistent=False)
SAMPLES = [PLAIN, DEFLATED, OWN_LIFE]
TEXTS = [
    "AgAAAQIDBAUGBwgJCgsMDQ4PA6NSlD0SA6NSlEABEHZpc2l0cwADAAAAAnRoZW1lAAUAAABkYXJrAPR_fuidDf4ifVzROU3Gwz0",
    "Ag0AAQIDBAUGBwgJCgsMDQ4PA6NSlD0SA6NSlEABYwEHTx4D2L0KIKWgkGEBMkJ0DZAUgwHQO2hKDNHNA_oWTYkRkhImsDEAZfIORAWKPbRFp3DLafCR_Q",
    "AgYAAQIDBAUGBwgJCgsMDQ4PA6NSlD0SA6NSlEABQFagAAAAAAAQdmlzaXRzAAMAAAACdGhlbWUABQAAAGRhcmsAwZxcl5X34EWhI2xBa9zjfw",
]

WINDOW = -12


def written(signed: Signed, codec: SignedCodec = CODEC) -> str:
    text = codec.write(signed)
    assert text is not None
    return text


def codec_of(ring: KeyRing = RING, name: str = NAME) -> SignedCodec:
    """One that remembers nothing yet."""
    return SignedCodec(ring, name, TIMEOUTS)


Held = tuple[Signed, dict[str, Any], Role]


def opened(text: str, codec: SignedCodec | None = None) -> Held:
    """What a text holds, to a codec that remembers nothing unless it is named."""
    result = (codec or codec_of()).read(text)
    assert result is not None
    signed, record, due, content, role = result
    assert record == in_cookie(signed, TIMEOUTS)
    assert due == touch_at(record, TIMEOUTS)
    return signed, content, role


def raw_of(text: str) -> bytes:
    return urlsafe_b64decode(text + "==")


def spelled(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def text_of(payload: bytes, *, purpose: str = "data", name: str = NAME, key: bytes = KEY) -> str:
    """A payload with a MAC that is right in the domain named."""
    return spelled(payload + KeyRing([key]).signer(purpose, name).sign(payload))


def holding(body: bytes, flags: int = 0) -> str:
    """A text that verifies, and holds this where the data are."""
    return text_of(raw_of(TEXTS[0])[:1] + bytes([flags]) + raw_of(TEXTS[0])[2:30] + body)


def holding_data(data: bytes) -> str:
    return holding(data[4:-1])


def dictionary() -> bytes:
    """The preset dictionary, as the format has it."""
    from mongosession import signed  # noqa: PLC0415

    return signed._DICTIONARY  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def deflate(body: bytes, *, wbits: int = WINDOW, preset: bytes | None = None) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, wbits, 5, zlib.Z_DEFAULT_STRATEGY, preset or dictionary())
    return deflater.compress(body) + deflater.flush()


def document(elements: bytes) -> bytes:
    return struct.pack("<i", len(elements) + 5) + elements + b"\0"


def nested(levels: int, opening: bytes = b"\x03") -> bytes:
    """A BSON document so many levels deep, which no encoder of ours would make."""
    name = b"0\0" if opening == b"\x04" else b"a\0"
    elements = b"\x0a" + name
    for _ in range(levels):
        elements = opening + name + document(elements)
    return document(elements)


# ---------------------------------------------------------------------------------------------------------- the format


@pytest.mark.parametrize(("signed", "text"), list(zip(SAMPLES, TEXTS, strict=True)))
def test_the_texts_are_frozen(signed: Signed, text: str) -> None:
    assert written(signed) == text or signed is DEFLATED  # another zlib may find other matches
    assert opened(text) == (signed, load(signed.data), Role.PRIMARY)


def test_what_another_zlib_deflates_is_read() -> None:
    # It may make other bytes of the same data. What is read depends on the dictionary alone: that is the format.
    assert blake2b(dictionary(), digest_size=8).hexdigest() == "9ddec989d6726318"
    for level in range(10):
        deflater = zlib.compressobj(level, zlib.DEFLATED, WINDOW, 9, zlib.Z_DEFAULT_STRATEGY, dictionary())
        body = deflater.compress(DEFLATED.data[4:-1]) + deflater.flush()
        assert opened(holding(body, flags=1))[0].data == DEFLATED.data


def test_the_bytes_stand_where_the_head_of_the_file_says() -> None:
    payload = raw_of(TEXTS[0])[:-16]
    assert payload[:1] + payload[1:2] == b"\x02\x00"
    assert payload[2:18] == SID
    assert int.from_bytes(payload[18:24]) == 3_999_999_999_250
    assert int.from_bytes(payload[24:30]) == 4_000_000_000_001
    assert payload[30:] == PLAIN.data[4:-1]
    payload = raw_of(TEXTS[2])[:-16]
    assert payload[1] == 2 | 4
    assert struct.unpack(">d", payload[30:38]) == (90.5,)
    assert raw_of(TEXTS[1])[1] == 1 | 4 | 8


def test_no_repr_tells_the_sid_or_the_data() -> None:
    signed = Signed(b"\x00secret sid here", 1.0, 2.0, stored({"secret": "secret"}))
    assert repr(signed) == "Signed(created_at=1.0, seen_at=2.0, data of 24 bytes)"


@fuzz
@given(SIGNED)
def test_what_is_written_is_read(signed: Signed) -> None:
    text = written(signed)
    assert set(text) <= set(ALPHABET)
    back, content, role = opened(text)
    assert back == signed
    assert role is Role.PRIMARY
    assert alike(content) == alike(load(signed.data))  # by type and value: True is not 1, and NaN is itself
    assert list(content) == list(load(signed.data))
    assert stored(content) == signed.data
    assert CODEC.write(back) == text


def test_times_are_exact_to_the_millisecond() -> None:
    for start in (0, 1_790_000_000_000, 4_000_000_000_000, 2**48 - 1500):
        for milliseconds in range(start, start + 1500):
            moment = milliseconds / 1000  # as the engine makes them; times 1000, some are a little less
            signed = PLAIN._replace(created_at=moment, seen_at=moment)
            assert opened(written(signed))[0] == signed


KINDS = [
    *(None, True, False, 0, 1, -1, 2**31 - 1, -(2**31), Int64(1), Int64(2**63 - 1), Int64(-(2**63))),
    *(0.0, -0.0, 1.0, inf, -inf, nan, struct.unpack("<d", bytes.fromhex("010000000000f8ff"))[0], 5e-324, 0.1),
    *("", "a\0b", "ünïcödé 🍵", "%", b"", b"\0", b"bytes"),
    *(datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999000, UTC)),
    *(datetime(2030, 1, 1, 12, 0, 0, 123000, UTC), DatetimeMS(2**62), DatetimeMS(-(2**63))),
    *(UUID(int=7), ObjectId("0123456789abcdef01234567"), Timestamp(2**32 - 1, 1), MinKey(), MaxKey()),
    *(Decimal128("1.10"), Decimal128("NaN"), Decimal128("-0E+3"), Decimal128("-Infinity")),
    *(Regex("^a", "imsx"), Regex("", 0), Code("f"), Code("f", {}), Code("f", {"a.b": {"$x": 1}})),
    *(DBRef("c", 1), DBRef("c", ObjectId("0" * 24), "db", more=[1])),
    *(Binary(b"x", subtype) for subtype in (1, 2, 5, 6, 7, 8, 9, 128, 255)),
    Binary(bytes(16), 3),
    *({}, [], [[]], [{}], {"": {"$": 1, "a.b": 2}}, {"b": 1, "a": 2}, {"$ref": "c", "$id": 1}, [None] * 3, {"0": 1}),
]


@pytest.mark.parametrize("value", KINDS, ids=repr)
@pytest.mark.parametrize("padding", ["", "x" * 200], ids=["plain", "deflated"])
def test_every_kind_of_value_comes_back_as_it_was(value: Any, padding: str) -> None:
    data = stored({"z": padding, "key": value, "a": [value]})
    signed, content, _ = opened(written(PLAIN._replace(data=data)))
    assert signed.data == data
    assert type(content["key"]) is type(value)
    assert list(content) == ["z", "key", "a"]
    assert stored(content) == data


def test_the_kinds_are_all_that_bson_has() -> None:
    """But for those that it has given up, and no encoder writes: undefined, DBPointer, Symbol."""
    tags = {stored({"key": value})[4] for value in KINDS}
    assert tags == {*range(0x01, 0x14), 0x7F, 0xFF} - {0x06, 0x0C, 0x0E}


def test_content_is_new_objects_each_time() -> None:
    text = written(DEFLATED)
    opened(text)[1]["cart"].clear()
    assert len(opened(text)[1]["cart"]) == 3


# -------------------------------------------------------------------------------------------------- size and deflating


def noise(length: int) -> bytes:
    """Data of this length that cannot be deflated."""
    empty = len(stored({"key": b""}))
    return stored({"key": Random(length).randbytes(length - empty)})


@pytest.mark.parametrize("name", ["s", NAME, "n" * 100])
def test_a_cookie_is_written_up_to_4096_bytes_of_name_and_value(name: str) -> None:
    codec = codec_of(RING, name)
    lengths: list[int] = []
    for length in range(2900, 3100):
        text = codec.write(PLAIN._replace(data=noise(length)))
        if text is None:
            assert codec.write(PLAIN._replace(data=noise(length + 1))) is None
            break
        assert opened(text, codec)[0].data == noise(length)
        lengths.append(len(name) + len(text))
    assert max(lengths) == MAX_COOKIE == 4096
    assert len(lengths) < 200


def test_a_cookie_is_read_up_to_4096_bytes_of_name_and_value() -> None:
    longest = MAX_COOKIE - len(NAME)
    for name in (NAME, NAME + "12"):  # 4082 characters are possible, and so are 4080
        spare = (MAX_COOKIE - len(name)) * 3 // 4 - 46 + 5
        text = text_of(raw_of(TEXTS[0])[:30] + noise(spare)[4:-1], name=name)
        assert len(name) + len(text) == MAX_COOKIE
        opened(text, codec_of(RING, name))
    for more in range(1, 5):
        text = text_of(raw_of(TEXTS[0])[:30] + noise(longest * 3 // 4 - 41 + more)[4:-1])
        assert len(text) > longest
        assert CODEC.read(text) is None


def test_what_is_short_or_does_not_shrink_is_not_deflated() -> None:
    assert raw_of(written(PLAIN._replace(data=stored({"a": "a" * 40}))))[1] == 0
    assert raw_of(written(PLAIN._replace(data=noise(1000))))[1] == 0
    assert raw_of(written(PLAIN._replace(data=stored({"a": "a" * 100}))))[1] == 1


def test_what_sessions_repeat_is_known_beforehand() -> None:
    assert len(written(DEFLATED)) <= len(TEXTS[1]) + 4
    ordinary = stored({"_csrf_token": "x", "language": "en-GB", "theme": "dark", "cart": [{"sku": "T", "quantity": 1}]})
    assert len(raw_of(written(PLAIN._replace(data=ordinary)))) < 46 + len(ordinary) / 2


@pytest.mark.parametrize("size", [200, 1000, 3000, MAX_DATA])
def test_deflating_never_makes_it_longer(size: int) -> None:
    empty = len(stored({"key": ""}))
    data = stored({"key": ("loose leaf oolong, " * size)[: size - empty]})
    assert len(data) == size
    text = written(PLAIN._replace(data=data))
    assert len(raw_of(text)) < 46 + size - 5
    assert opened(text)[0].data == data


def test_data_beyond_the_limit_are_not_written_however_well_they_deflate() -> None:
    data = stored({"key": "a" * (MAX_DATA - len(stored({"key": ""})))})
    assert len(data) == MAX_DATA
    assert CODEC.write(PLAIN._replace(data=data)) is not None
    assert CODEC.write(PLAIN._replace(data=stored({"key": load(data)["key"] + "a"}))) is None


# ------------------------------------------------------------------------------------------------------------- forgery


@pytest.mark.parametrize("text", TEXTS, ids=["plain", "deflated", "own life"])
class TestForgery:
    def test_no_character_can_be_another(self, text: str) -> None:
        for position, original in enumerate(text):
            for character in (ALPHABET + FOREIGN).replace(original, ""):
                assert CODEC.read(text[:position] + character + text[position + 1 :]) is None, (position, character)

    def test_no_bit_can_be_another(self, text: str) -> None:
        raw = raw_of(text)
        number = int.from_bytes(raw)
        for bit in range(len(raw) * 8):
            assert CODEC.read(spelled((number ^ 1 << bit).to_bytes(len(raw)))) is None, bit

    def test_no_byte_can_be_another(self, text: str) -> None:
        raw = raw_of(text)
        for position in range(len(raw)):
            for byte in set(range(0, 256, 7)) - {raw[position]}:
                changed = raw[:position] + bytes([byte]) + raw[position + 1 :]
                assert CODEC.read(spelled(changed)) is None, (position, byte)

    def test_nothing_can_be_cut_off_or_added(self, text: str) -> None:
        raw = raw_of(text)
        for length in range(len(text)):
            assert CODEC.read(text[:length]) is None, length
            assert CODEC.read(text[length + 1 :]) is None, length
        for length in range(len(raw)):
            assert CODEC.read(spelled(raw[:length])) is None, length
            assert CODEC.read(spelled(raw[:length] + b"\0" + raw[length:])) is None, length
        for more in (*ALPHABET, *FOREIGN, "=", "==", "====", text):
            assert CODEC.read(text + more) is None, more
            assert CODEC.read(more + text) is None, more

    def test_it_belongs_to_one_cookie_one_purpose_and_one_key(self, text: str) -> None:
        payload = raw_of(text)[:-16]
        assert text_of(payload) == text
        for name in ("session", "__Host-session2", "__host-session", "__Host-sessio", "data"):
            assert codec_of(RING, name).read(text) is None, name
        for purpose in ("token", "Data", "", "dat", "data2"):
            assert CODEC.read(text_of(payload, purpose=purpose)) is None, purpose
        assert CODEC.read(text_of(payload, key=b"k" * 32)) is None

    def test_it_is_no_token(self, text: str) -> None:
        payload = raw_of(text)[:-16]
        tokens = TokenCodec(RING, NAME)
        assert tokens.read(text, 0) is None
        assert tokens.read(text_of(payload[:32]), 0) is None  # of a token's length
        assert tokens.read(text_of(b"\x01" + payload[1:32]), 0) is None  # and of its version


def test_a_token_is_no_data() -> None:
    token = TokenCodec(RING, NAME).write(Token(SID, 1, 2, 4_000_000_000))
    assert CODEC.read(token) is None
    payload = raw_of(token)[:-16]
    assert CODEC.read(text_of(payload)) is None  # though the MAC is one of ours
    assert CODEC.read(text_of(b"\x02\0" + payload[2:] + b"\x0aa\0", purpose="token")) is None
    opened(text_of(b"\x02\0" + payload[2:30] + b"\x0aa\0"))  # the very bytes are fine in the right domain


def test_the_last_bits_of_a_text_cannot_be_others() -> None:
    for length in (100, 101, 102):  # of each remainder
        text = written(PLAIN._replace(data=noise(length)))
        others = [text[:-1] + character for character in ALPHABET if character != text[-1]]
        assert any(raw_of(other) == raw_of(text) for other in others) == (len(text) % 4 > 0)
        assert all(CODEC.read(other) is None for other in others)


def test_the_second_alphabet_is_refused() -> None:
    for seed in range(50):
        text = written(PLAIN._replace(sid=Random(seed).randbytes(16)))
        if set(text) & set("-_"):
            for other in {text.replace("-", "+"), text.replace("_", "/"), text.replace("-", ".")} - {text}:
                assert CODEC.read(other) is None


def test_the_length_is_checked_before_any_work() -> None:
    text = "A" * 4_000_000
    tracemalloc.start()
    try:
        assert CODEC.read(text) is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10_000


def test_nor_is_any_spent_on_what_is_too_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A header holds thousands of such cookies."""
    shortest = written(PLAIN._replace(data=stored({})))
    assert len(shortest) == 62
    monkeypatch.setattr("mongosession.signed.a2b_base64", None)
    for length in range(len(shortest)):
        assert CODEC.read(shortest[:length]) is None
    with pytest.raises(TypeError):
        codec_of().read(shortest)


@fuzz
@given(ANY_TEXT | st.text(ALPHABET, max_size=300) | st.text(ALPHABET + FOREIGN, min_size=60, max_size=110))
def test_no_text_raises_or_passes(text: str) -> None:
    assert CODEC.read(text) is None


def test_keys_change_in_three_steps() -> None:
    old, new = b"o" * 32, b"n" * 32
    text = codec_of(KeyRing([old])).write(PLAIN)
    assert text is not None
    assert opened(text, codec_of(KeyRing([new, old]))) == (PLAIN, load(PLAIN.data), Role.OLD)
    assert opened(text, codec_of(KeyRing([new], [old]))) == (PLAIN, load(PLAIN.data), Role.NEXT)
    assert codec_of(KeyRing([new])).read(text) is None
    again = codec_of(KeyRing([new, old])).write(PLAIN)
    assert again is not None
    assert opened(again, codec_of(KeyRing([new])))[2] is Role.PRIMARY


# --------------------------------------------------------------------------------------------------- what is remembered


def exact(result: Held) -> Any:
    """A form in which two results are equal where nobody can tell them apart."""
    signed, content, role = result
    return [(type(part), repr(part)) for part in signed], signed.data, alike(content), stored(content), role


@fuzz
@given(SIGNED)
def test_what_is_remembered_is_what_was_read(signed: Signed) -> None:
    codec, text = codec_of(), written(signed)
    assert [exact(opened(text, codec)) for _ in range(3)] == [exact(opened(text))] * 3


@pytest.mark.parametrize("value", KINDS, ids=repr)
def test_every_kind_of_value_is_remembered_as_it_was_read(value: Any) -> None:
    codec, text = codec_of(), written(PLAIN._replace(data=stored({"key": value, "a": [value, {"b": value}]})))
    for _ in range(3):
        result = opened(text, codec)
        assert exact(result) == exact(opened(text))
        assert type(result[1]["key"]) is type(value)


def test_what_is_remembered_is_not_verified_again(monkeypatch: pytest.MonkeyPatch) -> None:
    codec, text = codec_of(), written(DEFLATED)
    opened(text, codec)
    monkeypatch.setattr("mongosession.signed.a2b_base64", None)
    assert opened("".join(text), codec) == (DEFLATED, load(DEFLATED.data), Role.PRIMARY)


def test_content_has_containers_of_its_own_each_time() -> None:
    data = {"list": [1, [2], {"a": 3}], "dict": {"b": [4]}, "plain": "x"}
    codec, text = codec_of(), written(PLAIN._replace(data=stored(data)))
    for _ in range(3):
        content = opened(text, codec)[1]
        assert content == data
        content["list"][1].append("mine")
        content["dict"]["b"].append("mine")
        content["mine"] = 1


def test_what_an_old_key_signed_is_remembered_as_such() -> None:
    old, new = b"o" * 32, b"n" * 32
    text = written(PLAIN, codec_of(KeyRing([old])))
    for ring, role in ((KeyRing([new, old]), Role.OLD), (KeyRing([new], [old]), Role.NEXT)):
        codec = codec_of(ring)
        assert [opened(text, codec)[2] for _ in range(3)] == [role] * 3


def test_what_one_codec_remembers_is_nothing_to_another() -> None:
    text = written(PLAIN)
    opened(text, CODEC)
    assert codec_of(RING, "other").read(text) is None
    assert codec_of(KeyRing([b"n" * 32])).read(text) is None


def test_nothing_is_remembered_that_is_refused() -> None:
    codec, text = codec_of(), TEXTS[0]
    bad = [f"{text[:-9]}{number:08}A" for number in range(100)]
    bad += [
        TEXTS[1][:-1] + "_",
        text + "A",
        holding(TWICE),
        holding(b"a"),
        holding(b"", flags=8),
        holding(b"", flags=1),
    ]
    bad += [text_of(b"\x03" + raw_of(text)[1:-16]), holding_data(nested(MAX_DEPTH + 1))]
    for _ in range(2):
        assert [codec.read(each) for each in bad] == [None] * len(bad)
    assert len(remembered(codec)) == 0
    opened(text, codec)
    assert len(remembered(codec)) == 1


def remembered(codec: SignedCodec) -> Recent[Any]:
    return codec._recent  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize(
    "data", [stored({"a": "b"}), stored({"a": "b" * 900}), stored({"\U0001f375": [{}] * 60})], ids=len
)
def test_so_much_is_remembered_and_no_more(data: bytes) -> None:
    codec = codec_of()
    tracemalloc.start()
    try:
        count = 2 * ROOM // (1024 + len(data))
        for number in range(count):
            opened(written(PLAIN._replace(sid=number.to_bytes(16), data=data)), codec)
        held, _ = tracemalloc.get_traced_memory()
        assert 100 < len(remembered(codec)) < count / 2
        del codec
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held - left < ROOM


# ------------------------------------------------------------------------- what a right MAC does not make right at once


@pytest.mark.parametrize("version", [0, 1, 3, 0x82, 0xFF])
def test_another_version_is_refused(version: int) -> None:
    assert CODEC.read(text_of(bytes([version]) + raw_of(TEXTS[0])[1:-16])) is None


def test_unknown_flags_are_refused() -> None:
    body = struct.pack(">d", 9.0) + PLAIN.data[4:-1]
    read = [flags for flags in range(256) if CODEC.read(holding(body if flags & 2 else body[8:], flags)) is not None]
    assert read == [0, 2, 4, 6, 12, 14]  # what is not deflated does not inflate
    body = deflate(PLAIN.data[4:-1])
    read = [
        flags for flags in range(256) if flags & 1 and CODEC.read(holding(bytes(8) * (flags >> 1 & 1) + body, flags))
    ]
    assert read == [1, 3, 5, 7, 13, 15]


def test_payloads_too_short_for_their_head_are_refused() -> None:
    payload = raw_of(TEXTS[2])[:-16]
    for length in range(38):
        assert CODEC.read(text_of(payload[:length])) is None, length
    assert opened(text_of(payload[:38]))[0].data == stored({})


BOMBS = [bytes(10_000_000), b"\x0aa\0" * 3_000_000, document(bytes(MAX_DATA - 4))[4:-1], document(bytes(MAX_DATA - 3))]


@pytest.mark.parametrize("body", BOMBS, ids=len)
def test_bombs_do_not_go_off(body: bytes) -> None:
    deflated = deflate(body)[:3000]
    text = holding(deflated, flags=1)
    tracemalloc.start()
    try:
        assert CODEC.read(text) is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * MAX_DATA


def test_data_are_inflated_up_to_the_limit_and_no_further() -> None:
    full = stored({"key": "a" * (MAX_DATA - len(stored({"key": ""})))})
    assert opened(holding(deflate(full[4:-1]), flags=1))[0].data == full
    for more in (1, 5, 6, 100):
        beyond = stored({"key": "a" * (MAX_DATA - len(stored({"key": ""})) + more)})
        assert CODEC.read(holding(deflate(beyond[4:-1]), flags=1)) is None, more


def test_what_was_deflated_otherwise_is_refused() -> None:
    body = DEFLATED.data[4:-1]
    good = deflate(body)
    assert opened(holding(good, flags=1))[0].data == DEFLATED.data
    for length in range(len(good)):
        assert CODEC.read(holding(good[:length], flags=1)) is None, length
    for bad in (good + b"\0", good + good, b"\0" + good, zlib.compress(body), deflate(body, preset=b"cart"), b""):
        assert CODEC.read(holding(bad, flags=1)) is None
    assert CODEC.read(holding(deflate(body, wbits=12), flags=1)) is None  # with a head
    for position in range(len(good)):
        for bit in range(8):
            changed = good[:position] + bytes([good[position] ^ 1 << bit]) + good[position + 1 :]
            check_bounded(holding(changed, flags=1))


def check_bounded(text: str) -> None:
    """A text with a right MAC is refused, or holds what can be written again."""
    if (result := CODEC.read(text)) is not None:
        signed, _, _, content, _ = result
        again = PLAIN._replace(data=stored(content))
        assert len(signed.data) <= MAX_DATA
        assert opened(written(again))[1].keys() == content.keys()


RICH = stored(
    {
        "a.b": {"c": [1, 2.5, "text", b"bytes", None, True]},
        "kinds": [Int64(1), UUID(int=1), Regex("a", "i"), Code("f", {"x": 1}), DBRef("c", 1), Decimal128("1")],
        "when": datetime(2030, 1, 1, tzinfo=UTC),
        "id": ObjectId("0" * 24),
    }
)


def test_bson_that_is_cut_short_or_goes_on_is_refused() -> None:
    assert opened(holding_data(RICH))[0].data == RICH
    for length in range(1, len(RICH) - 5):
        body = RICH[4 : 4 + length]
        assert CODEC.read(holding(body)) is None or b"\0" + body in bson_prefixes(RICH), length
    for more in (b"\0", b"\0\0", b"a", b"\x0a", b"\x0aa", b"\0\x0aa\0", RICH, bytes(100)):
        assert CODEC.read(holding(RICH[4:-1] + more)) is None, more
    assert CODEC.read(holding(RICH)) is None
    assert CODEC.read(holding(b"\0" + RICH[4:-1])) is None


def bson_prefixes(raw: bytes) -> set[bytes]:
    """The beginnings of a document that end with one of its elements."""
    items = list(bson.decode(raw, bson.CodecOptions(document_class=bson.SON, uuid_representation=4)).items())
    options = bson.CodecOptions[Any](uuid_representation=4)
    return {b"\0" + bson.encode(dict(items[:n]), codec_options=options)[4:-1] for n in range(len(items))}


def test_bson_with_a_changed_byte_never_raises() -> None:
    body = RICH[4:-1]
    for position in range(len(body)):
        for byte in {0, 1, 0x7F, 0x80, 0xFF, *range(0x14), body[position] ^ 1, body[position] ^ 0x80}:
            check_bounded(holding(body[:position] + bytes([byte]) + body[position + 1 :]))


@fuzz
@given(st.binary(max_size=200), st.sampled_from([0, 1, 2, 3]))
def test_no_body_raises(body: bytes, flags: int) -> None:
    check_bounded(holding(body, flags))


@fuzz
@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=4), st.binary(max_size=16)), max_size=6))
def test_nothing_that_resembles_bson_raises(elements: list[tuple[int, bytes, bytes]]) -> None:
    check_bounded(holding(b"".join(bytes([kind]) + name + b"\0" + value for kind, name, value in elements)))


def test_deep_nesting_is_refused() -> None:
    for opening in (b"\x03", b"\x04"):
        deepest = nested(MAX_DEPTH, opening)
        assert opened(holding_data(deepest))[0].data == deepest
        for levels in (MAX_DEPTH + 1, 100, 200, 900, 990):
            deep = nested(levels, opening)
            text = holding_data(deep) if len(deep) < 2900 else holding(deflate(deep[4:-1]), flags=1)
            assert CODEC.read(text) is None, levels
        most = nested((MAX_DATA - 8) // 8, opening)
        assert len(most) <= MAX_DATA
        assert CODEC.read(holding(deflate(most[4:-1]), flags=1)) is None


def test_deep_nesting_is_refused_wherever_it_hides() -> None:
    deep = nested(MAX_DEPTH)
    wide = b"".join(b"\x03%d\0" % n + document(b"") for n in range(100))  # many, but none in another
    assert len(opened(holding_data(document(wide)))[1]) == 100
    scope = deep  # of a Code
    code = struct.pack("<i", 4 + 4 + 2 + len(scope)) + struct.pack("<i", 2) + b"f\0" + scope
    reference = document(b"\x02$ref\0" + struct.pack("<i", 2) + b"c\0" + b"\x03$id\0" + deep)
    for hidden in (b"\x0fc\0" + code, b"\x03r\0" + reference, b"\x04l\0" + document(b"\x030\0" + deep)):
        assert CODEC.read(holding(wide + hidden)) is None
        assert CODEC.read(holding(hidden)) is None


TWICE = b"\x0ab\0\x08b\0\x01"


@pytest.mark.parametrize(
    "elements",
    [
        b"\x10a\0\x01\0\0\0\x10a\0\x02\0\0\0",
        b"\x10a\0\x01\0\0\0\x10a\0\x01\0\0\0",  # even where they agree
        b"\x10a\0\x01\0\0\0\x0az\0\x02a\0\x02\0\0\0x\0",
        TWICE,
        b"\x03a\0" + document(TWICE),
        b"\x04a\0" + document(b"\x030\0" + document(TWICE)),
        b"\x04a\0" + document(b"\x0a0\0\x080\0\x01"),
        b"\x0fc\0" + struct.pack("<ii", 14 + len(TWICE) + 1, 2) + b"f\0" + document(TWICE),  # the scope of a Code
        b"\x03r\0" + document(b"\x02$ref\0\x02\0\0\0c\0\x0a$id\0\x08$id\0\x01"),
        b"\x0a%41%2E\0\x0aA%2E\0",  # two names, of one key
        b"\x0aa\0" * 700,
    ],
)
def test_a_name_that_stands_twice_is_refused(elements: bytes) -> None:
    bson.decode(document(elements), bson.CodecOptions[Any](uuid_representation=4))  # to the decoder it is fine
    assert CODEC.read(holding(elements)) is None
    assert CODEC.read(holding(deflate(elements), flags=1)) is None


def test_many_names_that_stand_twice_are_refused_in_little_memory() -> None:
    text = holding(deflate(b"\x0aa\0" * 5000), flags=1)
    tracemalloc.start()
    try:
        assert CODEC.read(text) is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 * MAX_DATA


@pytest.mark.parametrize(
    "elements",
    [
        b"\x05u\0\x05\0\0\0\x04short",  # a UUID of five bytes
        b"\x02t\0\x03\0\0\0\xff\xfe\0",  # no UTF-8
        b"\x0a\xff\0",
        b"\x02t\0\xff\xff\xff\x7fa\0",  # lengths beyond the end, and below it
        b"\x02t\0\0\0\0\0\0",
        b"\x02t\0\xff\xff\xff\xffa\0",
        b"\x03d\0\xff\xff\xff\x7f\0",
        b"\x03d\0\x04\0\0\0\0",
        b"\x05b\0\xff\xff\xff\xff\0",
        b"\x14x\0",  # no such type
        b"\x08b\0\x02",  # neither true nor false
        b"\x0bx\0a",  # a regular expression without an end
        b"\x10i\0\x01\0\0",  # cut short
        b"\x03r\0" + document(b"\x10$ref\0\x01\0\0\0\x10$id\0\x01\0\0\0")[:-1],
    ],
)
def test_odd_bson_is_refused(elements: bytes) -> None:
    assert CODEC.read(holding(elements)) is None
    assert CODEC.read(holding(b"\x0aa\0" + elements + b"\x0az\0")) is None


def test_types_of_old_and_names_that_no_session_has_are_bounded_too() -> None:
    for elements in (
        b"\x06u\0",  # undefined
        b"\x0es\0\x02\0\0\0a\0",  # symbol
        b"\x0cp\0\x02\0\0\0c\0" + bytes(12),  # DBPointer
        b"\x0a\0\x0a$set\0\x0aa.b\0\x0a%41\0\x0aA\0",  # names that are not encoded
        b"\x03r\0" + document(b"\x10$ref\0\x01\0\0\0\x10$id\0\x01\0\0\0"),  # a reference to no collection
        b"\x04a\0" + document(b"\x0a5\0\x0ax\0"),  # an array that counts otherwise
    ):
        check_bounded(holding(elements))


# ---------------------------------------------------------------------------------------------------------------- time

LIFE = Timeouts(idle=100, absolute=1000)


@pytest.mark.parametrize(
    ("age", "unseen", "idle", "left"),
    [
        (0, 0, None, 100),
        (500, 30, None, 70),
        (500, 100, None, 0),
        (950, 0, None, 50),
        (1000, 0, None, 0),
        (500, 30, 60.0, 30),
        (500, 30, 30.0, 0),
        (500, 300, 400.0, 100),  # an idle timeout of its own may be longer, the absolute one holds
        (900, 0, 1e9, 100),
        (900, 0, inf, 100),
    ],
)
def test_a_session_ends_with_its_first_timeout(age: float, unseen: float, idle: float | None, left: float) -> None:
    signed = PLAIN._replace(created_at=NOW - age, seen_at=NOW - unseen, idle=idle)
    assert expiry(signed, LIFE) == NOW + left


@pytest.mark.parametrize("idle", [nan, -inf, inf, -1.0, 0.0, 1e308])
def test_no_idle_timeout_outlives_the_absolute_one(idle: float) -> None:
    signed = opened(holding(struct.pack(">d", idle) + PLAIN.data[4:-1], flags=2))[0]
    assert not PLAIN.created_at + LIFE.absolute < expiry(signed, LIFE)
