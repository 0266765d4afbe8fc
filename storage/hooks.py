"""Hooks: where a tenant wants to be told of what happens, what waits to be told there, and what became of it.

What happens leaves word itself: the statements that change calls and phones call `tell_hooks` (the migration), so that
a change and its deliveries commit together. A delivery is sent by a worker: claimed for a time, attempted, and marked.
One whose worker died in between is claimed again when that time is over, and is sent again with the same id.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import asyncpg
import msgspec

from protocol.timestamps import Timestamp, rfc3339
from storage.batches import drop_all
from storage.database import Connection, queries
from storage.tenant_keys import TenantKeys
from storage.vault import Vault, key_id

_SQL = queries("hooks")

Event = Literal[
    "call.created",
    "call.connected",
    "call.ended",
    "call.corrected",
    "recording.ready",
    "recording.failed",
    "recording.expired",
    "recording.deleted",
    "device.bound",
    "device.unbound",
    "device.online",
    "device.offline",
]
"""What a hook may ask to be told."""

State = Literal["waiting", "delivered", "failed"]
"""Where a delivery stands. `waiting` is also what is to be tried again, and `failed` what was given up."""

DisabledReason = Literal["gone", "failing"]
"""Why the machine disabled a hook: its receiver answered 410, or nothing was taken for days."""

HOOKS = 20
"""Hooks that a tenant may have."""

OLD_SECRETS = 2
"""Secrets that a new one may take the place of, and that messages are signed with beside it until they expire."""

RESENT_AT_ONCE = 10_000
"""Deliveries that one request may ask for again."""


class Hook(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Where a tenant wants to be told. `disabledReason` is set where the machine disabled it; since `failingSince`
    nothing was taken; until `oldSecretUntil` messages carry signatures with an older secret, too."""

    id: str
    url: str
    events: list[Event]
    description: str
    enabled: bool
    reveal: bool
    disabled_reason: DisabledReason | None
    disabled_at: Timestamp | None
    failing_since: Timestamp | None
    delivered_at: Timestamp | None
    old_secret_until: Timestamp | None
    created_by: str
    created_at: Timestamp
    updated_at: Timestamp


class Delivery(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A line of a hook's log: an event, and how telling it went. `id` is the `webhook-id` of every attempt; `subjectId`
    is the call's or the phone's id; `status` and `answer` are the last attempt's, `failure` why it counts as none."""

    id: str
    event: str
    subject_id: str
    at: Timestamp
    state: State
    next_at: Timestamp | None
    attempts: int
    attempted_at: Timestamp | None
    status: int | None
    answer: str | None
    failure: str | None
    took_ms: int | None


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery that is to be sent now. `content` is JSON of the row that changed; `sealed` are the hook's secrets,
    newest first; `tries` and `attempts` count this attempt, too; on the `last_try` it is given up."""

    id: str
    tenant_id: str
    hook_id: str
    event: str
    at: datetime
    content: bytes
    tries: int
    attempts: int
    last_try: bool
    url: str
    reveal: bool
    sealed: list[bytes]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an attempt; `failure` is None where it was taken. `pause` is how long the receiver wants rest."""

    status: int | None
    answer: str | None
    failure: str | None
    took_ms: int
    pause: float | None = None


# --- hooks ----------------------------------------------------------------------------------------------------------


async def add(
    connection: Connection,
    tenant_id: str,
    hook_id: str,
    *,
    url: str,
    events: Sequence[Event],
    description: str,
    enabled: bool,
    reveal: bool,
    created_by: str,
) -> bool:
    """Add a hook; False where the tenant has HOOKS already. In a transaction."""
    await connection.execute(_SQL["hold"], tenant_id)
    given = (url, list(events), description, enabled, reveal, created_by)
    return await connection.fetchval(_SQL["add"], tenant_id, hook_id, *given, HOOKS) is not None


async def all_of(connection: Connection, tenant_id: str) -> list[Hook]:
    """Return the hooks of a tenant, oldest first."""
    return [_hook(row) for row in await connection.fetch(_SQL["list"], tenant_id, None)]


async def find(connection: Connection, tenant_id: str, hook_id: str, *, lock: bool = False) -> Hook | None:
    """Return a hook; with `lock` it stays so until commit."""
    if lock:
        await connection.execute(_SQL["lock"], tenant_id, hook_id)
    row = await connection.fetchrow(_SQL["list"], tenant_id, hook_id)
    return None if row is None else _hook(row)


async def change(connection: Connection, tenant_id: str, hook: Hook) -> None:
    """Set of a hook what people set; enabled anew or with another URL, it has not failed yet."""
    await connection.execute(
        _SQL["change"], tenant_id, hook.id, hook.url, hook.events, hook.description, hook.reveal, hook.enabled
    )


async def remove(connection: Connection, tenant_id: str, hook_id: str) -> bool:
    """Drop a hook, and what it has not been told; False where there is none."""
    return await connection.fetchval(_SQL["remove"], tenant_id, hook_id) is not None


async def disable(connection: Connection, tenant_id: str, hook_id: str, reason: DisabledReason) -> bool:
    """Disable a hook; False where somebody was faster."""
    return await connection.fetchval(_SQL["disable"], tenant_id, hook_id, reason) is not None


# --- secrets --------------------------------------------------------------------------------------------------------


async def add_secret(
    connection: Connection, keys: TenantKeys, tenant_id: str, hook_id: str, secret: bytes, *, old_for: float
) -> None:
    """Sign with this from now on, and for `old_for` seconds with the one before, too. In a transaction."""
    number, key = await keys.current(connection, tenant_id)
    sealed = Vault({str(number): key}).seal(secret, _place(hook_id))
    await connection.execute(_SQL["add_secret"], tenant_id, hook_id, sealed, old_for, OLD_SECRETS)


async def secrets_of(connection: Connection, keys: TenantKeys, job: Job) -> list[bytes]:
    """Return what a job is to be signed with. Raises SealError where a master key is not held here."""
    opened = []
    for sealed in job.sealed:
        name = key_id(sealed)
        key = await keys.key(connection, job.tenant_id, int(name))
        opened.append(Vault({name: key}).open(sealed, _place(job.hook_id)))
    return opened


# --- deliveries -----------------------------------------------------------------------------------------------------


async def ping(connection: Connection, tenant_id: str, hook_id: str, delivery_id: str) -> bool:
    """Leave word for a hook that it is being tested; False where it is disabled."""
    return await connection.fetchval(_SQL["ping"], tenant_id, hook_id, delivery_id) is not None


async def claim(connection: Connection, *, lease: float, most: int, of_each: int, busy: Mapping[str, int]) -> list[Job]:
    """Claim for `lease` seconds at most so many deliveries, and `of_each` hook beside those that are being sent."""
    rows = await connection.fetch(_SQL["claim"], lease, most, of_each, list(busy), list(busy.values()))
    return [_job(row) for row in rows]


async def delivered(connection: Connection, job: Job, outcome: Outcome) -> None:
    """It was taken."""
    await connection.execute(_SQL["delivered"], job.tenant_id, job.id, outcome.status, outcome.answer, outcome.took_ms)


async def failed(
    connection: Connection, job: Job, outcome: Outcome, *, again_in: float | None, hopeless_after: float
) -> bool:
    """It was not taken: try again in so many seconds, or never. Tells whether its hook has done nothing but fail for
    `hopeless_after` seconds."""
    hopeless: bool | None = await connection.fetchval(
        _SQL["failed"],
        job.tenant_id,
        job.id,
        job.attempts,
        outcome.status,
        outcome.answer,
        outcome.failure,
        outcome.took_ms,
        again_in,
        outcome.pause,
        hopeless_after,
    )
    return bool(hopeless)


async def deliveries(
    connection: Connection,
    tenant_id: str,
    hook_id: str,
    *,
    state: State | None,
    event: str | None,
    since: datetime | None,
    after: str | None,
    limit: int,
) -> tuple[list[Delivery], bool]:
    """Return lines of a hook's log, newest first, after the line `after`, and whether there are more."""
    rows = await connection.fetch(_SQL["deliveries"], tenant_id, hook_id, state, event, since, after, limit + 1)
    return [_delivery(row) for row in rows[:limit]], len(rows) > limit


async def resend(connection: Connection, tenant_id: str, hook_id: str, delivery_id: str) -> bool:
    """Send one again, as if it were new; False where there is no such delivery."""
    return await connection.fetchval(_SQL["resend"], tenant_id, hook_id, delivery_id) is not None


async def resend_failed(connection: Connection, tenant_id: str, hook_id: str, since: datetime) -> int:
    """Send again what was given up of the events since then, RESENT_AT_ONCE at most; returns how many."""
    return len(await connection.fetch(_SQL["resend_failed"], tenant_id, hook_id, since, RESENT_AT_ONCE))


async def expire(connection: Connection, older_than: float) -> None:
    """Drop secrets that are over and deliveries older than so many seconds, and give up those that wait in vain."""
    await connection.execute(_SQL["expire_secrets"])
    await connection.execute(_SQL["give_up"])
    await drop_all(connection, _SQL["expire"], older_than)


def _place(hook_id: str) -> str:
    return f"hook/{hook_id}/secret"


def _hook(row: asyncpg.Record) -> Hook:
    return Hook(
        id=row["id"],
        url=row["url"],
        events=row["events"],
        description=row["description"],
        enabled=row["enabled"],
        reveal=row["reveal"],
        disabled_reason=row["disabled_reason"],
        disabled_at=rfc3339(row["disabled_at"]),
        failing_since=rfc3339(row["failing_since"]),
        delivered_at=rfc3339(row["delivered_at"]),
        old_secret_until=rfc3339(row["old_secret_until"]),
        created_by=row["created_by"],
        created_at=rfc3339(row["created_at"]),
        updated_at=rfc3339(row["updated_at"]),
    )


def _job(row: asyncpg.Record) -> Job:
    known: dict[str, Any] = dict(row)
    return Job(**{**known, "content": row["content"].encode()})


def _delivery(row: asyncpg.Record) -> Delivery:
    times = {name: rfc3339(row[name]) for name in ("at", "next_at", "attempted_at")}
    known: dict[str, Any] = dict(row)
    return Delivery(**{**known, **times})
