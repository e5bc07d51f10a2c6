"""The page of benchmarks says what the committed results say."""

import pytest

from bench.__main__ import PARTS
from bench.report import MARKED, PAGE, PLOTS, digest, plot, render
from bench.results import Figure, read

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
