"""The command line, as an operator and a newcomer meet it: real processes."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.config import Config

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
    """A port that is free now, as is the next."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


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


@pytest.mark.parametrize("command", ["serve", "work", "migrate", "check"])
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
