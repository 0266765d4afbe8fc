"""A phone's journal: what is noted is there after a restart, whatever a crash left behind."""

import stat
from pathlib import Path

import msgspec
import pytest

from clients.memory import (
    COMPACT_AFTER,
    KEEP_CALLS,
    Binding,
    Bound,
    Brought,
    Connecting,
    Entry,
    Handset,
    Memory,
    Received,
    Recorded,
    Recording,
    Report,
    Reported,
    Settled,
    Started,
    Unbound,
)
from protocol.call import Outcome
from protocol.messages import CallEnd, CallStatus, encode_data, from_phone
from tests.clients.fake_server import dial

BINDING = Binding(
    websocket_url="wss://desk.example/ws",
    user_id="user_1",
    auth_token="token-1",
    handset=Handset(device_id="dev-1", phone_number="13800000001"),
)


def report(message_id: str, call_id: str = "call_1", *, ended: bool = True) -> Report:
    """A report as the phone makes it."""
    message = (
        CallEnd(call_id=call_id, status=Outcome.MISSED) if ended else CallStatus(call_id=call_id, status="calling")
    )
    return Report(
        message_id=message_id,
        call_id=call_id,
        type=message.type,
        data=msgspec.Raw(encode_data(message)),
        timestamp=1_700_000_000_000,
    )


def recording(call_id: str, upload_id: str | None = None) -> Recording:
    """A recording in a file that is not the phone's own."""
    return Recording(call_id=call_id, path=f"/nowhere/{call_id}.wav", size=44, upload_id=upload_id)


STORY: list[Entry] = [
    Bound(BINDING),
    Connecting(1),
    Received("m1", "call_1", dial("call_1")),
    Started("call_1"),
    Reported(report("r1", ended=False)),
    Reported(report("r2")),
    Recorded(recording("call_1")),
    Settled("r2"),
    Recorded(recording("call_1", "upl_1")),
    Brought("call_1"),
    Received("m2", "call_2", None),
    Received("m3", "call_3", dial("call_3")),
    Reported(report("r3", "call_3", ended=False)),
    Settled("r3"),
    Recorded(recording("call_3", "upl_3")),
    Connecting(2),
]


def written(path: Path, entries: list[Entry]) -> Memory:
    """A memory after these entries."""
    memory = Memory(path, fsync=False)
    for entry in entries:
        memory.note(entry)
    return memory


def known(memory: Memory) -> object:
    """All that a memory tells."""
    calls = {
        call_id: (call.dial, call.cancelled, call.started, call.ended, call.recording, call.last and call.last.frame)
        for call_id, call in memory.calls.items()
    }
    unacked = [report.frame for report in memory.unacked.values()]
    return memory.binding, memory.connection, calls, unacked, memory.recordings


@pytest.mark.parametrize("length", range(len(STORY) + 1))
def test_a_restart_forgets_nothing(tmp_path: Path, length: int) -> None:
    """After any number of entries, and any number of restarts, what is known is the same."""
    before = written(tmp_path / "phone", STORY[:length])
    once = before.reopened()
    expected = known(before)

    assert expected == known(once)
    assert expected == known(once.reopened())


def test_says_what_was_noted(tmp_path: Path) -> None:
    """Commands, starts, ends and unacked reports can be read back."""
    memory = written(tmp_path / "phone", STORY).reopened()
    envelope = from_phone.decode(memory.unacked["r1"].frame)

    assert BINDING == memory.binding
    assert (2, ["r1"]) == (memory.connection, list(memory.unacked))
    assert [True, True, True, False] == [memory.knows(message_id) for message_id in ("m1", "m2", "m3", "m4")]
    assert (dial("call_1"), True, True) == (
        memory.calls["call_1"].dial,
        memory.calls["call_1"].started,
        memory.calls["call_1"].ended,
    )
    assert (None, True) == (memory.calls["call_2"].dial, memory.calls["call_2"].cancelled)
    assert (CallStatus(call_id="call_1", status="calling"), "r1") == (envelope.message, envelope.message_id)


def test_says_which_recordings_wait(tmp_path: Path) -> None:
    """What is to be brought can be read back with how far it has come; what was brought is known as such."""
    memory = written(tmp_path / "phone", STORY).reopened()

    assert {"call_3": recording("call_3", "upl_3")} == memory.recordings
    assert recording("call_1", "upl_1") == memory.calls["call_1"].recording


def test_audio_lives_as_long_as_its_duty(tmp_path: Path) -> None:
    """Audio of the phone's own survives a restart, only its owner reads it, and it goes with its duty."""
    memory = written(tmp_path / "phone", STORY)
    path = memory.keep_audio("../call/4", b"audio")
    memory.note(Recorded(Recording(call_id="../call/4", path=str(path), size=5)))
    memory = memory.reopened()
    kept = path.read_bytes(), stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)
    memory.note(Brought("../call/4"))

    assert (b"audio", 0o600, 0o700) == kept
    assert (tmp_path, False) == (path.parent.parent, path.exists())


def test_audio_that_was_never_noted_goes(tmp_path: Path) -> None:
    """Audio that a crash left before it was written down does not lie there for ever."""
    memory = written(tmp_path / "phone", STORY)
    path = memory.keep_audio("call_4", b"audio")
    memory.reopened()

    assert not path.exists()


def test_audio_without_a_memory_goes_with_the_process() -> None:
    """Where nothing is kept, audio is kept until the phone is put away."""
    memory = Memory()
    path = memory.keep_audio("call_1", b"audio")
    kept = path.read_bytes()
    memory.close()

    assert (b"audio", False) == (kept, path.parent.exists())


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_unfinished_line_was_never_acted_on(tmp_path: Path, cut: int) -> None:
    """What a crash left of a last line is passed over, and does not spoil what is noted later."""
    path = tmp_path / "phone"
    written(path, [*STORY, Received("m9", "call_9", dial("call_9"))]).close()
    path.write_bytes(path.read_bytes()[:-cut])
    memory = Memory(path)
    torn = memory.knows("m9")
    memory.note(Received("m10", "call_10", None))

    assert not torn
    assert memory.reopened().knows("m10")


def test_only_its_owner_reads_it(tmp_path: Path) -> None:
    """The journal holds a token, and others on the machine cannot read it."""
    written(tmp_path / "phone", STORY)

    assert 0o600 == stat.S_IMODE((tmp_path / "phone").stat().st_mode)


def test_unbinding_leaves_only_the_count(tmp_path: Path) -> None:
    """When the binding ends all is forgotten, also in the file, but the count of connections goes on."""
    memory = written(tmp_path / "phone", [*STORY, Unbound()]).reopened()

    assert (None, 2, {}, {}) == (memory.binding, memory.connection, memory.calls, memory.unacked)
    assert "token-1" not in (tmp_path / "phone").read_text()


def test_old_calls_are_forgotten(tmp_path: Path) -> None:
    """Of calls that are over and acked only so many are kept; one of which a report or recording waits stays."""
    memory = written(tmp_path / "phone", [Received("old", "call_old", None), Reported(report("r-old", "call_old"))])
    memory.note(Received("heard", "call_heard", None))
    memory.note(Recorded(recording("call_heard")))
    for number in range(KEEP_CALLS + 10):
        memory.note(Received(f"m{number}", f"call_{number}", None))
        memory.note(Reported(report(f"r{number}", f"call_{number}")))
        memory.note(Settled(f"r{number}"))

    assert KEEP_CALLS == len(memory.calls)
    assert (True, True, False) == (memory.knows("old"), memory.knows("heard"), memory.knows("m0"))
    assert known(memory) == known(memory.reopened())


def test_journal_does_not_grow_for_ever(tmp_path: Path) -> None:
    """A long journal is replaced by a shorter one that says the same."""
    path = tmp_path / "phone"
    journal = written(path, STORY)
    for count in range(3, COMPACT_AFTER + 3):
        journal.note(Connecting(count))

    assert COMPACT_AFTER > len(path.read_bytes().splitlines())
    assert known(journal) == known(journal.reopened())


def test_without_a_path_nothing_is_kept() -> None:
    """A memory without a file works the same for as long as the process lives."""
    memory = Memory()
    for entry in STORY:
        memory.note(entry)

    assert memory.reopened() is memory
