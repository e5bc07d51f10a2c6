"""What a part of the soak found: what it did, the faults that really happened, the losses."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "soak" / "results.json"


class Result(NamedTuple):
    """One part's findings.

    Attributes:
        title: what was done, in a sentence.
        did: how much of it, by name: requests, log-ins, seconds.
        faults: how often each fault happened, as seen in the effect (the set's own status, a process's exit status, an
            error that a client got) and not only in the attempt. A part with a fault that never happened has failed.
        losses: how often each promise was broken, by name; the names stand there with zero where it was not.
        notes: what a reader has to know about the figures; may be empty.
        took: seconds.
        least: how much there has to be of something that was done, or of a fault, by its name.
        circumstances: of the run: date, machine, versions, the seed of its chance.
    """

    title: str
    did: Mapping[str, float]
    faults: Mapping[str, int]
    losses: Mapping[str, int]
    notes: str = ""
    took: float = 0.0
    least: Mapping[str, float] = {}
    circumstances: Mapping[str, str] = {}

    @property
    def counts(self) -> dict[str, float]:
        """Everything that was counted, by name."""
        return {**self.did, **self.faults, **self.losses}

    @property
    def failures(self) -> list[str]:
        """Why the part has failed, a line each; empty where it has not."""
        never = [f"the fault never happened: {name}" for name, count in self.faults.items() if not count]
        few = [
            f"{self.counts.get(name, 0):,} {name}, of {least:,} at least"
            for name, least in self.least.items()
            if self.counts.get(name, 0) < least
        ]
        return never + few + [f"{name}: {count}" for name, count in self.losses.items() if count]


def write(results: Mapping[str, Result], path: Path = RESULTS) -> None:
    """Write all parts' results, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({name: result._asdict() for name, result in results.items()}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")


def read(path: Path = RESULTS) -> dict[str, Result]:
    """All parts' results as they were last written; none if they never were."""
    if not path.exists():
        return {}
    return {name: Result(**fields) for name, fields in json.loads(path.read_text(encoding="utf-8")).items()}
