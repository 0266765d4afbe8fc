"""Recordings as phones and agents bring them, over real HTTP to a served node: kept whole, or nothing of them is."""

import asyncio
import hashlib
import random
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import pytest
from websockets.asyncio.client import connect

from protocol.identifiers import new_call_id, new_id
from protocol.messages import DeviceOnline, RecordingUpload, encode
from server import intake
from server.app import web_node
from server.config import Config
from server.tokens import AccessTokens, Claims, new_token
from storage import credentials, recordings, uploads
from storage.database import Connection, Database
from storage.folder import open_folder
from storage.objects import PART, Store
from storage.recordings import BUCKET
from storage.s3 import open_s3
from tests.audio_files import make_audio
from tests.conftest import Bucket, Office
from tests.journeys.house import Process, free_port
from tests.server.serving import serving
from tests.server.test_forms import Part, encoded, part
from tests.storage import stores
from tests.waiting import until

SONG: Final = make_audio("mp3", 1.0)
OTHER_SONG: Final = make_audio("mp3", 1.5)
LONG_SONG: Final = b"ID3\x04\0\0\0\0\0\0" + random.Random(0).randbytes(2 * PART + 1000)
"""An MP3 by its first bytes, of three parts."""
EDGE: Final = {"content-type": "multipart/form-data; boundary=edge"}


def sha256(content: bytes) -> str:
    """The digest of a file, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def outcome(response: httpx.Response) -> str:
    """Its error code, or `ok`."""
    return "ok" if response.is_success else str(response.json()["code"])


def kept(call_id: str, audio: bytes) -> dict[str, Any]:
    """The answer for a recording that is kept."""
    url = f"/api/v1/calls/{call_id}/recording"
    return {"success": True, "recordingUrl": url, "size": len(audio), "sha256": sha256(audio)}


class Person(msgspec.Struct, frozen=True):
    """Who asks: a user or a phone by its id, and what goes with each request."""

    id: str
    headers: Mapping[str, str]


class Desk:
    """A served node that keeps recordings, the store that it keeps them in, and an agent with a phone."""

    agent: Person
    phone: Person

    def __init__(
        self, client: httpx.AsyncClient, config: Config, database: Database, office: Office, store: Store, place: str
    ) -> None:
        self.client = client
        self.config = config
        self.database = database
        self.office = office
        self.store = store
        self.place = place

    # --- who is there -------------------------------------------------------------------------------------------------

    async def person(self, role: str = "agent") -> Person:
        """Add a user who has signed in."""
        user_id = await self.office.agent(role)
        async with self.database.transaction() as connection:
            login_id = await credentials.open_login(connection, user_id, 3600)
        token = AccessTokens(self.config.secret_key, 3600).mint(Claims(user_id, login_id))
        return Person(user_id, {"authorization": f"Bearer {token}"})

    async def phone_of(self, user_id: str) -> Person:
        """Add a phone."""
        token = new_token("ddp")
        device_id = await self.office.phone(user_id, token=token, recording=True)
        return Person(device_id, {"authorization": f"Bearer {token}", "x-device-id": f"hw-{device_id}"})

    async def call(self, *, record: bool = True, at: str | None = None) -> str:
        """A call of the agent on its phone, which has ended, with recording on or off; `at` is when it began."""
        call_id = new_call_id()
        await self.execute(
            "INSERT INTO call (id, tenant_id, user_id, created_by, device_id, call_method, customer_phone, status,"
            " ended_at, outcome, record, created_at) VALUES ($1, $2, $3, $3, $4, 'mobile', '+8613900139000', 'ended',"
            " now(), 'connected', $5, coalesce($6::text::timestamptz, now()))",
            call_id,
            self.office.tenant_id,
            self.agent.id,
            self.phone.id,
            record,
            at,
        )
        return call_id

    # --- what is asked ------------------------------------------------------------------------------------------------

    async def ask(self, person: Person, method: str, path: str, **more: Any) -> httpx.Response:
        """Send a request."""
        headers = {**person.headers, **more.pop("headers", {})}
        return await self.client.request(method, f"/api/v1/calls/{path}", headers=headers, **more)

    async def send(
        self, parts: Iterable[Part], *, by: Person | None = None, to: str = "mobile/recording/upload", **headers: str
    ) -> httpx.Response:
        """Send a form; `x_content_sha256=…` is a header of it."""
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.ask(by or self.phone, "POST", to, content=encoded(parts), headers={**EDGE, **told})

    async def upload(self, call_id: str, audio: bytes = SONG, **more: Any) -> httpx.Response:
        """Send a recording as the phone does."""
        return await self.send([part("callId", call_id), part("file", audio, filename="a.mp3")], **more)

    async def attach(self, call_id: str, by: Person, *fields: Part) -> httpx.Response:
        """Attach a recording by hand."""
        return await self.send([*fields, part("file", SONG, filename="a.mp3")], by=by, to=f"{call_id}/recording")

    async def begin(self, call_id: str, audio: bytes = LONG_SONG, **told: Any) -> httpx.Response:
        """Begin an upload in parts."""
        body = {"callId": call_id, "size": len(audio), "sha256": sha256(audio), "mediaType": "audio/mpeg", **told}
        return await self.ask(self.phone, "POST", "mobile/recording/uploads", json=body)

    async def begun(self, call_id: str, audio: bytes = LONG_SONG, **told: Any) -> str:
        """Begin an upload in parts; returns its id."""
        upload_id: str = (await self.begin(call_id, audio, **told)).raise_for_status().json()["uploadId"]
        return upload_id

    async def part(self, upload_id: str, number: object, content: bytes, **headers: str) -> httpx.Response:
        """Send a part through the server."""
        told = {"content-type": "application/octet-stream"}
        told |= {name.replace("_", "-"): value for name, value in headers.items()}
        path = f"mobile/recording/uploads/{upload_id}/parts/{number}"
        return await self.ask(self.phone, "PUT", path, content=content, headers=told)

    async def parts(self, upload_id: str, audio: bytes = LONG_SONG) -> None:
        """Send all parts through the server."""
        for number, at in enumerate(range(0, len(audio), PART), start=1):
            (await self.part(upload_id, number, audio[at : at + PART])).raise_for_status()

    async def complete(self, upload_id: str) -> httpx.Response:
        """Complete an upload in parts."""
        return await self.ask(self.phone, "POST", f"mobile/recording/uploads/{upload_id}/complete")

    async def played(self, call_id: str) -> tuple[str, bytes]:
        """What the agent hears: media type and bytes."""
        response = await self.ask(self.agent, "GET", f"{call_id}/recording", follow_redirects=True)
        return response.headers["content-type"], response.content

    async def cut(self, call_id: str, audio: bytes, length: int) -> None:
        """Send a form up to the middle of its file, of which more was told, and go."""
        content = encoded([part("callId", call_id), part("file", audio)])[: len(audio)]
        async with self.socket(length) as (_, writer):
            writer.write(b"\r\n" + content)
            await writer.drain()
            await until(self._has_uploads)

    @asynccontextmanager
    async def socket(self, length: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """An upload as bare bytes, after its head, which tells that so many will follow."""
        reader, writer = await asyncio.open_connection(self.client.base_url.host, self.client.base_url.port)
        head = {**self.phone.headers, **EDGE, "host": "desk", "content-length": str(length)}
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        writer.write(f"POST /api/v1/calls/mobile/recording/upload HTTP/1.1\r\n{lines}".encode())
        try:
            yield reader, writer
        finally:
            writer.close()

    # --- what is there ------------------------------------------------------------------------------------------------

    async def remains(self) -> dict[str, Any]:
        """What there is of recordings: objects and open uploads of the store, and rows. Nothing is left out."""
        prefix = f"{self.office.tenant_id}/"
        found = {
            "objects": await stores.keys(self.store, prefix),
            "uploads": await stores.uploads(self.store, prefix),
            "recordings": await self.rows("SELECT call_id FROM recording"),
            "rows of uploads": await self.rows("SELECT id FROM recording_upload"),
        }
        return {name: what for name, what in found.items() if what}

    async def at_rest(self) -> tuple[str, bytes]:
        """Key and bytes of the only object."""
        [key] = await stores.keys(self.store, f"{self.office.tenant_id}/")
        return key, await stores.fetch(self.store, key)

    async def events(self, user_id: str) -> list[tuple[str, dict[str, Any]]]:
        """What an agent was told: type and data."""
        rows = await self.rows("SELECT type, data FROM agent_event WHERE user_id = $1 ORDER BY seq", user_id)
        return [(row["type"], msgspec.json.decode(row["data"])) for row in rows]

    async def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """Ask the database."""
        async with self.database.connection() as connection:
            return [dict(row) for row in await connection.fetch(query, *values)]

    async def execute(self, statement: str, *values: Any) -> None:
        """Change something behind everybody's back."""
        async with self.database.connection() as connection:
            await connection.execute(statement, *values)

    async def _has_uploads(self) -> bool:
        return bool(await self.rows("SELECT id FROM recording_upload"))


Opened = Callable[..., Any]


@pytest.fixture
async def opened(
    configure: Callable[..., Config], database: Database, office: Office, s3: Bucket, tmp_path: Path
) -> AsyncIterator[Opened]:
    """Open a desk that keeps recordings so: `opened("s3 encrypted", upload_idle=1)`."""
    bucket = {
        "s3_endpoint_url": s3.endpoint_url,
        "s3_bucket": s3.bucket,
        "s3_access_key": s3.access_key,
        "s3_secret_key": s3.secret_key,
    }
    async with AsyncExitStack() as stack:

        async def open_desk(how: str = "local", **settings: Any) -> Desk:
            kind, *more = how.split()
            where: dict[str, Any] = bucket if kind == "s3" else {"recordings_folder": tmp_path / "recordings"}
            if "public" in more:
                where = {**where, "s3_public_url": s3.endpoint_url}
            config = configure(**{"recordings": kind, "recording_encryption": "encrypted" in more, **where, **settings})
            node = await stack.enter_async_context(web_node(config))
            server = await stack.enter_async_context(serving(node.app, config))
            client = await stack.enter_async_context(
                httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=60)
            )
            if kind == "s3":
                store: Store = await stack.enter_async_context(open_s3(config))
                place = BUCKET
            else:
                folder = await open_folder(tmp_path / "recordings")
                store, place = folder, f"folder:{folder.id}"
            desk = Desk(client, config, database, office, store, place)
            desk.agent = await desk.person()
            desk.phone = await desk.phone_of(desk.agent.id)
            return desk

        yield open_desk


@pytest.fixture
async def desk(opened: Opened) -> Desk:
    """A desk that keeps recordings in a folder."""
    opened_desk: Desk = await opened()
    return opened_desk


async def become(desk: Desk, call_id: str, state: str) -> None:
    """Let the recording of a call have left, or be on its way."""
    await desk.execute(
        "UPDATE recording SET state = $2, leaving_as = CASE WHEN $2 = 'expired' THEN 'expired' ELSE 'deleted' END"
        " WHERE call_id = $1",
        call_id,
        state,
    )


# --- by one request ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["local", "local encrypted", "s3", "s3 encrypted", "s3 public"])
@pytest.mark.parametrize("audio", [SONG, LONG_SONG], ids=["small", "large"])
async def test_what_a_phone_brings_is_what_is_played(opened: Opened, how: str, audio: bytes) -> None:
    """The recording is kept whole under a key of the seed's shape, encrypted where that is wanted, and nothing of the
    upload stays; the call has it, and its agent is told."""
    desk = await opened(how)
    call_id = await desk.call(at="2026-11-21 12:00+08")

    answer = await desk.upload(call_id, audio, x_content_sha256=sha256(audio))
    key, at_rest = await desk.at_rest()
    [recording] = await desk.rows("SELECT state, source, actor_id, media_type, size FROM recording")
    [call] = await desk.rows("SELECT has_recording, recording_size, recording_status FROM call")
    [(told, ready)] = await desk.events(desk.agent.id)

    assert kept(call_id, audio) == answer.json()
    assert f"{desk.office.tenant_id}/recordings/2026/11/21/{call_id}.mp3" == key
    assert (audio == at_rest) != ("encrypted" in how)
    assert b"ID3" in at_rest[:3] or "encrypted" in how
    assert ("audio/mpeg", audio) == await desk.played(call_id)
    assert ["stored", "phone", desk.phone.id, "audio/mpeg", len(audio)] == list(recording.values())
    assert [True, len(audio), "ready"] == list(call.values())
    assert {"objects": [key], "recordings": [{"call_id": call_id}]} == await desk.remains()
    assert ("RECORDING_READY", "phone", len(audio), "audio/mpeg", f"/api/v1/calls/{call_id}/recording") == (
        told,
        *(ready[name] for name in ("source", "size", "mediaType", "recordingUrl")),
    )


async def _unknown(_: Desk) -> str:
    return new_call_id()


async def _on_another_phone(desk: Desk) -> str:
    call_id = await desk.call()
    other = await desk.phone_of(desk.agent.id)
    await desk.execute("UPDATE call SET device_id = $2 WHERE id = $1", call_id, other.id)
    return call_id


async def _of_another_tenant(desk: Desk) -> str:
    call_id, tenant_id, user_id = await desk.call(), new_id("tenant"), new_id("user")
    await desk.execute("INSERT INTO tenant (id, code, name) VALUES ($1, 'other', 'Other')", tenant_id)
    await desk.execute(
        "INSERT INTO app_user (id, tenant_id, role, username, name, password_hash)"
        " VALUES ($1, $2, 'agent', 'u', 'u', '-')",
        user_id,
        tenant_id,
    )
    await desk.execute(
        "UPDATE call SET tenant_id = $2, user_id = $3, device_id = NULL WHERE id = $1", call_id, tenant_id, user_id
    )
    return call_id


async def _with_recording_off(desk: Desk) -> str:
    return await desk.call(record=False)


@pytest.mark.parametrize(
    ("which", "refused"),
    [
        (_unknown, "NOT_FOUND"),
        (_on_another_phone, "NOT_FOUND"),
        (_of_another_tenant, "NOT_FOUND"),
        (_with_recording_off, "RECORDING_OFF"),
    ],
)
async def test_only_calls_of_the_phone_that_were_to_be_recorded_take_one(desk: Desk, which: Any, refused: str) -> None:
    """Whole or in parts, another's call is not there, and one dialled while recording was off takes none."""
    call_id = await which(desk)

    answers = [outcome(await desk.upload(call_id)), outcome(await desk.begin(call_id))]

    assert [refused] * 2 == answers
    assert {} == await desk.remains()


async def test_a_recorded_call_keeps_its_recording_though_recording_was_switched_off_since(desk: Desk) -> None:
    """What counts is what the agent was told when the call was dialled."""
    call_id = await desk.call()
    await desk.execute("UPDATE tenant SET recording_enabled = false")

    assert "ok" == outcome(await desk.upload(call_id))


async def test_a_house_that_keeps_no_recordings_takes_none(opened: Opened) -> None:
    """RECORDING_OFF, whole and in parts."""
    desk = await opened("off")
    call_id = await desk.call()

    assert ["RECORDING_OFF"] * 2 == [outcome(await desk.upload(call_id)), outcome(await desk.begin(call_id))]
    assert {} == await desk.remains()


NO_AUDIO: Final = {
    "nothing": b"",
    "a byte": b"\xff",
    "text": b"song",
    "a page": b"<html><audio></html>",
    "a program": b"\x7fELF" + bytes(5000),
    "an archive": b"PK\x03\x04",
    "a film": b"\x1a\x45\xdf\xa3" + bytes(5000),
}


async def test_what_is_no_audio_is_refused_whatever_it_is_called(desk: Desk) -> None:
    """A name and a media type are only said: UNSUPPORTED_AUDIO by the bytes themselves, and nothing is kept."""
    call = part("callId", await desk.call())

    answers = {
        what: outcome(await desk.send([call, part("file", content, "Content-Type: audio/mpeg", filename="a.mp3")]))
        for what, content in NO_AUDIO.items()
    }

    assert dict.fromkeys(NO_AUDIO, "UNSUPPORTED_AUDIO") == answers
    assert {} == await desk.remains()


@pytest.mark.parametrize(("kind", "media_type"), [("wav", "audio/wav"), ("m4a", "audio/mp4"), ("amr", "audio/amr")])
async def test_the_kind_of_a_recording_is_that_of_its_bytes(desk: Desk, kind: str, media_type: str) -> None:
    """Its key ends truly, and it is played as what it is, though the phone called it an MP3."""
    call_id, audio = await desk.call(), make_audio(kind, 1.0)

    await desk.send([part("callId", call_id), part("file", audio, "Content-Type: audio/mpeg", filename="a.mp3")])

    assert (media_type, audio) == await desk.played(call_id)
    assert (await desk.at_rest())[0].endswith(f"/{call_id}.{kind}")


@pytest.mark.parametrize("told", [True, False], ids=["told", "seen"])
async def test_a_recording_above_the_limit_is_refused(opened: Opened, told: bool) -> None:
    """BODY_TOO_LARGE by its Content-Length, or when the limit is reached, and nothing of it is kept."""
    desk = await opened(recording_limit=PART)
    content = encoded([part("callId", await desk.call()), part("file", LONG_SONG)])

    async def in_pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(content), 65536):
            yield content[at : at + 65536]

    answer = await desk.ask(
        desk.phone, "POST", "mobile/recording/upload", content=content if told else in_pieces(), headers=EDGE
    )

    assert "BODY_TOO_LARGE" == outcome(answer)
    assert {} == await desk.remains()


@pytest.mark.parametrize("how", ["local", "local encrypted", "s3"])
async def test_a_connection_that_breaks_leaves_nothing(opened: Opened, how: str) -> None:
    """In the midst of the file; and the phone may bring it again."""
    desk = await opened(how)
    call_id = await desk.call()

    await desk.cut(call_id, LONG_SONG, len(LONG_SONG) + 1000)
    await until(lambda: _nothing_remains(desk))

    assert kept(call_id, LONG_SONG) == (await desk.upload(call_id, LONG_SONG)).json()


async def _nothing_remains(desk: Desk) -> bool:
    return await desk.remains() == {}


async def test_a_form_without_its_end_leaves_nothing(desk: Desk) -> None:
    """A body that is whole, while the form within it is not, is BAD_REQUEST."""
    content = encoded([part("callId", await desk.call()), part("file", LONG_SONG)])[:-10]

    answer = await desk.ask(desk.phone, "POST", "mobile/recording/upload", content=content, headers=EDGE)

    assert "BAD_REQUEST" == outcome(answer)
    assert {} == await desk.remains()


@pytest.mark.parametrize("limit", ["upload_idle", "upload_timeout"])
async def test_a_phone_that_falls_silent_leaves_nothing(opened: Opened, limit: str) -> None:
    """REQUEST_TIMEOUT where it says nothing for long, or is not done in time, with the connection open."""
    desk = await opened(**{limit: 0.5})
    content = encoded([part("callId", await desk.call()), part("file", LONG_SONG)])
    async with desk.socket(len(content)) as (reader, writer):
        writer.write(b"\r\n" + content[: 2 * PART])
        async with asyncio.timeout(20):
            head = await reader.readuntil(b"\r\n")

    assert b" 408 " in head
    await until(lambda: _nothing_remains(desk))


async def test_the_same_recording_again_is_the_same_answer(desk: Desk) -> None:
    """A phone that missed the answer asks again: nothing is stored twice, and the agent is told once."""
    call_id = await desk.call()

    answers = [
        (await desk.upload(call_id)).json(),
        (await desk.upload(call_id)).json(),
        (await desk.upload(call_id, x_content_sha256=sha256(SONG))).json(),
    ]

    assert [kept(call_id, SONG)] * 3 == answers
    assert {"objects", "recordings"} == (await desk.remains()).keys()
    assert 1 == len(await desk.events(desk.agent.id))


async def test_a_recording_that_is_known_by_its_digest_need_not_be_sent(desk: Desk) -> None:
    """The answer comes when only the beginning of the form is there."""
    call_id = await desk.call()
    await desk.upload(call_id)

    form = encoded([part("callId", call_id), part("file", SONG)])
    async with desk.socket(len(form)) as (reader, writer):
        writer.write(f"X-Content-SHA256: {sha256(SONG)}\r\n\r\n".encode() + form[: form.index(SONG)])
        async with asyncio.timeout(20):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            answer = msgspec.json.decode(await reader.readexactly(length))

    assert kept(call_id, SONG) == answer


@pytest.mark.parametrize("headers", [{}, {"x_content_sha256": sha256(OTHER_SONG)}], ids=["untold", "told"])
async def test_another_recording_of_a_call_is_refused(desk: Desk, headers: dict[str, str]) -> None:
    """What came first stays: RECORDING_EXISTS, with its digest told before or seen after."""
    call_id = await desk.call()
    await desk.upload(call_id)

    answer = await desk.upload(call_id, OTHER_SONG, **headers)

    assert "RECORDING_EXISTS" == outcome(answer)
    assert ("audio/mpeg", SONG) == await desk.played(call_id)
    assert {"objects", "recordings"} == (await desk.remains()).keys()


@pytest.mark.parametrize("state", ["leaving", "expired", "deleted"])
async def test_what_has_left_does_not_come_back(desk: Desk, state: str) -> None:
    """RECORDING_GONE, whole and in parts, the same file or another."""
    call_id = await desk.call()
    await desk.upload(call_id)
    await become(desk, call_id, state)

    answers = [
        outcome(await desk.upload(call_id)),
        outcome(await desk.upload(call_id, OTHER_SONG, x_content_sha256=sha256(OTHER_SONG))),
        outcome(await desk.begin(call_id, SONG)),
    ]

    assert ["RECORDING_GONE"] * 3 == answers


@pytest.mark.parametrize(
    ("told", "refused"),
    [(sha256(OTHER_SONG), "CHECKSUM_MISMATCH"), ("song", "INVALID_FIELD"), (sha256(SONG)[:-2], "INVALID_FIELD")],
)
async def test_a_digest_that_is_not_the_files_is_refused(desk: Desk, told: str, refused: str) -> None:
    """CHECKSUM_MISMATCH, which the phone tries again; what is no digest is INVALID_FIELD. Nothing is kept."""
    call_id = await desk.call()

    answer = await desk.upload(call_id, x_content_sha256=told)
    remains = await desk.remains()

    assert (refused, {}) == (outcome(answer), remains)
    assert "ok" == outcome(await desk.upload(call_id, x_content_sha256=sha256(SONG).upper()))


FILE: Final = part("file", SONG, filename="a.mp3")


async def test_a_form_of_another_shape_is_refused(desk: Desk) -> None:
    """The call stands before the one file, and nothing behind it: INVALID_FIELD, and nothing is kept."""
    call = part("callId", await desk.call())
    forms = {
        "the call behind the file": [FILE, call],
        "two files": [call, FILE, FILE],
        "a field behind the file": [call, FILE, part("note", "late")],
        "no call": [FILE],
        "no file": [call],
        "two calls": [call, call, FILE],
        "a call without a name": [part("callId", ""), FILE],
        "a call with a long name": [part("callId", "x" * 5000), FILE],
    }

    answers = {what: outcome(await desk.send(form)) for what, form in forms.items()}

    assert dict.fromkeys(forms, "INVALID_FIELD") == answers
    assert {} == await desk.remains()


async def test_what_a_newer_app_says_besides_is_ignored(desk: Desk) -> None:
    """An older server takes its recordings all the same."""
    call_id = await desk.call()

    answer = await desk.send([part("duration", "12"), part("callId", call_id), part("codec", "mp3"), FILE])

    assert kept(call_id, SONG) == answer.json()


async def test_the_name_of_a_file_names_nothing_here(desk: Desk) -> None:
    """The key is made of what the server knows."""
    names = ["../../../etc/passwd", "..\\..\\a.mp3", "/a.mp3", "a\0.mp3", ".mp3", "录音.mp3", "x" * 3000, "a.php"]
    calls = {await desk.call(): name for name in names}

    answers = [
        (await desk.send([part("callId", call_id), part("file", SONG, filename=name)])).json()
        for call_id, name in calls.items()
    ]
    keys = await stores.keys(desk.store, "")

    assert [kept(call_id, SONG) for call_id in calls] == answers
    assert {f"{call_id}.mp3" for call_id in calls} == {key.rpartition("/")[2] for key in keys}


@pytest.mark.parametrize(
    ("timezone", "began", "day"),
    [
        ("Asia/Shanghai", "2026-11-21 15:59:59.999+00", "2026/11/21"),
        ("Asia/Shanghai", "2026-11-21 16:00+00", "2026/11/22"),
        ("America/Los_Angeles", "2026-01-01 07:59+00", "2025/12/31"),
        ("America/Los_Angeles", "2026-01-01 08:00+00", "2026/01/01"),
        ("UTC", "2026-12-31 23:59:59+00", "2026/12/31"),
    ],
)
async def test_a_recording_is_filed_under_the_tenants_day_of_its_call(
    desk: Desk, timezone: str, began: str, day: str
) -> None:
    """Not under the server's day, nor that of the upload."""
    await desk.execute("UPDATE tenant SET timezone = $1", timezone)
    call_id = await desk.call(at=began)

    await desk.upload(call_id)
    key, _ = await desk.at_rest()

    assert f"{desk.office.tenant_id}/recordings/{day}/{call_id}.mp3" == key


async def test_of_two_recordings_of_a_call_at_once_one_is_kept(desk: Desk) -> None:
    """Whichever comes first through the gate, the other is refused, and leaves nothing."""
    call_id = await desk.call()

    answers = await asyncio.gather(
        *(desk.upload(call_id, song) for song in (SONG, OTHER_SONG) * 4), desk.upload(call_id, LONG_SONG)
    )
    _, won = await desk.played(call_id)
    losers = [answer for answer in answers if not answer.is_success]

    assert {outcome(answer) for answer in losers} <= {"RECORDING_EXISTS", "UPLOAD_IN_PROGRESS"}
    assert [kept(call_id, won)] * (len(answers) - len(losers)) == [a.json() for a in answers if a.is_success]
    assert losers
    assert {"objects", "recordings"} == (await desk.remains()).keys()
    assert 1 == len(await desk.events(desk.agent.id))


# --- memory -----------------------------------------------------------------------------------------------------------


async def test_more_uploads_than_there_is_memory_for_wait_their_turn(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is room for one, eight at once are all kept."""
    monkeypatch.setattr(intake, "_AT_ONCE_EACH", 8)
    desk = await opened(upload_memory=15 * 1024**2, upload_idle=60)
    calls = [await desk.call() for _ in range(8)]

    answers = await asyncio.gather(*(desk.upload(call_id, LONG_SONG) for call_id in calls))

    assert [kept(call_id, LONG_SONG) for call_id in calls] == [answer.json() for answer in answers]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells how much memory a process had at most")
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
async def test_a_large_recording_takes_little_memory(desk: Desk, tmp_path: Path, encrypted: bool) -> None:
    """Of 200 MB there are never as much as 64 MiB in the server, read from a process of its own."""
    config, size, port = desk.config, 200_000_000, free_port()
    environ = {
        "DATABASE_URL": config.database_url,
        "REDIS_URL": config.redis_url,
        "REDIS_PREFIX": config.redis_prefix,
        "SECRET_KEY": config.secret_key,
        "MASTER_KEYS": config.master_keys,
        "RECORDINGS": "local",
        "RECORDINGS_FOLDER": str(tmp_path / "recordings"),
        "RECORDING_ENCRYPTION": str(encrypted).lower(),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "LOG_LEVEL": "error",
        "PORT": str(port),
    }
    first, second = await desk.call(), await desk.call()

    async def long() -> AsyncIterator[bytes]:
        begin, end = encoded([part("callId", second), part("file", SONG)])[:-10].split(SONG)
        yield begin + SONG
        for _ in range(size // 65536):
            yield bytes(65536)
        yield end + b"--edge--\r\n"[-10:]

    process = Process("serve", environ)
    await process.start()
    try:
        async with httpx.AsyncClient(base_url=process.origin, trust_env=False, timeout=100) as client:
            url, headers = "/api/v1/calls/mobile/recording/upload", {**desk.phone.headers, **EDGE}
            usual = await client.post(
                url, content=encoded([part("callId", first), part("file", LONG_SONG)]), headers=headers
            )
            before = most_memory(process.pid)
            answer = await client.post(url, content=long(), headers=headers)
            after = most_memory(process.pid)
    finally:
        await process.stop()

    assert ["ok", "ok"] == [outcome(usual), outcome(answer)]
    assert answer.json()["size"] > size - 65536
    assert after - before < 64 * 1024**2


def most_memory(pid: int) -> int:
    """Bytes of memory that a process had at most."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


# --- by hand ----------------------------------------------------------------------------------------------------------


async def test_an_agent_attaches_a_recording_to_its_call(desk: Desk) -> None:
    """It is marked as brought by an agent."""
    call_id = await desk.call()

    answer = await desk.attach(call_id, desk.agent)
    [recording] = await desk.rows("SELECT source, actor_id FROM recording")
    [(told, ready)] = await desk.events(desk.agent.id)

    assert kept(call_id, SONG) == answer.json()
    assert {"source": "agent", "actor_id": desk.agent.id} == recording
    assert ("RECORDING_READY", "agent") == (told, ready["source"])


@pytest.mark.parametrize(
    ("role", "answered"), [("agent", "NOT_FOUND"), ("auditor", "FORBIDDEN"), ("tenant_admin", "ok")]
)
async def test_who_may_attach_to_an_agents_call(desk: Desk, role: str, answered: str) -> None:
    """A colleague does not see the call, and an auditor may not. An admin may: the call's agent is told, not the
    admin."""
    call_id, other = await desk.call(), await desk.person(role)

    answer = await desk.attach(call_id, other)

    assert answered == outcome(answer)
    assert (1 if answered == "ok" else 0) == len(await desk.events(desk.agent.id))
    assert [] == await desk.events(other.id)


async def test_what_a_page_says_besides_the_file_is_a_mistake(desk: Desk) -> None:
    """INVALID_FIELD, and nothing is kept."""
    call_id = await desk.call()

    answer = await desk.attach(call_id, desk.agent, part("callId", call_id))

    assert "INVALID_FIELD" == outcome(answer)
    assert {} == await desk.remains()


async def test_a_page_of_another_origin_may_tell_the_digest_and_ask_for_a_range(opened: Opened) -> None:
    """Browsers ask before they send such headers, and show only those of an answer that they are told to."""
    desk = await opened(allowed_origins="https://crm.example")
    call_id = await desk.call()
    asked = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,x-content-sha256",
    }
    origin = {"origin": "https://crm.example"}

    before = await desk.client.options(f"/api/v1/calls/{call_id}/recording", headers={**origin, **asked})
    await desk.upload(call_id)
    played = await desk.ask(desk.agent, "GET", f"{call_id}/recording", headers={**origin, "range": "bytes=0-9"})

    assert (200, "https://crm.example") == (before.status_code, before.headers["access-control-allow-origin"])
    assert (206, SONG[:10]) == (played.status_code, played.content)
    assert "Content-Range" in played.headers["access-control-expose-headers"]


async def test_nothing_is_attached_where_recording_was_off_or_a_recording_is(desk: Desk) -> None:
    """RECORDING_OFF, and RECORDING_EXISTS unless it is the same."""
    off, recorded = await desk.call(record=False), await desk.call()
    await desk.upload(recorded, OTHER_SONG)

    answers = [outcome(await desk.attach(call_id, desk.agent)) for call_id in (off, recorded)]

    assert ["RECORDING_OFF", "RECORDING_EXISTS"] == answers


# --- in parts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["local", "local encrypted", "s3", "s3 encrypted"])
async def test_a_recording_is_made_of_its_parts(opened: Opened, how: str) -> None:
    """In whatever order they come; what is played is the file."""
    desk = await opened(how)
    call_id = await desk.call()

    begun = (await desk.begin(call_id)).json()
    for number in (3, 1, 2):
        content = LONG_SONG[(number - 1) * PART : number * PART]
        sent = await desk.part(begun["uploadId"], number, content, x_content_sha256=sha256(content))
        assert {"success": True, "number": number, "size": len(content)} == sent.json()
    answer = await desk.complete(begun["uploadId"])
    key, at_rest = await desk.at_rest()

    assert [(1, PART), (2, PART), (3, len(LONG_SONG) - 2 * PART)] == [
        (one["number"], one["size"]) for one in begun["parts"]
    ]
    assert (PART, False, {None}) == (begun["partSize"], begun["stored"], {one["url"] for one in begun["parts"]})
    assert kept(call_id, LONG_SONG) == answer.json()
    assert ("audio/mpeg", LONG_SONG) == await desk.played(call_id)
    assert (LONG_SONG == at_rest) != ("encrypted" in how)
    assert key.endswith(f"/{call_id}.mp3")
    assert "uploads" not in await desk.remains()
    assert ["RECORDING_READY"] == [told for told, _ in await desk.events(desk.agent.id)]


async def test_parts_may_go_to_the_bucket_itself(opened: Opened) -> None:
    """Where phones reach the bucket, each part has a URL that takes its bytes without a credential."""
    desk = await opened("s3 public")
    call_id = await desk.call()

    begun = (await desk.begin(call_id)).json()
    async with httpx.AsyncClient(trust_env=False, timeout=60) as phone:
        for one in begun["parts"]:
            start = (one["number"] - 1) * PART
            (await phone.put(one["url"], content=LONG_SONG[start : start + one["size"]])).raise_for_status()
    state = (await desk.ask(desk.phone, "GET", f"mobile/recording/uploads/{begun['uploadId']}")).json()
    answer = await desk.complete(begun["uploadId"])

    assert [(True, None)] * 3 == [(one["arrived"], one["url"]) for one in state["parts"]]
    assert kept(call_id, LONG_SONG) == answer.json()
    assert ("audio/mpeg", LONG_SONG) == await desk.played(call_id)


async def test_the_bucket_takes_a_part_only_whole(opened: Opened) -> None:
    """The size is signed with the URL: a part that is cut short is refused there, and what had come before stays."""
    desk = await opened("s3 public")
    begun = (await desk.begin(await desk.call())).json()
    await desk.parts(begun["uploadId"])
    async with httpx.AsyncClient(trust_env=False, timeout=60) as phone:
        refused = await phone.put(begun["parts"][1]["url"], content=LONG_SONG[:PART][:-1])

    answer = await desk.complete(begun["uploadId"])

    assert (403, 200) == (refused.status_code, answer.status_code)


async def test_what_is_encrypted_here_does_not_go_past_us(opened: Opened) -> None:
    """Parts of an encrypted recording have no URL of the bucket."""
    desk = await opened("s3 public encrypted")

    begun = (await desk.begin(await desk.call())).json()

    assert {None} == {one["url"] for one in begun["parts"]}


async def test_an_upload_that_was_cut_goes_on(desk: Desk) -> None:
    """Begun again with the same file it is the same upload, which tells what has arrived; another file is another."""
    call_id = await desk.call()
    upload_id = await desk.begun(call_id)
    await desk.part(upload_id, 2, LONG_SONG[PART : 2 * PART])

    again = (await desk.begin(call_id)).json()
    state = (await desk.ask(desk.phone, "GET", f"mobile/recording/uploads/{upload_id}")).json()
    other = await desk.begun(call_id, SONG)

    assert upload_id == again["uploadId"] != other
    assert again == state
    assert [False, True, False] == [one["arrived"] for one in again["parts"]]


async def test_a_part_that_the_upload_has_not_is_refused(desk: Desk) -> None:
    """Numbers are those of its parts, in ASCII digits."""
    upload_id = await desk.begun(await desk.call())
    numbers = ["0", "4", "10001", "9" * 30, "-1", "+1", "1e3", "1.0", "1_0", "\u0663", "\u2460", "x", "%00"]

    answers = {number: outcome(await desk.part(upload_id, number, LONG_SONG[:PART])) for number in numbers}

    assert dict.fromkeys(numbers, "INVALID_FIELD") == answers


async def test_a_part_that_is_not_what_it_must_be_does_not_arrive(desk: Desk) -> None:
    """Its size is fixed, and its digest is true where it is told."""
    call_id = await desk.call()
    upload_id = await desk.begun(call_id)
    first, last = LONG_SONG[:PART], LONG_SONG[2 * PART :]

    answers = {
        "short": await desk.part(upload_id, 1, first[:-1]),
        "empty": await desk.part(upload_id, 1, b""),
        "long": await desk.part(upload_id, 3, last + b"x"),
        "too large": await desk.part(upload_id, 1, first + b"x"),
        "of another digest": await desk.part(upload_id, 1, first, x_content_sha256=sha256(last)),
        "of no digest": await desk.part(upload_id, 1, first, x_content_sha256="song"),
        "text": await desk.part(upload_id, 1, first, content_type="text/plain"),
    }
    state = (await desk.begin(call_id)).json()

    assert {
        "short": "INVALID_FIELD",
        "empty": "INVALID_FIELD",
        "long": "INVALID_FIELD",
        "too large": "BODY_TOO_LARGE",
        "of another digest": "CHECKSUM_MISMATCH",
        "of no digest": "INVALID_FIELD",
        "text": "UNSUPPORTED_MEDIA_TYPE",
    } == {what: outcome(answer) for what, answer in answers.items()}
    assert [False] * 3 == [one["arrived"] for one in state["parts"]]


async def test_of_a_part_that_is_sent_again_the_last_counts(desk: Desk) -> None:
    """A phone that was cut in the midst of one sends it again."""
    call_id = await desk.call()
    upload_id = await desk.begun(call_id)
    await desk.part(upload_id, 2, bytes(PART))

    await desk.parts(upload_id)

    assert kept(call_id, LONG_SONG) == (await desk.complete(upload_id)).json()


@pytest.mark.parametrize("how", ["local encrypted", "s3 encrypted"])
async def test_an_encrypted_part_may_be_sent_again(opened: Opened, how: str) -> None:
    """The same bytes once more are as good as once."""
    desk = await opened(how)
    call_id = await desk.call()
    upload_id = await desk.begun(call_id)
    await desk.part(upload_id, 1, LONG_SONG[:PART])

    await desk.parts(upload_id)

    assert kept(call_id, LONG_SONG) == (await desk.complete(upload_id)).json()
    assert ("audio/mpeg", LONG_SONG) == await desk.played(call_id)


async def test_an_upload_that_is_not_complete_says_what_is_missing(desk: Desk) -> None:
    """UPLOAD_INCOMPLETE with the numbers; what arrived stays."""
    call_id = await desk.call()
    upload_id = await desk.begun(call_id)
    await desk.part(upload_id, 2, LONG_SONG[PART : 2 * PART])

    answer = await desk.complete(upload_id)
    await desk.part(upload_id, 1, LONG_SONG[:PART])
    await desk.part(upload_id, 3, LONG_SONG[2 * PART :])

    assert ("UPLOAD_INCOMPLETE", [1, 3]) == (outcome(answer), answer.json()["details"]["missing"])
    assert "ok" == outcome(await desk.complete(upload_id))


@pytest.mark.parametrize("how", ["local", "s3"])
async def test_a_complete_upload_may_be_completed_again(opened: Opened, how: str) -> None:
    """Whoever missed the answer gets it again; at once one of them may be told to wait. The agent is told once."""
    desk = await opened(how)
    call_id = await desk.call()
    upload_id = await desk.begun(call_id)
    await desk.parts(upload_id)

    at_once = await asyncio.gather(*(desk.complete(upload_id) for _ in range(4)))
    later = await desk.complete(upload_id)
    begun = (await desk.begin(call_id)).json()

    assert {"ok"} <= {outcome(answer) for answer in at_once} <= {"ok", "UPLOAD_IN_PROGRESS"}
    assert kept(call_id, LONG_SONG) == later.json()
    assert (True, None, []) == (begun["stored"], begun["uploadId"], begun["parts"])
    assert 1 == len(await desk.events(desk.agent.id))


async def test_an_upload_whose_parts_are_leaving_is_complete(desk: Desk, tmp_path: Path) -> None:
    """A folder empties a completed upload file by file: who asks in between is not told that parts are missing."""
    call_id = await desk.call()
    upload_id = await desk.begun(call_id)
    await desk.parts(upload_id)
    [part, *_] = (tmp_path / "recordings").rglob("part-1-*")
    content = part.read_bytes()
    assert "ok" == outcome(await desk.complete(upload_id))
    part.parent.mkdir(parents=True)
    part.write_bytes(content)

    assert kept(call_id, LONG_SONG) == (await desk.complete(upload_id)).json()


@pytest.mark.parametrize("how", ["local", "local encrypted", "s3"])
@pytest.mark.parametrize(
    ("told", "refused"),
    [
        ({"sha256": sha256(b"another")}, "CHECKSUM_MISMATCH"),
        ({"mediaType": "audio/wav"}, "UNSUPPORTED_AUDIO"),
    ],
    ids=["digest", "kind"],
)
async def test_an_upload_that_was_not_what_was_told_is_dropped(
    opened: Opened, how: str, told: dict[str, str], refused: str
) -> None:
    """What the parts make is read back: nothing of it stays, nobody is told, and the phone may begin again."""
    desk = await opened(how)
    call_id = await desk.call()
    upload_id = await desk.begun(call_id, **told)
    await desk.parts(upload_id)

    answer = await desk.complete(upload_id)

    assert refused == outcome(answer)
    assert {} == await desk.remains()
    assert [] == await desk.events(desk.agent.id)
    assert kept(call_id, LONG_SONG) == (await desk.upload(call_id, LONG_SONG)).json()


@pytest.mark.parametrize("how", ["local", "local encrypted"])
async def test_a_part_that_was_spoilt_at_the_store_is_found(opened: Opened, how: str) -> None:
    """What is read back is not the file: CHECKSUM_MISMATCH, so that the phone brings it again, and nothing stays."""
    desk = await opened(how)
    upload_id = await desk.begun(await desk.call())
    await desk.parts(upload_id)
    async with desk.database.connection() as connection:
        upload, _ = await required(connection, desk, upload_id)
    size = (await desk.store.parts(upload.object_key, upload.store_upload_id))[1].size
    await desk.store.put_part(upload.object_key, upload.store_upload_id, 2, size, bytes(size))

    answer = await desk.complete(upload_id)

    assert "CHECKSUM_MISMATCH" == outcome(answer)
    assert {} == await desk.remains()


async def test_a_store_that_is_away_takes_nothing(opened: Opened) -> None:
    """UNAVAILABLE, which the phone tries again; no row is left of what was never begun."""
    desk = await opened("s3", s3_endpoint_url="http://127.0.0.1:1", s3_retries=0)
    call_id = await desk.call()

    answers = [outcome(await desk.upload(call_id)), outcome(await desk.begin(call_id))]

    assert ["UNAVAILABLE"] * 2 == answers
    assert [] == await desk.rows("SELECT call_id FROM recording UNION ALL SELECT id FROM recording_upload")


async def test_an_upload_that_a_worker_gave_up_is_begun_anew(desk: Desk) -> None:
    """A phone whose upload came to nothing behind its back does not get the dead one to go on with."""
    call_id = await desk.call()
    upload_id = await desk.begun(call_id)
    async with desk.database.connection() as connection:
        upload, _ = await required(connection, desk, upload_id)
        assert await recordings.hold_place(connection, upload.tenant_id, upload.id, 1, bytes(32), settle_after=0)
        await desk.store.abort(upload.object_key, upload.store_upload_id)
        await recordings.withdraw(connection, upload)

    gone = await desk.complete(upload_id)
    again = await desk.begun(call_id)
    await desk.parts(again)

    assert "NOT_FOUND" == outcome(gone)
    assert kept(call_id, LONG_SONG) == (await desk.complete(again)).json()


async def required(connection: Connection, desk: Desk, upload_id: str) -> Any:
    """The row of an upload."""
    found = await uploads.get(connection, desk.office.tenant_id, upload_id, desk.phone.id)
    assert found is not None
    return found


async def test_an_upload_that_is_abandoned_leaves_nothing(desk: Desk) -> None:
    """It is over, whatever is asked of it."""
    upload_id = await desk.begun(await desk.call())
    await desk.part(upload_id, 1, LONG_SONG[:PART])

    answer = await desk.ask(desk.phone, "DELETE", f"mobile/recording/uploads/{upload_id}")

    assert "ok" == outcome(answer)
    assert {} == await desk.remains()
    assert {"NOT_FOUND"} == await every_way(desk, desk.phone, upload_id)


async def test_an_upload_is_its_phones_alone(desk: Desk) -> None:
    """For another phone, even of the same agent, it is not there; nor for its own when it has expired."""
    upload_id = await desk.begun(await desk.call())
    other = await desk.phone_of(desk.agent.id)

    others = await every_way(desk, other, upload_id)
    await desk.execute("UPDATE recording_upload SET expires_at = now()")
    expired = await every_way(desk, desk.phone, upload_id)

    assert ({"NOT_FOUND"}, {"NOT_FOUND"}) == (others, expired)


async def every_way(desk: Desk, phone: Person, upload_id: str) -> set[str]:
    """What a phone is answered, whatever it asks of an upload."""
    path = f"mobile/recording/uploads/{upload_id}"
    return {
        outcome(await desk.ask(phone, "GET", path)),
        outcome(await desk.ask(phone, "PUT", f"{path}/parts/1", content=LONG_SONG[:PART])),
        outcome(await desk.ask(phone, "POST", f"{path}/complete")),
        outcome(await desk.ask(phone, "DELETE", path)),
    }


async def test_an_upload_that_cannot_be_is_not_begun(opened: Opened) -> None:
    """What is told of a file is looked at before its first byte."""
    desk = await opened(recording_limit=2 * PART)
    call_id = await desk.call()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"size": 2 * PART + 1}, "BODY_TOO_LARGE"),
        ({"size": 0}, "INVALID_FIELD"),
        ({"size": -1}, "INVALID_FIELD"),
        ({"size": 2**60}, "INVALID_FIELD"),
        ({"sha256": "song"}, "INVALID_FIELD"),
        ({"mediaType": "video/mp4"}, "UNSUPPORTED_AUDIO"),
        ({"mediaType": ""}, "INVALID_FIELD"),
        ({"callId": ""}, "INVALID_FIELD"),
    ]

    answers = [(told, outcome(await desk.begin(call_id, SONG, **told))) for told, _ in wrong]

    assert wrong == answers
    assert {} == await desk.remains()


async def test_another_file_is_not_begun_where_a_recording_is(desk: Desk) -> None:
    """RECORDING_EXISTS before a byte is sent, and where it came first while parts were sent."""
    call_id = await desk.call()
    upload_id = await desk.begun(call_id)
    await desk.parts(upload_id)
    await desk.upload(call_id, SONG)

    answers = [outcome(await desk.begin(call_id, OTHER_SONG)), outcome(await desk.complete(upload_id))]

    assert ["RECORDING_EXISTS"] * 2 == answers
    assert {"objects", "recordings"} == (await desk.remains()).keys()
    assert ("audio/mpeg", SONG) == await desk.played(call_id)


# --- over the socket --------------------------------------------------------------------------------------------------


async def confirm(desk: Desk, *claims: tuple[str, bytes]) -> list[str]:
    """What the phone hears of each RECORDING_UPLOAD: ACK, or an error's code."""
    url = f"ws://{desk.client.base_url.host}:{desk.client.base_url.port}/ws/phone"
    answers = []
    async with connect(url, additional_headers=desk.phone.headers, compression=None) as socket, asyncio.timeout(20):
        await socket.send(encode(DeviceOnline()).decode())
        for call_id, audio in claims:
            claim = RecordingUpload(call_id=call_id, size=len(audio), sha256=sha256(audio))
            await socket.send(encode(claim).decode())
            told: dict[str, Any] = {"type": "WELCOME"}
            while told["type"] not in {"ACK", "ERROR"}:
                told = msgspec.json.decode(await socket.recv())
            answers.append(told["data"]["code"] if told["type"] == "ERROR" else "ACK")
    return answers


async def test_a_phone_asks_over_its_socket_whether_its_recording_is_kept(desk: Desk) -> None:
    """ACK for the very recording; NOT_FOUND where there is none, so that it is brought again; RECORDING_EXISTS for
    another, and NOT_FOUND for a call that is not the phone's."""
    recorded, empty = await desk.call(), await desk.call()
    elsewhere = await _on_another_phone(desk)
    await desk.upload(recorded)

    answers = await confirm(
        desk, (recorded, SONG), (empty, SONG), (recorded, OTHER_SONG), (elsewhere, SONG), (new_call_id(), SONG)
    )

    assert ["ACK", "NOT_FOUND", "RECORDING_EXISTS", "NOT_FOUND", "NOT_FOUND"] == answers


async def test_a_recording_that_is_being_stored_is_not_confirmed(desk: Desk) -> None:
    """UPLOAD_IN_PROGRESS by socket and by request, until it is settled."""
    call_id = await desk.call()
    upload_id = await desk.begun(call_id, SONG)
    async with desk.database.connection() as connection:
        digest = hashlib.sha256(SONG).digest()
        await recordings.hold_place(connection, desk.office.tenant_id, upload_id, len(SONG), digest, settle_after=60)

    [heard] = await confirm(desk, (call_id, SONG))
    answers = [outcome(await desk.upload(call_id)), outcome(await desk.begin(call_id, SONG))]

    assert ["UPLOAD_IN_PROGRESS"] * 3 == [heard, *answers]


async def test_no_phone_brings_more_than_a_few_files_at_a_time(opened: Opened) -> None:
    """Of more that come at once some are told to come again: one phone does not hold all the memory there is."""
    desk = await opened(upload_memory=15 * 1024**2, upload_idle=60)
    calls = [await desk.call() for _ in range(6)]

    answers = await asyncio.gather(*(desk.upload(call_id, LONG_SONG) for call_id in calls))

    assert {"UPLOAD_IN_PROGRESS"} == {outcome(answer) for answer in answers if answer.status_code != 200}


async def test_a_recording_that_has_left_is_gone(desk: Desk) -> None:
    """The phone learns that it does not come back."""
    call_id = await desk.call()
    await desk.upload(call_id)
    await become(desk, call_id, "deleted")

    assert ["RECORDING_GONE"] == await confirm(desk, (call_id, SONG))
