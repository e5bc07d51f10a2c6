"""How long an application waits for ``import mongosession``, beside ``import pymongo``, which it does anyway."""

import os
import subprocess
import sys
from tempfile import TemporaryDirectory

from .instructions import executed
from .results import ROOT, Figure, Part

TITLE = "Import time"
DID = (
    "`import mongosession` and `import pymongo`, each in a new interpreter, in turn, 25 rounds; the ratio of each "
    "round's two. The same in instructions, less those of an interpreter that imports nothing. Both are compiled "
    "already, as what pip has installed is."
)

ROUNDS = 25
CLOCKED = "import time; began = time.perf_counter(); import {}; print(time.perf_counter() - began)"


def _seconds(module: str, compiled: str) -> float:
    environ = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    program = [sys.executable, "-c", CLOCKED.format(module)]
    return float(subprocess.run(program, capture_output=True, text=True, check=True, cwd=ROOT, env=environ).stdout)


def run() -> Part:
    """The whole part."""
    with TemporaryDirectory() as compiled:
        for module in ("pymongo", "mongosession"):
            _seconds(module, compiled)  # compiles it
        rounds = [(_seconds("pymongo", compiled), _seconds("mongosession", compiled)) for _ in range(ROUNDS)]
        nothing, theirs, ours = (
            executed("-c", code, PYTHONPYCACHEPREFIX=compiled) for code in ("", "import pymongo", "import mongosession")
        )
    figures = [
        Figure.of("import pymongo", [1000 * theirs for theirs, _ in rounds], "ms"),
        Figure.of("import mongosession", [1000 * ours for _, ours in rounds], "ms"),
        Figure.of("the ratio", [ours / theirs for theirs, ours in rounds], goal=("at most", 1.1)),
        Figure("the ratio, in instructions", (ours - nothing) / (theirs - nothing)),
    ]
    return Part(TITLE, DID, figures)
