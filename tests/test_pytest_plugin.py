"""The fixtures for applications' test suites: here, where pytest has found them by itself, and in suites of others."""

import re
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from mongosession import Timeouts
from mongosession.testing import Browser, Events, HandClock, MemoryEngine


@pytest.fixture
def session_settings() -> dict[str, Any]:
    return {"timeouts": Timeouts(idle=900)}


def run(directory: Path, **files: str) -> str:
    """Run a test suite in a process of its own, with every warning an error.

    Returns:
        Its last line: what became of how many tests.
    """
    for name, text in files.items():
        (directory / f"{name}.py").write_text(dedent(text))
    command = (sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    last = [line for line in (done.stdout + done.stderr).splitlines() if line][-1]
    return re.sub(r" in [\d.]+s.*", "", last)


def test_pytest_finds_the_plugin_by_itself() -> None:
    (found,) = metadata.entry_points(group="pytest11", name="mongosession")
    assert found.value == "mongosession_pytest"


def test_a_synchronous_test_has_its_cookie(logged_in: Callable[..., str], session_engine: MemoryEngine) -> None:
    assert re.fullmatch(r"__Host-session=[\w-]{64}", logged_in("user:42"))
    assert session_engine.store.take() == ["create"]


async def test_the_fixtures_belong_together(
    logged_in: Callable[..., str],
    session_engine: MemoryEngine,
    session_clock: HandClock,
    session_events: Events,
    session_browser: Browser,
) -> None:
    assert (await session_engine.open(logged_in("user:42", {"visits": 1}))) == {"visits": 1}
    async with session_browser.visit() as session:
        assert session.verdict == "anonymous"
        session["visits"] = 1
    assert session_events.kinds == ["created", "created"]
    session_clock.advance(899)
    async with session_browser.visit() as session:
        assert session.verdict == "due"
    session_clock.advance(900)
    async with session_browser.visit() as session:
        assert session.verdict == "ended"
    assert session_events.kinds == ["created", "created", "rotated"]
    assert session_engine.clock is session_clock
    assert session_browser.jar.header() is not None
    session_clock.advance(Timeouts().absolute)
    assert session_browser.jar.header() is None  # by the same clock


def test_each_test_begins_anew(session_events: Events, session_engine: MemoryEngine, session_clock: HandClock) -> None:
    assert (len(session_events), session_engine.store.take()) == (0, [])
    assert session_clock() == HandClock()()


def test_a_suite_of_others(tmp_path: Path) -> None:
    outcome = run(
        tmp_path,
        conftest="""
            import pytest

            from mongosession import Cookie
            from mongosession.testing import HandClock


            @pytest.fixture
            def session_settings():
                return {"cookie": Cookie(name="sid", secure=False)}


            @pytest.fixture
            def session_clock():
                return HandClock(1_800_000_000)
        """,
        test_shop="""
            import pytest


            def test_settings_of_ones_own(logged_in, session_clock, session_events):
                assert logged_in("user:42").startswith("sid=")
                assert session_clock() == 1_800_000_000
                assert session_events.kinds == ["created"]


            class TestOneCase:
                seen = []

                @pytest.fixture
                def session_settings(self, session_settings):
                    return session_settings | {"on_event": self.seen.append}

                def test_of_ones_own_events(self, logged_in, session_events):
                    logged_in("user:42")
                    assert (session_events, [event.kind for event in self.seen]) == ([], ["created"])


            @pytest.mark.anyio
            @pytest.mark.parametrize("anyio_backend", ["asyncio"])
            async def test_asynchronous(session_browser):
                async with session_browser.visit() as session:
                    session["basket"] = ["tea"]
                assert session_browser.jar.header().startswith("sid=")
        """,
    )
    assert outcome == "3 passed"


def test_a_clock_among_the_settings_is_told_where_it_belongs(tmp_path: Path) -> None:
    outcome = run(
        tmp_path,
        test_clock="""
            import pytest

            from mongosession.testing import HandClock


            @pytest.fixture
            def session_settings():
                return {"clock": HandClock()}


            def test_it(request):
                with pytest.raises(ValueError, match="override the fixture session_clock instead"):
                    request.getfixturevalue("session_engine")
        """,
    )
    assert outcome == "1 passed"


def test_a_suite_without_sessions_does_not_pay(tmp_path: Path) -> None:
    outcome = run(
        tmp_path,
        test_untouched="""
            import sys


            def test_what_pytest_has_imported():
                assert "mongosession_pytest" in sys.modules
                assert not {"mongosession", "mongosession.engine", "pymongo", "bson", "motor"} & sys.modules.keys()
        """,
    )
    assert outcome == "1 passed"


def test_the_library_needs_no_pytest() -> None:
    script = "import sys; sys.modules['pytest'] = None; import mongosession.testing"
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


def test_the_page_on_testing_runs_as_it_stands(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs/testing.md").read_text()
    files = dict(re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```", page, re.DOTALL | re.MULTILINE))
    assert len(files) == page.count("```python")
    tests = sum(len(re.findall(r"^ *(?:async )?def test_", text, re.MULTILINE)) for text in files.values())
    assert run(tmp_path, **files) == f"{tests} passed"
