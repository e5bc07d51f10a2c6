"""Requests per second, side by side: mongosession, the floor, and its peers, on one MongoDB server."""

import asyncio
import random
from collections.abc import Mapping, Sequence

from mongosession.mongod import Mongod

from . import servers
from .load import begun, rate
from .results import Figure, Goal, Part

TITLE = "Requests per second"
DID = (
    "One process of each server on a core of its own; MongoDB and the client, eight keep-alive connections with a "
    "session of 300 bytes each, on the others. All run at once and are asked in turn, half a second each, 15 "
    "rounds, in an order that is drawn anew: a ratio is of two figures of the same round, and what is shown is "
    "the median with the quartiles. uvicorn, with uvloop and httptools, serves bare ASGI applications; the floor "
    "is such a one that does one `find_one` by `_id`, or that and one `update_one`, and nothing else. "
    "flask-session and Django stand behind gunicorn, aiohttp-session and express-session on their own servers. "
    "Where other programs want the same core, those with several threads (Motor, gunicorn) get more of it than "
    "they should: these figures want a calm machine."
)

CLIENTS, SLICE, ROUNDS = 8, 0.5, 15
KINDS = {"/read": "one key read", "/change": "one key changed"}

FLOOR = {"ours-pymongo": "floor-pymongo", "ours-motor": "floor-motor"}

# Ours on the driver that the peer uses; goals for those that are in Python and keep their sessions in the database.
BESIDE = {
    "starlette": "ours-pymongo",
    "starsessions-motor": "ours-motor",
    "aiohttp": "ours-motor",
    "flask": "ours-pymongo",
    "flask-best": "ours-pymongo",
    "django": "ours-pymongo",
    "express": "ours-pymongo",
    "express-best": "ours-pymongo",
}
RIVALS = {"starsessions-motor", "aiohttp", "flask", "flask-best", "django"}

Rates = Mapping[str, Sequence[float]]


async def measure(ports: Mapping[str, int]) -> dict[str, Rates]:
    """Requests a second by route, server and round."""
    await servers.ready(ports.values())
    clients = {key: await begun(port, CLIENTS) for key, port in ports.items()}
    chance = random.Random(1)
    found: dict[str, dict[str, list[float]]] = {route: {key: [] for key in ports} for route in KINDS}
    for number in range(ROUNDS + 1):
        turns = [(route, key) for route in KINDS for key in ports]
        chance.shuffle(turns)
        for route, key in turns:
            answered = await rate(clients[key], route, SLICE)
            if number:  # the first round warms them up
                found[route][key].append(answered)
    return dict(found)


def _ratio(name: str, rates: Rates, over: str, under: str, goal: Goal | None) -> Figure:
    return Figure.of(name, [one / other for one, other in zip(rates[over], rates[under], strict=True)], goal=goal)


def figures(found: Mapping[str, Rates], compared: Mapping[str, servers.Server]) -> list[Figure]:
    """The rates, and the ratios."""
    told: list[Figure] = []
    for route, rates in found.items():
        what = KINDS[route]
        told += [
            _ratio(f"{what}: {compared[ours].name}, to the floor", rates, ours, floor, ("at least", 0.95))
            for ours, floor in FLOOR.items()
        ]
        for peer, ours in BESIDE.items():
            if peer in rates:
                aim: Goal | None = ("at least", 1) if peer in RIVALS else None
                told.append(_ratio(f"{what}: {compared[ours].name}, to {compared[peer].name}", rates, ours, peer, aim))
    for route, rates in found.items():
        told += [Figure.of(f"{KINDS[route]}: {compared[key].name}", each, "a second") for key, each in rates.items()]
    return told


def run() -> Part:
    """The whole part."""
    compared = servers.available(servers.OURS | servers.FLOORS | servers.PEERS)
    with servers.placed() as core, Mongod() as mongod, servers.running(compared, mongod.uri, core) as ports:
        return Part(TITLE, DID, figures(asyncio.run(measure(ports)), compared))
