"""The command line, ``python -m mongosession --help``. What it needs comes with the extra ``cli``, but for ``key``."""

import secrets
import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command line. Exit codes: see ``docs/command-line.md``."""
    if not (find_spec("click") and find_spec("rich")):
        if sys.argv[1:] == ["key"]:  # the first thing that anybody needs
            print(secrets.token_urlsafe(32))
            return
        print('the command line is an extra: pip install "mongosession[cli]"', file=sys.stderr)
        sys.exit(2)
    from mongosession.commands import cli  # noqa: PLC0415  # not before it is known to be possible

    cli(prog_name="python -m mongosession" if sys.argv[0].endswith("__main__.py") else None)


if __name__ == "__main__":
    main()
