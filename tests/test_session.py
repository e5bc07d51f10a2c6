"""The session is a dictionary. The whole surface of `dict` is walked, so that no method of a new Python slips by."""

import copy
import json
import pickle
from collections import ChainMap, OrderedDict
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any

import pytest
from bson.int64 import Int64

from mongosession.errors import DataError
from mongosession.events import Verdict
from mongosession.session import KEEP, MAX_SUBJECT, Session, tracker
from mongosession.tracker import Renewal
from mongosession.values import Delta

from .building import AGE, NOW, a_record, a_session, a_token, no_session

DATA = {"n": 1, "list": [1, {"deep": [1]}], "text": "tea"}


def session() -> Session:
    return a_session(DATA)


def delta(changed: Session) -> Delta | None:
    """What of the data a commit would write."""
    difference = tracker(changed).compare(changed)
    return None if difference is None else difference.delta


def accessed(looked_at: Session) -> bool:
    return tracker(looked_at).accessed


# ------------------------------------------------------------------------------------------------ the surface of dict

READS: dict[str, Callable[[Session], object]] = {
    "__contains__": lambda s: "n" in s,
    "__eq__": lambda s: s == {},
    "__format__": lambda s: f"{s}",
    "__getitem__": lambda s: s["n"],
    "__iter__": iter,
    "__len__": len,
    "__ne__": lambda s: s != {},
    "__or__": lambda s: s | {"x": 1},
    "__reduce_ex__": lambda s: s.__reduce_ex__(4),
    "__repr__": repr,
    "__reversed__": reversed,
    "__ror__": lambda s: {"x": 1} | s,
    "__str__": str,
    "copy": lambda s: s.copy(),
    "get": lambda s: s.get("missing"),
    "items": lambda s: s.items(),
    "keys": lambda s: s.keys(),
    "values": lambda s: s.values(),
}

MUTATES: dict[str, Callable[[Session], object]] = {
    "__delitem__": lambda s: s.__delitem__("n"),
    "__ior__": lambda s: s.__ior__({"n": 2}),
    "__setitem__": lambda s: s.__setitem__("n", 2),
    "clear": lambda s: s.clear(),
    "pop": lambda s: s.pop("n"),
    "popitem": lambda s: s.popitem(),
    "setdefault": lambda s: s.setdefault("new", 1),
    "update": lambda s: s.update(n=2),
}

REFUSED = {"fromkeys", "__hash__", "__reduce__"}

TELLS_NOTHING = {
    *("__class__", "__class_getitem__", "__delattr__", "__dir__", "__doc__", "__getattribute__", "__getstate__"),
    *("__init__", "__init_subclass__", "__new__", "__setattr__", "__sizeof__", "__subclasshook__"),
    *("__ge__", "__gt__", "__le__", "__lt__"),  # dictionaries have no order
}


def test_every_method_of_dict_is_accounted_for() -> None:
    known = READS.keys() | MUTATES.keys() | REFUSED | TELLS_NOTHING
    assert set(dir(dict)) - known == set()


@pytest.mark.parametrize("name", READS)
def test_every_reading_method_counts_as_a_look(name: str) -> None:
    looked_at = session()
    READS[name](looked_at)
    assert accessed(looked_at)
    assert delta(looked_at) is None
    empty = no_session()
    if name != "__getitem__":
        READS[name](empty)
        assert accessed(empty)


@pytest.mark.parametrize("name", MUTATES)
def test_every_mutating_method_is_noticed(name: str) -> None:
    changed = session()
    MUTATES[name](changed)
    assert accessed(changed)
    assert delta(changed) is not None


def test_what_is_refused() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(session())
    for made in (Session, session()):
        with pytest.raises(TypeError, match=r"dict\.fromkeys"):
            made.fromkeys(["a"])
    with pytest.raises(TypeError, match="pickle"):
        session().__reduce__()
    with pytest.raises(TypeError, match="not supported"):
        session() < {}  # type: ignore[operator]  # noqa: B015  # pyright: ignore[reportOperatorIssue, reportUnusedExpression]


def match(subject: object) -> object:
    match subject:
        case {"n": found}:
            return found
        case _:
            return None


def keywords(**given: object) -> dict[str, object]:
    return given


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (dict, DATA),
        (lambda s: {**s}, DATA),
        (lambda s: keywords(**s), DATA),
        (lambda s: {} | s, DATA),
        (lambda s: s | {}, DATA),
        (OrderedDict, OrderedDict(DATA)),
        (lambda s: dict(ChainMap({}, s)), DATA),
        (lambda s: s.copy(), DATA),
        (copy.copy, DATA),
        (copy.deepcopy, DATA),
        (lambda s: pickle.loads(pickle.dumps(s)), DATA),
        (lambda s: pickle.loads(pickle.dumps(s, protocol=0)), DATA),
        (lambda s: json.loads(json.dumps(s)), DATA),
        (lambda s: json.loads(json.dumps(s, indent=1)), DATA),
        (lambda s: json.loads(json.dumps({"session": s})), {"session": DATA}),
        (lambda s: s == DATA, True),
        (lambda s: DATA == s, True),  # noqa: SIM300  # from the other side
        (lambda s: s != DATA, False),
        (lambda s: s == session(), True),
        (match, 1),
        (list, list(DATA)),
        (set, set(DATA)),
        (sorted, sorted(DATA)),
        (dict.fromkeys, dict.fromkeys(DATA)),
        (lambda s: list(reversed(s)), list(reversed(DATA))),
        (lambda s: list(s.items()), list(DATA.items())),
        (lambda s: [*s], list(DATA)),
        (bool, True),
        (len, 3),
        (any, True),
        (lambda s: "n" in s, True),
        (lambda s: "x" in s, False),
        (lambda s: s.get("x", 5), 5),
        (lambda s: s["n"], 1),
        (repr, repr(DATA)),
        (str, str(DATA)),
        (lambda s: "%(text)s" % s, "tea"),  # noqa: UP031
        ("{text}".format_map, "tea"),
        (lambda s: [key for key in s], list(DATA)),  # noqa: C416
    ],
)
def test_it_reads_as_the_dictionary_that_it_is(use: Callable[[Session], object], expected: object) -> None:
    looked_at = session()
    assert not accessed(looked_at)
    result = use(looked_at)
    assert result == expected
    assert type(result) is type(expected)  # a copy is a plain dictionary: it is no session any more
    assert accessed(looked_at)
    assert delta(looked_at) is None


def test_it_can_be_merged_into_another_dictionary() -> None:
    updated: dict[str, Any] = {"other": 1}
    merged = updated.copy()
    one, two = session(), session()
    updated.update(one)
    merged |= two
    assert updated == merged == {"other": 1, **DATA}
    assert accessed(one)
    assert accessed(two)


def test_it_is_a_dictionary_by_type() -> None:
    assert isinstance(session(), dict)
    assert isinstance(session(), MutableMapping)
    assert isinstance(session(), Mapping)
    assert not bool(no_session())


def test_a_copy_is_a_copy() -> None:
    looked_at = session()
    deep, shallow = copy.deepcopy(looked_at), copy.copy(looked_at)
    deep["list"].append(2)
    deep["n"] = shallow["n"] = 2
    assert delta(looked_at) is None
    shallow["list"].append(2)  # as with any dictionary
    assert delta(looked_at) == Delta(set={"list": [*DATA["list"], 2]})  # type: ignore[misc]


def test_what_changes_it_returns_what_dict_returns() -> None:
    changed = session()
    assert changed.pop("n") == 1
    assert changed.pop("n", None) is None
    assert changed.setdefault("text", "coffee") == "tea"
    assert changed.setdefault("new", []) is changed["new"]
    assert changed.popitem() == ("new", [])
    assert changed.update({"a": 1}, b=2) is None  # type: ignore[func-returns-value]
    changed.update([("c", 3)])
    changed.update()
    same = changed
    changed |= {"d": 4}
    changed |= [("e", 5)]
    assert changed is same
    assert list(changed) == ["list", "text", "a", "b", "c", "d", "e"]
    assert changed.clear() is None  # type: ignore[func-returns-value]
    assert len(changed) == 0


def test_it_raises_what_dict_raises() -> None:
    empty = no_session()
    for lookup in (lambda: empty["x"], lambda: empty.pop("x"), empty.popitem, lambda: empty.__delitem__("x")):
        with pytest.raises(KeyError):
            lookup()
    with pytest.raises(TypeError):
        empty.update(1)
    assert delta(empty) is None


def test_a_misspelt_attribute_is_an_error() -> None:
    with pytest.raises(AttributeError):
        session().user = "ann"  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


# -------------------------------------------------------------------------------------------- looks and other questions


def test_what_it_tells_of_itself_is_no_look_at_the_data() -> None:
    record = a_record(DATA, subject="user:42")
    asked = a_session(record=record)
    assert asked.id == record.id.hex()
    assert asked.verdict is Verdict.CURRENT
    assert asked.subject == "user:42"
    assert not asked.is_new
    assert not asked.late
    assert asked.created_at == datetime.fromtimestamp(NOW - AGE, UTC)
    assert asked.seen_at == datetime.fromtimestamp(NOW - 1, UTC)
    assert asked.expires_at == datetime.fromtimestamp(NOW - 1 + 7200, UTC)
    assert not accessed(asked)


def test_what_it_tells_of_itself_where_there_is_none() -> None:
    asked = no_session()
    assert asked.is_new
    assert asked.verdict is Verdict.ANONYMOUS
    assert [asked.id, asked.subject, asked.created_at, asked.seen_at, asked.expires_at] == [None] * 5
    assert not asked.late
    assert not accessed(asked)


@pytest.mark.parametrize(
    ("verdict", "late"),
    [
        (Verdict.ANONYMOUS, False),
        (Verdict.INVALID, False),
        (Verdict.ENDED, False),
        (Verdict.LATE, True),
        (Verdict.COPIED, True),
        (Verdict.UNAVAILABLE, True),
    ],
)
def test_late_says_that_nothing_will_be_stored(verdict: Verdict, late: bool) -> None:
    assert no_session(verdict).late is late
    assert no_session(verdict, revoked=True).late is False


def test_the_id_is_no_credential() -> None:
    token = a_token()
    assert token.sid.hex() not in (session().id or "")


def test_a_look_can_be_noted() -> None:
    looked_at = session()
    looked_at.mark_accessed()
    assert accessed(looked_at)


@pytest.mark.parametrize("call", [Session.renew, Session.destroy, lambda s: s.renew(subject="user:42")])
def test_log_in_and_log_out_count_as_a_look(call: Callable[[Session], None]) -> None:
    changed = no_session()
    call(changed)
    assert accessed(changed)


# ---------------------------------------------------------------------------------------------- what counts as a change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda s: s["list"].append(2), [1, {"deep": [1]}, 2]),
        (lambda s: s["list"].clear(), []),
        (lambda s: s["list"].reverse(), [{"deep": [1]}, 1]),
        (lambda s: s["list"][1].update(deep=2), [1, {"deep": 2}]),
        (lambda s: s["list"][1]["deep"].append(2), [1, {"deep": [1, 2]}]),
        (lambda s: s["list"][1]["deep"].__setitem__(0, True), [1, {"deep": [True]}]),
        (lambda s: s["list"][1].__setitem__("a.b", 1), [1, {"deep": [1], "a%2Eb": 1}]),
        (lambda s: s.get("list").pop(), [1]),
        (lambda s: [*s.values()][1].append(2), [1, {"deep": [1]}, 2]),
        (lambda s: [*s.items()][1][1].append(2), [1, {"deep": [1]}, 2]),
        (lambda s: dict(s)["list"].append(2), [1, {"deep": [1]}, 2]),
        (lambda s: {**s}["list"].append(2), [1, {"deep": [1]}, 2]),
        (lambda s: s.copy()["list"].append(2), [1, {"deep": [1]}, 2]),
        (lambda s: s.setdefault("list", []).append(2), [1, {"deep": [1]}, 2]),
    ],
)
def test_nested_changes_need_no_flag(change: Callable[[Session], object], expected: list[Any]) -> None:
    changed = session()
    change(changed)
    assert repr(delta(changed)) == repr(Delta(set={"list": expected}))  # repr tells True from 1
    difference = tracker(changed).compare(changed)
    assert difference is not None
    assert difference.keys == ("list",)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: dict.__setitem__(s, "n", 2),
        lambda s: dict.__delitem__(s, "n"),
        lambda s: dict.pop(s, "n"),
        lambda s: dict.update(s, n=2),
        lambda s: dict.setdefault(s, "new", 1),
        dict.clear,
        lambda s: dict.__ior__(s, {"n": 2}),
        lambda s: dict.__setitem__(s, "list", []),
    ],
)
def test_a_change_behind_its_back_is_noticed(change: Callable[[Session], object]) -> None:
    changed = session()
    change(changed)
    assert delta(changed) is not None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (1, True),
        (True, 1),
        (1, 1.0),
        (1.0, 1),
        (0, False),
        (0.0, -0.0),
        (-0.0, 0.0),
        (1, Int64(1)),
        ("1", 1),
        (None, 0),
        ("a", b"a"),
        ([1], [True]),
        ([1], [1.0]),
        ([], {}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),  # documents have an order
        ({"a": {"b": [0.0]}}, {"a": {"b": [-0.0]}}),
    ],
)
def test_what_is_equal_to_python_only_is_a_change(before: object, after: object) -> None:
    changed = a_session({"key": before})
    changed["key"] = after
    assert delta(changed) == Delta(set={"key": after})
    assert repr(delta(changed)) == repr(Delta(set={"key": after}))


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 1, 2**40, 1.5, float("nan"), -0.0, "text", "", b"bytes"),
        *([], {}, [1, [2, {"a.b": 3}]], {"$set": {"": [None]}}),
        datetime(2030, 1, 1, tzinfo=UTC),
    ],
    ids=repr,
)
def test_an_equal_value_is_no_change(value: object) -> None:
    changed = a_session({"key": value})
    changed["key"] = copy.deepcopy(value)
    assert delta(changed) is None
    del changed["key"]
    changed["key"] = copy.deepcopy(value)
    assert delta(changed) is None
    changed.update(key=copy.deepcopy(value))
    assert delta(changed) is None


def test_a_tuple_is_the_list_that_it_is_stored_as() -> None:
    changed = a_session({"key": [1, [2]]})
    changed["key"] = (1, (2,))
    assert delta(changed) is None


def test_changes_that_take_each_other_back_are_none() -> None:
    changed = session()
    changed["list"].append(2)
    changed["list"].pop()
    changed["n"] = 2
    changed["n"] = 1
    changed["new"] = 1
    del changed["new"]
    text = changed.pop("text")
    changed["text"] = text
    assert delta(changed) is None


def test_deleted_and_changed_keys_go_out_by_name() -> None:
    changed = a_session({"a.b": 1, "$": 2, "": 3})
    del changed["a.b"]
    changed[""] = 4
    changed["$new"] = {"x.y": 5}
    assert delta(changed) == Delta(set={"%": 4, "%24new": {"x%2Ey": 5}}, unset=("a%2Eb",))


@pytest.mark.parametrize("key", [5, None, b"bytes", ("a", "b"), 1.5])
def test_a_key_that_is_no_text_is_an_error_that_names_it(key: Any) -> None:
    changed = session()
    changed[key] = 1
    with pytest.raises(DataError, match="keys must be str") as caught:
        delta(changed)
    assert repr(key) in str(caught.value)


@pytest.mark.parametrize("value", [object(), {1}, 2**64, {5: 1}, "\ud800"], ids=repr)
def test_a_value_that_cannot_be_stored_is_an_error_that_names_the_key(value: object) -> None:
    for key in ("n", "list"):
        changed = session()
        changed["list"].append(1)
        changed[key] = [{"deep": value}]
        with pytest.raises(DataError, match=rf"session\['{key}'\]") as caught:
            delta(changed)
        assert caught.value.key == key


# ------------------------------------------------------------------------------------------------- log-in and log-out


def held(subject: str | None = None) -> Session:
    return a_session(record=a_record(DATA, subject=subject))


def test_a_log_in_keeps_the_data() -> None:
    changed = held()
    changed.renew(subject="user:42")
    assert changed == DATA
    assert changed.subject == "user:42"
    assert tracker(changed).intent == Renewal("user:42", sets_subject=True)
    assert delta(changed) is None


@pytest.mark.parametrize("other", ["user:43", None])
def test_another_subject_starts_empty_at_the_call(other: str | None) -> None:
    changed = held("user:42")
    changed["before"] = 1
    changed.renew(subject=other)
    assert changed == {}
    assert changed.subject == other
    changed["after"] = 2
    assert delta(changed) == Delta(replace={"after": 2})


def test_the_same_subject_keeps_the_data() -> None:
    changed = held("user:42")
    changed.renew(subject="user:42")
    assert changed == DATA
    assert tracker(changed).intent == Renewal("user:42", sets_subject=True)


@pytest.mark.parametrize("subject", [None, "user:42"])
def test_renewing_without_a_subject_keeps_the_one_there_is(subject: str | None) -> None:
    for arguments in ((), (KEEP,)):
        changed = held(subject)
        changed.renew(*arguments)
        assert changed == DATA
        assert changed.subject == subject
        assert tracker(changed).intent == Renewal(subject, sets_subject=False)


def test_a_second_renewal_keeps_what_the_first_one_set() -> None:
    changed = held()
    changed.renew(subject="user:42")
    changed.renew()
    assert tracker(changed).intent == Renewal("user:42", sets_subject=True)
    changed.renew(subject="user:43")
    assert changed == {}
    assert tracker(changed).intent == Renewal("user:43", sets_subject=True)


def test_log_out_empties_the_session_at_the_call() -> None:
    changed = held("user:42")
    changed["before"] = 1
    changed.destroy()
    assert changed == {}
    assert changed.subject is None
    assert tracker(changed).intent == "destroy"
    changed["after"] = 2
    assert delta(changed) == Delta(replace={"after": 2})


def test_of_renewal_and_log_out_the_last_one_counts() -> None:
    changed = held("user:42")
    changed.destroy()
    changed.renew(subject="user:43")
    assert changed.subject == "user:43"
    assert tracker(changed).intent == Renewal("user:43", sets_subject=True)
    changed.destroy()
    assert tracker(changed).intent == "destroy"
    changed.renew()
    # Whoever was logged out stays so.
    assert tracker(changed).intent == Renewal(None, sets_subject=True)
    assert changed == {}


@pytest.mark.parametrize("subject", [42, b"user:42", ["user:42"], True, object()], ids=repr)
def test_a_subject_is_text(subject: Any) -> None:
    changed = held()
    with pytest.raises(TypeError, match=r"renew\(subject=.*must be a str"):
        changed.renew(subject=subject)
    assert tracker(changed).intent is None


@pytest.mark.parametrize("subject", ["", "x" * (MAX_SUBJECT + 1), "nul\0", "half \ud83d"], ids=len)
def test_a_subject_is_an_identifier(subject: str) -> None:
    changed = held("user:42")
    with pytest.raises(ValueError, match=rf"of {len(subject)} characters; it must be 1 to 512"):
        changed.renew(subject=subject)
    assert tracker(changed).intent is None
    assert changed == DATA


def test_the_longest_subject_is_taken() -> None:
    changed = held()
    changed.renew(subject="x" * MAX_SUBJECT)
    assert changed.subject == "x" * MAX_SUBJECT


def test_clear_is_no_log_out() -> None:
    changed = held("user:42")
    changed.clear()
    assert changed.subject == "user:42"
    assert tracker(changed).intent is None
    assert delta(changed) == Delta(replace={})
