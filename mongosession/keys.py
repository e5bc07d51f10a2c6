"""The secret keys. One signs, all verify; a domain keeps what was made for one purpose from verifying for another.

MACs are keyed BLAKE2b (RFC 7693) of 128 bits.
"""

import re
from collections.abc import Sequence
from enum import StrEnum
from hashlib import blake2b
from hmac import compare_digest
from itertools import pairwise
from typing import Final, NamedTuple

MAC_BYTES = 16
MIN_KEY_BYTES = 32
_PERSON = b"mongosession"


class Role(StrEnum):
    """Where in the ring a key stands. Keys change in three steps: next everywhere, then primary, then withdrawn."""

    PRIMARY = "primary"
    NEXT = "next"
    OLD = "old"


OLD: Final = Role.OLD  # without a look into the enumeration


class KeyInfo(NamedTuple):
    """What may be said of a key without giving it away.

    Attributes:
        role: where in the ring it stands.
        bytes: how long it is.
        doubt: why it does not look random, or None.
    """

    role: Role
    bytes: int
    doubt: str | None


class KeyRing:
    """One primary key and any number of next and old ones.

    Args:
        keys: the primary key, then the old ones, the newest first. Each is at least 32 bytes (a ``str`` counts as
            UTF-8) of randomness; ``python -m mongosession key`` prints one.
        next_keys: keys that other servers may already sign with. They verify, and never sign.

    Attributes:
        keys: what may be said of each key, in the ring's order: the primary, the old ones, the next ones.

    Raises:
        ValueError: no key, one that is no text or bytes or too short, or one that stands in the ring twice.
    """

    def __init__(self, keys: Sequence[str | bytes], next_keys: Sequence[str | bytes] = ()) -> None:
        if isinstance(keys, str | bytes) or isinstance(next_keys, str | bytes):
            raise ValueError("keys is a single text; it must be a list of keys: keys=[key]")
        if not keys:
            raise ValueError(
                "keys is empty; it must hold at least the primary key (python -m mongosession key prints one)"
            )
        roles = [Role.PRIMARY, *[Role.OLD] * (len(keys) - 1), *[Role.NEXT] * len(next_keys)]
        secrets = [_secret(key, role) for key, role in zip([*keys, *next_keys], roles, strict=True)]
        if len(set(secrets)) < len(secrets):
            where = "keys and next_keys hold" if next_keys else "keys holds"
            raise ValueError(f"{where} the same key twice; each key must stand in the ring once")
        self._ring = list(zip(secrets, roles, strict=True))
        self.keys = [
            KeyInfo(role, len(raw), doubt(raw))
            for raw, role in zip(map(_bytes, [*keys, *next_keys]), roles, strict=True)
        ]

    def signer(self, purpose: str, name: str) -> "Signer":
        """The signer of one domain: what it makes verifies for no other purpose and no other cookie name."""
        domain = f"{purpose}\0{name}".encode()
        return Signer(
            [
                (blake2b(domain, key=secret, digest_size=32, person=_PERSON).digest(), role)
                for secret, role in self._ring
            ]
        )

    def __repr__(self) -> str:
        return f"<KeyRing of {len(self._ring)} keys>"  # never the keys


class Signer:
    """Makes and checks MACs in one domain."""

    def __init__(self, subkeys: Sequence[tuple[bytes, Role]]) -> None:
        # A keyed state is copied for each MAC: the key's block is compressed once, not per request.
        self._states = [(blake2b(key=key, digest_size=MAC_BYTES), role) for key, role in subkeys]

    def sign(self, payload: bytes) -> bytes:
        """The MAC (16 bytes) of a payload under the primary key."""
        state = self._states[0][0].copy()
        state.update(payload)
        return state.digest()

    def verify(self, payload: bytes, mac: bytes) -> Role | None:
        """The role of the key that made this MAC of this payload, or None. The comparison takes constant time."""
        for keyed, role in self._states:
            state = keyed.copy()
            state.update(payload)
            if compare_digest(state.digest(), mac):
                return role
        return None


def _secret(key: str | bytes, role: Role) -> bytes:
    if not isinstance(key, str | bytes):  # None of an environment that lacks it; bytes(64) would be 64 zeros
        raise ValueError(f"the {role} key is of type {type(key).__name__}; it must be str or bytes")
    raw = _bytes(key)
    if len(raw) < MIN_KEY_BYTES:
        raise ValueError(
            f"the {role} key has {len(raw)} bytes; it must have at least {MIN_KEY_BYTES} bytes of randomness "
            "(python -m mongosession key prints one)"
        )
    return raw if len(raw) <= blake2b.MAX_KEY_SIZE else blake2b(raw, person=_PERSON).digest()


def _bytes(key: str | bytes) -> bytes:
    return key.encode() if isinstance(key, str) else key


# Compiled where they are asked for: few processes do.
_WORDS = "(?i:secret|password|change.?me|example|insecure|qwerty|letmein)| "
_ONE_CASE = "[a-z_.:-]+|[A-Z_.:-]+"


def doubt(key: bytes) -> str | None:
    """Why a key does not look random, or None. A guess: it finds keys that people make up, and proves nothing.

    Of the keys that ``python -m mongosession key`` prints it doubts fewer than one in a million.
    """
    if len(set(key)) < 10:
        return f"it is made of {len(set(key))} different characters"
    if key in (key + key)[1:-1]:
        return "it repeats itself"
    neighbours = sum(abs(left - right) <= 1 for left, right in pairwise(key))
    if neighbours > len(key) / 2:
        return "it follows the alphabet"
    text = key.decode("latin-1")
    if text.isprintable() and text.isascii() and (re.search(_WORDS, text) or re.fullmatch(_ONE_CASE, text)):
        return "it reads like words"
    return None
