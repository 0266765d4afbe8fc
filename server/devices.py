"""Work phones: pairing, whose they are, what is known of them, how an agent calls out (seed 003 §2.2.1, §5.1, §6.1).

Neither `make_qr` nor `bind` takes an Idempotency-Key: their answers hold secrets, which are kept nowhere. Whoever lost
the answer makes a new QR code.
"""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
import segno

from protocol.errors import CloseCode, DialdeskError
from protocol.messages import DeviceBound, DeviceUnbind, DeviceUnbound, DeviceView, Id, Message, Text, encode
from protocol.pairing import BindPayload, clean_typed_code, new_typed_code
from protocol.phone_number import normalize
from protocol.timestamps import Timestamp, epoch_ms, rfc3339
from server.auth import actor_of, neighbourhood
from server.calls import Calls
from server.config import Config
from server.http import Answer, AppBody, Body, Done, RequestInfo
from server.identity import Identity
from server.relay import Relay
from server.tokens import digest, new_token
from storage import audit, devices, lines
from storage.database import Connection, Database
from storage.devices import Action, BindType, FoundToken, Handset, Outbound, Reach
from storage.events import Emitted, emit
from storage.live import Live
from storage.vault import Vault

_EXACT = msgspec.Meta(ge=-(2**53), le=2**53)  # what JavaScript holds exactly
Parameter = (
    bool | Annotated[int, _EXACT] | Annotated[float, _EXACT] | Annotated[str, msgspec.Meta(max_length=256)] | None
)
Parameters = Annotated[
    dict[Annotated[str, msgspec.Meta(min_length=1, max_length=64)], Parameter], msgspec.Meta(max_length=32)
]
"""The call parameters of seed 003 §6.1, whose names it leaves to the page: at most 32 plain values."""


class QrRequest(Body, frozen=True, kw_only=True):
    """For whom the phone will be; whoever asks, where nobody is named."""

    user_id: Id | None = None


class QrAnswer(Answer, frozen=True, kw_only=True):
    """A QR code as a PNG data URL, the JSON it holds, and eight characters to type where no camera works."""

    qr_code_url: str
    qr_code_data: str
    typed_code: str
    expires_at: Timestamp


class BindRequest(AppBody, frozen=True, kw_only=True):
    """What an app tells when it binds its phone. `token` is the QR code's, or what a person typed.

    `phoneNumber` is empty where the handset does not know it (iOS). `deviceToken` is the push token. With `force` a
    call that the server believes to be under way on this phone is closed as unknown.
    """

    token: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    device_id: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    phone_number: Annotated[str, msgspec.Meta(max_length=40)] = ""
    device_name: Annotated[str, msgspec.Meta(max_length=100)]
    device_model: Annotated[str, msgspec.Meta(max_length=100)]
    os_type: Literal["android", "ios"]
    os_version: Text
    app_version: Text
    device_token: Annotated[str, msgspec.Meta(max_length=4096)] | None = None
    force: bool = False


class BindAnswer(Answer, frozen=True, kw_only=True):
    """The phone is bound. `authToken` is told this once, and goes with every request and connection of the phone."""

    id: str
    websocket_url: str
    user_id: str
    auth_token: str


class ListQuery(Body, frozen=True, kw_only=True):
    """Which phones to tell: all that the asker reaches, one agent's, or those that are online or not."""

    user_id: Id | None = None
    online_status: Literal["online", "offline"] | None = None
    page: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1
    page_size: Annotated[int, msgspec.Meta(ge=1, le=100)] = 100


class ListedDevice(DeviceView, frozen=True, kw_only=True, rename="camel"):
    """A phone, and whose it is."""

    user_id: str
    user_name: str


class ListAnswer(Answer, frozen=True, kw_only=True):
    """A page of phones, the newest binding first; `total` counts all pages."""

    devices: list[ListedDevice]
    page: int
    page_size: int
    total: int


class UnbindQuery(Body, frozen=True, kw_only=True):
    """With `force` a call under way on the phone is closed as unknown."""

    force: bool = False


class StatusAnswer(Answer, frozen=True, kw_only=True):
    """Whether a phone is online, which it stays for the grace of a lost connection, and when it was last heard from."""

    online: bool
    last_heartbeat: Timestamp | None


class LogQuery(Body, frozen=True, kw_only=True):
    """Which lines of the bind log to tell: those after `cursor`, of all agents or of one."""

    user_id: Id | None = None
    cursor: Annotated[str, msgspec.Meta(pattern="^[0-9]{1,18}$")] | None = None
    page_size: Annotated[int, msgspec.Meta(ge=1, le=100)] = 50


class LogEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A line of the bind log (seed 003 §4.2.4). `deviceId` is the handset's own; `phoneId` the `id` of its binding."""

    id: str
    user_id: str
    user_name: str
    phone_id: str
    device_id: str
    phone_number: str
    device_name: str
    device_model: str
    os_type: str
    bind_type: BindType
    action: Action
    reason: str | None
    ip_address: str | None
    created_at: Timestamp


class LogAnswer(Answer, frozen=True, kw_only=True):
    """Lines of the bind log, the newest first; `nextCursor` asks for the rest, and is null where there is none."""

    records: list[LogEntry]
    next_cursor: str | None


class ConfigRequest(Body, frozen=True, kw_only=True):
    """How to call out from now on; what is not named stays as it is, and null means none."""

    call_method: Literal["mobile", "cloud"] | msgspec.UnsetType = msgspec.UNSET
    device_id: Id | msgspec.UnsetType | None = msgspec.UNSET
    line_id: Id | msgspec.UnsetType | None = msgspec.UNSET
    call_parameters: Parameters | msgspec.UnsetType = msgspec.UNSET


class ConfigAnswer(Answer, frozen=True, kw_only=True):
    """How an agent calls out; `deviceId` is the `id` of the phone that is used where a dial names none."""

    call_method: Literal["mobile", "cloud"]
    device_id: str | None
    line_id: str | None
    call_parameters: Parameters


class Unbound(msgspec.Struct, frozen=True, kw_only=True):
    """A phone that was unbound in a transaction, and what is to be told once that is committed."""

    device_id: str
    node: str | None
    conn_epoch: int
    reason: str
    emitted: list[Emitted]


class Devices:
    """The work phones of all tenants."""

    def __init__(
        self, database: Database, relay: Relay, vault: Vault, live: Live, config: Config, calls: Calls
    ) -> None:
        self._database = database
        self._relay = relay
        self._vault = vault
        self._live = live
        self._config = config
        self._calls = calls
        self._websocket = f"ws{config.public_url.removeprefix('http').rstrip('/')}/ws"

    # --- binding ----------------------------------------------------------------------------------------------------

    async def make_qr(self, identity: Identity, body: QrRequest) -> QrAnswer:
        """Make a QR code by which a phone binds itself to an agent, once and soon.

        It takes `devices.bind`; for another agent `devices.manage` and the agent within reach, or an API key with
        `devices.bind_for`. Raises FORBIDDEN or PASSWORD_CHANGE_REQUIRED otherwise, and NOT_FOUND where there is no such
        agent, or it is disabled. It voids the agent's earlier codes that were not used: at most one lies about.
        """
        user_id = body.user_id or _own(identity)
        if not identity.may("devices.bind_for"):
            identity.require(_needed(identity, user_id))
        token, typed_code = new_token("ddb"), new_typed_code()
        async with self._database.transaction() as connection:
            agents = await devices.lock_agents(connection, _reach(identity), [user_id])
            if not agents.get(user_id):
                raise DialdeskError("NOT_FOUND", what="user")
            made_at, expires_at = await devices.make_token(
                connection,
                identity.tenant_id,
                user_id,
                identity.id,
                digest(token),
                digest(typed_code),
                self._config.bind_token_ttl,
            )
        data = BindPayload(self._websocket, token, user_id, epoch_ms(made_at)).encode()
        return QrAnswer(
            qr_code_url=await asyncio.to_thread(_draw, data),
            qr_code_data=data,
            typed_code=typed_code,
            expires_at=rfc3339(expires_at),
        )

    async def bind(self, body: BindRequest, request: RequestInfo) -> BindAnswer:
        """Bind the phone that asks to the agent for whom the QR code was made.

        A token serves once: an app that did not get the answer must not repeat the request, which would be refused with
        BIND_TOKEN_INVALID, but have a new QR code made. A phone that was bound in this tenant before moves to the new
        agent; its old token is void, and the session opened with it gets DEVICE_UNBIND and is closed with 4503, neither
        of which concerns the new token.

        Raises DEVICE_ON_CALL where a call is under way on the phone, CALL_CHANGED where `force` met one dialled at the
        same moment, INVALID_PHONE for a number that is none, and RATE_LIMITED where an address asks too often.
        """
        wait = await self._live.allow(f"bind:{neighbourhood(request.ip)}", self._config.login_rate, 60)
        if wait is not None:
            raise DialdeskError("RATE_LIMITED", retryAfter=wait)
        auth_token = new_token("ddp")
        async with self._database.transaction() as connection:
            token = await self._redeem(connection, body)
            tenant_id, user_id = token.tenant_id, token.user_id
            lost: list[Emitted] = []
            if body.force and token.device_id:
                await devices.hold(connection, tenant_id, [token.device_id])
                lost = await self._calls.close_lost(connection, tenant_id, [token.device_id], "rebound")
            bound = await devices.bind(connection, tenant_id, user_id, _handset(body, token.region), digest(auth_token))
            await self._refuse_on_call(connection, tenant_id, bound.id, force=body.force)
            if body.device_token:
                sealed = self._vault.seal(body.device_token.encode(), devices.push_token_place(bound.id))
                await devices.keep_push_token(connection, tenant_id, bound.id, sealed)
            moved_from = bound.old_user_id if bound.old_user_id != user_id else None
            if moved_from:  # held by _redeem already, unless the phone moved while this waited
                await devices.forget_default(connection, tenant_id, moved_from, bound.id)
            await devices.choose_first(connection, tenant_id, user_id, bound.id)
            await self._write_down(connection, token, bound.id, moved_from, request)
            device = await devices.find(connection, Reach(tenant_id), bound.id)
            assert device is not None
            events: list[tuple[str, Message]] = [(user_id, DeviceBound(device=device.view()))]
            if moved_from:
                events.append((moved_from, DeviceUnbound(device_id=bound.id, reason="moved")))
            told = await emit(connection, events)
        self._relay.announce([*lost, *told])
        self._close(bound.id, bound.old_node, bound.conn_epoch, "moved" if moved_from else "rebound")
        return BindAnswer(id=bound.id, websocket_url=f"{self._websocket}/phone", user_id=user_id, auth_token=auth_token)

    async def unbind(self, identity: Identity, device_id: str, query: UnbindQuery, request: RequestInfo) -> Done:
        """Unbind a phone: its token is void at once, and its session is closed.

        The agent's own phone takes `devices.bind`, another's `devices.manage` and the agent within reach: raises
        FORBIDDEN or PASSWORD_CHANGE_REQUIRED otherwise. Raises DEVICE_ON_CALL where a call is under way on the phone,
        and CALL_CHANGED where `force` met one dialled at the same moment.
        """
        async with self._database.transaction() as connection:
            device = await devices.find(connection, _reach(identity), device_id)
            if device is None:
                raise DialdeskError("NOT_FOUND", what="device")
            identity.require(_needed(identity, device.user_id))
            await devices.lock_agents(connection, Reach(identity.tenant_id), [device.user_id])
            actor, tenant_id = actor_of(identity, request), identity.tenant_id
            unbound = await self._free(
                connection, actor, tenant_id, device.user_id, [device_id], "unbound", force=query.force
            )
            if not unbound:  # somebody else unbound or moved it while this waited for the lock
                raise DialdeskError("NOT_FOUND", what="device")
            told = await emit(connection, [(device.user_id, DeviceUnbound(device_id=device_id, reason="unbound"))])
        self.announce_unbound(unbound)
        self._relay.announce(told)
        return Done()

    async def unbind_all(self, connection: Connection, actor: audit.Actor, user_id: str, reason: str) -> list[Unbound]:
        """Unbind all phones of an agent in the caller's transaction, closing their calls and voiding the agent's codes.

        `actor.tenant_id` is the agent's tenant, whoever acts; a user without one has no phones. Of calls, phones and
        streams the caller may have locked nothing; of agents only this one. Once committed, hand what it returns to
        `announce_unbound`. The agent gets no DEVICE_UNBOUND: an account that is being disabled has no page to tell.
        """
        if actor.tenant_id is None:
            return []
        await devices.lock_agents(connection, Reach(actor.tenant_id), [user_id])
        await devices.void_tokens(connection, actor.tenant_id, user_id)
        phones = await devices.bound_to(connection, actor.tenant_id, user_id)
        return await self._free(connection, actor, actor.tenant_id, user_id, phones, reason, force=True)

    def announce_unbound(self, unbound: Sequence[Unbound]) -> None:
        """Tell everybody of phones that were unbound, now that it is committed: pages, and the phones' sessions."""
        for phone in unbound:
            self._relay.announce(phone.emitted)
            self._close(phone.device_id, phone.node, phone.conn_epoch, phone.reason)

    async def _redeem(self, connection: Connection, body: BindRequest) -> FoundToken:
        """Use up the token that an app brings, holding its agent and the one who has the handset now."""
        token = await devices.find_token(
            connection, digest(body.token), digest(clean_typed_code(body.token)), body.device_id
        )
        if token is None:
            raise DialdeskError("BIND_TOKEN_INVALID")
        concerned = {token.user_id, token.owner_id or token.user_id}
        enabled = (await devices.lock_agents(connection, Reach(token.tenant_id), concerned))[token.user_id]
        if not enabled or not await devices.use_token(connection, token.tenant_id, token.hash):
            raise DialdeskError("BIND_TOKEN_INVALID")
        return token

    async def _write_down(
        self,
        connection: Connection,
        token: FoundToken,
        device_id: str,
        moved_from: str | None,
        request: RequestInfo,
    ) -> None:
        """Who bound what to whom: in the bind log and in the audit log."""
        action: Action = "move" if moved_from else "bind"
        await devices.log(
            connection,
            token.tenant_id,
            [device_id],
            action,
            bind_type="manual" if token.typed else "qrcode",
            reason=f"from {moved_from}" if moved_from else None,
            ip=request.ip,
        )
        await audit.record(
            connection,
            audit.Actor(kind="phone", id=device_id, tenant_id=token.tenant_id, ip=request.ip, request_id=request.id),
            action,
            "device",
            device_id,
            before={"userId": moved_from} if moved_from else None,
            after={"userId": token.user_id, "qrMadeBy": token.created_by},
        )

    async def _free(
        self,
        connection: Connection,
        actor: audit.Actor,
        tenant_id: str,
        user_id: str,
        device_ids: Sequence[str],
        reason: str,
        *,
        force: bool,
    ) -> list[Unbound]:
        """Unbind these phones of an agent who is held; what was emitted of their calls goes with the first of them."""
        await devices.hold(connection, tenant_id, device_ids)
        emitted = await self._calls.close_lost(connection, tenant_id, device_ids, reason) if force else []
        freed = await devices.unbind(connection, tenant_id, user_id, device_ids)
        for phone in freed:
            await self._refuse_on_call(connection, tenant_id, phone.id, force=force)
            await audit.record(
                connection, actor, "unbind", "device", phone.id, before={"userId": user_id}, reason=reason
            )
        await devices.log(connection, tenant_id, [phone.id for phone in freed], "unbind", reason=reason, ip=actor.ip)
        return [
            Unbound(
                device_id=phone.id,
                node=phone.node,
                conn_epoch=phone.conn_epoch,
                reason=reason,
                emitted=emitted if phone is freed[0] else [],
            )
            for phone in freed
        ]

    async def _refuse_on_call(self, connection: Connection, tenant_id: str, device_id: str, *, force: bool) -> None:
        """With `force` its call was closed; one that is there still was dialled a moment ago."""
        if await devices.on_call(connection, tenant_id, device_id):
            raise DialdeskError("CALL_CHANGED" if force else "DEVICE_ON_CALL")

    def _close(self, device_id: str, node: str | None, epoch: int, reason: str) -> None:
        last = encode(DeviceUnbind(reason=reason))
        self._relay.close_phone(node, device_id, CloseCode.UNBOUND, reason, last, epoch=epoch)

    # --- reading ----------------------------------------------------------------------------------------------------

    async def list_devices(self, identity: Identity, query: ListQuery) -> ListAnswer:
        """Tell the bound phones within reach."""
        async with self._database.connection() as connection:
            found, total = await devices.page(
                connection,
                _reach(identity),
                query.user_id,
                online_status=query.online_status,
                limit=query.page_size,
                offset=(query.page - 1) * query.page_size,
            )
        return ListAnswer(
            devices=[
                ListedDevice(
                    **msgspec.structs.asdict(device.view()), user_id=device.user_id, user_name=device.user_name
                )
                for device in found
            ],
            page=query.page,
            page_size=query.page_size,
            total=total,
        )

    async def status(self, identity: Identity, device_id: str) -> StatusAnswer:
        """Tell whether a phone is online."""
        async with self._database.connection() as connection:
            device = await devices.find(connection, _reach(identity), device_id)
        if device is None:
            raise DialdeskError("NOT_FOUND", what="device")
        return StatusAnswer(online=device.online_status == "online", last_heartbeat=rfc3339(device.last_heartbeat))

    async def bind_log(self, identity: Identity, query: LogQuery) -> LogAnswer:
        """Tell who bound, moved and unbound which phone, the newest first."""
        async with self._database.connection() as connection:
            lines = await devices.read_log(
                connection,
                _reach(identity),
                query.user_id,
                before=None if query.cursor is None else int(query.cursor),
                limit=query.page_size + 1,
            )
        told = lines[: query.page_size]
        return LogAnswer(
            records=[
                LogEntry(
                    id=str(line.id),
                    user_id=line.user_id,
                    user_name=line.user_name,
                    phone_id=line.device_id,
                    device_id=line.hardware_id,
                    phone_number=line.phone_number,
                    device_name=line.device_name,
                    device_model=line.device_model,
                    os_type=line.os_type,
                    bind_type=line.bind_type,
                    action=line.action,
                    reason=line.reason,
                    ip_address=line.ip,
                    created_at=rfc3339(line.at),
                )
                for line in told
            ],
            next_cursor=str(told[-1].id) if len(lines) > len(told) else None,
        )

    # --- how an agent calls out -------------------------------------------------------------------------------------

    async def get_config(self, identity: Identity) -> ConfigAnswer:
        """Tell how the asker calls out: by phone or by line, by which of them, and with which parameters.

        Raises INVALID_FIELD for an API key, which acts for no user by itself.
        """
        async with self._database.connection() as connection:
            return _told(await devices.outbound(connection, identity.tenant_id, _own(identity)))

    async def put_config(self, identity: Identity, body: ConfigRequest) -> ConfigAnswer:
        """Set how the asker calls out. The default phone is one of the asker's own, the line one on which it can call.

        Raises NOT_FOUND where it is not.
        """
        own = Reach(identity.tenant_id, _own(identity), teams=())
        given = {name: value for name, value in msgspec.structs.asdict(body).items() if value is not msgspec.UNSET}
        async with self._database.transaction() as connection:
            await devices.lock_agents(connection, own, [_own(identity)])
            if isinstance(body.device_id, str) and await devices.find(connection, own, body.device_id) is None:
                raise DialdeskError("NOT_FOUND", what="device")
            if isinstance(body.line_id, str):
                known = await lines.for_dial(connection, identity.tenant_id, _own(identity))
                if body.line_id not in {line.id for line in known if line.seat is not None or line.needs_extension}:
                    raise DialdeskError("NOT_FOUND", what="line")
            before = _told(await devices.outbound(connection, identity.tenant_id, _own(identity)))
            after = msgspec.structs.replace(before, **given)
            await devices.put_outbound(
                connection,
                identity.tenant_id,
                _own(identity),
                Outbound(
                    call_method=after.call_method,
                    device_id=after.device_id,
                    line_id=after.line_id,
                    call_parameters=msgspec.json.encode(after.call_parameters),
                ),
            )
        return after


def _own(identity: Identity) -> str:
    """The agent who asks. An API key is nobody: raises INVALID_FIELD."""
    if identity.user_id is None:
        raise DialdeskError("INVALID_FIELD", reason="an API key acts for no user by itself: give userId")
    return identity.user_id


def _reach(identity: Identity) -> Reach:
    """Everybody reaches what is their own, whatever else they reach."""
    teams = [] if identity.only_user is not None else identity.only_teams
    return Reach(identity.tenant_id, identity.user_id, teams)


def _needed(identity: Identity, user_id: str) -> str:
    return "devices.bind" if user_id == identity.user_id else "devices.manage"


def _handset(body: BindRequest, region: str) -> Handset:
    """Raises INVALID_PHONE for a number that is told and is none; iOS tells none."""
    told = body.phone_number.strip()
    return Handset(
        hardware_id=body.device_id,
        phone_number=normalize(told, region) if told else "",
        name=body.device_name,
        model=body.device_model,
        os_type=body.os_type,
        os_version=body.os_version,
        app_version=body.app_version,
    )


def _told(how: Outbound | None) -> ConfigAnswer:
    if how is None:
        raise DialdeskError("NOT_FOUND", what="user")
    return ConfigAnswer(
        call_method=how.call_method,
        device_id=how.device_id,
        line_id=how.line_id,
        call_parameters=msgspec.json.decode(how.call_parameters, type=Parameters),
    )


def _draw(data: str) -> str:
    """Some 15 ms of work, so not to be done on the event loop."""
    return str(segno.make_qr(data, error="m").png_data_uri(scale=6))
