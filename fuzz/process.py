"""``python -m fuzz.process TARGET [OPTION OF LIBFUZZER ...]``: fuzz one target in this process, which ends with it."""

import sys
from importlib import import_module
from typing import Any

WRONG = "INPUT THAT IS WRONG: "
"""What stands before the bytes, as Python writes them."""


def fuzz(name: str, options: list[str]) -> None:
    """Fuzz until the options' limits are reached or something is wrong. Does not return."""
    atheris: Any = import_module("atheris")
    with atheris.instrument_imports(include=["mongosession"]):  # what is imported here for the first time
        target = import_module("fuzz.targets").TARGETS[name]

    def check(data: bytes) -> None:
        try:
            target.check(data)
        except BaseException:
            print(f"{WRONG}{data!r}", flush=True)
            raise

    atheris.Setup([sys.argv[0], *options], check)
    atheris.Fuzz()


if __name__ == "__main__":
    fuzz(sys.argv[1], sys.argv[2:])
