"""Sessions for Flask and any other WSGI application."""

from mongosession_wsgi.loop import wait
from mongosession_wsgi.middleware import SessionMiddleware

__all__ = ["SessionMiddleware", "wait"]
