"""Infinity lines as seed 000 has them: channels of a console, in snake_case, with a history and a key to be shown.

A channel is a line (lines.py) at Infinity, by the same id; what is changed here is changed there. Its `account_id` is
the vendor's appid and its `api_key` the accesskey. `api_secret`, which the vendor knows nothing of, is kept with them.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import msgspec
import structlog

from protocol.errors import DialdeskError
from protocol.timestamps import Timestamp, rfc3339
from server.auth import actor_of
from server.http import Body, Done, RequestInfo
from server.identity import Identity
from server.line_config import Accounts, Judged, demand_sound, demand_version, named_in, one_of_a_kind
from server.ssrf import Refused, check_url
from storage import audit, channels, lines
from storage.accounts import Page
from storage.audit import AuditLine, AuditSearch
from storage.database import Database
from storage.idempotency import Once
from storage.lines import Health, Line, LineAccount, LineSearch, Setup, Status
from storage.live import Live

log = structlog.get_logger()

REVEALS_AN_HOUR = 5
"""Keys that one user, or API key, may have shown."""

BESIDE = "api_secret"
"""What rests beside the provider's own credentials, under its name here."""

WEBHOOKS = "/api/v1/calls/webhook/"
"""What stands in the callback URLs of lines."""

NOT_ENFORCED = ("user_daily_limit", "max_retry", "interval_minutes")
"""What is kept, shown, and limits nothing yet."""

ChannelName = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
ChannelAccount = Annotated[str, msgspec.Meta(min_length=1, max_length=50)]
Secret = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Address = Annotated[str, msgspec.Meta(max_length=500)]
TimeOfDay = Annotated[str, msgspec.Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?$(?!\n)")]
ChannelTime = Annotated[str, msgspec.Meta(pattern=r"^\d{4,}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}$")]
"""A time by the tenant's clock."""

CALLED = {
    "id": "channel_id",
    "name": "channel_name",
    "window_start": "time_range_start",
    "window_end": "time_range_end",
}
"""What this face calls fields of a line, where it calls them otherwise."""


class ChannelBody(msgspec.Struct, frozen=True, kw_only=True, rename=CALLED, forbid_unknown_fields=True):
    """What a request brings, in snake_case."""


class ChannelFields(ChannelBody, frozen=True, kw_only=True):
    """What may be set of a channel; what is left out stays as it is, of a new one as seed 000 §9 has it.

    So does an `api_key` or an `api_secret` that is sent back masked. A `daily_limit` of 0 is none; the channel with the
    smallest `priority` is taken first. Calls are made from `window_start` to `window_end` by the tenant's clock, within
    08:00 to 21:00.
    """

    name: ChannelName
    account_id: ChannelAccount
    api_key: Secret | msgspec.UnsetType = msgspec.UNSET
    api_secret: Secret | msgspec.UnsetType = msgspec.UNSET
    callback_url: Address | msgspec.UnsetType | None = msgspec.UNSET
    priority: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] | msgspec.UnsetType = msgspec.UNSET
    daily_limit: Annotated[int, msgspec.Meta(ge=0, le=100_000)] | msgspec.UnsetType = msgspec.UNSET
    user_daily_limit: Annotated[int, msgspec.Meta(ge=1, le=10)] | msgspec.UnsetType = msgspec.UNSET
    call_timeout: Annotated[int, msgspec.Meta(ge=30, le=180)] | msgspec.UnsetType = msgspec.UNSET
    max_retry: Annotated[int, msgspec.Meta(ge=0, le=5)] | msgspec.UnsetType = msgspec.UNSET
    window_start: TimeOfDay | msgspec.UnsetType = msgspec.UNSET
    window_end: TimeOfDay | msgspec.UnsetType = msgspec.UNSET
    interval_minutes: Annotated[int, msgspec.Meta(ge=30, le=480)] | msgspec.UnsetType = msgspec.UNSET


class NewChannel(ChannelFields, frozen=True, kw_only=True):
    """A channel to be made, which is off."""

    api_key: Secret
    api_secret: Secret


class ChannelStatus(ChannelBody, frozen=True, kw_only=True):
    """0: off. 1: on. 2: testing, which dials test numbers only."""

    status: Status


class Reason(ChannelBody, frozen=True, kw_only=True):
    """Why a key must be seen; it stands in the audit log."""

    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]


class Footprint(Body, frozen=True, kw_only=True):
    """What somebody did on the console's page (seed 000, 二.1)."""

    event: Literal["infinity_config_page_view", "infinity_config_add_click"]


class ChannelsQuery(ChannelBody, frozen=True, kw_only=True):
    """Which channels to list: those in whose name `name` occurs, or in one status."""

    name: Annotated[str, msgspec.Meta(max_length=100)] = ""
    status: Status | None = None
    page: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1
    page_size: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20


class ChangeQuery(ChannelBody, frozen=True, kw_only=True):
    """With `dry_run` nothing is changed: the answer tells what would be."""

    dry_run: bool = False


class HistoryQuery(ChannelBody, frozen=True, kw_only=True):
    """Which part of a history, newest first: what is older than `cursor`."""

    cursor: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,18}$(?!\n)")] | None = None
    page_size: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20


class ChannelAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a request is told when it succeeds (seed 000 TRD 2)."""

    code: Literal[200] = 200
    message: str


class ChannelDone(ChannelAnswer, frozen=True, kw_only=True):
    """It is done, and there is nothing to add."""

    data: None = None


class ListedChannel(msgspec.Struct, frozen=True, kw_only=True, rename=CALLED):
    """A channel in a list."""

    id: str
    name: str
    account_id: str
    status: Status
    priority: int
    daily_limit: int
    user_daily_limit: int
    created_at: ChannelTime
    updated_at: ChannelTime


class ChannelDetail(ListedChannel, frozen=True, kw_only=True):
    """A channel, its key masked. `version` is for `If-Match`; `not_enforced` names what is kept and limits nothing."""

    api_key: str
    callback_url: str | None
    call_timeout: int
    max_retry: int
    window_start: str
    window_end: str
    interval_minutes: int
    created_by: str
    updated_by: str | None
    version: int
    not_enforced: list[str]


class ChannelPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some channels, and how many there are."""

    total: int
    list: list[ListedChannel]


class ChannelList(ChannelAnswer, frozen=True, kw_only=True):
    """A page of channels, in the order in which they are taken."""

    data: ChannelPage


class ChannelShown(ChannelAnswer, frozen=True, kw_only=True):
    """One channel."""

    data: ChannelDetail


class ChannelId(msgspec.Struct, frozen=True, kw_only=True):
    """Which channel it is."""

    channel_id: str


class ChannelMade(ChannelAnswer, frozen=True, kw_only=True):
    """The channel that was made."""

    data: ChannelId


class FieldChange(msgspec.Struct, frozen=True, kw_only=True):
    """A field that becomes another. Of a key that is replaced both are masked, and may look the same."""

    field: str
    before: Any
    after: Any


class ChannelChanges(msgspec.Struct, frozen=True, kw_only=True):
    """What would be changed, and of which version: sent with it as `If-Match`, the change is this one or none."""

    version: int
    changes: list[FieldChange]


class ChannelChanged(ChannelAnswer, frozen=True, kw_only=True):
    """It is changed; or with `dry_run` it is not, and `data` tells what would be."""

    data: ChannelChanges | None


class ChannelOperation(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was done to a channel: `create`, `update`, `status_change`, `delete`, `reveal`, or what else lines
    know. The fields that it changed stand in `before_data` and `after_data`, keys masked."""

    operation_type: str
    before_data: dict[str, Any] | None
    after_data: dict[str, Any] | None
    operator: str
    operation_time: ChannelTime
    client_ip: str | None
    remark: str | None


class ChannelOperations(msgspec.Struct, frozen=True, kw_only=True):
    """Some operations, newest first; `next_cursor` asks for older ones, and is null where there are none."""

    list: list[ChannelOperation]
    next_cursor: str | None


class ChannelHistory(ChannelAnswer, frozen=True, kw_only=True):
    """What was done to a channel, which may have been deleted since."""

    data: ChannelOperations


class ChannelState(msgspec.Struct, frozen=True, kw_only=True):
    """How a channel does. `balance` is null: the vendor does not tell it."""

    channel_id: str
    status: Status
    health: Health
    failures: int
    health_reason: str | None
    health_at: Timestamp | None
    heard_at: Timestamp | None
    current_concurrent: int
    max_concurrent: int
    today_count: int
    daily_limit: int
    balance: str | None = None


class ChannelHealth(ChannelAnswer, frozen=True, kw_only=True):
    """How a channel does."""

    data: ChannelState


class RevealedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key, in full."""

    channel_id: str
    api_key: str

    def __repr__(self) -> str:
        return f"RevealedKey({self.channel_id!r}, '**********')"


class ChannelKey(ChannelAnswer, frozen=True, kw_only=True):
    """What was hidden."""

    data: RevealedKey


class InfinityChannels:
    """The Infinity lines of all tenants, as channels."""

    def __init__(self, database: Database, accounts: Accounts, live: Live) -> None:
        self._database = database
        self._accounts = accounts
        self._live = live

    async def list_channels(self, identity: Identity, query: ChannelsQuery) -> ChannelList:
        """List the tenant's Infinity channels.

        Raises NOT_FOUND for who belongs to no tenant.
        """
        search = LineSearch(provider="infinity", status=query.status, text=query.name or None)
        async with self._database.search() as connection:
            zone = await channels.clock(connection, identity.tenant_id)
            total, found = await lines.list_lines(
                connection, identity.tenant_id, search, Page(query.page, query.page_size)
            )
        return ChannelList(
            message="success", data=ChannelPage(total=total, list=[_listed(line, zone) for line in found])
        )

    async def get(self, identity: Identity, channel_id: str) -> ChannelShown:
        """Tell how one channel is set up.

        Raises NOT_FOUND.
        """
        async with self._database.connection() as connection:
            line = await channels.line(connection, identity.tenant_id, channel_id)
            zone = await channels.clock(connection, identity.tenant_id)
            names = await channels.usernames(connection, identity.tenant_id, (line.created_by, line.updated_by))
        return ChannelShown(message="success", data=_detail(line, zone, names))

    async def create(self, identity: Identity, body: NewChannel, request: RequestInfo, once: Once) -> ChannelMade:
        """Make a channel, which is off.

        Raises ALREADY_EXISTS where its name or its account has one, INVALID_FIELD, and NOT_FOUND for who belongs to no
        tenant.
        """
        with _tracked(identity, "create") as footprint:
            blank = Setup(provider="infinity", name=body.name, account_id=body.account_id)
            setup, judged = self._amended(blank, body, None)
            async with one_of_a_kind(), self._database.transaction() as connection:
                await channels.clock(connection, identity.tenant_id)  # there is a tenant
                line_id = await lines.create(
                    connection,
                    self._accounts.keys,
                    actor_of(identity, request),
                    identity.tenant_id,
                    setup,
                    judged.credentials,
                )
                message = _says(request, "配置创建成功", "The channel was made")
                answer = ChannelMade(message=message, data=ChannelId(channel_id=line_id))
                await once.keep(connection, answer)
            footprint.update(channel_id=line_id, config_data=_logged(setup))
        return answer

    async def update(
        self, identity: Identity, channel_id: str, body: ChannelFields, query: ChangeQuery, request: RequestInfo
    ) -> ChannelChanged:
        """Change what is named of a channel, or with `dry_run` tell what would be changed.

        `If-Match` with the version that was read refuses with VERSION_CONFLICT what somebody else changed since. Raises
        NOT_FOUND, ALREADY_EXISTS and INVALID_FIELD.
        """
        tenant_id, keys = identity.tenant_id, self._accounts.keys
        if query.dry_run:
            async with self._database.connection() as connection:
                before = await channels.line(connection, identity.tenant_id, channel_id)
                demand_version(request.headers.get("if-match"), before.version)
                kept = await lines.open_secrets(connection, keys, tenant_id, channel_id)
            after, judged = self._amended(before.setup, body, kept)
            return ChannelChanged(
                message=_says(request, "请确认变更", "Confirm the change"),
                data=ChannelChanges(version=before.version, changes=_changes(before, after, kept, judged)),
            )
        with _tracked(identity, "update", channel_id) as footprint:
            async with one_of_a_kind(), self._database.transaction() as connection:
                before = await channels.line(connection, identity.tenant_id, channel_id, lock=True)
                demand_version(request.headers.get("if-match"), before.version)
                kept = await lines.open_secrets(connection, keys, tenant_id, channel_id)
                after, judged = self._amended(before.setup, body, kept)
                await lines.change(
                    connection, keys, actor_of(identity, request), tenant_id, before, after, judged.credentials
                )
            footprint.update(config_data=_logged(after))
        return ChannelChanged(message=_says(request, "配置更新成功", "The channel was changed"), data=None)

    async def set_status(
        self, identity: Identity, channel_id: str, body: ChannelStatus, request: RequestInfo
    ) -> ChannelDone:
        """Turn a channel on or off, or put it under test.

        Raises NOT_FOUND.
        """
        async with self._database.transaction() as connection:
            before = await channels.line(connection, identity.tenant_id, channel_id, lock=True)
            after = msgspec.structs.replace(before.setup, status=body.status)
            await lines.change(
                connection, self._accounts.keys, actor_of(identity, request), identity.tenant_id, before, after
            )
        log.info(
            "infinity_config_status_change",
            user_id=identity.id,
            channel_id=channel_id,
            old_status=before.setup.status,
            new_status=body.status,
        )
        return ChannelDone(message=_says(request, "状态更新成功", "The status was changed"))

    async def delete(self, identity: Identity, channel_id: str, request: RequestInfo) -> ChannelDone:
        """Delete a channel: its keys are erased, and its history stays. One that is deleted already stays so.

        Raises NOT_FOUND, and IN_USE while calls are under way on it.
        """
        async with self._database.transaction() as connection:
            try:
                line = await channels.line(connection, identity.tenant_id, channel_id, lock=True)
            except DialdeskError:
                if not await channels.was_there(connection, identity.tenant_id, channel_id):
                    raise
            else:
                await lines.delete(connection, actor_of(identity, request), identity.tenant_id, line)
        log.info("infinity_config_delete", user_id=identity.id, channel_id=channel_id)
        return ChannelDone(message=_says(request, "配置删除成功", "The channel was deleted"))

    async def history(self, identity: Identity, channel_id: str, query: HistoryQuery) -> ChannelHistory:
        """List what was done to a channel, also to one that was deleted, newest first.

        Raises NOT_FOUND.
        """
        tenant_id = identity.tenant_id
        async with self._database.connection() as connection:
            if not await channels.was_there(connection, tenant_id, channel_id):
                raise DialdeskError("NOT_FOUND", what="line")
            zone = await channels.clock(connection, tenant_id)
            search = AuditSearch(resource="line", resource_id=channel_id)
            cursor = None if query.cursor is None else int(query.cursor)
            found, older = await audit.lines(connection, tenant_id, search, cursor, query.page_size)
            names = await channels.usernames(connection, tenant_id, (line.actor_id for line in found))
        told = ChannelOperations(
            list=[_operation(line, zone, names) for line in found],
            next_cursor=None if older is None else str(older),
        )
        return ChannelHistory(message="success", data=told)

    async def health(self, identity: Identity, channel_id: str) -> ChannelHealth:
        """Tell how a channel does, and how much it is used now.

        Raises NOT_FOUND.
        """
        async with self._database.connection() as connection:
            line = await channels.line(connection, identity.tenant_id, channel_id)
        state = ChannelState(
            channel_id=line.id,
            status=line.setup.status,
            health=line.health,
            failures=line.failures,
            health_reason=line.health_reason,
            health_at=rfc3339(line.health_at),
            heard_at=rfc3339(line.heard_at),
            current_concurrent=line.concurrent,
            max_concurrent=line.setup.max_concurrent,
            today_count=line.today,
            daily_limit=line.setup.daily_limit,
        )
        return ChannelHealth(message="success", data=state)

    async def reveal(self, identity: Identity, channel_id: str, body: Reason, request: RequestInfo) -> ChannelKey:
        """Show a channel's key in full, which the audit log keeps with the reason; the secret is never shown.

        Raises NOT_FOUND, and RATE_LIMITED after five in an hour.
        """
        wait = await self._live.allow(f"line-reveal:{identity.id}", REVEALS_AN_HOUR, 3600)
        if wait is not None:
            raise DialdeskError("RATE_LIMITED", retryAfter=wait)
        async with self._database.transaction() as connection:
            await channels.line(connection, identity.tenant_id, channel_id)
            account = await lines.open_secrets(connection, self._accounts.keys, identity.tenant_id, channel_id)
            actor = actor_of(identity, request)
            await audit.record(connection, actor, "reveal", "line", channel_id, reason=body.reason)
        key = msgspec.json.decode(account.secrets, type=dict[str, Any])["accessKey"]
        return ChannelKey(message="success", data=RevealedKey(channel_id=channel_id, api_key=key))

    async def track(self, identity: Identity, body: Footprint) -> Done:
        """Log what somebody did on the console's page."""
        log.info(body.event, user_id=identity.id)
        return Done()

    def _amended(self, before: Setup, body: ChannelFields, kept: LineAccount | None) -> tuple[Setup, Judged]:
        """A setup with what the request names, and its keys. Raises INVALID_FIELD."""
        named = named_in(body)
        if "callback_url" in named:
            named["callback_url"] = _sound_url(named["callback_url"])
        form = dict(before.settings)
        if kept is None or body.account_id != before.account_id:
            form["appId"] = body.account_id
        if not isinstance(body.api_key, msgspec.UnsetType):
            _demand_known(kept, "api_key", body.api_key)
            form["accessKey"] = body.api_key
        judged = self._accounts.judge("infinity", form, kept)
        if not isinstance(body.api_secret, msgspec.UnsetType):
            _demand_known(kept, "api_secret", body.api_secret)
            if not lines.is_masked(body.api_secret):
                credentials = {**judged.credentials, BESIDE: body.api_secret}
                judged = msgspec.structs.replace(judged, credentials=credentials)
        after = msgspec.structs.replace(before, settings=judged.settings, **named)
        demand_sound(after)
        return after, judged


def _demand_known(kept: LineAccount | None, field: str, secret: str) -> None:
    """Raise INVALID_FIELD where a new channel is given what is only shown of another's secret."""
    if kept is None and lines.is_masked(secret):
        raise DialdeskError("INVALID_FIELD", reason=f"this is masked - at `$.{field}`")


def _sound_url(told: str | None) -> str | None:
    """An address that may be called from here, or none. Raises INVALID_FIELD."""
    if not told:
        return None
    try:
        check_url(told)
    except Refused as refused:
        raise DialdeskError("INVALID_FIELD", reason=f"{refused} - at `$.callback_url`") from None
    if WEBHOOKS in told:  # it ends in the line's secret, which the audit log would tell
        reason = "paste this one at Infinity; it is kept already - at `$.callback_url`"
        raise DialdeskError("INVALID_FIELD", reason=reason)
    return told


@contextmanager
def _tracked(identity: Identity, operation: str, channel_id: str | None = None) -> Iterator[dict[str, Any]]:
    """Log what a console's page had saved, or why not (seed 000, 二.1); what is put into the dict stands there too."""
    footprint = {"user_id": identity.id, "channel_id": channel_id, "operation_type": operation}
    log.info("infinity_config_submit", **footprint)
    try:
        yield footprint
    except DialdeskError as refused:
        if refused.code == "INVALID_FIELD":
            field = re.search(r"\$\.(\w+)", str(refused))
            log.info(
                "infinity_config_validate_failed",
                user_id=identity.id,
                field_name=field and field[1],
                error_msg=str(refused),
            )
        log.info("infinity_config_save_failed", **footprint, error_code=refused.code, error_msg=str(refused))
        raise
    log.info("infinity_config_save_success", **footprint)


def _logged(setup: Setup) -> dict[str, Any]:
    """What a log tells of a setup: not the callback URL, of which a part may be secret."""
    return {CALLED.get(name, name): value for name, value in _settings(setup).items() if name != "callback_url"}


def _settings(setup: Setup) -> dict[str, Any]:
    """What a channel shows of a setup, by the names of its fields."""
    known = msgspec.to_builtins(setup)
    return {name: value for name, value in known.items() if name in ChannelDetail.__struct_fields__}


def _changes(before: Line, after: Setup, kept: LineAccount, judged: Judged) -> list[FieldChange]:
    """What would become of a channel. Of a key only what may be shown, of the secret nothing."""
    old, new = _settings(before.setup), _settings(after)
    changes = [
        FieldChange(field=CALLED.get(name, name), before=old[name], after=new[name])
        for name in new
        if old[name] != new[name]
    ]
    had, has = msgspec.json.decode(kept.secrets, type=dict[str, str]), judged.credentials
    if had["accessKey"] != has["accessKey"]:
        changes.append(
            FieldChange(field="api_key", before=before.hints["accessKey"], after=lines.mask(has["accessKey"]))
        )
    if had.get(BESIDE) != has.get(BESIDE):
        changes.append(FieldChange(field=BESIDE, before=None, after=None))
    return changes


def _listed(line: Line, zone: ZoneInfo) -> ListedChannel:
    known = _settings(line.setup)
    return ListedChannel(
        id=line.id,
        created_at=_local(line.created_at, zone),
        updated_at=_local(line.updated_at, zone),
        **{name: value for name, value in known.items() if name in ListedChannel.__struct_fields__},
    )


def _detail(line: Line, zone: ZoneInfo, names: Mapping[str, str]) -> ChannelDetail:
    return ChannelDetail(
        id=line.id,
        api_key=str(line.hints["accessKey"]),
        created_by=names.get(line.created_by, line.created_by),
        created_at=_local(line.created_at, zone),
        updated_by=line.updated_by and names.get(line.updated_by, line.updated_by),
        updated_at=_local(line.updated_at, zone),
        version=line.version,
        not_enforced=list(NOT_ENFORCED),
        **_settings(line.setup),
    )


def _operation(line: AuditLine, zone: ZoneInfo, names: Mapping[str, str]) -> ChannelOperation:
    turned = line.action == "update" and line.after is not None and line.after.keys() == {"status"}
    return ChannelOperation(
        operation_type="status_change" if turned else line.action,
        before_data=_data(line.before),
        after_data=_data(line.after),
        operator=names.get(line.actor_id, line.actor_id),
        operation_time=_local(datetime.fromisoformat(line.at), zone),
        client_ip=line.ip,
        remark=line.reason,
    )


def _data(audited: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What the audit log tells of a line, by the names of this face; of its keys what a channel shows."""
    if audited is None:
        return None
    told = {CALLED.get(name, name): value for name, value in audited.items()}
    if "credentials" in told:
        told["api_key"] = told.pop("credentials").get("accessKey")
    if told.pop("credentialsReplaced", False):
        told["keys_replaced"] = True
    return told


def _local(at: datetime, zone: ZoneInfo) -> str:
    return f"{at.astimezone(zone):%Y-%m-%d %H:%M:%S}"


def _says(request: RequestInfo, chinese: str, english: str) -> str:
    return chinese if request.language == "zh-CN" else english
