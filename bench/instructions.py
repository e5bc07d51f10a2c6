"""What sessions cost in the process, in instructions: valgrind counts them, so a busy machine changes nothing.

    python -m bench.instructions                      # everything, beside Starlette's; a minute or two
    python -m bench.instructions ours read change     # some cases of one target; seconds

The figure is the difference of two runs, of 200 and of 1,200 requests, by request, less that of the bare application.
"""

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from itertools import chain
from typing import NamedTuple

from mongosession import SessionEngine

from .inprocess import CASES
from .results import ROOT, Figure, Goal, Part, goal, value

FEW, MANY = 200, 1200

TITLE = "Instructions in the process"
DID = (
    "Instructions that a request executes in the process, over those of the bare ASGI application, counted by "
    f"valgrind's cachegrind with a fixed hash seed: the difference of a run of {MANY:,} and one of {FEW} requests. No "
    "sockets and no database: `MemoryStore`, and a clock that is moved by hand. Starlette's SessionMiddleware keeps "
    "its data in a signed cookie. A rotation is compared with its change: those are the requests whose answer sets a "
    'cookie. "By hand" finds a cookie and checks its MAC (keyed BLAKE2b), and does nothing else.'
)

# Of Starlette's for the same; a rotation is beside its change.
GOALS = {
    "ours": {"read": 0.5, "change": 0.5, "rotation": 0.5, "none": 0.5, "forged": 0.3},
    "visitors": {"read": 0.5, "change": 0.5, "none": 0.5, "forged": 0.5},
}
BESIDE = {case: "change" if case == "rotation" else case for case in CASES}
WORDS = {
    "read": "one key read",
    "change": "one key changed",
    "rotation": "a rotation",
    "none": "no cookie",
    "forged": "a forged cookie",
}
NAMES = {
    "ours": "mongosession",
    "visitors": 'mongosession, `anonymous="cookie"`',
    "starlette": "Starlette",
    "starsessions": "starsessions, in memory",
    "hand": "by hand",
}


class Case(NamedTuple):
    """What is counted."""

    target: str
    case: str


def targets() -> dict[str, tuple[str, ...]]:
    """Those that this environment and this release have, and their cases."""
    without_rotation = tuple(case for case in CASES if case != "rotation")
    found = {"ours": CASES, "starlette": without_rotation, "hand": ("read", "none", "forged")}
    if "anonymous" in inspect.signature(SessionEngine).parameters:
        found["visitors"] = without_rotation
    if find_spec("starsessions"):
        found["starsessions"] = without_rotation
    return found


def executed(*arguments: str, **variables: str) -> int:
    """Instructions of a whole run of Python.

    Args:
        arguments: of the interpreter.
        variables: of its environment, beside those that are there.

    Raises:
        RuntimeError: it failed, or valgrind did; the message holds what they said.
    """
    program = [sys.executable, *arguments]
    path = os.pathsep.join([str(ROOT), str(ROOT / "adapters")])  # this very tree, whatever is installed
    done = subprocess.run(
        ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null", *program],
        env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    told = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    if done.returncode or told is None:
        raise RuntimeError(f"valgrind did not count {arguments}:\n{done.stderr}")
    return int(told[1].replace(",", ""))


@cache
def _per_request(target: str, case: str) -> int:
    program = ("-m", "bench.inprocess", target, case)
    with ThreadPoolExecutor() as pool:
        few, many = pool.map(lambda requests: executed(*program, str(requests)), (FEW, MANY))
    return (many - few) // (MANY - FEW)


def count(target: str, case: str) -> int:
    """Instructions a request, over the bare application."""
    return _per_request(target, case) - _per_request("bare", "read")


def compare(cases: Iterable[Case]) -> Iterable[Figure]:
    """The cases, and ours beside Starlette's."""
    for target, case in cases:
        counted = count(target, case)
        yield Figure(f"{WORDS[case]}: {NAMES[target]}", counted, "instructions")
        if target in GOALS:
            beside = BESIDE[case]
            aim: Goal = ("at most", GOALS[target][case])
            ratio = counted / count("starlette", beside)
            yield Figure(f"{NAMES[target]}, {WORDS[case]}, to Starlette's {WORDS[beside]}", ratio, goal=aim)


def run() -> Part:
    """The whole part."""
    cases = chain.from_iterable((Case(target, case) for case in each) for target, each in targets().items())
    return Part(TITLE, DID, list(compare(cases)))


def main() -> None:
    """Print a few cases, or all."""
    target, *cases = sys.argv[1:] or [""]
    for case in cases:
        print(f"{target} {case}: {count(target, case):,}", flush=True)
    if not cases:
        for figure in run().figures:
            print(f"{figure.name}: {value(figure)} {goal(figure)}", flush=True)


if __name__ == "__main__":
    main()
