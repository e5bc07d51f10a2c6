"""What an adapter needs to know of a request's headers, the same in every world."""

LARGE_BODY = 64 * 1024
"""Bytes. A proxy may have held back a request with a larger body for as long as the upload took."""

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
    return not (content_length.isascii() and content_length.isdigit() and int(content_length[:20]) <= LARGE_BODY)


def prefetch(sec_purpose: str | None, purpose: str | None = None) -> bool:
    """Whether a request is a prefetch, whose answer may never reach the cookie jar.

    Args:
        sec_purpose: the Sec-Purpose header (Fetch standard), or None.
        purpose: the older Purpose header, or None.
    """
    return any(header is not None and "prefetch" in header.lower() for header in (sec_purpose, purpose))


def is_public(cache_control: str | None) -> bool:
    """Whether a response's Cache-Control lets shared caches keep it (RFC 9111, 5.2.2.9)."""
    return cache_control is not None and any(
        directive.strip().lower() == "public" for directive in cache_control.split(",")
    )
