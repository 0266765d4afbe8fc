"""What an upload costs: one of a large file against boto3's own of the same, and dials beside many at once."""

import asyncio
import hashlib
import json
import os
import statistics
import sys
import tempfile
import wave
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import click
import msgspec

from protocol.identifiers import new_id
from storage.database import open_database
from storage.embedded import Servers
from tests.bench.desks import Desks
from tests.bench.ground import USUAL_TIMES, begin_peak, cpu, load, open_house, peak, percentile
from tests.journeys.house import House, Process, within

MB = 1_000_000
WAV_HEADER = 44
DEADLINE = 300.0
PAIRS = 32
PHONES = [f"bench-{number}" for number in range(64)]
"""Phones that bring: each may bring a few files at a time only."""
BESIDE = 20
"""MB of each upload beside dials."""


class Carried(msgspec.Struct, frozen=True):
    """What carrier.py tells: recordings brought, seconds, and its own CPU seconds."""

    brought: int
    seconds: float
    cpu: float


class Handset(msgspec.Struct, frozen=True):
    """Whose recordings are brought, in what file, and to which node."""

    path: Path
    sha256: str
    port: int

    def task(
        self,
        calls: list[tuple[str, str]],
        *,
        at_once: int = 1,
        pace: float = 0,
        apart: float = 0,
        until_closed: bool = False,
    ) -> dict[str, Any]:
        """To bring the recordings of these calls."""
        told = {"path": str(self.path), "sha256": self.sha256, "port": self.port}
        how = {"at_once": at_once, "pace": pace * MB, "apart": apart, "until_closed": until_closed}
        return {"to": "dialdesk", "calls": calls, **how, **told}


async def measure_one(rounds: int, size: int) -> None:
    """Bring one large file through a node and by boto3 in turns; the first of each is for warming up."""
    async with AsyncExitStack() as stack:
        house, servers = await open_house(stack, s3="beside")
        node = await house.node(**USUAL_TIMES, **_bucket(servers))
        handset = await _handset(stack, house, node, size)
        before = begin_peak(node)
        ours, theirs, ratios = [], [], []
        for turn, call in enumerate(await _ended_calls(house, rounds + 1)):
            spent, stored = cpu(node.pid), cpu(servers.s3.pid)
            mine = await _carried(handset.task([call]))
            spent, stored = cpu(node.pid) - spent, cpu(servers.s3.pid) - stored
            stored_other = cpu(servers.s3.pid)
            other = await _carried(_by_boto3(servers, handset.path, f"bench/{call[0]}.wav"))
            stored_other = cpu(servers.s3.pid) - stored_other
            if turn == 0:
                continue
            ours.append(size / mine.seconds)
            theirs.append(size / other.seconds)
            ratios.append(other.seconds / mine.seconds)
            click.echo(
                f"round {turn}: server {ours[-1]:.0f} MB/s ({spent:.2f} s of CPU, S3 {stored:.2f} s, client"
                f" {mine.cpu:.2f} s), boto3 {theirs[-1]:.0f} MB/s ({other.cpu:.2f} s of CPU, S3 {stored_other:.2f} s),"
                f" ratio {ratios[-1]:.2f}; {load()}"
            )
        click.echo(
            f"{size} MB, {rounds} pairs: server {_spread(ours, 0)} MB/s, boto3 {_spread(theirs, 0)} MB/s,"
            f" ratio {_spread(ratios, 2)}; memory {before / 2**20:.0f} MiB before the first,"
            f" at most {(peak(node) - before) / 2**20:.1f} MiB more"
        )


async def measure_beside_dials(rounds: int, at_once: int, pace: float, rate: int, seconds: int) -> None:
    """Dial alone, beside uploads as phones bring them, and beside those that go as fast as the machine, in turns."""
    paces = {f"beside {at_once} uploads of {pace:g} MB/s": pace, f"beside {at_once} as fast as they go": 0.0}
    async with AsyncExitStack() as stack:
        house, servers = await open_house(stack, s3="elsewhere")
        settings = {**_bucket(servers), "TMPDIR": "/dev/shm"}  # noqa: S108 - the worker's copies are not on the disk
        desks = await Desks.open(stack, house, PAIRS, **settings)
        handset = await _handset(stack, house, desks.phones_node, BESIDE)
        before = begin_peak(desks.phones_node)
        await desks.dial(rate, 3)  # for warming up
        p99: dict[str, list[float]] = {how: [] for how in ("alone", *paces)}
        speeds: dict[str, list[float]] = {how: [] for how in paces}
        for turn in range(1, rounds + 1):
            dials = await desks.dial(rate, seconds)
            p99["alone"].append(percentile(dials.took, 99))
            click.echo(f"round {turn}, alone: {dials}; {load()}")
            for how, each in paces.items():
                calls = await _ended_calls(house, 20 * seconds + at_once)
                ramp = BESIDE / each if each else 0  # phones do not all begin at once
                task = handset.task(calls, at_once=at_once, pace=each, apart=ramp / at_once, until_closed=True)
                async with _carrying(task) as carried:
                    await asyncio.sleep(ramp)
                    dials = await desks.dial(rate, seconds)
                await within(_all_read(house), DEADLINE)
                p99[how].append(percentile(dials.took, 99))
                speeds[how].append(carried().brought * BESIDE / carried().seconds)
                click.echo(
                    f"round {turn}, {how}: {dials}; {carried().brought} uploads, {speeds[how][-1]:.0f} MB/s; {load()}"
                )
        click.echo(f"dial -> phone, {rate}/s, {rounds} rounds of {seconds} s, {desks.doubled} doubled:")
        for how, each_p99 in p99.items():
            at = f", at {_spread(speeds[how], 0)} MB/s" if how in speeds else ""
            click.echo(f"  {how}: p99 {_spread(each_p99, 1)} ms{at}")
        click.echo(
            f"  memory of the node of phones and uploads: at most {(peak(desks.phones_node) - before) >> 20} MiB more"
        )


def _bucket(servers: Servers) -> dict[str, str]:
    return {
        "RECORDINGS": "s3",
        "S3_ENDPOINT_URL": servers.s3_endpoint_url,
        "S3_BUCKET": servers.s3_bucket,
        "S3_ACCESS_KEY": servers.s3_access_key,
        "S3_SECRET_KEY": servers.s3_secret_key,
    }


def _by_boto3(servers: Servers, path: Path, key: str) -> dict[str, Any]:
    client = {
        "endpoint_url": servers.s3_endpoint_url,
        "region_name": servers.s3_region,
        "aws_access_key_id": servers.s3_access_key,
        "aws_secret_access_key": servers.s3_secret_key,
    }
    about = {"path": str(path), "bucket": servers.s3_bucket, "key": key, "media_type": "audio/wav"}
    return {"to": "boto3", "client": client, **about}


async def _handset(stack: AsyncExitStack, house: House, node: Process, size: int) -> Handset:
    """PHONES, by rows, that made all `_ended_calls`, and a recording of so many MB: noise, as a WAV file, of which
    neither the S3 server nor the worker, who reads it, makes much ado."""
    path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dialdesk-bench-"))) / "recording.wav"
    with wave.open(str(path), "wb") as audio:
        audio.setparams((1, 2, 8000, 0, "NONE", ""))
        audio.writeframes(os.urandom(size * MB - WAV_HEADER))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    user_id = (await (await house.agent(node)).get("/api/v1/me"))["user"]["id"]
    await house.rows(
        "INSERT INTO device (id, tenant_id, hardware_id, user_id, phone_number, name, model, os_type, os_version,"
        " app_version, token_hash) SELECT one, $1, 'hw-' || one, $2, '', '', '', 'android', '', '',"
        " sha256(convert_to('ddp_' || one, 'UTF8')) FROM unnest($3::text[]) one",
        house.tenant_id,
        user_id,
        PHONES,
    )
    return Handset(path, digest, node.port)


async def _ended_calls(house: House, count: int) -> list[tuple[str, str]]:
    """Calls that wait for their recordings, each with its phone, by rows: calling is not what is measured here."""
    calls = [(new_id("call"), PHONES[number % len(PHONES)]) for number in range(count)]
    async with open_database(house.database_url) as database, database.connection() as connection:
        await connection.execute(
            "INSERT INTO call (id, tenant_id, user_id, created_by, device_id, call_method, customer_phone, status,"
            " outcome, ended_at) SELECT one, tenant_id, user_id, user_id, id, 'mobile', '13912345678', 'ended',"
            " 'connected', now() FROM unnest($1::text[], $2::text[]) calls (one, phone) JOIN device ON id = phone",
            [call_id for call_id, _ in calls],
            [phone for _, phone in calls],
        )
    return calls


async def _all_read(house: House) -> None:
    """Wait until the worker has heard all that was brought, so that the next stretch is not beside that."""
    while await house.rows("SELECT 1 FROM recording WHERE state = 'storing' OR next_read_at IS NOT NULL LIMIT 1"):
        await asyncio.sleep(0.5)


async def _carried(task: dict[str, Any]) -> Carried:
    async with _carrying(task) as carried:
        pass
    return carried()


@asynccontextmanager
async def _carrying(task: dict[str, Any]) -> AsyncIterator[Callable[[], Carried]]:
    """Run carrier.py beside the block; what is given tells, after the block, how it went."""
    told: list[Carried] = []
    pipe = asyncio.subprocess.PIPE
    program = Path(__file__).with_name("carrier.py")
    carrier = await asyncio.create_subprocess_exec(sys.executable, str(program), stdin=pipe, stdout=pipe)
    assert carrier.stdin is not None
    assert carrier.stdout is not None
    try:
        carrier.stdin.write(json.dumps(task).encode() + b"\n")
        assert await asyncio.wait_for(carrier.stdout.readline(), DEADLINE) == b"ready\n"
        yield lambda: told[0]
        carrier.stdin.close()
        said = await asyncio.wait_for(carrier.stdout.read(), DEADLINE)
        told.append(msgspec.json.decode(said, type=Carried))
    finally:
        if carrier.returncode is None:
            carrier.kill()
        await carrier.wait()


def _spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"
