"""The figures of theft that the documentation gives are those of the committed results, and those of this code.

The tables are compared line by line, the drawing by what it names as its source; what the pages say about them in
words is asserted, too. ``tests/test_simulation.py`` looks at single thieves more closely.
"""

from collections.abc import Callable, Iterator, Mapping

import pytest

from mongosession import Rotation

from .simulation import DAYS, simulate
from .theft import (
    DAYS_PER_HOUR,
    DEFAULT,
    DOCS,
    HARDEST,
    IRREGULAR,
    LATE,
    PAUSE,
    PLOT,
    REGULAR,
    RESULTS,
    SHOWN,
    SLOW,
    STOLEN,
    WIDE,
    Row,
    digest,
    full_table,
    read,
    setting,
    settings,
    short_table,
    written,
)

TEXT = RESULTS.read_text()
FOUND = read(TEXT)

POLLING = [*IRREGULAR.values(), *REGULAR.values()]


def test_the_results_are_whole() -> None:
    assert list(FOUND) == settings()
    assert written(FOUND.values()) == TEXT
    for row in FOUND.values():
        assert list(row.cells) == list(STOLEN | HARDEST)
        hours = row.cells[SLOW].runs
        for name, cell in row.cells.items():
            assert cell.runs == (hours * DAYS_PER_HOUR if name in DAYS else hours) >= 100
            assert 0 <= cell.revoked <= cell.runs
            assert (cell.minutes is None) == (cell.revoked == 0)
            assert 0 <= cell.refused < cell.requests


@pytest.mark.parametrize("rule", [*DEFAULT, *WIDE], ids=setting)
def test_the_results_are_of_this_code(rule: Rotation) -> None:
    """Two hours of what always ends the same way."""
    for name in (IRREGULAR[3], REGULAR[20], PAUSE, SLOW):
        committed = FOUND[rule].cells[name].share
        if committed in (0, 1):
            outcomes = simulate((STOLEN | HARDEST)[name], rule, runs=2, name=name)
            assert {outcome.revoked is not None for outcome in outcomes} == {committed == 1}, name


@pytest.mark.search
@pytest.mark.parametrize("rule", settings(), ids=setting)
def test_the_results_are_of_this_code_throughout(rule: Rotation) -> None:
    for name, situation in (STOLEN | HARDEST).items():
        outcomes = simulate(situation, rule, runs=20, name=name)
        share = sum(outcome.revoked is not None for outcome in outcomes) / len(outcomes)
        assert share == pytest.approx(FOUND[rule].cells[name].share, abs=0.3), name


# ------------------------------------------------------------------------------------------------------------ the pages


@pytest.mark.parametrize(("page", "table"), [("simulation.md", full_table), ("security.md", short_table)])
def test_the_tables_are_of_the_results(page: str, table: Callable[[Mapping[Rotation, Row]], Iterator[str]]) -> None:
    lines = "\n".join(table(FOUND))
    assert f"\n\n{lines}\n\n" in (DOCS / page).read_text()


def test_the_drawing_is_of_the_results() -> None:
    """It needs a library to be drawn anew, which the tests do not have."""
    drawing = PLOT.read_text()
    assert f"<dc:source>{digest(TEXT)}</dc:source>" in drawing
    background = drawing.partition('id="patch_1"')[2].partition("/>")[0]
    assert "fill: #ffffff" in background  # in a dark viewer, too


def test_what_is_said_of_the_default_window() -> None:
    """Keep away from 15 to 50 s; a thief who polls goes unnoticed at 5 s and is noticed from 30 s on."""
    slow = {rule.ttl: FOUND[rule].cells[SLOW].share for rule in DEFAULT}
    assert [ttl for ttl, share in slow.items() if share > 0.9] == [20, 30]
    assert [ttl for ttl, share in slow.items() if 0 < share < 0.05] == [15, 40]
    assert [ttl for ttl, share in slow.items() if share == 0] == [5, 10, 50, 60]
    noticed = {rule.ttl: [FOUND[rule].cells[name].share for name in POLLING] for rule in DEFAULT}
    assert [ttl for ttl, shares in noticed.items() if min(shares) == 1] == [30, 40, 50, 60]
    assert noticed[5][POLLING.index(IRREGULAR[3])] == noticed[5][POLLING.index(REGULAR[20])] == 0


def test_what_is_said_of_a_window_of_k() -> None:
    """At 5 s it notices whoever polls; for honest people it is no better than the default."""
    cells = FOUND[Rotation(window=13)].cells
    assert {cells[name].share for name in POLLING} == {1}
    assert cells[LATE].revoked >= FOUND[Rotation()].cells[LATE].revoked > 0


@pytest.mark.parametrize("rule", WIDE, ids=setting)
def test_what_is_said_of_a_window_of_two_minutes(rule: Rotation) -> None:
    cells = FOUND[rule].cells
    for name in POLLING:
        minutes = cells[name].minutes
        assert minutes is not None
        assert minutes < 8, name
        assert cells[name].share >= 0.98, name
    for name in HARDEST:
        assert cells[name].share <= (0.05 if name == SLOW and rule.ttl in (20, 30) else 0), name


@pytest.mark.parametrize("rule", [rule for rule in SHOWN if rule.ttl in (20, 30) and rule not in DEFAULT], ids=setting)
def test_what_is_advised_instead_logs_nobody_out(rule: Rotation) -> None:
    """With a larger window thieves are noticed as well; with more grace, those who poll every 3 s are not."""
    cells = FOUND[rule].cells
    assert [cells[name].revoked for name in HARDEST] == [0, 0, 0]
    shares = [cells[name].share for name in POLLING]
    if rule.grace == 120:
        assert [name for name, share in zip(POLLING, shares, strict=True) if share > 0.9] == [IRREGULAR[60]]
        assert cells[IRREGULAR[3]].revoked == 0
    else:
        assert min(shares) >= 0.95
