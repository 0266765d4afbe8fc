"""The AsyncAPI document of the sockets, made from the very messages that are spoken, each with a true example."""

from typing import Literal, NamedTuple, get_args
from urllib.parse import urlsplit

import msgspec

from protocol import messages as said
from protocol.call import Evidence, HangupCause, Outcome, Status
from protocol.errors import DialdeskError
from server.code_tables import CLOSE_HEADS, ERROR_HEADS, close_rows, error_rows, in_markdown
from server.schemas import Json, Schemas, about_struct, split_docstring

SOCKET_RULES = """
One text frame is one message: JSON, at most 64 KiB, without compression. `messageId` is unique per sender and is what
makes a repeat a repeat; `timestamp` is the sender's clock in epoch milliseconds and informs only. Unknown fields in
`data` are ignored; an unknown `type` is answered `UNKNOWN_TYPE`, a malformed frame `BAD_MESSAGE`, and the session goes
on.

A phone says `DEVICE_ONLINE` first, a page `HELLO`, at once; the answer is `WELCOME`. A bad credential is refused before
the upgrade, by the HTTP error of its code. Where headers cannot be set, `?ticket=` takes a ticket from
`POST /api/v1/auth/ws-ticket`, which is good once and not for long.

A report is acknowledged by `ACK` when it is committed, and a command when it is on the phone's disk; what is not
acknowledged is sent again under the same `messageId`. `ERROR` with `retry: false` ends a report. The bytes of a
recording never come by socket: `RECORDING_UPLOAD` asks whether what was uploaded over HTTP is stored, and its `ACK` is
what lets the phone delete its file.

Events to a page carry `seq`, without gaps. A page whose `lastSeq` is behind says `HELLO` again and is given what it
missed, or `RESYNC` where that cannot be told any more.

Any frame counts as life. A peer that is silent is sent `HEARTBEAT`, which it answers; one that stays silent counts as
offline after two intervals of `heartbeatInterval`, and its socket is closed after three.

After a close code of 4500 to 4999 do not come back, but tell the person; after any other come back with full-jitter
back-off.
"""


class _Channel(NamedTuple):
    address: str
    description: str
    credential: str


class _Speech(NamedTuple):
    """What one side says in a channel; `receive` is what the server hears."""

    channel: str
    action: Literal["receive", "send"]
    kinds: tuple[type[said.Message], ...]


_CHANNELS = {
    "phone": _Channel("/ws/phone", "The socket of a bound work phone. `/ws` is the same.", "deviceToken"),
    "agent": _Channel("/ws/agent", "The socket of an agent's page.", "accessToken"),
}

_SPEECH = {
    "fromPhone": _Speech("phone", "receive", get_args(said.FromPhone)),
    "fromAgent": _Speech("agent", "receive", get_args(said.FromAgent)),
    "toPhone": _Speech("phone", "send", get_args(said.ToPhone)),
    "toAgent": _Speech("agent", "send", get_args(said.ToAgent)),
}
"""By speaker; what is heard stands before what is told."""


def describe_messages(*, version: str, server_url: str) -> bytes:
    """Return the AsyncAPI 3 document of the sockets. `send` is what the server says and `receive` what it hears.

    Raises TypeError where two types would go by one name.
    """
    schemas = Schemas()
    messages: dict[str, Json] = {}
    for speaker, speech in _SPEECH.items():
        examples = {type(example): example for example in _EXAMPLES[speaker]}
        for kind in speech.kinds:
            if kind.__name__ not in messages:
                messages[kind.__name__] = _message(kind, schemas, heard=speech.action == "receive")
            messages[kind.__name__]["examples"].append({"name": speaker, "payload": _frame(examples[kind])})

    at = urlsplit(server_url)
    tables = (in_markdown(CLOSE_HEADS, close_rows()), in_markdown(ERROR_HEADS, error_rows()))
    return msgspec.json.encode(
        {
            "asyncapi": "3.1.0",
            "info": {
                "title": "Dialdesk sockets",
                "version": version,
                "description": "\n\n".join((SOCKET_RULES, *tables)),
            },
            "defaultContentType": "application/json",
            "servers": {
                "main": {
                    "host": at.netloc,
                    "protocol": {"https": "wss", "http": "ws"}[at.scheme],
                    "pathname": at.path or "/",
                }
            },
            "channels": {
                name: {
                    "address": channel.address,
                    "description": channel.description,
                    "messages": {
                        kind.__name__: {"$ref": f"#/components/messages/{kind.__name__}"}
                        for speech in _SPEECH.values()
                        if speech.channel == name
                        for kind in speech.kinds
                    },
                    "bindings": {"ws": {"method": "GET"}},
                }
                for name, channel in _CHANNELS.items()
            },
            "operations": {
                speaker: {
                    "action": speech.action,
                    "channel": {"$ref": f"#/channels/{speech.channel}"},
                    "messages": [
                        {"$ref": f"#/channels/{speech.channel}/messages/{kind.__name__}"} for kind in speech.kinds
                    ],
                    "security": [
                        {"$ref": f"#/components/securitySchemes/{scheme}"}
                        for scheme in (_CHANNELS[speech.channel].credential, "ticket")
                    ],
                }
                for speaker, speech in _SPEECH.items()
            },
            "components": {
                "messages": messages,
                "schemas": schemas.named,
                "securitySchemes": {
                    "accessToken": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                    "deviceToken": {
                        "type": "http",
                        "scheme": "bearer",
                        "description": "The token of a bound phone, with the header `X-Device-Id`.",
                    },
                    "ticket": {
                        "type": "httpApiKey",
                        "in": "query",
                        "name": "ticket",
                        "description": "From `POST /api/v1/auth/ws-ticket`; good once.",
                    },
                },
            },
        }
    )


def _message(kind: type[said.Message], schemas: "Schemas", *, heard: bool) -> Json:
    summary, description = split_docstring(about_struct(kind))
    sequenced = kind.type in said.SEQUENCED
    return {
        "name": kind.type,
        "title": kind.__name__,
        "summary": summary,
        **({"description": description} if description else {}),
        "payload": {
            "type": "object",
            "required": ["type", "messageId", "timestamp", "data", *(["seq"] if sequenced else [])],
            "properties": {
                "type": {"const": kind.type},
                "messageId": schemas.heard(said.Id),
                "timestamp": schemas.heard(said.PeerClock),
                **({"seq": schemas.told(int)} if sequenced else {}),
                "data": schemas.heard(kind) if heard else schemas.told(kind),
            },
        },
        "examples": [],
    }


def _frame(message: said.Message) -> msgspec.Raw:
    """The message as it goes over the wire."""
    seq = _SEQ if message.type in said.SEQUENCED else None
    return msgspec.Raw(said.encode_raw(message.type, said.encode_data(message), _MESSAGE, seq=seq, timestamp=_NOW))


_NOW = 1_795_257_000_000  # 2026-11-21T10:30:00Z
_SEQ = 1042
_MESSAGE = "msg_4f1d6a0b92c37e5d8a61b0f4"
_COMMAND = "msg_b70c2e94d1a85f3660e9d2c7"
_CALL = "call_20261121_06fkd0a3v8w9m2x7c1n5b4q6rt"
_DEVICE = "dev_06fkcy7h2p4s9d1g8k3m6v0wxz"
_NUMBER = "138****5678"
_RECORDING_SIZE = 884_736
_RECORDING_SHA256 = "3f5a0c81d2e94b67a1c8f03d5e7b29461c0d8f7a6b5e4d3c2b1a09f8e7d6c5b4"
_CUSTOM_DATA = msgspec.Raw(b'{"case":"A-1043"}')
_HANDSET = said.Capabilities(auto_dial=True, hang_up=True, answer_signal=False, recording=True)
_PHONE = said.DeviceView(
    id=_DEVICE,
    device_id="a1b2c3d4e5f60718",
    phone_number="+8613900001111",
    device_name="Work phone 7",
    device_model="Pixel 9",
    os_type="android",
    online_status="online",
    bind_time="2026-11-02T01:15:00.000Z",
    last_active_at="2026-11-21T10:29:48.120Z",
    capabilities=_HANDSET,
    is_default=True,
)
_DIAL = said.DialCommand(
    call_id=_CALL,
    customer_phone="13812345678",
    customer_name="Li Na",
    customer_id="C-2201",
    order_id="O-88031",
    expires_at=_NOW + 20_000,
    record=True,
    consent_notice="This call is recorded for quality assurance.",
)

_EXAMPLES: dict[str, tuple[said.Message, ...]] = {
    "fromPhone": (
        said.DeviceOnline(
            app_version="1.4.0",
            os_type="android",
            os_version="16",
            capabilities=_HANDSET,
            boot_id="7d0c",
            connection=31,
            active_call=said.ActiveCall(call_id=_CALL, status="ringing"),
            pending_reports=1,
        ),
        said.DeviceOffline(reason="signed out"),
        said.Heartbeat(battery=0.82, network="wifi"),
        said.HeartbeatAck(),
        said.Ack(message_id=_COMMAND),
        said.CallStatus(call_id=_CALL, status="ringing", timestamp=_NOW, evidence=Evidence.IN_CALL_SERVICE),
        said.CallEnd(
            call_id=_CALL,
            status=Outcome.CONNECTED,
            duration=73,
            hangup_cause="NORMAL_CLEARING",
            evidence=Evidence.CALL_LOG,
            has_recording=True,
            recording_size=_RECORDING_SIZE,
        ),
        said.RecordingUpload(call_id=_CALL, size=_RECORDING_SIZE, sha256=_RECORDING_SHA256),
    ),
    "fromAgent": (
        said.Hello(last_seq=_SEQ - 1, client="desk"),
        said.Heartbeat(),
        said.HeartbeatAck(),
        said.Dial(customer_phone="13812345678", customer_id="C-2201", custom_data={"case": "A-1043"}),
        said.HangUp(call_id=_CALL),
    ),
    "toPhone": (
        said.WelcomePhone(
            session_id="ses_06fkd09zq3e5t7y1u4j6h8b0gv",
            heartbeat_interval=30,
            server_time=_NOW,
            node="web-1",
            epoch=12,
            commands=[
                said.WaitingCommand(type=_DIAL.type, message_id=_COMMAND, data=msgspec.Raw(said.encode_data(_DIAL)))
            ],
        ),
        said.HeartbeatAck(),
        said.Heartbeat(),
        said.Ack(message_id=_COMMAND),
        said.Error(
            code="NOT_FOUND",
            message=DialdeskError("NOT_FOUND", what="call").message("en"),
            retry=DialdeskError("NOT_FOUND").retry,
            message_id=_COMMAND,
            details={"what": "call"},
        ),
        _DIAL,
        said.CancelDial(call_id=_CALL, reason="hangup"),
        said.DeviceUnbind(reason="unbound by the agent"),
        said.Reconnect(after_ms=20_000, reason="draining"),
    ),
    "toAgent": (
        said.WelcomeAgent(
            session_id="ses_06fkd0b2r6n8s0d4f1k5l7p3mx",
            heartbeat_interval=30,
            server_time=_NOW,
            node="web-2",
            last_seq=_SEQ,
            devices=[_PHONE],
            calls=[
                said.LiveCall(
                    call_id=_CALL,
                    status=Status.RINGING,
                    call_method="mobile",
                    customer_phone=_NUMBER,
                    created_at="2026-11-21T10:29:55.310Z",
                    device_id=_DEVICE,
                    custom_data=_CUSTOM_DATA,
                )
            ],
        ),
        said.HeartbeatAck(last_seq=_SEQ),
        said.Heartbeat(),
        said.Error(
            code="DEVICE_OFFLINE",
            message=DialdeskError("DEVICE_OFFLINE").message("en"),
            retry=DialdeskError("DEVICE_OFFLINE").retry,
            message_id=_COMMAND,
        ),
        said.DialAccepted(message_id=_COMMAND, call_id=_CALL),
        said.HangUpAccepted(message_id=_COMMAND, call_id=_CALL),
        said.DeviceBound(device=_PHONE),
        said.DeviceUnbound(device_id=_DEVICE, reason="unbound by the agent"),
        said.DeviceStatus(device_id=_DEVICE, online_status="offline"),
        *(
            progress(
                call_id=_CALL,
                at=_NOW,
                evidence=Evidence.IN_CALL_SERVICE,
                source="phone",
                customer_phone=_NUMBER,
                custom_data=_CUSTOM_DATA,
                device_id=_DEVICE,
            )
            for progress in (said.CallDialing, said.CallRinging, said.CallConnected)
        ),
        said.CallEnded(
            call_id=_CALL,
            at=_NOW,
            status=Outcome.CONNECTED,
            hangup_cause=HangupCause.NORMAL_CLEARING,
            closed_by="phone",
            evidence=Evidence.CALL_LOG,
            customer_phone=_NUMBER,
            duration=73,
            has_recording=True,
            enriched=True,
            custom_data=_CUSTOM_DATA,
            device_id=_DEVICE,
        ),
        said.RecordingReady(
            call_id=_CALL,
            at=_NOW,
            source="phone",
            media_type="audio/mp4",
            size=_RECORDING_SIZE,
            recording_url=f"/api/v1/calls/{_CALL}/recording",
        ),
        said.Resync(from_seq=_SEQ, to_seq=_SEQ + 731),
        said.Reconnect(after_ms=20_000, reason="draining"),
    ),
}
