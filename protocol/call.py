"""The life of one call as a table, and the weighing of evidence about how it ended.

Everything that decides the state of a call lives in this file; it does not know who reports, nor where state is kept.

    pending -> calling -> ringing -> connected -> ended

Any later status may follow any earlier one, for a handset may see neither ringing nor answer; `ended` is final. A
missing key in TRANSITIONS is an illegal event, and an illegal event changes nothing. Beside the status stands the
outcome, told with evidence of a rank: stronger evidence replaces it, equal or weaker evidence fills blanks only.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal, assert_never

import msgspec


class Status(StrEnum):
    """Where a call stands (seed 003 §8.3)."""

    PENDING = "pending"
    CALLING = "calling"
    RINGING = "ringing"
    CONNECTED = "connected"
    ENDED = "ended"


class Outcome(StrEnum):
    """How a call ended."""

    CONNECTED = "connected"
    MISSED = "missed"
    BUSY = "busy"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


class Evidence(StrEnum):
    """On what grounds something is said; RANK orders the grounds."""

    SERVER = "server"
    ASSUMED = "assumed"
    IN_CALL_SERVICE = "in_call_service"
    CX_CALL = "cx_call"
    CALL_LOG = "call_log"
    PROVIDER_RECORD = "provider_record"


class HangupCause(StrEnum):
    """Why a call ended: seed 003 §8.2, completed. The raw cause is kept beside it."""

    NORMAL_CLEARING = "NORMAL_CLEARING"
    USER_BUSY = "USER_BUSY"
    NO_ANSWER = "NO_ANSWER"
    CALL_REJECTED = "CALL_REJECTED"
    INVALID_NUMBER = "INVALID_NUMBER"
    UNALLOCATED_NUMBER = "UNALLOCATED_NUMBER"
    NETWORK_ERROR = "NETWORK_ERROR"
    TIMEOUT = "TIMEOUT"
    DEVICE_OFFLINE = "DEVICE_OFFLINE"
    DEVICE_BUSY = "DEVICE_BUSY"
    EXPIRED = "EXPIRED"
    CANCELLED = "CANCELLED"
    LOST = "LOST"
    RESTRICTED = "RESTRICTED"
    POWER_OFF = "POWER_OFF"
    SUSPENDED = "SUSPENDED"
    NO_PERMISSION = "NO_PERMISSION"
    NO_SIM = "NO_SIM"
    UNKNOWN = "UNKNOWN"


ClosedBy = Literal["phone", "provider", "reaper", "server"]

RANK: dict[Evidence, int] = {
    Evidence.SERVER: 0,
    Evidence.ASSUMED: 1,
    Evidence.IN_CALL_SERVICE: 2,
    Evidence.CX_CALL: 2,
    Evidence.CALL_LOG: 3,
    Evidence.PROVIDER_RECORD: 3,
}

TRANSITIONS: dict[Status, dict[Status, Status]] = {
    Status.PENDING: {
        Status.CALLING: Status.CALLING,
        Status.RINGING: Status.RINGING,
        Status.CONNECTED: Status.CONNECTED,
        Status.ENDED: Status.ENDED,
    },
    Status.CALLING: {
        Status.RINGING: Status.RINGING,
        Status.CONNECTED: Status.CONNECTED,
        Status.ENDED: Status.ENDED,
    },
    Status.RINGING: {
        Status.CONNECTED: Status.CONNECTED,
        Status.ENDED: Status.ENDED,
    },
    Status.CONNECTED: {
        Status.ENDED: Status.ENDED,
    },
    Status.ENDED: {},
}

LONGEST_CALL = timedelta(hours=24)

_USUAL_CAUSE: dict[Outcome, HangupCause] = {
    Outcome.CONNECTED: HangupCause.NORMAL_CLEARING,
    Outcome.MISSED: HangupCause.NO_ANSWER,
    Outcome.BUSY: HangupCause.USER_BUSY,
    Outcome.REJECTED: HangupCause.CALL_REJECTED,
    Outcome.FAILED: HangupCause.UNKNOWN,
    Outcome.CANCELLED: HangupCause.CANCELLED,
    Outcome.UNKNOWN: HangupCause.UNKNOWN,
}


class Progress(msgspec.Struct, frozen=True):
    """Somebody says the call has reached `status` (never `ended`) at `at`."""

    status: Status
    at: datetime
    evidence: Evidence = Evidence.ASSUMED


class End(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody says the call is over. `duration` is talk time in seconds; None where the speaker cannot know it."""

    outcome: Outcome
    at: datetime
    by: ClosedBy
    evidence: Evidence = Evidence.ASSUMED
    started_at: datetime | None = None
    duration: int | None = None
    cause: HangupCause | None = None
    raw_cause: str | None = None
    has_recording: bool | None = None
    recording_size: int | None = None


class CallState(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a call that reports can change. Times are the server's; durations are seconds."""

    created_at: datetime
    status: Status = Status.PENDING
    dialing_at: datetime | None = None
    ringing_at: datetime | None = None
    connected_at: datetime | None = None
    connected_evidence: Evidence | None = None
    ended_at: datetime | None = None
    outcome: Outcome | None = None
    closed_by: ClosedBy | None = None
    evidence: Evidence | None = None
    hangup_cause: HangupCause | None = None
    raw_cause: str | None = None
    duration: int | None = None
    has_recording: bool | None = None
    recording_size: int | None = None


class Moved(msgspec.Struct, frozen=True):
    """The event changed the call. `enriched` marks a correction of a call that had ended before."""

    state: CallState
    enriched: bool = False


class AlreadyThere(msgspec.Struct, frozen=True):
    """The event says what is known; nothing changes."""


class Illegal(msgspec.Struct, frozen=True):
    """The event would move the call backwards; it is recorded as said and changes nothing."""


def advance(state: CallState, event: Progress | End, now: datetime) -> Moved | AlreadyThere | Illegal:
    """Return what `event` makes of `state`. `now` is the time of judging: nothing is believed to lie after it."""
    match event:
        case Progress():
            if event.status is state.status:
                return AlreadyThere()
            if event.status not in TRANSITIONS[state.status]:
                return Illegal()
            return Moved(_progressed(state, event, now))
        case End():
            if state.status is Status.ENDED:
                corrected = _corrected(state, event, now)
                return AlreadyThere() if corrected == state else Moved(corrected, enriched=True)
            return Moved(_ended(state, event, now))
        case _:
            assert_never(event)


def _progressed(state: CallState, event: Progress, now: datetime) -> CallState:
    at = _between(state.created_at, event.at, now)
    moved = msgspec.structs.replace(state, status=event.status)
    if moved.dialing_at is None:
        moved = msgspec.structs.replace(moved, dialing_at=at)
    match event.status:
        case Status.RINGING:
            return msgspec.structs.replace(moved, ringing_at=at)
        case Status.CONNECTED:
            return msgspec.structs.replace(moved, connected_at=at, connected_evidence=event.evidence)
        case _:
            return moved


def _ended(state: CallState, event: End, now: datetime) -> CallState:
    if _denies_answer(state, event):
        state = msgspec.structs.replace(state, connected_at=None, connected_evidence=None)
    ended_at = _between(state.connected_at or state.ringing_at or state.dialing_at or state.created_at, event.at, now)
    told = msgspec.structs.replace(
        state,
        status=Status.ENDED,
        ended_at=ended_at,
        outcome=event.outcome,
        closed_by=event.by,
        evidence=event.evidence,
        hangup_cause=event.cause or _USUAL_CAUSE[event.outcome],
        raw_cause=event.raw_cause,
        has_recording=event.has_recording,
        recording_size=event.recording_size,
    )
    return _with_talk(told, event, now)


def _corrected(state: CallState, event: End, now: datetime) -> CallState:
    """The call has ended; a second account of its end replaces the first if it is stronger, else fills blanks."""
    known = state.evidence or Evidence.SERVER
    if _weight(event.outcome, event.evidence) > _weight(state.outcome, known):
        again = _ended(state, event, now)
        silent_on_cause = event.cause is None and event.outcome is state.outcome
        return msgspec.structs.replace(
            again,
            hangup_cause=state.hangup_cause if silent_on_cause else again.hangup_cause,
            raw_cause=again.raw_cause if again.raw_cause is not None else state.raw_cause,
            has_recording=again.has_recording if again.has_recording is not None else state.has_recording,
            recording_size=again.recording_size if again.recording_size is not None else state.recording_size,
        )
    filled = msgspec.structs.replace(
        state,
        raw_cause=state.raw_cause if state.raw_cause is not None else event.raw_cause,
        has_recording=state.has_recording if state.has_recording is not None else event.has_recording,
        recording_size=state.recording_size if state.recording_size is not None else event.recording_size,
    )
    if state.duration is None and event.outcome is state.outcome:
        filled = _with_talk(filled, event, now)
    return filled


def _denies_answer(state: CallState, event: End) -> bool:
    """Whether an account of the end outweighs what was said of an answer, and knows of none."""
    heard = state.connected_evidence
    nobody_answered = event.outcome not in {Outcome.CONNECTED, Outcome.UNKNOWN}
    return nobody_answered and heard is not None and RANK[event.evidence] > RANK[heard]


def _weight(outcome: Outcome | None, evidence: Evidence) -> tuple[bool, int]:
    """What an account of an end counts for: `unknown` is a blank, which any knowledge fills and none gives way to."""
    return outcome is not Outcome.UNKNOWN, RANK[evidence]


def _with_talk(state: CallState, event: End, now: datetime) -> CallState:
    """Settle answer time and talk seconds of an ended call; what is not claimed by anybody stays None or 0."""
    assert state.ended_at is not None
    if state.outcome is not Outcome.CONNECTED:
        return msgspec.structs.replace(state, duration=None if state.outcome is Outcome.UNKNOWN else 0)
    duration = event.duration
    if duration is not None:
        duration = min(max(duration, 0), int(LONGEST_CALL.total_seconds()))
    connected_at = state.connected_at
    if connected_at is None and event.started_at is not None:
        connected_at = _between(state.created_at, event.started_at, state.ended_at)
    if connected_at is None and duration is not None:
        connected_at = _between(state.created_at, state.ended_at - timedelta(seconds=duration), now)
    if duration is None and connected_at is not None:
        duration = max(0, int((state.ended_at - connected_at).total_seconds()))
    return msgspec.structs.replace(
        state,
        connected_at=connected_at,
        connected_evidence=state.connected_evidence or (event.evidence if connected_at is not None else None),
        duration=duration,
    )


def _between(earliest: datetime, claimed: datetime, latest: datetime) -> datetime:
    """A phone's clock may say anything; what it claims counts only inside what is possible."""
    return max(earliest, min(claimed, latest))
