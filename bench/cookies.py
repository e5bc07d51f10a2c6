"""How long a cookie is that holds a visitor's session: ours (``anonymous="cookie"``) beside the signed cookies of
Starlette, Flask and Django, for the same data. ``python -m bench.cookies`` prints the table of docs/visitors.md.
"""

import json
import random
from base64 import b64encode
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from mongosession.keys import KeyRing
from mongosession.policy import Timeouts
from mongosession.signed import Signed, SignedCodec
from mongosession.values import dump

from .results import Figure, Part

TITLE = "Signed cookies"
DID = (
    "Characters of the cookie's value, for data that all can hold, as each framework's own session makes it by "
    "default: Starlette JSON in base64, Flask tagged JSON, Django (`signed_cookies`) JSON; the latter two deflate what "
    "that makes shorter. Ours also holds an id of its own (16 bytes), and two times to the millisecond (12) where the "
    "others hold one to the second."
)

KEY = "k" * 32

_WORDS = (
    "tea oolong green black jasmine pot cup filter sencha assam darjeeling rooibos mint chai honey tin spoon kettle"
)
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def basket(items: int, chance: random.Random) -> list[dict[str, Any]]:
    """So many things to buy."""
    return [
        {
            "sku": f"TE-{chance.randrange(10000, 99999)}",
            "name": " ".join(chance.choice(_WORDS.split()) for _ in range(3)),
            "quantity": chance.randrange(1, 5),
            "price": chance.randrange(199, 9999),
        }
        for _ in range(items)
    ]


def samples() -> Mapping[str, dict[str, Any]]:
    """What visitors' sessions hold; the same at each run. By what it is called."""
    chance = random.Random(7)
    preferences: dict[str, Any] = {
        "_csrf_token": "".join(chance.choices(_LETTERS, k=43)),
        "language": "en-GB",
        "theme": "dark",
        "currency": "EUR",
        "visits": 17,
        "seen_banner": True,
        "last_search": "loose leaf oolong",
        "recent": [4711, 4712, 90210],
        "utm": {"source": "newsletter", "campaign": "spring-sale"},
    }
    messages = [["success", "Added to your basket."], ["warning", "Only two left in stock!"]]
    address = {
        "name": "Ada Lovelace",
        "street": "12 St James's Square",
        "city": "London",
        "postcode": "SW1Y 4JH",
        "email": "ada@example.org",
        "note": "Please ring twice; the bell is a bit shy in the mornings.",
    }
    viewed = [{"id": chance.randrange(10**6), "at": 1790000000 + chance.randrange(10**6)} for _ in range(20)]
    return {
        "two preferences": {"visits": 3, "theme": "dark"},
        "a CSRF token": {"_csrf_token": preferences["_csrf_token"]},
        "preferences, a CSRF token, a campaign": preferences,
        "that, two messages, a basket of 12": {**preferences, "_flashes": messages, "cart": basket(12, chance)},
        "that, a basket of 20, 20 pages, a form": {
            **preferences,
            "_flashes": messages,
            "cart": basket(20, chance),
            "viewed": viewed,
            "form": address,
        },
        "500 random bytes in hexadecimal": {"blob": chance.randbytes(500).hex()},
    }


def mongosession() -> Callable[[dict[str, Any]], str]:
    """Ours, under a sid and at times that change nothing of the length."""
    codec = SignedCodec(KeyRing([KEY]), "__Host-session", Timeouts())

    def write(data: dict[str, Any]) -> str:
        text = codec.write(Signed(bytes(range(100, 116)), 1790000000.123, 1790000100.456, dump(data)))
        return text or ""

    return write


def starlette() -> Callable[[dict[str, Any]], str]:
    """As ``starlette.middleware.sessions.SessionMiddleware`` does."""
    signer = import_module("itsdangerous").TimestampSigner(KEY)
    return lambda data: signer.sign(b64encode(json.dumps(data).encode())).decode()


def flask() -> Callable[[dict[str, Any]], str]:
    """As ``flask.sessions.SecureCookieSessionInterface`` does."""
    app = import_module("flask").Flask(__name__)
    app.secret_key = KEY
    write: Callable[[dict[str, Any]], str] = app.session_interface.get_signing_serializer(app).dumps
    return write


def django() -> Callable[[dict[str, Any]], str]:
    """As ``django.contrib.sessions.backends.signed_cookies`` does."""
    settings = import_module("django.conf").settings
    if not settings.configured:
        settings.configure(SECRET_KEY=KEY)
    serializer = import_module("django.contrib.sessions.serializers").JSONSerializer
    salt = "django.contrib.sessions.backends.signed_cookies"
    dumps: Callable[..., str] = import_module("django.core.signing").dumps
    return lambda data: dumps(data, compress=True, salt=salt, serializer=serializer)


WRITERS = {"mongosession": mongosession, "Starlette": starlette, "Flask": flask, "Django": django}


def lengths() -> dict[str, dict[str, int]]:
    """What the data are called -> whose cookie -> characters of its value."""
    writers = {name: make() for name, make in WRITERS.items()}
    return {what: {name: len(write(data)) for name, write in writers.items()} for what, data in samples().items()}


def run() -> Part:
    """The whole part."""
    figures = [
        Figure(f"{what}: {name}", length, "characters")
        for what, row in lengths().items()
        for name, length in row.items()
    ]
    return Part(TITLE, DID, figures)


def main() -> None:
    """Print the table."""
    print("| a session of | JSON | " + " | ".join(WRITERS) + " |")
    print("| --- |" + " ---: |" * (1 + len(WRITERS)))
    plain = {what: len(json.dumps(data, separators=(",", ":"))) for what, data in samples().items()}
    for what, row in lengths().items():
        least = min(row.values())
        cells = [f"**{length}**" if length == least else str(length) for length in row.values()]
        print(f"| {what} | {plain[what]} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
