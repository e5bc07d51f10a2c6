"""What an adapter needs to know of a request, the same in every world."""

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

LARGE_BODY = 64 * 1024
"""Bytes. A proxy may have held back a request with a larger body for as long as the upload took."""

Routes = Sequence[str] | Callable[[T], bool]
"""Some routes of an application: path prefixes (``"/static"`` is that path and everything below it), or a predicate."""

_BODILESS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "DELETE"})


def large_body(method: str, content_length: str | None, transfer_encoding: str | None = None) -> bool:
    """Whether a request's body is over 64 KiB or of unknown length; see the protocol's table.

    Args:
        method: the request method.
        content_length: the Content-Length header, or None.
        transfer_encoding: the Transfer-Encoding header, or None.
    """
    if transfer_encoding is not None:
        return True
    if content_length is None:  # HTTP/2 may omit it; only some methods have a body then
        return method.upper() not in _BODILESS
    if not (content_length.isascii() and content_length.isdigit()):
        return True
    return int(content_length.lstrip("0")[:20] or "0") > LARGE_BODY  # int() takes no more than 4,300 digits


def prefetch(sec_purpose: str | None, purpose: str | None = None) -> bool:
    """Whether a request is a prefetch, whose answer may never reach the cookie jar.

    Args:
        sec_purpose: the Sec-Purpose header (Fetch standard), or None.
        purpose: the older Purpose header, or None.
    """
    return (sec_purpose is not None and "prefetch" in sec_purpose.lower()) or (
        purpose is not None and "prefetch" in purpose.lower()
    )


def is_public(cache_control: str | None) -> bool:
    """Whether a response's Cache-Control lets shared caches keep it (RFC 9111, 5.2.2.9)."""
    return cache_control is not None and any(
        directive.strip().lower() == "public" for directive in cache_control.split(",")
    )


def predicate(routes: Routes[T], path: Callable[[T], str]) -> Callable[[T], bool]:
    """Whether a request is on one of these routes, as a function.

    Args:
        routes: path prefixes, or the predicate itself.
        path: the path of a request.

    Raises:
        ValueError: the routes are a single text.
    """
    if callable(routes):
        return routes
    if isinstance(routes, str):
        raise ValueError(f"routes are {routes!r}; they must be a list of path prefixes, or a predicate")
    if not routes:
        return lambda request: False
    exact = frozenset(prefix.rstrip("/") for prefix in routes)
    below = tuple(f"{prefix}/" for prefix in exact)
    return lambda request: path(request) in exact or path(request).startswith(below)
