"""The soak of a replica set in short: a primary killed, another stepped down, under browsers; and nothing is lost."""

from soak.faults import BRIEFLY, KILLED, STEPPED_DOWN, soak


def test_failovers_lose_nothing_and_log_nobody_out() -> None:
    result = soak(0, 1, faults=BRIEFLY, drivers=("pymongo", "motor"), browsers=10, think=0.2)
    assert result.failures == []
    assert result.faults[KILLED] == result.faults[STEPPED_DOWN] == 1
    assert result.did["operations in the history"] > 100
