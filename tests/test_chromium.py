"""The browser that tests share: none sees what another left in it."""

from collections.abc import Iterator

import pytest
from selenium import webdriver
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from .chromium import clean
from .servers import serve


async def page(_: Request) -> Response:
    return HTMLResponse("<script>document.cookie = 'left=1'; console.error('left')</script>")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve(lambda: Starlette(routes=[Route("/", page)])) as url:
        yield url


def test_nothing_is_left_of_an_earlier_test(chromium: webdriver.Chrome, url: str) -> None:
    hosts = [url, url.replace("127.0.0.1", "shop.localhost")]
    for host in hosts:
        chromium.get(host)
        assert [cookie["name"] for cookie in chromium.get_cookies()] == ["left"]
    clean(chromium)
    assert chromium.current_url == "about:blank"
    assert chromium.execute_cdp_cmd("Storage.getCookies", {}) == {"cookies": []}
    assert chromium.get_log("browser") == []  # type: ignore[no-untyped-call]


def test_what_is_logged_is_seen(chromium: webdriver.Chrome, url: str) -> None:
    """Else an empty log would say nothing."""
    chromium.get(url)
    assert any("left" in entry["message"] for entry in chromium.get_log("browser"))  # type: ignore[no-untyped-call]
