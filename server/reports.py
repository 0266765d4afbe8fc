"""What phones say of calls, over HTTP or the socket, read as events: claims in a phone's words, by a phone's clock."""

from datetime import UTC, datetime
from typing import Annotated, Literal, assert_never

import msgspec

from protocol.call import End, Evidence, HangupCause, Outcome, Progress, Status
from protocol.messages import CallEnd, CallStatus, EvidenceWord, Id, OutcomeWord, PeerClock
from protocol.timestamps import from_epoch_ms
from server.http import Answer, AppBody


class AppStatus(AppBody, frozen=True, kw_only=True):
    """CALL_STATUS over HTTP (seed 003 §5.5); `messageId` is the one of the socket, so that either may repeat."""

    call_id: Id
    status: Literal["calling", "ringing", "connected", "ended"]
    timestamp: PeerClock | None = None
    evidence: EvidenceWord | None = None
    message_id: Id | None = None


class AppEnd(AppBody, frozen=True, kw_only=True):
    """CALL_END over HTTP (seed 003 §5.5)."""

    call_id: Id
    status: OutcomeWord
    start_time: datetime | None = None
    end_time: datetime | None = None
    duration: float | None = None
    hangup_cause: Annotated[str, msgspec.Meta(max_length=512)] | None = None
    evidence: EvidenceWord | None = None
    has_recording: bool | None = None
    recording_size: Annotated[int, msgspec.Meta(ge=0, le=2**53)] | None = None
    message_id: Id | None = None


StatusBatch = Annotated[list[AppStatus], msgspec.Meta(min_length=1, max_length=500)]
EndBatch = Annotated[list[AppEnd], msgspec.Meta(min_length=1, max_length=500)]


class ReportResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What became of one report: committed, or refused for good (`retry` false), or to be sent again."""

    call_id: str
    accepted: bool
    message_id: str | None = None
    code: str | None = None
    retry: bool | None = None


class ReportsAnswer(Answer, frozen=True, kw_only=True):
    """A result for each report, in their order."""

    results: list[ReportResult]


def said(report: AppStatus | AppEnd) -> CallStatus | CallEnd:
    """Read a report over HTTP as the message it stands for; the seed's status `ended` is an end without an outcome."""
    if isinstance(report, AppEnd):
        fields = msgspec.structs.asdict(report)
        del fields["message_id"]
        return CallEnd(**fields)
    if report.status == "ended":
        at = None if report.timestamp is None else from_epoch_ms(report.timestamp, datetime.now(UTC))
        return CallEnd(call_id=report.call_id, status=Outcome.UNKNOWN, end_time=at, evidence=report.evidence)
    return CallStatus(
        call_id=report.call_id, status=report.status, timestamp=report.timestamp, evidence=report.evidence
    )


def event_of(report: CallStatus | CallEnd, now: datetime) -> Progress | End:
    """Read a phone's words as an event; its clock is only ever a claim."""
    match report:
        case CallStatus():
            at = now if report.timestamp is None else from_epoch_ms(report.timestamp, now)
            return Progress(Status(report.status), at, _evidence_of(report.evidence))
        case CallEnd():
            cause, raw = _cause_of(report.hangup_cause)
            outcome = _outcome_of(report.status)
            if outcome is Outcome.UNKNOWN and report.status != Outcome.UNKNOWN:
                raw = report.status
            return End(
                outcome=outcome,
                at=_aware(report.end_time) or now,
                by="phone",
                evidence=_evidence_of(report.evidence),
                started_at=_aware(report.start_time),
                duration=None if report.duration is None else round(min(max(report.duration, -1.0), 1e9)),
                cause=cause,
                raw_cause=raw,
                has_recording=report.has_recording,
                recording_size=report.recording_size,
            )
        case _:
            assert_never(report)


_PHONES_EVIDENCE = {Evidence.ASSUMED, Evidence.IN_CALL_SERVICE, Evidence.CX_CALL, Evidence.CALL_LOG}


def _evidence_of(said: str | None) -> Evidence:
    """What a phone may claim as grounds; a word of a newer app, or one that is not a phone's, counts as assumed."""
    return next((known for known in _PHONES_EVIDENCE if known == said), Evidence.ASSUMED)


def _outcome_of(said: str) -> Outcome:
    """An outcome we know; the end in a word of a newer app is an end all the same."""
    return next((known for known in Outcome if known == said), Outcome.UNKNOWN)


def _cause_of(said: str | None) -> tuple[HangupCause | None, str | None]:
    """A cause we know, or UNKNOWN with the word as it was said."""
    if said is None:
        return None, None
    try:
        return HangupCause(said), None
    except ValueError:
        return HangupCause.UNKNOWN, said


def _aware(at: datetime | None) -> datetime | None:
    """A phone that tells no offset means UTC, as the seed's examples do."""
    return at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at
