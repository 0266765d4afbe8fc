"""What an installation holds at one moment, written down for the checker: rows of PostgreSQL in one snapshot, and what
nodes and Valkey say of themselves."""

import re
from pathlib import Path

import aiohttp
import asyncpg
from redis.asyncio import Redis

from tests.faults.record import (
    AliveRow,
    AttendedRow,
    CallRow,
    ChannelRow,
    CommandRow,
    DeviceRow,
    DumpRow,
    EventRow,
    Journal,
    NodeRow,
    ReportRow,
    SessionsRow,
    StreamRow,
)
from tests.faults.world import METRICS_TOKEN, NODES, World

_QUERIES: dict[type[DumpRow], str] = {
    CallRow: """
        SELECT id, user_id, device_id, status, outcome, closed_by, evidence, duration,
            extract(epoch FROM created_at)::float8 AS created_at, extract(epoch FROM dialing_at)::float8 AS dialing_at,
            extract(epoch FROM ringing_at)::float8 AS ringing_at,
            extract(epoch FROM connected_at)::float8 AS connected_at,
            extract(epoch FROM ended_at)::float8 AS ended_at, extract(epoch FROM reap_at)::float8 AS reap_at
        FROM call ORDER BY created_at, id""",
    ReportRow: """
        SELECT call_id, message_id, kind, data ->> 'status' AS status FROM call_event
        WHERE message_id IS NOT NULL ORDER BY call_id, id""",
    CommandRow: """
        SELECT id, call_id, device_id, type, extract(epoch FROM expires_at)::float8 AS expires_at,
            next_send_at IS NOT NULL AS waits
        FROM command ORDER BY created_at, id""",
    DeviceRow: """
        SELECT id, hardware_id, user_id, node, online_status = 'online' AS online, conn_epoch AS epoch
        FROM device ORDER BY id""",
    StreamRow: "SELECT user_id, last_seq FROM agent_stream ORDER BY user_id",
    EventRow: """
        SELECT user_id, seq, type, data ->> 'callId' AS call_id,
            coalesce((data ->> 'enriched')::boolean, false) AS enriched
        FROM agent_event ORDER BY user_id, seq""",
    NodeRow: """
        SELECT boot_id, kind, swept_at IS NULL AND leased_until > now() AS leased FROM node
        WHERE swept_at IS NULL ORDER BY boot_id""",
    AttendedRow: "SELECT user_id, node FROM agent_node ORDER BY user_id, node",
}

_SESSIONS = re.compile(r'^dialdesk_sessions\{kind="(\w+)"\} (\S+)$', re.MULTILINE)


async def take(world: World) -> list[DumpRow]:
    """Ask for everything."""
    rows: list[DumpRow] = []
    connection = await asyncpg.connect(world.house.database_url, timeout=30)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            for kind, query in _QUERIES.items():
                rows += [kind(**dict(row)) for row in await connection.fetch(query, timeout=60)]
    finally:
        await connection.close()
    rows += [await _sessions(name, world.processes[name].process.origin) for name in NODES]
    rows += [AliveRow(kind="web", count=len(NODES)), AliveRow(kind="worker", count=1)]
    begin = f"{world.redis_prefix}node:"
    async with Redis.from_url(world.servers.redis_url, decode_responses=True) as redis:
        channels = await redis.pubsub_channels(f"{begin}*")
    rows += [ChannelRow(node=str(channel).removeprefix(begin)) for channel in channels]
    return rows


def write(rows: list[DumpRow], path: Path) -> None:
    """Write rows down."""
    with Journal[DumpRow](path) as journal:
        for row in rows:
            journal.write(row)


async def _sessions(name: str, origin: str) -> SessionsRow:
    """What a node counts, by its metrics."""
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http,
        http.get(f"{origin}/metrics", headers={"Authorization": f"Bearer {METRICS_TOKEN}"}) as answer,
    ):
        counted = {kind: int(float(number)) for kind, number in _SESSIONS.findall(await answer.text())}
    return SessionsRow(node=name, phones=counted.get("phone", 0), pages=counted.get("agent", 0))
