"""Cookies: ours is found whatever else the header holds, and no setting can add anything to the header that sets it."""

import itertools
from contextlib import suppress
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mongosession.cookies import read, remove, render
from mongosession.policy import Cookie

from .building import ANY_TEXT, fuzz

DAY = 86400
PLAIN = Cookie("session")


@pytest.mark.parametrize(
    ("headers", "values"),
    [
        (None, []),
        ("", []),
        ([], []),
        ("session=one", ["one"]),
        ("other=1; session=one; more=2", ["one"]),
        ("session=one; session=two", ["one", "two"]),  # of two paths or domains: both are judged
        # Spacing: RFC 6265 says "; ", and not everybody does.
        ("session=one;session=two", ["one", "two"]),
        (" \tsession =\tone \t;   session = two ", ["one", "two"]),
        (";;session=one;;", ["one"]),
        ("session=one;", ["one"]),
        # Values are opaque: quotes, equals signs and percent signs belong to them.
        ('session="one"', ['"one"']),
        ("session==one==", ["=one=="]),
        ("session=a=b; other=session=no", ["a=b"]),
        ("session=%6Fne", ["%6Fne"]),
        ("session=", [""]),
        ("session", []),
        ("=session", []),
        # Names are compared as they are.
        ("Session=no; SESSION=no", []),
        ("Session=no; session=one; SESSION=no", ["one"]),
        ("mysession=no; session=one; session2=no", ["one"]),
        ("mysession=no; session2=no; __Host-session=no; session.x=no; ses=no; xsessionx=no", []),
        ('"session"=no', []),
        ("$Version=1; session=one; $Path=/", ["one"]),
        ("session[]=no; session[0]=no", []),
        # A comma separates no cookies (RFC 6265, 4.2.1).
        ("other=1, session=no", []),
        ("session=one, two", ["one, two"]),
        # Neighbours may be broken.
        ('bad="a; session=one', ["one"]),
        ("\0=\x01; ü=ö; session=one; \ud800", ["one"]),
        # HTTP/2 may split the header; some servers hand over all of them.
        (["session=one", "session=two"], ["one", "two"]),
        (["other=1", "", "session=one; more=2"], ["one"]),
        (("session=one",), ["one"]),
    ],
)
def test_ours_is_read_among_others(headers: Any, values: list[str]) -> None:
    assert read(headers, "session") == values


@pytest.mark.parametrize("name", ["__Host-session", "a", "!#$%&'*+-.^_`|~"])
def test_any_allowed_name_is_found(name: str) -> None:
    assert read(f"a.b=0; {name}=one; {name}x=2; x{name}=3", name) == ["one"]


@fuzz
@given(ANY_TEXT | st.lists(ANY_TEXT) | st.text('session=; \t",') | st.none())
def test_reading_never_raises(headers: str | list[str] | None) -> None:
    for value in read(headers, "session"):
        assert ";" not in value
        assert value == value.strip(" \t")


@fuzz
@given(
    st.lists(st.tuples(st.text("sesion_. \t", max_size=9), st.text('ab="% \t,', max_size=9)), max_size=6),
    st.text("ab=%", min_size=1),
    st.integers(0, 6),
)
def test_ours_is_found_wherever_it_stands(others: list[tuple[str, str]], value: str, place: int) -> None:
    others = [(name, other) for name, other in others if name.strip(" \t") != "session"]
    pairs = [*others[:place], ("session", value), *others[place:]]
    assert read("; ".join(f"{name}={other}" for name, other in pairs), "session") == [value]
    assert read([f"{name}={other}" for name, other in pairs], "session") == [value]


def test_the_headers_are_frozen() -> None:
    assert render(Cookie(), "TOKEN", 60) == ("__Host-session=TOKEN; Max-Age=60; Path=/; HttpOnly; Secure; SameSite=Lax")
    assert remove(Cookie()) == (
        "__Host-session=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/; HttpOnly; Secure; SameSite=Lax"
    )


SAME_SITE: tuple[Literal["lax", "strict", "none"], ...] = ("lax", "strict", "none")

COMBINATIONS = [
    Cookie(name, secure, same_site, path, domain, persistent, partitioned)
    for name, secure, same_site, path, domain, persistent, partitioned in itertools.product(
        ["session", "__Secure-session", "__Host-session"],
        [True, False],
        SAME_SITE,
        ["/", "/app"],
        [None, "example.org"],
        [True, False],
        [True, False],
    )
    if (secure or (name == "session" and same_site != "none" and not partitioned))
    and (name != "__Host-session" or (path == "/" and domain is None))
]


@pytest.mark.parametrize("cookie", COMBINATIONS, ids=repr)
def test_every_combination_of_attributes(cookie: Cookie) -> None:
    attributes = {
        f"Path={cookie.path}",
        "HttpOnly",
        f"SameSite={cookie.same_site.title()}",
        *(["Secure"] if cookie.secure else []),
        *([f"Domain={cookie.domain}"] if cookie.domain else []),
        *(["Partitioned"] if cookie.partitioned else []),
    }
    first, *rest = render(cookie, "TOKEN", 60).split("; ")
    assert first == f"{cookie.name}=TOKEN"
    assert sorted(rest) == sorted(attributes | ({"Max-Age=60"} if cookie.persistent else set()))
    # A browser deletes a cookie only if name, domain and path are those that it was set with, and takes the deletion of
    # a __Host- or partitioned cookie only with the attributes that it takes the cookie itself with.
    first, *rest = remove(cookie).split("; ")
    assert first == f"{cookie.name}="
    assert sorted(rest) == sorted(attributes | {"Max-Age=0", "Expires=Thu, 01 Jan 1970 00:00:00 GMT"})


@pytest.mark.parametrize(
    ("max_age", "sent"),
    [(0, 0), (1, 1), (400 * DAY, 400 * DAY), (400 * DAY + 1, 400 * DAY), (10**12, 400 * DAY)],
)
def test_the_age_is_capped_where_browsers_cap_it(max_age: int, sent: int) -> None:
    assert f"; Max-Age={sent};" in render(PLAIN, "TOKEN", max_age)


def test_a_cookie_of_the_browser_session_has_no_age_and_no_date() -> None:
    header = render(Cookie("session", persistent=False), "TOKEN", 60).lower()
    assert "max-age" not in header
    assert "expires" not in header


INJECTIONS = ["\r", "\n", "\r\nSet-Cookie: a=b", "\0", ";", "; Domain=evil.example", "\x7f", "\x1f", "é", "\u2028"]


@pytest.mark.parametrize("injection", INJECTIONS)
@pytest.mark.parametrize("field", ["name", "path", "domain", "same_site"])
@pytest.mark.parametrize("place", ["{}", "{}tail", "head{}", "head{}tail"])
def test_no_setting_smuggles_anything_into_the_header(field: str, place: str, injection: str) -> None:
    text = ("/" if field == "path" else "") + place.format(injection)
    settings: dict[str, Any] = {"name": "session", field: text}
    with pytest.raises(ValueError, match=rf"^Cookie\.{field} is "):
        Cookie(**settings)


@fuzz
@given(
    name=ANY_TEXT | st.text("az_-;=\r\n ", max_size=5),
    path=ANY_TEXT.map("/".__add__) | st.text("/az;\r\n ", max_size=5),
    domain=st.none() | ANY_TEXT | st.text("az.-;\r\n ", max_size=5),
    same_site=st.sampled_from(SAME_SITE),
)
def test_what_a_cookie_accepts_is_harmless(
    name: str, path: str, domain: str | None, same_site: Literal["lax", "strict", "none"]
) -> None:
    with suppress(ValueError):
        cookie = Cookie(name, same_site=same_site, path=path, domain=domain)
        for header in (render(cookie, "TOKEN", 60), remove(cookie)):
            assert header.isascii()
            assert header.isprintable()
            attributes = [part.partition("=")[0] for part in header.split("; ")[1:]]
            allowed = {"Max-Age", "Expires", "Path", "Domain", "HttpOnly", "Secure", "SameSite"}
            assert header.count(";") == len(attributes)
            assert len(attributes) == len(set(attributes))
            assert set(attributes) <= allowed
        assert read(render(cookie, "TOKEN", 60).split(";")[0], name) == ["TOKEN"]
