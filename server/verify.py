"""`dialdesk recordings verify`: whether every recording has its bytes, and all bytes a recording."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Literal

import msgspec

from protocol.errors import DialdeskError
from server.config import Config, master_keys
from server.stores import Stores, open_stores
from storage import accounts, recordings
from storage.chunks import Tampered
from storage.database import Database, open_database
from storage.objects import NoSuchObject, StoredObject, StoreError
from storage.recordings import BUCKET, Recording
from storage.tenant_keys import TenantKeys
from storage.vault import SealError, Vault

AT_ONCE = 16
BATCH = 500


@asynccontextmanager
async def verification(
    config: Config, *, tenant_id: str | None, deep: bool, progress: Callable[[int], None]
) -> AsyncIterator["Verification"]:
    """Open what a verification needs. `progress` is told how many rows and objects were compared so far.

    Raises NOT_FOUND where there is no such tenant: nothing would be compared, and all seem well.
    """
    async with open_database(
        config.database_url, timeout=config.database_timeout, statement_cache=config.database_statement_cache
    ) as database:
        if tenant_id is not None:
            await _require_tenant(database, tenant_id)
        async with open_stores(config, database, TenantKeys(Vault(master_keys(config)))) as stores:
            yield Verification(database, stores, tenant_id=tenant_id, deep=deep, progress=progress)


async def _require_tenant(database: Database, tenant_id: str) -> None:
    async with database.connection() as connection:
        try:
            await accounts.get_tenant(connection, tenant_id)
        except DialdeskError:
            raise DialdeskError("NOT_FOUND", what=f"tenant {tenant_id}") from None  # told by its id


class Discrepancy(msgspec.Struct, frozen=True):
    """Something that is not as it should be.

    `missing`: a recording without its bytes. `damaged`: they are not as many, or not those, that were stored. `orphan`:
    bytes without a recording. `copy`: bytes of a recording that rests elsewhere. `unreachable`: bytes in a store that
    does not answer, or a folder of another machine.
    """

    kind: Literal["missing", "damaged", "orphan", "copy", "unreachable"]
    place: str
    key: str
    call_id: str | None = None
    reason: str = ""


class Verification:
    """Compares rows and objects; nothing is changed. `looked_at` counts what it has compared so far."""

    def __init__(
        self, database: Database, stores: Stores, *, tenant_id: str | None, deep: bool, progress: Callable[[int], None]
    ) -> None:
        self._database = database
        self._stores = stores
        self._tenant_id = tenant_id
        self._deep = deep
        self._progress = progress
        self.looked_at = 0

    async def run(self) -> AsyncIterator[Discrepancy]:
        """Find what is not as it should be: first of all rows, then of all objects."""
        async for found in self._rows():
            yield found
        for place in self._stores.places:
            try:
                async for found in self._objects(place):
                    yield found
            except StoreError as error:
                yield Discrepancy("unreachable", place, "", reason=str(error))

    async def _rows(self) -> AsyncIterator[Discrepancy]:
        after = ""
        while True:
            async with self._database.connection() as connection:
                kept = await recordings.kept(connection, self._tenant_id, after, BATCH)
            if not kept:
                return
            after = kept[-1].call_id
            stored = [recording for recording in kept if recording.state == "stored"]
            places = asyncio.Semaphore(AT_ONCE)

            async def in_turn(recording: Recording, places: asyncio.Semaphore = places) -> Discrepancy | None:
                async with places:
                    return await self._of_row(recording)

            for found in await asyncio.gather(*[in_turn(recording) for recording in stored]):
                if found is not None:
                    yield found
            self._count(len(kept))

    async def _of_row(self, recording: Recording) -> Discrepancy | None:
        found = Discrepancy("missing", recording.place, recording.object_key, recording.call_id)
        try:
            stat = await self._stores.at(recording.place).stat(recording.object_key)
            size = self._stores.size_at_rest(recording)
            if stat.size != size:
                return msgspec.structs.replace(found, kind="damaged", reason=f"{stat.size} bytes, not {size}")
            if self._deep and await self._digest(recording) != recording.sha256:
                return msgspec.structs.replace(found, kind="damaged", reason="another sha256")
        except NoSuchObject:
            return await self._still(found)
        except (Tampered, SealError) as error:
            return msgspec.structs.replace(found, kind="damaged", reason=str(error))
        except StoreError as error:
            return msgspec.structs.replace(found, kind="unreachable", reason=str(error))
        except DialdeskError:
            return msgspec.structs.replace(found, kind="unreachable", reason="not a store of this machine")
        return None

    async def _still(self, missing: Discrepancy) -> Discrepancy | None:
        """What is not there may have been moved, or have left, since its row was read."""
        async with self._database.connection() as connection:
            rests_at = (await recordings.owned(connection, [missing.key])).get(missing.key)
        return missing if rests_at == missing.place else None

    async def _digest(self, recording: Recording) -> bytes:
        digest = hashlib.sha256()
        async with aclosing(self._stores.read(recording, recording.size, 0, recording.size)) as pieces:
            async for piece in pieces:
                digest.update(piece)
        return digest.digest()

    async def _objects(self, place: str) -> AsyncIterator[Discrepancy]:
        batch: list[StoredObject] = []
        prefix = "" if self._tenant_id is None else f"{self._tenant_id}/"
        async for stored in self._stores.at(place).objects(prefix):
            batch.append(stored)
            if len(batch) == BATCH:
                for found in await self._of_objects(place, batch):
                    yield found
                batch = []
        for found in await self._of_objects(place, batch):
            yield found

    async def _of_objects(self, place: str, batch: list[StoredObject]) -> list[Discrepancy]:
        async with self._database.connection() as connection:
            rest_at = await recordings.owned(connection, [stored.key for stored in batch])
        self._count(len(batch))
        found = []
        for stored in batch:
            if stored.key not in rest_at:
                if not await self._is_there(place, stored.key):
                    continue  # it left just now
                found.append(Discrepancy("orphan", place, stored.key, reason=f"{stored.size} bytes"))
            elif rest_at[stored.key] == BUCKET != place:  # the other way round it is being moved
                found.append(Discrepancy("copy", place, stored.key, reason=f"it rests at {rest_at[stored.key]}"))
        return found

    async def _is_there(self, place: str, key: str) -> bool:
        try:
            await self._stores.at(place).stat(key)
        except NoSuchObject:
            return False
        return True

    def _count(self, more: int) -> None:
        self.looked_at += more
        self._progress(self.looked_at)
