"""The documents that describe the server, made from the very types that decode and encode: nothing is written twice.

`openapi` describes the endpoints and `asyncapi` the sockets; `page` shows both to people. Error codes that an
endpoint's function names in its docstring become answers of the operation, beside those that its declaration entails.
"""

import base64
import hashlib
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from html import escape
from http import HTTPStatus
from typing import Annotated, Any, Literal, NamedTuple, get_args
from urllib.parse import urlsplit

import msgspec
from msgspec import inspect as mi

from protocol import messages as said
from protocol.call import Evidence, HangupCause, Outcome, Status
from protocol.errors import ERRORS, CloseCode, DialdeskError
from protocol.timestamps import Timestamp
from server.http import ANYONE, IDEMPOTENCY_KEY, PHONE, SIGNED_IN, Download, Endpoint, bare, media_type

Json = dict[str, Any]

_CODE = re.compile(rf"\b(?:{'|'.join(ERRORS)})\b")
_NAMES = re.compile(rf"(`[^`]+`|{_CODE.pattern})")
_API = "/api/v1/"

_HTTP_RULES = """
The JSON API of Dialdesk, a realtime call-control server. What happens is told as it happens over WebSockets, which the
AsyncAPI document describes.

A request carries `Authorization: Bearer <token>`: the access token of a user, an API key, or the device token of a
phone, which goes with `X-Device-Id`. Each operation says what it needs: `anyone`, `signed in`, `phone` or a permission.

Bodies are JSON in UTF-8. A field or parameter that is not known here is refused with `INVALID_FIELD`, but for what
phone apps send; whoever reads answers ignores fields it does not know. Ids are opaque text. Times are UTC, RFC 3339
with milliseconds.

Errors have one shape everywhere. `code` is stable; `message` is for people, in Chinese unless `Accept-Language` puts
English first; `retry` in the table of codes tells whether the same request, sent again unchanged, may succeed.

An operation that takes `Idempotency-Key` does its work once: the same key and request give the same answer, and
another request under that key gives `IDEMPOTENCY_MISMATCH`. Keys are kept for 24 hours.

`X-Request-Id` is taken from the request or made, and stands in every answer. HEAD is served where GET is. A method
that a path does not take is answered `METHOD_NOT_ALLOWED`, with the header `Allow`.
"""

_SOCKET_RULES = """
One text frame is one message: JSON, at most 64 KiB, without compression. `messageId` is unique per sender and is what
makes a repeat a repeat; `timestamp` is the sender's clock in epoch milliseconds and informs only. Unknown fields in
`data` are ignored; an unknown `type` is answered `UNKNOWN_TYPE`, a malformed frame `BAD_MESSAGE`, and the session goes
on.

A phone says `DEVICE_ONLINE` first, a page `HELLO`, at once; the answer is `WELCOME`. A bad credential is refused before
the upgrade, by the HTTP error of its code. Where headers cannot be set, `?ticket=` takes a ticket from
`POST /api/v1/auth/ws-ticket`, which is good once and not for long.

A report is acknowledged by `ACK` when it is committed, and a command when it is on the phone's disk; what is not
acknowledged is sent again under the same `messageId`. `ERROR` with `retry: false` ends a report.

Events to a page carry `seq`, without gaps. A page whose `lastSeq` is behind says `HELLO` again and is given what it
missed, or `RESYNC` where that cannot be told any more.

Any frame counts as life. A peer that is silent is sent `HEARTBEAT`, which it answers; one that stays silent counts as
offline after two intervals of `heartbeatInterval`, and its socket is closed after three.

After a close code of 4500 to 4999 do not come back, but tell the person; after any other come back with full-jitter
back-off.
"""


class Error(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is answered where a request is not carried out. `details` are the values that `message` speaks of."""

    success: Literal[False]
    code: Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(ERRORS)})]
    message: str
    details: dict[str, Any]
    timestamp: Timestamp
    request_id: str


# --- HTTP -----------------------------------------------------------------------------------------------------------


def openapi(endpoints: Sequence[Endpoint], *, version: str, server_url: str) -> bytes:
    """Return the OpenAPI 3.1 document of the endpoints.

    Raises TypeError where two functions or two types would go by one name, or a type cannot be described.
    """
    schemas = _Schemas()
    asked = [_asked(endpoint, schemas) for endpoint in endpoints]
    answered = [_answered(endpoint, schemas) for endpoint in endpoints]
    error = schemas.told(Error)

    names = Counter(endpoint.name for endpoint in endpoints)
    if repeated := [name for name, times in names.items() if times > 1]:
        raise TypeError(f"several endpoints are named {', '.join(repeated)}")

    paths: dict[str, Json] = {}
    for endpoint, question, answer in zip(endpoints, asked, answered, strict=True):
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = {**_headed(endpoint), **question, **answer}

    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Dialdesk API",
                "version": version,
                "description": f"{_HTTP_RULES}\n\n{_in_markdown(_ERROR_HEADS, _error_rows())}",
            },
            "servers": [{"url": server_url}],
            "tags": [{"name": tag} for tag in dict.fromkeys(map(_tag_of, endpoints))],
            "paths": paths,
            "components": {
                "schemas": schemas.named,
                "responses": {str(status): _refusal(status, error) for status in _statuses(ERRORS)},
                "headers": {
                    "X-Request-Id": {
                        "description": "The id of the request: its own, or one that was made.",
                        "required": True,
                        "schema": {"type": "string"},
                    }
                },
                "securitySchemes": {
                    "accessToken": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                    "apiKey": {"type": "http", "scheme": "bearer", "description": "An API key, by its scopes."},
                    "deviceToken": {"type": "http", "scheme": "bearer", "description": "The token of a bound phone."},
                    "deviceId": {"type": "apiKey", "in": "header", "name": "X-Device-Id"},
                },
            },
        }
    )


def _headed(endpoint: Endpoint) -> Json:
    """What an operation is, and who may ask for it."""
    _, description = _split(endpoint.function.__doc__)
    about_query = "" if endpoint.query is None else _about_struct(endpoint.query)
    return {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "description": "\n\n".join(filter(None, (description, about_query))),
        "tags": [_tag_of(endpoint)],
        "security": _security(endpoint.needs),
        "x-dialdesk-permission": endpoint.needs,
    }


def _asked(endpoint: Endpoint, schemas: "_Schemas") -> Json:
    """What an operation takes: parameters and body."""
    parameters: list[Json] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"minLength": 1, **schemas.heard(endpoint.parameters[name])},
        }
        for name in endpoint.in_path
    ]
    if endpoint.query is not None:
        parameters += [_query_parameter(name, field, schema) for name, field, schema in schemas.fields(endpoint.query)]
    if "once" in endpoint.parameters:
        parameters.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "Makes the request happen once, however often it is sent.",
                "schema": {"type": "string", "pattern": f"^{IDEMPOTENCY_KEY.pattern}$"},
            }
        )
    question: Json = {"parameters": parameters}
    if endpoint.decoder is not None:
        question["requestBody"] = {
            "required": not _takes_nothing(endpoint.decoder),
            "content": {"application/json": {"schema": schemas.heard(endpoint.body)}},
        }
    elif endpoint.body is not None:
        question["requestBody"] = {
            "required": True,
            "content": {endpoint.media_type or "application/octet-stream": {}},
        }
    return question


def _answered(endpoint: Endpoint, schemas: "_Schemas") -> Json:
    """What an operation answers: 200, and one refusal a status, which names its codes."""
    content: Json
    if bare(endpoint.answer) is Download:
        content, description = {media_type(endpoint.answer) or "*/*": {}}, "The document."
    else:
        content = {"application/json": {"schema": schemas.told(endpoint.answer)}}
        description = _split(_about_struct(endpoint.answer))[0]
    codes = _codes(endpoint)
    return {
        "responses": {
            "200": {"description": description, "headers": _headers(200), "content": content},
            **{
                str(status): {
                    "$ref": f"#/components/responses/{status}",
                    "description": ", ".join(f"`{code}`" for code in codes if ERRORS[code].status == status),
                }
                for status in _statuses(codes)
            },
        }
    }


def _codes(endpoint: Endpoint) -> list[str]:
    """The errors of an operation: what its declaration entails, and what its function's docstring names."""
    codes = {"INTERNAL", "UNAVAILABLE", *_CODE.findall(endpoint.function.__doc__ or "")}
    if endpoint.needs != ANYONE:
        codes |= {"UNAUTHENTICATED", "TOKEN_EXPIRED", "ACCOUNT_DISABLED", "TENANT_SUSPENDED"}
    if endpoint.needs == PHONE:
        codes |= {"DEVICE_UNBOUND"}
    elif endpoint.needs not in {ANYONE, SIGNED_IN}:
        codes |= {"FORBIDDEN", "PASSWORD_CHANGE_REQUIRED"}
    if endpoint.in_path:
        codes |= {"NOT_FOUND", "INVALID_FIELD"}
    if endpoint.query is not None:
        codes |= {"BAD_REQUEST", "INVALID_FIELD"}
    if endpoint.body is not None:
        codes |= {"BAD_REQUEST", "INVALID_FIELD", "BODY_TOO_LARGE", "REQUEST_TIMEOUT"}
    if endpoint.media_type is not None:
        codes |= {"UNSUPPORTED_MEDIA_TYPE"}
    if "once" in endpoint.parameters:
        codes |= {"INVALID_FIELD", "IDEMPOTENCY_MISMATCH"}
    return [code for code in ERRORS if code in codes]


def _refusal(status: int, error: Json) -> Json:
    return {
        "description": HTTPStatus(status).phrase,
        "headers": _headers(status),
        "content": {"application/json": {"schema": error}},
    }


def _headers(status: int) -> Json:
    """The headers of an answer, beside what HTTP itself says of it."""
    headers: Json = {"X-Request-Id": {"$ref": "#/components/headers/X-Request-Id"}}
    match status:
        case 401:
            headers["WWW-Authenticate"] = {"required": True, "schema": {"type": "string"}}
        case 405:
            headers["Allow"] = {"required": True, "schema": {"type": "string"}}
        case 429 | 503:
            headers["Retry-After"] = {
                "description": "Seconds.",
                "required": True,
                "schema": {"type": "integer", "minimum": 0},
            }
    return headers


def _security(needs: str) -> list[Json]:
    if needs == PHONE:
        return [{"deviceToken": [], "deviceId": []}]
    return [] if needs == ANYONE else [{"accessToken": []}, {"apiKey": []}]


def _query_parameter(name: str, field: mi.Field, schema: Json) -> Json:
    """A field of a query. A query string cannot say null: what may be null may be left out."""
    match schema:
        case {"anyOf": [only, {"type": "null"}], **rest}:
            schema = {**only, **rest}
        case {"anyOf": [*options, {"type": "null"}], **rest}:
            schema = {"anyOf": options, **rest}
    parameter: Json = {"name": name, "in": "query", "required": field.required, "schema": schema}
    if "description" in schema:
        parameter["description"] = schema.pop("description")
    return parameter


def _tag_of(endpoint: Endpoint) -> str:
    return endpoint.path.removeprefix(_API).partition("/")[0] if endpoint.path.startswith(_API) else "node"


def _statuses(codes: Iterable[str]) -> list[int]:
    return sorted({ERRORS[code].status for code in codes})


def _takes_nothing(decoder: msgspec.json.Decoder[Any]) -> bool:
    """Whether the body may be left out, which is then read as an object without fields."""
    try:
        decoder.decode(b"{}")
    except msgspec.ValidationError:
        return False
    return True


# --- sockets --------------------------------------------------------------------------------------------------------


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


def asyncapi(*, version: str, server_url: str) -> bytes:
    """Return the AsyncAPI 3 document of the sockets. `send` is what the server says and `receive` what it hears.

    Raises TypeError where two types would go by one name.
    """
    schemas = _Schemas()
    messages: dict[str, Json] = {}
    for speaker, speech in _SPEECH.items():
        examples = {type(example): example for example in _EXAMPLES[speaker]}
        for kind in speech.kinds:
            if kind.__name__ not in messages:
                messages[kind.__name__] = _message(kind, schemas, heard=speech.action == "receive")
            messages[kind.__name__]["examples"].append({"name": speaker, "payload": _frame(examples[kind])})

    at = urlsplit(server_url)
    tables = (_in_markdown(_CLOSE_HEADS, _close_rows()), _in_markdown(_ERROR_HEADS, _error_rows()))
    return msgspec.json.encode(
        {
            "asyncapi": "3.1.0",
            "info": {
                "title": "Dialdesk sockets",
                "version": version,
                "description": "\n\n".join((_SOCKET_RULES, *tables)),
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


def _message(kind: type[said.Message], schemas: "_Schemas", *, heard: bool) -> Json:
    summary, description = _split(_about_struct(kind))
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
            recording_size=884_736,
        ),
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
        said.Resync(from_seq=_SEQ, to_seq=_SEQ + 731),
        said.Reconnect(after_ms=20_000, reason="draining"),
    ),
}


# --- types ----------------------------------------------------------------------------------------------------------


class _Schemas:
    """JSON Schemas of types; each Struct and each enum once, in `named`, by its own name.

    Not msgspec's own, which fails on a default that is Raw, gives two Structs of one name names of its making, and does
    not know that what is told tells every field. A Struct that is both heard and told is to be heard first: what may be
    left out when it is heard is then not promised when it is told.
    """

    def __init__(self) -> None:
        self.named: dict[str, Json] = {}
        self._types: dict[str, type] = {}

    def heard(self, kind: Any) -> Json:
        """Describe what peers say: a field with a default may be left out."""
        return self._schema(mi.type_info(kind), told=False)

    def told(self, kind: Any) -> Json:
        """Describe what we say: a field is left out only where its Struct omits defaults, or it is UNSET."""
        return self._schema(mi.type_info(kind), told=True)

    def fields(self, kind: type[msgspec.Struct]) -> Iterator[tuple[str, mi.Field, Json]]:
        """Describe the fields of a Struct that is heard, one by one."""
        info = mi.type_info(kind)
        assert isinstance(info, mi.StructType)
        yield from self._fields(info, told=False)

    def _schema(self, kind: mi.Type, *, told: bool) -> Json:
        match kind:
            case mi.Metadata():
                return {**self._schema(kind.type, told=told), **(kind.extra_json_schema or {})}
            case mi.StructType():
                return self._reference(kind.cls, lambda: self._struct(kind, told=told))
            case mi.EnumType():
                return self._reference(kind.cls, lambda: _enumeration(kind.cls))
            case mi.UnionType():
                return {"anyOf": [self._schema(member, told=told) for member in kind.types]}
            case mi.LiteralType():
                return _one_of(kind.values)
            case mi.CollectionType():
                items = self._schema(kind.item_type, told=told)
                return _limited("array", items=items, minItems=kind.min_length, maxItems=kind.max_length)
            case mi.DictType():
                names = {
                    name: limit for name, limit in self._schema(kind.key_type, told=told).items() if name != "type"
                }
                values = self._schema(kind.value_type, told=told)
                return _limited(
                    "object",
                    propertyNames=names or None,
                    additionalProperties=values or None,
                    minProperties=kind.min_length,
                    maxProperties=kind.max_length,
                )
            case mi.StrType():
                return _limited("string", minLength=kind.min_length, maxLength=kind.max_length, pattern=kind.pattern)
            case mi.IntType() | mi.FloatType():
                return _limited(
                    "integer" if isinstance(kind, mi.IntType) else "number",
                    minimum=kind.ge,
                    exclusiveMinimum=kind.gt,
                    maximum=kind.le,
                    exclusiveMaximum=kind.lt,
                )
            case mi.BoolType():
                return {"type": "boolean"}
            case mi.NoneType():
                return {"type": "null"}
            case mi.DateTimeType():
                return {"type": "string", "format": "date-time"}
            case mi.DateType():
                return {"type": "string", "format": "date"}
            case mi.AnyType() | mi.RawType():
                return {}
            case _:
                raise TypeError(f"no JSON Schema for {kind}")

    def _reference(self, cls: type, describe: Callable[[], Json]) -> Json:
        name = cls.__name__
        if (other := self._types.setdefault(name, cls)) is not cls:
            raise TypeError(f"two types are named {name}: one of {other.__module__}, one of {cls.__module__}")
        if name not in self.named:
            self.named[name] = {}  # stands for a type within itself
            self.named[name] = describe()
        return {"$ref": f"#/components/schemas/{name}"}

    def _struct(self, kind: mi.StructType, *, told: bool) -> Json:
        properties: Json = {}
        required: list[str] = []
        if kind.tag_field is not None:
            properties[kind.tag_field] = {"const": kind.tag}
            required.append(kind.tag_field)
        says_all = told and not kind.cls.__struct_config__.omit_defaults
        for name, field, schema in self._fields(kind, told=told):
            properties[name] = schema
            if field.required or (says_all and _has_default(field)):
                required.append(name)
        return {
            "description": _about_struct(kind.cls),
            "type": "object",
            "properties": properties,
            **({"required": required} if required else {}),
            **({"additionalProperties": False} if kind.forbid_unknown_fields else {}),
        }

    def _fields(self, kind: mi.StructType, *, told: bool) -> Iterator[tuple[str, mi.Field, Json]]:
        for field in kind.fields:
            schema = self._schema(field.type, told=told)
            if not told and field.default is not None and field.default is not msgspec.NODEFAULT:
                schema["default"] = field.default
            yield field.encode_name, field, schema


def _has_default(field: mi.Field) -> bool:
    return field.default is not msgspec.NODEFAULT or field.default_factory is not msgspec.NODEFAULT


def _about_struct(kind: type[msgspec.Struct]) -> str:
    """What its docstring says, with the fields by their names on the wire."""
    names = {field.name: field.encode_name for field in msgspec.structs.fields(kind)}
    text = inspect.cleandoc(kind.__doc__ or "")
    return re.sub(r"`(\w+)`", lambda found: f"`{names.get(found[1], found[1])}`", text)


def _enumeration(kind: type[Enum]) -> Json:
    return {"description": inspect.cleandoc(kind.__doc__ or ""), **_one_of([member.value for member in kind])}


def _one_of(values: Sequence[Any]) -> Json:
    return {"const": values[0]} if len(values) == 1 else {"enum": list(values)}


def _limited(name: str, **limits: object) -> Json:
    return {"type": name, **{limit: value for limit, value in limits.items() if value is not None}}


def _split(docstring: str | None) -> tuple[str, str]:
    """The first line of a docstring, and the rest."""
    first, _, rest = inspect.cleandoc(docstring or "").partition("\n")
    return first, rest.strip()


# --- tables ---------------------------------------------------------------------------------------------------------

_ERROR_HEADS = ("code", "status", "retry", "English", "中文")
_CLOSE_HEADS = ("close code", "why", "come back")


def _error_rows() -> list[Sequence[str]]:
    return [(code, str(spec.status), "yes" if spec.retry else "no", spec.en, spec.zh) for code, spec in ERRORS.items()]


def _close_rows() -> list[Sequence[str]]:
    codes = {name: code for name, code in vars(CloseCode).items() if name.isupper()}
    return [
        (str(code), name.replace("_", " ").lower(), "no" if 4500 <= code <= 4999 else "yes")
        for name, code in sorted(codes.items(), key=lambda item: item[1])
    ]


def _in_markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


# --- the page -------------------------------------------------------------------------------------------------------

_STYLE = """\
:root{color-scheme:light dark;--ink:#1b1f24;--dim:#5b6570;--line:#d9dee4;--soft:#f4f6f8;--paper:#fff;--link:#0b5cad;
--get:#0b6bcb;--post:#1a7f37;--put:#9a6700;--delete:#c0292f}
@media (prefers-color-scheme:dark){:root{--ink:#e4e8ec;--dim:#9aa5b1;--line:#333b44;--soft:#1b2128;--paper:#12161b;
--link:#6cb2f7;--get:#58a6ff;--post:#56c271;--put:#d9a520;--delete:#ff7b72}}
*{box-sizing:border-box}
html{scroll-padding-top:1rem}
body{margin:0;color:var(--ink);background:var(--paper);font:15px/1.55 system-ui,"Noto Sans CJK SC",sans-serif;
display:grid;grid-template-columns:22rem minmax(0,1fr)}
nav{position:sticky;top:0;height:100vh;overflow:auto;padding:1.25rem 1rem;border-right:1px solid var(--line);
background:var(--soft);font-size:13px}
nav code{font-size:12px}
nav ul{list-style:none;margin:0 0 .75rem;padding:0}
nav li a{display:flex;gap:.5rem;padding:.1rem 0;color:inherit;overflow-wrap:anywhere}
nav strong{display:block;margin-top:.75rem;color:var(--dim);font-weight:600}
main{padding:1.5rem clamp(1rem,4vw,3rem) 6rem;max-width:68rem}
a{color:var(--link);text-decoration:none}
a:hover{text-decoration:underline}
h1{margin:0 0 .5rem;font-size:1.8rem}
h2{margin:3rem 0 1rem;padding-bottom:.3rem;border-bottom:1px solid var(--line);font-size:1.4rem}
h3{margin:0 0 .4rem;font-size:1.05rem;overflow-wrap:anywhere}
article{margin:0 0 1rem;padding:1rem 1.1rem;border:1px solid var(--line);border-radius:8px}
article:target{border-color:var(--link)}
p,ul{margin:.4rem 0}
code,pre{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
code{padding:.05em .3em;border-radius:4px;background:var(--soft)}
h3 code,nav code{padding:0;background:none}
h3 code,h3 .method{font-size:15px}
h3 .method{min-width:4.5rem}
pre{margin:.5rem 0;padding:.75rem;overflow:auto;border-radius:6px;background:var(--soft)}
.method{display:inline-block;min-width:3.6rem;font:700 12px/1.5 ui-monospace,Menlo,Consolas,monospace}
nav .method{min-width:2.9rem;font-size:10px;line-height:20px}
.get{color:var(--get)}
.post{color:var(--post)}
.put{color:var(--put)}
.delete{color:var(--delete)}
.dim{color:var(--dim);font-size:13px;font-weight:400}
details{margin:.5rem 0}
summary{cursor:pointer;font-weight:600}
.scroll{overflow:auto}
table{width:100%;margin:.4rem 0;border-collapse:collapse;font-size:13.5px}
th,td{padding:.35rem .6rem .35rem 0;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{color:var(--dim);font-weight:600}
td:first-child{white-space:nowrap}
td+td code{overflow-wrap:anywhere}
@media (max-width:52rem){body{display:block}nav{position:static;height:auto;max-height:40vh;border:0}}
"""

_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

PAGE_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy under which `page` is to be served: its own style, and nothing else."""


def page(openapi_document: bytes, asyncapi_document: bytes) -> bytes:
    """Return both documents as one page of HTML, without scripts and without anything from elsewhere."""
    http, sockets = msgspec.json.decode(openapi_document), msgspec.json.decode(asyncapi_document)
    operations = [
        (path, method, operation) for path, methods in http["paths"].items() for method, operation in methods.items()
    ]
    by_tag = {tag["name"]: [entry for entry in operations if tag["name"] in entry[2]["tags"]] for tag in http["tags"]}
    content = _joined(
        _contents(by_tag, sockets),
        _tag(
            "main",
            _tag("h1", http["info"]["title"]),
            _tag("p", f"Version {http['info']['version']}, at {http['servers'][0]['url']}.", class_="dim"),
            _prose(_HTTP_RULES),
            _tag("h2", "Errors", id="errors"),
            _error_table(),
            *(
                _tag("section", _tag("h2", tag), *(_operation(*entry, http) for entry in entries))
                for tag, entries in by_tag.items()
            ),
            _tag("h2", "Sockets", id="sockets"),
            _prose(_SOCKET_RULES),
            _table(_CLOSE_HEADS, _close_rows()),
            *(_channel(name, sockets) for name in sockets["channels"]),
            *_types("Types of the API", "http", http),
            *_types("Types of the sockets", "ws", sockets),
        ),
    )
    head = _tag(
        "head",
        _Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width">'),
        _tag("title", http["info"]["title"]),
        _tag("style", _Markup(_STYLE)),
    )
    return f"<!doctype html>\n{_tag('html', head, _tag('body', content), lang='en')}\n".encode()


class _Markup(str):
    """Text that is HTML already; all other is escaped where it enters a tag."""

    __slots__ = ()


def _joined(*parts: str) -> _Markup:
    return _Markup("".join(part if isinstance(part, _Markup) else escape(part) for part in parts))


def _tag(name: str, /, *inside: str, **attributes: str) -> _Markup:
    """Return an element; an attribute whose name is a word of Python's ends in an underscore."""
    told = "".join(f' {attribute.rstrip("_")}="{escape(value)}"' for attribute, value in attributes.items())
    return _Markup(f"<{name}{told}>{_joined(*inside)}</{name}>")


def _between(parts: Iterable[str], mark: str) -> _Markup:
    return _Markup(escape(mark).join(_joined(part) for part in parts))


def _spans(text: str) -> _Markup:
    """Names between backticks, and error codes, which lead to their rows."""

    def shown(part: str) -> str:
        name = part.strip("`")
        if name in ERRORS:
            return _tag("a", _tag("code", name), href=f"#error-{name}")
        return part if name == part else _tag("code", name)

    return _joined(*map(shown, _NAMES.split(text)))


def _prose(text: str) -> _Markup:
    """Paragraphs as docstrings have them, and names between backticks."""
    return _joined(*(_tag("p", _spans(block)) for block in text.split("\n\n") if block.strip()))


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> _Markup:
    head = _tag("tr", *(_tag("th", cell) for cell in heads))
    body = (_tag("tr", *(_tag("td", cell) for cell in row)) for row in rows)
    return _tag("div", _tag("table", _tag("thead", head), _tag("tbody", *body)), class_="scroll")


def _error_table() -> _Markup:
    return _table(
        _ERROR_HEADS,
        (
            (_tag("code", code, id=f"error-{code}"), status, retry, en, _tag("span", zh, lang="zh-CN"))
            for code, status, retry, en, zh in _error_rows()
        ),
    )


def _contents(by_tag: Mapping[str, Sequence[tuple[str, str, Json]]], sockets: Json) -> _Markup:
    def entry(target: str, *shown: str) -> _Markup:
        return _tag("li", _tag("a", *shown, href=f"#{target}"))

    return _tag(
        "nav",
        _tag("ul", entry("errors", "Errors"), entry("sockets", "Sockets"), entry("http", "Types")),
        *(
            _joined(
                _tag("strong", tag),
                _tag(
                    "ul",
                    *(
                        entry(operation["operationId"], _method(method), _tag("code", path.removeprefix(_API)))
                        for path, method, operation in entries
                    ),
                ),
            )
            for tag, entries in by_tag.items()
        ),
        *(
            _joined(
                _tag("strong", channel["address"]),
                _tag(
                    "ul",
                    *(
                        entry(f"{name}-{kind}", _tag("code", sockets["components"]["messages"][kind]["name"]))
                        for kind in channel["messages"]
                    ),
                ),
            )
            for name, channel in sockets["channels"].items()
        ),
    )


def _method(method: str) -> _Markup:
    return _tag("span", method.upper(), class_=f"method {method}")


def _operation(path: str, method: str, operation: Json, http: Json) -> _Markup:
    needs = operation["x-dialdesk-permission"]
    parts = [
        _tag("h3", _method(method), _tag("code", path)),
        _tag("p", _spans(operation["summary"])),
        _prose(operation["description"]),
        _tag("p", "Needs ", _tag("code", needs), "." if operation["security"] else ": no credential.", class_="dim"),
    ]
    if operation["parameters"]:
        rows = (
            (_name(each), each["in"], _kind(each["schema"], "http"), _about(each)) for each in operation["parameters"]
        )
        parts.append(_table(("parameter", "in", "type", ""), rows))
    if "requestBody" in operation:
        optional = "" if operation["requestBody"]["required"] else ", which may be left out"
        parts.append(_content(f"Body{optional}", operation["requestBody"]["content"], http))
    parts.append(_content("Answer", operation["responses"]["200"]["content"], http))
    refusals = [
        (status, _spans(response["description"]))
        for status, response in operation["responses"].items()
        if status != "200"
    ]
    parts.append(_tag("details", _tag("summary", "Errors"), _table(("status", "codes"), refusals)))
    return _tag("article", *parts, id=operation["operationId"])


def _content(title: str, content: Json, document: Json) -> _Markup:
    ((media_type, told),) = content.items()
    if "schema" not in told:
        return _tag("p", f"{title}: ", _tag("code", media_type))
    schema = told["schema"]
    named = document["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], schema)
    return _tag("details", _tag("summary", title, ": ", _kind(schema, "http")), _schema(named, "http"))


def _channel(name: str, sockets: Json) -> _Markup:
    channel = sockets["channels"][name]
    return _tag(
        "section",
        _tag("h2", channel["address"]),
        _prose(channel["description"]),
        *(_socket_message(name, kind, sockets) for kind in channel["messages"]),
    )


def _socket_message(channel: str, kind: str, sockets: Json) -> _Markup:
    message = sockets["components"]["messages"][kind]
    ways = {"receive": f"{channel} → server", "send": f"server → {channel}"}
    examples = [
        (ways[sockets["operations"][example["name"]]["action"]], example["payload"])
        for example in message["examples"]
        if sockets["operations"][example["name"]]["channel"]["$ref"] == f"#/channels/{channel}"
    ]
    data = message["payload"]["properties"]["data"]["$ref"].rpartition("/")[2]
    return _tag(
        "article",
        _tag(
            "h3", _tag("code", message["name"]), " ", _tag("span", ", ".join(way for way, _ in examples), class_="dim")
        ),
        _tag("p", _spans(message["summary"])),
        _prose(message.get("description", "")),
        _tag("details", _tag("summary", "Data"), _fields(sockets["components"]["schemas"][data], "ws")),
        *(
            _tag(
                "details",
                _tag("summary", f"Example, {way}"),
                _tag("pre", msgspec.json.format(msgspec.json.encode(payload), indent=2).decode()),
            )
            for way, payload in examples
        ),
        id=f"{channel}-{kind}",
    )


def _types(title: str, prefix: str, document: Json) -> Iterator[_Markup]:
    yield _tag("h2", title, id=prefix)
    for name, schema in sorted(document["components"]["schemas"].items()):
        yield _tag("article", _tag("h3", _tag("code", name)), _schema(schema, prefix), id=f"{prefix}-{name}")


def _schema(schema: Json, prefix: str) -> _Markup:
    """A type as people read it: what it means, then its fields, or what it may be."""
    about = _prose(schema.get("description", ""))
    shown = _fields(schema, prefix) if "properties" in schema else _tag("p", _kind(schema, prefix))
    return _joined(about, shown)


def _fields(schema: Json, prefix: str) -> _Markup:
    if not schema["properties"]:
        return _tag("p", "No fields.", class_="dim")
    rows = (
        (_name({"name": name, "required": name in schema.get("required", [])}), _kind(field, prefix), _about(field))
        for name, field in schema["properties"].items()
    )
    return _table(("field", "type", ""), rows)


def _name(told: Json) -> _Markup:
    return _joined(_tag("code", told["name"]), "" if told.get("required") else _tag("span", " optional", class_="dim"))


def _about(told: Json) -> _Markup:
    schema = told.get("schema", told)
    default = [f"default `{msgspec.json.encode(schema['default']).decode()}`"] if "default" in schema else []
    return _spans("; ".join([*filter(None, [told.get("description")]), *default]))


def _kind(schema: Json, prefix: str) -> _Markup:
    """The type of a value in a few words."""
    match schema:
        case {"$ref": reference}:
            name = reference.rpartition("/")[2]
            return _tag("a", name, href=f"#{prefix}-{name}")
        case {"const": value}:
            return _literal(value)
        case {"enum": values}:
            return _between(map(_literal, values), " | ")
        case {"anyOf": options}:
            return _between((_kind(option, prefix) for option in options), " or ")
        case {"type": "array"}:
            return _joined("list of ", _kind(schema["items"], prefix), _limits(schema, "Items", "items"))
        case {"type": "object", "additionalProperties": dict(values)}:
            return _joined("map of ", _kind(values, prefix), _limits(schema, "Properties", "names"))
        case {"type": name}:
            told = schema.get("format") or schema.get("pattern")
            return _joined(name, f" ({told})" if told else "", _limits(schema, "Length", "characters"))
    return _joined("any JSON")


def _literal(value: object) -> _Markup:
    return _tag("code", msgspec.json.encode(value).decode())


def _limits(schema: Json, measured: str, unit: str) -> str:
    least = schema.get(f"min{measured}", schema.get("minimum"))
    most = schema.get(f"max{measured}", schema.get("maximum"))
    of = f" {unit}" if f"min{measured}" in schema or f"max{measured}" in schema else ""
    match least, most:
        case None, None:
            return ""
        case None, _:
            return f", at most {most}{of}"
        case _, None:
            return f", at least {least}{of}"
        case _:
            return f", {least} to {most}{of}"
