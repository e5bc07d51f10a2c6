"""Token <-> text.

    version 1 | sid 16 | epoch 4 | generation 6 | deadline 5 | MAC 16      48 bytes, 64 characters of base64url

The MAC covers everything before it, in a domain made of the word "token" and the cookie's name. 48 bytes are 64
characters with no bit to spare, so each token has one spelling; any other is refused. A token is derived, not drawn:
whoever has the key makes the same successor.
"""

import binascii
import math
import struct
from binascii import a2b_base64, b2a_base64
from hashlib import blake2b
from typing import NamedTuple

from mongosession.keys import KeyRing, Role
from mongosession.recent import Recent

VERSION = 1
SID_BYTES = 16
EPOCH_BYTES = 4
_PAYLOAD = struct.Struct(">B16sIHIBI")  # generation and deadline in two parts each: 6 and 5 bytes
_PAYLOAD_BYTES = _PAYLOAD.size
_LOW = 0xFFFFFFFF
_TEXT_LENGTH = 64
_SESSION_ID = blake2b(digest_size=16, person=b"session id")  # copied for each
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_STANDARD = bytes.maketrans(b"-_+/", b"+/..")  # the dot is in no alphabet


class Token(NamedTuple):
    """What the cookie holds: the only credential.

    Attributes:
        sid: 16 random bytes that no database holds.
        epoch: which life of the session the token belongs to (32 bits).
        generation: its number within the epoch.
        deadline: the session's absolute end, whole seconds since 1970.
    """

    sid: bytes
    epoch: int
    generation: int
    deadline: int

    def __repr__(self) -> str:
        """Without the sid: reports of errors keep local variables."""
        return f"Token(epoch={self.epoch}, generation={self.generation}, deadline={self.deadline})"


class Presented(NamedTuple):
    """A token that verified.

    Attributes:
        token: what it holds.
        role: that of the key that made it.
        id: the session's.
    """

    token: Token
    role: Role
    id: bytes


ROOM = 1024
"""How many tokens that verified are remembered at most: half a megabyte."""


class TokenCodec:
    """Writes and reads the tokens of one cookie name under one key ring.

    A browser presents a token many times. Those that verified of late are remembered, with what they hold, and not
    verified again: what a text holds depends on nothing but the keys, and those stay. What did not verify is not
    remembered: it would be for its sender to say what is.
    """

    def __init__(self, ring: KeyRing, cookie_name: str) -> None:
        self._signer = ring.signer("token", cookie_name)
        self._recent = Recent[Presented](ROOM)

    def write(self, token: Token) -> str:
        """The text of a token, under the primary key: 64 characters."""
        sid, epoch, generation, until = token
        payload = _PAYLOAD.pack(VERSION, sid, epoch, generation >> 32, generation & _LOW, until >> 32, until & _LOW)
        text = b2a_base64(payload + self._signer.sign(payload), newline=False)
        return text.translate(_URL_SAFE).decode("ascii")

    def read(self, text: str, now: float) -> Presented | None:
        """The token of a text, or None where it does not verify or is past its deadline. Never raises.

        Args:
            text: the cookie's value, as it came.
            now: seconds since 1970.
        """
        if len(text) != _TEXT_LENGTH:  # before any work is spent on it
            return None
        presented = self._recent.get(text)
        if presented is None:
            presented = self._verify(text)
            if presented is None:
                return None
            self._recent.add(text, presented)
        return presented if now < presented.token.deadline else None

    def _verify(self, text: str) -> Presented | None:
        if not text.isascii():
            return None
        try:  # strictly: the decoder would skip foreign characters, and a token has one spelling
            raw = a2b_base64(text.encode("ascii").translate(_STANDARD), strict_mode=True)
        except binascii.Error:
            return None
        payload = raw[:_PAYLOAD_BYTES]
        role = self._signer.verify(payload, raw[_PAYLOAD_BYTES:])
        if role is None:
            return None
        version, sid, epoch, high, low, years, seconds = _PAYLOAD.unpack(payload)
        if version != VERSION:
            return None
        return Presented(Token(sid, epoch, high << 32 | low, years << 32 | seconds), role, session_id(sid))


def session_id(sid: bytes) -> bytes:
    """The document's ``_id``: a hash (BLAKE2b, 128 bits) of the sid. It opens nothing."""
    state = _SESSION_ID.copy()
    state.update(sid)
    return state.digest()


def deadline(created_at: float, absolute: float) -> int:
    """The deadline that a session's tokens carry: its absolute end, rounded up to whole seconds since 1970."""
    return math.ceil(created_at + absolute)
