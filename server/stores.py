"""Where the bytes of recordings are: in which store new ones go, in which old ones lie, and how each is read."""

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

from protocol.errors import DialdeskError
from server.config import Config
from storage import recordings
from storage.chunks import SALT, ChunkCipher, sealed_size
from storage.database import Connection, Database
from storage.folder import open_folder
from storage.objects import NoSuchObject, Store, StoreError
from storage.recordings import BUCKET, Bytes, Recording
from storage.s3 import open_s3
from storage.tenant_keys import TenantKeys


class Stores:
    """The stores of this node by place, the first of which takes what is new. What lies in a folder that this node does
    not see is not within reach."""

    def __init__(
        self,
        database: Database,
        keys: TenantKeys,
        stores: Mapping[str, Store],
        *,
        takes: bool,
        spool: str | None,
        encrypt: bool,
    ) -> None:
        self._database = database
        self._keys = keys
        self._stores = dict(stores)
        self._takes = takes
        self._encrypt = encrypt
        self.spool = spool
        """The place from which recordings are moved to the bucket, if they are."""

    @property
    def places(self) -> list[str]:
        """The places within reach; the first takes what is new."""
        return list(self._stores)

    @property
    def place(self) -> str:
        """Where new recordings go. Raises RECORDING_OFF where they are not kept."""
        if not self._takes:
            raise DialdeskError("RECORDING_OFF")
        return self.places[0]

    def at(self, place: str) -> Store:
        """Return the store of a place. Raises UNAVAILABLE where it is not within reach of this node: in a folder of
        another machine, from where it moves to the bucket before long."""
        try:
            return self._stores[place]
        except KeyError as error:
            raise DialdeskError("UNAVAILABLE") from error

    def reaches(self, place: str) -> bool:
        """Whether a place is within reach."""
        return place in self._stores

    async def new_key(self, connection: Connection, tenant_id: str) -> tuple[int | None, bytes | None]:
        """Return the tenant's key and a salt for a new recording; nothing where they are not encrypted."""
        if not self._encrypt:
            return None, None
        key_id, _ = await self._keys.current(connection, tenant_id)
        return key_id, secrets.token_bytes(SALT)

    async def cipher(self, brought: Bytes) -> ChunkCipher | None:
        """Return what encrypts and decrypts the bytes of a recording; None where they are not encrypted."""
        if brought.key_id is None or brought.salt is None:
            return None
        async with self._database.connection() as connection:
            key = await self._keys.key(connection, brought.tenant_id, brought.key_id)
        return ChunkCipher(key, brought.salt, brought.call_id)

    async def read(
        self, brought: Bytes, size: int, start: int, end: int, place: str | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Read the audio from `start` to before `end`, of `size` bytes in all, where it rests or at another place.

        Where it rests it is read to the end though it is moved meanwhile. Raises NoSuchObject, StoreError, Tampered,
        SealError, and UNAVAILABLE where the place is not within reach.
        """
        cipher = await self.cipher(brought)
        rests = place or brought.place
        while True:
            try:
                async with aclosing(_pieces(self.at(rests), brought.object_key, cipher, size, start, end)) as pieces:
                    async for piece in pieces:
                        start += len(piece)
                        yield piece
            except (NoSuchObject, StoreError):
                moved_to = await self._rests_at(brought) if place is None else None
                if moved_to is None or moved_to == rests:
                    raise
                rests = moved_to
            else:
                return

    async def _rests_at(self, brought: Bytes) -> str | None:
        async with self._database.connection() as connection:
            return (await recordings.owned(connection, [brought.object_key])).get(brought.object_key)

    @staticmethod
    def size_at_rest(recording: Recording) -> int:
        """How large the object is."""
        return recording.size if recording.key_id is None else sealed_size(recording.size)


def _pieces(
    store: Store, key: str, cipher: ChunkCipher | None, size: int, start: int, end: int
) -> AsyncGenerator[bytes, None]:
    if cipher is None:
        return store.read(key, start, end)
    return cipher.open(size, start, end, lambda first, last: store.read(key, first, last))


@asynccontextmanager
async def open_stores(config: Config, database: Database, keys: TenantKeys) -> AsyncIterator[Stores]:
    """Open what is configured. A store that takes nothing new is still read, so that the strategy may be changed."""
    async with AsyncExitStack() as stack:
        stores: dict[str, Store] = {}
        spool: str | None = None
        if config.recordings_folder is not None:
            folder = await open_folder(config.recordings_folder)
            stores[f"folder:{folder.id}"] = folder
            spool = f"folder:{folder.id}" if config.recordings == "hybrid" else None
        if config.s3_bucket is not None:
            bucket: Store = await stack.enter_async_context(open_s3(config))
            stores = {BUCKET: bucket, **stores} if config.recordings == "s3" else {**stores, BUCKET: bucket}
        takes = config.recordings != "off"
        yield Stores(database, keys, stores, takes=takes, spool=spool, encrypt=config.recording_encryption)
