"""What `check` says of settings and of a database: judged without one."""

from dataclasses import replace
from typing import Any

import pytest

from mongosession import Cookie, Rotation, Timeouts
from mongosession.check import Facts, Finding, Settings, Severity, findings, worst
from mongosession.keys import KeyRing

KEY = "GmmWcE-PPqJ29tkYNYYKAuhyflknjMxwaHa0gAWjZPg"

GOOD_FACTS = Facts(
    collection="shop.sessions",
    exists=True,
    options={},
    indexes={"_id_": {"key": [("_id", 1)]}},
    index_faults=[],
    version=(8, 0, 4),
    topology="replica set",
    write_concern={"w": "majority"},
    retry_writes=True,
    ttl_monitor=True,
    clock_ahead=0.02,
    clock_error=0.001,
)
GOOD_SETTINGS = Settings(
    cookie=Cookie(persistent=False),
    rotation=Rotation(ttl=60),
    timeouts=Timeouts(idle=1800, absolute=8 * 3600),
    max_data=64 * 1024,
    keys=KeyRing([KEY]).keys,
)


def told(found: list[Finding]) -> list[tuple[str, str]]:
    """What is not well: severity and subject."""
    return [(str(each.severity), each.about) for each in found if each.severity is not Severity.OK]


def judged(settings: dict[str, Any] | None = None, facts: dict[str, Any] | None = None) -> list[Finding]:
    return findings(replace(GOOD_FACTS, **(facts or {})), replace(GOOD_SETTINGS, **(settings or {})))


def test_all_is_well() -> None:
    found = judged()
    assert told(found) == []
    assert worst(found) == Severity.OK
    assert {each.about for each in found} == {
        *("cookie", "timeouts", "rotation", "keys", "data", "collection", "indexes", "writes", "topology", "server"),
        "clock",
    }


def test_the_defaults_of_the_library_are_notes_at_most() -> None:
    defaults: dict[str, Any] = {"cookie": Cookie(), "rotation": Rotation(), "timeouts": Timeouts()}
    found = judged(defaults)
    assert told(found) == [("note", "cookie"), ("note", "timeouts"), ("note", "timeouts"), ("note", "rotation")]
    assert worst(found) == Severity.NOTE


@pytest.mark.parametrize(
    ("cookie", "expected"),
    [
        (Cookie(name="session", secure=False, persistent=False), ("failure", "lacks Secure")),
        (Cookie(name="__Secure-s", domain="example.org", persistent=False), ("warning", "Domain=example.org")),
        (Cookie(name="__Secure-s", persistent=False), ("note", "subdomains may set it")),
        (Cookie(name="session", persistent=False), ("warning", "no prefix")),
        (Cookie(same_site="none", persistent=False), ("warning", "SameSite=None")),
        (Cookie(persistent=True), ("note", "persistent")),
    ],
)
def test_cookies(cookie: Cookie, expected: tuple[str, str]) -> None:
    (found,) = [each for each in judged({"cookie": cookie}) if each.severity is not Severity.OK]
    assert (found.severity, expected[1] in found.what) == (expected[0], True)


def test_a_cookie_of_a_whole_domain_without_a_prefix_is_two_findings() -> None:
    cookie = Cookie(name="session", domain="example.org", persistent=False)
    assert told(judged({"cookie": cookie})) == [("warning", "cookie")] * 2


@pytest.mark.parametrize(
    ("timeouts", "expected"),
    [
        (Timeouts(idle=1801, absolute=86400), [("note", "timeouts")]),
        (Timeouts(idle=1800, absolute=86401), [("note", "timeouts")]),
        (Timeouts(idle=1800, absolute=30 * 86400), [("note", "timeouts")]),
        (Timeouts(idle=1800, absolute=30 * 86400 + 1), [("warning", "timeouts")]),
    ],
)
def test_timeouts(timeouts: Timeouts, expected: list[tuple[str, str]]) -> None:
    assert told(judged({"timeouts": timeouts})) == expected


@pytest.mark.parametrize(
    ("rotation", "expected"),
    [
        (Rotation(ttl=5), ["13 tokens are accepted"]),
        (Rotation(ttl=14.9), ["6 tokens are accepted"]),
        (Rotation(ttl=15), ["ttl 15 s with grace 60 s", "5 tokens are accepted"]),
        (Rotation(ttl=29), ["ttl 29 s with grace 60 s", "4 tokens are accepted"]),
        (Rotation(ttl=30), ["ttl 30 s with grace 60 s"]),
        (Rotation(ttl=50), ["ttl 50 s with grace 60 s"]),
        (Rotation(ttl=51), []),
        (Rotation(ttl=20, grace=120), ["7 tokens are accepted"]),
        (Rotation(ttl=5, window=13), []),
        (Rotation(ttl=60), []),
        (Rotation(ttl=60, grace=180), ["4 tokens are accepted"]),
        (Rotation(ttl=300), ["ttl 5 min"]),
        (Rotation(ttl=None), ["never change"]),
        (Rotation(grace=59, ttl=60), ["grace 59 s"]),
        (Rotation(grace=0, ttl=60, on_copied="refuse"), ["the plain rule of 2011"]),
        (Rotation(ttl=60, on_copied="refuse"), ["goes on"]),
    ],
)
def test_rotation(rotation: Rotation, expected: list[str]) -> None:
    found = [each.what for each in judged({"rotation": rotation}) if each.severity is not Severity.OK]
    assert len(found) == len(expected)
    assert all(words in what for words, what in zip(expected, found, strict=True))


def test_only_what_was_measured_to_refuse_honest_people_is_a_warning() -> None:
    refusing = [Rotation(ttl=20), Rotation(ttl=40), Rotation(grace=0, on_copied="refuse")]
    fine = [Rotation(), Rotation(ttl=None), Rotation(ttl=20, grace=120), Rotation(ttl=300), Rotation(grace=30)]
    assert {worst(judged({"rotation": each})) for each in refusing} == {Severity.WARNING}
    assert {worst(judged({"rotation": each})) for each in fine} == {Severity.NOTE}


def test_keys() -> None:
    old, following = "p_9KNhhjT8e8aKEhDtGAk6ZqoyMaBEDLn4D2qa0hOe0", "0vJ1W4wXJSoMiNEp2M3hh2tUOcjjjTHqdPMeZ2FJaJ8"
    assert told(judged({"keys": []})) == [("failure", "keys")]
    assert told(judged({"keys": KeyRing([KEY, old]).keys})) == [("note", "keys")]
    assert told(judged({"keys": KeyRing([KEY], [following]).keys})) == [("note", "keys")]
    found = judged({"keys": KeyRing([KEY, "a secret of at least 32 random bytes"]).keys})
    (guessable,) = [each for each in found if each.severity is Severity.WARNING]
    assert guessable.what == "key 2 of 2 (old) does not look random: it reads like words"
    assert "secret of" not in repr(found)


def test_data() -> None:
    sizes = [64 * 1024, 64 * 1024 + 1, 2**20, 2**20 + 1]
    assert [told(judged({"max_data": each})) for each in sizes] == [
        *([], [("note", "data")], [("note", "data")]),
        [("warning", "data")],
    ]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"exists": False}, [("failure", "collection")]),
        ({"options": {"viewOn": "other"}}, [("failure", "collection")]),
        ({"options": {"capped": True, "size": 4096}}, [("failure", "collection")]),
        ({"options": {"collation": {"locale": "de"}}}, [("failure", "collection")]),
        ({"options": {"clusteredIndex": {"key": {"_id": 1}}}}, []),
        ({"index_faults": ["one", "two"]}, [("failure", "indexes")] * 2),
        ({"indexes": {"mine": {"key": [("created_at", 1)], "expireAfterSeconds": 60}}}, [("warning", "indexes")]),
        ({"indexes": {"ours": {"key": [("expires_at", 1)], "expireAfterSeconds": 120}}}, []),
    ],
)
def test_collections(facts: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert told(judged(facts=facts)) == expected


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"write_concern": {"w": 0}}, [("warning", "writes")]),
        ({"write_concern": {"w": 1}}, [("warning", "writes")]),
        ({"write_concern": {"j": True}}, [("warning", "writes")]),
        ({"write_concern": {"w": 2}}, []),
        ({"write_concern": {"w": "majority", "j": False}}, [("note", "writes")]),
        ({"retry_writes": False}, [("warning", "topology")]),
        ({"topology": "sharded cluster"}, []),
        ({"topology": "standalone", "write_concern": {"w": 1}}, [("note", "writes"), ("warning", "topology")]),
        ({"topology": "standalone", "write_concern": {"w": 1, "j": True}}, [("warning", "topology")]),
        ({"topology": "standalone", "write_concern": {"w": "majority"}}, [("warning", "topology")]),
    ],
)
def test_writes(facts: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert told(judged(facts=facts)) == expected


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"version": (6, 0, 5)}, [("note", "server")]),
        ({"version": (7, 0, 0)}, []),
        ({"ttl_monitor": None}, [("note", "server")]),
        ({"ttl_monitor": False}, [("warning", "server")]),
        ({"clock_ahead": 4.9}, []),
        ({"clock_ahead": 5.9, "clock_error": 1.0}, []),
        ({"clock_ahead": 6.1, "clock_error": 1.0}, [("warning", "clock")]),
        ({"clock_ahead": -6.1, "clock_error": 1.0}, [("warning", "clock")]),
        ({"clock_ahead": 120.5, "clock_error": 0.6}, [("warning", "clock")]),
        ({"clock_ahead": -121.0}, [("failure", "clock")]),
    ],
)
def test_servers(facts: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert told(judged(facts=facts)) == expected


def test_the_clock_says_which_one_is_ahead() -> None:
    ahead, behind = (judged(facts={"clock_ahead": each})[-1].what for each in (30.0, -30.0))
    assert ahead == "this machine's is 30.0 s ahead of the server's"
    assert behind == "this machine's is 30.0 s behind the server's"


def test_whatever_is_not_well_says_why_and_what_to_do() -> None:
    settings: list[dict[str, Any]] = [
        {"cookie": Cookie(name="s", secure=False)},
        {"cookie": Cookie(name="__Secure-s", same_site="none", domain="example.org")},
        {"timeouts": Timeouts(absolute=90 * 86400)},
        *({"rotation": Rotation(ttl=each)} for each in (None, 5, 20, 600)),
        {"rotation": Rotation(grace=0, on_copied="refuse")},
        {"keys": []},
        {"keys": KeyRing(["k" * 32, KEY], ["l" * 32]).keys},
        {"max_data": 2**21},
    ]
    facts: list[dict[str, Any]] = [
        {"exists": False},
        {"options": {"capped": True}, "index_faults": ["missing"]},
        {"write_concern": {"w": 0}, "ttl_monitor": None},
        {"topology": "standalone", "write_concern": {}, "ttl_monitor": False},
        {"retry_writes": False, "clock_ahead": 500.0, "version": (4, 4, 1)},
    ]
    for found in [*(judged(each) for each in settings), *(judged(facts=each) for each in facts)]:
        bad = [each for each in found if each.severity is not Severity.OK]
        assert bad
        assert all(each.why and each.way_out for each in bad)
        assert all("\n" not in text for each in found for text in each)


def test_sessions_of_visitors_that_live_in_cookies_are_a_note() -> None:
    (found,) = [each for each in judged({"visitors_in_cookies": True}) if each.severity is not Severity.OK]
    assert (found.severity, found.about) == (Severity.NOTE, "visitors")
    assert "they can read their data" in found.why
