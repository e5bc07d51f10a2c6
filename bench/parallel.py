"""200 parallel requests of one browser, each with a key of its own, and one counter: how many survive."""

import asyncio

from mongosession.mongod import Mongod

from . import servers
from .load import Client
from .results import Figure, Goal, Part

TITLE = "200 parallel requests"
DID = (
    "200 requests of one browser, sent at once over connections of their own with the same cookie: each sets a "
    "key of its own; then 200 that each count one more, as each library's documentation has it (mongosession: "
    "`increment`). Once answered at once, once after 20 ms in the handler. How many of the 200 keys are there in "
    "the end, and what the counter says. One process a server; gunicorn's default worker takes one request at a "
    "time, which loses nothing."
)

REQUESTS = 200


async def survivors(port: int, wait: int) -> tuple[int, int]:
    """Of the keys, and of the counts."""
    first = Client(port)
    await first.get("/begin")
    for targets in (
        [f"/set?key=own{number}&wait={wait}" for number in range(REQUESTS)],
        [f"/count?wait={wait}"] * REQUESTS,
    ):
        twins = [first.twin() for _ in targets]
        await asyncio.gather(*(twin.get(target) for twin, target in zip(twins, targets, strict=True)))
        for twin in twins:
            first.cookies |= twin.cookies
            twin.close()
    keys, counter = (await first.get("/kept")).split()
    first.close()
    return int(keys), int(counter)


async def _measure(names: dict[str, servers.Server], ports: dict[str, int]) -> list[Figure]:
    await servers.ready(ports.values())
    figures: list[Figure] = []
    for key, port in ports.items():
        aim: Goal | None = ("exactly", REQUESTS) if key in servers.OURS else None
        for wait in (0, 20):
            keys, counter = await survivors(port, wait)
            words = f"{names[key].name}{f', {wait} ms in the handler' if wait else ''}"
            figures += [Figure(f"{words}: keys", keys, goal=aim), Figure(f"{words}: counter", counter, goal=aim)]
    return figures


def run() -> Part:
    """The whole part."""
    compared = servers.available(servers.OURS | servers.PEERS)
    with servers.placed() as core, Mongod() as mongod, servers.running(compared, mongod.uri, core) as ports:
        return Part(TITLE, DID, asyncio.run(_measure(compared, ports)))
