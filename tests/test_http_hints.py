"""What adapters read off a request's headers, and off a response's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mongosession.http import LARGE_BODY, Routes, is_public, large_body, predicate, prefetch

from .building import ANY_TEXT, fuzz


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE", "TRACE", "get"])
def test_a_request_that_needs_no_body_is_small(method: str) -> None:
    assert not large_body(method, None)
    assert not large_body(method, "0")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "post", "CONNECT", "FOO", ""])
def test_a_body_of_unknown_length_is_large(method: str) -> None:
    assert large_body(method, None)  # HTTP/2 may leave the length out


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("length", "large"),
    [
        ("0", False),
        ("1", False),
        ("65535", False),
        ("65536", False),
        ("65537", True),
        ("1000000000", True),
        ("9" * 10_000, True),  # int() refuses so many digits
        ("0" * 30 + "10", False),
        ("0" * 30 + "65537", True),
        ("0" * 10_000, False),
        # What is no length tells nothing.
        ("", True),
        ("-1", True),
        ("+10", True),
        ("10, 10", True),
        ("1e3", True),
        ("1_000", True),
        ("٣", True),
        ("²", True),
        ("many", True),
    ],
)
def test_a_body_is_large_from_64_kib_on(method: str, length: str, large: bool) -> None:
    assert LARGE_BODY == 65536
    assert large_body(method, length) is large


@pytest.mark.parametrize("encoding", ["chunked", "gzip, chunked", "identity", ""])
def test_a_body_in_chunks_has_no_length(encoding: str) -> None:
    assert large_body("POST", None, encoding)
    assert large_body("POST", "10", encoding)  # RFC 9112, 6.3: Transfer-Encoding overrides Content-Length
    assert large_body("GET", None, encoding)


@pytest.mark.parametrize(
    ("sec_purpose", "purpose", "expected"),
    [
        (None, None, False),
        ("", "", False),
        ("prefetch", None, True),
        ("prefetch;prerender", None, True),
        ("prefetch;anonymous-client-ip", None, True),
        ("Prefetch", None, True),
        (None, "prefetch", True),
        ("", "prefetch", True),
        (None, "Prefetch", True),
        ("something", "else", False),
    ],
)
def test_a_prefetch_is_known_by_either_header(sec_purpose: str | None, purpose: str | None, expected: bool) -> None:
    assert prefetch(sec_purpose, purpose) is expected


@pytest.mark.parametrize(
    ("cache_control", "expected"),
    [
        (None, False),
        ("", False),
        ("public", True),
        ("PUBLIC", True),
        ("max-age=60, public", True),
        ("public,max-age=60", True),
        (" public ", True),
        ("max-age=60,\tpublic\t, immutable", True),
        ("private", False),
        ("no-store", False),
        ("max-age=60", False),
        ("publicly", False),
        ("not-public", False),
        ("no-cache=public", False),
        ("public-ish, x public", False),
    ],
)
def test_public_is_a_directive_of_its_own(cache_control: str | None, expected: bool) -> None:
    assert is_public(cache_control) is expected


@pytest.mark.parametrize(
    ("routes", "inside", "outside"),
    [
        (["/static"], ["/static", "/static/", "/static/a.css"], ["/", "", "/statics", "/a/static", "static"]),
        (["/static/"], ["/static", "/static/", "/static/a.css"], ["/", "/statics"]),
        (("/a", "/b/c"), ["/a", "/a/x", "/b/c", "/b/c/d"], ["/b", "/ab", "/b/cd", "/A"]),
        (["/"], ["/", "/a", "/a/b", ""], ["a"]),
        ([], [], ["", "/", "/a"]),
        (lambda path: path == "/x", ["/x"], ["/x/y", ""]),
    ],
)
def test_routes_are_prefixes_of_whole_segments_or_a_predicate(
    routes: Routes[str], inside: list[str], outside: list[str]
) -> None:
    chosen = predicate(routes, str)
    assert [path for path in inside + outside if chosen(path)] == inside


def test_a_single_text_is_no_list_of_routes() -> None:
    with pytest.raises(ValueError, match=r"'/static'.*list of path prefixes"):
        predicate("/static", str)


@fuzz
@given(ANY_TEXT, ANY_TEXT | st.none() | st.from_regex(r"\A[0-9]+\Z"), ANY_TEXT | st.none())
def test_no_header_raises(method: str, one: str | None, other: str | None) -> None:
    large_body(method, one, other)
    prefetch(one, other)
    is_public(one)
