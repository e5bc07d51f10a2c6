"""The list of mutants cannot rot: each still finds its place, compiles, changes something, and has its test file.

That each is killed, `make mutants` shows.
"""

import ast
import sys
from pathlib import Path

import pytest

from . import mutants
from .mutants import MUTANTS, ROOT, Mutant, judge

ONE = Mutant("one", "1 < 2", "1 > 2", "one", "one is less than two")
TEST = "from one import RIGHT\n\ndef test_one() -> None:\n    assert RIGHT\n"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.file}: {mutant.why}")
def test_each_mutant_finds_its_place_and_compiles(mutant: Mutant) -> None:
    source = (ROOT / mutant.path).read_text()
    assert ast.dump(ast.parse(mutant.applied(source))) != ast.dump(ast.parse(source))
    assert (ROOT / f"tests/test_{mutant.test}.py").exists()


def test_no_mutant_stands_twice() -> None:
    assert len({(each.file, each.old, each.new) for each in MUTANTS}) == len(MUTANTS)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree of one module and its test, as the runner copies it."""
    (tmp_path / "mongosession").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\npythonpath = ["mongosession"]\n')
    (tmp_path / "mongosession/one.py").write_text("RIGHT = 1 < 2\n")
    (tmp_path / "tests/test_one.py").write_text(TEST)
    return tmp_path


def test_a_mutant_is_killed_by_a_test_that_fails(tree: Path) -> None:
    killed, words = judge(tree, ONE)
    assert killed
    assert words.startswith("test_one, ")
    assert (tree / "mongosession/one.py").read_text() == "RIGHT = 1 < 2\n"


@pytest.mark.parametrize(
    ("mutant", "words"),
    [
        (ONE._replace(new="2 > 1"), "SURVIVED"),
        (ONE._replace(new="1 <"), "NO VERDICT, exit code 2"),
        (ONE._replace(old="3"), "NOT APPLIED: mongosession/one.py holds '3' 0 times"),
        (ONE._replace(old=" "), "NOT APPLIED: mongosession/one.py holds ' ' 4 times"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_anything_else_fails_the_run(tree: Path, mutant: Mutant, words: str) -> None:
    killed, said = judge(tree, mutant)
    assert not killed
    assert said.startswith(words)
    assert (tree / "mongosession/one.py").read_text() == "RIGHT = 1 < 2\n"


@pytest.mark.parametrize("words", [["no mutant's reason says this"], []])
def test_a_run_without_mutants_has_shown_nothing(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["mutants", *words])
    monkeypatch.setattr(mutants, "MUTANTS", ())
    assert mutants.main() == 1
