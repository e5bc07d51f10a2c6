"""What goes out: which delta a commit writes, how operators fold, how large the data are."""

import copy
from collections.abc import Callable
from contextlib import suppress
from operator import itemgetter
from typing import Any

import pytest
from bson.binary import Binary
from bson.dbref import DBRef
from bson.int64 import Int64
from hypothesis import given
from hypothesis import strategies as st

from mongosession.errors import DataError
from mongosession.events import Verdict
from mongosession.memory import apply
from mongosession.rotation import Judgement
from mongosession.session import Session, tracker
from mongosession.store import Changes, Record
from mongosession.tracker import Difference, Tracker
from mongosession.values import MAX_DEPTH, Delta, dump, load, prepare

from .building import NOW, Change, a_record, a_session, alike, do, fuzz, no_session, stored

DATA = {"n": 5, "list": [1, {"a.b": 2}], "text": "tea", "a.b": 1}


def compare(session: Session) -> Difference:
    difference = tracker(session).compare(session)
    assert difference is not None
    return difference


def delta(session: Session) -> Delta | None:
    difference = tracker(session).compare(session)
    return None if difference is None else difference.delta


def settled(session: Session) -> Session:
    """The same request, after a commit that has written everything."""
    tracker(session).settle(session, tracker(session).compare(session))
    return session


def written(record: Record, session: Session) -> Record:
    """The record once the session's delta has been written to it."""
    return apply(record, Changes(data=delta(session)))


# --------------------------------------------------------------------------------------------------- operators, folded


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # An operator goes out as such, and the same one merges.
        ([do.increment("n")], Delta(increment={"n": 1})),
        ([do.increment("n", 2), do.increment("n", -5)], Delta(increment={"n": -3})),
        ([do.increment("new", 0.5)], Delta(increment={"new": 0.5})),
        ([do.increment("n", 0)], Delta(increment={"n": 0})),
        ([do.append("list", 2, 3), do.append("list", [4])], Delta(append={"list": [2, 3, [4]]})),
        ([do.append("new", {"$x": 1})], Delta(append={"new": [{"%24x": 1}]})),
        ([do.append("new")], Delta(append={"new": []})),
        ([do.add_to_set("list", 1.0, 7), do.add_to_set("list", 7)], Delta(add_to_set={"list": [1.0, 7, 7]})),
        ([do.add_to_set("list", {"a.b": 2})], Delta(add_to_set={"list": [{"a%2Eb": 2}]})),
        ([do.remove_from("list", 1), do.remove_from("list", 9)], Delta(remove_from={"list": [1, 9]})),
        ([do.remove_from("list", {"a.b": 2})], Delta(remove_from={"list": [{"a%2Eb": 2}]})),
        ([do.remove_from("missing", 1)], None),
        ([do.increment("a.b")], Delta(increment={"a%2Eb": 1})),
        # Each key has its own.
        (
            [
                do.increment("n"),
                do.increment("m"),
                do.append("list", 1),
                do.add_to_set("set", 1),
                do.pop("text"),
                do.update(x=1),
            ],
            Delta(
                set={"x": 1},
                unset=("text",),
                increment={"n": 1, "m": 1},
                append={"list": [1]},
                add_to_set={"set": [1]},
            ),
        ),
        # On a key plainly changed before, they act on the new value.
        ([do.update(n=10), do.increment("n")], Delta(set={"n": 11})),
        ([do.update(n=5), do.increment("n")], Delta(increment={"n": 1})),  # equal: no change
        ([do.update(n=4), do.increment("n")], None),  # back to where it was
        ([do.update(n=5.0), do.increment("n")], Delta(set={"n": 6.0})),
        ([do.update(x=[1]), do.append("x", 2)], Delta(set={"x": [1, 2]})),
        ([lambda s: s["list"].append(2), do.append("list", 3)], Delta(set={"list": [1, {"a%2Eb": 2}, 2, 3]})),
        ([lambda s: s["list"][1].clear(), do.add_to_set("list", {})], Delta(set={"list": [1, {}]})),
        ([lambda s: s["list"].clear(), do.remove_from("list", 1)], Delta(set={"list": []})),
        ([do.update(n=[]), do.append("n", 1), do.append("n", 2)], Delta(set={"n": [1, 2]})),
        ([do.update(n=1), do.increment("n"), do.update(n=[]), do.append("n", 1)], Delta(set={"n": [1]})),
        ([do.pop("n"), do.increment("n")], Delta(set={"n": 1})),
        ([do.pop("list"), do.append("list", 9)], Delta(set={"list": [9]})),
        ([do.pop("list"), do.remove_from("list", 9)], Delta(unset=("list",))),
        ([do.clear(), do.increment("n")], Delta(replace={"n": 1})),
        ([do.clear(), do.append("x", 1), do.append("x", 2)], Delta(replace={"x": [1, 2]})),
        # A plain change after one replaces it.
        ([do.increment("n"), do.update(n=1)], Delta(set={"n": 1})),
        ([do.increment("n"), do.update(n=6)], Delta(set={"n": 6})),  # also by the same value
        ([do.increment("n"), do.update(n=5)], None),
        ([do.increment("n"), do.__ior__({"n": 1})], Delta(set={"n": 1})),
        ([do.increment("n"), lambda s: dict.__setitem__(s, "n", 1)], Delta(set={"n": 1})),
        ([do.increment("n"), do.pop("n")], Delta(unset=("n",))),
        ([do.increment("n"), do.__delitem__("n")], Delta(unset=("n",))),
        ([do.increment("n"), lambda s: dict.__delitem__(s, "n")], Delta(unset=("n",))),
        ([do.increment("new"), do.popitem()], None),
        ([do.increment("n"), do.pop("n"), do.setdefault("n", 1)], Delta(set={"n": 1})),
        ([do.increment("n"), do.pop("n"), do.increment("n")], Delta(set={"n": 1})),
        # ... also where it leads to the very value that the operator led to.
        ([do.increment("n"), do.pop("n"), do.setdefault("n", 6)], Delta(set={"n": 6})),
        ([do.increment("n"), do.__delitem__("n"), do.setdefault("n", 6)], Delta(set={"n": 6})),
        ([do.increment("new"), do.popitem(), do.setdefault("new", 1)], Delta(set={"new": 1})),
        ([do.increment("n"), do.setdefault("n", 1)], Delta(increment={"n": 1})),  # no change
        ([do.append("list", 2), lambda s: s["list"].append(3)], Delta(set={"list": [1, {"a%2Eb": 2}, 2, 3]})),
        ([do.append("list", []), lambda s: s["list"][2].append(3)], Delta(set={"list": [1, {"a%2Eb": 2}, [3]]})),
        ([do.append("list", 2), lambda s: s["list"].append(3), lambda s: s["list"].pop()], Delta(append={"list": [2]})),
        (
            [do.append("list", 2), lambda s: s["list"].append(3), do.append("list", 4)],
            Delta(set={"list": [1, {"a%2Eb": 2}, 2, 3, 4]}),
        ),
        (
            [do.append("list", 2), lambda s: s["list"].pop(0), do.add_to_set("list", 4)],
            Delta(set={"list": [{"a%2Eb": 2}, 2, 4]}),
        ),
        ([do.increment("n"), do.clear()], Delta(replace={})),
        ([do.increment("n"), do.clear(), do.update(n=2)], Delta(replace={"n": 2})),
        ([do.increment("n"), do.destroy(), do.increment("n")], Delta(replace={"n": 1})),
        ([do.renew("b"), do.increment("n")], Delta(increment={"n": 1})),
        ([do.renew("b"), do.renew("c"), do.increment("n")], Delta(replace={"n": 1})),
    ],
)
def test_operators_fold(changes: list[Change], expected: Delta | None) -> None:
    session = a_session(DATA)
    for change in changes:
        change(session)
    assert delta(session) == expected
    # What the server makes of it is what the request saw.
    assert alike(load(written(a_record(DATA), session).data)) == alike(session)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda s: s.append("list", 2), lambda s: s.add_to_set("list", 2)),
        (lambda s: s.append("list", 2), lambda s: s.remove_from("list", 2)),
        (lambda s: s.add_to_set("list", 2), lambda s: s.append("list", 2)),
        (lambda s: s.add_to_set("list", 1), lambda s: s.remove_from("list", 1)),
        (lambda s: s.remove_from("list", 1), lambda s: s.append("list", 1)),
        (lambda s: s.remove_from("list", 9), lambda s: s.add_to_set("list", 1)),
    ],
)
def test_another_operator_on_the_same_key_is_an_error(first: Change, second: Change) -> None:
    session = a_session(DATA)
    first(session)
    before, view = delta(session), dict(session)
    with pytest.raises(DataError, match=r"on session\['list'\] after .* in the same request") as caught:
        second(session)
    assert caught.value.key == "list"
    assert delta(session) == before
    assert session == view


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda s: s.increment("text"), "'tea' is no number"),
        (lambda s: s.increment("list"), "is no number"),
        (lambda s: s.increment("true"), "True is no number"),
        (lambda s: s.increment("none"), "None is no number"),
        (lambda s: s.increment("n", "1"), "'1' is no number"),
        (lambda s: s.increment("n", True), "True is no number"),
        (lambda s: s.increment("n", None), "None is no number"),
        (lambda s: s.increment("n", 2**63), "64 bits"),
        (lambda s: s.increment("most"), "64 bits"),
        (lambda s: s.increment("least", 2**64 - 1), "64 bits"),  # the result would fit, the operand does not
        (lambda s: s.increment("new", -(2**63) - 1), "64 bits"),
        (lambda s: s.append("n", 1), "append on .*no list but int"),
        (lambda s: s.append("text", "x"), "no list but str"),
        (lambda s: s.append("none", 1), "no list but NoneType"),
        (lambda s: s.add_to_set("document", 1), "add_to_set on .*no list but dict"),
        (lambda s: s.remove_from("text", "t"), "remove_from on .*no list but str"),
        *(
            (lambda s, operator=operator, value=value: getattr(s, operator)("list", value), why)
            for operator in ("append", "add_to_set", "remove_from")
            for value, why in [
                ({1}, "BSON cannot"),
                (object(), "BSON cannot"),
                (2**64, "64 bits"),
                ("\ud800", "surrogate"),
                ({5: 1}, "keys must be str"),
                ([{"x": {None: 1}}], "keys must be str"),
            ]
        ),
    ],
)
def test_an_operator_that_cannot_be_written_changes_nothing(change: Change, why: str) -> None:
    data = {**DATA, "true": True, "none": None, "document": {}, "most": 2**63 - 1, "least": -(2**63)}
    session = a_session(data)
    with pytest.raises(DataError, match=why) as caught:
        change(session)
    assert caught.value.key in session or caught.value.key == "new"
    assert repr(caught.value.key) in str(caught.value)
    assert delta(session) is None
    assert session == data


@pytest.mark.parametrize("operator", ["append", "add_to_set", "remove_from"])
def test_an_operator_on_what_contains_itself_or_is_too_deep(operator: str) -> None:
    loop: list[Any] = []
    loop.append(loop)
    deep: Any = 0
    for _ in range(MAX_DEPTH):
        deep = [deep]
    for value in (loop, deep):
        session = a_session(DATA)
        with pytest.raises(DataError, match="levels deep"):
            getattr(session, operator)("list", value)
        session["list"] = [value]
        with pytest.raises(DataError, match="levels deep"):
            getattr(session, operator)("list", 1)


def test_increments_that_merge_to_more_than_64_bits_are_an_error() -> None:
    session = a_session({"n": -(2**63)})
    session.increment("n", 2**62)
    session.increment("n", 2**62 - 1)
    with pytest.raises(DataError, match="64 bits"):
        session.increment("n", 2**62)  # the result would fit, what goes out does not
    assert delta(session) == Delta(increment={"n": 2**63 - 1})
    session["n"] = 0  # assigned plainly, it can be
    session.increment("n", 2**62)
    assert delta(session) == Delta(set={"n": 2**62})


def test_an_operand_is_taken_as_it_is_at_the_call() -> None:
    session = a_session({})
    value = {"x": 1}
    session.append("list", value)
    value["x"] = 2
    # It stands in the session as the same object, as it would in a list; so that was a plain change of the session.
    assert session["list"] == [{"x": 2}]
    assert delta(session) == Delta(set={"list": [{"x": 2}]})


def test_integers_stay_integers_of_their_width() -> None:
    session = a_session({"n": 2**40, "m": Int64(1)})
    session.increment("n")
    session["m"] = Int64(1)
    assert type(session["n"]) is int
    assert delta(session) == Delta(increment={"n": 1})


@pytest.mark.parametrize("make", [no_session, lambda: no_session(Verdict.LATE), lambda: no_session(Verdict.ENDED)])
def test_on_a_session_that_is_not_stored_yet_operators_are_plain_changes(make: Callable[[], Session]) -> None:
    session = make()
    session.increment("n", 2)
    session.increment("n")
    session.append("list", {"a.b": 1})
    session.add_to_set("list", {"a.b": 1}, 2)  # another operator: no matter, neither goes out as one
    session.remove_from("list", 2)
    session.remove_from("missing", 2)
    assert session == {"n": 3, "list": [{"a.b": 1}]}
    assert delta(session) == Delta(set={"n": 3, "list": [{"a%2Eb": 1}]})


def test_parallel_operators_lose_nothing() -> None:
    record = a_record({"n": 1, "list": [1], "set": [1], "rest": [1, 2, 3]})
    one, other = a_session(record=record), a_session(record=record)
    for each, mark in ((one, 10), (other, 20)):
        each.increment("n", mark)
        each.append("list", mark)
        each.add_to_set("set", mark, 30)
        each.remove_from("rest", mark // 10)
        each[f"own {mark}"] = mark
    for first, second in ((one, other), (other, one)):
        result = load(written(written(record, first), second).data)
        assert result.pop("n") == 31
        assert sorted(result.pop("list")) == [1, 10, 20]
        assert sorted(result.pop("set")) == [1, 10, 20, 30]
        assert result == {"rest": [3], "own 10": 10, "own 20": 20}


# --------------------------------------------------------------------------------------------- clear, and what is kept


def test_clear_drops_what_was_there_and_what_was_set_before_it() -> None:
    session = a_session(DATA)
    session["before"] = 1
    session.clear()
    assert delta(session) == Delta(replace={})
    session["n"] = 5  # as it was read; and yet it has to be written
    session["after"] = [2]
    assert delta(session) == Delta(replace={"n": 5, "after": [2]})
    assert compare(session).keys == ("n", "after")
    assert alike(load(written(a_record(DATA), session).data)) == alike({"n": 5, "after": [2]})


def test_clear_is_written_even_where_nothing_was_read() -> None:
    # A parallel request may have stored something.
    session = a_session({})
    session.clear()
    assert delta(session) == Delta(replace={})


def test_emptying_key_by_key_is_no_clear() -> None:
    session = a_session(DATA)
    for key in list(session):
        del session[key]
    assert delta(session) == Delta(unset=("n", "list", "text", "a%2Eb"))


def test_comparing_twice_gives_the_same() -> None:
    session = a_session(DATA)
    session["list"].append(1)
    session.increment("n")
    assert compare(session) == compare(session)


def test_what_is_compared_is_what_was_read_and_not_what_became_of_it() -> None:
    session = a_session(DATA)
    kept = session["list"]
    kept.append(2)
    del session["list"]
    assert delta(session) == Delta(unset=("list",))
    session["list"] = kept
    assert delta(session) == Delta(set={"list": [1, {"a%2Eb": 2}, 2]})
    kept.pop()
    assert delta(session) is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (1, True),
        (1, Int64(1)),
        (1, 1.0),
        (0.0, -0.0),
        (b"x", Binary(b"x", 128)),
        ("1", 1),
        ([], {}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (DBRef("c", 1), {"$ref": "c", "$id": 1}),  # BSON has no type of its own for it
        ([{"x": DBRef("c", 1)}], [{"x": {"$ref": "c", "$id": 1}}]),
    ],
)
@pytest.mark.parametrize("by_this_request", [False, True])
def test_a_change_of_nothing_but_the_type_is_one(before: Any, after: Any, *, by_this_request: bool) -> None:
    for old, new in ((before, after), (after, before)):
        session = a_session({} if by_this_request else {"key": old})
        if by_this_request:
            session["key"] = old
            settled(session)
        session["key"] = new
        assert delta(session) == Delta(set={"key": prepare("key", new)})


def test_what_looks_past_the_methods_of_a_session_changes_it_all_the_same() -> None:
    session = a_session(DATA)
    dict.__setitem__(session, "text", "milk")
    dict.__delitem__(session, "n")
    dict.__setitem__(session, "list", [1])
    assert not session.accessed
    assert delta(session) == Delta(set={"list": [1], "text": "milk"}, unset=("n",))


@pytest.mark.parametrize(
    "hand_out",
    [
        lambda session: session["list"],
        lambda session: session.get("list"),
        lambda session: session.get("other", session["list"]),
        lambda session: session.setdefault("list", []),
        lambda session: next(value for value in session.values() if isinstance(value, list)),
        lambda session: dict(session.items())["list"],
        lambda session: session.keys().mapping["list"],
        lambda session: session.copy()["list"],
        lambda session: copy.copy(session)["list"],
        lambda session: {**session}["list"],
        lambda session: (session | {})["list"],
        lambda session: ({} | session)["list"],
        lambda session: dict(session)["list"],
        itemgetter("list"),
    ],
)
def test_a_container_that_was_handed_out_may_change_without_the_session(hand_out: Callable[[Session], Any]) -> None:
    session = a_session(DATA)
    container = hand_out(session)
    assert delta(session) is None
    container.append(2)
    assert delta(session) == Delta(set={"list": [1, {"a%2Eb": 2}, 2]})


@pytest.mark.parametrize("take_out", [lambda session: session.pop("list"), lambda session: session.popitem()[1]])
def test_a_container_that_was_taken_out_and_put_back_may_have_changed(take_out: Callable[[Session], Any]) -> None:
    session = a_session({"n": 1, "list": [1]})
    container = take_out(session)
    container.append(2)
    session["list"] = container
    assert delta(session) == Delta(set={"list": [1, 2]})


def test_a_container_that_was_put_in_may_change_after_the_commit() -> None:
    session, container = a_session(DATA), [1]
    session["new"] = container
    settled(session)
    container.append(2)
    assert delta(session) == Delta(set={"new": [1, 2]})


def test_plain_values_take_no_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    session = a_session({"n": 1, "text": "tea", "yes": True, "none": None, "list": [1]})
    monkeypatch.setattr("mongosession.tracker.encode", None)
    monkeypatch.setattr("mongosession.tracker.plain_encoding", None)
    session["text"], session["n"], session["yes"] = "milk", session["n"] + 1, None
    del session["none"]
    assert delta(session) == Delta(set={"text": "milk", "n": 2, "yes": None}, unset=("none",))


# ---------------------------------------------------------------------------------------------------- the second commit


def test_the_second_commit_writes_only_what_is_new() -> None:
    session = a_session(DATA)
    session["one"] = [1]
    session.increment("n")
    session.pop("text")
    settled(session)
    assert delta(session) is None
    session["two"] = 2
    session.increment("n", 3)
    session["one"].append(2)
    assert delta(session) == Delta(set={"two": 2, "one": [1, 2]}, increment={"n": 3})
    settled(session)
    session["one"].pop()
    session["text"] = "tea"  # as it was read at first, and not any more
    assert delta(session) == Delta(set={"one": [1], "text": "tea"})


def test_after_the_commit_another_operator_may_follow() -> None:
    session = a_session(DATA)
    session.append("list", 2)
    settled(session)
    session.remove_from("list", 2)
    assert delta(session) == Delta(remove_from={"list": [2]})


def test_after_the_commit_a_cleared_session_is_compared_with_what_was_written() -> None:
    session = a_session(DATA)
    session.clear()
    session["list"] = [1]
    settled(session)
    assert delta(session) is None
    session["n"] = 5
    session["list"].append(2)
    assert delta(session) == Delta(set={"n": 5, "list": [1, 2]})


def test_nothing_is_settled_where_nothing_was_compared() -> None:
    session = a_session(DATA)
    session["n"] = 6
    tracker(session).settle(session, None)
    assert delta(session) == Delta(set={"n": 6})


def test_a_commit_takes_the_token_and_the_intent_along() -> None:
    about = Tracker(Judgement(Verdict.DUE, NOW, mint=1, offer=1), record=a_record(), resend=True)
    session = Session(about)
    session.renew(subject="user:42")
    settled(session)
    assert about.intent is None
    assert not about.resend
    assert about.judgement == Judgement(Verdict.DUE, NOW)


# ---------------------------------------------------------------------------------------------------------- the model

KEYS = st.sampled_from(["a", "b.c", "$d", ""])
NUMBERS = st.integers(-3, 3) | st.integers(-3, 3).map(lambda n: n / 2) | st.just(2**40)
ATOMS = NUMBERS | st.booleans() | st.none() | st.sampled_from(["", "tea", b"tea", -0.0])
LISTS = st.lists(ATOMS | st.fixed_dictionaries({"x.y": ATOMS}), max_size=3)
ANYTHING = ATOMS | NUMBERS | LISTS | st.dictionaries(st.sampled_from(["k", "$"]), ATOMS | LISTS, max_size=2)
DATA_OF_ANY_KIND = st.dictionaries(KEYS, ANYTHING, max_size=4)


def a_change(key: str, value: Any, number: float, values: list[Any]) -> list[Change]:
    """Everything that can be done to a session, on one key."""

    def nested(session: Session) -> None:
        inner = session.get(key)
        if isinstance(inner, list):
            inner.append(value)
        elif isinstance(inner, dict):
            inner["$new"] = value

    return [
        lambda s: s.__setitem__(key, value),
        lambda s: s.__delitem__(key),
        lambda s: s.pop(key, None),
        lambda s: s.popitem(),
        lambda s: s.setdefault(key, value),
        lambda s: s.update({key: value}),
        lambda s: s.__ior__({key: value}),
        lambda s: s.clear(),
        lambda s: dict.__setitem__(s, key, value),
        lambda s: dict.pop(s, key, None),
        nested,
        nested,
        lambda s: s.increment(key, number),
        lambda s: s.increment(key),
        lambda s: s.append(key, *values),
        lambda s: s.add_to_set(key, *values),
        lambda s: s.remove_from(key, *values),
    ]


CHANGES = st.lists(st.builds(a_change, KEYS, ANYTHING, NUMBERS, LISTS).flatmap(st.sampled_from), min_size=1, max_size=8)


def perform(session: Session, changes: list[Change]) -> None:
    for change in changes:
        before = alike(session)
        try:
            with suppress(KeyError):
                change(session)
        except DataError:  # another operator, or not on this kind of value
            assert alike(session) == before


@fuzz
@given(DATA_OF_ANY_KIND, st.lists(CHANGES, min_size=1, max_size=3))
def test_what_is_written_is_what_the_request_saw(data: dict[str, Any], commits: list[list[Change]]) -> None:
    record = a_record(data)
    session = a_session(record=record)
    for changes in commits:
        perform(session, changes)
        difference = tracker(session).compare(session)
        before, record = record, written(record, session)
        assert alike(load(record.data)) == alike(session)
        if difference is None:
            assert record == before
            continue
        # The size is that of the real encoding.
        assert difference.size == len(record.data) == len(stored(session))
        assert difference.grown == (len(record.data) > len(before.data))
        # At most one operator stands for a key.
        names = difference.delta.names()
        assert len(names) == len(set(names)) == len(difference.keys)
        settled(session)
        assert delta(session) is None


@fuzz
@given(CHANGES)
def test_a_new_session_is_made_of_what_the_request_saw(changes: list[Change]) -> None:
    session = no_session()
    perform(session, changes)
    difference = tracker(session).compare(session)
    made = dump(difference.delta.from_nothing() if difference is not None else {})
    assert alike(load(made)) == alike(session)
    assert difference is None or difference.size == len(made)
