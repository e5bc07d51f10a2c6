"""Sessions for Starlette, FastAPI and any other ASGI application."""

from mongosession_asgi.middleware import SessionMiddleware, get_session

__all__ = ["SessionMiddleware", "get_session"]
