"""A run of the soak fails if something was lost, and also if what it is there for did not happen, or too seldom."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from soak import __main__ as soak
from soak import report
from soak.result import Result, read, write

GOOD = Result("stub", did={"requests": 7}, faults={"primaries killed": 2}, losses={"writes lost": 0})


@pytest.mark.parametrize(
    ("result", "failures"),
    [
        (GOOD, []),
        (GOOD._replace(faults={"primaries killed": 0}), ["the fault never happened: primaries killed"]),
        (GOOD._replace(losses={"writes lost": 3}), ["writes lost: 3"]),
        (GOOD._replace(least={"requests": 7, "primaries killed": 2}), []),
        (GOOD._replace(least={"requests": 8}), ["7 requests, of 8 at least"]),
        (GOOD._replace(least={"primaries killed": 3}), ["2 primaries killed, of 3 at least"]),
        (GOOD._replace(least={"unheard of": 1}), ["0 unheard of, of 1 at least"]),
    ],
)
def test_what_fails_a_run(result: Result, failures: list[str]) -> None:
    assert result.failures == failures


def test_results_survive_their_file(tmp_path: Path) -> None:
    results = {"one": GOOD, "other": GOOD._replace(took=1.5, least={"requests": 1}, circumstances={"seed": "1"})}
    assert read(tmp_path / "results.json") == {}
    write(results, tmp_path / "results.json")
    assert read(tmp_path / "results.json") == results


Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the soak with a stub for its only part; nothing is written anywhere but into `written`."""
    monkeypatch.setattr(soak, "read", dict)

    def run(result: Result, *arguments: str, least: dict[str, float] | None = None) -> int:
        part = ModuleType("soak.stub")
        part.run = lambda seconds, seed: result._replace(did={**result.did, "seconds": seconds})  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "soak.stub", part)
        monkeypatch.setattr(soak, "PARTS", {"stub": soak.Part(60, least or {})})
        monkeypatch.setattr(sys, "argv", ["soak", *arguments])
        return soak.main()

    return run


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Result]]:
    """What was written into the results' file; the page is left alone."""
    written: list[dict[str, Result]] = []
    monkeypatch.setattr(soak, "write", written.append)
    monkeypatch.setattr(report, "main", lambda: None)
    return written


def test_a_good_run_is_written_down(run: Run, written: list[dict[str, Result]]) -> None:
    assert run(GOOD, least={"requests": 7}) == 0
    (results,) = written
    assert results["stub"].least == {"requests": 7}
    assert results["stub"].did["seconds"] == pytest.approx(60, abs=0.1)
    assert {"date", "CPU", "MongoDB", "seed"} <= results["stub"].circumstances.keys()


@pytest.mark.parametrize(
    ("result", "least"),
    [
        (GOOD._replace(losses={"writes lost": 1}), {}),
        (GOOD._replace(faults={"primaries killed": 0}), {}),
        (GOOD, {"requests": 8}),
    ],
)
def test_a_bad_run_fails_and_is_written_down(
    run: Run, written: list[dict[str, Result]], result: Result, least: dict[str, float]
) -> None:
    assert run(result, least=least) == 1
    assert written[0]["stub"].failures


def test_a_short_run_is_not_written_down(run: Run, written: list[dict[str, Result]]) -> None:
    assert run(GOOD, "--seconds", "1", least={"requests": 8}) == 0
    assert written == []


def test_where_time_is_short_parts_are_cut(
    run: Run, written: list[dict[str, Result]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak, "LONGEST", 15.0)
    run(GOOD)
    assert written[0]["stub"].did["seconds"] == pytest.approx(15, abs=0.1)


def test_the_parts_have_time_enough_between_them() -> None:
    assert sum(part.seconds for part in soak.PARTS.values()) < soak.LONGEST < 30 * 60
