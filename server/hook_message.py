"""What hooks are told: the body of a message, and how it is signed (Standard Webhooks 1.0.0; integrate-webhooks.md)."""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from protocol.phone_number import mask
from protocol.timestamps import Timestamp, rfc3339
from storage.hooks import Job
from storage.recordings import recording_url


class OfCall(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`data` of events of calls and recordings: the call as it was right after the change, as the API tells calls.

    Messages may overtake one another: of two about one call the one with the greater `version` is the later.
    """

    call_id: str
    version: int
    status: str
    outcome: str | None
    closed_by: str | None
    evidence: str | None
    connected_evidence: str | None
    hangup_cause: str | None
    raw_cause: str | None
    call_method: str
    user_id: str
    team_id: str | None
    created_by: str
    device_id: str | None
    line_id: str | None
    caller_number: str | None
    customer_phone: str
    customer_id: str | None
    customer_name: str | None
    order_id: str | None
    external_id: str | None
    custom_data: Any
    created_at: Timestamp
    dialing_at: Timestamp | None
    ringing_at: Timestamp | None
    connected_at: Timestamp | None
    ended_at: Timestamp | None
    duration: int | None
    has_recording: bool | None
    recording_size: int | None
    recording: str | None
    recording_url: str | None


class OfDevice(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`data` of events of phones: the phone right after the change. Of two about one phone the one with the later
    `timestamp` is the later."""

    id: str
    device_id: str
    user_id: str
    phone_number: str
    device_name: str
    device_model: str
    os_type: str
    online_status: str
    bind_time: Timestamp


class OfHook(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`data` of `hook.ping`."""

    hook_id: str


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A message: what happened, when, and what is known of it."""

    type: str
    timestamp: Timestamp
    data: OfCall | OfDevice | OfHook


def compose(job: Job) -> bytes:
    """Return the body of a message: the same bytes at every attempt, unless the hook was changed meanwhile."""
    row: dict[str, Any] = msgspec.json.decode(job.content)
    match job.event.partition(".")[0]:
        case "call" | "recording":
            data: OfCall | OfDevice | OfHook = _of_call(row, reveal=job.reveal)
        case "device":
            data = _of_device(row)
        case _:
            data = OfHook(hook_id=row["id"])
    return msgspec.json.encode(Told(type=job.event, timestamp=rfc3339(job.at), data=data))


def sign(secrets: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """Return the `webhook-signature`: one signature for each secret, any of which the receiver may know."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return " ".join(
        f"v1,{base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()}" for secret in secrets
    )


def spell(secret: bytes) -> str:
    """Return a secret as receivers keep it."""
    return f"whsec_{base64.b64encode(secret).decode()}"


def _of_call(row: dict[str, Any], *, reveal: bool) -> OfCall:
    number: str = row["customer_phone"]
    return OfCall(
        call_id=row["id"],
        version=row["version"],
        status=row["status"],
        outcome=row["outcome"],
        closed_by=row["closed_by"],
        evidence=row["evidence"],
        connected_evidence=row["connected_evidence"],
        hangup_cause=row["hangup_cause"],
        raw_cause=row["raw_cause"],
        call_method=row["call_method"],
        user_id=row["user_id"],
        team_id=row["team_id"],
        created_by=row["created_by"],
        device_id=row["device_id"],
        line_id=row["line_id"],
        caller_number=row["caller_number"],
        customer_phone=number if reveal else mask(number),
        customer_id=row["customer_id"],
        customer_name=row["customer_name"],
        order_id=row["order_id"],
        external_id=row["external_id"],
        custom_data=row["custom_data"],
        created_at=_time(row["created_at"]),
        dialing_at=_time_or_none(row["dialing_at"]),
        ringing_at=_time_or_none(row["ringing_at"]),
        connected_at=_time_or_none(row["connected_at"]),
        ended_at=_time_or_none(row["ended_at"]),
        duration=row["duration"],
        has_recording=row["has_recording"],
        recording_size=row["recording_size"],
        recording=row["recording_status"],
        recording_url=recording_url(row["id"]) if row["recording_status"] == "ready" else None,
    )


def _of_device(row: dict[str, Any]) -> OfDevice:
    return OfDevice(
        id=row["id"],
        device_id=row["hardware_id"],
        user_id=row["user_id"],
        phone_number=row["phone_number"],
        device_name=row["name"],
        device_model=row["model"],
        os_type=row["os_type"],
        online_status=row["online_status"],
        bind_time=_time(row["bound_at"]),
    )


def _time(text: str) -> Timestamp:
    """A time as PostgreSQL puts it into JSON, as we tell times."""
    return rfc3339(datetime.fromisoformat(text))


def _time_or_none(text: str | None) -> Timestamp | None:
    return None if text is None else _time(text)
