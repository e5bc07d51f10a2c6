"""The page docs/benchmarks.md and its plot, made of the results: ``python -m bench.report``.

The page is written by people; what stands between two markers, ``<!-- NAME -->`` and ``<!-- end -->``, is written here.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

from .results import ROOT, Figure, Part, goal, number, read, value

DOCS = ROOT / "docs"
PAGE = DOCS / "benchmarks.md"

MARKED = re.compile(r"(?<=^<!-- )(?!end )(\w+)( -->\n).*?(?=^<!-- end -->$)", re.DOTALL | re.MULTILINE)


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def table(figures: Sequence[Figure]) -> Iterator[str]:
    """Lines of Markdown: every figure of a part."""
    yield _line("figure", "measured", "goal")
    yield _line("---", "---", "---")
    for figure in figures:
        yield _line(figure.name, value(figure), goal(figure))
    yield from (f"\n{figure.name}: {figure.note}." for figure in figures if figure.note)


def goals(parts: Mapping[str, Part]) -> Iterator[str]:
    """Lines of Markdown: every figure that has a goal."""
    yield _line("", "figure", "measured", "goal")
    yield _line("---", "---", "---", "---")
    for part in parts.values():
        for figure in part.figures:
            if figure.goal is not None:
                yield _line(part.title, figure.name, value(figure), goal(figure))


def section(part: Part) -> Iterator[str]:
    """Lines of Markdown: a part, how it was measured, and what was found."""
    yield part.did
    yield ""
    yield from table(part.figures)
    yield ""
    about = part.machine
    busy = f"load average {about['load before']} before, {about['load after']} after"
    yield f"Measured on {about['date']} in {about['took']}; {busy}."


def machine(part: Part) -> Iterator[str]:
    """Lines of Markdown: on what it was measured."""
    for what, found in part.machine.items():
        if what not in ("date", "took", "load before", "load after"):
            yield f"- {what}: {found}"


def render(page: str, parts: Mapping[str, Part]) -> str:
    """The page with these results in it."""

    def filled(match: re.Match[str]) -> str:
        name = match[1]
        if name == "goals":
            lines = goals(parts)
        elif name == "machine":
            lines = machine(next(iter(parts.values())))
        else:
            lines = section(parts[name])
        return f"{name}{match[2]}\n" + "\n".join(lines) + "\n\n"

    return MARKED.sub(filled, page)


# ------------------------------------------------------------------------------------------------------------- the plot

OPAQUE = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "font.size": 10,
    "svg.fonttype": "path",  # the same letters wherever it is looked at
    "svg.hashsalt": "mongosession",  # the same file each time
}
OURS, FLOORS, OTHERS, SPREAD = "#0072B2", "#000000", "#999999", "#D55E00"  # Okabe and Ito's, and a grey

PLOTS = {
    "throughput": "requests a second, median and quartiles",
    "instructions": "instructions over the bare application",
}
"""The parts of which there is a plot, and what its bars are."""


def plot(name: str) -> Path:
    """Where the plot of a part is."""
    return DOCS / "bench" / f"{name}.svg"


def digest(part: Part) -> str:
    """What names the results in the drawing, as its source."""
    return sha256(repr(part.figures).encode()).hexdigest()


def bars(part: Part) -> dict[str, dict[str, Figure]]:
    """What is drawn: the figures that are named ``what was done: by whom``, a panel for each thing that was done."""
    panels: dict[str, dict[str, Figure]] = {}
    for figure in part.figures:
        done, colon, whom = figure.name.partition(": ")
        if colon and figure.unit:
            panels.setdefault(done, {})[whom] = figure
    return panels


def _colour(name: str) -> str:
    return OURS if name.startswith("mongosession") else FLOORS if name.startswith("the floor") else OTHERS


def draw(part: Part, axis: str, target: Path) -> None:
    """The plot of a part: a bar each, with its quartiles where there are such.

    Args:
        part: its results.
        axis: what the bars are.
        target: the file.
    """
    matplotlib: Any = import_module("matplotlib")
    matplotlib.use("agg")
    matplotlib.rcParams.update(OPAQUE)
    figures: Any = import_module("matplotlib.figure")
    panels = bars(part)
    heights = [len(each) + 1 for each in panels.values()]
    figure = figures.Figure(figsize=(10, 0.32 * sum(heights)), layout="constrained")
    subplots = figure.subplots(len(panels), 1, sharex=True, height_ratios=heights)
    for panel, (done, shown) in zip(subplots, panels.items(), strict=True):
        for row, (name, each) in enumerate(shown.items()):
            panel.barh(row, each.value, color=_colour(name))
            if each.low is not None and each.high is not None:
                panel.plot([each.low, each.high], [row, row], color=SPREAD, linewidth=2, marker="|")
            panel.annotate(
                number(each.value), (each.high or each.value, row), (5, 0), textcoords="offset points", va="center"
            )
        panel.set_yticks(range(len(shown)), labels=[name.replace("`", "") for name in shown])
        panel.invert_yaxis()
        panel.margins(x=0.15)
        panel.set_title(done, fontsize=11, fontweight="bold")
        panel.grid(axis="x", color="#dddddd", linewidth=0.6)
        panel.set_axisbelow(True)
    subplots[-1].set_xlabel(axis)
    figure.savefig(target, metadata={"Date": None, "Source": digest(part)})


def main() -> None:
    """Write the page and the plots."""
    parts = read()
    PAGE.write_text(render(PAGE.read_text(), parts))
    for name, axis in PLOTS.items():
        if name in parts:
            draw(parts[name], axis, plot(name))


if __name__ == "__main__":
    main()
