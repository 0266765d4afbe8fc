"""Calls as they change: dial, report, cancel, reap. Reading them afterwards is `records`.

A call is moved by compare-and-set on its `version`; every change writes the event that explains it and gives the agent
the event that tells it, in one statement.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple, Self

import asyncpg
import msgspec

from protocol.call import CallState, Status
from protocol.messages import NO_DATA, Capabilities, LiveCall, Message, encode_data
from protocol.phone_number import mask
from protocol.timestamps import rfc3339
from storage.database import Connection, queries, translated
from storage.events import Emitted, frame
from storage.idempotency import Once

_SQL = queries("calls")

Source = Literal["agent", "api", "phone", "provider", "reaper", "server"]


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """Whose calls the asker reaches: its own always, those of `only_teams`, or with neither all of the tenant."""

    tenant_id: str
    user_id: str | None
    only_user: str | None
    only_teams: list[str] | None

    @classmethod
    def whole(cls, tenant_id: str) -> Self:
        """All calls of a tenant: for a worker, and for who was judged otherwise."""
        return cls(tenant_id=tenant_id, user_id=None, only_user=None, only_teams=None)

    @property
    def filters(self) -> tuple[str | None, list[str] | None, str | None]:
        """The three arguments of a query that is to see no further."""
        return self.only_user, self.only_teams, self.user_id

    def covers(self, user_id: str, team_id: str | None) -> bool:
        """Whether an agent of the tenant, and of this team, is within it: what those arguments say in SQL."""
        if self.only_user is not None and user_id != self.only_user:
            return False
        return self.only_teams is None or team_id in self.only_teams or user_id == self.user_id


class Wanted(NamedTuple):
    """A dial that is asked for: by whom, for which agent, and under which key."""

    asker: Reach
    user_id: str
    once: Once | None


class Phone(msgspec.Struct, frozen=True, kw_only=True):
    """One of an agent's phones, as routing weighs it."""

    id: str
    hardware_id: str
    online: bool
    busy: bool
    capabilities: Capabilities


class DialContext(msgspec.Struct, frozen=True, kw_only=True):
    """What a dial needs to know of its agent, of the tenant's recording, and of when it calls. `now` is PostgreSQL's.

    `local` is the time of day at the tenant, which makes calls from `calling_from` to `calling_to`: `HH:MM`, which sort
    as they stand, to 24:00. `answered`: the request was answered before, under its key.
    """

    answered: bool
    team_id: str | None
    call_method: str
    default_device_id: str | None
    default_line_id: str | None
    disabled: bool
    region: str
    recording_enabled: bool
    recording_notice: str
    calls_enabled: bool
    calling_from: str
    calling_to: str
    local: str
    now: datetime
    phones: list[Phone]


class _ToBeMade(msgspec.Struct, frozen=True, kw_only=True):
    """A call that was asked for. `record`: a recording of it may be kept. Where nothing is heard of it for
    `reap_after_expiry` seconds after `expires_at`, the reaper looks."""

    id: str
    tenant_id: str
    user_id: str
    team_id: str | None
    created_by: str
    source: Source
    customer_phone: str
    customer_id: str | None
    customer_name: str | None
    order_id: str | None
    external_id: str | None
    custom_data: bytes | None
    record: bool
    expires_at: datetime
    reap_after_expiry: float


class NewCall(_ToBeMade, frozen=True, kw_only=True):
    """A call to be made on a phone, and the command that makes it, which may be executed until `expires_at`."""

    device_id: str
    command_id: str
    command: bytes
    resend_after: float


class NewCloudCall(_ToBeMade, frozen=True, kw_only=True):
    """A call to be made over a line. The order for it may be written until `expires_at`. `case_type` and `tags` decide,
    with others, over which line."""

    case_type: str | None = None
    tags: Sequence[str] = ()


class NewDial(NamedTuple):
    """A call to be made on a phone, and the answer to be kept for who asked."""

    call: NewCall
    once: Once
    answer: msgspec.Struct


class Dialled(msgspec.Struct, frozen=True):
    """What the rows said at the moment of the dial: `refused` where no call was made, else the node of its phone.

    UNAVAILABLE: the dial waited until its time was up. NO_DEVICE is also that of an agent that was disabled meanwhile.
    """

    refused: Literal["NO_DEVICE", "DO_NOT_CALL", "DEVICE_OFFLINE", "DEVICE_BUSY", "UNAVAILABLE"] | None
    node: str | None = None


class StoredCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call as reports see it; `state` is what they can change.

    Where `recording_stored`, what `state` says of the recording is what came into the store, whether or not it is there
    still. `never_given`: no phone has acknowledged it, and no order for it may have been written. `attempt` is the
    number of its latest attempt over a line.
    """

    id: str
    tenant_id: str
    user_id: str
    device_id: str | None
    node: str | None
    version: int
    state: CallState
    reap_at: datetime | None
    recording_stored: bool
    customer_phone: str
    customer_id: str | None
    customer_name: str | None
    order_id: str | None
    external_id: str | None
    custom_data: msgspec.Raw
    capabilities: Capabilities
    now: datetime
    seen: bool
    never_given: bool
    attempt: int | None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a call changed: one row of its history. `data` is JSON, without a customer's number."""

    source: Source
    kind: str
    effect: Literal["moved", "enriched", "none", "illegal"]
    data: bytes
    message_id: str | None = None


class Change(NamedTuple):
    """A call as it was read, what it comes to, when the reaper looks at it, why, and what its agent is told."""

    call: StoredCall
    state: CallState
    reap_at: datetime | None
    why: Explanation
    tell: Message


class DueCommand(msgspec.Struct, frozen=True, kw_only=True):
    """A command that was not acked in time. `sends` counts this sending too; `epoch` is its phone's session."""

    id: str
    device_id: str
    type: str
    data: bytes
    sends: int
    epoch: int


class VisibleCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that the asker reaches, as far as hanging it up needs to know."""

    status: Status
    device_id: str | None
    node: str | None
    cancelled: bool
    can_hang_up: bool


async def context(connection: Connection, asker: Reach, user_id: str) -> DialContext | None:
    """Return what a dial for the agent needs, or None where there is no such agent within the asker's reach."""
    return (await contexts(connection, [Wanted(asker, user_id, None)]))[0]


async def contexts(connection: Connection, wanted: Sequence[Wanted]) -> list[DialContext | None]:
    """Return what each of these dials needs, in order; None where there is no such agent within the asker's reach."""
    asked = [
        (one.asker.tenant_id, one.user_id, *((None,) * 3 if one.once is None else one.once.place)) for one in wanted
    ]
    rows: list[list[asyncpg.Record]] = [[] for _ in wanted]
    for row in await connection.fetch(_SQL["contexts"], *zip(*asked, strict=True)):
        rows[row["n"] - 1].append(row)
    return [
        _context(of) if of and one.asker.covers(of[0]["user_id"], of[0]["team_id"]) else None
        for one, of in zip(wanted, rows, strict=True)
    ]


async def customer_phone(connection: Connection, tenant_id: str, customer_id: str) -> tuple[str, str] | None:
    """Return (number, name) of a customer of this tenant, by our id or the CRM's."""
    row = await connection.fetchrow(_SQL["customer_phone"], tenant_id, customer_id)
    return None if row is None else (row["phone"], row["name"])


async def dial_all(connection: Connection, dials: Sequence[NewDial]) -> list[Dialled]:
    """Make each call, its first event, its command and the kept answer, all in one statement or nothing.

    Raises Duplicate: `call_live_device` where a phone is on a call, `idempotency_key_once` for a twin.
    """
    asked = [
        (
            call.tenant_id,
            call.device_id,
            call.user_id,
            call.id,
            call.team_id,
            call.created_by,
            call.customer_phone,
            call.customer_id,
            call.customer_name,
            call.order_id,
            call.external_id,
            None if call.custom_data is None else call.custom_data.decode(),
            call.source,
            msgspec.json.encode({"createdBy": call.created_by, "deviceId": call.device_id}).decode(),
            call.command_id,
            call.expires_at,
            call.reap_after_expiry,
            call.command.decode(),
            call.resend_after,
            *once.row(answer),
            call.record,
        )
        for call, once, answer in dials
    ]
    with translated():
        rows = await connection.fetch(_SQL["dial"], *zip(*asked, strict=True))
    dialled = [Dialled("NO_DEVICE")] * len(dials)
    for row in rows:
        if row["listed"]:
            told = Dialled("DO_NOT_CALL")
        elif row["online_status"] == "offline":
            told = Dialled("DEVICE_OFFLINE")
        elif row["handset_busy"]:
            told = Dialled("DEVICE_BUSY")
        else:
            told = Dialled("UNAVAILABLE") if row["late"] else Dialled(None, row["node"])
        dialled[row["n"] - 1] = told
    return dialled


async def read(
    connection: Connection, tenant_id: str, call_id: str, message_id: str | None = None
) -> StoredCall | None:
    """Return a call as reports see it; `seen` tells whether the report `message_id` is in its history."""
    return (await read_all(connection, [(tenant_id, call_id, message_id)]))[0]


async def read_all(connection: Connection, wanted: Sequence[tuple[str, str, str | None]]) -> list[StoredCall | None]:
    """The same of each (tenant id, call id, message id), in order."""
    found: list[StoredCall | None] = [None] * len(wanted)
    for row in await connection.fetch(_SQL["read"], *zip(*wanted, strict=True)):
        known: dict[str, Any] = dict(row)
        place = known.pop("n") - 1
        known["state"] = msgspec.convert({name: known.pop(name) for name in CallState.__struct_fields__}, CallState)
        known["capabilities"] = _capabilities(known["capabilities"])
        known["custom_data"] = raw(known["custom_data"])
        found[place] = StoredCall(**known)
    return found


async def change(connection: Connection, change: Change) -> Emitted | None:
    """Move a call from the version that was read; None where somebody else moved it first.

    Raises Duplicate(`call_event_once`) where the same report was applied meanwhile.
    """
    return (await change_all(connection, [change]))[0]


async def change_all(connection: Connection, changes: Sequence[Change]) -> list[Emitted | None]:
    """The same with each of these, in order: of two that move one call from the same version one does.

    All in one statement or nothing: raises Duplicate(`call_event_once`) where one of these reports was applied
    meanwhile.
    """
    tellings = [encode_data(one.tell).decode() for one in changes]
    asked = [
        (
            one.call.tenant_id,
            one.call.id,
            one.call.version,
            one.state.status,
            one.state.dialing_at,
            one.state.ringing_at,
            one.state.connected_at,
            one.state.connected_evidence,
            one.state.ended_at,
            one.state.outcome,
            one.state.closed_by,
            one.state.evidence,
            one.state.hangup_cause,
            one.state.raw_cause,
            one.state.duration,
            one.state.has_recording,
            one.state.recording_size,
            one.reap_at,
            one.why.source,
            one.why.kind,
            one.why.effect,
            one.why.message_id,
            one.why.data.decode(),
            one.tell.type,
            telling,
        )
        for one, telling in zip(changes, tellings, strict=True)
    ]
    with translated():
        rows = await connection.fetch(_SQL["change"], *zip(*asked, strict=True))
    emitted: list[Emitted | None] = [None] * len(changes)
    for row in rows:
        place, user_id, seq = row["n"] - 1, row["user_id"], row["seq"]
        told = frame(user_id, seq, changes[place].tell.type, tellings[place])
        emitted[place] = Emitted(user_id, seq, told, row["nodes"])
    return emitted


async def note(connection: Connection, call: StoredCall, why: Explanation) -> None:
    """Record a report that changed nothing."""
    await connection.execute(
        _SQL["note"], call.tenant_id, call.id, why.source, why.kind, why.effect, why.message_id, why.data.decode()
    )


async def visible(connection: Connection, asker: Reach, call_id: str) -> VisibleCall | None:
    """Return the call if it lies within the asker's reach."""
    row = await connection.fetchrow(_SQL["visible"], asker.tenant_id, call_id, *asker.filters)
    if row is None:
        return None
    return VisibleCall(
        status=Status(row["status"]),
        device_id=row["device_id"],
        node=row["node"],
        cancelled=row["cancelled"],
        can_hang_up=_capabilities(row["capabilities"]).hang_up,
    )


async def cancel(
    connection: Connection,
    tenant_id: str,
    call_id: str,
    command_id: str,
    command: bytes,
    source: Source,
    actor_id: str,
    resend_after: float,
) -> bool:
    """Commit a CANCEL_DIAL and stop sending the dial; False where the call has ended or is being cancelled already."""
    asked = msgspec.json.encode({"by": actor_id}).decode()
    row = await connection.fetchval(
        _SQL["cancel"], tenant_id, call_id, command_id, command.decode(), source, asked, resend_after
    )
    return row is not None


async def doubt(connection: Connection, tenant_id: str, call_id: str, seconds: float) -> None:
    """Let the reaper look at a living call within so many seconds: its phone does not know of it any more."""
    await connection.execute(_SQL["doubt"], tenant_id, call_id, seconds)


async def ack_all(connection: Connection, acks: Sequence[tuple[str, str]]) -> None:
    """Phones say that they have commands on their disks: (command id, device id)."""
    await connection.execute(_SQL["ack"], *zip(*acks, strict=True))


async def due(connection: Connection, node: str, resend_after: float) -> list[DueCommand]:
    """Claim the commands that phones of this node did not ack in time, and move them on by `resend_after` seconds."""
    return [
        DueCommand(
            id=row["id"],
            device_id=row["device_id"],
            type=row["type"],
            data=row["data"].encode(),
            sends=row["sends"],
            epoch=row["conn_epoch"],
        )
        for row in await connection.fetch(_SQL["due"], node, resend_after)
    ]


async def silence(connection: Connection) -> None:
    """Send commands no more that have expired."""
    await connection.execute(_SQL["silence"])


async def overdue(connection: Connection) -> list[tuple[str, str]]:
    """Return (tenant id, call id) of calls that have stood still for longer than their state may."""
    return [(row["tenant_id"], row["id"]) for row in await connection.fetch(_SQL["overdue"])]


async def living_of(connection: Connection, tenant_id: str, device_ids: Sequence[str]) -> list[str]:
    """Return and lock the living calls of these phones."""
    return [row["id"] for row in await connection.fetch(_SQL["living_of"], tenant_id, list(device_ids))]


async def living_of_agent(connection: Connection, user_id: str) -> list[LiveCall]:
    """Return the living calls of an agent, numbers masked."""
    return [
        LiveCall(
            call_id=row["id"],
            status=Status(row["status"]),
            call_method=row["call_method"],
            customer_phone=mask(row["customer_phone"]),
            created_at=rfc3339(row["created_at"]),
            device_id=row["device_id"],
            customer_name=row["customer_name"],
            customer_id=row["customer_id"],
            order_id=row["order_id"],
            external_id=row["external_id"],
            custom_data=raw(row["custom_data"]),
            connected_at=rfc3339(row["connected_at"]),
        )
        for row in await connection.fetch(_SQL["living_of_agent"], user_id)
    ]


def raw(json: str | None) -> msgspec.Raw:
    """Return a JSON column as what an answer embeds; an absent one as what answers omit."""
    return NO_DATA if json is None else msgspec.Raw(json.encode())


def _context(rows: Sequence[asyncpg.Record]) -> DialContext:
    """One row for each phone of the agent."""
    first = rows[0]
    return DialContext(
        answered=first["answered"],
        team_id=first["team_id"],
        call_method=first["call_method"],
        default_device_id=first["default_device_id"],
        default_line_id=first["default_line_id"],
        disabled=first["disabled"],
        region=first["region"],
        recording_enabled=first["recording_enabled"],
        recording_notice=first["recording_notice"],
        calls_enabled=first["calls_enabled"],
        calling_from=first["calling_from"],
        calling_to=first["calling_to"],
        local=first["local"],
        now=first["now"],
        phones=[
            Phone(
                id=row["device_id"],
                hardware_id=row["hardware_id"],
                online=row["online_status"] == "online",
                busy=row["handset_busy"] or row["on_call"],
                capabilities=_capabilities(row["capabilities"]),
            )
            for row in rows
            if row["device_id"] is not None
        ],
    )


def _capabilities(json: str | None) -> Capabilities:
    return Capabilities() if json is None else msgspec.json.decode(json, type=Capabilities)
