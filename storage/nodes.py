"""Who is where: the leases of nodes, the epochs of phones, the pages of agents, and the sweeps that keep them true.

Every write of a phone's presence names the epoch under which its session was claimed, so that an old session cannot
speak for a newer one (docs/architecture.md, 4). All times are PostgreSQL's.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec

from protocol.messages import DeviceStatus, WaitingCommand
from storage.database import Connection, queries
from storage.events import Emitted, emit

_SQL = queries("nodes")


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A phone that said DEVICE_ONLINE on this node. `push_token` is sealed; `capabilities` is JSON."""

    device_id: str
    token_hash: bytes
    connection: int
    boot_id: str
    app_version: str
    os_version: str
    capabilities: bytes
    handset_busy: bool
    push_token: bytes | None = None


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """A session that is now this node's. `away` is how many seconds the phone had no socket, None if it had one."""

    device_id: str
    tenant_id: str
    user_id: str
    epoch: int
    old_node: str | None
    away: float | None
    now: datetime
    live_call_id: str | None
    commands: list[WaitingCommand]


async def enlist(connection: Connection, boot_id: str, name: str, kind: Literal["web", "worker"], lease: float) -> None:
    """Begin a life as a node, holding a lease of so many seconds."""
    await connection.execute(_SQL["enlist"], boot_id, name, kind, lease)


async def renew(connection: Connection, boot_id: str, lease: float) -> bool:
    """Extend the lease; False means that it was swept, and that every session under it is lost."""
    return await connection.fetchval(_SQL["renew"], boot_id, lease) is not None


async def retire(connection: Connection, boot_id: str) -> None:
    """End a life on purpose: phones that are still here have their grace to come back elsewhere. In a transaction."""
    await connection.execute(_SQL["retire"], boot_id)
    await connection.execute(_SQL["sweep_agents"], [boot_id])
    await connection.execute(_SQL["release_devices"], boot_id)


async def sweep(connection: Connection) -> tuple[list[str], list[Emitted]]:
    """Take the leases of nodes that did not renew, and all that dead nodes hold. In a transaction.

    Returns the boot ids of nodes that died now, and events.
    """
    swept = [row["boot_id"] for row in await connection.fetch(_SQL["sweep_nodes"])]
    haunted = [row["boot_id"] for row in await connection.fetch(_SQL["haunted"])]
    if not haunted:
        return swept, []
    await connection.execute(_SQL["sweep_agents"], haunted)
    return swept, await _tell_offline(connection, await connection.fetch(_SQL["sweep_devices"], haunted))


async def forget(connection: Connection) -> None:
    """Drop nodes whose life ended a day ago."""
    await connection.execute(_SQL["forget"])


async def claim(connection: Connection, node: str, claims: Sequence[Claim]) -> tuple[dict[str, Claimed], list[Emitted]]:
    """Claim sessions for `node`: (claimed by device id, events). In a transaction.

    A phone that is missing from the answer was not claimed: a newer connection of it is known, or it was unbound.
    """
    rows = await connection.fetch(
        _SQL["claim"],
        node,
        [c.device_id for c in claims],
        [c.token_hash for c in claims],
        [c.connection for c in claims],
        [c.boot_id for c in claims],
        [c.app_version for c in claims],
        [c.os_version for c in claims],
        [c.capabilities.decode() for c in claims],
        [c.handset_busy for c in claims],
        [c.push_token for c in claims],
    )
    waiting: dict[str, list[WaitingCommand]] = {row["id"]: [] for row in rows}
    for command in await connection.fetch(_SQL["waiting"], list(waiting)):
        waiting[command["device_id"]].append(
            WaitingCommand(command["type"], command["id"], msgspec.Raw(command["data"].encode()))
        )
    claimed = {
        row["id"]: Claimed(
            device_id=row["id"],
            tenant_id=row["tenant_id"],
            user_id=row["user_id"],
            epoch=row["conn_epoch"],
            old_node=row["old_node"],
            away=row["away"],
            now=row["now"],
            live_call_id=row["live_call_id"],
            commands=waiting[row["id"]],
        )
        for row in rows
    }
    online = [
        (row["user_id"], DeviceStatus(device_id=row["id"], online_status="online"))
        for row in rows
        if row["was_offline"]
    ]
    return claimed, await emit(connection, online)


async def sent(connection: Connection, command_ids: Sequence[str], resend_after: float) -> None:
    """Count the commands that went out with WELCOME as sent once on the new session."""
    await connection.execute(_SQL["sent"], list(command_ids), resend_after)


class Presence(msgspec.Struct, frozen=True):
    """What a session says of its phone. `lost`: the socket went without a word; `left`: gone on purpose."""

    device_id: str
    epoch: int
    said: Literal["online", "offline", "lost", "left"]


async def tell_presence(connection: Connection, said: Sequence[Presence]) -> list[Emitted]:
    """Write down what sessions say of their phones: the events. In a transaction."""
    rows = await connection.fetch(
        _SQL["tell_presence"], [p.device_id for p in said], [p.epoch for p in said], [p.said for p in said]
    )
    return await emit(
        connection,
        [
            (row["user_id"], DeviceStatus(device_id=row["id"], online_status=row["online_status"]))
            for row in rows
            if row["changed"]
        ],
    )


async def set_busy(connection: Connection, device_id: str, epoch: int, *, busy: bool) -> None:
    """Say that the handset is on a call of its own, or is no longer."""
    await connection.execute(_SQL["set_busy"], device_id, epoch, busy)


async def heard(
    connection: Connection, node: str, sessions: Sequence[tuple[str, int, float]]
) -> list[tuple[str, int, Literal["unbound", "replaced", "lost"]]]:
    """Write down how many seconds ago these (device id, epoch, seconds) were heard from.

    Returns (device id, epoch, why) of sessions that are no longer the true ones and are to be closed.
    """
    ids = [device_id for device_id, _, _ in sessions]
    epochs = [epoch for _, epoch, _ in sessions]
    await connection.execute(_SQL["heard"], ids, epochs, [ago for _, _, ago in sessions])
    return [(row["id"], row["epoch"], row["why"]) for row in await connection.fetch(_SQL["fenced"], node, ids, epochs)]


async def sweep_grace(connection: Connection, grace: float) -> list[Emitted]:
    """Take phones offline whose sockets have been gone for longer than `grace` seconds. In a transaction."""
    return await _tell_offline(connection, await connection.fetch(_SQL["sweep_grace"], grace))


async def still_bound(connection: Connection, claims: Sequence[Claim]) -> set[str]:
    """Return which of these phones are bound by the very token they came with."""
    rows = await connection.fetch(_SQL["still_bound"], [c.device_id for c in claims], [c.token_hash for c in claims])
    return {row["id"] for row in rows}


async def said_to_be_here(connection: Connection, node: str) -> list[tuple[str, int]]:
    """Return (device id, epoch) of all phones that are said to have their session at this node."""
    return [(row["id"], row["conn_epoch"]) for row in await connection.fetch(_SQL["ghosts"], node)]


async def attend(connection: Connection, user_ids: Sequence[str], node: str) -> None:
    """This node holds pages of these agents from now on."""
    await connection.execute(_SQL["attend"], list(user_ids), node)


async def leave(connection: Connection, user_ids: Sequence[str], node: str) -> None:
    """This node holds no page of these agents any more."""
    await connection.execute(_SQL["leave"], list(user_ids), node)


async def _tell_offline(connection: Connection, rows: Sequence[Any]) -> list[Emitted]:
    return await emit(
        connection, [(row["user_id"], DeviceStatus(device_id=row["id"], online_status="offline")) for row in rows]
    )
