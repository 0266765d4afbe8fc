"""How Tianrun tells of a call, in a call record or in a push, and what that means; the same on both platforms.

Pushes (推送) are forms or JSON whose fields each customer names in the console; `PushFields` has the names that the
vendor proposes, and is a setting. Nothing in them is signed. Of a call to a customer only the bridge time proves an
answer: all other times and words may be the agent's own leg.
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import parse_qsl

import msgspec

from protocol.call import End, Evidence, HangupCause, Outcome, Progress, Status
from server.providers.provider import Heard, Recording, Reply, Told, Webhook, WebhookRefused

WEBHOOK_BOUND = 64 * 1024
"""Bytes of a push, which tells of one call."""

MOST_FIELDS = 200
"""Fields of a push; the console offers some thirty."""

LONGEST = 2048
"""Characters of a field that are kept; a signed URL has some hundreds."""

REPLY = Reply(b'{"result":"success"}', "application/json")

Ending = tuple[Outcome, HangupCause]

NOBODY_TRIED: Ending = (Outcome.CANCELLED, HangupCause.CANCELLED)
RANG_OUT: Ending = (Outcome.MISSED, HangupCause.NO_ANSWER)

STATUSES: Mapping[str, Ending] = {
    "30": NOBODY_TRIED,  # the agent did not answer
    "31": NOBODY_TRIED,  # the agent answered, the customer was not called
    "32": RANG_OUT,  # the agent answered, the customer did not
    "33": (Outcome.UNKNOWN, HangupCause.UNKNOWN),  # "both answered", and yet no bridge time
}
"""The result (`statusCode`, `cdr_status`) of a call that an agent placed, where there is no bridge time."""

SIP_CAUSES: Mapping[str, Ending] = {
    "403": (Outcome.FAILED, HangupCause.RESTRICTED),
    "404": (Outcome.FAILED, HangupCause.UNALLOCATED_NUMBER),
    "408": RANG_OUT,
    "410": (Outcome.FAILED, HangupCause.UNALLOCATED_NUMBER),
    "480": RANG_OUT,
    "484": (Outcome.FAILED, HangupCause.INVALID_NUMBER),
    "486": (Outcome.BUSY, HangupCause.USER_BUSY),
    "487": RANG_OUT,
    "500": (Outcome.FAILED, HangupCause.NETWORK_ERROR),
    "502": (Outcome.FAILED, HangupCause.NETWORK_ERROR),
    "503": (Outcome.FAILED, HangupCause.NETWORK_ERROR),
    "504": (Outcome.FAILED, HangupCause.NETWORK_ERROR),
    "600": (Outcome.BUSY, HangupCause.USER_BUSY),
    "603": (Outcome.REJECTED, HangupCause.CALL_REJECTED),
    "604": (Outcome.FAILED, HangupCause.UNALLOCATED_NUMBER),
}
"""The customer's SIP answer (`sipCause`), which tells more than that nobody answered (RFC 3261 §21)."""

CUSTOMER_WAS_CALLED = {"21", "22", "32"}
"""Results after which the SIP answer is the customer's."""

Names = Annotated[
    tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=100)], ...], msgspec.Meta(min_length=1, max_length=10)
]


class PushFields(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Under which names the customer's pushes say what is read of them; the first that is there counts.

    The defaults are the names that the vendor's console proposes for pushes at hang-up (`cdr_…`) and before.
    """

    call: Names = ("cdr_main_unique_id", "mainUniqueId", "cdr_unique_id")
    tag: Names = ("cdr_request_unique_id", "requestUniqueId")
    enterprise: Names = ("cdr_enterprise_id", "enterpriseId")
    event: Names = ("event",)
    rang_at: Names = ("ringingTime",)
    bridged_at: Names = ("cdr_bridge_time", "bridgeTime")
    ended_at: Names = ("cdr_end_time", "endTime")
    status: Names = ("cdr_status", "statusCode")
    sip_cause: Names = ("sipCause", "cdr_sip_cause")
    end_reason: Names = ("endReason", "cdr_end_reason")
    recording: Names = ("cdr_record_file_1", "cdr_record_file", "recordFile")


class CallRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one call: words as the vendor wrote them, times in UTC, None where there is none."""

    call_id: str | None
    tag: str | None
    bridged_at: datetime | None
    ended_at: datetime | None
    status: str = ""
    sip_cause: str = ""
    end_reason: str = ""
    recording: str | None = None


def told_by_record(record: CallRecord, statuses: Mapping[str, Ending], raw: bytes) -> list[Told]:
    """Return what a record says: the call's end, and its recording. A record without an end says no more than that the
    order was taken."""
    said = [
        f"{name} {word}"
        for name, word in (("status", record.status), ("sip", record.sip_cause), ("end", record.end_reason))
        if word
    ]
    event: End | Progress = Progress(Status.CALLING, datetime.now(UTC), Evidence.IN_CALL_SERVICE)
    if record.ended_at is not None:
        outcome, cause = _ending(record, statuses)
        event = End(
            outcome=outcome,
            at=record.ended_at,
            by="provider",
            evidence=Evidence.PROVIDER_RECORD,
            started_at=record.bridged_at,
            duration=_seconds_between(record.bridged_at, record.ended_at),
            cause=cause,
            raw_cause=", ".join(said) or None,
            has_recording=True if record.bridged_at is not None and record.recording else None,
        )
    told = [tell(record.call_id, record.tag, event, raw, str(record.bridged_at), str(record.ended_at))]
    if record.recording:
        told.append(_told_recording(record.call_id, record.tag, record.recording, raw))
    return told


def read_push(
    webhook: Webhook, fields: PushFields, statuses: Mapping[str, Ending], enterprise_id: str | None
) -> list[Told]:
    """Read a push of any kind: what it says tells which it is. Raises WebhookRefused."""
    said = _fields(webhook)
    call_id, tag = _said(said, fields.call) or None, _said(said, fields.tag) or None
    if call_id is None and tag is None:
        raise WebhookRefused("the push names no call")
    if enterprise_id is not None and _said(said, fields.enterprise) != enterprise_id:
        raise WebhookRefused("the push is not of this enterprise")
    raw = msgspec.json.encode({name: _without_query(text) for name, text in said.items()})
    rang_at, bridged_at = instant(_said(said, fields.rang_at)), instant(_said(said, fields.bridged_at))
    record = CallRecord(
        call_id=call_id,
        tag=tag,
        bridged_at=bridged_at,
        ended_at=instant(_said(said, fields.ended_at)),
        status=_said(said, fields.status),
        sip_cause=_said(said, fields.sip_cause),
        end_reason=_said(said, fields.end_reason),
        recording=_said(said, fields.recording, LONGEST) or None,
    )
    if record.ended_at is not None:
        return told_by_record(record, statuses, raw)
    if bridged_at is not None:
        return [tell(call_id, tag, Progress(Status.CONNECTED, bridged_at, Evidence.IN_CALL_SERVICE), raw)]
    if record.recording is not None:
        return [_told_recording(call_id, tag, record.recording, raw)]
    if rang_at is not None:  # the agent's telephone
        return [tell(call_id, tag, Progress(Status.CALLING, rang_at, Evidence.IN_CALL_SERVICE), raw)]
    return [tell(call_id, tag, Heard(_said(said, fields.event)[:40] or "push"), raw, key_of(webhook))]


def tell(
    call_id: str | None, tag: str | None, event: Progress | End | Recording | Heard, raw: bytes, *facts: str
) -> Told:
    """Return one thing told; it is a repeat of another with the same call, kind of event and facts."""
    kind = event.status if isinstance(event, Progress | Heard) else type(event).__name__
    return Told(
        provider_call_id=call_id, tag=tag, event=event, once=_digest(call_id or tag or "", kind, *facts), raw=raw
    )


def key_of(webhook: Webhook) -> str:
    """Return the digest of all that was said: the vendor gives its pushes no ids."""
    return hashlib.sha256(msgspec.json.encode(sorted(webhook.query.items())) + webhook.body).hexdigest()


def instant(told: object) -> datetime | None:
    """Read seconds, or milliseconds, since 1970; None where it says 0, nothing, or what is no time."""
    text = word(told)
    if not (text.isascii() and text.isdigit() and len(text) <= 13) or int(text) == 0:
        return None
    seconds = int(text) / 1000 if len(text) == 13 else int(text)
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):
        return None


def word(told: object, bound: int = 256) -> str:
    """Return a scalar as printable text, or nothing: what is too long, or has control characters, nobody meant."""
    text = str(told).strip() if isinstance(told, str | int | float) else ""
    return text if len(text) <= bound and text.isprintable() else ""


def _ending(record: CallRecord, statuses: Mapping[str, Ending]) -> Ending:
    if record.bridged_at is not None:
        return Outcome.CONNECTED, HangupCause.NORMAL_CLEARING
    ending = statuses.get(record.status, (Outcome.FAILED, HangupCause.UNKNOWN))
    if record.status in CUSTOMER_WAS_CALLED or record.status not in statuses:
        return SIP_CAUSES.get(record.sip_cause, ending)
    return ending


def _fields(webhook: Webhook) -> dict[str, str]:
    """Read a form or a JSON object; a push by GET says everything in the query."""
    if len(webhook.body) > WEBHOOK_BOUND:
        raise WebhookRefused("the push is too large")
    try:
        body = webhook.body.decode()
        if not body.strip():
            said: Mapping[str, object] = webhook.query
        elif body.lstrip().startswith("{"):
            said = msgspec.json.decode(body, type=dict[str, object])
        else:
            said = dict(parse_qsl(body, keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS))
        fields = {name: word(value, LONGEST) for name, value in said.items()}
        msgspec.json.encode(fields)
    except (ValueError, RecursionError):  # of which msgspec's errors are one kind, and bad UTF-8 is another
        raise WebhookRefused("the push is neither a form nor a JSON object") from None
    if len(fields) > MOST_FIELDS:
        raise WebhookRefused("the push has too many fields")
    return fields


def _said(fields: Mapping[str, str], names: Names, bound: int = 256) -> str:
    return next((text for name in names if (text := word(fields.get(name), bound))), "")


def _told_recording(call_id: str | None, tag: str | None, recording: str, raw: bytes) -> Told:
    """Tell of a recording: by its file name, or where a customer has the platform push one, by a URL."""
    is_url = recording.startswith(("http://", "https://"))
    event = Recording(recording, None) if is_url else Recording(None, recording)
    return tell(call_id, tag, event, raw, _without_query(recording))


def _without_query(text: str) -> str:
    """URLs may be signed, and are credentials then."""
    return text.partition("?")[0] if "://" in text else text


def _seconds_between(start: datetime | None, end: datetime) -> int | None:
    return None if start is None else max(0, int((end - start).total_seconds()))


def _digest(*facts: str) -> str:
    return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()
