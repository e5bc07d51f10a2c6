"""The fuzzer's targets: on what it begins with, on what it has found, and on whatever Hypothesis makes up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.targets import TARGETS

from .building import fuzz

FOUND: list[tuple[str, bytes]] = []
"""Bytes for which something was wrong once."""


@pytest.mark.parametrize(
    ("target", "data"), [(name, seed) for name, target in TARGETS.items() for seed in (*target.seeds, b"")] + FOUND
)
def test_what_is_known(target: str, data: bytes) -> None:
    TARGETS[target].check(data)


@pytest.mark.parametrize("target", TARGETS)
@fuzz
@given(data=st.data())
def test_whatever_comes(target: str, data: st.DataObject) -> None:
    seeds, words = TARGETS[target].seeds, TARGETS[target].words or (b"",)
    parts = st.sampled_from([*seeds, *words]) | st.binary(max_size=20)
    TARGETS[target].check(b"".join(data.draw(st.lists(parts, max_size=5))))
