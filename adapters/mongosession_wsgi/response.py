"""One response on its way out.

``start_response`` is held back until the first chunk of the body is there: what a handler stores before it goes with
the headers. What it stores later, while streaming, is written at the end.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from mongosession import Session, SessionEngine, StoreUnavailable
from mongosession_wsgi.loop import here

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

Headers = list[tuple[str, str]]


class Response:
    """The iterable that the server gets, and the ``start_response`` that the application gets (PEP 3333).

    Args:
        engine: where the session comes from.
        session: the request's.
        environ: the request's.
        start_response: the server's.
        timeout: seconds that a commit may take.
    """

    def __init__(
        self,
        engine: SessionEngine,
        session: Session,
        environ: "WSGIEnvironment",
        start_response: "StartResponse",
        timeout: float,
    ) -> None:
        self._engine = engine
        self._session = session
        self._environ = environ
        self._start_response = start_response
        self._timeout = timeout
        self._body: Iterable[bytes] = ()
        self._chunks: Iterator[bytes] = iter(())
        self._status = 500  # the server's own, if the application does not answer
        self._held: tuple[str, Headers, Any] | None = None  # until it is known what the headers have to carry
        self._added: Headers | None = None  # once committed
        self._write: Callable[[bytes], object] = _write_nothing  # the server's, once it has our headers
        self._replaced: Iterator[bytes] | None = None  # by a 503: the application's own answer is dropped
        self._settled = False  # nothing more is to be written

    def of(self, body: Iterable[bytes]) -> Iterator[bytes]:
        """Take the body that the application returned."""
        self._body, self._chunks = body, iter(body)
        return self

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            chunk = None
            if self._replaced is None:
                chunk = next(self._chunks, None)
                self._answer()
            if self._replaced is not None:
                chunk = next(self._replaced, None)
            if chunk is None:
                self.close()
        except BaseException:
            self._settled = True  # an exception commits nothing
            raise
        if chunk is None:
            raise StopIteration
        return chunk

    def close(self) -> None:
        """Close the application's body, once, and write what was stored since the headers left: at the end, or when
        the client has gone away.
        """
        body, self._body = self._body, ()
        settled, self._settled = self._settled, True
        close = getattr(body, "close", None)
        if close is not None:
            close()
        if not settled:
            self._commit(sent=True)

    def start(self, status: str, headers: Headers, exc_info: Any = None) -> Callable[[bytes], object]:
        """The application's ``start_response``."""
        if exc_info is None and (self._held is not None or self._added is not None):
            raise AssertionError("start_response was called a second time without exc_info")
        if self._replaced is None:
            self._status = int(status[:3])
            if self._added is None:
                self._held = status, headers, exc_info
            else:
                self._send(status, headers, exc_info)  # the server raises if its headers are gone
        return self._write_now

    def _write_now(self, data: bytes) -> None:
        """The imperative way of old applications: the headers leave with the first call."""
        self._answer()
        self._write(data)

    def _answer(self) -> None:
        """Commit, and let the headers go; once."""
        if self._held is None:
            return
        (status, headers, exc_info), self._held = self._held, None
        own = ", ".join(value for name, value in headers if name.lower() == "cache-control")
        try:
            self._added = self._commit(cache_control=own or None)
        except StoreUnavailable as error:
            self._settled = True
            self._replaced = iter(unavailable(error, self._environ, self._start_response))
        else:
            self._send(status, headers, exc_info)

    def _commit(self, *, cache_control: str | None = None, sent: bool = False) -> Headers:
        """What has nothing to be written stays on this thread: crossing into the loop takes longest."""
        added = self._engine.settled(self._session, status=self._status, sent=sent)
        if added is None:
            commit = partial(self._engine.commit, self._session, status=self._status, sent=sent)
            added = here().run(partial(commit, cache_control=cache_control), self._timeout)
        return added

    def _send(self, status: str, headers: Headers, exc_info: Any) -> None:
        added = self._added or []
        if any(name == "Cache-Control" for name, _ in added):
            headers = [(name, value) for name, value in headers if name.lower() != "cache-control"]
        self._write = self._start_response(status, [*headers, *added], exc_info)


def unavailable(
    error: StoreUnavailable, environ: "WSGIEnvironment", start_response: "StartResponse"
) -> Iterable[bytes]:
    """Answer that the database is away: 503 with ``Retry-After``. No cookie is touched."""
    body = b"Service Unavailable"
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("Retry-After", str(error.retry_after)),
    ]
    start_response("503 Service Unavailable", headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


def _write_nothing(data: bytes) -> None:
    """Until the server has given its own; for good, where it answers 503."""
