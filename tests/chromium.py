"""The browser of the tests."""

import shutil

from selenium import webdriver

CHROMIUM = shutil.which("chromium") or "chromium"
FLAGS = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


def clean(driver: webdriver.Chrome) -> None:
    """Leave nothing of an earlier test: an empty page, no cookies of any host, an empty log."""
    driver.get("about:blank")  # first: a page that is still there could set a cookie or log something
    driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    driver.get_log("browser")  # type: ignore[no-untyped-call]  # what was read is gone
