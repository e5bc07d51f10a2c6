"""``python -m fuzz [TARGET ...]``: look for bytes for which something is wrong, guided by the branches that they reach.

Each target runs in a process of its own, in the venv of ``make fuzz``: libFuzzer, by way of Atheris, ends the process
that it runs in. The exit status is 1 if something was found; the bytes are printed as Python writes them, to be added
to the tests.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from .targets import TARGETS, Target

SECONDS = 60
"""How long each target is fuzzed, if not told otherwise."""

SLOWEST = 20
"""Seconds that one input may take, on a busy machine: that no text makes a regular expression or a decoder hang."""

MEGABYTES = 1024
"""Memory that the process may take, instrumentation and corpus included."""


class Hunt(NamedTuple):
    """What came of a target.

    Attributes:
        executions: how many inputs were tried.
        branches: how many branches of the library they reached between them.
        kept: how many inputs were kept, for what they reached.
        found: what was printed where something was wrong, or empty.
        took: seconds.
    """

    executions: int
    branches: int
    kept: int
    found: str
    took: float


def hunt(name: str, target: Target, seconds: int, seed: int | None) -> Hunt:
    """Fuzz one target in a process of its own."""
    with tempfile.TemporaryDirectory(prefix=f"fuzz-{name}-") as place:
        corpus = Path(place, "corpus")
        corpus.mkdir()
        for number, each in enumerate(target.seeds):
            (corpus / str(number)).write_bytes(each)
        words = ["".join(f"\\x{byte:02x}" for byte in word) for word in target.words or target.seeds[:1]]
        dictionary = Path(place, "words")
        dictionary.write_text("".join(f'"{word}"\n' for word in words))
        options = [
            *(f"-max_len={target.longest}", f"-dict={dictionary}", f"-artifact_prefix={place}/"),
            *(f"-max_total_time={seconds}", f"-timeout={SLOWEST}", f"-rss_limit_mb={MEGABYTES}"),
            *([] if seed is None else [f"-seed={seed}"]),
            str(corpus),
        ]
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "fuzz.process", name, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
            check=False,
        )
        took = time.monotonic() - began
    states = re.findall(r"^#(\d+)\s.*?cov: (\d+).*?corp: (\d+)", done.stdout, re.MULTILINE)
    executions, branches, kept = map(int, states[-1]) if states else (0, 0, 0)
    ended = re.search(r"^Done (\d+) runs", done.stdout, re.MULTILINE)
    if ended is not None and done.returncode == 0:
        return Hunt(int(ended[1]), branches, kept, "", took)
    output = "\n".join(line for line in done.stdout.splitlines() if not re.match("#|INFO|WARNING", line))
    return Hunt(executions, branches, kept, output[-6000:] or f"exit code {done.returncode}", took)


def main() -> int:
    """Fuzz what was asked for, or everything. Returns 1 if something was found."""
    options = argparse.ArgumentParser(prog="python -m fuzz", description="Look for bytes for which something is wrong.")
    options.add_argument("targets", nargs="*", choices=[[], *TARGETS], metavar="TARGET", help=", ".join(TARGETS))
    options.add_argument("--seconds", type=int, default=SECONDS, help=f"how long each of them, default {SECONDS}")
    options.add_argument("--seed", type=int, help="of all chance")
    chosen = options.parse_args()
    failed = False
    for name in chosen.targets or TARGETS:
        said = hunt(name, TARGETS[name], chosen.seconds, chosen.seed)
        print(
            f"{name:12} {said.executions:10,} executions in {said.took:5.0f} s, {said.branches:4} branches, "
            f"{said.kept:4} inputs kept: {'SOMETHING IS WRONG' if said.found else 'nothing found'}"
        )
        if said.found:
            print(said.found)
        sys.stdout.flush()
        failed = failed or bool(said.found)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
