"""What the server asks of providers: one attempt a call and line, committed before it is written, written once.

    committed -> sent -> placed | uncertain | refused; committed -> over

A call has one attempt, the latest. Only one that was refused is ever followed by another, at another line.

`send` is the fence: whoever gets the row writes the request, and nobody else ever does. What was sent and not answered
is `uncertain`: it is looked up by our tag, the call's id, until the provider or time tells.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Literal

import asyncpg
import msgspec

from storage.calls import NewCloudCall
from storage.database import Connection, queries, translated
from storage.idempotency import Once

_SQL = queries("attempts")

State = Literal["committed", "sent", "placed", "uncertain", "refused", "over"]
Answered = Literal["placed", "uncertain"]


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """An order at a provider. `seat_number` is E.164; `extension` the leased one, if the provider dials from a pool."""

    call_id: str
    n: int
    tenant_id: str
    line_id: str
    provider: str
    seat_id: str
    seat_number: str
    extension: str | None
    state: State
    provider_call_id: str | None
    ordered_at: datetime
    callee: str


class Meant(msgspec.Struct, frozen=True, kw_only=True):
    """The call that a provider speaks of, and by which attempt; `provider_call_id` as it is known. Where `overtaken`,
    that provider refused the call, another line has it, and what this one says moves it no more."""

    call_id: str
    n: int
    provider_call_id: str | None
    overtaken: bool


class Standing(msgspec.Struct, frozen=True):
    """Where a call stands; `evidence` is that of its end, if it has ended."""

    ended_at: datetime | None
    evidence: str | None
    now: datetime


async def dial(
    connection: Connection,
    call: NewCloudCall,
    once: Once,
    answer: msgspec.Struct,
    *,
    line_id: str,
    provider: str,
    caller: str | None,
    seat_id: str,
    seat_number: str,
    extension: str | None,
    extension_fence: int | None,
) -> None:
    """Commit to a call over a line, inside the transaction that locked the line. Raises Duplicate for a twin."""
    with translated():
        await connection.execute(
            _SQL["dial"],
            call.tenant_id,
            line_id,
            call.id,
            call.user_id,
            call.team_id,
            call.created_by,
            caller,
            call.customer_phone,
            call.customer_id,
            call.customer_name,
            call.order_id,
            call.external_id,
            None if call.custom_data is None else call.custom_data.decode(),
            call.expires_at,
            call.reap_after_expiry,
            call.record,
            call.source,
            msgspec.json.encode({"by": call.created_by, "lineId": line_id, "extension": extension}).decode(),
            provider,
            seat_id,
            seat_number,
            extension,
            extension_fence,
            *once.row(answer),
        )


async def send(
    connection: Connection, tenant_id: str, call_id: str, look_after: float, controls: Collection[str] = ()
) -> Attempt | None:
    """Take the right to write the request; None where another has it, it expired or was called off, or the call has
    ended. If no answer is kept within `look_after` seconds the reconciler looks what became of it. `controls`: what can
    be done to the call at this provider."""
    row = await connection.fetchrow(_SQL["send"], tenant_id, call_id, look_after, sorted(controls))
    return None if row is None else _attempt(row)


async def fail_over(
    connection: Connection,
    attempt: Attempt,
    refusal: str,
    code: str,
    *,
    line_id: str,
    provider: str,
    caller: str | None,
    seat_id: str,
    seat_number: str,
    extension: str | None,
    extension_fence: int | None,
) -> bool:
    """Commit the call to another line after a definite refusal, inside the transaction that locked that line.

    False where it may not go on: it expired, was called off, has ended, or rang though it was refused.
    """
    said = {"lineId": attempt.line_id, "refusal": refusal, "code": code, "nextLineId": line_id}
    n = await connection.fetchval(
        _SQL["fail_over"],
        attempt.tenant_id,
        attempt.call_id,
        attempt.n,
        refusal,
        line_id,
        provider,
        caller,
        seat_id,
        seat_number,
        extension,
        extension_fence,
        msgspec.json.encode(said).decode(),
    )
    return n is not None


async def call_off(connection: Connection, tenant_id: str, call_id: str) -> Attempt | None:
    """Let no other attempt follow, for somebody hung up, and return the latest as it is now: `over` where it was never
    written and never will be. None where there is none."""
    row = await connection.fetchrow(_SQL["call_off"], tenant_id, call_id)
    return None if row is None else _attempt(row)


async def answered(
    connection: Connection,
    tenant_id: str,
    call_id: str,
    n: int,
    state: Answered,
    *,
    provider_call_id: str | None = None,
    look_after: float = 0.0,
) -> None:
    """Keep what the provider said to an order, and when to ask it again."""
    await connection.execute(_SQL["answered"], tenant_id, call_id, n, state, provider_call_id, look_after)


async def refuse(connection: Connection, attempt: Attempt, refusal: str, look_after: float) -> bool:
    """Keep that the provider refused an order, and that no other line carries the call, inside a transaction.

    False where the call rang, or has ended, all the same: then its attempt is `uncertain`, and is looked up.
    """
    pending = await connection.fetchval(
        _SQL["refuse"], attempt.tenant_id, attempt.call_id, attempt.n, refusal, look_after
    )
    return bool(pending)


async def unsent(connection: Connection, limit: int) -> list[tuple[str, str]]:
    """Give up orders that were not written in time; returns (tenant id, call id) of each."""
    return [(row["tenant_id"], row["call_id"]) for row in await connection.fetch(_SQL["unsent"], limit)]


async def to_look_up(
    connection: Connection, lease: float, limit: int, *, of_each: int | None = None, busy: Mapping[str, int] = {}
) -> list[Attempt]:
    """Claim calls of which the provider is to be asked; the claim lasts `lease` seconds. Of each line come `of_each` at
    most, less those that the worker has already (`busy`)."""
    arguments = (lease, limit, of_each or limit, list(busy), list(busy.values()))
    return [_attempt(row) for row in await connection.fetch(_SQL["to_look_up"], *arguments)]


async def standing(connection: Connection, tenant_id: str, call_id: str) -> Standing:
    """Return where a call stands, by PostgreSQL's clock."""
    row = await connection.fetchrow(_SQL["standing"], tenant_id, call_id)
    assert row is not None
    return Standing(**dict(row))


async def look_again(connection: Connection, attempt: Attempt, seconds: float | None) -> None:
    """Ask the provider again in so many seconds, or never."""
    await connection.execute(_SQL["look_again"], attempt.tenant_id, attempt.call_id, attempt.n, seconds)


async def look_soon(connection: Connection, tenant_id: str, call_id: str, n: int, every: float) -> None:
    """The provider spoke of a call: ask it in a second, though for this no more often than each `every` seconds."""
    await connection.execute(_SQL["look_soon"], tenant_id, call_id, n, every)


async def hinted(connection: Connection, provider: str, words: Sequence[str], every: float) -> None:
    """Somebody, who may be anybody, named calls of a provider, among other words: ask of them soon, as `look_soon`."""
    await connection.execute(_SQL["hinted"], provider, words, every)


async def named(connection: Connection, tenant_id: str, call_id: str, n: int, provider_call_id: str) -> None:
    """The provider told its own id of a call that it did not tell before."""
    await connection.execute(_SQL["named"], tenant_id, call_id, n, provider_call_id)


async def find(
    connection: Connection, tenant_id: str, line_id: str, provider_call_id: str | None, tag: str | None
) -> Meant | None:
    """Return the call that a provider speaks of on a line, by its own id or our tag."""
    row = await connection.fetchrow(_SQL["find"], tenant_id, line_id, provider_call_id, tag)
    return None if row is None else Meant(**dict(row))


async def of_call(connection: Connection, tenant_id: str, call_id: str) -> Attempt | None:
    """Return the latest attempt of a call."""
    row = await connection.fetchrow(_SQL["of_call"], tenant_id, call_id)
    return None if row is None else _attempt(row)


def _attempt(row: asyncpg.Record) -> Attempt:
    return Attempt(**{name: row[name] for name in Attempt.__struct_fields__})
