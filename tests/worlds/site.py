"""What the pages of the site do to a session, in any world, and the engine that they share."""

import os
import random
from pathlib import Path
from typing import Any, NamedTuple

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient
from pymongo.monitoring import CommandStartedEvent

from mongosession import MongoStore, Session, SessionEngine
from mongosession.testing import CommandCounter

CLIENTS: dict[str, Any] = {"pymongo": AsyncMongoClient, "motor": AsyncIOMotorClient}


class Reply(NamedTuple):
    """What a page answers; the body is the session as JSON where `body` is None."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: str | None = None


class Journal(CommandCounter):
    """Writes down what all processes of a server do: a line a command, and a line an event."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def note(self, line: str) -> None:
        with self._path.open("a") as file:  # lines of several processes come after each other
            file.write(f"{line}\n")

    def started(self, event: CommandStartedEvent) -> None:
        super().started(event)
        for command in self.take():
            self.note(command)


def make_engine() -> SessionEngine:
    """The engine that the environment describes. Its clock is a file: a script lets time pass for all processes of a
    server at once, and only then."""
    journal = Journal(Path(os.environ["JOURNAL"]))
    client = CLIENTS[os.environ["DRIVER"]](os.environ["MONGODB_URI"], event_listeners=[journal])
    collection = client.get_database("worlds")[os.environ["COLLECTION"]]
    clock = Path(os.environ["CLOCK"])
    return SessionEngine.from_env(
        MongoStore(collection, timeout=float(os.environ["DEADLINE"])),
        keys=["k" * 32],
        clock=lambda: float(clock.read_text()),
        on_event=lambda event: journal.note(event.kind),
    )


def act(session: Session, page: str, argument: str) -> Reply:
    """What a page does at once. (Streaming and saving are the worlds' own.)"""
    match page:
        case "read":
            len(session)  # a look of its own: the encoder of JSON sees past every method of an empty dictionary
        case "quiet":
            return Reply(body="{}")
        case "visit":
            session["n"] = session.get("n", 0) + 1
        case "set":
            session[argument] = True
        case "nest":
            session.setdefault("list", []).append(argument)
        case "increment":
            session.increment(argument)
        case "clear":
            session.clear()
        case "grow":
            session["noise"] = random.Random(1).randbytes(int(argument) // 2).hex()
        case "drop":
            del session[argument]
        case "protect":
            session.protect()
        case "login":
            session.renew(subject=argument)
        case "logout":
            session.destroy()
        case "who":
            return Reply(body=f'{{"who": "{session.subject or ""}"}}')
        case "redirect":
            session["hops"] = session.get("hops", 0) + 1
            return Reply(303, (("Location", "/read"),))
        case "status":
            session["failed"] = argument
            return Reply(int(argument))
        case "public":
            return Reply(200, (("Cache-Control", "public, max-age=60"),))
        case "boom":
            session["boom"] = True
            raise RuntimeError("boom")
        case _:
            return Reply(404)
    return Reply()
