"""Commands that a phone of this node did not acknowledge: sent again, without asking Redis, or the socket given up."""

import asyncio

import structlog
from msgspec import Raw

from protocol.errors import CloseCode, DialdeskError
from protocol.messages import encode_raw
from server.hub import Hub
from server.lease import Lease
from server.relay import NO_FRAME, ClosePhone, ToPhone
from server.telemetry import Metrics
from storage import calls
from storage.database import Database

log = structlog.get_logger()

SENDS = 2
"""Sendings of a command that may go unanswered on one socket before it is closed as dead."""


async def resend(
    database: Database, hub: Hub, lease: Lease, metrics: Metrics, *, every: float, resend_after: float
) -> None:
    """Send again, for ever, what the phones of this node did not acknowledge within `resend_after` seconds."""
    while True:
        await asyncio.sleep(every)
        if not hub.has_phones:
            continue
        try:
            async with database.connection() as connection:
                due = await calls.due(connection, lease.boot_id, resend_after)
        except DialdeskError as error:
            log.warning("commands not sent again", cause=repr(error.__cause__))
            continue
        for command in due:
            if command.sends > SENDS:
                log.warning("phone does not answer", device_id=command.device_id)
                hub.receive(
                    ClosePhone(
                        command.device_id, CloseCode.HEARTBEAT_LOST, "commands unanswered", NO_FRAME, command.epoch + 1
                    )
                )
            else:
                metrics.resends.inc()
                frame = encode_raw(command.type, command.data, command.id)
                hub.receive(ToPhone(command.device_id, Raw(frame)))
