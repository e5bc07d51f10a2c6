"""What has to hold for any bytes. Each target takes bytes, makes of them what it needs, and raises where something is
wrong. None of them opens a connection, imports what the bytes name, or writes a file."""

import os
import re
import zlib
from base64 import urlsafe_b64encode
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar
from unittest import mock

import bson
from bson.code import Code
from click.testing import CliRunner

from mongosession import MongoStore, SessionEngine, StoreUnavailable, commands, cookies
from mongosession.errors import DataError
from mongosession.events import Verdict
from mongosession.keys import KeyRing
from mongosession.memory import MemoryStore
from mongosession.policy import Timeouts
from mongosession.signed import MAX_DATA, Signed, SignedCodec
from mongosession.signed import VERSION as SIGNED_VERSION
from mongosession.store import Record
from mongosession.testing import HandClock, MemoryEngine
from mongosession.tokens import VERSION, Token, TokenCodec
from mongosession.values import (
    EMPTY,
    MAX_DEPTH,
    decode_name,
    dump,
    element_size,
    encode_name,
    load,
    load_safely,
    plain_encoding,
    plainly_encoded,
    prepare,
)

KEY = "the-one-key-that-no-message-may-hold"
PASSWORD = "a-password-no-message-may-hold"
NAME = "__Host-session"
NOW = 4_000_000_000.0
RING = KeyRing([KEY])
TOKENS = TokenCodec(RING, NAME)
DATA = SignedCodec(RING, NAME, Timeouts())

T = TypeVar("T")


class Target(NamedTuple):
    """Something that is fuzzed.

    Attributes:
        check: raises where something is wrong with these bytes.
        seeds: bytes that get far, to begin with.
        longest: how many bytes are tried at most.
        words: texts that are worth trying, for the fuzzer's dictionary.
    """

    check: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    longest: int = 1024
    words: tuple[bytes, ...] = ()


def finish(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits, as none of a memory store does."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("it waits")


def base64url(raw: bytes) -> str:
    """Without padding, as cookies hold it."""
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


# ---------------------------------------------------------------------------------------------------- the Cookie header

TOKEN = Token(bytes(16), 7, 3, int(NOW) + 1000)
OURS = TOKENS.write(TOKEN)
VISITORS = DATA.write(Signed(bytes(range(16)), NOW, NOW, dump({"basket": ["tea"]}))) or ""


ENGINES = {each: MemoryEngine(keys=[KEY], anonymous=each, clock=HandClock(NOW)) for each in ("database", "cookie")}


def header(data: bytes) -> None:
    """Whatever the headers are, nothing is raised; and without something that verifies the store is not asked."""
    headers = data.decode("latin-1").split("\n")  # servers decode them so; a line is a header
    found = cookies.read(headers, NAME)
    assert found == [value for each in headers for value in cookies.read(each, NAME)]
    assert found == cookies.read("; ".join(headers), NAME)
    for value in found:
        assert ";" not in value
        assert cookies.read(f"a=b;{NAME}={value}", NAME) == [value]
    for anonymous, engine in ENGINES.items():
        session = finish(engine.open(headers))
        calls = engine.store.take()
        match session.verdict:
            case Verdict.ANONYMOUS:
                assert not found
                assert not calls
            case Verdict.INVALID:
                assert found
                assert not calls
            case Verdict.ENDED:  # there is no document
                assert calls == ["load"]
                assert OURS in found
            case Verdict.CURRENT:
                assert not calls
                assert anonymous == "cookie"
                assert VISITORS in found
            case verdict:
                raise AssertionError(verdict)


# ---------------------------------------------------------------------------------------------- tokens, signed sessions


def token(data: bytes) -> None:
    """Only what was written is read, and in one spelling; a payload that verifies is a token or none, and no error.

    The first byte says whether the rest is the text itself or a payload that is signed here: no fuzzer finds a MAC.
    """
    if not data:
        return
    if data[0] & 1:
        payload = data[1:33].ljust(32, b"\0")
        text = base64url(payload + RING.signer("token", NAME).sign(payload))
        presented = TOKENS.read(text, NOW)
        assert (presented is not None) is (payload[0] == VERSION and int.from_bytes(payload[27:32]) > NOW)
    else:
        text = data[1:].decode("utf-8", "surrogateescape")
        presented = TOKENS.read(text, NOW)
        assert (presented is not None) is (text == OURS)
    if presented is not None:
        assert TOKENS.write(presented.token) == text
        assert presented.token.deadline > NOW
    assert DATA.read(text) is None


def signed(data: bytes) -> None:
    """Whatever verifies is a session or none, within bounds, and no error; what is read can be written and read again.

    The first byte says what the rest is: the text itself, a payload, BSON, or BSON to be deflated.
    """
    if not data:
        return
    kind, rest = data[0] % 4, data[1:]
    signer = RING.signer("data", NAME)
    if kind == 0:
        text = rest.decode("utf-8", "surrogateescape")
    else:
        payload = rest
        if kind > 1:
            flags = rest[0] & 0xFE if rest else 0
            body = rest[1:]
            if kind == 3:
                deflater = zlib.compressobj(1, zlib.DEFLATED, -12)  # without our dictionary: that it need not be used
                flags, body = flags | 1, deflater.compress(body) + deflater.flush()
            payload = bytes([SIGNED_VERSION, flags]) + bytes(28) + body
        text = base64url(payload + signer.sign(payload))
    opened = DATA.read(text)
    if opened is None:
        return
    assert kind != 0 or text == VISITORS
    session, _, _, content, _ = opened
    assert len(session.data) <= MAX_DATA
    assert load(session.data).keys() == content.keys()
    written = DATA.write(session)
    if written is not None:
        again = DATA.read(written)
        assert again is not None
        assert repr(again[0]) == repr(session)  # times that are not a number differ from themselves
        assert again[0].data == session.data
    stored_again(content)
    assert TOKENS.read(text, NOW) is None


def stored_again(content: dict[str, Any]) -> None:
    """Data that were read go into the database at the log-in, or are refused by name; nothing else is raised."""
    try:
        raw = dump({encode_name(key): prepare(key, value) for key, value in content.items()})
    except DataError:
        return
    assert encodings(load(raw)) == encodings(content)


def encodings(content: dict[str, Any]) -> dict[str, bytes]:
    """A form in which data are equal where MongoDB holds the same; not a number is itself there."""
    return {key: dump({"": prepare(key, value)}) for key, value in content.items()}


# ---------------------------------------------------------------------------------------------------------------- names


def name(data: bytes) -> None:
    """Every key has a field name of its own that MongoDB takes, at every level, and comes back. Any bytes are data or
    none."""
    try:
        keys = data.decode("utf-16-le", "surrogatepass").split("\n")
    except UnicodeDecodeError:  # half a character at the end
        keys = data.decode("latin-1").split("\n")
    for key in keys:
        field = encode_name(key)
        assert field
        assert not re.search("[.$\0]", field)
        assert field.encode().decode() == field  # no half of a surrogate pair
        assert decode_name(field) == key
        decode_name(key)  # whatever a database holds
        for value in (key, len(data), hash(data), None, True):
            size = element_size(field, value)
            assert size is None or size == len(dump({field: value})) - len(EMPTY)
    assert len({encode_name(key) for key in keys}) == len(set(keys))
    nested = {key: {key: [{key: key.encode("utf-8", "surrogatepass")}], "%": len(data)} for key in keys}
    raw = dump({encode_name(key): prepare(key, value) for key, value in nested.items()})
    assert load(raw) == nested
    assert load_safely(raw) == nested
    assert not plainly_encoded(raw) or plain_encoding(nested) == raw
    content = load_safely(data)
    if content is not None:
        stored_again(content)


# ------------------------------------------------------------------------------------ the environment, the command line


def settings_of(data: bytes) -> tuple[list[str], dict[str, str]]:
    """Lines: those that begin with ``NAME=`` in capitals are variables, the others arguments."""
    lines = data.replace(b"\0", b"").decode("utf-8", "surrogateescape").split("\n")
    variables = {}
    arguments = []
    for line in lines:
        variable = re.fullmatch("([A-Z_]+)=(.*)", line, re.DOTALL)
        if variable is None:
            arguments.append(line)
        else:
            variables[f"MONGOSESSION_{variable[1]}"] = variable[2]
    return arguments, variables


def elsewhere(secret: str, variables: Mapping[str, str], arguments: Sequence[str] = ()) -> bool:
    """Whether a secret stands where none belongs: no message can know that it is one."""
    keys = ("MONGOSESSION_KEYS", "MONGOSESSION_NEXT_KEYS")
    others = [name + value for name, value in variables.items() if name not in keys]
    return any(secret in "".join(each.split()) for each in (*others, *arguments))  # as it is looked for below


def environment(data: bytes) -> None:
    """Settings make sense or are a ``ValueError`` that tells no key; and what they make of a cookie is one header."""
    _, variables = settings_of(data)
    keys = {"MONGOSESSION_KEYS": KEY}
    try:
        engine = SessionEngine.from_env(MemoryStore(), keys | variables)
    except ValueError as error:
        if KEY in str(error) and not elsewhere(KEY, variables):
            raise AssertionError("the message holds a key") from error
        return
    cookie = engine.cookie
    for line in (cookies.render(cookie, OURS, 60), cookies.remove(cookie)):
        assert line.isascii()
        assert line.isprintable()
        first, *attributes = line.split("; ")
        names = [each.partition("=")[0] for each in attributes]
        assert line.count(";") == len(attributes)
        assert cookies.read(first, cookie.name)
        assert len(set(names)) == len(names)
        assert set(names) <= {"Max-Age", "Expires", "Path", "Domain", "HttpOnly", "Secure", "SameSite", "Partitioned"}


class Nowhere(MongoStore):
    """A store whose database is away: the command line up to its first command."""

    async def load(self, id: bytes) -> Record | None:
        raise StoreUnavailable("away")


def command_line(data: bytes) -> None:
    """Every command line ends with one of the documented codes, and prints neither a key nor an address's password."""
    arguments, variables = settings_of(data)
    variables.pop("MONGOSESSION_ENGINE", None)  # would import, and call, whatever it names
    if any("engine" in each for each in arguments):
        return
    uri = variables.get("MONGOSESSION_URI", "")
    environ = {each: None for each in os.environ if each.startswith("MONGOSESSION_")} | variables
    with mock.patch.object(commands, "MongoStore", Nowhere):
        result = CliRunner().invoke(commands.cli, arguments, env=environ)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (0, 1, 2, 3)
    assert "Traceback" not in result.output
    printed = "".join(result.output.split())
    if not elsewhere(KEY, variables, arguments):
        assert KEY not in printed
    if re.fullmatch(rf"mongodb://\w+:{PASSWORD}@.*", uri, re.DOTALL) and data.count(PASSWORD.encode()) == 1:
        assert PASSWORD not in printed


def bson_of(**data: Any) -> bytes:
    """The body of a document, as signed sessions hold it: without length and end."""
    return bson.encode(data)[4:-1]


def nested(depth: int) -> dict[str, Any]:
    return {"a": nested(depth - 1)} if depth else {}


ALL_SORTS = bson_of(
    text="tea", number=1, half=0.5, yes=True, nothing=None, raw=b"%", list=[1, {"%2E": 2}], code=Code("x", {"a": 1})
)

TARGETS = {
    "header": Target(
        header,
        (
            f"a=b; {NAME}={OURS}; c=d".encode(),
            f"{NAME}={VISITORS}\n{NAME}={VISITORS}".encode(),
            f"{NAME}={OURS}; {NAME}={VISITORS}".encode(),
            f'$Version=1; a="x; {NAME}={OURS[:-1]}; b="'.encode(),
            b"; ;=; = ;\t=\t",
        ),
        words=(NAME.encode(), b"; ", b"=", OURS.encode(), VISITORS.encode()),
    ),
    "token": Target(
        token,
        (
            b"\0" + OURS.encode(),
            b"\0" + OURS.encode() + b"=",
            b"\1" + bytes([VERSION]) + bytes(26) + b"\0\xee\x6b\x2f\0",
            b"\1" + bytes([VERSION]) + b"\xff" * 31,
        ),
        longest=160,
    ),
    "signed": Target(
        signed,
        (
            b"\0" + VISITORS.encode(),
            b"\1" + bytes([SIGNED_VERSION, 12]) + bytes(28) + ALL_SORTS,
            b"\2\0" + ALL_SORTS,
            b"\2\4" + bytes(8) + ALL_SORTS,
            b"\3\0" + ALL_SORTS,
            b"\3\0" + bson_of(**nested(MAX_DEPTH + 1)),
            b"\3\0" + bson_of(big="x" * 2000),
        ),
        longest=4096,
    ),
    "name": Target(
        name,
        (
            "a.b\n$set\n%\n\n%2E\n\0\n%u".encode("utf-16-le"),
            "\ud800\n\udc00\n\ud800\udc00\n%uD800".encode("utf-16-le", "surrogatepass"),
            bson.encode({"%2E": {"%": 1}, "a%24": [b"%25"]}),
        ),
        longest=512,
        words=tuple(each.encode("utf-16-le") for each in ("%", "%2E", "%24", "%00", "%uD800", ".", "$", "\n")),
    ),
    "environment": Target(
        environment,
        (
            b"TTL=60\nWINDOW=4\nGRACE=0\nON_COPIED=refuse\nIDLE=900\nABSOLUTE=3600\nMAX_DATA=1000\nMAX_SESSIONS=none",
            b"COOKIE_NAME=shop\nCOOKIE_PATH=/a\nCOOKIE_DOMAIN=a.example\nCOOKIE_SECURE=no\nCOOKIE_PARTITIONED=yes",
            b"COOKIE_SAME_SITE=none\nCOOKIE_PERSISTENT=off\nANONYMOUS=cookie\nWRITE=after_response\nTTL=never",
            b"KEYS=short\nNEXT_KEYS=\xff\xfe",
            f"KEYS={KEY}, {KEY}\nNEXT_KEYS={KEY} x".encode(),
        ),
        words=(KEY.encode(), b"KEYS=", b"COOKIE_NAME=", b"COOKIE_PATH=/", b"__Host-", b"none", b"never", b"TTL="),
    ),
    "command_line": Target(
        command_line,
        (
            b"key\n--json",
            b"list\nuser:42\n--uri\nmongodb://localhost\n--collection\nshop.sessions\n--json",
            b"revoke\n--subject\nann\n--yes\nURI=mongodb://localhost\nCOLLECTION=shop.sessions",
            b"revoke\n--all\n--dry-run\nCOLLECTION=shop\nURI=mongodb://localhost",
            b"revoke\n0123456789abcdef0123456789ABCDEF\n--yes\n--json\nURI=mongodb+srv://a.example\nCOLLECTION=a.b",
            f"check\nCOLLECTION=a.b\nKEYS={KEY}\nTTL=60\nURI=mongodb://ann:{PASSWORD}@localhost/?w=1".encode(),
            b"setup\n--clustered\n--help",
            b"stats\n--collection\n\xff.\xfe\n--uri\n\xe2\x80\xae",
        ),
        words=(b"--uri\n", b"--collection\n", b"--json\n", b"URI=mongodb://", b"COLLECTION=", b"KEYS=", KEY.encode()),
    ),
}
