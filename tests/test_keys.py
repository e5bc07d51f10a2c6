"""The key ring: one key signs, all verify, and none is ever shown."""

import random
import secrets
import traceback
from base64 import urlsafe_b64encode
from typing import Any

import pytest

from mongosession.keys import KeyRing, Role, Signer, doubt
from mongosession.tokens import Token, TokenCodec

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32
TOKEN = Token(bytes(16), 1, 2, 4_000_000_000)


def codec(*keys: str | bytes, next_keys: tuple[str | bytes, ...] = ()) -> TokenCodec:
    return TokenCodec(KeyRing(keys, next_keys), "session")


def role(by: TokenCodec, of: TokenCodec) -> Role | None:
    """The role under which one server's token verifies at another."""
    presented = by.read(of.write(TOKEN), 0)
    return None if presented is None else presented.role


def signer(*keys: str | bytes, purpose: str = "token", name: str = "session") -> Signer:
    return KeyRing(keys).signer(purpose, name)


def test_macs_are_frozen() -> None:
    assert signer(bytes(range(32)), name="__Host-session").sign(b"payload").hex() == "80a0470d2b7a7d567e2f96d4b85fbf82"
    assert signer("k" * 32, purpose="a", name="b").sign(b"").hex() == "5ce6da469d6b3cf78db4a2d57e835d88"
    assert signer(b"k" * 65, purpose="a", name="b").sign(b"").hex() == "2930863c7b0542c28ab8e632879a100e"


def test_a_key_changes_in_three_steps() -> None:
    before = codec(A)
    announced = codec(A, next_keys=(B,))
    switched = codec(B, A)
    after = codec(B)
    # Whatever mixture of two neighbouring steps is running, each server reads what the other writes.
    assert role(before, announced) is Role.PRIMARY
    assert role(announced, before) is Role.PRIMARY
    assert role(announced, switched) is Role.NEXT
    assert role(switched, announced) is Role.OLD
    assert role(switched, after) is Role.PRIMARY
    assert role(after, switched) is Role.PRIMARY
    # Steps that are not neighbours do not understand each other: a key withdrawn is a key refused.
    assert role(before, switched) is None
    assert role(after, announced) is None


def test_every_old_and_every_next_key_verifies() -> None:
    ring = codec(A, B, C, next_keys=(b"d" * 32, b"e" * 32))
    assert [role(ring, codec(key * 32)) for key in (b"a", b"b", b"c", b"d", b"e", b"f")] == [
        Role.PRIMARY,
        Role.OLD,
        Role.OLD,
        Role.NEXT,
        Role.NEXT,
        None,
    ]


def test_only_the_primary_key_signs() -> None:
    assert codec(A, B, next_keys=(C,)).write(TOKEN) == codec(A).write(TOKEN)


def test_each_domain_has_macs_of_its_own() -> None:
    domains = [("token", "session"), ("token", "session2"), ("tokens", "ession"), ("tok", "ensession"), ("", "token")]
    macs = {signer(A, purpose=purpose, name=name).sign(b"payload") for purpose, name in domains}
    assert len(macs) == len(domains)


def test_a_mac_of_another_length_does_not_verify() -> None:
    mac = signer(A).sign(b"payload")
    assert signer(A).verify(b"payload", mac) is Role.PRIMARY
    for wrong in (b"", mac[:-1], mac + b"\0", mac + mac):
        assert signer(A).verify(b"payload", wrong) is None


def test_a_signer_can_be_used_again() -> None:
    ours = signer(A)
    first = ours.sign(b"one")
    assert ours.sign(b"two") != first
    assert ours.sign(b"one") == first


def test_text_counts_as_utf8() -> None:
    assert role(codec("é" * 16), codec("é".encode() * 16)) is Role.PRIMARY  # 16 characters, 32 bytes


def test_every_byte_of_a_long_key_counts() -> None:
    # BLAKE2b takes keys of up to 64 bytes.
    for length in (63, 64, 65, 200):
        assert role(codec(b"k" * length), codec(b"k" * length)) is Role.PRIMARY
        assert role(codec(b"k" * length), codec(b"k" * (length - 1) + b"x")) is None
        assert role(codec(b"k" * length), codec(b"k" * (length + 1))) is None


@pytest.mark.parametrize(
    ("keys", "next_keys", "parts"),
    [
        ([], (), ["keys is empty", "primary"]),
        (A, (), ["keys", "list"]),
        ("a" * 32, (), ["keys", "list"]),
        ([A], "b" * 32, ["keys", "list"]),
        ([b"a" * 31], (), ["primary key", "31 bytes", "32"]),
        ([""], (), ["primary key", "0 bytes", "32"]),
        ([A, b"b" * 31], (), ["old key", "31 bytes", "32"]),
        ([A], [b"b" * 5], ["next key", "5 bytes", "32"]),
        ([A, A], (), ["same key", "once"]),
        ([A, B, C, B], (), ["same key", "once"]),
        ([A], [A], ["same key", "once"]),
        ([A], [B, B], ["same key", "once"]),
        (["a" * 32, A], (), ["same key", "once"]),
        ([None], (), ["primary key", "NoneType", "str or bytes"]),  # an environment variable that is not set
        ([A, 64], (), ["old key", "int", "str or bytes"]),  # bytes(64) would be 64 zeros
        ([A], [[B]], ["next key", "list", "str or bytes"]),
    ],
)
def test_a_bad_ring_is_refused(keys: Any, next_keys: Any, parts: list[str]) -> None:
    with pytest.raises(ValueError, match="key") as caught:
        KeyRing(keys, next_keys)
    for part in parts:
        assert part in str(caught.value)


def test_no_key_is_ever_shown() -> None:
    secret = "s3cr3t-" * 5
    ring = KeyRing([secret, secret.upper()], [secret + "next"])
    made = (ring, ring.signer("token", "session"), TokenCodec(ring, "session"))
    shown = "".join(f"{each!r} {each!s} {each}" for each in made)
    for bad in ([secret, secret], [secret[:20]], [secret, secret[:20]]):
        with pytest.raises(ValueError, match="key") as caught:
            KeyRing(bad)
        shown += "".join(traceback.format_exception_only(caught.value))
    assert "s3cr3t" not in shown.lower()
    assert repr(ring) == "<KeyRing of 3 keys>"


def test_a_ring_tells_of_its_keys_without_showing_them() -> None:
    ring = KeyRing(["p" * 40, secrets.token_urlsafe(32)], [secrets.token_bytes(80)])
    assert [(each.role, each.bytes) for each in ring.keys] == [("primary", 40), ("old", 43), ("next", 80)]
    assert [each.doubt for each in ring.keys] == ["it is made of 1 different characters", None, None]
    assert "pppp" not in repr(ring.keys)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("k" * 32, "it is made of 1 different characters"),
        ("12345678" * 4, "it is made of 8 different characters"),
        ("0123456789" * 4, "it repeats itself"),
        ("abcdefghijklmnopqrstuvwxyz0123456789", "it follows the alphabet"),
        ("ZYXWVUTSRQPONMLKJIHGFEDCBA9876543210", "it follows the alphabet"),
        ("a secret of at least 32 random bytes", "it reads like words"),
        ("correct-horse-battery-staple-and-more", "it reads like words"),
        ("MySuperSecretKey-1234-vx-81-ab-Q9-7f", "it reads like words"),
    ],
)
def test_keys_that_people_make_up_are_doubted(key: str, expected: str) -> None:
    assert doubt(key.encode()) == expected


def test_random_keys_are_not_doubted() -> None:
    chance = random.Random(1)
    for _ in range(2000):
        raw = chance.randbytes(32)
        assert not {doubt(raw), doubt(raw.hex().encode()), doubt(urlsafe_b64encode(raw).rstrip(b"="))} - {None}
