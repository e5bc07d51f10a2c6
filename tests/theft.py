"""Theft by settings: which thieves are noticed and how soon, beside the honest people whom the same settings log out.

    python -m tests.theft --measure     # simulate; writes docs/theft.json; about 20 minutes
    python -m tests.theft               # the tables of docs/simulation.md and docs/security.md, from that file
    python -m tests.theft --plot        # docs/theft.svg, from that file; needs `pip install --group plots`

So the tables and the plot come of one run. The drawing says, as its source, which results it was made from.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from mongosession.policy import Rotation

from .simulation import CAREFUL_THIEVES, DAYS, HONEST, OVER_GRACE, THIEVES, Outcome, Situation, percent, simulate

DOCS = Path(__file__).parent.parent / "docs"
RESULTS = DOCS / "theft.json"
PLOT = DOCS / "theft.svg"

SLOW = "network 2-25 s each way"
LATE = "2 % of messages 5-55 s late each way, always active"
DENSE = "a page about every 3 s"
PAUSE = "thief uses the copy while the victim pauses"

POLLS = (3, 20, 60)
"""Seconds from one request of the thief to the next."""

IRREGULAR = {every: f"thief polls every {every} s" for every in POLLS}
REGULAR = {every: f"{name} to the second" for every, name in IRREGULAR.items()}

HARDEST: dict[str, Situation] = {SLOW: HONEST[SLOW], **OVER_GRACE, DENSE: DAYS[DENSE]}
"""Nobody copied anything; where rotation goes wrong, it is here."""

LABELS = {
    SLOW: "hours on a network of 2-25 s each way",
    LATE: "always active hours, 2 % of messages 5-55 s late each way",
    DENSE: "days of 16 h, in spells, 0.5 % of messages late",
}
"""The same, as the tables and the plot call it."""

STOLEN = {name: (THIEVES | CAREFUL_THIEVES)[name] for name in [*IRREGULAR.values(), *REGULAR.values(), PAUSE]}

DAYS_PER_HOUR = 2
"""A log-out on a dense day is rare: so many days are simulated for each hour of the other situations."""

SHORT = (5, 10, 15, 20, 30, 40)
"""Values of ttl, in seconds, at which the two windows below differ."""

DEFAULT = [Rotation(ttl=ttl) for ttl in (*SHORT, 50, 60)]
WIDE = [Rotation(ttl=ttl, window=1 + 120 // ttl) for ttl in (*SHORT, 60)]
"""The window holds the tokens of two minutes: more than K of the default. At 60 s it is the default."""

OTHERS = [
    Rotation(window=13),
    Rotation(ttl=20, grace=120),
    Rotation(ttl=20, window=10),
    Rotation(ttl=30, grace=120),
    Rotation(ttl=30, window=7),
]

SHOWN = [
    Rotation(),
    Rotation(window=13),
    Rotation(window=25),
    Rotation(ttl=20),
    Rotation(ttl=20, grace=120),
    Rotation(ttl=20, window=10),
    Rotation(ttl=30),
    Rotation(ttl=30, grace=120),
    Rotation(ttl=30, window=7),
    Rotation(ttl=60),
]
"""What the page on security compares."""


class Cell(NamedTuple):
    """What came of one situation under one setting.

    Attributes:
        runs: hours that were simulated; days where the situation is a day.
        revoked: in how many of them the session was.
        minutes: from the copy (without a thief: from the beginning) until then, on average; None where none was.
        requests: of the browser, in all of them.
        refused: how many of them found no session.
    """

    runs: int
    revoked: int
    minutes: float | None
    requests: int
    refused: int

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> "Cell":
        """Count."""
        after = [outcome.revoked / 60 for outcome in outcomes if outcome.revoked is not None]
        return cls(
            runs=len(outcomes),
            revoked=len(after),
            minutes=round(mean(after), 2) if after else None,
            requests=sum(outcome.requests for outcome in outcomes),
            refused=sum(outcome.refused for outcome in outcomes),
        )

    @property
    def share(self) -> float:
        """Of the runs, those with the session revoked."""
        return self.revoked / self.runs


class Row(NamedTuple):
    """A setting.

    Attributes:
        rule: the setting itself.
        writes: that rotation and touches cost an hour of the busy browser.
        cells: by situation.
    """

    rule: Rotation
    writes: float
    cells: Mapping[str, Cell]


def measure(rule: Rotation, hours: int) -> Row:
    """Simulate every situation under one setting. The seeds are those of the simulation's other tables."""
    cells: dict[str, Cell] = {}
    for name, situation in (STOLEN | HARDEST).items():
        runs = hours * DAYS_PER_HOUR if name in DAYS else hours
        cells[name] = Cell.of(simulate(situation, rule, runs=runs, name=name))
    quiet = simulate(Situation(stores=0), rule, runs=max(1, hours // 5), name="writes")
    return Row(rule, round(mean(outcome.writes for outcome in quiet), 1), cells)


def settings() -> list[Rotation]:
    """Every setting, once."""
    return list(dict.fromkeys([*DEFAULT, *WIDE, *OTHERS]))


# ------------------------------------------------------------------------------------------------------------- the file


def written(rows: Iterable[Row]) -> str:
    """The results as JSON, a line a cell."""
    lines = [
        f'{{"ttl": {rule.ttl}, "window": {rule.window}, "grace": {rule.grace}, "writes": {writes}, "cells": {{\n'
        + ",\n".join(f" {json.dumps(name)}: {json.dumps(cell._asdict())}" for name, cell in cells.items())
        + "}}"
        for rule, writes, cells in rows
    ]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def read(text: str) -> dict[Rotation, Row]:
    """The results, by setting."""
    rows: dict[Rotation, Row] = {}
    for entry in json.loads(text):
        rule = Rotation(ttl=entry["ttl"], window=entry["window"], grace=entry["grace"])
        cells = {name: Cell(**cell) for name, cell in entry["cells"].items()}
        rows[rule] = Row(rule, entry["writes"], cells)
    return rows


# ----------------------------------------------------------------------------------------------------------- the tables


def noticed(cell: Cell) -> str:
    """How many thieves were, and after how long on average."""
    return "0" if cell.minutes is None else f"{percent(cell.share)}, {cell.minutes:.1f} min"


def logged_out(cell: Cell) -> str:
    """How many honest runs ended so."""
    return percent(cell.share)


def setting(rule: Rotation) -> str:
    """As an application writes it, what is left at its default left out."""
    words = [
        f"{name}={getattr(rule, name):g}"
        for name in ("ttl", "window", "grace")
        if name == "ttl" or getattr(rule, name) != getattr(Rotation(), name)
    ]
    return f"`{', '.join(words)}`"


def full_table(rows: Mapping[Rotation, Row]) -> Iterator[str]:
    """Lines of Markdown: every setting, which thieves are noticed, whom it hurts and what it costs."""
    names = [*STOLEN, *HARDEST]
    yield from _line("setting", "K", *STOLEN, *(f"revoked: {LABELS[name]}" for name in HARDEST), "writes an hour")
    yield from _line(*["---"] * (len(names) + 3))
    for rule, row in rows.items():
        shown = [(logged_out if name in HARDEST else noticed)(row.cells[name]) for name in names]
        yield from _line(setting(rule), str(rule.accepted), *shown, f"{row.writes:.0f}")


def short_table(rows: Mapping[Rotation, Row]) -> Iterator[str]:
    """Lines of Markdown: a few settings, with the paces of the thief in one cell."""
    paces = "every 3, 20, 60 s"
    yield from _line(
        *("setting", "K", f"thief polls irregularly, {paces}: noticed", f"to the second, {paces}: noticed"),
        *("minutes until then", *(f"honest {LABELS[name]}: revoked" for name in HARDEST), "writes an hour"),
    )
    yield from _line(*["---"] * (6 + len(HARDEST)))
    for rule in SHOWN:
        _, writes, cells = rows[rule]
        kinds = [[cells[name] for name in kind.values()] for kind in (IRREGULAR, REGULAR)]
        took = [cell.minutes for kind in kinds for cell in kind if cell.minutes is not None]
        yield from _line(
            *(setting(rule), str(rule.accepted)),
            *(", ".join(percent(cell.share) for cell in kind) for kind in kinds),
            " to ".join(dict.fromkeys([f"{min(took):.0f}", f"{max(took):.0f}"])),
            *(logged_out(cells[name]) for name in HARDEST),
            f"{writes:.0f}",
        )


def _line(*cells: str) -> Iterator[str]:
    yield f"| {' | '.join(cells)} |"


# ------------------------------------------------------------------------------------------------------------- the plot

Style = dict[str, Any]

# Okabe and Ito's colours, which the colour-blind tell apart; each has a marker of its own besides.
PACE_STYLES: dict[int, Style] = {
    3: {"color": "#0072B2", "marker": "o"},
    20: {"color": "#D55E00", "marker": "s"},
    60: {"color": "#009E73", "marker": "^"},
}
HONEST_STYLES: dict[str, Style] = {
    SLOW: {"color": "#000000", "marker": "o"},
    LATE: {"color": "#CC79A7", "marker": "s"},
    DENSE: {"color": "#E69F00", "marker": "^"},
}
OPAQUE = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "font.size": 10,
    "svg.fonttype": "path",  # the same letters wherever it is looked at
}
SIDES = {"as it is by default: window=3, grace=60": DEFAULT, "a window of two minutes: window = 1 + 120 / ttl": WIDE}


def digest(text: str) -> str:
    """What names the results in the drawing."""
    return sha256(text.encode()).hexdigest()


def draw(rows: Mapping[Rotation, Row], target: Path, source: str) -> None:
    """The plot: above, the share of thieves that is noticed; then, after how long; below, whom it costs the session.

    Args:
        rows: the results.
        target: the file; its ending chooses the format.
        source: what the drawing gives as its source.
    """
    matplotlib: Any = import_module("matplotlib")
    matplotlib.use("agg")
    matplotlib.rcParams.update(OPAQUE | {"svg.hashsalt": "mongosession"})  # the same file each time
    figures: Any = import_module("matplotlib.figure")
    figure = figures.Figure(figsize=(10, 10.6), layout="constrained")
    panels = figure.subplots(3, len(SIDES), sharex=True, sharey="row")
    for column, (title, rules) in enumerate(SIDES.items()):
        share, minutes, honest = panels[:, column]
        share.set_title(title, fontsize=11, fontweight="bold")
        for every, style in PACE_STYLES.items():
            for names, how in (
                (IRREGULAR, {"linestyle": "-"}),
                (REGULAR, {"linestyle": "--", "markerfacecolor": "white"}),
            ):
                label = f"every {every} s, {'irregularly' if names is IRREGULAR else 'to the second'}"
                look = style | how | {"label": label}
                cells = [rows[rule].cells[names[every]] for rule in rules]
                _series(share, rules, [100 * cell.share for cell in cells], look)
                _series(minutes, rules, [cell.minutes for cell in cells], look)
        for name, style in HONEST_STYLES.items():
            shares = [100 * rows[rule].cells[name].share for rule in rules]
            _series(honest, rules, shares, style | {"label": LABELS[name]})
        honest.set_xlabel("ttl, seconds")
    share, minutes, honest = panels[:, 0]
    share.set_ylabel("thieves noticed, %")
    minutes.set_ylabel("minutes from the copy until then, on average")
    honest.set_ylabel("honest hours and days revoked, %")
    minutes.set_ylim(0, 30)
    for panel in (share, honest):
        panel.set_ylim(-4, 104)
    for panel in panels.flat:
        panel.set_xscale("log")
        panel.set_xlim(4.5, 67)
        panel.set_xticks([*SHORT, 50, 60], labels=[*SHORT, 50, 60])
        panel.set_xticks([], minor=True)
        panel.grid(color="#dddddd", linewidth=0.6)
    panels[1, 1].legend(title="the thief polls", loc="upper right", fontsize=9)
    panels[2, 1].legend(title="nobody copied anything", loc="upper right", fontsize=8.5)
    about = {"Date": None, "Source": source} if target.suffix == ".svg" else None
    figure.savefig(target, metadata=about)


def _series(panel: Any, rules: Sequence[Rotation], values: Sequence[float | None], look: Style) -> None:
    """A line; each a little to the side of the others, since many of them lie at 0 or 100 %."""
    aside = 1 + 0.012 * (len(panel.lines) - 2)
    ttls = [aside * rule.ttl for rule in rules if rule.ttl is not None]
    panel.plot(ttls, values, markersize=6, linewidth=1.4, clip_on=False, **look)


def main() -> None:
    """Measure, print or draw."""
    options = argparse.ArgumentParser(prog="python -m tests.theft", description="Print the tables as Markdown.")
    options.add_argument("--measure", action="store_true", help="simulate and write docs/theft.json")
    options.add_argument("--hours", type=int, default=100, help="simulated hours a cell (100)")
    options.add_argument(
        "--plot", type=Path, nargs="?", const=PLOT, metavar="FILE", help="draw docs/theft.svg, or FILE"
    )
    chosen = options.parse_args()
    if chosen.measure:
        rows: list[Row] = []
        for rule in settings():
            rows.append(measure(rule, chosen.hours))
            print(setting(rule), flush=True)
        RESULTS.write_text(written(rows))
    results = RESULTS.read_text()
    rows_read = read(results)
    if chosen.plot is not None:
        draw(rows_read, chosen.plot, digest(results))
        return
    for table in (short_table(rows_read), full_table(rows_read)):
        print(*table, "", sep="\n")


if __name__ == "__main__":
    main()
