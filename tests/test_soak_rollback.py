"""One rollback of the soak: it is made to happen on a real set, and costs nobody a session."""

from soak import rollback


def test_a_rollback_logs_nobody_out_and_undoes_nothing_durable() -> None:
    result = rollback.run(120, seed=1, rollbacks=1)
    assert not result.failures
    assert result.did["requests with a token ahead of its session"] > 0
    assert result.did["requests with a cookie of an ended session"] > 0
    assert result.faults["rotations rolled back"] > 0
