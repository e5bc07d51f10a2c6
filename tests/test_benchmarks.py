"""The page of benchmarks says what the committed results say, and the one of visitors how long cookies are."""

import json
import re
from importlib.util import find_spec
from random import Random

import pytest

from bench import cookies
from bench.__main__ import PARTS
from bench.report import MARKED, PAGE, PLOTS, digest, plot, render
from bench.results import ROOT, Figure, read

PARTS_FOUND = read()


def test_the_results_are_whole() -> None:
    assert list(PARTS_FOUND) == list(PARTS)


def test_the_page_shows_the_results() -> None:
    page = PAGE.read_text()
    assert render(page, PARTS_FOUND) == page
    assert {match[1] for match in MARKED.finditer(page)} == {"goals", "machine", *PARTS}


@pytest.mark.parametrize("name", PLOTS)
def test_the_drawing_is_of_the_results(name: str) -> None:
    assert f"<dc:source>{digest(PARTS_FOUND[name])}</dc:source>" in plot(name).read_text()


def test_a_goal_that_is_not_reached_is_shown_as_such() -> None:
    missed = [figure for part in PARTS_FOUND.values() for figure in part.figures if figure.reached is False]
    assert PAGE.read_text().count("**not reached**") == 2 * len(missed)  # among the goals, and in its own part


def test_reached() -> None:
    assert Figure("", 0.5, goal=("at most", 0.5)).reached
    assert not Figure("", 0.51, goal=("at most", 0.5)).reached
    assert Figure("", 0.95, goal=("at least", 0.95)).reached
    assert not Figure("", 0.94, goal=("at least", 0.95)).reached
    assert not Figure("", 199, goal=("exactly", 200)).reached
    assert Figure("", 1).reached is None


def test_the_median_of_rounds_has_its_quartiles() -> None:
    assert Figure.of("", [5, 1, 4, 2, 3]) == Figure("", 3, low=2, high=4)


VISITORS = (ROOT / "docs" / "visitors.md").read_text()


def test_the_page_of_visitors_says_how_long_cookies_are() -> None:
    """Beside those of the frameworks that are installed here; another zlib may find other matches."""
    lines = re.findall(r"^\|(?:[^|\n]*\|){6}$", VISITORS, re.MULTILINE)
    titles, _, *rows = ([cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines)
    assert titles == ["a session of", "JSON", *cookies.WRITERS]
    samples = cookies.samples()
    assert [row[0] for row in rows] == list(samples)
    lengths = {row[0]: dict(zip(titles[1:], map(int, row[1:]), strict=True)) for row in rows}
    assert {what: row["JSON"] for what, row in lengths.items()} == {
        what: len(json.dumps(data, separators=(",", ":"))) for what, data in samples.items()
    }
    there = {
        name: make() for name, make in cookies.WRITERS.items() if name == "mongosession" or find_spec(name.lower())
    }
    for name, write in there.items():
        for what, data in samples.items():
            assert len(write(data)) == pytest.approx(lengths[what][name], rel=0.02), (what, name)


def test_ours_is_as_long_as_the_page_says_beside_the_others() -> None:
    lines = re.findall(r"^\| (?:pref|that|500).*\|$", VISITORS, re.MULTILINE)
    assert len(lines) == 4
    for line in lines:
        ours, starlette, flask, django = (int(cell.strip(" *")) for cell in line.strip("|").split("|")[2:])
        assert ours < starlette
        assert ours <= 1.15 * min(flask, django)  # "up to 15 %"


def test_what_fits_into_a_cookie_is_what_the_page_says() -> None:
    write = cookies.mongosession()
    items = cookies.basket(140, Random(7))
    assert write({"cart": items})
    assert 9_800 < len(json.dumps({"cart": items}, separators=(",", ":"))) < 10_400
    assert not write({"cart": cookies.basket(150, Random(7))})
    assert write({"blob": Random(7).randbytes(3_000)})
    assert not write({"blob": Random(7).randbytes(3_100)})
