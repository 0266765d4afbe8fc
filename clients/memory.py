"""What a phone must not forget: a journal of what it was told, did and said, written before it acts on it.

The state of the phone is what its journal says: `Memory` replays the entries at opening and applies each new one after
it is written. Without a path the journal is not kept, for load generators that never restart.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self, assert_never

import msgspec

from protocol.messages import CallEnd, CallStatus, DialCommand, encode_raw

KEEP_CALLS = 256
"""Calls remembered; the oldest that is over and acked goes first. A command is re-sent for seconds, not for weeks."""

COMPACT_AFTER = 5_000
"""Lines after which the file is written anew, as short as may be; more where it cannot be much shorter."""


class Handset(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a phone says of itself when it is bound (seed 003 §5.1). `device_token` is that of its push service."""

    device_id: str
    phone_number: str
    device_name: str = "Reference phone"
    device_model: str = "Dialdesk clients"
    os_type: Literal["android", "ios"] = "android"
    os_version: str = "14"
    app_version: str = "1.0.0"
    device_token: str | None = None


class Binding(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """To whom the phone belongs, and by what it proves that."""

    websocket_url: str
    user_id: str
    auth_token: str
    handset: Handset


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Something the phone said of a call. Its id and content stay the same however often it is sent."""

    message_id: str
    call_id: str
    type: str
    data: msgspec.Raw
    timestamp: int

    @property
    def frame(self) -> bytes:
        """The frame to send."""
        return encode_raw(self.type, bytes(self.data), self.message_id, timestamp=self.timestamp)


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """A recording that is to be brought. `size` is that of its file at `path` when the call ended; `upload_id` names an
    upload in parts that was begun; `times` tells how often it was brought."""

    call_id: str
    path: str
    size: int
    upload_id: str | None = None
    times: int = 0


# --- entries --------------------------------------------------------------------------------------------------------


class _Entry(msgspec.Struct, frozen=True, tag_field="entry"):
    pass


class Bound(_Entry, frozen=True, tag="bound"):
    """The phone was bound."""

    binding: Binding


class Unbound(_Entry, frozen=True, tag="unbound"):
    """The binding is void, and all that was done under it past."""


class Connecting(_Entry, frozen=True, tag="connecting"):
    """The phone is about to say DEVICE_ONLINE with this count."""

    count: int


class Received(_Entry, frozen=True, tag="received"):
    """A command came: `dial`, or without one a cancellation."""

    message_id: str
    call_id: str
    dial: DialCommand | None


class Started(_Entry, frozen=True, tag="started"):
    """The dialler is about to be called."""

    call_id: str


class Reported(_Entry, frozen=True, tag="reported"):
    """A report is about to be sent."""

    report: Report


class Settled(_Entry, frozen=True, tag="settled"):
    """A report was acked, or refused for good: it is not sent again."""

    message_id: str


class Recorded(_Entry, frozen=True, tag="recorded"):
    """A call was recorded, or the bringing of its recording has come this far."""

    recording: Recording


class Brought(_Entry, frozen=True, tag="brought"):
    """The server has the recording of a call, or will never take it. A file of the phone's own goes with this."""

    call_id: str


Entry = Bound | Unbound | Connecting | Received | Started | Reported | Settled | Recorded | Brought


# --- what they come to ----------------------------------------------------------------------------------------------


class CallMemory(msgspec.Struct):
    """What is known of one call. `last` is the report that answers a repeated command: the end, once there is one.
    `recording` stays known when it has been brought."""

    received: list[Received]
    started: bool = False
    last: Report | None = None
    recording: Recording | None = None

    @property
    def dial(self) -> DialCommand | None:
        """The command to dial, if it came."""
        return next((command.dial for command in self.received if command.dial is not None), None)

    @property
    def cancelled(self) -> bool:
        """Whether a cancellation came, before the command to dial or after it."""
        return any(command.dial is None for command in self.received)

    @property
    def ended(self) -> bool:
        """Whether its end was reported: it is not to be dialled."""
        return self.last is not None and self.last.type == CallEnd.type


class Memory:
    """The journal at `path`, or nowhere. `fsync` off trades the last entries before a power cut for speed."""

    def __init__(self, path: Path | None = None, *, fsync: bool = True) -> None:
        self.path = path
        self.binding: Binding | None = None
        self.connection = 0
        self.calls: dict[str, CallMemory] = {}
        self.unacked: dict[str, Report] = {}
        """Reports not yet acked, by message id, in the order in which they were made. They come of commands, and those
        only over a live socket, so that no bound is needed."""
        self.recordings: dict[str, Recording] = {}
        """Recordings that the server may not have yet, by call id, in the order in which they were made."""
        self._fsync = fsync
        self._commands: dict[str, str] = {}
        self._file: int | None = None
        self._lines = self._longest = 0
        self._audio = None if path is None else path.absolute().with_name(path.name + ".recordings")
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        if path is not None:
            for line in _whole_lines(path):
                self._apply(_decoder.decode(line))
            self._rewrite(path)
            self._drop_strays()

    def reopened(self) -> Self:
        """Return what a process that starts again finds: read anew from the file, or the same where there is none."""
        if self.path is None:
            return self
        self.close()
        return type(self)(self.path, fsync=self._fsync)

    def knows(self, message_id: str) -> bool:
        """Whether this command has been written down before."""
        return message_id in self._commands

    def note(self, entry: Entry) -> None:
        """Write an entry down; when this returns the phone may act on it."""
        if self._file is not None:
            self._write(self._file, _encoder.encode(entry) + b"\n")
            self._lines += 1
        self._apply(entry)
        if self.path is not None and (self._lines > self._longest or isinstance(entry, Unbound)):
            self._rewrite(self.path)

    def keep_audio(self, call_id: str, audio: bytes) -> Path:
        """Write what the recorder made where only the phone keeps such files, and return where; Brought removes it."""
        if self._audio is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="dialdesk-phone-")
            self._audio = Path(self._scratch.name)
        self._audio.mkdir(mode=0o700, exist_ok=True)
        path = self._audio / hashlib.sha256(call_id.encode()).hexdigest()[:32]  # ids come from elsewhere
        file = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        try:
            self._write(file, audio)
        finally:
            os.close(file)
        self._sync(self._audio)
        return path

    def close(self) -> None:
        """Let go of the file, and of audio that without one nobody could find again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = self._audio = None

    def _apply(self, entry: Entry) -> None:
        match entry:
            case Bound(binding):
                self.binding = binding
            case Unbound():
                self.binding = None  # but not the count of connections: a device bound again goes on counting
                self.calls.clear()
                self.unacked.clear()
                self._commands.clear()
                for call_id in list(self.recordings):
                    self._drop(call_id)
            case Connecting(count):
                self.connection = count
            case Received(message_id, call_id):
                self._commands[message_id] = call_id
                self._call(call_id).received.append(entry)
            case Started(call_id):
                self._call(call_id).started = True
            case Reported(report):
                call = self._call(report.call_id)
                if report.type == CallEnd.type or (report.type == CallStatus.type and not call.ended):
                    call.last = report
                self.unacked[report.message_id] = report
            case Settled(message_id):
                self.unacked.pop(message_id, None)
            case Recorded(recording):
                self._call(recording.call_id).recording = recording
                self.recordings[recording.call_id] = recording
            case Brought(call_id):
                self._drop(call_id)
            case _:
                assert_never(entry)

    def _call(self, call_id: str) -> CallMemory:
        if call_id not in self.calls:
            if len(self.calls) >= KEEP_CALLS:
                self._forget_one()
            self.calls[call_id] = CallMemory([])
        return self.calls[call_id]

    def _drop(self, call_id: str) -> None:
        """A recording is not to be brought any more. Its own file goes, at the latest when the journal is replayed."""
        recording = self.recordings.pop(call_id, None)
        if recording is not None and (path := Path(recording.path)).parent == self._audio:
            path.unlink(missing_ok=True)

    def _drop_strays(self) -> None:
        """Remove audio that a crash left behind before it was noted: its call is reported without a recording."""
        assert self._audio is not None
        known = {recording.path for recording in self.recordings.values()}
        for stray in self._audio.glob("*"):
            if str(stray) not in known:
                stray.unlink()

    def _forget_one(self) -> None:
        waiting = {report.call_id for report in self.unacked.values()} | self.recordings.keys()
        past = next((call_id for call_id, call in self.calls.items() if call.ended and call_id not in waiting), None)
        if past is not None:
            for command in self.calls.pop(past).received:
                del self._commands[command.message_id]

    def _entries(self) -> Iterator[Entry]:
        """The shortest journal that says what is known."""
        if self.binding is not None:
            yield Bound(self.binding)
        yield Connecting(self.connection)
        for call_id, call in self.calls.items():
            yield from call.received
            if call.started:
                yield Started(call_id)
            if call.last is not None and call.last.message_id not in self.unacked:
                yield Reported(call.last)
                yield Settled(call.last.message_id)
            if call.recording is not None:
                yield Recorded(call.recording)
                if call_id not in self.recordings:
                    yield Brought(call_id)
        for report in self.unacked.values():
            yield Reported(report)

    def _rewrite(self, path: Path) -> None:
        """Replace the file by a shorter one that says the same; a crash leaves the one or the other, whole."""
        self.close()
        lines = [_encoder.encode(entry) for entry in self._entries()]
        fresh = path.with_name(path.name + ".new")
        fresh.unlink(missing_ok=True)
        self._file = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)  # it holds a token
        self._write(self._file, b"".join(line + b"\n" for line in lines))
        fresh.replace(path)
        self._sync(path.parent)  # or a power cut could bring the old file back, without what is written from now on
        self._lines = len(lines)
        self._longest = max(COMPACT_AFTER, 2 * len(lines))

    def _write(self, file: int, data: bytes) -> None:
        written = 0
        while written < len(data):
            written += os.write(file, data[written:])
        if self._fsync:
            os.fsync(file)

    def _sync(self, folder: Path) -> None:
        if self._fsync:
            file = os.open(folder, os.O_RDONLY)
            os.fsync(file)
            os.close(file)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Entry)


def _whole_lines(path: Path) -> list[bytes]:
    """The lines of a journal; what a crash left of an unfinished last one was never acted on and is passed over."""
    if not path.exists():
        return []
    return path.read_bytes().split(b"\n")[:-1]
