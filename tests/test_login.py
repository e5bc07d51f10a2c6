"""The application of docs/login.md, used as its text says."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from .test_readme import blocks

PAGE = Path(__file__).parent.parent / "docs" / "login.md"
ANN = {"name": "ann", "password": "correct horse"}
COOKIE = "__Host-session"


class Site:
    """The application, and browsers that visit it."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {}
        for block in blocks("python", PAGE.read_text()):
            exec(compile(block, PAGE.name, "exec"), self.names)

    def browser(self, cookie: str | None = None) -> TestClient:
        client = TestClient(self.names["app"], base_url="https://shop.example", follow_redirects=False)
        if cookie is not None:
            client.cookies.set(COOKIE, cookie, domain="shop.example")
        return client

    def logged_in(self, **headers: str) -> TestClient:
        browser = self.browser()
        assert browser.post("/login", json=ANN, headers=headers).status_code == 204
        return browser


@pytest.fixture
def site() -> Site:
    return Site()


def test_log_in_and_out(site: Site) -> None:
    browser = site.browser()
    assert browser.get("/devices").status_code == 401
    assert browser.post("/login", json=ANN | {"password": "?"}).status_code == 403
    assert browser.post("/login", json=ANN).status_code == 204
    assert browser.get("/devices").status_code == 200
    assert "Max-Age=0" in browser.post("/logout").headers["set-cookie"]
    assert browser.get("/devices").status_code == 401


@pytest.mark.parametrize("path", ["/login", "/login/password"])
def test_what_is_no_password_logs_nobody_in(site: Site, path: str) -> None:
    browser = site.browser()
    names: list[Any] = ["ann", "nobody", "", None, ["ann"], {}]
    passwords: list[Any] = ["", None, 0, False, [], {}]
    forms = [{"name": name, "password": password} for name, password in product(names, passwords)]
    forms += [*({"name": each} for each in names), *({"password": each} for each in passwords), {}]
    assert [form for form in forms if browser.post(path, json=form).status_code != 403] == []
    assert browser.post("/login/code", json={"code": "123456"}).status_code == 409
    assert browser.get("/devices").status_code == 401


def test_a_token_from_before_the_log_in_is_late(site: Site) -> None:
    browser = site.browser()
    browser.get("/login/start")
    planted = site.browser(browser.cookies[COOKIE])
    browser.post("/login", json=ANN)
    answer = planted.get("/devices")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "set-cookie" not in answer.headers
    assert planted.post("/login/password", json=ANN).status_code == 503
    assert planted.post("/login/code", json={"code": "123456"}).status_code == 503
    assert planted.post("/login", json=ANN).status_code == 204  # it carries all that it needs
    assert len(planted.get("/devices").json()) == 2


def test_oauth(site: Site) -> None:
    browser = site.browser()
    states = [browser.get("/login/start").headers["location"].partition("state=")[2] for _ in range(2)]
    straggler = site.browser(browser.cookies[COOKIE])
    assert browser.get("/login/callback?state=x").status_code == 400
    for state in states:  # two tabs
        answer = browser.get(f"/login/callback?state={state}")
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert browser.get(f"/login/callback?state={state}").status_code == 400
    late = straggler.get(f"/login/callback?state={states[0]}")
    assert (late.status_code, late.headers["location"]) == (303, f"{late.url}&again=1")
    assert "set-cookie" not in late.headers
    assert straggler.get(late.headers["location"]).status_code == 400


def test_two_steps(site: Site) -> None:
    browser = site.browser()
    assert browser.post("/login/code", json={"code": "123456"}).status_code == 409
    assert browser.post("/login/password", json=ANN | {"password": "?"}).status_code == 403
    assert browser.post("/login/password", json=ANN).status_code == 202
    assert browser.get("/devices").status_code == 401
    for wrong in ({"code": "?"}, {"code": None}, {}):
        assert browser.post("/login/code", json=wrong).status_code == 403
    assert browser.post("/login/code", json={"code": "123456"}).status_code == 204
    assert browser.get("/devices").status_code == 200
    assert browser.post("/login/code", json={"code": "123456"}).status_code == 409


def test_a_log_in_from_another_site(site: Site) -> None:
    for told, status in [("cross-site", 403), ("same-site", 403), ("same-origin", 204)]:
        answer = site.browser().post("/login", json=ANN, headers={"Sec-Fetch-Site": told})
        assert answer.status_code == status


def test_devices(site: Site) -> None:
    phone, tablet, laptop = [site.logged_in(**{"User-Agent": name}) for name in ("phone", "tablet", "laptop")]
    listed = phone.get("/devices").json()
    assert {each["user_agent"] for each in listed} == {"phone", "tablet", "laptop"}
    assert [each["user_agent"] for each in listed if each["this_one"]] == ["phone"]
    assert {each["address"] for each in listed} == {"testclient"}
    (lost,) = [each["id"] for each in listed if each["user_agent"] == "tablet"]
    assert phone.delete(f"/devices/{'0' * 32}").status_code == 404
    assert phone.delete(f"/devices/{lost}").status_code == 204
    assert [each.get("/devices").status_code for each in (phone, tablet, laptop)] == [200, 401, 200]
    assert phone.delete("/devices").json() == {"ended": 1}
    assert [each.get("/devices").status_code for each in (phone, tablet, laptop)] == [200, 401, 401]


def test_remember_me(site: Site) -> None:
    for path, remembered in [("/login?remember=1", True), ("/login", False)]:
        answer = site.browser().post(path, json=ANN)
        assert ("Max-Age=" in answer.headers["set-cookie"]) is remembered


def test_step_up(site: Site) -> None:
    browser = site.logged_in()
    copy = site.browser(browser.cookies[COOKIE])
    assert browser.post("/dangerous").status_code == 403
    for wrong in ({"password": "?"}, {"password": None}, {}):
        assert browser.post("/step-up", json=wrong).status_code == 403
    assert browser.post("/step-up", json=ANN).status_code == 204
    assert browser.post("/dangerous").status_code == 204
    assert copy.post("/dangerous").status_code == 503
