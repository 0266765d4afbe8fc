"""Leases of extensions whose time has run out: the provider is asked before anybody else is lent the extension.

Most leases end with their calls. What is left is what nobody knows of: an order that was never answered, a record that
never came, a node that died between two statements. A silent provider is no reason to lend an extension again.
"""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Protocol, runtime_checkable

import structlog

from protocol.call import End
from protocol.errors import DialdeskError
from server.line_config import Accounts
from server.placing import reference
from server.providers.provider import PlacementRefused, Uncertain, Unsupported
from server.rounds import work_off
from server.ssrf import Refused
from storage import attempts, extensions
from storage.database import Database
from storage.extensions import Ending
from storage.vault import SealError

log = structlog.get_logger()

AT_ONCE = 100
"""Leases that one worker asks of at a time."""

OF_EACH = 5
"""Of these on any one line."""

DEADLINE = 15.0


@runtime_checkable
class TellsExtensions(Protocol):
    """A provider that knows how its extensions are."""

    async def extension_free(self, extension: str) -> bool:
        """Tell whether an extension is idle now. Raises PlacementRefused, Uncertain."""


class ExtensionLeases:
    """Ends leases that nothing else has ended: a worker's chore.

    A call that has ended, as far as is known here, has no extension `longest` seconds after it was lent one, whatever
    the provider says or cannot say: no call lasts longer here.
    """

    def __init__(self, database: Database, accounts: Accounts, *, longest: float) -> None:
        self._database = database
        self._accounts = accounts
        self._longest = timedelta(seconds=longest)

    async def check(self) -> None:
        """Ask of leases whose time has run out, and end those of extensions that are idle; the others are renewed."""
        await work_off(self._claim, self._attend, AT_ONCE)

    async def _claim(self, room: int, busy: Counter[str]) -> list[Ending]:
        async with self._database.connection() as connection:
            return await extensions.ending(connection, room, of_each=OF_EACH, busy=busy)

    async def _attend(self, lease: Ending) -> None:
        try:
            if not await self._is_over(lease):
                return
            async with self._database.connection() as connection:
                released = await extensions.release(connection, lease)
        except (DialdeskError, SealError) as error:
            log.warning("extension not checked", line_id=lease.line_id, cause=repr(error))
        else:
            if released:
                log.warning("extension released at the end of its lease", line_id=lease.line_id, call_id=lease.call_id)

    async def _is_over(self, lease: Ending) -> bool:
        if lease.ended and lease.age > self._longest:
            return True
        try:
            async with asyncio.timeout(DEADLINE):
                return await self._ask(lease)
        except (Uncertain, Unsupported, PlacementRefused, Refused, TimeoutError) as error:
            log.info("extension uncertain", line_id=lease.line_id, call_id=lease.call_id, cause=str(error))
            return False

    async def _ask(self, lease: Ending) -> bool:
        """Whether the provider is done with the call: its extension is idle, or else its record says so."""
        async with self._database.connection() as connection:
            try:
                provider = await self._accounts.open(connection, lease.tenant_id, lease.line_id)
            except DialdeskError as error:
                if error.code == "NOT_FOUND":  # the line is deleted: nobody dials over it any more
                    return True
                raise
            attempt = await attempts.of_call(connection, lease.tenant_id, lease.call_id)
        if isinstance(provider, TellsExtensions):
            return await provider.extension_free(lease.number)
        if not lease.ended or attempt is None:
            return attempt is None
        told = await provider.look_up(reference(attempt))
        return told is None or any(isinstance(one.event, End) for one in told)
