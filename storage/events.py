"""Agents' streams: events with a `seq` that has no holes, kept a day so that a page that was away can resume.

`seq` is allocated by `emit` in SQL, which holds the agent's row until commit: call it as the last statement of the
transaction (rule 6). Whoever calls it hands what it returns to `relay.announce` after the commit, never before.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from protocol.messages import Message, encode_data, encode_raw
from protocol.timestamps import epoch_ms
from storage.batches import drop_all
from storage.database import Connection, queries

_SQL = queries("events")


class Emitted(msgspec.Struct, frozen=True):
    """An event with its place in the agent's stream, its frame, and the nodes that hold pages of the agent."""

    user_id: str
    seq: int
    frame: bytes
    nodes: list[str]


async def emit(connection: Connection, events: Sequence[tuple[str, Message]]) -> list[Emitted]:
    """Append (user id, message) events to agents' streams: the last statement of a transaction."""
    if not events:
        return []
    rows = await connection.fetch(
        _SQL["emit"],
        [user_id for user_id, _ in events],
        [message.type for _, message in events],
        [encode_data(message).decode() for _, message in events],
    )
    return [
        Emitted(r["user_id"], r["seq"], frame(r["user_id"], r["seq"], r["type"], r["data"]), r["nodes"]) for r in rows
    ]


async def since(connection: Connection, user_id: str, seq: int, limit: int) -> list[tuple[int, bytes]]:
    """Return (seq, frame) of at most `limit` events after `seq`, oldest first."""
    rows = await connection.fetch(_SQL["since"], user_id, seq, limit)
    return [(r["seq"], frame(user_id, r["seq"], r["type"], r["data"], epoch_ms(r["at"]))) for r in rows]


async def position(connection: Connection, user_id: str) -> tuple[int, datetime]:
    """Return how far the stream of an agent is, and PostgreSQL's time."""
    row = await connection.fetchrow(_SQL["position"], user_id)
    assert row is not None
    return row["last_seq"], row["now"]


async def last_seqs(connection: Connection, user_ids: Sequence[str]) -> dict[str, int]:
    """Return how far the stream of each of these agents is."""
    rows = await connection.fetch(_SQL["last_seqs"], list(user_ids))
    return {r["user_id"]: r["last_seq"] for r in rows}


async def expire(connection: Connection, older_than: float) -> int:
    """Drop events older than so many seconds; returns how many went."""
    return await drop_all(connection, _SQL["expire"], older_than)


def frame(user_id: str, seq: int, kind: str, data: str, timestamp: int | None = None) -> bytes:
    """Return the frame of an event; its id is the same whenever and by whichever node it is sent."""
    return encode_raw(kind, data.encode(), f"evt_{user_id}_{seq}", seq=seq, timestamp=timestamp)
