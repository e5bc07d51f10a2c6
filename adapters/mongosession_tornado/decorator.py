"""``@with_session``: ``self.session`` while a handler's method, or a whole handler, is at work."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, NoReturn, TypeVar, overload

from tornado import web
from tornado.concurrent import Future
from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketHandler, WebSocketProtocol

from mongosession import SessionEngine, StoreUnavailable
from mongosession.http import large_body, prefetch
from mongosession_tornado.response import Response, unavailable

Method = Callable[..., Any]
Target = TypeVar("Target", bound=Callable[..., Any])


class _Options(NamedTuple):
    engine: SessionEngine | None
    tokens: bool
    on_outage: Literal["raise", "anonymous"]


@overload
def with_session(target: Target, /) -> Target: ...


@overload
def with_session(
    *, engine: SessionEngine | None = None, tokens: bool = True, on_outage: Literal["raise", "anonymous"] = "raise"
) -> Callable[[Target], Target]: ...


def with_session(
    target: Target | None = None,
    /,
    *,
    engine: SessionEngine | None = None,
    tokens: bool = True,
    on_outage: Literal["raise", "anonymous"] = "raise",
) -> Target | Callable[[Target], Target]:
    """Give a handler ``self.session``: a ``Session``, committed before the response's headers leave.

    On a method (``async def``, ``def`` or ``@gen.coroutine``) it must be the outermost decorator; a plain ``def``
    returns an awaitable then. On a class it holds for all of its methods and those of its subclasses, and opens the
    session before ``prepare``: what ``get_current_user`` and ``@authenticated`` need. On a ``WebSocketHandler`` the
    session is opened and its cookie sent with the handshake; afterwards ``await self.session.save()`` writes, as does
    the end of the connection.

    Args:
        target: the method or the class; left out where there are arguments.
        engine: where the sessions come from. Default: the application's setting ``session_engine``.
        tokens: see ``SessionEngine.open``. Default True; requests that say they are prefetches get no token anyway.
        on_outage: where the database is away: ``"raise"`` (default) answers 503 with ``Retry-After``, ``"anonymous"``
            goes on with an empty session that stores nothing.

    Raises:
        TypeError: it stands on something that is neither a method nor a handler class.
    """
    options = _Options(engine, tokens, on_outage)

    def decorate(target: Any) -> Any:
        if isinstance(target, type) and issubclass(target, web.RequestHandler):
            return _decorate_class(target, options)
        if isinstance(target, type) or not callable(target) or inspect.isgeneratorfunction(target):
            raise TypeError(
                f"@with_session on {target!r}: it goes on a method or on a subclass of RequestHandler, above "
                "@gen.coroutine; an engine is a named argument"
            )
        return _decorate(target, options)

    return decorate if target is None else decorate(target)


def _decorate(method: Method, options: _Options) -> Method:
    @functools.wraps(method)
    def wrapper(handler: web.RequestHandler, *args: Any, **kwargs: Any) -> Any:
        response = handler.request.connection
        if not isinstance(response, Response) or not response.running:
            return _run(handler, options, method, args, kwargs)
        result = method(handler, *args, **kwargs)  # called by a decorated method, for instance through super()
        if result is None:  # of a plain method, whose caller may await it, knowing it is decorated, or not
            result = Future()
            result.set_result(None)
        return result

    return wrapper


def _decorate_class(cls: type[web.RequestHandler], options: _Options) -> type[web.RequestHandler]:
    own = vars(cls).get("__init_subclass__")

    def __init_subclass__(subclass: type[web.RequestHandler], /, **kwargs: Any) -> None:  # noqa: N807
        inherited = super(cls, subclass).__init_subclass__ if own is None else own.__get__(None, subclass)
        inherited(**kwargs)
        _decorate_methods(subclass, options)

    cls.__init_subclass__ = classmethod(__init_subclass__)  # type: ignore[assignment]
    _decorate_methods(cls, options)
    return cls


def _decorate_methods(cls: type[web.RequestHandler], options: _Options) -> None:
    for name in ("prepare", "data_received", *map(str.lower, cls.SUPPORTED_METHODS)):
        if name in vars(cls):
            method = vars(cls)[name]
        elif getattr(cls, name, None) is not getattr(web.RequestHandler, name, None):
            method = _inherited(cls, name)
        else:
            continue  # there is none
        setattr(cls, name, _decorate(method, options))


def _inherited(cls: type[web.RequestHandler], name: str) -> Method:
    def method(handler: web.RequestHandler, *args: Any, **kwargs: Any) -> Any:
        return getattr(super(cls, handler), name)(*args, **kwargs)  # whatever comes next for this very handler

    method.__name__ = name
    return method


async def _run(
    handler: web.RequestHandler, options: _Options, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    response = handler.request.connection
    if not isinstance(response, Response):
        response = await _open(handler, options)
    handler.session = response.session  # type: ignore[attr-defined]
    response.running = True
    failed: int | None = None
    try:
        result = method(handler, *args, **kwargs)
        return result if result is None else await result
    except (web.Finish, StreamClosedError):  # no failure, and no fault of the handler's: the client has gone
        raise
    except BaseException as error:
        failed = error.status_code if isinstance(error, web.HTTPError) else 500
        raise
    finally:
        response.running = False
        await response.settle(failed)


async def _open(handler: web.RequestHandler, options: _Options) -> Response:
    engine = options.engine if options.engine is not None else handler.settings.get("session_engine")
    if engine is None:
        raise RuntimeError(
            "with_session has no engine: give Application(..., session_engine=SessionEngine(...)) or "
            "@with_session(engine=...)"
        )
    request = handler.request
    get = request.headers.get
    try:
        session = await engine.open(
            request.headers.get_list("Cookie"),
            tokens=options.tokens and not prefetch(get("Sec-Purpose"), get("Purpose")),
            large_body=large_body(request.method or "GET", get("Content-Length"), get("Transfer-Encoding")),
            on_outage=options.on_outage,
        )
    except StoreUnavailable as error:
        raise unavailable(handler, error) from error
    response = Response(handler, engine, session)
    request.connection = response
    if isinstance(handler, WebSocketHandler):
        _commit_before_handshake(handler, response)
    return response


def _commit_before_handshake(handler: WebSocketHandler, response: Response) -> None:
    """A handshake is answered and its connection detached in one go: nothing of it can wait. So the commit comes first,
    as late as possible: when the request turns out to be acceptable."""

    def get_websocket_protocol() -> WebSocketProtocol | None:
        del handler.get_websocket_protocol
        protocol = handler.get_websocket_protocol()
        if protocol is not None:
            accept = protocol.accept_connection

            async def accept_connection(handler: WebSocketHandler) -> None:
                handler.ws_connection = None  # it has no stream yet, which on_connection_close would close
                try:
                    await response.commit_first(101)
                except StoreUnavailable as error:
                    raise unavailable(handler, error) from error
                if not response.stream.closed():  # or open() would be called after on_close()
                    handler.ws_connection = protocol
                    await accept(handler)

            protocol.accept_connection = accept_connection  # type: ignore[method-assign]
        return protocol

    handler.get_websocket_protocol = get_websocket_protocol  # type: ignore[method-assign]


class _NotOpen:
    """What ``self.session`` is where no session is open; an attribute of the handler itself hides it."""

    def __get__(self, handler: object, owner: type) -> NoReturn:
        raise AttributeError(
            f"{owner.__name__}.session is not open here: @with_session opens it. On a method it must be the outermost "
            "decorator, above @authenticated and the like; on the class it opens before prepare"
        )


if not hasattr(web.RequestHandler, "session"):
    web.RequestHandler.session = _NotOpen()  # type: ignore[attr-defined]
