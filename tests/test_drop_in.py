"""A drop-in for Starlette's SessionMiddleware: what its users rely on holds, the cookie's spelling aside."""

from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from mongosession import Cookie, MemoryStore, SessionEngine, Timeouts
from mongosession.testing import HandClock
from mongosession_asgi import SessionMiddleware


async def view(request: Request) -> Response:
    return JSONResponse({"session": request.session})


async def update(request: Request) -> Response:
    request.session.update(await request.json())
    return JSONResponse({"session": request.session})


async def clear(request: Request) -> Response:
    request.session.clear()
    return JSONResponse({"session": request.session})


async def untouched(_request: Request) -> Response:
    return Response("untouched")


async def stream(request: Request) -> Response:
    request.session["streamed"] = True

    async def body() -> AsyncIterator[bytes]:
        yield b"body"

    return StreamingResponse(body())


ROUTES = [
    Route("/view", view),
    Route("/update", update, methods=["POST"]),
    Route("/clear", clear, methods=["POST"]),
    Route("/untouched", untouched),
    Route("/stream", stream),
]


def client(cookie: Cookie | None = None, *, clock: HandClock | None = None, mounted: str = "") -> TestClient:
    engine = SessionEngine(
        MemoryStore(),
        keys=["k" * 32],
        cookie=cookie or Cookie(name="session", secure=False),
        timeouts=Timeouts(idle=100, absolute=1000),
        clock=clock or HandClock(),
    )
    app = Starlette(routes=ROUTES, middleware=[Middleware(SessionMiddleware, engine=engine)])
    if mounted:
        app = Starlette(routes=[Mount(mounted, app=app)])
    return TestClient(app)


def test_what_is_stored_is_there_and_what_is_cleared_is_not() -> None:
    http = client()
    assert http.get("/view").json() == {"session": {}}
    assert http.post("/update", json={"some": "data"}).json() == {"session": {"some": "data"}}
    assert http.get("/view").json() == {"session": {"some": "data"}}
    assert http.post("/clear").json() == {"session": {}}
    assert http.get("/view").json() == {"session": {}}


def test_an_empty_session_sets_no_cookie() -> None:
    http = client()
    assert "set-cookie" not in http.post("/update", json={}).headers
    assert "set-cookie" not in http.post("/clear").headers


def test_it_ends() -> None:
    clock = HandClock()
    http = client(clock=clock)
    http.post("/update", json={"some": "data"})
    clock.advance(101)
    assert http.get("/view").json() == {"session": {}}


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_secure_cookie_goes_over_tls_alone(scheme: str) -> None:
    http = client(Cookie(name="session"))
    http.base_url = f"{scheme}://testserver"
    answer = http.post("/update", json={"some": "data"})
    assert "; Secure" in answer.headers["set-cookie"]
    assert http.get("/view").json() == {"session": {"some": "data"} if scheme == "https" else {}}


def test_the_attributes_of_the_cookie() -> None:
    def attributes(cookie: Cookie) -> list[str]:
        return client(cookie).post("/update", json={"some": "data"}).headers["set-cookie"].split("; ")[1:]

    assert attributes(Cookie(name="session", secure=False)) == ["Max-Age=1000", "Path=/", "HttpOnly", "SameSite=Lax"]
    assert "Domain=example.com" in attributes(Cookie(name="session", domain="example.com"))
    assert "Path=/second" in attributes(Cookie(name="session", path="/second"))
    assert not [each for each in attributes(Cookie(name="session", persistent=False)) if each.startswith("Max-Age")]
    assert "Partitioned" in attributes(Cookie(name="session", partitioned=True))


def test_under_a_sub_path() -> None:
    http = client(Cookie(name="session", secure=False, path="/second"), mounted="/second")
    http.post("/second/update", json={"some": "data"})
    assert http.get("/second/view").json() == {"session": {"some": "data"}}


def test_a_foreign_cookie_is_no_session() -> None:
    http = client()
    assert http.get("/view", headers={"Cookie": "session=invalid"}).json() == {"session": {}}


def test_a_stream_keeps_its_session() -> None:
    http = client()
    assert http.get("/stream").text == "body"
    assert http.get("/view").json() == {"session": {"streamed": True}}


def test_the_answer_varies_where_the_session_was_asked_for() -> None:
    http = client()
    assert http.get("/view").headers["vary"] == "Cookie"  # Starlette's hook: request.session alone is a look
    assert "vary" not in http.get("/untouched").headers
    http.post("/update", json={"some": "data"})
    assert "set-cookie" not in http.get("/view").headers
