"""Answers kept under the asker's `Idempotency-Key`, so that a POST sent twice creates once (docs/integrate-crm.md)."""

from collections.abc import Awaitable, Callable

import msgspec

from protocol.errors import DialdeskError
from storage.batches import drop_all
from storage.database import Connection, Database, Duplicate, queries

_SQL = queries("idempotency")


class Once(msgspec.Struct, frozen=True):
    """One request that must happen once. Without a `key` it happens as often as it is sent."""

    tenant_id: str
    actor_id: str
    operation: str
    key: str | None
    request_sha256: bytes

    async def run(self, database: Database, create: Callable[[], Awaitable[msgspec.Struct]]) -> bytes:
        """Return the JSON answer of `create`, or the kept one where this request was answered before.

        `create` must call `keep` in its transaction, and do nothing outside of that. Raises IDEMPOTENCY_MISMATCH where
        the key belongs to another request, and whatever `create` raises.
        """
        try:
            return msgspec.json.encode(await create())  # nearly always the first: who looked before would look in vain
        except (Duplicate, DialdeskError):
            # What is in the way may be itself, answered before: a dial finds its phone busy with its own call.
            if (kept := await self._kept(database)) is None:
                raise
            return kept

    @property
    def place(self) -> tuple[str, str, str | None]:
        """Where its answer is kept, within the tenant: by whom, for what, under which key."""
        return self.actor_id, self.operation, self.key

    async def keep(self, connection: Connection, answer: msgspec.Struct) -> None:
        """Keep the answer. A twin that committed first makes this raise, and the transaction come to nothing."""
        if self.key is not None:
            await connection.execute(_SQL["keep"], *self.row(answer))

    def row(self, answer: msgspec.Struct) -> tuple[str, str, str, str | None, bytes, bytes]:
        """The row to insert, for those whose transaction is one statement of their own."""
        encoded = msgspec.json.encode(answer)
        return self.tenant_id, self.actor_id, self.operation, self.key, self.request_sha256, encoded

    async def _kept(self, database: Database) -> bytes | None:
        if self.key is None:
            return None
        async with database.connection() as connection:
            row = await connection.fetchrow(_SQL["fetch"], self.tenant_id, self.actor_id, self.operation, self.key)
        if row is None:
            return None
        if row["request_sha256"] != self.request_sha256:
            raise DialdeskError("IDEMPOTENCY_MISMATCH")
        return bytes(row["answer"])


async def expire(connection: Connection) -> int:
    """Drop keys older than 24 hours; returns how many went."""
    return await drop_all(connection, _SQL["expire"])
