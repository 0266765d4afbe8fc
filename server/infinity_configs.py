"""Infinity lines as seed 001 has them: configurations, with the vendor's own settings beside the line's.

A configuration is a line (lines.py) at Infinity, by the same id, and so a channel (infinity_channels.py) as well: what
is changed here is changed there.
"""

from typing import Annotated, Any, Literal

import msgspec

from protocol.errors import DialdeskError
from protocol.phone_number import normalize
from protocol.timestamps import Timestamp, rfc3339
from server.auth import actor_of
from server.http import Answer, Body, Done, RequestInfo
from server.identity import Identity
from server.line_config import Accounts, demand_sound, demand_version, named_in, one_of_a_kind
from server.lines import Lines, LineTrial, Name, Number, TestAnswer
from server.paging import Paging
from server.providers.infinity import InfinitySettings
from storage import channels, customers, lines
from storage.database import Connection, Database
from storage.idempotency import Once
from storage.lines import ExtensionPolicy, Health, Line, LineAccount, LineSearch, Setup

_SETTINGS = {field.name: field.encode_name for field in msgspec.structs.fields(InfinitySettings)}
"""The vendor's own settings, and what a line keeps them as."""

AppId = Annotated[str, msgspec.Meta(min_length=1, max_length=50)]
_Secret = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
_Text = Annotated[str, msgspec.Meta(max_length=500)]


class InfinityFields(Body, frozen=True, kw_only=True):
    """The vendor's settings, as docs/providers/infinity.md explains them. What is left out stays as it is, and so does
    an `accessKey` that is sent back masked."""

    app_id: AppId | msgspec.UnsetType = msgspec.UNSET
    access_key: _Secret | msgspec.UnsetType = msgspec.UNSET
    api: Literal["form", "json"] | msgspec.UnsetType = msgspec.UNSET
    base_url: _Text | msgspec.UnsetType | None = msgspec.UNSET
    company_code: _Text | msgspec.UnsetType = msgspec.UNSET
    region: _Text | msgspec.UnsetType = msgspec.UNSET
    dial_prefix: _Text | msgspec.UnsetType = msgspec.UNSET
    time_zone: _Text | msgspec.UnsetType = msgspec.UNSET

    @property
    def form(self) -> dict[str, Any]:
        """What is given, as a line's `providerConfig` has it."""
        given = msgspec.structs.asdict(self)
        names = {**_SETTINGS, "access_key": "accessKey"}
        return {name: given[field] for field, name in names.items() if given[field] is not msgspec.UNSET}


class InfinityTrial(InfinityFields, frozen=True, kw_only=True):
    """A configuration to be tried. None that is kept is used."""

    app_id: AppId
    access_key: _Secret


class InfinityConfigFields(InfinityFields, frozen=True, kw_only=True):
    """What may be set of a configuration; what is left out stays as it is. At most `maxConcurrent` calls are made over
    it at once, by extensions that `extensionPolicy` takes from its pool."""

    name: Name | msgspec.UnsetType = msgspec.UNSET
    caller_number: Number | msgspec.UnsetType | None = msgspec.UNSET
    max_concurrent: Annotated[int, msgspec.Meta(ge=1, le=100_000)] | msgspec.UnsetType = msgspec.UNSET
    call_timeout: Annotated[int, msgspec.Meta(ge=30, le=180)] | msgspec.UnsetType = msgspec.UNSET
    extension_policy: ExtensionPolicy | msgspec.UnsetType = msgspec.UNSET
    is_active: bool | msgspec.UnsetType = msgspec.UNSET


class NewInfinityConfig(InfinityConfigFields, frozen=True, kw_only=True):
    """A configuration to be made: off, unless it says otherwise."""

    name: Name
    app_id: AppId
    access_key: _Secret


class Toggle(Body, frozen=True, kw_only=True):
    """Whether calls are to be made over it."""

    is_active: bool


class InfinityConfig(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A configuration, its key masked. One that is being tested (seed 000) is not active. `version` goes into
    `If-Match`."""

    id: str
    tenant_id: str
    name: str
    app_id: str
    access_key: str
    api: Literal["form", "json"]
    base_url: str | None
    company_code: str
    region: str
    dial_prefix: str
    time_zone: str
    caller_number: str | None
    max_concurrent: int
    current_concurrent: int
    call_timeout: int
    extension_policy: ExtensionPolicy
    is_active: bool
    health: Health
    today_count: int
    version: int
    created_at: Timestamp
    updated_at: Timestamp


class InfinityConfigAnswer(Answer, frozen=True, kw_only=True):
    """A configuration."""

    config: InfinityConfig


class InfinityConfigList(Answer, frozen=True, kw_only=True):
    """A page of configurations, in the order in which they are taken."""

    configs: list[InfinityConfig]
    page: int
    page_size: int
    total: int


class InfinityConfigs:
    """The Infinity lines of all tenants, as configurations."""

    def __init__(self, database: Database, accounts: Accounts, lines_: Lines) -> None:
        self._database = database
        self._accounts = accounts
        self._lines = lines_

    async def list_configs(self, identity: Identity, query: Paging) -> InfinityConfigList:
        """List the tenant's Infinity configurations."""
        async with self._database.search() as connection:
            total, found = await lines.list_lines(
                connection, identity.tenant_id, LineSearch(provider="infinity"), query.asked
            )
        told = [_view(identity.tenant_id, line) for line in found]
        return InfinityConfigList(configs=told, page=query.page, page_size=query.page_size, total=total)

    async def get(self, identity: Identity, config_id: str) -> InfinityConfigAnswer:
        """Tell one configuration.

        Raises NOT_FOUND.
        """
        async with self._database.connection() as connection:
            line = await channels.line(connection, identity.tenant_id, config_id)
        return InfinityConfigAnswer(config=_view(identity.tenant_id, line))

    async def get_of_tenant(self, identity: Identity, config_id: str) -> InfinityConfigAnswer:
        """Tell one configuration; by the id of one's own tenant (seed 001) the one that is taken first.

        Raises NOT_FOUND.
        """
        if config_id != identity.tenant_id:
            return await self.get(identity, config_id)
        first = await self.list_configs(identity, Paging(page_size=1))
        if not first.configs:
            raise DialdeskError("NOT_FOUND", what="line")
        return InfinityConfigAnswer(config=first.configs[0])

    async def create(
        self, identity: Identity, body: NewInfinityConfig, request: RequestInfo, once: Once
    ) -> InfinityConfigAnswer:
        """Make a configuration.

        Raises ALREADY_EXISTS where its name or its account has one, INVALID_FIELD for what Infinity does not take or an
        address that is not one of the public internet, INVALID_PHONE, and NOT_FOUND for who belongs to no tenant.
        """
        judged = self._accounts.judge("infinity", body.form)
        blank = Setup(provider="infinity", name=body.name, account_id=body.app_id, settings=judged.settings)
        async with one_of_a_kind(), self._database.transaction() as connection:
            setup = await _amended(connection, identity.tenant_id, blank, body)
            actor, keys = actor_of(identity, request), self._accounts.keys
            line_id = await lines.create(connection, keys, actor, identity.tenant_id, setup, judged.credentials)
            line = await lines.get(connection, identity.tenant_id, line_id)
            answer = InfinityConfigAnswer(config=_view(identity.tenant_id, line))
            await once.keep(connection, answer)
        return answer

    async def update(
        self, identity: Identity, config_id: str, body: InfinityConfigFields, request: RequestInfo
    ) -> InfinityConfigAnswer:
        """Change what is named of a configuration.

        `If-Match` with the version that was read refuses with VERSION_CONFLICT what somebody else changed since. The
        key has to be given again when the address becomes another one. Raises NOT_FOUND, ALREADY_EXISTS, INVALID_FIELD
        and INVALID_PHONE.
        """
        tenant_id, keys = identity.tenant_id, self._accounts.keys
        async with one_of_a_kind(), self._database.transaction() as connection:
            before = await channels.line(connection, identity.tenant_id, config_id, lock=True)
            demand_version(request.headers.get("if-match"), before.version)
            kept: LineAccount = await lines.open_secrets(connection, keys, tenant_id, config_id)
            judged = self._accounts.judge("infinity", {**before.setup.settings, **body.form}, kept)
            setup = msgspec.structs.replace(before.setup, settings=judged.settings)
            if not isinstance(body.app_id, msgspec.UnsetType) and body.app_id != before.setup.settings["appId"]:
                setup = msgspec.structs.replace(setup, account_id=body.app_id)
            after = await _amended(connection, tenant_id, setup, body)
            actor = actor_of(identity, request)
            await lines.change(connection, keys, actor, tenant_id, before, after, judged.credentials)
            line = await lines.get(connection, tenant_id, config_id)
        return InfinityConfigAnswer(config=_view(tenant_id, line))

    async def toggle(
        self, identity: Identity, config_id: str, body: Toggle, request: RequestInfo
    ) -> InfinityConfigAnswer:
        """Turn a configuration on or off.

        Raises NOT_FOUND.
        """
        async with self._database.transaction() as connection:
            before = await channels.line(connection, identity.tenant_id, config_id, lock=True)
            after = msgspec.structs.replace(before.setup, status=int(body.is_active))
            actor = actor_of(identity, request)
            await lines.change(connection, self._accounts.keys, actor, identity.tenant_id, before, after)
            line = await lines.get(connection, identity.tenant_id, config_id)
        return InfinityConfigAnswer(config=_view(identity.tenant_id, line))

    async def delete(self, identity: Identity, config_id: str, request: RequestInfo) -> Done:
        """Delete a configuration: its key is erased, and the records of its calls stay.

        Raises NOT_FOUND, and IN_USE while calls are under way on it.
        """
        async with self._database.transaction() as connection:
            line = await channels.line(connection, identity.tenant_id, config_id, lock=True)
            await lines.delete(connection, actor_of(identity, request), identity.tenant_id, line)
        return Done()

    async def test_connection(self, identity: Identity, body: InfinityTrial) -> TestAnswer:
        """Sign in with a configuration that is not kept; nothing is dialled.

        Raises INVALID_FIELD, and RATE_LIMITED after six tests in a minute.
        """
        return await self._lines.test_config(identity, LineTrial(provider_type="infinity", provider_config=body.form))

    async def test(self, identity: Identity, config_id: str, request: RequestInfo) -> TestAnswer:
        """Sign in with a configuration as it is kept; nothing is dialled.

        Raises NOT_FOUND, and RATE_LIMITED after six tests in a minute.
        """
        async with self._database.connection() as connection:
            await channels.line(connection, identity.tenant_id, config_id)
        return await self._lines.test(identity, config_id, request)


async def _amended(connection: Connection, tenant_id: str, before: Setup, body: InfinityConfigFields) -> Setup:
    """A setup with what the request names, but for the vendor's own settings."""
    named = named_in(body)
    if not isinstance(body.is_active, msgspec.UnsetType):
        named["status"] = int(body.is_active)
    region = await customers.region(connection, tenant_id)
    if isinstance(body.caller_number, str):
        number = body.caller_number.strip()
        named["caller_number"] = normalize(number, region) if number else None
    after = msgspec.structs.replace(before, **named)
    demand_sound(after)
    return after


def _view(tenant_id: str, line: Line) -> InfinityConfig:
    setup = line.setup
    vendors = msgspec.structs.asdict(msgspec.convert(setup.settings, InfinitySettings))
    return InfinityConfig(
        id=line.id,
        tenant_id=tenant_id,
        name=setup.name,
        access_key=str(line.hints["accessKey"]),
        caller_number=setup.caller_number,
        max_concurrent=setup.max_concurrent,
        current_concurrent=line.concurrent,
        call_timeout=setup.call_timeout,
        extension_policy=setup.extension_policy,
        is_active=setup.status == 1,
        health=line.health,
        today_count=line.today,
        version=line.version,
        created_at=rfc3339(line.created_at),
        updated_at=rfc3339(line.updated_at),
        **vendors,
    )
