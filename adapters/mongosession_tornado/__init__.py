"""Sessions for Tornado."""

from mongosession_tornado.decorator import with_session

__all__ = ["with_session"]
