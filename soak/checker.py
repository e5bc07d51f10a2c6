"""Judges a history of what clients asked of their sessions and what came of it. Pure, and n log n in its length.

    python -m soak.checker build/soak/faults.jsonl --accepted 61 --stale 15     # once more, what a part has recorded

What has to hold, whatever failed meanwhile, as long as acknowledged means by a majority:

- **Last write, by key.** A read shows a write of its session that had been sent before the read was answered, and that
  no acknowledged write had certainly replaced before the read was sent. What shows in one read need not show in the
  next unless it was acknowledged: reads are of what the primary has, and that may be rolled back.
- **Sum of increments.** A read shows no less than what was acknowledged before it was sent, and no more than that and
  everything that may have happened before it was answered.
- **Generations, a max-register.** A token that a client is given is never older than the one that it presented, and of
  a generation n only where the client had been given n - 1: only the newest token is rotated, and who presents it
  has it.
- **Endings.** After an acknowledged log-out, or a log-in that took the session over, nothing of it is served.
- **Refusals.** An empty session in place of the client's own has a reason: an ending, or too many newer tokens.
- **Owners.** Nobody reads what was written in another session.

A write that was answered while its own session was ending may have been dropped, as the protocol says, and counts as
unknown. One operation precedes another if it had been answered before the other was sent.
"""

import argparse
import sys
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import accumulate
from math import inf
from pathlib import Path
from typing import NamedTuple

from .history import Operation, load


class Rule(StrEnum):
    """A promise, named by what its breaches are."""

    LOST = "acknowledged writes lost"
    MISCOUNTED = "counters that do not add up"
    REVERTED = "tokens older than the one presented"
    SKIPPED = "tokens of a generation that nobody had asked for"
    RESURRECTED = "ended sessions served"
    REFUSED = "clients logged out without a reason"
    FOREIGN = "values of another session or of nobody"


class Breach(NamedTuple):
    """A promise that a history shows broken.

    Attributes:
        rule: which one.
        operation: the operation that shows it.
        message: what is wrong with it, for people.
    """

    rule: Rule
    operation: Operation
    message: str


def judge(history: Iterable[Operation], *, accepted: int = 13, stale: float = 0.0) -> list[Breach]:
    """What is wrong with a history, in the order of its operations; nothing where it is as it should be.

    Args:
        history: in any order.
        accepted: how many of the newest tokens open a session (``Rotation.accepted``).
        stale: seconds for which a primary that was cut off or stopped may have answered from the past: so much later
            than promised may an acknowledged write, a beginning or an ending show.

    Raises:
        ValueError: the history is none: a key that is written and incremented, or a session that took over itself.
    """
    lives = _lives(history)
    owners: dict[int | str | None, Operation] = {
        operation.value: operation
        for life in lives.values()
        for operation in life.of("write")
        if isinstance(operation.value, str)
    }
    breaches: list[Breach] = []
    for life in lives.values():
        breaches += _endings(life, stale)
        breaches += _refusals(life, accepted, stale)
        breaches += _tokens(life)
        breaches += _reads(life, lives, owners, stale)
    return sorted(breaches, key=lambda breach: breach.operation.started)


def losses(breaches: Iterable[Breach]) -> dict[str, int]:
    """How often each rule was broken, those with zero that were not: what a `Result` calls losses."""
    counts = dict.fromkeys(map(str, Rule), 0)
    for breach in breaches:
        counts[str(breach.rule)] += 1
    return counts


def describe(operation: Operation) -> str:
    """An operation in words."""
    what = " ".join(str(part) for part in (operation.kind, operation.key, operation.value) if part not in ("", None))
    ended = "never" if operation.ended is None else f"{operation.ended:.3f}"
    return f"{operation.session}: {what} ({operation.started:.3f} to {ended}, {operation.outcome})"


class _Life:
    """One session's operations."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.operations: list[Operation] = []
        self.closers: list[Operation] = []  # which may have ended it: log-outs, and log-ins that took it over
        self.before: str | None = None  # the session that it took over
        self.began = -inf  # when it asked for that

    def of(self, kind: str, *, key: str | None = None) -> list[Operation]:
        return [each for each in self.operations if each.kind == kind and key in (None, each.key)]

    @property
    def closing(self) -> float:
        """From when on it may have been ending."""
        return min((each.started for each in self.closers), default=inf)

    @property
    def closed(self) -> Operation | None:
        """The ending that was acknowledged first."""
        acknowledged = [each for each in self.closers if each.outcome == "ok" and each.ended is not None]
        return min(acknowledged, key=_end, default=None)


def _lives(history: Iterable[Operation]) -> dict[str, _Life]:
    lives: dict[str, _Life] = {}
    for operation in sorted(history, key=lambda each: each.started):
        life = lives.setdefault(operation.session, _Life(operation.session))
        life.operations.append(operation)
        if operation.outcome not in ("ok", "unknown"):
            continue
        if operation.kind == "end":
            life.closers.append(operation)
        elif operation.kind == "begin" and isinstance(operation.value, str):
            lives.setdefault(operation.value, _Life(operation.value)).closers.append(operation)
            life.before, life.began = operation.value, operation.started
    for life in lives.values():
        # A log-out by a cookie from before the log-in ends what came of it, unless it came before the log-in.
        life.closers += [
            each._replace(outcome="unknown")
            for ancestor in _ancestors(life, lives)
            for each in ancestor.of("end")
            if each.outcome in ("ok", "unknown") and _end(each) > life.began
        ]
    return lives


def _ancestors(life: _Life, lives: Mapping[str, _Life]) -> Iterator[_Life]:
    """The sessions that it took over, the latest first."""
    seen = {life.name}
    while life.before is not None:
        if life.before in seen:
            raise ValueError(f"a session cannot take over itself: {life.before}")
        life = lives[life.before]
        seen.add(life.name)
        yield life


def _end(operation: Operation) -> float:
    """When it had been answered."""
    return inf if operation.ended is None else operation.ended


def _later(one: Operation, other: Operation) -> Operation:
    """The one that was sent last."""
    return max(one, other, key=lambda each: each.started)


def _endings(life: _Life, stale: float) -> Iterator[Breach]:
    if (closed := life.closed) is None:
        return
    for each in life.operations:
        if each.outcome == "ok" and each.kind not in ("begin", "end") and each.started - stale > _end(closed):
            yield Breach(Rule.RESURRECTED, each, f"{describe(each)} was served after {describe(closed)}")


def _refusals(life: _Life, accepted: int, stale: float) -> Iterator[Breach]:
    """The first refusal that has no reason: what follows it follows from it."""
    jar = _Jar(life.of("token"))
    for each in life.operations:
        if each.outcome != "refused" or _end(each) > life.closing:
            continue
        presented = jar.held(each.started)
        if jar.held(each.started - stale) is None and presented is not None:
            continue  # it had only just begun
        # The newest generation that there may have been: minted for the newest token, the answer still under way.
        if presented is not None and jar.newest(_end(each)) + 1 - presented >= accepted:
            return  # and it may have been taken for a copy, so that the session ended
        yield Breach(Rule.REFUSED, each, f"{describe(each)}: nothing had ended the session")
        return


def _tokens(life: _Life) -> Iterator[Breach]:
    given = life.of("token")
    jar = _Jar(given)
    for each in given:
        if each.outcome != "ok" or not isinstance(each.value, int):
            continue
        presented = jar.held(each.started)
        if presented is not None and each.value < presented:
            yield Breach(Rule.REVERTED, each, f"{describe(each)}: the client had sent generation {presented}")
        if each.value > 0 and jar.first.get(each.value - 1, inf) > _end(each):
            yield Breach(Rule.SKIPPED, each, f"{describe(each)}: the client had never been given the one before")


class _Jar:
    """What a client's cookie jar held, by time: what came last."""

    def __init__(self, given: Iterable[Operation]) -> None:
        delivered = sorted(
            (_end(each), each.value) for each in given if each.outcome == "ok" and isinstance(each.value, int)
        )
        self._times = [time for time, _ in delivered]
        self._values = [value for _, value in delivered]
        self._newest = list(accumulate(self._values, max))
        self.first = {value: time for time, value in reversed(delivered)}

    def held(self, time: float) -> int | None:
        """The generation that a request of this time carried."""
        index = bisect_right(self._times, time)
        return self._values[index - 1] if index else None

    def newest(self, time: float) -> int:
        """The newest generation that the client had been given."""
        index = bisect_right(self._times, time)
        return self._newest[index - 1] if index else 0


class _Effect(NamedTuple):
    """A write or an increment, and from when on it certainly stands: `inf` if that is not known."""

    operation: Operation
    stands: float


def _reads(
    life: _Life, lives: Mapping[str, _Life], owners: Mapping[int | str | None, Operation], stale: float
) -> Iterator[Breach]:
    reads: defaultdict[str, list[Operation]] = defaultdict(list)
    for each in life.of("read"):
        if each.outcome == "ok":
            reads[each.key].append(each)
    writes = _effects(life, lives, "write")
    increments = _effects(life, lives, "increment")
    for key, shown in reads.items():
        if key in writes and key in increments:
            raise ValueError(f"{life.name}: {key} is written and incremented")
        if key in increments:
            counter = _Counter(increments[key])
            yield from (breach for each in shown for breach in counter.judge(each, stale))
        else:
            register = _Register(writes.get(key, ()), owners)
            yield from (breach for each in shown for breach in register.judge(each, stale))


def _effects(life: _Life, lives: Mapping[str, _Life], kind: str) -> dict[str, list[_Effect]]:
    """What changed the data of a session, by key; what the visitor stored before the log-in included."""
    effects: defaultdict[str, list[_Effect]] = defaultdict(list)
    inherited = True
    for each in (life, *_ancestors(life, lives)):
        # Of several log-ins and log-outs at once one wins; a log-in that does not starts with nothing.
        inherited = inherited and (each is life or len(each.closers) == 1)
        for operation in each.of(kind):
            if operation.outcome in ("ok", "unknown"):
                sure = inherited and operation.outcome == "ok" and _end(operation) < each.closing
                effects[operation.key].append(_Effect(operation, _end(operation) if sure else inf))
    return effects


class _Register:
    """One key that is written: the last write counts."""

    def __init__(self, writes: Sequence[_Effect], owners: Mapping[int | str | None, Operation]) -> None:
        self._owners = owners
        standing = sorted((each for each in writes if each.stands < inf), key=lambda each: each.stands)
        self._stands = [each.stands for each in standing]
        # Of those that stand, the one that was sent last: it replaced whatever had been answered before it was sent.
        self._latest = list(accumulate((each.operation for each in standing), _later))
        by_value: defaultdict[int | str | None, list[_Effect]] = defaultdict(list)
        for each in writes:
            by_value[each.operation.value].append(each)
        self._sent = {value: _Steps((e.operation.started, e.stands) for e in some) for value, some in by_value.items()}

    def judge(self, read: Operation, stale: float) -> Iterator[Breach]:
        stood = -inf if read.value is None else None  # nothing was there from the beginning
        if read.value in self._sent and (since := self._sent[read.value].maximum(_end(read))) is not None:
            stood = since
        if stood is None:
            owner = self._owners.get(read.value)
            whose = "which nobody had written" if owner is None else f"which comes from {describe(owner)}"
            yield Breach(Rule.FOREIGN, read, f"{describe(read)} shows {read.value!r}, {whose}")
            return
        index = bisect_left(self._stands, read.started - stale)
        if index and stood < self._latest[index - 1].started:
            lost = self._latest[index - 1]
            yield Breach(Rule.LOST, read, f"{describe(read)} shows {read.value!r} and not {describe(lost)}")


class _Counter:
    """One key that is incremented."""

    def __init__(self, increments: Sequence[_Effect]) -> None:
        amounts = [(each, each.operation.value) for each in increments if isinstance(each.operation.value, int)]
        self._sent_up = _Steps((each.operation.started, amount) for each, amount in amounts if amount > 0)
        self._sent_down = _Steps((each.operation.started, amount) for each, amount in amounts if amount < 0)
        self._sure_up = _Steps((each.stands, amount) for each, amount in amounts if amount > 0)
        self._sure_down = _Steps((each.stands, amount) for each, amount in amounts if amount < 0)

    def judge(self, read: Operation, stale: float) -> Iterator[Breach]:
        shown = 0 if read.value is None else read.value
        if isinstance(shown, str):
            yield Breach(Rule.FOREIGN, read, f"{describe(read)} shows a text, and it is a counter")
            return
        before, until = read.started - stale, _end(read)
        least = self._sure_up.total(before) + self._sent_down.total(until)
        most = self._sent_up.total(until) + self._sure_down.total(before)
        if not least <= shown <= most:
            yield Breach(Rule.MISCOUNTED, read, f"{describe(read)} shows {shown}; it must be {least:g} to {most:g}")


class _Steps:
    """Amounts by time."""

    def __init__(self, steps: Iterable[tuple[float, float]]) -> None:
        ordered = sorted(steps)
        self._times = [time for time, _ in ordered]
        self._totals = [0.0, *accumulate(amount for _, amount in ordered)]
        self._maxima = list(accumulate((amount for _, amount in ordered), max))

    def total(self, time: float) -> float:
        """The sum of what is earlier than this."""
        return self._totals[bisect_left(self._times, time)]

    def maximum(self, time: float) -> float | None:
        """The largest of what is earlier than this; None where nothing is."""
        index = bisect_left(self._times, time)
        return self._maxima[index - 1] if index else None


def main() -> int:
    """Judge histories that were kept. Returns 1 if a promise was broken."""
    options = argparse.ArgumentParser(prog="python -m soak.checker", description="Judge histories once more.")
    options.add_argument("files", nargs="+", type=Path, metavar="FILE", help="histories, each by itself")
    options.add_argument("--accepted", type=int, default=13, help="how many of the newest tokens open a session")
    options.add_argument(
        "--stale", type=float, default=0.0, help="seconds for which a primary may answer from the past"
    )
    chosen = options.parse_args()
    breaches: list[Breach] = []
    for path in chosen.files:
        history = list(load(path))
        found = judge(history, accepted=chosen.accepted, stale=chosen.stale)
        print(f"{path}: {len(history):,} operations, {len(found)} breaches")
        for breach in found:
            print(f"  {breach.rule}: {breach.message}")
        breaches += found
    return int(bool(breaches))


if __name__ == "__main__":
    sys.exit(main())
