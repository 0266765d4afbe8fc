"""Messages of providers as they came: kept once before they are answered, read by a worker after."""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

import msgspec

from storage.batches import drop_all
from storage.database import Connection, queries

_SQL = queries("inbox")

Settled = Literal["applied", "refused", "failed"]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message to be read for the `tries`-th time. Header names are in lower case. Where it `asks`, what it tells is
    applied but for a recording that it names."""

    id: int
    tenant_id: str
    line_id: str
    kind: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    received_at: datetime
    tries: int
    asks: bool


async def keep(
    connection: Connection,
    tenant_id: str,
    line_id: str,
    once: str,
    kind: str,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    body: bytes,
    ip: str | None,
) -> bool:
    """Keep a message; False where it was kept before and not refused."""
    row = await connection.fetchval(
        _SQL["keep"],
        tenant_id,
        line_id,
        once,
        kind,
        msgspec.json.encode(query).decode(),
        msgspec.json.encode(headers).decode(),
        body,
        ip,
    )
    return row is not None


async def due(
    connection: Connection,
    lease: float,
    limit: int,
    *,
    of_each: int | None = None,
    busy: Mapping[str, int] = {},
    asks: bool = False,
) -> list[Message]:
    """Claim messages that are to be read, or whose provider is to be asked; the claim lasts `lease` seconds. Of each
    line come `of_each` at most, less those that the worker has already (`busy`)."""
    arguments = (lease, limit, asks, of_each or limit, list(busy), list(busy.values()))
    return [
        Message(
            **{
                **dict(row),
                "query": msgspec.json.decode(row["query"], type=dict[str, str]),
                "headers": msgspec.json.decode(row["headers"], type=dict[str, str]),
            }
        )
        for row in await connection.fetch(_SQL["due"], *arguments)
    ]


async def settle(connection: Connection, message: Message, state: Settled, problem: str | None = None) -> None:
    """Say what became of a message."""
    await connection.execute(_SQL["settle"], message.tenant_id, message.id, state, problem)


async def ask(connection: Connection, message: Message) -> None:
    """Say that all that a message tells is applied, but for a recording for which its provider is to be asked now."""
    await connection.execute(_SQL["ask"], message.tenant_id, message.id)


async def put_off(connection: Connection, message: Message, seconds: float, problem: str) -> None:
    """Read it again in so many seconds."""
    await connection.execute(_SQL["put_off"], message.tenant_id, message.id, seconds, problem)


async def expire(connection: Connection, older_than: float) -> None:
    """Drop messages that came longer ago than so many seconds and are settled."""
    await drop_all(connection, _SQL["expire"], older_than)
