"""What `check` says of settings and of a database: judged without one."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mongosession import Cookie, Rotation, Timeouts
from mongosession.check import Facts, Finding, Settings, Severity, findings, worst
from mongosession.keys import KeyRing

DOCS = Path(__file__).parent.parent / "docs"
KEY = "GmmWcE-PPqJ29tkYNYYKAuhyflknjMxwaHa0gAWjZPg"

GOOD_FACTS = Facts(
    collection="shop.sessions",
    exists=True,
    options={},
    indexes={"_id_": {"key": [("_id", 1)]}},
    index_faults=[],
    holds_foreign=False,
    version=(8, 0, 4),
    topology="replica set",
    write_concern={"w": "majority"},
    retry_writes=True,
    direct=False,
    open_to_all=False,
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
    random_is_secure=True,
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
        *(
            "cookie",
            "timeouts",
            "rotation",
            "keys",
            "random",
            "data",
            "collection",
            "indexes",
            "writes",
            "topology",
            "server",
        ),
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
        (Rotation(ttl=15), ["ttl 15 s, 5 tokens", "5 tokens are accepted"]),
        (Rotation(ttl=29), ["ttl 29 s, 4 tokens", "4 tokens are accepted"]),
        (Rotation(ttl=30), ["ttl 30 s, 3 tokens"]),
        (Rotation(ttl=50), ["ttl 50 s, 3 tokens"]),
        (Rotation(ttl=51), []),
        (Rotation(ttl=60), []),
        (Rotation(ttl=300), ["ttl 5 min"]),
        # What the documentation says to do about a ttl of 15 to 50 s.
        (Rotation(ttl=20, grace=120), ["7 tokens are accepted"]),
        (Rotation(ttl=30, grace=119), ["ttl 30 s, 5 tokens", "5 tokens are accepted"]),
        (Rotation(ttl=20, window=10), []),
        (Rotation(ttl=20, window=9), ["ttl 20 s, 9 tokens"]),
        (Rotation(ttl=30, window=7), []),
        (Rotation(ttl=30, window=6), ["ttl 30 s, 6 tokens"]),
        (Rotation(ttl=15, window=50), []),
        # And about noticing thieves.
        (Rotation(ttl=5, window=13), []),
        (Rotation(ttl=5, window=25), []),
        (Rotation(ttl=60, grace=180), ["4 tokens are accepted"]),
        (Rotation(ttl=60, window=4, grace=180), []),
        # Nothing is ever overtaken, whatever the grace.
        (Rotation(ttl=None), ["never change"]),
        (Rotation(ttl=None, grace=1), ["never change"]),
        (Rotation(ttl=None, grace=0, on_copied="refuse"), ["never change"]),
        # How much use the tokens cover is what counts, not the grace alone.
        (Rotation(ttl=60, grace=1), []),
        (Rotation(ttl=60, grace=0, on_copied="refuse"), ["goes on"]),
        (Rotation(ttl=60, on_copied="refuse"), ["goes on"]),
        (Rotation(ttl=5, grace=30), ["7 tokens are accepted: 35 s", "7 tokens are accepted"]),
        (Rotation(ttl=5, grace=55), ["12 tokens are accepted"]),
        (Rotation(ttl=5, grace=54), ["12 tokens are accepted"]),
        (Rotation(ttl=5, grace=50), ["11 tokens are accepted: 55 s", "11 tokens are accepted"]),
        (Rotation(ttl=5, grace=5, window=2), ["2 tokens are accepted: 10 s"]),
        (Rotation(ttl=1, grace=1, window=2), ["2 tokens are accepted: 2 s"]),
        (Rotation(ttl=1e-300, grace=1), ["tokens are accepted: ", "tokens are accepted"]),
        (Rotation(grace=0, on_copied="refuse"), ["3 tokens are accepted: 15 s", "goes on"]),
        (Rotation(ttl=20, grace=0, on_copied="refuse"), ["ttl 20 s, 3 tokens", "goes on"]),
    ],
)
def test_rotation(rotation: Rotation, expected: list[str]) -> None:
    found = [each.what for each in judged({"rotation": rotation}) if each.severity is not Severity.OK]
    assert len(found) == len(expected), found
    assert all(words in what for words, what in zip(expected, found, strict=True)), found


def test_only_what_was_measured_to_refuse_honest_people_is_a_warning() -> None:
    refusing = [
        *(Rotation(ttl=20), Rotation(ttl=40), Rotation(grace=0, on_copied="refuse"), Rotation(grace=30)),
        *(Rotation(ttl=5, grace=5, window=2), Rotation(ttl=1, grace=1, window=2)),
    ]
    fine = [
        *(Rotation(), Rotation(ttl=None), Rotation(ttl=20, grace=120), Rotation(ttl=300)),
        Rotation(ttl=60, grace=0, on_copied="refuse"),
    ]
    assert {worst(judged({"rotation": each})) for each in refusing} == {Severity.WARNING}
    assert {worst(judged({"rotation": each})) for each in fine} == {Severity.NOTE}


def advised(page: str) -> list[Rotation]:
    """The settings that a page names in its table of what to choose, and as ways out of a ttl of 15 to 50 s."""
    text = (DOCS / page).read_text()
    chosen = text[text.index("## How to choose") :]
    table = [line for line in chosen.splitlines() if line.startswith("| ")]
    calls = [call for line in table for call in re.findall(r"`Rotation\((.*?)\)`", line)]
    assert len(calls) >= 5
    return [eval(f"Rotation({call})") for call in calls]


def test_what_the_documentation_advises_is_no_warning_but_the_rule_of_2011() -> None:
    judgements = {each: worst(judged({"rotation": each})) for each in advised("security.md")}
    warned = [rotation for rotation, severity in judgements.items() if severity is Severity.WARNING]
    assert warned == [Rotation(grace=0, on_copied="refuse")]


def test_each_way_out_of_a_rotation_that_costs_honest_people_is_one() -> None:
    for ttl in (15, 16, 20, 30, 40, 50):
        (warning,) = [each for each in judged({"rotation": Rotation(ttl=ttl)}) if each.severity is Severity.WARNING]
        ways = re.findall(r"(ttl|grace|window)=(\d+)", warning.way_out)
        assert {name for name, _ in ways} == {"ttl", "grace", "window"}
        for name, value in ways:
            changed: dict[str, Any] = {name: int(value)}
            mended = replace(Rotation(ttl=ttl), **changed)
            assert worst(judged({"rotation": mended})) in (Severity.OK, Severity.NOTE), mended


def test_keys() -> None:
    old, following = "p_9KNhhjT8e8aKEhDtGAk6ZqoyMaBEDLn4D2qa0hOe0", "0vJ1W4wXJSoMiNEp2M3hh2tUOcjjjTHqdPMeZ2FJaJ8"
    assert told(judged({"keys": []})) == [("failure", "keys")]
    assert told(judged({"keys": KeyRing([KEY, old]).keys})) == [("note", "keys")]
    assert told(judged({"keys": KeyRing([KEY], [following]).keys})) == [("note", "keys")]
    found = judged({"keys": KeyRing([KEY, "a secret of at least 32 random bytes"]).keys})
    (guessable,) = [each for each in found if each.severity is Severity.WARNING]
    assert guessable.what == "key 2 of 2 (old) does not look random: it reads like words"
    assert "secret of" not in repr(found)


def test_chance_that_repeats_itself_is_a_failure() -> None:
    assert told(judged({"random_is_secure": False})) == [("failure", "random")]


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
        ({"options": {"timeseries": {"timeField": "at"}}}, [("failure", "collection")]),
        ({"holds_foreign": True}, [("failure", "collection")]),
        ({"holds_foreign": None}, [("note", "collection")]),
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
        ({"write_concern": {"w": 2}}, [("note", "writes")]),
        ({"write_concern": {"w": "two_sites"}}, [("note", "writes")]),
        ({"write_concern": {"w": "majority", "j": False}}, [("note", "writes")]),
        ({"retry_writes": False}, [("warning", "topology")]),
        ({"direct": True}, [("warning", "topology")]),
        ({"direct": True, "topology": "sharded cluster"}, []),
        ({"direct": True, "topology": "standalone"}, [("warning", "topology")]),
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
        ({"open_to_all": True}, [("note", "server")]),
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
    assert ahead == "the engine's is 30.0 s ahead of the server's"
    assert behind == "the engine's is 30.0 s behind the server's"


def test_whatever_is_not_well_says_why_and_what_to_do() -> None:
    settings: list[dict[str, Any]] = [
        {"cookie": Cookie(name="s", secure=False)},
        {"cookie": Cookie(name="__Secure-s", same_site="none", domain="example.org")},
        {"timeouts": Timeouts(absolute=90 * 86400)},
        *({"rotation": Rotation(ttl=each)} for each in (None, 5, 20, 600)),
        {"rotation": Rotation(grace=0, on_copied="refuse")},
        {"rotation": Rotation(ttl=1, grace=1, window=2)},
        {"random_is_secure": False},
        {"keys": []},
        {"keys": KeyRing(["k" * 32, KEY], ["l" * 32]).keys},
        {"max_data": 2**21},
    ]
    facts: list[dict[str, Any]] = [
        {"exists": False},
        {"options": {"capped": True}, "index_faults": ["missing"]},
        {"holds_foreign": True, "open_to_all": True},
        {"holds_foreign": None, "direct": True},
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
