"""Lines: accounts at cloud providers, who an agent is there, and how much of a line is free (seed 003 §4.2.2).

What a line keeps secret - its credentials, and the token that ends its callback URLs - rests sealed under a key of the
tenant and bound to the line's row. Beside it stand hints, the credentials masked, so that showing a line opens nothing.
A function that changes something writes the line of the audit log itself: call it in a transaction.
"""

import hashlib
import secrets as random
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from typing import Any, Literal

import asyncpg
import msgspec

from protocol.errors import DialdeskError
from protocol.identifiers import new_id
from protocol.phone_number import mask as mask_number
from storage.accounts import Page
from storage.audit import Actor, record
from storage.database import Connection, queries
from storage.tenant_keys import TenantKeys
from storage.vault import Vault

_SQL = queries("lines")

ProviderName = Literal["aliyun", "tencent", "ronglian", "tianrun", "infinity", "custom"]
Status = Literal[0, 1, 2]
"""Seed 000: off, on, testing: only test numbers are dialled."""
Health = Literal["ok", "suspended", "frozen"]
ExtensionPolicy = Literal["lru", "round_robin", "affinity"]

_SHORTEST_SHOWN = 20
"""Characters of a secret of which ten may be shown: no fewer stay hidden."""


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What is configured of a line, but for its credentials. `settings` are the provider's own, and hold no secret.

    `account_id` names the account at the provider: one account is one line. Times are of the tenant's clock.
    """

    provider: ProviderName
    name: str
    account_id: str
    caller_number: str | None = None
    settings: dict[str, Any] = {}
    allowed_networks: list[str] = []
    callback_url: str | None = None
    status: Status = 0
    priority: int = 100
    weight: int = 1
    max_concurrent: int = 100
    daily_limit: int = 10_000
    user_daily_limit: int = 3
    call_timeout: int = 60
    max_retry: int = 2
    window_start: time = time(9)
    window_end: time = time(20)
    interval_minutes: int = 120
    extension_policy: ExtensionPolicy = "lru"
    case_types: list[str] = []
    tags: list[str] = []
    ext_data: dict[str, Any] = {}


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A line as it is: how it is set up, each credential masked, how it does, and how much it is used now."""

    id: str
    setup: Setup
    hints: dict[str, Any]
    health: Health
    failures: int
    health_reason: str | None
    health_at: datetime | None
    heard_at: datetime | None
    concurrent: int
    today: int
    seats: int
    version: int
    created_by: str
    created_at: datetime
    updated_by: str | None
    updated_at: datetime


class LineSearch(msgspec.Struct, frozen=True, kw_only=True):
    """Which lines to list: those on which `seat_of` has a seat, of which those that match the rest."""

    seat_of: str | None = None
    provider: ProviderName | None = None
    status: Status | None = None
    text: str | None = None


class SeatAt(msgspec.Struct, frozen=True, kw_only=True):
    """Who an agent is at a line's provider: the id there, and the telephone that is rung first (E.164); or empty."""

    seat_id: str
    number: str


class SeatOf(SeatAt, frozen=True, kw_only=True):
    """A seat, and whose it is."""

    user_id: str
    user_name: str
    updated_at: datetime


class TrialNumber(msgspec.Struct, frozen=True, kw_only=True):
    """A number (E.164) that a line under test may dial, and whose it is."""

    phone: str
    note: str = ""


class LineRoom(msgspec.Struct, frozen=True, kw_only=True):
    """What decides whether a line takes one more call. `day` is the tenant's, on which `today` calls were made."""

    status: Status
    health: Health
    concurrent: int
    max_concurrent: int
    today: int
    daily_limit: int
    day: date


class LineForDial(LineRoom, frozen=True, kw_only=True):
    """A line as a dial of one agent sees it; without a `seat` the agent is nobody there. `daily_limit` 0 is none."""

    id: str
    name: str
    provider: ProviderName
    priority: int
    weight: int
    failures: int
    probe_at: datetime | None
    caller_number: str | None
    window_start: time
    window_end: time
    seat: SeatAt | None
    call_timeout: int
    case_types: list[str]
    tags: list[str]
    extension_policy: ExtensionPolicy
    needs_extension: bool


class LineAccount(msgspec.Struct, frozen=True, kw_only=True):
    """All it takes to speak to a line's provider: JSON of settings and credentials, and the callback URLs' token.

    `version` grows with each change of the line.
    """

    line_id: str
    tenant_id: str
    provider: ProviderName
    settings: bytes
    secrets: bytes
    token: str
    version: int

    def __repr__(self) -> str:
        return f"LineAccount({self.line_id!r}, '**********')"


class LineOfToken(msgspec.Struct, frozen=True, kw_only=True):
    """The line to which a callback URL belongs; where networks are named, callbacks come from there only."""

    tenant_id: str
    line_id: str
    provider: ProviderName
    allowed_networks: list[str]


class _Sealed(msgspec.Struct, frozen=True):
    """What is sealed of a line."""

    token: str
    credentials: dict[str, Any]


# --- configuring ------------------------------------------------------------------------------------------------------


async def create(
    connection: Connection, keys: TenantKeys, actor: Actor, tenant_id: str, setup: Setup, credentials: Mapping[str, Any]
) -> str:
    """Make a line and return its id. Raises Duplicate where its name or its account is taken."""
    line_id, token = new_id("line"), random.token_urlsafe(32)
    sealed, key_id = await _seal(connection, keys, tenant_id, line_id, _Sealed(token, dict(credentials)))
    hints = _hints(credentials)
    await connection.execute(
        _SQL["create"],
        tenant_id,
        line_id,
        setup.provider,
        *_row(setup),
        sealed,
        key_id,
        _json(hints),
        _digest(token),
        actor.id,
    )
    await record(connection, actor, "create", "line", line_id, after=_audited(setup, hints))
    return line_id


async def get(
    connection: Connection, tenant_id: str, line_id: str, *, seat_of: str | None = None, lock: bool = False
) -> Line:
    """Return a line; with `seat_of` only one on which that user has a seat. Raises NOT_FOUND.

    With `lock` nobody else changes it, deletes it or dials over it before the transaction ends.
    """
    if lock:
        await connection.execute(_SQL["lock"], tenant_id, line_id)
    row = await connection.fetchrow(_SQL["line"], tenant_id, line_id, seat_of)
    if row is None:
        raise DialdeskError("NOT_FOUND", what="line")
    return _line(row)


async def list_lines(connection: Connection, tenant_id: str, search: LineSearch, page: Page) -> tuple[int, list[Line]]:
    """Return (how many there are, those of the page) of the lines that are searched for."""
    arguments = (tenant_id, search.seat_of, search.provider, search.status, search.text)
    total = await connection.fetchval(_SQL["count_lines"], *arguments)
    rows = await connection.fetch(_SQL["lines"], *arguments, page.size, page.offset)
    return total, [_line(row) for row in rows]


async def change(
    connection: Connection,
    keys: TenantKeys,
    actor: Actor,
    tenant_id: str,
    before: Line,
    after: Setup,
    credentials: Mapping[str, Any] | None = None,
) -> bool:
    """Turn `before`, which is locked, into `after`, with other `credentials` unless they stay; False where nothing
    changes. Raises Duplicate where its name or its account is taken.

    A line that was suspended or frozen is in service again.
    """
    account = None if credentials is None else await open_secrets(connection, keys, tenant_id, before.id)
    replaced = account is not None and msgspec.json.decode(account.secrets) != credentials
    if after == before.setup and not replaced:
        return False
    hints = before.hints
    if account is not None and credentials is not None and replaced:
        hints = _hints(credentials)
        kept = _Sealed(account.token, dict(credentials))
        sealed, key_id = await _seal(connection, keys, tenant_id, before.id, kept)
        await connection.execute(_SQL["reseal"], tenant_id, before.id, sealed, key_id, _json(hints))
    await connection.execute(_SQL["change"], tenant_id, before.id, *_row(after), actor.id)
    old, new = _audited(before.setup, before.hints), _audited(after, hints)
    changed = [field for field in new if old[field] != new[field]]
    then, now = {field: old[field] for field in changed}, {field: new[field] for field in changed}
    if replaced:  # what is masked may look the same
        now["credentialsReplaced"] = True
    await record(connection, actor, "update", "line", before.id, before=then, after=now)
    return True


async def delete(connection: Connection, actor: Actor, tenant_id: str, line: Line) -> None:
    """Delete a line, which is locked: its credentials are erased, its seats end, its records stay.

    Raises IN_USE while calls live on it.
    """
    if await connection.fetchval(_SQL["live_calls"], tenant_id, line.id):
        raise DialdeskError("IN_USE", what="line")
    await connection.execute(_SQL["delete"], tenant_id, line.id, actor.id)
    await record(connection, actor, "delete", "line", line.id, before=_audited(line.setup, line.hints))


async def restore(connection: Connection, actor: Actor, tenant_id: str, line_id: str) -> bool:
    """A line was seen to work: suspended or frozen, it is in service again. False where it was all the time."""
    if await connection.fetchval(_SQL["restore"], tenant_id, line_id) is None:
        return False
    await record(connection, actor, "restore", "line", line_id)
    return True


# --- speaking to the provider, and hearing of it ----------------------------------------------------------------------


async def open_secrets(connection: Connection, keys: TenantKeys, tenant_id: str, line_id: str) -> LineAccount:
    """Return what it takes to speak to a line's provider. Raises NOT_FOUND, and SealError where it does not open."""
    row = await connection.fetchrow(_SQL["sealed"], tenant_id, line_id)
    if row is None:
        raise DialdeskError("NOT_FOUND", what="line")
    vault = Vault({str(row["key_id"]): await keys.key(connection, tenant_id, row["key_id"])})
    kept = msgspec.json.decode(vault.open(row["secrets"], _place(line_id)), type=_Sealed)
    return LineAccount(
        line_id=line_id,
        tenant_id=tenant_id,
        provider=row["provider"],
        settings=row["settings"].encode(),
        secrets=msgspec.json.encode(kept.credentials),
        token=kept.token,
        version=row["version"],
    )


async def by_token(connection: Connection, token: str) -> LineOfToken | None:
    """Return the line whose callback URLs end in this token; None where there is none."""
    row = await connection.fetchrow(_SQL["by_token"], _digest(token))
    return None if row is None else LineOfToken(**dict(row))


# --- dialling ---------------------------------------------------------------------------------------------------------


async def for_dial(connection: Connection, tenant_id: str, user_id: str) -> list[LineForDial]:
    """Return all lines of the tenant as a dial of this agent sees them, also those that cannot carry it, in the order
    in which lines are taken. How much of each is free was so when it was read: `hold_for_dial` says what holds."""
    return [_for_dial(row) for row in await connection.fetch(_SQL["for_dial"], tenant_id, user_id)]


async def local_time(connection: Connection, tenant_id: str) -> time:
    """Return the time of day at the tenant, by the clock of the database."""
    now: time = await connection.fetchval(_SQL["local_time"], tenant_id)
    return now


async def is_test_number(connection: Connection, tenant_id: str, phone: str) -> bool:
    """Whether a line under test may dial this number (E.164)."""
    known: bool = await connection.fetchval(_SQL["is_test_number"], tenant_id, phone)
    return known


async def trial_numbers(connection: Connection, tenant_id: str) -> list[TrialNumber]:
    """Return the numbers that a line under test may dial."""
    return [TrialNumber(**dict(row)) for row in await connection.fetch(_SQL["trial_numbers"], tenant_id)]


async def put_trial_numbers(
    connection: Connection, actor: Actor, tenant_id: str, numbers: Sequence[TrialNumber]
) -> None:
    """Make these, each named once, the numbers that a line under test may dial."""
    await connection.execute(_SQL["lock_trial_numbers"], tenant_id)
    before = await trial_numbers(connection, tenant_id)
    after = sorted(numbers, key=lambda number: number.phone)
    if before == after:
        return
    phones, notes = [number.phone for number in after], [number.note for number in after]
    await connection.execute(_SQL["drop_trial_numbers"], tenant_id, phones)
    await connection.execute(_SQL["put_trial_numbers"], tenant_id, phones, notes, actor.id)
    then, now = ([mask_number(number.phone) for number in numbers] for numbers in (before, after))
    await record(connection, actor, "put", "trial_numbers", tenant_id, before={"numbers": then}, after={"numbers": now})


async def hold_for_dial(connection: Connection, tenant_id: str, line_id: str) -> LineRoom | None:
    """Return how much of a line is free, which nobody else takes before this transaction ends; None if it is gone."""
    if await connection.fetchval(_SQL["lock"], tenant_id, line_id) is None:
        return None
    # a statement of its own: the one that waited for the lock counted before it waited
    row = await connection.fetchrow(_SQL["room"], tenant_id, line_id)
    return None if row is None else LineRoom(**dict(row))


async def count_attempt(connection: Connection, tenant_id: str, line_id: str, day: date) -> None:
    """Count a call over the line, in the transaction that makes it."""
    await connection.execute(_SQL["count_attempt"], tenant_id, line_id, day)


# --- seats ------------------------------------------------------------------------------------------------------------


async def seats(
    connection: Connection,
    tenant_id: str,
    line_id: str,
    *,
    only_user: str | None = None,
    only_teams: Sequence[str] | None = None,
) -> list[SeatOf]:
    """Return the seats on a line of those within reach, by name."""
    rows = await connection.fetch(_SQL["seats"], tenant_id, line_id, only_user, only_teams)
    return [SeatOf(**dict(row)) for row in rows]


async def put_seat(
    connection: Connection, actor: Actor, tenant_id: str, line_id: str, user_id: str, seat: SeatAt
) -> None:
    """Say who a user is at the provider of a line, which is locked. Raises NOT_FOUND where the tenant has no such
    user."""
    if not await connection.fetchval(_SQL["has_user"], tenant_id, user_id):
        raise DialdeskError("NOT_FOUND", what="user")
    before = await _seat(connection, tenant_id, line_id, user_id)
    if before == seat:
        return
    await connection.execute(_SQL["put_seat"], tenant_id, line_id, user_id, seat.seat_id, seat.number)
    then, now = None if before is None else _audited_seat(user_id, before), _audited_seat(user_id, seat)
    await record(connection, actor, "put_seat", "line", line_id, before=then, after=now)


async def delete_seat(connection: Connection, actor: Actor, tenant_id: str, line_id: str, user_id: str) -> None:
    """Take a user's seat on a line, which is locked. Raises NOT_FOUND where there is none."""
    before = await _seat(connection, tenant_id, line_id, user_id)
    if before is None:
        raise DialdeskError("NOT_FOUND", what="seat")
    await connection.execute(_SQL["delete_seat"], tenant_id, line_id, user_id)
    await record(connection, actor, "delete_seat", "line", line_id, before=_audited_seat(user_id, before))


async def _seat(connection: Connection, tenant_id: str, line_id: str, user_id: str) -> SeatAt | None:
    row = await connection.fetchrow(_SQL["seat"], tenant_id, line_id, user_id)
    return None if row is None else SeatAt(seat_id=row["seat_id"], number=row["number"])


# --- secrets ----------------------------------------------------------------------------------------------------------


def mask(secret: str) -> str:
    """Return what is shown of a secret: six characters and the last four (seed 000 §4), of a short one nothing."""
    return "********" if len(secret) < _SHORTEST_SHOWN else f"{secret[:6]}********{secret[-4:]}"


def is_masked(text: str) -> bool:
    """Whether this is what `mask` makes rather than a secret: whoever sends it back means the one that is there."""
    return "********" in text


def _hints(credentials: Mapping[str, Any]) -> dict[str, Any]:
    """Each credential masked; a provider that the tenant describes itself may keep several under one name."""
    return {
        name: _hints(value) if isinstance(value, Mapping) else mask(str(value))
        for name, value in credentials.items()
        if value is not None
    }


def _place(line_id: str) -> str:
    return f"line/{line_id}/secrets"


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


async def _seal(
    connection: Connection, keys: TenantKeys, tenant_id: str, line_id: str, secrets: _Sealed
) -> tuple[bytes, int]:
    key_id, key = await keys.current(connection, tenant_id)
    return Vault({str(key_id): key}).seal(msgspec.json.encode(secrets), _place(line_id)), key_id


# --- rows -------------------------------------------------------------------------------------------------------------


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _row(setup: Setup) -> tuple[object, ...]:
    """The columns in which a setup is kept, but for the provider, which never changes."""
    return (
        setup.name,
        setup.account_id,
        setup.caller_number,
        _json(setup.settings),
        setup.allowed_networks,
        setup.callback_url,
        setup.status,
        setup.priority,
        setup.weight,
        setup.max_concurrent,
        setup.daily_limit,
        setup.user_daily_limit,
        setup.call_timeout,
        setup.max_retry,
        setup.window_start,
        setup.window_end,
        setup.interval_minutes,
        setup.extension_policy,
        setup.case_types,
        setup.tags,
        _json(setup.ext_data),
    )


def _line(row: asyncpg.Record) -> Line:
    known = dict(row)
    for name in ("settings", "ext_data", "hints"):
        known[name] = msgspec.json.decode(known[name])
    setup = Setup(**{name: known.pop(name) for name in Setup.__struct_fields__})
    return Line(setup=setup, **known)


def _for_dial(row: asyncpg.Record) -> LineForDial:
    known = dict(row)
    seat_id, number = known.pop("seat_id"), known.pop("number")
    return LineForDial(seat=None if seat_id is None else SeatAt(seat_id=seat_id, number=number), **known)


def _audited(setup: Setup, hints: Mapping[str, Any]) -> dict[str, Any]:
    """What the audit log tells of a line: its credentials as they are shown, its number masked."""
    told: dict[str, Any] = msgspec.to_builtins(setup)
    told["caller_number"] = setup.caller_number and mask_number(setup.caller_number)
    return {**told, "credentials": dict(hints)}


def _audited_seat(user_id: str, seat: SeatAt) -> dict[str, str]:
    return {"userId": user_id, "seatId": seat.seat_id, "number": mask_number(seat.number)}
