"""What the parts of the benchmark found: figures, their goals, and the file that holds them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple, Self

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "bench" / "results.json"

Goal = tuple[Literal["at most", "at least", "exactly"], float]


class Figure(NamedTuple):
    """One figure.

    Attributes:
        name: what was measured.
        value: the figure; the median where it was measured repeatedly.
        unit: of what; empty for a ratio.
        goal: what it should be, or None where it is only shown.
        low: the lower quartile of the rounds, or None.
        high: the upper quartile.
        note: what to know about it; may be empty.
    """

    name: str
    value: float
    unit: str = ""
    goal: Goal | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""

    @classmethod
    def of(cls, name: str, rounds: Sequence[float], unit: str = "", goal: Goal | None = None, note: str = "") -> Self:
        """The median of several rounds, with its quartiles."""
        ordered = sorted(rounds)
        last = len(ordered) - 1
        low, high = ordered[round(0.25 * last)], ordered[round(0.75 * last)]
        return cls(name, median(ordered), unit, goal, low, high, note)

    @property
    def reached(self) -> bool | None:
        """Whether the goal is; None where there is none."""
        if self.goal is None:
            return None
        how, bound = self.goal
        return {"at most": self.value <= bound, "at least": self.value >= bound, "exactly": self.value == bound}[how]


class Part(NamedTuple):
    """One part of the benchmark.

    Attributes:
        title: its heading.
        did: how it was measured; Markdown.
        figures: what was found.
        machine: on what, and how busy that was; see ``machine.describe``.
    """

    title: str
    did: str
    figures: list[Figure]
    machine: Mapping[str, str] = {}


def number(value: float) -> str:
    """A figure as people read it: whole from 1,000 on, else three digits that mean something."""
    if value == round(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def value(figure: Figure) -> str:
    """The figure with its spread and unit."""
    spread = "" if figure.low is None or figure.high is None else f" ({number(figure.low)} to {number(figure.high)})"
    return f"{number(figure.value)}{spread}{' ' if figure.unit else ''}{figure.unit}"


def goal(figure: Figure) -> str:
    """What it should be, and whether it is."""
    if figure.goal is None:
        return ""
    how, bound = figure.goal
    return f"{how} {number(bound)}: {'reached' if figure.reached else '**not reached**'}"


def read(path: Path = RESULTS) -> dict[str, Part]:
    """The results by the parts' names; empty where there are none yet."""
    if not path.exists():
        return {}
    stored: dict[str, Any] = json.loads(path.read_text())
    return {name: _part(entry) for name, entry in stored.items()}


def write(parts: Mapping[str, Part], path: Path = RESULTS) -> None:
    """Keep the results."""
    path.parent.mkdir(exist_ok=True)
    entries = {
        name: part._asdict() | {"figures": [_rounded(figure)._asdict() for figure in part.figures]}
        for name, part in parts.items()
    }
    path.write_text(json.dumps(entries, indent=1) + "\n")


def _rounded(figure: Figure) -> Figure:
    """With six digits that mean something; counts stay whole."""
    fields: dict[str, Any] = figure._asdict()
    for name in ("value", "low", "high"):
        exact = fields[name]
        if exact is not None and exact != round(exact):
            fields[name] = float(f"{exact:.6g}")
    return Figure(**fields)


def _part(entry: dict[str, Any]) -> Part:
    figures = [Figure(**figure | {"goal": figure["goal"] and tuple(figure["goal"])}) for figure in entry["figures"]]
    return Part(entry["title"], entry["did"], figures, entry["machine"])
