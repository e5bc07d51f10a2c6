"""The command line: ``python -m mongosession key`` prints a new secret key."""

import argparse
import secrets


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m mongosession", description="Tools for mongosession.")
    commands = parser.add_subparsers(required=True, metavar="command")
    commands.add_parser("key", help="print a new secret key: 256 random bits as text")
    parser.parse_args()
    print(secrets.token_urlsafe(32))


if __name__ == "__main__":
    main()
