"""Mutants: the rules of the core broken by hand, one at a time, and the test file that has to notice.

    make mutants                                # all of them; MUTANTS="epoch upsert" runs those whose reason says so
    python -m tests.mutants epoch upsert

Each mutant is one text of one file turned into another. It is applied to a copy of the tree, never to the checkout, and
its test file runs there until the first failure. A mutant that survives fails the run; so does one whose text is not
found exactly once, or under which the tests do not even start. Each test file has to pass on the unchanged copy first.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent

LONGEST = 600.0
"""Seconds that one test file may take on a busy machine."""


class Mutant(NamedTuple):
    """A rule, broken.

    Attributes:
        file: which module of the package, without ``.py``.
        old: what stands there, exactly once.
        new: what stands there instead.
        test: the test file that kills it, ``tests/test_<test>.py``.
        why: what would be wrong.
    """

    file: str
    old: str
    new: str
    test: str
    why: str

    @property
    def path(self) -> Path:
        """The module's path in the tree."""
        return Path("mongosession", f"{self.file}.py")

    def applied(self, source: str) -> str:
        """The module's source with the mutant in it.

        Raises:
            ValueError: the text is not found exactly once.
        """
        if (count := source.count(self.old)) != 1:
            raise ValueError(f"{self.path} holds {self.old!r} {count} times; it must be there once")
        return source.replace(self.old, self.new)


MUTANTS = (
    # ------------------------------------------------------------------------------------- rotation: the table's rows
    Mutant(
        "rotation",
        "now >= expiry(record, timeouts)",
        "now > expiry(record, timeouts)",
        "rotation",
        "a session ends at its timeout, not a moment after",
    ),
    Mutant(
        "rotation",
        "return unused if unused < end",
        "return unused if unused > end",
        "rotation",
        "the absolute timeout holds however active the session is",
    ),
    Mutant(
        "rotation",
        "record.reason not in (None, DESTROYED)",
        "record.reason is not None",
        "rotation",
        "stragglers after a log-out are late: their answers must not begin a session over it",
    ),
    Mutant(
        "rotation",
        "if token.epoch != record.epoch",
        "if token.epoch > record.epoch",
        "rotation",
        "a token of another epoch is dead, whichever of the two numbers is larger",
    ),
    Mutant(
        "rotation",
        "now - record.renewed_at < rotation.lateness",
        "now - record.renewed_at > rotation.lateness",
        "rotation",
        "lateness is what follows a renewal, not what follows that",
    ),
    Mutant(
        "rotation",
        "broken = record.rotated_at - now > DAY",
        "broken = False",
        "rotation",
        "a clock that was a day ahead must not stop rotation until that day",
    ),
    Mutant(
        "rotation",
        "now - record.rotated_at >= rotation.ttl",
        "now - record.rotated_at > rotation.ttl",
        "rotation",
        "a token is due at the age that the setting names",
    ),
    Mutant(
        "rotation",
        "mint=token.generation)",
        "mint=record.generation)",
        "rotation",
        "healing writes the presented generation, not the stored one that a failover rolled back",
    ),
    Mutant(
        "rotation",
        "if behind < rotation.window",
        "if behind <= rotation.window",
        "rotation",
        "the window is as wide as the setting says",
    ),
    Mutant(
        "rotation",
        "offer=token.generation + 1 if due else None",
        "offer=record.generation if due else None",
        "rotation",
        "who is behind moves one step at a time, or a thief who polls is kept up to date for ever",
    ),
    Mutant(
        "rotation",
        "if behind < rotation.accepted",
        "if behind <= rotation.accepted",
        "rotation",
        "K newer tokens are one too many",
    ),
    Mutant(
        "rotation",
        "Verdict.LATE if large_body else Verdict.COPIED",
        "Verdict.COPIED",
        "rotation",
        "an upload that a proxy held back is no theft",
    ),
    Mutant(
        "policy",
        "max(self.window, 1 + math.ceil(",
        "max(self.window, math.ceil(",
        "policy",
        "K counts the newest token as well",
    ),
    Mutant(
        "policy",
        "return max(self.grace, 60.0) + SKEW",
        "return max(self.grace, 60.0)",
        "policy",
        "lateness covers the skew of two servers' clocks",
    ),
    # ------------------------------------------------------------------------------ plan: what is written and what sent
    Mutant(
        "plan",
        'raised["generation"] = judged.mint',
        'put["generation"] = judged.mint',
        "plan",
        "the generation is a max-register: a slow request must not set it back",
    ),
    Mutant(
        "plan",
        "Update(record.id, record.epoch, Changes(put=put",
        "Update(record.id, None, Changes(put=put",
        "plan",
        "of two renewals one wins: the loser's cookie must not be handed out as well",
    ),
    Mutant(
        "plan",
        "False, False))\n    update = tuple.__new__(Update, (record.id, record.epoch, changes))",
        "False, False))\n    update = tuple.__new__(Update, (record.id, None, changes))",
        "plan",
        "a request from before a log-in must not write into the session after it",
    ),
    Mutant(
        "plan",
        "is not None))\n        update = tuple.__new__(Update, (record.id, record.epoch, changes))",
        "is not None))\n        update = tuple.__new__(Update, (record.id, None, changes))",
        "plan",
        "nor must it where there is more to write than data",
    ),
    Mutant(
        "plan",
        "record.generation if judged.mint is None else judged.mint)",
        "record.generation)",
        "plan",
        "a rotation's token is sent if the write has left its own generation there",
    ),
    Mutant(
        "plan",
        "case.delta, False, offer is not None)",
        "case.delta, False, False)",
        "plan",
        "no token without the document's epoch and generation as they are after the write",
    ),
    Mutant(
        "plan",
        "about.tokens and not public and",
        "about.tokens and",
        "plan",
        "a response that shared caches may keep carries no token",
    ),
    Mutant(
        "plan",
        "about.intent if succeeds and isinstance(about.intent, Renewal)",
        "about.intent if isinstance(about.intent, Renewal)",
        "plan",
        "a 5xx discards a renewal: nobody is half logged in",
    ),
    Mutant(
        "plan",
        "if about.shut and not logs_in",
        "if about.shut",
        "plan",
        "a late request may log in, or else nobody could",
    ),
    Mutant(
        "plan",
        "drawn if drawn != other_than else drawn ^ 1",
        "drawn",
        "plan",
        "an epoch is never followed by itself, or the old tokens live on",
    ),
    Mutant(
        "plan",
        'put = {"epoch": ENDED, ',
        'put = {"generation": 0, ',
        "plan",
        "an ended session has an epoch that no token carries",
    ),
    Mutant(
        "plan",
        "data=Delta(replace={}), durable=True",
        "data=Delta(replace={}), durable=False",
        "plan",
        "a log-out survives a failover: it is written with w: majority",
    ),
    Mutant(
        "plan",
        "end=end, essential=True, forget=forget",
        "end=end, essential=True",
        "plan",
        "a log-out deletes the cookie",
    ),
    # -------------------------------------------------------------------------------------- engine: carrying that out
    Mutant(
        "engine",
        "if decided.offer is None or stamp != decided.offer.if_then",
        "if decided.offer is None",
        "engine",
        "no token where the write found another epoch or generation there",
    ),
    Mutant(
        "engine",
        "return await self._look_again(decided.offer, about.record.id)",
        "return decided.offer.token",
        "engine",
        "a token that comes without a write needs the second read, or it may replace a log-in's",
    ),
    Mutant(
        "engine",
        "Stamp(record.epoch, record.generation) != offer.if_then",
        "record.epoch != offer.if_then.epoch",
        "engine",
        "the second read compares the generation too: a slow response must not throw a browser back",
    ),
    Mutant(
        "engine",
        "self._revoke(record.id, COPIED, epoch=record.epoch)",
        "self._revoke(record.id, COPIED)",
        "engine",
        "the revocation of a copied session must not end the session of a log-in that came between",
    ),
    Mutant(
        "engine",
        "and self._clock() >= touch_at(about.record",
        "and self._clock() > touch_at(about.record",
        "settled",
        "a connection that lives on is seen, and its session with it",
    ),
    Mutant(
        "engine",
        "        if about.pending is not None and not about.pending.done():\n            return None\n",
        "",
        "settled",
        "what is under way may begin a session, whose token is owed",
    ),
    Mutant(
        "engine",
        "or about.owed is not None or not about.unchanged(session)",
        "or not about.unchanged(session)",
        "engine",
        "what was written before the headers is owed to them",
    ),
    Mutant(
        "engine",
        "if len(ids) > 1:",
        "if len(ids) > 2:",
        "engine",
        "two valid cookies of different sessions: neither is opened, or a planted one could be",
    ),
    Mutant(
        "engine",
        "token, role, _ = max(",
        "token, role, _ = min(",
        "engine",
        "of two cookies of one session the newest of the living epoch counts",
    ),
    # -------------------------------------------------------------------------------------- keys, tokens, signed data
    Mutant(
        "keys",
        "MAC_BYTES = 16",
        "MAC_BYTES = 8",
        "keys",
        "the MAC has 128 bits",
    ),
    Mutant(
        "keys",
        "compare_digest(state.digest(), mac)",
        "compare_digest(state.digest()[: len(mac)], mac)",
        "keys",
        "a MAC that is cut short does not verify",
    ),
    Mutant(
        "keys",
        "compare_digest(state.digest(), mac)",
        "state.digest() == mac",
        "attacks",
        "the comparison takes the same time wherever the first difference is",
    ),
    Mutant(
        "keys",
        'domain = f"{purpose}\\0{name}".encode()',
        "domain = name.encode()",
        "attacks",
        "what was made for one purpose verifies for no other",
    ),
    Mutant(
        "keys",
        'domain = f"{purpose}\\0{name}".encode()',
        "domain = purpose.encode()",
        "attacks",
        "what was made for one cookie's name verifies for no other",
    ),
    Mutant(
        "keys",
        "state = self._states[0][0].copy()",
        "state = self._states[-1][0].copy()",
        "keys",
        "only the primary key signs: others may not know the next one yet",
    ),
    Mutant(
        "tokens",
        "presented if now < presented",
        "presented if now <= presented",
        "tokens",
        "a token ends at its deadline",
    ),
    Mutant(
        "tokens",
        "            if presented is None:\n                return None\n",
        "",
        "tokens",
        "what does not verify is no token, and is not remembered either",
    ),
    Mutant(
        "tokens",
        "        if version != VERSION:\n            return None\n",
        "",
        "tokens",
        "what another version signs is no token of this one",
    ),
    Mutant(
        "tokens",
        "if len(text) != _TEXT_LENGTH:",
        "if len(text) < _TEXT_LENGTH:",
        "tokens",
        "the length is checked before any work is spent on a text",
    ),
    Mutant(
        "tokens",
        'bytes.maketrans(b"-_+/", b"+/..")',
        'bytes.maketrans(b"-_", b"+/")',
        "tokens",
        "a token has one spelling",
    ),
    Mutant(
        "tokens",
        "    state = _SESSION_ID.copy()\n    state.update(sid)\n    return state.digest()",
        "    return sid",
        "tokens",
        "the database never holds a sid: neither it nor the key alone opens a session",
    ),
    Mutant(
        "signed",
        'ring.signer("data", cookie_name)',
        'ring.signer("token", cookie_name)',
        "signed",
        "no data verify as a token, and no token as data",
    ),
    Mutant(
        "signed",
        "inflater.decompress(deflated, MAX_DATA)",
        "inflater.decompress(deflated)",
        "signed",
        "what deflates beyond the limit is not inflated: no bomb goes off",
    ),
    Mutant(
        "signed",
        "if text[-1] not in _LAST[length % 4]:",
        "if not text:",
        "signed",
        "a value has one spelling: no bits are left over that may be anything",
    ),
    Mutant(
        "signed",
        "return signed, record, due, load(record.data), role",
        "return signed, record, due, load(EMPTY), role",
        "signed",
        "what is remembered is what would be read anew",
    ),
    Mutant(
        "signed",
        "self._recent.add(text, (signed, record, due, role), size)",
        "self._recent.add(text, (signed, record, due, Role.PRIMARY), size)",
        "signed",
        "what an old key signed is signed again, however often it was read",
    ),
    Mutant(
        "engine",
        "opened is not None and now < opened[1].expires_at else None",
        "opened is not None else None",
        "visitors",
        "a session that lives in its cookie ends like any other, however well it is remembered",
    ),
    Mutant(
        "engine",
        "about.resend or now >= due",
        "about.resend",
        "visitors",
        "a visitor's idle timeout moves while he comes",
    ),
    Mutant(
        "plan",
        "if about.intent is not None or about.protected:",
        "if about.intent is not None:",
        "anonymous",
        "what is protected does not stay in a cookie",
    ),
    Mutant(
        "plan",
        "if len(data) > terms.max_data and len(data) > len(before):",
        "if False:",
        "visitors",
        "the limit of the data holds in a cookie too",
    ),
    Mutant(
        "plan",
        "may_send and (about.resend or about.came >= touch_at(record, terms.timeouts))",
        "may_send and about.came >= touch_at(record, terms.timeouts)",
        "anonymous",
        "a visitor's cookie under an old key is signed and sent anew",
    ),
    Mutant(
        "plan",
        "if not (all(map(str.isidentifier, data)) and set(map(type, data)) <= _PLAIN):",
        "if not data:",
        "visitors",
        "keys of any kind come back from the cookie as they were",
    ),
    Mutant(
        "tracker",
        "not in IMMUTABLE and value is not self.base.get(key):",
        "not in IMMUTABLE and value is None:",
        "visitors",
        "what changes after the headers in a container that was put in is told",
    ),
    Mutant(
        "engine",
        "if early or sent or decided.create is not None else None",
        "if early or sent else None",
        "visitors",
        "what was to move, and could not, is never left in a cookie that everybody can read",
    ),
    Mutant(
        "plan",
        "return Plan(vary=vary, revert=not succeeds, difference=same)",
        "return Plan(vary=vary, revert=not succeeds)",
        "visitors",
        "nothing is told to be dropped that was cleared and filled again",
    ),
    Mutant(
        "plan",
        "rest = (False, False, not succeeds, vary, same,",
        "rest = (False, False, False, vary, same,",
        "visitors",
        "what a failure discards is gone from the dictionary too, also where the cookie has to be sent",
    ),
    Mutant(
        "recent",
        "self._older, self._newer, held = self._newer, {}, size",
        "held = size",
        "recent",
        "so much is remembered and no more",
    ),
    Mutant(
        "values",
        "return content if dump(data) == raw else None",
        "return content",
        "signed",
        "no name stands twice in what a visitor's cookie holds",
    ),
    Mutant(
        "plan",
        "moved.created_at if moved is not None and subject is None else now",
        "now",
        "anonymous",
        "a visitor's old cookie that moves into the database grows no younger",
    ),
    Mutant(
        "cookies",
        "HttpOnly{secure}",
        "{secure}",
        "cookies",
        "no script reads the token",
    ),
    Mutant(
        "policy",
        "re.fullmatch(pattern, value)",
        "re.match(pattern, value)",
        "header_injection",
        "nothing is smuggled into a header by a setting",
    ),
    Mutant(
        "values",
        '_UNSAFE = "[%.$',
        '_UNSAFE = "[%.',
        "values",
        "no key of a user's is ever an operator",
    ),
    # ------------------------------------------------------------------------------------------------- store, MongoDB
    Mutant(
        "store",
        "ENDED = -1",
        "ENDED = 0",
        "plan",
        "the last epoch is none that a token can carry",
    ),
    Mutant(
        "begun",
        "(span[0], confirmed)",
        "span",
        "begun",
        "who finds the token due after its rotation was confirmed rotates: a failover undid it",
    ),
    Mutant(
        "begun",
        "confirmed is not None:",
        "True:",
        "begun",
        "a rotation that failed spares nobody",
    ),
    Mutant(
        "begun",
        "len(self._spans) >= self._room",
        "False",
        "begun",
        "the memory of rotations is bounded",
    ),
    Mutant(
        "engine",
        "decided.upkeep and self._begun",
        "self._begun",
        "begun",
        "a request that stores something is never spared its write",
    ),
    Mutant(
        "mongo",
        '{"_id": id, "epoch": {"$ne": ENDED} if epoch is None else epoch}',
        '{"_id": id}',
        "stores",
        "the epoch is in the filter: no write crosses a log-in, none brings an ended session back",
    ),
    Mutant(
        "mongo",
        "update_one(where, update)",
        "update_one(where, update, upsert=True)",
        "stores",
        "no upsert: a write after the end matches nothing",
    ),
    Mutant(
        "mongo",
        '"generation": True},\n                return_document=ReturnDocument.AFTER',
        '"generation": True},\n                return_document=ReturnDocument.BEFORE',
        "stores",
        "a token is sent by what the document is after the write",
    ),
    Mutant(
        "mongo",
        'operators["$max"]',
        'operators["$min"]',
        "stores",
        "what the session keeps about itself only rises, in whatever order writes arrive",
    ),
    Mutant(
        "mongo",
        'WriteConcern(w="majority")',
        "WriteConcern(w=1)",
        "mongo",
        "log-ins and log-outs are written with w: majority, whatever the client's defaults",
    ),
    Mutant(
        "mongo",
        "self._durable if changes.durable else self._ordinary",
        "self._ordinary",
        "mongo",
        "the same, in updates",
    ),
    Mutant(
        "mongo",
        "read_preference=ReadPreference.PRIMARY",
        "read_preference=collection.read_preference",
        "mongo",
        "lookups read from the primary: a secondary may not know of a log-out yet",
    ),
    Mutant(
        "mongo",
        '{"_id": id, "epoch": epoch},',
        '{"_id": id},',
        "stores",
        "pop_once and set_default are fenced by the epoch as well",
    ),
    Mutant(
        "mongo",
        '{"$literal": value}',
        "value",
        "stores",
        "a value that begins with a dollar sign is a text, not another field's value",
    ),
)


class Run(NamedTuple):
    """What a test file said.

    Attributes:
        code: pytest's exit code; 1 where a test failed, -1 where it did not end in time.
        first: the first test that failed, without the file's name.
        output: what was printed.
        took: seconds.
    """

    code: int
    first: str
    output: str
    took: float


@contextmanager
def a_copy() -> Generator[Path]:
    """A copy of the tree, without what tools leave there."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        copy = Path(place, "tree")
        ignored = shutil.ignore_patterns(".git", ".venv*", "node_modules", "__pycache__", ".*_cache", ".hypothesis")
        shutil.copytree(ROOT, copy, ignore=ignored)
        yield copy


def run(tree: Path, test: str) -> Run:
    """Run one test file in a tree until its first failure."""
    paths = os.pathsep.join(map(str, (tree, tree / "adapters")))
    # Python tells stale bytecode by time and size of the source: mutants of one size may come within the same second.
    environment = os.environ | {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not search and not matrix"]
    began = time.monotonic()
    try:
        done = subprocess.run(
            [*command, f"tests/test_{test}.py"],
            cwd=tree,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LONGEST,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Run(-1, "", f"no end within {LONGEST:.0f} s", LONGEST)
    failed = re.search(r"^(?:FAILED|ERROR) tests/\S+?::(\w+(?:::\w+)?)", done.stdout, re.MULTILINE)
    first = failed[1] if failed else ""
    return Run(done.returncode, first, done.stdout + done.stderr, time.monotonic() - began)


def judge(tree: Path, mutant: Mutant) -> tuple[bool, str]:
    """Whether a mutant is killed on this copy, and by which test, or what went wrong."""
    path = tree / mutant.path
    source = path.read_text()
    try:
        path.write_text(mutant.applied(source))
        said = run(tree, mutant.test)
    except ValueError as error:
        return False, f"NOT APPLIED: {error}"
    finally:
        path.write_text(source)
    if said.code == 1:
        return True, f"{said.first}, {said.took:.1f} s"
    if said.code == 0:
        return False, "SURVIVED"
    return False, f"NO VERDICT, exit code {said.code}:\n{said.output[-2000:]}"


def main() -> int:
    """Apply the mutants one by one. Returns 1 if one is not killed."""
    options = argparse.ArgumentParser(prog="python -m tests.mutants", description="Break the rules, one at a time.")
    options.add_argument("words", nargs="*", help="only mutants whose file or reason holds one of these words")
    words = options.parse_args().words
    chosen = [each for each in MUTANTS if not words or any(word in f"{each.file} {each.why}" for word in words)]
    began, failures = time.monotonic(), 0
    with a_copy() as tree:
        for test in sorted({each.test for each in chosen}):
            said = run(tree, test)
            print(f"unchanged   tests/test_{test}.py: {'passes' if said.code == 0 else 'FAILS'}, {said.took:.1f} s")
            if said.code != 0:
                print(said.output[-4000:])
                return 1
        for number, mutant in enumerate(chosen, 1):
            killed, words_of_it = judge(tree, mutant)
            failures += not killed
            print(f"{number:2} {'killed  ' if killed else '!!!!!!!!'} {mutant.path}: {mutant.why}")
            print(f"            tests/test_{mutant.test}.py: {words_of_it}", flush=True)
    print(f"{len(chosen) - failures} of {len(chosen)} mutants killed in {time.monotonic() - began:.0f} s")
    return int(failures > 0 or not chosen)


if __name__ == "__main__":
    sys.exit(main())
