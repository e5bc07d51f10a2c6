"""The demo, as a person uses it: its own process, a real mongod, a real browser."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar
from urllib.request import Request, urlopen

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from .test_mongod import has_ended

ROOT = Path(__file__).parent.parent
DEMO = [sys.executable, "-m", "examples.demo"]
COOKIE = "__Host-session"
LATEST_SECONDS = 20
T = TypeVar("T")
# The demo on a platform for which there is no mongod.
WITHOUT_MONGOD = """
import runpy
import mongosession.mongod
mongosession.mongod.find_mongod = lambda: None
runpy.run_module("examples.demo", run_name="__main__", alter_sys=True)
"""


class Demo(NamedTuple):
    """A demo that serves, and what it said at its start."""

    process: subprocess.Popen[str]
    console: str

    @property
    def url(self) -> str:
        address = re.search(r"http://localhost:\d+", self.console)
        assert address is not None
        return address[0]

    def interrupt(self) -> str:
        """Ctrl-C; what the program says from then on."""
        self.process.send_signal(signal.SIGINT)
        said, _ = self.process.communicate(timeout=LATEST_SECONDS)
        return said


@contextmanager
def running(command: list[str], **environment: str) -> Generator[Demo]:
    """The demo on a free port, until the block is left; killed with this process, too."""
    with subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "env", "--default-signal=INT", *command],  # whoever runs this may ignore it
        cwd=ROOT,
        env={**os.environ, "PORT": "0", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            console = ""
            while "Ctrl-C" not in console:
                line = process.stdout.readline()
                assert line, f"it ended: {console}"
                console += line
            yield Demo(process, console)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(DEMO) as demo:
        yield demo.url
        demo.interrupt()


@pytest.fixture
def page(chromium: webdriver.Chrome, url: str) -> Iterator["Page"]:
    """The page in a browser that comes for the first time. It has to stay free of errors."""
    chromium.get(url)
    page = Page(chromium)
    page.wait("verdict", r"current")
    yield page
    assert page.text("trouble") == ""
    assert chromium.get_log("browser") == []  # type: ignore[no-untyped-call]


class Page:
    """What a person sees and does."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def text(self, id: str) -> str:
        return self.driver.find_element(By.ID, id).text

    def click(self, id: str) -> None:
        self.driver.find_element(By.ID, id).click()

    def wait(self, what: str, pattern: str) -> re.Match[str]:
        """Wait until a value in the session, or else the text of an element, matches."""
        return self._wait(lambda: re.fullmatch(pattern, self.data().get(what) or self.text(what)), f"{what}: {pattern}")

    def wait_until_due(self) -> None:
        self._wait(lambda: self.driver.find_elements(By.CSS_SELECTOR, "#ageing.due"), "due")

    def data(self) -> dict[str, str]:
        """What the session holds, as the page says."""
        return dict(self._cells("#data > div"))

    def log(self) -> list[list[str]]:
        """The log, the newest row first: who, request, token, verdict, database, outcome."""
        plain = str.maketrans("\N{MULTIPLICATION SIGN}\N{EN DASH}", "x-")
        return [[cell.translate(plain) for cell in row[1:]] for row in self._cells("#log tr")]

    def cookie(self) -> dict[str, Any]:
        """The session cookie with its attributes; empty if there is none."""
        return self.driver.get_cookie(COOKIE) or {}

    def _cells(self, rows: str) -> list[list[str]]:
        text = "(row) => [...row.children].map((cell) => cell.innerText)"
        script = f"return [...document.querySelectorAll(arguments[0])].map({text})"
        cells: list[list[str]] = self.driver.execute_script(script, rows)
        return cells

    def _wait(self, condition: Callable[[], T | None], what: str) -> T:
        def holds(_: webdriver.Chrome) -> T | Literal[False]:
            return condition() or False

        return WebDriverWait(self.driver, LATEST_SECONDS, poll_frequency=0.05).until(holds, f"not seen: {what}")


def test_visits_count_in_a_cookie_with_every_guard(page: Page) -> None:
    look, first = page.log()
    assert first == ["you", "POST /session/visit", "- → 0", "anonymous", "insert", "created, Set-Cookie"]
    assert look == ["you", "GET /session/look", "0", "current", "find", "no cookie"]
    assert page.data() == {"visits": "1"}
    page.click("visit")
    page.wait("visits", "2")
    page.driver.refresh()
    page.wait("visits", "3")
    page.driver.find_element(By.NAME, "thing").send_keys("milk", Keys.ENTER)
    page.wait("basket", re.escape('["milk"]'))
    cookie = page.cookie()
    assert len(cookie.pop("value")) == 64
    assert cookie.pop("expiry") > 0
    where = {"name": "__Host-session", "domain": "localhost", "path": "/"}
    assert cookie == {**where, "secure": True, "httpOnly": True, "sameSite": "Lax"}


def test_fifty_requests_with_an_old_cookie_lose_nothing_and_log_nobody_out(page: Page) -> None:
    session, token = page.text("id"), page.cookie()["value"]
    page.wait_until_due()
    assert page.cookie()["value"] == token
    page.click("fifty")
    kept = r"50 of 50 keys kept, the counter went up by 50\. (\d+) generations? minted\. Nobody refused\."
    minted = page.wait("fifty-result", kept)[1]
    assert 1 <= int(minted) <= 2  # one, unless the fifty took longer than a ttl
    assert page.text("generation") == minted
    assert page.text("id") == session
    assert page.cookie()["value"] != token
    assert page.data()["marks"] == "50"
    assert len(page.driver.find_elements(By.CSS_SELECTOR, "#marks .kept")) == 50
    _, marks, *_ = page.log()
    assert marks[:3] == ["you", "50 x POST /session/mark/…", f"0 → {minted}"]
    assert marks[4].startswith("find x50, ")


def test_a_token_a_few_generations_old_opens_the_session(page: Page) -> None:
    session = page.text("id")
    page.click("few")
    page.wait("older-result", r"behind Accepted\. .*one of the 13 newest.*")
    look, copy, aged, *_ = page.log()
    assert aged[:2] == ["fast motion", "5 x GET /session/look"]
    assert aged[2:] == ["0 → 5", "due x5", "find x5, findAndModify x5", "rotated x5, Set-Cookie x5"]
    assert copy == ["a copy", "GET /session/look", "0 → 5", "behind", "find x2", "fell_back, Set-Cookie"]
    assert look == ["you", "GET /session/look", "5", "current", "find", "no cookie"]
    assert page.text("id") == session


def test_without_grace_the_same_token_is_refused(page: Page) -> None:
    session = page.text("id")
    page.click("strict")
    page.wait("older-result", r"copied Refused\. Without grace only the 3 newest.*")
    look, copy, *_ = page.log()
    assert copy == ["a copy, grace=0", "GET /session/look", "0", "copied", "find", "copied, no cookie"]
    assert look[3] == "current"
    assert page.text("id") == session


def test_thirteen_generations_back_a_copy_is_noticed(page: Page) -> None:
    session = page.text("id")
    page.click("copied")
    page.wait("older-result", r"copied Refused\. 13 newer tokens exist.* revoked.*")
    look, copy, *_ = page.log()
    assert copy == ["a copy", "GET /session/look", "0", "copied", "find, update", "copied, revoked, no cookie"]
    assert look == ["you", "GET /session/look", "13", "ended", "find", "no cookie"]
    assert page.text("id") == "no session"
    page.click("visit")
    page.wait("visits", "1")
    assert page.text("id") not in {session, "no session"}


def test_a_log_in_retires_every_token_and_a_log_out_ends_the_session(page: Page) -> None:
    session, epoch, token = page.text("id"), page.text("epoch"), page.cookie()["value"]
    page.click("log-in")
    page.wait("subject", "user:ada")
    assert page.cookie()["value"] != token
    assert page.text("id") == session
    assert page.text("epoch") != epoch
    assert page.data() == {"visits": "1"}

    page.click("before-log-in")
    page.wait("log-in-result", r"late Refused\..*")
    look, copy, *_ = page.log()
    assert copy == ["a copy", "GET /session/look", "0", "late", "find", "late, no cookie"]
    assert look == ["you", "GET /session/look", "0", "current", "find", "no cookie"]
    assert page.text("subject") == "user:ada"

    page.click("log-out")
    page.wait("id", "no session")
    assert page.log()[0][4:] == ["find, update", "destroyed, deletes the cookie"]
    assert page.cookie() == {}
    page.click("visit")
    page.wait("visits", "1")
    assert page.text("id") != session
    assert page.text("subject") == "nobody"


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits(page: Page, width: int) -> None:
    page.click("strict")
    page.wait("older-result", r"copied Refused.*")
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    root = page.driver.find_element(By.TAG_NAME, "html")
    assert root.get_property("scrollWidth") == root.get_property("clientWidth")
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_an_interrupt_ends_it_and_its_mongod(tmp_path: Path) -> None:
    with running(DEMO, TMPDIR=str(tmp_path)) as demo:
        children = Path(f"/proc/{demo.process.pid}/task/{demo.process.pid}/children").read_text().split()
        assert len(children) == ("MONGODB_URI" not in os.environ)
        processes = [os.pidfd_open(int(child)) for child in children]
        assert demo.interrupt() == "\nstopped\n"
    assert demo.process.returncode == 0
    for process in processes:
        assert has_ended(process, within=0)
        os.close(process)
    assert not list(tmp_path.iterdir())


def test_a_port_that_is_taken_is_said_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        program = subprocess.run([*DEMO, "--port", str(port)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert program.returncode == 1
    assert program.stdout == ""
    assert re.fullmatch(rf"Port {port} cannot be had .*Address already in use.*: --port 8001, or .*\n", program.stderr)


def test_without_mongod_it_keeps_sessions_in_memory_and_says_so() -> None:
    with running([sys.executable, "-c", WITHOUT_MONGOD], MONGODB_URI="") as demo:
        assert "Sessions are in this process's memory" in demo.console
        with urlopen(f"{demo.url}/settings") as answer:
            settings = json.load(answer)
        with urlopen(Request(f"{demo.url}/session/visit", method="POST")) as answer:
            report, held = json.loads(answer.headers["engine-report"]), json.load(answer)
        assert demo.interrupt() == "\nstopped\n"
    assert settings["mongodb"] is False
    assert settings["store"].startswith("this process's memory")
    assert held == {"visits": 1}
    assert report["events"] == ["created"]
    assert report["commands"] == []
