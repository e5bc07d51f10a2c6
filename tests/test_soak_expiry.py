"""A short form of the soak's part: expired sessions that the database has not deleted yet."""

from soak import expiry


def test_what_has_expired_is_refused_whether_it_was_deleted_or_not() -> None:
    result = expiry.run(0, seed=1, idle=1)
    assert not result.failures
    assert result.did["documents deleted when the monitor came back"] == result.faults[expiry.STAYED]
