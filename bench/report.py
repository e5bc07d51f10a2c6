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

PAGE = ROOT / "docs" / "benchmarks.md"
PLOT = ROOT / "docs" / "bench" / "requests.svg"

MARKED = re.compile(r"(?<=^<!-- )(\w+)( -->\n).*?(?=^<!-- end -->$)", re.DOTALL | re.MULTILINE)


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
OURS, FLOOR, OTHERS = "#0072B2", "#000000", "#999999"  # Okabe and Ito's


def digest(part: Part) -> str:
    """What names the results in the drawing, as its source."""
    return sha256(repr(part.figures).encode()).hexdigest()


def draw(part: Part, target: Path) -> None:
    """The plot of requests per second: a bar a server, with its quartiles.

    Args:
        part: the results of ``bench.throughput``.
        target: the file.
    """
    matplotlib: Any = import_module("matplotlib")
    matplotlib.use("agg")
    matplotlib.rcParams.update(OPAQUE)
    figures: Any = import_module("matplotlib.figure")
    figure = figures.Figure(figsize=(10, 8), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    for panel, kind in zip(panels, ("one key read", "one key changed"), strict=True):
        shown = [each for each in part.figures if each.unit == "a second" and each.name.startswith(kind)][::-1]
        names = [each.name.removeprefix(f"{kind}: ") for each in shown]
        colours = [
            OURS if name.startswith("mongosession") else FLOOR if name.startswith("the floor") else OTHERS
            for name in names
        ]
        values = [each.value for each in shown]
        spread = [
            [each.value - (each.low or each.value) for each in shown],
            [(each.high or each.value) - each.value for each in shown],
        ]
        panel.barh(names, values, xerr=spread, color=colours, error_kw={"ecolor": "#D55E00", "capsize": 3})
        for row, each in enumerate(shown):
            panel.annotate(
                number(round(each.value)),
                (0, row),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                color="white",
            )
        panel.set_title(f"{kind}: requests a second, median and quartiles", fontsize=11, fontweight="bold")
        panel.grid(axis="x", color="#dddddd", linewidth=0.6)
        panel.set_axisbelow(True)
    figure.savefig(target, metadata={"Date": None, "Source": digest(part)})


def main() -> None:
    """Write the page, and the plot where there is something to draw it with."""
    parts = read()
    PAGE.write_text(render(PAGE.read_text(), parts))
    if "throughput" in parts:
        draw(parts["throughput"], PLOT)


if __name__ == "__main__":
    main()
