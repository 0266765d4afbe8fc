"""Rows of calls, as many ask for them at a time: what is asked in the same moment goes in one statement.

Whoever asks waits for its own answer, and what it asked to be written is committed when it comes. Where a statement
comes to nothing, each of those who asked is heard alone, so that nobody fails for another's sake.
"""

from collections.abc import Sequence

from server.batch import Batch
from storage import calls
from storage.calls import Change, DialContext, Dialled, NewDial, StoredCall, Wanted
from storage.database import Database
from storage.events import Emitted

AT_ONCE = 2
"""Statements of a kind under way: while one waits for a lock or for the disk, the next is gathered and sent."""

BOUND = 64
"""Asks in a statement: with more it costs no less for each, and what is updated may be compared with each key."""


class CallRows:
    """What dials, acknowledgements and reports ask of PostgreSQL. All raise UNAVAILABLE, and what the functions of
    `storage.calls` raise."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._contexts = Batch(self._read_contexts, bound=BOUND, at_once=AT_ONCE, apart=True)
        self._dials = Batch(self._commit_dials, bound=BOUND, at_once=AT_ONCE, apart=True)
        self._acks = Batch(self._commit_acks, bound=BOUND, at_once=AT_ONCE, apart=True)
        self._reads = Batch(self._read_calls, bound=BOUND, at_once=AT_ONCE, apart=True)
        self._changes = Batch(self._commit_changes, bound=BOUND, at_once=AT_ONCE, apart=True)

    async def context(self, wanted: Wanted) -> DialContext | None:
        """What a dial needs to know; None where the asker reaches no such agent."""
        return await self._contexts.ask(wanted)

    async def dial(self, dial: NewDial) -> Dialled:
        """Make a call on a phone."""
        return await self._dials.ask(dial)

    async def ack(self, command_id: str, device_id: str) -> None:
        """Note that a phone has a command on its disk."""
        await self._acks.ask((command_id, device_id))

    async def read(self, tenant_id: str, call_id: str, message_id: str | None = None) -> StoredCall | None:
        """A call as reports see it."""
        return await self._reads.ask((tenant_id, call_id, message_id))

    async def change(self, change: Change) -> Emitted | None:
        """Move a call; None where somebody else moved it first."""
        return await self._changes.ask(change)

    async def _read_contexts(self, wanted: Sequence[Wanted]) -> list[DialContext | None]:
        async with self._database.by_key() as connection:
            return await calls.contexts(connection, wanted)

    async def _commit_dials(self, dials: Sequence[NewDial]) -> list[Dialled]:
        async with self._database.by_key() as connection:
            return await calls.dial_all(connection, dials)

    async def _commit_acks(self, acks: Sequence[tuple[str, str]]) -> list[None]:
        async with self._database.by_key() as connection:
            await calls.ack_all(connection, acks)
        return [None] * len(acks)

    async def _read_calls(self, wanted: Sequence[tuple[str, str, str | None]]) -> list[StoredCall | None]:
        async with self._database.by_key() as connection:
            return await calls.read_all(connection, wanted)

    async def _commit_changes(self, changes: Sequence[Change]) -> list[Emitted | None]:
        async with self._database.by_key() as connection:
            return await calls.change_all(connection, changes)
