"""What an operator should know before his users do: the settings and the database against rules with a source.

Pure: ``inspection.gather`` asks the database, ``findings`` judges. What a rule says about the library's defaults is a
note at most; a warning is for what costs somebody something on the day it matters.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from mongosession.keys import KeyInfo, Role
from mongosession.policy import DAY, SKEW, Cookie, Rotation, Timeouts

OWASP = "OWASP Session Management Cheat Sheet"
ASVS = "OWASP ASVS 5.0"
NIST = "NIST SP 800-63B-4"
RFC = "RFC 6265bis"

LEVEL_CLOCK = 5.0
"""Seconds between two clocks that synchronised machines do not reach."""

_COVERED = 60
"""Seconds of use that honest people's tokens may be behind: handlers, phone networks, killed browsers."""

_SUPPORTED = (7, 0)


class Severity(StrEnum):
    """How bad a finding is, from good to bad. From ``WARNING`` on the command line exits with 1."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    FAILURE = "failure"


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        severity: how bad it is.
        about: the part it is about, in a word or two.
        what: what was found.
        why: what follows from it; empty where all is well.
        source: whose rule this is.
        way_out: what to do; empty where nothing is to be done.
    """

    severity: Severity
    about: str
    what: str
    why: str = ""
    source: str = ""
    way_out: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of an engine, as far as they are judged.

    Attributes:
        cookie, rotation, timeouts, max_data: as ``SessionEngine`` has them.
        keys: what ``KeyRing`` tells of its keys; empty: none were given.
        random_is_secure: whether chance is the operating system's.
        visitors_in_cookies: whether ``anonymous`` is ``"cookie"``.
    """

    cookie: Cookie
    rotation: Rotation
    timeouts: Timeouts
    max_data: int
    keys: Sequence[KeyInfo]
    random_is_secure: bool
    visitors_in_cookies: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the database tells.

    Attributes:
        collection: its full name.
        exists: whether it is there.
        options: those that it was created with.
        indexes: its indexes, by name.
        index_faults: what ``MongoStore.setup`` would do or refuse; empty: the indexes are there and right.
        holds_foreign: whether some of its documents are no sessions; None: too many to look at all of them.
        version: the server's.
        topology: ``"standalone"``, ``"replica set"`` or ``"sharded cluster"``.
        write_concern: what ordinary writes are made with: the collection's, else the server's default.
        retry_writes: whether the client repeats a write whose answer was lost.
        direct: whether the client talks to one server and looks for no other (``directConnection=true``).
        open_to_all: whether a server that is not on this machine serves clients without a user name.
        ttl_monitor: whether the server removes expired documents; None: it does not say.
        clock_ahead: seconds that the engine's clock is ahead of the server's.
        clock_error: seconds that this may be wrong: half of the round trip.
    """

    collection: str
    exists: bool
    options: Mapping[str, Any]
    indexes: Mapping[str, Mapping[str, Any]]
    index_faults: Sequence[str]
    holds_foreign: bool | None
    version: tuple[int, ...]
    topology: str
    write_concern: Mapping[str, Any]
    retry_writes: bool
    direct: bool
    open_to_all: bool
    ttl_monitor: bool | None
    clock_ahead: float
    clock_error: float


def findings(facts: Facts, settings: Settings) -> list[Finding]:
    """Judge the settings and the database.

    Returns:
        What was found, good and bad, in the order of the subjects.
    """
    return [
        *_cookie(settings.cookie),
        *_timeouts(settings.timeouts),
        *_rotation(settings.rotation),
        *_keys(settings.keys),
        _random(settings.random_is_secure),
        _data(settings.max_data),
        *_visitors(in_cookies=settings.visitors_in_cookies),
        *_collection(facts),
        *_writes(facts),
        *_server(facts),
        _clock(facts),
    ]


def worst(found: Sequence[Finding]) -> Severity:
    """The worst severity among findings."""
    return max((each.severity for each in found), key=list(Severity).index, default=Severity.OK)


def _cookie(cookie: Cookie) -> Iterator[Finding]:
    if cookie.secure:
        yield Finding(Severity.OK, "cookie", "Secure: it travels over TLS only", source=f"{ASVS}, 3.3.1; {OWASP}")
    else:
        yield Finding(
            Severity.FAILURE,
            "cookie",
            "it lacks Secure",
            "anybody on the network reads the token off the first plain HTTP request, and may plant one",
            f"{ASVS}, 3.3.1; {OWASP}",
            "serve over TLS, with Cookie(secure=True)",
        )
    yield Finding(Severity.OK, "cookie", "HttpOnly: no script reads it", source=f"{ASVS}, 3.3.4; {OWASP}")
    yield from _scope(cookie)
    if cookie.same_site == "none":
        yield Finding(
            Severity.WARNING,
            "cookie",
            "SameSite=None",
            "requests that foreign pages make carry the session: every form needs a defence of its own (CSRF)",
            f"{ASVS}, 3.3.2; {OWASP}",
            'Cookie(same_site="lax"), unless your pages are embedded in those of others',
        )
    else:
        what = f"SameSite={cookie.same_site.capitalize()}"
        yield Finding(Severity.OK, "cookie", what, source=f"{ASVS}, 3.3.2; {OWASP}")
    if cookie.persistent:
        yield Finding(
            Severity.NOTE,
            "cookie",
            "it is persistent (Max-Age)",
            "it outlives the browser on the disk of a shared computer",
            OWASP,
            "Cookie(persistent=False), and session.set_expiry(persistent=True) for those who tick 'remember me'",
        )
    else:
        yield Finding(Severity.OK, "cookie", "it goes when the browser is closed", source=OWASP)


def _scope(cookie: Cookie) -> Iterator[Finding]:
    """Which hosts get it, and which may set it."""
    prefix = cookie.name.lower()
    if prefix.startswith("__host-"):
        what = f"{cookie.name}: one host alone gets it and may set it"
        yield Finding(Severity.OK, "cookie", what, source=f"{ASVS}, 3.3.3; {RFC}, 4.1.3.2")
        return
    if cookie.domain is not None:
        yield Finding(
            Severity.WARNING,
            "cookie",
            f"Domain={cookie.domain}",
            "every host below that name gets the token and may plant one: the weakest of them counts",
            f"{ASVS}, 3.3.3; {OWASP}",
            'Cookie(name="__Host-session"), without a domain',
        )
    if not cookie.secure:
        return  # no prefix without Secure, and that has been said
    if prefix.startswith(("__secure-", "__http-")):
        if cookie.domain is None:
            yield Finding(
                Severity.NOTE,
                "cookie",
                f"{cookie.name} is set for one host, and its subdomains may set it, too",
                "a subdomain may plant a cookie over it: that logs out, it does not log in",
                f"{ASVS}, 3.3.3; {RFC}, 4.1.3.2",
                'Cookie(name="__Host-session")' + ("" if cookie.path == "/" else ', with path="/"'),
            )
    else:
        yield Finding(
            Severity.WARNING,
            "cookie",
            f"the name {cookie.name} has no prefix",
            "a subdomain, or anybody on the network by way of plain HTTP, may plant a cookie of that name",
            f"{ASVS}, 3.3.1 and 3.3.3; {RFC}, 4.1.3",
            'Cookie(name="__Host-session"), or "__Secure-session" where it has a domain or a path',
        )


def _timeouts(timeouts: Timeouts) -> Iterator[Finding]:
    idle, absolute = _length(timeouts.idle), _length(timeouts.absolute)
    source = f"{ASVS}, 7.3.1; {OWASP}: 15-30 minutes at low risk; {NIST}, AAL2: an hour"
    if timeouts.idle <= 1800:
        yield Finding(Severity.OK, "timeouts", f"idle: {idle}", source=source)
    else:
        yield Finding(
            Severity.NOTE,
            "timeouts",
            f"idle: {idle}",
            "a browser that was left alone stays logged in for so long",
            source,
            "Timeouts(idle=1800), or write down why it may be longer",
        )
    source = f"{ASVS}, 7.3.2; {OWASP}: 4-8 hours for an office; {NIST}: AAL2 24 hours, AAL1 30 days"
    if timeouts.absolute <= DAY:
        yield Finding(Severity.OK, "timeouts", f"absolute: {absolute}", source=source)
    else:
        yield Finding(
            Severity.NOTE if timeouts.absolute <= 30 * DAY else Severity.WARNING,
            "timeouts",
            f"absolute: {absolute}",
            "a session that is used all the time, by its owner or a thief, ends no sooner",
            source,
            "Timeouts(absolute=86400), or write down why it may be longer",
        )


def _rotation(rotation: Rotation) -> Iterator[Finding]:
    """As docs/security.md has it: what counts is how many seconds of use the accepted tokens cover."""
    source = "docs/security.md, docs/simulation.md"
    ttl, accepted = rotation.ttl, rotation.accepted
    if ttl is None:
        yield Finding(
            Severity.NOTE,
            "rotation",
            "ttl None: tokens never change between log-ins",
            "whoever copies one holds the session to its end, and nobody notices",
            source,
            "Rotation(ttl=60)",
        )
        return
    honest = "honest people are logged out" if rotation.on_copied == "revoke" else "honest people are refused"
    if accepted * ttl < _COVERED:
        yield Finding(
            Severity.WARNING,
            "rotation",
            f"ttl {_length(ttl)}, {accepted} tokens are accepted: {_length(accepted * ttl)} of use",
            f"{honest}: slow handlers, phone networks and browsers that were killed present a token of 30-60 s ago",
            source,
            "Rotation(grace=60)",
        )
    elif 15 <= ttl <= 50 and rotation.grace < 120 and rotation.window < 1 + 180 / ttl:  # three minutes of tokens
        yield Finding(
            Severity.WARNING,
            "rotation",
            f"ttl {_length(ttl)}, {accepted} tokens",
            f"{honest}: on networks of 2-25 s each way in most hours at 20 and 30 s, in a few at 15 and 40",
            source,
            f"ttl=5, ttl=60, grace=120, or window={1 + math.ceil(180 / ttl)}",
        )
    if accepted > rotation.window:
        yield Finding(
            Severity.NOTE,
            "rotation",
            f"ttl {_length(ttl)} with grace {_length(rotation.grace)}: {accepted} tokens are accepted",
            "a leaked token is overtaken soon, and a thief who polls beside an active victim may go unnoticed",
            source,
            f"Rotation(ttl=60), or window={accepted}, if you want to notice him",
        )
    elif ttl >= 300:
        yield Finding(
            Severity.NOTE,
            "rotation",
            f"ttl {_length(ttl)}",
            "a thief who polls beside an active victim has a quarter of an hour and more until he is noticed",
            source,
            "Rotation(ttl=60): about five minutes, for four times the writes",
        )
    else:
        what = f"ttl {_length(ttl)}: a thief as active as his victim is noticed"
        yield Finding(Severity.OK, "rotation", what, source=source)
    if rotation.on_copied == "refuse":
        yield Finding(
            Severity.NOTE,
            "rotation",
            "on_copied refuse: a session whose copied token turned up goes on",
            "the thief may be the one who goes on with it",
            "RFC 9700, 4.14.2",
            'Rotation(on_copied="revoke"), once tokens from before a change of the ttl have gone',
        )


def _keys(keys: Sequence[KeyInfo]) -> Iterator[Finding]:
    if not keys:
        yield Finding(
            Severity.FAILURE,
            "keys",
            "there is none: MONGOSESSION_KEYS is not set here",
            "an engine that takes its settings from this environment does not start",
            way_out="python -m mongosession key prints one; or check the application's own engine with --engine",
        )
        return
    for position, key in enumerate(keys, 1):
        if key.doubt is not None:
            yield Finding(
                Severity.WARNING,
                "keys",
                f"key {position} of {len(keys)} ({key.role}) does not look random: {key.doubt}",
                "whoever guesses it makes tokens that verify; all that still stops him is the sid, in the cookie alone",
                f"{ASVS}, 11.5.1",
                "python -m mongosession key; then change keys in three steps (docs/keys.md)",
            )
    roles = [key.role for key in keys]
    if Role.OLD in roles:
        yield Finding(
            Severity.NOTE,
            "keys",
            f"{roles.count(Role.OLD)} old, still accepted",
            "a key that leaked is of use to nobody only once it has been withdrawn",
            "docs/keys.md",
            "withdraw it when the absolute timeout has passed since it was primary",
        )
    if Role.NEXT in roles:
        yield Finding(
            Severity.NOTE,
            "keys",
            f"{roles.count(Role.NEXT)} next: a change of keys is under way",
            "it signs nothing yet",
            "docs/keys.md",
            "make it primary once every server has it",
        )
    if all(key.doubt is None for key in keys):
        lengths = ", ".join(str(key.bytes) for key in keys)
        yield Finding(Severity.OK, "keys", f"{len(keys)} ({lengths} bytes)", source=f"{ASVS}, 11.5.1")


def _random(is_secure: bool) -> Finding:
    if is_secure:
        return Finding(Severity.OK, "random", "chance is the operating system's", source=f"{ASVS}, 11.5.1")
    return Finding(
        Severity.FAILURE,
        "random",
        "chance is a function of the application's own, and not the operating system's",
        "whoever can tell what it gives next knows the sids of new sessions: half of what a token is made of",
        f"{ASVS}, 11.5.1",
        "leave SessionEngine(random=...) away; it is there for tests",
    )


def _data(max_data: int) -> Finding:
    size = f"{max_data / 1024:g} KiB"
    if max_data <= 64 * 1024:
        return Finding(Severity.OK, "data", f"at most {size} a session")
    return Finding(
        Severity.NOTE if max_data <= 2**20 else Severity.WARNING,
        "data",
        f"max_data is {size}",
        "every request reads all of its session",
        "docs/scale.md",
        "keep in the session what each request needs, and the rest in collections of its own",
    )


def _visitors(*, in_cookies: bool) -> Iterator[Finding]:
    if in_cookies:
        yield Finding(
            Severity.NOTE,
            "visitors",
            'anonymous="cookie": their sessions live in a signed cookie',
            "they can read their data and bring back an older cookie; whoever has the key can make up any",
            "docs/visitors.md",
            'session.protect() before secrets and vouchers are stored, or anonymous="database"',
        )


def _collection(facts: Facts) -> Iterator[Finding]:
    if not facts.exists:
        yield Finding(
            Severity.FAILURE,
            "collection",
            f"{facts.collection} is not there",
            "without its indexes nothing expires, and a subject's sessions are found by reading them all",
            way_out="python -m mongosession setup",
        )
        return
    for option, what in (
        ("viewOn", "is a view"),
        ("timeseries", "is a time series"),
        ("capped", "is capped: it drops the oldest sessions"),
        ("collation", 'has a collation: "user:a" may be "user:A" to it'),
    ):
        if facts.options.get(option):
            yield _unsuitable(facts, what)
    if facts.holds_foreign:
        yield _unsuitable(facts, "holds documents that are no sessions: a time in expires_at deletes them")
    elif facts.holds_foreign is None:
        yield Finding(
            Severity.NOTE,
            "collection",
            f"{facts.collection} has too many documents to look at all of them now",
            "some may be no sessions, and a time in expires_at deletes them",
            way_out="python -m mongosession stats counts them as foreign",
        )
    for fault in facts.index_faults:
        yield Finding(
            Severity.FAILURE,
            "indexes",
            fault,
            "expired sessions stay for ever, or a subject's sessions are found by reading them all",
            "docs/scale.md",
            "python -m mongosession setup",
        )
    if not facts.index_faults:
        yield Finding(Severity.OK, "indexes", "expiry and subject are there and right", source="docs/scale.md")
    for name, index in facts.indexes.items():
        if "expireAfterSeconds" in index and "expires_at" not in dict(index["key"]):
            yield Finding(
                Severity.WARNING,
                "indexes",
                f"{name} on {', '.join(dict(index['key']))} expires documents, too",
                "sessions end when it says, whatever the timeouts say",
                way_out="drop it",
            )
    clustered = "clustered by _id" if facts.options.get("clusteredIndex") else "not clustered"
    yield Finding(Severity.OK, "collection", f"{facts.collection}: {clustered}", source="docs/scale.md")


def _unsuitable(facts: Facts, what: str) -> Finding:
    return Finding(
        Severity.FAILURE,
        "collection",
        f"{facts.collection} {what}",
        "sessions need a plain collection of their own",
        way_out="use another collection, and python -m mongosession setup",
    )


def _writes(facts: Facts) -> Iterator[Finding]:
    w = facts.write_concern.get("w", 1)
    source = "docs/command-line.md"
    way_out = "w=majority in the connection string, or none: it is the server's default since MongoDB 5.0"
    if w == 0:
        yield Finding(
            Severity.WARNING,
            "writes",
            "w=0: the client does not wait for an answer",
            "the store writes with w=1 instead; the rest of the application loses writes without a word",
            source,
            way_out,
        )
    elif w == 1 and facts.topology != "standalone":
        yield Finding(
            Severity.WARNING,
            "writes",
            "w=1: one server has it when the call returns",
            "a failover may undo the last data writes and rotations (those heal); never a log-in or a log-out",
            source,
            way_out,
        )
    elif w == "majority" and facts.topology != "standalone":
        yield Finding(Severity.OK, "writes", f"w={w}: a failover undoes nothing that was confirmed", source=source)
    elif facts.topology != "standalone":
        yield Finding(
            Severity.NOTE,
            "writes",
            f"w={w}: that may be fewer servers than a majority",
            "then a failover may undo the last data writes and rotations (those heal); never a log-in or a log-out",
            source,
            way_out,
        )
    if facts.write_concern.get("j") is False or (facts.topology == "standalone" and not _journaled(facts)):
        yield Finding(
            Severity.NOTE,
            "writes",
            "they are confirmed before they are in the journal",
            "a crash of the server may undo the last 0.1 s of data writes and rotations (those heal)",
            source,
            "journal=true in the connection string, if that matters",
        )
    if facts.topology == "standalone":
        yield Finding(
            Severity.WARNING,
            "topology",
            "a standalone server",
            "while it is away nobody has a session; a write whose answer was lost is not repeated",
            source,
            "a replica set of three; even one of one member repeats writes",
        )
    elif facts.direct and facts.topology == "replica set":
        yield Finding(
            Severity.WARNING,
            "topology",
            "a replica set, of which this client knows one server (directConnection=true)",
            "once another one is the primary, nobody has a session",
            source,
            "replicaSet=... in the connection string instead of directConnection=true, with all servers",
        )
    elif not facts.retry_writes:
        yield Finding(
            Severity.WARNING,
            "topology",
            f"a {facts.topology}, with retryWrites=false",
            "at each election requests fail that the driver would have repeated",
            source,
            "remove retryWrites=false from the connection string",
        )
    else:
        yield Finding(Severity.OK, "topology", f"a {facts.topology}, and the driver repeats writes", source=source)


def _journaled(facts: Facts) -> bool:
    return bool(facts.write_concern.get("j")) or facts.write_concern.get("w") == "majority"


def _server(facts: Facts) -> Iterator[Finding]:
    version = ".".join(map(str, facts.version))
    if facts.version[:2] < _SUPPORTED:
        yield Finding(
            Severity.NOTE,
            "server",
            f"MongoDB {version}",
            "its makers mend nothing below 7.0 any more, security holes included (6.0: since July 2025)",
            "MongoDB Software Lifecycle Schedules",
            "upgrade",
        )
    else:
        yield Finding(Severity.OK, "server", f"MongoDB {version}")
    if facts.open_to_all:
        yield Finding(
            Severity.NOTE,
            "server",
            "it serves clients without a user name, and is on another machine",
            "whoever reaches its port reads what sessions hold, and ends them; the network has to keep him away",
            "MongoDB Security Checklist",
            "enable access control, and TLS; a user of the application's own with readWrite on its database",
        )
    if facts.ttl_monitor is None:
        yield Finding(
            Severity.NOTE,
            "server",
            "it does not say whether it removes expired documents (ttlMonitorEnabled)",
            "this user may not ask, or the server is a router",
            way_out="python -m mongosession stats: 'expired, still there' should be few",
        )
    elif facts.ttl_monitor:
        yield Finding(Severity.OK, "server", "it removes expired documents (ttlMonitorEnabled)")
    else:
        yield Finding(
            Severity.WARNING,
            "server",
            "its TTL monitor is off",
            "expired sessions open nothing, and pile up",
            way_out="db.adminCommand({setParameter: 1, ttlMonitorEnabled: true})",
        )


def _clock(facts: Facts) -> Finding:
    ahead = facts.clock_ahead
    apart = max(0.0, abs(ahead) - facts.clock_error)  # what is certain
    what = f"the engine's is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the server's"
    why = "MongoDB removes documents by its own clock, two minutes late; application servers may be as far apart"
    if apart <= LEVEL_CLOCK:
        return Finding(Severity.OK, "clock", what, source="docs/security.md")
    severity = Severity.WARNING if apart <= SKEW else Severity.FAILURE
    return Finding(severity, "clock", what, why, "docs/security.md", "synchronise both (NTP); no clock=...")


def _length(seconds: float) -> str:
    """A length of time in the largest unit that it is a multiple of."""
    for unit, size in (("days", DAY), ("hours", 3600), ("min", 60)):
        if seconds >= 2 * size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"
