"""Where recordings are kept in tests: real stores of any strategy, the intake, the chores, and a node on top."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
from redis.asyncio import Redis

from protocol.identifiers import new_call_id, new_id
from server.app import web_node
from server.archive import Archive
from server.audio import AudioType, audio_type
from server.config import Config, master_keys
from server.intake import Intake
from server.relay import Relay
from server.stores import Stores, open_stores
from server.telemetry import Metrics
from storage import accounts, recordings
from storage.calls import Reach
from storage.database import Database
from storage.recordings import Recording
from storage.tenant_keys import TenantKeys
from storage.vault import Vault
from tests.audio_files import make_audio
from tests.conftest import Bucket
from tests.server.companies import BUILDER, Person, Town
from tests.server.serving import serving
from tests.storage.stores import fetch, keep, keys

AUDIO: Final = make_audio("mp3", 1.0)
LONG: Final = make_audio("wav", 360.0)
"""More than one part of an upload, and many pieces of a reading."""


def kept_in(strategy: str, s3: Bucket, folder: Path, **more: Any) -> dict[str, Any]:
    """The settings by which recordings are kept so: `local`, `s3` or `hybrid`, or any of them `encrypted`."""
    kind, _, encrypted = strategy.partition(" ")
    bucket = {
        "s3_endpoint_url": s3.endpoint_url,
        "s3_bucket": s3.bucket,
        "s3_access_key": s3.access_key,
        "s3_secret_key": s3.secret_key,
        "s3_retries": 0,
    }
    return {
        "recordings": kind,
        "recording_encryption": str(bool(encrypted)).lower(),
        **({} if kind == "local" else bucket),
        **({} if kind == "s3" else {"recordings_folder": folder}),
        **more,
    }


class Firm(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant whose agent makes calls with a phone, and those who ask for their recordings."""

    tenant_id: str
    team_id: str
    admin_id: str
    admin: Person
    agent_id: str
    agent: Person
    device_id: str
    phone: Person


class RecordRoom:
    """The stores of one worker, and its chores; the calls are those of one firm."""

    def __init__(
        self, database: Database, stores: Stores, redis: Redis, config: Config, town: Town, firm: Firm
    ) -> None:
        self.database = database
        self.stores = stores
        self.firm = firm
        self.town = town
        self.config = config
        metrics = Metrics()
        relay = Relay(redis, config.redis_prefix, lambda: "here", metrics, canary_every=1.0, deaf_after=5.0)
        self.intake = Intake(database, stores, relay, metrics, config)
        self.archive = Archive(database, stores, self.intake, metrics, config)
        self.reach = Reach(tenant_id=firm.tenant_id, user_id=None, only_user=None, only_teams=None)

    async def call(self, **changed: Any) -> str:
        """A call of the firm's agent that has ended, with some columns changed; its id."""
        call_id, firm = new_call_id(), self.firm
        await self.execute(
            "INSERT INTO call (id, tenant_id, user_id, team_id, created_by, device_id, call_method, customer_phone,"
            " status, ended_at, outcome) VALUES"
            " ($1, $2, $3, $4, $3, $5, 'mobile', '+8613800138000', 'ended', now(), 'connected')",
            call_id,
            firm.tenant_id,
            firm.agent_id,
            firm.team_id,
            firm.device_id,
        )
        for column, value in changed.items():
            await self.execute(f"UPDATE call SET {column} = $2 WHERE id = $1", call_id, value)
        return call_id

    async def stored(self, audio: bytes = AUDIO, **changed: Any) -> Recording:
        """A call whose recording is stored."""
        call_id = await self.call(**changed)
        target = await self.intake.target(self.reach, call_id)
        await self.intake.take(target, "phone", self.firm.device_id, _pieces(audio), length=len(audio))
        return await self.recording(call_id)

    async def overdue(self, audio: bytes = AUDIO, *, appeared: bool, told: bytes | None = None) -> Recording:
        """A recording whose node died within the gate, before its object appeared or after, `told` being what was
        announced."""
        upload, _ = await self.intake.begin(
            await self.intake.target(self.reach, await self.call()), "phone", self.firm.device_id, _kind(audio), 3600
        )
        cipher, store = await self.stores.cipher(upload), self.stores.at(upload.place)
        content = audio if cipher is None else cipher.seal(0, audio, last=True)
        part = await store.put_part(upload.object_key, upload.store_upload_id, 1, 0, content)
        size, sha256 = len(audio), hashlib.sha256(told or audio).digest()
        async with self.database.connection() as connection:
            assert await recordings.hold_place(connection, upload.tenant_id, upload.id, size, sha256, -1.0)
        if appeared:
            await store.complete(upload.object_key, upload.store_upload_id, [part])
        return await self.recording(upload.call_id)

    async def find(self, call_id: str) -> Recording | None:
        """The recording of a call, if it has one."""
        async with self.database.connection() as connection:
            return (await recordings.get(connection, self.reach, call_id))[1]

    async def recording(self, call_id: str) -> Recording:
        """The recording of a call, which has one."""
        found = await self.find(call_id)
        assert found is not None
        return found

    async def state(self, recording: Recording) -> str | None:
        """Where it stands now; None where there is no such recording any more."""
        found = await self.find(recording.call_id)
        return None if found is None else found.state

    async def audio(self, recording: Recording) -> bytes:
        """What is heard of it now."""
        now = await self.recording(recording.call_id)
        return b"".join([piece async for piece in self.stores.read(now, now.size, 0, now.size)])

    async def places(self, recording: Recording) -> list[str]:
        """The stores that have an object of it: `folder`, `s3`."""
        return sorted(
            [
                place.partition(":")[0]
                for place in self.stores.places
                if recording.object_key in await keys(self.stores.at(place), recording.object_key)
            ]
        )

    async def tamper(self, recording: Recording, place: str | None = None) -> bytes:
        """Turn one bit of the bytes at rest; what they were."""
        store = self.stores.at(place or recording.place)
        before = await fetch(store, recording.object_key)
        middle = len(before) // 2
        await keep(store, recording.object_key, before[:middle] + bytes([before[middle] ^ 1]) + before[middle + 1 :])
        return before

    async def settle(self) -> None:
        """Do the chores that settle what was begun: recordings that are stored, and those that leave."""
        await self.archive.settle()
        await self.archive.drop()

    async def due_again(self) -> None:
        """Let what was claimed or put off be due now."""
        await self.execute("UPDATE recording SET settle_at = now() - interval '1 second' WHERE settle_at IS NOT NULL")
        await self.execute("UPDATE recording SET next_read_at = now() WHERE next_read_at IS NOT NULL")

    async def age(self, recording: Recording, days: int) -> None:
        """Let it have been stored so many days ago."""
        await self.execute(
            "UPDATE recording SET stored_at = now() - make_interval(days => $2) WHERE call_id = $1",
            recording.call_id,
            days,
        )

    async def shown(self, recording: Recording) -> tuple[str | None, list[str]]:
        """What the call shows of its recording, and what its history says of it."""
        return (
            await self.value("SELECT recording_status FROM call WHERE id = $1", recording.call_id),
            await self.column(
                "SELECT kind FROM call_event WHERE call_id = $1 AND kind LIKE 'RECORDING%' ORDER BY id",
                recording.call_id,
            ),
        )

    async def told(self, recording: Recording) -> int:
        """How often the agent was told that it is ready."""
        count: int = await self.value(
            "SELECT count(*) FROM agent_event WHERE type = 'RECORDING_READY' AND data ->> 'callId' = $1",
            recording.call_id,
        )
        return count

    async def value(self, query: str, *arguments: Any) -> Any:
        """Ask the database for one value."""
        async with self.database.connection() as connection:
            return await connection.fetchval(query, *arguments)

    async def column(self, query: str, *arguments: Any) -> list[Any]:
        """Ask the database for one value of each row."""
        async with self.database.connection() as connection:
            return [row[0] for row in await connection.fetch(query, *arguments)]

    async def execute(self, statement: str, *arguments: Any) -> None:
        """Change something behind everybody's back, such as the past."""
        async with self.database.connection() as connection:
            await connection.execute(statement, *arguments)


@asynccontextmanager
async def record_room(
    database: Database, redis: Redis, config: Config, beside: RecordRoom | None = None
) -> AsyncIterator[RecordRoom]:
    """Open the stores that are configured, for the firm of another room or a new one."""
    town = Town(database, msgspec.structs.replace(config, recordings_folder=config.recordings_folder or "none"))
    firm = await _firm(town) if beside is None else beside.firm
    async with open_stores(config, database, TenantKeys(Vault(master_keys(config)))) as stores:
        yield RecordRoom(database, stores, redis, config, town, firm)


async def _firm(town: Town) -> Firm:
    async with town.database.transaction() as connection:
        tenant_id = await accounts.create_tenant(connection, BUILDER, code="firm", name="Firm")
        team_id = (await accounts.create_team(connection, BUILDER, tenant_id, "Team")).id
    admin_id, admin = await town.user(tenant_id, "tenant_admin")
    agent_id, agent = await town.user(tenant_id, "agent", team_id)
    async with town.database.transaction() as connection:
        device_id, phone = await town.phone(connection, tenant_id, agent_id, new_id("handset"))
    return Firm(
        tenant_id=tenant_id,
        team_id=team_id,
        admin_id=admin_id,
        admin=admin,
        agent_id=agent_id,
        agent=agent,
        device_id=device_id,
        phone=phone,
    )


class Desk:
    """A node over HTTP, and the recording that is asked for, mostly by the agent or the admin."""

    def __init__(self, room: RecordRoom, client: httpx.AsyncClient, recording: Recording) -> None:
        self.room = room
        self.client = client
        self.agent = room.firm.agent
        self.admin = room.firm.admin
        self.recording = recording
        self.path = f"/api/v1/calls/{recording.call_id}/recording"

    async def ask(
        self, who: Person, method: str = "GET", path: str = "", *, json: Any = None, **headers: str
    ) -> httpx.Response:
        """Ask for the recording, or what is below it: `if_none_match` is the header If-None-Match."""
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.request(method, self.path + path, json=json, headers={**who.headers, **told})

    async def hears(self, who: Person, path: str = "") -> str:
        """`ok`, or the code by which somebody is refused."""
        return outcome(await self.ask(who, path=path))


@asynccontextmanager
async def desk(database: Database, redis: Redis, config: Config, audio: bytes = AUDIO) -> AsyncIterator[Desk]:
    """Serve a node, with one recording stored."""
    async with record_room(database, redis, config) as room:
        recording = await room.stored(audio)
        async with web_node(config) as node, serving(node.app, config) as server:
            async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
                yield Desk(room, client, recording)


def outcome(response: httpx.Response) -> str:
    """Its error code, or `ok`."""
    return "ok" if response.status_code < 400 else str(response.json()["code"])


def _kind(audio: bytes) -> AudioType:
    kind = audio_type(audio)
    assert kind is not None
    return kind


async def _pieces(audio: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(audio), 100_000):
        yield audio[at : at + 100_000]
