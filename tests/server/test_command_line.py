"""The command line, as an operator and a newcomer meet it: real processes."""

import asyncio
import base64
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from redis.asyncio import Redis

from server.config import Config
from storage.database import Database
from storage.vault import key_id
from tests.conftest import Bucket
from tests.server.record_room import RecordRoom, kept_in, record_room
from tests.storage.stores import keep

ROOT = Path(__file__).parents[2]
DEADLINE = 100.0


async def run(*arguments: str, environ: dict[str, str] | None = None) -> tuple[int, str]:
    """Run `python -m server …` to its end: (exit code, what it printed)."""
    process = await start(*arguments, environ=environ)
    async with asyncio.timeout(DEADLINE):
        told, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, told.decode()


async def start(*arguments: str, environ: dict[str, str] | None = None) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "server",
        *arguments,
        env={
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "PYTHONPATH": str(ROOT),
            **{name: value for name, value in os.environ.items() if name.startswith("COV")},
            **(environ or {}),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


def two_free_ports() -> int:
    """A port that is free now, as is the next; below those that the system gives to clients, who come and go."""
    for port in random.sample(range(20_000, 32_000, 2), 1000):
        with socket.socket() as first, socket.socket() as second, suppress(OSError):
            first.bind(("127.0.0.1", port))
            second.bind(("127.0.0.1", port + 1))
            return port
    raise AssertionError("no port is free")


async def lines(process: asyncio.subprocess.Process) -> AsyncIterator[str]:
    assert process.stdout is not None
    while line := await process.stdout.readline():
        yield line.decode().rstrip()


def environ_of(config: Config) -> dict[str, str]:
    return {
        "DATABASE_URL": config.database_url,
        "REDIS_URL": config.redis_url,
        "SECRET_KEY": config.secret_key,
        "MASTER_KEYS": config.master_keys,
        "LOG_LEVEL": "error",
    }


async def test_dev_shows_a_call_stops_clean_and_starts_again_on_the_same_data(tmp_path: Path) -> None:
    """`dialdesk dev` starts all on one machine, a simulated phone takes a call, Ctrl-C ends it with code 0; a second
    start on the same data shows another call on the same binding."""
    stories = []
    port = two_free_ports()
    for _ in range(2):
        process = await start("dev", "--data", str(tmp_path / "data"), "--port", str(port), "--web", "2")
        told = []
        async with asyncio.timeout(DEADLINE):
            async for line in lines(process):
                told.append(line)
                if "the phone stays online" in line:
                    process.send_signal(signal.SIGINT)
            code = await process.wait()
        stories.append((code, told))

    for code, told in stories:
        assert 0 == code, told
        assert 2 == sum(line.startswith("ready http://127.0.0.1:") for line in told)
        assert any("CALL_ENDED  connected" in line for line in told)
        assert "stopping" == told[-1]
    assert any("scanned it and is bound" in line for line in stories[0][1])
    assert any("bound already" in line for line in stories[1][1])


async def test_check_finds_everything_well(config: Config) -> None:
    """With all in place `check` says so, line by line, and exits 0."""
    code, told = await run("check", environ=environ_of(config))

    assert 0 == code
    assert ["ok"] * 5 == [line.split()[0] for line in told.splitlines()]


async def test_check_names_what_does_not_answer(config: Config) -> None:
    """Where Redis and PostgreSQL are away `check` says which, and exits 1."""
    away = {**environ_of(config), "REDIS_URL": "redis://127.0.0.1:1/0", "DATABASE_URL": "postgres://x@127.0.0.1:1/x"}

    code, told = await run("check", environ=away)

    assert 1 == code
    assert ["FAIL", "FAIL", "FAIL", "ok", "ok"] == [line.split()[0] for line in told.splitlines()]


@pytest.mark.parametrize("command", ["serve", "work", "migrate", "check", "reseal"])
async def test_a_wrong_environment_is_told_in_a_line(command: str) -> None:
    """Without its variables a command says which are missing, without a traceback, and exits 1."""
    code, told = await run(command)

    assert 1 == code
    assert "DATABASE_URL is not set" in told
    assert "Traceback" not in told


async def test_migrate_says_that_nothing_is_missing(config: Config) -> None:
    """On a database that is up to date `migrate` changes nothing and exits 0."""
    code, _ = await run("migrate", environ=environ_of(config))

    assert 0 == code


async def test_people_by_the_command_line(config: Config) -> None:
    """An operator adds a user in a new tenant, resets its password, mints it a token and disables it; a name that is
    not there is told in a line."""
    environ = environ_of(config)
    told = [
        await run("user", "add", "li", "--tenant", "acme", environ=environ),
        await run("user", "add", "li", "--tenant", "acme", environ=environ),
        await run("user", "reset-password", "li", environ=environ),
        await run("token", "access", "li", environ=environ),
        await run("user", "disable", "li", environ=environ),
        await run("user", "disable", "nobody", environ=environ),
    ]

    assert [0, 1, 0, 0, 0, 1] == [code for code, _ in told]
    assert "exists already" in told[1][1]
    assert 2 == told[3][1].count(".")
    assert "li is disabled" in told[4][1]
    assert "nobody does not exist" in told[5][1]


async def test_keys_are_made() -> None:
    """`token key` makes a value that MASTER_KEYS takes."""
    code, told = await run("token", "key", "k7")

    assert 0 == code
    assert told.startswith("k7:")


# --- recordings -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def room(
    database: Database, redis: Redis, configure: Callable[..., Config], s3: Bucket, tmp_path: Path
) -> AsyncIterator[RecordRoom]:
    """Recordings in a folder, encrypted."""
    async with record_room(database, redis, configure(**kept_in("local encrypted", s3, tmp_path / "folder"))) as opened:
        yield opened


async def verified(room: RecordRoom, *arguments: str) -> tuple[int, list[str], str]:
    """What `recordings verify` comes to: (exit code, what was found, the last line)."""
    config = room.config
    settings = {"RECORDINGS": config.recordings, "RECORDINGS_FOLDER": str(config.recordings_folder)}
    code, told = await run("recordings", "verify", *arguments, environ={**environ_of(config), **settings})
    *lines, last = told.splitlines()
    return code, sorted(lines), last


async def test_verify_finds_nothing_where_all_is_well(room: RecordRoom) -> None:
    """It says how much it compared, rows and objects, and exits 0."""
    for _ in range(2):
        await room.stored()

    assert (0, [], "4 compared, 0 not as they should be") == await verified(room, "--deep")


async def test_verify_tells_what_is_not_as_it_should_be(room: RecordRoom) -> None:
    """A line for each, and exit code 1; what was tampered with shows with --deep, and another tenant's by its own."""
    missing, damaged = await room.stored(), await room.stored()
    store = room.stores.at(missing.place)
    await store.delete(missing.object_key)
    await room.tamper(damaged)
    await room.execute("INSERT INTO tenant (id, code, name) VALUES ('ten_other', 'other', 'Other')")
    await keep(store, "ten_other/lost.mp3", b"lost")
    reason = f"chunk 0 is not what was sealed for {damaged.call_id}"
    lines = [
        f"damaged     {damaged.place} {damaged.object_key} {damaged.call_id} {reason}",
        f"missing     {missing.place} {missing.object_key} {missing.call_id}",
        f"orphan      {missing.place} ten_other/lost.mp3 - 4 bytes",
    ]

    assert (1, lines[1:], "4 compared, 2 not as they should be") == await verified(room)
    assert (1, lines, "4 compared, 3 not as they should be") == await verified(room, "--deep")
    assert (1, lines[2:], "1 compared, 1 not as they should be") == await verified(room, "--tenant", "ten_other")


async def test_verify_refuses_a_tenant_that_is_not_there(room: RecordRoom) -> None:
    """In a line, and with exit code 1: nothing was compared."""
    assert (1, [], "dialdesk: tenant tenant_typo does not exist, or you may not see it") == await verified(
        room, "--tenant", "tenant_typo"
    )


async def test_a_folder_that_cannot_be_opened_is_told_in_a_line(config: Config, tmp_path: Path) -> None:
    """By whichever command needs it, and without a traceback."""
    (tmp_path / "file").touch()
    environ = {**environ_of(config), "RECORDINGS": "local", "RECORDINGS_FOLDER": str(tmp_path / "file" / "folder")}
    code, told = await run("recordings", "verify", environ=environ)

    assert 1 == code
    assert told.startswith("dialdesk: ")
    assert "Traceback" not in told


async def test_reseal_seals_everything_under_the_first_key(room: RecordRoom) -> None:
    """Once; and what was recorded under the old key is heard under the new one alone."""
    recording = await room.stored()
    new = "new:" + base64.b64encode(bytes(range(32))).decode()
    environ = environ_of(room.config)
    first = await run("reseal", environ={**environ, "MASTER_KEYS": f"{new},{environ['MASTER_KEYS']}"})
    under = key_id(await room.value("SELECT sealed FROM tenant_key"))
    second = await run("reseal", environ={**environ, "MASTER_KEYS": new})

    assert (0, ["keys of tenants 1 sealed anew", "push tokens     0 sealed anew", "recording URLs  0 sealed anew"]) == (
        first[0],
        first[1].splitlines(),
    )
    assert "new" == under
    assert (0, "keys of tenants 0 sealed anew") == (second[0], second[1].splitlines()[0])
    assert recording.key_id == 1


async def test_reseal_names_what_it_cannot_open(room: RecordRoom) -> None:
    """It exits 1, so that nobody drops the key that is missing."""
    recording = await room.stored()
    new = "new:" + base64.b64encode(bytes(range(32))).decode()
    code, told = await run("reseal", environ={**environ_of(room.config), "MASTER_KEYS": new})

    assert 1 == code
    assert (
        f"not opened      tenant/{recording.tenant_id}/key/1: sealed under the key 'test', which is not held here"
        == told.splitlines()[-1]
    )
