"""What happened in a soak, operation by operation: recorded by the processes that did it, judged by `soak.checker`."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from .result import ROOT

Kind = Literal["write", "increment", "read", "token", "begin", "end"]
Outcome = Literal["ok", "failed", "unknown", "refused"]

KEPT = ROOT / "build" / "soak"
"""Where the histories of the last runs are, for whoever wants to know more about a loss."""


class Operation(NamedTuple):
    """One thing that a client asked of a session, and what came of it.

    Attributes:
        session: which session: that of the cookie that the request carried (for a "begin", and where there was no
            cookie, the one that it began), as the client names it: its own name and a count of the sessions that it
            began. It changes with a log-in and with a log-out, never with a rotation.
        kind: "write" (a key was set, None where it was removed), "increment" (of a key, by value), "read" (a key was
            read, None where there was none), "token" (the client was given a token of generation `value`), "begin" (a
            log-in), "end" (a log-out). A request that did several of these is recorded as several operations.
        key: the key of the session's data; empty for "token", "begin" and "end". It is written or incremented, never
            both.
        value: what was written, added, read or given; of a "begin" the session whose cookie it carried, where that was
            served and its data stay (a visitor's, or the same user's), or None. A text that is written names its
            session and is not written twice, so that whoever reads it knows where it comes from.
        started: when the client sent it, in seconds of one clock for the whole history.
        ended: when the answer had come, and its cookie was in the jar, in seconds of that clock; None if none came.
        outcome: "ok" (acknowledged: a 2xx answer), "failed" (an answer that says that nothing was done), "unknown" (no
            answer, or an error after which it may have happened), "refused" (an empty session was served instead).
    """

    session: str
    kind: Kind
    key: str
    value: int | str | None
    started: float
    ended: float | None
    outcome: Outcome


def dump(operations: Iterable[Operation], path: Path) -> None:
    """Append operations to a file, a JSON line each."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(operation) + "\n" for operation in operations)


def load(*paths: Path) -> Iterator[Operation]:
    """The operations of several files, ordered by when they started."""
    lines = (line for path in paths for line in path.read_text(encoding="utf-8").splitlines())
    yield from sorted((Operation(*json.loads(line)) for line in lines), key=lambda operation: operation.started)


def keep(operations: Iterable[Operation], part: str, directory: Path = KEPT) -> Path:
    """Write the history of a part, in place of that of its last run; returns the file."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{part}.jsonl"
    path.unlink(missing_ok=True)
    dump(operations, path)
    return path
