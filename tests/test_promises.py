"""The page of promises says what the committed results say, and names tests that exist; so does the list of attacks."""

import ast
import re
from pathlib import Path

import pytest

from soak.__main__ import PARTS
from soak.promises import PAINS, PROMISES
from soak.report import MARKED, PAGE, render
from soak.result import Result, read

TESTS = Path(__file__).parent
DOCS = PAGE.parent
RESULTS = read()

NAMED = re.compile(r"`(test_\w+)\.py(?:::(\w+))?`")


def test_the_results_are_whole() -> None:
    assert list(RESULTS) == list(PARTS)


@pytest.mark.parametrize("part", PARTS)
def test_the_last_soak_was_a_whole_one_and_lost_nothing(part: str) -> None:
    assert RESULTS[part].failures == []
    assert RESULTS[part].least == PARTS[part].least


def test_the_page_shows_the_results() -> None:
    page = PAGE.read_text()
    assert render(page, RESULTS) == page
    assert {match[1] for match in MARKED.finditer(page)} == {"summary", "circumstances", "promises", "pains", *PARTS}


def test_a_loss_is_shown_as_such() -> None:
    page = PAGE.read_text()
    assert "**failed**" not in page
    lost = RESULTS["expiry"]._replace(losses={**RESULTS["expiry"].losses, "expired sessions served": 2})
    shown = render(page, {**RESULTS, "expiry": lost})
    assert shown.count("**failed**") == 1
    assert "**Failed**: expired sessions served: 2." in shown
    assert "2 expired sessions served" in shown


def test_what_was_not_run_is_not_shown() -> None:
    shown = render(PAGE.read_text(), {"one": Result("one", {}, {}, {})})
    assert shown.count("Not run yet.") == len(PARTS)


def functions(module: str) -> set[str]:
    """The tests of a file."""
    tree = ast.parse((TESTS / f"{module}.py").read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_every_test_that_is_named_exists(page: Path) -> None:
    for module, function in NAMED.findall(page.read_text()):
        assert (TESTS / f"{module}.py").exists(), module
        assert not function or function in functions(module), f"{module}.py::{function}"


def test_every_promise_and_every_pain_has_a_test() -> None:
    for each in (*PROMISES, *PAINS):
        assert each.tests, each.text
        assert all(NAMED.fullmatch(f"`{test}`") for test in each.tests), each.text
