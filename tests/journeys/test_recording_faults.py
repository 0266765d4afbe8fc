"""What must hold of recordings, attacked: whatever dies, stalls or fills up on the way, in the end each is whole and
told once, or visibly missing, and no store keeps anything that belongs to nobody."""

import asyncio
import hashlib
import logging
import os
import random
import signal
import struct
import subprocess
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Literal

import aiohttp
import msgspec
import pytest

from clients.agent import AgentClient
from clients.api import Api, Refused
from clients.behaviour import Behaviour
from clients.phone import PhoneClient
from clients.recording import UPLOAD, UPLOADS, AudioFile, bring_whole
from protocol.messages import CallEnded, RecordingReady
from server.config import master_keys
from server.stores import Stores, open_stores
from server.verify import verification
from storage.database import open_database
from storage.embedded import Servers
from storage.recordings import BUCKET
from storage.tenant_keys import TenantKeys
from storage.vault import Vault
from tests.conftest import Bucket
from tests.journeys.house import TIMING, House, Process
from tests.journeys.test_recordings import storage
from tests.proxy import proxy_to
from tests.waiting import until

PATIENT = 45.0
"""Seconds that anything here may take to mend itself."""

SIZE = 12_000_000
"""Bytes of a recording: three parts."""

HALFWAY = b"<the middle of the recording>"

NOT_A_SECRET = "not-a-secret"

QUICK = {
    "SETTLE_AFTER": "2",
    "TIDY": "0.3",
    "S3_CONNECT_TIMEOUT": "1",
    "S3_READ_TIMEOUT": "4",
    "S3_RETRIES": "0",
    "METRICS_TOKEN": NOT_A_SECRET,
}
"""The times of recordings, shortened so that a story takes seconds."""

BEGIN = rb"POST /\S+\?uploads"
SECOND_PART = rb"PUT /\S+partNumber=2"
COMPLETE = rb"POST /\S+\?uploadId="
"""What S3 is asked."""

ADD_UPLOAD = rb"INSERT INTO recording_upload"
TAKE_BACK = rb"SELECT \* FROM recording WHERE [^;]* FOR NO KEY UPDATE"
FINISH = rb"RECORDING_READY"
MOVED = rb"\x00\x03(?s:.{4})tenant_\w+(?s:.{4})call_\w+(?s:.{4})folder:"
"""What PostgreSQL is asked: by the text of a statement that a connection has not used before, or by its arguments: of
`moved` there are three, of `moving` four."""

Form = Literal["whole", "in parts"]


# --- the stories: S3 goes away ----------------------------------------------------------------------------------------


async def test_an_upload_begun_while_s3_is_down_succeeds_when_it_is_back(
    bucket: Bucket, house: House, own_s3: Servers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """S3 is dead when the call ends: the phone is refused, tries again by itself, and brings it once S3 is there."""
    settings = _settings("s3", bucket, tmp_path)
    node = await house.node(**settings)
    await house.worker(**settings)
    agent = await house.agent(node)
    phone = await _phone(house, agent, "whole")
    audio = _audio()
    await own_s3.s3.kill()

    call_id = await _call(agent, phone, audio)
    await _attempts_failed(caplog)
    await own_s3.s3.start()

    await _assert_whole(house, agent, call_id, audio)
    await _assert_nothing_left(house, settings)


@pytest.mark.parametrize("form", ["whole", "in parts", "straight to the bucket"])
async def test_s3_killed_in_the_middle_of_an_upload_costs_an_attempt(
    form: str, bucket: Bucket, house: House, own_s3: Servers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """S3 dies by SIGKILL with one part of three arrived and comes back: the phone ends what it began."""
    async with proxy_to(bucket.endpoint_url) as line:
        settings = _settings("s3", bucket, tmp_path, S3_ENDPOINT_URL=line.url)
        if form == "straight to the bucket":
            settings["S3_PUBLIC_URL"] = line.url
        node = await house.node(**settings)
        await house.worker(**settings)
        agent = await house.agent(node)
        phone = await _phone(house, agent, "whole" if form == "whole" else "in parts")
        audio = _audio()
        second_part = line.hold(SECOND_PART)

        call_id = await _call(agent, phone, audio)
        await _within(second_part.wait())
        await own_s3.s3.kill()
        line.let_pass()
        await _attempts_failed(caplog)
        await own_s3.s3.start()

        await _assert_whole(house, agent, call_id, audio)
        await house.rows("UPDATE recording_upload SET expires_at = now()")
        await _assert_nothing_left(house, settings)


async def test_a_hybrid_house_takes_recordings_while_s3_is_down(
    bucket: Bucket, house: House, own_s3: Servers, tmp_path: Path
) -> None:
    """Without S3 a recording is taken at once and played from the spool; when S3 is back it moves there, whole, and the
    spool is empty."""
    settings = _settings("hybrid", bucket, tmp_path)
    node = await house.node(**settings)
    await house.worker(**settings)
    agent = await house.agent(node)
    phone = await _phone(house, agent, "in parts")
    audio = _audio()
    await own_s3.s3.kill()

    call_id = await _call(agent, phone, audio)
    await agent.events.wait_for(RecordingReady, call_id=call_id, timeout=PATIENT)
    from_the_spool = await agent.play(call_id)
    await _rows_until(house, "SELECT FROM recording WHERE place <> 's3' AND settle_at IS NOT NULL")  # a move was tried
    await own_s3.s3.start()
    await _rows_until(house, "SELECT FROM recording WHERE place = 's3'")
    await until(lambda: _files(tmp_path) == [], PATIENT)

    assert audio == from_the_spool
    await _assert_whole(house, agent, call_id, audio)
    await house.rows("UPDATE recording_upload SET expires_at = now()")
    await _assert_nothing_left(house, settings)


# --- nodes die --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "form", "then"),
    [
        ("s3", "whole", "another node"),
        ("s3", "in parts", "another node"),
        ("local", "whole", "another node"),
        ("local", "in parts", "the same again"),
    ],
)
async def test_a_node_killed_in_the_middle_of_an_upload_costs_an_attempt(
    kind: str, form: Form, then: str, bucket: Bucket, house: House, tmp_path: Path
) -> None:
    """A node dies by SIGKILL with half of a recording: the phone goes on elsewhere, or there when it is back. What came
    in parts is not sent twice; what came whole is, and what was left of it is swept when its time is over."""
    settings = _settings(kind, bucket, tmp_path)
    dying = await house.node(**settings)
    staying = await house.node(**settings)
    await house.worker(**settings)
    async with proxy_to(dying.origin) as line:
        house.balancer.ports = [line.port]
        agent = await house.agent(staying)
        phone = await _phone(house, agent, form)
        audio = _audio()
        halfway = line.hold(HALFWAY)

        call_id = await _call(agent, phone, audio)
        await _within(halfway.wait())
        await _rows_until(house, "SELECT FROM recording_upload")
        (begun,) = await house.rows("SELECT id FROM recording_upload")
        await _kill(dying)
        await line.cut()
    if then == "the same again":
        await dying.start()
        house.balancer.ports = [dying.port]
    else:
        house.balancer.ports = [staying.port]

    await _assert_whole(house, agent, call_id, audio)
    left = await house.rows("SELECT id FROM recording_upload")
    assert [begun] == left  # in parts: gone on with, and kept for whoever asks again; whole: what the dead node left
    await house.rows("UPDATE recording_upload SET expires_at = now()")
    await _assert_nothing_left(house, settings)


async def test_an_upload_that_only_the_store_knows_is_swept(bucket: Bucket, house: House, tmp_path: Path) -> None:
    """A node dies after the store began an upload, before a row says so: the store's upload is dropped by its age."""
    settings = _settings("s3", bucket, tmp_path)
    async with proxy_to(house.database_url) as line:
        dying = await house.node(**settings, DATABASE_URL=line.url)
        staying = await house.node(**settings)
        await house.worker(**settings | {"UPLOAD_EXPIRY": "1", "UPLOAD_TIMEOUT": "4"})
        agent = await house.agent(staying)
        phone = await _phone(house, agent, "whole")
        audio = _audio(100_000)
        began = line.hold(ADD_UPLOAD)

        call_id = await _call(agent, phone, audio)
        await _within(began.wait())
        await _kill(dying)
        async with _stores(house, settings) as stores:
            (unknown,) = [upload.upload_id async for upload in stores.at(BUCKET).open_uploads()]

    await _assert_whole(house, agent, call_id, audio)
    (row,) = await house.rows("SELECT store_upload_id FROM recording")
    assert unknown != row["store_upload_id"]
    await _assert_nothing_left(house, settings)


@pytest.mark.parametrize(("heard", "form"), [(True, "in parts"), (False, "whole")], ids=["completed", "not completed"])
async def test_a_node_killed_within_the_gate_of_s3_leaves_it_to_the_worker(
    heard: bool, form: Form, bucket: Bucket, house: House, tmp_path: Path
) -> None:
    """A node dies while it has S3 complete the object. If S3 has heard it the worker finds the object, whole, and tells
    the agent; if not it withdraws the recording, and the phone brings it again."""
    settings = _settings("s3", bucket, tmp_path)
    async with proxy_to(bucket.endpoint_url) as line:
        dying = await house.node(**settings | {"S3_ENDPOINT_URL": line.url})
        staying = await house.node(**settings)
        agent = await house.agent(staying)
        phone = await _phone(house, agent, form)
        audio = _audio()
        completing = line.hold(COMPLETE, answer=heard)

        call_id = await _call(agent, phone, audio)
        await _within(completing.wait())
        (gate,) = await house.rows("SELECT state, store_upload_id FROM recording")
        if heard:
            await _object_appears(house, settings)
        await _kill(dying)
        await line.cut()
    await house.worker(**settings)

    assert "storing" == gate["state"]
    await _assert_whole(house, agent, call_id, audio)
    (row,) = await house.rows("SELECT store_upload_id FROM recording")
    assert heard == (gate["store_upload_id"] == row["store_upload_id"])
    await house.rows("UPDATE recording_upload SET expires_at = now()")
    await _assert_nothing_left(house, settings)


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "not committed"])
async def test_a_node_killed_in_saying_that_a_recording_is_stored_has_it_told_once(
    committed: bool, bucket: Bucket, house: House, tmp_path: Path
) -> None:
    """A node dies with the object in the folder, and PostgreSQL having heard, or not, that it is stored: the agent is
    told once, by the refill of its page or after the worker found it."""
    settings = _settings("local", bucket, tmp_path)
    async with proxy_to(house.database_url) as line:
        dying = await house.node(**settings | {"DATABASE_URL": line.url})
        staying = await house.node(**settings)
        agent = await house.agent(staying)
        phone = await _phone(house, agent, "in parts")
        audio = _audio()
        finishing = line.hold(FINISH, answer=committed)

        call_id = await _call(agent, phone, audio)
        await _within(finishing.wait())
        (gate,) = await house.rows("SELECT store_upload_id FROM recording")
        if committed:
            await _rows_until(house, "SELECT FROM recording WHERE state = 'stored'")
        await _kill(dying)
        await line.cut()
    await house.worker(**settings)

    await _assert_whole(house, agent, call_id, audio)
    assert [gate] == await house.rows("SELECT store_upload_id FROM recording")
    await house.rows("UPDATE recording_upload SET expires_at = now()")
    await _assert_nothing_left(house, settings)


async def test_a_node_stopped_after_completing_goes_on_to_find_it_stored(
    bucket: Bucket, house: House, tmp_path: Path
) -> None:
    """A node stops between completing an object and saying so for longer than it may: a worker says so in its place,
    and when the node goes on it tells the phone that all is well, and the agent nothing more."""
    settings = _settings("s3", bucket, tmp_path)
    async with proxy_to(bucket.endpoint_url) as line:
        stopped = await house.node(**settings | {"S3_ENDPOINT_URL": line.url})
        staying = await house.node(**settings)
        await house.worker(**settings)
        agent = await house.agent(staying)
        phone = await _phone(house, agent, "in parts")
        audio = _audio(5_300_000)  # two parts: the larger, the longer a worker waits
        completing = line.hold(COMPLETE, answer=True)

        call_id = await _call(agent, phone, audio)
        await _within(completing.wait())
        stopped.send(signal.SIGSTOP)
        line.let_pass()
        await agent.events.wait_for(RecordingReady, call_id=call_id, timeout=PATIENT)
        stopped.send(signal.SIGCONT)
        await until(lambda: _uploads(stopped, "stored"), PATIENT)

        await _assert_whole(house, agent, call_id, audio)
        assert 1 == len(await house.rows("SELECT FROM call_event WHERE kind = 'RECORDING_STORED'"))
        await house.rows("UPDATE recording_upload SET expires_at = now()")
        await _assert_nothing_left(house, settings)


async def test_a_node_stopped_before_completing_is_too_late_when_it_goes_on(
    bucket: Bucket, house: House, tmp_path: Path
) -> None:
    """A node stops within the gate, a worker withdraws its recording, and the phone brings it to another node; when the
    first goes on, and what it asked of S3 gets there, nothing comes of it."""
    settings = _settings("s3", bucket, tmp_path)
    async with proxy_to(bucket.endpoint_url) as line:
        stopped = await house.node(**settings | {"S3_ENDPOINT_URL": line.url})
        staying = await house.node(**settings)
        await house.worker(**settings)
        agent = await house.agent(staying)
        phone = await _phone(house, agent, "whole")
        audio = _audio()
        completing = line.hold(COMPLETE)

        call_id = await _call(agent, phone, audio)
        await _within(completing.wait())
        (gate,) = await house.rows("SELECT store_upload_id FROM recording")
        stopped.send(signal.SIGSTOP)
        house.balancer.ports.reverse()
        phone.uploads.cut()
        await agent.events.wait_for(RecordingReady, call_id=call_id, timeout=PATIENT)
        line.let_pass()
        stopped.send(signal.SIGCONT)
        await until(lambda: _uploads(stopped, "UNAVAILABLE"), PATIENT)

        await _assert_whole(house, agent, call_id, audio)
        assert [gate] != await house.rows("SELECT store_upload_id FROM recording")
        await house.rows("UPDATE recording_upload SET expires_at = now()")
        await _assert_nothing_left(house, settings)


async def test_a_node_stopped_over_bad_bytes_does_not_drop_the_good_ones_that_came_since(
    bucket: Bucket, house: House, tmp_path: Path
) -> None:
    """A node that read back other bytes than were told stops before it drops them; a worker does, and the right ones
    are brought to another node. When the first goes on it leaves them alone."""
    settings = _settings("local", bucket, tmp_path)
    async with proxy_to(house.database_url) as line:
        stopped = await house.node(**settings | {"DATABASE_URL": line.url})
        staying = await house.node(**settings)
        await house.worker(**settings)
        agent = await house.agent(staying)
        phone = await house.phone(agent, Behaviour())
        good, bad = _audio(100_000, seed=1), _audio(100_000, seed=2)
        dropping = line.hold(TAKE_BACK)

        call_id = await _call(agent, phone, None)
        bringing = asyncio.create_task(_bring_in_parts(phone, stopped, call_id, bad, hashlib.sha256(good).hexdigest()))
        await _within(dropping.wait())
        stopped.send(signal.SIGSTOP)
        await until(lambda: _no_recording(house), PATIENT)
        brought = await _bring(phone, staying, call_id, good, tmp_path)
        line.let_pass()
        stopped.send(signal.SIGCONT)
        refused = await _within(bringing)

        assert "stored" == brought
        assert refused in {"CHECKSUM_MISMATCH", "UNAVAILABLE"}
        await _assert_whole(house, agent, call_id, good)
        await _assert_nothing_left(house, settings)


@pytest.mark.parametrize("at", ["copying", "moved"])
async def test_a_worker_killed_in_the_middle_of_moving_begins_again(
    at: str, bucket: Bucket, house: House, tmp_path: Path
) -> None:
    """A worker dies while it copies recordings to the bucket, or before it emptied the spool of what it has moved; when
    it is back all of them rest in the bucket, whole, and the spool is empty."""
    settings = _settings("hybrid", bucket, tmp_path)
    async with proxy_to(bucket.endpoint_url) as to_s3, proxy_to(house.database_url) as to_database:
        node = await house.node(**settings)
        agent = await house.agent(node)
        phone = await _phone(house, agent, "whole")
        recorded = {}
        for number in range(3):
            audio = _audio(seed=number)
            call_id = await _call(agent, phone, audio)
            await agent.events.wait_for(RecordingReady, call_id=call_id, timeout=PATIENT)
            recorded[call_id] = audio
        line, word, heard = (to_s3, SECOND_PART, False) if at == "copying" else (to_database, MOVED, True)
        held = line.hold(word, answer=heard)
        worker = await house.worker(
            **settings
            | {"S3_ENDPOINT_URL": to_s3.url, "DATABASE_URL": to_database.url}
            | {"UPLOAD_EXPIRY": "1", "UPLOAD_TIMEOUT": "5"}  # what it left in the bucket, only the bucket knows
        )
        await _within(held.wait())
        if at == "moved":
            await _rows_until(house, "SELECT FROM recording WHERE place = 's3'")
        spool = _files(tmp_path)
        await _kill(worker)
        await line.cut()
        line.let_pass()
        await line.open()
        await worker.start()
        await until(lambda: _files(tmp_path) == [], PATIENT)

        assert 3 == len(spool)
        for call_id, audio in recorded.items():
            await _assert_whole(house, agent, call_id, audio)
        assert [{"place": BUCKET}] * 3 == await house.rows("SELECT place FROM recording")
        await _assert_nothing_left(house, settings)


# --- disks fill, lines break, phones quarrel --------------------------------------------------------------------------


@pytest.mark.parametrize(("room", "form"), [(6, "whole"), (6, "in parts"), (18, "in parts")])
async def test_a_full_disk_refuses_a_recording_and_keeps_nothing_of_it(
    room: int, form: Form, bucket: Bucket, house: House, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the folder has no room for the parts of a recording, or for the object made of them, the phone is told
    STORAGE_FULL and nothing stays; when there is room again it brings it."""
    with _disk(tmp_path / "spool", megabytes=40) as disk:
        ballast = disk / ".ballast"
        ballast.write_bytes(bytes((40 - room) * 1024 * 1024))
        settings = _settings("local", bucket, tmp_path)
        node = await house.node(**settings)
        await house.worker(**settings)
        agent = await house.agent(node)
        phone = await _phone(house, agent, form)
        audio = _audio()

        call_id = await _call(agent, phone, audio)
        await _attempts_failed(caplog, "STORAGE_FULL")
        phone.lose_network()
        await house.rows("UPDATE recording_upload SET expires_at = now()")
        await _assert_nothing_left(house, settings)
        kept = _files(tmp_path)
        missing = (await agent.get(f"/api/v1/calls/{call_id}"))["call"]
        ballast.unlink()
        phone.come_back()

        await _assert_whole(house, agent, call_id, audio)
        assert [ballast] == kept
        assert ("awaited", True) == (missing["recording"], missing["hasRecording"])
        await house.rows("UPDATE recording_upload SET expires_at = now()")
        await _assert_nothing_left(house, settings)


@pytest.mark.parametrize("form", ["whole", "in parts"])
async def test_a_line_cut_in_the_middle_costs_an_attempt(
    form: Form, bucket: Bucket, house: House, tmp_path: Path
) -> None:
    """The line between phone and node breaks with half of a recording over: in parts the phone goes on with the upload
    that it began, whole it begins another; what was left of the first is dropped at once."""
    settings = _settings("s3", bucket, tmp_path)
    node = await house.node(**settings)
    await house.worker(**settings)
    async with proxy_to(node.origin) as line:
        house.balancer.ports = [line.port]
        agent = await house.agent(node)
        phone = await _phone(house, agent, form)
        audio = _audio()
        halfway = line.hold(HALFWAY)

        call_id = await _call(agent, phone, audio)
        await _within(halfway.wait())
        await _rows_until(house, "SELECT FROM recording_upload")
        (begun,) = await house.rows("SELECT store_upload_id FROM recording_upload")
        await line.cut()
        line.let_pass()
        await line.open()

        await _assert_whole(house, agent, call_id, audio)
        assert (form == "in parts") == ([begun] == await house.rows("SELECT store_upload_id FROM recording"))
        assert (form == "in parts") == bool(await house.rows("SELECT FROM recording_upload"))
        await house.rows("UPDATE recording_upload SET expires_at = now()")
        await _assert_nothing_left(house, settings)


async def test_an_upload_that_the_bucket_dropped_is_begun_anew(bucket: Bucket, house: House, tmp_path: Path) -> None:
    """Of an upload in parts the bucket knows nothing any more, as where a rule of its own drops old ones: the phone,
    which comes back to go on with it, begins another."""
    settings = _settings("s3", bucket, tmp_path)
    node = await house.node(**settings)
    async with proxy_to(node.origin) as line:
        house.balancer.ports = [line.port]
        agent = await house.agent(node)
        phone = await _phone(house, agent, "in parts")
        audio = _audio()
        halfway = line.hold(HALFWAY)

        call_id = await _call(agent, phone, audio)
        await _within(halfway.wait())
        async with _stores(house, settings) as stores:
            (begun,) = [upload async for upload in stores.at(BUCKET).open_uploads()]
            await stores.at(BUCKET).abort(begun.key, begun.upload_id)
        await line.cut()
        line.let_pass()
        await line.open()

        await _assert_whole(house, agent, call_id, audio)
        await _assert_nothing_left(house, settings)


async def test_of_two_recordings_of_one_call_the_one_in_the_gate_wins(
    bucket: Bucket, house: House, tmp_path: Path
) -> None:
    """While a recording is being stored another of the same call is refused as UPLOAD_IN_PROGRESS, on any node, and
    once it is stored as RECORDING_EXISTS."""
    settings = _settings("s3", bucket, tmp_path) | {"SETTLE_AFTER": "60"}
    async with proxy_to(bucket.endpoint_url) as line:
        first = await house.node(**settings | {"S3_ENDPOINT_URL": line.url})
        second = await house.node(**settings)
        agent = await house.agent(second)
        phone = await house.phone(agent, Behaviour())
        ours, theirs = _audio(seed=1), _audio(seed=2)
        completing = line.hold(COMPLETE)

        call_id = await _call(agent, phone, None)
        bringing = asyncio.create_task(_bring(phone, first, call_id, ours, tmp_path))
        await _within(completing.wait())
        meanwhile = await _bring(phone, second, call_id, theirs, tmp_path)
        line.let_pass()
        won = await _within(bringing)
        afterwards = await _bring(phone, second, call_id, theirs, tmp_path)

        assert ("stored", "UPLOAD_IN_PROGRESS", "RECORDING_EXISTS") == (won, meanwhile, afterwards)
        await _assert_whole(house, agent, call_id, ours)
        await _assert_nothing_left(house, settings)


async def test_of_recordings_of_one_call_brought_at_once_one_wins_whole(
    bucket: Bucket, house: House, tmp_path: Path
) -> None:
    """Several different files come for one call at once, to two nodes, again and again: one is kept, which is the one
    whose bearer was told so."""
    settings = _settings("s3", bucket, tmp_path) | {"SETTLE_AFTER": "60"}
    nodes = [await house.node(**settings), await house.node(**settings)]
    agent = await house.agent(nodes[0])
    phone = await house.phone(agent, Behaviour())
    files = [_audio(2_000_000, seed=number) for number in range(4)]

    for _ in range(5):
        call_id = await _call(agent, phone, None)
        results = await _within(
            asyncio.gather(
                *[_bring(phone, nodes[number % 2], call_id, audio, tmp_path) for number, audio in enumerate(files)]
            )
        )

        assert 1 == results.count("stored"), results
        assert {"stored", "UPLOAD_IN_PROGRESS", "RECORDING_EXISTS"} >= set(results)
        await _assert_whole(house, agent, call_id, files[results.index("stored")])
    await _assert_nothing_left(house, settings)


# --- all of it --------------------------------------------------------------------------------------------------------

FAULTS = 6
"""As many as there are in a storm; every phone makes a call at most for each."""


class _Storm:
    """Seeded faults, one after the other; when it is `over` all that it broke is up again."""

    def __init__(self, seed: int, house: House, own_s3: Servers, nodes: list[Process], worker: Process) -> None:
        self._dice = random.Random(seed)
        self._house = house
        self._s3 = own_s3
        self._nodes = nodes
        self._worker = worker
        self.over = False
        self.faults: Counter[str] = Counter()

    async def rage(self, phones: list[PhoneClient]) -> None:
        """Break things."""
        for _ in range(FAULTS):
            fault = self._dice.choice(["S3 killed", "node killed", "node stopped", "worker killed", "line cut"])
            match fault:
                case "S3 killed":
                    await self._s3.s3.kill()
                    await self._pause(0.2, 1.0)
                    await self._s3.s3.start()
                case "node killed":
                    await self._restart(self._dice.choice(self._nodes))
                case "node stopped":
                    node = self._dice.choice(self._nodes)
                    node.send(signal.SIGSTOP)
                    await self._pause(0.5, 3.0)
                    node.send(signal.SIGCONT)
                case "worker killed":
                    await self._restart(self._worker)
                case _:
                    self._dice.choice(phones).uploads.cut()
            self.faults[fault] += 1
            self._dice.shuffle(self._house.balancer.ports)
            await self._pause(0.1, 0.7)
        self.over = True

    async def passes(self, faults: int) -> None:
        """Wait until there were more faults than so many, or the storm is over."""
        await until(lambda: self.over or self.faults.total() > faults, PATIENT)

    async def _restart(self, process: Process) -> None:
        await _kill(process)
        await process.start()

    async def _pause(self, least: float, most: float) -> None:
        """How long something stays as it is: a length of time, not an event."""
        await asyncio.sleep(self._dice.uniform(least, most))


@pytest.mark.parametrize("kind", ["s3", "hybrid encrypted"])
async def test_in_a_storm_every_recording_is_whole_or_visibly_missing(
    kind: str, bucket: Bucket, house: House, own_s3: Servers, tmp_path: Path, record_property: Any
) -> None:
    """Recordings of all sizes are brought while S3, nodes and the worker are killed and stopped and lines are cut; when
    it is over each is whole and told once, and nothing else is in any store."""
    settings = _settings(kind, bucket, tmp_path)
    pages = await house.node(**settings)
    nodes = [await house.node(**settings), await house.node(**settings)]
    house.balancer.ports.remove(pages.port)
    worker = await house.worker(**settings | {"UPLOAD_EXPIRY": "2", "UPLOAD_TIMEOUT": "10"})
    dice = random.Random(kind)
    agents = [await house.agent(pages) for _ in range(4)]
    forms: list[Form] = ["whole", "in parts", "whole", "in parts"]
    phones = [await _phone(house, agent, form) for agent, form in zip(agents, forms, strict=True)]
    recorded: dict[str, tuple[AgentClient, bytes]] = {}
    storm = _Storm(7, house, own_s3, nodes, worker)

    async def talk(agent: AgentClient, phone: PhoneClient) -> None:
        while not storm.over:
            passed = storm.faults.total()
            audio = _audio(dice.choice([30_000, 700_000, 5 * 1024 * 1024, SIZE]) + dice.randrange(5000), dice.random())
            recorded[await _dial_in_a_storm(agent, phone, audio)] = (agent, audio)
            await _within(phone.uploads.empty.wait())
            await storm.passes(passed)

    async with asyncio.TaskGroup() as group:
        group.create_task(storm.rage(phones))
        for agent, phone in zip(agents, phones, strict=True):
            group.create_task(talk(agent, phone))
    for call_id, (agent, audio) in recorded.items():
        await _assert_whole(house, agent, call_id, audio)
    await house.rows("UPDATE recording_upload SET expires_at = now()")
    await _assert_nothing_left(house, settings)
    size = sum(len(audio) for _, audio in recorded.values())
    record_property("storm", f"{len(recorded)} recordings whole, {size} bytes, through {dict(storm.faults)}")

    assert [] == [code for phone in phones for code in phone.uploads.refused.values()]
    assert FAULTS == storm.faults.total()
    assert len(phones) <= len(recorded)


# --- what they are told with ------------------------------------------------------------------------------------------


def _settings(kind: str, bucket: Bucket, tmp_path: Path, **more: str) -> dict[str, str]:
    settings = {**storage(kind, bucket, tmp_path / "spool"), **QUICK, **more}
    settings.pop("S3_PUBLIC_URL", None)  # bytes go through the nodes, which are what is attacked
    return settings


def _audio(size: int = SIZE, seed: float = 0) -> bytes:
    """A WAV file of so many bytes: noise, HALFWAY through another word."""
    noise = random.Random(seed).randbytes(size - 44)
    middle = size * 3 // 5
    noise = noise[:middle] + HALFWAY + noise[middle + len(HALFWAY) :]
    shape = struct.pack("<IHHIIHH", 16, 1, 2, 48000, 192000, 4, 16)
    return b"".join(
        (b"RIFF", struct.pack("<I", size - 8), b"WAVEfmt ", shape, b"data", struct.pack("<I", len(noise)), noise)
    )


async def _phone(house: House, agent: AgentClient, form: Form) -> PhoneClient:
    timing = msgspec.structs.replace(TIMING, upload_whole=2**40 if form == "whole" else 1)
    return await house.phone(agent, Behaviour(recording=b""), timing=timing)


async def _call(agent: AgentClient, phone: PhoneClient, audio: bytes | None) -> str:
    """Make a call that leaves this recording on the phone, and wait for its end."""
    phone.behaviour = Behaviour(recording=audio)
    call_id = await agent.dial(customer_phone="13912345678")
    await agent.events.wait_for(CallEnded, call_id=call_id, timeout=PATIENT)
    return call_id


async def _dial_in_a_storm(agent: AgentClient, phone: PhoneClient, audio: bytes) -> str:
    """Make a call that leaves this recording, as soon as one can be made."""
    while True:
        try:
            call_id = await _call(agent, phone, audio)
        except Refused as refusal:
            if not refusal.retry:
                raise
            await _within(phone.online.wait())
            continue
        if call_id in phone.memory.calls and phone.memory.calls[call_id].recording is not None:
            return call_id


async def _bring(phone: PhoneClient, node: Process, call_id: str, audio: bytes, tmp_path: Path) -> str:
    """Bring a recording once, with the phone's credential: `stored`, or the code by which it is refused."""
    path = tmp_path / f"{hashlib.sha256(audio).hexdigest()}.wav"
    path.write_bytes(audio)
    file = await AudioFile.open(path)
    async with Api(node.origin) as api:
        try:
            answer = await bring_whole(api, UPLOAD, file, _credentials(phone), callId=call_id)
        except Refused as refusal:
            return refusal.code
    assert hashlib.sha256(audio).hexdigest() == answer["sha256"]
    return "stored"


async def _bring_in_parts(phone: PhoneClient, node: Process, call_id: str, audio: bytes, sha256: str) -> str:
    """Bring a recording of one part that is told to have this digest: `stored`, or the code by which it is refused."""
    told = {"callId": call_id, "size": len(audio), "sha256": sha256, "mediaType": "audio/wav"}
    async with Api(node.origin, timeout=PATIENT) as api:
        try:
            begun = await api.ask("POST", UPLOADS, told, headers=_credentials(phone))
            upload = f"{UPLOADS}/{begun['uploadId']}"
            headers = {**_credentials(phone), "Content-Type": "application/octet-stream"}
            await api.send("PUT", f"{upload}/parts/1", _once(audio), len(audio), headers=headers)
            await api.ask("POST", f"{upload}/complete", headers=_credentials(phone))
        except Refused as refusal:
            return refusal.code
    return "stored"


async def _once(content: bytes) -> AsyncGenerator[bytes]:
    yield content


def _credentials(phone: PhoneClient) -> dict[str, str]:
    binding = phone.memory.binding
    assert binding is not None
    return {"Authorization": f"Bearer {binding.auth_token}", "X-Device-Id": binding.handset.device_id}


async def _kill(process: Process) -> None:
    process.send(signal.SIGKILL)
    await process.ended()


async def _within(awaitable: Any) -> Any:
    async with asyncio.timeout(PATIENT):
        return await awaitable


async def _attempts_failed(caplog: pytest.LogCaptureFixture, why: str = "was not brought") -> None:
    """Wait until the phone has tried in vain twice from now on, for this reason."""
    with caplog.at_level(logging.INFO, "clients.uploads"):
        caplog.clear()
        await until(lambda: 2 <= caplog.text.count(why), PATIENT)


async def _uploads(node: Process, result: str) -> bool:
    """Whether uploads of phones ended so on this node."""
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {NOT_A_SECRET}"}) as session:
        async with session.get(f"{node.origin}/metrics") as answer:
            return f'dialdesk_uploads_total{{result="{result}",source="phone"}}' in await answer.text()


async def _rows_until(house: House, query: str) -> None:
    async def there() -> bool:
        return bool(await house.rows(query))

    await until(there, PATIENT)


def _files(tmp_path: Path) -> list[Path]:
    """What is in the spool, but for its identity."""
    walk = os.walk(tmp_path / "spool")  # which takes no harm where folders go meanwhile
    return [Path(folder) / name for folder, _, names in walk for name in names if name != ".dialdesk-folder"]


@contextmanager
def _disk(folder: Path, *, megabytes: int) -> Iterator[Path]:
    """A small disk of its own for a folder."""
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    mounted = subprocess.run(mounting, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no disk can be filled here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@asynccontextmanager
async def _stores(house: House, settings: dict[str, str]) -> AsyncIterator[Stores]:
    config = house.config(**settings)
    async with open_database(house.database_url, max_size=2) as database:
        async with open_stores(config, database, TenantKeys(Vault(master_keys(config)))) as stores:
            yield stores


async def _object_appears(house: House, settings: dict[str, str]) -> None:
    async with _stores(house, settings) as stores:

        async def there() -> bool:
            return bool([found async for found in stores.at(BUCKET).objects()])

        await until(there, PATIENT)


async def _assert_whole(house: House, agent: AgentClient, call_id: str, audio: bytes) -> None:
    """The recording is kept with these very bytes, its agent was told once, and the record says so."""
    ready = await agent.events.wait_for(RecordingReady, call_id=call_id, timeout=PATIENT)
    played = await agent.play(call_id)
    (row,) = await house.rows("SELECT state, size, sha256 FROM recording WHERE call_id = $1", call_id)
    told = await house.rows("SELECT FROM agent_event WHERE type = 'RECORDING_READY' AND data->>'callId' = $1", call_id)
    record = (await agent.get(f"/api/v1/calls/{call_id}"))["call"]

    assert audio == played
    assert ("stored", len(audio), hashlib.sha256(audio).digest()) == (row["state"], row["size"], row["sha256"])
    assert len(audio) == ready.size
    assert 1 == len(told)
    assert ("ready", len(audio)) == (record["recording"], record["recordingSize"])


async def _assert_nothing_left(house: House, settings: dict[str, str]) -> None:
    """Soon no recording is in between, no store has an open upload, and all bytes belong to recordings, all whole."""
    await until(lambda: _settled(house, settings), PATIENT)
    async with _stores(house, settings) as stores:
        for place in stores.places:

            async def no_upload(place: str = place) -> bool:
                return not [upload async for upload in stores.at(place).open_uploads()]

            await until(no_upload, PATIENT)
    async with verification(house.config(**settings), tenant_id=None, deep=True, progress=lambda _: None) as verify:
        assert [] == [found async for found in verify.run()]


async def _no_recording(house: House) -> bool:
    return not await house.rows("SELECT FROM recording")


async def _settled(house: House, settings: dict[str, str]) -> bool:
    in_between = "SELECT FROM recording WHERE state <> 'stored'"
    unmoved = (
        "SELECT FROM recording WHERE place <> 's3'" if settings["RECORDINGS"] == "hybrid" else "SELECT WHERE false"
    )
    return not await house.rows(in_between) and not await house.rows(unmoved)
