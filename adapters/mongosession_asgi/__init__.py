"""Sessions for Starlette, FastAPI and any other ASGI application."""

from mongosession_asgi.middleware import SessionMiddleware

__all__ = ["SessionMiddleware"]
