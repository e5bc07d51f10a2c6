"""Signed session <-> text: sessions that live in the cookie itself. Signed, not encrypted: who has the cookie reads it.

    version 2 | flags 1 | sid 16 | created_at 6 | seen_at 6 | idle 8, where flagged | data | MAC 16

in base64url without padding. Times are milliseconds since 1970, big-endian; ``idle`` is a double. The MAC covers
everything before it, in a domain made of the word "data" and the cookie's name: no token is ever read as data, and no
data as a token. Flags: 1 the data are deflated, 2 an idle timeout follows, 4 ``persistent`` is set, 8 to True.

The data are BSON, less what their length tells: the four bytes of it, and the NUL at the end. BSON alone holds each
type of a session exactly, and its decoder is C that is there anyway. Where that makes them shorter they are deflated
(RFC 1951, raw) against a dictionary of what BSON and sessions repeat.

A value that verifies was signed by somebody who has the key, and by nobody else. What it holds is bounded and checked
all the same: a version to come may sign what this one does not know. Only data that are written again as they stand
there are taken, so no name stands twice.
"""

import struct
import zlib
from binascii import a2b_base64, b2a_base64
from typing import Any, NamedTuple

from mongosession.keys import MAC_BYTES, KeyRing, Role
from mongosession.policy import Timeouts
from mongosession.recent import Recent
from mongosession.rotation import expiry, touch_at
from mongosession.store import Record
from mongosession.tokens import session_id
from mongosession.values import EMPTY, load, load_safely

MAX_COOKIE = 4096
"""Octets of name and value together; a browser drops a longer cookie without a word (RFC 6265bis, 5.6)."""

MAX_DATA = 16 * 1024
"""Bytes of BSON. What deflates further than this into one cookie does not live in one."""

VERSION = 2
_DEFLATED, _IDLE, _PERSISTENCE, _PERSISTENT = 1, 2, 4, 8
_FLAGS = {*range(8), *range(12, 16)}  # 8 comes with 4 only
_HEAD = struct.Struct(">BB16sHIHI")
_DOUBLE = struct.Struct(">d")
_LOW = 0xFFFFFFFF
_SHORTEST_TEXT = -(-(_HEAD.size + MAC_BYTES) * 4 // 3)  # without padding

_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_STANDARD = bytes.maketrans(b"-_+/=", b"+/...")  # the dot is in no alphabet
# What a text ends with, by its length modulo 4: bits that belong to no byte are zero, so each value has one spelling.
_LAST = ("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", "", "AQgw", "AEIMQUYcgkosw048")

_SHORT = 64  # bytes of BSON up to which deflating gains too little for the time it takes
_WINDOW = -12  # 4 KiB, raw: as good as 32 for data of this size, and cheaper to begin
_LEVEL, _MEMORY = 4, 5  # 1 % longer than level 6, in four fifths of the time

# Part of the format: never to be changed under this version. What is frequent stands last (RFC 1950, 2.2).
_DICTIONARY = b"".join(
    (
        b"first_name\0last_name\0address\0street\0city\0postcode\0country\0phone\0email\0comment\0status\0type\0title\0",
        b"description\0image\0url\0path\0code\0source\0campaign\0oauth_state\0state\0nonce\0verifier\0redirect\0next\0",
        b"return_to\0step\0count\0total\0amount\0currency\0EUR\0USD\0timezone\0locale\0language\0en-US\0en-GB\0lang\0",
        b"theme\0light\0dark\0visits\0recent\0last_seen\0created_at\0updated_at\0user_id\0username\0user\0",
        b"_messages\0messages\0message\0success\0warning\0error\0info\0_flashes\0csrf_token\0_csrf_token\0",
        b"basket\0cart\0items\0product_id\0sku\0price\0name\0quantity\0id\0",
        *(b"\x10%d\0" % index for index in range(10)),
        *(b"\0\x02%d\0" % index for index in range(10)),
        *(b"\0\x03%d\0" % index for index in range(20)),
        b"\0\0\0\x040\0\x1c\0\0\0\x020\0\x08\0\0\0\0\x08\x01\x12\0\0\0\0\0\x09\0\x01\0\0\x01\0\0\0\x10id\0\x01\0\0\0\x02id\0",
        b"\x01\0\0\0\x02name\0\x05\0\0\0\0\x10quantity\0\x01\0\0\0\0",
    )
)


# Copied for each value: so the dictionary is taken in once, not per request.
_DEFLATER = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW, _MEMORY, zlib.Z_DEFAULT_STRATEGY, _DICTIONARY)


class Signed(NamedTuple):
    """A session as its cookie holds it.

    Attributes:
        sid: 16 random bytes of its own.
        created_at: start of the absolute timeout, seconds since 1970, exact to the millisecond.
        seen_at: start of the idle timeout, likewise.
        data: the session's data as BSON, names encoded.
        idle: an idle timeout of its own in seconds, or None.
        persistent: whether the cookie outlives the browser, or None: as the cookie's settings say.
    """

    sid: bytes
    created_at: float
    seen_at: float
    data: bytes = EMPTY
    idle: float | None = None
    persistent: bool | None = None

    def __repr__(self) -> str:
        """Without the sid and the data: reports of errors keep local variables."""
        return f"Signed(created_at={self.created_at}, seen_at={self.seen_at}, data of {len(self.data)} bytes)"


Opened = tuple[Signed, Record, float, dict[str, Any], Role]
"""A signed session that verified; what a document would hold of it; when its idle timeout has to be moved; its data,
decoded as ``values.load`` does; and the role of the key that signed it: under an old one it should be signed and sent
again. (A plain tuple: this is made for every request.)"""


ROOM = 1024 * 1024
"""Bytes that remembered sessions take at most: some hundred."""

_OBJECTS = 1024  # bytes that the objects of a remembered session take, however short its text and data are


class SignedCodec:
    """Writes and reads the signed sessions of one cookie name under one key ring.

    A visitor presents a cookie many times. Those that were read or sent of late are remembered, as tokens are: but for
    their data, which each request decodes for itself, they are neither verified nor checked again.

    Args:
        ring: the keys.
        cookie_name: the cookie's; a value is good under no other.
        timeouts: how long the sessions live.
    """

    def __init__(self, ring: KeyRing, cookie_name: str, timeouts: Timeouts) -> None:
        self._signer = ring.signer("data", cookie_name)
        self._longest = MAX_COOKIE - len(cookie_name)  # a cookie's name is ASCII
        self._timeouts = timeouts
        self._recent = Recent[tuple[Signed, Record, float, Role]](ROOM)

    def write(self, signed: Signed) -> str | None:
        """The text of a signed session, under the primary key, or None where it does not fit into a cookie."""
        sid, created_at, seen_at, data, idle, persistent = signed
        if len(data) > MAX_DATA:
            return None
        flags, body, life = 0, data[4:-1], b""
        if len(data) > _SHORT and len(deflated := _deflate(body)) < len(body):
            flags, body = _DEFLATED, deflated
        if idle is not None:
            flags |= _IDLE
            life = _DOUBLE.pack(idle)
        if persistent is not None:
            flags |= _PERSISTENCE | (_PERSISTENT if persistent else 0)
        created, seen = round(created_at * 1000), round(seen_at * 1000)
        head = _HEAD.pack(VERSION, flags, sid, created >> 32, created & _LOW, seen >> 32, seen & _LOW)
        payload = head + life + body
        if (len(payload) + MAC_BYTES) * 4 > self._longest * 3:
            return None
        standard = b2a_base64(payload + self._signer.sign(payload), newline=False)
        return standard.translate(_URL_SAFE, b"=").decode("ascii")

    def read(self, text: str) -> Opened | None:
        """The signed session of a text, or None where it is none. Never raises; whether it has ended is not asked.

        Args:
            text: the cookie's value, as it came.
        """
        if not _SHORTEST_TEXT <= len(text) <= self._longest:  # before any work is spent on it
            return None
        recent = self._recent.get(text)
        if recent is not None:
            signed, record, due, role = recent
            return signed, record, due, load(record.data), role
        opened = self._open(text)
        if opened is None:
            return None
        signed, record, content, role = opened
        return signed, record, self.remember(text, signed, record, role), content, role

    def remember(self, text: str, signed: Signed, record: Record, role: Role = Role.PRIMARY) -> float:
        """Remember what a text holds: the next request with it need not find that out.

        Args:
            text: a text that was read, or that ``write`` has made.
            signed: what it holds.
            record: what a document would hold of it.
            role: of the key that signed it.

        Returns:
            When its idle timeout has to be moved.
        """
        due, size = touch_at(record, self._timeouts), _OBJECTS + len(text) + len(signed.data)
        self._recent.add(text, (signed, record, due, role), size)
        return due

    def _open(self, text: str) -> tuple[Signed, Record, dict[str, Any], Role] | None:
        """What a text holds that is not remembered."""
        length = len(text)
        if text[-1] not in _LAST[length % 4]:
            return None
        try:  # strictly: the decoder would skip foreign characters
            raw = a2b_base64(text.encode("ascii").translate(_STANDARD) + b"=" * (-length % 4), strict_mode=True)
        except ValueError:  # of either
            return None
        payload = raw[:-MAC_BYTES]
        role = self._signer.verify(payload, raw[-MAC_BYTES:])
        if role is None:
            return None
        version, flags, sid, created_high, created_low, seen_high, seen_low = _HEAD.unpack_from(payload)
        if version != VERSION or flags not in _FLAGS:
            return None
        body, idle = payload[_HEAD.size :], None
        if flags & _IDLE:
            if len(body) < _DOUBLE.size:
                return None
            (idle,), body = _DOUBLE.unpack_from(body), body[_DOUBLE.size :]
        if flags & _DEFLATED:
            inflated = _inflate(body)
            if inflated is None:
                return None
            body = inflated
        data = (len(body) + len(EMPTY)).to_bytes(4, "little") + body + b"\0"
        content = load_safely(data)
        if content is None:
            return None
        created_at, seen_at = (created_high << 32 | created_low) / 1000, (seen_high << 32 | seen_low) / 1000
        persistent = bool(flags & _PERSISTENT) if flags & _PERSISTENCE else None
        # In fewer steps than the constructor takes.
        signed = tuple.__new__(Signed, (sid, created_at, seen_at, data, idle, persistent))
        return signed, in_cookie(signed, self._timeouts), content, role


def in_cookie(signed: Signed, timeouts: Timeouts, id: bytes | None = None) -> Record:
    """What a document would hold of a session that lives in its cookie; with its id, where that is known."""
    sid, began, seen_at, data, idle, persistent = signed
    name, end = id or session_id(sid), expiry(signed, timeouts)
    # In the order of the fields: fewer steps than the constructor takes.
    fields = (name, 0, 0, began, began, began, seen_at, end, data, None, idle, persistent, None, None)
    return tuple.__new__(Record, fields)


def _deflate(body: bytes) -> bytes:
    deflater = _DEFLATER.copy()
    return deflater.compress(body) + deflater.flush()


def _inflate(deflated: bytes) -> bytes | None:
    """What was deflated, or None where it is none, more than ``MAX_DATA``, or not the whole of it."""
    inflater = zlib.decompressobj(_WINDOW, _DICTIONARY)
    try:
        body = inflater.decompress(deflated, MAX_DATA)
    except zlib.error:
        return None
    whole = inflater.eof and not inflater.unused_data
    return body if whole and len(body) <= MAX_DATA - len(EMPTY) else None
