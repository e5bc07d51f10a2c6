"""Settings from the environment: each variable, and each mistake with the words that mend it."""

import inspect
import logging
import os
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from mongosession import Cookie, Event, MemoryStore, MongoStore, Rotation, SessionEngine, Timeouts
from mongosession.settings import COMMAND_LINE, VARIABLES, Settings, from_environ
from mongosession.testing import Browser, HandClock, seeded

KEY = "k" * 32
OTHER = "o" * 32

ENVIRON: Mapping[str, str] = {"MONGOSESSION_KEYS": KEY}


def environ(**variables: str) -> dict[str, str]:
    """An environment with a key and these variables, named without their prefix."""
    return {**ENVIRON, **{f"MONGOSESSION_{name}": value for name, value in variables.items()}}


def error(variables: Mapping[str, str], **settings: Any) -> str:
    with pytest.raises(ValueError, match="MONGOSESSION_") as caught:
        SessionEngine.from_env(MemoryStore(), variables, **settings)
    return str(caught.value)


def test_a_key_is_all_that_is_needed() -> None:
    assert from_environ(ENVIRON) == {"keys": [KEY.encode()]}
    engine = SessionEngine.from_env(MemoryStore(), ENVIRON)
    assert engine.cookie == Cookie()
    assert (engine.terms.rotation, engine.terms.timeouts) == (Rotation(), Timeouts())


EXAMPLES: Mapping[str, tuple[str, str, Any]] = {  # variable: text, where it goes, value
    "KEYS": (f"{KEY}, {OTHER}", "keys", [KEY.encode(), OTHER.encode()]),
    "NEXT_KEYS": (f"\n{OTHER}\n", "next_keys", [OTHER.encode()]),
    "TTL": ("0.5", "rotation.ttl", 0.5),
    "WINDOW": ("4", "rotation.window", 4),
    "GRACE": ("90", "rotation.grace", 90),
    "ON_COPIED": ("refuse", "rotation.on_copied", "refuse"),
    "IDLE": ("1800", "timeouts.idle", 1800),
    "ABSOLUTE": ("28800", "timeouts.absolute", 28800),
    "COOKIE_NAME": ("__Secure-shop", "cookie.name", "__Secure-shop"),
    "COOKIE_SECURE": ("yes", "cookie.secure", True),
    "COOKIE_SAME_SITE": ("Strict", "cookie.same_site", "strict"),
    "COOKIE_PATH": ("/", "cookie.path", "/"),
    "COOKIE_DOMAIN": ("", "cookie.domain", None),
    "COOKIE_PERSISTENT": ("FALSE", "cookie.persistent", False),
    "COOKIE_PARTITIONED": ("1", "cookie.partitioned", True),
    "MAX_DATA": ("1024", "max_data", 1024),
    "MAX_SESSIONS": ("5", "max_sessions", 5),
    "ANONYMOUS": ("cookie", "anonymous", "cookie"),
    "WRITE": ("after_response", "write", "after_response"),
}


def test_every_variable_has_its_example() -> None:
    assert {f"MONGOSESSION_{name}" for name in EXAMPLES} == VARIABLES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_variable_is_one_setting(name: str) -> None:
    text, where, expected = EXAMPLES[name]
    settings: Any = from_environ(environ(**{name: text}))
    argument, _, field = where.partition(".")
    plain: dict[str, Any] = {"rotation": Rotation(), "timeouts": Timeouts(), "cookie": Cookie()}
    got = getattr(settings.get(argument, plain[argument]), field) if field else settings[argument]
    assert (type(got), got) == (type(expected), expected) or (isinstance(got, float) and got == expected)
    assert settings.keys() <= {"keys", argument}
    if field:
        others = [each.name for each in fields(plain[argument]) if each.name != field]
        value = settings.get(argument, plain[argument])
        assert [getattr(value, each) for each in others] == [getattr(plain[argument], each) for each in others]
    SessionEngine.from_env(MemoryStore(), environ(**{name: text}))


def test_the_settings_are_the_arguments_of_the_engine() -> None:
    parameters = inspect.signature(SessionEngine).parameters.keys() - {"store"}
    assert get_type_hints(Settings).keys() == parameters
    hints = get_type_hints(SessionEngine.__init__)
    assert {name: hints[name] for name in parameters} == get_type_hints(Settings)


def test_each_field_of_the_policies_is_a_variable() -> None:
    made = {(argument, field) for argument, field, _ in VARIABLES.values() if field}
    policies = {"rotation": Rotation, "timeouts": Timeouts, "cookie": Cookie}
    assert made == {(argument, each.name) for argument, policy in policies.items() for each in fields(policy)}
    assert not [each for policy in policies.values() for each in fields(policy) if each.default is MISSING]


@pytest.mark.parametrize("word", ["never", "Never", " none "])
def test_a_ttl_of_never(word: str) -> None:
    assert from_environ(environ(TTL=word)).get("rotation") == Rotation(ttl=None)
    assert from_environ(environ(MAX_SESSIONS=word)).get("max_sessions", 1) is None


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("true", True),
        ("Yes", True),
        ("on", True),
        ("1", True),
        ("false", False),
        ("no", False),
        ("OFF", False),
        ("0", False),
    ],
)
def test_flags(word: str, value: bool) -> None:
    assert from_environ(environ(COOKIE_PERSISTENT=word)).get("cookie") == Cookie(persistent=value)


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_variable_is_not_set(name: str, empty: str) -> None:
    settings = from_environ({**environ(**{name: empty}), **(ENVIRON if name != "KEYS" else {})}, given=["keys"])
    assert settings == {}


@pytest.mark.parametrize("text", [f"{KEY} {OTHER}", f"{KEY},{OTHER}", f" {KEY} ,\n\t{OTHER},"])
def test_keys_stand_between_spaces_or_commas(text: str) -> None:
    assert from_environ({"MONGOSESSION_KEYS": text}) == {"keys": [KEY.encode(), OTHER.encode()]}


async def test_servers_in_the_middle_of_a_key_change_share_their_sessions(collection: Any) -> None:
    store, clock = MongoStore(collection), HandClock()
    one = SessionEngine.from_env(store, environ(NEXT_KEYS=OTHER), clock=clock, random=seeded(1))
    two = SessionEngine.from_env(store, {"MONGOSESSION_KEYS": f"{OTHER} {KEY}"}, clock=clock, random=seeded(2))
    plain = SessionEngine(store, keys=[KEY], clock=clock, random=seeded(3))
    browser = Browser(one, clock)
    async with browser.visit() as session:
        session["basket"] = ["tea"]
    for engine in (two, one, plain):
        browser.engine = engine
        async with browser.visit(tokens=False) as session:
            assert session == {"basket": ["tea"]}


def test_a_key_that_is_no_text_is_taken_as_its_bytes() -> None:
    raw = bytes(range(0xC0, 0xE0))
    assert from_environ({"MONGOSESSION_KEYS": raw.decode(errors="surrogateescape")}) == {"keys": [raw]}


def test_the_process_has_an_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGOSESSION_KEYS", KEY)
    monkeypatch.setenv("MONGOSESSION_COOKIE_NAME", "__Host-shop")
    assert SessionEngine.from_env(MemoryStore()).cookie == Cookie(name="__Host-shop")
    with pytest.raises(ValueError, match="MONGOSESSION_KEYS is not set"):
        SessionEngine.from_env(MemoryStore(), {})  # an empty one is not the process's


def test_the_engine_may_be_a_class_of_ones_own() -> None:
    class Own(SessionEngine):
        pass

    assert type(Own.from_env(MemoryStore(), ENVIRON)) is Own


# What the caller says himself.


async def test_arguments_win_over_variables() -> None:
    events: list[Event] = []
    engine = SessionEngine.from_env(
        MemoryStore(),
        environ(TTL="60", WINDOW="4", IDLE="60", KEYS="short"),
        keys=[OTHER],
        rotation=Rotation(ttl=7),
        on_event=events.append,
        clock=HandClock(),
        random=seeded(1),
    )
    assert engine.terms.rotation == Rotation(ttl=7)  # nothing of the variables is mixed in
    assert engine.terms.timeouts.idle == 60
    session = await engine.open(None)
    session["basket"] = ["tea"]
    await engine.commit(session)
    assert [event.kind for event in events] == ["created"]
    assert session.created_at is not None
    assert session.created_at.timestamp() == HandClock()()


def test_an_argument_makes_its_variables_moot() -> None:
    SessionEngine.from_env(MemoryStore(), environ(TTL="nonsense"), rotation=Rotation())
    SessionEngine.from_env(MemoryStore(), {}, keys=[KEY])


def test_the_words_about_an_argument_are_its_own() -> None:
    with pytest.raises(ValueError, match=r"^max_data is 0;"):
        SessionEngine.from_env(MemoryStore(), environ(MAX_DATA="5"), max_data=0)
    with pytest.raises(TypeError, match="max_date"):
        SessionEngine.from_env(MemoryStore(), ENVIRON, max_date=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


# Mistakes.


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("TTL", "5s", "MONGOSESSION_TTL is '5s'; it must be a number, in seconds and without a unit, or never"),
        ("TTL", "0", "MONGOSESSION_TTL is 0.0; it must be a number of seconds above 0"),
        ("TTL", "nan", "MONGOSESSION_TTL is nan; it must be a number of seconds above 0"),
        ("TTL", "1_000", "MONGOSESSION_TTL is '1_000'; it must be a number, in seconds"),
        ("TTL", "\u0661\u0662", "it must be a number, in seconds"),
        ("WINDOW", "1_0", "MONGOSESSION_WINDOW is '1_0'; it must be a whole number"),
        ("MAX_DATA", "\uff11\uff12", "it must be a whole number"),
        ("WINDOW", "1", "MONGOSESSION_WINDOW is 1; it must be a whole number of at least 2"),
        ("WINDOW", "2.5", "MONGOSESSION_WINDOW is '2.5'; it must be a whole number"),
        ("WINDOW", "never", "MONGOSESSION_WINDOW is 'never'; it must be a whole number"),
        ("GRACE", "-1", "MONGOSESSION_GRACE is -1.0; it must be a number of seconds not below 0"),
        ("GRACE", "never", "MONGOSESSION_GRACE is 'never'; it must be a number"),
        ("GRACE", "0", 'set MONGOSESSION_ON_COPIED="refuse"'),
        ("ON_COPIED", "ignore", "MONGOSESSION_ON_COPIED is 'ignore'; it must be revoke or refuse"),
        ("IDLE", "inf", "MONGOSESSION_IDLE is inf; it must be a number of seconds above 0 and at most 1000 years"),
        ("ABSOLUTE", "3600", "MONGOSESSION_IDLE is 7200 and MONGOSESSION_ABSOLUTE 3600.0; idle must not be above it"),
        ("COOKIE_NAME", "a b", "MONGOSESSION_COOKIE_NAME is 'a b'; it must be a token"),
        ("COOKIE_SECURE", "maybe", "MONGOSESSION_COOKIE_SECURE is 'maybe'; it must be true or false"),
        ("COOKIE_SECURE", "no", "MONGOSESSION_COOKIE_SECURE is False and MONGOSESSION_COOKIE_NAME '__Host-session'"),
        ("COOKIE_SAME_SITE", "loose", "MONGOSESSION_COOKIE_SAME_SITE is 'loose'; it must be lax or strict or none"),
        ("COOKIE_PATH", "app", "MONGOSESSION_COOKIE_PATH is 'app'; it must begin with /"),
        ("COOKIE_DOMAIN", "shop.example", "MONGOSESSION_COOKIE_DOMAIN 'shop.example' with the name '__Host-session'"),
        ("COOKIE_PERSISTENT", "2", "MONGOSESSION_COOKIE_PERSISTENT is '2'; it must be true or false"),
        ("COOKIE_PARTITIONED", "x", "MONGOSESSION_COOKIE_PARTITIONED is 'x'; it must be true or false"),
        ("MAX_DATA", "64k", "MONGOSESSION_MAX_DATA is '64k'; it must be a whole number, without a unit"),
        ("MAX_DATA", "0", "MONGOSESSION_MAX_DATA is 0; it must be 1 to 15 MiB"),
        ("MAX_SESSIONS", "0", "MONGOSESSION_MAX_SESSIONS is 0; it must be"),
        (
            "MAX_SESSIONS",
            "few",
            "MONGOSESSION_MAX_SESSIONS is 'few'; it must be a whole number, without a unit, or never",
        ),
        ("WRITE", "later", "MONGOSESSION_WRITE is 'later'; it must be before_response or after_response"),
        ("KEYS", "", "MONGOSESSION_KEYS is not set; it must hold the primary key"),
        ("KEYS", " , ", "MONGOSESSION_KEYS is not set; it must hold the primary key"),
        ("KEYS", f"{KEY} {KEY}", "MONGOSESSION_KEYS holds the same key twice"),
        ("NEXT_KEYS", KEY, "MONGOSESSION_KEYS and MONGOSESSION_NEXT_KEYS hold the same key twice"),
    ],
)
def test_a_mistake_is_told(name: str, text: str, message: str) -> None:
    told = error(environ(**{name: text}))
    assert message in told
    assert KEY not in told


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("MONGOSESSION_TLL", "MONGOSESSION_TLL is no setting; did you mean MONGOSESSION_TTL?"),
        ("MONGOSESSION_KEY", "did you mean MONGOSESSION_KEYS?"),
        ("MONGOSESSION_SAME_SITE", "did you mean MONGOSESSION_COOKIE_SAME_SITE?"),
        ("MONGOSESSION_COOKIE_SAMESITE", "did you mean MONGOSESSION_COOKIE_SAME_SITE?"),
        ("mongosession_ttl", "did you mean MONGOSESSION_TTL?"),
        ("MONGOSESSION_", "MONGOSESSION_* may be ABSOLUTE, ANONYMOUS, COOKIE_DOMAIN, "),
        ("MONGOSESSION_ON_EVENT", "MONGOSESSION_ON_EVENT is no setting"),
    ],
)
def test_an_unknown_variable_is_no_silent_typo(name: str, hint: str) -> None:
    told = error({**ENVIRON, name: OTHER})
    assert hint in told
    assert OTHER not in told  # it may be a key


def test_the_variables_of_others_are_left_alone() -> None:
    others = {"PATH": "/bin", "MONGODB_URI": "mongodb://x", "MY_MONGOSESSION_TTL": "x", "MONGOSESSION": "x"}
    assert from_environ({**ENVIRON, **others, **dict.fromkeys(COMMAND_LINE, "x")}) == from_environ(ENVIRON)
    assert {"MONGOSESSION_URI", "MONGOSESSION_COLLECTION", "MONGOSESSION_ENGINE"} == COMMAND_LINE


@pytest.mark.parametrize("name", ["KEYS", "NEXT_KEYS"])
@pytest.mark.parametrize("length", [1, 31])
def test_a_short_key_is_told_by_its_place_and_length(name: str, length: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    short = secrets.token_hex(16)[:length].replace("0", "x")
    with pytest.raises(ValueError, match=f"MONGOSESSION_{name}: key 2 of 3 has {length} bytes; .* 32 bytes") as caught:
        from_environ(environ(**{name: f"{OTHER} {short} {KEY}"}))
    seen: BaseException | None = caught.value
    while seen is not None:
        assert not [key for key in (OTHER, KEY, short) if key in str(seen) and len(key) > 1]
        seen = seen.__cause__ or seen.__context__
    assert caplog.records == []


# The page about all of this.

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"


def test_the_table_of_the_documentation_is_true() -> None:
    rows = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        for line in PAGE.read_text().splitlines()
        if line.startswith("| `")
    ]
    policies = {"rotation": Rotation, "timeouts": Timeouts, "cookie": Cookie}
    defaults: dict[str, tuple[str, Any]] = {}
    for name, parameter in inspect.signature(SessionEngine).parameters.items():
        if name in policies:
            for each in fields(policies[name]):
                defaults[f"{policies[name].__name__}.{each.name}"] = (name, each.default)
        elif name != "store":
            defaults[name] = (name, parameter.default)
    assert [row[0] for row in rows] == [*defaults]  # in the order of the constructors

    variables = {(argument, field or argument): variable for variable, (argument, field, _) in VARIABLES.items()}
    for setting, variable, default, why in rows:
        argument, expected = defaults[setting]
        assert variable == variables.get((argument, setting.rpartition(".")[2]), ""), setting
        if expected is inspect.Parameter.empty:
            assert default == "required"
        else:
            assert eval(default, {"time": time, "os": os}) == expected, setting
        assert re.fullmatch(r"\S.{10,}\.", why), setting
