"""The commands of ``python -m mongosession``: what is asked, what is printed, which code it exits with.

They work on an engine: the application's own (``--engine``), or one made of the environment for the collection that
``--uri`` and ``--collection`` name.
"""

import asyncio
import importlib
import inspect
import json
import os
import re
import secrets
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import update_wrapper
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar

import click
from click.core import ParameterSource
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from mongosession import MongoStore, SessionEngine, SessionInfo, SetupError, StoreError, StoreUnavailable
from mongosession.check import Finding, Settings, Severity, findings, worst
from mongosession.inspection import AGES, Stats, close, connect, driver_errors, gather, greet, measure, require

_SESSION_ID = re.compile("[0-9a-fA-F]{32}")

AT_ONCE = 64
"""How many sessions ``revoke --all`` ends at a time."""

_WIDE_ENOUGH = 100
_WIDE_ENOUGH_WITHOUT = 80
"""Columns of a terminal that a session takes in a line, with a description and without."""

_P = ParamSpec("_P")
_T = TypeVar("_T")

_STYLES = {Severity.OK: "green", Severity.NOTE: "cyan", Severity.WARNING: "yellow", Severity.FAILURE: "bold red"}

_EPILOG = """\b
Exit codes: 0 done, all well
            1 check found something, or it was not done: declined,
              interrupted, no such session or collection, refused by setup
            2 the command or a setting makes no sense
            3 the database is away, or refuses
"""


class NotDone(click.ClickException):
    """An error that the operator can do something about: one line, and an exit code."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class Misuse(NotDone):
    """The command or a setting makes no sense."""

    exit_code = 2


class Away(NotDone):
    """The database does not answer, or refuses."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class Where:
    """Which engine: ``engine`` names the application's, or ``uri`` and ``collection`` say where the sessions are."""

    engine: str = ""
    uri: str = ""
    collection: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """An engine, its store, and the words for both.

    Attributes:
        engine, store: what a command works on.
        keys: whether the engine's keys are the application's, and not made up for want of any.
        settings: where the engine's settings come from, in words.
    """

    engine: SessionEngine
    store: MongoStore
    keys: bool
    settings: str

    @property
    def place(self) -> str:
        """Which collection, on which servers."""
        nodes = sorted(f"{host}:{port}" for host, port in self.store.collection.database.client.nodes)
        return f"{self.store.collection.full_name} at {', '.join(nodes) or 'a server unknown'}"


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.version_option(package_name="mongosession")
def cli() -> None:
    """Look after the sessions of a web application in MongoDB.

    \b
    Which sessions? Either those of your application's own engine:
        python -m mongosession stats --engine shop.app:engine
    or those of a collection, with the settings of the environment (MONGOSESSION_TTL, ...):
        python -m mongosession stats --uri mongodb://localhost --collection shop.sessions
    """


def _placed(command: Callable[Concatenate[Where, bool, _P], None]) -> Callable[..., None]:
    """Give a command the options that say which sessions, and --json."""

    def placed(
        context: click.Context,
        engine: str,
        uri: str,
        collection: str,
        as_json: bool,
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> None:
        command(_where(context, engine, uri, collection), as_json, *args, **kwargs)

    update_wrapper(placed, command)
    wrapper: Callable[..., None] = click.pass_context(placed)
    wrapper = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(wrapper)
    for name, metavar, text in (
        ("collection", "DB.NAME", "The sessions' collection."),
        ("uri", "URI", "The connection string."),
        ("engine", "MODULE:NAME", "The application's engine, or a function without arguments that makes it."),
    ):
        variable = f"MONGOSESSION_{name.upper()}"
        option = click.option(f"--{name}", envvar=variable, show_envvar=True, metavar=metavar, default="", help=text)
        wrapper = option(wrapper)
    return wrapper


def _where(context: click.Context, engine: str, uri: str, collection: str) -> Where:
    """What was typed counts before what the environment says: nobody revokes in the wrong place for a variable."""
    sources = {name: context.get_parameter_source(name) for name in ("engine", "uri", "collection")}
    typed = {name for name, source in sources.items() if source is ParameterSource.COMMANDLINE}
    if "engine" in typed and len(typed) > 1:
        raise Misuse("--engine brings its own collection: leave --uri and --collection away")
    if engine and typed <= {"engine"}:
        return Where(engine=engine)
    if uri and collection:
        return Where(uri=uri, collection=collection)
    raise Misuse(
        "which sessions? Give --engine MODULE:NAME (MONGOSESSION_ENGINE), or both --uri URI (MONGOSESSION_URI) and "
        "--collection DB.NAME (MONGOSESSION_COLLECTION)"
    )


# The commands.


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def key(as_json: bool) -> None:
    """Print a new secret key: 256 random bits as text. Asks no database."""
    new = secrets.token_urlsafe(32)
    if as_json:
        _print_json({"key": new})
    else:
        click.echo(new)


@cli.command()
@click.option("--clustered", is_flag=True, help="Create the collection clustered by _id, if it is not there yet.")
@_placed
def setup(where: Where, as_json: bool, clustered: bool) -> None:
    """Create the collection and its indexes.

    Changes nothing that is there, and may be repeated.
    """

    async def work(target: Target) -> dict[str, Any]:
        store = target.store
        if clustered:
            store = MongoStore(store.collection, timeout=store.timeout, clustered=True)
        with _busy("looking at what is there, building what is missing"):
            await store.setup()
        facts = await gather(store)
        return {
            "collection": facts.collection,
            "indexes": sorted(facts.indexes),
            "clustered": bool(facts.options.get("clusteredIndex")),
        }

    done = _run(where, work, new=True)
    if as_json:
        _print_json(done)
    else:
        click.echo(f"{done['collection']} is ready{', clustered by _id' if done['clustered'] else ''}")
        click.echo(f"indexes: {', '.join(done['indexes'])}")


@cli.command()
@_placed
def stats(where: Where, as_json: bool) -> None:
    """Count the sessions, with their sizes and ages.

    Reads every document once, on the server.
    """

    async def work(target: Target) -> tuple[str, Stats]:
        documents: int = await target.store.collection.estimated_document_count()
        with _busy(f"reading about {documents:,} documents"):
            return target.place, await measure(target.store, time.time())

    place, found = _run(where, work)
    if as_json:
        storage = found.storage._asdict() | {"per_document": found.storage.per_document}
        _print_json(found._asdict() | {"data": found.data._asdict(), "storage": storage})
    else:
        _print_stats(place, found)


@cli.command("list")
@click.argument("subject")
@_placed
def list_(where: Where, as_json: bool, subject: str) -> None:
    """List the living sessions of SUBJECT, the last used first."""
    _check_subject(subject)

    async def work(target: Target) -> list[SessionInfo]:
        found = await _living(target, subject)
        return sorted(found, key=lambda each: each.seen_at, reverse=True)

    found = _run(where, work)
    if as_json:
        _print_json([_plain(each) for each in found])
    elif found:
        _print_sessions(found)
    else:
        click.echo(f"{_printable(subject)} has no living sessions")


@cli.command()
@click.argument("id", required=False)
@click.option("--subject", metavar="SUBJECT", help="End all sessions of a subject.")
@click.option("--all", "everything", is_flag=True, help="End all sessions there are.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Count what would end, and end nothing.")
@_placed
def revoke(
    where: Where, as_json: bool, id: str | None, subject: str | None, everything: bool, yes: bool, dry_run: bool
) -> None:
    """End a session, those of a subject, or all.

    Asks before, unless --yes.
    """
    if [id is not None, subject is not None, everything].count(True) != 1:
        raise Misuse("what should end? Give one of: ID, --subject SUBJECT, --all")
    if subject is not None:
        _check_subject(subject)
    if id is not None and not _SESSION_ID.fullmatch(id):
        raise Misuse(f"{_printable(id)} is no session id: it must be 32 hexadecimal digits")
    if not yes and not dry_run and not sys.stdin.isatty():
        raise Misuse("revoke asks before it ends sessions, and here is no terminal to ask: add --yes")

    async def work(target: Target) -> int:
        if dry_run:
            return await _count(target, id, subject)
        if id is not None:
            return await _revoke_one(target, id, yes)
        if subject is not None:
            return await _revoke_subject(target, subject, yes)
        return await _revoke_all(target, yes)

    ended = _run(where, work)
    if as_json:
        _print_json({"would_end" if dry_run else "ended": ended})
    else:
        click.echo(f"{'would end' if dry_run else 'ended'}: {ended:,}")
    if id is not None and not ended:
        raise NotDone("there is no session of that id, or it had ended already")


@cli.command()
@_placed
def check(where: Where, as_json: bool) -> None:
    """Check settings and database against OWASP, ASVS and NIST.

    Run it where the application runs, in its environment: clocks are compared, too. Exits with 1 from a warning on.
    """

    async def work(target: Target) -> tuple[str, list[Finding]]:
        engine = target.engine
        facts = await gather(target.store, engine.clock)
        settings = Settings(
            cookie=engine.cookie,
            rotation=engine.terms.rotation,
            timeouts=engine.terms.timeouts,
            max_data=engine.terms.max_data,
            keys=engine.keys.keys if target.keys else [],
            random_is_secure=engine.random in (secrets.token_bytes, os.urandom),
            visitors_in_cookies=engine.terms.signed is not None,
        )
        return f"{target.place}, settings of {target.settings}", findings(facts, settings)

    place, found = _run(where, work, new=True)
    if as_json:
        _print_json({"checked": place, "worst": worst(found), "findings": [each._asdict() for each in found]})
    else:
        _print_findings(place, found)
    if worst(found) in (Severity.WARNING, Severity.FAILURE):
        raise click.exceptions.Exit(1)


def _check_subject(subject: str) -> None:
    if not subject:  # "$SUBJECT" where there is none: that nothing ended must not look well
        raise Misuse("the subject is empty, which no session has")


# Ending sessions.


async def _living(target: Target, subject: str) -> list[SessionInfo]:
    """The sessions of a subject that have not expired by what their application stored."""
    now = time.time()
    return [
        SessionInfo.of(each, target.engine.terms.timeouts)._replace(
            expires_at=datetime.fromtimestamp(each.expires_at, UTC)
        )
        async for each in target.store.find(subject)
        if now < each.expires_at
    ]


async def _count(target: Target, id: str | None, subject: str | None) -> int:
    """How many sessions have not ended: of a subject, or of all where neither is given."""
    if id is not None:
        record = await target.store.load(bytes.fromhex(id))
        return int(record is not None and record.reason is None)
    return len([None async for _ in target.store.find(subject)])


async def _revoke_one(target: Target, id: str, yes: bool) -> int:
    record = await target.store.load(bytes.fromhex(id))
    if record is not None and record.reason is None:
        whose = "nobody" if record.subject is None else _printable(record.subject)
        seen = _ago(time.time() - record.seen_at)
        _confirm(yes, f"End the session {id} of {whose}, last seen {seen}, in {target.place}?")
    return int(await target.engine.revoke(id))


async def _revoke_subject(target: Target, subject: str, yes: bool) -> int:
    count = len(await _living(target, subject))
    _confirm(yes, f"End the sessions of {_printable(subject)} (living now: {count:,}) in {target.place}?")
    with _told_how_far(lambda: "some may have ended before"), _busy(f"ending the sessions of {_printable(subject)}"):
        return await target.engine.revoke_subject(subject)


async def _revoke_all(target: Target, yes: bool) -> int:
    """End every session that has begun by now. Those that begin meanwhile may end as well, or not."""
    documents: int = await target.store.collection.estimated_document_count()
    _confirm(yes, f"End ALL sessions in {target.place} (about {documents:,})? Everybody has to log in again.")
    began = time.time()
    ended = 0
    columns = TextColumn("ended"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=documents)

        async def end_one(id: str) -> None:
            nonlocal ended
            was_there = await target.engine.revoke(id)  # awaited before it is added: others count at the same time
            ended += was_there

        async def end(ids: list[str]) -> None:
            done = await asyncio.gather(*map(end_one, ids), return_exceptions=True)
            progress.update(task, completed=ended)
            for each in done:
                if isinstance(each, BaseException):
                    raise each

        with _told_how_far(lambda: f"{ended:,} were ended before"):
            while await _pass(target, began, end):
                pass
        progress.update(task, total=ended)
    return ended


async def _pass(target: Target, began: float, end: Callable[[list[str]], Coroutine[Any, Any, None]]) -> bool:
    """End what is there. Whether some of it was there at the beginning: then another look is due."""
    older = False
    ids: list[str] = []
    async for record in target.store.find():
        older = older or record.created_at < began
        ids.append(record.id.hex())
        if len(ids) == AT_ONCE:
            await end(ids)
            ids = []
    await end(ids)
    return older


@contextmanager
def _told_how_far(words: Callable[[], str]) -> Generator[None, None, None]:
    """Whatever stops the work, the operator learns how much of it was done."""
    try:
        yield
    except asyncio.CancelledError:  # Ctrl-C
        raise NotDone(f"interrupted; {words()}: run it again") from None
    except StoreError as error:
        raise Away(f"{_short(error)}; {words()}: run it again") from None


@contextmanager
def _busy(what: str) -> Generator[None, None, None]:
    """At a terminal, say what takes so long, and how long it has taken; it is gone afterwards."""
    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn(what, markup=False), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task("")
        yield


def _confirm(yes: bool, question: str) -> None:
    if yes:
        return
    interrupted = False

    def interrupt(*_: object) -> NoReturn:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    within_loop = signal.signal(signal.SIGINT, interrupt)  # asyncio's would wait for the answer
    try:
        agreed = click.confirm(question, err=True)
    finally:
        signal.signal(signal.SIGINT, within_loop)
    if interrupted:  # `input` drops what is raised while it flushes the standard error
        raise click.Abort
    if not agreed:
        raise NotDone("nothing was done")


# Finding the engine, and what may go wrong on the way.


def _run(where: Where, work: Callable[[Target], Coroutine[Any, Any, _T]], *, new: bool = False) -> _T:
    """Do a command's work on its engine.

    Args:
        where: which engine.
        work: the work.
        new: whether it may do with a collection that is not there.
    """

    async def run() -> _T:
        async with _opened(where) as target:
            if not new:
                await require(target.store)
            return await work(target)

    try:
        with redirect_stdout(sys.stderr):  # the application may print; the standard output is the command's alone
            return asyncio.run(run())
    except SetupError as error:
        raise NotDone(str(error)) from None
    except StoreUnavailable as error:
        raise Away(f"{_short(error)}; does the server run, and is its address right?") from None
    except StoreError as error:
        raise Away(_short(error)) from None
    except UnicodeError:
        raise Misuse("what was typed is no UTF-8, which every subject is") from None


@asynccontextmanager
async def _opened(where: Where) -> AsyncGenerator[Target]:
    target = await _load(where.engine) if where.engine else _from_environment(where)
    try:
        with _settings():
            await greet(target.store)
        with driver_errors():
            yield target
    finally:
        await target.engine.close()
        await close(target.store.collection)


def _from_environment(where: Where) -> Target:
    has_keys = bool(os.environ.get("MONGOSESSION_KEYS", "").strip())
    with _settings():
        store = MongoStore(connect(where.uri, where.collection))
        if has_keys:
            engine = SessionEngine.from_env(store)
        else:  # no command makes or reads a token: any key does
            engine = SessionEngine.from_env(store, keys=[secrets.token_bytes(32)])
    return Target(engine, store, has_keys, "the environment")


async def _load(spec: str) -> Target:
    """The application's engine, by ``module:attribute``. Within the event loop, which some clients ask for."""
    module, colon, path = spec.partition(":")
    if not (module and colon and path):
        raise Misuse(f"--engine is {spec!r}; it must be MODULE:NAME, such as shop.app:engine")
    sys.path.insert(0, os.getcwd())  # noqa: PTH109  # a text; as `python -m` has it
    with _settings(spec):
        found: Any = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
        if not isinstance(found, SessionEngine) and callable(found):
            found = found()
        if inspect.isawaitable(found):
            found = await found
    if not isinstance(found, SessionEngine):
        raise Misuse(f"{spec} is of type {type(found).__name__}; it must be a SessionEngine or make one")
    if not isinstance(found.store, MongoStore):
        raise Misuse(f"{spec} keeps its sessions in a {type(found.store).__name__}; it must be a MongoStore")
    return Target(found, found.store, True, spec)


@contextmanager
def _settings(spec: str = "") -> Generator[None, None, None]:
    """What goes wrong while an engine is made is for its operator to mend."""
    try:
        yield
    except (Exception, SystemExit) as error:  # whatever the application's module raises
        if not spec and not isinstance(error, ValueError):
            raise
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise Misuse(f"{spec}: {kind}{error}" if spec else str(error)) from None


def _short(error: Exception) -> str:
    """Without the driver's own state, which it appends to what matters."""
    return re.split(r", Timeout:| \(configured timeouts|, full error:", str(error))[0]


# Printing. What users wrote (subjects, descriptions) is never taken for markup, nor for the terminal's commands.


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def _console() -> Console:
    """As wide as the terminal; wide enough for a session in a line where a program reads it."""
    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=160)


def _print(*parts: RenderableType) -> None:
    console = _console()
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _plain(info: SessionInfo) -> dict[str, Any]:
    times = ("created_at", "seen_at", "expires_at")
    return info._asdict() | {name: getattr(info, name).isoformat() for name in times}


def _print_sessions(found: list[SessionInfo]) -> None:
    """Each in a line, or, where the terminal has too few columns, in some. No word is cropped."""
    table = Table(
        "id", "created", "last seen", "expires", "description", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for column in table.columns[:4]:
        column.no_wrap = True
    table.columns[4].overflow = "fold"
    blocks: list[RenderableType] = []
    now = time.time()
    for each in found:
        created, seen, expires = (time.timestamp() for time in (each.created_at, each.seen_at, each.expires_at))
        # Quoted: a user agent may read like a field of its own.
        details = [f"{_printable(name)}: {value!r}" for name, value in each.description.items()]
        row = [each.id, _ago(now - created), _ago(now - seen), f"in {_length(expires - now)}"]
        table.add_row(*map(Text, [*row, ", ".join(details)]))
        told = [f"created {row[1]}", f"last seen {row[2]}", f"expires {row[3]}", *details]
        blocks += [Text(each.id, style="bold"), *(Padding(Text(line), (0, 0, 0, 2)) for line in told)]
    described = any(each.description for each in found)
    in_a_line = _console().width >= (_WIDE_ENOUGH if described else _WIDE_ENOUGH_WITHOUT)
    _print(*([table] if in_a_line else blocks))


def _print_stats(place: str, found: Stats) -> None:
    storage = found.storage
    counts = _grid(
        ("living", f"{found.living:,}"),
        ("  of a subject", f"{found.with_subject:,}"),
        ("expired, still there", f"{found.expired:,}"),
        ("ended, kept for minutes", f"{found.ended:,}"),
        *([("foreign, no sessions", f"{found.foreign:,}")] if found.foreign else []),
    )
    ages = _grid(
        ("living, by age", "began", "last used"),
        *((f"  under {age}", f"{found.created[age]:,}", f"{found.seen[age]:,}") for age in AGES),
        ("  longer", f"{found.created['longer']:,}", f"{found.seen['longer']:,}"),
    )
    sizes = _grid(
        ("data of a living session, median", _bytes(found.data.median)),
        ("  95 % have at most", _bytes(found.data.p95)),
        ("  the largest", _bytes(found.data.largest)),
        ("all documents, as BSON", _bytes(storage.bytes)),
        ("on disk as of the last checkpoint", _bytes(storage.disk)),
        *((f"  index {name}", _bytes(size)) for name, size in storage.indexes.items()),
        ("  all in all, a document", _bytes(storage.per_document)),
    )
    _print(Text(place, style="bold"), "", counts, "", ages, "", sizes)


def _grid(*rows: tuple[str, ...]) -> Table:
    """Words at the left, figures at the right."""
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for position in range(len(rows[0])):
        figures = position > 0  # a narrow terminal breaks the words, and crops no figure
        table.add_column(justify="right" if figures else "left", no_wrap=figures, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _print_findings(place: str, found: list[Finding]) -> None:
    """The worst at the end, where the eye is."""
    order = list(Severity)
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for _ in range(3):
        table.add_column(overflow="fold")
    for each in sorted(found, key=lambda each: order.index(each.severity)):
        good = each.severity is Severity.OK
        text = Text(_printable(each.what), style="" if good else "bold")
        if each.why:
            text.append(f"\n{_printable(each.why)}", style="not bold")
        if each.source:
            text.append(f" ({each.source})", style="not bold dim")
        if each.way_out:
            text.append(f"\nway out: {_printable(each.way_out)}", style="not bold")
        table.add_row(Text(each.severity, style=_STYLES[each.severity]), Text(each.about), text)
    counted = [(severity, [each.severity for each in found].count(severity)) for severity in reversed(order)]
    plural = {Severity.OK: "ok"}
    summary = ", ".join(
        f"{count} {severity if count == 1 else plural.get(severity, f'{severity}s')}"
        for severity, count in counted
        if count
    )
    _print(Text(place, style="bold"), table, summary)


def _bytes(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def _length(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _ago(seconds: float) -> str:
    return f"{_length(seconds)} ago"
