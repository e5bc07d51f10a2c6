"""``python -m soak [PART ...]``: run the soak or some parts of it, write docs/soak/results.json and docs/promises.md.

Its exit status is 1 if a promise was broken, or if a fault that a part is there for did not happen, or too seldom. With
``--seconds`` the parts are shorter than they are meant to be: then nothing is written.
"""

import argparse
import logging
import random
import sys
import time
from collections.abc import Mapping
from importlib import import_module
from typing import NamedTuple

from bench import machine

from . import browser, endurance, report, rollback
from .result import Result, read, write

LONGEST = 29 * 60.0
"""Seconds that the whole soak may take; where the parts before took longer than meant, those that follow are cut."""


class Part(NamedTuple):
    """A module of this package with a function ``run(seconds, seed)``.

    Attributes:
        seconds: that it may take.
        least: what there has to be at least, as in `Result`.
    """

    seconds: float
    least: Mapping[str, float] = {}


PARTS = {
    "faults": Part(480, {"browsers": 2000}),
    "rollback": Part(330, {rollback.VERIFIED: rollback.ROLLBACKS}),
    "expiry": Part(60),
    "clocks": Part(60),
    "slow": Part(120),
    "browser": Part(180, {browser.KILLED: 20, browser.WRITTEN: 20, browser.IN: 20}),
    "endurance": Part(420, {"requests": endurance.REQUESTS}),
}
"""The parts in their order: 27 minutes and a half."""


def soak(name: str, seconds: float, seed: int, least: Mapping[str, float]) -> Result:
    """Run one part, and print what it found."""
    shown = ("date", "CPU", "memory", "kernel", "Python", "MongoDB")
    circumstances = {what: told for what, told in machine.describe().items() if what in shown}
    began = time.monotonic()
    result: Result = import_module(f"soak.{name}").run(seconds, seed)
    result = result._replace(
        took=round(time.monotonic() - began, 1), least=least, circumstances=circumstances | {"seed": str(seed)}
    )
    print(f"\n{name}: {result.title} ({result.took:.0f} s, seed {seed})")
    for kind in ("did", "faults", "losses"):
        counts: dict[str, float] = getattr(result, kind)
        print(f"  {kind + ':':8}" + ", ".join(f"{count:,} {what}" for what, count in counts.items()))
    if result.notes:
        print(f"  {result.notes}")
    for failure in result.failures:
        print(f"  FAILED  {failure}")
    sys.stdout.flush()
    return result


def main() -> int:
    """Run what was asked for, or everything."""
    options = argparse.ArgumentParser(prog="python -m soak", description="Do to sessions what production will.")
    options.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART", help=", ".join(PARTS))
    options.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="of all chance")
    options.add_argument("--seconds", type=float, help="how long each part may take, instead of its own time")
    chosen = options.parse_args()
    logging.getLogger("mongosession").setLevel(logging.CRITICAL)  # outages by the thousand are what is asked for here
    names = chosen.parts or list(PARTS)
    began = time.monotonic()
    failed = False
    for number, name in enumerate(names):
        if chosen.seconds:
            result = soak(name, chosen.seconds, chosen.seed, {})
        else:
            left = LONGEST - (time.monotonic() - began)
            cut = min(1.0, left / sum(PARTS[each].seconds for each in names[number:]))
            result = soak(name, PARTS[name].seconds * cut, chosen.seed, PARTS[name].least)
            results = read() | {name: result}
            write({each: results[each] for each in PARTS if each in results})
        failed = failed or bool(result.failures)
    print(f"\n{'FAILED' if failed else 'all promises held'}, {(time.monotonic() - began) / 60:.1f} minutes")
    if not chosen.seconds:
        report.main()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
