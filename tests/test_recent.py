"""What is remembered of late: the newest, and never more than the room."""

import sys
from concurrent.futures import ThreadPoolExecutor
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from mongosession.recent import Recent

from .building import fuzz

ROOM = 20


@fuzz
@given(st.lists(st.tuples(st.sampled_from("abcdefghij"), st.integers(1, 15))))
def test_the_newest_are_remembered_and_never_more_than_the_room(added: list[tuple[str, int]]) -> None:
    recent, last = Recent[int](ROOM), dict[str, int]()
    for place, (text, size) in enumerate(added):
        recent.add(text, place, size)
        if size <= ROOM // 2:
            last[text] = place
    found = {text: value for text in "abcdefghij" if (value := recent.get(text)) is not None}
    assert len(recent) == len(found)
    assert all(value == last[text] for text, value in found.items())
    assert sum(added[place][1] for place in found.values()) <= ROOM
    for text, place in last.items():
        since = sum(size for _, size in added[place:] if size <= ROOM // 2)
        assert text in found or since > ROOM // 2


def test_what_is_larger_than_half_of_the_room_drops_nothing() -> None:
    recent = Recent[str](ROOM)
    recent.add("a", "A", ROOM // 2)
    recent.add("b", "B", ROOM // 2 + 1)
    assert (recent.get("a"), recent.get("b"), len(recent)) == ("A", None, 1)


def test_both_halves_are_asked() -> None:
    recent = Recent[int](4)
    for number in range(4):
        recent.add(str(number), number)
    assert [recent.get(str(number)) for number in range(5)] == [0, 1, 2, 3, None]
    recent.add("4", 4)
    assert [recent.get(str(number)) for number in range(5)] == [None, None, 2, 3, 4]


def test_threads_may_ask_and_add_at_the_same_time() -> None:
    recent = Recent[int](6)

    def work(seed: int) -> None:
        chance = Random(seed)
        for _ in range(2000):
            number = chance.randrange(10)
            assert recent.get(str(number)) in (None, number)
            recent.add(str(number), number)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
    finally:
        sys.setswitchinterval(interval)
    assert len(recent) <= 6 + 4
