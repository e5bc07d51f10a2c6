"""Sessions for the tests of applications: fixtures of pytest, which finds them by itself (entry point ``pytest11``).

Sessions live in memory, time stands until it is advanced. Nothing of the library is imported before a fixture is used:
test suites without sessions do not pay for them, and that is why this stands outside of the package. A fixture of the
same name in a suite's own conftest.py takes the place of the one here. ``-p no:mongosession`` does without all.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mongosession.testing import Browser, Events, HandClock, MemoryEngine


@pytest.fixture
def session_settings() -> dict[str, Any]:
    """Arguments for the engine, apart from the store: none. To be overridden."""
    return {}


@pytest.fixture
def session_clock() -> "HandClock":
    """The engine's clock: ``session_clock.advance(60)``."""
    from mongosession.testing import HandClock

    return HandClock()


@pytest.fixture
def session_events() -> "Events":
    """What happened, in its order: a list of events, and their ``kinds``."""
    from mongosession.testing import Events

    return Events()


@pytest.fixture
def session_engine(
    session_clock: "HandClock", session_events: "Events", session_settings: dict[str, Any]
) -> "MemoryEngine":
    """An engine over a memory of its own, with the settings of ``session_settings``."""
    from mongosession.testing import MemoryEngine

    if "clock" in session_settings:
        raise ValueError("session_settings holds a clock: override the fixture session_clock instead")
    return MemoryEngine(clock=session_clock, **({"on_event": session_events} | session_settings))


@pytest.fixture
def session_browser(session_engine: "MemoryEngine", session_clock: "HandClock") -> "Browser":
    """A browser that talks to the engine itself, past any application."""
    from mongosession.testing import Browser

    return Browser(session_engine, session_clock)


@pytest.fixture
def logged_in(session_engine: "MemoryEngine") -> Callable[..., str]:
    """``logged_in("user:42", {"basket": ["tea"]})`` is the Cookie header of a new session."""
    return session_engine.logged_in
