"""What this process has begun to write of late, so that the requests of one page do not all write the same. Pure.

The requests of a page find the token due at once, and each of them would raise the document to the same generation. The
first one does; the others leave it, and answer as a request does whose token is on its way already. Nothing but economy
depends on this memory: a request that is spared does what one does that was lost before its commit, or that may send no
token; and what is forgotten too early is written once more, where it raises nothing.

- What failed is forgotten at once: the next request writes.
- What was confirmed spares only requests that were opened before. Who is opened later and finds the token due all the
  same has found that a failover undid the write: it writes.
- What is under way, or was lost from sight, spares nobody for longer than some seconds.
- So much is remembered and no more; the oldest is forgotten first.
"""

from mongosession.plan import Update

SECONDS = 5.0
"""For how long a write that is under way spares the requests that come after it, and those that came before it."""

ROOM = 1024
"""How many writes are remembered: some hundred kilobytes."""

_Key = tuple[bytes, int | None, float | None, bool]


class Begun:
    """Rotations and touches that have begun.

    Args:
        room: how many are remembered, at least 1.
    """

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._spans: dict[_Key, tuple[float, float]] = {}

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._spans)

    def spares(self, update: Update, opened: float) -> bool:
        """Whether a request that was opened then may leave its rotation, or its touch, to one that has begun it.

        Args:
            update: what it would write.
            opened: when it was judged, seconds since 1970.
        """
        span = self._spans.get(_key(update))
        return span is not None and span[0] <= opened <= span[1]

    def begin(self, update: Update, now: float) -> None:
        """A write begins; of one that raises nothing nothing is remembered."""
        if not update.changes.raised:
            return
        self._spans.pop(key := _key(update), None)
        if len(self._spans) >= self._room:
            del self._spans[next(iter(self._spans))]
        self._spans[key] = (now - SECONDS, now + SECONDS)

    def end(self, update: Update, confirmed: float | None) -> None:
        """It is in the database since then; or (None) it failed, or matched nothing."""
        span = self._spans.pop(key := _key(update), None)
        if span is not None and confirmed is not None:
            self._spans[key] = (span[0], confirmed)


def _key(update: Update) -> _Key:
    raised = update.changes.raised
    return update.id, update.epoch, raised.get("generation"), "seen_at" in raised
