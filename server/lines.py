"""Lines of a tenant and the seats on them, as administrators set them up and agents see them (seed 003 §5.2).

Credentials go in and never come out: an answer has them masked. A line's callback URLs end in its token, which whoever
manages the line must read to paste it at the provider; `get` tells it to them, and nothing else does.
"""

import asyncio
import time as clock
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
import structlog

from protocol.errors import DialdeskError
from protocol.phone_number import normalize
from protocol.timestamps import Timestamp, rfc3339
from server.auth import actor_of
from server.http import Answer, Body, Done, RequestInfo
from server.identity import Identity
from server.line_config import LONGEST_ACCOUNT, Accounts, demand_sound, demand_version, named_in, one_of_a_kind, shown
from server.paging import Paging
from server.providers.catalogue import Form, describe
from server.providers.provider import PlacementRefused, Uncertain
from server.ssrf import Refused
from storage import customers, lines
from storage.database import Connection, Database
from storage.idempotency import Once
from storage.lines import ExtensionPolicy, Health, Line, LineSearch, ProviderName, SeatAt, SeatOf, Setup
from storage.live import Live
from storage.vault import SealError

log = structlog.get_logger()

MANAGE = "lines.manage"

TEST_DEADLINE = 10.0
"""Seconds for a test."""
TESTS_A_MINUTE = 6
"""Tests that one user, or key, may ask for."""

_Word = Annotated[str, msgspec.Meta(min_length=1, max_length=50)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
AccountId = Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_ACCOUNT)]
ProviderConfig = Annotated[dict[str, Any], msgspec.Meta(max_length=64)]
Number = Annotated[str, msgspec.Meta(max_length=40)]
StatusWord = Literal["inactive", "active", "testing"]
Clock = Annotated[str, msgspec.Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$(?!\n)")]
Words = Annotated[list[_Word], msgspec.Meta(max_length=50)]

_STATUS: tuple[StatusWord, ...] = ("inactive", "active", "testing")
"""The words of seed 003 for the numbers of seed 000."""


class LineFields(Body, frozen=True, kw_only=True):
    """What may be set of a line; of a new one the rest is as seed 000 §9 has it, of another it stays as it is.

    `providerConfig` holds settings and credentials by the names that `GET /api/v1/calls/lines/providers` tells. It is
    set as a whole, but for credentials: one that is left out, or sent back masked, stays, and null takes one away.
    `accountId` names the account at the provider, and is taken from `providerConfig` where it is not given: one account
    is one line. A `dailyLimit` of 0 is none. Of lines that could carry a call the one with the smallest `priority` is
    taken, in proportion to `weight`. Calls are made from `windowStart` to `windowEnd` by the tenant's clock.
    `allowedNetworks` are those that callbacks may come from; none: any.
    """

    name: Name | msgspec.UnsetType = msgspec.UNSET
    account_id: AccountId | msgspec.UnsetType = msgspec.UNSET
    provider_config: ProviderConfig | msgspec.UnsetType = msgspec.UNSET
    caller_number: Number | msgspec.UnsetType | None = msgspec.UNSET
    status: StatusWord | msgspec.UnsetType = msgspec.UNSET
    priority: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] | msgspec.UnsetType = msgspec.UNSET
    weight: Annotated[int, msgspec.Meta(ge=0, le=1000)] | msgspec.UnsetType = msgspec.UNSET
    max_concurrent: Annotated[int, msgspec.Meta(ge=1, le=100_000)] | msgspec.UnsetType = msgspec.UNSET
    daily_limit: Annotated[int, msgspec.Meta(ge=0, le=100_000)] | msgspec.UnsetType = msgspec.UNSET
    user_daily_limit: Annotated[int, msgspec.Meta(ge=1, le=10)] | msgspec.UnsetType = msgspec.UNSET
    call_timeout: Annotated[int, msgspec.Meta(ge=30, le=180)] | msgspec.UnsetType = msgspec.UNSET
    max_retry: Annotated[int, msgspec.Meta(ge=0, le=5)] | msgspec.UnsetType = msgspec.UNSET
    window_start: Clock | msgspec.UnsetType = msgspec.UNSET
    window_end: Clock | msgspec.UnsetType = msgspec.UNSET
    interval_minutes: Annotated[int, msgspec.Meta(ge=30, le=480)] | msgspec.UnsetType = msgspec.UNSET
    extension_policy: ExtensionPolicy | msgspec.UnsetType = msgspec.UNSET
    case_types: Words | msgspec.UnsetType = msgspec.UNSET
    tags: Words | msgspec.UnsetType = msgspec.UNSET
    allowed_networks: Words | msgspec.UnsetType = msgspec.UNSET


class NewLine(LineFields, frozen=True, kw_only=True):
    """A line to be made: off, unless it says otherwise."""

    name: Name
    provider_type: ProviderName
    provider_config: ProviderConfig


class LineTrial(Body, frozen=True, kw_only=True):
    """A configuration to be tried. Its credentials are given in full: none of a line that is kept is used."""

    provider_type: ProviderName
    provider_config: ProviderConfig


class LinesQuery(Paging, frozen=True, kw_only=True):
    """Which lines to list: those in whose name `search` occurs, of one provider, or in one status."""

    page_size: Annotated[int, msgspec.Meta(ge=1, le=100)] = 100
    search: Annotated[str, msgspec.Meta(min_length=1, max_length=100)] | None = None
    provider_type: ProviderName | None = None
    status: StatusWord | None = None


class SeatBody(Body, frozen=True, kw_only=True):
    """Who an agent is at the line's provider: `seatId` is the id there, such as a UserId or cno, and `number` the
    telephone that is rung first. Which of them it takes, the provider's page says."""

    seat_id: Annotated[str, msgspec.Meta(max_length=128)] = ""
    number: Number = ""


class LineView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A line as agents see it. `todayCount` counts calls since midnight by the tenant's clock, `seats` who has one."""

    id: str
    name: str
    provider_type: ProviderName
    caller_number: str | None
    status: StatusWord
    health: Health
    max_concurrent: int
    current_concurrent: int
    daily_limit: int
    today_count: int
    seats: int


class LineConfig(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How a line is set up, and how it does, as its administrators see it.

    `providerConfig` has credentials masked. `callbackUrls` are what to paste at the provider, by what it sends there;
    without the right to read them, or where the key they are sealed under is missing, there are none. `heardAt` is when
    a callback last came, to the minute. `notEnforced` names what is kept and limits nothing yet.
    """

    account_id: str
    provider_config: dict[str, Any]
    callback_urls: dict[str, str]
    heard_at: Timestamp | None
    allowed_networks: list[str]
    priority: int
    weight: int
    user_daily_limit: int
    call_timeout: int
    max_retry: int
    window_start: str
    window_end: str
    interval_minutes: int
    extension_policy: ExtensionPolicy
    case_types: list[str]
    tags: list[str]
    not_enforced: list[str]
    failures: int
    health_reason: str | None
    health_at: Timestamp | None
    version: int
    created_by: str
    created_at: Timestamp
    updated_by: str | None
    updated_at: Timestamp


class LineAnswer(Answer, frozen=True, kw_only=True):
    """A line; `config` is null for who may not manage it."""

    line: LineView
    config: LineConfig | None


class LineMade(LineAnswer, frozen=True, kw_only=True):
    """The line that was made. Its callback URLs are told by `GET /api/v1/calls/lines/{line_id}`."""

    id: str


class LineList(Answer, frozen=True, kw_only=True):
    """A page of lines, in the order in which they are taken."""

    lines: list[LineView]
    page: int
    page_size: int
    total: int


class TestAnswer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Whether the account answered, after how many milliseconds, and what it said (seed 003 §5.2)."""

    success: bool
    latency: int
    message: str


class ProviderList(Answer, frozen=True, kw_only=True):
    """What each provider asks for."""

    providers: list[Form]


class SeatView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Who an agent is at the line's provider."""

    user_id: str
    user_name: str
    seat_id: str
    number: str
    updated_at: Timestamp


class SeatList(Answer, frozen=True, kw_only=True):
    """The seats on a line of the agents within reach, by name."""

    seats: list[SeatView]


class Lines:
    """The lines of all tenants."""

    def __init__(self, database: Database, accounts: Accounts, live: Live) -> None:
        self._database = database
        self._accounts = accounts
        self._live = live

    async def list_lines(self, identity: Identity, query: LinesQuery) -> LineList:
        """List the tenant's lines; to an agent those on which it has a seat."""
        search = LineSearch(
            seat_of=identity.only_user,
            provider=query.provider_type,
            status=None if query.status is None else _number(query.status),
            text=query.search,
        )
        async with self._database.search() as connection:
            total, found = await lines.list_lines(connection, identity.tenant_id, search, query.asked)
        return LineList(lines=list(map(_view, found)), page=query.page, page_size=query.page_size, total=total)

    async def list_providers(self, request: RequestInfo) -> ProviderList:
        """Tell which providers there are, and what to fill in for each."""
        return ProviderList(providers=describe(request.language))

    async def create(self, identity: Identity, body: NewLine, request: RequestInfo, once: Once) -> LineMade:
        """Make a line.

        Raises ALREADY_EXISTS where its name or its account has one, INVALID_FIELD for what its provider does not take
        or an address that is not one of the public internet, INVALID_PHONE, and NOT_FOUND for who belongs to no tenant.
        """
        judged = self._accounts.judge(body.provider_type, body.provider_config)
        account_id = judged.account_id or body.name
        blank = Setup(provider=body.provider_type, name=body.name, account_id=account_id, settings=judged.settings)
        async with one_of_a_kind(), self._database.transaction() as connection:
            setup = await _amended(connection, identity.tenant_id, blank, body)
            line_id = await lines.create(
                connection,
                self._accounts.keys,
                actor_of(identity, request),
                identity.tenant_id,
                setup,
                judged.credentials,
            )
            line = await lines.get(connection, identity.tenant_id, line_id)
            answer = LineMade(id=line_id, line=_view(line), config=_config(line, {}))
            await once.keep(connection, answer)
        return answer

    async def get(self, identity: Identity, line_id: str) -> LineAnswer:
        """Tell one line; to who may manage it also how it is set up, and its callback URLs.

        Raises NOT_FOUND, also to an agent who has no seat on it.
        """
        async with self._database.connection() as connection:
            line = await lines.get(connection, identity.tenant_id, line_id, seat_of=identity.only_user)
            if not identity.may(MANAGE):
                return LineAnswer(line=_view(line), config=None)
            try:
                account = await lines.open_secrets(connection, self._accounts.keys, identity.tenant_id, line_id)
            except SealError as error:
                log.warning("line_sealed", line_id=line_id, cause=str(error))
                return LineAnswer(line=_view(line), config=_config(line, {}))
        urls = self._accounts.callback_urls(account.provider, account.token)
        return LineAnswer(line=_view(line), config=_config(line, urls))

    async def update(self, identity: Identity, line_id: str, body: LineFields, request: RequestInfo) -> LineAnswer:
        """Change what is named of a line. A line that was suspended or frozen is in service again.

        `If-Match` with the version that was read refuses with VERSION_CONFLICT what somebody else changed since.
        Credentials have to be given again when the provider's address becomes another one. Raises NOT_FOUND,
        ALREADY_EXISTS, INVALID_FIELD and INVALID_PHONE.
        """
        tenant_id, keys = identity.tenant_id, self._accounts.keys
        async with one_of_a_kind(), self._database.transaction() as connection:
            before = await lines.get(connection, tenant_id, line_id, lock=True)
            demand_version(request.headers.get("if-match"), before.version)
            setup, credentials = before.setup, None
            if not isinstance(body.provider_config, msgspec.UnsetType):
                kept = await lines.open_secrets(connection, keys, tenant_id, line_id)
                judged = self._accounts.judge(setup.provider, body.provider_config, kept)
                credentials = judged.credentials
                setup = msgspec.structs.replace(setup, settings=judged.settings)
            after = await _amended(connection, tenant_id, setup, body)
            await lines.change(connection, keys, actor_of(identity, request), tenant_id, before, after, credentials)
            line = await lines.get(connection, tenant_id, line_id)
        return LineAnswer(line=_view(line), config=_config(line, {}))

    async def delete(self, identity: Identity, line_id: str, request: RequestInfo) -> Done:
        """Delete a line: its credentials are erased, and the records of its calls stay.

        Raises NOT_FOUND, and IN_USE while calls are under way on it.
        """
        async with self._database.transaction() as connection:
            line = await lines.get(connection, identity.tenant_id, line_id, lock=True)
            await lines.delete(connection, actor_of(identity, request), identity.tenant_id, line)
        return Done()

    # --- trying -------------------------------------------------------------------------------------------------------

    async def test(self, identity: Identity, line_id: str, request: RequestInfo) -> TestAnswer:
        """Ask the line's provider something harmless, to see whether the account works; nothing is dialled.

        A line that was suspended or frozen, and answers, is in service again. Raises NOT_FOUND, and RATE_LIMITED after
        six tests in a minute.
        """
        async with self._database.connection() as connection:
            account = await lines.open_secrets(connection, self._accounts.keys, identity.tenant_id, line_id)
        await self._demand_room(identity)
        settings = msgspec.json.decode(account.settings, type=dict[str, Any])
        credentials = msgspec.json.decode(account.secrets, type=dict[str, Any])
        answer = await self._try(account.provider, settings, credentials, account.token)
        if answer.success:
            async with self._database.transaction() as connection:
                await lines.restore(connection, actor_of(identity, request), identity.tenant_id, line_id)
        return answer

    async def test_config(self, identity: Identity, body: LineTrial) -> TestAnswer:
        """Try a configuration that is not kept; nothing is dialled.

        Raises INVALID_FIELD, and RATE_LIMITED after six tests in a minute.
        """
        judged = self._accounts.judge(body.provider_type, body.provider_config)
        await self._demand_room(identity)
        return await self._try(body.provider_type, judged.settings, judged.credentials, "")

    async def _try(
        self, provider: ProviderName, settings: Mapping[str, Any], credentials: Mapping[str, Any], token: str
    ) -> TestAnswer:
        begun = clock.monotonic()
        try:
            async with asyncio.timeout(TEST_DEADLINE):
                tested = await self._accounts.provider(provider, settings, credentials, token).test()
        except TimeoutError:
            problem = f"no answer within {TEST_DEADLINE:.0f} s"
        except (PlacementRefused, Uncertain, Refused) as refused:
            problem = str(refused)
        else:
            return TestAnswer(success=True, latency=tested.latency_ms, message=_without(credentials, tested.message))
        latency = round((clock.monotonic() - begun) * 1000)
        return TestAnswer(success=False, latency=latency, message=_without(credentials, problem))

    async def _demand_room(self, identity: Identity) -> None:
        wait = await self._live.allow(f"line-test:{identity.id}", TESTS_A_MINUTE, 60)
        if wait is not None:
            raise DialdeskError("RATE_LIMITED", retryAfter=wait)

    # --- seats --------------------------------------------------------------------------------------------------------

    async def list_seats(self, identity: Identity, line_id: str) -> SeatList:
        """List who of those within reach has a seat on a line.

        Raises NOT_FOUND.
        """
        async with self._database.connection() as connection:
            await lines.get(connection, identity.tenant_id, line_id, seat_of=identity.only_user)
            found = await lines.seats(
                connection, identity.tenant_id, line_id, only_user=identity.only_user, only_teams=identity.only_teams
            )
        return SeatList(seats=list(map(_seat, found)))

    async def put_seat(
        self, identity: Identity, line_id: str, user_id: str, body: SeatBody, request: RequestInfo
    ) -> Done:
        """Say who a user is at the line's provider, so that it can call over the line.

        Raises NOT_FOUND, INVALID_PHONE, and INVALID_FIELD where neither a seat nor a number is told.
        """
        if not body.seat_id and not body.number:
            raise DialdeskError("INVALID_FIELD", reason="give seatId, number, or both")
        async with self._database.transaction() as connection:
            await lines.get(connection, identity.tenant_id, line_id, lock=True)
            number = body.number and normalize(body.number, await customers.region(connection, identity.tenant_id))
            seat = SeatAt(seat_id=body.seat_id, number=number)
            await lines.put_seat(connection, actor_of(identity, request), identity.tenant_id, line_id, user_id, seat)
        return Done()

    async def delete_seat(self, identity: Identity, line_id: str, user_id: str, request: RequestInfo) -> Done:
        """Take a user's seat on a line; calls that are under way go on.

        Raises NOT_FOUND.
        """
        async with self._database.transaction() as connection:
            await lines.get(connection, identity.tenant_id, line_id, lock=True)
            await lines.delete_seat(connection, actor_of(identity, request), identity.tenant_id, line_id, user_id)
        return Done()


async def _amended(connection: Connection, tenant_id: str, before: Setup, body: LineFields) -> Setup:
    """A setup with what the request names, but for the provider's own settings."""
    named = named_in(body)
    if not isinstance(body.status, msgspec.UnsetType):
        named["status"] = _number(body.status)
    if isinstance(body.caller_number, str):
        number = body.caller_number.strip()
        named["caller_number"] = normalize(number, await customers.region(connection, tenant_id)) if number else None
    after = msgspec.structs.replace(before, **named)
    demand_sound(after)
    return after


def _number(status: StatusWord) -> lines.Status:
    match status:
        case "inactive":
            return 0
        case "active":
            return 1
        case "testing":
            return 2


def _without(credentials: Mapping[str, Any], text: str) -> str:
    """A text of the provider, who may quote what it was shown, without credentials."""
    for value in credentials.values():
        if isinstance(value, Mapping):
            text = _without(value, text)
        elif value:
            text = text.replace(str(value), lines.mask(str(value)))
    return text


def _view(line: Line) -> LineView:
    return LineView(
        id=line.id,
        name=line.setup.name,
        provider_type=line.setup.provider,
        caller_number=line.setup.caller_number,
        status=_STATUS[line.setup.status],
        health=line.health,
        max_concurrent=line.setup.max_concurrent,
        current_concurrent=line.concurrent,
        daily_limit=line.setup.daily_limit,
        today_count=line.today,
        seats=line.seats,
    )


def _config(line: Line, callback_urls: dict[str, str]) -> LineConfig:
    setup = line.setup
    return LineConfig(
        account_id=setup.account_id,
        provider_config=shown(setup, line.hints),
        callback_urls=callback_urls,
        heard_at=rfc3339(line.heard_at),
        allowed_networks=setup.allowed_networks,
        priority=setup.priority,
        weight=setup.weight,
        user_daily_limit=setup.user_daily_limit,
        call_timeout=setup.call_timeout,
        max_retry=setup.max_retry,
        window_start=setup.window_start.isoformat("minutes"),
        window_end=setup.window_end.isoformat("minutes"),
        interval_minutes=setup.interval_minutes,
        extension_policy=setup.extension_policy,
        case_types=setup.case_types,
        tags=setup.tags,
        not_enforced=["userDailyLimit", "maxRetry", "intervalMinutes"],
        failures=line.failures,
        health_reason=line.health_reason,
        health_at=rfc3339(line.health_at),
        version=line.version,
        created_by=line.created_by,
        created_at=rfc3339(line.created_at),
        updated_by=line.updated_by,
        updated_at=rfc3339(line.updated_at),
    )


def _seat(seat: SeatOf) -> SeatView:
    return SeatView(
        user_id=seat.user_id,
        user_name=seat.user_name,
        seat_id=seat.seat_id,
        number=seat.number,
        updated_at=rfc3339(seat.updated_at),
    )
