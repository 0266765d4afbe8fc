"""What a fault run leaves behind: files of JSON lines, one thing that happened in each, and how they are read again.

    run.json            what was asked for: a Plan
    faults.jsonl        what was done to the installation, and when
    agents/*.jsonl      what each agent's page asked and was told
    phones/*.jsonl      what each phone was told, did and said
    twins.jsonl         what became of second sockets of the same phone
    standing.jsonl      the database, the nodes and Valkey when all was quiet, everybody still there
    left.jsonl          the same when everybody had left
    logs/               what the processes wrote
    memory/             what the phones' disks hold

A history is written by the client itself, before it acts on what it tells, a line at a time and nothing held back: it
is true up to the moment at which the run ended, however it ended.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

import msgspec

L = TypeVar("L")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is asked for. The same plan deals the same faults; how they fall upon the calls is chance."""

    seed: int
    seconds: float
    pairs: int
    """Agents, each with a phone."""


class Line(msgspec.Struct, frozen=True, kw_only=True, tag_field="what"):
    """Something that happened. `at` is seconds of the machine's clock, the same for all who write and for the
    database."""

    at: float


# --- an agent's page ------------------------------------------------------------------------------------------------


class Asked(Line, frozen=True, tag="asked"):
    """A dial was asked for; asked again, with the same key, where no answer came."""

    key: str


class Accepted(Line, frozen=True, tag="accepted"):
    """A dial was accepted."""

    key: str
    call_id: str


class Declined(Line, frozen=True, tag="declined"):
    """A dial was refused, with nothing left behind."""

    key: str
    code: str


class Reloaded(Line, frozen=True, tag="reloaded"):
    """The page forgot all it knew, as one does that is loaded anew."""


class PageWelcomed(Line, frozen=True, tag="page welcomed"):
    """WELCOME came. `seen` is the seq after which the page had asked to go on, None where it began."""

    seen: int | None
    last_seq: int


class Told(Line, frozen=True, tag="told"):
    """An event came, be it the next, a repeat, or one too early."""

    seq: int
    type: str
    call_id: str | None


class Lost(Line, frozen=True, tag="lost"):
    """RESYNC came: events up to `to_seq` are lost to the page, and it was told so."""

    to_seq: int


class PageStands(Line, frozen=True, tag="page stands"):
    """At the end: the page is open."""


AgentLine = Asked | Accepted | Declined | Reloaded | PageWelcomed | Told | Lost | PageStands


# --- a phone --------------------------------------------------------------------------------------------------------


class Started(Line, frozen=True, tag="started"):
    """The app started, for the first time or again, with what its disk holds."""


class PhoneWelcomed(Line, frozen=True, tag="phone welcomed"):
    """WELCOME came."""

    epoch: int


class Ordered(Line, frozen=True, tag="ordered"):
    """A command came, or came again. `expires_at` is seconds; None where it is a cancellation."""

    message_id: str
    call_id: str
    expires_at: float | None


class Dialled(Line, frozen=True, tag="dialled"):
    """The command was executed: the dialler is being called."""

    call_id: str


class Reported(Line, frozen=True, tag="reported"):
    """A report was written down, to be sent until it is acked. `status` is its own word for how the call is, or ended;
    `evidence` on what grounds."""

    message_id: str
    call_id: str
    type: str
    status: str
    evidence: str | None


class Acked(Line, frozen=True, tag="acked"):
    """The server told that it has a report: the phone may forget it."""

    message_id: str


class Spurned(Line, frozen=True, tag="spurned"):
    """The server told that it will never take a report."""

    message_id: str
    code: str


class PhoneStands(Line, frozen=True, tag="phone stands"):
    """At the end: the phone is online with the session of this epoch, or None, away. `waiting`: reports not acked."""

    epoch: int | None
    waiting: int


PhoneLine = Started | PhoneWelcomed | Ordered | Dialled | Reported | Acked | Spurned | PhoneStands


# --- others ---------------------------------------------------------------------------------------------------------


class GivenUp(Line, frozen=True, tag="given up"):
    """The server told a client that it is never to come back: code and reason of the close, or of the refusal."""

    code: int
    reason: str


class Twin(Line, frozen=True, tag="twin"):
    """A second socket of a phone ended. `connection` is its count; `epoch` None where it was not welcomed; `code` is
    that of the close, None where the twin itself went in the end."""

    device: str
    connection: int
    epoch: int | None
    code: int | None


class Struck(Line, frozen=True, tag="struck"):
    """A fault began. `fault` tells it in words."""

    fault: str


class Mended(Line, frozen=True, tag="mended"):
    """A fault ended."""

    fault: str


HistoryLine = AgentLine | PhoneLine | GivenUp

# --- what the installation holds ------------------------------------------------------------------------------------


class Row(msgspec.Struct, frozen=True, kw_only=True, tag_field="row"):
    """A row of the dump. Times are seconds, as in Line."""


class CallRow(Row, frozen=True, tag="call"):
    """A call."""

    id: str
    user_id: str
    device_id: str | None
    status: str
    outcome: str | None
    closed_by: str | None
    evidence: str | None
    duration: int | None
    created_at: float
    dialing_at: float | None
    ringing_at: float | None
    connected_at: float | None
    ended_at: float | None
    reap_at: float | None


class ReportRow(Row, frozen=True, tag="report"):
    """A line of a call's history that tells a report."""

    call_id: str
    message_id: str
    kind: str
    status: str | None


class CommandRow(Row, frozen=True, tag="command"):
    """What a phone was asked."""

    id: str
    call_id: str
    device_id: str
    type: str
    expires_at: float
    waits: bool


class DeviceRow(Row, frozen=True, tag="device"):
    """A phone. `hardware_id` is what it calls itself."""

    id: str
    hardware_id: str
    user_id: str
    node: str | None
    online: bool
    epoch: int


class StreamRow(Row, frozen=True, tag="stream"):
    """How far an agent's events go."""

    user_id: str
    last_seq: int


class EventRow(Row, frozen=True, tag="event"):
    """An event of an agent."""

    user_id: str
    seq: int
    type: str
    call_id: str | None
    enriched: bool


class NodeRow(Row, frozen=True, tag="node"):
    """One life of a process. `leased`: its lease lies ahead, and was not swept."""

    boot_id: str
    kind: str
    leased: bool


class AttendedRow(Row, frozen=True, tag="attended"):
    """A node is said to hold pages of an agent."""

    user_id: str
    node: str


class SessionsRow(Row, frozen=True, tag="sessions"):
    """What a web node counts as open, by itself."""

    node: str
    phones: int
    pages: int


class ChannelRow(Row, frozen=True, tag="channel"):
    """A channel of Valkey that somebody subscribes to, by the boot id in its name."""

    node: str


class AliveRow(Row, frozen=True, tag="alive"):
    """How many processes of a kind run."""

    kind: str
    count: int


DumpRow = (
    CallRow
    | ReportRow
    | CommandRow
    | DeviceRow
    | StreamRow
    | EventRow
    | NodeRow
    | AttendedRow
    | SessionsRow
    | ChannelRow
    | AliveRow
)

# --- files ----------------------------------------------------------------------------------------------------------


class Journal(Generic[L]):
    """A file of lines that grows at its end; what `write` was told is out of this process when it returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._file)

    def write(self, line: L) -> None:
        """Add a line."""
        os.write(self._file, _encoder.encode(line) + b"\n")


def now() -> float:
    """The machine's clock."""
    return time.time()


class Dump(msgspec.Struct, frozen=True, kw_only=True):
    """What the installation held at one moment."""

    calls: dict[str, CallRow]
    reports: list[ReportRow]
    commands: list[CommandRow]
    devices: list[DeviceRow]
    streams: dict[str, int]
    events: list[EventRow]
    nodes: list[NodeRow]
    attended: list[AttendedRow]
    sessions: list[SessionsRow]
    channels: list[str]
    alive: dict[str, int]

    @classmethod
    def of(cls, rows: list[DumpRow]) -> "Dump":
        """Sort rows by kind."""

        def every(kind: type[R]) -> list[R]:
            return [row for row in rows if isinstance(row, kind)]

        return cls(
            calls={row.id: row for row in every(CallRow)},
            reports=every(ReportRow),
            commands=every(CommandRow),
            devices=every(DeviceRow),
            streams={row.user_id: row.last_seq for row in every(StreamRow)},
            events=every(EventRow),
            nodes=every(NodeRow),
            attended=every(AttendedRow),
            sessions=every(SessionsRow),
            channels=[row.node for row in every(ChannelRow)],
            alive={row.kind: row.count for row in every(AliveRow)},
        )


R = TypeVar("R", bound=Row)


class Histories(msgspec.Struct, frozen=True, kw_only=True):
    """All that a run left behind. Agents by user id, phones by what they call themselves."""

    agents: dict[str, list[AgentLine | GivenUp]]
    phones: dict[str, list[PhoneLine | GivenUp]]
    twins: list[Twin]
    faults: list[Struck | Mended]
    standing: Dump
    left: Dump


def read(folder: Path) -> Histories:
    """Read what a run left in its folder."""
    return Histories(
        agents={path.stem: list(_lines(path, _agent)) for path in sorted(folder.glob("agents/*.jsonl"))},
        phones={path.stem: list(_lines(path, _phone)) for path in sorted(folder.glob("phones/*.jsonl"))},
        twins=list(_lines(folder / "twins.jsonl", _twin)),
        faults=list(_lines(folder / "faults.jsonl", _fault)),
        standing=Dump.of(list(_lines(folder / "standing.jsonl", _row))),
        left=Dump.of(list(_lines(folder / "left.jsonl", _row))),
    )


def about(folder: Path, what: str) -> Iterator[str]:
    """Tell what the histories and dumps say of a call, a message, a phone or an agent, in the order of time."""
    found = []
    for path in sorted(folder.rglob("*.jsonl")):
        named = what == path.stem
        for line in path.read_text(encoding="utf-8").splitlines():
            if named or f'"{what}"' in line:
                at = msgspec.json.decode(line, type=_Timed).at
                found.append((at, path.relative_to(folder).as_posix(), line))
    begin = min((at for at, _, _ in found if at is not None), default=0.0)
    for at, name, line in sorted(found, key=lambda one: (one[0] is None, one[0] or 0.0)):
        yield f"{'' if at is None else f'{at - begin:9.3f}':>9}  {name}  {line}"


class _Timed(msgspec.Struct):
    at: float | None = None


def _lines(path: Path, decoder: msgspec.json.Decoder[L]) -> Iterator[L]:
    """The lines of a file; an unfinished last one, of a run that was killed, is passed over."""
    for line in path.read_bytes().split(b"\n")[:-1]:
        yield decoder.decode(line)


_encoder = msgspec.json.Encoder()
_agent: msgspec.json.Decoder[AgentLine | GivenUp] = msgspec.json.Decoder(AgentLine | GivenUp)
_phone: msgspec.json.Decoder[PhoneLine | GivenUp] = msgspec.json.Decoder(PhoneLine | GivenUp)
_twin = msgspec.json.Decoder(Twin)
_fault: msgspec.json.Decoder[Struck | Mended] = msgspec.json.Decoder(Struck | Mended)
_row: msgspec.json.Decoder[DumpRow] = msgspec.json.Decoder(DumpRow)
