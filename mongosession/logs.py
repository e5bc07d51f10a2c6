"""Events as structured log records, under ``logging.getLogger("mongosession")``.

Each record's message is readable, and its ``session_event`` attribute is the ``Event`` itself, for formatters that
write JSON. Neither holds a token.
"""

import logging

from mongosession.events import Event, EventKind

logger = logging.getLogger("mongosession")

_WARNINGS = frozenset(
    {
        EventKind.COPIED,
        EventKind.SEVERAL_COOKIES,
        EventKind.DROPPED_WRITE,
        EventKind.DROPPED_RENEWAL,
        EventKind.DROPPED_DESTROY,
        EventKind.STORE_FAILED,
    }
)


def log(event: Event) -> None:
    """Log an event: warnings for what an operator should look at, else debug."""
    level = logging.WARNING if event.kind in _WARNINGS else logging.DEBUG
    if logger.isEnabledFor(level):
        details = {name: value for name, value in event._asdict().items() if name != "kind" and value}
        text = " ".join(f"{name}={value!r}" for name, value in details.items())
        logger.log(level, "%s %s", event.kind, text, extra={"session_event": event})
