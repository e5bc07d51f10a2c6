"""The token: its bytes are frozen here, and nothing but the very text that was written is ever taken for one."""

import tracemalloc
from base64 import urlsafe_b64decode, urlsafe_b64encode
from string import ascii_letters, digits

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mongosession.keys import KeyRing, Role
from mongosession.tokens import ROOM, Presented, Token, TokenCodec, deadline, session_id

from .building import ANY_TEXT, fuzz

KEY = bytes(range(32))
NAME = "__Host-session"
CODEC = TokenCodec(KeyRing([KEY]), NAME)
UNTIL = 4_000_000_000
BEFORE = UNTIL - 0.001

TOKEN = Token(bytes(range(0x10, 0x20)), epoch=0xDEADBEEF, generation=0x0102030405, deadline=UNTIL)
TEXT = "ARAREhMUFRYXGBkaGxwdHh_erb7vAAECAwQFAO5rKAC-33vQ_jwfAdxIo3jiRQZt"

ALPHABET = ascii_letters + digits + "-_"
FOREIGN = '+/= \t\n\0.,;%"\\~é٣\ud800'

TOKENS = st.builds(
    Token,
    sid=st.binary(min_size=16, max_size=16),
    epoch=st.integers(0, 2**32 - 1),
    generation=st.integers(0, 2**48 - 1),
    deadline=st.integers(0, 2**40 - 1),
)


def text_of(payload: bytes, *, purpose: str = "token", name: str = NAME, key: bytes = KEY) -> str:
    """A payload with a MAC that is right in the domain named."""
    return urlsafe_b64encode(payload + KeyRing([key]).signer(purpose, name).sign(payload)).decode()


def presented(token: Token) -> Presented:
    """What is read of a token under the primary key."""
    return Presented(token, Role.PRIMARY, session_id(token.sid))


def test_no_repr_tells_the_sid() -> None:
    token = Token(b"\x00secret sid here", 1, 2, 3)
    assert repr(Presented(token, Role.OLD, b"id")) == (
        "Presented(token=Token(epoch=1, generation=2, deadline=3), role=<Role.OLD: 'old'>, id=b'id')"
    )


def test_the_text_of_a_token_is_frozen() -> None:
    assert CODEC.write(TOKEN) == TEXT
    assert CODEC.read(TEXT, BEFORE) == presented(TOKEN)


def test_the_bytes_stand_where_the_head_of_the_file_says() -> None:
    version, sid, epoch, generation, until = (
        "01",
        "101112131415161718191a1b1c1d1e1f",
        "deadbeef",
        "000102030405",
        "00ee6b2800",
    )
    assert urlsafe_b64decode(TEXT)[:32].hex() == version + sid + epoch + generation + until


@fuzz
@given(TOKENS)
def test_what_is_written_is_read(token: Token) -> None:
    text = CODEC.write(token)
    assert len(text) == 64
    assert set(text) <= set(ALPHABET)
    assert CODEC.read(text, token.deadline - 1) == presented(token)


@pytest.mark.parametrize("position", range(64))
def test_no_character_of_a_token_can_be_another(position: int) -> None:
    for character in (ALPHABET + FOREIGN).replace(TEXT[position], ""):
        changed = TEXT[:position] + character + TEXT[position + 1 :]
        assert CODEC.read(changed, BEFORE) is None, character


def test_no_bit_of_a_token_can_be_another() -> None:
    raw = int.from_bytes(urlsafe_b64decode(TEXT))
    for bit in range(48 * 8):
        changed = urlsafe_b64encode((raw ^ 1 << bit).to_bytes(48)).decode()
        assert CODEC.read(changed, BEFORE) is None, bit


def test_no_byte_of_a_token_can_be_another() -> None:
    raw = urlsafe_b64decode(TEXT)
    for position in range(48):
        for byte in set(range(256)) - {raw[position]}:
            changed = raw[:position] + bytes([byte]) + raw[position + 1 :]
            assert CODEC.read(urlsafe_b64encode(changed).decode(), BEFORE) is None, (position, byte)


def test_a_token_has_one_length() -> None:
    for length in range(64):
        assert CODEC.read(TEXT[:length], BEFORE) is None, length
        assert CODEC.read(TEXT[length + 1 :], BEFORE) is None, length
    for more in (*ALPHABET, *FOREIGN, "====", TEXT, "A" * 1_000_000):
        assert CODEC.read(TEXT + more, BEFORE) is None, more
        assert CODEC.read(more + TEXT, BEFORE) is None, more


def test_the_length_is_checked_before_any_work() -> None:
    text = "A" * 4_000_000
    tracemalloc.start()
    try:
        assert CODEC.read(text, BEFORE) is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


def test_what_verified_is_remembered_and_ends_with_its_deadline_all_the_same() -> None:
    codec = TokenCodec(KeyRing([KEY]), NAME)
    first = codec.read(TEXT, BEFORE)
    assert codec.read("".join(TEXT), BEFORE) is first
    assert codec.read(TEXT, TOKEN.deadline) is None
    assert codec.read(TEXT, BEFORE) is first


def test_so_much_is_remembered_and_no_more_and_nothing_that_does_not_verify() -> None:
    codec = TokenCodec(KeyRing([KEY]), NAME)
    first = codec.read(TEXT, BEFORE)
    for number in range(3 * ROOM):
        assert codec.read(f"{TEXT[:-8]}{number:08}", BEFORE) is None
    assert codec.read(TEXT, BEFORE) is first
    texts = [codec.write(TOKEN._replace(generation=number)) for number in range(ROOM)]
    before = [codec.read(text, BEFORE) for text in texts]
    assert codec.read(TEXT, BEFORE) is not first  # it was the oldest
    assert codec.read(texts[-1], BEFORE) is before[-1]
    assert codec.read(TEXT, BEFORE) == first


def test_a_mac_of_another_length_is_refused() -> None:
    # Whole groups of base64url, so that only the length is wrong: a MAC cut short must not be compared as a prefix.
    raw = urlsafe_b64decode(TEXT)
    for length in (33, 36, 39, 42, 45):
        assert CODEC.read(urlsafe_b64encode(raw[:length]).decode(), BEFORE) is None


def test_foreign_characters_do_not_make_another_spelling() -> None:
    # The decoder skips characters outside its alphabet, so these would decode to the very bytes of a shorter token.
    assert urlsafe_b64decode(TEXT[:60] + "    ") == urlsafe_b64decode(TEXT[:60])
    assert CODEC.read(TEXT[:60] + "    ", BEFORE) is None
    # It takes a second alphabet as well.
    assert urlsafe_b64decode(TEXT.replace("_", "/").replace("-", "+")) == urlsafe_b64decode(TEXT)
    assert CODEC.read(TEXT.replace("_", "/").replace("-", "+"), BEFORE) is None


@pytest.mark.parametrize("version", [0, 2, 0x81, 0xFF])
def test_another_version_is_refused_though_its_mac_is_right(version: int) -> None:
    payload = urlsafe_b64decode(TEXT)[:32]
    assert text_of(payload) == TEXT
    assert CODEC.read(text_of(bytes([version]) + payload[1:]), BEFORE) is None


@pytest.mark.parametrize("name", ["session", "__Host-session2", "__host-session", "__Host-sessio", "token"])
def test_a_token_of_another_cookie_is_refused(name: str) -> None:
    assert TokenCodec(KeyRing([KEY]), name).read(TEXT, BEFORE) is None
    assert CODEC.read(TokenCodec(KeyRing([KEY]), name).write(TOKEN), BEFORE) is None


@pytest.mark.parametrize("purpose", ["data", "anonymous", "Token", "", "toke", "tokens"])
def test_what_was_made_for_another_purpose_is_no_token(purpose: str) -> None:
    assert CODEC.read(text_of(urlsafe_b64decode(TEXT)[:32], purpose=purpose), BEFORE) is None


def test_a_token_of_another_key_is_refused() -> None:
    assert CODEC.read(text_of(urlsafe_b64decode(TEXT)[:32], key=b"k" * 32), BEFORE) is None


def test_a_token_ends_at_its_deadline() -> None:
    assert CODEC.read(TEXT, UNTIL - 0.001) is not None
    assert CODEC.read(TEXT, UNTIL) is None
    assert CODEC.read(TEXT, UNTIL + 1) is None
    assert CODEC.read(TEXT, 0) is not None


@fuzz
@given(
    ANY_TEXT
    | st.text(ALPHABET, max_size=200)
    | st.text(ALPHABET, min_size=64, max_size=64)
    | st.text(ALPHABET + FOREIGN, min_size=64, max_size=64)
    | st.text(st.characters(exclude_categories=()), min_size=64, max_size=64)
)
def test_no_text_raises_or_passes(text: str) -> None:
    assert CODEC.read(text, BEFORE) is None


def test_the_session_id_is_frozen_and_no_sid() -> None:
    assert session_id(bytes(16)).hex() == "40ead945463c6933d3a23141e25ecd8b"
    assert session_id(bytes(range(16))).hex() == "c7e9efa974ace9e0caa058fd65063728"


@fuzz
@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_session_ids_are_as_different_as_their_sids(one: bytes, other: bytes) -> None:
    assert len(session_id(one)) == 16
    assert session_id(one) != one
    assert (session_id(one) == session_id(other)) == (one == other)


def test_the_deadline_is_rounded_up_to_whole_seconds() -> None:
    assert deadline(1000.0, 60) == 1060
    assert deadline(1000.001, 60) == 1061
    assert deadline(1000.0, 59.5) == 1060
