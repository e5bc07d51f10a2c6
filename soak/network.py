"""A machine for each member of a replica set, as Linux's namespaces make it: its cable can be pulled, its disk be full.

`apart` runs a module in namespaces of its own (`unshare`): a network and mounts that nobody else sees and that are gone
when its last process is, whatever it ended of. Root may do so, and on most systems everybody.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from .replicaset import Place
from .result import ROOT

SUBNET = "10.77.0"
DISK_MEGABYTES = 1024


def apart(module: str, *arguments: str, seconds: float) -> str:
    """Run a module in namespaces of its own, and give what it printed. Its first argument is this process's id.

    Raises:
        RuntimeError: it failed.
        subprocess.TimeoutExpired: it took longer; it was killed.
    """
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    ran = subprocess.run(
        ["unshare", *user, "--net", "--mount", sys.executable, "-m", module, str(os.getpid()), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "adapters")])},
        stdout=subprocess.PIPE,
        timeout=seconds,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise RuntimeError(f"{module} ended with status {ran.returncode}")
    return ran.stdout


class Machine:
    """Where one member runs, within the namespaces that `apart` made.

    Attributes:
        place: for `soak.replicaset`.
    """

    def __init__(self, number: int) -> None:
        self._name = f"member{number}"
        self._cable = f"cable{number}"
        self.disk = Path("/mnt") / self._name
        self.place = Place(f"{SUBNET}.{number + 1}", self.disk, [_program("nsenter"), f"--net=/run/netns/{self._name}"])
        self._others = [f"{SUBNET}.{other + 1}" for other in range(3) if other != number]
        self.disk.mkdir()
        _run("mount", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m", "tmpfs", str(self.disk))
        _run("ip", "netns", "add", self._name)
        _run("ip", "link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self._name)
        _run("ip", "link", "set", self._cable, "master", "switch", "up")
        self._inside("ip", "link", "set", "lo", "up")
        self._inside("ip", "address", "add", f"{self.place.host}/24", "dev", "eth0")
        self._inside("ip", "link", "set", "eth0", "up")

    def pull_the_cable(self) -> None:
        """Nobody reaches it, and it reaches nobody; connections stay as they are and carry nothing."""
        _run("ip", "link", "set", self._cable, "down")

    def put_the_cable_back(self) -> None:
        """Undo `pull_the_cable`."""
        _run("ip", "link", "set", self._cable, "up")

    def leave_the_others(self) -> None:
        """It and the other members do not reach each other; the application reaches all of them."""
        for other in self._others:
            self._inside("ip", "route", "add", "blackhole", other)

    def return_to_the_others(self) -> None:
        """Undo `leave_the_others`."""
        for other in self._others:
            self._inside("ip", "route", "delete", "blackhole", other)

    def fill_the_disk(self) -> None:
        """Leave not a byte of its data's disk free, for as long as `free_the_disk` is not called."""
        with (self.disk / "ballast").open("wb", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(bytes(1024 * 1024))
            except OSError:
                pass

    def free_the_disk(self) -> None:
        """Undo `fill_the_disk`."""
        (self.disk / "ballast").unlink()

    def _inside(self, *command: str) -> None:
        _run("ip", "netns", "exec", self._name, *command)


def machines() -> list[Machine]:
    """Three of them, on one network. To be called once, where `apart` runs things."""
    for directory in ("/run", "/mnt"):
        _run("mount", "-t", "tmpfs", "tmpfs", directory)
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "link", "add", "switch", "type", "bridge")
    _run("ip", "address", "add", f"{SUBNET}.254/24", "dev", "switch")
    _run("ip", "link", "set", "switch", "up")
    return [Machine(number) for number in range(3)]


def _run(*command: str) -> None:
    subprocess.run([_program(command[0]), *command[1:]], check=True, stdin=subprocess.DEVNULL)


def _program(name: str) -> str:
    """Its path; those of system administration are not in everybody's PATH."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        raise RuntimeError(f"there is no {name} here: install the packages iproute2 and util-linux")
    return found
