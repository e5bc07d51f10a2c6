"""Who may import whom: the rooms of the design, read off the source: a breach shows without anything being run."""

import ast
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mongosession"
ADAPTERS = ROOT / "adapters"

# What the package itself offers: `from mongosession import ...`.
PUBLIC = "mongosession"

# Each module of the package, and what of the package it may import.
ROOMS = {
    "errors": "",
    "events": "",
    "policy": "",
    "http": "",
    "keys": "policy",
    "recent": "",
    "tokens": "policy keys recent",
    "values": "errors",
    "tracker": "errors events rotation signed store tokens values",
    "session": "errors events tracker values",
    "settings": "events keys policy",
    "signed": "keys policy recent rotation store tokens values",
    "cookies": "policy",
    "store": "values",
    "rotation": "tokens store policy events",
    "plan": "errors events rotation session signed store policy tokens tracker values",
    "begun": "plan",
    "logs": "events",
    "engine": "errors events policy http keys tokens values session settings signed cookies store rotation plan begun "
    "logs tracker",
    "memory": "store errors values",
    "deadline": "",
    "mongo": "deadline store errors policy values",
    "mongod": "",
    "testing": "engine events memory mongo session store",
    "check": "keys policy",
    "inspection": "check errors mongo policy store",
    "commands": f"{PUBLIC} check inspection",
    "__main__": "commands",
}

# No I/O, no clock, no randomness: time and chance are arguments, so that every interleaving can be run in a test.
PURE = {
    *("errors", "events", "policy", "http", "keys", "tokens", "values", "session", "signed", "cookies", "store"),
    *("rotation", "tracker", "plan", "begun", "settings", "check", "recent"),
}
IMPURE_MODULES = {"anyio", "asyncio", "importlib", "logging", "motor", "os", "pymongo", "random", "secrets", "time"}
IMPURE_CALLS = {"now", "utcnow", "today", "uuid1", "uuid4"}  # of datetime, date and uuid, which values are made of

# The drivers' packages, and the only rooms that may import them.
DRIVERS = {
    "pymongo": {"mongo", "mongod", "inspection"},
    "motor": {"mongo"},
    "bson": {"mongo", "values"},
}

# The modules of the package that adapters may import from: public names only, and no other adapter.
ADAPTERS_MAY_IMPORT = {PUBLIC, "http"}
ONE_ADAPTER_MAY_IMPORT = {"mongosession_pytest": {"testing"}}


def imports(source: str) -> Iterator[tuple[str, str]]:
    """Each import anywhere in a module, as (module, name); the name is empty for `import module`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, [PUBLIC if node.level else "", node.module]))
            yield from ((module, alias.name) for alias in node.names)


def ours(source: str) -> Iterator[tuple[str, str]]:
    """The imports of our package, as (room, name); the room is `PUBLIC` where the package itself is meant."""
    for module, name in imports(source):
        package, _, room = module.partition(".")
        if package != PUBLIC:
            continue
        if not room and (name in ROOMS or name.startswith("_")):
            yield name, ""
        else:
            yield room or PUBLIC, name


def packages(source: str) -> set[str]:
    """The top-level packages that a module imports."""
    return {module.partition(".")[0] for module, _ in imports(source)}


def rooms() -> list[str]:
    """The modules of the package, as they are on the disk."""
    return sorted(path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py"))


def source_of(room: str) -> str:
    return (PACKAGE / f"{room}.py").read_text()


def adapter_sources() -> list[str]:
    return sorted(path.relative_to(ADAPTERS).as_posix() for path in ADAPTERS.rglob("*.py"))


def test_every_module_has_its_row() -> None:
    assert set(rooms()) - {"__init__"} <= ROOMS.keys()


def test_the_table_has_no_cycle() -> None:
    TopologicalSorter({room: allowed.split() for room, allowed in ROOMS.items()}).prepare()


def test_rooms_import_what_their_rows_allow() -> None:
    found = {room: {imported for imported, _ in ours(source_of(room))} for room in rooms() if room in ROOMS}
    breaches = {room: imported - set(ROOMS[room].split()) for room, imported in found.items()}
    assert not {room: breach for room, breach in breaches.items() if breach}


def test_pure_rooms_reach_neither_clock_nor_chance_nor_world() -> None:
    for room in PURE & set(rooms()):
        source = source_of(room)
        names = {name for _, name in imports(source)}
        calls = {
            node.func.attr
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        }
        assert not packages(source) & IMPURE_MODULES, room
        assert not (calls | names) & IMPURE_CALLS, room


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_driver_stays_in_its_rooms(driver: str) -> None:
    assert {room for room in rooms() if driver in packages(source_of(room))} <= DRIVERS[driver]


def test_adapters_import_public_names_only() -> None:
    names = {package.name for package in ADAPTERS.iterdir()}
    for path in adapter_sources():
        source = (ADAPTERS / path).read_text()
        may = ADAPTERS_MAY_IMPORT | ONE_ADAPTER_MAY_IMPORT.get(Path(path).parts[0], set())
        assert {room for room, _ in ours(source)} <= may, path
        assert not {name for _, name in ours(source) if name.startswith("_")}, path
        assert not packages(source) & DRIVERS.keys(), path
        assert not packages(source) & (names - {Path(path).parts[0]}), path


def test_the_wheel_holds_every_package_and_its_types() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    typed = {marker.parent for marker in [PACKAGE / "py.typed", *ADAPTERS.glob("*/py.typed")] if marker.exists()}
    assert {ROOT / package for package in build["packages"]} == typed
    assert {ADAPTERS / Path(path).parts[0] for path in adapter_sources()} <= typed


# The reading of imports has to be right for the rest to mean something.
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("import mongosession", {("mongosession", "")}),
        ("import mongosession.plan as p", {("plan", "")}),
        ("from mongosession import Cookie, plan", {("mongosession", "Cookie"), ("plan", "")}),
        ("from mongosession.plan import Plan, _hidden", {("plan", "Plan"), ("plan", "_hidden")}),
        ("from mongosession import _hidden", {("_hidden", "")}),
        ("from . import plan", {("plan", "")}),
        ("from .plan import Plan", {("plan", "Plan")}),
        ("def later():\n    from mongosession.plan import Plan", {("plan", "Plan")}),
        ("if TYPE_CHECKING:\n    from mongosession.plan import Plan", {("plan", "Plan")}),
        ("import mongosession_asgi, planning\nfrom time import time", set()),
    ],
)
def test_imports_are_found(line: str, expected: set[tuple[str, str]]) -> None:
    assert set(ours(line)) == expected
