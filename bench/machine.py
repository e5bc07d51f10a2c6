"""On what the benchmark ran."""

import os
import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from mongosession.mongod import find_mongod

SHOWN = (
    *("pymongo", "motor", "anyio", "uvicorn", "uvloop", "httptools", "starlette", "starsessions", "aiohttp"),
    *("aiohttp-session", "aiohttp-session-mongo", "Flask", "Flask-Session", "gunicorn", "Django"),
    "django-mongodb-backend",
)


def describe() -> dict[str, str]:
    """The machine and the versions, without its name or anything else that is private."""
    mongod = find_mongod()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "CPU": f"{_first('/proc/cpuinfo', 'model name')}, {os.cpu_count()} cores",
        "memory": _first("/proc/meminfo", "MemTotal"),
        "kernel": f"{platform.system()} {platform.release()}",
        "load before": load(),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "MongoDB": _version(str(mongod)) if mongod else "not found",
        "Node.js": _version("node"),
        "valgrind": _version("valgrind"),
        "packages": ", ".join(f"{name} {found}" for name in SHOWN if (found := _installed(name))),
    }


def load() -> str:
    """The load average of the last minute: processes that wanted a core."""
    return f"{os.getloadavg()[0]:.2f}"


def _first(path: str, field: str) -> str:
    lines = Path(path).read_text().splitlines() if Path(path).exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "unknown")


def _version(program: str) -> str:
    if shutil.which(program) is None:
        return "not found"
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\d+(\.\d+)+", told)
    return found[0] if found else told.strip()


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
