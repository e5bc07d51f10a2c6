"""``python -m bench [PART ...]``: run the benchmark or some parts of it, and write docs/bench and docs/benchmarks.md.

Each part's figures are printed beside their goals as it ends. A goal that is not reached is no error.
"""

import argparse
import time
from importlib import import_module

from . import machine, report
from .results import Part, goal, read, value, write

PARTS = ("commands", "instructions", "pages", "parallel", "throughput", "growth", "memory", "imports")
"""Modules of this package that have a ``run``."""


def measure(name: str) -> Part:
    """Run one part, and print what it found."""
    described = machine.describe()
    began = time.monotonic()
    part: Part = import_module(f"bench.{name}").run()
    took = {"load after": machine.load(), "took": f"{time.monotonic() - began:.0f} s"}
    print(f"\n{part.title}\n{part.did}")
    for figure in part.figures:
        print(f"  {figure.name}: {value(figure)}  {goal(figure)}", flush=True)
    return part._replace(machine=described | took)


def main() -> None:
    """Run what was asked for, or everything."""
    options = argparse.ArgumentParser(prog="python -m bench", description="Run the benchmark.")
    options.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART", help=", ".join(PARTS))
    for name in options.parse_args().parts or PARTS:
        found = measure(name)
        write({each: part for each in PARTS if (part := ({**read(), name: found}).get(each))})
    report.main()


if __name__ == "__main__":
    main()
