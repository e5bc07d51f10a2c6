"""The command line, ``python -m mongosession --help``. What it needs comes with the extra ``cli``, but for ``key``."""

import os
import secrets
import sys
from contextlib import suppress
from importlib.util import find_spec
from io import TextIOWrapper


def main() -> None:
    """Run the command line. Exit codes: see ``docs/command-line.md``."""
    if not (find_spec("click") and find_spec("rich")):
        if sys.argv[1:] == ["key"]:  # the first thing that anybody needs
            print(secrets.token_urlsafe(32))
            return
        print('the command line is an extra: pip install "mongosession[cli]"', file=sys.stderr)
        sys.exit(2)
    from mongosession.commands import cli  # noqa: PLC0415  # not before it is known to be possible

    for name in ("stdin", "stdout", "stderr"):  # whoever started this may have closed them
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: PTH123, SIM115  # a text; until the process ends
    if isinstance(sys.stdout, TextIOWrapper):  # what users wrote may be none of its characters
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            cli(prog_name="python -m mongosession" if sys.argv[0].endswith("__main__.py") else None)
        finally:
            sys.stdout.flush()  # it may be kept back until now
    except OSError as error:  # the output cannot be written: what else may go wrong the commands tell themselves
        with suppress(OSError):
            print(f"Error: {error}", file=sys.stderr)
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115  # nothing is left to be written at the end
        sys.exit(1)


if __name__ == "__main__":
    main()
