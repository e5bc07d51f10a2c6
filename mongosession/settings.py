"""Settings from environment variables: ``MONGOSESSION_TTL=60`` for ``Rotation(ttl=60)``, and so on.

The variables are read off the types: each field of ``Rotation`` and ``Timeouts`` is one, each field of ``Cookie`` one
that begins with ``COOKIE_``, and so is each argument of ``SessionEngine`` that a text can say. A variable that is empty
counts as not set, as it does in shells and Compose files. No message holds a key.
"""

import difflib
import re
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, Literal, TypedDict, Union, cast, get_args, get_origin, get_type_hints

from mongosession.events import Event
from mongosession.keys import MIN_KEY_BYTES
from mongosession.policy import Cookie, Rotation, Timeouts

PREFIX = "MONGOSESSION_"

COMMAND_LINE = frozenset({"MONGOSESSION_URI", "MONGOSESSION_COLLECTION", "MONGOSESSION_ENGINE"})
"""Variables of the command line, which ``from_environ`` leaves to it."""

BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}

NOTHING = ("never", "none")
"""What an optional number is called when it is None."""

_SECRET = frozenset({"keys", "next_keys"})

_NUMBER = re.compile("[-+.0-9a-zA-Z]+")

_RULES = {
    bool: "it must be true or false",
    float: "it must be a number, in seconds and without a unit",
    int: "it must be a whole number, without a unit",
}


class Settings(TypedDict, total=False):
    """The keyword arguments of ``SessionEngine``; what each does stands there."""

    keys: Sequence[str | bytes]
    next_keys: Sequence[str | bytes]
    rotation: Rotation
    timeouts: Timeouts
    cookie: Cookie
    max_data: int
    max_sessions: int | None
    anonymous: Literal["database", "cookie"]
    write: Literal["before_response", "after_response"]
    on_event: Callable[[Event], object] | None
    clock: Callable[[], float]
    random: Callable[[int], bytes]


def _fields() -> dict[str, tuple[str, str | None, Any]]:
    """Each variable: the engine's argument, the field of its dataclass or None, and the type."""
    variables: dict[str, tuple[str, str | None, Any]] = {}
    for argument, hint in get_type_hints(Settings).items():
        if is_dataclass(hint):
            prefix = PREFIX + ("COOKIE_" if argument == "cookie" else "")
            for field, type_ in get_type_hints(hint).items():
                variables[prefix + field.upper()] = argument, field, type_
        elif argument in _SECRET or _plain(hint):
            variables[PREFIX + argument.upper()] = argument, None, hint
    return variables


def _plain(hint: Any) -> bool:
    """Whether a text can say it: a number, a word, a flag; no function."""
    return get_origin(hint) is Literal or bool(_types(hint) & {bool, int, float, str})


def _types(hint: Any) -> set[Any]:
    return set(get_args(hint)) if get_origin(hint) in (Union, types.UnionType) else {hint}


VARIABLES = _fields()
"""Variable -> the argument of ``SessionEngine``, the field of that argument or None, and the type."""


def from_environ(environ: Mapping[str, str], given: Collection[str] = ()) -> Settings:
    """The keyword arguments of ``SessionEngine`` that an environment sets.

    Args:
        environ: such as ``os.environ``. Only names that begin with ``MONGOSESSION_`` matter, and all of those do.
        given: arguments that the caller sets himself: their variables are not read.

    Raises:
        ValueError: a variable is unknown, has a value that makes no sense, or the keys are missing; the message names
            the variable, its value unless that is a key, and the rule.
    """
    _refuse_unknown(environ)
    values: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {}
    for variable, (argument, field, hint) in VARIABLES.items():
        text = environ.get(variable, "").strip()
        if not text or argument in given:
            continue
        if argument in _SECRET:
            values[argument] = _keys(variable, text)
        elif field is None:
            values[argument] = _value(variable, text, hint)
        else:
            parts.setdefault(argument, {})[field] = _value(variable, text, hint)
    hints = get_type_hints(Settings)
    for argument, fields in parts.items():
        try:
            values[argument] = hints[argument](**fields)
        except ValueError as error:
            raise ValueError(in_variables(str(error), [argument])) from None
    if not values.get("keys") and "keys" not in given:
        raise ValueError(
            f"{PREFIX}KEYS is not set; it must hold the primary key, then old ones, with spaces or commas between them "
            "(python -m mongosession key prints one)"
        )
    return cast(Settings, values)


def in_variables(message: str, arguments: Collection[str]) -> str:
    """The message of a constructor, in the words of somebody who set variables.

    Args:
        message: begins with the name of an argument of the engine, or names fields as ``Rotation.ttl`` and ``ttl=``.
        arguments: those that came from variables.
    """
    for variable, (argument, field, _) in VARIABLES.items():
        if argument in arguments:
            name = (
                rf"\b{argument.capitalize()}\.{field}\b|\b{field}(?==)" if field else rf"(?:^|(?<= and )){argument}\b"
            )
            message = re.sub(name, variable, message)
    return message


def _refuse_unknown(environ: Mapping[str, str]) -> None:
    """A name that nobody reads would be a setting that silently does not hold."""
    for name in sorted(environ):
        if not name.upper().startswith(PREFIX) or name in VARIABLES or name in COMMAND_LINE:
            continue
        known = [variable.removeprefix(PREFIX) for variable in sorted(VARIABLES)]
        close = difflib.get_close_matches(name.upper().removeprefix(PREFIX), known, n=1)
        hint = f"did you mean {PREFIX}{close[0]}?" if close else f"{PREFIX}* may be {', '.join(known)}"
        raise ValueError(f"{name} is no setting; {hint}")


def _keys(variable: str, text: str) -> list[bytes]:
    # Bytes of the environment that are no UTF-8 arrive as surrogates; they are given back as the bytes they were.
    keys = [key.encode(errors="surrogateescape") for key in re.split(r"[\s,]+", text) if key]
    for position, key in enumerate(keys, 1):
        if len(key) < MIN_KEY_BYTES:
            raise ValueError(
                f"{variable}: key {position} of {len(keys)} has {len(key)} bytes; each must have at least "
                f"{MIN_KEY_BYTES} bytes of randomness (python -m mongosession key prints one); spaces part them"
            )
    return keys


def _value(variable: str, text: str, hint: Any) -> Any:
    """The value that a text means, for a setting of this type."""
    if get_origin(hint) is Literal:
        if text.lower() in get_args(hint):
            return text.lower()
        raise ValueError(f"{variable} is {text!r}; it must be {' or '.join(get_args(hint))}")
    kinds = _types(hint)
    if str in kinds:
        return text
    optional = type(None) in kinds
    if optional and text.lower() in NOTHING:
        return None
    (kind,) = kinds - {type(None)}
    try:
        if kind is not bool and not _NUMBER.fullmatch(text):  # Python takes 1_000 and digits of other scripts, too
            raise ValueError
        return BOOLEANS[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        way_out = f", or {NOTHING[0]}" if optional else ""
        raise ValueError(f"{variable} is {text!r}; {_RULES[kind]}{way_out}") from None
