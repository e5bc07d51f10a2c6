"""The settings: each bad one is refused with its name, its value and the rule; and what follows from good ones."""

import dataclasses
import math
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from mongosession.policy import Cookie, Rotation, Timeouts
from mongosession.tokens import deadline

NAN, INF = math.nan, math.inf

SECONDS = [0, -1, -0.001, NAN, INF, -INF, "5", b"5", [5], 5j, True, False, 10**400]


def refused(
    kind: type[Rotation | Timeouts | Cookie], settings: dict[str, Any], named: str, value: Any, rule: str
) -> None:
    """The settings are refused by an error that names the field, its value and the rule."""
    with pytest.raises(ValueError, match=rf"\b{kind.__name__}\.{named}\b") as caught:
        kind(**settings)
    message = str(caught.value)
    assert repr(value)[:50] in message
    assert rule in message


@pytest.mark.parametrize("value", SECONDS, ids=lambda value: repr(value)[:20])
def test_a_ttl_is_a_positive_number_or_none(value: Any) -> None:
    refused(Rotation, {"ttl": value}, "ttl", value, "seconds above 0")


@pytest.mark.parametrize("value", [*SECONDS[1:], None], ids=lambda value: repr(value)[:20])
def test_a_grace_is_a_number_not_below_0(value: Any) -> None:
    refused(Rotation, {"grace": value}, "grace", value, "seconds not below 0")


@pytest.mark.parametrize("field", ["idle", "absolute"])
@pytest.mark.parametrize("value", [*SECONDS, None], ids=lambda value: repr(value)[:20])
def test_a_timeout_is_a_positive_number(field: str, value: Any) -> None:
    refused(Timeouts, {field: value}, field, value, "seconds above 0")


@pytest.mark.parametrize("value", [1, 0, -3, 2.0, 2.5, "3", None, True, NAN, [3]])
def test_a_window_is_a_whole_number_of_at_least_2(value: Any) -> None:
    refused(Rotation, {"window": value}, "window", value, "at least 2")


@pytest.mark.parametrize("value", ["", "Revoke", "ignore", None, True, ["revoke"], b"revoke"])
def test_what_happens_to_a_copied_session_is_one_of_two_words(value: Any) -> None:
    refused(Rotation, {"on_copied": value}, "on_copied", value, '"revoke" or "refuse"')


@pytest.mark.parametrize("grace", [0, 0.0, -0.0])
def test_without_grace_nobody_is_revoked(grace: float) -> None:
    refused(Rotation, {"grace": grace}, "grace", 0, "on_copied='revoke'")
    assert Rotation(grace=grace, on_copied="refuse").accepted == 3


def test_idle_ends_before_absolute() -> None:
    refused(Timeouts, {"idle": 61, "absolute": 60}, "idle", 61, "Timeouts.absolute 60")
    assert Timeouts(idle=60, absolute=60).idle == 60


def test_a_timeout_ends_before_the_calendar() -> None:
    # The deadline has five bytes in the token, and a datetime ends with the year 9999.
    for field in ("idle", "absolute"):
        refused(Timeouts, {field: 1e12}, field, 1e12, "1000 years")
    thousand_years = 1000 * 365.25 * 86400
    assert deadline(time.time(), Timeouts(absolute=thousand_years).absolute) < 2**40
    assert datetime.fromtimestamp(time.time() + thousand_years, UTC).year < 9999


@pytest.mark.parametrize(
    ("settings", "named", "value", "rule"),
    [
        ({"name": ""}, "name", "", "RFC 9110"),
        ({"name": "a b"}, "name", "a b", "RFC 9110"),
        ({"name": "a=b"}, "name", "a=b", "RFC 9110"),
        ({"name": "a;b"}, "name", "a;b", "RFC 9110"),
        ({"name": "a,b"}, "name", "a,b", "RFC 9110"),
        ({"name": '"a"'}, "name", '"a"', "RFC 9110"),
        ({"name": "sitzung\n"}, "name", "sitzung\n", "RFC 9110"),
        ({"name": "séance"}, "name", "séance", "RFC 9110"),
        ({"name": "s" * 4033}, "name", "s" * 4033, "at most 4032 characters: a token has 64"),
        ({"name": "s", "path": "/" * 1025}, "path", "/" * 1025, "at most 1024 characters: browsers ignore"),
        ({"name": None}, "name", None, "RFC 9110"),
        ({"name": b"session"}, "name", b"session", "RFC 9110"),
        ({"secure": None}, "secure", None, "True or False"),
        ({"secure": "False"}, "secure", "False", "True or False"),
        ({"secure": 1}, "secure", 1, "True or False"),
        ({"persistent": "no"}, "persistent", "no", "True or False"),
        ({"partitioned": "no"}, "partitioned", "no", "True or False"),
        ({"same_site": "Lax"}, "same_site", "Lax", '"lax", "strict" or "none"'),
        ({"same_site": None}, "same_site", None, '"lax", "strict" or "none"'),
        ({"same_site": "lax; Domain=a"}, "same_site", "lax; Domain=a", '"lax", "strict" or "none"'),
        ({"name": "s", "path": ""}, "path", "", "begin with /"),
        ({"name": "s", "path": "app"}, "path", "app", "begin with /"),
        ({"name": "s", "path": "/a;b"}, "path", "/a;b", "neither ;"),
        ({"name": "s", "path": "/\n"}, "path", "/\n", "control characters"),
        ({"name": "s", "path": None}, "path", None, "begin with /"),
        ({"name": "s", "domain": ""}, "domain", "", "host name"),
        ({"name": "s", "domain": ".example.org"}, "domain", ".example.org", "host name"),
        ({"name": "s", "domain": "example.org."}, "domain", "example.org.", "host name"),
        ({"name": "s", "domain": "example.org:80"}, "domain", "example.org:80", "host name"),
        ({"name": "s", "domain": "example.org\n"}, "domain", "example.org\n", "host name"),
        ({"name": "s", "domain": "https://example.org"}, "domain", "https://example.org", "host name"),
        ({"name": "s", "domain": 5}, "domain", 5, "host name"),
        ({"secure": False}, "secure", "__Host-session", "only with Secure"),
        ({"name": "__Secure-s", "secure": False}, "secure", "__Secure-s", "only with Secure"),
        ({"name": "__sEcUrE-s", "secure": False}, "secure", "__sEcUrE-s", "only with Secure"),
        ({"path": "/app"}, "path", "/app", "with the path / and no domain"),
        ({"domain": "example.org"}, "domain", "example.org", "with the path / and no domain"),
        ({"name": "__HOST-s", "domain": "example.org"}, "domain", "example.org", "with the path / and no domain"),
        ({"name": "s", "secure": False, "same_site": "none"}, "same_site", "none", "only with Secure"),
        ({"name": "s", "secure": False, "partitioned": True}, "partitioned", True, "only with Secure"),
    ],
)
def test_a_bad_cookie_is_refused(settings: dict[str, Any], named: str, value: Any, rule: str) -> None:
    shown = value.strip("'") if isinstance(value, str) else value
    refused(Cookie, settings, named, shown, rule)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"name": "session", "secure": False},
        {"name": "session", "path": "/app", "domain": "example.org"},
        {"name": "__Secure-s", "path": "/app", "domain": "a.example.org"},
        {"name": "x__Host-s", "secure": False, "path": "/a b"},
        {"name": "s", "domain": "localhost"},
        {"name": "s" * 4032, "path": "/" * 1024},
        {"same_site": "none", "partitioned": True},
        {"same_site": "strict", "persistent": False},
    ],
)
def test_a_good_cookie_is_taken(settings: dict[str, Any]) -> None:
    cookie = Cookie(**settings)
    assert {field: getattr(cookie, field) for field in settings} == settings


@pytest.mark.parametrize(
    ("ttl", "window", "grace", "accepted"),
    [
        (5, 3, 60, 13),  # the default
        (60, 3, 60, 3),
        (30, 3, 60, 3),  # 3 from here on
        (29.99, 3, 60, 4),
        (20, 3, 60, 4),
        (7, 3, 60, 10),  # 60 / 7 is rounded up
        (0.5, 3, 60, 121),
        (5, 3, 0, 3),  # the plain rule
        (5, 3, 0.001, 3),
        (5, 3, 10, 3),
        (5, 3, 10.001, 4),
        (5, 2, 0.001, 2),
        (5, 13, 60, 13),
        (5, 14, 60, 14),
        (3600, 20, 60, 20),
        (None, 3, 60, 3),
        (None, 5, 1e9, 5),
        (5e-324, 3, 60, 2**48 + 1),  # a generation has 48 bits
    ],
)
def test_k_covers_the_grace(ttl: float | None, window: int, grace: float, accepted: int) -> None:
    assert Rotation(ttl, window, grace, "refuse").accepted == accepted


@pytest.mark.parametrize(("grace", "lateness"), [(0, 180), (60, 180), (60.5, 180.5), (300, 420)])
def test_lateness_covers_the_grace_and_the_skew_of_clocks(grace: float, lateness: float) -> None:
    assert Rotation(grace=grace, on_copied="refuse").lateness == lateness


def test_the_defaults_are_those_of_the_protocol() -> None:
    assert Rotation() == Rotation(5, 3, 60, "revoke")
    assert Timeouts() == Timeouts(7200, 30 * 86400)
    assert Cookie() == Cookie("__Host-session", True, "lax", "/", None, True, False)


@pytest.mark.parametrize("value", [Rotation(), Timeouts(), Cookie()], ids=lambda value: type(value).__name__)
def test_settings_do_not_change(value: Any) -> None:
    for field in dataclasses.fields(value):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, getattr(value, field.name))
    hash(value)
