"""Django's database sessions in MongoDB, for gunicorn: ``bench.apps.django_site:make(uri)``."""

import time
from importlib import import_module
from typing import Any

from .common import KEY, Asked, act, kept


def serve(request: Any) -> Any:
    """The one view."""
    asked, session = Asked.of(request.get_full_path()), request.session
    session.get("user")  # it is read when it is first looked at
    if asked.wait:
        time.sleep(asked.wait)
    text = kept(dict(session.items())) if asked.path == "/kept" else act(asked, session)
    return import_module("django.http").HttpResponse(text, headers={"Content-Length": str(len(text))})


def make(uri: str) -> Any:
    """The application, its tables made."""
    django: Any = import_module("django")
    urls: Any = import_module("django.urls")
    import_module("django.conf").settings.configure(
        ALLOWED_HOSTS=["*"],
        DATABASES={"default": {"ENGINE": "django_mongodb_backend", "HOST": uri, "NAME": "bench_django"}},
        INSTALLED_APPS=["django.contrib.sessions"],
        MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
        ROOT_URLCONF=(urls.re_path("", serve),),
        SECRET_KEY=KEY,
    )
    django.setup()
    import_module("django.core.management").call_command("migrate", verbosity=0)
    return import_module("django.core.wsgi").get_wsgi_application()
