"""Half an hour with each kind of wrong clock, in a time that is moved by hand."""

from soak import clocks


def test_wrong_clocks_log_nobody_out() -> None:
    result = clocks.run(0, seed=1, browsers=2)
    assert result.failures == []
    assert len(result.faults) == len(clocks.WEATHERS)
    assert result.did["rotations seen"] > 300
