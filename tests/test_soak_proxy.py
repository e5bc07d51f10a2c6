"""The bad network of the soak does what it says: seen by a client of a server that repeats what it hears."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from pymongo import MongoClient

from soak.proxy import FAULTS, Fault, Proxy

SAID = b"0123456789abcdef----|size" + b"what was said"
LATEST_SECONDS = 20
MOMENT = 0.2  # in which nothing comes


@pytest.fixture
def server() -> Iterator[int]:
    """The port of a server that repeats what it hears."""
    listener = socket.create_server(("127.0.0.1", 0))

    def repeat(peer: socket.socket) -> None:
        with peer, suppress(OSError):
            while heard := peer.recv(65536):
                peer.sendall(heard)

    def listen() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=repeat, args=[listener.accept()[0]]).start()

    thread = threading.Thread(target=listen)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


@pytest.fixture
def proxy(server: int) -> Iterator[Proxy]:
    with Proxy(server) as proxy:
        yield proxy


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=LATEST_SECONDS)


def said(client: socket.socket) -> bytes:
    """What comes back until all of it is there, or the connection's end."""
    client.settimeout(LATEST_SECONDS)
    heard = b""
    while len(heard) < len(SAID) and (chunk := client.recv(65536)):
        heard += chunk
    return heard


def nothing_comes(client: socket.socket) -> bool:
    client.settimeout(MOMENT)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    return False


def is_reset(client: socket.socket) -> bool:
    client.settimeout(LATEST_SECONDS)
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    return True


def is_reset_at_once(proxy: Proxy) -> bool:
    with pytest.raises(ConnectionResetError), connect(proxy) as client:
        client.recv(1)
    return True


def test_a_good_network(proxy: Proxy) -> None:
    with connect(proxy) as one, connect(proxy) as two:
        for client in (one, two, one):
            client.sendall(SAID)
            assert said(client) == SAID
    assert set(proxy.counts) == {"through"}


def test_a_cut(proxy: Proxy) -> None:
    with connect(proxy) as old:
        old.sendall(SAID)
        assert said(old) == SAID
        proxy.be("cut")
        assert is_reset(old)
    assert is_reset_at_once(proxy)
    assert proxy.counts["cut"] == 2
    proxy.heal()
    with connect(proxy) as newer:
        newer.sendall(SAID)
        assert said(newer) == SAID


def test_a_hang_ends_as_if_it_had_not_been(proxy: Proxy) -> None:
    with connect(proxy) as client:
        proxy.be("hang")
        client.sendall(SAID)
        assert nothing_comes(client)
        proxy.heal()
        assert said(client) == SAID
    assert proxy.counts["hang"] == 1


@pytest.mark.parametrize("fault", ["swallow", "mute"])
def test_what_disappears_does_not_come_back(proxy: Proxy, fault: Fault) -> None:
    with connect(proxy) as client, connect(proxy) as other:
        client.sendall(SAID)
        other.sendall(SAID)
        assert said(client) == said(other) == SAID
        proxy.be(fault)
        client.sendall(SAID)
        assert nothing_comes(client)
        proxy.heal()
        assert is_reset(client)
        other.sendall(SAID)  # nothing of this one was lost
        assert said(other) == SAID
    assert proxy.counts[fault] == 1


def test_a_delay(proxy: Proxy) -> None:
    with connect(proxy) as client:
        proxy.be("delay", 0.1)
        start = time.monotonic()
        client.sendall(SAID)
        assert said(client) == SAID
        assert time.monotonic() - start >= 0.2  # there and back
        assert proxy.counts["delay"] == 2
        proxy.be("delay", 3600)
        client.sendall(SAID)
        assert nothing_comes(client)
        proxy.heal()
        assert said(client) == SAID


def test_a_drip(proxy: Proxy) -> None:
    with connect(proxy) as client:
        proxy.be("drip", 0.01)
        start = time.monotonic()
        client.sendall(SAID)
        assert said(client) == SAID
        assert time.monotonic() - start >= 0.01 * (len(SAID) - 1)
        proxy.be("drip", 3600)
        client.sendall(SAID)
        client.settimeout(LATEST_SECONDS)
        assert client.recv(65536) == SAID[:1]
        assert nothing_comes(client)
        proxy.heal()
        assert client.recv(65536) == SAID[1:]
    assert proxy.counts["drip"] == 2


def test_an_end_midway(proxy: Proxy) -> None:
    with connect(proxy) as client:
        proxy.be("midway")
        client.sendall(SAID)
        assert said(client) == SAID[: len(SAID) // 2]
    assert proxy.counts["midway"] == 1


@pytest.mark.parametrize(("fault", "kept"), [("garbage", 0), ("garble", 25)])
def test_garbage(proxy: Proxy, fault: Fault, kept: int) -> None:
    with connect(proxy) as client:
        proxy.be(fault)
        client.sendall(SAID)
        heard = said(client)
    assert len(heard) == len(SAID)
    assert heard[:kept] == SAID[:kept]
    assert heard[kept:] != SAID[kept:]
    assert proxy.counts[fault] == 1


def test_a_server_that_is_away(proxy: Proxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with Proxy(port) as nowhere:
        assert is_reset_at_once(nowhere)


@pytest.mark.parametrize("fault", FAULTS)
def test_it_ends_with_its_block_whatever_it_does(server: int, fault: Fault) -> None:
    with Proxy(server) as proxy:
        client = connect(proxy)
        client.sendall(SAID)
        assert said(client) == SAID
        proxy.be(fault, 3600)
        if fault != "cut":
            client.sendall(SAID)
            if fault in ("hang", "swallow", "mute", "delay"):
                assert nothing_comes(client)
    with client, pytest.raises(ConnectionRefusedError):
        connect(proxy)


def test_a_database_behind_it(mongod_uri: str) -> None:
    upstream = MongoClient[dict[str, object]](mongod_uri)
    address = upstream.address
    assert address is not None
    with (
        upstream,
        Proxy(address[1]) as proxy,
        MongoClient[dict[str, object]]("127.0.0.1", proxy.port, directConnection=True) as client,
    ):
        assert client.admin.command("ping")["ok"]
    assert proxy.counts["through"]
