"""The errors that an application can meet. A hostile cookie is never one of them: it is a verdict.

Settings that make no sense raise ``ValueError`` where they are constructed; they have no class of their own.
"""

from collections.abc import Sequence


class SessionError(Exception):
    """Base of everything that this library raises while it serves requests."""


class DataError(SessionError, ValueError):
    """The session holds something that cannot be stored. Nothing of the request's data was written.

    Attributes:
        key: the session key at fault, or None where it concerns the session as a whole.
        headers: response headers that are true all the same (the token of a rotation that was written without the
            data); an adapter that answers with an error of its own may send them.
    """

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key
        self.headers: list[tuple[str, str]] = []


class StoreError(SessionError):
    """The store did not do what it was asked."""


class StoreUnavailable(StoreError):
    """The database did not answer within the deadline, or answered nonsense. No cookie is touched on its account.

    Attributes:
        retry_after: seconds that a client should wait; an adapter sends it as ``Retry-After`` with its 503.
    """

    def __init__(self, message: str, retry_after: int = 5) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeltaRefused(StoreError):
    """The server refused the change of data (an increment of a text, 64 bits overrun, a document too large).

    Between store and engine only: the engine makes a ``DataError`` of it.

    Attributes:
        names: the encoded field names that may be at fault.
    """

    def __init__(self, message: str, names: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.names = tuple(names)


class SetupError(StoreError):
    """The collection is not as it has to be, for instance because an index exists with other options."""
