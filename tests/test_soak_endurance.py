"""The soak's endurance in short: what is flat is found flat, what leaks is seen to leak."""

import pytest

from soak.endurance import BOUNDS, LEAKS, Leg, Sample, in_memory

REQUESTS = 40_000


def test_nothing_is_left_behind() -> None:
    leg = in_memory(REQUESTS, 60, seed=1)
    assert leg.grows() == []
    assert leg.wrong == 0
    assert sum(leg.asked.values()) > REQUESTS * 0.9
    assert min(leg.asked.values()) > 500


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_is_seen(leak: str) -> None:
    assert set(in_memory(REQUESTS, 60, seed=1, leak=leak).grows()) == {
        "descriptors" if "descriptor" in leak else "blocks"
    }


def test_growth_is_by_the_request() -> None:
    def leg(blocks: float) -> Leg:
        return Leg({}, 0, [Sample(n * 100_000, 50_000 + n, 9_000 + blocks * n, 7) for n in range(5)])

    assert leg(BOUNDS["blocks"]).grows() == []
    assert leg(BOUNDS["blocks"] + 1).grows() == ["blocks"]
    assert leg(0).slopes() == {"resident": 1, "blocks": 0, "descriptors": 0}
