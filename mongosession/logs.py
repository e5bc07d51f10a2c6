"""Events go to the application's callback, and as structured records to ``logging.getLogger("mongosession")``.

Each record's message is readable, and its ``session_event`` attribute is the ``Event`` itself, for formatters that
write JSON. Neither holds a token. A flood of one kind is cut in the log: somebody who presents the same dead cookie a
thousand times a second must neither fill the disk nor hide what else there is. The callback gets every event.
"""

import logging
import traceback
from collections.abc import Callable
from inspect import iscoroutine, iscoroutinefunction
from typing import Any

from mongosession.events import Event, EventKind

logger = logging.getLogger("mongosession")

LIMIT = 10
"""How many records of one kind are logged within ``SECONDS``."""

SECONDS = 10.0

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


class _Window:
    """What came of one kind since ``begun``. There is one of each kind at most, so memory is bounded."""

    def __init__(self, begun: float, level: int) -> None:
        self.begun = begun
        self.level = level
        self.logged = 0
        self.held_back = 0


class EventLog:
    """Where the events of one engine go. What the logger's level leaves out costs a comparison, and does not count.

    Args:
        clock: seconds; the engine's own.
        on_event: called with each event; what it raises is logged.

    Raises:
        ValueError: ``on_event`` is no function, or an asynchronous one.
    """

    def __init__(self, clock: Callable[[], float], on_event: Callable[[Event], object] | None = None) -> None:
        if on_event is not None:
            _check(on_event)
        self._clock = clock
        self._on_event = on_event
        self._windows: dict[str, _Window] = {}

    def emit(self, event: Event) -> None:
        """Log an event, as a warning where an operator should look at it, else for debugging; then call back."""
        level = logging.WARNING if event.kind in _WARNINGS else logging.DEBUG
        if self._admits(event.kind, level):
            details = {name: value for name, value in event._asdict().items() if name != "kind" and value}
            text = " ".join(f"{name}={value!r}" for name, value in details.items())
            _log(level, "%s %s", event.kind, text, extra={"session_event": event})
        if self._on_event is None:
            return
        try:
            result = self._on_event(event)
            if iscoroutine(result):  # of a function that does not look asynchronous from without
                result.close()
                raise TypeError("on_event returned a coroutine, which nobody awaits; it must do its work at once")
        except Exception:  # noqa: BLE001  # whatever it is, it must not hurt the request
            if self._admits("on_event raised", logging.ERROR):
                _log(
                    logging.ERROR,
                    "on_event raised for %s",
                    event.kind,
                    exc_info=True,
                    extra={"session_event": event},
                )

    def close(self) -> None:
        """Say what was held back and not said yet."""
        windows, self._windows = self._windows, {}
        for kind, window in windows.items():
            _sum_up(kind, window)

    def _admits(self, kind: str, level: int) -> bool:
        if not logger.isEnabledFor(level):
            return False
        now = self._clock()
        for each, window in list(self._windows.items()):
            if not 0 <= now - window.begun < SECONDS:  # it has passed, or the clock was set back
                del self._windows[each]
                _sum_up(each, window)
        window = self._windows.setdefault(kind, _Window(now, level))
        if window.logged == LIMIT:
            window.held_back += 1
            return False
        window.logged += 1
        return True


def _sum_up(kind: str, window: _Window) -> None:
    if window.held_back:
        details = {"session_event_kind": kind, "session_events_held_back": window.held_back}
        _log(window.level, "%d more `%s` events were not logged", window.held_back, kind, extra=details)


def _log(level: int, message: str, *values: object, **how: Any) -> None:
    """Log, in the midst of a request that a handler or a filter of the application's must not hurt either: those of the
    standard library raise nothing; others might, and then the token of a log-in would never reach its browser."""
    try:
        logger.log(level, message, *values, **how)
    except Exception:  # noqa: BLE001  # whatever it is
        if logging.raiseExceptions:  # as the standard library's handlers have it
            traceback.print_exc()


def _check(on_event: object) -> None:
    if not callable(on_event):
        raise ValueError(f"on_event is {on_event!r}; it must be a function that takes an Event, or None")
    if iscoroutinefunction(on_event) or iscoroutinefunction(type(on_event).__call__):
        raise ValueError(
            f"on_event is {on_event!r}, an async function; it must be a plain one: nobody would await it. "
            "What takes long goes to a queue or a task: on_event=queue.put_nowait"
        )
