"""The rules of rotation. Every verdict is given here, by one pure function; nothing else in the package judges a token.

``g`` and ``epoch`` are the token's; ``G``, ``EPOCH``, ``rotated_at``, ``renewed_at`` the document's. ``d = G - g``;
``due = now - rotated_at >= ttl``. ``K`` newest tokens open the session. The first row that fits decides.

    1  no document, past the idle or the absolute timeout, or revoked         ended
    2  epoch != EPOCH, less than lateness after renewed_at                    late
    3  epoch != EPOCH                                                         ended
    4  g > G               ahead     generation g is written again: a failover rolled it back. No token.
    5  d == 0, not due     current   nothing
    6  d == 0, due         due       generation g + 1 is written, then its token sent
    7  0 < d < window      behind    when due, token g + 1 is sent (an answer was lost); the document does not move
    8  window <= d < K     behind    token G is sent: the cookie jar fell back
    9  d >= K, large body  late      a proxy may have held the request back for as long as the upload took
    10 d >= K              copied    two parties hold the session

Why so:

- A generation is minted only for a request that presents the newest token: the client is known to have it. Parallel
  requests mint one between them, lost answers mint none.
- A client that is behind moves one step at a time, and the document does not move for it; otherwise a thief who polls
  would be kept up to date for ever.
- A small distance proves no theft. What counts is how much activity has passed since; generations are at least one
  ttl apart, so K covers the grace. A pause counts for nothing and the clocks of servers need not agree.
- The epoch ends the tokens from before a log-in at once, with no window.

(The rows for "no cookie" and "does not verify" need no document: the engine gives them without asking.)
"""

from typing import TYPE_CHECKING, NamedTuple, Protocol

from mongosession.events import Verdict
from mongosession.policy import DAY, Rotation, Timeouts
from mongosession.store import DESTROYED, Record
from mongosession.tokens import Token

if TYPE_CHECKING:

    class Lasting(Protocol):
        """What a session's end depends on: of a document, or of a session that lives in its cookie."""

        @property
        def created_at(self) -> float: ...
        @property
        def seen_at(self) -> float: ...
        @property
        def idle(self) -> float | None: ...


TOUCHES = 10
"""The time of the last request is written this many times per idle timeout at most."""


class Judgement(NamedTuple):
    """What a presented token is worth.

    Attributes:
        verdict: the word.
        now: when it was judged, seconds since 1970; the time that its writes carry.
        behind: how many generations the token is behind the document; negative where ahead.
        mint: generation that must be written, or None.
        offer: generation whose token may be sent once the database has confirmed it, or None.
        fell_back: the token is older than the window.
        clock_broken: ``rotated_at`` lies more than a day in the future and must be set plainly.
    """

    verdict: Verdict
    now: float
    behind: int = 0
    mint: int | None = None
    offer: int | None = None
    fell_back: bool = False
    clock_broken: bool = False

    @property
    def opens(self) -> bool:
        """Whether the request holds the session."""
        return self.verdict in _OPENING

    def done(self) -> "Judgement":
        """The same, once nothing of it is left to be written or sent."""
        verdict, now, behind, _, _, fell_back, broken = self
        return tuple.__new__(Judgement, (verdict, now, behind, None, None, fell_back, broken))

    @property
    def acts(self) -> bool:
        """Whether there is a generation to write, or a token to send."""
        return self.mint is not None or self.offer is not None

    @property
    def odd(self) -> bool:
        """Whether it raises an event."""
        return self.fell_back or self.verdict in _ODD


# What most requests need, without a look into the enumeration.
AHEAD, CURRENT, DUE = Verdict.AHEAD, Verdict.CURRENT, Verdict.DUE
_ODD = frozenset({Verdict.COPIED, Verdict.LATE})
_OPENING = frozenset({Verdict.AHEAD, Verdict.CURRENT, Verdict.DUE, Verdict.BEHIND})


def plainly(verdict: Verdict, now: float) -> Judgement:
    """A judgement after which there is nothing to write and nothing to send; in fewer steps than the constructor."""
    return tuple.__new__(Judgement, (verdict, now, 0, None, None, False, False))


# Where nothing is judged, nothing is written that carries the time.
NOBODY = Judgement(Verdict.ANONYMOUS, 0.0)
"""There is no cookie of ours."""

FORGED = Judgement(Verdict.INVALID, 0.0)
"""There are some, and none verifies, or they are of several sessions."""

IN_COOKIE = Judgement(Verdict.CURRENT, 0.0)
"""The session lives in it. One value for all of them: nothing of it is judged."""


def judge(
    token: Token, record: Record | None, now: float, rotation: Rotation, timeouts: Timeouts, large_body: bool = False
) -> Judgement:
    """Judge a token that verified.

    Args:
        token: the presented token.
        record: the document with its session id, or None.
        now: seconds since 1970.
        rotation: how tokens change.
        timeouts: how long sessions live.
        large_body: the request's body is over 64 KiB or of unknown length.
    """
    if record is None or record.reason not in (None, DESTROYED) or now >= expiry(record, timeouts):
        return Judgement(Verdict.ENDED, now)
    if token.epoch != record.epoch:
        return Judgement(Verdict.LATE if now - record.renewed_at < rotation.lateness else Verdict.ENDED, now)

    behind = record.generation - token.generation
    broken = record.rotated_at - now > DAY
    due = rotation.ttl is not None and (broken or now - record.rotated_at >= rotation.ttl)

    if behind < 0:
        return Judgement(Verdict.AHEAD, now, behind, mint=token.generation)
    if behind == 0:
        if not due:
            return plainly(CURRENT, now)
        successor = token.generation + 1
        return tuple.__new__(Judgement, (DUE, now, 0, successor, successor, False, broken))
    if behind < rotation.window:
        return Judgement(Verdict.BEHIND, now, behind, offer=token.generation + 1 if due else None)
    if behind < rotation.accepted:
        return Judgement(Verdict.BEHIND, now, behind, offer=record.generation, fell_back=True)
    return Judgement(Verdict.LATE if large_body else Verdict.COPIED, now, behind)


def expiry(session: "Lasting", timeouts: Timeouts) -> float:
    """When a session ends if nobody uses it, seconds since 1970: where ``now >= expiry(...)`` it has ended."""
    idle = timeouts.idle if session.idle is None else session.idle
    unused, end = session.seen_at + idle, session.created_at + timeouts.absolute
    return unused if unused < end else end  # noqa: FURB136  # each request asks, and `min` takes five times the steps


def touch_at(record: Record, timeouts: Timeouts) -> float:
    """When the time of the last request is due to be written again, or the session has ended: seconds since 1970."""
    due = record.seen_at + (timeouts.idle if record.idle is None else record.idle) / TOUCHES
    end = record.created_at + timeouts.absolute
    return due if due < end else end  # noqa: FURB136  # `min` takes five times the steps
