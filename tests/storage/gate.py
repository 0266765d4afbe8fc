"""Recordings in rows alone, for tests: a call, uploads of it, and the gate that they pass."""

import hashlib
from datetime import UTC, datetime
from typing import Any

from protocol.identifiers import new_call_id, new_id
from protocol.messages import RecordingReady
from protocol.timestamps import epoch_ms
from storage import recordings, uploads
from storage.calls import Reach
from storage.database import Database
from storage.events import Emitted
from storage.recordings import Bytes, Recording, recording_url
from storage.uploads import Upload
from tests.conftest import Office

PLACE = "folder:here"
SIZE, SHA256 = 1000, hashlib.sha256(b"song").digest()


class Gate:
    """An agent with a phone, whose calls get recordings."""

    def __init__(self, database: Database, office: Office, user_id: str, phone: str) -> None:
        self.database = database
        self.office = office
        self.user_id = user_id
        self.phone = phone

    @property
    def tenant_id(self) -> str:
        """The tenant."""
        return self.office.tenant_id

    @property
    def reach(self) -> Reach:
        """All calls of the tenant."""
        return Reach(tenant_id=self.tenant_id, user_id=None, only_user=None, only_teams=None)

    async def call(self, at: str | None = None, team_id: str | None = None) -> str:
        """A call that has ended."""
        call_id = new_call_id()
        await self.execute(
            "INSERT INTO call (id, tenant_id, user_id, team_id, created_by, device_id, call_method, customer_phone,"
            " status, ended_at, outcome, created_at) VALUES ($1, $2, $3, $6, $3, $4, 'mobile', '+8613900139000',"
            " 'ended', now(), 'connected', coalesce($5::text::timestamptz, now()))",
            call_id,
            self.tenant_id,
            self.user_id,
            self.phone,
            at,
            team_id,
        )
        return call_id

    async def upload(self, call_id: str, *, expires_after: float = 60.0, **more: Any) -> Upload:
        """Begin an upload by one request, or in parts where its `size` and `sha256` are told."""
        upload = Upload(
            **{
                "id": new_id("upl"),
                "tenant_id": self.tenant_id,
                "call_id": call_id,
                "source": "phone",
                "actor_id": self.phone,
                "place": PLACE,
                "object_key": f"{self.tenant_id}/recordings/{call_id}.mp3",
                "store_upload_id": new_id("store"),
                "media_type": "audio/mpeg",
                "key_id": None,
                "salt": None,
                "size": None,
                "sha256": None,
                **more,
            }
        )
        async with self.database.connection() as connection:
            await uploads.add(connection, upload, expires_after)
        return upload

    async def pass_gate(self, upload: Upload, *, settle_after: float = 60.0) -> bool:
        """Pass the gate, if nobody stands there."""
        async with self.database.connection() as connection:
            return await recordings.hold_place(connection, self.tenant_id, upload.id, SIZE, SHA256, settle_after)

    async def finish(self, brought: Bytes) -> Emitted | None:
        """Say that the object is there and whole."""
        ready = RecordingReady(
            call_id=brought.call_id,
            at=epoch_ms(datetime.now(UTC)),
            source=brought.source,
            media_type=brought.media_type,
            size=SIZE,
            recording_url=recording_url(brought.call_id),
        )
        async with self.database.connection() as connection:
            return await recordings.finish(connection, brought, SHA256, ready)

    async def withdraw(self, brought: Bytes) -> None:
        """Say that the upload came to nothing."""
        async with self.database.connection() as connection:
            await recordings.withdraw(connection, brought)

    async def storing(self, *, settle_after: float = 60.0) -> Upload:
        """An upload of a call of its own that has passed the gate."""
        upload = await self.upload(await self.call())
        assert await self.pass_gate(upload, settle_after=settle_after)
        return upload

    async def stored(self) -> str:
        """A call with a recording; returns its id."""
        upload = await self.storing()
        assert await self.finish(upload)
        return upload.call_id

    async def recording(self, call_id: str) -> Recording:
        """The recording of a call."""
        async with self.database.connection() as connection:
            _, recording = await recordings.get(connection, self.reach, call_id)
        assert recording is not None
        return recording

    async def unsettled(self, *places: str, limit: int = 100) -> set[str]:
        """The calls that a worker claims now."""
        async with self.database.connection() as connection:
            return {one.call_id for one in await recordings.unsettled(connection, places or (PLACE,), 60, limit)}

    async def leaving(self, *places: str) -> set[str]:
        """The calls whose recordings a worker claims now, to drop them."""
        async with self.database.connection() as connection:
            return {one.call_id for one in await recordings.to_drop(connection, places or (PLACE,), 60, 100)}

    async def rows(self, table: str) -> list[dict[str, Any]]:
        """All rows of a table."""
        async with self.database.connection() as connection:
            return [dict(row) for row in await connection.fetch(f"SELECT * FROM {table}")]

    async def execute(self, statement: str, *values: Any) -> None:
        """Change something behind everybody's back."""
        async with self.database.connection() as connection:
            await connection.execute(statement, *values)


async def gate_of(database: Database, office: Office) -> Gate:
    """An agent with a phone."""
    user_id = await office.agent()
    return Gate(database, office, user_id, await office.phone(user_id))
