"""Our cookies in the request's headers, and the header that sets or removes one (RFC 6265bis)."""

from collections.abc import Sequence

from mongosession.policy import MAX_COOKIE_AGE, Cookie


def read(headers: str | Sequence[str] | None, name: str) -> list[str]:
    """The values of the cookies of this name, in their order. Other cookies are skipped, whatever they hold.

    Args:
        headers: the Cookie header, or all of them (HTTP/2 splits it), or None.
        name: the cookie's name, case-sensitive.
    """
    if headers is None:
        return []
    values: list[str] = []
    for header in (headers,) if isinstance(headers, str) else headers:
        if name not in header:
            continue
        for pair in header.split(";"):
            if name in pair:
                key, equals, value = pair.partition("=")
                if equals and key.strip(" \t") == name:
                    values.append(value.strip(" \t"))
    return values


def render(cookie: Cookie, value: str, max_age: int, persistent: bool | None = None) -> str:
    """The Set-Cookie header's value.

    Args:
        cookie: name and attributes.
        value: the token's text.
        max_age: seconds until the session's absolute end; capped at 400 days, sent only where the cookie is persistent.
        persistent: whether it is, where the session says so itself.
    """
    if persistent is None:
        persistent = cookie.persistent
    age = f"; Max-Age={min(max_age, MAX_COOKIE_AGE)}" if persistent else ""
    return f"{cookie.name}={value}{age}{_attributes(cookie)}"


def remove(cookie: Cookie) -> str:
    """The Set-Cookie header's value that deletes the cookie: the attributes are those it was set with."""
    return f"{cookie.name}=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT{_attributes(cookie)}"


def _attributes(cookie: Cookie) -> str:
    domain = f"; Domain={cookie.domain}" if cookie.domain else ""
    secure = "; Secure" if cookie.secure else ""
    partitioned = "; Partitioned" if cookie.partitioned else ""
    return f"; Path={cookie.path}{domain}; HttpOnly{secure}; SameSite={cookie.same_site.capitalize()}{partitioned}"
