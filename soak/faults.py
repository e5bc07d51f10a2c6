"""A replica set of three, several application processes, thousands of browsers, and everything that fails under them.

The faults come one after the other, in an order of chance; application processes are killed while others last. Each is
counted only if it shows: in a process's exit status, in what the members say about themselves, in errors of clients.
After each it is measured how long the application needs once the database is back.
"""

import http.client
import json
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from random import Random
from typing import Any, NamedTuple

import pymongo
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from mongosession import Rotation

from . import checker
from .application import DATABASE, Application, die_with
from .browsers import Crowd
from .history import Operation, keep
from .network import Machine, apart, machines
from .replicaset import Member, Place, ReplicaSet, wait
from .result import Result

TITLE = "a replica set of three, application processes and browsers under every fault"
DRIVERS = ("pymongo", "motor", "pymongo")
RECOVERY_SECONDS = 10.0
STALE_SECONDS = 15.0  # for which a primary that was cut off may answer from the past, as the documentation says
AFTERWARDS_SECONDS = 120.0
MAX_REMARKS = 20

KILLED = "primaries killed with SIGKILL"
PAUSED = "primaries stopped with SIGSTOP, and another elected"
STEPPED_DOWN = "primaries stepped down"
CUT_OFF = "primaries cut off from everybody"
LEFT = "primaries cut off from the other members alone"
FULL = "primaries ended by a full disk"
READ_ONLY = "primaries that accepted no writes (fsyncLock)"
ALL_AWAY = "times that all members were away for 20 s"
RESTARTED = "members restarted one by one"
APPLICATION_KILLED = "application processes killed with SIGKILL"
APPLICATION_RESTARTED = "application processes restarted with another ring of keys"
KEYS_CHANGED = "keys changed in three steps"

SLOWEST = "seconds, the slowest recovery after the database's"
SLOW = f"recoveries later than {RECOVERY_SECONDS:.0f} s after the database's"
STALE = "stale answers although no primary had been cut off"


class Stage:
    """Everything that a fault may touch, and what was counted.

    Args:
        replicas: the set.
        machines: where its members run, if they can be cut off.
        applications: the processes.
        crowd: the browsers.
        chance: of the faults.
        key: that the application signs with.

    Attributes:
        faults: that happened.
        recoveries: seconds from the database's recovery to that of all application processes, for each fault.
        windows: when there may have been two primaries: from, until.
    """

    def __init__(
        self,
        replicas: ReplicaSet,
        machines: Sequence[Machine],
        applications: Sequence[Application],
        crowd: Crowd,
        chance: Random,
        key: str,
    ) -> None:
        self.replicas = replicas
        self.machines = machines
        self.applications = applications
        self.crowd = crowd
        self.chance = chance
        self.key = key
        self.all_keys = [key]
        self.faults: Counter[str] = Counter()
        self.recoveries: list[float] = []
        self.windows: list[tuple[float, float]] = []
        self._began = time.monotonic()
        self._probe: MongoClient[dict[str, Any]] = MongoClient(replicas.uri, w="majority", connectTimeoutMS=1000)

    def close(self) -> None:
        """Disconnect."""
        self._probe.close()

    def kill_primary(self) -> None:
        """Its process is killed, and comes back some seconds after another has been elected."""
        primary, term = self._primary()
        status = primary.kill()
        self.replicas.wait_for_primary(other_than=primary)
        self._count(KILLED, status == -9 and self.replicas.term() > term)
        self._hold(1, 4)
        primary.start()

    def pause_primary(self) -> None:
        """It holds its connections and answers nothing; on waking it takes itself for the primary for a moment."""
        primary, term = self._primary()
        with self._two_primaries():
            primary.pause()
            try:
                self.replicas.wait_for_primary(other_than=primary)
                self._count(PAUSED, self.replicas.term() > term)
                self._hold(0, 5)
            finally:
                primary.resume()

    def step_down(self) -> None:
        """The primary hands over, three times at ten seconds' distance."""
        for _ in range(3):
            began = time.monotonic()
            self._step_down()
            self._hold(9, 9)
            time.sleep(max(0.0, began + 10 - time.monotonic()))

    def step_down_once(self) -> None:
        """The primary hands over."""
        self._step_down()

    def cut_off_primary(self) -> None:
        """The cable of its machine is pulled."""
        primary, term = self._primary()
        machine = self._machine(primary)
        with self._two_primaries():
            machine.pull_the_cable()
            try:
                self.replicas.wait_for_primary(other_than=primary)
                cut = primary.is_running and primary.ask("ping") is None
                self._count(CUT_OFF, cut and self.replicas.term() > term)
                self._hold(2, 8)
            finally:
                machine.put_the_cable_back()

    def leave_primary(self) -> None:
        """The other members do not reach it any more, and elect another; the application reaches all of them."""
        primary, term = self._primary()
        machine = self._machine(primary)
        with self._two_primaries():
            machine.leave_the_others()
            try:
                self.replicas.wait_for_primary(other_than=primary)
                reached = primary.ask("ping") is not None
                self._count(LEFT, reached and self.replicas.term() > term)
                self._hold(2, 8)
            finally:
                machine.return_to_the_others()

    def fill_disk(self) -> None:
        """Not a byte is left where the primary keeps its journal: it ends by itself, and another is elected."""
        primary, term = self._primary()
        machine = self._machine(primary)
        machine.fill_the_disk()
        try:
            status = primary.ended(within=60)
            self.replicas.wait_for_primary(other_than=primary)
            self._count(FULL, status != 0 and self.replicas.term() > term)
            self._hold(1, 4)
        finally:
            machine.free_the_disk()
        primary.start()

    def lock_primary(self) -> None:
        """It stays primary, reads go on, and writes wait."""
        primary, _ = self._primary()
        primary.ask("fsync", 10, lock=True)
        try:
            locked = (primary.ask("currentOp") or {}).get("fsyncLock", False)
            self._count(READ_ONLY, bool(locked) and not self._can_write())
            self._hold(4, 7)
        finally:
            wait(lambda: primary.ask("fsyncUnlock", 10), 60)

    def all_away(self) -> None:
        """No member answers for 20 s: killed, stopped or cut off."""
        ways: list[tuple[Callable[[Member], object], Callable[[Member], object]]] = [
            (Member.kill, Member.start),
            (Member.pause, Member.resume),
        ]
        if self.machines:
            ways.append(
                (
                    lambda member: self._machine(member).pull_the_cable(),
                    lambda member: self._machine(member).put_the_cable_back(),
                )
            )
        leave, come_back = self.chance.choice(ways)
        members = self.replicas.members
        with self._two_primaries():
            for member in members:
                leave(member)
            time.sleep(2)
            answered = self._can_write()
            self._hold(15, 15)
            answered = answered or self._can_write() or any(member.ask("ping") for member in members)
            self._count(ALL_AWAY, not answered)
            for member in members:
                come_back(member)

    def restart_members(self) -> None:
        """As for an upgrade: the secondaries one after the other, then the primary."""
        primary, _ = self._primary()
        for member in [*(each for each in self.replicas.members if each is not primary), primary]:
            status, before = member.stop(), member.pid
            self._hold(0, 1)
            member.start()
            self.replicas.wait_until_whole()
            self._count(RESTARTED, status == 0 and member.pid != before)

    def kill_applications(self) -> None:
        """At any moment, and started again at once."""
        for _ in range(4):
            time.sleep(self.chance.uniform(0.2, 2))
            self._kill_application()

    def change_keys(self) -> None:
        """In the three steps of docs/keys.md, each deployed to one process after the other."""
        old, new = self.key, _new_key()
        self.all_keys.append(new)
        self.crowd.add_keys(self.all_keys)
        rings: list[tuple[list[str], list[str]]] = [([old], [new]), ([new, old], []), ([new], [])]
        for step, (keys, next_keys) in enumerate(rings):
            if step == 2:
                self._wait_until_unused(old)
            for application in self.applications:
                application.settings = application.settings._replace(keys=keys, next_keys=next_keys)
                application.stop()
                application.start()
                self._count(APPLICATION_RESTARTED, _answers(application))
                self._hold(0, 1)
        self.key = new
        self._count(KEYS_CHANGED, all(browser.leaving for browser in self.crowd.holding(old)))

    def recover(self) -> None:
        """Measure how long the application needs once the database accepts writes, and wait until the set is whole."""
        wait(self._can_write, AFTERWARDS_SECONDS)
        back = time.monotonic()
        for application in self.applications:
            wait(lambda: _answers(application), AFTERWARDS_SECONDS)  # noqa: B023  # called at once
        self.recoveries.append(time.monotonic() - back)
        self.replicas.wait_until_whole(AFTERWARDS_SECONDS)

    def say(self, what: str) -> None:
        """For whoever watches."""
        print(f"{time.monotonic() - self._began:7.1f} s  {what}", file=sys.stderr, flush=True)

    def _primary(self) -> tuple[Member, int]:
        """The present one, of a set that is whole, and the number of its election."""
        return self.replicas.wait_until_whole(AFTERWARDS_SECONDS), self.replicas.term()

    def _count(self, what: str, happened: bool) -> None:
        self.faults[what] += happened

    def _step_down(self) -> None:
        primary, term = self._primary()
        other = self.replicas.step_down()
        self._count(STEPPED_DOWN, other is not primary and self.replicas.term() > term)

    def _hold(self, shortest: float, longest: float) -> None:
        """Let the fault last; often an application process is killed meanwhile."""
        seconds = self.chance.uniform(shortest, longest)
        if self.chance.random() < 0.5:
            moment = self.chance.uniform(0, seconds)
            until = time.monotonic() + seconds
            time.sleep(moment)
            self._kill_application()
            time.sleep(max(0.0, until - time.monotonic()))
        else:
            time.sleep(seconds)

    def _kill_application(self) -> None:
        application = self.chance.choice(self.applications)
        self._count(APPLICATION_KILLED, application.kill() == -9)
        application.start()

    @contextmanager
    def _two_primaries(self) -> Generator[None]:
        began = time.monotonic()
        yield
        self.windows.append((began, time.monotonic() + STALE_SECONDS))

    def _machine(self, member: Member) -> Machine:
        return self.machines[member.number]

    def _can_write(self) -> bool:
        """Whether the set accepts a write by a majority within a second."""
        try:
            with pymongo.timeout(1):
                self._probe[DATABASE].probes.insert_one({})
        except PyMongoError:
            return False
        return True

    def _wait_until_unused(self, key: str) -> None:
        """Until every browser has come by and holds a token under another key; who does not in time, leaves."""
        time.sleep(5)  # answers of processes with the ring before may still be held back
        try:
            wait(lambda: not self.crowd.holding(key), 40)
        except TimeoutError:
            for browser in self.crowd.holding(key):
                browser.leaving = True
                self.crowd.did["browsers that kept a token under an old key, and were sent away"] += 1


class Fault(NamedTuple):
    """What may happen.

    Attributes:
        do: it.
        seconds: that it takes, about, with the recovery.
        shows: the names under which it counts.
    """

    do: Callable[[Stage], None]
    seconds: float
    shows: Sequence[str]


ANYWHERE = (
    Fault(Stage.kill_primary, 10, [KILLED]),
    Fault(Stage.pause_primary, 10, [PAUSED]),
    Fault(Stage.step_down, 32, [STEPPED_DOWN]),
    Fault(Stage.lock_primary, 8, [READ_ONLY]),
    Fault(Stage.all_away, 30, [ALL_AWAY]),
    Fault(Stage.restart_members, 15, [RESTARTED]),
    Fault(Stage.kill_applications, 10, [APPLICATION_KILLED]),
    Fault(Stage.change_keys, 30, [APPLICATION_RESTARTED, KEYS_CHANGED]),
)
ON_MACHINES = (
    Fault(Stage.cut_off_primary, 12, [CUT_OFF]),
    Fault(Stage.leave_primary, 12, [LEFT]),
    Fault(Stage.fill_disk, 15, [FULL]),
)
BRIEFLY = (Fault(Stage.kill_primary, 0, [KILLED]), Fault(Stage.step_down_once, 0, [STEPPED_DOWN]))


def soak(
    seconds: float,
    seed: int,
    *,
    faults: Sequence[Fault] = ANYWHERE,
    on: Sequence[Machine] = (),
    drivers: Sequence[str] = DRIVERS,
    browsers: int = 200,
    think: float = 2.0,
) -> Result:
    """Let faults happen for so long, all of them in each round, and at least one round.

    Args:
        seconds: no fault begins that would take longer.
        seed: of all chance but the machine's.
        faults: which.
        on: the machines of the members; this one's loopback by default.
        drivers: of the application's processes, one each.
        browsers: how many at a time.
        think: seconds between what a browser does.
    """
    chance = Random(seed)
    began = time.monotonic()
    key = _new_key()
    with ExitStack() as stack:
        places = [machine.place for machine in on] or [Place()] * 3
        replicas = stack.enter_context(ReplicaSet(places, args=["--oplogSize", "100"]))
        applications = [Application.on(replicas.uri, driver, [key]) for driver in drivers]
        for application in applications:
            stack.callback(application.close)
            application.start()
        ports = [application.settings.port for application in applications]
        crowd = Crowd(ports, [key], size=browsers, seed=seed, think=think)
        stage = Stage(replicas, on, applications, crowd, chance, key)
        stack.callback(stage.close)
        stage.recover()
        stage.recoveries.clear()
        crowd.start()
        rounds = 0
        while not rounds or time.monotonic() + min(fault.seconds for fault in faults) < began + seconds:
            for fault in chance.sample(faults, len(faults)):
                if not rounds or time.monotonic() + fault.seconds < began + seconds:
                    time.sleep(chance.uniform(0.5, 2) * min(1.0, think))
                    fault.do(stage)
                    stage.recover()
                    stage.say(f"{fault.do.__name__}: all applications {stage.recoveries[-1]:.1f} s after the database")
            rounds += 1
        crowd.stop()
        took = time.monotonic() - began
    return _result(stage, [name for fault in faults for name in fault.shows], took)


def _result(stage: Stage, expected: Iterable[str], took: float) -> Result:
    crowd = stage.crowd
    keep(crowd.history, "faults")
    accepted = Rotation(ttl=stage.applications[0].settings.ttl).accepted
    at_once = checker.judge(crowd.history, accepted=accepted)
    in_time = checker.judge(crowd.history, accepted=accepted, stale=STALE_SECONDS)
    stale = [breach for breach in at_once if breach not in in_time]
    elsewhere = [breach for breach in stale if not _overlaps(breach.operation, stage.windows)]
    remarks = [*crowd.remarks, *(f"{breach.rule}: {breach.message}" for breach in [*in_time, *elsewhere])]
    for remark in remarks[:MAX_REMARKS]:
        stage.say(remark)
    slowest = max(stage.recoveries)
    errors = "errors that browsers saw (503, connections that broke or were refused)"
    seen = [crowd.did[name] for name in ("answers 503", "connections that broke", "requests that found no server")]
    return Result(
        TITLE,
        did={
            **dict(sorted(crowd.did.items())),
            "operations in the history": len(crowd.history),
            "stale answers of primaries that had been cut off": len(stale) - len(elsewhere),
            "recoveries": len(stage.recoveries),
            SLOWEST: round(slowest, 1),
            "seconds of faults": round(took),
        },
        faults={name: stage.faults[name] for name in (*expected, APPLICATION_KILLED)} | {errors: sum(seen)},
        losses={
            **crowd.losses,
            **checker.losses(in_time),
            STALE: len(elsewhere),
            SLOW: sum(seconds > RECOVERY_SECONDS for seconds in stage.recoveries),
        },
    )


def _overlaps(operation: Operation, windows: Iterable[tuple[float, float]]) -> bool:
    ended = operation.started if operation.ended is None else operation.ended
    return any(began <= ended and operation.started <= until for began, until in windows)


def _answers(application: Application) -> bool:
    """Whether a process stores something in a new session."""
    connection = http.client.HTTPConnection("127.0.0.1", application.settings.port, timeout=20)
    try:
        connection.request("GET", "/write?key=probe&value=probe")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _new_key() -> str:
    return secrets.token_urlsafe(32)


def run(seconds: float, seed: int) -> Result:
    """The whole part, on a network and disks of its own.

    Raises:
        RuntimeError: it ended otherwise than with a result; what it printed says how.
    """
    printed = apart(__name__, str(seconds), str(seed), seconds=seconds * 2 + 300)
    return Result(**json.loads(printed))


def main() -> None:
    """What `apart` runs."""
    parent, seconds, seed = sys.argv[1:]
    die_with(int(parent))
    result = soak(float(seconds), int(seed), faults=[*ANYWHERE, *ON_MACHINES], on=machines())
    print(json.dumps(result._asdict()))


if __name__ == "__main__":
    main()
