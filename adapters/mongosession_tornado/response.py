"""The response between a handler and its connection: held there until the commit is done.

Tornado's ``flush`` and ``finish`` cannot wait, a commit must. All that ends a response (``render``, ``redirect``,
``send_error``, ``raise Finish``, ...) comes down to the three methods of ``tornado.httputil.HTTPConnection``. So it is
here that they wait, and what a handler sees of ``flush`` and ``finish`` stays as Tornado wrote it.
"""

import asyncio
from collections.abc import Coroutine
from http.client import responses
from typing import Any

from tornado import httputil, web
from tornado.concurrent import Future, chain_future
from tornado.iostream import StreamClosedError

from mongosession import DataError, Session, SessionEngine, StoreUnavailable


class Response(httputil.HTTPConnection):
    """Stands in for ``request.connection``, once per request.

    Args:
        handler: whose response it is.
        engine: where the session comes from.
        session: as opened.

    Attributes:
        running: a decorated method is at work; others that it calls are part of it.
    """

    def __init__(self, handler: web.RequestHandler, engine: SessionEngine, session: Session) -> None:
        self.session = session
        self.running = False
        self._engine = engine
        self._handler: Any = handler  # let go at the end, as Tornado does: no reference cycle keeps a request's body
        self._connection: Any = handler.request.connection
        self._status = 200
        self._added: list[tuple[str, str]] | None = None  # to the headers, once committed
        self._begun = False  # what the handler stores from now on misses the commit before the headers
        self._held: list[bytes] | None = None  # a body that waits for its headers
        self._sent = _future()  # the headers and what was held
        self._work: asyncio.Task[None] | None = None  # commits and writes, one after the other
        self._ends = False  # the end comes with the headers
        self._void = False  # another one was sent in its place
        self._logs = False
        handler._log = self._log_later  # type: ignore[method-assign]  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)  # set_close_callback, detach, set_body_timeout, ...

    def write_headers(
        self,
        start_line: httputil.RequestStartLine | httputil.ResponseStartLine,
        headers: httputil.HTTPHeaders,
        chunk: bytes | None = None,
    ) -> "Future[None]":
        """Called by the first ``flush``. The result is done when all that was held has been sent."""
        assert isinstance(start_line, httputil.ResponseStartLine)  # noqa: S101  # for the type checkers: a server's
        self._status = start_line.code
        if self._added is not None:
            self._send(start_line, headers, chunk or b"")
        else:
            self._held = [chunk or b""]
            self._work = asyncio.create_task(self._guarded(self._begin(start_line, headers.copy())))
        return self._sent

    def write(self, chunk: bytes) -> "Future[None]":
        """Called by each further ``flush``."""
        if self._void:
            return _future(StreamClosedError())  # as if the client had gone: a handler that streams should stop
        if self._held is None:
            sent: Future[None] = self._connection.write(chunk)
            return sent
        self._held.append(chunk)
        return self._sent

    def finish(self) -> None:
        """Called by the handler's ``finish``."""
        if self._work is None:  # nothing was held
            self._end()
        elif self._begun:
            self._work = asyncio.create_task(self._guarded(self._finish(self._work)))
        else:
            self._ends = True

    async def commit_first(self, status: int) -> None:
        """Commit now; the response, whenever it comes, is not held. For a handshake, which detaches the connection as
        soon as it is answered."""
        self._begun = True
        self._added = await self._engine.commit(self.session, status=status)

    async def settle(self, status: int | None) -> None:
        """A decorated method has ended: if the headers have gone meanwhile, what was stored since is written.

        Args:
            status: what its exception would be answered with, or None.
        """
        self._status = max(self._status, status or 0)
        late = self._begun
        if self._work is not None and not self._work.done():
            await asyncio.wait({self._work})
        if late:
            await self._commit_rest()

    async def _guarded(self, step: Coroutine[Any, Any, None]) -> None:
        try:
            await step
        except Exception as error:  # noqa: BLE001  # nobody awaits it; Tornado logs and closes likewise
            self._handler.log_exception(type(error), error, error.__traceback__)
            self._connection.close()
            if not self._sent.done():
                self._sent.set_exception(StreamClosedError(error))

    async def _begin(self, start_line: httputil.ResponseStartLine, headers: httputil.HTTPHeaders) -> None:
        self._begun = True
        cache_control = headers.get("Cache-Control")
        try:
            self._added = await self._engine.commit(self.session, status=start_line.code, cache_control=cache_control)
        except Exception as error:  # noqa: BLE001  # logged, and answered with an error
            self._replace(error)
        else:
            self._send(start_line, headers, b"".join(self._held or ()))
        self._held = None
        if self._ends:
            self._end()

    async def _finish(self, before: "asyncio.Task[None]") -> None:
        await asyncio.wait({before})
        try:
            await self._commit_rest()
        except Exception as error:  # noqa: BLE001  # the headers are gone: it can only be logged
            self._handler.log_exception(type(error), error, error.__traceback__)
        self._end()

    async def _commit_rest(self) -> None:
        await self._engine.commit(self.session, status=self._status, sent=True)

    def _log_later(self) -> None:
        """Stands in for the handler's own: the access log waits until it is known what was sent."""
        self._logs = True

    def _end(self) -> None:
        self._connection.finish()
        handler, self._handler = self._handler, None
        del handler._log  # noqa: SLF001
        if self._logs:
            handler._log()  # noqa: SLF001

    def _send(self, start_line: httputil.ResponseStartLine, headers: httputil.HTTPHeaders, chunk: bytes) -> None:
        for name, value in self._added or ():
            if name == "Cache-Control":
                headers[name] = value
            else:
                headers.add(name, value)
        chain_future(self._connection.write_headers(start_line, headers, chunk), self._sent)

    def _replace(self, error: Exception) -> None:
        """The commit failed and nothing has been sent: the handler's response is void, a plain one takes its place."""
        handler, self._void = self._handler, True
        failure = unavailable(handler, error) if isinstance(error, StoreUnavailable) else error
        handler.log_exception(type(failure), failure, failure.__traceback__)
        self._added = error.headers if isinstance(error, DataError) else []
        self._status = status = failure.status_code if isinstance(failure, web.HTTPError) else 500
        body = b"" if handler.request.method == "HEAD" else f"{status}: {responses[status]}".encode("ascii")
        handler.clear()  # sets the application's default headers
        handler.set_status(status)
        handler.set_header("Content-Type", "text/plain; charset=UTF-8")
        handler.set_header("Cache-Control", "no-store")
        handler.set_header("Content-Length", len(body))
        headers = handler._headers  # noqa: SLF001  # set_header has no counterpart
        self._send(httputil.ResponseStartLine("", status, responses[status]), headers, body)


def unavailable(handler: web.RequestHandler, error: StoreUnavailable) -> web.HTTPError:
    """The exception that becomes a 503. ``send_error`` clears all but the default headers: Retry-After joins those."""
    defaults = handler.set_default_headers

    def set_default_headers() -> None:
        defaults()
        handler.set_header("Retry-After", error.retry_after)
        handler.set_header("Cache-Control", "no-store")

    handler.set_default_headers = set_default_headers  # type: ignore[method-assign]
    return web.HTTPError(503, str(error))


def _future(error: Exception | None = None) -> "Future[None]":
    """A future that may be forgotten: an error that nobody awaits is not reported."""
    future: Future[None] = Future()
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    if error is not None:
        future.set_exception(error)
    return future
