"""``python -m soak [PART ...]``: run the soak or some parts of it, and write docs/soak/results.json.

Its exit status is 1 if a promise was broken, or if a fault that a part is there for did not happen.
"""

import argparse
import random
import sys
import time
from importlib import import_module

from .result import Result, read, write

PARTS = {
    "faults": 480,
    "rollback": 300,
    "expiry": 60,
    "clocks": 60,
    "slow": 120,
    "browser": 180,
    "endurance": 360,
}
"""Modules of this package with a function ``run(seconds, seed)``, and how many seconds each may take: 26 minutes."""


def soak(name: str, seconds: float, seed: int) -> Result:
    """Run one part, and print what it found."""
    began = time.monotonic()
    result: Result = import_module(f"soak.{name}").run(seconds, seed)
    result = result._replace(took=round(time.monotonic() - began, 1))
    print(f"\n{name}: {result.title} ({result.took:.0f} s, seed {seed})")
    for kind in ("did", "faults", "losses"):
        counts: dict[str, float] = getattr(result, kind)
        print(f"  {kind + ':':8}" + ", ".join(f"{count:,} {what}" for what, count in counts.items()))
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
    failed = False
    for name in chosen.parts or PARTS:
        result = soak(name, chosen.seconds or PARTS[name], chosen.seed)
        results = read() | {name: result}
        write({each: results[each] for each in PARTS if each in results})
        failed = failed or bool(result.failures)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
