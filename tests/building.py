"""What the tests of the pure rooms share: records, tokens and sessions, made without an engine and without a store."""

from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from mongosession.events import Verdict
from mongosession.policy import Rotation, Timeouts
from mongosession.rotation import Judgement, judge
from mongosession.session import Session
from mongosession.store import Record
from mongosession.tokens import Token, deadline, session_id
from mongosession.tracker import Tracker
from mongosession.values import dump, encode, encode_name, prepare

Change = Callable[[Session], object]
"""Something that a handler does to its session."""


class Later:
    """Calls of a session's methods, to be made later: ``do.increment("n")`` is ``lambda s: s.increment("n")``."""

    def __getattr__(self, method: str) -> Callable[..., Change]:
        return lambda *arguments, **named: lambda session: getattr(session, method)(*arguments, **named)


do = Later()

NOW = 4_000_000_000.0
SID = bytes(range(16))
EPOCH = 0x0BADCAFE
GENERATION = 20
AGE = 60.0
"""Seconds since the session below was created."""

ANY_TEXT: st.SearchStrategy[str] = st.text(st.characters(exclude_categories=()) | st.sampled_from("%.$\0\ud800uD25"))
"""Text as Python allows it, halves of surrogate pairs too, and rich in what an encoding of names has to escape."""

fuzz = settings(max_examples=200, deadline=None)
"""For properties: no deadline, since a busy machine is no fault of the code."""


def stored(data: Mapping[str, Any]) -> bytes:
    """Data as a record holds them."""
    return dump({encode_name(key): prepare(key, value) for key, value in data.items()})


def alike(data: Mapping[str, Any]) -> dict[str, bytes]:
    """A form in which two mappings are equal exactly where MongoDB would hold the same: True is not 1 there."""
    return {key: encode(key, prepare(key, value)) for key, value in data.items()}


def a_record(data: Mapping[str, Any] | None = None, **fields: Any) -> Record:
    """A session that was created a minute ago, and used and rotated a second ago."""
    record = Record(
        id=session_id(SID),
        epoch=EPOCH,
        generation=GENERATION,
        created_at=NOW - AGE,
        renewed_at=NOW - AGE,
        rotated_at=NOW - 1,
        seen_at=NOW - 1,
        expires_at=NOW - 1 + Timeouts().idle,
        data=stored(data or {}),
    )
    return record._replace(**fields)


def a_token(**fields: Any) -> Token:
    """The newest token of that session."""
    return Token(SID, EPOCH, GENERATION, deadline(NOW - AGE, Timeouts().absolute))._replace(**fields)


def a_session(
    data: Mapping[str, Any] | None = None,
    *,
    record: Record | None = None,
    token: Token | None = None,
    rotation: Rotation = Rotation(),  # noqa: B008  # frozen values
    timeouts: Timeouts = Timeouts(),  # noqa: B008
    large_body: bool = False,
    **about: Any,
) -> Session:
    """The session of a request that presented a token, judged as the engine does.

    Args:
        data: what the session holds; for the default record.
        record: the document, if not the default one.
        token: the presented token, if not the newest one.
        rotation: how it is judged.
        timeouts: how it is judged.
        large_body: how it is judged.
        about: further arguments of ``Tracker``.
    """
    record, token = record or a_record(data), token or a_token()
    judged = judge(token, record, now=NOW, rotation=rotation, timeouts=timeouts, large_body=large_body)
    opens = judged.verdict not in (Verdict.ENDED, Verdict.LATE, Verdict.COPIED)
    return Session(Tracker(judged, record=record if opens else None, token=token, **about))


def no_session(verdict: Verdict = Verdict.ANONYMOUS, **about: Any) -> Session:
    """The session of a request that holds none."""
    return Session(Tracker(Judgement(verdict, NOW), **about))


def always(byte: bytes) -> Callable[[int], bytes]:
    """A source of chance that gives nothing but this byte."""
    return lambda length: byte * length
